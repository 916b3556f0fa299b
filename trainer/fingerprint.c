#include "fingerprint.h"

static uint64_t start(void) {
    return 0xcbf29ce484222325; // FNV-1a
}

static void add(uint64_t *hash, uint64_t value) {
    *hash = (*hash ^ value) * 0x100000001b3;
}

static void add_bytes(uint64_t *hash, const void *bytes, size_t count) {
    for (size_t i = 0; i < count; i++) {
        add(hash, ((const uint8_t *)bytes)[i]);
    }
}

static void add_tokens(uint64_t *hash, const uint32_t *tokens, size_t count, size_t first_target) {
    for (size_t i = 0; i < count; i++) {
        add(hash, tokens[i]);
    }
    add(hash, count);
    add(hash, first_target);
}

uint64_t fingerprint_of_data(const struct dataset *data) {
    uint64_t hash = start();
    for (size_t i = 0; i < data->count; i++) {
        const struct example *e = &data->examples[i];
        add_tokens(&hash, e->tokens, e->count, e->first_target);
        for (size_t k = 0; k < e->n_choices; k++) {
            const struct example_choice *c = &e->choices[k];
            add_tokens(&hash, c->tokens, c->count, c->first_target);
        }
        if (e->n_choices) {
            add(&hash, e->label);
        }
    }
    return hash;
}

static void add_some(uint64_t *hash, const lod_weight *w, size_t n_in, size_t n_out) {
    const size_t bytes = lod_packed_size(n_in, n_out, w->dtype);
    add_bytes(hash, w->packed, bytes < 1024 ? bytes : 1024);
}

uint64_t fingerprint_of_model(const struct model *m) {
    const struct model_config *c = &m->config;
    const uint32_t sizes[] = {c->hidden_size, c->intermediate_size, c->layers, c->heads, c->kv_heads, c->head_dim,
                              c->vocab_size};
    const double settings[] = {c->rms_norm_eps, c->rope_theta};
    const size_t norm = c->hidden_size * sizeof(float);
    uint64_t hash = start();
    add_bytes(&hash, sizes, sizeof sizes);
    add_bytes(&hash, settings, sizeof settings);
    if (c->rope_scaling.factor > 0) {
        add_bytes(&hash, &c->rope_scaling, sizeof c->rope_scaling);
    }
    add_bytes(&hash, m->final_norm, norm);
    add_some(&hash, &m->head, c->hidden_size, c->vocab_size);
    add_bytes(&hash, m->embedding->data, m->embedding->bytes < 1024 ? m->embedding->bytes : 1024);
    for (uint32_t layer = 0; layer < c->layers; layer++) {
        const struct model_layer *l = &m->layers[layer];
        add_bytes(&hash, l->attention_norm, norm);
        add_bytes(&hash, l->mlp_norm, norm);
        for (enum adapter_module i = 0; i < ADAPTER_MODULES; i++) {
            size_t n_in, n_out;
            model_linear_shape(c, i, &n_in, &n_out);
            add_some(&hash, &l->linear[i], n_in, n_out);
        }
    }
    return hash;
}
