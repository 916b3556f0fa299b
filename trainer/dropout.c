#include "dropout.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "library.h"

static const char DROP[] = "--drop";

// --- What can be trained with ---

// The compensations that a position takes with a pattern; the usual one is meant where none is named.
struct rule {
    unsigned takes; // set of 1 << dropout_compensation; empty: the position does not take the pattern
    enum dropout_compensation usual;
};

struct position {
    const char *place[2];               // that take one dropout a layer; the second may be NULL
    unsigned library;                   // lod_position
    struct rule rule[DROPOUT_PATTERNS]; // by pattern
    bool once;                          // in the model, not in every layer
    bool of_modules;                    // once for each module that has an adapter
};

#define SET(compensation) (1u << DROPOUT_##compensation)

// Any activation takes dropout token by token and variational dropout, the FFN's also HiddenCut's spans.
#define ACTIVATION                                                                                                     \
    [LOD_PATTERN_ELEMENT] = {SET(INVERTED) | SET(INFERENCE), DROPOUT_INVERTED},                                        \
    [LOD_PATTERN_COLUMN] = {SET(INVERTED), DROPOUT_INVERTED}
#define SPAN [LOD_PATTERN_SPAN] = {SET(NONE), DROPOUT_NONE}

// Whole columns of A and rows of B, scaled back in training or, by the adapter's alpha, at inference.
#define MATRIX [LOD_PATTERN_COLUMN] = {SET(NONE) | SET(INVERTED), DROPOUT_NONE}

static const char FFN_OUTPUT[] = "the output of the FFN", MATRIX_A[] = "A", MATRIX_B[] = "B";

// Every position x pattern x compensation is valid or not by this table alone; understand() tells why not.
static const struct position POSITIONS[DROPOUT_POSITIONS] = {
    [DROPOUT_LORA_INPUT] = {.place = {MATRIX_A, MATRIX_B},
                            .library = LOD_POSITION_LORA_INPUT,
                            .of_modules = true,
                            .rule = {[LOD_PATTERN_ELEMENT] = {SET(INVERTED), DROPOUT_INVERTED}}},
    [DROPOUT_LORA_A] = {.place = {MATRIX_A}, .library = LOD_POSITION_LORA_A, .of_modules = true, .rule = {MATRIX}},
    [DROPOUT_LORA_B] = {.place = {MATRIX_B}, .library = LOD_POSITION_LORA_B, .of_modules = true, .rule = {MATRIX}},
    [DROPOUT_ATTN_LOGIT] = {.place = {"attention"},
                            .library = LOD_POSITION_ATTN_LOGIT,
                            .rule = {[LOD_PATTERN_ELEMENT] = {SET(NONE), DROPOUT_NONE},
                                     [LOD_PATTERN_COLUMN] = {SET(NONE), DROPOUT_NONE},
                                     SPAN}},
    [DROPOUT_ATTN_WEIGHT] =
        {.place = {"attention"},
         .library = LOD_POSITION_ATTN_WEIGHT,
         .rule = {[LOD_PATTERN_ELEMENT] = {SET(INVERTED) | SET(RENORMALISE) | SET(RENORMALISE_NOGRAD),
                                           DROPOUT_INVERTED},
                  [LOD_PATTERN_COLUMN] = {SET(RENORMALISE) | SET(RENORMALISE_NOGRAD), DROPOUT_RENORMALISE_NOGRAD},
                  [LOD_PATTERN_SPAN] = {SET(RENORMALISE) | SET(RENORMALISE_NOGRAD), DROPOUT_RENORMALISE_NOGRAD}}},
    [DROPOUT_FFN_MIDDLE] = {.place = {"the middle of the FFN"},
                            .library = LOD_POSITION_FFN_MIDDLE,
                            .rule = {ACTIVATION, SPAN}},
    [DROPOUT_FFN_OUTPUT] = {.place = {FFN_OUTPUT}, .library = LOD_POSITION_FFN_OUTPUT, .rule = {ACTIVATION, SPAN}},
    [DROPOUT_EMBEDDING] = {.place = {"the embedding"},
                           .library = LOD_POSITION_EMBEDDING,
                           .rule = {ACTIVATION},
                           .once = true},
    // The output of attention, and that of the FFN, where its mask is the one of ffn_output.
    [DROPOUT_HIDDEN] = {.place = {FFN_OUTPUT}, .library = LOD_POSITION_HIDDEN, .rule = {ACTIVATION}},
};

// --- Words ---

enum { LIST_BYTES = 160 };

