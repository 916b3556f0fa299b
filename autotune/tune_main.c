// lodrop-tune: plans shapes once, prints the estimate against what won, and keeps the winners as wisdom.
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tune.h"

static const char usage[] =
    "usage: lodrop-tune --model DIR [--batch-size N] [--max-length N] [options]\n"
    "       lodrop-tune --shapes FILE [options]\n"
    "\n"
    "Measures which kernels and block sizes are fastest here, prints the estimate against the winner, and keeps the\n"
    "winners as wisdom, which the trainer's programs and every lod_plan_* call after lod_wisdom_load use. A plan\n"
    "changes time, never results.\n"
    "\n"
    "  --model DIR       the shapes of a Hugging Face folder of a Llama model, in training\n"
    "  --batch-size N    examples of a batch (8)\n"
    "  --max-length N    tokens of an example (512)\n"
    "  --shapes FILE     layers, attention and losses, in lines as lodrop-bench reads them\n"
    "  --rigor NAME      estimate: only print; measure (the default): one setting after the other; exhaustive: all\n"
    "                    combinations; audit: plan at all three and measure their choices against each other\n"
    "  --threads N       default 0: as many as this process may use\n"
    "  --time-limit S    seconds for the whole of it; the best that was found by then is kept, as measured\n"
    "  --wisdom FILE     where to keep it (default: LODROP_WISDOM, else lodrop/wisdom.<isa>.<threads> in the user's\n"
    "                    cache folder)\n"
    "  --version         the version\n"
    "\n"
    "Exit status: 0 done, 1 bad input, 2 usage, 3 out of memory or disk.\n";

enum { ROUNDS = 9, RIGORS = 3 };
typedef enum mode { MODE_ESTIMATE, MODE_MEASURE, MODE_EXHAUSTIVE, MODE_AUDIT, MODES } mode;
static const char *const mode_texts[MODES] = {"estimate", "measure", "exhaustive", "audit"};

typedef struct options {
    const char *model, *shapes, *wisdom;
    size_t examples, length;
    mode mode;
    unsigned threads;
    double time_limit; // negative: none
} options;

static _Noreturn void bad_usage(void) {
    fputs("lodrop-tune --help tells more\n", stderr);
    exit(2);
}

static _Noreturn void fail(const lod_error *err) {
    fprintf(stderr, "lodrop-tune: %s: %s\n", err->field, err->text);
    exit(err->code == LOD_NO_MEMORY || err->code == LOD_FILE ? 3 : 1);
}

// --- The command line ---

static size_t number_of(const char *option, const char *text, size_t least, size_t most) {
    char *end;
    unsigned long long value = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || value < least || value > most) {
        fprintf(stderr, "lodrop-tune: %s: %s is not in %zu..%zu\n", option, text, least, most);
        exit(1);
    }
    return (size_t)value;
}

static double seconds_of(const char *text) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= 0 && value <= 1e9)) {
        fprintf(stderr, "lodrop-tune: --time-limit: %s is not in 0..1e9\n", text);
        exit(1);
    }
    return value;
}

static mode mode_of(const char *text) {
    for (mode m = 0; m < MODES; m++) {
        if (strcmp(text, mode_texts[m]) == 0) return m;
    }
    fprintf(stderr, "lodrop-tune: --rigor: %s is not estimate, measure, exhaustive or audit\n", text);
    exit(1);
}

static void set_option(options *o, int option, const char *value) {
    switch (option) {
    case 'm': o->model = value; break;
    case 's': o->shapes = value; break;
    case 'w': o->wisdom = value; break;
    case 'b': o->examples = number_of("--batch-size", value, 1, 65536); break;
    case 'l': o->length = number_of("--max-length", value, 2, 1048576); break;
    case 't': o->threads = (unsigned)number_of("--threads", value, 0, 1024); break;
    case 'r': o->mode = mode_of(value); break;
    case 'T': o->time_limit = seconds_of(value); break;
    case 'h': fputs(usage, stdout); exit(0);
    case 'v': puts("lodrop-tune " LOD_VERSION); exit(0);
    default: bad_usage(); // getopt_long has said which
    }
}

