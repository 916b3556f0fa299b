// Contracts of the micro-kernels: one argument struct, one function type and one picture per operation. What stands
// left of `__` in a symbol is the contract, what stands right of it the recipe; variants of a contract give the same
// bits, so each expression tree is spelled out here. ref variants compute in double and round once instead.
//
// A kernel never allocates, threads, locks, logs or asks which CPU it runs on; it handles its own tails and touches
// nothing outside its operands.
//
// Notation. fma(a, b, c) = a b + c rounded once, fnma(a, b, c) = -a b + c rounded once. sum16(i: a b) runs over
// ascending i in 16 lanes that start at +0, lane i mod 16 taking fma(a, b, lane) (of a lone term: lane + term); then
// lanes l += l+8, l += l+4, l += l+2, 0 += 1. Everything else is one IEEE operation per sign, left to right.
#ifndef LOD_KERNELS_H
#define LOD_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lodrop.h"

#define LOD_PANEL 16                      // columns of a weight panel: one virtual vector
#define LOD_KC_MAX 512                    // deepest k block of a tile; k blocks but the last are multiples of LOD_PANEL
#define LOD_FEW_TOKENS 32                 // most tokens of lowrank_few_f32
#define LOD_RANK_MAX 1024
#define LOD_HEAD_DIM_MAX 256
#define LOD_KEY_BLOCK 128                 // keys of one step of attention's online softmax, counting kept ones
#define LOD_SCORE_LD (LOD_KEY_BLOCK + 16) // leading dimension of a block of scores: an odd number of cache lines

/// One tile of a low-rank linear layer, forward (C = Y, X = X, W = W', U = U, B = B') and backward (X = dY, W = W,
/// U = dU, B = A, with the input's mask):
///
///     first:      acc[i][j] = +0;  acc = fma(u[i][q], b[q][j], acc) for q = 0 .. r-1 ascending
///                 if keep:  acc = keep[i][j] ? acc * inv : +0
///     otherwise:  acc = from[i][j]
///     then:       acc = fma(x[i][k], w[k][j], acc) for k ascending;  c[i][j] = acc
///
///                       n <= nr
///                   +------------+
///                   |  w  [k]    |      panels, padded: readable (and ignored) to the end of the last one with columns
///          k        +------------+
///      +--------+   +------------+
///  m   |   x    |   |     c      |      only m x n is read or written
///      +--------+   +------------+
typedef struct lod_lowrank_tile_args {
    size_t m, n;    // 1..mr, 1..nr
    size_t k;       // 0..LOD_KC_MAX
    size_t r;       // 0: no low-rank product
    const float *x; // [m][ldx]
    size_t ldx;
    const float *w; // panels of [k][LOD_PANEL], 64-byte aligned; a tile wider than one reads the next ones too
    size_t ldpanel; // floats from one panel to the next
    const float *u; // [m][ldu], read if first
    size_t ldu;
    const float *b; // [r][ldb], columns 0..n-1, read if first
    size_t ldb;
    const uint8_t *keep; // [m][ldkeep] bits, see keep_bits; NULL: everything is kept; read if first
    size_t ldkeep;       // bytes
    size_t keep_col;     // the bit of column 0; a multiple of nr
    float inv;
    bool first;
    const float *from; // [m][ldfrom] the sums of the k block before, read unless first
    size_t ldfrom;
    float *c; // [m][ldc], may be `from`
    size_t ldc;
} lod_lowrank_tile_args;
typedef void lod_lowrank_tile_f32_fn(const lod_lowrank_tile_args *args);

