#include "consistency.h"

#include <string.h>

static const struct {
    const char *word;
    lod_consistency divergence;
} KINDS[CONSISTENCY_KINDS] = {[CONSISTENCY_KL] = {"kl", LOD_CONSISTENCY_KL},
                              [CONSISTENCY_R_DROP] = {"r-drop", LOD_CONSISTENCY_KL},
                              [CONSISTENCY_JS] = {"js", LOD_CONSISTENCY_JS}};

const char *consistency_word(enum consistency_kind kind) {
    return KINDS[kind].word;
}

lod_consistency consistency_divergence(enum consistency_kind kind) {
    return KINDS[kind].divergence;
}

bool consistency_find(enum consistency_kind *kind, const char *word, const char *file, const char *field, fault *f) {
    for (*kind = CONSISTENCY_KL; *kind < CONSISTENCY_KINDS; ++*kind) {
        if (strcmp(KINDS[*kind].word, word) == 0) {
            return true;
        }
    }
    return fault_set(f, FAULT_INPUT, file, field, "'%s' is not one of kl, r-drop, js", word);
}

bool consistency_add_json(json_t *object, const struct consistency *c) {
    return c->kind == CONSISTENCY_NONE ||
           (json_object_set_new(object, "consistency", json_string(consistency_word(c->kind))) == 0 &&
            json_object_set_new(object, "consistency_weight", json_real(c->weight)) == 0);
}

bool consistency_from_json(struct consistency *c, struct json_scope scope, fault *f) {
    const char *word;
    *c = (struct consistency){0};
    return !json_has(scope, "consistency") ||
           (json_get_string(scope, "consistency", JSON_REQUIRED, &word, f) &&
            consistency_find(&c->kind, word, scope.file, "consistency", f) &&
            json_get_number(scope, "consistency_weight", JSON_REQUIRED, 0, CONSISTENCY_MOST_WEIGHT, &c->weight, f));
}
