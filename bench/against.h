// lodrop-bench --against: two runs compared.
#ifndef LOD_BENCH_AGAINST_H
#define LOD_BENCH_AGAINST_H

#include <stddef.h>

// The repetitions of one benchmark, in seconds, ascending.
typedef struct against_series {
    char *name;
    double *seconds;
    size_t count;
} against_series;

typedef struct against_run {
    against_series *series; // by name, ascending
    size_t count;
} against_run;

// Reads what Google Benchmark wrote (--benchmark_out) of a run with so many threads; says what is wrong and exits.
against_run against_read(const char *path, unsigned threads);
void against_free(against_run *run);
// Prints what changed by more than the spread, what is new and what is gone. filter: of the run that was just made, or
// NULL: what it left out is not gone. Returns the exit status.
int against_print(const against_run *old, const char *old_path, const against_run *now, const char *filter);

#endif
