// What the tests of the file formats share: counting, a temporary folder, the folder of real data.
#ifndef LODROP_TESTS_FORMATS_EXPECT_H
#define LODROP_TESTS_FORMATS_EXPECT_H

#include <stdbool.h>
#include <stddef.h>

#include "../../trainer/fault.h"

#define CHECK(condition) check_that(condition, #condition, __FILE__, __LINE__)

// done must be false, with this status and both parts in the fault's text.
#define REFUSED(done, f, status, field, reason) check_refused(done, f, status, field, reason, __FILE__, __LINE__)

void check_that(bool passed, const char *what, const char *file, int line);
void check_refused(bool done, const fault *f, int status, const char *field, const char *reason, const char *file,
                   int line);
void check_skip(const char *name, const char *why);

// Removes the temporary folder, prints "N passed, N failed, N skipped", returns the exit status.
int check_end(void);

// A path in the temporary folder; it stays good for the next 7 calls.
const char *temporary(const char *name);

// Writes a file into the temporary folder and returns its path, like temporary().
const char *write_bytes(const char *name, const void *data, size_t size);
const char *write_text(const char *name, const char *text);

// A path below $LODROP_TEST_DATA, or NULL and a skip under that name.
const char *real_data(const char *test, const char *name);

#endif
