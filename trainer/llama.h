// The Llama model over a ragged batch: hidden states, losses, logits, and the gradients of the adapters.
//
// T tokens, C hidden width, H query heads, G key heads, D head width, F MLP width, V vocabulary, r rank, L layers, N
// targets.
#ifndef LODROP_TRAINER_LLAMA_H
#define LODROP_TRAINER_LLAMA_H

#include "consistency.h"
#include "fault.h"
#include "lodrop.h"
#include "lora.h"
#include "model.h"

// Continuations that share what stands before them. The batch's first tokens are its trunks, one segment each; branch b
// continues some trunk with the next tokens, as if it alone followed. Branches come in rounds, at most one branch of
// every trunk in each, so that a round's keys can be put right behind the trunk's.
struct llama_branches {
    size_t trunks;
    const size_t *trunk_start; // [trunks + 1] tokens
    const size_t *slot_start;  // [trunks + 1] rows of keys: room for a trunk and its longest branch
    size_t rounds;
    const size_t *round_start; // [rounds + 1] tokens; round_start[0] = trunk_start[trunks]
    const size_t *length;      // [rounds][trunks] tokens of the branch of that trunk, 0: it has none
};

struct llama_batch {
    lod_rows rows;            // segments: T = rows.start[rows.count]; with branches one segment that holds all
    const uint32_t *token;    // [T]
    const uint32_t *position; // [T] in its sequence
    size_t targets;           // N
    const uint32_t *row;      // [N] ascending: the token after which the target is expected
    const uint32_t *target;   // [N]
    const uint32_t *row2;     // [N] the row in a second branch of the batch; NULL: it has none
    uint32_t step;            // that masks on weights are drawn for
    const struct llama_branches *branches; // NULL: none
};

// FORWARD: no gradients, no dropout but what it is scaled by. ENSEMBLE: the same with dropout of A and B, the mean over
// all instances of the adapters. BRANCH: dropout, no gradients. KEEP: what the backward pass needs is kept. RECOMPUTE:
// only the inputs of the layers are kept, the rest is computed again, to the same bits.
enum llama_mode { LLAMA_FORWARD, LLAMA_ENSEMBLE, LLAMA_BRANCH, LLAMA_KEEP, LLAMA_RECOMPUTE };

// What an ensemble takes the mean of.
enum llama_mean { LLAMA_MEAN_LOGITS, LLAMA_MEAN_PROBABILITIES };

// How a model is run, and the most that a batch will bring.
struct llama_limits {
    enum llama_mode mode;
    enum llama_mean mean; // of an ensemble
    struct consistency consistency; // of the loss, in the modes with gradients
    size_t tokens, targets; // of one instance
    size_t together;        // instances that run at once; 0: one
    size_t length; // of a sequence; for branches trunk and branch together
    size_t slots;  // rows of keys of branches
    bool continues; // FORWARD only: each batch is one segment that goes on, from its first token's position, where the
                    // ones before it ended, and whose keys and values are kept for those that follow
    unsigned threads;
    lod_rigor rigor; // of its plans
};

struct llama;

// lora may be NULL; its dropouts are those of the layers. The memory is taken here, once; nothing after it allocates.
bool llama_open(struct llama **opened, const struct model *model, const struct lora *lora,
                const struct llama_limits *limits, fault *f);
void llama_close(struct llama *l);

// Bytes of that memory, without taking it.
bool llama_measure(size_t *bytes, const struct model *model, const struct lora *lora, const struct llama_limits *limits,
                   fault *f);

// Hidden states of the batch, up to the last layer's output.
bool llama_forward(struct llama *l, const struct llama_batch *batch, fault *f);

// Of every target, in nats [N]; the last two are read and written with a consistency alone.
struct llama_losses {
    float *loss;
    float *loss2; // of the second branch, with R-Drop
    float *divergence;
};

// After llama_forward: losses; in a training mode also the gradient of their sum at the last layer's output, in its
// place. With KL and JS the second branch is run here, from the first layer on in which it differs; its masks are those
// of instance 1. With R-Drop the batch holds both branches.
bool llama_loss(struct llama *l, const struct llama_batch *batch, const struct llama_losses *losses, fault *f);

// After llama_loss: one leaf per segment for the gradient of every adapter.
bool llama_backward(struct llama *l, const struct llama_batch *batch, fault *f);

// In training, where the adapters have instances whose masks differ, llama_forward ends below the first layer in which
// they do. Then come all instances, ascending, in any number of rounds: llama_fork goes on with a batch that holds the
// segments of the first one once for each of some instances, llama_loss and llama_backward follow with that batch.
// llama_join, with the first batch, is the backward pass of the layers below.
bool llama_fork(struct llama *l, const struct llama_batch *batch, fault *f);
bool llama_join(struct llama *l, const struct llama_batch *shared, fault *f);

// After llama_forward: logits [n][V] of the tokens row[0 .. n-1], at most limits.targets.
bool llama_logits(struct llama *l, size_t n, const uint32_t *row, float *logits, fault *f);

// Bytes of the memory for a pass, and one line on the plan of the widest layer.
size_t llama_bytes(const struct llama *l);
void llama_describe(const struct llama *l, char *text, size_t size);

#endif
