#include "train_options.h"

#include <stdlib.h>
#include <string.h>

#include "checkpoint.h"
#include "config.h"

#define AT(field) offsetof(struct train_options, field)

enum { MOST_RANK = 1024, MOST_EXAMPLES = 65536 };
#define UNBOUNDED 1e15

static const struct option LIST[] = {
    {"model", OPTION_TEXT, AT(model), 0, 0, "DIR", "Hugging Face folder of a Llama model"},
    {"data", OPTION_TEXT, AT(data), 0, 0, "FILE", ".jsonl or plain text"},
    {"output", OPTION_TEXT, AT(output), 0, 0, "DIR", "gets the adapter (PEFT), metrics, drawings, checkpoint"},
    {"eval-data", OPTION_TEXT, AT(eval_data), 0, 0, "FILE", "held-out data, evaluated after every epoch"},
    {"eval-steps", OPTION_INTEGER, AT(eval_steps), 0, UNBOUNDED, "N", "evaluate after every N steps instead"},
    {"metric-for-best-model", OPTION_TEXT, AT(metric_for_best_model), 0, 0, "NAME",
     "of evaluations: loss (default), or accuracy, for which all choices are scored each time"},
    {"load-best-model-at-end", OPTION_SWITCH, AT(load_best_model_at_end), 0, 0, NULL,
     "leave the best evaluation's adapter, not the last step's; each best one leaves a checkpoint"},
    {"early-stopping-patience", OPTION_INTEGER, AT(early_stopping_patience), 0, UNBOUNDED, "N",
     "stop after N evaluations in a row that were no better than the best before"},
    {"early-stopping-threshold", OPTION_NUMBER, AT(early_stopping_threshold), 0, 1e9, "X",
     "to count as better there, one must be so by more than X (default 0)"},
    {"adapter", OPTION_TEXT, AT(adapter), 0, 0, "DIR", "continue from this PEFT adapter: its rank, alpha, modules"},
    {"method", OPTION_TEXT, AT(method), 0, 0, "NAME", "lora (default), or a dropout by its name, see below"},
    {"rate", OPTION_RATE, AT(rate), 0, 0, "P", "rate of the method's dropouts (default 0.1, of lora-dropout 0.5)"},
    {"drop", OPTION_LIST, AT(drop), 0, 0, "DROPOUT", "a dropout beside the method's, see below; may be repeated"},
    {"model-dropout", OPTION_TEXT, AT(model_dropout), 0, 0, "WHICH",
     "config: attention_dropout and hidden_dropout_prob of the model's config.json as well; off (default)"},
    {"consistency", OPTION_TEXT, AT(consistency), 0, 0, "KIND",
     "a second pass and how far apart they are: kl, r-drop or js, see below (default: the method's)"},
    {"consistency-weight", OPTION_NUMBER, AT(consistency_weight), 0, CONSISTENCY_MOST_WEIGHT, "X",
     "of that divergence in the loss (default 0.1)"},
    {"instances", OPTION_INTEGER, AT(instances), 1, ADAPTER_MAX_INSTANCES, "N",
     "masks for each example, whose losses are averaged (default 1, of lora-dropout 4)"},
    {"mask-per-kv-head", OPTION_SWITCH, AT(mask_per_kv_head), 0, 0, NULL,
     "column and span at attention: one key set a KV head, not a query head"},
    {"form", OPTION_TEXT, AT(form), 0, 0, "NAME",
     "lora (default), or adalora: B L A with a diagonal L, and orthogonality, see below"},
    {"orthogonality-weight", OPTION_NUMBER, AT(orthogonality_weight), 0, 1e9, "X", "of adalora's terms (default 0.1)"},
    {"lora-r", OPTION_INTEGER, AT(lora_r), 1, MOST_RANK, "N", "rank (default 8)"},
    {"lora-alpha", OPTION_NUMBER, AT(lora_alpha), 0, 1e9, "X", "scale is alpha / r (default 16)"},
    {"lora-dropout", OPTION_RATE, AT(lora_dropout), 0, 0, "P",
     "rate on the input of A (default 0.1 with lora-input-dropout, else 0)"},
    {"use-rslora", OPTION_SWITCH, AT(use_rslora), 0, 0, NULL, "scale is alpha / sqrt(r)"},
    {"target-modules", OPTION_TEXT, AT(target_modules), 0, 0, "LIST",
     "of q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj, or all-linear (default q_proj,v_proj)"},
    {"layers-to-transform", OPTION_TEXT, AT(layers_to_transform), 0, 0, "L",
     "that get adapters, like 3, 12-23 or later-half (default: all)"},
    {"max-length", OPTION_INTEGER, AT(max_length), 2, 1048576, "N", "tokens of the longest sequence (default 512)"},
    {"batch-size", OPTION_INTEGER, AT(batch_size), 1, MOST_EXAMPLES, "N", "examples a pass (default 8)"},
    {"grad-accum", OPTION_INTEGER, AT(grad_accum), 1, MOST_EXAMPLES, "N",
     "passes a step (default 1); 4 x 2 gives the bits of 8 x 1"},
    {"epochs", OPTION_INTEGER, AT(epochs), 1, 1e6, "N", "times through the data (default 3)"},
    {"max-steps", OPTION_INTEGER, AT(max_steps), 0, UNBOUNDED, "N", "steps instead of epochs"},
    {"learning-rate", OPTION_NUMBER, AT(learning_rate), 0, 1e9, "X", "peak (default 2e-4)"},
    {"lr-scheduler", OPTION_TEXT, AT(lr_scheduler), 0, 0, "NAME", "linear (default), cosine or constant"},
    {"warmup-ratio", OPTION_NUMBER, AT(warmup_ratio), 0, 1, "X", "share of the steps (default 0.06)"},
    {"weight-decay", OPTION_NUMBER, AT(weight_decay), 0, 1e9, "X", "AdamW's (default 0)"},
    {"max-grad-norm", OPTION_NUMBER, AT(max_grad_norm), 0, 1e300, "X", "clips the gradient (default 1; 0: never)"},
    {"seed", OPTION_INTEGER, AT(seed), 0, 9.2e18, "N", "of masks, first values and order (default 0)"},
    {"threads", OPTION_INTEGER, AT(threads), 0, 1024, "N", "default 0: as many as this process may use"},
    {"tune", OPTION_SWITCH, AT(tune), 0, 0, NULL,
     "measure first which kernels are fastest, and remember it (lodrop-tune); the same bits"},
    {"memory-limit", OPTION_BYTES, AT(memory_limit), 0, 9.2e18, "BYTES",
     "like 800MiB or 2GiB: as many instances at once as fit, see below (default: all)"},
    {"recompute", OPTION_SWITCH, AT(recompute), 0, 0, NULL, "less memory for more time, the same bits"},
    {"save-steps", OPTION_INTEGER, AT(save_steps), 0, UNBOUNDED, "N", "leave OUTPUT/checkpoint every N steps"},
    {"stop-after", OPTION_INTEGER, AT(stop_after), 0, UNBOUNDED, "N",
     "stop after step N with a checkpoint; the schedule stays"},
    {"resume", OPTION_SWITCH, AT(resume), 0, 0, NULL, "go on from OUTPUT/checkpoint with its options"},
    {"sweep", OPTION_TEXT, AT(sweep), 0, 0, "FILE",
     "many runs, each in a folder of OUTPUT, and a table of them: see below"},
    {"jobs", OPTION_INTEGER, AT(jobs), 1, 1024, "N", "runs of a sweep side by side (default 1), each with --threads"},
    {"print-config", OPTION_SWITCH, AT(print_config), 0, 0, NULL, "print what the options amount to, and stop"},
    {"init-b", OPTION_TEXT, AT(init_b), 0, 0, "NAME", NULL},
    {"dump-gradients", OPTION_TEXT, AT(dump_gradients), 0, 0, "FILE", NULL},
};

