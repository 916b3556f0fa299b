// Held-out loss, and which of several choices a model holds for the likeliest.
#ifndef LODROP_TRAINER_EVALUATE_H
#define LODROP_TRAINER_EVALUATE_H

#include <jansson.h>

#include "calibration.h"
#include "dataset.h"
#include "llama.h"
#include "lora.h"
#include "model.h"

struct evaluation {
    double loss;       // nats per target
    double perplexity; // e^loss
    size_t targets;
    size_t examples;
    bool has_answers; // the data have choices, and these were scored
    struct calibration answers;
};

// LOSS does not score choices, which takes many times as long: only the right one is run.
enum evaluation_extent { EVALUATE_LOSS, EVALUATE_ALL };

// How a model is evaluated.
struct evaluation_manner {
    unsigned threads;
    bool ensemble; // the mean over instances of the adapter, not the adapter that their masks expect
    enum llama_mean mean;
};

// The model for batches of that many tokens.
struct llama_limits evaluation_limits(const struct evaluation_manner *manner, size_t tokens, size_t length);

// lora: NULL, or an adapter, which is applied without dropout. Of choices, the loss is that of the right one.
bool evaluate(struct evaluation *result, enum evaluation_extent extent, const struct model *model,
              const struct lora *lora, const struct dataset *data, const struct evaluation_manner *manner, fault *f);

// {"loss", "perplexity", "targets", "metrics": {"accuracy"?, "ece"?}}; NULL: no memory.
json_t *evaluation_json(const struct evaluation *e);

// Writes f32 logits "example.<index>" [tokens - 1][vocabulary] of each example's training sequence, of all tokens but
// the last.
bool evaluate_dump_logits(const char *path, const struct model *model, const struct lora *lora,
                          const struct dataset *data, const struct evaluation_manner *manner, fault *f);

#endif
