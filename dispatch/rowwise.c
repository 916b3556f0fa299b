// Row-wise and element-wise operations: equal runs of rows or elements, as many as the work is worth.
#include <math.h>

#include "philox.h"
#include "plan.h"

// Below this a sum of two vectors takes 12 microseconds, and sharing it more of the CPU than it saves.
enum { FLOATS_PER_THREAD = 1 << 16, ELEMENT_UNIT = 16 };

// A run of one operation: `args` are the caller's, `count` rows or elements in `parts` parts.
typedef struct run {
    const lod_plan *plan;
    const void *args;
    size_t count, unit, parts;
} run;

static lod_range part_of(const run *r, size_t i) {
    return lod_part(r->count, r->unit, r->parts, i);
}

// Runs body over `count` rows of `width` floats each (elements: width 1).
static lod_status run_all(const lod_plan *plan, const void *args, size_t count, size_t width,
                          void (*body)(void *run, size_t i)) {
    size_t parts = lod_min(lod_parallel_threads(plan->threads), 1 + count * width / FLOATS_PER_THREAD);
    run r = {.plan = plan, .args = args, .count = count, .unit = width == 1 ? ELEMENT_UNIT : 1, .parts = parts};
    lod_parallel(plan->threads, parts, body, &r);
    return LOD_OK;
}

#define KERNEL(op) lod_kernel_find(LOD_OP_##op, r->plan->isa)->fn.op

// --- RMSNorm ---

static void rmsnorm_forward_part(void *context, size_t i) {
    const run *r = context;
    const lod_rmsnorm_args *a = r->args;
    lod_range rows = part_of(r, i);
    KERNEL(rmsnorm_fwd_f32)(&(lod_rmsnorm_fwd_kernel_args){
        .rows = rows.end - rows.begin, .n = a->width, .x = a->x + rows.begin * a->ldx, .ldx = a->ldx, .g = a->g,
        .eps = (float)a->eps, .rstd = a->rstd + rows.begin, .y = a->y + rows.begin * a->ldy, .ldy = a->ldy});
}

static void rmsnorm_backward_part(void *context, size_t i) {
    const run *r = context;
    const lod_rmsnorm_args *a = r->args;
    lod_range rows = part_of(r, i);
    KERNEL(rmsnorm_bwd_f32)(&(lod_rmsnorm_bwd_kernel_args){
        .rows = rows.end - rows.begin, .n = a->width, .x = a->x + rows.begin * a->ldx, .ldx = a->ldx, .g = a->g,
        .rstd = a->rstd + rows.begin, .dy = a->dy + rows.begin * a->lddy, .lddy = a->lddy,
        .add = a->add ? a->add + rows.begin * a->lddx : NULL, .dx = a->dx + rows.begin * a->lddx, .lddx = a->lddx});
}

static lod_status check_rmsnorm(const lod_plan *plan, const lod_rmsnorm_args *a, lod_error *err) {
    LOD_TRY(lod_plan_check(plan, LOD_PLAN_ROWWISE, err));
    if (a->width == 0) return lod_fail(err, LOD_BAD_ARGUMENT, "width", "is 0");
    if (!(a->eps >= 0)) return lod_fail(err, LOD_BAD_ARGUMENT, "eps", "%g is negative", a->eps);
    LOD_TRY(lod_check_matrix(a->x, a->ldx, a->width, "x", err));
    LOD_TRY(lod_check_matrix(a->g, a->width, a->width, "g", err));
    return lod_check_matrix(a->rstd, 1, 1, "rstd", err);
}

lod_status lod_rmsnorm_forward(const lod_plan *plan, const lod_rmsnorm_args *a, lod_error *err) {
    LOD_TRY(check_rmsnorm(plan, a, err));
    LOD_TRY(lod_check_matrix(a->y, a->ldy, a->width, "y", err));
    return run_all(plan, a, a->tokens, a->width, rmsnorm_forward_part);
}

lod_status lod_rmsnorm_backward(const lod_plan *plan, const lod_rmsnorm_args *a, lod_error *err) {
    LOD_TRY(check_rmsnorm(plan, a, err));
    LOD_TRY(lod_check_matrix(a->dy, a->lddy, a->width, "dy", err));
    LOD_TRY(lod_check_matrix(a->dx, a->lddx, a->width, "dx", err));
    LOD_TRY(lod_check_in_place(a->dx, a->lddx, a->dy, a->lddy, "dx", err));
    return run_all(plan, a, a->tokens, a->width, rmsnorm_backward_part);
}

