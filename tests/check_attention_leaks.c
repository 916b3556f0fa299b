// What may reach what in attention: NaN in rows that are dropped, infinite rows of Q and dO, rows that keep nothing,
// and zeros, which are +0.
#include <math.h>
#include <string.h>

#include "attention_case.h"

static const double rate = 0.3;
static const lod_attention_shape grouped = {.heads = 4, .kv_heads = 2, .head_dim = 24};

static float *writable(const float *cell) {
    return (float *)(uintptr_t)cell;
}

static size_t queries_of(const attention_case *t, size_t segment) {
    return t->query_start[segment + 1] - t->query_start[segment];
}

static size_t keys_of(const attention_case *t, size_t segment) {
    return t->key_start[segment + 1] - t->key_start[segment];
}

static bool plus_zero(const float *x, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (x[i] != 0 || signbit(x[i]))
            return false;
    }
    return true;
}

// --- Rows that are dropped ---

// Calls body with each key that a column or span mask drops for every query head of its KV head; returns how many.
static size_t for_dropped(const attention_case *t, const attention_outputs *out,
                          void (*body)(const attention_case *, const attention_outputs *, size_t token, size_t kv)) {
    const size_t group = t->shape.heads / t->shape.kv_heads;
    size_t count = 0;
    for (size_t i = 0; i < t->segments * t->shape.kv_heads; i++) {
        const size_t segment = i / t->shape.kv_heads, kv = i % t->shape.kv_heads;
        uint8_t any[256] = {0}, keep[256];
        for (size_t head = kv * group; head < (kv + 1) * group; head++) {
            attention_case_keep(t, segment, head, 0, keep);
            for (size_t j = 0; j < keys_of(t, segment); j++) {
                any[j] |= keep[j];
            }
        }
        for (size_t j = 0; j < keys_of(t, segment); j++) {
            if (any[j])
                continue;
            body(t, out, t->key_start[segment] + j, kv);
            count++;
        }
    }
    return count;
}

static void poison_key(const attention_case *t, const attention_outputs *out, size_t token, size_t kv) {
    const size_t d = t->shape.head_dim;
    (void)out;
    for (size_t i = 0; i < d; i++) {
        if (!attention_case_nograd(t))
            *writable(t->args.k + token * t->args.ldk + kv * d + i) = i % 2 ? NAN : INFINITY;
        *writable(t->args.v + token * t->args.ldv + kv * d + i) = i % 2 ? NAN : -INFINITY;
    }
}

static void expect_no_gradient(const attention_case *t, const attention_outputs *out, size_t token, size_t kv) {
    const size_t d = t->shape.head_dim;
    CHECK_THAT(plus_zero(out->dv + token * t->args.ldv + kv * d, d));
    CHECK_THAT(attention_case_nograd(t) || plus_zero(out->dk + token * t->args.ldk + kv * d, d));
}

CHECK_ONCE(attention_dropped_keys, 0) {
    for (size_t i = 0; i < 2 * ATTENTION_DROPOUTS; i++) {
        attention_case t;
        const lod_dropout dropout = attention_case_dropout(i / 2, rate);
        if (dropout.pattern == LOD_PATTERN_ELEMENT)
            continue;
        attention_case_make(&t, grouped, i % 2, dropout);
        attention_outputs clean = attention_case_run(&t, 1, 1);
        CHECK_THAT(for_dropped(&t, &clean, expect_no_gradient) > 20);
        for_dropped(&t, NULL, poison_key);
        for (unsigned threads = 1; threads <= 3; threads++) {
            attention_outputs poisoned = attention_case_run(&t, threads, 1);
            attention_case_same_bits(&t, &poisoned, &clean);
        }
    }
}

// Keys that no query sees: a segment of a cache that nothing is asked of.
CHECK_ONCE(attention_no_queries, 0) {
    static const size_t queries[] = {5, 0, 3}, keys[] = {9, 200, 3};
    const size_t kv_width = grouped.kv_heads * grouped.head_dim;
    for (size_t i = 0; i < 2 * ATTENTION_DROPOUTS; i++) {
        attention_case t;
        attention_case_make_of(&t, grouped, i % 2, attention_case_dropout(i / 2, rate), COUNT(queries), queries, keys);
        attention_outputs one = attention_case_run(&t, 1, 1), many = attention_case_run(&t, 4, 1);
        attention_case_same_bits(&t, &many, &one);
        for (size_t token = keys[0]; token < keys[0] + keys[1]; token++) {
            CHECK_THAT(plus_zero(one.dk + token * t.args.ldk, kv_width));
            CHECK_THAT(plus_zero(one.dv + token * t.args.ldv, kv_width));
        }
    }
}

// --- Queries that keep nothing ---

// What is visible, and kept, of a segment's keys.
static bool visible(const attention_case *t, size_t segment, size_t query, size_t key) {
    return !t->args.causal || key <= keys_of(t, segment) - queries_of(t, segment) + query;
}

