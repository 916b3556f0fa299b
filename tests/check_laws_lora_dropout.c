// Laws of LoRA Dropout in the low-rank layer: what it means, that dropped columns do not exist, and that instances give
// the same bits together or one by one.
#include <math.h>
#include <string.h>

#include "check.h"
#include "dispatch.h"
#include "float_environment.h"
#include "philox.h"

enum { SEGMENTS = 7, INSTANCES = 3 };

typedef struct layer {
    lod_lowrank_shape shape;
    lod_lowrank_args args;
    size_t start[SEGMENTS + 1];
    uint8_t instance[SEGMENTS];
    float *x, *dy, *a, *bt;
    double *w; // [n_out][n_in]
} layer;

typedef struct outputs {
    float *u, *y, *dx, *da[INSTANCES], *dbt[INSTANCES];
} outputs;

// How to run a layer. Zeros: one thread, all segments in one call.
typedef struct manner {
    unsigned threads;
    bool apart; // a call for each segment, instance by instance
    bool strange_environment;
} manner;

static const lod_lowrank_shape small = {.n_in = 70, .n_out = 45, .rank = 5, .tokens = 62};
static const lod_lowrank_shape large = {.n_in = 300, .n_out = 187, .rank = 9, .tokens = 310};

// --- making a layer ---

static float *filled(const char *name, size_t rows, size_t cols, size_t ld) {
    return check_floats(name, CHECK_INOUT, rows, cols, ld);
}

static void make_weight(layer *l) {
    const size_t n_in = l->shape.n_in, n_out = l->shape.n_out, bytes = lod_packed_size(n_in, n_out, LOD_F32);
    float *w = check_floats("w", CHECK_IN, n_out, n_in, n_in);
    void *packed = check_operand("packed w", CHECK_OUT, 1, 1, bytes, bytes, 64);
    CHECK_THAT(lod_pack_weights(n_in, n_out, LOD_F32, w, n_in, packed, NULL) == LOD_OK);
    l->args.w = (lod_weight){.packed = packed};
    l->w = check_widen(w);
}

static lod_dropout columns(unsigned position, double p, lod_compensation compensation) {
    lod_dropout d = {.pattern = LOD_PATTERN_COLUMN, .compensation = compensation, .p = p, .seed = 77, .draw = 5};
    CHECK_THAT(lod_site(0, 3, position, 0, 0, &d.site, NULL) == LOD_OK);
    return d;
}

// Segments of uneven lengths, one of them empty; instances take turns.
static void make_layer(layer *l, lod_lowrank_shape shape, double pa, double pb, lod_compensation compensation) {
    static const size_t parts[SEGMENTS] = {5, 1, 0, 9, 2, 3, 11};
    check_shape("n_in=%zu n_out=%zu rank=%zu tokens=%zu pA=%g pB=%g compensation=%d", shape.n_in, shape.n_out,
                shape.rank, shape.tokens, pa, pb, (int)compensation);
    *l = (layer){.shape = shape};
    make_weight(l);
    size_t part = 0;
    for (size_t i = 0; i < SEGMENTS; i++) {
        part += parts[i];
        l->start[i + 1] = shape.tokens * part / 31;
        l->instance[i] = (uint8_t)(i % INSTANCES);
    }
    lod_lowrank_args *a = &l->args;
    a->rows = (lod_rows){.count = SEGMENTS, .start = l->start, .instance = l->instance};
    a->rank = shape.rank, a->scale = 1.7, a->instances = INSTANCES;
    a->lora_a = columns(LOD_POSITION_LORA_A + 2, pa, compensation);
    a->lora_b = columns(LOD_POSITION_LORA_B + 2, pb, compensation);
    a->ldx = shape.n_in + 3, a->ldy = shape.n_out + 5, a->lddy = shape.n_out + 1, a->lddx = shape.n_in + 2;
    a->x = l->x = filled("x", shape.tokens, shape.n_in, a->ldx);
    a->a = l->a = filled("a", shape.rank, shape.n_in, shape.n_in);
    a->bt = l->bt = filled("bt", shape.rank, shape.n_out, shape.n_out);
    a->dy = l->dy = filled("dy", shape.tokens, shape.n_out, a->lddy);
}

