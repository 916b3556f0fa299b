// The harness: guarded operands, comparison, signals, and the walk over the table of kernels.
#include "check.h"

#include <fenv.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    OPERANDS = 256,
    DOUBLES = 192,
    SLOT_BYTES = 1 << 24,
    GUARD_BYTES = 1 << 16,
    MARGIN_BYTES = 256,
    SHARES = 1 << 16,
    FILTERS = 32
};
enum { OUTCOME_FAIL = 1, OUTCOME_SKIP };
static const uint64_t default_seed = 20240312;
static const uint32_t canary = 0x7fc0dead; // a NaN
static const char *const mode_texts[CHECK_MODES] = {"uniform", "integers", "poison"};

typedef struct operand {
    const char *name;
    check_role role;
    uint8_t *slot;   // SLOT_BYTES between two guards
    uint8_t *before; // bytes before the call
    uint8_t *data;
    size_t size, rows, cols, ld;
} operand;

static struct {
    const char *program, *isa, *filters[FILTERS];
    size_t filter_count;
    uint64_t seed;
    check_entry *entries;
    unsigned passed, failed, skipped;

    const check_entry *entry; // what runs now
    const lod_kernel *kernel;
    check_mode mode;
    bool at_start;
    bool emulated; // LODROP_EMULATED: a shape has its operands flush at one side a mode, in turn: half the work
    char shape[160];
    uint64_t case_number, case_total, random;
    operand operands[OPERANDS];
    size_t operand_count;
    double *doubles[DOUBLES];
    size_t double_count;

    uint64_t shares[SHARES]; // of the first variant other than ref
    const lod_kernel *shares_of;
    size_t share_count, share_next;
    sigjmp_buf leave;
    pthread_t thread; // that may leave
} now;

// --- failing ---

static const char *recipe(void) {
    return now.kernel ? strstr(now.kernel->name, "__") + 2 : "-";
}

static void print_where(void) {
    printf("FAIL %s %s %s", now.entry->name, recipe(), now.shape);
    if (now.kernel) {
        printf(" %s at-%s", mode_texts[now.mode], now.at_start ? "start" : "end");
    }
    printf(" seed %llu ", (unsigned long long)now.seed);
}

static void print_rerun(void) {
    printf("\n     rerun: %s --seed %llu --filter %s", now.program, (unsigned long long)now.seed, now.entry->name);
    const char *isa = now.kernel ? lod_isa_text(now.kernel->isa) : getenv("LODROP_ISA");
    printf("%s%s\n", isa ? " --isa " : "", isa ? isa : "");
    fflush(stdout);
}

_Noreturn void check_fail(const char *format, ...) {
    print_where();
    va_list args;
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    print_rerun();
    siglongjmp(now.leave, OUTCOME_FAIL);
}

_Noreturn void check_skip(const char *why) {
    printf("skip %s: %s\n", now.entry->name, why);
    siglongjmp(now.leave, OUTCOME_SKIP);
}

void check_skip_ref(void) {
    lod_isa isa;
    CHECK_THAT(lod_isa_in_use(&isa, NULL, NULL) == LOD_OK);
    if (isa == LOD_ISA_ref) check_skip("ref rounds once a k block");
}

static size_t extent(const operand *o) {
    return o->rows && o->cols ? ((o->rows - 1) * o->ld + o->cols) * o->size : 0;
}

static void on_signal(int number, siginfo_t *info, void *context) {
    (void)context;
    print_where();
    printf("SIG%s", sigabbrev_np(number));
    for (size_t i = 0; number == SIGSEGV && i < now.operand_count; i++) {
        const operand *o = &now.operands[i];
        const uint8_t *at = info->si_addr;
        if (at >= o->slot - GUARD_BYTES && at < o->slot + SLOT_BYTES + GUARD_BYTES) {
            printf(" at byte %td of the %zu of %s", at - o->data, extent(o), o->name);
        }
    }
    print_rerun();
    if (!pthread_equal(pthread_self(), now.thread)) {
        _exit(1); // no way back into the main thread
    }
    siglongjmp(now.leave, OUTCOME_FAIL);
}

