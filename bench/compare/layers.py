"""A linear layer beside PyTorch and PEFT: the product alone, frozen, with LoRA, with LoRA and dropout on its input."""
from dataclasses import dataclass

import numpy as np

import blas
import lodrop_library as lod
from measure import Ours, Peer
from report import DROPOUT_RATE

SCALE = 2
CASES = ("product", "frozen", "lora", "lora-dropout")


@dataclass
class Shape:
    tokens: int
    n_in: int
    n_out: int
    rank: int

    def text(self):
        return f"T={self.tokens} {self.n_in}x{self.n_out} r={self.rank}"

    def flops(self, case):
        """Of the products alone."""
        frozen = 2 * self.tokens * self.n_in * self.n_out
        adapter = 2 * self.tokens * self.rank * (self.n_in + self.n_out)
        return {"product": frozen, "frozen": 2 * frozen}.get(case, 2 * frozen + 3 * adapter)


# Layers of models in use; then sizes that no tile divides.
SHAPES = {"768x768": Shape(512, 768, 768, 8), "768x3072": Shape(512, 768, 3072, 8),
          "2048x2048": Shape(512, 2048, 2048, 16), "4096x4096": Shape(512, 4096, 4096, 16),
          "576x1536": Shape(1024, 576, 1536, 8), "331x517": Shape(77, 331, 517, 3),
          "1000x1300": Shape(300, 1000, 1300, 5), "1023x769": Shape(641, 1023, 769, 9),
          "257x2999": Shape(201, 257, 2999, 12)}
QUICK = {"quick-layer": Shape(19, 40, 50, 3)}


def operands(shape):
    """x, w, a, b' and the gradient of y, of a size at which all of them matter."""
    generator = np.random.default_rng(1)
    sizes = {"x": (shape.tokens, shape.n_in), "w": (shape.n_out, shape.n_in), "a": (shape.rank, shape.n_in),
             "bt": (shape.rank, shape.n_out), "dy": (shape.tokens, shape.n_out)}
    return {name: lod.aligned(generator.uniform(-1, 1, size)) for name, size in sizes.items()}


def our_layer(library, shape, o, threads, case):
    """A Lowrank, and a call of it with other masks each time."""
    adapter = {} if case in ("product", "frozen") else {"a": o["a"], "bt": o["bt"], "scale": SCALE}
    if case == "lora-dropout":
        site = library.site(lod.DOMAIN_TRAIN, 0, lod.POSITION_LORA_INPUT)
        adapter["dropout"] = lod.lod_dropout(lod.Pattern.ELEMENT, lod.Compensation.INVERTED, DROPOUT_RATE, 1, site)
    rows = lod.Rows([shape.tokens])
    layer = lod.Lowrank(library, o["x"], o["w"], rows, threads=threads, **adapter)

    def call():
        rows.draw += np.uint32(1)
        layer.forward()
        if case != "product":
            layer.backward(o["dy"])
    return layer, call


# --- PyTorch: imported by those who need it, so that measuring lodrop alone is quick ---

def torch_layer(shape, o, case):
    """nn.Linear, within PEFT's layer where there is an adapter."""
    import peft
    import torch
    linear = torch.nn.Linear(shape.n_in, shape.n_out, bias=False)
    linear.weight.data = torch.from_numpy(o["w"])
    linear.weight.requires_grad_(False)
    if case == "frozen":
        return linear
    config = peft.LoraConfig(r=shape.rank, lora_alpha=SCALE * shape.rank, target_modules=["0"],
                             lora_dropout=DROPOUT_RATE if case == "lora-dropout" else 0)
    layer = peft.get_peft_model(torch.nn.Sequential(linear), config).train().base_model.model[0]
    layer.lora_A.default.weight.data = torch.from_numpy(o["a"]).clone()
    layer.lora_B.default.weight.data = torch.from_numpy(o["bt"]).t().contiguous()
    return layer


def torch_pass(layer, o):
    """Forward and backward; gradients are made anew each time, so that none is added to another."""
    import torch
    x, dy = torch.from_numpy(o["x"]).requires_grad_(), torch.from_numpy(o["dy"])
    leaves = [x, *(p for p in layer.parameters() if p.requires_grad)]

    def call():
        for leaf in leaves:
            leaf.grad = None
        layer(x).backward(dy)
    return leaves, call


def torch_products(o):
    import torch
    x, w, y = torch.from_numpy(o["x"]), torch.from_numpy(o["w"]), torch.from_numpy(lod.floats(*o["dy"].shape))
    return {"": lambda: torch.mm(x, w.t()), "out=": lambda: torch.mm(x, w.t(), out=y),
            "linear": lambda: torch.nn.functional.linear(x, w)}


def assert_same(what, got, want):
    error = np.linalg.norm(got - want) / np.linalg.norm(want)
    assert error < 1e-5, f"{what}: off by {error:.3g} of its norm"


def check_layer(shape, o, ours):
    """What is timed computes the same: Y and gradients without dropout."""
    layer = torch_layer(shape, o, "lora")
    leaves, call = torch_pass(layer, o)
    call()
    want = [layer(leaves[0]).detach(), *(leaf.grad for leaf in leaves)]
    y = ours.forward()
    dx, da, dbt = ours.backward(o["dy"])
    for name, mine, theirs in zip(("Y", "dX", "dA", "dB"), (y, dx, da, dbt.T), want, strict=True):
        assert_same(f"{shape.text()}: {name} beside PEFT's", mine, theirs.numpy())


def check_products(shape, o, ours, calls):
    want = o["x"] @ o["w"].T
    assert_same(f"{shape.text()}: Y", ours.forward(), want)
    for name, make in calls.items():
        y = np.full_like(o["dy"], np.nan)
        make(o["x"], o["w"], y)()
        assert_same(f"{shape.text()}: Y of {name}", y, want)


class Layers:
    """Layers beside their peers, once what is wanted is known; told: lines on the peers."""

    def __init__(self, library, isa, wanted, only_ours):
        self.library, self.only_ours = library, only_ours
        self.cases = [case for case in CASES if case in wanted]
        self.gemms, self.told = blas.find(isa) if "product" in self.cases and not only_ours else ({}, [])

    def prepare(self, shape, threads):
        """{case: Ours} and [Peer]."""
        o = operands(shape)
        made = {case: our_layer(self.library, shape, o, threads, case) for case in self.cases}
        ours = {case: Ours(call, shape.flops(case)) for case, (_, call) in made.items()}
        if self.only_ours:
            return ours, []
        return ours, [peer for case, (layer, _) in made.items() for peer in self.peers(shape, o, case, layer)]

    def peers(self, shape, o, case, layer):
        if case == "product":
            check_products(shape, o, layer, self.gemms)
            y = lod.floats(*o["dy"].shape)
            return [Peer(case, "torch.mm", torch_products(o)),
                    *(Peer(case, name, {"": make(o["x"], o["w"], y)}) for name, make in self.gemms.items())]
        if case == "lora":
            check_layer(shape, o, layer)
        name = "PyTorch" if case == "frozen" else "PEFT"
        return [Peer(case, name, {"": torch_pass(torch_layer(shape, o, case), o)[1]})]
