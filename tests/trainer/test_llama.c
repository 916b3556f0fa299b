// The trainer's model in float32 against the same model in double: losses to 1e-6, the gradient of every adapter to
// 1e-5 of its norm, and the same bits whether activations are kept or computed again, on any number of threads.
#include "llama.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "small_llama.h"

static unsigned passed, failed;

static void expect(bool good, const char *what, double got, double limit) {
    passed += good;
    failed += !good;
    if (!good) {
        printf("FAIL %s: %g, limit %g\n", what, got, limit);
    }
}

static void must(bool done, const fault *f) {
    if (!done) {
        printf("FAIL %s\n%u passed, %u failed, 0 skipped\n", f->text, passed, failed + 1);
        exit(1);
    }
}

static void *allocate(size_t bytes) {
    void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!memory) {
        abort();
    }
    return memory;
}

static float *narrow(const double *x, size_t count) {
    float *y = allocate(count * sizeof *y);
    for (size_t i = 0; i < count; i++) {
        y[i] = (float)x[i];
    }
    return y;
}

static lod_weight pack(const double *w, size_t n_in, size_t n_out) {
    float *source = narrow(w, n_in * n_out);
    void *packed = allocate(lod_packed_size(n_in, n_out, LOD_F32));
    if (lod_pack_weights(n_in, n_out, LOD_F32, source, n_in, packed, NULL) != LOD_OK) {
        abort();
    }
    free(source);
    return (lod_weight){.packed = packed, .dtype = LOD_F32};
}

// The trainer's view of a small llama.
typedef struct twin {
    struct model model;
    struct model_layer layers[LAYERS];
    struct tensor_view embedding;
    struct layer_dropouts dropouts[LAYERS];
    struct lora lora;
} twin;

enum { INSTANCES = 3 };

static void make_twin(twin *t, const small_llama *s, unsigned modules, size_t instances, fault *f) {
    const model_f64 *m = &s->m;
    *t = (twin){.model = {.config = {.hidden_size = WIDTH,
                                     .intermediate_size = MIDDLE,
                                     .layers = LAYERS,
                                     .heads = HEADS,
                                     .kv_heads = KV_HEADS,
                                     .head_dim = HEAD_DIM,
                                     .vocab_size = VOCABULARY,
                                     .max_positions = TOKENS,
                                     .rms_norm_eps = m->eps,
                                     .rope_theta = 10000}}};
    t->embedding = (struct tensor_view){.type = TENSOR_F32, .ndim = 2, .shape = {VOCABULARY, WIDTH}};
    t->embedding.count = VOCABULARY * WIDTH, t->embedding.bytes = VOCABULARY * WIDTH * sizeof(float);
    t->embedding.data = (const uint8_t *)narrow(m->vectors, VOCABULARY * WIDTH);
    t->model.embedding = &t->embedding, t->model.layers = t->layers;
    t->model.head = pack(m->head, WIDTH, VOCABULARY), t->model.final_norm = narrow(m->final_norm, WIDTH);
    const struct dropouts input = {.count = 1, .list = {{.compensation = DROPOUT_INVERTED, .p = m->p}}};
    must(dropouts_of_layers(t->dropouts, LAYERS, &input, m->seed, f), f);
    t->dropouts[0].embedding = m->embedding;
    for (size_t i = 0; i < LAYERS; i++) {
        t->dropouts[i].attention_output = s->layers[i].attention_output;
        t->dropouts[i].ffn_middle = s->layers[i].ffn_middle, t->dropouts[i].ffn_output = s->layers[i].ffn_output;
        for (size_t k = 0; k < ADAPTER_MODULES; k++) {
            t->dropouts[i].lora_a[k] = s->layers[i].linear[k].lora_a;
            t->dropouts[i].lora_b[k] = s->layers[i].linear[k].lora_b;
        }
    }
    struct lora_options options = {.dropouts = t->dropouts, .instances = instances, .leaves = SEGMENTS};
    options.config = (struct adapter_config){.r = RANK, .alpha = m->lora_scale * RANK, .modules = modules};
    must(lora_make(&t->lora, &t->model.config, &options, LORA_TRAINING, f), f);
    for (unsigned i = 0; i < LAYERS; i++) {
        t->layers[i].attention_norm = narrow(s->layers[i].attention_norm, WIDTH);
        t->layers[i].mlp_norm = narrow(s->layers[i].mlp_norm, WIDTH);
        for (enum adapter_module j = 0; j < ADAPTER_MODULES; j++) {
            const model_linear *l = &s->layers[i].linear[j];
            t->layers[i].linear[j] = pack(l->w, l->n_in, l->n_out);
            struct lora_module *adapter = lora_find(&t->lora, i, j);
            for (size_t k = 0; adapter && k < l->rank * l->n_in; k++) {
                adapter->a[k] = (float)l->a[k];
            }
            for (size_t k = 0; adapter && k < l->rank * l->n_out; k++) {
                adapter->bt[k] = (float)l->bt[k];
            }
        }
    }
}

