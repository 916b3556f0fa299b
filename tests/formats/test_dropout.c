// dropout.h: every position x pattern x compensation, the text of --drop, the methods, what layers draw, lodrop.json.
#include "../../trainer/dropout.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../trainer/config.h"
#include "expect.h"

// --- The triples ---

static const char *const positions[] = {"lora_input", "lora_a",     "lora_b",    "attn_logit", "attn_weight",
                                        "ffn_middle", "ffn_output", "embedding", "hidden"};
static const char *const patterns[] = {"element", "column", "span"};
static const char *const compensations[] = {"none", "inverted", "renormalise", "renormalise-nograd", "inference"};

// All that can be trained with. Usual: what is meant if no compensation is named.
static const struct {
    const char *position, *pattern, *compensation;
    bool usual;
} valid[] = {
    {"lora_input", "element", "inverted", true},
    {"lora_a", "column", "none", true},
    {"lora_a", "column", "inverted", false},
    {"lora_b", "column", "none", true},
    {"lora_b", "column", "inverted", false},
    {"attn_logit", "element", "none", true},
    {"attn_logit", "column", "none", true},
    {"attn_logit", "span", "none", true},
    {"attn_weight", "element", "inverted", true},
    {"attn_weight", "element", "renormalise", false},
    {"attn_weight", "element", "renormalise-nograd", false},
    {"attn_weight", "column", "renormalise", false},
    {"attn_weight", "column", "renormalise-nograd", true},
    {"attn_weight", "span", "renormalise", false},
    {"attn_weight", "span", "renormalise-nograd", true},
    {"ffn_middle", "element", "inverted", true},
    {"ffn_middle", "element", "inference", false},
    {"ffn_middle", "column", "inverted", true},
    {"ffn_middle", "span", "none", true},
    {"ffn_output", "element", "inverted", true},
    {"ffn_output", "element", "inference", false},
    {"ffn_output", "column", "inverted", true},
    {"ffn_output", "span", "none", true},
    {"embedding", "element", "inverted", true},
    {"embedding", "element", "inference", false},
    {"embedding", "column", "inverted", true},
    {"hidden", "element", "inverted", true},
    {"hidden", "element", "inference", false},
    {"hidden", "column", "inverted", true},
};

enum { VALID = sizeof valid / sizeof *valid };

// Its place among the valid ones; compensation NULL: the usual one. VALID: it is not there.
static size_t find_valid(const char *position, const char *pattern, const char *compensation) {
    size_t i = 0;
    for (; i < VALID; i++) {
        bool same = strcmp(valid[i].position, position) == 0 && strcmp(valid[i].pattern, pattern) == 0;
        if (same && (compensation ? strcmp(valid[i].compensation, compensation) == 0 : valid[i].usual)) {
            return i;
        }
    }
    return i;
}

static bool says(const struct dropout *d, const char *position, const char *pattern, const char *compensation) {
    return strcmp(positions[d->position], position) == 0 && strcmp(patterns[d->pattern], pattern) == 0 &&
           strcmp(compensations[d->compensation], compensation) == 0;
}

static bool parse(struct dropout *d, const char *text, fault *f) {
    return dropout_parse(d, text, "lodrop-train", f);
}

// One argument of --drop, with or without its compensation.
static void check_triple(const char *position, const char *pattern, const char *compensation) {
    char text[DROPOUT_TEXT], printed[DROPOUT_TEXT];
    struct dropout d = {0};
    fault f = {0};
    bool named = compensation != NULL;
    snprintf(text, sizeof text, "%s:%s:0.25%s%s", position, pattern, named ? ":" : "", named ? compensation : "");
    bool done = parse(&d, text, &f);
    size_t found = find_valid(position, pattern, compensation);
    if (found < VALID) {
        CHECK(done && d.p == 0.25 && d.layers.extent == LAYERS_ALL);
        CHECK(says(&d, position, pattern, valid[found].compensation));
        dropout_print(printed, &d);
        CHECK(strncmp(printed, text, strlen(text)) == 0 && parse(&d, printed, &f));
    } else {
        REFUSED(done, &f, FAULT_INPUT, text, "does not take");
    }
    if (done != (found < VALID)) {
        printf("    %s: %s\n", text, f.text);
    }
}

