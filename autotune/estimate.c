// A choice from the cache sizes alone, in the spirit of Low et al., "Analytical Modeling Is Enough for High-Performance
// BLIS" (TOMS 2016). The deepest k block spares passes over C, and its strip of W streams from L1 or L2 fast enough for
// every tile. Of L2, X gets what its block is worth. Forward, W is transposed once for each block of X: all of a small
// L2, no more than 1 MiB, since C passes through as well. Backward reads W as it lies, once for each block of X: a
// quarter, but half where L2 is large, because what lies behind a large L2 is slow.
// Where C is narrow, passes over it are cheap: then a wide tile's strip of W stays in L1 (32 KiB, as deep a block has
// with 16 columns), and the block of X is small.
// Nothing depends on L3: virtual machines report that of the whole host, or none, and a share of it is all that a
// thread can count on.
#include "plan.h"

enum { LARGE_L2 = 1 << 20, NARROW_C = 1024, STRIP_IN_L1 = 32 << 10 };

static size_t at_least(size_t value, size_t floor) {
    return value < floor ? floor : value;
}

static lod_blocks estimate_blocks(const lod_plan *plan, bool forward) {
    const lod_product_shape p = lod_product_shape_of(plan, forward);
    const lod_kernel *tile = lod_kernel_find(LOD_OP_lowrank_tile_f32, plan->isa);
    const size_t l2 = lod_this_machine()->l2, in_l1 = STRIP_IN_L1 / (tile->nr * sizeof(float));
    lod_blocks b = {.tile = tile, .mc = forward ? 512 : 256, .kc = in_l1, .cut_tokens = p.n <= p.tokens};
    if (p.n <= NARROW_C && in_l1 < LOD_KC_MAX) return b;
    b.mc = LOD_MC_MAX, b.kc = LOD_KC_MAX;
    b.kc = lod_fit_blocks(b, &p).kc;
    const size_t bytes = forward ? lod_min(l2, LARGE_L2) : l2 < LARGE_L2 ? l2 / 4 : l2 / 2;
    b.mc = lod_min(at_least(bytes / (b.kc * sizeof(float)), 64), LOD_MC_MAX);
    return b;
}

// The query block is whole strips of the tile: a block of Q, of its scores and of a panel of K lie in the first two
// caches.
void lod_estimate(lod_plan *plan) {
    if (plan->kind == LOD_PLAN_ATTENTION) {
        const lod_kernel *tile = lod_kernel_find(LOD_OP_attention_tile_f32, plan->isa);
        plan->choice = (lod_choice){.tile = tile, .query_block = lod_round_up(64, tile->mr)};
    } else {
        plan->choice = (lod_choice){.forward = estimate_blocks(plan, true), .backward = estimate_blocks(plan, false)};
    }
}

size_t lod_estimate_loss_chunk(size_t vocabulary, size_t tokens) {
    const size_t logits = 48 << 20; // bytes held at a time, unless 64 tokens need more; W is read once for each time
    return lod_min(lod_min(at_least(logits / sizeof(float) / vocabulary, 64), 1024), tokens);
}
