// Attention as a whole, forward and backward, against its meaning in double: every dropout, causal or not, grouped
// queries, ragged segments. Bounds are derived step by step (u the unit roundoff, gamma as in check.h):
//
// - a logit is off by its chain of D fmas and by the rounding of scale q;
// - a weight exp(s - m) by that, relatively, by the rounding of each argument of the exponentials that make it (their
//   lengths telescope to |s - max|), by 2 u of each exp, and by the products with alpha: 4 roundings a key block;
// - sums in 16 lanes by keys / 16 + 4 roundings, chains by one rounding a term.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attention_case.h"
#include "ref/ref.h"

// A result's error on top of the relative one, where it underflows.
static const double tiny = 0x1p-149;

// One query of one head: its operands in double and its results.
typedef struct query {
    lod_attention_fwd_f64_args f; // packed rows of d floats
    size_t kv_row, row;           // of its first key and of itself, in [..][heads] tensors
    double blocks, inv;
    double *s, *s_error; // [keys] logits, and how far off they may be
    double *o_bound, lse_bound, lse_visible_bound;
} query;

static double dot(size_t n, const double *a, const double *b, bool magnitude) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += magnitude ? fabs(a[i] * b[i]) : a[i] * b[i];
    }
    return sum;
}

static void find_logits(query *t) {
    const lod_attention_fwd_f64_args *f = &t->f;
    for (size_t j = 0; j < f->keys; j++) {
        const double *k = f->k + j * f->ldk;
        t->s[j] = dot(f->head_dim, f->q, k, false) * f->scale;
        t->s_error[j] = dot(f->head_dim, f->q, k, true) * fabs(f->scale) * check_gamma((double)f->head_dim + 1);
    }
}

static bool kept(const lod_attention_fwd_f64_args *f, size_t j) {
    return !f->keep || f->keep[j];
}

// The relative error of the sum of exp over the keys that count, and of lse; *most: the largest logit error.
static double sum_error(const query *t, bool all, double *most, double *lse_bound) {
    const lod_attention_fwd_f64_args *f = &t->f;
    double max = -INFINITY, sum = 0, error = 0;
    *most = *lse_bound = 0;
    for (size_t j = 0; j < f->keys; j++) {
        if (!all && !kept(f, j))
            continue;
        max = fmax(max, t->s[j]);
        *most = fmax(*most, t->s_error[j]);
    }
    for (size_t j = 0; j < f->keys; j++) {
        if (!all && !kept(f, j))
            continue;
        double argument = t->s[j] - max;
        sum += exp(argument);
        error += exp(argument) * (t->s_error[j] + check_gamma(fabs(argument) + *most + 2 + 4 * t->blocks)) + tiny;
    }
    if (sum == 0)
        return 0;
    error = error / sum + check_gamma((double)f->keys / 16 + 5);
    *lse_bound = error + 2 * CHECK_U * fabs(log(sum)) + CHECK_U * (fabs(max + log(sum)) + error + *most);
    return error;
}

static void bound_forward(query *t) {
    const lod_attention_fwd_f64_args *f = &t->f;
    const bool weights = f->compensation == LOD_COMPENSATION_INVERTED;
    double most, unused;
    const double relative = sum_error(t, weights, &most, &t->lse_bound);
    if (f->lse_visible) {
        // the two sums join with two exps, a product and an fma
        sum_error(t, true, &unused, &t->lse_visible_bound);
        t->lse_visible_bound += check_gamma(fabs(*f->lse_visible - (isinf(*f->lse) ? *f->lse_visible : *f->lse)) + 8);
    }
    for (size_t d = 0; d < f->head_dim; d++) {
        t->o_bound[d] = fabs(f->o[d]) * (relative + check_gamma(3)) + tiny;
    }
    for (size_t j = 0; j < f->keys; j++) {
        if (!kept(f, j))
            continue;
        const double argument = t->s[j] - *f->lse;
        const double error = t->s_error[j] + check_gamma(fabs(argument) + most + 2 + 4 * t->blocks);
        const double weight = exp(argument) * (error + check_gamma((double)f->keys));
        for (size_t d = 0; d < f->head_dim; d++) {
            const double value = fabs(f->v[j * f->ldv + d]) * t->inv;
            t->o_bound[d] += weight * value + tiny * (value + 1);
        }
    }
}

