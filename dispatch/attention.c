// Attention: what the arguments mean, and the work in pieces that any worker may take: forward (segment, KV head, part
// of the queries); backward (segment, KV head), or, where that leaves threads idle, dQ by parts of the queries and dK
// and dV by parts of the keys, at the price of computing S and dP twice. Every sum is one chain within a piece or
// within one after another, so pieces change no bits.
#include "attention.h"

#include <math.h>

enum { PIECES_PER_THREAD = 8, MAX_MASKED_HEADS = 256 };
enum { SHARING_HEADS = 4, SHARING_BYTES = 4 << 20 };

static size_t group_of(const lod_attention_shape *s) {
    return s->heads / s->kv_heads;
}

// The most heads on one packed block of keys: each further one saves less packing, and costs every worker its state.
static size_t most_sharing(const lod_attention_shape *s) {
    size_t state = s->queries * (3 * lod_round_up(s->head_dim, 16) + 2 * 16 + 2) * sizeof(float);
    size_t fit = lod_min(SHARING_BYTES / state, SHARING_HEADS);
    return lod_min(group_of(s), fit ? fit : 1);
}

// --- The memory of a worker ---

size_t lod_attention_lay_out(const lod_plan *plan, void *base, lod_attention_scratch *w) {
    const lod_attention_shape *s = &plan->shape.attention;
    const size_t d16 = lod_round_up(s->head_dim, 16), state = most_sharing(s) * s->queries;
    const size_t block = LOD_KEY_BLOCK * d16, scores = plan->choice.query_block * LOD_SCORE_LD;
    lod_attention_scratch unused;
    w = base ? w : &unused;
    const struct {
        void *pointer;
        size_t bytes;
    } parts[] = {
        {&w->q, state * d16 * sizeof(float)},      {&w->o, state * d16 * sizeof(float)},
        {&w->dq, state * d16 * sizeof(float)},     {&w->m, state * sizeof(float)},
        {&w->dropped_m, state * sizeof(float)},    {&w->l, state * 16 * sizeof(float)},
        {&w->dropped_l, state * 16 * sizeof(float)}, {&w->k_rows, block * sizeof(float)},
        {&w->v_rows, block * sizeof(float)},       {&w->k_panels, block * sizeof(float)},
        {&w->v_panels, block * sizeof(float)},     {&w->dk, block * sizeof(float)},
        {&w->dv, block * sizeof(float)},           {&w->s, scores * sizeof(float)},
        {&w->dp, scores * sizeof(float)},          {&w->seen, plan->choice.query_block * sizeof(uint32_t)},
        {&w->index, (s->keys + 1) * sizeof(uint32_t)}, {&w->limit, 2 * s->queries * sizeof(uint32_t)},
        {&w->bits, lod_round_up(s->keys, 128) / 8},
    };
    size_t offset = 0;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (base) *(void **)parts[i].pointer = (char *)base + offset;
        offset += lod_round_up(parts[i].bytes, 64);
    }
    return offset;
}

size_t lod_attention_workspace(const lod_plan *plan) {
    return plan->threads * lod_attention_lay_out(plan, NULL, NULL);
}

// --- Pieces ---

typedef struct pieces {
    const lod_attention_call *call;
    void (*run)(const lod_attention_call *, const lod_attention_piece *, const lod_attention_scratch *);
    size_t query_parts, key_parts; // of a segment; key_parts 0: keys are not cut
    bool backward;
} pieces;

// The heaviest come first. In a causal segment those are the first keys, which most queries see, and the last queries,
// which see most keys.
static void run_piece(void *context, size_t worker, size_t i) {
    const pieces *all = context;
    const lod_attention_call *c = all->call;
    const size_t parts = all->query_parts + all->key_parts, kv_heads = c->plan->shape.attention.kv_heads;
    const size_t turn = i % parts, pair = i / parts;
    lod_attention_piece p = {.segment = pair / kv_heads, .kv = pair % kv_heads};
    const size_t queries = lod_segment_length(&c->args->queries, p.segment);
    const size_t keys = lod_segment_length(&c->args->keys, p.segment);
    p.queries = (lod_range){0, queries}, p.keys = (lod_range){0, keys};
    const bool of_queries = turn >= all->key_parts;
    p.dq = all->backward && of_queries, p.dkv = all->backward && (!of_queries || !all->key_parts);
    if (of_queries) {
        p.queries = lod_part(queries, c->plan->choice.query_block, all->query_parts, parts - 1 - turn);
    } else {
        p.keys = lod_part(keys, LOD_KEY_BLOCK, all->key_parts, turn);
    }
    lod_attention_scratch w;
    const size_t bytes = lod_attention_lay_out(c->plan, NULL, NULL);
    lod_attention_lay_out(c->plan, (char *)c->workspace + worker * bytes, &w);
    all->run(c, &p, &w);
}

