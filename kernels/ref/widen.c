#include "ref.h"

#include <stdlib.h>

bool lod_ref_kept(const uint8_t *keep, size_t ldkeep, size_t row, size_t col) {
    return !keep || (keep[row * ldkeep + col / 8] >> (col % 8) & 1);
}

double *lod_ref_alloc(size_t count) {
    double *x = calloc(count ? count : 1, sizeof *x);
    if (!x) {
        abort();
    }
    return x;
}

double *lod_ref_widen(size_t rows, size_t cols, const float *x, size_t ldx) {
    if (!x) {
        return NULL;
    }
    double *wide = lod_ref_alloc(rows * cols);
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < cols; j++) {
            wide[i * cols + j] = x[i * ldx + j];
        }
    }
    return wide;
}

void lod_ref_round(size_t rows, size_t cols, double *x, float *y, size_t ldy) {
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < cols; j++) {
            y[i * ldy + j] = (float)x[i * cols + j];
        }
    }
    free(x);
}
