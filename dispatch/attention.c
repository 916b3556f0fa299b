// Attention, one query row a kernel call. Forward: a task is a (segment, query head); backward: a (segment, KV head),
// whose query heads follow one another, because their gradients of K and V meet in one chain: query heads ascending,
// then queries ascending.
#include <string.h>

#include "plan.h"

static size_t scratch_floats(const lod_plan *plan) {
    return 2 * lod_round_up(plan->shape.attention.keys, 16);
}

size_t lod_attention_workspace(const lod_plan *plan) {
    return plan->threads * scratch_floats(plan) * sizeof(float);
}

typedef struct call {
    const lod_plan *plan;
    const lod_attention_args *args;
    float *scratch; // [threads][scratch_floats]
    size_t workers;
} call;

// Keys that query i of a segment sees.
static size_t visible(const lod_attention_args *a, size_t segment, size_t i) {
    size_t keys = a->keys.start[segment + 1] - a->keys.start[segment];
    size_t queries = a->queries.start[segment + 1] - a->queries.start[segment];
    return a->causal ? keys - queries + i + 1 : keys;
}

static void forward_head(const call *c, size_t segment, size_t head, float *scratch) {
    const lod_attention_args *a = c->args;
    const lod_attention_shape *s = &c->plan->shape.attention;
    const size_t d = s->head_dim, kv = head / (s->heads / s->kv_heads), key = a->keys.start[segment];
    const lod_kernel *kernel = lod_kernel_find(LOD_OP_attention_fwd_f32, c->plan->isa);
    for (size_t t = a->queries.start[segment]; t < a->queries.start[segment + 1]; t++) {
        kernel->fn.attention_fwd_f32(&(lod_attention_fwd_kernel_args){
            .head_dim = d, .keys = visible(a, segment, t - a->queries.start[segment]),
            .q = a->q + t * a->ldq + head * d, .k = a->k + key * a->ldk + kv * d, .ldk = a->ldk,
            .v = a->v + key * a->ldv + kv * d, .ldv = a->ldv, .scale = (float)a->scale,
            .o = a->o + t * a->ldo + head * d, .lse = a->lse + t * s->heads + head, .scratch = scratch});
    }
}

static void backward_head(const call *c, size_t segment, size_t head, float *scratch) {
    const lod_attention_args *a = c->args;
    const lod_attention_shape *s = &c->plan->shape.attention;
    const size_t d = s->head_dim, kv = head / (s->heads / s->kv_heads), key = a->keys.start[segment];
    const size_t k = key * a->ldk + kv * d, v = key * a->ldv + kv * d;
    const lod_kernel *kernel = lod_kernel_find(LOD_OP_attention_bwd_f32, c->plan->isa);
    for (size_t t = a->queries.start[segment]; t < a->queries.start[segment + 1]; t++) {
        const size_t q = t * a->ldq + head * d, o = t * a->ldo + head * d;
        kernel->fn.attention_bwd_f32(&(lod_attention_bwd_kernel_args){
            .head_dim = d, .keys = visible(a, segment, t - a->queries.start[segment]), .q = a->q + q, .k = a->k + k,
            .ldk = a->ldk, .v = a->v + v, .ldv = a->ldv, .scale = (float)a->scale, .o = a->o + o, .d_o = a->d_o + o,
            .lse = a->lse[t * s->heads + head], .dq = a->dq + q, .dk = a->dk + k, .dv = a->dv + v, .scratch = scratch});
    }
}

// Worker w takes every workers-th (segment, head).
static void forward_worker(void *context, size_t worker) {
    const call *c = context;
    const size_t heads = c->plan->shape.attention.heads;
    float *scratch = c->scratch + worker * scratch_floats(c->plan);
    for (size_t i = worker; i < c->args->queries.count * heads; i += c->workers) {
        forward_head(c, i / heads, i % heads, scratch);
    }
}

