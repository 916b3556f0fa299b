// adapter.h: folders written and read back, what PEFT's files say and what of it is refused, tensors that do not fit.
#include "../../trainer/adapter.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../trainer/file.h"
#include "../../trainer/json.h"
#include "../../trainer/safetensors.h"
#include "expect.h"

enum { R = 2, WIDTH = 8, NARROW = 4 };

static const struct adapter_config small = {
    .r = R, .alpha = 16, .dropout = 0.1, .modules = 1 << ADAPTER_Q_PROJ | 1 << ADAPTER_DOWN_PROJ, .base_model = "base"};
static const struct adapter_recipe plain = {
    .method = "lora-input-dropout",
    .alpha = 16.5,
    .seed = 7,
    .dropouts = {.count = 2,
                 .list = {{.position = DROPOUT_LORA_INPUT, .compensation = DROPOUT_INVERTED, .p = 0.1},
                          {.position = DROPOUT_ATTN_WEIGHT,
                           .pattern = LOD_PATTERN_COLUMN,
                           .compensation = DROPOUT_RENORMALISE_NOGRAD,
                           .p = 1.0 / 3,
                           .layers = {.extent = LAYERS_SOME, .first = 2, .last = 11},
                           .per_kv_head = true}}},
    .consistency = {CONSISTENCY_JS, 0.3}};

// Matrices of q_proj in layer 0 and down_proj in layer 1.
struct matrices {
    float qa[R * WIDTH], qb[R * WIDTH], da[R * NARROW], db[R * WIDTH];
};

static void list_modules(struct matrices *m, struct adapter_tensors list[2]) {
    list[0] = (struct adapter_tensors){
        .layer = 0, .module = ADAPTER_Q_PROJ, .n_in = WIDTH, .n_out = WIDTH, .mean = 1, .a = m->qa, .bt = m->qb};
    list[1] = (struct adapter_tensors){
        .layer = 1, .module = ADAPTER_DOWN_PROJ, .n_in = NARROW, .n_out = WIDTH, .mean = 1, .a = m->da, .bt = m->db};
}

static void number_matrices(struct matrices *m) {
    float *values = (float *)m;
    for (size_t i = 0; i < sizeof *m / sizeof(float); i++) {
        values[i] = (float)i + 0.25f;
    }
}

static void module_lists(void) {
    unsigned set;
    fault f = {0};
    CHECK(adapter_modules_parse("q_proj,v_proj", &set, "p", "--m", &f) &&
          set == (1 << ADAPTER_Q_PROJ | 1 << ADAPTER_V_PROJ));
    CHECK(adapter_modules_parse("down_proj", &set, "p", "--m", &f) && set == 1 << ADAPTER_DOWN_PROJ);
    CHECK(adapter_modules_parse("all-linear", &set, "p", "--m", &f) && set == ADAPTER_ALL_MODULES);
    REFUSED(adapter_modules_parse("q_proj,w_proj", &set, "p", "--m", &f), &f, FAULT_INPUT, "p: --m: ",
            "unknown module \"w_proj\"");
    REFUSED(adapter_modules_parse("q_proj,", &set, "p", "--m", &f), &f, FAULT_INPUT, "p: --m: ", "unknown module \"\"");
    REFUSED(adapter_modules_parse("", &set, "p", "--m", &f), &f, FAULT_INPUT, "p: --m: ", "unknown module \"\"");
    REFUSED(adapter_modules_parse("q_pro", &set, "p", "--m", &f), &f, FAULT_INPUT, "p: --m: ",
            "unknown module \"q_pro\"");
    CHECK(strcmp(adapter_module_name(ADAPTER_GATE_PROJ), "gate_proj") == 0);
}

static void round_trip(void) {
    struct matrices written, back = {.qa = {0}};
    struct adapter_tensors list[2];
    fault f = {0};
    number_matrices(&written);
    list_modules(&written, list);
    CHECK(adapter_write(temporary("adapter/deep"), &small, &plain, list, 2, &f));

    struct adapter_config config;
    CHECK(adapter_read_config(&config, temporary("adapter/deep"), &f));
    CHECK(config.r == R && config.alpha == 16 && config.dropout == 0.1 && !config.rslora);
    CHECK(config.modules == small.modules && strcmp(config.base_model, "base") == 0);

    struct adapter_recipe recipe;
    bool there = false;
    CHECK(adapter_read_recipe(&recipe, &there, temporary("adapter/deep"), &f) && there);
    CHECK(strcmp(recipe.method, plain.method) == 0 && recipe.alpha == 16.5 && recipe.seed == 7 &&
          recipe.dropouts.count == 2);
    CHECK(recipe.consistency.kind == CONSISTENCY_JS && recipe.consistency.weight == 0.3 && recipe.instances == 1);
    for (size_t i = 0; i < 2; i++) {
        const struct dropout *got = &recipe.dropouts.list[i], *want = &plain.dropouts.list[i];
        CHECK(got->position == want->position && got->pattern == want->pattern && got->p == want->p &&
              got->compensation == want->compensation && got->layers.extent == want->layers.extent);
        CHECK(got->layers.first == want->layers.first && got->layers.last == want->layers.last);
        CHECK(got->per_kv_head == want->per_kv_head);
    }

    list_modules(&back, list);
    CHECK(adapter_read_tensors(temporary("adapter/deep"), R, list, 2, &f));
    CHECK(memcmp(&back, &written, sizeof back) == 0);
}

