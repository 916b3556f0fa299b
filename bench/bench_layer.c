// The low-rank layer: every pass of every shape, frozen, with its adapter, and with dropout on the adapter's input.
// Each repetition measures the FMA peak and the layer without dropout beside itself, since shared machines drift.
#include <stdio.h>
#include <stdlib.h>

#include "bench.h"

static const double peak_seconds = 0.03;

typedef struct layer_case {
    bench_shape shape;
    bench_work work;
    lod_isa isa;
    unsigned threads;
} layer_case;

static double seconds_of(bench_layer *layer, const bench_work *work, unsigned threads, unsigned calls) {
    lod_error error;
    double begin = bench_seconds(threads);
    for (unsigned i = 0; i < calls; i++) {
        if (bench_layer_run(layer, work, &error) != LOD_OK) return 0;
    }
    return (bench_seconds(threads) - begin) / calls;
}

static void measure(gb_state *state, const layer_case *c, bench_layer *layer) {
    const bench_work without = {.pass = c->work.pass, .rank = c->work.rank};
    lod_error error = {0};
    lod_status status = bench_layer_run(layer, &(bench_work){.pass = BENCH_BOTH, .rank = c->work.rank}, &error);
    double peak = bench_peak(c->isa, c->threads, peak_seconds);
    double reference = c->work.rate > 0 ? seconds_of(layer, &without, c->threads, 3) : 0;
    double calls = 0, begin = bench_seconds(c->threads);
    while (gb_next(state)) {
        if (status == LOD_OK) status = bench_layer_run(layer, &c->work, &error);
        calls++;
    }
    double seconds = (bench_seconds(c->threads) - begin) / calls;
    if (status != LOD_OK) {
        gb_skip(state, error.text);
        return;
    }
    bench_report(state, layer->plan, bench_layer_flops(&c->shape, &c->work), seconds, peak, reference);
}

static void run_layer(gb_state *state, const void *context) {
    const layer_case *c = context;
    bench_layer layer;
    lod_error error;
    if (bench_layer_make(&layer, &c->shape, c->threads, &error)) {
        measure(state, c, &layer);
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
    snprintf(name, sizeof name, "lowrank_%s_f32/%s/%s_t%zu_%s", bench_pass_text(c->work.pass), lod_isa_text(c->isa),
             c->shape.name, c->shape.tokens, adapter);
    gb_add(name, run_layer, c);
}

void bench_add_layers(const bench_shape *shapes, size_t count, unsigned threads) {
    enum { WORKS = 3 };
    static layer_case *cases; // the benchmarks hold on to them
    lod_isa isa;
    cases = calloc(count * BENCH_PASSES * WORKS, sizeof *cases);
    if (!cases || lod_isa_in_use(&isa, NULL, NULL) != LOD_OK) return;
    layer_case *next = cases;
    for (size_t i = 0; i < count; i++) {
        const size_t rank = shapes[i].rank;
        const bench_work works[WORKS] = {{.rank = 0}, {.rank = rank}, {.rank = rank, .rate = 0.1}};
        for (bench_pass pass = BENCH_FORWARD; pass < BENCH_PASSES; pass++) {
            for (size_t j = 0; j < WORKS; j++, next++) {
                *next = (layer_case){.shape = shapes[i], .work = works[j], .isa = isa, .threads = threads};
                next->work.pass = pass;
                add_layer(next);
            }
        }
    }
}