/// The whole product of a layer for few tokens, straight out of its packed weight, forward (transposed: N = n_out,
/// K = n_in, V[k][j] = W[j][k]) or backward (N = n_in, K = n_out, V = W): the sums of lowrank_tile_f32 over all of k,
///
///     acc = +0;  acc = fma(u[t][q], b[q][j], acc) for q ascending;  if keep:  acc = keep[t][j] ? acc * inv : +0
///     acc = fma(x[t][k], V[k][j], acc) for k < K ascending;  c[t][j] = acc        for t < tokens, begin <= j < end
typedef struct lod_lowrank_few_args {
    size_t tokens; // 1..LOD_FEW_TOKENS
    lod_weight w;  // packed, see weight_panel_f32
    size_t n_in, n_out;
    bool transposed;
    size_t begin, end; // begin a multiple of LOD_PANEL, end one too or N
    size_t r;          // 0: no low-rank product
    const float *x;    // [tokens][ldx]
    size_t ldx;
    const float *u; // [tokens][ldu]
    size_t ldu;
    const float *b; // [r][ldb]
    size_t ldb;
    const uint8_t *keep; // [tokens][ldkeep] bits, or NULL
    size_t ldkeep;       // bytes
    float inv;
    float *c; // [tokens][ldc]
    size_t ldc;
} lod_lowrank_few_args;
typedef void lod_lowrank_few_f32_fn(const lod_lowrank_few_args *args);

/// Draws an element mask (philox.h): bit (col % 8) of byte bits[i * ldbits + col / 8] is keep(seed, site, draw,
/// row0 + i, col). Writes whole groups of 128 columns: (n + 127) / 128 * 16 bytes a row.
typedef struct lod_keep_bits_args {
    size_t rows, n;
    uint32_t row0;
    uint64_t seed;
    uint32_t site, draw, threshold;
    uint8_t *bits;
    size_t ldbits; // bytes
} lod_keep_bits_args;
typedef void lod_keep_bits_fn(const lod_keep_bits_args *args);

/// Which cells an operation with a dropout keeps: all, none, or those of an element mask that it draws.
typedef enum lod_keep { LOD_KEEP_ALL, LOD_KEEP_NONE, LOD_KEEP_DRAWN } lod_keep;

/// Widens a k block of one panel out of a packed weight W [n_out][n_in], whose layout is [n_in / 16][n_out][16],
/// columns beyond n_in being zeros:
///
///     forward  (transposed):  out[kk][c] = W[16 panel + c][k0 + kk], 0 where 16 panel + c >= n_out
///     backward:               out[kk][c] = W[k0 + kk][16 panel + c]
typedef struct lod_weight_panel_args {
    lod_weight w;
    size_t n_in, n_out;
    bool transposed;
    size_t panel;
    size_t k0, k; // k0 a multiple of LOD_PANEL, k0 + k within n_in (transposed) or n_out
    float *out;   // [k][LOD_PANEL], 64-byte aligned
} lod_weight_panel_args;
typedef void lod_weight_panel_f32_fn(const lod_weight_panel_args *args);

/// The tall-skinny products of a low-rank layer, U (x = X, a = A) and dU (x = dY, a = B'):
///     u[t][q] = sum16(k: select(keep[t][k], x[t][k], +0) a[q][k]) * scale
/// With columns, over those of x alone whose bit is set, the k-th of them at column[k]; a holds them
/// side by side, and +0 to the end of a vector of 16:
///     u[t][q] = sum16(k: x[t][column[k]] a[q][k]) * scale
typedef struct lod_rank_dot_args {
    size_t tokens, n, r;
    const float *x; // [tokens][ldx]
    size_t ldx;
    const uint8_t *keep; // [tokens][ldkeep] bits; NULL: everything is kept
    size_t ldkeep;       // bytes
    const uint8_t *columns; // [n] bits, the same for all tokens, or NULL; not beside keep
    const float *a;         // [r][lda]
    size_t lda;
    float scale;
    float *u; // [tokens][ldu]
    size_t ldu;
} lod_rank_dot_args;
typedef void lod_rank_dot_f32_fn(const lod_rank_dot_args *args);

