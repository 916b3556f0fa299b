#include "adalora.h"

void adalora_multiply(struct lora *l) {
    for (size_t i = 0; i < l->count; i++) {
        const struct lora_module *m = &l->list[i];
        for (size_t k = 0; k < l->rank; k++) {
            for (size_t j = 0; j < m->n_in; j++) {
                m->la[k * m->n_in + j] = m->diagonal[k] * m->a[k * m->n_in + j];
            }
        }
    }
}

void adalora_split(struct lora *l) {
    for (size_t i = 0; i < l->count; i++) {
        const struct lora_module *m = &l->list[i];
        float *da = l->gradient + (m->a - l->value), *dl = l->gradient + (m->diagonal - l->value);
        for (size_t k = 0; k < l->rank; k++) {
            double sum = 0;
            for (size_t j = 0; j < m->n_in; j++) {
                float *g = &da[k * m->n_in + j];
                sum += (double)*g * m->a[k * m->n_in + j];
                *g *= m->diagonal[k];
            }
            dl[k] = (float)sum;
        }
    }
}

// ||X X' - I||^2 of x [rank][n], whose gradient is 4 (X X' - I) X.
static double add_term(const float *x, float *gradient, size_t rank, size_t n, double weight) {
    double total = 0;
    for (size_t i = 0; i < rank; i++) {
        for (size_t k = 0; k < rank; k++) {
            double apart = i == k ? -1 : 0;
            for (size_t j = 0; j < n; j++) {
                apart += (double)x[i * n + j] * x[k * n + j];
            }
            total += apart * apart;
            for (size_t j = 0; j < n; j++) {
                gradient[i * n + j] += (float)(4 * weight * apart * x[k * n + j]);
            }
        }
    }
    return total;
}

double adalora_orthogonality(struct lora *l, double weight) {
    double total = 0;
    for (size_t i = 0; i < l->count; i++) {
        const struct lora_module *m = &l->list[i];
        total += add_term(m->a, l->gradient + (m->a - l->value), l->rank, m->n_in, weight);
        total += add_term(m->bt, l->gradient + (m->bt - l->value), l->rank, m->n_out, weight);
    }
    return total;
}
