#include "small_llama.h"

#include <stdlib.h>

static double *take(small_llama *s, size_t count) {
    double *x = calloc(count + 1, sizeof *x);
    if (!x || s->count == sizeof s->memory / sizeof s->memory[0]) {
        abort();
    }
    s->memory[s->count++] = x;
    return x;
}

double *small_random(small_llama *s, size_t count, double size) {
    double *x = take(s, count);
    for (size_t i = 0; i < count; i++) {
        uint32_t word;
        lod_random(s->m.seed, 0, (uint32_t)s->count, (uint32_t)i, 1, &word);
        x[i] = size * ((double)(word >> 8) * 0x1p-23 - 1);
    }
    return x;
}

static void make_layer(small_llama *s, model_layer_f64 *layer, unsigned modules) {
    static const size_t n_in[] = {WIDTH, WIDTH, WIDTH, HEADS * HEAD_DIM, WIDTH, WIDTH, MIDDLE};
    static const size_t n_out[] = {
        HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM, WIDTH, MIDDLE, MIDDLE, WIDTH};
    layer->attention_norm = small_random(s, WIDTH, 1);
    layer->mlp_norm = small_random(s, WIDTH, 1);
    for (size_t i = 0; i < MODEL_MODULES; i++) {
        model_linear *l = &layer->linear[i];
        *l = (model_linear){.n_in = n_in[i], .n_out = n_out[i], .rank = modules >> i & 1 ? RANK : 0};
        l->w = small_random(s, n_in[i] * n_out[i], 0.5);
        l->a = small_random(s, l->rank * n_in[i], 0.25), l->bt = small_random(s, l->rank * n_out[i], 0.25);
        l->da = take(s, l->rank * n_in[i]), l->dbt = take(s, l->rank * n_out[i]);
    }
}

static void make_batch(small_llama *s) {
    static const size_t start[SEGMENTS + 1] = {0, 5, 6, TOKENS};
    static const uint32_t draw[SEGMENTS] = {7, 8, 9};
    static const uint32_t row[TARGETS] = {1, 3, 4, 5, 9, 12};
    uint32_t words[TOKENS + TARGETS];
    lod_random(s->m.seed, 1, 0, 0, TOKENS + TARGETS, words);
    for (size_t i = 0, t = 0; t < TOKENS; t++) {
        i += t == start[i + 1];
        s->token[t] = words[t] % VOCABULARY;
        s->position[t] = (uint32_t)(t - start[i]);
    }
    for (size_t i = 0; i < TARGETS; i++) {
        s->target[i] = words[TOKENS + i] % VOCABULARY;
    }
    s->batch = (model_batch){.rows = {.count = SEGMENTS, .start = start, .draw = draw},
                             .token = s->token,
                             .position = s->position,
                             .targets = TARGETS,
                             .row = row,
                             .target = s->target};
}

void small_llama_make(small_llama *s, uint64_t seed, unsigned modules, double p) {
    *s = (small_llama){.m = {.layers = LAYERS, .width = WIDTH, .heads = HEADS, .kv_heads = KV_HEADS}};
    model_f64 *m = &s->m;
    m->head_dim = HEAD_DIM, m->middle = MIDDLE, m->vocabulary = VOCABULARY, m->eps = 0x1p-17, m->layer = s->layers;
    m->lora_scale = 1.5, m->p = p, m->seed = seed;
    m->vectors = small_random(s, VOCABULARY * WIDTH, 1), m->head = small_random(s, VOCABULARY * WIDTH, 1);
    m->final_norm = small_random(s, WIDTH, 1);
    double *cosine = take(s, TOKENS * HEAD_DIM / 2), *sine = take(s, TOKENS * HEAD_DIM / 2);
    float tables[2][TOKENS * HEAD_DIM / 2];
    lod_rope_tables(TOKENS, HEAD_DIM, 10000, NULL, tables[0], tables[1]);
    for (size_t i = 0; i < TOKENS * HEAD_DIM / 2; i++) {
        cosine[i] = tables[0][i], sine[i] = tables[1][i];
    }
    m->cosine = cosine, m->sine = sine;
    for (size_t layer = 0; layer < LAYERS; layer++) {
        make_layer(s, &s->layers[layer], modules);
    }
    make_batch(s);
}

// A triple at every place, the layers differing in them.
void small_llama_drop(small_llama *s) {
    static const struct {
        lod_pattern pattern;
        lod_compensation compensation;
    } triples[] = {{LOD_PATTERN_ELEMENT, LOD_COMPENSATION_INVERTED},
                   {LOD_PATTERN_COLUMN, LOD_COMPENSATION_INVERTED},
                   {LOD_PATTERN_SPAN, LOD_COMPENSATION_NONE},
                   {LOD_PATTERN_ELEMENT, LOD_COMPENSATION_INFERENCE}};
    static const unsigned positions[] = {LOD_POSITION_HIDDEN, LOD_POSITION_FFN_MIDDLE, LOD_POSITION_FFN_OUTPUT,
                                         LOD_POSITION_EMBEDDING};
    for (unsigned layer = 0; layer < LAYERS; layer++) {
        model_layer_f64 *l = &s->layers[layer];
        lod_dropout *const places[] = {&l->attention_output, &l->ffn_middle, &l->ffn_output, &s->m.embedding};
        for (unsigned i = 0; i < (layer == 0 ? 4 : 3); i++) {
            size_t t = (i + 2 * layer) % 4;
            *places[i] = (lod_dropout){.pattern = triples[t].pattern, .compensation = triples[t].compensation};
            places[i]->p = 0.2 + 0.1 * i, places[i]->seed = s->m.seed;
            lod_site(LOD_DOMAIN_TRAIN, layer, positions[i], 0, 0, &places[i]->site, NULL);
        }
    }
}

void small_llama_drop_matrices(small_llama *s, unsigned first) {
    s->batch.step = 41;
    for (unsigned i = first * MODEL_MODULES; i < LAYERS * MODEL_MODULES; i++) {
        const unsigned layer = i / MODEL_MODULES, module = i % MODEL_MODULES;
        model_linear *l = &s->layers[layer].linear[module];
        l->lora_a = l->lora_b = (lod_dropout){.pattern = LOD_PATTERN_COLUMN, .p = 0.5, .seed = s->m.seed};
        l->lora_b.p = 0.3, l->lora_b.compensation = LOD_COMPENSATION_INVERTED;
        lod_site(LOD_DOMAIN_TRAIN, layer, LOD_POSITION_LORA_A + module, 0, 0, &l->lora_a.site, NULL);
        lod_site(LOD_DOMAIN_TRAIN, layer, LOD_POSITION_LORA_B + module, 0, 0, &l->lora_b.site, NULL);
    }
}

void small_llama_free(small_llama *s) {
    while (s->count > 0) {
        free(s->memory[--s->count]);
    }
}
