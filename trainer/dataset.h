// Training and evaluation data as tokens.
//
// A .jsonl file holds one object a line, all of one kind; blank lines and further fields are passed over:
//     {"text"}                       BOS + text, cut at max_length; targets: all but BOS
//     {"prompt","completion"}        BOS + prompt and completion tokenised as one string + EOS; targets: from the first
//                                    token that ends past the prompt's bytes on, EOS included. Too long: the prompt
//                                    loses its left end (after BOS); a completion too long by itself is a fault.
//     {"prompt","choices","label"}   each choice as a completion; the label is the index of the right one or its text.
//                                    Too long: all choices lose the same tokens, as many as the longest one must.
// Any other file is plain text: BOS + the text as one stream, in blocks of max_length tokens with the short tail kept;
// targets: all but the first token of each block (a tail of one token has none and is left out).
// A tokenizer without BOS gives the same without it: the first token is no target, and a prompt may not be empty.
#ifndef LODROP_TRAINER_DATASET_H
#define LODROP_TRAINER_DATASET_H

#include <stdint.h>

#include "fault.h"
#include "tokenizer.h"

enum dataset_kind { DATASET_TEXT, DATASET_COMPLETION, DATASET_CHOICE, DATASET_STREAM };

// What follows the shared tokens for one choice: its sequence is example.tokens[0, shared) and then tokens[0, count).
struct example_choice {
    const uint32_t *tokens;
    size_t count;
    size_t first_target; // in tokens: targets are [first_target, count), exactly those that training would target
};

struct example {
    uint32_t *tokens; // the training sequence, BOS first if there is one; of choices: the right one's
    size_t count;
    size_t first_target;            // targets are tokens [first_target, count); at least 1
    struct example_choice *choices; // NULL unless DATASET_CHOICE
    size_t n_choices;
    size_t shared; // leading tokens that all choices share and none of them targets; at least 1
    size_t label;  // which choice is right
};

struct dataset {
    enum dataset_kind kind;
    struct example *examples;
    size_t count;
    size_t tokens;  // of all training sequences
    size_t targets; // of all training sequences
    size_t cut;     // examples that lost tokens to max_length
    size_t as_text; // examples in which a special token's text is tokenised as text; plain text counts as one
    char special[64]; // the first such one
};

struct dataset_options {
    size_t max_length;   // tokens of the longest sequence, BOS and EOS included; at least 2
    uint32_t vocab_size; // of the model: a token beyond it is a fault
};

bool dataset_read(struct dataset *data, const char *path, const struct tokenizer *tokenizer,
                  const struct dataset_options *options, fault *f);
// The lines of a .jsonl file from memory; `file` names it in faults.
bool dataset_read_jsonl(struct dataset *data, const void *bytes, size_t size, const char *file,
                        const struct tokenizer *tokenizer, const struct dataset_options *options, fault *f);
void dataset_free(struct dataset *data);

// UTF-8 without a zero byte. size: 1 or more.
bool dataset_is_text(const char *bytes, size_t size);

#endif
