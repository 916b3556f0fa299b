// Adapter folders as PEFT reads and writes them: adapter_config.json and adapter_model.safetensors, and beside them
// lodrop.json with what PEFT has no field for: the true alpha and the dropouts of the run.
#ifndef LODROP_TRAINER_ADAPTER_H
#define LODROP_TRAINER_ADAPTER_H

#include <stdint.h>

#include "dropout.h"
#include "fault.h"
#include "modules.h"
#include "safetensors.h"

enum {
    ADAPTER_MAX_RANK = 4096,
    ADAPTER_MAX_INSTANCES = 64 // as many as a mask's site can tell apart
};

struct adapter_config {
    unsigned r;            // rank
    double alpha;          // lora_alpha as it was trained; of a file as PEFT sees it, with the expected masks in it
    bool alpha_pattern;    // of a file: some modules have a lora_alpha of their own, which lodrop.json explains
    double dropout;        // lora_dropout: the rate on the input of A, where all layers have the same
    bool rslora;           // scale by alpha / sqrt(r)
    unsigned modules;      // set of 1 << adapter_module
    struct layers layers;  // that have adapters
    char base_model[1024]; // base_model_name_or_path; empty: null
};

enum { ADAPTER_WORD = 32 };

// lodrop.json.
struct adapter_recipe {
    char method[ADAPTER_WORD];
    double alpha;  // lora_alpha as it was trained
    uint64_t seed; // below 2^63
    struct dropouts dropouts;
    struct consistency consistency;
    unsigned instances;   // of LoRA Dropout
    bool diagonal;        // trained as P L Q, of which the adapter holds P and the product L Q
    double orthogonality; // of that form
};

// The matrices of one module. B is held transposed, as the kernels want it.
struct adapter_tensors {
    unsigned layer;
    enum adapter_module module;
    size_t n_in, n_out;
    double mean; // what of lora_alpha is left where masks of A and B are not drawn; read only for writing
    float *a;    // [r][n_in]
    float *bt;   // [r][n_out]
};

// Makes the folder and writes the three files, each whole or not at all, adapter_model.safetensors last.
bool adapter_write(const char *folder, const struct adapter_config *config, const struct adapter_recipe *recipe,
                   const struct adapter_tensors *tensors, size_t count, fault *f);

// Only tensors, named as in a PEFT adapter, into one file, and some more.
bool adapter_write_tensors(const char *path, unsigned r, const struct adapter_tensors *tensors, size_t count,
                           const struct tensor_source *extra, size_t extras, fault *f);

// adapter_config.json. What this trainer does not do (a bias, DoRA, patterns of ranks, ...) is refused by name.
bool adapter_read_config(struct adapter_config *config, const char *folder, fault *f);
bool adapter_parse_config(struct adapter_config *config, const void *data, size_t size, const char *file, fault *f);

// Both, with the alpha that was trained. An adapter of another program has no recipe: none of its fields is set then.
bool adapter_read(struct adapter_config *config, struct adapter_recipe *recipe, const char *folder, fault *f);

// lodrop.json; an adapter of another program has none: *there is false then.
bool adapter_read_recipe(struct adapter_recipe *recipe, bool *there, const char *folder, fault *f);

// Fills a and bt of every module listed (F32, F16 or BF16, widened). A tensor that is missing, of another shape, or not
// of the list is a fault.
bool adapter_read_tensors(const char *folder, unsigned r, const struct adapter_tensors *tensors, size_t count,
                          fault *f);

#endif
