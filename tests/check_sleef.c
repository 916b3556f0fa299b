// SLEEF's finz_ functions give the same bits on every instruction set, and are within 1 ulp: every 251st of all 2^32
// inputs. The kernels' promise of equal bits and the bounds of their checks both stand on this.
#include <math.h>
#include <string.h>

#include "check.h"

enum { CHUNK = 1 << 13, STRIDE = 251, JUDGED = 8 }; // every 8th of the results is held against double

typedef void map_fn(const float *x, float *y);

// One function on one instruction set, over a chunk. The prototypes are SLEEF's; its header declares them only where
// the whole file is compiled for the instruction set.
#define MAP(name, isa, target_isa, vector, lanes, function, load, store)                                               \
    __attribute__((target(target_isa))) vector function(vector);                                                       \
    __attribute__((target(target_isa))) static void name##_##isa(const float *x, float *y) {                           \
        for (size_t i = 0; i < CHUNK; i += lanes) {                                                                    \
            store(y + i, function(load(x + i)));                                                                       \
        }                                                                                                              \
    }

#if defined(__x86_64__)
#include <immintrin.h>
MAP(exp, avx2, "avx2,fma", __m256, 8, Sleef_finz_expf8_u10avx2, _mm256_loadu_ps, _mm256_storeu_ps)
MAP(log, avx2, "avx2,fma", __m256, 8, Sleef_finz_logf8_u10avx2, _mm256_loadu_ps, _mm256_storeu_ps)
MAP(exp, avx512, "avx512f", __m512, 16, Sleef_finz_expf16_u10avx512f, _mm512_loadu_ps, _mm512_storeu_ps)
MAP(log, avx512, "avx512f", __m512, 16, Sleef_finz_logf16_u10avx512f, _mm512_loadu_ps, _mm512_storeu_ps)
static const lod_isa isas[] = {LOD_ISA_avx2, LOD_ISA_avx512};
static map_fn *const exps[] = {exp_avx2, exp_avx512}, *const logs[] = {log_avx2, log_avx512};
enum { ISAS = 2 };
#elif defined(__aarch64__)
#include <arm_neon.h>
MAP(exp, neon, "+simd", float32x4_t, 4, Sleef_finz_expf4_u10advsimd, vld1q_f32, vst1q_f32)
MAP(log, neon, "+simd", float32x4_t, 4, Sleef_finz_logf4_u10advsimd, vld1q_f32, vst1q_f32)
static const lod_isa isas[] = {LOD_ISA_neon};
static map_fn *const exps[] = {exp_neon}, *const logs[] = {log_neon};
enum { ISAS = 1 };
#endif

#if defined(__x86_64__) || defined(__aarch64__)
// Within 1 ulp of the result in double, where that is a normal float.
static void check_ulp(const char *name, float x, float y, double want) {
    if (!(fabs(want) >= 0x1p-126 && fabs(want) < 0x1p127)) {
        return;
    }
    int exponent;
    frexp(want, &exponent);
    double ulp = ldexp(1, exponent - 24);
    if (!(fabs(y - want) <= ulp)) {
        check_fail("%s(%a) got %a want %a: %.3f ulp", name, (double)x, (double)y, want, fabs(y - want) / ulp);
    }
}

static void check_chunk(const char *name, map_fn *const maps[], double (*wide)(double), uint64_t first) {
    float x[CHUNK], y[CHUNK], other[CHUNK];
    bool have = false;
    for (size_t i = 0; i < CHUNK; i++) {
        uint32_t bits = (uint32_t)((first + i) * STRIDE); // wraps past the last input
        memcpy(&x[i], &bits, sizeof bits);
    }
    for (size_t isa = 0; isa < ISAS; isa++) {
        if (!lod_cpu_has(isas[isa])) {
            continue;
        }
        maps[isa](x, other);
        for (size_t i = 0; i < CHUNK; i++) {
            other[i] = isnan(other[i]) ? NAN : other[i];
            if (have && memcmp(&y[i], &other[i], sizeof y[i]) != 0) {
                check_fail("%s(%a) is %a with %s, %a before", name, (double)x[i], (double)other[i],
                           lod_isa_text(isas[isa]), (double)y[i]);
            }
        }
        memcpy(y, other, sizeof y);
        have = true;
    }
    for (size_t i = 0; i < CHUNK; i += JUDGED) {
        check_ulp(name, x[i], y[i], wide(x[i]));
    }
    check_share_bytes(y, sizeof y);
}

static void check_function(const char *name, map_fn *const maps[], double (*wide)(double)) {
    size_t able = 0;
    for (size_t isa = 0; isa < ISAS; isa++) {
        able += lod_cpu_has(isas[isa]);
    }
    if (able == 0) {
        check_skip("this CPU has none of the instruction sets");
    }
    check_shape("%s on %zu instruction sets", name, able);
    for (uint64_t first = 0; first * STRIDE < (uint64_t)1 << 32; first += CHUNK) {
        check_chunk(name, maps, wide, first);
    }
}

CHECK_ONCE(sleef_exp, 0x1d5e103a6704441e) {
    check_function("exp", exps, exp);
}

CHECK_ONCE(sleef_log, 0xf5cd419a76cb9882) {
    check_function("log", logs, log);
}
#endif