// --- running it ---

static void call_segments(const layer *l, const lod_plan *plan, void *workspace, size_t first, size_t last,
                          const outputs *out, lod_grad_sum *da, lod_grad_sum *dbt) {
    const size_t t = l->start[first];
    size_t start[SEGMENTS + 1];
    for (size_t i = first; i <= last; i++) {
        start[i - first] = l->start[i] - t;
    }
    lod_lowrank_args a = l->args;
    a.rows.count = last - first, a.rows.start = start;
    a.rows.instance = l->args.rows.instance ? l->instance + first : NULL;
    a.x += t * a.ldx, a.dy += t * a.lddy, a.u = out->u + t * a.rank, a.y = out->y + t * a.ldy;
    a.dx = out->dx + t * a.lddx, a.da = da, a.dbt = dbt;
    lod_error err = {0};
    if (lod_lowrank_forward(plan, &a, workspace, &err) != LOD_OK ||
        lod_lowrank_backward(plan, &a, workspace, &err) != LOD_OK) {
        check_fail("%s: %s", err.field, err.text);
    }
}

static void call(const layer *l, manner how, const lod_plan *plan, void *workspace, const outputs *out,
                 lod_grad_sum *da, lod_grad_sum *dbt) {
    if (!how.apart) {
        call_segments(l, plan, workspace, 0, SEGMENTS, out, da, dbt);
    }
    for (size_t k = 0; how.apart && k < INSTANCES; k++) {
        for (size_t i = 0; i < SEGMENTS; i++) {
            if (l->instance[i] == k) call_segments(l, plan, workspace, i, i + 1, out, da, dbt);
        }
    }
    for (size_t k = 0; k < (l->args.instances ? l->args.instances : 1); k++) {
        lod_grad_sum_finish(&da[k], out->da[k]);
        lod_grad_sum_finish(&dbt[k], out->dbt[k]);
    }
}

static lod_grad_sum new_sum(size_t size) {
    lod_grad_sum sum;
    size_t bytes = lod_grad_sum_size(size, SEGMENTS);
    lod_grad_sum_init(&sum, size, SEGMENTS, check_operand("levels", CHECK_OUT, 1, 1, bytes, bytes, 4));
    return sum;
}

static outputs run(const layer *l, manner how) {
    const lod_lowrank_shape *s = &l->shape;
    lod_plan *plan;
    CHECK_THAT(lod_plan_lowrank(s, how.threads ? how.threads : 1, LOD_ESTIMATE, &plan, NULL) == LOD_OK);
    size_t bytes = lod_plan_workspace(plan);
    void *workspace = check_operand("workspace", CHECK_OUT, 1, 1, bytes, bytes, 64);
    outputs out = {
        .u = check_floats("u", CHECK_OUT, s->tokens, s->rank, s->rank),
        .y = check_floats("y", CHECK_OUT, s->tokens, s->n_out, l->args.ldy),
        .dx = check_floats("dx", CHECK_OUT, s->tokens, s->n_in, l->args.lddx),
    };
    lod_grad_sum da[INSTANCES], dbt[INSTANCES];
    for (size_t k = 0; k < INSTANCES; k++) {
        da[k] = new_sum(s->rank * s->n_in), dbt[k] = new_sum(s->rank * s->n_out);
        out.da[k] = check_floats("da", CHECK_OUT, s->rank, s->n_in, s->n_in);
        out.dbt[k] = check_floats("dbt", CHECK_OUT, s->rank, s->n_out, s->n_out);
    }
    check_before_call();
    uint32_t before = how.strange_environment ? exchange_environment(STRANGE) : 0;
    call(l, how, plan, workspace, &out, da, dbt);
    if (how.strange_environment) exchange_environment(before);
    check_after_call();
    lod_plan_free(plan);
    return out;
}

