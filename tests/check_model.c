// The whole model in double against its own differences: the gradient of every adapter, along random directions.
#include <math.h>

#include "check.h"
#include "model_f64.h"

enum { LAYERS = 2, WIDTH = 24, HEADS = 4, KV_HEADS = 2, HEAD_DIM = 8, MIDDLE = 20, VOCABULARY = 13, RANK = 3 };
enum { SEGMENTS = 3, TOKENS = 13, TARGETS = 6 };

static const double step = 1e-5, tolerance = 5e-7; // of |gradient| |direction|

static double *random_doubles(size_t count, double size) {
    double *x = check_doubles(count);
    for (size_t i = 0; i < count; i++) {
        x[i] = size * check_uniform();
    }
    return x;
}

// modules: the set of 1 << module that have an adapter.
static void make_model(model_f64 *m, model_layer_f64 *layers, unsigned modules, double p) {
    static const size_t n_in[] = {WIDTH, WIDTH, WIDTH, HEADS * HEAD_DIM, WIDTH, WIDTH, MIDDLE};
    static const size_t n_out[] = {
        HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM, WIDTH, MIDDLE, MIDDLE, WIDTH};
    *m = (model_f64){.layers = LAYERS, .width = WIDTH, .heads = HEADS, .kv_heads = KV_HEADS, .head_dim = HEAD_DIM};
    m->middle = MIDDLE, m->vocabulary = VOCABULARY, m->eps = 1e-5, m->layer = layers;
    m->embedding = random_doubles(VOCABULARY * WIDTH, 1), m->head = random_doubles(VOCABULARY * WIDTH, 1);
    m->final_norm = random_doubles(WIDTH, 1), m->lora_scale = 1.5, m->p = p, m->seed = check_random();
    double *cosine = check_doubles(TOKENS * HEAD_DIM / 2), *sine = check_doubles(TOKENS * HEAD_DIM / 2);
    for (size_t i = 0; i < TOKENS * HEAD_DIM / 2; i++) {
        double angle = 3 * check_uniform();
        cosine[i] = cos(angle), sine[i] = sin(angle);
    }
    m->cosine = cosine, m->sine = sine;
    for (size_t layer = 0; layer < LAYERS; layer++) {
        layers[layer] =
            (model_layer_f64){.attention_norm = random_doubles(WIDTH, 1), .mlp_norm = random_doubles(WIDTH, 1)};
        for (size_t i = 0; i < MODEL_MODULES; i++) {
            model_linear *l = &layers[layer].linear[i];
            *l = (model_linear){.n_in = n_in[i], .n_out = n_out[i], .w = random_doubles(n_in[i] * n_out[i], 0.4)};
            l->rank = modules >> i & 1 ? RANK : 0;
            l->a = random_doubles(l->rank * n_in[i], 0.3), l->bt = random_doubles(l->rank * n_out[i], 0.3);
            l->da = check_doubles(l->rank * n_in[i]), l->dbt = check_doubles(l->rank * n_out[i]);
        }
    }
}

static model_batch make_batch(void) {
    static const size_t start[SEGMENTS + 1] = {0, 5, 6, TOKENS};
    static const uint32_t draw[SEGMENTS] = {7, 8, 9};
    static const uint32_t row[TARGETS] = {1, 3, 4, 5, 9, 12};
    static uint32_t token[TOKENS], position[TOKENS], target[TARGETS];
    for (size_t i = 0, t = 0; t < TOKENS; t++) {
        i += t == start[i + 1];
        token[t] = (uint32_t)check_below(VOCABULARY);
        position[t] = (uint32_t)(t - start[i]);
    }
    for (size_t i = 0; i < TARGETS; i++) {
        target[i] = (uint32_t)check_below(VOCABULARY);
    }
    return (model_batch){.rows = {.count = SEGMENTS, .start = start, .draw = draw},
                         .token = token,
                         .position = position,
                         .targets = TARGETS,
                         .row = row,
                         .target = target};
}

static void check_parameter(const model_f64 *m, const model_batch *b, const char *name, double *x,
                            const double *gradient, size_t count) {
    double losses[TARGETS], got = 0, norm = 0, size = 0;
    const double *d = random_doubles(count, 1);
    for (size_t i = 0; i < count; i++) {
        x[i] += step * d[i];
        got += gradient[i] * d[i], norm += gradient[i] * gradient[i], size += d[i] * d[i];
    }
    double up = model_f64_loss(m, b, losses);
    for (size_t i = 0; i < count; i++) {
        x[i] -= 2 * step * d[i];
    }
    double down = model_f64_loss(m, b, losses), want = (up - down) / (2 * step);
    for (size_t i = 0; i < count; i++) {
        x[i] += step * d[i];
    }
    if (!(norm > 0) || !(fabs(got - want) <= tolerance * sqrt(norm * size))) {
        check_fail("d loss / d %s: got %.12g, differences say %.12g", name, got, want);
    }
}

CHECK_ONCE(model_f64_gradients, 0) {
    static const struct {
        unsigned modules;
        double p;
    } cases[] = {{0x7f, 0}, {0x7f, 0.3}, {0x05, 0.1}, {0x40, 0.5}, {0x08, 0.3}};
    static const char *const names[] = {"q", "k", "v", "o", "gate", "up", "down"};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        check_shape("modules=0x%02x p=%g", cases[c].modules, cases[c].p);
        model_f64 m;
        model_layer_f64 layers[LAYERS];
        double losses[TARGETS];
        make_model(&m, layers, cases[c].modules, cases[c].p);
        model_batch b = make_batch();
        model_f64_gradients(&m, &b, losses);
        for (size_t i = 0; i < LAYERS * MODEL_MODULES; i++) {
            const model_linear *l = &layers[i / MODEL_MODULES].linear[i % MODEL_MODULES];
            if (l->rank) {
                check_parameter(&m, &b, names[i % MODEL_MODULES], l->a, l->da, l->rank * l->n_in);
                check_parameter(&m, &b, names[i % MODEL_MODULES], l->bt, l->dbt, l->rank * l->n_out);
            }
        }
    }
}
