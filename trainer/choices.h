// Scores the choices of prompts by the summed log-probability of the tokens that training would target. A prompt runs
// once; its choices attend to its keys.
#ifndef LODROP_TRAINER_CHOICES_H
#define LODROP_TRAINER_CHOICES_H

#include "calibration.h"
#include "dataset.h"
#include "evaluate.h"
#include "lora.h"
#include "model.h"

struct choices_result {
    double sum;                 // losses of the right choices in nats
    size_t targets;             // how many
    struct calibration answers; // the choices that scored highest (the first of equals), one a prompt
};

bool choices_score(struct choices_result *result, const struct model *model, const struct lora *lora,
                   const struct dataset *data, const struct evaluation_manner *manner, fault *f);

#endif
