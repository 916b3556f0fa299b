// The product of a low-rank layer for few tokens, where reading the weight is most of the work: all tokens meet a piece
// of the weight while it is in the first cache or in registers, and the pieces that come next are on their way there:
// prefetches, which may point beyond the weight's end, where they do nothing.
//
// k is cut into blocks of 64, outside; within one, columns go by in order, so the packed weight [n_in / 16][n_out][16]
// is read as four streams (forward), which one core turns into the most bytes a second. Forward transposes. Up to four
// tokens do it in registers, 8 outputs by 4 of k at a time (AVX2):
//
//     w[row .. row + 7][k .. k + 3]  ->  4 registers of 8 outputs each;  s[t] = fma(x[t][k + c], register c, s[t])
//
// and more tokens share a transposed piece [64][16] in the first cache, LOD_FEW_ROWS of them at a time.
#include "panel.h"

enum {
    DEPTH = 64,
    X_LD = DEPTH + 16,
    C_FLOATS = 1 << 17, // of C that every block of k comes back to
    DIRECT_TOKENS = 4,
    DIRECT_AHEAD = 1024, // bytes
};

// One block of k.
typedef struct few_block {
    const lod_lowrank_few_args *args;
    const float *x; // [tokens][X_LD]
    size_t k0, k;
} few_block;

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

static size_t item_size(const lod_weight *w) {
    return w->dtype == LOD_F32 ? sizeof(float) : sizeof(uint16_t);
}

// ---------------------------------------------------------------------------------------------------------------------
// Up to four tokens: DIRECT_ROWS outputs from `row` on, all of the block's k, a multiple of 16

// Rows of a tile: 8 lines of the cache at a time measure best, and 16-bit elements are half as long.
#define DIRECT_TWO(bf16) (LOD_PART_LANES <= ((bf16) ? 8 : 4))
#define DIRECT_ROWS(bf16) (DIRECT_TWO(bf16) ? 2 * LOD_PART_LANES : LOD_PART_LANES)

