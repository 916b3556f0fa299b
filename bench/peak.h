// The probes of peak.c: run `rounds` rounds from the floats given, write sums that depend on all of them, and return
// the flops done. No two lanes start alike, and the compiler knows none of them, so that all of them are computed.
#ifndef LOD_PEAK_H
#define LOD_PEAK_H

#include <stddef.h>

enum { LOD_PEAK_FLOATS = 64 };
typedef double lod_peak_f32_fn(size_t rounds, float floats[LOD_PEAK_FLOATS]);
lod_peak_f32_fn lod_peak_f32__avx2;
lod_peak_f32_fn lod_peak_f32__avx512;
lod_peak_f32_fn lod_peak_f32__neon;

#endif
