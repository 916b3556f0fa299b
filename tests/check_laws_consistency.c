// Laws of the loss with a second branch, on the public interface: it is the products and the kernel, whatever is cut
// into chunks and threads and however the host rounds; each branch's loss is the one it has alone; equal branches add
// nothing; gradients may take the places of hidden states.
#include <fenv.h>
#include <math.h>
#include <string.h>

#include "check.h"
#include "check_engines.h"

typedef struct pair {
    lod_loss_shape shape;
    lod_loss_args args; // results are those of the last run
    float *w;
    size_t bytes, dh_bytes, dh2_bytes; // of a result a token; of the gradients, gaps included
} pair;

static lod_isa isa_in_use(void) {
    lod_isa isa = LOD_ISA_ref;
    CHECK_THAT(lod_isa_in_use(&isa, NULL, NULL) == LOD_OK);
    return isa;
}

static void make_pair(pair *t, lod_loss_shape shape, lod_consistency consistency, bool equal) {
    check_shape("n_in=%zu vocabulary=%zu tokens=%zu %s%s", shape.n_in, shape.vocabulary, shape.tokens,
                consistency == LOD_CONSISTENCY_KL ? "KL" : "JS", equal ? " equal" : "");
    const size_t n = shape.n_in, tokens = shape.tokens, bytes = lod_packed_size(n, shape.vocabulary, LOD_F32);
    *t = (pair){.shape = shape, .args = {.tokens = tokens, .ldh = n + 3, .lddh = n + 1, .ldh2 = n + 2, .lddh2 = n}};
    t->w = check_floats("w", CHECK_IN, shape.vocabulary, n, n);
    void *packed = check_operand("packed w", CHECK_OUT, 1, 1, bytes, bytes, 64);
    CHECK_THAT(lod_pack_weights(n, shape.vocabulary, LOD_F32, t->w, n, packed, NULL) == LOD_OK);
    uint32_t *target = check_operand("target", CHECK_IN, sizeof *target, 1, tokens, tokens, sizeof *target);
    float *h = check_floats("h", CHECK_IN, tokens, n, t->args.ldh);
    float *h2 = check_floats("h2", CHECK_IN, tokens, n, t->args.ldh2);
    for (size_t i = 0; i < tokens; i++) {
        target[i] = (uint32_t)check_below(shape.vocabulary);
        for (size_t d = 0; d < n; d++) {
            float *from = h + i * t->args.ldh + d, *to = h2 + i * t->args.ldh2 + d;
            *to = equal ? *from : *from + 0.3f * *to;
        }
    }
    t->args.w = (lod_weight){.packed = packed, .dtype = LOD_F32}, t->args.target = target;
    t->args.h = h, t->args.h2 = h2, t->args.consistency = consistency, t->args.weight = 0.7;
    t->bytes = tokens * sizeof(float);
    t->dh_bytes = ((tokens - 1) * t->args.lddh + n) * sizeof(float), t->dh2_bytes = tokens * n * sizeof(float);
}

static void call(pair *t, unsigned threads) {
    lod_plan *plan;
    t->shape.consistency = t->args.consistency != LOD_CONSISTENCY_NONE;
    CHECK_THAT(lod_plan_loss(&t->shape, threads, LOD_ESTIMATE, &plan, NULL) == LOD_OK);
    size_t bytes = lod_plan_workspace(plan);
    void *workspace = check_operand("workspace", CHECK_OUT, 1, 1, bytes, bytes, 64);
    CHECK_CALL(CHECK_THAT(lod_loss(plan, &t->args, workspace, NULL) == LOD_OK));
    lod_plan_free(plan);
}

static void take_results(pair *t, int branches) { // gradients of so many branches
    const size_t tokens = t->shape.tokens, n = t->shape.n_in;
    t->args.loss = check_floats("loss", CHECK_OUT, 1, tokens, tokens);
    t->args.loss2 = check_floats("loss2", CHECK_OUT, 1, tokens, tokens);
    t->args.divergence = check_floats("divergence", CHECK_OUT, 1, tokens, tokens);
    t->args.dh = branches > 0 ? check_floats("dh", CHECK_OUT, tokens, n, t->args.lddh) : NULL;
    t->args.dh2 = branches > 1 ? check_floats("dh2", CHECK_OUT, tokens, n, t->args.lddh2) : NULL;
}

static void run(pair *t, unsigned threads, int branches) {
    take_results(t, branches);
    call(t, threads);
}

