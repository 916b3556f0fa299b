// The runs of a sweep: which are left, each in a process of its own, signals, progress.
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "checkpoint.h"
#include "report.h"
#include "sweep.h"
#include "train.h"

// A process and what it reports.
struct slot {
    pid_t process; // 0: free
    size_t run;
    struct sweep_outcome *outcome; // in memory that both processes see
};

struct sweeping {
    struct sweep sweep;
    struct sweep_result *results; // [sweep.count]
    struct slot *slots;           // [jobs]
    size_t jobs, next, ended, failed;
    double seconds; // of the runs that are done and were not resumed
    size_t timed;   // how many these are
    bool stopping;
    int lock; // the output folder's descriptor; -1: none
    sigset_t signals, before;
};

// --- What earlier sweeps left: options.json in each folder has the options of its run ---

static bool options_path(char path[FILE_PATH_MAX], const char *folder, fault *f) {
    return file_path(path, folder, "options.json", f);
}

static bool write_options(const struct train_options *o, bool resumed, fault *f) {
    char path[FILE_PATH_MAX];
    json_t *root = json_pack("{s:o, s:b}", "options", options_json(&train_option_table, o), "resumed", resumed);
    bool done = root ? options_path(path, o->output, f) && json_write_file(root, path, f)
                     : fault_memory(f, "the options");
    json_decref(root);
    return done;
}

// The first option that counts and differs, NULL: none.
static const struct option *first_difference(const struct train_options *o, const json_t *before) {
    const struct option *found = NULL;
    for (size_t i = 0; i < train_option_table.count && !found; i++) {
        const struct option *option = &train_option_table.list[i];
        char name[64];
        option_json_name(option, name);
        json_t *now = option_json(option, o);
        if (!train_option_is_free(option->name) && !json_equal(now, json_object_get(before, name))) {
            found = option;
        }
        json_decref(now);
    }
    return found;
}

static bool compare_options(const struct train_options *o, bool *resumed, fault *f) {
    char path[FILE_PATH_MAX];
    json_t *root = NULL;
    const json_t *before = NULL;
    if (!options_path(path, o->output, f) || !json_read_file(&root, path, f)) {
        return false;
    }
    struct json_scope scope = {.object = root, .file = path};
    bool done = json_get_object(scope, "options", JSON_REQUIRED, &before, f) &&
                json_get_bool(scope, "resumed", JSON_REQUIRED, resumed, f);
    const struct option *other = done ? first_difference(o, before) : NULL;
    json_decref(root);
    return done &&
           (!other || fault_set(f, FAULT_INPUT, path, other->name,
                                "the run was made with another one: remove its folder or use another --output"));
}

static bool read_summary(json_t **summary, const char *output, fault *f) {
    char path[FILE_PATH_MAX];
    *summary = NULL;
    return file_path(path, output, "summary.json", f) && (!file_exists(path) || json_read_file(summary, path, f));
}

static bool was_begun(const char *folder) {
    static const char *const signs[] = {"options.json", "summary.json", "checkpoint", "checkpoint.old"};
    char path[FILE_PATH_MAX];
    for (size_t i = 0; i < sizeof signs / sizeof *signs; i++) {
        if (file_path(path, folder, signs[i], NULL) && file_exists(path)) {
            return true;
        }
    }
    return false;
}

// A run that has begun was made with the same options, or the sweep does not begin.
static bool look_at(struct sweeping *w, size_t run, const struct train_options *o, fault *f) {
    struct sweep_result *result = &w->results[run];
    if (!was_begun(o->output)) {
        return true;
    }
    if (!compare_options(o, &result->resumed, f) || !read_summary(&result->summary, o->output, f)) {
        return false;
    }
    double seconds;
    if (result->summary && !result->resumed && sweep_figure_of(&seconds, result, "seconds")) {
        w->seconds += seconds;
        w->timed++;
    }
    // What was killed after its summary had only its checkpoint left to remove.
    return !result->summary || checkpoint_remove(o->output, f);
}

