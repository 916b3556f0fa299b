// Two branches' losses, their divergence and the gradients. e, l and p are off as in xent; a = log(p / q) absolutely,
// by what its differences and logarithms round; r, k and the gradients by what they are made of.
#include <math.h>
#include <string.h>

#include "check.h"
#include "ref/ref.h"

typedef enum gap { EQUAL, CLOSE, APART, EXTREME, GAPS } gap; // how far z2 is from z
typedef enum wanted { VALUES, FIRST, BOTH, WANTED } wanted;  // gradients
static const char *const gap_texts[] = {"equal", "close", "apart", "extreme"};

// A branch in double, and how far from it float32 may be.
typedef struct side {
    double max, log, log_error, sum_error;
    double *p, *p_error; // [n]
    double k, k_error;   // sum p r
} side;

static double exp_error(double argument) {
    return check_gamma(fabs(argument) + 2);
}

static side side_of(size_t n, const double *z) {
    side s = {.max = z[0], .p = check_doubles(n), .p_error = check_doubles(n)};
    double l = 0;
    for (size_t j = 1; j < n; j++) {
        s.max = fmax(s.max, z[j]);
    }
    for (size_t j = 0; j < n; j++) {
        s.p[j] = exp(z[j] - s.max);
        l += s.p[j];
        s.sum_error += s.p[j] * exp_error(z[j] - s.max);
    }
    s.sum_error = s.sum_error / l + check_gamma((double)(n + 15) / 16 + 4);
    s.log = log(l);
    s.log_error = s.sum_error + 2 * CHECK_U * s.log;
    for (size_t j = 0; j < n; j++) {
        s.p[j] /= l;
        s.p_error[j] = s.p[j] * (exp_error(z[j] - s.max) + s.sum_error + check_gamma(2)) + 0x1p-148;
    }
    return s;
}

// r at one place, from a and a's error.
static double ratio_of(lod_consistency consistency, double a, double a_error, double *error) {
    if (consistency == LOD_CONSISTENCY_KL) {
        *error = a_error;
        return a;
    }
    double s = exp(-fabs(a)), u = log(2 / (1 + s)), r = u - fmax(-a, 0);
    double u_error = s / (1 + s) * (a_error + 2 * CHECK_U) + 2 * CHECK_U + 2 * CHECK_U * u;
    *error = u_error + a_error + CHECK_U * fabs(r);
    return r;
}

typedef struct bounds {
    double *loss, *loss2, *divergence, *dz, *dz2;
} bounds;

// The gradient's bound at one place; p of the side itself, q of the other.
static double bound_gradient(const lod_consistency_kernel_args *t, const side *s, const side *other, size_t j, double r,
                             double r_error, bool at_target) {
    const bool kl = t->consistency == LOD_CONSISTENCY_KL;
    double c = t->both ? 0.5 : 1, h = t->weight * 0.5, p = s->p[j], q = other->p[j];
    double mean = r - s->k, mean_error = r_error + s->k_error + CHECK_U * fabs(mean);
    double g = p * mean + (kl ? p - q : 0);
    double error = p * mean_error + fabs(mean) * s->p_error[j] + CHECK_U * fabs(g);
    error += kl ? s->p_error[j] + other->p_error[j] + CHECK_U * fabs(p - q) : 0;
    double out = h * g + c * p;
    return h * error + c * s->p_error[j] + CHECK_U * (fabs(out) + (at_target ? fabs(out - c) : 0));
}

static void bound_row(const lod_consistency_kernel_args *t, size_t i, const double *z, const double *z2, bounds *b) {
    side s = side_of(t->n, z), s2 = side_of(t->n, z2);
    const double logs = s.log - s2.log, shift = s.max - s2.max + logs, second_order = 1.02;
    double shift_error = s.log_error + s2.log_error + CHECK_U * (fabs(s.max - s2.max) + fabs(logs) + fabs(shift));
    double *r = check_doubles(t->n), *r2 = check_doubles(t->n), terms = 0, terms2 = 0;
    double *r_error = check_doubles(t->n), *r2_error = check_doubles(t->n);
    for (size_t j = 0; j < t->n; j++) {
        double a = z[j] - z2[j] - shift, a_error = shift_error + CHECK_U * (fabs(z[j] - z2[j]) + fabs(a));
        r[j] = ratio_of(t->consistency, a, a_error, &r_error[j]);
        r2[j] = ratio_of(t->consistency, -a, a_error, &r2_error[j]);
        s.k += s.p[j] * r[j], s2.k += s2.p[j] * r2[j];
        terms += s.p[j] * fabs(r[j]), terms2 += s2.p[j] * fabs(r2[j]);
        s.k_error += s.p[j] * r_error[j] + fabs(r[j]) * s.p_error[j];
        s2.k_error += s2.p[j] * r2_error[j] + fabs(r2[j]) * s2.p_error[j];
    }
    s.k_error += terms * check_gamma((double)(t->n + 15) / 16 + 4);
    s2.k_error += terms2 * check_gamma((double)(t->n + 15) / 16 + 4);
    b->divergence[i] = ((s.k_error + s2.k_error) / 2 + CHECK_U * fabs(s.k + s2.k)) * second_order;
    for (size_t j = 0; j < t->n; j++) {
        bool at = j == t->target[i];
        b->dz[i * t->n + j] = bound_gradient(t, &s, &s2, j, r[j], r_error[j], at) * second_order;
        b->dz2[i * t->n + j] = bound_gradient(t, &s2, &s, j, r2[j], r2_error[j], at) * second_order;
    }
    double lse = s.max + s.log, lse2 = s2.max + s2.log, loss = lse - z[t->target[i]], loss2 = lse2 - z2[t->target[i]];
    b->loss[i] = (s.log_error + CHECK_U * (fabs(lse) + fabs(loss))) * second_order;
    b->loss2[i] = (s2.log_error + CHECK_U * (fabs(lse2) + fabs(loss2))) * second_order;
}

