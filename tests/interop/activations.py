"""Dropout of activations as it is defined, our masks put in by hooks."""
import dataclasses
import re

import torch

import philox
from attention import Dropped

PLACES = {  # what is dropped: the module whose input or output it is, and the position of its mask
    "ffn_middle": [("mlp.down_proj", "input", philox.POSITION_FFN_MIDDLE)],
    "ffn_output": [("mlp", "output", philox.POSITION_FFN_OUTPUT)],
    "hidden": [("mlp", "output", philox.POSITION_FFN_OUTPUT), ("self_attn", "output", philox.POSITION_HIDDEN)],
}


@dataclasses.dataclass
class Site:
    """A place in a layer, and what it drops."""
    layer: int
    position: int
    dropped: Dropped

    def factor(self, seed, draw, tokens, width, instance):
        """[tokens or 1][width or 1]"""
        dropped, where = self.dropped, philox.site(philox.DOMAIN_TRAIN, self.layer, self.position, instance=instance)
        if dropped.pattern == "span":
            keep = philox.span(seed, where, draw, tokens, dropped.p)[:, None]
        else:
            rows = range(tokens) if dropped.pattern == "element" else [0]
            keep = philox.cells(seed, where, draw, rows, range(width), dropped.p)
        rate = 1 - philox.threshold(dropped.p) / 65536 if dropped.compensation == "inverted" else 1
        return torch.from_numpy(keep).double() / rate


class ActivationMasks:
    """Puts masks into the activations of a model."""

    def __init__(self, model, seed, dropped):
        self.seed, self.visit, self.sites = seed, None, []
        for name, module in model.named_modules():
            found = re.search(r"layers\.(\d+)\.([\w.]+)$", name)
            if name.endswith("embed_tokens"):
                self.place(module, "output", [(0, philox.POSITION_EMBEDDING, d) for d in dropped
                                              if d.position == "embedding"])
            for d in dropped if found else []:
                layer = int(found[1])
                if d.position != "embedding" and (d.layers is None or layer in d.layers):
                    for part, end, position in PLACES[d.position]:
                        self.place(module, end, [(layer, position, d)] if found[2] == part else [])
        assert self.sites

    def place(self, module, end, sites):
        for layer, position, dropped in sites:
            site = Site(layer, position, dropped)
            self.sites.append(site)
            if end == "input":
                module.register_forward_pre_hook(lambda _, x, site=site: (self.apply(site, x[0]), *x[1:]))
            else:
                module.register_forward_hook(lambda _, x, y, site=site: (self.apply(site, y[0]), *y[1:])
                                             if isinstance(y, tuple) else self.apply(site, y))

    def apply(self, site, x):
        if self.visit is None:
            kept = 1 - philox.threshold(site.dropped.p) / 65536
            return x * kept if site.dropped.compensation == "inference" else x
        draw, tokens, instance = self.visit
        assert x.shape[:2] == (1, tokens), f"{tuple(x.shape)} for {tokens} tokens"
        return x * site.factor(self.seed, draw, tokens, x.shape[2], instance)

    def clear(self):
        """Drops nothing, as at inference."""
        self.visit = None

    def set(self, draw, tokens, instance=0):
        """For the example visit of that number, with so many tokens fed; instance 1: a second pass."""
        self.visit = draw, tokens, instance
