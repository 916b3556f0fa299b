// A random Llama of a few thousand weights with adapters, and a ragged batch, for the tests of this folder.
#ifndef LODROP_TESTS_TRAINER_SMALL_LLAMA_H
#define LODROP_TESTS_TRAINER_SMALL_LLAMA_H

#include "model_f64.h"

enum { LAYERS = 2, WIDTH = 24, HEADS = 4, KV_HEADS = 2, HEAD_DIM = 8, MIDDLE = 20, VOCABULARY = 13, RANK = 3 };
enum { SEGMENTS = 3, TOKENS = 13, TARGETS = 6 };

typedef struct small_llama {
    model_f64 m;
    model_layer_f64 layers[LAYERS];
    model_batch batch;
    uint32_t token[TOKENS], position[TOKENS], target[TARGETS];
    void *memory[256];
    size_t count;
} small_llama;

// Random numbers [count] in [-size, size), which float32 holds exactly if size is a power of 2; freed with the model.
double *small_random(small_llama *s, size_t count, double size);

// modules: the set of 1 << module that have an adapter. All values are drawn in one order from `seed`.
void small_llama_make(small_llama *s, uint64_t seed, unsigned modules, double p);
void small_llama_drop(small_llama *s); // activations, too
// Columns of A and rows of B from a layer on.
void small_llama_drop_matrices(small_llama *s, unsigned first);
void small_llama_free(small_llama *s);

#endif
