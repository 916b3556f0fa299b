// How a layer's time grows with its tokens, its inputs and its outputs: sizes in turns, the least time of each, and a
// straight line through them.
#include <math.h>
#include <stdio.h>

#include "bench.h"

enum { SIZES = 4 };
static const size_t sizes[SIZES] = {512, 1024, 2048, 4096};
static const size_t beside = 768; // the other two sizes

static bench_shape shape_of(size_t axis, size_t size) {
    bench_shape s = {.tokens = beside, .n_in = beside, .n_out = beside, .rank = 8};
    *(axis == 0 ? &s.tokens : axis == 1 ? &s.n_in : &s.n_out) = size;
    return s;
}

// Least squares: seconds = line[0] + line[1] * size; returns the share of the variance that is left.
static double fit(const double seconds[SIZES], double line[2]) {
    double n = SIZES, sx = 0, sy = 0, sxx = 0, sxy = 0, left = 0, all = 0;
    for (size_t i = 0; i < SIZES; i++) {
        const double x = (double)sizes[i];
        sx += x, sy += seconds[i], sxx += x * x, sxy += x * seconds[i];
    }
    line[1] = (n * sxy - sx * sy) / (n * sxx - sx * sx);
    line[0] = (sy - line[1] * sx) / n;
    for (size_t i = 0; i < SIZES; i++) {
        left += pow(seconds[i] - line[0] - line[1] * (double)sizes[i], 2);
        all += pow(seconds[i] - sy / n, 2);
    }
    return left / all;
}

// Seconds of each size, in turns; false: err says why not.
static bool measure(bench_layer layers[SIZES], unsigned threads, unsigned rounds, double least[SIZES], lod_error *err) {
    const bench_work work = {.pass = BENCH_BOTH, .rank = 8, .rate = 0.1};
    for (unsigned round = 0; round <= rounds; round++) { // the first one warms up
        for (size_t i = 0; i < SIZES; i++) {
            const double begin = bench_seconds(threads);
            if (bench_layer_run(&layers[i], &work, err) != LOD_OK) return false;
            const double seconds = bench_seconds(threads) - begin;
            if (round) least[i] = fmin(least[i], seconds);
        }
    }
    return true;
}

static bool grow(size_t axis, unsigned threads, unsigned rounds, double least[SIZES], lod_error *err) {
    bench_layer layers[SIZES] = {0};
    bool done = true;
    for (size_t i = 0; done && i < SIZES; i++) {
        const bench_shape s = shape_of(axis, sizes[i]);
        least[i] = INFINITY;
        done = bench_layer_make(&layers[i], &s, LOD_F32, false, threads, err);
    }
    done = done && measure(layers, threads, rounds, least, err);
    for (size_t i = 0; i < SIZES; i++) bench_layer_free(&layers[i]);
    return done;
}

int bench_growth(unsigned threads, unsigned rounds) {
    static const char *const texts[] = {"T", "n_in", "n_out"};
    printf("a layer, r = 8 and dropout 0.1, forward and backward; %zu where nothing else is said; least of %u rounds\n",
           beside, rounds);
    for (size_t axis = 0; axis < 3; axis++) {
        double least[SIZES], line[2];
        lod_error err;
        if (!grow(axis, threads, rounds, least, &err)) {
            fprintf(stderr, "lodrop-bench: %s: %s\n", err.field, err.text);
            return 1;
        }
        printf("%-6s", texts[axis]);
        for (size_t i = 0; i < SIZES; i++) printf("%5zu: %8.3f ms", sizes[i], least[i] * 1e3);
        const double left = fit(least, line);
        printf("   %+.3f ms %+.3f us each, R^2 %.5f\n", line[0] * 1e3, line[1] * 1e6, 1 - left);
        fflush(stdout);
    }
    return 0;
}
