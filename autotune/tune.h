// The inside of lodrop-tune: the shapes to plan.
#ifndef LOD_TUNE_H
#define LOD_TUNE_H

#include "plan.h"

typedef struct tune_shape {
    char name[64];
    lod_plan_kind kind;
    union {
        lod_lowrank_shape lowrank;
        lod_attention_shape attention;
        lod_loss_shape loss;
    } shape;
} tune_shape;

typedef struct tune_shapes {
    tune_shape *list;
    size_t count;
} tune_shapes;

// Appends; leaves the program where there is no memory.
void tune_add(tune_shapes *shapes, const tune_shape *shape);

// The shapes of a file as lodrop-bench reads it.
void tune_read_shapes(tune_shapes *shapes, const char *path);

// --- tune_model.c, with the trainer ---
// The shapes that training a model plans: batches of `examples` sequences of `length` tokens. Says what is wrong with
// the model's folder and leaves the program.
void tune_read_model(tune_shapes *shapes, const char *folder, size_t examples, size_t length);

#endif
