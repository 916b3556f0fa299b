// The passes read top to bottom, one call a line, with the shape of what it writes (letters as in llama.h).
#include <math.h>
#include <string.h>

#include "library.h"
#include "llama_state.h"

// --- One operation each, on contiguous tensors ---

static lod_rmsnorm_args norm_args(const struct llama *l, size_t tokens, const float *x, const float *g, float *rstd) {
    size_t C = l->model->config.hidden_size;
    return (lod_rmsnorm_args){.tokens = tokens,
                              .width = C,
                              .eps = l->model->config.rms_norm_eps,
                              .x = x,
                              .ldx = C,
                              .g = g,
                              .rstd = rstd,
                              .ldy = C,
                              .lddy = C,
                              .lddx = C};
}

bool llama_norm(struct llama *l, size_t tokens, const float *x, const float *g, float *rstd, float *y, fault *f) {
    lod_rmsnorm_args args = norm_args(l, tokens, x, g, rstd);
    args.y = y;
    lod_error err;
    return library_done(lod_rmsnorm_forward(l->rowwise, &args, &err), &err, f);
}

bool llama_norm_backward(struct llama *l, size_t tokens, const float *x, const float *g, float *rstd, const float *dy,
                          const float *add, float *dx, fault *f) {
    lod_rmsnorm_args args = norm_args(l, tokens, x, g, rstd);
    args.dy = dy;
    args.add = add;
    args.dx = dx;
    lod_error err;
    return library_done(lod_rmsnorm_backward(l->rowwise, &args, &err), &err, f);
}

static bool add(struct llama *l, size_t count, const float *a, const float *b, float *y, fault *f) {
    lod_add_args args = {.count = count, .a = a, .b = b, .y = y};
    lod_error err;
    return library_done(lod_add(l->rowwise, &args, &err), &err, f);
}

// y = add + D x, or D x without add; x [T][width]. A pass without gradients drops nothing and may scale.
static bool drop(struct llama *l, const struct llama_batch *b, const lod_dropout *d, size_t width, const float *x,
                 const float *add, float *y, fault *f) {
    lod_dropout_add_args args = {.rows = b->rows,
                                 .width = width,
                                 .dropout = *d,
                                 .inference = l->limits.mode < LLAMA_BRANCH,
                                 .x = x,
                                 .ldx = width,
                                 .add = add,
                                 .y = y,
                                 .ldy = width};
    lod_error err;
    return library_done(lod_dropout_add(l->rowwise, &args, &err), &err, f);
}

// In place, where there is a dropout.
static bool drop_some(struct llama *l, const struct llama_batch *b, const lod_dropout *d, size_t width, float *x,
                      fault *f) {
    return d->p == 0 || drop(l, b, d, width, x, NULL, x, f);
}

// *d: the gradient of the residual stream [T][C] as it comes through the dropout of a sublayer's output.
static bool drop_gradient(struct llama *l, const struct llama_batch *b, const lod_dropout *dropout, const float **d,
                          fault *f) {
    *d = dropout->p > 0 ? l->dropped : l->dx;
    return dropout->p == 0 || drop(l, b, dropout, l->model->config.hidden_size, l->dx, NULL, l->dropped, f);
}

static bool rope(struct llama *l, const struct llama_batch *b, size_t heads, float *x, bool inverse, fault *f) {
    size_t D = l->model->config.head_dim;
    lod_rope_args args = {.tokens = llama_tokens(b),
                          .heads = heads,
                          .head_dim = D,
                          .x = x,
                          .ldx = heads * D,
                          .position = b->position,
                          .cosine = l->cosine,
                          .sine = l->sine,
                          .inverse = inverse};
    lod_error err;
    return library_done(lod_rope(l->rowwise, &args, &err), &err, f);
}

