// The steps that the SIMD kernels cut attention into, each as kernels.h writes it down.
#include "philox.h"
#include "ref.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static size_t padded(size_t n) {
    return (n + 15) / 16 * 16;
}

// --- The product ---

void lod_attention_tile_f64(const lod_attention_tile_f64_args *t) {
    for (size_t i = 0; i < t->m; i++) {
        for (size_t j = 0; j < t->n; j++) {
            double acc = t->first ? 0 : t->c[i * t->ldc + j];
            for (size_t k = 0; k < t->k; k++) {
                acc += t->a[i * t->a_row + k * t->a_depth] * t->b[k * t->b_depth + j];
            }
            t->c[i * t->ldc + j] = acc;
        }
    }
}

void lod_attention_tile_f32__ref_1x1(const lod_attention_tile_args *t) {
    double *b = lod_ref_alloc(t->k * t->n), *a = lod_ref_alloc(t->m * t->k);
    for (size_t k = 0; k < t->k; k++) {
        for (size_t j = 0; j < t->n; j++) {
            b[k * t->n + j] = t->b[k * t->b_depth + j / 16 * t->b_panel + j % 16];
        }
        for (size_t i = 0; i < t->m; i++) {
            a[i * t->k + k] = t->a[i * t->a_row + k * t->a_depth];
        }
    }
    double *c = t->first ? lod_ref_alloc(t->m * t->n) : lod_ref_widen(t->m, t->n, t->c, t->ldc);
    lod_attention_tile_f64(&(lod_attention_tile_f64_args){.m = t->m,
                                                          .n = t->n,
                                                          .k = t->k,
                                                          .a = a,
                                                          .a_row = t->k,
                                                          .a_depth = 1,
                                                          .b = b,
                                                          .b_depth = t->n,
                                                          .first = t->first,
                                                          .c = c,
                                                          .ldc = t->n});
    lod_ref_round(t->m, t->n, c, t->c, t->ldc);
    free(a);
    free(b);
}

// --- Packing: it rounds only where it scales, so there is no f64 form ---

void lod_attention_pack_f32__ref(const lod_attention_pack_args *a) {
    const size_t d16 = padded(a->n);
    for (size_t i = 0; a->panels && i < padded(a->count) * d16; i++) {
        a->panels[i] = 0;
    }
    for (size_t i = 0; i < a->count; i++) {
        for (size_t d = 0; d < d16; d++) {
            float y = d < a->n ? a->x[(a->index ? a->index[i] : i) * a->ldx + d] * a->scale : 0;
            if (a->rows)
                a->rows[i * d16 + d] = y;
            if (a->panels)
                a->panels[(i / 16 * d16 + d) * 16 + i % 16] = y;
            if (a->probe)
                *a->probe += y * 0;
        }
    }
}

void lod_attention_unpack_f32__ref(const lod_attention_unpack_args *a) {
    for (size_t i = 0; i < a->count; i++) {
        for (size_t d = 0; d < a->n; d++) {
            a->x[(a->index ? a->index[i] : i) * a->ldx + d] = (a->rows[i * padded(a->n) + d] + 0) * a->scale;
        }
    }
}

// --- Masks ---

// The keep bytes of a block, to be freed; NULL: everything is kept.
static uint8_t *keep_of(const lod_attention_mask *mask, size_t rows) {
    if (mask->keep == LOD_KEEP_ALL) {
        return NULL;
    }
    uint8_t *keep = calloc(rows + 1, LOD_KEY_BLOCK);
    if (!keep)
        abort();
    for (size_t i = 0; mask->keep == LOD_KEEP_DRAWN && i < rows; i++) {
        for (uint32_t j = 0; j < LOD_KEY_BLOCK; j++) {
            uint32_t u16 =
                lod_mask_u16(mask->seed, mask->site, mask->draw, mask->row0 + (uint32_t)i, 8 * mask->group + j);
            keep[i * LOD_KEY_BLOCK + j] = u16 >= mask->threshold;
        }
    }
    return keep;
}

static bool kept(const uint8_t *keep, size_t i, size_t j) {
    return !keep || keep[i * LOD_KEY_BLOCK + j];
}

// --- The online softmax ---

// m and l of row i move on; returns alpha.
static double sum_row(const lod_attention_softmax_f64_args *a, size_t i, bool dropped, double *m, double *l) {
    const double *s = a->s + i * LOD_SCORE_LD, before = *m;
    const bool all = a->mode == LOD_ATTENTION_WEIGHTS;
    for (size_t j = 0; j < a->seen[i]; j++) {
        *m = (all || kept(a->keep, i, j) != dropped) && s[j] > *m ? s[j] : *m;
    }
    for (size_t v = 0; v < 16; v++) {
        l[v] *= exp(before - *m);
    }
    for (size_t j = 0; j < a->seen[i]; j++) {
        l[j % 16] += all || kept(a->keep, i, j) != dropped ? exp(s[j] - *m) : 0;
    }
    return exp(before - *m);
}

