// The linear layers of a block that can carry an adapter: their names, and sets of them, with bit 1 << module.
#ifndef LODROP_TRAINER_MODULES_H
#define LODROP_TRAINER_MODULES_H

#include <stddef.h>

#include "fault.h"

// In the order of the forward pass.
enum adapter_module {
    ADAPTER_Q_PROJ,
    ADAPTER_K_PROJ,
    ADAPTER_V_PROJ,
    ADAPTER_O_PROJ,
    ADAPTER_GATE_PROJ,
    ADAPTER_UP_PROJ,
    ADAPTER_DOWN_PROJ,
    ADAPTER_MODULES
};

enum { ADAPTER_ALL_MODULES = (1 << ADAPTER_MODULES) - 1, ADAPTER_MODULES_TEXT = 80 };

const char *adapter_module_name(enum adapter_module module);  // "q_proj"
const char *adapter_module_block(enum adapter_module module); // "self_attn", the part of a layer it is in

// Adds the module of that name to the set; false: there is none.
bool adapter_modules_add(unsigned *set, const char *name, size_t length);

// A list like "q_proj,v_proj", or "all-linear". Faults are of input, of this option of the program.
bool adapter_modules_parse(const char *list, unsigned *set, const char *program, const char *option, fault *f);

// Those whose name a pattern like "*_proj" or "[qv]_proj" matches.
unsigned adapter_modules_match(const char *pattern);

// "q_proj, v_proj"
const char *adapter_modules_print(char text[ADAPTER_MODULES_TEXT], unsigned set);

#endif
