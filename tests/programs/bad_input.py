#!/usr/bin/env -S python3 -B
"""Bad input of every kind gets one line with file, field and reason and its exit status, and leaves nothing behind."""
import json
import shutil
import subprocess

from harness import (PIECES, command, enter_mount_namespace, environment, expect, finish, mount, must,
                     read_safetensors, resume, run, simd_isas, skip, train, write_choices, write_lines, write_model,
                     write_safetensors, write_texts)
from refusals import DAMAGED, RESOURCE, USAGE, Case, expect_no_output, expect_refusal, place

QUERY, KEY, VALUE = (f"model.layers.1.self_attn.{name}_proj.weight" for name in "qkv")
TOKENS = str(len(PIECES))
LAST = "model.layers.1.post_attention_layernorm.weight"


# --- Damage to files: what, how, words of the message; seen by training and by evaluation ---


def in_header(change):
    """Damages the header of the weights; change may return other data."""

    def damage(case):
        header, data = read_safetensors(case.weights)
        changed = change(header, data)
        write_safetensors(case.weights, header, data if changed is None else changed)

    return damage


def in_tensor(name, **fields):
    return in_header(lambda header, data: header[name].update(fields))


def in_config(**fields):
    """A field None is taken out."""

    def damage(case):
        config = {**json.loads(case.config.read_text()), **fields}
        case.config.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))

    return damage


def in_weights(change):
    return lambda case: case.weights.write_bytes(change(case.weights.read_bytes()))


def overlap(header, data):
    header[VALUE]["data_offsets"] = header[KEY]["data_offsets"]


def overlap_by_one(header, data):
    header[VALUE]["data_offsets"] = [end - 4 for end in header[VALUE]["data_offsets"]]


def lose_last_tensor(header, data):
    assert max(tensor["data_offsets"] for tensor in header.values()) == header[LAST]["data_offsets"]
    return data[:header.pop(LAST)["data_offsets"][0]]


def rotate_shape(header, data):
    header[KEY]["shape"].reverse()


def with_length(length):
    return lambda content: length.to_bytes(8, "little") + content[8:]


def with_vocabulary(size):
    def damage(case):
        shutil.rmtree(case.model)
        write_model(case.model, vocab_size=size)

    return damage


def only_tokenizer_json(text):
    def damage(case):
        (case.model / "tokenizer.model").unlink()
        (case.model / "tokenizer.json").write_text(text)

    return damage


def in_line(number, text):
    def damage(case):
        lines = case.data.read_text().splitlines()
        lines[number - 1] = text
        case.data.write_text("\n".join(lines) + "\n")

    return damage


def choices_with(number, **fields):
    """Choices instead of texts, one of which is changed; a field None is taken out."""

    def damage(case):
        lines = [json.loads(line) for line in write_choices(case.data, count=10).read_text().splitlines()]
        line = {**lines[number - 1], **fields}
        lines[number - 1] = {name: value for name, value in line.items() if value is not None}
        write_lines(case.data, lines)

    return damage


