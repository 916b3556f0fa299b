#!/usr/bin/env python3
"""The parts of `make compare` that need no PyTorch: ratios, rows, tables, flop counts, order of measuring, memory."""
import json
import math
import pathlib
import sys
import tempfile
from types import SimpleNamespace

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "bench" / "compare"))
import cost
import measure
import report
import step
from harness import expect, finish

KEYS = {"case", "shape", "threads", "isa", "ours_ms", "peer", "peer_ms", "ratio", "spread"}
SETTING = {"threads": 1, "isa": "avx2"}


def expect_equal(what, got, want):
    expect(what, got == want, f"{got!r}, expected {want!r}")


def check_rows():
    expect_equal("quartiles", report.spread([5, 1, 4, 2, 3]), [2, 3, 4])
    expect_equal("quartiles between values", report.spread([1, 2]), [1.25, 1.5, 1.75])
    expect_equal("quartiles of one value", report.spread([7]), [7, 7, 7])
    row = report.make_row("lora", "shape", SETTING, [1, 2, 4], "PEFT", [2, 2, 20])
    expect_equal("keys", KEYS - row.keys(), set())
    expect_equal("the median of ratios, not a ratio of medians", (row["ours_ms"], row["peer_ms"], row["ratio"]),
                 (2000, 2000, 2))
    expect_equal("quartiles of ratios", row["spread"], [1.5, 3.5])
    alone = report.make_row("lora", "shape", SETTING, [1, 2, 4])
    expect_equal("without a peer", [alone[k] for k in ("peer", "peer_ms", "ratio", "spread")], [None] * 4)


def some_rows():
    share, over = {"share_of_peak": [0.7, 0.8, 0.9]}, {"over": [1.25, [1.1, 1.5]]}
    steps = {"tokens_per_second": {"ours": 400, "peer": 100}, "memory_bytes": {"ours": 2**29, "peer": 2**31},
             "share_of_limit": None}
    return [report.make_row("lora", "small", SETTING, [0.002], "PEFT", [0.003], **share, **over),
            report.make_row("lora", "large", SETTING, [0.2], "PEFT", [0.3], share_of_peak=None),
            report.make_row("product", "small", SETTING, [0.001], "torch.mm", [0.003], **share),
            report.make_row("product", "small", SETTING, [0.001], "BLIS sgemm", [0.0005], **share),
            report.make_row("step", "a model", SETTING, [0.25], "peer", [1.0], **steps),
            report.make_row("step", "a model", SETTING, [0.25], peak_gflops=math.nan,
                            **{**steps, "memory_bytes": {"ours": 2**29}})]


def check_files():
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch) / "new"
        report.write(folder, "Head.", some_rows())
        expect_equal("files", sorted(p.name for p in folder.iterdir()), ["compare.json", "compare.md"])
        rows = json.loads((folder / "compare.json").read_text(),
                          parse_constant=lambda name: expect(f"no {name}", False))
        expect_equal("rows", [row["case"] for row in rows], ["lora", "lora", "product", "product", "step", "step"])
        expect_equal("not a number", rows[-1]["peak_gflops"], None)
        check_markdown((folder / "compare.md").read_text().splitlines())


def check_markdown(lines):
    expect_equal("head", lines[0], "Head.")
    tables = {}
    for line in lines:
        if line.startswith("| shape") or line.startswith("| model"):
            table = tables[line.split(" ")[1]] = []
        if line.startswith("|"):
            table.append(line.strip("| ").split(" | "))
    wide = tables["shape"]
    expect_equal("columns", wide[0], ["shape", "product, ms", "of FMA peak", "torch.mm", "BLIS sgemm", "LoRA, ms",
                                      "over frozen layer", "of FMA peak", "PEFT"])
    expect_equal("a line", wide[2], ["small", "1", "0.80 [0.70, 0.90]", "3.00 x [3.00, 3.00]", "0.50 x [0.50, 0.50]",
                                     "2", "1.25 x [1.10, 1.50]", "0.80 [0.70, 0.90]", "1.50 x [1.50, 1.50]"])
    expect_equal("a line with gaps", wide[3], ["large", "-", "-", "-", "-", "200", "-", "-", "1.50 x [1.50, 1.50]"])
    told = tables["model"]
    expect_equal("lines of equal length", {len(line) for line in told}, {len(told[0])})
    expect_equal("a step", told[2][3:], ["400", "-", "peer", "100", "4.00 x [4.00, 4.00]", "0.50", "2.00", "0.25"])
    expect_equal("a step alone", told[3][3:], ["400", "-", "-", "-", "-", "0.50", "-", "-"])