static void all_triples(void) {
    size_t accepted = 0;
    for (size_t i = 0; i < sizeof positions / sizeof *positions; i++) {
        for (size_t j = 0; j < sizeof patterns / sizeof *patterns; j++) {
            check_triple(positions[i], patterns[j], NULL);
            for (size_t k = 0; k < sizeof compensations / sizeof *compensations; k++) {
                check_triple(positions[i], patterns[j], compensations[k]);
                accepted += find_valid(positions[i], patterns[j], compensations[k]) < VALID;
            }
        }
    }
    CHECK(accepted == VALID);
    CHECK(sizeof positions / sizeof *positions == DROPOUT_POSITIONS &&
          sizeof patterns / sizeof *patterns == DROPOUT_PATTERNS &&
          sizeof compensations / sizeof *compensations == DROPOUT_COMPENSATIONS);
}

static void reasons_name_what_is_possible(void) {
    static const char *const cases[][2] = {
        {"attn_logit:column:0.1:inverted", "does not take inverted: only none"},
        {"attn_weight:column:0.1:inverted", "does not take inverted: only renormalise, renormalise-nograd"},
        {"attn_weight:element:0.1:none", "does not take none: only inverted, renormalise, renormalise-nograd"},
        {"ffn_output:span:0.1:inverted", "ffn_output with the pattern span does not take inverted: only none"},
        {"hidden:element:0.1:none", "does not take none: only inverted, inference"},
        {"hidden:span:0.1", "hidden does not take the pattern span: only element, column"},
        {"embedding:element:0.1:inverted:0", "embedding stands before the layers and takes none"},
        {"embedding:element:0.1:inverted:later-half", "embedding stands before the layers and takes none"},
        {"attn_logit:column:0.1@q_proj", "attn_logit is not of modules and takes none"},
        {"embedding:element:0.1@*", "embedding is not of modules and takes none"},
        {"lora_input:element:0.1@w_proj", "'w_proj' matches no module: must match some of q_proj, k_proj, v_proj, "
                                          "o_proj, gate_proj, up_proj, down_proj"},
        {"lora_input:element:0.1@", "'' matches no module"},
        {"lora_input:element:0.1:inverted:1@q_proj@v_proj", "'q_proj@v_proj' matches no module"},
        {"lora_input:element:0.1@********************************", "is longer than 31 bytes"},
        {"lora_a:element:0.1", "lora_a does not take the pattern element: only column"},
        {"lora_b:column:0.1:inference", "lora_b with the pattern column does not take inference: only none, inverted"},
        {"lora_input:span:0.1", "lora_input does not take the pattern span: only element"},
        {"attention:column:0.1", "'attention' is no position: must be one of lora_input, lora_a, lora_b, attn_logit"},
        {"attn_logit:row:0.1", "'row' is no pattern: must be one of element, column, span"},
        {"attn_logit:column:0.1:scaled", "'scaled' is no compensation: must be one of none, inverted, renormalise, "
                                         "renormalise-nograd, inference"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct dropout d;
        fault f = {0};
        bool done = parse(&d, cases[i][0], &f);
        REFUSED(done, &f, FAULT_INPUT, cases[i][0], cases[i][1]);
        CHECK(strncmp(f.text, "lodrop-train: --drop ", 21) == 0);
    }
}

// --- Text ---

static void rates(void) {
    static const char *const refused[][2] = {
        {"1", "is 1, must be at least 0 and below 1"},
        {"-0.1", "is -0.1, must be"},
        {"1.5", "is 1.5, must be"},
        {"nan", "must be at least 0"},
        {"inf", "must be at least 0"},
        {"0.000001", "is 1e-06, rounds"},
        {"0.999999", "is 0.999999, rounds"},
        {"", "'' is not a number"},
        {"0.1x", "'0.1x' is not a number"},
        {"much", "'much' is not a number"},
    };
    static const double accepted[] = {0, 0.1, 0.5, 1.0 / 65536, 65535.0 / 65536};
    struct dropout d;
    fault f = {0};
    char text[DROPOUT_TEXT];
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        snprintf(text, sizeof text, "attn_logit:column:%s", refused[i][0]);
        REFUSED(parse(&d, text, &f), &f, FAULT_INPUT, text, refused[i][1]);
    }
    for (size_t i = 0; i < sizeof accepted / sizeof *accepted; i++) {
        snprintf(text, sizeof text, "attn_logit:column:%.17g", accepted[i]);
        CHECK(parse(&d, text, &f) && d.p == accepted[i]);
    }
}