static void backward_worker(void *context, size_t worker) {
    const call *c = context;
    const lod_attention_args *a = c->args;
    const lod_attention_shape *s = &c->plan->shape.attention;
    const size_t d = s->head_dim, group = s->heads / s->kv_heads;
    float *scratch = c->scratch + worker * scratch_floats(c->plan);
    for (size_t i = worker; i < a->queries.count * s->kv_heads; i += c->workers) {
        size_t segment = i / s->kv_heads, kv = i % s->kv_heads;
        for (size_t t = a->keys.start[segment]; t < a->keys.start[segment + 1]; t++) {
            memset(a->dk + t * a->ldk + kv * d, 0, d * sizeof(float));
            memset(a->dv + t * a->ldv + kv * d, 0, d * sizeof(float));
        }
        for (size_t head = kv * group; head < (kv + 1) * group; head++) backward_head(c, segment, head, scratch);
    }
}

static lod_status check_segments(const lod_plan *plan, const lod_attention_args *a, lod_error *err) {
    LOD_TRY(lod_rows_check(&a->queries, false, "queries", err));
    LOD_TRY(lod_rows_check(&a->keys, false, "keys", err));
    if (a->queries.count != a->keys.count) {
        return lod_fail(err, LOD_BAD_ARGUMENT, "keys", "%zu segments, but queries have %zu", a->keys.count,
                        a->queries.count);
    }
    for (size_t i = 0; i < a->keys.count; i++) {
        size_t keys = a->keys.start[i + 1] - a->keys.start[i];
        size_t queries = a->queries.start[i + 1] - a->queries.start[i];
        if (keys > plan->shape.attention.keys) {
            return lod_fail(err, LOD_BAD_ARGUMENT, "keys", "segment %zu has %zu, above the plan's %zu", i, keys,
                            plan->shape.attention.keys);
        }
        if (a->causal && queries > keys) {
            return lod_fail(err, LOD_BAD_ARGUMENT, "queries", "segment %zu has %zu, above its %zu keys", i, queries,
                            keys);
        }
    }
    return LOD_OK;
}

static lod_status check(const lod_plan *plan, const lod_attention_args *a, const void *workspace, lod_error *err) {
    LOD_TRY(lod_plan_check(plan, LOD_PLAN_ATTENTION, err));
    const lod_attention_shape *s = &plan->shape.attention;
    LOD_TRY(check_segments(plan, a, err));
    LOD_TRY(lod_check_matrix(a->q, a->ldq, s->heads * s->head_dim, "q", err));
    LOD_TRY(lod_check_matrix(a->k, a->ldk, s->kv_heads * s->head_dim, "k", err));
    LOD_TRY(lod_check_matrix(a->v, a->ldv, s->kv_heads * s->head_dim, "v", err));
    LOD_TRY(lod_check_matrix(a->o, a->ldo, s->heads * s->head_dim, "o", err));
    if (!a->lse) return lod_fail(err, LOD_BAD_ARGUMENT, "lse", "is NULL");
    if (a->dropout.p > 0) return lod_fail(err, LOD_BAD_ARGUMENT, "dropout", "attention has none yet");
    return lod_check_aligned(workspace, "workspace", err);
}

lod_status lod_attention_forward(const lod_plan *plan, const lod_attention_args *a, void *workspace, lod_error *err) {
    LOD_TRY(check(plan, a, workspace, err));
    call c = {.plan = plan, .args = a, .scratch = workspace, .workers = plan->threads};
    lod_parallel(plan->threads, c.workers, forward_worker, &c);
    return LOD_OK;
}

lod_status lod_attention_backward(const lod_plan *plan, const lod_attention_args *a, void *workspace, lod_error *err) {
    LOD_TRY(check(plan, a, workspace, err));
    const struct {
        const char *field;
        const float *pointer;
    } needed[] = {{"d_o", a->d_o}, {"dq", a->dq}, {"dk", a->dk}, {"dv", a->dv}};
    for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++) {
        if (!needed[i].pointer) return lod_fail(err, LOD_BAD_ARGUMENT, needed[i].field, "is NULL");
    }
    call c = {.plan = plan, .args = a, .scratch = workspace, .workers = plan->threads};
    lod_parallel(plan->threads, c.workers, backward_worker, &c);
    return LOD_OK;
}
