// lodrop-generate: how a model, with or without an adapter, goes on with a text.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dataset.h"
#include "file.h"
#include "generate.h"
#include "inference.h"
#include "options.h"
#include "report.h"
#include "wisdom.h"

struct generate_options {
    char model[OPTION_TEXT_SIZE], adapter[OPTION_TEXT_SIZE], prompt[OPTION_TEXT_SIZE], prompt_file[OPTION_TEXT_SIZE];
    int64_t max_new_tokens, top_k, seed, threads;
    double temperature, top_p;
    bool json;
};

#define AT(field) offsetof(struct generate_options, field)

static const struct option LIST[] = {
    {"model", OPTION_TEXT, AT(model), 0, 0, "DIR", "Hugging Face folder of a Llama model"},
    {"adapter", OPTION_TEXT, AT(adapter), 0, 0, "DIR", "PEFT folder of a LoRA adapter (default: none)"},
    {"prompt", OPTION_TEXT, AT(prompt), 0, 0, "TEXT", "what it goes on with (default: nothing, only BOS)"},
    {"prompt-file", OPTION_TEXT, AT(prompt_file), 0, 0, "FILE", "the same, as all of a text file, of any length"},
    {"max-new-tokens", OPTION_INTEGER, AT(max_new_tokens), 1, 1048576, "N",
     "at most so many, fewer if the text ends (default 128, or as many as positions are left)"},
    {"temperature", OPTION_NUMBER, AT(temperature), 0, 100, "T",
     "draw from the softmax of logits / T; 0 (the default): take the likeliest"},
    {"top-k", OPTION_INTEGER, AT(top_k), 0, 16777216, "K", "draw from the K likeliest (default 0: all)"},
    {"top-p", OPTION_NUMBER, AT(top_p), 0, 1, "P",
     "draw from the likeliest that together have a share P (default 1)"},
    {"seed", OPTION_INTEGER, AT(seed), 0, 9.2e18, "N", "of the draws (default 0)"},
    {"threads", OPTION_INTEGER, AT(threads), 0, 1024, "N", "default 0: as many as this process may use"},
    {"json", OPTION_SWITCH, AT(json), 0, 0, NULL,
     "print one JSON object: text (null if it is no UTF-8; without half a character), tokens, their rate"},
};

static const struct option_table TABLE = {
    .program = "lodrop-generate",
    .usage = "usage: lodrop-generate --model DIR [--prompt TEXT | --prompt-file FILE] [--adapter DIR] [options]\n\n"
             "Prints what the model adds to the prompt, as it comes. A seed draws the same text on every machine.\n",
    .outro = {"The prompt is tokenised as a prompt of lodrop-train's data: BOS, if the tokenizer has one, and its\n"
              "tokens. The text ends at the tokenizer's EOS, or at an eos_token_id of config.json or of\n"
              "generation_config.json. An adapter trained with dropout is the mean adapter, as in lodrop-eval.\n"
              "LODROP_ISA, LODROP_WISDOM and OMP_NUM_THREADS are as in lodrop-train --help.\n\n"
              "Exit status: 0 done, 1 bad input, 2 usage, 3 out of memory or disk.\n"},
    .list = LIST,
    .count = sizeof LIST / sizeof *LIST,
};

enum { ENDS_MOST = 1 + 2 * MODEL_MAX_EOS };

// Everything so far, prompt and new tokens, and how much of its text is out.
struct text {
    const struct inference *inference;
    uint32_t *tokens;
    size_t prompt, count;
    char *all;              // of all tokens
    size_t length, printed; // bytes of it
    bool quiet;     // only kept
    double begin;   // when the first token came
    uint32_t ends[ENDS_MOST];
    size_t end_count;
};

// Bytes up to the last whole character: a character's tokens may come one by one.
static size_t whole_characters(const char *text, size_t length) {
    size_t tail = 1;
    while (tail < 4 && tail < length && ((unsigned char)text[length - tail] & 0xc0) == 0x80) {
        tail++;
    }
    unsigned char lead = length ? (unsigned char)text[length - tail] : 0;
    size_t wanted = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 1;
    return wanted > tail ? length - tail : length;
}

// A replacement character at the end stands for bytes whose rest may still come.
static size_t settled(const char *text, size_t length) {
    static const char replacement[] = "\xef\xbf\xbd";
    size_t end = whole_characters(text, length);
    while (end >= 3 && memcmp(text + end - 3, replacement, 3) == 0) {
        end -= 3;
    }
    return end;
}

