#include "history.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "file.h"
#include "json.h"

void history_free(struct history *h) {
    free(h->list);
    *h = (struct history){0};
}

bool history_add(struct history *h, const struct step_metrics *m, fault *f) {
    if (h->count == h->capacity) {
        size_t capacity = h->capacity ? 2 * h->capacity : 256;
        struct step_metrics *list = realloc(h->list, capacity * sizeof *list);
        if (!list) {
            return fault_memory(f, "the metrics");
        }
        h->list = list;
        h->capacity = capacity;
    }
    h->list[h->count++] = *m;
    return true;
}

double history_recent_loss(const struct history *h, size_t n) {
    size_t first = h->count > n ? h->count - n : 0;
    double sum = 0;
    for (size_t i = first; i < h->count; i++) {
        sum += h->list[i].loss;
    }
    return h->count ? sum / (double)(h->count - first) : 0;
}

enum { LINE_SIZE = 1024 }; // %.1f alone can take 311

// Seventeen digits give every double back.
static int format_line(char line[LINE_SIZE], const struct step_metrics *m) {
    char held_out[64] = "", answers[96] = "", divergence[64] = "", orthogonality[64] = "";
    if (m->has_divergence) {
        snprintf(divergence, sizeof divergence, ", \"divergence\": %.17g", m->divergence);
    }
    if (m->has_orthogonality) {
        snprintf(orthogonality, sizeof orthogonality, ", \"orthogonality\": %.17g", m->orthogonality);
    }
    if (m->eval_loss >= 0) {
        snprintf(held_out, sizeof held_out, ", \"eval_loss\": %.17g", m->eval_loss);
    }
    if (m->eval_accuracy >= 0) {
        snprintf(answers, sizeof answers, ", \"eval_accuracy\": %.17g, \"eval_ece\": %.17g", m->eval_accuracy,
                 m->eval_ece);
    }
    return snprintf(line, LINE_SIZE,
                    "{\"step\": %" PRIu64 ", \"loss\": %.17g%s%s, \"learning_rate\": %.17g, \"grad_norm\": %.17g, "
                    "\"tokens_per_second\": %.1f%s%s}\n",
                    m->step, m->loss, divergence, orthogonality, m->learning_rate, m->grad_norm, m->tokens_per_second,
                    held_out, answers);
}

bool history_print_line(FILE *out, const struct step_metrics *m) {
    char line[LINE_SIZE];
    format_line(line, m);
    return fputs(line, out) >= 0 && fflush(out) == 0;
}

bool history_write(const struct history *h, const char *path, fault *f) {
    struct file_writer w;
    bool done = file_writer_open(&w, path, f);
    for (size_t i = 0; done && i < h->count; i++) {
        char line[LINE_SIZE];
        int length = format_line(line, &h->list[i]);
        done = file_write(&w, line, (size_t)length, f);
    }
    done = done && file_commit(&w, f);
    file_abandon(&w);
    return done;
}

static bool read_line(struct history *h, const uint8_t *line, size_t size, const char *path, fault *f) {
    json_t *root;
    if (!json_read_bytes(&root, line, size, path, f)) {
        return false;
    }
    struct json_scope s = {.object = root, .file = path};
    struct step_metrics m = {.eval_loss = -1,
                             .eval_accuracy = -1,
                             .eval_ece = -1,
                             .has_divergence = json_has(s, "divergence"),
                             .has_orthogonality = json_has(s, "orthogonality")};
    int64_t step = 0;
    bool done = json_get_integer(s, "step", JSON_REQUIRED, 1, INT64_MAX, &step, f) &&
                json_get_number(s, "loss", JSON_REQUIRED, -HUGE_VAL, HUGE_VAL, &m.loss, f) &&
                json_get_number(s, "divergence", JSON_OPTIONAL, -HUGE_VAL, HUGE_VAL, &m.divergence, f) &&
                json_get_number(s, "orthogonality", JSON_OPTIONAL, 0, HUGE_VAL, &m.orthogonality, f) &&
                json_get_number(s, "learning_rate", JSON_REQUIRED, 0, HUGE_VAL, &m.learning_rate, f) &&
                json_get_number(s, "grad_norm", JSON_REQUIRED, 0, HUGE_VAL, &m.grad_norm, f) &&
                json_get_number(s, "tokens_per_second", JSON_REQUIRED, 0, HUGE_VAL, &m.tokens_per_second, f) &&
                json_get_number(s, "eval_loss", JSON_OPTIONAL, 0, HUGE_VAL, &m.eval_loss, f) &&
                json_get_number(s, "eval_accuracy", JSON_OPTIONAL, 0, 1, &m.eval_accuracy, f) &&
                json_get_number(s, "eval_ece", JSON_OPTIONAL, 0, 1, &m.eval_ece, f);
    m.step = (uint64_t)step;
    json_decref(root);
    return done && history_add(h, &m, f);
}

bool history_read(struct history *h, const char *path, fault *f) {
    struct mapped_file map;
    if (!file_map(&map, path, f)) {
        return false;
    }
    bool done = true;
    for (size_t at = 0; done && at < map.size;) {
        const uint8_t *end = memchr(map.data + at, '\n', map.size - at);
        size_t next = end ? (size_t)(end - map.data) + 1 : map.size;
        done = read_line(h, map.data + at, next - at, path, f);
        at = next;
    }
    file_unmap(&map);
    return done;
}
