// safetensors: tensors by name in a file: 8 bytes of header length (little endian), a JSON header, then the data.
// Reading trusts nothing: every number of the header is checked before the first tensor is handed out.
#ifndef LODROP_TRAINER_SAFETENSORS_H
#define LODROP_TRAINER_SAFETENSORS_H

#include <stdint.h>

#include "fault.h"

enum tensor_type {
    TENSOR_BOOL,
    TENSOR_U8,
    TENSOR_I8,
    TENSOR_I16,
    TENSOR_I32,
    TENSOR_I64,
    TENSOR_F16,
    TENSOR_BF16,
    TENSOR_F32,
    TENSOR_F64,
    TENSOR_TYPES
};

enum { TENSOR_MAX_DIMS = 8 };

// One tensor of an open file. data lies in the mapped file and may stand at ANY address: read it by memcpy or by
// tensor_widen, never through a float pointer. Little endian, row-major.
struct tensor_view {
    const char *name;
    enum tensor_type type;
    unsigned ndim; // 0: a scalar
    size_t shape[TENSOR_MAX_DIMS];
    size_t count; // product of shape
    size_t bytes;
    const uint8_t *data;
};

// The tensors of one file, or of all files of a Hugging Face folder.
struct safetensors;

// path: a .safetensors file, or a folder with model.safetensors or else model.safetensors.index.json and its files.
bool safetensors_open(struct safetensors **opened, const char *path, fault *f);
// The same from memory that outlives it; `file` names it in faults.
bool safetensors_open_bytes(struct safetensors **opened, const void *data, size_t size, const char *file, fault *f);
void safetensors_close(struct safetensors *s);

size_t safetensors_count(const struct safetensors *s);
const struct tensor_view *safetensors_at(const struct safetensors *s, size_t index);       // ascending names
const struct tensor_view *safetensors_find(const struct safetensors *s, const char *name); // NULL: not there

// The tensor of that name, which must be there with this shape and be F32, F16 or BF16.
bool safetensors_weight(const struct safetensors *s, const char *name, unsigned ndim, const size_t *shape,
                        const struct tensor_view **view, fault *f);

// Elements [first, first+count) of an F32, F16 or BF16 tensor as f32; exact.
void tensor_widen(const struct tensor_view *view, size_t first, size_t count, float *out);

// Writes f32 tensors: ascending names, header padded with spaces to 8 bytes, metadata {"format": "pt"}. The same
// tensors in any order give the same bytes. The file appears whole or not at all.
struct tensor_source {
    const char *name;
    unsigned ndim;
    size_t shape[TENSOR_MAX_DIMS];
    const float *data;
};

bool safetensors_write(const char *path, const struct tensor_source *tensors, size_t count, fault *f);

#endif
