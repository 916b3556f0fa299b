// The tall-skinny products: U and dU (sums over columns in 16 lanes), dA and dB (sums over tokens).
#include <math.h>

#include "check.h"
#include "ref/ref.h"

static const double rates[] = {0, 0.1, 0.5, 0.999};
static const size_t ranks[] = {1, 2, 3, 8, 17};
static const size_t widths[] = {0, 1, 2, 3, 15, 16, 17, 31, 33, 97, 768};
static const size_t token_counts[] = {1, 2, 5, 9};
enum { MANY_TOKENS = 147, MANY_COLUMNS = 1037, MANY_RANKS = 37 }; // beyond any block that a variant may work in

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

// Every 3rd dropped cell of x becomes NaN, an infinity or a large number.
static void poison(float *x, size_t ldx, size_t rows, size_t cols, const uint8_t *keep, size_t ldkeep,
                   size_t keep_col) {
    static const float poisons[] = {NAN, INFINITY, -INFINITY, 3e38f};
    size_t seen = 0;
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < cols; j++) {
            if (!lod_ref_kept(keep, ldkeep, i, keep_col + j) && seen++ % 3 == 0) {
                x[i * ldx + j] = poisons[seen / 3 % COUNT(poisons)];
            }
        }
    }
}

static void check_dot(const lod_kernel *kernel, size_t tokens, size_t n, size_t r, bool masked, double rate) {
    check_shape("tokens=%zu n=%zu r=%zu %s rate=%g", tokens, n, r, masked ? "masked" : "whole", rate);
    lod_rank_dot_args t = {.tokens = tokens, .n = n, .r = r, .ldx = n + 3, .lda = n + 1, .ldu = r + 2};
    t.ldkeep = (n + 127) / 128 * 16 + 7;
    t.scale = check_mode_now() == CHECK_INTEGERS ? 0.5f : 1.7f;
    float *x = check_floats("x", CHECK_IN, tokens, n, t.ldx);
    t.x = x;
    t.a = check_floats("a", CHECK_IN, r, n, t.lda);
    t.keep = masked ? check_keep(tokens, n, t.ldkeep, rate) : NULL;
    t.u = check_floats("u", CHECK_OUT, tokens, r, t.ldu);
    lod_rank_dot_f64_args wide = {
        .tokens = tokens,
        .n = n,
        .r = r,
        .x = check_widen(x),
        .ldx = n,
        .keep = t.keep,
        .ldkeep = t.ldkeep,
        .a = check_widen(t.a),
        .lda = n,
        .scale = t.scale,
        .u = check_doubles(tokens * r),
        .ldu = r,
    };
    double *want = wide.u, *bound = check_doubles(tokens * r);
    lod_rank_dot_f64(&wide);
    wide.x = check_magnitudes(x), wide.a = check_magnitudes(t.a), wide.u = bound;
    lod_rank_dot_f64(&wide);
    for (size_t i = 0; i < tokens * r; i++) {
        bound[i] *= check_gamma((double)(n + 15) / 16 + 4 + 1); // a lane, the tree, the scale
    }
    if (check_mode_now() == CHECK_POISON && masked) {
        kernel->fn.rank_dot_f32(&t);
        want = check_widen(t.u);
        bound = NULL;
        poison(x, t.ldx, tokens, n, t.keep, t.ldkeep, 0);
    }
    CHECK_CALL(kernel->fn.rank_dot_f32(&t));
    check_near(t.u, want, check_mode_now() == CHECK_INTEGERS ? NULL : bound);
    check_share(t.u);
}

CHECK_KERNEL(rank_dot_f32, 0x5f2e44e7f4a007e9) {
    for (size_t i = 0; i < COUNT(token_counts); i++) {
        for (size_t n = 0; n < COUNT(widths); n++) {
            for (size_t r = 0; r < COUNT(ranks); r++) {
                check_dot(kernel, token_counts[i], widths[n], ranks[r], false, 0);
                check_dot(kernel, token_counts[i], widths[n], ranks[r], true, rates[(n + r) % COUNT(rates)]);
            }
        }
    }
    check_dot(kernel, MANY_TOKENS, MANY_COLUMNS, 3, true, 0.1);
    check_dot(kernel, 7, MANY_COLUMNS, MANY_RANKS, true, 0.1);
    check_dot(kernel, MANY_TOKENS, 50, MANY_RANKS, false, 0);
}

