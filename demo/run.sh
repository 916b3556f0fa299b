#!/bin/sh
# The demo: a small language model learns to tell a gloss's class, with LoRA alone, with dropout on LoRA's input, with
# LoRA Dropout: columns of A and rows of B, the mean loss of four such instances, with DropKey: attention without some of
# its keys, and with HiddenKey: DropKey and HiddenCut in the later half of the layers, two such passes held together.
# Five seeds each, as many runs side by side as there are CPUs.
#
#     demo/run.sh BUILD [OUTPUT]      OUTPUT: default BUILD/demo
set -eu
demo=$(dirname "$0")
build=${1:?usage: demo/run.sh BUILD [OUTPUT]}
output=${2:-$build/demo}
wordnet=${WORDNET:-/usr/share/wordnet}

mkdir -p "$output"
python3 "$demo/make_data.py" "$output" "$wordnet"
echo "A word's gloss is the prompt, its class (noun.food, verb.motion, ...: 45) the answer: 1,500 examples to learn from,"
echo "2,000 held out. The base model, 1 M parameters, was pre-trained on WordNet's text without the held-out glosses."

echo
echo "== base model: scored as it is"
"$build/lodrop-eval" --model "$demo/base" --data "$output/heldout.jsonl"

echo
echo "== the methods of demo/methods.json"
rm -rf "$output/methods"
"$build/lodrop-train" --sweep "$demo/methods.json" --model "$demo/base" --data "$output/train.jsonl" \
    --eval-data "$output/heldout.jsonl" --output "$output/methods" --threads 1 --jobs "$(nproc)"

echo
cat "$output/methods/sweep.md"
echo
echo "In $output/methods each run has its adapter and curves.svg, its losses over the steps."
