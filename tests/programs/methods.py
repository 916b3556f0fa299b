#!/usr/bin/env -S python3 -B
"""What methods and options amount to: --print-config says it, lodrop.json keeps it, adapter_config.json has PEFT's part."""
import json

from harness import expect, finish, must, run, scratch, train, write_model, write_texts
from refusals import expect_refusal


def triple(position, pattern, p, compensation, **more):
    return {"position": position, "pattern": pattern, "p": p, "compensation": compensation, **more}


INPUT, DROPKEY = triple("lora_input", "element", 0.1, "inverted"), triple("attn_logit", "column", 0.1, "none")
MATRICES = [triple("lora_a", "column", 0.5, "none"), triple("lora_b", "column", 0.5, "none")]
HIDDENCUT = triple("ffn_output", "element", 0.1, "inverted")
DROPOUTS = [  # options, and what they amount to
    ([], []),
    (["--method", "lora-input-dropout"], [INPUT]),
    (["--method", "lora-input-dropout", "--rate", "0.2"], [{**INPUT, "p": 0.2}]),
    (["--method", "lora-input-dropout", "--lora-dropout", "0.3"], [{**INPUT, "p": 0.3}]),
    (["--lora-dropout", "0.1"], [INPUT]),
    (["--drop", "lora_input:element:0.1"], [INPUT]),
    (["--method", "lora-dropout"], MATRICES),
    (["--method", "lora-dropout", "--rate", "0.25"], [{**d, "p": 0.25} for d in MATRICES]),
    (["--drop", "lora_a:column:0.2:inverted:1", "--drop", "lora_b:column:0.3"],
     [triple("lora_a", "column", 0.2, "inverted", layers="1"), triple("lora_b", "column", 0.3, "none")]),
    (["--method", "dropkey"], [DROPKEY]),
    (["--method", "dropkey", "--rate", "0.5"], [{**DROPKEY, "p": 0.5}]),
    (["--method", "dropkey", "--lora-dropout", "0.1"], [DROPKEY, INPUT]),
    (["--method", "dropattention"], [triple("attn_weight", "column", 0.1, "renormalise-nograd")]),
    (["--method", "dropattention", "--mask-per-kv-head"],
     [triple("attn_weight", "column", 0.1, "renormalise-nograd", per_kv_head=True)]),
    (["--method", "hiddencut"], [HIDDENCUT]),
    (["--method", "hiddenkey-minus", "--rate", "0.2"],
     [{**DROPKEY, "p": 0.2, "layers": "later-half"}, {**HIDDENCUT, "p": 0.2, "layers": "later-half"}]),
    (["--method", "dropout"], [triple("hidden", "element", 0.1, "inference")]),
    (["--method", "variational"], [triple("hidden", "column", 0.1, "inverted")]),
    (["--drop", "ffn_middle:span:0.3:none:1", "--drop", "embedding:column:0.2", "--drop", "ffn_output:element:0.1"],
     [triple("ffn_middle", "span", 0.3, "none", layers="1"), triple("embedding", "column", 0.2, "inverted"),
      HIDDENCUT]),
    (["--drop", "attn_weight:element:0.1:renormalise:0", "--drop=attn_logit:span:0.2:none:later-half",
      "--mask-per-kv-head"],
     [triple("attn_weight", "element", 0.1, "renormalise", layers="0"),
      triple("attn_logit", "span", 0.2, "none", layers="later-half", per_kv_head=True)]),
    (["--drop", "attn_logit:column:0.1:none:0-0", "--drop", "attn_logit:column:0.3:none:1"],
     [{**DROPKEY, "layers": "0"}, {**DROPKEY, "p": 0.3, "layers": "1"}]),
]


def check(options, dropouts, model, data, output):
    what = " ".join(options) or "no options"
    config = json.loads(must(train(model, data, output, *options, "--print-config")).stdout)
    expect(f"{what}: --print-config", config["drops"] == dropouts, config["drops"])
    expect(f"{what}: --print-config writes nothing", not output.exists())
    must(train(model, data, output, *options, "--max-steps", 1))
    recipe = json.loads((output / "lodrop.json").read_text())
    expect(f"{what}: lodrop.json", recipe["dropouts"] == dropouts, recipe)
    rates = [d["p"] for d in dropouts if d["position"] == "lora_input"] or [0]
    config = json.loads((output / "adapter_config.json").read_text())
    expect(f"{what}: PEFT's lora_dropout", [config["lora_dropout"]] == rates, config)


