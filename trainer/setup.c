// The first half of train.h: from options to a training that is ready to run.
#include <stdlib.h>
#include <string.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "config.h"
#include "file.h"
#include "fingerprint.h"
#include "train.h"
#include "wisdom.h"

// --- Data ---

static bool read_tokens(struct training *t, const struct tokenizer *tokenizer, fault *f) {
    const struct train_options *o = t->options;
    const uint32_t vocabulary = t->model.config.vocab_size;
    const struct dataset_options limits = {.max_length = (size_t)o->max_length, .vocab_size = vocabulary};
    return tokenizer_fits(tokenizer, vocabulary, f) && dataset_read(&t->data, o->data, tokenizer, &limits, f) &&
           (!*o->eval_data || dataset_read(&t->held_out, o->eval_data, tokenizer, &limits, f));
}

// The tokenizer takes about 200 bytes a token of the vocabulary; nothing needs it once the data are read.
static bool read_data(struct training *t, fault *f) {
    struct tokenizer *tokenizer;
    bool done = tokenizer_load(&tokenizer, t->options->model, f) && read_tokens(t, tokenizer, f);
    tokenizer_free(tokenizer);
#ifdef __GLIBC__
    malloc_trim(0); // the examples lie behind it in the heap
#endif
    if (!done) {
        return false;
    }
    t->of_data = fingerprint_of_data(&t->data);
    t->of_held_out = fingerprint_of_data(&t->held_out);
    t->of_model = fingerprint_of_model(&t->model);
    return true;
}

// --- Sizes ---

static int longer_first(const void *a, const void *b) {
    size_t x = *(const size_t *)a, y = *(const size_t *)b;
    return (x < y) - (x > y);
}

// R-Drop's batches hold both branches of an example.
static size_t batch_branches(const struct training *t) {
    return t->recipe.consistency.kind == CONSISTENCY_R_DROP ? 2 : 1;
}

// The most that a micro-batch can bring: the longest examples together.
static bool measure_batch(const struct training *t, struct llama_limits *limits, fault *f) {
    size_t count = t->data.count, examples = (size_t)t->options->batch_size;
    size_t *tokens = malloc(2 * count * sizeof *tokens);
    if (!tokens) {
        return fault_memory(f, "the lengths of the examples");
    }
    size_t *targets = tokens + count;
    for (size_t i = 0; i < count; i++) {
        const struct example *e = &t->data.examples[i];
        tokens[i] = batch_example_tokens(e);
        targets[i] = e->count - e->first_target;
    }
    qsort(tokens, count, sizeof *tokens, longer_first);
    qsort(targets, count, sizeof *targets, longer_first);
    limits->length = tokens[0];
    size_t branches = batch_branches(t);
    for (size_t i = 0; i < count && i < examples; i++) {
        limits->tokens += branches * tokens[i];
        limits->targets += targets[i];
    }
    free(tokens);
    return true;
}

static bool plan_steps(struct training *t, fault *f) {
    const struct train_options *o = t->options;
    uint64_t count = t->data.count, per_step = (uint64_t)(o->batch_size * o->grad_accum);
    t->steps_per_epoch = (count + per_step - 1) / per_step;
    uint64_t total = (uint64_t)o->max_steps;
    if (!total) {
        total = (uint64_t)o->epochs * t->steps_per_epoch;
    }
    // The draw of a mask is the running number of an example visit, in 32 bits.
    if (total / t->steps_per_epoch + 1 > UINT32_MAX / count) {
        return fault_set(f, FAULT_INPUT, "lodrop-train", o->max_steps ? "--max-steps" : "--epochs",
                         "more than 2^32 visits of examples");
    }
    enum schedule_kind kind;
    if (!schedule_parse(&kind, o->lr_scheduler, f)) {
        return false;
    }
    t->schedule = schedule_make(kind, o->learning_rate, o->warmup_ratio, total);
    return true;
}

static bool choose_selection(struct training *t, fault *f) {
    const struct train_options *o = t->options;
    t->rule = (struct selection_rule){.patience = (uint64_t)o->early_stopping_patience,
                                      .threshold = o->early_stopping_threshold};
    if (!selection_metric_parse(&t->rule.metric, o->metric_for_best_model, f)) {
        return false;
    }
    return t->rule.metric != SELECTION_ACCURACY || t->held_out.kind == DATASET_CHOICE ||
           fault_set(f, FAULT_INPUT, o->eval_data, NULL, "--metric-for-best-model accuracy needs data with choices");
}

static bool place_dropouts(struct training *t, fault *f) {
    const struct dropout_frame frame = {t->model.config.layers, t->config.modules, "lodrop-train"};
    return dropouts_place(&t->dropouts, &frame, &t->recipe.dropouts, t->recipe.seed, f);
}