// Every column whose bit is not set becomes NaN.
static void poison_columns(float *x, size_t ldx, size_t rows, size_t cols, const uint8_t *columns, size_t first) {
    for (size_t j = 0; j < cols; j++) {
        for (size_t i = 0; i < rows && !lod_ref_kept(columns, 0, 0, first + j); i++) {
            x[i * ldx + j] = NAN;
        }
    }
}

// The bits of a product over some columns are those of the product over columns that were moved together before.
static void check_dot_columns(const lod_kernel *kernel, size_t tokens, size_t n, size_t r, double rate) {
    check_shape("tokens=%zu n=%zu r=%zu columns, rate=%g", tokens, n, r, rate);
    lod_rank_dot_args t = {.tokens = tokens, .n = n, .r = r, .ldx = n + 3, .ldu = r + 2, .scale = 1.7f};
    size_t there = 0;
    t.columns = check_keep(1, n, (n + 7) / 8, rate);
    for (size_t j = 0; j < n; j++) {
        there += lod_ref_kept(t.columns, 0, 0, j);
    }
    t.lda = (there + 15) / 16 * 16 + 1;
    float *x = check_floats("x", CHECK_INOUT, tokens, n, t.ldx);
    t.x = x;
    float *a = check_floats("a", CHECK_INOUT, r, t.lda - 1, t.lda);
    t.a = a;
    for (size_t i = 0; i < r * (t.lda - 1 - there); i++) {
        a[i % r * t.lda + there + i / r] = 0;
    }
    t.u = check_floats("u", CHECK_OUT, tokens, r, t.ldu);
    float *together = check_floats("together", CHECK_INOUT, tokens, there, there);
    for (size_t i = 0; i < tokens; i++) {
        size_t k = 0;
        for (size_t j = 0; j < n; j++) {
            if (lod_ref_kept(t.columns, 0, 0, j)) together[i * there + k++] = x[i * t.ldx + j];
        }
    }
    lod_rank_dot_args plain = t;
    plain.columns = NULL, plain.n = plain.ldx = there, plain.x = together;
    plain.u = check_floats("plain u", CHECK_OUT, tokens, r, t.ldu);
    kernel->fn.rank_dot_f32(&plain);
    poison_columns(x, t.ldx, tokens, n, t.columns, 0);
    CHECK_CALL(kernel->fn.rank_dot_f32(&t));
    for (size_t i = 0; i < tokens; i++) {
        check_bytes_equal("u", t.u + i * t.ldu, plain.u + i * t.ldu, r * sizeof *t.u);
    }
    check_share(t.u);
}

CHECK_KERNEL_AS(rank_dot_f32_columns, rank_dot_f32, 0xbe0c7a72cd8e4393) {
    for (size_t i = 0; i < COUNT(token_counts); i++) {
        for (size_t n = 0; n < COUNT(widths); n++) {
            for (size_t r = 0; r < COUNT(ranks); r++) {
                check_dot_columns(kernel, token_counts[i], widths[n], ranks[r], rates[(i + n + r) % COUNT(rates)]);
            }
        }
    }
    check_dot_columns(kernel, MANY_TOKENS, MANY_COLUMNS, 3, 0.1);
    check_dot_columns(kernel, 7, MANY_COLUMNS, MANY_RANKS, 0.5);
}

static void check_grad(const lod_kernel *kernel, size_t tokens, size_t n, size_t r, bool masked, double rate) {
    check_shape("tokens=%zu n=%zu r=%zu %s rate=%g", tokens, n, r, masked ? "masked" : "whole", rate);
    lod_rank_grad_args t = {.tokens = tokens, .n = n, .r = r, .lds = r + 2, .ldx = n + 3, .ldg = n + 5, .keep_col = 48};
    t.ldkeep = (t.keep_col + n + 127) / 128 * 16 + 7;
    t.scale = check_mode_now() == CHECK_INTEGERS ? 0.5f : 1.7f;
    float *x = check_floats("x", CHECK_IN, tokens, n, t.ldx);
    t.x = x;
    t.s = check_floats("s", CHECK_IN, tokens, r, t.lds);
    t.keep = masked ? check_keep(tokens, t.keep_col + n, t.ldkeep, rate) : NULL;
    t.g = check_floats("g", CHECK_OUT, r, n, t.ldg);
    lod_rank_grad_f64_args wide = {
        .tokens = tokens,
        .n = n,
        .r = r,
        .s = check_widen(t.s),
        .lds = r,
        .x = check_widen(x),
        .ldx = n,
        .keep = t.keep,
        .ldkeep = t.ldkeep,
        .keep_col = t.keep_col,
        .scale = t.scale,
        .g = check_doubles(r * n),
        .ldg = n,
    };
    double *want = wide.g, *bound = check_doubles(r * n);
    lod_rank_grad_f64(&wide);
    wide.s = check_magnitudes(t.s), wide.x = check_magnitudes(x), wide.g = bound;
    lod_rank_grad_f64(&wide);
    for (size_t i = 0; i < r * n; i++) {
        bound[i] *= check_gamma((double)tokens + 1); // a sum, the scale
    }
    if (check_mode_now() == CHECK_POISON && masked) {
        kernel->fn.rank_grad_f32(&t);
        want = check_widen(t.g);
        bound = NULL;
        poison(x, t.ldx, tokens, n, t.keep, t.ldkeep, t.keep_col);
    }
    CHECK_CALL(kernel->fn.rank_grad_f32(&t));
    check_near(t.g, want, check_mode_now() == CHECK_INTEGERS ? NULL : bound);
    check_share(t.g);
}

