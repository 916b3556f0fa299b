// Wisdom in files: read as a whole or refused as a whole; written under a lock to a temporary name and renamed, so that
// processes that tune at the same time lose nothing of each other's.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "wisdom_entries.h"

enum { PATH_SIZE = 4096, FILE_MOST = 4 << 20 };
static const char FIRST_LINE[] = "lodrop wisdom ";

static lod_status system_error(lod_error *err, const char *what, const char *path) {
    return lod_fail(err, LOD_FILE, "wisdom", "%s: %s: %s", path, what, strerror(errno));
}

// --- Where it is ---

static bool print_path(char *path, size_t size, const char *folder, const char *below, lod_isa isa, unsigned threads) {
    int length = snprintf(path, size, "%s%s/lodrop/wisdom.%s.%u", folder, below, lod_isa_text(isa), threads);
    return length >= 0 && (size_t)length < size;
}

lod_status lod_wisdom_path(unsigned threads, char *path, size_t size, lod_error *err) {
    const char *file = getenv("LODROP_WISDOM"), *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    lod_isa isa;
    LOD_TRY(lod_isa_in_use(&isa, NULL, err));
    if (!threads) threads = lod_default_threads();
    bool fits;
    if (file && *file) {
        fits = (size_t)snprintf(path, size, "%s", file) < size;
    } else if (cache && *cache == '/') {
        fits = print_path(path, size, cache, "", isa, threads);
    } else if (home && *home) {
        fits = print_path(path, size, home, "/.cache", isa, threads);
    } else {
        return lod_fail(err, LOD_FILE, "wisdom", "neither LODROP_WISDOM nor HOME says where to keep it");
    }
    return fits ? LOD_OK : lod_fail(err, LOD_FILE, "wisdom", "its path is longer than %zu bytes", size - 1);
}

static lod_status resolve(const char *given, unsigned threads, char path[PATH_SIZE], lod_error *err) {
    if (!given) return lod_wisdom_path(threads, path, PATH_SIZE - 8, err); // room for what is appended
    if (strlen(given) >= PATH_SIZE - 8) return lod_fail(err, LOD_FILE, "wisdom", "its path is too long");
    strcpy(path, given);
    return LOD_OK;
}

// --- Reading ---

typedef struct file_text {
    char *data;
    size_t size;
} file_text;

static lod_status read_open_file(int descriptor, const char *path, file_text *text, lod_error *err) {
    struct stat info;
    if (fstat(descriptor, &info) != 0) return system_error(err, "cannot read", path);
    if (!S_ISREG(info.st_mode)) return lod_fail(err, LOD_FILE, "wisdom", "%s: not a regular file", path);
    if (info.st_size > FILE_MOST) {
        return lod_fail(err, LOD_BAD_WISDOM, "wisdom", "%s: larger than any wisdom, %d bytes", path, FILE_MOST);
    }
    text->data = malloc((size_t)info.st_size + 1);
    if (!text->data) return lod_fail(err, LOD_NO_MEMORY, "wisdom", "%s: no memory for its text", path);
    while (text->size < (size_t)info.st_size) {
        ssize_t got = read(descriptor, text->data + text->size, (size_t)info.st_size - text->size);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return system_error(err, "cannot read", path);
        if (got == 0) break;
        text->size += (size_t)got;
    }
    return LOD_OK;
}

static lod_status read_file(const char *path, file_text *text, lod_error *err) {
    *text = (file_text){0};
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // a FIFO would block
    if (descriptor < 0) return system_error(err, "cannot open", path);
    lod_status status = read_open_file(descriptor, path, text, err);
    close(descriptor);
    return status;
}

static lod_status load(const char *path, unsigned threads, lod_error *err) {
    file_text text;
    lod_wisdom wisdom = {0};
    lod_status status = read_file(path, &text, err);
    if (status == LOD_OK) status = lod_wisdom_parse(text.data, text.size, threads, "wisdom", &wisdom, err);
    free(text.data);
    if (status == LOD_OK && !lod_wisdom_add_known(&wisdom)) {
        status = lod_fail(err, LOD_NO_MEMORY, "wisdom", "%s: no memory for its entries", path);
    }
    free(wisdom.entries);
    return status;
}