static const char METHODS[] =
    "Example: dropout on the input of every adapter, half of each step at a time to save memory\n"
    "  lodrop-train --model llama --data train.jsonl --eval-data heldout.jsonl --output out \\\n"
    "      --method lora-input-dropout --lora-dropout 0.1 --target-modules all-linear \\\n"
    "      --batch-size 4 --grad-accum 2\n\n"
    "A method is a name for dropouts, in all layers unless said otherwise, P being --rate:\n"
    "  lora                 no dropout\n"
    "  lora-input-dropout   lora_input:element:P:inverted, PEFT's lora_dropout\n"
    "  lora-dropout         lora_a:column:P:none, lora_b:column:P:none and --instances 4 (arXiv 2404.09610)\n"
    "  dropkey              attn_logit:column:P:none (arXiv 2208.02646)\n"
    "  dropattention        attn_weight:column:P:renormalise-nograd (arXiv 1907.11065: the kept weights are\n"
    "                       divided by their sum, through which no gradient flows)\n"
    "  hiddencut            ffn_output:element:P:inverted (arXiv 2106.00149)\n"
    "  hiddenkey-minus      dropkey and hiddencut in the later half of the layers (arXiv 2403.00812)\n"
    "  hiddenkey            hiddenkey-minus and --consistency kl\n"
    "  r-drop               hidden:element:P:inverted and --consistency r-drop (arXiv 2106.14448)\n"
    "  dropout              hidden:element:P:inference (Srivastava et al., JMLR 15, 2014)\n"
    "  variational          hidden:column:P:inverted (arXiv 1512.05287)\n\n"
    "DROPOUT is POSITION:PATTERN:P[:COMPENSATION[:LAYERS]][@MODULES], LAYERS like 3, 12-23 or later-half, MODULES\n"
    "a pattern of names like q_proj, [qk]_proj or *_proj, for lora_input, lora_a and lora_b alone (all if left\n"
    "out). Positions with their patterns, and the compensations of these, the default one first:\n"
    "  lora_input           element             inverted\n"
    "  lora_a, lora_b       column              none, inverted\n"
    "  attn_logit           element|column|span none\n"
    "  attn_weight          element             inverted, renormalise, renormalise-nograd\n"
    "  attn_weight          column|span         renormalise-nograd, renormalise\n"
    "  ffn_middle, _output  element             inverted, inference\n"
    "  ffn_middle, _output  column              inverted\n"
    "  ffn_middle, _output  span                none\n"
    "  hidden, embedding    element             inverted, inference\n"
    "  hidden, embedding    column              inverted\n"
    "lora_a drops whole columns of A, lora_b rows of B, the same ones for all examples of a step. With none,\n"
    "evaluation and the lora_alpha that is written multiply by 1 - P, for the mean of all masks.\n"
    "At attention, element drops (query, key) pairs one by one, column keys for all queries of a head, span a\n"
    "run of such keys. In activations, element drops features token by token, column features of all tokens of\n"
    "an example, span all features of a run of tokens. ffn_middle goes into down_proj, ffn_output comes from it,\n"
    "hidden is ffn_output and the output of attention, each before its residual sum; embedding takes no LAYERS.\n"
    "With inference, training is not compensated: evaluation multiplies by 1 - P. A layer takes one dropout on\n"
    "A and one on B of a module (lora_input counts as both), one at attention, one of ffn_middle and one of\n"
    "ffn_output or hidden.\n\n";

