#include <lodrop.h>
#include <stdio.h>
#include <stdlib.h>

enum { T = 64, IN = 256, OUT = 128, R = 8 };
static float x[T * IN], w[OUT * IN], a[R * IN], bt[R * OUT], u[T * R], y[T * OUT];

int main(void) {
    for (size_t i = 0; i < T * IN; i++) x[i] = 1;
    for (size_t i = 0; i < OUT * IN; i++) w[i] = 1.0f / IN;
    for (size_t i = 0; i < R * IN; i++) a[i] = bt[i % (R * OUT)] = 0.125f;
    lod_error error;
    lod_plan *plan;
    if (lod_plan_lowrank(&(lod_lowrank_shape){IN, OUT, R, T}, 0, LOD_ESTIMATE, &plan, &error)) return puts(error.text), 1;
    void *workspace = aligned_alloc(64, lod_plan_workspace(plan));
    void *packed = aligned_alloc(64, lod_packed_size(IN, OUT, LOD_F32));
    if (lod_pack_weights(IN, OUT, LOD_F32, w, IN, packed, &error)) return puts(error.text), 1;
    lod_lowrank_args layer = {
        .rows = {.count = 1, .start = (size_t[]){0, T}, .draw = (uint32_t[]){0}}, // one segment of T tokens
        .w = {packed, LOD_F32}, .rank = R, .scale = 2, .a = a, .bt = bt, .u = u,
        .dropout = {.compensation = LOD_COMPENSATION_INVERTED, .p = 0.1, .seed = 42},
        .x = x, .ldx = IN, .y = y, .ldy = OUT};
    if (lod_lowrank_forward(plan, &layer, workspace, &error)) return puts(error.text), 1;
    printf("y[0][0] = %.4f: 1 from W, the rest from s B A and what a tenth dropped leaves of x\n", (double)y[0]);
}
