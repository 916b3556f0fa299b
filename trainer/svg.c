#include "svg.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

void svg_put(struct svg *s, const char *format, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    s->good = s->good && file_write(&s->out, text, (size_t)length, s->f);
}

void svg_open(struct svg *s, const char *path, const struct svg_frame *frame, fault *f) {
    *s = (struct svg){.f = f};
    s->good = file_writer_open(&s->out, path, f);
    int base = frame->height - frame->bottom, end = frame->width - frame->right;
    svg_put(s,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" role=\"img\" aria-labelledby=\"title\" "
            "font-family=\"sans-serif\" font-size=\"12\">\n",
            frame->width, frame->height);
    svg_put(s, "<title id=\"title\">%s</title>\n", frame->title);
    svg_put(s, "<rect width=\"%d\" height=\"%d\" fill=\"white\"/>\n", frame->width, frame->height);
    svg_put(s, "<path d=\"M%d %dV%dH%d\" stroke=\"black\" fill=\"none\"/>\n", frame->left, frame->top, base, end);
    svg_put(s, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", (frame->left + end) / 2,
            frame->height - 8, frame->x_label);
    svg_put(s, "<text x=\"%d\" y=\"20\">%s</text>\n", frame->left, frame->y_label);
}

double svg_tick_distance(double range, int parts) {
    static const double factor[] = {2, 2.5, 2};
    double distance = 1e-9;
    for (int i = 0; range / distance > parts; i++) {
        distance *= factor[i % 3];
    }
    return distance;
}

double svg_y(const struct svg_frame *frame, double low, double high, double value) {
    return frame->top + (frame->height - frame->top - frame->bottom) * (high - value) / (high - low);
}

void svg_draw_rules(struct svg *s, const struct svg_frame *frame, double low, double high) {
    double distance = svg_tick_distance(high - low, 8);
    for (double value = ceil(low / distance) * distance; value <= high; value += distance) {
        double y = svg_y(frame, low, high, value);
        svg_put(s,
                "<path d=\"M%d %.1fH%d\" stroke=\"#ddd\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.4g</text>\n",
                frame->left, y, frame->width - frame->right, frame->left - 6, y + 4, value);
    }
}

bool svg_close(struct svg *s) {
    svg_put(s, "</svg>\n");
    bool done = s->good && file_commit(&s->out, s->f);
    file_abandon(&s->out);
    return done;
}
