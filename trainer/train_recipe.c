// From the options of a run to its adapter, what drops there and elsewhere, and how its loss is made up.
#include <stdlib.h>
#include <string.h>

#include "config.h"
#include "train_options.h"

// The last word of a model's path: a name, not a place.
static void name_model(char name[1024], const char *path) {
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/') {
        end--;
    }
    size_t start = end;
    while (start > 0 && path[start - 1] != '/') {
        start--;
    }
    bool named = end - start < 1024 && path[start] != '.';
    snprintf(name, 1024, "%.*s", named ? (int)(end - start) : 0, path + start);
}

static bool add_own(struct dropouts *d, const char *model, const char *field, double p, struct dropout own, fault *f) {
    const char *refusal = dropout_rate_refusal(p);
    if (refusal) {
        return fault_set(f, FAULT_INPUT, model, field, "of its config.json is %.15g, %s", p, refusal);
    }
    if (p > 0) {
        own.p = p;
        own.option = "--model-dropout";
        d->list[d->count++] = own;
    }
    return true;
}

// The dropouts that a model's own configuration asks for.
static bool add_models_own(struct dropouts *d, const struct train_options *o, fault *f) {
    struct model_config config;
    if (strcmp(o->model_dropout, "off") == 0) {
        return true;
    }
    if (strcmp(o->model_dropout, "config") != 0) {
        return fault_set(f, FAULT_INPUT, "lodrop-train", "--model-dropout", "'%s' is not config or off",
                         o->model_dropout);
    }
    if (!model_config_read(&config, o->model, f)) {
        return false;
    }
    if (config.attention_dropout == 0 && config.hidden_dropout == 0) {
        return fault_set(f, FAULT_INPUT, "lodrop-train", "--model-dropout",
                         "the config.json of %s has neither an attention_dropout nor a hidden_dropout_prob above 0",
                         o->model);
    }
    struct dropout own = {.pattern = LOD_PATTERN_ELEMENT, .compensation = DROPOUT_INVERTED};
    own.position = DROPOUT_ATTN_WEIGHT;
    if (!add_own(d, o->model, "attention_dropout", config.attention_dropout, own, f)) {
        return false;
    }
    own.position = DROPOUT_HIDDEN;
    return add_own(d, o->model, "hidden_dropout_prob", config.hidden_dropout, own, f);
}

// All dropouts that the options ask for, each with the option that did.
static bool list_dropouts(struct dropouts *d, const struct train_options *o, const struct dropout_method *method,
                          fault *f) {
    _Static_assert(OPTION_LIST_MOST + 5 <= DROPOUT_MOST, "a method's, --lora-dropout's, the model's, those of --drop");
    d->count = 0;
    bool input = dropout_method_is_of_input(method), key_sets = false;
    for (size_t i = 0; i < method->count && !input; i++) {
        d->list[d->count] = method->list[i];
        d->list[d->count++].p = o->rate;
    }
    if (o->lora_dropout > 0) {
        d->list[d->count++] = (struct dropout){.position = DROPOUT_LORA_INPUT,
                                               .pattern = LOD_PATTERN_ELEMENT,
                                               .compensation = DROPOUT_INVERTED,
                                               .p = o->lora_dropout,
                                               .option = input ? "--method" : "--lora-dropout"};
    }
    if (!add_models_own(d, o, f)) {
        return false;
    }
    for (size_t i = 0; i < o->drop.count; i++) {
        if (!dropout_parse(&d->list[d->count++], o->drop.text[i], "lodrop-train", f)) {
            return false;
        }
    }
    for (size_t i = 0; i < d->count; i++) {
        d->list[i].per_kv_head = o->mask_per_kv_head && dropout_has_key_set(&d->list[i]);
        key_sets = key_sets || d->list[i].per_kv_head;
    }
    return key_sets || !o->mask_per_kv_head ||
           fault_set(f, FAULT_INPUT, "lodrop-train", "--mask-per-kv-head",
                     "no dropout of columns or spans at attention is asked for");
}

// PEFT knows one rate for all layers and modules.
static double input_rate(const struct dropouts *d, unsigned modules) {
    for (size_t i = 0; i < d->count; i++) {
        const struct dropout *one = &d->list[i];
        bool everywhere = one->layers.extent == LAYERS_ALL && !(modules & ~dropout_modules(one));
        if (one->position == DROPOUT_LORA_INPUT && everywhere) {
            return one->p;
        }
    }
    return 0;
}

// From is a checkpoint of this run, or --adapter.
static bool is_adapter(const struct train_options *o, const char *from) {
    return *from && strcmp(from, o->adapter) == 0;
}

