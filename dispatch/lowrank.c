// Low-rank linear layers, from the user's matrices to kernel calls.
//
// forward:   masks and U by token groups, Y = mB (U B') + X W' in one product.
// backward:  masks and dU by token groups, dX = (M inv, or mA) (dU A) + dY W in one product; leaves of dA and dB'.
#include "lowrank.h"
#include "product.h"

// A row of bits is long enough for the columns of either side.
static size_t keep_row_bytes(const lod_lowrank_shape *shape) {
    return lod_round_up(shape->n_in > shape->n_out ? shape->n_in : shape->n_out, 128) / 8;
}

static size_t keep_bytes(const lod_lowrank_shape *shape) {
    return shape->rank ? lod_round_up(shape->tokens * keep_row_bytes(shape), 64) : 0;
}

static size_t columns_bytes(const lod_lowrank_shape *shape) {
    return shape->rank ? LOD_INSTANCES * keep_row_bytes(shape) : 0;
}

static size_t du_bytes(const lod_lowrank_shape *shape) {
    return lod_round_up(shape->tokens * shape->rank * sizeof(float), 64);
}

// Scratch is the product's, or leaves of gradients (after it).
size_t lod_lowrank_workspace(const lod_plan *plan) {
    const lod_lowrank_shape *shape = &plan->shape.lowrank;
    size_t scratch = lod_product_workspace(plan), leaves = lod_lowrank_leaves_bytes(plan);
    if (scratch < leaves) scratch = leaves;
    return keep_bytes(shape) + 2 * columns_bytes(shape) + du_bytes(shape) + lod_lowrank_rows_bytes(shape) + scratch;
}

static void lay_out(lod_lowrank_call *c, uint8_t *workspace) {
    const lod_lowrank_shape *shape = &c->plan->shape.lowrank;
    const uint32_t selects = c->threshold | (c->backward ? c->a : c->b).threshold;
    c->ldkeep = keep_row_bytes(shape);
    c->keep = selects ? workspace : NULL;
    c->a.bits = workspace + keep_bytes(shape);
    c->b.bits = c->a.bits + columns_bytes(shape);
    c->du = (float *)(c->b.bits + columns_bytes(shape));
    c->rows = c->du + du_bytes(shape) / sizeof(float);
    c->scratch = c->rows + lod_lowrank_rows_bytes(shape) / sizeof(float);
}

// --- Checks ---

// Column masks of an adapter matrix.
static lod_status check_columns(const lod_dropout *dropout, const char *field, lod_columns *columns, float *inv,
                                lod_error *err) {
    lod_error inner;
    lod_status status = lod_dropout_check(dropout, &columns->threshold, inv, &inner);
    if (status != LOD_OK) return lod_fail(err, status, field, "%.30s: %.140s", inner.field, inner.text);
    if (!columns->threshold) return LOD_OK;
    if (dropout->pattern != LOD_PATTERN_COLUMN) {
        return lod_fail(err, LOD_BAD_ARGUMENT, field, "drops whole columns of A and rows of B only");
    }
    if (dropout->compensation > LOD_COMPENSATION_INVERTED) {
        return lod_fail(err, LOD_BAD_ARGUMENT, field, "has no compensation but inverted");
    }
    return LOD_OK;
}

static lod_status check_dropouts(lod_lowrank_call *c, lod_error *err) {
    const lod_lowrank_args *a = c->args;
    float inv_a, inv_b;
    LOD_DEFAULT_FP;
    LOD_TRY(lod_dropout_check(&a->dropout, &c->threshold, &c->inv, err));
    if (a->dropout.pattern != LOD_PATTERN_ELEMENT) {
        return lod_fail(err, LOD_BAD_ARGUMENT, "dropout", "the input of a low-rank layer has element masks only");
    }
    if (a->dropout.compensation > LOD_COMPENSATION_INVERTED) {
        return lod_fail(err, LOD_BAD_ARGUMENT, "dropout", "a low-rank layer has no compensation but inverted");
    }
    LOD_TRY(check_columns(&a->lora_a, "lora_a", &c->a, &inv_a, err));
    LOD_TRY(check_columns(&a->lora_b, "lora_b", &c->b, &inv_b, err));
    if (c->threshold && (c->a.threshold || c->b.threshold)) {
        return lod_fail(err, LOD_BAD_ARGUMENT, "dropout", "masks of the input do not go with lora_a and lora_b");
    }
    c->scale = a->scale * inv_a * inv_b;
    return LOD_OK;
}

