// Some of a model's layers, as options and files name them: 3, 12-23 or later-half.
#ifndef LODROP_TRAINER_LAYERS_H
#define LODROP_TRAINER_LAYERS_H

#include "fault.h"

// Later half: layers from floor(L / 2) of L.
enum layers_extent { LAYERS_ALL, LAYERS_LATER_HALF, LAYERS_SOME };

struct layers {
    enum layers_extent extent;
    unsigned first, last; // of some layers
};

enum { LAYERS_TEXT = 32 };

// file and field are for faults.
bool layers_parse(struct layers *l, const char *text, const char *file, const char *field, fault *f);

// Empty for all layers.
void layers_print(char text[LAYERS_TEXT], const struct layers *l);

// Whether a layer of so many is one of them.
bool layers_hold(const struct layers *l, unsigned layer, unsigned count);

// Of a model with so many layers: that it has all of them, and the later half by its numbers.
bool layers_settle(struct layers *l, unsigned count, const char *file, const char *field, fault *f);

#endif
