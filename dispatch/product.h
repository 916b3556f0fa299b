// The ISA-free loop nest of every product with a packed weight: C [tokens][n] = start + X [tokens][k] * (W' or W).
#ifndef LOD_PRODUCT_H
#define LOD_PRODUCT_H

#include "plan.h"

// Tokens whose rows of X one task reads, for their U and for their copy: whole tiles of 3 and of 4 tokens.
enum { LOD_TOKEN_GROUP = 48 };

typedef struct lod_product {
    const lod_plan *plan;
    size_t tokens;
    const float *x; // [tokens][k]
    size_t ldx;
    lod_weight w; // W [n_out][n_in]
    size_t n_in, n_out;
    bool transposed; // true: forward, k = n_in, n = n_out; false: backward, k = n_out, n = n_in
    size_t columns;  // only the first so many of the n are computed; 0: all
    size_t r;        // 0: C starts at +0, else at (keep, inv) applied to U B
    const float *u;  // [tokens][r]
    const float *b;  // [r][n]
    const uint8_t *keep; // [tokens][ldkeep] bits or NULL
    size_t ldkeep;
    float inv;
    float *c; // [tokens][n]
    size_t ldc;
    // Called for ranges that together are all tokens, each just before the product reads its rows of X; or NULL.
    void (*before)(const void *context, lod_range tokens);
    const void *before_context;
    void *workspace; // lod_product_workspace bytes, 64-byte aligned
} lod_product;

size_t lod_product_workspace(const lod_plan *plan);
void lod_product_run(const lod_product *product);

#endif
