#!/usr/bin/env -S python3 -B
"""lodrop-eval and lodrop-info as a user runs them: the known loss of a known model, the same digits on every SIMD
instruction set, the adapter that was just trained, JSON that parses."""
import json
import math
import re
import xml.etree.ElementTree

from harness import (QEMU, expect, finish, info, must, qemu_build, read_safetensors, run, scratch, shared_data,
                     simd_isas, skip_missing_isas, train, write_choices, write_completions, write_lines, write_model,
                     write_texts)

STORIES_LOSS, STORIES_BOUND = 1.23857, 0.00003  # of stories260k on the first 50 stories, in nats a target
STORIES, PARTING = 50, "<|endoftext|>"
WRITTEN = {"adapter_config.json", "adapter_model.safetensors", "curves.svg", "lodrop.json", "metrics.jsonl",
           "summary.json"}
SUMMARY_FIELDS = {"tokens_per_second", "peak_rss_bytes", "steps", "train_loss", "eval", "seed", "isa", "threads",
                  "plan", "trainable_parameters", "sleef"}
METRICS_FIELDS = {"step", "loss", "learning_rate", "grad_norm", "tokens_per_second"}


def evaluate(model, data, *options, **how):
    """What lodrop-eval --json prints, as text: digits are compared."""
    return must(run("lodrop-eval", "--model", model, "--data", data, "--json", *options, **how)).stdout


def loss_of(printed):
    return json.loads(printed)["loss"]


def check_same_digits(name, isas, printed, *where):
    for isa in isas:
        again = evaluate(*where, isa=isa)
        expect(f"{name}: {isa} prints the same digits", again == printed, f"{again}{printed}")
    for threads in (1, 2, 3):
        again = evaluate(*where, "--threads", threads)
        expect(f"{name}: {threads} threads print the same digits", again == printed, f"{again}{printed}")
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
    few = write_lines(FOLDER / "few.jsonl", [{"text": story} for story in stories[:3]])
    check_same_digits("stories260k, 3 stories", isas, evaluate(model, few), model, few)
    printed = {isa: evaluate(model, data, "--max-length", "512", isa=isa) for isa in ["ref", *isas]}
    for isa, text in printed.items():
        expect(f"{what}: {isa}", abs(loss_of(text) - STORIES_LOSS) <= STORIES_BOUND, text)
    digits = {printed[isa] for isa in isas}
    expect(f"{what}: the SIMD instruction sets print the same digits", len(digits) <= 1, digits)


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
        metrics = json.loads(printed)["metrics"]
        wanted = ["accuracy", "ece"] if name == "choices" else []
        in_range = all(0 <= value <= 1 for value in metrics.values())
        expect(f"{name}: accuracy and ECE if there are choices", list(metrics) == wanted and in_range, printed)
        words = must(run("lodrop-eval", "--model", MODEL, "--data", data)).stdout
        expect(f"{name}: the same loss in words", f"{loss_of(printed):.5f}" in words, words)
        expect(f"{name}: the same metrics in words", all(f"{value:.4f}" in words for value in metrics.values()), words)


# --- The reliability diagram ---


def drawn_answers(path):
    """What the diagram says of itself, and its bins with answers as [count, accuracy, mean confidence]."""
    texts = [element.text for element in xml.etree.ElementTree.parse(path).iter() if (element.text or "").strip()]
    shown = [re.fullmatch(r"confidence \S+ to \S+: (\d+) answers, accuracy (\S+), mean confidence (\S+)", text)
             for text in texts]
    return texts, [[float(value) for value in match.groups()] for match in shown if match]


def check_diagram(what, path, metrics, count):
    """The bins that are drawn give the metrics again."""
    texts, bins = drawn_answers(path)
    whole = sum(answers for answers, _, _ in bins) == count
    ece = sum(answers * abs(accuracy - confidence) for answers, accuracy, confidence in bins) / count
    accuracy = sum(answers * accuracy for answers, accuracy, _ in bins) / count
    close = abs(ece - metrics["ece"]) < 2e-4 and abs(accuracy - metrics["accuracy"]) < 2e-4
    expect(f"{what}: the diagram's bins", whole and close, f"{bins}\n{metrics}")
    words = {"confidence", "accuracy", f"{count} answers, accuracy {metrics['accuracy']:.4f}, ECE {metrics['ece']:.4f}"}
    expect(f"{what}: the diagram's labels", words <= set(texts) and "Reliability diagram" in texts[0], texts)


def check_reliability():
    choices, drawing, again = FOLDER / "choices.jsonl", FOLDER / "drawn.svg", FOLDER / "again.svg"
    metrics = json.loads(evaluate(MODEL, choices, "--reliability", drawing))["metrics"]
    check_diagram("--reliability", drawing, metrics, 40)
    evaluate(MODEL, choices, "--reliability", again, "--threads", "3")
    expect("--reliability: the same bytes", drawing.read_bytes() == again.read_bytes())


# --- The trained adapter ---


