#include "train.h"

#include <math.h>
#include <signal.h>
#include <string.h>

#include "library.h"

static const double BETA1 = 0.9, BETA2 = 0.999, EPSILON = 1e-8;

// --- A step ---

// The examples that a step visits: places first .. end-1 of the epoch's order.
struct visit {
    size_t first, end;
    uint64_t draw; // running number of the first visit
    size_t tokens, targets;
};

static uint64_t first_draw(const struct training *t, uint64_t step) {
    uint64_t per_step = (uint64_t)(t->options->batch_size * t->options->grad_accum);
    return step / t->steps_per_epoch * t->data.count + step % t->steps_per_epoch * per_step;
}

// The order of its epoch must stand.
static struct visit visit_of(const struct training *t, uint64_t step) {
    size_t count = t->data.count, per_step = (size_t)(t->options->batch_size * t->options->grad_accum);
    struct visit v = {.first = (size_t)(step % t->steps_per_epoch) * per_step};
    v.end = v.first + per_step < count ? v.first + per_step : count;
    v.draw = first_draw(t, step);
    for (size_t i = v.first; i < v.end; i++) {
        const struct example *e = &t->data.examples[t->order[i]];
        v.tokens += e->count;
        v.targets += e->count - e->first_target;
    }
    return v;
}

// Over targets, in their order, and then over instances.
struct sums {
    double loss[ADAPTER_MAX_INSTANCES], divergence;
};

// Of the examples of a batch as they follow each other for some instances, from `instance` on. The loss of R-Drop is
// the mean of its branches'.
static void add_losses(struct sums *sums, const struct training *t, const struct llama_batch *b, size_t instance) {
    const struct llama_losses *l = &t->losses;
    enum consistency_kind kind = t->recipe.consistency.kind;
    size_t targets = t->batch.view.targets;
    for (size_t i = 0; i < b->targets; i++) {
        sums->loss[instance + i / targets] += kind == CONSISTENCY_R_DROP ? ((double)l->loss[i] + l->loss2[i]) / 2
                                                                         : l->loss[i];
        sums->divergence += kind != CONSISTENCY_NONE ? l->divergence[i] : 0;
    }
}

// The examples at places first .. end-1 of the order, for each of some instances.
static const struct llama_batch *fill(struct training *t, struct batch *b, const struct visit *v, size_t first,
                                      size_t end, size_t instance, size_t instances) {
    bool pairs = t->recipe.consistency.kind == CONSISTENCY_R_DROP;
    batch_clear(b);
    for (size_t k = instance; k < instance + instances; k++) {
        for (size_t i = first; i < end; i++) {
            const struct example *e = &t->data.examples[t->order[i]];
            uint32_t draw = (uint32_t)(v->draw + (i - v->first));
            pairs ? batch_pair(b, e, draw) : batch_instance(b, e, draw, (unsigned)k);
        }
    }
    b->view.step = (uint32_t)t->step;
    return &b->view;
}

static bool lose_and_learn(struct training *t, const struct llama_batch *b, struct sums *sums, size_t instance,
                           fault *f) {
    if (!llama_loss(t->llama, b, &t->losses, f)) {
        return false;
    }
    add_losses(sums, t, b, instance);
    return llama_backward(t->llama, b, f);
}

// All instances of the examples, some at a time, on what they share.
static bool pass_instances(struct training *t, const struct visit *v, size_t first, size_t end, struct sums *sums,
                           fault *f) {
    size_t count = t->lora.instances;
    for (size_t k = 0; k < count; k += t->together) {
        size_t some = k + t->together < count ? t->together : count - k;
        const struct llama_batch *b = fill(t, &t->stacked, v, first, end, k, some);
        if (!llama_fork(t->llama, b, f) || !lose_and_learn(t, b, sums, k, f)) {
            return false;
        }
    }
    return llama_join(t->llama, &t->batch.view, f);
}

// Losses and gradients of the step, micro-batch by micro-batch.
static bool pass(struct training *t, const struct visit *v, struct sums *sums, fault *f) {
    size_t size = (size_t)t->options->batch_size;
    *sums = (struct sums){.divergence = 0};
    for (size_t first = v->first; first < v->end; first += size) {
        size_t end = first + size < v->end ? first + size : v->end;
        const struct llama_batch *b = fill(t, &t->batch, v, first, end, 0, 1);
        if (!llama_forward(t->llama, b, f) ||
            !(t->lora.instances > 1 ? pass_instances(t, v, first, end, sums, f)
                                    : lose_and_learn(t, b, sums, 0, f))) {
            return false;
        }
    }
    return true;
}

static void clip(struct lora *l, double norm, double most) {
    float factor = (float)(most / (norm + 1e-6));
    for (size_t i = 0; most > 0 && factor < 1 && i < l->parameters; i++) {
        l->gradient[i] *= factor;
    }
}

