// One block of memory, carved from front to back into 64-byte aligned arrays. The same code measures and carves: with
// base NULL it only counts. Going back to a mark lets arrays that never live at the same time share their bytes.
#ifndef LODROP_TRAINER_ARENA_H
#define LODROP_TRAINER_ARENA_H

#include <stdbool.h>
#include <stddef.h>

#include "fault.h"

struct arena {
    unsigned char *base; // NULL: measuring
    size_t used, peak;   // bytes; SIZE_MAX once a size has overflowed
};

void *arena_take(struct arena *a, size_t count, size_t item); // NULL while measuring
float *arena_floats(struct arena *a, size_t rows, size_t columns);
// Everything taken since `used` was `mark` may be overwritten by what is taken next.
void arena_rewind(struct arena *a, size_t mark);

// 64-byte aligned memory, not initialised; free() returns it. `what` names it where there is not enough.
bool memory_take(void **memory, size_t bytes, const char *what, fault *f);

#endif
