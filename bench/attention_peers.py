#!/usr/bin/env python3
"""Attention, forward and backward, beside PyTorch: both in one process, in turn, so that a drift of the machine meets
both alike. Prints Markdown: milliseconds, and ratios of each round's own times, as medians [quartiles].

    .venv/bin/python bench/attention_peers.py [--shapes NAME...] [--only-ours] [--growth] ...

`make interop` makes .venv. PyTorch has its operands contiguous as it likes them best, [B][H][T][D], and huge pages, as
our workspace has; where there is more than one way to say the same in it, the fastest of a warm-up is measured. Its
masks are drawn inside the time, as ours are. A share of the FMA peak counts 7 products of 2 T T D flop a head (half of
them if causal, 1-p of them where columns are dropped), over the peak that lodrop-bench measures in each round.
"""
import argparse
import json
import math
import os
import platform
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "interop"))
import lodrop_library as lod
from lodrop_library import Compensation, Pattern

COLUMN_RATE, ELEMENT_RATE, DROPOUT_RATE = 0.5, 0.1, 0.1
OURS = {"none": (Pattern.ELEMENT, Compensation.NONE, 0), "column": (Pattern.COLUMN, Compensation.NONE, COLUMN_RATE),
        "element": (Pattern.ELEMENT, Compensation.NONE, ELEMENT_RATE),
        "dropout": (Pattern.ELEMENT, Compensation.INVERTED, DROPOUT_RATE)}
TITLES = {"none": "p = 0", "column": f"column DropKey {COLUMN_RATE}", "element": f"element DropKey {ELEMENT_RATE}",
          "dropout": f"attention dropout {DROPOUT_RATE}"}
# PyTorch's, and which of ours each is compared with.
PEERS = {"SDPA": "none", "SDPA, dropout": "dropout", "SDPA, column mask": "column", "SDPA, element mask": "element",
         "eager column DropKey": "column", "eager element DropKey": "element", "eager attention dropout": "dropout"}
SAMPLE_SECONDS = 0.02


@dataclass
class Shape:
    """Segments of these lengths."""
    name: str
    lengths: list
    heads: int
    kv_heads: int
    head_dim: int
    causal: bool = True

    def flops(self, p=0.0):
        share = (0.5 if self.causal else 1) * (1 - p)
        return 7 * 2 * self.heads * self.head_dim * sum(t * t for t in self.lengths) * share

    def text(self):
        ragged = len(set(self.lengths)) > 1
        batch = f"T={'+'.join(map(str, self.lengths))}" if ragged else f"B={len(self.lengths)} T={self.lengths[0]}"
        heads = f"H={self.heads}" + (f"/{self.kv_heads}" if self.heads != self.kv_heads else "")
        return f"{batch} {heads} D={self.head_dim}{'' if self.causal else ' not causal'}"


SHAPES = {shape.name: shape for shape in (
    Shape("t256", [256] * 4, 12, 12, 64), Shape("t1024", [1024] * 2, 12, 12, 64), Shape("t2048", [2048], 9, 9, 64),
    Shape("d128", [512], 32, 32, 128), Shape("gqa", [512] * 2, 32, 8, 64),
    Shape("full", [768] * 2, 12, 12, 64, causal=False), Shape("ragged", [1000, 77, 513, 300, 158], 12, 12, 64))}


def operands(shape):
    """q, k, v and the gradient of O, [tokens][heads][D]."""
    generator, tokens = np.random.default_rng(1), sum(shape.lengths)
    return [generator.standard_normal((tokens, heads, shape.head_dim), dtype=np.float32)
            for heads in (shape.heads, shape.kv_heads, shape.kv_heads, shape.heads)]


def our_attention(library, shape, arrays, threads, pattern, compensation, p):
    """An Attention, and a call of it: forward and backward, with other masks each time."""
    q, k, v, d_o = arrays
    dropout = lod.lod_dropout(pattern, compensation, p, 1, library.site(lod.DOMAIN_TRAIN, 0, lod.POSITION_ATTN_LOGIT))
    attention = lod.Attention(library, q, k, v, lod.Rows(shape.lengths), causal=shape.causal, dropout=dropout,
                              threads=threads)

    def call():
        attention.queries.draw += np.uint32(len(shape.lengths))
        attention.forward()
        attention.backward(d_o)
    return attention, call


# --- PyTorch: the module is imported by those who need it, so that --only-ours is quick ---

