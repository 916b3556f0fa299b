/// lodrop: fused low-rank (LoRA) layers with dropout, and what a transformer needs around them, on CPUs.
///
/// Conventions. Matrices are row-major [rows][columns] float32 with a leading dimension in elements. A batch is a
/// concatenation of segments (lod_rows); there is no padding. Every call that can fail returns a lod_status and can
/// fill a lod_error (err may be NULL); LOD_BAD_ARGUMENT names an argument out of range in its field. The library never
/// prints, exits or sets errno. It allocates in lod_plan_*, lod_wisdom_* and lod_default_threads, and for its pool of
/// threads at the first parallel call (LODROP_ISA=ref, which is for tests, allocates everywhere and aborts without
/// memory). Plans are immutable and may be shared between threads; forward and backward calls are reentrant as long as
/// their workspaces differ. Results are the same bits on AVX2, AVX-512 and NEON, for every number of threads and every
/// plan.
#ifndef LODROP_H
#define LODROP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LOD_VERSION "0.1.0"

#if defined(__GNUC__)
#define LOD_API __attribute__((visibility("default")))
#else
#define LOD_API
#endif

// ---------------------------------------------------------------------------------------------------------------------
// Errors

typedef enum lod_status {
    LOD_OK = 0,
    LOD_BAD_ARGUMENT, ///< an argument is out of range or contradicts the plan
    LOD_BAD_ISA,      ///< LODROP_ISA names an instruction set that this CPU or build lacks
    LOD_NO_MEMORY,    ///< a plan, or what its measurement works on, could not be allocated
    LOD_NO_WISDOM,    ///< LOD_WISDOM_ONLY was asked for, and nothing was measured for this shape
    LOD_BAD_WISDOM,   ///< a file of wisdom is damaged, or is of another machine, build or number of threads
    LOD_FILE,         ///< a file of wisdom cannot be read or written
} lod_status;

typedef struct lod_error {
    lod_status code;
    char field[32]; ///< the argument at fault
    char text[192]; ///< one sentence, no newline
} lod_error;

// ---------------------------------------------------------------------------------------------------------------------
// The machine

/// The instruction set in use: "ref", "avx2", "avx512" or "neon". Chosen once, at the first call, from the CPU and the
/// environment variable LODROP_ISA. On error *name is untouched.
LOD_API lod_status lod_isa_name(const char **name, lod_error *err);

/// Threads a plan gets when asked for 0: the CPUs that the calling thread may run on (its affinity at the time of the
/// call), no more than the CPU quota of its cgroup (v1, v2) rounded down, no more than the first number of
/// OMP_NUM_THREADS (ignored where OpenMP would ignore it), at least 1. lodrop-info tells which of them it was.
LOD_API unsigned lod_default_threads(void);

/// A parallel-for of the caller's: runs body(task, i) for every i in [0, tasks), in any order, on any threads, and
/// returns when all are done. `threads` is at most the plan's, whatever CPUs there are; context is what was given with
/// the engine.
typedef void lod_parallel_for(void *context, unsigned threads, size_t tasks, void (*body)(void *task, size_t i),
                              void *task);

/// Replaces the built-in pool of threads for the whole process; NULL restores it. Not to be called
/// while another lodrop call runs.
LOD_API void lod_set_parallel_for(lod_parallel_for *engine, void *context);

// ---------------------------------------------------------------------------------------------------------------------
// Batches

/// Segments of a concatenated batch: segment i holds the tokens start[i] .. start[i+1]-1. A token's mask row is its
/// offset in its segment. draw[i] numbers the example visit; instance[i] (NULL: all 0) the LoRA Dropout instance.
typedef struct lod_rows {
    size_t count;
    const size_t *start;     ///< [count + 1], ascending, start[0] = 0
    const uint32_t *draw;    ///< [count]; may be NULL where no mask is drawn
    const uint8_t *instance; ///< [count], < 64, or NULL
} lod_rows;

// ---------------------------------------------------------------------------------------------------------------------
// Dropout: the triple position (the operation), pattern, compensation; and the mask contract, version 1

