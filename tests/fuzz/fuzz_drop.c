// Any bytes are an argument of --drop that is refused, or a dropout that its own text gives back and that a model's
// layers can draw.
#include <stdlib.h>
#include <string.h>

#include "../../trainer/config.h"
#include "../../trainer/dropout.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool kept) {
    if (!kept) {
        abort();
    }
}

static void check_dropout(const struct dropout *d) {
    char text[DROPOUT_TEXT], again[DROPOUT_TEXT];
    struct dropout back;
    fault f = {0};
    check(d->position < DROPOUT_POSITIONS && d->pattern < DROPOUT_PATTERNS && d->compensation < DROPOUT_COMPENSATIONS);
    check(d->p >= 0 && d->p < 1 && d->layers.first <= d->layers.last && dropout_modules(d) && d->option);
    dropout_print(text, d);
    check(dropout_parse(&back, text, "lodrop-train", &f));
    dropout_print(again, &back);
    check(strcmp(text, again) == 0);
    static struct layer_dropouts layers[MODEL_MAX_LAYERS];
    static struct dropouts list = {.count = 1};
    static const struct dropout_frame frame = {MODEL_MAX_LAYERS, ADAPTER_ALL_MODULES, "lodrop-train"};
    list.list[0] = *d;
    check(!dropouts_fit(&list, &frame, &f) ||
          dropouts_of_layers(layers, MODEL_MAX_LAYERS, &list, 1, &f));
    list.list[1] = back, list.count = 2;
    check(!dropouts_fit(&list, &frame, &f)); // twice the same
    list.count = 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct dropout d = {0};
    fault f = {0};
    char *text = malloc(size + 1);
    memcpy(text, data, size);
    text[size] = 0;
    if (dropout_parse(&d, text, "lodrop-train", &f)) {
        check_dropout(&d);
    } else {
        check(f.status == FAULT_INPUT && strncmp(f.text, "lodrop-train: --drop", 20) == 0);
    }
    free(text);
    return 0;
}
