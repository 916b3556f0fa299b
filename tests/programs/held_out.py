#!/usr/bin/env -S python3 -B
"""Evaluation while a run goes on: after which steps, by what metric, which adapter is left, when the run stops early; and
that a run which was stopped and resumed comes to the same."""
import json
import math

from harness import (adapter, expect, finish, metrics, must, resume, run, scratch, train, write_choices,
                     write_completions, write_model)

STEPS, EVERY, EPOCH = 40, 3, 5
BEST, PATIENCE = "--load-best-model-at-end", "--early-stopping-patience"
SELECTING = ("best", "adapter_step", "stopped_by", "steps", "eval", "train_loss")


def options_of(data):
    """A rate so high that the held-out loss falls, and rises again."""
    return ["--eval-data", data["held out"], "--target-modules", "all-linear", "--max-steps", STEPS, "--learning-rate",
            "2e-2", "--lr-scheduler", "constant"]


def train_on(data, name, *options):
    output = FOLDER / f"{data['name']} {name}"
    must(train(MODEL, data["train"], output, *options_of(data), *options))
    return output


def summary(output):
    return json.loads((output / "summary.json").read_text())


def evaluations(output, metric="loss"):
    """[(step, value)] of metrics.jsonl."""
    return [(line["step"], line[f"eval_{metric}"]) for line in metrics(output) if f"eval_{metric}" in line]


def best_of(found, metric):
    return min(found, key=lambda pair: (pair[1] if metric == "loss" else -pair[1], pair[0]))


def stop_of(found, metric, patience, threshold=0.0):
    """The step after which `patience` evaluations in a row were no more than the threshold better; None: none."""
    best, in_vain = None, 0
    for step, value in found:
        value = value if metric == "loss" else -value
        in_vain = 0 if best is None or best - value > threshold else in_vain + 1
        best = value if best is None else min(best, value)
        if in_vain == patience:
            return step
    return None


# --- After which steps, and what ---


def check_steps(data, choices):
    for name, options, every in [("by epochs", [], EPOCH), ("by steps", ["--eval-steps", EVERY], EVERY)]:
        output = train_on(data, name, *options)
        wanted = sorted({*range(every, STEPS + 1, every), STEPS})
        expect(f"{data['name']} {name}: when", [step for step, _ in evaluations(output)] == wanted, metrics(output))
        scored = [step for step, _ in evaluations(output, "accuracy")]
        expect(f"{data['name']} {name}: choices are scored at the end", scored == [STEPS] * choices, scored)
        expect_summary(f"{data['name']} {name}", output, "loss", STEPS, STEPS, "steps")
    expect(f"{data['name']}: evaluations change no bits", adapter(output) == adapter(train_on(data, "once",
           "--eval-steps", 1000)))


def expect_summary(what, output, metric, steps, adapter_step, stopped_by):
    said, (step, value) = summary(output), best_of(evaluations(output, metric), metric)
    expect(f"{what}: the best", said["best"] == {"step": step, "metric": metric, "value": value}, said["best"])
    end = (said["steps"], said["adapter_step"], said["stopped_by"])
    expect(f"{what}: the end", end == (steps, adapter_step, stopped_by), end)


def check_no_held_out():
    output = FOLDER / "alone"
    must(train(MODEL, COMPLETIONS["train"], output, "--max-steps", 2))
    said = summary(output)
    expect("no held-out data", said["best"] is None and said["eval"] is None and said["adapter_step"] == 2, said)


# --- Which adapter is left ---