/// One leaf of an adapter's gradient over the tokens of a segment, dA (s = dU, x = X) and dB' (s = U, x = dY):
///     acc = +0;  acc = fma(s[t][q], select(keep[t][j], x[t][j], +0), acc) for t ascending;  g[q][j] = acc * scale
/// With columns, g[q][j] = +0 where their bit is not set.
typedef struct lod_rank_grad_args {
    size_t tokens, n, r;
    const float *s; // [tokens][lds]
    size_t lds;
    const float *x; // [tokens][ldx]
    size_t ldx;
    const uint8_t *keep; // [tokens][ldkeep] bits; NULL: everything is kept
    size_t ldkeep;       // bytes
    const uint8_t *columns; // bits, the same for all tokens, or NULL; not beside keep
    size_t keep_col;        // the bit of column 0, in either; a multiple of 16
    float scale;
    float *g; // [r][ldg]
    size_t ldg;
} lod_rank_grad_args;
typedef void lod_rank_grad_f32_fn(const lod_rank_grad_args *args);

/// ss = sum16(j: x x);  rstd = 1 / sqrt(ss / n + eps);  y = (x * rstd) * g
typedef struct lod_rmsnorm_fwd_kernel_args {
    size_t rows, n;
    const float *x; // [rows][ldx]
    size_t ldx;
    const float *g; // [n]
    float eps;
    float *rstd; // [rows]
    float *y;    // [rows][ldy]
    size_t ldy;
} lod_rmsnorm_fwd_kernel_args;
typedef void lod_rmsnorm_fwd_f32_fn(const lod_rmsnorm_fwd_kernel_args *args);

/// c = sum16(j: (dy * g) x);  t = ((c / n) * rstd) * rstd * rstd;  d = fnma(x, t, (dy * g) * rstd);
/// dx = add ? add + d : d.  dx may be add, or dy where lddx = lddy.
typedef struct lod_rmsnorm_bwd_kernel_args {
    size_t rows, n;
    const float *x; // [rows][ldx]
    size_t ldx;
    const float *g;    // [n]
    const float *rstd; // [rows]
    const float *dy;   // [rows][lddy]
    size_t lddy;
    const float *add; // [rows][lddx] or NULL
    float *dx;        // [rows][lddx]
    size_t lddx;
} lod_rmsnorm_bwd_kernel_args;
typedef void lod_rmsnorm_bwd_f32_fn(const lod_rmsnorm_bwd_kernel_args *args);

/// In place, for each head, i < head_dim / 2, x1 = x[i], x2 = x[i + head_dim / 2], c and s of the row's position
/// (s negated if inverse):  x[i] = fnma(x2, s, x1 * c);  x[i + head_dim / 2] = fma(x1, s, x2 * c)
typedef struct lod_rope_kernel_args {
    size_t rows, heads, head_dim;
    float *x; // [rows][heads][head_dim]
    size_t ldx;
    const uint32_t *position; // [rows]
    const float *cosine, *sine; // [positions][head_dim / 2]
    bool inverse;
} lod_rope_kernel_args;
typedef void lod_rope_f32_fn(const lod_rope_kernel_args *args);

/// sig = 1 / (1 + exp(-gate));  y = (gate * sig) * up
typedef struct lod_silu_mul_fwd_kernel_args {
    size_t n;
    const float *gate, *up;
    float *y;
} lod_silu_mul_fwd_kernel_args;
typedef void lod_silu_mul_fwd_f32_fn(const lod_silu_mul_fwd_kernel_args *args);

/// dgate = ((dy * up) * sig) * fma(gate, 1 - sig, 1);  dup = dy * (gate * sig).  dgate, dup may be gate, up.
typedef struct lod_silu_mul_bwd_kernel_args {
    size_t n;
    const float *gate, *up, *dy;
    float *dgate, *dup;
} lod_silu_mul_bwd_kernel_args;
typedef void lod_silu_mul_bwd_f32_fn(const lod_silu_mul_bwd_kernel_args *args);

/// y = a + b; y may be a or b.
typedef struct lod_add_kernel_args {
    size_t n;
    const float *a, *b;
    float *y;
} lod_add_kernel_args;
typedef void lod_add_f32_fn(const lod_add_kernel_args *args);