static void same_gradients(const layer *l, const outputs *got, const outputs *want) {
    for (size_t k = 0; k < INSTANCES; k++) {
        check_bytes_equal("da", got->da[k], want->da[k], l->shape.rank * l->shape.n_in * sizeof(float));
        check_bytes_equal("dbt", got->dbt[k], want->dbt[k], l->shape.rank * l->shape.n_out * sizeof(float));
    }
}

static void same_rows(const layer *l, const outputs *got, const outputs *want) {
    const lod_lowrank_shape *s = &l->shape;
    check_bytes_equal("u", got->u, want->u, s->tokens * s->rank * sizeof(float));
    check_bytes_equal("y", got->y, want->y, ((s->tokens - 1) * l->args.ldy + s->n_out) * sizeof(float));
    check_bytes_equal("dx", got->dx, want->dx, ((s->tokens - 1) * l->args.lddx + s->n_in) * sizeof(float));
}

static void same_bits(const layer *l, const outputs *got, const outputs *want) {
    same_rows(l, got, want);
    same_gradients(l, got, want);
}

// --- what it means ---

// 1 or 0 for each column of an instance.
static uint8_t *mask(const lod_dropout *d, size_t instance, size_t n) {
    uint8_t *keep = check_operand("mask", CHECK_INOUT, 1, 1, n, n, 1);
    uint32_t site = d->site | (uint32_t)instance << LOD_SITE_INSTANCE_BIT;
    CHECK_THAT(lod_mask_dump(d->seed, site, d->draw, d->p, 0, 1, 0, n, keep, NULL) == LOD_OK);
    return keep;
}

typedef struct meaning {
    const layer *l;
    const uint8_t *ma[INSTANCES], *mb[INSTANCES];
    double scale;
    double *x, *w, *a, *bt, *dy;                       // operands
    double *u, *y, *du, *dx, *da[INSTANCES], *dbt[INSTANCES]; // results
} meaning;

static meaning new_meaning(const layer *l, bool magnitudes) {
    const lod_lowrank_shape *s = &l->shape;
    double *(*read)(const float *) = magnitudes ? check_magnitudes : check_widen;
    meaning m = {.l = l, .x = read(l->x), .a = read(l->a), .bt = read(l->bt), .dy = read(l->dy)};
    m.scale = l->args.scale, m.w = check_doubles(s->n_in * s->n_out);
    for (size_t i = 0; i < s->n_in * s->n_out; i++) {
        m.w[i] = magnitudes ? fabs(l->w[i]) : l->w[i];
    }
    const lod_dropout *dropouts[] = {&l->args.lora_a, &l->args.lora_b};
    for (size_t i = 0; i < 2; i++) {
        if (dropouts[i]->compensation == LOD_COMPENSATION_NONE) continue;
        m.scale /= 1 - lod_mask_threshold(dropouts[i]->p) / 65536.0;
    }
    m.u = check_doubles(s->tokens * s->rank), m.du = check_doubles(s->tokens * s->rank);
    m.y = check_doubles(s->tokens * s->n_out), m.dx = check_doubles(s->tokens * s->n_in);
    for (size_t k = 0; k < INSTANCES; k++) {
        m.ma[k] = mask(&l->args.lora_a, k, s->n_in), m.mb[k] = mask(&l->args.lora_b, k, s->n_out);
        m.da[k] = check_doubles(s->rank * s->n_in), m.dbt[k] = check_doubles(s->rank * s->n_out);
    }
    return m;
}

// u = scale sum m x a over the columns of one token, for each rank.
static void sums_of(const meaning *m, size_t n, const uint8_t *keep, const double *x, const double *a, double *u) {
    for (size_t q = 0; q < m->l->shape.rank; q++) {
        u[q] = 0;
        for (size_t j = 0; j < n; j++) {
            u[q] += keep[j] ? x[j] * a[q * n + j] * m->scale : 0;
        }
    }
}

// The gradient of one token: g += u' (m x).
static void leaf_of(const meaning *m, size_t n, const uint8_t *keep, const double *x, const double *u, double *g) {
    for (size_t i = 0; i < m->l->shape.rank * n; i++) {
        g[i] += keep[i % n] ? u[i / n] * x[i % n] : 0;
    }
}

