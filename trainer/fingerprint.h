// What a checkpoint goes on with must be what it was made with: 64 bits of data and of a model, wherever they lie.
#ifndef LODROP_TRAINER_FINGERPRINT_H
#define LODROP_TRAINER_FINGERPRINT_H

#include "dataset.h"
#include "model.h"

// All tokens, the places of targets, and of choices which one is right.
uint64_t fingerprint_of_data(const struct dataset *data);

// The settings that it computes by, its norms, and the first values of each matrix.
uint64_t fingerprint_of_model(const struct model *model);

#endif
