// Two runs compared, benchmark by benchmark. A benchmark's time is the median of its repetitions; its spread is the
// distance of its quartiles. It has changed where the medians differ by more than the larger of the two spreads: the
// median of 9 has a standard error of about a third of that distance, so of a hundred that did not change one or two
// still seem to have. With one thread times are CPU times, which a busy machine disturbs least.
#include <jansson.h>
#include <regex.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "against.h"

enum { LEAST_REPETITIONS = 3 };

static _Noreturn void refuse(const char *path, const char *field, const char *why) {
    fprintf(stderr, "%s: %s: %s\n", path, field, why);
    exit(1);
}

static void *grow(void *list, size_t count, size_t size) {
    void *longer = realloc(list, (count + 1) * size);
    if (!longer) refuse("lodrop-bench", "--against", "no memory");
    return longer;
}

// --- Reading ---

static double seconds_of(const char *path, const json_t *repetition, const char *field) {
    static const struct {
        const char *name;
        double seconds;
    } units[] = {{"ns", 1e-9}, {"us", 1e-6}, {"ms", 1e-3}, {"s", 1}};
    const json_t *time = json_object_get(repetition, field);
    const char *unit = json_string_value(json_object_get(repetition, "time_unit"));
    if (!json_is_number(time) || !(json_number_value(time) > 0)) refuse(path, field, "is not a positive number");
    for (size_t i = 0; unit && i < sizeof units / sizeof units[0]; i++) {
        if (strcmp(unit, units[i].name) == 0) return json_number_value(time) * units[i].seconds;
    }
    refuse(path, "time_unit", "is none of ns, us, ms, s");
}

static void add(against_run *run, const char *path, const char *time, const json_t *repetition) {
    const char *type = json_string_value(json_object_get(repetition, "run_type"));
    const char *name = json_string_value(json_object_get(repetition, "run_name"));
    if (!type) refuse(path, "run_type", "is missing");
    if (!name) refuse(path, "run_name", "is missing");
    if (strcmp(type, "iteration") != 0 || json_is_true(json_object_get(repetition, "error_occurred"))) return;
    against_series *s = run->series;
    while (s < run->series + run->count && strcmp(s->name, name) != 0) {
        s++;
    }
    if (s == run->series + run->count) {
        run->series = grow(run->series, run->count, sizeof *run->series);
        s = &run->series[run->count++];
        *s = (against_series){.name = strcpy(grow(NULL, strlen(name), 1), name)};
    }
    s->seconds = grow(s->seconds, s->count, sizeof *s->seconds);
    s->seconds[s->count++] = seconds_of(path, repetition, time);
}

