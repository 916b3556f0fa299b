// The product for few tokens: both directions, every dtype, ranges of columns, against the f64 form of a tile.
#include <math.h>
#include <string.h>

#include "check.h"
#include "ref/ref.h"

typedef struct few_case {
    size_t tokens, n_in, n_out;
    bool transposed, masked;
    lod_dtype dtype;
    size_t r, begin, end;
} few_case;

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

// A number that every dtype holds.
static float any_weight(lod_dtype dtype) {
    if (check_mode_now() == CHECK_INTEGERS) {
        return (float)check_below(9) - 4;
    }
    return dtype == LOD_F32 ? (float)check_uniform() : ((float)check_below(129) - 64) / 64;
}

// Exact for what any_weight gives, and for NaN.
static uint16_t narrow(float value, lod_dtype dtype) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (dtype == LOD_BF16 || value == 0) {
        return (uint16_t)(bits >> 16);
    }
    uint32_t exponent = isnan(value) ? 31 : (bits >> 23 & 255) - 127 + 15;
    return (uint16_t)(bits >> 31 << 15 | exponent << 10 | (bits >> 13 & 1023));
}

// W [n_out][n_in], packed, and in double as [k][n]. What no column of the range needs is NaN, padding too.
static void *weights(const few_case *c, double *wide) {
    const size_t size = c->dtype == LOD_F32 ? sizeof(float) : sizeof(uint16_t), panels = (c->n_in + 15) / LOD_PANEL;
    uint8_t *w = check_operand("w", CHECK_IN, size, panels * c->n_out, LOD_PANEL, LOD_PANEL, 64);
    for (size_t i = 0; i < panels * c->n_out * LOD_PANEL; i++) {
        const size_t in = i / LOD_PANEL / c->n_out * LOD_PANEL + i % LOD_PANEL, out = i / LOD_PANEL % c->n_out;
        const size_t j = c->transposed ? out : in, k = c->transposed ? in : out;
        const bool needed = j >= c->begin && j < c->end && in < c->n_in;
        const float value = needed ? any_weight(c->dtype) : NAN;
        const uint16_t half = narrow(value, c->dtype);
        memcpy(w + i * size, size == sizeof half ? (const void *)&half : (const void *)&value, size);
        if (needed) {
            wide[k * (c->end - c->begin) + j - c->begin] = value;
        }
    }
    return w;
}

// want: the f64 form; bound: the same on magnitudes, times gamma of the roundings on the way to a cell.
static void expect(const lod_lowrank_few_args *t, size_t k, double *w, double *want, double *bound) {
    const size_t n = t->end - t->begin;
    const double *b = t->r ? check_widen(t->b + t->begin) : NULL;
    lod_lowrank_tile_f64_args wide = {
        .m = t->tokens, .n = n, .k = k, .r = t->r, .x = check_widen(t->x), .ldx = k, .w = w, .w_row = n, .w_col = 1,
        .u = t->r ? check_widen(t->u) : NULL, .ldu = t->r, .b = b, .ldb = n, .keep = t->keep, .ldkeep = t->ldkeep,
        .keep_col = t->begin, .inv = t->inv, .first = true, .c = want, .ldc = n,
    };
    lod_lowrank_tile_f64(&wide);
    for (size_t i = 0; i < k * n; i++) {
        w[i] = fabs(w[i]);
    }
    wide.x = check_magnitudes(t->x);
    wide.u = t->r ? check_magnitudes(t->u) : NULL;
    wide.b = t->r ? check_magnitudes(t->b + t->begin) : NULL;
    wide.c = bound;
    lod_lowrank_tile_f64(&wide);
    for (size_t i = 0; i < t->tokens * n; i++) {
        bound[i] *= check_gamma((double)(k + t->r + (t->keep != NULL)));
    }
}

