// The learning rate of every step, as transformers computes it, and the order in which epochs visit the examples.
#ifndef LODROP_TRAINER_SCHEDULE_H
#define LODROP_TRAINER_SCHEDULE_H

#include <stdint.h>

#include "fault.h"

enum schedule_kind { SCHEDULE_LINEAR, SCHEDULE_COSINE, SCHEDULE_CONSTANT };

struct schedule {
    enum schedule_kind kind;
    double peak;
    uint64_t warmup, total; // steps
};

// "linear", "cosine" or "constant"; a constant rate has a warm-up too if one is asked for.
bool schedule_parse(enum schedule_kind *kind, const char *name, fault *f);

// Warm-up takes ceil(ratio * total) steps.
struct schedule schedule_make(enum schedule_kind kind, double peak, double warmup_ratio, uint64_t total);

// step: from 0.
double schedule_rate(const struct schedule *s, uint64_t step);

// order [count]: a permutation of 0 .. count-1, a pure function of seed and epoch (Fisher and Yates).
bool shuffle_epoch(uint32_t *order, uint32_t count, uint64_t seed, uint32_t epoch, fault *f);

#endif
