// What surrounds the products of attention: packing, the online softmax, its gradient, the ends of a row. Lanes run
// over the keys of a block. Rows are worked on one at a time, in the block of scores that the tiles left in the first
// or second cache; exp is inlined (lanes.h), and masks are drawn just before the row they belong to.
#include <math.h>

#include "draw.h"
#include "kernels.h"
#include "lanes.h"

static size_t padded(size_t n) {
    return (n + 15) / 16 * 16;
}

// Rows of a head lie so far apart that no hardware prefetcher follows them: what walks over them asks for those some
// rows ahead. No further, because distances of a multiple of 4 KiB share the 8 lines of a set of the first cache.
enum { PREFETCH_ROWS = 6 };

LOD_INLINE void prefetch(const float *row, size_t n) {
    for (size_t d = 0; d < n; d += 16) __builtin_prefetch(row + d);
}

// --- Packing ---

// Up to 16 rows.
LOD_INLINE void pack_strip(const lod_attention_pack_args *a, size_t first, size_t count, float *out) {
    const size_t n = a->n, d16 = padded(n), ldx = a->ldx, rows = a->count;
    const uint32_t *index = a->index;
    const float *x = a->x;
    const v16 scale = v16_set1(a->scale);
    for (size_t i = first; i < first + count; i++, out += d16) {
        const size_t ahead = i + PREFETCH_ROWS;
        const float *row = x + (index ? index[i] : i) * ldx;
        if (ahead < rows) prefetch(x + (index ? index[ahead] : ahead) * ldx, n);
        for (size_t d = 0; d < n; d += 16) {
            const size_t left = n - d;
            const v16 y = v16_mul(v16_load_row(row + d, left), scale);
            v16_store(out + d, left < 16 ? v16_keep(m16_first(left), y) : y);
        }
    }
}

// NaN if one of n floats is not finite, else 0. Four chains: one would take longer than the packing.
LOD_INLINE float probe_of(const float *x, size_t n) {
    const v16 zero = v16_zero();
    v16 sum0 = zero, sum1 = zero, sum2 = zero, sum3 = zero;
    for (; n >= 64; n -= 64, x += 64) {
        sum0 = v16_fma(v16_load(x), zero, sum0), sum1 = v16_fma(v16_load(x + 16), zero, sum1);
        sum2 = v16_fma(v16_load(x + 32), zero, sum2), sum3 = v16_fma(v16_load(x + 48), zero, sum3);
    }
    for (; n; n -= 16, x += 16) sum0 = v16_fma(v16_load(x), zero, sum0);
    return v16_sum(v16_add(v16_add(sum0, sum1), v16_add(sum2, sum3)));
}

void LOD_VARIANT(attention_pack_f32)(const lod_attention_pack_args *a) {
    const size_t d16 = padded(a->n);
    float buffer[16 * LOD_HEAD_DIM_MAX];
    for (size_t i = 0; i < a->count; i += 16) {
        const size_t count = a->count - i < 16 ? a->count - i : 16;
        const bool buffered = !a->rows || (a->panels && count < 16); // a panel takes 16 rows
        float *rows = a->rows ? a->rows + i * d16 : NULL, *strip = buffered ? buffer : rows;
        pack_strip(a, i, count, strip);
        if (a->probe) *a->probe += probe_of(strip, count * d16);
        if (buffered && rows) memcpy(rows, strip, count * d16 * sizeof *rows);
        if (!a->panels) continue;
        if (count < 16) memset(buffer + count * d16, 0, (16 - count) * d16 * sizeof *buffer);
        for (size_t d = 0; d < d16; d += 16) v16_transpose(strip + d, d16, a->panels + i * d16 + d * 16, 16);
    }
}

void LOD_VARIANT(attention_unpack_f32)(const lod_attention_unpack_args *a) {
    const size_t n = a->n, d16 = padded(n), ldx = a->ldx, count = a->count;
    const uint32_t *index = a->index;
    const float *rows = a->rows;
    const v16 scale = v16_set1(a->scale);
    for (size_t i = 0; i < count; i++, rows += d16) {
        const size_t ahead = i + PREFETCH_ROWS;
        float *x = a->x + (index ? index[i] : i) * ldx;
        if (ahead < count) prefetch(a->x + (index ? index[ahead] : ahead) * ldx, n);
        for (size_t d = 0; d < n; d += 16) {
            v16_store_row(x + d, v16_mul(v16_add(v16_load(rows + d), v16_zero()), scale), n - d);
        }
    }
}

// --- Which lanes count ---

