#include <stdlib.h>
#include <string.h>

#include "sweep.h"

// --- Values and names ---

static bool is_plain(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || strchr(".:+-_", c);
}

static void append(char text[SWEEP_NAME], const char *more) {
    size_t used = strlen(text);
    snprintf(text + used, SWEEP_NAME - used, "%s", more);
}

// A list's parts with + between them; what is neither letter nor digit of file names is _.
void sweep_value_text(const json_t *value, char text[SWEEP_NAME]) {
    *text = 0;
    if (json_is_array(value)) {
        for (size_t i = 0; i < json_array_size(value); i++) {
            char part[SWEEP_NAME];
            sweep_value_text(json_array_get(value, i), part);
            append(text, i ? "+" : "");
            append(text, part);
        }
        return;
    }
    if (json_is_string(value)) {
        append(text, json_string_value(value));
    } else if (json_is_integer(value)) {
        snprintf(text, SWEEP_NAME, "%lld", (long long)json_integer_value(value));
    } else if (json_is_real(value)) {
        snprintf(text, SWEEP_NAME, "%.15g", json_real_value(value));
    } else {
        append(text, json_is_true(value) ? "true" : "false");
    }
    for (char *c = text; *c; c++) {
        *c = is_plain(*c) ? *c : '_';
    }
}

const json_t *sweep_value(size_t run, const struct sweep_axis *axis) {
    return json_array_get(axis->values, run / axis->stride % json_array_size(axis->values));
}

bool sweep_is_seed(const struct sweep_axis *axis) {
    return strcmp(axis->option->name, "seed") == 0;
}

// How many combinations of "vary" each named run has.
static size_t combinations(const struct sweep *s) {
    return s->runs ? s->count / json_array_size(s->runs) : s->count;
}

const char *sweep_run_name(const struct sweep *s, size_t run) {
    return s->runs ? json_string_value(json_object_get(json_array_get(s->runs, run / combinations(s)), "name")) : NULL;
}