// Sums of the queries of a head group, in double.
typedef struct gradients {
    double *dq, *dk, *dv, *dq_bound, *dk_bound, *dv_bound; // laid out as the tensors, packed
} gradients;

static void add_backward(const query *t, const double *d_o, size_t chain, const gradients *g) {
    const lod_attention_fwd_f64_args *f = &t->f;
    const size_t n = f->head_dim;
    const bool nograd = f->lse_visible, weights = f->compensation == LOD_COMPENSATION_INVERTED;
    double *dq = g->dq + t->row * n, *dq_bound = g->dq_bound + t->row * n, delta_error = 0;
    const double delta = dot(n, d_o, f->o, false);
    for (size_t d = 0; d < n; d++)
        delta_error += fabs(d_o[d]) * t->o_bound[d];
    delta_error += dot(n, d_o, f->o, true) * check_gamma((double)n / 16 + 5) + n * tiny;
    lod_attention_bwd_f64(&(lod_attention_bwd_f64_args){.head_dim = n,
                                                        .keys = f->keys,
                                                        .q = f->q,
                                                        .k = f->k,
                                                        .v = f->v,
                                                        .ldk = f->ldk,
                                                        .ldv = f->ldv,
                                                        .scale = f->scale,
                                                        .keep = f->keep,
                                                        .compensation = f->compensation,
                                                        .inv = f->inv,
                                                        .o = f->o,
                                                        .d_o = d_o,
                                                        .lse = *f->lse,
                                                        .lse_visible = nograd ? *f->lse_visible : 0,
                                                        .dq = dq,
                                                        .dk = g->dk + t->kv_row * n,
                                                        .dv = g->dv + t->kv_row * n});
    for (size_t j = 0; j < f->keys; j++) {
        const bool keep = kept(f, j);
        const double *k = f->k + j * f->ldk, *v = f->v + j * f->ldv, s = t->s[j], s_error = t->s_error[j];
        const double p = keep || weights ? exp(s - *f->lse) : 0;
        const double p_error =
            keep || weights ? p * (s_error + t->lse_bound + check_gamma(fabs(s - *f->lse) + 3)) + tiny : 0;
        const double dw = keep ? dot(n, d_o, v, false) * t->inv : 0;
        const double dw_error = (keep ? dot(n, d_o, v, true) * t->inv * check_gamma((double)n + 1) : 0) + n * tiny;
        double ds, ds_error;
        if (nograd) {
            const double w = exp(s - *f->lse_visible);
            const double w_error =
                w * (s_error + t->lse_visible_bound + check_gamma(fabs(s - *f->lse_visible) + 3)) + tiny;
            ds = p * dw - w * delta;
            ds_error = p * dw_error + p_error * (fabs(dw) + dw_error) + w * delta_error +
                       w_error * (fabs(delta) + delta_error);
            ds_error += (fabs(p * dw) + fabs(w * delta) + ds_error) * check_gamma(2);
        } else {
            ds = (keep || weights ? p : 0) * (dw - delta);
            ds_error = p * (dw_error + delta_error) + p_error * (fabs(dw - delta) + dw_error + delta_error);
            ds_error += (p * fabs(dw - delta) + ds_error) * check_gamma(2);
        }
        if (!keep && !weights && !nograd)
            continue;
        ds_error += tiny;
        const double scale = fabs(f->scale), terms = check_gamma((double)f->keys + 2);
        for (size_t d = 0; d < n; d++) {
            double *dk_bound = g->dk_bound + (t->kv_row + j * (f->ldk / n)) * n + d;
            double *dv_bound = g->dv_bound + (t->kv_row + j * (f->ldv / n)) * n + d;
            dq_bound[d] += scale * fabs(k[d]) * (ds_error + (fabs(ds) + ds_error) * terms) + tiny;
            *dk_bound +=
                scale * fabs(f->q[d]) * (ds_error + (fabs(ds) + ds_error) * check_gamma((double)chain + 1)) + tiny;
            double pd = keep ? p : 0;
            *dv_bound += t->inv * fabs(d_o[d]) * (p_error + (pd + p_error) * check_gamma((double)chain + 1)) + tiny;
        }
    }
}

