// Laws of the low-rank layer, on the public interface: what it means, and what must not change a bit of it.
#include <dirent.h>
#include <fenv.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "check_engines.h"
#include "float_environment.h"
#include "philox.h"
#include "ref/ref.h"

enum { SEGMENTS = 7 }; // three levels of a sum over examples stay alive to its end

typedef struct layer {
    lod_lowrank_shape shape; // of the whole batch
    lod_lowrank_args args;
    size_t start[SEGMENTS + 1];
    uint32_t draw[SEGMENTS];
    uint8_t instance[SEGMENTS];
    float *x;
    double *w; // [n_out][n_in], as packed
} layer;

typedef struct outputs {
    float *u, *y, *dx, *da, *dbt;
} outputs;

// How to run a layer. Zeros: one thread, one call, all gradients, the host's floating-point environment untouched.
typedef struct manner {
    unsigned threads;
    size_t calls;        // the segments are shared out over so many calls
    size_t spare_tokens; // by which the plan exceeds the batch
    bool without_dx, without_da, without_dbt;
    bool strange_environment; // round upward, flush denormals
} manner;

// --- making a layer ---

static float rounded_weight(lod_dtype dtype, uint16_t *half) {
    float value = (float)check_uniform();
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    *half = (uint16_t)(bits >> 16); // cut to bf16
    bits &= 0xffff0000;
    if (dtype == LOD_BF16) {
        memcpy(&value, &bits, sizeof value);
    } else if (dtype == LOD_F16) {
        *half = (uint16_t)(0x2c00 | check_below(2) << 15 | check_below(1024)); // 1/16 .. 1/8
        value = (*half >> 15 ? -1.0f : 1.0f) * (float)(1024 + *half % 1024) * 0x1p-14f;
    }
    return value;
}

static void make_weight(layer *l, lod_dtype dtype) {
    const size_t n_in = l->shape.n_in, n_out = l->shape.n_out,
                 size = dtype == LOD_F32 ? sizeof(float) : sizeof(uint16_t);
    uint8_t *source = check_operand("w", CHECK_IN, size, n_out, n_in, n_in, size);
    size_t bytes = lod_packed_size(n_in, n_out, dtype);
    void *packed = check_operand("packed w", CHECK_OUT, 1, 1, bytes, bytes, 64);
    l->w = check_doubles(n_in * n_out);
    for (size_t i = 0; i < n_in * n_out; i++) {
        uint16_t half;
        float value = rounded_weight(dtype, &half);
        l->w[i] = value;
        memcpy(source + i * size, dtype == LOD_F32 ? (void *)&value : (void *)&half, size);
    }
    CHECK_THAT(lod_pack_weights(n_in, n_out, dtype, source, n_in, packed, NULL) == LOD_OK);
    l->args.w = (lod_weight){.packed = packed, .dtype = dtype};
}

// Segments of uneven lengths, one of them empty.
static void make_rows(layer *l) {
    static const size_t parts[SEGMENTS] = {5, 1, 0, 9, 2, 3, 11};
    size_t tokens = l->shape.tokens, part = 0;
    for (size_t i = 0; i < SEGMENTS; i++) {
        part += parts[i];
        l->start[i + 1] = tokens * part / 31;
        l->draw[i] = (uint32_t)check_random();
        l->instance[i] = (uint8_t)check_below(64);
    }
    l->args.rows = (lod_rows){.count = SEGMENTS, .start = l->start, .draw = l->draw, .instance = l->instance};
}

static void make_layer(layer *l, lod_lowrank_shape shape, lod_dtype dtype, double p) {
    check_shape("n_in=%zu n_out=%zu rank=%zu tokens=%zu dtype=%d p=%g", shape.n_in, shape.n_out, shape.rank,
                shape.tokens, (int)dtype, p);
    *l = (layer){.shape = shape};
    make_weight(l, dtype);
    make_rows(l);
    lod_lowrank_args *a = &l->args;
    a->rank = shape.rank;
    a->scale = 1.7;
    a->dropout = (lod_dropout){.compensation = LOD_COMPENSATION_INVERTED, .p = p, .seed = check_random()};
    CHECK_THAT(lod_site(0, 3, LOD_POSITION_LORA_INPUT + 2, 0, 0, &a->dropout.site, NULL) == LOD_OK);
    a->ldx = shape.n_in + 3, a->ldy = shape.n_out + 5, a->lddy = shape.n_out + 1, a->lddx = shape.n_in + 2;
    a->x = l->x = check_floats("x", CHECK_INOUT, shape.tokens, shape.n_in, a->ldx);
    a->a = check_floats("a", CHECK_IN, shape.rank, shape.n_in, shape.n_in);
    a->bt = check_floats("bt", CHECK_IN, shape.rank, shape.n_out, shape.n_out);
    a->dy = check_floats("dy", CHECK_IN, shape.tokens, shape.n_out, a->lddy);
}

