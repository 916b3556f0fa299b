// Wisdom: its text, what is refused of it and why, and files that several processes write.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "wisdom_entries.h"

#define COUNT_OF(list) (sizeof(list) / sizeof *(list))

static void need_name_of_cpu(void) {
    if (!*lod_this_machine()->cpu) {
        char header[LOD_HEADER_SIZE];
        lod_error err;
        CHECK_THAT(lod_wisdom_print_header(1, header, &err) == LOD_FILE);
        check_skip("no hwloc that names this CPU");
    }
}

static void remember(lod_plan *plan, lod_rigor rigor) {
    lod_plan class = lod_plan_class(plan);
    lod_estimate(&class);
    lod_plan_settle(&class);
    CHECK_THAT(lod_wisdom_remember(&class, rigor, NULL) == LOD_OK);
    lod_plan_free(plan);
}

// The estimates of plans of all kinds, as if they had been measured.
static void learn(unsigned threads, size_t salt) {
    lod_plan *plan;
    const lod_lowrank_shape layer = {.n_in = 100 + salt, .n_out = 700, .rank = 4, .tokens = 100};
    const lod_attention_shape heads = {.heads = 4, .kv_heads = 2, .head_dim = 16 + 8 * (salt % 16), .keys = 100};
    const lod_loss_shape words = {.n_in = 40 + salt, .vocabulary = 1000, .tokens = 100};
    CHECK_THAT(lod_plan_lowrank(&layer, threads, LOD_ESTIMATE, &plan, NULL) == LOD_OK);
    remember(plan, LOD_MEASURE);
    CHECK_THAT(lod_plan_attention(&heads, threads, LOD_ESTIMATE, &plan, NULL) == LOD_OK);
    remember(plan, LOD_EXHAUSTIVE);
    CHECK_THAT(lod_plan_loss(&words, threads, LOD_ESTIMATE, &plan, NULL) == LOD_OK);
    remember(plan, LOD_MEASURE);
}

// What the process knows, as a file's text; free() returns it.
static char *text_of_known(unsigned threads) {
    lod_wisdom known;
    char *text = calloc(1, LOD_HEADER_SIZE + 64 * LOD_ENTRY_SIZE), line[LOD_ENTRY_SIZE];
    CHECK_THAT(lod_wisdom_print_header(threads, text, NULL) == LOD_OK);
    CHECK_THAT(lod_wisdom_copy_known(threads, &known) && known.count <= 64);
    for (size_t i = 0; i < known.count; i++) {
        lod_wisdom_print_entry(&known.entries[i], line);
        strcat(strcat(text, line), "\n");
    }
    free(known.entries);
    return text;
}

static lod_status parse(const char *text, lod_wisdom *wisdom, lod_error *err) {
    return lod_wisdom_parse(text, strlen(text), 3, "wisdom", wisdom, err);
}

CHECK_ONCE(wisdom_text, 0) {
    check_shape("-");
    need_name_of_cpu();
    lod_wisdom_forget();
    learn(3, 0);
    learn(2, 0); // is not in the text
    char *text = text_of_known(3), again[LOD_ENTRY_SIZE];
    lod_wisdom read;
    CHECK_THAT(parse(text, &read, NULL) == LOD_OK && read.count == 3);
    const char *at = strstr(text, "attention ");
    for (size_t i = 0; i < read.count; i++, at = strchr(at, '\n') + 1) {
        lod_wisdom_print_entry(&read.entries[i], again);
        CHECK_THAT(strncmp(at, again, strlen(again)) == 0);
    }
    CHECK_THAT(strncmp(text, "lodrop wisdom 2\nbuild " LOD_VERSION " ", 22 + strlen(LOD_VERSION) + 1) == 0);
    free(read.entries);
    free(text);
    lod_wisdom_forget();
}

// --- what is refused ---

