// calibration.h: bins and their edges, confidence, the expected calibration error by hand, the diagram.
#include "../../trainer/calibration.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../../trainer/file.h"
#include "expect.h"

static bool close_to(double got, double wanted) {
    return fabs(got - wanted) < 1e-14;
}

// --- Values worked out by hand ---

static void test_confidence(void) {
    const double alike[] = {7, 7, 7, 7}, three_to_one[] = {1 + 1.0986122886681098, 1}; // ln 3 apart
    const double far[] = {1e6, 0}, alone[] = {3};
    CHECK(close_to(calibration_confidence(alike, 4, 2), 0.25));
    CHECK(close_to(calibration_confidence(three_to_one, 2, 1), 0.75));
    CHECK(calibration_confidence(far, 2, 1) == 1);
    CHECK(calibration_confidence(alone, 1, 0) == 1);
}

static struct calibration example(void) {
    static const struct {
        double confidence;
        bool right;
    } answers[] = {{0.5, true},  {0.5, false}, {0.9, true},      {0.9, true},
                   {0.9, false}, {1, false},   {1.0 / 3, true}};
    struct calibration c = {0};
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        calibration_add(&c, answers[i].confidence, answers[i].right);
    }
    return c;
}

static void test_error(void) {
    const struct calibration c = example();
    CHECK(c.count == 7 && c.right == 4);
    CHECK(close_to(calibration_accuracy(&c), 4.0 / 7));
    // |1 - 1| of the two at 0.5, |2 - 2.7| at 0.9, |0 - 1| at 1, |1 - 1/3| at 1/3
    CHECK(close_to(calibration_error(&c), (0 + 0.7 + 1 + 2.0 / 3) / 7));
    CHECK(c.bin[4].count == 1 && c.bin[7].count == 2 && c.bin[13].count == 3 && c.bin[14].count == 1);
    const struct calibration none = {0};
    CHECK(calibration_error(&none) == 0 && calibration_accuracy(&none) == 0);
}

// A bin has its upper edge but not its lower one.
static void test_edges(void) {
    for (int b = 0; b < CALIBRATION_BINS; b++) {
        struct calibration c = {0};
        calibration_add(&c, (b + 1) / 15.0, true);
        calibration_add(&c, nextafter((b + 1) / 15.0, 0) - 1e-15, true);
        calibration_add(&c, b / 15.0 + 1e-15, true);
        CHECK(c.bin[b].count == 3);
    }
    struct calibration c = {0};
    calibration_add(&c, 0, false);
    CHECK(c.bin[0].count == 1);
}

// --- The diagram ---

static bool holds(const struct mapped_file *map, const char *text) {
    return memmem(map->data, map->size, text, strlen(text));
}

static void test_diagram(void) {
    const struct calibration c = example();
    const char *path = temporary("diagram.svg");
    struct mapped_file map;
    fault f;
    CHECK(calibration_draw(&c, path, &f) && file_map(&map, path, &f));
    CHECK(holds(&map, "<title id=\"title\">Reliability diagram"));
    CHECK(holds(&map, "confidence 0.867 to 0.933: 3 answers, accuracy 0.6667, mean confidence 0.9000"));
    CHECK(holds(&map, ">7 answers, accuracy 0.5714, ECE 0.3381<"));
    CHECK(holds(&map, "</svg>\n"));
    file_unmap(&map);
    const struct calibration none = {0};
    CHECK(calibration_draw(&none, path, &f) && file_map(&map, path, &f));
    CHECK(!holds(&map, "nan") && holds(&map, ">0 answers, accuracy 0.0000, ECE 0.0000<"));
    file_unmap(&map);
    REFUSED(calibration_draw(&c, temporary("nowhere/diagram.svg"), &f), &f, FAULT_INPUT, "nowhere", "No such file");
}

int main(void) {
    test_confidence();
    test_error();
    test_edges();
    test_diagram();
    return check_end();
}