// --- RoPE ---

static void rope_part(void *context, size_t i) {
    const run *r = context;
    const lod_rope_args *a = r->args;
    lod_range rows = part_of(r, i);
    KERNEL(rope_f32)(&(lod_rope_kernel_args){
        .rows = rows.end - rows.begin, .heads = a->heads, .head_dim = a->head_dim, .x = a->x + rows.begin * a->ldx,
        .ldx = a->ldx,
        .position = a->position + rows.begin, .cosine = a->cosine, .sine = a->sine, .inverse = a->inverse});
}

lod_status lod_rope(const lod_plan *plan, const lod_rope_args *a, lod_error *err) {
    LOD_TRY(lod_plan_check(plan, LOD_PLAN_ROWWISE, err));
    if (a->head_dim == 0 || a->head_dim % 2) {
        return lod_fail(err, LOD_BAD_ARGUMENT, "head_dim", "%zu is not a positive even number", a->head_dim);
    }
    LOD_TRY(lod_check_matrix(a->x, a->ldx, a->heads * a->head_dim, "x", err));
    LOD_TRY(lod_check_matrix(a->position, 1, 1, "position", err));
    LOD_TRY(lod_check_matrix(a->cosine, 1, 1, "cosine", err));
    LOD_TRY(lod_check_matrix(a->sine, 1, 1, "sine", err));
    return run_all(plan, a, a->tokens, a->heads * a->head_dim, rope_part);
}

// --- SiLU times up ---

static void silu_mul_forward_part(void *context, size_t i) {
    const run *r = context;
    const lod_silu_mul_args *a = r->args;
    lod_range part = part_of(r, i);
    KERNEL(silu_mul_fwd_f32)(&(lod_silu_mul_fwd_kernel_args){
        .n = part.end - part.begin, .gate = a->gate + part.begin, .up = a->up + part.begin, .y = a->y + part.begin});
}

static void silu_mul_backward_part(void *context, size_t i) {
    const run *r = context;
    const lod_silu_mul_args *a = r->args;
    lod_range part = part_of(r, i);
    KERNEL(silu_mul_bwd_f32)(&(lod_silu_mul_bwd_kernel_args){
        .n = part.end - part.begin, .gate = a->gate + part.begin, .up = a->up + part.begin, .dy = a->dy + part.begin,
        .dgate = a->dgate + part.begin, .dup = a->dup + part.begin});
}

static lod_status check_silu_mul(const lod_plan *plan, const lod_silu_mul_args *a, lod_error *err) {
    LOD_TRY(lod_plan_check(plan, LOD_PLAN_ROWWISE, err));
    LOD_TRY(lod_check_matrix(a->gate, 1, 1, "gate", err));
    return lod_check_matrix(a->up, 1, 1, "up", err);
}

lod_status lod_silu_mul_forward(const lod_plan *plan, const lod_silu_mul_args *a, lod_error *err) {
    LOD_TRY(check_silu_mul(plan, a, err));
    LOD_TRY(lod_check_matrix(a->y, 1, 1, "y", err));
    return run_all(plan, a, a->count, 1, silu_mul_forward_part);
}

lod_status lod_silu_mul_backward(const lod_plan *plan, const lod_silu_mul_args *a, lod_error *err) {
    LOD_TRY(check_silu_mul(plan, a, err));
    LOD_TRY(lod_check_matrix(a->dy, 1, 1, "dy", err));
    LOD_TRY(lod_check_matrix(a->dgate, 1, 1, "dgate", err));
    LOD_TRY(lod_check_matrix(a->dup, 1, 1, "dup", err));
    return run_all(plan, a, a->count, 1, silu_mul_backward_part);
}

// --- Sum ---

static void add_part(void *context, size_t i) {
    const run *r = context;
    const lod_add_args *a = r->args;
    lod_range part = part_of(r, i);
    KERNEL(add_f32)(&(lod_add_kernel_args){
        .n = part.end - part.begin, .a = a->a + part.begin, .b = a->b + part.begin, .y = a->y + part.begin});
}

