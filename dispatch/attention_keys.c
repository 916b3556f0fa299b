// Which keys a head works on, which of them a query sees, and the walks over both. Column and span masks become lists
// of keys: the rest of attention then counts entries of a list, causal limits included, and dropped keys cost nothing.
#include "attention.h"
#include "philox.h"

static uint32_t site_of(const lod_attention_call *c, size_t segment, size_t head) {
    const lod_rows *rows = &c->args->queries;
    uint32_t instance = rows->instance ? rows->instance[segment] : 0;
    return c->args->dropout.site | instance << LOD_SITE_INSTANCE_BIT | (uint32_t)head << LOD_SITE_HEAD_BIT;
}

// --- Lists ---

// Entries for the keys whose bit is `kept`; returns how many.
static size_t gather_bits(const uint8_t *bits, size_t keys, bool kept, uint32_t *index) {
    size_t count = 0;
    for (size_t j = 0; j < keys; j++) {
        index[count] = (uint32_t)j;
        count += (bits[j / 8] >> (j % 8) & 1) == kept;
    }
    return count;
}

static size_t gather_span(size_t start, size_t run, size_t keys, bool kept, uint32_t *index) {
    size_t count = 0;
    for (size_t j = 0; j < keys; j++) {
        bool inside = j >= start && j - start < run;
        if (inside != kept) index[count++] = (uint32_t)j;
    }
    return count;
}

// For each query of the piece the entries that it sees: those up to its own place.
static void fill_limits(const lod_key_list *list, lod_range queries, uint32_t *limit) {
    size_t j = 0;
    for (size_t i = queries.begin; i < queries.end; i++) {
        if (!list->causal) {
            j = list->count;
        } else if (!list->index) {
            j = lod_min(list->past + i + 1, list->count);
        } else {
            while (j < list->count && list->index[j] <= list->past + i) j++;
        }
        limit[i] = (uint32_t)j;
    }
}

size_t lod_key_lists(const lod_attention_call *c, const lod_attention_piece *p, size_t head,
                     const lod_attention_scratch *w, lod_key_list lists[2]) {
    const lod_attention_args *a = c->args;
    const lod_dropout *dropout = &a->dropout;
    const size_t keys = lod_segment_length(&a->keys, p->segment), queries = lod_segment_length(&a->queries, p->segment);
    const size_t count = c->compact && c->mode == LOD_ATTENTION_NOGRAD ? 2 : 1;
    const uint32_t site = site_of(c, p->segment, dropout->per_kv_head ? p->kv : p->kv * c->group + head);
    size_t start = 0, run = 0;
    if (c->compact && dropout->pattern == LOD_PATTERN_COLUMN) {
        c->kernels.keep_bits(&(lod_keep_bits_args){
            .rows = 1, .n = keys, .seed = dropout->seed, .site = site,
            .draw = a->queries.draw[p->segment], .threshold = c->threshold, .bits = w->bits,
            .ldbits = lod_round_up(keys, 128) / 8});
    } else if (c->compact) {
        lod_mask_span(dropout->seed, site, a->queries.draw[p->segment], dropout->p, keys, &start, &run, NULL);
    }
    uint32_t *index = w->index;
    for (size_t i = 0; i < count; i++) {
        lod_key_list *list = &lists[i];
        *list = (lod_key_list){.count = keys, .causal = a->causal, .past = a->causal ? keys - queries : 0};
        list->keep = i ? LOD_KEEP_NONE : c->threshold && !c->compact ? LOD_KEEP_DRAWN : LOD_KEEP_ALL;
        if (c->compact) {
            list->index = index;
            list->count = dropout->pattern == LOD_PATTERN_COLUMN ? gather_bits(w->bits, keys, !i, index)
                                                                 : gather_span(start, run, keys, !i, index);
            index += list->count;
        }
        list->limit = w->limit + i * c->plan->shape.attention.queries;
        fill_limits(list, p->queries, w->limit + i * c->plan->shape.attention.queries);
    }
    return count;
}

// --- Packing ---

void lod_pack_queries(const lod_attention_call *c, const lod_attention_piece *p, size_t head, const float *x,
                      size_t ldx, float scale, float *state, float *probe) {
    const size_t first = p->queries.begin, token = c->args->queries.start[p->segment] + first;
    c->kernels.pack(&(lod_attention_pack_args){
        .count = p->queries.end - first, .n = c->d, .x = x + token * ldx + (p->kv * c->group + head) * c->d, .ldx = ldx,
        .scale = scale, .rows = state + lod_state_row(c, head, first) * c->d16, .probe = probe});
}

