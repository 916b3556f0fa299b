// fault.h and file.h: messages and statuses; mapping; files that are written whole or not at all.
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../trainer/file.h"
#include "expect.h"

static void faults_have_one_line(void) {
    fault f = {0};
    CHECK(!fault_set(&f, FAULT_INPUT, "a.json", "rank", "is %d", 0));
    CHECK(strcmp(f.text, "a.json: rank: is 0") == 0 && f.status == FAULT_INPUT);
    fault_set(&f, FAULT_USAGE, NULL, NULL, "two\nlines\x1b[0m");
    CHECK(strcmp(f.text, "two?lines?[0m") == 0 && f.status == FAULT_USAGE);

    char longer[2000];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    fault_set(&f, FAULT_INPUT, longer, longer, "%s", longer);
    CHECK(strlen(f.text) == sizeof f.text - 1);
    CHECK(!fault_set(NULL, FAULT_INPUT, longer, longer, "nobody listens"));
}

static void statuses_of_system_calls(void) {
    const int resource[] = {ENOSPC, EIO, ENOMEM, EDQUOT, EFBIG, EMFILE};
    const int input[] = {ENOENT, EACCES, EISDIR, ENOTDIR};
    for (size_t i = 0; i < sizeof resource / sizeof *resource; i++) {
        fault f = {0};
        REFUSED(fault_system(&f, "out", "cannot write", resource[i]), &f, FAULT_RESOURCE,
                "out: cannot write: ", strerror(resource[i]));
    }
    for (size_t i = 0; i < sizeof input / sizeof *input; i++) {
        fault f = {0};
        REFUSED(fault_system(&f, "in", "cannot open", input[i]), &f, FAULT_INPUT,
                "in: cannot open: ", strerror(input[i]));
    }
}

static void mapping(void) {
    struct mapped_file map;
    fault f = {0};
    CHECK(file_map(&map, write_text("hello", "hello"), &f));
    CHECK(map.size == 5 && memcmp(map.data, "hello", 5) == 0);
    file_unmap(&map);
    CHECK(file_map(&map, write_text("empty", ""), &f) && map.size == 0);
    file_unmap(&map);
    REFUSED(file_map(&map, temporary("nowhere"), &f), &f, FAULT_INPUT, "nowhere", "No such file");
    file_unmap(&map);
    REFUSED(file_map(&map, temporary(""), &f), &f, FAULT_INPUT, "", "not a regular file");
    CHECK(mkfifo(temporary("fifo"), 0600) == 0);
    REFUSED(file_map(&map, temporary("fifo"), &f), &f, FAULT_INPUT, "fifo", "not a regular file");
}

static void paths_and_folders(void) {
    char path[FILE_PATH_MAX];
    fault f = {0};
    CHECK(file_path(path, "a", "b", &f) && strcmp(path, "a/b") == 0);
    CHECK(file_path(path, "a/", "b", &f) && strcmp(path, "a/b") == 0);
    CHECK(file_path(path, NULL, "b", &f) && strcmp(path, "b") == 0);
    CHECK(file_path(path, "", "b", &f) && strcmp(path, "b") == 0);
    char longer[FILE_PATH_MAX + 1];
    memset(longer, 'x', FILE_PATH_MAX);
    longer[FILE_PATH_MAX] = '\0';
    REFUSED(file_path(path, NULL, longer, &f), &f, FAULT_INPUT, "", "longer than");

    CHECK(file_make_folders(temporary("one/two//three/"), &f) && file_is_folder(temporary("one/two/three")));
    CHECK(file_make_folders(temporary("one/two/three"), &f));
    write_text("one/file", "");
    REFUSED(file_make_folders(temporary("one/file"), &f), &f, FAULT_INPUT, "one/file", "exists");
    REFUSED(file_make_folders(temporary("one/file/two"), &f), &f, FAULT_INPUT, "one/file", "");
    REFUSED(file_make_folders("", &f), &f, FAULT_INPUT, "folder", "empty");
}

static bool holds(const char *path, const char *text) {
    struct mapped_file map;
    fault f;
    bool same = file_map(&map, path, &f) && map.size == strlen(text) && memcmp(map.data, text, map.size) == 0;
    file_unmap(&map);
    return same;
}

static size_t entries(const char *path) {
    size_t count = 0;
    DIR *folder = opendir(path);
    while (folder && readdir(folder)) {
        count++;
    }
    closedir(folder);
    return count - 2; // . and ..
}

static void writing(void) {
    struct file_writer w;
    fault f = {0};
    CHECK(file_make_folders(temporary("w"), &f));
    CHECK(file_writer_open(&w, temporary("w/a"), &f) && file_write(&w, "old", 3, &f) && file_commit(&w, &f));
    file_abandon(&w);
    CHECK(holds(temporary("w/a"), "old"));

    CHECK(file_writer_open(&w, temporary("w/a"), &f) && file_write(&w, "new", 3, &f));
    CHECK(holds(temporary("w/a"), "old"));
    file_abandon(&w);
    CHECK(holds(temporary("w/a"), "old") && entries(temporary("w")) == 1);

    // Longer than the writer's buffer, in uneven pieces.
    static char big[1 << 20];
    memset(big, 'b', sizeof big - 1);
    CHECK(file_writer_open(&w, temporary("w/a"), &f) && file_write(&w, big, 1000, &f) &&
          file_write(&w, big + 1000, sizeof big - 1001, &f) && file_commit(&w, &f));
    file_abandon(&w);
    CHECK(holds(temporary("w/a"), big) && entries(temporary("w")) == 1);

    REFUSED(file_writer_open(&w, temporary("no/such/folder"), &f), &f, FAULT_INPUT, "no/such/folder: cannot write",
            "No such file");
    file_abandon(&w);
}

// A file size limit stands in for a full disk: write fails half-way.
static void full_disk(void) {
    struct file_writer w;
    struct rlimit old, small = {.rlim_cur = 300000};
    fault f = {0};
    static char big[600000];
    write_text("precious", "old");
    getrlimit(RLIMIT_FSIZE, &old);
    small.rlim_max = old.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
    bool done =
        file_writer_open(&w, temporary("precious"), &f) && file_write(&w, big, sizeof big, &f) && file_commit(&w, &f);
    file_abandon(&w);
    setrlimit(RLIMIT_FSIZE, &old);
    REFUSED(done, &f, FAULT_RESOURCE, "precious: cannot write", "large");
    CHECK(holds(temporary("precious"), "old"));
}

static void killed_while_writing(void) {
    write_text("survivor", "old");
    pid_t child = fork();
    if (child == 0) {
        static char big[600000];
        struct file_writer w;
        fault f;
        if (file_writer_open(&w, temporary("survivor"), &f) && file_write(&w, big, sizeof big, &f)) {
            raise(SIGKILL);
        }
        _exit(1);
    }
    int status = 0;
    waitpid(child, &status, 0);
    CHECK(WIFSIGNALED(status));
    CHECK(holds(temporary("survivor"), "old"));
}

int main(void) {
    faults_have_one_line();
    statuses_of_system_calls();
    mapping();
    paths_and_folders();
    writing();
    full_disk();
    killed_while_writing();
    return check_end();
}
