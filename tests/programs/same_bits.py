#!/usr/bin/env -S python3 -B
"""One run, one adapter: the same bytes on every SIMD instruction set, for every number of threads, however a step is
split, with and without recompute, stopped and resumed, from every compiler.

Where LODROP_OTHER_BUILDS or LODROP_QEMU_BUILD is set (harness.py), only those builds are compared: the rest needs none
of them.
"""
import itertools
import random
import re

from harness import (QEMU, adapter, expect, finish, metrics, must, other_builds, qemu_build, resume, scratch,
                     shared_data, simd_isas, skip, skip_missing_isas, train, write_completions, write_lines,
                     write_model, write_texts)
from refusals import RESOURCE

STEPS = 30
INPUT_DROPOUT = ["--method", "lora-input-dropout", "--lora-dropout", "0.1"]
DROPKEY = ["--method", "dropkey"]
DROPATTENTION = ["--method", "dropattention", "--rate", "0.3", "--mask-per-kv-head", "--lora-dropout", "0.1"]
ELEMENT_AND_SPAN = ["--drop", "attn_weight:element:0.1:inverted:0", "--drop", "attn_logit:span:0.2:none:later-half"]
HIDDENKEY_MINUS = ["--method", "hiddenkey-minus", "--rate", "0.2"]
ACTIVATIONS = ["--drop", "hidden:column:0.2:inverted:0", "--drop", "ffn_output:span:0.3:none:later-half",
               "--drop", "ffn_middle:element:0.2", "--drop", "embedding:element:0.1:inference"]
HIDDENKEY = ["--method", "hiddenkey", "--rate", "0.2"]
R_DROP = ["--method", "r-drop", "--consistency-weight", "1", "--lora-dropout", "0.1"]
JS = ["--drop", "attn_weight:element:0.2:inverted:1", "--drop", "ffn_middle:column:0.2:inverted:1",
      "--consistency", "js", "--consistency-weight", "1"]
LORA_DROPOUT = ["--method", "lora-dropout"]
INSTANCES = ["--drop", "lora_a:column:0.3:inverted:1", "--drop", "lora_b:column:0.5:none:1@[qd]*_proj", "--instances", "3",
             "--layers-to-transform", "0-1"]
ADALORA = ["--method", "lora-dropout", "--instances", "2", "--form", "adalora", "--layers-to-transform", "1"]
ABOVE_THE_FORK = ["--drop", "ffn_output:element:0.2:inverted:0", "--instances", "3", "--layers-to-transform", "1"]
EMBEDDING_INSTANCES = ["--method", "dropkey", "--drop", "embedding:element:0.1", "--instances", "2"]
ONE_BATCH = ["--batch-size", "8", "--grad-accum", "1"]


class Subject:
    """A model and data, and the run that all others must equal."""

    def __init__(self, folder, name, model, data, *options, method=INPUT_DROPOUT, instances=1):
        self.instances, self.folder, self.name, self.model, self.data = (
            instances, folder / name.replace(" ", "-"), name, model, data)
        self.folder.mkdir()
        self.options = [*method, "--target-modules", "all-linear", "--max-steps", str(STEPS), *options]
        self.base = self.train("base", *ONE_BATCH, "--threads", "1")

    def train(self, what, *options, **how):
        output = self.folder / what.replace(" ", "-")
        must(train(self.model, self.data, output, *self.options, *options, **how))
        return output

    def expect_same(self, what, output, base=None):
        base = base or self.base
        expect(f"{self.name}: {what}: metrics", metrics(output) == metrics(base), first_difference(output, base))
        expect(f"{self.name}: {what}: adapter", adapter(output) == adapter(base), "the bytes differ")


def first_difference(output, base):
    ours, theirs = metrics(output), metrics(base)
    for one, other in zip(ours, theirs):
        if one != other:
            return f"{one}\n{other}"
    return f"{len(ours)} steps, {len(theirs)} steps"


def check_splits(subject):
    variants = {
        "threads 2": [*ONE_BATCH, "--threads", "2"],
        "threads 3": [*ONE_BATCH, "--threads", "3"],
        "batch 4 x 2": ["--batch-size", "4", "--grad-accum", "2", "--threads", "2"],
        "batch 1 x 8": ["--batch-size", "1", "--grad-accum", "8", "--threads", "1"],
        "recompute": [*ONE_BATCH, "--recompute", "--threads", "2"],
    }
    for what, options in variants.items():
        subject.expect_same(what, subject.train(what, *options))


