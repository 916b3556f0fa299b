#include "adapter.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"
#include "file.h"
#include "json.h"
#include "safetensors.h"

#define CONFIG_FILE "adapter_config.json"
#define TENSOR_FILE "adapter_model.safetensors"
#define RECIPE_FILE "lodrop.json"
#define FRESH ".new"

enum { RECIPE_FORMAT = 1, NAME_BYTES = 128 };

static const double MAX_ALPHA = 1e9;
static const char ADALORA[] = "adalora";

// Fields that may hold anything: they say where an adapter comes from, or belong to what is refused when it is on.
static bool is_harmless(const char *field) {
    static const char *const harmless[] = {"auto_mapping", "base_model_name_or_path", "inference_mode", "megatron_core",
                                           "peft_version", "qalora_group_size",       "revision"};
    for (size_t i = 0; i < sizeof harmless / sizeof *harmless; i++) {
        if (strcmp(field, harmless[i]) == 0) {
            return true;
        }
    }
    return false;
}

static bool is_read(const char *field) {
    static const char *const read[] = {"r",         "lora_alpha",        "lora_dropout",        "use_rslora",
                                       "bias",      "target_modules",    "peft_type",           "alpha_pattern",
                                       "task_type", "init_lora_weights", "layers_to_transform"};
    for (size_t i = 0; i < sizeof read / sizeof *read; i++) {
        if (strcmp(field, read[i]) == 0) {
            return true;
        }
    }
    return false;
}

// PEFT's way to say that a feature is not used.
static bool is_off(const json_t *value) {
    return json_is_null(value) || json_is_false(value) || (json_is_array(value) && json_array_size(value) == 0) ||
           (json_is_object(value) && json_object_size(value) == 0);
}

// A feature of PEFT that is on and that we do not know would change the adapter's meaning without a word.
static bool refuse_features(struct json_scope scope, fault *f) {
    const char *field;
    json_t *value;
    json_object_foreach((json_t *)scope.object, field, value) {
        if (!is_read(field) && !is_harmless(field) && !is_off(value)) {
            return json_fault(scope, field, f, "this feature of an adapter is not supported");
        }
    }
    return true;
}

static bool require_word(struct json_scope scope, const char *field, enum json_need need, const char *word, fault *f) {
    const char *value = word;
    return json_get_string(scope, field, need, &value, f) &&
           (strcmp(value, word) == 0 ||
            json_fault(scope, field, f, "\"%s\" is not supported, only \"%s\"", value, word));
}

// Initialisations such as PiSSA change the frozen weights too: their adapters do not fit the model as it is.
static bool check_initialisation(struct json_scope scope, fault *f) {
    static const char *const plain[] = {"gaussian", "orthogonal"};
    const json_t *value = json_object_get(scope.object, "init_lora_weights");
    if (!json_is_string(value)) {
        return !value || json_is_boolean(value) || json_is_null(value) ||
               json_fault(scope, "init_lora_weights", f, "must be true, false or a string");
    }
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        if (strcmp(json_string_value(value), plain[i]) == 0) {
            return true;
        }
    }
    return json_fault(scope, "init_lora_weights", f, "\"%s\" is not supported", json_string_value(value));
}

static bool read_modules(struct adapter_config *config, struct json_scope scope, fault *f) {
    const json_t *value = json_object_get(scope.object, "target_modules");
    if (json_is_string(value)) {
        config->modules = ADAPTER_ALL_MODULES;
        return strcmp(json_string_value(value), "all-linear") == 0 ||
               json_fault(scope, "target_modules", f,
                          "the pattern \"%s\" is not supported, only a list or \"all-linear\"",
                          json_string_value(value));
    }
    if (!json_get_array(scope, "target_modules", JSON_REQUIRED, &value, f)) {
        return false;
    }
    if (json_array_size(value) == 0) {
        return json_fault(scope, "target_modules", f, "names no module");
    }
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *name = json_array_get(value, i);
        if (!json_is_string(name)) {
            return json_fault(scope, "target_modules", f, "must be a list of strings");
        }
        // PEFT may name a module by any end of its path; that every layer has it, the tensors have to show.
        const char *path = json_string_value(name), *dot = strrchr(path, '.'), *last = dot ? dot + 1 : path;
        if (!adapter_modules_add(&config->modules, last, strlen(last))) {
            char known[ADAPTER_MODULES_TEXT];
            return json_fault(scope, "target_modules", f, "unknown module \"%s\": must be some of %s",
                              json_string_value(name), adapter_modules_print(known, ADAPTER_ALL_MODULES));
        }
    }
    return true;
}

