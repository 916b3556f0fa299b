#include "attention_case.h"

#include <math.h>
#include <string.h>

#include "float_environment.h"
#include "philox.h"

static size_t queries_of(const attention_case *t) {
    return t->query_start[t->segments];
}

static size_t keys_of(const attention_case *t) {
    return t->key_start[t->segments];
}

static size_t width_of(const attention_case *t) {
    return t->shape.heads * t->shape.head_dim;
}

static size_t kv_width_of(const attention_case *t) {
    return t->shape.kv_heads * t->shape.head_dim;
}

lod_dropout attention_case_dropout(size_t i, double p) {
    static const lod_compensation of_element[] = {LOD_COMPENSATION_NONE, LOD_COMPENSATION_RENORMALISE,
                                                  LOD_COMPENSATION_RENORMALISE_NOGRAD, LOD_COMPENSATION_INVERTED};
    lod_dropout dropout = {.p = p, .seed = 0x123456789abcdef, .site = 0x1234c000};
    if (i < 4) {
        dropout.pattern = LOD_PATTERN_ELEMENT, dropout.compensation = of_element[i];
        return dropout;
    }
    dropout.pattern = i < 10 ? LOD_PATTERN_COLUMN : LOD_PATTERN_SPAN;
    dropout.compensation = of_element[(i - 4) % 3], dropout.per_kv_head = (i - 4) / 3 % 2;
    return dropout;
}

void attention_case_make_of(attention_case *t, lod_attention_shape shape, bool causal, lod_dropout dropout,
                            size_t segments, const size_t *queries, const size_t *keys) {
    static const char *const patterns[] = {"element", "column", "span"};
    check_shape("heads=%zu kv_heads=%zu head_dim=%zu%s %s compensation=%d p=%g%s", shape.heads, shape.kv_heads,
                shape.head_dim, causal ? " causal" : "", patterns[dropout.pattern], (int)dropout.compensation,
                dropout.p, dropout.per_kv_head ? " per_kv_head" : "");
    *t = (attention_case){.shape = shape, .segments = segments};
    for (size_t i = 0; i < segments; i++) {
        t->query_start[i + 1] = t->query_start[i] + queries[i];
        t->key_start[i + 1] = t->key_start[i] + keys[i];
        t->draw[i] = (uint32_t)(7 * i + 3), t->instance[i] = (uint8_t)(i % 3);
        t->shape.keys = keys[i] > t->shape.keys ? keys[i] : t->shape.keys;
    }
    lod_attention_args *a = &t->args;
    a->queries = (lod_rows){.count = t->segments, .start = t->query_start, .draw = t->draw, .instance = t->instance};
    a->keys = (lod_rows){.count = t->segments, .start = t->key_start};
    a->causal = causal, a->scale = 0.4, a->dropout = dropout;
    a->ldq = width_of(t) + 3, a->ldk = kv_width_of(t) + 1, a->ldv = kv_width_of(t) + 2, a->ldo = width_of(t) + 4;
    a->q = check_floats("q", CHECK_IN, queries_of(t), width_of(t), a->ldq);
    a->k = check_floats("k", CHECK_IN, keys_of(t), kv_width_of(t), a->ldk);
    a->v = check_floats("v", CHECK_IN, keys_of(t), kv_width_of(t), a->ldv);
    a->d_o = check_floats("d_o", CHECK_IN, queries_of(t), width_of(t), a->ldo);
}

void attention_case_make(attention_case *t, lod_attention_shape shape, bool causal, lod_dropout dropout) {
    static const size_t queries[ATTENTION_SEGMENTS] = {7, 0, 1, 18, 60}, keys[ATTENTION_SEGMENTS] = {7, 0, 40, 21, 150};
    attention_case_make_of(t, shape, causal, dropout, ATTENTION_SEGMENTS, queries, keys);
}

