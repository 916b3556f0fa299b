#!/usr/bin/env -S python3 -B
"""Whatever ends a run early (kill -9 at any moment, Ctrl-C, a full disk), --resume reaches the bytes of one that was
left in peace.

    LODROP_SANITIZED  if set, no run is killed: that leaves a sanitizer nothing to say
"""
import os
import random
import shutil
import signal
import subprocess
import time

from harness import (adapter, command, enter_mount_namespace, environment, expect, finish, metrics, mount, must,
                     resume, scratch, skip, told, train, write_completions, write_model)

STEPS, KILLING_SECONDS = 12, 15
KEEPING_BEST = ["--eval-steps", 1, "--load-best-model-at-end"]
OPTIONS = ["--method", "lora-input-dropout", "--target-modules", "all-linear", "--batch-size", 4, "--threads", 1]
EACH_STEP = ["--save-steps", 1]
ADAPTER = ["adapter_config.json", "lodrop.json", "adapter_model.safetensors"]
NO_CHECKPOINT, INTERRUPTED, RESOURCE = "there is none to resume from", 130, 3


class Run:
    """What is trained, and what it comes to when nothing disturbs it."""

    def __init__(self, steps, *options):
        self.options = [*OPTIONS, "--max-steps", steps, "--eval-data", HELD_OUT, *options]
        self.peace = FOLDER / f"peace{steps}"
        must(self.train(self.peace))

    def train(self, output, *options):
        return train(MODEL, DATA, output, *self.options, *options)

    def start(self, output, *options, tracer=()):
        """A process that goes on where there is a checkpoint, and otherwise begins."""
        how = ["--resume"] if has_checkpoint(output) else ["--model", MODEL, "--data", DATA, *self.options, *options]
        words = command("lodrop-train", "--output", output, *how, emulator=tracer)
        return subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True)

    def go_on(self, output):
        """To the end after a kill. Returns what went wrong."""
        done = resume(output)
        if NO_CHECKPOINT in done.stderr:
            if is_finished(output):
                return ""
            done = self.train(output)
        return told(done) if done.returncode else ""

    def half_written(self, output):
        """Files of an adapter that have their names but not their contents."""
        return [name for name in ADAPTER
                if (output / name).exists() and (output / name).read_bytes() != (self.peace / name).read_bytes()]

    def expect_finished(self, what, output):
        same = (output / "adapter_model.safetensors").exists() and adapter(output) == adapter(self.peace)
        expect(f"{what}: the adapter's bytes", same, sorted(path.name for path in output.iterdir()))
        expect(f"{what}: the metrics", same and metrics(output) == metrics(self.peace))
        expect(f"{what}: no checkpoint is left", not has_checkpoint(output))
        temporary = [path.name for path in output.glob("*.tmp*")]
        expect(f"{what}: no temporary file is left", not temporary, temporary)


def has_checkpoint(output):
    return any((output / name).is_dir() for name in ("checkpoint", "checkpoint.old"))


def is_finished(output):
    """All of a run's results are there; what follows them is the removal of the checkpoint."""
    return (output / "summary.json").exists()


# --- kill -9 ---


def kill_once(run, output, delay):
    """Starts or goes on, and kills after the delay. Returns what a process that ended by itself had to complain of."""
    process = run.start(output, *EACH_STEP)
    try:
        _, complaint = process.communicate(timeout=delay)
        return complaint if process.returncode else ""
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return ""


def kill_and_finish(run, output, rng, whole):
    """A run that is killed up to five times before it may come to its end. Returns how often, and what went wrong."""
    kills, complaints = rng.randint(1, 5), []
    for _ in range(kills):
        if not is_finished(output):
            complaints.append(kill_once(run, output, rng.uniform(0.1, 0.8) * whole))
            complaints += run.half_written(output)
    complaints.append(run.go_on(output))
    same = is_finished(output) and adapter(output) == adapter(run.peace) and metrics(output) == metrics(run.peace)
    if not same or has_checkpoint(output):
        complaints.append(f"finished with other results: {list(output.iterdir())}")
    return kills, [complaint for complaint in complaints if complaint]


