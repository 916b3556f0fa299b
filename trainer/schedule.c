#include "schedule.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "library.h"
#include "number.h"

bool schedule_parse(enum schedule_kind *kind, const char *name, fault *f) {
    static const char *const names[] = {
        [SCHEDULE_LINEAR] = "linear", [SCHEDULE_COSINE] = "cosine", [SCHEDULE_CONSTANT] = "constant"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(name, names[i]) == 0) {
            *kind = (enum schedule_kind)i;
            return true;
        }
    }
    return fault_set(f, FAULT_INPUT, "lodrop-train", "--lr-scheduler", "'%s' is not linear, cosine or constant", name);
}

struct schedule schedule_make(enum schedule_kind kind, double peak, double warmup_ratio, uint64_t total) {
    return (struct schedule){
        .kind = kind, .peak = peak, .warmup = (uint64_t)ceil(warmup_ratio * (double)total), .total = total};
}

double schedule_rate(const struct schedule *s, uint64_t step) {
    if (step < s->warmup) {
        return s->peak * ((double)step / (double)s->warmup);
    }
    if (s->kind == SCHEDULE_CONSTANT) {
        return s->peak;
    }
    double rest = s->total > s->warmup ? (double)(s->total - s->warmup) : 1;
    double progress = (double)(step - s->warmup) / rest;
    if (progress >= 1) {
        return 0;
    }
    return s->peak * (s->kind == SCHEDULE_LINEAR ? 1 - progress : 0.5 * (1 + number_cos_pi(progress)));
}

bool shuffle_epoch(uint32_t *order, uint32_t count, uint64_t seed, uint32_t epoch, fault *f) {
    uint32_t site;
    lod_error err;
    if (!library_done(lod_site(LOD_DOMAIN_SAMPLING, 0, LOD_POSITION_SHUFFLE, 0, 0, &site, &err), &err, f)) {
        return false;
    }
    uint32_t *words = malloc(count * sizeof *words);
    if (!words) {
        return fault_memory(f, "the order of the examples");
    }
    lod_random(seed, site, epoch, 0, count, words);
    for (uint32_t i = 0; i < count; i++) {
        order[i] = i;
    }
    for (uint32_t i = count; i-- > 1;) {
        uint32_t j = (uint32_t)((uint64_t)words[i] * (i + 1) >> 32), swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
    free(words);
    return true;
}
