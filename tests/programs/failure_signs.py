#!/usr/bin/env -S python3 -B
"""What a run warns of: each sign provoked and not, each told once, on standard error and in summary.json, the same when
the run was stopped and resumed."""
import json
import statistics

from harness import expect, finish, metrics, must, resume, scratch, train, write_completions, write_model

STEPS, EPOCH, WINDOW = 60, 5, 20
RUNS = [  # options, and what they provoke
    ("held-out loss rises", ["--learning-rate", "2e-2", "--lr-scheduler", "constant"], ["overfitting"]),
    ("held-out loss rises, seldom seen", ["--learning-rate", "2e-2", "--lr-scheduler", "constant", "--eval-steps", 30],
     []),
    ("the gradient explodes", ["--learning-rate", "10", "--warmup-ratio", "0.9"], ["gradient"]),
    ("starved", ["--method", "dropout", "--rate", "0.9"], ["starved"]),
    ("not starved at a higher learning rate",
     ["--method", "dropout", "--rate", "0.9", "--learning-rate", "1e-2", "--eval-steps", 30], []),
    ("nothing learnt at a rate of 0.5", ["--method", "dropout", "--rate", "0.5", "--learning-rate", 0], ["starved"]),
    ("nothing learnt at a rate below 0.5", ["--method", "dropout", "--rate", "0.49", "--learning-rate", 0], []),
    ("the defaults", [], []),
]


def mean(steps):
    return statistics.fmean(step["loss"] for step in steps)


def overfitting(steps):
    ends = [step["step"] for step in steps if "eval_loss" in step]
    stretches = [steps[first:end] for first, end in zip([0, *ends], ends)]
    for i in range(2, len(stretches)):
        lowest = min(stretches[:i - 1], key=lambda stretch: stretch[-1]["eval_loss"])
        worse = all(stretch[-1]["eval_loss"] > lowest[-1]["eval_loss"] for stretch in stretches[i - 1:i + 1])
        if worse and mean(stretches[i]) < mean(lowest):
            return ends[i]
    return None


def gradient(steps):
    norms = [step["grad_norm"] for step in steps]
    return next((i + 1 for i in range(WINDOW, len(norms))
                 if 0 < 10 * statistics.median(norms[i - WINDOW:i]) < norms[i]), None)


def starved(steps, rate):
    due = max(EPOCH, 2 * WINDOW)
    fell = mean(steps[due - WINDOW:due]) <= 0.99 * mean(steps[:WINDOW])
    return None if fell or rate < 0.5 else due


def expected(steps, options):
    rate = float(options[options.index("--rate") + 1]) if "--rate" in options else 0
    found = {"overfitting": overfitting(steps), "gradient": gradient(steps), "starved": starved(steps, rate)}
    return {cause: step for cause, step in found.items() if step}


def warned(said):
    return [line.removeprefix("warning: ") for line in said.splitlines() if line.startswith("warning: ")]


def told(output):
    return json.loads((output / "summary.json").read_text())["warnings"]


def check(name, options, provoked):
    output, given = FOLDER / name, [*OPTIONS, *options]
    said = must(train(MODEL, DATA, output, *given)).stderr
    listed, steps = told(output), expected(metrics(output), options)
    got = {warning["cause"]: warning["step"] for warning in listed}
    expect(f"{name}: what is warned of, and when", got == steps and len(got) == len(listed), f"{got}\n{steps}")
    expect(f"{name}: what was provoked", set(provoked) <= got.keys() and (provoked or not got), f"{provoked}\n{got}")
    expect(f"{name}: told once", sorted(warned(said)) == sorted(warning["text"] for warning in listed), said)
    for step in got.values():
        for stop in (step - 1, min(step, STEPS - 1)):
            check_resumed(f"{name}, told at {step}, resumed after {stop}", given, stop, listed)


def check_resumed(what, options, step, listed):
    output = FOLDER / what
    said = must(train(MODEL, DATA, output, *options, "--stop-after", step)).stderr
    said += must(resume(output)).stderr
    expect(f"{what}: the same in summary.json", told(output) == listed, told(output))
    expect(f"{what}: told once", sorted(warned(said)) == sorted(warning["text"] for warning in listed), said)


FOLDER = scratch()
MODEL, DATA = write_model(FOLDER / "model"), write_completions(FOLDER / "data.jsonl")
HELD_OUT = write_completions(FOLDER / "held-out.jsonl", seed=13)
OPTIONS = ["--target-modules", "all-linear", "--max-steps", STEPS, "--eval-data", HELD_OUT]
for name, options, provoked in RUNS:
    check(name, options, provoked)
finish()
