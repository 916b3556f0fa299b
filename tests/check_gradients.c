// The f64 forms against themselves: each backward form is the derivative of its forward form. Along random directions,
// (L(x + h d) - L(x - h d)) / 2h = <gradient, d> with h = 1e-5: truncation h^2 |L'''| / 6 and cancellation eps |L| / h
// both stay near 1e-10.
#include <math.h>

#include "check.h"
#include "ref/ref.h"

static const double step = 1e-5, tolerance = 5e-7; // of |gradient| |d|

// One argument of a loss: its values, the gradient that the backward form gives, and how many.
typedef struct argument {
    const char *name;
    double *x, *gradient;
    size_t count;
} argument;

static double *random_doubles(size_t count) {
    double *x = check_doubles(count);
    for (size_t i = 0; i < count; i++) {
        x[i] = check_uniform();
    }
    return x;
}

static double inner(size_t count, const double *a, const double *b) {
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        sum += a[i] * b[i];
    }
    return sum;
}

static void move(const argument *a, const double *direction, double by) {
    for (size_t i = 0; i < a->count; i++) {
        a->x[i] += by * direction[i];
    }
}

static void check_argument(const argument *a, double (*loss)(void *), void *context) {
    for (int turn = 0; turn < 4; turn++) {
        const double *d = random_doubles(a->count);
        move(a, d, step);
        double up = loss(context);
        move(a, d, -2 * step);
        double down = loss(context);
        move(a, d, step);
        double got = inner(a->count, a->gradient, d), want = (up - down) / (2 * step);
        double norms = sqrt(inner(a->count, a->gradient, a->gradient) * inner(a->count, d, d));
        if (!(fabs(got - want) <= tolerance * norms)) {
            check_fail("d loss / d %s: got %.12g, differences say %.12g", a->name, got, want);
        }
    }
}

// --- RMSNorm: loss = <dy, y>; add is a gradient that passes by ---

typedef struct norm {
    lod_rmsnorm_fwd_f64_args forward;
    const double *dy;
} norm;

static double norm_loss(void *context) {
    const norm *t = context;
    lod_rmsnorm_fwd_f64(&t->forward);
    return inner(t->forward.rows * t->forward.n, t->dy, t->forward.y);
}

CHECK_ONCE(gradient_rmsnorm, 0) {
    enum { ROWS = 3, N = 21 };
    check_shape("%d x %d", ROWS, N);
    double *x = random_doubles(ROWS * N), *add = random_doubles(ROWS * N), *dx = check_doubles(ROWS * N);
    norm t = {.forward = {.rows = ROWS, .n = N, .x = x, .ldx = N, .g = random_doubles(N), .eps = 1e-5},
              .dy = random_doubles(ROWS * N)};
    t.forward.rstd = check_doubles(ROWS), t.forward.y = check_doubles(ROWS * N), t.forward.ldy = N;
    norm_loss(&t);
    lod_rmsnorm_bwd_f64_args backward = {
        .rows = ROWS, .n = N, .x = x, .ldx = N, .g = t.forward.g, .rstd = t.forward.rstd};
    backward.dy = t.dy, backward.add = add, backward.dx = dx, backward.lddy = backward.lddx = N;
    lod_rmsnorm_bwd_f64(&backward);
    for (size_t i = 0; i < ROWS * N; i++) {
        dx[i] -= add[i];
    }
    check_argument(&(argument){"x", x, dx, ROWS * N}, norm_loss, &t);
}

// --- SiLU times up: loss = <dy, y> ---

typedef struct silu {
    lod_silu_mul_fwd_f64_args forward;
    const double *dy;
} silu;

static double silu_loss(void *context) {
    const silu *t = context;
    lod_silu_mul_fwd_f64(&t->forward);
    return inner(t->forward.n, t->dy, t->forward.y);
}

CHECK_ONCE(gradient_silu_mul, 0) {
    enum { N = 50 };
    check_shape("%d", N);
    double *gate = random_doubles(N), *up = random_doubles(N), *dgate = check_doubles(N), *dup = check_doubles(N);
    for (size_t i = 0; i < N; i++) {
        gate[i] *= 6;
    }
    silu t = {.forward = {.n = N, .gate = gate, .up = up, .y = check_doubles(N)}, .dy = random_doubles(N)};
    lod_silu_mul_bwd_f64(
        &(lod_silu_mul_bwd_f64_args){.n = N, .gate = gate, .up = up, .dy = t.dy, .dgate = dgate, .dup = dup});
    check_argument(&(argument){"gate", gate, dgate, N}, silu_loss, &t);
    check_argument(&(argument){"up", up, dup, N}, silu_loss, &t);
}

