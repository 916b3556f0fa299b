// lodrop-eval: the loss of a model, with or without an adapter, on held-out data.
#include <stdio.h>
#include <string.h>

#include "evaluate.h"
#include "file.h"
#include "inference.h"
#include "options.h"
#include "wisdom.h"

struct eval_options {
    char model[OPTION_TEXT_SIZE], adapter[OPTION_TEXT_SIZE], data[OPTION_TEXT_SIZE], dump_logits[OPTION_TEXT_SIZE];
    char reliability[OPTION_TEXT_SIZE];
    char ensemble_of[OPTION_TEXT_SIZE];
    struct option_list drop;
    int64_t max_length, threads, ensemble, seed;
    bool json;
};

#define AT(field) offsetof(struct eval_options, field)

static const struct option LIST[] = {
    {"model", OPTION_TEXT, AT(model), 0, 0, "DIR", "Hugging Face folder of a Llama model"},
    {"adapter", OPTION_TEXT, AT(adapter), 0, 0, "DIR", "PEFT folder of a LoRA adapter (default: none)"},
    {"data", OPTION_TEXT, AT(data), 0, 0, "FILE", ".jsonl or plain text"},
    {"max-length", OPTION_INTEGER, AT(max_length), 2, 1048576, "N", "tokens of the longest sequence (default 512)"},
    {"ensemble", OPTION_INTEGER, AT(ensemble), 1, ADAPTER_MAX_INSTANCES, "N",
     "the mean over N instances of LoRA Dropout, not the mean adapter (see below)"},
    {"ensemble-of", OPTION_TEXT, AT(ensemble_of), 0, 0, "WHAT", "the mean of logits (default) or of probabilities"},
    {"drop", OPTION_LIST, AT(drop), 0, 0, "DROPOUT",
     "of the ensemble, instead of those the adapter was trained with; may be repeated"},
    {"seed", OPTION_INTEGER, AT(seed), 0, 9.2e18, "N", "of the ensemble's masks (default 0)"},
    {"threads", OPTION_INTEGER, AT(threads), 0, 1024, "N", "default 0: as many as this process may use"},
    {"json", OPTION_SWITCH, AT(json), 0, 0, NULL, "print one JSON object"},
    {"reliability", OPTION_TEXT, AT(reliability), 0, 0, "FILE",
     "with choices, also draw accuracy over confidence as SVG"},
    {"dump-logits", OPTION_TEXT, AT(dump_logits), 0, 0, "FILE",
     "also write logits as safetensors, \"example.I\" [tokens - 1][vocabulary]"},
};

static const struct option_table TABLE = {
    .program = "lodrop-eval",
    .usage = "usage: lodrop-eval --model DIR --data FILE [--adapter DIR] [options]\n\n"
             "Prints the loss in nats per target, its perplexity, and with choices the accuracy and the expected\n"
             "calibration error (15 bins; confidence: softmax over the choices' summed log-probabilities).\n",
    .outro = {"Data, one JSON object a line:\n"
             "  {\"text\": \"...\"}                                        every token is a target\n"
             "  {\"prompt\": \"...\", \"completion\": \"...\"}               the completion's tokens are targets\n"
             "  {\"prompt\": \"...\", \"choices\": [\"...\"], \"label\": 0}    which choice is likeliest, and the "
             "right one's loss\n"
             "Any other file is plain text, cut into blocks of --max-length tokens.\n\n"
             "An adapter trained with lora_a or lora_b dropped is evaluated without masks, as the adapter that they\n"
             "expect. --ensemble N draws N masks, others than those of training, and takes the mean of what N such\n"
             "adapters predict (arXiv 2404.09610). So dropout acts\n"
             "  in training only         lodrop-train --method lora-dropout, lodrop-eval without --ensemble\n"
             "  in training and at test  the same adapter, lodrop-eval --ensemble 4\n"
             "  at test only             lodrop-train --method lora, lodrop-eval --ensemble 4\n"
             "                           --drop lora_a:column:0.5 --drop lora_b:column:0.5\n"
             "DROPOUT is lora_a:column:P[:COMPENSATION[:LAYERS]][@MODULES] or the same of lora_b; COMPENSATION is\n"
             "none, or inverted: what is kept is divided by 1 - P; MODULES is a pattern of names like *_proj. What\n"
             "an adapter was trained with and not compensated for stays in it as its mean, whatever drops here: the\n"
             "ensemble of such an adapter varies around the adapter itself, with none as with inverted.\n\n"
             "Exit status: 0 done, 1 bad input, 2 usage, 3 out of memory or disk.\n"},
    .list = LIST,
    .count = sizeof LIST / sizeof *LIST,
};

