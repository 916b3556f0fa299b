// Laws of the loss, on the public interface.
#include <math.h>

#include "check.h"
#include "ref/ref.h"

typedef struct head {
    lod_loss_shape shape;
    lod_loss_args args;
    double *w;
} head;

static void make_head(head *t, lod_loss_shape shape) {
    check_shape("n_in=%zu vocabulary=%zu tokens=%zu", shape.n_in, shape.vocabulary, shape.tokens);
    *t = (head){.shape = shape};
    size_t bytes = lod_packed_size(shape.n_in, shape.vocabulary, LOD_F32);
    float *w = check_floats("w", CHECK_IN, shape.vocabulary, shape.n_in, shape.n_in);
    void *packed = check_operand("packed w", CHECK_OUT, 1, 1, bytes, bytes, 64);
    CHECK_THAT(lod_pack_weights(shape.n_in, shape.vocabulary, LOD_F32, w, shape.n_in, packed, NULL) == LOD_OK);
    uint32_t *target = check_operand("target", CHECK_IN, sizeof *target, 1, shape.tokens, shape.tokens, 4);
    for (size_t i = 0; i < shape.tokens; i++) {
        target[i] = (uint32_t)check_below(shape.vocabulary);
    }
    t->w = check_widen(w);
    t->args = (lod_loss_args){.tokens = shape.tokens, .ldh = shape.n_in + 3, .target = target, .lddh = shape.n_in + 1};
    t->args.w = (lod_weight){.packed = packed, .dtype = LOD_F32};
    t->args.h = check_floats("h", CHECK_IN, shape.tokens, shape.n_in, t->args.ldh);
}

static void run_head(head *t, unsigned threads, bool gradient) {
    lod_plan *plan;
    CHECK_THAT(lod_plan_loss(&t->shape, threads, LOD_ESTIMATE, &plan, NULL) == LOD_OK);
    size_t bytes = lod_plan_workspace(plan);
    void *workspace = check_operand("workspace", CHECK_OUT, 1, 1, bytes, bytes, 64);
    t->args.loss = check_floats("loss", CHECK_OUT, 1, t->shape.tokens, t->shape.tokens);
    t->args.dh = gradient ? check_floats("dh", CHECK_OUT, t->shape.tokens, t->shape.n_in, t->args.lddh) : NULL;
    CHECK_CALL(CHECK_THAT(lod_loss(plan, &t->args, workspace, NULL) == LOD_OK));
    lod_plan_free(plan);
}

// Logits err by gamma_n of their magnitudes; a loss by twice the worst of that, a probability relatively by as much;
// the rest is rounded on the way as the kernel's contract says.
static void check_head(const head *t) {
    const size_t tokens = t->shape.tokens, n = t->shape.n_in, vocabulary = t->shape.vocabulary;
    double *z = check_doubles(tokens * vocabulary), *magnitude = check_doubles(tokens * vocabulary);
    double *w_magnitude = check_doubles(vocabulary * n), *loss = check_doubles(tokens), *bound = check_doubles(tokens);
    double *dh = check_doubles(tokens * n), *dh_bound = check_doubles(tokens * n);
    for (size_t i = 0; i < vocabulary * n; i++) {
        w_magnitude[i] = fabs(t->w[i]);
    }
    lod_lowrank_tile_f64_args tile = {.m = tokens, .n = vocabulary, .k = n, .ldx = n, .w_row = 1, .w_col = n};
    tile.x = check_widen(t->args.h), tile.w = t->w, tile.first = true, tile.c = z, tile.ldc = vocabulary;
    lod_lowrank_tile_f64(&tile);
    tile.x = check_magnitudes(t->args.h), tile.w = w_magnitude, tile.c = magnitude;
    lod_lowrank_tile_f64(&tile);
    lod_xent_f64(&(lod_xent_f64_args){.rows = tokens,
                                      .n = vocabulary,
                                      .z = z,
                                      .ldz = vocabulary,
                                      .target = t->args.target,
                                      .loss = loss,
                                      .gradient = true});
    for (size_t i = 0; i < tokens; i++) {
        double worst = 0, *p = z + i * vocabulary;
        for (size_t j = 0; j < vocabulary; j++) {
            worst = fmax(worst, magnitude[i * vocabulary + j]);
        }
        // |z - max| <= 2 worst; exp's 2 u, the 16 lanes and their tree, the reciprocal and its product, the loss's own
        double roundings = 2 * worst + 2 + (double)(vocabulary + 15) / 16 + 4 + 2;
        double relative = 2 * worst * check_gamma((double)n) + 2 * check_gamma(roundings);
        bound[i] = relative + CHECK_U * (4 * worst + 2 * log((double)vocabulary));
        for (size_t d = 0; d < n; d++) {
            for (size_t j = 0; j < vocabulary; j++) {
                double probability = p[j] + (j == t->args.target[i]);
                double error = probability * relative + CHECK_U * fabs(p[j]);
                double product = fabs(p[j]) * w_magnitude[j * n + d];
                dh[i * n + d] += p[j] * t->w[j * n + d];
                dh_bound[i * n + d] += error * w_magnitude[j * n + d] + product * check_gamma((double)vocabulary);
            }
        }
    }
    check_near(t->args.loss, loss, bound);
    check_near(t->args.dh, dh, dh_bound);
}

CHECK_ONCE(loss_of_a_head, 0x9cad097b7dab2292) {
    static const lod_loss_shape shapes[] = {{.n_in = 1, .vocabulary = 2, .tokens = 1},
                                            {.n_in = 40, .vocabulary = 45, .tokens = 130},
                                            {.n_in = 33, .vocabulary = 1100, .tokens = 67},
                                            {.n_in = 5, .vocabulary = 7, .tokens = 2100}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        head t;
        make_head(&t, shapes[i]);
        run_head(&t, 1, true);
        check_head(&t);
        check_share(t.args.loss);
        check_share(t.args.dh);
        const float *loss = t.args.loss, *dh = t.args.dh;
        size_t loss_bytes = t.shape.tokens * sizeof *loss;
        size_t dh_bytes = ((t.shape.tokens - 1) * t.args.lddh + t.shape.n_in) * sizeof *dh;
        for (unsigned threads = 2; threads <= 5; threads++) {
            run_head(&t, threads, true);
            check_bytes_equal("loss", t.args.loss, loss, loss_bytes);
            check_bytes_equal("dh", t.args.dh, dh, dh_bytes);
        }
        run_head(&t, 2, false);
        check_bytes_equal("loss without gradient", t.args.loss, loss, loss_bytes);
    }
}
