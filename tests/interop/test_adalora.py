"""The form of AdaLoRA, dW = s P L Q with its orthogonality terms: loss, all gradients, whole runs, against PyTorch."""
import functools

import peft
import torch
from safetensors.torch import load_file

from common import ALL_MODULES, assert_close, assert_gradients, assert_relative, text_examples
from models import sentences, write_model
from philox import epoch_order
from reference import backward, load_adapted
from stories import MODEL, first_stories
from test_adapter import compare
from test_gradients import SEED, drop_masks, random_init
from test_lora_dropout import matrices
from test_training import reference_steps


class Form(torch.nn.Module):
    """In the place of a module's lora_A: L Q, both trained."""

    def __init__(self, diagonal, q):
        super().__init__()
        self.l, self.weight = torch.nn.Parameter(diagonal), torch.nn.Parameter(q)

    def forward(self, x):
        return torch.nn.functional.linear(x, self.l[:, None] * self.weight)


def load_split(model, checkpoint):
    """The model with P, L and Q as they lie in a checkpoint, module by module."""
    loaded, at = load_adapted(model, checkpoint), 0
    values = load_file(checkpoint / "moments.safetensors")["values"].double()
    linear = [m for _, m in loaded.named_modules() if isinstance(m, peft.tuners.lora.Linear)]
    forms = []

    def take(*shape):
        nonlocal at
        at += torch.Size(shape).numel()
        return values[at - torch.Size(shape).numel():at].reshape(shape)

    for module in linear:  # transformers has them in our order
        a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
        q, p, diagonal = take(*a.shape), take(*b.T.shape).T, take(a.shape[0])
        assert (p == b).all() and torch.equal((diagonal[:, None] * q).float(), a.float()), "not what the adapter holds"
        module.lora_A["default"] = Form(diagonal.clone(), q.clone())
        forms.append((module.lora_A["default"], module.lora_B["default"].weight))
    assert at == len(values)
    return loaded, forms


def orthogonality(forms):
    def apart(x):
        return (x @ x.T - torch.eye(len(x), dtype=x.dtype)).square().sum()
    return sum(apart(form.weight) + apart(p.T) for form, p in forms)


def backward_with_terms(forms, weight, instances, model, examples, draws, masks):
    loss = backward(model, examples, draws, masks, instances)
    (weight * orthogonality(forms)).backward()
    return loss


def start(context, model, data, **options):
    """A run that stands after its first step, which changed nothing: its checkpoint, metrics and gradients."""
    dump = context.folder("gradients") / "gradients.safetensors"
    output, metrics = context.train(model=model, data=data, form="adalora", dump_gradients=dump, max_steps=2,
                                    stop_after=1, **{**options, "learning_rate": 0})
    return output / "checkpoint", metrics[0], load_file(dump)


def check_step(context, model, data, examples, weight=0.1, dropped=(), instances=1, **options):
    options = {"seed": SEED, "orthogonality_weight": weight, "batch_size": 7, "max_length": 64, **random_init(),
               **({"instances": instances} if instances > 1 else {}), **options}
    checkpoint, metrics, got = start(context, model, data, **options)
    reference, forms = load_split(model, checkpoint)
    visited = epoch_order(SEED, 0, len(examples))[:options["batch_size"] * options.get("grad_accum", 1)]
    loss = backward_with_terms(forms, weight, instances, reference, [examples[i] for i in visited],
                               range(len(visited)), drop_masks(reference, SEED, dropped))
    assert_relative("loss", metrics["loss"], loss, 1e-6)
    assert_relative("orthogonality", metrics["orthogonality"], orthogonality(forms).item(), 1e-6)
    got.pop("loss")
    of_l, names = got.pop("lora_E"), sorted(got)
    want = {}
    for name, module in reference.named_modules():
        if isinstance(module, peft.tuners.lora.Linear):
            want[f"{name}.lora_A.weight"] = module.lora_A["default"].weight.grad
            want[f"{name}.lora_B.weight"] = module.lora_B["default"].weight.grad
    assert names == sorted(want), (names, sorted(want))
    worst = max(assert_gradients(got, want, 1e-5),
                assert_gradients({"L": of_l}, {"L": torch.stack([form.l.grad for form, _ in forms])}, 1e-5))
    return f"loss {loss:.6f}, terms {metrics['orthogonality']:.3f}, gradients off by {worst:.1e} of the norm at most"


def random_case(context):
    model = write_model(context, "random")
    data, examples = text_examples(context, model, sentences(seed=5, count=7, longest=50), 64)
    return model, data, examples


def test_without_dropout(context):
    return check_step(context, *random_case(context))


def test_lora_dropout(context):
    """Rows of P and columns of Q; L is not dropped."""
    return check_step(context, *random_case(context), dropped=matrices(), instances=4, method="lora-dropout")


def test_of_the_later_half(context):
    """Adapters in one layer of two, the rest run once."""
    return check_step(context, *random_case(context), dropped=matrices(0.3, layers=[1]), instances=3, batch_size=3,
                      grad_accum=2, layers_to_transform="later-half",
                      drop=["lora_a:column:0.3", "lora_b:column:0.3"])


def test_of_a_large_weight(context):
    return check_step(context, *random_case(context), weight=5, lora_r=3, batch_size=2, grad_accum=3, recompute=True,
                      target_modules="v_proj,o_proj,down_proj")


def test_without_terms(context):
    return check_step(context, *random_case(context), weight=0)


def test_stories260k(context):
    model, stories = context.shared(MODEL), [story[:300] for story in first_stories(context, 4)]
    data, examples = text_examples(context, model, stories, 150)
    return check_step(context, model, data, examples, dropped=matrices(), instances=4, method="lora-dropout",
                      batch_size=4, max_length=150)


def test_first_values(context):
    """L is 0, P and Q are not: nothing is added to the model yet, and L alone gets a gradient from the loss."""
    model, data, _ = random_case(context)
    checkpoint, _, got = start(context, model, data, lora_r=4, target_modules=",".join(ALL_MODULES),
                               orthogonality_weight=0)
    _, forms = load_split(model, checkpoint)
    assert all(not form.l.any() and form.weight.all() and p.all() for form, p in forms)
    assert got.pop("lora_E").all()
    assert not any(value.any() for name, value in got.items() if name != "loss")


def test_trains_stories260k(context):
    """20 steps of P, L and Q; the adapter that is written has their product."""
    model, stories = context.shared(MODEL), first_stories(context, 6)
    data, examples = text_examples(context, model, stories, 100)
    options = {"lora_r": 4, "target_modules": "all-linear", "init_b": "random", "max_length": 100, "batch_size": 2,
               "seed": 5, "learning_rate": 1e-3, "orthogonality_weight": 0.01}
    checkpoint, _, _ = start(context, model, data, **options)
    reference, forms = load_split(model, checkpoint)
    adapter, metrics = context.train(model=model, data=data, form="adalora", max_steps=20, **options)
    step = functools.partial(backward_with_terms, forms, 0.01, 1)
    for got, (loss, _, norm) in zip(metrics, reference_steps(reference, [], examples, options, step), strict=True):
        assert_close(f"step {got['step']}: loss", got["loss"], loss, 1e-4)
        assert_relative(f"step {got['step']}: gradient norm", got["grad_norm"], norm, 1e-3)
    assert metrics[-1]["loss"] < metrics[0]["loss"] - 0.01, "nothing was learnt"
    return compare(context, model, adapter, data, examples, 100)[1]
