// The low-rank layer: every pass of every shape, frozen, with its adapter, and with dropout on the adapter's input;
// frozen with W in bfloat16; and for few tokens, where reading W is the work, forward with W out of memory (/cold).
#include <stdio.h>
#include <stdlib.h>

#include "bench.h"

enum { FEW_TOKENS = 16 };

typedef struct layer_case {
    bench_shape shape;
    bench_work work;
    lod_dtype dtype;
    bool cold;
    lod_isa isa;
    unsigned threads;
} layer_case;

static lod_status call(void *layer, const void *work, lod_error *err) {
    return bench_layer_run(layer, work, err);
}

static void run_layer(gb_state *state, const void *context) {
    const layer_case *c = context;
    const bench_work before = {.pass = BENCH_BOTH, .rank = c->work.rank};
    const bench_work plain = {.pass = c->work.pass, .rank = c->work.rank};
    bench_layer layer;
    lod_error error;
    if (bench_layer_make(&layer, &c->shape, c->dtype, c->cold, c->threads, &error)) {
        bench_measure(state, &(bench_subject){.call = call,
                                              .state = &layer,
                                              .work = &c->work,
                                              .before = &before,
                                              .plain = c->work.rate > 0 ? &plain : NULL,
                                              .flops = bench_layer_flops(&c->shape, &c->work),
                                              .bytes = bench_layer_bytes(&c->shape, c->dtype, &c->work),
                                              .batch = 1,
                                              .isa = c->isa,
                                              .threads = c->threads,
                                              .plan = layer.plan});
    } else {
        gb_skip(state, error.text);
    }
    bench_layer_free(&layer);
}

static void add_layer(const layer_case *c) {
    char name[160], adapter[64] = "frozen";
    if (c->work.rank) {
        int length = snprintf(adapter, sizeof adapter, "r%zu", c->work.rank);
        if (c->work.rate > 0) snprintf(adapter + length, sizeof adapter - (size_t)length, "_p%g", c->work.rate);
    }
    snprintf(name, sizeof name, "lowrank_%s_%s/%s/%s_t%zu_%s%s", bench_pass_text(c->work.pass),
             c->dtype == LOD_BF16 ? "bf16" : "f32", lod_isa_text(c->isa), c->shape.name, c->shape.tokens, adapter,
             c->cold ? "/cold" : "");
    gb_add(name, run_layer, c);
}

void bench_add_layers(const bench_shapes *shapes, lod_isa isa, unsigned threads) {
    enum { WORKS = 4 };
    layer_case *cases = bench_keep(shapes->layer_count * BENCH_PASSES * WORKS * 2, sizeof *cases);
    if (!cases) return;
    layer_case *next = cases;
    for (size_t i = 0; i < shapes->layer_count; i++) {
        const bench_shape *s = &shapes->layers[i];
        const bench_work works[WORKS] = {{.rank = 0}, {.rank = 0}, {.rank = s->rank}, {.rank = s->rank, .rate = 0.1}};
        for (bench_pass pass = BENCH_FORWARD; pass < BENCH_PASSES; pass++) {
            for (size_t j = 0; j < WORKS * 2; j++) {
                const bool cold = j / WORKS;
                if (cold && (pass != BENCH_FORWARD || s->tokens > FEW_TOKENS)) continue;
                const lod_dtype dtype = j % WORKS == 1 ? LOD_BF16 : LOD_F32;
                *next = (layer_case){.shape = *s, .work = works[j % WORKS], .dtype = dtype, .cold = cold, .isa = isa,
                                     .threads = threads};
                next->work.pass = pass;
                add_layer(next++);
            }
        }
    }
}
