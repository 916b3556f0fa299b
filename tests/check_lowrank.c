// The low-rank tile: every tail, against the f64 form; and a whole matrix cut into tiles, for the bits.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "ref/ref.h"

typedef struct tile_case {
    bool first, masked;
    double rate;
    size_t r;
} tile_case;

// Seven, so that they meet every k as the shapes go by.
static const tile_case cases[] = {
    {.first = true},
    {.first = true, .masked = true, .rate = 0.1, .r = 1},
    {.first = true, .masked = true, .rate = 0.5, .r = 8},
    {.first = false},
    {.first = true, .masked = true, .rate = 0.999, .r = 3},
    {.first = true, .r = 13},
    {.first = true, .masked = true, .rate = 0, .r = 2},
};
static const size_t depths[] = {0, 1, 2, 3, 37, LOD_KC_MAX};

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

// One row and one column of the mask dropped whole.
static void drop_cross(lod_lowrank_tile_args *t, uint8_t *keep) {
    for (size_t i = 0; i < t->m; i++) {
        for (size_t j = 0; j < t->n; j++) {
            size_t col = t->keep_col + j;
            if (i == t->m - 1 || j == t->n - 1) {
                keep[i * t->ldkeep + col / 8] &= (uint8_t) ~(1u << (col % 8));
            }
        }
    }
}

static void plant(const lod_lowrank_tile_args *t, float *u, float *b, float value) {
    for (size_t q = 0; q < t->r; q++) {
        u[(t->m - 1) * t->ldu + q] = value;
        b[q * t->ldb + t->n - 1] = value;
    }
}

// [k][n] out of widened panels of `width` columns.
static const double *unpanelled(const double *w, size_t k, size_t n, size_t width) {
    double *matrix = check_doubles(k * n);
    for (size_t kk = 0; kk < k; kk++) {
        for (size_t j = 0; j < n; j++) {
            matrix[kk * n + j] = w[(j / LOD_PANEL * k + kk) * width + j % LOD_PANEL];
        }
    }
    return matrix;
}

// want: the f64 form; bound: the same on magnitudes, times gamma of the roundings on the way to a cell.
static void expect(const lod_lowrank_tile_args *t, size_t nr, double *want, double *bound) {
    const size_t width = smaller(nr, LOD_PANEL);
    lod_lowrank_tile_f64_args wide = {
        .m = t->m,
        .n = t->n,
        .k = t->k,
        .r = t->r,
        .x = check_widen(t->x),
        .ldx = t->k,
        .w = unpanelled(check_widen(t->w), t->k, t->n, width),
        .w_row = t->n,
        .w_col = 1,
        .u = t->first ? check_widen(t->u) : NULL,
        .ldu = t->r,
        .b = t->first ? check_widen(t->b) : NULL,
        .ldb = t->n,
        .keep = t->keep,
        .ldkeep = t->ldkeep,
        .keep_col = t->keep_col,
        .inv = t->inv,
        .first = t->first,
        .c = want,
        .ldc = t->n,
    };
    lod_lowrank_tile_f64(&wide);
    wide.x = check_magnitudes(t->x);
    wide.w = unpanelled(check_magnitudes(t->w), t->k, t->n, width);
    wide.u = t->first ? check_magnitudes(t->u) : NULL;
    wide.b = t->first ? check_magnitudes(t->b) : NULL;
    wide.c = bound;
    lod_lowrank_tile_f64(&wide);
    for (size_t i = 0; i < t->m * t->n; i++) {
        bound[i] *= check_gamma((double)(t->k + t->r + (t->keep != NULL)));
    }
}

// The panels that have columns of the tile, one behind the other; readable to their ends, or to nr if that is less.
static float *panels(const lod_kernel *kernel, size_t k, size_t n) {
    size_t width = smaller(kernel->nr, LOD_PANEL), count = (n + LOD_PANEL - 1) / LOD_PANEL;
    float *w = check_operand("w", CHECK_IN, sizeof *w, count * k, width, LOD_PANEL, 4 * (width & -width));
    for (size_t row = 0; row < count * k; row++) {
        for (size_t j = 0; j < width; j++) {
            float inside = check_mode_now() == CHECK_INTEGERS ? (float)check_below(9) - 4 : (float)check_uniform();
            w[row * LOD_PANEL + j] = row / k * LOD_PANEL + j < n ? inside : NAN;
        }
    }
    return w;
}