// Nothing begins before every run's options are good.
static bool check_all(const struct sweeping *w, fault *f) {
    struct train_options *o = malloc(sizeof *o);
    bool done = o || fault_memory(f, "the options");
    for (size_t run = 0; done && run < w->sweep.count; run++) {
        fault inner;
        if (!sweep_options(&w->sweep, run, o, f)) {
            done = false;
        } else if (!training_check(o, o->adapter, &inner)) {
            done = fault_set(f, inner.status, w->sweep.file, w->sweep.names[run], "%.4000s", inner.text);
        }
    }
    free(o);
    return done;
}

static bool look_at_all(struct sweeping *w, fault *f) {
    struct train_options *o = malloc(sizeof *o);
    bool done = o || fault_memory(f, "the options");
    for (size_t run = 0; done && run < w->sweep.count; run++) {
        done = sweep_options(&w->sweep, run, o, f) && look_at(w, run, o, f);
    }
    free(o);
    return done;
}

// --- A run ---

// In the new process. What the run prints goes to log.txt in its folder.
static void run_here(struct sweeping *w, struct train_options *o, const char *checkpoint, struct sweep_outcome *outcome,
                     pid_t parent, sweep_training *training) {
    char path[FILE_PATH_MAX];
    fault *f = &outcome->fault;
    setpgid(0, 0); // the terminal's Ctrl-C reaches the sweep alone, which passes it on once
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent || !file_path(path, o->output, "log.txt", f)) {
        _exit(FAULT_RESOURCE);
    }
    int log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (log < 0 || dup2(log, STDERR_FILENO) < 0) {
        fault_system(f, path, "cannot write", errno);
        _exit(FAULT_RESOURCE);
    }
    sigprocmask(SIG_SETMASK, &w->before, NULL);
    training(o, checkpoint, outcome);
    _exit(outcome->done ? 0 : f->status);
}

static bool start(struct sweeping *w, struct slot *slot, size_t run, sweep_training *training, fault *f) {
    char checkpoint[FILE_PATH_MAX];
    struct train_options *o = malloc(sizeof *o);
    struct sweep_result *result = &w->results[run];
    bool done = (o || fault_memory(f, "the options")) && sweep_options(&w->sweep, run, o, f) &&
                file_make_folders(o->output, f) && checkpoint_find(checkpoint, o->output, f);
    result->resumed = done && *checkpoint;
    done = done && write_options(o, result->resumed, f);
    if (done) {
        pid_t parent = getpid();
        *slot->outcome = (struct sweep_outcome){0};
        slot->run = run;
        slot->process = fork(); // no thread exists yet in this process
        if (slot->process == 0) {
            run_here(w, o, checkpoint, slot->outcome, parent, training);
        }
        if (slot->process < 0) {
            slot->process = 0;
            done = fault_system(f, w->sweep.names[run], "cannot start", errno);
        }
    }
    free(o);
    return done;
}

// --- Progress ---

static void print_figures(const struct sweeping *w, const struct sweep_result *result) {
    struct sweep_figure figures[SWEEP_FIGURES];
    size_t count = sweep_list_figures(figures, &w->sweep, w->results);
    for (size_t i = 0; i < count; i++) {
        char text[32];
        double value;
        if (sweep_figure_of(&value, result, figures[i].path)) {
            snprintf(text, sizeof text, figures[i].format, value / figures[i].unit);
            fprintf(stderr, "%s%s %s", i ? ", " : "", figures[i].title, text);
        }
    }
}

static void print_result(struct sweeping *w, size_t run) {
    const struct sweep_result *result = &w->results[run];
    size_t count = w->sweep.count;
    fprintf(stderr, "[%zu/%zu] %s: %s", ++w->ended, count, w->sweep.names[run], result->reason);
    print_figures(w, result);
    if (w->timed && w->ended < count) {
        double left = (double)(count - w->ended) * w->seconds / (double)(w->timed * w->jobs);
        fprintf(stderr, "; %.0f:%02.0f left", floor(left / 60), floor(fmod(left, 60)));
    }
    fputc('\n', stderr);
}

