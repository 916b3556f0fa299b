// What each kernel is called with, as the loop nests of dispatch/ call it.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernel.h"

enum { GROUP_TOKENS = 32, GRADIENT_COLUMNS = 128, QUERY_BLOCK = 64, FEW_OUTPUTS = 4096 };
enum { BACKWARD = 4, BOTH = 4 }; // beside a dtype or another small number in a choice
// How often a call moves an operand.
typedef enum moved { READ = 1, WRITTEN = 1, UPDATED = 2 } moved;

// --- Operands ---

// Memory of the arena, 64-byte aligned.
static void *take(kernel_build *b, size_t bytes) {
    kernel_arena *a = b->arena;
    void *memory = a->base + a->used;
    a->used += lod_round_up(bytes, 64);
    if (a->used > a->size) {
        fprintf(stderr, "lodrop-bench: %s: its operands do not fit %zu MiB\n", b->kernel->name, a->size >> 20);
        exit(1);
    }
    return memory;
}

// Numbers in [-1, 1), always the same.
static void fill(const kernel_arena *arena, float *x, size_t count) {
    enum { POOL = 1 << 16 };
    static float *pool;
    if (!pool) pool = bench_random(1, POOL, 1);
    for (size_t i = 0; pool && !arena->unwritten && i < count; i += POOL) {
        memcpy(x + i, pool, lod_min(POOL, count - i) * sizeof *x);
    }
}

// A matrix [rows][ld] of which `cols` columns are moved. Rows mostly stand one behind the other: strides are what whole
// calls show.
static float *floats(kernel_build *b, moved counted, size_t rows, size_t cols, size_t ld) {
    float *x = take(b, rows * ld * sizeof *x);
    fill(b->arena, x, rows * ld);
    b->arena->bytes += (double)(rows * cols * sizeof *x) * counted;
    return x;
}

static float *constant(kernel_build *b, moved counted, size_t count, float value) {
    float *x = floats(b, counted, 1, count, count);
    for (size_t i = 0; i < count; i++) {
        x[i] = value;
    }
    return x;
}

// first, first + step, ...
static uint32_t *indices(kernel_build *b, size_t count, uint32_t first, uint32_t step) {
    uint32_t *x = take(b, count * sizeof *x);
    for (uint32_t i = 0; i < count; i++) {
        x[i] = first + i * step;
    }
    b->arena->bytes += (double)(count * sizeof *x);
    return x;
}

// Random bits [rows][*ldkeep] that drop the build's rate; NULL where that is 0.
static uint8_t *keep(kernel_build *b, size_t rows, size_t cols, size_t *ldkeep) {
    *ldkeep = lod_div_up(cols, 128) * 16;
    if (b->rate == 0) return NULL;
    uint8_t *bits = take(b, rows * *ldkeep);
    lod_keep_bits_args draw = {.rows = rows, .n = cols, .seed = 1, .bits = bits, .ldbits = *ldkeep};
    draw.threshold = (uint32_t)(b->rate * 65536);
    lod_kernel_find(LOD_OP_keep_bits, b->kernel->isa)->fn.keep_bits(&draw);
    b->arena->bytes += (double)(rows * cols) / 8;
    return bits;
}

static void give(kernel_build *b, const void *args, size_t size) {
    b->args = memcpy(take(b, size), args, size);
}
#define GIVE(b, ...) give(b, &(__VA_ARGS__), sizeof(__VA_ARGS__))

// --- Low-rank layers ---

static size_t rank_of(const kernel_build *b) {
    return b->shape->layer.rank ? b->shape->layer.rank : 1;
}

