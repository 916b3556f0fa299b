// The only file that knows of threads: a pool whose workers claim tasks from a counter. The caller works too, and waits
// only for workers that have joined its call, so one that gets no CPU in time to join (a busy host, a quota) delays
// nobody; a team that must meet at a barrier would. Idle workers watch for the next call for some microseconds, then
// sleep. No more threads work at once than the caller may use CPUs and its cgroup's quota pays for: they would take
// turns on a CPU, or run in bursts and be stopped in between, in the midst of tasks. A forked child starts with an
// empty pool.
//
// Every task runs under the default floating-point environment, because a host program may have set flush-to-zero or
// another rounding mode, and results must not depend on that.
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "dispatch.h"

// How long one looks before it sleeps: about what waking costs. A longer watch burns a CPU that others want.
enum { WATCH_NANOSECONDS = 20000, LOOKS_PER_READING = 16 }; // of the clock
enum { AFFINITY_NANOSECONDS = 5000000 };

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

// One call of lod_parallel, on its caller's stack.
typedef struct job {
    void (*body)(void *task, size_t i);
    void *task;
    size_t tasks;
    atomic_size_t next;   // the first task that nobody has claimed
    atomic_uint inside;   // workers that may be running one; grows under the lock
    unsigned seats;       // workers that may still join; under the lock
    struct job *following;
} job;

static struct pool {
    pthread_mutex_t lock;
    pthread_cond_t posted, left; // a job came; a worker left a job
    job *jobs;                   // those whose callers still work on them
    atomic_uint posts;           // counts jobs, for workers that watch without the lock
    unsigned workers, sleeping;
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .posted = PTHREAD_COND_INITIALIZER, .left = PTHREAD_COND_INITIALIZER};

static void relax(void) {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t nanoseconds(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

// Watches for the number to become another; whether it did in time.
static bool watch(const atomic_uint *number, unsigned from) {
    const int64_t begin = nanoseconds(CLOCK_MONOTONIC);
    do {
        for (int i = 0; i < LOOKS_PER_READING; i++) {
            if (atomic_load(number) != from) return true;
            relax();
        }
    } while (nanoseconds(CLOCK_MONOTONIC) - begin < WATCH_NANOSECONDS);
    return false;
}

static void run_one(void *context, size_t i) {
    const job *j = context;
    LOD_DEFAULT_FP;
    j->body(j->task, i);
}

static void run_tasks(job *j) {
    for (size_t i; (i = atomic_fetch_add(&j->next, 1)) < j->tasks;) run_one(j, i);
}

// --- Workers; functions ending in _locked are called with the lock held ---

static job *join_locked(void) {
    for (job *j = pool.jobs; j; j = j->following) {
        if (!j->seats) continue;
        j->seats--;
        atomic_fetch_add(&j->inside, 1);
        return j;
    }
    return NULL;
}

// Returns when a job may have come: looks for a while, then sleeps.
static void await_job_locked(void) {
    unsigned seen = atomic_load(&pool.posts);
    pthread_mutex_unlock(&pool.lock);
    watch(&pool.posts, seen);
    pthread_mutex_lock(&pool.lock);
    if (atomic_load(&pool.posts) != seen) return;
    pool.sleeping++;
    pthread_cond_wait(&pool.posted, &pool.lock);
    pool.sleeping--;
}

static void *work(void *unused) {
    pthread_mutex_lock(&pool.lock);
    for (;;) {
        job *j = join_locked();
        if (!j) {
            await_job_locked();
            continue;
        }
        pthread_mutex_unlock(&pool.lock);
        run_tasks(j);
        bool last = atomic_fetch_sub(&j->inside, 1) == 1; // the last touch: the caller may be gone now
        pthread_mutex_lock(&pool.lock);
        if (last) pthread_cond_broadcast(&pool.left);
    }
    return unused;
}

static void lock_before_fork(void) {
    pthread_mutex_lock(&pool.lock);
}

static void unlock_in_parent(void) {
    pthread_mutex_unlock(&pool.lock);
}

static void reset_in_child(void) {
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.posted, NULL);
    pthread_cond_init(&pool.left, NULL);
    pool.jobs = NULL;
    pool.workers = pool.sleeping = 0;
}

static void prepare_for_fork(void) {
    pthread_atfork(lock_before_fork, unlock_in_parent, reset_in_child);
}

// Workers take no signals: those are the host's. Fewer workers than wanted only cost time.
static void hire_locked(unsigned wanted) {
    sigset_t all, before;
    pthread_attr_t detached;
    if (pool.workers >= wanted || pthread_attr_init(&detached) != 0) return;
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t thread;
    while (pool.workers < wanted && pthread_create(&thread, &detached, work, NULL) == 0) pool.workers++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&detached);
}