struct vocabulary {
    const char *what;
    size_t count;
    const char *word[DROPOUT_POSITIONS];
};

static const struct vocabulary POSITION_WORDS = {
    "position",
    DROPOUT_POSITIONS,
    {"lora_input", "lora_a", "lora_b", "attn_logit", "attn_weight", "ffn_middle", "ffn_output", "embedding", "hidden"}};
static const struct vocabulary PATTERN_WORDS = {"pattern", DROPOUT_PATTERNS, {"element", "column", "span"}};
static const struct vocabulary COMPENSATION_WORDS = {
    "compensation", DROPOUT_COMPENSATIONS, {"none", "inverted", "renormalise", "renormalise-nograd", "inference"}};

// A dropout in words; compensation, layers and modules are NULL where they are left out. File and field are for faults.
struct words {
    const char *position, *pattern, *compensation, *layers, *modules;
    double p;
    const char *file, *field;
};

// The words of the set of 1 << index, parted by commas.
static const char *list_words(char list[LIST_BYTES], const struct vocabulary *v, unsigned set) {
    size_t used = 0;
    for (size_t i = 0; i < v->count; i++) {
        if (set >> i & 1) {
            used += (size_t)snprintf(list + used, LIST_BYTES - used, "%s%s", used ? ", " : "", v->word[i]);
        }
    }
    return list;
}

static bool find_word(unsigned *index, const struct vocabulary *v, const char *word, const struct words *w, fault *f) {
    for (*index = 0; *index < v->count; ++*index) {
        if (strcmp(v->word[*index], word) == 0) {
            return true;
        }
    }
    char list[LIST_BYTES];
    return fault_set(f, FAULT_INPUT, w->file, w->field, "'%s' is no %s: must be one of %s", word, v->what,
                     list_words(list, v, ~0u));
}

// Position and pattern, and what they take, which is something.
static bool find_rule(const struct rule **rule, unsigned *position, unsigned *pattern, const struct words *w,
                      fault *f) {
    if (!find_word(position, &POSITION_WORDS, w->position, w, f) ||
        !find_word(pattern, &PATTERN_WORDS, w->pattern, w, f)) {
        return false;
    }
    const struct position *at = &POSITIONS[*position];
    *rule = &at->rule[*pattern];
    unsigned patterns = 0;
    for (unsigned i = 0; i < DROPOUT_PATTERNS; i++) {
        patterns |= (unsigned)(at->rule[i].takes != 0) << i;
    }
    char list[LIST_BYTES];
    return (*rule)->takes || fault_set(f, FAULT_INPUT, w->file, w->field, "%s does not take the pattern %s: only %s",
                                       w->position, w->pattern, list_words(list, &PATTERN_WORDS, patterns));
}

static bool find_layers(struct dropout *d, const struct words *w, fault *f) {
    if (POSITIONS[d->position].once) {
        return fault_set(f, FAULT_INPUT, w->file, w->field, "%s stands before the layers and takes none", w->position);
    }
    return layers_parse(&d->layers, w->layers, w->file, w->field, f);
}

static bool find_modules(struct dropout *d, const struct words *w, fault *f) {
    char known[ADAPTER_MODULES_TEXT];
    if (!POSITIONS[d->position].of_modules) {
        return fault_set(f, FAULT_INPUT, w->file, w->field, "%s is not of modules and takes none", w->position);
    }
    if (strlen(w->modules) >= sizeof d->modules) {
        return fault_set(f, FAULT_INPUT, w->file, w->field, "'%.32s...' is longer than %d bytes", w->modules,
                         DROPOUT_MODULES - 1);
    }
    if (!adapter_modules_match(w->modules)) {
        return fault_set(f, FAULT_INPUT, w->file, w->field, "'%s' matches no module: must match some of %s", w->modules,
                         adapter_modules_print(known, ADAPTER_ALL_MODULES));
    }
    strcpy(d->modules, w->modules);
    return true;
}

double dropout_kept(double p) {
    return 1 - floor(p * 65536 + 0.5) / 65536;
}

const char *dropout_rate_refusal(double p) {
    if (!(p >= 0 && p < 1)) {
        return "must be at least 0 and below 1";
    }
    if (p > 0 && (dropout_kept(p) == 0 || dropout_kept(p) == 1)) {
        return "rounds to dropping nothing or everything: masks count in parts of 65536";
    }
    return NULL;
}

