// Hugging Face's tokenizer.json with a byte-level BPE: its vocabulary, merges, added tokens and patterns. What would
// give other tokens than these is refused by name.
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "bpe.h"
#include "file.h"
#include "json.h"

enum { MOST_TOKENS = 1 << 24, ALPHABET = 256 + 68 };

// GPT-2's: every word it parts begins with one space at most.
static const char byte_level_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

// A file being read. The vocabulary's names stand for bytes by a character each: printable ones of Latin-1 for
// themselves, all others for those from U+0100 on, in order.
struct reader {
    struct bpe *bpe;
    const char *file;
    const json_t *vocab;
    int byte_of[ALPHABET]; // -1: no character of the alphabet
    char *next;            // free space in bpe->bytes
    fault *f;
};

static void make_alphabet(struct reader *r) {
    memset(r->byte_of, -1, sizeof r->byte_of);
    int others = 256;
    for (int byte = 0; byte < 256; byte++) {
        bool itself = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte != 0xad);
        r->byte_of[itself ? byte : others++] = byte;
    }
}

// --- the vocabulary ---

// The bytes that a name stands for, into to; false where a character is not of the alphabet.
static bool name_bytes(const struct reader *r, const char *name, size_t length, char *to, uint32_t *count) {
    *count = 0;
    for (size_t i = 0; i < length; (*count)++) {
        uint8_t lead = (uint8_t)name[i++];
        unsigned character = lead;
        if (lead >= 0x80) {
            if (lead >= 0xe0) { // more than two bytes
                return false;
            }
            character = (lead & 0x1fu) << 6 | ((uint8_t)name[i++] & 0x3fu);
        }
        if (character >= ALPHABET || r->byte_of[character] < 0) {
            return false;
        }
        to[*count] = (char)r->byte_of[character];
    }
    return true;
}

static bool check_id(struct reader *r, const char *field, const char *name, const json_t *value, uint32_t *id) {
    if (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) >= MOST_TOKENS) {
        return fault_set(r->f, FAULT_INPUT, r->file, field, "the id of \"%s\" must be an integer, 0 to %d", name,
                         MOST_TOKENS - 1);
    }
    *id = (uint32_t)json_integer_value(value);
    return true;
}

// Room for all tokens; ids may have holes, about as many as there are tokens and 128 Ki.
static bool reserve_tokens(struct reader *r, const json_t *added) {
    const char *name;
    const json_t *value;
    size_t bytes = 1, count = json_object_size(r->vocab) + json_array_size(added), i;
    uint32_t id = 0, highest = 0;
    json_object_foreach((json_t *)r->vocab, name, value) {
        if (!check_id(r, "model.vocab", name, value, &id)) {
            return false;
        }
        highest = id > highest ? id : highest;
        bytes += strlen(name);
    }
    json_array_foreach(added, i, value) {
        const char *content = json_string_value(json_object_get(value, "content"));
        if (!content || !*content) {
            return fault_set(r->f, FAULT_INPUT, r->file, "added_tokens", "token %zu has no content", i);
        }
        if (!check_id(r, "added_tokens", content, json_object_get(value, "id"), &id)) {
            return false;
        }
        highest = id > highest ? id : highest;
        bytes += strlen(content);
    }
    if (highest / 2 > count + 65536) {
        return fault_set(r->f, FAULT_INPUT, r->file, "model.vocab", "%zu tokens with ids up to %" PRIu32, count,
                         highest);
    }
    r->bpe->count = highest + 1;
    r->bpe->tokens = calloc(r->bpe->count, sizeof *r->bpe->tokens);
    r->bpe->words = calloc(count + 1, sizeof *r->bpe->words);
    r->bpe->added = calloc(json_array_size(added) + 1, sizeof *r->bpe->added);
    r->next = r->bpe->bytes = malloc(bytes);
    return (r->bpe->tokens && r->bpe->words && r->bpe->added && r->bpe->bytes) || fault_memory(r->f, r->file);
}

static bool add_word(struct reader *r, const char *name, uint32_t id) {
    struct bpe_token *token = &r->bpe->tokens[id];
    size_t length = strlen(name);
    if (!length) {
        return fault_set(r->f, FAULT_INPUT, r->file, "model.vocab", "token %" PRIu32 " is empty", id);
    }
    if (token->bytes) {
        return fault_set(r->f, FAULT_INPUT, r->file, "model.vocab", "\"%s\" has another token's id", name);
    }
    token->bytes = r->next;
    if (name_bytes(r, name, length, r->next, &token->length)) {
        r->bpe->words[r->bpe->word_count++] = (struct bpe_word){token->bytes, token->length, id};
        if (token->length == 1) {
            r->bpe->byte_tokens[(uint8_t)*token->bytes] = id;
        }
    } else { // stands for itself: no text comes to it by bytes
        memcpy(r->next, name, length);
        token->length = (uint32_t)length;
    }
    r->next += token->length;
    return true;
}

