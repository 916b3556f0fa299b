// What meets the vocabulary: losses, logits, and the gradient at the last hidden states (letters as in llama.h).
#include <string.h>

#include "library.h"
#include "llama_state.h"
#include "number.h"

// s.x [n][C] of the tokens row[0 .. n-1] of the last hidden states x, and s.h [n][C], normalised.
static bool gather(struct llama *l, struct loss_scratch *s, const float *x, size_t n, const uint32_t *row, fault *f) {
    size_t C = l->model->config.hidden_size;
    for (size_t i = 0; i < n; i++) {
        memcpy(s->x + i * C, x + row[i] * C, C * sizeof(float));
    }
    return llama_norm(l, n, s->x, l->model->final_norm, s->rstd, s->h, f);
}

static bool gather_last(struct llama *l, struct loss_scratch *s, size_t n, const uint32_t *row, fault *f) {
    return gather(l, s, l->x[l->model->config.layers], n, row, f);
}

// The gradient at the rows of s, on entry that of its h and in its place, into dx.
static bool scatter(struct llama *l, struct loss_scratch *s, size_t n, const uint32_t *row, fault *f) {
    size_t C = l->model->config.hidden_size;
    if (!llama_norm_backward(l, n, s->x, l->model->final_norm, s->rstd, s->h, NULL, s->h, f)) { // h [N][C]
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        memcpy(l->dx + row[i] * C, s->h + i * C, C * sizeof(float));
    }
    return true;
}

static bool product(struct llama *l, size_t n, float *logits, fault *f) {
    size_t C = l->model->config.hidden_size;
    const size_t start[] = {0, n};
    lod_lowrank_args args = {.rows = {.count = 1, .start = start},
                             .x = l->last.h,
                             .ldx = C,
                             .w = l->model->head,
                             .y = logits,
                             .ldy = l->model->config.vocab_size};
    lod_error err;
    return library_done(lod_lowrank_forward(l->logits, &args, l->head_workspace, &err), &err, f);
}

// --- Ensembles ---

// Of a mean probability; where it is 0 in double there is no telling how much less than this it was.
static float log_probability(double p) {
    return (float)number_log(p > 1e-300 ? p : 1e-300);
}

// The rows of an instance.
static bool gather_instance(struct llama *l, size_t k, size_t n, const uint32_t *row, fault *f) {
    return gather(l, &l->last, l->outputs + k * l->rows * l->model->config.hidden_size, n, row, f);
}

// The head is linear: the mean of all instances' rows, in the place of one's, has the mean of their logits.
static bool gather_mean(struct llama *l, size_t n, const uint32_t *row, fault *f) {
    size_t count = n * l->model->config.hidden_size;
    const float share = 1 / (float)l->lora->instances;
    float *sum = l->ensemble.sum, *h = l->last.h;
    memset(sum, 0, count * sizeof *sum);
    for (size_t k = 0; k < l->lora->instances; k++) {
        if (!gather_instance(l, k, n, row, f)) {
            return false;
        }
        for (size_t i = 0; i < count; i++) {
            sum[i] += h[i];
        }
    }
    for (size_t i = 0; i < count; i++) {
        h[i] = sum[i] * share;
    }
    return true;
}

// The mean of all instances' probabilities of the targets.
static bool mean_losses(struct llama *l, const lod_loss_args *args, const uint32_t *row, fault *f) {
    double *p = l->ensemble.probability;
    memset(p, 0, args->tokens * sizeof *p);
    for (size_t k = 0; k < l->lora->instances; k++) {
        lod_error err;
        if (!gather_instance(l, k, args->tokens, row, f) ||
            !library_done(lod_loss(l->loss, args, l->head_workspace, &err), &err, f)) {
            return false;
        }
        for (size_t i = 0; i < args->tokens; i++) {
            p[i] += number_exp(-(double)args->loss[i]);
        }
    }
    for (size_t i = 0; i < args->tokens; i++) {
        args->loss[i] = -log_probability(p[i] / (double)l->lora->instances);
    }
    return true;
}

