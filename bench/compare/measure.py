"""Measuring in turn, so that a drift of the machine meets all that is compared alike."""
import math
import re
import statistics
import subprocess
import time
from dataclasses import dataclass, field

import report

SAMPLE_SECONDS = 0.02


@dataclass
class Ours:
    """A call of lodrop, and the flops that count in it (0: no share of the peak is told)."""
    call: object
    flops: float = 0


@dataclass
class Peer:
    """The ways to say one thing in a peer, {how: call}; the fastest of a warm-up is measured."""
    case: str
    name: str
    variants: dict = field(default_factory=dict)


class Clock:
    """CPU time of the process where it has one thread, which a busy machine disturbs least; else time as it passes."""

    def __init__(self, threads):
        self.now = time.process_time if threads == 1 else time.perf_counter
        self.text = "CPU time" if threads == 1 else "time"

    def seconds(self, call, calls=1):
        begin = self.now()
        for _ in range(calls):
            call()
        return (self.now() - begin) / calls


def peak(build, threads):
    """Flop/s of fused multiply-adds in the instruction set in use, or nan where it has no probe."""
    told = subprocess.run([build / "lodrop-bench", "--peak", "--threads", str(threads)], check=True, text=True,
                          capture_output=True).stdout
    found = re.search(r"([0-9.]+) GF/s", told)
    return float(found[1]) * 1e9 if found else math.nan


def fastest(clock, variants):
    """The variant to measure, (how, call): one call of each tells which are worth three more."""
    if len(variants) == 1:
        return next(iter(variants.items()))
    once = {how: clock.seconds(call) for how, call in variants.items()}
    close = [how for how, seconds in once.items() if seconds < 1.5 * min(once.values())]
    best = min(close, key=lambda how: min(clock.seconds(variants[how]) for _ in range(3)) if len(close) > 1 else 0)
    return best, variants[best]


def interleave(clock, calls, rounds, each_round):
    """Seconds of each call in each round, {name: [rounds]}, and what each_round gave before each."""
    counts, samples, given = {}, {name: [] for name in calls}, []
    for name, call in calls.items():
        call()
        counts[name] = max(1, math.ceil(SAMPLE_SECONDS / clock.seconds(call)))
    for _ in range(rounds):
        given.append(each_round())
        for name, call in calls.items():
            samples[name].append(clock.seconds(call, counts[name]))
    return samples, given


def shares(flops, seconds, peaks):
    """Spread of the share of the peak, None where there is no peak or nothing is counted."""
    values = [flops / s / p for s, p in zip(seconds, peaks, strict=True)]
    return report.spread(values) if flops and all(map(math.isfinite, values)) else None


def measure_shape(shape, ours, peers, setting, rounds, build):
    """Rows of one shape. ours: {case: Ours}; what is compared stands beside each other in a round."""
    clock, calls, chosen = Clock(setting["threads"]), {}, {}
    for case, mine in ours.items():
        calls[case] = mine.call
        for peer in peers:
            if peer.case == case:
                how, calls[case, peer.name] = fastest(clock, peer.variants)
                chosen[case, peer.name] = how
    samples, peaks = interleave(clock, calls, rounds, lambda: peak(build, setting["threads"]))
    rows = []
    for case, mine in ours.items():
        more = {"peak_gflops": 1e-9 * statistics.median(peaks),
                "share_of_peak": shares(mine.flops, samples[case], peaks)}
        base = report.CASES[case].over
        if base in ours:
            low, ratio, high = report.spread(report.ratios(samples[case], samples[base]))
            more["over"] = [ratio, [low, high]]
        names = [name for at, name in chosen if at == case]
        for name in names or [None]:
            variant = {"peer_variant": chosen[case, name]} if name else {}
            rows.append(report.make_row(case, shape, setting, samples[case], name, samples.get((case, name)), **more,
                                        **variant))
    return rows
