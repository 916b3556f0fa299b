// The steps of attention around its scores: the product, packing both ways, the ends of a row. The steps on scores are
// in check_attention_scores.c.
#include <math.h>
#include <string.h>

#include "check.h"
#include "ref/ref.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static const size_t head_dims[] = {8, 16, 24, 72, 256};

static size_t padded(size_t n) {
    return (n + 15) / 16 * 16;
}

// --- The product ---

typedef struct tile_case {
    bool columns; // of A: the columns of a block of scores, else its rows
    bool panels;  // B, else packed rows
    bool first;
} tile_case;

static const float *tile_left(lod_attention_tile_args *t, bool columns, float **cells) {
    t->a_row = columns ? 1 : t->k + 3, t->a_depth = columns ? t->m + 5 : 1;
    return *cells = columns ? check_floats("a", CHECK_INOUT, t->k, t->m, t->a_depth)
                            : check_floats("a", CHECK_INOUT, t->m, t->k, t->a_row);
}

static const float *tile_right(lod_attention_tile_args *t, bool panels) {
    t->b_depth = panels ? 16 : t->n + 32, t->b_panel = panels ? 16 * t->k + 48 : 16;
    const size_t rows = panels ? t->n / 16 : t->k, cols = panels ? 16 * t->k : t->n;
    float *b = check_operand("b", CHECK_INOUT, sizeof *b, rows, cols, panels ? t->b_panel : t->b_depth, 64);
    for (size_t i = 0; i < t->k * t->n; i++) {
        float value = check_mode_now() == CHECK_INTEGERS ? (float)check_below(9) - 4 : (float)check_uniform();
        b[i / t->n * t->b_depth + i % t->n / 16 * t->b_panel + i % 16] = value;
    }
    return b;
}

// c + sum a b with magnitudes or without, [m][n].
static double *tile_meaning(const lod_attention_tile_args *t, bool magnitudes) {
    double *a = check_doubles(t->m * t->k), *b = check_doubles(t->k * t->n);
    double *c = t->first ? check_doubles(t->m * t->n) : magnitudes ? check_magnitudes(t->c) : check_widen(t->c);
    for (size_t k = 0; k < t->k; k++) {
        for (size_t i = 0; i < t->m; i++) {
            double value = t->a[i * t->a_row + k * t->a_depth];
            a[i * t->k + k] = magnitudes ? fabs(value) : value;
        }
        for (size_t j = 0; j < t->n; j++) {
            double value = t->b[k * t->b_depth + j / 16 * t->b_panel + j % 16];
            b[k * t->n + j] = magnitudes ? fabs(value) : value;
        }
    }
    lod_attention_tile_f64_args wide = {.m = t->m, .n = t->n, .k = t->k, .a = a, .a_row = t->k, .a_depth = 1};
    wide.b = b, wide.b_depth = t->n, wide.first = t->first, wide.c = c, wide.ldc = t->n;
    lod_attention_tile_f64(&wide);
    return c;
}

// The kernel again, with NaN in the last row of A and the last column of B: they reach their own row and column of C.
static void poison_tile(const lod_kernel *kernel, const lod_attention_tile_args *t, float *a, const float *before) {
    double *want = check_widen(t->c);
    float *b = (float *)(uintptr_t)t->b;
    for (size_t k = 0; k < t->k; k++) {
        a[(t->m - 1) * t->a_row + k * t->a_depth] = NAN;
        b[k * t->b_depth + (t->n - 1) / 16 * t->b_panel + 15] = NAN;
    }
    for (size_t i = 0; i < t->m; i++) {
        memcpy(t->c + i * t->ldc, before + i * t->n, t->n * sizeof *t->c);
        for (size_t j = 0; t->k && j < t->n; j++) {
            if (i == t->m - 1 || j == t->n - 1)
                want[i * t->n + j] = NAN;
        }
    }
    CHECK_CALL(kernel->fn.attention_tile_f32(t));
    check_near(t->c, want, NULL);
}