static bool read_vocabulary(struct reader *r) {
    const char *name;
    const json_t *value;
    for (size_t byte = 0; byte < 256; byte++) {
        r->bpe->byte_tokens[byte] = BPE_NONE;
    }
    json_object_foreach((json_t *)r->vocab, name, value) {
        if (!add_word(r, name, (uint32_t)json_integer_value(value))) {
            return false;
        }
    }
    qsort(r->bpe->words, r->bpe->word_count, sizeof *r->bpe->words, bpe_compare_words);
    return true;
}

// The id of a name, of the vocabulary or an added token's.
static bool find_name(struct reader *r, const char *field, const char *name, uint32_t *id) {
    const json_t *value = json_object_get(r->vocab, name);
    if (value) {
        *id = (uint32_t)json_integer_value(value);
        return true;
    }
    for (size_t i = 0; i < r->bpe->added_count; i++) {
        const struct bpe_token *token = &r->bpe->tokens[r->bpe->added[i].token];
        if (strlen(name) == token->length && memcmp(name, token->bytes, token->length) == 0) {
            *id = r->bpe->added[i].token;
            return true;
        }
    }
    return fault_set(r->f, FAULT_INPUT, r->file, field, "\"%s\" is no token", name);
}

// --- merges ---

// The halves of a merge, "a b" (from then on in *text, which is the caller's) or ["a", "b"]; false: it is neither. Both
// NULL: no memory.
static bool halves(const json_t *merge, char **text, const char **left, const char **right) {
    if (json_is_array(merge) && json_array_size(merge) == 2) {
        *left = json_string_value(json_array_get(merge, 0));
        *right = json_string_value(json_array_get(merge, 1));
        return *left && *right;
    }
    const char *line = json_string_value(merge);
    const char *gap = line ? strchr(line, ' ') : NULL;
    if (!gap || strchr(gap + 1, ' ')) {
        return false;
    }
    *text = strdup(line);
    if (!*text) {
        *left = *right = NULL;
        return true;
    }
    (*text)[gap - line] = 0;
    *left = *text;
    *right = *text + (gap - line) + 1;
    return true;
}

static bool merge_of(struct reader *r, const char *left, const char *right, struct bpe_merge *merge) {
    uint32_t first, second;
    size_t length = left ? strlen(left) : 0;
    char *both = left ? malloc(length + strlen(right) + 1) : NULL;
    if (!both) {
        return fault_memory(r->f, r->file);
    }
    memcpy(both, left, length);
    strcpy(both + length, right);
    bool done = find_name(r, "model.merges", left, &first) && find_name(r, "model.merges", right, &second) &&
                find_name(r, "model.merges", both, &merge->token);
    free(both);
    merge->pair = done ? bpe_pair(first, second) : 0;
    return done;
}

// By pair and rank.
static int compare_merges(const void *a, const void *b) {
    const struct bpe_merge *x = a, *y = b;
    int order = bpe_compare_pairs(a, b);
    return order ? order : (x->rank > y->rank) - (x->rank < y->rank);
}

// Of a pair that is there twice the later rank counts.
static void sort_merges(struct bpe *b) {
    size_t kept = 0;
    qsort(b->merges, b->merge_count, sizeof *b->merges, compare_merges);
    for (size_t i = 0; i < b->merge_count; i++) {
        kept += i && b->merges[i].pair != b->merges[kept].pair;
        b->merges[kept] = b->merges[i];
    }
    b->merge_count = b->merge_count ? kept + 1 : 0;
}

static bool read_merges(struct reader *r, struct json_scope model) {
    const json_t *merges, *value;
    size_t i;
    if (!json_get_array(model, "merges", JSON_REQUIRED, &merges, r->f)) {
        return false;
    }
    struct bpe *b = r->bpe;
    b->merges = calloc(json_array_size(merges) + 1, sizeof *b->merges);
    if (!b->merges) {
        return fault_memory(r->f, r->file);
    }
    json_array_foreach(merges, i, value) {
        char *text = NULL;
        const char *left, *right;
        struct bpe_merge merge = {.rank = (uint32_t)i};
        bool done = halves(value, &text, &left, &right)
                        ? merge_of(r, left, right, &merge)
                        : json_fault(model, "merges", r->f, "merge %zu is no pair of tokens", i);
        free(text);
        if (!done) {
            return false;
        }
        b->merges[b->merge_count++] = merge;
    }
    sort_merges(b);
    return true;
}