static void run_pieces(const lod_attention_call *c, bool backward) {
    const size_t threads = lod_parallel_threads(c->plan->threads);
    const size_t pairs = c->args->queries.count * c->plan->shape.attention.kv_heads;
    if (pairs == 0) return;
    const size_t parts = threads > 1 ? lod_div_up(PIECES_PER_THREAD * threads, pairs) : 1;
    pieces all = {.call = c, .backward = backward, .run = lod_attention_forward_piece, .query_parts = parts};
    if (backward) {
        all.run = lod_attention_backward_piece;
        // Whole pairs cost five products each, cut ones seven, evenly shared.
        bool whole = 5 * lod_div_up(pairs, threads) * threads <= 7 * pairs;
        all.query_parts = whole ? 1 : parts, all.key_parts = whole ? 0 : parts;
    }
    lod_parallel_workers(c->plan->threads, pairs * (all.query_parts + all.key_parts), run_piece, &all);
}

// --- Checks ---

static lod_status check_segments(const lod_plan *plan, const lod_attention_args *a, lod_error *err) {
    const lod_attention_shape *s = &plan->shape.attention;
    if (a->queries.count != a->keys.count) {
        return lod_fail(err, LOD_BAD_ARGUMENT, "keys", "%zu segments, but queries have %zu", a->keys.count,
                        a->queries.count);
    }
    for (size_t i = 0; i < a->keys.count; i++) {
        size_t keys = lod_segment_length(&a->keys, i), queries = lod_segment_length(&a->queries, i);
        if (keys > s->keys) {
            return lod_fail(err, LOD_BAD_ARGUMENT, "keys", "segment %zu has %zu, above the plan's %zu", i, keys,
                            s->keys);
        }
        if (queries > s->queries) {
            return lod_fail(err, LOD_BAD_ARGUMENT, "queries", "segment %zu has %zu, above the plan's %zu", i, queries,
                            s->queries);
        }
        if (a->causal && queries > keys) {
            return lod_fail(err, LOD_BAD_ARGUMENT, "queries", "segment %zu has %zu, above its %zu keys", i, queries,
                            keys);
        }
    }
    return LOD_OK;
}

static lod_status check_dropout(lod_attention_call *c, lod_error *err) {
    const lod_dropout *dropout = &c->args->dropout;
    const lod_attention_shape *s = &c->plan->shape.attention;
    LOD_TRY(lod_dropout_check(dropout, &c->threshold, &c->inv, err));
    if ((unsigned)dropout->pattern > LOD_PATTERN_SPAN) {
        return lod_fail(err, LOD_BAD_ARGUMENT, "pattern", "%d is unknown", (int)dropout->pattern);
    }
    if (dropout->compensation == LOD_COMPENSATION_INVERTED && dropout->pattern != LOD_PATTERN_ELEMENT) {
        return lod_fail(err, LOD_BAD_ARGUMENT, "dropout", "inverted attention weights have element masks only");
    }
    if (dropout->compensation == LOD_COMPENSATION_INFERENCE) {
        return lod_fail(err, LOD_BAD_ARGUMENT, "dropout", "attention is not scaled at inference");
    }
    if (!c->threshold) return LOD_OK;
    if (s->heads > MAX_MASKED_HEADS) {
        return lod_fail(err, LOD_BAD_ARGUMENT, "dropout", "%zu heads are above the %d that masks can tell apart",
                        s->heads, MAX_MASKED_HEADS);
    }
    const bool nograd = dropout->compensation == LOD_COMPENSATION_RENORMALISE_NOGRAD;
    if (nograd && !c->args->lse_visible) return lod_fail(err, LOD_BAD_ARGUMENT, "lse_visible", "is NULL");
    const bool inverted = dropout->compensation == LOD_COMPENSATION_INVERTED;
    c->mode = nograd ? LOD_ATTENTION_NOGRAD : inverted ? LOD_ATTENTION_WEIGHTS : LOD_ATTENTION_LOGITS;
    c->compact = dropout->pattern != LOD_PATTERN_ELEMENT;
    return LOD_OK;
}

