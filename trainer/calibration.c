#include "calibration.h"

#include <math.h>

#include "number.h"

double calibration_confidence(const double *losses, size_t count, size_t best) {
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        sum += number_exp(losses[best] - losses[i]);
    }
    return 1 / sum;
}

void calibration_add(struct calibration *c, double confidence, bool right) {
    double place = ceil(confidence * CALIBRATION_BINS) - 1;
    struct calibration_bin *bin = &c->bin[(size_t)fmin(fmax(place, 0), CALIBRATION_BINS - 1)];
    bin->count++;
    bin->right += right;
    bin->confidence += confidence;
    c->count++;
    c->right += right;
}

double calibration_accuracy(const struct calibration *c) {
    return c->count ? (double)c->right / (double)c->count : 0;
}

double calibration_error(const struct calibration *c) {
    double sum = 0;
    for (size_t b = 0; b < CALIBRATION_BINS; b++) {
        sum += fabs((double)c->bin[b].right - c->bin[b].confidence);
    }
    return c->count ? sum / (double)c->count : 0;
}
