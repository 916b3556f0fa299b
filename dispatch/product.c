// Few tokens have a kernel that does all of their product. Otherwise, loops from outside:
//
//     tokens by mc, depth by kd    X is copied, by all threads: k blocks of rows at a fixed stride, so that tiles need
//                                  one pointer and no power-of-two strides reach them
//       columns by nc              sums of mc x nc stay packed in the second cache until the depth is through
//         depth by kc
//           strips of nr columns   their panels of W are widened and, forward, transposed; they stay in the first cache
//             tiles of mr tokens
//
// The sum over k stays one ascending chain, through the packed sums or C itself: no block size changes a bit.
#include <string.h>

#include "ahead.h"
#include "product.h"

enum { FLOP_PER_THREAD = 1 << 21 }; // less work than this is not worth another thread

static const lod_blocks *blocks_of(const lod_product *p) {
    return p->transposed ? &p->plan->choice.forward : &p->plan->choice.backward;
}

static size_t width_of(const lod_product *p) {
    return p->transposed ? p->n_out : p->n_in;
}

// The columns of C to compute.
static size_t columns_of(const lod_product *p) {
    return p->columns ? p->columns : width_of(p);
}

// --- Workspace: copies of X, then for each task its sums and its strip of W ---

static size_t copy_floats(const lod_blocks *blocks, size_t rows) {
    return rows * blocks->kd;
}

static size_t sums_floats(const lod_blocks *blocks) {
    return blocks->mc * blocks->nc;
}

static size_t task_floats(const lod_blocks *blocks) {
    return sums_floats(blocks) + lod_strip_width(blocks) * blocks->kc;
}

static size_t workspace_floats(const lod_plan *plan, bool forward) {
    const lod_blocks *blocks = forward ? &plan->choice.forward : &plan->choice.backward;
    const size_t tokens = lod_product_shape_of(plan, forward).tokens;
    // The most that all parts of a round have: whole blocks, or all tokens in parts of whole tiles.
    const size_t rows = lod_min(plan->threads * blocks->mc, tokens + plan->threads * blocks->tile->mr);
    return copy_floats(blocks, rows) + plan->threads * task_floats(blocks);
}

size_t lod_product_workspace(const lod_plan *plan) {
    const size_t forward = workspace_floats(plan, true), backward = workspace_floats(plan, false);
    return (forward > backward ? forward : backward) * sizeof(float);
}

// --- The nest ---

typedef struct grid {
    const lod_product *product;
    const lod_blocks *blocks;
    size_t columns, depth, strip;
    size_t tasks_m, tasks_n; // the token and the column range are cut into so many parts
    size_t rows;             // most tokens of a part in a round
    size_t round;            // of mc tokens of every part
    lod_range k;             // what is copied
    float *copies, *tasks;   // workspace
} grid;

// The tokens of a part in this round.
static lod_range tokens_of(const grid *g, size_t part) {
    const lod_range all = lod_part(g->product->tokens, g->blocks->tile->mr, g->tasks_m, part);
    const size_t begin = lod_min(all.begin + g->round * g->rows, all.end);
    return (lod_range){begin, lod_min(begin + g->rows, all.end)};
}

// The copy of k block k0, from a part's first token on.
static float *copy_of(const grid *g, size_t part, size_t k0) {
    return g->copies + copy_floats(g->blocks, part * g->rows) + (k0 - g->k.begin) * g->rows;
}

static void copy_x(void *context, size_t i) {
    const grid *g = context;
    const lod_product *p = g->product;
    const size_t chunks = lod_div_up(g->rows, LOD_TOKEN_GROUP), part = i / chunks;
    const lod_range tokens = tokens_of(g, part);
    const size_t begin = lod_min(tokens.begin + i % chunks * LOD_TOKEN_GROUP, tokens.end);
    const size_t end = lod_min(begin + LOD_TOKEN_GROUP, tokens.end);
    if (p->before && g->k.begin == 0) p->before(p->before_context, (lod_range){begin, end});
    for (size_t t = begin; t < end; t++) {
        for (size_t k0 = g->k.begin; k0 < g->k.end; k0 += g->blocks->kc) {
            memcpy(copy_of(g, part, k0) + (t - tokens.begin) * g->blocks->kc, p->x + t * p->ldx + k0,
                   lod_min(g->blocks->kc, g->k.end - k0) * sizeof(float));
        }
    }
}

// What a task works on: its part's tokens by nc columns.
typedef struct block {
    const grid *grid;
    size_t part;
    lod_range tokens, columns;
    float *sums, *buffer; // of the task
} block;