def check_widths(subject):
    """Instances at a time, as memory lets them: what one needs is told where it is not there."""
    def limited(kib):
        output = subject.folder / f"limit {kib}"
        return output, train(subject.model, subject.data, output, *subject.options, *ONE_BATCH, "--memory-limit",
                             f"{kib}KiB")

    need = 1024 * int(re.search(r"(\d+) MiB are needed", limited(1024)[1].stderr)[1])
    seen = set()
    for kib in range(need - 1536, need + 64 * 256, 256):
        output, done = limited(kib)
        if done.returncode == RESOURCE and kib < need:
            continue
        width = int(re.search(r"(\d+) at a time", must(done).stderr)[1])
        if width not in seen:
            subject.expect_same(f"{width} at a time", output)
        seen.add(width)
        if width == subject.instances:
            break
    expect(f"{subject.name}: all widths", {1, subject.instances} <= seen, seen)


def check_isas(subject, isas):
    for isa in isas:
        subject.expect_same(isa, subject.train(isa, *ONE_BATCH, "--threads", "2", isa=isa))


def check_resume(subject, isas):
    """The second half on another instruction set where there is one, with other threads and recompute."""
    first, last = (isas[0], isas[-1]) if isas else ("ref", "ref")
    output = subject.train("resumed", *ONE_BATCH, "--stop-after", str(STEPS // 2), "--threads", "2", isa=first)
    expect(f"{subject.name}: nothing is finished at --stop-after", not (output / "adapter_model.safetensors").exists())
    expect(f"{subject.name}: half of the steps at --stop-after", len(metrics(output)) == STEPS // 2, metrics(output))
    must(resume(output, "--threads", "1", "--recompute", isa=last))
    subject.expect_same("stopped and resumed", output)


def check_builds(subject, builds):
    for build in builds:
        output = subject.train(build.name, *ONE_BATCH, "--threads", "2", build=build)
        subject.expect_same(f"build {build}", output)


def check_qemu(subject, build):
    base = subject.train("native", *ONE_BATCH, "--max-steps", "3")
    emulated = subject.train("emulated", *ONE_BATCH, "--max-steps", "3", "--threads", "1", build=build, emulator=QEMU)
    subject.expect_same("NEON, 3 steps", emulated, base)


def check_ref(subject):
    """The reference computes in double precision: close, and by its differences known to have run."""
    simd = subject.train("3 steps", *ONE_BATCH, "--max-steps", "3")
    ref = subject.train("3 steps ref", *ONE_BATCH, "--max-steps", "3", isa="ref")
    pairs = list(zip(metrics(simd), metrics(ref)))
    far = [pair for pair in pairs if abs(pair[0]["loss"] - pair[1]["loss"]) > 1e-5 * pair[1]["loss"]]
    expect(f"{subject.name}: ref is close", len(pairs) == 3 and not far, pairs)
    expect(f"{subject.name}: ref has bits of its own", adapter(simd) != adapter(ref))


def check_seed(subject):
    """What all the checks rest on: other masks give other bytes."""
    other = subject.train("seed", *ONE_BATCH, "--seed", "1")
    expect(f"{subject.name}: another seed", adapter(other) != adapter(subject.base) and
           metrics(other)[-1]["loss"] != metrics(subject.base)[-1]["loss"])


def check_rate_of_0(folder, model, data):
    """Is no dropout at all."""
    subject = Subject(folder, "no dropout", model, data, method=["--method", "lora"])
    for what, options in [("dropkey", ["--method", "dropkey", "--rate", "0"]),
                          ("dropattention", ["--method", "dropattention", "--rate", "0", "--mask-per-kv-head"]),
                          ("weights", ["--drop", "attn_weight:element:0"]),
                          ("hiddenkey-minus", ["--method", "hiddenkey-minus", "--rate", "0"]),
                          ("activations", ["--drop", "hidden:element:0:inference", "--drop", "ffn_middle:span:0",
                                           "--drop", "embedding:column:0"]),
                          ("lora-dropout", ["--method", "lora-dropout", "--rate", "0"]),
                          ("input", ["--drop", "lora_input:element:0"])]:
        subject.expect_same(f"{what} of rate 0", subject.train(what, *ONE_BATCH, *options))


def check_equal_branches(folder, model, data):
    """Without a rate both passes are one: the gradients of the loss alone, and nothing between the passes."""
    subject = Subject(folder, "one pass", model, data, method=["--method", "lora"])
    for what, options in [("hiddenkey", ["--method", "hiddenkey"]), ("r-drop", ["--method", "r-drop"]),
                          ("js", ["--method", "hiddencut", "--consistency", "js"])]:
        output = subject.train(what, *ONE_BATCH, *options, "--rate", "0")
        expect(f"{what} of rate 0: adapter", adapter(output) == adapter(subject.base), "the bytes differ")
        lines, alone = metrics(output), metrics(subject.base)
        apart = [line.pop("divergence") for line in lines]
        expect(f"{what} of rate 0: metrics", lines == alone and apart == STEPS * [0], (apart, lines[-1], alone[-1]))


def check_best(folder, model, completions):
    """The best of some evaluations, none of them the last; some steps were in vain."""
    held_out = write_completions(folder / "held-out.jsonl", seed=13)
    subject = Subject(folder, "best evaluation", model, completions, "--eval-data", str(held_out), "--eval-steps", "4",
                      "--load-best-model-at-end", "--early-stopping-patience", "3", "--learning-rate", "2e-2")
    losses = [line["eval_loss"] for line in metrics(subject.base) if "eval_loss" in line]
    expect("the best evaluation is in the midst", losses.index(min(losses)) == len(losses) - 4, losses)
    expect("the run stops early, after its half", STEPS // 2 < len(metrics(subject.base)) < STEPS, losses)
    return subject


def write_stories_data(folder, text):
    """From a long text: a plain one, and prompts with completions of random lengths."""
    rng = random.Random(5)
    plain, pairs = folder / "plain.txt", []
    plain.write_text(text[:30000])
    for _ in range(100):
        at, split, end = rng.randrange(len(text) - 200), rng.randint(1, 120), rng.randint(121, 180)
        pairs.append({"prompt": text[at:at + split], "completion": text[at + split:at + end]})
    return plain, write_lines(folder / "pairs.jsonl", pairs)


def small_subjects(folder, model, texts, completions):
    yield Subject(folder, "small texts", model, texts)
    yield Subject(folder, "dropkey", model, texts, method=DROPKEY)
    yield Subject(folder, "element and span", model, texts, method=ELEMENT_AND_SPAN)
    yield Subject(folder, "hiddenkey minus", model, texts, method=HIDDENKEY_MINUS)
    yield Subject(folder, "hiddenkey", model, completions, method=HIDDENKEY)
    yield Subject(folder, "r-drop", model, texts, method=R_DROP)
    yield Subject(folder, "js", model, texts, method=JS)
    yield Subject(folder, "lora dropout", model, completions, method=LORA_DROPOUT, instances=4)
    yield Subject(folder, "instances", model, texts, method=INSTANCES, instances=3)
    yield Subject(folder, "adapters above the fork", model, texts, method=ABOVE_THE_FORK, instances=3)
    yield Subject(folder, "adalora", model, texts, method=ADALORA, instances=2)
    yield Subject(folder, "instances of the embedding", model, texts, method=EMBEDDING_INSTANCES, instances=2)
    yield Subject(folder, "activations", model, completions, method=ACTIVATIONS)
    yield Subject(folder, "dropattention", model, completions, method=DROPATTENTION)


def larger_subjects(folder, model, completions):
    yield Subject(folder, "small completions", model, completions)
    yield check_best(folder, model, completions)
    found = shared_data("same bits of stories260k", "models/stories260k", "tinyshakespeare/input.txt")
    if found:
        plain, pairs = write_stories_data(folder, found[1].read_text())
        yield Subject(folder, "stories plain", found[0], plain, "--max-length", "64")
        yield Subject(folder, "stories pairs", found[0], pairs)
        yield Subject(folder, "stories dropkey", found[0], plain, "--max-length", "160", method=DROPKEY)
        yield Subject(folder, "stories hiddenkey", found[0], plain, "--max-length", "96", method=HIDDENKEY)
        yield Subject(folder, "stories lora dropout", found[0], plain, "--max-length", "96", method=LORA_DROPOUT)
        yield Subject(folder, "stories activations", found[0], plain, "--max-length", "96", method=ACTIVATIONS)


def check_itself(subject, isas):
    check_splits(subject)
    if subject.instances > 1:
        check_widths(subject)
    check_isas(subject, isas)
    check_resume(subject, isas)


def check_all(folder):
    model = write_model(folder / "model")
    texts, completions = write_texts(folder / "texts.jsonl"), write_completions(folder / "completions.jsonl")
    builds, qemu = other_builds("same bits, other compilers"), qemu_build("same bits, NEON")
    small, larger = small_subjects(folder, model, texts, completions), larger_subjects(folder, model, completions)
    if builds or qemu:
        for subject in itertools.chain(small, larger):
            check_builds(subject, builds)
            if qemu:
                check_qemu(subject, qemu)
        skip("same bits of this build by itself", "LODROP_OTHER_BUILDS or LODROP_QEMU_BUILD is set")
        return
    isas, lacking = simd_isas()
    skip_missing_isas("same bits", lacking)
    check_rate_of_0(folder, model, texts)
    check_equal_branches(folder, model, completions)
    for subject in small:
        check_ref(subject)
        check_seed(subject)
        check_itself(subject, isas)
    for subject in larger:
        check_itself(subject, isas)


check_all(scratch())
finish()
