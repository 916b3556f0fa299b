// Google Benchmark from C: what the benchmarks here need of it, and no more.
#ifndef LOD_GBENCH_H
#define LOD_GBENCH_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gb_state gb_state; // a benchmark::State

void gb_add(const char *name, void (*run)(gb_state *state, const void *context), const void *context);
// while (gb_next(state, calls)) what is measured, so many calls of it;
bool gb_next(gb_state *state, unsigned calls);
void gb_counter(gb_state *state, const char *name, double value);
void gb_label(gb_state *state, const char *text);
void gb_skip(gb_state *state, const char *why);
void gb_context(const char *name, const char *value); // for the context of what is written
// The exit status: a benchmark that was skipped, and a filter that fits none, are a failure.
int gb_main(int argc, char **argv);

#ifdef __cplusplus
}
#endif
#endif
