#include "model_f64.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "philox.h"
#include "ref/ref.h"

enum { Q, K, V, O, GATE, UP, DOWN };

// What a layer keeps for its backward pass.
typedef struct kept {
    double *in, *attention_in, *q, *k, *v, *o, *lse; // [T][C], [T][C], [T][H][D], [T][G][D] twice, [T][H][D], [T][H]
    double *mid, *mlp_in, *gate, *up, *product;      // [T][C], [T][C], [T][F] three times
    double *attention_rstd, *mlp_rstd;               // [T]
    double *u[MODEL_MODULES];                        // [T][r]
    uint8_t *keep[MODEL_MODULES];                    // [T][keep_bytes] bits
} kept;

typedef struct pass {
    const model_f64 *m;
    const model_batch *b;
    size_t tokens;
    double inv;
    kept *layer;
    double *hidden;                          // [T][C], the stream
    double *picked, *normed, *rstd, *logits; // [N][C] twice, [N], [N][V]
    void **memory;
    size_t count;
} pass;

// Zeroed memory that lives as long as the pass.
static void *take(pass *p, size_t count, size_t size) {
    void *memory = calloc(count + 1, size);
    void **list = realloc(p->memory, (p->count + 1) * sizeof *list);
    if (!memory || !list) {
        abort();
    }
    p->memory = list;
    return p->memory[p->count++] = memory;
}

static double *doubles(pass *p, size_t count) {
    return take(p, count, sizeof(double));
}

// --- linear layers ---

static size_t keep_bytes(const model_linear *l) {
    return (l->n_in + 127) / 128 * 16;
}

static uint8_t *draw_masks(pass *p, const model_linear *l, size_t layer, int module) {
    const lod_rows *rows = &p->b->rows;
    uint8_t *keep = take(p, p->tokens * keep_bytes(l), 1);
    for (size_t i = 0; i < rows->count; i++) {
        uint32_t instance = rows->instance ? rows->instance[i] : 0, site;
        lod_site(LOD_DOMAIN_TRAIN, (unsigned)layer, LOD_POSITION_LORA_INPUT + (unsigned)module, instance, 0, &site,
                 NULL);
        lod_keep_bits__ref(&(lod_keep_bits_args){
            .rows = rows->start[i + 1] - rows->start[i],
            .n = l->n_in,
            .seed = p->m->seed,
            .site = site,
            .draw = rows->draw[i],
            .threshold = lod_mask_threshold(p->m->p),
            .bits = keep + rows->start[i] * keep_bytes(l),
            .ldbits = keep_bytes(l),
        });
    }
    return keep;
}

// Keep bits of a segment's tokens [tokens][ldbits], or of all of them in one row (column).
static void draw_segment(const lod_dropout *d, uint32_t site, uint32_t draw, size_t tokens, size_t n, uint8_t *bits) {
    size_t ldbits = (n + 127) / 128 * 16, start, count;
    if (d->pattern == LOD_PATTERN_SPAN) {
        lod_mask_span(d->seed, site, draw, d->p, tokens, &start, &count, NULL);
        memset(bits, 0xff, tokens * ldbits);
        memset(bits + start * ldbits, 0, count * ldbits);
        return;
    }
    lod_keep_bits__ref(&(lod_keep_bits_args){.rows = d->pattern == LOD_PATTERN_COLUMN ? 1 : tokens,
                                             .n = n,
                                             .seed = d->seed,
                                             .site = site,
                                             .draw = draw,
                                             .threshold = lod_mask_threshold(d->p),
                                             .bits = bits,
                                             .ldbits = ldbits});
}

// x [r][n], a matrix or its gradient, without what is dropped of it: a new one.
static double *masked(pass *p, const lod_dropout *d, size_t rank, size_t n, const double *x) {
    double *y = doubles(p, rank * n), inv = 1;
    uint8_t *bits = take(p, (n + 127) / 128 * 16, 1);
    uint32_t instance = p->b->rows.instance ? p->b->rows.instance[0] : 0;
    if (d->p > 0) {
        draw_segment(d, d->site | instance << LOD_SITE_INSTANCE_BIT, p->b->step, 1, n, bits);
    }
    if (d->compensation == LOD_COMPENSATION_INVERTED) {
        inv = 1 / (1 - lod_mask_threshold(d->p) / 65536.0);
    }
    for (size_t i = 0; i < rank * n; i++) {
        size_t column = i % n;
        y[i] = d->p == 0 || bits[column / 8] >> column % 8 & 1 ? x[i] * inv : 0;
    }
    return y;
}