FILES = [
    ("truncated weights", in_weights(lambda content: content[:-100]), ["model.safetensors", "data_offsets", "past"]),
    ("weights cut in the header", in_weights(lambda content: content[:60]),
     ["model.safetensors", "header", "truncated"]),
    ("empty weights", in_weights(lambda content: b""), ["model.safetensors", "header", "0 bytes"]),
    ("more weights than tensors", in_weights(lambda content: content + bytes(8)), ["model.safetensors", "8 bytes"]),
    ("overlapping tensors", in_header(overlap), ["model.safetensors", KEY, VALUE, "overlap"]),
    ("tensors overlapping by one value", in_header(overlap_by_one), ["model.safetensors", VALUE, "overlap"]),
    ("overflowing shape", in_tensor(QUERY, shape=[2**62, 2**62]), ["model.safetensors", QUERY, "shape", "overflow"]),
    ("overflowing bytes", in_tensor(QUERY, shape=[2**31, 2**31]), ["model.safetensors", QUERY, "shape", "overflow"]),
    ("overflowing offsets", in_tensor(QUERY, data_offsets=[2**63 - 4096, 2**63 - 1]),
     ["model.safetensors", QUERY, "data_offsets", "past"]),
    ("offsets beyond 64 bits", in_tensor(QUERY, data_offsets=[0, 2**64 + 4096]), ["model.safetensors", "too big"]),
    ("offsets backwards", in_tensor(QUERY, data_offsets=[4096, 0]), ["model.safetensors", QUERY, "data_offsets"]),
    ("overflowing header", in_weights(with_length(2**64 - 1)), ["model.safetensors", "header length"]),
    ("negative extent", in_tensor(QUERY, shape=[-32, -32]), ["model.safetensors", QUERY, "shape", "at least 0"]),
    ("wrong shape", in_header(rotate_shape), ["model.safetensors", KEY, "shape", "[32, 16]", "[16, 32]"]),
    ("unknown dtype", in_tensor(QUERY, dtype="Q4"), ["model.safetensors", QUERY, "dtype", '"Q4"']),
    ("dtype of no weight", in_tensor(QUERY, dtype="I32"), ["model.safetensors", QUERY, "dtype", "I32", "F32"]),
    ("missing tensor", in_header(lose_last_tensor), ["model.safetensors", LAST, "missing"]),
    ("missing weights", lambda case: case.weights.unlink(), ["model", "model.safetensors"]),
    ("header of broken JSON", in_weights(lambda content: content.replace(b'"dtype"', b'"dtype', 1)),
     ["model.safetensors", "column", "JSON"]),
    ("config.json broken", lambda case: case.config.write_text('{\n "model_type": "llama",\n "hidden_size" 32\n}'),
     ["config.json", "line 3", "JSON"]),
    ("config.json empty", lambda case: case.config.write_text(""), ["config.json", "JSON"]),
    ("config.json is a list", lambda case: case.config.write_text("[]"), ["config.json", "object"]),
    ("config.json missing", lambda case: case.config.unlink(), ["config.json", "No such file"]),
    ("config without a size", in_config(hidden_size=None), ["config.json", "hidden_size", "missing"]),
    ("config with a size of 0", in_config(num_hidden_layers=0), ["config.json", "num_hidden_layers", "0"]),
    ("config with a size of text", in_config(vocab_size="many"), ["config.json", "vocab_size", "integer"]),
    ("another family", in_config(model_type="bert"), ["config.json", "model_type", '"bert"']),
    ("scaled RoPE", in_config(rope_scaling={"rope_type": "yarn"}), ["config.json", "rope_type", "yarn"]),
    ("tokenizer smaller than the model", with_vocabulary(129), ["tokenizer.model", "vocabulary", TOKENS, "129"]),
    ("tokenizer larger than the model", with_vocabulary(len(PIECES) - 1),
     ["tokenizer.model", "vocabulary", TOKENS, str(len(PIECES) - 1)]),
    ("tokenizer of other bytes", lambda case: (case.model / "tokenizer.model").write_bytes(b"\xff" * 99),
     ["tokenizer.model", "SentencePiece"]),
    ("tokenizer missing", lambda case: (case.model / "tokenizer.model").unlink(),
     ["tokenizer.model", "missing", "tokenizer.json"]),
    ("tokenizer.json of other kinds", only_tokenizer_json('{"model": {"type": "Unigram", "vocab": {}}}'),
     ["tokenizer.json", "model.type", "Unigram"]),
    ("tokenizer.json cut", only_tokenizer_json('{"model": {"type": "BPE", '), ["tokenizer.json", "not valid JSON"]),
    ("line 7 broken", in_line(7, '{"text": "the end'), ["data.jsonl", "line 7", "JSON"]),
    ("line 7 no object", in_line(7, '"the end"'), ["data.jsonl", "line 7", "JSON"]),
    ("line 7 without text", in_line(7, '{"words": "the end"}'), ["data.jsonl", "line 7", "text", "missing"]),
    ("line 7 with a number for text", in_line(7, '{"text": 7}'), ["data.jsonl", "line 7", "text", "string"]),
    ("line 1 not UTF-8", lambda case: case.data.write_bytes(b'{"text": "\xff"}\n'),
     ["data.jsonl", "column", "byte 0xff"]),
    ("line 7 of another kind", in_line(7, '{"prompt": "a", "completion": "b"}'),
     ["data.jsonl", "line 7", "completion"]),
    ("prompt without completion", in_line(1, '{"prompt": "a"}'), ["data.jsonl", "line 1", "completion", "missing"]),
    ("label missing", choices_with(3, label=None), ["data.jsonl", "line 3", "label", "missing"]),
    ("label beyond the choices", choices_with(3, label=3), ["data.jsonl", "line 3", "label", "is 3"]),
    ("label of no choice", choices_with(3, label=" maybe"), ["data.jsonl", "line 3", "label", "maybe"]),
    ("choices missing", choices_with(3, choices=None), ["data.jsonl", "line 3", "choices", "missing"]),
    ("one choice", choices_with(3, choices=[" yes"], label=0), ["data.jsonl", "line 3", "choices"]),
    ("empty data", lambda case: case.data.write_text(""), ["data.jsonl", "no examples"]),
    ("data of blank lines", lambda case: case.data.write_text("\n \n\n"), ["data.jsonl", "no examples"]),
    ("data missing", lambda case: case.data.unlink(), ["data.jsonl", "No such file"]),
    ("data is a folder", lambda case: (case.data.unlink(), case.data.mkdir()), ["data.jsonl", "not a regular file"]),
]


