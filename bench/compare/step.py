"""Whole fine-tuning steps: lodrop-train beside transformers and PEFT, each run a process of its own, in turn. A model
of random weights is made on the spot. Only Python's standard library: PyTorch stays in the peer's processes
(step_torch.py).

Memory is the peak of the process's resident set, for both as the system tells it to the parent when the process ends;
the parent's own counts in it (processes inherit that peak), so the parent stays small.
"""
import functools
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import host
import measure
import report

PEER = "transformers + PEFT"
PEER_PROGRAM = Path(__file__).with_name("step_torch.py")
RANK, ALPHA, LEARNING_RATE = 8, 16, 1e-4
INSTANCES, CONSISTENCY_WEIGHT = 4, 0.1
WARM_UP_STEPS = 1


@dataclass
class Method:
    """A method as lodrop-train and step_torch.py name it; the ways in which a peer may write it are peers each."""
    name: str
    rate: float = None
    ways: tuple = ("",)
    flags: tuple = ()  # of lodrop-train, beside name and rate
    stored: tuple = ("F32",)  # weights
    counted: bool = False  # by Work.flops(): all its products, once
    drops_states: bool = False  # of the frozen model: so losses differ from the first step on
    memory_limit: float = None  # of lodrop-train, over what LoRA takes: how many instances run at once

    def command(self):
        rate = () if self.rate is None else ("--rate", self.rate)
        return ["--method", self.name, *rate, *self.flags]

    def peers(self):
        """{peer: way}"""
        return {f"{PEER}, {way}" if way else PEER: way for way in self.ways}


HIDDENKEY = {"rate": report.DROPOUT_RATE, "ways": ("eager", "SDPA"), "drops_states": True}
LORA_DROPOUT = {"rate": report.COLUMN_RATE, "flags": ("--instances", INSTANCES)}
METHODS = {
    "step": Method("lora-input-dropout", report.DROPOUT_RATE, stored=("F32", "BF16"), counted=True),
    "step-hiddenkey-minus": Method("hiddenkey-minus", **HIDDENKEY),
    "step-hiddenkey": Method("hiddenkey", **HIDDENKEY, flags=("--consistency-weight", CONSISTENCY_WEIGHT)),
    "step-lora-dropout": Method("lora-dropout", **LORA_DROPOUT, ways=("stacked",)),
    "step-lora-dropout-apart": Method("lora-dropout", **LORA_DROPOUT, ways=("passes",), memory_limit=1.15),
}


@dataclass
class Work:
    """A Llama, adapters on q and v, and a batch of equally long examples."""
    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    batch: int
    tokens: int
    steps: int  # measured, after the warm-up

    def text(self, stored):
        return f"{self.name} ({stored} weights), B={self.batch} T={self.tokens}"

    def adapter_flops(self):
        """q and v have A and B. Forward U, U B'; backward dU, dB, dA, and dX, which the first layer does without."""
        width, kv = self.hidden, self.hidden // self.heads * self.kv_heads
        inner, outer = 2 * width, width + kv
        return 2 * RANK * (3 * (inner + outer) * self.layers - inner) * self.batch * self.tokens

    def flops(self):
        """Of a step: products alone, each once. The first layer's q, k and v have no dX: nothing trains below them."""
        kv = self.hidden // self.heads * self.kv_heads
        qkv = self.hidden * (self.hidden + 2 * kv)
        layer = qkv + self.hidden**2 + 3 * self.hidden * self.intermediate
        weights = 2 * (layer * self.layers + self.vocabulary * self.hidden) - qkv
        tokens = self.batch * self.tokens
        attention = 7 * 2 * self.hidden * self.tokens / 2 * self.layers * tokens
        return 2 * weights * tokens + attention + self.adapter_flops()


SHAPES = {"llama-135m": Work("Llama of SmolLM2-135M's shape", 30, 576, 1536, 9, 3, 49152, batch=4, tokens=256, steps=3)}
QUICK = {"quick-step": Work("small Llama", 2, 48, 80, 3, 1, 2100, batch=2, tokens=24, steps=2)}


class Failed(Exception):
    """A program ended badly; the text says which and why."""


def run(command, log, environment):
    """Runs it to its end, its output in a file; the peak of its resident set in bytes."""
    with log.open("w") as out:
        process = subprocess.Popen([*map(str, command)], stdout=out, stderr=subprocess.STDOUT, env=environment)
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:  # stopped: it must not go on alone
        process.kill()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        lines = log.read_text(errors="replace").strip().splitlines() or ["no output"]
        raise Failed(f"{Path(command[0]).name}: exit {process.returncode}: {lines[-1]}")
    return usage.ru_maxrss * 1024


def peer_settings(method, way):
    """What step_torch.py has to know of a method."""
    return {"method": method.name, "rate": method.rate, "way": way, "rank": RANK, "alpha": ALPHA,
            "instances": INSTANCES, "weight": CONSISTENCY_WEIGHT}


