// Command lines by a table: each option's name, type, place in a struct, range and help stand in one line of it. The
// same table turns the values into JSON and back.
#ifndef LODROP_TRAINER_OPTIONS_H
#define LODROP_TRAINER_OPTIONS_H

#include <stdint.h>
#include <stdio.h>

#include "file.h"
#include "json.h"

enum { OPTION_TEXT_SIZE = FILE_PATH_MAX, OPTIONS_MAX = 64, OPTION_LIST_MOST = 128, OPTION_LIST_TEXT = 128 };

enum option_type {
    OPTION_TEXT,    // char [OPTION_TEXT_SIZE]
    OPTION_INTEGER, // int64_t
    OPTION_BYTES,   // int64_t, with MiB or GiB behind it
    OPTION_NUMBER,  // double
    OPTION_RATE,    // double in [0, 1), of which the masks can keep some and drop some
    OPTION_SWITCH,  // bool
    OPTION_LIST,    // struct option_list
};

// The values of an option that may be given more than once, in their order.
struct option_list {
    size_t count;
    char text[OPTION_LIST_MOST][OPTION_LIST_TEXT];
};

struct option {
    const char *name; // without dashes
    enum option_type type;
    size_t offset;
    double least, most; // of integers and numbers
    const char *value;  // what the help calls its value
    const char *help;   // NULL: not shown
};

struct option_table {
    const char *program;
    const char *usage; // the lines above the options
    const char *outro[3]; // the lines below them, in as many strings as they need
    const struct option *list;
    size_t count;
};

// A bit per option of the table: it stood on the command line.
typedef uint64_t option_set;

// Overwrites what the command line names. --help prints the help and leaves with status 0. An unknown option or a
// missing value is a fault of usage; a value that is no number or out of range is one of input.
bool options_parse(const struct option_table *table, void *values, option_set *given, int argc, char **argv, fault *f);

// NULL: the table has no option of this name, which has no dashes in front.
const struct option *option_find(const struct option_table *table, const char *name);

bool options_given(const struct option_table *table, option_set given, const char *name);

// A fault of usage unless every name of the list, which ends with NULL, was given.
bool options_require(const struct option_table *table, option_set given, const char *const *names, fault *f);

// A value as JSON, and all of them as an object with names like "lora_r". NULL: no memory.
json_t *option_json(const struct option *o, const void *values);
json_t *options_json(const struct option_table *table, const void *values);
void option_json_name(const struct option *o, char name[64]);

// Reads one option from a field of an object; a list is a list of strings.
bool option_from_json(const struct option *o, void *values, struct json_scope scope, const char *field, fault *f);

// Reads the options that the object has; ranges are checked as on the command line.
bool options_from_json(const struct option_table *table, void *values, const json_t *object, const char *file,
                       fault *f);

bool option_is_among(const char *name, const char *const *list, size_t count);

#endif
