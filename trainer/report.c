#include "report.h"

#include <errno.h>
#include <math.h>
#include <sleef.h>
#include <stdarg.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "json.h"
#include "library.h"

static const double QUIET_SECONDS = 10, TERMINAL_SECONDS = 0.1; // between two progress lines

double report_clock(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

// --- metrics.jsonl ---

bool report_open(struct report *r, const char *output, const struct history *history, uint64_t total_steps, fault *f) {
    r->terminal = isatty(STDERR_FILENO);
    r->first_step = history->count;
    r->total_steps = total_steps;
    r->started = r->last_line = report_clock();
    for (size_t i = 0; i < history->count; i++) {
        warnings_look(&r->warnings, &(struct history){.list = history->list, .count = i + 1});
    }
    if (!file_path(r->path, output, "metrics.jsonl", f) || !history_write(history, r->path, f)) {
        return false;
    }
    r->metrics = fopen(r->path, "a");
    return r->metrics || fault_system(f, r->path, "cannot open", errno);
}

void report_close(struct report *r) {
    if (r->line_open) {
        fputc('\n', stderr);
        r->line_open = false;
    }
    if (r->metrics) {
        fclose(r->metrics);
        r->metrics = NULL;
    }
}

// --- Lines ---

void report_line(struct report *r, const char *format, ...) {
    if (r->line_open) {
        fputs("\r\033[K", stderr);
        r->line_open = false;
    }
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}

double report_tokens_per_second(const struct report *r) {
    return r->seconds > 0 ? (double)r->tokens / r->seconds : 0;
}

static void print_progress(struct report *r, const struct history *h) {
    const struct step_metrics *m = &h->list[h->count - 1];
    double now = report_clock();
    bool last = m->step == r->total_steps;
    if (!last && now - r->last_line < (r->terminal ? TERMINAL_SECONDS : QUIET_SECONDS)) {
        return;
    }
    r->last_line = now;
    double left = (double)(r->total_steps - m->step) * r->seconds / (double)(m->step - r->first_step);
    char line[160];
    snprintf(line, sizeof line, "step %llu/%llu  loss %.4f  %.0f tokens/s  %.0f:%02.0f left",
             (unsigned long long)m->step, (unsigned long long)r->total_steps, history_recent_loss(h, 20),
             report_tokens_per_second(r), floor(left / 60), floor(fmod(left, 60)));
    if (r->terminal) {
        fprintf(stderr, "\r\033[K%s", line);
        fflush(stderr);
        r->line_open = true;
    } else {
        report_line(r, "%s", line);
    }
}

static void warn(struct report *r, const struct history *h) {
    unsigned told = warnings_look(&r->warnings, h);
    for (size_t i = 0; i < WARNING_CAUSES; i++) {
        if (told >> i & 1) {
            report_line(r, "warning: %s", r->warnings.list[i].text);
        }
    }
}

bool report_step(struct report *r, const struct history *h, uint64_t tokens, double seconds, fault *f) {
    r->tokens += tokens;
    r->seconds += seconds;
    if (!history_print_line(r->metrics, &h->list[h->count - 1])) {
        return fault_system(f, r->path, "cannot write", errno);
    }
    print_progress(r, h);
    warn(r, h);
    return true;
}

// --- summary.json ---

// VmHWM, for getrusage counts in what the process held that started this one.
size_t report_peak_memory(void) {
    size_t kib = 0;
    char line[128];
    FILE *status = fopen("/proc/self/status", "r");
    while (status && !kib && fgets(line, sizeof line, status)) {
        (void)sscanf(line, "VmHWM: %zu kB", &kib);
    }
    if (status) {
        fclose(status);
    }
    struct rusage usage;
    if (!kib && getrusage(RUSAGE_SELF, &usage) == 0) {
        kib = (size_t)usage.ru_maxrss;
    }
    return 1024 * kib;
}

static json_t *best_json(const struct summary *s) {
    return s->best ? json_pack("{s:I, s:s, s:f}", "step", (json_int_t)s->best->step, "metric", s->metric, "value",
                               s->best->value)
                   : json_null();
}

bool report_summary(const struct report *r, const char *output, const struct summary *s, fault *f) {
    char path[FILE_PATH_MAX], sleef[32];
    const char *isa = "";
    lod_error err;
    if (!library_done(lod_isa_name(&isa, &err), &err, f) || !file_path(path, output, "summary.json", f)) {
        return false;
    }
    snprintf(sleef, sizeof sleef, "%d.%d.%d", SLEEF_VERSION_MAJOR, SLEEF_VERSION_MINOR, SLEEF_VERSION_PATCHLEVEL);
    json_t *root = json_object();
    json_object_set_new(root, "tokens_per_second", json_real(report_tokens_per_second(r)));
    json_object_set_new(root, "seconds", json_real(report_clock() - r->started));
    json_object_set_new(root, "peak_rss_bytes", json_integer((json_int_t)report_peak_memory()));
    json_object_set_new(root, "steps", json_integer((json_int_t)s->steps));
    json_object_set_new(root, "train_loss", json_real(s->train_loss));
    json_object_set_new(root, "eval", s->eval ? evaluation_json(s->eval) : json_null());
    json_object_set_new(root, "best", best_json(s));
    json_object_set_new(root, "adapter_step", json_integer((json_int_t)s->adapter_step));
    json_object_set_new(root, "stopped_by", json_string(s->stopped_early ? "early_stopping" : "steps"));
    json_object_set_new(root, "warnings", warnings_json(&r->warnings));
    json_object_set_new(root, "seed", json_integer((json_int_t)s->seed));
    json_object_set_new(root, "isa", json_string(isa));
    json_object_set_new(root, "threads", json_integer((json_int_t)s->threads));
    json_object_set_new(root, "plan", json_string(s->plan));
    json_object_set_new(root, "trainable_parameters", json_integer((json_int_t)s->trainable_parameters));
    json_object_set_new(root, "sleef", json_string(sleef));
    bool done = root ? json_write_file(root, path, f) : fault_memory(f, path);
    json_decref(root);
    return done;
}