static void catch_signals(void) {
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_NODEFER};
    const int numbers[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        sigaction(numbers[i], &action, NULL);
    }
}

// --- cases and their numbers ---

static uint64_t mix(uint64_t x) {
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

static uint64_t hash(uint64_t seed, const void *data, size_t bytes) {
    const uint8_t *byte = data;
    for (size_t i = 0; i < bytes; i++) {
        seed = (seed ^ byte[i]) * 0x100000001b3;
    }
    return seed;
}

void check_shape(const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(now.shape, sizeof now.shape, format, args);
    va_end(args);
    now.operand_count = 0;
    while (now.double_count > 0) {
        free(now.doubles[--now.double_count]);
    }
    now.case_total++;
    if (now.emulated && now.kernel) {
        now.at_start = (now.case_number + now.mode) % 2;
    }
    now.random = mix(now.seed + mix(now.case_number++ * CHECK_MODES + now.mode));
    now.random = hash(now.random, now.entry->name, strlen(now.entry->name));
}

check_mode check_mode_now(void) {
    return now.mode;
}

uint64_t check_random(void) {
    return mix(now.random += 0x9e3779b97f4a7c15);
}

uint64_t check_below(uint64_t bound) {
    return (check_random() >> 32) * bound >> 32;
}

double check_uniform(void) {
    return (double)(check_random() >> 40) * 0x1p-23 - 1;
}

// --- operands ---

// Slots are mapped once and kept.
static operand *take_slot(void) {
    if (now.operand_count == OPERANDS) {
        check_fail("more than %d operands", OPERANDS);
    }
    operand *o = &now.operands[now.operand_count++];
    if (!o->slot) {
        uint8_t *map =
            mmap(NULL, SLOT_BYTES + 2 * GUARD_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (map == MAP_FAILED || mprotect(map + GUARD_BYTES, SLOT_BYTES, PROT_READ | PROT_WRITE)) {
            check_fail("no memory for operands");
        }
        o->slot = map + GUARD_BYTES;
    }
    return o;
}

static void fill_canary(uint8_t *data, size_t bytes) {
    memcpy(data, &canary, sizeof canary); // there are at least MARGIN_BYTES
    for (size_t done = sizeof canary; done < bytes; done *= 2) {
        memcpy(data + done, data, lod_min(done, bytes - done));
    }
}

void *check_operand(const char *name, check_role role, size_t size, size_t rows, size_t cols, size_t ld, size_t align) {
    operand *o = take_slot();
    o->name = name, o->role = role, o->size = size, o->rows = rows, o->cols = cols, o->ld = ld;
    size_t bytes = extent(o);
    if (bytes + MARGIN_BYTES + align > SLOT_BYTES) {
        check_fail("%s does not fit", name);
    }
    o->data = now.at_start ? o->slot : o->slot + (SLOT_BYTES - bytes) / align * align;
    fill_canary(now.at_start ? o->slot : o->data - MARGIN_BYTES, bytes + MARGIN_BYTES);
    for (size_t i = 0; role != CHECK_OUT && i < rows; i++) {
        memset(o->data + i * ld * size, 0, cols * size);
    }
    return o->data;
}

float *check_floats(const char *name, check_role role, size_t rows, size_t cols, size_t ld) {
    float *x = check_operand(name, role, sizeof *x, rows, cols, ld, sizeof *x);
    for (size_t i = 0; role != CHECK_OUT && i < rows; i++) {
        for (size_t j = 0; j < cols; j++) {
            double value = now.mode == CHECK_INTEGERS ? (double)check_below(9) - 4 : check_uniform();
            x[i * ld + j] = (float)value;
        }
    }
    return x;
}

uint8_t *check_keep(size_t rows, size_t cols, size_t ldkeep, double rate) {
    size_t bytes = (cols + 127) / 128 * 16;
    uint8_t *keep = check_operand("keep", CHECK_IN, 1, rows, bytes, ldkeep, 1);
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < bytes * 8; j++) {
            keep[i * ldkeep + j / 8] |= (uint8_t)((check_uniform() + 1 >= 2 * rate) << (j % 8));
        }
    }
    return keep;
}