typedef enum lod_pattern {
    LOD_PATTERN_ELEMENT, ///< every cell by itself
    LOD_PATTERN_COLUMN,  ///< whole columns: one row of draws for all rows of a segment
    LOD_PATTERN_SPAN,    ///< one run of floor(p n) neighbouring cells of n, at least 1
} lod_pattern;
typedef enum lod_compensation {
    LOD_COMPENSATION_NONE,
    LOD_COMPENSATION_INVERTED,            ///< what is kept is multiplied by 1 / (1 - thr/65536)
    LOD_COMPENSATION_RENORMALISE,         ///< kept attention weights are divided by their sum
    LOD_COMPENSATION_RENORMALISE_NOGRAD,  ///< the same, but no gradient flows through that sum
    LOD_COMPENSATION_INFERENCE,           ///< activations: at inference all is multiplied by 1 - thr/65536
} lod_compensation;
/// What random numbers are for: those of one purpose say nothing about those of another.
typedef enum lod_domain { LOD_DOMAIN_TRAIN, LOD_DOMAIN_EVAL, LOD_DOMAIN_INIT, LOD_DOMAIN_SAMPLING } lod_domain;

/// Where in a model a mask (or a random number) belongs; the module (0..6: q, k, v, o, gate, up, down) is added to the
/// first three.
typedef enum lod_position {
    LOD_POSITION_LORA_INPUT = 0,
    LOD_POSITION_LORA_A = 8,
    LOD_POSITION_LORA_B = 16,
    LOD_POSITION_ATTN_LOGIT = 24,
    LOD_POSITION_ATTN_WEIGHT,
    LOD_POSITION_FFN_MIDDLE,
    LOD_POSITION_FFN_OUTPUT,
    LOD_POSITION_EMBEDDING,
    LOD_POSITION_HIDDEN,
    LOD_POSITION_SHUFFLE,
    LOD_POSITION_SAMPLE,
} lod_position;

/// A dropout as every operation takes it; p = 0 (all zeros) is none. thr = floor(p * 65536 + 0.5) of 65536 draws are
/// dropped; 0 < p with thr = 0, thr = 65536, and p outside [0, 1) are errors.
typedef struct lod_dropout {
    lod_pattern pattern;
    lod_compensation compensation;
    double p;
    uint64_t seed;
    uint32_t site; ///< from lod_site, head and instance 0: the operation adds them
    uint32_t draw; ///< of masks on weights: the step; masks on activations take it from lod_rows
    bool per_kv_head; ///< column and span masks of attention: one for each KV head, not for each query head
} lod_dropout;

/// Packs a site: domain < 4, layer < 1024, position < 64, instance < 64, head < 256.
LOD_API lod_status lod_site(unsigned domain, unsigned layer, unsigned position, unsigned instance, unsigned head,
                            uint32_t *site, lod_error *err);

/// Writes keep[(row - row0) * cols + col - col0] = 1 or 0 for a range of cells of an element mask (column masks: row0 =
/// 0, rows = 1): the masks that kernels draw, for use elsewhere.
LOD_API lod_status lod_mask_dump(uint64_t seed, uint32_t site, uint32_t draw, double p, size_t row0, size_t rows,
                                 size_t col0, size_t cols, uint8_t *keep, lod_error *err);

/// The dropped run of a span mask over a segment of `length` cells: cells *start .. *start + *count - 1; count 0 at
/// p = 0.
LOD_API lod_status lod_mask_span(uint64_t seed, uint32_t site, uint32_t draw, double p, size_t length, size_t *start,
                                 size_t *count, lod_error *err);

/// Uniform 32-bit words of the same generator (Philox4x32-10), word i a pure function of (seed, site, draw, row, i).
LOD_API void lod_random(uint64_t seed, uint32_t site, uint32_t draw, uint32_t row, size_t count, uint32_t *words);

// ---------------------------------------------------------------------------------------------------------------------
// Plans

typedef struct lod_plan lod_plan;

/// How hard a plan is searched for. Choices that were measured at the same rigor or a higher one are known to the
/// process as wisdom (below) and are taken without measuring again.
typedef enum lod_rigor {
    LOD_ESTIMATE,    ///< analytic, from the cache sizes; touches no data
    LOD_MEASURE,     ///< times some alternatives to the estimate on memory of its own, in about a second
    LOD_EXHAUSTIVE,  ///< times all of them
    LOD_WISDOM_ONLY, ///< never measures: an error if nothing is known
} lod_rigor;

