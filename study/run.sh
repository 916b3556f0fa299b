#!/bin/sh
# The study: what the papers ask, asked of the demo's task. Interrupted, it goes on with the same command.
#
#     study/run.sh BUILD [OPTION...]      options go to all runs of lodrop-train, e.g. --max-steps 10 for a try
#
# Writes BUILD/study/study.md and the drawings it shows; as many runs side by side as there are CPUs.
set -eu
study=$(dirname "$0")
demo=$study/../demo
build=${1:?usage: study/run.sh BUILD [OPTION...]}
shift
output=$build/study

mkdir -p "$output"
if [ ! -f "$output/heldout.jsonl" ]; then
    python3 "$demo/make_data.py" "$output/data" "${WORDNET:-/usr/share/wordnet}"
    head -n 1000 "$output/data/heldout.jsonl" > "$output/heldout.tmp"
    mv "$output/heldout.tmp" "$output/heldout.jsonl"
fi

model=$demo/base
data=$output/data/train.jsonl
# The scale is 8 / sqrt(r) at every rank: 2 at r = 16, as in the demo.
for name in parts ranks rates triples lora_dropout instances; do
    echo "== $name"
    "$build/lodrop-train" --sweep "$study/$name.json" --output "$output/$name" --model "$model" --data "$data" \
        --eval-data "$output/heldout.jsonl" --target-modules all-linear --use-rslora --lora-alpha 8 \
        --learning-rate 3e-3 --batch-size 16 --epochs 5 --threads 1 --jobs "$(nproc)" "$@"
done
echo "== ensembles"
mkdir -p "$output/ensembles"
for seed in 0 1 2; do
    for size in 0 4 16; do
        result=$output/ensembles/$size,seed=$seed.json
        [ -f "$result" ] || {
            "$build/lodrop-eval" --model "$model" --adapter "$output/instances/instances=4,seed=$seed" \
                --data "$output/heldout.jsonl" --json $([ $size = 0 ] || echo --ensemble $size) > "$result.new"
            mv "$result.new" "$result"
        }
    done
done
echo "== gradients"
python3 "$study/gradients.py" "$build" "$model" "$data" "$output/gradients"
python3 "$study/report.py" "$output"