// choice: 0 a later k block; 1 the first one, with the adapter.
static void make_tile(kernel_build *b) {
    const bench_shape *s = &b->shape->layer;
    const bool first = b->bench->choice;
    const size_t m = lod_min(b->kernel->mr, s->tokens), n = lod_min(b->kernel->nr, s->n_out);
    const size_t k = lod_min(LOD_KC_MAX, s->n_in), r = first ? rank_of(b) : 0, panels = lod_div_up(n, LOD_PANEL);
    lod_lowrank_tile_args args = {.m = m, .n = n, .k = k, .r = r, .ldx = k, .ldpanel = k * LOD_PANEL, .ldu = r,
                                  .ldb = n, .inv = 1, .first = first, .ldfrom = n, .ldc = n};
    args.x = floats(b, READ, m, k, args.ldx);
    args.w = floats(b, READ, panels, k * LOD_PANEL, k * LOD_PANEL);
    if (first) args.u = floats(b, READ, m, r, r), args.b = floats(b, READ, r, n, n);
    args.keep = keep(b, m, n, &args.ldkeep);
    args.c = floats(b, first ? WRITTEN : UPDATED, m, n, n);
    args.from = args.c;
    b->flops = 2.0 * (double)(m * n) * (double)(k + r);
    int length = snprintf(b->text, sizeof b->text, "m%zu_n%zu_k%zu", m, n, k);
    if (first) snprintf(b->text + length, sizeof b->text - (size_t)length, "_r%zu", r);
    GIVE(b, args);
}

// The product of a layer for few tokens; choice: the dtype, and 4: backward.
static void make_few(kernel_build *b) {
    const bench_shape *s = &b->shape->layer;
    const size_t tokens = lod_min(LOD_FEW_TOKENS, s->tokens), n_in = s->n_in, n_out = lod_min(s->n_out, FEW_OUTPUTS);
    const bool forward = !(b->bench->choice & BACKWARD);
    const size_t k = forward ? n_in : n_out, n = forward ? n_out : n_in;
    const lod_dtype dtype = (lod_dtype)(b->bench->choice & ~BACKWARD);
    const size_t bytes = lod_packed_size(n_in, n_out, dtype);
    lod_lowrank_few_args args = {.tokens = tokens, .n_in = n_in, .n_out = n_out, .transposed = forward, .end = n,
                                 .ldx = k, .inv = 1, .ldc = n};
    void *w = take(b, bytes);
    fill(b->arena, w, bytes / sizeof(float));
    args.w = (lod_weight){w, dtype};
    args.x = floats(b, READ, tokens, k, k);
    args.c = floats(b, WRITTEN, tokens, n, n);
    b->arena->bytes += (double)bytes;
    b->flops = 2.0 * (double)tokens * (double)(k * n);
    snprintf(b->text, sizeof b->text, "t%zu_k%zu_n%zu", tokens, k, n);
    GIVE(b, args);
}

static void make_keep_bits(kernel_build *b) {
    const bench_shape *s = &b->shape->layer;
    const size_t rows = lod_min(GROUP_TOKENS, s->tokens), ld = lod_div_up(s->n_in, 128) * 16;
    lod_keep_bits_args args = {.rows = rows, .n = s->n_in, .seed = 1, .threshold = 6554, .ldbits = ld};
    args.bits = take(b, rows * ld);
    b->arena->bytes += (double)(rows * ld);
    snprintf(b->text, sizeof b->text, "t%zu_n%zu", rows, s->n_in);
    GIVE(b, args);
}

// choice: the dtype, and 4: backward. The panels of one W follow each other, as in a product.
static void make_panel(kernel_build *b) {
    const bench_shape *s = &b->shape->layer;
    const bool transposed = !(b->bench->choice & BACKWARD);
    const lod_dtype dtype = (lod_dtype)(b->bench->choice & ~BACKWARD);
    const size_t k = lod_min(LOD_KC_MAX, transposed ? s->n_in : s->n_out), most_outputs = 1 << 15;
    const size_t n_out = lod_min(s->n_out, most_outputs), n_in = transposed ? k : lod_min(s->n_in, LOD_KC_MAX);
    const size_t panels = lod_div_up(transposed ? n_out : n_in, LOD_PANEL);
    if (b->panel % panels == 0) {
        b->weight = take(b, lod_packed_size(n_in, n_out, dtype));
        fill(b->arena, b->weight, lod_packed_size(n_in, n_out, dtype) / sizeof(float));
    }
    lod_weight_panel_args args = {.w = {b->weight, dtype}, .n_in = n_in, .n_out = n_out, .transposed = transposed,
                                  .panel = b->panel++ % panels, .k = k};
    args.out = floats(b, WRITTEN, k, LOD_PANEL, LOD_PANEL);
    b->arena->bytes += (double)(k * LOD_PANEL) * (dtype == LOD_F32 ? 4 : 2);
    snprintf(b->text, sizeof b->text, "k%zu_n%zu", k, n_out);
    GIVE(b, args);
}

