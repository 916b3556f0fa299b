#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "arena.h"
#include "library.h"

enum { MAPPED_MOST = 8 << 20 }; // an embedding of so many bytes may stay mapped: forgetting costs 10 us a token

void model_linear_shape(const struct model_config *c, enum adapter_module module, size_t *n_in, size_t *n_out) {
    size_t queries = (size_t)c->heads * c->head_dim, keys = (size_t)c->kv_heads * c->head_dim;
    const size_t shape[ADAPTER_MODULES][2] = {
        [ADAPTER_Q_PROJ] = {c->hidden_size, queries},
        [ADAPTER_K_PROJ] = {c->hidden_size, keys},
        [ADAPTER_V_PROJ] = {c->hidden_size, keys},
        [ADAPTER_O_PROJ] = {queries, c->hidden_size},
        [ADAPTER_GATE_PROJ] = {c->hidden_size, c->intermediate_size},
        [ADAPTER_UP_PROJ] = {c->hidden_size, c->intermediate_size},
        [ADAPTER_DOWN_PROJ] = {c->intermediate_size, c->hidden_size},
    };
    *n_in = shape[module][0];
    *n_out = shape[module][1];
}

bool model_fit_length(const struct model_config *c, int64_t *max_length, bool asked, fault *f) {
    if (*max_length <= (int64_t)c->max_positions) {
        return true;
    }
    if (asked) {
        return fault_set(f, FAULT_INPUT, "config.json", "max_position_embeddings",
                         "is %u, fewer than --max-length %lld", c->max_positions, (long long)*max_length);
    }
    *max_length = c->max_positions;
    return true;
}

// Gives the pages of a mapped file's tensor back to the system: read again, they are mapped again. (Memory that is no
// file's would read as zeros.)
static void forget(const struct tensor_view *view) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t lead = (uintptr_t)view->data % page;
    madvise((void *)(view->data - lead), view->bytes + lead, MADV_DONTNEED);
}

static lod_dtype dtype_of(const struct tensor_view *view) {
    return view->type == TENSOR_BF16 ? LOD_BF16 : view->type == TENSOR_F16 ? LOD_F16 : LOD_F32;
}

// Takes the place of a weight W [n_out][n_in] in the arena and, when there is one, packs it there.
static bool pack(struct model *m, struct arena *a, const char *name, size_t n_in, size_t n_out, lod_weight *w,
                 fault *f) {
    const struct tensor_view *view;
    if (!safetensors_weight(m->file, name, 2, (const size_t[]){n_out, n_in}, &view, f)) {
        return false;
    }
    w->dtype = dtype_of(view);
    void *packed = arena_take(a, lod_packed_size(n_in, n_out, w->dtype), 1);
    w->packed = packed;
    if (!packed) {
        return true;
    }
    lod_error err;
    if (!library_done(lod_pack_weights(n_in, n_out, w->dtype, view->data, n_in, packed, &err), &err, f)) {
        return false;
    }
    forget(view);
    return true;
}

static bool widen(struct model *m, struct arena *a, const char *name, const float **values, fault *f) {
    const struct tensor_view *view;
    size_t width = m->config.hidden_size;
    if (!safetensors_weight(m->file, name, 1, &width, &view, f)) {
        return false;
    }
    float *out = arena_floats(a, 1, width);
    if (out) {
        tensor_widen(view, 0, width, out);
    }
    *values = out;
    return true;
}

static bool read_layer(struct model *m, struct arena *a, unsigned layer, fault *f) {
    struct model_layer *l = &m->layers[layer];
    char name[128];
    snprintf(name, sizeof name, "model.layers.%u.input_layernorm.weight", layer);
    if (!widen(m, a, name, &l->attention_norm, f)) {
        return false;
    }
    snprintf(name, sizeof name, "model.layers.%u.post_attention_layernorm.weight", layer);
    if (!widen(m, a, name, &l->mlp_norm, f)) {
        return false;
    }
    for (enum adapter_module i = 0; i < ADAPTER_MODULES; i++) {
        size_t n_in, n_out;
        model_linear_shape(&m->config, i, &n_in, &n_out);
        snprintf(name, sizeof name, "model.layers.%u.%s.%s.weight", layer, adapter_module_block(i),
                 adapter_module_name(i));
        if (!pack(m, a, name, n_in, n_out, &l->linear[i], f)) {
            return false;
        }
    }
    return true;
}

// Runs twice: once to check every tensor and measure, once to pack.
static bool read_weights(struct model *m, struct arena *a, fault *f) {
    const struct model_config *c = &m->config;
    for (unsigned layer = 0; layer < c->layers; layer++) {
        if (!read_layer(m, a, layer, f)) {
            return false;
        }
    }
    const char *head = c->tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
    const size_t embedding[] = {c->vocab_size, c->hidden_size};
    return widen(m, a, "model.norm.weight", &m->final_norm, f) &&
           pack(m, a, head, c->hidden_size, c->vocab_size, &m->head, f) &&
           safetensors_weight(m->file, "model.embed_tokens.weight", 2, embedding, &m->embedding, f);
}

bool model_load(struct model *m, const char *folder, fault *f) {
    *m = (struct model){0};
    struct arena measure = {0};
    bool done = model_config_read(&m->config, folder, f) && safetensors_open(&m->file, folder, f);
    if (done) {
        m->layers = calloc(m->config.layers, sizeof *m->layers);
        done = m->layers ? read_weights(m, &measure, f) : fault_memory(f, "the list of layers");
    }
    if (done && memory_take(&m->memory, measure.peak, "the model's weights", f)) {
        struct arena carve = {.base = m->memory};
        done = read_weights(m, &carve, f);
        // What was forgotten before may be mapped again, as a neighbour of what was read after it.
        for (size_t i = 0; i < safetensors_count(m->file); i++) {
            forget(safetensors_at(m->file, i));
        }
    }
    if (!done || !m->memory) {
        model_free(m);
        return false;
    }
    return true;
}

// Reading a page maps its neighbours, too (64 KiB to 2 MiB on Linux): kept, they would soon be the whole embedding.
void model_embed(const struct model *m, size_t tokens, const uint32_t *token, float *x) {
    const size_t C = m->config.hidden_size;
    const bool forgets = m->file && m->embedding->bytes > MAPPED_MOST;
    for (size_t t = 0; t < tokens; t++) {
        tensor_widen(m->embedding, token[t] * C, C, x + t * C);
        if (forgets) {
            forget(m->embedding);
        }
    }
}

void model_free(struct model *m) {
    safetensors_close(m->file);
    free(m->layers);
    free(m->memory);
    *m = (struct model){0};
}