static bool update(struct training *t, const lod_plan *plan, double rate, fault *f) {
    struct lora *l = &t->lora;
    lod_adamw_args args = {.count = l->parameters,
                           .w = l->value,
                           .g = l->gradient,
                           .m = l->moment1,
                           .v = l->moment2,
                           .learning_rate = rate,
                           .beta1 = BETA1,
                           .beta2 = BETA2,
                           .eps = EPSILON,
                           .weight_decay = t->options->weight_decay,
                           .step = t->step + 1};
    lod_error err;
    bool done = library_done(lod_adamw(plan, &args, &err), &err, f);
    lora_refresh(l);
    return done;
}

static bool step(struct training *t, const lod_plan *plan, struct step_metrics *m, const struct visit *v, fault *f) {
    struct sums sums;
    if (!pass(t, v, &sums, f)) {
        return false;
    }
    double loss = 0, terms = (double)v->targets * (double)t->lora.instances;
    for (size_t k = 0; k < t->lora.instances; k++) {
        loss += sums.loss[k];
    }
    *m = (struct step_metrics){.step = t->step + 1,
                               .loss = loss / terms,
                               .has_divergence = t->recipe.consistency.kind != CONSISTENCY_NONE,
                               .divergence = sums.divergence / (double)v->targets,
                               .has_orthogonality = t->lora.diagonal,
                               .learning_rate = schedule_rate(&t->schedule, t->step),
                               .eval_loss = -1,
                               .eval_accuracy = -1,
                               .eval_ece = -1};
    m->grad_norm = lora_finish_gradient(&t->lora, 1 / terms, &m->orthogonality);
    if (*t->options->dump_gradients && t->step == 0 &&
        !lora_write_gradient(&t->lora, t->options->dump_gradients, m->loss, f)) {
        return false;
    }
    if (!isfinite(m->loss) || !isfinite(m->grad_norm)) {
        return fault_set(f, FAULT_INPUT, "lodrop-train", "--learning-rate",
                         "step %llu: loss %g, gradient norm %g: the run has diverged; try a lower one",
                         (unsigned long long)m->step, m->loss, m->grad_norm);
    }
    clip(&t->lora, m->grad_norm, t->options->max_grad_norm);
    return update(t, plan, m->learning_rate, f);
}

// --- What follows a step ---

static bool save(struct training *t, fault *f) {
    struct checkpoint c = {.step = t->step,
                           .draw = first_draw(t, t->step),
                           .data = t->of_data,
                           .held_out = t->of_held_out,
                           .model = t->of_model};
    struct checkpoint_parts parts = {.options = t->options,
                                     .config = &t->config,
                                     .recipe = &t->recipe,
                                     .lora = &t->lora,
                                     .history = &t->history,
                                     .best = t->best.step ? t->best_value : NULL};
    return checkpoint_save(t->options->output, &c, &parts, f);
}

static bool evaluate_now(struct training *t, enum evaluation_extent extent, uint64_t step, fault *f) {
    t->evaluated_step = step;
    const struct evaluation_manner manner = {.threads = (unsigned)t->options->threads};
    return evaluate(&t->evaluated, extent, &t->model, &t->lora, &t->held_out, &manner, f);
}

static void tell_evaluation(struct training *t, const struct step_metrics *m) {
    char accuracy[48] = "";
    if (m->eval_accuracy >= 0) {
        snprintf(accuracy, sizeof accuracy, ", accuracy %.4f", m->eval_accuracy);
    }
    report_line(&t->report, "step %llu: held-out loss %.5f%s", (unsigned long long)m->step, m->eval_loss, accuracy);
}

static bool evaluate_held_out(struct training *t, struct step_metrics *m, fault *f) {
    uint64_t every = t->options->eval_steps ? (uint64_t)t->options->eval_steps : t->steps_per_epoch;
    bool last = t->step == t->schedule.total;
    if (!t->held_out.count || (t->step % every != 0 && !last)) {
        return true;
    }
    bool whole = last || t->rule.metric == SELECTION_ACCURACY;
    if (!evaluate_now(t, whole ? EVALUATE_ALL : EVALUATE_LOSS, t->step, f)) {
        return false;
    }
    m->eval_loss = t->evaluated.loss;
    if (t->evaluated.has_answers) {
        m->eval_accuracy = calibration_accuracy(&t->evaluated.answers);
        m->eval_ece = calibration_error(&t->evaluated.answers);
    }
    if (!last) {
        tell_evaluation(t, m);
    }
    if (selection_look(&t->best, &t->rule, m) && t->best_value) {
        memcpy(t->best_value, t->lora.value, t->lora.parameters * sizeof *t->best_value);
    }
    return true;
}