static lod_attention_kernels find_kernels(const lod_plan *plan) {
    const lod_isa isa = plan->isa;
    return (lod_attention_kernels){
        .tile = plan->choice.tile,
        .pack = lod_kernel_find(LOD_OP_attention_pack_f32, isa)->fn.attention_pack_f32,
        .unpack = lod_kernel_find(LOD_OP_attention_unpack_f32, isa)->fn.attention_unpack_f32,
        .softmax = lod_kernel_find(LOD_OP_attention_softmax_f32, isa)->fn.attention_softmax_f32,
        .finish = lod_kernel_find(LOD_OP_attention_finish_f32, isa)->fn.attention_finish_f32,
        .delta = lod_kernel_find(LOD_OP_attention_delta_f32, isa)->fn.attention_delta_f32,
        .grad = lod_kernel_find(LOD_OP_attention_grad_f32, isa)->fn.attention_grad_f32,
        .keep_bits = lod_kernel_find(LOD_OP_keep_bits, isa)->fn.keep_bits,
    };
}

static lod_status begin(lod_attention_call *c, const lod_plan *plan, const lod_attention_args *a, void *workspace,
                        lod_error *err) {
    LOD_TRY(lod_plan_check(plan, LOD_PLAN_ATTENTION, err));
    const lod_attention_shape *s = &plan->shape.attention;
    *c = (lod_attention_call){.plan = plan, .args = a, .workspace = workspace, .d = s->head_dim,
                              .d16 = lod_round_up(s->head_dim, 16), .group = group_of(s)};
    LOD_TRY(check_dropout(c, err));
    c->sharing = c->compact && !a->dropout.per_kv_head ? 1 : most_sharing(s);
    LOD_TRY(lod_rows_check(&a->queries, c->threshold > 0, "queries", err));
    LOD_TRY(lod_rows_check(&a->keys, false, "keys", err));
    LOD_TRY(check_segments(plan, a, err));
    if (!isfinite((float)a->scale)) return lod_fail(err, LOD_BAD_ARGUMENT, "scale", "%g is not finite", a->scale);
    LOD_TRY(lod_check_matrix(a->q, a->ldq, s->heads * s->head_dim, "q", err));
    LOD_TRY(lod_check_matrix(a->k, a->ldk, s->kv_heads * s->head_dim, "k", err));
    LOD_TRY(lod_check_matrix(a->v, a->ldv, s->kv_heads * s->head_dim, "v", err));
    LOD_TRY(lod_check_matrix(a->o, a->ldo, s->heads * s->head_dim, "o", err));
    if (!a->lse) return lod_fail(err, LOD_BAD_ARGUMENT, "lse", "is NULL");
    c->kernels = find_kernels(plan);
    return lod_check_aligned(workspace, "workspace", err);
}

// --- The two calls ---

lod_status lod_attention_forward(const lod_plan *plan, const lod_attention_args *a, void *workspace, lod_error *err) {
    lod_attention_call c;
    LOD_TRY(begin(&c, plan, a, workspace, err));
    run_pieces(&c, false);
    return LOD_OK;
}

lod_status lod_attention_backward(const lod_plan *plan, const lod_attention_args *a, void *workspace, lod_error *err) {
    lod_attention_call c;
    LOD_TRY(begin(&c, plan, a, workspace, err));
    const struct {
        const char *field;
        const float *pointer;
    } needed[] = {{"d_o", a->d_o}, {"dq", a->dq}, {"dk", a->dk}, {"dv", a->dv}};
    for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++) {
        if (!needed[i].pointer) return lod_fail(err, LOD_BAD_ARGUMENT, needed[i].field, "is NULL");
    }
    run_pieces(&c, true);
    return LOD_OK;
}
