// safetensors.h: good files, every kind of bad header, folders of several files, and what the writer writes.
#include "../../trainer/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../trainer/file.h"
#include "expect.h"

// A file image: header length, header, `data` bytes that count up. The caller frees it.
static uint8_t *image(const char *header, size_t data, size_t *size) {
    uint64_t length = strlen(header);
    *size = 8 + (size_t)length + data;
    uint8_t *bytes = malloc(*size);
    memcpy(bytes, &length, 8);
    memcpy(bytes + 8, header, (size_t)length);
    for (size_t i = 0; i < data; i++) {
        bytes[8 + length + i] = (uint8_t)i;
    }
    return bytes;
}

static void refuse(const char *header, size_t data, const char *field, const char *reason) {
    size_t size;
    uint8_t *bytes = image(header, data, &size);
    struct safetensors *s;
    fault f = {0};
    bool done = safetensors_open_bytes(&s, bytes, size, "t.safetensors", &f);
    REFUSED(done, &f, FAULT_INPUT, field, reason);
    CHECK(!s && strncmp(f.text, "t.safetensors: ", 15) == 0);
    safetensors_close(s);
    free(bytes);
}

static void good_header(void) {
    const char *header = "{\"__metadata__\":{\"format\":\"pt\"},"
                         "\"b\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[3,11]},"
                         "\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
                         "\"none\":{\"dtype\":\"I64\",\"shape\":[0,5],\"data_offsets\":[3,3]},"
                         "\"scalar\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[11,13]}}   ";
    size_t size;
    uint8_t *bytes = image(header, 13, &size);
    struct safetensors *s;
    fault f = {0};
    CHECK(safetensors_open_bytes(&s, bytes, size, "t.safetensors", &f));
    CHECK(safetensors_count(s) == 4);
    CHECK(strcmp(safetensors_at(s, 0)->name, "a") == 0 && strcmp(safetensors_at(s, 3)->name, "scalar") == 0);
    const struct tensor_view *b = safetensors_find(s, "b");
    CHECK(b && b->type == TENSOR_F32 && b->ndim == 2 && b->shape[1] == 2 && b->count == 2 && b->bytes == 8);
    CHECK(b && b->data == bytes + 8 + strlen(header) + 3);
    float widened, expected;
    tensor_widen(b, 1, 1, &widened);
    memcpy(&expected, b->data + 4, 4);
    CHECK(widened == expected);
    CHECK(safetensors_find(s, "scalar")->count == 1 && safetensors_find(s, "none")->count == 0);
    CHECK(!safetensors_find(s, "c"));

    const struct tensor_view *view = NULL;
    const size_t shape[] = {1, 2}, other[] = {2, 1};
    CHECK(safetensors_weight(s, "b", 2, shape, &view, &f) && view == b);
    REFUSED(safetensors_weight(s, "c", 2, shape, &view, &f), &f, FAULT_INPUT, "t.safetensors: c: ", "missing");
    REFUSED(safetensors_weight(s, "b", 2, other, &view, &f), &f, FAULT_INPUT, "b: ", "shape is [1, 2], must be [2, 1]");
    REFUSED(safetensors_weight(s, "b", 1, other, &view, &f), &f, FAULT_INPUT, "b: ", "shape is [1, 2], must be [2]");
    REFUSED(safetensors_weight(s, "a", 1, (size_t[]){3}, &view, &f), &f, FAULT_INPUT, "a: ", "dtype is U8");
    safetensors_close(s);

    // Cut anywhere, the file is refused.
    size_t accepted = 0;
    for (size_t cut = 0; cut < size; cut++) {
        uint8_t *copy = malloc(cut + 1); // its own block, so that a sanitizer sees a read past the end
        memcpy(copy, bytes, cut);
        accepted += safetensors_open_bytes(&s, copy, cut, "t.safetensors", &f);
        safetensors_close(s);
        free(copy);
    }
    CHECK(accepted == 0);
    free(bytes);

    bytes = image("{}", 0, &size);
    CHECK(safetensors_open_bytes(&s, bytes, size, "t.safetensors", &f) && safetensors_count(s) == 0);
    CHECK(!safetensors_find(s, "b"));
    safetensors_close(s);
    free(bytes);
}

