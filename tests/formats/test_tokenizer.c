// tokenizer.h: tokens and their places in the text, text back, and files that are no tokenizer.
#include "../../trainer/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../trainer/file.h"
#include "expect.h"
#include "small_tokenizer.h"

static bool gives(const struct tokenizer *t, const char *text, size_t count, const uint32_t *ids, const size_t *ends) {
    struct token_list list = {0};
    fault f = {0};
    bool same = tokenizer_encode(t, text, strlen(text), &list, &f) && list.count == count;
    for (size_t i = 0; same && i < count; i++) {
        same = list.ids[i] == ids[i] && list.ends[i] == ends[i];
    }
    token_list_free(&list);
    return same;
}

#define GIVES(t, text, ids, ends)                                                                                      \
    (sizeof(ids) / sizeof(uint32_t) == sizeof(ends) / sizeof(size_t) &&                                                \
     gives(t, text, sizeof(ids) / sizeof(uint32_t), ids, ends))

static void small(void) {
    struct tokenizer *t;
    fault f = {0};
    CHECK(tokenizer_load(&t, write_small_tokenizer("tokenizer.model", SMALL_BOS_EOS), &f));
    CHECK(tokenizer_vocab_size(t) == SMALL_TOKENS);
    CHECK(tokenizer_bos(t) == 1 && tokenizer_eos(t) == 2);
    CHECK(GIVES(t, "yes no", ((uint32_t[]){SMALL__YES, SMALL__NO}), ((size_t[]){3, 6})));
    CHECK(GIVES(t, "ayes", ((uint32_t[]){SMALL_SPACE, SMALL_A, SMALL_YES}), ((size_t[]){0, 1, 4})));
    // The euro sign is no piece: three byte tokens, all ending where the character ends; so too for two of them.
    CHECK(GIVES(t, "a\xe2\x82\xac",
                ((uint32_t[]){SMALL_SPACE, SMALL_A, SMALL_BYTE + 0xe2, SMALL_BYTE + 0x82, SMALL_BYTE + 0xac}),
                ((size_t[]){0, 1, 4, 4, 4})));
    CHECK(GIVES(t, "a\xc3\xa9\xc3\xa9",
                ((uint32_t[]){SMALL_SPACE, SMALL_A, SMALL_BYTE + 0xc3, SMALL_BYTE + 0xa9, SMALL_BYTE + 0xc3,
                              SMALL_BYTE + 0xa9}),
                ((size_t[]){0, 1, 3, 3, 5, 5})));

    struct token_list list = {0};
    CHECK(tokenizer_encode(t, NULL, 0, &list, &f) && list.count == 0);
    CHECK(tokenizer_encode(t, "no yes yes no", 13, &list, &f) && list.count == 4);
    CHECK(tokenizer_encode(t, "no", 2, &list, &f) && list.count == 1 && list.capacity >= 4);
    REFUSED(tokenizer_encode(t, "no", (size_t)1 << 30, &list, &f), &f, FAULT_INPUT, "tokenizer.model", "too long");
    token_list_free(&list);

    char *text;
    size_t length;
    CHECK(tokenizer_decode(t, (uint32_t[]){SMALL__YES, SMALL__NO}, 2, &text, &length, &f));
    CHECK(length == 6 && strcmp(text, "yes no") == 0);
    free(text);
    CHECK(tokenizer_decode(t, (uint32_t[]){SMALL_A, SMALL_BYTE, SMALL_A}, 3, &text, &length, &f));
    CHECK(length == 3 && memcmp(text, "a\0a", 4) == 0); // a zero byte is one like others
    free(text);
    CHECK(tokenizer_decode(t, NULL, 0, &text, &length, &f) && strcmp(text, "") == 0);
    free(text);
    REFUSED(tokenizer_decode(t, (uint32_t[]){SMALL_TOKENS}, 1, &text, &length, &f), &f, FAULT_INPUT, "tokenizer.model",
            "token 291 is not in the vocabulary");
    tokenizer_free(t);
}