// y = m (u a) + x w, one token; w[k][j] at k * w_row + j * w_col.
static void row_of(const meaning *m, size_t n, const uint8_t *keep, const double *u, const double *a, const double *x,
                   size_t depth, size_t w_row, size_t w_col, double *y) {
    for (size_t j = 0; j < n; j++) {
        y[j] = 0;
        for (size_t q = 0; keep[j] && q < m->l->shape.rank; q++) {
            y[j] += u[q] * a[q * n + j];
        }
        for (size_t k = 0; k < depth; k++) {
            y[j] += x[k] * m->w[k * w_row + j * w_col];
        }
    }
}

static void mean(meaning *m) {
    const size_t n_in = m->l->shape.n_in, n_out = m->l->shape.n_out, rank = m->l->shape.rank;
    for (size_t k = 0; k < INSTANCES; k++) {
        memset(m->da[k], 0, rank * n_in * sizeof(double));
        memset(m->dbt[k], 0, rank * n_out * sizeof(double));
    }
    for (size_t i = 0; i < SEGMENTS; i++) {
        const size_t k = m->l->instance[i];
        for (size_t t = m->l->start[i]; t < m->l->start[i + 1]; t++) {
            const double *x = m->x + t * n_in, *dy = m->dy + t * n_out;
            double *u = m->u + t * rank, *du = m->du + t * rank;
            sums_of(m, n_in, m->ma[k], x, m->a, u);
            sums_of(m, n_out, m->mb[k], dy, m->bt, du);
            row_of(m, n_out, m->mb[k], u, m->bt, x, n_in, 1, n_in, m->y + t * n_out);
            row_of(m, n_in, m->ma[k], du, m->a, dy, n_out, n_in, 1, m->dx + t * n_in);
            leaf_of(m, n_in, m->ma[k], x, du, m->da[k]);
            leaf_of(m, n_out, m->mb[k], dy, u, m->dbt[k]);
        }
    }
}

static void near(const float *got, const double *want, double *magnitudes, size_t count, double roundings) {
    for (size_t i = 0; i < count; i++) {
        magnitudes[i] *= check_gamma(roundings);
    }
    check_near(got, want, magnitudes);
}

// Roundings on the way to u or du: 16 lanes and their tree; the scale, its two compensations and its product.
static double dot_roundings(size_t n) {
    return (double)((n + 15) / 16) + 4 + 4;
}

// To da or dbt, from du or u: the sums over tokens, and three levels of a sum over segments.
static double leaf_roundings(const lod_lowrank_shape *s, size_t n) {
    return dot_roundings(n) + (double)s->tokens + 3;
}

static void check_meaning(const layer *l, const outputs *out) {
    const lod_lowrank_shape *s = &l->shape;
    meaning want = new_meaning(l, false), bound = new_meaning(l, true);
    mean(&want);
    mean(&bound);
    const double u = dot_roundings(s->n_in), du = dot_roundings(s->n_out);
    near(out->u, want.u, bound.u, s->tokens * s->rank, u);
    near(out->y, want.y, bound.y, s->tokens * s->n_out, u + (double)(s->rank + s->n_in));
    near(out->dx, want.dx, bound.dx, s->tokens * s->n_in, du + (double)(s->rank + s->n_out));
    for (size_t k = 0; k < INSTANCES; k++) {
        near(out->da[k], want.da[k], bound.da[k], s->rank * s->n_in, leaf_roundings(s, s->n_out));
        near(out->dbt[k], want.dbt[k], bound.dbt[k], s->rank * s->n_out, leaf_roundings(s, s->n_in));
    }
}

