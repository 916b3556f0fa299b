// Laws of the row-wise and element-wise calls: the same bits as one kernel call over all of it, for every number of
// threads and whatever floating-point environment the host has set; and RoPE's tables.
#include <fenv.h>
#include <math.h>
#include <string.h>

#include "check.h"
#include "ref/ref.h"

enum { ROWS = 130, WIDTH = 520, CELLS = ROWS * WIDTH }; // enough for several threads to be worth it

static const unsigned thread_counts[] = {1, 2, 3, 5};

static const lod_kernel *kernel_of(lod_op op) {
    lod_isa isa = LOD_ISA_ref;
    CHECK_THAT(lod_isa_in_use(&isa, NULL, NULL) == LOD_OK);
    return lod_kernel_find(op, isa);
}

static lod_plan *new_plan(unsigned threads) {
    lod_plan *plan;
    CHECK_THAT(lod_plan_rowwise(threads, &plan, NULL) == LOD_OK);
    return plan;
}

// Runs `call`, a lod_status, with plans of 1, 2, 3 and 5 threads and then under upward rounding; each time `output`
// must get the bits of `want`.
#define CHECK_CALLS(call, output, want)                                                                                \
    for (size_t turn = 0; turn < 5; turn++) {                                                                          \
        lod_plan *plan = new_plan(turn < 4 ? thread_counts[turn] : 2);                                                 \
        check_before_call();                                                                                           \
        fesetround(turn < 4 ? FE_TONEAREST : FE_UPWARD);                                                               \
        lod_status status = call;                                                                                      \
        bool kept = fegetround() == (turn < 4 ? FE_TONEAREST : FE_UPWARD);                                             \
        fesetround(FE_TONEAREST);                                                                                      \
        check_after_call();                                                                                            \
        lod_plan_free(plan);                                                                                           \
        CHECK_THAT(status == LOD_OK && kept);                                                                          \
        check_bytes_equal(#output, output, want, CELLS * sizeof(float));                                               \
    }

CHECK_ONCE(rowwise_rmsnorm, 0) {
    check_shape("%d x %d", ROWS, WIDTH);
    float *x = check_floats("x", CHECK_IN, ROWS, WIDTH, WIDTH), *g = check_floats("g", CHECK_IN, 1, WIDTH, WIDTH);
    float *dy = check_floats("dy", CHECK_IN, ROWS, WIDTH, WIDTH),
          *add = check_floats("add", CHECK_IN, ROWS, WIDTH, WIDTH);
    float *y = check_floats("y", CHECK_OUT, ROWS, WIDTH, WIDTH),
          *want = check_floats("want", CHECK_OUT, ROWS, WIDTH, WIDTH);
    float *rstd = check_floats("rstd", CHECK_OUT, 1, ROWS, ROWS);
    kernel_of(LOD_OP_rmsnorm_fwd_f32)
        ->fn.rmsnorm_fwd_f32(&(lod_rmsnorm_fwd_kernel_args){.rows = ROWS,
                                                            .n = WIDTH,
                                                            .x = x,
                                                            .ldx = WIDTH,
                                                            .g = g,
                                                            .eps = 1e-5f,
                                                            .rstd = rstd,
                                                            .y = want,
                                                            .ldy = WIDTH});
    lod_rmsnorm_args a = {.tokens = ROWS, .width = WIDTH, .eps = 1e-5, .x = x, .ldx = WIDTH, .g = g, .rstd = rstd};
    a.y = y, a.ldy = a.lddy = a.lddx = WIDTH, a.dy = dy, a.add = add, a.dx = y;
    CHECK_CALLS(lod_rmsnorm_forward(plan, &a, NULL), y, want)
    kernel_of(LOD_OP_rmsnorm_bwd_f32)
        ->fn.rmsnorm_bwd_f32(&(lod_rmsnorm_bwd_kernel_args){.rows = ROWS,
                                                            .n = WIDTH,
                                                            .x = x,
                                                            .ldx = WIDTH,
                                                            .g = g,
                                                            .rstd = rstd,
                                                            .dy = dy,
                                                            .lddy = WIDTH,
                                                            .add = add,
                                                            .dx = want,
                                                            .lddx = WIDTH});
    CHECK_CALLS(lod_rmsnorm_backward(plan, &a, NULL), y, want)
    lod_plan *plan = new_plan(2);
    a.dy = memcpy(y, dy, CELLS * sizeof *y);
    CHECK_THAT(lod_rmsnorm_backward(plan, &a, NULL) == LOD_OK);
    lod_plan_free(plan);
    check_bytes_equal("dx over dy", y, want, CELLS * sizeof *y);
}

CHECK_ONCE(rowwise_silu_mul, 0) {
    check_shape("%d", CELLS);
    float *gate = check_floats("gate", CHECK_IN, 1, CELLS, CELLS), *up = check_floats("up", CHECK_IN, 1, CELLS, CELLS);
    float *dy = check_floats("dy", CHECK_IN, 1, CELLS, CELLS), *y = check_floats("y", CHECK_OUT, 1, CELLS, CELLS);
    float *dgate = check_floats("dgate", CHECK_OUT, 1, CELLS, CELLS),
          *dup = check_floats("dup", CHECK_OUT, 1, CELLS, CELLS);
    float *want = check_floats("want", CHECK_OUT, 1, CELLS, CELLS),
          *more = check_floats("more", CHECK_OUT, 1, CELLS, CELLS);
    lod_silu_mul_args a = {.count = CELLS, .gate = gate, .up = up, .y = y, .dy = dy, .dgate = dgate, .dup = dup};
    kernel_of(LOD_OP_silu_mul_fwd_f32)
        ->fn.silu_mul_fwd_f32(&(lod_silu_mul_fwd_kernel_args){.n = CELLS, .gate = gate, .up = up, .y = want});
    CHECK_CALLS(lod_silu_mul_forward(plan, &a, NULL), y, want)
    kernel_of(LOD_OP_silu_mul_bwd_f32)
        ->fn.silu_mul_bwd_f32(
            &(lod_silu_mul_bwd_kernel_args){.n = CELLS, .gate = gate, .up = up, .dy = dy, .dgate = want, .dup = more});
    CHECK_CALLS(lod_silu_mul_backward(plan, &a, NULL), dgate, want)
    check_bytes_equal("dup", dup, more, CELLS * sizeof(float));
}

CHECK_ONCE(rowwise_add, 0) {
    check_shape("%d", CELLS);
    float *a = check_floats("a", CHECK_IN, 1, CELLS, CELLS), *b = check_floats("b", CHECK_IN, 1, CELLS, CELLS);
    float *y = check_floats("y", CHECK_OUT, 1, CELLS, CELLS), *want = check_floats("want", CHECK_OUT, 1, CELLS, CELLS);
    kernel_of(LOD_OP_add_f32)->fn.add_f32(&(lod_add_kernel_args){.n = CELLS, .a = a, .b = b, .y = want});
    CHECK_CALLS(lod_add(plan, &(lod_add_args){.count = CELLS, .a = a, .b = b, .y = y}, NULL), y, want)
}

CHECK_ONCE(rowwise_rope, 0xad766c95c4ba4aa0) {
    enum { HEADS = 13, HEAD_DIM = 40, POSITIONS = 50 };
    check_shape("%d x %d x %d", ROWS, HEADS, HEAD_DIM);
    float *x = check_floats("x", CHECK_INOUT, ROWS, WIDTH, WIDTH),
          *want = check_floats("want", CHECK_OUT, ROWS, WIDTH, WIDTH);
    float *cosine = check_floats("cosine", CHECK_OUT, POSITIONS, HEAD_DIM / 2, HEAD_DIM / 2);
    float *sine = check_floats("sine", CHECK_OUT, POSITIONS, HEAD_DIM / 2, HEAD_DIM / 2);
    uint32_t *position = check_operand("position", CHECK_IN, sizeof *position, 1, ROWS, ROWS, sizeof *position);
    for (size_t t = 0; t < ROWS; t++) {
        position[t] = (uint32_t)(t * 7 % POSITIONS);
    }
    CHECK_CALL(lod_rope_tables(POSITIONS, HEAD_DIM, 10000, NULL, cosine, sine));
    memcpy(want, x, CELLS * sizeof *x);
    float *start = check_floats("start", CHECK_OUT, ROWS, WIDTH, WIDTH);
    memcpy(start, x, CELLS * sizeof *x);
    lod_rope_kernel_args k = {.rows = ROWS, .heads = HEADS, .head_dim = HEAD_DIM, .x = want, .ldx = WIDTH};
    k.position = position, k.cosine = cosine, k.sine = sine;
    kernel_of(LOD_OP_rope_f32)->fn.rope_f32(&k);
    lod_rope_args a = {
        .tokens = ROWS, .heads = HEADS, .head_dim = HEAD_DIM, .x = x, .ldx = WIDTH, .position = position};
    a.cosine = cosine, a.sine = sine;
    CHECK_CALLS((memcpy(x, start, CELLS * sizeof *x), lod_rope(plan, &a, NULL)), x, want)
    check_share(x);
}

// The frequency in double, and what its roundings to float32 may do to it: three (exponent, power, reciprocal), the
// exponent's magnified by ln theta; scaled, one more, or between the bands seven more and those of the share: eight in
// original / wave, which may be high_freq_factor.
static double rope_frequency(size_t i, size_t head_dim, double theta, const lod_rope_scaling *s, double *error) {
    const double f = pow(theta, -2.0 * (double)i / (double)head_dim), wave = 2 * acos(-1.0) / f;
    *error = f * check_gamma(3 + log(theta));
    if (!s || wave < s->original_positions / s->high_freq_factor) {
        return f;
    }
    if (wave > s->original_positions / s->low_freq_factor) {
        *error = f / s->factor * check_gamma(4 + log(theta));
        return f / s->factor;
    }
    const double width = s->high_freq_factor - s->low_freq_factor;
    const double share = (s->original_positions / wave - s->low_freq_factor) / width;
    *error = f * (check_gamma(7 + log(theta)) + check_gamma(8 + log(theta)) * s->high_freq_factor / width);
    return (1 - share) * f / s->factor + share * f;
}

// Against the angle in double, of which position times frequency is one more rounding.
CHECK_ONCE(rope_tables, 0x3cb50c2b11de5cac) {
    static const double thetas[] = {10000, 500000, 500000};
    static const lod_rope_scaling llama3 = {32, 1, 4, 8192};
    enum { POSITIONS = 2100, HEAD_DIM = 64, HALF = HEAD_DIM / 2 };
    for (size_t i = 0; i < 3; i++) {
        const lod_rope_scaling *scaling = i == 2 ? &llama3 : NULL;
        check_shape("theta=%g%s", thetas[i], scaling ? " scaled" : "");
        float *cosine = check_floats("cosine", CHECK_OUT, POSITIONS, HALF, HALF);
        float *sine = check_floats("sine", CHECK_OUT, POSITIONS, HALF, HALF);
        CHECK_CALL(lod_rope_tables(POSITIONS, HEAD_DIM, thetas[i], scaling, cosine, sine));
        check_share(cosine);
        check_share(sine);
        double *c = check_doubles(POSITIONS * HALF), *s = check_doubles(POSITIONS * HALF);
        double *bound = check_doubles(POSITIONS * HALF);
        for (size_t cell = 0; cell < POSITIONS * HALF; cell++) {
            double error, position = (double)(cell / HALF);
            double frequency = rope_frequency(cell % HALF, HEAD_DIM, thetas[i], scaling, &error);
            c[cell] = cos(position * frequency), s[cell] = sin(position * frequency);
            bound[cell] = CHECK_U + position * (error + (frequency + error) * CHECK_U);
        }
        check_near(cosine, c, bound);
        check_near(sine, s, bound);
    }
}

CHECK_ONCE(rowwise_adamw, 0x4e9d863382b2c9d1) {
    static const uint64_t steps[] = {1, 2, 10, 1000};
    for (size_t i = 0; i < 4; i++) {
        check_shape("step=%llu", (unsigned long long)steps[i]);
        lod_adamw_args a = {.count = CELLS, .learning_rate = 2e-4, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8};
        a.weight_decay = 0.01, a.step = steps[i];
        a.g = check_floats("g", CHECK_IN, 1, CELLS, CELLS);
        float *start[3], *state[3], *want[3];
        for (size_t s = 0; s < 3; s++) {
            start[s] = check_floats("start", CHECK_IN, 1, CELLS, CELLS);
            state[s] = check_floats("state", CHECK_OUT, 1, CELLS, CELLS);
            want[s] = check_floats("want", CHECK_OUT, 1, CELLS, CELLS);
            for (size_t c = 0; c < CELLS; c++) {
                start[s][c] = s == 2 ? fabsf(start[s][c]) : start[s][c]; // the second moment
            }
            memcpy(want[s], start[s], CELLS * sizeof(float));
        }
        a.w = state[0], a.m = state[1], a.v = state[2];
        lod_adamw_kernel_args k = {.n = CELLS, .w = want[0], .g = a.g, .m = want[1], .v = want[2]};
        k.lr_decay = (float)(2e-4 * 0.01), k.eps = 1e-8f;
        k.lr_correction1 = (float)(2e-4 / (1 - pow(0.9, (double)steps[i])));
        k.sqrt_correction2 = (float)sqrt(1 - pow(0.999, (double)steps[i]));
        k.one_minus_beta1 = (float)(1 - 0.9), k.beta2 = (float)0.999, k.one_minus_beta2 = (float)(1 - 0.999);
        kernel_of(LOD_OP_adamw_f32)->fn.adamw_f32(&k);
        for (size_t s = 0; s < 3; s++) {
            CHECK_CALLS((memcpy(state[0], start[0], CELLS * sizeof(float)),
                         memcpy(state[1], start[1], CELLS * sizeof(float)),
                         memcpy(state[2], start[2], CELLS * sizeof(float)), lod_adamw(plan, &a, NULL)),
                        state[s], want[s])
        }
        check_share(a.w);
    }
}
