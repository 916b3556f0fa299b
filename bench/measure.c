// One benchmark: what it reads is made, the roofs and the time without dropout are taken beside it, then it is timed.
#include "bench.h"

static const double peak_seconds = 0.02, peak_age = 0.5, plain_seconds = 0.005;

// The FMA peak as of the last half second.
static double recent_peak(lod_isa isa, unsigned threads) {
    static struct {
        unsigned threads;
        double peak, at;
    } last[LOD_ISA_COUNT];
    const double now = bench_seconds(threads);
    if (last[isa].threads != threads || now - last[isa].at > peak_age) {
        last[isa].peak = bench_peak(isa, threads, peak_seconds);
        last[isa].threads = threads;
        last[isa].at = bench_seconds(threads);
    }
    return last[isa].peak;
}

// Seconds a call without dropout, into *seconds.
static lod_status time_plain(const bench_subject *s, double *seconds, lod_error *err) {
    const double begin = bench_seconds(s->threads);
    double now = begin;
    unsigned calls = 0;
    for (unsigned more = 3; calls < 3 || now - begin < plain_seconds; more = calls) { // doubling: clocks take time too
        for (unsigned i = 0; i < more; i++) {
            LOD_TRY(s->call(s->state, s->plain, err));
        }
        calls += more;
        now = bench_seconds(s->threads);
    }
    *seconds = (now - begin) / calls / s->batch;
    return LOD_OK;
}

// All that is not measured: the time without dropout, then what the measured calls read, in caches as they leave it.
static lod_status warm(const bench_subject *s, double *plain, lod_error *err) {
    if (s->plain) {
        if (s->before) LOD_TRY(s->call(s->state, s->before, err));
        LOD_TRY(time_plain(s, plain, err));
    }
    if (s->before) LOD_TRY(s->call(s->state, s->before, err));
    return s->call(s->state, s->work, err);
}

void bench_measure(gb_state *state, const bench_subject *s) {
    lod_error error = {0};
    const double peak = recent_peak(s->isa, s->threads);
    double plain = 0;
    lod_status status = warm(s, &plain, &error);
    double calls = 0;
    const double begin = bench_seconds(s->threads);
    while (gb_next(state, s->batch)) {
        if (status == LOD_OK) status = s->call(s->state, s->work, &error);
        calls += s->batch;
    }
    const double seconds = (bench_seconds(s->threads) - begin) / calls;
    if (status != LOD_OK) {
        gb_skip(state, error.text);
        return;
    }
    if (s->flops > 0) gb_counter(state, "GF/s", s->flops / seconds * 1e-9);
    if (s->flops > 0 && peak > 0) gb_counter(state, "peak_share", s->flops / seconds / peak);
    gb_counter(state, "bytes/s", s->bytes / seconds);
    if (s->plain) gb_counter(state, "vs_p0", seconds / plain);
    if (s->plan) {
        char text[96];
        lod_plan_describe(s->plan, text, sizeof text);
        gb_label(state, text);
    }
}
