#include "safetensors.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "file.h"
#include "json.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensor data is copied as it lies in the file");

enum { LENGTH_BYTES = 8, MAX_HEADER_BYTES = 100 * 1000 * 1000 };

static const struct {
    const char *name;
    size_t bytes;
} types[TENSOR_TYPES] = {
    [TENSOR_BOOL] = {"BOOL", 1}, [TENSOR_U8] = {"U8", 1},   [TENSOR_I8] = {"I8", 1},   [TENSOR_I16] = {"I16", 2},
    [TENSOR_I32] = {"I32", 4},   [TENSOR_I64] = {"I64", 8}, [TENSOR_F16] = {"F16", 2}, [TENSOR_BF16] = {"BF16", 2},
    [TENSOR_F32] = {"F32", 4},   [TENSOR_F64] = {"F64", 8},
};

struct safetensors {
    char *file; // for faults
    struct mapped_file map;
    json_t *header; // owns the names
    struct tensor_view *views;
    size_t count;
    struct safetensors **parts; // of an index: its files; they own names and data then
    size_t n_parts;
};

void safetensors_close(struct safetensors *s) {
    if (!s) {
        return;
    }
    for (size_t i = 0; i < s->n_parts; i++) {
        safetensors_close(s->parts[i]);
    }
    free(s->parts);
    free(s->views);
    free(s->file);
    json_decref(s->header);
    file_unmap(&s->map);
    free(s);
}

static struct safetensors *new_safetensors(const char *file, fault *f) {
    struct safetensors *s = calloc(1, sizeof *s);
    if (s) {
        s->file = strdup(file);
    }
    if (!s || !s->file) {
        free(s);
        fault_memory(f, file);
        return NULL;
    }
    return s;
}

static int by_name(const void *left, const void *right) {
    const struct tensor_view *l = left, *r = right;
    return strcmp(l->name, r->name);
}

static int by_place(const void *left, const void *right) {
    const struct tensor_view *l = left, *r = right;
    if (l->data != r->data) {
        return l->data < r->data ? -1 : 1;
    }
    return l->bytes < r->bytes ? -1 : l->bytes > r->bytes;
}

// The product of the shape, and the bytes it takes; false where a size_t cannot hold them.
static bool measure_shape(struct tensor_view *view) {
    view->count = 1;
    bool overflow = false;
    bool empty = false;
    for (unsigned d = 0; d < view->ndim; d++) {
        empty |= view->shape[d] == 0;
        overflow |= __builtin_mul_overflow(view->count, view->shape[d], &view->count);
    }
    if (empty) {
        view->count = view->bytes = 0;
        return true;
    }
    return !(overflow | __builtin_mul_overflow(view->count, types[view->type].bytes, &view->bytes));
}

static bool read_type(struct tensor_view *view, struct json_scope scope, fault *f) {
    const char *name;
    if (!json_get_string(scope, "dtype", JSON_REQUIRED, &name, f)) {
        return false;
    }
    for (int t = 0; t < TENSOR_TYPES; t++) {
        if (strcmp(name, types[t].name) == 0) {
            view->type = (enum tensor_type)t;
            return true;
        }
    }
    return json_fault(scope, "dtype", f, "unknown dtype \"%s\"", name);
}

static bool read_shape(struct tensor_view *view, struct json_scope scope, fault *f) {
    const json_t *shape;
    if (!json_get_array(scope, "shape", JSON_REQUIRED, &shape, f)) {
        return false;
    }
    if (json_array_size(shape) > TENSOR_MAX_DIMS) {
        return json_fault(scope, "shape", f, "%zu dimensions, at most %d can be read", json_array_size(shape),
                          TENSOR_MAX_DIMS);
    }
    view->ndim = (unsigned)json_array_size(shape);
    for (unsigned d = 0; d < view->ndim; d++) {
        const json_t *extent = json_array_get(shape, d);
        if (!json_is_integer(extent) || json_integer_value(extent) < 0 ||
            (uint64_t)json_integer_value(extent) > SIZE_MAX) {
            return json_fault(scope, "shape", f, "dimension %u is not an integer of at least 0", d);
        }
        view->shape[d] = (size_t)json_integer_value(extent);
    }
    return measure_shape(view) || json_fault(scope, "shape", f, "the product of the dimensions overflows");
}

