#include "selection.h"

#include <string.h>

bool selection_metric_parse(enum selection_metric *metric, const char *text, fault *f) {
    *metric = strcmp(text, "accuracy") == 0 ? SELECTION_ACCURACY : SELECTION_LOSS;
    return *metric == SELECTION_ACCURACY || strcmp(text, "loss") == 0 ||
           fault_set(f, FAULT_INPUT, "lodrop-train", "--metric-for-best-model", "'%s' is not loss or accuracy", text);
}

bool selection_look(struct selection *s, const struct selection_rule *rule, const struct step_metrics *m) {
    if (m->eval_loss < 0) {
        return false;
    }
    bool by_loss = rule->metric == SELECTION_LOSS;
    double value = by_loss ? m->eval_loss : m->eval_accuracy, gain = by_loss ? s->value - value : value - s->value;
    bool first = s->step == 0, better = first || gain > 0;
    s->in_vain = first || gain > rule->threshold ? 0 : s->in_vain + 1;
    if (better) {
        s->step = m->step;
        s->value = value;
    }
    return better;
}

bool selection_stops(const struct selection *s, const struct selection_rule *rule) {
    return rule->patience && s->in_vain >= rule->patience;
}