static lod_status check_adapter(const lod_lowrank_call *c, lod_error *err) {
    const lod_lowrank_args *a = c->args;
    if (!a->a) return lod_fail(err, LOD_BAD_ARGUMENT, "a", "is NULL");
    if (!a->bt) return lod_fail(err, LOD_BAD_ARGUMENT, "bt", "is NULL");
    if (!a->u) return lod_fail(err, LOD_BAD_ARGUMENT, "u", "is NULL");
    if (!c->backward) return LOD_OK;
    if (a->da) LOD_TRY(lod_check_matrix(a->x, a->ldx, c->plan->shape.lowrank.n_in, "x", err));
    return lod_lowrank_check_sums(c, err);
}

// Checks the arguments and lays out the workspace.
static lod_status begin(lod_lowrank_call *c, const lod_plan *plan, const lod_lowrank_args *a, bool backward,
                        void *workspace, lod_error *err) {
    LOD_TRY(lod_plan_check(plan, LOD_PLAN_LOWRANK, err));
    const lod_lowrank_shape *shape = &plan->shape.lowrank;
    if (a->rank > shape->rank) {
        return lod_fail(err, LOD_BAD_ARGUMENT, "rank", "%zu is above the plan's %zu", a->rank, shape->rank);
    }
    *c = (lod_lowrank_call){.plan = plan, .args = a, .backward = backward, .inv = 1};
    if (a->rank) LOD_TRY(check_dropouts(c, err));
    LOD_TRY(lod_rows_check(&a->rows, c->threshold > 0, "rows", err));
    c->tokens = a->rows.start[a->rows.count];
    if (c->tokens > shape->tokens) {
        return lod_fail(err, LOD_BAD_ARGUMENT, "rows", "%zu tokens are above the plan's %zu", c->tokens, shape->tokens);
    }
    LOD_TRY(lod_check_weight(&a->w, err));
    LOD_TRY(lod_check_aligned(workspace, "workspace", err));
    if (a->rank) LOD_TRY(check_adapter(c, err));
    lay_out(c, workspace);
    return LOD_OK;
}

// --- The two calls ---

lod_status lod_lowrank_forward(const lod_plan *plan, const lod_lowrank_args *a, void *workspace, lod_error *err) {
    lod_lowrank_call c;
    LOD_TRY(begin(&c, plan, a, false, workspace, err));
    const lod_lowrank_shape *shape = &plan->shape.lowrank;
    LOD_TRY(lod_check_matrix(a->x, a->ldx, shape->n_in, "x", err));
    LOD_TRY(lod_check_matrix(a->y, a->ldy, shape->n_out, "y", err));
    const bool left = a->rank && lod_lowrank_rank(&c, true);
    lod_product_run(&(lod_product){.plan = plan, .tokens = c.tokens, .x = a->x, .ldx = a->ldx, .w = a->w,
                                   .n_in = shape->n_in, .n_out = shape->n_out, .transposed = true, .r = a->rank,
                                   .u = a->u, .b = a->bt, .keep = c.b.threshold ? c.keep : NULL, .ldkeep = c.ldkeep,
                                   .inv = 1, .c = a->y, .ldc = a->ldy, .before = left ? lod_lowrank_rank_tokens : NULL,
                                   .before_context = &c, .workspace = c.scratch});
    return LOD_OK;
}

lod_status lod_lowrank_backward(const lod_plan *plan, const lod_lowrank_args *a, void *workspace, lod_error *err) {
    lod_lowrank_call c;
    LOD_TRY(begin(&c, plan, a, true, workspace, err));
    const lod_lowrank_shape *shape = &plan->shape.lowrank;
    LOD_TRY(lod_check_matrix(a->dy, a->lddy, shape->n_out, "dy", err));
    if (a->dx) LOD_TRY(lod_check_matrix(a->dx, a->lddx, shape->n_in, "dx", err));
    const bool left = a->rank && lod_lowrank_rank(&c, a->dx != NULL);
    if (a->dx) {
        lod_product_run(&(lod_product){.plan = plan, .tokens = c.tokens, .x = a->dy, .ldx = a->lddy, .w = a->w,
                                       .n_in = shape->n_in, .n_out = shape->n_out, .r = a->rank, .u = c.du, .b = a->a,
                                       .keep = c.keep, .ldkeep = c.ldkeep, .inv = c.inv, .c = a->dx, .ldc = a->lddx,
                                       .before = left ? lod_lowrank_rank_tokens : NULL, .before_context = &c,
                                       .workspace = c.scratch});
    }
    if (a->rank) lod_lowrank_gradients(&c);
    return LOD_OK;
}