void lod_attention_softmax_f64(const lod_attention_softmax_f64_args *a) {
    const size_t d16 = padded(a->head_dim);
    for (size_t i = 0; i < a->rows; i++) {
        double *s = a->s + i * LOD_SCORE_LD;
        if (a->mode == LOD_ATTENTION_NOGRAD) {
            sum_row(a, i, true, a->dropped_m + i, a->dropped_l + i * 16);
        }
        double alpha = sum_row(a, i, false, a->m + i, a->l + i * 16);
        for (size_t d = 0; d < d16; d++) {
            a->o[i * d16 + d] *= alpha;
        }
        for (size_t j = 0; j < padded(a->n); j++) {
            s[j] = j < a->seen[i] && kept(a->keep, i, j) ? exp(s[j] - a->m[i]) : 0;
        }
    }
}

void lod_attention_softmax_f32__ref(const lod_attention_softmax_args *a) {
    const size_t d16 = padded(a->head_dim);
    uint8_t *keep = keep_of(&a->mask, a->rows);
    lod_attention_softmax_f64_args wide = {
        .rows = a->rows, .n = a->n, .head_dim = a->head_dim, .seen = a->seen, .mode = a->mask.mode, .keep = keep};
    const size_t columns = padded(a->n);
    wide.s = lod_ref_alloc(a->rows * LOD_SCORE_LD);
    for (size_t i = 0; i < a->rows * LOD_SCORE_LD; i++) {
        if (i % LOD_SCORE_LD < a->seen[i / LOD_SCORE_LD])
            wide.s[i] = a->s[i];
    }
    wide.m = lod_ref_widen(a->rows, 1, a->m, 1), wide.l = lod_ref_widen(a->rows, 16, a->l, 16);
    wide.o = lod_ref_widen(a->rows, d16, a->o, d16);
    const bool both = a->mask.mode == LOD_ATTENTION_NOGRAD;
    if (both) {
        wide.dropped_m = lod_ref_widen(a->rows, 1, a->dropped_m, 1);
        wide.dropped_l = lod_ref_widen(a->rows, 16, a->dropped_l, 16);
    }
    lod_attention_softmax_f64(&wide);
    for (size_t i = 0; i < a->rows; i++) {
        for (size_t j = 0; j < columns; j++)
            a->s[i * LOD_SCORE_LD + j] = (float)wide.s[i * LOD_SCORE_LD + j];
    }
    free(wide.s);
    lod_ref_round(a->rows, 1, wide.m, a->m, 1);
    lod_ref_round(a->rows, 16, wide.l, a->l, 16);
    lod_ref_round(a->rows, d16, wide.o, a->o, d16);
    if (both) {
        lod_ref_round(a->rows, 1, wide.dropped_m, a->dropped_m, 1);
        lod_ref_round(a->rows, 16, wide.dropped_l, a->dropped_l, 16);
    }
    free(keep);
}

// --- The ends of a row ---

static double sum_lanes(const double *l) {
    double sum = 0;
    for (size_t v = 0; v < 16; v++) {
        sum += l[v];
    }
    return sum;
}

void lod_attention_finish_f64(const lod_attention_finish_f64_args *a) {
    const size_t d16 = padded(a->head_dim);
    for (size_t i = 0; i < a->rows; i++) {
        double l = sum_lanes(a->l + i * 16);
        for (size_t d = 0; d < a->head_dim; d++) {
            a->o[i * a->head_dim + d] = l == 0 ? 0 : a->acc[i * d16 + d] / l * a->inv;
        }
        a->lse[i] = l == 0 ? INFINITY : a->m[i] + log(l);
        if (a->lse_visible) {
            double max = fmax(a->m[i], a->dropped_m[i]);
            double both = l * exp(a->m[i] - max) + sum_lanes(a->dropped_l + i * 16) * exp(a->dropped_m[i] - max);
            a->lse_visible[i] = both == 0 ? INFINITY : max + log(both);
        }
    }
}

