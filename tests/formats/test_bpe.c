// tokenizer.json: tokens and their places, what stands beside it, and files that are refused.
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../trainer/bpe.h"
#include "../../trainer/dataset.h"
#include "../../trainer/file.h"
#include "../../trainer/tokenizer.h"
#include "expect.h"

// Ids: the bytes themselves, then these.
enum { NO = 256, NON, ON, SPACE_NO, AA, BC, ABC, AB, BEGIN, END, BEGIN_MORE, LATE, TOKENS };

// A byte as the file's alphabet writes it.
static const char *letter(unsigned byte) {
    static char text[4];
    bool itself = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte != 0xad);
    unsigned others_before = byte <= 0x20 ? byte : byte < 0xa1 ? byte - 0x7f + 0x21 : 67;
    unsigned character = itself ? byte : 256 + others_before;
    snprintf(text, sizeof text, character < 0x80 ? "%c" : "%c%c",
             (char)(character < 0x80 ? character : 0xc0 | character >> 6), (char)(0x80 | (character & 0x3f)));
    return text;
}

// Merges in the order of their ranks, and a BOS before texts.
static json_t *small_file(void) {
    json_t *vocab = json_object();
    for (unsigned byte = 0; byte < 256; byte++) {
        json_object_set_new(vocab, letter(byte), json_integer(byte));
    }
    static const char *const words[] = {"no", "non", "on", "\xc4\xa0no", "aa", "bc", "abc", "ab"};
    for (int i = 0; i < BEGIN - NO; i++) {
        json_object_set_new(vocab, words[i], json_integer(NO + i));
    }
    json_t *merges = json_pack("[s, [s, s], s, s, s, s, s, s]", "n o", "no", "n", "o n", "\xc4\xa0 no", "a a", "b c",
                               "a bc", "a b");
    json_t *model = json_pack("{s:s, s:o, s:o}", "type", "BPE", "vocab", vocab, "merges", merges);
    json_t *added = json_pack("[{s:i, s:s}, {s:i, s:s, s:b}, {s:i, s:s}, {s:i, s:s, s:b}]", "id", BEGIN, "content",
                              "<begin>", "id", END, "content", "<end>", "normalized", 1, "id", BEGIN_MORE, "content",
                              "<begin>!", "id", LATE, "content", "d<begin>", "normalized", 1);
    json_t *template = json_pack("{s:s, s:[{s:{s:s}}, {s:{s:s}}]}", "type", "TemplateProcessing", "single",
                                 "SpecialToken", "id", "<begin>", "Sequence", "id", "A");
    return json_pack("{s:n, s:o, s:o, s:{s:s, s:b}, s:o}", "normalizer", "model", model, "added_tokens", added,
                     "pre_tokenizer", "type", "ByteLevel", "add_prefix_space", 0, "post_processor", template);
}

static const char *write_json(const char *name, json_t *root) {
    char *text = json_dumps(root, 0);
    const char *path = write_text(name, text);
    free(text);
    json_decref(root);
    return path;
}

static bool gives(const struct tokenizer *t, const char *text, const char *want) {
    struct token_list list = {0};
    char got[512] = "";
    fault f = {0};
    bool done = tokenizer_encode(t, text, strlen(text), &list, &f);
    for (size_t i = 0; i < list.count; i++) {
        size_t length = strlen(got);
        snprintf(got + length, sizeof got - length, "%s%u:%zu", i ? " " : "", list.ids[i], list.ends[i]);
    }
    char *back = NULL;
    size_t length;
    done = done && tokenizer_decode(t, list.ids, list.count, &back, &length, &f) && length == strlen(text) &&
           strcmp(back, text) == 0;
    free(back);
    token_list_free(&list);
    if (strcmp(got, want) != 0) {
        printf("\"%s\" gives %s\n", text, got);
    }
    return done && strcmp(got, want) == 0;
}