static void check_tile(const lod_kernel *kernel, size_t m, size_t n, size_t k, const tile_case *c) {
    check_shape("m=%zu n=%zu k=%zu r=%zu rate=%g%s", m, n, k, c->r, c->rate, c->first ? "" : " continued");
    const size_t kept_columns = (3 * (size_t)kernel->nr + 127) / 128 * 128; // whole groups, as masks are drawn
    lod_lowrank_tile_args t = {
        .m = m,
        .n = n,
        .k = k,
        .r = c->r,
        .ldx = k + 2,
        .ldpanel = k * LOD_PANEL,
        .ldu = c->r + 3,
        .ldb = n + 5,
        .ldkeep = kept_columns / 8 + 5,
        .keep_col = 2 * kernel->nr,
        .inv = 2,
        .first = c->first,
        .ldfrom = n + 11,
        .ldc = n + 7,
    };
    float *u = c->first ? check_floats("u", CHECK_IN, m, c->r, t.ldu) : NULL;
    float *b = c->first ? check_floats("b", CHECK_IN, c->r, n, t.ldb) : NULL;
    uint8_t *keep = c->masked ? check_keep(m, kept_columns, t.ldkeep, c->rate) : NULL;
    t.x = check_floats("x", CHECK_IN, m, k, t.ldx);
    t.w = panels(kernel, k, n);
    t.u = u, t.b = b, t.keep = keep;
    t.from = c->first ? NULL : check_floats("from", CHECK_IN, m, n, t.ldfrom);
    t.c = check_floats("c", CHECK_OUT, m, n, t.ldc);
    bool poison = check_mode_now() == CHECK_POISON && c->masked;
    if (poison) {
        drop_cross(&t, keep);
    }
    double *want = c->first ? check_doubles(m * n) : check_widen(t.from);
    double *bound = c->first ? check_doubles(m * n) : check_magnitudes(t.from);
    expect(&t, kernel->nr, want, bound);
    double *clean = NULL;
    if (poison) {
        kernel->fn.lowrank_tile_f32(&t);
        clean = check_widen(t.c);
        plant(&t, u, b, NAN);
    }
    CHECK_CALL(kernel->fn.lowrank_tile_f32(&t));
    if (clean) {
        check_near(t.c, clean, NULL);
    }
    check_near(t.c, want, check_mode_now() == CHECK_INTEGERS ? NULL : bound);
}

enum { ROWS = 29, COLS = 75, DEPTH = 70, RANK = 5 };

// [COLS][DEPTH] products in blocks of 32 and 38 of k, in tiles of the kernel's own size.
static void check_matrix(const lod_kernel *kernel) {
    check_shape("matrix %d x %d x %d", ROWS, COLS, DEPTH);
    enum { PANELS = (COLS + LOD_PANEL - 1) / LOD_PANEL, SPLIT = 32 };
    float *x = check_floats("x", CHECK_IN, ROWS, DEPTH, DEPTH);
    float *w = check_floats("w", CHECK_IN, PANELS * DEPTH, LOD_PANEL, LOD_PANEL);
    float *u = check_floats("u", CHECK_IN, ROWS, RANK, RANK);
    float *b = check_floats("b", CHECK_IN, RANK, PANELS * LOD_PANEL, PANELS * LOD_PANEL);
    uint8_t *keep = check_keep(ROWS, COLS, 16, 0.1);
    float *c = check_floats("c", CHECK_OUT, ROWS, COLS, COLS);
    check_before_call();
    for (size_t k0 = 0; k0 < DEPTH; k0 += k0 == 0 ? SPLIT : DEPTH) {
        for (size_t i = 0; i < ROWS; i += kernel->mr) {
            for (size_t j = 0; j < COLS; j += kernel->nr) {
                kernel->fn.lowrank_tile_f32(&(lod_lowrank_tile_args){
                    .m = smaller(kernel->mr, ROWS - i),
                    .n = smaller(kernel->nr, COLS - j),
                    .k = k0 == 0 ? SPLIT : DEPTH - SPLIT,
                    .r = RANK,
                    .x = x + i * DEPTH + k0,
                    .ldx = DEPTH,
                    .w = w + (j / LOD_PANEL * DEPTH + k0) * LOD_PANEL + j % LOD_PANEL,
                    .ldpanel = DEPTH * LOD_PANEL,
                    .u = u + i * RANK,
                    .ldu = RANK,
                    .b = b + j,
                    .ldb = PANELS * LOD_PANEL,
                    .keep = keep + i * 16,
                    .ldkeep = 16,
                    .keep_col = j,
                    .inv = 1.1110972f,
                    .first = k0 == 0,
                    .from = c + i * COLS + j,
                    .ldfrom = COLS,
                    .c = c + i * COLS + j,
                    .ldc = COLS,
                });
            }
        }
    }
    check_after_call();
    check_share(c);
}

CHECK_KERNEL(lowrank_tile_f32, 0xe49cd4e9faccc75c) {
    check_matrix(kernel);
    const bool emulated = getenv("LODROP_EMULATED"); // the deepest are nine tenths of the work: of those a tenth
    size_t next = 0;
    for (size_t m = 1; m <= kernel->mr; m++) {
        for (size_t n = 1; n <= kernel->nr; n++) {
            const bool full = m == kernel->mr || n == kernel->nr;
            for (size_t k = 0; k < sizeof depths / sizeof depths[0]; k++) {
                const tile_case *c = &cases[next++ % (sizeof cases / sizeof cases[0])];
                if (full || !emulated || depths[k] < LOD_KC_MAX) {
                    check_tile(kernel, m, n, depths[k], c);
                }
            }
        }
    }
    static const tile_case largest = {.first = true, .masked = true, .rate = 0.5, .r = LOD_RANK_MAX};
    check_tile(kernel, kernel->mr, kernel->nr, 64, &largest);
}
