#!/usr/bin/env python3
"""Writes OUTPUT/study.md and its drawings from the sweeps and gradients that are there.     report.py OUTPUT"""
import json
import math
import pathlib
import statistics
import sys

# Student's t: two-sided 95 % for as many degrees of freedom.
T95 = [math.inf, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228]
COLOURS = ["#1f5fa8", "#d1495b", "#3a7d44", "#e09f3e", "#7b4b94", "#444444"]

# --- Drawing: curves over values at equal distances, with standard deviations ---

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 400, 64, 24, 56, 44


def tick_distance(spread):
    power = 10**math.floor(math.log10(spread / 5))
    return next(factor * power for factor in (1, 2, 5, 10) if spread / (factor * power) <= 8)


def draw(path, title, x_label, y_label, values, curves):
    """curves: {name: {value: (mean, deviation)}}"""
    points = [point for curve in curves.values() for point in curve.values()]
    low, high = min(mean - sd for mean, sd in points), max(mean + sd for mean, sd in points)
    margin = 0.05 * (high - low) or 0.5
    low, high = low - margin, high + margin

    def x(value):
        return LEFT + (WIDTH - LEFT - RIGHT) * (values.index(value) + 0.5) / len(values)

    def y(loss):
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - loss) / (high - low)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
           f'font-family="sans-serif" font-size="12"><title>{title}</title>',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
           f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}" stroke="black" fill="none"/>',
           f'<text x="{LEFT}" y="20">{y_label}</text>',
           f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{x_label}</text>']
    distance = tick_distance(high - low)
    for i in range(math.ceil(low / distance), math.floor(high / distance) + 1):
        at = i * distance
        out.append(f'<path d="M{LEFT} {y(at):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>'
                   f'<text x="{LEFT - 6}" y="{y(at) + 4:.1f}" text-anchor="end">{at:.4g}</text>')
    for value in values:
        out.append(f'<text x="{x(value):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{value}</text>')
    for i, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[i % len(COLOURS)]
        line = " ".join(f"{x(value):.1f},{y(mean):.1f}" for value, (mean, _) in curve.items())
        out.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for value, (mean, sd) in curve.items():
            out.append(f'<path d="M{x(value) - 4:.1f} {y(mean + sd):.1f}h8m-4 0V{y(mean - sd):.1f}m-4 0h8" '
                       f'stroke="{colour}" fill="none"/><circle cx="{x(value):.1f}" cy="{y(mean):.1f}" r="4" '
                       f'fill="{colour}"/>')
        out.append(f'<path d="M{LEFT + 150 * i} 38h20" stroke="{colour}" stroke-width="3"/>'
                   f'<text x="{LEFT + 150 * i + 26}" y="42">{name}</text>')
    path.write_text("\n".join([*out, "</svg>", ""]))


# --- What a sweep has ---


class Sweep:
    def __init__(self, folder):
        self.folder = folder
        path = folder / "sweep.json"
        self.table = json.loads(path.read_text()) if path.exists() else {"groups": [], "runs": []}

    def __bool__(self):
        return any(group["done"] for group in self.table["groups"])

    def markdown(self):
        return (self.folder / "sweep.md").read_text()

    def point(self, group, figure):
        return group[figure]["mean"], group[figure]["standard_deviation"]

    def groups(self, **options):
        return [group for group in self.table["groups"] if group["done"] and
                all(group["options"].get(name) == value for name, value in options.items())]

    def losses(self, group):
        """Held-out losses by seed."""
        return {run["options"]["seed"]: run["summary"]["eval"]["loss"] for run in self.table["runs"]
                if run["group"] == group and run["state"] == "done"}


def against(sweep, base, baseline):
    """Rows (name, difference of the held-out loss to the baseline's, its standard error, seeds), paired by seed."""
    rows = []
    for group in sweep.groups():
        losses = sweep.losses(group["name"])
        pairs = [losses[seed] - base[seed] for seed in losses if seed in base]
        if group["name"] != baseline and len(pairs) > 1:
            error = statistics.stdev(pairs) / math.sqrt(len(pairs))
            rows.append((group["name"], statistics.mean(pairs), error, len(pairs)))
    return sorted(rows, key=lambda row: row[1])


def against_table(rows, baseline):
    yield f"Held-out loss less {baseline}'s with the same seed, mean and standard error; best first."
    yield ""
    yield "| run | difference | standard error | seeds | |"
    yield "| --- | ---: | ---: | ---: | --- |"
    for name, difference, error, seeds in rows:
        clear = abs(difference) > T95[min(seeds, len(T95)) - 1] * error
        verdict = "no clear difference" if not clear else "better" if difference < 0 else "worse"
        yield f"| {name} | {difference:+.4f} | {error:.4f} | {seeds} | {verdict} |"
    yield ""
    yield "(Clear is a difference beyond Student's two-sided 95 %; of twenty that are none, one would be.)"


# --- The questions ---


