// What a run tells while it goes on: metrics.jsonl, a progress line, warnings; and at its end summary.json.
#ifndef LODROP_TRAINER_REPORT_H
#define LODROP_TRAINER_REPORT_H

#include <stdint.h>
#include <stdio.h>

#include "evaluate.h"
#include "fault.h"
#include "file.h"
#include "history.h"
#include "selection.h"
#include "warnings.h"

struct report {
    FILE *metrics;
    bool terminal;    // the progress line is rewritten in place
    bool line_open;   // on a terminal: a progress line stands there
    double started;   // seconds, when the run began in this process
    double last_line; // when progress was last printed
    uint64_t tokens;  // trained on in this process
    double seconds;   // spent on that
    uint64_t first_step, total_steps;
    struct warnings warnings;
    char path[FILE_PATH_MAX]; // of metrics.jsonl
};

// Seconds from some fixed moment.
double report_clock(void);

// Rewrites metrics.jsonl to what the history holds, and opens it to go on. The caller has set what warnings go by.
bool report_open(struct report *r, const char *output, const struct history *history, uint64_t total_steps, fault *f);
void report_close(struct report *r);

// After a step: its line of metrics, progress, warnings. m is the newest entry of the history.
bool report_step(struct report *r, const struct history *history, uint64_t tokens, double seconds, fault *f);

// Prints a line on standard error, clear of the progress line.
void report_line(struct report *r, const char *format, ...) __attribute__((format(printf, 2, 3)));

// The most bytes this process has held at once.
size_t report_peak_memory(void);

double report_tokens_per_second(const struct report *r);

struct summary {
    uint64_t steps;
    double train_loss;
    const struct evaluation *eval; // NULL: no held-out data
    const struct selection *best;  // NULL: no held-out data
    const char *metric;            // by which it is the best
    uint64_t adapter_step;         // whose adapter was written
    bool stopped_early;
    uint64_t seed;
    unsigned threads;
    const char *plan;
    size_t trainable_parameters;
};

// summary.json.
bool report_summary(const struct report *r, const char *output, const struct summary *s, fault *f);

#endif
