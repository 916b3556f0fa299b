#include "dataset.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "file.h"
#include "json.h"

enum { MAX_LINE_BYTES = 64 << 20, MAX_CHOICES = 1024 };

// One file being read.
struct reader {
    struct dataset *data;
    size_t capacity; // of data->examples
    const char *file;
    const struct tokenizer *tokenizer;
    const struct dataset_options *options;
    uint32_t bos, eos;
    size_t lead; // tokens before a text: BOS, if the tokenizer has one
    struct token_list list;
    bool as_text; // this example holds a special token's text
    char *text; // prompt and completion as one string
    size_t text_capacity;
    fault *f;
};

// BOS if there is one, the tokens of a prompt and its completion, EOS. Targets are tokens [first_target, count).
struct sequence {
    uint32_t *tokens;
    size_t count;
    size_t first_target;
};

static const char *const kind_names[] = {
    [DATASET_TEXT] = "{\"text\"}",
    [DATASET_COMPLETION] = "{\"prompt\",\"completion\"}",
    [DATASET_CHOICE] = "{\"prompt\",\"choices\",\"label\"}",
    [DATASET_STREAM] = "plain text",
};

void dataset_free(struct dataset *data) {
    for (size_t i = 0; i < data->count; i++) {
        free(data->examples[i].tokens);
        free(data->examples[i].choices);
    }
    free(data->examples);
    *data = (struct dataset){0};
}

// Takes over what the example points to, also where it fails.
static bool add_example(struct reader *r, struct example example) {
    struct dataset *data = r->data;
    if (data->count == r->capacity) {
        size_t capacity = r->capacity ? 2 * r->capacity : 64;
        struct example *grown = realloc(data->examples, capacity * sizeof *grown);
        if (!grown) {
            free(example.tokens);
            free(example.choices);
            return fault_memory(r->f, r->file);
        }
        data->examples = grown;
        r->capacity = capacity;
    }
    data->examples[data->count++] = example;
    data->tokens += example.count;
    data->targets += example.count - example.first_target;
    data->as_text += r->as_text;
    r->as_text = false;
    return true;
}

// Tokens of the text into r->list; place names the text in faults.
static bool encode(struct reader *r, struct json_scope place, const char *field, const char *text, size_t length) {
    if (!tokenizer_encode(r->tokenizer, text, length, &r->list, r->f)) {
        return false;
    }
    const char *special = tokenizer_special_as_text(r->tokenizer, text, length);
    r->as_text = r->as_text || special;
    if (special && !*r->data->special) {
        snprintf(r->data->special, sizeof r->data->special, "%s", special);
    }
    for (size_t i = 0; i < r->list.count; i++) {
        if (r->list.ids[i] >= r->options->vocab_size) {
            return json_fault(place, field, r->f, "token %" PRIu32 " is not in the model's vocabulary of %" PRIu32,
                              r->list.ids[i], r->options->vocab_size);
        }
    }
    return true;
}

static bool read_text(struct reader *r, struct json_scope line) {
    const char *text;
    if (!json_get_string(line, "text", JSON_REQUIRED, &text, r->f) || !encode(r, line, "text", text, strlen(text))) {
        return false;
    }
    size_t count = r->list.count + r->lead;
    if (count < 2) {
        return json_fault(line, "text", r->f, r->list.count ? "gives one token, and none to learn" : "gives no tokens");
    }
    if (count > r->options->max_length) {
        count = r->options->max_length;
        r->data->cut++;
    }
    struct example example = {
        .tokens = malloc(count * sizeof(uint32_t)), .count = count, .first_target = 1, .shared = 1};
    if (!example.tokens) {
        return fault_memory(r->f, r->file);
    }
    example.tokens[0] = r->bos;
    memcpy(example.tokens + r->lead, r->list.ids, (count - r->lead) * sizeof *example.tokens);
    return add_example(r, example);
}