static void check_tile(const lod_kernel *kernel, size_t m, size_t n, size_t k, tile_case c) {
    check_shape("m=%zu n=%zu k=%zu a by %s b by %s%s", m, n, k, c.columns ? "columns" : "rows",
                c.panels ? "panels" : "rows", c.first ? "" : " continued");
    lod_attention_tile_args t = {.m = m, .n = n, .k = k, .first = c.first, .ldc = n + 7};
    float *a, before[64 * 64];
    t.a = tile_left(&t, c.columns, &a);
    t.b = tile_right(&t, c.panels);
    t.c = check_floats("c", c.first ? CHECK_OUT : CHECK_INOUT, m, n, t.ldc);
    for (size_t i = 0; i < m; i++) {
        memcpy(before + i * n, t.c + i * t.ldc, n * sizeof *before);
    }
    double *want = tile_meaning(&t, false), *bound = tile_meaning(&t, true);
    for (size_t i = 0; i < m * n; i++) {
        bound[i] *= check_gamma((double)k);
    }
    CHECK_CALL(kernel->fn.attention_tile_f32(&t));
    check_near(t.c, want, check_mode_now() == CHECK_INTEGERS ? NULL : bound);
    check_share(t.c);
    if (check_mode_now() == CHECK_POISON)
        poison_tile(kernel, &t, a, before);
}

// Every m up to more than two strips of rows of any tile, the same for each, so that they share their bits.
CHECK_KERNEL(attention_tile_f32, 0x0d578922360d3f57) {
    static const size_t widths[] = {16, 32, 48, 64}, depths[] = {0, 1, 2, 3, 37, 64, 130};
    enum { ROWS = 26 };
    if (2 * kernel->mr >= ROWS)
        check_fail("a tile of %u rows needs more of them", kernel->mr);
    size_t next = 0;
    for (size_t m = 1; m <= ROWS; m++) {
        for (size_t i = 0; i < COUNT(widths) * COUNT(depths); i++, next += 3) {
            const tile_case c = {.columns = next & 1, .panels = next & 2, .first = next & 4};
            check_tile(kernel, m, widths[i % COUNT(widths)], depths[i / COUNT(widths)], c);
        }
    }
    for (unsigned i = 0; i < 8; i++) {
        check_tile(kernel, 64, 64, 128, (tile_case){.columns = i & 1, .panels = i & 2, .first = i & 4});
    }
}

// --- Packing ---

enum { SPARE_ROWS = 5 };

// `count` different rows of count + SPARE_ROWS, in any order.
static uint32_t *some_rows(size_t count) {
    uint32_t *index = check_operand("index", CHECK_IN, sizeof *index, 1, count, count, 4), all[256];
    const size_t rows = count + SPARE_ROWS;
    for (size_t i = 0; i < rows; i++) {
        all[i] = (uint32_t)i;
    }
    for (size_t i = 0; i < count; i++) {
        size_t other = i + check_below(rows - i);
        index[i] = all[other];
        all[other] = all[i];
    }
    return index;
}

static bool listed(const uint32_t *index, size_t count, size_t row) {
    for (size_t i = 0; i < count; i++) {
        if (index[i] == row)
            return true;
    }
    return false;
}

typedef struct pack_case {
    bool indexed, rows, panels, probe;
    float scale;
} pack_case;

// What is packed must be x * scale, rounded once, and zeros around it.
static void expect_packed(const lod_attention_pack_args *t) {
    const size_t d16 = padded(t->n), c16 = padded(t->count);
    double *rows = check_doubles(t->count * d16), *panels = check_doubles(c16 * d16);
    for (size_t i = 0; i < t->count * t->n; i++) {
        size_t row = i / t->n, d = i % t->n;
        float y = t->x[(t->index ? t->index[row] : row) * t->ldx + d] * t->scale;
        rows[row * d16 + d] = panels[(row / 16 * d16 + d) * 16 + row % 16] = y;
    }
    if (t->rows)
        check_near(t->rows, rows, NULL);
    if (t->panels)
        check_near(t->panels, panels, NULL);
}