// y = x W' + U B', U = scale inv (M x) A'.
static void linear(pass *p, size_t layer, int module, const double *x, double *y) {
    const model_linear *l = &p->m->layer[layer].linear[module];
    kept *s = &p->layer[layer];
    if (l->rank) {
        s->keep[module] = p->m->p > 0 ? draw_masks(p, l, layer, module) : NULL;
        s->u[module] = doubles(p, p->tokens * l->rank);
        lod_rank_dot_f64_args dot = {.tokens = p->tokens, .n = l->n_in, .r = l->rank, .x = x, .ldx = l->n_in};
        dot.keep = s->keep[module], dot.ldkeep = keep_bytes(l), dot.a = masked(p, &l->lora_a, l->rank, l->n_in, l->a);
        dot.lda = l->n_in;
        dot.scale = p->m->lora_scale * p->inv, dot.u = s->u[module], dot.ldu = l->rank;
        lod_rank_dot_f64(&dot);
    }
    lod_lowrank_tile_f64_args tile = {
        .m = p->tokens, .n = l->n_out, .k = l->n_in, .r = l->rank, .x = x, .ldx = l->n_in};
    tile.w = l->w, tile.w_row = 1, tile.w_col = l->n_in, tile.u = s->u[module], tile.ldu = l->rank;
    tile.b = masked(p, &l->lora_b, l->rank, l->n_out, l->bt), tile.ldb = l->n_out;
    tile.first = true, tile.c = y, tile.ldc = l->n_out;
    lod_lowrank_tile_f64(&tile);
}

// dx += dy W + inv (M * (dU A)), dU = scale dy B; gradients of A and B.
static void linear_backward(pass *p, size_t layer, int module, const double *x, const double *dy, double *dx) {
    const model_linear *l = &p->m->layer[layer].linear[module];
    const kept *s = &p->layer[layer];
    const uint8_t *keep = s->keep[module];
    double *du = doubles(p, p->tokens * l->rank), *own = doubles(p, p->tokens * l->n_in);
    lod_rank_dot_f64_args dot = {.tokens = p->tokens, .n = l->n_out, .r = l->rank, .x = dy, .ldx = l->n_out};
    dot.a = masked(p, &l->lora_b, l->rank, l->n_out, l->bt), dot.lda = l->n_out;
    dot.scale = p->m->lora_scale, dot.u = du, dot.ldu = l->rank;
    lod_rank_dot_f64(&dot);
    lod_lowrank_tile_f64_args tile = {.m = p->tokens, .n = l->n_in, .k = l->n_out, .r = l->rank, .x = dy};
    tile.ldx = l->n_out, tile.w = l->w, tile.w_row = l->n_in, tile.w_col = 1, tile.u = du, tile.ldu = l->rank;
    tile.b = masked(p, &l->lora_a, l->rank, l->n_in, l->a), tile.ldb = l->n_in;
    tile.keep = keep, tile.ldkeep = keep_bytes(l), tile.inv = p->inv;
    tile.first = true, tile.c = own, tile.ldc = l->n_in;
    lod_lowrank_tile_f64(&tile);
    lod_add_f64(&(lod_add_f64_args){.n = p->tokens * l->n_in, .a = dx, .b = own, .y = dx});
    lod_rank_grad_f64_args grad = {.tokens = p->tokens, .n = l->n_in, .r = l->rank, .s = du, .lds = l->rank, .x = x};
    grad.ldx = grad.ldg = l->n_in, grad.keep = keep, grad.ldkeep = keep_bytes(l), grad.scale = p->inv, grad.g = l->da;
    lod_rank_grad_f64(&grad);
    grad.n = grad.ldx = grad.ldg = l->n_out, grad.s = s->u[module], grad.x = dy, grad.keep = NULL;
    grad.scale = 1, grad.g = l->dbt;
    lod_rank_grad_f64(&grad);
    memcpy(l->da, masked(p, &l->lora_a, l->rank, l->n_in, l->da), l->rank * l->n_in * sizeof(double));
    memcpy(l->dbt, masked(p, &l->lora_b, l->rank, l->n_out, l->dbt), l->rank * l->n_out * sizeof(double));
}

// --- dropout of activations ---

