// What a plan may choose: ceilings that cut its shape into the same blocks are one candidate.
#include "plan.h"

static const size_t depths[] = {512, 384, 256, 192, 128, 64};
static const size_t heights[] = {1024, 512, 384, 256, 128, 64, 32};
static const size_t widths[] = {0, 512, 256, 128};
static const size_t query_blocks[] = {32, 48, 64, 80, 96, 128, 192};

#define COUNT_OF(list) (sizeof(list) / sizeof *(list))

typedef struct candidates {
    const lod_plan *plan;
    lod_plan_part part;
    unsigned axes;
    lod_choice *list;
    size_t count;
} candidates;

static void add(candidates *c, const lod_choice *choice) {
    for (size_t i = 0; i < c->count; i++) {
        if (lod_same_choice(&c->list[i], choice)) return;
    }
    if (c->count < LOD_CANDIDATES_MOST) c->list[c->count++] = *choice;
}

static void add_blocks(candidates *c, lod_blocks blocks) {
    const bool forward = c->part == LOD_PART_FORWARD;
    const lod_product_shape product = lod_product_shape_of(c->plan, forward);
    lod_choice choice = c->plan->choice;
    *(forward ? &choice.forward : &choice.backward) = lod_fit_blocks(blocks, &product);
    add(c, &choice);
}

static void add_cuts(candidates *c, lod_blocks blocks) {
    add_blocks(c, blocks);
    if (!(c->axes & LOD_AXIS_CUT) || c->plan->threads == 1) return;
    blocks.cut_tokens = !blocks.cut_tokens;
    add_blocks(c, blocks);
}

// All of the axes that are asked for, with this tile.
static void add_blocks_of(candidates *c, lod_blocks blocks) {
    const bool depth = c->axes & LOD_AXIS_DEPTH, height = c->axes & LOD_AXIS_HEIGHT, width = c->axes & LOD_AXIS_WIDTH;
    const lod_blocks own = blocks;
    for (size_t k = 0; k < (depth ? COUNT_OF(depths) : 1); k++) {
        for (size_t m = 0; m < (height ? COUNT_OF(heights) : 1); m++) {
            for (size_t n = 0; n < (width ? COUNT_OF(widths) : 1); n++) {
                blocks.kc = depth ? depths[k] : own.kc;
                blocks.mc = height ? heights[m] : own.mc;
                blocks.nc = width ? widths[n] : own.nc;
                add_cuts(c, blocks);
            }
        }
    }
}

static void add_query_blocks_of(candidates *c, const lod_kernel *tile) {
    lod_choice choice = c->plan->choice;
    const size_t own = choice.query_block;
    const bool height = c->axes & LOD_AXIS_HEIGHT;
    choice.tile = tile;
    for (size_t i = 0; i < (height ? COUNT_OF(query_blocks) : 1); i++) {
        choice.query_block = lod_round_up(height ? query_blocks[i] : own, tile->mr);
        add(c, &choice);
    }
}

size_t lod_candidates(const lod_plan *plan, lod_plan_part part, unsigned axes, lod_choice list[LOD_CANDIDATES_MOST]) {
    candidates c = {.plan = plan, .part = part, .axes = axes, .list = list};
    const bool attention = part == LOD_PART_ATTENTION;
    const lod_op op = attention ? LOD_OP_attention_tile_f32 : LOD_OP_lowrank_tile_f32;
    const lod_blocks own = part == LOD_PART_FORWARD ? plan->choice.forward : plan->choice.backward;
    const lod_kernel *own_tile = attention ? plan->choice.tile : own.tile;
    size_t count;
    const lod_kernel *kernels = lod_kernels(&count);
    add(&c, &plan->choice);
    for (const lod_kernel *tile = kernels; tile < kernels + count; tile++) {
        if (tile->op != op || tile->isa != plan->isa) continue;
        if (tile != own_tile && !(axes & LOD_AXIS_TILE)) continue;
        if (attention) {
            add_query_blocks_of(&c, tile);
        } else {
            lod_blocks blocks = own;
            blocks.tile = tile;
            add_blocks_of(&c, blocks);
        }
    }
    return c.count;
}
