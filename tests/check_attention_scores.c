// The steps of attention on a block of scores: the online softmax and its gradient, with every mode and mask, and the
// exponential that both are made of. Masks are those of the scalar definition.
//
// exp(x) of an x that was rounded once is off by |x| + 2 roundings, relatively, and by one subnormal, absolutely.
#include <math.h>
#include <string.h>

#include "check.h"
#include "philox.h"
#include "ref/ref.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

enum { BLOCK = LOD_KEY_BLOCK, LD = LOD_SCORE_LD };
static const double tiny = 0x1p-149;

static size_t padded(size_t n) {
    return (n + 15) / 16 * 16;
}

// --- What is seen and kept ---

typedef struct mask_case {
    lod_attention_mode mode;
    lod_keep keep;
    const char *text;
} mask_case;

// All that kernels.h allows.
static const mask_case mask_cases[] = {
    {LOD_ATTENTION_LOGITS, LOD_KEEP_ALL, "logits all"},       {LOD_ATTENTION_LOGITS, LOD_KEEP_DRAWN, "logits drawn"},
    {LOD_ATTENTION_WEIGHTS, LOD_KEEP_DRAWN, "weights drawn"}, {LOD_ATTENTION_NOGRAD, LOD_KEEP_ALL, "nograd all"},
    {LOD_ATTENTION_NOGRAD, LOD_KEEP_NONE, "nograd none"},     {LOD_ATTENTION_NOGRAD, LOD_KEEP_DRAWN, "nograd drawn"}};

typedef struct block {
    size_t rows, n;
    const uint32_t *seen;
    lod_attention_mask mask;
    uint8_t *keep; // [rows][BLOCK]
} block;

// The last row sees all n keys, the others as many as chance says.
static block make_block(size_t rows, size_t n, const mask_case *c, double rate) {
    block b = {.rows = rows, .n = n, .mask = {.mode = c->mode, .keep = c->keep}};
    uint32_t *seen = check_operand("seen", CHECK_IN, sizeof *seen, 1, rows, rows, 4);
    for (size_t i = 0; i < rows; i++) {
        seen[i] = (uint32_t)(i == rows - 1 ? n : check_below(n + 1));
    }
    b.seen = seen;
    b.keep = check_operand("keep", CHECK_IN, 1, rows, BLOCK, BLOCK, 1);
    memset(b.keep, c->keep != LOD_KEEP_NONE, rows * BLOCK);
    if (c->keep != LOD_KEEP_DRAWN)
        return b;
    b.mask.seed = check_random(), b.mask.site = (uint32_t)check_random(), b.mask.draw = (uint32_t)check_random();
    b.mask.row0 = (uint32_t)check_random(), b.mask.group = 16 * (uint32_t)check_below(1 << 20);
    b.mask.threshold = lod_mask_threshold(rate);
    for (size_t i = 0; i < rows; i++) {
        for (uint32_t j = 0; j < BLOCK; j++) {
            b.keep[i * BLOCK + j] = (uint8_t)lod_mask_keep(b.mask.seed, b.mask.site, b.mask.draw,
                                                           b.mask.row0 + (uint32_t)i, 8 * b.mask.group + j, rate);
        }
    }
    return b;
}

static bool kept(const block *b, size_t i, size_t j) {
    return j < b->seen[i] && b->keep[i * BLOCK + j];
}

// Scores of `spread` to either side; NaN, in poison mode, where they are not seen and where `dropped` they are dropped.
static float *make_scores(const char *name, const block *b, float spread, bool dropped) {
    const size_t columns = padded(b->n);
    float *s = check_floats(name, CHECK_INOUT, b->rows, columns, LD);
    for (size_t i = 0; i < b->rows; i++) {
        for (size_t j = 0; j < columns; j++) {
            s[i * LD + j] *= check_mode_now() == CHECK_INTEGERS ? 1 : spread;
            if (check_mode_now() == CHECK_POISON && (j >= b->seen[i] || (dropped && !kept(b, i, j))))
                s[i * LD + j] = NAN;
        }
    }
    return s;
}

