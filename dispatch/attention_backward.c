// Attention, backward: blocks of keys outside, blocks of queries inside. For each pair S and dP are computed again,
// then P and dS, and from those dQ, dV and dK. dK and dV of the block stay in the worker's scratch meanwhile, gathered
// from and scattered to the caller's rows, so that each of their elements is one chain: query heads ascending, then
// queries ascending. dQ is one chain over the keys of the list.
//
// An infinite or NaN row of Q or dO must reach the dK and dV of the keys that its query sees, and of no others. Tiles
// run over up to mr - 1 queries too many for their later keys, with weights of zero; that is harmless unless such a row
// is among them, and then keys are worked on one by one.
#include <math.h>
#include <string.h>

#include "attention.h"

typedef struct work {
    const lod_attention_call *c;
    const lod_attention_piece *p;
    const lod_attention_scratch *w;
    size_t step; // keys of a tile of dK and dV
    bool fresh;  // no gradient has come to a key yet
} work;

static void begin_head(const work *t, size_t head, float *probe) {
    const lod_attention_call *c = t->c;
    const lod_attention_args *a = c->args;
    const size_t first = t->p->queries.begin, count = t->p->queries.end - first, row = lod_state_row(c, head, first);
    const size_t o = (a->queries.start[t->p->segment] + first) * a->ldo + (t->p->kv * c->group + head) * c->d;
    lod_pack_queries(c, t->p, head, a->q, a->ldq, (float)a->scale, t->w->q, probe);
    lod_pack_queries(c, t->p, head, a->d_o, a->ldo, c->inv, t->w->o, probe);
    c->kernels.delta(&(lod_attention_delta_args){.rows = count, .head_dim = c->d, .d_o = a->d_o + o, .o = a->o + o,
                                                 .ldo = a->ldo, .delta = t->w->m + row});
    if (t->p->dq) memset(t->w->dq + row * c->d16, 0, count * c->d16 * sizeof(float));
}

static void end_head(const work *t, size_t head) {
    const lod_attention_call *c = t->c;
    const lod_attention_args *a = c->args;
    const size_t first = t->p->queries.begin, token = a->queries.start[t->p->segment] + first;
    if (!t->p->dq) return;
    c->kernels.unpack(&(lod_attention_unpack_args){
        .count = t->p->queries.end - first, .n = c->d, .rows = t->w->dq + lod_state_row(c, head, first) * c->d16,
        .scale = (float)a->scale, .x = a->dq + token * a->ldq + (t->p->kv * c->group + head) * c->d, .ldx = a->ldq});
}

// --- Products ---

// The queries of a block that do not see an entry of the list yet.
static size_t skipped(const lod_key_list *list, size_t entry, size_t query) {
    size_t first = lod_first_query(list, entry);
    return first > query ? first - query : 0;
}

// dV += P' dO (scores P, rows dO) or dK += dS' Q, each strip of keys over the queries that see its first one.
static void add_to_keys(const work *t, const lod_key_list *list, size_t entry, size_t count, size_t query, size_t rows,
                        const float *scores, const float *b, float *sum) {
    const lod_attention_call *c = t->c;
    size_t m;
    for (size_t j = 0; j < count; j += m) {
        const size_t skip = skipped(list, entry + j, query);
        for (m = lod_min(t->step, count - j); j + m < count; m = lod_min(m + t->step, count - j)) {
            if (skipped(list, entry + j + m, query) != skip) break;
        }
        c->kernels.tile->fn.attention_tile_f32(&(lod_attention_tile_args){
            .m = m, .n = c->d16, .k = rows - skip, .a = scores + skip * LOD_SCORE_LD + j, .a_row = 1,
            .a_depth = LOD_SCORE_LD, .b = b + skip * c->d16, .b_depth = c->d16, .b_panel = 16, .c = sum + j * c->d16,
            .ldc = c->d16});
    }
}

// --- A block of keys ---

static void query_block(const work *t, const lod_key_list *list, size_t head, size_t entry, size_t count, size_t query,
                        size_t rows) {
    const lod_attention_call *c = t->c;
    const lod_attention_args *a = c->args;
    const lod_attention_scratch *w = t->w;
    const size_t heads = c->plan->shape.attention.heads, h = t->p->kv * c->group + head;
    const size_t row = lod_state_row(c, head, query), lse = (a->queries.start[t->p->segment] + query) * heads + h;
    const size_t seen = lod_seen(list, entry, count, query, rows, w->seen);
    const bool values = list->keep != LOD_KEEP_NONE;
    lod_scores(c, w->seen, rows, w->q + row * c->d16, w->k_panels, w->s);
    if (values) lod_scores(c, w->seen, rows, w->o + row * c->d16, w->v_panels, w->dp);
    c->kernels.grad(&(lod_attention_grad_args){
        .rows = rows, .n = seen, .seen = w->seen, .mask = lod_block_mask(c, t->p, list, h, entry, query), .s = w->s,
        .dp = w->dp, .lse = a->lse + lse, .lse_visible = a->lse_visible ? a->lse_visible + lse : NULL, .ldlse = heads,
        .delta = w->m + row});
    if (t->p->dq) lod_add_key_rows(c, w->seen, rows, w->dp, w->k_rows, w->dq + row * c->d16);
    if (!t->p->dkv) return;
    if (values) add_to_keys(t, list, entry, seen, query, rows, w->s, w->o + row * c->d16, w->dv);
    add_to_keys(t, list, entry, seen, query, rows, w->dp, w->q + row * c->d16, w->dk);
}