// --- dropout into a sum: loss = <dy, y>; backward is D alone, on dy ---

static double dropout_loss(void *context) {
    const lod_dropout_add_f64_args *t = context;
    lod_dropout_add_f64(t);
    double sum = 0;
    for (size_t i = 0; i < t->rows * t->n; i++) {
        sum += (double)(i % 5) * t->y[i];
    }
    return sum;
}

CHECK_ONCE(gradient_dropout_add, 0) {
    enum { ROWS = 5, N = 13 };
    check_shape("%d x %d", ROWS, N);
    uint8_t keep[2 * ROWS];
    double *x = random_doubles(ROWS * N), *add = random_doubles(ROWS * N);
    double *dy = check_doubles(ROWS * N), *dx = check_doubles(ROWS * N);
    for (size_t i = 0; i < sizeof keep; i++) {
        keep[i] = (uint8_t)check_random();
    }
    for (size_t i = 0; i < ROWS * N; i++) {
        dy[i] = (double)(i % 5);
    }
    lod_dropout_add_f64_args t = {.rows = ROWS, .n = N, .x = x, .ldx = N, .add = add, .keep = keep, .ldkeep = 2};
    t.scale = 1.6, t.y = check_doubles(ROWS * N), t.ldy = N;
    lod_dropout_add_f64_args backward = t;
    backward.x = dy, backward.add = NULL, backward.y = dx;
    lod_dropout_add_f64(&backward);
    check_argument(&(argument){"x", x, dx, ROWS * N}, dropout_loss, &t);
    check_argument(&(argument){"add", add, dy, ROWS * N}, dropout_loss, &t);
}

// --- RoPE: a rotation, so its inverse is its transpose ---

CHECK_ONCE(gradient_rope, 0) {
    enum { ROWS = 3, HEADS = 2, HEAD_DIM = 8, HALF = HEAD_DIM / 2, N = ROWS * HEADS * HEAD_DIM };
    check_shape("%d x %d x %d", ROWS, HEADS, HEAD_DIM);
    const uint32_t position[ROWS] = {4, 0, 2};
    double *x = random_doubles(N), *y = check_doubles(N), *dy = random_doubles(N), *dx = check_doubles(N);
    double *cosine = check_doubles(5 * HALF), *sine = check_doubles(5 * HALF);
    for (size_t i = 0; i < 5 * HALF; i++) {
        double angle = 3 * check_uniform();
        cosine[i] = cos(angle), sine[i] = sin(angle);
    }
    for (size_t i = 0; i < N; i++) {
        y[i] = x[i], dx[i] = dy[i];
    }
    lod_rope_f64_args a = {.rows = ROWS, .heads = HEADS, .head_dim = HEAD_DIM, .x = y, .ldx = HEADS * HEAD_DIM};
    a.position = position, a.cosine = cosine, a.sine = sine;
    lod_rope_f64(&a);
    a.x = dx, a.inverse = true;
    lod_rope_f64(&a);
    CHECK_THAT(fabs(inner(N, dy, y) - inner(N, dx, x)) < 1e-13 * N);
    a.x = y;
    lod_rope_f64(&a);
    for (size_t i = 0; i < N; i++) {
        CHECK_THAT(fabs(x[i] - y[i]) < 1e-14);
    }
}

// --- cross-entropy: the sum of the losses ---

typedef struct xent {
    size_t rows, n;
    const double *z;
    double *work, *losses;
    const uint32_t *target;
} xent;

static double xent_loss(void *context) {
    const xent *t = context;
    double total = 0;
    for (size_t i = 0; i < t->rows * t->n; i++) {
        t->work[i] = t->z[i];
    }
    lod_xent_f64_args a = {
        .rows = t->rows, .n = t->n, .z = t->work, .ldz = t->n, .target = t->target, .loss = t->losses};
    lod_xent_f64(&a);
    for (size_t i = 0; i < t->rows; i++) {
        total += t->losses[i];
    }
    return total;
}

CHECK_ONCE(gradient_xent, 0) {
    enum { ROWS = 3, N = 17 };
    check_shape("%d x %d", ROWS, N);
    const uint32_t target[ROWS] = {0, 16, 5};
    double *z = random_doubles(ROWS * N), *gradient = check_doubles(ROWS * N);
    for (size_t i = 0; i < ROWS * N; i++) {
        z[i] *= 4, gradient[i] = z[i];
    }
    xent t = {
        .rows = ROWS, .n = N, .z = z, .work = check_doubles(ROWS * N), .losses = check_doubles(ROWS), .target = target};
    lod_xent_f64(&(lod_xent_f64_args){
        .rows = ROWS, .n = N, .z = gradient, .ldz = N, .target = target, .loss = t.losses, .gradient = true});
    check_argument(&(argument){"z", z, gradient, ROWS * N}, xent_loss, &t);
}