def check_random_kills(run, seconds):
    """As many runs as fit the time; most kills come while a checkpoint is written, for steps are short."""
    begin = time.monotonic()
    must(run.train(FOLDER / "timed", *EACH_STEP))
    whole, rng, runs, kills, complaints = time.monotonic() - begin, random.Random(), 0, 0, []
    while time.monotonic() - begin < seconds or runs < 3:
        output = FOLDER / f"killed{runs}"
        times, found = kill_and_finish(run, output, rng, whole)
        runs, kills, complaints = runs + 1, kills + times, complaints + found
        shutil.rmtree(output)
    print(f"{runs} runs were killed {kills} times at random")
    expect("killed at random: all runs come to their ends with the same results", not complaints, "\n".join(complaints))


def check_best_is_kept(run):
    """Without --save-steps, too, what was the best so far is on disk."""
    output = FOLDER / "best"
    process = run.start(output)
    while process.poll() is None and not (output / "checkpoint" / "best.safetensors").exists():
        time.sleep(0.002)
    process.kill()
    process.communicate()
    expect("killed after a best evaluation: not finished", not is_finished(output) and has_checkpoint(output))
    complaint = run.go_on(output)
    expect("killed after a best evaluation: comes to its end", not complaint, complaint)
    run.expect_finished("killed after a best evaluation", output)


def killed_at(run, calls, *options, before=None):
    """Runs that are killed at the first of these calls, at the second, ... until a run has no more of them: what each is
    called and the folder that it leaves. before: what is in the folder when it starts."""
    for call in calls:  # not all machines have all of them: hence ?call
        for count in range(1, 1000):
            output = FOLDER / f"{call}{count}"
            if before:
                shutil.copytree(before, output)
            inject = ["-e", f"trace=?{call}", "-e", f"inject=?{call}:signal=KILL:when={count}"]
            process = run.start(output, *options, tracer=[*TRACER, *inject])
            process.communicate()
            if process.returncode == -signal.SIGKILL:
                yield f"killed at {call} {count}", output
            shutil.rmtree(output, ignore_errors=True)
            if process.returncode != -signal.SIGKILL:
                break


def check_each_call(run):
    killed = 0
    for what, output in killed_at(run, ["write", "rename", "renameat", "unlinkat", "rmdir"], *EACH_STEP):
        half = run.half_written(output)
        expect(f"{what}: no file is half-written", not half, half)
        complaint = run.go_on(output)
        expect(f"{what}: comes to its end", not complaint, complaint)
        run.expect_finished(what, output)
        killed += 1
    expect("runs were killed at their calls", killed > 10, killed)


def check_other_adapter(run):
    """In a folder with an adapter of another method: where there are tensors, all files are of one run."""
    def files(output):
        return [(output / name).read_bytes() for name in ADAPTER]

    other, left = FOLDER / "other", []
    must(train(MODEL, DATA, other, "--method", "lora-dropout", "--target-modules", "all-linear", "--max-steps", 1))
    whole = [files(other), files(run.peace)]
    for what, output in killed_at(run, ["rename", "renameat", "unlink", "unlinkat", "fsync"], before=other):
        there = (output / ADAPTER[-1]).exists()
        found = files(output) if there else None
        left.append(None if not there else whole.index(found) if found in whole else f"{what}: mixed")
    mixed = [what for what in left if what not in (0, 1, None)]
    expect("killed over another adapter: no mixture of both", not mixed, mixed)
    expect("killed over another adapter: before, amid and after it", {0, 1, None} <= set(left), left)


# --- What a kill between any two steps of replacing a checkpoint leaves ---


def lose_half(folder):
    """As if its files were being written or removed."""
    for path in sorted(folder.iterdir())[::2]:
        path.unlink()


