#include "warnings.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>

enum { WINDOW = 20 }; // steps
static const double EXPLOSION = 10, HIGH_RATE = 0.5, LEAST_FALL = 0.01;

__attribute__((format(printf, 3, 4))) static bool tell(struct warning *w, uint64_t step, const char *format, ...) {
    w->step = step;
    int prefix = snprintf(w->text, sizeof w->text, "step %" PRIu64 ": ", step);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(w->text + prefix, sizeof w->text - (size_t)prefix, format, arguments);
    va_end(arguments);
    return true;
}

// Of the steps first .. end-1.
static double mean_loss(const struct history *h, size_t first, size_t end) {
    struct history part = {.list = h->list, .count = end};
    return history_recent_loss(&part, end - first);
}

// The steps first .. end-1, of which the last was evaluated and those before were not.
struct stretch {
    size_t first, end;
};

static double held_out(const struct history *h, struct stretch s) {
    return h->list[s.end - 1].eval_loss;
}

// The last two stretches, and the one with the lowest held-out loss before them. False: there are not so many.
static bool find_stretches(struct stretch *lowest, struct stretch last[2], const struct history *h) {
    size_t found = 0, first = 0;
    for (size_t i = 0; i < h->count; i++) {
        if (h->list[i].eval_loss < 0) {
            continue;
        }
        if (found >= 2 && (found == 2 || held_out(h, last[0]) < held_out(h, *lowest))) {
            *lowest = last[0];
        }
        last[0] = last[1];
        last[1] = (struct stretch){.first = first, .end = i + 1};
        first = i + 1;
        found++;
    }
    return found > 2;
}

static bool overfits(struct warning *w, const struct history *h) {
    struct stretch lowest = {0}, last[2] = {{0}};
    if (h->list[h->count - 1].eval_loss < 0 || !find_stretches(&lowest, last, h)) {
        return false;
    }
    double best = held_out(h, lowest), now = held_out(h, last[1]);
    double before = mean_loss(h, lowest.first, lowest.end), after = mean_loss(h, last[1].first, last[1].end);
    if (!(held_out(h, last[0]) > best && now > best && after < before)) {
        return false;
    }
    return tell(w, h->count,
                "held-out loss was %.4f after step %zu and is %.4f, while training loss fell from %.4f to %.4f: the "
                "adapter is overfitting; more dropout, fewer steps or --load-best-model-at-end may help",
                best, lowest.end, now, before, after);
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static bool explodes(struct warning *w, const struct history *h) {
    double norms[WINDOW], norm = h->list[h->count - 1].grad_norm;
    if (h->count <= WINDOW) {
        return false;
    }
    for (size_t i = 0; i < WINDOW; i++) {
        norms[i] = h->list[h->count - 1 - WINDOW + i].grad_norm;
    }
    qsort(norms, WINDOW, sizeof *norms, compare);
    double median = (norms[WINDOW / 2 - 1] + norms[WINDOW / 2]) / 2;
    if (!(median > 0 && norm > EXPLOSION * median)) {
        return false;
    }
    return tell(w, h->count,
                "the gradient's norm is %.3g, %.0f times the median of the %d steps before: a lower --learning-rate "
                "may help",
                norm, norm / median, WINDOW);
}

static bool starves(struct warning *w, const struct history *h, const struct warnings *all) {
    uint64_t due = all->steps_per_epoch > 2 * WINDOW ? all->steps_per_epoch : 2 * WINDOW;
    if (h->count != due || all->highest_rate < HIGH_RATE) {
        return false;
    }
    double start = mean_loss(h, 0, WINDOW), now = mean_loss(h, h->count - WINDOW, h->count);
    if (now <= (1 - LEAST_FALL) * start) {
        return false;
    }
    return tell(w, h->count,
                "training loss has not fallen by %g %% since the start, from %.4f to %.4f, with a dropout of rate %g: "
                "a lower rate or a higher --learning-rate may help",
                100 * LEAST_FALL, start, now, all->highest_rate);
}

unsigned warnings_look(struct warnings *w, const struct history *h) {
    struct warning *list = w->list;
    unsigned told = 0;
    told |= (unsigned)(!list[WARNING_OVERFITTING].step && overfits(&list[WARNING_OVERFITTING], h))
            << WARNING_OVERFITTING;
    told |= (unsigned)(!list[WARNING_GRADIENT].step && explodes(&list[WARNING_GRADIENT], h)) << WARNING_GRADIENT;
    told |= (unsigned)(!list[WARNING_STARVED].step && starves(&list[WARNING_STARVED], h, w)) << WARNING_STARVED;
    return told;
}

json_t *warnings_json(const struct warnings *w) {
    static const char *const names[] = {"overfitting", "gradient", "starved"};
    json_t *array = json_array();
    for (size_t i = 0; array && i < WARNING_CAUSES; i++) {
        const struct warning *warning = &w->list[i];
        if (warning->step) {
            json_array_append_new(array, json_pack("{s:s, s:I, s:s}", "cause", names[i], "step",
                                                   (json_int_t)warning->step, "text", warning->text));
        }
    }
    return array;
}
