// One part of a plan's work, on memory of its own, as it runs in the middle of a model: weights come from beyond the
// caches (copies take turns), activations are as warm as the call leaves them. Wide products are timed on their first
// columns, attention on a KV head for each thread: no block size depends on how many more there are.
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "product.h"

enum { COPIES_BYTES = 64 << 20, COPIES_MOST = 32, FLOPS_A_THREAD = 1 << 29 };

typedef struct operand {
    float *data;
    size_t count;
} operand;
enum { OPERANDS_MOST = 8 };

struct lod_trial {
    lod_plan plan;
    lod_plan_part part;
    size_t copies, turn, columns;
    float *weights[COPIES_MOST];
    operand operands[OPERANDS_MOST];
    size_t operand_count;
    void *workspace;
    size_t workspace_bytes;
};

static void *memory(size_t bytes) {
    return aligned_alloc(64, lod_round_up(bytes ? bytes : 1, 64));
}

// Small numbers that never become denormal, whatever is computed of them.
static float *numbers(size_t count) {
    float *data = memory(count * sizeof *data);
    for (size_t i = 0; data && i < count; i++) data[i] = (float)(1 + i % 7) * 0.0625f;
    return data;
}

static bool take(lod_trial *t, size_t count) {
    operand *o = &t->operands[t->operand_count++];
    *o = (operand){.data = numbers(count), .count = count};
    return o->data;
}

static bool take_product(lod_trial *t) {
    const bool forward = t->part == LOD_PART_FORWARD;
    const lod_product_shape p = lod_product_shape_of(&t->plan, forward);
    const size_t bytes = lod_packed_size(forward ? p.depth : p.n, forward ? p.n : p.depth, LOD_F32);
    t->copies = COPIES_BYTES / bytes < 1 ? 1 : lod_min(COPIES_BYTES / bytes, COPIES_MOST);
    for (size_t i = 0; i < t->copies; i++) {
        t->weights[i] = numbers(bytes / sizeof(float));
        if (!t->weights[i]) return false;
    }
    double columns = (double)FLOPS_A_THREAD * t->plan.threads / 2 / (double)p.depth / (double)p.tokens;
    size_t least = 256 * (size_t)t->plan.threads;
    t->columns = columns < (double)least ? least : columns < (double)p.n ? lod_round_up((size_t)columns, 64) : p.n;
    t->columns = lod_min(t->columns, p.n);
    return take(t, p.tokens * p.depth) && take(t, p.tokens * p.n);
}

static bool take_attention(lod_trial *t) {
    lod_attention_shape *s = &t->plan.shape.attention;
    const size_t group = s->heads / s->kv_heads;
    s->kv_heads = lod_min(s->kv_heads, t->plan.threads);
    s->heads = group * s->kv_heads;
    const size_t q = s->queries * s->heads * s->head_dim, k = s->keys * s->kv_heads * s->head_dim;
    // Q, K, V, O, then the gradients of the first three, then the log-sum-exp
    return take(t, q) && take(t, k) && take(t, k) && take(t, q) && take(t, q) && take(t, k) && take(t, k) &&
           take(t, s->queries * s->heads);
}

lod_trial *lod_trial_make(const lod_plan *plan, lod_plan_part part) {
    lod_trial *t = calloc(1, sizeof *t);
    if (!t) return NULL;
    t->plan = *plan;
    t->part = part;
    if (part == LOD_PART_ATTENTION ? take_attention(t) : take_product(t)) return t;
    lod_trial_free(t);
    return NULL;
}

void lod_trial_free(lod_trial *t) {
    if (!t) return;
    for (size_t i = 0; i < t->copies; i++) free(t->weights[i]);
    for (size_t i = 0; i < t->operand_count; i++) free(t->operands[i].data);
    free(t->workspace);
    free(t);
}

static void run_product(lod_trial *t) {
    const bool forward = t->part == LOD_PART_FORWARD;
    const lod_product_shape p = lod_product_shape_of(&t->plan, forward);
    const operand *o = t->operands;
    lod_product_run(&(lod_product){
        .plan = &t->plan, .tokens = p.tokens, .x = o[0].data, .ldx = p.depth,
        .w = {.packed = t->weights[t->turn++ % t->copies], .dtype = LOD_F32}, .n_in = forward ? p.depth : p.n,
        .n_out = forward ? p.n : p.depth, .transposed = forward, .columns = t->columns,
        .c = o[1].data, .ldc = p.n, .workspace = t->workspace});
}

static void run_attention(lod_trial *t) {
    const lod_attention_shape *s = &t->plan.shape.attention;
    const operand *o = t->operands;
    const size_t queries[] = {0, s->queries}, keys[] = {0, s->keys};
    const size_t ldq = s->heads * s->head_dim, ldk = s->kv_heads * s->head_dim;
    lod_attention_args a = {
        .queries = {.count = 1, .start = queries}, .keys = {.count = 1, .start = keys},
        .causal = s->queries <= s->keys, .scale = 0.125, .q = o[0].data, .ldq = ldq, .k = o[1].data, .ldk = ldk,
        .v = o[2].data, .ldv = ldk, .o = o[3].data, .ldo = ldq, .lse = o[7].data, .d_o = o[0].data, .dq = o[4].data,
        .dk = o[5].data, .dv = o[6].data};
    lod_attention_forward(&t->plan, &a, t->workspace, NULL);
    lod_attention_backward(&t->plan, &a, t->workspace, NULL);
}

static bool settle(lod_trial *t, const lod_choice *choice) {
    t->plan.choice = *choice;
    lod_plan_settle(&t->plan);
    if (t->plan.workspace <= t->workspace_bytes) return true;
    free(t->workspace);
    t->workspace = memory(t->plan.workspace);
    t->workspace_bytes = t->workspace ? t->plan.workspace : 0;
    if (t->workspace) memset(t->workspace, 0, t->workspace_bytes); // its pages are there before the clock runs
    return t->workspace;
}

// CPU time where only this thread works, which a busy machine disturbs least; else time as it passes.
static double now(const lod_trial *t) {
    struct timespec time;
    clock_gettime(t->plan.threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

double lod_trial_run(lod_trial *t, const lod_choice *choice, size_t runs) {
    if (!settle(t, choice)) return -1;
    const double begin = now(t);
    for (size_t i = 0; i < runs; i++) {
        if (t->part == LOD_PART_ATTENTION) {
            run_attention(t);
        } else {
            run_product(t);
        }
    }
    return now(t) - begin;
}
