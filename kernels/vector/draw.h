// Element masks as bits, 128 columns of a row at a time: 16 lanes hold the 16 counters of the group, each word gives
// two draws, and a comparison turns 16 draws into 16 neighbouring bits without a shuffle.
//
// Of a counter (group, row, site, draw) only the row changes in the inner loop, so what does not depend on it is
// worked out before: the first round but for a scalar, half of the second and a quarter of the third.
#ifndef LOD_DRAW_H
#define LOD_DRAW_H

#include <string.h>

#include "philox.h"
#include "vec.h"

typedef struct philox_key {
    uint32_t k0[LOD_PHILOX_ROUNDS], k1[LOD_PHILOX_ROUNDS];
} philox_key;

// The row's share of the state after two rounds: round 1 leaves it in c0, round 2 in c2 and c3.
typedef struct philox_row {
    uint32_t c2, c3;
} philox_row;

// The group's share of the state: c2 after two rounds but for the row's share, c1 after two rounds, and round 3's
// product of c0.
typedef struct philox_group {
    w16 c2, c1, low, high;
} philox_group;

LOD_INLINE philox_key expand_key(uint64_t seed) {
    philox_key key;
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int i = 0; i < LOD_PHILOX_ROUNDS; i++) {
        key.k0[i] = k0;
        key.k1[i] = k1;
        k0 += LOD_PHILOX_W0;
        k1 += LOD_PHILOX_W1;
    }
    return key;
}

LOD_INLINE philox_group start_group(const philox_key *key, uint32_t first, uint32_t site, uint32_t draw) {
    philox_group group;
    w16 high0, high1;
    w16_mul(w16_count(first), LOD_PHILOX_M0, &group.c2, &high0);
    w16_mul(w16_xor(high0, draw ^ key->k1[0]), LOD_PHILOX_M1, &group.c1, &high1);
    w16_mul(w16_xor(high1, (site * LOD_PHILOX_M1) ^ key->k0[1]), LOD_PHILOX_M0, &group.low, &group.high);
    return group;
}

LOD_INLINE philox_row start_row(const philox_key *key, uint32_t row, uint32_t site) {
    uint32_t c0 = (uint32_t)(((uint64_t)site * LOD_PHILOX_M1) >> 32) ^ row ^ key->k0[0];
    uint64_t product = (uint64_t)c0 * LOD_PHILOX_M0;
    return (philox_row){.c2 = (uint32_t)(product >> 32) ^ key->k1[1], .c3 = (uint32_t)product ^ key->k1[2]};
}

// Writes the 16 bytes of 128 columns of one row.
LOD_INLINE void draw_group(const philox_key *key, const philox_group *group, philox_row row, uint32_t threshold,
                           void *bits) {
    w16 low0, high0, low1, high1;
    w16_mul(w16_xor(group->c2, row.c2), LOD_PHILOX_M1, &low1, &high1);
    w16 c0 = w16_xor3(high1, group->c1, key->k0[2]), c1 = low1;
    w16 c2 = w16_xor(group->high, row.c3), c3 = group->low;
    for (int i = 3; i < LOD_PHILOX_ROUNDS; i++) {
        w16_mul(c0, LOD_PHILOX_M0, &low0, &high0);
        w16_mul(c2, LOD_PHILOX_M1, &low1, &high1);
        c0 = w16_xor3(high1, c1, key->k0[i]);
        c2 = w16_xor3(high0, c3, key->k1[i]);
        c1 = low1;
        c3 = low0;
    }
    uint32_t keep[4] = {w16_halves_at_least(c0, threshold), w16_halves_at_least(c1, threshold),
                        w16_halves_at_least(c2, threshold), w16_halves_at_least(c3, threshold)};
    memcpy(bits, keep, sizeof keep);
}

#endif
