// A low-rank layer of random numbers, through the public interface.
#include <stdlib.h>
#include <string.h>

#include "bench.h"

// The upper halves, in place: floats that bfloat16 holds exactly, rounded towards zero.
static void narrow(float *w, size_t count) {
    uint16_t *to = (void *)w;
    for (size_t i = 0; i < count; i++) {
        uint32_t word;
        memcpy(&word, (const char *)w + i * sizeof word, sizeof word);
        const uint16_t half = (uint16_t)(word >> 16);
        memcpy(to + i, &half, sizeof half);
    }
}

// Packs `copies` of W, one behind the other.
static bool pack(bench_layer *l, lod_error *err) {
    const bench_shape *s = &l->shape;
    const size_t size = lod_packed_size(s->n_in, s->n_out, l->dtype);
    float *w = bench_random(s->n_out, s->n_in, 1);
    l->packed = bench_memory(size * l->copies);
    lod_status status = w && l->packed ? LOD_OK : LOD_NO_MEMORY;
    if (status == LOD_OK && l->dtype == LOD_BF16) narrow(w, s->n_out * s->n_in);
    for (size_t i = 0; i < l->copies && status == LOD_OK; i++) {
        status = lod_pack_weights(s->n_in, s->n_out, l->dtype, w, s->n_in, (char *)l->packed + i * size, err);
    }
    free(w);
    return status == LOD_OK;
}

static bool make_sum(lod_grad_sum *sum, size_t size) {
    void *memory = bench_memory(lod_grad_sum_size(size, 1));
    if (memory) lod_grad_sum_init(sum, size, 1, memory);
    return memory != NULL;
}

bool bench_layer_make(bench_layer *layer, const bench_shape *shape, lod_dtype dtype, bool cold, unsigned threads,
                      lod_error *err) {
    bench_layer *l = layer;
    const bench_shape *s = shape;
    *l = (bench_layer){.shape = *s, .dtype = dtype, .copies = 1, .start = {0, s->tokens}};
    if (cold) l->copies = lod_div_up(bench_cold_bytes(), lod_packed_size(s->n_in, s->n_out, dtype));
    *err = (lod_error){LOD_NO_MEMORY, "layer", "no memory"};
    lod_lowrank_shape planned = {.n_in = s->n_in, .n_out = s->n_out, .rank = s->rank, .tokens = s->tokens};
    if (lod_plan_lowrank(&planned, threads, LOD_ESTIMATE, &l->plan, err) != LOD_OK || !pack(l, err)) {
        return false;
    }
    l->workspace = bench_memory(lod_plan_workspace(l->plan));
    l->x = bench_random(s->tokens, s->n_in, 2);
    l->dy = bench_random(s->tokens, s->n_out, 3);
    l->a = bench_random(s->rank, s->n_in, 4);
    l->bt = bench_random(s->rank, s->n_out, 5);
    l->u = bench_floats(s->tokens * s->rank);
    l->y = bench_floats(s->tokens * s->n_out);
    l->dx = bench_floats(s->tokens * s->n_in);
    l->total = bench_floats(s->rank * (s->n_in > s->n_out ? s->n_in : s->n_out));
    bool sums = make_sum(&l->da, s->rank * s->n_in) && make_sum(&l->dbt, s->rank * s->n_out);
    return l->workspace && l->x && l->dy && l->a && l->bt && l->u && l->y && l->dx && l->total && sums;
}

void bench_layer_free(bench_layer *l) {
    void *const memory[] = {l->packed, l->workspace, l->x,  l->dy,    l->a,        l->bt,
                            l->u,      l->y,         l->dx, l->total, l->da.level, l->dbt.level};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++) {
        free(memory[i]);
    }
    lod_plan_free(l->plan);
}

lod_status bench_layer_run(bench_layer *l, const bench_work *work, lod_error *err) {
    const bench_shape *s = &l->shape;
    const char *packed = l->packed;
    packed += l->next++ % l->copies * lod_packed_size(s->n_in, s->n_out, l->dtype);
    lod_lowrank_args args = {
        .rows = {.count = 1, .start = l->start, .draw = l->draw},
        .rank = work->rank,
        .scale = 2,
        .dropout = {.compensation = LOD_COMPENSATION_INVERTED, .p = work->rate, .seed = 1},
        .x = l->x,
        .ldx = s->n_in,
        .w = {.packed = packed, .dtype = l->dtype},
        .a = l->a,
        .bt = l->bt,
        .u = l->u,
        .y = l->y,
        .ldy = s->n_out,
        .dy = l->dy,
        .lddy = s->n_out,
        .dx = l->dx,
        .lddx = s->n_in,
        .da = work->rank ? &l->da : NULL,
        .dbt = work->rank ? &l->dbt : NULL,
    };
    if (work->pass != BENCH_BACKWARD) LOD_TRY(lod_lowrank_forward(l->plan, &args, l->workspace, err));
    if (work->pass == BENCH_FORWARD) return LOD_OK;
    LOD_TRY(lod_lowrank_backward(l->plan, &args, l->workspace, err));
    if (work->rank) {
        lod_grad_sum_finish(&l->da, l->total);
        lod_grad_sum_finish(&l->dbt, l->total);
    }
    return LOD_OK;
}

double bench_layer_flops(const bench_shape *s, const bench_work *work) {
    double frozen = 2.0 * (double)s->tokens * (double)s->n_in * (double)s->n_out;
    double adapter = 2.0 * (double)s->tokens * (double)work->rank * (double)(s->n_in + s->n_out);
    double forward = work->pass != BENCH_BACKWARD, backward = work->pass != BENCH_FORWARD;
    return frozen * (forward + backward) + adapter * (forward + 2 * backward);
}

double bench_layer_bytes(const bench_shape *s, lod_dtype dtype, const bench_work *work) {
    const double forward = work->pass != BENCH_BACKWARD, backward = work->pass != BENCH_FORWARD;
    const double ends = (double)(s->n_in + s->n_out), tokens = (double)s->tokens, rank = (double)work->rank;
    const double weights = (double)lod_packed_size(s->n_in, s->n_out, dtype);
    // X and Y, or dY and dX; A and B; U. Backward with an adapter reads X again and writes leaves.
    double floats = (forward + backward) * (tokens * ends + rank * ends + tokens * rank);
    if (work->rank) floats += backward * (tokens * (double)s->n_in + rank * ends);
    return (forward + backward) * weights + floats * sizeof(float);
}

const char *bench_pass_text(bench_pass pass) {
    static const char *const texts[BENCH_PASSES] = {"fwd", "bwd", "fwd_bwd"};
    return texts[pass];
}
