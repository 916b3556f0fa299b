// The form of AdaLoRA (arXiv 2303.10512), dW = s P L Q: P is B, Q is A, and L a diagonal between them, with terms in
// the loss that keep P's columns and Q's rows apart, ||P'P - I||^2 + ||QQ' - I||^2 of every module.
#ifndef LODROP_TRAINER_ADALORA_H
#define LODROP_TRAINER_ADALORA_H

#include "lora.h"

// L Q of every module anew: after values have changed.
void adalora_multiply(struct lora *l);

// The gradients of L Q become those of L and Q.
void adalora_split(struct lora *l);

// Adds weight times the gradient of the terms, and returns their sum.
double adalora_orthogonality(struct lora *l, double weight);

#endif
