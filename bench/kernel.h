// Benchmarks of kernels: what a kernel is called with. kernel_args.c has the table, bench_kernel.c runs it.
#ifndef LOD_BENCH_KERNEL_H
#define LOD_BENCH_KERNEL_H

#include "bench.h"

// Which of a file's shapes a benchmark is made for.
typedef enum kernel_kind { KERNEL_LAYER, KERNEL_ATTENTION, KERNEL_LOSS, KERNEL_ROWWISE, KERNEL_KINDS } kernel_kind;
typedef union kernel_shape {
    bench_shape layer;
    bench_attention_shape attention;
    bench_loss_shape loss;
    bench_rowwise_shape rowwise;
} kernel_shape;

// Memory of operands, one behind the other; `bytes` adds up what a call reads and writes.
typedef struct kernel_arena {
    char *base;
    size_t used, size;
    double bytes;
    bool unwritten; // only sizes are wanted: operands get no numbers
} kernel_arena;

// One call's arguments in the making.
typedef struct kernel_build {
    const lod_kernel *kernel;
    const kernel_shape *shape;
    const struct kernel_bench *bench;
    double rate;   // of the dropout
    kernel_arena *arena;
    float *weight; // what a build leaves for the next: W, whose panels are used one after another
    size_t panel;
    // Results.
    const void *args;
    double flops;
    char text[48]; // the sizes, as the name shows them
} kernel_build;

// One benchmark of an operation: `make` fills in the results, its operands from the arena.
typedef struct kernel_bench {
    lod_op op;
    kernel_kind kind;
    const char *name; // of this among the operation's, NULL: it has only one
    void (*make)(kernel_build *build);
    double rate; // of its dropout, 0: none
    int choice;  // which of its forms; make knows
} kernel_bench;

extern const kernel_bench kernel_benches[];
extern const size_t kernel_bench_count;

#endif
