#!/usr/bin/env python3
"""What lodrop-bench measured, as tables and a roofline.

    report.py BENCH.json FOLDER    writes FOLDER/report.md and FOLDER/roofline.svg

BENCH.json is what lodrop-bench --benchmark_out=BENCH.json wrote. A number is the median of the repetitions, the spread
the distance of the quartiles of the time as a share of it. The roof of a benchmark is the lower of the FMA peak and of
what memory could feed at its intensity (flops a byte of its operands).
"""
import html
import json
import math
import pathlib
import re
import statistics
import sys

FAMILIES = [  # (title, names, colour): the first that fits
    ("low-rank layers", r"(lowrank|rank|weight_panel|keep_bits)", "#2f7ed8"),
    ("attention", r"attention", "#d9622b"),
    ("loss", r"(loss|xent)", "#8a56c2"),
    ("rows and elements", r".", "#2a9d5c"),
]
COLUMNS = ["benchmark", "µs", "spread", "GF/s", "of peak", "GB/s", "of bandwidth", "of roof", "over p = 0"]
UNITS = {"ns": 1e-3, "us": 1.0, "ms": 1e3, "s": 1e6}


class Benchmark:
    """One benchmark: its medians, and its place under the roofs."""

    def __init__(self, name, repetitions, time):
        def middle(counter):
            values = [r[counter] for r in repetitions if counter in r]
            return statistics.median(values) if values else None

        micros = sorted(r[time] * UNITS[r["time_unit"]] for r in repetitions)
        quartiles = statistics.quantiles(micros, n=4, method="inclusive") if len(micros) > 1 else [micros[0]] * 3
        self.name, self.operation, self.recipe = name, *name.split("/")[:2]
        self.micros, self.spread = quartiles[1], (quartiles[2] - quartiles[0]) / quartiles[1]
        self.gflops, self.over_plain = middle("GF/s"), middle("vs_p0")
        self.peak_share, self.gbytes = middle("peak_share"), (middle("bytes/s") or 0) / 1e9
        self.kind = name.rsplit("/", 1)[1] if re.search(r"/(hot|cold)$", name) and name.count("/") == 3 else "call"
        if self.operation.startswith("lowrank_") and not self.operation.startswith("lowrank_tile"):
            self.kind = "call"

    @property
    def intensity(self):
        return self.gflops / self.gbytes if self.gflops and self.gbytes else 0

    def family(self):
        return next(f for f in FAMILIES if re.match(f[1], self.operation))


class Run:
    """All benchmarks of a file, and the roofs that it measured."""

    def __init__(self, path):
        try:
            data = json.loads(path.read_text())
            self.context, groups = data["context"], {}
            time = "cpu_time" if self.context["threads"] == "1" else "real_time"
            for entry in data["benchmarks"]:
                if entry["run_type"] == "iteration" and not entry.get("error_occurred"):
                    groups.setdefault(entry["run_name"], []).append(entry)
            found = [Benchmark(name, repetitions, time) for name, repetitions in groups.items()]
        except (OSError, ValueError, KeyError, TypeError) as error:
            sys.exit(f"{path}: is not what lodrop-bench writes: {type(error).__name__}: {error}")
        self.isa, self.threads = self.context["isa"], int(self.context["threads"])
        self.roofs = [b for b in found if b.operation in ("peak_f32", "read_f32")]
        self.benchmarks = [b for b in found if b not in self.roofs]
        reads = {int(b.name.rsplit("threads", 1)[1]): b.gbytes for b in self.roofs
                 if b.operation == "read_f32" and b.recipe == self.isa}
        self.bandwidth = {"call": reads.get(self.threads), "kernel": reads.get(1)}
        self.peak = {"call": self.peak_of("call"), "kernel": self.peak_of("kernel")}

    def peak_of(self, kind):
        """The FMA peak beside which calls, or kernels, were measured."""
        peaks = [b.gflops / b.peak_share for b in self.benchmarks
                 if b.peak_share and b.recipe.split("_")[0] == self.isa and (b.kind == "call") == (kind == "call")]
        return statistics.median(peaks) if peaks else None

    def roof(self, benchmark):
        kind = "call" if benchmark.kind == "call" else "kernel"
        peak, bandwidth = self.peak[kind], self.bandwidth[kind]
        return min(peak, bandwidth * benchmark.intensity) if peak and bandwidth and benchmark.intensity else None

    def share_of_bandwidth(self, benchmark):
        bandwidth = self.bandwidth["call" if benchmark.kind == "call" else "kernel"]
        return benchmark.gbytes / bandwidth if bandwidth else None


