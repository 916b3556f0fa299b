// The products of a low-rank layer with few columns, where the rank is the short side: U = (M * X) A' and dU = dY B'
// with lanes over k, dA = dU' (M * X) and dB' = U' dY with lanes over columns. A register tile runs over a block of X
// for every group of ranks: over a copy of it where it lacks columns (those that are there move together), and where
// its mask would be applied once for each group (dropped cells become +0 by selection) or U's does not end on a vector.
// Tiles of 16, 8, 4, 2 and 1 ranks are one inline function with a constant; accumulators have names because gcc spills
// arrays of them.
#include <string.h>

#include "kernels.h"
#include "lanes.h"

enum {
    DOT_BLOCK_RANKS = 8, // their rows of A, DOT_BLOCK_DEPTH of them at a time, take a quarter of the first cache
    DOT_BLOCK_DEPTH = 256,
    DOT_SUMS = 16 * DOT_BLOCK_RANKS, // floats of the sums of a token, 16 lanes each
    GRAD_BLOCK_TOKENS = 64,
    GRAD_BLOCK_COLUMNS = 64,
    GRAD_TALL = LOD_GRAD_RANKS * LOD_GRAD_VECTORS, // ranks of a tile one vector wide, of as many accumulators
    GRAD_AHEAD = 16, // tokens of a block that lies in X, and from it to what is asked for
    // Where columns are packed:
    PACK_RANKS = 32, // of U that share a copy
    PACK_DEPTH = 512,
    PACK_DEPTH_LD = PACK_DEPTH + 32, // what is left of the block before, and the zeros behind
    PACK_TOKENS = 32,
    PACK_COLUMNS = 128, // half of them kept: as many as in a block of all
    PACK_COLUMNS_LD = PACK_COLUMNS + 16,
    PACK_ROWS = 4, // share the bits
};

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

// block[j] = keep[j] ? x[j] : +0 for j < n, +0 up to a whole vector; keep NULL: everything is kept.
LOD_INLINE void copy_kept(const float *x, const uint8_t *keep, size_t n, float *block) {
    for (size_t j = 0; j < n; j += 16) {
        v16 row = v16_load_row(x + j, n - j);
        v16_store(block + j, keep ? v16_keep(m16_load_row(keep + j / 8, n - j), row) : row);
    }
}

// The bits of the next up to 16 columns, zeros from column n on.
LOD_INLINE uint32_t load_bits(const uint8_t *bits, size_t left) {
    uint16_t both = *bits;
    if (left > 8) {
        memcpy(&both, bits, sizeof both);
    }
    return left < 16 ? both & ((1u << left) - 1) : both;
}

// The next up to 16 columns of the rows of a tile, those that are there; returns how many they are.
LOD_INLINE size_t pack_vector(const float *x, size_t ldx, size_t rows, uint32_t bits, size_t left, float *packed,
                              size_t ldpacked) {
    for (size_t i = 0; i < rows; i++) {
        v16_pack(packed + i * ldpacked, v16_load_row(x + i * ldx, left), bits);
    }
    return (size_t)__builtin_popcount(bits);
}

// Moves the columns of n that are there together, in each row of a tile, and 16 zeros behind them; returns how many
// they are.
LOD_INLINE size_t pack_tile(const float *x, size_t ldx, size_t rows, const uint8_t *columns, size_t n, float *packed,
                            size_t ldpacked) {
    size_t count = 0, j = 0;
    for (; j + 16 <= n; j += 16) {
        count += pack_vector(x + j, ldx, rows, load_bits(columns + j / 8, 16), 16, packed + count, ldpacked);
    }
    if (j < n) {
        count += pack_vector(x + j, ldx, rows, load_bits(columns + j / 8, n - j), n - j, packed + count, ldpacked);
    }
    for (size_t i = 0; i < rows; i++) {
        v16_store(packed + i * ldpacked + count, v16_zero());
    }
    return count;
}

// ---------------------------------------------------------------------------------------------------------------------
// rank_dot: lanes over k