// --- running it ---

// All that one caller brings to its calls.
typedef struct caller {
    const layer *l;
    manner how;
    lod_plan *plan;
    void *workspace;
    lod_grad_sum da, dbt;
    outputs out;
    lod_status status;
} caller;

static caller new_caller(const layer *l, manner how) {
    const lod_lowrank_shape *s = &l->shape;
    lod_lowrank_shape shape = *s;
    caller c = {.l = l, .how = how};
    c.out = (outputs){
        .u = check_floats("u", CHECK_OUT, s->tokens, s->rank, s->rank),
        .y = check_floats("y", CHECK_OUT, s->tokens, s->n_out, l->args.ldy),
        .dx = check_floats("dx", CHECK_OUT, s->tokens, s->n_in, l->args.lddx),
        .da = check_floats("da", CHECK_OUT, s->rank, s->n_in, s->n_in),
        .dbt = check_floats("dbt", CHECK_OUT, s->rank, s->n_out, s->n_out),
    };
    shape.tokens += how.spare_tokens;
    CHECK_THAT(lod_plan_lowrank(&shape, how.threads ? how.threads : 1, LOD_ESTIMATE, &c.plan, NULL) == LOD_OK);
    size_t da_size = s->rank * s->n_in, dbt_size = s->rank * s->n_out, bytes = lod_plan_workspace(c.plan);
    size_t da_bytes = lod_grad_sum_size(da_size, SEGMENTS), dbt_bytes = lod_grad_sum_size(dbt_size, SEGMENTS);
    c.workspace = check_operand("workspace", CHECK_OUT, 1, 1, bytes, bytes, 64);
    lod_grad_sum_init(&c.da, da_size, SEGMENTS, check_operand("da levels", CHECK_OUT, 1, 1, da_bytes, da_bytes, 4));
    lod_grad_sum_init(&c.dbt, dbt_size, SEGMENTS,
                      check_operand("dbt levels", CHECK_OUT, 1, 1, dbt_bytes, dbt_bytes, 4));
    return c;
}

static void call_segments(caller *c, size_t first, size_t last) {
    const layer *l = c->l;
    size_t t = l->start[first], start[SEGMENTS + 1];
    for (size_t i = first; i <= last; i++) {
        start[i - first] = l->start[i] - t;
    }
    lod_lowrank_args a = l->args;
    a.rows =
        (lod_rows){.count = last - first, .start = start, .draw = l->draw + first, .instance = l->instance + first};
    a.x += t * a.ldx, a.dy += t * a.lddy;
    a.u = c->out.u + t * a.rank, a.y = c->out.y + t * a.ldy;
    a.dx = c->how.without_dx ? NULL : c->out.dx + t * a.lddx;
    a.da = c->how.without_da ? NULL : &c->da;
    a.dbt = c->how.without_dbt ? NULL : &c->dbt;
    if (c->status == LOD_OK) {
        c->status = lod_lowrank_forward(c->plan, &a, c->workspace, NULL);
    }
    if (c->status == LOD_OK) {
        c->status = lod_lowrank_backward(c->plan, &a, c->workspace, NULL);
    }
}

static void *call_all(void *context) {
    caller *c = context;
    size_t calls = c->how.calls ? c->how.calls : 1;
    for (size_t i = 0; i < calls; i++) {
        call_segments(c, SEGMENTS * i / calls, SEGMENTS * (i + 1) / calls);
    }
    lod_grad_sum_finish(&c->da, c->out.da);
    lod_grad_sum_finish(&c->dbt, c->out.dbt);
    return NULL;
}