def fake_run(seconds, memory, loss=2.0):
    """What a run of a program gives."""
    return [9.0] * step.WARM_UP_STEPS + seconds, [loss], memory


def check_steps():
    expect_equal("a run without its warm-up", step.measured(fake_run([3, 1, 2], 7)), (2, 7))
    work, setting = step.QUICK["quick-step"], {"threads": 2, "isa": "avx2"}
    told = {("step", "F32"): [(0.5, 100), (0.5, 90)], ("step", "BF16"): [(1, 50), (1, 50)],
            ("step", step.PEER): [(1, 400), (2, 200)], ("step-hiddenkey", "F32"): [(1, 100), (1, 100)],
            **{("step-hiddenkey", peer): [(2, 400), (4, 400)] for peer in step.METHODS["step-hiddenkey"].peers()}}
    rows = step.make_rows(work, "step", setting, [1e9, 1e9], told)
    expect_equal("weights stored in each way", [(row["ratio"], row["memory_ratio"]) for row in rows],
                 [(3, 0.25), (1.5, 0.125)])
    expect("the share of the limit", all(row["share_of_limit"] for row in rows), rows)
    rows = step.make_rows(work, "step-hiddenkey", setting, [1e9, 1e9], told)
    expect_equal("a row a peer", [row["peer"] for row in rows], [f"{step.PEER}, eager", f"{step.PEER}, SDPA"])
    expect_equal("products that were not counted", [row["share_of_limit"] for row in rows], [None, None])
    alone = {key: runs for key, runs in told.items() if not key[1].startswith(step.PEER)}
    rows = step.make_rows(work, "step-hiddenkey", setting, [1e9, 1e9], alone)
    expect_equal("alone", [(row["peer"], row["ratio"], row["memory_ratio"]) for row in rows], [(None, None, None)])


def check_costs():
    expect_equal("with what it is a multiple of", cost.with_bases(["cost-hiddenkey"]),
                 ["cost-hiddenkey-minus", "cost-hiddenkey"])
    told = {"cost": [(1, 100), (2, 90)], "cost-hiddenkey-minus": [(2, 100), (6, 150)]}
    work = cost.QUICK["quick-cost"]
    rows = [cost.make_row(work, case, SETTING, told) for case in told]
    expect_equal("no multiple", "over" in rows[0], False)
    expect_equal("multiples, of a round's time and of the largest memory", (rows[1]["over"], rows[1]["memory_over"]),
                 ([2.5, [2.25, 2.75]], 1.5))
    expect_equal("tokens/s", rows[1]["tokens_per_second"], {"ours": work.batch * work.tokens / 4})
    head, lines = report.cost_table(rows)
    expect_equal("columns of costs", head[3:], ["tokens/s", "GiB", "beside", "time", "memory"])
    expect_equal("a cost", lines[1][4:], ["0.00", "LoRA", "2.50 x [2.25, 2.75]", "1.50 x"])
    expect_equal("what others are beside", lines[0][5:], ["-", "-", "-"])
    measured = SimpleNamespace(lora_memory=100)
    for methods, apart, together in ((step.METHODS, "step-lora-dropout-apart", "step-lora-dropout"),
                                     (cost.METHODS, "cost-lora-dropout-apart", "cost-lora-dropout")):
        expect_equal(apart, step.Steps.memory_flags(measured, methods[apart]), ["--memory-limit", 114])
        expect_equal(together, step.Steps.memory_flags(measured, methods[together]), [])
    for case, method in {**step.METHODS, **cost.METHODS}.items():
        expect_equal(f"{case} has a title in its table", report.CASES[case].table,
                     "steps" if case in step.METHODS else "costs")
        expect_equal(f"{case}: flags in pairs", len(method.command()) % 2, 0)


