// What a plan holds: the operation's shape, the ISA, threads and block sizes. Made by plan.c, read by dispatch/.
#ifndef LOD_PLAN_H
#define LOD_PLAN_H

#include "dispatch.h"

typedef enum lod_plan_kind { LOD_PLAN_LOWRANK, LOD_PLAN_ATTENTION, LOD_PLAN_LOSS, LOD_PLAN_ROWWISE } lod_plan_kind;

// Block sizes of the product loop nest (dispatch/product.c): mc tokens by kc of depth of X are packed at a time.
typedef struct lod_blocks {
    size_t mc, kc;
} lod_blocks;

struct lod_plan {
    lod_plan_kind kind;
    lod_isa isa;
    unsigned threads;
    union {
        lod_lowrank_shape lowrank;
        lod_attention_shape attention;
        lod_loss_shape loss;
    } shape;
    const lod_kernel *tile; // but for rowwise
    lod_blocks blocks;      // lowrank and loss
    size_t query_block;     // attention: queries worked on at a time
    size_t chunk;           // loss: tokens whose logits are held at a time
    size_t workspace;       // bytes
};

// --- estimate.c: block sizes from the cache sizes, without a measurement ---
typedef struct lod_caches {
    size_t l1d, l2; // bytes
    const char *source;
} lod_caches;
lod_caches lod_cache_sizes(void);
lod_blocks lod_estimate_blocks(const lod_kernel *tile, size_t tokens, size_t depth);
size_t lod_estimate_query_block(const lod_kernel *tile);
// Tokens whose logits the loss holds at a time.
size_t lod_estimate_loss_chunk(size_t vocabulary, size_t tokens);

// --- workspace bytes, each beside the loop nest that uses it ---
size_t lod_lowrank_workspace(const lod_plan *plan);
size_t lod_loss_workspace(const lod_plan *plan);
size_t lod_attention_workspace(const lod_plan *plan);

// Checks that a call's plan is of its kind.
lod_status lod_plan_check(const lod_plan *plan, lod_plan_kind kind, lod_error *err);

#endif