static outputs run(const layer *l, manner how) {
    caller c = new_caller(l, how);
    check_before_call();
    uint32_t before = how.strange_environment ? exchange_environment(STRANGE) : 0;
    call_all(&c);
    uint32_t after = how.strange_environment ? exchange_environment(before) : 0;
    check_after_call();
    lod_plan_free(c.plan);
    CHECK_THAT(c.status == LOD_OK);
    if (how.strange_environment && (after & MODES) != (STRANGE & MODES)) {
        check_fail("the host's floating-point environment is 0x%x after the calls, it was 0x%x", after, STRANGE);
    }
    return c.out;
}

static void same_bits(const layer *l, const outputs *got, const outputs *want) {
    const lod_lowrank_shape *s = &l->shape;
    check_bytes_equal("u", got->u, want->u, s->tokens * s->rank * sizeof(float));
    check_bytes_equal("y", got->y, want->y, ((s->tokens - 1) * l->args.ldy + s->n_out) * sizeof(float));
    check_bytes_equal("dx", got->dx, want->dx, ((s->tokens - 1) * l->args.lddx + s->n_in) * sizeof(float));
    check_bytes_equal("da", got->da, want->da, s->rank * s->n_in * sizeof(float));
    check_bytes_equal("dbt", got->dbt, want->dbt, s->rank * s->n_out * sizeof(float));
}

// --- what it means ---

typedef struct meaning {
    double *u, *y, *dx, *da, *dbt;
} meaning;

static size_t keep_ld(const layer *l) {
    return (l->shape.n_in + 7) / 8;
}

static bool kept(const layer *l, size_t segment, size_t row, size_t col) {
    uint32_t site = l->args.dropout.site | (uint32_t)l->instance[segment] << LOD_SITE_INSTANCE_BIT;
    return lod_mask_keep(l->args.dropout.seed, site, l->draw[segment], (uint32_t)row, (uint32_t)col, l->args.dropout.p);
}

static uint8_t *draw_masks(const layer *l) {
    uint8_t *keep = check_operand("masks", CHECK_IN, 1, l->shape.tokens, keep_ld(l), keep_ld(l), 1);
    for (size_t i = 0; i < SEGMENTS; i++) {
        for (size_t t = l->start[i]; t < l->start[i + 1]; t++) {
            for (size_t j = 0; j < l->shape.n_in; j++) {
                keep[t * keep_ld(l) + j / 8] |= (uint8_t)(kept(l, i, t - l->start[i], j) << j % 8);
            }
        }
    }
    return keep;
}

// The layer in double; on magnitudes, what its rounding errors are relative to.
static meaning mean(const layer *l, const uint8_t *keep, bool magnitudes) {
    const lod_lowrank_shape *s = &l->shape;
    const lod_lowrank_args *args = &l->args;
    double *(*read)(const float *) = magnitudes ? check_magnitudes : check_widen;
    const double *x = read(args->x), *a = read(args->a), *bt = read(args->bt), *dy = read(args->dy);
    double *w = check_doubles(s->n_in * s->n_out), *du = check_doubles(s->tokens * s->rank);
    double inv = 1 / (1 - lod_mask_threshold(args->dropout.p) / 65536.0);
    for (size_t i = 0; i < s->n_in * s->n_out; i++) {
        w[i] = magnitudes ? fabs(l->w[i]) : l->w[i];
    }
    meaning m = {
        .u = check_doubles(s->tokens * s->rank),
        .y = check_doubles(s->tokens * s->n_out),
        .dx = check_doubles(s->tokens * s->n_in),
        .da = check_doubles(s->rank * s->n_in),
        .dbt = check_doubles(s->rank * s->n_out),
    };
    lod_rank_dot_f64_args dot = {.tokens = s->tokens, .n = s->n_in, .r = s->rank, .x = x, .ldx = s->n_in, .keep = keep};
    dot.ldkeep = keep_ld(l), dot.a = a, dot.lda = s->n_in, dot.scale = args->scale * inv, dot.u = m.u,
    dot.ldu = s->rank;
    lod_rank_dot_f64(&dot);
    dot.n = dot.ldx = dot.lda = s->n_out, dot.x = dy, dot.keep = NULL, dot.a = bt, dot.scale = args->scale, dot.u = du;
    lod_rank_dot_f64(&dot);
    lod_lowrank_tile_f64_args tile = {
        .m = s->tokens, .n = s->n_out, .k = s->n_in, .r = s->rank, .x = x, .ldx = s->n_in};
    tile.w = w, tile.w_row = 1, tile.w_col = s->n_in, tile.u = m.u, tile.ldu = s->rank, tile.b = bt,
    tile.ldb = s->n_out;
    tile.first = true, tile.c = m.y, tile.ldc = s->n_out;
    lod_lowrank_tile_f64(&tile);
    tile.n = tile.ldb = tile.ldc = s->n_in, tile.k = tile.ldx = s->n_out, tile.x = dy, tile.u = du, tile.b = a;
    tile.w_row = s->n_in, tile.w_col = 1, tile.keep = keep, tile.ldkeep = keep_ld(l), tile.inv = inv, tile.c = m.dx;
    lod_lowrank_tile_f64(&tile);
    lod_rank_grad_f64_args grad = {.tokens = s->tokens, .n = s->n_in, .r = s->rank, .s = du, .lds = s->rank, .x = x};
    grad.ldx = grad.ldg = s->n_in, grad.keep = keep, grad.ldkeep = keep_ld(l), grad.scale = inv, grad.g = m.da;
    lod_rank_grad_f64(&grad);
    grad.n = grad.ldx = grad.ldg = s->n_out, grad.s = m.u, grad.x = dy, grad.keep = NULL, grad.scale = 1,
    grad.g = m.dbt;
    lod_rank_grad_f64(&grad);
    return m;
}

