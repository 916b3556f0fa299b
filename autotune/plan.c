// Plans: shapes are checked here once, so that calls need only check what changes between them.
#include <stdio.h>
#include <stdlib.h>

#include "plan.h"

enum { MAX_DIMENSION = 1 << 28, MAX_THREADS = 1024 };

static lod_status check_dimension(size_t value, const char *field, lod_error *err) {
    if (value == 0 || value > MAX_DIMENSION) {
        return lod_fail(err, LOD_BAD_ARGUMENT, field, "%zu is not in 1..%d", value, MAX_DIMENSION);
    }
    return LOD_OK;
}

// Fills what every plan has; the caller's stack copy becomes the heap's once all checks have passed.
static lod_status begin(lod_plan *draft, lod_plan_kind kind, unsigned threads, lod_plan **plan, lod_error *err) {
    if (!plan) return lod_fail(err, LOD_BAD_ARGUMENT, "plan", "is NULL");
    *plan = NULL;
    if (threads > MAX_THREADS) {
        return lod_fail(err, LOD_BAD_ARGUMENT, "threads", "%u is above %d", threads, MAX_THREADS);
    }
    *draft = (lod_plan){.kind = kind, .threads = threads ? threads : lod_default_threads()};
    return lod_isa_in_use(&draft->isa, NULL, err);
}

static lod_status finish(const lod_plan *draft, lod_plan **plan, lod_error *err) {
    *plan = malloc(sizeof **plan);
    if (!*plan) return lod_fail(err, LOD_NO_MEMORY, "plan", "%zu bytes were not to be had", sizeof **plan);
    **plan = *draft;
    (*plan)->workspace = lod_round_up(draft->workspace, 64);
    return LOD_OK;
}

static lod_status check_rigor(lod_rigor rigor, lod_error *err) {
    if (rigor != LOD_ESTIMATE) return lod_fail(err, LOD_BAD_ARGUMENT, "rigor", "%d is unknown", (int)rigor);
    return LOD_OK;
}

lod_status lod_plan_lowrank(const lod_lowrank_shape *shape, unsigned threads, lod_rigor rigor, lod_plan **plan,
                            lod_error *err) {
    lod_plan draft;
    LOD_TRY(begin(&draft, LOD_PLAN_LOWRANK, threads, plan, err));
    LOD_TRY(check_rigor(rigor, err));
    LOD_TRY(check_dimension(shape->n_in, "n_in", err));
    LOD_TRY(check_dimension(shape->n_out, "n_out", err));
    LOD_TRY(check_dimension(shape->tokens, "tokens", err));
    if (shape->rank > LOD_RANK_MAX) {
        return lod_fail(err, LOD_BAD_ARGUMENT, "rank", "%zu is above %d", shape->rank, LOD_RANK_MAX);
    }
    size_t depth = shape->n_in > shape->n_out ? shape->n_in : shape->n_out;
    draft.shape.lowrank = *shape;
    draft.tile = lod_kernel_find(LOD_OP_lowrank_tile_f32, draft.isa);
    draft.blocks = lod_estimate_blocks(draft.tile, shape->tokens, depth);
    draft.workspace = lod_lowrank_workspace(&draft);
    return finish(&draft, plan, err);
}

lod_status lod_plan_attention(const lod_attention_shape *shape, unsigned threads, lod_rigor rigor, lod_plan **plan,
                              lod_error *err) {
    lod_plan draft;
    LOD_TRY(begin(&draft, LOD_PLAN_ATTENTION, threads, plan, err));
    LOD_TRY(check_rigor(rigor, err));
    LOD_TRY(check_dimension(shape->heads, "heads", err));
    LOD_TRY(check_dimension(shape->kv_heads, "kv_heads", err));
    LOD_TRY(check_dimension(shape->keys, "keys", err));
    if (shape->heads % shape->kv_heads) {
        return lod_fail(err, LOD_BAD_ARGUMENT, "kv_heads", "%zu does not divide heads %zu", shape->kv_heads,
                        shape->heads);
    }
    if (shape->head_dim == 0 || shape->head_dim % 8 || shape->head_dim > LOD_HEAD_DIM_MAX) {
        return lod_fail(err, LOD_BAD_ARGUMENT, "head_dim", "%zu is not a multiple of 8 in 8..%d", shape->head_dim,
                        LOD_HEAD_DIM_MAX);
    }
    draft.shape.attention = *shape;
    if (!shape->queries) draft.shape.attention.queries = shape->keys;
    LOD_TRY(check_dimension(draft.shape.attention.queries, "queries", err));
    draft.tile = lod_kernel_find(LOD_OP_attention_tile_f32, draft.isa);
    draft.query_block = lod_estimate_query_block(draft.tile);
    draft.workspace = lod_attention_workspace(&draft);
    return finish(&draft, plan, err);
}

lod_status lod_plan_loss(const lod_loss_shape *shape, unsigned threads, lod_rigor rigor, lod_plan **plan,
                         lod_error *err) {
    lod_plan draft;
    LOD_TRY(begin(&draft, LOD_PLAN_LOSS, threads, plan, err));
    LOD_TRY(check_rigor(rigor, err));
    LOD_TRY(check_dimension(shape->n_in, "n_in", err));
    LOD_TRY(check_dimension(shape->vocabulary, "vocabulary", err));
    LOD_TRY(check_dimension(shape->tokens, "tokens", err));
    size_t depth = shape->n_in > shape->vocabulary ? shape->n_in : shape->vocabulary;
    draft.shape.loss = *shape;
    draft.tile = lod_kernel_find(LOD_OP_lowrank_tile_f32, draft.isa);
    draft.chunk = lod_estimate_loss_chunk(shape->vocabulary, shape->tokens);
    draft.blocks = lod_estimate_blocks(draft.tile, draft.chunk, depth);
    draft.workspace = lod_loss_workspace(&draft);
    return finish(&draft, plan, err);
}

lod_status lod_plan_rowwise(unsigned threads, lod_plan **plan, lod_error *err) {
    lod_plan draft;
    LOD_TRY(begin(&draft, LOD_PLAN_ROWWISE, threads, plan, err));
    return finish(&draft, plan, err);
}

void lod_plan_free(lod_plan *plan) {
    free(plan);
}

size_t lod_plan_workspace(const lod_plan *plan) {
    return plan->workspace;
}

void lod_plan_describe(const lod_plan *plan, char *text, size_t size) {
    if (plan->kind == LOD_PLAN_ATTENTION) {
        snprintf(text, size, "%s %ux%u queries %zu threads %u", lod_isa_text(plan->isa), plan->tile->mr, plan->tile->nr,
                 plan->query_block, plan->threads);
    } else if (plan->tile) {
        snprintf(text, size, "%s %ux%u mc %zu kc %zu threads %u", lod_isa_text(plan->isa), plan->tile->mr,
                 plan->tile->nr, plan->blocks.mc, plan->blocks.kc, plan->threads);
    } else {
        snprintf(text, size, "%s threads %u", lod_isa_text(plan->isa), plan->threads);
    }
}

lod_status lod_plan_check(const lod_plan *plan, lod_plan_kind kind, lod_error *err) {
    static const char *const kinds[] = {"lowrank", "attention", "loss", "rowwise"};
    if (!plan) return lod_fail(err, LOD_BAD_ARGUMENT, "plan", "is NULL");
    if (plan->kind != kind) {
        return lod_fail(err, LOD_BAD_ARGUMENT, "plan", "is for %s, not for %s", kinds[plan->kind], kinds[kind]);
    }
    return LOD_OK;
}