# --- Markdown ---

def number(value, digits=3):
    return "" if value is None else f"{value:.{digits}g}" if abs(value) < 1000 else f"{value:.0f}"


def share(value):
    return "" if value is None else f"{value:.2f}"


def table(run, benchmarks):
    rows = ["| " + " | ".join(COLUMNS) + " |", "| --- |" + " ---: |" * (len(COLUMNS) - 1)]
    for b in sorted(benchmarks, key=lambda b: b.name):
        roof = run.roof(b)
        cells = [f"`{b.name}`", number(b.micros, 4), f"{100 * b.spread:.1f} %", number(b.gflops), share(b.peak_share),
                 number(b.gbytes), share(run.share_of_bandwidth(b)) if b.kind != "hot" else "",
                 share(b.gflops / roof) if roof and b.kind != "hot" else "", share(b.over_plain)]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def report(run):
    c = run.context
    caches = ", ".join(f"L{x['level']} {x['type'].lower()} {x['size'] >> 10} KiB" for x in c.get("caches", []))
    lines = ["# lodrop-bench", "", f"{c.get('num_cpus', '?')} CPUs at {c.get('mhz_per_cpu', '?')} MHz ({caches}); "
             f"whole calls: {run.isa}, threads {run.threads}; kernels: one thread.", "", "![roofline](roofline.svg)",
             "", __doc__.split("wrote. ")[1].strip().replace("\n", " "),
             "Hot kernels read the caches, so memory is no roof of theirs; whole calls repeat on the same operands, and "
             "what fits a cache may lie above memory's roof.", "", "## Roofs", "", "| roof | |", "| --- | ---: |"]
    for b in sorted(run.roofs, key=lambda b: b.name):
        lines.append(f"| `{b.name}` | " + (f"{b.gbytes:.1f} GB/s" if b.gbytes else f"{b.gflops:.1f} GF/s") + " |")
    parts = [("Whole calls", lambda b: b.kind == "call"),
             ("Kernels, cold", lambda b: b.kind == "cold"),
             ("Kernels, hot", lambda b: b.kind == "hot" and not b.recipe.startswith("ref")),
             ("Kernels, ref: the meaning, in double", lambda b: b.kind == "hot" and b.recipe.startswith("ref"))]
    for title, belongs in parts:
        for family in FAMILIES:
            some = [b for b in run.benchmarks if belongs(b) and b.family() == family]
            if some:
                lines += ["", f"## {title}: {family[0]}", "", table(run, some).rstrip()]
    return "\n".join(lines) + "\n"


