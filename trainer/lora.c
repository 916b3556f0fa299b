#include "lora.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "adalora.h"
#include "arena.h"
#include "library.h"

// list: of the layer's modules.
static bool place_at(lod_dropout *placed, const lod_dropout *list, lod_domain domain, unsigned position,
                     const struct lora_module *m, fault *f) {
    *placed = list[m->module];
    lod_error err;
    lod_status s = lod_site(domain, m->layer, position + m->module, 0, 0, &placed->site, &err);
    return library_done(s, &err, f);
}

// What a mask keeps on average of that it does not make up for.
static double kept(const lod_dropout *d) {
    return d->compensation == LOD_COMPENSATION_NONE ? dropout_kept(d->p) : 1;
}

// A mask in place of one that was not made up for: what it keeps stands for the mean of that one.
static void keep_mean(struct lora_module *m, lod_dropout *mask, const lod_dropout *own) {
    const double mean = kept(own);
    m->strength *= mean;
    if (mean < 1 && mask->p > 0) {
        mask->compensation = LOD_COMPENSATION_INVERTED;
    }
}

// The layer's dropouts of adapters, at the sites of the module.
static bool place_dropouts(struct lora_module *m, const struct lora_options *o, fault *f) {
    m->mean = m->strength = 1;
    if (!o->dropouts) {
        return true;
    }
    const struct layer_dropouts *d = &o->dropouts[m->layer];
    m->mean = kept(&d->lora_a[m->module]) * kept(&d->lora_b[m->module]);
    if (!place_at(&m->dropout, d->lora_input, LOD_DOMAIN_TRAIN, LOD_POSITION_LORA_INPUT, m, f) ||
        !place_at(&m->lora_a, d->lora_a, o->domain, LOD_POSITION_LORA_A, m, f) ||
        !place_at(&m->lora_b, d->lora_b, o->domain, LOD_POSITION_LORA_B, m, f)) {
        return false;
    }
    if (o->own) {
        keep_mean(m, &m->lora_a, &o->own[m->layer].lora_a[m->module]);
        keep_mean(m, &m->lora_b, &o->own[m->layer].lora_b[m->module]);
    }
    return true;
}

// modules: set of those with adapters in that layer.
static bool draws(const struct layer_dropouts *d, unsigned modules) {
    bool adapters = false;
    for (unsigned m = 0; m < ADAPTER_MODULES; m++) {
        adapters |= (modules >> m & 1) && (d->lora_input[m].p > 0 || d->lora_a[m].p > 0 || d->lora_b[m].p > 0);
    }
    return adapters || d->embedding.p > 0 || d->attention.p > 0 || d->attention_output.p > 0 || d->ffn_middle.p > 0 ||
           d->ffn_output.p > 0;
}

static bool has_layer(const struct lora *l, unsigned layer) {
    return l->first <= layer && layer < l->end;
}

static void find_layers(struct lora *l, const struct layers *layers, unsigned count) {
    while (l->first < count && !layers_hold(layers, l->first, count)) {
        l->first++;
    }
    l->end = l->first;
    while (l->end < count && layers_hold(layers, l->end, count)) {
        l->end++;
    }
}

static void find_fork(struct lora *l, unsigned layers, size_t instances) {
    l->fork = 0;
    while (l->fork < layers && !(l->dropouts && draws(&l->dropouts[l->fork], has_layer(l, l->fork) ? l->modules : 0))) {
        l->fork++;
    }
    l->instances = instances && l->fork < layers ? instances : 1;
}

// Fills the list of modules, all but its pointers.
static bool list_modules(struct lora *l, const struct model_config *model, const struct lora_options *o, fault *f) {
    size_t at = 0;
    for (unsigned layer = l->first; layer < l->end; layer++) {
        for (enum adapter_module i = 0; i < ADAPTER_MODULES; i++) {
            if (!(l->modules >> i & 1)) {
                continue;
            }
            struct lora_module *m = &l->list[at++];
            *m = (struct lora_module){.layer = layer, .module = i, .sums = layer < l->fork ? 1 : l->instances};
            model_linear_shape(model, i, &m->n_in, &m->n_out);
            if (!place_dropouts(m, o, f)) {
                return false;
            }
            l->parameters += l->rank * (m->n_in + m->n_out + l->diagonal);
        }
    }
    return true;
}

static void carve_sums(lod_grad_sum **sums, struct arena *a, size_t count, size_t size, uint64_t leaves) {
    *sums = arena_take(a, count, sizeof **sums);
    for (size_t i = 0; i < count; i++) {
        void *memory = arena_take(a, lod_grad_sum_size(size, leaves), 1);
        if (memory) {
            lod_grad_sum_init(&(*sums)[i], size, leaves, memory);
        }
    }
}

