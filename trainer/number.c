#include "number.h"

#include <math.h>

// x = k ln 2 + r with |r| <= ln(2) / 2, ln 2 in two parts of which the first has few enough bits for k * part to be
// exact.
double number_exp(double x) {
    const double ln2_high = 0x1.62e42feep-1, ln2_low = 0x1.a39ef35793c76p-33;
    if (!(x > -708.3)) {
        return x == x ? 0 : x;
    }
    if (x > 709.7) {
        return INFINITY;
    }
    double k = floor(x / (ln2_high + ln2_low) + 0.5);
    double r = (x - k * ln2_high) - k * ln2_low;
    double sum = 1;
    for (int n = 17; n > 0; n--) {
        sum = 1 + r / n * sum; // Taylor's series from its far end: the next term is below 1e-23
    }
    return ldexp(sum, (int)k);
}

// Halley's iteration for e^y = x from within ln(2) / 2: each step has three times as many digits.
double number_log(double x) {
    const double ln2 = 0x1.62e42fefa39efp-1;
    int exponent;
    double y = frexp(x, &exponent) < 0.70710678118654752 ? exponent - 1 : exponent;
    y *= ln2;
    for (int i = 0; i < 4; i++) {
        double e = number_exp(y);
        y += 2 * (x - e) / (x + e);
    }
    return y;
}

// cos(a) and sin(a) for 0 <= a <= pi/4 by Taylor's series.
static double cos_small(double a) {
    double sum = 1;
    for (int n = 20; n > 0; n -= 2) {
        sum = 1 - a * a / (n * (n - 1)) * sum;
    }
    return sum;
}

static double sin_small(double a) {
    double sum = 1;
    for (int n = 20; n > 0; n -= 2) {
        sum = 1 - a * a / (n * (n + 1)) * sum;
    }
    return a * sum;
}

double number_cos_pi(double x) {
    const double pi = 0x1.921fb54442d18p+1;
    if (x > 0.5) {
        return -number_cos_pi(1 - x);
    }
    return x <= 0.25 ? cos_small(pi * x) : sin_small(pi * (0.5 - x));
}
