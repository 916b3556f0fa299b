// The whole model in double against its own differences: the gradient of every adapter, along random directions.
// (L(x + h d) - L(x - h d)) / 2h = <gradient, d>, h = 1e-5: truncation and cancellation both stay below 1e-9.
#include <math.h>
#include <stdio.h>

#include "small_llama.h"

static const double step = 1e-5, tolerance = 5e-7; // of |gradient| |direction|

static void move(double *x, const double *direction, size_t count, double by) {
    for (size_t i = 0; i < count; i++) {
        x[i] += by * direction[i];
    }
}

static bool agrees(small_llama *s, const char *name, double *x, const double *gradient, size_t count) {
    double losses[TARGETS], got = 0, norm = 0, size = 0;
    const double *d = small_random(s, count, 1);
    for (size_t i = 0; i < count; i++) {
        got += gradient[i] * d[i], norm += gradient[i] * gradient[i], size += d[i] * d[i];
    }
    move(x, d, count, step);
    double up = model_f64_loss(&s->m, &s->batch, losses);
    move(x, d, count, -2 * step);
    double down = model_f64_loss(&s->m, &s->batch, losses), want = (up - down) / (2 * step);
    move(x, d, count, step);
    bool good = norm > 0 && fabs(got - want) <= tolerance * sqrt(norm * size);
    if (!good) {
        printf("FAIL d loss / d %s: got %.12g, differences say %.12g\n", name, got, want);
    }
    return good;
}

int main(void) {
    static const struct {
        unsigned modules;
        double p;
        bool activations, matrices;
    } cases[] = {{0x7f, 0, false, false}, {0x7f, 0.3, false, false}, {0x05, 0.1, false, false},
                 {0x40, 0.5, false, false}, {0x08, 0.3, false, false}, {0x7f, 0, true, false},
                 {0x01, 0.3, true, false}, {0x60, 0, true, false},    {0x7f, 0, false, true},
                 {0x48, 0, true, true}};
    static const uint8_t instance[SEGMENTS] = {3, 3, 3};
    static const char *const names[] = {"q", "k", "v", "o", "gate", "up", "down"};
    unsigned passed = 0, failed = 0;
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        small_llama s;
        double losses[TARGETS];
        small_llama_make(&s, 1 + c, cases[c].modules, cases[c].p);
        if (cases[c].activations) {
            small_llama_drop(&s);
        }
        if (cases[c].matrices) {
            small_llama_drop_matrices(&s, 0);
            s.batch.rows.instance = instance;
        }
        model_f64_gradients(&s.m, &s.batch, losses);
        for (size_t i = 0; i < LAYERS * MODEL_MODULES; i++) {
            const model_linear *l = &s.layers[i / MODEL_MODULES].linear[i % MODEL_MODULES];
            if (l->rank) {
                bool a = agrees(&s, names[i % MODEL_MODULES], l->a, l->da, l->rank * l->n_in);
                bool b = agrees(&s, names[i % MODEL_MODULES], l->bt, l->dbt, l->rank * l->n_out);
                passed += (unsigned)a + b;
                failed += (unsigned)!a + !b;
            }
        }
        small_llama_free(&s);
    }
    printf("%u passed, %u failed, 0 skipped\n", passed, failed);
    return failed > 0;
}
