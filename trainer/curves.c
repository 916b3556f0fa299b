// curves.svg, drawn by hand: two axes, three curves, a legend.
#include <inttypes.h>
#include <math.h>

#include "history.h"
#include "svg.h"

enum { WIDTH = 800, HEIGHT = 440, LEFT = 64, RIGHT = 16, TOP = 40, BOTTOM = 44, MAX_POINTS = 1000 };

struct plot {
    struct svg svg;
    const struct history *h;
    double low, high; // losses at the lower and the upper edge
    double steps;     // at the right edge
};

static const struct svg_frame FRAME = {.width = WIDTH,
                                       .height = HEIGHT,
                                       .left = LEFT,
                                       .right = RIGHT,
                                       .top = TOP,
                                       .bottom = BOTTOM,
                                       .title = "Training and held-out loss over steps",
                                       .x_label = "step",
                                       .y_label = "loss (nats per target)"};

static double x_of(const struct plot *p, double step) {
    return LEFT + (WIDTH - LEFT - RIGHT) * (p->steps > 1 ? (step - 1) / (p->steps - 1) : 0.5);
}

static double y_of(const struct plot *p, double loss) {
    return svg_y(&FRAME, p->low, p->high, loss);
}

static void find_range(struct plot *p) {
    p->low = HUGE_VAL;
    p->high = -HUGE_VAL;
    for (size_t i = 0; i < p->h->count; i++) {
        const struct step_metrics *m = &p->h->list[i];
        p->low = fmin(p->low, m->eval_loss >= 0 ? fmin(m->loss, m->eval_loss) : m->loss);
        p->high = fmax(p->high, fmax(m->loss, m->eval_loss));
        p->steps = (double)m->step;
    }
    if (!(p->high > p->low)) {
        p->low = isfinite(p->low) ? p->low - 0.5 : 0;
        p->high = p->low + 1;
    }
}

static void draw_ticks(struct plot *p) {
    svg_draw_rules(&p->svg, &FRAME, p->low, p->high);
    double distance = fmax(1, svg_tick_distance(p->steps, 10));
    for (double step = distance; step <= p->steps; step += distance) {
        svg_put(&p->svg, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.0f</text>\n", x_of(p, step),
                HEIGHT - BOTTOM + 18, step);
    }
}

static void draw_legend(struct plot *p, int place, const char *colour, const char *text) {
    int x = 300 + 160 * place;
    svg_put(&p->svg, "<path d=\"M%d 16h24\" stroke=\"%s\" stroke-width=\"3\"/><text x=\"%d\" y=\"20\">%s</text>\n", x,
            colour, x + 30, text);
}

// Training loss, each point the mean of the last `window` steps.
static void draw_training(struct plot *p, size_t window, const char *colour, double width) {
    size_t stride = p->h->count / MAX_POINTS + 1;
    double sum = 0;
    svg_put(&p->svg, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"%g\" points=\"", colour, width);
    for (size_t i = 0; i < p->h->count; i++) {
        sum += p->h->list[i].loss - (i >= window ? p->h->list[i - window].loss : 0);
        double mean = sum / (double)(i + 1 < window ? i + 1 : window);
        if (i % stride == 0 || i + 1 == p->h->count) {
            svg_put(&p->svg, "%.1f,%.1f ", x_of(p, (double)p->h->list[i].step),
                    y_of(p, fmin(fmax(mean, p->low), p->high)));
        }
    }
    svg_put(&p->svg, "\"/>\n");
}

static void draw_held_out(struct plot *p, const char *colour) {
    svg_put(&p->svg, "<g fill=\"%s\">\n", colour);
    for (size_t i = 0; i < p->h->count; i++) {
        const struct step_metrics *m = &p->h->list[i];
        if (m->eval_loss >= 0) {
            svg_put(&p->svg, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\"><title>step %" PRIu64 ": %.5f</title></circle>\n",
                    x_of(p, (double)m->step), y_of(p, m->eval_loss), m->step, m->eval_loss);
        }
    }
    svg_put(&p->svg, "</g>\n<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\" points=\"", colour);
    for (size_t i = 0; i < p->h->count; i++) {
        const struct step_metrics *m = &p->h->list[i];
        if (m->eval_loss >= 0) {
            svg_put(&p->svg, "%.1f,%.1f ", x_of(p, (double)m->step), y_of(p, m->eval_loss));
        }
    }
    svg_put(&p->svg, "\"/>\n");
}

bool history_draw(const struct history *h, const char *path, fault *f) {
    struct plot p = {.h = h};
    find_range(&p);
    svg_open(&p.svg, path, &FRAME, f);
    draw_ticks(&p);
    draw_legend(&p, 0, "#9ec5e8", "training, a step");
    draw_legend(&p, 1, "#1f5fa8", "training, mean");
    draw_legend(&p, 2, "#d1495b", "held out");
    draw_training(&p, 1, "#9ec5e8", 1);
    draw_training(&p, h->count / 20 + 1, "#1f5fa8", 2);
    draw_held_out(&p, "#d1495b");
    return svg_close(&p.svg);
}