// Sets view->data within `size` bytes of tensor data.
static bool read_place(struct tensor_view *view, struct json_scope scope, const uint8_t *data, size_t size, fault *f) {
    const json_t *offsets;
    if (!json_get_array(scope, "data_offsets", JSON_REQUIRED, &offsets, f)) {
        return false;
    }
    const json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(last)) {
        return json_fault(scope, "data_offsets", f, "must be two integers");
    }
    int64_t begin = json_integer_value(first), end = json_integer_value(last);
    if (begin < 0 || begin > end) {
        return json_fault(scope, "data_offsets", f, "[%" PRId64 ", %" PRId64 "] is no range", begin, end);
    }
    if ((uint64_t)end > size) {
        return json_fault(scope, "data_offsets", f, "end %" PRId64 " lies past the %zu bytes of tensor data", end,
                          size);
    }
    if ((uint64_t)(end - begin) != view->bytes) {
        return json_fault(scope, "data_offsets", f, "%" PRId64 " bytes, but dtype and shape take %zu", end - begin,
                          view->bytes);
    }
    view->data = data + begin;
    return true;
}

static bool read_view(struct tensor_view *view, const char *name, const json_t *entry, const uint8_t *data, size_t size,
                      const char *file, fault *f) {
    if (!json_is_object(entry)) {
        return fault_set(f, FAULT_INPUT, file, name, "not an object");
    }
    struct json_scope scope = {.object = entry, .file = file, .within = name};
    view->name = name;
    return read_type(view, scope, f) && read_shape(view, scope, f) && read_place(view, scope, data, size, f);
}

static bool check_metadata(const json_t *metadata, const char *file, fault *f) {
    const char *key;
    json_t *value;
    bool strings = json_is_object(metadata);
    json_object_foreach((json_t *)metadata, key, value) {
        strings &= json_is_string(value);
    }
    return strings || fault_set(f, FAULT_INPUT, file, "__metadata__", "not an object of strings");
}

// Tensors must cover the data without a gap and without overlap, as the format demands.
static bool check_places(struct safetensors *s, const uint8_t *data, size_t size, fault *f) {
    qsort(s->views, s->count, sizeof *s->views, by_place);
    const uint8_t *expected = data;
    for (size_t i = 0; i < s->count; i++) {
        const struct tensor_view *view = &s->views[i];
        if (view->data != expected) {
            return fault_set(f, FAULT_INPUT, s->file, view->name,
                             view->data < expected ? "its data overlap those of tensor \"%s\""
                                                   : "there are unused bytes between its data and tensor \"%s\"",
                             i ? s->views[i - 1].name : "");
        }
        expected += view->bytes;
    }
    if (expected != data + size) {
        return fault_set(f, FAULT_INPUT, s->file, NULL, "%zu bytes at the end belong to no tensor",
                         (size_t)(data + size - expected));
    }
    return true;
}

static bool read_views(struct safetensors *s, const uint8_t *data, size_t size, fault *f) {
    size_t entries = json_object_size(s->header);
    s->views = calloc(entries + 1, sizeof *s->views);
    if (!s->views) {
        return fault_memory(f, s->file);
    }
    const char *name;
    json_t *entry;
    json_object_foreach(s->header, name, entry) {
        if (strcmp(name, "__metadata__") == 0) {
            if (!check_metadata(entry, s->file, f)) {
                return false;
            }
        } else if (!read_view(&s->views[s->count++], name, entry, data, size, s->file, f)) {
            return false;
        }
    }
    if (!check_places(s, data, size, f)) {
        return false;
    }
    qsort(s->views, s->count, sizeof *s->views, by_name);
    return true;
}

