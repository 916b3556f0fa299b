// Attention of one query. A logit s[j] is off by what its sum and its scale round; exp(s[j] - m) by that, by u |s[j] -
// m| and by 2 u (1 ulp) of exp. The maximum m itself cancels: an error in it scales every weight alike.
#include <math.h>

#include "check.h"
#include "ref/ref.h"

static const size_t head_dims[] = {8, 16, 24, 64, 72, 128, 256};
static const size_t key_counts[] = {0, 1, 2, 3, 15, 16, 17, 33, 130};

// A result's error on top of the relative one, where it underflows.
static const double tiny = 0x1p-149;

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static double lanes_error(size_t n) {
    return check_gamma((double)(n + 15) / 16 + 4);
}

static double dot(size_t n, const double *a, const double *b) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += a[i] * b[i];
    }
    return sum;
}

static double magnitude(size_t n, const double *a, const double *b) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += fabs(a[i] * b[i]);
    }
    return sum;
}

static double logit_error(size_t n, const double *q, const double *k, double scale) {
    return magnitude(n, q, k) * fabs(scale) * (lanes_error(n) + check_gamma(1));
}

// Bounds of o and, returned, of lse; all packed.
static double bound_forward(const lod_attention_fwd_f64_args *a, double *bound) {
    size_t n = a->head_dim;
    double max = -INFINITY, max_error = 0, sum = 0, sum_error = 0, *numerator = check_doubles(n);
    for (size_t j = 0; j < a->keys; j++) {
        max = fmax(max, dot(n, a->q, a->k + j * n) * a->scale);
        max_error = fmax(max_error, logit_error(n, a->q, a->k + j * n, a->scale));
    }
    for (size_t j = 0; j < a->keys; j++) {
        double argument = dot(n, a->q, a->k + j * n) * a->scale - max, w = exp(argument);
        double w_error = logit_error(n, a->q, a->k + j * n, a->scale) + check_gamma(fabs(argument) + max_error + 2);
        sum += w;
        sum_error += w * w_error;
        for (size_t d = 0; d < n; d++) {
            numerator[d] += w * fabs(a->v[j * n + d]) * (w_error + check_gamma((double)a->keys));
            numerator[d] += tiny * (fabs(a->v[j * n + d]) + 1); // underflow of w and of its product
        }
    }
    sum_error = sum_error / sum + lanes_error(a->keys);
    for (size_t d = 0; d < n && a->keys; d++) {
        bound[d] = numerator[d] / sum + fabs(a->o[d]) * (sum_error + check_gamma(1)) + tiny;
    }
    // lse: log within 1 ulp, the sum's rounding; m cancels between m and l but for the sum's own rounding
    return a->keys ? sum_error + 2 * CHECK_U * fabs(log(sum)) + CHECK_U * (fabs(*a->lse) + sum_error) : 0;
}

static void check_forward(const lod_kernel *kernel, size_t head_dim, size_t keys) {
    check_shape("head_dim=%zu keys=%zu", head_dim, keys);
    size_t padded = (keys + 15) / 16 * 16;
    lod_attention_fwd_kernel_args t = {
        .head_dim = head_dim,
        .keys = keys,
        .q = check_floats("q", CHECK_IN, 1, head_dim, head_dim),
        .k = check_floats("k", CHECK_IN, keys, head_dim, head_dim + 3),
        .v = check_floats("v", CHECK_IN, keys, head_dim, head_dim + 5),
        .ldk = head_dim + 3,
        .ldv = head_dim + 5,
        .scale = check_mode_now() == CHECK_POISON ? 6 : 0.3f,
        .o = check_floats("o", CHECK_OUT, 1, head_dim, head_dim),
        .lse = check_floats("lse", CHECK_OUT, 1, 1, 1),
        .scratch = check_operand("scratch", CHECK_OUT, sizeof(float), 1, padded, padded, 64),
    };
    lod_attention_fwd_f64_args wide = {
        .head_dim = head_dim,
        .keys = keys,
        .q = check_widen(t.q),
        .k = check_widen(t.k),
        .v = check_widen(t.v),
        .ldk = head_dim,
        .ldv = head_dim,
        .scale = t.scale,
        .o = check_doubles(head_dim),
        .lse = check_doubles(1),
        .scratch = check_doubles(keys),
    };
    double *bound = check_doubles(head_dim);
    lod_attention_fwd_f64(&wide);
    double lse_bound = bound_forward(&wide, bound);
    CHECK_CALL(kernel->fn.attention_fwd_f32(&t));
    check_near(t.o, wide.o, bound);
    check_near(t.lse, wide.lse, &lse_bound);
    check_share(t.o);
    check_share(t.lse);
}

CHECK_KERNEL(attention_fwd_f32, 0xa29d85a5a61b4fbc) {
    for (size_t d = 0; d < COUNT(head_dims); d++) {
        for (size_t k = 0; k < COUNT(key_counts); k++) {
            check_forward(kernel, head_dims[d], key_counts[k]);
        }
    }
}

typedef struct backward_bounds {
    double *dq, *dk, *dv;
} backward_bounds;