static const operand *find(const void *data) {
    for (size_t i = 0; i < now.operand_count; i++) {
        if (now.operands[i].data == data) {
            return &now.operands[i];
        }
    }
    check_fail("not an operand of this case");
}

double *check_doubles(size_t count) {
    double *x = calloc(count ? count : 1, sizeof *x);
    if (!x || now.double_count == DOUBLES) {
        check_fail("no room for doubles");
    }
    return now.doubles[now.double_count++] = x;
}

double *check_widen(const float *data) {
    const operand *o = find(data);
    double *wide = check_doubles(o->rows * o->cols);
    for (size_t i = 0; i < o->rows * o->cols; i++) {
        wide[i] = data[i / o->cols * o->ld + i % o->cols];
    }
    return wide;
}

double *check_magnitudes(const float *data) {
    const operand *o = find(data);
    double *wide = check_widen(data);
    for (size_t i = 0; i < o->rows * o->cols; i++) {
        wide[i] = fabs(wide[i]);
    }
    return wide;
}

// --- the call ---

static uint8_t *guarded(const operand *o) {
    return now.at_start ? o->data : o->data - MARGIN_BYTES;
}

void check_before_call(void) {
    for (size_t i = 0; i < now.operand_count; i++) {
        operand *o = &now.operands[i];
        size_t bytes = extent(o) + MARGIN_BYTES;
        uint8_t *before = realloc(o->before, bytes);
        if (!before) {
            check_fail("no memory for operands");
        }
        o->before = memcpy(before, guarded(o), bytes);
    }
}

// Bytes from .. to of what is guarded are those before the call.
static void expect_untouched(const operand *o, size_t from, size_t to) {
    const uint8_t *after = guarded(o);
    if (memcmp(o->before + from, after + from, to - from) == 0) {
        return;
    }
    while (o->before[from] == after[from]) {
        from++;
    }
    check_fail("wrote byte %td of %s: not its own", after + from - o->data, o->name);
}

void check_after_call(void) {
    for (size_t i = 0; i < now.operand_count; i++) {
        const operand *o = &now.operands[i];
        const size_t lead = (size_t)(o->data - guarded(o)), rows = o->role == CHECK_IN || !o->cols ? 0 : o->rows;
        size_t from = 0;
        for (size_t row = 0; row < rows; row++) {
            const size_t start = lead + row * o->ld * o->size;
            expect_untouched(o, from, start);
            from = start + o->cols * o->size;
        }
        expect_untouched(o, from, extent(o) + MARGIN_BYTES);
    }
}

// --- the verdict ---

double check_gamma(double roundings) {
    return roundings * CHECK_U / (1 - roundings * CHECK_U);
}

static bool close_enough(float got, double want, double bound, bool exact) {
    float rounded = (float)want;
    if (isnan(got) || isnan(want)) {
        return isnan(got) && isnan(want);
    }
    return exact ? memcmp(&got, &rounded, sizeof got) == 0 : got == rounded || fabs(got - want) <= bound;
}

void check_near(const float *got, const double *want, const double *bound) {
    const operand *o = find(got);
    bool exact = !bound || (now.kernel && now.kernel->isa == LOD_ISA_ref);
    for (size_t i = 0; i < o->rows; i++) {
        for (size_t j = 0; j < o->cols; j++) {
            size_t cell = i * o->cols + j;
            double limit = exact ? 0 : bound[cell];
            if (!close_enough(got[i * o->ld + j], want[cell], limit, exact)) {
                check_fail("%s [%zu][%zu] got %.9g want %.17g bound %.3g", o->name, i, j, (double)got[i * o->ld + j],
                           want[cell], limit);
            }
        }
    }
}

