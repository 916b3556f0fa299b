// Panels of packed weights: widened exactly, so bit for bit what a plain loop gives.
#include <string.h>

#include "check.h"
#include "ref/ref.h"

typedef struct panel_case {
    lod_dtype dtype;
    bool transposed;
    size_t n_in, n_out;
} panel_case;

static size_t size_of(lod_dtype dtype) {
    return dtype == LOD_F32 ? sizeof(float) : sizeof(uint16_t);
}

// Any bit pattern but a signalling NaN, which no arithmetic has to keep.
static uint32_t any_bits(lod_dtype dtype) {
    uint32_t bits = (uint32_t)check_random();
    switch (dtype) {
    case LOD_F32:
        return (bits & 0x7f800000) == 0x7f800000 ? bits | 0x00400000 : bits;
    case LOD_BF16:
        return ((bits & 0x7f80) == 0x7f80 ? bits | 0x0040 : bits) & 0xffff;
    case LOD_F16:
        return ((bits & 0x7c00) == 0x7c00 ? bits | 0x0200 : bits) & 0xffff;
    }
    return 0;
}

// W [n_out][n_in] packed as [n_in / 16][n_out][16].
static void *packed(const panel_case *c) {
    size_t size = size_of(c->dtype), panels = (c->n_in + LOD_PANEL - 1) / LOD_PANEL;
    uint8_t *w = check_operand("w", CHECK_IN, size, panels * c->n_out, LOD_PANEL, LOD_PANEL, 64);
    for (size_t i = 0; i < panels * c->n_out * LOD_PANEL; i++) {
        size_t column = i / LOD_PANEL / c->n_out * LOD_PANEL + i % LOD_PANEL;
        uint32_t bits = column < c->n_in ? any_bits(c->dtype) : 0;
        uint16_t half = (uint16_t)bits;
        memcpy(w + i * size, size == sizeof half ? (void *)&half : (void *)&bits, size);
    }
    return w;
}

static void check_block(const lod_kernel *kernel, const panel_case *c, size_t panel, size_t k0, size_t k) {
    check_shape("dtype=%d %s n_in=%zu n_out=%zu panel=%zu k0=%zu k=%zu", (int)c->dtype,
                c->transposed ? "transposed" : "plain", c->n_in, c->n_out, panel, k0, k);
    lod_weight_panel_args t = {
        .w = {.packed = packed(c), .dtype = c->dtype},
        .n_in = c->n_in,
        .n_out = c->n_out,
        .transposed = c->transposed,
        .panel = panel,
        .k0 = k0,
        .k = k,
    };
    float *want = check_operand("want", CHECK_OUT, sizeof *want, k, LOD_PANEL, LOD_PANEL, 64);
    t.out = want;
    lod_weight_panel_f32__ref(&t);
    t.out = check_operand("out", CHECK_OUT, sizeof *t.out, k, LOD_PANEL, LOD_PANEL, 64);
    CHECK_CALL(kernel->fn.weight_panel_f32(&t));
    check_bytes_equal("out", t.out, want, k * LOD_PANEL * sizeof *want);
    check_share(t.out);
}

CHECK_KERNEL(weight_panel_f32, 0xd4b39a56ef0193de) {
    static const size_t sizes[] = {1, 3, 31, 32, 33, 70, 129};
    const size_t count = sizeof sizes / sizeof sizes[0];
    if (check_mode_now() != CHECK_UNIFORM) {
        return; // weights are bit patterns here: there is one mode
    }
    for (size_t i = 0; i < count * count * 6; i++) {
        panel_case c = {.dtype = (lod_dtype)(i % 3),
                        .transposed = i / 3 % 2,
                        .n_in = sizes[i / 6 % count],
                        .n_out = sizes[i / 6 / count]};
        size_t depth = c.transposed ? c.n_in : c.n_out, width = c.transposed ? c.n_out : c.n_in;
        size_t last = (width - 1) / LOD_PANEL;
        check_block(kernel, &c, 0, 0, depth);
        check_block(kernel, &c, last, (depth - 1) / LOD_PANEL * LOD_PANEL, (depth - 1) % LOD_PANEL + 1);
        check_block(kernel, &c, last, 0, depth < LOD_PANEL ? depth : LOD_PANEL);
    }
}