// PEFT's list of layers, or one of them. Ours are side by side.
static bool read_layers(struct layers *layers, struct json_scope scope, fault *f) {
    static const char field[] = "layers_to_transform";
    const json_t *value = json_object_get(scope.object, field);
    if (!value || is_off(value)) {
        return true;
    }
    size_t count = json_is_array(value) ? json_array_size(value) : 1;
    layers->extent = LAYERS_SOME;
    for (size_t i = 0; i < count; i++) {
        const json_t *one = json_is_array(value) ? json_array_get(value, i) : value;
        json_int_t layer = json_is_integer(one) ? json_integer_value(one) : -1;
        if (layer < 0 || layer >= MODEL_MAX_LAYERS || (i > 0 && layer != (json_int_t)layers->last + 1)) {
            return json_fault(scope, field, f, "must be a list of layers in ascending order without gaps");
        }
        layers->first = i ? layers->first : (unsigned)layer;
        layers->last = (unsigned)layer;
    }
    return true;
}

static bool read_rate(struct json_scope scope, const char *field, double *p, fault *f) {
    return json_get_number(scope, field, JSON_OPTIONAL, 0.0, 1.0, p, f) &&
           (*p < 1.0 || json_fault(scope, field, f, "is 1, must be below 1"));
}

static bool read_config(struct adapter_config *config, struct json_scope scope, fault *f) {
    int64_t r = 0;
    const char *base = "";
    config->alpha = 8.0; // PEFT's default
    if (!require_word(scope, "peft_type", JSON_REQUIRED, "LORA", f) ||
        !require_word(scope, "task_type", JSON_OPTIONAL, "CAUSAL_LM", f) ||
        !require_word(scope, "bias", JSON_OPTIONAL, "none", f) || !check_initialisation(scope, f) ||
        !refuse_features(scope, f) || !json_get_integer(scope, "r", JSON_REQUIRED, 1, ADAPTER_MAX_RANK, &r, f) ||
        !json_get_number(scope, "lora_alpha", JSON_OPTIONAL, 0.0, MAX_ALPHA, &config->alpha, f) ||
        !read_rate(scope, "lora_dropout", &config->dropout, f) ||
        !json_get_bool(scope, "use_rslora", JSON_OPTIONAL, &config->rslora, f) || !read_modules(config, scope, f) ||
        !read_layers(&config->layers, scope, f) ||
        !json_get_string(scope, "base_model_name_or_path", JSON_OPTIONAL, &base, f)) {
        return false;
    }
    const json_t *pattern = json_object_get(scope.object, "alpha_pattern");
    config->alpha_pattern = pattern && !is_off(pattern);
    config->r = (unsigned)r;
    if (strlen(base) >= sizeof config->base_model) {
        return json_fault(scope, "base_model_name_or_path", f, "longer than %zu bytes", sizeof config->base_model - 1);
    }
    strcpy(config->base_model, base);
    return true;
}

bool adapter_parse_config(struct adapter_config *config, const void *data, size_t size, const char *file, fault *f) {
    json_t *root;
    *config = (struct adapter_config){0};
    if (!json_read_bytes(&root, data, size, file, f)) {
        return false;
    }
    bool done = read_config(config, (struct json_scope){.object = root, .file = file}, f);
    json_decref(root);
    return done;
}

bool adapter_read_config(struct adapter_config *config, const char *folder, fault *f) {
    char path[FILE_PATH_MAX];
    struct mapped_file map;
    if (!file_path(path, folder, CONFIG_FILE, f) || !file_map(&map, path, f)) {
        return false;
    }
    bool done = adapter_parse_config(config, map.data, map.size, path, f);
    file_unmap(&map);
    return done;
}

// Whole numbers are written without a point, as PEFT writes its lora_alpha.
static json_t *number(double value) {
    bool whole = value >= -1e15 && value <= 1e15 && (double)(json_int_t)value == value;
    return whole ? json_integer((json_int_t)value) : json_real(value);
}

// As PEFT finds it in the model.
static void module_name(char name[NAME_BYTES], const struct adapter_tensors *t) {
    snprintf(name, NAME_BYTES, "model.layers.%u.%s.%s", t->layer, adapter_module_block(t->module),
             adapter_module_name(t->module));
}

static void tensor_name(char name[NAME_BYTES], const struct adapter_tensors *t, char matrix) {
    char module[NAME_BYTES];
    module_name(module, t);
    snprintf(name, NAME_BYTES, "base_model.model.%.80s.lora_%c.weight", module, matrix);
}