def check_models_own(folder, data):
    """attention_dropout of config.json is applied when asked for; otherwise a line says that it is not."""
    model = write_model(folder / "dropping")
    path = model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "attention_dropout": 0.25}))
    own, told = triple("attn_weight", "element", 0.25, "inverted"), "attention_dropout of 0.25 is not applied"
    for name, options, dropouts, silent in [
        ("default", [], [], False), ("off", ["--model-dropout", "off"], [], False),
        ("config", ["--model-dropout", "config"], [own], True),
        ("config and a method", ["--model-dropout", "config", "--method", "hiddencut"], [HIDDENCUT, own], True),
    ]:
        output = folder / f"own {name}"
        config = json.loads(must(train(model, data, output, *options, "--print-config")).stdout)
        expect(f"model's own dropout, {name}: --print-config", config["drops"] == dropouts, config["drops"])
        done = must(train(model, data, output, *options, "--max-steps", 1))
        expect(f"model's own dropout, {name}: said", (told in done.stderr) != silent, done.stderr)
        recipe = json.loads((output / "lodrop.json").read_text())
        expect(f"model's own dropout, {name}: lodrop.json", recipe["dropouts"] == dropouts, recipe)


LATER = [{**DROPKEY, "layers": "later-half"}, {**HIDDENCUT, "layers": "later-half"}]
CONSISTENCIES = [  # options, what they drop, and how two passes are held together
    (["--method", "hiddenkey"], LATER, {"consistency": "kl", "consistency_weight": 0.1}),
    (["--method", "hiddenkey", "--consistency-weight", "2"], LATER, {"consistency": "kl", "consistency_weight": 2}),
    (["--method", "hiddenkey", "--consistency", "r-drop"], LATER, {"consistency": "r-drop", "consistency_weight": 0.1}),
    (["--method", "r-drop", "--rate", "0.2"], [triple("hidden", "element", 0.2, "inverted")],
     {"consistency": "r-drop", "consistency_weight": 0.1}),
    (["--method", "hiddencut", "--consistency", "js", "--consistency-weight", "0"], [HIDDENCUT],
     {"consistency": "js", "consistency_weight": 0}),
    (["--method", "hiddenkey-minus"], LATER, {}),
]
UNSET = {"consistency": "", "consistency_weight": 0.1}


def check_consistency(options, dropouts, consistency, model, data, output):
    what, names = " ".join(options), ["consistency", "consistency_weight"]
    check(options, dropouts, model, data, output)
    recipe = json.loads((output / "lodrop.json").read_text())
    expect(f"{what}: lodrop.json", {name: recipe[name] for name in names if name in recipe} == consistency, recipe)
    config = json.loads(must(train(model, data, output, *options, "--print-config")).stdout)
    expect(f"{what}: --print-config", {name: config[name] for name in names} == (consistency or UNSET), config)
    line = json.loads((output / "metrics.jsonl").read_text().splitlines()[0])
    expect(f"{what}: divergence in metrics.jsonl", line.get("divergence", 0) > 0 if consistency else
           "divergence" not in line, line)


INSTANCES = [  # options, and instances; the field is left out where there is one
    (["--method", "lora-dropout"], 4), (["--method", "lora-dropout", "--instances", "1"], 1),
    (["--method", "lora-dropout", "--instances", "7"], 7), (["--method", "dropkey"], 1),
    (["--method", "dropkey", "--instances", "2"], 2), (["--drop", "lora_a:column:0.5"], 1), ([], 1),
]


def check_instances(options, instances, model, data, output):
    what = " ".join(options) or "no options"
    config = json.loads(must(train(model, data, output, *options, "--print-config")).stdout)
    expect(f"{what}: instances of --print-config", config["instances"] == instances, config)
    must(train(model, data, output, *options, "--max-steps", 1))
    recipe = json.loads((output / "lodrop.json").read_text())
    expect(f"{what}: instances of lodrop.json", recipe.get("instances", 1) == instances, recipe)
    expect(f"{what}: one instance is not written", instances > 1 or "instances" not in recipe, recipe)


