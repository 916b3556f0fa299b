// What a tokenizer makes of texts: tokens TOKENIZER BACK <TEXTS, texts ended by zero bytes. Prints BOS, EOS and
// the size of the vocabulary, then "id:end id:end ..." for each text, in a line; BACK gets each text as its tokens give
// it back, ended by a zero byte.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../trainer/tokenizer.h"

static bool print_tokens(const struct tokenizer *t, const char *text, struct token_list *list, FILE *back, fault *f) {
    char *again;
    size_t length;
    if (!tokenizer_encode(t, text, strlen(text), list, f) ||
        !tokenizer_decode(t, list->ids, list->count, &again, &length, f)) {
        return false;
    }
    for (size_t i = 0; i < list->count; i++) {
        printf("%s%" PRIu32 ":%zu", i ? " " : "", list->ids[i], list->ends[i]);
    }
    putchar('\n');
    fwrite(again, 1, length + 1, back);
    free(again);
    return true;
}

static bool print_all(const char *tokenizer, FILE *back, fault *f) {
    struct tokenizer *t;
    struct token_list list = {0};
    char *text = NULL;
    size_t capacity = 0;
    if (!tokenizer_load(&t, tokenizer, f)) {
        return false;
    }
    printf("%" PRId32 " %" PRId32 " %" PRIu32 "\n", tokenizer_bos(t), tokenizer_eos(t), tokenizer_vocab_size(t));
    bool done = true;
    while (done && getdelim(&text, &capacity, 0, stdin) > 0) {
        done = print_tokens(t, text, &list, back, f);
    }
    free(text);
    token_list_free(&list);
    tokenizer_free(t);
    return done;
}

int main(int count, char **arguments) {
    fault f = {0};
    FILE *back = count == 3 ? fopen(arguments[2], "wb") : NULL;
    if (!back || !print_all(arguments[1], back, &f)) {
        fprintf(stderr, "tokens: %s\n", back ? f.text : "TOKENIZER BACK are needed");
        return 1;
    }
    return fclose(back) != 0;
}