// Where an entry's row of one of the caller's matrices of keys stands; with an index, where the segment's first does.
static size_t key_offset(const lod_attention_call *c, const lod_attention_piece *p, const lod_key_list *list,
                         size_t entry, size_t ld) {
    return (c->args->keys.start[p->segment] + (list->index ? 0 : entry)) * ld + p->kv * c->d;
}

void lod_pack_keys(const lod_attention_call *c, const lod_attention_piece *p, const lod_key_list *list, size_t entry,
                   size_t count, const float *x, size_t ldx, float *rows, float *panels) {
    c->kernels.pack(&(lod_attention_pack_args){
        .count = count, .n = c->d, .x = x + key_offset(c, p, list, entry, ldx), .ldx = ldx,
        .index = list->index ? list->index + entry : NULL, .scale = 1, .rows = rows, .panels = panels});
}

void lod_unpack_keys(const lod_attention_call *c, const lod_attention_piece *p, const lod_key_list *list, size_t entry,
                     size_t count, const float *rows, float *x, size_t ldx) {
    c->kernels.unpack(&(lod_attention_unpack_args){
        .count = count, .n = c->d, .rows = rows, .index = list->index ? list->index + entry : NULL, .scale = 1,
        .x = x + key_offset(c, p, list, entry, ldx), .ldx = ldx});
}

// --- Blocks of a list ---

size_t lod_seen(const lod_key_list *list, size_t entry, size_t count, size_t query, size_t rows, uint32_t *seen) {
    for (size_t i = 0; i < rows; i++) {
        size_t limit = list->limit[query + i];
        seen[i] = limit > entry ? (uint32_t)lod_min(limit - entry, count) : 0;
    }
    return seen[rows - 1];
}

lod_attention_mask lod_block_mask(const lod_attention_call *c, const lod_attention_piece *p, const lod_key_list *list,
                                  size_t head, size_t entry, size_t query) {
    const lod_attention_args *a = c->args;
    lod_attention_mask mask = {.mode = c->mode, .keep = list->keep};
    if (list->keep == LOD_KEEP_DRAWN) {
        mask.seed = a->dropout.seed, mask.site = site_of(c, p->segment, head);
        mask.draw = a->queries.draw[p->segment], mask.threshold = c->threshold;
        size_t past = lod_segment_length(&a->keys, p->segment) - lod_segment_length(&a->queries, p->segment);
        mask.row0 = (uint32_t)(past + query), mask.group = (uint32_t)(entry / 8);
    }
    return mask;
}

// Strips of a tile's rows from r on whose last row sees as many keys, in whole grains: *keys. Returns the rows.
static size_t strips_alike(const uint32_t *seen, size_t r, size_t rows, size_t mr, size_t grain, size_t *keys) {
    size_t m = lod_min(mr, rows - r), next;
    *keys = lod_round_up(seen[r + m - 1], grain);
    for (; r + m < rows; m = next) {
        next = lod_min(m + mr, rows - r);
        if (lod_round_up(seen[r + next - 1], grain) != *keys) break;
    }
    return m;
}

void lod_scores(const lod_attention_call *c, const uint32_t *seen, size_t rows, const float *a, const float *panels,
                float *s) {
    size_t m, keys;
    for (size_t r = 0; r < rows; r += m) {
        m = strips_alike(seen, r, rows, c->kernels.tile->mr, 16, &keys);
        if (keys == 0) continue;
        c->kernels.tile->fn.attention_tile_f32(&(lod_attention_tile_args){
            .m = m, .n = keys, .k = c->d, .a = a + r * c->d16, .a_row = c->d16, .a_depth = 1, .b = panels,
            .b_depth = 16, .b_panel = 16 * c->d16, .first = true, .c = s + r * LOD_SCORE_LD, .ldc = LOD_SCORE_LD});
    }
}

void lod_add_key_rows(const lod_attention_call *c, const uint32_t *seen, size_t rows, const float *weights,
                      const float *key_rows, float *sum) {
    size_t m, keys;
    for (size_t r = 0; r < rows; r += m) {
        m = strips_alike(seen, r, rows, c->kernels.tile->mr, 1, &keys);
        if (keys == 0) continue;
        c->kernels.tile->fn.attention_tile_f32(&(lod_attention_tile_args){
            .m = m, .n = c->d16, .k = keys, .a = weights + r * LOD_SCORE_LD, .a_row = LOD_SCORE_LD, .a_depth = 1,
            .b = key_rows, .b_depth = c->d16, .b_panel = 16, .c = sum + r * c->d16, .ldc = c->d16});
    }
}
