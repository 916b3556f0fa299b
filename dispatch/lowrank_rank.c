// Phase 1 of a low-rank layer: masks, and U or dU, by groups of tokens; where a product reads the same rows next, as it
// copies them, so that they come from memory once.
//
// LoRA Dropout drops columns of A and of B', other ones for each instance. Its sums run over the kept columns of what
// they read, packed once for an instance; what it drops of the result is left to the product, whose tiles select by
// token: each token gets the bits of its instance, and all instances share one stream of W.
#include <string.h>

#include "lowrank.h"
#include "philox.h"
#include "product.h"

enum { ANY_INSTANCE = LOD_INSTANCES };

// The tokens of one instance, or all.
typedef struct pass {
    const lod_lowrank_call *call;
    uint32_t instance;
    const uint8_t *columns; // that the sums run over, NULL: all
} pass;

// --- Masks ---

static void draw(const lod_lowrank_call *c, const lod_dropout *dropout, uint32_t instance, lod_keep_bits_args args) {
    args.seed = dropout->seed, args.site = dropout->site | instance << LOD_SITE_INSTANCE_BIT;
    args.ldbits = c->ldkeep;
    lod_kernel_find(LOD_OP_keep_bits, c->plan->isa)->fn.keep_bits(&args);
}

static void draw_columns(const lod_lowrank_call *c, const lod_columns *columns, const lod_dropout *dropout, size_t n,
                         uint32_t instance) {
    if (!columns->threshold) return;
    draw(c, dropout, instance,
         (lod_keep_bits_args){.rows = 1, .n = n, .draw = dropout->draw, .threshold = columns->threshold,
                              .bits = columns->bits + instance * c->ldkeep});
}

// The bits of a segment's tokens: drawn, or the same for all of them.
static void fill_keep(const lod_lowrank_call *c, size_t segment, size_t begin, size_t end) {
    const lod_rows *rows = &c->args->rows;
    const uint32_t instance = lod_instance(rows, segment);
    const lod_columns *columns = c->backward ? &c->a : &c->b;
    if (c->threshold) {
        draw(c, &c->args->dropout, instance,
             (lod_keep_bits_args){.rows = end - begin, .n = c->plan->shape.lowrank.n_in,
                                  .row0 = (uint32_t)(begin - rows->start[segment]), .draw = rows->draw[segment],
                                  .threshold = c->threshold, .bits = c->keep + begin * c->ldkeep});
        return;
    }
    for (size_t t = begin; t < end; t++) {
        memcpy(c->keep + t * c->ldkeep, columns->bits + instance * c->ldkeep, c->ldkeep);
    }
}

// --- U and dU ---

static void dot(const pass *p, size_t begin, size_t end) {
    const lod_lowrank_call *c = p->call;
    const lod_lowrank_args *a = c->args;
    const lod_lowrank_shape *shape = &c->plan->shape.lowrank;
    if (begin == end) return;
    lod_rank_dot_args dot = {.tokens = end - begin, .r = a->rank, .a = c->rows, .lda = c->ldrows, .ldu = a->rank};
    dot.columns = p->columns;
    if (c->backward) {
        dot.x = a->dy + begin * a->lddy, dot.ldx = a->lddy, dot.n = shape->n_out;
        dot.scale = (float)c->scale;
        dot.u = c->du + begin * a->rank;
    } else {
        dot.x = a->x + begin * a->ldx, dot.ldx = a->ldx, dot.n = shape->n_in;
        dot.keep = c->threshold ? c->keep + begin * c->ldkeep : NULL, dot.ldkeep = c->ldkeep;
        dot.scale = (float)(c->scale * c->inv);
        dot.u = a->u + begin * a->rank;
    }
    lod_kernel_find(LOD_OP_rank_dot_f32, c->plan->isa)->fn.rank_dot_f32(&dot);
}

