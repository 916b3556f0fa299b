// A call of the library that failed, as a fault.
#ifndef LODROP_TRAINER_LIBRARY_H
#define LODROP_TRAINER_LIBRARY_H

#include "fault.h"
#include "lodrop.h"

// True if status is LOD_OK; otherwise fills f from err.
bool library_done(lod_status status, const lod_error *err, fault *f);

#endif
