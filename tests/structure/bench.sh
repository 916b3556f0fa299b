#!/bin/bash
# lodrop-bench runs all it has without an error, under names of the form <operation>_<dtype>/<recipe>/<shape>, and
# refuses bad input. Speed is not looked at.
#
#     bench.sh PROGRAM [EMULATOR...]
program=$1
shift
. "$(dirname "$0")/count.sh"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

echo 'small 9 40 50 3 # tokens n_in n_out rank' >"$folder/shapes"
echo 'attention tiny 20 4 2 24 # tokens heads kv_heads head_dim' >>"$folder/shapes"
echo 'attention tiny 20 4' >"$folder/short"
echo 'small 9 40 fifty 3' >"$folder/bad"

"$@" "$program" --shapes "$folder/shapes" --benchmark_min_time=0.001 --benchmark_repetitions=1 --benchmark_color=false \
    >"$folder/table" 2>"$folder/errors" && pass || fail "benchmarks" "$(tail -n 5 "$folder/errors")"
rows=$(grep -E '^[a-z0-9_]+/' "$folder/table" | sed -E 's/ .*ERROR.*/ ERROR/')
expect_none "names" "$(cut -d' ' -f1 <<<"$rows" |
    grep -vE '^[a-z_]+_f32/(ref|avx2|avx512|neon)(_[0-9]+x[0-9]+)?/[a-z0-9._]+$')"
for pass in fwd bwd fwd_bwd; do
    for adapter in frozen r3 r3_p0.1; do
        grep -qE "^lowrank_${pass}_f32/[a-z0-9]+/small_t9_$adapter " <<<"$rows" && pass || fail "no lowrank_$pass $adapter"
    done
done
for pass in fwd bwd fwd_bwd; do
    for dropout in "" _column_p0.5 _element_p0.1 _weight_p0.1; do
        grep -qE "^attention_${pass}_f32/[a-z0-9]+/tiny_t20$dropout " <<<"$rows" && pass || fail "no attention_$pass$dropout"
    done
done
"$@" "$program" --shapes "$folder/shapes" --share small --rounds 2 >"$folder/share" 2>&1
grep -qE '^lowrank_fwd_bwd 40x50 T=9 r=3 .*dropout 0.1: [0-9.]+ x \[' "$folder/share" && pass ||
    fail "--share" "$(cat "$folder/share")"
"$@" "$program" --peak >"$folder/peak" 2>&1
grep -qE '^peak_f32 ((avx2|avx512|neon): [0-9.]+ GF/s, threads 1|ref: no FMA probe)$' "$folder/peak" && pass ||
    fail "--peak" "$(cat "$folder/peak")"

refused() { # WHAT STATUS TEXT ARGUMENTS...
    local what=$1 status=$2 text=$3 said
    shift 3
    said=$("$@" 2>&1 >"$folder/out")
    [ $? -eq "$status" ] && grep -qF "$text" <<<"$said" && pass || fail "$what" "$said"
}
refused "a bad shape" 1 "$folder/bad: line 1: " "$@" "$program" --shapes "$folder/bad"
refused "a short shape" 1 "$folder/short: line 1: " "$@" "$program" --shapes "$folder/short"
refused "an unknown name" 1 "nameless: no shape" "$@" "$program" --shapes "$folder/shapes" --share nameless
refused "a bad instruction set" 1 "LODROP_ISA" env LODROP_ISA=mmx "$@" "$program" --shapes "$folder/shapes"
refused "a bad count" 2 "usage: " "$@" "$program" --threads many
finish
