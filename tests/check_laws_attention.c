// Laws of attention on the public interface: what must not change a bit of it. Where NaN and zeros may come from, and
// where they must not go, is in check_attention_leaks.c.
#include <math.h>
#include <string.h>

#include "attention_case.h"
#include "check_engines.h"
#include "plan.h"

static const double rate = 0.3;
static const lod_attention_shape grouped = {.heads = 6, .kv_heads = 2, .head_dim = 24};

// --- Threads, calls, plans ---

CHECK_ONCE(attention_same_bits, 0x4c0a79e567e8237c) {
    static const lod_attention_shape wide_group = {.heads = 7, .kv_heads = 1, .head_dim = 8};
    for (size_t i = 0; i < 2 * ATTENTION_DROPOUTS; i++) {
        attention_case t;
        attention_case_make(&t, i % 3 ? grouped : wide_group, i % 2, attention_case_dropout(i / 2, rate));
        attention_outputs one = attention_case_run(&t, 1, 1);
        for (unsigned threads = 1; threads <= 5; threads++) {
            attention_outputs many = attention_case_run(&t, threads, threads % 2 ? t.segments : 1);
            attention_case_same_bits(&t, &many, &one);
        }
        attention_case_share(&t, &one);
    }
}

// A plan like any other, but for the number of queries that are worked on at a time.
static attention_outputs run_blocks(const attention_case *t, size_t query_block, unsigned threads) {
    lod_plan *plan, changed;
    CHECK_THAT(lod_plan_attention(&t->shape, threads, LOD_ESTIMATE, &plan, NULL) == LOD_OK);
    changed = *plan;
    changed.choice.query_block = query_block;
    lod_plan_settle(&changed);
    lod_plan_free(plan);
    return attention_case_run_on(t, &changed, 1);
}

CHECK_ONCE(attention_query_blocks, 0xad858d30e0157df0) {
    check_skip_ref();
    static const lod_attention_shape shape = {.heads = 2, .kv_heads = 1, .head_dim = 16};
    static const size_t queries[] = {210, 9}, keys[] = {290, 150};
    lod_isa isa;
    CHECK_THAT(lod_isa_in_use(&isa, NULL, NULL) == LOD_OK);
    const size_t mr = lod_kernel_find(LOD_OP_attention_tile_f32, isa)->mr;
    const size_t blocks[] = {1, mr > 1 ? mr - 1 : 1, 7, 64, 200};
    for (size_t i = 0; i < ATTENTION_DROPOUTS; i++) {
        attention_case t;
        attention_case_make_of(&t, shape, i % 3 != 2, attention_case_dropout(i, rate), COUNT(queries), queries, keys);
        attention_outputs usual = attention_case_run(&t, 1, 1);
        for (size_t b = 0; b < COUNT(blocks); b++) {
            attention_outputs other = run_blocks(&t, blocks[b], 1 + b % 2);
            attention_case_same_bits(&t, &other, &usual);
        }
        attention_case_share(&t, &usual);
    }
}

// One pair of segment and head for four threads: forward is cut by queries, backward by queries and again by keys.
CHECK_ONCE(attention_cut_segments, 0xfab6a86a529a8043) {
    check_skip_ref();
    static const lod_attention_shape shape = {.heads = 1, .kv_heads = 1, .head_dim = 8};
    static const size_t few[] = {200}, many[] = {700};
    for (size_t i = 0; i < 2 * ATTENTION_DROPOUTS; i++) {
        attention_case t;
        const lod_dropout dropout = attention_case_dropout(i / 2, rate);
        attention_case_make_of(&t, shape, i % 4 != 3, dropout, 1, i % 2 ? few : many, many);
        attention_outputs whole = attention_case_run(&t, 1, 1), cut = attention_case_run(&t, 4, 1);
        attention_case_same_bits(&t, &cut, &whole);
        attention_case_share(&t, &whole);
    }
}

// A plan for many more queries than come has other heads share a packed block of keys: as many as their state allows.
CHECK_ONCE(attention_roomier_plans, 0) {
    check_skip_ref();
    static const size_t queries[] = {3000, 5000}; // not all three heads of a KV head then, but two of them, one
    for (size_t i = 0; i < ATTENTION_DROPOUTS; i++) {
        attention_case t;
        attention_case_make(&t, grouped, i % 2, attention_case_dropout(i, rate));
        attention_outputs usual = attention_case_run(&t, 1, 1);
        for (size_t q = 0; q < COUNT(queries); q++) {
            lod_attention_shape shape = t.shape;
            lod_plan *plan;
            shape.queries = shape.keys = queries[q];
            CHECK_THAT(lod_plan_attention(&shape, 1 + q % 2, LOD_ESTIMATE, &plan, NULL) == LOD_OK);
            attention_outputs other = attention_case_run_on(&t, plan, 1);
            lod_plan_free(plan);
            attention_case_same_bits(&t, &other, &usual);
        }
    }
}

