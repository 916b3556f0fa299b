// Scores the choices of prompts by the summed log-probability of the tokens that training would target. A prompt runs
// once; its choices attend to its keys.
#ifndef LODROP_TRAINER_CHOICES_H
#define LODROP_TRAINER_CHOICES_H

#include "dataset.h"
#include "lora.h"
#include "model.h"

// *sum: losses of the right choices in nats, *targets: how many; *right: prompts whose right choice scored highest (the
// first of equals wins).
bool choices_score(double *sum, size_t *targets, size_t *right, const struct model *model, const struct lora *lora,
                   const struct dataset *data, unsigned threads, fault *f);

#endif
