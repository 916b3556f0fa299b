// Few tokens have a kernel that does all of their product. Otherwise, loops from outside: tokens by mc, depth by kc (a
// block of X is copied: rows at a fixed stride, so tiles need one pointer and no power-of-two strides reach them),
// strips of nr columns (their panels of W are widened and, forward, transposed), tiles of mr tokens. Accumulators
// travel through C between k blocks; the sum over k stays one ascending chain, so no block size changes a bit.
#include <string.h>

#include "product.h"

enum { FLOP_PER_THREAD = 1 << 21 }; // less work than this is not worth another thread

static const lod_blocks *blocks_of(const lod_product *p) {
    return p->transposed ? &p->plan->choice.forward : &p->plan->choice.backward;
}

// Columns that are prepared together: whole panels, at least one tile.
static size_t strip_width(const lod_blocks *blocks) {
    return lod_round_up(blocks->tile->nr, LOD_PANEL);
}

static size_t task_floats(const lod_blocks *blocks) {
    return blocks->mc * LOD_X_LD + blocks->kc * strip_width(blocks);
}

size_t lod_product_workspace(const lod_plan *plan) {
    const size_t forward = task_floats(&plan->choice.forward), backward = task_floats(&plan->choice.backward);
    return plan->threads * (forward > backward ? forward : backward) * sizeof(float);
}

static size_t width_of(const lod_product *p) {
    return p->transposed ? p->n_out : p->n_in;
}

// The columns of C to compute.
static size_t columns_of(const lod_product *p) {
    return p->columns ? p->columns : width_of(p);
}

typedef struct grid {
    const lod_product *product;
    size_t tasks_m, tasks_n; // the token and the panel range are cut into so many parts
} grid;

static void pack_x(const lod_product *p, lod_range tokens, size_t k0, size_t k, float *block) {
    for (size_t t = tokens.begin; t < tokens.end; t++) {
        memcpy(block + (t - tokens.begin) * LOD_X_LD, p->x + t * p->ldx + k0, k * sizeof(float));
    }
}

// The k block of a strip's panels as [k][LOD_PANEL] floats each: where they lie, or widened into the buffer. *ldpanel:
// floats from one panel to the next.
static const float *strip_of(const lod_product *p, size_t column, size_t k0, size_t k, float *buffer, size_t *ldpanel) {
    size_t panel = column / LOD_PANEL;
    if (!p->transposed && p->w.dtype == LOD_F32) {
        *ldpanel = p->n_out * LOD_PANEL;
        return (const float *)p->w.packed + (panel * p->n_out + k0) * LOD_PANEL;
    }
    const lod_kernel *kernel = lod_kernel_find(LOD_OP_weight_panel_f32, p->plan->isa);
    const size_t n = columns_of(p);
    *ldpanel = k * LOD_PANEL;
    for (size_t j = 0; j < strip_width(blocks_of(p)) && column + j < n; j += LOD_PANEL) {
        kernel->fn.weight_panel_f32(&(lod_weight_panel_args){
            .w = p->w, .n_in = p->n_in, .n_out = p->n_out, .transposed = p->transposed, .panel = panel + j / LOD_PANEL,
            .k0 = k0, .k = k, .out = buffer + j * k});
    }
    return buffer;
}

static void run_strip(const lod_product *p, lod_range tokens, size_t k0, size_t k, size_t column, const float *x,
                      float *buffer) {
    const lod_kernel *tile = blocks_of(p)->tile;
    const size_t n = columns_of(p), mr = tile->mr, nr = tile->nr;
    size_t ldpanel;
    const float *w = strip_of(p, column, k0, k, buffer, &ldpanel);
    for (size_t j = 0; j < strip_width(blocks_of(p)) && column + j < n; j += nr) {
        for (size_t t = tokens.begin; t < tokens.end; t += mr) {
            tile->fn.lowrank_tile_f32(&(lod_lowrank_tile_args){
                .m = lod_min(mr, tokens.end - t), .n = lod_min(nr, n - column - j), .k = k, .r = p->r,
                .x = x + (t - tokens.begin) * LOD_X_LD, .w = w + j, .ldpanel = ldpanel,
                .u = p->r ? p->u + t * p->r : NULL, .ldu = p->r, .b = p->r ? p->b + column + j : NULL,
                .ldb = width_of(p), .keep = p->keep ? p->keep + t * p->ldkeep : NULL, .ldkeep = p->ldkeep,
                .keep_col = column + j, .inv = p->inv, .first = k0 == 0, .c = p->c + t * p->ldc + column + j,
                .ldc = p->ldc});
        }
    }
}