// Draws the bits of a block of keys for one row after another.
typedef struct drawer {
    philox_key key;
    philox_group group;
} drawer;

LOD_INLINE drawer draw_begin(const lod_attention_mask *mask) {
    drawer d = {.key = expand_key(mask->seed)};
    d.group = start_group(&d.key, mask->group, mask->site, mask->draw);
    return d;
}

LOD_INLINE void draw_row(const drawer *d, const lod_attention_mask *mask, size_t i, uint16_t bits[8]) {
    philox_row row = start_row(&d->key, mask->row0 + (uint32_t)i, mask->site);
    draw_group(&d->key, &d->group, row, mask->threshold, bits);
}

// The lanes of the keys j .. j + 15 that are among the first `seen` and, unless bits is NULL, have their bit set.
LOD_INLINE m16 counted_lanes(size_t seen, const uint16_t *bits, size_t j) {
    uint32_t lanes = seen - j >= 16 ? 0xffff : (1u << (seen - j)) - 1;
    return m16_from_bits(bits ? lanes & bits[j / 16] : lanes);
}

LOD_INLINE void complement(const uint16_t bits[8], uint16_t others[8]) {
    for (size_t g = 0; g < 8; g++) others[g] = (uint16_t)~bits[g];
}

// --- The online softmax ---

LOD_INLINE float counted_max(const float *s, size_t seen, const uint16_t *bits, float m) {
    const v16 start = v16_set1(m);
    v16 max = start;
    size_t j = 0;
    for (; !bits && j + 16 <= seen; j += 16) max = v16_max(v16_load(s + j), max);
    for (; j < seen; j += 16) max = v16_max(v16_select(counted_lanes(seen, bits, j), v16_load(s + j), start), max);
    return v16_max_lane(max);
}

LOD_INLINE v16 exp_of(const float *s, v16 shift) {
    return v16_exp_softmax(v16_sub(v16_load(s), shift));
}

// Rows whose maxima are found together: one exp then serves all of them, and no row waits for its own.
enum { STRIP_ROWS = 16 };

// Moves each m on to its row's new maximum; alpha is exp(what it was - what it is).
LOD_INLINE void move_maxima(const float *s, const uint32_t *seen, size_t rows, uint16_t (*counted)[8], float *m,
                            float alpha[STRIP_ROWS]) {
    float max[STRIP_ROWS] = {0}, was[STRIP_ROWS] = {0};
    for (size_t i = 0; i < rows; i++) {
        was[i] = m[i];
        m[i] = max[i] = counted_max(s + i * LOD_SCORE_LD, seen[i], counted ? counted[i] : NULL, was[i]);
    }
    v16_store(alpha, v16_exp_softmax(v16_sub(v16_load(was), v16_load(max))));
    for (size_t i = 0; i < STRIP_ROWS; i++) alpha[i] = max[i] == was[i] ? 1.0f : alpha[i]; // of infinities too
}

// The lanes of one row's sum move on over what `counted` counts (NULL: all that is seen). If s_kept is not NULL, the
// weights that `kept` keeps are written there.
LOD_INLINE void sum_row(const float *s, size_t seen, const uint16_t *counted, const uint16_t *kept, float *s_kept,
                        float m, float alpha, float *lanes) {
    v16 shift = v16_set1(m), l = v16_load(lanes);
    for (size_t j = 0; j < seen; j += 16) {
        v16 e = exp_of(s + j, shift);
        if (counted || j + 16 > seen) e = v16_keep(counted_lanes(seen, counted, j), e);
        l = j == 0 ? v16_fma(l, v16_set1(alpha), e) : v16_add(l, e);
        if (s_kept) v16_store(s_kept + j, kept ? v16_keep(m16_from_bits(kept[j / 16]), e) : e);
    }
    v16_store(lanes, l);
}

LOD_INLINE void scale_row(float *o, size_t n, float alpha) {
    for (size_t d = 0; d < n; d += 16) v16_store(o + d, v16_mul(v16_load(o + d), v16_set1(alpha)));
}

LOD_INLINE void zero_columns(float *s, size_t seen, size_t n) {
    for (size_t j = padded(seen); j < n; j += 16) v16_store(s + j, v16_zero());
}

// The sums of what NOGRAD drops.
LOD_INLINE void sum_dropped(const lod_attention_softmax_args *a, size_t first, size_t rows, uint16_t (*bits)[8]) {
    uint16_t others[STRIP_ROWS][8];
    float alpha[STRIP_ROWS], *m = a->dropped_m + first;
    const float *s = a->s + first * LOD_SCORE_LD;
    for (size_t i = 0; bits && i < rows; i++) complement(bits[i], others[i]);
    move_maxima(s, a->seen + first, rows, bits ? others : NULL, m, alpha);
    for (size_t i = 0; i < rows; i++) {
        sum_row(s + i * LOD_SCORE_LD, a->seen[first + i], bits ? others[i] : NULL, NULL, NULL, m[i], alpha[i],
                a->dropped_l + (first + i) * 16);
    }
}

