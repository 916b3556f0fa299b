// Plans: shapes are checked here once, so that calls need only check what changes between them.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plan.h"

enum { COPY_FLOATS = 1 << 21 }; // of X at a time, more than the largest block has: there is workspace for them
enum { MAX_DIMENSION = 1 << 28, MAX_THREADS = 1024 };

static lod_status check_dimension(size_t value, const char *field, lod_error *err) {
    if (value == 0 || value > MAX_DIMENSION) {
        return lod_fail(err, LOD_BAD_ARGUMENT, field, "%zu is not in 1..%d", value, MAX_DIMENSION);
    }
    return LOD_OK;
}

// Fills what every plan has; the caller's stack copy becomes the heap's once all is checked and chosen.
static lod_status begin(lod_plan *draft, lod_plan_kind kind, unsigned threads, lod_plan **plan, lod_error *err) {
    if (!plan) return lod_fail(err, LOD_BAD_ARGUMENT, "plan", "is NULL");
    *plan = NULL;
    if (threads > MAX_THREADS) {
        return lod_fail(err, LOD_BAD_ARGUMENT, "threads", "%u is above %d", threads, MAX_THREADS);
    }
    *draft = (lod_plan){.kind = kind, .threads = threads ? threads : lod_default_threads()};
    lod_parallel_fit_quota();
    return lod_isa_in_use(&draft->isa, NULL, err);
}

lod_product_shape lod_product_shape_of(const lod_plan *plan, bool forward) {
    const lod_lowrank_shape *layer = &plan->shape.lowrank;
    const lod_loss_shape *loss = &plan->shape.loss;
    lod_product_shape p = {.tokens = layer->tokens, .depth = layer->n_in, .n = layer->n_out};
    if (plan->kind == LOD_PLAN_LOSS) {
        p = (lod_product_shape){.tokens = plan->chunk, .depth = loss->n_in, .n = loss->vocabulary};
    }
    return forward ? p : (lod_product_shape){.tokens = p.tokens, .depth = p.n, .n = p.depth};
}

// `count` cut into equal blocks of at most `block`, rounded up to `unit`, rather than whole ones and a short last one.
static size_t even_blocks(size_t count, size_t block, size_t unit) {
    return lod_round_up(lod_div_up(count, lod_div_up(count, block)), unit);
}

bool lod_same_blocks(const lod_blocks *a, const lod_blocks *b) {
    return a->tile == b->tile && a->mc == b->mc && a->nc == b->nc && a->kc == b->kc && a->cut_tokens == b->cut_tokens;
}

bool lod_same_choice(const lod_choice *a, const lod_choice *b) {
    return lod_same_blocks(&a->forward, &b->forward) && lod_same_blocks(&a->backward, &b->backward) &&
           a->tile == b->tile && a->query_block == b->query_block;
}

lod_blocks lod_fit_blocks(lod_blocks ceilings, const lod_product_shape *product) {
    lod_blocks fit = ceilings;
    fit.mc = even_blocks(product->tokens, ceilings.mc, ceilings.tile->mr);
    fit.kc = even_blocks(product->depth, ceilings.kc, LOD_PANEL);
    fit.nc = ceilings.nc ? even_blocks(product->n, ceilings.nc, lod_strip_width(&ceilings)) : 0;
    const size_t together = ceilings.nc ? COPY_FLOATS / (fit.mc * fit.kc) : 1; // k blocks
    fit.kd = even_blocks(product->depth, fit.kc * together, fit.kc);
    return fit;
}

void lod_plan_settle(lod_plan *plan) {
    if (plan->kind == LOD_PLAN_ATTENTION) {
        plan->workspace = lod_round_up(lod_attention_workspace(plan), 64);
        return;
    }
    const lod_product_shape forward = lod_product_shape_of(plan, true), backward = lod_product_shape_of(plan, false);
    plan->choice.forward = lod_fit_blocks(plan->choice.forward, &forward);
    plan->choice.backward = lod_fit_blocks(plan->choice.backward, &backward);
    bool layer = plan->kind == LOD_PLAN_LOWRANK;
    plan->workspace = lod_round_up(layer ? lod_lowrank_workspace(plan) : lod_loss_workspace(plan), 64);
}

// What is known by measurement, else what is measured now, else the estimate.
static lod_status choose(lod_plan *draft, lod_rigor rigor, lod_error *err) {
    if ((unsigned)rigor > LOD_WISDOM_ONLY) {
        return lod_fail(err, LOD_BAD_ARGUMENT, "rigor", "%d is unknown", (int)rigor);
    }
    if (draft->kind == LOD_PLAN_LOSS) {
        draft->chunk = lod_estimate_loss_chunk(draft->shape.loss.vocabulary, draft->shape.loss.tokens);
    }
    if (!lod_wisdom_find(draft, rigor)) {
        if (rigor == LOD_WISDOM_ONLY) {
            char key[LOD_KEY_SIZE];
            lod_plan class = lod_plan_class(draft);
            lod_plan_key(&class, key);
            return lod_fail(err, LOD_NO_WISDOM, "rigor", "nothing was measured for %s", key);
        }
        lod_estimate(draft);
        if (rigor != LOD_ESTIMATE) LOD_TRY(lod_search(draft, rigor, err));
    }
    lod_plan_settle(draft);
    return LOD_OK;
}