// --- what else the file holds ---

static bool read_added(struct reader *r, const json_t *added) {
    static const char *const refused[] = {"single_word", "lstrip", "rstrip"};
    const json_t *value;
    size_t i;
    json_array_foreach(added, i, value) {
        struct json_scope scope = {.object = value, .file = r->file, .within = "added_tokens"};
        const char *content = json_string_value(json_object_get(value, "content"));
        uint32_t id = (uint32_t)json_integer_value(json_object_get(value, "id"));
        struct bpe_added *one = &r->bpe->added[r->bpe->added_count++];
        one->token = id;
        for (size_t k = 0; k < sizeof refused / sizeof *refused; k++) {
            if (!json_refuse_true(scope, refused[k], r->f)) {
                return false;
            }
        }
        if (!json_get_bool(scope, "normalized", JSON_OPTIONAL, &one->late, r->f)) {
            return false;
        }
        struct bpe_token *token = &r->bpe->tokens[id];
        const json_t *known = json_object_get(r->vocab, content);
        if (known ? json_integer_value(known) != id : token->bytes != NULL) {
            return json_fault(scope, "id", r->f, "\"%s\" and another token have %" PRIu32, content, id);
        }
        token->bytes = r->next;
        token->length = (uint32_t)strlen(content);
        memcpy(r->next, content, token->length);
        r->next += token->length;
        r->bpe->added_begins[(uint8_t)*content] = true;
    }
    return true;
}

static bool read_split(struct reader *r, struct json_scope step) {
    const char *behavior = "", *pattern = NULL;
    const json_t *kinds = NULL;
    if (!json_get_string(step, "behavior", JSON_REQUIRED, &behavior, r->f) ||
        !json_get_object(step, "pattern", JSON_REQUIRED, &kinds, r->f)) {
        return false;
    }
    if (strcmp(behavior, "Isolated") != 0) {
        return json_fault(step, "behavior", r->f, "\"%s\" is not supported, only \"Isolated\"", behavior);
    }
    struct json_scope scope = {.object = kinds, .file = r->file, .within = "pre_tokenizer.pattern"};
    bool literal = json_has(scope, "String");
    return json_get_string(scope, literal ? "String" : "Regex", JSON_REQUIRED, &pattern, r->f) &&
           splits_add(&r->bpe->splits, pattern, literal, r->file, "pre_tokenizer.pattern", r->f);
}

static bool read_digits(struct reader *r, struct json_scope step) {
    bool single = false;
    return json_get_bool(step, "individual_digits", JSON_OPTIONAL, &single, r->f) &&
           splits_add(&r->bpe->splits, single ? "\\p{N}" : "\\p{N}+", false, r->file, "pre_tokenizer", r->f);
}

static bool read_byte_level(struct reader *r, struct json_scope step) {
    bool pattern = true;
    return json_refuse_true(step, "add_prefix_space", r->f) &&
           json_get_bool(step, "use_regex", JSON_OPTIONAL, &pattern, r->f) &&
           (!pattern || splits_add(&r->bpe->splits, byte_level_pattern, false, r->file, "pre_tokenizer", r->f));
}

// context: whether ByteLevel has been met, which makes bytes of what the steps before it part.
static bool read_step(struct reader *r, struct json_scope step, void *context) {
    bool *bytes = context;
    const char *type = "";
    if (*bytes) {
        return json_fault(step, "type", r->f, "a step after \"ByteLevel\" is not supported");
    }
    if (!json_get_string(step, "type", JSON_REQUIRED, &type, r->f)) {
        return false;
    }
    if (strcmp(type, "ByteLevel") == 0) {
        *bytes = true;
        return read_byte_level(r, step);
    }
    return strcmp(type, "Split") == 0    ? read_split(r, step)
           : strcmp(type, "Digits") == 0 ? read_digits(r, step)
                                         : json_fault(step, "type", r->f,
                                                      "\"%s\" is not supported, only ByteLevel, Digits, Split", type);
}