LOD_INLINE void softmax_strip(const lod_attention_softmax_args *a, lod_attention_mode mode, lod_keep keep,
                              const drawer *d, size_t first, size_t rows) {
    const size_t d16 = padded(a->head_dim);
    const uint32_t *seen = a->seen + first;
    float *s = a->s + first * LOD_SCORE_LD, *m = a->m + first, alpha[STRIP_ROWS];
    uint16_t kept[STRIP_ROWS][8];
    uint16_t (*bits)[8] = keep == LOD_KEEP_DRAWN ? kept : NULL;
    for (size_t i = 0; bits && i < rows; i++) draw_row(d, &a->mask, first + i, kept[i]);
    if (mode == LOD_ATTENTION_NOGRAD && keep != LOD_KEEP_ALL) sum_dropped(a, first, rows, bits);
    if (keep == LOD_KEEP_NONE) {
        for (size_t i = 0; i < rows; i++) zero_columns(s + i * LOD_SCORE_LD, 0, a->n);
        return;
    }
    const bool selects = mode == LOD_ATTENTION_WEIGHTS; // else what is not counted is +0 already
    move_maxima(s, seen, rows, selects ? NULL : bits, m, alpha);
    for (size_t i = 0; i < rows; i++, s += LOD_SCORE_LD) {
        const uint16_t *row_bits = bits ? bits[i] : NULL;
        sum_row(s, seen[i], selects ? NULL : row_bits, selects ? row_bits : NULL, s, m[i], alpha[i],
                a->l + (first + i) * 16);
        if (alpha[i] != 1.0f) scale_row(a->o + (first + i) * d16, a->head_dim, alpha[i]);
        zero_columns(s, seen[i], a->n);
    }
}

LOD_INLINE void softmax_rows(const lod_attention_softmax_args *a, lod_attention_mode mode, lod_keep keep) {
    const drawer d = draw_begin(&a->mask);
    for (size_t i = 0; i < a->rows; i += STRIP_ROWS) {
        softmax_strip(a, mode, keep, &d, i, a->rows - i < STRIP_ROWS ? a->rows - i : STRIP_ROWS);
    }
}

void LOD_VARIANT(attention_softmax_f32)(const lod_attention_softmax_args *a) {
    switch (a->mask.mode) {
    case LOD_ATTENTION_LOGITS:
        if (a->mask.keep == LOD_KEEP_DRAWN) {
            softmax_rows(a, LOD_ATTENTION_LOGITS, LOD_KEEP_DRAWN);
        } else {
            softmax_rows(a, LOD_ATTENTION_LOGITS, LOD_KEEP_ALL);
        }
        break;
    case LOD_ATTENTION_WEIGHTS: softmax_rows(a, LOD_ATTENTION_WEIGHTS, LOD_KEEP_DRAWN); break;
    case LOD_ATTENTION_NOGRAD: softmax_rows(a, LOD_ATTENTION_NOGRAD, a->mask.keep); break;
    }
}

// --- The ends of a row ---

LOD_INLINE float log_sum_exp(float m, float l) {
    return l == 0.0f ? INFINITY : v16_first(v16_add(v16_set1(m), v16_log(v16_set1(l))));
}

static float lse_of_both(float m, float l, float dropped_m, float dropped_l) {
    v16 a = v16_set1(m), b = v16_set1(dropped_m), max = v16_max(b, a);
    v16 rest = v16_mul(v16_set1(dropped_l), v16_exp_softmax(v16_sub(b, max)));
    return log_sum_exp(v16_first(max), v16_first(v16_fma(v16_set1(l), v16_exp_softmax(v16_sub(a, max)), rest)));
}

void LOD_VARIANT(attention_finish_f32)(const lod_attention_finish_args *a) {
    const size_t d16 = padded(a->head_dim);
    for (size_t i = 0; i < a->rows; i++) {
        float l = v16_sum(v16_load(a->l + i * 16));
        if (i + PREFETCH_ROWS < a->rows) prefetch(a->o + (i + PREFETCH_ROWS) * a->ldo, a->head_dim);
        for (size_t d = 0; d < a->head_dim; d += 16) {
            v16 o = v16_add(v16_div(v16_load(a->acc + i * d16 + d), v16_set1(l)), v16_zero());
            o = l == 0.0f ? v16_zero() : v16_mul(o, v16_set1(a->inv));
            v16_store_row(a->o + i * a->ldo + d, o, a->head_dim - d);
        }
        a->lse[i * a->ldlse] = log_sum_exp(a->m[i], l);
        if (!a->lse_visible) continue;
        float dropped_l = v16_sum(v16_load(a->dropped_l + i * 16));
        a->lse_visible[i * a->ldlse] = lse_of_both(a->m[i], l, a->dropped_m[i], dropped_l);
    }
}