/// Dropout, into the sum beside it where there is one. keep[i][j], where drawn, is that of the row row0 + i (column:
/// row0, for all rows) and column j (philox.h).
///     y[i][j] = add ? (keep[i][j] ? fma(x[i][j], scale, add[i][j]) : add[i][j])
///                   : (keep[i][j] ? x[i][j] * scale : +0)
/// y may be x, where ldy = ldx, add or both.
typedef struct lod_dropout_add_kernel_args {
    size_t rows, n;
    const float *x; // [rows][ldx]
    size_t ldx;
    const float *add; // [rows][ldy] or NULL
    lod_keep keep;
    bool column;
    uint32_t row0;
    uint64_t seed;
    uint32_t site, draw, threshold;
    float scale;
    float *y; // [rows][ldy]
    size_t ldy;
} lod_dropout_add_kernel_args;
typedef void lod_dropout_add_f32_fn(const lod_dropout_add_kernel_args *args);

/// w = fnma(w, lr_decay, w);  m = fma(1 - beta1, g - m, m);  v = fma(g * g, 1 - beta2, v * beta2);
/// w = fnma(m / (sqrt(v) / sqrt_correction2 + eps), lr_correction1, w)
typedef struct lod_adamw_kernel_args {
    size_t n;
    float *w;
    const float *g;
    float *m, *v;
    float lr_decay;                              // learning rate * weight decay
    float lr_correction1;                        // learning rate / (1 - beta1^step)
    float sqrt_correction2;                      // sqrt(1 - beta2^step)
    float one_minus_beta1, beta2, one_minus_beta2; // each rounded from double
    float eps;
} lod_adamw_kernel_args;
typedef void lod_adamw_f32_fn(const lod_adamw_kernel_args *args);

/// m = max of the row;  e[j] = exp(z[j] - m);  l = sum16(j: e[j]);  loss = (m + log(l)) - z[target];
/// if gradient: z[j] = e[j] * (1 / l), then z[target] = z[target] - 1. Otherwise z is left as it was.
typedef struct lod_xent_kernel_args {
    size_t rows, n;
    float *z; // [rows][ldz] logits
    size_t ldz;
    const uint32_t *target; // [rows]
    float *loss;            // [rows]
    bool gradient;
} lod_xent_kernel_args;
typedef void lod_xent_f32_fn(const lod_xent_kernel_args *args);

/// Two branches of the same targets: the losses of both, and how far apart their softmaxes p and q are. m, e, l are
/// xent's of z, and m2, e2, l2 of z2; d[j] = z[j] - z2[j].
///     loss = (m + log(l)) - z[target];  loss2 likewise
///     t = (m - m2) + (log(l) - log(l2));  a = d[j] - t, the logarithm of p / q
///     p = e[j] * (1 / l);  q = e2[j] * (1 / l2)
///     KL:  r = a;  r2 = -a
///     JS:  u = log(2 / (1 + exp(-|a|)));  r = u - max(-a, 0);  r2 = u - max(a, 0)
///     k = sum16(j: p r);  k2 = sum16(j: q r2);  divergence = (k + k2) * 0.5
/// The gradient of loss + weight * divergence; if both, of (loss + loss2) / 2 + weight * divergence; c = both ? .5 : 1:
///     KL:  g = fma(p, r - k, p - q);  JS:  g = p * (r - k)
///     z[j] = fma(weight * 0.5, g, p * c), then z[target] = z[target] - c
///     if both, z2 likewise from g2 = fma(q, r2 - k2, q - p) or q * (r2 - k2)
/// Equal branches: divergence +0, z and z2 the gradients of their losses alone. Where no gradient is written, z and z2
/// hold nothing of use.
typedef struct lod_consistency_kernel_args {
    size_t rows, n;
    float *z, *z2; // [rows][ldz] finite logits
    size_t ldz;
    const uint32_t *target; // [rows]
    lod_consistency consistency; // KL or JS
    float weight;
    bool gradient, both;
    float *loss, *divergence; // [rows]
    float *loss2;             // [rows] or NULL
    float *scratch;           // [n]
} lod_consistency_kernel_args;
typedef void lod_consistency_f32_fn(const lod_consistency_kernel_args *args);