// lora_alpha in the file carries what masks leave of it on average; lodrop.json has it as it was trained.
static void expected_masks(void) {
    struct matrices m = {.qa = {0}};
    struct adapter_tensors list[2];
    struct adapter_config own = small, config;
    struct adapter_recipe recipe = plain, read;
    fault f = {0};
    recipe.alpha = own.alpha = 16, recipe.instances = 5;
    own.layers = (struct layers){.extent = LAYERS_SOME, .first = 0, .last = 1};
    list_modules(&m, list);
    list[0].mean = list[1].mean = 0.25;
    CHECK(adapter_write(temporary("mean"), &own, &recipe, list, 2, &f));
    CHECK(adapter_read_config(&config, temporary("mean"), &f) && config.alpha == 4 && !config.alpha_pattern);
    CHECK(config.layers.extent == LAYERS_SOME && config.layers.first == 0 && config.layers.last == 1);
    CHECK(adapter_read(&config, &read, temporary("mean"), &f) && config.alpha == 16 && read.instances == 5);
    list[1].mean = 0.5;
    CHECK(adapter_write(temporary("means"), &own, &recipe, list, 2, &f));
    CHECK(adapter_read_config(&config, temporary("means"), &f) && config.alpha == 16 && config.alpha_pattern);
    CHECK(adapter_read(&config, &read, temporary("means"), &f) && config.alpha == 16);
    CHECK(remove(temporary("means/lodrop.json")) == 0);
    REFUSED(adapter_read(&config, &read, temporary("means"), &f), &f, FAULT_INPUT, "means: alpha_pattern",
            "not supported");
    CHECK(remove(temporary("mean/lodrop.json")) == 0);
    CHECK(adapter_read(&config, &read, temporary("mean"), &f) && config.alpha == 4 && read.dropouts.count == 0);
}

static void seeds_of_64_bits(void) {
    struct adapter_recipe recipe = plain;
    fault f = {0};
    recipe.seed = (uint64_t)1 << 63;
    REFUSED(adapter_write(temporary("seed"), &small, &recipe, NULL, 0, &f), &f, FAULT_INPUT, "lodrop.json: seed",
            "must be below 2^63");
}

static void as_peft_names_them(void) {
    struct safetensors *s;
    const struct tensor_view *view = NULL;
    struct matrices m;
    float b[WIDTH * R];
    fault f = {0};
    number_matrices(&m);
    CHECK(safetensors_open(&s, temporary("adapter/deep/adapter_model.safetensors"), &f) && safetensors_count(s) == 4);
    CHECK(safetensors_weight(s, "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", 2,
                             (size_t[]){R, WIDTH}, &view, &f));
    CHECK(safetensors_weight(s, "base_model.model.model.layers.1.mlp.down_proj.lora_A.weight", 2, (size_t[]){R, NARROW},
                             &view, &f));
    CHECK(safetensors_weight(s, "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight", 2, (size_t[]){WIDTH, R},
                             &view, &f));
    tensor_widen(view, 0, WIDTH * R, b);
    for (size_t c = 0; c < WIDTH; c++) {
        for (size_t k = 0; k < R; k++) {
            CHECK(b[c * R + k] == m.db[k * WIDTH + c]);
        }
    }
    safetensors_close(s);
}

static void same_run_same_files(void) {
    static const char *const names[] = {"adapter_config.json", "adapter_model.safetensors", "lodrop.json"};
    struct matrices m;
    struct adapter_tensors list[2], turned[2];
    fault f = {0};
    number_matrices(&m);
    list_modules(&m, list);
    turned[0] = list[1];
    turned[1] = list[0];
    CHECK(adapter_write(temporary("one"), &small, &plain, list, 2, &f));
    CHECK(adapter_write(temporary("two"), &small, &plain, turned, 2, &f));
    for (size_t i = 0; i < 3; i++) {
        char one[64], two[64];
        struct mapped_file l, r;
        snprintf(one, sizeof one, "one/%s", names[i]);
        snprintf(two, sizeof two, "two/%s", names[i]);
        CHECK(file_map(&l, temporary(one), &f) && file_map(&r, temporary(two), &f));
        CHECK(l.size == r.size && memcmp(l.data, r.data, l.size) == 0);
        file_unmap(&l);
        file_unmap(&r);
    }
}

