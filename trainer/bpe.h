// Byte-level byte-pair encoding (Sennrich et al., 1508.07909, on bytes): patterns part a text into words, and in each
// word the pair of neighbours that ranks first becomes one token, until no pair is left that merges.
#ifndef LODROP_TRAINER_BPE_H
#define LODROP_TRAINER_BPE_H

#include <stdint.h>

#include "fault.h"
#include "split.h"

struct token_list;

#define BPE_NONE UINT32_MAX // no token

struct bpe_token {
    const char *bytes; // NULL: the vocabulary has a hole here
    uint32_t length;
};

struct bpe_word {
    const char *bytes;
    uint32_t length;
    uint32_t token;
};

struct bpe_merge {
    uint64_t pair; // bpe_pair of the two
    uint32_t rank;
    uint32_t token; // what they become
};

// A token that is found in the text as it stands, before anything else; late: only where no other of these is.
struct bpe_added {
    uint32_t token;
    bool late;
};

struct bpe {
    char *file; // for faults
    struct bpe_token *tokens;
    uint32_t count; // of tokens: one more than the highest
    struct bpe_word *words; // the vocabulary, by bpe_compare_words
    size_t word_count;
    struct bpe_merge *merges; // by bpe_compare_pairs, each pair once
    size_t merge_count;
    struct bpe_added *added;
    size_t added_count;
    bool added_begins[256]; // with this byte one of them does
    struct splits splits;
    uint32_t byte_tokens[256]; // BPE_NONE: unknown stands for it
    uint32_t unknown;          // BPE_NONE: such a byte is left out
    bool whole_words_first; // a word that is a token is not merged from its bytes
    uint32_t bos, eos;      // BPE_NONE: it has none
    char *bytes;            // of all tokens
};

static inline uint64_t bpe_pair(uint32_t left, uint32_t right) {
    return (uint64_t)left << 32 | right;
}

// For qsort and bsearch.
int bpe_compare_words(const void *a, const void *b);
int bpe_compare_pairs(const void *a, const void *b);

// Reads a tokenizer.json, and EOS from tokenizer_config.json or config.json beside it. *loaded NULL where it fails.
bool bpe_load(struct bpe **loaded, const char *path, fault *f);
bool bpe_parse(struct bpe **loaded, const void *data, size_t size, const char *file, fault *f); // EOS: none
void bpe_free(struct bpe *b);

// As tokenizer_encode and tokenizer_decode.
bool bpe_encode(const struct bpe *b, const char *text, size_t length, struct token_list *out, fault *f);
bool bpe_decode(const struct bpe *b, const uint32_t *ids, size_t count, char **text, size_t *length, fault *f);

#endif
