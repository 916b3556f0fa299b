// Gradients for comparison with other programs.
#ifndef LODROP_TRAINER_GRADIENTS_H
#define LODROP_TRAINER_GRADIENTS_H

#include "lora.h"

// A safetensors file with every adapter's gradient under the name and in the shape that PEFT gives the weight, and
// "loss".
bool gradients_write(const char *path, const struct lora *lora, double loss, fault *f);

#endif