static void check_case(const lod_kernel *kernel, const few_case *c) {
    check_shape("tokens=%zu n_in=%zu n_out=%zu %s dtype=%d r=%zu%s columns %zu..%zu", c->tokens, c->n_in, c->n_out,
                c->transposed ? "forward" : "backward", (int)c->dtype, c->r, c->masked ? " masked" : "", c->begin,
                c->end);
    const size_t k = c->transposed ? c->n_in : c->n_out, n = c->end - c->begin;
    double *wide = check_doubles(k * n), *want = check_doubles(c->tokens * n), *bound = check_doubles(c->tokens * n);
    lod_lowrank_few_args t = {
        .tokens = c->tokens, .w = {.packed = weights(c, wide), .dtype = c->dtype}, .n_in = c->n_in, .n_out = c->n_out,
        .transposed = c->transposed, .begin = c->begin, .end = c->end, .r = c->r, .ldx = k + 3, .ldu = c->r + 2,
        .ldb = n + 5, .inv = 2, .ldkeep = (c->end + 127) / 128 * 16 + 3, .ldc = n + 7,
    };
    float *u = c->r ? check_floats("u", CHECK_IN, c->tokens, c->r, t.ldu) : NULL;
    float *b = c->r ? check_floats("b", CHECK_IN, c->r, n, t.ldb) : NULL;
    uint8_t *keep = c->masked ? check_keep(c->tokens, (c->end + 127) / 128 * 128, t.ldkeep, 0.5) : NULL;
    float *y = check_floats("c", CHECK_OUT, c->tokens, n, t.ldc);
    t.x = check_floats("x", CHECK_IN, c->tokens, k, t.ldx);
    t.u = u, t.keep = keep;
    t.b = c->r ? b - c->begin : NULL, t.c = y - c->begin;
    const size_t lost = c->end - 1; // a column that loses its adapter, which may then hold NaN
    for (size_t i = 0; c->masked && i < c->tokens; i++) {
        keep[i * t.ldkeep + lost / 8] &= (uint8_t) ~(1u << lost % 8);
    }
    expect(&t, k, wide, want, bound);
    for (size_t q = 0; check_mode_now() == CHECK_POISON && c->masked && q < c->r; q++) {
        b[q * t.ldb + lost - c->begin] = NAN;
    }
    CHECK_CALL(kernel->fn.lowrank_few_f32(&t));
    check_near(y, want, check_mode_now() == CHECK_INTEGERS ? NULL : bound);
    check_share(y);
}

CHECK_KERNEL(lowrank_few_f32, 0x1c0033ac331a59b2) {
    static const size_t sizes[][2] = {{1, 1}, {16, 16}, {17, 40}, {64, 48}, {70, 33}, {128, 16}, {130, 75}, {5, 130}};
    static const size_t tokens[] = {1, 2, 3, 4, 5, 7, 12, 13, 25, LOD_FEW_TOKENS};
    static const size_t ranks[] = {0, 1, 8, 3, 0, 5, 13};
    size_t next = 0;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        for (size_t i = 0; i < 2 * sizeof tokens / sizeof *tokens; i++, next++) {
            few_case c = {.tokens = tokens[i / 2], .n_in = sizes[s][0], .n_out = sizes[s][1], .transposed = i % 2,
                          .masked = next % 5 == 0 || (i % 2 == 0 && next / 3 % 2),
                          .dtype = (lod_dtype)(next % 3), .r = ranks[next % 7]};
            c.end = c.transposed ? c.n_out : c.n_in;
            if (next % 4 > 1 && c.end > LOD_PANEL) {
                c.begin = LOD_PANEL;
            } else if (next % 8 > 3) {
                c.end = smaller(c.end, LOD_PANEL);
            }
            check_case(kernel, &c);
        }
    }
    // More columns than one block of C has.
    static const few_case wide = {
        .tokens = LOD_FEW_TOKENS, .n_in = 20, .n_out = 4200, .transposed = true, .r = 1, .end = 4200};
    check_case(kernel, &wide);
}
