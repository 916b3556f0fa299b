#include "llama_state.h"

#include <stdlib.h>
#include <string.h>

#include "arena.h"
#include "library.h"

bool llama_trains(const struct llama *l) {
    return l->limits.mode == LLAMA_KEEP || l->limits.mode == LLAMA_RECOMPUTE;
}

const struct layer_dropouts *llama_dropouts(const struct llama *l, unsigned layer) {
    static const struct layer_dropouts none;
    return l->lora && l->lora->dropouts ? &l->lora->dropouts[layer] : &none;
}

static bool needs_visible(const struct llama *l) {
    for (unsigned i = 0; l->limits.mode != LLAMA_FORWARD && i < l->model->config.layers; i++) {
        if (llama_dropouts(l, i)->attention.compensation == LOD_COMPENSATION_RENORMALISE_NOGRAD) {
            return true;
        }
    }
    return false;
}

static bool drops_outputs(const struct llama *l) {
    for (unsigned i = 0; i < l->model->config.layers; i++) {
        const struct layer_dropouts *d = llama_dropouts(l, i);
        if (d->attention_output.p > 0 || d->ffn_output.p > 0) {
            return true;
        }
    }
    return false;
}

// Attention of one layer and its MLP never need their tensors at the same time unless something is kept.
static void take_layer(struct llama *l, struct arena *a, struct layer_state *s) {
    const struct model_config *c = &l->model->config;
    size_t T = l->limits.tokens, queries = (size_t)c->heads * c->head_dim, keys = (size_t)c->kv_heads * c->head_dim;
    s->attention_rstd = arena_floats(a, 1, T);
    s->mlp_rstd = arena_floats(a, 1, T);
    s->middle = arena_floats(a, T, c->hidden_size);
    for (enum adapter_module i = 0; i < ADAPTER_MODULES; i++) {
        bool adapted = l->lora && l->lora->modules >> i & 1;
        s->u[i] = adapted ? arena_floats(a, T, l->lora->rank) : NULL;
    }
    size_t mark = a->used;
    s->q = arena_floats(a, T, queries);
    s->k = arena_floats(a, T, keys);
    s->v = arena_floats(a, T, keys);
    s->o = arena_floats(a, T, queries);
    s->lse = arena_floats(a, T, c->heads);
    s->lse_visible = needs_visible(l) ? arena_floats(a, T, c->heads) : NULL;
    size_t attention_end = a->used;
    if (!llama_trains(l)) {
        arena_rewind(a, mark);
    }
    s->gate = arena_floats(a, T, c->intermediate_size);
    s->up = arena_floats(a, T, c->intermediate_size);
    if (a->used < attention_end) {
        arena_rewind(a, attention_end);
    }
}

static void take_layers(struct llama *l, struct arena *a) {
    const struct model_config *c = &l->model->config;
    size_t distinct = llama_trains(l) ? (size_t)c->layers + 1 : 2;
    for (size_t i = 0; i <= c->layers; i++) {
        l->x[i] = i < distinct ? arena_floats(a, l->limits.tokens, c->hidden_size) : l->x[i - 2];
    }
    for (size_t i = 0; i < c->layers; i++) {
        if (i == 0 || l->limits.mode == LLAMA_KEEP) {
            take_layer(l, a, &l->layers[i]);
        } else {
            l->layers[i] = l->layers[0];
        }
    }
}

static void take_forward_scratch(struct llama *l, struct arena *a) {
    const struct model_config *c = &l->model->config;
    struct forward_scratch *s = &l->forward;
    size_t T = l->limits.tokens, keys = (size_t)c->kv_heads * c->head_dim;
    s->h = arena_floats(a, T, c->hidden_size);
    size_t mark = a->used;
    s->act = arena_floats(a, T, c->intermediate_size);
    arena_rewind(a, mark);
    s->slot_k = arena_floats(a, l->limits.slots, keys);
    s->slot_v = arena_floats(a, l->limits.slots, keys);
    s->queries = arena_take(a, 2 * l->limits.slots + 1, sizeof *s->queries);
    s->keys = arena_take(a, 2 * l->limits.slots + 1, sizeof *s->keys);
}

static void take_loss_scratch(struct llama *l, struct arena *a, struct loss_scratch *s) {
    size_t N = l->limits.targets, C = l->model->config.hidden_size;
    s->x = arena_floats(a, N, C);
    s->h = arena_floats(a, N, C);
    s->rstd = arena_floats(a, 1, N);
    s->dh = llama_trains(l) ? arena_floats(a, N, C) : NULL;
}

