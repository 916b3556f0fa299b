// A Llama with adapters in double, on the f64 forms of kernels/ref alone: forward, loss, and the gradients of every
// adapter. The meaning that the trainer is held against, and checked against its own differences.
//
// T tokens, C width, H query heads, G key heads, D head width, F MLP width, V vocabulary, r rank, N targets.
#ifndef LOD_MODEL_F64_H
#define LOD_MODEL_F64_H

#include "lodrop.h"

enum { MODEL_MODULES = 7 }; // q, k, v, o, gate, up, down

typedef struct model_linear {
    size_t n_in, n_out;
    const double *w; // [n_out][n_in]
    size_t rank;     // 0: no adapter
    double *a;       // [r][n_in]
    double *bt;      // [r][n_out]
    double *da;      // [r][n_in], overwritten by model_f64_gradients
    double *dbt;     // [r][n_out]
    lod_dropout lora_a, lora_b; // of columns of A and rows of B; all segments of a batch are of one instance
} model_linear;

typedef struct model_layer_f64 {
    const double *attention_norm, *mlp_norm; // [C]
    model_linear linear[MODEL_MODULES];
    lod_dropout attention_output, ffn_middle, ffn_output;
} model_layer_f64;

typedef struct model_f64 {
    size_t layers, width, heads, kv_heads, head_dim, middle, vocabulary;
    double eps;               // of the norms
    const double *vectors;    // [V][C] the embedding's
    const double *head;       // [V][C]
    const double *final_norm; // [C]
    const double *cosine;     // [positions][D / 2]
    const double *sine;
    model_layer_f64 *layer; // [layers]
    double lora_scale;
    double p; // input dropout of the adapters, inverted; 0: none
    lod_dropout embedding;
    uint64_t seed;
} model_f64;

typedef struct model_batch {
    lod_rows rows;            // segments of tokens; draw is read where something is dropped
    const uint32_t *token;    // [T]
    const uint32_t *position; // [T]
    uint32_t step;            // that masks on weights are drawn for
    size_t targets;           // N
    const uint32_t *row;      // [N] the token after which the target is expected
    const uint32_t *target;   // [N]
} model_batch;

// Losses [N] in nats; returns their sum.
double model_f64_loss(const model_f64 *m, const model_batch *b, double *loss);
// The same, and the gradients of the sum into every linear's da and dbt.
double model_f64_gradients(const model_f64 *m, const model_batch *b, double *loss);

#endif
