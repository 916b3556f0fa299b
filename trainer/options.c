#include "options.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "dropout.h"

static void *place(const struct option *o, void *values) {
    return (char *)values + o->offset;
}

// The name with its dashes or, as JSON and PyTorch's programs have them, underscores.
static bool is_spelled(const char *name, const char *word, size_t length) {
    for (size_t i = 0; i < length; i++) {
        if (word[i] != name[i] && !(word[i] == '_' && name[i] == '-')) {
            return false;
        }
    }
    return true;
}

static const struct option *find(const struct option_table *table, const char *name, size_t length) {
    for (size_t i = 0; i < table->count; i++) {
        if (strlen(table->list[i].name) == length && is_spelled(table->list[i].name, name, length)) {
            return &table->list[i];
        }
    }
    return NULL;
}

const struct option *option_find(const struct option_table *table, const char *name) {
    return find(table, name, strlen(name));
}

// --- Values ---

// The reason why a number is refused, NULL if it is not.
static const char *out_of_range(const struct option *o, double value, char text[96]) {
    if (o->type == OPTION_RATE) {
        return dropout_rate_refusal(value);
    }
    if (!(value >= o->least && value <= o->most)) {
        snprintf(text, 96, o->most >= 1e15 ? "must be at least %.15g" : "must be from %.15g to %.15g", o->least,
                 o->most);
        return text;
    }
    return NULL;
}

static bool set_number(const struct option *o, void *values, double value, const char *file, const char *field,
                       fault *f) {
    char text[96];
    const char *reason = out_of_range(o, value, text);
    if (reason) {
        return fault_set(f, FAULT_INPUT, file, field, "is %.15g, %s", value, reason);
    }
    *(double *)place(o, values) = value;
    return true;
}

static bool set_integer(const struct option *o, void *values, int64_t value, const char *file, const char *field,
                        fault *f) {
    char text[96];
    const char *reason = out_of_range(o, (double)value, text);
    if (reason) {
        return fault_set(f, FAULT_INPUT, file, field, "is %lld, %s", (long long)value, reason);
    }
    *(int64_t *)place(o, values) = value;
    return true;
}

static bool set_text(const struct option *o, void *values, const char *value, const char *file, const char *field,
                     fault *f) {
    if (strlen(value) >= OPTION_TEXT_SIZE) {
        return fault_set(f, FAULT_INPUT, file, field, "is longer than %d bytes", OPTION_TEXT_SIZE - 1);
    }
    strcpy(place(o, values), value);
    return true;
}

static bool append(const struct option *o, void *values, const char *value, const char *file, const char *field,
                   fault *f) {
    struct option_list *list = place(o, values);
    if (list->count == OPTION_LIST_MOST) {
        return fault_set(f, FAULT_INPUT, file, field, "more than %d of them", OPTION_LIST_MOST);
    }
    if (strlen(value) >= OPTION_LIST_TEXT) {
        return fault_set(f, FAULT_INPUT, file, field, "'%.32s...' is longer than %d bytes", value,
                         OPTION_LIST_TEXT - 1);
    }
    strcpy(list->text[list->count++], value);
    return true;
}

// A number of bytes, KiB, MiB or GiB.
static bool read_bytes(int64_t *bytes, const char *word) {
    static const char *const units[] = {"", "KiB", "MiB", "GiB"};
    char *end;
    errno = 0;
    long long value = strtoll(word, &end, 10);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (strcmp(end, units[i]) == 0) {
            return !errno && end > word && !__builtin_mul_overflow(value, (int64_t)1 << 10 * i, bytes);
        }
    }
    return false;
}

static bool set_from_word(const struct option *o, void *values, const char *word, const char *program, const char *flag,
                          fault *f) {
    char *end;
    int64_t bytes;
    errno = 0;
    switch (o->type) {
    case OPTION_TEXT:
        return *word ? set_text(o, values, word, program, flag, f)
                     : fault_set(f, FAULT_INPUT, program, flag, "is empty: leave it out, or name something");
    case OPTION_LIST:
        return append(o, values, word, program, flag, f);
    case OPTION_INTEGER: {
        long long value = strtoll(word, &end, 10);
        if (errno || end == word || *end) {
            return fault_set(f, FAULT_INPUT, program, flag, "'%s' is not a whole number", word);
        }
        return set_integer(o, values, value, program, flag, f);
    }
    case OPTION_BYTES:
        return read_bytes(&bytes, word) ? set_integer(o, values, bytes, program, flag, f)
                                        : fault_set(f, FAULT_INPUT, program, flag,
                                                    "'%s' is not a number of bytes, KiB, MiB or GiB", word);
    default: {
        double value = strtod(word, &end);
        if (end == word || *end) {
            return fault_set(f, FAULT_INPUT, program, flag, "'%s' is not a number", word);
        }
        return set_number(o, values, value, program, flag, f);
    }
    }
}

// --- Command line ---

static void print_help(const struct option_table *table) {
    printf("%s\n", table->usage);
    for (size_t i = 0; i < table->count; i++) {
        const struct option *o = &table->list[i];
        if (o->help) {
            char head[64];
            snprintf(head, sizeof head, "--%s%s%s", o->name, o->value ? " " : "", o->value ? o->value : "");
            printf("  %-28s %s\n", head, o->help);
        }
    }
    printf("  %-28s %s\n  %-28s %s\n", "--help", "this text", "--version", "the version");
    for (size_t i = 0; i < sizeof table->outro / sizeof *table->outro && table->outro[i]; i++) {
        printf("%s%s", i ? "" : "\n", table->outro[i]);
    }
}

