"""Attention beside PyTorch. PyTorch has its operands contiguous as it likes them best, [B][H][T][D]; its masks are
drawn inside the time, as ours are. A share of the FMA peak counts 7 products of 2 T T D flop a head: half of them if
causal, 1-p of them where columns are dropped.
"""
import math
from dataclasses import dataclass

import numpy as np

import lodrop_library as lod
import report
from lodrop_library import Compensation, Pattern
from layers import assert_same
from measure import Clock, Ours, Peer, interleave
from report import COLUMN_RATE, DROPOUT_RATE, ELEMENT_RATE

OURS = {"attention": (Pattern.ELEMENT, Compensation.NONE, 0),
        "attention-dropkey-column": (Pattern.COLUMN, Compensation.NONE, COLUMN_RATE),
        "attention-dropkey-element": (Pattern.ELEMENT, Compensation.NONE, ELEMENT_RATE),
        "attention-dropout": (Pattern.ELEMENT, Compensation.INVERTED, DROPOUT_RATE)}
# PyTorch's: the case, a name, and the options of sdpa or the method of eager.
PEERS = (("attention", "SDPA", {}),
         ("attention-dropkey-column", "SDPA, mask", {"mask": "column"}),
         ("attention-dropkey-column", "eager", "column"),
         ("attention-dropkey-element", "SDPA, mask", {"mask": "element"}),
         ("attention-dropkey-element", "eager", "element"),
         ("attention-dropout", "SDPA", {"p": DROPOUT_RATE}),
         ("attention-dropout", "eager", "dropout"))


@dataclass
class Shape:
    """Segments of these lengths."""
    lengths: list
    heads: int
    kv_heads: int
    head_dim: int
    causal: bool = True

    def flops(self, p=0.0):
        share = (0.5 if self.causal else 1) * (1 - p)
        return 7 * 2 * self.heads * self.head_dim * sum(t * t for t in self.lengths) * share

    def text(self):
        ragged = len(set(self.lengths)) > 1
        batch = f"T={'+'.join(map(str, self.lengths))}" if ragged else f"B={len(self.lengths)} T={self.lengths[0]}"
        heads = f"H={self.heads}" + (f"/{self.kv_heads}" if self.heads != self.kv_heads else "")
        return f"{batch} {heads} D={self.head_dim}{'' if self.causal else ' not causal'}"


SHAPES = {
    "t256": Shape([256] * 4, 12, 12, 64), "t1024": Shape([1024] * 2, 12, 12, 64), "t2048": Shape([2048], 9, 9, 64),
    "d128": Shape([512], 32, 32, 128), "gqa": Shape([512] * 2, 32, 8, 64),
    "full": Shape([768] * 2, 12, 12, 64, causal=False), "ragged": Shape([1000, 77, 513, 300, 158], 12, 12, 64),
    "odd": Shape([333] * 3, 5, 5, 40)}
QUICK = {"quick-attention": Shape([33, 20], 4, 2, 24)}


def operands(shape):
    """q, k, v and the gradient of O, [tokens][heads][D]."""
    generator, tokens = np.random.default_rng(1), sum(shape.lengths)
    return [lod.aligned(generator.standard_normal((tokens, heads, shape.head_dim), dtype=np.float32))
            for heads in (shape.heads, shape.kv_heads, shape.kv_heads, shape.heads)]


def our_attention(library, shape, arrays, threads, pattern, compensation, p):
    """An Attention, and a call of it: forward and backward, with other masks each time."""
    q, k, v, d_o = arrays
    dropout = lod.lod_dropout(pattern, compensation, p, 1, library.site(lod.DOMAIN_TRAIN, 0, lod.POSITION_ATTN_LOGIT))
    attention = lod.Attention(library, q, k, v, lod.Rows(shape.lengths), causal=shape.causal, dropout=dropout,
                              threads=threads)

    def call():
        attention.queries.draw += np.uint32(len(shape.lengths))
        attention.forward()
        attention.backward(d_o)
    return attention, call


# --- PyTorch: the module is imported by those who need it, so that --only-ours is quick ---

def torch_batches(shape, arrays):
    """The operands as lists of [B][H][T][D] tensors (q, k, v, gradient): equal segments as one batch, others one by one
    or as one batch padded on the right, whose padding gets no gradient and, causal, gives none."""
    import torch

    def part(array, at, length):
        return torch.from_numpy(array[at:at + length]).transpose(0, 1)

    def tensors(rows, pad):
        parts = [[torch.nn.functional.pad(part(a, at, t), (0, 0, 0, pad - t)) for at, t in rows] for a in arrays]
        q, k, v, d_o = (torch.stack(p).contiguous() for p in parts)
        return q.requires_grad_(), k.requires_grad_(), v.requires_grad_(), d_o
    rows = list(zip(np.cumsum([0, *shape.lengths]).tolist(), shape.lengths))
    if len(set(shape.lengths)) == 1:
        return {"": [tensors(rows, shape.lengths[0])]}
    assert shape.causal, "padding is for causal attention only"
    return {"by segment": [tensors([row], row[1]) for row in rows],
            "padded": [tensors(rows, max(shape.lengths))]}


