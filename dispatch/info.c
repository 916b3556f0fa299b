// lodrop-info: what this machine is to lodrop, and which kernel each operation takes.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plan.h"

static const char usage[] = "usage: lodrop-info [--json]\n"
                            "\n"
                            "Shows the CPU's instruction sets, which one is in use and why, cache sizes, the default\n"
                            "number of threads and why, and the table of kernels: operation x instruction set.\n"
                            "\n"
                            "  --json     the same as one JSON object\n"
                            "  --version  the version\n"
                            "\n"
                            "LODROP_ISA=ref|avx2|avx512|neon forces an instruction set.\n";

typedef struct facts {
    lod_isa isa;
    const char *isa_why, *threads_why;
    unsigned threads;
    const lod_machine *machine;
} facts;

static const char *recipe_of(const lod_kernel *kernel) {
    return strstr(kernel->name, "__") + 2;
}

static void print_text(const facts *f) {
    size_t count;
    const lod_kernel *kernels = lod_kernels(&count);
    printf("lodrop %s\n", LOD_VERSION);
    printf("isa      %s (%s); this CPU has:", lod_isa_text(f->isa), f->isa_why);
    for (lod_isa isa = LOD_ISA_ref; isa < LOD_ISA_COUNT; isa++) {
        if (lod_cpu_has(isa)) printf(" %s", lod_isa_text(isa));
    }
    printf("\nthreads  %u (%s)\n", f->threads, f->threads_why);
    printf("caches   L1d %zu KiB, L2 %zu KiB (%s)\n\n", f->machine->l1d >> 10, f->machine->l2 >> 10,
           f->machine->source);
    printf("%-20s %s\n", "operation", "variants (* in use, - not on this CPU)");
    for (lod_op op = 0; op < LOD_OP_COUNT; op++) {
        printf("%-20s", lod_op_text(op));
        for (size_t i = 0; i < count; i++) {
            if (kernels[i].op != op) continue;
            const char *mark = !lod_cpu_has(kernels[i].isa) ? "-" : kernels[i].isa == f->isa ? "*" : "";
            printf(" %s%s", mark, recipe_of(&kernels[i]));
        }
        printf("\n");
    }
}

static void print_json(const facts *f) {
    size_t count;
    const lod_kernel *kernels = lod_kernels(&count);
    printf("{\"version\": \"%s\", \"isa\": \"%s\", \"isa_why\": \"%s\", \"threads\": %u, \"threads_why\": \"%s\",\n",
           LOD_VERSION, lod_isa_text(f->isa), f->isa_why, f->threads, f->threads_why);
    printf(" \"l1d_bytes\": %zu, \"l2_bytes\": %zu, \"caches_source\": \"%s\", \"kernels\": [\n", f->machine->l1d,
           f->machine->l2, f->machine->source);
    for (size_t i = 0; i < count; i++) {
        printf("  {\"operation\": \"%s\", \"recipe\": \"%s\", \"isa\": \"%s\", \"runs\": %s, \"in_use\": %s}%s\n",
               lod_op_text(kernels[i].op), recipe_of(&kernels[i]), lod_isa_text(kernels[i].isa),
               lod_cpu_has(kernels[i].isa) ? "true" : "false", kernels[i].isa == f->isa ? "true" : "false",
               i + 1 < count ? "," : "");
    }
    printf(" ]}\n");
}

int main(int argc, char **argv) {
    const bool json_first = argc > 1 && strcmp(argv[1], "--json") == 0, json = json_first && argc == 2;
    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        fputs(usage, stdout);
        return EXIT_SUCCESS;
    }
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        puts("lodrop-info " LOD_VERSION);
        return EXIT_SUCCESS;
    }
    if (argc > 1 && !json) {
        fprintf(stderr, "lodrop-info: '%s': unknown option, or too many: lodrop-info --help tells more\n",
                argv[json_first && argc > 2 ? 2 : 1]);
        return 2;
    }
    facts f = {.machine = lod_this_machine()};
    lod_error error;
    if (lod_isa_in_use(&f.isa, &f.isa_why, &error) != LOD_OK) {
        fprintf(stderr, "lodrop-info: %s: %s\n", error.field, error.text);
        return 1;
    }
    f.threads = lod_threads(&f.threads_why);
    if (json) {
        print_json(&f);
    } else {
        print_text(&f);
    }
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fputs("lodrop-info: standard output: cannot write\n", stderr);
        return 3;
    }
    return EXIT_SUCCESS;
}
