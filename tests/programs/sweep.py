#!/usr/bin/env -S python3 -B
"""Sweeps: which runs a file names, that each equals one of its own, what is skipped, resumed and refused, the table."""
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import time
import xml.etree.ElementTree

from harness import (adapter, command, environment, expect, finish, metrics, must, run, scratch, told, train,
                     write_choices, write_completions, write_model)

DAMAGED, USAGE, RESOURCE, INTERRUPTED = 1, 2, 3, 130  # exit statuses
COMMON = ["--threads", 1, "--batch-size", 4]


def write_sweep(path, **fields):
    path.write_text(json.dumps(fields))
    return path


def arguments(file, output, *options):
    return ["--model", MODEL, "--data", DATA, "--output", output, "--sweep", file, *COMMON, *options]


def sweep(file, output, *options):
    return run("lodrop-train", *arguments(file, output, *options))


def table(output):
    return json.loads((output / "sweep.json").read_text())


def folders(output):
    return sorted(path.name for path in output.iterdir() if path.is_dir())


def times(output):
    """When each run was finished."""
    return {name: (output / name / "summary.json").stat().st_mtime_ns for name in folders(output)}


# --- Names, and that a run of a sweep is a run ---


def check_product():
    """Named runs x values, in the order of the file; base under the command line."""
    file = write_sweep(FOLDER / "product.json", base={"epochs": 7, "max-steps": 3, "lora-alpha": 4},
                       runs=[{"name": "plain"}, {"name": "keys", "method": "dropkey", "rate": 0.5}],
                       vary={"lora-r": [2, 4], "use-rslora": [True, False], "seed": [0, 1]})
    output = FOLDER / "product"
    done = must(sweep(file, output, "--lora-alpha", 8))
    values = [(r, scale, seed) for r in (2, 4) for scale in ("true", "false") for seed in (0, 1)]
    names = [f"{name},lora-r={r},use-rslora={scale},seed={seed}" for name in ("plain", "keys")
             for r, scale, seed in values]
    runs = table(output)["runs"]
    expect("product: runs in their order", [r["name"] for r in runs] == names, [r["name"] for r in runs])
    expect("product: their folders", folders(output) == sorted(names), folders(output))
    expect("product: groups are names without the seed",
           [r["group"] for r in runs] == [name.rpartition(",")[0] for name in names])
    expect("product: options that vary", runs[9]["options"] == {"lora-r": 2, "use-rslora": True, "seed": 1}, runs[9])
    lines = [line for line in done.stderr.splitlines() if re.match(r"\[\d+/16\] ", line)]
    expect("product: a line a run", len(lines) == 16 and "left" in lines[0], done.stderr)
    alone = FOLDER / "alone"
    must(train(MODEL, DATA, alone, *COMMON, "--max-steps", 3, "--lora-alpha", 8, "--method", "dropkey", "--rate", 0.5,
               "--lora-r", 2, "--use-rslora", "--seed", 1))
    here = output / names[9]
    same = adapter(here) == adapter(alone) and metrics(here) == metrics(alone)
    expect("product: the bits of a run by itself", same and (here / "lodrop.json").read_bytes() ==
           (alone / "lodrop.json").read_bytes())
    expect("product: not those of its neighbour", adapter(here) != adapter(output / names[8]))


def check_lists():
    """What file names cannot hold is replaced."""
    file = write_sweep(FOLDER / "lists.json", vary={
        "drop": [[], ["attn_logit:column:0.1", "hidden:element:0.25"]], "target-modules": ["q_proj,v_proj"]})
    output = FOLDER / "lists"
    must(sweep(file, output, "--max-steps", 1))
    names = [f"drop={drop},target-modules=q_proj_v_proj" for drop in ("", "attn_logit:column:0.1+hidden:element:0.25")]
    expect("lists: names", [r["name"] for r in table(output)["runs"]] == names, table(output)["runs"])
    recipe = json.loads((output / names[1] / "lodrop.json").read_text())
    expect("lists: both dropouts", [d["position"] for d in recipe["dropouts"]] == ["attn_logit", "hidden"], recipe)


# --- The table ---


def mean_of(values, unit=1, digits=4):
    mean = f"{statistics.mean(values) / unit:.{digits}f}"
    return f"{mean} ± {statistics.stdev(values) / unit:.{digits}f}" if len(values) > 1 else mean


