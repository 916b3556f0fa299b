// Dropout of activations and the residual sum beside it in one pass over memory. A few rows share the work that their
// masks' counters have in common; the bits of 128 columns stay in the first cache between drawing and use.
#include "draw.h"
#include "kernels.h"
#include "lanes.h"

enum { BLOCK_ROWS = 8, DRAWN_COLUMNS = 128 };

// Columns j0 .. j1 - 1 of row i; bits NULL: everything is kept.
LOD_INLINE void add_columns(const lod_dropout_add_kernel_args *a, size_t i, size_t j0, size_t j1, const uint16_t *bits,
                            bool add) {
    const float *x = a->x + i * a->ldx, *sum = add ? a->add + i * a->ldy : NULL;
    float *y = a->y + i * a->ldy;
    const v16 scale = v16_set1(a->scale);
    for (size_t j = j0; j < j1; j += 16) {
        const size_t left = j1 - j;
        const v16 row = v16_load_row(x + j, left), beside = add ? v16_load_row(sum + j, left) : v16_zero();
        v16 out = add ? v16_fma(row, scale, beside) : v16_mul(row, scale);
        if (bits) {
            out = v16_select(m16_from_bits(bits[(j - j0) / 16]), out, beside);
        }
        v16_store_row(y + j, out, left);
    }
}

LOD_INLINE void drop_rows(const lod_dropout_add_kernel_args *a, bool add) {
    uint16_t bits[BLOCK_ROWS][DRAWN_COLUMNS / 16] = {{0}};
    const philox_key key = expand_key(a->seed);
    for (size_t i0 = 0; i0 < a->rows; i0 += BLOCK_ROWS) {
        const size_t rows = a->rows - i0 < BLOCK_ROWS ? a->rows - i0 : BLOCK_ROWS;
        const size_t drawn = a->keep == LOD_KEEP_NONE ? 0 : a->column ? 1 : rows;
        for (size_t j = 0; j < a->n; j += DRAWN_COLUMNS) {
            const philox_group group = start_group(&key, (uint32_t)(j / 8), a->site, a->draw);
            for (size_t i = 0; i < drawn; i++) {
                philox_row row = start_row(&key, a->row0 + (uint32_t)(a->column ? 0 : i0 + i), a->site);
                draw_group(&key, &group, row, a->threshold, bits[i]);
            }
            const size_t end = a->n - j < DRAWN_COLUMNS ? a->n : j + DRAWN_COLUMNS;
            for (size_t i = 0; i < rows; i++) {
                add_columns(a, i0 + i, j, end, bits[a->column ? 0 : i], add);
            }
        }
    }
}

void LOD_VARIANT(dropout_add_f32)(const lod_dropout_add_kernel_args *args) {
    if (args->keep != LOD_KEEP_ALL && args->add) {
        drop_rows(args, true);
    } else if (args->keep != LOD_KEEP_ALL) {
        drop_rows(args, false);
    } else {
        for (size_t i = 0; i < args->rows; i++) {
            if (args->add) {
                add_columns(args, i, 0, args->n, NULL, true);
            } else {
                add_columns(args, i, 0, args->n, NULL, false);
            }
        }
    }
}
