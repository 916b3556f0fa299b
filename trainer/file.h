// Files: read by mapping them whole, written whole or not at all.
#ifndef LODROP_TRAINER_FILE_H
#define LODROP_TRAINER_FILE_H

#include <stdint.h>

#include "fault.h"

enum { FILE_PATH_MAX = 4096 }; // bytes, the end included

// A file mapped read-only. An empty file has size 0 and data that must not be read. Zeroed: nothing to unmap.
struct mapped_file {
    const uint8_t *data;
    size_t size;
};

bool file_map(struct mapped_file *map, const char *path, fault *f);
void file_unmap(struct mapped_file *map);

bool file_exists(const char *path);
bool file_is_folder(const char *path);

// "folder/name" into out; a folder NULL or empty gives name alone.
bool file_path(char out[FILE_PATH_MAX], const char *folder, const char *name, fault *f);

bool file_ends_with(const char *path, const char *end); // in capitals or not

// Both are on disk when they return. One that is not there is removed already.
bool file_rename(const char *from, const char *to, fault *f);
bool file_remove(const char *path, fault *f);

// What was printed has reached standard output: a full disk shows only now.
bool file_flush_output(fault *f);

// Makes a folder and the folders above it; one that exists is fine.
bool file_make_folders(const char *path, fault *f);

// Writes a file under a temporary name beside its place. Only commit gives it its own name (flush, fsync, rename, fsync
// of the folder); until then, and after any failure, an old file of that name is as it was.
//
//     struct file_writer w;
//     bool done = file_writer_open(&w, path, f) && file_write(&w, data, size, f) && file_commit(&w, f);
//     file_abandon(&w);   // removes what a failure left; after commit it does nothing
struct file_writer {
    int descriptor; // -1: nothing open
    size_t filled;  // bytes waiting in buffer
    uint8_t *buffer;
    char path[FILE_PATH_MAX];
    char temporary[FILE_PATH_MAX];
};

bool file_writer_open(struct file_writer *w, const char *path, fault *f);
bool file_write(struct file_writer *w, const void *data, size_t size, fault *f);
bool file_commit(struct file_writer *w, fault *f);
void file_abandon(struct file_writer *w);

#endif