static lod_lowrank_args linear_args(struct llama *l, const struct llama_batch *b, unsigned layer, enum adapter_module i,
                                    const float *x) {
    size_t n_in, n_out;
    model_linear_shape(&l->model->config, i, &n_in, &n_out);
    lod_lowrank_args args = {.rows = b->rows,
                             .x = x,
                             .ldx = n_in,
                             .w = l->model->layers[layer].linear[i],
                             .ldy = n_out,
                             .lddy = n_out,
                             .lddx = n_in};
    struct lora_module *m = lora_find(l->lora, layer, i);
    if (m) {
        bool drops = l->limits.mode > LLAMA_FORWARD;
        args.rank = l->lora->rank;
        args.scale = l->lora->scale * (drops ? m->strength : m->mean);
        args.a = m->la;
        args.bt = m->bt;
        args.u = l->layers[layer].u[i];
        if (l->limits.mode >= LLAMA_BRANCH) {
            args.dropout = m->dropout;
        }
        if (drops) {
            args.lora_a = m->lora_a;
            args.lora_b = m->lora_b;
            args.lora_a.draw = args.lora_b.draw = b->step;
        }
        if (llama_trains(l)) {
            args.da = m->da;
            args.dbt = m->dbt;
            args.instances = m->sums > 1 ? m->sums : 0;
        }
    }
    return args;
}

static bool linear(struct llama *l, const struct llama_batch *b, unsigned layer, enum adapter_module i, const float *x,
                   float *y, fault *f) {
    lod_lowrank_args args = linear_args(l, b, layer, i, x);
    args.y = y;
    lod_error err;
    return library_done(lod_lowrank_forward(l->linear[i], &args, l->workspace, &err), &err, f);
}

// dx NULL: not wanted. x is read only where there is an adapter.
static bool linear_backward(struct llama *l, const struct llama_batch *b, unsigned layer, enum adapter_module i,
                            const float *x, const float *dy, float *dx, fault *f) {
    lod_lowrank_args args = linear_args(l, b, layer, i, x);
    if (!args.rank && !dx) {
        return true;
    }
    args.dy = dy;
    args.dx = dx;
    lod_error err;
    return library_done(lod_lowrank_backward(l->linear[i], &args, l->workspace, &err), &err, f);
}

static bool silu_mul(struct llama *l, size_t count, const struct layer_state *s, float *act, fault *f) {
    lod_silu_mul_args args = {.count = count, .gate = s->gate, .up = s->up, .y = act};
    lod_error err;
    return library_done(lod_silu_mul_forward(l->rowwise, &args, &err), &err, f);
}

// The gradients take the place of gate and up.
static bool silu_mul_backward(struct llama *l, size_t count, struct layer_state *s, const float *dact, fault *f) {
    lod_silu_mul_args args = {.count = count, .gate = s->gate, .up = s->up, .dy = dact, .dgate = s->gate, .dup = s->up};
    lod_error err;
    return library_done(lod_silu_mul_backward(l->rowwise, &args, &err), &err, f);
}

// Without its segments.
static lod_attention_args attention_args(const struct llama *l, unsigned layer) {
    const struct model_config *c = &l->model->config;
    const struct layer_state *s = &l->layers[layer];
    size_t queries = (size_t)c->heads * c->head_dim, keys = (size_t)c->kv_heads * c->head_dim;
    bool drops = l->limits.mode >= LLAMA_BRANCH;
    return (lod_attention_args){.causal = true,
                                .scale = 1 / sqrt((double)c->head_dim),
                                .dropout = drops ? llama_dropouts(l, layer)->attention : (lod_dropout){0},
                                .q = s->q,
                                .k = s->k,
                                .v = s->v,
                                .ldq = queries,
                                .ldk = keys,
                                .ldv = keys,
                                .o = s->o,
                                .ldo = queries,
                                .lse = s->lse,
                                .lse_visible = s->lse_visible};
}

// --- Attention of branches ---

// Puts tokens' keys and values [n][G][D] into the slots at row `to`.
static void fill_slots(struct llama *l, const struct layer_state *s, size_t from, size_t to, size_t n) {
    size_t width = (size_t)l->model->config.kv_heads * l->model->config.head_dim;
    memcpy(l->forward.slot_k + to * width, s->k + from * width, n * width * sizeof(float));
    memcpy(l->forward.slot_v + to * width, s->v + from * width, n * width * sizeof(float));
}