static void take_backward_scratch(struct llama *l, struct arena *a, size_t mark) {
    const struct model_config *c = &l->model->config;
    size_t T = l->limits.tokens, C = c->hidden_size, F = c->intermediate_size;
    size_t queries = (size_t)c->heads * c->head_dim, keys = (size_t)c->kv_heads * c->head_dim;

    arena_rewind(a, mark);
    l->mlp.act = arena_floats(a, T, F);
    l->mlp.dact = arena_floats(a, T, F);
    arena_rewind(a, mark);
    l->mlp.h = arena_floats(a, T, C);
    l->mlp.dh = arena_floats(a, T, C);
    l->mlp.partial = arena_floats(a, T, C);

    arena_rewind(a, mark);
    l->attend.dq = arena_floats(a, T, queries);
    l->attend.dk = arena_floats(a, T, keys);
    l->attend.dv = arena_floats(a, T, keys);
    size_t after = a->used;
    l->attend.d_o = arena_floats(a, T, queries);
    arena_rewind(a, after);
    l->attend.h = arena_floats(a, T, C);
    l->attend.dh = arena_floats(a, T, C);
    l->attend.partial = arena_floats(a, T, C);
}

// It runs between the forward pass and the loss: what is only for the one or for the backward pass has the same place.
static void take_branch(struct llama *l, struct arena *a) {
    l->instance = arena_take(a, l->limits.tokens, sizeof *l->instance);
    take_layers(l, a);
    size_t mark = a->used;
    take_forward_scratch(l, a);
    arena_rewind(a, mark);
    take_loss_scratch(l, a, &l->last);
}

static void take_all(struct llama *l, struct arena *a, size_t workspace) {
    const struct model_config *c = &l->model->config;
    l->workspace = arena_take(a, workspace, 1);
    l->cosine = arena_floats(a, l->limits.length, c->head_dim / 2);
    l->sine = arena_floats(a, l->limits.length, c->head_dim / 2);
    take_layers(l, a);
    if (llama_trains(l)) {
        l->dx = arena_floats(a, l->limits.tokens, c->hidden_size);
        l->dropped = drops_outputs(l) ? arena_floats(a, l->limits.tokens, c->hidden_size) : NULL;
    }
    size_t mark = a->used;
    take_forward_scratch(l, a);
    arena_rewind(a, mark);
    take_loss_scratch(l, a, &l->last);
    if (l->limits.consistency.kind == CONSISTENCY_R_DROP) {
        take_loss_scratch(l, a, &l->second);
    }
    if (l->branch) {
        take_branch(l->branch, a);
    }
    if (llama_trains(l)) {
        take_backward_scratch(l, a, mark);
    }
}

static bool plan_linears(struct llama *l, fault *f) {
    const struct model_config *c = &l->model->config;
    for (enum adapter_module i = 0; i < ADAPTER_MODULES; i++) {
        bool adapted = l->lora && l->lora->modules >> i & 1;
        lod_lowrank_shape shape = {.rank = adapted ? l->lora->rank : 0, .tokens = l->limits.tokens};
        model_linear_shape(c, i, &shape.n_in, &shape.n_out);
        lod_error err;
        lod_status s = lod_plan_lowrank(&shape, l->limits.threads, l->limits.rigor, &l->linear[i], &err);
        if (!library_done(s, &err, f)) {
            return false;
        }
    }
    return true;
}

static bool plan_rest(struct llama *l, fault *f) {
    const struct model_config *c = &l->model->config;
    unsigned threads = l->limits.threads;
    lod_rigor rigor = l->limits.rigor, logits_rigor = l->limits.mode == LLAMA_FORWARD ? rigor : LOD_ESTIMATE;
    lod_attention_shape attention = {
        .heads = c->heads, .kv_heads = c->kv_heads, .head_dim = c->head_dim, .keys = l->limits.length};
    lod_loss_shape loss = {.n_in = c->hidden_size,
                           .vocabulary = c->vocab_size,
                           .tokens = l->limits.targets,
                           .consistency = l->limits.consistency.kind != CONSISTENCY_NONE};
    lod_lowrank_shape logits = {.n_in = c->hidden_size, .n_out = c->vocab_size, .tokens = l->limits.targets};
    lod_error err;
    return library_done(lod_plan_attention(&attention, threads, rigor, &l->attention, &err), &err, f) &&
           library_done(lod_plan_loss(&loss, threads, rigor, &l->loss, &err), &err, f) &&
           library_done(lod_plan_lowrank(&logits, threads, logits_rigor, &l->logits, &err), &err, f) &&
           library_done(lod_plan_rowwise(threads, &l->rowwise, &err), &err, f);
}

