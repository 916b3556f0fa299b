#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BUFFER_BYTES = 1 << 18 };

// The mapping is made while the descriptor is open and outlives it.
static bool map_open_file(struct mapped_file *map, int descriptor, const char *path, fault *f) {
    struct stat info;
    if (fstat(descriptor, &info) != 0) {
        return fault_system(f, path, "cannot read", errno);
    }
    if (!S_ISREG(info.st_mode)) {
        return fault_set(f, FAULT_INPUT, path, NULL, "not a regular file");
    }
    if ((uintmax_t)info.st_size > SIZE_MAX) {
        return fault_set(f, FAULT_RESOURCE, path, NULL, "too large for this machine's address space");
    }
    if (info.st_size == 0) {
        return true;
    }
    void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (data == MAP_FAILED) {
        return fault_system(f, path, "cannot map", errno);
    }
    *map = (struct mapped_file){.data = data, .size = (size_t)info.st_size};
    return true;
}

bool file_map(struct mapped_file *map, const char *path, fault *f) {
    *map = (struct mapped_file){0};
    // A FIFO without a writer would block the open; what is not a regular file is refused right after.
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0) {
        return fault_system(f, path, "cannot open", errno);
    }
    bool done = map_open_file(map, descriptor, path, f);
    close(descriptor);
    return done;
}

void file_unmap(struct mapped_file *map) {
    if (map->size) {
        munmap((void *)map->data, map->size);
    }
    *map = (struct mapped_file){0};
}

bool file_exists(const char *path) {
    struct stat info;
    return stat(path, &info) == 0;
}

bool file_is_folder(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

bool file_ends_with(const char *path, const char *end) {
    size_t length = strlen(path), part = strlen(end);
    return length >= part && strcasecmp(path + length - part, end) == 0;
}

bool file_path(char out[FILE_PATH_MAX], const char *folder, const char *name, fault *f) {
    bool bare = !folder || !*folder;
    const char *between = bare || folder[strlen(folder) - 1] == '/' ? "" : "/";
    int length = snprintf(out, FILE_PATH_MAX, "%s%s%s", bare ? "" : folder, between, name);
    if (length < 0 || length >= FILE_PATH_MAX) {
        return fault_set(f, FAULT_INPUT, NULL, NULL, "a path is longer than %d bytes: %s", FILE_PATH_MAX - 1, name);
    }
    return true;
}

bool file_flush_output(fault *f) {
    // A write that failed before leaves its mark on the stream, not in errno.
    return (fflush(stdout) == 0 && !ferror(stdout)) ||
           fault_set(f, FAULT_RESOURCE, "standard output", NULL, "cannot write");
}

static bool make_folder(const char *path, fault *f) {
    if (mkdir(path, 0777) == 0 || (errno == EEXIST && file_is_folder(path))) {
        return true;
    }
    // A read-only mount answers EROFS for folders that exist, too.
    int error = errno;
    return file_is_folder(path) || fault_system(f, path, "cannot make the folder", error);
}

bool file_make_folders(const char *path, fault *f) {
    char partial[FILE_PATH_MAX];
    if (!*path) {
        return fault_set(f, FAULT_INPUT, NULL, "folder", "empty name");
    }
    if (!file_path(partial, NULL, path, f)) {
        return false;
    }
    for (char *c = partial + 1; *c; c++) {
        if (*c == '/') {
            *c = '\0';
            if (!make_folder(partial, f)) {
                return false;
            }
            *c = '/';
        }
    }
    return make_folder(partial, f);
}

bool file_writer_open(struct file_writer *w, const char *path, fault *f) {
    w->descriptor = -1;
    w->filled = 0;
    w->buffer = NULL;
    static const char suffix[] = ".tmp";
    if (!file_path(w->path, NULL, path, f)) {
        return false;
    }
    if (strlen(path) + strlen(suffix) >= FILE_PATH_MAX) {
        return fault_set(f, FAULT_INPUT, NULL, NULL, "a path is longer than %d bytes: %s", FILE_PATH_MAX - 1, path);
    }
    strcat(strcpy(w->temporary, path), suffix);
    w->buffer = malloc(BUFFER_BYTES);
    if (!w->buffer) {
        return fault_memory(f, path);
    }
    // A leftover of this name is of a run that was killed.
    unlink(w->temporary);
    w->descriptor = open(w->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (w->descriptor < 0) {
        int error = errno;
        free(w->buffer);
        w->buffer = NULL;
        return fault_system(f, path, "cannot write", error);
    }
    return true;
}

static bool write_out(struct file_writer *w, const uint8_t *data, size_t size, fault *f) {
    while (size) {
        ssize_t written = write(w->descriptor, data, size);
        if (written < 0 && errno == EINTR) {
            continue;
        }
        if (written < 0) {
            return fault_system(f, w->path, "cannot write", errno);
        }
        data += written;
        size -= (size_t)written;
    }
    return true;
}

bool file_write(struct file_writer *w, const void *data, size_t size, fault *f) {
    const uint8_t *bytes = data;
    while (size) {
        if (w->filled == BUFFER_BYTES) {
            if (!write_out(w, w->buffer, w->filled, f)) {
                return false;
            }
            w->filled = 0;
        }
        size_t part = BUFFER_BYTES - w->filled < size ? BUFFER_BYTES - w->filled : size;
        memcpy(w->buffer + w->filled, bytes, part);
        w->filled += part;
        bytes += part;
        size -= part;
    }
    return true;
}

// The new name is on disk only when the folder is.
static bool sync_folder_of(const char *path, fault *f) {
    char folder[FILE_PATH_MAX];
    strcpy(folder, path);
    char *slash = strrchr(folder, '/');
    if (!slash) {
        strcpy(folder, ".");
    } else if (slash == folder) {
        slash[1] = '\0';
    } else {
        *slash = '\0';
    }
    int descriptor = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) {
        return fault_system(f, folder, "cannot open", errno);
    }
    // Some file systems cannot sync a folder and say EINVAL: nothing more can be done there.
    bool done = fsync(descriptor) == 0 || errno == EINVAL;
    int error = errno;
    close(descriptor);
    return done || fault_system(f, folder, "cannot write", error);
}

bool file_rename(const char *from, const char *to, fault *f) {
    return rename(from, to) == 0 ? sync_folder_of(to, f) : fault_system(f, to, "cannot write", errno);
}

bool file_remove(const char *path, fault *f) {
    return unlink(path) == 0 ? sync_folder_of(path, f)
                             : errno == ENOENT || fault_system(f, path, "cannot remove", errno);
}

bool file_commit(struct file_writer *w, fault *f) {
    bool written = write_out(w, w->buffer, w->filled, f);
    if (written && fsync(w->descriptor) != 0 && errno != EINVAL) {
        written = fault_system(f, w->path, "cannot write", errno);
    }
    int closed = close(w->descriptor);
    w->descriptor = -1;
    if (written && closed != 0) {
        written = fault_system(f, w->path, "cannot write", errno);
    }
    if (written && rename(w->temporary, w->path) != 0) {
        written = fault_system(f, w->path, "cannot write", errno);
    }
    if (!written) {
        unlink(w->temporary);
    }
    free(w->buffer);
    w->buffer = NULL;
    return written && sync_folder_of(w->path, f);
}

void file_abandon(struct file_writer *w) {
    if (w->descriptor >= 0) {
        close(w->descriptor);
        w->descriptor = -1;
        unlink(w->temporary);
    }
    free(w->buffer);
    w->buffer = NULL;
}
