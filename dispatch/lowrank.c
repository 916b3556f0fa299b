// Low-rank linear layers, from the user's matrices to kernel calls.
//
// forward:   masks and U by token groups; then Y = U B' + X W' in one product.
// backward:  masks and dU by token groups; dX = (M inv) (dU A) + dY W in one product; leaves of dA and dB' by column
//            blocks, a leaf per segment, straight into the caller's sums.
#include <string.h>

#include "philox.h"
#include "product.h"

enum { GROUP_TOKENS = 48, GRAD_COLUMNS = 128 }; // whole tiles of 3 and of 4 tokens

// One call, with what its checks derived.
typedef struct call {
    const lod_plan *plan;
    const lod_lowrank_args *args;
    size_t tokens;
    bool backward;
    uint32_t threshold;
    float inv;
    uint8_t *keep; // [tokens][ldkeep] bits, NULL where nothing is dropped
    size_t ldkeep;
    float *du;      // [tokens][rank]
    float *rows;    // [rank][ldrows]: A, backward B', at a distance that is no power of two
    size_t ldrows;
    float *scratch; // the rest of the workspace
} call;

static size_t keep_row_bytes(size_t n_in) {
    return lod_round_up(n_in, 128) / 8;
}

static size_t keep_bytes(const lod_lowrank_shape *shape) {
    return shape->rank ? lod_round_up(shape->tokens * keep_row_bytes(shape->n_in), 64) : 0;
}

static size_t du_bytes(const lod_lowrank_shape *shape) {
    return lod_round_up(shape->tokens * shape->rank * sizeof(float), 64);
}

// The distance of copied rows of A or B': an odd number of cache lines.
static size_t padded(size_t n) {
    return lod_round_up(n, 32) + 16;
}

static size_t rows_bytes(const lod_lowrank_shape *shape) {
    return shape->rank * padded(shape->n_in > shape->n_out ? shape->n_in : shape->n_out) * sizeof(float);
}

// Scratch is the product's, or the copied rows (before it), or leaves of gradients (after it).
size_t lod_lowrank_workspace(const lod_plan *plan) {
    const lod_lowrank_shape *shape = &plan->shape.lowrank;
    size_t scratch = lod_product_workspace(plan), rows = rows_bytes(shape);
    size_t leaves = plan->threads * shape->rank * GRAD_COLUMNS * sizeof(float);
    if (scratch < rows) scratch = rows;
    if (scratch < leaves) scratch = leaves;
    return keep_bytes(shape) + du_bytes(shape) + scratch;
}

// --- Phase 1: masks, and U or dU, for one group of tokens ---

static void draw_masks(const call *c, size_t begin, size_t end) {
    const lod_rows *rows = &c->args->rows;
    const lod_kernel *kernel = lod_kernel_find(LOD_OP_keep_bits, c->plan->isa);
    for (size_t i = 0; i < rows->count; i++) {
        size_t first = rows->start[i] > begin ? rows->start[i] : begin, last = lod_min(rows->start[i + 1], end);
        if (first >= last) continue;
        uint32_t instance = rows->instance ? rows->instance[i] : 0;
        kernel->fn.keep_bits(&(lod_keep_bits_args){
            .rows = last - first, .n = c->plan->shape.lowrank.n_in, .row0 = (uint32_t)(first - rows->start[i]),
            .seed = c->args->dropout.seed, .site = c->args->dropout.site | instance << LOD_SITE_INSTANCE_BIT,
            .draw = rows->draw[i], .threshold = c->threshold, .bits = c->keep + first * c->ldkeep,
            .ldbits = c->ldkeep});
    }
}

static void rank_group(void *context, size_t group) {
    const call *c = context;
    const lod_lowrank_args *a = c->args;
    const lod_lowrank_shape *shape = &c->plan->shape.lowrank;
    size_t t = group * GROUP_TOKENS, count = lod_min(GROUP_TOKENS, c->tokens - t);
    if (c->keep) draw_masks(c, t, t + count);
    lod_rank_dot_args dot = {.tokens = count, .r = a->rank, .a = c->rows, .lda = c->ldrows, .ldu = a->rank};
    if (c->backward) {
        dot.x = a->dy + t * a->lddy, dot.ldx = a->lddy, dot.n = shape->n_out;
        dot.scale = (float)a->scale;
        dot.u = c->du + t * a->rank;
    } else {
        dot.x = a->x + t * a->ldx, dot.ldx = a->ldx, dot.n = shape->n_in;
        dot.keep = c->keep ? c->keep + t * c->ldkeep : NULL, dot.ldkeep = c->ldkeep;
        dot.scale = (float)(a->scale * c->inv);
        dot.u = a->u + t * a->rank;
    }
    lod_kernel_find(LOD_OP_rank_dot_f32, c->plan->isa)->fn.rank_dot_f32(&dot);
}

