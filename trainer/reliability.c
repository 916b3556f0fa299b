// The reliability diagram, drawn by hand: a bar of each bin's accuracy, a mark at its mean confidence (on the diagonal,
// where perfectly calibrated bars end), and how many answers it has.
#include "calibration.h"
#include "svg.h"

enum { WIDTH = 620, HEIGHT = 520, LEFT = 56, RIGHT = 20, TOP = 60, BOTTOM = 62 };

static double x_of(double confidence) {
    return LEFT + (WIDTH - LEFT - RIGHT) * confidence;
}

static double y_of(double accuracy) {
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * accuracy;
}

static void draw_ticks(struct svg *s) {
    for (int i = 0; i <= 5; i++) {
        double share = i / 5.0;
        svg_put(s,
                "<path d=\"M%d %.1fH%d\" stroke=\"#ddd\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.1f</text>\n",
                LEFT, y_of(share), WIDTH - RIGHT, LEFT - 6, y_of(share) + 4, share);
        svg_put(s, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.1f</text>\n", x_of(share), HEIGHT - BOTTOM + 32,
                share);
    }
    svg_put(s, "<path d=\"M%.1f %.1fL%.1f %.1f\" stroke=\"#666\" stroke-dasharray=\"4 4\"/>\n", x_of(0), y_of(0),
            x_of(1), y_of(1));
}

static void draw_bin(struct svg *s, size_t b, const struct calibration_bin *bin) {
    double low = (double)b / CALIBRATION_BINS, high = (double)(b + 1) / CALIBRATION_BINS;
    svg_put(s, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\" font-size=\"9\">%zu</text>\n", x_of((low + high) / 2),
            HEIGHT - BOTTOM + 13, bin->count);
    if (!bin->count) {
        return;
    }
    double accuracy = (double)bin->right / (double)bin->count, mean = bin->confidence / (double)bin->count;
    svg_put(s, "<g><title>confidence %.3f to %.3f: %zu answers, accuracy %.4f, mean confidence %.4f</title>\n", low,
            high, bin->count, accuracy, mean);
    svg_put(s,
            "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"#9ec5e8\" stroke=\"#1f5fa8\"/>\n"
            "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"#d1495b\"/></g>\n",
            x_of(low), y_of(accuracy), x_of(high) - x_of(low), y_of(0) - y_of(accuracy), x_of(mean), y_of(mean));
}

static void draw_legend(struct svg *s, const struct calibration *c) {
    svg_put(s, "<text x=\"%d\" y=\"20\" text-anchor=\"end\">%zu answers, accuracy %.4f, ECE %.4f</text>\n",
            WIDTH - RIGHT, c->count, calibration_accuracy(c), calibration_error(c));
    svg_put(s,
            "<rect x=\"%d\" y=\"34\" width=\"24\" height=\"10\" fill=\"#9ec5e8\" stroke=\"#1f5fa8\"/>"
            "<text x=\"%d\" y=\"44\">accuracy of the bin</text>\n",
            LEFT, LEFT + 30);
    svg_put(s,
            "<circle cx=\"%d\" cy=\"39\" r=\"4\" fill=\"#d1495b\"/>"
            "<text x=\"%d\" y=\"44\">its mean confidence; numbers: its answers</text>\n",
            LEFT + 190, LEFT + 202);
}

bool calibration_draw(const struct calibration *c, const char *path, fault *f) {
    static const struct svg_frame frame = {.width = WIDTH,
                                           .height = HEIGHT,
                                           .left = LEFT,
                                           .right = RIGHT,
                                           .top = TOP,
                                           .bottom = BOTTOM,
                                           .title = "Reliability diagram: accuracy over confidence in 15 bins",
                                           .x_label = "confidence",
                                           .y_label = "accuracy"};
    struct svg s;
    svg_open(&s, path, &frame, f);
    draw_ticks(&s);
    for (size_t b = 0; b < CALIBRATION_BINS; b++) {
        draw_bin(&s, b, &c->bin[b]);
    }
    draw_legend(&s, c);
    return svg_close(&s);
}