typedef struct lod_lowrank_shape {
    size_t n_in, n_out;
    size_t rank;   ///< largest rank, 0 for a layer without an adapter; at most 1024
    size_t tokens; ///< most tokens a call will bring
} lod_lowrank_shape;

typedef struct lod_attention_shape {
    size_t heads, kv_heads; ///< heads is a multiple of kv_heads
    size_t head_dim;        ///< a multiple of 8, at most 256
    size_t keys;            ///< most keys in one segment
    size_t queries;         ///< most queries in one segment; 0: as many as keys
} lod_attention_shape;

typedef struct lod_loss_shape {
    size_t n_in, vocabulary;
    size_t tokens;    ///< most targets a call will bring
    bool consistency; ///< calls may bring a second branch: room for its logits, too
} lod_loss_shape;

/// threads = 0: lod_default_threads(). Asked for more, a call starts no more at once than its thread may use CPUs, nor
/// than the cgroup's CPU quota at the time of the last plan pays for, rounded up. The plan is freed with lod_plan_free.
LOD_API lod_status lod_plan_lowrank(const lod_lowrank_shape *shape, unsigned threads, lod_rigor rigor, lod_plan **plan,
                                    lod_error *err);
LOD_API lod_status lod_plan_attention(const lod_attention_shape *shape, unsigned threads, lod_rigor rigor,
                                      lod_plan **plan, lod_error *err);
LOD_API lod_status lod_plan_loss(const lod_loss_shape *shape, unsigned threads, lod_rigor rigor, lod_plan **plan,
                                 lod_error *err);
/// For the element-wise and row-wise operations below; needs no workspace.
LOD_API lod_status lod_plan_rowwise(unsigned threads, lod_plan **plan, lod_error *err);
LOD_API void lod_plan_free(lod_plan *plan);

/// Bytes of workspace that a call on this plan needs, a multiple of 64; the caller owns it and aligns it to 64 bytes.
/// Huge pages (madvise) for it and for packed weights are worth up to a fifth of the time: on small ones it is chance
/// whether blocks collide in the second cache.
LOD_API size_t lod_plan_workspace(const lod_plan *plan);

/// One line on what was chosen ("avx2 6x16 mc 258 nc 512 kc 256 threads 2"; with "back" and the backward pass's blocks
/// where they differ), cut to size bytes with its 0.
LOD_API void lod_plan_describe(const lod_plan *plan, char *text, size_t size);

/// The most seconds that making one plan may measure for, in this process, whatever its rigor; negative: no limit,
/// which is how a process starts. A plan cut short takes the best of what it had measured; that is known as wisdom of
/// LOD_MEASURE, and nothing is known where nothing better than before was found.
LOD_API void lod_plan_time_limit(double seconds);

// ---------------------------------------------------------------------------------------------------------------------
// Wisdom: choices that were measured, kept for later plans of the process and, in files, for later processes

/// Counts of tokens are rounded up to powers of two in it, and ranks do not matter: plans of about the same shape share
/// an entry. A file is readable text, sorted, for one build, one instruction set, one machine and one number of threads
/// (0: lod_default_threads()): load refuses one of anything else as a whole, and says why.

/// Writes the file that load and save take for NULL: the environment variable LODROP_WISDOM, else
/// lodrop/wisdom.<isa>.<threads> in XDG_CACHE_HOME or ~/.cache.
LOD_API lod_status lod_wisdom_path(unsigned threads, char *path, size_t size, lod_error *err);
/// Adds a file's entries to what the process knows; of two for one shape the one of higher rigor stays, of equal ones
/// the file's. LOD_FILE if it cannot be read, LOD_BAD_WISDOM if it is refused: nothing is taken from it then.
LOD_API lod_status lod_wisdom_load(const char *path, unsigned threads, lod_error *err);
/// Adds to what the file holds, under a lock, and renames the whole into place; makes the folder. A file that load
/// would refuse is replaced, one that is no wisdom at all is an error.
LOD_API lod_status lod_wisdom_save(const char *path, unsigned threads, lod_error *err);
/// Empties what the process knows; files stay, and so do plans that exist.
LOD_API void lod_wisdom_forget(void);

