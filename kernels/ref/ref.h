// The meaning of every operation: its f64 form, plain C11 double with libm. The f32 contracts of kernels.h have a ref
// variant each, which widens, calls the f64 form and rounds once. Notation and shapes as in kernels.h; sums ascend.
//
// An f64 form allocates nothing. The ref variants keep widened copies on the heap (the tile: on the stack) and abort if
// there is none left: they are for tests and for machines without a SIMD unit that lodrop knows.
#ifndef LOD_REF_H
#define LOD_REF_H

#include "kernels.h"

// --- widen.c ---
// Reads bit col of row `row` of a mask; no mask keeps everything.
bool lod_ref_kept(const uint8_t *keep, size_t ldkeep, size_t row, size_t col);
// A widened copy [rows][cols] of x, to be freed; NULL stays NULL.
double *lod_ref_widen(size_t rows, size_t cols, const float *x, size_t ldx);
// Memory for count doubles, to be freed.
double *lod_ref_alloc(size_t count);
// Rounds x [rows][cols] to y and frees x.
void lod_ref_round(size_t rows, size_t cols, double *x, float *y, size_t ldy);

// --- lowrank.c: c = first ? select(keep, (u b) inv) : c;  c += x w, for any m, n, k and r ---
typedef struct lod_lowrank_tile_f64_args {
    size_t m, n, k, r;
    const double *x; // [m][ldx]
    size_t ldx;
    const double *w; // element [k][j] at w[k * w_row + j * w_col]
    size_t w_row, w_col;
    const double *u; // [m][ldu]
    size_t ldu;
    const double *b; // [r][ldb]
    size_t ldb;
    const uint8_t *keep; // [m][ldkeep] bits, or NULL
    size_t ldkeep, keep_col;
    double inv;
    bool first;
    double *c; // [m][ldc]
    size_t ldc;
} lod_lowrank_tile_f64_args;
void lod_lowrank_tile_f64(const lod_lowrank_tile_f64_args *args);

// --- rank.c ---
typedef struct lod_rank_dot_f64_args {
    size_t tokens, n, r;
    const double *x; // [tokens][ldx]
    size_t ldx;
    const uint8_t *keep; // [tokens][ldkeep] bits, or NULL
    size_t ldkeep;
    const uint8_t *columns; // [n] bits, or NULL
    const double *a;        // [r][lda]
    size_t lda;
    double scale;
    double *u; // [tokens][ldu]
    size_t ldu;
} lod_rank_dot_f64_args;
void lod_rank_dot_f64(const lod_rank_dot_f64_args *args);

typedef struct lod_rank_grad_f64_args {
    size_t tokens, n, r;
    const double *s; // [tokens][lds]
    size_t lds;
    const double *x; // [tokens][ldx]
    size_t ldx;
    const uint8_t *keep; // [tokens][ldkeep] bits, or NULL
    size_t ldkeep;
    const uint8_t *columns; // bits, or NULL
    size_t keep_col;
    double scale;
    double *g; // [r][ldg]
    size_t ldg;
} lod_rank_grad_f64_args;
void lod_rank_grad_f64(const lod_rank_grad_f64_args *args);

// --- norm.c ---
typedef struct lod_rmsnorm_fwd_f64_args {
    size_t rows, n;
    const double *x; // [rows][ldx]
    size_t ldx;
    const double *g; // [n]
    double eps;
    double *rstd; // [rows]
    double *y;    // [rows][ldy]
    size_t ldy;
} lod_rmsnorm_fwd_f64_args;
void lod_rmsnorm_fwd_f64(const lod_rmsnorm_fwd_f64_args *args);

typedef struct lod_rmsnorm_bwd_f64_args {
    size_t rows, n;
    const double *x; // [rows][ldx]
    size_t ldx;
    const double *g;    // [n]
    const double *rstd; // [rows]
    const double *dy;   // [rows][lddy]
    size_t lddy;
    const double *add; // [rows][lddx], or NULL
    double *dx;        // [rows][lddx]
    size_t lddx;
} lod_rmsnorm_bwd_f64_args;
void lod_rmsnorm_bwd_f64(const lod_rmsnorm_bwd_f64_args *args);

// --- rope.c: the backward pass is inverse ---
typedef struct lod_rope_f64_args {
    size_t rows, heads, head_dim;
    double *x; // [rows][heads][head_dim]
    size_t ldx;
    const uint32_t *position;    // [rows]
    const double *cosine, *sine; // [positions][head_dim / 2]
    bool inverse;
} lod_rope_f64_args;
void lod_rope_f64(const lod_rope_f64_args *args);

// --- silu.c ---
typedef struct lod_silu_mul_fwd_f64_args {
    size_t n;
    const double *gate, *up;
    double *y;
} lod_silu_mul_fwd_f64_args;
void lod_silu_mul_fwd_f64(const lod_silu_mul_fwd_f64_args *args);

typedef struct lod_silu_mul_bwd_f64_args {
    size_t n;
    const double *gate, *up, *dy;
    double *dgate, *dup;
} lod_silu_mul_bwd_f64_args;
void lod_silu_mul_bwd_f64(const lod_silu_mul_bwd_f64_args *args);

