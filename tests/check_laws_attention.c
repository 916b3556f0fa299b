// Laws of attention and of the loss, on the public interface. Attention's loops are held against the kernel called in
// the order that the bits are defined in; the loss against double.
#include <math.h>
#include <string.h>

#include "check.h"
#include "ref/ref.h"

enum { SEGMENTS = 4 };

typedef struct attention {
    lod_attention_shape shape;
    lod_attention_args args;
    size_t query_start[SEGMENTS + 1], key_start[SEGMENTS + 1];
} attention;

typedef struct outputs {
    float *o, *lse, *dq, *dk, *dv;
} outputs;

// Segments with and without a past (fewer queries than keys), one of them empty.
static void make_attention(attention *t, lod_attention_shape shape, bool causal) {
    static const size_t queries[SEGMENTS] = {7, 0, 1, 18}, keys[SEGMENTS] = {7, 0, 40, 21};
    check_shape("heads=%zu kv_heads=%zu head_dim=%zu%s", shape.heads, shape.kv_heads, shape.head_dim,
                causal ? " causal" : "");
    *t = (attention){.shape = shape};
    for (size_t i = 0; i < SEGMENTS; i++) {
        t->query_start[i + 1] = t->query_start[i] + queries[i];
        t->key_start[i + 1] = t->key_start[i] + keys[i];
    }
    lod_attention_args *a = &t->args;
    a->queries = (lod_rows){.count = SEGMENTS, .start = t->query_start};
    a->keys = (lod_rows){.count = SEGMENTS, .start = t->key_start};
    a->causal = causal, a->scale = 0.4;
    size_t width = shape.heads * shape.head_dim, kv_width = shape.kv_heads * shape.head_dim;
    a->ldq = width + 3, a->ldk = kv_width + 1, a->ldv = kv_width + 2, a->ldo = width + 4;
    a->q = check_floats("q", CHECK_IN, t->query_start[SEGMENTS], width, a->ldq);
    a->k = check_floats("k", CHECK_IN, t->key_start[SEGMENTS], kv_width, a->ldk);
    a->v = check_floats("v", CHECK_IN, t->key_start[SEGMENTS], kv_width, a->ldv);
    a->d_o = check_floats("d_o", CHECK_IN, t->query_start[SEGMENTS], width, a->ldo);
}

static outputs new_outputs(const attention *t) {
    size_t width = t->shape.heads * t->shape.head_dim, kv_width = t->shape.kv_heads * t->shape.head_dim;
    size_t queries = t->query_start[SEGMENTS], keys = t->key_start[SEGMENTS];
    return (outputs){
        .o = check_floats("o", CHECK_OUT, queries, width, t->args.ldo),
        .lse = check_floats("lse", CHECK_OUT, queries, t->shape.heads, t->shape.heads),
        .dq = check_floats("dq", CHECK_OUT, queries, width, t->args.ldq),
        .dk = check_floats("dk", CHECK_OUT, keys, kv_width, t->args.ldk),
        .dv = check_floats("dv", CHECK_OUT, keys, kv_width, t->args.ldv),
    };
}

// calls: the segments shared out over so many calls.
static outputs run(const attention *t, unsigned threads, size_t calls) {
    outputs out = new_outputs(t);
    lod_plan *plan;
    CHECK_THAT(lod_plan_attention(&t->shape, threads, LOD_ESTIMATE, &plan, NULL) == LOD_OK);
    size_t bytes = lod_plan_workspace(plan);
    void *workspace = check_operand("workspace", CHECK_OUT, 1, 1, bytes, bytes, 64);
    check_before_call();
    for (size_t call = 0; call < calls; call++) {
        size_t first = SEGMENTS * call / calls, last = SEGMENTS * (call + 1) / calls;
        size_t query = t->query_start[first], key = t->key_start[first];
        size_t query_start[SEGMENTS + 1], key_start[SEGMENTS + 1];
        for (size_t i = first; i <= last; i++) {
            query_start[i - first] = t->query_start[i] - query;
            key_start[i - first] = t->key_start[i] - key;
        }
        lod_attention_args a = t->args;
        a.queries = (lod_rows){.count = last - first, .start = query_start};
        a.keys = (lod_rows){.count = last - first, .start = key_start};
        a.q += query * a.ldq, a.k += key * a.ldk, a.v += key * a.ldv, a.d_o += query * a.ldo;
        a.o = out.o + query * a.ldo, a.lse = out.lse + query * t->shape.heads;
        a.dq = out.dq + query * a.ldq, a.dk = out.dk + key * a.ldk, a.dv = out.dv + key * a.ldv;
        CHECK_THAT(lod_attention_forward(plan, &a, workspace, NULL) == LOD_OK);
        CHECK_THAT(lod_attention_backward(plan, &a, workspace, NULL) == LOD_OK);
    }
    check_after_call();
    lod_plan_free(plan);
    return out;
}

