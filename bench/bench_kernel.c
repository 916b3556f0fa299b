// Kernels: every variant that this CPU runs, on the sizes that the shapes lead to, one thread. Hot: the same operands
// again and again, out of the nearest cache that holds them; cold: sets of operands in turn, more than any cache holds.
// ref variants are there to be right, so theirs are hot only.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernel.h"

enum { BATCH_MOST = 64, BATCH_WORK = 1 << 18, MAX_SETS = 1 << 16, OPERANDS = 256 << 20 };

typedef struct kernel_case {
    const lod_kernel *kernel;
    const kernel_bench *bench;
    kernel_shape shape;
    bool cold;
    struct kernel_case *next;
    char name[160];
} kernel_case;

// The argument structs of a kernel that are used in turn.
typedef struct kernel_sets {
    const void **args;
    size_t count, next;
    double flops, bytes; // of a call
} kernel_sets;

typedef struct kernel_state {
    const lod_kernel *kernel;
    unsigned batch;
} kernel_state;

static kernel_arena arena;

static bool make_arena(void) {
    if (!arena.base) {
        arena.size = 4 * bench_cold_bytes() + OPERANDS; // of which only what is used is ever touched
        arena.base = bench_memory(arena.size);
    }
    arena.used = 0;
    arena.unwritten = false;
    return arena.base != NULL;
}

static void build(kernel_build *b) {
    arena.bytes = 0;
    b->flops = 0;
    b->arena = &arena;
    b->bench->make(b);
}

static bool make_sets(kernel_sets *sets, const kernel_case *c, double rate) {
    const size_t before = arena.used;
    kernel_build b = {.kernel = c->kernel, .shape = &c->shape, .bench = c->bench, .rate = rate};
    *sets = (kernel_sets){.args = calloc(MAX_SETS, sizeof *sets->args)};
    if (!sets->args) return false;
    do {
        build(&b);
        sets->args[sets->count++] = b.args;
    } while (c->cold && arena.used - before < bench_cold_bytes() && sets->count < MAX_SETS);
    sets->flops = b.flops, sets->bytes = arena.bytes;
    return true;
}

static void call_kernel(const lod_kernel *kernel, const void *args) {
    switch (kernel->op) {
#define LOD_OP(op)                                                                                                     \
    case LOD_OP_##op:                                                                                                  \
        kernel->fn.op(args);                                                                                           \
        break;
#define LOD_VECTOR(op) LOD_OP(op)
#include "kernels.def"
    default:
        break;
    }
}

static lod_status call(void *state, const void *work, lod_error *err) {
    (void)err;
    const kernel_state *s = state;
    kernel_sets *sets = *(kernel_sets *const *)work;
    for (unsigned i = 0; i < s->batch; i++) {
        call_kernel(s->kernel, sets->args[sets->next]);
        if (++sets->next == sets->count) sets->next = 0;
    }
    return LOD_OK;
}

// Enough calls between two looks at the benchmark's counter that those count for nothing: some microseconds.
static unsigned batch_of(const lod_kernel *kernel, const kernel_sets *sets) {
    const double calls = 1 + BATCH_WORK / (sets->flops + sets->bytes);
    return kernel->isa == LOD_ISA_ref ? 1 : calls < BATCH_MOST ? (unsigned)calls : BATCH_MOST;
}

static void run_kernel(gb_state *state, const void *context) {
    const kernel_case *c = context;
    kernel_state s = {.kernel = c->kernel};
    kernel_sets sets = {0}, plain = {0}, *work = &sets, *without = &plain;
    const bool drops = c->bench->rate > 0;
    if (make_arena() && make_sets(&sets, c, c->bench->rate) && (!drops || make_sets(&plain, c, 0))) {
        s.batch = batch_of(c->kernel, &sets);
        bench_measure(state, &(bench_subject){.call = call,
                                              .state = &s,
                                              .work = &work,
                                              .plain = drops ? &without : NULL,
                                              .flops = sets.flops,
                                              .bytes = sets.bytes,
                                              .batch = s.batch,
                                              .isa = c->kernel->isa,
                                              .threads = 1});
    } else {
        gb_skip(state, "no memory");
    }
    free(sets.args);
    free(plain.args);
}

// --- Registering ---

// Shapes that lead to the same sizes are one benchmark.
static bool is_new(const kernel_case *list, const char *name) {
    for (; list; list = list->next) {
        if (strcmp(list->name, name) == 0) return false;
    }
    return true;
}

static void add_case(const lod_kernel *kernel, const kernel_bench *bench, const kernel_shape *shape, bool cold) {
    static kernel_case *list;
    kernel_build b = {.kernel = kernel, .shape = shape, .bench = bench, .rate = bench->rate};
    kernel_case *c = bench_keep(1, sizeof *c);
    if (!c || !make_arena()) {
        fputs("lodrop-bench: no memory for kernels\n", stderr);
        exit(1);
    }
    arena.unwritten = true;
    build(&b);
    char rate[16] = "";
    if (bench->rate > 0) snprintf(rate, sizeof rate, "_p%g", bench->rate);
    snprintf(c->name, sizeof c->name, "%s/%s/%s%s%s%s/%s", lod_op_text(kernel->op), strstr(kernel->name, "__") + 2,
             bench->name ? bench->name : "", bench->name ? "_" : "", b.text, rate, cold ? "cold" : "hot");
    if (!is_new(list, c->name)) return;
    c->kernel = kernel, c->bench = bench, c->shape = *shape, c->cold = cold, c->next = list;
    list = c;
    gb_add(c->name, run_kernel, c);
}

static size_t shapes_of(const bench_shapes *shapes, kernel_kind kind) {
    const size_t counts[KERNEL_KINDS] = {shapes->layer_count, shapes->attention_count, shapes->loss_count,
                                         shapes->rowwise_count};
    return counts[kind];
}

static kernel_shape shape_at(const bench_shapes *shapes, kernel_kind kind, size_t i) {
    switch (kind) {
    case KERNEL_LAYER:
        return (kernel_shape){.layer = shapes->layers[i]};
    case KERNEL_ATTENTION:
        return (kernel_shape){.attention = shapes->attentions[i]};
    case KERNEL_LOSS:
        return (kernel_shape){.loss = shapes->losses[i]};
    default:
        return (kernel_shape){.rowwise = shapes->rowwises[i]};
    }
}

static void add_bench(const lod_kernel *kernel, const kernel_bench *bench, const bench_shapes *shapes) {
    for (size_t i = 0; i < shapes_of(shapes, bench->kind); i++) {
        const kernel_shape shape = shape_at(shapes, bench->kind, i);
        add_case(kernel, bench, &shape, false);
        if (kernel->isa != LOD_ISA_ref) add_case(kernel, bench, &shape, true);
    }
}

void bench_add_kernels(const bench_shapes *shapes) {
    size_t count;
    const lod_kernel *kernels = lod_kernels(&count);
    for (size_t i = 0; i < count; i++) {
        size_t benches = 0;
        for (size_t j = 0; j < kernel_bench_count; j++) {
            if (kernel_benches[j].op != kernels[i].op) continue;
            if (lod_cpu_has(kernels[i].isa)) add_bench(&kernels[i], &kernel_benches[j], shapes);
            benches++;
        }
        if (benches == 0) {
            fprintf(stderr, "lodrop-bench: %s: kernel_args.c has no benchmark for it\n", kernels[i].name);
            exit(1);
        }
    }
}
