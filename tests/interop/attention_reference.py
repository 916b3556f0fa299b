"""Attention with dropout as its papers write it, in PyTorch's float64 and autograd, our masks put in."""
import numpy as np
import torch

from lodrop_library import Compensation, Pattern
from philox import threshold


def keep_mask(library, dropout, site, draw, rows, keys):
    """Keep bits [len(rows)][keys] of one head, whose site is complete; rows: the queries' positions, modulo 2^32."""
    if dropout.p == 0:
        return np.ones((len(rows), keys), dtype=bool)
    if dropout.pattern == Pattern.ELEMENT:
        parts = range(rows.start + 2**32, min(rows.stop, 0) + 2**32), range(max(rows.start, 0), rows.stop)
        masks = [library.mask(dropout.seed, site, draw, dropout.p, part, range(keys)) for part in parts if part]
        return np.concatenate([np.ones((0, keys), dtype=bool), *masks])
    keep = np.ones(keys, dtype=bool)
    if dropout.pattern == Pattern.COLUMN:
        keep = library.mask(dropout.seed, site, draw, dropout.p, range(1), range(keys))[0]
    elif keys:
        dropped = library.span(dropout.seed, site, draw, dropout.p, keys)
        keep[dropped.start:dropped.stop] = False
    return np.broadcast_to(keep, (len(rows), keys))


def segment_masks(attention, heads, kv_heads):
    """Of each segment, keep bits [heads][Tq][Tk]: the operation adds head and instance to the site."""
    dropout, queries = attention.args.dropout, attention.queries
    group = heads // kv_heads if dropout.per_kv_head else 1
    for i, (tq, tk) in enumerate(zip(queries.lengths, attention.keys.lengths)):
        instance = 0 if queries.instance is None else int(queries.instance[i])
        masks = [keep_mask(attention.library, dropout, dropout.site + (instance << 8) + head // group,
                           int(queries.draw[i]), range(tk - tq, tk), tk)
                 for head in range(heads)]
        yield torch.from_numpy(np.stack(masks))


def visible_keys(tq, tk, causal):
    """[Tq][Tk]: query i stands at position Tk - Tq + i."""
    visible = torch.ones(tq, tk, dtype=torch.bool)
    return visible.tril(tk - tq) if causal else visible


def softmax_of(logits, alive):
    """Over the keys alive; a row that has none is 0 and takes no gradient."""
    empty = ~alive.any(-1, keepdim=True)
    weights = logits.masked_fill(~alive, -torch.inf).masked_fill(empty, 0).softmax(-1)
    return weights.masked_fill(empty, 0)


def dropped_weights(logits, visible, keep, compensation, p):
    """Attention weights [heads][Tq][Tk] after dropout."""
    if compensation == Compensation.NONE:
        return softmax_of(logits, visible & keep)
    weights = softmax_of(logits, visible.expand_as(keep)).masked_fill(~keep, 0)
    if compensation == Compensation.INVERTED:
        return weights / (1 - threshold(p) / 65536)
    total = weights.sum(-1, keepdim=True)
    if compensation == Compensation.RENORMALISE_NOGRAD:
        total = total.detach()
    return weights / total.where(total > 0, 1)


def attend(q, k, v, keep, causal, scale, compensation, p):
    """O [Tq][heads][D] of one segment."""
    group = q.shape[1] // k.shape[1]
    q, k, v = q.transpose(0, 1), *(x.transpose(0, 1).repeat_interleave(group, 0) for x in (k, v))
    logits = scale * q @ k.mT
    visible = visible_keys(q.shape[1], k.shape[1], causal)
    return (dropped_weights(logits, visible, keep, compensation, p) @ v).transpose(0, 1)


def reference(attention, d_o):
    """O, dQ, dK, dV of what an Attention computes, and which queries have no key left [Tq][heads]."""
    operands = [torch.from_numpy(np.ascontiguousarray(x)).double().requires_grad_()
                for x in (attention.q, attention.k, attention.v)]
    q, k, v = operands
    args, outputs, empty = attention.args, [], []
    slices = zip(attention.queries.slices(), attention.keys.slices())
    for (tq, tk), keep in zip(slices, segment_masks(attention, q.shape[1], k.shape[1]), strict=True):
        outputs.append(attend(q[tq], k[tk], v[tk], keep, args.causal, args.scale, args.dropout.compensation,
                              args.dropout.p))
        alive = keep & visible_keys(*keep.shape[1:], args.causal)
        empty.append(~alive.any(-1).T)
    o = torch.cat(outputs)
    gradients = torch.autograd.grad(o, operands, torch.from_numpy(np.ascontiguousarray(d_o)).double())
    return [x.detach().numpy() for x in (o, *gradients)], torch.cat(empty).numpy()
