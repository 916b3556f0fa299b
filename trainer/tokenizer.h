// Text to tokens and back, by SentencePiece or byte-level BPE.
#ifndef LODROP_TRAINER_TOKENIZER_H
#define LODROP_TRAINER_TOKENIZER_H

#include <stdint.h>

#include "fault.h"

struct tokenizer;

// path: a tokenizer.model (SentencePiece) or *.json (byte-level BPE), or the folder that holds tokenizer.model or, if
// it has none, tokenizer.json.
bool tokenizer_load(struct tokenizer **loaded, const char *path, fault *f);
void tokenizer_free(struct tokenizer *t);

uint32_t tokenizer_vocab_size(const struct tokenizer *t);
int32_t tokenizer_bos(const struct tokenizer *t); // -1: it has none
int32_t tokenizer_eos(const struct tokenizer *t);

// Tokens of a text without BOS or EOS. ends[i] is the byte of the text that follows token i; all byte tokens of one
// character end where the character ends. Zero it before the first use; encoding into it again keeps its memory.
struct token_list {
    uint32_t *ids;
    size_t *ends;
    size_t count;
    size_t capacity;
};

void token_list_free(struct token_list *list);
bool token_list_reserve(struct token_list *list, size_t count); // room for so many; false: no memory

// text: UTF-8, `length` bytes, less than 1 GiB.
bool tokenizer_encode(const struct tokenizer *t, const char *text, size_t length, struct token_list *out, fault *f);

// The text of a special token (BOS, EOS, one that tokenizer.json adds) that stands in a text and is tokenised like it,
// where Hugging Face's tokenizers take it for the token; NULL: there is none. Byte-level BPE does as they do.
const char *tokenizer_special_as_text(const struct tokenizer *t, const char *text, size_t length);

// The text of tokens, *length bytes, which may be zero bytes, too, and no UTF-8, and a zero byte behind them. The
// caller frees *text.
bool tokenizer_decode(const struct tokenizer *t, const uint32_t *ids, size_t count, char **text, size_t *length,
                      fault *f);

// The tokenizer fits a model of that vocabulary: every token has a row, and no more rows than a 32nd of them have no
// token, rounded up to a multiple of 128 rows in all (models pad their vocabulary, for speed or for tokens to come).
bool tokenizer_fits(const struct tokenizer *t, uint32_t model_vocab_size, fault *f);

#endif