// sum += softmax(z) [V]
static void add_softmax(double *sum, const float *z, size_t vocabulary) {
    double most = z[0], total = 0;
    for (size_t i = 1; i < vocabulary; i++) {
        most = z[i] > most ? z[i] : most;
    }
    for (size_t i = 0; i < vocabulary; i++) {
        total += number_exp(z[i] - most);
    }
    for (size_t i = 0; i < vocabulary; i++) {
        sum[i] += number_exp(z[i] - most) / total;
    }
}

// Logarithms of the mean probabilities after one token: logits that have them as their softmax.
static bool mean_logits(struct llama *l, const uint32_t *row, float *logits, fault *f) {
    size_t V = l->model->config.vocab_size;
    double *sum = l->ensemble.vocabulary;
    memset(sum, 0, V * sizeof *sum);
    for (size_t k = 0; k < l->lora->instances; k++) {
        if (!gather_instance(l, k, 1, row, f) || !product(l, 1, logits, f)) {
            return false;
        }
        add_softmax(sum, logits, V);
    }
    for (size_t i = 0; i < V; i++) {
        logits[i] = log_probability(sum[i] / (double)l->lora->instances);
    }
    return true;
}

// --- What they are for ---

bool llama_logits(struct llama *l, size_t n, const uint32_t *row, float *logits, fault *f) {
    if (l->limits.mode != LLAMA_ENSEMBLE) {
        return gather_last(l, &l->last, n, row, f) && product(l, n, logits, f);
    }
    if (l->limits.mean == LLAMA_MEAN_LOGITS) {
        return gather_mean(l, n, row, f) && product(l, n, logits, f);
    }
    for (size_t i = 0; i < n; i++) {
        if (!mean_logits(l, row + i, logits + i * l->model->config.vocab_size, f)) {
            return false;
        }
    }
    return true;
}

// The second branch's part of the loss: its normalised rows, and with R-Drop their gradient.
static bool second_loss(struct llama *l, const struct llama_batch *b, lod_loss_args *args, fault *f) {
    const struct consistency *c = &l->limits.consistency;
    struct loss_scratch *s = l->branch ? &l->branch->last : &l->second;
    args->consistency = consistency_divergence(c->kind);
    args->weight = c->weight;
    args->h2 = s->h;
    args->dh2 = llama_trains(l) && !l->branch ? s->h : NULL;
    args->ldh2 = args->lddh2 = l->model->config.hidden_size;
    return l->branch ? llama_branch_forward(l, b, f) && gather_last(l->branch, s, b->targets, b->row, f)
                     : gather_last(l, s, b->targets, b->row2, f);
}

bool llama_loss(struct llama *l, const struct llama_batch *b, const struct llama_losses *losses, fault *f) {
    size_t N = b->targets, C = l->model->config.hidden_size;
    bool consistent = l->limits.consistency.kind != CONSISTENCY_NONE, ensemble = l->limits.mode == LLAMA_ENSEMBLE;
    lod_loss_args args = {.tokens = N,
                          .h = l->last.h,
                          .ldh = C,
                          .w = l->model->head,
                          .target = b->target,
                          .loss = losses->loss,
                          .dh = llama_trains(l) ? l->last.h : NULL,
                          .lddh = C,
                          .loss2 = losses->loss2,
                          .divergence = losses->divergence};
    lod_error err;
    if (ensemble && l->limits.mean == LLAMA_MEAN_PROBABILITIES) {
        return mean_losses(l, &args, b->row, f);
    }
    if ((consistent && !second_loss(l, b, &args, f)) ||
        !(ensemble ? gather_mean(l, N, b->row, f) : gather_last(l, &l->last, N, b->row, f)) ||
        !library_done(lod_loss(l->loss, &args, l->head_workspace, &err), &err, f)) {
        return false;
    }
    if (!llama_trains(l)) {
        return true;
    }
    memset(l->dx, 0, llama_tokens(b) * C * sizeof(float));
    return scatter(l, &l->last, N, b->row, f) && (!args.dh2 || scatter(l, &l->second, N, b->row2, f));
}