static void parts(void) {
    static const char *const refused[] = {"", "attn_logit", "attn_logit:column", "attn_logit:column:0.1:none:3:4"};
    struct dropout d;
    fault f = {0};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        REFUSED(parse(&d, refused[i], &f), &f, FAULT_INPUT, "--drop", "POSITION:PATTERN:P");
    }
    REFUSED(parse(&d, "attn_logit:column:0.1:", &f), &f, FAULT_INPUT, "--drop", "'' is no compensation");
    REFUSED(parse(&d, ":column:0.1", &f), &f, FAULT_INPUT, "--drop", "'' is no position");
    char most[DROPOUT_TEXT + 1];
    memset(most, 'x', DROPOUT_TEXT);
    most[DROPOUT_TEXT] = 0;
    REFUSED(parse(&d, most, &f), &f, FAULT_INPUT, "--drop", "longer than 127 bytes");
    most[DROPOUT_TEXT - 1] = 0;
    REFUSED(parse(&d, most, &f), &f, FAULT_INPUT, most, "POSITION:PATTERN:P");
}

static void layers(void) {
    static const struct {
        const char *text;
        enum layers_extent extent;
        unsigned first, last;
    } accepted[] = {{"0", LAYERS_SOME, 0, 0},
                    {"7", LAYERS_SOME, 7, 7},
                    {"12-23", LAYERS_SOME, 12, 23},
                    {"5-5", LAYERS_SOME, 5, 5},
                    {"later-half", LAYERS_LATER_HALF, 0, 0}};
    static const char *const refused[][2] = {
        {"", "'' names no layers"},      {"-3", "names no layers"},    {"3-", "names no layers"},
        {"1-2-3", "names no layers"},    {"1,2", "names no layers"},   {" 1", "names no layers"},
        {"+1", "names no layers"},       {"0x1", "names no layers"},   {"later", "names no layers"},
        {"99999999999", "names no"},     {"5-3", "5-3 run backwards"}, {"later-half-3", "names no layers"},
        {"1-99999999999999", "names no"}};
    struct dropout d;
    fault f = {0};
    char text[DROPOUT_TEXT], printed[DROPOUT_TEXT];
    for (size_t i = 0; i < sizeof accepted / sizeof *accepted; i++) {
        snprintf(text, sizeof text, "attn_logit:span:0.1:none:%s", accepted[i].text);
        CHECK(parse(&d, text, &f) && d.layers.extent == accepted[i].extent);
        CHECK(d.layers.first == accepted[i].first && d.layers.last == accepted[i].last);
        dropout_print(printed, &d);
        CHECK(strcmp(printed, text) == 0 || strcmp(accepted[i].text, "5-5") == 0);
    }
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        snprintf(text, sizeof text, "attn_logit:span:0.1:none:%s", refused[i][0]);
        REFUSED(parse(&d, text, &f), &f, FAULT_INPUT, "--drop", refused[i][1]);
    }
}

// --- Methods ---

