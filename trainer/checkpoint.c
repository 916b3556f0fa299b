#include "checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "json.h"
#include "safetensors.h"
#include "train_options.h"

// A new checkpoint is written as checkpoint.new, with state.json last; then checkpoint steps aside to checkpoint.old,
// the new one takes its name, and the old one goes. So one of checkpoint and checkpoint.old is complete at any time.
static const char CURRENT[] = "checkpoint", FRESH[] = "checkpoint.new", FORMER[] = "checkpoint.old";
static const char STATE_FILE[] = "state.json", MOMENTS_FILE[] = "moments.safetensors", METRICS_FILE[] = "metrics.jsonl";
static const char BEST_FILE[] = "best.safetensors";

enum { FORMAT = 2 }; // 2: with the model's fingerprint

// --- Folders ---

// Removes a folder of plain files; one that is not there is fine.
static bool remove_folder(const char *path, fault *f) {
    DIR *folder = opendir(path);
    if (!folder) {
        return errno == ENOENT || fault_system(f, path, "cannot open", errno);
    }
    bool done = true;
    for (struct dirent *e; done && (e = readdir(folder));) {
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) {
            done = unlinkat(dirfd(folder), e->d_name, 0) == 0 || fault_system(f, path, "cannot empty", errno);
        }
    }
    closedir(folder);
    return done && (rmdir(path) == 0 || fault_system(f, path, "cannot remove", errno));
}

static bool move(const char *from, const char *to, fault *f) {
    return rename(from, to) == 0 || fault_system(f, to, "cannot rename to", errno);
}

struct places {
    char current[FILE_PATH_MAX], fresh[FILE_PATH_MAX], former[FILE_PATH_MAX];
};

static bool find_places(struct places *p, const char *output, fault *f) {
    return file_path(p->current, output, CURRENT, f) && file_path(p->fresh, output, FRESH, f) &&
           file_path(p->former, output, FORMER, f);
}

bool checkpoint_find(char folder[FILE_PATH_MAX], const char *output, fault *f) {
    struct places p;
    *folder = 0;
    if (!find_places(&p, output, f)) {
        return false;
    }
    if (file_is_folder(p.current)) {
        strcpy(folder, p.current);
    } else if (file_is_folder(p.former)) {
        strcpy(folder, p.former);
    }
    return true;
}

static bool replace(const struct places *p, fault *f) {
    if (file_is_folder(p->current) && (!remove_folder(p->former, f) || !move(p->current, p->former, f))) {
        return false;
    }
    return file_rename(p->fresh, p->current, f) && remove_folder(p->former, f);
}

// Takes the name away first: what is half removed must not pass for a checkpoint.
static bool drop_folder(const struct places *p, const char *folder, fault *f) {
    return !file_is_folder(folder) || (move(folder, p->fresh, f) && remove_folder(p->fresh, f));
}

bool checkpoint_remove(const char *output, fault *f) {
    struct places p;
    return find_places(&p, output, f) && remove_folder(p.fresh, f) && drop_folder(&p, p.former, f) &&
           drop_folder(&p, p.current, f);
}

// --- Contents ---

static bool write_state(const char *folder, const struct checkpoint *c, const struct train_options *options, fault *f) {
    char path[FILE_PATH_MAX], data[32], held_out[32], model[32];
    snprintf(data, sizeof data, "%016" PRIx64, c->data);
    snprintf(held_out, sizeof held_out, "%016" PRIx64, c->held_out);
    snprintf(model, sizeof model, "%016" PRIx64, c->model);
    json_t *root = json_pack("{s:I, s:I, s:I, s:s, s:s, s:s, s:o}", "format", (json_int_t)FORMAT, "step",
                             (json_int_t)c->step, "draw", (json_int_t)c->draw, "data", data, "eval_data", held_out,
                             "model", model, "options", options_json(&train_option_table, options));
    bool done = root ? file_path(path, folder, STATE_FILE, f) && json_write_file(root, path, f)
                     : fault_memory(f, "the checkpoint");
    json_decref(root);
    return done;
}

static bool write_moments(const char *folder, const struct lora *l, fault *f) {
    char path[FILE_PATH_MAX];
    const struct tensor_source tensors[] = {
        {.name = "moment1", .ndim = 1, .shape = {l->parameters}, .data = l->moment1},
        {.name = "moment2", .ndim = 1, .shape = {l->parameters}, .data = l->moment2},
        {.name = "values", .ndim = 1, .shape = {l->parameters}, .data = l->value}, // which the adapter multiplies
    };
    return file_path(path, folder, MOMENTS_FILE, f) && safetensors_write(path, tensors, l->diagonal ? 3 : 2, f);
}

