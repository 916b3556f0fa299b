"""Attention through the shared library, against PyTorch's autograd in float64 with our masks put in."""
import itertools

import numpy as np
import torch

import lodrop_library as lod
from attention_reference import attend, reference, segment_masks, visible_keys
from lodrop_library import Compensation, Pattern

SEED = 2**40 + 17  # both halves of the key count
BOUND = 1e-5       # of each tensor's norm
TRIPLES = [*itertools.product(Pattern, (Compensation.NONE, Compensation.RENORMALISE, Compensation.RENORMALISE_NOGRAD)),
           (Pattern.ELEMENT, Compensation.INVERTED)]
# Segments (queries, keys): among them an empty one, one of keys alone, a cache; with 290 keys several key blocks.
SEGMENTS = [(1, 1), (37, 37), (0, 0), (5, 150), (0, 9), (70, 290), (140, 140)]
NAMES = ("O", "dQ", "dK", "dV")


def dropout_of(library, pattern, compensation, p, per_kv_head=False):
    position = lod.POSITION_ATTN_LOGIT if compensation == Compensation.NONE else lod.POSITION_ATTN_WEIGHT
    return lod.lod_dropout(pattern, compensation, p, SEED, library.site(lod.DOMAIN_TRAIN, 5, position), 0, per_kv_head)


def normal(generator, tokens, heads, head_dim, gap):
    array = lod.strided(tokens, heads, head_dim, gap)
    array[:] = generator.standard_normal(array.shape)
    return array


def make(library, heads, kv_heads, head_dim, segments=SEGMENTS, gap=0, threads=1, seed=1, **settings):
    """An Attention over random operands with gaps of NaN between tokens, and a gradient for its O."""
    generator = np.random.default_rng(seed)
    queries, keys = zip(*segments)
    count = len(segments)
    q, d_o = (normal(generator, sum(queries), heads, head_dim, gap) for _ in range(2))
    k, v = (normal(generator, sum(keys), kv_heads, head_dim, gap) for _ in range(2))
    q *= 1.5  # weights that differ
    rows = lod.Rows(queries, draw=generator.integers(2**32, size=count), instance=generator.integers(64, size=count))
    return lod.Attention(library, q, k, v, rows, lod.Rows(keys), threads=threads, **settings), d_o


def run(attention, d_o):
    """O, dQ, dK, dV; nothing but them was written."""
    results = [attention.forward(), *attention.backward(d_o)]
    for name, x in zip(NAMES, results, strict=True):
        assert np.isnan(lod.gaps(x)).all(), f"{name}: written between its rows"
    return results


def compare(what, got, want):
    """Every tensor within BOUND of the norm of what was expected; the worst ratio."""
    worst = 0.0
    for name, g, w in zip(NAMES, got, want, strict=True):
        error, norm = np.linalg.norm(g - w), np.linalg.norm(w)
        assert error <= BOUND * norm, f"{what}: {name} is off by {error:.3g}, its norm is {norm:.3g}"
        worst = max(worst, error / norm if norm > 0 else 0)
    return worst


def assert_same_bits(what, got, want):
    for name, g, w in zip(NAMES, got, want, strict=True):
        differ = int((np.ascontiguousarray(g).view(np.uint32) != np.ascontiguousarray(w).view(np.uint32)).sum())
        assert differ == 0, f"{what}: {differ} of {g.size} values of {name} differ"


def check_triple(context, pattern, compensation, rates=(0.1, 0.5, 0.9)):
    """Causal or not, 1, 3, 4 and 8 query heads a KV head, widths of a head, with rates, threads and gaps in turn."""
    library = lod.Library(context.build)
    cases = list(itertools.product((True, False), (1, 3, 4, 8), (8, 24, 64, 128)))
    worst, empty_queries = 0.0, 0
    for i, (causal, ratio, head_dim) in enumerate(cases):
        p = rates[i % len(rates)]
        attention, d_o = make(library, 2 * ratio, 2, head_dim, gap=i % 4, threads=1 + i % 3, seed=i, causal=causal,
                              dropout=dropout_of(library, pattern, compensation, p))
        want, empty = reference(attention, d_o)
        worst = max(worst, compare(f"p = {p}, causal {causal}, {ratio} heads a KV head, D = {head_dim}",
                                   run(attention, d_o), want))
        empty_queries += int(empty.sum())
    return f"{len(cases)} cases, off by {worst:.1e} of a norm at most; {empty_queries} queries without a key"


def test_without_dropout(context):
    return check_triple(context, Pattern.ELEMENT, Compensation.NONE, rates=(0,))


def test_element_dropkey(context):
    return check_triple(context, Pattern.ELEMENT, Compensation.NONE)