def torch_batches(shape, arrays):
    """The operands as lists of [B][H][T][D] tensors (q, k, v, gradient): equal segments as one batch, others one by one
    or as one batch padded on the right, whose padding gets no gradient and, causal, gives none."""
    import torch

    def part(array, at, length):
        return torch.from_numpy(array[at:at + length]).transpose(0, 1)

    def tensors(rows, pad):
        parts = [[torch.nn.functional.pad(part(a, at, t), (0, 0, 0, pad - t)) for at, t in rows] for a in arrays]
        q, k, v, d_o = (torch.stack(p).contiguous() for p in parts)
        return q.requires_grad_(), k.requires_grad_(), v.requires_grad_(), d_o
    rows = list(zip(np.cumsum([0, *shape.lengths]).tolist(), shape.lengths))
    if len(set(shape.lengths)) == 1:
        return {"": [tensors(rows, shape.lengths[0])]}
    assert shape.causal, "padding is for causal attention only"
    return {"by segment": [tensors([row], row[1]) for row in rows],
            "padded": [tensors(rows, max(shape.lengths))]}


def sdpa(shape, mask=None, p=0.0, expand=False):
    import torch
    attention = torch.nn.functional.scaled_dot_product_attention
    group = shape.heads // shape.kv_heads

    def call(q, k, v):
        if expand:
            k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        options = {"dropout_p": p, "enable_gqa": group > 1 and not expand}
        if mask is None:
            return attention(q, k, v, is_causal=shape.causal, **options)
        b, h, t, _ = q.shape
        keep = torch.rand(b, h, 1, t) >= COLUMN_RATE if mask == "column" else torch.rand(b, h, t, t) >= ELEMENT_RATE
        if shape.causal:
            keep = keep & torch.ones(t, t, dtype=torch.bool).tril()
        bias = torch.zeros(b, h, t, t).masked_fill_(~keep, -torch.inf)
        return attention(q, k, v, attn_mask=bias, **options)
    return call


def eager(shape, method):
    """As the papers' own code has it. The query heads of a KV head stand below each other: nothing is expanded."""
    import torch

    def call(q, k, v):
        (b, h, t, d), kv = q.shape, shape.kv_heads
        logits = (q.reshape(b, kv, -1, d) @ k.mT).view(b, h, t, t) / math.sqrt(d)
        if shape.causal:
            logits = logits.masked_fill(~torch.ones(t, t, dtype=torch.bool).tril(), -torch.inf)
        if method == "column":
            logits = logits.masked_fill(torch.rand(b, h, 1, t) < COLUMN_RATE, -1e12)
        if method == "element":
            logits = logits + torch.bernoulli(torch.full_like(logits, ELEMENT_RATE)) * -1e12
        weights = logits.softmax(-1)
        if method == "dropout":
            weights = torch.nn.functional.dropout(weights, DROPOUT_RATE)
        return (weights.view(b, kv, -1, t) @ v).view(b, h, t, d)
    return call


def passes(batch, function):
    """A call that runs forward and backward over all of a batch's tensors."""
    def call():
        for q, k, v, d_o in batch:
            function(q, k, v).backward(d_o)
            q.grad = k.grad = v.grad = None
    return call


def peer_variants(shape, arrays):
    """For each of PEERS, {how: call}."""
    ways = {"enable_gqa": False, "expanded": True} if shape.heads != shape.kv_heads else {"": False}
    masks = {"SDPA": {}, "SDPA, dropout": {"p": DROPOUT_RATE}, "SDPA, column mask": {"mask": "column"},
             "SDPA, element mask": {"mask": "element"}}
    functions = {name: {way: sdpa(shape, expand=expand, **options) for way, expand in ways.items()}
                 for name, options in masks.items()}
    functions |= {name: {"": eager(shape, method)} for name, method in PEERS.items() if name.startswith("eager")}
    batches = torch_batches(shape, arrays)
    return {name: {" ".join(filter(None, (how, way))): passes(batch, function)
                   for how, batch in batches.items() for way, function in functions[name].items()} for name in PEERS}


def check_same(shape, arrays, attention):
    """What is timed computes the same: O and gradients without dropout, segment by segment."""
    import torch
    attention.forward()
    got = [attention.o, *attention.backward(arrays[3])]
    function = sdpa(shape)
    for part in attention.queries.slices():
        q, k, v, d_o = (torch.from_numpy(a[part]).transpose(0, 1)[None].contiguous() for a in arrays)
        operands = [x.requires_grad_() for x in (q, k, v)]
        o = function(*operands)
        want = [o, *torch.autograd.grad(o, operands, d_o)]
        for name, g, w in zip(("O", "dQ", "dK", "dV"), got, want, strict=True):
            w = w.detach()[0].transpose(0, 1).numpy()
            error = np.linalg.norm(g[part] - w) / np.linalg.norm(w)
            assert error < 1e-5, f"{shape.name}: {name} and PyTorch's differ by {error:.3g} of its norm"


