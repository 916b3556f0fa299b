"""The other side of every comparison: transformers and PEFT in float64, with our dropout masks put in."""
import re

import peft
import torch
import transformers

import philox


def load_model(folder, attention="sdpa"):
    """Weights widened to float64. The norms are PyTorch's: those of transformers compute in float32 whatever the dtype.
    (RoPE's frequencies and angles stay float32 as transformers has them, and as ours are.)"""
    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation=attention)
    for block in model.model.layers:
        block.input_layernorm = exact_norm(block.input_layernorm)
        block.post_attention_layernorm = exact_norm(block.post_attention_layernorm)
    model.model.norm = exact_norm(model.model.norm)
    return model.eval()


def exact_norm(norm):
    exact = torch.nn.RMSNorm(norm.weight.shape, eps=norm.variance_epsilon, dtype=torch.float64)
    exact.weight = norm.weight
    return exact


def load_adapted(folder, adapter, attention="sdpa"):
    """The model with a PEFT folder on it, ready to be trained: its dropouts act."""
    model = peft.PeftModel.from_pretrained(load_model(folder, attention), adapter, is_trainable=True)
    assert all(p.dtype == torch.float64 for p in model.parameters())
    return model.train()


def logits(model, tokens):
    """[tokens - 1][vocabulary], after every token but the last."""
    return model(input_ids=torch.tensor([tokens[:-1]]), use_cache=False).logits[0]


def target_losses(model, tokens, first_target):
    """Nats of every target of one example."""
    expected = torch.tensor(tokens[first_target:])
    return torch.nn.functional.cross_entropy(logits(model, tokens)[first_target - 1:], expected, reduction="none")


@torch.no_grad()
def mean_loss(model, examples):
    losses = torch.cat([target_losses(model, *example) for example in examples])
    return losses.mean().item(), len(losses)


def adapter_parameters(model):
    """Under the names that files give them."""
    return {name.replace(".default.", "."): p for name, p in model.named_parameters() if p.requires_grad}


class InjectedMask(torch.nn.Module):
    """Stands in for a lora_dropout: multiplies with what it is told."""

    def __init__(self):
        super().__init__()
        self.factor = None  # [tokens][n_in]; None: 1

    def forward(self, x):
        if self.factor is None:
            return x
        assert x.shape[1:] == self.factor.shape, f"a mask of {self.factor.shape} for {x.shape}"
        return x * self.factor


class Masks:
    """Puts the masks that lodrop-mask prints into the adapters of a PEFT model; layers None: of all of them."""

    def __init__(self, context, model, seed, p, layers=None):
        self.context, self.seed, self.p = context, seed, p
        self.keep = 1 - philox.threshold(p) / 65536  # the rate that the masks really have
        self.places = []  # (layer, module, n_in, InjectedMask)
        for name, layer in model.named_modules():
            if isinstance(layer, peft.tuners.lora.Linear):
                found = re.search(r"layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)$", name)
                if layers is not None and int(found[1]) not in layers:
                    continue
                layer.lora_dropout["default"] = InjectedMask()
                self.places.append((int(found[1]), found[2], layer.in_features, layer.lora_dropout["default"]))
        assert self.places

    def dump(self, layer, module, draw, instance, rows, cols):
        out = self.context.run("lodrop-mask", seed=self.seed, p=self.p, layer=layer, module=module, draw=draw,
                               instance=instance, rows=rows, cols=cols)
        assert len(out) == rows * cols
        return torch.frombuffer(bytearray(out), dtype=torch.uint8).reshape(rows, cols)

    def clear(self):
        """Drops nothing."""
        for *_, place in self.places:
            place.factor = None

    def set(self, draw, tokens, instance=0):
        """For the example visit of that number, with so many tokens fed; instance 1: a second pass."""
        for layer, module, n_in, place in self.places:
            place.factor = self.dump(layer, module, draw, instance, tokens, n_in).double() / self.keep


def backward(model, examples, draws, masks=(), instances=1):
    """Mean loss over the targets of all examples and over instances, its gradient left in the parameters. masks: Masks
    and their like."""
    model.zero_grad()
    targets = sum(len(tokens) - first_target for tokens, first_target in examples)
    total = 0.0
    for (tokens, first_target), draw in zip(examples, draws, strict=True):
        for instance in range(instances):
            for one in masks:
                one.set(draw, len(tokens) - 1, instance)
            loss = target_losses(model, tokens, first_target).sum() / targets / instances
            loss.backward()
            total += loss.item()
    return total


def gradients(model):
    return {name: p.grad for name, p in adapter_parameters(model).items()}
