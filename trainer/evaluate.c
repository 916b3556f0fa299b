#include "evaluate.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "batch.h"
#include "choices.h"
#include "number.h"

enum { TOKENS = 2048 }; // of a batch, or as many as the longest example has

static size_t longest_example(const struct dataset *data) {
    size_t longest = 1;
    for (size_t i = 0; i < data->count; i++) {
        size_t tokens = batch_example_tokens(&data->examples[i]);
        longest = tokens > longest ? tokens : longest;
    }
    return longest;
}

// Fills the batch from example `first` on, at least one; returns how many it took.
static size_t fill(struct batch *b, const struct dataset *data, size_t first, size_t capacity) {
    batch_clear(b);
    size_t taken = 0;
    while (first + taken < data->count) {
        const struct example *e = &data->examples[first + taken];
        if (batch_tokens(b) + batch_example_tokens(e) > capacity) {
            break;
        }
        batch_example(b, e, 0);
        taken++;
    }
    return taken;
}

static bool sum_losses(double *sum, size_t *targets, struct llama *l, struct batch *b, const struct dataset *data,
                       size_t capacity, float *loss, fault *f) {
    for (size_t at = 0; at < data->count;) {
        at += fill(b, data, at, capacity);
        if (!llama_forward(l, &b->view, f) || !llama_loss(l, &b->view, &(struct llama_losses){.loss = loss}, f)) {
            return false;
        }
        for (size_t i = 0; i < b->view.targets; i++) {
            *sum += loss[i];
        }
        *targets += b->view.targets;
    }
    return true;
}

struct llama_limits evaluation_limits(const struct evaluation_manner *manner, size_t tokens, size_t length) {
    return (struct llama_limits){.mode = manner->ensemble ? LLAMA_ENSEMBLE : LLAMA_FORWARD,
                                 .mean = manner->mean,
                                 .tokens = tokens,
                                 .targets = tokens,
                                 .length = length,
                                 .threads = manner->threads};
}

static bool evaluate_sequences(double *sum, size_t *targets, const struct model *model, const struct lora *lora,
                               const struct dataset *data, const struct evaluation_manner *manner, fault *f) {
    size_t longest = longest_example(data), capacity = longest > TOKENS ? longest : TOKENS;
    struct llama_limits limits = evaluation_limits(manner, capacity, longest);
    struct llama *l = NULL;
    struct batch b = {0};
    float *loss = malloc(capacity * sizeof *loss);
    bool done = (loss || fault_memory(f, "the losses")) && batch_make(&b, capacity, capacity, f) &&
                llama_open(&l, model, lora, &limits, f) && sum_losses(sum, targets, l, &b, data, capacity, loss, f);
    llama_close(l);
    batch_free(&b);
    free(loss);
    return done;
}

bool evaluate(struct evaluation *result, enum evaluation_extent extent, const struct model *model,
              const struct lora *lora, const struct dataset *data, const struct evaluation_manner *manner, fault *f) {
    bool choices = extent == EVALUATE_ALL && data->kind == DATASET_CHOICE;
    *result = (struct evaluation){.examples = data->count, .has_answers = choices};
    double sum = 0;
    if (choices) {
        struct choices_result scored;
        if (!choices_score(&scored, model, lora, data, manner, f)) {
            return false;
        }
        sum = scored.sum;
        result->targets = scored.targets;
        result->answers = scored.answers;
    } else if (!evaluate_sequences(&sum, &result->targets, model, lora, data, manner, f)) {
        return false;
    }
    result->loss = sum / (double)result->targets;
    result->perplexity = number_exp(result->loss);
    if (!isfinite(result->loss) || !isfinite(result->perplexity)) {
        return fault_set(f, FAULT_INPUT, "evaluation", "loss", "is %g: the model or the adapter has diverged",
                         result->loss);
    }
    return true;
}

json_t *evaluation_json(const struct evaluation *e) {
    json_t *metrics = json_object();
    if (e->has_answers) {
        json_object_set_new(metrics, "accuracy", json_real(calibration_accuracy(&e->answers)));
        json_object_set_new(metrics, "ece", json_real(calibration_error(&e->answers)));
    }
    return json_pack("{s:f, s:f, s:I, s:o}", "loss", e->loss, "perplexity", e->perplexity, "targets",
                     (json_int_t)e->targets, "metrics", metrics);
}

static bool all_logits(struct tensor_source *tensors, char (*names)[32], struct llama *l, struct batch *b,
                       const struct dataset *data, size_t vocabulary, fault *f) {
    for (size_t i = 0; i < data->count; i++) {
        batch_clear(b);
        batch_example(b, &data->examples[i], 0);
        size_t tokens = batch_tokens(b);
        float *logits = malloc(tokens * vocabulary * sizeof *logits);
        snprintf(names[i], sizeof names[i], "example.%zu", i);
        tensors[i] = (struct tensor_source){.name = names[i], .ndim = 2, .shape = {tokens, vocabulary}, .data = logits};
        b->view.targets = 0;
        for (size_t t = 0; t < tokens; t++) {
            batch_target(b, t, 0);
        }
        if (!logits) {
            return fault_memory(f, "the logits");
        }
        if (!llama_forward(l, &b->view, f) || !llama_logits(l, tokens, b->row, logits, f)) {
            return false;
        }
    }
    return true;
}

bool evaluate_dump_logits(const char *path, const struct model *model, const struct lora *lora,
                          const struct dataset *data, const struct evaluation_manner *manner, fault *f) {
    size_t longest = longest_example(data);
    struct llama_limits limits = evaluation_limits(manner, longest, longest);
    struct llama *l = NULL;
    struct batch b = {0};
    struct tensor_source *tensors = calloc(data->count, sizeof *tensors);
    char(*names)[32] = calloc(data->count, sizeof *names);
    bool done = ((tensors && names) || fault_memory(f, "the logits")) && batch_make(&b, longest, 1, f) &&
                llama_open(&l, model, lora, &limits, f) &&
                all_logits(tensors, names, l, &b, data, model->config.vocab_size, f) &&
                safetensors_write(path, tensors, data->count, f);
    for (size_t i = 0; tensors && i < data->count; i++) {
        free((void *)tensors[i].data);
    }
    free(tensors);
    free(names);
    llama_close(l);
    batch_free(&b);
    return done;
}
