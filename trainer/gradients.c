#include "gradients.h"

#include <stdio.h>
#include <stdlib.h>

#include "safetensors.h"

static void name_tensor(char name[128], const struct lora_module *m, char matrix) {
    snprintf(name, 128, "base_model.model.model.layers.%u.%s.%s.lora_%c.weight", m->layer,
             m->module <= ADAPTER_O_PROJ ? "self_attn" : "mlp", adapter_module_name(m->module), matrix);
}

// out [columns][rows] = in [rows][columns] turned.
static void transpose(float *out, const float *in, size_t rows, size_t columns) {
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < columns; j++) {
            out[j * rows + i] = in[i * columns + j];
        }
    }
}

bool gradients_write(const char *path, const struct lora *l, double loss, fault *f) {
    float loss32 = (float)loss;
    size_t count = 2 * l->count + 1;
    struct tensor_source *tensors = calloc(count, sizeof *tensors);
    char(*names)[128] = calloc(count, sizeof *names);
    float *turned = malloc(l->parameters * sizeof *turned);
    bool done = (tensors && names && turned) || fault_memory(f, "the gradients");
    for (size_t i = 0; done && i < l->count; i++) {
        const struct lora_module *m = &l->list[i];
        const float *da = l->gradient + (m->a - l->value), *dbt = l->gradient + (m->bt - l->value);
        float *db = turned + (m->bt - l->value); // [n_out][r]
        transpose(db, dbt, l->rank, m->n_out);
        name_tensor(names[2 * i], m, 'A');
        name_tensor(names[2 * i + 1], m, 'B');
        tensors[2 * i] =
            (struct tensor_source){.name = names[2 * i], .ndim = 2, .shape = {l->rank, m->n_in}, .data = da};
        tensors[2 * i + 1] =
            (struct tensor_source){.name = names[2 * i + 1], .ndim = 2, .shape = {m->n_out, l->rank}, .data = db};
    }
    if (done) {
        tensors[count - 1] = (struct tensor_source){.name = "loss", .data = &loss32};
        done = safetensors_write(path, tensors, count, f);
    }
    free(tensors);
    free(names);
    free(turned);
    return done;
}
