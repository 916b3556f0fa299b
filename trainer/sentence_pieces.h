// SentencePiece behind C: no exception leaves it.
#ifndef LODROP_TRAINER_SENTENCE_PIECES_H
#define LODROP_TRAINER_SENTENCE_PIECES_H

#include <stdint.h>

#include "fault.h"

struct sentence_pieces;
struct token_list;

// path: a tokenizer.model.
bool sentence_pieces_load(struct sentence_pieces **loaded, const char *path, fault *f);
void sentence_pieces_free(struct sentence_pieces *s);

uint32_t sentence_pieces_count(const struct sentence_pieces *s);
int32_t sentence_pieces_bos(const struct sentence_pieces *s); // -1: it has none
int32_t sentence_pieces_eos(const struct sentence_pieces *s);
// The text of the i-th control piece, which no text is tokenised to; NULL: there are no more.
const char *sentence_pieces_control(const struct sentence_pieces *s, size_t i);

// As tokenizer_encode and tokenizer_decode.
bool sentence_pieces_encode(const struct sentence_pieces *s, const char *text, size_t length, struct token_list *out,
                            fault *f);
bool sentence_pieces_decode(const struct sentence_pieces *s, const uint32_t *ids, size_t count, char **text,
                            size_t *length, fault *f);

#endif