static const char REST[] =
    "Instances run each example with N different masks and train on the mean of the N losses. What lies below\n"
    "the first layer with a dropout they share. Together they take the activations of N examples; --memory-limit\n"
    "runs fewer at a time, down to one, where the whole process would take more memory, in training, than that.\n"
    "It changes no bit.\n\n"
    "The form of AdaLoRA (arXiv 2303.10512) is dW = s P L Q, P being B and Q being A, of which lora_a and lora_b\n"
    "drop rows and columns; L is diagonal, starts at 0 and is never dropped. X times ||P'P - I||^2 + ||QQ' - I||^2\n"
    "of every module joins the loss; metrics.jsonl shows the sum of these terms. The adapter has L Q for A.\n\n"
    "Consistency adds X times a divergence of two passes' predictions to the loss of each target: kl, r-drop\n"
    "(KL(P||Q) + KL(Q||P)) / 2 of passes with different masks, the gradient through the first pass alone (kl)\n"
    "or, with the mean of both losses, through both (r-drop); js, the Jensen-Shannon divergence from a pass\n"
    "without dropout, through which no gradient flows. The second pass of kl and js starts at the first layer\n"
    "with a dropout and keeps nothing. metrics.jsonl shows the divergence in nats per target.\n\n"
    "Held-out data are evaluated after every epoch or every --eval-steps, and after the last step. summary.json\n"
    "names the best evaluation, the step whose adapter is left and what the run was stopped by (steps or\n"
    "early_stopping); its metrics, and reliability.svg for data with choices, are of the adapter that is left.\n\n"
    "Warnings, each once a run and in summary.json: overfitting, two evaluations in a row have a higher held-out\n"
    "loss than an earlier one, though training loss fell; gradient, its norm is above 10 times the median of the\n"
    "20 steps before; starved, with a dropout of rate 0.5 or more training loss has not fallen by 1 % in the\n"
    "first epoch (or 40 steps, if these are more).\n\n"
    "Data, one JSON object a line: {\"text\"}, {\"prompt\", \"completion\"} or {\"prompt\", \"choices\", "
    "\"label\"};\n"
    "any other file is plain text. Ctrl-C finishes the step and leaves a checkpoint for --resume.\n\n";

