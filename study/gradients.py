#!/usr/bin/env python3
"""How far a gradient scatters with the masks of attention, at the same weights and over the same examples.

    gradients.py BUILD MODEL DATA OUTPUT

LoRA without dropout is trained for one epoch; from there, each dropout takes one step over the same 512 examples with
each of 8 seeds. DropAttention with and without a gradient through its normaliser draws the same masks and has the same
losses; DropKey is the former with masks of its own. Written are, for each dropout, OUTPUT/NAME.json:

    variance   sum over all parameters of the variance over the seeds
    signal     squared norm of the gradient's expectation, freed of what the scatter adds to that of the mean
    loss       mean over the seeds, nats per target
"""
import array
import concurrent.futures
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys

SEEDS, EXAMPLES, BATCH = 8, 512, 16
RATES = ["0.1", "0.3", "0.5"]
DROPOUTS = ["attn_logit:column:{}:none", "attn_weight:column:{}:renormalise",
            "attn_weight:column:{}:renormalise-nograd", "attn_logit:element:{}:none",
            "attn_weight:element:{}:renormalise-nograd"]


def train(run, *options):
    command = [run.program, "--model", run.model, "--threads", "1", *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")


def read_gradient(path):
    """All tensors of a safetensors file as one list, and the scalar `loss`."""
    content = path.read_bytes()
    length = struct.unpack_from("<Q", content)[0]
    header = json.loads(content[8:8 + length])
    values, loss = array.array("f"), None
    for name in sorted(header):
        if name != "__metadata__":
            begin, end = header[name]["data_offsets"]
            tensor = array.array("f", content[8 + length + begin:8 + length + end])
            if name == "loss":
                loss = tensor[0]
            else:
                values.extend(tensor)
    return values, loss


class Run:
    def __init__(self, build, model, data, output):
        self.program, self.model, self.output = build / "lodrop-train", model, output
        self.start, self.examples = output / "start", output / "examples.jsonl"
        self.data = data

    def prepare(self):
        self.output.mkdir(parents=True, exist_ok=True)
        lines = self.data.read_text(encoding="utf-8").splitlines(keepends=True)
        self.examples.write_text("".join(lines[:EXAMPLES]), encoding="utf-8")
        if not (self.start / "summary.json").exists():
            shutil.rmtree(self.start, ignore_errors=True)
            train(self, "--data", self.data, "--output", self.start, "--target-modules", "all-linear", "--lora-r", 16,
                  "--lora-alpha", 32, "--learning-rate", "3e-3", "--batch-size", BATCH, "--epochs", 1)

    def gradient(self, drop, seed):
        folder = self.output / f"{drop}-{seed}"
        file = self.output / f"{drop}-{seed}.safetensors"
        shutil.rmtree(folder, ignore_errors=True)
        train(self, "--data", self.examples, "--output", folder, "--adapter", self.start, "--drop", drop, "--seed",
              seed, "--batch-size", BATCH, "--grad-accum", EXAMPLES // BATCH, "--max-steps", 1, "--dump-gradients",
              file)
        gradient = read_gradient(file)
        shutil.rmtree(folder)
        file.unlink()
        return gradient


def statistics_of(gradients):
    n, variance, squares = len(gradients), 0.0, 0.0
    for values in zip(*(values for values, _ in gradients)):
        mean = sum(values) / n
        variance += sum((v - mean)**2 for v in values) / (n - 1)
        squares += mean**2
    losses = [loss for _, loss in gradients]
    return {"seeds": n, "variance": variance, "signal": squares - variance / n, "loss": sum(losses) / n}


def measure(run, drop):
    path = run.output / f"{drop}.json"
    if not path.exists():
        result = statistics_of([run.gradient(drop, seed) for seed in range(SEEDS)])
        new = path.with_suffix(".new")
        new.write_text(json.dumps({"drop": drop, **result}) + "\n")
        new.rename(path)
    result = json.loads(path.read_text())
    print(f"{drop}: variance {result['variance']:.4g}, signal {result['signal']:.4g}", flush=True)


def main():
    run = Run(*map(pathlib.Path, sys.argv[1:]))
    run.prepare()
    drops = [dropout.format(rate) for rate in RATES for dropout in DROPOUTS]
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        try:
            list(pool.map(lambda drop: measure(run, drop), drops))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


if __name__ == "__main__":
    if len(sys.argv) != 5:
        raise SystemExit(__doc__)
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130)