// --- Its end ---

// What has failed for good ends the sweep; a run that has diverged is a result.
static bool take_failure(struct sweeping *w, const struct slot *slot, int status, fault *f) {
    const struct sweep_outcome *outcome = slot->outcome;
    const char *name = w->sweep.names[slot->run];
    if (WIFSIGNALED(status)) {
        return w->stopping || fault_set(f, FAULT_RESOURCE, name, NULL, "ended by signal %d", WTERMSIG(status));
    }
    if (!outcome->loaded || outcome->fault.status != FAULT_INPUT) {
        return fault_set(f, outcome->fault.status, name, NULL, "%.4000s", outcome->fault.text);
    }
    w->failed++;
    snprintf(w->results[slot->run].reason, sizeof w->results->reason, "%.500s", outcome->fault.text);
    print_result(w, slot->run);
    return sweep_write_table(&w->sweep, w->results, f);
}

static bool take_end(struct sweeping *w, struct slot *slot, int status, fault *f) {
    struct sweep_result *result = &w->results[slot->run];
    char folder[FILE_PATH_MAX];
    slot->process = 0;
    if (WIFSIGNALED(status) || !slot->outcome->done) {
        return take_failure(w, slot, status, f);
    }
    if (slot->outcome->interrupted) {
        w->stopping = true;
        return true;
    }
    double seconds;
    if (!file_path(folder, w->sweep.line->output, w->sweep.names[slot->run], f) ||
        !read_summary(&result->summary, folder, f)) {
        return false;
    }
    if (!result->resumed && sweep_figure_of(&seconds, result, "seconds")) {
        w->seconds += seconds;
        w->timed++;
    }
    print_result(w, slot->run);
    return sweep_write_table(&w->sweep, w->results, f);
}

// --- All of them ---

static void pass_on(const struct sweeping *w, int number) {
    for (size_t i = 0; i < w->jobs; i++) {
        if (w->slots[i].process) {
            kill(w->slots[i].process, number);
        }
    }
}

static bool collect(struct sweeping *w, fault *f) {
    bool done = true;
    for (size_t i = 0; i < w->jobs; i++) {
        int status;
        if (w->slots[i].process && waitpid(w->slots[i].process, &status, WNOHANG) == w->slots[i].process) {
            done = take_end(w, &w->slots[i], status, done ? f : NULL) && done;
        }
    }
    return done;
}

static bool wait_for_signal(struct sweeping *w, fault *f) {
    int number = sigwaitinfo(&w->signals, NULL);
    if (number == SIGINT || number == SIGTERM) {
        w->stopping = true;
        pass_on(w, number);
    } else if (number == SIGTSTP) {
        pass_on(w, SIGSTOP);
        raise(SIGSTOP);
        pass_on(w, SIGCONT);
    }
    return collect(w, f);
}

static bool is_running(const struct sweeping *w) {
    for (size_t i = 0; i < w->jobs; i++) {
        if (w->slots[i].process) {
            return true;
        }
    }
    return false;
}

// Starts what there is room for.
static bool fill(struct sweeping *w, sweep_training *training, fault *f) {
    for (size_t i = 0; i < w->jobs; i++) {
        while (w->next < w->sweep.count && w->results[w->next].summary) {
            w->next++;
        }
        if (!w->slots[i].process && w->next < w->sweep.count && !start(w, &w->slots[i], w->next++, training, f)) {
            return false;
        }
    }
    return true;
}