static float *copy(const pair *t, const float *h, size_t ldh) {
    const size_t n = t->shape.n_in;
    float *place = check_floats("h and dh", CHECK_INOUT, t->shape.tokens, n, ldh);
    for (size_t i = 0; i < t->shape.tokens; i++) {
        memcpy(place + i * ldh, h + i * ldh, n * sizeof *h);
    }
    return place;
}

// Gradients in the places of the hidden states have the bits that they have in their own.
static void check_in_place(pair t, unsigned threads, int branches) {
    const size_t n = t.shape.n_in;
    const lod_loss_args own = t.args;
    take_results(&t, branches);
    t.args.h = t.args.dh = copy(&t, own.h, own.ldh), t.args.lddh = own.ldh;
    if (branches > 1)
        t.args.h2 = t.args.dh2 = copy(&t, own.h2, own.ldh2), t.args.lddh2 = own.ldh2;
    call(&t, threads);
    for (size_t i = 0; i < t.shape.tokens; i++) {
        check_bytes_equal("dh in place", t.args.dh + i * own.ldh, own.dh + i * own.lddh, n * sizeof *own.dh);
        if (branches > 1)
            check_bytes_equal("dh2 in place", t.args.dh2 + i * own.ldh2, own.dh2 + i * own.lddh2, n * sizeof *own.dh);
    }
}

// c [tokens][n] = x [tokens][k] times w, whose element [k][j] is w[k * w_row + j * w_col]: the chain of the contract;
// ref rounds once, where one block of k holds all.
static void multiply(size_t tokens, size_t n, size_t k, const float *x, size_t ldx, const float *w, size_t w_row,
                     size_t w_col, float *c, size_t ldc) {
    const bool once = isa_in_use() == LOD_ISA_ref;
    for (size_t cell = 0; cell < tokens * n; cell++) {
        const float *row = x + cell / n * ldx, *column = w + cell % n * w_col;
        double wide = 0;
        float sum = 0;
        for (size_t i = 0; i < k; i++) {
            sum = fmaf(row[i], column[i * w_row], sum);
            wide += (double)row[i] * column[i * w_row];
        }
        c[cell / n * ldc + cell % n] = once ? (float)wide : sum;
    }
}

static void check_composed(const pair *t, bool both) {
    const lod_loss_args *a = &t->args;
    const size_t tokens = t->shape.tokens, n = t->shape.n_in, vocabulary = t->shape.vocabulary;
    float *z = check_floats("z", CHECK_OUT, tokens, vocabulary, vocabulary);
    float *z2 = check_floats("z2", CHECK_OUT, tokens, vocabulary, vocabulary);
    float *loss = check_floats("loss", CHECK_OUT, 1, tokens, tokens), *dh = check_floats("dh", CHECK_OUT, 1, n, n);
    float *loss2 = check_floats("loss2", CHECK_OUT, 1, tokens, tokens);
    float *divergence = check_floats("divergence", CHECK_OUT, 1, tokens, tokens);
    float *scratch = check_floats("scratch", CHECK_OUT, 1, vocabulary, vocabulary);
    multiply(tokens, vocabulary, n, a->h, a->ldh, t->w, 1, n, z, vocabulary);
    multiply(tokens, vocabulary, n, a->h2, a->ldh2, t->w, 1, n, z2, vocabulary);
    lod_kernel_find(LOD_OP_consistency_f32, isa_in_use())
        ->fn.consistency_f32(&(lod_consistency_kernel_args){.rows = tokens,
                                                            .n = vocabulary,
                                                            .z = z,
                                                            .z2 = z2,
                                                            .ldz = vocabulary,
                                                            .target = a->target,
                                                            .consistency = a->consistency,
                                                            .weight = 0.7f,
                                                            .gradient = true,
                                                            .both = both,
                                                            .loss = loss,
                                                            .divergence = divergence,
                                                            .loss2 = loss2,
                                                            .scratch = scratch});
    check_bytes_equal("loss", a->loss, loss, t->bytes);
    check_bytes_equal("loss2", a->loss2, loss2, t->bytes);
    check_bytes_equal("divergence", a->divergence, divergence, t->bytes);
    for (size_t i = 0; i < tokens; i++) {
        multiply(1, n, vocabulary, z + i * vocabulary, vocabulary, t->w, n, 1, dh, n);
        check_bytes_equal("dh", a->dh + i * a->lddh, dh, n * sizeof *dh);
        if (!both)
            continue;
        multiply(1, n, vocabulary, z2 + i * vocabulary, vocabulary, t->w, n, 1, dh, n);
        check_bytes_equal("dh2", a->dh2 + i * a->lddh2, dh, n * sizeof *dh);
    }
}

