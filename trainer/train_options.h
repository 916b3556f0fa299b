// The command line of lodrop-train.
#ifndef LODROP_TRAINER_TRAIN_OPTIONS_H
#define LODROP_TRAINER_TRAIN_OPTIONS_H

#include "adapter.h"
#include "options.h"
#include "schedule.h"

struct train_options {
    char model[OPTION_TEXT_SIZE], data[OPTION_TEXT_SIZE], output[OPTION_TEXT_SIZE], eval_data[OPTION_TEXT_SIZE];
    char adapter[OPTION_TEXT_SIZE]; // to continue from; empty: none
    char method[OPTION_TEXT_SIZE], target_modules[OPTION_TEXT_SIZE], lr_scheduler[OPTION_TEXT_SIZE];
    char model_dropout[OPTION_TEXT_SIZE], consistency[OPTION_TEXT_SIZE]; // empty: none
    char metric_for_best_model[OPTION_TEXT_SIZE];
    char layers_to_transform[OPTION_TEXT_SIZE]; // empty: all
    char form[OPTION_TEXT_SIZE];
    char init_b[OPTION_TEXT_SIZE], dump_gradients[OPTION_TEXT_SIZE]; // for tests
    struct option_list drop;
    int64_t lora_r, max_length, batch_size, grad_accum, epochs, max_steps, seed, threads, save_steps, stop_after;
    int64_t eval_steps, early_stopping_patience; // 0: after every epoch; never
    int64_t instances, memory_limit;
    double consistency_weight, orthogonality_weight;
    double lora_alpha, lora_dropout, rate, learning_rate, warmup_ratio, weight_decay, max_grad_norm;
    double early_stopping_threshold;
    bool load_best_model_at_end, tune, mask_per_kv_head, use_rslora, recompute, resume, print_config;
    char sweep[OPTION_TEXT_SIZE]; // empty: one run
    int64_t jobs;
    option_set given;    // on the command line, or by a sweep
    bool default_length; // max_length was not asked for
};

extern const struct option_table train_option_table;

// Defaults, the command line over them, and with --resume the checkpoint's options under it. `checkpoint` gets the
// folder to resume from, empty without --resume.
// With --sweep the options are those of no run yet: train_options_complete is left to each of them.
bool train_options_read(struct train_options *o, char checkpoint[FILE_PATH_MAX], int argc, char **argv, fault *f);

// For a new run: that all it needs was given, and what follows from what was given.
bool train_options_complete(struct train_options *o, fault *f);

// A run with another value of this option is still the same run, bit by bit.
bool train_option_is_free(const char *name);

// What the options say about the adapter. from: a folder whose adapter the run continues, with its rank, alpha and
// modules; empty: none.
bool train_options_adapter(struct adapter_config *config, struct adapter_recipe *recipe, const struct train_options *o,
                           const char *from, fault *f);

// The configuration as --print-config shows it; NULL: no memory.
json_t *train_options_json(const struct train_options *o, const struct adapter_config *config,
                           const struct adapter_recipe *recipe);

#endif