static void free_twin(twin *t) {
    for (size_t i = 0; i < LAYERS; i++) {
        free((void *)t->layers[i].attention_norm);
        free((void *)t->layers[i].mlp_norm);
        for (size_t j = 0; j < ADAPTER_MODULES; j++) {
            free((void *)t->layers[i].linear[j].packed);
        }
    }
    free((void *)t->embedding.data);
    free((void *)t->model.head.packed);
    free((void *)t->model.final_norm);
    lora_free(&t->lora);
}

// Losses, and the gradients into lora.gradient.
static void run(twin *t, const model_batch *b, enum llama_mode mode, unsigned threads, float *losses, fault *f) {
    struct llama_limits limits = {.mode = mode, .tokens = TOKENS, .targets = TARGETS, .length = TOKENS};
    struct llama_batch batch = {.rows = b->rows, .token = b->token, .position = b->position, .targets = b->targets};
    struct llama *llama;
    limits.threads = threads;
    batch.row = b->row, batch.target = b->target;
    must(llama_open(&llama, &t->model, &t->lora, &limits, f), f);
    must(llama_forward(llama, &batch, f) && llama_loss(llama, &batch, &(struct llama_losses){.loss = losses}, f) &&
             llama_backward(llama, &batch, f),
         f);
    llama_close(llama);
    double none;
    lora_finish_gradient(&t->lora, 1, &none);
}

// The batch's segments once for each of some instances.
typedef struct stack {
    size_t start[INSTANCES * SEGMENTS + 1];
    uint32_t draw[INSTANCES * SEGMENTS], token[INSTANCES * TOKENS], position[INSTANCES * TOKENS];
    uint32_t row[INSTANCES * TARGETS], target[INSTANCES * TARGETS];
    uint8_t instance[INSTANCES * SEGMENTS];
    struct llama_batch batch;
} stack;

static void make_stack(stack *s, const model_batch *b, size_t first, size_t count) {
    *s = (stack){.batch = {.rows = {.count = count * SEGMENTS}, .targets = count * TARGETS, .step = b->step}};
    for (size_t i = 0; i < count * SEGMENTS; i++) {
        s->start[i] = i / SEGMENTS * TOKENS + b->rows.start[i % SEGMENTS];
        s->draw[i] = b->rows.draw[i % SEGMENTS], s->instance[i] = (uint8_t)(first + i / SEGMENTS);
    }
    s->start[count * SEGMENTS] = count * TOKENS;
    for (size_t i = 0; i < count * TOKENS; i++) {
        s->token[i] = b->token[i % TOKENS], s->position[i] = b->position[i % TOKENS];
    }
    for (size_t i = 0; i < count * TARGETS; i++) {
        s->row[i] = (uint32_t)(i / TARGETS * TOKENS) + b->row[i % TARGETS], s->target[i] = b->target[i % TARGETS];
    }
    s->batch.rows.start = s->start, s->batch.rows.draw = s->draw, s->batch.rows.instance = s->instance;
    s->batch.token = s->token, s->batch.position = s->position, s->batch.row = s->row, s->batch.target = s->target;
}

