#!/usr/bin/env -S python3 -B
"""lodrop-eval and lodrop-info as a user runs them: the known loss of a known model, the same digits on every SIMD
instruction set, the adapter that was just trained, JSON that parses."""
import json
import math

from harness import *

STORIES_LOSS, STORIES_BOUND = 1.23857, 0.00003  # of stories260k on the first 50 stories, in nats a target
STORIES, PARTING = 50, "<|endoftext|>"


def evaluate(model, data, *options, **how):
    """What lodrop-eval --json prints, as text: digits are compared."""
    return must(run("lodrop-eval", "--model", model, "--data", data, "--json", *options, **how)).stdout


def loss_of(printed):
    return json.loads(printed)["loss"]


def check_same_digits(name, isas, printed, *where):
    for isa in isas:
        expect(f"{name}: {isa} prints the same digits", evaluate(*where, isa=isa) == printed, printed)
    for threads in (1, 2, 3):
        expect(f"{name}: {threads} threads, the same digits", evaluate(*where, "--threads", threads) == printed, printed)
    ref = loss_of(evaluate(*where, isa="ref"))
    expect(f"{name}: ref is close", abs(ref - loss_of(printed)) < 1e-5 * ref, f"{ref}, {printed}")
    if QEMU_BUILD:
        emulated = evaluate(*where, "--threads", "1", build=QEMU_BUILD, emulator=QEMU)
        expect(f"{name}: NEON prints the same digits", emulated == printed, f"{emulated}{printed}")


# --- The known loss ---


def check_stories(isas):
    what = f"loss {STORIES_LOSS} of stories260k"
    found = shared_data(what, "models/stories260k", "tinystories-sample/tinystories_2MiB.txt")
    if not found:
        return
    model, text = found[0], found[1].read_text()
    stories = [story.strip() for story in text.split(PARTING)][:STORIES]
    data = write_lines(FOLDER / "stories.jsonl", [{"text": story} for story in stories])
    printed = evaluate(model, data, "--max-length", "512")
    expect(f"{what}: lodrop-eval", abs(loss_of(printed) - STORIES_LOSS) <= STORIES_BOUND, printed)
    few = write_lines(FOLDER / "few.jsonl", [{"text": story} for story in stories[:3]])
    check_same_digits("stories260k, 3 stories", isas, evaluate(model, few), model, few)
    for isa in isas:
        expect(f"{what}: {isa} prints the same digits", evaluate(model, data, "--max-length", "512", isa=isa) == printed)
    loss = loss_of(evaluate(model, data, "--max-length", "512", isa="ref"))
    expect(f"{what}: ref", abs(loss - STORIES_LOSS) <= STORIES_BOUND, loss)


# --- Every kind of data ---


def check_result(name, printed, lines):
    result = json.loads(printed)
    expect(f"{name}: the fields of --json", result.keys() == {"loss", "perplexity", "targets", "metrics"}, printed)
    expect(f"{name}: perplexity", math.isclose(result["perplexity"], math.exp(result["loss"]), rel_tol=1e-7), printed)
    expect(f"{name}: targets", result["targets"] >= lines, printed)


def check_kinds(isas):
    texts = write_texts(FOLDER / "texts.jsonl")
    (FOLDER / "plain.txt").write_text("".join(json.loads(line)["text"] + "\n" for line in texts.open()))
    kinds = {"texts": texts, "plain text": FOLDER / "plain.txt",
             "completions": write_completions(FOLDER / "completions.jsonl"),
             "choices": write_choices(FOLDER / "choices.jsonl")}
    for name, data in kinds.items():
        printed = evaluate(MODEL, data)
        check_result(name, printed, 1)
        check_same_digits(name, isas, printed, MODEL, data)
        accuracy = json.loads(printed)["metrics"].get("accuracy")
        expect(f"{name}: accuracy if there are choices", (accuracy is not None and 0 <= accuracy <= 1) == (name == "choices"))
        words = must(run("lodrop-eval", "--model", MODEL, "--data", data)).stdout
        expect(f"{name}: the same loss in words", f"{loss_of(printed):.5f}" in words, words)