static void methods(void) {
    static const struct {
        const char *name, *position, *pattern, *compensation;
        enum layers_extent extent;
        size_t place, count;
        enum consistency_kind consistency;
    } presets[] = {
        {"lora-dropout", "lora_a", "column", "none", LAYERS_ALL, 0, 2, CONSISTENCY_NONE},
        {"lora-dropout", "lora_b", "column", "none", LAYERS_ALL, 1, 2, CONSISTENCY_NONE},
        {"lora-input-dropout", "lora_input", "element", "inverted", LAYERS_ALL, 0, 1, CONSISTENCY_NONE},
        {"dropkey", "attn_logit", "column", "none", LAYERS_ALL, 0, 1, CONSISTENCY_NONE},
        {"dropattention", "attn_weight", "column", "renormalise-nograd", LAYERS_ALL, 0, 1, CONSISTENCY_NONE},
        {"hiddencut", "ffn_output", "element", "inverted", LAYERS_ALL, 0, 1, CONSISTENCY_NONE},
        {"hiddenkey-minus", "attn_logit", "column", "none", LAYERS_LATER_HALF, 0, 2, CONSISTENCY_NONE},
        {"hiddenkey-minus", "ffn_output", "element", "inverted", LAYERS_LATER_HALF, 1, 2, CONSISTENCY_NONE},
        {"hiddenkey", "attn_logit", "column", "none", LAYERS_LATER_HALF, 0, 2, CONSISTENCY_KL},
        {"hiddenkey", "ffn_output", "element", "inverted", LAYERS_LATER_HALF, 1, 2, CONSISTENCY_KL},
        {"r-drop", "hidden", "element", "inverted", LAYERS_ALL, 0, 1, CONSISTENCY_R_DROP},
        {"dropout", "hidden", "element", "inference", LAYERS_ALL, 0, 1, CONSISTENCY_NONE},
        {"variational", "hidden", "column", "inverted", LAYERS_ALL, 0, 1, CONSISTENCY_NONE},
    };
    const struct dropout_method *m = NULL;
    fault f = {0};
    CHECK(dropout_method_find(&m, "lora", &f) && m->count == 0);
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++) {
        CHECK(dropout_method_find(&m, presets[i].name, &f) && m->count == presets[i].count);
        const struct dropout *d = &m->list[presets[i].place];
        CHECK(says(d, presets[i].position, presets[i].pattern, presets[i].compensation));
        bool matrix = strcmp(presets[i].name, "lora-dropout") == 0;
        CHECK(d->p == (matrix ? 0.5 : 0.1) && m->instances == (matrix ? 4 : 0));
        CHECK(d->layers.extent == presets[i].extent && m->consistency == presets[i].consistency);
        CHECK(find_valid(presets[i].position, presets[i].pattern, presets[i].compensation) < VALID);
    }
    REFUSED(dropout_method_find(&m, "drop-key", &f), &f, FAULT_INPUT, "--method",
            "'drop-key' is not one of lora, lora-input-dropout, lora-dropout, dropkey, dropattention, hiddencut");
}

// --- Layers ---

static struct dropouts parse_all(const char *const *texts, size_t count) {
    struct dropouts d = {.count = count};
    fault f = {0};
    for (size_t i = 0; i < count; i++) {
        CHECK(parse(&d.list[i], texts[i], &f));
    }
    return d;
}

static bool covers(const char *layers, unsigned layer, unsigned count) {
    unsigned first = 0, last = count - 1;
    if (strcmp(layers, "later-half") == 0) {
        first = count / 2;
    } else if (*layers && sscanf(layers, "%u-%u", &first, &last) == 1) {
        last = first;
    }
    return first <= layer && layer <= last;
}

// Two dropouts of one place, in models of few layers: refused exactly where a layer has both, or is none of the
// model's.
static bool fits(const struct dropouts *d, unsigned layers, unsigned modules, fault *f) {
    return dropouts_fit(d, &(struct dropout_frame){layers, modules, "lodrop-train"}, f);
}

static void pairs_in_layers(void) {
    static const char *const where[] = {"", "0", "1", "3", "0-1", "1-2", "2-4", "later-half"};
    enum { WHERE = sizeof where / sizeof *where, MOST = 6 };
    size_t wrong = 0;
    for (unsigned i = 0; i < WHERE * WHERE * MOST; i++) {
        unsigned count = i % MOST + 1, highest = 0;
        const char *one = where[i / MOST % WHERE], *other = where[i / MOST / WHERE];
        char texts[2][DROPOUT_TEXT];
        snprintf(texts[0], DROPOUT_TEXT, "attn_weight:element:0.1:inverted%s%s", *one ? ":" : "", one);
        snprintf(texts[1], DROPOUT_TEXT, "attn_logit:column:0.2:none%s%s", *other ? ":" : "", other);
        struct dropouts d = parse_all((const char *const[]){texts[0], texts[1]}, 2);
        bool both = false;
        for (unsigned layer = 0; layer < count; layer++) {
            both = both || (covers(one, layer, count) && covers(other, layer, count));
        }
        for (unsigned layer = 0; layer < 5; layer++) {
            bool named = covers(one, layer, 5) && *one && *one != 'l';
            named = named || (covers(other, layer, 5) && *other && *other != 'l');
            highest = named ? layer : highest;
        }
        fault f = {0};
        bool fit = fits(&d, count, ADAPTER_ALL_MODULES, &f);
        wrong += fit != (!both && highest < count);
        // Before the model is known, its layers count as the most there can be: nothing that fits may be refused.
        wrong += fit && !fits(&d, MODEL_MAX_LAYERS, ADAPTER_ALL_MODULES, &f);
    }
    CHECK(wrong == 0);
}

