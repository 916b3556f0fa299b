#include "choices.h"

#include <stdlib.h>

#include "arena.h"
#include "batch.h"

enum { TOKENS = 4096, TRUNKS = 64 }; // of a batch; a longer prompt has a batch of its own

// What the examples of a file need at most.
struct extent {
    size_t tokens; // of a batch
    size_t length; // of a prompt with its longest choice
    size_t rounds; // choices
};

struct scorer {
    size_t vocabulary;
    struct extent extent;
    struct llama *llama;
    struct batch batch;
    struct llama_branches branches;
    size_t trunk_start[TRUNKS + 1], slot_start[TRUNKS + 1];
    size_t *round_start; // [rounds + 1]
    size_t *length;      // [rounds][trunks]
    uint32_t *last;      // [trunks] the last token of a trunk
    uint32_t *reference; // [trunks] the target after it whose loss is computed; those of others follow from logits
    double *score;       // [trunks][rounds] summed losses
    float *loss;         // [tokens]
    float *logits;       // [trunks][vocabulary] after the trunks
    void *memory;
};

// A choice's last token is expected, but nothing after it.
static size_t fed(const struct example *e, size_t choice) {
    return choice < e->n_choices ? e->choices[choice].count - 1 : 0;
}

static size_t longest_choice(const struct example *e) {
    size_t longest = 0;
    for (size_t i = 0; i < e->n_choices; i++) {
        longest = fed(e, i) > longest ? fed(e, i) : longest;
    }
    return longest;
}

static size_t all_tokens(const struct example *e) {
    size_t tokens = e->shared;
    for (size_t i = 0; i < e->n_choices; i++) {
        tokens += fed(e, i);
    }
    return tokens;
}

static struct extent measure(const struct dataset *data) {
    struct extent most = {.tokens = TOKENS};
    for (size_t i = 0; i < data->count; i++) {
        const struct example *e = &data->examples[i];
        size_t tokens = all_tokens(e), length = e->shared + longest_choice(e);
        most.tokens = tokens > most.tokens ? tokens : most.tokens;
        most.length = length > most.length ? length : most.length;
        most.rounds = e->n_choices > most.rounds ? e->n_choices : most.rounds;
    }
    return most;
}

static void carve(struct scorer *s, struct arena *a) {
    const struct extent *most = &s->extent;
    s->round_start = arena_take(a, most->rounds + 1, sizeof *s->round_start);
    s->length = arena_take(a, most->rounds, TRUNKS * sizeof *s->length);
    s->last = arena_take(a, TRUNKS, sizeof *s->last);
    s->reference = arena_take(a, TRUNKS, sizeof *s->reference);
    s->score = arena_take(a, most->rounds, TRUNKS * sizeof *s->score);
    s->loss = arena_floats(a, 1, most->tokens);
    s->logits = arena_floats(a, TRUNKS, s->vocabulary);
}

// The examples of the batch's trunks, at least one; returns how many.
static size_t lay_trunks(struct scorer *s, const struct example *examples, size_t count) {
    struct llama_branches *b = &s->branches;
    size_t tokens = 0;
    b->trunks = b->rounds = 0;
    while (b->trunks < count && b->trunks < TRUNKS) {
        const struct example *e = &examples[b->trunks];
        tokens += all_tokens(e);
        if (tokens > s->extent.tokens) {
            break;
        }
        s->trunk_start[b->trunks + 1] = s->trunk_start[b->trunks] + e->shared;
        s->slot_start[b->trunks + 1] = s->slot_start[b->trunks] + e->shared + longest_choice(e);
        b->rounds = e->n_choices > b->rounds ? e->n_choices : b->rounds;
        b->trunks++;
    }
    return b->trunks;
}

// The token whose loss stands for a trunk: the first one of the right choice, or of another if the right one does not
// target its first.
static const struct example_choice *reference_choice(const struct example *e) {
    if (e->choices[e->label].first_target == 0) {
        return &e->choices[e->label];
    }
    for (size_t i = 0; i < e->n_choices; i++) {
        if (e->choices[i].first_target == 0) {
            return &e->choices[i];
        }
    }
    return NULL;
}

static void lay_branches(struct scorer *s, const struct example *examples) {
    struct llama_branches *b = &s->branches;
    struct batch *out = &s->batch;
    for (size_t round = 0; round < b->rounds; round++) {
        s->round_start[round] = batch_tokens(out);
        for (size_t i = 0; i < b->trunks; i++) {
            const struct example *e = &examples[i];
            size_t tokens = fed(e, round);
            s->length[round * b->trunks + i] = tokens;
            for (size_t t = 0; t < tokens; t++) {
                const struct example_choice *c = &e->choices[round];
                batch_token(out, c->tokens[t], e->shared + t);
                if (t + 1 >= c->first_target) {
                    batch_target(out, batch_tokens(out) - 1, c->tokens[t + 1]);
                }
            }
        }
    }
    s->round_start[b->rounds] = batch_tokens(out);
}

