#include "bench.h"
#include "tune.h"

#include <stdio.h>
#include <stdlib.h>

void tune_read_shapes(tune_shapes *shapes, const char *path) {
    const bench_shapes read = bench_read_shapes(path);
    for (size_t i = 0; i < read.layer_count; i++) {
        const bench_shape *from = &read.layers[i];
        tune_shape to = {.kind = LOD_PLAN_LOWRANK,
                         .shape.lowrank = {from->n_in, from->n_out, from->rank, from->tokens}};
        snprintf(to.name, sizeof to.name, "%s T=%zu", from->name, from->tokens);
        tune_add(shapes, &to);
    }
    for (size_t i = 0; i < read.attention_count; i++) {
        const bench_attention_shape *from = &read.attentions[i];
        tune_shape to = {.kind = LOD_PLAN_ATTENTION,
                         .shape.attention = {from->heads, from->kv_heads, from->head_dim, from->tokens, from->tokens}};
        snprintf(to.name, sizeof to.name, "attention %s T=%zu", from->name, from->tokens);
        tune_add(shapes, &to);
    }
    free(read.layers);
    free(read.attentions);
}
