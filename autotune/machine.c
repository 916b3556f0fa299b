// Cache sizes and the CPU's name, from hwloc.
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#ifdef LODROP_HWLOC
#include <hwloc.h>
#endif

#include "plan.h"

enum { ASSUMED_L1D = 32 << 10, ASSUMED_L2 = 1 << 20 };

static lod_machine machine = {.l1d = ASSUMED_L1D, .l2 = ASSUMED_L2, .source = "assumed"};

#ifdef LODROP_HWLOC
static size_t first_cache(hwloc_topology_t topology, hwloc_obj_type_t type) {
    hwloc_obj_t cache = hwloc_get_obj_by_type(topology, type, 0);
    return cache ? (size_t)cache->attr->cache.size : 0;
}

// "CPUVendor AuthenticAMD CPUFamilyNumber 25 ..": what hwloc knows of it, on x86 and on ARM.
static void name_cpu(hwloc_obj_t object) {
    for (unsigned i = 0; object && i < object->infos_count; i++) {
        const struct hwloc_info_s *info = &object->infos[i];
        const size_t used = strlen(machine.cpu);
        if (strncmp(info->name, "CPU", 3) != 0) continue;
        snprintf(machine.cpu + used, sizeof machine.cpu - used, "%s%s %s", used ? " " : "", info->name + 3,
                 info->value);
    }
}

static void read_machine(void) {
    hwloc_topology_t topology = lod_topology();
    if (!topology) return;
    size_t l1d = first_cache(topology, HWLOC_OBJ_L1CACHE), l2 = first_cache(topology, HWLOC_OBJ_L2CACHE);
    if (l1d) machine.l1d = l1d;
    if (l2) machine.l2 = l2;
    if (l1d || l2) machine.source = "hwloc";
    machine.l3 = first_cache(topology, HWLOC_OBJ_L3CACHE);
    name_cpu(hwloc_get_root_obj(topology));
    name_cpu(hwloc_get_obj_by_type(topology, HWLOC_OBJ_PACKAGE, 0));
}
#else
static void read_machine(void) {}
#endif

const lod_machine *lod_this_machine(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    int saved = errno;
    pthread_once(&once, read_machine);
    errno = saved;
    return &machine;
}
