// Memory that is asked for before it is used, a few lines with every tile of work: caches answer in hundreds of cycles,
// and hardware follows neither rows that are pages apart nor the jump from one block to the next.
#ifndef LOD_AHEAD_H
#define LOD_AHEAD_H

#include <stddef.h>

enum { LOD_LINE = 64 };

// `count` pieces of `bytes` each, `stride` bytes apart.
typedef struct lod_ahead {
    const char *piece, *end; // what is left of this piece
    size_t count, bytes, stride;
} lod_ahead;

static inline lod_ahead lod_ahead_of(const void *first, size_t count, size_t bytes, size_t stride) {
    const char *piece = first;
    return (lod_ahead){.piece = piece, .end = piece + bytes, .count = count, .bytes = bytes, .stride = stride};
}

static inline size_t lod_ahead_lines(const lod_ahead *a) {
    return a->count * ((a->bytes + LOD_LINE - 1) / LOD_LINE);
}

// Asks for the next lines, into the second cache.
static inline void lod_ahead_ask(lod_ahead *a, size_t lines) {
    while (lines && a->count) {
        const char *stop = a->piece + lines * LOD_LINE, *end = stop < a->end ? stop : a->end;
        const char *line = a->piece;
        for (; line < end; line += LOD_LINE) __builtin_prefetch(line, 0, 2);
        lines -= (size_t)(line - a->piece) / LOD_LINE;
        a->piece = line;
        if (line >= a->end) {
            a->end += a->stride;
            a->piece = a->end - a->bytes;
            a->count--;
        }
    }
}

#endif
