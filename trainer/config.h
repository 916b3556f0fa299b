// config.json of a Hugging Face folder: the shape of a model of the Llama family.
#ifndef LODROP_TRAINER_CONFIG_H
#define LODROP_TRAINER_CONFIG_H

#include <lodrop.h>
#include <stdint.h>

#include "fault.h"

enum { MODEL_MAX_EOS = 8, MODEL_MAX_LAYERS = 1024, MODEL_MAX_HEADS = 256, MODEL_MAX_HEAD_DIM = 256 };

struct model_config {
    uint32_t hidden_size;
    uint32_t intermediate_size;
    uint32_t layers;   // num_hidden_layers; at most MODEL_MAX_LAYERS: a mask site holds 10 bits of layer,
    uint32_t heads;    // num_attention_heads; at most MODEL_MAX_HEADS: and 8 bits of head
    uint32_t kv_heads; // num_key_value_heads; divides heads
    uint32_t head_dim; // a multiple of 8, at most MODEL_MAX_HEAD_DIM
    uint32_t vocab_size;
    uint32_t max_positions; // max_position_embeddings
    double rms_norm_eps;
    double rope_theta;
    lod_rope_scaling rope_scaling; // factor 0: none
    double attention_dropout, hidden_dropout; // what the model's config says; 0 where it says nothing
    bool tie_word_embeddings; // the output matrix is the embedding matrix
    int32_t bos_token_id;     // -1: not given
    uint32_t eos_count;
    int32_t eos_token_ids[MODEL_MAX_EOS]; // the first is the one that is written
};

// path: config.json, or the folder that holds it. What the kernels do not compute (other families, biases, other
// scalings of RoPE than Llama 3's, another activation) is refused by name.
bool model_config_read(struct model_config *config, const char *path, fault *f);
bool model_config_parse(struct model_config *config, const void *data, size_t size, const char *file, fault *f);

#endif