def check_files(numbers):
    for what, damage, words in FILES:
        case = Case(next(numbers))
        damage(case)
        expect_refusal(what, case.train(), words)
        expect_no_output(what, case.output)
        expect_refusal(f"{what}, evaluated", case.evaluate(), words)


# --- Options ---

OPTIONS = [
    ("p of 1", ["--lora-dropout", "1"], DAMAGED, ["--lora-dropout", "is 1", "below 1"]),
    ("p above 1", ["--lora-dropout", "1.5"], DAMAGED, ["--lora-dropout", "is 1.5"]),
    ("p below 0", ["--lora-dropout", "-0.1"], DAMAGED, ["--lora-dropout", "is -0.1", "at least 0"]),
    ("p not a number", ["--lora-dropout", "nan"], DAMAGED, ["--lora-dropout", "nan"]),
    ("p that drops nothing", ["--lora-dropout", "0.000001"], DAMAGED, ["--lora-dropout", "is 1e-06"]),
    ("p that drops everything", ["--lora-dropout", "0.999999"], DAMAGED, ["--lora-dropout", "is 0.999999"]),
    ("p a word", ["--lora-dropout", "much"], DAMAGED, ["--lora-dropout", "'much'"]),
    ("r of 0", ["--lora-r", "0"], DAMAGED, ["--lora-r", "is 0", "from 1"]),
    ("r of -8", ["--lora-r", "-8"], DAMAGED, ["--lora-r", "is -8"]),
    ("r of 1.5", ["--lora-r", "1.5"], DAMAGED, ["--lora-r", "'1.5'"]),
    ("r beyond 64 bits", ["--lora-r", "99999999999999999999"], DAMAGED, ["--lora-r", "99999999999999999999"]),
    ("unknown module", ["--target-modules", "q_proj,qkv_proj"], DAMAGED,
     ["lodrop-train: --target-modules", '"qkv_proj"', "q_proj"]),
    ("no module", ["--target-modules", ""], DAMAGED, ["lodrop-train: --target-modules"]),
    ("unknown method", ["--method", "loha"], DAMAGED, ["--method", "'loha'"]),
    ("unknown schedule", ["--lr-scheduler", "steep"], DAMAGED, ["steep"]),
    ("batch of 0", ["--batch-size", "0"], DAMAGED, ["--batch-size", "is 0"]),
    ("length of 1", ["--max-length", "1"], DAMAGED, ["--max-length", "is 1"]),
    ("length beyond the model", ["--max-length", "65"], DAMAGED,
     ["config.json", "max_position_embeddings", "is 64", "--max-length 65"]),
    ("unknown flag", ["--lora-rank", "8"], USAGE, ["--lora-rank", "unknown"]),
    ("flag without value", ["--lora-r"], USAGE, ["--lora-r", "value"]),
    ("switch with value", ["--recompute=yes"], USAGE, ["--recompute", "no value"]),
    ("a word too many", ["more"], USAGE, ["more", "unknown"]),
    ("rate of 1", ["--method", "dropkey", "--rate", "1"], DAMAGED, ["--rate", "is 1", "below 1"]),
    ("rate of no dropout", ["--rate", "0.1"], USAGE, ["--rate", "lora", "no dropout"]),
    ("two rates of one dropout", ["--method", "lora-input-dropout", "--rate", "0.1", "--lora-dropout", "0.1"], USAGE,
     ["--rate", "--lora-dropout"]),
    ("drop without a value", ["--drop"], USAGE, ["--drop", "value"]),
    ("drop of no rate", ["--drop", "attn_logit:column"], DAMAGED, ["--drop attn_logit:column", "POSITION:PATTERN:P"]),
    ("drop at no position", ["--drop", "attn:column:0.1"], DAMAGED, ["--drop", "'attn'", "attn_logit"]),
    ("drop of no pattern", ["--drop", "attn_logit:row:0.1"], DAMAGED, ["--drop", "'row'", "column"]),
    ("drop of no compensation", ["--drop", "attn_logit:column:0.1:all"], DAMAGED, ["--drop", "'all'", "renormalise"]),
    ("drop of another compensation", ["--drop", "attn_logit:column:0.1:inverted"], DAMAGED,
     ["--drop", "attn_logit", "column", "inverted", "only none"]),
    ("drop of another pattern", ["--drop", "lora_input:column:0.1"], DAMAGED, ["--drop", "column", "only element"]),
    ("elements of A", ["--drop", "lora_a:element:0.1"], DAMAGED, ["--drop", "lora_a", "only column"]),
    ("rows of B by another compensation", ["--drop", "lora_b:column:0.1:inference"], DAMAGED,
     ["--drop", "lora_b", "only none, inverted"]),
    ("A and its input", ["--method", "lora-dropout", "--lora-dropout", "0.1"], DAMAGED,
     ["--lora-dropout", "lora_a:column:0.5:none (--method)", "lora_input:element:0.1:inverted", "both on A"]),
    ("no instances", ["--instances", "0"], DAMAGED, ["--instances", "is 0", "from 1 to 64"]),
    ("more instances than masks have", ["--instances", "65"], DAMAGED, ["--instances", "is 65", "from 1 to 64"]),
    ("instances of no dropout", ["--instances", "2"], DAMAGED, ["--instances", "2 of them need a dropout"]),
    ("instances and a consistency", ["--method", "hiddenkey", "--instances", "2"], DAMAGED,
     ["--consistency", "kl", "2 instances", "--instances 1"]),
    ("a method's instances and a consistency", ["--method", "lora-dropout", "--consistency", "js"], DAMAGED,
     ["--consistency", "js", "4 instances"]),
    ("adapters in no layers", ["--layers-to-transform", "upper"], DAMAGED,
     ["--layers-to-transform", "'upper'", "later-half"]),
    ("adapters in layers beyond the model", ["--layers-to-transform", "1-2"], DAMAGED,
     ["--layers-to-transform", "layer 2", "layers 0 to 1 only"]),
    ("another form", ["--form", "lokr"], DAMAGED, ["--form", "'lokr'", "lora or adalora"]),
    ("a weight of no terms", ["--orthogonality-weight", "1"], USAGE, ["--orthogonality-weight", "--form adalora"]),
    ("a weight of terms below 0", ["--form", "adalora", "--orthogonality-weight", "-1"], DAMAGED,
     ["--orthogonality-weight", "is -1"]),
    ("a limit that is no memory", ["--memory-limit", "2GB"], DAMAGED, ["--memory-limit", "'2GB'", "GiB"]),
    ("a limit of words", ["--memory-limit", "MiB"], DAMAGED, ["--memory-limit", "'MiB'"]),
    ("a limit beyond 64 bits", ["--memory-limit", "99999999999GiB"], DAMAGED, ["--memory-limit", "99999999999GiB"]),
    ("a limit below 0", ["--memory-limit", "-1MiB"], DAMAGED, ["--memory-limit", "is -1048576"]),
    ("a limit below the need", ["--memory-limit", "1MiB"], RESOURCE,
     ["--memory-limit", "is 1 MiB", "MiB are needed:", "--recompute"]),
    ("a limit below the need of one instance", ["--memory-limit", "1MiB", "--method", "lora-dropout"], RESOURCE,
     ["--memory-limit", "MiB are needed even for one instance at a time"]),
    ("spans of the embedding", ["--drop", "embedding:span:0.1"], DAMAGED, ["--drop", "span", "only element, column"]),
    ("layers of the embedding", ["--drop", "embedding:element:0.1:inverted:0"], DAMAGED,
     ["--drop", "embedding", "takes none"]),
    ("the FFN's output twice", ["--method", "dropout", "--drop", "ffn_output:span:0.1"], DAMAGED,
     ["--drop", "hidden:element:0.1:inference (--method)", "ffn_output:span:0.1:none (--drop)", "output of the FFN"]),
    ("a method's second dropout once more", ["--method", "hiddenkey-minus", "--drop", "hidden:column:0.1:inverted:1"],
     DAMAGED, ["--drop", "ffn_output:element:0.1:inverted:later-half (--method)", "in layer 1"]),
    ("drop of rate 1", ["--drop", "attn_logit:column:1"], DAMAGED, ["--drop", "is 1", "below 1"]),
    ("drop of no layers", ["--drop", "attn_logit:column:0.1:none:upper"], DAMAGED, ["--drop", "'upper'", "later-half"]),
    ("drop in layers backwards", ["--drop", "attn_logit:column:0.1:none:1-0"], DAMAGED, ["--drop", "1-0", "backwards"]),
    ("drop in layers beyond the model", ["--drop", "attn_logit:column:0.1:none:1-2"], DAMAGED,
     ["--drop", "attn_logit:column:0.1:none:1-2", "layers 0 to 1 only"]),
    ("one position twice in a layer", ["--drop", "attn_logit:column:0.1", "--drop", "attn_logit:span:0.2:none:1"],
     DAMAGED, ["--drop", "attn_logit:column:0.1:none (--drop)", "attn_logit:span:0.2:none:1 (--drop)", "in layer 1"]),
    ("logits and weights in a layer of the later half",
     ["--drop", "attn_logit:column:0.1:none:later-half", "--drop", "attn_weight:element:0.2:inverted:1"],
     DAMAGED, ["--drop", "attn_logit:column:0.1:none:later-half", "attn_weight:element:0.2:inverted:1", "attention"]),
    ("a method's dropout once more", ["--method", "dropkey", "--drop", "attn_logit:column:0.2"], DAMAGED,
     ["--drop", "attn_logit:column:0.1:none (--method)", "attn_logit:column:0.2:none (--drop)"]),
    ("two dropouts on the input of A", ["--lora-dropout", "0.1", "--drop", "lora_input:element:0.2"], DAMAGED,
     ["--drop", "lora_input:element:0.1:inverted (--lora-dropout)", "lora_input:element:0.2:inverted (--drop)"]),
    ("another model dropout", ["--model-dropout", "on"], DAMAGED, ["--model-dropout", "'on'", "config or off"]),
    ("another consistency", ["--method", "hiddencut", "--consistency", "l2"], DAMAGED,
     ["--consistency", "'l2'", "kl, r-drop, js"]),
    ("consistency of equal passes", ["--consistency", "kl"], DAMAGED, ["--consistency", "kl needs a dropout"]),
    ("a weight of nothing", ["--method", "hiddenkey-minus", "--consistency-weight", "1"], USAGE,
     ["--consistency-weight", "needs --consistency"]),
    ("a weight below 0", ["--method", "hiddenkey", "--consistency-weight", "-1"], DAMAGED,
     ["--consistency-weight", "is -1"]),
    ("a weight that is no number", ["--method", "hiddenkey", "--consistency-weight", "nan"], DAMAGED,
     ["--consistency-weight", "nan"]),
    ("key sets without keys", ["--mask-per-kv-head"], DAMAGED, ["--mask-per-kv-head", "attention"]),
    ("key sets of an element mask", ["--mask-per-kv-head", "--drop", "attn_weight:element:0.1"], DAMAGED,
     ["--mask-per-kv-head", "columns or spans"]),
    ("129 drops", ["--drop", "attn_logit:column:0.1"] * 129, DAMAGED, ["--drop", "more than 128"]),
    ("a long drop", ["--drop", 200 * "x"], DAMAGED, ["--drop", "longer than 127"]),
    ("missing adapter", ["--adapter", "nowhere"], DAMAGED, ["nowhere", "No such file"]),
    *((f"{flag} without held-out data", [flag, *value], USAGE, [flag, "needs --eval-data"])
      for flag, *value in [["--eval-steps", "2"], ["--metric-for-best-model", "loss"], ["--load-best-model-at-end"],
                           ["--early-stopping-patience", "1"]]),
    ("a threshold without patience", ["--early-stopping-threshold", "0.1"], USAGE,
     ["--early-stopping-threshold", "needs --early-stopping-patience"]),
    ("missing held-out data", ["--eval-data", "nowhere.jsonl"], DAMAGED, ["nowhere.jsonl", "No such file"]),
]


