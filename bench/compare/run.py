#!/usr/bin/env python3
"""lodrop beside what people use today, on this machine: PyTorch, PEFT and transformers, oneDNN and BLIS.

    make compare                                                     (COMPARE_FLAGS are the options)
    .venv/bin/python bench/compare/run.py [--only CASE...] [--shapes NAME...] [--threads N] [--isa NAME] ...

What is compared runs in turn, in one process (a whole step: in processes of their own), with as many threads and the
same instruction set. Times are medians of the rounds, ratios the medians of the rounds' own ratios, with quartiles.
Writes OUTPUT/compare.json, whose rows report.py explains, and OUTPUT/compare.md, the same as tables.
"""
import argparse
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "interop"))
import attention
import cost
import host
import layers
import lodrop_library as lod
import measure
import report
import step

GROUPS = {"layers": layers.Layers, "attention": attention.Attentions}
SHAPES = [*step.SHAPES, *cost.SHAPES, *layers.SHAPES, *attention.SHAPES]
ROUNDS, STEP_ROUNDS, THREADS, STEP_THREADS = 9, 3, 1, 2


def wanted_cases(words):
    """A case, or all whose names go on from this with a dash."""
    return [case for case in report.CASES if not words or any(case == w or case.startswith(f"{w}-") for w in words)]


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=host.ROOT / "build", help="folder of lodrop (build)")
    parser.add_argument("--output", type=Path, help="folder of the results (BUILD/compare)")
    parser.add_argument("--only", nargs="+", metavar="CASE", choices=report.CASES,
                        help=f"of {', '.join(report.CASES)}; a name takes in those that go on from it with a dash")
    parser.add_argument("--shapes", nargs="+", metavar="NAME", choices=SHAPES, help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--rounds", type=int, help=f"{ROUNDS}; of whole steps {STEP_ROUNDS}")
    parser.add_argument("--steps", type=int, help="measured of each run of a whole step, after one to warm up (3)")
    parser.add_argument("--threads", type=int, help=f"of all; {THREADS}; of whole steps {STEP_THREADS}")
    parser.add_argument("--isa", choices=("ref", "avx2", "avx512", "neon"), help="instruction set of all (LODROP_ISA)")
    parser.add_argument("--quick", action="store_true", help="small shapes, two rounds: does all of it run?")
    parser.add_argument("--only-ours", action="store_true", help="without the peers")
    parser.add_argument("--growth", action="store_true", help="instead: attention's time over T^2, memory over T")
    options = parser.parse_args()
    if any(count is not None and count < 1 for count in (options.rounds, options.steps, options.threads)):
        parser.error("--rounds, --steps and --threads are at least 1")
    if options.quick and options.shapes:
        parser.error("--quick has shapes of its own")
    options.build = options.build.resolve()
    options.output = (options.output or options.build / "compare").resolve()
    options.only = wanted_cases(options.only)
    return options


class Comparison:
    """What was asked for, and the rows so far, which are written after every shape."""

    def __init__(self, options):
        self.options, self.rows = options, []
        self.library = lod.Library(options.build)
        self.isa, self.threads = self.library.isa(), options.threads or THREADS
        self.rounds = options.rounds or (2 if options.quick else ROUNDS)
        self.step_rounds = options.rounds or (2 if options.quick else STEP_ROUNDS)
        self.lines = [host.describe(options.build, self.isa)]

    def shapes(self, group):
        every = group.QUICK if self.options.quick else group.SHAPES
        return {name: shape for name, shape in every.items() if name in (self.options.shapes or every)}

    def head(self):
        return ". ".join(self.lines) + "."

    def add(self, name, rows):
        self.rows += rows
        report.write(self.options.output, self.head(), self.rows)
        print(f"{name}: measured", file=sys.stderr, flush=True)

    def measure_steps(self):
        """First: processes inherit the peak of this one's memory, and it has no PyTorch yet."""
        o = self.options
        setting = {"threads": o.threads or STEP_THREADS, "isa": self.isa}
        for module in (step, cost):
            cases = [case for case in o.only if case in module.METHODS]
            for name, work in self.shapes(module).items() if cases else ():
                work = replace(work, steps=o.steps or work.steps)
                self.add(name, module.measure_work(o.build, o.output, work, cases, setting, self.step_rounds,
                                                   o.only_ours))

    def measure_calls(self):
        o, setting = self.options, {"threads": self.threads, "isa": self.isa}
        for name, module in (("layers", layers), ("attention", attention)):
            cases = [case for case in o.only if report.CASES[case].table == name]
            shapes = self.shapes(module) if cases else {}
            if not shapes:
                continue
            group = GROUPS[name](self.library, self.isa, cases, o.only_ours)
            self.lines += group.told
            for name, shape in shapes.items():
                ours, peers = group.prepare(shape, self.threads)
                self.add(name, measure.measure_shape(shape.text(), ours, peers, setting, self.rounds, o.build))

    def tell_peers(self):
        """Which PyTorch, held to what. Its environment is set before it is imported."""
        environment = host.peer_environment(self.isa, self.threads)
        os.environ.update(environment)
        from importlib.metadata import version
        names = ("torch", "peft", "transformers")
        limits = " ".join(f"{k}={v}" for k, v in environment.items() if not k.endswith("_THREADS"))
        self.lines.append(f"{', '.join(f'{n} {version(n)}' for n in names)} with {limits}")

    def run(self):
        self.lines.append(f"Threads {self.threads}, of whole steps {self.options.threads or STEP_THREADS}; "
                          f"{measure.Clock(self.threads).text}, of whole steps time; medians [quartiles] of "
                          f"{self.rounds} interleaved rounds, of whole steps {self.step_rounds}")
        if not self.options.only_ours:
            self.tell_peers()
        self.measure_steps()
        if not self.options.only_ours:
            import torch
            torch.set_num_threads(self.threads)
            torch.manual_seed(1)
        self.measure_calls()
        print(report.markdown(self.head(), self.rows))


def main():
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # through what ends the other processes
    if options.isa:
        os.environ["LODROP_ISA"] = options.isa
    comparison = Comparison(options)
    if options.growth:
        print(attention.growth(comparison.library, comparison.threads, comparison.rounds))
    else:
        comparison.run()


if __name__ == "__main__":
    try:
        main()
    except (step.Failed, lod.LodropError, OSError) as error:
        sys.exit(f"run.py: {error}")