def expect_row(what, row, summaries):
    """Every cell again from the summaries of its runs."""
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    evaluations = [s["eval"] for s in summaries]
    wanted = [str(len(summaries)), mean_of([s["train_loss"] for s in summaries]),
              mean_of([e["loss"] for e in evaluations]),
              *[mean_of([e["metrics"][name] for e in evaluations]) for name in evaluations[0]["metrics"]],
              mean_of([s["seconds"] for s in summaries], digits=1),
              mean_of([s["peak_rss_bytes"] for s in summaries], 2**20, 1)]
    expect(f"{what}: sweep.md", cells[-len(wanted):] == wanted, f"{cells}\n{wanted}")


def expect_group(what, group, summaries):
    for name, values in [("train_loss", [s["train_loss"] for s in summaries]),
                         ("held_out_loss", [s["eval"]["loss"] for s in summaries]),
                         *[(name, [s["eval"]["metrics"][name] for s in summaries]) for name in ("accuracy", "ece")],
                         ("seconds", [s["seconds"] for s in summaries]),
                         ("peak_rss_bytes", [s["peak_rss_bytes"] for s in summaries])]:
        mean, deviation = statistics.mean(values), statistics.stdev(values)
        close = abs(group[name]["mean"] - mean) <= 1e-12 * abs(mean) and group[name]["runs"] == len(values) and \
            abs(group[name]["standard_deviation"] - deviation) <= 1e-9 * abs(mean)
        expect(f"{what}: {name} in sweep.json", close, f"{group[name]}\n{mean} {deviation}")


def check_table():
    """Side by side, with held-out data; the drawing has a point and its deviation for each value."""
    file = write_sweep(FOLDER / "table.json", vary={"learning-rate": [0.1, 0.001, 0.01], "seed": [3, 5, 8]})
    output = FOLDER / "table"
    must(sweep(file, output, "--data", CHOICES, "--eval-data", CHOICES, "--epochs", 1, "--jobs", 3))
    rows = (output / "sweep.md").read_text().splitlines()
    expect("table: a row a group", len([row for row in rows if row.startswith("|")]) == 2 + 3, rows)
    for i, value in enumerate(["0.1", "0.001", "0.01"]):
        what = f"learning-rate={value}"
        summaries = [json.loads((output / f"{what},seed={seed}" / "summary.json").read_text()) for seed in (3, 5, 8)]
        expect(f"{what}: row", rows[2 + i].startswith(f"| {value} "), rows[2 + i])
        expect_row(what, rows[2 + i], summaries)
        expect_group(what, table(output)["groups"][i], summaries)
    check_drawing(output)


def check_drawing(output):
    space = "{http://www.w3.org/2000/svg}"
    root = xml.etree.ElementTree.parse(output / "sweep.svg").getroot()
    told_points = [circle.find(f"{space}title").text for circle in root.iter(f"{space}circle")]
    wanted = []
    for group in sorted(table(output)["groups"], key=lambda group: group["options"]["learning-rate"]):
        loss = group["held_out_loss"]
        wanted.append(f"{group['options']['learning-rate']:g}: {loss['mean']:.5f} ± "
                      f"{loss['standard_deviation']:.5f}, 3 runs")
    expect("drawing: a point a value, in order", told_points == wanted, f"{told_points}\n{wanted}")


def check_no_drawing():
    """Two options that vary, or one that is no number: nothing to draw over."""
    for name, vary in [("two", {"lora-r": [2, 4], "epochs": [1, 2]}), ("words", {"method": ["lora", "dropkey"]})]:
        output = FOLDER / f"drawing-{name}"
        must(sweep(write_sweep(FOLDER / f"{name}.json", vary=vary), output, "--eval-data", DATA, "--max-steps", 1))
        expect(f"no drawing: {name}", not (output / "sweep.svg").exists())


def check_memory():
    """Each run's own: after one that takes much, one that takes little."""
    file = write_sweep(FOLDER / "memory.json", vary={"batch-size": [64, 1]})
    output = FOLDER / "memory"
    options = ["--model", MODEL, "--data", LONG, "--output", output, "--sweep", file, "--threads", 1, "--max-steps", 1]
    must(run("lodrop-train", *options))
    large, small = (run["summary"]["peak_rss_bytes"] for run in table(output)["runs"])
    expect("memory: each run's own", small < large - 2**21, f"{small} {large}")


# --- Done before, interrupted, failed ---