def check_options(numbers):
    case = Case(next(numbers))
    for what, options, status, words in OPTIONS:
        expect_refusal(what, case.train(*options), ["lodrop-train", *words] if words[0][:2] == "--" else words, status)
        expect_no_output(what, case.output)


def check_evaluation(numbers):
    case = Case(next(numbers))
    case.model, held_out = place() / "good", ["--eval-data", case.data]
    for what, options, words in [
        ("accuracy without choices", ["--metric-for-best-model", "accuracy"], ["data.jsonl", "choices"]),
        ("another metric", ["--metric-for-best-model", "f1"], ["--metric-for-best-model", "'f1'", "loss or accuracy"]),
        ("evaluation every -1 steps", ["--eval-steps", "-1"], ["--eval-steps", "is -1"]),
        ("patience of half", ["--early-stopping-patience", "0.5"], ["--early-stopping-patience", "'0.5'"]),
        ("a threshold below 0", ["--early-stopping-patience", "1", "--early-stopping-threshold", "-1"],
         ["--early-stopping-threshold", "is -1"]),
    ]:
        expect_refusal(what, case.train(*held_out, *options), words)
        expect_no_output(what, case.output)


def check_reliability(numbers):
    case = Case(next(numbers))
    drawing = case.folder / "drawn.svg"
    expect_refusal("--reliability without choices", case.evaluate("--reliability", drawing),
                   ["data.jsonl", "--reliability", "choices"])
    expect_no_output("--reliability without choices", drawing)
    choices_with(3)(case)
    done = case.evaluate("--reliability", case.folder / "nowhere" / "drawn.svg")
    expect_refusal("--reliability in no folder", done, ["drawn.svg", "No such file"])
    expect("--reliability in no folder: nothing is printed", not done.stdout, done.stdout)


