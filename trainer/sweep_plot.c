// sweep.svg: the held-out loss over the one option that varies, with its standard deviations. The values stand at equal
// distances, in their order: ranks and rates are chosen by factors as often as by steps.
#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "svg.h"
#include "sweep.h"

enum { WIDTH = 640, HEIGHT = 400, LEFT = 64, RIGHT = 24, TOP = 40, BOTTOM = 44 };

struct point {
    double value;
    struct sweep_mean loss;
};

struct points {
    struct svg_frame frame;
    const struct sweep_axis *axis;
    struct point *list;
    size_t count;
    double low, high; // losses at the lower and the upper edge
};

// NULL: something else than one number varies beside the seed.
static const struct sweep_axis *only_axis(const struct sweep *s) {
    const struct sweep_axis *found = NULL;
    for (size_t i = 0; i < s->axes; i++) {
        const struct sweep_axis *axis = &s->axis[i];
        if (!sweep_is_seed(axis)) {
            enum option_type type = axis->option->type;
            if (found || type == OPTION_TEXT || type == OPTION_SWITCH || type == OPTION_LIST) {
                return NULL;
            }
            found = axis;
        }
    }
    return s->runs ? NULL : found;
}

static int by_value(const void *a, const void *b) {
    double x = ((const struct point *)a)->value, y = ((const struct point *)b)->value;
    return (x > y) - (x < y);
}

static bool find_points(struct points *p, const struct sweep *s, const struct sweep_result *results, fault *f) {
    p->list = malloc(s->count * sizeof *p->list);
    if (!p->list) {
        return fault_memory(f, "sweep.svg");
    }
    p->low = DBL_MAX;
    p->high = -DBL_MAX;
    for (size_t i = 0; i < s->count; i++) {
        struct sweep_mean loss = sweep_mean_of(s, results, s->groups[i], "eval.loss");
        if (loss.count && sweep_is_first(s, i)) {
            double value = json_number_value(sweep_value(i, p->axis));
            p->list[p->count++] = (struct point){.value = value, .loss = loss};
            p->low = fmin(p->low, loss.mean - loss.deviation);
            p->high = fmax(p->high, loss.mean + loss.deviation);
        }
    }
    qsort(p->list, p->count, sizeof *p->list, by_value);
    double margin = p->high > p->low ? 0.05 * (p->high - p->low) : 0.5;
    p->low -= margin;
    p->high += margin;
    return true;
}

static double x_of(const struct points *p, size_t i) {
    return LEFT + (WIDTH - LEFT - RIGHT) * ((double)i + 0.5) / (double)p->count;
}

static double y_of(const struct points *p, double loss) {
    return svg_y(&p->frame, p->low, p->high, loss);
}

static void draw_ticks(struct svg *out, const struct points *p) {
    svg_draw_rules(out, &p->frame, p->low, p->high);
    for (size_t i = 0; i < p->count; i++) {
        svg_put(out, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.6g</text>\n", x_of(p, i), HEIGHT - BOTTOM + 18,
                p->list[i].value);
    }
}

static void draw_points(struct svg *out, const struct points *p) {
    svg_put(out, "<polyline fill=\"none\" stroke=\"#d1495b\" stroke-width=\"2\" points=\"");
    for (size_t i = 0; i < p->count; i++) {
        svg_put(out, "%.1f,%.1f ", x_of(p, i), y_of(p, p->list[i].loss.mean));
    }
    svg_put(out, "\"/>\n<g fill=\"#d1495b\" stroke=\"#d1495b\">\n");
    for (size_t i = 0; i < p->count; i++) {
        const struct point *point = &p->list[i];
        double x = x_of(p, i), mean = point->loss.mean, deviation = point->loss.deviation;
        svg_put(out, "<path d=\"M%.1f %.1fh8m-4 0V%.1fm-4 0h8\"/>", x - 4, y_of(p, mean + deviation),
                y_of(p, mean - deviation));
        svg_put(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\">", x, y_of(p, mean));
        svg_put(out, "<title>%.6g: %.5f ± %.5f, %zu runs</title></circle>\n", point->value, mean, deviation,
                point->loss.count);
    }
    svg_put(out, "</g>\n");
}

bool sweep_draw(const struct sweep *s, const struct sweep_result *results, fault *f) {
    struct points p = {.axis = only_axis(s)};
    char path[FILE_PATH_MAX];
    struct svg out;
    if (!p.axis) {
        return true;
    }
    p.frame = (struct svg_frame){.width = WIDTH,
                                 .height = HEIGHT,
                                 .left = LEFT,
                                 .right = RIGHT,
                                 .top = TOP,
                                 .bottom = BOTTOM,
                                 .title = "Held-out loss over the option that varies, with standard deviations",
                                 .x_label = p.axis->option->name,
                                 .y_label = "held-out loss (nats per target), mean and standard deviation"};
    bool done = find_points(&p, s, results, f) && file_path(path, s->line->output, "sweep.svg", f);
    if (done && p.count) {
        svg_open(&out, path, &p.frame, f);
        draw_ticks(&out, &p);
        draw_points(&out, &p);
        done = svg_close(&out);
    }
    free(p.list);
    return done;
}
