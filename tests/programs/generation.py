#!/usr/bin/env -S python3 -B
"""lodrop-generate as a user runs it: the same text on every SIMD instruction set, number of threads and try; an adapter
that says what it learned and ends; draws that keep to what they may draw from; bad input."""
import json
import shutil

from harness import (QEMU, expect, finish, must, other_builds, qemu_build, run, scratch, simd_isas, skip_missing_isas,
                     train, write_lines, write_model)

PROMPT, POSITIONS = "abc de", 40


def generate(*options, model=None, **how):
    return run("lodrop-generate", "--model", model or MODEL, *options, **how)


def as_json(*options, **how):
    return json.loads(must(generate("--json", *options, **how)).stdout)


def tokens(*options, **how):
    return as_json("--prompt", PROMPT, "--max-new-tokens", 12, *options, **how)["tokens"]


def check_same_text(isas):
    for options in [], ["--temperature", 0.9, "--seed", 5]:
        what, text = f"with {options}", tokens(*options)
        expect(f"{what}: twelve tokens or an end", 0 < len(text) <= 12, text)
        for isa in isas:
            expect(f"{what}: {isa} gives the same", tokens(*options, isa=isa) == text)
        for threads in 1, 2, 3:
            expect(f"{what}: {threads} threads give the same", tokens(*options, "--threads", threads) == text)
        for build in OTHER_BUILDS:
            expect(f"{what}: {build} gives the same", tokens(*options, build=build) == text)
        if QEMU_BUILD:
            emulated = tokens(*options, "--threads", 1, build=QEMU_BUILD, emulator=QEMU)
            expect(f"{what}: NEON gives the same", emulated == text, f"{emulated} {text}")


def check_draws():
    greedy = tokens()
    drawn = [tuple(tokens("--temperature", 1, "--seed", seed)) for seed in range(8)]
    expect("seeds draw different texts", len(set(drawn)) > 4, drawn)
    expect("the likeliest of one is the likeliest", tokens("--temperature", 1, "--top-k", 1, "--seed", 3) == greedy)
    expect("a share of nothing is the likeliest", tokens("--temperature", 1, "--top-p", 0, "--seed", 3) == greedy)
    expect("cold draws are the likeliest", tokens("--temperature", 1e-3, "--seed", 3) == greedy)
    firsts = {tokens("--max-new-tokens", 1, "--temperature", 50, "--top-k", 3, "--seed", seed)[0] for seed in range(40)}
    expect("hot draws from three take each of them", len(firsts) == 3, firsts)


def check_prompts():
    file = FOLDER / "prompt.txt"
    file.write_text(PROMPT)
    expect("a prompt from a file is that prompt",
           as_json("--prompt-file", file, "--max-new-tokens", 12)["tokens"] == tokens())
    file.write_text("")
    for options in [], ["--prompt-file", file]:
        empty = as_json(*options, "--max-new-tokens", 2)
        expect(f"no prompt, {options}: BOS alone", empty["prompt_tokens"] == 1 and len(empty["tokens"]) <= 2, empty)
    short, long = (as_json("--prompt", "a", *options) for options in [["--max-new-tokens", 5], []])
    expect("fewer tokens are the first of more", long["tokens"][:len(short["tokens"])] == short["tokens"])
    room = POSITIONS - long["prompt_tokens"]
    expect("the default stops where the positions end", len(long["tokens"]) <= room, long)


def check_ends():
    """Whatever file of the model's folder names a token as an end."""
    text = tokens()
    for name in "config.json", "generation_config.json":
        for ends in text[2], [text[4], text[2]]:
            model = FOLDER / "ends"
            shutil.copytree(MODEL, model)
            path = model / name
            settings = json.loads(path.read_text()) if path.exists() else {}
            path.write_text(json.dumps({**settings, "eos_token_id": ends}))
            expect(f"{name} ends it at {ends}", tokens(model=model) == text[:text.index(text[2])], tokens(model=model))
            shutil.rmtree(model)
    bad = FOLDER / "bad-ends"
    shutil.copytree(MODEL, bad)
    for ends in "[1, -7]", '"</s>"', "[true]":
        (bad / "generation_config.json").write_text(f'{{"eos_token_id": {ends}}}')
        done = generate("--prompt", PROMPT, model=bad)
        expect(f"an end of {ends} is refused",
               done.returncode == 1 and "generation_config.json: eos_token_id" in done.stderr, done.stderr)


def check_not_finite():
    model = FOLDER / "not-finite"
    shutil.copytree(MODEL, model)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\xc0\x7f")  # NaN
    done = generate("--prompt", PROMPT, model=model)
    expect("a model that is not finite is refused", done.returncode == 1 and "not finite" in done.stderr, done.stderr)


def check_learned():
    """An adapter that has one answer by heart; the same text as it comes and as JSON."""
    data = write_lines(FOLDER / "one.jsonl", [{"prompt": PROMPT, "completion": " yes no"}] * 8)
    output = FOLDER / "learned"
    must(train(MODEL, data, output, "--epochs", 25, "--batch-size", 4, "--learning-rate", 2e-2, "--target-modules",
               "all-linear"))
    said = as_json("--prompt", PROMPT, "--adapter", output)
    expect("it says what it learned, and ends", said["text"] == " yes no", said)
    printed = must(generate("--prompt", PROMPT, "--adapter", output)).stdout
    expect("so it prints", printed == " yes no\n", printed)


def check_refused():
    bad = FOLDER / "bad.txt"
    bad.write_bytes(b"a\xff")
    refused = [
        (["--prompt", "a", "--prompt-file", bad], 2, ["--prompt", "--prompt-file"]),
        (["--prompt", "a", "--seed", 1], 2, ["--temperature", "--seed"]),
        (["--prompt", "a", "--top-k", 4], 2, ["--temperature", "--top-k"]),
        (["--prompt", "a", "--max-new-tokens", 0], 1, ["--max-new-tokens"]),
        (["--prompt", "a", "--top-p", 1.5, "--temperature", 1], 1, ["--top-p"]),
        (["--prompt", "a", "--max-new-tokens", POSITIONS], 1, ["max_position_embeddings", str(POSITIONS)]),
        (["--prompt", "a b " * POSITIONS], 1, ["max_position_embeddings", str(POSITIONS)]),
        (["--prompt-file", FOLDER / "absent.txt"], 1, ["absent.txt", "missing"]),
        (["--prompt-file", bad], 1, ["bad.txt", "UTF-8"]),
        (["--prompt", "a\udcff"], 1, ["--prompt", "UTF-8"]),
        (["--prompt", "a", "--adapter", FOLDER / "absent"], 1, ["absent"]),
    ]
    for options, status, words in refused:
        done = generate(*options)
        line = done.stderr.strip()
        expect(f"refused: {options}", done.returncode == status and done.stdout == "" and "\n" not in line
               and all(word in line for word in words), f"{done.returncode}: {line}")


FOLDER = scratch()
QEMU_BUILD = qemu_build("NEON generates the same text")
OTHER_BUILDS = other_builds("other compilers generate the same text")
MODEL = write_model(FOLDER / "model", max_position_embeddings=POSITIONS)
ISAS, LACKING = simd_isas()
skip_missing_isas("the same text", LACKING)
check_same_text(ISAS)
check_draws()
check_prompts()
check_ends()
check_not_finite()
check_learned()
check_refused()
finish()