static void tensors_that_do_not_fit(void) {
    struct matrices m = {.qa = {0}};
    struct adapter_tensors list[2];
    const char *folder = "one";
    fault f = {0};
    list_modules(&m, list);
    REFUSED(adapter_read_tensors(temporary(folder), R, list, 1, &f), &f, FAULT_INPUT,
            "adapter_model.safetensors: base_model.model.model.layers.1.mlp.down_proj.lora_A.weight",
            "belongs to no module");
    REFUSED(adapter_read_tensors(temporary(folder), R + 1, list, 2, &f), &f, FAULT_INPUT,
            "layers.0.self_attn.q_proj.lora_A.weight", "shape is [2, 8], must be [3, 8]");
    REFUSED(adapter_read_tensors(temporary(folder), 0, list, 2, &f), &f, FAULT_INPUT, "r", "is 0");
    list[1].layer = 2;
    REFUSED(adapter_read_tensors(temporary(folder), R, list, 2, &f), &f, FAULT_INPUT,
            "layers.2.mlp.down_proj.lora_A.weight", "missing");
    list[1].layer = 1;
    list[1].n_out = 9;
    REFUSED(adapter_read_tensors(temporary(folder), R, list, 2, &f), &f, FAULT_INPUT,
            "layers.1.mlp.down_proj.lora_B.weight", "shape is [8, 2], must be [9, 2]");
    REFUSED(adapter_read_tensors(temporary("nowhere"), R, list, 2, &f), &f, FAULT_INPUT,
            "nowhere/adapter_model.safetensors", "No such file");
}

// A config as PEFT writes it, with the fields of `changes` set over it.
static bool parse(struct adapter_config *config, const char *changes, fault *f) {
    static const char peft[] =
        "{\"alora_invocation_tokens\": null, \"alpha_pattern\": {}, \"auto_mapping\": null,"
        " \"base_model_name_or_path\": null, \"bias\": \"none\", \"exclude_modules\": null, \"fan_in_fan_out\": false,"
        " \"inference_mode\": true, \"init_lora_weights\": true, \"layers_to_transform\": null, \"loftq_config\": {},"
        " \"lora_alpha\": 8, \"lora_bias\": false, \"lora_dropout\": 0.1, \"megatron_core\": \"megatron.core\","
        " \"modules_to_save\": null, \"peft_type\": \"LORA\", \"peft_version\": \"0.21.2\", \"qalora_group_size\": 16,"
        " \"r\": 4, \"rank_pattern\": {}, \"target_modules\": [\"v_proj\", \"q_proj\"], \"task_type\": \"CAUSAL_LM\","
        " \"use_dora\": false, \"use_rslora\": false}";
    json_t *root = json_loads(peft, 0, NULL), *over = json_loads(changes, 0, NULL);
    CHECK(root && over);
    json_object_update(root, over);
    char *text = json_dumps(root, 0);
    bool done = adapter_parse_config(config, text, strlen(text), "adapter_config.json", f);
    free(text);
    json_decref(root);
    json_decref(over);
    return done;
}

static void configs_of_peft(void) {
    struct adapter_config c;
    fault f = {0};
    CHECK(parse(&c, "{}", &f) && c.r == 4 && c.alpha == 8 && c.dropout == 0.1 && !c.rslora && !*c.base_model);
    CHECK(c.modules == (1 << ADAPTER_Q_PROJ | 1 << ADAPTER_V_PROJ));
    CHECK(parse(&c, "{\"target_modules\": \"all-linear\", \"use_rslora\": true, \"lora_alpha\": 4.5}", &f));
    CHECK(c.modules == ADAPTER_ALL_MODULES && c.rslora && c.alpha == 4.5);
    CHECK(parse(&c, "{\"init_lora_weights\": \"gaussian\", \"task_type\": null}", &f));
    CHECK(c.layers.extent == LAYERS_ALL && !c.alpha_pattern);
    CHECK(parse(&c, "{\"layers_to_transform\": [3, 4, 5], \"alpha_pattern\": {\"q_proj\": 2}}", &f));
    CHECK(c.layers.extent == LAYERS_SOME && c.layers.first == 3 && c.layers.last == 5 && c.alpha_pattern);
    CHECK(parse(&c, "{\"layers_to_transform\": 7}", &f) && c.layers.first == 7 && c.layers.last == 7);
}

static void refuse(const char *changes, const char *field, const char *reason) {
    struct adapter_config c;
    fault f = {0};
    bool done = parse(&c, changes, &f);
    REFUSED(done, &f, FAULT_INPUT, field, reason);
    CHECK(strncmp(f.text, "adapter_config.json: ", 21) == 0);
}