lod_status lod_wisdom_load(const char *path, unsigned threads, lod_error *err) {
    char resolved[PATH_SIZE];
    int saved = errno;
    if (!threads) threads = lod_default_threads();
    lod_status status = resolve(path, threads, resolved, err);
    if (status == LOD_OK) status = load(resolved, threads, err);
    errno = saved;
    return status;
}

// --- Writing ---

// What the file holds already. One that would be refused counts as empty.
static lod_status read_present(const char *path, unsigned threads, lod_wisdom *present, lod_error *err) {
    file_text text;
    *present = (lod_wisdom){0};
    struct stat info;
    if (stat(path, &info) != 0 && errno == ENOENT) return LOD_OK;
    lod_status status = read_file(path, &text, err);
    if (status == LOD_OK && text.size && (text.size < strlen(FIRST_LINE) ||
                                          memcmp(text.data, FIRST_LINE, strlen(FIRST_LINE)) != 0)) {
        status = lod_fail(err, LOD_BAD_WISDOM, "wisdom", "%s: holds something else, and is not overwritten", path);
    }
    if (status == LOD_OK && lod_wisdom_parse(text.data, text.size, threads, "wisdom", present, NULL) == LOD_NO_MEMORY) {
        status = lod_fail(err, LOD_NO_MEMORY, "wisdom", "%s: no memory for its entries", path);
    }
    free(text.data);
    return status;
}

static bool print_all(FILE *file, const char *header, const lod_wisdom *wisdom) {
    char line[LOD_ENTRY_SIZE];
    fputs(header, file);
    for (size_t i = 0; i < wisdom->count; i++) {
        lod_wisdom_print_entry(&wisdom->entries[i], line);
        fprintf(file, "%s\n", line);
    }
    return fflush(file) == 0 && !ferror(file) && (fsync(fileno(file)) == 0 || errno == EINVAL);
}

static lod_status write_file(const char *path, const char *header, const lod_wisdom *wisdom, lod_error *err) {
    char temporary[PATH_SIZE + 8];
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    FILE *file = fopen(temporary, "we");
    if (!file) return system_error(err, "cannot write", temporary);
    bool written = print_all(file, header, wisdom);
    int error = errno;
    if (fclose(file) != 0 && written) written = false, error = errno;
    if (written && rename(temporary, path) != 0) written = false, error = errno;
    if (written) return LOD_OK;
    unlink(temporary);
    errno = error;
    return system_error(err, "cannot write", path);
}

// Under the lock: what the file holds and what the process knows, together.
static lod_status merge(const char *path, unsigned threads, lod_error *err) {
    char header[LOD_HEADER_SIZE];
    lod_wisdom all = {0}, known = {0};
    lod_status status = lod_wisdom_print_header(threads, header, err);
    if (status == LOD_OK) status = read_present(path, threads, &all, err);
    bool memory = status != LOD_OK || lod_wisdom_copy_known(threads, &known);
    for (size_t i = 0; memory && i < known.count; i++) memory = lod_wisdom_put(&all, &known.entries[i]);
    if (!memory) status = lod_fail(err, LOD_NO_MEMORY, "wisdom", "%s: no memory for its entries", path);
    if (status == LOD_OK) status = write_file(path, header, &all, err);
    free(all.entries);
    free(known.entries);
    return status;
}

static void make_folders_above(const char *path) {
    char folder[PATH_SIZE];
    strcpy(folder, path);
    for (char *c = folder + 1; *c; c++) {
        if (*c != '/') continue;
        *c = 0;
        mkdir(folder, 0777); // one that cannot be made shows when the file is opened
        *c = '/';
    }
}

static lod_status save(const char *path, unsigned threads, lod_error *err) {
    char name[PATH_SIZE + 8];
    make_folders_above(path);
    snprintf(name, sizeof name, "%s.lock", path);
    int lock = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (lock < 0) return system_error(err, "cannot write", name);
    lod_status status;
    int locked;
    do {
        locked = flock(lock, LOCK_EX);
    } while (locked != 0 && errno == EINTR);
    status = locked == 0 ? merge(path, threads, err) : system_error(err, "cannot lock", name);
    close(lock);
    return status;
}

lod_status lod_wisdom_save(const char *path, unsigned threads, lod_error *err) {
    char resolved[PATH_SIZE];
    int saved = errno;
    if (!threads) threads = lod_default_threads();
    lod_status status = resolve(path, threads, resolved, err);
    if (status == LOD_OK) status = save(resolved, threads, err);
    errno = saved;
    return status;
}
