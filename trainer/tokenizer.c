#include "tokenizer.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "bpe.h"
#include "file.h"
#include "json.h"
#include "sentence_pieces.h"

static const size_t MAX_TEXT_BYTES = (size_t)1 << 30;

// One of the two.
struct tokenizer {
    struct sentence_pieces *pieces;
    struct bpe *bpe;
    json_t *added; // added_tokens of a tokenizer.json beside a SentencePiece model; NULL: there is none
    char file[FILE_PATH_MAX];
};

// What a folder has. SentencePiece's comes first: the tokenizer.json beside one is made of it, and no byte-level BPE.
static bool find_file(char file[FILE_PATH_MAX], const char *path, fault *f) {
    char json[FILE_PATH_MAX];
    if (!file_is_folder(path)) {
        return file_path(file, NULL, path, f);
    }
    if (!file_path(file, path, "tokenizer.model", f) || !file_path(json, path, "tokenizer.json", f)) {
        return false;
    }
    if (file_exists(file)) {
        return true;
    }
    if (file_exists(json)) {
        strcpy(file, json);
        return true;
    }
    return fault_set(f, FAULT_INPUT, file, NULL, "missing, and there is no tokenizer.json either");
}

// What it adds to the pieces.
static bool load_beside(struct tokenizer *t, const char *folder, fault *f) {
    char json[FILE_PATH_MAX];
    json_t *root;
    if (!t->pieces || !file_is_folder(folder)) {
        return true;
    }
    if (!file_path(json, folder, "tokenizer.json", f) || (file_exists(json) && !json_read_file(&root, json, f))) {
        return false;
    }
    if (file_exists(json)) {
        t->added = json_incref(json_object_get(root, "added_tokens"));
        json_decref(root);
    }
    return true;
}

bool tokenizer_load(struct tokenizer **loaded, const char *path, fault *f) {
    *loaded = NULL;
    struct tokenizer *t = calloc(1, sizeof *t);
    if (!t) {
        return fault_memory(f, path);
    }
    if (!find_file(t->file, path, f) || !(file_ends_with(t->file, ".json")
                                              ? bpe_load(&t->bpe, t->file, f)
                                              : sentence_pieces_load(&t->pieces, t->file, f)) ||
        !load_beside(t, path, f)) {
        tokenizer_free(t);
        return false;
    }
    *loaded = t;
    return true;
}

void tokenizer_free(struct tokenizer *t) {
    if (t) {
        sentence_pieces_free(t->pieces);
        bpe_free(t->bpe);
        json_decref(t->added);
        free(t);
    }
}

uint32_t tokenizer_vocab_size(const struct tokenizer *t) {
    return t->bpe ? t->bpe->count : sentence_pieces_count(t->pieces);
}

static int32_t or_none(uint32_t token) {
    return token == BPE_NONE ? -1 : (int32_t)token;
}

int32_t tokenizer_bos(const struct tokenizer *t) {
    return t->bpe ? or_none(t->bpe->bos) : sentence_pieces_bos(t->pieces);
}

int32_t tokenizer_eos(const struct tokenizer *t) {
    return t->bpe ? or_none(t->bpe->eos) : sentence_pieces_eos(t->pieces);
}

void token_list_free(struct token_list *list) {
    free(list->ids);
    free(list->ends);
    *list = (struct token_list){0};
}

bool token_list_reserve(struct token_list *list, size_t count) {
    if (count <= list->capacity) {
        return true;
    }
    size_t capacity = count > 2 * list->capacity ? count : 2 * list->capacity;
    uint32_t *ids = realloc(list->ids, capacity * sizeof *ids);
    list->ids = ids ? ids : list->ids;
    size_t *ends = ids ? realloc(list->ends, capacity * sizeof *ends) : NULL;
    list->ends = ends ? ends : list->ends;
    list->capacity = ends ? capacity : list->capacity;
    return ends;
}

const char *tokenizer_special_as_text(const struct tokenizer *t, const char *text, size_t length) {
    const json_t *value;
    const char *special;
    size_t i;
    if (length == 0) { // no text: perhaps no pointer either
        return NULL;
    }
    for (i = 0; t->pieces && (special = sentence_pieces_control(t->pieces, i)); i++) {
        if (memmem(text, length, special, strlen(special))) {
            return special;
        }
    }
    json_array_foreach(t->added, i, value) {
        special = json_string_value(json_object_get(value, "content"));
        if (special && *special && memmem(text, length, special, strlen(special))) {
            return special;
        }
    }
    return NULL;
}

bool tokenizer_encode(const struct tokenizer *t, const char *text, size_t length, struct token_list *out, fault *f) {
    out->count = 0;
    if (length >= MAX_TEXT_BYTES) {
        return fault_set(f, FAULT_INPUT, t->file, NULL, "a text of %zu bytes is too long to tokenise at once", length);
    }
    return t->bpe ? bpe_encode(t->bpe, text, length, out, f)
                  : sentence_pieces_encode(t->pieces, text, length, out, f);
}

bool tokenizer_decode(const struct tokenizer *t, const uint32_t *ids, size_t count, char **text, size_t *length,
                      fault *f) {
    *text = NULL;
    *length = 0;
    for (size_t i = 0; i < count; i++) {
        if (ids[i] >= tokenizer_vocab_size(t)) {
            return fault_set(f, FAULT_INPUT, t->file, NULL, "token %" PRIu32 " is not in the vocabulary of %" PRIu32,
                             ids[i], tokenizer_vocab_size(t));
        }
    }
    return t->bpe ? bpe_decode(t->bpe, ids, count, text, length, f)
                  : sentence_pieces_decode(t->pieces, ids, count, text, length, f);
}

bool tokenizer_fits(const struct tokenizer *t, uint32_t model_vocab_size, fault *f) {
    uint32_t tokens = tokenizer_vocab_size(t);
    uint32_t most = (tokens + tokens / 32 + 127) / 128 * 128;
    return (model_vocab_size >= tokens && model_vocab_size <= most) ||
           fault_set(f, FAULT_INPUT, t->file, "vocabulary",
                     "%" PRIu32 " tokens, but the model has %" PRIu32 ": tokenizer and model do not belong together",
                     tokens, model_vocab_size);
}