// A checkpoint holds P, L and Q apart; an adapter does not.
static bool check_continued(const struct adapter_recipe *recipe, const struct train_options *o, const char *from,
                            fault *f) {
    bool split = recipe->diagonal || strcmp(o->form, "lora") != 0;
    return !is_adapter(o, from) || !split ||
           fault_set(f, FAULT_INPUT, o->adapter, "form", "the form of adalora goes on from a checkpoint only, not from "
                                                        "an adapter, which has the product of L and Q");
}

// Of an adapter that the run continues, or of a new one.
static bool read_adapter(struct adapter_config *config, struct adapter_recipe *before, const struct train_options *o,
                         const char *from, fault *f) {
    *before = (struct adapter_recipe){0};
    *config = (struct adapter_config){.r = (unsigned)o->lora_r, .alpha = o->lora_alpha, .rslora = o->use_rslora};
    return adapter_modules_parse(o->target_modules, &config->modules, "lodrop-train", "--target-modules", f) &&
           (!*o->layers_to_transform || layers_parse(&config->layers, o->layers_to_transform, "lodrop-train",
                                                     "--layers-to-transform", f)) &&
           (!*from || (adapter_read(config, before, from, f) && check_continued(before, o, from, f)));
}

// P, L and Q.
static bool choose_form(struct adapter_recipe *recipe, const struct train_options *o, fault *f) {
    recipe->diagonal = strcmp(o->form, "adalora") == 0;
    recipe->orthogonality = o->orthogonality_weight;
    return recipe->diagonal || strcmp(o->form, "lora") == 0 ||
           fault_set(f, FAULT_INPUT, "lodrop-train", "--form", "'%s' is not lora or adalora", o->form);
}

static bool check_instances(const struct adapter_recipe *recipe, fault *f) {
    if (recipe->instances > 1 && !recipe->dropouts.count) {
        return fault_set(f, FAULT_INPUT, "lodrop-train", "--instances",
                         "%u of them need a dropout: without one they are all the same", recipe->instances);
    }
    return recipe->instances < 2 || recipe->consistency.kind == CONSISTENCY_NONE ||
           fault_set(f, FAULT_INPUT, "lodrop-train", "--consistency",
                     "%s is of two passes, it does not go with %u instances: --instances 1",
                     consistency_word(recipe->consistency.kind), recipe->instances);
}

bool train_options_adapter(struct adapter_config *config, struct adapter_recipe *recipe, const struct train_options *o,
                           const char *from, fault *f) {
    const struct dropout_method *method;
    if (!dropout_method_find(&method, o->method, f)) {
        return false;
    }
    if (strcmp(o->init_b, "zero") != 0 && strcmp(o->init_b, "random") != 0) {
        return fault_set(f, FAULT_INPUT, "lodrop-train", "--init-b", "'%s' is not zero or random", o->init_b);
    }
    struct adapter_recipe before;
    if (!read_adapter(config, &before, o, from, f) || !choose_form(recipe, o, f)) {
        return false;
    }
    name_model(config->base_model, o->model);
    recipe->alpha = config->alpha;
    recipe->seed = (uint64_t)o->seed;
    recipe->instances = (unsigned)o->instances;
    // How many layers there are is not known yet: what is refused for the most is so for all.
    const struct dropout_frame frame = {MODEL_MAX_LAYERS, config->modules, "lodrop-train"};
    if (!list_dropouts(&recipe->dropouts, o, method, f) ||
        !dropouts_fit(&recipe->dropouts, &frame, f) ||
        (is_adapter(o, from) && !dropouts_continue(&recipe->dropouts, &before.dropouts, from, f))) {
        return false;
    }
    recipe->consistency = (struct consistency){.weight = o->consistency_weight};
    if (*o->consistency &&
        !consistency_find(&recipe->consistency.kind, o->consistency, "lodrop-train", "--consistency", f)) {
        return false;
    }
    if (*o->consistency && !recipe->dropouts.count) {
        return fault_set(f, FAULT_INPUT, "lodrop-train", "--consistency",
                         "%s needs a dropout: without one both passes are the same", o->consistency);
    }
    if (!check_instances(recipe, f)) {
        return false;
    }
    config->dropout = input_rate(&recipe->dropouts, config->modules);
    bool input = method->count == 0 || dropout_method_is_of_input(method); // these two differ by their rate alone
    strcpy(recipe->method, !input ? method->name : config->dropout > 0 ? "lora-input-dropout" : "lora");
    return true;
}

json_t *train_options_json(const struct train_options *o, const struct adapter_config *config,
                           const struct adapter_recipe *recipe) {
    json_t *object = options_json(&train_option_table, o);
    json_object_set_new(object, "method", json_string(recipe->method));
    json_object_set_new(object, "lora_r", json_integer(config->r));
    json_object_set_new(object, "lora_alpha", json_real(config->alpha));
    json_object_set_new(object, "use_rslora", json_boolean(config->rslora));
    json_object_del(object, "print_config");
    json_object_set_new(object, "drops", dropouts_json(&recipe->dropouts));
    return object;
}