static lod_status finish(lod_plan *draft, lod_rigor rigor, lod_plan **plan, lod_error *err) {
    LOD_TRY(lod_plan_check_shape(draft, err));
    if (draft->kind != LOD_PLAN_ROWWISE) LOD_TRY(choose(draft, rigor, err));
    *plan = malloc(sizeof **plan);
    if (!*plan) return lod_fail(err, LOD_NO_MEMORY, "plan", "%zu bytes were not to be had", sizeof **plan);
    **plan = *draft;
    return LOD_OK;
}

// --- Shapes ---

static lod_status check_lowrank(const lod_lowrank_shape *shape, lod_error *err) {
    LOD_TRY(check_dimension(shape->n_in, "n_in", err));
    LOD_TRY(check_dimension(shape->n_out, "n_out", err));
    LOD_TRY(check_dimension(shape->tokens, "tokens", err));
    if (shape->rank > LOD_RANK_MAX) {
        return lod_fail(err, LOD_BAD_ARGUMENT, "rank", "%zu is above %d", shape->rank, LOD_RANK_MAX);
    }
    return LOD_OK;
}

static lod_status check_attention(const lod_attention_shape *shape, lod_error *err) {
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
    return check_dimension(shape->queries, "queries", err);
}

static lod_status check_loss(const lod_loss_shape *shape, lod_error *err) {
    LOD_TRY(check_dimension(shape->n_in, "n_in", err));
    LOD_TRY(check_dimension(shape->vocabulary, "vocabulary", err));
    return check_dimension(shape->tokens, "tokens", err);
}

lod_status lod_plan_check_shape(const lod_plan *plan, lod_error *err) {
    switch (plan->kind) {
    case LOD_PLAN_LOWRANK:
        return check_lowrank(&plan->shape.lowrank, err);
    case LOD_PLAN_ATTENTION:
        return check_attention(&plan->shape.attention, err);
    case LOD_PLAN_LOSS:
        return check_loss(&plan->shape.loss, err);
    case LOD_PLAN_ROWWISE:
        break;
    }
    return LOD_OK;
}

// --- The public calls ---

lod_status lod_plan_lowrank(const lod_lowrank_shape *shape, unsigned threads, lod_rigor rigor, lod_plan **plan,
                            lod_error *err) {
    lod_plan draft;
    LOD_TRY(begin(&draft, LOD_PLAN_LOWRANK, threads, plan, err));
    draft.shape.lowrank = *shape;
    return finish(&draft, rigor, plan, err);
}

lod_status lod_plan_attention(const lod_attention_shape *shape, unsigned threads, lod_rigor rigor, lod_plan **plan,
                              lod_error *err) {
    lod_plan draft;
    LOD_TRY(begin(&draft, LOD_PLAN_ATTENTION, threads, plan, err));
    draft.shape.attention = *shape;
    if (!shape->queries) draft.shape.attention.queries = shape->keys;
    return finish(&draft, rigor, plan, err);
}

lod_status lod_plan_loss(const lod_loss_shape *shape, unsigned threads, lod_rigor rigor, lod_plan **plan,
                         lod_error *err) {
    lod_plan draft;
    LOD_TRY(begin(&draft, LOD_PLAN_LOSS, threads, plan, err));
    draft.shape.loss = *shape;
    return finish(&draft, rigor, plan, err);
}

lod_status lod_plan_rowwise(unsigned threads, lod_plan **plan, lod_error *err) {
    lod_plan draft;
    LOD_TRY(begin(&draft, LOD_PLAN_ROWWISE, threads, plan, err));
    return finish(&draft, LOD_ESTIMATE, plan, err);
}

void lod_plan_free(lod_plan *plan) {
    free(plan);
}

size_t lod_plan_workspace(const lod_plan *plan) {
    return plan->workspace;
}

void lod_print_sizes(const lod_blocks *b, char text[LOD_BLOCKS_TEXT]) {
    snprintf(text, LOD_BLOCKS_TEXT, "%ux%u mc %zu nc %zu kc %zu", b->tile->mr, b->tile->nr, b->mc, b->nc, b->kc);
}

void lod_plan_describe(const lod_plan *plan, char *text, size_t size) {
    const lod_choice *c = &plan->choice;
    const char *isa = lod_isa_text(plan->isa);
    char forward[LOD_BLOCKS_TEXT], backward[LOD_BLOCKS_TEXT];
    if (plan->kind == LOD_PLAN_ATTENTION) {
        snprintf(text, size, "%s %ux%u queries %zu threads %u", isa, c->tile->mr, c->tile->nr, c->query_block,
                 plan->threads);
    } else if (plan->kind == LOD_PLAN_ROWWISE) {
        snprintf(text, size, "%s threads %u", isa, plan->threads);
    } else {
        lod_print_sizes(&c->forward, forward);
        lod_print_sizes(&c->backward, backward);
        bool same = strcmp(forward, backward) == 0;
        snprintf(text, size, "%s %s%s%s threads %u", isa, forward, same ? "" : " back ", same ? "" : backward,
                 plan->threads);
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
