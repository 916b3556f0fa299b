// Work for hosts.py: calls of one operation in turns of a few hundred milliseconds, the numbers of threads in rotation.
// Prints a line a turn: its threads, calls a second, CPU seconds a second of its own and of the rest of the machine;
// then what the process takes while it does nothing. Turns follow the clock, so that two processes take theirs
// together.
//
//     hosts_load WORK ENGINE CALLERS TURN_MS TURNS THREADS[,THREADS...]
//
// WORK      layer (768 x 768, 256 tokens, forward and backward), wide (2048 x 2048, 512 tokens, forward),
//           attention (8 heads of 64, 512 tokens, forward and backward), sumN (of N floats)
// ENGINE    pool (the library's), pthread (threads made for each call), openmp (a parallel for)
// CALLERS   1, N (as many threads of pthreads), or openmpN (an OpenMP region of as many)
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "lodrop.h"

enum { MOST_CALLERS = 8, MOST_SETTINGS = 4, MOST_TURNS = 400, IDLE_MS = 500 };

static void die(const char *why) {
    fprintf(stderr, "hosts_load: %s\n", why);
    exit(1);
}

static double seconds(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// CPU seconds that the whole machine has spent, or that its hypervisor withheld; in steps of 10 ms.
static double machine_seconds(void) {
    unsigned long long busy[8] = {0}, sum = 0; // user nice system idle iowait irq softirq steal
    FILE *file = fopen("/proc/stat", "re");
    if (!file || fscanf(file, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &busy[0], &busy[1], &busy[2], &busy[3],
                        &busy[4], &busy[5], &busy[6], &busy[7]) != 8) die("/proc/stat cannot be read");
    fclose(file);
    for (size_t i = 0; i < 8; i++) sum += i == 3 || i == 4 ? 0 : busy[i];
    return (double)sum / (double)sysconf(_SC_CLK_TCK);
}

// Never freed. On huge pages, because on small ones it is chance whether operands collide in the second cache.
static float *floats(size_t count) {
    enum { HUGE_PAGE = 2 << 20, ARENA = 128 << 20 };
    static _Thread_local char *arena;
    static _Thread_local size_t used;
    if (!arena) {
        arena = aligned_alloc(HUGE_PAGE, ARENA);
        if (!arena) die("no memory");
        madvise(arena, ARENA, MADV_HUGEPAGE);
    }
    float *x = (float *)(arena + used);
    used += (count * sizeof *x + 63) / 64 * 64;
    if (used > ARENA) die("the arena is too small");
    for (size_t i = 0; i < count; i++) x[i] = (float)(i % 61) / 61 - 0.5f;
    return x;
}

// --- Work: a caller's own operands; plans are by number of threads ---

typedef struct work {
    void (*call)(const struct work *w, const lod_plan *plan);
    lod_plan *plans[MOST_SETTINGS];
    void *workspace;
    lod_lowrank_args layer;
    lod_attention_args attention;
    lod_add_args add;
    lod_grad_sum sums[2];
} work;

static lod_rows one_segment(size_t tokens) {
    static const uint32_t draw[1];
    size_t *start = (size_t *)floats(4);
    start[0] = 0, start[1] = tokens;
    return (lod_rows){.count = 1, .start = start, .draw = draw};
}

static void must(lod_status status) {
    if (status != LOD_OK) die("a call failed");
}

static void call_forward(const work *w, const lod_plan *plan) {
    must(lod_lowrank_forward(plan, &w->layer, w->workspace, NULL));
}

static void call_layer(const work *w, const lod_plan *plan) {
    lod_grad_sum da = w->sums[0], dbt = w->sums[1]; // each call begins with empty sums
    lod_lowrank_args a = w->layer;
    a.da = &da, a.dbt = &dbt;
    must(lod_lowrank_forward(plan, &a, w->workspace, NULL));
    must(lod_lowrank_backward(plan, &a, w->workspace, NULL));
}

static void call_attention(const work *w, const lod_plan *plan) {
    must(lod_attention_forward(plan, &w->attention, w->workspace, NULL));
    must(lod_attention_backward(plan, &w->attention, w->workspace, NULL));
}

static void call_sum(const work *w, const lod_plan *plan) {
    must(lod_add(plan, &w->add, NULL));
}

static void make_layer(work *w, size_t n, size_t tokens) {
    enum { RANK = 8 };
    float *packed = floats(n * n);
    must(lod_pack_weights(n, n, LOD_F32, floats(n * n), n, packed, NULL));
    w->layer = (lod_lowrank_args){
        .rows = one_segment(tokens), .rank = RANK, .scale = 2, .dropout = {.compensation = LOD_COMPENSATION_INVERTED},
        .x = floats(tokens * n), .ldx = n, .w = {packed, LOD_F32}, .a = floats(RANK * n), .bt = floats(RANK * n),
        .u = floats(tokens * RANK), .y = floats(tokens * n), .ldy = n, .dy = floats(tokens * n), .lddy = n,
        .dx = floats(tokens * n), .lddx = n};
    for (size_t i = 0; i < 2; i++) {
        lod_grad_sum_init(&w->sums[i], RANK * n, 1, floats(lod_grad_sum_size(RANK * n, 1) / sizeof(float)));
    }
}

static void make_attention(work *w) {
    enum { HEADS = 8, D = 64, T = 512, LD = HEADS * D };
    lod_rows rows = one_segment(T);
    w->attention = (lod_attention_args){
        .queries = rows, .keys = rows, .causal = true, .scale = 0.125, .q = floats(T * LD), .k = floats(T * LD),
        .v = floats(T * LD), .ldq = LD, .ldk = LD, .ldv = LD, .o = floats(T * LD), .ldo = LD, .lse = floats(T * HEADS),
        .d_o = floats(T * LD), .dq = floats(T * LD), .dk = floats(T * LD), .dv = floats(T * LD)};
}

static lod_plan *plan_of(const char *name, unsigned threads) {
    lod_plan *plan = NULL;
    if (strcmp(name, "attention") == 0) {
        const lod_attention_shape shape = {.heads = 8, .kv_heads = 8, .head_dim = 64, .keys = 512};
        must(lod_plan_attention(&shape, threads, LOD_ESTIMATE, &plan, NULL));
    } else if (strncmp(name, "sum", 3) == 0) {
        must(lod_plan_rowwise(threads, &plan, NULL));
    } else {
        const size_t n = strcmp(name, "wide") == 0 ? 2048 : 768, tokens = n == 768 ? 256 : 512;
        const lod_lowrank_shape shape = {.n_in = n, .n_out = n, .rank = 8, .tokens = tokens};
        must(lod_plan_lowrank(&shape, threads, LOD_ESTIMATE, &plan, NULL));
    }
    return plan;
}

static void make_work(work *w, const char *name, const unsigned threads[], size_t settings) {
    size_t bytes = 64;
    for (size_t i = 0; i < settings; i++) {
        w->plans[i] = plan_of(name, threads[i]);
        size_t needed = strncmp(name, "sum", 3) == 0 ? 0 : lod_plan_workspace(w->plans[i]);
        bytes = needed > bytes ? needed : bytes;
    }
    w->workspace = floats(bytes / sizeof(float));
    if (strcmp(name, "layer") == 0) {
        make_layer(w, 768, 256), w->call = call_layer;
    } else if (strcmp(name, "wide") == 0) {
        make_layer(w, 2048, 512), w->call = call_forward;
    } else if (strcmp(name, "attention") == 0) {
        make_attention(w), w->call = call_attention;
    } else if (strncmp(name, "sum", 3) == 0) {
        const size_t count = strtoul(name + 3, NULL, 10);
        w->add = (lod_add_args){.count = count, .a = floats(count), .b = floats(count), .y = floats(count)};
        w->call = call_sum;
    } else {
        die("WORK is unknown");
    }
}

// --- Engines ---

typedef struct strand {
    size_t first, step, tasks;
    void (*body)(void *task, size_t i);
    void *task;
} strand;

static void *run_strand(void *context) {
    const strand *s = context;
    for (size_t i = s->first; i < s->tasks; i += s->step) s->body(s->task, i);
    return NULL;
}

static void pthread_engine(void *context, unsigned threads, size_t tasks, void (*body)(void *task, size_t i),
                           void *task) {
    enum { MOST = 64 };
    pthread_t handles[MOST];
    strand strands[MOST];
    (void)context;
    threads = threads > MOST ? MOST : threads;
    strand own = {.step = threads, .tasks = tasks, .body = body, .task = task};
    for (unsigned i = 1; i < threads; i++) {
        strands[i] = own;
        strands[i].first = i;
        if (pthread_create(&handles[i], NULL, run_strand, &strands[i]) != 0) die("no thread was to be had");
    }
    run_strand(&own);
    for (unsigned i = 1; i < threads; i++) pthread_join(handles[i], NULL);
}

#ifdef _OPENMP
static void openmp_engine(void *context, unsigned threads, size_t tasks, void (*body)(void *task, size_t i),
                          void *task) {
    (void)context;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (size_t i = 0; i < tasks; i++) body(task, i);
}
#endif

static void choose_engine(const char *name) {
    if (strcmp(name, "pthread") == 0) {
        lod_set_parallel_for(pthread_engine, NULL);
#ifdef _OPENMP
    } else if (strcmp(name, "openmp") == 0) {
        lod_set_parallel_for(openmp_engine, NULL);
#endif
    } else if (strcmp(name, "pool") != 0) {
        die("ENGINE is unknown, or this build has no OpenMP");
    }
}

// --- Turns ---

typedef struct turn {
    double calls_per_second[MOST_CALLERS], own, others; // the latter in CPUs
} turn;

static struct run {
    double begin, length; // of the first turn, seconds
    size_t turns, settings, callers;
    const char *work;
    unsigned threads[MOST_SETTINGS];
    turn results[MOST_TURNS];
} run;

// A call that runs over its turn's end shortens the next turn.
static void *call_in_turns(void *context) {
    const size_t caller = (size_t)context;
    work w = {0};
    make_work(&w, run.work, run.threads, run.settings);
    for (size_t i = 0; i < run.settings; i++) w.call(&w, w.plans[i]);
    while (seconds(CLOCK_MONOTONIC) < run.begin) nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    for (size_t i = 0; i < run.turns; i++) {
        const lod_plan *plan = w.plans[i % run.settings];
        const double begin = seconds(CLOCK_MONOTONIC), cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
        const double machine = machine_seconds();
        const double limit = run.begin + (double)(i + 1) * run.length;
        size_t calls = 0;
        double end;
        do {
            w.call(&w, plan);
            calls++;
            end = seconds(CLOCK_MONOTONIC);
        } while (end < limit);
        run.results[i].calls_per_second[caller] = (double)calls / (end - begin);
        if (caller) continue;
        run.results[i].own = (seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu) / (end - begin);
        run.results[i].others = (machine_seconds() - machine) / (end - begin) - run.results[i].own;
    }
    return NULL;
}

static void run_callers(bool openmp) {
    pthread_t handles[MOST_CALLERS];
    if (openmp) {
#ifdef _OPENMP
#pragma omp parallel num_threads(run.callers)
        call_in_turns((void *)(size_t)omp_get_thread_num());
#else
        die("this build has no OpenMP");
#endif
        return;
    }
    for (size_t i = 1; i < run.callers; i++) {
        if (pthread_create(&handles[i], NULL, call_in_turns, (void *)i) != 0) die("no thread was to be had");
    }
    call_in_turns((void *)0);
    for (size_t i = 1; i < run.callers; i++) pthread_join(handles[i], NULL);
}

static void print_turns(void) {
    for (size_t i = 0; i < run.turns; i++) {
        double calls = 0;
        for (size_t caller = 0; caller < run.callers; caller++) calls += run.results[i].calls_per_second[caller];
        printf("turn %u %.6g %.4f %.3f\n", run.threads[i % run.settings], calls, run.results[i].own,
               run.results[i].others);
    }
}

// The first tenth of a second passes unseen: workers may still watch for calls.
static void print_idle(void) {
    nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    const double cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
    nanosleep(&(struct timespec){.tv_nsec = IDLE_MS * 1000000L}, NULL);
    printf("idle %.6f\n", (seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu) / (IDLE_MS / 1000.0));
}

int main(int argc, char **argv) {
    if (argc != 7) die("usage: hosts_load WORK ENGINE CALLERS TURN_MS TURNS THREADS[,THREADS...]");
    const bool openmp = strncmp(argv[3], "openmp", 6) == 0;
    run.work = argv[1];
    run.callers = strtoul(argv[3] + (openmp ? 6 : 0), NULL, 10);
    run.length = strtod(argv[4], NULL) / 1000;
    run.turns = strtoul(argv[5], NULL, 10);
    for (char *at = argv[6]; at && run.settings < MOST_SETTINGS; at = strchr(at, ',')) {
        run.threads[run.settings++] = (unsigned)strtoul(at + (*at == ','), NULL, 10);
        at += *at == ',';
    }
    if (run.callers - 1 >= MOST_CALLERS || run.turns > MOST_TURNS || !(run.length > 0)) die("a number is out of range");
    choose_engine(argv[2]);
    const double now = seconds(CLOCK_MONOTONIC) + 1; // by then all callers are ready
    run.begin = (double)(size_t)(now / (run.length * (double)run.settings) + 1) * run.length * (double)run.settings;
    run_callers(openmp);
    print_turns();
    print_idle();
    return 0;
}