static const char SWEEPS[] =
    "A sweep runs lodrop-train once for each combination of options that FILE names, in OUTPUT/NAME, NAME being\n"
    "the options that vary. The command line's options are those of all runs, over FILE's base; FILE is like\n"
    "  {\"base\": {\"epochs\": 5}, \"vary\": {\"method\": [\"lora\", \"dropkey\"], \"seed\": [0, 1, 2]}}\n"
    "or has named runs, each of which gets all combinations of vary:\n"
    "  {\"runs\": [{\"name\": \"plain\"}, {\"name\": \"keys\", \"method\": \"dropkey\"}],\n"
    "   \"vary\": {\"seed\": [0, 1]}}\n"
    "Runs that are done are skipped and interrupted ones go on, so the same command ends what Ctrl-C stopped.\n"
    "OUTPUT/sweep.md and sweep.json have mean and standard deviation over the seeds, sweep.svg is drawn where one\n"
    "option varies beside the seed and is a number.\n\n"
    "Options may be spelled with underscores, like --lora_r 4.\n\n"
    "Environment: LODROP_ISA (ref, avx2, avx512 or neon, else the best here), LODROP_WISDOM (what --tune and\n"
    "lodrop-tune measured, lodrop-tune --help), OMP_NUM_THREADS (the most threads), LODROP_VERBOSE (if set:\n"
    "says what memory and which kernels a run takes).\n\n"
    "Exit status: 0 done, 1 bad input, 2 usage, 3 out of memory or disk, 130 interrupted.\n";

const struct option_table train_option_table = {
    .program = "lodrop-train",
    .usage = "usage: lodrop-train --model DIR --data FILE --output DIR [options]\n"
             "       lodrop-train --output DIR --resume\n"
             "       lodrop-train --output DIR --sweep FILE [options]\n\n"
             "Fine-tunes a frozen Llama model with LoRA on the CPU.\n",
    .outro = {METHODS, REST, SWEEPS},
    .list = LIST,
    .count = sizeof LIST / sizeof *LIST,
};

static const struct train_options DEFAULTS = {
    .method = "lora",
    .target_modules = "q_proj,v_proj",
    .lr_scheduler = "linear",
    .model_dropout = "off",
    .metric_for_best_model = "loss",
    .consistency_weight = 0.1,
    .form = "lora",
    .orthogonality_weight = 0.1,
    .init_b = "zero",
    .lora_r = 8,
    .lora_alpha = 16,
    .max_length = 512,
    .batch_size = 8,
    .grad_accum = 1,
    .epochs = 3,
    .learning_rate = 2e-4,
    .warmup_ratio = 0.06,
    .max_grad_norm = 1,
    .jobs = 1,
    .instances = 1,
};

// --- Reading ---

bool train_option_is_free(const char *name) {
    static const char *const list[] = {"output", "threads",      "recompute",      "save-steps", "stop-after",
                                       "resume", "print-config", "dump-gradients", "tune",       "sweep",
                                       "jobs",   "memory-limit"};
    return option_is_among(name, list, sizeof list / sizeof *list);
}