static void clear(float *x, size_t rows, size_t cols, size_t ld) {
    for (size_t i = 0; i < rows; i++) {
        memset(x + i * ld, 0, cols * sizeof *x);
    }
}

// Query heads ascending, then queries ascending: one query of one head a call.
static void one_query(const attention *t, const outputs *out, size_t head, size_t segment, size_t query,
                      float *scratch) {
    lod_isa isa = LOD_ISA_ref;
    CHECK_THAT(lod_isa_in_use(&isa, NULL, NULL) == LOD_OK);
    const lod_attention_args *a = &t->args;
    size_t d = t->shape.head_dim, kv = head / (t->shape.heads / t->shape.kv_heads), first = t->key_start[segment];
    size_t keys = t->key_start[segment + 1] - first;
    keys -= a->causal ? t->query_start[segment + 1] - query - 1 : 0;
    size_t at = head * d, k = first * a->ldk + kv * d, v = first * a->ldv + kv * d;
    float *lse = &out->lse[query * t->shape.heads + head];
    lod_kernel_find(LOD_OP_attention_fwd_f32, isa)
        ->fn.attention_fwd_f32(&(lod_attention_fwd_kernel_args){
            .head_dim = d,
            .keys = keys,
            .q = a->q + query * a->ldq + at,
            .k = a->k + k,
            .v = a->v + v,
            .ldk = a->ldk,
            .ldv = a->ldv,
            .scale = (float)a->scale,
            .o = out->o + query * a->ldo + at,
            .lse = lse,
            .scratch = scratch,
        });
    lod_kernel_find(LOD_OP_attention_bwd_f32, isa)
        ->fn.attention_bwd_f32(&(lod_attention_bwd_kernel_args){
            .head_dim = d,
            .keys = keys,
            .q = a->q + query * a->ldq + at,
            .k = a->k + k,
            .v = a->v + v,
            .ldk = a->ldk,
            .ldv = a->ldv,
            .scale = (float)a->scale,
            .o = out->o + query * a->ldo + at,
            .d_o = a->d_o + query * a->ldo + at,
            .lse = *lse,
            .dq = out->dq + query * a->ldq + at,
            .dk = out->dk + k,
            .dv = out->dv + v,
            .scratch = scratch,
        });
}

static outputs by_hand(const attention *t) {
    outputs out = new_outputs(t);
    size_t kv_width = t->shape.kv_heads * t->shape.head_dim, padded = 2 * (t->shape.keys + 15) / 16 * 16;
    clear(out.dk, t->key_start[SEGMENTS], kv_width, t->args.ldk);
    clear(out.dv, t->key_start[SEGMENTS], kv_width, t->args.ldv);
    float *scratch = check_operand("scratch", CHECK_OUT, sizeof *scratch, 1, padded, padded, 64);
    for (size_t head = 0; head < t->shape.heads; head++) {
        for (size_t i = 0; i < SEGMENTS; i++) {
            for (size_t query = t->query_start[i]; query < t->query_start[i + 1]; query++) {
                one_query(t, &out, head, i, query, scratch);
            }
        }
    }
    return out;
}

