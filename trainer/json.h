// Fields of a JSON object with their types and ranges checked, over Jansson. A fault names file and field.
#ifndef LODROP_TRAINER_JSON_H
#define LODROP_TRAINER_JSON_H

#include <jansson.h>
#include <stdint.h>

#include "fault.h"

// Parses a whole file, or size bytes named `file` in faults. The value must be an object; a name twice in an object is
// a fault. The caller owns *root (json_decref).
bool json_read_file(json_t **root, const char *path, fault *f);
bool json_read_bytes(json_t **root, const void *data, size_t size, const char *file, fault *f);

// Writes root as indented text, names in the order they were set, numbers in the fewest digits that give them back.
bool json_write_file(const json_t *root, const char *path, fault *f);

// Where fields are looked up: an object, and how faults name it.
struct json_scope {
    const json_t *object;
    const char *file;
    const char *within; // NULL, or what leads to the object in the file: faults say "within.field"
};

enum json_need { JSON_REQUIRED, JSON_OPTIONAL };

// Each reads one field into *value. An optional field that is missing or null leaves *value as it was, so that a
// default is what *value held before. A string belongs to the object and lives as long.
bool json_get_string(struct json_scope s, const char *field, enum json_need need, const char **value, fault *f);
bool json_get_bool(struct json_scope s, const char *field, enum json_need need, bool *value, fault *f);
bool json_get_integer(struct json_scope s, const char *field, enum json_need need, int64_t least, int64_t most,
                      int64_t *value, fault *f);
bool json_get_number(struct json_scope s, const char *field, enum json_need need, double least, double most,
                     double *value, fault *f);
bool json_get_array(struct json_scope s, const char *field, enum json_need need, const json_t **value, fault *f);
bool json_get_object(struct json_scope s, const char *field, enum json_need need, const json_t **value, fault *f);

// A fault where the field, if there is one, is true.
bool json_refuse_true(struct json_scope s, const char *field, fault *f);

// The field is there and not null.
bool json_has(struct json_scope s, const char *field);

// fault_set for a field of the scope; returns false.
bool json_fault(struct json_scope s, const char *field, fault *f, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

#endif