static void vocabularies(void) {
    struct tokenizer *t;
    fault f = {0};
    CHECK(tokenizer_load(&t, write_small_tokenizer("tokenizer.model", SMALL_BOS_EOS), &f));
    CHECK(tokenizer_fits(t, SMALL_TOKENS, &f) && tokenizer_fits(t, 320, &f) && tokenizer_fits(t, 384, &f));
    REFUSED(tokenizer_fits(t, SMALL_TOKENS - 1, &f), &f, FAULT_INPUT, "tokenizer.model: vocabulary",
            "291 tokens, but the model has 290");
    REFUSED(tokenizer_fits(t, 385, &f), &f, FAULT_INPUT, "tokenizer.model: vocabulary", "do not belong together");
    tokenizer_free(t);
    CHECK(tokenizer_load(&t, write_small_tokenizer("plain.model", SMALL_PLAIN), &f));
    CHECK(tokenizer_bos(t) == -1 && tokenizer_eos(t) == -1);
    tokenizer_free(t);
}

static bool holds(const struct tokenizer *t, const char *text, const char *special) {
    const char *found = tokenizer_special_as_text(t, text, strlen(text));
    return special ? found && strcmp(found, special) == 0 : !found;
}

// A folder with both files: the pieces are those of the model, what the other one adds is looked for.
static void both_files(void) {
    struct tokenizer *t;
    fault f = {0};
    char folder[FILE_PATH_MAX];
    CHECK(file_make_folders(temporary("both"), &f));
    snprintf(folder, sizeof folder, "%s", temporary("both"));
    write_small_tokenizer("both/tokenizer.model", SMALL_BOS_EOS);
    CHECK(tokenizer_load(&t, folder, &f) && holds(t, "a<|say|>", NULL) && holds(t, "a</s>", "</s>"));
    CHECK(!tokenizer_special_as_text(t, NULL, 0));
    tokenizer_free(t);
    write_text("both/tokenizer.json", "{\"added_tokens\": [{\"id\": 1, \"content\": \"<s>\"}, {}, {\"content\": \"\"},"
                                      " {\"id\": 291, \"content\": \"<|say|>\"}]}");
    CHECK(tokenizer_load(&t, folder, &f) && tokenizer_vocab_size(t) == SMALL_TOKENS);
    CHECK(holds(t, "yes", NULL) && holds(t, "a<|say|>", "<|say|>") && holds(t, "<s>", "<s>"));
    tokenizer_free(t);
    write_text("both/tokenizer.json", "{");
    REFUSED(tokenizer_load(&t, folder, &f), &f, FAULT_INPUT, "both/tokenizer.json", "not valid JSON");
}

static void bad_files(void) {
    struct tokenizer *t;
    fault f = {0};
    REFUSED(tokenizer_load(&t, temporary("absent.model"), &f), &f, FAULT_INPUT, "absent.model", "No such file");
    CHECK(file_make_folders(temporary("folder"), &f));
    REFUSED(tokenizer_load(&t, temporary("folder"), &f), &f, FAULT_INPUT, "folder/tokenizer.model",
            "no tokenizer.json either");
    REFUSED(tokenizer_load(&t, write_text("empty.model", ""), &f), &f, FAULT_INPUT, "empty.model",
            "not a SentencePiece model");
    REFUSED(tokenizer_load(&t, write_text("text.model", "{\"model\": 1}"), &f), &f, FAULT_INPUT, "text.model",
            "not a SentencePiece model");

    struct mapped_file map;
    CHECK(file_map(&map, write_small_tokenizer("whole.model", SMALL_BOS_EOS), &f));
    REFUSED(tokenizer_load(&t, write_bytes("cut.model", map.data, map.size / 2 + 1), &f), &f, FAULT_INPUT, "cut.model",
            "not a SentencePiece model");
    file_unmap(&map);
    CHECK(!t);
    tokenizer_free(t);
}

static void real_tokenizer(void) {
    const char *path = real_data("real_tokenizer", "models/stories260k");
    struct tokenizer *t;
    struct token_list list = {0};
    fault f = {0};
    if (!path) {
        return;
    }
    size_t length;
    const char *story = "Once upon a time, there was a girl.\nShe said: \"caf\xc3\xa9\"";
    char *text;
    CHECK(tokenizer_load(&t, path, &f) && tokenizer_fits(t, 512, &f));
    CHECK(tokenizer_encode(t, story, strlen(story), &list, &f) && list.count > 10);
    CHECK(list.ends[list.count - 1] == strlen(story));
    CHECK(tokenizer_decode(t, list.ids, list.count, &text, &length, &f) && strcmp(text, story) == 0);
    free(text);
    token_list_free(&list);
    tokenizer_free(t);
}

int main(void) {
    small();
    vocabularies();
    both_files();
    bad_files();
    real_tokenizer();
    return check_end();
}
