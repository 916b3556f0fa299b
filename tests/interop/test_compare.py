"""`make compare` itself, on small shapes: every case meets each of its peers, and is told. Speed is not looked at. And
the peers of whole steps: they compute what lodrop computes."""
import dataclasses
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

import peft
import torch
from safetensors.torch import load_file

from common import assert_close, assert_gradients, assert_relative, text_examples
from models import sentences, write_model
from reference import gradients
from test_gradients import random_init

PROGRAM = Path(__file__).resolve().parents[2] / "bench" / "compare" / "run.py"
sys.path.append(str(PROGRAM.parent))
import cost
import step
import step_torch

DRAWS, SIGMAS = 100, 4  # of masks, and how far their means may part
TOKENS = 100  # of an example: few queries have all their keys dropped, on which both sides differ
PEERS = {"product": {"torch.mm"}, "frozen": {"PyTorch"}, "lora": {"PEFT"}, "lora-dropout": {"PEFT"},
         "attention": {"SDPA"}, "attention-dropkey-column": {"SDPA, mask", "eager"},
         "attention-dropkey-element": {"SDPA, mask", "eager"}, "attention-dropout": {"SDPA", "eager"},
         **{case: set(method.peers()) for case, method in step.METHODS.items()}}
INSTALLED = {"oneDNN sgemm", "BLIS sgemm"}  # peers of product where they are


def run(context, *options):
    return subprocess.run([sys.executable, PROGRAM, "--build", context.build, "--quick", *options],
                          capture_output=True, text=True)


def test_every_case_meets_its_peers(context):
    folder = context.folder("compare")
    done = run(context, "--output", folder, "--threads", "1")  # two that wait for each other are slow on a busy machine
    assert done.returncode == 0, done.stderr
    rows, tables = json.loads((folder / "compare.json").read_text()), (folder / "compare.md").read_text()
    met = {case: {row["peer"] for row in rows if row["case"] == case} for case in PEERS}
    absent = {name for name in INSTALLED if f"{name}: absent (" in tables}
    assert met == {**PEERS, "product": PEERS["product"] | INSTALLED - absent}, met
    for row in rows:
        if row["case"] in cost.METHODS:
            continue
        low, high = row["spread"]
        assert row["ours_ms"] > 0 and row["peer_ms"] > 0 and low <= row["ratio"] <= high, row
        assert row["threads"] == 1 and row["isa"], row
    assert done.stdout.strip() == tables.strip()
    assert not re.search(r"\| nan", tables), tables
    calls, steps = tables.split("Whole fine-tuning steps", 1)
    assert not re.search(r"\| -  *\|", calls), calls
    told = {row["case"]: row.get("over") for row in rows if row["case"] in cost.METHODS}
    assert {case for case in told if not told[case]} == {"cost", "cost-later"} and told.keys() == cost.METHODS.keys(), told
    return f"{len(rows)} rows; absent: {', '.join(sorted(absent)) or 'none'}"


def test_one_case_without_peers(context):
    folder = context.folder("compare")
    done = run(context, "--output", folder, "--only", "lora", "--only-ours", "--threads", "2")
    assert done.returncode == 0, done.stderr
    rows = json.loads((folder / "compare.json").read_text())
    told = [(row["case"], row["peer"], row["threads"]) for row in rows]
    assert told == [("lora", None, 2), ("lora-dropout", None, 2)], told


def test_bad_input_is_told(context):
    for options, status, text in ((["--only", "lorra"], 2, "invalid choice: 'lorra'"),
                                  (["--rounds", "0"], 2, "--rounds, --steps and --threads are at least 1"),
                                  (["--steps", "0"], 2, "--rounds, --steps and --threads are at least 1"),
                                  (["--build", context.folder("empty")], 1, "liblodrop.so")):
        done = run(context, *options)
        last = done.stderr.strip().splitlines()[-1]
        assert done.returncode == status and text in last and "Traceback" not in done.stderr, (options, done)


# --- Peers of whole steps ---

def steps_of(context, method, **options):
    """The same examples, all of a length, for both sides: lodrop's run on them, from random A and B, and the peer's
    model of each way, with its settings."""
    model = write_model(context, "random")
    data, examples = text_examples(context, model, sentences(seed=5, count=4, shortest=100, longest=120), TOKENS)
    flags = {name.removeprefix("--").replace("-", "_"): value for name, value in zip(*[iter(method.command())] * 2)}
    run = {"model": model, "data": data, "batch_size": len(examples), "max_length": TOKENS,
           **random_init(step.RANK, ",".join(step_torch.ADAPTED)), **flags, **options}
    return run, model, torch.tensor([tokens for tokens, _ in examples])


def peer_model(model, method, way, adapter):
    settings = step.peer_settings(method, way)
    peer = step_torch.adapted(model, settings)
    peft.set_peft_model_state_dict(peer, load_file(adapter / "adapter_model.safetensors"))
    return peer, settings


def test_peers_compute_the_same_without_dropout(context):
    """Losses and gradients at p = 0, in which nothing is left to chance."""
    worst = 0.0
    for method in step.METHODS.values():
        method = dataclasses.replace(method, rate=0)
        run, model, ids = steps_of(context, method)
        output, loss, got = context.train_first_step(**run)
        for way in method.ways:
            peer, settings = peer_model(model, method, way, output)
            their_loss, divergence = step_torch.backward(peer, ids, settings)
            assert_relative(f"{method.name} {way}: loss", their_loss, loss, 1e-5)
            assert divergence == 0, divergence
            worst = max(worst, assert_gradients(got, gradients(peer), 1e-4))
    return f"gradients off by {worst:.1e} of the norm at most"


def assert_same_mean(what, ours, theirs):
    """Within the error of sampling, which is small beside what is looked at."""
    errors = [statistics.stdev(values) / len(values) ** 0.5 for values in (ours, theirs)]
    mean, bound = statistics.mean(ours), SIGMAS * sum(error**2 for error in errors) ** 0.5
    assert bound < mean / 10, f"{what}: too few draws: {bound:.3g} beside {mean:.3g}"
    assert_close(what, statistics.mean(theirs), mean, bound)


def peer_step(peer, ids, settings):
    """As a line of metrics.jsonl has it."""
    peer.zero_grad()
    loss, divergence = step_torch.backward(peer, ids, settings)
    norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients(peer).values()])).item()
    return {"loss": loss, "divergence": divergence, "grad_norm": norm}


def test_peers_drop_alike(context):
    """Masks differ, so means over many: of the gradient's norm, and of the divergence of two passes."""
    torch.manual_seed(1)
    for case in sorted(step.METHODS.keys() - {"step"}):  # whose dropout is PEFT's own
        method = dataclasses.replace(step.METHODS[case], rate=0.3)
        run, model, ids = steps_of(context, method, learning_rate=0, max_steps=DRAWS)
        output, told = context.train(**run)
        for way in method.ways:
            peer, settings = peer_model(model, method, way, output)
            theirs = [peer_step(peer, ids, settings) for _ in told]
            for name in ("grad_norm", "divergence")[:1 + (method.name == "hiddenkey")]:
                assert_same_mean(f"{method.name} {way}: {name}", *([t[name] for t in of] for of in (told, theirs)))