static void faults_of_layers(void) {
    struct dropouts d = parse_all((const char *const[]){"attn_logit:column:0.1", "attn_logit:span:0.2:none:3"}, 2);
    fault f = {0};
    REFUSED(
        fits(&d, 5, ADAPTER_ALL_MODULES, &f), &f, FAULT_INPUT, "lodrop-train: --drop",
        "attn_logit:column:0.1:none (--drop) and attn_logit:span:0.2:none:3 (--drop) are both on attention in layer "
        "3");
    REFUSED(fits(&d, 3, ADAPTER_ALL_MODULES, &f), &f, FAULT_INPUT, "lodrop-train: --drop",
            "attn_logit:span:0.2:none:3: there are layers 0 to 2 only");
    d = parse_all((const char *const[]){"lora_input:element:0.1", "lora_input:element:0"}, 2);
    REFUSED(fits(&d, 1, ADAPTER_ALL_MODULES, &f), &f, FAULT_INPUT, "lodrop-train: --drop",
            "both on A in layer 0");
    d = parse_all((const char *const[]){"lora_b:column:0.1:none:1", "lora_input:element:0.1"}, 2);
    REFUSED(fits(&d, 2, ADAPTER_ALL_MODULES, &f), &f, FAULT_INPUT, "lodrop-train: --drop", "both on B in layer 1");
    d = parse_all((const char *const[]){"hidden:element:0.1:inverted:0", "ffn_output:span:0.2"}, 2);
    REFUSED(fits(&d, 2, ADAPTER_ALL_MODULES, &f), &f, FAULT_INPUT, "lodrop-train: --drop",
            "are both on the output of the FFN in layer 0");
    d = parse_all((const char *const[]){"embedding:element:0.1", "embedding:column:0.1"}, 2);
    REFUSED(fits(&d, 2, ADAPTER_ALL_MODULES, &f), &f, FAULT_INPUT, "lodrop-train: --drop", "on the embedding");
    d = parse_all((const char *const[]){"hidden:element:0.1:inverted:0", "ffn_output:span:0.2:none:1",
                                        "ffn_middle:column:0.1", "embedding:element:0.1", "attn_logit:column:0.1",
                                        "lora_a:column:0.1", "lora_b:column:0.1:inverted"},
                  7);
    CHECK(fits(&d, 2, ADAPTER_ALL_MODULES, &f));
    d = parse_all((const char *const[]){"lora_input:element:0.1", "attn_weight:span:0.1"}, 2);
    CHECK(fits(&d, 1, ADAPTER_ALL_MODULES, &f));
}

static void what_layers_draw(void) {
    enum { LAYERS = 5 };
    static const uint64_t seed = 0x123456789a;
    struct layer_dropouts list[LAYERS];
    fault f = {0};
    struct dropouts d =
        parse_all((const char *const[]){"attn_logit:span:0.1:none:0-1", "attn_weight:column:0.3:renormalise-nograd:3",
                                        "lora_input:element:0.2:inverted:later-half", "attn_logit:element:0:none:4"},
                  4);
    d.list[1].per_kv_head = true;
    CHECK(fits(&d, LAYERS, ADAPTER_ALL_MODULES, &f) && dropouts_of_layers(list, LAYERS, &d, seed, &f));
    for (unsigned i = 0; i < LAYERS; i++) {
        const lod_dropout *input = &list[i].lora_input[0], *attention = &list[i].attention;
        CHECK(input->p == (i >= 2 ? 0.2 : 0) && (i < 2 || (input->site == i << 20 && input->seed == seed)));
        CHECK(i < 2 || input->compensation == LOD_COMPENSATION_INVERTED);
        CHECK(attention->p == (i < 2 ? 0.1 : i == 3 ? 0.3 : 0) && attention->draw == 0);
        CHECK(attention->per_kv_head == (i == 3) && attention->pattern == (i < 2 ? LOD_PATTERN_SPAN : i == 3));
        CHECK(attention->site == (i < 2 ? i << 20 | 24 << 14 : i == 3 ? i << 20 | 25 << 14 : 0));
        CHECK(attention->compensation == (i == 3 ? LOD_COMPENSATION_RENORMALISE_NOGRAD : LOD_COMPENSATION_NONE));
    }
}