class Steps:
    """Steps of one work; files go to a folder that is kept, for a model is made once."""

    def __init__(self, build, folder, work, setting):
        self.build, self.work, self.threads = build, work, setting["threads"]
        limits = host.peer_environment(setting["isa"], self.threads)
        self.environment = {**os.environ, **limits, "HF_HUB_OFFLINE": "1"}
        self.folder = folder / "step" / f"{work.batch}x{work.tokens}"
        self.folder.mkdir(parents=True, exist_ok=True)

    def peer(self, *arguments, log):
        return run([sys.executable, PEER_PROGRAM, *arguments], self.folder / log, self.environment)

    def make_model(self):
        work = json.dumps(asdict(replace(self.work, steps=0)))
        wanted = f"{work}\n{hashlib.sha256(PEER_PROGRAM.read_bytes()).hexdigest()}\n"
        made = self.folder / "made"
        if not made.exists() or made.read_text() != wanted:
            self.peer("make", self.folder, work, log="make.log")
            made.write_text(wanted)

    def lodrop(self, method, stored):
        """Seconds of each step, loss of each step, peak memory."""
        limit = self.memory_flags(method)
        output = self.folder / "output"
        shutil.rmtree(output, ignore_errors=True)  # of a run that was stopped
        flags = {"model": self.folder / stored, "data": self.folder / "examples.jsonl", "output": output,
                 "lora-r": RANK, "lora-alpha": ALPHA, "batch-size": self.work.batch, "max-length": self.work.tokens,
                 "learning-rate": LEARNING_RATE, "max-steps": WARM_UP_STEPS + self.work.steps,
                 "threads": self.threads}
        command = [self.build / "lodrop-train", *method.command(), *limit]
        for name, value in flags.items():
            command += [f"--{name}", value]
        memory = run(command, self.folder / "lodrop.log", self.environment)
        told = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
        tokens = self.work.batch * self.work.tokens
        return [tokens / t["tokens_per_second"] for t in told], [t["loss"] for t in told], memory

    @functools.cached_property
    def lora_memory(self):
        return self.lodrop(Method("lora"), "F32")[2]

    def memory_flags(self, method):
        return ["--memory-limit", int(method.memory_limit * self.lora_memory)] if method.memory_limit else []

    def transformers(self, method, way):
        settings = peer_settings(method, way) | {"learning_rate": LEARNING_RATE, "threads": self.threads,
                                                 "steps": WARM_UP_STEPS + self.work.steps}
        memory = self.peer("train", self.folder, json.dumps(settings), log="peer.log")
        told = [json.loads(line) for line in (self.folder / "peer.jsonl").read_text().splitlines()]
        return [t["seconds"] for t in told], [t["loss"] for t in told], memory


def check_same(name, method, ours, theirs):
    """What is timed computes the same: B is 0 at the first step, so the loss is that of the frozen model. (Where its
    states are dropped: near it. That both sides compute the same there is a test's matter.)"""
    bound = 1e-2 if method.drops_states else 1e-4
    assert abs(ours - theirs) < bound * theirs, f"{name}, {method.name}: first loss {ours:.6f}, {PEER}'s {theirs:.6f}"


def measured(run):
    """A run's step and its memory: the median of the steps after the warm-up."""
    seconds, _, memory = run
    return statistics.median(seconds[WARM_UP_STEPS:]), memory


def tokens_per_second(work, seconds):
    """seconds: of each round"""
    return work.batch * work.tokens / statistics.median(seconds)


def make_row(work, case, method, stored, setting, peaks, ours, peer=None, theirs=()):
    """ours, theirs: (seconds, bytes) of each round."""
    seconds, memory = ([list(column) for column in zip(*runs)] if runs else [] for runs in (ours, theirs))
    who = {"ours": seconds, **({"peer": memory} if peer else {})}
    return report.make_row(
        case, work.text(stored), setting, seconds[0], peer, memory[0] if peer else None,
        tokens_per_second={name: tokens_per_second(work, of[0]) for name, of in who.items()},
        memory_bytes={name: max(of[1]) for name, of in who.items()},
        memory_ratio=max(seconds[1]) / max(memory[1]) if peer else None,
        counted_gflop=1e-9 * work.flops() if method.counted else None, peak_gflops=1e-9 * statistics.median(peaks),
        share_of_limit=measure.shares(work.flops(), seconds[0], peaks) if method.counted else None)


def make_rows(work, case, setting, peaks, told):
    """Of a case: told has the rounds of lodrop by how weights are stored, and those of peers."""
    method = METHODS[case]
    peers = [peer for peer in method.peers() if (case, peer) in told] or [None]
    return [make_row(work, case, method, stored, setting, peaks, told[case, stored], peer, told.get((case, peer), ()))
            for stored in method.stored for peer in peers]


def measure_round(steps, case, runs, only_ours):
    """lodrop on weights stored in each way, then the peers."""
    method = METHODS[case]
    for stored in method.stored:
        runs.setdefault((case, stored), []).append(steps.lodrop(method, stored))
    for peer, way in method.peers().items() if not only_ours else ():
        runs.setdefault((case, peer), []).append(steps.transformers(method, way))
        check_same(steps.work.name, method, runs[case, "F32"][-1][1][0], runs[case, peer][-1][1][0])


def measure_work(build, folder, work, cases, setting, rounds, only_ours):
    """Rows of one work: in each round the peak, then each case."""
    steps, runs, peaks = Steps(build, folder, work, setting), {}, []
    steps.make_model()
    for _ in range(rounds):
        peaks.append(measure.peak(build, setting["threads"]))
        for case in cases:
            measure_round(steps, case, runs, only_ours)
    told = {key: [measured(run) for run in each] for key, each in runs.items()}
    return [row for case in cases for row in make_rows(work, case, setting, peaks, told)]
