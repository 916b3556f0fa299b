// Any bytes are a .jsonl file that is refused, or examples that fit their limits. The tokenizer is one of single bytes,
// where a byte of 0x80 or more is a token beyond the vocabulary; it has a BOS for every other size of the file.
#include <stdlib.h>
#include <string.h>

#include "../../trainer/dataset.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { BYTES = 128, BOS = BYTES, EOS, TOKENS, MAX_LENGTH = 24 };

static bool has_bos;

int32_t tokenizer_bos(const struct tokenizer *t) {
    (void)t;
    return has_bos ? BOS : -1;
}

int32_t tokenizer_eos(const struct tokenizer *t) {
    (void)t;
    return EOS;
}

const char *tokenizer_special_as_text(const struct tokenizer *t, const char *text, size_t length) {
    (void)t;
    return memmem(text, length, "</s>", 4) ? "</s>" : NULL;
}

bool tokenizer_encode(const struct tokenizer *t, const char *text, size_t length, struct token_list *out, fault *f) {
    (void)t;
    (void)f;
    token_list_free(out);
    out->ids = malloc((length + 1) * sizeof *out->ids);
    out->ends = malloc((length + 1) * sizeof *out->ends);
    // Two letters "ab" are one token, so that a prompt and its completion can meet inside a token.
    for (size_t i = 0; i < length; out->count++) {
        bool pair = i + 1 < length && text[i] == 'a' && text[i + 1] == 'b';
        uint8_t byte = (uint8_t)text[i];
        out->ids[out->count] = pair ? 0 : byte < BYTES ? byte : TOKENS;
        out->ends[out->count] = i += pair ? 2 : 1;
    }
    return true;
}

void token_list_free(struct token_list *list) {
    free(list->ids);
    free(list->ends);
    *list = (struct token_list){0};
}

static void check(bool kept) {
    if (!kept) {
        abort();
    }
}

static void check_tokens(const uint32_t *tokens, size_t count) {
    for (size_t i = 0; i < count; i++) {
        check(tokens[i] < TOKENS);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const struct dataset_options options = {.max_length = MAX_LENGTH, .vocab_size = TOKENS};
    struct dataset d;
    fault f = {0};
    has_bos = size % 2;
    if (!dataset_read_jsonl(&d, data, size, "fuzz", NULL, &options, &f)) {
        check(f.status && f.text[0] && d.count == 0);
        return 0;
    }
    check(d.count > 0 && d.as_text <= d.count && !d.as_text == !*d.special);
    for (size_t i = 0; i < d.count; i++) {
        const struct example *e = &d.examples[i];
        check(e->count <= MAX_LENGTH && e->first_target >= 1 && e->first_target < e->count);
        check(!has_bos || e->tokens[0] == BOS);
        check(e->shared >= 1 && e->shared <= e->first_target && (e->n_choices == 0 || e->label < e->n_choices));
        check_tokens(e->tokens, e->count);
        for (size_t c = 0; c < e->n_choices; c++) {
            const struct example_choice *choice = &e->choices[c];
            check(choice->first_target < choice->count && e->shared + choice->count <= MAX_LENGTH);
            check_tokens(choice->tokens, choice->count);
        }
    }
    dataset_free(&d);
    return 0;
}