static void make_rank_dot(kernel_build *b) {
    const bench_shape *s = &b->shape->layer;
    const size_t tokens = lod_min(GROUP_TOKENS, s->tokens), n = s->n_in, r = rank_of(b);
    lod_rank_dot_args args = {.tokens = tokens, .n = n, .r = r, .ldx = n, .lda = n, .scale = 2, .ldu = r};
    args.x = floats(b, READ, tokens, n, n);
    args.keep = keep(b, tokens, n, &args.ldkeep);
    args.a = floats(b, READ, r, n, n);
    args.u = floats(b, WRITTEN, tokens, r, r);
    b->flops = 2.0 * (double)tokens * (double)(n * r);
    snprintf(b->text, sizeof b->text, "t%zu_n%zu_r%zu", tokens, n, r);
    GIVE(b, args);
}

static void make_rank_grad(kernel_build *b) {
    const bench_shape *s = &b->shape->layer;
    const size_t tokens = lod_min(1024, s->tokens), n = lod_min(GRADIENT_COLUMNS, s->n_in), r = rank_of(b);
    lod_rank_grad_args args = {.tokens = tokens, .n = n, .r = r, .lds = r, .ldx = n, .scale = 1, .ldg = n};
    args.s = floats(b, READ, tokens, r, r);
    args.x = floats(b, READ, tokens, n, n);
    args.keep = keep(b, tokens, n, &args.ldkeep);
    args.g = floats(b, WRITTEN, r, n, n);
    b->flops = 2.0 * (double)tokens * (double)(n * r);
    snprintf(b->text, sizeof b->text, "t%zu_n%zu_r%zu", tokens, n, r);
    GIVE(b, args);
}

// AdamW on the A of an adapter.
static void make_adamw(kernel_build *b) {
    const size_t n = rank_of(b) * b->shape->layer.n_in;
    lod_adamw_kernel_args args = {.n = n, .lr_correction1 = 1e-3f, .sqrt_correction2 = 1, .one_minus_beta1 = 0.1f,
                                  .beta2 = 0.999f, .one_minus_beta2 = 0.001f, .eps = 1e-8f};
    args.w = floats(b, UPDATED, 1, n, n), args.g = floats(b, READ, 1, n, n);
    args.m = floats(b, UPDATED, 1, n, n), args.v = constant(b, UPDATED, n, 0);
    b->flops = bench_rowwise_flops(b->kernel->op) * (double)n;
    snprintf(b->text, sizeof b->text, "n%zu", n);
    GIVE(b, args);
}

// --- Attention: a block of queries and a block of keys of one head ---

static size_t padded_dim(const kernel_build *b) {
    return lod_round_up(b->shape->attention.head_dim, 16);
}

