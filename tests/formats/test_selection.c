// selection.h: the best evaluation, and after how many that are no better a run stops.
#include "../../trainer/selection.h"

#include "expect.h"

enum { MOST = 8 };

// Steps 10, 20, ... are evaluated, all others are not. Returns after how many evaluations the run would stop, 0: never.
static size_t look(struct selection *s, const struct selection_rule *rule, const double *values, size_t count) {
    size_t stopped = 0;
    *s = (struct selection){0};
    for (size_t i = 0; i < count; i++) {
        const struct step_metrics quiet = {.step = 10 * i + 5, .eval_loss = -1, .eval_accuracy = -1};
        const struct step_metrics m = {.step = 10 * (i + 1),
                                       .eval_loss = rule->metric == SELECTION_LOSS ? values[i] : 1,
                                       .eval_accuracy = rule->metric == SELECTION_ACCURACY ? values[i] : -1};
        double before = s->value;
        CHECK(!selection_look(s, rule, &quiet));
        bool best = selection_look(s, rule, &m);
        CHECK(best == (s->step == m.step) && (best || s->value == before));
        stopped = !stopped && selection_stops(s, rule) ? i + 1 : stopped;
    }
    return stopped;
}

static void test_best(void) {
    static const double loss[] = {3, 2, 2.5, 1.5, 1.5, 1.75}, accuracy[] = {0, 0.5, 0.25, 0.5, 0.75, 0.75};
    struct selection s;
    CHECK(look(&s, &(struct selection_rule){.metric = SELECTION_LOSS}, loss, 6) == 0);
    CHECK(s.step == 40 && s.value == 1.5);
    CHECK(look(&s, &(struct selection_rule){.metric = SELECTION_ACCURACY}, accuracy, 6) == 0);
    CHECK(s.step == 50 && s.value == 0.75);
    CHECK(look(&s, &(struct selection_rule){.metric = SELECTION_ACCURACY}, accuracy, 1) == 0);
    CHECK(s.step == 10 && s.value == 0);
}

static void test_patience(void) {
    static const double loss[] = {3, 3.5, 2, 2.5, 2.25, 1, 1.5, 1.25};
    static const size_t stops[] = {0, 2, 5, 0}; // by patience
    struct selection s;
    for (size_t patience = 0; patience < sizeof stops / sizeof *stops; patience++) {
        CHECK(look(&s, &(struct selection_rule){.patience = patience}, loss, MOST) == stops[patience]);
    }
}

// A gain of the threshold itself is too small; the best moves on with small gains, too.
static void test_threshold(void) {
    static const double loss[] = {3, 2.75, 2.5, 2.25, 1.5, 1};
    struct selection s;
    CHECK(look(&s, &(struct selection_rule){.patience = 3, .threshold = 0.25}, loss, 4) == 4);
    CHECK(s.step == 40 && s.value == 2.25 && s.in_vain == 3);
    CHECK(look(&s, &(struct selection_rule){.patience = 4, .threshold = 0.25}, loss, 6) == 0);
    CHECK(look(&s, &(struct selection_rule){.patience = 3, .threshold = 0.125}, loss, 6) == 0);
    static const double accuracy[] = {0.25, 0.5, 0.75, 1};
    CHECK(look(&s, &(struct selection_rule){.metric = SELECTION_ACCURACY, .patience = 2, .threshold = 0.25}, accuracy,
               4) == 3);
}

static void test_names(void) {
    enum selection_metric metric;
    fault f;
    CHECK(selection_metric_parse(&metric, "accuracy", &f) && metric == SELECTION_ACCURACY);
    CHECK(selection_metric_parse(&metric, "loss", &f) && metric == SELECTION_LOSS);
    REFUSED(selection_metric_parse(&metric, "f1", &f), &f, FAULT_INPUT, "--metric-for-best-model", "'f1'");
}

int main(void) {
    test_best();
    test_patience();
    test_threshold();
    test_names();
    return check_end();
}