static void encoding(void) {
    struct tokenizer *t;
    fault f = {0};
    CHECK(tokenizer_load(&t, write_json("tokenizer.json", small_file()), &f));
    CHECK(tokenizer_vocab_size(t) == TOKENS && tokenizer_bos(t) == BEGIN && tokenizer_eos(t) == -1);
    CHECK(gives(t, "", ""));
    CHECK(gives(t, "no", "256:2"));
    CHECK(gives(t, "onon", "111:1 257:4"));    // "no" ranks before "on", and then takes "n"
    CHECK(gives(t, "aaa", "260:2 97:3"));      // equal ranks: from the left
    CHECK(gives(t, "abcb", "262:3 98:4"));     // "a" has become "abc" when the turn is at "ab"
    CHECK(gives(t, "on  no", "258:2 32:3 259:6")); // of two spaces the last goes with the word
    CHECK(gives(t, "\xc3\xa9", "195:2 169:2")); // both bytes end where the character does
    CHECK(gives(t, "n<begin>o<end>n", "110:1 264:8 111:9 265:14 110:15"));
    CHECK(gives(t, "<begin>!<begin>?", "266:8 264:15 63:16")); // the longest
    CHECK(gives(t, "d<begin>", "100:1 264:8"));                // normalized ones only in what the others leave
    CHECK(gives(t, "<begin", "60:1 98:2 101:3 103:4 105:5 110:6"));
    REFUSED(tokenizer_encode(t, "no", (size_t)1 << 30, &(struct token_list){0}, &f), &f, FAULT_INPUT, "tokenizer.json",
            "too long");
    char *text;
    size_t length;
    REFUSED(tokenizer_decode(t, (uint32_t[]){TOKENS}, 1, &text, &length, &f), &f, FAULT_INPUT, "tokenizer.json",
            "token 268 is not in the vocabulary");
    tokenizer_free(t);
}

// EOS by the name in tokenizer_config.json, else by the number in config.json.
static void neighbours(void) {
    struct tokenizer *t;
    fault f = {0};
    char folder[FILE_PATH_MAX];
    CHECK(file_make_folders(temporary("model"), &f));
    snprintf(folder, sizeof folder, "%s", temporary("model"));
    REFUSED(tokenizer_load(&t, folder, &f), &f, FAULT_INPUT, "model/tokenizer.model", "no tokenizer.json either");
    write_json("model/tokenizer.json", small_file());
    CHECK(tokenizer_load(&t, folder, &f) && tokenizer_eos(t) == -1);
    tokenizer_free(t);
    write_text("model/config.json", "{\"eos_token_id\": [7, 8]}");
    CHECK(tokenizer_load(&t, folder, &f) && tokenizer_eos(t) == 7);
    tokenizer_free(t);
    write_text("model/tokenizer_config.json", "{\"eos_token\": null}");
    CHECK(tokenizer_load(&t, folder, &f) && tokenizer_eos(t) == 7);
    tokenizer_free(t);
    write_text("model/tokenizer_config.json", "{\"eos_token\": \"<end>\"}");
    CHECK(tokenizer_load(&t, folder, &f) && tokenizer_eos(t) == END);
    tokenizer_free(t);
    write_text("model/tokenizer_config.json", "{\"eos_token\": {\"content\": \"no\"}}");
    CHECK(tokenizer_load(&t, folder, &f) && tokenizer_eos(t) == NO);
    tokenizer_free(t);
    write_text("model/tokenizer_config.json", "{\"eos_token\": \"<stop>\"}");
    REFUSED(tokenizer_load(&t, folder, &f), &f, FAULT_INPUT, "eos_token of tokenizer_config.json", "\"<stop>\"");
    write_text("model/tokenizer_config.json", "{}");
    write_text("model/config.json", "{\"eos_token_id\": 268}");
    REFUSED(tokenizer_load(&t, folder, &f), &f, FAULT_INPUT, "tokenizer.json: EOS", "not in the vocabulary of 268");
}

