"""Dropout of activations and the consistency of two branches through the shared library, against PyTorch's autograd in
float64 with our masks put in; the divergences against SciPy, too."""
import itertools

import numpy as np
import torch
from scipy.spatial.distance import jensenshannon
from scipy.special import log_softmax, rel_entr, softmax

import lodrop_library as lod
from lodrop_library import Compensation, Consistency, Pattern
from philox import threshold

SEED = 2**40 + 17  # both halves of the key count
BOUND = 1e-5       # of each tensor's norm
TRIPLES = [(Pattern.ELEMENT, Compensation.INVERTED), (Pattern.ELEMENT, Compensation.INFERENCE),
           (Pattern.COLUMN, Compensation.INVERTED), (Pattern.SPAN, Compensation.NONE)]
LENGTHS = [1, 37, 0, 5, 70]


def within(what, got, want, slack=0.0):
    """The error, as a share of the norm of what was expected. slack: what each cell may be off by besides."""
    error, norm = np.linalg.norm(got - want), np.linalg.norm(want)
    assert error <= BOUND * norm + slack * got.size**0.5, f"{what} is off by {error:.3g}, its norm is {norm:.3g}"
    return error / norm if norm > 0 else 0


# --- dropout ---

def activation_mask(library, dropout, rows, width):
    """Keep bits [T][width]."""
    masks = [np.ones((0, width), dtype=bool)]
    for i, length in enumerate(rows.lengths):
        site, draw = dropout.site + (int(rows.instance[i]) << 8), int(rows.draw[i])
        if dropout.pattern == Pattern.SPAN:
            keep = np.ones((length, width), dtype=bool)
            dropped = library.span(dropout.seed, site, draw, dropout.p, length)
            keep[dropped.start:dropped.stop] = False
        else:
            lines = range(1 if dropout.pattern == Pattern.COLUMN else length)
            keep = library.mask(dropout.seed, site, draw, dropout.p, lines, range(width))
        masks.append(np.broadcast_to(keep, (length, width)))
    return torch.from_numpy(np.concatenate(masks))


def dropped(x, keep, compensation, p, inference):
    """D x, as the papers have it."""
    rate = threshold(p) / 65536
    if inference:
        return x * (1 - rate) if compensation == Compensation.INFERENCE else x
    return torch.where(keep, x / (1 - rate) if compensation == Compensation.INVERTED else x, 0)


def check_dropout(library, pattern, compensation, p, inference):
    generator, width, total = np.random.default_rng(5), 300, sum(LENGTHS)
    rows = lod.Rows(LENGTHS, draw=generator.integers(2**32, size=5), instance=generator.integers(64, size=5))
    site = library.site(lod.DOMAIN_TRAIN, 7, lod.POSITION_FFN_OUTPUT)
    dropout = lod.lod_dropout(pattern, compensation, p, SEED, site)
    x, add, dy = (generator.standard_normal((total, width)).astype(np.float32) for _ in range(3))
    keep = activation_mask(library, dropout, rows, width)
    wide = torch.from_numpy(x).double().requires_grad_()
    want = torch.from_numpy(add).double() + dropped(wide, keep, compensation, p, inference)
    want.backward(torch.from_numpy(dy).double())
    y = lod.dropout_add(library, rows, dropout, x, add=add, inference=inference)
    dx = lod.dropout_add(library, rows, dropout, dy, inference=inference)
    return max(within("y", y, want.detach().numpy()), within("dx", dx, wide.grad.numpy()))


def test_dropout_of_activations(context):
    library, worst = lod.Library(context.build), 0.0
    cases = list(itertools.product(TRIPLES, (0.1, 0.5, 0.9), (False, True)))
    for (pattern, compensation), p, inference in cases:
        worst = max(worst, check_dropout(library, pattern, compensation, p, inference))
    return f"{len(cases)} cases, off by {worst:.1e} of a norm at most"


# --- consistency ---

def divergence_of(consistency, z, z2):
    """As the papers have it, [T]."""
    log_p, log_q = z.log_softmax(-1), z2.log_softmax(-1)
    if consistency == Consistency.KL:
        pairs = (log_p, log_q), (log_q, log_p)
    else:
        log_m = torch.logaddexp(log_p, log_q) - np.log(2)
        pairs = (log_p, log_m), (log_q, log_m)
    return sum((a.exp() * (a - b)).sum(-1) for a, b in pairs) / 2


