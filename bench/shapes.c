// Shapes to measure, from a text file.
#include <errno.h>
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

static bool parse_loss(const char *line, bench_loss_shape *s) {
    char rest;
    return sscanf(line, "loss %47s %zu %zu %zu %c", s->name, &s->tokens, &s->n_in, &s->vocabulary, &rest) == 4;
}

static bool parse_rowwise(const char *line, bench_rowwise_shape *s) {
    char rest;
    int fields = sscanf(line, "rowwise %47s %zu %zu %zu %zu %c", s->name, &s->tokens, &s->width, &s->middle, &s->heads,
                        &rest);
    return fields == 5 && s->heads > 0 && s->width % (2 * s->heads) == 0;
}

static void *grow(void *list, size_t count, size_t size) {
    void *longer = realloc(list, (count + 1) * size);
    if (!longer) {
        fputs("no memory for the list of shapes\n", stderr);
        exit(3);
    }
    return longer;
}

// Adds a line to the list that its first word names, layers have none; returns what is wrong with it, or NULL.
static const char *add(bench_shapes *s, const char *line) {
    char word[16] = "";
    sscanf(line, "%15s", word);
    if (strcmp(word, "attention") == 0) {
        s->attentions = grow(s->attentions, s->attention_count, sizeof *s->attentions);
        return parse_attention(line, &s->attentions[s->attention_count++])
                   ? NULL
                   : "is not `attention name tokens heads kv_heads head_dim`";
    }
    if (strcmp(word, "loss") == 0) {
        s->losses = grow(s->losses, s->loss_count, sizeof *s->losses);
        return parse_loss(line, &s->losses[s->loss_count++]) ? NULL : "is not `loss name tokens n_in vocabulary`";
    }
    if (strcmp(word, "rowwise") == 0) {
        s->rowwises = grow(s->rowwises, s->rowwise_count, sizeof *s->rowwises);
        return parse_rowwise(line, &s->rowwises[s->rowwise_count++])
                   ? NULL
                   : "is not `rowwise name tokens width middle heads`, width a multiple of twice the heads";
    }
    s->layers = grow(s->layers, s->layer_count, sizeof *s->layers);
    return parse_layer(line, &s->layers[s->layer_count++]) ? NULL : "is not `name tokens n_in n_out rank`";
}

bench_shapes bench_read_shapes(const char *path) {
    FILE *file = fopen(path, "r");
    if (!file) {
        fprintf(stderr, "%s: cannot be read: %s\n", path, strerror(errno));
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
    if (shapes.layer_count + shapes.attention_count + shapes.loss_count + shapes.rowwise_count == 0) {
        refuse(path, 1, "no shapes");
    }
    return shapes;
}

void bench_free_shapes(bench_shapes *shapes) {
    free(shapes->layers);
    free(shapes->attentions);
    free(shapes->losses);
    free(shapes->rowwises);
}
