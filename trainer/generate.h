// Text that goes on: one token after the other, each from the logits after the one before.
#ifndef LODROP_TRAINER_GENERATE_H
#define LODROP_TRAINER_GENERATE_H

#include "lora.h"
#include "model.h"

// How the next token is chosen: the likeliest (temperature 0), or drawn from the softmax of logits / temperature over
// the most_likely first ones (0: all), and of these over the fewest, likeliest first, that together have a share of
// `nucleus`. Draw i of a seed is the same on every machine.
struct generation_manner {
    size_t new_tokens; // at most
    size_t vocabulary; // only tokens below it come: a model may have rows for more than its tokenizer has
    double temperature, nucleus;
    size_t most_likely;
    uint64_t seed;
    const uint32_t *ends; // tokens after which nothing comes
    size_t end_count;
    unsigned threads;
};

// Takes a new token that is no end; false, with its fault set, stops.
typedef bool generation_token(void *context, uint32_t token, fault *f);

// Continues prompt [count], count >= 1; prompt and new tokens must fit the model's positions. lora: NULL, or an
// adapter, which is applied without dropout.
bool generate(const struct model *model, const struct lora *lora, const uint32_t *prompt, size_t count,
              const struct generation_manner *manner, generation_token *take, void *context, fault *f);

#endif