# --- measuring ---

class Clock:
    """CPU time of the process where it has one thread, which a busy machine disturbs least; else time as it passes."""

    def __init__(self, threads):
        self.now = time.process_time if threads == 1 else time.perf_counter
        self.text = "CPU time" if threads == 1 else "time"

    def seconds(self, call, calls=1):
        begin = self.now()
        for _ in range(calls):
            call()
        return (self.now() - begin) / calls


def fastest(clock, variants):
    """The variant to measure, (how, call): one call of each tells which are worth three more."""
    if len(variants) == 1:
        return next(iter(variants.items()))
    once = {how: clock.seconds(call) for how, call in variants.items()}
    close = [how for how, seconds in once.items() if seconds < 1.5 * min(once.values())]
    best = min(close, key=lambda how: min(clock.seconds(variants[how]) for _ in range(3)) if len(close) > 1 else 0)
    return best, variants[best]


def measure_peak(build, threads):
    """GF/s in the instruction set in use, or nan where it has no probe."""
    told = subprocess.run([build / "lodrop-bench", "--peak", "--threads", str(threads)], check=True, text=True,
                          capture_output=True).stdout
    found = re.search(r"([0-9.]+) GF/s", told)
    return float(found[1]) if found else math.nan


def interleave(clock, calls, rounds, peak):
    """Seconds of each call in each round, {name: [rounds]}, and the peaks."""
    counts, samples, peaks = {}, {name: [] for name in calls}, []
    for name, call in calls.items():
        call()
        counts[name] = max(1, math.ceil(SAMPLE_SECONDS / clock.seconds(call)))
    for _ in range(rounds):
        peaks.append(peak())
        for name, call in calls.items():
            samples[name].append(clock.seconds(call, counts[name]))
    return {name: np.array(s) for name, s in samples.items()}, np.array(peaks)


def spread(values, digits=2):
    if not np.isfinite(values).all():
        return "-"
    low, middle, high = np.percentile(values, (25, 50, 75))
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def measure_shape(library, clock, shape, options):
    """All that one line of the tables tells."""
    arrays = operands(shape)
    ours = {name: our_attention(library, shape, arrays, options.threads, *triple) for name, triple in OURS.items()}
    calls, chosen = {name: call for name, (_, call) in ours.items()}, {}
    if not options.only_ours:
        check_same(shape, arrays, ours["none"][0])
        for name, variants in peer_variants(shape, arrays).items():
            chosen[name], calls[name] = fastest(clock, variants)
    samples, peaks = interleave(clock, calls, options.rounds, lambda: measure_peak(options.build, options.threads))
    rates = {name: p if pattern == Pattern.COLUMN else 0 for name, (pattern, _, p) in OURS.items()}
    shares = {name: shape.flops(rates[name]) / samples[name] / peaks * 1e-9 for name in OURS}
    return {"samples": samples, "peak": peaks, "shares": shares, "chosen": chosen}


def ours_line(shape, result):
    samples, cells = result["samples"], [shape.name, shape.text()]
    for name in OURS:
        cells.append(f"{spread(samples[name] * 1e3)}")
        if name != "none":
            cells.append(spread(samples[name] / samples["none"]))
        if name in ("none", "column"):
            cells.append(spread(result["shares"][name]))
    return cells + [spread(result["peak"], 1)]


def peers_line(shape, result):
    samples = result["samples"]
    how = {name: f" ({way})" if way else "" for name, way in result["chosen"].items()}
    return [shape.name, *(f"{np.median(samples[name]) * 1e3:.2f}{how[name]}: {spread(samples[name] / samples[ours])}"
                          for name, ours in PEERS.items())]


def listed(series):
    """For JSON, which has no NaN."""
    return {name: [x if math.isfinite(x) else None for x in values.tolist()] for name, values in series.items()}


def print_table(head, lines):
    for cells in (head, ["---"] * len(head), *lines):
        print("| " + " | ".join(cells) + " |")
    print(flush=True)


def print_tables(results, options):
    head = ["lodrop", "shape"]
    for name, title in TITLES.items():
        head += [f"{title}, ms"] + ([] if name == "none" else ["over p = 0"])
        head += ["of FMA peak"] if name in ("none", "column") else []
    print_table([*head, "FMA peak, GF/s"], [ours_line(SHAPES[name], r) for name, r in results.items()])
    if not options.only_ours:
        print("PyTorch in ms, and its time over lodrop's (above 1: lodrop is faster).\n")
        titles = [f"{peer}, over {TITLES[ours]}" for peer, ours in PEERS.items()]
        print_table(["PyTorch", *titles], [peers_line(SHAPES[name], r) for name, r in results.items()])


