"""What was measured, as rows, and how it is told: compare.json and compare.md. Only Python's standard library.

A row is one case on one shape beside one peer: {case, shape, threads, isa, ours_ms, peer, peer_ms, ratio, spread}, and
what else there is. ratio = peer_ms / ours_ms, above 1 where lodrop is faster: the median of the rounds' own ratios;
spread is their quartiles. Without a peer (peer is null) the last four are null, too.
"""
import json
import math
import os
import statistics
from dataclasses import dataclass


@dataclass
class Case:
    table: str
    title: str
    over: str = None  # the case whose time this one's is told as a multiple of


COLUMN_RATE, ELEMENT_RATE, DROPOUT_RATE = 0.5, 0.1, 0.1
CASES = {
    "product": Case("layers", "product"),
    "frozen": Case("layers", "frozen layer"),
    "lora": Case("layers", "LoRA", "frozen"),
    "lora-dropout": Case("layers", f"LoRA, dropout {DROPOUT_RATE}", "lora"),
    "attention": Case("attention", "p = 0"),
    "attention-dropkey-column": Case("attention", f"column DropKey {COLUMN_RATE}", "attention"),
    "attention-dropkey-element": Case("attention", f"element DropKey {ELEMENT_RATE}", "attention"),
    "attention-dropout": Case("attention", f"attention dropout {DROPOUT_RATE}", "attention"),
    "step": Case("steps", f"LoRA, dropout {DROPOUT_RATE}"),
    "step-hiddenkey-minus": Case("steps", f"HiddenKey-, {DROPOUT_RATE}"),
    "step-hiddenkey": Case("steps", f"HiddenKey, {DROPOUT_RATE}"),
    "step-lora-dropout": Case("steps", f"LoRA Dropout, {COLUMN_RATE}, 4 instances"),
    "step-lora-dropout-apart": Case("steps", f"LoRA Dropout, {COLUMN_RATE}, 4 instances one by one"),
    "cost": Case("costs", "LoRA"),
    "cost-hiddenkey-minus": Case("costs", f"HiddenKey-, {DROPOUT_RATE}", "cost"),
    "cost-hiddenkey": Case("costs", f"HiddenKey, {DROPOUT_RATE}", "cost-hiddenkey-minus"),
    "cost-everywhere-hiddenkey-minus": Case("costs", f"HiddenKey- in all layers, {DROPOUT_RATE}", "cost"),
    "cost-everywhere-hiddenkey": Case("costs", f"HiddenKey in all layers, {DROPOUT_RATE}",
                                      "cost-everywhere-hiddenkey-minus"),
    "cost-lora-dropout": Case("costs", f"LoRA Dropout, {COLUMN_RATE}, 4 instances", "cost"),
    "cost-lora-dropout-apart": Case("costs", f"LoRA Dropout, {COLUMN_RATE}, 4 instances one by one", "cost"),
    "cost-later": Case("costs", "LoRA in the later half of the layers"),
    "cost-later-lora-dropout": Case("costs", f"LoRA Dropout there, {COLUMN_RATE}, 4 instances", "cost-later"),
}
TABLES = {
    "layers": "A linear layer, forward and backward (product: forward of the frozen one alone). lodrop has W packed.",
    "attention": "Attention, forward and backward.",
    "steps": "Whole fine-tuning steps, each program in a process of its own.",
    "costs": "Whole fine-tuning steps of lodrop's methods beside each other.",
}


def spread(values):
    """First quartile, median, third quartile."""
    if len(values) == 1:
        return [values[0]] * 3
    return statistics.quantiles(values, n=4, method="inclusive")


def ratios(over, under):
    """Each round's own."""
    return [a / b for a, b in zip(over, under, strict=True)]


def make_row(case, shape, setting, ours, peer=None, theirs=None, **more):
    """setting: threads and isa; ours and theirs: seconds of the rounds."""
    low, ratio, high = spread(ratios(theirs, ours)) if peer else (None, None, None)
    samples = {"ours": [1e3 * s for s in ours]} | ({"peer": [1e3 * s for s in theirs]} if peer else {})
    return {"case": case, "shape": shape, **setting, "ours_ms": 1e3 * statistics.median(ours), "peer": peer,
            "peer_ms": 1e3 * statistics.median(theirs) if peer else None, "ratio": ratio,
            "spread": [low, high] if peer else None, **more, "samples_ms": samples}