static bool keeps_any(const attention_case *t, size_t segment, size_t head, size_t query) {
    uint8_t keep[256];
    bool any = false;
    attention_case_keep(t, segment, head, query, keep);
    for (size_t j = 0; j < keys_of(t, segment); j++) {
        any |= keep[j] && visible(t, segment, query, j);
    }
    return any;
}

static void expect_numbers(const char *what, const float *x, size_t rows, size_t cols, size_t ld) {
    for (size_t i = 0; i < rows * cols; i++) {
        if (!isfinite(x[i / cols * ld + i % cols]))
            check_fail("%s [%zu][%zu] is not finite", what, i / cols, i % cols);
    }
}

// Returns how many queries of a head keep nothing.
static size_t expect_zeros(const attention_case *t, const attention_outputs *out) {
    const size_t heads = t->shape.heads, d = t->shape.head_dim;
    const bool weights = t->args.dropout.compensation == LOD_COMPENSATION_INVERTED;
    size_t count = 0;
    for (size_t segment = 0; segment < t->segments; segment++) {
        for (size_t i = 0; i < queries_of(t, segment) * heads; i++) {
            const size_t query = i / heads, head = i % heads, token = t->query_start[segment] + query;
            const float lse = out->lse[token * heads + head];
            if (keeps_any(t, segment, head, query))
                continue;
            count++;
            CHECK_THAT(plus_zero(out->o + token * t->args.ldo + head * d, d));
            CHECK_THAT(plus_zero(out->dq + token * t->args.ldq + head * d, d));
            CHECK_THAT(weights ? isfinite(lse) : isinf(lse) && lse > 0);
            CHECK_THAT(!out->lse_visible || isfinite(out->lse_visible[token * heads + head]));
        }
    }
    return count;
}

CHECK_ONCE(attention_nothing_kept, 0x21a63d2f8bf09caf) {
    for (size_t i = 0; i < 2 * ATTENTION_DROPOUTS; i++) {
        attention_case t;
        attention_case_make(&t, grouped, i % 2, attention_case_dropout(i / 2, 0.999));
        attention_outputs out = attention_case_run(&t, 1, 1);
        const size_t queries = t.query_start[t.segments], keys = t.key_start[t.segments];
        const bool leaves_one = t.args.dropout.pattern == LOD_PATTERN_SPAN && !t.args.causal; // of a longer segment
        CHECK_THAT((expect_zeros(&t, &out) > 0) != leaves_one);
        expect_numbers("o", out.o, queries, grouped.heads * grouped.head_dim, t.args.ldo);
        expect_numbers("dq", out.dq, queries, grouped.heads * grouped.head_dim, t.args.ldq);
        expect_numbers("dk", out.dk, keys, grouped.kv_heads * grouped.head_dim, t.args.ldk);
        expect_numbers("dv", out.dv, keys, grouped.kv_heads * grouped.head_dim, t.args.ldv);
        attention_case_share(&t, &out);
    }
}

// --- Infinite rows of Q and dO ---

typedef struct place {
    size_t segment, query, head;
    bool of_q; // else of dO
} place;

typedef enum hearing { DEAF, MAY_HEAR, HEARS } hearing;

// Whether a gradient of a key hears of the row: only if its query sees the key and its head's list has it, and surely
// if the query keeps it too.
static hearing hears(const attention_case *t, const place *at, size_t token, size_t kv, bool dk) {
    const size_t group = t->shape.heads / t->shape.kv_heads, start = t->key_start[at->segment];
    uint8_t keep[256];
    if (kv != at->head / group || token < start || token >= start + keys_of(t, at->segment))
        return DEAF;
    if (!visible(t, at->segment, at->query, token - start))
        return DEAF;
    attention_case_keep(t, at->segment, at->head, at->query, keep);
    if (keep[token - start])
        return HEARS;
    return t->args.dropout.pattern == LOD_PATTERN_ELEMENT || (dk && attention_case_nograd(t)) ? MAY_HEAR : DEAF;
}

static bool same(const float *a, const float *b, size_t count) {
    return memcmp(a, b, count * sizeof *a) == 0;
}

static bool any_nan(const float *x, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (isnan(x[i]))
            return true;
    }
    return false;
}