def check_again():
    """What is done is not done again, and what was removed is."""
    file = write_sweep(FOLDER / "again.json", vary={"seed": [0, 1, 2]})
    output = FOLDER / "again"
    must(sweep(file, output, "--max-steps", 2))
    before, first = times(output), table(output)
    done = must(sweep(file, output, "--max-steps", 2, "--threads", 2))
    expect("again: nothing runs", times(output) == before and "3 done before" in done.stderr, done.stderr)
    expect("again: the same table", table(output) == first)
    shutil.rmtree(output / "seed=1")
    must(sweep(file, output, "--max-steps", 2))
    after = times(output)
    expect("again: what was removed runs", {n for n in after if after[n] != before[n]} == {"seed=1"}, after)
    bytes_before = adapter(output / "seed=1")
    done = sweep(file, output, "--max-steps", 3)
    refused = done.returncode == DAMAGED and "seed=0/options.json: max-steps" in done.stderr
    expect("again: other options are refused", refused and len(done.stderr.splitlines()) == 1, told(done))
    (output / "seed=1" / "options.json").unlink()
    done = sweep(file, output, "--max-steps", 2)
    expect("again: a folder of no sweep is refused", done.returncode == DAMAGED and "options.json" in done.stderr,
           told(done))
    expect("again: and nothing touched", adapter(output / "seed=1") == bytes_before)


def steps_of(output, name):
    path = output / name / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def start(file, output, *options):
    """A group of processes of its own, as a shell with job control makes it."""
    words = command("lodrop-train", *arguments(file, output, *options))
    return subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for_steps(process, output, name, steps=3):
    while process.poll() is None and steps_of(output, name) < steps:
        time.sleep(0.002)


def check_interrupted(name, number, whole_group):
    """Ctrl-C (to all processes of the terminal's group) or kill: a checkpoint; the same command goes on to the end."""
    file = write_sweep(FOLDER / f"{name}.json", vary={"seed": [0, 1, 2]})
    peace, output, options = FOLDER / "peace", FOLDER / name, ["--max-steps", 400, "--jobs", 2]
    must(sweep(file, peace, *options))
    process = start(file, output, *options)
    wait_for_steps(process, output, "seed=0")
    wait_for_steps(process, output, "seed=1")
    (os.killpg if whole_group else os.kill)(process.pid, number)
    _, said = process.communicate()
    expect(f"{name}: exit status {INTERRUPTED}", process.returncode == INTERRUPTED, f"{process.returncode}\n{said}")
    left = [run for run in ("seed=0", "seed=1") if (output / run / "checkpoint").is_dir()]
    expect(f"{name}: both have left a checkpoint", left == ["seed=0", "seed=1"], folders(output))
    expect(f"{name}: the third has not begun", folders(output) == left, folders(output))
    must(sweep(file, output, *options))
    for run in folders(peace):
        same = adapter(output / run) == adapter(peace / run) and metrics(output / run) == metrics(peace / run)
        expect(f"{name}: {run} comes to the same end", same)
    runs = table(output)["runs"]
    expect(f"{name}: which were resumed", [run["resumed"] for run in runs] == [True, True, False], runs)
    seconds = table(output)["groups"][0]["seconds"]
    expect(f"{name}: seconds of whole runs alone", seconds["runs"] == 1 and
           seconds["mean"] == runs[2]["summary"]["seconds"], seconds)
    expect(f"{name}: said in the table", "seed=0 was interrupted" in (output / "sweep.md").read_text())


def check_killed():
    """kill -9 of the sweep: its runs notice, leave a checkpoint, and go on when it does: P, L and Q, too."""
    file = write_sweep(FOLDER / "killed.json", vary={"seed": [0]})
    output, options = FOLDER / "killed", ["--max-steps", 2000, "--form", "adalora"]
    process = start(file, output, *options)
    wait_for_steps(process, output, "seed=0")
    process.kill()
    process.communicate()
    until = time.monotonic() + 60
    while time.monotonic() < until and not (output / "seed=0" / "checkpoint").is_dir():
        time.sleep(0.01)
    expect("killed: the run leaves a checkpoint", (output / "seed=0" / "checkpoint").is_dir(), folders(output))
    done = sweep(file, output, *options)
    while time.monotonic() < until and "a sweep is running here" in done.stderr:
        done = sweep(file, output, *options)
    must(done)
    expect("killed: goes on", table(output)["runs"][0]["resumed"], table(output))


