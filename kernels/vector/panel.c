// Widens one k block of a weight panel to float32, inside the matrix product that uses it. The packed weight is read
// in blocks of 16 columns by any number of rows, contiguous in memory: as they stand for the backward pass, transposed
// for the forward pass, 16x16 elements at a time in registers. 16-bit elements are widened into a block on the stack
// first, which costs less than transposing halves of lanes and keeps one transpose for all dtypes.
#include <string.h>

#include "kernels.h"
#include "lanes.h"

LOD_INLINE void widen(lod_dtype dtype, const void *packed, size_t from, size_t count, float *out) {
    const uint16_t *in = (const uint16_t *)packed + from;
    if (dtype == LOD_F32) {
        memcpy(out, (const float *)packed + from, count * sizeof *out);
    } else if (dtype == LOD_BF16) {
        for (size_t i = 0; i < count; i += 16) {
            v16_store(out + i, v16_load_bf16(in + i));
        }
    } else {
        for (size_t i = 0; i < count; i += 16) {
            v16_store(out + i, v16_load_f16(in + i));
        }
    }
}

// out[j][i] = in[i][j], i, j < LOD_PANEL.
static void transpose_block(const float *in, float *out) {
    v16_transpose(in, LOD_PANEL, out, LOD_PANEL);
}

// One block of up to 16 rows (outputs) at element `from`, k of its columns.
static void transposed_block(const lod_weight *w, size_t from, size_t rows, size_t k, float *out) {
    _Alignas(64) float wide[LOD_PANEL * LOD_PANEL], turned[LOD_PANEL * LOD_PANEL];
    const float *in = wide;
    if (w->dtype == LOD_F32 && rows == LOD_PANEL) {
        in = (const float *)w->packed + from;
    } else {
        widen(w->dtype, w->packed, from, rows * LOD_PANEL, wide);
        memset(wide + rows * LOD_PANEL, 0, (LOD_PANEL - rows) * LOD_PANEL * sizeof *wide);
    }
    if (k == LOD_PANEL) {
        transpose_block(in, out);
    } else {
        transpose_block(in, turned);
        memcpy(out, turned, k * LOD_PANEL * sizeof *out);
    }
}

void LOD_VARIANT(weight_panel_f32)(const lod_weight_panel_args *args) {
    if (!args->transposed) {
        size_t from = (args->panel * args->n_out + args->k0) * LOD_PANEL;
        widen(args->w.dtype, args->w.packed, from, args->k * LOD_PANEL, args->out);
        return;
    }
    size_t row = args->panel * LOD_PANEL, left = args->n_out - row;
    for (size_t k = 0; k < args->k; k += LOD_PANEL) {
        size_t from = ((args->k0 + k) / LOD_PANEL * args->n_out + row) * LOD_PANEL;
        size_t depth = args->k - k < LOD_PANEL ? args->k - k : LOD_PANEL;
        transposed_block(&args->w, from, left < LOD_PANEL ? left : LOD_PANEL, depth, args->out + k * LOD_PANEL);
    }
}
