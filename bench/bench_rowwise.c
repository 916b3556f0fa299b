// Row-wise and element-wise operations as callers make them: every one of every shape.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

enum { OPERANDS = 6, ADAPTER_RANK = 8 };

// Operands as long as the widest operation needs them; which is which, each operation says itself.
typedef struct rowwise {
    const bench_rowwise_shape *shape;
    lod_plan *plan;
    float *x[OPERANDS], *rstd, *table;
    uint32_t *position;
} rowwise;

typedef lod_status run_fn(rowwise *r, lod_error *err);

static lod_status rmsnorm_forward(rowwise *r, lod_error *err) {
    const size_t width = r->shape->width;
    const lod_rmsnorm_args args = {.tokens = r->shape->tokens, .width = width, .eps = 1e-5, .x = r->x[0], .ldx = width,
                                   .g = r->x[1], .rstd = r->rstd, .y = r->x[2], .ldy = width};
    return lod_rmsnorm_forward(r->plan, &args, err);
}

static lod_status rmsnorm_backward(rowwise *r, lod_error *err) {
    const size_t width = r->shape->width;
    const lod_rmsnorm_args args = {.tokens = r->shape->tokens, .width = width, .x = r->x[0], .ldx = width,
                                   .g = r->x[1], .rstd = r->rstd, .dy = r->x[2], .lddy = width, .add = r->x[3],
                                   .dx = r->x[4], .lddx = width};
    return lod_rmsnorm_backward(r->plan, &args, err);
}

static lod_status rope(rowwise *r, lod_error *err) {
    const bench_rowwise_shape *s = r->shape;
    const size_t head_dim = s->width / s->heads;
    const lod_rope_args args = {.tokens = s->tokens, .heads = s->heads, .head_dim = head_dim, .x = r->x[0],
                                .ldx = s->width, .position = r->position, .cosine = r->table,
                                .sine = r->table + s->tokens * head_dim / 2};
    return lod_rope(r->plan, &args, err);
}

static lod_status silu_mul_forward(rowwise *r, lod_error *err) {
    const lod_silu_mul_args args = {
        .count = r->shape->tokens * r->shape->middle, .gate = r->x[0], .up = r->x[1], .y = r->x[2]};
    return lod_silu_mul_forward(r->plan, &args, err);
}

static lod_status silu_mul_backward(rowwise *r, lod_error *err) {
    const lod_silu_mul_args args = {.count = r->shape->tokens * r->shape->middle, .gate = r->x[0], .up = r->x[1],
                                    .dy = r->x[2], .dgate = r->x[3], .dup = r->x[4]};
    return lod_silu_mul_backward(r->plan, &args, err);
}

static lod_status add(rowwise *r, lod_error *err) {
    const lod_add_args args = {
        .count = r->shape->tokens * r->shape->width, .a = r->x[0], .b = r->x[1], .y = r->x[2]};
    return lod_add(r->plan, &args, err);
}

static lod_status adamw(rowwise *r, lod_error *err) {
    const lod_adamw_args args = {.count = 2 * ADAPTER_RANK * r->shape->width, .w = r->x[0], .g = r->x[1],
                                 .m = r->x[2], .v = r->x[5], .learning_rate = 2e-4, .beta1 = 0.9, .beta2 = 0.999,
                                 .eps = 1e-8, .step = 1};
    return lod_adamw(r->plan, &args, err);
}

// flops: operations of an element, a fused one two, exp one; floats: of an element that are read or written.
static const struct {
    lod_op op;
    run_fn *run;
    double flops, floats;
} ops[] = {
    {LOD_OP_rmsnorm_fwd_f32, rmsnorm_forward, 4, 2},
    {LOD_OP_rmsnorm_bwd_f32, rmsnorm_backward, 8, 4},
    {LOD_OP_rope_f32, rope, 3, 2},
    {LOD_OP_silu_mul_fwd_f32, silu_mul_forward, 5, 3},
    {LOD_OP_silu_mul_bwd_f32, silu_mul_backward, 11, 5},
    {LOD_OP_add_f32, add, 1, 3},
    {LOD_OP_adamw_f32, adamw, 15, 7},
};
enum { OPS = sizeof ops / sizeof ops[0] };

