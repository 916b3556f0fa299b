// Analytic block sizes, in the spirit of Low et al., "Analytical Modeling Is Enough for High-Performance BLIS" (TOMS
// 2016). The deepest k block spares passes over C, and its strip of W (32 KiB for 16 columns) streams from L1 or L2
// fast enough for every tile. The block of X fills L2: W is read once for each. L1 is known for lodrop-info alone.
#include <errno.h>
#include <pthread.h>

#ifdef LODROP_HWLOC
#include <hwloc.h>
#endif

#include "plan.h"

enum { ASSUMED_L1D = 32 << 10, ASSUMED_L2 = 1 << 20 };

static lod_caches caches = {ASSUMED_L1D, ASSUMED_L2, "assumed"};

#ifdef LODROP_HWLOC
static size_t first_cache(hwloc_topology_t topology, hwloc_obj_type_t type) {
    hwloc_obj_t cache = hwloc_get_obj_by_type(topology, type, 0);
    return cache ? (size_t)cache->attr->cache.size : 0;
}

static void read_caches(void) {
    hwloc_topology_t topology;
    if (hwloc_topology_init(&topology) != 0) return;
    if (hwloc_topology_load(topology) == 0) {
        size_t l1d = first_cache(topology, HWLOC_OBJ_L1CACHE), l2 = first_cache(topology, HWLOC_OBJ_L2CACHE);
        if (l1d) caches.l1d = l1d;
        if (l2) caches.l2 = l2;
        if (l1d || l2) caches.source = "hwloc";
    }
    hwloc_topology_destroy(topology);
}
#else
static void read_caches(void) {}
#endif

lod_caches lod_cache_sizes(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    int saved = errno;
    pthread_once(&once, read_caches);
    errno = saved;
    return caches;
}

static size_t at_least(size_t value, size_t floor) {
    return value < floor ? floor : value;
}

// `count` cut into equal blocks of at most `block`, rounded up to `unit`, rather than whole ones and a short last one.
static size_t even_blocks(size_t count, size_t block, size_t unit) {
    return lod_round_up(lod_div_up(count, lod_div_up(count, block)), unit);
}

lod_blocks lod_estimate_blocks(const lod_kernel *tile, size_t tokens, size_t depth) {
    size_t kc = even_blocks(depth, LOD_KC_MAX, LOD_PANEL);
    size_t mc = lod_min(at_least(lod_cache_sizes().l2 / (kc * sizeof(float)), 64), 1024);
    return (lod_blocks){.mc = even_blocks(tokens, mc, tile->mr), .kc = kc};
}

// Whole strips of the tile: a block of Q, of its scores and of a panel of K lie in the first two caches.
size_t lod_estimate_query_block(const lod_kernel *tile) {
    return lod_round_up(64, tile->mr);
}

size_t lod_estimate_loss_chunk(size_t vocabulary, size_t tokens) {
    const size_t logits = 16 << 20; // bytes held at a time, unless 64 tokens need more
    return lod_min(lod_min(at_least(logits / sizeof(float) / vocabulary, 64), 1024), tokens);
}