lod_status lod_add(const lod_plan *plan, const lod_add_args *a, lod_error *err) {
    LOD_TRY(lod_plan_check(plan, LOD_PLAN_ROWWISE, err));
    LOD_TRY(lod_check_matrix(a->a, 1, 1, "a", err));
    LOD_TRY(lod_check_matrix(a->b, 1, 1, "b", err));
    LOD_TRY(lod_check_matrix(a->y, 1, 1, "y", err));
    return run_all(plan, a, a->count, 1, add_part);
}

// --- Dropout ---

typedef struct dropout_run {
    const lod_dropout_add_args *args;
    uint32_t threshold; // 0: nothing is dropped
    float scale;
} dropout_run;

static uint32_t site_of(const lod_dropout_add_args *a, size_t segment) {
    uint32_t instance = a->rows.instance ? a->rows.instance[segment] : 0;
    return a->dropout.site | instance << LOD_SITE_INSTANCE_BIT;
}

// Tokens of one segment, by their places in it, that a mask keeps, drops, or is drawn for.
static void drop_tokens(const run *r, size_t segment, lod_range places, lod_keep keep) {
    const dropout_run *d = r->args;
    const lod_dropout_add_args *a = d->args;
    const size_t first = a->rows.start[segment] + places.begin;
    const bool column = a->dropout.pattern == LOD_PATTERN_COLUMN;
    if (places.begin >= places.end) return;
    KERNEL(dropout_add_f32)(&(lod_dropout_add_kernel_args){
        .rows = places.end - places.begin, .n = a->width, .x = a->x + first * a->ldx, .ldx = a->ldx,
        .add = a->add ? a->add + first * a->ldy : NULL, .keep = keep, .seed = a->dropout.seed,
        .column = column, .row0 = column ? 0 : (uint32_t)places.begin, .site = site_of(a, segment),
        .draw = keep == LOD_KEEP_DRAWN ? a->rows.draw[segment] : 0, .threshold = d->threshold, .scale = d->scale,
        .y = a->y + first * a->ldy, .ldy = a->ldy});
}

// The dropped run of a segment parts its tokens in three.
static void drop_span(const run *r, size_t segment, lod_range places) {
    const dropout_run *d = r->args;
    const lod_rows *rows = &d->args->rows;
    size_t start, count;
    lod_mask_span(d->args->dropout.seed, site_of(d->args, segment), rows->draw[segment], d->args->dropout.p,
                  rows->start[segment + 1] - rows->start[segment], &start, &count, NULL);
    const size_t cut[] = {places.begin, start, start + count, places.end};
    for (size_t i = 0; i < 3; i++) {
        lod_range part = {cut[i] > places.begin ? cut[i] : places.begin, lod_min(cut[i + 1], places.end)};
        drop_tokens(r, segment, part, i == 1 ? LOD_KEEP_NONE : LOD_KEEP_ALL);
    }
}

static void dropout_part(void *context, size_t i) {
    const run *r = context;
    const dropout_run *d = r->args;
    const lod_rows *rows = &d->args->rows;
    const lod_range tokens = part_of(r, i);
    for (size_t s = 0; s < rows->count && rows->start[s] < tokens.end; s++) {
        if (rows->start[s + 1] <= tokens.begin) continue;
        const size_t first = rows->start[s];
        lod_range places = {tokens.begin > first ? tokens.begin - first : 0,
                            lod_min(tokens.end, rows->start[s + 1]) - first};
        if (d->threshold && d->args->dropout.pattern == LOD_PATTERN_SPAN) {
            drop_span(r, s, places);
        } else {
            drop_tokens(r, s, places, d->threshold ? LOD_KEEP_DRAWN : LOD_KEEP_ALL);
        }
    }
}

static lod_status check_triple(const lod_dropout *dropout, lod_error *err) {
    static const bool valid[][LOD_COMPENSATION_INFERENCE + 1] = {
        [LOD_PATTERN_ELEMENT] = {[LOD_COMPENSATION_INVERTED] = true, [LOD_COMPENSATION_INFERENCE] = true},
        [LOD_PATTERN_COLUMN] = {[LOD_COMPENSATION_INVERTED] = true},
        [LOD_PATTERN_SPAN] = {[LOD_COMPENSATION_NONE] = true}};
    if ((unsigned)dropout->pattern > LOD_PATTERN_SPAN) {
        return lod_fail(err, LOD_BAD_ARGUMENT, "pattern", "%d is unknown", (int)dropout->pattern);
    }
    if (dropout->p > 0 && !valid[dropout->pattern][dropout->compensation]) {
        return lod_fail(err, LOD_BAD_ARGUMENT, "dropout",
                        "activations take element inverted or inference, column inverted, span none");
    }
    return LOD_OK;
}

