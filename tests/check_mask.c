// The mask contract: Philox's known answers, the kernels against the scalar definition, the statistics of a mask, and
// the public calls that show masks.
#include <math.h>
#include <string.h>

#include "check.h"
#include "philox.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

// The vectors that come with the paper's own code.
CHECK_ONCE(philox_known_answers, 0) {
    static const struct {
        uint32_t counter[4], key[2], words[4];
    } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < COUNT(known); i++) {
        const uint32_t *c = known[i].counter;
        check_shape("vector %zu", i);
        uint64_t seed = (uint64_t)known[i].key[1] << 32 | known[i].key[0];
        lod_philox words = lod_philox4x32(seed, c[0], c[1], c[2], c[3]);
        check_bytes_equal("words", words.w, known[i].words, sizeof words.w);
    }
}

static void check_bits(const lod_kernel *kernel, size_t rows, size_t n, double p) {
    check_shape("rows=%zu n=%zu p=%g", rows, n, p);
    size_t bytes = (n + 127) / 128 * 16;
    lod_keep_bits_args t = {
        .rows = rows,
        .n = n,
        .row0 = (uint32_t)check_random(),
        .seed = check_random(),
        .site = (uint32_t)check_random(),
        .draw = (uint32_t)check_random(),
        .threshold = lod_mask_threshold(p),
        .ldbits = bytes + 5,
    };
    t.bits = check_operand("bits", CHECK_OUT, 1, rows, bytes, t.ldbits, 1);
    CHECK_CALL(kernel->fn.keep_bits(&t));
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < bytes * 8; j++) {
            int got = t.bits[i * t.ldbits + j / 8] >> (j % 8) & 1;
            int want = lod_mask_keep(t.seed, t.site, t.draw, t.row0 + (uint32_t)i, (uint32_t)j, p);
            if (got != want) {
                check_fail("bits [%zu][%zu] got %d want %d", i, j, got, want);
            }
        }
    }
    check_share(t.bits);
}

CHECK_KERNEL(keep_bits, 0x92f05e1837fea41d) {
    static const size_t widths[] = {1, 127, 128, 129, 300, 1024};
    static const double rates[] = {0, 0.1, 0.5, 0.999};
    if (check_mode_now() != CHECK_UNIFORM) {
        return; // the input is a coordinate: there is one mode
    }
    for (size_t n = 0; n < COUNT(widths); n++) {
        for (size_t p = 0; p < COUNT(rates); p++) {
            check_bits(kernel, 1, widths[n], rates[p]);
            check_bits(kernel, 5, widths[n], rates[p]);
        }
    }
}

// Over the masks of 16 seeds, how far the keep rate lies from `keep`, in standard deviations.
static double keep_rate_deviation(uint32_t threshold, double keep) {
    enum { SEEDS = 16, ROWS = 4096, COLS = 512 };
    uint64_t kept = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        for (uint32_t row = 0; row < ROWS; row++) {
            for (uint32_t group = 0; group < COLS / 8; group++) {
                lod_philox x = lod_philox4x32(seed, group, row, 0, 0);
                for (int h = 0; h < 8; h++) {
                    kept += (x.w[h / 2] >> (h % 2 * 16) & 0xffff) >= threshold;
                }
            }
        }
    }
    const double cells = (double)SEEDS * ROWS * COLS;
    return ((double)kept - cells * keep) / sqrt(cells * keep * (1 - keep));
}

// An honest generator passes 5 deviations but once in 1.7 million sets of seeds; a bias of 0.1 % of the cells is 11.6
// deviations at p = 0.5, and more elsewhere.
CHECK_ONCE(mask_statistics, 0) {
    static const double rates[] = {0.001, 0.1, 0.5, 0.9};
    const double limit = 5;
    const uint32_t bias = 66; // of 65536: 0.1 %
    for (size_t i = 0; i < COUNT(rates); i++) {
        check_shape("p=%g", rates[i]);
        uint32_t threshold = lod_mask_threshold(rates[i]);
        double keep = 1 - threshold / 65536.0;
        double honest = keep_rate_deviation(threshold, keep), biased = keep_rate_deviation(threshold + bias, keep);
        if (!(fabs(honest) < limit)) {
            check_fail("the keep rate is %.2f deviations from %g", honest, keep);
        }
        if (!(fabs(biased) > limit)) {
            check_fail("a planted bias of 0.1 %% passes unseen: %.2f deviations", biased);
        }
    }
}

