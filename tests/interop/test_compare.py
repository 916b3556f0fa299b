"""`make compare` itself, on small shapes: every case meets each of its peers, and is told. Speed is not looked at."""
import json
import re
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).resolve().parents[2] / "bench" / "compare" / "run.py"
PEERS = {"product": {"torch.mm"}, "frozen": {"PyTorch"}, "lora": {"PEFT"}, "lora-dropout": {"PEFT"},
         "attention": {"SDPA"}, "attention-dropkey-column": {"SDPA, mask", "eager"},
         "attention-dropkey-element": {"SDPA, mask", "eager"}, "attention-dropout": {"SDPA", "eager"},
         "step": {"transformers + PEFT"}}
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
        low, high = row["spread"]
        assert row["ours_ms"] > 0 and row["peer_ms"] > 0 and low <= row["ratio"] <= high, row
        assert row["threads"] == 1 and row["isa"], row
    assert done.stdout.strip() == tables.strip()
    assert not re.search(r"\| nan|\| -  *\|", tables), tables
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
                                  (["--rounds", "0"], 2, "--rounds and --threads are at least 1"),
                                  (["--build", context.folder("empty")], 1, "liblodrop.so")):
        done = run(context, *options)
        last = done.stderr.strip().splitlines()[-1]
        assert done.returncode == status and text in last and "Traceback" not in done.stderr, (options, done)