static void check_pack(const lod_kernel *kernel, size_t count, size_t n, pack_case c) {
    check_shape("count=%zu n=%zu%s%s%s%s scale=%g", count, n, c.indexed ? " indexed" : "", c.rows ? " rows" : "",
                c.panels ? " panels" : "", c.probe ? " probe" : "", (double)c.scale);
    const size_t d16 = padded(n), sources = c.indexed ? count + SPARE_ROWS : count;
    lod_attention_pack_args t = {.count = count, .n = n, .ldx = n + 3, .scale = c.scale};
    float *x = check_floats("x", CHECK_INOUT, sources, n, t.ldx);
    t.x = x;
    t.index = c.indexed ? some_rows(count) : NULL;
    t.rows = c.rows ? check_floats("rows", CHECK_OUT, count, d16, d16) : NULL;
    t.panels = c.panels ? check_operand("panels", CHECK_OUT, 4, padded(count) / 16, d16 * 16, d16 * 16, 64) : NULL;
    t.probe = c.probe ? check_operand("probe", CHECK_INOUT, 4, 1, 1, 1, 4) : NULL;
    for (size_t row = 0; c.indexed && check_mode_now() == CHECK_POISON && row < sources; row++) {
        for (size_t d = 0; d < n && !listed(t.index, count, row); d++) {
            x[row * t.ldx + d] = d % 2 ? NAN : INFINITY; // not to be read, or of no consequence
        }
    }
    CHECK_CALL(kernel->fn.attention_pack_f32(&t));
    expect_packed(&t);
    if (t.rows)
        check_share(t.rows);
    if (t.panels)
        check_share(t.panels);
    if (!t.probe)
        return;
    CHECK_THAT(*t.probe == 0);
    if (count == 0)
        return;
    static const float bad[] = {NAN, INFINITY, -INFINITY, 3e38f}; // the last one times scale is not finite either
    for (size_t i = 0; i < COUNT(bad); i++) {
        size_t row = check_below(count);
        float *cell = x + (t.index ? t.index[row] : row) * t.ldx + check_below(n), value = *cell;
        *t.probe = 0, *cell = bad[i];
        kernel->fn.attention_pack_f32(&t);
        CHECK_THAT(!!isnan(*t.probe) == !isfinite(bad[i] * t.scale));
        *cell = value;
    }
    *t.probe = NAN;
    kernel->fn.attention_pack_f32(&t);
    CHECK_THAT(isnan(*t.probe));
}

CHECK_KERNEL(attention_pack_f32, 0x953595cc6f4fee47) {
    static const size_t counts[] = {0, 1, 2, 15, 16, 17, 31, 33, 128};
    static const float scales[] = {1, 1.7f, -1.3f}; // the padding is +0 even so
    for (size_t i = 0; i < COUNT(counts) * COUNT(head_dims); i++) {
        for (unsigned bits = 0; bits < 16; bits++) {
            const pack_case c = {.indexed = bits & 1,
                                 .rows = bits & 2,
                                 .panels = bits & 4,
                                 .probe = bits & 8,
                                 .scale = scales[(bits + i) % COUNT(scales)]};
            check_pack(kernel, counts[i % COUNT(counts)], head_dims[i / COUNT(counts)], c);
        }
    }
}

// NaN in the padding of the packed rows has no place to go; rows of x that are not listed stay.
static void check_unpack(const lod_kernel *kernel, size_t count, size_t n, bool indexed, float scale) {
    check_shape("count=%zu n=%zu%s scale=%g", count, n, indexed ? " indexed" : "", (double)scale);
    const size_t d16 = padded(n), targets = indexed ? count + SPARE_ROWS : count;
    lod_attention_unpack_args t = {.count = count, .n = n, .scale = scale, .ldx = n + 3};
    float *rows = check_floats("rows", CHECK_IN, count, d16, d16);
    t.rows = rows;
    t.index = indexed ? some_rows(count) : NULL;
    t.x = check_floats("x", CHECK_INOUT, targets, n, t.ldx);
    double *want = check_widen(t.x);
    for (size_t i = 0; i < count; i++) {
        rows[i * d16] = i % 2 ? -0.0f : rows[i * d16];
        rows[i * d16 + 1] = i % 2 ? 0 : 0x1p-149f; // may underflow in the product
        for (size_t d = n; d < d16 && check_mode_now() == CHECK_POISON; d++) {
            rows[i * d16 + d] = NAN;
        }
        for (size_t d = 0; d < n; d++) {
            want[(t.index ? t.index[i] : i) * n + d] = (rows[i * d16 + d] + 0.0f) * scale;
        }
    }
    CHECK_CALL(kernel->fn.attention_unpack_f32(&t));
    check_near(t.x, want, NULL);
    check_share(t.x);
}

