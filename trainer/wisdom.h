// What was measured for plans, from and to the user's file.
#ifndef LODROP_TRAINER_WISDOM_H
#define LODROP_TRAINER_WISDOM_H

#include "fault.h"

// Reads it, if there is one, before the first plan. One that is refused only costs time: a line on standard error says
// why.
bool wisdom_read(unsigned threads, fault *f);
// Adds what was measured to it, and gives its path.
bool wisdom_write(unsigned threads, char *path, size_t size, fault *f);

#endif