static bool write_best(const char *folder, const float *best, size_t parameters, fault *f) {
    char path[FILE_PATH_MAX];
    const struct tensor_source tensor = {.name = "value", .ndim = 1, .shape = {parameters}, .data = best};
    return !best || (file_path(path, folder, BEST_FILE, f) && safetensors_write(path, &tensor, 1, f));
}

bool checkpoint_save(const char *output, const struct checkpoint *c, const struct checkpoint_parts *parts, fault *f) {
    struct places p;
    char metrics[FILE_PATH_MAX];
    if (!find_places(&p, output, f) || !remove_folder(p.fresh, f) || !file_make_folders(p.fresh, f)) {
        return false;
    }
    bool done = lora_write(parts->lora, p.fresh, parts->config, parts->recipe, f) &&
                write_moments(p.fresh, parts->lora, f) &&
                write_best(p.fresh, parts->best, parts->lora->parameters, f) &&
                file_path(metrics, p.fresh, METRICS_FILE, f) && history_write(parts->history, metrics, f) &&
                write_state(p.fresh, c, parts->options, f);
    if (!done) {
        remove_folder(p.fresh, NULL);
        return false;
    }
    return replace(&p, f);
}

static bool read_state_file(json_t **root, char path[FILE_PATH_MAX], const char *folder, fault *f) {
    int64_t format = 0;
    *root = NULL;
    return file_path(path, folder, STATE_FILE, f) && json_read_file(root, path, f) &&
           json_get_integer((struct json_scope){.object = *root, .file = path}, "format", JSON_REQUIRED, FORMAT, FORMAT,
                            &format, f);
}

bool checkpoint_read_options(const char *folder, struct train_options *options, fault *f) {
    char path[FILE_PATH_MAX];
    json_t *root;
    const json_t *object = NULL;
    bool done =
        read_state_file(&root, path, folder, f) &&
        json_get_object((struct json_scope){.object = root, .file = path}, "options", JSON_REQUIRED, &object, f) &&
        options_from_json(&train_option_table, options, object, path, f);
    json_decref(root);
    return done;
}

bool checkpoint_read_state(const char *folder, struct checkpoint *c, fault *f) {
    char path[FILE_PATH_MAX];
    json_t *root;
    int64_t step = 0, draw = 0;
    const char *data = "", *held_out = "", *model = "";
    bool done = read_state_file(&root, path, folder, f);
    struct json_scope s = {.object = root, .file = path};
    done = done && json_get_integer(s, "step", JSON_REQUIRED, 0, INT64_MAX, &step, f) &&
           json_get_integer(s, "draw", JSON_REQUIRED, 0, UINT32_MAX, &draw, f) &&
           json_get_string(s, "data", JSON_REQUIRED, &data, f) &&
           json_get_string(s, "eval_data", JSON_REQUIRED, &held_out, f) &&
           json_get_string(s, "model", JSON_REQUIRED, &model, f);
    if (done) {
        *c = (struct checkpoint){.step = (uint64_t)step,
                                 .draw = (uint64_t)draw,
                                 .data = strtoull(data, NULL, 16),
                                 .held_out = strtoull(held_out, NULL, 16),
                                 .model = strtoull(model, NULL, 16)};
    }
    json_decref(root);
    return done;
}

static bool read_moments(const char *folder, struct lora *l, fault *f) {
    char path[FILE_PATH_MAX];
    struct safetensors *file = NULL;
    const struct tensor_view *first, *second, *values;
    bool done = file_path(path, folder, MOMENTS_FILE, f) && safetensors_open(&file, path, f) &&
                safetensors_weight(file, "moment1", 1, &l->parameters, &first, f) &&
                safetensors_weight(file, "moment2", 1, &l->parameters, &second, f);
    if (done) {
        tensor_widen(first, 0, l->parameters, l->moment1);
        tensor_widen(second, 0, l->parameters, l->moment2);
    }
    if (done && l->diagonal) {
        done = safetensors_weight(file, "values", 1, &l->parameters, &values, f);
        if (done) {
            tensor_widen(values, 0, l->parameters, l->value);
            lora_refresh(l);
        }
    }
    safetensors_close(file);
    return done;
}

bool checkpoint_read_best(const char *folder, float *best, size_t parameters, fault *f) {
    char path[FILE_PATH_MAX];
    struct safetensors *file = NULL;
    const struct tensor_view *value;
    bool done = file_path(path, folder, BEST_FILE, f) && safetensors_open(&file, path, f) &&
                safetensors_weight(file, "value", 1, &parameters, &value, f);
    if (done) {
        tensor_widen(value, 0, parameters, best);
    }
    safetensors_close(file);
    return done;
}

bool checkpoint_read_values(const char *folder, struct lora *l, struct history *history, fault *f) {
    char metrics[FILE_PATH_MAX];
    return (l->diagonal || lora_read(l, folder, f)) && read_moments(folder, l, f) &&
           file_path(metrics, folder, METRICS_FILE, f) && history_read(history, metrics, f);
}