// sum[t][q] += x[t][k] a[q][k] over the lanes of one register, k = 0, 16, .. < n, for the tokens of a tile and `ranks`
// rows of a; first: sums start at +0. One lane group at a time, so that a tile of 3 or 4 tokens fits narrow registers
// too:
//
//              a[0] a[1] a[2] a[3]      one register each, in turn
//      x[0]    s00  s01  s02  s03
//      x[1]    s10  s11  s12  s13
//      x[2]    s20  s21  s22  s23
//      x[3]    s30  s31  s32  s33       only where there are registers for a fourth token
LOD_INLINE void dot_tile(const float *x, size_t ldx, const float *a, size_t lda, size_t n, int ranks, bool first,
                         float *sum) {
    const bool four = LOD_DOT_TOKENS == 4;
    float *sum1 = sum + DOT_SUMS, *sum2 = sum + 2 * DOT_SUMS, *sum3 = sum + (four ? 3 : 2) * DOT_SUMS;
#define DOT_RANKS(M) M(0) M(1) M(2) M(3)
#define DOT_LOAD(q)                                                                                                    \
    const size_t at##q = q < ranks ? 16 * q : 0;                                                                       \
    part s0##q = part_zero(), s1##q = part_zero(), s2##q = part_zero(), s3##q = part_zero();                           \
    if (q < ranks && !first) {                                                                                         \
        s0##q = part_load(sum + at##q), s1##q = part_load(sum1 + at##q);                                               \
        s2##q = part_load(sum2 + at##q), s3##q = part_load(sum3 + at##q);                                              \
    }
#define DOT_STEP(q)                                                                                                    \
    if (q < ranks) {                                                                                                   \
        part aq = part_load(a + q * lda + k);                                                                          \
        s0##q = part_fma(x0, aq, s0##q);                                                                               \
        s1##q = part_fma(x1, aq, s1##q);                                                                               \
        s2##q = part_fma(x2, aq, s2##q);                                                                               \
        s3##q = four ? part_fma(x3, aq, s3##q) : s3##q;                                                                \
    }
#define DOT_STORE(q)                                                                                                   \
    if (q < ranks) {                                                                                                   \
        part_store(sum + at##q, s0##q);                                                                                \
        part_store(sum1 + at##q, s1##q);                                                                               \
        part_store(sum2 + at##q, s2##q);                                                                               \
        if (four) {                                                                                                    \
            part_store(sum3 + at##q, s3##q);                                                                           \
        }                                                                                                              \
    }
    DOT_RANKS(DOT_LOAD)
    for (size_t k = 0; k + 16 <= n; k += 16) {
        part x0 = part_load(x + k), x1 = part_load(x + ldx + k), x2 = part_load(x + 2 * ldx + k);
        part x3 = four ? part_load(x + 3 * ldx + k) : x2;
        DOT_RANKS(DOT_STEP)
    }
    DOT_RANKS(DOT_STORE)
}

// The tiles of r <= DOT_BLOCK_RANKS ranks over the lanes of one register.
LOD_INLINE void dot_ranks(const float *x, size_t ldx, const float *a, size_t lda, size_t n, size_t r, bool first,
                      float *sum) {
    size_t q = 0;
    for (; q + 4 <= r; q += 4) {
        dot_tile(x, ldx, a + q * lda, lda, n, 4, first, sum + 16 * q);
    }
    if (q + 2 <= r) {
        dot_tile(x, ldx, a + q * lda, lda, n, 2, first, sum + 16 * q);
        q += 2;
    }
    if (q < r) {
        dot_tile(x, ldx, a + q * lda, lda, n, 1, first, sum + 16 * q);
    }
}

// What is left of a depth that does not end on a vector.
static void dot_tail(const float *x, const float *a, size_t lda, size_t left, size_t r, float *sum) {
    for (size_t q = 0; q < r; q++) {
        v16_store(sum + 16 * q, v16_fma(v16_load(x), v16_load_n(a + q * lda, left), v16_load(sum + 16 * q)));
    }
}

// One block of depth of a tile's tokens, into their sums.
LOD_INLINE void dot_depth(const float *x, size_t ldx, const float *a, size_t lda, size_t depth, size_t r, bool first,
                      float *sum) {
    size_t whole = depth / 16 * 16;
    for (size_t lane = 0; lane < 16; lane += LOD_PART_LANES) {
        dot_ranks(x + lane, ldx, a + lane, lda, whole, r, first, sum + lane);
    }
    for (size_t i = 0; i < LOD_DOT_TOKENS && whole < depth; i++) {
        dot_tail(x + i * ldx + whole, a + whole, lda, depth - whole, r, sum + i * DOT_SUMS);
    }
}

// u of a tile's tokens and ranks, from the sums of its lanes.
LOD_INLINE void dot_store(const lod_rank_dot_args *args, size_t t0, size_t tokens, size_t q0, size_t r,
                          const float *sum) {
    for (size_t i = 0; i < tokens; i++) {
        for (size_t q = 0; q < r; q += 4) {
            float four[4];
            v16_sum4(sum + i * DOT_SUMS + 16 * q, four);
            for (size_t j = 0; j < smaller(4, r - q); j++) {
                args->u[(t0 + i) * args->ldu + q0 + q + j] = four[j] * args->scale;
            }
        }
    }
}

// u[t][q] for the tokens t0 .. t0 + tokens - 1 of one tile and ranks q0 .. q0 + r - 1. A missing token of the last tile
// is played by the last one there is.
static void dot_block(const lod_rank_dot_args *args, size_t t0, size_t tokens, size_t q0, size_t r) {
    _Alignas(64) float copy[LOD_DOT_TOKENS][DOT_BLOCK_DEPTH];
    _Alignas(64) float sum[LOD_DOT_TOKENS][DOT_SUMS];
    size_t k = 0;
    if (r % 4) {
        memset(sum, 0, sizeof sum); // sums are added up four at a time
    }
    do { // once even without a column: the sums are zeros then
        size_t depth = smaller(DOT_BLOCK_DEPTH, args->n - k), ldx = args->ldx;
        const float *x = args->x + t0 * ldx + k;
        if (args->keep || tokens < LOD_DOT_TOKENS || depth % 16) {
            for (size_t i = 0; i < LOD_DOT_TOKENS; i++) {
                size_t t = t0 + smaller(i, tokens - 1);
                const uint8_t *keep = args->keep ? args->keep + t * args->ldkeep + k / 8 : NULL;
                copy_kept(args->x + t * args->ldx + k, keep, depth, copy[i]);
            }
            x = copy[0], ldx = DOT_BLOCK_DEPTH;
        }
        dot_depth(x, ldx, args->a + q0 * args->lda + k, args->lda, depth, r, k == 0, sum[0]);
        k += DOT_BLOCK_DEPTH;
    } while (k < args->n);
    dot_store(args, t0, tokens, q0, r, sum[0]);
}

// The columns j .. j + n - 1 that are there, behind the `fill` floats of each row of the copy; returns how many there
// are now.
static size_t dot_pack(const lod_rank_dot_args *args, size_t t0, size_t tokens, size_t j, size_t n, size_t fill,
                       float *copy) {
    const float *x = args->x + t0 * args->ldx + j;
    const uint8_t *columns = args->columns + j / 8;
    if (tokens == LOD_DOT_TOKENS) {
        return fill + pack_tile(x, args->ldx, LOD_DOT_TOKENS, columns, n, copy + fill, PACK_DEPTH_LD);
    }
    size_t count = 0;
    for (size_t i = 0; i < LOD_DOT_TOKENS; i++) {
        const float *row = x + smaller(i, tokens - 1) * args->ldx;
        count = pack_tile(row, 0, 1, columns, n, copy + i * PACK_DEPTH_LD + fill, 0);
    }
    return fill + count;
}

// The same over the columns that are there, for up to PACK_RANKS ranks, which share their copy. Whole vectors of
// columns are used up, the rest waits for the next block; the last vector is filled with zeros.
static void dot_packed(const lod_rank_dot_args *args, size_t t0, size_t tokens, size_t q0, size_t r) {
    _Alignas(64) float copy[LOD_DOT_TOKENS][PACK_DEPTH_LD];
    _Alignas(64) float sum[PACK_RANKS / DOT_BLOCK_RANKS][LOD_DOT_TOKENS * DOT_SUMS];
    size_t k = 0, fill = 0, j = 0;
    if (r % 4) {
        memset(sum, 0, sizeof sum);
    }
    do {
        fill = dot_pack(args, t0, tokens, j, smaller(PACK_DEPTH, args->n - j), fill, copy[0]);
        j += PACK_DEPTH;
        const size_t used = (j < args->n ? fill : fill + 15) / 16 * 16;
        for (size_t q = 0; q < r && (used > 0 || j >= args->n); q += DOT_BLOCK_RANKS) {
            dot_depth(copy[0], PACK_DEPTH_LD, args->a + (q0 + q) * args->lda + k, args->lda, used,
                      smaller(DOT_BLOCK_RANKS, r - q), k == 0, sum[q / DOT_BLOCK_RANKS]);
        }
        for (size_t i = 0; i < LOD_DOT_TOKENS; i++) {
            v16_store(copy[i], v16_load(copy[i] + used));
        }
        k += used, fill -= smaller(fill, used);
    } while (j < args->n);
    for (size_t q = 0; q < r; q += DOT_BLOCK_RANKS) {
        dot_store(args, t0, tokens, q0 + q, smaller(DOT_BLOCK_RANKS, r - q), sum[q / DOT_BLOCK_RANKS]);
    }
}

void LOD_VARIANT(rank_dot_f32)(const lod_rank_dot_args *args) {
    const size_t step = args->columns ? PACK_RANKS : DOT_BLOCK_RANKS;
    for (size_t t = 0; t < args->tokens; t += LOD_DOT_TOKENS) {
        const size_t tokens = smaller(LOD_DOT_TOKENS, args->tokens - t);
        for (size_t q = 0; q < args->r; q += step) {
            (args->columns ? dot_packed : dot_block)(args, t, tokens, q, smaller(step, args->r - q));
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// rank_grad: lanes over columns

// What the tiles of one block share; sums wait in g between blocks of tokens.
typedef struct grad_block {
    const lod_rank_grad_args *args;
    const float *x; // [tokens][ldx]
    size_t ldx;
    const uint8_t *keep; // [tokens] bits; NULL: everything is kept, or x is a copy of it
    size_t t0, tokens, column;
    size_t ahead; // floats to what is asked for, 0: nothing is
} grad_block;

// One vector of a row, the columns of it that there are and are kept.
LOD_INLINE v16 grad_load(const float *x, const uint8_t *keep, size_t left) {
    v16 row = v16_load_row(x, left);
    return keep ? v16_keep(m16_load_row(keep, left), row) : row;
}

// g[q][..] += s[t][q] x[t][..] for `ranks` rows and `vectors` vectors (1 or 2), the last one `left` columns wide.
LOD_INLINE void grad_tile(const grad_block *b, size_t q0, size_t column, size_t left, int ranks, int vectors) {
    const size_t ldx = b->ldx, lds = b->args->lds, ldg = b->args->ldg;
    const float *x = b->x + column, *s = b->args->s + b->t0 * lds + q0;
    const uint8_t *keep = b->keep ? b->keep + column / 8 : NULL;
    float *g = b->args->g + q0 * ldg + b->column + column;
    const v16 scale = v16_set1(b->args->scale);
    const bool two = vectors == 2, first = b->t0 == 0, last = b->t0 + b->tokens == b->args->tokens;
#define GRAD_RANKS(M)                                                                                                  \
    M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(10) M(11) M(12) M(13) M(14) M(15)
#define GRAD_LOAD(q)                                                                                                   \
    v16 s##q##0 = v16_zero(), s##q##1 = v16_zero();                                                                    \
    if (q < ranks && !first) {                                                                                         \
        s##q##0 = v16_load_row(g + q * ldg, two ? 16 : left);                                                          \
        s##q##1 = two ? v16_load_row(g + q * ldg + 16, left) : v16_zero();                                             \
    }
#define GRAD_STEP(q)                                                                                                   \
    if (q < ranks) {                                                                                                   \
        v16 sq = v16_set1(s[q]);                                                                                       \
        s##q##0 = v16_fma(sq, x0, s##q##0);                                                                            \
        s##q##1 = two ? v16_fma(sq, x1, s##q##1) : s##q##1;                                                            \
    }
#define GRAD_STORE(q)                                                                                                  \
    if (q < ranks) {                                                                                                   \
        v16_store_row(g + q * ldg, last ? v16_mul(s##q##0, scale) : s##q##0, two ? 16 : left);                         \
        if (two) {                                                                                                     \
            v16_store_row(g + q * ldg + 16, last ? v16_mul(s##q##1, scale) : s##q##1, left);                           \
        }                                                                                                              \
    }
    GRAD_RANKS(GRAD_LOAD)
    for (size_t t = 0; t < b->tokens; t++) {
        v16 x0 = grad_load(x, keep, two ? 16 : left);
        v16 x1 = two ? grad_load(x + 16, keep ? keep + 2 : NULL, left) : v16_zero();
        if (b->ahead && q0 == 0) {
            __builtin_prefetch(x + b->ahead);
            if (two) {
                __builtin_prefetch(x + b->ahead + 16);
            }
        }
        GRAD_RANKS(GRAD_STEP)
        x += ldx;
        s += lds;
        keep = keep ? keep + b->args->ldkeep : NULL;
    }
    GRAD_RANKS(GRAD_STORE)
}

// Tiles of all ranks, over `vectors` vectors of columns.
LOD_INLINE void grad_ranks(const grad_block *b, size_t column, size_t left, int vectors) {
    size_t r = b->args->r, q = 0;
    for (; vectors < LOD_GRAD_VECTORS && q + GRAD_TALL <= r; q += GRAD_TALL) {
        grad_tile(b, q, column, left, GRAD_TALL, vectors);
    }
    for (; q + LOD_GRAD_RANKS <= r; q += LOD_GRAD_RANKS) {
        grad_tile(b, q, column, left, LOD_GRAD_RANKS, vectors);
    }
    if (LOD_GRAD_RANKS > 4 && q + 4 <= r) {
        grad_tile(b, q, column, left, 4, vectors);
        q += 4;
    }
    if (q + 2 <= r) {
        grad_tile(b, q, column, left, 2, vectors);
        q += 2;
    }
    if (q < r) {
        grad_tile(b, q, column, left, 1, vectors);
    }
}

static void grad_columns(const grad_block *b, size_t columns) {
    const bool pairs = LOD_GRAD_VECTORS == 2 && b->args->r % GRAD_TALL; // tall tiles are a vector wide
    size_t j = 0;
    for (; pairs && j + 16 < columns; j += 32) {
        grad_ranks(b, j, smaller(16, columns - j - 16), 2);
    }
    for (; j < columns; j += 16) {
        grad_ranks(b, j, smaller(16, columns - j), 1);
    }
}

// Rows may lie so far apart that no hardware prefetcher follows them: the next block is asked for, too.
LOD_INLINE void prefetch_row(const float *row, size_t n) {
    for (size_t j = 0; j < n; j += 16) {
        __builtin_prefetch(row + j);
    }
}

// X is read where it lies, a few rows at a time: then they come from memory as that many streams, once, and stay in the
// first cache for all groups of ranks, however far apart they lie.
static void grad_in_place(const lod_rank_grad_args *args) {
    size_t t0 = 0;
    do { // once even without a token: the sums are zeros then
        const size_t tokens = smaller(GRAD_AHEAD, args->tokens - t0), left = args->tokens - t0 - tokens;
        const grad_block b = {
            .args = args,
            .x = args->x + t0 * args->ldx,
            .ldx = args->ldx,
            .keep = args->keep ? args->keep + t0 * args->ldkeep + args->keep_col / 8 : NULL,
            .t0 = t0,
            .tokens = tokens,
            .ahead = smaller(GRAD_AHEAD, left) * args->ldx,
        };
        grad_columns(&b, args->n);
        t0 += tokens;
    } while (t0 < args->tokens);
}

// A mask is applied once for all groups of ranks, in a copy.
static void grad_copied(const lod_rank_grad_args *args, size_t column) {
    _Alignas(64) float block[GRAD_BLOCK_TOKENS][GRAD_BLOCK_COLUMNS];
    const size_t columns = smaller(GRAD_BLOCK_COLUMNS, args->n - column); // a bound that unrolls the copy
    size_t t0 = 0;
    do { // once even without a token: the sums are zeros then
        size_t tokens = smaller(GRAD_BLOCK_TOKENS, args->tokens - t0);
        for (size_t i = 0; i < tokens; i++) {
            size_t t = t0 + i;
            if (t + GRAD_BLOCK_TOKENS < args->tokens) {
                prefetch_row(args->x + (t + GRAD_BLOCK_TOKENS) * args->ldx + column, columns);
            }
            const uint8_t *keep = args->keep ? args->keep + t * args->ldkeep + (args->keep_col + column) / 8 : NULL;
            copy_kept(args->x + t * args->ldx + column, keep, columns, block[i]);
        }
        const grad_block b = {
            .args = args,
            .x = block[0],
            .ldx = GRAD_BLOCK_COLUMNS,
            .t0 = t0,
            .tokens = tokens,
            .column = column,
        };
        grad_columns(&b, columns);
        t0 += tokens;
    } while (t0 < args->tokens);
}

// place[i] = the i-th column that is there; returns how many there are.
static size_t list_places(const uint8_t *bits, size_t columns, uint8_t place[PACK_COLUMNS]) {
    size_t count = 0;
    for (size_t j = 0; j < columns; j++) {
        place[count] = (uint8_t)j;
        count += bits[j / 8] >> j % 8 & 1;
    }
    return count;
}

// Moves the sums of a block from where they lie, side by side, to their columns, zeros between them.
static void grad_scatter(const lod_rank_grad_args *args, size_t column, size_t columns, const uint8_t *place,
                         size_t count) {
    for (size_t q = 0; q < args->r; q++) {
        float sums[PACK_COLUMNS], *g = args->g + q * args->ldg + column;
        memcpy(sums, g, count * sizeof *sums);
        memset(g, 0, columns * sizeof *g);
        for (size_t i = 0; i < count; i++) {
            g[place[i]] = sums[i];
        }
    }
}

static void grad_packed(const lod_rank_grad_args *args, size_t column) {
    _Alignas(64) float block[PACK_TOKENS * PACK_COLUMNS_LD];
    const size_t columns = smaller(PACK_COLUMNS, args->n - column);
    uint8_t place[PACK_COLUMNS];
    const uint8_t *bits = args->columns + (args->keep_col + column) / 8;
    const size_t count = list_places(bits, columns, place);
    size_t t0 = 0;
    do {
        size_t tokens = smaller(PACK_TOKENS, args->tokens - t0), i = 0;
        const float *x = args->x + t0 * args->ldx + column;
        for (; i + PACK_ROWS <= tokens; i += PACK_ROWS) {
            for (size_t t = t0 + i + PACK_TOKENS; t < smaller(args->tokens, t0 + i + PACK_TOKENS + PACK_ROWS); t++) {
                prefetch_row(args->x + t * args->ldx + column, columns);
            }
            pack_tile(x + i * args->ldx, args->ldx, PACK_ROWS, bits, columns, block + i * PACK_COLUMNS_LD,
                      PACK_COLUMNS_LD);
        }
        for (; i < tokens; i++) {
            pack_tile(x + i * args->ldx, 0, 1, bits, columns, block + i * PACK_COLUMNS_LD, 0);
        }
        const grad_block b = {
            .args = args,
            .x = block,
            .ldx = PACK_COLUMNS_LD,
            .t0 = t0,
            .tokens = tokens,
            .column = column,
        };
        grad_columns(&b, count);
        t0 += tokens;
    } while (t0 < args->tokens);
    grad_scatter(args, column, columns, place, count);
}

void LOD_VARIANT(rank_grad_f32)(const lod_rank_grad_args *args) {
    const size_t step = args->columns ? PACK_COLUMNS : GRAD_BLOCK_COLUMNS;
    const bool one_group = args->r <= LOD_GRAD_RANKS || args->r == GRAD_TALL;
    if (!args->columns && (!args->keep || one_group)) {
        grad_in_place(args);
        return;
    }
    for (size_t j = 0; j < args->n; j += step) {
        (args->columns ? grad_packed : grad_copied)(args, j);
    }
}