// ---------------------------------------------------------------------------------------------------------------------
// Frozen weights

typedef enum lod_dtype { LOD_F32, LOD_BF16, LOD_F16 } lod_dtype;

/// Bytes of the packed form of W [n_out][n_in], 0 if that overflows. One packed copy serves every plan, both directions
/// and the loss. Elements keep their dtype and are widened to float32 (exactly) inside the calls.
LOD_API size_t lod_packed_size(size_t n_in, size_t n_out, lod_dtype dtype);

/// Packs W [n_out][n_in] (leading dimension ldw, any alignment) into memory of the caller's, 64-byte aligned.
LOD_API lod_status lod_pack_weights(size_t n_in, size_t n_out, lod_dtype dtype, const void *w, size_t ldw,
                                    void *packed, lod_error *err);

/// A packed weight as operations take it; dtype must be the one it was packed with.
typedef struct lod_weight {
    const void *packed;
    lod_dtype dtype;
} lod_weight;

// ---------------------------------------------------------------------------------------------------------------------
// Sums of gradients over examples

/// A binary counter of partial sums: leaf i joins its sibling as bits carry, so that any split of a step into calls
/// gives the same bits. Owned by the caller; a backward call pushes one leaf per segment, in segment order.
typedef struct lod_grad_sum {
    size_t size;     ///< floats in a leaf
    unsigned levels; ///< holds up to 2^levels - 1 leaves
    uint64_t count;  ///< leaves pushed so far
    float *level;    ///< [levels][size]; level l is alive if bit l of count is set
} lod_grad_sum;

/// Bytes of memory for sums of `size` floats over up to `leaves` leaves (0 is taken for 1); 0 if they overflow.
LOD_API size_t lod_grad_sum_size(size_t size, uint64_t leaves);
/// An empty sum over memory of lod_grad_sum_size bytes, aligned to floats: the caller's, kept until the sum is done
/// with. A backward call that would bring more leaves than this fails.
LOD_API void lod_grad_sum_init(lod_grad_sum *sum, size_t size, uint64_t leaves, void *memory);
/// Folds low levels into higher ones and writes the total [size] (zeros if no leaf came); then the sum is empty again.
LOD_API void lod_grad_sum_finish(lod_grad_sum *sum, float *total);
/// The same of several sums of one size, at least one, whose totals join in the same kind of tree: those of the
/// instances of LoRA Dropout.
LOD_API void lod_grad_sum_finish_all(lod_grad_sum *sums, size_t count, float *total);

// ---------------------------------------------------------------------------------------------------------------------
// Low-rank linear layer (LoRA, arXiv 2106.09685): Y = X W' + s (X~ A') B', X~ = (M * X) inv, s = alpha / r

/// M is the element mask of the layer's input (PEFT's lora_dropout), inv = 1 / (1 - thr/65536) if inverted, else 1.
/// backward: dU = s (dY B); dX = (M * inv) * (dU A) + dY W; leaves dA = inv dU' (M * X) and dB' = U' dY.
/// Dropped cells of X are selected away: NaN in them does not reach U or dA.
///
/// LoRA Dropout (arXiv 2404.09610): lora_a drops columns of A, lora_b rows of B, never a rank: A diag(mA), diag(mB) B
/// and s invA invB stand for A, B and s above. mA and mB are drawn for row 0, once for a step (lod_dropout.draw), a
/// layer (site) and an instance (of lod_rows; those of a call may differ, and share its stream of W). Sums run over
/// what is kept alone, so the work of U, dU, dA and dB shrinks with p; columns of dA and dB' that are dropped are +0;
/// NaN in dropped columns of A and B', and of X and dY as far as the adapter sees them, reaches nothing. At inference,
/// without masks, the adapter's mean takes s (1 - pA) (1 - pB) for s if the compensation is none, s itself if
/// inverted.
typedef struct lod_lowrank_args {
    lod_rows rows;       ///< T = start[count] tokens, at most the plan's
    size_t rank;         ///< 0: frozen layer alone; then a, bt, u, scale and dropouts are not read
    double scale;        ///< s
    lod_dropout dropout; ///< element; none or inverted
    lod_dropout lora_a;  ///< LoRA Dropout's columns of A: column; none or inverted; not beside dropout
    lod_dropout lora_b;  ///< and rows of B
    const float *x;      ///< [T][n_in]; backward reads it for dA
    size_t ldx;
    lod_weight w;    ///< W [n_out][n_in]
    const float *a;  ///< A [rank][n_in]
    const float *bt; ///< B transposed, [rank][n_out]
    float *u;        ///< [T][rank] s inv (M * X) A'; forward writes it, backward reads it
    float *y;        ///< [T][n_out]; forward only
    size_t ldy;
    const float *dy; ///< [T][n_out]; backward only
    size_t lddy;
    float *dx; ///< [T][n_in], overwritten; NULL: not wanted; backward only
    size_t lddx;
    lod_grad_sum *da;  ///< leaves of rank * n_in floats; NULL: not wanted; backward only
    lod_grad_sum *dbt; ///< leaves of rank * n_out floats [rank][n_out]; NULL: not wanted; backward only
    size_t instances;  ///< da and dbt are so many sums, one for each instance; 0: one for all of them
} lod_lowrank_args;

