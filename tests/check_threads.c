// The default number of threads: quotas of control groups in trees of both versions, OMP_NUM_THREADS, affinity.
#include <errno.h>
#include <ftw.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "check.h"

// --- Quotas ---

// A host as its files tell of it; the paths in `files` are those of folders, "mount/group".
typedef struct host {
    const char *what;
    const char *mountinfo, *cgroup; // of /proc/self
    struct {
        const char *name, *text;
    } files[6];
    double cpus; // wanted
} host;

#define V1(root, point, controllers)                                                                                   \
    "32 31 0:29 " root " " point " rw,relatime shared:9 - cgroup cgroup rw," controllers "\n"
#define V2(root, point) "41 31 0:38 " root " " point " rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n"
#define DISK "23 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
#define UNIFIED "/sys/fs/cgroup"
#define CPU "/sys/fs/cgroup/cpu"
#define QUOTA "cpu.cfs_quota_us"
#define PERIOD "cpu.cfs_period_us"

static const host hosts[] = {
    {"no cgroups", DISK, "", {{0}}, 0},
    {"no files at all", NULL, NULL, {{0}}, 0},
    {"v2", DISK V2("/", UNIFIED), "0::/a\n", {{UNIFIED "/a/cpu.max", "300000 100000\n"}}, 3},
    {"v2, not whole", V2("/", UNIFIED), "0::/a\n", {{UNIFIED "/a/cpu.max", "375000 100000\n"}}, 3.75},
    {"v2, below one CPU", V2("/", UNIFIED), "0::/a\n", {{UNIFIED "/a/cpu.max", "25000 100000\n"}}, 0.25},
    {"v2 without a quota", V2("/", UNIFIED), "0::/a\n", {{UNIFIED "/a/cpu.max", "max 100000\n"}}, 0},
    {"v2, the smallest of the folders above", V2("/", UNIFIED), "0::/a/b/c\n",
     {{UNIFIED "/a/cpu.max", "200000 50000\n"},
      {UNIFIED "/a/b/cpu.max", "max 100000\n"},
      {UNIFIED "/a/b/c/cpu.max", "900000 100000\n"}}, 4},
    {"v2, quota of the root of a container", V2("/", UNIFIED), "0::/\n", {{UNIFIED "/cpu.max", "200000 100000\n"}}, 2},
    {"v2, only a part is mounted", V2("/pod/box", UNIFIED), "0::/pod/box/a\n",
     {{UNIFIED "/cpu.max", "500000 100000\n"}, {UNIFIED "/a/cpu.max", "600000 100000\n"}}, 5},
    {"v2, the own path is not below the mount", V2("/", UNIFIED), "0::/docker/0123\n",
     {{UNIFIED "/cpu.max", "300000 100000\n"}}, 3},
    {"v2, the own path is beside the mount's root", V2("/box", UNIFIED), "0::/boxer/a\n",
     {{UNIFIED "/cpu.max", "300000 100000\n"}, {UNIFIED "er/a/cpu.max", "100000 100000\n"}}, 3},
    {"v2, a path that leaves the namespace", V2("/", UNIFIED), "0::/../other\n",
     {{UNIFIED "/cpu.max", "300000 100000\n"}, {"/sys/fs/other/cpu.max", "100000 100000\n"}}, 3},
    {"v1", V1("/", CPU, "cpu"), "9:name=systemd:/\n1:cpu:/a\n",
     {{CPU "/a/" QUOTA, "250000\n"}, {CPU "/a/" PERIOD, "100000\n"}}, 2.5},
    {"v1, cpu and cpuacct together", V1("/", "/sys/fs/cgroup/cpu,cpuacct", "cpu,cpuacct"), "4:cpu,cpuacct:/a\n",
     {{"/sys/fs/cgroup/cpu,cpuacct/a/" QUOTA, "100000\n"}, {"/sys/fs/cgroup/cpu,cpuacct/a/" PERIOD, "20000\n"}}, 5},
    {"v1, cpuacct is not cpu", V1("/", CPU, "cpuacct"), "4:cpuacct:/a\n",
     {{CPU "/a/" QUOTA, "100000\n"}, {CPU "/a/" PERIOD, "100000\n"}}, 0},
    {"v1 without a quota", V1("/", CPU, "cpu"), "1:cpu:/a\n",
     {{CPU "/a/" QUOTA, "-1\n"}, {CPU "/a/" PERIOD, "100000\n"}}, 0},
    {"v1, quota above the own group", V1("/", CPU, "cpu"), "1:cpu:/a/b\n",
     {{CPU "/a/" QUOTA, "300000\n"}, {CPU "/a/" PERIOD, "100000\n"},
      {CPU "/a/b/" QUOTA, "-1\n"}, {CPU "/a/b/" PERIOD, "100000\n"}}, 3},
    {"v1, the own path is not below the mount", V1("/docker/01", CPU, "rw,cpu"), "1:cpu:/docker/01\n",
     {{CPU "/" QUOTA, "300000\n"}, {CPU "/" PERIOD, "100000\n"}}, 3},
    {"v1, a mount point with a blank", V1("/", "/my\\040groups", "cpu"), "1:cpu:/a:b\n",
     {{"/my groups/a:b/" QUOTA, "300000\n"}, {"/my groups/a:b/" PERIOD, "100000\n"}}, 3},
    {"hybrid, the quota is v1's", V1("/", CPU, "cpu") V2("/", "/sys/fs/cgroup/unified"), "1:cpu:/a\n0::/b\n",
     {{CPU "/a/" QUOTA, "200000\n"}, {CPU "/a/" PERIOD, "100000\n"}}, 2},
    {"hybrid, the quota is v2's", V1("/", CPU, "cpuset") V2("/", "/sys/fs/cgroup/unified"), "1:cpuset:/a\n0::/b\n",
     {{"/sys/fs/cgroup/unified/b/cpu.max", "200000 100000\n"}}, 2},
    {"no number", V2("/", UNIFIED), "0::/a\n", {{UNIFIED "/a/cpu.max", "many 100000\n"}}, 0},
    {"no period", V2("/", UNIFIED), "0::/a\n", {{UNIFIED "/a/cpu.max", "100000\n"}}, 0},
    {"a period of 0", V2("/", UNIFIED), "0::/a\n", {{UNIFIED "/a/cpu.max", "100000 0\n"}}, 0},
    {"an empty file", V2("/", UNIFIED), "0::/a\n", {{UNIFIED "/a/cpu.max", ""}}, 0},
    {"a number above 64 bits", V2("/", UNIFIED), "0::/a\n", {{UNIFIED "/a/cpu.max", "99999999999999999999 1\n"}}, 0},
    {"lines cut short", "32 31\n\n- - -\n41 31 0:38 / " UNIFIED " rw\n" V2("/", UNIFIED), "0\n0:\n\n0::/a\n",
     {{UNIFIED "/a/cpu.max", "300000 100000\n"}}, 3},
};

