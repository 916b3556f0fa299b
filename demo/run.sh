#!/bin/sh
# The demo: a small language model learns to tell a gloss's class, with LoRA alone, with dropout on LoRA's input, with
# DropKey: attention without some of its keys, with HiddenKey-: HiddenCut beside it, and with HiddenKey: two such passes
# held together.
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
"$build/lodrop-eval" --model "$demo/base" --data "$output/heldout.jsonl" --json > "$output/base.json"

train() {
    method=$1
    shift
    echo
    echo "== $method"
    rm -rf "$output/$method"
    "$build/lodrop-train" --model "$demo/base" --data "$output/train.jsonl" --eval-data "$output/heldout.jsonl" \
        --output "$output/$method" --method "$method" --target-modules all-linear --lora-r 16 --lora-alpha 32 \
        --learning-rate 3e-3 --batch-size 16 --epochs 5 "$@"
}
train lora
train lora-input-dropout --lora-dropout 0.1
train dropkey --rate 0.1
train hiddenkey-minus --rate 0.1
train hiddenkey --rate 0.1

echo
python3 "$demo/table.py" "$output" lora lora-input-dropout dropkey hiddenkey-minus hiddenkey