static void bad_lengths(void) {
    struct safetensors *s;
    fault f = {0};
    const uint64_t lengths[] = {UINT64_MAX, UINT64_MAX - 7, (uint64_t)1 << 63, 100000001};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        REFUSED(safetensors_open_bytes(&s, &lengths[i], 8, "t", &f), &f, FAULT_INPUT, "t: header length", "at most");
    }
    const uint64_t three[2] = {9, 0};
    REFUSED(safetensors_open_bytes(&s, three, 16, "t", &f), &f, FAULT_INPUT, "t: header length", "truncated");
    REFUSED(safetensors_open_bytes(&s, three, 7, "t", &f), &f, FAULT_INPUT, "t: header length", "7 bytes, too few");
    REFUSED(safetensors_open_bytes(&s, three, 0, "t", &f), &f, FAULT_INPUT, "t: header length", "0 bytes, too few");
    const uint64_t zero[1] = {0};
    REFUSED(safetensors_open_bytes(&s, zero, 8, "t", &f), &f, FAULT_INPUT, "t: header", "does not start with {");
}

static void bad_headers(void) {
    refuse(" {}", 0, "header", "does not start with {");
    refuse("{", 0, "column", "not valid JSON");
    refuse("{\"a\":1}", 0, "a", "not an object");
    refuse("{}", 1, "", "1 bytes at the end belong to no tensor");
    refuse("{\"__metadata__\":{\"format\":1}}", 0, "__metadata__", "not an object of strings");
    refuse("{\"__metadata__\":\"pt\"}", 0, "__metadata__", "not an object of strings");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
           "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
           2, "column", "duplicate");
    refuse("{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "a.dtype",
           "unknown dtype \"F8_E4M3\"");
    refuse("{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "a.dtype", "missing");
    refuse("{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, "a.shape", "missing");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, "a.data_offsets", "missing");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]}}", 1, "a.shape", "dimension 0");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[1.0],\"data_offsets\":[0,1]}}", 1, "a.shape", "dimension 0");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1, "a.shape",
           "9 dimensions");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0, "a.shape",
           "overflows");
    refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]}}", 0, "a.shape",
           "overflows");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[18446744073709551616],\"data_offsets\":[0,0]}}", 0, "column",
           "too big integer");
}

static void bad_offsets(void) {
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}", 1, "a.data_offsets", "two integers");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,2]}}", 1, "a.data_offsets", "two integers");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,0]}}", 1, "a.data_offsets", "is no range");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[-1,1]}}", 1, "a.data_offsets", "is no range");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 1, "a.data_offsets", "lies past");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,1]}}", 1, "a.data_offsets",
           "1 bytes, but dtype and shape take 2");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
           "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}",
           3, "b: ", "overlap those of tensor \"a\"");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
           "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}",
           2, "overlap", "");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
           "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[2,3]}}",
           3, "b: ", "unused bytes");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 2, "", "1 bytes at the end");
}

static void widening(void) {
    const uint16_t halves[] = {0x0000, 0x8000, 0x3c00, 0xc000, 0x7bff, 0x0400, 0x03ff, 0x0001, 0x8001, 0x7c00, 0xfc00};
    const float f16[] = {0.0f,       -0.0f,    1.0f,      -2.0f,    65504.0f, 0x1p-14f,
                         0x3ffp-24f, 0x1p-24f, -0x1p-24f, INFINITY, -INFINITY};
    enum { N = sizeof halves / sizeof *halves };
    uint8_t bytes[1 + sizeof halves]; // odd address on purpose
    float out[N];
    memcpy(bytes + 1, halves, sizeof halves);
    struct tensor_view view = {.type = TENSOR_F16, .count = N, .bytes = sizeof halves, .data = bytes + 1};
    tensor_widen(&view, 0, N, out);
    CHECK(memcmp(out, f16, sizeof out) == 0);
    view.type = TENSOR_BF16;
    tensor_widen(&view, 2, 1, out);
    CHECK(out[0] == 0x1p-7f); // 0x3c00 as bf16
    memcpy(bytes + 1, &(uint16_t){0x7e01}, 2);
    view.type = TENSOR_F16;
    tensor_widen(&view, 0, 1, out);
    CHECK(isnan(out[0]));
}

