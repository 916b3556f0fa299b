#include "modules.h"

#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    const char *block; // the part of a layer that holds it
} modules[ADAPTER_MODULES] = {
    [ADAPTER_Q_PROJ] = {"q_proj", "self_attn"}, [ADAPTER_K_PROJ] = {"k_proj", "self_attn"},
    [ADAPTER_V_PROJ] = {"v_proj", "self_attn"}, [ADAPTER_O_PROJ] = {"o_proj", "self_attn"},
    [ADAPTER_GATE_PROJ] = {"gate_proj", "mlp"}, [ADAPTER_UP_PROJ] = {"up_proj", "mlp"},
    [ADAPTER_DOWN_PROJ] = {"down_proj", "mlp"},
};

const char *adapter_module_name(enum adapter_module module) {
    return modules[module].name;
}

const char *adapter_module_block(enum adapter_module module) {
    return modules[module].block;
}

bool adapter_modules_add(unsigned *set, const char *name, size_t length) {
    for (unsigned m = 0; m < ADAPTER_MODULES; m++) {
        if (strlen(modules[m].name) == length && memcmp(modules[m].name, name, length) == 0) {
            *set |= 1u << m;
            return true;
        }
    }
    return false;
}

bool adapter_modules_parse(const char *list, unsigned *set, const char *program, const char *option, fault *f) {
    char known[ADAPTER_MODULES_TEXT];
    *set = 0;
    if (strcmp(list, "all-linear") == 0) {
        *set = ADAPTER_ALL_MODULES;
        return true;
    }
    for (const char *name = list;;) {
        size_t length = strcspn(name, ",");
        if (!adapter_modules_add(set, name, length)) {
            return fault_set(f, FAULT_INPUT, program, option,
                             "unknown module \"%.*s\": must be all-linear or some of %s",
                             (int)(length < 100 ? length : 100), name,
                             adapter_modules_print(known, ADAPTER_ALL_MODULES));
        }
        if (!name[length]) {
            return true;
        }
        name += length + 1;
    }
}

unsigned adapter_modules_match(const char *pattern) {
    unsigned set = 0;
    for (unsigned m = 0; m < ADAPTER_MODULES; m++) {
        set |= (unsigned)(fnmatch(pattern, modules[m].name, 0) == 0) << m;
    }
    return set;
}

const char *adapter_modules_print(char text[ADAPTER_MODULES_TEXT], unsigned set) {
    size_t used = 0;
    *text = 0;
    for (unsigned m = 0; m < ADAPTER_MODULES; m++) {
        if (set >> m & 1) {
            used += (size_t)snprintf(text + used, ADAPTER_MODULES_TEXT - used, "%s%s", used ? ", " : "",
                                     modules[m].name);
        }
    }
    return text;
}