// Losses of all instances, and the gradients of their sum into lora.gradient.
static void run_instances(twin *t, const model_batch *b, enum llama_mode mode, size_t together, float *losses,
                          fault *f) {
    struct llama_limits limits = {
        .mode = mode, .tokens = TOKENS, .targets = TARGETS, .length = TOKENS, .threads = 2, .together = together};
    stack shared, some;
    struct llama *llama;
    make_stack(&shared, b, 0, 1);
    must(llama_open(&llama, &t->model, &t->lora, &limits, f) && llama_forward(llama, &shared.batch, f), f);
    for (size_t k = 0; k < INSTANCES; k += together) {
        make_stack(&some, b, k, k + together < INSTANCES ? together : INSTANCES - k);
        struct llama_losses of_these = {.loss = losses + k * TARGETS};
        must(llama_fork(llama, &some.batch, f) && llama_loss(llama, &some.batch, &of_these, f) &&
                 llama_backward(llama, &some.batch, f),
             f);
    }
    must(llama_join(llama, &shared.batch, f), f);
    llama_close(llama);
    double none;
    lora_finish_gradient(&t->lora, 1, &none);
}

static void compare(const char *what, const float *got, const double *want, size_t count, double limit) {
    double difference = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        difference += (got[i] - want[i]) * (got[i] - want[i]);
        norm += want[i] * want[i];
    }
    double relative = sqrt(difference / norm);
    expect(norm > 0 && relative <= limit, what, relative, limit);
}

static void check_case(uint64_t seed, unsigned modules, double p, bool activations) {
    fault f = {0};
    small_llama s;
    twin t;
    double want[TARGETS];
    float losses[TARGETS], again[TARGETS];
    small_llama_make(&s, seed, modules, p);
    if (activations) {
        small_llama_drop(&s);
    }
    make_twin(&t, &s, modules, 1, &f);
    model_f64_gradients(&s.m, &s.batch, want);
    run(&t, &s.batch, LLAMA_KEEP, 1, losses, &f);
    compare("losses", losses, want, TARGETS, 1e-6);
    const float *gradient = t.lora.gradient;
    for (size_t i = 0; i < t.lora.count; i++) {
        const struct lora_module *module = &t.lora.list[i];
        const model_linear *l = &s.layers[module->layer].linear[module->module];
        char name[64];
        snprintf(name, sizeof name, "layer %u %s", module->layer, adapter_module_name(module->module));
        compare(name, gradient, l->da, l->rank * l->n_in, 1e-5);
        gradient += l->rank * l->n_in;
        compare(name, gradient, l->dbt, l->rank * l->n_out, 1e-5);
        gradient += l->rank * l->n_out;
    }
    size_t bytes = t.lora.parameters * sizeof(float);
    float *kept = memcpy(allocate(bytes), t.lora.gradient, bytes);
    for (unsigned threads = 1; threads <= 3; threads++) {
        run(&t, &s.batch, LLAMA_RECOMPUTE, threads, again, &f);
        bool same = memcmp(again, losses, sizeof losses) == 0 && memcmp(kept, t.lora.gradient, bytes) == 0;
        expect(same, "bits of a recomputed pass, threads", threads, 0);
    }
    free(kept);
    free_twin(&t);
    small_llama_free(&s);
}

