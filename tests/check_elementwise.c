// y = a + b: one rounding, so exact against the rounded sum in every mode.
#include <math.h>

#include "check.h"
#include "ref/ref.h"

static void check_sum(const lod_kernel *kernel, size_t n, int place) {
    static const char *const places[] = {"apart", "y is a", "y is b"};
    check_shape("n=%zu %s", n, places[place]);
    float *a = check_floats("a", place == 1 ? CHECK_INOUT : CHECK_IN, 1, n, n);
    float *b = check_floats("b", place == 2 ? CHECK_INOUT : CHECK_IN, 1, n, n);
    float *y = place == 1 ? a : place == 2 ? b : check_floats("y", CHECK_OUT, 1, n, n);
    if (check_mode_now() == CHECK_POISON) {
        a[n / 2] = INFINITY;
        b[n / 3] = -INFINITY;
        b[n - 1] = NAN;
    }
    double *want = check_doubles(n);
    lod_add_f64(&(lod_add_f64_args){.n = n, .a = check_widen(a), .b = check_widen(b), .y = want});
    CHECK_CALL(kernel->fn.add_f32(&(lod_add_kernel_args){.n = n, .a = a, .b = b, .y = y}));
    check_near(y, want, NULL);
    check_share(y);
}

CHECK_KERNEL(add_f32, 0xc2a613398936df8a) {
    for (size_t n = 1; n < 70; n++) {
        check_sum(kernel, n, (int)(n % 3));
    }
    check_sum(kernel, 1000, 0);
}