struct eval_run {
    struct inference inference;
    struct dataset data;
};

static bool load(struct eval_run *r, struct eval_options *o, bool length_asked, fault *f) {
    const struct model_config *c = &r->inference.model.config;
    const struct inference_adapter adapter = {.folder = o->adapter,
                                              .ensemble = (size_t)o->ensemble,
                                              .drop = &o->drop,
                                              .seed = (uint64_t)o->seed,
                                              .program = TABLE.program};
    if (!inference_load(&r->inference, o->model, f) || !model_fit_length(c, &o->max_length, length_asked, f)) {
        return false;
    }
    struct dataset_options limits = {.max_length = (size_t)o->max_length, .vocab_size = c->vocab_size};
    return dataset_read(&r->data, o->data, r->inference.tokenizer, &limits, f) &&
           wisdom_read((unsigned)o->threads, f) && (!*o->adapter || inference_adapt(&r->inference, &adapter, f));
}

static bool print(const struct evaluation *e, bool as_json, fault *f) {
    if (!as_json) {
        printf("loss %.5f nats per target, perplexity %.4f, %zu targets in %zu examples\n", e->loss, e->perplexity,
               e->targets, e->examples);
        if (e->has_answers) {
            printf("accuracy %.4f, expected calibration error %.4f\n", calibration_accuracy(&e->answers),
                   calibration_error(&e->answers));
        }
        return file_flush_output(f);
    }
    json_t *object = evaluation_json(e);
    if (!object) {
        return fault_memory(f, "the result");
    }
    json_dumpf(object, stdout, JSON_REAL_PRECISION(9));
    json_decref(object);
    putchar('\n');
    return file_flush_output(f);
}

static bool can_draw(const struct eval_run *r, const struct eval_options *o, fault *f) {
    return !*o->reliability || r->data.kind == DATASET_CHOICE ||
           fault_set(f, FAULT_INPUT, o->data, NULL, "--reliability needs data with choices");
}

static bool check_ensemble(struct evaluation_manner *manner, const struct eval_options *o, option_set given, fault *f) {
    static const char *const parts[] = {"ensemble-of", "drop", "seed"};
    for (size_t i = 0; !o->ensemble && i < sizeof parts / sizeof *parts; i++) {
        if (options_given(&TABLE, given, parts[i])) {
            char flag[64];
            snprintf(flag, sizeof flag, "--%s", parts[i]);
            return fault_set(f, FAULT_USAGE, TABLE.program, flag, "is of an ensemble: needs --ensemble");
        }
    }
    if (o->ensemble && !*o->adapter) {
        return fault_set(f, FAULT_USAGE, TABLE.program, "--ensemble", "is of an adapter: needs --adapter");
    }
    manner->mean = strcmp(o->ensemble_of, "probabilities") == 0 ? LLAMA_MEAN_PROBABILITIES : LLAMA_MEAN_LOGITS;
    return manner->mean == LLAMA_MEAN_PROBABILITIES || strcmp(o->ensemble_of, "logits") == 0 ||
           fault_set(f, FAULT_INPUT, TABLE.program, "--ensemble-of", "'%s' is not logits or probabilities",
                     o->ensemble_of);
}

static bool run(struct eval_run *r, struct eval_options *o, option_set given, fault *f) {
    struct evaluation result;
    struct evaluation_manner manner = {.threads = (unsigned)o->threads, .ensemble = o->ensemble > 0};
    if (!check_ensemble(&manner, o, given, f) || !load(r, o, options_given(&TABLE, given, "max-length"), f) ||
        !can_draw(r, o, f)) {
        return false;
    }
    const struct model *model = &r->inference.model;
    const struct lora *lora = inference_lora(&r->inference);
    return evaluate(&result, EVALUATE_ALL, model, lora, &r->data, &manner, f) &&
           (!*o->dump_logits || evaluate_dump_logits(o->dump_logits, model, lora, &r->data, &manner, f)) &&
           (!*o->reliability || calibration_draw(&result.answers, o->reliability, f)) && print(&result, o->json, f);
}

int main(int argc, char **argv) {
    static struct eval_options options = {.max_length = 512, .ensemble_of = "logits"};
    static const char *const required[] = {"model", "data", NULL};
    static struct eval_run r;
    option_set given;
    fault f = {0};
    bool done = options_parse(&TABLE, &options, &given, argc, argv, &f) &&
                options_require(&TABLE, given, required, &f) && run(&r, &options, given, &f);
    dataset_free(&r.data);
    inference_free(&r.inference);
    if (!done) {
        fprintf(stderr, "%s\n", f.text);
        return f.status;
    }
    return 0;
}