// Too long a name is cut here, and found so by its length.
static void make_name(const struct sweep *s, size_t run, bool seeds, char name[SWEEP_NAME]) {
    const char *given = sweep_run_name(s, run);
    *name = 0;
    append(name, given ? given : "");
    for (size_t i = 0; i < s->axes; i++) {
        const struct sweep_axis *axis = &s->axis[i];
        char text[SWEEP_NAME];
        if (seeds || !sweep_is_seed(axis)) {
            sweep_value_text(sweep_value(run, axis), text);
            append(name, *name ? "," : "");
            append(name, axis->option->name);
            append(name, "=");
            append(name, text);
        }
    }
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static bool check_names(const struct sweep *s, fault *f) {
    const char **sorted = malloc(s->count * sizeof *sorted);
    bool done = sorted || fault_memory(f, "the names of the runs");
    for (size_t i = 0; done && i < s->count; i++) {
        sorted[i] = s->names[i];
        if (strlen(sorted[i]) == SWEEP_NAME - 1) {
            done = fault_set(f, FAULT_INPUT, s->file, sorted[i], "the run's name is longer than %d bytes: use \"runs\"",
                             SWEEP_NAME - 2);
        }
    }
    if (done) {
        qsort(sorted, s->count, sizeof *sorted, by_name);
    }
    for (size_t i = 1; done && i < s->count; i++) {
        if (strcmp(sorted[i - 1], sorted[i]) == 0) {
            done = fault_set(f, FAULT_INPUT, s->file, sorted[i], "two runs have this name");
        }
    }
    free(sorted);
    return done;
}

static bool make_names(struct sweep *s, fault *f) {
    s->names = malloc(s->count * sizeof *s->names);
    s->groups = malloc(s->count * sizeof *s->groups);
    if (!s->names || !s->groups) {
        return fault_memory(f, "the names of the runs");
    }
    for (size_t i = 0; i < s->count; i++) {
        make_name(s, i, true, s->names[i]);
        make_name(s, i, false, s->groups[i]);
    }
    return check_names(s, f);
}

// --- Options ---

// What makes no sense for one run of many.
static bool is_of_sweep(const char *name) {
    static const char *const list[] = {"output",     "sweep",        "jobs",          "resume",
                                       "stop-after", "print-config", "dump-gradients"};
    return option_is_among(name, list, sizeof list / sizeof *list);
}

static bool find_option(const struct option **o, struct json_scope scope, const char *name, fault *f) {
    *o = option_find(&train_option_table, name);
    if (!*o) {
        return json_fault(scope, name, f,
                          "no such option: lodrop-train --help lists them, here without dashes in front");
    }
    if (strcmp((*o)->name, name) != 0) {
        return json_fault(scope, name, f, "is spelled %s here", (*o)->name);
    }
    return !is_of_sweep(name) || json_fault(scope, name, f, "cannot be an option of a single run");
}

static option_set bit_of(const struct option *o) {
    return (option_set)1 << (o - train_option_table.list);
}

// The options of an object over those of o, but for those that are kept and for a field that is none.
static bool take_object(struct train_options *o, const json_t *object, option_set kept, const char *other,
                        struct json_scope scope, fault *f) {
    const char *name;
    json_t *value;
    scope.object = object;
    json_object_foreach((json_t *)object, name, value) {
        const struct option *option;
        if (strcmp(name, other) == 0) {
            continue;
        }
        if (!find_option(&option, scope, name, f)) {
            return false;
        }
        if (!(kept & bit_of(option)) && !option_from_json(option, o, scope, name, f)) {
            return false;
        }
        o->given |= bit_of(option);
    }
    return true;
}

static bool take_value(struct train_options *o, const struct sweep_axis *axis, const json_t *value,
                       struct json_scope scope, fault *f) {
    json_t *object = json_pack("{s:O}", axis->option->name, value);
    if (!object) {
        return fault_memory(f, "a value");
    }
    scope.object = object;
    bool done = option_from_json(axis->option, o, scope, axis->option->name, f);
    o->given |= bit_of(axis->option);
    json_decref(object);
    return done;
}

static bool take_all(const struct sweep *s, size_t run, struct train_options *o, fault *f) {
    char within[32];
    size_t named = run / combinations(s);
    snprintf(within, sizeof within, "runs[%zu]", named);
    struct json_scope scope = {.file = s->file, .within = "base"};
    *o = *s->line;
    *o->sweep = 0;
    o->jobs = 1;
    if (!take_object(o, s->base, s->line->given, "", scope, f)) {
        return false;
    }
    scope.within = within;
    if (s->runs && !take_object(o, json_array_get(s->runs, named), 0, "name", scope, f)) {
        return false;
    }
    scope.within = "vary";
    for (size_t i = 0; i < s->axes; i++) {
        if (!take_value(o, &s->axis[i], sweep_value(run, &s->axis[i]), scope, f)) {
            return false;
        }
    }
    return true;
}

bool sweep_options(const struct sweep *s, size_t run, struct train_options *o, fault *f) {
    char folder[FILE_PATH_MAX];
    fault inner;
    if (!take_all(s, run, o, f) || !file_path(folder, s->line->output, s->names[run], f)) {
        return false;
    }
    strcpy(o->output, folder);
    return train_options_complete(o, &inner) ||
           fault_set(f, inner.status, s->file, s->names[run], "%.4000s", inner.text);
}

// --- The file ---

// An option of which the runs get values of their own.
static bool check_varying(const struct sweep *s, const struct option **o, struct json_scope scope, const char *name,
                          fault *f) {
    if (!find_option(o, scope, name, f)) {
        return false;
    }
    return !options_given(&train_option_table, s->line->given, name) ||
           json_fault(scope, name, f, "is on the command line, too");
}

static bool read_axis(struct sweep *s, struct json_scope scope, const char *name, fault *f) {
    struct sweep_axis *axis = &s->axis[s->axes];
    if (!check_varying(s, &axis->option, scope, name, f) ||
        !json_get_array(scope, name, JSON_REQUIRED, &axis->values, f)) {
        return false;
    }
    size_t values = json_array_size(axis->values);
    if (json_object_get(s->base, name)) {
        return json_fault(scope, name, f, "is in base, too");
    }
    if (values == 0) {
        return json_fault(scope, name, f, "has no values");
    }
    if (values > SWEEP_MOST_RUNS / s->count) {
        return json_fault(scope, name, f, "makes more than %d runs", SWEEP_MOST_RUNS);
    }
    s->count *= values;
    s->axes++;
    return true;
}

static bool read_vary(struct sweep *s, struct json_scope top, fault *f) {
    const json_t *object = NULL;
    const char *name;
    json_t *value;
    if (!json_get_object(top, "vary", JSON_OPTIONAL, &object, f)) {
        return false;
    }
    json_object_foreach((json_t *)object, name, value) {
        struct json_scope scope = {.object = object, .file = s->file, .within = "vary"};
        if (!read_axis(s, scope, name, f)) {
            return false;
        }
    }
    size_t stride = 1;
    for (size_t i = s->axes; i-- > 0; stride *= json_array_size(s->axis[i].values)) {
        s->axis[i].stride = stride;
    }
    return true;
}

static bool is_varied(const struct sweep *s, const struct option *o) {
    for (size_t i = 0; i < s->axes; i++) {
        if (s->axis[i].option == o) {
            return true;
        }
    }
    return false;
}

// Names of folders that are neither hidden nor one of the sweep's own files.
static bool check_run_name(struct json_scope scope, const char *name, fault *f) {
    size_t length = strlen(name);
    if (length == 0 || length > 64) {
        return json_fault(scope, "name", f, "must have 1 to 64 bytes");
    }
    for (size_t i = 0; i < length; i++) {
        if (!is_plain(name[i])) {
            return json_fault(scope, "name", f, "must be of letters, digits and . : + - _");
        }
    }
    return (*name != '.' && strncmp(name, "sweep.", 6) != 0) ||
           json_fault(scope, "name", f, "must not begin with . or sweep.");
}

static bool read_run(const struct sweep *s, size_t index, fault *f) {
    char within[32];
    const char *name = "";
    json_t *value;
    const json_t *object = json_array_get(s->runs, index);
    snprintf(within, sizeof within, "runs[%zu]", index);
    struct json_scope scope = {.object = object, .file = s->file, .within = within};
    if (!json_is_object(object)) {
        return fault_set(f, FAULT_INPUT, s->file, within, "must be an object");
    }
    if (!json_get_string(scope, "name", JSON_REQUIRED, &name, f) || !check_run_name(scope, name, f)) {
        return false;
    }
    json_object_foreach((json_t *)object, name, value) {
        const struct option *option;
        if (strcmp(name, "name") == 0) {
            continue;
        }
        if (!check_varying(s, &option, scope, name, f)) {
            return false;
        }
        if (is_varied(s, option)) {
            return json_fault(scope, name, f, "is in vary, too");
        }
    }
    return true;
}

static bool read_runs(struct sweep *s, struct json_scope top, fault *f) {
    if (!json_get_array(top, "runs", JSON_OPTIONAL, &s->runs, f)) {
        return false;
    }
    size_t runs = s->runs ? json_array_size(s->runs) : 1;
    if (s->runs && (runs == 0 || runs > SWEEP_MOST_RUNS / s->count)) {
        return json_fault(top, "runs", f, runs ? "makes more than %d runs" : "is empty", SWEEP_MOST_RUNS);
    }
    for (size_t i = 0; s->runs && i < runs; i++) {
        if (!read_run(s, i, f)) {
            return false;
        }
    }
    s->count *= runs;
    return s->runs || s->axes || fault_set(f, FAULT_INPUT, s->file, NULL, "has neither runs nor vary");
}

static bool read_fields(struct sweep *s, fault *f) {
    struct json_scope top = {.object = s->root, .file = s->file};
    const char *name;
    json_t *value;
    json_object_foreach(s->root, name, value) {
        if (strcmp(name, "base") != 0 && strcmp(name, "runs") != 0 && strcmp(name, "vary") != 0) {
            return json_fault(top, name, f, "unknown: a sweep has base, runs and vary");
        }
    }
    return json_get_object(top, "base", JSON_OPTIONAL, &s->base, f) && read_vary(s, top, f) && read_runs(s, top, f);
}

static bool check_options(const struct sweep *s, fault *f) {
    struct train_options *o = malloc(sizeof *o);
    bool done = o || fault_memory(f, "the options");
    if (done) { // the whole of base, also what the command line replaces
        *o = *s->line;
        done = take_object(o, s->base, 0, "", (struct json_scope){.file = s->file, .within = "base"}, f);
    }
    for (size_t i = 0; done && i < s->count; i++) {
        done = take_all(s, i, o, f);
    }
    free(o);
    return done;
}

static bool read_root(struct sweep *s, fault *f) {
    if (read_fields(s, f) && check_options(s, f) && make_names(s, f)) {
        return true;
    }
    sweep_free(s);
    return false;
}

bool sweep_read(struct sweep *s, const char *file, const struct train_options *line, fault *f) {
    *s = (struct sweep){.file = file, .line = line, .count = 1};
    return json_read_file(&s->root, file, f) && read_root(s, f);
}

bool sweep_read_bytes(struct sweep *s, const void *data, size_t size, const char *file,
                      const struct train_options *line, fault *f) {
    *s = (struct sweep){.file = file, .line = line, .count = 1};
    return json_read_bytes(&s->root, data, size, file, f) && read_root(s, f);
}

void sweep_free(struct sweep *s) {
    json_decref(s->root);
    free(s->names);
    free(s->groups);
    *s = (struct sweep){0};
}
