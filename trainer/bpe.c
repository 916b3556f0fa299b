#include "bpe.h"

#include <stdlib.h>
#include <string.h>

#include "tokenizer.h"

static const uint32_t NOWHERE = UINT32_MAX; // no neighbour

// A word being merged: what is left of its bytes, in order, and all pairs that may merge, the first to do so on top.
struct symbol {
    uint32_t token; // BPE_NONE: its left neighbour took it
    uint32_t before, behind; // neighbours' places, or NOWHERE
    uint32_t end; // in the word
};

struct candidate {
    uint32_t rank, place; // of the left one
    uint32_t left, right; // their tokens when they met
    uint32_t token;
};

struct encoding {
    const struct bpe *bpe;
    struct token_list *out;
    const char *text; // the whole one
    size_t length;
    struct symbol *symbols;
    struct candidate *heap;
    size_t waiting;
    size_t capacity; // bytes of a word that both have room for
    fault *f;
};

void bpe_free(struct bpe *b) {
    if (!b) {
        return;
    }
    splits_free(&b->splits);
    free(b->file);
    free(b->tokens);
    free(b->words);
    free(b->merges);
    free(b->added);
    free(b->bytes);
    free(b);
}

int bpe_compare_words(const void *a, const void *b) {
    const struct bpe_word *x = a, *y = b;
    int order = memcmp(x->bytes, y->bytes, x->length < y->length ? x->length : y->length);
    return order ? order : (x->length > y->length) - (x->length < y->length);
}

int bpe_compare_pairs(const void *a, const void *b) {
    const struct bpe_merge *x = a, *y = b;
    return (x->pair > y->pair) - (x->pair < y->pair);
}

// --- merging ---

static bool comes_first(const struct candidate *a, const struct candidate *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->place < b->place;
}

static void push(struct encoding *e, struct candidate c) {
    size_t at = e->waiting++;
    while (at && comes_first(&c, &e->heap[(at - 1) / 2])) {
        e->heap[at] = e->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    e->heap[at] = c;
}

static struct candidate pop(struct encoding *e) {
    struct candidate top = e->heap[0], last = e->heap[--e->waiting];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < e->waiting; at = child) {
        if (child + 1 < e->waiting && comes_first(&e->heap[child + 1], &e->heap[child])) {
            child++;
        }
        if (!comes_first(&e->heap[child], &last)) {
            break;
        }
        e->heap[at] = e->heap[child];
    }
    e->heap[at] = last;
    return top;
}

// The pair of a place and its neighbour behind waits, if it merges.
static void consider(struct encoding *e, uint32_t place) {
    if (place == NOWHERE || e->symbols[place].behind == NOWHERE) {
        return;
    }
    uint32_t left = e->symbols[place].token, right = e->symbols[e->symbols[place].behind].token;
    const struct bpe_merge key = {.pair = bpe_pair(left, right)};
    const struct bpe_merge *merge =
        bsearch(&key, e->bpe->merges, e->bpe->merge_count, sizeof key, bpe_compare_pairs);
    if (merge) {
        push(e, (struct candidate){merge->rank, place, left, right, merge->token});
    }
}

static void merge_symbols(struct encoding *e) {
    while (e->waiting) {
        struct candidate c = pop(e);
        struct symbol *left = &e->symbols[c.place];
        if (left->token != c.left || left->behind == NOWHERE || e->symbols[left->behind].token != c.right) {
            continue; // one of the two has merged elsewhere
        }
        struct symbol *right = &e->symbols[left->behind];
        left->token = c.token;
        left->end = right->end;
        left->behind = right->behind;
        right->token = BPE_NONE;
        if (left->behind != NOWHERE) {
            e->symbols[left->behind].before = c.place;
        }
        consider(e, left->before);
        consider(e, c.place);
    }
}

// --- words ---

static bool make_room(struct encoding *e, size_t length) {
    if (length <= e->capacity) {
        return true;
    }
    size_t capacity = length > 2 * e->capacity ? length : 2 * e->capacity;
    free(e->symbols);
    free(e->heap);
    e->symbols = malloc(capacity * sizeof *e->symbols);
    e->heap = malloc(2 * capacity * sizeof *e->heap); // each merge takes one pair away and brings two at most
    e->capacity = e->symbols && e->heap ? capacity : 0;
    return e->capacity || fault_memory(e->f, e->bpe->file);
}