static bool join_text(struct reader *r, const char *prompt, size_t prompt_length, const char *rest,
                      size_t rest_length) {
    size_t length = prompt_length + rest_length;
    if (length + 1 > r->text_capacity) {
        char *grown = realloc(r->text, length + 1);
        if (!grown) {
            return fault_memory(r->f, r->file);
        }
        r->text = grown;
        r->text_capacity = length + 1;
    }
    memcpy(r->text, prompt, prompt_length);
    memcpy(r->text + prompt_length, rest, rest_length + 1);
    return true;
}

// sequence->tokens is the caller's to free.
static bool make_sequence(struct reader *r, struct json_scope line, const char *prompt, const char *field,
                          const char *completion, struct sequence *sequence) {
    size_t prompt_length = strlen(prompt), rest_length = strlen(completion);
    if (!join_text(r, prompt, prompt_length, completion, rest_length) ||
        !encode(r, line, field, r->text, prompt_length + rest_length)) {
        return false;
    }
    size_t count = r->list.count, boundary = 0;
    while (boundary < count && r->list.ends[boundary] <= prompt_length) {
        boundary++;
    }
    if (boundary + r->lead == 0) {
        return json_fault(line, "prompt", r->f, "gives no token before the first target, and there is no BOS");
    }
    uint32_t *tokens = malloc((r->lead + count + 1) * sizeof *tokens);
    if (!tokens) {
        return fault_memory(r->f, r->file);
    }
    tokens[0] = r->bos;
    if (count) {
        memcpy(tokens + r->lead, r->list.ids, count * sizeof *tokens);
    }
    tokens[r->lead + count] = r->eos;
    *sequence =
        (struct sequence){.tokens = tokens, .count = r->lead + count + 1, .first_target = r->lead + boundary};
    return true;
}

// Takes the first `excess` tokens of the prompt out of the sequence.
static void cut_left(const struct reader *r, struct sequence *sequence, size_t excess) {
    uint32_t *first = sequence->tokens + r->lead;
    memmove(first, first + excess, (sequence->count - r->lead - excess) * sizeof *first);
    sequence->count -= excess;
    sequence->first_target -= excess;
}

// How many of the prompt's `spare` tokens must go so that `longest` tokens fit.
static bool find_excess(struct reader *r, struct json_scope line, const char *field, size_t longest, size_t spare,
                        size_t *excess) {
    *excess = longest > r->options->max_length ? longest - r->options->max_length : 0;
    if (*excess > spare) {
        return json_fault(line, field, r->f, "%zu tokens with %s and EOS but without the prompt, at most %zu fit",
                          longest - spare, r->lead ? "BOS" : "one before them", r->options->max_length);
    }
    r->data->cut += *excess > 0;
    return true;
}

static bool read_completion(struct reader *r, struct json_scope line) {
    const char *prompt, *completion;
    struct sequence s;
    size_t excess;
    if (!json_get_string(line, "prompt", JSON_REQUIRED, &prompt, r->f) ||
        !json_get_string(line, "completion", JSON_REQUIRED, &completion, r->f) ||
        !make_sequence(r, line, prompt, "completion", completion, &s)) {
        return false;
    }
    if (!find_excess(r, line, "completion", s.count, s.first_target - 1, &excess)) {
        free(s.tokens);
        return false;
    }
    cut_left(r, &s, excess);
    return add_example(
        r, (struct example){.tokens = s.tokens, .count = s.count, .first_target = s.first_target, .shared = 1});
}

// The index of the right choice: given as such, or as the choice's own text.
static bool read_label(struct reader *r, struct json_scope line, const json_t *choices, size_t *label) {
    const json_t *value = json_object_get(line.object, "label");
    size_t count = json_array_size(choices);
    if (json_is_string(value)) {
        for (size_t i = 0; i < count; i++) {
            if (json_equal(value, json_array_get(choices, i))) {
                *label = i;
                return true;
            }
        }
        return json_fault(line, "label", r->f, "\"%s\" is none of the choices", json_string_value(value));
    }
    int64_t index = 0;
    if (value && !json_is_null(value) && !json_is_integer(value)) {
        return json_fault(line, "label", r->f, "must be an integer or one of the choices");
    }
    if (!json_get_integer(line, "label", JSON_REQUIRED, 0, (int64_t)count - 1, &index, r->f)) {
        return false;
    }
    *label = (size_t)index;
    return true;
}

