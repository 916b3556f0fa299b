#include <lodrop.h>
#include <stdio.h>
#include <stdlib.h>

enum { T = 64, IN = 256, OUT = 64, R = 8 }; // Y [T][OUT] = X [T][IN] W' + s dropout(X) A' B'
static float x[T * IN], w[OUT * IN], a[R * IN], bt[R * OUT], u[T * R], y[T * OUT];

int main(void) {
    for (int i = 0; i < T * IN; i++) x[i] = w[i] = a[i % (R * IN)] = bt[i % (R * OUT)] = 0.125f;
    lod_error error;
    lod_plan *plan;
    lod_lowrank_shape shape = {.n_in = IN, .n_out = OUT, .rank = R, .tokens = T};
    if (lod_plan_lowrank(&shape, 0, LOD_ESTIMATE, &plan, &error)) return puts(error.text), 1;
    void *workspace = aligned_alloc(64, lod_plan_workspace(plan));
    void *packed = aligned_alloc(64, lod_packed_size(IN, OUT, LOD_F32));
    if (lod_pack_weights(IN, OUT, LOD_F32, w, IN, packed, &error)) return puts(error.text), 1;
    lod_lowrank_args layer = {
        .rows = {.count = 1, .start = (size_t[]){0, T}, .draw = (uint32_t[]){0}}, // one segment of T tokens
        .dropout = {.compensation = LOD_COMPENSATION_INVERTED, .p = 0.1, .seed = 42},
        .w = {packed, LOD_F32}, .rank = R, .scale = 2, .a = a, .bt = bt, .u = u,
        .x = x, .ldx = IN, .y = y, .ldy = OUT};
    if (lod_lowrank_forward(plan, &layer, workspace, &error)) return puts(error.text), 1;
    printf("y[0][0] = %.4f: 4 from W, about 8 from the adapter\n", (double)y[0]);
    lod_plan_free(plan), free(workspace), free(packed);
}
