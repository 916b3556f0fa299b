// Softmax cross-entropy of H W', a chunk of tokens at a time: logits of the chunk, loss and gradient in place, dH. With
// consistency the logits of both branches stand side by side, and each worker has a row to itself.
#include <float.h>

#include "product.h"

enum { ROW_PAD = 16 };

// Logits' leading dimension: whole vectors, and no power of two.
static size_t logits_ld(size_t vocabulary) {
    return lod_round_up(vocabulary, ROW_PAD) + ROW_PAD;
}

static size_t logits_floats(const lod_plan *plan) {
    return plan->chunk * logits_ld(plan->shape.loss.vocabulary);
}

// One branch's logits; with consistency, those of two and a row for each worker.
static size_t chunk_floats(const lod_plan *plan) {
    if (!plan->shape.loss.consistency) return logits_floats(plan);
    return 2 * logits_floats(plan) + plan->threads * logits_ld(plan->shape.loss.vocabulary);
}

size_t lod_loss_workspace(const lod_plan *plan) {
    return chunk_floats(plan) * sizeof(float) + lod_product_workspace(plan);
}

typedef struct chunk {
    const lod_plan *plan;
    const lod_loss_args *args;
    size_t first, count;
    float *logits, *logits2, *scratch;
    void *product; // its workspace
} chunk;

static void one_row(void *context, size_t i) {
    const chunk *c = context;
    const size_t vocabulary = c->plan->shape.loss.vocabulary, ldz = logits_ld(vocabulary), t = c->first + i;
    lod_kernel_find(LOD_OP_xent_f32, c->plan->isa)->fn.xent_f32(&(lod_xent_kernel_args){
        .rows = 1, .n = vocabulary, .z = c->logits + i * ldz, .ldz = ldz, .target = c->args->target + t,
        .loss = c->args->loss + t, .gradient = c->args->dh != NULL});
}

static void one_pair(void *context, size_t worker, size_t i) {
    const chunk *c = context;
    const lod_loss_args *a = c->args;
    const size_t vocabulary = c->plan->shape.loss.vocabulary, ldz = logits_ld(vocabulary), t = c->first + i;
    lod_kernel_find(LOD_OP_consistency_f32, c->plan->isa)->fn.consistency_f32(&(lod_consistency_kernel_args){
        .rows = 1, .n = vocabulary, .z = c->logits + i * ldz, .z2 = c->logits2 + i * ldz, .ldz = ldz,
        .target = a->target + t, .consistency = a->consistency, .weight = (float)a->weight, .gradient = a->dh != NULL,
        .both = a->dh2 != NULL, .loss = a->loss + t, .divergence = a->divergence + t,
        .loss2 = a->loss2 ? a->loss2 + t : NULL, .scratch = c->scratch + worker * ldz});
}

// Logits of the chunk from its rows of a branch, and the other way round for its gradient.
static void multiply(const chunk *c, bool forward, const float *from, size_t ldfrom, float *to, size_t ldto) {
    const lod_loss_shape *shape = &c->plan->shape.loss;
    lod_product_run(&(lod_product){.plan = c->plan, .tokens = c->count, .x = from, .ldx = ldfrom, .w = c->args->w,
                                   .n_in = shape->n_in, .n_out = shape->vocabulary, .transposed = forward, .c = to,
                                   .ldc = ldto, .workspace = c->product});
}

static void run_chunk(chunk *c) {
    const lod_loss_args *a = c->args;
    const size_t ldz = logits_ld(c->plan->shape.loss.vocabulary);
    multiply(c, true, a->h + c->first * a->ldh, a->ldh, c->logits, ldz);
    if (a->consistency == LOD_CONSISTENCY_NONE) {
        lod_parallel(c->plan->threads, c->count, one_row, c);
    } else {
        multiply(c, true, a->h2 + c->first * a->ldh2, a->ldh2, c->logits2, ldz);
        lod_parallel_workers(c->plan->threads, c->count, one_pair, c);
    }
    if (a->dh) multiply(c, false, c->logits, ldz, a->dh + c->first * a->lddh, a->lddh);
    if (a->consistency != LOD_CONSISTENCY_NONE && a->dh2) {
        multiply(c, false, c->logits2, ldz, a->dh2 + c->first * a->lddh2, a->lddh2);
    }
}

static lod_status check_consistency(const lod_loss_shape *shape, const lod_loss_args *a, lod_error *err) {
    if (a->consistency == LOD_CONSISTENCY_NONE) return LOD_OK;
    if (a->consistency != LOD_CONSISTENCY_KL && a->consistency != LOD_CONSISTENCY_JS) {
        return lod_fail(err, LOD_BAD_ARGUMENT, "consistency", "%d is unknown", (int)a->consistency);
    }
    if (!shape->consistency) return lod_fail(err, LOD_BAD_ARGUMENT, "consistency", "the plan has no room for it");
    if (!(a->weight >= 0 && a->weight <= FLT_MAX)) {
        return lod_fail(err, LOD_BAD_ARGUMENT, "weight", "%g is not a finite number from 0 on", a->weight);
    }
    LOD_TRY(lod_check_matrix(a->h2, a->ldh2, shape->n_in, "h2", err));
    if (!a->divergence) return lod_fail(err, LOD_BAD_ARGUMENT, "divergence", "is NULL");
    if (!a->dh2) return LOD_OK;
    if (!a->dh) return lod_fail(err, LOD_BAD_ARGUMENT, "dh2", "is wanted without dh");
    LOD_TRY(lod_check_matrix(a->dh2, a->lddh2, shape->n_in, "dh2", err));
    return lod_check_in_place(a->dh2, a->lddh2, a->h2, a->ldh2, "dh2", err);
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
    if (a->dh) {
        LOD_TRY(lod_check_matrix(a->dh, a->lddh, shape->n_in, "dh", err));
        LOD_TRY(lod_check_in_place(a->dh, a->lddh, a->h, a->ldh, "dh", err));
    }
    if (!a->target) return lod_fail(err, LOD_BAD_ARGUMENT, "target", "is NULL");
    for (size_t t = 0; t < a->tokens; t++) {
        if (a->target[t] >= shape->vocabulary) {
            return lod_fail(err, LOD_BAD_ARGUMENT, "target", "target[%zu] = %u is not below the vocabulary %zu", t,
                            a->target[t], shape->vocabulary);
        }
    }
    LOD_TRY(check_consistency(shape, a, err));
    return lod_check_aligned(workspace, "workspace", err);
}

lod_status lod_loss(const lod_plan *plan, const lod_loss_args *a, void *workspace, lod_error *err) {
    LOD_TRY(check(plan, a, workspace, err));
    float *logits = workspace;
    chunk c = {.plan = plan, .args = a, .logits = logits, .logits2 = logits + logits_floats(plan),
               .scratch = logits + 2 * logits_floats(plan), .product = logits + chunk_floats(plan)};
    for (; c.first < a->tokens; c.first += plan->chunk) {
        c.count = lod_min(plan->chunk, a->tokens - c.first);
        run_chunk(&c);
    }
    return LOD_OK;
}