// What stands before the text is BOS.
static bool read_template(struct reader *r, struct json_scope template) {
    const json_t *pieces, *piece;
    size_t i, before = 0;
    if (!json_get_array(template, "single", JSON_REQUIRED, &pieces, r->f)) {
        return false;
    }
    json_array_foreach(pieces, i, piece) {
        const char *name = json_string_value(json_object_get(json_object_get(piece, "SpecialToken"), "id"));
        if (!name) { // the text
            break;
        }
        before++;
        if (!find_name(r, "post_processor.single", name, &r->bpe->bos)) {
            return false;
        }
    }
    return (before <= 1 && i + 1 == json_array_size(pieces)) ||
           json_fault(template, "single", r->f, "only a text, or one token and a text, are supported");
}

static bool read_post_step(struct reader *r, struct json_scope step, void *context) {
    const char *type = "";
    (void)context;
    if (!json_get_string(step, "type", JSON_REQUIRED, &type, r->f)) {
        return false;
    }
    return strcmp(type, "ByteLevel") == 0 || // trims what it tells of places, which is not used
           (strcmp(type, "TemplateProcessing") == 0 ? read_template(r, step)
                                                    : json_fault(step, "type", r->f,
                                                                 "\"%s\" is not supported, only ByteLevel and "
                                                                 "TemplateProcessing", type));
}

// A step by itself, or those of a Sequence, where they are an array named `list`.
static bool each_step(struct reader *r, const json_t *object, const char *within, const char *list, void *context,
                      bool (*read)(struct reader *r, struct json_scope step, void *context)) {
    struct json_scope scope = {.object = object, .file = r->file, .within = within};
    const char *type = "";
    const json_t *steps, *step;
    size_t i;
    if (!json_get_string(scope, "type", JSON_REQUIRED, &type, r->f)) {
        return false;
    }
    if (strcmp(type, "Sequence") != 0) {
        return read(r, scope, context);
    }
    if (!json_get_array(scope, list, JSON_REQUIRED, &steps, r->f)) {
        return false;
    }
    json_array_foreach(steps, i, step) {
        scope.object = step;
        if (!read(r, scope, context)) {
            return false;
        }
    }
    return true;
}

static bool refuse_normalizer(struct reader *r, struct json_scope step, void *context) {
    (void)context;
    return json_fault(step, "type", r->f, "normalizers are not supported: only byte-level BPE without one is read");
}

static bool read_steps_before(struct reader *r, struct json_scope root) {
    const json_t *normalizer = NULL, *before = NULL;
    bool bytes = false;
    return json_get_object(root, "normalizer", JSON_OPTIONAL, &normalizer, r->f) &&
           (!normalizer || each_step(r, normalizer, "normalizer", "normalizers", NULL, refuse_normalizer)) &&
           json_get_object(root, "pre_tokenizer", JSON_OPTIONAL, &before, r->f) &&
           (!before || each_step(r, before, "pre_tokenizer", "pretokenizers", &bytes, read_step)) &&
           (bytes || json_fault(root, "pre_tokenizer", r->f, "must end in \"ByteLevel\": only byte-level BPE is read"));
}

static bool read_steps_behind(struct reader *r, struct json_scope root) {
    const json_t *behind = NULL;
    return json_get_object(root, "post_processor", JSON_OPTIONAL, &behind, r->f) &&
           (!behind || each_step(r, behind, "post_processor", "processors", NULL, read_post_step));
}

static bool refuse_text(struct json_scope scope, const char *field, fault *f) {
    const char *text = "";
    return json_get_string(scope, field, JSON_OPTIONAL, &text, f) &&
           (!*text || json_fault(scope, field, f, "\"%s\" is not supported", text));
}

static bool check_model_type(struct json_scope model, fault *f) {
    const char *type = "BPE"; // old files of GPT-2's do not say
    return json_get_string(model, "type", JSON_OPTIONAL, &type, f) &&
           (strcmp(type, "BPE") == 0 ||
            json_fault(model, "type", f, "\"%s\" is not supported, only \"BPE\"", type));
}

static bool lacks_bytes(const struct bpe *b) {
    for (size_t byte = 0; byte < 256; byte++) {
        if (b->byte_tokens[byte] == BPE_NONE) {
            return true;
        }
    }
    return false;
}

// What stands for unknown bytes matters where there are such.
static bool read_settings(struct reader *r, struct json_scope model) {
    const char *unknown = NULL;
    double dropout = 0.0;
    if (lacks_bytes(r->bpe) && (!json_refuse_true(model, "byte_fallback", r->f) ||
                                !json_refuse_true(model, "fuse_unk", r->f) ||
                                !json_get_string(model, "unk_token", JSON_OPTIONAL, &unknown, r->f))) {
        return false;
    }
    return json_get_number(model, "dropout", JSON_OPTIONAL, 0.0, 0.0, &dropout, r->f) &&
           refuse_text(model, "continuing_subword_prefix", r->f) && refuse_text(model, "end_of_word_suffix", r->f) &&
           json_get_bool(model, "ignore_merges", JSON_OPTIONAL, &r->bpe->whole_words_first, r->f) &&
           (!unknown || find_name(r, "model.unk_token", unknown, &r->bpe->unknown));
}

