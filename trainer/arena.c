#include "arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { ALIGNMENT = 64, HUGE_PAGE = 2 << 20 };

void *arena_take(struct arena *a, size_t count, size_t item) {
    size_t at = a->used;
    bool overflow = at == SIZE_MAX || (item && count > (SIZE_MAX / 2 - at) / item);
    a->used = overflow ? SIZE_MAX : at + (count * item + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    a->peak = a->used > a->peak ? a->used : a->peak;
    return a->base && !overflow ? a->base + at : NULL;
}

float *arena_floats(struct arena *a, size_t rows, size_t columns) {
    bool overflow = columns && rows > SIZE_MAX / 2 / columns;
    return arena_take(a, overflow ? SIZE_MAX : rows * columns, sizeof(float));
}

void arena_rewind(struct arena *a, size_t mark) {
    a->used = a->used == SIZE_MAX ? SIZE_MAX : mark;
}

bool memory_take(void **memory, size_t bytes, const char *what, fault *f) {
    *memory = NULL;
    if (bytes > SIZE_MAX / 2) {
        return fault_memory(f, what);
    }
    // On small pages it is chance whether the blocks of a product collide in L2.
    bool huge = bytes >= 2 * (size_t)HUGE_PAGE;
    size_t alignment = huge ? HUGE_PAGE : ALIGNMENT, whole = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (posix_memalign(memory, alignment, whole ? whole : ALIGNMENT) != 0) {
        *memory = NULL;
        return fault_memory(f, what);
    }
    if (huge) {
        madvise(*memory, whole, MADV_HUGEPAGE);
    }
    return true;
}