CHECK_KERNEL(rank_grad_f32, 0x8e6651abfb350747) {
    for (size_t i = 0; i < COUNT(token_counts); i++) {
        for (size_t n = 1; n < COUNT(widths); n++) {
            for (size_t r = 0; r < COUNT(ranks); r++) {
                check_grad(kernel, 3 * token_counts[i] - 3, widths[n], ranks[r], false, 0);
                check_grad(kernel, 3 * token_counts[i] - 2, widths[n], ranks[r], true, rates[(n + r) % COUNT(rates)]);
            }
        }
    }
    check_grad(kernel, MANY_TOKENS, MANY_COLUMNS, 3, true, 0.1);
    check_grad(kernel, 7, MANY_COLUMNS, MANY_RANKS, true, 0.1);
    check_grad(kernel, MANY_TOKENS, 50, MANY_RANKS, false, 0);
    check_grad(kernel, 37, 75, 16, true, 0.1); // one tile has all ranks
    check_grad(kernel, 37, 75, 32, false, 0);  // two do
}

// The bits of a leaf over some columns are those of the leaf over all of them, zeros in the others.
static void check_grad_columns(const lod_kernel *kernel, size_t tokens, size_t n, size_t r, double rate) {
    check_shape("tokens=%zu n=%zu r=%zu columns, rate=%g", tokens, n, r, rate);
    lod_rank_grad_args t = {.tokens = tokens, .n = n, .r = r, .lds = r + 2, .ldx = n + 3, .ldg = n + 5, .keep_col = 48};
    t.scale = 1.7f;
    float *x = check_floats("x", CHECK_INOUT, tokens, n, t.ldx);
    t.x = x;
    t.s = check_floats("s", CHECK_IN, tokens, r, t.lds);
    t.g = check_floats("g", CHECK_OUT, r, n, t.ldg);
    lod_rank_grad_args plain = t;
    plain.g = check_floats("plain g", CHECK_OUT, r, n, t.ldg);
    kernel->fn.rank_grad_f32(&plain);
    t.columns = check_keep(1, t.keep_col + n, (t.keep_col + n + 7) / 8, rate);
    for (size_t i = 0; i < r * n; i++) {
        if (!lod_ref_kept(t.columns, 0, 0, t.keep_col + i % n)) plain.g[i / n * t.ldg + i % n] = 0;
    }
    poison_columns(x, t.ldx, tokens, n, t.columns, t.keep_col);
    CHECK_CALL(kernel->fn.rank_grad_f32(&t));
    for (size_t q = 0; q < r; q++) {
        check_bytes_equal("g", t.g + q * t.ldg, plain.g + q * t.ldg, n * sizeof *t.g);
    }
    check_share(t.g);
}

CHECK_KERNEL_AS(rank_grad_f32_columns, rank_grad_f32, 0x2c673a4b008b7d4f) {
    for (size_t i = 0; i < COUNT(token_counts); i++) {
        for (size_t n = 1; n < COUNT(widths); n++) {
            for (size_t r = 0; r < COUNT(ranks); r++) {
                check_grad_columns(kernel, 3 * token_counts[i] - 3, widths[n], ranks[r],
                                 rates[(i + n + r) % COUNT(rates)]);
            }
        }
    }
    check_grad_columns(kernel, MANY_TOKENS, MANY_COLUMNS, 3, 0.1);
    check_grad_columns(kernel, 7, MANY_COLUMNS, MANY_RANKS, 0.5);
}