// --- elementwise.c: its own backward pass ---
typedef struct lod_add_f64_args {
    size_t n;
    const double *a, *b;
    double *y;
} lod_add_f64_args;
void lod_add_f64(const lod_add_f64_args *args);

// --- dropout.c: its own backward pass, without add ---
typedef struct lod_dropout_add_f64_args {
    size_t rows, n;
    const double *x; // [rows][ldx]
    size_t ldx;
    const double *add;   // [rows][ldy], or NULL
    const uint8_t *keep; // [rows][ldkeep] bits, or NULL
    size_t ldkeep;
    double scale;
    double *y; // [rows][ldy]
    size_t ldy;
} lod_dropout_add_f64_args;
void lod_dropout_add_f64(const lod_dropout_add_f64_args *args);

// --- adamw.c ---
typedef struct lod_adamw_f64_args {
    size_t n;
    double *w;
    const double *g;
    double *m, *v;
    double lr_decay, lr_correction1, sqrt_correction2;
    double one_minus_beta1, beta2, one_minus_beta2;
    double eps;
} lod_adamw_f64_args;
void lod_adamw_f64(const lod_adamw_f64_args *args);

// --- loss.c: gradient is the backward pass ---
typedef struct lod_xent_f64_args {
    size_t rows, n;
    double *z; // [rows][ldz]
    size_t ldz;
    const uint32_t *target; // [rows]
    double *loss;           // [rows]
    bool gradient;
} lod_xent_f64_args;
void lod_xent_f64(const lod_xent_f64_args *args);

// --- consistency.c: dz and dz2 are the backward pass; NULL: not wanted ---
typedef struct lod_consistency_f64_args {
    size_t rows, n;
    const double *z, *z2; // [rows][ldz]
    size_t ldz;
    const uint32_t *target; // [rows]
    lod_consistency consistency;
    double weight;
    double *loss, *loss2, *divergence; // [rows]
    double *dz, *dz2;                  // [rows][ldz]
} lod_consistency_f64_args;
void lod_consistency_f64(const lod_consistency_f64_args *args);

// --- attention.c: one query against its visible keys, whole; lodrop.h is the contract ---
typedef struct lod_attention_fwd_f64_args {
    size_t head_dim, keys;
    const double *q, *k, *v; // [head_dim], [keys][ldk], [keys][ldv]
    size_t ldk, ldv;
    double scale;
    const uint8_t *keep; // [keys] 1 or 0; NULL: nothing is dropped
    lod_compensation compensation;
    double inv;       // of INVERTED
    double *o;        // [head_dim]
    double *lse;      // one
    double *lse_visible; // one, RENORMALISE_NOGRAD only
    double *scratch;  // [keys]
} lod_attention_fwd_f64_args;
void lod_attention_fwd_f64(const lod_attention_fwd_f64_args *args);

typedef struct lod_attention_bwd_f64_args {
    size_t head_dim, keys;
    const double *q, *k, *v;
    size_t ldk, ldv;
    double scale;
    const uint8_t *keep;
    lod_compensation compensation;
    double inv;
    const double *o, *d_o; // [head_dim]
    double lse, lse_visible;
    double *dq, *dk, *dv; // [head_dim] overwritten, [keys][ldk] and [keys][ldv] added to
} lod_attention_bwd_f64_args;
void lod_attention_bwd_f64(const lod_attention_bwd_f64_args *args);

// --- attention_steps.c: the contracts of kernels.h, in the same notation; keep [rows][LOD_KEY_BLOCK] 1 or 0 ---
typedef struct lod_attention_tile_f64_args {
    size_t m, n, k;
    const double *a; // [i][k] at a[i * a_row + k * a_depth]
    size_t a_row, a_depth;
    const double *b; // [k][j] at b[k * b_depth + j]
    size_t b_depth;
    bool first;
    double *c; // [m][ldc]
    size_t ldc;
} lod_attention_tile_f64_args;
void lod_attention_tile_f64(const lod_attention_tile_f64_args *args);

typedef struct lod_attention_softmax_f64_args {
    size_t rows, n, head_dim;
    const uint32_t *seen;
    lod_attention_mode mode;
    const uint8_t *keep;
    double *s; // [rows][LOD_SCORE_LD]
    double *m, *l, *dropped_m, *dropped_l;
    double *o; // [rows][D16]
} lod_attention_softmax_f64_args;
void lod_attention_softmax_f64(const lod_attention_softmax_f64_args *args);

typedef struct lod_attention_finish_f64_args {
    size_t rows, head_dim;
    const double *m, *l, *dropped_m, *dropped_l;
    double inv;
    const double *acc;         // [rows][D16]
    double *o;                 // [rows][head_dim]
    double *lse, *lse_visible; // [rows]
} lod_attention_finish_f64_args;
void lod_attention_finish_f64(const lod_attention_finish_f64_args *args);

typedef struct lod_attention_grad_f64_args {
    size_t rows, n;
    const uint32_t *seen;
    lod_attention_mode mode;
    const uint8_t *keep;
    double *s, *dp; // [rows][LOD_SCORE_LD]
    const double *lse, *lse_visible, *delta;
} lod_attention_grad_f64_args;
void lod_attention_grad_f64(const lod_attention_grad_f64_args *args);

#endif
