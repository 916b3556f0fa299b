// Operands of benchmarks.
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "bench.h"

void *bench_memory(size_t bytes) {
    const size_t huge_page = 2 << 20;
    void *memory = aligned_alloc(huge_page, lod_round_up(bytes, huge_page));
    if (memory) madvise(memory, lod_round_up(bytes, huge_page), MADV_HUGEPAGE);
    return memory;
}

float *bench_floats(size_t count) {
    return bench_memory(count * sizeof(float));
}

float *bench_random(size_t rows, size_t cols, uint32_t site) {
    float *x = bench_floats(rows * cols);
    for (size_t i = 0; x && i < rows; i++) {
        uint32_t *words = (uint32_t *)(x + i * cols); // a word becomes the float in its place
        lod_random(1, site, 0, (uint32_t)i, cols, words);
        for (size_t j = 0; j < cols; j++) {
            float value = (float)(words[j] >> 8) * 0x1p-23f - 1;
            memcpy(&words[j], &value, sizeof value);
        }
    }
    return x;
}
