// Softmax cross-entropy over a vocabulary, W packed before: the losses alone, and with the gradient of H.
#include <stdio.h>
#include <stdlib.h>

#include "bench.h"

typedef struct loss {
    const bench_loss_shape *shape;
    lod_plan *plan;
    void *packed, *workspace;
    float *h, *dh, *loss;
    uint32_t *target;
} loss;

typedef struct loss_case {
    bench_loss_shape shape;
    bench_pass pass;
    lod_isa isa;
    unsigned threads;
} loss_case;

static bool make(loss *l, const bench_loss_shape *s, unsigned threads, lod_error *err) {
    *l = (loss){.shape = s};
    *err = (lod_error){LOD_NO_MEMORY, "loss", "no memory"};
    const lod_loss_shape planned = {.n_in = s->n_in, .vocabulary = s->vocabulary, .tokens = s->tokens};
    if (lod_plan_loss(&planned, threads, LOD_ESTIMATE, &l->plan, err) != LOD_OK) return false;
    float *w = bench_random(s->vocabulary, s->n_in, 1);
    l->packed = bench_memory(lod_packed_size(s->n_in, s->vocabulary, LOD_F32));
    l->workspace = bench_memory(lod_plan_workspace(l->plan));
    l->h = bench_random(s->tokens, s->n_in, 2), l->dh = bench_floats(s->tokens * s->n_in);
    l->loss = bench_floats(s->tokens), l->target = bench_memory(s->tokens * sizeof *l->target);
    bool made = w && l->packed && l->workspace && l->h && l->dh && l->loss && l->target;
    for (size_t i = 0; made && i < s->tokens; i++) {
        l->target[i] = (uint32_t)(i * 7919 % s->vocabulary);
    }
    made = made && lod_pack_weights(s->n_in, s->vocabulary, LOD_F32, w, s->n_in, l->packed, err) == LOD_OK;
    free(w);
    return made;
}

static void unmake(loss *l) {
    void *const memory[] = {l->packed, l->workspace, l->h, l->dh, l->loss, l->target};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++) {
        free(memory[i]);
    }
    lod_plan_free(l->plan);
}

static lod_status call(void *state, const void *work, lod_error *err) {
    loss *l = state;
    const bench_pass *pass = work;
    const lod_loss_args args = {.tokens = l->shape->tokens,
                                .h = l->h,
                                .ldh = l->shape->n_in,
                                .w = {.packed = l->packed, .dtype = LOD_F32},
                                .target = l->target,
                                .loss = l->loss,
                                .dh = *pass == BENCH_FORWARD ? NULL : l->dh,
                                .lddh = l->shape->n_in};
    return lod_loss(l->plan, &args, l->workspace, err);
}

static void run_loss(gb_state *state, const void *context) {
    const loss_case *c = context;
    const double products = c->pass == BENCH_FORWARD ? 1 : 2, tokens = (double)c->shape.tokens;
    const double n_in = (double)c->shape.n_in, vocabulary = (double)c->shape.vocabulary;
    loss l;
    lod_error error;
    if (make(&l, &c->shape, c->threads, &error)) {
        bench_measure(state, &(bench_subject){.call = call,
                                              .state = &l,
                                              .work = &c->pass,
                                              .flops = products * 2 * tokens * n_in * vocabulary,
                                              .bytes = products * sizeof(float) * n_in * (tokens + vocabulary),
                                              .batch = 1,
                                              .isa = c->isa,
                                              .threads = c->threads,
                                              .plan = l.plan});
    } else {
        gb_skip(state, error.text);
    }
    unmake(&l);
}

void bench_add_losses(const bench_shapes *shapes, lod_isa isa, unsigned threads) {
    static const bench_pass passes[] = {BENCH_FORWARD, BENCH_BOTH};
    loss_case *cases = bench_keep(shapes->loss_count * 2, sizeof *cases);
    for (size_t i = 0; cases && i < shapes->loss_count * 2; i++) {
        cases[i] = (loss_case){.shape = shapes->losses[i / 2], .pass = passes[i % 2], .isa = isa, .threads = threads};
        char name[160];
        snprintf(name, sizeof name, "loss_%s_f32/%s/%s_t%zu", bench_pass_text(cases[i].pass), lod_isa_text(isa),
                 cases[i].shape.name, cases[i].shape.tokens);
        gb_add(name, run_loss, &cases[i]);
    }
}
