"""Adapters trained with LoRA Dropout: evaluated as their mean, which PEFT loads, and as ensembles over masks."""
import types

import peft
import torch
from safetensors.torch import load_file

import philox
from attention import Dropped
from common import assert_relative, text_examples
from matrices import MatrixMasks
from models import sentences, write_adapter, write_model
from reference import load_adapted, logits, mean_loss
from stories import MODEL, first_stories
from test_adapter import compare, random_case
from test_choices import check as check_choices
from test_choices import random_prompts
from test_lora_dropout import drops, matrices

SEED = 2**40 + 3


class Ensemble:
    """Predicts what N instances predict on average; stands in for a model of transformers."""

    def __init__(self, model, masks, instances, of):
        self.model, self.masks, self.instances, self.of = model, masks, instances, of

    def __call__(self, **inputs):
        each = []
        for instance in range(self.instances):
            self.masks.set(None, None, instance)
            each.append(self.model(**inputs).logits)
        each = torch.stack(each)
        if self.of == "logits":
            return types.SimpleNamespace(logits=each.mean(0))
        return types.SimpleNamespace(logits=each.softmax(-1).mean(0).log())


def reference(model, adapter, dropped, instances, of, expected=True):
    loaded = load_adapted(model, adapter).eval()
    return Ensemble(loaded, MatrixMasks(loaded, SEED, dropped, philox.DOMAIN_EVAL, expected), instances, of)


def trained(context, case, **options):
    options = {"max_steps": 4, "learning_rate": 0.01, "lora_r": 4, "target_modules": "all-linear", "init_b": "random",
               **options}
    adapter, metrics = context.train(model=case["model"], data=case["data"], eval_data=case["data"],
                                     max_length=case["max_length"], **options)
    return adapter, metrics[-1]["eval_loss"]


# --- The mean adapter ---


def check_mean(context, case, alpha, **options):
    """What PEFT loads, what lodrop-eval prints and what the trainer itself evaluated are one."""
    adapter, held_out = trained(context, case, **options)
    config = peft.PeftConfig.from_pretrained(adapter)
    assert config.lora_alpha == alpha, f"{config}"
    loss, detail = compare(context, adapter=adapter, **case)
    assert_relative("held-out loss after the last step", held_out, loss, 1e-6)
    return detail


def test_mean(context):
    return check_mean(context, random_case(context), 4, method="lora-dropout")


def test_mean_of_a_layer(context):
    """PEFT takes each module's own alpha from a pattern."""
    return check_mean(context, random_case(context), 16, drop=drops(0.3, "none", ":1"))


def test_mean_of_inverted(context):
    return check_mean(context, random_case(context), 16, drop=drops(0.3, "inverted"))


def test_mean_with_rslora_in_some_layers(context):
    return check_mean(context, random_case(context), 4, method="lora-dropout", use_rslora=True,
                      layers_to_transform="later-half")


def test_layers_of_peft(context):
    """An adapter that PEFT wrote for some layers."""
    case = random_case(context)
    adapter = write_adapter(context, case["model"], target_modules=["q_proj", "up_proj"], layers_to_transform=[1])
    return compare(context, adapter=adapter, **case)[1]


# --- Ensembles ---


def check(context, case, adapter, dropped, of="logits", instances=4, expected=True, **options):
    model, folder = case["model"], context.folder("logits")
    options = {"model": model, "data": case["data"], "max_length": case["max_length"], "adapter": adapter,
               "ensemble": instances, "ensemble_of": of, "seed": SEED, **options}
    got = context.evaluate(dump_logits=folder / "logits.safetensors", **options)
    ensemble, worst = reference(model, adapter, dropped, instances, of, expected), 0.0
    assert_relative("loss", got["loss"], mean_loss(ensemble, case["examples"])[0], 1e-6)
    dumped = load_file(folder / "logits.safetensors")
    for i, (tokens, _) in enumerate(case["examples"]):
        with torch.no_grad():
            worst = max(worst, (dumped[f"example.{i}"].double() - logits(ensemble, tokens)).abs().max().item())
    assert worst <= 1e-4, f"logits are off by {worst:.3g}"
    one = context.evaluate(**{**options, "ensemble": 1})["loss"]
    mean = context.evaluate(model=model, data=case["data"], max_length=case["max_length"], adapter=adapter)["loss"]
    assert abs(one - got["loss"]) > 1e-4 and abs(mean - got["loss"]) > 1e-5, f"{got['loss']}: {one} alone, {mean}"
    return f"loss {got['loss']:.6f}, logits off by {worst:.1e}; of one instance {one:.6f}, of the adapter {mean:.6f}"