CHECK_ONCE(lora_dropout_meaning, 0x798362237003533b) {
    static const double rates[][2] = {{0.5, 0.5}, {0, 0.5}, {0.5, 0}, {0.1, 0.999}, {0.999, 0.1}, {0, 0}};
    static const lod_lowrank_shape shapes[] = {
        {.n_in = 1, .n_out = 1, .rank = 1, .tokens = 31},    {.n_in = 32, .n_out = 64, .rank = 8, .tokens = 31},
        {.n_in = 70, .n_out = 45, .rank = 5, .tokens = 62},  {.n_in = 33, .n_out = 129, .rank = 17, .tokens = 93},
        {.n_in = 1100, .n_out = 40, .rank = 3, .tokens = 40}};
    for (size_t i = 0; i < 5 * 6; i++) {
        layer l;
        make_layer(&l, shapes[i % 5], rates[i % 6][0], rates[i % 6][1], (lod_compensation)(i / 5 % 2));
        outputs out = run(&l, (manner){0});
        check_meaning(&l, &out);
        check_share(out.u);
        check_share(out.y);
        check_share(out.dx);
        for (size_t k = 0; k < INSTANCES; k++) {
            check_share(out.da[k]);
            check_share(out.dbt[k]);
        }
    }
}

// <dy, y>, which is linear in each operand on its own, so that central differences are exact but for cancellation.
static double loss(meaning *m) {
    double sum = 0;
    mean(m);
    for (size_t i = 0; i < m->l->shape.tokens * m->l->shape.n_out; i++) {
        sum += m->dy[i] * m->y[i];
    }
    return sum;
}

static void check_differences(meaning *m, const char *name, double *x, size_t count, const double *const *gradients,
                              size_t parts) {
    double *d = check_doubles(count), want = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        d[i] = check_uniform();
        double gradient = 0;
        for (size_t k = 0; k < parts; k++) {
            gradient += gradients[k][i];
        }
        want += d[i] * gradient;
        norm += gradient * gradient;
        x[i] += d[i] * 1e-3;
    }
    double up = loss(m);
    for (size_t i = 0; i < count; i++) {
        x[i] -= d[i] * 2e-3;
    }
    double got = (up - loss(m)) / 2e-3;
    for (size_t i = 0; i < count; i++) {
        x[i] += d[i] * 1e-3;
    }
    loss(m);
    if (!(fabs(got - want) <= 1e-8 * sqrt(norm * (double)count))) {
        check_fail("d loss / d %s: differences say %.12g, the gradient %.12g", name, got, want);
    }
}

CHECK_ONCE(lora_dropout_gradient, 0) {
    layer l;
    make_layer(&l, small, 0.5, 0.3, LOD_COMPENSATION_INVERTED);
    meaning m = new_meaning(&l, false);
    loss(&m);
    check_differences(&m, "x", m.x, small.tokens * small.n_in, (const double *const[]){m.dx}, 1);
    check_differences(&m, "a", m.a, small.rank * small.n_in, (const double *const *)m.da, INSTANCES);
    check_differences(&m, "bt", m.bt, small.rank * small.n_out, (const double *const *)m.dbt, INSTANCES);
}

// p = 0 is no LoRA Dropout at all.
CHECK_ONCE(lora_dropout_without, 0) {
    layer l;
    make_layer(&l, large, 0, 0, LOD_COMPENSATION_INVERTED);
    outputs zero = run(&l, (manner){0});
    l.args.lora_a = l.args.lora_b = (lod_dropout){0};
    outputs none = run(&l, (manner){0});
    same_bits(&l, &zero, &none);
}

// Where everything is dropped the frozen layer is left, and gradients of +0.
CHECK_ONCE(lora_dropout_everything, 0) {
    static const double all = 65535.0 / 65536, rates[][2] = {{all, 0.5}, {0.5, all}, {all, all}};
    const size_t da_bytes = small.rank * small.n_in * sizeof(float);
    const size_t dbt_bytes = small.rank * small.n_out * sizeof(float);
    for (size_t i = 0; i < 3; i++) {
        layer l;
        make_layer(&l, small, rates[i][0], rates[i][1], LOD_COMPENSATION_NONE);
        outputs out = run(&l, (manner){0});
        l.args.rank = 0;
        outputs frozen = run(&l, (manner){0});
        void *zeros = check_operand("zeros", CHECK_IN, 1, 1, da_bytes + dbt_bytes, da_bytes + dbt_bytes, 4);
        for (size_t k = 0; k < INSTANCES; k++) {
            const uint8_t *ma = mask(&l.args.lora_a, k, small.n_in), *mb = mask(&l.args.lora_b, k, small.n_out);
            CHECK_THAT(rates[i][0] < all || !memchr(ma, 1, small.n_in));
            CHECK_THAT(rates[i][1] < all || !memchr(mb, 1, small.n_out));
            check_bytes_equal("da", out.da[k], zeros, da_bytes);
            check_bytes_equal("dbt", out.dbt[k], zeros, dbt_bytes);
        }
        check_bytes_equal("y", out.y, frozen.y, ((small.tokens - 1) * l.args.ldy + small.n_out) * sizeof(float));
        check_bytes_equal("dx", out.dx, frozen.dx, ((small.tokens - 1) * l.args.lddx + small.n_in) * sizeof(float));
    }
}