static void refused_configs(void) {
    refuse("{\"r\": 0}", "r: ", "is 0, must be 1");
    refuse("{\"r\": null}", "r: ", "missing");
    refuse("{\"r\": 4097}", "r: ", "is 4097");
    refuse("{\"r\": 4.0}", "r: ", "must be an integer");
    refuse("{\"target_modules\": [\"q_proj\", \"c_attn\"]}", "target_modules: ", "unknown module \"c_attn\"");
    refuse("{\"target_modules\": [\"q_proj\", 1]}", "target_modules: ", "list of strings");
    refuse("{\"target_modules\": []}", "target_modules: ", "names no module");
    refuse("{\"target_modules\": null}", "target_modules: ", "missing");
    refuse("{\"target_modules\": \".*q_proj\"}", "target_modules: ", "pattern \".*q_proj\" is not supported");
    refuse("{\"lora_dropout\": 1}", "lora_dropout: ", "must be below 1");
    refuse("{\"lora_dropout\": -0.1}", "lora_dropout: ", "is -0.1");
    refuse("{\"lora_alpha\": \"8\"}", "lora_alpha: ", "must be a number");
    refuse("{\"bias\": \"all\"}", "bias: ", "\"all\" is not supported");
    refuse("{\"peft_type\": \"IA3\"}", "peft_type: ", "\"IA3\" is not supported");
    refuse("{\"peft_type\": null}", "peft_type: ", "missing");
    refuse("{\"task_type\": \"SEQ_CLS\"}", "task_type: ", "\"SEQ_CLS\" is not supported");
    refuse("{\"use_dora\": true}", "use_dora: ", "not supported");
    refuse("{\"lora_bias\": true}", "lora_bias: ", "not supported");
    refuse("{\"fan_in_fan_out\": true}", "fan_in_fan_out: ", "not supported");
    refuse("{\"modules_to_save\": [\"lm_head\"]}", "modules_to_save: ", "not supported");
    refuse("{\"rank_pattern\": {\"q_proj\": 2}}", "rank_pattern: ", "not supported");
    refuse("{\"layers_to_transform\": [0, 2]}", "layers_to_transform: ", "without gaps");
    refuse("{\"layers_to_transform\": [1, 0]}", "layers_to_transform: ", "ascending order");
    refuse("{\"layers_to_transform\": [\"1\"]}", "layers_to_transform: ", "must be a list of layers");
    refuse("{\"layers_to_transform\": true}", "layers_to_transform: ", "must be a list of layers");
    refuse("{\"layers_to_transform\": -1}", "layers_to_transform: ", "must be a list of layers");
    refuse("{\"layers_to_transform\": [1024]}", "layers_to_transform: ", "must be a list of layers");
    refuse("{\"layers_pattern\": \"h\"}", "layers_pattern: ", "not supported");
    refuse("{\"something_of_tomorrow\": 3}", "something_of_tomorrow: ", "not supported");
    refuse("{\"init_lora_weights\": \"pissa\"}", "init_lora_weights: ", "\"pissa\" is not supported");
    refuse("{\"use_rslora\": 1}", "use_rslora: ", "true or false");
}

static void recipes(void) {
    struct adapter_recipe r;
    bool there = true;
    fault f = {0};
    CHECK(file_make_folders(temporary("foreign"), &f));
    CHECK(adapter_read_recipe(&r, &there, temporary("foreign"), &f) && !there);
    write_text("foreign/lodrop.json", "{\"format\": 2}");
    REFUSED(adapter_read_recipe(&r, &there, temporary("foreign"), &f), &f, FAULT_INPUT, "lodrop.json: format", "is 2");
    write_text("foreign/lodrop.json",
               "{\"format\": 1, \"method\": \"x\", \"lora_alpha\": 1, \"seed\": 0, \"dropouts\": [{}]}");
    REFUSED(adapter_read_recipe(&r, &there, temporary("foreign"), &f), &f, FAULT_INPUT,
            "lodrop.json: dropouts.position", "missing");
    write_text("foreign/lodrop.json",
               "{\"format\": 1, \"method\": \"a name that is too long to be that of a method\", \"lora_alpha\": 1}");
    REFUSED(adapter_read_recipe(&r, &there, temporary("foreign"), &f), &f, FAULT_INPUT, "lodrop.json: method",
            "longer than 31");
    write_text("foreign/lodrop.json", "{\"format\": 1,");
    REFUSED(adapter_read_recipe(&r, &there, temporary("foreign"), &f), &f, FAULT_INPUT, "lodrop.json: column",
            "not valid JSON");
}

int main(void) {
    module_lists();
    round_trip();
    expected_masks();
    seeds_of_64_bits();
    as_peft_names_them();
    same_run_same_files();
    tensors_that_do_not_fit();
    configs_of_peft();
    refused_configs();
    recipes();
    return check_end();
}
