#include "json.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "file.h"

bool json_fault(struct json_scope s, const char *field, fault *f, const char *format, ...) {
    char reason[512];
    char name[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reason, sizeof reason, format, arguments);
    va_end(arguments);
    snprintf(name, sizeof name, "%s%s%s", s.within ? s.within : "", s.within ? "." : "", field);
    return fault_set(f, FAULT_INPUT, s.file, name, "%s", reason);
}

bool json_read_bytes(json_t **root, const void *data, size_t size, const char *file, fault *f) {
    json_error_t error;
    *root = NULL;
    // Jansson takes no empty buffer; a single space is as empty and gives its own message.
    json_t *value = json_loadb(size ? data : " ", size ? size : 1, JSON_REJECT_DUPLICATES, &error);
    if (!value) {
        if (json_error_code(&error) == json_error_out_of_memory) {
            return fault_memory(f, file);
        }
        char place[64];
        if (size && memchr(data, '\n', size)) {
            snprintf(place, sizeof place, "line %d column %d", error.line, error.column);
        } else {
            snprintf(place, sizeof place, "column %d", error.column);
        }
        return fault_set(f, FAULT_INPUT, file, place, "not valid JSON: %s", error.text);
    }
    if (!json_is_object(value)) {
        json_decref(value);
        return fault_set(f, FAULT_INPUT, file, NULL, "not a JSON object");
    }
    *root = value;
    return true;
}

bool json_read_file(json_t **root, const char *path, fault *f) {
    *root = NULL;
    struct mapped_file map;
    if (!file_map(&map, path, f)) {
        return false;
    }
    bool done = json_read_bytes(root, map.data, map.size, path, f);
    file_unmap(&map);
    return done;
}

// Jansson prints all numbers of a text with one precision: the least one that gives all of them back. NULL: no memory.
static char *dump_shortest(const json_t *root) {
    for (unsigned digits = 15; digits < 17; digits++) {
        char *text = json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(digits));
        json_t *back = text ? json_loads(text, 0, NULL) : NULL;
        bool same = back && json_equal(back, root);
        json_decref(back);
        if (same) {
            return text;
        }
        free(text);
    }
    return json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
}

bool json_write_file(const json_t *root, const char *path, fault *f) {
    char *text = dump_shortest(root);
    if (!text) {
        return fault_memory(f, path);
    }
    struct file_writer w;
    bool done = file_writer_open(&w, path, f) && file_write(&w, text, strlen(text), f) && file_write(&w, "\n", 1, f) &&
                file_commit(&w, f);
    file_abandon(&w);
    free(text);
    return done;
}

bool json_has(struct json_scope s, const char *field) {
    const json_t *value = json_object_get(s.object, field);
    return value && !json_is_null(value);
}

// The value, or NULL where it is missing; then *done says whether that is allowed (a fault is set if not).
static const json_t *lookup(struct json_scope s, const char *field, enum json_need need, bool *done, fault *f) {
    *done = true;
    if (json_has(s, field)) {
        return json_object_get(s.object, field);
    }
    if (need == JSON_REQUIRED) {
        *done = json_fault(s, field, f, "missing");
    }
    return NULL;
}

bool json_get_string(struct json_scope s, const char *field, enum json_need need, const char **value, fault *f) {
    bool done;
    const json_t *found = lookup(s, field, need, &done, f);
    if (!found) {
        return done;
    }
    if (!json_is_string(found)) {
        return json_fault(s, field, f, "must be a string");
    }
    *value = json_string_value(found);
    return true;
}

bool json_get_bool(struct json_scope s, const char *field, enum json_need need, bool *value, fault *f) {
    bool done;
    const json_t *found = lookup(s, field, need, &done, f);
    if (!found) {
        return done;
    }
    if (!json_is_boolean(found)) {
        return json_fault(s, field, f, "must be true or false");
    }
    *value = json_is_true(found);
    return true;
}

bool json_get_integer(struct json_scope s, const char *field, enum json_need need, int64_t least, int64_t most,
                      int64_t *value, fault *f) {
    bool done;
    const json_t *found = lookup(s, field, need, &done, f);
    if (!found) {
        return done;
    }
    if (!json_is_integer(found)) {
        return json_fault(s, field, f, "must be an integer");
    }
    int64_t number = json_integer_value(found);
    if (number < least || number > most) {
        return json_fault(s, field, f, "is %" PRId64 ", must be %" PRId64 " to %" PRId64, number, least, most);
    }
    *value = number;
    return true;
}

bool json_get_number(struct json_scope s, const char *field, enum json_need need, double least, double most,
                     double *value, fault *f) {
    bool done;
    const json_t *found = lookup(s, field, need, &done, f);
    if (!found) {
        return done;
    }
    if (!json_is_number(found)) {
        return json_fault(s, field, f, "must be a number");
    }
    double number = json_number_value(found);
    if (!(number >= least && number <= most)) {
        return json_fault(s, field, f, "is %g, must be %g to %g", number, least, most);
    }
    *value = number;
    return true;
}

bool json_get_array(struct json_scope s, const char *field, enum json_need need, const json_t **value, fault *f) {
    bool done;
    const json_t *found = lookup(s, field, need, &done, f);
    if (!found) {
        return done;
    }
    if (!json_is_array(found)) {
        return json_fault(s, field, f, "must be a list");
    }
    *value = found;
    return true;
}

bool json_get_object(struct json_scope s, const char *field, enum json_need need, const json_t **value, fault *f) {
    bool done;
    const json_t *found = lookup(s, field, need, &done, f);
    if (!found) {
        return done;
    }
    if (!json_is_object(found)) {
        return json_fault(s, field, f, "must be an object");
    }
    *value = found;
    return true;
}

bool json_refuse_true(struct json_scope s, const char *field, fault *f) {
    bool set = false;
    return json_get_bool(s, field, JSON_OPTIONAL, &set, f) &&
           (!set || json_fault(s, field, f, "true is not supported"));
}
