// What pulls two passes over the same examples together, as the command line and lodrop.json name it.
#ifndef LODROP_TRAINER_CONSISTENCY_H
#define LODROP_TRAINER_CONSISTENCY_H

#include "fault.h"
#include "json.h"
#include "lodrop.h"

// KL: (KL(P||Q) + KL(Q||P)) / 2 to a second pass with masks of its own, through which no gradient flows (HiddenKey).
// R_DROP: the same divergence, the mean of both passes' losses, and gradients through both. JS: the Jensen-Shannon
// divergence to a pass that drops nothing, through which no gradient flows.
enum consistency_kind { CONSISTENCY_NONE, CONSISTENCY_KL, CONSISTENCY_R_DROP, CONSISTENCY_JS, CONSISTENCY_KINDS };

struct consistency {
    enum consistency_kind kind;
    double weight; // of the divergence
};

#define CONSISTENCY_MOST_WEIGHT 1e30

// "kl", "r-drop" or "js"; NULL for none.
const char *consistency_word(enum consistency_kind kind);
bool consistency_find(enum consistency_kind *kind, const char *word, const char *file, const char *field, fault *f);

// As lod_loss knows it.
lod_consistency consistency_divergence(enum consistency_kind kind);

// "consistency" and "consistency_weight" of an object, which has neither where there is none.
bool consistency_add_json(json_t *object, const struct consistency *c);
bool consistency_from_json(struct consistency *c, struct json_scope scope, fault *f);

#endif