LOD_API lod_status lod_lowrank_forward(const lod_plan *plan, const lod_lowrank_args *args, void *workspace,
                                       lod_error *err);
LOD_API lod_status lod_lowrank_backward(const lod_plan *plan, const lod_lowrank_args *args, void *workspace,
                                        lod_error *err);

// ---------------------------------------------------------------------------------------------------------------------
// Attention: O = softmax(scale Q K') V within each segment; grouped-query: head h reads KV head h / (heads / kv_heads)
// Online softmax over blocks of keys (FlashAttention-2, arXiv 2307.08691): nothing of the size T x T is ever stored

/// Q [Tq][heads][D], K and V [Tk][kv_heads][D] with leading dimensions per token. Query i of a segment's Tq stands at
/// position Tk - Tq + i among its Tk keys and, if causal, sees the keys up to its own. Everything visible must be
/// finite in K and V.
///
/// Dropout, by pattern and compensation, with e_j = exp(scale q k_j) over the visible keys j and m_j their mask:
///
///     element, column, span   none                DropKey (arXiv 2208.02646): dropped logits are -inf,
///                                                 w_j = m_j e_j / sum m e
///     element, column, span   renormalise         DropAttention (arXiv 1907.11065) with gradient through the
///                                                 normaliser: DropKey's numbers
///     element, column, span   renormalise-nograd  DropAttention: the same weights, but sum m e / sum e counts as
///                                                 a constant: dlogit_j = m_j w_j dw_j - (e_j / sum e) <dO, O>
///     element                 inverted            attention dropout: w_j = (m_j inv) e_j / sum e
///
/// A mask's row is the query's position (modulo 2^32: it is negative where Tq > Tk), its column the key's place in the
/// segment; column and span masks are one key set a head for all queries, whose dropped keys are skipped: rows of K and
/// V that they drop are not read (renormalise-nograd: of V only), and the work shrinks with p. Draw and instance come
/// from queries. A query all of whose visible keys are dropped gives O = 0 and gradients 0.
typedef struct lod_attention_args {
    lod_rows queries, keys; ///< same count; Tq <= Tk in each segment if causal
    bool causal;
    double scale;        ///< usually 1 / sqrt(D)
    lod_dropout dropout; ///< of the table above
    const float *q, *k, *v;
    size_t ldq, ldk, ldv;
    float *o; ///< [Tq][heads][D]; forward writes it, backward reads it
    size_t ldo;
    float *lse;          ///< [Tq][heads] log-sum-exp of the scaled logits that are kept (inverted: of all visible
                         ///< ones), +inf where there is none; forward writes it, backward reads it
    float *lse_visible;  ///< renormalise-nograd with p > 0 only: [Tq][heads] log-sum-exp of all visible logits
    const float *d_o;    ///< gradient of O, laid out with ldo; backward only
    float *dq, *dk, *dv; ///< overwritten, laid out with ldq, ldk, ldv; backward only
} lod_attention_args;

LOD_API lod_status lod_attention_forward(const lod_plan *plan, const lod_attention_args *args, void *workspace,
                                         lod_error *err);