static bool check_choices(struct reader *r, struct json_scope line, const json_t *choices) {
    size_t count = json_array_size(choices);
    if (count < 2 || count > MAX_CHOICES) {
        return json_fault(line, "choices", r->f, "%zu choices, must be 2 to %d", count, MAX_CHOICES);
    }
    for (size_t i = 0; i < count; i++) {
        const json_t *choice = json_array_get(choices, i);
        if (!json_is_string(choice)) {
            return json_fault(line, "choices", r->f, "choice %zu is not a string", i);
        }
        for (size_t k = 0; k < i; k++) {
            if (json_equal(choice, json_array_get(choices, k))) {
                return json_fault(line, "choices", r->f, "choices %zu and %zu are the same", k, i);
            }
        }
    }
    return true;
}

// Leading tokens that all sequences share and that none of them targets.
static size_t count_shared(const struct sequence *sequences, size_t count) {
    size_t shared = sequences[0].first_target;
    for (size_t i = 1; i < count; i++) {
        size_t same = 0;
        size_t most = shared < sequences[i].first_target ? shared : sequences[i].first_target;
        while (same < most && sequences[i].tokens[same] == sequences[0].tokens[same]) {
            same++;
        }
        shared = same;
    }
    return shared;
}

// One block of tokens: the right choice's sequence, then what follows the shared tokens in the other choices.
static bool pack_choices(struct reader *r, const struct sequence *sequences, size_t count, size_t shared,
                         size_t label) {
    size_t total = sequences[label].count;
    for (size_t i = 0; i < count; i++) {
        total += i == label ? 0 : sequences[i].count - shared;
    }
    struct example example = {.tokens = malloc(total * sizeof(uint32_t)),
                              .count = sequences[label].count,
                              .first_target = sequences[label].first_target,
                              .choices = malloc(count * sizeof(struct example_choice)),
                              .n_choices = count,
                              .shared = shared,
                              .label = label};
    if (!example.tokens || !example.choices) {
        free(example.tokens);
        free(example.choices);
        return fault_memory(r->f, r->file);
    }
    memcpy(example.tokens, sequences[label].tokens, example.count * sizeof *example.tokens);
    uint32_t *next = example.tokens + example.count;
    for (size_t i = 0; i < count; i++) {
        size_t rest = sequences[i].count - shared;
        uint32_t *to = i == label ? example.tokens + shared : next;
        next += i == label ? 0 : rest;
        memcpy(to, sequences[i].tokens + shared, rest * sizeof *to);
        example.choices[i] =
            (struct example_choice){.tokens = to, .count = rest, .first_target = sequences[i].first_target - shared};
    }
    return add_example(r, example);
}

static bool fit_choices(struct reader *r, struct json_scope line, struct sequence *sequences, size_t count,
                        size_t label) {
    size_t shared = count_shared(sequences, count);
    size_t longest = 0, excess;
    for (size_t i = 0; i < count; i++) {
        longest = sequences[i].count > longest ? sequences[i].count : longest;
    }
    if (shared == 0) {
        return json_fault(line, "prompt", r->f, "the choices share none of its tokens, and there is no BOS");
    }
    if (!find_excess(r, line, "choices", longest, shared - 1, &excess)) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        cut_left(r, &sequences[i], excess);
    }
    return pack_choices(r, sequences, count, shared - excess, label);
}