void check_bytes_equal(const char *what, const void *got, const void *want, size_t bytes) {
    const uint8_t *a = got, *b = want;
    for (size_t i = 0; i < bytes; i++) {
        if (a[i] != b[i]) {
            check_fail("%s: byte %zu of %zu got %02x want %02x", what, i, bytes, a[i], b[i]);
        }
    }
}

static void share(uint64_t value) {
    if (now.kernel && now.kernel->isa == LOD_ISA_ref) {
        return;
    }
    if (now.share_next == now.share_count) {
        if (now.shares_of != now.kernel || now.share_count == SHARES) {
            check_fail("shares more results than its siblings or than %d", SHARES);
        }
        now.shares[now.share_count++] = value;
    }
    if (now.shares[now.share_next++] != value) {
        check_fail("bits differ from those of %s (other variant, or other alignment)",
                   now.shares_of ? now.shares_of->name : "the run before");
    }
}

// Every NaN counts as the same.
void check_share(const void *data) {
    const operand *o = find(data);
    uint64_t value = 0xcbf29ce484222325;
    for (size_t i = 0; i < o->rows; i++) {
        for (size_t j = 0; j < o->cols; j++) {
            const uint8_t *cell = o->data + (i * o->ld + j) * o->size;
            uint32_t bits = *cell;
            if (o->size == sizeof bits) {
                memcpy(&bits, cell, sizeof bits);
                bits = (bits & 0x7fffffff) > 0x7f800000 ? canary : bits;
            }
            const uint8_t little_endian[4] = {(uint8_t)bits, (uint8_t)(bits >> 8), (uint8_t)(bits >> 16),
                                              (uint8_t)(bits >> 24)};
            value = hash(value, little_endian, o->size == sizeof bits ? sizeof bits : 1);
        }
    }
    share(value);
}

void check_share_bytes(const void *data, size_t bytes) {
    share(hash(0xcbf29ce484222325, data, bytes));
}

// --- the walk ---

void check_register(check_entry *entry) {
    check_entry **at = &now.entries;
    while (*at && strcmp((*at)->name, entry->name) < 0) {
        at = &(*at)->next;
    }
    entry->next = *at;
    *at = entry;
}

static void run_modes(void) {
    for (now.mode = CHECK_UNIFORM; now.mode < CHECK_MODES; now.mode++) {
        now.case_number = 0;
        now.entry->run_kernel(now.kernel);
    }
}

static void run_body(void) {
    now.case_number = now.case_total = now.share_next = 0;
    now.mode = CHECK_UNIFORM;
    snprintf(now.shape, sizeof now.shape, "-");
    if (!now.kernel) {
        now.entry->run_once();
        return;
    }
    for (int side = 0; side < (now.emulated ? 1 : 2); side++) {
        now.at_start = side == 1;
        now.share_next = 0;
        run_modes();
    }
}

static bool run_case(void) {
    now.at_start = false;
    fesetenv(FE_DFL_ENV); // whatever the case before has left
    int outcome = sigsetjmp(now.leave, 1);
    if (outcome == 0) {
        run_body();
        printf("ok   %s %s (%llu shapes)\n", now.entry->name, recipe(), (unsigned long long)now.case_total);
        fflush(stdout);
        now.passed++;
        return true;
    }
    *(outcome == OUTCOME_FAIL ? &now.failed : &now.skipped) += 1;
    return false;
}

