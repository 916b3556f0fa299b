#include <stdarg.h>
#include <stdio.h>

#include "dispatch.h"

lod_status lod_fail(lod_error *err, lod_status code, const char *field, const char *format, ...) {
    if (err) {
        err->code = code;
        snprintf(err->field, sizeof err->field, "%s", field);
        va_list args;
        va_start(args, format);
        vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
    }
    return code;
}

lod_status lod_check_matrix(const void *matrix, size_t ld, size_t columns, const char *field, lod_error *err) {
    if (!matrix) return lod_fail(err, LOD_BAD_ARGUMENT, field, "is NULL");
    if (ld < columns) {
        return lod_fail(err, LOD_BAD_ARGUMENT, field, "leading dimension %zu is below %zu columns", ld, columns);
    }
    return LOD_OK;
}

lod_status lod_check_in_place(const float *out, size_t ldout, const float *in, size_t ldin, const char *field,
                              lod_error *err) {
    if (out != in || ldout == ldin) return LOD_OK;
    return lod_fail(err, LOD_BAD_ARGUMENT, field, "lies in place of an operand with another leading dimension, %zu",
                    ldin);
}

lod_status lod_check_dtype(lod_dtype dtype, const char *field, lod_error *err) {
    if (dtype == LOD_F32 || dtype == LOD_BF16 || dtype == LOD_F16) return LOD_OK;
    return lod_fail(err, LOD_BAD_ARGUMENT, field, "dtype %d is unknown", (int)dtype);
}

lod_status lod_check_weight(const lod_weight *w, lod_error *err) {
    LOD_TRY(lod_check_aligned(w->packed, "w", err));
    return lod_check_dtype(w->dtype, "w", err);
}

lod_status lod_check_aligned(const void *memory, const char *field, lod_error *err) {
    if (memory && (uintptr_t)memory % 64 == 0) return LOD_OK;
    return lod_fail(err, LOD_BAD_ARGUMENT, field, "is NULL or not 64-byte aligned");
}
