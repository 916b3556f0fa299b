// lodrop-bench: Google Benchmark's program with our defaults, and --share for ratios.
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"

static const char usage[] =
    "usage: lodrop-bench [--threads N] [--shapes FILE] [Google Benchmark's flags]\n"
    "       lodrop-bench --share [NAME...] [--threads N] [--shapes FILE] [--rounds N] [--rate P]\n"
    "       lodrop-bench --peak [--threads N]\n"
    "\n"
    "Measures the FMA peak, the tiles, low-rank layers (W packed before, X packed inside the time) and attention, by\n"
    "default as the median of 9 repetitions in random order. peak_share is GF/s over the peak measured beside it,\n"
    "vs_p0 the time over that without dropout.\n"
    "\n"
    "  --share       alternate peak, layer, layer with dropout, frozen layer; print the ratios' medians [quartiles]\n"
    "  --peak        print the FMA peak of the instruction set in use, for comparisons beside other programs\n"
    "  --threads N   threads of layers and attention (1)\n"
    "  --shapes FILE lines `name tokens n_in n_out rank` and `attention name tokens heads kv_heads head_dim`\n"
    "                (shapes.txt beside this program)\n"
    "  --rounds N    rounds of --share (15)\n"
    "  --rate P      dropout rate of --share (0.1)\n"
    "  --version     the version\n"
    "\n"
    "LODROP_ISA=ref|avx2|avx512|neon forces an instruction set; --benchmark_filter=REGEX picks benchmarks by name\n"
    "<operation>_<dtype>/<recipe>/<shape>.\n";

typedef struct options {
    bool share, peak;
    unsigned threads, rounds;
    double rate;
    const char *shapes;
    const char *names[64];
    size_t name_count;
} options;

static _Noreturn void bad_usage(void) {
    fputs(usage, stderr);
    exit(2);
}

static unsigned count_of(const char *text) {
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (*end || value < 1 || value > 1024) bad_usage();
    return (unsigned)value;
}

static double rate_of(const char *text) {
    char *end;
    double value = strtod(text, &end);
    if (*end || !(value >= 0 && value < 1)) bad_usage();
    return value;
}

// Takes what is ours out of argv; the rest is Google Benchmark's.
static int parse(int argc, char **argv, options *o) {
    int kept = 1;
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "--version") == 0) {
            fputs(argv[i][2] == 'h' ? usage : "lodrop-bench " LOD_VERSION "\n", stdout);
            exit(0);
        } else if (strcmp(argv[i], "--share") == 0) {
            o->share = true;
        } else if (strcmp(argv[i], "--peak") == 0) {
            o->peak = true;
        } else if (strcmp(argv[i], "--threads") == 0) {
            o->threads = count_of(value), i++;
        } else if (strcmp(argv[i], "--rounds") == 0) {
            o->rounds = count_of(value), i++;
        } else if (strcmp(argv[i], "--rate") == 0) {
            o->rate = rate_of(value), i++;
        } else if (strcmp(argv[i], "--shapes") == 0) {
            o->shapes = value, i++;
        } else if (o->share && argv[i][0] != '-' && o->name_count < sizeof o->names / sizeof o->names[0]) {
            o->names[o->name_count++] = argv[i];
        } else {
            argv[kept++] = argv[i];
        }
    }
    return kept;
}

static const char *shapes_beside_program(void) {
    static char path[PATH_MAX + sizeof "shapes.txt"];
    ssize_t length = readlink("/proc/self/exe", path, PATH_MAX);
    while (length > 0 && path[length - 1] != '/') {
        length--;
    }
    strcpy(path + (length > 0 ? length : 0), "shapes.txt");
    return path;
}

// The shapes that were named, in that order.
static size_t pick(const bench_shapes *shapes, const options *o, bench_shape *picked) {
    for (size_t i = 0; i < o->name_count; i++) {
        size_t at = 0;
        while (at < shapes->layer_count && strcmp(shapes->layers[at].name, o->names[i]) != 0) {
            at++;
        }
        if (at == shapes->layer_count) {
            fprintf(stderr, "%s: no shape has this name\n", o->names[i]);
            exit(1);
        }
        picked[i] = shapes->layers[at];
    }
    return o->name_count;
}

static lod_isa isa_in_use(void) {
    lod_isa isa;
    lod_error error;
    if (lod_isa_in_use(&isa, NULL, &error) != LOD_OK) {
        fprintf(stderr, "lodrop-bench: %s: %s\n", error.field, error.text);
        exit(1);
    }
    return isa;
}

static int print_peak(unsigned threads) {
    const lod_isa isa = isa_in_use();
    bench_peak(isa, threads, 0.05); // the pool and the clock frequency
    const double peak = bench_peak(isa, threads, 0.05);
    printf("peak_f32 %s: ", lod_isa_text(isa));
    if (peak > 0) {
        printf("%.3f GF/s, threads %u\n", peak * 1e-9, threads);
    } else {
        puts("no FMA probe");
    }
    return 0;
}

static int run_benchmarks(int argc, char **argv, const bench_shapes *shapes, unsigned threads) {
    char *flags[128] = {argv[0], "--benchmark_repetitions=9", "--benchmark_enable_random_interleaving=true",
                        "--benchmark_display_aggregates_only=true", "--benchmark_counters_tabular=true"};
    int used = 5;
    for (int i = 1; i < argc && used < 127; i++) {
        flags[used++] = argv[i];
    }
    bench_peak(isa_in_use(), threads, 1); // until the clock frequency has settled
    bench_add_peaks();
    bench_add_tiles();
    bench_add_layers(shapes->layers, shapes->layer_count, threads);
    bench_add_attentions(shapes->attentions, shapes->attention_count, threads);
    return gb_main(used, flags);
}

int main(int argc, char **argv) {
    options o = {.threads = 1, .rounds = 15, .rate = 0.1};
    argc = parse(argc, argv, &o);
    if (o.peak && (o.share || argc > 1)) bad_usage();
    if (o.peak) return print_peak(o.threads);
    const bench_shapes shapes = bench_read_shapes(o.shapes ? o.shapes : shapes_beside_program());
    int status;
    if (!o.share) {
        status = run_benchmarks(argc, argv, &shapes, o.threads);
    } else if (argc > 1) {
        bad_usage();
    } else if (o.name_count == 0) {
        status = bench_share(shapes.layers, shapes.layer_count, o.threads, o.rounds, o.rate);
    } else {
        bench_shape picked[sizeof o.names / sizeof o.names[0]];
        status = bench_share(picked, pick(&shapes, &o, picked), o.threads, o.rounds, o.rate);
    }
    free(shapes.layers);
    free(shapes.attentions);
    return status;
}
