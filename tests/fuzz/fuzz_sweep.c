// Any bytes are a sweep that is refused with one line, or runs with names of their own and options in their ranges.
#include <stdlib.h>
#include <string.h>

#include "../../trainer/sweep.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool kept) {
    if (!kept) {
        abort();
    }
}

// The path of a run's folder cannot leave the output folder.
static void check_name(const char *name) {
    size_t length = strlen(name);
    check(length > 0 && length < SWEEP_NAME - 1 && *name != '.' && !strchr(name, '/'));
}

static void check_run(const struct sweep *s, size_t run, struct train_options *o) {
    char folder[FILE_PATH_MAX];
    fault f = {0};
    check_name(s->names[run]);
    check(strlen(s->groups[run]) <= strlen(s->names[run]));
    if (!sweep_options(s, run, o, &f)) {
        check(f.status && f.text[0] && !strchr(f.text, '\n'));
        return;
    }
    snprintf(folder, sizeof folder, "out/%s", s->names[run]);
    check(strcmp(o->output, folder) == 0 && strcmp(o->model, "model") == 0 && !*o->sweep && !o->resume);
    check(o->lora_r >= 1 && o->lora_r <= 1024 && o->rate >= 0 && o->rate < 1 && o->seed >= 0 && o->epochs >= 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct train_options line, o;
    static char *words[] = {"lodrop-train", "--sweep", "fuzz", "--output", "out", "--model", "model", "--data", "data"};
    char checkpoint[FILE_PATH_MAX];
    struct sweep s;
    fault f = {0};
    check(train_options_read(&line, checkpoint, sizeof words / sizeof *words, words, &f));
    if (!sweep_read_bytes(&s, data, size, "fuzz", &line, &f)) {
        check(f.status && f.text[0] && !strchr(f.text, '\n') && !s.root && !s.names);
        return 0;
    }
    check(s.count > 0 && s.count <= SWEEP_MOST_RUNS);
    for (size_t run = 0; run < s.count; run++) {
        check_run(&s, run, &o);
    }
    sweep_free(&s);
    return 0;
}