// y = add + D x, or D x without add; [T][n]. y may be x.
static void drop(pass *p, const lod_dropout *d, size_t n, const double *x, const double *add, double *y) {
    const lod_rows *rows = &p->b->rows;
    size_t ldbits = (n + 127) / 128 * 16;
    uint8_t *bits = d->p > 0 ? take(p, p->tokens * ldbits, 1) : NULL;
    bool inverted = d->compensation == LOD_COMPENSATION_INVERTED;
    for (size_t i = 0; i < rows->count; i++) {
        size_t at = rows->start[i] * n, tokens = rows->start[i + 1] - rows->start[i];
        lod_dropout_add_f64_args a = {.rows = tokens, .n = n, .x = x + at, .ldx = n, .y = y + at, .ldy = n};
        a.add = add ? add + at : NULL, a.keep = bits, a.scale = 1;
        if (d->p > 0) {
            uint32_t instance = rows->instance ? rows->instance[i] : 0;
            draw_segment(d, d->site | instance << LOD_SITE_INSTANCE_BIT, rows->draw[i], tokens, n, bits);
            a.ldkeep = d->pattern == LOD_PATTERN_COLUMN ? 0 : ldbits;
            a.scale = inverted ? 1 / (1 - lod_mask_threshold(d->p) / 65536.0) : 1;
        }
        lod_dropout_add_f64(&a);
    }
}

// --- the other operations, over all tokens ---

static void norm(const pass *p, size_t rows, const double *x, const double *g, double *rstd, double *y) {
    size_t n = p->m->width;
    lod_rmsnorm_fwd_f64(&(lod_rmsnorm_fwd_f64_args){
        .rows = rows, .n = n, .x = x, .ldx = n, .g = g, .eps = p->m->eps, .rstd = rstd, .y = y, .ldy = n});
}

// dx = add + the gradient at x; dx may be add.
static void norm_backward(const pass *p, size_t rows, const double *x, const double *g, const double *rstd,
                          const double *dy, const double *add, double *dx) {
    size_t n = p->m->width;
    lod_rmsnorm_bwd_f64_args a = {.rows = rows, .n = n, .x = x, .ldx = n, .g = g, .rstd = rstd, .dy = dy, .lddy = n};
    a.add = add, a.dx = dx, a.lddx = n;
    lod_rmsnorm_bwd_f64(&a);
}

static void rope(const pass *p, size_t heads, double *x, bool inverse) {
    lod_rope_f64_args a = {.rows = p->tokens, .heads = heads, .head_dim = p->m->head_dim, .x = x, .inverse = inverse};
    a.ldx = heads * a.head_dim, a.position = p->b->position, a.cosine = p->m->cosine, a.sine = p->m->sine;
    lod_rope_f64(&a);
}

// The query of one head at token t, whose segment starts at `first`.
static lod_attention_fwd_f64_args query(const pass *p, const kept *s, size_t first, size_t t, size_t head) {
    const model_f64 *m = p->m;
    size_t d = m->head_dim, kv = first * m->kv_heads * d + head / (m->heads / m->kv_heads) * d;
    return (lod_attention_fwd_f64_args){
        .head_dim = d,
        .keys = t - first + 1,
        .q = s->q + (t * m->heads + head) * d,
        .k = s->k + kv,
        .v = s->v + kv,
        .ldk = m->kv_heads * d,
        .ldv = m->kv_heads * d,
        .scale = 1 / sqrt((double)d),
        .o = s->o + (t * m->heads + head) * d,
        .lse = &s->lse[t * m->heads + head],
    };
}

static void attention(pass *p, const kept *s) {
    const lod_rows *rows = &p->b->rows;
    double *scratch = doubles(p, p->tokens);
    for (size_t i = 0; i < rows->count; i++) {
        for (size_t t = rows->start[i]; t < rows->start[i + 1]; t++) {
            for (size_t head = 0; head < p->m->heads; head++) {
                lod_attention_fwd_f64_args a = query(p, s, rows->start[i], t, head);
                a.scratch = scratch;
                lod_attention_fwd_f64(&a);
            }
        }
    }
}