// The text with the first `from` replaced.
static char *with(const char *text, const char *from, const char *to) {
    const char *at = strstr(text, from);
    if (!at) check_fail("'%s' is not in the text", from);
    char *changed = malloc(strlen(text) + strlen(to) + 1);
    sprintf(changed, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    return changed;
}

static void refuse(const char *text, const char *from, const char *to, const char *reason) {
    lod_wisdom read;
    lod_error err;
    char *changed = with(text, from, to);
    lod_status status = parse(changed, &read, &err);
    if (status != LOD_BAD_WISDOM || read.count || read.entries || !strstr(err.text, reason) || strchr(err.text, '\n')) {
        check_fail("'%s' for '%s': status %d, '%s', want '%s'", to, from, (int)status, err.text, reason);
    }
    free(changed);
}

CHECK_ONCE(wisdom_refused, 0) {
    check_shape("-");
    need_name_of_cpu();
    lod_wisdom_forget();
    learn(3, 0);
    char *text = text_of_known(3);
    static const char *const headers[][3] = {
        {"lodrop wisdom 2", "lodrop wisdom 1", "line 1: "}, {"\nbuild ", "\nbuild 9", "line 2: "},
        {"\nkernels ", "\nkernels 9", "line 3: "},          {"\ncpu ", "\ncpu 9", "line 4: "},
        {"\ncaches L1d ", "\ncaches L1d 9", "line 5: "},    {" L3 ", " L3 9", "line 5: "},
        {"\nisa ", "\nisa x", "line 6: "},                  {"\nthreads 3", "\nthreads 30", "line 7: "},
        {"\nthreads 3\n", "\nthreads 2\n", "here: \"threads 3\""}, {"\nthreads 3", "", "line 7: "},
    };
    static const char *const entries[][2] = {
        {"heads=4", "heads=3"},         {"heads=4", "heads=04"},   {"heads=4", "heads=+4"},
        {"keys=128", "keys=127"},       {"keys=128", "keys=4096"}, {"tokens=128", "tokens=18446744073709551744"},
        {" queries ", " queries -"},    {" queries ", " queries 9999"}, {"measured", "guessed"},
        {"exhausted", "measured\t"},    {"n_in=100", "n_in=0"},    {"n_in=100", "n_in=99999999999"},
        {"forward ", "forward 9"},      {"mc ", "mc 0"},           {"mc ", "mc 9999"},
        {"nc ", "nc 9999"},             {"nc ", "nc -"},           {"kc ", "kc 1"},
        {"kc ", "kc -"},                          {"columns, backward", "rows, backward"},
        {"columns, backward", "columns, forward"}, {"loss ", "loss  "}, {"\nattention", "\n\nattention"},
        {"lowrank", "highrank"},        {", backward", ""},
    };
    for (size_t i = 0; i < COUNT_OF(headers); i++) refuse(text, headers[i][0], headers[i][1], headers[i][2]);
    for (size_t i = 0; i < COUNT_OF(entries); i++) refuse(text, entries[i][0], entries[i][1], " is no entry");
    lod_wisdom read;
    lod_error err;
    CHECK_THAT(lod_wisdom_parse(text, 40, 3, "wisdom", &read, &err) == LOD_BAD_WISDOM && !read.entries);
    CHECK_THAT(lod_wisdom_parse(text, 0, 3, "wisdom", &read, &err) == LOD_BAD_WISDOM && !read.entries);
    CHECK_THAT(lod_wisdom_parse(text, strlen(text) - 3, 3, "wisdom", &read, &err) == LOD_BAD_WISDOM && !read.entries);
    const size_t size = strlen(text); // cut within a number; more behind a byte 0, in the header and in an entry
    CHECK_THAT(lod_wisdom_parse(text, size - 1, 3, "wisdom", &read, &err) == LOD_BAD_WISDOM && !read.entries);
    for (char *line = strstr(text, "threads 3"); line; line = line[0] == 't' ? strstr(line, "loss ") : NULL) {
        char *end = strchr(line, '\n');
        char *more = calloc(1, size + 3);
        memcpy(more, text, (size_t)(end - text));
        memcpy(more + (end - text) + 1, "x", 1);
        memcpy(more + (end - text) + 2, end, strlen(end));
        CHECK_THAT(lod_wisdom_parse(more, size + 2, 3, "wisdom", &read, &err) == LOD_BAD_WISDOM && !read.entries);
        free(more);
    }
    free(text);
    lod_wisdom_forget();
}

// --- files ---

static void write_text(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    CHECK_THAT(file && fputs(text, file) >= 0 && fclose(file) == 0);
}

static size_t entries_in(const char *path, unsigned threads) {
    lod_wisdom known;
    lod_wisdom_forget();
    CHECK_THAT(lod_wisdom_load(path, threads, NULL) == LOD_OK && lod_wisdom_copy_known(threads, &known));
    free(known.entries);
    return known.count;
}

static void remove_folder(const char *folder) {
    char command[300];
    snprintf(command, sizeof command, "rm -r '%s'", folder);
    CHECK_THAT(system(command) == 0);
}

enum { WRITERS = 6 };

// Processes that measure different shapes and save them to one file at the same time.
static void save_from_many(const char *path) {
    for (size_t i = 0; i < WRITERS; i++) {
        pid_t child = fork();
        CHECK_THAT(child >= 0);
        if (child == 0) {
            lod_wisdom_forget();
            learn(1, 1 + i);
            _exit(lod_wisdom_save(path, 1, NULL) == LOD_OK ? 0 : 1);
        }
    }
    for (size_t i = 0; i < WRITERS; i++) {
        int status;
        CHECK_THAT(wait(&status) > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
}

CHECK_ONCE(wisdom_files, 0) {
    check_shape("-");
    need_name_of_cpu();
    char folder[] = "/tmp/lodrop-check-XXXXXX", path[64], other[64];
    CHECK_THAT(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/a/b/wisdom", folder);
    snprintf(other, sizeof other, "%s/other", folder);
    lod_error err;
    CHECK_THAT(lod_wisdom_load(path, 1, &err) == LOD_FILE);
    save_from_many(path);
    CHECK_THAT(entries_in(path, 1) == 3 * WRITERS);
    CHECK_THAT(lod_wisdom_load(path, 2, &err) == LOD_BAD_WISDOM && strstr(err.text, "threads 1"));

    // What the process does not know stays in the file; what another number of threads wrote is replaced.
    lod_wisdom_forget();
    learn(1, 0);
    CHECK_THAT(lod_wisdom_save(path, 1, &err) == LOD_OK && entries_in(path, 1) == 3 * WRITERS + 3);
    lod_wisdom_forget();
    learn(2, 0);
    CHECK_THAT(lod_wisdom_save(path, 2, &err) == LOD_OK && entries_in(path, 2) == 3);

    // A damaged file is refused as a whole: what is known stays as it was.
    write_text(other, "lodrop wisdom 2\nbuild of something else\n");
    CHECK_THAT(lod_wisdom_load(other, 2, &err) == LOD_BAD_WISDOM && strstr(err.text, "line 2: "));
    CHECK_THAT(lod_wisdom_save(other, 2, &err) == LOD_OK && entries_in(other, 2) == 3);
    write_text(other, "my notes\n");
    CHECK_THAT(lod_wisdom_save(other, 2, &err) == LOD_BAD_WISDOM && strstr(err.text, "is not overwritten"));
    snprintf(path, sizeof path, "%s/a", folder); // a folder
    CHECK_THAT(lod_wisdom_load(path, 2, &err) == LOD_FILE && strstr(err.text, "not a regular file"));
    CHECK_THAT(lod_wisdom_save(path, 2, &err) == LOD_FILE);
    remove_folder(folder);
    lod_wisdom_forget();
}

CHECK_ONCE(wisdom_path, 0) {
    check_shape("-");
    char path[200];
    const char *isa;
    char want[64];
    CHECK_THAT(lod_isa_name(&isa, NULL) == LOD_OK);
    unsetenv("LODROP_WISDOM");
    setenv("XDG_CACHE_HOME", "/cache", 1);
    CHECK_THAT(lod_wisdom_path(5, path, sizeof path, NULL) == LOD_OK);
    snprintf(want, sizeof want, "/cache/lodrop/wisdom.%s.5", isa);
    CHECK_THAT(strcmp(path, want) == 0);
    CHECK_THAT(lod_wisdom_path(5, path, 10, NULL) == LOD_FILE);
    unsetenv("XDG_CACHE_HOME");
    setenv("HOME", "/me", 1);
    CHECK_THAT(lod_wisdom_path(5, path, sizeof path, NULL) == LOD_OK);
    snprintf(want, sizeof want, "/me/.cache/lodrop/wisdom.%s.5", isa);
    CHECK_THAT(strcmp(path, want) == 0);
    unsetenv("HOME");
    CHECK_THAT(lod_wisdom_path(5, path, sizeof path, NULL) == LOD_FILE);
    setenv("LODROP_WISDOM", "here", 1);
    CHECK_THAT(lod_wisdom_path(5, path, sizeof path, NULL) == LOD_OK && strcmp(path, "here") == 0);
    unsetenv("LODROP_WISDOM");
}
