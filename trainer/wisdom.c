#include "wisdom.h"

#include <stdio.h>

#include "file.h"
#include "library.h"

bool wisdom_read(unsigned threads, fault *f) {
    char path[FILE_PATH_MAX];
    lod_error err;
    if (lod_wisdom_path(threads, path, sizeof path, &err) != LOD_OK || !file_exists(path)) {
        return true; // plans are estimated
    }
    lod_status status = lod_wisdom_load(path, threads, &err);
    if (status == LOD_NO_MEMORY) {
        return library_done(status, &err, f);
    }
    if (status != LOD_OK) {
        fprintf(stderr, "%s: not used: %s\n", path, err.text);
    }
    return true;
}

bool wisdom_write(unsigned threads, char *path, size_t size, fault *f) {
    lod_error err;
    lod_status status = lod_wisdom_path(threads, path, size, &err);
    if (status == LOD_OK) {
        status = lod_wisdom_save(path, threads, &err);
    }
    return library_done(status, &err, f);
}
