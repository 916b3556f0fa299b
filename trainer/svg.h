// Drawings as SVG: opened with their size and what they show in words, written whole or not at all.
#ifndef LODROP_TRAINER_SVG_H
#define LODROP_TRAINER_SVG_H

#include "file.h"

struct svg {
    struct file_writer out;
    bool good;
    fault *f;
};

struct svg_frame {
    int width, height, left, right, top, bottom; // of the drawing; distances of its axes from its edges
    const char *title, *x_label, *y_label;       // y_label stands above its axis
};

// A white ground, the title for those who cannot see it, both axes and their names. What fails shows in svg_close.
void svg_open(struct svg *s, const char *path, const struct svg_frame *frame, fault *f);
// At most 511 characters at a time.
void svg_put(struct svg *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
// The least of 1, 2, 5 times a power of ten that parts `range` into at most `parts`.
double svg_tick_distance(double range, int parts);
// Where a value stands whose axis goes up from low to high, and the lines of that axis with their values.
double svg_y(const struct svg_frame *frame, double low, double high, double value);
void svg_draw_rules(struct svg *s, const struct svg_frame *frame, double low, double high);
// Gives the file its name if all went well; otherwise leaves an old one as it was.
bool svg_close(struct svg *s);

#endif