static void attention_backward(const pass *p, const kept *s, const double *d_o, double *dq, double *dk, double *dv) {
    const lod_rows *rows = &p->b->rows;
    for (size_t i = 0; i < rows->count; i++) {
        for (size_t t = rows->start[i]; t < rows->start[i + 1]; t++) {
            for (size_t head = 0; head < p->m->heads; head++) {
                lod_attention_fwd_f64_args a = query(p, s, rows->start[i], t, head);
                lod_attention_bwd_f64_args g = {.head_dim = a.head_dim, .keys = a.keys, .q = a.q, .k = a.k, .v = a.v};
                g.ldk = a.ldk, g.ldv = a.ldv, g.scale = a.scale, g.o = a.o, g.lse = *a.lse, g.d_o = d_o + (a.q - s->q);
                g.dq = dq + (a.q - s->q), g.dk = dk + (a.k - s->k), g.dv = dv + (a.v - s->v);
                lod_attention_bwd_f64(&g);
            }
        }
    }
}

// --- a layer ---

static void layer_forward(pass *p, size_t layer) {
    const model_f64 *m = p->m;
    const model_layer_f64 *l = &m->layer[layer];
    kept *s = &p->layer[layer];
    size_t stream = p->tokens * m->width, queries = p->tokens * m->heads * m->head_dim;
    size_t keys = p->tokens * m->kv_heads * m->head_dim, middle = p->tokens * m->middle;
    s->in = memcpy(doubles(p, stream), p->hidden, stream * sizeof(double));
    s->attention_in = doubles(p, stream), s->attention_rstd = doubles(p, p->tokens);
    s->q = doubles(p, queries), s->k = doubles(p, keys), s->v = doubles(p, keys);
    s->o = doubles(p, queries), s->lse = doubles(p, p->tokens * m->heads), s->mid = doubles(p, stream);
    s->mlp_in = doubles(p, stream), s->mlp_rstd = doubles(p, p->tokens);
    s->gate = doubles(p, middle), s->up = doubles(p, middle), s->product = doubles(p, middle);
    norm(p, p->tokens, s->in, l->attention_norm, s->attention_rstd, s->attention_in);
    linear(p, layer, Q, s->attention_in, s->q);
    linear(p, layer, K, s->attention_in, s->k);
    linear(p, layer, V, s->attention_in, s->v);
    rope(p, m->heads, s->q, false);
    rope(p, m->kv_heads, s->k, false);
    attention(p, s);
    linear(p, layer, O, s->o, s->mid);
    drop(p, &l->attention_output, m->width, s->mid, s->in, s->mid);
    norm(p, p->tokens, s->mid, l->mlp_norm, s->mlp_rstd, s->mlp_in);
    linear(p, layer, GATE, s->mlp_in, s->gate);
    linear(p, layer, UP, s->mlp_in, s->up);
    lod_silu_mul_fwd_f64(&(lod_silu_mul_fwd_f64_args){.n = middle, .gate = s->gate, .up = s->up, .y = s->product});
    drop(p, &l->ffn_middle, m->middle, s->product, NULL, s->product);
    linear(p, layer, DOWN, s->product, p->hidden);
    drop(p, &l->ffn_output, m->width, p->hidden, s->mid, p->hidden);
}

// d: the gradient of the layer's output, then of its input.
static void layer_backward(pass *p, size_t layer, double *d) {
    const model_f64 *m = p->m;
    const model_layer_f64 *l = &m->layer[layer];
    const kept *s = &p->layer[layer];
    size_t stream = p->tokens * m->width, queries = p->tokens * m->heads * m->head_dim;
    size_t keys = p->tokens * m->kv_heads * m->head_dim, middle = p->tokens * m->middle;
    double *dproduct = doubles(p, middle), *dgate = doubles(p, middle), *dup = doubles(p, middle);
    double *dmlp = doubles(p, stream), *dattention = doubles(p, stream), *dy = doubles(p, stream);
    double *d_o = doubles(p, queries), *dq = doubles(p, queries), *dk = doubles(p, keys), *dv = doubles(p, keys);
    drop(p, &l->ffn_output, m->width, d, NULL, dy);
    linear_backward(p, layer, DOWN, s->product, dy, dproduct);
    drop(p, &l->ffn_middle, m->middle, dproduct, NULL, dproduct);
    lod_silu_mul_bwd_f64(&(lod_silu_mul_bwd_f64_args){
        .n = middle, .gate = s->gate, .up = s->up, .dy = dproduct, .dgate = dgate, .dup = dup});
    linear_backward(p, layer, GATE, s->mlp_in, dgate, dmlp);
    linear_backward(p, layer, UP, s->mlp_in, dup, dmlp);
    norm_backward(p, p->tokens, s->mid, l->mlp_norm, s->mlp_rstd, dmlp, d, d);
    drop(p, &l->attention_output, m->width, d, NULL, dy);
    linear_backward(p, layer, O, s->o, dy, d_o);
    attention_backward(p, s, d_o, dq, dk, dv);
    rope(p, m->heads, dq, true);
    rope(p, m->kv_heads, dk, true);
    linear_backward(p, layer, Q, s->attention_in, dq, dattention);
    linear_backward(p, layer, K, s->attention_in, dk, dattention);
    linear_backward(p, layer, V, s->attention_in, dv, dattention);
    norm_backward(p, p->tokens, s->in, l->attention_norm, s->attention_rstd, dattention, d, d);
}