// Packed; before holds dk and dv as they were.
static void bound_backward(const lod_attention_bwd_f64_args *a, const double *dk, const double *dv,
                           const backward_bounds *bound) {
    size_t n = a->head_dim;
    double delta = dot(n, a->d_o, a->o), delta_error = magnitude(n, a->d_o, a->o) * lanes_error(n);
    for (size_t j = 0; j < a->keys; j++) {
        const double *k = a->k + j * n, *v = a->v + j * n;
        double argument = dot(n, a->q, k) * a->scale - a->lse, p = exp(argument), dp = dot(n, a->d_o, v);
        double p_error = logit_error(n, a->q, k, a->scale) + check_gamma(fabs(argument) + 2); // relative
        double difference_error = delta_error + magnitude(n, a->d_o, v) * lanes_error(n);
        difference_error += (fabs(dp - delta) + difference_error) * CHECK_U;
        double ds = p * (dp - delta) * a->scale;
        double ds_error = p * fabs(a->scale) * difference_error;
        ds_error += (fabs(ds) + ds_error) * (p_error + check_gamma(2));
        ds_error += tiny * ((fabs(dp - delta) + 1) * fabs(a->scale) + 1); // underflow of p and of both products
        for (size_t d = 0; d < n; d++) {
            bound->dq[d] += fabs(k[d]) * (ds_error + fabs(ds) * check_gamma((double)a->keys)) + tiny;
            bound->dk[j * n + d] =
                ds_error * fabs(a->q[d]) + CHECK_U * (fabs(dk[j * n + d]) + fabs(ds * a->q[d])) + tiny;
            bound->dv[j * n + d] =
                (p * (p_error + CHECK_U) + tiny) * fabs(a->d_o[d]) + CHECK_U * fabs(dv[j * n + d]) + tiny;
        }
    }
}

static void check_backward(const lod_kernel *kernel, size_t head_dim, size_t keys) {
    check_shape("head_dim=%zu keys=%zu", head_dim, keys);
    size_t padded = (keys + 15) / 16 * 16;
    lod_attention_bwd_kernel_args t = {
        .head_dim = head_dim,
        .keys = keys,
        .q = check_floats("q", CHECK_IN, 1, head_dim, head_dim),
        .k = check_floats("k", CHECK_IN, keys, head_dim, head_dim + 3),
        .v = check_floats("v", CHECK_IN, keys, head_dim, head_dim + 5),
        .ldk = head_dim + 3,
        .ldv = head_dim + 5,
        .scale = check_mode_now() == CHECK_POISON ? 6 : 0.3f,
        .o = check_floats("o", CHECK_IN, 1, head_dim, head_dim),
        .d_o = check_floats("d_o", CHECK_IN, 1, head_dim, head_dim),
        .dq = check_floats("dq", CHECK_OUT, 1, head_dim, head_dim),
        .dk = check_floats("dk", CHECK_INOUT, keys, head_dim, head_dim + 3),
        .dv = check_floats("dv", CHECK_INOUT, keys, head_dim, head_dim + 5),
        .scratch = check_operand("scratch", CHECK_OUT, sizeof(float), 2, padded, padded, 64),
    };
    lod_attention_bwd_f64_args wide = {
        .head_dim = head_dim,
        .keys = keys,
        .q = check_widen(t.q),
        .k = check_widen(t.k),
        .v = check_widen(t.v),
        .ldk = head_dim,
        .ldv = head_dim,
        .scale = t.scale,
        .o = check_widen(t.o),
        .d_o = check_widen(t.d_o),
        .dq = check_doubles(head_dim),
        .dk = check_widen(t.dk),
        .dv = check_widen(t.dv),
    };
    double lse;
    lod_attention_fwd_f64(&(lod_attention_fwd_f64_args){
        .head_dim = head_dim,
        .keys = keys,
        .q = wide.q,
        .k = wide.k,
        .v = wide.v,
        .ldk = head_dim,
        .ldv = head_dim,
        .scale = t.scale,
        .o = check_doubles(head_dim),
        .lse = &lse,
        .scratch = check_doubles(keys),
    });
    t.lse = (float)(round(lse * 1024) / 1024); // the same bits whatever the libm
    wide.lse = t.lse;
    const backward_bounds bound = {
        .dq = check_doubles(head_dim), .dk = check_doubles(keys * head_dim), .dv = check_doubles(keys * head_dim)};
    bound_backward(&wide, wide.dk, wide.dv, &bound);
    lod_attention_bwd_f64(&wide);
    CHECK_CALL(kernel->fn.attention_bwd_f32(&t));
    check_near(t.dq, wide.dq, bound.dq);
    check_near(t.dk, wide.dk, bound.dk);
    check_near(t.dv, wide.dv, bound.dv);
    check_share(t.dq);
    check_share(t.dk);
    check_share(t.dv);
}

CHECK_KERNEL(attention_bwd_f32, 0xf90ab0ac7a93b922) {
    for (size_t d = 0; d < COUNT(head_dims); d++) {
        for (size_t k = 0; k < COUNT(key_counts); k++) {
            check_backward(kernel, head_dims[d], key_counts[k]);
        }
    }
}
