// Masks for the caller's eyes, and the checks that every operation with a dropout makes.
#include <math.h>

#include "dispatch.h"
#include "philox.h"

// thr, or an error if p cannot be represented.
static lod_status threshold_of(double p, uint32_t *threshold, lod_error *err) {
    LOD_DEFAULT_FP;
    if (!(p >= 0 && p < 1)) return lod_fail(err, LOD_BAD_ARGUMENT, "p", "%g is not in [0, 1)", p);
    *threshold = lod_mask_threshold(p);
    if (p > 0 && (*threshold == 0 || *threshold == 65536)) {
        return lod_fail(err, LOD_BAD_ARGUMENT, "p", "%g rounds to %g in steps of 1/65536", p, *threshold / 65536.0);
    }
    return LOD_OK;
}

lod_status lod_dropout_check(const lod_dropout *dropout, uint32_t *threshold, float *inv, lod_error *err) {
    LOD_DEFAULT_FP;
    LOD_TRY(threshold_of(dropout->p, threshold, err));
    if (*threshold && dropout->site & ((1u << LOD_SITE_POSITION_BIT) - 1)) {
        return lod_fail(err, LOD_BAD_ARGUMENT, "site", "0x%x has an instance or a head: the operation adds them",
                        dropout->site);
    }
    switch (dropout->compensation) {
    case LOD_COMPENSATION_NONE:
    case LOD_COMPENSATION_RENORMALISE:
    case LOD_COMPENSATION_RENORMALISE_NOGRAD:
    case LOD_COMPENSATION_INFERENCE: *inv = 1; return LOD_OK;
    case LOD_COMPENSATION_INVERTED: *inv = (float)(1 / (1 - *threshold / 65536.0)); return LOD_OK;
    }
    return lod_fail(err, LOD_BAD_ARGUMENT, "compensation", "%d is unknown", (int)dropout->compensation);
}

lod_status lod_rows_check(const lod_rows *rows, bool needs_draw, const char *field, lod_error *err) {
    if (!rows->start) return lod_fail(err, LOD_BAD_ARGUMENT, field, "start is NULL");
    if (rows->start[0] != 0) return lod_fail(err, LOD_BAD_ARGUMENT, field, "start[0] is %zu, not 0", rows->start[0]);
    if (needs_draw && !rows->draw) return lod_fail(err, LOD_BAD_ARGUMENT, field, "draw is NULL but a mask is drawn");
    for (size_t i = 0; i < rows->count; i++) {
        if (rows->start[i + 1] < rows->start[i]) {
            return lod_fail(err, LOD_BAD_ARGUMENT, field, "start[%zu] is below start[%zu]", i + 1, i);
        }
        if (rows->start[i + 1] - rows->start[i] > UINT32_MAX) {
            return lod_fail(err, LOD_BAD_ARGUMENT, field, "segment %zu is longer than 2^32 - 1", i);
        }
        if (rows->instance && rows->instance[i] >= 64) {
            return lod_fail(err, LOD_BAD_ARGUMENT, field, "instance[%zu] is above 63", i);
        }
    }
    return LOD_OK;
}

lod_status lod_site(unsigned domain, unsigned layer, unsigned position, unsigned instance, unsigned head,
                    uint32_t *site, lod_error *err) {
    const struct {
        const char *field;
        unsigned value, bits, shift;
    } parts[] = {
        {"domain", domain, 2, LOD_SITE_DOMAIN_BIT},       {"layer", layer, 10, LOD_SITE_LAYER_BIT},
        {"position", position, 6, LOD_SITE_POSITION_BIT}, {"instance", instance, 6, LOD_SITE_INSTANCE_BIT},
        {"head", head, 8, LOD_SITE_HEAD_BIT},
    };
    uint32_t packed = 0;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (parts[i].value >> parts[i].bits) {
            return lod_fail(err, LOD_BAD_ARGUMENT, parts[i].field, "%u is above %u", parts[i].value,
                            (1u << parts[i].bits) - 1);
        }
        packed |= (uint32_t)parts[i].value << parts[i].shift;
    }
    *site = packed;
    return LOD_OK;
}

// The last index of a range of mask cells must fit the counter.
static lod_status check_range(size_t first, size_t count, const char *field, lod_error *err) {
    if (first > UINT32_MAX || count > (size_t)UINT32_MAX + 1 - first) {
        return lod_fail(err, LOD_BAD_ARGUMENT, field, "%zu + %zu is above 2^32", first, count);
    }
    return LOD_OK;
}

lod_status lod_mask_dump(uint64_t seed, uint32_t site, uint32_t draw, double p, size_t row0, size_t rows, size_t col0,
                         size_t cols, uint8_t *keep, lod_error *err) {
    uint32_t threshold = 0;
    LOD_TRY(threshold_of(p, &threshold, err));
    LOD_TRY(check_range(row0, rows, "rows", err));
    LOD_TRY(check_range(col0, cols, "cols", err));
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < cols; j++) {
            uint32_t u16 = lod_mask_u16(seed, site, draw, (uint32_t)(row0 + i), (uint32_t)(col0 + j));
            keep[i * cols + j] = u16 >= threshold;
        }
    }
    return LOD_OK;
}

lod_status lod_mask_span(uint64_t seed, uint32_t site, uint32_t draw, double p, size_t length, size_t *start,
                         size_t *count, lod_error *err) {
    uint32_t threshold = 0;
    LOD_TRY(threshold_of(p, &threshold, err));
    LOD_TRY(check_range(0, length, "length", err));
    *start = *count = 0;
    if (p == 0 || length == 0) return LOD_OK;
    LOD_DEFAULT_FP;
    size_t run = (size_t)floor(p * (double)length);
    if (run == 0) run = 1;
    uint32_t w0 = lod_philox4x32(seed, UINT32_MAX, 0, site, draw).w[0];
    *start = (size_t)(w0 * (uint64_t)(length - run + 1) >> 32);
    *count = run;
    return LOD_OK;
}

void lod_random(uint64_t seed, uint32_t site, uint32_t draw, uint32_t row, size_t count, uint32_t *words) {
    for (size_t i = 0; i < count; i++) {
        words[i] = lod_philox4x32(seed, (uint32_t)(i / 4), row, site, draw).w[i % 4];
    }
}
