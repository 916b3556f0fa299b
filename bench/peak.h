// The probes of peak.c.
#ifndef LOD_PEAK_H
#define LOD_PEAK_H

#include <stddef.h>

enum { LOD_PEAK_FLOATS = 64, LOD_READ_FLOATS = 256 };

// Runs `rounds` rounds from the floats given, writes sums that depend on all of them, and returns the flops done. No
// two lanes start alike, and the compiler knows none of them, so that all of them are computed.
typedef double lod_peak_f32_fn(size_t rounds, float floats[LOD_PEAK_FLOATS]);
lod_peak_f32_fn lod_peak_f32__avx2;
lod_peak_f32_fn lod_peak_f32__avx512;
lod_peak_f32_fn lod_peak_f32__neon;

// Reads count floats, a multiple of LOD_READ_FLOATS, 64-byte aligned, and writes sums that depend on all of them.
typedef void lod_read_f32_fn(const float *from, size_t count, float sums[LOD_PEAK_FLOATS]);
lod_read_f32_fn lod_read_f32__avx2;
lod_read_f32_fn lod_read_f32__avx512;
lod_read_f32_fn lod_read_f32__neon;

#endif