// --- consistency: both gradients of the mean loss and the divergence; of the first branch, its own loss and that ---

static double consistency_loss(void *context) {
    const lod_consistency_f64_args *t = context;
    lod_consistency_f64_args a = *t;
    double total = 0;
    a.dz = a.dz2 = NULL;
    lod_consistency_f64(&a);
    for (size_t i = 0; i < t->rows; i++) {
        total += t->dz2 ? (t->loss[i] + t->loss2[i]) / 2 : t->loss[i];
        total += t->weight * t->divergence[i];
    }
    return total;
}

CHECK_ONCE(gradient_consistency, 0) {
    enum { ROWS = 3, N = 17 };
    const uint32_t target[ROWS] = {0, 16, 5};
    for (int turn = 0; turn < 4; turn++) {
        const lod_consistency kind = turn / 2 ? LOD_CONSISTENCY_JS : LOD_CONSISTENCY_KL;
        check_shape("%d x %d %s, gradients through %d", ROWS, N, turn / 2 ? "JS" : "KL", 1 + turn % 2);
        double *z = random_doubles(ROWS * N), *z2 = random_doubles(ROWS * N);
        for (size_t i = 0; i < ROWS * N; i++) {
            z[i] *= 4, z2[i] = z[i] + z2[i];
        }
        lod_consistency_f64_args t = {.rows = ROWS, .n = N, .z = z, .z2 = z2, .ldz = N, .target = target};
        t.consistency = kind, t.weight = 0.7, t.dz = check_doubles(ROWS * N);
        t.loss = check_doubles(ROWS), t.loss2 = check_doubles(ROWS), t.divergence = check_doubles(ROWS);
        t.dz2 = turn % 2 ? check_doubles(ROWS * N) : NULL;
        lod_consistency_f64(&t);
        check_argument(&(argument){"z", z, t.dz, ROWS * N}, consistency_loss, &t);
        if (t.dz2) {
            check_argument(&(argument){"z2", z2, t.dz2, ROWS * N}, consistency_loss, &t);
        }
    }
}

// --- attention: loss = <d_o, o>; with a constant normaliser, <d_o, o> sum m e / sum e, times what it was before ---

typedef struct attention {
    lod_attention_fwd_f64_args forward;
    const double *d_o;
    double normaliser; // sum m e / sum e where it counts as a constant, else 0
} attention;

static double attention_loss(void *context) {
    const attention *t = context;
    lod_attention_fwd_f64(&t->forward);
    double loss = inner(t->forward.head_dim, t->d_o, t->forward.o);
    return t->normaliser > 0 ? loss * exp(*t->forward.lse - *t->forward.lse_visible) / t->normaliser : loss;
}

static void check_attention(lod_compensation compensation, size_t dropped, const uint8_t *keep) {
    enum { D = 8, KEYS = 13 };
    check_shape("%d keys of %d, %zu dropped, compensation %d", KEYS, D, dropped, (int)compensation);
    double *q = random_doubles(D), *k = random_doubles(KEYS * D), *v = random_doubles(KEYS * D), lse, lse_visible;
    attention t = {.forward = {.head_dim = D, .keys = KEYS, .q = q, .k = k, .v = v, .ldk = D, .ldv = D, .scale = 1.3},
                   .d_o = random_doubles(D)};
    t.forward.o = check_doubles(D), t.forward.lse = &lse, t.forward.scratch = check_doubles(KEYS);
    t.forward.lse_visible = &lse_visible, t.forward.keep = keep, t.forward.inv = 1.6;
    t.forward.compensation = compensation;
    attention_loss(&t);
    lod_attention_bwd_f64_args b = {
        .head_dim = D, .keys = KEYS, .q = q, .k = k, .v = v, .ldk = D, .ldv = D, .scale = 1.3};
    b.o = t.forward.o, b.d_o = t.d_o, b.lse = lse, b.lse_visible = lse_visible, b.keep = keep, b.inv = t.forward.inv;
    b.compensation = compensation;
    b.dq = check_doubles(D), b.dk = check_doubles(KEYS * D), b.dv = check_doubles(KEYS * D);
    lod_attention_bwd_f64(&b);
    if (keep && compensation == LOD_COMPENSATION_RENORMALISE_NOGRAD)
        t.normaliser = exp(lse - lse_visible);
    check_argument(&(argument){"q", q, b.dq, D}, attention_loss, &t);
    check_argument(&(argument){"k", k, b.dk, KEYS * D}, attention_loss, &t);
    check_argument(&(argument){"v", v, b.dv, KEYS * D}, attention_loss, &t);
}