def check_order():
    """Our call and its peers stand beside each other in every round; the fastest way of a peer is taken."""
    told, slow = [], [0.0]

    def call(name, seconds=0.0):
        def run():
            told.append(name)
            slow[0] += seconds
        return run
    clock = measure.Clock(2)
    clock.now = lambda: slow[0]
    expect_equal("the fastest way", measure.fastest(clock, {"a": call("a", 2), "b": call("b", 1),
                                                            "c": call("c", 1.25)})[0], "b")
    told.clear()
    short = 2**-7  # seconds: three make a sample
    samples, given = measure.interleave(clock, {"A": call("A", short), "B": call("B", 3)}, 3,
                                        lambda: told.append("peak"))
    expect_equal("in turn", told[4:], ["peak", *"AAAB"] * 3)
    expect_equal("samples", samples, {"A": [short] * 3, "B": [3] * 3})
    expect_equal("once a round", len(given), 3)
    expect_equal("shares", measure.shares(8, [1, 2, 4], [8, 8, 8]), [0.375, 0.5, 0.75])
    expect_equal("no peak", measure.shares(8, [1], [math.nan]), None)


def products(work):
    """(m, n, k) of every product of a step that is computed forward or backward."""
    t, kv, inner = work.batch * work.tokens, work.hidden // work.heads * work.kv_heads, work.intermediate
    for layer in range(work.layers):
        for name, n_in, n_out in (("q", work.hidden, work.hidden), ("k", work.hidden, kv), ("v", work.hidden, kv),
                                  ("o", work.hidden, work.hidden), ("gate", work.hidden, inner),
                                  ("up", work.hidden, inner), ("down", inner, work.hidden)):
            below = layer > 0 or name not in "qkv"  # something below it learns: dX
            yield from [(t, n_out, n_in)] + [(t, n_in, n_out)] * below
            if name in "qv":  # U, U B', dU, dB, dA, dX
                yield from [(t, step.RANK, n_in), (t, n_out, step.RANK), (t, step.RANK, n_out),
                            (step.RANK, n_out, t), (step.RANK, n_in, t)] + [(t, n_in, step.RANK)] * below
        for _ in range(7):  # causal: half of the pairs
            yield work.batch * work.heads * work.tokens, work.tokens / 2, work.hidden // work.heads
    yield from [(t, work.vocabulary, work.hidden)] * 2


def check_flops():
    for work in (*step.SHAPES.values(), *step.QUICK.values()):
        expect_equal(f"flops of a step of {work.name}", work.flops(), sum(2 * m * n * k for m, n, k in products(work)))


def check_processes():
    with tempfile.TemporaryDirectory() as scratch:
        log = pathlib.Path(scratch) / "log"
        memory = step.run([sys.executable, "-c", "print(len(bytearray(b'1') * (150 << 20)))"], log, None)
        expect(f"memory of a process: {memory}", 150 << 20 <= memory < 200 << 20)
        expect_equal("output of a process", log.read_text(), f"{150 << 20}\n")
        try:
            step.run([sys.executable, "-c", "import sys; print('some'); sys.exit('the reason')"], log, None)
            expect("a failing process is told", False)
        except step.Failed as failed:
            expect("a failing process is told", str(failed).endswith(": exit 1: the reason"), failed)


if __name__ == "__main__":
    check_rows()
    check_files()
    check_steps()
    check_costs()
    check_order()
    check_flops()
    check_processes()
    finish()
