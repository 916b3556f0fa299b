// Any bytes are a tokenizer.json that is refused, or a tokenizer whose tokens cover every text, end where characters
// do, and give the text back.
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "../../trainer/bpe.h"
#include "../../trainer/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool kept) {
    if (!kept) {
        abort();
    }
}

static void check_back(const struct bpe *b, const char *text, size_t length, const struct token_list *list) {
    char *back;
    size_t bytes;
    fault f = {0};
    check(bpe_decode(b, list->ids, list->count, &back, &bytes, &f));
    // An added token may share its id with a word of other bytes; a byte may have no token.
    bool all = b->unknown == BPE_NONE && !b->added_count;
    for (size_t i = 0; i < length; i++) {
        all = all && b->byte_tokens[(uint8_t)text[i]] != BPE_NONE;
    }
    check(!all || (bytes == length && memcmp(back, text, length) == 0 && list->ends[list->count - 1] == length));
    free(back);
}

static void check_text(const struct bpe *b, const char *text, size_t length) {
    struct token_list list = {0};
    fault f = {0};
    if (bpe_encode(b, text, length, &list, &f)) {
        size_t end = 0;
        for (size_t i = 0; i < list.count; i++) {
            check(list.ids[i] < b->count && b->tokens[list.ids[i]].bytes && list.ends[i] >= end);
            end = list.ends[i];
            check(end == length || ((uint8_t)text[end] & 0xc0) != 0x80);
        }
        check_back(b, text, length, &list);
    } else {
        check(f.status && f.text[0]);
    }
    token_list_free(&list);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char fixed[] = "ab  abc 12\n<e> it's \xc3\xa9\xe2\x82\xac abababab";
    struct bpe *b;
    fault f = {0};
    if (!bpe_parse(&b, data, size, "fuzz", &f)) {
        check(f.status && f.text[0] && !b);
        return 0;
    }
    check(b->count > 0 && b->count <= 1 << 24 && (b->bos == BPE_NONE || b->bos < b->count) && b->eos == BPE_NONE);
    check_text(b, fixed, sizeof fixed - 1);
    size_t tail = size < 64 ? size : 64;
    json_t *text = json_stringn((const char *)data + size - tail, tail); // NULL if it is not UTF-8
    if (text && !memchr(data + size - tail, 0, tail)) {
        check_text(b, json_string_value(text), tail);
    }
    json_decref(text);
    bpe_free(b);
    return 0;
}
