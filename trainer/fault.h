// Why something could not be done: the exit status of the program and one line for its user, "file: field: reason".
// Every function of the trainer that can fail returns bool, true for done, and fills a fault where it returns false.
#ifndef LODROP_TRAINER_FAULT_H
#define LODROP_TRAINER_FAULT_H

#include <stdbool.h>
#include <stddef.h>

enum { FAULT_INPUT = 1, FAULT_USAGE = 2, FAULT_RESOURCE = 3 }; // exit statuses; resource: out of memory or disk

typedef struct fault {
    int status;
    char text[4608]; // the longest path and a reason; cut when longer, control characters replaced: always one line
} fault;

// Formats "file: field: reason" (file and field may be NULL) and returns false, for `return fault_set(...)`.
// f may be NULL.
bool fault_set(fault *f, int status, const char *file, const char *field, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

// Out of memory, with what could not be held.
bool fault_memory(fault *f, const char *what);

// A system call failed with `error` on `file`; `action` as in "cannot open". Errors of the machine (disk full, mount
// read-only, input/output, memory, open files) are FAULT_RESOURCE; others (missing, not allowed, a folder) FAULT_INPUT.
bool fault_system(fault *f, const char *file, const char *action, int error);

#endif