static int ascending(const void *left, const void *right) {
    const double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static int by_name(const void *left, const void *right) {
    return strcmp(((const against_series *)left)->name, ((const against_series *)right)->name);
}

against_run against_read(const char *path, unsigned threads) {
    json_error_t error;
    json_t *root = json_load_file(path, 0, &error);
    if (!root) refuse(path, "JSON", error.text);
    const char *told = json_string_value(json_object_get(json_object_get(root, "context"), "threads"));
    const json_t *list = json_object_get(root, "benchmarks"), *repetition;
    char wanted[16];
    snprintf(wanted, sizeof wanted, "%u", threads);
    if (!told) refuse(path, "context.threads", "is missing: lodrop-bench --benchmark_out=FILE writes it");
    if (strcmp(told, wanted) != 0) refuse(path, "context.threads", "is another number of threads");
    if (!json_is_array(list)) refuse(path, "benchmarks", "is not an array");
    against_run run = {0};
    size_t i;
    json_array_foreach(list, i, repetition) {
        add(&run, path, threads == 1 ? "cpu_time" : "real_time", repetition);
    }
    for (i = 0; i < run.count; i++) {
        if (run.series[i].count < LEAST_REPETITIONS) refuse(path, run.series[i].name, "has fewer than 3 repetitions");
        qsort(run.series[i].seconds, run.series[i].count, sizeof(double), ascending);
    }
    if (run.count) qsort(run.series, run.count, sizeof *run.series, by_name);
    json_decref(root);
    return run;
}

void against_free(against_run *run) {
    for (size_t i = 0; i < run->count; i++) {
        free(run->series[i].name);
        free(run->series[i].seconds);
    }
    free(run->series);
}

// --- Comparing ---

// The q-quantile, interpolated.
static double quantile(const against_series *s, double q) {
    const double at = q * (double)(s->count - 1);
    const size_t below = (size_t)at, above = below + 1 < s->count ? below + 1 : below;
    return s->seconds[below] + (s->seconds[above] - s->seconds[below]) * (at - (double)below);
}

typedef struct change {
    const char *name;
    double before, after, ratio, spread; // medians in seconds, after / before, spread as a share of before
} change;

static change compare(const against_series *old, const against_series *now) {
    const double before = quantile(old, 0.5), after = quantile(now, 0.5);
    const double old_spread = quantile(old, 0.75) - quantile(old, 0.25);
    const double new_spread = quantile(now, 0.75) - quantile(now, 0.25);
    return (change){.name = now->name, .before = before, .after = after, .ratio = after / before,
                    .spread = (old_spread > new_spread ? old_spread : new_spread) / before};
}

static int slowest_first(const void *left, const void *right) {
    const double a = ((const change *)left)->ratio, b = ((const change *)right)->ratio;
    return (a < b) - (a > b);
}

static int fastest_first(const void *left, const void *right) {
    return slowest_first(right, left);
}

static void print_changes(const char *title, const change *changes, size_t count) {
    if (count) printf("%s\n", title);
    for (size_t i = 0; i < count; i++) {
        const change *c = &changes[i];
        printf("  %-64s %10.4g -> %10.4g us  %.3f x, spread %.3f\n", c->name, c->before * 1e6, c->after * 1e6, c->ratio,
               c->spread);
    }
}

// Whether Google Benchmark's filter takes a name; a leading - turns it around.
static bool takes(const char *filter, const char *name) {
    if (!filter) return true;
    const bool negative = filter[0] == '-';
    regex_t regex;
    if (regcomp(&regex, filter + negative, REG_EXTENDED | REG_NOSUB) != 0) return true;
    const bool found = regexec(&regex, name, 0, NULL, 0) == 0;
    regfree(&regex);
    return found != negative;
}

// The names of one run that the other lacks.
static size_t print_missing(const char *title, const against_run *run, const against_run *other, const char *filter) {
    size_t count = 0;
    for (size_t i = 0; i < run->count; i++) {
        const against_series *s = &run->series[i];
        if (!takes(filter, s->name)) continue;
        if (other->count && bsearch(s, other->series, other->count, sizeof *s, by_name)) continue;
        if (count++ == 0) printf("%s\n", title);
        printf("  %s\n", s->name);
    }
    return count;
}

int against_print(const against_run *old, const char *old_path, const against_run *now, const char *filter) {
    change *changes = grow(NULL, now->count, sizeof *changes);
    size_t both = 0, count = 0, slower = 0;
    for (size_t i = 0; i < now->count && old->count; i++) {
        const against_series *before = bsearch(&now->series[i], old->series, old->count, sizeof *before, by_name);
        if (!before) continue;
        both++;
        const change c = compare(before, &now->series[i]);
        if (c.ratio > 1 + c.spread || c.ratio < 1 - c.spread) changes[count++] = c;
        slower += c.ratio > 1 + c.spread;
    }
    qsort(changes, count, sizeof *changes, slowest_first);
    qsort(changes + slower, count - slower, sizeof *changes, fastest_first);
    print_changes("slower", changes, slower);
    print_changes("faster", changes + slower, count - slower);
    const size_t added = print_missing("new", now, old, NULL), gone = print_missing("gone", old, now, filter);
    printf("against %s: %zu slower, %zu faster, %zu within the spread (the larger distance of quartiles), %zu new, %zu "
           "gone\n", old_path, slower, count - slower, both - count, added, gone);
    free(changes);
    return 0;
}
