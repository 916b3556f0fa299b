// Ratios for the record: what is compared runs in turn, so that a drift of the machine meets all of it alike, and each
// round's ratio is its own. A line gives medians, and quartiles in brackets.
#include <stdio.h>
#include <stdlib.h>

#include "bench.h"

enum { PEAK, PLAIN, DROPOUT, FROZEN, KINDS };
static const double settle_seconds = 1, peak_seconds = 0.05, turn_seconds = 0.1;

typedef struct series {
    double *value;
    unsigned count;
} series;

static int ascending(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

// The q-quantile of a sorted series, interpolated.
static double quantile(const series *s, double q) {
    double at = q * (s->count - 1);
    unsigned below = (unsigned)at, above = below + 1 < s->count ? below + 1 : below;
    return s->value[below] + (s->value[above] - s->value[below]) * (at - below);
}

static void print_series(const char *before, series *s, const char *unit) {
    qsort(s->value, s->count, sizeof *s->value, ascending);
    printf("%s%.3f%s [%.3f, %.3f]", before, quantile(s, 0.5), unit, quantile(s, 0.25), quantile(s, 0.75));
}

// Seconds a call, over about turn_seconds.
static double turn(bench_layer *layer, unsigned threads, const bench_work *work) {
    lod_error error;
    double begin = bench_seconds(threads), now;
    unsigned calls = 0;
    do {
        if (bench_layer_run(layer, work, &error) != LOD_OK) {
            fprintf(stderr, "%s: %s: %s\n", layer->shape.name, error.field, error.text);
            exit(1);
        }
        calls++;
        now = bench_seconds(threads);
    } while (now - begin < turn_seconds);
    return (now - begin) / calls;
}

static void measure(bench_layer *layer, lod_isa isa, unsigned threads, double rate, series ratios[KINDS]) {
    const bench_shape *s = &layer->shape;
    const bench_work works[KINDS] = {
        [PLAIN] = {.pass = BENCH_BOTH, .rank = s->rank},
        [DROPOUT] = {.pass = BENCH_BOTH, .rank = s->rank, .rate = rate},
        [FROZEN] = {.pass = BENCH_BOTH},
    };
    bench_peak(isa, threads, settle_seconds);
    for (int kind = PLAIN; kind < KINDS; kind++) {
        turn(layer, threads, &works[kind]);
    }
    for (unsigned i = 0; i < ratios[PEAK].count; i++) {
        double peak = bench_peak(isa, threads, peak_seconds), seconds[KINDS];
        for (int kind = PLAIN; kind < KINDS; kind++) {
            seconds[kind] = turn(layer, threads, &works[kind]);
        }
        ratios[PEAK].value[i] = peak * 1e-9;
        ratios[PLAIN].value[i] = peak > 0 ? bench_layer_flops(s, &works[PLAIN]) / seconds[PLAIN] / peak : 0;
        ratios[DROPOUT].value[i] = seconds[DROPOUT] / seconds[PLAIN];
        ratios[FROZEN].value[i] = seconds[PLAIN] / seconds[FROZEN];
    }
}

static void share(const bench_shape *s, lod_isa isa, unsigned threads, double rate, series ratios[KINDS]) {
    bench_layer layer;
    lod_error error;
    if (!bench_layer_make(&layer, s, LOD_F32, false, threads, &error)) {
        fprintf(stderr, "%s: %s: %s\n", s->name, error.field, error.text);
        exit(1);
    }
    measure(&layer, isa, threads, rate, ratios);
    printf("lowrank_fwd_bwd %zux%zu T=%zu r=%zu %s: ", s->n_in, s->n_out, s->tokens, s->rank, lod_isa_text(isa));
    if (ratios[PEAK].value[0] > 0) {
        print_series("", &ratios[PLAIN], " of FMA peak");
    } else {
        printf("no FMA probe");
    }
    printf(", dropout %g: ", rate);
    print_series("", &ratios[DROPOUT], " x");
    print_series(", adapter: ", &ratios[FROZEN], " x frozen layer");
    print_series(" (peak ", &ratios[PEAK], " GF/s");
    printf(", threads %u, rounds %u)\n", threads, ratios[PEAK].count);
    fflush(stdout);
    bench_layer_free(&layer);
}

int bench_share(const bench_shape *shapes, size_t count, unsigned threads, unsigned rounds, double rate) {
    lod_isa isa;
    lod_error error;
    if (lod_isa_in_use(&isa, NULL, &error) != LOD_OK) {
        fprintf(stderr, "%s: %s\n", error.field, error.text);
        return 1;
    }
    series ratios[KINDS];
    for (int kind = 0; kind < KINDS; kind++) {
        ratios[kind] = (series){.value = calloc(rounds, sizeof(double)), .count = rounds};
        if (!ratios[kind].value) return 1;
    }
    for (size_t i = 0; i < count; i++) {
        share(&shapes[i], isa, threads, rate, ratios);
    }
    for (int kind = 0; kind < KINDS; kind++) {
        free(ratios[kind].value);
    }
    return 0;
}
