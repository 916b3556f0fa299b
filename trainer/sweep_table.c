// What came out of a sweep, grouped over seeds: sweep.json for programs, sweep.md for people.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "file.h"
#include "sweep.h"

// --- Figures ---

static const json_t *look_up(const json_t *object, const char *path) {
    char part[64];
    while (object && *path) {
        size_t length = strcspn(path, ".");
        snprintf(part, sizeof part, "%.*s", (int)length, path);
        object = json_object_get(object, part);
        path += path[length] ? length + 1 : length;
    }
    return object;
}

bool sweep_figure_of(double *value, const struct sweep_result *result, const char *path) {
    const json_t *found = look_up(result->summary, path);
    if (!json_is_number(found) || (result->resumed && strcmp(path, "seconds") == 0)) {
        return false;
    }
    *value = json_number_value(found);
    return true;
}

// "exact_match" as a title: "exact match".
static void add_metric(struct sweep_figure *figure, const char *name) {
    *figure = (struct sweep_figure){.format = "%.4f", .unit = 1};
    snprintf(figure->path, sizeof figure->path, "eval.metrics.%.48s", name);
    snprintf(figure->name, sizeof figure->name, "%.48s", name);
    strcpy(figure->title, figure->name);
    for (char *c = figure->title; *c; c++) {
        *c = *c == '_' ? ' ' : *c;
    }
}

size_t sweep_list_figures(struct sweep_figure list[SWEEP_FIGURES], const struct sweep *s,
                          const struct sweep_result *results) {
    static const struct sweep_figure train = {"train_loss", "train_loss", "training loss", "%.4f", 1};
    static const struct sweep_figure loss = {"eval.loss", "held_out_loss", "held-out loss", "%.4f", 1};
    static const struct sweep_figure last[] = {{"seconds", "seconds", "seconds", "%.1f", 1},
                                               {"peak_rss_bytes", "peak_rss_bytes", "peak MiB", "%.1f", 1048576}};
    size_t count = 0, run = 0;
    while (run < s->count && !results[run].summary) {
        run++;
    }
    list[count++] = train;
    const json_t *summary = run < s->count ? results[run].summary : NULL;
    if (json_is_object(json_object_get(summary, "eval"))) {
        const char *name;
        json_t *value;
        list[count++] = loss;
        json_object_foreach((json_t *)look_up(summary, "eval.metrics"), name, value) {
            if (json_is_number(value) && count < SWEEP_FIGURES - sizeof last / sizeof *last) {
                add_metric(&list[count++], name);
            }
        }
    }
    memcpy(&list[count], last, sizeof last);
    return count + sizeof last / sizeof *last;
}

// --- Groups ---

bool sweep_is_first(const struct sweep *s, size_t run) {
    for (size_t i = 0; i < run; i++) {
        if (strcmp(s->groups[i], s->groups[run]) == 0) {
            return false;
        }
    }
    return true;
}

struct sweep_mean sweep_mean_of(const struct sweep *s, const struct sweep_result *results, const char *group,
                                const char *path) {
    struct sweep_mean m = {0};
    double value, squares = 0;
    for (size_t i = 0; i < s->count; i++) {
        if (strcmp(s->groups[i], group) == 0 && sweep_figure_of(&value, &results[i], path)) {
            double before = value - m.mean; // Welford's recurrence
            m.mean += before / (double)++m.count;
            squares += before * (value - m.mean);
        }
    }
    m.deviation = m.count > 1 ? sqrt(squares / (double)(m.count - 1)) : 0;
    return m;
}

struct tally {
    size_t runs, done, failed;
};

static struct tally tally_of(const struct sweep *s, const struct sweep_result *results, const char *group) {
    struct tally t = {0};
    for (size_t i = 0; i < s->count; i++) {
        if (strcmp(s->groups[i], group) == 0) {
            t.runs++;
            t.done += results[i].summary != NULL;
            t.failed += *results[i].reason != 0;
        }
    }
    return t;
}

// --- sweep.json ---

// The options that vary, with their values; of a group: but for the seed.
static json_t *varying_json(const struct sweep *s, size_t run, bool seed) {
    json_t *object = json_object();
    for (size_t i = 0; i < s->axes; i++) {
        if (seed || !sweep_is_seed(&s->axis[i])) {
            json_object_set(object, s->axis[i].option->name, (json_t *)sweep_value(run, &s->axis[i]));
        }
    }
    return object;
}

