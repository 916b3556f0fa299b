// The only file that knows of threads. OpenMP is the default engine; a caller's parallel-for replaces it; without either
// everything runs on the calling thread. Every task runs under the default floating-point environment, because a host
// program may have set flush-to-zero or another rounding mode, and results must not depend on that.
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef LODROP_HWLOC
#include <hwloc.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "dispatch.h"

static lod_parallel_for *host_engine;
static void *host_context;

void lod_set_parallel_for(lod_parallel_for *engine, void *context) {
    host_engine = engine;
    host_context = context;
}

#if defined(__x86_64__)
static uint64_t fp_environment(void) {
    return _mm_getcsr();
}
static void fp_set_environment(uint64_t value) {
    _mm_setcsr((uint32_t)value);
}
enum { FP_DEFAULT = 0x1f80 }; // MXCSR: all exceptions masked, round to nearest, no FTZ, no DAZ
#elif defined(__aarch64__)
static uint64_t fp_environment(void) {
    uint64_t value;
    __asm__ volatile("mrs %0, fpcr" : "=r"(value));
    return value;
}
static void fp_set_environment(uint64_t value) {
    __asm__ volatile("msr fpcr, %0" : : "r"(value));
}
enum { FP_DEFAULT = 0 }; // FPCR: round to nearest, no FZ
#else
static uint64_t fp_environment(void) {
    return 0;
}
static void fp_set_environment(uint64_t value) {
    (void)value;
}
enum { FP_DEFAULT = 0 };
#endif

uint64_t lod_fp_default(void) {
    uint64_t saved = fp_environment();
    fp_set_environment(FP_DEFAULT);
    return saved;
}

void lod_fp_restore(const uint64_t *saved) {
    fp_set_environment(*saved);
}

typedef struct work {
    void (*body)(void *task, size_t i);
    void *task;
} work;

static void run_one(void *context, size_t i) {
    const work *w = context;
    LOD_DEFAULT_FP;
    w->body(w->task, i);
}

void lod_parallel(unsigned threads, size_t tasks, void (*body)(void *task, size_t i), void *task) {
    work w = {body, task};
    if (threads > 1 && tasks > 1 && host_engine) {
        host_engine(host_context, threads, tasks, run_one, &w);
        return;
    }
#ifdef _OPENMP
    if (threads > 1 && tasks > 1) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
        for (size_t i = 0; i < tasks; i++) run_one(&w, i);
        return;
    }
#endif
    for (size_t i = 0; i < tasks; i++) run_one(&w, i);
}

// --- How many threads ---

static unsigned allowed_cpus(void) {
#ifdef LODROP_HWLOC
    hwloc_topology_t topology;
    if (hwloc_topology_init(&topology) == 0) {
        int pus = 0;
        if (hwloc_topology_load(topology) == 0) {
            // Without HWLOC_TOPOLOGY_FLAG_THISSYSTEM a faked topology stands for the machine; a real one is cut to
            // the affinity of this process.
            hwloc_bitmap_t set = hwloc_bitmap_dup(hwloc_topology_get_allowed_cpuset(topology));
            hwloc_bitmap_t bound = hwloc_bitmap_alloc();
            if (hwloc_topology_is_thissystem(topology) &&
                hwloc_get_cpubind(topology, bound, HWLOC_CPUBIND_PROCESS) == 0) {
                hwloc_bitmap_and(set, set, bound);
            }
            pus = hwloc_bitmap_weight(set);
            hwloc_bitmap_free(bound);
            hwloc_bitmap_free(set);
        }
        hwloc_topology_destroy(topology);
        if (pus > 0) return (unsigned)pus;
    }
#endif
    cpu_set_t affinity;
    if (sched_getaffinity(0, sizeof affinity, &affinity) == 0) return (unsigned)CPU_COUNT(&affinity);
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (unsigned)online : 1;
}

// The CPU quota of one cgroup v2 folder, in CPUs rounded down; 0 if it has none.
static unsigned quota_of(const char *folder) {
    char path[4200];
    long long quota, period;
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", folder);
    FILE *file = fopen(path, "re");
    if (!file) return 0;
    int fields = fscanf(file, "%lld %lld", &quota, &period); // "max 100000" has no number in front: no quota
    fclose(file);
    if (fields != 2 || period <= 0 || quota <= 0) return 0;
    return quota < period ? 1 : (unsigned)(quota / period);
}

// The smallest quota from this process's cgroup up to the root; 0 if there is none.
static unsigned cgroup_quota(void) {
    char line[4096];
    unsigned smallest = 0;
    FILE *file = fopen("/proc/self/cgroup", "re");
    if (!file) return 0;
    while (fgets(line, sizeof line, file)) {
        if (strncmp(line, "0::", 3) != 0) continue;
        line[strcspn(line, "\n")] = 0;
        char *folder = line + 3;
        for (;;) {
            unsigned cpus = quota_of(folder);
            if (cpus && (!smallest || cpus < smallest)) smallest = cpus;
            char *slash = strrchr(folder, '/');
            if (!slash) break;
            *slash = 0;
        }
    }
    fclose(file);
    return smallest;
}

unsigned lod_threads(const char **why) {
    unsigned cpus = allowed_cpus(), quota = cgroup_quota();
    bool limited = quota && quota < cpus;
    if (why) *why = limited ? "the cgroup's CPU quota, rounded down" : "the CPUs this process may run on";
    unsigned threads = limited ? quota : cpus;
    return threads ? threads : 1;
}

unsigned lod_default_threads(void) {
    return lod_threads(NULL);
}