static bool show(struct text *t, bool last, fault *f) {
    free(t->all);
    if (!tokenizer_decode(t->inference->tokenizer, t->tokens, t->count, &t->all, &t->length, f)) {
        return false;
    }
    size_t end = last ? t->length : settled(t->all, t->length);
    if (t->quiet || end <= t->printed) {
        return true;
    }
    fwrite(t->all + t->printed, 1, end - t->printed, stdout);
    t->printed = end;
    return file_flush_output(f);
}

static bool take(void *context, uint32_t token, fault *f) {
    struct text *t = context;
    t->begin = t->count == t->prompt ? report_clock() : t->begin;
    t->tokens[t->count++] = token;
    return t->quiet || show(t, false, f);
}

// file names the prompt in faults.
static bool encode(struct text *t, const char *prompt, size_t length, size_t new_tokens, const char *file, fault *f) {
    const struct tokenizer *tokenizer = t->inference->tokenizer;
    const size_t lead = tokenizer_bos(tokenizer) >= 0;
    struct token_list list = {0};
    if (length && !dataset_is_text(prompt, length)) {
        return fault_set(f, FAULT_INPUT, file, NULL, "not UTF-8 text");
    }
    const char *special = tokenizer_special_as_text(tokenizer, prompt, length);
    if (special) {
        fprintf(stderr, "the prompt holds %s, which is tokenised as text and not as that token\n", special);
    }
    if (!tokenizer_encode(tokenizer, prompt, length, &list, f)) {
        token_list_free(&list);
        return false;
    }
    t->prompt = t->count = lead + list.count;
    t->tokens = malloc((t->count + new_tokens) * sizeof *t->tokens);
    if (t->tokens) {
        t->tokens[0] = (uint32_t)tokenizer_bos(tokenizer);
        for (size_t i = 0; i < list.count; i++) {
            t->tokens[lead + i] = list.ids[i];
        }
    }
    token_list_free(&list);
    return (t->tokens || fault_memory(f, "the tokens")) &&
           (t->count || fault_set(f, FAULT_INPUT, file, NULL, "gives no token, and the tokenizer has no BOS"));
}

static bool read_prompt(struct text *t, const struct generate_options *o, fault *f) {
    struct mapped_file map;
    if (!*o->prompt_file) {
        return encode(t, o->prompt, strlen(o->prompt), (size_t)o->max_new_tokens, "lodrop-generate: --prompt", f);
    }
    if (!file_map(&map, o->prompt_file, f)) {
        return false;
    }
    bool done = encode(t, (const char *)map.data, map.size, (size_t)o->max_new_tokens, o->prompt_file, f);
    file_unmap(&map);
    return done;
}

static bool add_end(struct text *t, const json_t *token, const char *file, fault *f) {
    json_int_t number = json_is_integer(token) ? json_integer_value(token) : -1;
    if (t->end_count == ENDS_MOST || number < 0 || number > UINT32_MAX) {
        return fault_set(f, FAULT_INPUT, file, "eos_token_id", "must be a token, or a list of at most %d",
                         MODEL_MAX_EOS);
    }
    t->ends[t->end_count++] = (uint32_t)number;
    return true;
}

static bool add_ends_of_generation(struct text *t, const char *file, fault *f) {
    json_t *root;
    if (!json_read_file(&root, file, f)) {
        return false;
    }
    const json_t *ends = json_object_get(root, "eos_token_id");
    bool done = !ends || json_is_null(ends) || json_is_array(ends) || add_end(t, ends, file, f);
    for (size_t i = 0; done && i < json_array_size(ends); i++) {
        done = add_end(t, json_array_get(ends, i), file, f);
    }
    json_decref(root);
    return done;
}

// The tokenizer's EOS, and all that the model's folder names.
static bool find_ends(struct text *t, const char *folder, fault *f) {
    const struct model_config *c = &t->inference->model.config;
    int32_t eos = tokenizer_eos(t->inference->tokenizer);
    char path[FILE_PATH_MAX];
    if (eos >= 0) {
        t->ends[t->end_count++] = (uint32_t)eos;
    }
    for (uint32_t i = 0; i < c->eos_count; i++) {
        t->ends[t->end_count++] = (uint32_t)c->eos_token_ids[i];
    }
    return file_path(path, folder, "generation_config.json", f) &&
           (!file_exists(path) || add_ends_of_generation(t, path, f));
}