CHECK_ONCE(attention_own_parallel_for, 0) {
    for (size_t i = 0; i < CHECK_ENGINES * ATTENTION_DROPOUTS; i++) {
        size_t tasks = 0;
        attention_case t;
        attention_case_make(&t, grouped, i % 3, attention_case_dropout(i / CHECK_ENGINES, rate));
        attention_outputs one = attention_case_run(&t, 1, 1);
        lod_set_parallel_for(check_engines[i % CHECK_ENGINES], &tasks);
        attention_outputs own = attention_case_run(&t, 3, 1);
        lod_set_parallel_for(NULL, NULL);
        CHECK_THAT(tasks > 0);
        attention_case_same_bits(&t, &own, &one);
    }
}

// --- Dropouts that are the same ---

CHECK_ONCE(attention_without_rate, 0) {
    for (size_t i = 0; i < 2 * ATTENTION_DROPOUTS; i++) {
        attention_case t;
        attention_case_make(&t, grouped, i % 2, (lod_dropout){.p = 0});
        attention_outputs none = attention_case_run(&t, 1, 1);
        t.args.dropout = attention_case_dropout(i / 2, 0);
        attention_outputs zero = attention_case_run(&t, 1, 1);
        attention_case_same_bits(&t, &zero, &none);
    }
}

// DropAttention with a gradient through its normaliser is DropKey.
CHECK_ONCE(attention_renormalise, 0) {
    for (size_t i = 0; i < 2 * ATTENTION_DROPOUTS; i++) {
        attention_case t;
        const lod_dropout dropout = attention_case_dropout(i / 2, rate);
        if (dropout.compensation != LOD_COMPENSATION_RENORMALISE)
            continue;
        attention_case_make(&t, grouped, i % 2, dropout);
        attention_outputs renormalised = attention_case_run(&t, 1, 1);
        t.args.dropout.compensation = LOD_COMPENSATION_NONE;
        attention_outputs none = attention_case_run(&t, 1, 1);
        attention_case_same_bits(&t, &renormalised, &none);
    }
}

// --- The host, and the past ---

// Subnormal numbers among inputs and results, so that flushing them would show.
CHECK_ONCE(attention_float_environment, 0) {
    for (size_t i = 0; i < ATTENTION_DROPOUTS; i++) {
        attention_case t;
        attention_case_make(&t, grouped, i % 2, attention_case_dropout(i, rate));
        float *d_o = (float *)(uintptr_t)t.args.d_o, *q = (float *)(uintptr_t)t.args.q;
        for (size_t row = 0; row < t.query_start[t.segments]; row++) {
            for (size_t d = 0; d < grouped.heads * grouped.head_dim; d++) {
                d_o[row * t.args.ldo + d] *= 0x1p-128f;
                q[row * t.args.ldq + d] *= row % 2 ? 0x1p-128f : 1;
            }
        }
        attention_outputs plain = attention_case_run(&t, 1, 1);
        size_t subnormal = 0;
        for (size_t row = 0; row < t.key_start[t.segments]; row++) {
            subnormal += fpclassify(plain.dv[row * t.args.ldv]) == FP_SUBNORMAL;
        }
        CHECK_THAT(subnormal > 0);
        for (unsigned threads = 1; threads <= 3; threads += 2) {
            attention_outputs strange = attention_case_run_strangely(&t, threads);
            attention_case_same_bits(&t, &strange, &plain);
        }
    }
}

// The last rows of a tensor of queries.
static void same_tail(const char *what, const float *few, const float *all, size_t rows, size_t skip, size_t ld,
                      size_t cols) {
    for (size_t i = 0; i < rows; i++) {
        if (memcmp(few + i * ld, all + (skip + i) * ld, cols * sizeof *few) != 0)
            check_fail("%s of query %zu of %zu is not that of the whole", what, i, rows);
    }
}

// A few queries against a cache of keys are the last ones of a whole segment.
CHECK_ONCE(attention_key_cache, 0) {
    enum { KEYS = 300 };
    static const size_t keys[] = {KEYS};
    const size_t width = grouped.heads * grouped.head_dim;
    for (size_t i = 0; i < ATTENTION_DROPOUTS; i++) {
        attention_case t;
        attention_case_make_of(&t, grouped, true, attention_case_dropout(i, rate), 1, keys, keys);
        attention_outputs all = attention_case_run(&t, 1, 1);
        const lod_attention_args whole = t.args;
        for (size_t queries = 1; queries <= 8; queries++) {
            const size_t skip = KEYS - queries;
            t.query_start[1] = queries;
            t.args.q = whole.q + skip * whole.ldq, t.args.d_o = whole.d_o + skip * whole.ldo;
            attention_outputs few = attention_case_run(&t, 1, 1);
            same_tail("o", few.o, all.o, queries, skip, whole.ldo, width);
            same_tail("lse", few.lse, all.lse, queries, skip, grouped.heads, grouped.heads);
            same_tail("dq", few.dq, all.dq, queries, skip, whole.ldq, width);
            if (few.lse_visible)
                same_tail("lse_visible", few.lse_visible, all.lse_visible, queries, skip, grouped.heads, grouped.heads);
        }
    }
}
