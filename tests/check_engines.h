// Ways to run a parallel-for that a caller may bring: lod_set_parallel_for takes one and, for its context, a count to
// which it adds its tasks.
#ifndef LOD_CHECK_ENGINES_H
#define LOD_CHECK_ENGINES_H

#include "lodrop.h"

enum { CHECK_ENGINES = 2 };
// All tasks on the caller's thread, the last one first; and as many threads as it may, each with every so manieth task.
extern lod_parallel_for *const check_engines[CHECK_ENGINES];

#endif