// What all modules have left of their alpha, or 1 where they differ.
static double common_mean(const struct adapter_tensors *tensors, size_t count) {
    for (size_t i = 1; i < count; i++) {
        if (tensors[i].mean != tensors[0].mean) {
            return 1;
        }
    }
    return count ? tensors[0].mean : 1;
}

// lora_alpha with the expected masks in it, of the modules that have one of their own.
static json_t *alpha_pattern(double alpha, double common, const struct adapter_tensors *tensors, size_t count) {
    json_t *pattern = json_object();
    for (size_t i = 0; i < count; i++) {
        if (tensors[i].mean != common) {
            char name[NAME_BYTES];
            module_name(name, &tensors[i]);
            json_object_set_new(pattern, name, number(alpha * tensors[i].mean));
        }
    }
    return pattern;
}

static json_t *layer_list(const struct layers *layers) {
    if (layers->extent != LAYERS_SOME) {
        return json_null();
    }
    json_t *list = json_array();
    for (unsigned i = layers->first; i <= layers->last; i++) {
        json_array_append_new(list, json_integer(i));
    }
    return list;
}

static bool write_config(const char *folder, const struct adapter_config *config, const struct adapter_tensors *tensors,
                         size_t count, fault *f) {
    char path[FILE_PATH_MAX];
    json_t *names = json_array();
    for (unsigned m = 0; m < ADAPTER_MODULES; m++) {
        if (config->modules >> m & 1) {
            json_array_append_new(names, json_string(adapter_module_name(m)));
        }
    }
    double mean = common_mean(tensors, count);
    json_t *root = json_pack(
        "{s:o, s:s?, s:s, s:b, s:b, s:b, s:o, s:o, s:f, s:n, s:s, s:i, s:o, s:s, s:b, s:b}", "alpha_pattern",
        alpha_pattern(config->alpha, mean, tensors, count), "base_model_name_or_path",
        *config->base_model ? config->base_model : NULL, "bias", "none", "fan_in_fan_out", 0, "inference_mode", 1,
        "init_lora_weights", 1, "layers_to_transform", layer_list(&config->layers), "lora_alpha",
        number(config->alpha * mean), "lora_dropout", config->dropout, "modules_to_save", "peft_type", "LORA", "r",
        (int)config->r, "target_modules", names, "task_type", "CAUSAL_LM", "use_dora", 0, "use_rslora",
        (int)config->rslora);
    bool done =
        root ? file_path(path, folder, CONFIG_FILE FRESH, f) && json_write_file(root, path, f)
             : fault_memory(f, CONFIG_FILE);
    json_decref(root);
    return done;
}

static bool add_form(json_t *root, const struct adapter_recipe *r) {
    return !r->diagonal || (json_object_set_new(root, "form", json_string(ADALORA)) == 0 &&
                            json_object_set_new(root, "orthogonality_weight", json_real(r->orthogonality)) == 0);
}

static bool read_form(struct adapter_recipe *r, struct json_scope scope, fault *f) {
    r->diagonal = json_has(scope, "form");
    return !r->diagonal || (require_word(scope, "form", JSON_REQUIRED, ADALORA, f) &&
                            json_get_number(scope, "orthogonality_weight", JSON_REQUIRED, 0, HUGE_VAL,
                                            &r->orthogonality, f));
}

static bool write_recipe(const char *folder, const struct adapter_recipe *recipe, fault *f) {
    char path[FILE_PATH_MAX];
    if (recipe->seed > INT64_MAX) {
        return fault_set(f, FAULT_INPUT, RECIPE_FILE, "seed", "is %" PRIu64 ", must be below 2^63", recipe->seed);
    }
    json_t *root = json_pack("{s:i, s:s, s:o, s:I, s:o}", "format", RECIPE_FORMAT, "method", recipe->method,
                             "lora_alpha", number(recipe->alpha), "seed", (json_int_t)recipe->seed, "dropouts",
                             dropouts_json(&recipe->dropouts));
    bool several = recipe->instances > 1;
    bool done = root && (!several || json_object_set_new(root, "instances", json_integer(recipe->instances)) == 0) &&
                        add_form(root, recipe) && consistency_add_json(root, &recipe->consistency)
                    ? file_path(path, folder, RECIPE_FILE FRESH, f) && json_write_file(root, path, f)
                    : fault_memory(f, RECIPE_FILE);
    json_decref(root);
    return done;
}

static bool copy_word(struct json_scope scope, const char *field, char word[ADAPTER_WORD], fault *f) {
    const char *value;
    if (!json_get_string(scope, field, JSON_REQUIRED, &value, f)) {
        return false;
    }
    if (strlen(value) >= ADAPTER_WORD) {
        return json_fault(scope, field, f, "longer than %d bytes", ADAPTER_WORD - 1);
    }
    strcpy(word, value);
    return true;
}