// Segments that lie side by side are one product.
static void rank_tokens(const pass *p, size_t begin, size_t end) {
    const lod_lowrank_call *c = p->call;
    const lod_rows *rows = &c->args->rows;
    size_t run = begin, run_end = begin;
    for (size_t i = 0; i < rows->count; i++) {
        size_t first = rows->start[i] > begin ? rows->start[i] : begin, last = lod_min(rows->start[i + 1], end);
        if (first >= last || (p->instance != ANY_INSTANCE && lod_instance(rows, i) != p->instance)) continue;
        if (c->keep) fill_keep(c, i, first, last);
        if (first != run_end) {
            dot(p, run, run_end);
            run = first;
        }
        run_end = last;
    }
    dot(p, run, run_end);
}

static void rank_group(void *context, size_t group) {
    const pass *p = context;
    rank_tokens(p, group * LOD_TOKEN_GROUP, lod_min((group + 1) * LOD_TOKEN_GROUP, p->call->tokens));
}

// --- A and B' ---

// The distance of copied rows of A or B': an odd number of cache lines.
static size_t padded(size_t n) {
    return lod_round_up(n, 32) + 16;
}

size_t lod_lowrank_rows_bytes(const lod_lowrank_shape *shape) {
    return shape->rank * padded(shape->n_in > shape->n_out ? shape->n_in : shape->n_out) * sizeof(float);
}

// The kept columns of a row, and +0 to the end of a vector.
static void pack_row(const float *from, size_t n, const uint8_t *columns, float *to) {
    size_t count = 0;
    for (size_t j = 0; j < n; j++) {
        to[count] = from[j];
        count += columns[j / 8] >> j % 8 & 1;
    }
    for (; count % LOD_PANEL; count++) to[count] = 0;
}

// The matrix that the sums run over, its kept columns.
static void copy_rows(lod_lowrank_call *c, const uint8_t *columns) {
    const lod_lowrank_shape *shape = &c->plan->shape.lowrank;
    const float *from = c->backward ? c->args->bt : c->args->a;
    const size_t n = c->backward ? shape->n_out : shape->n_in;
    c->ldrows = padded(n);
    for (size_t q = 0; q < c->args->rank; q++) {
        if (columns) {
            pack_row(from + q * n, n, columns, c->rows + q * c->ldrows);
        } else {
            memcpy(c->rows + q * c->ldrows, from + q * n, n * sizeof(float));
        }
    }
}

static void run_pass(lod_lowrank_call *c, uint32_t instance, const uint8_t *columns) {
    pass p = {.call = c, .instance = instance, .columns = columns};
    lod_parallel(c->plan->threads, lod_div_up(c->tokens, LOD_TOKEN_GROUP), rank_group, &p);
}

void lod_lowrank_rank_tokens(const void *call, lod_range tokens) {
    const pass p = {.call = call, .instance = ANY_INSTANCE};
    rank_tokens(&p, tokens.begin, tokens.end);
}

bool lod_lowrank_rank(lod_lowrank_call *c, bool product) {
    const lod_lowrank_shape *shape = &c->plan->shape.lowrank;
    const lod_columns *sums = c->backward ? &c->b : &c->a;
    bool there[LOD_INSTANCES] = {false};
    for (size_t i = 0; i < c->args->rows.count; i++) there[lod_instance(&c->args->rows, i)] = true;
    for (uint32_t k = 0; k < LOD_INSTANCES; k++) {
        if (!there[k]) continue;
        draw_columns(c, &c->a, &c->args->lora_a, shape->n_in, k);
        draw_columns(c, &c->b, &c->args->lora_b, shape->n_out, k);
        if (!sums->threshold) continue;
        copy_rows(c, sums->bits + k * c->ldkeep);
        run_pass(c, k, sums->bits + k * c->ldkeep);
    }
    if (sums->threshold) return false;
    copy_rows(c, NULL);
    if (!product) run_pass(c, ANY_INSTANCE, NULL);
    return product;
}
