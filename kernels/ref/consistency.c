// The losses of two branches, their divergence, and the gradients of both together.
#include "ref.h"

#include <math.h>
#include <stdlib.h>

typedef struct softmax {
    const double *z;
    double max, sum;
} softmax;

static softmax softmax_of(size_t n, const double *z) {
    softmax s = {.z = z, .max = z[0]};
    for (size_t j = 1; j < n; j++) {
        s.max = z[j] > s.max ? z[j] : s.max;
    }
    for (size_t j = 0; j < n; j++) {
        s.sum += exp(z[j] - s.max);
    }
    return s;
}

static double probability(const softmax *s, size_t j) {
    return exp(s->z[j] - s->max) / s->sum;
}

static double loss_of(const softmax *s, uint32_t target) {
    return s->max + log(s->sum) - s->z[target];
}

// log(p / q), or of JS log(p / ((p + q) / 2)), which without a p has no weight.
static double log_ratio(lod_consistency consistency, const softmax *s, const softmax *other, size_t j) {
    if (consistency == LOD_CONSISTENCY_KL) {
        return (s->z[j] - s->max - log(s->sum)) - (other->z[j] - other->max - log(other->sum));
    }
    double p = probability(s, j), q = probability(other, j);
    return p > 0 ? log(2 * p / (p + q)) : 0;
}

static double divergence_of(const lod_consistency_f64_args *a, const softmax *s, const softmax *other) {
    double sum = 0;
    for (size_t j = 0; j < a->n; j++) {
        sum += probability(s, j) * log_ratio(a->consistency, s, other, j);
    }
    return sum;
}

// By s's logits, of its share of the loss and weight / 2 * (its divergence from the other + the other's from it).
static void gradient_of(const lod_consistency_f64_args *a, double share, uint32_t target, const softmax *s,
                        const softmax *other, double *dz) {
    double divergence = divergence_of(a, s, other);
    for (size_t j = 0; j < a->n; j++) {
        double p = probability(s, j), own = p * (log_ratio(a->consistency, s, other, j) - divergence);
        double others = a->consistency == LOD_CONSISTENCY_KL ? p - probability(other, j) : 0;
        dz[j] = share * (p - (j == target)) + a->weight / 2 * (own + others);
    }
}

void lod_consistency_f64(const lod_consistency_f64_args *a) {
    const double share = a->dz2 ? 0.5 : 1;
    for (size_t i = 0; i < a->rows; i++) {
        softmax s = softmax_of(a->n, a->z + i * a->ldz), s2 = softmax_of(a->n, a->z2 + i * a->ldz);
        a->loss[i] = loss_of(&s, a->target[i]);
        a->loss2[i] = loss_of(&s2, a->target[i]);
        a->divergence[i] = (divergence_of(a, &s, &s2) + divergence_of(a, &s2, &s)) / 2;
        if (a->dz) {
            gradient_of(a, share, a->target[i], &s, &s2, a->dz + i * a->ldz);
        }
        if (a->dz2) {
            gradient_of(a, share, a->target[i], &s2, &s, a->dz2 + i * a->ldz);
        }
    }
}

void lod_consistency_f32__ref(const lod_consistency_kernel_args *a) {
    double *z = lod_ref_widen(a->rows, a->n, a->z, a->ldz), *z2 = lod_ref_widen(a->rows, a->n, a->z2, a->ldz);
    double *dz = lod_ref_alloc(a->rows * a->n), *dz2 = lod_ref_alloc(a->rows * a->n);
    double *loss = lod_ref_alloc(a->rows), *loss2 = lod_ref_alloc(a->rows), *divergence = lod_ref_alloc(a->rows);
    lod_consistency_f64(&(lod_consistency_f64_args){
        .rows = a->rows,
        .n = a->n,
        .z = z,
        .z2 = z2,
        .ldz = a->n,
        .target = a->target,
        .consistency = a->consistency,
        .weight = a->weight,
        .loss = loss,
        .loss2 = loss2,
        .divergence = divergence,
        .dz = a->gradient ? dz : NULL,
        .dz2 = a->gradient && a->both ? dz2 : NULL,
    });
    lod_ref_round(1, a->rows, loss, a->loss, a->rows);
    lod_ref_round(a->loss2 != NULL, a->rows, loss2, a->loss2, a->rows);
    lod_ref_round(1, a->rows, divergence, a->divergence, a->rows);
    lod_ref_round(a->rows, a->n, dz, a->z, a->ldz);
    lod_ref_round(a->rows, a->n, dz2, a->z2, a->ldz);
    free(z);
    free(z2);
}