def ranks(study):
    sweep = study["ranks"]
    yield "## Does LoRA overfit as its rank grows?"
    yield ""
    if not sweep:
        return
    values = [group["options"]["lora-r"] for group in sweep.groups()]
    curves = {title: {group["options"]["lora-r"]: sweep.point(group, figure) for group in sweep.groups()}
              for title, figure in [("training", "train_loss"), ("held out", "held_out_loss")]}
    draw(study.output / "ranks.svg", "Training and held-out loss over the rank", "r", "loss (nats per target)", values,
         curves)
    yield sweep.markdown()
    yield "![training and held-out loss over r](ranks.svg)"
    gaps = [curves["held out"][r][0] - curves["training"][r][0] for r in values]
    yield ""
    yield (f"The gap between training and held-out loss goes from {gaps[0]:.3f} at r = {values[0]} to {gaps[-1]:.3f} "
           f"at r = {values[-1]}.")


def beside_lora(study, name, question, drawing=None):
    """A sweep's table and drawing, and what it has against plain LoRA."""
    yield f"## {question}"
    yield ""
    if study[name]:
        yield study[name].markdown()
        if drawing:
            yield f"![held-out loss over the rate]({drawing})"
            yield ""
        yield from against_table(against(study[name], study.lora(), "lora"), "plain LoRA")


def rates(study):
    sweep = study["rates"]
    if sweep:
        methods = list(dict.fromkeys(group["options"]["method"] for group in sweep.groups()))
        values = sorted({group["options"]["rate"] for group in sweep.groups()})
        curves = {method: {group["options"]["rate"]: sweep.point(group, "held_out_loss")
                           for group in sweep.groups(method=method)} for method in methods}
        draw(study.output / "rates.svg", "Held-out loss over the rate", "rate", "held-out loss (nats per target)",
             values, curves)
    return beside_lora(study, "rates", "Which dropout, and how much of it?", "rates.svg")


def parts(study):
    return beside_lora(study, "parts", "What does each part of HiddenKey do?")


def triples(study):
    return beside_lora(study, "triples", "Position, pattern and compensation at the same rate of 0.1")


def lora_dropout(study):
    return beside_lora(study, "lora_dropout", "How much LoRA Dropout?", "lora_dropout/sweep.svg")


def instances(study):
    yield "## What do more instances bring and cost?"
    yield ""
    if study["instances"]:
        yield study["instances"].markdown()
        yield "![held-out loss over N](instances/sweep.svg)"


def ensembles(study):
    yield "## Expected masks or an ensemble?"
    yield ""
    results = {}
    for path in (study.output / "ensembles").glob("*,seed=*.json"):
        results.setdefault(int(path.name.partition(",")[0]), []).append(json.loads(path.read_text()))
    if not results:
        return
    figures = ["loss", *next(iter(results.values()))[0]["metrics"]]
    yield "The adapters of N = 4, evaluated with the expected masks (off) or as a mean over sampled ones."
    yield ""
    yield "| ensemble | seeds | " + " | ".join(figures) + " |"
    yield "| --- | ---: |" + " ---: |" * len(figures)
    for size, runs in sorted(results.items()):
        values = [[{**run, **run["metrics"]}[figure] for run in runs] for figure in figures]
        cells = [f"{statistics.mean(v):.4f} ± {statistics.stdev(v) if len(v) > 1 else 0:.4f}" for v in values]
        yield f"| {size or 'off'} | {len(runs)} | " + " | ".join(cells) + " |"


def gradients(study):
    yield "## How much do the gradients of DropKey and DropAttention scatter?"
    yield ""
    files = sorted((study.output / "gradients").glob("attn_*.json"))
    if not files:
        return
    yield "At the same weights, over the same 512 examples, 8 seeds of masks: the variance summed over all parameters,"
    yield "the squared norm of the expected gradient, and their ratio."
    yield ""
    yield "| dropout | variance | signal | ratio | loss |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for result in map(lambda path: json.loads(path.read_text()), files):
        variance, signal = result["variance"], result["signal"]
        yield f"| {result['drop']} | {variance:.4g} | {signal:.4g} | {variance / signal:.3f} | {result['loss']:.4f} |"


class Study(dict):
    def __init__(self, output):
        names = ("parts", "ranks", "rates", "triples", "lora_dropout", "instances")
        super().__init__({name: Sweep(output / name) for name in names})
        self.output = output

    def lora(self):
        """The held-out losses of plain LoRA by seed."""
        return self["parts"].losses("lora")


def main(output):
    study = Study(output)
    lines = ["# The study", "", "The demo's task and base model, 1,000 held-out glosses, 5 epochs, adapters on all linear"
             " modules; times are of one thread with other runs beside it.", ""]
    for question in (ranks, rates, parts, triples, lora_dropout, instances, ensembles, gradients):
        lines += [*question(study), ""]
    path = output / "study.md"
    path.write_text("\n".join(lines))
    print(f"the study is in {path}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(pathlib.Path(sys.argv[1]))
