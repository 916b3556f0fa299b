#include "fault.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

// Appends at `used` as far as there is room; returns the new length.
static size_t append(fault *f, size_t used, const char *text) {
    size_t room = sizeof f->text - 1 - used;
    size_t length = strlen(text);
    if (length > room) {
        length = room;
    }
    memcpy(f->text + used, text, length);
    return used + length;
}

bool fault_set(fault *f, int status, const char *file, const char *field, const char *format, ...) {
    if (!f) {
        return false;
    }
    f->status = status;
    size_t used = 0;
    if (file) {
        used = append(f, used, file);
        used = append(f, used, ": ");
    }
    if (field) {
        used = append(f, used, field);
        used = append(f, used, ": ");
    }
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(f->text + used, sizeof f->text - used, format, arguments);
    va_end(arguments);
    f->text[sizeof f->text - 1] = '\0';

    // Names come from files: they may hold line ends and escapes that must not reach a terminal.
    for (char *c = f->text; *c; c++) {
        if ((unsigned char)*c < 0x20 || *c == 0x7f) {
            *c = '?';
        }
    }
    return false;
}

bool fault_memory(fault *f, const char *what) {
    return fault_set(f, FAULT_RESOURCE, NULL, what, "out of memory");
}

bool fault_system(fault *f, const char *file, const char *action, int error) {
    int status = FAULT_INPUT;
    switch (error) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case EIO:
    case ENOMEM:
    case EMFILE:
    case ENFILE:
        status = FAULT_RESOURCE;
        break;
    default:
        break;
    }
    return fault_set(f, status, file, action, "%s", strerror(error));
}
