"""What all tests share: the programs under test, the data, and comparisons that say by how much they failed."""
import json
import subprocess
from pathlib import Path

import sentencepiece
import torch
from safetensors.torch import load_file

ALL_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Skip(Exception):
    """A test cannot run here; the text says why."""


class Context:
    """Where the programs and the data lie, and an empty folder for each that asks for one."""

    def __init__(self, build, data, scratch):
        self.build = build.resolve()
        self.data = Path(data).resolve() if data else None
        self.scratch = scratch
        self.folders = 0
        self.models = {}  # folders of models made on the way, by name

    def folder(self, name):
        self.folders += 1
        path = self.scratch / f"{self.folders:03}-{name}"
        path.mkdir()
        return path

    def shared(self, path):
        """A file or folder of the shared test data."""
        if self.data is None:
            raise Skip(f"needs {path}: LODROP_TEST_DATA is not set")
        if not (self.data / path).exists():
            raise Skip(f"{self.data / path} is missing")
        return self.data / path

    def run(self, program, *arguments, **options):
        """Runs a program of the build; options become flags: max_length=64 is --max-length 64, True a bare flag, a list
        a flag for each of its values."""
        command = [str(self.build / program), *map(str, arguments)]
        for name, value in options.items():
            flag = "--" + name.replace("_", "-")
            for one in value if isinstance(value, list) else [value]:
                command += [flag] if one is True else [flag, str(one)]
        done = subprocess.run(command, capture_output=True)
        assert done.returncode == 0, f"{' '.join(command)}: exit {done.returncode}: {done.stderr.decode().strip()}"
        return done.stdout

    def evaluate(self, **options):
        return json.loads(self.run("lodrop-eval", json=True, **options))

    def train(self, **options):
        """The folder written and the lines of metrics.jsonl."""
        output = self.folder("run")
        self.run("lodrop-train", output=output, **options)
        return output, [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]

    def train_first_step(self, **options):
        """One step that changes nothing: the folder with the adapter as it was before it, its loss, its gradients."""
        dump = self.folder("gradients") / "gradients.safetensors"
        output, metrics = self.train(**{**options, "dump_gradients": dump, "max_steps": 1, "learning_rate": 0})
        gradients = load_file(dump)
        loss = gradients.pop("loss").item()
        assert_close("loss of metrics.jsonl and of the gradients' file", metrics[0]["loss"], loss, 1e-6)
        return output, metrics[0]["loss"], gradients


def write_jsonl(path, objects):
    path.write_text("".join(json.dumps(o) + "\n" for o in objects))
    return path


class Tokenizer:
    """Examples' token sequences, as (tokens, first_target): the targets are tokens[first_target:]."""

    def __init__(self, folder):
        self.pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))

    def text(self, text, max_length):
        return ([self.pieces.bos_id()] + self.pieces.encode(text))[:max_length], 1

    def completion(self, prompt, completion):
        """Targets start at the first token that ends past the prompt (ASCII: its bytes are its characters)."""
        tokens = self.pieces.encode(prompt + completion, return_type="proto").pieces
        boundary = next(i for i, piece in enumerate(tokens) if piece.end > len(prompt))
        return [self.pieces.bos_id(), *(piece.id for piece in tokens), self.pieces.eos_id()], boundary + 1


def text_examples(context, model, texts, max_length):
    """A data file, and what has to be made of it."""
    tokenizer = Tokenizer(model)
    data = write_jsonl(context.folder("data") / "texts.jsonl", [{"text": text} for text in texts])
    return data, [tokenizer.text(text, max_length) for text in texts]


def assert_close(what, got, want, absolute):
    error = abs(got - want)
    assert error <= absolute, f"{what}: {got!r}, expected {want!r}: off by {error:.3g}, bound {absolute:.3g}"


def assert_relative(what, got, want, bound):
    assert_close(what, got, want, bound * abs(want))


def assert_gradients(got, want, bound):
    """Every tensor within bound of the norm of what was expected; returns the worst ratio."""
    assert got.keys() == want.keys(), f"tensors differ: {sorted(got.keys() ^ want.keys())}"
    worst = 0.0
    for name, expected in want.items():
        assert got[name].shape == expected.shape, f"{name}: {tuple(got[name].shape)}, not {tuple(expected.shape)}"
        ratio = (torch.linalg.norm(got[name].double() - expected) / torch.linalg.norm(expected)).item()
        assert ratio <= bound, f"gradient of {name}: off by {ratio:.3g} of its norm, bound {bound:.3g}"
        worst = max(worst, ratio)
    return worst
