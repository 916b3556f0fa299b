// Where a text is parted before its bytes are merged: patterns of tokenizer.json, over PCRE2.
#ifndef LODROP_TRAINER_SPLIT_H
#define LODROP_TRAINER_SPLIT_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "fault.h"

enum { SPLITS_MOST = 16 };

// One after the other: each parts what the ones before it left. Zeroed: none.
struct splits {
    pcre2_code *codes[SPLITS_MOST];
    size_t count;
};

// Adds a pattern: a regular expression, or a literal text. file and field name it in faults.
bool splits_add(struct splits *s, const char *pattern, bool literal, const char *file, const char *field, fault *f);
void splits_free(struct splits *s);

// Takes one part of a text; false, with its fault set, ends the walk.
typedef bool split_part(void *context, const char *part, size_t length);

// Walks the parts of text[0, length) in order, what matches and what lies between matches alike. text: UTF-8.
bool splits_walk(const struct splits *s, const char *text, size_t length, split_part *each, void *context,
                 const char *file, fault *f);

#endif
