// Shapes of layers, from a text file.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

static _Noreturn void refuse(const char *path, size_t line, const char *why) {
    fprintf(stderr, "%s: line %zu: %s\n", path, line, why);
    exit(1);
}

static bool parse(char *line, bench_shape *shape) {
    char rest;
    return sscanf(line, "%47s %zu %zu %zu %zu %c", shape->name, &shape->tokens, &shape->n_in, &shape->n_out,
                  &shape->rank, &rest) == 5;
}

bench_shape *bench_read_shapes(const char *path, size_t *count) {
    FILE *file = fopen(path, "r");
    if (!file) {
        fprintf(stderr, "%s: cannot be read\n", path);
        exit(1);
    }
    bench_shape *shapes = NULL;
    char line[256];
    *count = 0;
    for (size_t number = 1; fgets(line, sizeof line, file); number++) {
        line[strcspn(line, "#\n")] = 0;
        if (line[strspn(line, " \t")] == 0) continue;
        shapes = realloc(shapes, (*count + 1) * sizeof *shapes);
        if (!shapes) refuse(path, number, "no memory");
        if (!parse(line, &shapes[*count])) refuse(path, number, "is not `name tokens n_in n_out rank`");
        ++*count;
    }
    fclose(file);
    if (*count == 0) refuse(path, 1, "no shapes");
    return shapes;
}
