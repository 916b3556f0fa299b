// Adapters: their parameters, the sums of their gradients, and where their input masks are drawn.
#ifndef LODROP_TRAINER_LORA_H
#define LODROP_TRAINER_LORA_H

#include "adapter.h"
#include "fault.h"
#include "lodrop.h"
#include "model.h"

struct lora_module {
    unsigned layer;
    enum adapter_module module;
    size_t n_in, n_out;
    float *a;                   // [r][n_in], in lora.value
    float *bt;                  // B transposed, [r][n_out], in lora.value behind a
    float *diagonal;            // [r], in lora.value behind bt; NULL: the form of LoRA
    float *la;                  // [r][n_in] what layers multiply with: A, or the diagonal times A
    size_t sums;                // one for each instance, where they differ
    lod_grad_sum *da, *dbt;     // [sums] of a step; unused unless training
    lod_dropout dropout;        // on the input, in training
    lod_dropout lora_a, lora_b; // on columns of A and rows of B
    double mean;                // what the adapter is multiplied by where it stands for all of these masks
    double strength;            // and where such masks act: 1, unless they stand for others that it was trained with
};

struct lora {
    size_t rank;
    unsigned modules; // set of 1 << adapter_module; the same in every layer that has adapters:
    unsigned first, end; // from first to below end
    double scale;     // alpha / r or alpha / sqrt(r)
    bool diagonal;    // AdaLoRA's form, P L Q
    double orthogonality; // its weight in the loss
    size_t instances; // of LoRA Dropout, 1 where nothing tells them apart
    unsigned fork;    // the first layer that does, or how many layers there are
    size_t count;
    struct lora_module *list; // [count], ascending by layer, then module
    size_t parameters;
    const struct layer_dropouts *dropouts; // [layers] of the model it is trained in; NULL: none
    float *value;    // [parameters]; a and bt of the modules in the order of the list
    float *gradient; // [parameters]; NULL unless training, like the next two
    float *moment1;  // [parameters]
    float *moment2;  // [parameters]
    void *memory;
    size_t bytes; // of it
};

enum lora_use { LORA_INFERENCE, LORA_TRAINING };

struct lora_options {
    struct adapter_config config;          // rank, alpha, rslora, modules
    const struct layer_dropouts *dropouts; // [layers]; NULL: none
    const struct layer_dropouts *own;      // [layers] those it was trained with, where these are others; NULL: these
    lod_domain domain;                     // of masks on A and B
    size_t instances;                      // 0: one
    bool diagonal;                         // with L, to be trained
    double orthogonality;
    uint64_t leaves;                       // most examples in a step
};

// All values zero. lora_free may be called twice.
bool lora_make(struct lora *l, const struct model_config *model, const struct lora_options *options, enum lora_use use,
               fault *f);
void lora_free(struct lora *l);

// A ~ U(-1/sqrt(n_in), 1/sqrt(n_in)) and B = 0, or, for tests, B ~ U(-1/sqrt(n_out), 1/sqrt(n_out)). With a diagonal it
// is L that is 0, or for tests U(-1, 1).
bool lora_initialise(struct lora *l, uint64_t seed, bool random_b, fault *f);

// After the values have changed: what layers multiply with.
void lora_refresh(struct lora *l);

// NULL: that layer's module has no adapter.
struct lora_module *lora_find(const struct lora *l, unsigned layer, enum adapter_module module);

// Values from and to an adapter folder, which has L A for A.
bool lora_read(struct lora *l, const char *folder, fault *f);
bool lora_write(const struct lora *l, const char *folder, const struct adapter_config *config,
                const struct adapter_recipe *recipe, fault *f);

// The gradient and the loss it belongs to as a safetensors file, tensors named as in a PEFT adapter; those of all L as
// "lora_E" [modules][r].
bool lora_write_gradient(const struct lora *l, const char *path, double loss, fault *f);

// Empties the sums into gradient, times factor, adds the gradient of AdaLoRA's terms, whose sum is *orthogonality, and
// returns the Euclidean norm.
double lora_finish_gradient(struct lora *l, double factor, double *orthogonality);

#endif