static bool understand(struct dropout *d, const struct words *w, fault *f) {
    const struct rule *rule = NULL;
    unsigned position = 0, pattern = 0, compensation;
    if (!find_rule(&rule, &position, &pattern, w, f)) {
        return false;
    }
    compensation = rule->usual;
    if (w->compensation && !find_word(&compensation, &COMPENSATION_WORDS, w->compensation, w, f)) {
        return false;
    }
    if (!(rule->takes >> compensation & 1)) {
        char list[LIST_BYTES];
        return fault_set(f, FAULT_INPUT, w->file, w->field, "%s with the pattern %s does not take %s: only %s",
                         w->position, w->pattern, w->compensation, list_words(list, &COMPENSATION_WORDS, rule->takes));
    }
    const char *refusal = dropout_rate_refusal(w->p);
    if (refusal) {
        return fault_set(f, FAULT_INPUT, w->file, w->field, "the rate is %.15g, %s", w->p, refusal);
    }
    *d = (struct dropout){
        .position = position, .pattern = pattern, .compensation = compensation, .p = w->p, .option = DROP};
    return (!w->layers || find_layers(d, w, f)) && (!w->modules || find_modules(d, w, f));
}

// --- Text ---

bool dropout_parse(struct dropout *d, const char *text, const char *program, fault *f) {
    char copy[DROPOUT_TEXT], field[DROPOUT_TEXT + sizeof DROP], *part[5] = {copy}, *end;
    if (strlen(text) >= sizeof copy) {
        return fault_set(f, FAULT_INPUT, program, DROP, "'%.32s...' is longer than %d bytes", text, DROPOUT_TEXT - 1);
    }
    strcpy(copy, text);
    snprintf(field, sizeof field, "%s %s", DROP, text);
    char *modules = strchr(copy, '@');
    if (modules) {
        *modules++ = 0;
    }
    size_t parts = 1;
    for (char *colon = strchr(copy, ':'); colon; colon = strchr(colon + 1, ':')) {
        if (parts < 5) {
            part[parts] = colon + 1;
        }
        *colon = 0;
        parts++;
    }
    if (parts < 3 || parts > 5) {
        return fault_set(f, FAULT_INPUT, program, field,
                         "must be POSITION:PATTERN:P[:COMPENSATION[:LAYERS]][@MODULES]");
    }
    struct words w = {.position = part[0],
                      .pattern = part[1],
                      .compensation = part[3],
                      .layers = part[4],
                      .modules = modules,
                      .p = strtod(part[2], &end),
                      .file = program,
                      .field = field};
    if (end == part[2] || *end) {
        return fault_set(f, FAULT_INPUT, program, field, "'%s' is not a number", part[2]);
    }
    return understand(d, &w, f);
}

void dropout_print(char text[DROPOUT_TEXT], const struct dropout *d) {
    char layers[LAYERS_TEXT];
    layers_print(layers, &d->layers);
    snprintf(text, DROPOUT_TEXT, "%s:%s:%.15g:%s%s%s%s%s", POSITION_WORDS.word[d->position],
             PATTERN_WORDS.word[d->pattern], d->p, COMPENSATION_WORDS.word[d->compensation], *layers ? ":" : "", layers,
             *d->modules ? "@" : "", d->modules);
}

bool dropout_is_of_adapter(const struct dropout *d) {
    return POSITIONS[d->position].of_modules;
}

unsigned dropout_modules(const struct dropout *d) {
    return *d->modules ? adapter_modules_match(d->modules) : ADAPTER_ALL_MODULES;
}

bool dropout_is_of_matrix(const struct dropout *d) {
    return d->position == DROPOUT_LORA_A || d->position == DROPOUT_LORA_B;
}

bool dropout_has_key_set(const struct dropout *d) {
    bool attention = d->position == DROPOUT_ATTN_LOGIT || d->position == DROPOUT_ATTN_WEIGHT;
    return attention && d->pattern != LOD_PATTERN_ELEMENT;
}

// --- JSON ---

static json_t *dropout_json(const struct dropout *d) {
    char layers[LAYERS_TEXT];
    layers_print(layers, &d->layers);
    json_t *object =
        json_pack("{s:s, s:s, s:f, s:s}", "position", POSITION_WORDS.word[d->position], "pattern",
                  PATTERN_WORDS.word[d->pattern], "p", d->p, "compensation", COMPENSATION_WORDS.word[d->compensation]);
    if ((*layers && json_object_set_new(object, "layers", json_string(layers)) != 0) ||
        (*d->modules && json_object_set_new(object, "modules", json_string(d->modules)) != 0) ||
        (d->per_kv_head && json_object_set_new(object, "per_kv_head", json_true()) != 0)) {
        json_decref(object);
        return NULL;
    }
    return object;
}

