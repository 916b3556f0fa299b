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
// Gives the file its name if all went well; otherwise leaves an old one as it was.
bool svg_close(struct svg *s);

#endif