def finite(value):
    """For JSON, which has no NaN."""
    if isinstance(value, dict):
        return {name: finite(v) for name, v in value.items()}
    if isinstance(value, list):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# --- Markdown ---

def bracketed(values, digits=2, unit=""):
    low, middle, high = (f"{v:.{digits}f}" for v in values)
    return f"{middle}{unit} [{low}, {high}]"


def ratio_cell(ratio, quartiles):
    return bracketed([quartiles[0], ratio, quartiles[1]], unit=" x")


def milliseconds(value):
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def columns(rows):
    """The columns of a table of layers or attention: (title, what a shape's rows give for it or None), in order."""
    for case, told in CASES.items():
        mine = [row for row in rows if row["case"] == case]
        if not mine:
            continue
        yield f"{told.title}, ms", case, None, lambda row: milliseconds(row["ours_ms"])
        if any(row.get("over") for row in mine):
            yield f"over {CASES[told.over].title}", case, None, lambda row: ratio_cell(*row["over"])
        if any(row.get("share_of_peak") for row in mine):
            yield "of FMA peak", case, None, lambda row: bracketed(row["share_of_peak"])
        for peer in dict.fromkeys(row["peer"] for row in mine if row["peer"]):
            yield peer, case, peer, lambda row: ratio_cell(row["ratio"], row["spread"])


def wide_table(rows):
    """A line a shape."""
    head = list(columns(rows))
    lines = []
    for shape in dict.fromkeys(row["shape"] for row in rows):
        cells = [shape]
        for _, case, peer, cell in head:
            fit = [r for r in rows if (r["shape"], r["case"]) == (shape, case) and peer in (None, r["peer"])]
            try:
                cells.append(cell(fit[0]))
            except (IndexError, KeyError, TypeError):  # this shape was not measured so
                cells.append("-")
        lines.append(cells)
    return ["shape", *(title for title, *_ in head)], lines


def step_table(rows):
    """A line a case and shape."""
    head = ["model and work", "threads", "method", "lodrop, tokens/s", "of the flop limit", "peer", "tokens/s", "ratio",
            "lodrop, GiB", "peer, GiB", "memory ratio"]
    lines = []
    for row in rows:
        ours, theirs = row["memory_bytes"]["ours"], row["memory_bytes"].get("peer")
        lines.append([
            row["shape"], str(row["threads"]), CASES[row["case"]].title, f"{row['tokens_per_second']['ours']:.0f}",
            bracketed(row["share_of_limit"]) if row["share_of_limit"] else "-", row["peer"] or "-",
            f"{row['tokens_per_second']['peer']:.0f}" if row["peer"] else "-",
            ratio_cell(row["ratio"], row["spread"]) if row["peer"] else "-", f"{ours / 2**30:.2f}",
            f"{theirs / 2**30:.2f}" if row["peer"] else "-", f"{ours / theirs:.2f}" if row["peer"] else "-"])
    return head, lines


def cost_table(rows):
    """A line a case and shape."""
    head = ["model and work", "threads", "method", "tokens/s", "GiB", "beside", "time", "memory"]
    lines = []
    for row in rows:
        beside = ["-"] * 3
        if row.get("over"):
            beside = [CASES[CASES[row["case"]].over].title, ratio_cell(*row["over"]), f"{row['memory_over']:.2f} x"]
        lines.append([
            row["shape"], str(row["threads"]), CASES[row["case"]].title, f"{row['tokens_per_second']['ours']:.0f}",
            f"{row['memory_bytes']['ours'] / 2**30:.2f}", *beside])
    return head, lines


LAYOUTS = {"steps": step_table, "costs": cost_table}


def markdown_table(head, lines):
    return "".join("| " + " | ".join(cells) + " |\n" for cells in (head, ["---"] * len(head), *lines))


def markdown(head, rows):
    parts = [head + "\n"]
    for name, title in TABLES.items():
        mine = [row for row in rows if CASES[row["case"]].table == name]
        if mine:
            parts += [title + "\n", markdown_table(*LAYOUTS.get(name, wide_table)(mine))]
    return "\n".join(parts)


# --- Files ---

def write_whole(path, text):
    """Never half of it: a run may be stopped at any time."""
    other = path.with_name(path.name + ".new")
    other.write_text(text)
    os.replace(other, path)


def write(folder, head, rows):
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "compare.json", json.dumps(finite(rows), indent=1, allow_nan=False) + "\n")
    write_whole(folder / "compare.md", markdown(head, rows))
