#include "inference.h"

#include <stdlib.h>

#include "file.h"

bool inference_load(struct inference *n, const char *model, fault *f) {
    return tokenizer_load(&n->tokenizer, model, f) && model_load(&n->model, model, f) &&
           tokenizer_fits(n->tokenizer, n->model.config.vocab_size, f);
}

static size_t drops(const struct inference_adapter *o) {
    return o->drop ? o->drop->count : 0;
}

// The adapter's own dropouts of A and B, or those of --drop in their place; dropout on the input is of training alone.
static bool choose_ensemble(struct dropouts *d, const struct inference_adapter *o, fault *f) {
    size_t kept = 0, ours = 0;
    for (size_t i = 0; i < d->count; i++) {
        bool matrix = dropout_is_of_matrix(&d->list[i]);
        if (matrix ? !drops(o) : d->list[i].position != DROPOUT_LORA_INPUT) {
            d->list[kept++] = d->list[i];
            ours += matrix;
        }
    }
    for (size_t i = 0; i < drops(o); i++) {
        if (kept == DROPOUT_MOST) {
            return fault_set(f, FAULT_INPUT, o->program, "--drop", "more than %d dropouts", DROPOUT_MOST);
        }
        if (!dropout_parse(&d->list[kept], o->drop->text[i], o->program, f)) {
            return false;
        }
        if (!dropout_is_of_matrix(&d->list[kept++])) {
            return fault_set(f, FAULT_INPUT, o->program, "--drop", "%s: an ensemble drops lora_a and lora_b only",
                             o->drop->text[i]);
        }
        ours++;
    }
    d->count = kept;
    return ours || fault_set(f, FAULT_INPUT, o->program, "--ensemble",
                             "the adapter was trained without dropout of A or B: say with --drop what to drop");
}

// Those of the recipe as it stands.
static bool place_dropouts(struct layer_dropouts **list, const struct inference *n, const struct adapter_config *config,
                           const struct inference_adapter *o, const char *file, fault *f) {
    const struct dropout_frame frame = {n->model.config.layers, config->modules, file};
    return dropouts_place(list, &frame, &n->recipe.dropouts, o->seed, f);
}

bool inference_adapt(struct inference *n, const struct inference_adapter *o, fault *f) {
    const char *folder = o->folder;
    struct lora_options options = {.leaves = 1, .domain = LOD_DOMAIN_EVAL, .instances = o->ensemble};
    char path[FILE_PATH_MAX];
    if (!file_path(path, folder, "lodrop.json", f) || !adapter_read(&options.config, &n->recipe, folder, f) ||
        !layers_settle(&options.config.layers, n->model.config.layers, folder, "layers_to_transform", f) ||
        (drops(o) && !place_dropouts(&n->own, n, &options.config, o, path, f)) ||
        (o->ensemble && !choose_ensemble(&n->recipe.dropouts, o, f))) {
        return false;
    }
    const char *file = drops(o) ? o->program : path;
    if (!place_dropouts(&n->dropouts, n, &options.config, o, file, f) ||
        !dropouts_meet(&n->recipe.dropouts, &options.config.layers, n->model.config.layers, file, f)) {
        return false;
    }
    options.dropouts = n->dropouts;
    options.own = n->own;
    n->adapted = lora_make(&n->lora, &n->model.config, &options, LORA_INFERENCE, f) && lora_read(&n->lora, folder, f);
    return n->adapted;
}

const struct lora *inference_lora(const struct inference *n) {
    return n->adapted ? &n->lora : NULL;
}

void inference_free(struct inference *n) {
    tokenizer_free(n->tokenizer);
    lora_free(&n->lora);
    free(n->dropouts);
    free(n->own);
    model_free(&n->model);
}