// --- Backward ---

void LOD_VARIANT(attention_delta_f32)(const lod_attention_delta_args *a) {
    for (size_t i = 0; i < a->rows; i++) {
        if (i + PREFETCH_ROWS < a->rows) prefetch(a->o + (i + PREFETCH_ROWS) * a->ldo, a->head_dim);
        a->delta[i] = v16_dot(a->d_o + i * a->ldo, a->o + i * a->ldo, a->head_dim);
    }
}

// One row's constants, and 16 neighbouring keys of it.
typedef struct grad_row {
    v16 lse, lse_visible, delta;
} grad_row;

// a where the mask is set or all 16 keys are seen and kept, else +0.
LOD_INLINE v16 keep_unless(bool all, m16 mask, v16 a) {
    return all ? a : v16_keep(mask, a);
}

LOD_INLINE void grad_group(const grad_row *r, lod_attention_mode mode, bool all, m16 seen, m16 kept, float *s,
                           float *dp) {
    const v16 logits = v16_load(s), dw = v16_load(dp);
    v16 p = v16_exp_softmax(v16_sub(logits, r->lse)), ds;
    if (mode == LOD_ATTENTION_LOGITS) {
        ds = keep_unless(all, kept, v16_mul(p, v16_sub(dw, r->delta)));
    } else if (mode == LOD_ATTENTION_WEIGHTS) {
        ds = keep_unless(all, seen, v16_mul(p, v16_sub(keep_unless(all, kept, dw), r->delta)));
    } else {
        v16 w = v16_exp_softmax(v16_sub(logits, r->lse_visible));
        ds = keep_unless(all, seen, v16_fnma(w, r->delta, keep_unless(all, kept, v16_mul(p, dw))));
    }
    v16_store(s, keep_unless(all, kept, p));
    v16_store(dp, ds);
}

LOD_INLINE void grad_rows(const lod_attention_grad_args *a, lod_attention_mode mode, lod_keep keep) {
    uint16_t kept[8] = {0};
    const drawer d = draw_begin(&a->mask);
    for (size_t i = 0; i < a->rows; i++) {
        float *s = a->s + i * LOD_SCORE_LD, *dp = a->dp + i * LOD_SCORE_LD;
        const size_t seen = a->seen[i];
        grad_row r = {.lse = v16_set1(a->lse[i * a->ldlse]), .delta = v16_set1(a->delta[i])};
        if (mode == LOD_ATTENTION_NOGRAD) r.lse_visible = v16_set1(a->lse_visible[i * a->ldlse]);
        if (keep == LOD_KEEP_DRAWN) draw_row(&d, &a->mask, i, kept);
        const uint16_t *bits = keep == LOD_KEEP_ALL ? NULL : kept;
        const m16 every = m16_from_bits(0xffff);
        size_t j = 0;
        for (; !bits && j + 16 <= seen; j += 16) grad_group(&r, mode, true, every, every, s + j, dp + j);
        for (; j < seen; j += 16) {
            grad_group(&r, mode, false, counted_lanes(seen, NULL, j), counted_lanes(seen, bits, j), s + j, dp + j);
        }
        zero_columns(s, seen, a->n);
        zero_columns(dp, seen, a->n);
    }
}

void LOD_VARIANT(attention_grad_f32)(const lod_attention_grad_args *a) {
    switch (a->mask.mode) {
    case LOD_ATTENTION_LOGITS:
        if (a->mask.keep == LOD_KEEP_DRAWN) {
            grad_rows(a, LOD_ATTENTION_LOGITS, LOD_KEEP_DRAWN);
        } else {
            grad_rows(a, LOD_ATTENTION_LOGITS, LOD_KEEP_ALL);
        }
        break;
    case LOD_ATTENTION_WEIGHTS: grad_rows(a, LOD_ATTENTION_WEIGHTS, LOD_KEEP_DRAWN); break;
    case LOD_ATTENTION_NOGRAD: grad_rows(a, LOD_ATTENTION_NOGRAD, a->mask.keep); break;
    }
}