// choice: 0 S = Q K', 1 O += P V, 2 dV += P' dO.
static void make_attention_tile(kernel_build *b) {
    const size_t d = b->shape->attention.head_dim, d16 = padded_dim(b);
    lod_attention_tile_args args[] = {
        {.m = QUERY_BLOCK, .n = LOD_KEY_BLOCK, .k = d, .a_row = d16, .a_depth = 1, .b_depth = 16, .b_panel = d16 * 16,
         .first = true, .ldc = LOD_SCORE_LD},
        {.m = QUERY_BLOCK, .n = d16, .k = LOD_KEY_BLOCK, .a_row = LOD_SCORE_LD, .a_depth = 1, .b_depth = d16,
         .b_panel = 16, .ldc = d16},
        {.m = LOD_KEY_BLOCK, .n = d16, .k = QUERY_BLOCK, .a_row = 1, .a_depth = LOD_SCORE_LD, .b_depth = d16,
         .b_panel = 16, .ldc = d16},
    };
    lod_attention_tile_args *t = &args[b->bench->choice];
    const bool columns = b->bench->choice == 2, panels = b->bench->choice == 0;
    t->a = columns ? floats(b, READ, t->k, t->m, t->a_depth) : floats(b, READ, t->m, t->k, t->a_row);
    t->b = panels ? floats(b, READ, t->n / 16, t->k * 16, t->b_panel) : floats(b, READ, t->k, t->n, t->b_depth);
    t->c = floats(b, t->first ? WRITTEN : UPDATED, t->m, t->n, t->ldc);
    b->flops = 2.0 * (double)(t->m * t->n) * (double)t->k;
    snprintf(b->text, sizeof b->text, "d%zu", d);
    GIVE(b, *t);
}

// choice: 0 rows, 1 panels; 2: of every second key, as a column mask of 0.5 leaves them.
static void make_pack(kernel_build *b) {
    const size_t d = b->shape->attention.head_dim, d16 = padded_dim(b), step = b->bench->choice == 2 ? 2 : 1;
    lod_attention_pack_args args = {.count = LOD_KEY_BLOCK, .n = d, .ldx = d, .scale = 1};
    args.x = floats(b, READ, LOD_KEY_BLOCK, d, step * d);
    if (step == 2) args.index = indices(b, LOD_KEY_BLOCK, 0, 2);
    float *to = floats(b, WRITTEN, LOD_KEY_BLOCK, d16, d16);
    *(b->bench->choice == 1 ? &args.panels : &args.rows) = to;
    b->flops = (double)(LOD_KEY_BLOCK * d);
    snprintf(b->text, sizeof b->text, "d%zu", d);
    GIVE(b, args);
}

static void make_unpack(kernel_build *b) {
    const size_t d = b->shape->attention.head_dim, d16 = padded_dim(b);
    lod_attention_unpack_args args = {.count = LOD_KEY_BLOCK, .n = d, .scale = 1, .ldx = d};
    args.rows = floats(b, READ, LOD_KEY_BLOCK, d16, d16);
    args.index = indices(b, LOD_KEY_BLOCK, 0, 1);
    args.x = floats(b, WRITTEN, LOD_KEY_BLOCK, d, d);
    b->flops = 2.0 * (double)(LOD_KEY_BLOCK * d);
    snprintf(b->text, sizeof b->text, "d%zu", d);
    GIVE(b, args);
}

static lod_attention_mask mask_of(const kernel_build *b) {
    return (lod_attention_mask){.mode = (lod_attention_mode)b->bench->choice,
                                .keep = b->rate > 0 ? LOD_KEEP_DRAWN : LOD_KEEP_ALL, .seed = 1,
                                .threshold = (uint32_t)(b->rate * 65536)};
}

// What a step without dropout is compared with is DropKey's form that keeps all.
static bool counts_dropped(const kernel_build *b) {
    return b->bench->choice == LOD_ATTENTION_NOGRAD && b->rate > 0;
}

static void make_softmax(kernel_build *b) {
    const size_t d = b->shape->attention.head_dim, d16 = padded_dim(b), rows = QUERY_BLOCK, n = LOD_KEY_BLOCK;
    lod_attention_softmax_args args = {.rows = rows, .n = n, .head_dim = d, .mask = mask_of(b)};
    if (b->rate == 0) args.mask.mode = LOD_ATTENTION_LOGITS;
    args.seen = indices(b, rows, LOD_KEY_BLOCK, 0);
    args.s = floats(b, UPDATED, rows, n, LOD_SCORE_LD);
    args.m = constant(b, UPDATED, rows, -1e30f), args.l = constant(b, UPDATED, rows * 16, 0);
    if (counts_dropped(b)) {
        args.dropped_m = constant(b, UPDATED, rows, -1e30f), args.dropped_l = constant(b, UPDATED, rows * 16, 0);
    }
    args.o = floats(b, UPDATED, rows, d16, d16);
    b->flops = (double)rows * (4.0 * (double)n + (double)d16); // of a logit: maximum, difference, exp, sum
    snprintf(b->text, sizeof b->text, "d%zu", d);
    GIVE(b, args);
}