// Everything that a call computes, and the bounds.
static void meaning(const attention_case *t, const attention_wide *w) {
    const lod_attention_shape *s = &t->shape;
    const size_t n = s->head_dim, group = s->heads / s->kv_heads;
    double *scratch = check_doubles(s->keys), *logits = check_doubles(s->keys), *errors = check_doubles(s->keys);
    uint8_t *keep = check_operand("keep", CHECK_OUT, 1, 1, s->keys, s->keys, 1);
    const gradients g = {w->dq, w->dk, w->dv, w->dq_bound, w->dk_bound, w->dv_bound};
    for (size_t i = 0; i < t->segments; i++) {
        const size_t keys = t->key_start[i + 1] - t->key_start[i];
        const size_t queries = t->query_start[i + 1] - t->query_start[i];
        for (size_t head = 0; head < s->heads; head++) {
            for (size_t q = 0; q < queries; q++) {
                query one = {
                    .row = (t->query_start[i] + q) * s->heads + head, .inv = 1, .s = logits, .s_error = errors};
                one.kv_row = t->key_start[i] * s->kv_heads + head / group;
                one.blocks = (double)(keys / LOD_KEY_BLOCK + 1);
                lod_attention_fwd_f64_args *f = &one.f;
                *f = (lod_attention_fwd_f64_args){.head_dim = n,
                                                  .keys = t->args.causal ? keys - queries + q + 1 : keys,
                                                  .q = w->q + one.row * n,
                                                  .k = w->k + one.kv_row * n,
                                                  .v = w->v + one.kv_row * n,
                                                  .ldk = s->kv_heads * n,
                                                  .ldv = s->kv_heads * n,
                                                  .scale = t->args.scale,
                                                  .compensation = t->args.dropout.compensation,
                                                  .inv = attention_case_inv(t),
                                                  .o = w->o + one.row * n,
                                                  .lse = w->lse + one.row};
                f->scratch = scratch;
                f->keep = t->args.dropout.p > 0 ? keep : NULL;
                if (f->keep)
                    attention_case_keep(t, i, head, q, keep);
                if (f->keep && f->compensation == LOD_COMPENSATION_INVERTED)
                    one.inv = f->inv;
                if (f->keep && f->compensation == LOD_COMPENSATION_RENORMALISE_NOGRAD) {
                    f->lse_visible = w->lse_visible + one.row;
                }
                one.o_bound = w->o_bound + one.row * n;
                find_logits(&one);
                lod_attention_fwd_f64(f);
                bound_forward(&one);
                w->lse_bound[one.row] = one.lse_bound;
                w->lse_visible_bound[one.row] = one.lse_visible_bound;
                add_backward(&one, w->d_o + one.row * n, queries * group, &g);
            }
        }
    }
}

// Emulated, the bits must do: the golden hash stands for runs that have held the bounds.
static void check_case(const attention_case *t) {
    attention_outputs out = attention_case_run(t, 1, 1);
    if (getenv("LODROP_EMULATED")) {
        attention_case_share(t, &out);
        return;
    }
    attention_wide w = attention_case_widen(t);
    meaning(t, &w);
    check_near(out.o, w.o, w.o_bound);
    check_near(out.lse, w.lse, w.lse_bound);
    if (attention_case_nograd(t))
        check_near(out.lse_visible, w.lse_visible, w.lse_visible_bound);
    check_near(out.dq, w.dq, w.dq_bound);
    check_near(out.dk, w.dk, w.dk_bound);
    check_near(out.dv, w.dv, w.dv_bound);
    attention_case_share(t, &out);
}

