// The inside of wisdom: entries, and their text.
#ifndef LOD_WISDOM_ENTRIES_H
#define LOD_WISDOM_ENTRIES_H

#include "plan.h"

typedef struct lod_wisdom_entry {
    unsigned threads;
    lod_rigor rigor; // LOD_MEASURE or LOD_EXHAUSTIVE
    char key[LOD_KEY_SIZE];
    lod_choice choice;
} lod_wisdom_entry;

typedef struct lod_wisdom {
    lod_wisdom_entry *entries; // ascending by key, then threads
    size_t count;
} lod_wisdom;

// --- wisdom.c ---
// Adds an entry, or puts it in the place of one of no higher rigor. False: no memory.
bool lod_wisdom_put(lod_wisdom *wisdom, const lod_wisdom_entry *entry);
// A copy of what the process knows for so many threads, and the way back. False: no memory.
bool lod_wisdom_copy_known(unsigned threads, lod_wisdom *copy);
bool lod_wisdom_add_known(const lod_wisdom *wisdom);

// --- wisdom_text.c ---
// An entry as a line, without its end.
enum { LOD_ENTRY_SIZE = LOD_KEY_SIZE + 240 };
void lod_wisdom_print_entry(const lod_wisdom_entry *entry, char line[LOD_ENTRY_SIZE]);
// The lines above the entries: what has to be the same for choices to be worth anything.
enum { LOD_HEADER_SIZE = 1024 };
lod_status lod_wisdom_print_header(unsigned threads, char header[LOD_HEADER_SIZE], lod_error *err);
// Reads a whole file's text [size]; on failure the list is empty. field: the file's name in errors.
lod_status lod_wisdom_parse(const char *text, size_t size, unsigned threads, const char *field, lod_wisdom *wisdom,
                            lod_error *err);

#endif