attention_wide attention_case_widen(const attention_case *t) {
    const size_t q = queries_of(t) * width_of(t), k = keys_of(t) * kv_width_of(t),
                 rows = queries_of(t) * t->shape.heads;
    return (attention_wide){.q = check_widen(t->args.q),
                            .k = check_widen(t->args.k),
                            .v = check_widen(t->args.v),
                            .d_o = check_widen(t->args.d_o),
                            .o = check_doubles(q),
                            .lse = check_doubles(rows),
                            .lse_visible = check_doubles(rows),
                            .dq = check_doubles(q),
                            .dk = check_doubles(k),
                            .dv = check_doubles(k),
                            .o_bound = check_doubles(q),
                            .lse_bound = check_doubles(rows),
                            .lse_visible_bound = check_doubles(rows),
                            .dq_bound = check_doubles(q),
                            .dk_bound = check_doubles(k),
                            .dv_bound = check_doubles(k)};
}

bool attention_case_nograd(const attention_case *t) {
    return t->args.dropout.p > 0 && t->args.dropout.compensation == LOD_COMPENSATION_RENORMALISE_NOGRAD;
}

double attention_case_inv(const attention_case *t) {
    return (float)(1 / (1 - lod_mask_threshold(t->args.dropout.p) / 65536.0));
}

void attention_case_keep(const attention_case *t, size_t segment, size_t head, size_t query, uint8_t *keep) {
    const lod_dropout *dropout = &t->args.dropout;
    const size_t keys = t->key_start[segment + 1] - t->key_start[segment];
    const size_t past = keys - (t->query_start[segment + 1] - t->query_start[segment]);
    const bool element = dropout->pattern == LOD_PATTERN_ELEMENT;
    if (dropout->per_kv_head && !element)
        head /= t->shape.heads / t->shape.kv_heads;
    uint32_t site = dropout->site | (uint32_t)t->instance[segment] << LOD_SITE_INSTANCE_BIT | (uint32_t)head;
    if (dropout->pattern == LOD_PATTERN_SPAN) {
        size_t start, count;
        lod_mask_span(dropout->seed, site, t->draw[segment], dropout->p, keys, &start, &count, NULL);
        for (size_t j = 0; j < keys; j++)
            keep[j] = !(j >= start && j < start + count);
        return;
    }
    for (size_t j = 0; j < keys; j++) {
        uint32_t row = element ? (uint32_t)(past + query) : 0;
        keep[j] = (uint8_t)lod_mask_keep(dropout->seed, site, t->draw[segment], row, (uint32_t)j, dropout->p);
    }
}

// --- The calls ---

static attention_outputs new_outputs(const attention_case *t) {
    const lod_attention_args *a = &t->args;
    const size_t heads = t->shape.heads;
    return (attention_outputs){
        .o = check_floats("o", CHECK_OUT, queries_of(t), width_of(t), a->ldo),
        .lse = check_floats("lse", CHECK_OUT, queries_of(t), heads, heads),
        .lse_visible =
            attention_case_nograd(t) ? check_floats("lse_visible", CHECK_OUT, queries_of(t), heads, heads) : NULL,
        .dq = check_floats("dq", CHECK_OUT, queries_of(t), width_of(t), a->ldq),
        .dk = check_floats("dk", CHECK_OUT, keys_of(t), kv_width_of(t), a->ldk),
        .dv = check_floats("dv", CHECK_OUT, keys_of(t), kv_width_of(t), a->ldv),
    };
}