def check_two():
    """Two sweeps at once in one folder: the second is refused."""
    file = write_sweep(FOLDER / "two-sweeps.json", vary={"seed": [0]})
    output, options = FOLDER / "two-sweeps", ["--max-steps", 2000]
    process = start(file, output, *options)
    wait_for_steps(process, output, "seed=0")
    done = sweep(file, output, *options)
    expect("two sweeps: refused", done.returncode == DAMAGED and "a sweep is running here" in done.stderr, told(done))
    process.send_signal(signal.SIGINT)
    process.communicate()
    expect("two sweeps: the first is left in peace", (output / "seed=0" / "checkpoint").is_dir(), folders(output))


def check_failing():
    """A run that diverges is a result; the others go on. What fails for good ends the sweep."""
    file = write_sweep(FOLDER / "failing.json", vary={"weight-decay": [1e9, 0]})
    output = FOLDER / "failing"
    options = ["--learning-rate", 1, "--max-steps", 50]
    done = sweep(file, output, *options)
    expect("failing: said at the end", done.returncode == DAMAGED and "1 of 2 runs failed" in done.stderr, told(done))
    states = [run["state"] for run in table(output)["runs"]]
    expect("failing: the other is done", states == ["failed", "done"], states)
    expect("failing: why", "diverged" in (output / "sweep.md").read_text())
    file = write_sweep(FOLDER / "bad-data.json", vary={"seed": [0, 1]})
    bad = FOLDER / "bad.jsonl"
    bad.write_text("{\n")
    done = sweep(file, FOLDER / "bad-data", "--data", bad)
    last = done.stderr.splitlines()[-1]
    expect("failing: bad data end it", done.returncode == DAMAGED and "seed=0: " in last and "bad.jsonl" in last,
           told(done))


# --- Refusals, before anything is written ---

NAMED = [{"name": "a"}]
REFUSED = [  # what, the file, words of the message, more options
    ("no JSON", "{", ["bad-sweep.json", "not valid JSON"]),
    ("a list", [], ["bad-sweep.json", "not a JSON object"]),
    ("empty", {}, ["bad-sweep.json", "neither runs nor vary"]),
    ("an unknown field", {"varies": {}}, ["bad-sweep.json: varies: unknown"]),
    ("an unknown option in vary", {"vary": {"rank": [1]}}, ["bad-sweep.json: vary.rank: no such option"]),
    ("an unknown option in base", {"base": {"rank": 1}, "runs": NAMED}, ["bad-sweep.json: base.rank: no such option"]),
    ("an unknown option in a run", {"runs": [{"name": "a", "rank": 1}]}, ["bad-sweep.json: runs[0].rank: no such"]),
    ("dashes", {"vary": {"--lora-r": [1]}}, ["vary.--lora-r", "without dashes"]),
    ("underscores", {"vary": {"lora_r": [1]}}, ["vary.lora_r: is spelled lora-r here"]),
    ("an option of the whole", {"vary": {"output": ["a"]}}, ["vary.output", "single run"]),
    ("a sweep in a sweep", {"base": {"sweep": "a"}, "runs": NAMED}, ["base.sweep", "single run"]),
    ("no list", {"vary": {"seed": 1}}, ["vary.seed", "must be a list"]),
    ("an empty list", {"vary": {"seed": []}}, ["vary.seed", "has no values"]),
    ("no runs", {"runs": []}, ["runs", "is empty"]),
    ("a run that is no object", {"runs": [1]}, ["runs[0]", "must be an object"]),
    ("a value of another type", {"vary": {"seed": [1, "2"]}}, ["vary.seed", "must be an integer"]),
    ("a value that is none", {"vary": {"seed": [None]}}, ["vary.seed", "missing"]),
    ("a value out of range", {"vary": {"lora-r": [8, 0]}}, ["vary.lora-r", "is 0, must be from 1 to 1024"]),
    ("base under the command line", {"base": {"batch-size": "4"}, "runs": NAMED}, ["base.batch-size", "an integer"]),
    ("a rate of 1", {"base": {"rate": 1}, "runs": NAMED}, ["base.rate", "is 1"]),
    ("too many runs", {"vary": {"seed": list(range(1025))}}, ["vary.seed", "more than 1024 runs"]),
    ("too large a product", {"vary": {"seed": list(range(40)), "lora-r": list(range(1, 41))}}, ["more than 1024"]),
    ("too many named ones", {"vary": {"seed": list(range(600))}, "runs": [{"name": "a"}, {"name": "b"}]},
     ["runs", "more than 1024"]),
    ("a run without a name", {"runs": [{}]}, ["runs[0].name", "missing"]),
    ("a name that leaves the folder", {"runs": [{"name": "a/b"}]}, ["runs[0].name", "letters, digits"]),
    ("a hidden name", {"runs": [{"name": "..a"}]}, ["runs[0].name", "must not begin with"]),
    ("a name of the table's", {"runs": [{"name": "sweep.md"}]}, ["runs[0].name", "must not begin with"]),
    ("a long name", {"runs": [{"name": "a" * 65}]}, ["runs[0].name", "1 to 64 bytes"]),
    ("a long name of values", {"vary": {"drop": [["attn_logit:column:0.1", "ffn_output:element:0.1"] * 6]}},
     ["longer than", "use \"runs\""]),
    ("two runs of one name", {"runs": [{"name": "a"}, {"name": "a"}]}, ["bad-sweep.json: a: two runs have this name"]),
    ("a value twice", {"vary": {"seed": [1, 1]}}, ["seed=1: two runs"]),
    ("in base, too", {"base": {"seed": 1}, "vary": {"seed": [1]}}, ["vary.seed", "is in base, too"]),
    ("in vary, too", {"runs": [{"name": "a", "seed": 1}], "vary": {"seed": [1]}}, ["runs[0].seed", "is in vary, too"]),
    ("on the command line, too", {"vary": {"batch-size": [1]}}, ["vary.batch-size", "is on the command line, too"]),
    ("options that do not fit", {"vary": {"method": ["dropkey", "lora"]}, "base": {"rate": 0.2}},
     ["bad-sweep.json: method=lora: ", "--rate", "has no dropout"]),
    ("an unknown method, last", {"vary": {"method": ["dropkey", "keydrop"]}}, ["method=keydrop", "--method"]),
    ("layers that the model lacks", {"vary": {"drop": [["attn_logit:column:0.1:none:7"]]}}, ["drop=", "7"]),
    ("an unknown schedule", {"vary": {"lr-scheduler": ["linear", "sine"]}}, ["lr-scheduler=sine", "sine"]),
    ("an unknown metric", {"base": {"eval-data": "nowhere.jsonl"}, "vary": {"metric-for-best-model": ["f2"]}},
     ["metric-for-best-model=f2: ", "'f2'"]),
    ("data that are not there", {"vary": {"eval-data": ["nowhere.jsonl"]}}, ["nowhere.jsonl", "No such file"]),
]
USAGES = [
    ("--resume", ["--resume"], "--resume"), ("--print-config", ["--print-config"], "--print-config"),
    ("--stop-after", ["--stop-after", 1], "--stop-after"),
]


