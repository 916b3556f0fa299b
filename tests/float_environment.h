// A floating-point environment that no result may depend on, as a host might set it.
#ifndef LOD_FLOAT_ENVIRONMENT_H
#define LOD_FLOAT_ENVIRONMENT_H

#include <stdint.h>

#if defined(__x86_64__)
enum { STRANGE = 0x1f80 | 0x8000 | 0x40 | 2 << 13, MODES = 0xffc0 }; // MXCSR: masks, FTZ, DAZ, round up; all but flags
#else
enum { STRANGE = 1 << 24 | 1 << 22, MODES = 0x07c00000 }; // FPCR: FZ, round up
#endif

// Returns the one before.
static inline uint32_t exchange_environment(uint32_t value) {
    uint32_t before = 0;
#if defined(__x86_64__)
    before = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(value);
#elif defined(__aarch64__)
    uint64_t fpcr;
    __asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
    before = (uint32_t)fpcr;
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)value));
#endif
    return before;
}

#endif
