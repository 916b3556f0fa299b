// The mask contract, version 1 (scalar form: this is the definition). A keep bit is a pure function of
// (seed, site, draw, row, col): Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011)
// gives four words w0..w3 for the counter (group, row, site, draw), and 16 neighbouring counters hold the 16-bit draws
// of 128 neighbouring columns:
//
//     group = (col / 128) * 16 + col % 16        h = (col % 128) / 16, in 0..7
//     u16   = h even ? low half of w[h / 2] : high half of w[h / 2]
//     keep  = u16 >= thr                         thr = floor(p * 65536 + 0.5)
//
// So 16 lanes give 128 consecutive columns without a shuffle on any vector width.
#ifndef LOD_PHILOX_H
#define LOD_PHILOX_H

#include <stddef.h>
#include <stdint.h>

#define LOD_PHILOX_M0 0xD2511F53u
#define LOD_PHILOX_M1 0xCD9E8D57u
#define LOD_PHILOX_W0 0x9E3779B9u
#define LOD_PHILOX_W1 0xBB67AE85u
#define LOD_PHILOX_ROUNDS 10

// site = domain:2 (highest) | layer:10 | position:6 | instance:6 | head:8 (lowest); positions are lod_position's.
enum {
    LOD_SITE_HEAD_BIT = 0,
    LOD_SITE_INSTANCE_BIT = 8,
    LOD_SITE_POSITION_BIT = 14,
    LOD_SITE_LAYER_BIT = 20,
    LOD_SITE_DOMAIN_BIT = 30,
};

typedef struct lod_philox {
    uint32_t w[4];
} lod_philox;

static inline lod_philox lod_philox4x32(uint64_t seed, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) {
    uint32_t key0 = (uint32_t)seed, key1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < LOD_PHILOX_ROUNDS; round++) {
        uint64_t p0 = (uint64_t)LOD_PHILOX_M0 * c0, p1 = (uint64_t)LOD_PHILOX_M1 * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ key0;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ key1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        key0 += LOD_PHILOX_W0;
        key1 += LOD_PHILOX_W1;
    }
    return (lod_philox){{c0, c1, c2, c3}};
}

// The 16-bit draw of a cell; the cell is kept if it is at least thr.
static inline uint32_t lod_mask_u16(uint64_t seed, uint32_t site, uint32_t draw, uint32_t row, uint32_t col) {
    uint32_t h = col % 128 / 16;
    lod_philox x = lod_philox4x32(seed, col / 128 * 16 + col % 16, row, site, draw);
    return h % 2 ? x.w[h / 2] >> 16 : x.w[h / 2] & 0xffff;
}

static inline uint32_t lod_mask_threshold(double p) {
    return (uint32_t)(p * 65536.0 + 0.5);
}

static inline int lod_mask_keep(uint64_t seed, uint32_t site, uint32_t draw, uint32_t row, uint32_t col, double p) {
    return lod_mask_u16(seed, site, draw, row, col) >= lod_mask_threshold(p);
}

#endif