static void make_finish(kernel_build *b) {
    const size_t d = b->shape->attention.head_dim, d16 = padded_dim(b), rows = QUERY_BLOCK;
    const bool both = b->bench->choice == LOD_ATTENTION_NOGRAD;
    lod_attention_finish_args args = {.rows = rows, .head_dim = d, .inv = 1, .ldo = d, .ldlse = 1};
    args.m = floats(b, READ, 1, rows, rows), args.l = constant(b, READ, rows * 16, 1);
    if (both) args.dropped_m = floats(b, READ, 1, rows, rows), args.dropped_l = constant(b, READ, rows * 16, 1);
    args.acc = floats(b, READ, rows, d, d16);
    args.o = floats(b, WRITTEN, rows, d, d), args.lse = floats(b, WRITTEN, 1, rows, rows);
    if (both) args.lse_visible = floats(b, WRITTEN, 1, rows, rows);
    b->flops = 3.0 * (double)(rows * d);
    snprintf(b->text, sizeof b->text, "d%zu", d);
    GIVE(b, args);
}

static void make_delta(kernel_build *b) {
    const size_t d = b->shape->attention.head_dim, rows = QUERY_BLOCK;
    lod_attention_delta_args args = {.rows = rows, .head_dim = d, .ldo = d};
    args.d_o = floats(b, READ, rows, d, d), args.o = floats(b, READ, rows, d, d);
    args.delta = floats(b, WRITTEN, 1, rows, rows);
    b->flops = 2.0 * (double)(rows * d);
    snprintf(b->text, sizeof b->text, "d%zu", d);
    GIVE(b, args);
}

// The size of a head does not matter to it.
static void make_attention_grad(kernel_build *b) {
    const size_t rows = QUERY_BLOCK, n = LOD_KEY_BLOCK;
    lod_attention_grad_args args = {.rows = rows, .n = n, .mask = mask_of(b), .ldlse = 1};
    if (b->rate == 0) args.mask.mode = LOD_ATTENTION_LOGITS;
    args.seen = indices(b, rows, LOD_KEY_BLOCK, 0);
    args.s = floats(b, UPDATED, rows, n, LOD_SCORE_LD), args.dp = floats(b, UPDATED, rows, n, LOD_SCORE_LD);
    args.lse = constant(b, READ, rows, 5); // about log(LOD_KEY_BLOCK)
    if (counts_dropped(b)) args.lse_visible = constant(b, READ, rows, 5);
    args.delta = floats(b, READ, 1, rows, rows);
    b->flops = (double)(rows * n) * (counts_dropped(b) ? 7 : 4);
    snprintf(b->text, sizeof b->text, "q%zu_k%zu", rows, n);
    GIVE(b, args);
}

// --- Loss ---

// A row at a time, as in a chunk's gradient; choice 1: with the gradient.
static void make_xent(kernel_build *b) {
    const size_t n = b->shape->loss.vocabulary;
    const bool gradient = b->bench->choice;
    lod_xent_kernel_args args = {.rows = 1, .n = n, .ldz = n, .gradient = gradient};
    args.z = floats(b, gradient ? UPDATED : READ, 1, n, n);
    args.target = indices(b, 1, (uint32_t)n / 2, 0);
    args.loss = floats(b, WRITTEN, 1, 1, 1);
    b->flops = (gradient ? 5.0 : 4.0) * (double)n;
    snprintf(b->text, sizeof b->text, "n%zu", n);
    GIVE(b, args);
}

