// A binary counter of partial sums: adding leaf i merges the levels whose bits carry from i to i + 1, so the shape of
// the summation tree depends on the number of leaves alone.
#include <string.h>

#include "dispatch.h"

// At least one: finish_all takes the first level of a sum for a total, whether leaves came or not.
static unsigned levels_for(uint64_t leaves) {
    unsigned levels = 1;
    while (leaves >>= 1) levels++;
    return levels;
}

size_t lod_grad_sum_size(size_t size, uint64_t leaves) {
    size_t floats, bytes;
    if (__builtin_mul_overflow(size, (size_t)levels_for(leaves), &floats)) return 0;
    return __builtin_mul_overflow(floats, sizeof(float), &bytes) ? 0 : bytes;
}

void lod_grad_sum_init(lod_grad_sum *sum, size_t size, uint64_t leaves, void *memory) {
    *sum = (lod_grad_sum){.size = size, .levels = levels_for(leaves), .level = memory};
}

static void add(float *into, const float *from, size_t n) {
    for (size_t i = 0; i < n; i++) into[i] = into[i] + from[i];
}

void lod_grad_sum_finish(lod_grad_sum *sum, float *total) {
    LOD_DEFAULT_FP;
    bool empty = true;
    for (unsigned l = 0; l < sum->levels; l++) {
        if (!(sum->count >> l & 1)) continue;
        const float *level = sum->level + l * sum->size;
        if (empty) {
            memcpy(total, level, sum->size * sizeof(float));
        } else {
            add(total, level, sum->size);
        }
        empty = false;
    }
    if (empty) memset(total, 0, sum->size * sizeof(float));
    sum->count = 0;
}

// Once a sum is finished its first level is free, for the totals: when sum k is, levels of at most k are asked for.
void lod_grad_sum_finish_all(lod_grad_sum *sums, size_t count, float *total) {
    LOD_DEFAULT_FP;
    const size_t size = sums->size;
    for (size_t k = 0; k < count; k++) {
        lod_grad_sum_finish(&sums[k], total);
        unsigned l = 0;
        for (; k >> l & 1; l++) add(total, sums[l].level, size);
        memcpy(sums[l].level, total, size * sizeof(float));
    }
    const unsigned lowest = (unsigned)__builtin_ctzll(count);
    memcpy(total, sums[lowest].level, size * sizeof(float));
    for (unsigned l = lowest + 1; l < 64; l++) {
        if (count >> l & 1) add(total, sums[l].level, size);
    }
}

void lod_grad_sum_push(lod_grad_sum *sum, uint64_t index, float *leaf, size_t rows, size_t cols, size_t ldleaf,
                       size_t col0, size_t ld) {
    unsigned l = 0;
    for (; index >> l & 1; l++) {
        for (size_t q = 0; q < rows; q++) add(leaf + q * ldleaf, sum->level + l * sum->size + q * ld + col0, cols);
    }
    for (size_t q = 0; q < rows; q++) {
        memcpy(sum->level + l * sum->size + q * ld + col0, leaf + q * ldleaf, cols * sizeof(float));
    }
}
