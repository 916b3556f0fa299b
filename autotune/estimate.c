// A choice from the cache sizes alone, in the spirit of Low et al., "Analytical Modeling Is Enough for High-Performance
// BLIS" (TOMS 2016).
//
// A large second cache holds the sums of a block of the result, in half of it, until the depth is through; beside them
// the k block of X, in a quarter or less. Then a k block costs no pass over memory, and is so shallow that its strip of
// W stays in the first cache. Forward, W is transposed once for each block of tokens, so that blocks are higher.
//
// A small one has no room for sums: they travel through the result, and the deepest k block spares passes over it. X
// gets all of the cache, so that W is read less often.
//
// Nothing depends on L3: virtual machines report that of the whole host, or none, and a share of it is all that a
// thread can count on.
#include "plan.h"

enum { LARGE_L2 = 1 << 20, STRIP_IN_L1 = 32 << 10, DEEP = 256, WIDE = 512 };

static size_t at_least(size_t value, size_t floor) {
    return value < floor ? floor : value;
}

static lod_blocks estimate_blocks(const lod_plan *plan, bool forward) {
    const lod_product_shape p = lod_product_shape_of(plan, forward);
    const lod_kernel *tile = lod_kernel_find(LOD_OP_lowrank_tile_f32, plan->isa);
    const size_t l2 = lod_this_machine()->l2;
    lod_blocks b = {.tile = tile, .mc = LOD_MC_MAX, .kc = LOD_KC_MAX, .cut_tokens = p.n <= p.tokens};
    if (l2 >= LARGE_L2) {
        b.kc = lod_min(STRIP_IN_L1 / (tile->nr * sizeof(float)), DEEP);
        b.mc = lod_min(l2 / 4 / (b.kc * sizeof(float)), forward ? 512 : 256);
        b.nc = lod_min(l2 / 2 / (b.mc * sizeof(float)), WIDE);
    } else {
        b.kc = lod_fit_blocks(b, &p).kc;
        b.mc = lod_min(at_least(l2 / (b.kc * sizeof(float)), 64), LOD_MC_MAX);
    }
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
    const size_t logits = 36 << 20; // bytes held at a time, unless 64 tokens need more; W is read once for each time
    const size_t most = lod_min(lod_min(at_least(logits / sizeof(float) / vocabulary, 64), 1024), tokens);
    return lod_div_up(tokens, lod_div_up(tokens, most)); // equal parts
}
