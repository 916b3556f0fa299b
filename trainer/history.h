// What a run has shown so far, a line per step: metrics.jsonl, and the curves drawn from it.
#ifndef LODROP_TRAINER_HISTORY_H
#define LODROP_TRAINER_HISTORY_H

#include <stdint.h>
#include <stdio.h>

#include "fault.h"

struct step_metrics {
    uint64_t step; // from 1
    double loss;   // nats per target of the step's examples, with dropout
    double learning_rate;
    double grad_norm; // before clipping
    double tokens_per_second;
    bool has_divergence;
    double divergence; // nats per target between the two branches
    bool has_orthogonality;
    double orthogonality;           // AdaLoRA's terms of all modules, without their weight
    double eval_loss;               // held-out, after the step; negative: not evaluated there
    double eval_accuracy, eval_ece; // negative: choices were not scored there
};

struct history {
    struct step_metrics *list;
    size_t count, capacity;
};

void history_free(struct history *h);
bool history_add(struct history *h, const struct step_metrics *m, fault *f);

// Mean of the last n steps' training losses, or of all there are.
double history_recent_loss(const struct history *h, size_t n);

// One JSON object and a newline.
bool history_print_line(FILE *out, const struct step_metrics *m);

// metrics.jsonl, whole.
bool history_write(const struct history *h, const char *path, fault *f);
bool history_read(struct history *h, const char *path, fault *f);

// curves.svg: training loss, its running mean, and held-out loss over steps.
bool history_draw(const struct history *h, const char *path, fault *f);

#endif
