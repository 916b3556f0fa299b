// Wisdom as text. After the header, which names all that choices depend on, one line for each entry:
//
//     lowrank n_in=576 n_out=192 tokens=1024: measured, forward 6x16 mc 258 nc 0 kc 288 columns, backward ..
//     attention heads=9 kv_heads=3 head_dim=64 keys=256 queries=256: exhausted, 6x16 queries 66
//
// A line is read leniently and then printed again: it stands only if that gives the same line, so that no number is
// read in part, and only if the plan would cut its own shape into just these blocks.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wisdom_entries.h"

// --- The header ---

static uint64_t hash_of_kernels(void) {
    uint64_t hash = 0xcbf29ce484222325; // FNV-1a
    size_t count;
    const lod_kernel *kernels = lod_kernels(&count);
    for (size_t i = 0; i < count; i++) {
        for (const char *c = kernels[i].name; *c; c++) hash = (hash ^ (unsigned char)*c) * 0x100000001b3;
    }
    return hash;
}

lod_status lod_wisdom_print_header(unsigned threads, char header[LOD_HEADER_SIZE], lod_error *err) {
    const lod_machine *m = lod_this_machine();
    lod_isa isa;
    LOD_TRY(lod_isa_in_use(&isa, NULL, err));
    if (!*m->cpu) {
        return lod_fail(err, LOD_FILE, "wisdom", "hwloc does not tell this CPU's name, so its wisdom cannot be told "
                                                 "from that of others");
    }
    snprintf(header, LOD_HEADER_SIZE,
             "lodrop wisdom 2\nbuild %s %s\nkernels %016" PRIx64 "\ncpu %s\ncaches L1d %zu L2 %zu L3 %zu\nisa %s\n"
             "threads %u\n",
             LOD_VERSION, LOD_BUILD, hash_of_kernels(), m->cpu, m->l1d, m->l2, m->l3, lod_isa_text(isa), threads);
    return LOD_OK;
}

// --- Entries ---

static const char *rigor_text(lod_rigor rigor) {
    return rigor == LOD_EXHAUSTIVE ? "exhausted" : "measured";
}

void lod_print_blocks(const lod_blocks *b, char text[LOD_BLOCKS_TEXT]) {
    lod_print_sizes(b, text);
    const size_t length = strlen(text);
    snprintf(text + length, LOD_BLOCKS_TEXT - length, " %s", b->cut_tokens ? "tokens" : "columns");
}

void lod_wisdom_print_entry(const lod_wisdom_entry *entry, char line[LOD_ENTRY_SIZE]) {
    const lod_choice *c = &entry->choice;
    char forward[LOD_BLOCKS_TEXT], backward[LOD_BLOCKS_TEXT];
    if (c->tile) {
        snprintf(line, LOD_ENTRY_SIZE, "%s: %s, %ux%u queries %zu", entry->key, rigor_text(entry->rigor), c->tile->mr,
                 c->tile->nr, c->query_block);
        return;
    }
    lod_print_blocks(&c->forward, forward);
    lod_print_blocks(&c->backward, backward);
    snprintf(line, LOD_ENTRY_SIZE, "%s: %s, forward %s, backward %s", entry->key, rigor_text(entry->rigor), forward,
             backward);
}

// The plan that a key is of; rowwise: none.
static lod_plan plan_of_key(const char *line) {
    lod_plan p = {.kind = LOD_PLAN_ROWWISE};
    lod_lowrank_shape l = {0};
    lod_attention_shape a = {0};
    lod_loss_shape s = {0};
    if (sscanf(line, "lowrank n_in=%zu n_out=%zu tokens=%zu", &l.n_in, &l.n_out, &l.tokens) == 3) {
        p = (lod_plan){.kind = LOD_PLAN_LOWRANK, .shape.lowrank = l};
    } else if (sscanf(line, "attention heads=%zu kv_heads=%zu head_dim=%zu keys=%zu queries=%zu", &a.heads, &a.kv_heads,
                      &a.head_dim, &a.keys, &a.queries) == 5) {
        p = (lod_plan){.kind = LOD_PLAN_ATTENTION, .shape.attention = a};
    } else if (sscanf(line, "loss n_in=%zu vocabulary=%zu tokens=%zu", &s.n_in, &s.vocabulary, &s.tokens) == 3) {
        p = (lod_plan){.kind = LOD_PLAN_LOSS, .shape.loss = s};
    }
    return p;
}

static const lod_kernel *find_tile(lod_op op, lod_isa isa, unsigned mr, unsigned nr) {
    size_t count;
    const lod_kernel *kernels = lod_kernels(&count);
    for (size_t i = 0; i < count; i++) {
        if (kernels[i].op == op && kernels[i].isa == isa && kernels[i].mr == mr && kernels[i].nr == nr) {
            return &kernels[i];
        }
    }
    return NULL;
}

static bool read_blocks(const char *text, lod_isa isa, lod_blocks *b) {
    unsigned mr, nr;
    char cut[8];
    if (sscanf(text, "%ux%u mc %zu nc %zu kc %zu %7[a-z]", &mr, &nr, &b->mc, &b->nc, &b->kc, cut) != 6) return false;
    b->tile = find_tile(LOD_OP_lowrank_tile_f32, isa, mr, nr);
    b->cut_tokens = strcmp(cut, "tokens") == 0;
    return b->tile && b->mc && b->mc <= LOD_MC_MAX + b->tile->mr &&
           b->nc <= LOD_NC_MAX + b->tile->nr && b->kc && b->kc <= LOD_KC_MAX;
}