static bool read_choices(struct reader *r, struct json_scope line) {
    const char *prompt;
    const json_t *choices;
    size_t label = 0;
    if (!json_get_string(line, "prompt", JSON_REQUIRED, &prompt, r->f) ||
        !json_get_array(line, "choices", JSON_REQUIRED, &choices, r->f) || !check_choices(r, line, choices) ||
        !read_label(r, line, choices, &label)) {
        return false;
    }
    size_t count = json_array_size(choices);
    struct sequence *sequences = calloc(count, sizeof *sequences);
    if (!sequences) {
        return fault_memory(r->f, r->file);
    }
    bool done = true;
    for (size_t i = 0; done && i < count; i++) {
        done = make_sequence(r, line, prompt, "choices", json_string_value(json_array_get(choices, i)), &sequences[i]);
    }
    done = done && fit_choices(r, line, sequences, count, label);
    for (size_t i = 0; i < count; i++) {
        free(sequences[i].tokens);
    }
    free(sequences);
    return done;
}

// Which kind a line is; what it lacks for that kind is found when it is read.
static bool find_kind(struct json_scope line, enum dataset_kind *kind, fault *f) {
    static const char *const others[] = {"prompt", "completion", "choices", "label"};
    bool text = json_has(line, "text");
    for (size_t i = 0; text && i < sizeof others / sizeof *others; i++) {
        if (json_has(line, others[i])) {
            return json_fault(line, others[i], f, "does not go with \"text\"");
        }
    }
    bool choice = json_has(line, "choices") || json_has(line, "label");
    bool completion = json_has(line, "completion");
    if (choice && completion) {
        return json_fault(line, "completion", f, "does not go with \"choices\" and \"label\"");
    }
    if (!text && !choice && !completion && !json_has(line, "prompt")) {
        return json_fault(line, "text or prompt", f, "missing");
    }
    *kind = text ? DATASET_TEXT : choice ? DATASET_CHOICE : DATASET_COMPLETION;
    return true;
}

static bool read_object(struct reader *r, struct json_scope line) {
    enum dataset_kind kind = DATASET_TEXT;
    if (!find_kind(line, &kind, r->f)) {
        return false;
    }
    if (r->data->count && kind != r->data->kind) {
        return fault_set(r->f, FAULT_INPUT, line.file, NULL, "a line of %s after lines of %s", kind_names[kind],
                         kind_names[r->data->kind]);
    }
    r->data->kind = kind;
    switch (kind) {
    case DATASET_TEXT:
        return read_text(r, line);
    case DATASET_COMPLETION:
        return read_completion(r, line);
    default:
        return read_choices(r, line);
    }
}

static bool is_blank(const char *line, size_t length) {
    for (size_t i = 0; i < length; i++) {
        if (!strchr(" \t\r", line[i]) || !line[i]) {
            return false;
        }
    }
    return true;
}

static bool read_line(struct reader *r, const char *bytes, size_t length, size_t number) {
    if (is_blank(bytes, length)) {
        return true;
    }
    char place[FILE_PATH_MAX + 32];
    snprintf(place, sizeof place, "%s: line %zu", r->file, number);
    if (length > MAX_LINE_BYTES) {
        return fault_set(r->f, FAULT_INPUT, place, NULL, "%zu bytes, at most %d are allowed", length, MAX_LINE_BYTES);
    }
    json_t *root;
    if (!json_read_bytes(&root, bytes, length, place, r->f)) {
        return false;
    }
    bool done = read_object(r, (struct json_scope){.object = root, .file = place});
    json_decref(root);
    return done;
}

static bool read_lines(struct reader *r, const char *bytes, size_t size) {
    for (size_t start = 0, number = 1; start < size; number++) {
        const char *end = memchr(bytes + start, '\n', size - start);
        size_t length = end ? (size_t)(end - bytes) - start : size - start;
        if (!read_line(r, bytes + start, length, number)) {
            return false;
        }
        start += length + 1;
    }
    return true;
}