static void what_modules_draw(void) {
    enum { Q = 1 << ADAPTER_Q_PROJ, V = 1 << ADAPTER_V_PROJ, UP = 1 << ADAPTER_UP_PROJ };
    struct layer_dropouts list[2];
    fault f = {0};
    struct dropouts d =
        parse_all((const char *const[]){"lora_a:column:0.1@[qk]_proj", "lora_a:column:0.2:none:1@v_proj",
                                        "lora_b:column:0.3:inverted:0@*", "lora_input:element:0.4:inverted:1@up_*"},
                  4);
    CHECK(fits(&d, 2, ADAPTER_ALL_MODULES, &f) && dropouts_of_layers(list, 2, &d, 7, &f));
    for (unsigned m = 0; m < ADAPTER_MODULES; m++) {
        const bool q_or_k = m == ADAPTER_Q_PROJ || m == ADAPTER_K_PROJ;
        CHECK(list[0].lora_a[m].p == (q_or_k ? 0.1 : 0) && list[0].lora_b[m].p == 0.3 && list[0].lora_input[m].p == 0);
        CHECK(list[1].lora_a[m].p == (q_or_k ? 0.1 : m == ADAPTER_V_PROJ ? 0.2 : 0) && list[1].lora_b[m].p == 0);
        CHECK(list[1].lora_input[m].p == (m == ADAPTER_UP_PROJ ? 0.4 : 0));
        CHECK(list[0].lora_b[m].site == (LOD_POSITION_LORA_B + m) << 14);
    }
    char text[DROPOUT_TEXT];
    dropout_print(text, &d.list[1]);
    CHECK(strcmp(text, "lora_a:column:0.2:none:1@v_proj") == 0);
    CHECK(dropout_modules(&d.list[0]) == (Q | 1 << ADAPTER_K_PROJ) && dropout_modules(&d.list[3]) == UP);
    REFUSED(fits(&d, 2, Q | V, &f), &f, FAULT_INPUT, "lodrop-train: --drop",
            "lora_input:element:0.4:inverted:1@up_*: only q_proj, v_proj have adapters");
    d = parse_all((const char *const[]){"lora_a:column:0.1@[qv]_proj", "lora_input:element:0.2@*v_proj"}, 2);
    CHECK(fits(&d, 1, ADAPTER_ALL_MODULES & ~V, &f) == false);
    REFUSED(fits(&d, 1, ADAPTER_ALL_MODULES, &f), &f, FAULT_INPUT,
            "lora_a:column:0.1:none@[qv]_proj (--drop) and lora_input:element:0.2:inverted@*v_proj (--drop)",
            "both on A in layer 0");
    d = parse_all((const char *const[]){"lora_a:column:0.1@[qv]_proj", "lora_a:column:0.2@[kv]_proj"}, 2);
    CHECK(fits(&d, 1, ADAPTER_ALL_MODULES & ~V, &f) && !fits(&d, 1, V, &f)); // v_proj has no adapter: no clash
}