// Options that may differ when a run goes on: where lies what is read again (data are known by their tokens), and free
// ones.
static bool may_change(const char *name) {
    static const char *const places[] = {"model", "data", "eval-data"};
    return train_option_is_free(name) || option_is_among(name, places, sizeof places / sizeof *places);
}

// What the command line gave (line) over the checkpoint's options (o).
static bool merge(struct train_options *o, const struct train_options *line, option_set given, fault *f) {
    json_t *wanted = json_object();
    bool done = wanted;
    for (size_t i = 0; done && i < train_option_table.count; i++) {
        const struct option *option = &LIST[i];
        if (!(given >> i & 1)) {
            continue;
        }
        char name[64], flag[64];
        option_json_name(option, name);
        snprintf(flag, sizeof flag, "--%s", option->name);
        json_t *before = option_json(option, o), *now = option_json(option, line);
        if (before && now && !may_change(option->name) && !json_equal(before, now)) {
            done = fault_set(f, FAULT_INPUT, "lodrop-train", flag, "differs from the checkpoint's: leave it out");
        } else {
            done = json_object_set(wanted, name, now) == 0 || fault_memory(f, "the options");
        }
        json_decref(before);
        json_decref(now);
    }
    done = done && options_from_json(&train_option_table, o, wanted, "lodrop-train", f);
    json_decref(wanted);
    return done;
}

static bool read_resumed(struct train_options *o, char checkpoint[FILE_PATH_MAX], option_set given, fault *f) {
    struct train_options *line = malloc(sizeof *line);
    if (!line) {
        return fault_memory(f, "the options");
    }
    *line = *o;
    *o = DEFAULTS;
    bool done = checkpoint_find(checkpoint, line->output, f);
    if (done && !*checkpoint) {
        done = fault_set(f, FAULT_INPUT, line->output, "checkpoint", "there is none to resume from");
    }
    done = done && checkpoint_read_options(checkpoint, o, f);
    if (done) {
        o->stop_after = 0;
        done = merge(o, line, given, f);
    }
    free(line);
    return done;
}

// What --rate and --lora-dropout are where they were not given. The rate of a method on the input of A is both.
static bool choose_rates(struct train_options *o, option_set given, fault *f) {
    const struct dropout_method *method;
    if (!dropout_method_find(&method, o->method, f)) {
        return false;
    }
    bool rate = options_given(&train_option_table, given, "rate");
    if (rate && !method->count) {
        return fault_set(f, FAULT_USAGE, "lodrop-train", "--rate", "--method %s has no dropout", o->method);
    }
    if (!rate) {
        o->rate = method->count ? method->list[0].p : 0;
    }
    if (!dropout_method_is_of_input(method)) {
        return true;
    }
    if (!options_given(&train_option_table, given, "lora-dropout")) {
        o->lora_dropout = o->rate;
    } else if (rate) {
        return fault_set(f, FAULT_USAGE, "lodrop-train", "--rate",
                         "is --lora-dropout's with --method %s: leave one out", o->method);
    }
    o->rate = o->lora_dropout;
    return true;
}

static bool choose_consistency(struct train_options *o, option_set given, fault *f) {
    const struct dropout_method *method;
    if (!dropout_method_find(&method, o->method, f)) {
        return false;
    }
    if (!*o->consistency && method->consistency != CONSISTENCY_NONE) {
        strcpy(o->consistency, consistency_word(method->consistency));
    }
    return *o->consistency || !options_given(&train_option_table, given, "consistency-weight") ||
           fault_set(f, FAULT_USAGE, "lodrop-train", "--consistency-weight", "needs --consistency");
}

static bool choose_instances(struct train_options *o, option_set given, fault *f) {
    const struct dropout_method *method;
    if (!dropout_method_find(&method, o->method, f)) {
        return false;
    }
    if (!options_given(&train_option_table, given, "instances")) {
        o->instances = method->instances ? method->instances : 1;
    }
    return true;
}