static char prefix[] = "/tmp/lodrop-check-XXXXXX";

static int remove_one(const char *path, const struct stat *status, int kind, struct FTW *where) {
    (void)status, (void)kind, (void)where;
    return remove(path);
}

static void write_file(const char *name, const char *text) {
    char path[512];
    snprintf(path, sizeof path, "%s%s", prefix, name);
    for (char *slash = path + 1; (slash = strchr(slash, '/')); *slash++ = '/') {
        *slash = 0;
        CHECK_THAT(mkdir(path, 0700) == 0 || errno == EEXIST);
    }
    FILE *file = fopen(path, "we");
    CHECK_THAT(file && fputs(text, file) >= 0 && fclose(file) == 0);
}

CHECK_ONCE(threads_quota, 0) {
    for (size_t i = 0; i < sizeof hosts / sizeof hosts[0]; i++) {
        const host *h = &hosts[i];
        check_shape("%s", h->what);
        strcpy(prefix + strlen(prefix) - 6, "XXXXXX");
        CHECK_THAT(mkdtemp(prefix));
        if (h->mountinfo) write_file("/proc/self/mountinfo", h->mountinfo);
        if (h->cgroup) write_file("/proc/self/cgroup", h->cgroup);
        for (size_t j = 0; j < 6 && h->files[j].name; j++) write_file(h->files[j].name, h->files[j].text);
        double cpus = lod_cgroup_quota(prefix);
        CHECK_THAT(nftw(prefix, remove_one, 16, FTW_DEPTH | FTW_PHYS) == 0);
        if (cpus != h->cpus) check_fail("%s: a quota of %g CPUs, not %g", h->what, cpus, h->cpus);
    }
}

// --- The other limits ---

