// The frozen weights of a Llama model: read from a Hugging Face folder, packed once for the library.
#ifndef LODROP_TRAINER_MODEL_H
#define LODROP_TRAINER_MODEL_H

#include "adapter.h"
#include "config.h"
#include "fault.h"
#include "lodrop.h"
#include "safetensors.h"

struct model_layer {
    const float *attention_norm; // [C]
    const float *mlp_norm;       // [C]
    lod_weight linear[ADAPTER_MODULES];
};

struct model {
    struct model_config config;
    struct safetensors *file;            // stays open for the embeddings
    const struct tensor_view *embedding; // [V][C]; rows are widened as tokens ask for them
    lod_weight head;                     // [V][C]
    const float *final_norm;             // [C]
    struct model_layer *layers;          // [config.layers]
    void *memory;
};

// Zeroed on failure. model_free may be called twice.
bool model_load(struct model *m, const char *folder, fault *f);
void model_free(struct model *m);

// Refuses sequences longer than the model has positions if their length was asked for, and else shortens it to them.
bool model_fit_length(const struct model_config *config, int64_t *max_length, bool asked, fault *f);

// Rows of the embedding, widened: x [tokens][C].
void model_embed(const struct model *m, size_t tokens, const uint32_t *token, float *x);

void model_linear_shape(const struct model_config *config, enum adapter_module module, size_t *n_in, size_t *n_out);

#endif
