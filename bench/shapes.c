// Shapes of layers, from a text file.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

static _Noreturn void refuse(const char *path, size_t line, const char *why) {
    fprintf(stderr, "%s: line %zu: %s\n", path, line, why);
    exit(1);
}

static bool parse_layer(const char *line, bench_shape *s) {
    char rest;
    return sscanf(line, "%47s %zu %zu %zu %zu %c", s->name, &s->tokens, &s->n_in, &s->n_out, &s->rank, &rest) == 5;
}

static bool parse_attention(const char *line, bench_attention_shape *s) {
    char rest;
    return sscanf(line, "attention %47s %zu %zu %zu %zu %c", s->name, &s->tokens, &s->heads, &s->kv_heads, &s->head_dim,
                  &rest) == 5;
}

// Adds the line to one of the lists.
static const char *add(bench_shapes *shapes, const char *line) {
    static const char word[] = "attention ";
    if (strncmp(line, word, sizeof word - 1) == 0) {
        shapes->attentions =
            realloc(shapes->attentions, (shapes->attention_count + 1) * sizeof *shapes->attentions);
        if (!shapes->attentions) return "no memory";
        if (!parse_attention(line, &shapes->attentions[shapes->attention_count++])) {
            return "is not `attention name tokens heads kv_heads head_dim`";
        }
    } else {
        shapes->layers = realloc(shapes->layers, (shapes->layer_count + 1) * sizeof *shapes->layers);
        if (!shapes->layers) return "no memory";
        if (!parse_layer(line, &shapes->layers[shapes->layer_count++])) return "is not `name tokens n_in n_out rank`";
    }
    return NULL;
}

bench_shapes bench_read_shapes(const char *path) {
    FILE *file = fopen(path, "r");
    if (!file) {
        fprintf(stderr, "%s: cannot be read\n", path);
        exit(1);
    }
    bench_shapes shapes = {0};
    char line[256];
    for (size_t number = 1; fgets(line, sizeof line, file); number++) {
        line[strcspn(line, "#\n")] = 0;
        if (line[strspn(line, " \t")] == 0) continue;
        const char *wrong = add(&shapes, line);
        if (wrong) refuse(path, number, wrong);
    }
    fclose(file);
    if (shapes.layer_count + shapes.attention_count == 0) refuse(path, 1, "no shapes");
    return shapes;
}