static options parse(int argc, char **argv) {
    static const struct option known[] = {
        {"model", required_argument, NULL, 'm'},      {"shapes", required_argument, NULL, 's'},
        {"wisdom", required_argument, NULL, 'w'},     {"batch-size", required_argument, NULL, 'b'},
        {"max-length", required_argument, NULL, 'l'}, {"threads", required_argument, NULL, 't'},
        {"rigor", required_argument, NULL, 'r'},      {"time-limit", required_argument, NULL, 'T'},
        {"help", no_argument, NULL, 'h'},             {"version", no_argument, NULL, 'v'},
        {0}};
    options o = {.examples = 8, .length = 512, .mode = MODE_MEASURE, .time_limit = -1};
    for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        set_option(&o, option, optarg);
    }
    if (optind < argc) {
        fprintf(stderr, "lodrop-tune: '%s' belongs to no option\n", argv[optind]);
        bad_usage();
    }
    if (!o.model == !o.shapes) {
        fputs("lodrop-tune: needs --model or --shapes, one of the two\n", stderr);
        bad_usage();
    }
    if (!o.threads) o.threads = lod_default_threads();
    return o;
}

// --- Planning ---

void tune_add(tune_shapes *shapes, const tune_shape *shape) {
    tune_shape *list = realloc(shapes->list, (shapes->count + 1) * sizeof *list);
    if (!list) {
        fputs("lodrop-tune: no memory for the list of shapes\n", stderr);
        exit(3);
    }
    list[shapes->count] = *shape;
    *shapes = (tune_shapes){.list = list, .count = shapes->count + 1};
}

static lod_plan plan_shape(const tune_shape *s, unsigned threads, lod_rigor rigor) {
    lod_plan *plan, copy;
    lod_error err;
    lod_status status = LOD_OK;
    if (s->kind == LOD_PLAN_LOWRANK) {
        status = lod_plan_lowrank(&s->shape.lowrank, threads, rigor, &plan, &err);
    } else if (s->kind == LOD_PLAN_ATTENTION) {
        status = lod_plan_attention(&s->shape.attention, threads, rigor, &plan, &err);
    } else {
        status = lod_plan_loss(&s->shape.loss, threads, rigor, &plan, &err);
    }
    if (status != LOD_OK) fail(&err);
    copy = *plan;
    lod_plan_free(plan);
    return copy;
}

// --- What is printed ---

static void print_choice(const lod_choice *c, lod_plan_part part) {
    char text[LOD_BLOCKS_TEXT];
    if (part == LOD_PART_ATTENTION) {
        snprintf(text, sizeof text, "%ux%u queries %zu", c->tile->mr, c->tile->nr, c->query_block);
    } else {
        lod_print_blocks(part == LOD_PART_FORWARD ? &c->forward : &c->backward, text);
    }
    printf("  %-30s", text);
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *list, size_t count) {
    qsort(list, count, sizeof *list, ascending);
    return list[count / 2];
}

// Runs the choices in turns; seconds[i] becomes the median of choice i, gain[i] that of the ratios of the first to it.
// False where time was up before there was one round.
static bool measure(const lod_plan *plan, lod_plan_part part, const lod_choice *choices, size_t count, double until,
                    double seconds[RIGORS], double gain[RIGORS]) {
    double all[RIGORS][ROUNDS], ratios[ROUNDS];
    size_t rounds = 0;
    if (lod_clock_seconds() >= until) return false;
    lod_trial *trial = lod_trial_make(plan, part);
    if (!trial) fail(&(lod_error){LOD_NO_MEMORY, "shapes", "no memory to measure on"});
    for (size_t i = 0; i < count; i++) lod_trial_run(trial, &choices[i], 2); // warms up
    for (; rounds < ROUNDS && lod_clock_seconds() < until; rounds++) {
        for (size_t i = 0; i < count; i++) all[i][rounds] = lod_trial_run(trial, &choices[i], 2) / 2;
    }
    lod_trial_free(trial);
    for (size_t i = 0; rounds && i < count; i++) {
        for (size_t round = 0; round < rounds; round++) ratios[round] = all[0][round] / all[i][round];
        gain[i] = median(ratios, rounds);
    }
    for (size_t i = 0; rounds && i < count; i++) seconds[i] = median(all[i], rounds);
    return rounds > 0;
}

// One line: the choices in the order of rigor, the first with its time, the others with what they gain on it, as far as
// time allows.
static void print_part(const char *name, const char *pass, const lod_plan *plan, lod_plan_part part,
                       const lod_choice *choices, size_t count, double until) {
    double seconds[RIGORS], gain[RIGORS];
    const bool timed = measure(plan, part, choices, count, until, seconds, gain);
    printf("%-22s %-8s", name, pass);
    for (size_t i = 0; i < count; i++) {
        print_choice(&choices[i], part);
        if (!timed) {
            printf(" %12s", "-");
        } else if (i == 0) {
            printf(" %9.3f ms", seconds[0] * 1e3);
        } else {
            printf(" %6.3f x", gain[i]);
        }
    }
    printf("\n");
    fflush(stdout);
}