lod_status lod_dropout_add(const lod_plan *plan, const lod_dropout_add_args *a, lod_error *err) {
    LOD_TRY(lod_plan_check(plan, LOD_PLAN_ROWWISE, err));
    dropout_run d = {.args = a};
    LOD_TRY(lod_dropout_check(&a->dropout, &d.threshold, &d.scale, err));
    LOD_TRY(check_triple(&a->dropout, err));
    LOD_TRY(lod_rows_check(&a->rows, d.threshold && !a->inference, "rows", err));
    if (a->width == 0) return lod_fail(err, LOD_BAD_ARGUMENT, "width", "is 0");
    LOD_TRY(lod_check_matrix(a->x, a->ldx, a->width, "x", err));
    LOD_TRY(lod_check_matrix(a->y, a->ldy, a->width, "y", err));
    LOD_TRY(lod_check_in_place(a->y, a->ldy, a->x, a->ldx, "y", err));
    if (a->inference) {
        LOD_DEFAULT_FP;
        const bool scaled = a->dropout.compensation == LOD_COMPENSATION_INFERENCE;
        d.scale = scaled ? (float)(1 - d.threshold / 65536.0) : 1;
        d.threshold = 0;
    }
    return run_all(plan, &d, a->rows.start[a->rows.count], a->width, dropout_part);
}

// --- AdamW ---

typedef struct adamw_run {
    const lod_adamw_args *args;
    lod_adamw_kernel_args scalars;
} adamw_run;

static void adamw_part(void *context, size_t i) {
    const run *r = context;
    const adamw_run *adamw = r->args;
    const lod_adamw_args *a = adamw->args;
    lod_range part = part_of(r, i);
    lod_adamw_kernel_args k = adamw->scalars;
    k.n = part.end - part.begin;
    k.w = a->w + part.begin, k.g = a->g + part.begin;
    k.m = a->m + part.begin, k.v = a->v + part.begin;
    KERNEL(adamw_f32)(&k);
}

// base^n by repeated squaring: the same double everywhere.
static double power(double base, uint64_t n) {
    double result = 1;
    for (; n; n >>= 1, base *= base) {
        if (n & 1) result *= base;
    }
    return result;
}

static lod_status check_beta(double beta, const char *field, lod_error *err) {
    if (beta >= 0 && beta < 1) return LOD_OK;
    return lod_fail(err, LOD_BAD_ARGUMENT, field, "%g is not in [0, 1)", beta);
}

static lod_status check_adamw(const lod_plan *plan, const lod_adamw_args *a, lod_error *err) {
    LOD_TRY(lod_plan_check(plan, LOD_PLAN_ROWWISE, err));
    const struct {
        const char *field;
        const float *pointer;
    } needed[] = {{"w", a->w}, {"g", a->g}, {"m", a->m}, {"v", a->v}};
    for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++) {
        LOD_TRY(lod_check_matrix(needed[i].pointer, 1, 1, needed[i].field, err));
    }
    LOD_TRY(check_beta(a->beta1, "beta1", err));
    LOD_TRY(check_beta(a->beta2, "beta2", err));
    if (a->step == 0) return lod_fail(err, LOD_BAD_ARGUMENT, "step", "counts from 1");
    return LOD_OK;
}

lod_status lod_adamw(const lod_plan *plan, const lod_adamw_args *a, lod_error *err) {
    LOD_TRY(check_adamw(plan, a, err));
    LOD_DEFAULT_FP;
    adamw_run adamw = {.args = a,
                       .scalars = {.lr_decay = (float)(a->learning_rate * a->weight_decay),
                                   .lr_correction1 = (float)(a->learning_rate / (1 - power(a->beta1, a->step))),
                                   .sqrt_correction2 = (float)sqrt(1 - power(a->beta2, a->step)),
                                   .one_minus_beta1 = (float)(1 - a->beta1),
                                   .beta2 = (float)a->beta2,
                                   .one_minus_beta2 = (float)(1 - a->beta2),
                                   .eps = (float)a->eps}};
    return run_all(plan, &adamw, a->count, 1, adamw_part);
}