static json_t *run_json(const struct sweep *s, const struct sweep_result *r, size_t run) {
    const char *state = r->summary ? "done" : *r->reason ? "failed" : "open";
    json_t *object = json_pack("{s:s, s:s, s:o, s:s}", "name", s->names[run], "group", s->groups[run], "options",
                               varying_json(s, run, true), "state", state);
    if (*r->reason) {
        json_object_set_new(object, "reason", json_string(r->reason));
    }
    if (r->summary) {
        json_object_set_new(object, "resumed", json_boolean(r->resumed));
        json_object_set(object, "summary", r->summary);
    }
    return object;
}

static json_t *group_json(const struct sweep *s, const struct sweep_result *results, size_t first) {
    struct sweep_figure figures[SWEEP_FIGURES];
    const char *group = s->groups[first];
    struct tally t = tally_of(s, results, group);
    json_t *object = json_pack("{s:s, s:o, s:I, s:I, s:I}", "name", group, "options", varying_json(s, first, false),
                               "runs", (json_int_t)t.runs, "done", (json_int_t)t.done, "failed", (json_int_t)t.failed);
    size_t count = sweep_list_figures(figures, s, results);
    for (size_t i = 0; i < count; i++) {
        struct sweep_mean m = sweep_mean_of(s, results, group, figures[i].path);
        if (m.count) {
            json_object_set_new(object, figures[i].name,
                                json_pack("{s:f, s:f, s:I}", "mean", m.mean, "standard_deviation", m.deviation, "runs",
                                          (json_int_t)m.count));
        }
    }
    return object;
}

static bool write_json(const struct sweep *s, const struct sweep_result *results, fault *f) {
    char path[FILE_PATH_MAX];
    json_t *runs = json_array(), *groups = json_array();
    for (size_t i = 0; i < s->count; i++) {
        json_array_append_new(runs, run_json(s, &results[i], i));
        if (sweep_is_first(s, i)) {
            json_array_append_new(groups, group_json(s, results, i));
        }
    }
    json_t *root = json_pack("{s:o, s:o}", "groups", groups, "runs", runs);
    bool done = root ? file_path(path, s->line->output, "sweep.json", f) && json_write_file(root, path, f)
                     : fault_memory(f, "sweep.json");
    json_decref(root);
    return done;
}

// --- sweep.md ---

enum { CELL = SWEEP_NAME };

struct table {
    size_t columns, rows; // the header is a row
    size_t left;          // the first columns, of text
    char (*cells)[CELL];  // [rows][columns]
};

static char *cell(const struct table *t, size_t row, size_t column) {
    return t->cells[row * t->columns + column];
}

// Characters, of which "±" is one.
static int width_of(const char *text) {
    int width = 0;
    for (; *text; text++) {
        width += (*text & 0xc0) != 0x80;
    }
    return width;
}

static void fill_header(struct table *t, const struct sweep *s, const struct sweep_figure *figures) {
    size_t column = 0;
    if (s->runs) {
        strcpy(cell(t, 0, column++), "run");
    }
    for (size_t i = 0; i < s->axes; i++) {
        if (!sweep_is_seed(&s->axis[i])) {
            snprintf(cell(t, 0, column++), CELL, "%s", s->axis[i].option->name);
        }
    }
    t->left = column;
    strcpy(cell(t, 0, column++), "runs");
    for (size_t i = 0; column < t->columns; i++) {
        snprintf(cell(t, 0, column++), CELL, "%s", figures[i].title);
    }
}

static void print_mean(char text[CELL], struct sweep_mean m, const struct sweep_figure *figure) {
    char mean[32], deviation[32];
    snprintf(mean, sizeof mean, figure->format, m.mean / figure->unit);
    snprintf(deviation, sizeof deviation, figure->format, m.deviation / figure->unit);
    snprintf(text, CELL, m.count > 1 ? "%s ± %s" : "%s", m.count ? mean : "-", deviation);
}

static void fill_row(struct table *t, size_t row, const struct sweep *s, const struct sweep_result *results,
                     size_t first, const struct sweep_figure *figures) {
    size_t column = 0;
    const char *group = s->groups[first];
    struct tally tally = tally_of(s, results, group);
    if (s->runs) {
        snprintf(cell(t, row, column++), CELL, "%s", sweep_run_name(s, first));
    }
    for (size_t i = 0; i < s->axes; i++) {
        if (!sweep_is_seed(&s->axis[i])) {
            sweep_value_text(sweep_value(first, &s->axis[i]), cell(t, row, column++));
        }
    }
    snprintf(cell(t, row, column++), CELL, tally.done < tally.runs ? "%zu of %zu" : "%zu", tally.done, tally.runs);
    for (size_t i = 0; column < t->columns; i++) {
        print_mean(cell(t, row, column++), sweep_mean_of(s, results, group, figures[i].path), &figures[i]);
    }
}

