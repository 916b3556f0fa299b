// Signs of the ways in which fine-tuning fails, each told once a run. They follow from the metrics alone, so a run that
// goes on from a checkpoint knows what it has told.
#ifndef LODROP_TRAINER_WARNINGS_H
#define LODROP_TRAINER_WARNINGS_H

#include <jansson.h>

#include "history.h"

enum warning_cause {
    WARNING_OVERFITTING, // held-out loss was higher at the last two evaluations than at one before, and the mean
                         // training loss before the last one is lower than before the lowest one
    WARNING_GRADIENT,    // the gradient's norm is above 10 times the median of the 20 steps before
    WARNING_STARVED,     // with a rate of 0.5 or more, the mean loss of the 20 last steps of the first epoch, or of the
                         // first 40 steps if these are more, is above 0.99 times that of the first 20
    WARNING_CAUSES
};

struct warning {
    uint64_t step; // 0: not told
    char text[320];
};

struct warnings {
    uint64_t steps_per_epoch;
    double highest_rate; // of all dropouts
    struct warning list[WARNING_CAUSES];
};

// Looks at the newest step of the history; returns the set of 1 << warning_cause that is to be told now.
unsigned warnings_look(struct warnings *w, const struct history *h);

// [{"cause", "step", "text"}] of what was told; NULL: no memory.
json_t *warnings_json(const struct warnings *w);

#endif
