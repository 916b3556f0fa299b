// Blocks of a packed weight, widened exactly: there is nothing to round, so there is no f64 form.
#include "ref.h"

#include <string.h>

static float from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

// sign:1 | exponent:5 (bias 15) | fraction:10
static float from_f16(uint32_t h) {
    uint32_t sign = h >> 15 << 31, exponent = h >> 10 & 31, fraction = h & 1023;
    if (exponent == 31) {
        return from_bits(sign | 0x7f800000u | fraction << 13);
    }
    if (exponent == 0) {
        float x = (float)fraction * 0x1p-24f;
        return sign ? -x : x;
    }
    return from_bits(sign | (exponent - 15 + 127) << 23 | fraction << 13);
}

static float element(const lod_weight *w, size_t index) {
    switch (w->dtype) {
    case LOD_BF16:
        return from_bits((uint32_t)((const uint16_t *)w->packed)[index] << 16);
    case LOD_F16:
        return from_f16(((const uint16_t *)w->packed)[index]);
    case LOD_F32:
        break;
    }
    return ((const float *)w->packed)[index];
}

void lod_weight_panel_f32__ref(const lod_weight_panel_args *a) {
    for (size_t kk = 0; kk < a->k; kk++) {
        for (size_t c = 0; c < LOD_PANEL; c++) {
            size_t out = a->transposed ? LOD_PANEL * a->panel + c : a->k0 + kk;
            size_t in = a->transposed ? a->k0 + kk : LOD_PANEL * a->panel + c;
            size_t index = (in / LOD_PANEL * a->n_out + out) * LOD_PANEL + in % LOD_PANEL;
            a->out[kk * LOD_PANEL + c] = out < a->n_out ? element(&a->w, index) : 0;
        }
    }
}
