#!/usr/bin/env -S python3 -B
"""Bad adapters, and what does not go together with an adapter: one line with file, field and reason each."""
import json

from harness import finish, must, read_safetensors, resume, train, write_safetensors
from refusals import DAMAGED, USAGE, Case, expect_no_output, expect_refusal


def check_adapters(numbers):
    case = Case(next(numbers))
    must(case.train())
    config, weights = case.output / "adapter_config.json", case.output / "adapter_model.safetensors"
    good_config, good_weights = json.loads(config.read_text()), weights.read_bytes()
    some = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"

    def refused(what, words):
        expect_refusal(what, case.evaluate("--adapter", case.output), words)
        again = case.folder / "again"
        expect_refusal(f"{what}, trained", train(case.model, case.data, again, "--adapter", case.output), words)
        expect_no_output(f"{what}, trained", again)

    for what, change, words in [
        ("adapter of another method", {"peft_type": "LOHA"}, ["peft_type", "LOHA"]),
        ("adapter with a feature we lack", {"use_dora": True}, ["use_dora", "not supported"]),
        ("adapter of rank 0", {"r": 0}, ["r", "is 0"]),
        ("adapter of another rank", {"r": 4}, ["adapter_model.safetensors", "lora_A", "shape"]),
        ("adapter in layers with a gap", {"layers_to_transform": [0, 2]}, ["layers_to_transform", "without gaps"]),
        ("adapter in a layer of no number", {"layers_to_transform": "1"}, ["layers_to_transform", "list of layers"]),
        ("adapter in a layer beyond all", {"layers_to_transform": 1024}, ["layers_to_transform", "list of layers"]),
        ("adapter with an unknown module", {"target_modules": ["c_attn"]}, ["target_modules", "c_attn"]),
    ]:
        config.write_text(json.dumps({**good_config, **change}))
        refused(what, ["adapter_", *words])
    config.write_text(json.dumps(good_config))
    weights.write_bytes(good_weights[:-4])
    refused("truncated adapter", ["adapter_model.safetensors", "data_offsets"])
    header, data = read_safetensors(weights)
    header["stray"] = header.pop(some)
    write_safetensors(weights, header, data + bytes(4))
    refused("adapter with a tensor missing", ["adapter_model.safetensors", some, "missing"])


def check_forms(numbers):
    """The product of L and Q does not tell them apart: only a checkpoint goes on with them."""
    case = Case(next(numbers))
    must(case.train("--form", "adalora"))
    plain, again = case.folder / "plain", case.folder / "again"
    must(train(case.model, case.data, plain, "--max-steps", 1))
    form = ["--form", "adalora"]
    for what, adapter, options in [("its form", case.output, []), ("its form, asked for", case.output, form),
                                   ("another form", plain, form)]:
        done = train(case.model, case.data, again, "--adapter", adapter, *options)
        expect_refusal(f"an adapter to continue in {what}", done, [str(adapter), "form", "from a checkpoint only"])
        expect_no_output(f"an adapter to continue in {what}", again)
    case = Case(next(numbers))
    must(case.train("--form", "adalora", "--stop-after", 1))
    moments = case.output / "checkpoint" / "moments.safetensors"
    header, data = read_safetensors(moments)
    header["value"] = header.pop("values")
    write_safetensors(moments, header, data)
    expect_refusal("a checkpoint without P, L and Q", resume(case.output), ["moments.safetensors", "values", "missing"])