static lod_parallel_for *host_engine;
static void *host_context;

void lod_set_parallel_for(lod_parallel_for *engine, void *context) {
    host_engine = engine;
    host_context = context;
}

// --- How many threads ---

static atomic_uint quota_limit, pretended; // threads; 0: none

// Rounded up: the quota pays for a part of the last one.
void lod_parallel_fit_quota(void) {
    int saved = errno;
    const double cpus = ceil(lod_cgroup_quota(""));
    atomic_store(&quota_limit, cpus < UINT_MAX ? (unsigned)cpus : 0);
    errno = saved;
}

void lod_parallel_pretend(unsigned cpus) {
    atomic_store(&pretended, cpus);
}

// Of this thread, as of some milliseconds ago at most: asking costs as much as a tenth of a small call. A host of more
// CPUs than a cpu_set_t holds is taken for unlimited.
static unsigned affinity(void) {
    static _Thread_local unsigned cpus; // 0: never asked
    static _Thread_local int64_t asked;
    const int64_t now = nanoseconds(CLOCK_MONOTONIC_COARSE);
    if (cpus && now - asked < AFFINITY_NANOSECONDS) return cpus;
    cpu_set_t set;
    int saved = errno;
    cpus = sched_getaffinity(0, sizeof set, &set) == 0 ? (unsigned)CPU_COUNT(&set) : UINT_MAX;
    asked = now;
    errno = saved;
    return cpus;
}

unsigned lod_parallel_threads(unsigned threads) {
    if (threads <= 1 || host_engine) return threads;
    const unsigned pretence = atomic_load(&pretended), quota = atomic_load(&quota_limit);
    const unsigned cpus = pretence ? pretence : affinity();
    return (unsigned)lod_min(threads, quota && !pretence ? lod_min(cpus, quota) : cpus);
}

// --- Callers ---

// Wakes no more workers than may join.
static void post(job *j) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, prepare_for_fork);
    pthread_mutex_lock(&pool.lock);
    hire_locked(j->seats);
    j->following = pool.jobs;
    pool.jobs = j;
    atomic_fetch_add(&pool.posts, 1);
    size_t calls = lod_min(j->seats, pool.sleeping);
    pthread_mutex_unlock(&pool.lock);
    while (calls-- > 0) pthread_cond_signal(&pool.posted);
}

// Nobody joins any more; returns when nobody is inside.
static void withdraw(job *j) {
    pthread_mutex_lock(&pool.lock);
    job **at = &pool.jobs;
    while (*at != j) at = &(*at)->following;
    *at = j->following;
    pthread_mutex_unlock(&pool.lock);
    unsigned inside = atomic_load(&j->inside);
    while (inside && watch(&j->inside, inside)) inside = atomic_load(&j->inside);
    if (!inside) return;
    pthread_mutex_lock(&pool.lock);
    while (atomic_load(&j->inside)) pthread_cond_wait(&pool.left, &pool.lock);
    pthread_mutex_unlock(&pool.lock);
}

void lod_parallel(unsigned threads, size_t tasks, void (*body)(void *task, size_t i), void *task) {
    const unsigned used = lod_parallel_threads((unsigned)lod_min(threads, tasks));
    job j = {.body = body, .task = task, .tasks = tasks, .seats = used ? used - 1 : 0};
    if (used <= 1) {
        run_tasks(&j);
    } else if (host_engine) {
        host_engine(host_context, used, tasks, run_one, &j);
    } else {
        post(&j);
        run_tasks(&j);
        withdraw(&j);
    }
}

// --- Tasks that need memory of their own ---

typedef struct worked {
    void (*body)(void *task, size_t worker, size_t i);
    void *task;
    size_t tasks;
    atomic_size_t next;
} worked;

static void run_worker(void *context, size_t worker) {
    worked *w = context;
    for (size_t i; (i = atomic_fetch_add(&w->next, 1)) < w->tasks;) w->body(w->task, worker, i);
}

void lod_parallel_workers(unsigned threads, size_t tasks, void (*body)(void *task, size_t worker, size_t i),
                          void *task) {
    worked w = {.body = body, .task = task, .tasks = tasks};
    lod_parallel(threads, lod_min(threads, tasks), run_worker, &w);
}