def test_column_dropkey(context):
    return check_triple(context, Pattern.COLUMN, Compensation.NONE)


def test_span_dropkey(context):
    return check_triple(context, Pattern.SPAN, Compensation.NONE)


def test_element_dropattention_with_gradient(context):
    return check_triple(context, Pattern.ELEMENT, Compensation.RENORMALISE)


def test_column_dropattention_with_gradient(context):
    return check_triple(context, Pattern.COLUMN, Compensation.RENORMALISE)


def test_span_dropattention_with_gradient(context):
    return check_triple(context, Pattern.SPAN, Compensation.RENORMALISE)


def test_element_dropattention(context):
    return check_triple(context, Pattern.ELEMENT, Compensation.RENORMALISE_NOGRAD)


def test_column_dropattention(context):
    return check_triple(context, Pattern.COLUMN, Compensation.RENORMALISE_NOGRAD)


def test_span_dropattention(context):
    return check_triple(context, Pattern.SPAN, Compensation.RENORMALISE_NOGRAD)


def test_attention_dropout(context):
    return check_triple(context, Pattern.ELEMENT, Compensation.INVERTED)


def logsumexp(logits, alive):
    """[Tq][heads], +inf where no key is alive."""
    value = logits.masked_fill(~alive, -torch.inf).logsumexp(-1).T.numpy()
    return np.where(np.isneginf(value), np.inf, value)


def test_logsumexp(context):
    """What forward leaves to backward: lse of the keys kept (inverted: visible), and lse_visible."""
    library, worst = lod.Library(context.build), 0.0
    for pattern, compensation in TRIPLES:
        attention, d_o = make(library, 4, 2, 16, dropout=dropout_of(library, pattern, compensation, 0.9))
        run(attention, d_o)
        slices = zip(attention.queries.slices(), attention.keys.slices())
        for (rows, columns), keep in zip(slices, segment_masks(attention, 4, 2), strict=True):
            q, k = (torch.from_numpy(x).double().transpose(0, 1) for x in (attention.q[rows], attention.k[columns]))
            logits = attention.args.scale * q @ k.repeat_interleave(2, 0).mT
            visible = visible_keys(*keep.shape[1:], causal=True).expand_as(keep)
            pairs = [(attention.lse, visible if compensation == Compensation.INVERTED else visible & keep)]
            if compensation == Compensation.RENORMALISE_NOGRAD:
                pairs.append((attention.lse_visible, visible))
            for lse, alive in pairs:
                got, want = lse[rows], logsumexp(logits, alive)
                finite = np.isfinite(want)
                assert np.isposinf(got[~finite]).all(), f"{pattern.name} {compensation.name}: not +inf without a key"
                error = np.abs(got[finite] - want[finite]).max(initial=0)
                assert error <= BOUND, f"{pattern.name} {compensation.name}: off by {error:.3g}"
                worst = max(worst, error)
    return f"off by {worst:.1e} at most"


def test_more_queries_than_keys(context):
    """Not causal, as in cross-attention: the first queries stand at negative positions, which are rows of masks. A
    segment may have no key at all."""
    library, worst = lod.Library(context.build), 0.0
    for (pattern, compensation), p in itertools.product(TRIPLES, (0, 0.5)):
        attention, d_o = make(library, 6, 2, 24, segments=[(3, 0), (40, 20), (150, 30), (0, 0)], causal=False,
                              dropout=dropout_of(library, pattern, compensation, p))
        got, (want, empty) = run(attention, d_o), reference(attention, d_o)
        worst = max(worst, compare(f"{pattern.name} {compensation.name}, p = {p}", got, want))
        assert empty[:3].all() and not got[0][:3].any() and not got[1][:3].any(), "a segment without keys is not 0"
    return f"off by {worst:.1e} of a norm at most"


def test_all_visible_keys_dropped(context):
    """O and dQ of such a query are 0, not near it and not NaN, and it leaves nothing in dK and dV."""
    library, total = lod.Library(context.build), 0
    for pattern, compensation in TRIPLES:
        attention, d_o = make(library, 6, 2, 24, dropout=dropout_of(library, pattern, compensation, 0.97))
        want, empty = reference(attention, d_o)
        assert empty.any() and not empty.all(), f"{pattern.name}: {empty.sum()} of {empty.size} queries without a key"
        o, dq, dk, dv = run(attention, d_o)
        compare(f"{pattern.name} {compensation.name}", (o, dq, dk, dv), want)
        for name, x in ("O", o), ("dQ", dq):
            assert not x[empty].any(), f"{pattern.name} {compensation.name}: {name} is not 0 without a key"
        # Gradients that only those queries get: none arrives anywhere.
        alone = lod.strided(*d_o.shape)
        alone[:] = np.where(empty[:, :, None], d_o, 0)
        for name, x in zip(NAMES[1:], attention.backward(alone), strict=True):
            assert not x.any(), f"{pattern.name} {compensation.name}: {name} of queries without a key is not 0"
        total += int(empty.sum())
    return f"{total} queries without a key"