static bool read_header(struct safetensors *s, const uint8_t *bytes, size_t size, fault *f) {
    if (size < LENGTH_BYTES) {
        return fault_set(f, FAULT_INPUT, s->file, "header length", "the file has %zu bytes, too few for a header",
                         size);
    }
    uint64_t length;
    memcpy(&length, bytes, sizeof length);
    if (length > MAX_HEADER_BYTES) {
        return fault_set(f, FAULT_INPUT, s->file, "header length", "%" PRIu64 " bytes, at most %d are allowed", length,
                         MAX_HEADER_BYTES);
    }
    if (length > size - LENGTH_BYTES) {
        return fault_set(f, FAULT_INPUT, s->file, "header length",
                         "%" PRIu64 " bytes, but only %zu follow: the file is truncated", length, size - LENGTH_BYTES);
    }
    const uint8_t *header = bytes + LENGTH_BYTES;
    if (length == 0 || header[0] != '{') {
        return fault_set(f, FAULT_INPUT, s->file, "header", "does not start with {");
    }
    return json_read_bytes(&s->header, header, (size_t)length, s->file, f) &&
           read_views(s, header + length, size - LENGTH_BYTES - (size_t)length, f);
}

bool safetensors_open_bytes(struct safetensors **opened, const void *data, size_t size, const char *file, fault *f) {
    *opened = new_safetensors(file, f);
    if (*opened && !read_header(*opened, data, size, f)) {
        safetensors_close(*opened);
        *opened = NULL;
    }
    return *opened;
}

static bool open_file(struct safetensors **opened, const char *path, fault *f) {
    struct mapped_file map;
    *opened = NULL;
    if (!file_map(&map, path, f)) {
        return false;
    }
    if (!safetensors_open_bytes(opened, map.data, map.size, path, f)) {
        file_unmap(&map);
        return false;
    }
    (*opened)->map = map;
    return true;
}

// The part of that file name, opened on first use.
static struct safetensors *open_part(struct safetensors *s, const char *folder, const char *name, fault *f) {
    char path[FILE_PATH_MAX];
    if (strchr(name, '/') || name[0] == '.' || !*name) {
        fault_set(f, FAULT_INPUT, s->file, "weight_map", "\"%s\" is not the name of a file beside the index", name);
        return NULL;
    }
    if (!file_path(path, folder, name, f)) {
        return NULL;
    }
    for (size_t i = s->n_parts; i-- > 0;) {
        if (strcmp(s->parts[i]->file, path) == 0) {
            return s->parts[i];
        }
    }
    struct safetensors **grown = realloc(s->parts, (s->n_parts + 1) * sizeof *grown);
    if (!grown) {
        fault_memory(f, path);
        return NULL;
    }
    s->parts = grown;
    if (!open_file(&s->parts[s->n_parts], path, f)) {
        return NULL;
    }
    return s->parts[s->n_parts++];
}

static bool read_index(struct safetensors *s, const json_t *map, const char *folder, fault *f) {
    s->views = calloc(json_object_size(map) + 1, sizeof *s->views);
    if (!s->views) {
        return fault_memory(f, s->file);
    }
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)map, name, value) {
        if (!json_is_string(value)) {
            return fault_set(f, FAULT_INPUT, s->file, "weight_map", "the file of \"%s\" is not a string", name);
        }
        const struct safetensors *part = open_part(s, folder, json_string_value(value), f);
        if (!part) {
            return false;
        }
        const struct tensor_view *view = safetensors_find(part, name);
        if (!view) {
            return fault_set(f, FAULT_INPUT, part->file, name, "missing, though the index names this file for it");
        }
        s->views[s->count++] = *view;
    }
    qsort(s->views, s->count, sizeof *s->views, by_name);
    return true;
}

