// Attention: every pass of every shape, without dropout, with column and element DropKey, and with attention dropout.
// Each repetition measures the FMA peak and attention without dropout beside itself, since shared machines drift.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "bench.h"

static const double peak_seconds = 0.03;

// One causal segment, everything allocated.
typedef struct attention {
    lod_plan *plan;
    void *workspace;
    float *q, *k, *v, *d_o, *o, *lse, *dq, *dk, *dv;
    size_t start[2];
    uint32_t draw[1];
} attention;

typedef struct attention_case {
    bench_attention_shape shape;
    bench_pass pass;
    const char *name; // of the dropout; NULL: none
    lod_dropout dropout;
    lod_isa isa;
    unsigned threads;
} attention_case;

static bool make(attention *a, const bench_attention_shape *s, unsigned threads, lod_error *err) {
    const size_t width = s->heads * s->head_dim, kv_width = s->kv_heads * s->head_dim;
    *a = (attention){.start = {0, s->tokens}};
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

static lod_status run(attention *a, const attention_case *c, const lod_dropout *dropout, lod_error *err) {
    const bench_attention_shape *s = &c->shape;
    const size_t width = s->heads * s->head_dim, kv_width = s->kv_heads * s->head_dim;
    const lod_attention_args args = {
        .queries = {.count = 1, .start = a->start, .draw = a->draw},
        .keys = {.count = 1, .start = a->start},
        .causal = true,
        .scale = 1 / sqrt((double)s->head_dim),
        .dropout = *dropout,
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
    if (c->pass != BENCH_BACKWARD) LOD_TRY(lod_attention_forward(a->plan, &args, a->workspace, err));
    return c->pass == BENCH_FORWARD ? LOD_OK : lod_attention_backward(a->plan, &args, a->workspace, err);
}

// Flops of the products: two forward, five backward, half of them beyond the causal edge, as many again dropped.
static double flops(const attention_case *c) {
    const bench_attention_shape *s = &c->shape;
    const double keys = (double)s->tokens * (c->dropout.pattern == LOD_PATTERN_ELEMENT ? 1 : 1 - c->dropout.p);
    const double products = (c->pass != BENCH_BACKWARD ? 2 : 0) + (c->pass != BENCH_FORWARD ? 5 : 0);
    return products * (double)(s->heads * s->head_dim) * (double)s->tokens * keys;
}

static double seconds_without(attention *a, const attention_case *c) {
    enum { CALLS = 3 };
    const lod_dropout none = {.p = 0};
    lod_error error;
    double begin = bench_seconds(c->threads);
    for (int i = 0; i < CALLS; i++) {
        if (run(a, c, &none, &error) != LOD_OK) return 0;
    }
    return (bench_seconds(c->threads) - begin) / CALLS;
}

static void measure(gb_state *state, const attention_case *c, attention *a) {
    lod_error error = {0};
    attention_case both = *c;
    both.pass = BENCH_BOTH;
    lod_status status = run(a, &both, &c->dropout, &error); // backward reads what forward wrote
    double peak = bench_peak(c->isa, c->threads, peak_seconds);
    double reference = c->name ? seconds_without(a, c) : 0;
    if (c->name && status == LOD_OK) status = run(a, &both, &c->dropout, &error);
    double calls = 0, begin = bench_seconds(c->threads);
    while (gb_next(state)) {
        if (status == LOD_OK) status = run(a, c, &c->dropout, &error);
        calls++;
    }
    double seconds = (bench_seconds(c->threads) - begin) / calls;
    if (status != LOD_OK) {
        gb_skip(state, error.text);
        return;
    }
    bench_report(state, a->plan, flops(c), seconds, peak, reference);
}

static void run_attention(gb_state *state, const void *context) {
    const attention_case *c = context;
    attention a;
    lod_error error;
    if (make(&a, &c->shape, c->threads, &error)) {
        measure(state, c, &a);
    } else {
        gb_skip(state, error.text);
    }
    unmake(&a);
}

static void add_case(const attention_case *c) {
    char name[160];
    snprintf(name, sizeof name, "attention_%s_f32/%s/%s_t%zu%s%s", bench_pass_text(c->pass), lod_isa_text(c->isa),
             c->shape.name, c->shape.tokens, c->name ? "_" : "", c->name ? c->name : "");
    gb_add(name, run_attention, c);
}

void bench_add_attentions(const bench_attention_shape *shapes, size_t count, unsigned threads) {
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
    static attention_case *cases; // the benchmarks hold on to them
    lod_isa isa;
    cases = calloc(count * BENCH_PASSES * WORKS + 1, sizeof *cases);
    if (!cases || lod_isa_in_use(&isa, NULL, NULL) != LOD_OK) return;
    attention_case *next = cases;
    for (size_t i = 0; i < count; i++) {
        for (bench_pass pass = BENCH_FORWARD; pass < BENCH_PASSES; pass++) {
            for (size_t j = 0; j < WORKS; j++, next++) {
                *next = (attention_case){.shape = shapes[i], .pass = pass, .name = works[j].name, .isa = isa,
                                         .dropout = works[j].dropout, .threads = threads};
                add_case(next);
            }
        }
    }
}
