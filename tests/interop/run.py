#!/usr/bin/env python3
"""Compares the programs of a build folder with PyTorch, transformers, tokenizers and PEFT.

    tests/interop/run.py --build BUILD [--filter WORD]

LODROP_TEST_DATA names a folder with models/stories260k, tinystories-sample and tokenizers/gpt2; without it the tests
that need them are skipped, and the others run on small models of random weights and tokenizers made here.
"""
import argparse
import importlib
import os
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # everything lies here: nothing may be asked for or sent

import torch
import transformers

from common import Context, Skip


def collect(word):
    """All functions test_* of the files test_*.py, in the order in which they stand there."""
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        module = importlib.import_module(path.stem)
        for name, value in list(vars(module).items()):
            if name.startswith("test_") and callable(value) and value.__module__ == module.__name__:
                label = f"{path.stem[5:]}.{name[5:]}"
                if word in label:
                    yield label, value


def run_one(label, function, context):
    start = time.monotonic()
    try:
        detail = function(context)
        outcome = "ok"
    except Skip as skip:
        outcome, detail = "skip", str(skip)
    except AssertionError as failure:
        outcome, detail = "FAIL", str(failure) or traceback.format_exc()
    except Exception:
        outcome, detail = "FAIL", traceback.format_exc()
    print(f"{outcome:4} {label:44} {time.monotonic() - start:6.1f} s  {detail or ''}", flush=True)
    return outcome


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", required=True, help="folder with the trainer's programs and tokens")
    parser.add_argument("--filter", default="", help="run only tests whose name contains this")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)  # the models are too small for more
    counts = {"ok": 0, "FAIL": 0, "skip": 0}
    with tempfile.TemporaryDirectory(prefix="lodrop-interop-") as scratch:
        context = Context(Path(arguments.build), os.environ.get("LODROP_TEST_DATA"), Path(scratch))
        for label, function in collect(arguments.filter):
            counts[run_one(label, function, context)] += 1
    print(f"{counts['ok']} passed, {counts['FAIL']} failed, {counts['skip']} skipped")
    nothing_ran = counts["ok"] + counts["FAIL"] + counts["skip"] == 0
    sys.exit(1 if counts["FAIL"] or nothing_ran else 0)


if __name__ == "__main__":
    main()