static void copy_rows(call *c) {
    const float *from = c->backward ? c->args->bt : c->args->a;
    const size_t n = c->backward ? c->plan->shape.lowrank.n_out : c->plan->shape.lowrank.n_in;
    c->rows = c->scratch;
    c->ldrows = padded(n);
    for (size_t q = 0; q < c->args->rank; q++) memcpy(c->rows + q * c->ldrows, from + q * n, n * sizeof(float));
}

static void rank_phase(call *c) {
    if (!c->args->rank) return;
    copy_rows(c);
    lod_parallel(c->plan->threads, lod_div_up(c->tokens, GROUP_TOKENS), rank_group, c);
}

// --- Phase 3 of backward: leaves of dA and dB' ---

// One adapter matrix's gradient: leaf = scale S' (M X) over the tokens of a segment.
typedef struct grad {
    const call *call;
    lod_grad_sum *sum;
    size_t n;
    const float *s; // [tokens][rank]
    const float *x; // [tokens][n]
    size_t ldx;
    const uint8_t *keep;
    float scale;
} grad;

static void grad_columns(const grad *g, size_t column, float *leaf) {
    const call *c = g->call;
    const lod_rows *rows = &c->args->rows;
    const size_t rank = c->args->rank, width = lod_min(GRAD_COLUMNS, g->n - column);
    const lod_kernel *kernel = lod_kernel_find(LOD_OP_rank_grad_f32, c->plan->isa);
    for (size_t i = 0; i < rows->count; i++) {
        size_t t = rows->start[i];
        kernel->fn.rank_grad_f32(&(lod_rank_grad_args){
            .tokens = rows->start[i + 1] - t, .n = width, .r = rank, .s = g->s + t * rank, .lds = rank,
            .x = g->x + t * g->ldx + column, .ldx = g->ldx, .keep = g->keep ? g->keep + t * c->ldkeep : NULL,
            .ldkeep = c->ldkeep, .keep_col = column, .scale = g->scale, .g = leaf, .ldg = GRAD_COLUMNS});
        lod_grad_sum_push(g->sum, g->sum->count + i, leaf, rank, width, GRAD_COLUMNS, column, g->n);
    }
}

typedef struct grad_phase {
    const call *call;
    grad grads[2];
    size_t count, workers;
} grad_phase;

// Worker w takes every workers-th column block of all the gradients.
static void grad_worker(void *context, size_t worker) {
    const grad_phase *phase = context;
    float *leaf = phase->call->scratch + worker * phase->call->args->rank * GRAD_COLUMNS;
    size_t block = 0;
    for (size_t i = 0; i < phase->count; i++) {
        for (size_t column = 0; column < phase->grads[i].n; column += GRAD_COLUMNS, block++) {
            if (block % phase->workers == worker) grad_columns(&phase->grads[i], column, leaf);
        }
    }
}

static void run_gradients(call *c) {
    const lod_lowrank_args *a = c->args;
    const lod_lowrank_shape *shape = &c->plan->shape.lowrank;
    if (!a->rank) return;
    grad_phase phase = {.call = c, .workers = c->plan->threads};
    if (a->da) {
        phase.grads[phase.count++] = (grad){.call = c, .sum = a->da, .n = shape->n_in, .s = c->du, .x = a->x,
                                            .ldx = a->ldx, .keep = c->keep, .scale = c->inv};
    }
    if (a->dbt) {
        phase.grads[phase.count++] =
            (grad){.call = c, .sum = a->dbt, .n = shape->n_out, .s = a->u, .x = a->dy, .ldx = a->lddy, .scale = 1};
    }
    lod_parallel(c->plan->threads, phase.workers, grad_worker, &phase);
    for (size_t i = 0; i < phase.count; i++) phase.grads[i].sum->count += a->rows.count;
}

// --- Checks ---

static lod_status check_sum(const lod_grad_sum *sum, size_t size, uint64_t leaves, const char *field, lod_error *err) {
    if (!sum) return LOD_OK;
    if (sum->size != size) return lod_fail(err, LOD_BAD_ARGUMENT, field, "holds %zu floats, not %zu", sum->size, size);
    if (sum->levels < 64 && (sum->count + leaves) >> sum->levels) {
        return lod_fail(err, LOD_BAD_ARGUMENT, field, "has no room for %llu more leaves", (unsigned long long)leaves);
    }
    return LOD_OK;
}

