// The inside of attention: what a call derives from its arguments, the lists of keys that a mask leaves, and the memory
// of a worker. attention.c checks and shares out, attention_keys.c makes the lists, attention_forward.c and
// attention_backward.c are the loop nests.
#ifndef LOD_ATTENTION_H
#define LOD_ATTENTION_H

#include "plan.h"

// The kernels of a call, looked up once.
typedef struct lod_attention_kernels {
    const lod_kernel *tile;
    lod_attention_pack_f32_fn *pack;
    lod_attention_unpack_f32_fn *unpack;
    lod_attention_softmax_f32_fn *softmax;
    lod_attention_finish_f32_fn *finish;
    lod_attention_delta_f32_fn *delta;
    lod_attention_grad_f32_fn *grad;
    lod_keep_bits_fn *keep_bits;
} lod_attention_kernels;

typedef struct lod_attention_call {
    const lod_plan *plan;
    const lod_attention_args *args;
    lod_attention_mode mode;
    uint32_t threshold; // 0: nothing is dropped
    float inv;          // of attention dropout, else 1
    bool compact;       // column and span masks: heads work on lists of keys
    size_t d, d16;      // head_dim, and rounded up to whole vectors
    size_t group;       // query heads of a KV head
    size_t sharing;     // of those, how many work on one packed block of keys: 1 where each has its own list
    void *workspace;
    lod_attention_kernels kernels;
} lod_attention_call;

// A piece of the work: query heads of one KV head in one segment; forward and dQ for some of the queries, dK and dV for
// some of the keys. Places are those in the segment.
typedef struct lod_attention_piece {
    size_t segment, kv;
    lod_range queries, keys;
    bool dq, dkv; // backward: which gradients
} lod_attention_piece;

static inline size_t lod_segment_length(const lod_rows *rows, size_t segment) {
    return rows->start[segment + 1] - rows->start[segment];
}

// The memory of a worker, for as many heads as may share a block of keys and the plan's queries (lod_state_row).
typedef struct lod_attention_scratch {
    float *q, *o, *dq;           // [heads][queries][D16]; o: forward's sums, backward's dO
    float *m, *dropped_m;        // [heads][queries]; backward: m is delta
    float *l, *dropped_l;        // [heads][queries][16]
    float *k_rows, *v_rows;      // [LOD_KEY_BLOCK][D16]
    float *k_panels, *v_panels;  // [LOD_KEY_BLOCK / 16][D16][16]
    float *dk, *dv;              // [LOD_KEY_BLOCK][D16]
    float *s, *dp;               // [query block][LOD_SCORE_LD]
    uint32_t *seen;              // [query block]
    uint32_t *index;             // [keys]
    uint32_t *limit;             // [2][queries]
    uint8_t *bits;               // [keys / 8], whole groups of 128
} lod_attention_scratch;

// Where the state of a query of a head of the group stands.
static inline size_t lod_state_row(const lod_attention_call *c, size_t head, size_t query) {
    return head % c->sharing * c->plan->shape.attention.queries + query;
}

// The heads of the group from `head` on that share a block of keys.
static inline lod_range lod_sharing_heads(const lod_attention_call *c, size_t head) {
    return (lod_range){head, lod_min(head + c->sharing, c->group)};
}

// Lays the scratch out from `base` on; returns its bytes, a multiple of 64. base NULL: only that.
size_t lod_attention_lay_out(const lod_plan *plan, void *base, lod_attention_scratch *scratch);

// --- attention_keys.c ---
// Some keys of a segment, ascending: all, those that a column or span mask keeps, or those that it drops.
typedef struct lod_key_list {
    const uint32_t *index; // [count] places in the segment; NULL: key j stands at j
    size_t count;
    lod_keep keep;
    const uint32_t *limit; // [queries]: how many of the list a query sees; filled for the queries of the piece
    bool causal;
    size_t past; // keys before the first query's own
} lod_key_list;

// The lists of a head of the group, and of those that share with it: the kept keys, and with NOGRAD the dropped
// ones. Returns how many lists.
size_t lod_key_lists(const lod_attention_call *c, const lod_attention_piece *p, size_t head,
                     const lod_attention_scratch *w, lod_key_list lists[2]);

// The first query of a segment that sees entry j of a list.
static inline size_t lod_first_query(const lod_key_list *list, size_t j) {
    size_t key = list->index ? list->index[j] : j;
    return list->causal && key > list->past ? key - list->past : 0;
}

// Packs `count` keys of a list from an entry on, out of K, V or one of their gradients; and the way back.
void lod_pack_keys(const lod_attention_call *c, const lod_attention_piece *p, const lod_key_list *list, size_t entry,
                   size_t count, const float *x, size_t ldx, float *rows, float *panels);
void lod_unpack_keys(const lod_attention_call *c, const lod_attention_piece *p, const lod_key_list *list, size_t entry,
                     size_t count, const float *rows, float *x, size_t ldx);

// Packs the piece's queries of one head out of Q or dO to their place in `state`; probe as in the kernel.
void lod_pack_queries(const lod_attention_call *c, const lod_attention_piece *p, size_t head, const float *x,
                      size_t ldx, float scale, float *state, float *probe);

// Rows of a query block against a block of the list: fills seen, returns the last (largest) one.
size_t lod_seen(const lod_key_list *list, size_t entry, size_t count, size_t query, size_t rows, uint32_t *seen);

// The mask of the block of keys from entry on, for rows from query on.
lod_attention_mask lod_block_mask(const lod_attention_call *c, const lod_attention_piece *p, const lod_key_list *list,
                                  size_t head, size_t entry, size_t query);

// S = Q K' (or dP = dO V') of a query block whose rows see so many keys: each strip of rows over the keys that its last
// one sees.
void lod_scores(const lod_attention_call *c, const uint32_t *seen, size_t rows, const float *a, const float *panels,
                float *s);

// sum += weights rows, for O += P V and dQ += dS K of a query block, likewise.
void lod_add_key_rows(const lod_attention_call *c, const uint32_t *seen, size_t rows, const float *weights,
                      const float *key_rows, float *sum);

// --- the loop nests ---
void lod_attention_forward_piece(const lod_attention_call *c, const lod_attention_piece *p,
                                 const lod_attention_scratch *w);
void lod_attention_backward_piece(const lod_attention_call *c, const lod_attention_piece *p,
                                  const lod_attention_scratch *w);

#endif