bool dataset_is_text(const char *bytes, size_t size) {
    json_t *text = json_stringn(bytes, size);
    bool valid = text && !memchr(bytes, 0, size);
    json_decref(text);
    return valid;
}

static bool read_stream(struct reader *r, const char *bytes, size_t size) {
    r->data->kind = DATASET_STREAM;
    if (size == 0) {
        return true;
    }
    if (!dataset_is_text(bytes, size)) {
        return fault_set(r->f, FAULT_INPUT, r->file, NULL, "not UTF-8 text");
    }
    if (!encode(r, (struct json_scope){.file = r->file}, "text", bytes, size)) {
        return false;
    }
    size_t total = r->lead + r->list.count;
    for (size_t start = 0; start + 1 < total; start += r->options->max_length) {
        size_t left = total - start;
        size_t count = left < r->options->max_length ? left : r->options->max_length;
        uint32_t *tokens = malloc(count * sizeof *tokens);
        if (!tokens) {
            return fault_memory(r->f, r->file);
        }
        for (size_t i = 0; i < count; i++) {
            tokens[i] = start + i < r->lead ? r->bos : r->list.ids[start + i - r->lead];
        }
        if (!add_example(r, (struct example){.tokens = tokens, .count = count, .first_target = 1, .shared = 1})) {
            return false;
        }
    }
    return true;
}

static bool check_special(struct reader *r, const char *name, int32_t token) {
    if (token < 0) {
        return fault_set(r->f, FAULT_INPUT, "tokenizer", name, "missing");
    }
    return (uint32_t)token < r->options->vocab_size ||
           fault_set(r->f, FAULT_INPUT, "tokenizer", name,
                     "token %" PRId32 " is not in the model's vocabulary of %" PRIu32, token, r->options->vocab_size);
}

static bool read_bytes(struct dataset *data, const void *bytes, size_t size, const char *file, bool lines,
                       const struct tokenizer *tokenizer, const struct dataset_options *options, fault *f) {
    *data = (struct dataset){0};
    struct reader r = {.data = data, .file = file, .tokenizer = tokenizer, .options = options, .f = f};
    int32_t bos = tokenizer_bos(tokenizer), eos = tokenizer_eos(tokenizer);
    if (options->max_length < 2) {
        return fault_set(f, FAULT_USAGE, NULL, "max_length", "is %zu, must be at least 2", options->max_length);
    }
    if ((bos >= 0 && !check_special(&r, "BOS", bos)) || !check_special(&r, "EOS", eos)) {
        return false;
    }
    r.lead = bos >= 0;
    r.bos = (uint32_t)bos;
    r.eos = (uint32_t)eos;
    bool done = (lines ? read_lines : read_stream)(&r, bytes, size);
    if (done && data->count == 0) {
        done = fault_set(f, FAULT_INPUT, file, NULL, "holds no examples");
    }
    token_list_free(&r.list);
    free(r.text);
    if (!done) {
        dataset_free(data);
    }
    return done;
}

bool dataset_read_jsonl(struct dataset *data, const void *bytes, size_t size, const char *file,
                        const struct tokenizer *tokenizer, const struct dataset_options *options, fault *f) {
    return read_bytes(data, bytes, size, file, true, tokenizer, options, f);
}

bool dataset_read(struct dataset *data, const char *path, const struct tokenizer *tokenizer,
                  const struct dataset_options *options, fault *f) {
    // Structured files that would train as plain text without a word.
    static const char *const refused[] = {".json", ".csv", ".tsv"};
    struct mapped_file map;
    *data = (struct dataset){0};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        if (file_ends_with(path, refused[i])) {
            return fault_set(f, FAULT_INPUT, path, NULL, "%s files are not read, only .jsonl and plain text",
                             refused[i]);
        }
    }
    if (!file_map(&map, path, f)) {
        return false;
    }
    bool done = read_bytes(data, map.data, map.size, path, file_ends_with(path, ".jsonl"), tokenizer, options, f);
    file_unmap(&map);
    return done;
}
