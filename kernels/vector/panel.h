// 16 x 16 blocks of a packed weight, widened to float32: as they lie, or transposed in registers.
#ifndef LOD_VECTOR_PANEL_H
#define LOD_VECTOR_PANEL_H

#include <string.h>

#include "kernels.h"
#include "lanes.h"

// out[i] = element from + i of the weight, i < count, a multiple of 16.
LOD_INLINE void panel_widen(const lod_weight *w, size_t from, size_t count, float *out) {
    const uint16_t *in = (const uint16_t *)w->packed + from;
    if (w->dtype == LOD_F32) {
        memcpy(out, (const float *)w->packed + from, count * sizeof *out);
    } else if (w->dtype == LOD_BF16) {
        for (size_t i = 0; i < count; i += 16) {
            v16_store(out + i, v16_load_bf16(in + i));
        }
    } else {
        for (size_t i = 0; i < count; i += 16) {
            v16_store(out + i, v16_load_f16(in + i));
        }
    }
}

// out[j][i] = in[i][j] of bf16, i, j < 16: pairs of columns are turned as words, which takes half the shuffles of
// floats, and then parted.
LOD_INLINE void panel_transpose_bf16(const uint16_t *in, float *out) {
    for (size_t j = 0; j < LOD_PANEL; j += 8) {
        for (size_t i = 0; i < LOD_PANEL; i += LOD_PART_LANES) {
            part pairs[4];
            part_transpose(in + i * LOD_PANEL + j, LOD_PANEL * sizeof *in, pairs);
            for (size_t c = 0; c < 4; c++) {
                part_store(out + (j + 2 * c) * LOD_PANEL + i, part_widen_even(pairs[c]));
                part_store(out + (j + 2 * c + 1) * LOD_PANEL + i, part_widen_odd(pairs[c]));
            }
        }
    }
}

// out[j][i] = in[i][j], i, j < 16, of the block at element `from`.
LOD_INLINE void panel_transpose(const lod_weight *w, size_t from, float *out) {
    if (w->dtype == LOD_F32) {
        v16_transpose((const float *)w->packed + from, LOD_PANEL, out, LOD_PANEL);
    } else if (w->dtype == LOD_BF16) {
        panel_transpose_bf16((const uint16_t *)w->packed + from, out);
    } else {
        _Alignas(64) float wide[LOD_PANEL * LOD_PANEL];
        panel_widen(w, from, LOD_PANEL * LOD_PANEL, wide);
        v16_transpose(wide, LOD_PANEL, out, LOD_PANEL);
    }
}

// The same of a block with `rows` rows only, the others being zeros, and its first k columns.
static __attribute__((noinline)) void panel_transpose_part(const lod_weight *w, size_t from, size_t rows, size_t k,
                                                           float *out) {
    _Alignas(64) float wide[LOD_PANEL * LOD_PANEL] = {0}, turned[LOD_PANEL * LOD_PANEL];
    panel_widen(w, from, rows * LOD_PANEL, wide);
    v16_transpose(wide, LOD_PANEL, turned, LOD_PANEL);
    memcpy(out, turned, k * LOD_PANEL * sizeof *out);
}

// out[kk][i] = W[row + i][k0 + kk] for i < 16, kk < k; 0 where row + i >= n_out. k0 and row are multiples of 16.
LOD_INLINE void panel_transposed(const lod_weight *w, size_t n_out, size_t row, size_t k0, size_t k, float *out) {
    const size_t rows = n_out - row;
    for (size_t kk = 0; kk < k; kk += LOD_PANEL, out += LOD_PANEL * LOD_PANEL) {
        const size_t from = ((k0 + kk) / LOD_PANEL * n_out + row) * LOD_PANEL, left = k - kk;
        if (rows >= LOD_PANEL && left >= LOD_PANEL) {
            panel_transpose(w, from, out);
        } else {
            panel_transpose_part(w, from, rows < LOD_PANEL ? rows : LOD_PANEL, left < LOD_PANEL ? left : LOD_PANEL,
                                 out);
        }
    }
}

#endif