static bool open_index(struct safetensors **opened, const char *path, const char *folder, fault *f) {
    json_t *root;
    const json_t *map;
    *opened = NULL;
    if (!json_read_file(&root, path, f)) {
        return false;
    }
    struct safetensors *s = new_safetensors(path, f);
    bool done =
        s && json_get_object((struct json_scope){.object = root, .file = path}, "weight_map", JSON_REQUIRED, &map, f) &&
        read_index(s, map, folder, f);
    json_decref(root);
    if (!done) {
        safetensors_close(s);
        return false;
    }
    *opened = s;
    return true;
}

bool safetensors_open(struct safetensors **opened, const char *path, fault *f) {
    char single[FILE_PATH_MAX], index[FILE_PATH_MAX];
    *opened = NULL;
    if (!file_is_folder(path)) {
        return open_file(opened, path, f);
    }
    if (!file_path(single, path, "model.safetensors", f) ||
        !file_path(index, path, "model.safetensors.index.json", f)) {
        return false;
    }
    if (file_exists(single)) {
        return open_file(opened, single, f);
    }
    if (file_exists(index)) {
        return open_index(opened, index, path, f);
    }
    return fault_set(f, FAULT_INPUT, path, NULL, "holds neither model.safetensors nor model.safetensors.index.json");
}

size_t safetensors_count(const struct safetensors *s) {
    return s->count;
}

const struct tensor_view *safetensors_at(const struct safetensors *s, size_t index) {
    return &s->views[index];
}

const struct tensor_view *safetensors_find(const struct safetensors *s, const char *name) {
    const struct tensor_view key = {.name = name};
    return s->count ? bsearch(&key, s->views, s->count, sizeof key, by_name) : NULL;
}

// "[4, 8]" into text.
static const char *print_shape(char text[256], unsigned ndim, const size_t *shape) {
    size_t used = 0;
    text[used++] = '[';
    for (unsigned d = 0; d < ndim; d++) {
        used += (size_t)snprintf(text + used, 256 - used, "%s%zu", d ? ", " : "", shape[d]);
    }
    snprintf(text + used, 256 - used, "]");
    return text;
}

bool safetensors_weight(const struct safetensors *s, const char *name, unsigned ndim, const size_t *shape,
                        const struct tensor_view **view, fault *f) {
    const struct tensor_view *found = safetensors_find(s, name);
    if (!found) {
        return fault_set(f, FAULT_INPUT, s->file, name, "missing");
    }
    bool same = found->ndim == ndim;
    for (unsigned d = 0; same && d < ndim; d++) {
        same = found->shape[d] == shape[d];
    }
    if (!same) {
        char is[256], must[256];
        return fault_set(f, FAULT_INPUT, s->file, name, "shape is %s, must be %s",
                         print_shape(is, found->ndim, found->shape), print_shape(must, ndim, shape));
    }
    if (found->type != TENSOR_F32 && found->type != TENSOR_F16 && found->type != TENSOR_BF16) {
        return fault_set(f, FAULT_INPUT, s->file, name, "dtype is %s, must be F32, F16 or BF16",
                         types[found->type].name);
    }
    *view = found;
    return true;
}

static float widen_f16(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16;
    uint32_t exponent = half >> 10 & 0x1f;
    uint32_t mantissa = half & 0x3ff;
    uint32_t bits;
    float value;
    if (exponent == 0) {
        value = (float)mantissa * 0x1p-24f; // subnormal as f16, exact and normal (or zero) as f32
        memcpy(&bits, &value, sizeof bits);
    } else {
        bits = (exponent == 0x1f ? 0xffu : exponent + 112) << 23 | mantissa << 13;
    }
    bits |= sign;
    memcpy(&value, &bits, sizeof value);
    return value;
}