LOD_API lod_status lod_attention_backward(const lod_plan *plan, const lod_attention_args *args, void *workspace,
                                          lod_error *err);

// ---------------------------------------------------------------------------------------------------------------------
// Loss: softmax cross-entropy of H W' against targets, logits never whole in memory; and consistency of two branches

/// How far apart the softmaxes P and Q of two branches are at a target: two passes with different masks, or one with a
/// mask and a clean one.
typedef enum lod_consistency {
    LOD_CONSISTENCY_NONE,
    LOD_CONSISTENCY_KL, ///< (KL(P||Q) + KL(Q||P)) / 2: R-Drop (arXiv 2106.14448), HiddenKey (arXiv 2403.00812)
    LOD_CONSISTENCY_JS, ///< (KL(P||M) + KL(Q||M)) / 2 with M = (P + Q) / 2
} lod_consistency;

/// Gradients are those of the sum over targets of
///     loss                                        without consistency
///     loss + weight * divergence                  through the first branch alone: HiddenKey, JS to a clean pass
///     (loss + loss2) / 2 + weight * divergence    if dh2 is wanted, through both: R-Drop
/// Equal branches have divergence 0 and the gradients of their losses alone, bit for bit. With consistency, logits must
/// be finite.
typedef struct lod_loss_args {
    size_t tokens;  ///< T
    const float *h; ///< [T][n_in]
    size_t ldh;
    lod_weight w;           ///< [vocabulary][n_in]
    const uint32_t *target; ///< [T], each < vocabulary
    float *loss;            ///< [T] -log softmax(h W')[target], in nats
    float *dh;              ///< [T][n_in] gradient; may be h, where lddh = ldh; NULL: not wanted
    size_t lddh;
    lod_consistency consistency; ///< not none: with a plan that says so; the rest is read only then
    double weight;               ///< of the divergence, at least 0
    const float *h2;             ///< [T][n_in] the second branch
    size_t ldh2;
    float *loss2;      ///< [T] its loss; NULL: not wanted
    float *divergence; ///< [T] in nats
    float *dh2;        ///< [T][n_in] gradient; may be h2, where lddh2 = ldh2; NULL: not wanted; only with dh
    size_t lddh2;
} lod_loss_args;

LOD_API lod_status lod_loss(const lod_plan *plan, const lod_loss_args *args, void *workspace, lod_error *err);

// ---------------------------------------------------------------------------------------------------------------------
// Row-wise and element-wise operations (plan: lod_plan_rowwise)

/// y = x * rstd * g, rstd = 1 / sqrt(mean(x^2) + eps) (arXiv 1910.07467). backward: dx = add + J' dy; g is frozen.
typedef struct lod_rmsnorm_args {
    size_t tokens, width;
    double eps;
    const float *x; ///< [tokens][width]
    size_t ldx;
    const float *g; ///< [width]
    float *rstd;    ///< [tokens]; forward writes it, backward reads it
    float *y;       ///< [tokens][width]; forward only
    size_t ldy;
    const float *dy; ///< [tokens][width]; backward only
    size_t lddy;
    const float *add; ///< [tokens][width] with lddx, the gradient that bypasses the norm; NULL: none; backward only
    float *dx;        ///< [tokens][width]; may be add, or dy where lddx = lddy; backward only
    size_t lddx;
} lod_rmsnorm_args;

LOD_API lod_status lod_rmsnorm_forward(const lod_plan *plan, const lod_rmsnorm_args *args, lod_error *err);
LOD_API lod_status lod_rmsnorm_backward(const lod_plan *plan, const lod_rmsnorm_args *args, lod_error *err);

/// Rotary position embedding, rotate-half form (arXiv 2104.09864), in place on [tokens][heads][head_dim]:
/// (x1, x2) -> (x1 c - x2 s, x2 c + x1 s) with c, s from the row position[t] of the tables; inverse rotates back, which
/// is also the backward pass.
typedef struct lod_rope_args {
    size_t tokens, heads;
    size_t head_dim; ///< even
    float *x;
    size_t ldx;
    const uint32_t *position; ///< [tokens]
    const float *cosine;      ///< [positions][head_dim / 2]
    const float *sine;        ///< [positions][head_dim / 2]
    bool inverse;
} lod_rope_args;

