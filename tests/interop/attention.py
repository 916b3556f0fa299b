"""Attention as it is defined, all of its weights at once, with our masks put in: what transformers has no dropout for."""
import dataclasses

import numpy as np
import torch
import transformers

import philox

PLAIN = "plain"  # transformers' name for the attention of this file


@dataclasses.dataclass
class Dropped:
    """A dropout, as --drop names it; layers and modules None: all of them."""
    position: str  # attn_logit or attn_weight
    pattern: str  # element, column or span
    compensation: str
    p: float = 0.1
    layers: list | None = None
    per_kv_head: bool = False
    modules: list | None = None


class AttentionMasks:
    """Puts masks into the attention of a model that was loaded with attention=PLAIN."""

    def __init__(self, model, seed, dropped):
        self.seed = seed
        self.places = []  # (attention of a layer, what it drops)
        for module in model.modules():
            if isinstance(module, transformers.models.llama.modeling_llama.LlamaAttention):
                here = [d for d in dropped if d.layers is None or module.layer_idx in d.layers]
                assert len(here) <= 1, f"{len(here)} dropouts in layer {module.layer_idx}"
                self.places += [(module, here[0])] if here else []
        assert self.places

    def one_head(self, dropped, layer, head, draw, tokens, instance):
        """Keep bits [queries][keys]."""
        position = {"attn_logit": philox.POSITION_ATTN_LOGIT, "attn_weight": philox.POSITION_ATTN_WEIGHT}
        where = philox.site(philox.DOMAIN_TRAIN, layer, position[dropped.position], head, instance)
        if dropped.pattern == "element":
            return philox.cells(self.seed, where, draw, range(tokens), range(tokens), dropped.p)
        if dropped.pattern == "column":
            keys = philox.cells(self.seed, where, draw, [0], range(tokens), dropped.p)
        else:
            keys = philox.span(self.seed, where, draw, tokens, dropped.p)[None]
        return keys.repeat(tokens, axis=0)

    def clear(self):
        """Drops nothing."""
        for module, _ in self.places:
            module.dropped = None

    def set(self, draw, tokens, instance=0):
        """For the example visit of that number, with so many tokens fed; instance 1: a second pass."""
        for module, dropped in self.places:
            heads, group = module.config.num_attention_heads, module.num_key_value_groups
            shared = group if dropped.per_kv_head else 1
            keep = [self.one_head(dropped, module.layer_idx, head // shared, draw, tokens, instance)
                    for head in range(heads)]
            rate = 1 - philox.threshold(dropped.p) / 65536  # the rate that the masks really have
            module.dropped = torch.from_numpy(np.stack(keep)), dropped.compensation, rate


def divide(weights, total):
    """Rows that have nothing stay nothing."""
    return weights / torch.where(total > 0, total, torch.ones_like(total))


def drop(exponentials, keep, compensation, rate):
    """Weights [heads][queries][keys] from the exponentials of the visible logits (0 for others)."""
    kept, total = exponentials * keep, exponentials.sum(-1, keepdim=True)
    if compensation == "none":  # a dropped logit is minus infinity
        return divide(kept, kept.sum(-1, keepdim=True))
    weights = kept / total
    if compensation == "inverted":
        return weights / rate
    normaliser = weights.sum(-1, keepdim=True)
    return divide(weights, {"renormalise": normaliser, "renormalise-nograd": normaliser.detach()}[compensation])


def plain_attention(module, query, key, value, attention_mask, scaling, **_):
    """[1][heads][tokens][width] each; transformers asks for [1][tokens][heads][width] and the weights."""
    assert query.shape[0] == 1 and attention_mask is None
    key, value = (x[0].repeat_interleave(module.num_key_value_groups, dim=0) for x in (key, value))
    logits = scaling * query[0] @ key.transpose(1, 2)
    visible = torch.ones(logits.shape[1:], dtype=torch.bool).tril()
    largest = logits.masked_fill(~visible, -torch.inf).amax(-1, keepdim=True).detach()
    exponentials = torch.exp(torch.where(visible, logits - largest, -torch.inf))
    if getattr(module, "dropped", None):
        weights = drop(exponentials, *module.dropped)
    else:
        weights = exponentials / exponentials.sum(-1, keepdim=True)
    return (weights @ value).transpose(0, 1)[None], weights


transformers.AttentionInterface.register(PLAIN, plain_attention)
