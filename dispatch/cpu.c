// Which instruction sets can run here: CPUID says what the CPU has, XCR0 what the operating system saves; both must
// agree. The choice is made once, at the first call, and LODROP_ISA overrides it.
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "dispatch.h"

static const char *const isa_texts[LOD_ISA_COUNT] = {"ref", "avx2", "avx512", "neon"};

const char *lod_isa_text(lod_isa isa) {
    return isa_texts[isa];
}

#if defined(__x86_64__)
#include <cpuid.h>

static uint64_t xcr0(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static bool has_all(uint32_t bits, uint32_t wanted) {
    return (bits & wanted) == wanted;
}

bool lod_cpu_has(lod_isa isa) {
    const uint32_t leaf1_avx2 = bit_FMA | bit_F16C | bit_AVX | bit_OSXSAVE;
    const uint32_t leaf7_avx512 = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    const uint64_t ymm_state = 0x6, zmm_state = 0xe6; // XCR0: SSE and AVX; and opmask, ZMM0-15, ZMM16-31
    if (isa == LOD_ISA_ref) return true;
    if (isa == LOD_ISA_neon) return false;
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !has_all(c, leaf1_avx2)) return false;
    uint64_t saved = xcr0();
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !has_all(b, bit_AVX2)) return false;
    if ((saved & ymm_state) != ymm_state) return false;
    return isa == LOD_ISA_avx2 || ((saved & zmm_state) == zmm_state && has_all(b, leaf7_avx512));
}
#elif defined(__aarch64__)
#include <sys/auxv.h>

bool lod_cpu_has(lod_isa isa) {
    const unsigned long asimd = 1ul << 1; // HWCAP_ASIMD
    return isa == LOD_ISA_ref || (isa == LOD_ISA_neon && (getauxval(AT_HWCAP) & asimd));
}
#else
bool lod_cpu_has(lod_isa isa) {
    return isa == LOD_ISA_ref;
}
#endif

typedef struct isa_choice {
    lod_isa isa;
    const char *why;
    lod_error error;
} isa_choice;

static isa_choice choice;

static void choose_widest(void) {
    choice.isa = LOD_ISA_ref;
    choice.why = "no SIMD level of this build runs on this CPU";
    for (lod_isa isa = LOD_ISA_avx2; isa < LOD_ISA_COUNT; isa++) {
        if (!lod_cpu_has(isa)) continue;
        choice.isa = isa;
        choice.why = "the widest that CPU and operating system support";
    }
}

static void choose(void) {
    const char *forced = getenv("LODROP_ISA");
    if (!forced || !*forced) {
        choose_widest();
        return;
    }
    for (lod_isa isa = LOD_ISA_ref; isa < LOD_ISA_COUNT; isa++) {
        if (strcmp(forced, isa_texts[isa]) != 0) continue;
        if (!lod_cpu_has(isa)) {
            lod_fail(&choice.error, LOD_BAD_ISA, "LODROP_ISA", "this CPU or build has no %s", isa_texts[isa]);
        }
        choice.isa = isa;
        choice.why = "forced by LODROP_ISA";
        return;
    }
    lod_fail(&choice.error, LOD_BAD_ISA, "LODROP_ISA", "'%.20s' is none of ref, avx2, avx512, neon", forced);
}

lod_status lod_isa_in_use(lod_isa *isa, const char **why, lod_error *err) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, choose);
    if (choice.error.code != LOD_OK) {
        if (err) *err = choice.error;
        return choice.error.code;
    }
    *isa = choice.isa;
    if (why) *why = choice.why;
    return LOD_OK;
}

lod_status lod_isa_name(const char **name, lod_error *err) {
    lod_isa isa = LOD_ISA_ref;
    lod_status status = lod_isa_in_use(&isa, NULL, err);
    if (status == LOD_OK) *name = isa_texts[isa];
    return status;
}
