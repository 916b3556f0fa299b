"""Adapter folders: PEFT loads what we write, and we load what PEFT writes."""
import json

import peft
import torch
from safetensors.torch import load_file

from common import assert_relative, text_examples
from models import sentences, write_adapter, write_model
from reference import load_adapted, logits, mean_loss
from stories import MODEL, first_stories


def compare(context, model, adapter, data, examples, max_length):
    """Logits of every token and the loss, with the adapter, without dropout."""
    dump = context.folder("logits") / "logits.safetensors"
    options = {"model": model, "data": data, "max_length": max_length}
    got = context.evaluate(adapter=adapter, dump_logits=dump, **options)
    reference = load_adapted(model, adapter).eval()
    worst, dumped = 0.0, load_file(dump)
    for i, (tokens, _) in enumerate(examples):
        with torch.no_grad():
            want = logits(reference, tokens)
        worst = max(worst, (dumped[f"example.{i}"].double() - want).abs().max().item())
    assert worst <= 1e-4, f"logits are off by {worst:.3g}"
    assert_relative("loss", got["loss"], mean_loss(reference, examples)[0], 1e-6)
    without = context.evaluate(**options)["loss"]
    assert abs(got["loss"] - without) > 1e-3, f"the adapter changes nothing: {got['loss']}, without it {without}"
    return got["loss"], f"loss {got['loss']:.6f}, {without:.6f} without the adapter; logits off by {worst:.1e} at most"


def check_ours(context, model, data, examples, max_length, **options):
    """An adapter that has been trained here; the trainer's own last evaluation knows nothing of the folder it wrote."""
    adapter, metrics = context.train(model=model, data=data, eval_data=data, max_length=max_length, max_steps=5,
                                     learning_rate=0.01, lora_dropout=0.1, **options)
    config = peft.PeftConfig.from_pretrained(adapter)
    assert config.lora_dropout == 0.1 and config.r == options["lora_r"], f"{config}"
    loss, detail = compare(context, model, adapter, data, examples, max_length)
    assert_relative("held-out loss after the last step", metrics[-1]["eval_loss"], loss, 1e-6)
    return detail


def random_case(context):
    model = write_model(context, "random")
    data, examples = text_examples(context, model, sentences(seed=41, count=5), 64)
    return {"model": model, "data": data, "examples": examples, "max_length": 64}


def test_ours_on_stories260k(context):
    model, stories = context.shared(MODEL), [story[:300] for story in first_stories(context, 5)]
    data, examples = text_examples(context, model, stories, 96)
    return check_ours(context, model, data, examples, 96, lora_r=8, target_modules="all-linear")


def test_ours_of_some_modules(context):
    return check_ours(context, **random_case(context), lora_r=3, lora_alpha=7.5, target_modules="v_proj,up_proj")


def test_ours_with_rslora(context):
    return check_ours(context, **random_case(context), lora_r=12, use_rslora=True, target_modules="all-linear")


def test_ours_with_dropkey(context):
    return check_ours(context, **random_case(context), lora_r=4, method="dropkey", target_modules="all-linear")


def test_ours_is_the_same_after_peft_saved_it(context):
    """Loaded by PEFT and saved again, it is still the same adapter to us."""
    case = random_case(context)
    adapter, _ = context.train(model=case["model"], data=case["data"], max_steps=5, learning_rate=0.01, lora_r=4)
    again = context.folder("saved-again")
    load_adapted(case["model"], adapter).float().save_pretrained(again)
    losses = [context.evaluate(model=case["model"], data=case["data"], adapter=a)["loss"] for a in (adapter, again)]
    assert losses[0] == losses[1], f"loss {losses[0]}, after PEFT saved it {losses[1]}"
    return f"loss {losses[0]}"


def check_peft(context, dtype=torch.float32, **settings):
    case = random_case(context)
    adapter = write_adapter(context, case["model"], dtype, **settings)
    return compare(context, adapter=adapter, **case)[1]


def test_peft_with_a_list_of_modules(context):
    return check_peft(context, target_modules=["k_proj", "down_proj", "o_proj"], lora_dropout=0.05)


def test_peft_with_all_linear_modules(context):
    """PEFT writes the modules of a small model with their whole paths."""
    return check_peft(context, target_modules="all-linear")


def test_peft_with_rslora_in_bf16(context):
    return check_peft(context, torch.bfloat16, target_modules=["q_proj", "v_proj"], use_rslora=True, r=5)


def test_peft_with_its_defaults(context):
    """All that a user need not say: rank 8, alpha 8, q_proj and v_proj."""
    case = random_case(context)
    adapter = write_adapter(context, case["model"], lora_alpha=peft.LoraConfig().lora_alpha)
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert sorted(config["target_modules"]) == ["q_proj", "v_proj"] and config["r"] == config["lora_alpha"] == 8
    return compare(context, adapter=adapter, **case)[1]