static void same_bits(const attention *t, const outputs *got, const outputs *want) {
    const lod_attention_args *a = &t->args;
    size_t queries = t->query_start[SEGMENTS], keys = t->key_start[SEGMENTS];
    size_t width = t->shape.heads * t->shape.head_dim, kv_width = t->shape.kv_heads * t->shape.head_dim;
    check_bytes_equal("o", got->o, want->o, ((queries - 1) * a->ldo + width) * sizeof(float));
    check_bytes_equal("lse", got->lse, want->lse, queries * t->shape.heads * sizeof(float));
    check_bytes_equal("dq", got->dq, want->dq, ((queries - 1) * a->ldq + width) * sizeof(float));
    check_bytes_equal("dk", got->dk, want->dk, ((keys - 1) * a->ldk + kv_width) * sizeof(float));
    check_bytes_equal("dv", got->dv, want->dv, ((keys - 1) * a->ldv + kv_width) * sizeof(float));
}

CHECK_ONCE(attention_loops, 0x34094ec0482deac3) {
    static const lod_attention_shape shapes[] = {{.heads = 1, .kv_heads = 1, .head_dim = 8, .keys = 40},
                                                 {.heads = 8, .kv_heads = 4, .head_dim = 24, .keys = 40},
                                                 {.heads = 6, .kv_heads = 1, .head_dim = 64, .keys = 41}};
    for (size_t i = 0; i < 6; i++) {
        attention t;
        make_attention(&t, shapes[i / 2], i % 2);
        outputs want = by_hand(&t), one = run(&t, 1, 1), many = run(&t, 3, 1), more = run(&t, 5, 1);
        same_bits(&t, &one, &want);
        same_bits(&t, &many, &want);
        same_bits(&t, &more, &want);
        outputs split = run(&t, 2, SEGMENTS);
        same_bits(&t, &split, &want);
        check_share(one.o);
        check_share(one.dq);
        check_share(one.dk);
        check_share(one.dv);
    }
}

// --- the loss ---

typedef struct head {
    lod_loss_shape shape;
    lod_loss_args args;
    double *w;
} head;

static void make_head(head *t, lod_loss_shape shape) {
    check_shape("n_in=%zu vocabulary=%zu tokens=%zu", shape.n_in, shape.vocabulary, shape.tokens);
    *t = (head){.shape = shape};
    size_t bytes = lod_packed_size(shape.n_in, shape.vocabulary, LOD_F32);
    float *w = check_floats("w", CHECK_IN, shape.vocabulary, shape.n_in, shape.n_in);
    void *packed = check_operand("packed w", CHECK_OUT, 1, 1, bytes, bytes, 64);
    CHECK_THAT(lod_pack_weights(shape.n_in, shape.vocabulary, LOD_F32, w, shape.n_in, packed, NULL) == LOD_OK);
    uint32_t *target = check_operand("target", CHECK_IN, sizeof *target, 1, shape.tokens, shape.tokens, 4);
    for (size_t i = 0; i < shape.tokens; i++) {
        target[i] = (uint32_t)check_below(shape.vocabulary);
    }
    t->w = check_widen(w);
    t->args = (lod_loss_args){.tokens = shape.tokens, .ldh = shape.n_in + 3, .target = target, .lddh = shape.n_in + 1};
    t->args.w = (lod_weight){.packed = packed, .dtype = LOD_F32};
    t->args.h = check_floats("h", CHECK_IN, shape.tokens, shape.n_in, t->args.ldh);
}

static void run_head(head *t, unsigned threads, bool gradient) {
    lod_plan *plan;
    CHECK_THAT(lod_plan_loss(&t->shape, threads, LOD_ESTIMATE, &plan, NULL) == LOD_OK);
    size_t bytes = lod_plan_workspace(plan);
    void *workspace = check_operand("workspace", CHECK_OUT, 1, 1, bytes, bytes, 64);
    t->args.loss = check_floats("loss", CHECK_OUT, 1, t->shape.tokens, t->shape.tokens);
    t->args.dh = gradient ? check_floats("dh", CHECK_OUT, t->shape.tokens, t->shape.n_in, t->args.lddh) : NULL;
    CHECK_CALL(CHECK_THAT(lod_loss(plan, &t->args, workspace, NULL) == LOD_OK));
    lod_plan_free(plan);
}