# --- The roofline ---

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 960, 600, 76, 190, 56, 64
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f } .title { font-size: 17px; font-weight: 600 }
.paper { fill: #ffffff } .grid { stroke: #d7dce1; stroke-width: 1 } .roof { stroke: #24292f; stroke-width: 2; fill: none }
.small { font-size: 12px }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .paper { fill: #0d1117 } .grid { stroke: #30363d }
.roof { stroke: #e6edf3 } }
"""


class Axes:
    """Logarithmic axes around some points (intensity, GF/s), from a power of ten on."""

    def __init__(self, points):
        def ends(values):
            return math.floor(math.log10(min(values))), math.log10(max(values)) + 0.2

        self.x, self.y = ends([p[0] for p in points]), ends([p[1] for p in points])

    def place(self, intensity, gflops):
        across = (math.log10(intensity) - self.x[0]) / (self.x[1] - self.x[0])
        up = (math.log10(gflops) - self.y[0]) / (self.y[1] - self.y[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def grid(self):
        for power in range(self.x[0], math.floor(self.x[1]) + 1):
            x, bottom = self.place(10.0 ** power, 10.0 ** self.y[0])
            yield f'<line class="grid" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom:.1f}"/>'
            yield f'<text class="small" x="{x:.1f}" y="{bottom + 18:.1f}" text-anchor="middle">{10.0 ** power:g}</text>'
        for power in range(self.y[0], math.floor(self.y[1]) + 1):
            x, y = self.place(10.0 ** self.x[0], 10.0 ** power)
            yield f'<line class="grid" x1="{x:.1f}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>'
            yield f'<text class="small" x="{x - 8:.1f}" y="{y + 4:.1f}" text-anchor="end">{10.0 ** power:g}</text>'


def roof_lines(axes, peak, bandwidth, threads):
    ridge, right = peak / bandwidth, 10.0 ** axes.x[1]
    low = max(10.0 ** axes.x[0], 10.0 ** axes.y[0] / bandwidth)
    points = [axes.place(low, low * bandwidth), axes.place(ridge, peak), axes.place(max(right, ridge), peak)]
    yield '<polyline class="roof" points="' + " ".join(f"{x:.1f},{y:.1f}" for x, y in points) + '"/>'
    (x0, y0), (x1, y1) = points[:2]
    angle = math.degrees(math.atan2(y1 - y0, x1 - x0))
    x, y = x0 + 0.75 * (x1 - x0), y0 + 0.75 * (y1 - y0)
    yield (f'<text x="{x:.1f}" y="{y - 9:.1f}" text-anchor="middle" transform="rotate({angle:.1f} {x:.1f} {y:.1f})">'
           f"reading memory {bandwidth:.1f} GB/s</text>")
    yield (f'<text x="{WIDTH - RIGHT - 6}" y="{points[2][1] - 9:.1f}" text-anchor="end">FMA peak {peak:.1f} GF/s, '
           f"threads {threads}</text>")


def mark(axes, benchmark):
    x, y = axes.place(benchmark.intensity, benchmark.gflops)
    colour = benchmark.family()[2]
    fill = f'fill="{colour}" fill-opacity="0.75"' if benchmark.kind == "call" else 'fill="none"'
    told = f"{benchmark.name}: {benchmark.gflops:.1f} GF/s at {benchmark.intensity:.2g} flop/byte"
    return (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" {fill} stroke="{colour}" stroke-width="1.5">'
            f"<title>{html.escape(told)}</title></circle>")


def legend():
    y = TOP + 12
    for title, _, colour in FAMILIES:
        yield f'<circle cx="{WIDTH - RIGHT + 24}" cy="{y - 4}" r="5" fill="{colour}"/>'
        yield f'<text x="{WIDTH - RIGHT + 36}" y="{y}">{title}</text>'
        y += 24
    for text, fill in (("a whole call", "#808890"), ("a kernel, cold", "none")):
        y += 8
        yield f'<circle cx="{WIDTH - RIGHT + 24}" cy="{y - 4}" r="4" fill="{fill}" stroke="#808890" stroke-width="1.5"/>'
        yield f'<text x="{WIDTH - RIGHT + 36}" y="{y}">{text}</text>'
        y += 16


def roofline(run):
    """Whole calls and cold kernels of the instruction set in use; whole calls alone where theirs are other roofs."""
    kinds = ("call", "cold") if run.threads == 1 else ("call",)
    peak, bandwidth = run.peak["call"], run.bandwidth["call"]
    shown = [b for b in run.benchmarks if b.kind in kinds and b.intensity and b.recipe.split("_")[0] == run.isa]
    if not (shown and peak and bandwidth):
        return None
    axes = Axes([(b.intensity, b.gflops) for b in shown] + [(peak / bandwidth, peak)])
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
             'aria-label="Roofline of lodrop-bench">', f"<style>{STYLE}</style>",
             f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}"/>',
             f'<text class="title" x="{LEFT}" y="32">Roofline: {run.isa}, threads {run.threads}</text>', *axes.grid()]
    lines += [mark(axes, b) for b in sorted(shown, key=lambda b: b.kind == "call")]
    lines += [*roof_lines(axes, peak, bandwidth, run.threads), *legend()]
    middle = (TOP + HEIGHT - BOTTOM) / 2
    lines += [f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 18}" text-anchor="middle">'
              "arithmetic intensity, flop a byte of operands</text>",
              f'<text x="22" y="{middle}" text-anchor="middle" transform="rotate(-90 22 {middle})">GF/s</text>', "</svg>"]
    return "\n".join(lines) + "\n"


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    run, folder = Run(pathlib.Path(sys.argv[1])), pathlib.Path(sys.argv[2])
    drawing = roofline(run)
    text = report(run)
    if drawing:
        (folder / "roofline.svg").write_text(drawing)
    else:
        text = text.replace("![roofline](roofline.svg)", "No roofline: a roof or the benchmarks below it are missing.")
    (folder / "report.md").write_text(text)
    print(f"{folder}/report.md" + (f", {folder}/roofline.svg" if drawing else ""))


main()
