// Dropouts as the command line and lodrop.json name them, POSITION:PATTERN:P[:COMPENSATION[:LAYERS]][@MODULES]; the one
// table of those that can be trained with; the methods, which are names for some of them; and what each layer draws in
// the end.
#ifndef LODROP_TRAINER_DROPOUT_H
#define LODROP_TRAINER_DROPOUT_H

#include <stdint.h>

#include "consistency.h"
#include "fault.h"
#include "json.h"
#include "layers.h"
#include "lodrop.h"
#include "modules.h"

enum dropout_position {
    DROPOUT_LORA_INPUT,
    DROPOUT_LORA_A,
    DROPOUT_LORA_B,
    DROPOUT_ATTN_LOGIT,
    DROPOUT_ATTN_WEIGHT,
    DROPOUT_FFN_MIDDLE,
    DROPOUT_FFN_OUTPUT,
    DROPOUT_EMBEDDING,
    DROPOUT_HIDDEN,
    DROPOUT_POSITIONS
};

enum { DROPOUT_PATTERNS = LOD_PATTERN_SPAN + 1 };

enum dropout_compensation {
    DROPOUT_NONE = LOD_COMPENSATION_NONE,
    DROPOUT_INVERTED = LOD_COMPENSATION_INVERTED,
    DROPOUT_RENORMALISE = LOD_COMPENSATION_RENORMALISE,
    DROPOUT_RENORMALISE_NOGRAD = LOD_COMPENSATION_RENORMALISE_NOGRAD,
    DROPOUT_INFERENCE = LOD_COMPENSATION_INFERENCE,
    DROPOUT_COMPENSATIONS
};

enum { DROPOUT_MOST = 160, DROPOUT_TEXT = 128, DROPOUT_MODULES = 32 };

struct dropout {
    enum dropout_position position;
    lod_pattern pattern;
    enum dropout_compensation compensation;
    double p;
    struct layers layers;
    char modules[DROPOUT_MODULES]; // a pattern of names, at the positions that adapters have; empty: all
    bool per_kv_head;   // a key set for each KV head, not for each query head
    const char *option; // that asked for it
};

struct dropouts {
    size_t count;
    struct dropout list[DROPOUT_MOST];
};

// The share that masks of that rate keep on average: they count in parts of 65536.
double dropout_kept(double p);

// NULL, or why the masks cannot have that rate.
const char *dropout_rate_refusal(double p);

// An argument of --drop. A compensation that is left out is the usual one of position and pattern.
bool dropout_parse(struct dropout *d, const char *text, const char *program, fault *f);

// All of it but the option: "lora_input:element:0.1:inverted:12-23@*_proj".
void dropout_print(char text[DROPOUT_TEXT], const struct dropout *d);

// Of the input or a matrix of adapters.
bool dropout_is_of_adapter(const struct dropout *d);

// The set of modules whose adapters it is for; all of them where it is for none in particular.
unsigned dropout_modules(const struct dropout *d);

// Of columns of A or rows of B.
bool dropout_is_of_matrix(const struct dropout *d);

// A mask of keys that all queries of a head share: only there it is a question whose head.
bool dropout_has_key_set(const struct dropout *d);

// As the list of objects that lodrop.json holds; NULL: no memory.
json_t *dropouts_json(const struct dropouts *d);
bool dropouts_from_json(struct dropouts *d, struct json_scope scope, const char *field, fault *f);

// --- Methods ---

struct dropout_method {
    const char *name;
    size_t count;
    struct dropout list[2]; // with their default rates
    enum consistency_kind consistency;
    unsigned instances; // 0: one
};

bool dropout_method_find(const struct dropout_method **method, const char *name, fault *f);
bool dropout_method_is_of_input(const struct dropout_method *method);

// --- What a model's layers draw ---

// p = 0: nothing.
struct layer_dropouts {
    lod_dropout embedding;  // of the first layer: what goes into it
    lod_dropout lora_input[ADAPTER_MODULES], lora_a[ADAPTER_MODULES], lora_b[ADAPTER_MODULES];
    lod_dropout attention;
    lod_dropout attention_output, ffn_middle, ffn_output;
};

struct dropout_frame {
    unsigned layers;  // of the model
    unsigned modules; // set of those that have adapters
    const char *file; // of the dropouts, which faults name
};

// That the model has the layers, adapters the modules, and each layer at most one dropout at a place: attention's
// logits and weights are one, the FFN's output is one of the two places of `hidden`, and a dropout on the input of A
// leaves A and B alone.
bool dropouts_fit(const struct dropouts *d, const struct dropout_frame *frame, fault *f);

// That each dropout of adapters has a layer with an adapter.
bool dropouts_meet(const struct dropouts *d, const struct layers *adapted, unsigned layers, const char *file, fault *f);

// That a run goes on from what the adapter `from` computes: where matrices are dropped without compensation that is, on
// average, less than its alpha says.
bool dropouts_continue(const struct dropouts *now, const struct dropouts *before, const char *from, fault *f);

// Fills list [layers]; d must fit.
bool dropouts_of_layers(struct layer_dropouts *list, unsigned layers, const struct dropouts *d, uint64_t seed,
                        fault *f);

// Both, into a new list that free() returns.
bool dropouts_place(struct layer_dropouts **list, const struct dropout_frame *frame, const struct dropouts *d,
                    uint64_t seed, fault *f);

#endif