// A round: branch j's keys go behind its trunk's; the rest of its slot is a segment without queries.
static bool attend_round(struct llama *l, const struct llama_branches *b, unsigned layer, size_t round, fault *f) {
    const struct model_config *c = &l->model->config;
    const struct layer_state *s = &l->layers[layer];
    size_t *queries = l->forward.queries, *keys = l->forward.keys;
    const size_t *length = b->length + round * b->trunks;
    size_t first = b->round_start[round], at = first;
    queries[0] = keys[0] = 0;
    for (size_t j = 0; j < b->trunks; j++) {
        size_t trunk = b->trunk_start[j + 1] - b->trunk_start[j];
        fill_slots(l, s, at, b->slot_start[j] + trunk, length[j]);
        at += length[j];
        queries[2 * j + 1] = queries[2 * j + 2] = at - first;
        keys[2 * j + 1] = b->slot_start[j] + trunk + length[j];
        keys[2 * j + 2] = b->slot_start[j + 1];
    }
    lod_attention_args args = attention_args(l, layer);
    args.queries = (lod_rows){.count = 2 * b->trunks, .start = queries};
    args.keys = (lod_rows){.count = 2 * b->trunks, .start = keys};
    args.q += first * args.ldq;
    args.o += first * args.ldo;
    args.lse += first * c->heads;
    args.k = l->forward.slot_k;
    args.v = l->forward.slot_v;
    lod_error err;
    return library_done(lod_attention_forward(l->attention, &args, l->workspace, &err), &err, f);
}

static bool attend(struct llama *l, const struct llama_batch *b, unsigned layer, fault *f) {
    const struct llama_branches *branches = b->branches;
    lod_attention_args args = attention_args(l, layer);
    args.queries = args.keys =
        branches ? (lod_rows){.count = branches->trunks, .start = branches->trunk_start} : b->rows;
    lod_error err;
    if (!library_done(lod_attention_forward(l->attention, &args, l->workspace, &err), &err, f)) {
        return false;
    }
    for (size_t j = 0; branches && j < branches->trunks; j++) {
        size_t from = branches->trunk_start[j];
        fill_slots(l, &l->layers[layer], from, branches->slot_start[j], branches->trunk_start[j + 1] - from);
    }
    for (size_t round = 0; branches && round < branches->rounds; round++) {
        if (!attend_round(l, branches, layer, round, f)) {
            return false;
        }
    }
    return true;
}

// The tokens' keys go behind those of the sequence so far.
static bool attend_to_all(struct llama *l, const struct llama_batch *b, unsigned layer, fault *f) {
    const struct layer_state *s = &l->layers[layer];
    lod_attention_args args = attention_args(l, layer);
    const size_t tokens = llama_tokens(b), past = b->position[0];
    const size_t queries[2] = {0, tokens}, keys[2] = {0, past + tokens};
    memcpy(s->all_k + past * args.ldk, s->k, tokens * args.ldk * sizeof(float));
    memcpy(s->all_v + past * args.ldv, s->v, tokens * args.ldv * sizeof(float));
    args.queries = (lod_rows){.count = 1, .start = queries};
    args.keys = (lod_rows){.count = 1, .start = keys};
    args.k = s->all_k;
    args.v = s->all_v;
    lod_error err;
    return library_done(lod_attention_forward(l->attention, &args, l->workspace, &err), &err, f);
}

// --- Forward ---