def check_ensembles(numbers):
    """What lodrop-eval does not take together."""
    case = Case(next(numbers))
    must(case.train())
    adapter, drop = ["--adapter", case.output], ["--drop", "lora_a:column:0.5"]
    ensemble = [*adapter, "--ensemble", "2"]
    for what, options, status, words in [
        ("of no adapter", ["--ensemble", "2"], USAGE, ["--ensemble", "needs --adapter"]),
        ("of no instances", [*adapter, "--ensemble", "0", *drop], DAMAGED, ["--ensemble", "is 0", "from 1 to 64"]),
        ("of too many", [*adapter, "--ensemble", "65", *drop], DAMAGED, ["--ensemble", "is 65"]),
        ("of no masks", ensemble, DAMAGED, ["--ensemble", "trained without dropout of A or B", "--drop"]),
        ("of votes", [*ensemble, *drop, "--ensemble-of", "votes"], DAMAGED, ["--ensemble-of", "'votes'"]),
        ("of other dropouts", [*ensemble, "--drop", "attn_logit:column:0.1"], DAMAGED, ["--drop", "lora_b only"]),
        ("of elements", [*ensemble, "--drop", "lora_a:element:0.1"], DAMAGED, ["lodrop-eval", "--drop", "only column"]),
        ("with a dropout twice", [*ensemble, *drop, *drop], DAMAGED, ["lodrop-eval", "--drop", "both on A"]),
        ("in layers beyond the model", [*ensemble, "--drop", "lora_a:column:0.5:none:2"], DAMAGED,
         ["lodrop-eval", "--drop", "layers 0 to 1 only"]),
        *((f"of one, with {flag}", [*adapter, flag, value], USAGE, [flag, "needs --ensemble"])
          for flag, value in [("--seed", "1"), ("--ensemble-of", "logits"), drop]),
    ]:
        expect_refusal(f"ensemble {what}", case.evaluate(*options), words, status)
    must(train(case.model, case.data, case.folder / "one layer", "--layers-to-transform", "0", "--max-steps", 1))
    one = ["--adapter", case.folder / "one layer"]
    done = case.evaluate(*one, "--ensemble", "2", "--drop", "lora_a:column:0.5:none:1")
    expect_refusal("ensemble in a layer without adapters", done, ["--drop", "none of its layers has adapters"])
    done = train(case.model, case.data, case.folder / "again", *one, "--method", "lora-dropout")
    expect_refusal("an adapter that new masks would scale", done, ["--method", "scales what --adapter computes"])
    must(train(case.model, case.data, case.folder / "classic", "--method", "dropout", "--max-steps", 1))
    classic = ["--adapter", case.folder / "classic"]
    done = train(case.model, case.data, case.folder / "again", *classic)
    expect_refusal("an adapter in a model that was scaled", done, ["hidden:element:0.1:inference", "scales what it"])
    must(train(case.model, case.data, case.folder / "again", *classic, "--method", "dropout", "--max-steps", 1))
    (case.output / "lodrop.json").unlink()
    config = case.output / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "alpha_pattern": {"q_proj": 4}}))
    done = case.evaluate(*adapter)
    expect_refusal("a pattern of alphas that nothing explains", done, ["alpha_pattern", "not supported"])


def check_recipes(numbers):
    """lodrop.json, by which lodrop-eval scales."""
    case = Case(next(numbers))
    must(case.train())
    recipe, entry = case.output / "lodrop.json", {"position": "hidden", "pattern": "element", "p": 0.1}
    good = json.loads(recipe.read_text())
    for what, change, words in [
        ("recipe of another compensation", {"compensation": "none"}, ["dropouts", "does not take none"]),
        ("recipe of layers beyond the model", {"compensation": "inverted", "layers": "1-2"},
         ["dropouts", "layers 0 to 1 only"]),
    ]:
        recipe.write_text(json.dumps({**good, "dropouts": [{**entry, **change}]}))
        expect_refusal(what, case.evaluate("--adapter", case.output), ["lodrop.json", *words])
    for what, change, words in [
        ("recipe of another consistency", {"consistency": "l2"}, ["consistency", "'l2'"]),
        ("recipe of a consistency without weight", {"consistency": "kl"}, ["consistency_weight", "missing"]),
        ("recipe of another form", {"form": "lokr"}, ["form", '"lokr"', '"adalora"']),
        ("recipe of a form without weight", {"form": "adalora"}, ["orthogonality_weight", "missing"]),
        ("recipe of no instances", {"instances": 0}, ["instances", "is 0"]),
        ("recipe of a weight below 0", {"consistency": "js", "consistency_weight": -1}, ["consistency_weight", "-1"]),
    ]:
        recipe.write_text(json.dumps({**good, **change}))
        expect_refusal(what, case.evaluate("--adapter", case.output), ["lodrop.json", *words])


numbers = iter(range(1000))
check_adapters(numbers)
check_recipes(numbers)
check_ensembles(numbers)
check_forms(numbers)
finish()