// Lays as many examples as fit into the batch: all trunks, then the choices, round by round. Returns how many.
static size_t lay(struct scorer *s, const struct example *examples, size_t count) {
    size_t taken = lay_trunks(s, examples, count);
    struct batch *out = &s->batch;
    batch_clear(out);
    out->view.rows.count = 1;
    out->start[1] = 0;
    for (size_t i = 0; i < taken; i++) {
        const struct example *e = &examples[i];
        for (size_t t = 0; t < e->shared; t++) {
            batch_token(out, e->tokens[t], t);
        }
        s->last[i] = (uint32_t)batch_tokens(out) - 1;
        const struct example_choice *reference = reference_choice(e);
        s->reference[i] = reference ? reference->tokens[0] : 0;
        if (reference) {
            batch_target(out, s->last[i], s->reference[i]);
        }
    }
    lay_branches(s, examples);
    return taken;
}

// score [trunks][rounds]: the losses in the order in which `lay` put their targets.
static void collect(struct scorer *s, const struct example *examples) {
    struct llama_branches *b = &s->branches;
    const float *loss = s->loss;
    for (size_t i = 0; i < b->trunks; i++) {
        const struct example *e = &examples[i];
        const float *z = s->logits + i * s->vocabulary;
        bool after_trunk = reference_choice(e);
        for (size_t round = 0; round < e->n_choices; round++) {
            bool first = e->choices[round].first_target == 0;
            double gap = first ? (double)z[s->reference[i]] - z[e->choices[round].tokens[0]] : 0;
            s->score[i * b->rounds + round] = first ? *loss + gap : 0;
        }
        loss += after_trunk;
    }
    for (size_t round = 0; round < b->rounds; round++) {
        for (size_t i = 0; i < b->trunks; i++) {
            for (size_t t = 0; t < fed(&examples[i], round); t++) {
                if (t + 1 >= examples[i].choices[round].first_target) {
                    s->score[i * b->rounds + round] += *loss++;
                }
            }
        }
    }
}

static size_t best_choice(const struct example *e, const double *score) {
    size_t best = 0;
    for (size_t i = 1; i < e->n_choices; i++) {
        best = score[i] < score[best] ? i : best;
    }
    return best;
}

static void count_answer(struct choices_result *result, const struct example *e, const double *score) {
    const struct example_choice *expected = &e->choices[e->label];
    size_t best = best_choice(e, score);
    calibration_add(&result->answers, calibration_confidence(score, e->n_choices, best), best == e->label);
    result->sum += score[e->label];
    result->targets += expected->count - expected->first_target;
}

static bool score_all(struct choices_result *result, struct scorer *s, const struct dataset *data, fault *f) {
    for (size_t at = 0; at < data->count;) {
        const struct example *examples = data->examples + at;
        size_t taken = lay(s, examples, data->count - at);
        struct llama_losses losses = {.loss = s->loss};
        if (!llama_forward(s->llama, &s->batch.view, f) || !llama_loss(s->llama, &s->batch.view, &losses, f) ||
            !llama_logits(s->llama, taken, s->last, s->logits, f)) {
            return false;
        }
        collect(s, examples);
        for (size_t i = 0; i < taken; i++) {
            count_answer(result, &examples[i], s->score + i * s->branches.rounds);
        }
        at += taken;
    }
    return true;
}

static bool prepare(struct scorer *s, const struct model *model, const struct lora *lora,
                    const struct evaluation_manner *manner, fault *f) {
    struct arena measuring = {0};
    carve(s, &measuring);
    size_t tokens = s->extent.tokens;
    struct llama_limits limits = evaluation_limits(manner, tokens, s->extent.length);
    limits.slots = tokens;
    if (!memory_take(&s->memory, measuring.peak, "the scores of choices", f) || !batch_make(&s->batch, tokens, 1, f) ||
        !llama_open(&s->llama, model, lora, &limits, f)) {
        return false;
    }
    struct arena real = {.base = s->memory};
    carve(s, &real);
    s->branches.trunk_start = s->trunk_start;
    s->branches.slot_start = s->slot_start;
    s->branches.round_start = s->round_start;
    s->branches.length = s->length;
    s->batch.view.branches = &s->branches;
    return true;
}

bool choices_score(struct choices_result *result, const struct model *model, const struct lora *lora,
                   const struct dataset *data, const struct evaluation_manner *manner, fault *f) {
    *result = (struct choices_result){0};
    struct scorer s = {.vocabulary = model->config.vocab_size, .extent = measure(data)};
    bool done = prepare(&s, model, lora, manner, f) && score_all(result, &s, data, f);
    llama_close(s.llama);
    batch_free(&s.batch);
    free(s.memory);
    return done;
}