// What the backward pass needs of a layer: all but the last product.
static bool layer_kept(struct llama *l, const struct llama_batch *b, unsigned layer, fault *f) {
    const struct model_config *c = &l->model->config;
    const struct model_layer *w = &l->model->layers[layer];
    struct layer_state *s = &l->layers[layer];
    const float *x = llama_input(l, layer); // [T][C]
    const lod_dropout *dropout = &llama_dropouts(l, layer)->attention_output;
    float *h = l->forward.h;
    size_t T = llama_tokens(b), C = c->hidden_size;
    return llama_norm(l, T, x, w->attention_norm, s->attention_rstd, h, f) && // h       [T][C]
           linear(l, b, layer, ADAPTER_Q_PROJ, h, s->q, f) &&           // q       [T][H][D]
           linear(l, b, layer, ADAPTER_K_PROJ, h, s->k, f) &&           // k       [T][G][D]
           linear(l, b, layer, ADAPTER_V_PROJ, h, s->v, f) &&           // v       [T][G][D]
           rope(l, b, c->heads, s->q, false, f) &&                      // q
           rope(l, b, c->kv_heads, s->k, false, f) &&                   // k
           (l->limits.continues ? attend_to_all : attend)(l, b, layer, f) && // o  [T][H][D]
           linear(l, b, layer, ADAPTER_O_PROJ, s->o, s->middle, f) &&   // middle  [T][C]
           drop(l, b, dropout, C, s->middle, x, s->middle, f) &&        // middle = x + D middle
           llama_norm(l, T, s->middle, w->mlp_norm, s->mlp_rstd, h, f) &&     // h       [T][C]
           linear(l, b, layer, ADAPTER_GATE_PROJ, h, s->gate, f) &&     // gate    [T][F]
           linear(l, b, layer, ADAPTER_UP_PROJ, h, s->up, f);           // up      [T][F]
}

static bool layer_forward(struct llama *l, const struct llama_batch *b, unsigned layer, fault *f) {
    struct layer_state *s = &l->layers[layer];
    const struct layer_dropouts *d = llama_dropouts(l, layer);
    float *next = l->x[layer + 1], *act = l->forward.act;
    size_t T = llama_tokens(b), C = l->model->config.hidden_size, F = l->model->config.intermediate_size;
    return layer_kept(l, b, layer, f) && silu_mul(l, T * F, s, act, f) && // act   [T][F]
           drop_some(l, b, &d->ffn_middle, F, act, f) &&                  // act = D act
           linear(l, b, layer, ADAPTER_DOWN_PROJ, act, next, f) &&        // next  [T][C]
           drop(l, b, &d->ffn_output, C, next, s->middle, next, f);       // next = middle + D next
}

static bool layers_forward(struct llama *l, const struct llama_batch *b, unsigned first, unsigned end, fault *f) {
    for (unsigned layer = first; layer < end; layer++) {
        if (!layer_forward(l, b, layer, f)) {
            return false;
        }
    }
    return true;
}

bool llama_fork(struct llama *l, const struct llama_batch *b, fault *f) {
    size_t C = l->model->config.hidden_size, T = llama_tokens(b);
    const struct layer_dropouts *first = llama_dropouts(l, 0);
    for (size_t t = 0; l->stacked && t < T; t += l->shared) {
        memcpy(l->stacked + t * C, l->x[l->fork], l->shared * C * sizeof(float));
    }
    return (l->fork > 0 || drop_some(l, b, &first->embedding, C, llama_input(l, 0), f)) &&
           layers_forward(l, b, l->fork, l->model->config.layers, f);
}

// Every instance of the batch, its last hidden states behind those of the one before.
static bool run_ensemble(struct llama *l, const struct llama_batch *b, fault *f) {
    const struct model_config *c = &l->model->config;
    struct llama_batch one = *b;
    for (size_t k = 0; l->forks && k < l->lora->instances; k++) {
        one.rows.instance = memset(l->instance, (int)k, b->rows.count);
        l->x[c->layers] = l->outputs + k * l->rows * c->hidden_size;
        if (!llama_fork(l, &one, f)) {
            return false;
        }
    }
    return true;
}

bool llama_forward(struct llama *l, const struct llama_batch *b, fault *f) {
    const struct model_config *c = &l->model->config;
    size_t T = llama_tokens(b), C = c->hidden_size;
    model_embed(l->model, T, b->token, l->x[0]); // x  [T][C]
    l->shared = T;
    l->joined = 0;
    return (l->fork == 0 || drop_some(l, b, &llama_dropouts(l, 0)->embedding, C, l->x[0], f)) && // x = D x
           layers_forward(l, b, 0, l->fork, f) && (l->limits.mode != LLAMA_ENSEMBLE || run_ensemble(l, b, f));
}