CHECK_ONCE(mask_dump, 0) {
    static const double rates[] = {0, 1.0 / 65536, 0.1, 0.5, 0.999};
    enum { ROWS = 7, COLS = 300 };
    uint8_t keep[ROWS * COLS];
    for (size_t i = 0; i < COUNT(rates); i++) {
        check_shape("p=%g", rates[i]);
        uint64_t seed = check_random();
        uint32_t site = (uint32_t)check_random(), draw = (uint32_t)check_random();
        size_t row0 = check_below(1000000), col0 = check_below(1000);
        CHECK_THAT(lod_mask_dump(seed, site, draw, rates[i], row0, ROWS, col0, COLS, keep, NULL) == LOD_OK);
        for (size_t cell = 0; cell < sizeof keep; cell++) {
            uint32_t row = (uint32_t)(row0 + cell / COLS), col = (uint32_t)(col0 + cell % COLS);
            CHECK_THAT(keep[cell] == lod_mask_keep(seed, site, draw, row, col, rates[i]));
        }
    }
}

static void expect_bad(lod_status status, const lod_error *err, const char *field) {
    if (status != LOD_BAD_ARGUMENT || err->code != status || strcmp(err->field, field) != 0 || !err->text[0]) {
        check_fail("status %d field '%s' text '%s', want field '%s'", (int)status, err->field, err->text, field);
    }
}

CHECK_ONCE(mask_bad_rates, 0) {
    static const double bad[] = {-0.1, 1, 1.5, NAN, INFINITY, 1e-9, 0.999999999, -0x1p-60};
    for (size_t i = 0; i < COUNT(bad); i++) {
        check_shape("p=%g", bad[i]);
        uint8_t keep = 7;
        size_t start = 7, count = 7;
        lod_error err = {.code = LOD_OK};
        expect_bad(lod_mask_dump(1, 2, 3, bad[i], 0, 1, 0, 1, &keep, &err), &err, "p");
        CHECK_THAT(keep == 7);
        err = (lod_error){.code = LOD_OK};
        expect_bad(lod_mask_span(1, 2, 3, bad[i], 10, &start, &count, &err), &err, "p");
        CHECK_THAT(start == 7 && count == 7);
        CHECK_THAT(lod_mask_dump(1, 2, 3, bad[i], 0, 1, 0, 1, &keep, NULL) == LOD_BAD_ARGUMENT);
    }
}

// One run of max(1, floor(p L)) cells that lies in the segment and, over the draws, takes every place.
CHECK_ONCE(mask_span, 0) {
    static const double rates[] = {0, 0.1, 0.5, 0.999};
    static const size_t lengths[] = {0, 1, 2, 9, 10, 100, 1000};
    for (size_t i = 0; i < COUNT(rates) * COUNT(lengths); i++) {
        double p = rates[i % COUNT(rates)];
        size_t length = lengths[i / COUNT(rates)], run = (size_t)(p * (double)length), first = SIZE_MAX, last = 0;
        check_shape("p=%g length=%zu", p, length);
        run = p > 0 && length > 0 && run == 0 ? 1 : run;
        for (uint32_t draw = 0; draw < 20 * (length + 1); draw++) {
            size_t start, count;
            CHECK_THAT(lod_mask_span(42, 7, draw, p, length, &start, &count, NULL) == LOD_OK);
            CHECK_THAT(count == run && (run == 0 || start + count <= length));
            uint32_t word = lod_philox4x32(42, 0xffffffff, 0, 7, draw).w[0];
            CHECK_THAT(run == 0 || start == (size_t)((uint64_t)word * (length - run + 1) >> 32));
            first = start < first ? start : first;
            last = start > last ? start : last;
        }
        CHECK_THAT(run == 0 || (first == 0 && last == length - run));
    }
}

CHECK_ONCE(site_packing, 0) {
    static const unsigned most[] = {3, 1023, 63, 63, 255};
    static const unsigned shifts[] = {30, 20, 14, 8, 0};
    static const char *const fields[] = {"domain", "layer", "position", "instance", "head"};
    uint32_t site;
    for (size_t part = 0; part < COUNT(most); part++) {
        unsigned values[COUNT(most)] = {0};
        check_shape("%s", fields[part]);
        values[part] = most[part];
        CHECK_THAT(lod_site(values[0], values[1], values[2], values[3], values[4], &site, NULL) == LOD_OK);
        CHECK_THAT(site == (uint32_t)most[part] << shifts[part]);
        for (unsigned over = most[part] + 1; over; over *= 2) {
            lod_error err = {.code = LOD_OK};
            values[part] = over;
            expect_bad(lod_site(values[0], values[1], values[2], values[3], values[4], &site, &err), &err,
                       fields[part]);
        }
    }
}

CHECK_ONCE(random_words, 0) {
    uint32_t all[11], some[5];
    lod_random(9, 8, 7, 6, COUNT(all), all);
    lod_random(9, 8, 7, 6, COUNT(some), some);
    check_bytes_equal("a shorter range", some, all, sizeof some);
    for (uint32_t i = 0; i < COUNT(all); i++) {
        CHECK_THAT(all[i] == lod_philox4x32(9, i / 4, 6, 8, 7).w[i % 4]);
    }
}
