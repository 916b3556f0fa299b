// Memory of benchmarks.
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench.h"

void *bench_memory(size_t bytes) {
    const size_t huge_page = 2 << 20;
    void *memory = aligned_alloc(huge_page, lod_round_up(bytes, huge_page));
    if (memory) madvise(memory, lod_round_up(bytes, huge_page), MADV_HUGEPAGE);
    return memory;
}

typedef struct kept {
    struct kept *next;
    max_align_t data[];
} kept;
static kept *all_kept;

static void free_kept(void) {
    while (all_kept) {
        kept *next = all_kept->next;
        free(all_kept);
        all_kept = next;
    }
}

void *bench_keep(size_t count, size_t size) {
    kept *k = calloc(1, sizeof *k + count * size);
    if (!k) return NULL;
    if (!all_kept) atexit(free_kept);
    k->next = all_kept;
    all_kept = k;
    return k->data;
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

static size_t cold_bytes;

void bench_set_cold_bytes(size_t bytes) {
    cold_bytes = bytes;
}

size_t bench_cold_bytes(void) {
    const size_t least = (size_t)64 << 20, most = (size_t)256 << 20;
    if (cold_bytes) return cold_bytes;
    const long last_cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    const size_t twice = last_cache > 0 ? 2 * (size_t)last_cache : 0;
    return twice < least ? least : twice > most ? most : twice;
}
