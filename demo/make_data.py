#!/usr/bin/env python3
"""Writes the demo's task: a WordNet gloss is the prompt, its lexicographer class (noun.food, ...) the answer.

    make_data.py OUTPUT [WORDNET]       WORDNET: folder with data.noun, data.verb, ... (default /usr/share/wordnet)

OUTPUT/train.jsonl and OUTPUT/heldout.jsonl get one {"prompt", "choices", "label"} a line, label being an index into
choices. Which part a synset belongs to is a pure function of its name (part of speech and offset), so that the
pre-training script, which imports this file, leaves out the same synsets. Same WordNet, same bytes.
"""

import hashlib
import json
import os
import re
import sys
from collections import namedtuple
from itertools import islice

TRAIN_EXAMPLES = 1500
HELDOUT_EXAMPLES = 2000

# WordNet's lexicographer files in the order of their numbers (lexnames(5WN)).
CLASSES = (
    "adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute noun.body noun.cognition "
    "noun.communication noun.event noun.feeling noun.food noun.group noun.location noun.motive noun.object noun.person "
    "noun.phenomenon noun.plant noun.possession noun.process noun.quantity noun.relation noun.shape noun.state "
    "noun.substance noun.time verb.body verb.change verb.cognition verb.communication verb.competition "
    "verb.consumption verb.contact verb.creation verb.emotion verb.motion verb.perception verb.possession verb.social "
    "verb.stative verb.weather adj.ppl"
).split()

# The separator at the end of a prompt: hardly any gloss contains it, and in pre-training text a word follows it.
SEPARATOR = " ="

Synset = namedtuple("Synset", "name label words hypernyms definition examples")


def parse_synset(line, pos):
    """One line of a data file (wndb(5WN)): offset, class number, words, pointers, '|', gloss."""
    fields, _, gloss = line.partition(" | ")
    fields = fields.split()
    word_count = int(fields[3], 16)
    words = [re.sub(r"\((a|p|ip)\)$", "", fields[4 + 2 * i]).replace("_", " ") for i in range(word_count)]
    at = 4 + 2 * word_count
    pointers = [fields[at + 1 + 4 * i : at + 5 + 4 * i] for i in range(int(fields[at]))]
    hypernyms = [p + offset for symbol, offset, p, _ in pointers if symbol in ("@", "@i")]
    if not int(fields[1]) < len(CLASSES):
        raise ValueError(fields[1])
    # Usage examples, in quotes, follow the definition; they contain the word itself and are no part of a prompt.
    definition, *examples = re.split(r'[;:,]?\s*"', " ".join(gloss.split()))
    return Synset(
        name=pos + fields[0],
        label=int(fields[1]),
        words=words,
        hypernyms=hypernyms,
        definition=definition.strip(" ;:,"),
        examples=[e for e in examples if len(e.split()) > 2],
    )


def read_wordnet(folder):
    """All synsets, in the order of the files. Adjective satellites are named a<offset> like their heads."""
    synsets = []
    for pos, name in (("n", "noun"), ("v", "verb"), ("a", "adj"), ("r", "adv")):
        path = os.path.join(folder, "data." + name)
        try:
            with open(path, encoding="utf-8") as file:
                lines = file.read().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SystemExit(f"{path}: file: {getattr(error, 'strerror', None) or error}") from None
        for number, line in enumerate(lines, 1):
            if line.startswith("  "):  # the licence
                continue
            try:
                synsets.append(parse_synset(line, pos))
            except (ValueError, IndexError):
                raise SystemExit(f"{path}: line {number}: not a line of a WordNet data file") from None
    return synsets


def hash_of(name):
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def part_of(name):
    """'heldout' and 'train' are 2 % of WordNet each, more than is written; the rest is 'text' for pre-training."""
    bucket = hash_of(name) // 1000 % 50
    return {0: "heldout", 1: "train"}.get(bucket, "text")


def choose_examples(synsets, part, count):
    """The first `count` synsets of a part in the order of their hashes. A definition that WordNet's text has anywhere
    else, even as a phrase in another gloss, is passed over: a held-out prompt must not have been read before."""
    text = "\n".join(t for s in synsets for t in (s.definition, *s.examples)).lower()
    pool = sorted((s for s in synsets if part_of(s.name) == part), key=lambda s: hash_of(s.name))
    chosen = list(islice((s for s in pool if text.count(s.definition.lower()) == 1), count))
    if len(chosen) < count:
        raise SystemExit(f"wordnet: {part}: {len(chosen)} usable synsets, {count} needed; is this WordNet 3.0?")
    return chosen


def write_jsonl(path, examples):
    with open(path + ".tmp", "w", encoding="utf-8", newline="\n") as file:
        for s in examples:
            line = {"prompt": s.definition + SEPARATOR, "choices": CLASSES, "label": s.label}
            file.write(json.dumps(line, ensure_ascii=True) + "\n")
    os.replace(path + ".tmp", path)


def main(output, wordnet="/usr/share/wordnet"):
    synsets = read_wordnet(wordnet)
    os.makedirs(output, exist_ok=True)
    for part, count in (("train", TRAIN_EXAMPLES), ("heldout", HELDOUT_EXAMPLES)):
        write_jsonl(os.path.join(output, part + ".jsonl"), choose_examples(synsets, part, count))


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
