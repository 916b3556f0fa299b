#include "svg.h"

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

bool svg_close(struct svg *s) {
    svg_put(s, "</svg>\n");
    bool done = s->good && file_commit(&s->out, s->f);
    file_abandon(&s->out);
    return done;
}
