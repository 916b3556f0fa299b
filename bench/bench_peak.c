// The FMA peak: what every share is measured against.
#include <stdio.h>
#include <time.h>

#include "bench.h"
#include "peak.h"

double bench_seconds(unsigned threads) {
    struct timespec now;
    clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static lod_peak_f32_fn *probe_of(lod_isa isa) {
    switch (isa) {
#if defined(__x86_64__)
    case LOD_ISA_avx2:
        return lod_peak_f32__avx2;
    case LOD_ISA_avx512:
        return lod_peak_f32__avx512;
#elif defined(__aarch64__)
    case LOD_ISA_neon:
        return lod_peak_f32__neon;
#endif
    default:
        return NULL;
    }
}

typedef struct peak_task {
    lod_peak_f32_fn *probe;
    unsigned threads;
    double seconds;
    double *rates; // one a thread
} peak_task;

static void fill(float floats[LOD_PEAK_FLOATS]) {
    for (int i = 0; i < LOD_PEAK_FLOATS; i++) {
        floats[i] = (float)i;
    }
}

static void measure_thread(void *context, size_t thread) {
    const peak_task *task = context;
    float floats[LOD_PEAK_FLOATS];
    fill(floats);
    double flops = 0, begin = bench_seconds(task->threads), now;
    do {
        flops += task->probe(1 << 13, floats); // tens of microseconds
        now = bench_seconds(task->threads);
    } while (now - begin < task->seconds);
    task->rates[thread] = flops / (now - begin);
}

double bench_peak(lod_isa isa, unsigned threads, double seconds) {
    enum { MAX_THREADS = 1024 };
    static double rates[MAX_THREADS];
    peak_task task = {.probe = probe_of(isa), .threads = threads, .seconds = seconds, .rates = rates};
    if (!task.probe || !lod_cpu_has(isa) || threads > MAX_THREADS) return 0;
    lod_parallel(threads, threads, measure_thread, &task);
    double sum = 0;
    for (unsigned i = 0; i < threads; i++) {
        sum += rates[i];
    }
    return sum;
}

void bench_report(gb_state *state, const lod_plan *plan, double flops, double seconds, double peak, double reference) {
    gb_counter(state, "GF/s", flops / seconds * 1e-9);
    if (peak > 0) gb_counter(state, "peak_share", flops / seconds / peak);
    if (reference > 0) gb_counter(state, "vs_p0", seconds / reference);
    char text[96];
    lod_plan_describe(plan, text, sizeof text);
    gb_label(state, text);
}

static void run_peak(gb_state *state, const void *context) {
    const lod_isa *isa = context;
    float floats[LOD_PEAK_FLOATS];
    fill(floats);
    double flops = 0, begin = bench_seconds(1);
    while (gb_next(state)) {
        flops += probe_of(*isa)(1 << 16, floats);
    }
    gb_counter(state, "GF/s", flops / (bench_seconds(1) - begin) * 1e-9);
}

void bench_add_peaks(void) {
    static const lod_isa isas[] = {LOD_ISA_avx2, LOD_ISA_avx512, LOD_ISA_neon};
    for (size_t i = 0; i < sizeof isas / sizeof isas[0]; i++) {
        char name[64];
        snprintf(name, sizeof name, "peak_f32/%s/fma", lod_isa_text(isas[i]));
        if (probe_of(isas[i]) && lod_cpu_has(isas[i])) gb_add(name, run_peak, &isas[i]);
    }
}
