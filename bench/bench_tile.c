// Tiles of the low-rank layer alone, operands in the nearest cache: the ceiling of what a layer can reach.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "kernels.h"

enum { DEPTH = 128, MAX_ROWS = 64, MAX_COLUMNS = 2 * LOD_PANEL };

static void run_tile(gb_state *state, const void *context) {
    static _Alignas(64) float x[MAX_ROWS * LOD_X_LD], w[DEPTH * MAX_COLUMNS], c[MAX_ROWS * MAX_COLUMNS];
    const lod_kernel *kernel = context;
    lod_lowrank_tile_args args = {
        .m = kernel->mr,
        .n = kernel->nr,
        .k = DEPTH,
        .x = x,
        .w = w,
        .ldpanel = DEPTH * LOD_PANEL,
        .c = c,
        .ldc = MAX_COLUMNS,
    };
    double peak = bench_peak(kernel->isa, 1, 0.02), calls = 0, begin = bench_seconds(1);
    while (gb_next(state)) {
        for (int i = 0; i < 256; i++) {
            kernel->fn.lowrank_tile_f32(&args);
        }
        calls += 256;
    }
    double rate = calls * 2 * kernel->mr * kernel->nr * DEPTH / (bench_seconds(1) - begin);
    gb_counter(state, "GF/s", rate * 1e-9);
    if (peak > 0) gb_counter(state, "peak_share", rate / peak);
}

void bench_add_tiles(void) {
    size_t count;
    const lod_kernel *kernels = lod_kernels(&count);
    for (size_t i = 0; i < count; i++) {
        const lod_kernel *kernel = &kernels[i];
        bool fits = kernel->mr <= MAX_ROWS && kernel->nr <= MAX_COLUMNS;
        if (kernel->op != LOD_OP_lowrank_tile_f32 || !lod_cpu_has(kernel->isa) || !fits) continue;
        char name[96];
        snprintf(name, sizeof name, "%s/%s/k%d", lod_op_text(kernel->op), strstr(kernel->name, "__") + 2, DEPTH);
        gb_add(name, run_tile, kernel);
    }
}