// Roundings on the way to a cell: those of 16 lanes and their tree, of a scale and its product; of u and of du.
static double dot_roundings(size_t n) {
    return (double)((n + 15) / 16) + 4 + 2;
}

typedef struct roundings {
    double u, y, dx, da, dbt;
} roundings;

static roundings count_roundings(const lod_lowrank_shape *s) {
    const double u = dot_roundings(s->n_in), du = dot_roundings(s->n_out), levels = 4, inv = 2;
    return (roundings){
        .u = u,
        .y = u + (double)(s->rank + s->n_in),
        .dx = du + (double)(s->rank + s->n_out) + inv,
        .da = du + (double)s->tokens + inv + levels,
        .dbt = u + (double)s->tokens + levels,
    };
}

static void near(const float *got, const double *want, double *magnitudes, size_t count, double rounding_count) {
    for (size_t i = 0; i < count; i++) {
        magnitudes[i] *= check_gamma(rounding_count);
    }
    check_near(got, want, magnitudes);
}

static void check_meaning(const layer *l, const outputs *out) {
    const lod_lowrank_shape *s = &l->shape;
    const uint8_t *keep = draw_masks(l);
    meaning want = mean(l, keep, false), bound = mean(l, keep, true);
    roundings n = count_roundings(s);
    near(out->u, want.u, bound.u, s->tokens * s->rank, n.u);
    near(out->y, want.y, bound.y, s->tokens * s->n_out, n.y);
    near(out->dx, want.dx, bound.dx, s->tokens * s->n_in, n.dx);
    near(out->da, want.da, bound.da, s->rank * s->n_in, n.da);
    near(out->dbt, want.dbt, bound.dbt, s->rank * s->n_out, n.dbt);
}

static const lod_lowrank_shape small = {.n_in = 70, .n_out = 45, .rank = 5, .tokens = 62};
static const lod_lowrank_shape large = {.n_in = 150, .n_out = 131, .rank = 8, .tokens = 310};

CHECK_ONCE(lowrank_meaning, 0xc51a032fd5cc4139) {
    static const lod_lowrank_shape shapes[] = {
        {.n_in = 1, .n_out = 1, .rank = 1, .tokens = 1},      {.n_in = 32, .n_out = 64, .rank = 8, .tokens = 31},
        {.n_in = 70, .n_out = 45, .rank = 5, .tokens = 62},   {.n_in = 33, .n_out = 129, .rank = 17, .tokens = 93},
        {.n_in = 600, .n_out = 40, .rank = 3, .tokens = 40},  {.n_in = 40, .n_out = 1100, .rank = 2, .tokens = 40},
        {.n_in = 150, .n_out = 131, .rank = 8, .tokens = 310}};
    static const double rates[] = {0, 0.1, 0.5, 0.999, 65535.0 / 65536};
    for (size_t i = 0; i < 7 * 5; i++) {
        layer l;
        make_layer(&l, shapes[i % 7], (lod_dtype)(i % 3), rates[i % 5]);
        outputs out = run(&l, (manner){0});
        check_meaning(&l, &out);
        check_share(out.u);
        check_share(out.y);
        check_share(out.dx);
        check_share(out.da);
        check_share(out.dbt);
    }
}

