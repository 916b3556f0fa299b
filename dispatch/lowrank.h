// What the parts of a low-rank layer's call share: lowrank.c checks it and runs the product, lowrank_rank.c makes
// masks, U and dU, lowrank_gradients.c the leaves of dA and dB'.
#ifndef LOD_LOWRANK_H
#define LOD_LOWRANK_H

#include "plan.h"

enum { LOD_INSTANCES = 64 };

// Columns that LoRA Dropout keeps: of A, or of B' (rows of B).
typedef struct lod_columns {
    uint32_t threshold; // 0: all of them; then there are no bits
    uint8_t *bits;      // [LOD_INSTANCES][ldkeep], of the instances that the call has
} lod_columns;

// One call, with what its checks derived.
typedef struct lod_lowrank_call {
    const lod_plan *plan;
    const lod_lowrank_args *args;
    size_t tokens;
    bool backward;
    uint32_t threshold; // of the input's element mask; 0: none
    float inv;          // of the same
    lod_columns a, b;   // not beside an element mask
    double scale;       // s, and the compensation of a and b
    uint8_t *keep;      // [tokens][ldkeep] bits: the input's, or those of the product's columns
    size_t ldkeep;
    float *du;      // [tokens][rank]
    float *rows;    // [rank][ldrows]: A, backward B', at a distance that is no power of two
    size_t ldrows;
    float *scratch; // the rest of the workspace
} lod_lowrank_call;

static inline uint32_t lod_instance(const lod_rows *rows, size_t segment) {
    return rows->instance ? rows->instance[segment] : 0;
}

// --- lowrank_rank.c ---
size_t lod_lowrank_rows_bytes(const lod_lowrank_shape *shape);
// True: a product follows, and is to do lod_lowrank_rank_tokens of all tokens.
bool lod_lowrank_rank(lod_lowrank_call *call, bool product);
void lod_lowrank_rank_tokens(const void *call, lod_range tokens);

// --- lowrank_gradients.c ---
size_t lod_lowrank_leaves_bytes(const lod_plan *plan);
void lod_lowrank_gradients(const lod_lowrank_call *call);
lod_status lod_lowrank_check_sums(const lod_lowrank_call *call, lod_error *err);

#endif
