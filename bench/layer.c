// A low-rank layer of random numbers, through the public interface.
#include <stdlib.h>

#include "bench.h"

static bool pack(bench_layer *l, lod_error *err) {
    const bench_shape *s = &l->shape;
    float *w = bench_random(s->n_out, s->n_in, 1);
    l->packed = bench_memory(lod_packed_size(s->n_in, s->n_out, LOD_F32));
    lod_status status = LOD_NO_MEMORY;
    if (w && l->packed) status = lod_pack_weights(s->n_in, s->n_out, LOD_F32, w, s->n_in, l->packed, err);
    free(w);
    return status == LOD_OK;
}

static bool make_sum(lod_grad_sum *sum, size_t size) {
    void *memory = bench_memory(lod_grad_sum_size(size, 1));
    if (memory) lod_grad_sum_init(sum, size, 1, memory);
    return memory != NULL;
}

bool bench_layer_make(bench_layer *layer, const bench_shape *shape, unsigned threads, lod_error *err) {
    bench_layer *l = layer;
    const bench_shape *s = shape;
    *l = (bench_layer){.shape = *s, .start = {0, s->tokens}};
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
    lod_lowrank_args args = {
        .rows = {.count = 1, .start = l->start, .draw = l->draw},
        .rank = work->rank,
        .scale = 2,
        .dropout = {.compensation = LOD_COMPENSATION_INVERTED, .p = work->rate, .seed = 1},
        .x = l->x,
        .ldx = s->n_in,
        .w = {.packed = l->packed, .dtype = LOD_F32},
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

const char *bench_pass_text(bench_pass pass) {
    static const char *const texts[BENCH_PASSES] = {"fwd", "bwd", "fwd_bwd"};
    return texts[pass];
}