def sdpa(shape, mask=None, p=0.0, expand=False):
    import torch
    attention = torch.nn.functional.scaled_dot_product_attention
    group = shape.heads // shape.kv_heads

    def call(q, k, v):
        if expand:
            k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        options = {"dropout_p": p, "enable_gqa": group > 1 and not expand}
        if mask is None:
            return attention(q, k, v, is_causal=shape.causal, **options)
        b, h, t, _ = q.shape
        keep = torch.rand(b, h, 1, t) >= COLUMN_RATE if mask == "column" else torch.rand(b, h, t, t) >= ELEMENT_RATE
        if shape.causal:
            keep = keep & torch.ones(t, t, dtype=torch.bool).tril()
        bias = torch.zeros(b, h, t, t).masked_fill_(~keep, -torch.inf)
        return attention(q, k, v, attn_mask=bias, **options)
    return call


def eager(shape, method):
    """As the papers' own code has it. The query heads of a KV head stand below each other: nothing is expanded."""
    import torch

    def call(q, k, v):
        (b, h, t, d), kv = q.shape, shape.kv_heads
        logits = (q.reshape(b, kv, -1, d) @ k.mT).view(b, h, t, t) / math.sqrt(d)
        if shape.causal:
            logits = logits.masked_fill(~torch.ones(t, t, dtype=torch.bool).tril(), -torch.inf)
        if method == "column":
            logits = logits.masked_fill(torch.rand(b, h, 1, t) < COLUMN_RATE, -1e12)
        if method == "element":
            logits = logits + torch.bernoulli(torch.full_like(logits, ELEMENT_RATE)) * -1e12
        weights = logits.softmax(-1)
        if method == "dropout":
            weights = torch.nn.functional.dropout(weights, DROPOUT_RATE)
        return (weights.view(b, kv, -1, t) @ v).view(b, h, t, d)
    return call


def passes(batch, function):
    """A call that runs forward and backward over all of a batch's tensors."""
    def call():
        for q, k, v, d_o in batch:
            function(q, k, v).backward(d_o)
            q.grad = k.grad = v.grad = None
    return call


def peer_variants(shape, batches, how):
    """The ways to say one of PEERS, {way: call}."""
    if isinstance(how, str):
        functions = {"": eager(shape, how)}
    else:
        ways = {"enable_gqa": False, "expanded": True} if shape.heads != shape.kv_heads else {"": False}
        functions = {way: sdpa(shape, expand=expand, **how) for way, expand in ways.items()}
    return {" ".join(filter(None, (batch, way))): passes(tensors, function)
            for batch, tensors in batches.items() for way, function in functions.items()}


def check_same(shape, arrays, attention):
    """What is timed computes the same: O and gradients without dropout, segment by segment."""
    import torch
    attention.forward()
    got = [attention.o, *attention.backward(arrays[3])]
    function = sdpa(shape)
    for part in attention.queries.slices():
        q, k, v, d_o = (torch.from_numpy(a[part]).transpose(0, 1)[None].contiguous() for a in arrays)
        operands = [x.requires_grad_() for x in (q, k, v)]
        o = function(*operands)
        want = [o, *torch.autograd.grad(o, operands, d_o)]
        for name, g, w in zip(("O", "dQ", "dK", "dV"), got, want, strict=True):
            assert_same(f"{shape.text()}: {name} beside PyTorch's", g[part], w.detach()[0].transpose(0, 1).numpy())


class Attentions:
    """Attention beside its peers, once what is wanted is known."""

    def __init__(self, library, isa, wanted, only_ours):
        self.library, self.only_ours, self.told = library, only_ours, []
        self.cases = [case for case in OURS if case in wanted]

    def prepare(self, shape, threads):
        """{case: Ours} and [Peer]."""
        arrays, ours = operands(shape), {}
        for case in self.cases:
            pattern, compensation, p = OURS[case]
            attention, call = our_attention(self.library, shape, arrays, threads, pattern, compensation, p)
            if case == "attention" and not self.only_ours:
                check_same(shape, arrays, attention)
            ours[case] = Ours(call, shape.flops(p if pattern == Pattern.COLUMN else 0))
        batches = {} if self.only_ours else torch_batches(shape, arrays)
        return ours, [Peer(case, name, peer_variants(shape, batches, how)) for case, name, how in PEERS
                      if batches and case in ours]


def growth(library, threads, rounds):
    """One causal head of D = 64: time grows as T^2, memory as T. A Markdown table."""
    clock, lines = Clock(threads), []
    for tokens in (512, 1024, 2048, 4096, 8192):
        shape = Shape([tokens], 1, 1, 64)
        arrays = operands(shape)
        ours = {case: our_attention(library, shape, arrays, threads, *triple) for case, triple in OURS.items()}
        samples, _ = interleave(clock, {case: call for case, (_, call) in ours.items()}, rounds, lambda: None)
        one = ours["attention"][0]
        held = [sum(a.nbytes for a in (*arrays, one.o, one.dq, one.dk, one.dv, one.lse)),
                max(a.workspace.size for a, _ in ours.values())]
        times = (report.bracketed(report.spread([s / tokens**2 * 1e9 for s in samples[case]])) for case in OURS)
        lines.append([str(tokens), *times, *(f"{size / tokens:.0f}" for size in held)])
    head = ["T", *(f"{report.CASES[case].title}, ns/T^2" for case in OURS), "operands, bytes/T", "workspace, bytes/T"]
    return report.markdown_table(head, lines)