static void poison(float *x, size_t ldx, size_t rows, size_t cols, const uint8_t *keep) {
    for (size_t i = 0; i < rows * cols; i++) {
        if (!keep[i % cols]) x[i / cols * ldx + i % cols] = i % 2 ? NAN : INFINITY;
    }
}

// NaN where nothing is kept: in A and B it reaches nothing, in X and dY what the frozen weight does with it.
CHECK_ONCE(lora_dropout_dropped_nan, 0) {
    layer l;
    make_layer(&l, small, 0.5, 0.5, LOD_COMPENSATION_NONE);
    l.args.rows.instance = NULL, l.args.instances = 0;
    outputs clean = run(&l, (manner){0});
    const uint8_t *ma = mask(&l.args.lora_a, 0, small.n_in), *mb = mask(&l.args.lora_b, 0, small.n_out);
    poison(l.a, small.n_in, small.rank, small.n_in, ma);
    poison(l.bt, small.n_out, small.rank, small.n_out, mb);
    outputs weights = run(&l, (manner){0});
    same_rows(&l, &weights, &clean);
    check_bytes_equal("da", weights.da[0], clean.da[0], small.rank * small.n_in * sizeof(float));
    check_bytes_equal("dbt", weights.dbt[0], clean.dbt[0], small.rank * small.n_out * sizeof(float));
    poison(l.x, l.args.ldx, small.tokens, small.n_in, ma);
    poison(l.dy, l.args.lddy, small.tokens, small.n_out, mb);
    outputs all = run(&l, (manner){0});
    check_bytes_equal("u", all.u, clean.u, small.tokens * small.rank * sizeof(float));
    check_bytes_equal("da", all.da[0], clean.da[0], small.rank * small.n_in * sizeof(float));
    check_bytes_equal("dbt", all.dbt[0], clean.dbt[0], small.rank * small.n_out * sizeof(float));
}

// --- what must not change a bit, and what must ---

static const unsigned threads[] = {1, 2, 5};

CHECK_ONCE(lora_dropout_threads, 0) {
    layer l;
    make_layer(&l, large, 0.5, 0.3, LOD_COMPENSATION_INVERTED);
    outputs one = run(&l, (manner){0});
    for (size_t i = 0; i < 3; i++) {
        outputs together = run(&l, (manner){.threads = threads[i]});
        same_bits(&l, &together, &one);
        outputs strange = run(&l, (manner){.threads = threads[i], .strange_environment = true});
        same_bits(&l, &strange, &one);
    }
}

// An instance alone is few tokens, which have no k blocks.
CHECK_ONCE(lora_dropout_apart, 0) {
    check_skip_ref();
    layer l;
    make_layer(&l, large, 0.5, 0.3, LOD_COMPENSATION_INVERTED);
    outputs one = run(&l, (manner){0});
    for (size_t i = 0; i < 3; i++) {
        outputs apart = run(&l, (manner){.threads = threads[i], .apart = true});
        same_bits(&l, &apart, &one);
    }
}