// Everything else keeps its bits. A NaN in Q is heard wherever it may be.
static void expect_reach(const attention_case *t, const place *at, bool nan, const attention_outputs *got,
                         const attention_outputs *clean) {
    const size_t d = t->shape.head_dim, heads = t->shape.heads;
    const lod_attention_args *a = &t->args;
    const size_t here = (t->query_start[at->segment] + at->query) * heads + at->head;
    for (size_t i = 0; i < t->query_start[t->segments] * heads; i++) {
        const size_t o = i / heads * a->ldo + i % heads * d, dq = i / heads * a->ldq + i % heads * d;
        if (i == here && nan && keeps_any(t, at->segment, at->head, at->query)) {
            CHECK_THAT(any_nan(got->dq + dq, d) && (!at->of_q || any_nan(got->o + o, d)));
        }
        CHECK_THAT(i == here || same(got->dq + dq, clean->dq + dq, d));
        CHECK_THAT((i == here && at->of_q) || same(got->o + o, clean->o + o, d));
        CHECK_THAT((i == here && at->of_q) || same(got->lse + i, clean->lse + i, 1));
        CHECK_THAT(!clean->lse_visible || (i == here && at->of_q) ||
                   same(got->lse_visible + i, clean->lse_visible + i, 1));
    }
    for (size_t i = 0; i < t->key_start[t->segments] * t->shape.kv_heads; i++) {
        const size_t token = i / t->shape.kv_heads, kv = i % t->shape.kv_heads;
        const size_t dk = token * a->ldk + kv * d, dv = token * a->ldv + kv * d;
        const hearing of_dk = hears(t, at, token, kv, true), of_dv = hears(t, at, token, kv, false);
        CHECK_THAT(of_dk != DEAF || same(got->dk + dk, clean->dk + dk, d));
        CHECK_THAT(of_dv != DEAF || same(got->dv + dv, clean->dv + dv, d));
        CHECK_THAT(!nan || of_dk != HEARS || any_nan(got->dk + dk, d));
        CHECK_THAT(!nan || of_dv != HEARS || any_nan(got->dv + dv, d));
    }
}

CHECK_ONCE(attention_infinite_rows, 0) {
    static const uint32_t bits[] = {0x7fc00000, 0xffc0dead, 0x7f800000, 0xff800000}; // NaN, another one, infinities
    for (size_t i = 0; i < 2 * ATTENTION_DROPOUTS; i++) {
        attention_case t;
        attention_case_make(&t, grouped, i % 2, attention_case_dropout(i / 2, rate));
        attention_outputs clean = attention_case_run(&t, 1, 1);
        for (size_t turn = 0; turn < COUNT(bits); turn++) {
            place at = {
                .segment = turn % 2 ? 4 : 3, .head = (i + turn) % grouped.heads, .of_q = (i / 2 + turn / 2) % 2};
            at.query = check_below(queries_of(&t, at.segment));
            const size_t token = t.query_start[at.segment] + at.query, col = at.head * grouped.head_dim + 5;
            float *cell =
                writable(at.of_q ? t.args.q + token * t.args.ldq + col : t.args.d_o + token * t.args.ldo + col);
            const float before = *cell;
            memcpy(cell, &bits[turn], sizeof *cell);
            attention_outputs one = attention_case_run(&t, 1, 1), many = attention_case_run(&t, 5, 1);
            *cell = before;
            attention_case_same_bits(&t, &many, &one);
            expect_reach(&t, &at, turn < 2, &one, &clean);
        }
    }
}

// --- Zeros ---

static size_t expect_plus(const char *what, const float *x, size_t rows, size_t cols, size_t ld) {
    size_t zeros = 0;
    for (size_t i = 0; i < rows * cols; i++) {
        const float value = x[i / cols * ld + i % cols];
        zeros += value == 0;
        if (value == 0 && signbit(value))
            check_fail("%s [%zu][%zu] is -0", what, i / cols, i % cols);
    }
    return zeros;
}

// Logits so far apart, and values so small, that products underflow from either side.
CHECK_ONCE(attention_zeros, 0x5e6fe307e3d0f88d) {
    check_skip_ref();
    for (size_t i = 0; i < 2 * ATTENTION_DROPOUTS; i++) {
        attention_case t;
        attention_case_make(&t, grouped, i % 2, attention_case_dropout(i / 2, rate));
        const size_t queries = t.query_start[t.segments], keys = t.key_start[t.segments];
        const size_t width = grouped.heads * grouped.head_dim, kv_width = grouped.kv_heads * grouped.head_dim;
        t.args.scale = 1;
        for (size_t c = 0; c < queries * width; c++) {
            *writable(t.args.q + c / width * t.args.ldq + c % width) *= 10;
            *writable(t.args.d_o + c / width * t.args.ldo + c % width) *= 0x1p-140f;
        }
        for (size_t c = 0; c < keys * kv_width; c++) {
            *writable(t.args.v + c / kv_width * t.args.ldv + c % kv_width) *= 0x1p-140f;
        }
        attention_outputs one = attention_case_run(&t, 1, 1), many = attention_case_run(&t, 4, 1);
        attention_case_same_bits(&t, &many, &one);
        expect_plus("o", one.o, queries, width, t.args.ldo);
        CHECK_THAT(expect_plus("dq", one.dq, queries, width, t.args.ldq) > 0);
        CHECK_THAT(expect_plus("dk", one.dk, keys, kv_width, t.args.ldk) > 0);
        CHECK_THAT(expect_plus("dv", one.dv, keys, kv_width, t.args.ldv) > 0);
        attention_case_share(&t, &one);
    }
}