def check_long_path(numbers):
    """A path of any length leaves room for the reason."""
    case = Case(next(numbers))
    case.data = case.folder.joinpath(*["long" * 50] * 4, "nothing.jsonl")
    expect_refusal("a long path", case.train(), ["nothing.jsonl", "cannot open", "No such file"])


def check_required(numbers):
    case = Case(next(numbers))
    given = {"--model": case.model, "--data": case.data, "--output": case.output}
    for flag in given:
        rest = [word for pair in given.items() if pair[0] != flag for word in pair]
        expect_refusal(f"{flag} left out", run("lodrop-train", *rest), ["lodrop-train", flag, "needed"], USAGE)
        if flag != "--output":
            done = run("lodrop-eval", *rest[:2])
            expect_refusal(f"{flag} left out, evaluated", done, ["lodrop-eval", flag, "needed"], USAGE)
    expect_no_output("required flags", case.output)
    expect_refusal("--resume alone", run("lodrop-train", "--resume"), ["lodrop-train", "--output", "needed"], USAGE)
    expect_refusal("lodrop-info with a word", run("lodrop-info", "now"), [], USAGE, lines=None)


def check_isas(numbers):
    case = Case(next(numbers))
    _, lacking = simd_isas()
    foreign = "neon" if lacking or "avx2" in simd_isas()[0] else "avx2"
    for isa, word in [("nonsense", "'nonsense'"), ("AVX2", "'AVX2'"), *((isa, isa) for isa in [foreign, *lacking])]:
        words = ["LODROP_ISA", word]
        expect_refusal(f"LODROP_ISA={isa}", case.train(isa=isa), words)
        expect_no_output(f"LODROP_ISA={isa}", case.output)
        expect_refusal(f"LODROP_ISA={isa}, evaluated", case.evaluate(isa=isa), words)
        expect_refusal(f"LODROP_ISA={isa}, lodrop-info", run("lodrop-info", "--json", isa=isa), words)