// <dy, J x> = <J' dy, x>: the layer is linear in x. Both sides err by what was rounded on the way to y and to dx.
CHECK_ONCE(lowrank_adjoint, 0) {
    static const double rates[] = {0, 0.1, 0.5};
    for (size_t i = 0; i < 3; i++) {
        layer l;
        make_layer(&l, large, LOD_F32, rates[i]);
        outputs out = run(&l, (manner){0});
        meaning magnitudes = mean(&l, draw_masks(&l), true);
        const double *x = check_widen(l.x), *dy = check_widen(l.args.dy), *y = check_widen(out.y),
                     *dx = check_widen(out.dx);
        double difference = 0, magnitude = 0;
        for (size_t c = 0; c < large.tokens * large.n_out; c++) {
            difference += dy[c] * y[c];
            magnitude += fabs(dy[c]) * magnitudes.y[c];
        }
        for (size_t c = 0; c < large.tokens * large.n_in; c++) {
            difference -= dx[c] * x[c];
        }
        roundings n = count_roundings(&large);
        double bound = magnitude * (check_gamma(n.y) + check_gamma(n.dx));
        if (!(fabs(difference) <= bound)) {
            check_fail("<dy, J x> - <J' dy, x> = %g, bound %g", difference, bound);
        }
    }
}

// p = 0 draws nothing and compensates nothing; B = 0 leaves the frozen layer, and so does rank 0.
CHECK_ONCE(lowrank_without_dropout, 0) {
    layer l;
    make_layer(&l, large, LOD_F32, 0);
    outputs none = run(&l, (manner){0});
    l.args.dropout = (lod_dropout){.p = 0};
    outputs zeros = run(&l, (manner){0});
    same_bits(&l, &zeros, &none);
    memset((void *)(uintptr_t)l.args.bt, 0, large.rank * large.n_out * sizeof(float));
    outputs no_adapter = run(&l, (manner){0});
    l.args.rank = 0;
    outputs frozen = run(&l, (manner){.without_da = true, .without_dbt = true});
    check_bytes_equal("y", no_adapter.y, frozen.y, ((large.tokens - 1) * l.args.ldy + large.n_out) * sizeof(float));
    check_bytes_equal("dx", no_adapter.dx, frozen.dx, ((large.tokens - 1) * l.args.lddx + large.n_in) * sizeof(float));
}

// --- what must not change a bit ---

CHECK_ONCE(lowrank_threads, 0) {
    static const unsigned threads[] = {2, 3, 5};
    for (size_t i = 0; i < 3; i++) {
        layer l;
        make_layer(&l, large, (lod_dtype)i, 0.1);
        outputs one = run(&l, (manner){0});
        outputs many = run(&l, (manner){.threads = threads[i]});
        same_bits(&l, &many, &one);
        outputs roomy = run(&l, (manner){.threads = threads[i], .spare_tokens = 5000});
        same_bits(&l, &roomy, &one);
    }
}

CHECK_ONCE(lowrank_batch_splits, 0) {
    static const size_t calls[] = {2, 3, SEGMENTS};
    layer l;
    make_layer(&l, large, LOD_F32, 0.1);
    outputs whole = run(&l, (manner){0});
    for (size_t i = 0; i < 3; i++) {
        outputs split = run(&l, (manner){.calls = calls[i]});
        same_bits(&l, &split, &whole);
    }
}