// The k block of a strip's panels as [k][LOD_PANEL] floats each: where they lie, or widened into the buffer. *ldpanel:
// floats from one panel to the next.
static const float *strip_of(const block *b, size_t column, size_t k0, size_t k, size_t *ldpanel) {
    const grid *g = b->grid;
    const lod_product *p = g->product;
    const size_t panel = column / LOD_PANEL;
    if (!p->transposed && p->w.dtype == LOD_F32) {
        *ldpanel = p->n_out * LOD_PANEL;
        return (const float *)p->w.packed + (panel * p->n_out + k0) * LOD_PANEL;
    }
    const lod_kernel *kernel = lod_kernel_find(LOD_OP_weight_panel_f32, p->plan->isa);
    *ldpanel = k * LOD_PANEL;
    for (size_t j = 0; j < g->strip / LOD_PANEL && column + j * LOD_PANEL < g->columns; j++) {
        kernel->fn.weight_panel_f32(&(lod_weight_panel_args){
            .w = p->w, .n_in = p->n_in, .n_out = p->n_out, .transposed = p->transposed, .panel = panel + j, .k0 = k0,
            .k = k, .out = b->buffer + j * *ldpanel});
    }
    return b->buffer;
}

// Where that lies in the packed weight.
static lod_ahead strip_ahead(const block *b, size_t column, size_t k0, size_t k) {
    const lod_product *p = b->grid->product;
    const size_t item = p->w.dtype == LOD_F32 ? sizeof(float) : sizeof(uint16_t), row = LOD_PANEL * item;
    const char *packed = p->w.packed;
    if (p->transposed) {
        return lod_ahead_of(packed + (k0 / LOD_PANEL * p->n_out + column) * row, lod_div_up(k, LOD_PANEL),
                            b->grid->strip * row, p->n_out * row);
    }
    return lod_ahead_of(packed + (column / LOD_PANEL * p->n_out + k0) * row, b->grid->strip / LOD_PANEL, k * row,
                        p->n_out * row);
}

// One strip's tiles; with each of them, a share of what comes next is asked for.
static void run_strip(const block *b, size_t column, size_t k0, size_t k, lod_ahead *next_w, lod_ahead *next_x,
                      size_t x_lines) {
    const grid *g = b->grid;
    const lod_product *p = g->product;
    const lod_kernel *tile = g->blocks->tile;
    const size_t mr = tile->mr, nr = tile->nr, tokens = b->tokens.end - b->tokens.begin, ldx = g->blocks->kc;
    const float *x = copy_of(g, b->part, k0);
    float *sums = b->sums + (column - b->columns.begin) * tokens; // not there where C is
    size_t ldpanel;
    const float *w = strip_of(b, column, k0, k, &ldpanel);
    const size_t share = lod_div_up(lod_ahead_lines(next_w), lod_div_up(tokens, mr));
    for (size_t j = 0; j < g->strip && column + j < g->columns; j += nr) {
        const size_t n = lod_min(nr, g->columns - column - j);
        float *c = p->c + b->tokens.begin * p->ldc + column + j;
        const bool first = k0 == g->k.begin, last = k0 + k == g->k.end; // of what is copied
        const float *from = first ? c : sums + j;
        float *to = last ? c : sums + j;
        const size_t ldfrom = first ? p->ldc : g->strip, ldto = last ? p->ldc : g->strip;
        lod_lowrank_tile_args a = {
            .n = n, .k = k, .r = p->r, .x = x, .ldx = ldx, .w = w + j, .ldpanel = ldpanel,
            .u = p->r ? p->u + b->tokens.begin * p->r : NULL, .ldu = p->r, .b = p->r ? p->b + column + j : NULL,
            .ldb = width_of(p), .keep = p->keep ? p->keep + b->tokens.begin * p->ldkeep : NULL,
            .ldkeep = p->ldkeep, .keep_col = column + j, .inv = p->inv, .first = k0 == 0, .from = from,
            .ldfrom = ldfrom, .c = to, .ldc = ldto};
        for (size_t t = 0; t < tokens; t += mr) {
            a.m = lod_min(mr, tokens - t);
            lod_ahead_ask(next_w, share);
            lod_ahead_ask(next_x, x_lines);
            tile->fn.lowrank_tile_f32(&a);
            a.x += mr * ldx;
            a.from += mr * ldfrom;
            a.c += mr * ldto;
            if (a.u) a.u += mr * p->r;
            if (a.keep) a.keep += mr * p->ldkeep;
        }
    }
}

