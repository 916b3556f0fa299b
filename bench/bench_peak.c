// The two roofs, the FMA peak and the memory bandwidth: what every share is measured against.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench.h"
#include "peak.h"

double bench_seconds(unsigned threads) {
    struct timespec now;
    clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

typedef struct probes {
    lod_peak_f32_fn *peak;
    lod_read_f32_fn *read;
} probes;

// Those of an instruction set that this CPU has; NULL for others.
static probes probes_of(lod_isa isa) {
    if (!lod_cpu_has(isa)) return (probes){NULL, NULL};
    switch (isa) {
#if defined(__x86_64__)
    case LOD_ISA_avx2:
        return (probes){lod_peak_f32__avx2, lod_read_f32__avx2};
    case LOD_ISA_avx512:
        return (probes){lod_peak_f32__avx512, lod_read_f32__avx512};
#elif defined(__aarch64__)
    case LOD_ISA_neon:
        return (probes){lod_peak_f32__neon, lod_read_f32__neon};
#endif
    default:
        return (probes){NULL, NULL};
    }
}

enum { MAX_THREADS = 1024 };

static void fill(float floats[LOD_PEAK_FLOATS]) {
    for (int i = 0; i < LOD_PEAK_FLOATS; i++) {
        floats[i] = (float)i;
    }
}

// --- The FMA peak: every thread measures by itself, at the same time ---

typedef struct peak_task {
    lod_peak_f32_fn *probe;
    unsigned threads;
    double seconds;
    double rates[MAX_THREADS];
} peak_task;

static void measure_thread(void *context, size_t thread) {
    peak_task *task = context;
    float floats[LOD_PEAK_FLOATS];
    fill(floats);
    double flops = 0, begin = bench_seconds(task->threads), now;
    do {
        flops += task->probe(1 << 16, floats); // a tenth of a millisecond, so that the clock costs nothing
        now = bench_seconds(task->threads);
    } while (now - begin < task->seconds);
    task->rates[thread] = flops / (now - begin);
}

double bench_peak(lod_isa isa, unsigned threads, double seconds) {
    static peak_task task;
    task = (peak_task){.probe = probes_of(isa).peak, .threads = threads, .seconds = seconds};
    if (!task.probe || threads > MAX_THREADS) return 0;
    lod_parallel(threads, threads, measure_thread, &task);
    double sum = 0;
    for (unsigned i = 0; i < threads; i++) {
        sum += task.rates[i];
    }
    return sum;
}

static void run_peak(gb_state *state, const void *context) {
    lod_peak_f32_fn *probe = probes_of(*(const lod_isa *)context).peak; // once: virtual machines are slow to say
    float floats[LOD_PEAK_FLOATS];
    fill(floats);
    double flops = 0, begin = bench_seconds(1);
    while (gb_next(state, 1)) {
        flops += probe(1 << 16, floats);
    }
    gb_counter(state, "GF/s", flops / (bench_seconds(1) - begin) * 1e-9);
}

// --- Memory bandwidth: passes over a set that no cache holds, a part of it for each thread ---

typedef struct reading {
    lod_isa isa;
    lod_read_f32_fn *probe;
    unsigned threads;
    float *memory; // [threads][floats]
    size_t floats;
} reading;

static void read_part(void *context, size_t thread) {
    const reading *r = context;
    float sums[LOD_PEAK_FLOATS];
    r->probe(r->memory + thread * r->floats, r->floats, sums);
}

// Pages that were never written are all the same one, which a cache holds.
static void write_part(void *context, size_t thread) {
    const reading *r = context;
    memset(r->memory + thread * r->floats, 0, r->floats * sizeof *r->memory);
}

static bool begin_reading(reading *r) {
    r->probe = probes_of(r->isa).read;
    r->floats = lod_round_up(bench_cold_bytes() / sizeof *r->memory / r->threads, LOD_READ_FLOATS);
    r->memory = bench_floats(r->floats * r->threads);
    if (r->memory) lod_parallel(r->threads, r->threads, write_part, r);
    return r->memory != NULL;
}

static double pass(reading *r) {
    lod_parallel(r->threads, r->threads, read_part, r);
    return (double)r->threads * (double)(r->floats * sizeof *r->memory);
}

double bench_bandwidth(lod_isa isa, unsigned threads, double seconds) {
    reading r = {.isa = isa, .threads = threads};
    if (!probes_of(isa).read || !begin_reading(&r)) return 0;
    double bytes = 0, begin = bench_seconds(threads), now;
    do {
        bytes += pass(&r);
        now = bench_seconds(threads);
    } while (now - begin < seconds);
    free(r.memory);
    return bytes / (now - begin);
}

static void run_bandwidth(gb_state *state, const void *context) {
    reading r = *(const reading *)context;
    if (!begin_reading(&r)) {
        gb_skip(state, "no memory");
        return;
    }
    double bytes = 0, begin = bench_seconds(r.threads);
    while (gb_next(state, 1)) {
        bytes += pass(&r);
    }
    gb_counter(state, "bytes/s", bytes / (bench_seconds(r.threads) - begin));
    free(r.memory);
}

void bench_add_peaks(unsigned threads) {
    static const lod_isa isas[] = {LOD_ISA_avx2, LOD_ISA_avx512, LOD_ISA_neon};
    static reading cases[2][sizeof isas / sizeof isas[0]];
    for (size_t i = 0; i < sizeof isas / sizeof isas[0]; i++) {
        if (!probes_of(isas[i]).peak) continue;
        char name[64];
        snprintf(name, sizeof name, "peak_f32/%s/fma", lod_isa_text(isas[i]));
        gb_add(name, run_peak, &isas[i]);
        for (unsigned many = 0; many < (threads > 1 ? 2 : 1); many++) {
            cases[many][i] = (reading){.isa = isas[i], .threads = many ? threads : 1};
            snprintf(name, sizeof name, "read_f32/%s/threads%u", lod_isa_text(isas[i]), cases[many][i].threads);
            gb_add(name, run_bandwidth, &cases[many][i]);
        }
    }
}
