// lodrop-bench: Google Benchmark's program with our defaults, and --share for ratios.
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "against.h"
#include "bench.h"

static const char usage[] =
    "usage: lodrop-bench [--against OLD.json] [--threads N] [--shapes FILE] [--cold MIB] [Google Benchmark's flags]\n"
    "       lodrop-bench --share [NAME...] [--threads N] [--shapes FILE] [--rounds N] [--rate P]\n"
    "       lodrop-bench --growth [--threads N] [--rounds N]\n"
    "       lodrop-bench --peak | --bandwidth [--threads N] [--cold MIB]\n"
    "\n"
    "Measures the two roofs (FMA peak, reading memory), every kernel that this CPU runs, and whole calls: low-rank\n"
    "layers (W packed before, X packed inside the time), attention, loss, row-wise operations; by default as the\n"
    "median of 9 repetitions in random order. Names are <operation>_<dtype>/<recipe>/<shape>; those of kernels end in\n"
    "/hot (the same operands again) or /cold (operands out of memory), and layers of few tokens have /cold names too.\n"
    "peak_share is GF/s over the peak measured beside it, vs_p0 the time over that without dropout; bytes/s counts\n"
    "each operand once for a read and once for a write.\n"
    "\n"
    "  --against OLD.json  then print what changed by more than the spread: medians that differ by more than the\n"
    "                larger distance of quartiles. OLD.json: of an earlier run with --benchmark_out=OLD.json\n"
    "  --share       alternate peak, layer, layer with dropout, frozen layer; print the ratios' medians [quartiles]\n"
    "  --growth      layers of growing T, n_in and n_out in turns: the least times and a line through them\n"
    "  --peak        print the FMA peak of the instruction set in use, for comparisons beside other programs\n"
    "  --bandwidth   print how fast one thread, and N, read memory\n"
    "  --threads N   threads of whole calls (1)\n"
    "  --shapes FILE lines as in shapes.txt, which lies beside this program\n"
    "  --cold MIB    what no cache holds (twice the last cache, between 64 and 256)\n"
    "  --rounds N    rounds of --share and --growth (15)\n"
    "  --rate P      dropout rate of --share (0.1)\n"
    "  --version     the version\n"
    "\n"
    "LODROP_ISA=ref|avx2|avx512|neon forces an instruction set on whole calls; --benchmark_filter=REGEX picks\n"
    "benchmarks by name.\n";

typedef struct options {
    bool share, growth, peak, bandwidth;
    unsigned threads, rounds;
    double rate;
    const char *shapes, *against;
    const char *names[64];
    size_t name_count;
} options;

static _Noreturn void bad_value(const char *option, const char *value, const char *wanted) {
    fprintf(stderr, "lodrop-bench: %s: '%s' is not %s; lodrop-bench --help tells more\n", option, value, wanted);
    exit(2);
}

static unsigned count_of(const char *option, const char *text) {
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (*end || value < 1 || value > 1024) bad_value(option, text, "in 1..1024");
    return (unsigned)value;
}

static double rate_of(const char *option, const char *text) {
    char *end;
    double value = strtod(text, &end);
    if (!*text || *end || !(value >= 0 && value < 1)) bad_value(option, text, "from 0 to below 1");
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
        } else if (strcmp(argv[i], "--growth") == 0) {
            o->growth = true;
        } else if (strcmp(argv[i], "--peak") == 0) {
            o->peak = true;
        } else if (strcmp(argv[i], "--bandwidth") == 0) {
            o->bandwidth = true;
        } else if (strcmp(argv[i], "--against") == 0) {
            if (!*value) bad_value(argv[i], value, "a file");
            o->against = value, i++;
        } else if (strcmp(argv[i], "--cold") == 0) {
            bench_set_cold_bytes((size_t)count_of(argv[i], value) << 20), i++;
        } else if (strcmp(argv[i], "--threads") == 0) {
            o->threads = count_of(argv[i], value), i++;
        } else if (strcmp(argv[i], "--rounds") == 0) {
            o->rounds = count_of(argv[i], value), i++;
        } else if (strcmp(argv[i], "--rate") == 0) {
            o->rate = rate_of(argv[i], value), i++;
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

static int print_bandwidth(unsigned threads) {
    const lod_isa isa = isa_in_use();
    for (unsigned count = 1; count <= threads; count += threads > 1 ? threads - 1 : 1) {
        const double rate = bench_bandwidth(isa, count, 1);
        printf("read_f32 %s: ", lod_isa_text(isa));
        if (rate > 0) {
            printf("%.3f GB/s, threads %u\n", rate * 1e-9, count);
        } else {
            puts("no probe");
        }
    }
    return 0;
}

static int run_benchmarks(int argc, char **argv, const bench_shapes *shapes, unsigned threads) {
    char *flags[128] = {argv[0], "--benchmark_repetitions=9", "--benchmark_enable_random_interleaving=true",
                        "--benchmark_display_aggregates_only=true", "--benchmark_min_time=0.05"};
    int used = 5;
    for (int i = 1; i < argc && used < 127; i++) {
        flags[used++] = argv[i];
    }
    const lod_isa isa = isa_in_use();
    char text[16];
    snprintf(text, sizeof text, "%u", threads);
    gb_context("threads", text);
    gb_context("isa", lod_isa_text(isa));
    bench_add_peaks(threads);
    bench_add_kernels(shapes);
    bench_add_layers(shapes, isa, threads);
    bench_add_attentions(shapes, isa, threads);
    bench_add_losses(shapes, isa, threads);
    bench_add_rowwises(shapes, isa, threads);
    bench_peak(isa, threads, 0.2); // until the clock frequency has settled
    return gb_main(used, flags);
}

#ifdef LODROP_AGAINST
// The value of one of Google Benchmark's flags, given as --NAME=VALUE; NULL: not given.
static const char *flag(int argc, char **argv, const char *name) {
    const char *value = NULL;
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], name, strlen(name)) == 0) value = argv[i] + strlen(name);
    }
    return value;
}