LOD_INLINE void direct_tile(const few_block *f, size_t row, const size_t tokens, const bool bf16) {
    const lod_lowrank_few_args *a = f->args;
    const size_t item = bf16 ? sizeof(uint16_t) : sizeof(float), stride = LOD_PANEL * item, half = LOD_PART_LANES;
    const bool two = DIRECT_TWO(bf16);
    float *const c = a->c + row;
#define DIRECT_TOKENS_OF(M) M(0) M(1) M(2) M(3)
#define DIRECT_ZERO(t) part s##t##0 = part_zero(), s##t##1 = part_zero();
#define DIRECT_LOAD(t)                                                                                                 \
    if (t < tokens) {                                                                                                  \
        s##t##0 = part_load(c + t * a->ldc);                                                                           \
        s##t##1 = two ? part_load(c + t * a->ldc + half) : part_zero();                                                \
    }
#define DIRECT_STORE(t)                                                                                                \
    if (t < tokens) {                                                                                                  \
        part_store(c + t * a->ldc, s##t##0);                                                                           \
        if (two) part_store(c + t * a->ldc + half, s##t##1);                                                           \
    }
#define DIRECT_STEP(t)                                                                                                 \
    if (t < tokens) {                                                                                                  \
        part left = part_set1(x[t * ldx]);                                                                             \
        s##t##0 = part_fma(left, w0, s##t##0);                                                                         \
        s##t##1 = two ? part_fma(left, w1, s##t##1) : s##t##1;                                                         \
    }
#define DIRECT_K(right0, right1)                                                                                       \
    {                                                                                                                  \
        const part w0 = right0, w1 = two ? right1 : w0;                                                                \
        DIRECT_TOKENS_OF(DIRECT_STEP)                                                                                  \
        x++;                                                                                                           \
    }
#define DIRECT_WORD(c)                                                                                                 \
    if (bf16) {                                                                                                        \
        DIRECT_K(part_widen_even(lo[c]), part_widen_even(hi[c]))                                                       \
        DIRECT_K(part_widen_odd(lo[c]), part_widen_odd(hi[c]))                                                         \
    } else {                                                                                                           \
        DIRECT_K(lo[c], hi[c])                                                                                         \
    }
    DIRECT_TOKENS_OF(DIRECT_ZERO)
    if (f->k0) {
        DIRECT_TOKENS_OF(DIRECT_LOAD)
    } else {
        for (size_t q = 0; q < a->r; q++) {
            const float *x = a->u + q, *b = a->b + q * a->ldb + row;
            const size_t ldx = a->ldu;
            DIRECT_K(part_load(b), part_load(b + half))
        }
    }
    const float *x = f->x;
    const size_t ldx = X_LD;
    const uint8_t *w = (const uint8_t *)a->w.packed + (f->k0 / LOD_PANEL * a->n_out + row) * stride;
    for (size_t k = 0; k < f->k; k += LOD_PANEL, w += a->n_out * stride) {
        const uint8_t *ahead = w + DIRECT_AHEAD;
        for (size_t word = 0; word < stride; word += 16) {
            part lo[4], hi[4];
            for (size_t i = 0; i < DIRECT_ROWS(bf16) / 4; i++, ahead += 64) {
                __builtin_prefetch(ahead);
            }
            part_transpose(w + word, stride, lo);
            if (two) {
                part_transpose(w + half * stride + word, stride, hi);
            }
            DIRECT_WORD(0)
            DIRECT_WORD(1)
            DIRECT_WORD(2)
            DIRECT_WORD(3)
        }
    }
    DIRECT_TOKENS_OF(DIRECT_STORE)
}

LOD_INLINE void direct_rows(const few_block *f, size_t row, const bool bf16) {
    switch (f->args->tokens) {
#define DIRECT_CASE(t)                                                                                                 \
    case t + 1:                                                                                                        \
        direct_tile(f, row, t + 1, bf16);                                                                              \
        break;
        DIRECT_TOKENS_OF(DIRECT_CASE)
    }
}

// Whether the 16 columns from j on can do without a transposed piece.
static bool is_direct(const few_block *f, size_t j) {
    const lod_lowrank_few_args *a = f->args;
    const bool whole = f->k % LOD_PANEL == 0 && j + LOD_PANEL <= a->end;
    return whole && a->transposed && !a->keep && a->tokens <= DIRECT_TOKENS && a->w.dtype != LOD_F16;
}

static void run_direct(const few_block *f, size_t j) {
    if (f->args->w.dtype == LOD_BF16) {
        for (size_t row = j; row < j + LOD_PANEL; row += DIRECT_ROWS(true)) {
            direct_rows(f, row, true);
        }
    } else {
        for (size_t row = j; row < j + LOD_PANEL; row += DIRECT_ROWS(false)) {
            direct_rows(f, row, false);
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// More tokens: a piece of the weight, [k][16], for LOD_FEW_ROWS tokens at a time

// Rows t0 .. t0 + rows - 1 of the columns j .. j + n - 1. What comes next is fetched ahead, a share in every k-step.
typedef struct piece {
    const float *w;       // [k][LOD_PANEL]
    size_t j, n;          // columns
    const uint8_t *ahead; // where the next pieces of 16 k lie
    size_t ahead_block, ahead_step;
} piece;

LOD_INLINE void piece_tile(const few_block *f, const piece *p, size_t t0, const size_t rows) {
    const lod_lowrank_few_args *a = f->args;
    float *const c = a->c + t0 * a->ldc + p->j;
#define PIECE_ROWS(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(10) M(11)
#define PIECE_ZERO(i) v16 s##i = v16_zero();
#define PIECE_LOAD(i)                                                                                                  \
    if (i < rows) s##i = v16_load_row(c + i * a->ldc, p->n);
#define PIECE_STORE(i)                                                                                                 \
    if (i < rows) v16_store_row(c + i * a->ldc, s##i, p->n);
#define PIECE_STEP(i)                                                                                                  \
    if (i < rows) s##i = v16_fma(v16_set1(x[i * ldx]), w, s##i);
#define PIECE_SELECT(i)                                                                                                \
    if (i < rows) s##i = v16_keep(m16_load_row(keep + i * a->ldkeep, p->n), v16_mul(s##i, v16_set1(a->inv)));
    PIECE_ROWS(PIECE_ZERO)
    if (f->k0) {
        PIECE_ROWS(PIECE_LOAD)
    } else {
        for (size_t q = 0; q < a->r; q++) {
            const float *x = a->u + t0 * a->ldu + q;
            const size_t ldx = a->ldu;
            const v16 w = v16_load_row(a->b + q * a->ldb + p->j, p->n);
            PIECE_ROWS(PIECE_STEP)
        }
        if (a->keep) {
            const uint8_t *keep = a->keep + t0 * a->ldkeep + p->j / 8;
            PIECE_ROWS(PIECE_SELECT)
        }
    }
    const float *x = f->x + t0 * X_LD, *right = p->w;
    const size_t ldx = X_LD;
    for (size_t k = 0; k < f->k; k += LOD_PANEL) {
        const uint8_t *ahead = p->ahead + k / LOD_PANEL * p->ahead_block;
        for (size_t kk = smaller(LOD_PANEL, f->k - k); kk; kk--, x++, right += LOD_PANEL, ahead += p->ahead_step) {
            __builtin_prefetch(ahead);
            const v16 w = v16_load(right);
            PIECE_ROWS(PIECE_STEP)
        }
    }
    PIECE_ROWS(PIECE_STORE)
}

static void piece_rows(const few_block *f, const piece *p, size_t t0, size_t rows) {
    switch (rows) {
#define PIECE_CASE(i)                                                                                                  \
    case i + 1:                                                                                                        \
        if (i < LOD_FEW_ROWS) piece_tile(f, p, t0, i + 1);                                                             \
        break;
        PIECE_ROWS(PIECE_CASE)
    }
}

// Where the block's k of the panel at column j lie in the packed weight; block: bytes from 16 k to the next.
static const uint8_t *piece_at(const few_block *f, size_t j, size_t *block) {
    const lod_lowrank_few_args *a = f->args;
    const size_t line = LOD_PANEL * item_size(&a->w);
    *block = (a->transposed ? a->n_out : LOD_PANEL) * line;
    const size_t rows = a->transposed ? f->k0 / LOD_PANEL * a->n_out + j : j / LOD_PANEL * a->n_out + f->k0;
    return (const uint8_t *)a->w.packed + rows * line;
}

static void run_piece(const few_block *f, size_t j) {
    _Alignas(64) float w[DEPTH * LOD_PANEL];
    const lod_lowrank_few_args *a = f->args;
    const size_t groups = (a->tokens + LOD_FEW_ROWS - 1) / LOD_FEW_ROWS, line = LOD_PANEL * item_size(&a->w);
    size_t block;
    piece p = {.w = w, .j = j, .n = smaller(LOD_PANEL, a->end - j)};
    const uint8_t *here = piece_at(f, j, &block), *ahead = piece_at(f, j + 2 * LOD_PANEL, &p.ahead_block);
    if (a->transposed) {
        panel_transposed(&a->w, a->n_out, j, f->k0, f->k, w);
    } else if (a->w.dtype == LOD_F32) {
        p.w = (const float *)(const void *)here;
    } else {
        panel_widen(&a->w, (j / LOD_PANEL * a->n_out + f->k0) * LOD_PANEL, f->k * LOD_PANEL, w);
    }
    p.ahead_step = line / groups;
    for (size_t i = 0, t = 0; i < groups; i++) {
        const size_t end = a->tokens * (i + 1) / groups;
        p.ahead = ahead + LOD_PANEL * line * i / groups;
        piece_rows(f, &p, t, end - t);
        t = end;
    }
}

static void run_columns(const few_block *f, size_t begin, size_t end) {
    for (size_t j = begin; j < end; j += LOD_PANEL) {
        if (is_direct(f, j)) {
            run_direct(f, j);
        } else {
            run_piece(f, j);
        }
    }
}

void LOD_VARIANT(lowrank_few_f32)(const lod_lowrank_few_args *a) {
    _Alignas(64) float x[LOD_FEW_TOKENS][X_LD];
    const size_t depth = a->transposed ? a->n_in : a->n_out, columns = C_FLOATS / a->tokens / LOD_PANEL * LOD_PANEL;
    for (size_t j = a->begin; j < a->end; j += columns) {
        for (size_t k0 = 0; k0 < depth; k0 += DEPTH) {
            const few_block f = {.args = a, .x = x[0], .k0 = k0, .k = smaller(DEPTH, depth - k0)};
            for (size_t t = 0; t < a->tokens; t++) {
                memcpy(x[t], a->x + t * a->ldx + k0, f.k * sizeof(float));
            }
            run_columns(&f, j, smaller(j + columns, a->end));
        }
    }
}