// The layers below the first mask are those of the first branch.
bool llama_branch_forward(struct llama *l, const struct llama_batch *b, fault *f) {
    struct llama *other = l->branch;
    struct llama_batch second = *b;
    second.rows.instance = memset(other->instance, 1, b->rows.count); // scratch, too: every time
    if (llama_dropouts(l, 0)->embedding.p > 0) {
        return llama_forward(other, &second, f);
    }
    unsigned first = l->lora->fork;
    memcpy(other->x[first], l->x[first], llama_tokens(b) * l->model->config.hidden_size * sizeof(float));
    return layers_forward(other, &second, first, l->model->config.layers, f);
}

// --- Backward ---

// dx: on entry the gradient of the layer's output, on return that of `middle`, which is only computed where wanted.
static bool mlp_backward(struct llama *l, const struct llama_batch *b, unsigned layer, bool wanted, fault *f) {
    const struct model_layer *w = &l->model->layers[layer];
    struct layer_state *s = &l->layers[layer];
    struct mlp_scratch *m = &l->mlp;
    size_t T = llama_tokens(b), C = l->model->config.hidden_size, F = l->model->config.intermediate_size;
    bool gate = lora_find(l->lora, layer, ADAPTER_GATE_PROJ), up = lora_find(l->lora, layer, ADAPTER_UP_PROJ);
    bool down = lora_find(l->lora, layer, ADAPTER_DOWN_PROJ), inside = wanted || gate || up;
    float *dact = inside ? m->dact : NULL, *dh = wanted ? m->dh : NULL, *partial = wanted ? m->partial : NULL;
    const struct layer_dropouts *d = llama_dropouts(l, layer);
    const float *dy;

    if ((down && (!silu_mul(l, T * F, s, m->act, f) ||                          // act [T][F]
                  !drop_some(l, b, &d->ffn_middle, F, m->act, f))) ||           // act = D act
        !drop_gradient(l, b, &d->ffn_output, &dy, f) ||                         // dy [T][C]
        !linear_backward(l, b, layer, ADAPTER_DOWN_PROJ, m->act, dy, dact, f) || // dact [T][F]
        (inside && (!drop_some(l, b, &d->ffn_middle, F, dact, f) ||             // dact = D dact
                    !silu_mul_backward(l, T * F, s, dact, f)))) {               // dgate, dup [T][F]
        return false;
    }
    return ((!gate && !up) || llama_norm(l, T, s->middle, w->mlp_norm, s->mlp_rstd, m->h, f)) && // h [T][C]
           linear_backward(l, b, layer, ADAPTER_GATE_PROJ, m->h, s->gate, dh, f) &&        // dh [T][C]
           linear_backward(l, b, layer, ADAPTER_UP_PROJ, m->h, s->up, partial, f) &&       // partial [T][C]
           (!wanted || (add(l, T * C, dh, partial, dh, f) &&                               // dh += partial
                        llama_norm_backward(l, T, s->middle, w->mlp_norm, s->mlp_rstd, dh, l->dx, l->dx, f)));
}

static bool attend_backward(struct llama *l, const struct llama_batch *b, unsigned layer, fault *f) {
    const struct model_config *c = &l->model->config;
    lod_attention_args args = attention_args(l, layer);
    args.queries = args.keys = b->rows;
    args.d_o = l->attend.d_o;
    args.dq = l->attend.dq;
    args.dk = l->attend.dk;
    args.dv = l->attend.dv;
    lod_error err;
    return library_done(lod_attention_backward(l->attention, &args, l->workspace, &err), &err, f) &&
           rope(l, b, c->heads, args.dq, true, f) && rope(l, b, c->kv_heads, args.dk, true, f);
}