double bench_rowwise_flops(lod_op op) {
    for (size_t i = 0; i < OPS; i++) {
        if (ops[i].op == op) return ops[i].flops;
    }
    return 0;
}

static size_t elements(const bench_rowwise_shape *s, lod_op op) {
    if (op == LOD_OP_adamw_f32) return 2 * ADAPTER_RANK * s->width;
    return s->tokens * (op == LOD_OP_silu_mul_fwd_f32 || op == LOD_OP_silu_mul_bwd_f32 ? s->middle : s->width);
}

typedef struct rowwise_case {
    bench_rowwise_shape shape;
    size_t op; // its place in ops
    lod_isa isa;
    unsigned threads;
} rowwise_case;

static bool make(rowwise *r, const rowwise_case *c, lod_error *err) {
    const bench_rowwise_shape *s = &c->shape;
    *r = (rowwise){.shape = s};
    *err = (lod_error){LOD_NO_MEMORY, "rowwise", "no memory"};
    if (lod_plan_rowwise(c->threads, &r->plan, err) != LOD_OK) return false;
    bool made = true;
    const size_t count = elements(s, ops[c->op].op);
    for (uint32_t i = 0; i < OPERANDS; i++) {
        r->x[i] = bench_random(1, count, i);
        made = made && r->x[i];
    }
    if (r->x[5]) memset(r->x[5], 0, count * sizeof(float)); // AdamW's v, which is not negative
    r->rstd = bench_random(1, s->tokens, 7);
    const size_t head_dim = s->width / s->heads;
    r->table = bench_floats(s->tokens * head_dim);
    // Real angles: RoPE runs in place, and anything but rotations would grow or fade.
    if (r->table) lod_rope_tables(s->tokens, head_dim, 10000, NULL, r->table, r->table + s->tokens * head_dim / 2);
    r->position = bench_memory(s->tokens * sizeof *r->position);
    for (size_t t = 0; r->position && t < s->tokens; t++) {
        r->position[t] = (uint32_t)t;
    }
    return made && r->rstd && r->table && r->position;
}

static void unmake(rowwise *r) {
    for (size_t i = 0; i < OPERANDS; i++) {
        free(r->x[i]);
    }
    free(r->rstd);
    free(r->table);
    free(r->position);
    lod_plan_free(r->plan);
}

static lod_status call(void *state, const void *work, lod_error *err) {
    run_fn *const *run = work;
    return (*run)(state, err);
}

static void run_rowwise(gb_state *state, const void *context) {
    const rowwise_case *c = context;
    const double count = (double)elements(&c->shape, ops[c->op].op);
    rowwise r;
    lod_error error;
    if (make(&r, c, &error)) {
        bench_measure(state, &(bench_subject){.call = call,
                                              .state = &r,
                                              .work = &ops[c->op].run,
                                              .flops = ops[c->op].flops * count,
                                              .bytes = ops[c->op].floats * count * sizeof(float),
                                              .batch = 1,
                                              .isa = c->isa,
                                              .threads = c->threads});
    } else {
        gb_skip(state, error.text);
    }
    unmake(&r);
}

void bench_add_rowwises(const bench_shapes *shapes, lod_isa isa, unsigned threads) {
    rowwise_case *cases = bench_keep(shapes->rowwise_count * OPS, sizeof *cases);
    for (size_t i = 0; cases && i < shapes->rowwise_count * OPS; i++) {
        cases[i] = (rowwise_case){.shape = shapes->rowwises[i / OPS], .op = i % OPS, .isa = isa, .threads = threads};
        char name[160];
        snprintf(name, sizeof name, "%s/%s/%s_t%zu", lod_op_text(ops[i % OPS].op), lod_isa_text(isa),
                 cases[i].shape.name, cases[i].shape.tokens);
        gb_add(name, run_rowwise, &cases[i]);
    }
}
