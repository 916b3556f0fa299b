// --sweep FILE: many runs that differ in some of their options. FILE is JSON:
//
//     {"base": {"epochs": 5},                                       options of all runs, under the command line's
//      "runs": [{"name": "lora"},                                   named runs with options of their own
//               {"name": "dropkey", "method": "dropkey"}],
//      "vary": {"lora-r": [4, 16], "seed": [0, 1, 2]}}              each named run with each combination of values
//
// Options have their names of the command line. Without "runs" there is one, without a name; the last option of "vary"
// changes fastest.
#ifndef LODROP_TRAINER_SWEEP_H
#define LODROP_TRAINER_SWEEP_H

#include "json.h"
#include "train_options.h"

enum { SWEEP_NAME = 208, SWEEP_MOST_RUNS = 1024 };

struct sweep_axis {
    const struct option *option;
    const json_t *values; // a list
    size_t stride;        // runs from one value to the next
};

struct sweep {
    json_t *root;
    const char *file;
    const struct train_options *line; // the command line's
    const json_t *base, *runs;        // NULL: not there
    struct sweep_axis axis[OPTIONS_MAX];
    size_t axes;
    size_t count;               // of runs
    char (*names)[SWEEP_NAME];  // [count], of runs and of their folders
    char (*groups)[SWEEP_NAME]; // [count], names without the seed
};

// line and file outlive the sweep. Every run's options have the right types and ranges, and a name of their own.
bool sweep_read(struct sweep *s, const char *file, const struct train_options *line, fault *f);
bool sweep_read_bytes(struct sweep *s, const void *data, size_t size, const char *file,
                      const struct train_options *line, fault *f);
void sweep_free(struct sweep *s);

// The options of a run, complete, and checked as far as they are without its model.
bool sweep_options(const struct sweep *s, size_t run, struct train_options *o, fault *f);

// Of an axis in a run. The text is what names and tables show.
const json_t *sweep_value(size_t run, const struct sweep_axis *axis);
void sweep_value_text(const json_t *value, char text[SWEEP_NAME]);
bool sweep_is_seed(const struct sweep_axis *axis);

// The name that "runs" gives, NULL without it.
const char *sweep_run_name(const struct sweep *s, size_t run);

// --- What came out ---

struct sweep_result {
    json_t *summary;  // NULL: not done
    bool resumed;     // its time is that of its last part
    char reason[512]; // why it failed; empty: it has not
};

// sweep.json and sweep.md of the results [s->count] into the command line's output folder, and what sweep_draw draws.
bool sweep_write_table(const struct sweep *s, const struct sweep_result *results, fault *f);

// What is shown of a summary.
struct sweep_figure {
    char path[64]; // where it stands in the summary, parts with . between them
    char name[64]; // in sweep.json
    char title[64]; // in tables
    const char *format;
    double unit; // what tables divide by
};

// The losses, every metric of the held-out data, seconds and bytes.
enum { SWEEP_FIGURES = 16 };
size_t sweep_list_figures(struct sweep_figure list[SWEEP_FIGURES], const struct sweep *s,
                          const struct sweep_result *results);

// false: there is none. The seconds of a resumed run are not all of its seconds.
bool sweep_figure_of(double *value, const struct sweep_result *result, const char *path);

// Over the runs of a group that have the figure. deviation: the standard deviation of n - 1, 0 for fewer than 2.
struct sweep_mean {
    size_t count;
    double mean, deviation;
};
struct sweep_mean sweep_mean_of(const struct sweep *s, const struct sweep_result *results, const char *group,
                                const char *path);

// That the run is the first one of its group.
bool sweep_is_first(const struct sweep *s, size_t run);

// sweep.svg, if one option varies beside the seed and is a number.
bool sweep_draw(const struct sweep *s, const struct sweep_result *results, fault *f);

// --- Running ---

struct sweep_outcome {
    bool loaded; // all was read and checked: what failed is the run itself
    bool done;
    bool interrupted; // done so far: a checkpoint is left
    fault fault;
};

// One training, from its options (and a checkpoint, or an empty name) to its end.
typedef void sweep_training(struct train_options *o, const char *checkpoint, struct sweep_outcome *outcome);

// Runs all that are not done, each in a process of its own, and keeps the table up to date. *interrupted: by SIGINT or
// SIGTERM, and each run that had begun has left a checkpoint.
bool sweep_run(const struct train_options *line, sweep_training *training, bool *interrupted, fault *f);

#endif
