#include "bench.h"
#include "tune.h"

#include <stdio.h>

void tune_read_shapes(tune_shapes *shapes, const char *path) {
    bench_shapes read = bench_read_shapes(path);
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
    for (size_t i = 0; i < read.loss_count; i++) {
        const bench_loss_shape *from = &read.losses[i];
        tune_shape to = {.kind = LOD_PLAN_LOSS,
                         .shape.loss = {.n_in = from->n_in, .vocabulary = from->vocabulary, .tokens = from->tokens}};
        snprintf(to.name, sizeof to.name, "loss %s T=%zu", from->name, from->tokens);
        tune_add(shapes, &to);
    }
    bench_free_shapes(&read);
}
