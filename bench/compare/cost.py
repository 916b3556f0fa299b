"""What methods cost beside each other: whole fine-tuning steps as in step.py, of lodrop alone and with longer examples.
Only Python's standard library."""
from dataclasses import replace

import report
import step
from step import Method

SHAPES = {"llama-135m-512": replace(step.SHAPES["llama-135m"], batch=1, tokens=512)}
QUICK = {"quick-cost": replace(step.QUICK["quick-step"], batch=1, tokens=32)}
RATE = report.DROPOUT_RATE
ALL_LAYERS = ("--drop", f"ffn_output:element:{RATE}")  # beside dropkey: what hiddenkey drops in the later half
LORA_DROPOUT = replace(step.METHODS["step-lora-dropout"], ways=())
LATER_HALF = ("--layers-to-transform", "later-half")
METHODS = {
    "cost": Method("lora"),
    "cost-hiddenkey-minus": Method("hiddenkey-minus", RATE),
    "cost-hiddenkey": Method("hiddenkey", RATE),
    "cost-everywhere-hiddenkey-minus": Method("dropkey", RATE, flags=ALL_LAYERS),
    "cost-everywhere-hiddenkey": Method("dropkey", RATE, flags=(*ALL_LAYERS, "--consistency", "kl")),
    "cost-lora-dropout": LORA_DROPOUT,
    "cost-lora-dropout-apart": replace(step.METHODS["step-lora-dropout-apart"], ways=()),
    "cost-later": Method("lora", flags=LATER_HALF),
    "cost-later-lora-dropout": replace(LORA_DROPOUT, flags=LORA_DROPOUT.flags + LATER_HALF),
}


def with_bases(cases):
    """And those whose time theirs is told as a multiple of."""
    bases = {report.CASES[case].over for case in cases}
    return [case for case in METHODS if case in cases or case in bases]


def make_row(work, case, setting, told):
    """told: {case: (seconds, bytes) of each round}"""
    seconds, memory = zip(*told[case])
    base, more = report.CASES[case].over, {}
    if base:
        base_seconds, base_memory = zip(*told[base])
        low, ratio, high = report.spread(report.ratios(seconds, base_seconds))
        more = {"over": [ratio, [low, high]], "memory_over": max(memory) / max(base_memory)}
    return report.make_row(case, work.text("F32"), setting, seconds, memory_bytes={"ours": max(memory)},
                           tokens_per_second={"ours": step.tokens_per_second(work, seconds)}, **more)


def measure_work(build, folder, work, cases, setting, rounds, _):
    """Rows of one work: in each round each case. There is no peer to leave out."""
    steps, runs = step.Steps(build, folder, work, setting), {}
    steps.make_model()
    for _ in range(rounds):
        for case in with_bases(cases):
            runs.setdefault(case, []).append(step.measured(steps.lodrop(METHODS[case], "F32")))
    return [make_row(work, case, setting, runs) for case in runs]
