#include "split.h"

#include <string.h>

static const char *describe(int error, char text[static 256]) {
    if (pcre2_get_error_message(error, (PCRE2_UCHAR *)text, 256) < 0) {
        strcpy(text, "unknown");
    }
    return text;
}

// The files' expressions are Oniguruma's, in which these mean something else than in PCRE2, or match other characters;
// the first two only where no class is open.
static const char *const foreign[] = {"}+", "{,", "&&", "\\w", "\\W", "\\b", "\\B", "\\h", "\\H"};
enum { OUTSIDE_CLASSES = 2 };

static const char *foreign_at(const char *p, bool within) {
    for (size_t i = within ? OUTSIDE_CLASSES : 0; i < sizeof foreign / sizeof *foreign; i++) {
        if (strncmp(p, foreign[i], strlen(foreign[i])) == 0) {
            return foreign[i];
        }
    }
    if (!within && p[0] == '(' && p[1] == '?') { // options, m among them
        size_t letters = strspn(p + 2, "imnsxUJ-");
        return memchr(p + 2, 'm', letters) ? "(?m" : NULL;
    }
    return within && *p == '[' && p[1] != ':' ? "[ [" : NULL;
}

// The first of those in a pattern, or a class within a class; NULL: there is none.
static const char *find_foreign(const char *pattern) {
    bool within = false; // a class
    for (const char *p = pattern; *p; p++) {
        const char *found = foreign_at(p, within);
        if (found) {
            return found;
        }
        if (*p == '\\' && p[1]) {
            const char *end = p[2] == '{' ? strchr(p, '}') : NULL; // a property's name
            p = end ? end : p + 1;
        } else if (within && *p == '[') { // [:name:]
            const char *end = strchr(p, ']');
            p = end ? end : p;
        } else if (*p == '[' || *p == ']') {
            within = *p == '[';
        }
    }
    return NULL;
}

// An empty match parts a text there and takes nothing, which walk_parts does not.
static bool check(const pcre2_code *code, const char *pattern, bool literal, const char *file, const char *field,
                  fault *f) {
    uint32_t empty = !*pattern;
    const char *other = literal ? NULL : find_foreign(pattern);
    pcre2_pattern_info(code, PCRE2_INFO_MATCHEMPTY, &empty);
    return other   ? fault_set(f, FAULT_INPUT, file, field, "\"%s\" in a pattern is not supported", other)
           : empty ? fault_set(f, FAULT_INPUT, file, field, "a pattern that matches the empty text is not supported")
                   : true;
}

// ^ and $ are a line's, classes are Unicode's. (U+180E is a space for PCRE2, and has not been one of Unicode's since
// 6.3; letters younger than PCRE2's tables are none.)
bool splits_add(struct splits *s, const char *pattern, bool literal, const char *file, const char *field, fault *f) {
    char reason[256];
    int error;
    size_t at;
    if (s->count == SPLITS_MOST) {
        return fault_set(f, FAULT_INPUT, file, field, "more than %d patterns", SPLITS_MOST);
    }
    uint32_t options =
        PCRE2_UTF | (literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C);
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, options, &error, &at, NULL);
    if (!code) {
        return fault_set(f, FAULT_INPUT, file, field, "the pattern does not compile: %s", describe(error, reason));
    }
    s->codes[s->count++] = code;
    return check(code, pattern, literal, file, field, f);
}

void splits_free(struct splits *s) {
    for (size_t i = 0; i < s->count; i++) {
        pcre2_code_free(s->codes[i]);
    }
    s->count = 0;
}

struct walk {
    const struct splits *splits;
    pcre2_match_data *match;
    split_part *each;
    void *context;
    const char *file;
    fault *f;
};

// The next match at `from` or behind it, never an empty one; where there is none, ends stay as they were.
static bool find(const struct walk *w, size_t level, const char *text, size_t length, size_t from, size_t ends[2]) {
    int got = pcre2_match(w->splits->codes[level], (PCRE2_SPTR)text, length, from,
                          PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, w->match, NULL);
    if (got < 0 && got != PCRE2_ERROR_NOMATCH) {
        char reason[256];
        return fault_set(w->f, FAULT_INPUT, w->file, "pre_tokenizer", "a pattern fails on a text of %zu bytes: %s",
                         length, describe(got, reason));
    }
    if (got >= 0) {
        memcpy(ends, pcre2_get_ovector_pointer(w->match), 2 * sizeof *ends);
    }
    return true;
}

static bool walk_parts(const struct walk *w, size_t level, const char *text, size_t length) {
    if (level == w->splits->count) {
        return w->each(w->context, text, length);
    }
    for (size_t from = 0; from < length;) {
        size_t ends[2] = {length, length};
        if (!find(w, level, text, length, from, ends) ||
            (ends[0] > from && !walk_parts(w, level + 1, text + from, ends[0] - from)) ||
            (ends[1] > ends[0] && !walk_parts(w, level + 1, text + ends[0], ends[1] - ends[0]))) {
            return false;
        }
        from = ends[1];
    }
    return true;
}

bool splits_walk(const struct splits *s, const char *text, size_t length, split_part *each, void *context,
                 const char *file, fault *f) {
    struct walk w = {s, pcre2_match_data_create(1, NULL), each, context, file, f};
    if (!w.match) {
        return fault_memory(f, file);
    }
    bool done = length == 0 || walk_parts(&w, 0, text, length);
    pcre2_match_data_free(w.match);
    return done;
}