// A token that ends inside a character ends where the character does.
static bool emit(struct encoding *e, uint32_t token, const char *end) {
    size_t at = (size_t)(end - e->text);
    while (at < e->length && ((uint8_t)e->text[at] & 0xc0) == 0x80) {
        at++;
    }
    if (!token_list_reserve(e->out, e->out->count + 1)) {
        return fault_memory(e->f, e->bpe->file);
    }
    e->out->ids[e->out->count] = token;
    e->out->ends[e->out->count++] = at;
    return true;
}

// A symbol for each byte that has a token; returns how many.
static uint32_t lay_out(struct encoding *e, const char *word, size_t length) {
    uint32_t count = 0;
    for (size_t i = 0; i < length; i++) {
        uint32_t token = e->bpe->byte_tokens[(uint8_t)word[i]];
        token = token == BPE_NONE ? e->bpe->unknown : token;
        if (token != BPE_NONE) {
            e->symbols[count] = (struct symbol){
                .token = token, .before = count ? count - 1 : NOWHERE, .behind = count + 1, .end = (uint32_t)i + 1};
            count++;
        }
    }
    if (count) {
        e->symbols[count - 1].behind = NOWHERE;
    }
    return count;
}

static bool encode_word(void *context, const char *word, size_t length) {
    struct encoding *e = context;
    const struct bpe *b = e->bpe;
    const struct bpe_word key = {.bytes = word, .length = (uint32_t)length};
    const struct bpe_word *whole =
        b->whole_words_first ? bsearch(&key, b->words, b->word_count, sizeof key, bpe_compare_words) : NULL;
    if (whole) {
        return emit(e, whole->token, word + length);
    }
    if (!make_room(e, length)) {
        return false;
    }
    uint32_t count = lay_out(e, word, length);
    e->waiting = 0;
    for (uint32_t i = 0; i + 1 < count; i++) {
        consider(e, i);
    }
    merge_symbols(e);
    for (uint32_t i = count ? 0 : NOWHERE; i != NOWHERE; i = e->symbols[i].behind) {
        if (!emit(e, e->symbols[i].token, word + e->symbols[i].end)) {
            return false;
        }
    }
    return true;
}

// --- added tokens ---

// The longest of these tokens that the text begins with, or BPE_NONE.
static uint32_t added_at(const struct bpe *b, bool late, const char *text, size_t length) {
    uint32_t best = BPE_NONE;
    for (size_t i = 0; b->added_begins[(uint8_t)*text] && i < b->added_count; i++) {
        const struct bpe_token *token = &b->tokens[b->added[i].token];
        if (b->added[i].late == late && token->length <= length &&
            memcmp(token->bytes, text, token->length) == 0 &&
            (best == BPE_NONE || token->length > b->tokens[best].length)) {
            best = b->added[i].token;
        }
    }
    return best;
}

static bool encode_between(struct encoding *e, bool late, const char *text, size_t length);

static bool encode_rest(struct encoding *e, bool late, const char *text, size_t length) {
    return late ? splits_walk(&e->bpe->splits, text, length, encode_word, e, e->bpe->file, e->f)
                : encode_between(e, true, text, length);
}

static bool encode_between(struct encoding *e, bool late, const char *text, size_t length) {
    size_t from = 0;
    for (size_t i = 0; i < length;) {
        uint32_t token = added_at(e->bpe, late, text + i, length - i);
        if (token == BPE_NONE) {
            i++;
            continue;
        }
        size_t end = i + e->bpe->tokens[token].length;
        if (!encode_rest(e, late, text + from, i - from) || !emit(e, token, text + end)) {
            return false;
        }
        from = i = end;
    }
    return encode_rest(e, late, text + from, length - from);
}

bool bpe_encode(const struct bpe *b, const char *text, size_t length, struct token_list *out, fault *f) {
    struct encoding e = {.bpe = b, .out = out, .text = text, .length = length, .f = f};
    out->count = 0;
    bool done = length == 0 || encode_between(&e, false, text, length);
    free(e.symbols);
    free(e.heap);
    return done;
}

bool bpe_decode(const struct bpe *b, const uint32_t *ids, size_t count, char **text, size_t *length, fault *f) {
    *length = 0;
    for (size_t i = 0; i < count; i++) {
        *length += b->tokens[ids[i]].length;
    }
    char *next = *text = malloc(*length + 1);
    if (!next) {
        return fault_memory(f, b->file);
    }
    for (size_t i = 0; i < count; i++) {
        const struct bpe_token *token = &b->tokens[ids[i]];
        if (token->length) {
            memcpy(next, token->bytes, token->length);
            next += token->length;
        }
    }
    *next = 0;
    return true;
}