static bool read_choice(const char *text, lod_plan *plan) {
    lod_choice *c = &plan->choice;
    unsigned mr, nr;
    if (plan->kind == LOD_PLAN_ATTENTION) {
        if (sscanf(text, "%ux%u queries %zu", &mr, &nr, &c->query_block) != 3) return false;
        c->tile = find_tile(LOD_OP_attention_tile_f32, plan->isa, mr, nr);
        return c->tile && c->query_block && c->query_block % mr == 0 && c->query_block <= LOD_QUERY_BLOCK_MAX;
    }
    static const char first[] = "forward ", second[] = ", backward ";
    const char *backward = strstr(text, second);
    return strncmp(text, first, strlen(first)) == 0 && backward &&
           read_blocks(text + strlen(first), plan->isa, &c->forward) &&
           read_blocks(backward + strlen(second), plan->isa, &c->backward);
}

// The plan cuts its own shape into just these blocks.
static bool is_settled(const lod_plan *plan) {
    lod_plan settled = *plan;
    lod_plan_settle(&settled);
    const lod_choice *a = &plan->choice, *b = &settled.choice;
    return lod_same_blocks(&a->forward, &b->forward) && lod_same_blocks(&a->backward, &b->backward);
}

static bool read_entry(const char *line, lod_isa isa, unsigned threads, lod_wisdom_entry *entry) {
    char again[LOD_ENTRY_SIZE];
    const char *rigor = strstr(line, ": ");
    if (!rigor) return false;
    lod_plan plan = plan_of_key(line);
    if (plan.kind == LOD_PLAN_ROWWISE || lod_plan_check_shape(&plan, NULL) != LOD_OK) return false;
    plan.isa = isa;
    plan.threads = threads;
    plan = lod_plan_class(&plan);
    bool exhausted = strncmp(rigor + 2, "exhausted, ", 11) == 0;
    const char *choice = strchr(rigor, ',');
    if (!choice || choice[1] != ' ' || !read_choice(choice + 2, &plan) || !is_settled(&plan)) return false;
    *entry = (lod_wisdom_entry){
        .threads = threads, .rigor = exhausted ? LOD_EXHAUSTIVE : LOD_MEASURE, .choice = plan.choice};
    lod_plan_key(&plan, entry->key);
    lod_wisdom_print_entry(entry, again);
    return strcmp(line, again) == 0;
}

// --- A whole file ---

// Copies the line at *text, ends it with 0 instead of a newline and moves on; false at the end, or where a line is
// longer than any that is right (then it is cut).
static bool next_line(const char **text, const char *end, char line[LOD_HEADER_SIZE]) {
    if (*text == end) return false;
    const char *stop = memchr(*text, '\n', (size_t)(end - *text));
    size_t length = (size_t)((stop ? stop : end) - *text), kept = lod_min(length, LOD_HEADER_SIZE - 1);
    memcpy(line, *text, kept);
    line[kept] = 0;
    *text = stop ? stop + 1 : end;
    return true;
}

static lod_status check_header(const char **text, const char *end, const char *want, size_t *number,
                               const char *field, lod_error *err) {
    char here[LOD_HEADER_SIZE], there[LOD_HEADER_SIZE];
    const char *wanted = want, *wanted_end = want + strlen(want);
    while (next_line(&wanted, wanted_end, here)) {
        ++*number;
        if (!next_line(text, end, there)) {
            return lod_fail(err, LOD_BAD_WISDOM, field, "line %zu is missing: %s", *number, here);
        }
        if (strcmp(here, there) != 0) {
            return lod_fail(err, LOD_BAD_WISDOM, field, "line %zu: \"%.60s\" is not for here: \"%.60s\"", *number,
                            there, here);
        }
    }
    return LOD_OK;
}

static lod_status parse(const char *text, const char *end, unsigned threads, const char *field, lod_wisdom *wisdom,
                        lod_error *err) {
    char header[LOD_HEADER_SIZE], line[LOD_HEADER_SIZE];
    size_t number = 0;
    lod_isa isa;
    LOD_TRY(lod_isa_in_use(&isa, NULL, err));
    LOD_TRY(lod_wisdom_print_header(threads, header, err));
    const bool whole = text < end && end[-1] == '\n' && !memchr(text, 0, (size_t)(end - text));
    LOD_TRY(check_header(&text, end, header, &number, field, err));
    if (!whole) {
        return lod_fail(err, LOD_BAD_WISDOM, field, "is damaged: its last line has no end, or it holds a byte 0");
    }
    while (next_line(&text, end, line)) {
        lod_wisdom_entry entry;
        number++;
        if (!read_entry(line, isa, threads, &entry)) {
            return lod_fail(err, LOD_BAD_WISDOM, field, "line %zu is no entry: \"%.100s\"", number, line);
        }
        if (!lod_wisdom_put(wisdom, &entry)) return lod_fail(err, LOD_NO_MEMORY, field, "no memory for its entries");
    }
    return LOD_OK;
}

lod_status lod_wisdom_parse(const char *text, size_t size, unsigned threads, const char *field, lod_wisdom *wisdom,
                            lod_error *err) {
    *wisdom = (lod_wisdom){0};
    lod_status status = parse(text, text + size, threads, field, wisdom, err);
    if (status != LOD_OK) {
        free(wisdom->entries);
        *wisdom = (lod_wisdom){0};
    }
    return status;
}