// --- the model ---

static double forward(pass *p, bool gradient, double *loss) {
    const model_f64 *m = p->m;
    const model_batch *b = p->b;
    size_t n = b->targets, row = m->width * sizeof(double);
    p->tokens = b->rows.start[b->rows.count];
    p->inv = 1 / (1 - lod_mask_threshold(m->p) / 65536.0);
    p->layer = take(p, m->layers, sizeof *p->layer);
    p->hidden = doubles(p, p->tokens * m->width);
    p->picked = doubles(p, n * m->width), p->normed = doubles(p, n * m->width), p->rstd = doubles(p, n);
    p->logits = doubles(p, n * m->vocabulary);
    for (size_t t = 0; t < p->tokens; t++) {
        memcpy(p->hidden + t * m->width, m->vectors + b->token[t] * m->width, row);
    }
    drop(p, &m->embedding, m->width, p->hidden, NULL, p->hidden);
    for (size_t layer = 0; layer < m->layers; layer++) {
        layer_forward(p, layer);
    }
    for (size_t i = 0; i < n; i++) {
        memcpy(p->picked + i * m->width, p->hidden + b->row[i] * m->width, row);
    }
    norm(p, n, p->picked, m->final_norm, p->rstd, p->normed);
    lod_lowrank_tile_f64_args tile = {.m = n, .n = m->vocabulary, .k = m->width, .x = p->normed, .ldx = m->width};
    tile.w = m->head, tile.w_row = 1, tile.w_col = m->width, tile.first = true, tile.c = p->logits;
    tile.ldc = m->vocabulary;
    lod_lowrank_tile_f64(&tile);
    lod_xent_f64_args xent = {.rows = n, .n = m->vocabulary, .z = p->logits, .ldz = m->vocabulary, .target = b->target};
    xent.loss = loss, xent.gradient = gradient;
    lod_xent_f64(&xent);
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += loss[i];
    }
    return sum;
}

static void backward(pass *p) {
    const model_f64 *m = p->m;
    size_t n = p->b->targets;
    double *dnormed = doubles(p, n * m->width), *dpicked = doubles(p, n * m->width);
    double *d = doubles(p, p->tokens * m->width);
    lod_lowrank_tile_f64_args tile = {.m = n, .n = m->width, .k = m->vocabulary, .x = p->logits, .ldx = m->vocabulary};
    tile.w = m->head, tile.w_row = m->width, tile.w_col = 1, tile.first = true, tile.c = dnormed, tile.ldc = m->width;
    lod_lowrank_tile_f64(&tile);
    norm_backward(p, n, p->picked, m->final_norm, p->rstd, dnormed, NULL, dpicked);
    for (size_t i = 0; i < n; i++) {
        double *to = d + p->b->row[i] * m->width;
        lod_add_f64(&(lod_add_f64_args){.n = m->width, .a = to, .b = dpicked + i * m->width, .y = to});
    }
    for (size_t layer = m->layers; layer-- > 0;) {
        layer_backward(p, layer, d);
    }
}

static double run(const model_f64 *m, const model_batch *b, bool gradient, double *loss) {
    pass p = {.m = m, .b = b};
    double sum = forward(&p, gradient, loss);
    if (gradient) {
        backward(&p);
    }
    while (p.count > 0) {
        free(p.memory[--p.count]);
    }
    free(p.memory);
    return sum;
}

double model_f64_loss(const model_f64 *m, const model_batch *b, double *loss) {
    return run(m, b, false, loss);
}

double model_f64_gradients(const model_f64 *m, const model_batch *b, double *loss) {
    return run(m, b, true, loss);
}
