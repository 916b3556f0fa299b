// Examples put behind each other for a pass of the model: no padding, one segment each.
#ifndef LODROP_TRAINER_BATCH_H
#define LODROP_TRAINER_BATCH_H

#include "dataset.h"
#include "llama.h"

struct batch {
    struct llama_batch view;                   // of the arrays below
    size_t *start;                             // [segments + 1]
    uint32_t *draw;                            // [segments]
    uint8_t *instance;                         // [segments]
    uint32_t *token, *position, *row, *target; // [tokens]
    uint32_t *row2;                            // [tokens]
    void *memory;
};

bool batch_make(struct batch *b, size_t tokens, size_t segments, fault *f);
void batch_free(struct batch *b);
void batch_clear(struct batch *b);

size_t batch_tokens(const struct batch *b);

// Appends a token of the last segment.
void batch_token(struct batch *b, uint32_t token, size_t position);
// After token `row` of the batch, `target` is expected.
void batch_target(struct batch *b, size_t row, uint32_t target);

// Tokens of the batch that an example takes: all but its last, after which nothing is expected.
size_t batch_example_tokens(const struct example *e);
// Appends an example's training sequence as a segment; draw: the running number of its visit.
void batch_example(struct batch *b, const struct example *e, uint32_t draw);
// The same with masks of that instance: for batches all of whose segments are added so.
void batch_instance(struct batch *b, const struct example *e, uint32_t draw, unsigned instance);
// The same as two segments, one behind the other: both branches, with masks of instance 0 and 1.
void batch_pair(struct batch *b, const struct example *e, uint32_t draw);

#endif