static void carve(struct lora *l, struct arena *a, uint64_t leaves, enum lora_use use) {
    l->value = arena_floats(a, 1, l->parameters);
    float *next = l->value;
    if (use == LORA_TRAINING) {
        l->gradient = arena_floats(a, 1, l->parameters);
        l->moment1 = arena_floats(a, 1, l->parameters);
        l->moment2 = arena_floats(a, 1, l->parameters);
    }
    for (size_t i = 0; i < l->count; i++) {
        struct lora_module *m = &l->list[i];
        size_t size_a = l->rank * m->n_in, size_b = l->rank * m->n_out;
        float *la = l->diagonal ? arena_floats(a, 1, size_a) : NULL;
        if (next) {
            m->a = next;
            m->bt = next + size_a;
            m->diagonal = l->diagonal ? m->bt + size_b : NULL;
            m->la = l->diagonal ? la : m->a;
            next = m->bt + size_b + (l->diagonal ? l->rank : 0);
        }
        if (use == LORA_TRAINING) {
            carve_sums(&m->da, a, m->sums, size_a, leaves);
            carve_sums(&m->dbt, a, m->sums, size_b, leaves);
        }
    }
}

bool lora_make(struct lora *l, const struct model_config *model, const struct lora_options *o, enum lora_use use,
               fault *f) {
    const struct adapter_config *c = &o->config;
    *l = (struct lora){.rank = c->r, .modules = c->modules, .dropouts = o->dropouts};
    l->diagonal = o->diagonal;
    l->orthogonality = o->orthogonality;
    l->scale = c->rslora ? c->alpha / sqrt((double)c->r) : c->alpha / (double)c->r;
    find_layers(l, &c->layers, model->layers);
    find_fork(l, model->layers, o->instances);
    unsigned in_layer = 0;
    for (enum adapter_module i = 0; i < ADAPTER_MODULES; i++) {
        in_layer += l->modules >> i & 1;
    }
    l->count = (size_t)in_layer * (l->end - l->first);
    l->list = calloc(l->count ? l->count : 1, sizeof *l->list);
    bool done = l->list ? list_modules(l, model, o, f) : fault_memory(f, "the list of adapters");
    struct arena measure = {0};
    if (done) {
        carve(l, &measure, o->leaves, use);
        done = memory_take(&l->memory, measure.peak, "the adapters", f);
    }
    if (!done) {
        lora_free(l);
        return false;
    }
    l->bytes = measure.peak;
    struct arena real = {.base = l->memory};
    carve(l, &real, o->leaves, use);
    for (size_t i = 0; i < l->parameters; i++) {
        l->value[i] = 0;
        if (use == LORA_TRAINING) {
            l->gradient[i] = l->moment1[i] = l->moment2[i] = 0;
        }
    }
    lora_refresh(l);
    return true;
}

void lora_refresh(struct lora *l) {
    if (l->diagonal) {
        adalora_multiply(l);
    }
}

void lora_free(struct lora *l) {
    free(l->list);
    free(l->memory);
    *l = (struct lora){0};
}

// out [rows][columns] uniform in (-bound, bound): the generator's words, row by row, as midpoints of 2^32 equal parts.
static bool fill_uniform(float *out, size_t rows, size_t columns, double bound, uint64_t seed, uint32_t site,
                         fault *f) {
    uint32_t *words = malloc(columns * sizeof *words);
    if (!words) {
        return fault_memory(f, "the adapters' first values");
    }
    for (size_t row = 0; row < rows; row++) {
        lod_random(seed, site, 0, (uint32_t)row, columns, words);
        for (size_t i = 0; i < columns; i++) {
            double unit = (words[i] + 0.5) / 4294967296.0;
            out[row * columns + i] = (float)((2 * unit - 1) * bound);
        }
    }
    free(words);
    return true;
}