// The largest workspace of all plans: calls follow each other, so one serves them all.
static size_t largest_workspace(const struct llama *l) {
    size_t largest = 0;
    const lod_plan *others[] = {l->attention, l->loss, l->logits};
    for (size_t i = 0; i < ADAPTER_MODULES + sizeof others / sizeof *others; i++) {
        size_t bytes = lod_plan_workspace(i < ADAPTER_MODULES ? l->linear[i] : others[i - ADAPTER_MODULES]);
        largest = bytes > largest ? bytes : largest;
    }
    return largest;
}

static bool list_layers(struct llama *l, fault *f) {
    size_t layers = l->model->config.layers;
    l->x = calloc(layers + 1, sizeof *l->x);
    l->layers = calloc(layers, sizeof *l->layers);
    return (l->x && l->layers) || fault_memory(f, "the list of layers");
}

// Where the second branch is not in the batch. A clean one drops nothing.
static bool open_branch(struct llama *l, fault *f) {
    enum consistency_kind kind = l->limits.consistency.kind;
    if (kind != CONSISTENCY_KL && kind != CONSISTENCY_JS) {
        return true;
    }
    struct llama *b = l->branch = calloc(1, sizeof *b);
    if (!b) {
        return fault_memory(f, "the second branch");
    }
    b->model = l->model;
    b->lora = l->lora;
    b->limits = l->limits;
    b->limits.mode = kind == CONSISTENCY_KL ? LLAMA_BRANCH : LLAMA_FORWARD;
    b->limits.consistency = (struct consistency){0};
    memcpy(b->linear, l->linear, sizeof b->linear);
    b->attention = l->attention;
    b->rowwise = l->rowwise;
    return list_layers(b, f);
}

static void start_branch(struct llama *l) {
    struct llama *b = l->branch;
    b->workspace = l->workspace;
    b->cosine = l->cosine;
    b->sine = l->sine;
}

static bool open_all(struct llama *l, fault *f) {
    const struct model_config *c = &l->model->config;
    if (!list_layers(l, f) || !plan_linears(l, f) || !plan_rest(l, f) || !open_branch(l, f)) {
        return false;
    }
    size_t workspace = largest_workspace(l);
    struct arena measure = {0};
    take_all(l, &measure, workspace);
    if (!memory_take(&l->memory, measure.peak, "the activations: a smaller --batch-size or --max-length needs less",
                     f)) {
        return false;
    }
    l->bytes = measure.peak;
    struct arena carve = {.base = l->memory};
    take_all(l, &carve, workspace);
    lod_rope_tables(l->limits.length, c->head_dim, c->rope_theta, l->cosine, l->sine);
    if (l->branch) {
        start_branch(l);
    }
    return true;
}

bool llama_open(struct llama **opened, const struct model *model, const struct lora *lora,
                const struct llama_limits *limits, fault *f) {
    *opened = NULL;
    struct llama *l = calloc(1, sizeof *l);
    if (!l) {
        return fault_memory(f, "the model's state");
    }
    l->model = model;
    l->lora = lora;
    l->limits = *limits;
    if (!open_all(l, f)) {
        llama_close(l);
        return false;
    }
    *opened = l;
    return true;
}

void llama_close(struct llama *l) {
    if (!l) {
        return;
    }
    for (enum adapter_module i = 0; i < ADAPTER_MODULES; i++) {
        lod_plan_free(l->linear[i]);
    }
    lod_plan_free(l->attention);
    lod_plan_free(l->loss);
    lod_plan_free(l->logits);
    lod_plan_free(l->rowwise);
    if (l->branch) { // its plans and its memory are those above and below
        free(l->branch->x);
        free(l->branch->layers);
        free(l->branch);
    }
    free(l->x);
    free(l->layers);
    free(l->memory);
    free(l);
}

size_t llama_bytes(const struct llama *l) {
    return l->bytes;
}

void llama_describe(const struct llama *l, char *text, size_t size) {
    lod_plan_describe(l->linear[ADAPTER_UP_PROJ], text, size);
}