// Attention, by the query block and the key block. Scores are a block [queries][LOD_SCORE_LD] of logits, then weights.
// D16 is a head's dimension rounded up to 16: packed rows are that long, padded with zeros.

/// One product of attention, any m and k, n a multiple of 16:
///     acc = first ? +0 : c[i][j];  acc = fma(a[i][k], b[k][j], acc) for k ascending;  c[i][j] = acc
///
///     S = Q K'    dP = dO V'     a rows, b panels      [16 keys][D16][16]
///     O += P V    dQ += dS K     a rows, b packed rows [keys][D16]
///     dV += P' dO dK += dS' Q    a the columns of P and dS, b packed rows [queries][D16]
typedef struct lod_attention_tile_args {
    size_t m, n, k;
    const float *a; // element [i][k] at a[i * a_row + k * a_depth]
    size_t a_row, a_depth;
    const float *b; // row k of the columns 16 j .. 16 j + 15 at b + k * b_depth + j * b_panel, 64-byte aligned
    size_t b_depth, b_panel;
    bool first;
    float *c; // [m][ldc]
    size_t ldc;
} lod_attention_tile_args;
typedef void lod_attention_tile_f32_fn(const lod_attention_tile_args *args);

/// Gathers rows of one head, n = D:  y[i][d] = x[index[i]][d] * scale, +0 for d from n to D16.
typedef struct lod_attention_pack_args {
    size_t count, n;
    const float *x; // [..][ldx]
    size_t ldx;
    const uint32_t *index; // [count]; NULL: row i
    float scale;
    float *rows;   // [count][D16], or NULL
    float *panels; // [count / 16, rounded up][D16][16]: panels[i / 16][d][i % 16] = y[i][d], +0 for i from count on;
                   // or NULL; 64-byte aligned
    float *probe;  // NULL, or one: NaN if it was, or if any y is not finite; else +0 or -0
} lod_attention_pack_args;
typedef void lod_attention_pack_f32_fn(const lod_attention_pack_args *args);

/// The way back:  x[index[i]][d] = (y[i][d] + 0) * scale, d < n. (Adding +0 makes one zero of -0 and +0: which of them
/// a sum ends on depends on how many weights of zero a tile runs over.)
typedef struct lod_attention_unpack_args {
    size_t count, n;
    const float *rows;     // [count][D16]
    const uint32_t *index; // [count]; NULL: index[i] = i
    float scale;
    float *x; // rows of ldx, those of index are written
    size_t ldx;
} lod_attention_unpack_args;
typedef void lod_attention_unpack_f32_fn(const lod_attention_unpack_args *args);

/// What a dropout does to the weights of a query (lodrop.h): LOGITS: DropKey, and nothing at all; WEIGHTS: attention
/// dropout; NOGRAD: DropAttention whose normaliser is a constant.
typedef enum lod_attention_mode {
    LOD_ATTENTION_LOGITS,
    LOD_ATTENTION_WEIGHTS,
    LOD_ATTENTION_NOGRAD
} lod_attention_mode;

/// Which of a block's keys a query keeps: drawn ones for row row0 + i of the query and the columns 8 group ..
/// 8 group + 127 (philox.h: counters from `group` on).
/// LOGITS keeps all or draws, WEIGHTS draws, NOGRAD does any of the three.
typedef struct lod_attention_mask {
    lod_attention_mode mode;
    lod_keep keep;
    uint64_t seed;
    uint32_t site, draw, threshold, row0, group;
} lod_attention_mask;

