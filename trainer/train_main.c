// lodrop-train: fine-tunes a model with LoRA.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sweep.h"
#include "train.h"

enum { STATUS_INTERRUPTED = 130 };

static bool print_config(const struct train_options *o, const char *checkpoint, fault *f) {
    struct adapter_config config;
    struct adapter_recipe recipe;
    const char *from = *checkpoint ? checkpoint : o->adapter;
    if (!training_check(o, from, f) || !train_options_adapter(&config, &recipe, o, from, f)) {
        return false;
    }
    json_t *object = train_options_json(o, &config, &recipe);
    if (!object) {
        return fault_memory(f, "the configuration");
    }
    json_dumpf(object, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
    json_decref(object);
    putchar('\n');
    return file_flush_output(f);
}

// What an adapter's files cannot tell other programs.
static void print_scaled(struct training *t) {
    const struct dropouts *d = &t->recipe.dropouts;
    for (size_t i = 0; i < d->count; i++) {
        char text[DROPOUT_TEXT];
        dropout_print(text, &d->list[i]);
        if (d->list[i].compensation == DROPOUT_INFERENCE && d->list[i].p > 0) {
            report_line(&t->report, "%s: lodrop-eval scales by it, other programs that read the adapter do not", text);
        }
    }
}

static void print_unapplied(struct training *t, const char *field, double rate) {
    if (rate > 0) {
        report_line(&t->report, "the model's own %s of %g is not applied: --model-dropout config does", field, rate);
    }
}

static void print_as_text(struct training *t, const struct dataset *d, const char *file) {
    if (d->as_text && d->kind == DATASET_STREAM) {
        report_line(&t->report, "%s holds %s, which is tokenised as text and not as that token", file, d->special);
    } else if (d->as_text) {
        report_line(&t->report, "%s: %zu examples hold %s, which is tokenised as text and not as that token", file,
                    d->as_text, d->special);
    }
}

static void print_start(struct training *t) {
    const struct dataset *d = &t->data;
    report_line(&t->report, "%zu examples, %zu tokens, %zu targets%s", d->count, d->tokens, d->targets,
                t->step ? ", going on from a checkpoint" : "");
    if (d->cut) {
        report_line(&t->report, "%zu examples were longer than --max-length %lld and lost tokens", d->cut,
                    (long long)t->options->max_length);
    }
    print_as_text(t, d, t->options->data);
    print_as_text(t, &t->held_out, t->options->eval_data);
    if (strcmp(t->options->model_dropout, "off") == 0) {
        print_unapplied(t, "attention_dropout", t->model.config.attention_dropout);
        print_unapplied(t, "hidden_dropout_prob", t->model.config.hidden_dropout);
    }
    print_scaled(t);
    report_line(&t->report, "%zu trainable parameters in %zu adapters, %llu steps", t->lora.parameters, t->lora.count,
                (unsigned long long)t->schedule.total);
    if (t->lora.instances > 1) {
        report_line(&t->report, "%zu instances of each example, %zu at a time", t->lora.instances, t->together);
    }
    if (getenv("LODROP_VERBOSE")) {
        char plan[160];
        llama_describe(t->llama, plan, sizeof plan);
        report_line(&t->report, "%.1f MiB for activations; plan of the widest layer: %s",
                    (double)llama_bytes(t->llama) / 1048576, plan);
    }
}

static void print_end(struct training *t, enum training_end end) {
    const char *output = t->options->output;
    if (end != TRAINING_DONE) {
        report_line(&t->report, "%s after step %llu: go on with lodrop-train --output %s --resume",
                    end == TRAINING_STOPPED ? "stopped" : "interrupted", (unsigned long long)t->step, output);
        return;
    }
    if (t->step < t->schedule.total) {
        report_line(&t->report, "stopped early after step %llu: %llu evaluations in a row were no better",
                    (unsigned long long)t->step, (unsigned long long)t->best.in_vain);
    }
    if (t->best_value) {
        report_line(&t->report, "the adapter is that of step %llu, the best held-out %s",
                    (unsigned long long)t->adapter_step, t->options->metric_for_best_model);
    }
    report_line(&t->report, "training loss %.5f (last epoch)",
                history_recent_loss(&t->history, (size_t)t->steps_per_epoch));
    if (t->held_out.count) {
        report_line(&t->report, "held-out loss %.5f, perplexity %.4f", t->evaluated.loss, t->evaluated.perplexity);
    }
    if (t->evaluated.has_answers) {
        report_line(&t->report, "held-out accuracy %.4f, expected calibration error %.4f",
                    calibration_accuracy(&t->evaluated.answers), calibration_error(&t->evaluated.answers));
    }
    report_line(&t->report, "adapter, summary.json and curves.svg are in %s", output);
}

static void run(struct train_options *options, const char *checkpoint, struct sweep_outcome *outcome) {
    static struct training t;
    enum training_end end = TRAINING_DONE;
    t.options = options;
    outcome->loaded = training_load(&t, checkpoint, &outcome->fault);
    if (outcome->loaded) {
        print_start(&t);
        outcome->done = training_run(&t, &end, &outcome->fault);
    }
    if (outcome->done) {
        print_end(&t, end);
    }
    outcome->interrupted = end == TRAINING_INTERRUPTED;
    training_free(&t);
}

static int fail(const fault *f) {
    fprintf(stderr, "%s\n", f->text);
    return f->status;
}

int main(int argc, char **argv) {
    static struct train_options options;
    static struct sweep_outcome outcome;
    char checkpoint[FILE_PATH_MAX];
    fault *f = &outcome.fault;
    if (!train_options_read(&options, checkpoint, argc, argv, f)) {
        return fail(f);
    }
    if (options.print_config) {
        return print_config(&options, checkpoint, f) ? 0 : fail(f);
    }
    if (*options.sweep) {
        outcome.done = sweep_run(&options, run, &outcome.interrupted, f);
    } else {
        run(&options, checkpoint, &outcome);
    }
    return !outcome.done ? fail(f) : outcome.interrupted ? STATUS_INTERRUPTED : 0;
}
