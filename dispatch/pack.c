// Packed weights: W [n_out][n_in] as [n_in / 16][n_out][16], zeros beyond n_in. Backward reads a panel as it lies;
// forward transposes 16 x 16 blocks, each of them contiguous.
#include <string.h>

#include "dispatch.h"

static size_t item_size(lod_dtype dtype) {
    return dtype == LOD_F32 ? sizeof(float) : sizeof(uint16_t);
}

size_t lod_packed_size(size_t n_in, size_t n_out, lod_dtype dtype) {
    size_t columns, items, bytes;
    if (__builtin_add_overflow(n_in, (size_t)LOD_PANEL - 1, &columns)) return 0;
    columns = columns / LOD_PANEL * LOD_PANEL;
    if (__builtin_mul_overflow(columns, n_out, &items)) return 0;
    return __builtin_mul_overflow(items, item_size(dtype), &bytes) ? 0 : bytes;
}

lod_status lod_pack_weights(size_t n_in, size_t n_out, lod_dtype dtype, const void *w, size_t ldw, void *packed,
                            lod_error *err) {
    LOD_TRY(lod_check_dtype(dtype, "dtype", err));
    if (ldw < n_in) return lod_fail(err, LOD_BAD_ARGUMENT, "ldw", "%zu is below n_in %zu", ldw, n_in);
    if (n_in == 0) return lod_fail(err, LOD_BAD_ARGUMENT, "n_in", "is 0");
    if (n_out == 0) return lod_fail(err, LOD_BAD_ARGUMENT, "n_out", "is 0");
    if (!lod_packed_size(n_in, n_out, dtype)) return lod_fail(err, LOD_BAD_ARGUMENT, "n_in", "the weight is too large");
    if (!w) return lod_fail(err, LOD_BAD_ARGUMENT, "w", "is NULL");
    LOD_TRY(lod_check_aligned(packed, "packed", err));
    const size_t item = item_size(dtype);
    const uint8_t *from = w;
    uint8_t *to = packed;
    for (size_t column = 0; column < n_in; column += LOD_PANEL) {
        size_t width = n_in - column < LOD_PANEL ? n_in - column : LOD_PANEL;
        for (size_t o = 0; o < n_out; o++, to += LOD_PANEL * item) {
            memcpy(to, from + (o * ldw + column) * item, width * item);
            memset(to + width * item, 0, (LOD_PANEL - width) * item);
        }
    }
    return LOD_OK;
}
