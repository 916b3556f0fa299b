#include "layers.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

static const char LATER_HALF[] = "later-half";

// The number that text begins with and what follows it; NULL where there is none.
static const char *read_number(unsigned *number, const char *text) {
    const char *c = text;
    for (*number = 0; isdigit((unsigned char)*c) && *number < 10000; c++) {
        *number = *number * 10 + (unsigned)(*c - '0');
    }
    return c > text ? c : NULL;
}

bool layers_parse(struct layers *l, const char *text, const char *file, const char *field, fault *f) {
    *l = (struct layers){.extent = LAYERS_LATER_HALF};
    if (strcmp(text, LATER_HALF) == 0) {
        return true;
    }
    l->extent = LAYERS_SOME;
    const char *rest = read_number(&l->first, text);
    l->last = l->first;
    if (rest && *rest == '-') {
        rest = read_number(&l->last, rest + 1);
    }
    if (!rest || *rest) {
        return fault_set(f, FAULT_INPUT, file, field, "'%s' names no layers: must be like 3, 12-23 or %s", text,
                         LATER_HALF);
    }
    return l->first <= l->last || fault_set(f, FAULT_INPUT, file, field, "layers %s run backwards", text);
}

void layers_print(char text[LAYERS_TEXT], const struct layers *l) {
    if (l->extent == LAYERS_SOME) {
        snprintf(text, LAYERS_TEXT, l->first < l->last ? "%u-%u" : "%u", l->first, l->last);
    } else {
        strcpy(text, l->extent == LAYERS_LATER_HALF ? LATER_HALF : "");
    }
}

bool layers_hold(const struct layers *l, unsigned layer, unsigned count) {
    return l->extent == LAYERS_ALL || (l->extent == LAYERS_LATER_HALF && layer >= count / 2) ||
           (l->extent == LAYERS_SOME && l->first <= layer && layer <= l->last);
}

bool layers_settle(struct layers *l, unsigned count, const char *file, const char *field, fault *f) {
    if (l->extent == LAYERS_LATER_HALF) {
        *l = (struct layers){.extent = LAYERS_SOME, .first = count / 2, .last = count - 1};
    }
    return l->extent == LAYERS_ALL || l->last < count ||
           fault_set(f, FAULT_INPUT, file, field, "names layer %u, there are layers 0 to %u only", l->last, count - 1);
}
