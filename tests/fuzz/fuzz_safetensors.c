// Any bytes are a safetensors file that is refused, or one whose every tensor can be read to its last byte.
#include <stdlib.h>
#include <string.h>

#include "../../trainer/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_all(const uint8_t *data, size_t size) {
    struct safetensors *s;
    fault f = {0};
    if (!safetensors_open_bytes(&s, data, size, "fuzz", &f)) {
        if (f.status == 0 || !f.text[0] || s) {
            abort();
        }
        return;
    }
    for (size_t i = 0; i < safetensors_count(s); i++) {
        const struct tensor_view *view = safetensors_at(s, i), *same;
        if (safetensors_find(s, view->name) != view) {
            abort();
        }
        uint8_t *copy = malloc(view->bytes + 1);
        memcpy(copy, view->data, view->bytes);
        free(copy);
        if (safetensors_weight(s, view->name, view->ndim, view->shape, &same, &f)) {
            float *wide = malloc(view->count * sizeof *wide + 1);
            tensor_widen(view, 0, view->count, wide);
            free(wide);
        }
    }
    safetensors_close(s);
}

// Once as it is, and once with the header's length set right: else few changed headers get past the first check.
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    read_all(data, size);
    uint64_t end = size;
    while (end > 8 && data[end - 1] != '}') {
        end--;
    }
    if (end > 8) {
        uint8_t *copy = malloc(size);
        memcpy(copy, data, size);
        end -= 8;
        memcpy(copy, &end, 8);
        read_all(copy, size);
        free(copy);
    }
    return 0;
}