static void run_block(const block *b) {
    const grid *g = b->grid;
    const size_t tokens = b->tokens.end - b->tokens.begin, kc = g->blocks->kc;
    const size_t strips = lod_div_up(b->columns.end - b->columns.begin, g->strip);
    const size_t steps = strips * lod_div_up(tokens, g->blocks->tile->mr);
    for (size_t k0 = g->k.begin; k0 < g->k.end; k0 += kc) {
        const size_t k = lod_min(kc, g->k.end - k0), next = k0 + kc < g->k.end ? k0 + kc : g->k.begin;
        lod_ahead x = lod_ahead_of(copy_of(g, b->part, next), 1, tokens * kc * sizeof(float), 0);
        const size_t x_lines = lod_div_up(lod_ahead_lines(&x), steps);
        for (size_t column = b->columns.begin; column < b->columns.end; column += g->strip) {
            lod_ahead w = strip_ahead(b, column + g->strip, k0, k);
            if (column + g->strip >= b->columns.end) {
                w = strip_ahead(b, k0 + kc < g->k.end ? b->columns.begin : b->columns.end, next, kc);
            }
            run_strip(b, column, k0, k, &w, &x, x_lines);
        }
    }
}

static void run_task(void *context, size_t i) {
    const grid *g = context;
    const size_t part = i / g->tasks_n;
    const lod_range columns = lod_part(g->columns, g->strip, g->tasks_n, i % g->tasks_n);
    const size_t count = columns.end - columns.begin, blocks = g->blocks->nc ? lod_div_up(count, g->blocks->nc) : 1;
    block b = {.grid = g, .part = part, .tokens = tokens_of(g, part), .sums = g->tasks + i * task_floats(g->blocks)};
    b.buffer = b.sums + sums_floats(g->blocks);
    for (size_t j = 0; j < blocks; j++) {
        const lod_range within = lod_part(count, g->strip, blocks, j);
        b.columns = (lod_range){columns.begin + within.begin, columns.begin + within.end};
        if (b.tokens.begin < b.tokens.end) run_block(&b);
    }
}

static void run_rounds(grid *g) {
    const lod_product *p = g->product;
    const size_t most = lod_round_up(lod_div_up(p->tokens, g->tasks_m), g->blocks->tile->mr); // a part's tokens
    const unsigned threads = (unsigned)(g->tasks_m * g->tasks_n);
    g->rows = lod_min(g->blocks->mc, most);
    g->copies = p->workspace;
    g->tasks = g->copies + copy_floats(g->blocks, g->tasks_m * g->rows);
    for (g->round = 0; g->round * g->rows < most; g->round++) {
        for (size_t k0 = 0; k0 < g->depth; k0 += g->blocks->kd) {
            g->k = (lod_range){k0, lod_min(k0 + g->blocks->kd, g->depth)};
            lod_parallel(threads, g->tasks_m * lod_div_up(g->rows, LOD_TOKEN_GROUP), copy_x, g);
            lod_parallel(threads, threads, run_task, g);
        }
    }
}

// All of a product for few tokens, a range of its columns a task: no tiles, no blocks, no workspace.
static void run_few(void *context, size_t i) {
    const grid *g = context;
    const lod_product *p = g->product;
    const lod_range columns = lod_part(g->columns, LOD_PANEL, g->tasks_n, i);
    lod_kernel_find(LOD_OP_lowrank_few_f32, p->plan->isa)->fn.lowrank_few_f32(&(lod_lowrank_few_args){
        .tokens = p->tokens, .w = p->w, .n_in = p->n_in, .n_out = p->n_out, .transposed = p->transposed,
        .begin = columns.begin, .end = columns.end, .r = p->r, .x = p->x, .ldx = p->ldx, .u = p->u, .ldu = p->r,
        .b = p->b, .ldb = width_of(p), .keep = p->keep, .ldkeep = p->ldkeep, .inv = p->inv, .c = p->c, .ldc = p->ldc});
}

void lod_product_run(const lod_product *p) {
    const lod_blocks *blocks = blocks_of(p);
    grid g = {.product = p, .blocks = blocks, .columns = columns_of(p), .depth = p->transposed ? p->n_in : p->n_out,
              .strip = lod_strip_width(blocks)};
    double flop = 2.0 * (double)p->tokens * (double)g.columns * (double)g.depth;
    size_t threads = lod_min(lod_parallel_threads(p->plan->threads), 1 + (size_t)(flop / FLOP_PER_THREAD));
    if (p->tokens <= LOD_FEW_TOKENS) {
        g.tasks_n = lod_min(threads, lod_div_up(g.columns, LOD_PANEL));
        LOD_DEFAULT_FP;
        if (p->before) p->before(p->before_context, (lod_range){0, p->tokens});
        if (p->tokens) lod_parallel((unsigned)threads, g.tasks_n, run_few, &g);
        return;
    }
    // Columns of all tokens share one copy of X; tokens cut among threads make each of them widen all of W.
    const size_t strips = lod_div_up(g.columns, g.strip), tiles = lod_div_up(p->tokens, blocks->tile->mr);
    if (blocks->cut_tokens) {
        g.tasks_m = lod_min(threads, tiles);
        g.tasks_n = lod_min(threads / g.tasks_m, strips);
    } else {
        g.tasks_n = lod_min(threads, strips);
        g.tasks_m = lod_min(threads / g.tasks_n, tiles);
    }
    run_rounds(&g);
}