// The sum over instances of what the model in double has for each; all of them at once, some, and one at a time.
static void check_instances(uint64_t seed, unsigned modules, bool activations, unsigned first) {
    static const uint8_t instances[INSTANCES][SEGMENTS] = {{0, 0, 0}, {1, 1, 1}, {2, 2, 2}};
    fault f = {0};
    small_llama s;
    twin t;
    double want[INSTANCES * TARGETS];
    float losses[INSTANCES * TARGETS], again[INSTANCES * TARGETS];
    small_llama_make(&s, seed, modules, 0);
    if (activations) {
        small_llama_drop(&s);
    }
    small_llama_drop_matrices(&s, first);
    make_twin(&t, &s, modules, INSTANCES, &f);
    double *sum = allocate(t.lora.parameters * sizeof *sum);
    memset(sum, 0, t.lora.parameters * sizeof *sum);
    for (size_t k = 0; k < INSTANCES; k++) {
        s.batch.rows.instance = instances[k];
        model_f64_gradients(&s.m, &s.batch, want + k * TARGETS);
        double *at = sum;
        for (size_t i = 0; i < t.lora.count; i++) {
            const model_linear *l = &s.layers[t.lora.list[i].layer].linear[t.lora.list[i].module];
            for (size_t j = 0; j < l->rank * (l->n_in + l->n_out); j++) {
                *at++ += j < l->rank * l->n_in ? l->da[j] : l->dbt[j - l->rank * l->n_in];
            }
        }
    }
    run_instances(&t, &s.batch, LLAMA_KEEP, INSTANCES, losses, &f);
    compare("losses of instances", losses, want, INSTANCES * TARGETS, 1e-6);
    compare("gradients of instances", t.lora.gradient, sum, t.lora.parameters, 1e-5);
    size_t bytes = t.lora.parameters * sizeof(float);
    float *kept = memcpy(allocate(bytes), t.lora.gradient, bytes);
    for (size_t together = 1; together <= INSTANCES; together++) {
        for (enum llama_mode mode = LLAMA_KEEP; mode <= LLAMA_RECOMPUTE; mode++) {
            run_instances(&t, &s.batch, mode, together, again, &f);
            bool same = memcmp(again, losses, sizeof losses) == 0 && memcmp(kept, t.lora.gradient, bytes) == 0;
            expect(same, "bits of instances, together", (double)together, 0);
        }
    }
    free(kept);
    free(sum);
    free_twin(&t);
    small_llama_free(&s);
}

static void logits_of(struct llama *l, const model_batch *b, size_t first, size_t end, float *logits, fault *f) {
    const size_t start[] = {0, end - first};
    const uint32_t last = (uint32_t)(end - first) - 1;
    uint32_t position[TOKENS];
    for (uint32_t t = 0; t < TOKENS; t++) {
        position[t] = (uint32_t)first + t;
    }
    struct llama_batch batch = {.rows = {.count = 1, .start = start}, .token = b->token + first, .position = position};
    must(llama_forward(l, &batch, f) && llama_logits(l, 1, &last, logits, f), f);
}

// A sequence in pieces, each of which meets the keys of those before it, as the whole up to its end.
static void check_continued(uint64_t seed) {
    static const size_t ends[] = {1, 6, 7, 8, 11, TOKENS};
    float whole[VOCABULARY], continued[VOCABULARY];
    struct llama *l, *c;
    fault f = {0};
    small_llama s;
    twin t;
    small_llama_make(&s, seed, 0x7f, 0);
    make_twin(&t, &s, 0x7f, 1, &f);
    for (unsigned threads = 1; threads <= 2; threads++) {
        struct llama_limits limits = {.tokens = TOKENS, .targets = 1, .length = TOKENS, .threads = threads};
        must(llama_open(&l, &t.model, &t.lora, &limits, &f), &f);
        limits.continues = true;
        must(llama_open(&c, &t.model, &t.lora, &limits, &f), &f);
        for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
            logits_of(l, &s.batch, 0, ends[i], whole, &f);
            logits_of(c, &s.batch, i ? ends[i - 1] : 0, ends[i], continued, &f);
            expect(memcmp(whole, continued, sizeof whole) == 0, "bits of a continued sequence, tokens",
                   (double)ends[i], 0);
        }
        llama_close(l);
        llama_close(c);
    }
    free_twin(&t);
    small_llama_free(&s);
}

int main(void) {
    check_case(1, 0x7f, 0, false);
    check_case(2, 0x7f, 0.1, false);
    check_case(3, 0x7f, 0.5, false);
    check_case(4, 0x05, 0.1, false);
    check_case(5, 0x40, 0.3, false);
    check_case(6, 0x08, 0.3, false);
    check_case(7, 0x7f, 0, true);
    check_case(8, 0x7f, 0.3, true);
    check_case(9, 0x04, 0.3, true);
    check_case(10, 0x40, 0, true);
    check_instances(11, 0x7f, false, 0);
    check_instances(12, 0x7f, false, 1);
    check_instances(13, 0x7f, true, 0);
    check_instances(14, 0x05, false, 1);
    check_instances(15, 0x40, false, 1);
    check_continued(16);
    printf("%u passed, %u failed, 0 skipped\n", passed, failed);
    return failed > 0;
}