// Masks of any pattern are the same to one query: some of its keys.
CHECK_ONCE(gradient_attention, 0) {
    static const size_t dropped[] = {0, 1, 6, 12};
    for (size_t i = 0; i < 4 * 4; i++) {
        uint8_t keep[13];
        for (size_t j = 0; j < 13; j++) {
            keep[j] = j * 5 % 13 >= dropped[i / 4];
        }
        check_attention((lod_compensation)(i % 4), dropped[i / 4], i / 4 ? keep : NULL);
    }
}

// --- the low-rank layer: loss = <dy, y> with a mask ---

enum { T = 4, IN = 9, OUT = 7, R = 3 };

typedef struct layer {
    double *x, *a, *bt, *u, *du, *y;
    const double *w, *dy; // W [OUT][IN]
    const uint8_t *keep;  // [T][2] bytes
    double scale, inv;
} layer;

static double layer_loss(void *context) {
    const layer *t = context;
    lod_rank_dot_f64_args dot = {.tokens = T, .n = IN, .r = R, .x = t->x, .ldx = IN, .keep = t->keep, .ldkeep = 2};
    dot.a = t->a, dot.lda = IN, dot.scale = t->scale * t->inv, dot.u = t->u, dot.ldu = R;
    lod_rank_dot_f64(&dot);
    lod_lowrank_tile_f64_args tile = {.m = T, .n = OUT, .k = IN, .r = R, .x = t->x, .ldx = IN, .w = t->w, .w_row = 1};
    tile.w_col = IN, tile.u = t->u, tile.ldu = R, tile.b = t->bt, tile.ldb = OUT, tile.first = true;
    tile.c = t->y, tile.ldc = OUT;
    lod_lowrank_tile_f64(&tile);
    return inner(T * OUT, t->dy, t->y);
}

CHECK_ONCE(gradient_lowrank, 0) {
    check_shape("%d tokens, %d to %d, rank %d", T, IN, OUT, R);
    uint8_t keep[2 * T];
    for (size_t i = 0; i < sizeof keep; i++) {
        keep[i] = (uint8_t)check_random();
    }
    layer t = {.x = random_doubles(T * IN), .a = random_doubles(R * IN), .bt = random_doubles(R * OUT), .scale = 1.5};
    t.w = random_doubles(OUT * IN), t.dy = random_doubles(T * OUT), t.keep = keep, t.inv = 2;
    t.u = check_doubles(T * R), t.du = check_doubles(T * R), t.y = check_doubles(T * OUT);
    layer_loss(&t);
    double *dx = check_doubles(T * IN), *da = check_doubles(R * IN), *dbt = check_doubles(R * OUT);
    lod_rank_dot_f64_args dot = {.tokens = T, .n = OUT, .r = R, .x = t.dy, .ldx = OUT, .a = t.bt, .lda = OUT};
    dot.scale = t.scale, dot.u = t.du, dot.ldu = R;
    lod_rank_dot_f64(&dot);
    lod_lowrank_tile_f64_args tile = {.m = T, .n = IN, .k = OUT, .r = R, .x = t.dy, .ldx = OUT, .w = t.w, .w_row = IN};
    tile.w_col = 1, tile.u = t.du, tile.ldu = R, tile.b = t.a, tile.ldb = IN, tile.keep = keep, tile.ldkeep = 2;
    tile.inv = t.inv, tile.first = true, tile.c = dx, tile.ldc = IN;
    lod_lowrank_tile_f64(&tile);
    lod_rank_grad_f64_args grad = {
        .tokens = T, .n = IN, .r = R, .s = t.du, .lds = R, .x = t.x, .ldx = IN, .keep = keep};
    grad.ldkeep = 2, grad.scale = t.inv, grad.g = da, grad.ldg = IN;
    lod_rank_grad_f64(&grad);
    lod_rank_grad_f64(&(lod_rank_grad_f64_args){
        .tokens = T, .n = OUT, .r = R, .s = t.u, .lds = R, .x = t.dy, .ldx = OUT, .scale = 1, .g = dbt, .ldg = OUT});
    check_argument(&(argument){"x", t.x, dx, T * IN}, layer_loss, &t);
    check_argument(&(argument){"a", t.a, da, R * IN}, layer_loss, &t);
    check_argument(&(argument){"bt", t.bt, dbt, R * OUT}, layer_loss, &t);
}