// [rows][LD] doubles with zeros where nothing is seen.
static double *widen_scores(const block *b, const float *s) {
    double *wide = check_doubles(b->rows * LD);
    for (size_t i = 0; i < b->rows; i++) {
        for (size_t j = 0; j < b->seen[i]; j++) {
            wide[i * LD + j] = s[i * LD + j];
        }
    }
    return wide;
}

// [rows][padded(n)] of [rows][LD], as check_near wants them.
static double *packed(const block *b, const double *s) {
    const size_t columns = padded(b->n);
    double *out = check_doubles(b->rows * columns);
    for (size_t i = 0; i < b->rows * columns; i++) {
        out[i] = s[i / columns * LD + i % columns];
    }
    return out;
}

static double exp_error(double argument) {
    return exp(argument) * check_gamma(fabs(argument) + 2) + tiny;
}

// --- The online softmax ---

// One state moved on over some of a row's scores: bounds of its lanes and of alpha.
static double bound_sum(const block *b, size_t i, const double *s, bool all, bool dropped, double before, double after,
                        const double *l, double *l_bound) {
    const double shift = before - after, terms = ceil(b->seen[i] / 16.0) + 1; // sums, and the product with alpha
    const double alpha = shift ? exp_error(shift) : 0;
    bool any = false;
    for (size_t v = 0; v < 16; v++) {
        l_bound[v] = l[v] * (alpha + exp(shift) * check_gamma(terms));
    }
    for (size_t j = 0; j < b->seen[i]; j++) {
        if (!all && kept(b, i, j) == dropped)
            continue;
        any = true;
        l_bound[j % 16] += exp_error(s[j] - after) + exp(s[j] - after) * check_gamma(terms) + tiny;
    }
    for (size_t v = 0; v < 16 && !any; v++) {
        l_bound[v] = 0; // nothing changes
    }
    return alpha;
}

typedef struct softmax_case {
    lod_attention_softmax_args t;
    lod_attention_softmax_f64_args wide;
    double *before_m, *before_l, *before_dropped_m, *before_dropped_l; // the state in double, which wide moves on
    double *s, *s_bound, *l_bound, *dropped_l_bound, *o_bound;
} softmax_case;

static void bound_softmax(const block *b, const softmax_case *c) {
    const size_t d16 = padded(c->t.head_dim), columns = padded(b->n);
    for (size_t i = 0; i < b->rows; i++) {
        const double *s = c->s + i * LD, m = c->wide.m[i];
        const bool weights = b->mask.mode == LOD_ATTENTION_WEIGHTS;
        double alpha = bound_sum(b, i, s, weights, false, c->before_m[i], m, c->before_l + i * 16, c->l_bound + i * 16);
        if (b->mask.mode == LOD_ATTENTION_NOGRAD) {
            bound_sum(b, i, s, false, true, c->before_dropped_m[i], c->wide.dropped_m[i], c->before_dropped_l + i * 16,
                      c->dropped_l_bound + i * 16);
        }
        for (size_t d = 0; d < d16; d++) {
            double before = fabs((double)c->t.o[i * d16 + d]), after = fabs(c->wide.o[i * d16 + d]);
            c->o_bound[i * d16 + d] = alpha ? before * alpha + after * check_gamma(1) + 2 * tiny : 0;
        }
        for (size_t j = 0; j < columns; j++) {
            c->s_bound[i * columns + j] = kept(b, i, j) ? exp_error(s[j] - m) : 0;
        }
    }
}

// A state of blocks before this one, or the one that every row begins with.
static void make_state(size_t rows, const char *m_name, const char *l_name, bool fresh, float **m, float **l) {
    *m = check_floats(m_name, CHECK_INOUT, 1, rows, rows), *l = check_floats(l_name, CHECK_INOUT, rows, 16, 16);
    for (size_t i = 0; i < rows; i++) {
        (*m)[i] = fresh ? -1e30f : (*m)[i] * 8;
        for (size_t v = 0; v < 16; v++) {
            (*l)[i * 16 + v] = fresh ? 0 : fabsf((*l)[i * 16 + v]) * 3;
        }
    }
}