CHECK_KERNEL(attention_unpack_f32, 0x7434e7fa68428315) {
    static const size_t counts[] = {0, 1, 2, 15, 17, 128};
    static const float scales[] = {1, 1.7f, -0.3f};
    for (size_t i = 0; i < COUNT(counts) * COUNT(head_dims); i++) {
        for (unsigned c = 0; c < 2 * COUNT(scales); c++) {
            check_unpack(kernel, counts[i % COUNT(counts)], head_dims[i / COUNT(counts)], c % 2, scales[c / 2]);
        }
    }
}

// --- The ends of a row ---

// log(l) of an l that is off by `relative`, with log's 2 u, and m + that rounded once more.
static double lse_bound(double m, double l, double relative) {
    double error = -log1p(-relative);
    error += 2 * CHECK_U * (fabs(log(l)) + error);
    return error + CHECK_U * (fabs(m + log(l)) + error);
}

static double sum_of(const float *lanes) {
    double sum = 0;
    for (size_t v = 0; v < 16; v++) {
        sum += lanes[v];
    }
    return sum;
}

// A sum of lanes has the tree's 4 roundings, o a division and a product more.
static void bound_finish(const lod_attention_finish_args *t, const lod_attention_finish_f64_args *wide, double *o,
                         double *lse, double *lse_visible) {
    for (size_t i = 0; i < t->rows; i++) {
        const double l = sum_of(t->l + i * 16), m = t->m[i];
        for (size_t d = 0; d < t->head_dim; d++) {
            double *want = wide->o + i * t->head_dim + d;
            o[i * t->head_dim + d] = l == 0 ? 0 : fabs(*want) * check_gamma(6) + 0x1p-149 * (1 + (double)t->inv);
        }
        lse[i] = l == 0 ? 0 : lse_bound(m, l, check_gamma(4));
        if (!t->lse_visible)
            continue;
        // each side: its tree, the rounding of the exponential's argument, 2 u of the exponential, a product, an fma
        const double dropped_l = sum_of(t->dropped_l + i * 16), dropped_m = t->dropped_m[i];
        const double max = fmax(m, dropped_m), a = l ? l * exp(m - max) : 0;
        const double b = dropped_l ? dropped_l * exp(dropped_m - max) : 0;
        const double error = (a ? a * check_gamma(4 + max - m + 2 + 1) : 0) +
                             (b ? b * check_gamma(4 + max - dropped_m + 2 + 2) : 0) + 0x1p-149 * (l + dropped_l + 2);
        lse_visible[i] = a + b == 0 ? 0 : lse_bound(max, a + b, error / (a + b));
    }
}

// The state of a row's sum: one of random sums, none at all, one lane alone.
static void make_state(size_t row, float *m, float *l) {
    *m = row % 3 == 1 ? -1e30f : 8 * (float)check_uniform();
    for (size_t v = 0; v < 16; v++) {
        l[v] = row % 3 == 1 || (row % 3 == 2 && v != row % 16) ? 0 : (float)(check_uniform() + 1) * 40;
    }
}

