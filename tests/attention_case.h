// A call of attention with its operands: ragged segments with and without a past, one of them empty, one longer than a
// key block. Shared by the checks of its meaning and of its laws.
#ifndef LOD_ATTENTION_CASE_H
#define LOD_ATTENTION_CASE_H

#include "check.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

enum { ATTENTION_SEGMENTS = 5 };

typedef struct attention_case {
    lod_attention_shape shape;
    lod_attention_args args; // without outputs
    size_t segments;
    size_t query_start[ATTENTION_SEGMENTS + 1], key_start[ATTENTION_SEGMENTS + 1];
    uint32_t draw[ATTENTION_SEGMENTS];
    uint8_t instance[ATTENTION_SEGMENTS];
} attention_case;

typedef struct attention_outputs {
    float *o, *lse, *lse_visible, *dq, *dk, *dv;
} attention_outputs;

// The operands as packed doubles, and room for results and bounds laid out like them.
typedef struct attention_wide {
    double *q, *k, *v, *d_o;
    double *o, *lse, *lse_visible, *dq, *dk, *dv;
    double *o_bound, *lse_bound, *lse_visible_bound, *dq_bound, *dk_bound, *dv_bound;
} attention_wide;

// Every dropout that attention has: pattern, compensation, per_kv_head; the rest as the checks have it.
enum { ATTENTION_DROPOUTS = 16 };
lod_dropout attention_case_dropout(size_t i, double p);

// shape.keys is set to what the segments bring.
void attention_case_make(attention_case *t, lod_attention_shape shape, bool causal, lod_dropout dropout);
// With segments of the caller's, ATTENTION_SEGMENTS at most.
void attention_case_make_of(attention_case *t, lod_attention_shape shape, bool causal, lod_dropout dropout,
                            size_t segments, const size_t *queries, const size_t *keys);
attention_wide attention_case_widen(const attention_case *t);
bool attention_case_nograd(const attention_case *t);
double attention_case_inv(const attention_case *t);

// keep [keys of the segment]: what one query of one head keeps, from the scalar definition of the masks.
void attention_case_keep(const attention_case *t, size_t segment, size_t head, size_t query, uint8_t *keep);

// Forward and backward, the segments shared out over so many calls.
attention_outputs attention_case_run(const attention_case *t, unsigned threads, size_t calls);
// The same on a plan of the caller's; and with the host's floating-point environment set to flush and to round up.
attention_outputs attention_case_run_on(const attention_case *t, const lod_plan *plan, size_t calls);
attention_outputs attention_case_run_strangely(const attention_case *t, unsigned threads);
// The same bits in all outputs; NaN is NaN.
void attention_case_same_bits(const attention_case *t, const attention_outputs *got, const attention_outputs *want);
void attention_case_share(const attention_case *t, const attention_outputs *out);

#endif