static bool read_recipe(struct adapter_recipe *recipe, struct json_scope scope, fault *f) {
    int64_t format, seed = 0, instances = 1;
    if (!json_get_integer(scope, "format", JSON_REQUIRED, RECIPE_FORMAT, RECIPE_FORMAT, &format, f) ||
        !copy_word(scope, "method", recipe->method, f) ||
        !json_get_number(scope, "lora_alpha", JSON_REQUIRED, 0.0, MAX_ALPHA, &recipe->alpha, f) ||
        !json_get_integer(scope, "seed", JSON_REQUIRED, 0, INT64_MAX, &seed, f) ||
        !json_get_integer(scope, "instances", JSON_OPTIONAL, 1, ADAPTER_MAX_INSTANCES, &instances, f)) {
        return false;
    }
    recipe->seed = (uint64_t)seed;
    recipe->instances = (unsigned)instances;
    return read_form(recipe, scope, f) && dropouts_from_json(&recipe->dropouts, scope, "dropouts", f) &&
           consistency_from_json(&recipe->consistency, scope, f);
}

bool adapter_read_recipe(struct adapter_recipe *recipe, bool *there, const char *folder, fault *f) {
    char path[FILE_PATH_MAX];
    json_t *root;
    *recipe = (struct adapter_recipe){0};
    if (!file_path(path, folder, RECIPE_FILE, f)) {
        return false;
    }
    *there = file_exists(path);
    if (!*there) {
        return true;
    }
    if (!json_read_file(&root, path, f)) {
        return false;
    }
    bool done = read_recipe(recipe, (struct json_scope){.object = root, .file = path}, f);
    json_decref(root);
    return done;
}

bool adapter_read(struct adapter_config *config, struct adapter_recipe *recipe, const char *folder, fault *f) {
    bool there = false;
    if (!adapter_read_config(config, folder, f) || !adapter_read_recipe(recipe, &there, folder, f)) {
        return false;
    }
    if (there) {
        config->alpha = recipe->alpha;
    }
    return there || !config->alpha_pattern ||
           fault_set(f, FAULT_INPUT, folder, "alpha_pattern", "this feature of an adapter is not supported");
}

// b[c][k] = bt[k][c]
static void transpose(float *b, const float *bt, size_t r, size_t n_out) {
    for (size_t c = 0; c < n_out; c++) {
        for (size_t k = 0; k < r; k++) {
            b[c * r + k] = bt[k * n_out + c];
        }
    }
}

// What the writer lists: two sources a module, their names, and all B as PEFT lays them out.
struct listing {
    struct tensor_source *sources;
    char (*names)[NAME_BYTES];
    float *b;
};

static void free_listing(struct listing *list) {
    free(list->sources);
    free(list->names);
    free(list->b);
}

static bool make_listing(struct listing *list, unsigned r, const struct adapter_tensors *tensors, size_t count,
                         size_t extras, fault *f) {
    size_t outputs = 0;
    for (size_t i = 0; i < count; i++) {
        outputs += tensors[i].n_out;
    }
    list->sources = calloc(2 * count + extras + 1, sizeof *list->sources);
    list->names = calloc(2 * count + 1, sizeof *list->names);
    list->b = malloc((outputs * r + 1) * sizeof *list->b);
    if (!list->sources || !list->names || !list->b) {
        return fault_memory(f, TENSOR_FILE);
    }
    float *b = list->b;
    for (size_t i = 0; i < count; i++) {
        const struct adapter_tensors *t = &tensors[i];
        tensor_name(list->names[2 * i], t, 'A');
        tensor_name(list->names[2 * i + 1], t, 'B');
        transpose(b, t->bt, r, t->n_out);
        list->sources[2 * i] =
            (struct tensor_source){.name = list->names[2 * i], .ndim = 2, .shape = {r, t->n_in}, .data = t->a};
        list->sources[2 * i + 1] =
            (struct tensor_source){.name = list->names[2 * i + 1], .ndim = 2, .shape = {t->n_out, r}, .data = b};
        b += t->n_out * r;
    }
    return true;
}

bool adapter_write_tensors(const char *path, unsigned r, const struct adapter_tensors *tensors, size_t count,
                           const struct tensor_source *extra, size_t extras, fault *f) {
    struct listing list = {0};
    bool done = make_listing(&list, r, tensors, count, extras, f);
    for (size_t i = 0; done && i < extras; i++) {
        list.sources[2 * count + i] = extra[i];
    }
    done = done && safetensors_write(path, list.sources, 2 * count + extras, f);
    free_listing(&list);
    return done;
}

