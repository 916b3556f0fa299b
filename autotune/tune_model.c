// The shapes of a model, as training plans them.
#include <stdio.h>
#include <stdlib.h>

#include "model.h"
#include "tune.h"

static void add_linear(tune_shapes *shapes, const struct model_config *config, enum adapter_module module,
                       size_t tokens) {
    tune_shape s = {.kind = LOD_PLAN_LOWRANK, .shape.lowrank = {.tokens = tokens}};
    model_linear_shape(config, module, &s.shape.lowrank.n_in, &s.shape.lowrank.n_out);
    snprintf(s.name, sizeof s.name, "%zux%zu", s.shape.lowrank.n_in, s.shape.lowrank.n_out);
    for (size_t i = 0; i < shapes->count; i++) {
        const lod_lowrank_shape *there = &shapes->list[i].shape.lowrank;
        if (there->n_in == s.shape.lowrank.n_in && there->n_out == s.shape.lowrank.n_out) return;
    }
    tune_add(shapes, &s);
}

void tune_read_model(tune_shapes *shapes, const char *folder, size_t examples, size_t length) {
    struct model_config c;
    fault f = {0};
    if (!model_config_read(&c, folder, &f)) {
        fprintf(stderr, "%s\n", f.text);
        exit(f.status);
    }
    if (length > c.max_positions) length = c.max_positions;
    for (enum adapter_module i = 0; i < ADAPTER_MODULES; i++) add_linear(shapes, &c, i, examples * length);
    tune_add(shapes, &(tune_shape){.name = "attention", .kind = LOD_PLAN_ATTENTION,
                                   .shape.attention = {c.heads, c.kv_heads, c.head_dim, length, length}});
    tune_add(shapes, &(tune_shape){.name = "loss", .kind = LOD_PLAN_LOSS,
                                   .shape.loss = {.n_in = c.hidden_size, .vocabulary = c.vocab_size,
                                                  .tokens = examples * length}});
}
