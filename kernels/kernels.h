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
#define LOD_X_LD (LOD_KC_MAX + 16)        // leading dimension of a packed block of X: an odd number of cache lines
#define LOD_RANK_MAX 1024
#define LOD_HEAD_DIM_MAX 256

/// One tile of a low-rank linear layer, forward (C = Y, X = X, W = W', U = U, B = B') and backward (X = dY, W = W,
/// U = dU, B = A, with the input's mask):
///
///     first:      acc[i][j] = +0;  acc = fma(u[i][q], b[q][j], acc) for q = 0 .. r-1 ascending
///                 if keep:  acc = keep[i][j] ? acc * inv : +0
///     otherwise:  acc = c[i][j]
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
    const float *x; // [m][LOD_X_LD]
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
    float *c; // [m][ldc]
    size_t ldc;
} lod_lowrank_tile_args;
typedef void lod_lowrank_tile_f32_fn(const lod_lowrank_tile_args *args);

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
typedef struct lod_rank_dot_args {
    size_t tokens, n, r;
    const float *x; // [tokens][ldx]
    size_t ldx;
    const uint8_t *keep; // [tokens][ldkeep] bits; NULL: everything is kept
    size_t ldkeep;       // bytes
    const float *a;      // [r][lda]
    size_t lda;
    float scale;
    float *u; // [tokens][ldu]
    size_t ldu;
} lod_rank_dot_args;
typedef void lod_rank_dot_f32_fn(const lod_rank_dot_args *args);

/// One leaf of an adapter's gradient over the tokens of a segment, dA (s = dU, x = X) and dB' (s = U, x = dY):
///     acc = +0;  acc = fma(s[t][q], select(keep[t][j], x[t][j], +0), acc) for t ascending;  g[q][j] = acc * scale
typedef struct lod_rank_grad_args {
    size_t tokens, n, r;
    const float *s; // [tokens][lds]
    size_t lds;
    const float *x; // [tokens][ldx]
    size_t ldx;
    const uint8_t *keep; // [tokens][ldkeep] bits; NULL: everything is kept
    size_t ldkeep;       // bytes
    size_t keep_col;     // the bit of column 0; a multiple of 16
    float scale;
    float *g; // [r][ldg]
    size_t ldg;
} lod_rank_grad_args;
typedef void lod_rank_grad_f32_fn(const lod_rank_grad_args *args);

/// ss = sum16(j: x x);  rstd = 1 / sqrt(ss / n + eps);  y = (x * rstd) * g
typedef struct lod_rmsnorm_fwd_kernel_args {
    size_t rows, n;
    const float *x;
    size_t ldx;
    const float *g;
    float eps;
    float *rstd;
    float *y;
    size_t ldy;
} lod_rmsnorm_fwd_kernel_args;
typedef void lod_rmsnorm_fwd_f32_fn(const lod_rmsnorm_fwd_kernel_args *args);

/// c = sum16(j: (dy * g) x);  t = ((c / n) * rstd) * rstd * rstd;  d = fnma(x, t, (dy * g) * rstd);
/// dx = add ? add + d : d.  dx may be add.
typedef struct lod_rmsnorm_bwd_kernel_args {
    size_t rows, n;
    const float *x;
    size_t ldx;
    const float *g;
    const float *rstd;
    const float *dy;
    size_t lddy;
    const float *add; // [rows][lddx] or NULL
    float *dx;
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

/// One query against its keys, K and V [keys][head_dim] with leading dimensions:
///     s[j] = sum16(d: q[d] k[j][d]) * scale;  m = max s;  w[j] = exp(s[j] - m);  l = sum16(j: w[j])
///     o[d] = (acc = +0; acc = fma(w[j], v[j][d], acc) for j ascending) / l;  lse = m + log(l)
/// keys = 0: o = 0, lse = +inf.
typedef struct lod_attention_fwd_kernel_args {
    size_t head_dim, keys;
    const float *q, *k, *v;
    size_t ldk, ldv;
    float scale;
    float *o;
    float *lse;     // one
    float *scratch; // [keys rounded up to 16], 64-byte aligned
} lod_attention_fwd_kernel_args;
typedef void lod_attention_fwd_f32_fn(const lod_attention_fwd_kernel_args *args);

/// Backward of the same; dk and dv are added to, dq is overwritten:
///     delta = sum16(d: d_o[d] o[d]);  p[j] = exp(s[j] - lse);  dp[j] = sum16(d: d_o[d] v[j][d])
///     ds[j] = (p[j] * (dp[j] - delta)) * scale
///     dq[d] = +0, then fma(ds[j], k[j][d], dq[d]) for j ascending
///     dk[j][d] = fma(ds[j], q[d], dk[j][d]);  dv[j][d] = fma(p[j], d_o[d], dv[j][d])
/// keys = 0: dq = 0.
typedef struct lod_attention_bwd_kernel_args {
    size_t head_dim, keys;
    const float *q, *k, *v;
    size_t ldk, ldv;
    float scale;
    const float *o, *d_o;
    float lse;
    float *dq, *dk, *dv; // dk with ldk, dv with ldv
    float *scratch;      // [2][keys rounded up to 16], 64-byte aligned
} lod_attention_bwd_kernel_args;
typedef void lod_attention_bwd_f32_fn(const lod_attention_bwd_kernel_args *args);

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