def test_rate_near_one(context):
    """Of thousands of keys a few are left, or none. (With one key a query dQ and dK would be rounding alone.)"""
    library, worst = lod.Library(context.build), 0.0
    for pattern, compensation in TRIPLES:
        for causal in True, False:
            attention, d_o = make(library, 4, 2, 16, segments=[(60, 3000), (1, 1), (30, 2000)], causal=causal,
                                  dropout=dropout_of(library, pattern, compensation, 0.999))
            want, _ = reference(attention, d_o)
            worst = max(worst, compare(f"{pattern.name} {compensation.name}", run(attention, d_o), want))
    return f"off by {worst:.1e} of a norm at most"


def test_no_rate_is_no_dropout(context):
    """p = 0 of every triple: the bits of a call without one."""
    library = lod.Library(context.build)
    for causal in True, False:
        results = {}
        for triple in [None, *TRIPLES]:
            dropout = triple and dropout_of(library, *triple, 0)
            results[triple] = run(*make(library, 6, 2, 24, causal=causal, dropout=dropout))
            assert_same_bits(f"{triple}", results[triple], results[None])
    return f"{len(TRIPLES)} triples"


def test_dropkey_is_dropattention_with_gradient(context):
    """Bit for bit, when both draw at the same site."""
    library = lod.Library(context.build)
    for pattern, causal, p in itertools.product(Pattern, (True, False), (0.1, 0.5, 0.97)):
        dropouts = [dropout_of(library, pattern, c, p) for c in (Compensation.NONE, Compensation.RENORMALISE)]
        dropouts[1].site = dropouts[0].site
        dropkey, renormalised = (run(*make(library, 6, 2, 24, causal=causal, dropout=d)) for d in dropouts)
        assert_same_bits(f"{pattern.name}, p = {p}, causal {causal}", renormalised, dropkey)


def test_masks_of_kv_heads(context):
    """per_kv_head: the query heads of one KV head share the mask of its number, and it is not theirs otherwise."""
    library, worst = lod.Library(context.build), 0.0
    patterns = (Pattern.COLUMN, Pattern.SPAN)
    for (pattern, compensation), causal in itertools.product((t for t in TRIPLES if t[0] in patterns), (True, False)):
        settings = [dropout_of(library, pattern, compensation, 0.5, per_kv_head) for per_kv_head in (True, False)]
        (attention, d_o), (own, _) = (make(library, 12, 3, 24, causal=causal, dropout=d) for d in settings)
        got, (want, _) = run(attention, d_o), reference(attention, d_o)
        worst = max(worst, compare(f"{pattern.name} {compensation.name} causal {causal}", got, want))
        assert np.linalg.norm(got[0] - run(own, d_o)[0]) > 0.1 * np.linalg.norm(got[0]), "per_kv_head changes nothing"
    return f"off by {worst:.1e} of a norm at most"


