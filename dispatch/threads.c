// How many threads a plan gets by default: the CPUs that the calling thread may run on, cut to its cgroup's CPU quota
// and to OMP_NUM_THREADS. All three are asked anew each time, because a host may change its affinity between two plans;
// the topology, which takes milliseconds to load, is loaded once.
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef LODROP_HWLOC
#include <hwloc.h>
#endif

#include "dispatch.h"

#ifdef LODROP_HWLOC
static hwloc_topology_t topology;

static void load_topology(void) {
    if (hwloc_topology_init(&topology) != 0) {
        topology = NULL;
    } else if (hwloc_topology_load(topology) != 0) {
        hwloc_topology_destroy(topology);
        topology = NULL;
    }
}

struct hwloc_topology *lod_topology(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    int saved = errno;
    pthread_once(&once, load_topology);
    errno = saved;
    return topology;
}

// A machine that HWLOC_SYNTHETIC or the like puts in place of this one; 0: none.
static unsigned faked_cpus(void) {
    hwloc_topology_t loaded = lod_topology();
    if (!loaded || hwloc_topology_is_thissystem(loaded)) return 0;
    int cpus = hwloc_bitmap_weight(hwloc_topology_get_allowed_cpuset(loaded));
    return cpus > 0 ? (unsigned)cpus : 0;
}
#else
static unsigned faked_cpus(void) {
    return 0;
}
#endif

// Of the calling thread: its workers inherit them.
static unsigned allowed_cpus(void) {
    enum { SETS = 16 }; // 16384 CPUs: twice what the kernel can be built for
    cpu_set_t affinity[SETS];
    unsigned faked = faked_cpus();
    if (faked) return faked;
    if (sched_getaffinity(0, sizeof affinity, affinity) == 0) {
        return (unsigned)CPU_COUNT_S(sizeof affinity, affinity);
    }
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (unsigned)online : 1;
}

// The first number of OMP_NUM_THREADS ("8" or, for nested regions, "8,2"); 0 where OpenMP would ignore the variable.
static unsigned openmp_threads(void) {
    const char *at = getenv("OMP_NUM_THREADS");
    unsigned long first = 0;
    while (at) {
        char *end;
        at += strspn(at, " \t");
        if (*at < '0' || *at > '9') return 0;
        unsigned long value = strtoul(at, &end, 10);
        end += strspn(end, " \t");
        if (value == 0 || value > INT_MAX || (*end && *end != ',')) return 0;
        if (!first) first = value;
        at = *end ? end + 1 : NULL;
    }
    return (unsigned)first;
}

// Rounded down, and not below one.
static unsigned quota_threads(void) {
    const double cpus = lod_cgroup_quota("");
    return cpus == 0 || cpus >= UINT_MAX ? 0 : cpus < 1 ? 1 : (unsigned)cpus;
}

unsigned lod_threads(const char **why) {
    const struct {
        unsigned threads;
        const char *why;
    } limits[] = {{quota_threads(), "the cgroup's CPU quota, rounded down"},
                {openmp_threads(), "OMP_NUM_THREADS"}};
    unsigned threads = allowed_cpus();
    const char *reason = "the CPUs this process may run on";
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        if (!limits[i].threads || limits[i].threads >= threads) continue;
        threads = limits[i].threads;
        reason = limits[i].why;
    }
    if (why) *why = reason;
    return threads ? threads : 1;
}

unsigned lod_default_threads(void) {
    int saved = errno;
    unsigned threads = lod_threads(NULL);
    errno = saved;
    return threads;
}