static const lod_attention_shape shapes[] = {
    {.heads = 1, .kv_heads = 1, .head_dim = 8},  {.heads = 3, .kv_heads = 1, .head_dim = 24},
    {.heads = 8, .kv_heads = 2, .head_dim = 16}, {.heads = 8, .kv_heads = 1, .head_dim = 8},
    {.heads = 2, .kv_heads = 2, .head_dim = 64}, {.heads = 1, .kv_heads = 1, .head_dim = 256}};

CHECK_ONCE(attention_without_dropout, 0x1a4a7e2e3ee57d24) {
    for (size_t i = 0; i < 2 * COUNT(shapes); i++) {
        attention_case t;
        attention_case_make(&t, shapes[i / 2], i % 2, (lod_dropout){.p = 0});
        check_case(&t);
    }
}

static void check_rates(lod_pattern pattern, lod_compensation compensation, bool per_kv_head) {
    static const double rates[] = {0.1, 0.5, 0.999};
    for (size_t i = 0; i < COUNT(rates) * COUNT(shapes); i++) { // causal or not in turn
        attention_case t;
        const lod_dropout dropout = {.pattern = pattern,
                                     .compensation = compensation,
                                     .p = rates[i % COUNT(rates)],
                                     .seed = 0x123456789abcdef,
                                     .site = 0x1234c000,
                                     .per_kv_head = per_kv_head};
        attention_case_make(&t, shapes[i / COUNT(rates)], i % 2, dropout);
        check_case(&t);
    }
}

CHECK_ONCE(attention_dropkey, 0x98b850e62720c082) {
    check_rates(LOD_PATTERN_ELEMENT, LOD_COMPENSATION_NONE, false);
    check_rates(LOD_PATTERN_COLUMN, LOD_COMPENSATION_NONE, false);
    check_rates(LOD_PATTERN_SPAN, LOD_COMPENSATION_NONE, false);
    check_rates(LOD_PATTERN_COLUMN, LOD_COMPENSATION_NONE, true);
}

CHECK_ONCE(attention_dropattention, 0xf56a5e65aea999dc) {
    check_rates(LOD_PATTERN_ELEMENT, LOD_COMPENSATION_RENORMALISE_NOGRAD, false);
    check_rates(LOD_PATTERN_COLUMN, LOD_COMPENSATION_RENORMALISE_NOGRAD, false);
    check_rates(LOD_PATTERN_SPAN, LOD_COMPENSATION_RENORMALISE_NOGRAD, false);
    check_rates(LOD_PATTERN_SPAN, LOD_COMPENSATION_RENORMALISE, true);
}

CHECK_ONCE(attention_weights, 0x56337b9f377e8b57) {
    check_rates(LOD_PATTERN_ELEMENT, LOD_COMPENSATION_INVERTED, false);
}

// Rows of masks then start below 0 and wrap; a segment without keys gives zeros.
CHECK_ONCE(attention_more_queries_than_keys, 0x3e96b02b43d66dc3) {
    static const size_t queries[] = {9, 70, 3}, keys[] = {4, 20, 0};
    for (size_t i = 0; i < ATTENTION_DROPOUTS; i++) {
        attention_case t;
        attention_case_make_of(&t, (lod_attention_shape){.heads = 4, .kv_heads = 2, .head_dim = 40, .queries = 80},
                               false, attention_case_dropout(i, 0.3), COUNT(queries), queries, keys);
        check_case(&t);
    }
}

// Logits of hundreds: most weights underflow, and many a query sees none above exp's range but for the shift by the
// maximum.
CHECK_ONCE(attention_large_logits, 0x423f04bd7ad81930) {
    for (size_t i = 0; i < ATTENTION_DROPOUTS; i++) {
        attention_case t;
        attention_case_make(&t, (lod_attention_shape){.heads = 4, .kv_heads = 2, .head_dim = 24}, i % 4 != 3,
                            attention_case_dropout(i, 0.3));
        t.args.scale = 100;
        check_case(&t);
    }
}