// choice: LOD_CONSISTENCY_..., and BOTH.
static void make_consistency(kernel_build *b) {
    const size_t n = b->shape->loss.vocabulary;
    const bool both = b->bench->choice & BOTH;
    lod_consistency_kernel_args args = {.rows = 1, .n = n, .ldz = n, .weight = 0.1f, .gradient = true, .both = both,
                                        .consistency = (lod_consistency)(b->bench->choice & ~BOTH)};
    args.z = floats(b, UPDATED, 1, n, n), args.z2 = floats(b, UPDATED, 1, n, n);
    args.target = indices(b, 1, (uint32_t)n / 2, 0);
    args.loss = floats(b, WRITTEN, 1, 1, 1), args.divergence = floats(b, WRITTEN, 1, 1, 1);
    args.scratch = floats(b, UPDATED, 1, n, n);
    b->flops = (both ? 23.0 : 19.0) * (double)n; // KL's; JS has three functions more
    snprintf(b->text, sizeof b->text, "n%zu", n);
    GIVE(b, args);
}

// --- Rows and elements ---

// The rows of one thread's part of a shape.
static size_t rows_of(kernel_build *b, size_t n) {
    const size_t rows = lod_min(GROUP_TOKENS, b->shape->rowwise.tokens);
    b->flops = bench_rowwise_flops(b->kernel->op) * (double)(rows * n);
    snprintf(b->text, sizeof b->text, "t%zu_n%zu", rows, n);
    return rows;
}

static void make_rmsnorm_fwd(kernel_build *b) {
    const size_t n = b->shape->rowwise.width, rows = rows_of(b, n);
    lod_rmsnorm_fwd_kernel_args args = {.rows = rows, .n = n, .ldx = n, .eps = 1e-5f, .ldy = n};
    args.x = floats(b, READ, rows, n, n), args.g = floats(b, READ, 1, n, n);
    args.rstd = floats(b, WRITTEN, 1, rows, rows), args.y = floats(b, WRITTEN, rows, n, n);
    GIVE(b, args);
}

static void make_rmsnorm_bwd(kernel_build *b) {
    const size_t n = b->shape->rowwise.width, rows = rows_of(b, n);
    lod_rmsnorm_bwd_kernel_args args = {.rows = rows, .n = n, .ldx = n, .lddy = n, .lddx = n};
    args.x = floats(b, READ, rows, n, n), args.g = floats(b, READ, 1, n, n), args.rstd = floats(b, READ, 1, rows, rows);
    args.dy = floats(b, READ, rows, n, n), args.add = floats(b, READ, rows, n, n);
    args.dx = floats(b, WRITTEN, rows, n, n);
    GIVE(b, args);
}

static void make_rope(kernel_build *b) {
    const size_t n = b->shape->rowwise.width, rows = rows_of(b, n);
    const size_t heads = b->shape->rowwise.heads, half = n / heads / 2;
    lod_rope_kernel_args args = {.rows = rows, .heads = heads, .head_dim = 2 * half, .ldx = n};
    args.x = floats(b, UPDATED, rows, n, n);
    args.position = indices(b, rows, 0, 1);
    float *cosine = floats(b, READ, rows, half, half), *sine = floats(b, READ, rows, half, half);
    lod_rope_tables(rows, 2 * half, 10000, NULL, cosine, sine);
    args.cosine = cosine, args.sine = sine;
    GIVE(b, args);
}

static void make_silu_fwd(kernel_build *b) {
    const size_t n = b->shape->rowwise.middle * rows_of(b, b->shape->rowwise.middle);
    lod_silu_mul_fwd_kernel_args args = {.n = n};
    args.gate = floats(b, READ, 1, n, n), args.up = floats(b, READ, 1, n, n), args.y = floats(b, WRITTEN, 1, n, n);
    GIVE(b, args);
}

