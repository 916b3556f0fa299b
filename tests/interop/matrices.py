"""LoRA Dropout (arXiv 2404.09610) as it is defined, A diag(mA) and diag(mB) B, our masks put in by hooks."""
import re

import peft
import torch

import philox
from common import ALL_MODULES

POSITIONS = {"lora_a": philox.POSITION_LORA_A, "lora_b": philox.POSITION_LORA_B}


class Site:
    """A matrix, and the columns of A or rows of B that it drops. Of an adapter that was trained so, PEFT's scale has
    the expected masks in it, whether the compensation makes up for them or not: what is kept is divided by its mean in
    both cases."""

    def __init__(self, seed, domain, layer, module, dropped, expected):
        self.seed, self.dropped, self.domain, self.expected = seed, dropped, domain, expected
        self.layer, self.position = layer, POSITIONS[dropped.position] + ALL_MODULES.index(module)

    def factor(self, width, draw, instance):
        where = philox.site(self.domain, self.layer, self.position, instance=instance)
        keep = philox.cells(self.seed, where, draw, [0], range(width), self.dropped.p)[0]
        mean = 1 - philox.threshold(self.dropped.p) / 65536
        return torch.from_numpy(keep).double() / (mean if self.expected else 1)


class MatrixMasks:
    """Puts masks into the adapters of a PEFT model. step: that they are drawn for."""

    def __init__(self, model, seed, dropped, domain=philox.DOMAIN_TRAIN, expected=True):
        self.step, self.instance, self.places = 0, None, 0
        for name, module in model.named_modules():
            found = re.search(r"layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)$", name)
            if not isinstance(module, peft.tuners.lora.Linear):
                continue
            for d in dropped:
                if (d.layers is None or int(found[1]) in d.layers) and (d.modules is None or found[2] in d.modules):
                    self.place(module, Site(seed, domain, int(found[1]), found[2], d, expected))
        assert self.places

    def place(self, module, site):
        self.places += 1
        if site.dropped.position == "lora_a":
            module.lora_A["default"].register_forward_pre_hook(lambda _, x: (self.apply(site, x[0]),))
        else:
            module.lora_B["default"].register_forward_hook(lambda _, x, y: self.apply(site, y))

    def apply(self, site, x):
        return x if self.instance is None else x * site.factor(x.shape[-1], self.step, self.instance)

    def clear(self):
        """Draws nothing: the expected masks."""
        self.instance = None

    def set(self, draw, tokens, instance=0):
        """The masks are those of the step, whatever the example."""
        self.instance = instance
