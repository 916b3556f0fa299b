"""What the tests of bad input share: something good to damage, and what a refusal looks like."""
import functools
import shutil

from harness import expect, run, scratch, told, train, write_model, write_texts

DAMAGED, USAGE, RESOURCE = 1, 2, 3  # exit statuses


@functools.cache
def place():
    """A folder with a good model; made when it is first asked for."""
    folder = scratch()
    write_model(folder / "good")
    return folder


class Case:
    """A good model and good data of its own, to be damaged; and what the programs say of them."""

    def __init__(self, number):
        self.folder = place() / f"case{number}"
        self.folder.mkdir()
        self.model = self.folder / "model"
        self.data = self.folder / "data.jsonl"
        self.output = self.folder / "output"
        shutil.copytree(place() / "good", self.model)
        write_texts(self.data, count=10)
        self.weights = self.model / "model.safetensors"
        self.config = self.model / "config.json"

    def train(self, *options, **how):
        return train(self.model, self.data, self.output, "--max-steps", 2, *options, **how)

    def evaluate(self, *options, **how):
        return run("lodrop-eval", "--model", self.model, "--data", self.data, *options, **how)


def expect_refusal(what, done, words, status=DAMAGED, lines=1):
    """Exactly one line (lines None: a last one, after those of a training that had begun) that holds all the words."""
    said = done.stderr.splitlines()
    missing = [word for word in words if not said or word not in said[-1]]
    okay = done.returncode == status and not missing and done.stderr.endswith("\n") and lines in (None, len(said))
    expect(what, okay, f"{told(done)}\nwanted: exit status {status}, one line with {words}, without: {missing}")


def expect_no_output(what, folder):
    expect(f"{what}: nothing is left behind", not folder.exists(), folder.is_dir() and list(folder.iterdir()))