static void widen_softmax(const block *b, softmax_case *c) {
    const bool nograd = b->mask.mode == LOD_ATTENTION_NOGRAD;
    const size_t rows = b->rows, d16 = padded(c->t.head_dim);
    c->wide = (lod_attention_softmax_f64_args){.rows = rows, .n = b->n, .head_dim = c->t.head_dim, .seen = b->seen};
    c->wide.mode = b->mask.mode, c->wide.keep = b->keep, c->wide.s = widen_scores(b, c->t.s);
    c->s = widen_scores(b, c->t.s);
    c->wide.m = check_widen(c->t.m), c->wide.l = check_widen(c->t.l), c->wide.o = check_widen(c->t.o);
    c->before_m = check_widen(c->t.m), c->before_l = check_widen(c->t.l);
    if (nograd) {
        c->wide.dropped_m = check_widen(c->t.dropped_m), c->wide.dropped_l = check_widen(c->t.dropped_l);
        c->before_dropped_m = check_widen(c->t.dropped_m), c->before_dropped_l = check_widen(c->t.dropped_l);
    }
    c->s_bound = check_doubles(rows * padded(b->n)), c->o_bound = check_doubles(rows * d16);
    c->l_bound = check_doubles(rows * 16), c->dropped_l_bound = check_doubles(rows * 16);
    lod_attention_softmax_f64(&c->wide);
    bound_softmax(b, c);
}

static void check_softmax(const lod_kernel *kernel, size_t rows, size_t n, size_t head_dim, const mask_case *mask,
                          double rate, float spread, bool fresh) {
    check_shape("rows=%zu n=%zu head_dim=%zu %s rate=%g spread=%g%s", rows, n, head_dim, mask->text, rate,
                (double)spread, fresh ? " fresh" : "");
    const size_t d16 = padded(head_dim);
    const bool nograd = mask->mode == LOD_ATTENTION_NOGRAD;
    const block b = make_block(rows, n, mask, rate);
    softmax_case c = {.t = {.rows = rows, .n = n, .head_dim = head_dim, .seen = b.seen, .mask = b.mask}};
    c.t.s = make_scores("s", &b, spread, mask->mode == LOD_ATTENTION_LOGITS);
    make_state(rows, "m", "l", fresh, &c.t.m, &c.t.l);
    if (nograd)
        make_state(rows, "dropped_m", "dropped_l", fresh, &c.t.dropped_m, &c.t.dropped_l);
    c.t.o = check_floats("o", CHECK_INOUT, rows, d16, d16);
    for (size_t i = 0; fresh && i < rows * d16; i++) {
        c.t.o[i] = 0;
    }
    widen_softmax(&b, &c);
    CHECK_CALL(kernel->fn.attention_softmax_f32(&c.t));
    check_near(c.t.m, c.wide.m, NULL);
    check_near(c.t.l, c.wide.l, c.l_bound);
    check_near(c.t.o, c.wide.o, c.o_bound);
    check_near(c.t.s, packed(&b, c.wide.s), c.s_bound);
    check_share(c.t.m);
    check_share(c.t.l);
    check_share(c.t.o);
    check_share(c.t.s);
    if (!nograd)
        return;
    check_near(c.t.dropped_m, c.wide.dropped_m, NULL);
    check_near(c.t.dropped_l, c.wide.dropped_l, c.dropped_l_bound);
    check_share(c.t.dropped_m);
    check_share(c.t.dropped_l);
}

static const double rates[] = {0.1, 0.5, 0.999};
static const float spreads[] = {8, 60, 1};

CHECK_KERNEL(attention_softmax_f32, 0xcdc0f9f8537767a0) {
    static const size_t head_dims[] = {8, 16, 24, 72, 256};
    size_t next = 0;
    for (size_t n = 0; n <= BLOCK; n++) {
        for (size_t c = 0; c < 2 * COUNT(mask_cases); c++, next++) {
            check_softmax(kernel, 1 + next % 4, n, head_dims[next % COUNT(head_dims)], &mask_cases[c / 2],
                          rates[next / 2 % COUNT(rates)], spreads[next % 7 % COUNT(spreads)], c % 2);
        }
    }
    for (size_t c = 0; c < COUNT(mask_cases); c++) {
        check_softmax(kernel, 66, BLOCK, 64, &mask_cases[c], 0.1, 8, false);
    }
}