// Weights of 16 bits give the bits of their values in float32, few tokens at a time too.
CHECK_ONCE(lowrank_16_bit_weights, 0) {
    for (lod_dtype dtype = LOD_BF16; dtype <= LOD_F16; dtype++) {
        layer l;
        make_layer(&l, large, dtype, 0.1);
        outputs whole = run(&l, (manner){0}), split = run(&l, (manner){.calls = SEGMENTS});
        float wide[150 * 131], *packed = check_operand("wide w", CHECK_OUT, sizeof *packed, 160, 131, 131, 64);
        for (size_t i = 0; i < large.n_in * large.n_out; i++) wide[i] = (float)l.w[i];
        lod_pack_weights(large.n_in, large.n_out, LOD_F32, wide, large.n_in, packed, NULL);
        l.args.w = (lod_weight){.packed = packed, .dtype = LOD_F32};
        outputs floats = run(&l, (manner){0});
        same_bits(&l, &whole, &floats);
        same_bits(&l, &split, &floats);
    }
}

CHECK_ONCE(lowrank_own_parallel_for, 0) {
    layer l;
    make_layer(&l, large, LOD_F32, 0.1);
    outputs one = run(&l, (manner){0});
    for (size_t i = 0; i < CHECK_ENGINES; i++) {
        size_t tasks = 0;
        lod_set_parallel_for(check_engines[i], &tasks);
        outputs own = run(&l, (manner){.threads = 3});
        lod_set_parallel_for(NULL, NULL);
        CHECK_THAT(tasks > 0);
        same_bits(&l, &own, &one);
    }
}

static size_t threads_of_process(void) {
    DIR *tasks = opendir("/proc/self/task");
    size_t count = 0;
    for (struct dirent *entry; tasks && (entry = readdir(tasks));) count += entry->d_name[0] != '.';
    if (tasks) closedir(tasks);
    return count;
}