// The committed hash, where the run was one it stands for.
static void compare_golden(bool complete) {
    if (!now.entry->golden) {
        return;
    }
    lod_isa isa;
    const char *why = NULL;
    if (now.seed != default_seed) {
        why = "it stands for the default seed";
    } else if (!complete) {
        why = "no variant with SIMD ran to its end";
    } else if (now.entry->run_once && (lod_isa_in_use(&isa, NULL, NULL) != LOD_OK || isa == LOD_ISA_ref)) {
        why = "ref rounds differently";
    }
    uint64_t total = 0xcbf29ce484222325;
    for (size_t i = 0; i < now.share_count; i++) {
        total = mix(total ^ now.shares[i]);
    }
    if (why) {
        printf("skip %s golden hash: %s\n", now.entry->name, why);
        now.skipped++;
    } else if (total != now.entry->golden) {
        printf("FAIL %s golden hash: got 0x%016llx want 0x%016llx", now.entry->name, (unsigned long long)total,
               (unsigned long long)now.entry->golden);
        print_rerun();
        now.failed++;
    } else {
        printf("ok   %s golden hash\n", now.entry->name);
        now.passed++;
    }
}

static bool run_kernels(void) {
    size_t count;
    const lod_kernel *kernels = lod_kernels(&count);
    bool complete = false;
    for (size_t i = 0; i < count; i++) {
        now.kernel = &kernels[i];
        if (now.kernel->op != now.entry->op || (now.isa && strcmp(now.isa, lod_isa_text(now.kernel->isa)) != 0)) {
            continue;
        }
        if (!lod_cpu_has(now.kernel->isa)) {
            printf("skip %s %s: this CPU has no %s\n", now.entry->name, recipe(), lod_isa_text(now.kernel->isa));
            now.skipped++;
            continue;
        }
        bool first = !now.shares_of && now.kernel->isa != LOD_ISA_ref;
        if (first) {
            now.shares_of = now.kernel;
        }
        bool passed = run_case();
        if (first && !passed) {
            now.shares_of = NULL;
            now.share_count = 0;
        }
        complete |= first && passed;
    }
    now.kernel = NULL;
    return complete;
}

static void run_entry(const check_entry *entry) {
    now.entry = entry;
    now.kernel = now.shares_of = NULL;
    now.share_count = 0;
    compare_golden(entry->run_kernel ? run_kernels() : run_case());
}

static bool wanted(const check_entry *entry) {
    for (size_t i = 0; i < now.filter_count; i++) {
        if (strstr(entry->name, now.filters[i])) {
            return true;
        }
    }
    return now.filter_count == 0;
}

static int usage(void) {
    fprintf(stderr, "usage: %s [--seed N] [--filter TEXT]... [--isa ref|avx2|avx512|neon] [--list]\n", now.program);
    return 2;
}

int main(int argc, char **argv) {
    bool list = false;
    now.program = argv[0];
    now.emulated = getenv("LODROP_EMULATED");
    now.seed = default_seed;
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--list") == 0) {
            list = true;
        } else if (!value) {
            return usage();
        } else if (strcmp(argv[i], "--seed") == 0) {
            now.seed = strtoull(argv[++i], NULL, 0);
        } else if (strcmp(argv[i], "--filter") == 0 && now.filter_count < FILTERS) {
            now.filters[now.filter_count++] = argv[++i];
        } else if (strcmp(argv[i], "--isa") == 0) {
            now.isa = argv[++i];
            setenv("LODROP_ISA", now.isa, 1);
        } else {
            return usage();
        }
    }
    now.thread = pthread_self();
    catch_signals();
    lod_parallel_pretend(16); // however few CPUs there are
    printf("seed %llu\n", (unsigned long long)now.seed);
    for (const check_entry *entry = now.entries; entry; entry = entry->next) {
        if (!wanted(entry)) {
            continue;
        }
        if (list) {
            printf("%s\n", entry->name);
        } else {
            run_entry(entry);
        }
    }
    printf("%u passed, %u failed, %u skipped\n", now.passed, now.failed, now.skipped);
    return now.failed > 0;
}
