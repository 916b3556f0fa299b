// A model as it is used: with its tokenizer and, if there is one, an adapter.
#ifndef LODROP_TRAINER_INFERENCE_H
#define LODROP_TRAINER_INFERENCE_H

#include "adapter.h"
#include "lora.h"
#include "model.h"
#include "options.h"
#include "tokenizer.h"

// Zeroed: nothing to free.
struct inference {
    struct model model;
    struct tokenizer *tokenizer;
    struct adapter_recipe recipe;
    struct layer_dropouts *own;      // [layers], what the adapter was trained with; NULL: the same as
    struct layer_dropouts *dropouts; // [layers], what acts here
    struct lora lora;
    bool adapted; // there is a lora
};

struct inference_adapter {
    const char *folder;
    size_t ensemble;                // instances of it; 0: the mean adapter
    const struct option_list *drop; // --drop of an ensemble, in place of what it was trained with; NULL: none
    uint64_t seed;                  // of the ensemble's masks
    const char *program;            // whose options faults name
};

bool inference_load(struct inference *n, const char *model, fault *f);
bool inference_adapt(struct inference *n, const struct inference_adapter *adapter, fault *f);
const struct lora *inference_lora(const struct inference *n); // NULL: none
void inference_free(struct inference *n);

#endif