def check_alpha(folder, model, data):
    """lora_alpha has the expected masks in it, with a pattern where layers differ; lodrop.json has what was trained."""
    modules = {"self_attn": ["q_proj", "v_proj"]}
    for name, options, alpha, pattern in [
        ("default", ["--method", "lora-dropout"], 4, {}),
        ("rates", ["--drop", "lora_a:column:0.25", "--drop", "lora_b:column:0.5"], 6, {}),
        ("inverted", ["--drop", "lora_a:column:0.25:inverted", "--drop", "lora_b:column:0.5"], 8, {}),
        ("a layer", ["--drop", "lora_b:column:0.5:none:1"], 16, {1: 8}),
        ("the only layer", ["--drop", "lora_b:column:0.5:none:1", "--layers-to-transform", "1"], 8, {}),
    ]:
        output = folder / f"alpha {name}"
        must(train(model, data, output, *options, "--max-steps", 1, "--init-b", "random"))
        config, recipe = (json.loads((output / f"{file}.json").read_text()) for file in ("adapter_config", "lodrop"))
        wanted = {f"model.layers.{layer}.{block}.{module}": value for layer, value in pattern.items()
                  for block, names in modules.items() for module in names}
        expect(f"alpha, {name}: adapter_config.json", config["lora_alpha"] == alpha and
               config["alpha_pattern"] == wanted, config)
        expect(f"alpha, {name}: lodrop.json", recipe["lora_alpha"] == 16, recipe)
        again = folder / f"alpha {name} again"
        drops = options[:options.index("--layers-to-transform")] if "--layers-to-transform" in options else options
        must(train(model, data, again, "--adapter", output, *drops, "--max-steps", 1, "--learning-rate", 0))
        recipe = json.loads((again / "lodrop.json").read_text())
        expect(f"alpha, {name}: a run that continues it", recipe["lora_alpha"] == 16, recipe)
        first, second = (must(run("lodrop-eval", "--model", model, "--data", data, "--adapter", adapter)).stdout
                         for adapter in (output, again))
        expect(f"alpha, {name}: what continues computes the same", first == second, f"{first} {second}")
        for others in (), ("--method", "lora-dropout", "--rate", "0.3"):
            done = train(model, data, folder / "refused", "--adapter", output, *others)
            expect_refusal(f"alpha, {name}: continued with {others}", done, ["lora_", "scales what it computes"])


def check_form(folder, model, data):
    output = folder / "form"
    must(train(model, data, output, "--form", "adalora", "--orthogonality-weight", "0.5", "--max-steps", 2))
    recipe = json.loads((output / "lodrop.json").read_text())
    lines = (output / "metrics.jsonl").read_text().splitlines()
    expect("form: lodrop.json", (recipe["form"], recipe["orthogonality_weight"]) == ("adalora", 0.5), recipe)
    expect("form: orthogonality in metrics.jsonl", all(json.loads(line)["orthogonality"] > 0 for line in lines), lines)
    config = json.loads((output / "adapter_config.json").read_text())
    expect("form: a LoRA adapter to PEFT", config["peft_type"] == "LORA", config)


def check_layers(folder, model, data):
    """PEFT's list of layers; --adapter takes it over."""
    first, second = folder / "layers 1", folder / "layers 2"
    must(train(model, data, first, "--layers-to-transform", "later-half", "--max-steps", 1))
    must(train(model, data, second, "--adapter", first, "--max-steps", 1))
    for output in first, second:
        config = json.loads((output / "adapter_config.json").read_text())
        expect(f"{output.name}: layers_to_transform", config["layers_to_transform"] == [1], config)


def check_layers_of_input(model, data, output):
    """PEFT has no word for other rates in other layers."""
    options = ["--drop", "lora_input:element:0.1:inverted:1"]
    must(train(model, data, output, *options, "--max-steps", 1))
    config = json.loads((output / "adapter_config.json").read_text())
    recipe = json.loads((output / "lodrop.json").read_text())
    expect("input dropout in a layer: lodrop.json", recipe["dropouts"] == [{**INPUT, "layers": "1"}], recipe)
    expect("input dropout in a layer: adapter_config.json", config["lora_dropout"] == 0, config)


folder = scratch()
MODEL, DATA = write_model(folder / "model"), write_texts(folder / "texts.jsonl", count=10)
for number, (options, dropouts) in enumerate(DROPOUTS):
    check(options, dropouts, MODEL, DATA, folder / f"output{number}")
for number, (options, instances) in enumerate(INSTANCES):
    check_instances(options, instances, MODEL, DATA, folder / f"instances{number}")
check_alpha(folder, MODEL, DATA)
check_layers(folder, MODEL, DATA)
check_form(folder, MODEL, DATA)
check_layers_of_input(MODEL, DATA, folder / "layers")
check_models_own(folder, DATA)
for number, (options, dropouts, consistency) in enumerate(CONSISTENCIES):
    check_consistency(options, dropouts, consistency, MODEL, DATA, folder / f"consistency{number}")
finish()
