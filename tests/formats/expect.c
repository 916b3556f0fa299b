#define _XOPEN_SOURCE 700 // nftw

#include "expect.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATHS = 8, PATH_BYTES = 1024 };

static size_t passed_count, failed_count, skipped_count;
static char folder[] = "/tmp/lodrop-formats-XXXXXX";
static bool made;

void check_that(bool passed, const char *what, const char *file, int line) {
    passed_count += passed;
    failed_count += !passed;
    if (!passed) {
        printf("%s:%d: failed: %s\n", file, line, what);
    }
}

void check_refused(bool done, const fault *f, int status, const char *field, const char *reason, const char *file,
                   int line) {
    if (done) {
        check_that(false, "accepted, should be refused", file, line);
        printf("    expected: %s: %s\n", field, reason);
        return;
    }
    bool fits = f->status == status && strstr(f->text, field) && strstr(f->text, reason);
    check_that(fits, "another fault than expected", file, line);
    if (!fits) {
        printf("    status %d: %s\n    expected: status %d: %s: %s\n", f->status, f->text, status, field, reason);
    }
}

void check_skip(const char *name, const char *why) {
    skipped_count++;
    printf("skipped: %s: %s\n", name, why);
}

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *level) {
    (void)info;
    (void)type;
    (void)level;
    return remove(path);
}

int check_end(void) {
    if (made) {
        nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    }
    printf("%zu passed, %zu failed, %zu skipped\n", passed_count, failed_count, skipped_count);
    return failed_count != 0;
}

const char *temporary(const char *name) {
    static char paths[PATHS][PATH_BYTES];
    static unsigned next;
    if (!made && !mkdtemp(folder)) {
        perror(folder);
        exit(1);
    }
    made = true;
    char *path = paths[next++ % PATHS];
    snprintf(path, PATH_BYTES, "%s/%s", folder, name);
    return path;
}

const char *write_bytes(const char *name, const void *data, size_t size) {
    const char *path = temporary(name);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, size, file) != size || fclose(file) != 0) {
        perror(path);
        exit(1);
    }
    return path;
}

const char *write_text(const char *name, const char *text) {
    return write_bytes(name, text, strlen(text));
}

const char *real_data(const char *test, const char *name) {
    static char path[PATH_BYTES];
    const char *data = getenv("LODROP_TEST_DATA");
    if (!data) {
        check_skip(test, "LODROP_TEST_DATA does not name the folder of test data");
        return NULL;
    }
    snprintf(path, sizeof path, "%s/%s", data, name);
    if (access(path, R_OK) != 0) {
        check_skip(test, "the test data have no such file");
        return NULL;
    }
    return path;
}