static void run_segments(const attention_case *t, const lod_plan *plan, size_t first, size_t last, void *workspace,
                         const attention_outputs *out) {
    const size_t query = t->query_start[first], key = t->key_start[first], lse = query * t->shape.heads;
    size_t query_start[ATTENTION_SEGMENTS + 1], key_start[ATTENTION_SEGMENTS + 1];
    for (size_t i = first; i <= last; i++) {
        query_start[i - first] = t->query_start[i] - query;
        key_start[i - first] = t->key_start[i] - key;
    }
    lod_attention_args a = t->args;
    a.queries.count = a.keys.count = last - first;
    a.queries.start = query_start, a.queries.draw += first, a.queries.instance += first, a.keys.start = key_start;
    a.q += query * a.ldq, a.k += key * a.ldk, a.v += key * a.ldv, a.d_o += query * a.ldo;
    a.o = out->o + query * a.ldo, a.lse = out->lse + lse;
    a.lse_visible = out->lse_visible ? out->lse_visible + lse : NULL;
    a.dq = out->dq + query * a.ldq, a.dk = out->dk + key * a.ldk, a.dv = out->dv + key * a.ldv;
    CHECK_THAT(lod_attention_forward(plan, &a, workspace, NULL) == LOD_OK);
    CHECK_THAT(lod_attention_backward(plan, &a, workspace, NULL) == LOD_OK);
}

attention_outputs attention_case_run_on(const attention_case *t, const lod_plan *plan, size_t calls) {
    attention_outputs out = new_outputs(t);
    size_t bytes = lod_plan_workspace(plan);
    void *workspace = check_operand("workspace", CHECK_OUT, 1, 1, bytes, bytes, 64);
    check_before_call();
    for (size_t call = 0; call < calls; call++) {
        run_segments(t, plan, t->segments * call / calls, t->segments * (call + 1) / calls, workspace, &out);
    }
    check_after_call();
    return out;
}

attention_outputs attention_case_run_strangely(const attention_case *t, unsigned threads) {
    lod_plan *plan;
    CHECK_THAT(lod_plan_attention(&t->shape, threads, LOD_ESTIMATE, &plan, NULL) == LOD_OK);
    const uint32_t before = exchange_environment(STRANGE);
    attention_outputs out = attention_case_run_on(t, plan, 1);
    const uint32_t after = exchange_environment(before);
    lod_plan_free(plan);
    if ((after & MODES) != (STRANGE & MODES)) {
        check_fail("the host's floating-point environment is 0x%x after the calls, it was 0x%x", after, STRANGE);
    }
    return out;
}

attention_outputs attention_case_run(const attention_case *t, unsigned threads, size_t calls) {
    lod_plan *plan;
    CHECK_THAT(lod_plan_attention(&t->shape, threads, LOD_ESTIMATE, &plan, NULL) == LOD_OK);
    attention_outputs out = attention_case_run_on(t, plan, calls);
    lod_plan_free(plan);
    return out;
}

// --- Bits ---

static void same_bits(const char *what, const float *got, const float *want, size_t rows, size_t cols, size_t ld) {
    for (size_t i = 0; i < rows * cols; i++) {
        const float a = got[i / cols * ld + i % cols], b = want[i / cols * ld + i % cols];
        if (memcmp(&a, &b, sizeof a) != 0 && !(isnan(a) && isnan(b))) {
            check_fail("%s [%zu][%zu] got %a want %a", what, i / cols, i % cols, (double)a, (double)b);
        }
    }
}

void attention_case_same_bits(const attention_case *t, const attention_outputs *got, const attention_outputs *want) {
    const lod_attention_args *a = &t->args;
    const size_t queries = queries_of(t), keys = keys_of(t), heads = t->shape.heads;
    same_bits("o", got->o, want->o, queries, width_of(t), a->ldo);
    same_bits("lse", got->lse, want->lse, queries, heads, heads);
    if (want->lse_visible)
        same_bits("lse_visible", got->lse_visible, want->lse_visible, queries, heads, heads);
    same_bits("dq", got->dq, want->dq, queries, width_of(t), a->ldq);
    same_bits("dk", got->dk, want->dk, keys, kv_width_of(t), a->ldk);
    same_bits("dv", got->dv, want->dv, keys, kv_width_of(t), a->ldv);
}

void attention_case_share(const attention_case *t, const attention_outputs *out) {
    check_share(out->o);
    check_share(out->lse);
    if (attention_case_nograd(t))
        check_share(out->lse_visible);
    check_share(out->dq);
    check_share(out->dk);
    check_share(out->dv);
}