CHECK_ONCE(threads_openmp, 0) {
    static const struct {
        const char *value;
        bool limits; // to one thread
    } cases[] = {{"1", true}, {" 1 ", true}, {"1,8", true}, {"1, 2 ,3", true}, {"0", false}, {"-1", false},
                 {"", false}, {"one", false}, {"1x1", false}, {"0,1", false}, {"1,", false}, {"1,x", false},
                 {"1000000", false}, {"99999999999999999999", false}};
    const char *outside = getenv("OMP_NUM_THREADS");
    char *saved = outside ? strdup(outside) : NULL;
    unsetenv("OMP_NUM_THREADS");
    const unsigned all = lod_default_threads();
    unsigned got[sizeof cases / sizeof cases[0]];
    const char *why[sizeof cases / sizeof cases[0]];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        setenv("OMP_NUM_THREADS", cases[i].value, 1);
        got[i] = lod_threads(&why[i]);
    }
    saved ? setenv("OMP_NUM_THREADS", saved, 1) : unsetenv("OMP_NUM_THREADS");
    free(saved);
    if (all == 1) check_skip("one thread is all that this process gets");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const bool named = strcmp(why[i], "OMP_NUM_THREADS") == 0;
        if (got[i] != (cases[i].limits ? 1 : all) || named != cases[i].limits) {
            check_fail("OMP_NUM_THREADS=\"%s\": %u threads (%s)", cases[i].value, got[i], why[i]);
        }
    }
}

// The affinity of the moment counts: a host may pin a thread after the first plan.
CHECK_ONCE(threads_affinity, 0) {
    cpu_set_t before, one;
    CHECK_THAT(sched_getaffinity(0, sizeof before, &before) == 0);
    const unsigned all = lod_default_threads();
    if (all == 1) check_skip("one thread is all that this process gets");
    size_t cpu = 0;
    while (!CPU_ISSET(cpu, &before)) cpu++;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    CHECK_THAT(sched_setaffinity(0, sizeof one, &one) == 0);
    const unsigned pinned = lod_default_threads();
    CHECK_THAT(sched_setaffinity(0, sizeof before, &before) == 0);
    CHECK_THAT(pinned == 1);
    CHECK_THAT(lod_default_threads() == all);
}

// --- How many work at once ---

enum { TASKS = 3 };
static atomic_uint present;

// Each waits for all to be present, on as many threads; a second or two.
static void meet(void *met, size_t i) {
    (void)i;
    struct timespec begin, now;
    atomic_fetch_add(&present, 1);
    clock_gettime(CLOCK_MONOTONIC, &begin);
    do {
        if (atomic_load(&present) == TASKS) atomic_store((atomic_bool *)met, true);
        sched_yield();
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (!atomic_load((atomic_bool *)met) && now.tv_sec - begin.tv_sec < 2);
    if (!atomic_load((atomic_bool *)met)) atomic_fetch_sub(&present, 1);
}

static bool all_meet(void) {
    atomic_bool met = false;
    atomic_store(&present, 0);
    lod_parallel(TASKS, TASKS, meet, &met);
    return atomic_load(&met);
}

static void rest(long milliseconds) {
    nanosleep(&(struct timespec){.tv_nsec = milliseconds * 1000000}, NULL);
}

// Long enough for others to join.
static void note_thread(void *threads, size_t i) {
    ((pthread_t *)threads)[i] = pthread_self();
    rest(2);
}

CHECK_ONCE(threads_at_once, 0) {
    enum { MANY = 30 };
    pthread_t by[MANY];
    CHECK_THAT(lod_parallel_threads(TASKS) == TASKS && all_meet());
    rest(20); // by now the workers are asleep
    CHECK_THAT(all_meet());
    lod_parallel_pretend(1);
    const unsigned alone = lod_parallel_threads(TASKS);
    lod_parallel(TASKS, MANY, note_thread, by);
    lod_parallel_pretend(16);
    CHECK_THAT(alone == 1);
    for (size_t i = 0; i < MANY; i++) CHECK_THAT(pthread_equal(by[i], pthread_self()));
}

// Without a pretence: one CPU, one thread, some milliseconds after it is so.
CHECK_ONCE(threads_on_one_cpu, 0) {
    cpu_set_t before, one;
    size_t cpu = 0;
    CHECK_THAT(sched_getaffinity(0, sizeof before, &before) == 0);
    while (!CPU_ISSET(cpu, &before)) cpu++;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    lod_parallel_pretend(0);
    lod_parallel_threads(TASKS);
    CHECK_THAT(sched_setaffinity(0, sizeof one, &one) == 0);
    rest(20);
    const unsigned pinned = lod_parallel_threads(TASKS);
    CHECK_THAT(sched_setaffinity(0, sizeof before, &before) == 0);
    rest(20);
    const unsigned unpinned = lod_parallel_threads(TASKS);
    lod_parallel_pretend(16);
    CHECK_THAT(pinned == 1);
    CHECK_THAT(unpinned == lod_min(TASKS, (size_t)CPU_COUNT(&before)));
}