bool lora_initialise(struct lora *l, uint64_t seed, bool random_b, fault *f) {
    for (size_t i = 0; i < l->count; i++) {
        struct lora_module *m = &l->list[i];
        lod_error err;
        uint32_t site_a, site_b;
        bool diagonal = m->diagonal && random_b;
        lod_status a = lod_site(LOD_DOMAIN_INIT, m->layer, LOD_POSITION_LORA_A + m->module, 0, 0, &site_a, &err);
        lod_status b = lod_site(LOD_DOMAIN_INIT, m->layer, LOD_POSITION_LORA_B + m->module, 0, 0, &site_b, &err);
        if (!library_done(a != LOD_OK ? a : b, &err, f) ||
            !fill_uniform(m->a, l->rank, m->n_in, 1 / sqrt((double)m->n_in), seed, site_a, f) ||
            ((random_b || m->diagonal) &&
             !fill_uniform(m->bt, l->rank, m->n_out, 1 / sqrt((double)m->n_out), seed, site_b, f)) ||
            (diagonal && !fill_uniform(m->diagonal, 1, l->rank, 1, seed, site_b | 1, f))) { // of another head
            return false;
        }
    }
    lora_refresh(l);
    return true;
}

struct lora_module *lora_find(const struct lora *l, unsigned layer, enum adapter_module module) {
    if (!l || !has_layer(l, layer) || !(l->modules >> module & 1)) {
        return NULL;
    }
    unsigned before = 0, in_layer = 0;
    for (enum adapter_module i = 0; i < ADAPTER_MODULES; i++) {
        unsigned there = l->modules >> i & 1;
        before += i < module ? there : 0;
        in_layer += there;
    }
    return &l->list[(size_t)(layer - l->first) * in_layer + before];
}

// The list of modules as files take it, with what stands in `values` (laid out as l->value); free() returns it.
static bool list_tensors(struct adapter_tensors **list, const struct lora *l, float *values, fault *f) {
    struct adapter_tensors *tensors = calloc(l->count ? l->count : 1, sizeof *tensors);
    *list = tensors;
    for (size_t i = 0; tensors && i < l->count; i++) {
        const struct lora_module *m = &l->list[i];
        tensors[i] = (struct adapter_tensors){.layer = m->layer,
                                              .module = m->module,
                                              .n_in = m->n_in,
                                              .n_out = m->n_out,
                                              .mean = m->mean,
                                              .a = values == l->value ? m->la : values + (m->a - l->value),
                                              .bt = values + (m->bt - l->value)};
    }
    return tensors || fault_memory(f, "the list of adapters");
}

bool lora_read(struct lora *l, const char *folder, fault *f) {
    struct adapter_tensors *tensors;
    bool done =
        list_tensors(&tensors, l, l->value, f) && adapter_read_tensors(folder, (unsigned)l->rank, tensors, l->count, f);
    free(tensors);
    return done;
}

bool lora_write(const struct lora *l, const char *folder, const struct adapter_config *config,
                const struct adapter_recipe *recipe, fault *f) {
    struct adapter_tensors *tensors;
    bool done = list_tensors(&tensors, l, l->value, f) && adapter_write(folder, config, recipe, tensors, l->count, f);
    free(tensors);
    return done;
}

bool lora_write_gradient(const struct lora *l, const char *path, double loss, fault *f) {
    float loss32 = (float)loss, *diagonals = calloc(l->count * l->rank + 1, sizeof *diagonals);
    const struct tensor_source extras[] = {
        {.name = "loss", .data = &loss32},
        {.name = "lora_E", .ndim = 2, .shape = {l->count, l->rank}, .data = diagonals},
    };
    for (size_t i = 0; diagonals && l->diagonal && i < l->count; i++) {
        const float *from = l->gradient + (l->list[i].diagonal - l->value);
        memcpy(diagonals + i * l->rank, from, l->rank * sizeof *from);
    }
    struct adapter_tensors *tensors = NULL;
    bool done = (diagonals || fault_memory(f, "the gradient")) && list_tensors(&tensors, l, l->gradient, f) &&
                adapter_write_tensors(path, (unsigned)l->rank, tensors, l->count, extras, l->diagonal ? 2 : 1, f);
    free(tensors);
    free(diagonals);
    return done;
}

double lora_finish_gradient(struct lora *l, double factor, double *orthogonality) {
    for (size_t i = 0; i < l->count; i++) {
        struct lora_module *m = &l->list[i];
        lod_grad_sum_finish_all(m->da, m->sums, l->gradient + (m->a - l->value));
        lod_grad_sum_finish_all(m->dbt, m->sums, l->gradient + (m->bt - l->value));
    }
    if (l->diagonal) {
        adalora_split(l);
    }
    for (size_t i = 0; i < l->parameters; i++) {
        l->gradient[i] *= (float)factor;
    }
    *orthogonality = l->diagonal ? adalora_orthogonality(l, l->orthogonality) : 0;
    double squares = 0;
    for (size_t i = 0; i < l->parameters; i++) {
        squares += (double)l->gradient[i] * l->gradient[i];
    }
    return sqrt(squares);
}