static lod_status check_adapter(const call *c, lod_error *err) {
    const lod_lowrank_args *a = c->args;
    const lod_lowrank_shape *shape = &c->plan->shape.lowrank;
    if (a->dropout.pattern != LOD_PATTERN_ELEMENT) {
        return lod_fail(err, LOD_BAD_ARGUMENT, "dropout", "the input of a low-rank layer has element masks only");
    }
    if (a->dropout.compensation > LOD_COMPENSATION_INVERTED) {
        return lod_fail(err, LOD_BAD_ARGUMENT, "dropout", "a low-rank layer has no compensation but inverted");
    }
    if (!a->a) return lod_fail(err, LOD_BAD_ARGUMENT, "a", "is NULL");
    if (!a->bt) return lod_fail(err, LOD_BAD_ARGUMENT, "bt", "is NULL");
    if (!a->u) return lod_fail(err, LOD_BAD_ARGUMENT, "u", "is NULL");
    if (!c->backward) return LOD_OK;
    if (a->da) LOD_TRY(lod_check_matrix(a->x, a->ldx, shape->n_in, "x", err));
    LOD_TRY(check_sum(a->da, a->rank * shape->n_in, a->rows.count, "da", err));
    return check_sum(a->dbt, a->rank * shape->n_out, a->rows.count, "dbt", err);
}

// Checks the arguments and lays out the workspace.
static lod_status begin(call *c, const lod_plan *plan, const lod_lowrank_args *a, bool backward, void *workspace,
                        lod_error *err) {
    LOD_TRY(lod_plan_check(plan, LOD_PLAN_LOWRANK, err));
    const lod_lowrank_shape *shape = &plan->shape.lowrank;
    if (a->rank > shape->rank) {
        return lod_fail(err, LOD_BAD_ARGUMENT, "rank", "%zu is above the plan's %zu", a->rank, shape->rank);
    }
    *c = (call){.plan = plan, .args = a, .backward = backward, .inv = 1};
    if (a->rank) LOD_TRY(lod_dropout_check(&a->dropout, &c->threshold, &c->inv, err));
    LOD_TRY(lod_rows_check(&a->rows, c->threshold > 0, "rows", err));
    c->tokens = a->rows.start[a->rows.count];
    if (c->tokens > shape->tokens) {
        return lod_fail(err, LOD_BAD_ARGUMENT, "rows", "%zu tokens are above the plan's %zu", c->tokens, shape->tokens);
    }
    LOD_TRY(lod_check_weight(&a->w, err));
    LOD_TRY(lod_check_aligned(workspace, "workspace", err));
    if (a->rank) LOD_TRY(check_adapter(c, err));
    uint8_t *base = workspace;
    c->ldkeep = keep_row_bytes(shape->n_in);
    c->keep = c->threshold ? base : NULL;
    c->du = (float *)(base + keep_bytes(shape));
    c->scratch = (float *)(base + keep_bytes(shape) + du_bytes(shape));
    return LOD_OK;
}

// --- The two calls ---

lod_status lod_lowrank_forward(const lod_plan *plan, const lod_lowrank_args *a, void *workspace, lod_error *err) {
    call c;
    LOD_TRY(begin(&c, plan, a, false, workspace, err));
    const lod_lowrank_shape *shape = &plan->shape.lowrank;
    LOD_TRY(lod_check_matrix(a->x, a->ldx, shape->n_in, "x", err));
    LOD_TRY(lod_check_matrix(a->y, a->ldy, shape->n_out, "y", err));
    rank_phase(&c);
    lod_product_run(&(lod_product){.plan = plan, .tokens = c.tokens, .x = a->x, .ldx = a->ldx, .w = a->w,
                                   .n_in = shape->n_in, .n_out = shape->n_out, .transposed = true, .r = a->rank,
                                   .u = a->u, .b = a->bt, .c = a->y, .ldc = a->ldy, .workspace = c.scratch});
    return LOD_OK;
}

lod_status lod_lowrank_backward(const lod_plan *plan, const lod_lowrank_args *a, void *workspace, lod_error *err) {
    call c;
    LOD_TRY(begin(&c, plan, a, true, workspace, err));
    const lod_lowrank_shape *shape = &plan->shape.lowrank;
    LOD_TRY(lod_check_matrix(a->dy, a->lddy, shape->n_out, "dy", err));
    if (a->dx) LOD_TRY(lod_check_matrix(a->dx, a->lddx, shape->n_in, "dx", err));
    rank_phase(&c);
    if (a->dx) {
        lod_product_run(&(lod_product){.plan = plan, .tokens = c.tokens, .x = a->dy, .ldx = a->lddy, .w = a->w,
                                       .n_in = shape->n_in, .n_out = shape->n_out, .r = a->rank, .u = c.du, .b = a->a,
                                       .keep = c.keep, .ldkeep = c.ldkeep, .inv = c.inv, .c = a->dx, .ldc = a->lddx,
                                       .workspace = c.scratch});
    }
    run_gradients(&c);
    return LOD_OK;
}