// Without BOS, "on" and "on" are "o", "non", but "on" and "x" begin with "on": no token is shared.
static void choices_apart(void) {
    struct tokenizer *t;
    struct dataset d;
    const struct dataset_options options = {.max_length = 8, .vocab_size = TOKENS};
    const char *line = "{\"prompt\": \"on\", \"choices\": [\"on\", \"x\"], \"label\": 0}";
    fault f = {0};
    json_t *file = small_file();
    json_object_del(file, "post_processor");
    CHECK(file_make_folders(temporary("apart"), &f));
    write_text("apart/tokenizer_config.json", "{\"eos_token\": \"<end>\"}");
    CHECK(tokenizer_load(&t, write_json("apart/tokenizer.json", file), &f) && tokenizer_bos(t) == -1);
    REFUSED(dataset_read_jsonl(&d, line, strlen(line), "d", t, &options, &f), &f, FAULT_INPUT, "line 1: prompt",
            "the choices share none of its tokens");
    tokenizer_free(t);
}

// What is loaded of a file, or NULL and f.
static struct bpe *parsed(json_t *root, fault *f) {
    char *text = json_dumps(root, 0);
    struct bpe *b;
    bpe_parse(&b, text, strlen(text), "t.json", f);
    free(text);
    json_decref(root);
    return b;
}

// One field of the small file, as a path of names and indices, becomes this; NULL: is gone. What was loaded, or NULL.
static struct bpe *changed(const char *path, const char *value, fault *f) {
    json_t *root = small_file(), *place = root;
    char names[128], *rest = names, *name;
    snprintf(names, sizeof names, "%s", path);
    while ((name = strsep(&rest, "/")) && rest) {
        place = json_is_array(place) ? json_array_get(place, (size_t)atoi(name)) : json_object_get(place, name);
    }
    json_t *now = value ? json_loads(value, JSON_DECODE_ANY, NULL) : NULL;
    if (json_is_array(place)) {
        json_array_set_new(place, (size_t)atoi(name), now);
    } else if (now) {
        json_object_set_new(place, name, now);
    } else {
        json_object_del(place, name);
    }
    return parsed(root, f);
}

// A Sequence of Split with a pattern and ByteLevel without its own.
#define SPLIT(pattern)                                                                                                 \
    "{\"type\": \"Sequence\", \"pretokenizers\":"                                                                      \
    " [{\"type\": \"Split\", \"behavior\": \"Isolated\", \"pattern\": {\"Regex\": \"" pattern "\"}},"                  \
    " {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": false}]}"

