// Uses only what Google Benchmark has had since 1.7.1.
#include "gbench.h"

#include <benchmark/benchmark.h>

static benchmark::State &cpp(gb_state *state) {
    return *reinterpret_cast<benchmark::State *>(state);
}

static bool any_skipped = false;

void gb_add(const char *name, void (*run)(gb_state *, const void *), const void *context) {
    auto *added = benchmark::RegisterBenchmark(
        name, [=](benchmark::State &state) { run(reinterpret_cast<gb_state *>(&state), context); });
    added->Unit(benchmark::kMicrosecond);
}

bool gb_next(gb_state *state, unsigned calls) {
    benchmark::ClobberMemory();
    return cpp(state).KeepRunningBatch(calls);
}

void gb_counter(gb_state *state, const char *name, double value) {
    cpp(state).counters[name] = value;
}

void gb_label(gb_state *state, const char *text) {
    cpp(state).SetLabel(text);
}

void gb_context(const char *name, const char *value) {
    benchmark::AddCustomContext(name, value);
}

void gb_skip(gb_state *state, const char *why) {
    any_skipped = true;
    cpp(state).SkipWithError(why);
}

int gb_main(int argc, char **argv) {
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) {
        return 2;
    }
    const size_t ran = benchmark::RunSpecifiedBenchmarks();
    benchmark::Shutdown();
    return any_skipped || ran == 0 ? 1 : 0;
}
