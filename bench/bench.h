// The inside of lodrop-bench: the two roofs, shapes, operands, what is measured, and the two ways to measure.
#ifndef LOD_BENCH_H
#define LOD_BENCH_H

#include "dispatch.h"
#include "gbench.h"

// --- bench_peak.c: what shares are measured against ---
// CPU time of this thread where only it works, which a busy machine disturbs least; else time as it passes.
double bench_seconds(unsigned threads);
// Flop/s of fused multiply-adds on `threads` threads at once, measured for about `seconds`; 0 where isa has no probe.
double bench_peak(lod_isa isa, unsigned threads, double seconds);
// Bytes/s that `threads` threads at once read from memory, each from a part of its own of a set that no cache holds;
// 0 where isa has no probe or there is no memory.
double bench_bandwidth(lod_isa isa, unsigned threads, double seconds);
// `threads`: the peak is measured on one, bandwidth on one and on that many.
void bench_add_peaks(unsigned threads);

// --- shapes.c ---
typedef struct bench_shape {
    char name[48];
    size_t tokens, n_in, n_out, rank;
} bench_shape;
typedef struct bench_attention_shape {
    char name[48];
    size_t tokens, heads, kv_heads, head_dim;
} bench_attention_shape;
typedef struct bench_loss_shape {
    char name[48];
    size_t tokens, n_in, vocabulary;
} bench_loss_shape;
typedef struct bench_rowwise_shape {
    char name[48];
    size_t tokens, width, middle, heads; // width and heads of RMSNorm, RoPE and sums, middle of SwiGLU
} bench_rowwise_shape;
typedef struct bench_shapes {
    bench_shape *layers;
    bench_attention_shape *attentions;
    bench_loss_shape *losses;
    bench_rowwise_shape *rowwises;
    size_t layer_count, attention_count, loss_count, rowwise_count;
} bench_shapes;
// Reads lines as shapes.txt shows them, # starting a comment; says what is wrong and exits.
bench_shapes bench_read_shapes(const char *path);
void bench_free_shapes(bench_shapes *shapes);

// --- memory.c: on huge pages, because on small ones it is chance whether blocks collide in the second cache ---
void *bench_memory(size_t bytes);
// Zeroed, to the program's end: what benchmarks are registered with. NULL: no memory.
void *bench_keep(size_t count, size_t size);
float *bench_floats(size_t count);
// Uniform in [-1, 1), the same for the same site.
float *bench_random(size_t rows, size_t cols, uint32_t site);
// Bytes that no cache holds: twice the last cache, between 64 and 256 MiB, since virtual machines report any size; or
// what was set.
size_t bench_cold_bytes(void);
void bench_set_cold_bytes(size_t bytes);

// --- layer.c: a low-rank layer of random numbers, everything allocated, W packed ---
typedef struct bench_layer {
    bench_shape shape;
    lod_dtype dtype;
    lod_plan *plan;
    void *packed, *workspace;
    size_t copies, next; // of packed W; the one that comes next
    float *x, *a, *bt, *u, *y, *dy, *dx, *total;
    lod_grad_sum da, dbt;
    size_t start[2];
    uint32_t draw[1];
} bench_layer;
typedef enum bench_pass { BENCH_FORWARD, BENCH_BACKWARD, BENCH_BOTH, BENCH_PASSES } bench_pass;
// What runs on a layer: rank 0 is the frozen layer alone; rate is that of the input's element mask.
typedef struct bench_work {
    bench_pass pass;
    size_t rank;
    double rate;
} bench_work;
// cold: as many copies of W, used in turn, as no cache holds.
bool bench_layer_make(bench_layer *layer, const bench_shape *shape, lod_dtype dtype, bool cold, unsigned threads,
                      lod_error *err);
void bench_layer_free(bench_layer *layer);
lod_status bench_layer_run(bench_layer *layer, const bench_work *work, lod_error *err);
// Flops of the products alone; masks and packing are work that counts as none.
double bench_layer_flops(const bench_shape *shape, const bench_work *work);
// Bytes of the operands, each counted once for a read and once for a write.
double bench_layer_bytes(const bench_shape *shape, lod_dtype dtype, const bench_work *work);
const char *bench_pass_text(bench_pass pass);

// --- measure.c ---
// What a benchmark measures: calls of `call(state, work)`.
typedef struct bench_subject {
    lod_status (*call)(void *state, const void *work, lod_error *err);
    void *state;
    const void *work;
    const void *before; // run once before work is measured, for what it reads; NULL: nothing
    const void *plain;  // the same without dropout, to compare with; NULL: nothing
    double flops, bytes; // bytes: of the operands, each counted once for a read and once for a write
    unsigned batch;      // units in a call: flops, bytes and times are those of one
    lod_isa isa;
    unsigned threads;
    const lod_plan *plan; // its description is the benchmark's label; NULL: none
} bench_subject;
// The FMA peak comes from the same repetition, since shared machines drift; so does the time without dropout.
void bench_measure(gb_state *state, const bench_subject *subject);

// --- one file for each kind of benchmark; kernels first, then whole calls on `threads` threads ---
void bench_add_kernels(const bench_shapes *shapes);
void bench_add_layers(const bench_shapes *shapes, lod_isa isa, unsigned threads);
void bench_add_attentions(const bench_shapes *shapes, lod_isa isa, unsigned threads);
void bench_add_losses(const bench_shapes *shapes, lod_isa isa, unsigned threads);
void bench_add_rowwises(const bench_shapes *shapes, lod_isa isa, unsigned threads);
// Flops of an element of a row-wise operation: a fused one is two, an exp one.
double bench_rowwise_flops(lod_op op);

// Alternates peak, layer, layer with dropout, frozen layer; prints a line of medians and quartiles for each shape.
int bench_share(const bench_shape *shapes, size_t count, unsigned threads, unsigned rounds, double rate);
// Layers of growing T, n_in and n_out in turns; prints the least times and a straight line through them.
int bench_growth(unsigned threads, unsigned rounds);

#endif
