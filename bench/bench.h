// The inside of lodrop-bench: the FMA peak, shapes, one low-rank layer with its memory, and the two ways to measure.
#ifndef LOD_BENCH_H
#define LOD_BENCH_H

#include "dispatch.h"
#include "gbench.h"

// CPU time of this thread where only it works, which a busy machine disturbs least; else time as it passes.
double bench_seconds(unsigned threads);

// --- bench_peak.c ---
// Flop/s of fused multiply-adds on `threads` threads at once, measured for about `seconds`; 0 where isa has no probe.
double bench_peak(lod_isa isa, unsigned threads, double seconds);
void bench_add_peaks(void);

// --- shapes.c ---
typedef struct bench_shape {
    char name[48];
    size_t tokens, n_in, n_out, rank;
} bench_shape;
typedef struct bench_attention_shape {
    char name[48];
    size_t tokens, heads, kv_heads, head_dim;
} bench_attention_shape;
typedef struct bench_shapes {
    bench_shape *layers;
    bench_attention_shape *attentions;
    size_t layer_count, attention_count;
} bench_shapes;
// Reads lines `name tokens n_in n_out rank` and `attention name tokens heads kv_heads head_dim`, # starting a comment;
// says what is wrong and exits.
bench_shapes bench_read_shapes(const char *path);

// --- memory.c: on huge pages, because on small ones it is chance whether blocks collide in the second cache ---
void *bench_memory(size_t bytes);
float *bench_floats(size_t count);
// Uniform in [-1, 1), the same for the same site.
float *bench_random(size_t rows, size_t cols, uint32_t site);

// --- layer.c: a low-rank layer of random numbers, everything allocated, W packed ---
typedef struct bench_layer {
    bench_shape shape;
    lod_plan *plan;
    void *packed, *workspace;
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
bool bench_layer_make(bench_layer *layer, const bench_shape *shape, unsigned threads, lod_error *err);
void bench_layer_free(bench_layer *layer);
lod_status bench_layer_run(bench_layer *layer, const bench_work *work, lod_error *err);
// Flops of the products alone; masks and packing are work that counts as none.
double bench_layer_flops(const bench_shape *shape, const bench_work *work);
const char *bench_pass_text(bench_pass pass);

// --- measuring ---
// The counters of a benchmark, and its plan as its label. flops: of a call; peak, reference (seconds without dropout):
// 0 where there is none.
void bench_report(gb_state *state, const lod_plan *plan, double flops, double seconds, double peak, double reference);
void bench_add_layers(const bench_shape *shapes, size_t count, unsigned threads);
void bench_add_tiles(void);
void bench_add_attentions(const bench_attention_shape *shapes, size_t count, unsigned threads);
// Alternates peak, layer, layer with dropout, frozen layer; prints a line of medians and quartiles for each shape.
int bench_share(const bench_shape *shapes, size_t count, unsigned threads, unsigned rounds, double rate);

#endif
