// Attention: every pass of every shape, without dropout, with column and element DropKey, and with attention dropout.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "bench.h"

// One causal segment, everything allocated.
typedef struct attention {
    const bench_attention_shape *shape;
    lod_plan *plan;
    void *workspace;
    float *q, *k, *v, *d_o, *o, *lse, *dq, *dk, *dv;
    size_t start[2];
    uint32_t draw[1];
} attention;

typedef struct attention_work {
    bench_pass pass;
    lod_dropout dropout;
} attention_work;

typedef struct attention_case {
    bench_attention_shape shape;
    attention_work work;
    const char *name; // of the dropout; NULL: none
    lod_isa isa;
    unsigned threads;
} attention_case;

static bool make(attention *a, const bench_attention_shape *s, unsigned threads, lod_error *err) {
    const size_t width = s->heads * s->head_dim, kv_width = s->kv_heads * s->head_dim;
    *a = (attention){.shape = s, .start = {0, s->tokens}};
    *err = (lod_error){LOD_NO_MEMORY, "attention", "no memory"};
    const lod_attention_shape planned = {
        .heads = s->heads, .kv_heads = s->kv_heads, .head_dim = s->head_dim, .keys = s->tokens};
    if (lod_plan_attention(&planned, threads, LOD_ESTIMATE, &a->plan, err) != LOD_OK) return false;
    a->workspace = bench_memory(lod_plan_workspace(a->plan));
    a->q = bench_random(s->tokens, width, 1), a->k = bench_random(s->tokens, kv_width, 2);
    a->v = bench_random(s->tokens, kv_width, 3), a->d_o = bench_random(s->tokens, width, 4);
    a->o = bench_floats(s->tokens * width), a->lse = bench_floats(s->tokens * s->heads);
    a->dq = bench_floats(s->tokens * width), a->dk = bench_floats(s->tokens * kv_width);
    a->dv = bench_floats(s->tokens * kv_width);
    return a->workspace && a->q && a->k && a->v && a->d_o && a->o && a->lse && a->dq && a->dk && a->dv;
}

static void unmake(attention *a) {
    void *const memory[] = {a->workspace, a->q, a->k, a->v, a->d_o, a->o, a->lse, a->dq, a->dk, a->dv};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++) {
        free(memory[i]);
    }
    lod_plan_free(a->plan);
}

static lod_status call(void *state, const void *work, lod_error *err) {
    attention *a = state;
    const attention_work *w = work;
    const bench_attention_shape *s = a->shape;
    const size_t width = s->heads * s->head_dim, kv_width = s->kv_heads * s->head_dim;
    const lod_attention_args args = {
        .queries = {.count = 1, .start = a->start, .draw = a->draw},
        .keys = {.count = 1, .start = a->start},
        .causal = true,
        .scale = 1 / sqrt((double)s->head_dim),
        .dropout = w->dropout,
        .q = a->q,
        .k = a->k,
        .v = a->v,
        .ldq = width,
        .ldk = kv_width,
        .ldv = kv_width,
        .o = a->o,
        .ldo = width,
        .lse = a->lse,
        .d_o = a->d_o,
        .dq = a->dq,
        .dk = a->dk,
        .dv = a->dv,
    };
    if (w->pass != BENCH_BACKWARD) LOD_TRY(lod_attention_forward(a->plan, &args, a->workspace, err));
    return w->pass == BENCH_FORWARD ? LOD_OK : lod_attention_backward(a->plan, &args, a->workspace, err);
}

// Flops of the products: two forward, five backward, half of them beyond the causal edge, as many again dropped.
static double flops(const bench_attention_shape *s, const attention_work *w) {
    const double keys = (double)s->tokens * (w->dropout.pattern == LOD_PATTERN_ELEMENT ? 1 : 1 - w->dropout.p);
    const double products = (w->pass != BENCH_BACKWARD ? 2 : 0) + (w->pass != BENCH_FORWARD ? 5 : 0);
    return products * (double)(s->heads * s->head_dim) * (double)s->tokens * keys;
}

// Forward: Q, O; K, V. Backward: Q, O, dO, dQ; K, V, dK, dV. And the log-sum-exp.
static double bytes(const bench_attention_shape *s, const attention_work *w) {
    const double passes = (w->pass != BENCH_BACKWARD ? 1 : 0) + (w->pass != BENCH_FORWARD ? 2 : 0);
    const double matrices = passes * 2 * (double)((s->heads + s->kv_heads) * s->head_dim);
    return sizeof(float) * (double)s->tokens * (matrices + (double)s->heads);
}

static void run_attention(gb_state *state, const void *context) {
    const attention_case *c = context;
    const attention_work before = {.pass = BENCH_BOTH, .dropout = c->work.dropout}, plain = {.pass = c->work.pass};
    attention a;
    lod_error error;
    if (make(&a, &c->shape, c->threads, &error)) {
        bench_measure(state, &(bench_subject){.call = call,
                                              .state = &a,
                                              .work = &c->work,
                                              .before = &before,
                                              .plain = c->name ? &plain : NULL,
                                              .flops = flops(&c->shape, &c->work),
                                              .bytes = bytes(&c->shape, &c->work),
                                              .batch = 1,
                                              .isa = c->isa,
                                              .threads = c->threads,
                                              .plan = a.plan});
    } else {
        gb_skip(state, error.text);
    }
    unmake(&a);
}

static void add_case(const attention_case *c) {
    char name[160];
    snprintf(name, sizeof name, "attention_%s_f32/%s/%s_t%zu%s%s", bench_pass_text(c->work.pass), lod_isa_text(c->isa),
             c->shape.name, c->shape.tokens, c->name ? "_" : "", c->name ? c->name : "");
    gb_add(name, run_attention, c);
}

void bench_add_attentions(const bench_shapes *shapes, lod_isa isa, unsigned threads) {
    static const struct {
        const char *name;
        lod_dropout dropout;
    } works[] = {
        {NULL, {.p = 0}},
        {"column_p0.5", {.pattern = LOD_PATTERN_COLUMN, .p = 0.5, .seed = 1}},
        {"element_p0.1", {.p = 0.1, .seed = 1}},
        {"weight_p0.1", {.compensation = LOD_COMPENSATION_INVERTED, .p = 0.1, .seed = 1}},
    };
    enum { WORKS = sizeof works / sizeof works[0] };
    attention_case *cases = bench_keep(shapes->attention_count * BENCH_PASSES * WORKS, sizeof *cases);
    if (!cases) return;
    attention_case *next = cases;
    for (size_t i = 0; i < shapes->attention_count; i++) {
        for (bench_pass pass = BENCH_FORWARD; pass < BENCH_PASSES; pass++) {
            for (size_t j = 0; j < WORKS; j++, next++) {
                *next = (attention_case){.shape = shapes->attentions[i], .work = {pass, works[j].dropout},
                                         .name = works[j].name, .isa = isa, .threads = threads};
                add_case(next);
            }
        }
    }
}
