#include "generate.h"

#include <math.h>
#include <stdlib.h>

#include "batch.h"
#include "library.h"
#include "llama.h"
#include "number.h"

enum { PROMPT_TOKENS = 512 }; // that run at once

struct likely {
    float logit;
    uint32_t token;
    double weight; // of the softmax, the first one's being 1
};

struct generator {
    const struct generation_manner *manner;
    struct llama *llama;
    struct batch batch;
    uint32_t site;
    float *logits;       // [of the model's vocabulary]
    struct likely *list; // [of the manner's]; NULL where nothing is drawn
};

static uint32_t likeliest(const float *logits, size_t count) {
    uint32_t best = 0;
    for (uint32_t i = 1; i < count; i++) {
        best = logits[i] > logits[best] ? i : best;
    }
    return best;
}

static int likeliest_first(const void *a, const void *b) {
    const struct likely *x = a, *y = b;
    return x->logit != y->logit ? (x->logit < y->logit) - (x->logit > y->logit)
                                : (x->token > y->token) - (x->token < y->token);
}

static uint32_t draw_token(struct generator *g, uint32_t draw) {
    const struct generation_manner *m = g->manner;
    size_t count = m->most_likely && m->most_likely < m->vocabulary ? m->most_likely : m->vocabulary, kept = 0;
    double all = 0, sum = 0;
    uint32_t word;
    for (uint32_t i = 0; i < m->vocabulary; i++) {
        g->list[i] = (struct likely){.logit = g->logits[i], .token = i};
    }
    qsort(g->list, m->vocabulary, sizeof *g->list, likeliest_first);
    for (size_t i = 0; i < count; i++) {
        g->list[i].weight = number_exp(((double)g->list[i].logit - g->list[0].logit) / m->temperature);
        all += g->list[i].weight;
    }
    while (kept < count && sum < m->nucleus * all) {
        sum += g->list[kept++].weight;
    }
    lod_random(m->seed, g->site, draw, 0, 1, &word);
    double at = (word + 0.5) / 4294967296.0 * sum, before = 0;
    for (size_t i = 0; i + 1 < kept; i++) {
        before += g->list[i].weight;
        if (at < before) {
            return g->list[i].token;
        }
    }
    return g->list[kept ? kept - 1 : 0].token;
}

static bool check_finite(const struct generator *g, fault *f) {
    for (size_t i = 0; i < g->manner->vocabulary; i++) {
        if (!isfinite(g->logits[i])) {
            return fault_set(f, FAULT_INPUT, "the model", NULL, "its logits are not finite: nor are its weights, or "
                                                                "those of the adapter");
        }
    }
    return true;
}

// Tokens at positions from `past` on; logits after the last.
static bool feed(struct generator *g, const uint32_t *tokens, size_t count, size_t past, fault *f) {
    for (size_t from = 0; from < count;) {
        batch_clear(&g->batch);
        g->batch.view.rows.count = 1;
        g->batch.start[1] = 0;
        for (size_t i = 0; i < PROMPT_TOKENS && from < count; i++, from++) {
            batch_token(&g->batch, tokens[from], past + from);
        }
        if (!llama_forward(g->llama, &g->batch.view, f)) {
            return false;
        }
    }
    uint32_t last = (uint32_t)batch_tokens(&g->batch) - 1;
    return llama_logits(g->llama, 1, &last, g->logits, f) && check_finite(g, f);
}

static bool ends_text(const struct generation_manner *m, uint32_t token) {
    for (size_t i = 0; i < m->end_count; i++) {
        if (m->ends[i] == token) {
            return true;
        }
    }
    return false;
}

static bool run(struct generator *g, const uint32_t *prompt, size_t count, generation_token *take, void *context,
                fault *f) {
    const struct generation_manner *m = g->manner;
    if (!feed(g, prompt, count, 0, f)) {
        return false;
    }
    for (size_t i = 0; i < m->new_tokens; i++) {
        uint32_t token = g->list ? draw_token(g, (uint32_t)i) : likeliest(g->logits, m->vocabulary);
        if (ends_text(m, token)) {
            break;
        }
        if (!take(context, token, f) || (i + 1 < m->new_tokens && !feed(g, &token, 1, count + i, f))) {
            return false;
        }
    }
    return true;
}

static bool prepare(struct generator *g, const struct model *model, const struct lora *lora, size_t prompt, fault *f) {
    const struct generation_manner *m = g->manner;
    size_t tokens = prompt < PROMPT_TOKENS ? prompt : PROMPT_TOKENS;
    const struct llama_limits limits = {.mode = LLAMA_FORWARD,
                                        .tokens = tokens,
                                        .targets = 1,
                                        .length = prompt + m->new_tokens,
                                        .continues = true,
                                        .threads = m->threads};
    lod_error err;
    g->logits = malloc(model->config.vocab_size * sizeof *g->logits);
    g->list = m->temperature > 0 ? malloc(m->vocabulary * sizeof *g->list) : NULL;
    return ((g->logits && (g->list || m->temperature == 0)) || fault_memory(f, "the logits")) &&
           library_done(lod_site(LOD_DOMAIN_SAMPLING, 0, LOD_POSITION_SAMPLE, 0, 0, &g->site, &err), &err, f) &&
           batch_make(&g->batch, tokens, 1, f) && llama_open(&g->llama, model, lora, &limits, f);
}

bool generate(const struct model *model, const struct lora *lora, const uint32_t *prompt, size_t count,
              const struct generation_manner *manner, generation_token *take, void *context, fault *f) {
    struct generator g = {.manner = manner};
    bool done = prepare(&g, model, lora, count, f) && run(&g, prompt, count, take, context, f);
    llama_close(g.llama);
    batch_free(&g.batch);
    free(g.logits);
    free(g.list);
    return done;
}