// What is asked of evaluations needs some.
static bool check_evaluation(const struct train_options *o, fault *f) {
    static const char *const needing[][2] = {{"eval-steps", "eval-data"},
                                             {"metric-for-best-model", "eval-data"},
                                             {"load-best-model-at-end", "eval-data"},
                                             {"early-stopping-patience", "eval-data"}};
    for (size_t i = 0; i < sizeof needing / sizeof *needing; i++) {
        const char *name = needing[i][0], *needed = needing[i][1];
        if (options_given(&train_option_table, o->given, name) &&
            !options_given(&train_option_table, o->given, needed)) {
            char flag[64];
            snprintf(flag, sizeof flag, "--%s", name);
            return fault_set(f, FAULT_USAGE, "lodrop-train", flag, "needs --%s", needed);
        }
    }
    return o->early_stopping_patience || !options_given(&train_option_table, o->given, "early-stopping-threshold") ||
           fault_set(f, FAULT_USAGE, "lodrop-train", "--early-stopping-threshold", "needs --early-stopping-patience");
}

bool train_options_complete(struct train_options *o, fault *f) {
    option_set given = o->given;
    o->default_length = !options_given(&train_option_table, given, "max-length");
    static const char *const needed[] = {"model", "data", "output", NULL};
    if (!options_require(&train_option_table, given, needed, f)) {
        return false;
    }
    static const char *const of_adapter[] = {"lora-r",         "lora-alpha",          "use-rslora",
                                             "target-modules", "layers-to-transform", "init-b"};
    for (size_t i = 0; *o->adapter && i < sizeof of_adapter / sizeof *of_adapter; i++) {
        if (options_given(&train_option_table, given, of_adapter[i])) {
            char flag[64];
            snprintf(flag, sizeof flag, "--%s", of_adapter[i]);
            return fault_set(f, FAULT_USAGE, "lodrop-train", flag, "comes from --adapter: leave it out");
        }
    }
    if (strcmp(o->form, "lora") == 0 && options_given(&train_option_table, given, "orthogonality-weight")) {
        return fault_set(f, FAULT_USAGE, "lodrop-train", "--orthogonality-weight", "needs --form adalora");
    }
    return check_evaluation(o, f) && choose_rates(o, given, f) && choose_consistency(o, given, f) &&
           choose_instances(o, given, f);
}

static bool read_fresh(struct train_options *o, fault *f) {
    char left[FILE_PATH_MAX];
    if (!train_options_complete(o, f) || !checkpoint_find(left, o->output, f)) {
        return false;
    }
    return !*left || o->print_config ||
           fault_set(f, FAULT_INPUT, o->output, "checkpoint",
                     "an unfinished run lies here: go on with --resume, or remove it");
}

// What the command line of a sweep cannot have.
static bool check_sweep(const struct train_options *o, fault *f) {
    static const char *const needed[] = {"output", NULL}, *const alone[] = {"resume", "stop-after", "print-config",
                                                                            "dump-gradients"};
    for (size_t i = 0; i < sizeof alone / sizeof *alone; i++) {
        char flag[64];
        snprintf(flag, sizeof flag, "--%s", alone[i]);
        if (options_given(&train_option_table, o->given, alone[i])) {
            return fault_set(f, FAULT_USAGE, "lodrop-train", flag, "does not go with --sweep, which goes on by itself");
        }
    }
    return options_require(&train_option_table, o->given, needed, f);
}

bool train_options_read(struct train_options *o, char checkpoint[FILE_PATH_MAX], int argc, char **argv, fault *f) {
    static const char *const needed_to_resume[] = {"output", NULL};
    *o = DEFAULTS;
    *checkpoint = 0;
    if (!options_parse(&train_option_table, o, &o->given, argc, argv, f)) {
        return false;
    }
    if (*o->sweep) {
        return check_sweep(o, f);
    }
    if (options_given(&train_option_table, o->given, "jobs")) {
        return fault_set(f, FAULT_USAGE, "lodrop-train", "--jobs", "needs --sweep");
    }
    return o->resume ? options_require(&train_option_table, o->given, needed_to_resume, f) &&
                           read_resumed(o, checkpoint, o->given, f)
                     : read_fresh(o, f);
}