// dx: on entry the gradient of `middle`, on return that of the layer's input, which is only computed where wanted.
static bool attention_backward(struct llama *l, const struct llama_batch *b, unsigned layer, bool wanted, fault *f) {
    const struct model_layer *w = &l->model->layers[layer];
    struct layer_state *s = &l->layers[layer];
    struct attention_scratch *a = &l->attend;
    const float *x = llama_input(l, layer);
    size_t T = llama_tokens(b), C = l->model->config.hidden_size;
    bool adapted = lora_find(l->lora, layer, ADAPTER_Q_PROJ) || lora_find(l->lora, layer, ADAPTER_K_PROJ) ||
                   lora_find(l->lora, layer, ADAPTER_V_PROJ);
    bool inside = wanted || adapted;
    float *d_o = inside ? a->d_o : NULL, *dh = wanted ? a->dh : NULL, *partial = wanted ? a->partial : NULL;
    const float *dy;

    if (!drop_gradient(l, b, &llama_dropouts(l, layer)->attention_output, &dy, f) || // dy [T][C]
        !linear_backward(l, b, layer, ADAPTER_O_PROJ, s->o, dy, d_o, f) ||           // d_o [T][H][D]
        (inside && !attend_backward(l, b, layer, f))) {                              // dq [T][H][D], dk, dv [T][G][D]
        return false;
    }
    return (!adapted || llama_norm(l, T, x, w->attention_norm, s->attention_rstd, a->h, f)) && // h [T][C]
           linear_backward(l, b, layer, ADAPTER_Q_PROJ, a->h, a->dq, dh, f) &&           // dh [T][C]
           linear_backward(l, b, layer, ADAPTER_K_PROJ, a->h, a->dk, partial, f) &&      // partial [T][C]
           (!wanted || add(l, T * C, dh, partial, dh, f)) &&                             // dh += partial
           linear_backward(l, b, layer, ADAPTER_V_PROJ, a->h, a->dv, partial, f) &&      // partial [T][C]
           (!wanted || (add(l, T * C, dh, partial, dh, f) &&                             // dh += partial
                        llama_norm_backward(l, T, x, w->attention_norm, s->attention_rstd, dh, l->dx, l->dx, f)));
}

// The tensors of layer `layer` are those of the layer above when only inputs are kept: computes them again. The last
// product is computed only where its adapter's gradient needs U.
static bool recompute(struct llama *l, const struct llama_batch *b, unsigned layer, fault *f) {
    return lora_find(l->lora, layer, ADAPTER_DOWN_PROJ) ? layer_forward(l, b, layer, f) : layer_kept(l, b, layer, f);
}

// From the output of layer `end` - 1 to the input of layer `to`, or down to the lowest adapter.
static bool backward_layers(struct llama *l, const struct llama_batch *b, unsigned end, unsigned to, fault *f) {
    const unsigned attention =
        1u << ADAPTER_Q_PROJ | 1u << ADAPTER_K_PROJ | 1u << ADAPTER_V_PROJ | 1u << ADAPTER_O_PROJ;
    unsigned top = l->model->config.layers - 1, lowest = llama_lowest(l);
    for (unsigned layer = end; layer-- > (to > lowest ? to : lowest);) {
        bool below = layer > lowest, inside = below || l->lora->modules & attention;
        if ((l->limits.mode == LLAMA_RECOMPUTE && layer < top && !recompute(l, b, layer, f)) ||
            !mlp_backward(l, b, layer, inside, f) || (inside && !attention_backward(l, b, layer, below, f))) {
            return false;
        }
    }
    return true;
}

// The gradients at the fork add up, instance by instance.
static bool join(struct llama *l, const struct llama_batch *b, fault *f) {
    size_t count = l->shared * l->model->config.hidden_size;
    for (size_t t = 0; l->join && t < llama_tokens(b); t += l->shared) {
        const float *dx = l->dx + t * l->model->config.hidden_size;
        if (l->joined++ == 0) {
            memcpy(l->join, dx, count * sizeof(float));
        } else if (!add(l, count, l->join, dx, l->join, f)) {
            return false;
        }
    }
    return true;
}

bool llama_backward(struct llama *l, const struct llama_batch *b, fault *f) {
    return backward_layers(l, b, l->model->config.layers, l->forks ? l->fork : 0, f) && join(l, b, f);
}

bool llama_join(struct llama *l, const struct llama_batch *b, fault *f) {
    if (!l->join) {
        return true;
    }
    memcpy(l->dx, l->join, llama_tokens(b) * l->model->config.hidden_size * sizeof(float));
    return backward_layers(l, b, l->fork, 0, f);
}
