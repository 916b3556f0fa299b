// Phase 3 of a low-rank layer's backward pass: leaves of dA and dB' by column blocks, a leaf per segment, straight into
// the caller's sums.
#include "lowrank.h"

enum {
    GRAD_COLUMNS = 512, // most of a block
    GRAD_GRAIN = 64,
    LEAF_LD = GRAD_COLUMNS + 16, // no power of two, which would put the rows of a leaf into one cache set
};

// One adapter matrix's gradient: leaf = scale S' (M X) over the tokens of a segment.
typedef struct grad {
    const lod_lowrank_call *call;
    lod_grad_sum *sums; // one, or one for each instance
    size_t n;
    const float *s; // [tokens][rank]
    const float *x; // [tokens][n]
    size_t ldx;
    const uint8_t *keep;
    const lod_columns *columns;
    float scale;
} grad;

// Which of the sums a segment's leaf joins.
static size_t sum_of(const lod_lowrank_args *args, size_t segment) {
    return args->instances ? lod_instance(&args->rows, segment) : 0;
}

static void grad_columns(const grad *g, size_t column, size_t width, float *leaf) {
    const lod_lowrank_call *c = g->call;
    const lod_rows *rows = &c->args->rows;
    const size_t rank = c->args->rank;
    const lod_kernel *kernel = lod_kernel_find(LOD_OP_rank_grad_f32, c->plan->isa);
    uint64_t pushed[LOD_INSTANCES] = {0};
    for (size_t i = 0; i < rows->count; i++) {
        size_t t = rows->start[i], k = sum_of(c->args, i);
        kernel->fn.rank_grad_f32(&(lod_rank_grad_args){
            .tokens = rows->start[i + 1] - t, .n = width, .r = rank, .s = g->s + t * rank, .lds = rank,
            .x = g->x + t * g->ldx + column, .ldx = g->ldx, .keep = g->keep ? g->keep + t * c->ldkeep : NULL,
            .ldkeep = c->ldkeep, .keep_col = column, .scale = g->scale, .g = leaf, .ldg = LEAF_LD,
            .columns = g->columns->threshold ? g->columns->bits + lod_instance(rows, i) * c->ldkeep : NULL});
        lod_grad_sum *sum = &g->sums[k];
        lod_grad_sum_push(sum, sum->count + pushed[k]++, leaf, rank, width, LEAF_LD, column, g->n);
    }
}

typedef struct grad_phase {
    const lod_lowrank_call *call;
    grad grads[2];
    size_t count, workers;
} grad_phase;

// Worker w takes every workers-th column block of all the gradients: as many of each as the others.
static void grad_worker(void *context, size_t worker) {
    const grad_phase *phase = context;
    float *leaf = phase->call->scratch + worker * phase->call->args->rank * LEAF_LD;
    size_t block = 0;
    for (size_t i = 0; i < phase->count; i++) {
        const size_t n = phase->grads[i].n, blocks = lod_round_up(lod_div_up(n, GRAD_COLUMNS), phase->workers);
        const size_t width = lod_round_up(lod_div_up(n, blocks), GRAD_GRAIN);
        for (size_t column = 0; column < n; column += width, block++) {
            if (block % phase->workers == worker) {
                grad_columns(&phase->grads[i], column, lod_min(width, n - column), leaf);
            }
        }
    }
}

size_t lod_lowrank_leaves_bytes(const lod_plan *plan) {
    return plan->threads * plan->shape.lowrank.rank * LEAF_LD * sizeof(float);
}

void lod_lowrank_gradients(const lod_lowrank_call *c) {
    const lod_lowrank_args *a = c->args;
    const lod_lowrank_shape *shape = &c->plan->shape.lowrank;
    grad_phase phase = {.call = c, .workers = c->plan->threads};
    if (a->da) {
        phase.grads[phase.count++] =
            (grad){.call = c, .sums = a->da, .n = shape->n_in, .s = c->du, .x = a->x, .ldx = a->ldx,
                   .keep = c->threshold ? c->keep : NULL, .columns = &c->a, .scale = c->inv};
    }
    if (a->dbt) {
        phase.grads[phase.count++] = (grad){.call = c, .sums = a->dbt, .n = shape->n_out, .s = a->u, .x = a->dy,
                                            .ldx = a->lddy, .columns = &c->b, .scale = 1};
    }
    lod_parallel(c->plan->threads, phase.workers, grad_worker, &phase);
    for (size_t i = 0; i < phase.count; i++) {
        for (size_t j = 0; j < a->rows.count; j++) phase.grads[i].sums[sum_of(a, j)].count++;
    }
}

// --- Checks ---

static lod_status check_sum(const lod_grad_sum *sum, size_t size, uint64_t leaves, const char *field, lod_error *err) {
    if (sum->size != size) return lod_fail(err, LOD_BAD_ARGUMENT, field, "holds %zu floats, not %zu", sum->size, size);
    if (sum->levels < 64 && (sum->count + leaves) >> sum->levels) {
        return lod_fail(err, LOD_BAD_ARGUMENT, field, "has no room for %llu more leaves", (unsigned long long)leaves);
    }
    return LOD_OK;
}

lod_status lod_lowrank_check_sums(const lod_lowrank_call *c, lod_error *err) {
    const lod_lowrank_args *a = c->args;
    const lod_lowrank_shape *shape = &c->plan->shape.lowrank;
    uint64_t leaves[LOD_INSTANCES] = {0};
    if (a->instances > LOD_INSTANCES) {
        return lod_fail(err, LOD_BAD_ARGUMENT, "instances", "%zu is above %d", a->instances, LOD_INSTANCES);
    }
    for (size_t i = 0; i < a->rows.count; i++) {
        if (a->instances && lod_instance(&a->rows, i) >= a->instances) {
            return lod_fail(err, LOD_BAD_ARGUMENT, "rows", "instance[%zu] is %u, there are sums for %zu", i,
                            (unsigned)lod_instance(&a->rows, i), a->instances);
        }
        leaves[sum_of(a, i)]++;
    }
    for (size_t k = 0; k < (a->instances ? a->instances : 1); k++) {
        if (a->da) LOD_TRY(check_sum(&a->da[k], a->rank * shape->n_in, leaves[k], "da", err));
        if (a->dbt) LOD_TRY(check_sum(&a->dbt[k], a->rank * shape->n_out, leaves[k], "dbt", err));
    }
    return LOD_OK;
}
