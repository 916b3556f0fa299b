// Which evaluation of a run was the best so far, and when those that are no better are reason to stop. All of it
// follows from the metrics, so a run that goes on from a checkpoint finds it again.
#ifndef LODROP_TRAINER_SELECTION_H
#define LODROP_TRAINER_SELECTION_H

#include "history.h"

enum selection_metric { SELECTION_LOSS, SELECTION_ACCURACY };

struct selection_rule {
    enum selection_metric metric;
    uint64_t patience; // evaluations in a row that are no better, after which the run stops; 0: it never does
    double threshold;  // by more than which a better one must be better, to count against patience
};

struct selection {
    uint64_t step;    // of the best evaluation; 0: none yet
    double value;     // its metric
    uint64_t in_vain; // evaluations in a row up to now that count against patience
};

// "loss" or "accuracy".
bool selection_metric_parse(enum selection_metric *metric, const char *text, fault *f);

// After a step. True if it was evaluated and is the best; the first of equals stays.
bool selection_look(struct selection *s, const struct selection_rule *rule, const struct step_metrics *m);

bool selection_stops(const struct selection *s, const struct selection_rule *rule);

#endif