# --- The trained adapter ---


def check_trained(name, data):
    """What training says of its held-out data is what lodrop-eval says of the adapter that it wrote."""
    output = FOLDER / f"trained-{name}"
    must(train(MODEL, data, output, "--eval-data", data, "--target-modules", "all-linear", "--method",
               "lora-input-dropout", "--epochs", 6, "--learning-rate", "1e-2"))
    summary = json.loads((output / "summary.json").read_text())
    printed = evaluate(MODEL, data, "--adapter", output)
    ours = json.loads(printed)
    same = all(math.isclose(ours[field], summary["eval"][field], rel_tol=1e-8) for field in ("loss", "targets"))
    expect(f"trained on {name}: lodrop-eval gives summary.json's eval", same and ours["metrics"] == summary["eval"]["metrics"],
           f"{printed}{summary}")
    before = loss_of(evaluate(MODEL, data))
    expect(f"trained on {name}: the loss fell", ours["loss"] < before - 0.02, f"{before} to {ours['loss']}")
    rows = [json.loads(line) for line in (output / "metrics.jsonl").open()]
    expect(f"trained on {name}: metrics.jsonl", len(rows) == summary["steps"] and rows[-1]["step"] == summary["steps"] and
           rows[-1]["eval_loss"] == summary["eval"]["loss"] and rows[0].keys() ==
           {"step", "loss", "learning_rate", "grad_norm", "tokens_per_second"}, f"{rows[0]}\n{rows[-1]}")
    wanted = {"tokens_per_second", "peak_rss_bytes", "steps", "train_loss", "eval", "seed", "isa", "threads", "plan",
              "trainable_parameters", "sleef", "seconds"}
    expect(f"trained on {name}: the fields of summary.json", wanted <= summary.keys(), summary.keys())
    values = sum(tensor["data_offsets"][1] - tensor["data_offsets"][0] for tensor_name, tensor in
                 read_safetensors(output / "adapter_model.safetensors")[0].items() if tensor_name != "__metadata__") // 4
    expect(f"trained on {name}: trainable_parameters", summary["trainable_parameters"] == values, values)
    written = sorted(path.name for path in output.iterdir())
    expect(f"trained on {name}: what is written", written ==
           ["adapter_config.json", "adapter_model.safetensors", "curves.svg", "lodrop.json", "metrics.jsonl", "summary.json"],
           written)


# --- lodrop-info ---


def check_info(isas):
    for isa in ["ref", *isas]:
        facts = info(isa=isa)
        used = {kernel["isa"] for kernel in facts["kernels"] if kernel["in_use"]}
        expect(f"LODROP_ISA={isa} is in use", facts["isa"] == isa and used == {isa} and "LODROP_ISA" in facts["isa_why"], facts)
    facts = info()
    operations = {kernel["operation"] for kernel in facts["kernels"]}
    served = {kernel["operation"] for kernel in facts["kernels"] if kernel["in_use"]}
    expect("every operation has a kernel in use", operations == served, operations - served)
    expect("what is in use runs here", all(kernel["runs"] for kernel in facts["kernels"] if kernel["in_use"]))
    expect("threads and caches", facts["threads"] >= 1 and facts["l1d_bytes"] > 0 and facts["l2_bytes"] > 0, facts)
    words = must(run("lodrop-info")).stdout
    expect("the table names every operation", all(operation in words for operation in operations), words)
    if QEMU_BUILD:
        facts = info(build=QEMU_BUILD, emulator=QEMU)
        expect("NEON is in use on aarch64", facts["isa"] == "neon", facts["isa"])


FOLDER = scratch()
QEMU_BUILD = qemu_build("evaluation, NEON")
MODEL = write_model(FOLDER / "model")
ISAS, LACKING = simd_isas()
skip_missing_isas("evaluation", LACKING)
check_info(ISAS)
check_kinds(ISAS)
check_trained("texts", FOLDER / "texts.jsonl")
check_trained("choices", FOLDER / "choices.jsonl")
check_stories(ISAS)
finish()
