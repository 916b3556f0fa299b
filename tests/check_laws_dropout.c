// Laws of dropout on activations: the masks are those of the contract, whatever the split into threads and calls and
// the host's rounding; dropped cells are never used; no rate is no dropout.
#include <fenv.h>
#include <math.h>
#include <string.h>

#include "check.h"

enum { WIDTH = 300, SEGMENTS = 6, TOKENS = 151, CELLS = TOKENS * WIDTH };
static const size_t start[SEGMENTS + 1] = {0, 1, 1, 41, 48, 148, TOKENS};
static const uint32_t draw[SEGMENTS] = {7, 8, 9, 4000000000u, 9, 1};
static const uint8_t instance[SEGMENTS] = {0, 1, 0, 0, 63, 5};

static const struct triple {
    lod_pattern pattern;
    lod_compensation compensation;
    const char *name;
} triples[] = {{LOD_PATTERN_ELEMENT, LOD_COMPENSATION_INVERTED, "element inverted"},
               {LOD_PATTERN_ELEMENT, LOD_COMPENSATION_INFERENCE, "element inference"},
               {LOD_PATTERN_COLUMN, LOD_COMPENSATION_INVERTED, "column inverted"},
               {LOD_PATTERN_SPAN, LOD_COMPENSATION_NONE, "span none"}};

static void call(lod_dropout_add_args a, float *y, unsigned threads) {
    lod_plan *plan;
    a.y = y;
    CHECK_THAT(lod_plan_rowwise(threads, &plan, NULL) == LOD_OK);
    CHECK_CALL(CHECK_THAT(lod_dropout_add(plan, &a, NULL) == LOD_OK));
    lod_plan_free(plan);
}

static float *output(void) {
    return check_floats("y", CHECK_OUT, TOKENS, WIDTH, WIDTH);
}

static lod_dropout_add_args operands(const struct triple *triple, double p) {
    lod_dropout_add_args a = {.rows = {SEGMENTS, start, draw, instance}, .width = WIDTH, .ldx = WIDTH, .ldy = WIDTH};
    a.dropout = (lod_dropout){.pattern = triple->pattern, .compensation = triple->compensation, .p = p};
    a.dropout.seed = check_random();
    CHECK_THAT(lod_site(LOD_DOMAIN_TRAIN, 3, LOD_POSITION_FFN_OUTPUT, 0, 0, &a.dropout.site, NULL) == LOD_OK);
    a.x = check_floats("x", CHECK_IN, TOKENS, WIDTH, WIDTH);
    return a;
}

// From the public calls that say what a mask is.
static void keep_of(const lod_dropout_add_args *a, uint8_t *keep) {
    const lod_dropout *d = &a->dropout;
    for (size_t s = 0; s < SEGMENTS; s++) {
        const size_t length = start[s + 1] - start[s];
        const uint32_t site = d->site | (uint32_t)instance[s] << 8;
        for (size_t i = 0; i < length; i++) {
            uint8_t *row = keep + (start[s] + i) * WIDTH;
            size_t first = 0, count = 0;
            if (d->pattern == LOD_PATTERN_SPAN) {
                CHECK_THAT(lod_mask_span(d->seed, site, draw[s], d->p, length, &first, &count, NULL) == LOD_OK);
                memset(row, i < first || i >= first + count, WIDTH);
            } else {
                size_t mask_row = d->pattern == LOD_PATTERN_COLUMN ? 0 : i;
                CHECK_THAT(lod_mask_dump(d->seed, site, draw[s], d->p, mask_row, 1, 0, WIDTH, row, NULL) == LOD_OK);
            }
        }
    }
}

static void check_triple(const struct triple *triple, double p, bool with_add) {
    check_shape("%s p=%g%s", triple->name, p, with_add ? " into a sum" : "");
    lod_dropout_add_args a = operands(triple, p);
    const double scale =
        triple->compensation == LOD_COMPENSATION_INVERTED ? (float)(1 / (1 - floor(p * 65536 + 0.5) / 65536)) : 1;
    if (with_add)
        a.add = check_floats("add", CHECK_IN, TOKENS, WIDTH, WIDTH);
    uint8_t *keep = check_operand("keep", CHECK_IN, 1, 1, CELLS, CELLS, 1);
    double *want = check_doubles(CELLS), *bound = check_doubles(CELLS);
    keep_of(&a, keep);
    for (size_t i = 0; i < CELLS; i++) {
        want[i] = (a.add ? (double)a.add[i] : 0) + (keep[i] ? a.x[i] * scale : 0);
        bound[i] = keep[i] ? CHECK_U * fabs(want[i]) * (1 + 0x1p-20) + 0x1p-150 : 0;
        if (!keep[i])
            ((float *)(uintptr_t)a.x)[i] = NAN;
    }
    float *y = output();
    call(a, y, 1);
    check_near(y, want, bound);
    check_share(y);
    for (unsigned threads = 2; threads <= 5; threads++) {
        float *other = output();
        fesetround(threads < 5 ? FE_TONEAREST : FE_UPWARD);
        call(a, other, threads);
        fesetround(FE_TONEAREST);
        check_bytes_equal("with more threads", other, y, CELLS * sizeof *y);
    }
    float *apart = output();
    for (size_t s = 0; s < SEGMENTS; s++) { // a segment at a time
        const size_t alone[] = {0, start[s + 1] - start[s]}, first = start[s] * WIDTH;
        lod_dropout_add_args b = a;
        b.rows = (lod_rows){1, alone, draw + s, instance + s};
        b.x += first, b.add = a.add ? a.add + first : NULL;
        call(b, apart + first, 1);
    }
    check_bytes_equal("a segment at a time", apart, y, CELLS * sizeof *y);
}

CHECK_ONCE(dropout_add_laws, 0x8b9b5c4250fe3e38) {
    static const double rates[] = {0.1, 0.5, 0.999};
    for (size_t i = 0; i < 4 * 3 * 2; i++) {
        check_triple(&triples[i % 4], rates[i / 4 % 3], i / 12);
    }
}

// Without a rate, and at inference, the bits are those of the sum alone; the classic one is scaled.
CHECK_ONCE(dropout_add_nothing, 0) {
    for (size_t i = 0; i < 4 * 2; i++) {
        const bool inference = i / 4;
        check_shape("%s%s", triples[i % 4].name, inference ? " at inference" : " p=0");
        lod_dropout_add_args a = operands(&triples[i % 4], inference ? 0.75 : 0);
        float *x = check_floats("result", CHECK_IN, TOKENS, WIDTH, WIDTH), *want = output(), *y = output();
        a.inference = inference;
        const bool scaled = inference && triples[i % 4].compensation == LOD_COMPENSATION_INFERENCE;
        for (size_t cell = 0; cell < CELLS; cell++) { // a power of two, so that scaling is exact
            ((float *)(uintptr_t)a.x)[cell] = scaled ? ldexpf(x[cell], 2) : x[cell];
        }
        call(a, y, 2);
        check_bytes_equal("alone", y, x, CELLS * sizeof *y);
        a.add = check_floats("add", CHECK_IN, TOKENS, WIDTH, WIDTH);
        a.rows.draw = NULL;
        call(a, y, 2);
        lod_plan *plan;
        CHECK_THAT(lod_plan_rowwise(1, &plan, NULL) == LOD_OK);
        CHECK_THAT(lod_add(plan, &(lod_add_args){.count = CELLS, .a = a.add, .b = x, .y = want}, NULL) == LOD_OK);
        lod_plan_free(plan);
        check_bytes_equal("into a sum", y, want, CELLS * sizeof *y);
    }
}