// Every place a mask of its own: no two sites are equal but hidden's at the FFN's output, which is ffn_output's.
static void where_activations_drop(void) {
    enum { LAYERS = 3 };
    struct layer_dropouts list[LAYERS], *placed;
    fault f = {0};
    struct dropouts d =
        parse_all((const char *const[]){"hidden:column:0.1:inverted:0", "ffn_output:span:0.2:none:2",
                                        "ffn_middle:element:0.3:inference:1-2", "embedding:element:0.4"},
                  4);
    struct dropout_frame frame = {LAYERS, ADAPTER_ALL_MODULES, "file"};
    CHECK(dropouts_of_layers(list, LAYERS, &d, 7, &f));
    for (unsigned i = 0; i < LAYERS; i++) {
        const struct layer_dropouts *l = &list[i];
        CHECK(l->attention.p == 0 && l->lora_input[0].p == 0 && l->attention_output.p == (i == 0 ? 0.1 : 0));
        CHECK(l->embedding.p == (i == 0 ? 0.4 : 0) && l->embedding.site == (i == 0 ? 28u << 14 : 0));
        CHECK(i > 0 || l->attention_output.site == 29u << 14);
        CHECK(l->ffn_output.p == (i == 0 ? 0.1 : i == 2 ? 0.2 : 0) && l->ffn_middle.p == (i > 0 ? 0.3 : 0));
        CHECK(i == 1 || (l->ffn_output.site == (i << 20 | 27u << 14) && l->ffn_output.seed == 7));
        CHECK(l->ffn_output.pattern == (i == 0 ? LOD_PATTERN_COLUMN : i == 2 ? LOD_PATTERN_SPAN : 0));
        CHECK(i == 0 || (l->ffn_middle.site == (i << 20 | 26u << 14) &&
                         l->ffn_middle.compensation == LOD_COMPENSATION_INFERENCE));
    }
    CHECK(dropouts_place(&placed, &frame, &d, 7, &f) && placed[2].ffn_output.site == list[2].ffn_output.site);
    free(placed);
    frame.layers = 2;
    REFUSED(dropouts_place(&placed, &frame, &d, 7, &f), &f, FAULT_INPUT, "file: --drop", "layers 0 to 1 only");
    free(placed);
}

// --- lodrop.json ---

static void refuse_json(const char *entries, const char *field, const char *reason) {
    static struct dropouts d;
    fault f = {0};
    json_t *root = json_pack("{s:o}", "dropouts", json_loads(entries, 0, NULL));
    bool done = dropouts_from_json(&d, (struct json_scope){.object = root, .file = "lodrop.json"}, "dropouts", &f);
    REFUSED(done, &f, FAULT_INPUT, field, reason);
    json_decref(root);
}

#define ENTRY(position, pattern, p, rest)                                                                              \
    "[{\"position\": \"" position "\", \"pattern\": \"" pattern "\", \"p\": " p ", \"compensation\": " rest "}]"

static void refused_json(void) {
    refuse_json("[{}]", "lodrop.json: dropouts.position", "missing");
    refuse_json("[7]", "lodrop.json: dropouts.position", "missing");
    refuse_json("{}", "lodrop.json: dropouts", "must be a list");
    refuse_json(ENTRY("lora_a", "span", "0.1", "\"none\""), "lodrop.json: dropouts", "only column");
    refuse_json(ENTRY("embedding", "element", "0.1", "\"inverted\", \"layers\": \"0\""), "lodrop.json: dropouts",
                "takes none");
    refuse_json(ENTRY("attn_logit", "column", "0.1", "\"inverted\""), "lodrop.json: dropouts", "only none");
    refuse_json(ENTRY("attn_logit", "column", "0.1", "null"), "lodrop.json: dropouts.compensation", "missing");
    refuse_json(ENTRY("attn_logit", "column", "1", "\"none\""), "lodrop.json: dropouts", "the rate is 1");
    refuse_json(ENTRY("attn_logit", "column", "0.1", "\"none\", \"layers\": 3"), "lodrop.json: dropouts.layers",
                "must be a string");
    refuse_json(ENTRY("attn_logit", "column", "0.1", "\"none\", \"layers\": \"3-1\""), "lodrop.json: dropouts",
                "backwards");
    refuse_json(ENTRY("lora_a", "column", "0.1", "\"none\", \"modules\": \"w*\""), "lodrop.json: dropouts",
                "'w*' matches no module");
    refuse_json(ENTRY("lora_a", "column", "0.1", "\"none\", \"modules\": [\"q_proj\"]"),
                "lodrop.json: dropouts.modules", "must be a string");
    refuse_json(ENTRY("hidden", "element", "0.1", "\"inverted\", \"modules\": \"*\""), "lodrop.json: dropouts",
                "hidden is not of modules");
    refuse_json(ENTRY("attn_logit", "element", "0.1", "\"none\", \"per_kv_head\": true"),
                "lodrop.json: dropouts.per_kv_head", "not for attn_logit with the pattern element");
}

int main(void) {
    all_triples();
    reasons_name_what_is_possible();
    rates();
    parts();
    layers();
    methods();
    pairs_in_layers();
    faults_of_layers();
    what_layers_draw();
    what_modules_draw();
    where_activations_drop();
    refused_json();
    return check_end();
}