// One option and its value at argv[*at], which then stands at its last word.
static bool parse_one(const struct option_table *table, void *values, option_set *given, int argc, char **argv, int *at,
                      fault *f) {
    const char *word = argv[*at], *name = word + 2;
    const char *equals = strchr(word, '=');
    size_t length = equals ? (size_t)(equals - name) : strlen(name);
    const struct option *o = strncmp(word, "--", 2) == 0 ? find(table, name, length) : NULL;
    if (!o) {
        return fault_set(f, FAULT_USAGE, table->program, word, "unknown option: see --help");
    }
    char flag[64];
    snprintf(flag, sizeof flag, "--%s", o->name);
    *given |= (option_set)1 << (o - table->list);
    if (o->type == OPTION_SWITCH) {
        *(bool *)place(o, values) = true;
        return !equals || fault_set(f, FAULT_USAGE, table->program, flag, "takes no value");
    }
    if (!equals && *at + 1 >= argc) {
        return fault_set(f, FAULT_USAGE, table->program, flag, "needs a value: %s", o->value);
    }
    return set_from_word(o, values, equals ? equals + 1 : argv[++*at], table->program, flag, f);
}

bool options_parse(const struct option_table *table, void *values, option_set *given, int argc, char **argv, fault *f) {
    *given = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0) {
            print_help(table);
            exit(EXIT_SUCCESS);
        }
        if (strcmp(argv[i], "--version") == 0) {
            printf("%s " LOD_VERSION "\n", table->program);
            exit(EXIT_SUCCESS);
        }
    }
    for (int i = 1; i < argc; i++) {
        if (!parse_one(table, values, given, argc, argv, &i, f)) {
            return false;
        }
    }
    return true;
}

bool options_given(const struct option_table *table, option_set given, const char *name) {
    const struct option *o = option_find(table, name);
    return o && given >> (o - table->list) & 1;
}

bool options_require(const struct option_table *table, option_set given, const char *const *names, fault *f) {
    for (; *names; names++) {
        if (!options_given(table, given, *names)) {
            char flag[64];
            snprintf(flag, sizeof flag, "--%s", *names);
            return fault_set(f, FAULT_USAGE, table->program, flag, "is needed: see --help");
        }
    }
    return true;
}

// --- JSON ---

void option_json_name(const struct option *o, char name[64]) {
    snprintf(name, 64, "%s", o->name);
    for (char *c = name; *c; c++) {
        *c = *c == '-' ? '_' : *c;
    }
}

static json_t *list_json(const struct option_list *list) {
    json_t *array = json_array();
    for (size_t i = 0; i < list->count; i++) {
        if (json_array_append_new(array, json_string(list->text[i])) != 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

json_t *option_json(const struct option *o, const void *values) {
    const void *at = (const char *)values + o->offset;
    switch (o->type) {
    case OPTION_TEXT:
        return json_string(at);
    case OPTION_INTEGER:
    case OPTION_BYTES:
        return json_integer(*(const int64_t *)at);
    case OPTION_SWITCH:
        return json_boolean(*(const bool *)at);
    case OPTION_LIST:
        return list_json(at);
    default:
        return json_real(*(const double *)at);
    }
}

json_t *options_json(const struct option_table *table, const void *values) {
    json_t *object = json_object();
    for (size_t i = 0; i < table->count; i++) {
        char name[64];
        option_json_name(&table->list[i], name);
        if (json_object_set_new(object, name, option_json(&table->list[i], values)) != 0) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}

static bool set_list(const struct option *o, void *values, struct json_scope scope, const char *field,
                     const char *name, fault *f) {
    const json_t *array;
    if (!json_get_array(scope, field, JSON_REQUIRED, &array, f)) {
        return false;
    }
    ((struct option_list *)place(o, values))->count = 0;
    for (size_t i = 0; i < json_array_size(array); i++) {
        const json_t *value = json_array_get(array, i);
        if (!json_is_string(value)) {
            return json_fault(scope, field, f, "must be a list of strings");
        }
        if (!append(o, values, json_string_value(value), scope.file, name, f)) {
            return false;
        }
    }
    return true;
}

bool option_from_json(const struct option *o, void *values, struct json_scope scope, const char *field, fault *f) {
    const char *text = "";
    int64_t integer = 0;
    double number = 0;
    char name[256]; // as json_get_* call it in their faults
    snprintf(name, sizeof name, "%s%s%s", scope.within ? scope.within : "", scope.within ? "." : "", field);
    switch (o->type) {
    case OPTION_TEXT:
        return json_get_string(scope, field, JSON_REQUIRED, &text, f) && set_text(o, values, text, scope.file, name, f);
    case OPTION_INTEGER:
    case OPTION_BYTES:
        return json_get_integer(scope, field, JSON_REQUIRED, INT64_MIN, INT64_MAX, &integer, f) &&
               set_integer(o, values, integer, scope.file, name, f);
    case OPTION_LIST:
        return set_list(o, values, scope, field, name, f);
    case OPTION_SWITCH:
        return json_get_bool(scope, field, JSON_REQUIRED, place(o, values), f);
    default:
        return json_get_number(scope, field, JSON_REQUIRED, -HUGE_VAL, HUGE_VAL, &number, f) &&
               set_number(o, values, number, scope.file, name, f);
    }
}

bool options_from_json(const struct option_table *table, void *values, const json_t *object, const char *file,
                       fault *f) {
    struct json_scope scope = {.object = object, .file = file};
    for (size_t i = 0; i < table->count; i++) {
        char name[64];
        option_json_name(&table->list[i], name);
        if (json_has(scope, name) && !option_from_json(&table->list[i], values, scope, name, f)) {
            return false;
        }
    }
    return true;
}

bool option_is_among(const char *name, const char *const *list, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (strcmp(name, list[i]) == 0) {
            return true;
        }
    }
    return false;
}