// --- The gradient ---

typedef struct grad_case {
    lod_attention_grad_args t;
    lod_attention_grad_f64_args wide;
    double *p_bound, *ds_bound;
} grad_case;

// Of one cell that is seen.
static void bound_grad(const block *b, const grad_case *c, size_t i, size_t j, double *p_bound, double *ds_bound) {
    const bool keep = kept(b, i, j);
    const double s = c->wide.s[i * LD + j], dp = keep ? c->wide.dp[i * LD + j] : 0, delta = c->wide.delta[i];
    const double argument = s - c->wide.lse[i];
    // with two more roundings, of a product and of an fma, or of a difference and of a product
    const double p_error = exp_error(argument) + exp(argument) * check_gamma(2);
    *p_bound = keep ? exp_error(argument) : 0;
    if (b->mask.mode == LOD_ATTENTION_NOGRAD) {
        const double visible = s - c->wide.lse_visible[i];
        const double w_error = exp_error(visible) + exp(visible) * check_gamma(1);
        *ds_bound = (keep ? p_error * fabs(dp) : 0) + w_error * fabs(delta) + 2 * tiny;
    } else {
        *ds_bound = keep || b->mask.mode == LOD_ATTENTION_WEIGHTS ? p_error * fabs(dp - delta) + 2 * tiny : 0;
    }
}

// lse lies above the scores that are summed in it, as a log-sum-exp does; a row that keeps nothing has none.
static void make_ends(const block *b, const float *s, lod_attention_grad_args *t) {
    enum { LDLSE = 3 };
    const bool nograd = b->mask.mode == LOD_ATTENTION_NOGRAD, weights = b->mask.mode == LOD_ATTENTION_WEIGHTS;
    float *lse = check_floats("lse", CHECK_IN, b->rows, 1, LDLSE);
    float *visible = nograd ? check_floats("lse_visible", CHECK_IN, b->rows, 1, LDLSE) : NULL;
    float *delta = check_floats("delta", CHECK_IN, 1, b->rows, b->rows);
    t->lse = lse, t->lse_visible = visible, t->delta = delta, t->ldlse = LDLSE;
    for (size_t i = 0; i < b->rows; i++) {
        float most = -INFINITY, most_visible = -INFINITY;
        for (size_t j = 0; j < b->seen[i]; j++) {
            if (kept(b, i, j) || weights)
                most = fmaxf(most, s[i * LD + j]);
            most_visible = fmaxf(most_visible, s[i * LD + j]);
        }
        lse[i * LDLSE] = most == -INFINITY ? INFINITY : most + fabsf(lse[i * LDLSE]);
        delta[i] = most == -INFINITY ? 0 : delta[i];
        if (nograd)
            visible[i * LDLSE] = most_visible == -INFINITY ? INFINITY : most_visible + fabsf(visible[i * LDLSE]);
    }
}

static void check_grad(const lod_kernel *kernel, size_t rows, size_t n, const mask_case *mask, double rate,
                       float spread) {
    check_shape("rows=%zu n=%zu %s rate=%g spread=%g", rows, n, mask->text, rate, (double)spread);
    const size_t columns = padded(n);
    const block b = make_block(rows, n, mask, rate);
    grad_case c = {.t = {.rows = rows, .n = n, .seen = b.seen, .mask = b.mask}};
    c.t.s = make_scores("s", &b, spread, mask->mode == LOD_ATTENTION_LOGITS);
    c.t.dp = make_scores("dp", &b, 1, true);
    make_ends(&b, c.t.s, &c.t);
    c.wide = (lod_attention_grad_f64_args){.rows = rows, .n = n, .seen = b.seen, .mode = mask->mode, .keep = b.keep};
    c.wide.s = widen_scores(&b, c.t.s), c.wide.dp = widen_scores(&b, c.t.dp);
    c.wide.lse = check_widen(c.t.lse), c.wide.delta = check_widen(c.t.delta);
    c.wide.lse_visible = c.t.lse_visible ? check_widen(c.t.lse_visible) : NULL;
    double *p_bound = check_doubles(rows * columns), *ds_bound = check_doubles(rows * columns);
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < b.seen[i]; j++) {
            bound_grad(&b, &c, i, j, &p_bound[i * columns + j], &ds_bound[i * columns + j]);
        }
    }
    lod_attention_grad_f64(&c.wide);
    CHECK_CALL(kernel->fn.attention_grad_f32(&c.t));
    check_near(c.t.s, packed(&b, c.wide.s), p_bound);
    check_near(c.t.dp, packed(&b, c.wide.dp), ds_bound);
    check_share(c.t.s);
    check_share(c.t.dp);
}

