// Google Benchmark from C: what the benchmarks here need of it, and no more.
#ifndef LOD_GBENCH_H
#define LOD_GBENCH_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gb_state gb_state; // a benchmark::State

void gb_add(const char *name, void (*run)(gb_state *state, const void *context), const void *context);
bool gb_next(gb_state *state); // while (gb_next(state)) what is measured;
void gb_counter(gb_state *state, const char *name, double value);
void gb_label(gb_state *state, const char *text);
void gb_skip(gb_state *state, const char *why);
int gb_main(int argc, char **argv); // the exit status; benchmarks that were skipped are a failure

#ifdef __cplusplus
}
#endif
#endif