static bool one_step(struct training *t, const lod_plan *plan, fault *f) {
    double start = report_clock();
    if ((t->step % t->steps_per_epoch == 0 || t->step == t->report.first_step) &&
        !shuffle_epoch(t->order, (uint32_t)t->data.count, (uint64_t)t->options->seed,
                       (uint32_t)(t->step / t->steps_per_epoch), f)) {
        return false;
    }
    struct step_metrics m;
    struct visit v = visit_of(t, t->step);
    if (!step(t, plan, &m, &v, f)) {
        return false;
    }
    double seconds = report_clock() - start;
    m.tokens_per_second = (double)v.tokens / seconds;
    t->step++;
    return evaluate_held_out(t, &m, f) && history_add(&t->history, &m, f) &&
           report_step(&t->report, &t->history, v.tokens, seconds, f);
}

// --- The loop ---

static volatile sig_atomic_t interrupted;

static void on_signal(int number) {
    (void)number;
    interrupted = 1;
}

// The first signal asks for a checkpoint; a second one kills as ever.
static void catch_signals(void) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)(SA_RESETHAND | SA_RESTART)};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

static bool has_ended(const struct training *t) {
    return t->step == t->schedule.total || selection_stops(&t->best, &t->rule);
}

// The best adapter so far is not to be lost, whatever comes.
static bool checkpoint_due(const struct training *t) {
    uint64_t every = (uint64_t)t->options->save_steps;
    return (every && t->step % every == 0) || (t->best_value && t->best.step == t->step);
}

static bool loop(struct training *t, const lod_plan *plan, enum training_end *end, fault *f) {
    uint64_t stop = t->options->stop_after ? (uint64_t)t->options->stop_after : t->schedule.total;
    *end = !has_ended(t) && t->step >= stop ? TRAINING_STOPPED : TRAINING_DONE; // the checkpoint it came from stands
    while (!has_ended(t) && *end == TRAINING_DONE) {
        if (!one_step(t, plan, f)) {
            return false;
        }
        if (has_ended(t)) {
            break;
        }
        *end = interrupted ? TRAINING_INTERRUPTED : t->step >= stop ? TRAINING_STOPPED : TRAINING_DONE;
        if ((*end != TRAINING_DONE || checkpoint_due(t)) && !save(t, f)) {
            return false;
        }
    }
    return true;
}

// Chooses the adapter that is left, and sees to it that the last evaluation is a whole one of it.
static bool settle(struct training *t, fault *f) {
    t->adapter_step = t->step;
    if (t->best_value && t->best.step) {
        t->adapter_step = t->best.step;
        memcpy(t->lora.value, t->best_value, t->lora.parameters * sizeof *t->best_value);
        lora_refresh(&t->lora);
    }
    bool whole = t->held_out.kind != DATASET_CHOICE || t->evaluated.has_answers;
    return !t->held_out.count || (t->evaluated_step == t->adapter_step && whole) ||
           evaluate_now(t, EVALUATE_ALL, t->adapter_step, f);
}

static bool draw(const struct training *t, fault *f) {
    const char *output = t->options->output;
    char path[FILE_PATH_MAX];
    return file_path(path, output, "curves.svg", f) && history_draw(&t->history, path, f) &&
           (!t->evaluated.has_answers || (file_path(path, output, "reliability.svg", f) &&
                                          calibration_draw(&t->evaluated.answers, path, f)));
}

static bool finish(struct training *t, fault *f) {
    const char *output = t->options->output;
    char plan[160];
    if (!settle(t, f)) {
        return false;
    }
    llama_describe(t->llama, plan, sizeof plan);
    unsigned threads = (unsigned)t->options->threads;
    struct summary s = {.steps = t->step,
                        .train_loss = history_recent_loss(&t->history, (size_t)t->steps_per_epoch),
                        .eval = t->held_out.count ? &t->evaluated : NULL,
                        .best = t->held_out.count ? &t->best : NULL,
                        .metric = t->options->metric_for_best_model,
                        .adapter_step = t->adapter_step,
                        .stopped_early = t->step < t->schedule.total,
                        .seed = (uint64_t)t->options->seed,
                        .threads = threads ? threads : lod_default_threads(),
                        .plan = plan,
                        .trainable_parameters = t->lora.parameters};
    return lora_write(&t->lora, output, &t->config, &t->recipe, f) && draw(t, f) &&
           report_summary(&t->report, output, &s, f) && checkpoint_remove(output, f);
}

static double highest_rate(const struct dropouts *d) {
    double highest = 0;
    for (size_t i = 0; i < d->count; i++) {
        highest = fmax(highest, d->list[i].p);
    }
    return highest;
}

bool training_run(struct training *t, enum training_end *end, fault *f) {
    const char *output = t->options->output;
    lod_plan *plan = NULL;
    lod_error err;
    catch_signals();
    t->report.warnings.steps_per_epoch = t->steps_per_epoch;
    t->report.warnings.highest_rate = highest_rate(&t->recipe.dropouts);
    bool done = file_make_folders(output, f) && report_open(&t->report, output, &t->history, t->schedule.total, f) &&
                library_done(lod_plan_rowwise((unsigned)t->options->threads, &plan, &err), &err, f) &&
                loop(t, plan, end, f) && (*end != TRAINING_DONE || finish(t, f));
    lod_plan_free(plan);
    return done;
}