static bool read_root(struct reader *r, struct json_scope root) {
    const json_t *added = NULL;
    struct json_scope model = {.file = r->file, .within = "model"};
    return json_get_object(root, "model", JSON_REQUIRED, &model.object, r->f) &&
           check_model_type(model, r->f) && read_steps_before(r, root) &&
           json_get_object(model, "vocab", JSON_REQUIRED, &r->vocab, r->f) &&
           json_get_array(root, "added_tokens", JSON_OPTIONAL, &added, r->f) && reserve_tokens(r, added) &&
           read_vocabulary(r) && read_added(r, added) && read_merges(r, model) && read_settings(r, model) &&
           read_steps_behind(r, root);
}

// --- EOS, from the files beside it ---

// The name as tokenizer_config.json has it, plain or as an added token's object.
static bool find_eos_name(struct reader *r, const char *config, uint32_t *eos) {
    json_t *root;
    if (!json_read_file(&root, config, r->f)) {
        return false;
    }
    const json_t *value = json_object_get(root, "eos_token");
    const char *name = json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
    bool done = !name || find_name(r, "eos_token of tokenizer_config.json", name, eos);
    json_decref(root);
    return done;
}

static bool find_eos_id(struct reader *r, const char *config, uint32_t *eos) {
    json_t *root;
    if (!json_read_file(&root, config, r->f)) {
        return false;
    }
    const json_t *value = json_object_get(root, "eos_token_id");
    value = json_is_array(value) ? json_array_get(value, 0) : value;
    bool done = !json_is_integer(value) || check_id(r, "eos_token_id of config.json", "EOS", value, eos);
    json_decref(root);
    return done;
}

static bool find_eos(struct reader *r, const char *folder) {
    char named[FILE_PATH_MAX], numbered[FILE_PATH_MAX];
    uint32_t *eos = &r->bpe->eos;
    return file_path(named, folder, "tokenizer_config.json", r->f) &&
           file_path(numbered, folder, "config.json", r->f) &&
           (!file_exists(named) || find_eos_name(r, named, eos)) &&
           (*eos != BPE_NONE || !file_exists(numbered) || find_eos_id(r, numbered, eos)) &&
           (*eos == BPE_NONE || *eos < r->bpe->count ||
            fault_set(r->f, FAULT_INPUT, r->file, "EOS", "token %" PRIu32 " is not in the vocabulary of %" PRIu32, *eos,
                      r->bpe->count));
}

// folder: NULL for no EOS.
static bool parse(struct bpe **loaded, const void *data, size_t size, const char *file, const char *folder, fault *f) {
    struct reader r = {.file = file, .f = f};
    json_t *root;
    *loaded = NULL;
    if (!json_read_bytes(&root, data, size, file, f)) {
        return false;
    }
    make_alphabet(&r);
    r.bpe = calloc(1, sizeof *r.bpe);
    bool done = r.bpe && (r.bpe->file = strdup(file));
    if (done) {
        r.bpe->unknown = r.bpe->bos = r.bpe->eos = BPE_NONE;
        done = read_root(&r, (struct json_scope){.object = root, .file = file}) && (!folder || find_eos(&r, folder));
    } else {
        fault_memory(f, file);
    }
    json_decref(root);
    if (!done) {
        bpe_free(r.bpe);
        return false;
    }
    *loaded = r.bpe;
    return true;
}

bool bpe_parse(struct bpe **loaded, const void *data, size_t size, const char *file, fault *f) {
    return parse(loaded, data, size, file, NULL, f);
}

bool bpe_load(struct bpe **loaded, const char *path, fault *f) {
    struct mapped_file map;
    char folder[FILE_PATH_MAX];
    const char *slash = strrchr(path, '/');
    *loaded = NULL;
    if (!file_path(folder, NULL, path, f) || !file_map(&map, path, f)) {
        return false;
    }
    folder[slash ? (slash == path ? 1 : slash - path) : 0] = 0;
    bool done = parse(loaded, map.data, map.size, path, slash ? folder : ".", f);
    file_unmap(&map);
    return done;
}