static void check_pair(lod_loss_shape shape, lod_consistency consistency, bool both) {
    pair t;
    make_pair(&t, shape, consistency, false);
    run(&t, 1, both ? 2 : 1);
    check_composed(&t, both);
    check_share(t.args.loss2), check_share(t.args.divergence), check_share(t.args.dh);
    if (both)
        check_share(t.args.dh2);
    check_in_place(t, 2, both ? 2 : 1);
    const lod_loss_args first = t.args;
    for (unsigned threads = 2; threads <= 6; threads++) { // the last time without gradients, rounding upward
        fesetround(threads < 6 ? FE_TONEAREST : FE_UPWARD);
        run(&t, threads < 6 ? threads : 2, threads == 6 ? 0 : both ? 2 : 1);
        fesetround(FE_TONEAREST);
        check_bytes_equal("loss", t.args.loss, first.loss, t.bytes);
        check_bytes_equal("loss2", t.args.loss2, first.loss2, t.bytes);
        check_bytes_equal("divergence", t.args.divergence, first.divergence, t.bytes);
        if (t.args.dh)
            check_bytes_equal("dh", t.args.dh, first.dh, t.dh_bytes);
        if (t.args.dh2)
            check_bytes_equal("dh2", t.args.dh2, first.dh2, t.dh2_bytes);
    }
}

CHECK_ONCE(consistency_own_parallel_for, 0) {
    for (size_t i = 0; i < CHECK_ENGINES; i++) {
        size_t tasks = 0;
        pair t;
        make_pair(&t, (lod_loss_shape){.n_in = 33, .vocabulary = 200, .tokens = 67}, LOD_CONSISTENCY_KL, false);
        run(&t, 1, 2);
        const lod_loss_args one = t.args;
        lod_set_parallel_for(check_engines[i], &tasks);
        run(&t, 3, 2);
        lod_set_parallel_for(NULL, NULL);
        CHECK_THAT(tasks > 0);
        check_bytes_equal("divergence", t.args.divergence, one.divergence, t.bytes);
        check_bytes_equal("dh", t.args.dh, one.dh, t.dh_bytes);
        check_bytes_equal("dh2", t.args.dh2, one.dh2, t.dh2_bytes);
    }
}

CHECK_ONCE(consistency_of_a_head, 0x151122c8f54a7066) {
    static const lod_loss_shape shapes[] = {{.n_in = 1, .vocabulary = 2, .tokens = 1},
                                            {.n_in = 40, .vocabulary = 45, .tokens = 130},
                                            {.n_in = 33, .vocabulary = 200, .tokens = 67},
                                            {.n_in = 5, .vocabulary = 7, .tokens = 2100}};
    for (size_t i = 0; i < 4 * 4; i++) {
        check_pair(shapes[i / 4], i % 4 < 2 ? LOD_CONSISTENCY_KL : LOD_CONSISTENCY_JS, i % 2);
    }
}

// The losses are those of calls without consistency; equal branches have no divergence and only the losses' gradients.
CHECK_ONCE(consistency_of_equals, 0) {
    for (size_t i = 0; i < 4; i++) {
        const bool both = i % 2;
        pair t;
        make_pair(&t, (lod_loss_shape){.n_in = 40, .vocabulary = 200, .tokens = 30},
                  i / 2 ? LOD_CONSISTENCY_JS : LOD_CONSISTENCY_KL, true);
        run(&t, 2, both ? 2 : 1);
        const lod_loss_args got = t.args;
        t.args.consistency = LOD_CONSISTENCY_NONE;
        run(&t, 1, 1);
        check_in_place(t, 2, 1);
        check_bytes_equal("loss", got.loss, t.args.loss, t.bytes);
        check_bytes_equal("loss2", got.loss2, t.args.loss, t.bytes);
        for (size_t token = 0; token < 30; token++) {
            const float zero = 0;
            check_bytes_equal("divergence", got.divergence + token, &zero, sizeof zero);
            for (size_t d = 0; d < 40; d++) {
                float alone = t.args.dh[token * t.args.lddh + d] * (both ? 0.5f : 1);
                CHECK_THAT(got.dh[token * got.lddh + d] == alone);
                CHECK_THAT(!both || got.dh2[token * got.lddh2 + d] == alone);
            }
        }
    }
}
