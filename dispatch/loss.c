// Softmax cross-entropy of H W', a chunk of tokens at a time: logits of the chunk, loss and gradient in place, dH.
#include "product.h"

enum { ROW_PAD = 16 };

// Logits' leading dimension: whole vectors, and no power of two.
static size_t logits_ld(size_t vocabulary) {
    return lod_round_up(vocabulary, ROW_PAD) + ROW_PAD;
}

static size_t logits_floats(const lod_plan *plan) {
    return lod_round_up(plan->chunk * logits_ld(plan->shape.loss.vocabulary), 16);
}

size_t lod_loss_workspace(const lod_plan *plan) {
    return logits_floats(plan) * sizeof(float) + lod_product_workspace(plan);
}

typedef struct chunk {
    const lod_plan *plan;
    const lod_loss_args *args;
    size_t first;
    float *logits;
} chunk;

static void one_row(void *context, size_t i) {
    const chunk *c = context;
    const size_t vocabulary = c->plan->shape.loss.vocabulary, ldz = logits_ld(vocabulary), t = c->first + i;
    lod_kernel_find(LOD_OP_xent_f32, c->plan->isa)->fn.xent_f32(&(lod_xent_kernel_args){
        .rows = 1, .n = vocabulary, .z = c->logits + i * ldz, .ldz = ldz, .target = c->args->target + t,
        .loss = c->args->loss + t, .gradient = c->args->dh != NULL});
}

static lod_status check(const lod_plan *plan, const lod_loss_args *a, const void *workspace, lod_error *err) {
    LOD_TRY(lod_plan_check(plan, LOD_PLAN_LOSS, err));
    const lod_loss_shape *shape = &plan->shape.loss;
    if (a->tokens > shape->tokens) {
        return lod_fail(err, LOD_BAD_ARGUMENT, "tokens", "%zu is above the plan's %zu", a->tokens, shape->tokens);
    }
    LOD_TRY(lod_check_matrix(a->h, a->ldh, shape->n_in, "h", err));
    LOD_TRY(lod_check_weight(&a->w, err));
    if (!a->loss) return lod_fail(err, LOD_BAD_ARGUMENT, "loss", "is NULL");
    if (a->dh) LOD_TRY(lod_check_matrix(a->dh, a->lddh, shape->n_in, "dh", err));
    if (!a->target) return lod_fail(err, LOD_BAD_ARGUMENT, "target", "is NULL");
    for (size_t t = 0; t < a->tokens; t++) {
        if (a->target[t] >= shape->vocabulary) {
            return lod_fail(err, LOD_BAD_ARGUMENT, "target", "target[%zu] = %u is not below the vocabulary %zu", t,
                            a->target[t], shape->vocabulary);
        }
    }
    return lod_check_aligned(workspace, "workspace", err);
}

lod_status lod_loss(const lod_plan *plan, const lod_loss_args *a, void *workspace, lod_error *err) {
    LOD_TRY(check(plan, a, workspace, err));
    const lod_loss_shape *shape = &plan->shape.loss;
    const size_t ldz = logits_ld(shape->vocabulary);
    chunk c = {.plan = plan, .args = a, .logits = workspace};
    for (; c.first < a->tokens; c.first += plan->chunk) {
        size_t count = lod_min(plan->chunk, a->tokens - c.first);
        lod_product product = {.plan = plan, .tokens = count, .x = a->h + c.first * a->ldh, .ldx = a->ldh, .w = a->w,
                               .n_in = shape->n_in, .n_out = shape->vocabulary, .transposed = true, .c = c.logits,
                               .ldc = ldz, .workspace = c.logits + logits_floats(plan)};
        lod_product_run(&product);
        lod_parallel(plan->threads, count, one_row, &c);
        if (!a->dh) continue;
        product.transposed = false;
        product.x = c.logits, product.ldx = ldz;
        product.c = a->dh + c.first * a->lddh, product.ldc = a->lddh;
        lod_product_run(&product);
    }
    return LOD_OK;
}