def check_states(run):
    """The states in which the folders can be found, made from a whole checkpoint after 5 steps and one after 6."""
    first, second = FOLDER / "after5", FOLDER / "after6"
    must(run.train(first, "--stop-after", 5))
    must(run.train(second, "--stop-after", 6))
    states = {  # what lies there: (name of the folder, which one it is, whether it is whole)
        "a new one half-written": [("checkpoint", first, True), ("checkpoint.new", second, False)],
        "a new one written": [("checkpoint", first, True), ("checkpoint.new", second, True)],
        "the old one aside": [("checkpoint.old", first, True), ("checkpoint.new", second, True)],
        "the new one in place": [("checkpoint", second, True), ("checkpoint.old", first, True)],
        "the old one half-removed": [("checkpoint", second, True), ("checkpoint.old", first, False)],
        "remains of two kills": [("checkpoint.old", first, True), ("checkpoint.new", second, False)],
    }
    for what, folders in states.items():
        output = FOLDER / what.replace(" ", "-")
        for name, source, whole in folders:
            shutil.copytree(source / "checkpoint", output / name)
            if not whole:
                lose_half(output / name)
        done = resume(output, *EACH_STEP)
        expect(f"{what}: resumes", done.returncode == 0, told(done))
        run.expect_finished(what, output)


# --- Signals ---


def steps_done(output):
    path = output / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def interrupt(process, output, name):
    """Sends the signal when a step or two of this process are done. Returns its exit status and what it said."""
    before = steps_done(output)
    while process.poll() is None and not before < steps_done(output):
        time.sleep(0.002)
    process.send_signal(getattr(signal, name))
    _, said = process.communicate()
    return process.returncode, said


def check_signal(run, name):
    output = FOLDER / name
    for count in range(3):
        status, said = interrupt(run.start(output), output, name)
        okay = status == INTERRUPTED and "--resume" in said.splitlines()[-1]
        expect(f"{name} {count}: exit status {INTERRUPTED}, and how to go on", okay, f"exit status {status}\n{said}")
        expect(f"{name} {count}: a checkpoint, nothing finished", has_checkpoint(output) and not is_finished(output))
    must(resume(output))
    run.expect_finished(name, output)


# --- Full disk ---


def check_full_disk(run, mounts):
    """Room for one checkpoint and a half: the second fails, the first stays, and with more room the run goes on."""
    if not mounts:
        skip("disk full amid a checkpoint", "mounting needs root or user namespaces")
        return
    measured, output = FOLDER / "measured", FOLDER / "full"
    must(run.train(measured, "--stop-after", 1))
    files = {path.name: path.stat().st_size for path in (measured / "checkpoint").iterdir()}
    pages = sum(-(-size // 4096) for size in files.values())
    mount(output, f"size={pages * 6}k")
    done = run.train(output, *EACH_STEP)
    last = done.stderr.splitlines()[-1]
    refused = done.returncode == RESOURCE and "checkpoint" in last and "No space left on device" in last
    expect("full disk: refused", refused, told(done))
    left = sorted(path.name for path in output.iterdir())
    expect("full disk: the old checkpoint stays, the new one goes", left == ["checkpoint", "metrics.jsonl"], left)
    there = [path.name for path in (output / "checkpoint").iterdir()]
    expect("full disk: the old checkpoint is whole", sorted(there) == sorted(files), there)
    done = resume(output)
    expect("full disk: still full", done.returncode == RESOURCE and has_checkpoint(output), told(done))
    mount(output, "remount,size=16m")
    done = resume(output)
    expect("full disk: resumes with more room", done.returncode == 0, told(done))
    run.expect_finished("full disk", output)


mounts = enter_mount_namespace()
FOLDER = scratch()
MODEL = write_model(FOLDER / "model")
DATA = write_completions(FOLDER / "data.jsonl")
HELD_OUT = write_completions(FOLDER / "held-out.jsonl", count=5, seed=13)
short, long = Run(STEPS, *KEEPING_BEST), Run(40 * STEPS, *KEEPING_BEST)
check_states(short)
check_signal(long, "SIGINT")
check_signal(long, "SIGTERM")
check_full_disk(short, mounts)
check_best_is_kept(long)
TRACER = ["strace", "-f", "-o", FOLDER / "trace"]
if os.environ.get("LODROP_SANITIZED"):
    skip("kills", "LODROP_SANITIZED is set")
    finish()
if shutil.which("strace") and subprocess.run([*TRACER, "true"], capture_output=True).returncode == 0:
    few = Run(3, *KEEPING_BEST)
    check_each_call(few)
    check_other_adapter(few)
else:
    skip("a kill at each call that writes, renames or removes", "strace is not installed or may not trace")
check_random_kills(short, KILLING_SECONDS)
finish()