static void refused(void) {
    static const struct {
        const char *path, *value, *field, *reason;
    } cases[] = {
        {"model", NULL, "model", "missing"},
        {"model/type", "\"WordPiece\"", "model.type", "\"WordPiece\" is not supported"},
        {"model/dropout", "0.1", "model.dropout", ""},
        {"model/end_of_word_suffix", "\"</w>\"", "model.end_of_word_suffix", "not supported"},
        {"model/continuing_subword_prefix", "\"##\"", "model.continuing_subword_prefix", "not supported"},
        {"model/vocab", NULL, "model.vocab", "missing"},
        {"model/vocab/no", "-1", "model.vocab", "the id of \"no\""},
        {"model/vocab/no", "1.5", "model.vocab", "the id of \"no\""},
        {"model/vocab/no", "16777216", "model.vocab", "the id of \"no\""},
        {"model/vocab/no", "257", "model.vocab", "has another token's id"},
        {"model/vocab/no", "9000000", "model.vocab", "ids up to 9000000"},
        {"model/vocab/", "300", "model.vocab", "token 300 is empty"},
        {"model/merges", NULL, "model.merges", "missing"},
        {"model/merges/0", "\"no\"", "model.merges", "merge 0 is no pair"},
        {"model/merges/1", "\"n o n\"", "model.merges", "merge 1 is no pair"},
        {"model/merges/2", "[\"n\"]", "model.merges", "merge 2 is no pair"},
        {"model/merges/2", "[\"n\", 1]", "model.merges", "merge 2 is no pair"},
        {"model/merges/2", "\"o o\"", "model.merges", "\"oo\" is no token"},
        {"model/merges/2", "\"on on\"", "model.merges", "\"onon\" is no token"},
        {"added_tokens/0/content", NULL, "added_tokens", "token 0 has no content"},
        {"added_tokens/0/content", "\"\"", "added_tokens", "token 0 has no content"},
        {"added_tokens/0/id", "\"1\"", "added_tokens", "the id of \"<begin>\""},
        {"added_tokens/0/id", "65", "added_tokens.id", "\"<begin>\" and another token have 65"},
        {"added_tokens/0/id", "266", "added_tokens.id", "\"<begin>!\" and another token have 266"},
        {"added_tokens/0/content", "\"no\"", "added_tokens.id", "\"no\" and another token have 264"},
        {"added_tokens/1/lstrip", "true", "added_tokens.lstrip", "not supported"},
        {"added_tokens/1/rstrip", "true", "added_tokens.rstrip", "not supported"},
        {"added_tokens/1/single_word", "true", "added_tokens.single_word", "not supported"},
        {"normalizer", "{\"type\": \"NFC\"}", "normalizer.type", "not supported"},
        {"normalizer", "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFC\"}]}", "normalizer.type",
         "not supported"},
        {"pre_tokenizer", NULL, "pre_tokenizer", "must end in \"ByteLevel\""},
        {"pre_tokenizer/type", "\"Whitespace\"", "pre_tokenizer.type", "\"Whitespace\" is not supported"},
        {"pre_tokenizer/add_prefix_space", "true", "pre_tokenizer.add_prefix_space", "not supported"},
        {"pre_tokenizer", "{\"type\": \"Digits\"}", "pre_tokenizer", "must end in \"ByteLevel\""},
        {"pre_tokenizer", "{\"type\": \"Sequence\"}", "pre_tokenizer.pretokenizers", "missing"},
        {"pre_tokenizer",
         "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"ByteLevel\"}, {\"type\": \"Digits\"}]}",
         "pre_tokenizer.type", "after \"ByteLevel\""},
        {"pre_tokenizer", "{\"type\": \"Split\", \"behavior\": \"Removed\", \"pattern\": {\"String\": \"a\"}}",
         "pre_tokenizer.behavior", "\"Removed\" is not supported"},
        {"pre_tokenizer", "{\"type\": \"Split\", \"behavior\": \"Isolated\", \"pattern\": {\"Regex\": \"(\"}}",
         "pre_tokenizer.pattern", "does not compile"},
        {"pre_tokenizer", SPLIT("a*"), "pre_tokenizer.pattern", "matches the empty text"},
        {"pre_tokenizer", SPLIT("\\\\p{N}{1,3}+"), "pre_tokenizer.pattern", "\"}+\" in a pattern"},
        {"pre_tokenizer", SPLIT("a{,3}b"), "pre_tokenizer.pattern", "\"{,\" in a pattern"},
        {"pre_tokenizer", SPLIT("[^\\\\w ]+"), "pre_tokenizer.pattern", "\\w\" in a pattern"},
        {"pre_tokenizer", SPLIT("(?i-m:a)"), "pre_tokenizer.pattern", "\"(?m\" in a pattern"},
        {"pre_tokenizer", SPLIT("[a[bc]]"), "pre_tokenizer.pattern", "\"[ [\" in a pattern"},
        {"pre_tokenizer", SPLIT("\\\\C"), "pre_tokenizer.pattern", "does not compile"},
        {"pre_tokenizer", "{\"type\": \"Split\", \"behavior\": \"Isolated\", \"pattern\": {}}",
         "pre_tokenizer.pattern.Regex", "missing"},
        {"post_processor/type", "\"BertProcessing\"", "post_processor.type", "\"BertProcessing\" is not supported"},
        {"post_processor/single", "[]", "post_processor.single", "only a text"},
        {"post_processor/single/0/SpecialToken/id", "\"<x>\"", "post_processor.single", "\"<x>\" is no token"},
        {"post_processor/single", "[{\"Sequence\": {\"id\": \"A\"}}, {\"SpecialToken\": {\"id\": \"<end>\"}}]",
         "post_processor.single", "only a text"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fault f = {0};
        struct bpe *b = changed(cases[i].path, cases[i].value, &f);
        REFUSED(b, &f, FAULT_INPUT, cases[i].field, cases[i].reason);
        bpe_free(b);
    }
}

static struct bpe *without_x(const char *field, const char *value, fault *f) {
    json_t *root = small_file(), *model = json_object_get(root, "model");
    json_object_del(json_object_get(model, "vocab"), "x");
    json_object_set_new(model, field, json_loads(value, JSON_DECODE_ANY, NULL));
    return parsed(root, f);
}

// A byte without a token is left out, and what it parted may merge, or unk_token stands for it.
static void missing_bytes(void) {
    fault f = {0};
    struct token_list list = {0};
    struct bpe *b = without_x("byte_fallback", "false", &f);
    CHECK(b && bpe_encode(b, "nxo", 3, &list, &f) && list.count == 1 && list.ids[0] == NO && list.ends[0] == 3);
    CHECK(bpe_encode(b, "xx", 2, &list, &f) && list.count == 0);
    bpe_free(b);
    b = without_x("unk_token", "\"<end>\"", &f);
    CHECK(b && bpe_encode(b, "nxo", 3, &list, &f) && list.count == 3 && list.ids[1] == END);
    bpe_free(b);
    REFUSED(without_x("unk_token", "\"<unk>\"", &f), &f, FAULT_INPUT, "model.unk_token", "\"<unk>\" is no token");
    REFUSED(without_x("fuse_unk", "true", &f), &f, FAULT_INPUT, "model.fuse_unk", "not supported");
    REFUSED(without_x("byte_fallback", "true", &f), &f, FAULT_INPUT, "model.byte_fallback", "not supported");
    b = changed("model/unk_token", "\"<unk>\"", &f); // never needed
    CHECK(b && b->unknown == BPE_NONE);
    bpe_free(b);
    token_list_free(&list);
}

// What is not given, and steps that do nothing.
static void variants(void) {
    fault f = {0};
    struct token_list list = {0};
    struct bpe *b = changed("post_processor", NULL, &f);
    CHECK(b && b->bos == BPE_NONE);
    bpe_free(b);
    b = changed("normalizer", "{\"type\": \"Sequence\", \"normalizers\": []}", &f);
    CHECK(b && bpe_encode(b, "no", 2, &list, &f) && list.count == 1);
    bpe_free(b);
    b = changed("pre_tokenizer", SPLIT("\\\\p{N}{1,3}|[\\\\p{L}[:digit:]}+]+|\\\\s+(?!\\\\S)"), &f);
    CHECK(b && bpe_encode(b, "no+1234", 7, &list, &f) && list.count == 6);
    bpe_free(b);
    // A pair that is there twice has the later rank: "on" now comes before "no".
    b = changed("model/merges", "[\"n o\", \"o n\", \"n o\"]", &f);
    CHECK(b && b->merge_count == 2 && bpe_encode(b, "ono", 3, &list, &f) && list.count == 2 && list.ids[0] == ON);
    bpe_free(b);
    // Whole words first: "non" is a token, though no merge leads to it.
    b = changed("model/merges", "[]", &f);
    CHECK(b && bpe_encode(b, "non", 3, &list, &f) && list.count == 3);
    b->whole_words_first = true;
    CHECK(bpe_encode(b, "non", 3, &list, &f) && list.count == 1 && list.ids[0] == NON && list.ends[0] == 3);
    bpe_free(b);
    token_list_free(&list);
}

int main(void) {
    encoding();
    neighbours();
    choices_apart();
    refused();
    missing_bytes();
    variants();
    return check_end();
}