// The names that the three files are written under, and their own.
static const char *const FILES[][2] = {
    {CONFIG_FILE FRESH, CONFIG_FILE}, {RECIPE_FILE FRESH, RECIPE_FILE}, {TENSOR_FILE FRESH, TENSOR_FILE}};

enum { FILE_COUNT = sizeof FILES / sizeof *FILES };

static bool take_names(const char *folder, fault *f) {
    char from[FILE_PATH_MAX], to[FILE_PATH_MAX];
    for (size_t i = 0; i < FILE_COUNT; i++) {
        if (!file_path(from, folder, FILES[i][0], f) || !file_path(to, folder, FILES[i][1], f) ||
            !file_rename(from, to, f)) {
            return false;
        }
    }
    return true;
}

static void drop_fresh(const char *folder) {
    char path[FILE_PATH_MAX];
    fault unused;
    for (size_t i = 0; i < FILE_COUNT; i++) {
        if (file_path(path, folder, FILES[i][0], &unused)) {
            file_remove(path, &unused);
        }
    }
}

// Under other names first, which is where a full disk shows. Between the old tensors and the new ones there are none,
// so that at no moment the files are of two adapters.
bool adapter_write(const char *folder, const struct adapter_config *config, const struct adapter_recipe *recipe,
                   const struct adapter_tensors *tensors, size_t count, fault *f) {
    char fresh[FILE_PATH_MAX], old[FILE_PATH_MAX];
    bool written = file_make_folders(folder, f) && file_path(fresh, folder, TENSOR_FILE FRESH, f) &&
                   file_path(old, folder, TENSOR_FILE, f) && write_config(folder, config, tensors, count, f) &&
                   write_recipe(folder, recipe, f) &&
                   adapter_write_tensors(fresh, config->r, tensors, count, NULL, 0, f);
    if (!written) {
        drop_fresh(folder);
        return false;
    }
    return file_remove(old, f) && take_names(folder, f);
}

// Fills one module; marks its two tensors in `used`, by their index in the file.
static bool read_module(const struct safetensors *s, unsigned r, const struct adapter_tensors *t, bool *used,
                        fault *f) {
    char name[NAME_BYTES];
    float row[ADAPTER_MAX_RANK];
    const struct tensor_view *a, *b;
    tensor_name(name, t, 'A');
    if (!safetensors_weight(s, name, 2, (size_t[]){r, t->n_in}, &a, f)) {
        return false;
    }
    tensor_name(name, t, 'B');
    if (!safetensors_weight(s, name, 2, (size_t[]){t->n_out, r}, &b, f)) {
        return false;
    }
    tensor_widen(a, 0, a->count, t->a);
    for (size_t c = 0; c < t->n_out; c++) {
        tensor_widen(b, c * r, r, row);
        for (size_t k = 0; k < r; k++) {
            t->bt[k * t->n_out + c] = row[k];
        }
    }
    used[a - safetensors_at(s, 0)] = used[b - safetensors_at(s, 0)] = true;
    return true;
}

static bool read_modules_of(const struct safetensors *s, const char *path, unsigned r,
                            const struct adapter_tensors *tensors, size_t count, fault *f) {
    size_t in_file = safetensors_count(s);
    bool *used = calloc(in_file + 1, sizeof *used);
    if (!used) {
        return fault_memory(f, path);
    }
    bool done = true;
    for (size_t i = 0; done && i < count; i++) {
        done = read_module(s, r, &tensors[i], used, f);
    }
    for (size_t i = 0; done && i < in_file; i++) {
        done = used[i] || fault_set(f, FAULT_INPUT, path, safetensors_at(s, i)->name,
                                    "belongs to no module that the adapter's configuration names");
    }
    free(used);
    return done;
}

bool adapter_read_tensors(const char *folder, unsigned r, const struct adapter_tensors *tensors, size_t count,
                          fault *f) {
    char path[FILE_PATH_MAX];
    struct safetensors *s;
    if (r == 0 || r > ADAPTER_MAX_RANK) {
        return fault_set(f, FAULT_INPUT, folder, "r", "is %u, must be 1 to %d", r, ADAPTER_MAX_RANK);
    }
    if (!file_path(path, folder, TENSOR_FILE, f) || !safetensors_open(&s, path, f)) {
        return false;
    }
    bool done = read_modules_of(s, path, r, tensors, count, f);
    safetensors_close(s);
    return done;
}
