#include "llama_state.h"

#include <stdlib.h>
#include <string.h>

#include "arena.h"
#include "library.h"

bool llama_trains(const struct llama *l) {
    return l->limits.mode == LLAMA_KEEP || l->limits.mode == LLAMA_RECOMPUTE;
}

unsigned llama_lowest(const struct llama *l) {
    return l->lora ? l->lora->first : l->model->config.layers;
}

float *llama_input(const struct llama *l, unsigned layer) {
    return l->stacked && layer == l->fork ? l->stacked : l->x[layer];
}

const struct layer_dropouts *llama_dropouts(const struct llama *l, unsigned layer) {
    static const struct layer_dropouts none;
    return l->lora && l->lora->dropouts ? &l->lora->dropouts[layer] : &none;
}

static bool needs_visible(const struct llama *l) {
    for (unsigned i = 0; l->limits.mode >= LLAMA_BRANCH && i < l->model->config.layers; i++) {
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
static void take_layer(struct llama *l, struct arena *a, size_t T, struct layer_state *s) {
    const struct model_config *c = &l->model->config;
    size_t queries = (size_t)c->heads * c->head_dim, keys = (size_t)c->kv_heads * c->head_dim;
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

// The T of a layer, and of what goes into it.
static size_t layer_rows(const struct llama *l, unsigned layer) {
    return layer < l->fork ? l->limits.tokens : l->rows;
}

static size_t input_rows(const struct llama *l, unsigned layer) {
    return layer <= l->fork ? l->limits.tokens : l->rows;
}

// Whether a layer's backward pass needs its input, and what else it computed.
static bool needs_backward(const struct llama *l, unsigned layer) {
    return llama_trains(l) && layer < l->model->config.layers && layer >= llama_lowest(l);
}

// All instances, or both branches, start from it.
static bool is_shared_input(const struct llama *l, unsigned layer) {
    return (l->forks && layer == l->fork) || (l->branch && layer == l->lora->fork);
}

// What goes into layers that keep nothing takes turns in two places.
static void take_inputs(struct llama *l, struct arena *a) {
    size_t C = l->model->config.hidden_size;
    float *turns[2];
    bool there[2] = {false};
    for (unsigned i = 0; i <= l->model->config.layers; i++) {
        bool own = needs_backward(l, i) || is_shared_input(l, i);
        if (!own && !there[i % 2]) {
            turns[i % 2] = arena_floats(a, l->rows, C);
            there[i % 2] = true;
        }
        l->x[i] = own ? arena_floats(a, input_rows(l, i), C) : turns[i % 2];
    }
    if (l->limits.mode == LLAMA_ENSEMBLE) {
        l->instance = arena_take(a, l->rows, sizeof *l->instance);
        l->outputs = l->x[l->model->config.layers] = arena_floats(a, l->lora->instances * l->rows, C);
    }
    bool stacks = l->forks && (l->rows > l->limits.tokens || llama_dropouts(l, 0)->embedding.p > 0);
    l->stacked = stacks ? arena_floats(a, l->rows, C) : NULL;
}

static void take_all_keys(const struct llama *l, struct arena *a, struct layer_state *s) {
    size_t keys = (size_t)l->model->config.kv_heads * l->model->config.head_dim;
    s->all_k = l->limits.continues ? arena_floats(a, l->limits.length, keys) : NULL;
    s->all_v = l->limits.continues ? arena_floats(a, l->limits.length, keys) : NULL;
}

static void take_layers(struct llama *l, struct arena *a) {
    struct layer_state common;
    bool there = false;
    take_inputs(l, a);
    for (unsigned i = 0; i < l->model->config.layers; i++) {
        if (needs_backward(l, i) && l->limits.mode == LLAMA_KEEP) {
            take_layer(l, a, layer_rows(l, i), &l->layers[i]);
            continue;
        }
        if (!there) {
            take_layer(l, a, l->rows, &common);
            there = true;
        }
        l->layers[i] = common;
        take_all_keys(l, a, &l->layers[i]);
    }
}

static void take_forward_scratch(struct llama *l, struct arena *a) {
    const struct model_config *c = &l->model->config;
    struct forward_scratch *s = &l->forward;
    size_t T = l->rows, keys = (size_t)c->kv_heads * c->head_dim;
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
    size_t N = l->targets, C = l->model->config.hidden_size;
    s->x = arena_floats(a, N, C);
    s->h = arena_floats(a, N, C);
    s->rstd = arena_floats(a, 1, N);
    if (l->limits.mode == LLAMA_ENSEMBLE) {
        l->ensemble.sum = arena_floats(a, N, C);
        l->ensemble.probability = arena_take(a, N, sizeof *l->ensemble.probability);
        l->ensemble.vocabulary = arena_take(a, l->model->config.vocab_size, sizeof *l->ensemble.vocabulary);
    }
}

static void take_backward_scratch(struct llama *l, struct arena *a, size_t mark) {
    const struct model_config *c = &l->model->config;
    size_t T = l->rows, C = c->hidden_size, F = c->intermediate_size;
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

static size_t larger_workspace(size_t bytes, const lod_plan *plan) {
    size_t other = lod_plan_workspace(plan);
    return bytes > other ? bytes : other;
}

// It runs between the forward pass and the loss: only its last hidden states outlive it.
static void take_branch(struct llama *l, struct arena *a) {
    l->instance = arena_take(a, l->limits.tokens, sizeof *l->instance);
    take_loss_scratch(l, a, &l->last);
    size_t mark = a->used;
    take_layers(l, a);
    take_forward_scratch(l, a);
    arena_rewind(a, mark);
}

// What only the loss needs, in the place of what only layers need: while one is computed nothing of the other is alive
// (but for the workspace, which a second branch between them needs once more).
static void take_loss(struct llama *l, struct arena *a) {
    take_loss_scratch(l, a, &l->last);
    if (l->limits.consistency.kind == CONSISTENCY_R_DROP) {
        take_loss_scratch(l, a, &l->second);
    }
    l->head_workspace = arena_take(a, larger_workspace(lod_plan_workspace(l->loss), l->logits), 1);
}

// Calls follow each other: the largest workspace serves them all.
static void take_workspace(struct llama *l, struct arena *a) {
    size_t bytes = lod_plan_workspace(l->attention);
    for (size_t i = 0; i < ADAPTER_MODULES; i++) {
        bytes = larger_workspace(bytes, l->linear[i]);
    }
    l->workspace = arena_take(a, bytes, 1);
}

static void take_all(struct llama *l, struct arena *a) {
    const struct model_config *c = &l->model->config;
    l->cosine = arena_floats(a, l->limits.length, c->head_dim / 2);
    l->sine = arena_floats(a, l->limits.length, c->head_dim / 2);
    take_layers(l, a);
    if (llama_trains(l)) {
        bool joins = l->forks && llama_lowest(l) < l->fork;
        l->dx = l->x[c->layers]; // its loss is done
        l->dropped = drops_outputs(l) ? arena_floats(a, l->rows, c->hidden_size) : NULL;
        l->join = joins ? arena_floats(a, l->limits.tokens, c->hidden_size) : NULL;
    }
    size_t start = a->used;
    take_workspace(l, a);
    size_t mark = a->used;
    take_forward_scratch(l, a);
    arena_rewind(a, l->branch ? mark : start);
    if (l->branch) {
        take_branch(l->branch, a);
    }
    take_loss(l, a);
    if (llama_trains(l)) {
        take_backward_scratch(l, a, mark);
    }
}

static bool plan_linears(struct llama *l, fault *f) {
    const struct model_config *c = &l->model->config;
    for (enum adapter_module i = 0; i < ADAPTER_MODULES; i++) {
        bool adapted = l->lora && l->lora->modules >> i & 1;
        lod_lowrank_shape shape = {.rank = adapted ? l->lora->rank : 0, .tokens = l->rows};
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
    lod_rigor rigor = l->limits.rigor, logits_rigor = l->limits.mode < LLAMA_BRANCH ? rigor : LOD_ESTIMATE;
    lod_attention_shape attention = {
        .heads = c->heads, .kv_heads = c->kv_heads, .head_dim = c->head_dim, .keys = l->limits.length};
    lod_loss_shape loss = {.n_in = c->hidden_size,
                           .vocabulary = c->vocab_size,
                           .tokens = l->targets,
                           .consistency = l->limits.consistency.kind != CONSISTENCY_NONE};
    lod_lowrank_shape logits = {.n_in = c->hidden_size, .n_out = c->vocab_size, .tokens = l->targets};
    lod_error err;
    return library_done(lod_plan_attention(&attention, threads, rigor, &l->attention, &err), &err, f) &&
           library_done(lod_plan_loss(&loss, threads, rigor, &l->loss, &err), &err, f) &&
           library_done(lod_plan_lowrank(&logits, threads, logits_rigor, &l->logits, &err), &err, f) &&
           library_done(lod_plan_rowwise(threads, &l->rowwise, &err), &err, f);
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
    b->fork = l->fork;
    b->rows = l->rows;
    b->targets = l->targets;
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

static void find_fork(struct llama *l) {
    bool runs = llama_trains(l) || l->limits.mode == LLAMA_ENSEMBLE;
    l->forks = runs && l->lora->instances > 1;
    l->fork = l->forks ? l->lora->fork : l->model->config.layers;
    size_t together = l->forks && l->limits.together ? l->limits.together : 1;
    l->rows = together * l->limits.tokens;
    l->targets = together * l->limits.targets;
}

// All but the memory: plans, and how much it will be. NULL: not even these.
static struct llama *prepare(const struct model *model, const struct lora *lora, const struct llama_limits *limits,
                             fault *f) {
    struct llama *l = calloc(1, sizeof *l);
    if (!l) {
        fault_memory(f, "the model's state");
        return NULL;
    }
    l->model = model;
    l->lora = lora;
    l->limits = *limits;
    find_fork(l);
    if (!list_layers(l, f) || !plan_linears(l, f) || !plan_rest(l, f) || !open_branch(l, f)) {
        llama_close(l);
        return NULL;
    }
    struct arena measure = {0};
    take_all(l, &measure);
    l->bytes = measure.peak;
    return l;
}

bool llama_open(struct llama **opened, const struct model *model, const struct lora *lora,
                const struct llama_limits *limits, fault *f) {
    struct llama *l = *opened = prepare(model, lora, limits, f);
    const char *what = limits->continues ? "keys and values: a smaller --max-new-tokens needs less"
                                         : "the activations: a smaller --batch-size or --max-length needs less";
    if (!l || !memory_take(&l->memory, l->bytes, what, f)) {
        llama_close(l);
        *opened = NULL;
        return false;
    }
    struct arena carve = {.base = l->memory};
    take_all(l, &carve);
    const struct model_config *c = &model->config;
    lod_rope_tables(limits->length, c->head_dim, c->rope_theta, c->rope_scaling.factor > 0 ? &c->rope_scaling : NULL,
                    l->cosine, l->sine);
    if (l->branch) {
        start_branch(l);
    }
    return true;
}

bool llama_measure(size_t *bytes, const struct model *model, const struct lora *lora, const struct llama_limits *limits,
                   fault *f) {
    struct llama *l = prepare(model, lora, limits, f);
    *bytes = l ? l->bytes : 0;
    llama_close(l);
    return l;
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
