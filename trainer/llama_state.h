// The inside of a llama: its plans, and one block of memory with every tensor of a pass (letters as in llama.h).
#ifndef LODROP_TRAINER_LLAMA_STATE_H
#define LODROP_TRAINER_LLAMA_STATE_H

#include "llama.h"

// What a layer's backward pass needs of its forward pass.
struct layer_state {
    float *attention_rstd;     // [T]
    float *mlp_rstd;           // [T]
    float *q;                  // [T][H][D], rotated
    float *k, *v;              // [T][G][D], k rotated
    float *o;                  // [T][H][D] output of attention
    float *lse;                // [T][H]
    float *lse_visible;        // [T][H]; NULL unless some layer's attention renormalises without gradient
    float *middle;             // [T][C] the residual stream between attention and MLP
    float *gate, *up;          // [T][F]
    float *u[ADAPTER_MODULES]; // [T][r]
    float *all_k, *all_v;      // [length][G][D] of a sequence that continues; NULL: it does not
};

// Tensors that live inside one stage only; the stages share their bytes.
struct forward_scratch {
    float *h;               // [T][C] normalised input
    float *act;             // [T][F]
    float *slot_k, *slot_v; // [slots][G][D] of trunks, each with room for one branch
    size_t *queries, *keys; // [2 trunks + 1] where the segments of a round start
};

struct mlp_scratch {
    float *act, *dact;       // [T][F]
    float *h, *dh, *partial; // [T][C], in the place of the two above
};

struct attention_scratch {
    float *dq;               // [T][H][D]
    float *dk, *dv;          // [T][G][D]
    float *d_o;              // [T][H][D]
    float *h, *dh, *partial; // [T][C], in the place of d_o
};

struct loss_scratch {
    float *x;    // [N][C] the residual stream at the rows that predict
    float *h;    // [N][C] normalised; then the gradient
    float *rstd; // [N]
};

// Of the mean over instances.
struct ensemble_scratch {
    float *sum;          // [N][C]
    double *probability; // [N]
    double *vocabulary;  // [V]
};

struct llama {
    const struct model *model;
    const struct lora *lora; // NULL: none
    struct llama_limits limits;
    bool forks;           // there are instances that differ
    unsigned fork;        // layers from here on are run for each instance; without instances L
    size_t rows, targets; // of all instances that run at once: the T and N of layers from the fork on
    size_t shared;        // tokens below the fork in this batch
    size_t joined;        // instances whose gradient is in `join`
    float *stacked;       // [T][C] input of the layer at the fork, for several instances; NULL: what comes from below
    float *join;          // [T of one][C] sum of the gradients at the fork; NULL: nothing below is trained
    lod_plan *linear[ADAPTER_MODULES];
    lod_plan *attention, *loss, *logits, *rowwise;
    void *memory;
    size_t bytes;
    void *workspace;            // of the library's calls in layers
    void *head_workspace;       // of those that meet the vocabulary
    float *cosine, *sine;       // [length][D/2]
    float **x;                  // [L + 1] the residual stream [T][C] before every layer and after the last
    struct layer_state *layers; // [L]; the same arrays where nothing has to be kept
    float *dx;                  // [T][C] gradient of the residual stream, in the place of its end
    float *dropped;             // [T][C] the same through a dropout; NULL unless a sublayer's output has one
    struct forward_scratch forward;
    struct mlp_scratch mlp;
    struct attention_scratch attend;
    struct loss_scratch last, second; // second: of R-Drop's second branch
    struct llama *branch;             // runs the second branch of KL and JS in scratch, on the same plans; NULL: none
    uint8_t *instance;                // [T segments] of the branch, or of an instance of an ensemble
    float *outputs;                   // [instances][T][C] of an ensemble: last hidden states
    struct ensemble_scratch ensemble;
};

// Whether there will be a backward pass.
bool llama_trains(const struct llama *l);

// The lowest layer with an adapter: nothing below it is asked for a gradient.
unsigned llama_lowest(const struct llama *l);

// The residual stream before a layer.
float *llama_input(const struct llama *l, unsigned layer);

// What a layer draws, all zeros where there is nothing.
const struct layer_dropouts *llama_dropouts(const struct llama *l, unsigned layer);

static inline size_t llama_tokens(const struct llama_batch *b) {
    return b->rows.start[b->rows.count];
}

bool llama_norm(struct llama *l, size_t tokens, const float *x, const float *g, float *rstd, float *y, fault *f);
// dx = add + the gradient of the norm at x; dx may be add.
bool llama_norm_backward(struct llama *l, size_t tokens, const float *x, const float *g, float *rstd, const float *dy,
                         const float *add, float *dx, fault *f);

// The second branch, up to the last layer's output.
bool llama_branch_forward(struct llama *l, const struct llama_batch *b, fault *f);

#endif
