// What a plan holds: the operation's shape, the ISA, threads, and a choice of kernels and blocks. plan.c makes it;
// estimate.c, search.c and wisdom.c are the three ways to a choice; dispatch/ reads it.
#ifndef LOD_PLAN_H
#define LOD_PLAN_H

#include "dispatch.h"

typedef enum lod_plan_kind { LOD_PLAN_LOWRANK, LOD_PLAN_ATTENTION, LOD_PLAN_LOSS, LOD_PLAN_ROWWISE } lod_plan_kind;

enum { LOD_MC_MAX = 1024, LOD_NC_MAX = 1024, LOD_QUERY_BLOCK_MAX = 256 };

// How the product loop nest (dispatch/product.c) runs in one direction: sums of mc tokens by nc columns stay packed
// while one kc of depth after the other is added (nc = 0: they travel through the result); threads share out the
// columns of the result or its tokens.
typedef struct lod_blocks {
    const lod_kernel *tile;
    size_t mc, nc, kc;
    size_t kd; // depth of X copied at a time; follows from the others
    bool cut_tokens;
} lod_blocks;

// All that a plan is free to choose: time depends on it, no bit does. Block sizes are ceilings: lod_fit_blocks cuts a
// plan's own tokens and depth into equal parts below them.
typedef struct lod_choice {
    lod_blocks forward, backward; // low-rank layer and loss
    const lod_kernel *tile;       // attention
    size_t query_block;           // attention: queries worked on at a time
} lod_choice;

struct lod_plan {
    lod_plan_kind kind;
    lod_isa isa;
    unsigned threads;
    union {
        lod_lowrank_shape lowrank;
        lod_attention_shape attention;
        lod_loss_shape loss;
    } shape;
    lod_choice choice;
    size_t chunk;     // loss: tokens whose logits are held at a time
    size_t workspace; // bytes
};

// A product as plans see it: Y [tokens][n] over `depth` terms.
typedef struct lod_product_shape {
    size_t tokens, depth, n;
} lod_product_shape;
// That of a plan of low-rank layers or of the loss, in one direction.
lod_product_shape lod_product_shape_of(const lod_plan *plan, bool forward);

// Columns whose panels are prepared together: whole panels, at least one tile.
static inline size_t lod_strip_width(const lod_blocks *blocks) {
    return lod_round_up(blocks->tile->nr, LOD_PANEL);
}
bool lod_same_blocks(const lod_blocks *a, const lod_blocks *b);
bool lod_same_choice(const lod_choice *a, const lod_choice *b);
// The ceilings cut to equal blocks of a product.
lod_blocks lod_fit_blocks(lod_blocks ceilings, const lod_product_shape *product);
enum { LOD_BLOCKS_TEXT = 96 };
// "6x16 mc 258 nc 512 kc 256"
void lod_print_sizes(const lod_blocks *blocks, char text[LOD_BLOCKS_TEXT]);
// From shape, ISA and choice to what calls use: blocks that fit, and the workspace.
void lod_plan_settle(lod_plan *plan);

// --- machine.c: what this machine is, read once ---
typedef struct lod_machine {
    size_t l1d, l2;     // bytes
    size_t l3;          // bytes, 0: none or unknown
    const char *source; // of the cache sizes
    char cpu[160];      // vendor, family, model; empty where unknown
} lod_machine;
const lod_machine *lod_this_machine(void);

// --- estimate.c: a choice from the cache sizes, without a measurement ---
void lod_estimate(lod_plan *plan);
// Tokens whose logits the loss holds at a time.
size_t lod_estimate_loss_chunk(size_t vocabulary, size_t tokens);

// --- candidates.c: what may be chosen instead ---
typedef enum lod_plan_part { LOD_PART_FORWARD, LOD_PART_BACKWARD, LOD_PART_ATTENTION } lod_plan_part;
typedef enum lod_axis {
    LOD_AXIS_TILE = 1,
    LOD_AXIS_DEPTH = 2,  // kc
    LOD_AXIS_HEIGHT = 4, // mc, query block
    LOD_AXIS_WIDTH = 8,  // nc
    LOD_AXIS_CUT = 16,
    LOD_AXES_ALL = 31
} lod_axis;
enum { LOD_CANDIDATES_MOST = 1024 };
// The choices that differ from the plan's own in nothing but one part of it along some axes; the plan's own stands at
// 0. Returns how many.
size_t lod_candidates(const lod_plan *plan, lod_plan_part part, unsigned axes, lod_choice list[LOD_CANDIDATES_MOST]);

// --- trial.c: one part of a plan's work on memory of its own ---
typedef struct lod_trial lod_trial;
// NULL: no memory.
lod_trial *lod_trial_make(const lod_plan *plan, lod_plan_part part);
void lod_trial_free(lod_trial *trial);
// Seconds of `runs` runs with a choice; negative: no memory.
double lod_trial_run(lod_trial *trial, const lod_choice *choice, size_t runs);

// --- search.c: the choice that measures best, starting from the plan's own ---
lod_status lod_search(lod_plan *plan, lod_rigor rigor, lod_error *err);
// Time as it passes.
double lod_clock_seconds(void);

// --- wisdom_text.c ---
// The same and what threads share out: "6x16 mc 258 nc 512 kc 256 columns"
void lod_print_blocks(const lod_blocks *blocks, char text[LOD_BLOCKS_TEXT]);

// --- wisdom.c: choices that were measured, by the text of a plan's class ---
// The same shape with counts of tokens rounded up to powers of two and rank 0, for which choices are measured and kept.
lod_plan lod_plan_class(const lod_plan *plan);
enum { LOD_KEY_SIZE = 160 };
// "lowrank n_in=576 n_out=192 tokens=1024"
void lod_plan_key(const lod_plan *plan, char key[LOD_KEY_SIZE]);
// Sets the plan's choice if one of at least this rigor is known for its class.
bool lod_wisdom_find(lod_plan *plan, lod_rigor rigor);
lod_status lod_wisdom_remember(const lod_plan *class, lod_rigor rigor, lod_error *err);

// --- workspace bytes, each beside the loop nest that uses it ---
size_t lod_lowrank_workspace(const lod_plan *plan);
size_t lod_loss_workspace(const lod_plan *plan);
size_t lod_attention_workspace(const lod_plan *plan);

// Checks a plan's shape.
lod_status lod_plan_check_shape(const lod_plan *plan, lod_error *err);
// Checks that a call's plan is of its kind.
lod_status lod_plan_check(const lod_plan *plan, lod_plan_kind kind, lod_error *err);

#endif