static void check_finish(const lod_kernel *kernel, size_t rows, size_t n, bool nograd, float inv) {
    check_shape("rows=%zu head_dim=%zu%s inv=%g", rows, n, nograd ? " nograd" : "", (double)inv);
    const size_t d16 = padded(n);
    float *m = check_floats("m", CHECK_IN, 1, rows, rows), *l = check_floats("l", CHECK_IN, rows, 16, 16);
    float *dropped_m = nograd ? check_floats("dropped_m", CHECK_IN, 1, rows, rows) : NULL;
    float *dropped_l = nograd ? check_floats("dropped_l", CHECK_IN, rows, 16, 16) : NULL;
    float *acc = check_floats("acc", CHECK_IN, rows, d16, d16);
    lod_attention_finish_args t = {.rows = rows, .head_dim = n, .m = m, .l = l, .ldo = n + 3, .ldlse = 3};
    t.dropped_m = dropped_m, t.dropped_l = dropped_l, t.acc = acc, t.inv = inv;
    t.o = check_floats("o", CHECK_OUT, rows, n, t.ldo);
    t.lse = check_floats("lse", CHECK_OUT, rows, 1, t.ldlse);
    t.lse_visible = nograd ? check_floats("lse_visible", CHECK_OUT, rows, 1, t.ldlse) : NULL;
    for (size_t i = 0; i < rows; i++) {
        make_state(i, m + i, l + i * 16);
        if (nograd)
            make_state(i / 3, dropped_m + i, dropped_l + i * 16);
        acc[i * d16] = -0.0f;
        for (size_t d = 0; d < d16 && check_mode_now() == CHECK_POISON; d++) {
            acc[i * d16 + d] = d >= n || m[i] == -1e30f ? NAN : acc[i * d16 + d];
        }
    }
    lod_attention_finish_f64_args wide = {.rows = rows, .head_dim = n, .inv = inv, .o = check_doubles(rows * n)};
    wide.m = check_widen(m), wide.l = check_widen(l), wide.acc = check_widen(acc), wide.lse = check_doubles(rows);
    wide.dropped_m = nograd ? check_widen(dropped_m) : NULL, wide.dropped_l = nograd ? check_widen(dropped_l) : NULL;
    wide.lse_visible = nograd ? check_doubles(rows) : NULL;
    lod_attention_finish_f64(&wide);
    double *o = check_doubles(rows * n), *lse = check_doubles(rows), *lse_visible = check_doubles(rows);
    bound_finish(&t, &wide, o, lse, lse_visible);
    CHECK_CALL(kernel->fn.attention_finish_f32(&t));
    for (size_t i = 0; i < rows; i++) {
        CHECK_THAT(kernel->isa == LOD_ISA_ref || !signbit(t.o[i * t.ldo])); // of -0
    }
    check_near(t.o, wide.o, o);
    check_near(t.lse, wide.lse, lse);
    check_share(t.o);
    check_share(t.lse);
    if (!nograd)
        return;
    check_near(t.lse_visible, wide.lse_visible, lse_visible);
    check_share(t.lse_visible);
}

CHECK_KERNEL(attention_finish_f32, 0xfc785d9d8ca315a6) {
    static const size_t rows[] = {0, 1, 2, 9, 20};
    for (size_t i = 0; i < COUNT(rows) * COUNT(head_dims); i++) {
        for (unsigned c = 0; c < 4; c++) {
            check_finish(kernel, rows[i % COUNT(rows)], head_dims[i / COUNT(rows)], c % 2, c < 2 ? 1 : 1.111f);
        }
    }
}

CHECK_KERNEL(attention_delta_f32, 0x8ae62099bc97cdba) {
    for (size_t i = 0; i < 6 * COUNT(head_dims); i++) {
        const size_t rows = i % 6, n = head_dims[i / 6];
        check_shape("rows=%zu head_dim=%zu", rows, n);
        lod_attention_delta_args t = {.rows = rows, .head_dim = n, .ldo = n + 3};
        t.d_o = check_floats("d_o", CHECK_IN, rows, n, t.ldo);
        t.o = check_floats("o", CHECK_IN, rows, n, t.ldo);
        t.delta = check_floats("delta", CHECK_OUT, 1, rows, rows);
        double *want = check_doubles(rows), *bound = check_doubles(rows);
        for (size_t c = 0; c < rows * n; c++) {
            double product = (double)t.d_o[c / n * t.ldo + c % n] * t.o[c / n * t.ldo + c % n];
            want[c / n] += product;
            bound[c / n] += fabs(product) * check_gamma((double)(n + 15) / 16 + 4); // a lane, the tree
        }
        CHECK_CALL(kernel->fn.attention_delta_f32(&t));
        check_near(t.delta, want, check_mode_now() == CHECK_INTEGERS ? NULL : bound);
        check_share(t.delta);
    }
}