json_t *dropouts_json(const struct dropouts *d) {
    json_t *array = json_array();
    for (size_t i = 0; i < d->count; i++) {
        if (json_array_append_new(array, dropout_json(&d->list[i])) != 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

static bool read_entry(struct dropout *d, struct json_scope entry, fault *f) {
    struct words w = {.file = entry.file, .field = entry.within};
    bool per_kv_head = false;
    if (!json_get_string(entry, "position", JSON_REQUIRED, &w.position, f) ||
        !json_get_string(entry, "pattern", JSON_REQUIRED, &w.pattern, f) ||
        !json_get_number(entry, "p", JSON_REQUIRED, 0, 1, &w.p, f) ||
        !json_get_string(entry, "compensation", JSON_REQUIRED, &w.compensation, f) ||
        !json_get_string(entry, "layers", JSON_OPTIONAL, &w.layers, f) ||
        !json_get_string(entry, "modules", JSON_OPTIONAL, &w.modules, f) ||
        !json_get_bool(entry, "per_kv_head", JSON_OPTIONAL, &per_kv_head, f) || !understand(d, &w, f)) {
        return false;
    }
    d->per_kv_head = per_kv_head;
    d->option = entry.within;
    return !per_kv_head || dropout_has_key_set(d) ||
           json_fault(entry, "per_kv_head", f, "is not for %s with the pattern %s", w.position, w.pattern);
}

bool dropouts_from_json(struct dropouts *d, struct json_scope scope, const char *field, fault *f) {
    const json_t *array;
    if (!json_get_array(scope, field, JSON_REQUIRED, &array, f)) {
        return false;
    }
    d->count = json_array_size(array);
    if (d->count > DROPOUT_MOST) {
        return json_fault(scope, field, f, "%zu entries, at most %d can be held", d->count, DROPOUT_MOST);
    }
    for (size_t i = 0; i < d->count; i++) {
        struct json_scope entry = {.object = json_array_get(array, i), .file = scope.file, .within = field};
        if (!read_entry(&d->list[i], entry, f)) {
            return false;
        }
    }
    return true;
}

// --- Methods ---

// The table of methods; a rate is that of --rate where it is given.
#define DROP_AT(at, how, balance, where, rate)                                                                         \
    {.position = DROPOUT_##at,                                                                                         \
     .pattern = LOD_PATTERN_##how,                                                                                     \
     .compensation = DROPOUT_##balance,                                                                                \
     .p = rate,                                                                                                        \
     .layers = {.extent = LAYERS_##where},                                                                             \
     .option = "--method"}
#define DROP(at, how, balance, where) DROP_AT(at, how, balance, where, 0.1)

static const struct dropout_method METHODS[] = {
    {.name = "lora"},
    {.name = "lora-input-dropout", .count = 1, .list = {DROP(LORA_INPUT, ELEMENT, INVERTED, ALL)}},
    {.name = "lora-dropout",
     .count = 2,
     .list = {DROP_AT(LORA_A, COLUMN, NONE, ALL, 0.5), DROP_AT(LORA_B, COLUMN, NONE, ALL, 0.5)},
     .instances = 4},
    {.name = "dropkey", .count = 1, .list = {DROP(ATTN_LOGIT, COLUMN, NONE, ALL)}},
    {.name = "dropattention", .count = 1, .list = {DROP(ATTN_WEIGHT, COLUMN, RENORMALISE_NOGRAD, ALL)}},
    {.name = "hiddencut", .count = 1, .list = {DROP(FFN_OUTPUT, ELEMENT, INVERTED, ALL)}},
    {.name = "hiddenkey-minus",
     .count = 2,
     .list = {DROP(ATTN_LOGIT, COLUMN, NONE, LATER_HALF), DROP(FFN_OUTPUT, ELEMENT, INVERTED, LATER_HALF)}},
    {.name = "hiddenkey",
     .count = 2,
     .list = {DROP(ATTN_LOGIT, COLUMN, NONE, LATER_HALF), DROP(FFN_OUTPUT, ELEMENT, INVERTED, LATER_HALF)},
     .consistency = CONSISTENCY_KL},
    {.name = "r-drop",
     .count = 1,
     .list = {DROP(HIDDEN, ELEMENT, INVERTED, ALL)},
     .consistency = CONSISTENCY_R_DROP},
    {.name = "dropout", .count = 1, .list = {DROP(HIDDEN, ELEMENT, INFERENCE, ALL)}},
    {.name = "variational", .count = 1, .list = {DROP(HIDDEN, COLUMN, INVERTED, ALL)}},
};

bool dropout_method_find(const struct dropout_method **method, const char *name, fault *f) {
    char list[LIST_BYTES];
    size_t used = 0;
    for (size_t i = 0; i < sizeof METHODS / sizeof *METHODS; i++) {
        if (strcmp(METHODS[i].name, name) == 0) {
            *method = &METHODS[i];
            return true;
        }
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", METHODS[i].name);
    }
    return fault_set(f, FAULT_INPUT, "lodrop-train", "--method", "'%s' is not one of %s", name, list);
}

bool dropout_method_is_of_input(const struct dropout_method *method) {
    return method->count && method->list[0].position == DROPOUT_LORA_INPUT;
}

// --- What layers draw ---

static bool covers(const struct dropout *d, unsigned layer, unsigned layers) {
    return POSITIONS[d->position].once ? layer == 0 : layers_hold(&d->layers, layer, layers);
}

// NULL: none.
static const char *common_place(const struct dropout *one, const struct dropout *other) {
    const char *const *a = POSITIONS[one->position].place, *const *b = POSITIONS[other->position].place;
    for (size_t i = 0; i < 4; i++) {
        if (a[i / 2] && b[i % 2] && strcmp(a[i / 2], b[i % 2]) == 0) {
            return a[i / 2];
        }
    }
    return NULL;
}

// The first layer, if any, in which two dropouts want the same place.
static bool fit_together(const struct dropout *one, const struct dropout *other, const struct dropout_frame *frame,
                         fault *f) {
    const char *place = common_place(one, other);
    bool apart = !(dropout_modules(one) & dropout_modules(other) & frame->modules);
    for (unsigned layer = 0; place && !apart && layer < frame->layers; layer++) {
        if (covers(one, layer, frame->layers) && covers(other, layer, frame->layers)) {
            char first[DROPOUT_TEXT], second[DROPOUT_TEXT];
            dropout_print(first, one);
            dropout_print(second, other);
            return fault_set(f, FAULT_INPUT, frame->file, other->option,
                             "%s (%s) and %s (%s) are both on %s in layer %u", first, one->option, second,
                             other->option, place, layer);
        }
    }
    return true;
}

static bool fit_model(const struct dropout *d, const struct dropout_frame *frame, fault *f) {
    char text[DROPOUT_TEXT], targets[ADAPTER_MODULES_TEXT];
    dropout_print(text, d);
    if (d->layers.extent == LAYERS_SOME && d->layers.last >= frame->layers) {
        return fault_set(f, FAULT_INPUT, frame->file, d->option, "%s: there are layers 0 to %u only", text,
                         frame->layers - 1);
    }
    return (dropout_modules(d) & frame->modules) ||
           fault_set(f, FAULT_INPUT, frame->file, d->option, "%s: only %s have adapters", text,
                     adapter_modules_print(targets, frame->modules));
}

bool dropouts_fit(const struct dropouts *d, const struct dropout_frame *frame, fault *f) {
    for (size_t i = 0; i < d->count; i++) {
        if (!fit_model(&d->list[i], frame, f)) {
            return false;
        }
        for (size_t j = 0; j < i; j++) {
            if (!fit_together(&d->list[j], &d->list[i], frame, f)) {
                return false;
            }
        }
    }
    return true;
}

static bool meets(const struct dropout *d, const struct layers *adapted, unsigned layers) {
    for (unsigned layer = 0; layer < layers; layer++) {
        if (layers_hold(&d->layers, layer, layers) && layers_hold(adapted, layer, layers)) {
            return true;
        }
    }
    return !dropout_is_of_adapter(d);
}

bool dropouts_meet(const struct dropouts *d, const struct layers *adapted, unsigned layers, const char *file,
                   fault *f) {
    for (size_t i = 0; i < d->count; i++) {
        char text[DROPOUT_TEXT];
        if (!meets(&d->list[i], adapted, layers)) {
            dropout_print(text, &d->list[i]);
            return fault_set(f, FAULT_INPUT, file, d->list[i].option, "%s: none of its layers has adapters", text);
        }
    }
    return true;
}

static bool scales_adapter(const struct dropout *d) {
    return d->p > 0 && dropout_is_of_matrix(d) && d->compensation == DROPOUT_NONE;
}

static bool scales(const struct dropout *d) {
    return scales_adapter(d) || (d->p > 0 && d->compensation == DROPOUT_INFERENCE);
}

// The first of `some` that scales what an adapter computes without masks and is not among `others`; NULL: none.
static const struct dropout *scaling(const struct dropouts *some, const struct dropouts *others,
                                     bool (*scaled)(const struct dropout *)) {
    for (size_t i = 0; i < some->count; i++) {
        const struct dropout *d = &some->list[i];
        char text[DROPOUT_TEXT], other[DROPOUT_TEXT];
        dropout_print(text, d);
        bool found = !scaled(d);
        for (size_t j = 0; j < others->count && !found; j++) {
            dropout_print(other, &others->list[j]);
            found = strcmp(text, other) == 0;
        }
        if (!found) {
            return d;
        }
    }
    return NULL;
}

bool dropouts_continue(const struct dropouts *now, const struct dropouts *before, const char *from, fault *f) {
    char text[DROPOUT_TEXT];
    const struct dropout *lost = scaling(before, now, scales), *added = scaling(now, before, scales_adapter);
    if (lost) {
        dropout_print(text, lost);
        return fault_set(f, FAULT_INPUT, from, "dropouts",
                         "%s scales what it computes: go on with the same, or without its lodrop.json as PEFT reads it",
                         text);
    }
    if (added) {
        dropout_print(text, added);
        return fault_set(f, FAULT_INPUT, "lodrop-train", added->option,
                         "%s scales what --adapter computes, which was trained without it: inverted does not", text);
    }
    return true;
}

// As an operation takes it at a lod_position.
static bool draw_in_layer(lod_dropout *draw, const struct dropout *d, unsigned layer, unsigned position, uint64_t seed,
                          fault *f) {
    *draw = (lod_dropout){.pattern = d->pattern,
                          .compensation = (lod_compensation)d->compensation,
                          .p = d->p,
                          .seed = seed,
                          .per_kv_head = d->per_kv_head};
    lod_error err;
    lod_status s = lod_site(LOD_DOMAIN_TRAIN, layer, position, 0, 0, &draw->site, &err);
    return library_done(s, &err, f);
}

static bool place_in_layer(struct layer_dropouts *l, const struct dropout *d, unsigned layer, uint64_t seed, fault *f) {
    const struct position *position = &POSITIONS[d->position];
    lod_dropout *const at[DROPOUT_POSITIONS] = {
        [DROPOUT_LORA_INPUT] = l->lora_input,   [DROPOUT_LORA_A] = l->lora_a,
        [DROPOUT_LORA_B] = l->lora_b,           [DROPOUT_ATTN_LOGIT] = &l->attention,
        [DROPOUT_ATTN_WEIGHT] = &l->attention,  [DROPOUT_FFN_MIDDLE] = &l->ffn_middle,
        [DROPOUT_FFN_OUTPUT] = &l->ffn_output,  [DROPOUT_EMBEDDING] = &l->embedding,
        [DROPOUT_HIDDEN] = &l->attention_output};
    const unsigned modules = position->of_modules ? dropout_modules(d) : 1;
    for (unsigned m = 0; m < ADAPTER_MODULES; m++) {
        if ((modules >> m & 1) && !draw_in_layer(&at[d->position][m], d, layer, position->library + m, seed, f)) {
            return false;
        }
    }
    return d->position != DROPOUT_HIDDEN ||
           draw_in_layer(&l->ffn_output, d, layer, POSITIONS[DROPOUT_FFN_OUTPUT].library, seed, f);
}

bool dropouts_of_layers(struct layer_dropouts *list, unsigned layers, const struct dropouts *d, uint64_t seed,
                        fault *f) {
    for (unsigned layer = 0; layer < layers; layer++) {
        list[layer] = (struct layer_dropouts){0};
        for (size_t i = 0; i < d->count; i++) {
            const struct dropout *one = &d->list[i];
            bool here = one->p > 0 && covers(one, layer, layers);
            if (here && !place_in_layer(&list[layer], one, layer, seed, f)) {
                return false;
            }
        }
    }
    return true;
}

bool dropouts_place(struct layer_dropouts **list, const struct dropout_frame *frame, const struct dropouts *d,
                    uint64_t seed, fault *f) {
    *list = calloc(frame->layers, sizeof **list);
    return *list ? dropouts_fit(d, frame, f) && dropouts_of_layers(*list, frame->layers, d, seed, f)
                 : fault_memory(f, "the dropouts of the layers");
}