static void two_files(void) {
    const char *one = "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}";
    const char *two = "{\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                      "\"c\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}";
    struct safetensors *s;
    fault f = {0};
    size_t size;
    CHECK(file_make_folders(temporary("sharded"), &f));
    REFUSED(safetensors_open(&s, temporary("sharded"), &f), &f, FAULT_INPUT, "sharded", "holds neither");
    uint8_t *bytes = image(one, 2, &size);
    write_bytes("sharded/1.safetensors", bytes, size);
    free(bytes);
    bytes = image(two, 2, &size);
    write_bytes("sharded/2.safetensors", bytes, size);
    free(bytes);

    const char *index = "sharded/model.safetensors.index.json";
    write_text(index, "{\"weight_map\":{\"c\":\"2.safetensors\",\"a\":\"1.safetensors\",\"b\":\"2.safetensors\"}}");
    CHECK(safetensors_open(&s, temporary("sharded"), &f) && safetensors_count(s) == 3);
    CHECK(safetensors_find(s, "c")->data[0] == 1 && safetensors_find(s, "a")->bytes == 2);
    safetensors_close(s);

    write_text(index, "{\"weight_map\":{\"b\":\"1.safetensors\"}}");
    REFUSED(safetensors_open(&s, temporary("sharded"), &f), &f, FAULT_INPUT, "1.safetensors: b", "missing");
    write_text(index, "{\"weight_map\":{\"b\":\"3.safetensors\"}}");
    REFUSED(safetensors_open(&s, temporary("sharded"), &f), &f, FAULT_INPUT, "3.safetensors", "No such file");
    write_text(index, "{\"weight_map\":{\"b\":\"../sharded/2.safetensors\"}}");
    REFUSED(safetensors_open(&s, temporary("sharded"), &f), &f, FAULT_INPUT, "index.json: weight_map",
            "beside the index");
    write_text(index, "{\"weight_map\":{\"b\":\"inside/2.safetensors\"}}");
    REFUSED(safetensors_open(&s, temporary("sharded"), &f), &f, FAULT_INPUT, "index.json: weight_map",
            "beside the index");
    write_text(index, "{\"weight_map\":{\"b\":2}}");
    REFUSED(safetensors_open(&s, temporary("sharded"), &f), &f, FAULT_INPUT, "index.json: weight_map", "not a string");
    write_text(index, "{\"metadata\":{}}");
    REFUSED(safetensors_open(&s, temporary("sharded"), &f), &f, FAULT_INPUT, "index.json: weight_map", "missing");
}

static bool same_files(const char *left, const char *right) {
    struct mapped_file l, r;
    fault f;
    bool same =
        file_map(&l, left, &f) && file_map(&r, right, &f) && l.size == r.size && memcmp(l.data, r.data, l.size) == 0;
    file_unmap(&l);
    file_unmap(&r);
    return same;
}

static void writing(void) {
    const float x[] = {1, 2, 3, 4, 5, 6}, y[] = {-1};
    const struct tensor_source tensors[] = {{.name = "y", .ndim = 0, .data = y},
                                            {.name = "x", .ndim = 2, .shape = {2, 3}, .data = x},
                                            {.name = "none", .ndim = 1, .shape = {0}, .data = NULL}};
    const struct tensor_source turned[] = {tensors[2], tensors[0], tensors[1]};
    struct safetensors *s;
    fault f = {0};
    CHECK(safetensors_write(temporary("one.safetensors"), tensors, 3, &f));
    CHECK(safetensors_write(temporary("two.safetensors"), turned, 3, &f));
    CHECK(same_files(temporary("one.safetensors"), temporary("two.safetensors")));
    CHECK(safetensors_open(&s, temporary("one.safetensors"), &f) && safetensors_count(s) == 3);
    const struct tensor_view *view = NULL;
    CHECK(safetensors_weight(s, "x", 2, (size_t[]){2, 3}, &view, &f) && memcmp(view->data, x, sizeof x) == 0);
    CHECK(view && (uintptr_t)view->data % 8 == 0); // the header is padded, so the first tensor is aligned
    safetensors_close(s);

    const struct tensor_source twice[] = {tensors[0], tensors[0]};
    REFUSED(safetensors_write(temporary("one.safetensors"), twice, 2, &f), &f, FAULT_INPUT, "one.safetensors: y",
            "two tensors");
    const struct tensor_source huge = {.name = "h", .ndim = 2, .shape = {SIZE_MAX / 2, 4}, .data = x};
    REFUSED(safetensors_write(temporary("one.safetensors"), &huge, 1, &f), &f, FAULT_INPUT, "h", "overflows");
    CHECK(same_files(temporary("one.safetensors"), temporary("two.safetensors")));
}

static void real_model(void) {
    const char *path = real_data("real_model", "models/stories260k");
    struct safetensors *s;
    const struct tensor_view *view;
    fault f = {0};
    if (!path) {
        return;
    }
    CHECK(safetensors_open(&s, path, &f));
    CHECK(safetensors_weight(s, "model.embed_tokens.weight", 2, (size_t[]){512, 64}, &view, &f));
    CHECK(safetensors_weight(s, "model.layers.4.self_attn.k_proj.weight", 2, (size_t[]){32, 64}, &view, &f));
    REFUSED(safetensors_weight(s, "model.layers.5.self_attn.k_proj.weight", 2, (size_t[]){32, 64}, &view, &f), &f,
            FAULT_INPUT, "model.layers.5.self_attn.k_proj.weight", "missing");
    safetensors_close(s);
}

int main(void) {
    good_header();
    bad_lengths();
    bad_headers();
    bad_offsets();
    widening();
    two_files();
    writing();
    real_model();
    return check_end();
}
