// Widens one k block of a weight panel to float32, inside the matrix product that uses it. The packed weight is read
// in blocks of 16 columns by any number of rows, contiguous in memory: as they stand for the backward pass, transposed
// for the forward pass, 16x16 elements at a time in registers.
#include "panel.h"

void LOD_VARIANT(weight_panel_f32)(const lod_weight_panel_args *args) {
    if (args->transposed) {
        panel_transposed(&args->w, args->n_out, args->panel * LOD_PANEL, args->k0, args->k, args->out);
    } else {
        panel_widen(&args->w, (args->panel * args->n_out + args->k0) * LOD_PANEL, args->k * LOD_PANEL, args->out);
    }
}