static void make_silu_bwd(kernel_build *b) {
    const size_t n = b->shape->rowwise.middle * rows_of(b, b->shape->rowwise.middle);
    lod_silu_mul_bwd_kernel_args args = {.n = n};
    args.gate = floats(b, READ, 1, n, n), args.up = floats(b, READ, 1, n, n), args.dy = floats(b, READ, 1, n, n);
    args.dgate = floats(b, WRITTEN, 1, n, n), args.dup = floats(b, WRITTEN, 1, n, n);
    GIVE(b, args);
}

static void make_add(kernel_build *b) {
    const size_t n = b->shape->rowwise.width * rows_of(b, b->shape->rowwise.width);
    lod_add_kernel_args args = {.n = n};
    args.a = floats(b, READ, 1, n, n), args.b = floats(b, READ, 1, n, n), args.y = floats(b, WRITTEN, 1, n, n);
    GIVE(b, args);
}

// choice: 1 a column mask, the same for all rows.
static void make_dropout_add(kernel_build *b) {
    const size_t n = b->shape->rowwise.width, rows = rows_of(b, n);
    lod_dropout_add_kernel_args args = {.rows = rows, .n = n, .ldx = n, .column = b->bench->choice, .seed = 1,
                                        .keep = b->rate > 0 ? LOD_KEEP_DRAWN : LOD_KEEP_ALL, .scale = 1, .ldy = n,
                                        .threshold = (uint32_t)(b->rate * 65536)};
    args.x = floats(b, READ, rows, n, n), args.add = floats(b, READ, rows, n, n);
    args.y = floats(b, WRITTEN, rows, n, n);
    GIVE(b, args);
}

// --- The table ---

enum { LOGITS = LOD_ATTENTION_LOGITS, WEIGHTS = LOD_ATTENTION_WEIGHTS, NOGRAD = LOD_ATTENTION_NOGRAD };
enum { KL = LOD_CONSISTENCY_KL, JS = LOD_CONSISTENCY_JS };