# --- Models and checkpoints ---


def check_models_own(numbers):
    for what, rate, options, words in [
        ("model's own dropout that drops nothing", 1e-7, [], ["config.json", "attention_dropout", "is 1e-07", "rounds"]),
        ("model's own dropout beside a method's", 0.1, ["--method", "dropkey"],
         ["--model-dropout", "attn_logit:column:0.1:none (--method)", "attn_weight:element:0.1:inverted"]),
    ]:
        case = Case(next(numbers))
        case.config.write_text(json.dumps({**json.loads(case.config.read_text()), "attention_dropout": rate}))
        expect_refusal(what, case.train("--model-dropout", "config", *options), words)
        expect_no_output(what, case.output)


def check_resume(numbers):
    case = Case(next(numbers))
    expect_refusal("--resume before any run", resume(case.output), ["output", "checkpoint", "none"])
    expect_no_output("--resume before any run", case.output)
    must(case.train("--stop-after", 1, "--eval-data", case.data, "--eval-steps", 1, "--load-best-model-at-end"))
    before = snapshot(case.output)
    expect_refusal("a new run over an unfinished one", case.train(), ["output", "checkpoint", "--resume"])
    for flag, *value in [["--lora-r", 4], ["--model-dropout", "config"], ["--consistency", "kl"],
                         ["--method", "dropkey"], ["--rate", 0.2], ["--mask-per-kv-head"],
                         ["--drop", "attn_logit:column:0.1"], ["--eval-steps", 2], ["--early-stopping-patience", 1],
                         ["--instances", 2], ["--layers-to-transform", "1"],
                         ["--form", "adalora"]]:
        expect_refusal(f"--resume with another {flag}", resume(case.output, flag, *value), [flag, "differs"])
    other = write_texts(case.folder / "other.jsonl", count=10, seed=99)
    expect_refusal("--resume with other data", resume(case.output, "--data", other), ["other.jsonl", "tokens"])
    done = resume(case.output, "--eval-data", other)
    expect_refusal("--resume with other held-out data", done, ["other.jsonl", "tokens", "evaluated"])
    for name, change in [("of other weights", lambda model: write_model(model, seed=2)),
                         ("with other angles", lambda model: write_model(model, rope_theta=5000.0))]:
        other = change(case.folder / name.replace(" ", "-"))
        expect_refusal(f"--resume with a model {name}", resume(case.output, "--model", other),
                       [str(other), "weights or settings"])
    expect("a refused --resume changes nothing", snapshot(case.output) == before)
    must(resume(case.output, "--stop-after", 1))
    expect("a --resume that has nothing to do changes nothing", snapshot(case.output) == before)
    state = json.loads((case.output / "checkpoint" / "state.json").read_text())

    def with_option(**changes):
        return json.dumps({**state, "options": {**state["options"], **changes}})

    for name, content, words in [("state.json", '{"format": 1}', ["state.json", "format", "is 1"]),
                                 ("state.json", '{"format": 2', ["state.json", "JSON"]),
                                 ("state.json", with_option(rate=1), ["state.json", "rate", "is 1"]),
                                 ("state.json", with_option(drop="column"), ["state.json", "drop", "list"]),
                                 ("state.json", with_option(drop=[0.1]), ["state.json", "drop", "list of strings"]),
                                 ("state.json", with_option(drop=[200 * "x"]), ["state.json", "drop", "127"]),
                                 ("state.json", with_option(drop=["x"] * 129), ["state.json", "drop", "128"]),
                                 ("state.json", with_option(drop=["lora_a:element:0.1"]), ["--drop", "only column"]),
                                 ("state.json", with_option(instances=0), ["state.json", "instances", "is 0"]),
                                 ("state.json", with_option(method="drop"), ["--method", "'drop'"]),
                                 ("state.json", with_option(mask_per_kv_head=1), ["mask_per_kv_head", "true or false"]),
                                 ("state.json", with_option(metric_for_best_model="f1"), ["best-model", "'f1'"]),
                                 ("best.safetensors", "", ["best.safetensors", "header"]),
                                 ("moments.safetensors", "", ["moments.safetensors", "header"]),
                                 ("metrics.jsonl", "{}\n", ["metrics.jsonl", "step", "missing"])]:
        damaged = case.folder / "damaged"
        shutil.copytree(case.output, damaged)
        (damaged / "checkpoint" / name).write_text(content)
        expect_refusal(f"checkpoint with a broken {name}", resume(damaged), words)
        expect(f"checkpoint with a broken {name}: nothing is finished", not (damaged / "summary.json").exists())
        shutil.rmtree(damaged)
    expect("what was refused can still be resumed", resume(case.output).returncode == 0)


