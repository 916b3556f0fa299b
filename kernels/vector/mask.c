// Element masks as bits (draw.h), whole rows of them.
#include "draw.h"
#include "kernels.h"

void LOD_VARIANT(keep_bits)(const lod_keep_bits_args *args) {
    const philox_key key = expand_key(args->seed);
    for (size_t j = 0; j * 128 < args->n; j++) {
        const philox_group group = start_group(&key, (uint32_t)j * 16, args->site, args->draw);
        for (size_t i = 0; i < args->rows; i++) {
            philox_row row = start_row(&key, args->row0 + (uint32_t)i, args->site);
            draw_group(&key, &group, row, args->threshold, args->bits + i * args->ldbits + j * 16);
        }
    }
}