CHECK_KERNEL(attention_grad_f32, 0xc544c8f1674b1f28) {
    size_t next = 0;
    for (size_t n = 0; n <= BLOCK; n++) {
        for (size_t c = 0; c < COUNT(mask_cases); c++, next++) {
            check_grad(kernel, 1 + next % 4, n, &mask_cases[c], rates[next % 5 % COUNT(rates)],
                       spreads[next % 7 % COUNT(spreads)]);
        }
    }
    for (size_t c = 0; c < COUNT(mask_cases); c++) {
        check_grad(kernel, 66, BLOCK, &mask_cases[c], 0.1, 8);
    }
}

// --- The exponential ---

enum { STRIDE = 251, ROWS = 64 };

static float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

// The gradient's p of a log-sum-exp of 0 is exp of the score itself.
static void exp_of(const lod_kernel *kernel, float *x) {
    static float dp[ROWS * LD];
    static const float zeros[ROWS];
    uint32_t seen[ROWS];
    for (size_t i = 0; i < ROWS; i++) {
        seen[i] = BLOCK;
    }
    kernel->fn.attention_grad_f32(&(lod_attention_grad_args){
        .rows = ROWS, .n = BLOCK, .seen = seen, .s = x, .dp = dp, .lse = zeros, .ldlse = 1, .delta = zeros});
}

// In units of the last place of the result, subnormal or not.
static double ulps_off(float x, float got) {
    const double want = exp(x);
    int exponent;
    frexp(want, &exponent);
    return fabs(got - want) / ldexp(1, exponent < -125 ? -149 : exponent - 24);
}

// Within 1 ulp where an online softmax calls it and up to 64, +0 below -104, NaN for NaN, whatever the bits are.
static void check_exp(float x, float got) {
    if (isnan(x)) {
        CHECK_THAT(isnan(got));
    } else if (x < -104) {
        CHECK_THAT(got == 0 && !signbit(got));
    } else if (x <= 64 && !(ulps_off(x, got) <= 1)) {
        check_fail("exp(%a) got %a: %.3f ulp off", (double)x, (double)got, ulps_off(x, got));
    }
}

// Every 251st of all 2^32 inputs. (All of them, once, AVX2 against double: at most 0.892 ulp off, at 0x1.4ce7a6p+2, and
// 0.858 where the result is subnormal, at -0x1.5ec8f6p+6.)
CHECK_KERNEL_AS(exp_softmax, attention_grad_f32, 0x966169617a06d69e) {
    static float x[ROWS * LD], y[ROWS * LD];
    if (check_mode_now() != CHECK_UNIFORM || kernel->isa == LOD_ISA_ref)
        return; // the inputs are given; ref calls the exp that this is held against
    check_shape("every %d", STRIDE);
    for (uint64_t next = 0; next >> 32 == 0;) {
        for (size_t i = 0; i < ROWS * LD; i++, next += i % LD < BLOCK ? STRIDE : 0) {
            x[i] = y[i] = i % LD < BLOCK ? float_of((uint32_t)next) : 0; // wraps past the last input
        }
        exp_of(kernel, y);
        for (size_t i = 0; i < ROWS * LD; i++) {
            if (i % LD < BLOCK)
                check_exp(x[i], y[i]);
            y[i] = isnan(y[i]) ? NAN : y[i];
        }
        check_share_bytes(y, sizeof y);
    }
}