static bool fit_positions(const struct text *t, struct generate_options *o, bool asked, fault *f) {
    size_t most = t->inference->model.config.max_positions;
    if (t->prompt >= most || (asked && t->prompt + (size_t)o->max_new_tokens > most)) {
        return fault_set(f, FAULT_INPUT, "config.json", "max_position_embeddings",
                         "is %zu, too few for %zu tokens of the prompt and %lld new ones", most, t->prompt,
                         (long long)o->max_new_tokens);
    }
    if (t->prompt + (size_t)o->max_new_tokens > most) {
        o->max_new_tokens = (int64_t)(most - t->prompt);
    }
    return true;
}

// The rate of all tokens but the first, which comes with the prompt.
static bool print_json(const struct text *t, fault *f) {
    double seconds = report_clock() - t->begin;
    size_t count = t->count - t->prompt;
    json_t *tokens = json_array();
    for (size_t i = t->prompt; i < t->count; i++) {
        if (json_array_append_new(tokens, json_integer(t->tokens[i])) != 0) {
            json_decref(tokens);
            return fault_memory(f, "the result");
        }
    }
    size_t end = settled(t->all, t->length);
    json_t *text = json_stringn(t->all + t->printed, end > t->printed ? end - t->printed : 0);
    json_t *object = json_pack("{s:o, s:o, s:I, s:f}", "text", text ? text : json_null(), "tokens", tokens,
                               "prompt_tokens", (json_int_t)t->prompt, "tokens_per_second",
                               count > 1 ? (double)(count - 1) / seconds : 0.0);
    if (!object) {
        return fault_memory(f, "the result");
    }
    json_dumpf(object, stdout, JSON_REAL_PRECISION(6));
    json_decref(object);
    putchar('\n');
    return file_flush_output(f);
}

static bool run(struct text *t, struct generate_options *o, option_set given, fault *f) {
    const struct inference *n = t->inference;
    bool asked = options_given(&TABLE, given, "max-new-tokens");
    if (!find_ends(t, o->model, f) || !read_prompt(t, o, f) || !fit_positions(t, o, asked, f)) {
        return false;
    }
    const struct generation_manner manner = {.new_tokens = (size_t)o->max_new_tokens,
                                             .vocabulary = tokenizer_vocab_size(n->tokenizer),
                                             .temperature = o->temperature,
                                             .nucleus = o->top_p,
                                             .most_likely = (size_t)o->top_k,
                                             .seed = (uint64_t)o->seed,
                                             .ends = t->ends,
                                             .end_count = t->end_count,
                                             .threads = (unsigned)o->threads};
    t->quiet = true; // the prompt's own text
    if (!show(t, true, f)) {
        return false;
    }
    t->printed = t->length;
    t->quiet = o->json;
    if (!generate(&n->model, inference_lora(n), t->tokens, t->prompt, &manner, take, t, f) || !show(t, true, f)) {
        return false;
    }
    if (o->json) {
        return print_json(t, f);
    }
    putchar('\n');
    return file_flush_output(f);
}

static bool check_options(const struct generate_options *o, option_set given, fault *f) {
    static const char *const drawing[] = {"top-k", "top-p", "seed"};
    bool text = options_given(&TABLE, given, "prompt"), file = options_given(&TABLE, given, "prompt-file");
    if (text && file) {
        return fault_set(f, FAULT_USAGE, TABLE.program, "--prompt", "does not go with --prompt-file");
    }
    if (file && !file_exists(o->prompt_file)) { // before a large model is loaded
        return fault_set(f, FAULT_INPUT, o->prompt_file, NULL, "missing");
    }
    for (size_t i = 0; o->temperature == 0 && i < sizeof drawing / sizeof *drawing; i++) {
        if (options_given(&TABLE, given, drawing[i])) {
            return fault_set(f, FAULT_USAGE, TABLE.program, "--temperature",
                             "is 0: nothing is drawn, --%s changes nothing", drawing[i]);
        }
    }
    return true;
}

int main(int argc, char **argv) {
    static struct generate_options options = {.max_new_tokens = 128, .top_p = 1};
    static const char *const required[] = {"model", NULL};
    static struct inference inference;
    struct text text = {.inference = &inference};
    option_set given;
    fault f = {0};
    bool done = options_parse(&TABLE, &options, &given, argc, argv, &f) &&
                options_require(&TABLE, given, required, &f) && check_options(&options, given, &f) &&
                inference_load(&inference, options.model, &f) && wisdom_read((unsigned)options.threads, &f) &&
                (!*options.adapter ||
                 inference_adapt(&inference, &(struct inference_adapter){.folder = options.adapter,
                                                                        .program = TABLE.program}, &f)) &&
                run(&text, &options, given, &f);
    free(text.tokens);
    free(text.all);
    inference_free(&inference);
    if (!done) {
        fprintf(stderr, "%s\n", f.text);
        return f.status;
    }
    return 0;
}