static void fill(lod_consistency_kernel_args *t, uint32_t *target, gap apart) {
    static const float gaps[GAPS] = {0, 1e-3f, 10, 1e4f};
    for (size_t i = 0; i < t->rows; i++) {
        target[i] = (uint32_t)check_below(t->n);
        for (size_t j = 0; j < t->n; j++) {
            float *z = &t->z[i * t->ldz + j], *z2 = &t->z2[i * t->ldz + j];
            *z = *z * (apart == EXTREME ? 1e4f : 10) + (check_mode_now() == CHECK_POISON ? 400 * (float)i : 0);
            *z2 = *z + *z2 * gaps[apart];
        }
    }
}

// Equal branches: nothing but the loss's own gradient is there.
static void check_equal(const lod_consistency_kernel_args *t, const lod_kernel *kernel, float *z) {
    float *loss = check_floats("loss alone", CHECK_OUT, 1, t->rows, t->rows);
    lod_kernel_find(LOD_OP_xent_f32, kernel->isa)
        ->fn.xent_f32(&(lod_xent_kernel_args){
            .rows = t->rows, .n = t->n, .z = z, .ldz = t->ldz, .target = t->target, .loss = loss, .gradient = true});
    check_bytes_equal("loss", t->loss, loss, t->rows * sizeof *loss);
    for (size_t i = 0; i < t->rows; i++) {
        const float zero = 0;
        check_bytes_equal("divergence", &t->divergence[i], &zero, sizeof zero);
        for (size_t j = 0; t->gradient && j < t->n; j++) {
            float want = z[i * t->ldz + j] * (t->both ? 0.5f : 1);
            CHECK_THAT(t->z[i * t->ldz + j] == want && (!t->both || t->z2[i * t->ldz + j] == want));
        }
    }
}

static void check_case(const lod_kernel *kernel, size_t rows, size_t n, lod_consistency consistency, gap apart,
                       wanted gradients) {
    check_shape("rows=%zu n=%zu %s %s gradients=%d", rows, n, consistency == LOD_CONSISTENCY_KL ? "KL" : "JS",
                gap_texts[apart], gradients);
    lod_consistency_kernel_args t = {.rows = rows, .n = n, .ldz = n + 3, .consistency = consistency, .weight = 0.7f};
    t.gradient = gradients != VALUES, t.both = gradients == BOTH;
    t.z = check_floats("z", CHECK_INOUT, rows, n, t.ldz), t.z2 = check_floats("z2", CHECK_INOUT, rows, n, t.ldz);
    t.loss = check_floats("loss", CHECK_OUT, 1, rows, rows), t.loss2 = check_floats("loss2", CHECK_OUT, 1, rows, rows);
    t.divergence = check_floats("divergence", CHECK_OUT, 1, rows, rows);
    t.scratch = check_floats("scratch", CHECK_OUT, 1, n, n);
    uint32_t *target = check_operand("target", CHECK_IN, sizeof *target, 1, rows, rows, sizeof *target);
    float *same = check_floats("the same z", CHECK_OUT, rows, n, t.ldz);
    t.target = target;
    fill(&t, target, apart);
    memcpy(same, t.z, ((rows - 1) * t.ldz + n) * sizeof *same);
    const double *z = check_widen(t.z), *z2 = check_widen(t.z2);
    double *loss = check_doubles(rows), *loss2 = check_doubles(rows), *divergence = check_doubles(rows);
    double *dz = check_doubles(rows * n), *dz2 = check_doubles(rows * n);
    bounds b = {check_doubles(rows), check_doubles(rows), check_doubles(rows), check_doubles(rows * n),
                check_doubles(rows * n)};
    lod_consistency_f64(&(lod_consistency_f64_args){.rows = rows,
                                                    .n = n,
                                                    .z = z,
                                                    .z2 = z2,
                                                    .ldz = n,
                                                    .target = target,
                                                    .consistency = consistency,
                                                    .weight = t.weight,
                                                    .loss = loss,
                                                    .loss2 = loss2,
                                                    .divergence = divergence,
                                                    .dz = dz,
                                                    .dz2 = t.both ? dz2 : NULL});
    for (size_t i = 0; i < rows; i++) {
        bound_row(&t, i, z + i * n, z2 + i * n, &b);
    }
    CHECK_CALL(kernel->fn.consistency_f32(&t));
    check_near(t.loss, loss, b.loss);
    check_near(t.loss2, loss2, b.loss2);
    check_near(t.divergence, divergence, b.divergence);
    check_share(t.loss), check_share(t.loss2), check_share(t.divergence);
    if (t.gradient) {
        check_near(t.z, dz, b.dz);
        check_share(t.z);
    }
    if (t.both) {
        check_near(t.z2, dz2, b.dz2);
        check_share(t.z2);
    }
    if (apart == EQUAL)
        check_equal(&t, kernel, same);
}

CHECK_KERNEL(consistency_f32, 0x23f52143e1cd5c21) {
    static const size_t widths[] = {1, 2, 15, 16, 17, 45, 100, 512, 1024};
    for (size_t i = 0; i < 9 * GAPS * WANTED; i++) {
        size_t n = widths[i % 9];
        gap apart = (gap)(i / 9 % GAPS);
        check_case(kernel, 1 + i % 2, n, LOD_CONSISTENCY_KL, apart, (wanted)(i / (9 * GAPS)));
        check_case(kernel, 2 - i % 2, n, LOD_CONSISTENCY_JS, apart, (wanted)(i / (9 * GAPS)));
    }
}