// --- Adapter ---

static bool make_adapter(struct training *t, const char *checkpoint, fault *f) {
    const struct train_options *o = t->options;
    uint64_t leaves = (uint64_t)(o->batch_size * o->grad_accum), count = t->data.count;
    struct lora_options options = {.config = t->config,
                                   .dropouts = t->dropouts,
                                   .instances = t->recipe.instances,
                                   .diagonal = t->recipe.diagonal,
                                   .orthogonality = t->recipe.orthogonality,
                                   .leaves = batch_branches(t) * (leaves < count ? leaves : count)};
    if (!lora_make(&t->lora, &t->model.config, &options, LORA_TRAINING, f)) {
        return false;
    }
    if (o->load_best_model_at_end) {
        t->best_value = malloc(t->lora.parameters * sizeof *t->best_value);
        if (!t->best_value) {
            return fault_memory(f, "the best adapter");
        }
    }
    if (*checkpoint) {
        return checkpoint_read_values(checkpoint, &t->lora, &t->history, f);
    }
    return *o->adapter ? lora_read(&t->lora, o->adapter, f)
                       : lora_initialise(&t->lora, (uint64_t)o->seed, strcmp(o->init_b, "random") == 0, f);
}

// The model's own dropouts are read again, from a folder that may have changed.
static bool check_dropouts(const struct training *t, const char *checkpoint, fault *f) {
    struct adapter_recipe recipe;
    bool there;
    if (!adapter_read_recipe(&recipe, &there, checkpoint, f)) {
        return false;
    }
    json_t *before = dropouts_json(&recipe.dropouts), *now = dropouts_json(&t->recipe.dropouts);
    bool same = there && before && now && json_equal(before, now);
    json_decref(before);
    json_decref(now);
    return same || fault_set(f, FAULT_INPUT, checkpoint, "lodrop.json",
                             "its dropouts are not those of the options and the model: it cannot go on");
}

static bool read_progress(struct training *t, const char *checkpoint, fault *f) {
    struct checkpoint c;
    if (!check_dropouts(t, checkpoint, f) || !checkpoint_read_state(checkpoint, &c, f)) {
        return false;
    }
    if (c.model != t->of_model) {
        return fault_set(f, FAULT_INPUT, t->options->model, NULL,
                         "its weights or settings are not those of the model that %s was trained on", checkpoint);
    }
    if (c.data != t->of_data) {
        return fault_set(f, FAULT_INPUT, t->options->data, NULL, "its tokens are not those that %s was trained on",
                         checkpoint);
    }
    if (c.step > t->schedule.total || t->history.count != c.step) {
        return fault_set(f, FAULT_INPUT, checkpoint, "step", "does not fit the options and the metrics");
    }
    t->step = c.step;
    for (size_t i = 0; i < t->history.count; i++) {
        selection_look(&t->best, &t->rule, &t->history.list[i]);
    }
    if (t->best.step && c.held_out != t->of_held_out) {
        return fault_set(f, FAULT_INPUT, t->options->eval_data, NULL,
                         "its tokens are not those that %s was evaluated on", checkpoint);
    }
    return !t->best_value || !t->best.step ||
           checkpoint_read_best(checkpoint, t->best_value, t->lora.parameters, f);
}

// With --tune what was measured is kept; where that fails, only the next run has to measure again.
static bool open_llama(struct training *t, const struct llama_limits *limits, fault *f) {
    char path[FILE_PATH_MAX];
    const double begin = report_clock();
    if (!wisdom_read(limits->threads, f) || !llama_open(&t->llama, &t->model, &t->lora, limits, f)) {
        return false;
    }
    if (limits->rigor != LOD_ESTIMATE) {
        fault unkept;
        bool kept = wisdom_write(limits->threads, path, sizeof path, &unkept);
        report_line(&t->report, "plans measured in %.1f s, %s %s", report_clock() - begin,
                    kept ? "kept in" : "not kept:", kept ? path : unkept.text);
    }
    return true;
}

// As many instances at once as --memory-limit lets in, beside what the process holds already. That differs by some
// pages from run to run: the need that is told has 1 MiB for it, so that it suffices in the next run.
static bool choose_width(const struct training *t, struct llama_limits *limits, fault *f) {
    const size_t limit = (size_t)t->options->memory_limit, held = report_peak_memory() + t->lora.bytes;
    size_t bytes = 0;
    for (limits->together = t->lora.instances; limit; limits->together--) {
        struct llama_limits estimated = *limits;
        estimated.rigor = LOD_ESTIMATE;
        if (!llama_measure(&bytes, &t->model, &t->lora, &estimated, f)) {
            return false;
        }
        if (bytes <= SIZE_MAX - held && held + bytes <= limit) {
            break;
        }
        if (limits->together == 1) {
            return fault_set(f, FAULT_RESOURCE, "lodrop-train", "--memory-limit",
                             "is %lld MiB, but %zu MiB are needed%s: a smaller --batch-size or --max-length or "
                             "--recompute needs less",
                             (long long)(limit >> 20), (held + bytes) / 1048576 + 2,
                             t->lora.instances > 1 ? " even for one instance at a time" : "");
        }
    }
    return true;
}