def check_peak(data):
    """Of the run itself, whatever the program holds that starts it."""
    held = bytearray(b"x") * (512 << 20)
    output = FOLDER / "peak"
    must(train(MODEL, data, output, "--max-steps", 1))
    peak = json.loads((output / "summary.json").read_text())["peak_rss_bytes"]
    expect("peak_rss_bytes: of the run alone", 1 << 20 < peak < len(held) - (64 << 20), peak)


def check_trained(name, data, method):
    """What training says of its held-out data is what lodrop-eval says of the adapter that it wrote: without dropout."""
    what, output = f"trained on {name} with {method}", FOLDER / f"trained-{name}-{method}"
    must(train(MODEL, data, output, "--eval-data", data, "--target-modules", "all-linear", "--method", method,
               "--epochs", 6, "--learning-rate", "1e-2"))
    written = {path.name for path in output.iterdir()}
    expect(f"{what}: what is written", written == WRITTEN | ({"reliability.svg"} if name == "choices" else set()), written)
    summary = json.loads((output / "summary.json").read_text())
    result = json.loads(evaluate(MODEL, data, "--adapter", output))
    same = all(math.isclose(result[field], summary["eval"][field], rel_tol=1e-8) for field in ("loss", "targets"))
    told = summary["eval"]["metrics"]
    same = same and result["metrics"].keys() == told.keys()
    same = same and all(math.isclose(value, told[field], abs_tol=1e-8) for field, value in result["metrics"].items())
    expect(f"{what}: lodrop-eval gives summary.json's eval", same, f"{result}\n{summary}")
    before = loss_of(evaluate(MODEL, data))
    expect(f"{what}: the loss fell", result["loss"] < before - 0.02, f"from {before} to {result['loss']}")
    check_files(what, output, summary)
    if name == "choices":
        check_diagram(what, output / "reliability.svg", summary["eval"]["metrics"], 40)


def check_ensemble(isas, data, name):
    """The same digits everywhere, other ones for other masks, and what a rate of 0 gives is the adapter itself."""
    output = FOLDER / f"ensemble-{name}"
    must(train(MODEL, data, output, "--method", "lora-dropout", "--target-modules", "all-linear", "--max-steps", 3,
               "--init-b", "random"))
    where, digits = [MODEL, data, "--adapter", output], set()
    for options in [["--ensemble", "3"], ["--ensemble", "3", "--ensemble-of", "probabilities"]]:
        printed = evaluate(*where, *options)
        check_same_digits(f"ensemble of {name}, {options[2:]}", isas, printed, *where, *options)
        digits.add(printed)
    for options in [[], ["--ensemble", "2"], ["--ensemble", "3", "--seed", "1"],
                    ["--ensemble", "3", "--drop", "lora_a:column:0.5"]]:
        digits.add(evaluate(*where, *options))
    expect(f"ensemble of {name}: each option changes the digits", len(digits) == 6, digits)
    full, whole = (loss_of(evaluate(*where, *options, "--ensemble", "4", "--drop", "lora_a:column:0",
                                    "--drop", "lora_b:column:0"))
                   for options in [[], ["--ensemble-of", "probabilities"]])
    expect(f"ensemble of {name}: rates of 0", math.isclose(full, whole, rel_tol=1e-6), (full, whole))


def check_files(what, output, summary):
    expect(f"{what}: the fields of summary.json", SUMMARY_FIELDS <= summary.keys(), summary.keys())
    rows = [json.loads(line) for line in (output / "metrics.jsonl").open()]
    expect(f"{what}: the fields of metrics.jsonl", rows[0].keys() == METRICS_FIELDS, rows[0])
    expect(f"{what}: a line a step", [row["step"] for row in rows] == list(range(1, summary["steps"] + 1)), rows)
    last, held_out = rows[-1], summary["eval"]
    expect(f"{what}: the last line has the held-out loss", last.get("eval_loss") == held_out["loss"], last)
    shown = {name: last[f"eval_{name}"] for name in ("accuracy", "ece") if f"eval_{name}" in last}
    expect(f"{what}: the last line has the metrics", shown == held_out["metrics"], last)
    header, data = read_safetensors(output / "adapter_model.safetensors")
    expect(f"{what}: trainable_parameters", summary["trainable_parameters"] == len(data) // 4, header)


# --- lodrop-info ---


def check_info(isas):
    for isa in ["ref", *isas]:
        facts = info(isa=isa)
        used = {kernel["isa"] for kernel in facts["kernels"] if kernel["in_use"]}
        forced = facts["isa"] == isa and used == {isa} and "LODROP_ISA" in facts["isa_why"]
        expect(f"LODROP_ISA={isa} is in use", forced, facts)
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
check_reliability()
check_peak(FOLDER / "texts.jsonl")
check_trained("texts", FOLDER / "texts.jsonl", "lora-input-dropout")
check_trained("choices", FOLDER / "choices.jsonl", "lora-input-dropout")
check_trained("choices", FOLDER / "choices.jsonl", "dropattention")
check_trained("completions", FOLDER / "completions.jsonl", "lora-dropout")
check_ensemble(ISAS, FOLDER / "texts.jsonl", "texts")
check_ensemble(ISAS, FOLDER / "choices.jsonl", "choices")
check_stories(ISAS)
finish()
