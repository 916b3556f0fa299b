#include "batch.h"

#include <stdlib.h>

#include "arena.h"

static void carve(struct batch *b, struct arena *a, size_t tokens, size_t segments) {
    b->start = arena_take(a, segments + 1, sizeof *b->start);
    b->draw = arena_take(a, segments, sizeof *b->draw);
    b->instance = arena_take(a, segments, sizeof *b->instance);
    uint32_t **arrays[] = {&b->token, &b->position, &b->row, &b->target, &b->row2};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
        *arrays[i] = arena_take(a, tokens, sizeof **arrays[i]);
    }
}

bool batch_make(struct batch *b, size_t tokens, size_t segments, fault *f) {
    *b = (struct batch){0};
    struct arena measure = {0};
    carve(b, &measure, tokens, segments);
    if (!memory_take(&b->memory, measure.peak, "a batch", f)) {
        return false;
    }
    struct arena real = {.base = b->memory};
    carve(b, &real, tokens, segments);
    b->view = (struct llama_batch){.rows = {.start = b->start, .draw = b->draw},
                                   .token = b->token,
                                   .position = b->position,
                                   .row = b->row,
                                   .target = b->target};
    batch_clear(b);
    return true;
}

void batch_free(struct batch *b) {
    free(b->memory);
    *b = (struct batch){0};
}

void batch_clear(struct batch *b) {
    b->view.rows.count = 0;
    b->view.targets = 0;
    b->start[0] = 0;
}

size_t batch_tokens(const struct batch *b) {
    return b->start[b->view.rows.count];
}

void batch_token(struct batch *b, uint32_t token, size_t position) {
    size_t at = b->start[b->view.rows.count]++;
    b->token[at] = token;
    b->position[at] = (uint32_t)position;
}

void batch_target(struct batch *b, size_t row, uint32_t target) {
    b->row[b->view.targets] = (uint32_t)row;
    b->target[b->view.targets++] = target;
}

size_t batch_example_tokens(const struct example *e) {
    return e->count - 1;
}

void batch_example(struct batch *b, const struct example *e, uint32_t draw) {
    size_t segment = b->view.rows.count++, first = b->start[segment];
    b->start[segment + 1] = first;
    b->draw[segment] = draw;
    for (size_t i = 0; i + 1 < e->count; i++) {
        batch_token(b, e->tokens[i], i);
        if (i + 1 >= e->first_target) {
            batch_target(b, first + i, e->tokens[i + 1]);
        }
    }
}

void batch_instance(struct batch *b, const struct example *e, uint32_t draw, unsigned instance) {
    b->instance[b->view.rows.count] = (uint8_t)instance;
    b->view.rows.instance = b->instance;
    batch_example(b, e, draw);
}

void batch_pair(struct batch *b, const struct example *e, uint32_t draw) {
    size_t segment = b->view.rows.count, first = b->view.targets, tokens = batch_example_tokens(e);
    batch_example(b, e, draw);
    for (size_t i = first; i < b->view.targets; i++) {
        b->row2[i] = b->row[i] + (uint32_t)tokens;
    }
    b->start[segment + 2] = b->start[segment + 1];
    b->view.rows.count++;
    for (size_t i = 0; i < tokens; i++) {
        batch_token(b, e->tokens[i], i);
    }
    b->draw[segment + 1] = draw;
    b->instance[segment] = 0;
    b->instance[segment + 1] = 1;
    b->view.rows.instance = b->instance;
    b->view.row2 = b->row2;
}
