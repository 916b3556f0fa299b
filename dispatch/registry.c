// The table of kernel variants, made from kernels.def: a typed union member per contract, so no pointer is ever cast.
#include "dispatch.h"

#define ENTRY(op, isa) {"lod_" #op "__" #isa, LOD_OP_##op, LOD_ISA_##isa, 0, 0, {.op = lod_##op##__##isa}},

static const lod_kernel kernels[] = {
#define LOD_KERNEL(op, isa, mr, nr)                                                                                    \
    {"lod_" #op "__" #isa "_" #mr "x" #nr, LOD_OP_##op, LOD_ISA_##isa, mr, nr, {.op = lod_##op##__##isa##_##mr##x##nr}},
#define LOD_VECTOR(op) LOD_EACH_ISA(ENTRY, op)
#include "kernels.def"
};

static const char *const op_texts[LOD_OP_COUNT] = {
#define LOD_OP(op) #op,
#define LOD_VECTOR(op) #op,
#include "kernels.def"
};

const lod_kernel *lod_kernels(size_t *count) {
    *count = sizeof kernels / sizeof kernels[0];
    return kernels;
}

const char *lod_op_text(lod_op op) {
    return op_texts[op];
}

const lod_kernel *lod_kernel_find(lod_op op, lod_isa isa) {
    size_t count;
    const lod_kernel *table = lod_kernels(&count);
    for (size_t i = 0; i < count; i++) {
        if (table[i].op == op && table[i].isa == isa) return &table[i];
    }
    return NULL;
}