// What fails lets the others leave their checkpoints first.
static bool run_all(struct sweeping *w, sweep_training *training, fault *f) {
    bool done = true;
    do {
        if (done && !w->stopping && !fill(w, training, f)) {
            done = false;
            pass_on(w, SIGTERM);
        }
        if (is_running(w) && !wait_for_signal(w, done ? f : NULL) && done) {
            done = false;
            pass_on(w, SIGTERM);
        }
    } while (is_running(w) || (done && !w->stopping && w->next < w->sweep.count));
    return done;
}

static bool open_slots(struct sweeping *w, fault *f) {
    w->jobs = (size_t)w->sweep.line->jobs;
    w->results = calloc(w->sweep.count, sizeof *w->results);
    w->slots = calloc(w->jobs, sizeof *w->slots);
    if (!w->results || !w->slots) {
        return fault_memory(f, "the runs");
    }
    size_t bytes = w->jobs * sizeof *w->slots->outcome;
    struct sweep_outcome *shared = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) {
        return fault_memory(f, "the runs");
    }
    for (size_t i = 0; i < w->jobs; i++) {
        w->slots[i].outcome = &shared[i];
    }
    return true;
}

// The runs hold the lock with the sweep: one that was killed may have some that are still about to leave a checkpoint.
static bool lock_output(struct sweeping *w, fault *f) {
    const char *output = w->sweep.line->output;
    if (!file_make_folders(output, f)) {
        return false;
    }
    w->lock = open(output, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (w->lock < 0) {
        return fault_system(f, output, "cannot open", errno);
    }
    // Some file systems have no locks; there it is left to the user.
    return flock(w->lock, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK ||
           fault_set(f, FAULT_INPUT, output, NULL, "a sweep is running here");
}

// From here on signals wait until they are asked for; none is lost between two runs.
static void hold_signals(struct sweeping *w) {
    static const int list[] = {SIGINT, SIGTERM, SIGTSTP, SIGCHLD};
    sigemptyset(&w->signals);
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        sigaddset(&w->signals, list[i]);
    }
    signal(SIGCHLD, SIG_DFL);
    sigprocmask(SIG_BLOCK, &w->signals, &w->before);
}

static void print_start(struct sweeping *w) {
    size_t before = 0;
    for (size_t i = 0; i < w->sweep.count; i++) {
        before += w->results[i].summary != NULL;
    }
    w->ended = before;
    fprintf(stderr, "%zu runs in %s, %zu done before; what each says is in its log.txt\n", w->sweep.count,
            w->sweep.line->output, before);
}

static void free_all(struct sweeping *w) {
    for (size_t i = 0; w->results && i < w->sweep.count; i++) {
        json_decref(w->results[i].summary);
    }
    if (w->slots && w->slots->outcome) {
        munmap(w->slots->outcome, w->jobs * sizeof *w->slots->outcome);
    }
    if (w->lock >= 0) {
        close(w->lock);
    }
    free(w->slots);
    free(w->results);
    sweep_free(&w->sweep);
}

static bool end(const struct sweeping *w, bool *interrupted, fault *f) {
    const char *output = w->sweep.line->output;
    *interrupted = w->stopping;
    if (w->stopping) {
        fprintf(stderr, "interrupted after %zu of %zu runs: the same command goes on\n", w->ended, w->sweep.count);
        return true;
    }
    fprintf(stderr, "the table is in %s/sweep.md\n", output);
    return !w->failed || fault_set(f, FAULT_INPUT, output, NULL, "%zu of %zu runs failed: sweep.md tells why",
                                   w->failed, w->sweep.count);
}

bool sweep_run(const struct train_options *line, sweep_training *training, bool *interrupted, fault *f) {
    struct sweeping w = {.lock = -1};
    bool done = sweep_read(&w.sweep, line->sweep, line, f) && open_slots(&w, f) && check_all(&w, f) &&
                lock_output(&w, f) && look_at_all(&w, f);
    if (done) {
        print_start(&w);
        hold_signals(&w);
        done = sweep_write_table(&w.sweep, w.results, f) && run_all(&w, training, f) && end(&w, interrupted, f);
    }
    free_all(&w);
    return done;
}
