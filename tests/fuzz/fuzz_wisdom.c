// Any bytes are wisdom that is refused with one line, or entries that plans can be made of and whose text gives them
// back. The header of this machine is put in front, so that the entries are reached.
#include <stdlib.h>
#include <string.h>

#include "wisdom_entries.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { THREADS = 3 };

static void check(bool kept) {
    if (!kept) {
        abort();
    }
}

static void check_list(const char *header, const lod_wisdom *wisdom) {
    char *text = malloc(LOD_HEADER_SIZE + wisdom->count * LOD_ENTRY_SIZE), line[LOD_ENTRY_SIZE];
    lod_wisdom again;
    strcpy(text, header);
    for (size_t i = 0; i < wisdom->count; i++) {
        lod_wisdom_print_entry(&wisdom->entries[i], line);
        strcat(strcat(text, line), "\n");
    }
    check(lod_wisdom_parse(text, strlen(text), THREADS, "wisdom", &again, NULL) == LOD_OK);
    check(again.count == wisdom->count);
    free(again.entries);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char header[LOD_HEADER_SIZE];
    lod_wisdom wisdom;
    lod_error err = {.code = LOD_OK};
    check(lod_wisdom_print_header(THREADS, header, NULL) == LOD_OK);
    const size_t length = strlen(header);
    char *text = malloc(length + size);
    memcpy(text, header, length);
    memcpy(text + length, data, size);
    if (lod_wisdom_parse(text, length + size, THREADS, "wisdom", &wisdom, &err) == LOD_OK) {
        check_list(header, &wisdom);
    } else {
        check(err.code == LOD_BAD_WISDOM && !wisdom.entries && !strchr(err.text, '\n'));
    }
    free(wisdom.entries);
    free(text);
    return 0;
}