// All of a product for few tokens, a range of its columns a task: no tiles, no blocks, no workspace.
static void run_few(void *context, size_t i) {
    const grid *g = context;
    const lod_product *p = g->product;
    const lod_range columns = lod_part(columns_of(p), LOD_PANEL, g->tasks_n, i);
    lod_kernel_find(LOD_OP_lowrank_few_f32, p->plan->isa)->fn.lowrank_few_f32(&(lod_lowrank_few_args){
        .tokens = p->tokens, .w = p->w, .n_in = p->n_in, .n_out = p->n_out, .transposed = p->transposed,
        .begin = columns.begin, .end = columns.end, .r = p->r, .x = p->x, .ldx = p->ldx, .u = p->u, .ldu = p->r,
        .b = p->b, .ldb = width_of(p), .keep = p->keep, .ldkeep = p->ldkeep, .inv = p->inv, .c = p->c, .ldc = p->ldc});
}

static void run_task(void *context, size_t i) {
    const grid *g = context;
    const lod_product *p = g->product;
    const lod_blocks *blocks = blocks_of(p);
    const size_t n = columns_of(p), depth = p->transposed ? p->n_in : p->n_out;
    lod_range tokens = lod_part(p->tokens, blocks->tile->mr, g->tasks_m, i / g->tasks_n);
    const size_t strip = strip_width(blocks);
    lod_range columns = lod_part(n, strip, g->tasks_n, i % g->tasks_n);
    float *x = (float *)p->workspace + i * task_floats(blocks), *buffer = x + blocks->mc * LOD_X_LD;
    for (size_t t0 = tokens.begin; t0 < tokens.end; t0 += blocks->mc) {
        lod_range block = {t0, lod_min(t0 + blocks->mc, tokens.end)};
        for (size_t k0 = 0; k0 < depth; k0 += blocks->kc) {
            size_t k = lod_min(blocks->kc, depth - k0);
            pack_x(p, block, k0, k, x);
            for (size_t column = columns.begin; column < columns.end; column += strip) {
                run_strip(p, block, k0, k, column, x, buffer);
            }
        }
    }
}

void lod_product_run(const lod_product *p) {
    const size_t n = columns_of(p), depth = p->transposed ? p->n_in : p->n_out;
    double flop = 2.0 * (double)p->tokens * (double)n * (double)depth;
    size_t threads = lod_min(lod_parallel_threads(p->plan->threads), 1 + (size_t)(flop / FLOP_PER_THREAD));
    if (p->tokens && p->tokens <= LOD_FEW_TOKENS) {
        grid g = {.product = p, .tasks_m = 1, .tasks_n = lod_min(threads, lod_div_up(n, LOD_PANEL))};
        lod_parallel((unsigned)threads, g.tasks_n, run_few, &g);
        return;
    }
    const lod_blocks *blocks = blocks_of(p);
    size_t panels = lod_div_up(n, strip_width(blocks)), strips = lod_div_up(p->tokens, blocks->tile->mr);
    // Cutting the columns makes each task copy all of X, cutting the tokens makes it widen all of W.
    grid g = {.product = p};
    if (blocks->cut_tokens) {
        g.tasks_m = lod_min(threads, strips);
        g.tasks_n = g.tasks_m ? lod_min(threads / g.tasks_m, panels) : 0;
    } else {
        g.tasks_n = lod_min(threads, panels);
        g.tasks_m = lod_min(threads / g.tasks_n, strips);
    }
    lod_parallel((unsigned)threads, g.tasks_m * g.tasks_n, run_task, &g);
}