def check_best(data, metric, watching):
    """The adapter is that of a run that was stopped after the best step, and summary.json's eval is its own."""
    what = f"{data['name']}, best {metric}"
    plain = train_on(data, f"last {metric}", *watching)
    found = evaluations(plain, metric)
    step, _ = best_of(found, metric)
    expect(f"{what}: worse ones follow", step < STEPS and found[-1][1] != dict(found)[step], found)
    output = train_on(data, f"best {metric}", *watching, BEST)
    expect(f"{what}: the metrics are the same", metrics(output) == metrics(plain))
    expect_summary(what, output, metric, STEPS, step, "steps")
    stopped = train_on(data, f"stopped {metric}", *watching, "--stop-after", step)
    expect(f"{what}: the adapter", adapter(output) == adapter(stopped / "checkpoint") != adapter(plain))
    left = sorted(path.name for path in output.iterdir() if "checkpoint" in path.name or "best" in path.name)
    expect(f"{what}: nothing else is left", not left, left)
    told = json.loads(must(run("lodrop-eval", "--model", MODEL, "--data", data["held out"], "--adapter", output,
                               "--json")).stdout)
    said = summary(output)["eval"]
    same = math.isclose(told["loss"], said["loss"], rel_tol=1e-8) and told["metrics"].keys() == said["metrics"].keys()
    expect(f"{what}: summary.json's eval is of this adapter", same, (told, said))


# --- When it stops ---


def check_patience(data, metric, watching, patience, threshold):
    what = f"{data['name']}, {metric}, patience {patience}, threshold {threshold}"
    plain = FOLDER / f"{data['name']} last {metric}"
    stop = stop_of(evaluations(plain, metric), metric, patience, threshold)
    options = [*watching, PATIENCE, patience, "--early-stopping-threshold", threshold]
    for best in ([], [BEST]):
        output = train_on(data, f"{metric} {patience} {threshold} {len(best)}", *options, *best)
        steps = stop or STEPS
        expect(f"{what} {best}: the steps until then", metrics(output) == metrics(plain)[:steps], stop)
        left = best_of(evaluations(output, metric), metric)[0] if best else steps
        expect_summary(f"{what} {best}", output, metric, steps, left, "steps" if stop is None else "early_stopping")
        expect(f"{what} {best}: no checkpoint is left", not (output / "checkpoint").exists())
    return stop, output, [*options, BEST]


def check_resumed(data, name, peace, options):
    """Stopped after every step in turn, and once more after the next."""
    steps = summary(peace)["steps"]
    for stop in [1, EVERY, EVERY + 1, steps // 2, steps - 1]:
        output = train_on(data, f"{name} resumed {stop}", *options, "--stop-after", stop)
        must(resume(output, "--stop-after", stop + 1, "--threads", 1))
        if not (output / "summary.json").exists():
            must(resume(output))
        what = f"{data['name']}, {name}, resumed after {stop}"
        expect(f"{what}: adapter", adapter(output) == adapter(peace))
        expect(f"{what}: metrics", metrics(output) == metrics(peace))
        ours, theirs = summary(output), summary(peace)
        expect(f"{what}: summary", all(ours[field] == theirs[field] for field in SELECTING), f"{ours}\n{theirs}")


def check(data, metric):
    watching = ["--eval-steps", EVERY, "--metric-for-best-model", metric]
    check_best(data, metric, watching)
    stops = [check_patience(data, metric, watching, patience, threshold)[0]
             for patience, threshold in [(1, 0), (2, 0), (2, 0.05), (STEPS, 0)]]
    expect(f"{data['name']}, {metric}: some stop and some do not", None in stops and any(stops), stops)
    _, output, options = check_patience(data, metric, watching, 3, 0.01)
    check_resumed(data, metric, output, options)


FOLDER = scratch()
MODEL = write_model(FOLDER / "model")
COMPLETIONS = {"name": "completions", "train": write_completions(FOLDER / "train.jsonl"),
               "held out": write_completions(FOLDER / "held-out.jsonl", seed=13)}
CHOICES = {"name": "choices", "train": write_choices(FOLDER / "train-choices.jsonl"),
           "held out": write_choices(FOLDER / "held-out-choices.jsonl", seed=14)}
check_steps(COMPLETIONS, 0)
check_steps(CHOICES, 1)
check_no_held_out()
check(COMPLETIONS, "loss")
check(CHOICES, "loss")
check(CHOICES, "accuracy")
finish()
