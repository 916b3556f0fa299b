// The two roofs of one instruction set, built in its flags.
//
// The FMA peak: a loop of independent fused multiply-adds in registers and nothing else. Chains x registers a vector
// must cover two FMA units times their latency (8 to 10) and fit the registers: 24 of 32 (avx512), 6 x 2 of 16 (avx2),
// 6 x 4 of 32 (neon).
// Reading: four streams, because a core fetches more lines at a time from several than from one. Each has a sum of its
// own; adding takes less time than any memory.
#include "peak.h"
#include "vec.h"

#if defined(__AVX512F__)
#define CHAINS(X)                                                                                                      \
    X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15) X(16) X(17) X(18) X(19)      \
    X(20) X(21) X(22) X(23)
#else
#define CHAINS(X) X(0) X(1) X(2) X(3) X(4) X(5)
#endif
#define DECLARE(i) v16 chain##i = v16_load(floats + (i));
#define STEP(i) chain##i = v16_fma(chain##i, half, half);
#define FOLD(i) sum = v16_add(sum, chain##i);
#define COUNT(i) +1

double LOD_VARIANT(peak_f32)(size_t rounds, float floats[LOD_PEAK_FLOATS]) {
    const v16 half = v16_set1(0.5f);
    CHAINS(DECLARE)
    for (size_t round = 0; round < rounds; round++) {
        CHAINS(STEP)
    }
    v16 sum = v16_zero();
    CHAINS(FOLD)
    v16_store(floats, sum);
    return (double)rounds * (0 CHAINS(COUNT)) * 2 * 16;
}

void LOD_VARIANT(read_f32)(const float *from, size_t count, float sums[LOD_PEAK_FLOATS]) {
    const size_t quarter = count / 4;
    v16 sum0 = v16_zero(), sum1 = v16_zero(), sum2 = v16_zero(), sum3 = v16_zero();
    for (size_t i = 0; i < quarter; i += 16) {
        sum0 = v16_add(sum0, v16_load(from + i));
        sum1 = v16_add(sum1, v16_load(from + quarter + i));
        sum2 = v16_add(sum2, v16_load(from + 2 * quarter + i));
        sum3 = v16_add(sum3, v16_load(from + 3 * quarter + i));
    }
    v16_store(sums, sum0), v16_store(sums + 16, sum1), v16_store(sums + 32, sum2), v16_store(sums + 48, sum3);
}
