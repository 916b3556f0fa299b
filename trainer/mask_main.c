// lodrop-mask: the masks that training draws on the inputs of adapters, for use in other programs.
#include <stdio.h>
#include <stdlib.h>

#include "adapter.h"
#include "library.h"
#include "options.h"

struct mask_options {
    char module[OPTION_TEXT_SIZE];
    int64_t seed, layer, draw, instance, row, rows, col, cols;
    double p;
};

#define AT(field)  offsetof(struct mask_options, field)
#define MOST_CELLS 4294967295.0

static const struct option LIST[] = {
    {"seed", OPTION_INTEGER, AT(seed), 0, 9.2e18, "N", "of the run (default 0)"},
    {"layer", OPTION_INTEGER, AT(layer), 0, 1023, "N", "of the model (default 0)"},
    {"module", OPTION_TEXT, AT(module), 0, 0, "NAME", "whose adapter's input: q_proj, ..., down_proj"},
    {"draw", OPTION_INTEGER, AT(draw), 0, MOST_CELLS, "N", "running number of the example visit (default 0)"},
    {"instance", OPTION_INTEGER, AT(instance), 0, 63, "N", "of --instances, or of a second pass: 1 (default 0)"},
    {"row", OPTION_INTEGER, AT(row), 0, MOST_CELLS, "N", "first token of the example (default 0)"},
    {"rows", OPTION_INTEGER, AT(rows), 1, MOST_CELLS, "N", "tokens"},
    {"col", OPTION_INTEGER, AT(col), 0, MOST_CELLS, "N", "first feature (default 0)"},
    {"cols", OPTION_INTEGER, AT(cols), 1, MOST_CELLS, "N", "features"},
    {"p", OPTION_RATE, AT(p), 0, 0, "P", "rate"},
};

static const struct option_table TABLE = {
    .program = "lodrop-mask",
    .usage = "usage: lodrop-mask --module NAME --rows N --cols N --p P [options] > FILE\n\n"
             "Writes the input mask of an adapter, one byte a cell, row by row: 1 kept, 0 dropped.\n",
    .list = LIST,
    .count = sizeof LIST / sizeof *LIST,
};

static bool one_module(enum adapter_module *module, const char *name, fault *f) {
    unsigned set;
    if (!adapter_modules_parse(name, &set, "lodrop-mask", "--module", f)) {
        return false;
    }
    for (enum adapter_module i = 0; i < ADAPTER_MODULES; i++) {
        if (set == 1u << i) {
            *module = i;
            return true;
        }
    }
    return fault_set(f, FAULT_INPUT, "lodrop-mask", "--module", "'%s' is more than one", name);
}

static bool dump(const struct mask_options *o, fault *f) {
    enum adapter_module module = ADAPTER_Q_PROJ;
    lod_error err;
    uint32_t site;
    if (!one_module(&module, o->module, f) ||
        !library_done(
            lod_site(LOD_DOMAIN_TRAIN, (unsigned)o->layer, LOD_POSITION_LORA_INPUT + module, (unsigned)o->instance, 0,
                     &site, &err),
            &err, f)) {
        return false;
    }
    uint8_t *keep = malloc((size_t)o->cols);
    bool done = keep || fault_memory(f, "a row of the mask");
    for (int64_t row = 0; done && row < o->rows; row++) {
        done = library_done(lod_mask_dump((uint64_t)o->seed, site, (uint32_t)o->draw, o->p, (size_t)(o->row + row), 1,
                                          (size_t)o->col, (size_t)o->cols, keep, &err),
                            &err, f);
        if (done && fwrite(keep, 1, (size_t)o->cols, stdout) != (size_t)o->cols) {
            done = fault_set(f, FAULT_RESOURCE, "standard output", NULL, "cannot write");
        }
    }
    free(keep);
    return done && (fflush(stdout) == 0 || fault_set(f, FAULT_RESOURCE, "standard output", NULL, "cannot write"));
}

int main(int argc, char **argv) {
    static struct mask_options options;
    static const char *const required[] = {"module", "rows", "cols", "p", NULL};
    option_set given;
    fault f = {0};
    if (!options_parse(&TABLE, &options, &given, argc, argv, &f) || !options_require(&TABLE, given, required, &f) ||
        !dump(&options, &f)) {
        fprintf(stderr, "%s\n", f.text);
        return f.status;
    }
    return 0;
}