def check_resume_of_choices(numbers):
    """The wrong choices count, too, where the best accuracy decides."""
    case = Case(next(numbers))
    held_out = write_choices(case.folder / "choices.jsonl", count=5)
    must(case.train("--stop-after", 1, "--eval-data", held_out, "--eval-steps", 1, "--load-best-model-at-end",
                    "--metric-for-best-model", "accuracy"))
    held_out.write_text(held_out.read_text().replace(" perhaps", " per"))
    expect_refusal("--resume with another wrong choice", resume(case.output), ["choices.jsonl", "tokens", "evaluated"])


def snapshot(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# --- Places that cannot be written ---


def check_places(numbers, mounts):
    case = Case(next(numbers))
    case.output.write_text("not a folder")
    expect_refusal("output is a file", case.train(), ["output", "folder"], lines=None)
    expect("output is a file: it is as it was", case.output.read_text() == "not a folder")
    if not mounts:
        skip("read-only mount, full disk", "mounting needs root or user namespaces")
        return
    case = Case(next(numbers))
    mount(case.output, "ro")
    words = ["output", "Read-only file system"]
    expect_refusal("read-only mount", case.train(), words, DAMAGED, lines=None)
    case.output = case.output / "within"
    expect_refusal("folder on a read-only mount", case.train(), ["within", *words], DAMAGED, lines=None)
    expect_no_output("folder on a read-only mount", case.output)
    check_full_disk(Case(next(numbers)))


def check_full_output(numbers):
    """What cannot be printed is no success."""
    case = Case(next(numbers))
    evaluate = command("lodrop-eval", "--model", case.model, "--data", case.data)
    for what in [evaluate, [*evaluate, "--json"], command("lodrop-info"), command("lodrop-info", "--json")]:
        with open("/dev/full", "w") as full:
            done = subprocess.run(what, stdout=full, stderr=subprocess.PIPE, text=True, env=environment())
        expect_refusal(f"full standard output of {what[0]}", done, ["standard output", "cannot write"], RESOURCE)


def check_full_disk(case):
    """The disk ends before the adapter does: no file of that name, and nothing under a temporary one."""
    mount(case.output, "size=16k")
    done = case.train("--target-modules", "all-linear")
    expect_refusal("full disk", done, ["output", "No space left on device"], RESOURCE, lines=None)
    left = sorted(path.name for path in case.output.iterdir())
    unfinished = [name for name in left if name.startswith("adapter_model") or "tmp" in name or "checkpoint" in name]
    expect("full disk: nothing half-written", not unfinished and "metrics.jsonl" in left, left)


def check_good(numbers):
    """Undamaged, all of it works: what follows fails for the damage alone."""
    case = Case(next(numbers))
    expect("good input", case.train("--target-modules", "all-linear").returncode == 0 and
           (case.output / "adapter_model.safetensors").exists() and case.evaluate().returncode == 0)
    choices_with(3)(case)
    expect("good choices", case.evaluate().returncode == 0)
    with_vocabulary(128)(case)
    expect("a vocabulary padded to a multiple of 128", case.evaluate().returncode == 0)


mounts = enter_mount_namespace()
numbers = iter(range(1000))
check_good(numbers)
check_files(numbers)
check_options(numbers)
check_evaluation(numbers)
check_reliability(numbers)
check_long_path(numbers)
check_required(numbers)
check_isas(numbers)
check_models_own(numbers)
check_resume(numbers)
check_resume_of_choices(numbers)
check_places(numbers, mounts)
check_full_output(numbers)
finish()
