// A harness in checkasm's shape. A check runs against every variant of its operation that this CPU can run, in three
// input modes, with every operand flush against an unreadable page at its end and then at its start. Variants other
// than ref must give the same bits as each other, and those of a committed golden hash, which ties machines together.
//
// A file of checks holds CHECK_KERNEL(op, golden) { ... } bodies, which see the variant as `kernel`, and
// CHECK_ONCE(name, golden) { ... } bodies, which run once. The first failure leaves the body.
#ifndef LOD_CHECK_H
#define LOD_CHECK_H

#include "dispatch.h"

#define CHECK_U 0x1p-24 // unit roundoff of float32

// Uniform: [-1, 1). Integers: -4 .. 4, so that sums of products are exact in any order. Poison: as uniform; the check
// plants NaN and infinities where they must not matter.
typedef enum check_mode { CHECK_UNIFORM, CHECK_INTEGERS, CHECK_POISON, CHECK_MODES } check_mode;
typedef enum check_role { CHECK_IN, CHECK_OUT, CHECK_INOUT } check_role;

// --- registering ---
typedef struct check_entry {
    const char *name;
    lod_op op;
    uint64_t golden;                              // hash of all that is shared in a run with the default seed; 0: none
    void (*run_kernel)(const lod_kernel *kernel); // or
    void (*run_once)(void);
    struct check_entry *next;
} check_entry;
void check_register(check_entry *entry);

#define CHECK_KERNEL(operation, hash) CHECK_KERNEL_AS(operation, operation, hash)
// Another check of an operation, under a name of its own.
#define CHECK_KERNEL_AS(what, operation, hash)                                                                         \
    static void check_##what(const lod_kernel *kernel);                                                                \
    __attribute__((constructor)) static void register_##what(void) {                                                   \
        static check_entry entry = {                                                                                   \
            .name = #what, .op = LOD_OP_##operation, .golden = hash, .run_kernel = check_##what};                      \
        check_register(&entry);                                                                                        \
    }                                                                                                                  \
    static void check_##what(const lod_kernel *kernel)

#define CHECK_ONCE(what, hash)                                                                                         \
    static void check_##what(void);                                                                                    \
    __attribute__((constructor)) static void register_##what(void) {                                                   \
        static check_entry entry = {.name = #what, .op = LOD_OP_COUNT, .golden = hash, .run_once = check_##what};      \
        check_register(&entry);                                                                                        \
    }                                                                                                                  \
    static void check_##what(void)

// --- one case: its shape (frees the operands of the case before), its numbers, its operands ---
void check_shape(const char *format, ...) __attribute__((format(printf, 1, 2)));
check_mode check_mode_now(void);
uint64_t check_random(void);
uint64_t check_below(uint64_t bound);
double check_uniform(void); // [-1, 1)

// An operand [rows][cols] of elements of `size` bytes, whose cells but no gap or neighbour may be touched. Gaps hold
// NaN. Cells of roles IN and INOUT start at 0.
void *check_operand(const char *name, check_role role, size_t size, size_t rows, size_t cols, size_t ld, size_t align);
// The same of float32, filled as the mode says (role OUT: NaN).
float *check_floats(const char *name, check_role role, size_t rows, size_t cols, size_t ld);
// Random keep bits [rows][ldkeep] for `cols` columns, of which about a share `rate` is dropped.
uint8_t *check_keep(size_t rows, size_t cols, size_t ldkeep, double rate);
// Doubles of this case: zeros; a copy [rows][cols] of an operand of floats; the absolute values of a copy.
double *check_doubles(size_t count);
double *check_widen(const float *operand);
double *check_magnitudes(const float *operand);

// --- the call ---
#define CHECK_CALL(call)                                                                                               \
    do {                                                                                                               \
        check_before_call();                                                                                           \
        call;                                                                                                          \
        check_after_call();                                                                                            \
    } while (0)
void check_before_call(void);
void check_after_call(void); // inputs, gaps and neighbours must be as before

// --- the verdict ---
// gamma_n = n u / (1 - n u): the relative error that n roundings can add up to.
double check_gamma(double roundings);
// |got - want| <= bound in every cell of an operand; bound NULL, or a ref variant under test: got is want rounded once.
void check_near(const float *operand, const double *want, const double *bound);
void check_bytes_equal(const char *what, const void *got, const void *want, size_t bytes);
// The cells of an operand enter the hash and must have the bits of the siblings' at the same point.
void check_share(const void *operand);
void check_share_bytes(const void *data, size_t bytes);
_Noreturn void check_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
#define CHECK_THAT(condition)                                                                                          \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            check_fail("%s:%d: %s does not hold", __FILE__, __LINE__, #condition);                                     \
        }                                                                                                              \
    } while (0)
_Noreturn void check_skip(const char *why);
// Leaves a check of bits that ref, which rounds once a k block, does not promise.
void check_skip_ref(void);

#endif
