#include "library.h"

bool library_done(lod_status status, const lod_error *err, fault *f) {
    if (status == LOD_OK) {
        return true;
    }
    return fault_set(f, status == LOD_NO_MEMORY ? FAULT_RESOURCE : FAULT_INPUT, "lodrop", err->field, "%s", err->text);
}
