// How far the confidence in answers agrees with how often they are right: bins of equal width, the expected calibration
// error over them, and a reliability diagram.
#ifndef LODROP_TRAINER_CALIBRATION_H
#define LODROP_TRAINER_CALIBRATION_H

#include <stddef.h>

#include "fault.h"

enum { CALIBRATION_BINS = 15 };

// Answers whose confidence is above b / 15 and at most (b + 1) / 15; the first bin has those of 0, too.
struct calibration_bin {
    size_t count, right;
    double confidence; // summed
};

struct calibration {
    size_t count, right;
    struct calibration_bin bin[CALIBRATION_BINS];
};

// The softmax over the choices' summed log-probabilities at choice `best`. losses [count]: minus those.
double calibration_confidence(const double *losses, size_t count, size_t best);

void calibration_add(struct calibration *c, double confidence, bool right);

// Share of right answers; 0 without any.
double calibration_accuracy(const struct calibration *c);

// ECE: the sum over bins of |accuracy - mean confidence|, each weighted by its share of the answers.
double calibration_error(const struct calibration *c);

// The reliability diagram: accuracy over confidence with each bin's count, as SVG.
bool calibration_draw(const struct calibration *c, const char *path, fault *f);

#endif