static char temporary[4096];

static void remove_temporary(void) {
    unlink(temporary);
}

// An empty file that is taken away again, however the program exits.
static const char *make_temporary(void) {
    const char *folder = getenv("TMPDIR");
    snprintf(temporary, sizeof temporary, "%s/lodrop-bench.XXXXXX", folder ? folder : "/tmp");
    const int file = mkstemp(temporary);
    if (file < 0) {
        fprintf(stderr, "%s: cannot be made\n", temporary);
        exit(1);
    }
    close(file);
    atexit(remove_temporary);
    return temporary;
}

// Runs the benchmarks and compares what they wrote, to the caller's file or to a temporary one.
static int run_against(int argc, char **argv, const bench_shapes *shapes, const options *o) {
    against_run old = against_read(o->against, o->threads);
    char out_flag[sizeof temporary + 20], *flags[128] = {argv[0], out_flag};
    const char *format = flag(argc, argv, "--benchmark_out_format="), *out = flag(argc, argv, "--benchmark_out=");
    const int ours = out ? 1 : 2;
    if (format && strcmp(format, "json") != 0) bad_value("--benchmark_out_format", format, "json");
    if (argc > 120) bad_value("--against", argv[120], "one of less than 120 words");
    const char *path = out ? out : make_temporary();
    snprintf(out_flag, sizeof out_flag, "--benchmark_out=%s", path);
    memcpy(flags + ours, argv + 1, (size_t)(argc - 1) * sizeof *argv);
    const char *filter = flag(argc, argv, "--benchmark_filter=");
    int status = run_benchmarks(argc - 1 + ours, flags, shapes, o->threads);
    if (status == 0) {
        against_run now = against_read(path, o->threads);
        status = against_print(&old, o->against, &now, filter);
        against_free(&now);
    }
    against_free(&old);
    return status;
}
#else
static int run_against(int argc, char **argv, const bench_shapes *shapes, const options *o) {
    (void)argc, (void)argv, (void)shapes, (void)o;
    fputs("lodrop-bench: --against: needs Jansson, and was built without it\n", stderr);
    return 1;
}
#endif

int main(int argc, char **argv) {
    options o = {.threads = 1, .rounds = 15, .rate = 0.1};
    argc = parse(argc, argv, &o);
    const int others = o.share + o.growth + o.peak + o.bandwidth;
    if (others + !!o.against > 1) {
        fputs("lodrop-bench: of --share, --growth, --peak, --bandwidth and --against, one at a time\n", stderr);
        return 2;
    }
    if (others && argc > 1) {
        fprintf(stderr, "lodrop-bench: '%s' has no place beside the other options\n", argv[1]);
        return 2;
    }
    if (o.growth) return bench_growth(o.threads, o.rounds);
    if (o.peak) return print_peak(o.threads);
    if (o.bandwidth) return print_bandwidth(o.threads);
    bench_shapes shapes = bench_read_shapes(o.shapes ? o.shapes : shapes_beside_program());
    int status;
    if (o.against) {
        status = run_against(argc, argv, &shapes, &o);
    } else if (!o.share) {
        status = run_benchmarks(argc, argv, &shapes, o.threads);
    } else if (o.name_count == 0) {
        status = bench_share(shapes.layers, shapes.layer_count, o.threads, o.rounds, o.rate);
    } else {
        bench_shape picked[sizeof o.names / sizeof o.names[0]];
        status = bench_share(picked, pick(&shapes, &o, picked), o.threads, o.rounds, o.rate);
    }
    bench_free_shapes(&shapes);
    return status;
}