// A forked child has none of its parent's threads; it hires its own, and does not wait for theirs.
CHECK_ONCE(lowrank_after_fork, 0) {
    if (getenv("LODROP_EMULATED")) check_skip("LODROP_EMULATED is set: qemu has no threads in a forked child");
    layer l;
    make_layer(&l, large, LOD_F32, 0.1);
    outputs parent = run(&l, (manner){.threads = 3});
    pid_t pid = fork();
    if (pid == 0) {
        alarm(20);
        size_t before = threads_of_process();
        outputs child = run(&l, (manner){.threads = 3});
        bool same = memcmp(child.y, parent.y, large.tokens * large.n_out * sizeof *child.y) == 0;
        _exit(same && threads_of_process() > before ? 0 : 1);
    }
    int status = -1;
    CHECK_THAT(pid > 0 && waitpid(pid, &status, 0) == pid);
    CHECK_THAT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

// Plans are shared, workspaces are not: four threads of the host's at once, three workers for each.
CHECK_ONCE(lowrank_concurrent_callers, 0) {
    enum { CALLERS = 4, ROUNDS = 5 };
    for (size_t round = 0; round < ROUNDS; round++) {
        layer l;
        make_layer(&l, large, LOD_F32, 0.1);
        outputs alone = run(&l, (manner){0});
        caller callers[CALLERS];
        pthread_t threads[CALLERS];
        for (size_t i = 0; i < CALLERS; i++) {
            callers[i] = new_caller(&l, (manner){.threads = 3, .calls = 1 + i});
        }
        check_before_call();
        for (size_t i = 0; i < CALLERS; i++) {
            lod_plan_free(i ? callers[i].plan : NULL);
            callers[i].plan = callers[0].plan;
            CHECK_THAT(pthread_create(&threads[i], NULL, call_all, &callers[i]) == 0);
        }
        for (size_t i = 0; i < CALLERS; i++) {
            pthread_join(threads[i], NULL);
        }
        check_after_call();
        lod_plan_free(callers[0].plan);
        for (size_t i = 0; i < CALLERS; i++) {
            CHECK_THAT(callers[i].status == LOD_OK);
            same_bits(&l, &callers[i].out, &alone);
        }
    }
}

// Denormals among the inputs, so that flushing them would show.
CHECK_ONCE(lowrank_float_environment, 0) {
    static const double rates[] = {0.1, 0.3, 0.7};
    for (size_t i = 0; i < 3; i++) {
        layer l;
        make_layer(&l, large, LOD_F32, rates[i]);
        for (size_t t = 0; t < large.tokens; t += 2) {
            for (size_t j = 0; j < large.n_in; j++) {
                l.x[t * l.args.ldx + j] *= 0x1p-130f;
            }
        }
        outputs plain = run(&l, (manner){0});
        CHECK_THAT(plain.y[0] != 0 && plain.u[0] != 0); // what comes of a row of denormals
        outputs one = run(&l, (manner){.strange_environment = true});
        same_bits(&l, &one, &plain);
        outputs many = run(&l, (manner){.strange_environment = true, .threads = 3});
        same_bits(&l, &many, &plain);
        outputs few = run(&l, (manner){.strange_environment = true, .calls = SEGMENTS}); // some are few tokens
        same_bits(&l, &few, &plain);
    }
}

CHECK_ONCE(lowrank_unwanted_gradients, 0) {
    layer l;
    make_layer(&l, small, LOD_F32, 0.1);
    outputs all = run(&l, (manner){0});
    outputs only_dx = run(&l, (manner){.without_da = true, .without_dbt = true});
    check_bytes_equal("dx", only_dx.dx, all.dx, ((small.tokens - 1) * l.args.lddx + small.n_in) * sizeof(float));
    for (size_t i = 0; i < small.rank * small.n_in; i++) {
        CHECK_THAT(only_dx.da[i] == 0);
    }
    outputs only_sums = run(&l, (manner){.without_dx = true});
    check_bytes_equal("da", only_sums.da, all.da, small.rank * small.n_in * sizeof(float));
    check_bytes_equal("dbt", only_sums.dbt, all.dbt, small.rank * small.n_out * sizeof(float));
}

// --- masks ---

// NaN in dropped cells of X: the frozen product sees them, the adapter must not.
CHECK_ONCE(lowrank_dropped_nan, 0) {
    layer l;
    make_layer(&l, small, LOD_F32, 0.5);
    outputs clean = run(&l, (manner){0});
    for (size_t i = 0; i < SEGMENTS; i++) {
        for (size_t t = l.start[i]; t < l.start[i + 1]; t++) {
            for (size_t j = 0; j < small.n_in; j++) {
                float *cell = &l.x[t * l.args.ldx + j];
                *cell = kept(&l, i, t - l.start[i], j) ? *cell : j % 2 ? NAN : INFINITY;
            }
        }
    }
    outputs poisoned = run(&l, (manner){0});
    check_bytes_equal("u", poisoned.u, clean.u, small.tokens * small.rank * sizeof(float));
    check_bytes_equal("dx", poisoned.dx, clean.dx, ((small.tokens - 1) * l.args.lddx + small.n_in) * sizeof(float));
    check_bytes_equal("da", poisoned.da, clean.da, small.rank * small.n_in * sizeof(float));
    check_bytes_equal("dbt", poisoned.dbt, clean.dbt, small.rank * small.n_out * sizeof(float));
}

// Another seed, draw, layer or instance is another mask; no instances are instance 0.
CHECK_ONCE(lowrank_masks_differ, 0) {
    layer l;
    make_layer(&l, small, LOD_F32, 0.5);
    const size_t bytes = small.tokens * small.rank * sizeof(float);
    memset(l.instance, 0, sizeof l.instance);
    outputs first = run(&l, (manner){0});
    l.instance[3] = 1;
    outputs instance = run(&l, (manner){0});
    l.instance[3] = 0, l.args.dropout.seed++;
    outputs seed = run(&l, (manner){0});
    l.args.dropout.seed--, l.args.dropout.site += 1 << LOD_SITE_LAYER_BIT;
    outputs site = run(&l, (manner){0});
    l.args.dropout.site -= 1 << LOD_SITE_LAYER_BIT, l.draw[5]++;
    outputs draw = run(&l, (manner){0});
    CHECK_THAT(memcmp(first.u, instance.u, bytes) && memcmp(first.u, seed.u, bytes));
    CHECK_THAT(memcmp(first.u, site.u, bytes) && memcmp(first.u, draw.u, bytes));
    // segments whose coordinates stayed the same kept their masks
    check_bytes_equal("u", instance.u, first.u, l.start[3] * small.rank * sizeof(float));
    check_bytes_equal("u", draw.u, first.u, l.start[5] * small.rank * sizeof(float));
}