def check_refusals():
    file, output = FOLDER / "bad-sweep.json", FOLDER / "refused"
    for what, content, words in REFUSED:
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        done = sweep(file, output)
        missing = [word for word in words if word not in done.stderr]
        okay = done.returncode in (DAMAGED, USAGE) and not missing and len(done.stderr.splitlines()) == 1
        expect(f"refused: {what}", okay, f"{told(done)}\nwithout: {missing}")
        expect(f"refused: {what}: nothing is left", not output.exists())
    done = sweep(FOLDER / "nowhere.json", output)
    expect("refused: no file", done.returncode == DAMAGED and "nowhere.json: cannot open" in done.stderr, told(done))
    write_sweep(file, runs=NAMED)
    for what, options, word in USAGES:
        done = sweep(file, output, *options)
        expect(f"refused: {what}", done.returncode == USAGE and word in done.stderr, told(done))
    done = run("lodrop-train", "--sweep", file)
    expect("refused: no --output", done.returncode == USAGE and "--output" in done.stderr, told(done))
    done = train(MODEL, DATA, output, "--jobs", 2)
    expect("refused: --jobs alone", done.returncode == USAGE and "--sweep" in done.stderr, told(done))
    done = run("lodrop-train", "--sweep", file, "--output", output, "--data", DATA)
    expect("refused: no model", done.returncode == USAGE and "a: " in done.stderr and "--model" in done.stderr,
           told(done))


FOLDER = scratch()
MODEL, DATA = write_model(FOLDER / "model"), write_completions(FOLDER / "data.jsonl")
LONG = write_completions(FOLDER / "long.jsonl", count=2000)
CHOICES = write_choices(FOLDER / "choices.jsonl")
check_product()
check_lists()
check_table()
check_no_drawing()
check_memory()
check_again()
check_interrupted("interrupted", signal.SIGINT, True)
check_interrupted("terminated", signal.SIGTERM, False)
check_killed()
check_two()
check_failing()
check_refusals()
finish()
