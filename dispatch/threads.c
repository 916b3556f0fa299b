// How many threads a plan gets by default: the CPUs this process may run on, cut to the CPU quota of its cgroup.
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#ifdef LODROP_HWLOC
#include <hwloc.h>
#endif

#include "dispatch.h"

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
    int saved = errno;
    unsigned cpus = allowed_cpus(), quota = cgroup_quota();
    errno = saved;
    bool limited = quota && quota < cpus;
    if (why) *why = limited ? "the cgroup's CPU quota, rounded down" : "the CPUs this process may run on";
    unsigned threads = limited ? quota : cpus;
    return threads ? threads : 1;
}

unsigned lod_default_threads(void) {
    return lod_threads(NULL);
}