LOD_API lod_status lod_rope(const lod_plan *plan, const lod_rope_args *args, lod_error *err);

/// Llama 3.1's frequencies, for more positions than it was pre-trained on (rope_type "llama3" of Hugging Face's files).
/// Waves longer than original_positions / low_freq_factor positions become `factor` times as long, those shorter than
/// original_positions / high_freq_factor stay, between the two the frequencies are blended linearly in 1 / wave length.
typedef struct lod_rope_scaling {
    double factor;
    double low_freq_factor;
    double high_freq_factor; ///< more than low_freq_factor
    double original_positions;
} lod_rope_scaling;

/// Fills both tables [positions][head_dim / 2], head_dim even, for positions 0 .. positions-1: angle = position *
/// theta^(-2 i / head_dim), scaled unless scaling is NULL; exponent, frequency and angle are rounded to float32, as
/// most models were trained. The functions are SLEEF's reproducible ones in double: every machine has the same tables.
LOD_API void lod_rope_tables(size_t positions, size_t head_dim, double theta, const lod_rope_scaling *scaling,
                             float *cosine, float *sine);

/// SwiGLU (arXiv 2002.05202): y = silu(gate) * up, silu(g) = g / (1 + exp(-g)). backward: dgate and dup from dy.
typedef struct lod_silu_mul_args {
    size_t count;     ///< elements
    const float *gate, *up;
    float *y;         ///< forward only
    const float *dy;  ///< backward only
    float *dgate, *dup; ///< backward only; may be gate and up
} lod_silu_mul_args;

LOD_API lod_status lod_silu_mul_forward(const lod_plan *plan, const lod_silu_mul_args *args, lod_error *err);
LOD_API lod_status lod_silu_mul_backward(const lod_plan *plan, const lod_silu_mul_args *args, lod_error *err);

/// y = a + b; y may be a or b.
typedef struct lod_add_args {
    size_t count;
    const float *a, *b;
    float *y;
} lod_add_args;

LOD_API lod_status lod_add(const lod_plan *plan, const lod_add_args *args, lod_error *err);

/// Dropout of activations, alone (y = D x) or into the residual sum beside it (y = add + D x):
///
///     element  inverted   token by token, what PyTorch does
///     element  inference  classic dropout (Srivastava et al., JMLR 15, 2014)
///     column   inverted   variational dropout: one mask for all tokens of a segment
///     span     none       HiddenCut (arXiv 2106.00149): a run of a segment's tokens is dropped whole
///
/// D x = select(M, x * inv, 0), inv = 1 unless inverted; at inference nothing is dropped, and D x = x but for the
/// classic one. Dropped cells of x are selected away: NaN in them does not reach y. D is its own backward pass: dx from
/// dy without add. p = 0 gives the bits of lod_add, or x.
typedef struct lod_dropout_add_args {
    lod_rows rows; ///< T = start[count] tokens
    size_t width;
    lod_dropout dropout;
    bool inference;
    const float *x; ///< [T][width]
    size_t ldx;
    const float *add; ///< [T][width] with ldy; NULL: none
    float *y;         ///< [T][width]; may be x, where ldy = ldx, add or both
    size_t ldy;
} lod_dropout_add_args;

LOD_API lod_status lod_dropout_add(const lod_plan *plan, const lod_dropout_add_args *args, lod_error *err);

/// AdamW (arXiv 1711.05101, algorithm 2), in place on parameters and both moments, which start as zeros:
/// m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g^2, and with mhat = m / (1 - beta1^step), vhat = v /
/// (1 - beta2^step): w = w (1 - learning_rate weight_decay) - learning_rate mhat / (sqrt(vhat) + eps).
typedef struct lod_adamw_args {
    size_t count;
    float *w;
    const float *g;
    float *m, *v;
    double learning_rate, beta1, beta2, eps, weight_decay;
    uint64_t step; ///< from 1
} lod_adamw_args;

LOD_API lod_status lod_adamw(const lod_plan *plan, const lod_adamw_args *args, lod_error *err);

#ifdef __cplusplus
}
#endif
#endif
