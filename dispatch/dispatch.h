// The inside of dispatch/: the CPU, the table of kernels, threads, and what a plan holds.
#ifndef LOD_DISPATCH_H
#define LOD_DISPATCH_H

#include "kernels.h"
#include "lodrop.h"

// --- cpu.c: which instruction sets this CPU and operating system run ---
typedef enum lod_isa { LOD_ISA_ref, LOD_ISA_avx2, LOD_ISA_avx512, LOD_ISA_neon, LOD_ISA_COUNT } lod_isa;
const char *lod_isa_text(lod_isa isa);
bool lod_cpu_has(lod_isa isa);
// The ISA in use; why: one phrase.
lod_status lod_isa_in_use(lod_isa *isa, const char **why, lod_error *err);

// --- registry.c: the table of variants, from kernels.def ---
typedef enum lod_op {
#define LOD_OP(op) LOD_OP_##op,
#define LOD_VECTOR(op) LOD_OP_##op,
#include "kernels.def"
    LOD_OP_COUNT
} lod_op;

typedef struct lod_kernel {
    const char *name; // "lod_lowrank_tile_f32__avx2_6x16"
    lod_op op;
    lod_isa isa;
    unsigned mr, nr; // 0 where the contract has no tile
    union {
#define LOD_OP(op) lod_##op##_fn *op;
#define LOD_VECTOR(op) lod_##op##_fn *op;
#include "kernels.def"
    } fn;
} lod_kernel;

const lod_kernel *lod_kernels(size_t *count);
const char *lod_op_text(lod_op op);
// The first variant of op for isa; every op has one for every ISA of the build.
const lod_kernel *lod_kernel_find(lod_op op, lod_isa isa);

// --- parallel.c: the only file that knows of threads ---
// Runs body(task, i) for i in [0, tasks) on up to lod_parallel_threads(threads) threads, each with the default
// floating-point environment (round to nearest, denormals kept), which is restored afterwards.
void lod_parallel(unsigned threads, size_t tasks, void (*body)(void *task, size_t i), void *task);
// The same, telling each task which of at most `threads` workers runs it: two tasks of one worker never overlap.
void lod_parallel_workers(unsigned threads, size_t tasks, void (*body)(void *task, size_t worker, size_t i),
                          void *task);
// How many of `threads` are worth it: no more than the calling thread may use CPUs, nor than the cgroup's quota pays
// for. A caller's own parallel-for is given them all.
unsigned lod_parallel_threads(unsigned threads);
// Asks anew what the quota pays for. Each plan does; until then there is no such limit.
void lod_parallel_fit_quota(void);
// For tests: as if there were so many CPUs and no quota; 0: as it is.
void lod_parallel_pretend(unsigned cpus);
// The same environment for what a call computes outside lod_parallel, to the end of the enclosing scope.
uint64_t lod_fp_default(void);
void lod_fp_restore(const uint64_t *saved);
#define LOD_DEFAULT_FP __attribute__((cleanup(lod_fp_restore), unused)) const uint64_t saved_fp_ = lod_fp_default()

// --- threads.c ---
// The default number of threads; why: one phrase.
unsigned lod_threads(const char **why);
// hwloc's view of this machine, loaded once and kept; NULL if it cannot be had. Not in builds without hwloc.
struct hwloc_topology *lod_topology(void);

// --- cgroup.c ---
// The CPU quota of this process's control group in CPUs; 0: none. prefix: where /proc and the mounts lie ("").
double lod_cgroup_quota(const char *prefix);

// --- gradsum.c ---
// Adds the columns col0 .. col0+cols-1 of leaf number `index` ([rows][ld] as a whole) to a sum; leaf [rows][ldleaf] is
// overwritten. The caller advances sum->count when all columns of its leaves are in.
void lod_grad_sum_push(lod_grad_sum *sum, uint64_t index, float *leaf, size_t rows, size_t cols, size_t ldleaf,
                       size_t col0, size_t ld);

// --- error.c: errors, and the checks that several operations make ---
lod_status lod_fail(lod_error *err, lod_status code, const char *field, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
lod_status lod_check_matrix(const void *matrix, size_t ld, size_t columns, const char *field, lod_error *err);
// A result may lie in the place of an operand, where both have one leading dimension.
lod_status lod_check_in_place(const float *out, size_t ldout, const float *in, size_t ldin, const char *field,
                              lod_error *err);
lod_status lod_check_dtype(lod_dtype dtype, const char *field, lod_error *err);
lod_status lod_check_weight(const lod_weight *w, lod_error *err);
lod_status lod_check_aligned(const void *memory, const char *field, lod_error *err);
#define LOD_TRY(check)                                                                                                 \
    do {                                                                                                               \
        lod_status status_ = (check);                                                                                  \
        if (status_ != LOD_OK) return status_;                                                                         \
    } while (0)

static inline size_t lod_min(size_t a, size_t b) {
    return a < b ? a : b;
}
static inline size_t lod_div_up(size_t a, size_t unit) {
    return (a + unit - 1) / unit;
}
typedef struct lod_range {
    size_t begin, end;
} lod_range;
// Part i of `parts` equal parts of [0, count), cut at multiples of `unit`.
static inline lod_range lod_part(size_t count, size_t unit, size_t parts, size_t i) {
    size_t units = lod_div_up(count, unit);
    return (lod_range){lod_min(units * i / parts * unit, count), lod_min(units * (i + 1) / parts * unit, count)};
}
static inline size_t lod_round_up(size_t a, size_t unit) {
    return lod_div_up(a, unit) * unit;
}

// --- mask.c ---
// Checks p; inv is 1 / (1 - thr/65536) if inverted, else 1.
lod_status lod_dropout_check(const lod_dropout *dropout, uint32_t *threshold, float *inv, lod_error *err);
lod_status lod_rows_check(const lod_rows *rows, bool needs_draw, const char *field, lod_error *err);

#endif
