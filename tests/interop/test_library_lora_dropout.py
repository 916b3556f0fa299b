"""LoRA Dropout through the shared library, against PyTorch's autograd in float64 with our masks put in."""
import itertools

import numpy as np
import torch

import lodrop_library as lod
from lodrop_library import Compensation, Pattern
from philox import threshold

SEED, STEP, SCALE = 2**40 + 17, 12, 1.75  # both halves of the key count
BOUND = 1e-5                              # of each tensor's norm
LENGTHS, INSTANCE = [1, 37, 0, 5, 70, 40], [0, 3, 1, 1, 3, 0]
INSTANCES = 4                             # of which one has no token


def within(what, got, want):
    """The error, as a share of the norm of what was expected."""
    error, norm = np.linalg.norm(got - want), np.linalg.norm(want)
    assert error <= BOUND * norm, f"{what} is off by {error:.3g}, its norm is {norm:.3g}"
    return error / norm if norm > 0 else 0


def columns(library, position, p, compensation):
    return lod.lod_dropout(Pattern.COLUMN, compensation, p, SEED, library.site(lod.DOMAIN_TRAIN, 7, position), STEP)


def masks(library, dropout, n):
    """The kept columns of each instance, [INSTANCES][n], and the compensation."""
    keep = np.stack([library.mask(dropout.seed, dropout.site + (k << 8), dropout.draw, dropout.p, range(1), range(n))[0]
                     for k in range(INSTANCES)])
    inverted = dropout.compensation == Compensation.INVERTED
    return torch.from_numpy(keep), 1 / (1 - threshold(dropout.p) / 65536) if inverted else 1


def reference(x, w, a, b, dy, rows, lora_a, lora_b):
    """y, dx, and da and db of each instance, [INSTANCES][..], as the paper has it: A diag(mA), diag(mB) B."""
    (ma, inv_a), (mb, inv_b) = lora_a, lora_b
    x, w, a, b, dy = (torch.from_numpy(t).double() for t in (x, w, a, b, dy))
    x.requires_grad_()
    a_of, b_of = (t.expand(INSTANCES, *t.shape).clone().requires_grad_() for t in (a, b))
    y = torch.zeros_like(dy)
    for part, k in zip(rows.slices(), INSTANCE):
        down, up = a_of[k] * ma[k] * inv_a, b_of[k] * mb[k, :, None] * inv_b
        y[part] = x[part] @ w.T + SCALE * (x[part] @ down.T) @ up.T
    y.backward(dy)
    return [t.detach().numpy() for t in (y, x.grad, a_of.grad, b_of.grad)]


def check(library, n_in, n_out, rank, pa, pb, compensation, threads):
    generator, total = np.random.default_rng(5), sum(LENGTHS)
    x, w, a, b, dy = (generator.standard_normal(shape).astype(np.float32)
                      for shape in ((total, n_in), (n_out, n_in), (rank, n_in), (n_out, rank), (total, n_out)))
    rows = lod.Rows(LENGTHS, instance=INSTANCE)
    lora_a = columns(library, lod.POSITION_LORA_A, pa, compensation)
    lora_b = columns(library, lod.POSITION_LORA_B, pb, compensation)
    layer = lod.Lowrank(library, x, w, rows, a, np.ascontiguousarray(b.T), SCALE, lora_a=lora_a, lora_b=lora_b,
                        instances=INSTANCES, threads=threads)
    y = layer.forward()
    dx, da, dbt = layer.backward(dy)
    want = reference(x, w, a, b, dy, rows, masks(library, lora_a, n_in), masks(library, lora_b, n_out))
    got = y, dx, da, dbt.transpose(0, 2, 1)
    return max(within(name, *pair) for name, *pair in zip(("y", "dx", "da", "db"), got, want))


def test_lora_dropout(context):
    library, worst = lod.Library(context.build), 0.0
    shapes = (70, 45, 5, 1), (192, 576, 8, 2), (576, 131, 17, 1)
    rates = (0.5, 0.5), (0, 0.5), (0.5, 0), (0.9, 0.1)
    cases = list(itertools.product(shapes, rates, (Compensation.NONE, Compensation.INVERTED)))
    for (n_in, n_out, rank, threads), (pa, pb), compensation in cases:
        worst = max(worst, check(library, n_in, n_out, rank, pa, pb, compensation, threads))
    return f"{len(cases)} cases, off by {worst:.1e} of a norm at most"


def test_lora_dropout_mean(context):
    """The expected adapter, s (1 - pA) (1 - pB) B A, is the mean over many steps."""
    library, generator, n = lod.Library(context.build), np.random.default_rng(6), 64
    x, w, a, b = (generator.standard_normal(shape).astype(np.float32) for shape in ((8, n), (n, n), (4, n), (n, 4)))
    rows, passes, total, squares = lod.Rows([8]), 10000, 0, 0
    lora_a = columns(library, lod.POSITION_LORA_A, 0.5, Compensation.NONE)
    lora_b = columns(library, lod.POSITION_LORA_B, 0.25, Compensation.NONE)
    layer = lod.Lowrank(library, x, w, rows, a, np.ascontiguousarray(b.T), SCALE, lora_a=lora_a, lora_b=lora_b)
    for step in range(passes):
        layer.args.lora_a.draw = layer.args.lora_b.draw = step
        y = layer.forward().astype(np.float64)
        total, squares = total + y, squares + y * y
    wide = [t.astype(np.float64) for t in (x, w, a, b)]
    want = wide[0] @ wide[1].T + SCALE * 0.5 * 0.75 * (wide[0] @ wide[2].T) @ wide[3].T
    error = np.sqrt((squares / passes - (total / passes) ** 2) / passes)  # of the mean
    off = (total / passes - want) / error
    assert np.sqrt(np.mean(off**2)) < 1.3 and np.abs(off).max() < 5, (np.sqrt(np.mean(off**2)), np.abs(off).max())
    return f"{passes} passes, off by {np.sqrt(np.mean(off**2)):.2f} standard errors, root mean square over {off.size}"
