// A SentencePiece model small enough to know by heart, so that tokenisation is tested without data of others.
#ifndef LODROP_TESTS_FORMATS_SMALL_TOKENIZER_H
#define LODROP_TESTS_FORMATS_SMALL_TOKENIZER_H

// Byte-pair pieces, with byte fallback and a space in front of a text as Llama has it:
// 0 <unk>, 1 <s>, 2 </s>, 3.. the 256 bytes, 259 the space, 260.. a to z, then the words below.
enum {
    SMALL_BYTE = 3,
    SMALL_SPACE = 259,
    SMALL_A = 260,
    SMALL_NO = 286,   // "no"
    SMALL_YE = 287,   // "ye"
    SMALL_YES = 288,  // "yes"
    SMALL__YES = 289, // " yes"
    SMALL__NO = 290,  // " no"
    SMALL_TOKENS = 291
};

// Writes the model under that name into the temporary folder and returns its path. What is not asked for of <s> (BOS)
// and </s> (EOS) is an ordinary piece.
enum small_special { SMALL_PLAIN, SMALL_ONLY_EOS, SMALL_BOS_EOS };
const char *write_small_tokenizer(const char *name, enum small_special special);

#endif
