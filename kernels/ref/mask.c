// Element masks: philox.h is their definition, so there is no f64 form.
#include "philox.h"
#include "ref.h"

#include <string.h>

void lod_keep_bits__ref(const lod_keep_bits_args *a) {
    size_t cols = (a->n + 127) / 128 * 128;
    for (size_t i = 0; i < a->rows; i++) {
        uint8_t *bits = a->bits + i * a->ldbits;
        memset(bits, 0, cols / 8);
        for (size_t j = 0; j < cols; j++) {
            bool keep = lod_mask_u16(a->seed, a->site, a->draw, a->row0 + (uint32_t)i, (uint32_t)j) >= a->threshold;
            bits[j / 8] |= (uint8_t)(keep << (j % 8));
        }
    }
}