// Logits err by gamma_n of their magnitudes; a loss by twice the worst of that, a probability relatively by as much;
// the rest is rounded on the way as the kernel's contract says.
static void check_head(const head *t) {
    const size_t tokens = t->shape.tokens, n = t->shape.n_in, vocabulary = t->shape.vocabulary;
    double *z = check_doubles(tokens * vocabulary), *magnitude = check_doubles(tokens * vocabulary);
    double *w_magnitude = check_doubles(vocabulary * n), *loss = check_doubles(tokens), *bound = check_doubles(tokens);
    double *dh = check_doubles(tokens * n), *dh_bound = check_doubles(tokens * n);
    for (size_t i = 0; i < vocabulary * n; i++) {
        w_magnitude[i] = fabs(t->w[i]);
    }
    lod_lowrank_tile_f64_args tile = {.m = tokens, .n = vocabulary, .k = n, .ldx = n, .w_row = 1, .w_col = n};
    tile.x = check_widen(t->args.h), tile.w = t->w, tile.first = true, tile.c = z, tile.ldc = vocabulary;
    lod_lowrank_tile_f64(&tile);
    tile.x = check_magnitudes(t->args.h), tile.w = w_magnitude, tile.c = magnitude;
    lod_lowrank_tile_f64(&tile);
    lod_xent_f64(&(lod_xent_f64_args){.rows = tokens,
                                      .n = vocabulary,
                                      .z = z,
                                      .ldz = vocabulary,
                                      .target = t->args.target,
                                      .loss = loss,
                                      .gradient = true});
    for (size_t i = 0; i < tokens; i++) {
        double worst = 0, *p = z + i * vocabulary;
        for (size_t j = 0; j < vocabulary; j++) {
            worst = fmax(worst, magnitude[i * vocabulary + j]);
        }
        // |z - max| <= 2 worst; exp's 2 u, the 16 lanes and their tree, the reciprocal and its product, the loss's own
        double roundings = 2 * worst + 2 + (double)(vocabulary + 15) / 16 + 4 + 2;
        double relative = 2 * worst * check_gamma((double)n) + 2 * check_gamma(roundings);
        bound[i] = relative + CHECK_U * (4 * worst + 2 * log((double)vocabulary));
        for (size_t d = 0; d < n; d++) {
            for (size_t j = 0; j < vocabulary; j++) {
                double probability = p[j] + (j == t->args.target[i]);
                double error = probability * relative + CHECK_U * fabs(p[j]);
                double product = fabs(p[j]) * w_magnitude[j * n + d];
                dh[i * n + d] += p[j] * t->w[j * n + d];
                dh_bound[i * n + d] += error * w_magnitude[j * n + d] + product * check_gamma((double)vocabulary);
            }
        }
    }
    check_near(t->args.loss, loss, bound);
    check_near(t->args.dh, dh, dh_bound);
}

CHECK_ONCE(loss_of_a_head, 0x9cad097b7dab2292) {
    static const lod_loss_shape shapes[] = {{.n_in = 1, .vocabulary = 2, .tokens = 1},
                                            {.n_in = 40, .vocabulary = 45, .tokens = 130},
                                            {.n_in = 33, .vocabulary = 1100, .tokens = 67},
                                            {.n_in = 5, .vocabulary = 7, .tokens = 2100}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        head t;
        make_head(&t, shapes[i]);
        run_head(&t, 1, true);
        check_head(&t);
        check_share(t.args.loss);
        check_share(t.args.dh);
        const float *loss = t.args.loss, *dh = t.args.dh;
        size_t loss_bytes = t.shape.tokens * sizeof *loss;
        size_t dh_bytes = ((t.shape.tokens - 1) * t.args.lddh + t.shape.n_in) * sizeof *dh;
        for (unsigned threads = 2; threads <= 5; threads++) {
            run_head(&t, threads, true);
            check_bytes_equal("loss", t.args.loss, loss, loss_bytes);
            check_bytes_equal("dh", t.args.dh, dh, dh_bytes);
        }
        run_head(&t, 2, false);
        check_bytes_equal("loss without gradient", t.args.loss, loss, loss_bytes);
    }
}