def compare(library, clock, options, save):
    results, told = {}, {}
    try:
        for name in options.shapes:
            r = results[name] = measure_shape(library, clock, SHAPES[name], options)
            told[name] = {"shape": SHAPES[name].text(), "variants": r["chosen"], **listed({"peak_gflops": r["peak"]}),
                          "seconds": listed(r["samples"]), "share_of_peak": listed(r["shares"])}
            save(told)
            print(f"{name}: measured", file=sys.stderr)
    finally:  # what there is, when stopped before the end
        if results:
            print_tables(results, options)


def growth(library, clock, options, save):
    """One causal head of D = 64: time grows as T^2, memory as T."""
    lines, told = [], []
    for tokens in (512, 1024, 2048, 4096, 8192):
        shape = Shape(f"t{tokens}", [tokens], 1, 1, 64)
        arrays = operands(shape)
        ours = {name: our_attention(library, shape, arrays, options.threads, *triple) for name, triple in OURS.items()}
        samples, _ = interleave(clock, {name: call for name, (_, call) in ours.items()}, options.rounds, lambda: 0)
        one = ours["none"][0]
        held = {"operands": sum(a.nbytes for a in (*arrays, one.o, one.dq, one.dk, one.dv, one.lse)),
                "workspace": max(a.workspace.size for a, _ in ours.values())}
        lines.append([str(tokens), *(spread(samples[name] / tokens**2 * 1e9) for name in OURS),
                      *(f"{held[what] / tokens:.0f}" for what in ("operands", "workspace"))])
        told.append({"tokens": tokens, **held, "seconds": listed(samples)})
        save(told)
    print_table(["T", *(f"{TITLES[name]}, ns/T^2" for name in OURS), "operands, bytes/T", "workspace, bytes/T"], lines)


# --- what ran, on what ---

def cpu():
    told = dict(re.findall(r"^(model name|cpu family|model)\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M))
    if "model name" not in told:
        return f"{platform.machine()} CPU"
    return f"{told['model name']} (family {told.get('cpu family', '?')}, model {told.get('model', '?')})"


def compiler(build):
    """From what CMake wrote down."""
    files = sorted(build.glob("CMakeFiles/*/CMakeCCompiler.cmake"))
    told = dict(re.findall(r'set\(CMAKE_C_COMPILER_(ID|VERSION) "(.*)"\)', files[-1].read_text())) if files else {}
    commands = build / "compile_commands.json"
    levels = set(re.findall(r" (-O\w+)", commands.read_text())) if commands.exists() else ()
    return " ".join([told.get("ID", "compiler unknown"), told.get("VERSION", ""), *sorted(levels)])


def commit():
    done = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True)
    return f" ({done.stdout.strip()})" if done.returncode == 0 else ""


def head_line(library, clock, options):
    version = subprocess.run([options.build / "lodrop-bench", "--version"], check=True, capture_output=True, text=True)
    parts = [f"{cpu()}, {os.cpu_count()} CPUs", f"lodrop {version.stdout.split()[1]}{commit()}",
             f"{compiler(options.build)}, {library.isa()}"]
    if not (options.only_ours or options.growth):
        import torch
        parts.append(f"PyTorch {torch.__version__} ({torch.backends.cpu.get_cpu_capability()})")
    return (f"{'; '.join(parts)}. Forward and backward, threads {options.threads}; {clock.text}, medians [quartiles] "
            f"of {options.rounds} interleaved rounds.")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="folder with liblodrop.so and lodrop-bench")
    parser.add_argument("--isa", choices=("ref", "avx2", "avx512", "neon"), help="instruction set (LODROP_ISA)")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), help="some of the shapes")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1, help="of both")
    parser.add_argument("--json", type=Path, help="write every sample there")
    parser.add_argument("--only-ours", action="store_true", help="without PyTorch")
    parser.add_argument("--growth", action="store_true", help="instead: time over T^2, memory over T")
    options = parser.parse_args()
    if options.rounds < 1 or options.threads < 1:
        parser.error("--rounds and --threads are at least 1")
    options.build = options.build.resolve()
    return options


def main():
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if options.isa:
        os.environ["LODROP_ISA"] = options.isa
    if not (options.only_ours or options.growth):
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # of PyTorch's allocator
        import torch
        torch.set_num_threads(options.threads)
        torch.manual_seed(1)
    library, clock = lod.Library(options.build), Clock(options.threads)
    head = head_line(library, clock, options)
    print(f"{head}\n", flush=True)

    def save(results):
        if options.json:
            options.json.write_text(json.dumps({"head": head, "results": results}, indent=1) + "\n")
    (growth if options.growth else compare)(library, clock, options, save)


if __name__ == "__main__":
    main()