const kernel_bench kernel_benches[] = {
    {LOD_OP_lowrank_tile_f32, KERNEL_LAYER, NULL, make_tile, 0, 0},
    {LOD_OP_lowrank_tile_f32, KERNEL_LAYER, "first", make_tile, 0, 1},
    {LOD_OP_lowrank_tile_f32, KERNEL_LAYER, "first", make_tile, 0.1, 1},
    {LOD_OP_lowrank_few_f32, KERNEL_LAYER, "fwd_f32", make_few, 0, LOD_F32},
    {LOD_OP_lowrank_few_f32, KERNEL_LAYER, "fwd_bf16", make_few, 0, LOD_BF16},
    {LOD_OP_lowrank_few_f32, KERNEL_LAYER, "bwd_f32", make_few, 0, LOD_F32 | BACKWARD},
    {LOD_OP_keep_bits, KERNEL_LAYER, NULL, make_keep_bits, 0, 0},
    {LOD_OP_weight_panel_f32, KERNEL_LAYER, "fwd_f32", make_panel, 0, LOD_F32},
    {LOD_OP_weight_panel_f32, KERNEL_LAYER, "fwd_bf16", make_panel, 0, LOD_BF16},
    {LOD_OP_weight_panel_f32, KERNEL_LAYER, "bwd_bf16", make_panel, 0, LOD_BF16 | BACKWARD},
    {LOD_OP_weight_panel_f32, KERNEL_LAYER, "fwd_f16", make_panel, 0, LOD_F16},
    {LOD_OP_rank_dot_f32, KERNEL_LAYER, NULL, make_rank_dot, 0, 0},
    {LOD_OP_rank_dot_f32, KERNEL_LAYER, NULL, make_rank_dot, 0.1, 0},
    {LOD_OP_rank_grad_f32, KERNEL_LAYER, NULL, make_rank_grad, 0, 0},
    {LOD_OP_rank_grad_f32, KERNEL_LAYER, NULL, make_rank_grad, 0.1, 0},
    {LOD_OP_adamw_f32, KERNEL_LAYER, NULL, make_adamw, 0, 0},
    {LOD_OP_attention_tile_f32, KERNEL_ATTENTION, "scores", make_attention_tile, 0, 0},
    {LOD_OP_attention_tile_f32, KERNEL_ATTENTION, "values", make_attention_tile, 0, 1},
    {LOD_OP_attention_tile_f32, KERNEL_ATTENTION, "gradients", make_attention_tile, 0, 2},
    {LOD_OP_attention_pack_f32, KERNEL_ATTENTION, "rows", make_pack, 0, 0},
    {LOD_OP_attention_pack_f32, KERNEL_ATTENTION, "panels", make_pack, 0, 1},
    {LOD_OP_attention_pack_f32, KERNEL_ATTENTION, "listed", make_pack, 0, 2},
    {LOD_OP_attention_unpack_f32, KERNEL_ATTENTION, NULL, make_unpack, 0, 0},
    {LOD_OP_attention_softmax_f32, KERNEL_ATTENTION, NULL, make_softmax, 0, LOGITS},
    {LOD_OP_attention_softmax_f32, KERNEL_ATTENTION, "logits", make_softmax, 0.1, LOGITS},
    {LOD_OP_attention_softmax_f32, KERNEL_ATTENTION, "weights", make_softmax, 0.1, WEIGHTS},
    {LOD_OP_attention_softmax_f32, KERNEL_ATTENTION, "nograd", make_softmax, 0.1, NOGRAD},
    {LOD_OP_attention_finish_f32, KERNEL_ATTENTION, NULL, make_finish, 0, LOGITS},
    {LOD_OP_attention_finish_f32, KERNEL_ATTENTION, "nograd", make_finish, 0, NOGRAD},
    {LOD_OP_attention_delta_f32, KERNEL_ATTENTION, NULL, make_delta, 0, 0},
    {LOD_OP_attention_grad_f32, KERNEL_ATTENTION, NULL, make_attention_grad, 0, LOGITS},
    {LOD_OP_attention_grad_f32, KERNEL_ATTENTION, "logits", make_attention_grad, 0.1, LOGITS},
    {LOD_OP_attention_grad_f32, KERNEL_ATTENTION, "weights", make_attention_grad, 0.1, WEIGHTS},
    {LOD_OP_attention_grad_f32, KERNEL_ATTENTION, "nograd", make_attention_grad, 0.1, NOGRAD},
    {LOD_OP_xent_f32, KERNEL_LOSS, "loss", make_xent, 0, 0},
    {LOD_OP_xent_f32, KERNEL_LOSS, "gradient", make_xent, 0, 1},
    {LOD_OP_consistency_f32, KERNEL_LOSS, "kl", make_consistency, 0, KL},
    {LOD_OP_consistency_f32, KERNEL_LOSS, "kl_both", make_consistency, 0, KL | BOTH},
    {LOD_OP_consistency_f32, KERNEL_LOSS, "js", make_consistency, 0, JS},
    {LOD_OP_rmsnorm_fwd_f32, KERNEL_ROWWISE, NULL, make_rmsnorm_fwd, 0, 0},
    {LOD_OP_rmsnorm_bwd_f32, KERNEL_ROWWISE, NULL, make_rmsnorm_bwd, 0, 0},
    {LOD_OP_rope_f32, KERNEL_ROWWISE, NULL, make_rope, 0, 0},
    {LOD_OP_silu_mul_fwd_f32, KERNEL_ROWWISE, NULL, make_silu_fwd, 0, 0},
    {LOD_OP_silu_mul_bwd_f32, KERNEL_ROWWISE, NULL, make_silu_bwd, 0, 0},
    {LOD_OP_add_f32, KERNEL_ROWWISE, NULL, make_add, 0, 0},
    {LOD_OP_dropout_add_f32, KERNEL_ROWWISE, "element", make_dropout_add, 0.1, 0},
    {LOD_OP_dropout_add_f32, KERNEL_ROWWISE, "column", make_dropout_add, 0.1, 1},
};
const size_t kernel_bench_count = sizeof kernel_benches / sizeof kernel_benches[0];