void lod_attention_finish_f32__ref(const lod_attention_finish_args *a) {
    const size_t d16 = padded(a->head_dim);
    double *m = lod_ref_widen(a->rows, 1, a->m, 1), *l = lod_ref_widen(a->rows, 16, a->l, 16);
    double *dropped_m = lod_ref_widen(a->rows, 1, a->dropped_m, 1);
    double *dropped_l = lod_ref_widen(a->rows, 16, a->dropped_l, 16);
    double *acc = lod_ref_widen(a->rows, d16, a->acc, d16), *o = lod_ref_alloc(a->rows * a->head_dim);
    double *lse = lod_ref_alloc(a->rows), *lse_visible = a->lse_visible ? lod_ref_alloc(a->rows) : NULL;
    lod_attention_finish_f64(&(lod_attention_finish_f64_args){.rows = a->rows,
                                                              .head_dim = a->head_dim,
                                                              .m = m,
                                                              .l = l,
                                                              .dropped_m = dropped_m,
                                                              .dropped_l = dropped_l,
                                                              .inv = a->inv,
                                                              .acc = acc,
                                                              .o = o,
                                                              .lse = lse,
                                                              .lse_visible = lse_visible});
    lod_ref_round(a->rows, a->head_dim, o, a->o, a->ldo);
    lod_ref_round(a->rows, 1, lse, a->lse, a->ldlse);
    if (lse_visible)
        lod_ref_round(a->rows, 1, lse_visible, a->lse_visible, a->ldlse);
    free(acc);
    free(dropped_l);
    free(dropped_m);
    free(l);
    free(m);
}

// --- Backward ---

void lod_attention_delta_f32__ref(const lod_attention_delta_args *a) {
    for (size_t i = 0; i < a->rows; i++) {
        double sum = 0;
        for (size_t d = 0; d < a->head_dim; d++) {
            sum += (double)a->d_o[i * a->ldo + d] * a->o[i * a->ldo + d];
        }
        a->delta[i] = (float)sum;
    }
}

void lod_attention_grad_f64(const lod_attention_grad_f64_args *a) {
    for (size_t i = 0; i < a->rows; i++) {
        for (size_t j = 0; j < padded(a->n); j++) {
            double *s = a->s + i * LOD_SCORE_LD + j, *dp = a->dp + i * LOD_SCORE_LD + j;
            const bool keep = j < a->seen[i] && kept(a->keep, i, j);
            const double w = j < a->seen[i] ? exp(*s - a->lse[i]) : 0, p = keep ? w : 0;
            if (j >= a->seen[i]) {
                *dp = 0;
            } else if (a->mode == LOD_ATTENTION_LOGITS) {
                *dp = keep ? p * (*dp - a->delta[i]) : 0;
            } else if (a->mode == LOD_ATTENTION_WEIGHTS) {
                *dp = w * ((keep ? *dp : 0) - a->delta[i]);
            } else {
                *dp = (keep ? p * *dp : 0) - exp(*s - a->lse_visible[i]) * a->delta[i];
            }
            *s = p;
        }
    }
}

void lod_attention_grad_f32__ref(const lod_attention_grad_args *a) {
    const size_t columns = padded(a->n);
    const bool both = a->mask.mode == LOD_ATTENTION_NOGRAD;
    uint8_t *keep = keep_of(&a->mask, a->rows);
    double *lse = lod_ref_widen(a->rows, 1, a->lse, a->ldlse), *delta = lod_ref_widen(a->rows, 1, a->delta, 1);
    double *lse_visible = both ? lod_ref_widen(a->rows, 1, a->lse_visible, a->ldlse) : NULL;
    double *s = lod_ref_alloc(a->rows * LOD_SCORE_LD), *dp = lod_ref_alloc(a->rows * LOD_SCORE_LD);
    for (size_t i = 0; i < a->rows * LOD_SCORE_LD; i++) {
        if (i % LOD_SCORE_LD < a->seen[i / LOD_SCORE_LD])
            s[i] = a->s[i], dp[i] = a->dp[i];
    }
    lod_attention_grad_f64(&(lod_attention_grad_f64_args){.rows = a->rows,
                                                          .n = a->n,
                                                          .seen = a->seen,
                                                          .mode = a->mask.mode,
                                                          .keep = keep,
                                                          .s = s,
                                                          .dp = dp,
                                                          .lse = lse,
                                                          .lse_visible = lse_visible,
                                                          .delta = delta});
    for (size_t i = 0; i < a->rows; i++) {
        for (size_t j = 0; j < columns; j++) {
            a->s[i * LOD_SCORE_LD + j] = (float)s[i * LOD_SCORE_LD + j];
            a->dp[i * LOD_SCORE_LD + j] = (float)dp[i * LOD_SCORE_LD + j];
        }
    }
    free(dp);
    free(s);
    free(lse_visible);
    free(delta);
    free(lse);
    free(keep);
}
