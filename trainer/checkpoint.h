// OUTPUT/checkpoint: everything that a run needs to go on as if it had never stopped. It is replaced as a whole:
// whenever the process dies, the newest complete one is found again.
#ifndef LODROP_TRAINER_CHECKPOINT_H
#define LODROP_TRAINER_CHECKPOINT_H

#include "adapter.h"
#include "file.h"
#include "history.h"
#include "lora.h"

struct train_options;

struct checkpoint {
    uint64_t step; // steps done
    uint64_t draw; // example visits done
    uint64_t data, held_out, model; // fingerprints
};

// What is saved beside the checkpoint's own numbers.
struct checkpoint_parts {
    const struct train_options *options;
    const struct adapter_config *config;
    const struct adapter_recipe *recipe;
    const struct lora *lora;
    const struct history *history;
    const float *best; // [lora->parameters] the adapter of the best evaluation so far; NULL: none is kept
};

// The folder of the newest complete checkpoint of an output folder; empty: there is none.
bool checkpoint_find(char folder[FILE_PATH_MAX], const char *output, fault *f);

bool checkpoint_save(const char *output, const struct checkpoint *c, const struct checkpoint_parts *parts, fault *f);

bool checkpoint_read_options(const char *folder, struct train_options *options, fault *f);
bool checkpoint_read_state(const char *folder, struct checkpoint *c, fault *f);
// The adapter's values and moments, and the metrics so far.
bool checkpoint_read_values(const char *folder, struct lora *lora, struct history *history, fault *f);
bool checkpoint_read_best(const char *folder, float *best, size_t parameters, fault *f);

// After the run is done.
bool checkpoint_remove(const char *output, fault *f);

#endif
