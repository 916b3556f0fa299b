// A training run: all that it works on, and its loop.
#ifndef LODROP_TRAINER_TRAIN_H
#define LODROP_TRAINER_TRAIN_H

#include "batch.h"
#include "checkpoint.h"
#include "dataset.h"
#include "evaluate.h"
#include "history.h"
#include "llama.h"
#include "lora.h"
#include "model.h"
#include "report.h"
#include "schedule.h"
#include "selection.h"
#include "train_options.h"

struct training {
    struct train_options *options;
    struct adapter_config config;
    struct adapter_recipe recipe;
    struct model model;
    struct dataset data, held_out;   // held_out.count 0: none
    struct layer_dropouts *dropouts; // [model.config.layers]
    struct lora lora;
    struct schedule schedule;
    uint64_t steps_per_epoch;
    uint64_t step;        // done
    uint64_t of_data, of_held_out, of_model; // fingerprints
    uint32_t *order;      // [data.count] of the current epoch
    struct llama *llama;
    struct batch batch;
    struct batch stacked;        // the same for several instances
    size_t together;             // so many
    struct llama_losses losses;  // [targets of these]
    struct evaluation evaluated; // the last one
    uint64_t evaluated_step;     // after which it was
    struct selection_rule rule;
    struct selection best;
    uint64_t adapter_step; // of the adapter that is left at the end
    float *best_value; // [lora.parameters] after step best.step; NULL unless --load-best-model-at-end
    struct history history;
    struct report report;
};

// What can be told of the options without reading the model's weights and the data. from: a folder whose adapter the
// run continues; empty: none.
bool training_check(const struct train_options *o, const char *from, fault *f);

// Reads and checks everything the options name and takes all memory, before anything is written. checkpoint: the folder
// to go on from, or empty. t->options is set by the caller, all else zero.
bool training_load(struct training *t, const char *checkpoint, fault *f);
void training_free(struct training *t);

enum training_end { TRAINING_DONE, TRAINING_STOPPED, TRAINING_INTERRUPTED };

// Runs to the last step, to --stop-after or to the first SIGINT or SIGTERM; the latter two leave a checkpoint, the
// first leaves the adapter, the summary and the curves.
bool training_run(struct training *t, enum training_end *end, fault *f);

#endif