void tensor_widen(const struct tensor_view *view, size_t first, size_t count, float *out) {
    const uint8_t *from = view->data + first * types[view->type].bytes;
    if (view->type == TENSOR_F32) {
        memcpy(out, from, count * sizeof *out);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        uint16_t half;
        memcpy(&half, from + i * sizeof half, sizeof half);
        if (view->type == TENSOR_F16) {
            out[i] = widen_f16(half);
        } else {
            uint32_t bits = (uint32_t)half << 16;
            memcpy(&out[i], &bits, sizeof bits);
        }
    }
}

static int by_source_name(const void *left, const void *right) {
    const struct tensor_source *const *l = left, *const *r = right;
    return strcmp((*l)->name, (*r)->name);
}

// {"dtype": "F32", "shape": [...], "data_offsets": [begin, begin + bytes]}; NULL: no memory.
static json_t *describe(const struct tensor_source *source, size_t begin, size_t bytes) {
    json_t *shape = json_array();
    for (unsigned d = 0; d < source->ndim; d++) {
        json_array_append_new(shape, json_integer((json_int_t)source->shape[d]));
    }
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", "F32", "shape", shape, "data_offsets", (json_int_t)begin,
                     (json_int_t)(begin + bytes));
}

static bool source_bytes(const struct tensor_source *source, size_t *bytes) {
    struct tensor_view view = {.type = TENSOR_F32, .ndim = source->ndim};
    memcpy(view.shape, source->shape, sizeof view.shape);
    bool done = measure_shape(&view);
    *bytes = view.bytes;
    return done;
}

// The header's text for sources in ascending order of names.
static bool make_header(char **text, const char *path, const struct tensor_source *const *sorted, size_t count,
                        fault *f) {
    json_t *header = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    size_t begin = 0;
    bool done = header;
    for (size_t i = 0; done && i < count; i++) {
        size_t bytes;
        if (json_object_get(header, sorted[i]->name)) {
            json_decref(header);
            return fault_set(f, FAULT_INPUT, path, sorted[i]->name, "two tensors of this name");
        }
        if (!source_bytes(sorted[i], &bytes) || bytes > (size_t)INT64_MAX - begin) {
            json_decref(header);
            return fault_set(f, FAULT_INPUT, path, sorted[i]->name, "the product of the dimensions overflows");
        }
        done = json_object_set_new(header, sorted[i]->name, describe(sorted[i], begin, bytes)) == 0;
        begin += bytes;
    }
    *text = done ? json_dumps(header, JSON_COMPACT) : NULL;
    json_decref(header);
    return *text || fault_memory(f, path);
}

static bool write_sorted(const char *path, const struct tensor_source *const *sorted, size_t count, fault *f) {
    char *header = NULL;
    if (!make_header(&header, path, sorted, count, f)) {
        return false;
    }
    uint64_t length = strlen(header);
    size_t padding = (size_t)(-length % 8);
    uint64_t padded = length + padding;
    struct file_writer w;
    bool done = file_writer_open(&w, path, f) && file_write(&w, &padded, sizeof padded, f) &&
                file_write(&w, header, (size_t)length, f) && file_write(&w, "       ", padding, f);
    for (size_t i = 0; done && i < count; i++) {
        size_t bytes;
        done = source_bytes(sorted[i], &bytes) && file_write(&w, sorted[i]->data, bytes, f);
    }
    done = done && file_commit(&w, f);
    file_abandon(&w);
    free(header);
    return done;
}

bool safetensors_write(const char *path, const struct tensor_source *tensors, size_t count, fault *f) {
    const struct tensor_source **sorted = malloc((count + 1) * sizeof *sorted);
    if (!sorted) {
        return fault_memory(f, path);
    }
    for (size_t i = 0; i < count; i++) {
        sorted[i] = &tensors[i];
    }
    qsort(sorted, count, sizeof *sorted, by_source_name);
    bool done = write_sorted(path, sorted, count, f);
    free(sorted);
    return done;
}