def test_dropped_keys_are_not_read(context):
    """NaN in the rows of K and V that a column or span mask drops reaches nothing (DropAttention reads K)."""
    library, rows = lod.Library(context.build), 0
    for pattern, compensation in (t for t in TRIPLES if t[0] != Pattern.ELEMENT):
        for heads, kv_heads, per_kv_head in (3, 3, False), (8, 2, True):
            dropout = dropout_of(library, pattern, compensation, 0.5, per_kv_head)
            attention, d_o = make(library, heads, kv_heads, 24, dropout=dropout)
            want = [x.copy() for x in run(attention, d_o)]
            masks = segment_masks(attention, heads, kv_heads)
            for part, keep in zip(attention.keys.slices(), masks, strict=True):
                if keep.shape[1] == 0:
                    continue  # without a query there is no mask
                dropped = ~keep[::heads // kv_heads, 0].numpy().T  # [Tk][kv_heads]
                attention.v[part][dropped] = np.nan
                if compensation != Compensation.RENORMALISE_NOGRAD:
                    attention.k[part][dropped] = np.nan
                rows += int(dropped.sum())
            assert_same_bits(f"{pattern.name} {compensation.name}", run(attention, d_o), want)
    return f"{rows} rows"


def test_reference_of_dropattention(context):
    """The reference itself, in float64: DropAttention with gradient has DropKey's, and without it the header's."""
    generator = torch.Generator().manual_seed(3)
    q, k, v, d_o = (torch.randn(50, 3, 16, generator=generator, dtype=torch.float64) for _ in range(4))
    keep = torch.rand(3, 50, 50, generator=generator) >= 0.5
    gradients = {}
    for compensation in Compensation:
        operands = [x.clone().requires_grad_() for x in (q, k, v)]
        o = attend(*operands, keep, True, 0.3, compensation, 0.5)
        gradients[compensation] = torch.autograd.grad(o, operands, d_o)
    for name, a, b in zip(NAMES[1:], gradients[Compensation.NONE], gradients[Compensation.RENORMALISE], strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12), f"{name}: DropKey and DropAttention with gradient differ"
    qh, kh, vh, gh = (x.transpose(0, 1) for x in (q, k, v, d_o))
    weights = (0.3 * qh @ kh.mT).masked_fill(~visible_keys(50, 50, True), -torch.inf).softmax(-1)
    kept = weights * keep
    total = kept.sum(-1, keepdim=True)
    kept = kept / total.where(total > 0, 1)
    logits = kept * (gh @ vh.mT) - weights * (gh * (kept @ vh)).sum(-1, keepdim=True)
    want = 0.3 * (logits @ kh).transpose(0, 1)
    assert torch.allclose(gradients[Compensation.RENORMALISE_NOGRAD][0], want, rtol=0, atol=1e-12), "dQ"


def logit_gradients(library, logits, chosen, dropout):
    """dlogits [segments][heads][keys] of a loss that is weight `chosen` of its query: K and V are unit vectors, so that
    q / scale are the logits, O the weights, and dq / scale the logits' gradients."""
    count, heads, keys = logits.shape
    scale = 0.25
    units = np.tile(np.eye(keys, dtype=np.float32)[:, None, :], (count, heads, 1))
    d_o = np.zeros_like(logits)
    np.put_along_axis(d_o, chosen[:, :, None], 1, axis=2)
    attention = lod.Attention(library, logits / np.float32(scale), units, units, lod.Rows([1] * count),
                              lod.Rows([keys] * count), causal=False, scale=scale, dropout=dropout)
    attention.forward()
    keep = np.stack([mask.numpy()[:, 0] for mask in segment_masks(attention, heads, heads)])
    return attention.backward(d_o)[0] / scale, keep


def test_gradient_ratio_of_the_unified_framework(context):
    """arXiv 2403.00812: with the keys m dropped, |dlogit_u| under DropKey over that under DropAttention(NoGrad) is
    k = (1 - e_u / sum_{i not in m} e_i) / (1 - e_u / sum_i e_i), at most 1: both are w'_u times (1 - weight of u)."""
    library, generator = lod.Library(context.build), np.random.default_rng(8)
    several, total, worst, smallest = 0, 0, 0.0, 1.0
    for pattern, p in itertools.product((Pattern.ELEMENT, Pattern.COLUMN), (0.05, 0.3, 0.6, 0.85)):
        logits = generator.normal(scale=1.5, size=(300, 4, 16)).astype(np.float32)
        chosen = generator.integers(16, size=(300, 4))
        dropouts = [dropout_of(library, pattern, c, p) for c in (Compensation.NONE, Compensation.RENORMALISE_NOGRAD)]
        dropouts[1].site = dropouts[0].site
        (dropkey, keep), (nograd, _) = (logit_gradients(library, logits, chosen, d) for d in dropouts)
        at = np.expand_dims(chosen, 2)
        dropkey, nograd, alive = (np.take_along_axis(x, at, 2)[:, :, 0] for x in (dropkey, nograd, keep))
        assert not dropkey[~alive].any() and not nograd[~alive].any(), "a gradient of a dropped weight's loss"
        e = np.exp(logits.astype(np.float64))
        e_u = np.take_along_axis(e, at, 2)[:, :, 0]
        rest, rest_of_all = ((e * m).sum(2) for m in (keep, np.ones_like(keep)))
        rest, share = rest[alive], 1 - e_u[alive] / rest_of_all[alive]
        want, got = (1 - e_u[alive] / rest) / share, np.abs(dropkey[alive]) / np.abs(nograd[alive])
        # Either gradient is a difference of numbers near w'_u: rounding counts against what is left of it.
        error = np.abs(got - want) * share
        assert error.max() <= 2e-6, f"{pattern.name}, p = {p}: k is off by {error.max():.3g} of 1 / (1 - w_u)"
        worst, smallest = max(worst, error.max()), min(smallest, want[want > 0].min(initial=1))
        total, several = total + int(alive.sum()), several + int(((~keep).sum(2)[alive] > 1).sum())
    assert several > 1000, f"several keys dropped in {several} cases only"
    return f"{total} weights, several keys dropped for {several}, k from {smallest:.2g}, off by {worst:.1e} at most"