def reference(branches, consistency, weight, both):
    """loss, loss2, divergence, dh and dh2 of the operands of a Loss."""
    h, h2, w = (torch.from_numpy(x).double() for x in (branches.h, branches.h2, branches.w))
    h.requires_grad_(), h2.requires_grad_()
    z, z2 = h @ w.T, h2 @ w.T if both else (h2 @ w.T).detach()
    target = torch.from_numpy(branches.target.astype(np.int64))
    loss, loss2 = (torch.nn.functional.cross_entropy(x, target, reduction="none") for x in (z, z2))
    divergence = divergence_of(consistency, z, z2)
    total = ((loss + loss2) / 2 if both else loss) + weight * divergence
    total.sum().backward()
    return [x.detach().numpy() for x in (loss, loss2, divergence, h.grad)] + ([h2.grad.numpy()] if both else [])


def operands(seed, tokens, n, vocabulary, gap):
    generator = np.random.default_rng(seed)
    h, noise = (generator.standard_normal((tokens, n)).astype(np.float32) for _ in range(2))
    w = (generator.standard_normal((vocabulary, n)) / n**0.5 * 3).astype(np.float32)
    return h, (h + gap * noise).astype(np.float32), w, generator.integers(vocabulary, size=tokens).astype(np.uint32)


def test_consistency_gradients(context):
    """Values and every gradient, through one branch and both, near branches and far ones."""
    library, worst = lod.Library(context.build), 0.0
    cases = list(itertools.product((Consistency.KL, Consistency.JS), (False, True), (0.03, 0.3, 3), (0.1, 5)))
    names = ("loss", "loss2", "divergence", "dh", "dh2")
    for i, (consistency, both, gap, weight) in enumerate(cases):
        branches = lod.Loss(library, *operands(i, 90, 48, 1031, gap), threads=1 + i % 3)
        got = branches.run(consistency, weight, both)
        for name, g, w in zip(names, got, reference(branches, consistency, weight, both), strict=False):
            # JS takes logarithms of sums near 1, whose rounding is not less where branches are near.
            slack = 2**-22 if (consistency, name) == (Consistency.JS, "divergence") else 0
            worst = max(worst, within(f"{consistency.name}, both {both}, {gap}, {weight}: {name}", g, w, slack))
    return f"{len(cases)} cases, off by {worst:.1e} of a norm at most"


def scipy_divergence(consistency, p, q):
    if consistency == Consistency.JS:
        return jensenshannon(p, q, axis=1)**2
    return (rel_entr(p, q).sum(1) + rel_entr(q, p).sum(1)) / 2


def test_divergences_of_scipy(context):
    """KL, JS and the losses of R-Drop, by SciPy."""
    library, worst = lod.Library(context.build), 0.0
    for consistency, gap in itertools.product((Consistency.KL, Consistency.JS), (0.1, 1, 3)):
        branches = lod.Loss(library, *operands(11, 64, 32, 700, gap))
        loss, loss2, divergence = branches.run(consistency, 1, both=True)[:3]
        z, z2 = (x.astype(np.float64) @ branches.w.T.astype(np.float64) for x in (branches.h, branches.h2))
        at = np.arange(64), branches.target
        worst = max(worst, within("divergence", divergence, scipy_divergence(consistency, softmax(z, 1), softmax(z2, 1))),
                    within("loss", loss, -log_softmax(z, 1)[at]), within("loss2", loss2, -log_softmax(z2, 1)[at]))
    return f"off by {worst:.1e} of a norm at most"


def test_extreme_logits(context):
    """Logits of +-1e4: nothing is NaN or infinite, and the values are right."""
    library, worst = lod.Library(context.build), 0.0
    for consistency in Consistency.KL, Consistency.JS:
        h, h2, w, target = operands(3, 40, 16, 333, 1)
        for x in h, h2:
            x *= np.float32(1e4 / np.abs(x @ w.T).max())
        branches = lod.Loss(library, h, h2, w, target)
        got = branches.run(consistency, 0.5, both=True)
        for name, g, v in zip(("loss", "loss2", "divergence", "dh", "dh2"), got,
                              reference(branches, consistency, 0.5, True), strict=True):
            assert np.isfinite(g).all(), f"{consistency.name}: {name} is not finite"
            if name != "dh" and name != "dh2":
                worst = max(worst, within(f"{consistency.name}: {name}", g, v))
    return f"off by {worst:.1e} of a norm at most"
