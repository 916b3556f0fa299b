// Attention, forward: blocks of keys outside, so that K and V are packed once and stay in the first caches, blocks of
// queries inside; the online softmax's state of every query waits in the worker's scratch.
//
// A row whose keys of a block are all beyond the causal edge is not touched: for it the step would change nothing.
#include "attention.h"

static void begin_head(const lod_attention_call *c, const lod_attention_piece *p, size_t head,
                       const lod_attention_scratch *w) {
    const lod_attention_args *a = c->args;
    const size_t count = p->queries.end - p->queries.begin, row = lod_state_row(c, head, p->queries.begin);
    lod_pack_queries(c, p, head, a->q, a->ldq, (float)a->scale, w->q, NULL);
    for (size_t i = row; i < row + count; i++) w->m[i] = w->dropped_m[i] = -1e30f;
    for (size_t i = row * c->d16; i < (row + count) * c->d16; i++) w->o[i] = 0;
    for (size_t i = row * 16; i < (row + count) * 16; i++) w->l[i] = w->dropped_l[i] = 0;
}

static void end_head(const lod_attention_call *c, const lod_attention_piece *p, size_t head,
                     const lod_attention_scratch *w) {
    const lod_attention_args *a = c->args;
    const size_t heads = c->plan->shape.attention.heads, h = p->kv * c->group + head;
    const size_t first = p->queries.begin, row = lod_state_row(c, head, first);
    const size_t token = a->queries.start[p->segment] + first;
    const bool both = c->mode == LOD_ATTENTION_NOGRAD;
    c->kernels.finish(&(lod_attention_finish_args){
        .rows = p->queries.end - first, .head_dim = c->d, .m = w->m + row, .l = w->l + row * 16,
        .dropped_m = both ? w->dropped_m + row : NULL, .dropped_l = both ? w->dropped_l + row * 16 : NULL,
        .inv = c->inv, .acc = w->o + row * c->d16, .o = a->o + token * a->ldo + h * c->d, .ldo = a->ldo,
        .lse = a->lse + token * heads + h, .lse_visible = both ? a->lse_visible + token * heads + h : NULL,
        .ldlse = heads});
}

// One head's queries against the block of keys in w.
static void key_block(const lod_attention_call *c, const lod_attention_piece *p, const lod_key_list *list, size_t head,
                      size_t entry, size_t count, const lod_attention_scratch *w) {
    size_t first = lod_first_query(list, entry), rows;
    if (first < p->queries.begin) first = p->queries.begin;
    for (size_t query = first; query < p->queries.end; query += rows) {
        rows = lod_min(c->plan->choice.query_block, p->queries.end - query);
        const size_t row = lod_state_row(c, head, query);
        size_t seen = lod_seen(list, entry, count, query, rows, w->seen);
        lod_scores(c, w->seen, rows, w->q + row * c->d16, w->k_panels, w->s);
        c->kernels.softmax(&(lod_attention_softmax_args){
            .rows = rows, .n = seen, .head_dim = c->d, .seen = w->seen,
            .mask = lod_block_mask(c, p, list, p->kv * c->group + head, entry, query), .s = w->s, .m = w->m + row,
            .l = w->l + row * 16, .dropped_m = w->dropped_m + row, .dropped_l = w->dropped_l + row * 16,
            .o = w->o + row * c->d16});
        if (list->keep != LOD_KEEP_NONE) lod_add_key_rows(c, w->seen, rows, w->s, w->v_rows, w->o + row * c->d16);
    }
}

// Heads that share their lists.
static void run_set(const lod_attention_call *c, const lod_attention_piece *p, lod_range heads,
                    const lod_attention_scratch *w) {
    const lod_attention_args *a = c->args;
    lod_key_list lists[2];
    size_t count = lod_key_lists(c, p, heads.begin, w, lists);
    for (size_t head = heads.begin; head < heads.end; head++) begin_head(c, p, head, w);
    for (size_t i = 0; i < count; i++) {
        const size_t limit = lists[i].limit[p->queries.end - 1];
        for (size_t entry = 0; entry < limit; entry += LOD_KEY_BLOCK) {
            size_t keys = lod_min(LOD_KEY_BLOCK, limit - entry);
            lod_pack_keys(c, p, &lists[i], entry, keys, a->k, a->ldk, NULL, w->k_panels);
            if (lists[i].keep != LOD_KEEP_NONE) {
                lod_pack_keys(c, p, &lists[i], entry, keys, a->v, a->ldv, w->v_rows, NULL);
            }
            for (size_t head = heads.begin; head < heads.end; head++) key_block(c, p, &lists[i], head, entry, keys, w);
        }
    }
    for (size_t head = heads.begin; head < heads.end; head++) end_head(c, p, head, w);
}

void lod_attention_forward_piece(const lod_attention_call *c, const lod_attention_piece *p,
                                 const lod_attention_scratch *w) {
    if (p->queries.begin == p->queries.end) return;
    for (size_t head = 0; head < c->group; head += c->sharing) run_set(c, p, lod_sharing_heads(c, head), w);
}