static void key_block(const work *t, const lod_key_list *list, size_t head, size_t entry, size_t count) {
    size_t query = lod_first_query(list, entry), rows;
    if (query < t->p->queries.begin) query = t->p->queries.begin;
    for (; query < t->p->queries.end; query += rows) {
        rows = lod_min(t->c->plan->choice.query_block, t->p->queries.end - query);
        query_block(t, list, head, entry, count, query, rows);
    }
}

// The sums of dK or dV so far.
static void begin_sums(const work *t, const lod_key_list *list, size_t entry, size_t count, const float *x, size_t ldx,
                       float *sums) {
    if (t->fresh) {
        memset(sums, 0, count * t->c->d16 * sizeof *sums);
    } else {
        lod_pack_keys(t->c, t->p, list, entry, count, x, ldx, sums, NULL);
    }
}

static void pack_block(const work *t, const lod_key_list *list, size_t entry, size_t count) {
    const lod_attention_args *a = t->c->args;
    const bool values = list->keep != LOD_KEEP_NONE;
    lod_pack_keys(t->c, t->p, list, entry, count, a->k, a->ldk, t->w->k_rows, t->w->k_panels);
    if (values) lod_pack_keys(t->c, t->p, list, entry, count, a->v, a->ldv, NULL, t->w->v_panels);
    if (!t->p->dkv) return;
    begin_sums(t, list, entry, count, a->dk, a->ldk, t->w->dk);
    if (values) begin_sums(t, list, entry, count, a->dv, a->ldv, t->w->dv);
}

static void unpack_block(const work *t, const lod_key_list *list, size_t entry, size_t count) {
    const lod_attention_args *a = t->c->args;
    lod_unpack_keys(t->c, t->p, list, entry, count, t->w->dk, a->dk, a->ldk);
    if (list->keep != LOD_KEEP_NONE) lod_unpack_keys(t->c, t->p, list, entry, count, t->w->dv, a->dv, a->ldv);
}

// --- A set of heads that share their lists ---

// The entries of a list among the keys of the piece.
static lod_range entries_of(const lod_key_list *list, lod_range keys) {
    if (!list->index) return keys;
    lod_range entries = {0, 0};
    for (size_t j = 0; j < list->count; j++) {
        entries.begin += list->index[j] < keys.begin;
        entries.end += list->index[j] < keys.end;
    }
    return entries;
}

static void clear_key(const lod_attention_call *c, const lod_attention_piece *p, size_t key, bool dk) {
    const lod_attention_args *a = c->args;
    const size_t token = a->keys.start[p->segment] + key;
    if (dk) memset(a->dk + token * a->ldk + p->kv * c->d, 0, c->d * sizeof(float));
    memset(a->dv + token * a->ldv + p->kv * c->d, 0, c->d * sizeof(float));
}

// Keys that the first list lacks have gradients of zero, unless a second list of dropped keys brings their dK.
static void clear_dropped(const work *t, const lod_key_list lists[2], size_t count) {
    size_t entry = entries_of(&lists[0], t->p->keys).begin;
    for (size_t key = t->p->keys.begin; key < t->p->keys.end; key++) {
        if (entry < lists[0].count && lists[0].index[entry] == key) {
            entry++;
        } else {
            clear_key(t->c, t->p, key, count == 1);
        }
    }
}

static void run_list(const work *t, const lod_key_list *list, lod_range heads) {
    const lod_range entries = entries_of(list, t->p->keys);
    const size_t end = lod_min(entries.end, list->limit[t->p->queries.end - 1]);
    for (size_t entry = entries.begin; entry < end; entry += LOD_KEY_BLOCK) {
        size_t count = lod_min(LOD_KEY_BLOCK, end - entry);
        pack_block(t, list, entry, count);
        for (size_t head = heads.begin; head < heads.end; head++) key_block(t, list, head, entry, count);
        if (t->p->dkv) unpack_block(t, list, entry, count);
    }
}

static void run_set(const lod_attention_call *c, const lod_attention_piece *p, lod_range heads,
                    const lod_attention_scratch *w) {
    lod_key_list lists[2];
    float probe = 0;
    work t = {.c = c, .p = p, .w = w, .fresh = heads.begin == 0};
    size_t count = lod_key_lists(c, p, heads.begin, w, lists);
    for (size_t head = heads.begin; head < heads.end; head++) begin_head(&t, head, &probe);
    t.step = isnan(probe) ? 1 : c->kernels.tile->mr;
    if (p->dkv && c->compact && t.fresh) clear_dropped(&t, lists, count);
    for (size_t i = 0; i < count; i++) run_list(&t, &lists[i], heads);
    for (size_t head = heads.begin; head < heads.end; head++) end_head(&t, head);
}

void lod_attention_backward_piece(const lod_attention_call *c, const lod_attention_piece *p,
                                  const lod_attention_scratch *w) {
    if (p->queries.begin == p->queries.end) {
        for (size_t key = p->keys.begin; p->dkv && key < p->keys.end; key++) clear_key(c, p, key, true);
        return;
    }
    if (!p->dq && p->keys.begin == p->keys.end) return; // more parts than blocks of keys
    for (size_t head = 0; head < c->group; head += c->sharing) run_set(c, p, lod_sharing_heads(c, head), w);
}