static bool write_text(struct file_writer *out, const char *text, fault *f) {
    return file_write(out, text, strlen(text), f);
}

static bool write_row(struct file_writer *out, const struct table *t, size_t row, const int *widths, fault *f) {
    char text[2 * CELL];
    for (size_t i = 0; i < t->columns; i++) {
        const char *words = cell(t, row, i);
        int blanks = widths[i] - width_of(words);
        snprintf(text, sizeof text, "| %*s%s%*s ", i < t->left ? 0 : blanks, "", words, i < t->left ? blanks : 0, "");
        if (!write_text(out, text, f)) {
            return false;
        }
    }
    return write_text(out, "|\n", f);
}

static bool write_rule(struct file_writer *out, const struct table *t, const int *widths, fault *f) {
    char dashes[CELL];
    memset(dashes, '-', sizeof dashes);
    for (size_t i = 0; i < t->columns; i++) {
        char text[2 * CELL];
        int width = widths[i];
        snprintf(text, sizeof text, i < t->left ? "| %.*s " : "| %.*s: ", i < t->left ? width : width - 1, dashes);
        if (!write_text(out, text, f)) {
            return false;
        }
    }
    return write_text(out, "|\n", f);
}

static bool write_rows(struct file_writer *out, const struct table *t, fault *f) {
    int widths[OPTIONS_MAX + SWEEP_FIGURES + 2];
    for (size_t i = 0; i < t->columns; i++) {
        widths[i] = 3;
        for (size_t row = 0; row < t->rows; row++) {
            int width = width_of(cell(t, row, i));
            widths[i] = width > widths[i] ? width : widths[i];
        }
    }
    for (size_t row = 0; row < t->rows; row++) {
        if (!write_row(out, t, row, widths, f) || (row == 0 && !write_rule(out, t, widths, f))) {
            return false;
        }
    }
    return true;
}

static bool write_notes(struct file_writer *out, const struct sweep *s, const struct sweep_result *results, fault *f) {
    char text[SWEEP_NAME + sizeof results->reason + 32];
    bool done = write_text(out, "\nMean ± standard deviation over the seeds.\n", f);
    for (size_t i = 0; done && i < s->count; i++) {
        if (*results[i].reason) {
            snprintf(text, sizeof text, "\n%s failed: %s\n", s->names[i], results[i].reason);
            done = write_text(out, text, f);
        } else if (results[i].summary && results[i].resumed) {
            snprintf(text, sizeof text, "\n%s was interrupted: its seconds are left out.\n", s->names[i]);
            done = write_text(out, text, f);
        }
    }
    return done;
}

static bool make_table(struct table *t, const struct sweep *s, const struct sweep_result *results, fault *f) {
    struct sweep_figure figures[SWEEP_FIGURES];
    *t = (struct table){.columns = sweep_list_figures(figures, s, results) + 1 + (s->runs != NULL), .rows = 1};
    for (size_t i = 0; i < s->axes; i++) {
        t->columns += !sweep_is_seed(&s->axis[i]);
    }
    t->cells = calloc((s->count + 1) * t->columns, sizeof *t->cells);
    if (!t->cells) {
        return fault_memory(f, "sweep.md");
    }
    fill_header(t, s, figures);
    for (size_t i = 0; i < s->count; i++) {
        if (sweep_is_first(s, i)) {
            fill_row(t, t->rows++, s, results, i, figures);
        }
    }
    return true;
}

static bool write_markdown(const struct sweep *s, const struct sweep_result *results, fault *f) {
    char path[FILE_PATH_MAX];
    struct table t;
    struct file_writer out = {.descriptor = -1};
    bool done = make_table(&t, s, results, f) && file_path(path, s->line->output, "sweep.md", f) &&
                file_writer_open(&out, path, f) && write_rows(&out, &t, f) && write_notes(&out, s, results, f) &&
                file_commit(&out, f);
    file_abandon(&out);
    free(t.cells);
    return done;
}

bool sweep_write_table(const struct sweep *s, const struct sweep_result *results, fault *f) {
    return write_json(s, results, f) && write_markdown(s, results, f) && sweep_draw(s, results, f);
}