// Another step, seed, layer or instance is another mask; the running number of an example is none of its coordinates.
CHECK_ONCE(lora_dropout_masks_differ, 0) {
    layer l;
    make_layer(&l, small, 0.5, 0.5, LOD_COMPENSATION_NONE);
    const size_t bytes = small.tokens * small.rank * sizeof(float);
    outputs first = run(&l, (manner){0});
    l.args.rows.draw = (const uint32_t[SEGMENTS]){1, 2, 3, 4, 5, 6, 7};
    outputs visits = run(&l, (manner){0});
    same_bits(&l, &visits, &first);
    l.args.lora_a.draw++;
    outputs step = run(&l, (manner){0});
    l.args.lora_a.draw--, l.args.lora_a.seed++;
    outputs seed = run(&l, (manner){0});
    l.args.lora_a.seed--, l.args.lora_a.site += 1 << LOD_SITE_LAYER_BIT;
    outputs site = run(&l, (manner){0});
    l.args.lora_a.site -= 1 << LOD_SITE_LAYER_BIT, l.args.rows.instance = NULL;
    outputs instance = run(&l, (manner){0});
    const float *others[] = {step.u, seed.u, site.u, instance.u};
    for (size_t i = 0; i < 4; i++) {
        CHECK_THAT(memcmp(first.u, others[i], bytes));
    }
    check_bytes_equal("u", instance.u, first.u, l.start[1] * small.rank * sizeof(float)); // instance 0 both times
}

// Without a sum of their own, leaves of all instances join one.
CHECK_ONCE(lora_dropout_one_sum, 0) {
    layer l;
    make_layer(&l, small, 0.5, 0.5, LOD_COMPENSATION_NONE);
    outputs apart = run(&l, (manner){0});
    l.args.instances = 0;
    outputs one = run(&l, (manner){0});
    same_rows(&l, &one, &apart);
    meaning bound = new_meaning(&l, true);
    mean(&bound);
    const double gamma = check_gamma(leaf_roundings(&small, small.n_out));
    for (size_t i = 0; i < small.rank * small.n_in; i++) {
        double magnitude = bound.da[0][i] + bound.da[1][i] + bound.da[2][i];
        double want = (double)apart.da[0][i] + (double)apart.da[1][i] + (double)apart.da[2][i];
        CHECK_THAT(fabs((double)one.da[0][i] - want) <= 2 * gamma * magnitude);
    }
}

// The sums of instances join like leaves: in a sum that has one for each of them.
CHECK_ONCE(grad_sum_finish_all, 0) {
    enum { SIZE = 19, MOST = 9, LEAVES = 3 };
    CHECK_THAT(lod_grad_sum_size(SIZE, 0) == SIZE * sizeof(float)); // room for a total, where no leaf comes
    for (size_t count = 1; count <= MOST; count++) {
        lod_grad_sum sums[MOST], alike[MOST], joined;
        float levels[2][MOST][2 * SIZE], tree[4 * SIZE], leaf[SIZE], total[SIZE], want[SIZE];
        lod_grad_sum_init(&joined, SIZE, MOST, tree);
        for (size_t k = 0; k < count; k++) {
            lod_grad_sum_init(&sums[k], SIZE, LEAVES, levels[0][k]);
            lod_grad_sum_init(&alike[k], SIZE, LEAVES, levels[1][k]);
            for (size_t i = 0; i < k % (LEAVES + 1); i++) {
                float *values = check_floats("leaf", CHECK_INOUT, 1, SIZE, SIZE);
                memcpy(leaf, values, sizeof leaf);
                lod_grad_sum_push(&alike[k], alike[k].count++, leaf, 1, SIZE, SIZE, 0, SIZE);
                lod_grad_sum_push(&sums[k], sums[k].count++, values, 1, SIZE, SIZE, 0, SIZE);
            }
            lod_grad_sum_finish(&alike[k], leaf);
            lod_grad_sum_push(&joined, joined.count++, leaf, 1, SIZE, SIZE, 0, SIZE);
        }
        lod_grad_sum_finish(&joined, want);
        lod_grad_sum_finish_all(sums, count, total);
        check_bytes_equal("total", total, want, sizeof total);
        for (size_t k = 0; k < count; k++) {
            CHECK_THAT(sums[k].count == 0);
        }
    }
}
