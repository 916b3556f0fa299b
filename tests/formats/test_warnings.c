// warnings.h: every rule at its edge, and nothing told twice.
#include "../../trainer/warnings.h"

#include <string.h>

#include "expect.h"

enum { MOST = 128 };

struct run {
    struct step_metrics steps[MOST];
    size_t count;
    struct warnings warnings;
};

// Returns what is told after the step.
static unsigned add(struct run *r, double loss, double norm, double eval_loss) {
    r->steps[r->count] =
        (struct step_metrics){.step = r->count + 1, .loss = loss, .grad_norm = norm, .eval_loss = eval_loss};
    r->count++;
    return warnings_look(&r->warnings, &(struct history){.list = r->steps, .count = r->count});
}

static size_t told(const struct run *r) {
    size_t count = 0;
    for (size_t i = 0; i < WARNING_CAUSES; i++) {
        count += r->warnings.list[i].step > 0;
    }
    return count;
}

static bool says(const struct run *r, enum warning_cause cause, const char *words) {
    return strstr(r->warnings.list[cause].text, words);
}

// --- Overfitting ---

// Evaluations after every second step, both with the same training loss. Returns what the last one tells.
static unsigned evaluate(struct run *r, const double (*values)[2], size_t count) {
    unsigned last = 0;
    *r = (struct run){0};
    for (size_t i = 0; i < count; i++) {
        CHECK(add(r, values[i][0], 1, -1) == 0);
        last = add(r, values[i][0], 1, values[i][1]);
        CHECK(last == 0 || i + 1 == count);
    }
    return last;
}

static void test_overfitting(void) {
    static const unsigned bit = 1U << WARNING_OVERFITTING;
    static const double overfits[][2] = {{4, 3}, {3, 2}, {2.5, 2.5}, {2.25, 2.25}}; // training, held out
    static const double soon[][2] = {{4, 2}, {3, 2.25}, {2.5, 2.125}};
    static const double back[][2] = {{4, 2}, {5, 2.5}, {5, 2.5}, {3, 2.25}};
    static const double once[][2] = {{4, 3}, {3, 2}, {2.5, 2.25}, {2.25, 2}, {2, 2.5}};
    static const double underfits[][2] = {{4, 3}, {3, 2}, {2.5, 2.25}, {3, 2.5}};
    struct run r;
    CHECK(evaluate(&r, overfits, 4) == bit && r.warnings.list[WARNING_OVERFITTING].step == 8);
    CHECK(says(&r, WARNING_OVERFITTING, "step 8: held-out loss was 2.0000 after step 4 and is 2.2500, while training "
                                        "loss fell from 3.0000 to 2.2500"));
    CHECK(add(&r, 1, 1, 3) == 0 && add(&r, 0.5, 1, 4) == 0 && told(&r) == 1);
    CHECK(r.warnings.list[WARNING_OVERFITTING].step == 8);
    CHECK(evaluate(&r, soon, 3) == bit && says(&r, WARNING_OVERFITTING, "was 2.0000 after step 2 and is 2.1250"));
    CHECK(evaluate(&r, back, 4) == bit && says(&r, WARNING_OVERFITTING, "was 2.0000 after step 2 and is 2.2500"));
    CHECK(evaluate(&r, once, 5) == 0 && told(&r) == 0);
    CHECK(evaluate(&r, underfits, 4) == 0 && told(&r) == 0);
}

// --- The gradient ---

static void test_gradient(void) {
    static const unsigned bit = 1U << WARNING_GRADIENT;
    struct run r = {0};
    for (size_t i = 0; i < 20; i++) {
        CHECK(add(&r, 3, i < 10 ? 1 : 3, -1) == 0); // their median is 2
    }
    struct run early = r;
    early.count = 19;
    CHECK(add(&early, 3, 1000, -1) == 0); // as the 20th step
    struct run edge = r;
    CHECK(add(&edge, 3, 20, -1) == 0);
    CHECK(add(&r, 3, 20.5, -1) == bit && says(&r, WARNING_GRADIENT, "step 21: the gradient's norm is 20.5, 10 times"));
    CHECK(add(&r, 3, 1e9, -1) == 0 && told(&r) == 1);
    struct run still = {0};
    for (size_t i = 0; i < 60; i++) {
        CHECK(add(&still, 3, i < 40 ? 0 : 1, -1) == 0); // after norms of 0 any other is infinitely larger
    }
}

// --- Starved ---

// All steps with loss 4 but the last 20, at `loss`. Returns what is told at the last.
static unsigned starve(struct run *r, double rate, size_t epoch, size_t steps, double loss) {
    unsigned last = 0;
    *r = (struct run){.warnings = {.highest_rate = rate, .steps_per_epoch = epoch}};
    for (size_t i = 0; i < steps; i++) {
        CHECK(last == 0);
        last = add(r, i + 20 < steps ? 4 : loss, 1, -1);
    }
    return last;
}

static void test_starved(void) {
    static const unsigned bit = 1U << WARNING_STARVED;
    struct run r;
    CHECK(starve(&r, 0.5, 5, 40, 4) == bit);
    CHECK(says(&r, WARNING_STARVED, "from 4.0000 to 4.0000, with a dropout of rate 0.5"));
    CHECK(add(&r, 5, 1, -1) == 0 && told(&r) == 1);
    CHECK(starve(&r, 0.9, 50, 50, 3.97) == bit && r.warnings.list[WARNING_STARVED].step == 50);
    CHECK(starve(&r, 0.9, 50, 49, 4) == 0);
    CHECK(starve(&r, 0.9, 5, 39, 4) == 0);
    CHECK(starve(&r, 0.9, 50, 50, 3.95) == 0);
    CHECK(starve(&r, 0.49, 5, 40, 5) == 0);
}

// --- As JSON ---

static void test_json(void) {
    struct run r;
    starve(&r, 0.5, 5, 40, 4);
    json_t *array = warnings_json(&r.warnings);
    const char *cause = "", *text = "";
    json_int_t step = 0;
    CHECK(json_array_size(array) == 1);
    json_t *first = json_array_get(array, 0);
    CHECK(json_unpack(first, "{s:s, s:I, s:s !}", "cause", &cause, "step", &step, "text", &text) == 0);
    CHECK(strcmp(cause, "starved") == 0 && step == 40 && strncmp(text, "step 40: training loss", 22) == 0);
    json_decref(array);
    array = warnings_json(&(struct warnings){0});
    CHECK(json_is_array(array) && json_array_size(array) == 0);
    json_decref(array);
}

int main(void) {
    test_overfitting();
    test_gradient();
    test_starved();
    test_json();
    return check_end();
}
