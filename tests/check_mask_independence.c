// Cells of masks are independent of their neighbours on every axis: no head, layer, step or row may drop what another
// one drops, nor a column what the next ones drop.
//
// For each axis the 2x2 table of (cell, neighbour) gives a chi-square of one degree of freedom; the sum over 16 seeds
// has 16. An honest generator exceeds 80 in one of the 22 sums with probability 4e-9. A correlation of 0.5 % adds 252
// to a sum, whose standard deviation is then 32.
#include <math.h>
#include <stdio.h>

#include "check.h"
#include "philox.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

enum { SEEDS = 16, LINES = 616, COLS = 1024, SPARE = 128, RATES = 2, FREEDOM = SEEDS };
static const double rates[RATES] = {0.1, 0.5};
static const double limit = 80;
static const uint32_t planted_of = 200; // one in so many neighbours is made a copy: 0.5 %

// The step to a neighbour.
typedef struct axis {
    const char *name;
    uint32_t site, draw, row, col;
} axis;

static const axis axes[] = {{"next column", .col = 1},
                            {"other half of the word", .col = 16},
                            {"head", .site = 1 << LOD_SITE_HEAD_BIT},
                            {"layer", .site = 1 << LOD_SITE_LAYER_BIT},
                            {"step", .draw = 1},
                            {"row", .row = 1}};

typedef struct table {
    double cells[2][2]; // [cell kept][neighbour kept]
} table;

static double chi_square(const table *t) {
    const double a = t->cells[0][0], b = t->cells[0][1], c = t->cells[1][0], d = t->cells[1][1];
    const double difference = a * d - b * c;
    return difference * difference * (a + b + c + d) / ((a + b) * (c + d) * (a + c) * (b + d));
}

// The draws of a row of cells.
static void draw_line(uint64_t seed, uint32_t site, uint32_t draw, uint32_t row, uint16_t u16[COLS + SPARE]) {
    for (uint32_t group = 0; group < (COLS + SPARE) / 8; group++) {
        const lod_philox x = lod_philox4x32(seed, group, row, site, draw);
        for (uint32_t h = 0; h < 8; h++) {
            u16[group / 16 * 128 + h * 16 + group % 16] = (uint16_t)(x.w[h / 2] >> (h % 2 * 16));
        }
    }
}

static void count_line(const uint16_t *cells, const uint16_t *neighbours, uint32_t threshold, table *honest,
                       table *planted) {
    uint32_t counts[2][2][2] = {0};
    for (size_t j = 0; j < COLS; j++) {
        const bool cell = cells[j] >= threshold, neighbour = neighbours[j] >= threshold;
        counts[0][cell][neighbour]++;
        counts[1][cell][check_below(planted_of) ? neighbour : cell]++;
    }
    for (size_t i = 0; i < 4; i++) {
        honest->cells[i / 2][i % 2] += counts[0][i / 2][i % 2];
        planted->cells[i / 2][i % 2] += counts[1][i / 2][i % 2];
    }
}

// Element masks: a line is a row. Column masks: a line is a step, at row 0.
static void count_seed(uint64_t seed, bool column, size_t axis_count, double honest[][RATES], double planted[][RATES]) {
    table tables[2][COUNT(axes)][RATES] = {0};
    uint16_t cells[COLS + SPARE], other[COLS + SPARE];
    const uint32_t head = (uint32_t)seed, layer = (uint32_t)seed; // even and odd ones
    const uint32_t site = layer << LOD_SITE_LAYER_BIT | 24 << LOD_SITE_POSITION_BIT | head;
    for (uint32_t line = 0; line < LINES; line++) {
        const uint32_t draw = column ? line : 7, row = column ? 0 : line;
        draw_line(seed, site, draw, row, cells);
        for (size_t i = 0; i < axis_count; i++) {
            const axis *x = &axes[i];
            if (!x->col)
                draw_line(seed, site + x->site, draw + x->draw, row + x->row, other);
            for (size_t p = 0; p < RATES; p++) {
                count_line(cells, x->col ? cells + x->col : other, lod_mask_threshold(rates[p]), &tables[0][i][p],
                           &tables[1][i][p]);
            }
        }
    }
    for (size_t i = 0; i < axis_count * RATES; i++) {
        honest[i / RATES][i % RATES] += chi_square(&tables[0][i / RATES][i % RATES]);
        planted[i / RATES][i % RATES] += chi_square(&tables[1][i / RATES][i % RATES]);
    }
}

static void check_kind(const char *kind, bool column, size_t axis_count) {
    double honest[COUNT(axes)][RATES] = {0}, planted[COUNT(axes)][RATES] = {0};
    check_shape("%s masks", kind);
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        count_seed(seed, column, axis_count, honest, planted);
    }
    for (size_t i = 0; i < axis_count * RATES; i++) {
        const char *name = axes[i / RATES].name;
        const double p = rates[i % RATES], sum = honest[i / RATES][i % RATES], with = planted[i / RATES][i % RATES];
        printf("     %s masks p=%g, %s: chi-square %.1f of %d, with 0.5 %% planted %.1f\n", kind, p, name, sum, FREEDOM,
               with);
        if (!(sum < limit))
            check_fail("%s p=%g: chi-square %.1f is above %g", name, p, sum, limit);
        if (!(with > limit))
            check_fail("%s p=%g: a planted correlation of 0.5 %% passes unseen: chi-square %.1f", name, p, with);
    }
}

CHECK_ONCE(mask_independence, 0) {
    check_kind("element", false, COUNT(axes));
    check_kind("column", true, COUNT(axes) - 1); // of row 0 alone
}