// The shape whose choice serves all of its class, which is what is measured.
static tune_shape class_of(const tune_shape *s, unsigned threads) {
    tune_shape class = *s;
    const lod_plan plan = plan_shape(s, threads, LOD_ESTIMATE), of = lod_plan_class(&plan);
    class.shape.lowrank = of.shape.lowrank;
    if (s->kind == LOD_PLAN_ATTENTION) class.shape.attention = of.shape.attention;
    if (s->kind == LOD_PLAN_LOSS) class.shape.loss = of.shape.loss;
    return class;
}

// Until then; one half of the time is for searches, the other for comparisons.
static void tune(const tune_shape *shape, const options *o, double until) {
    static const lod_rigor rigors[MODES][RIGORS] = {
        [MODE_MEASURE] = {LOD_ESTIMATE, LOD_MEASURE},
        [MODE_EXHAUSTIVE] = {LOD_ESTIMATE, LOD_EXHAUSTIVE},
        [MODE_AUDIT] = {LOD_ESTIMATE, LOD_MEASURE, LOD_EXHAUSTIVE},
    };
    const size_t count = o->mode == MODE_ESTIMATE ? 1 : o->mode == MODE_AUDIT ? 3 : 2;
    const tune_shape class = class_of(shape, o->threads), *s = &class;
    lod_choice choices[RIGORS];
    lod_plan plan = {0};
    if (o->time_limit >= 0) {
        const double left = until - lod_clock_seconds(), searches = count > 2 ? 2 : 1;
        lod_plan_time_limit(left > 0 ? left / 2 / searches : 0);
    }
    for (size_t i = 0; i < count; i++) {
        plan = plan_shape(s, o->threads, rigors[o->mode][i]);
        if (i == 0) { // wisdom answers even an estimate
            lod_estimate(&plan);
            lod_plan_settle(&plan);
        }
        choices[i] = plan.choice;
    }
    if (s->kind == LOD_PLAN_ATTENTION) {
        print_part(s->name, "", &plan, LOD_PART_ATTENTION, choices, count, until);
    } else {
        const double now = lod_clock_seconds();
        print_part(s->name, "forward", &plan, LOD_PART_FORWARD, choices, count, now + (until - now) / 2);
        print_part(s->name, "backward", &plan, LOD_PART_BACKWARD, choices, count, until);
    }
}

// --- Wisdom ---

static void load_wisdom(const options *o) {
    lod_error err;
    lod_status status = lod_wisdom_load(o->wisdom, o->threads, &err);
    if (status == LOD_BAD_WISDOM) fprintf(stderr, "lodrop-tune: %s: %s; starts anew\n", err.field, err.text);
    if (status == LOD_NO_MEMORY) fail(&err);
}

static void save_wisdom(const options *o) {
    char path[4096];
    lod_error err;
    if (lod_wisdom_save(o->wisdom, o->threads, &err) != LOD_OK) fail(&err);
    if (!o->wisdom && lod_wisdom_path(o->threads, path, sizeof path, &err) != LOD_OK) fail(&err);
    printf("wisdom: %s\n", o->wisdom ? o->wisdom : path);
}

static void read_shapes(tune_shapes *shapes, const options *o) {
    if (o->shapes) {
        tune_read_shapes(shapes, o->shapes);
        return;
    }
#ifdef LODROP_TRAINER
    tune_read_model(shapes, o->model, o->examples, o->length);
#else
    fputs("lodrop-tune: --model: this build has no trainer, which reads models\n", stderr);
    exit(1);
#endif
}

int main(int argc, char **argv) {
    const options o = parse(argc, argv);
    const double begin = lod_clock_seconds();
    const char *isa;
    lod_error err;
    tune_shapes shapes = {0};
    if (lod_isa_name(&isa, &err) != LOD_OK) fail(&err);
    read_shapes(&shapes, &o);
    if (o.mode != MODE_AUDIT) load_wisdom(&o); // an audit measures anew
    printf("%s, threads %u: %s\n", isa, o.threads, mode_texts[o.mode]);
    for (size_t i = 0; i < shapes.count; i++) {
        tune(&shapes.list[i], &o, o.time_limit < 0 ? INFINITY : begin + o.time_limit * (double)(i + 1) / shapes.count);
    }
    if (o.mode != MODE_ESTIMATE) save_wisdom(&o);
    printf("%.1f s\n", lod_clock_seconds() - begin);
    free(shapes.list);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fputs("lodrop-tune: standard output: cannot write\n", stderr);
        return 3;
    }
    return 0;
}