def test_ensemble_of_logits(context):
    case = random_case(context)
    return check(context, case, trained(context, case, method="lora-dropout")[0], matrices())


def test_ensemble_of_probabilities(context):
    case = random_case(context)
    return check(context, case, trained(context, case, method="lora-dropout")[0], matrices(), of="probabilities")


def test_ensemble_of_the_later_half(context):
    """The first layer runs once. Dropout of other places is of training alone."""
    case = random_case(context)
    adapter, _ = trained(context, case, drop=[*drops(0.3, "inverted", ":later-half"), "embedding:element:0.1",
                                                  "attn_weight:element:0.3", "lora_input:element:0.3:inverted:0"])
    return check(context, case, adapter, matrices(0.3, layers=[1]), of="probabilities", instances=7)


def test_ensemble_of_an_adapter_trained_without(context):
    """Dropout at test only, with a dropout of its input in training."""
    case = random_case(context)
    adapter, _ = trained(context, case, lora_dropout=0.1)
    details = [check(context, case, adapter, matrices(0.4), instances=3, expected=compensation == "inverted",
                     drop=drops(0.4, compensation)) for compensation in ("none", "inverted")]
    return details[1]


def test_ensemble_with_another_rate(context):
    """In the place of what the adapter was trained with."""
    case = random_case(context)
    adapter, _ = trained(context, case, drop=drops(0.3, "inverted"))
    dropped = [Dropped("lora_b", "column", "inverted", 0.6)]
    return check(context, case, adapter, dropped, drop=["lora_b:column:0.6:inverted"])


def test_ensemble_keeps_the_mean(context):
    """Of an adapter trained without compensation: what drops in place of its own masks, or in a part of it, varies
    around it."""
    case = random_case(context)
    adapter, _ = trained(context, case, drop=drops(0.3, "none"))
    for dropped, texts in [([Dropped("lora_a", "column", "none", 0.5)], ["lora_a:column:0.5"]),
                           (matrices(0.6, "inverted"), drops(0.6, "inverted")),
                           (matrices(0.2, layers=[0]), drops(0.2, "none", ":0"))]:
        detail = check(context, case, adapter, dropped, instances=3, drop=texts)
    return detail


def test_ensemble_of_stories260k(context):
    model, stories = context.shared(MODEL), [story[:300] for story in first_stories(context, 4)]
    data, examples = text_examples(context, model, stories, 96)
    case = {"model": model, "data": data, "examples": examples, "max_length": 96}
    return check(context, case, trained(context, case, method="lora-dropout")[0], matrices())


def check_ensemble_of_choices(context, of, dropped=None, **options):
    model = write_model(context, "random")
    data, examples = text_examples(context, model, sentences(seed=41, count=5), 64)
    case = {"model": model, "data": data, "examples": examples, "max_length": 64}
    adapter, _ = trained(context, case, **(options or {"method": "lora-dropout"}))
    ensemble = reference(model, adapter, dropped or matrices(), 3, of)
    return check_choices(context, model, ensemble, list(random_prompts(12)), adapter=adapter, ensemble=3,
                         ensemble_of=of, seed=SEED)


def test_choices_by_logits(context):
    return check_ensemble_of_choices(context, "logits")


def test_choices_by_probabilities(context):
    return check_ensemble_of_choices(context, "probabilities")


def test_choices_of_the_later_half(context):
    """The first layer runs once for all choices and instances."""
    return check_ensemble_of_choices(context, "logits", matrices(0.3, layers=[1]),
                                     drop=drops(0.3, "none", ":later-half"))
