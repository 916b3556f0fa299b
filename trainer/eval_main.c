// lodrop-eval: the loss of a model, with or without an adapter, on held-out data.
#include <stdio.h>
#include <stdlib.h>

#include "evaluate.h"
#include "file.h"
#include "options.h"
#include "wisdom.h"

struct eval_options {
    char model[OPTION_TEXT_SIZE], adapter[OPTION_TEXT_SIZE], data[OPTION_TEXT_SIZE], dump_logits[OPTION_TEXT_SIZE];
    char reliability[OPTION_TEXT_SIZE];
    int64_t max_length, threads;
    bool json;
};

#define AT(field) offsetof(struct eval_options, field)

static const struct option LIST[] = {
    {"model", OPTION_TEXT, AT(model), 0, 0, "DIR", "Hugging Face folder of a Llama model"},
    {"adapter", OPTION_TEXT, AT(adapter), 0, 0, "DIR", "PEFT folder of a LoRA adapter (default: none)"},
    {"data", OPTION_TEXT, AT(data), 0, 0, "FILE", ".jsonl or plain text"},
    {"max-length", OPTION_INTEGER, AT(max_length), 2, 1048576, "N", "tokens of the longest sequence (default 512)"},
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
             "Exit status: 0 done, 1 bad input, 2 usage, 3 out of memory or disk.\n"},
    .list = LIST,
    .count = sizeof LIST / sizeof *LIST,
};

struct eval_run {
    struct model model;
    struct tokenizer *tokenizer;
    struct dataset data;
    struct adapter_recipe recipe;
    struct layer_dropouts *dropouts; // [layers], what the adapter was trained with
    struct lora lora;
};

static bool load_adapter(struct eval_run *r, const char *folder, fault *f) {
    struct lora_options options = {.leaves = 1};
    char path[FILE_PATH_MAX];
    if (!file_path(path, folder, "lodrop.json", f) || !adapter_read(&options.config, &r->recipe, folder, f) ||
        !layers_settle(&options.config.layers, r->model.config.layers, folder, "layers_to_transform", f) ||
        !dropouts_place(&r->dropouts, r->model.config.layers, &r->recipe.dropouts, r->recipe.seed, path, f)) {
        return false;
    }
    options.dropouts = r->dropouts;
    return lora_make(&r->lora, &r->model.config, &options, LORA_INFERENCE, f) && lora_read(&r->lora, folder, f);
}

static bool load(struct eval_run *r, struct eval_options *o, bool length_asked, fault *f) {
    const struct model_config *c = &r->model.config;
    if (!model_load(&r->model, o->model, f) || !model_fit_length(c, &o->max_length, length_asked, f)) {
        return false;
    }
    struct dataset_options limits = {.max_length = (size_t)o->max_length, .vocab_size = c->vocab_size};
    return tokenizer_load(&r->tokenizer, o->model, f) && tokenizer_fits(r->tokenizer, c->vocab_size, f) &&
           dataset_read(&r->data, o->data, r->tokenizer, &limits, f) &&
           wisdom_read((unsigned)o->threads, f) && (!*o->adapter || load_adapter(r, o->adapter, f));
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

static bool run(struct eval_run *r, struct eval_options *o, option_set given, fault *f) {
    struct evaluation result;
    const struct lora *lora = *o->adapter ? &r->lora : NULL;
    return load(r, o, options_given(&TABLE, given, "max-length"), f) && can_draw(r, o, f) &&
           evaluate(&result, EVALUATE_ALL, &r->model, lora, &r->data, (unsigned)o->threads, f) &&
           (!*o->dump_logits ||
            evaluate_dump_logits(o->dump_logits, &r->model, lora, &r->data, (unsigned)o->threads, f)) &&
           (!*o->reliability || calibration_draw(&result.answers, o->reliability, f)) && print(&result, o->json, f);
}

int main(int argc, char **argv) {
    static struct eval_options options = {.max_length = 512};
    static const char *const required[] = {"model", "data", NULL};
    static struct eval_run r;
    option_set given;
    fault f = {0};
    bool done = options_parse(&TABLE, &options, &given, argc, argv, &f) &&
                options_require(&TABLE, given, required, &f) && run(&r, &options, given, &f);
    dataset_free(&r.data);
    tokenizer_free(r.tokenizer);
    lora_free(&r.lora);
    free(r.dropouts);
    model_free(&r.model);
    if (!done) {
        fprintf(stderr, "%s\n", f.text);
        return f.status;
    }
    return 0;
}
