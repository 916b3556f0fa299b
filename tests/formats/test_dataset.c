// dataset.h: tokens, targets and cutting of every kind of data, and each kind of bad data.
#include "../../trainer/dataset.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../trainer/file.h"
#include "../../trainer/json.h"
#include "expect.h"
#include "small_tokenizer.h"

enum { BOS = 1, EOS = 2 };

static struct tokenizer *tokenizer;
static const struct dataset_options usual = {.max_length = 64, .vocab_size = SMALL_TOKENS};

static bool read_text(struct dataset *data, const char *text, size_t max_length, fault *f) {
    struct dataset_options options = {.max_length = max_length, .vocab_size = SMALL_TOKENS};
    return dataset_read_jsonl(data, text, strlen(text), "data.jsonl", tokenizer, &options, f);
}

static bool same(const uint32_t *tokens, size_t count, const uint32_t *expected, size_t expected_count) {
    return count == expected_count && memcmp(tokens, expected, count * sizeof *tokens) == 0;
}

#define SAME(tokens, count, ...)                                                                                       \
    same(tokens, count, (uint32_t[]){__VA_ARGS__}, sizeof((uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t))

static void texts(void) {
    struct dataset d;
    fault f = {0};
    const char *lines = "{\"text\": \"yes no\"}\r\n\n  \n{\"id\": 7, \"text\": \"a yes yes no\"}";
    CHECK(read_text(&d, lines, 4, &f) && d.kind == DATASET_TEXT && d.count == 2);
    CHECK(SAME(d.examples[0].tokens, d.examples[0].count, BOS, SMALL__YES, SMALL__NO));
    CHECK(SAME(d.examples[1].tokens, d.examples[1].count, BOS, SMALL_SPACE, SMALL_A, SMALL__YES));
    CHECK(d.examples[0].first_target == 1 && d.examples[1].first_target == 1 && !d.examples[0].choices);
    CHECK(d.tokens == 7 && d.targets == 5 && d.cut == 1);
    dataset_free(&d);
    CHECK(d.count == 0);
    dataset_free(&d);
}

static void special_tokens(void) {
    struct dataset d;
    fault f = {0};
    const char *lines = "{\"prompt\": \"yes</s>\", \"choices\": [\" no\", \"<s> no\"], \"label\": 1}\n"
                        "{\"prompt\": \"<s yes\", \"choices\": [\" no\", \" yes\"], \"label\": 1}\n"
                        "{\"prompt\": \"yes\", \"choices\": [\" no\", \"<s> no\"], \"label\": 1}\n";
    CHECK(read_text(&d, lines, 64, &f) && d.as_text == 2 && strcmp(d.special, "</s>") == 0);
    dataset_free(&d);
    CHECK(read_text(&d, "{\"text\": \"yes no\"}", 64, &f) && d.as_text == 0 && !*d.special);
    dataset_free(&d);
}

static void completions(void) {
    struct dataset d;
    fault f = {0};
    // The space belongs to the completion's token or, standing in the prompt, to a token that ends past the prompt.
    const char *lines = "{\"prompt\": \"yes yes\", \"completion\": \" no\"}\n"
                        "{\"prompt\": \"yes yes \", \"completion\": \"no\"}\n"
                        "{\"prompt\": \"yes\", \"completion\": \"\"}\n"
                        "{\"prompt\": \"\", \"completion\": \"yes\"}\n"
                        "{\"prompt\": \"a\", \"completion\": \"\xc3\xa9\"}\n";
    CHECK(read_text(&d, lines, 64, &f) && d.kind == DATASET_COMPLETION && d.count == 5 && d.cut == 0);
    for (size_t i = 0; i < 2; i++) {
        CHECK(SAME(d.examples[i].tokens, d.examples[i].count, BOS, SMALL__YES, SMALL__YES, SMALL__NO, EOS));
        CHECK(d.examples[i].first_target == 3);
    }
    CHECK(SAME(d.examples[2].tokens, d.examples[2].count, BOS, SMALL__YES, EOS) && d.examples[2].first_target == 2);
    CHECK(SAME(d.examples[3].tokens, d.examples[3].count, BOS, SMALL__YES, EOS) && d.examples[3].first_target == 1);
    CHECK(SAME(d.examples[4].tokens, d.examples[4].count, BOS, SMALL_SPACE, SMALL_A, SMALL_BYTE + 0xc3,
               SMALL_BYTE + 0xa9, EOS));
    CHECK(d.examples[4].first_target == 3);
    CHECK(d.targets == 2 + 2 + 1 + 2 + 3);
    dataset_free(&d);
}

static void long_prompts(void) {
    struct dataset d;
    fault f = {0};
    const char *line = "{\"prompt\": \"a yes yes\", \"completion\": \" no no\"}"; // 8 tokens, 3 targets
    CHECK(read_text(&d, line, 8, &f) && d.cut == 0 && d.examples[0].count == 8);
    dataset_free(&d);
    CHECK(read_text(&d, line, 6, &f) && d.cut == 1);
    CHECK(SAME(d.examples[0].tokens, d.examples[0].count, BOS, SMALL__YES, SMALL__YES, SMALL__NO, SMALL__NO, EOS));
    CHECK(d.examples[0].first_target == 3 && d.targets == 3);
    dataset_free(&d);
    CHECK(read_text(&d, line, 4, &f) && d.cut == 1 && d.examples[0].first_target == 1);
    dataset_free(&d);
    REFUSED(read_text(&d, line, 3, &f), &f, FAULT_INPUT, "data.jsonl: line 1: completion",
            "4 tokens with BOS and EOS but without the prompt, at most 3 fit");
    CHECK(d.count == 0 && !d.examples);
}

// The whole sequence of a choice and where its targets start.
static bool choice_is(const struct example *e, size_t i, size_t first_target, const uint32_t *expected, size_t count) {
    const struct example_choice *c = &e->choices[i];
    return e->shared + c->count == count && memcmp(e->tokens, expected, e->shared * sizeof *expected) == 0 &&
           memcmp(c->tokens, expected + e->shared, c->count * sizeof *expected) == 0 &&
           e->shared + c->first_target == first_target;
}

#define CHOICE_IS(e, i, first_target, ...)                                                                             \
    choice_is(e, i, first_target, (uint32_t[]){__VA_ARGS__}, sizeof((uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t))

static void choices(void) {
    struct dataset d;
    fault f = {0};
    // In the last line the choices turn the prompt's end into different tokens: " yes", or a space and "ye".
    const char *lines = "{\"prompt\": \"a\", \"choices\": [\" yes\", \" no\", \" yes no\"], \"label\": 1}\n"
                        "{\"prompt\": \"a\", \"choices\": [\" yes\", \" yes no\"], \"label\": \" yes no\"}\n"
                        "{\"prompt\": \"no ye\", \"choices\": [\"s\", \" no\"], \"label\": 0}\n";
    CHECK(read_text(&d, lines, 64, &f) && d.kind == DATASET_CHOICE && d.count == 3);
    const struct example *e = &d.examples[0];
    CHECK(e->n_choices == 3 && e->label == 1 && e->shared == 3 && e->first_target == 3);
    CHECK(SAME(e->tokens, e->count, BOS, SMALL_SPACE, SMALL_A, SMALL__NO, EOS));
    CHECK(CHOICE_IS(e, 0, 3, BOS, SMALL_SPACE, SMALL_A, SMALL__YES, EOS));
    CHECK(CHOICE_IS(e, 1, 3, BOS, SMALL_SPACE, SMALL_A, SMALL__NO, EOS));
    CHECK(CHOICE_IS(e, 2, 3, BOS, SMALL_SPACE, SMALL_A, SMALL__YES, SMALL__NO, EOS));
    CHECK(e->choices[1].tokens == e->tokens + e->shared);

    // " yes" leads both choices, but it is a target: it is not shared.
    e = &d.examples[1];
    CHECK(e->label == 1 && e->shared == 3 && e->count == 6);
    CHECK(CHOICE_IS(e, 0, 3, BOS, SMALL_SPACE, SMALL_A, SMALL__YES, EOS));

    // Here "no" is the last token that both share, and each choice has targets of its own from there or later.
    e = &d.examples[2];
    CHECK(e->shared == 2 && e->first_target == 2);
    CHECK(CHOICE_IS(e, 0, 2, BOS, SMALL__NO, SMALL__YES, EOS));
    CHECK(CHOICE_IS(e, 1, 4, BOS, SMALL__NO, SMALL_SPACE, SMALL_YE, SMALL__NO, EOS));
    CHECK(d.targets == 2 + 3 + 2);
    dataset_free(&d);
}

static void long_choices(void) {
    struct dataset d;
    fault f = {0};
    const char *line = "{\"prompt\": \"a yes yes\", \"choices\": [\" no\", \" no no\"], \"label\": 0}";
    CHECK(read_text(&d, line, 7, &f) && d.cut == 1);
    CHECK(CHOICE_IS(&d.examples[0], 0, 4, BOS, SMALL_A, SMALL__YES, SMALL__YES, SMALL__NO, EOS));
    CHECK(CHOICE_IS(&d.examples[0], 1, 4, BOS, SMALL_A, SMALL__YES, SMALL__YES, SMALL__NO, SMALL__NO, EOS));
    dataset_free(&d);
    CHECK(read_text(&d, line, 4, &f) && d.cut == 1 && d.examples[0].shared == 1);
    dataset_free(&d);
    REFUSED(read_text(&d, line, 3, &f), &f, FAULT_INPUT, "data.jsonl: line 1: choices", "at most 3 fit");
}

static void refuse(const char *lines, const char *place, const char *reason) {
    struct dataset d;
    fault f = {0};
    REFUSED(read_text(&d, lines, 64, &f), &f, FAULT_INPUT, place, reason);
    CHECK(d.count == 0 && !d.examples);
    dataset_free(&d);
}

static void bad_lines(void) {
    char lines[1024] = "";
    for (int i = 0; i < 6; i++) {
        strcat(lines, "{\"prompt\": \"yes\", \"completion\": \" no\"}\n");
    }
    size_t good = strlen(lines);
    strcpy(lines + good, "{\"completion\": \" no\"}\n");
    refuse(lines, "data.jsonl: line 7: prompt: ", "missing");
    strcpy(lines + good, "{\"prompt\": \"yes\", \"completion\": \" no\"\n");
    refuse(lines, "data.jsonl: line 7: column ", "not valid JSON");
    strcpy(lines + good, "{\"prompt\": \"yes\"}\n");
    refuse(lines, "data.jsonl: line 7: completion: ", "missing");
    strcpy(lines + good, "{\"text\": \"yes\"}\n");
    refuse(lines, "data.jsonl: line 7: ", "a line of {\"text\"} after lines of {\"prompt\",\"completion\"}");
    strcpy(lines + good, "[1]\n");
    refuse(lines, "data.jsonl: line 7", "not a JSON object");
    strcpy(lines + good, "{\"prompt\": \"yes\", \"completion\": \"\xff\"}\n");
    refuse(lines, "data.jsonl: line 7: column ", "decode byte 0xff");

    refuse("{\"prompt\": 1, \"completion\": \"a\"}", "line 1: prompt: ", "must be a string");
    refuse("{\"prompt\": \"a\", \"completion\": [\"a\"]}", "line 1: completion: ", "must be a string");
    refuse("{\"text\": \"\"}", "line 1: text: ", "gives no tokens");
    refuse("{\"text\": \"a\\u0000b\"}", "line 1: column ", "not valid JSON");
    refuse("{\"text\": \"a\", \"label\": 1}", "line 1: label: ", "does not go with \"text\"");
    refuse("{\"messages\": []}", "line 1: text or prompt: ", "missing");
    refuse("{\"prompt\": \"a\", \"completion\": \"b\", \"label\": 1}", "line 1: completion: ", "does not go with");
}

static void bad_choices(void) {
    refuse("{\"prompt\": \"a\", \"choices\": [\"b\", \"c\"]}", "line 1: label: ", "missing");
    refuse("{\"prompt\": \"a\", \"choices\": [\"b\", \"c\"], \"label\": null}", "line 1: label: ", "missing");
    refuse("{\"prompt\": \"a\", \"choices\": [\"b\", \"c\"], \"label\": 2}", "line 1: label: ", "is 2, must be 0 to 1");
    refuse("{\"prompt\": \"a\", \"choices\": [\"b\", \"c\"], \"label\": -1}", "line 1: label: ", "is -1");
    refuse("{\"prompt\": \"a\", \"choices\": [\"b\", \"c\"], \"label\": \"d\"}",
           "line 1: label: ", "\"d\" is none of the choices");
    refuse("{\"prompt\": \"a\", \"choices\": [\"b\", \"c\"], \"label\": 0.0}", "line 1: label: ", "must be an integer");
    refuse("{\"prompt\": \"a\", \"label\": 0}", "line 1: choices: ", "missing");
    refuse("{\"choices\": [\"b\", \"c\"], \"label\": 0}", "line 1: prompt: ", "missing");
    refuse("{\"prompt\": \"a\", \"choices\": [\"b\"], \"label\": 0}", "line 1: choices: ", "1 choices");
    refuse("{\"prompt\": \"a\", \"choices\": [\"b\", 1], \"label\": 0}",
           "line 1: choices: ", "choice 1 is not a string");
    refuse("{\"prompt\": \"a\", \"choices\": [\"b\", \"b\"], \"label\": 0}", "line 1: choices: ", "the same");
    refuse("{\"prompt\": \"a\", \"choices\": \"b\", \"label\": 0}", "line 1: choices: ", "must be a list");
}

static void empty_data(void) {
    struct dataset d;
    fault f = {0};
    refuse("", "data.jsonl", "holds no examples");
    refuse("\n \n\t\r\n", "data.jsonl", "holds no examples");
    REFUSED(dataset_read(&d, write_text("none.jsonl", ""), tokenizer, &usual, &f), &f, FAULT_INPUT, "none.jsonl",
            "holds no examples");
    REFUSED(dataset_read(&d, write_text("none.txt", ""), tokenizer, &usual, &f), &f, FAULT_INPUT, "none.txt",
            "holds no examples");
    REFUSED(dataset_read(&d, temporary("absent.txt"), tokenizer, &usual, &f), &f, FAULT_INPUT, "absent.txt",
            "No such file");
}

static void streams(void) {
    struct dataset d;
    struct dataset_options options = usual;
    fault f = {0};
    options.max_length = 3;
    CHECK(dataset_read(&d, write_text("s.txt", "yes no yes no"), tokenizer, &options, &f));
    CHECK(d.kind == DATASET_STREAM && d.count == 2 && d.tokens == 5 && d.targets == 3 && d.cut == 0);
    CHECK(SAME(d.examples[0].tokens, d.examples[0].count, BOS, SMALL__YES, SMALL__NO));
    CHECK(SAME(d.examples[1].tokens, d.examples[1].count, SMALL__YES, SMALL__NO) && d.examples[1].first_target == 1);
    dataset_free(&d);
    options.max_length = 4; // a tail of one token has no target
    CHECK(dataset_read(&d, temporary("s.txt"), tokenizer, &options, &f) && d.count == 1 && d.tokens == 4);
    dataset_free(&d);
    CHECK(dataset_read(&d, write_text("lines.jsonl", "{\"text\": \"yes\"}"), tokenizer, &usual, &f) &&
          d.kind == DATASET_TEXT);
    dataset_free(&d);
    REFUSED(dataset_read(&d, write_bytes("b.txt", "ab\xff", 3), tokenizer, &usual, &f), &f, FAULT_INPUT, "b.txt",
            "not UTF-8");
    REFUSED(dataset_read(&d, write_bytes("z.txt", "ab\0c", 4), tokenizer, &usual, &f), &f, FAULT_INPUT, "z.txt",
            "not UTF-8");
    CHECK(dataset_read(&d, write_text("lines.JSONL", "{\"text\": \"yes\"}"), tokenizer, &usual, &f) &&
          d.kind == DATASET_TEXT);
    dataset_free(&d);
    REFUSED(dataset_read(&d, write_text("d.json", "[]"), tokenizer, &usual, &f), &f, FAULT_INPUT, "d.json", "not read");
    REFUSED(dataset_read(&d, write_text("d.tsv", "a\tb"), tokenizer, &usual, &f), &f, FAULT_INPUT, "d.tsv", "not read");
}

static void vocabularies(void) {
    struct dataset d;
    struct dataset_options options = usual;
    const char *line = "{\"prompt\": \"a\", \"completion\": \" no\"}";
    fault f = {0};
    options.vocab_size = SMALL__NO;
    REFUSED(dataset_read_jsonl(&d, line, strlen(line), "data.jsonl", tokenizer, &options, &f), &f, FAULT_INPUT,
            "data.jsonl: line 1: completion", "token 290 is not in the model's vocabulary of 290");
    options.vocab_size = 2;
    REFUSED(dataset_read_jsonl(&d, line, strlen(line), "data.jsonl", tokenizer, &options, &f), &f, FAULT_INPUT,
            "tokenizer: EOS", "token 2");
    options = (struct dataset_options){.max_length = 1, .vocab_size = SMALL_TOKENS};
    REFUSED(dataset_read_jsonl(&d, line, strlen(line), "data.jsonl", tokenizer, &options, &f), &f, FAULT_USAGE,
            "max_length", "at least 2");
    struct tokenizer *plain;
    CHECK(tokenizer_load(&plain, write_small_tokenizer("plain.model", SMALL_PLAIN), &f));
    REFUSED(dataset_read_jsonl(&d, line, strlen(line), "data.jsonl", plain, &usual, &f), &f, FAULT_INPUT,
            "tokenizer: EOS", "missing");
    tokenizer_free(plain);
}

// Without BOS: the first token is no target, and something must stand before the targets.
static void without_bos(void) {
    struct tokenizer *usual_tokenizer = tokenizer;
    struct dataset d;
    fault f = {0};
    CHECK(tokenizer_load(&tokenizer, write_small_tokenizer("eos.model", SMALL_ONLY_EOS), &f));
    CHECK(read_text(&d, "{\"text\": \"yes no\"}\n{\"text\": \"a yes yes no\"}", 4, &f));
    CHECK(d.targets == 1 + 3 && d.cut == 1);
    CHECK(SAME(d.examples[0].tokens, d.examples[0].count, SMALL__YES, SMALL__NO) && d.examples[0].first_target == 1);
    CHECK(SAME(d.examples[1].tokens, d.examples[1].count, SMALL_SPACE, SMALL_A, SMALL__YES, SMALL__YES));
    dataset_free(&d);
    refuse("{\"text\": \"yes\"}", "line 1: text", "gives one token, and none to learn");
    refuse("{\"text\": \"\"}", "line 1: text", "gives no tokens");

    CHECK(read_text(&d, "{\"prompt\": \"a yes yes\", \"completion\": \" no no\"}", 5, &f) && d.cut == 1);
    CHECK(SAME(d.examples[0].tokens, d.examples[0].count, SMALL__YES, SMALL__YES, SMALL__NO, SMALL__NO, EOS));
    CHECK(d.examples[0].first_target == 2);
    dataset_free(&d);
    REFUSED(read_text(&d, "{\"prompt\": \"a yes yes\", \"completion\": \" no no\"}", 3, &f), &f, FAULT_INPUT,
            "line 1: completion", "4 tokens with one before them and EOS but without the prompt, at most 3 fit");
    refuse("{\"prompt\": \"\", \"completion\": \"yes\"}", "line 1: prompt", "no token before the first target");

    CHECK(read_text(&d, "{\"prompt\": \"a yes\", \"choices\": [\" no\", \" yes no\"], \"label\": 1}", 5, &f));
    CHECK(d.cut == 1 && d.examples[0].shared == 2 && d.examples[0].first_target == 2);
    CHECK(CHOICE_IS(&d.examples[0], 0, 2, SMALL_A, SMALL__YES, SMALL__NO, EOS));
    CHECK(CHOICE_IS(&d.examples[0], 1, 2, SMALL_A, SMALL__YES, SMALL__YES, SMALL__NO, EOS));
    dataset_free(&d);
    refuse("{\"prompt\": \"\", \"choices\": [\"yes\", \"no\"], \"label\": 0}", "line 1: prompt", "no token before");

    CHECK(dataset_read(&d, write_text("stream.txt", "a yes yes no"), tokenizer,
                       &(struct dataset_options){.max_length = 3, .vocab_size = SMALL_TOKENS}, &f));
    CHECK(d.count == 2 && SAME(d.examples[0].tokens, d.examples[0].count, SMALL_SPACE, SMALL_A, SMALL__YES));
    CHECK(SAME(d.examples[1].tokens, d.examples[1].count, SMALL__YES, SMALL__NO) && d.targets == 3);
    dataset_free(&d);
    tokenizer_free(tokenizer);
    tokenizer = usual_tokenizer;
}

static void long_line(void) {
    size_t size = ((size_t)64 << 20) + 1;
    char *line = malloc(size);
    struct dataset d;
    fault f = {0};
    memset(line, 'x', size);
    REFUSED(dataset_read_jsonl(&d, line, size, "data.jsonl", tokenizer, &usual, &f), &f, FAULT_INPUT,
            "data.jsonl: line 1", "67108865 bytes");
    free(line);
}

// The first `count` stories of the sample, stripped, as lines of {"text"}.
static const char *write_stories(const char *sample, size_t count) {
    struct mapped_file map;
    fault f = {0};
    CHECK(file_map(&map, sample, &f));
    char *stories = calloc(1, map.size + 1), *text = stories;
    memcpy(stories, map.data, map.size);
    file_unmap(&map);
    FILE *out = fopen(temporary("stories.jsonl"), "wb");
    for (size_t story = 0; story < count; story++) {
        char *end = strstr(text, "<|endoftext|>"), *next = end + strlen("<|endoftext|>");
        text += strspn(text, " \r\n\t");
        while (strchr(" \r\n\t", end[-1])) {
            end--;
        }
        *end = '\0';
        json_t *line = json_pack("{s:s}", "text", text);
        json_dumpf(line, out, JSON_COMPACT);
        fputc('\n', out);
        json_decref(line);
        text = next;
    }
    fclose(out);
    free(stories);
    return temporary("stories.jsonl");
}

// 16,247 targets: counted once with transformers on the same stories.
static void real_stories(void) {
    char model[1024];
    const char *path = real_data("real_stories", "models/stories260k");
    if (!path) {
        return;
    }
    snprintf(model, sizeof model, "%s", path);
    path = real_data("real_stories", "tinystories-sample/tinystories_2MiB.txt");
    if (!path) {
        return;
    }
    struct tokenizer *t;
    struct dataset d;
    struct dataset_options options = {.max_length = 512, .vocab_size = 512};
    fault f = {0};
    CHECK(tokenizer_load(&t, model, &f));
    CHECK(dataset_read(&d, write_stories(path, 50), t, &options, &f) && d.count == 50 && d.targets == 16247);
    dataset_free(&d);
    CHECK(dataset_read(&d, path, t, &options, &f) && d.kind == DATASET_STREAM && d.count > 1000);
    CHECK(d.targets == d.tokens - d.count);
    dataset_free(&d);
    tokenizer_free(t);
}

int main(void) {
    fault f = {0};
    CHECK(tokenizer_load(&tokenizer, write_small_tokenizer("tokenizer.model", SMALL_BOS_EOS), &f));
    texts();
    special_tokens();
    completions();
    long_prompts();
    choices();
    long_choices();
    bad_lines();
    bad_choices();
    empty_data();
    streams();
    vocabularies();
    without_bos();
    long_line();
    real_stories();
    tokenizer_free(tokenizer);
    return check_end();
}
