#include "split.h"

#include <string.h>

static const char *describe(int error, char text[static 256]) {
    if (pcre2_get_error_message(error, (PCRE2_UCHAR *)text, 256) < 0) {
        strcpy(text, "unknown");
    }
    return text;
}

// The files' expressions are Oniguruma's: ^ and $ are a line's, classes are Unicode's. (One character differs: U+180E
// is a space for PCRE2, and has not been one of Unicode's since 6.3.)
bool splits_add(struct splits *s, const char *pattern, bool literal, const char *file, const char *field, fault *f) {
    char reason[256];
    int error;
    size_t at;
    if (s->count == SPLITS_MOST) {
        return fault_set(f, FAULT_INPUT, file, field, "more than %d patterns", SPLITS_MOST);
    }
    uint32_t options = PCRE2_UTF | (literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_MULTILINE);
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, options, &error, &at, NULL);
    if (!code) {
        return fault_set(f, FAULT_INPUT, file, field, "the pattern does not compile: %s", describe(error, reason));
    }
    s->codes[s->count++] = code;
    return true;
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
