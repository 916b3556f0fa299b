#include "small_tokenizer.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "expect.h"

// A protocol buffer being written; the field numbers below are those of SentencePiece's ModelProto.
struct message {
    uint8_t bytes[16384];
    size_t size;
};

enum { VARINT = 0, BYTES = 2, FIXED32 = 5 };
enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, BYTE = 6 };

static void put_varint(struct message *m, uint64_t value) {
    while (value >= 0x80) {
        m->bytes[m->size++] = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    m->bytes[m->size++] = (uint8_t)value;
}

static void put_integer(struct message *m, unsigned field, uint64_t value) {
    put_varint(m, field << 3 | VARINT);
    put_varint(m, value);
}

static void put_bytes(struct message *m, unsigned field, const void *bytes, size_t size) {
    put_varint(m, field << 3 | BYTES);
    put_varint(m, size);
    memcpy(m->bytes + m->size, bytes, size);
    m->size += size;
}

static void put_piece(struct message *m, const char *text, float score, unsigned type) {
    struct message piece = {.size = 0};
    put_bytes(&piece, 1, text, strlen(text));
    put_varint(&piece, 2 << 3 | FIXED32);
    memcpy(piece.bytes + piece.size, &score, sizeof score);
    piece.size += sizeof score;
    put_integer(&piece, 3, type);
    put_bytes(m, 1, piece.bytes, piece.size);
}

const char *write_small_tokenizer(const char *name, enum small_special special) {
    static const char *const words[] = {"no", "ye", "yes", "\xe2\x96\x81yes", "\xe2\x96\x81no"};
    static struct message model;
    char text[8];
    model.size = 0;
    put_piece(&model, "<unk>", 0, UNKNOWN);
    put_piece(&model, "<s>", 0, special == SMALL_BOS_EOS ? CONTROL : NORMAL);
    put_piece(&model, "</s>", 0, special != SMALL_PLAIN ? CONTROL : NORMAL);
    for (unsigned byte = 0; byte < 256; byte++) {
        snprintf(text, sizeof text, "<0x%02X>", byte);
        put_piece(&model, text, 0, BYTE);
    }
    put_piece(&model, "\xe2\x96\x81", -100, NORMAL);
    for (char letter = 'a'; letter <= 'z'; letter++) {
        put_piece(&model, (char[]){letter, '\0'}, -100, NORMAL);
    }
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        put_piece(&model, words[i], -(float)(i + 1), NORMAL);
    }
    struct message trainer = {.size = 0}, normalizer = {.size = 0};
    put_integer(&trainer, 3, 2);  // model_type: BPE
    put_integer(&trainer, 35, 1); // byte_fallback
    put_bytes(&model, 2, trainer.bytes, trainer.size);
    put_bytes(&normalizer, 1, "identity", 8);
    put_integer(&normalizer, 3, 1); // add_dummy_prefix
    put_integer(&normalizer, 4, 0); // remove_extra_whitespaces
    put_bytes(&model, 3, normalizer.bytes, normalizer.size);
    return write_bytes(name, model.bytes, model.size);
}