/// One step of the online softmax (FlashAttention-2, arXiv 2307.08691, algorithm 1). Query i sees the first seen[i]
/// keys of the block and keeps some of them. n, at least every seen[i], rounded up to 16 is the columns written.
///
///     counted = WEIGHTS ? seen : seen and kept
///     M = max(m, s[j] counted);  alpha = exp(m - M);  e[j] = counted ? exp(s[j] - M) : +0
///     l[j] = fma(l[j], alpha, e[j]) for j < 16, then l[j % 16] = l[j % 16] + e[j] for j ascending
///     o[d] = o[d] * alpha;  m = M;  s[j] = seen and kept ? e[j] : +0
///     NOGRAD: dropped_m and dropped_l likewise, counted = seen and not kept (no o, no s)
///
/// m starts at -1e30, l and o at +0. exp is v16_exp_softmax (lanes.h). Where nothing is counted nothing changes.
typedef struct lod_attention_softmax_args {
    size_t rows, n, head_dim;
    const uint32_t *seen; // [rows]
    lod_attention_mask mask;
    float *s;                    // [rows][LOD_SCORE_LD]
    float *m, *l;                // [rows], [rows][16]
    float *dropped_m, *dropped_l; // the same; NOGRAD only
    float *o;                    // [rows][D16]
} lod_attention_softmax_args;
typedef void lod_attention_softmax_f32_fn(const lod_attention_softmax_args *args);

/// The end of a row, l the tree of its lanes (notation of sum16):
///     l = 0:      o = +0;  lse = +inf
///     otherwise:  o = (o / l + 0) * inv;  lse = m + log(l)
///     NOGRAD:     M = max(m, dropped_m);  L = fma(l, exp(m - M), dropped_l * exp(dropped_m - M));
///                 lse_visible = L = 0 ? +inf : M + log(L)
typedef struct lod_attention_finish_args {
    size_t rows, head_dim;
    const float *m, *l, *dropped_m, *dropped_l; // as in the softmax; the latter two NULL unless NOGRAD
    float inv;
    const float *acc; // [rows][D16]
    float *o;         // [rows][ldo]
    size_t ldo;
    float *lse, *lse_visible; // element i at [i * ldlse]; the latter NULL unless NOGRAD
    size_t ldlse;
} lod_attention_finish_args;
typedef void lod_attention_finish_f32_fn(const lod_attention_finish_args *args);

/// delta[i] = sum16(d: d_o[i][d] o[i][d])
typedef struct lod_attention_delta_args {
    size_t rows, head_dim;
    const float *d_o, *o; // [rows][ldo]
    size_t ldo;
    float *delta; // [rows]
} lod_attention_delta_args;
typedef void lod_attention_delta_f32_fn(const lod_attention_delta_args *args);

/// From the logits s and dp = dO V' of a block to its weights and the gradients of its logits (n, seen as above):
///     LOGITS:   p = kept ? exp(s - lse) : +0;  ds = kept ? p * (dp - delta) : +0
///     WEIGHTS:  w = exp(s - lse);  p = kept ? w : +0;  ds = w * ((kept ? dp : +0) - delta)
///     NOGRAD:   p = kept ? exp(s - lse) : +0;  ds = fnma(exp(s - lse_visible), delta, kept ? p * dp : +0)
/// and p = ds = +0 for the keys not seen.
typedef struct lod_attention_grad_args {
    size_t rows, n;
    const uint32_t *seen;
    lod_attention_mask mask;
    float *s;                       // [rows][LOD_SCORE_LD], becomes p
    float *dp;                      // [rows][LOD_SCORE_LD], becomes ds
    const float *lse, *lse_visible; // element i at [i * ldlse]; the latter NOGRAD only
    size_t ldlse;
    const float *delta; // [rows]
} lod_attention_grad_args;
typedef void lod_attention_grad_f32_fn(const lod_attention_grad_args *args);

// Prototypes, from the list.
#if defined(__x86_64__)
#define LOD_EACH_ISA(X, op) X(op, ref) X(op, avx2) X(op, avx512)
#elif defined(__aarch64__)
#define LOD_EACH_ISA(X, op) X(op, ref) X(op, neon)
#else
#define LOD_EACH_ISA(X, op) X(op, ref)
#endif

#define LOD_PROTOTYPE(op, isa) lod_##op##_fn lod_##op##__##isa;
#define LOD_KERNEL(op, isa, mr, nr) lod_##op##_fn lod_##op##__##isa##_##mr##x##nr;
#define LOD_VECTOR(op) LOD_EACH_ISA(LOD_PROTOTYPE, op)
#include "kernels.def"
#undef LOD_PROTOTYPE

#endif