// What all instances of a pass bring, one behind the other.
static bool stack(struct training *t, const struct llama_limits *limits, fault *f) {
    return t->lora.instances == 1 || batch_make(&t->stacked, limits->together * limits->tokens,
                                                limits->together * (size_t)t->options->batch_size, f);
}

static bool take_memory(struct training *t, fault *f) {
    const struct train_options *o = t->options;
    struct llama_limits limits = {
        .mode = o->recompute ? LLAMA_RECOMPUTE : LLAMA_KEEP,
        .threads = (unsigned)o->threads,
        .rigor = o->tune ? LOD_MEASURE : LOD_ESTIMATE,
        .consistency = t->recipe.consistency,
    };
    if (!measure_batch(t, &limits, f) || !choose_width(t, &limits, f)) {
        return false;
    }
    const size_t targets = limits.together * limits.targets;
    t->together = limits.together;
    t->order = malloc(t->data.count * sizeof *t->order);
    float *losses = t->losses.loss = malloc(3 * targets * sizeof *losses);
    if (!t->order || !losses) {
        return fault_memory(f, "the order of the examples");
    }
    t->losses.loss2 = losses + targets;
    t->losses.divergence = losses + 2 * targets;
    return batch_make(&t->batch, limits.tokens, batch_branches(t) * (size_t)o->batch_size, f) &&
           stack(t, &limits, f) && open_llama(t, &limits, f);
}

static bool is_readable(const char *path, fault *f) {
    struct mapped_file map;
    bool done = file_map(&map, path, f);
    file_unmap(&map);
    return done;
}

// What the model's shape has to say to layers and dropouts.
static bool fit_model(struct adapter_config *config, const struct adapter_recipe *recipe,
                      const struct model_config *model, const struct train_options *o, fault *f) {
    const struct dropout_frame frame = {model->layers, config->modules, "lodrop-train"};
    const struct dropouts *d = &recipe->dropouts;
    if (!layers_settle(&config->layers, model->layers, "lodrop-train", "--layers-to-transform", f) ||
        !dropouts_fit(d, &frame, f) || !dropouts_meet(d, &config->layers, model->layers, frame.file, f)) {
        return false;
    }
    return !o->mask_per_kv_head || model->kv_heads < model->heads ||
           fault_set(f, FAULT_INPUT, "lodrop-train", "--mask-per-kv-head",
                     "the model has a KV head for each query head: their key sets are the same");
}

bool training_check(const struct train_options *o, const char *from, fault *f) {
    struct adapter_config config;
    struct adapter_recipe recipe;
    struct model_config model;
    enum schedule_kind kind;
    enum selection_metric metric;
    return train_options_adapter(&config, &recipe, o, from, f) && schedule_parse(&kind, o->lr_scheduler, f) &&
           selection_metric_parse(&metric, o->metric_for_best_model, f) &&
           model_config_read(&model, o->model, f) && fit_model(&config, &recipe, &model, o, f) &&
           is_readable(o->data, f) && (!*o->eval_data || is_readable(o->eval_data, f));
}

bool training_load(struct training *t, const char *checkpoint, fault *f) {
    struct train_options *o = t->options;
    bool asked = !o->default_length; // the default gives way to a model with fewer positions
    return train_options_adapter(&t->config, &t->recipe, o, *checkpoint ? checkpoint : o->adapter, f) &&
           model_load(&t->model, o->model, f) && model_fit_length(&t->model.config, &o->max_length, asked, f) &&
           fit_model(&t->config, &t->recipe, &t->model.config, o, f) && place_dropouts(t, f) && read_data(t, f) &&
           plan_steps(t, f) && choose_selection(t, f) && make_adapter(t, checkpoint, f) &&
           (!*checkpoint || read_progress(t, checkpoint, f)) && take_memory(t, f);
}

void training_free(struct training *t) {
    report_close(&t->report);
    history_free(&t->history);
    llama_close(t->llama);
    batch_free(&t->batch);
    batch_free(&t->stacked);
    free(t->order);
    free(t->losses.loss);
    free(t->dropouts);
    free(t->best_value);
    lora_free(&t->lora);
    dataset_free(&t->data);
    dataset_free(&t->held_out);
    model_free(&t->model);
}
