#!/bin/bash
# lodrop-bench runs all it has without an error, under names of the form <operation>_<dtype>/<recipe>/<shape>, and
# refuses bad input. Speed is not looked at.
#
#     bench.sh PROGRAM [EMULATOR...]
program=$1
shift
here=$(dirname "$0")
. "$here/count.sh"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export TMPDIR=$folder/tmp
mkdir "$TMPDIR"

cat >"$folder/shapes" <<'END'
small 9 40 50 3 # tokens n_in n_out rank
attention tiny 20 4 2 24 # tokens heads kv_heads head_dim
loss tiny 9 40 70 # tokens n_in vocabulary
rowwise tiny 9 48 70 3 # tokens width middle heads
END
echo 'attention tiny 20 4' >"$folder/short"
echo 'small 9 40 fifty 3' >"$folder/bad"
echo 'rowwise tiny 9 50 70 3' >"$folder/uneven"

refused() { # WHAT STATUS TEXT ARGUMENTS...
    local what=$1 status=$2 text=$3 said
    shift 3
    said=$("$@" 2>&1 >"$folder/out")
    [ $? -eq "$status" ] && grep -qF "$text" <<<"$said" && pass || fail "$what" "$said"
}
bench() { # ARGUMENTS...: lodrop-bench on small shapes, with caches of 1 MiB in mind
    "${run[@]}" --shapes "$folder/shapes" --cold 1 --benchmark_color=false --benchmark_min_time=0.001 "$@"
}
run=("$@" "$program")

# --- every benchmark, once ---
bench --benchmark_repetitions=1 --benchmark_out="$folder/bench.json" >"$folder/table" 2>"$folder/errors" && pass ||
    fail "benchmarks" "$(tail -n 5 "$folder/errors")"
rows=$(grep -E '^[a-z0-9_]+/' "$folder/table")
names=$(cut -d' ' -f1 <<<"$rows")
expect_none "skipped" "$(grep ERROR <<<"$rows")"
expect_none "listed but not run, or the other way round" \
    "$(diff <(bench --benchmark_list_tests 2>"$folder/errors" | sort) <(sort <<<"$names") | grep '^[<>]')"
expect_none "names" "$(grep -vE \
    '^(keep_bits|[a-z_]+_(f32|bf16))/(ref|avx2|avx512|neon)(_[0-9]+x[0-9]+)?/[a-z0-9._]+(/(hot|cold))?$' <<<"$names")"
"${run[@]}" --benchmark_list_tests >"$folder/list" 2>&1 && pass || fail "the shapes of models" "$(tail -n 5 "$folder/list")"

# --- the report shows all of it ---
said=$("$here/../../bench/report.py" "$folder/bench.json" "$folder" 2>&1) && pass || fail "report.py" "$said"
expect_none "not in the report" "$(diff <(grep -oE '^\| `[^`]+`' "$folder/report.md" | tr -d '|` ' | sort) \
    <(sort <<<"$names") | grep '^[<>]')"
if grep -q '^read_f32/' <<<"$names"; then
    python3 -c 'import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])' "$folder/roofline.svg" 2>/dev/null &&
        grep -q 'lowrank_fwd_f32/[a-z0-9]*/small_t9_frozen: ' "$folder/roofline.svg" && pass || fail "roofline.svg"
fi
echo '{"context": {}}' >"$folder/empty.json"
refused "an empty report" 1 "$folder/empty.json: " "$here/../../bench/report.py" "$folder/empty.json" "$folder"

# --- nothing is left out: each kernel on every instruction set that any kernel runs on, and each whole call ---
isas=$(grep -oE '^add_f32/[a-z0-9]+/.*/hot$' <<<"$names" | cut -d/ -f2 | sort -u)
[ -n "$isas" ] && pass || fail "no add_f32"
for operation in $(sed -nE 's/^LOD_(OP|VECTOR)\(([a-z0-9_]+)\)$/\2/p' "$here/../../kernels/kernels.def"); do
    for isa in $isas; do
        grep -qE "^$operation/$isa(_[0-9]+x[0-9]+)?/[^/]+/hot$" <<<"$names" && pass || fail "no $operation on $isa"
    done
done
for name in {lowrank_{fwd,bwd,fwd_bwd}_f32/@/small_t9_{frozen,r3,r3_p0.1},lowrank_fwd_{f32,bf16}/@/small_t9_frozen/cold} \
    attention_{fwd,bwd,fwd_bwd}_f32/@/tiny_t20{,_column_p0.5,_element_p0.1,_weight_p0.1} loss_{fwd,fwd_bwd}_f32/@/tiny_t9 \
    {rmsnorm_fwd,rmsnorm_bwd,rope,silu_mul_fwd,silu_mul_bwd,add,adamw}_f32/@/tiny_t9; do
    grep -qxE "${name/@/[a-z0-9]+}" <<<"$names" && pass || fail "no $name"
done

# --- the other ways to measure ---
"${run[@]}" --shapes "$folder/shapes" --share small --rounds 2 >"$folder/share" 2>&1
grep -qE '^lowrank_fwd_bwd 40x50 T=9 r=3 .*dropout 0.1: [0-9.]+ x \[' "$folder/share" && pass ||
    fail "--share" "$(cat "$folder/share")"
if [ ${#run[@]} -gt 1 ]; then
    skip "--growth" "its layers take minutes under an emulator"
else
    "${run[@]}" --growth --rounds 1 >"$folder/growth" 2>&1
    [ "$(grep -cE '^(T|n_in|n_out) .* R\^2 [0-9.-]+$' "$folder/growth")" = 3 ] && pass ||
        fail "--growth" "$(cat "$folder/growth")"
fi
"${run[@]}" --peak >"$folder/peak" 2>&1
grep -qE '^peak_f32 ((avx2|avx512|neon): [0-9.]+ GF/s, threads 1|ref: no FMA probe)$' "$folder/peak" && pass ||
    fail "--peak" "$(cat "$folder/peak")"
"${run[@]}" --bandwidth --cold 1 --threads 2 >"$folder/bandwidth" 2>&1
[ "$(grep -cE '^read_f32 ((avx2|avx512|neon): [0-9.]+ GB/s, threads [12]|ref: no probe)$' "$folder/bandwidth")" = 2 ] &&
    pass || fail "--bandwidth" "$(cat "$folder/bandwidth")"

# --- against an earlier run, whose units are changed to make it one of a slower, and of a faster machine ---
few=(--benchmark_repetitions=9 --benchmark_filter='^(add|sum)_f32/.*hot$')
count=$(grep -cE '^add_f32/.*hot$' <<<"$names")
against() { # WHAT PATTERN FILE
    bench "${few[@]}" --against "$3" >"$folder/out" 2>&1
    tail -n 1 "$folder/out" | grep -qE "^against $3: $2" && pass || fail "--against $1" "$(tail -n 9 "$folder/out")"
}
if grep -q 'needs Jansson' <<<"$("${run[@]}" --against none 2>&1)"; then
    skip "--against" "built without Jansson"
else
    bench "${few[@]}" --benchmark_out="$folder/old.json" >"$folder/out" 2>&1 && pass || fail "--benchmark_out"
    sed 's/"time_unit": "us"/"time_unit": "ms"/' "$folder/old.json" >"$folder/slow.json"
    sed 's/"time_unit": "us"/"time_unit": "ns"/' "$folder/old.json" >"$folder/fast.json"
    sed 's/"add_f32/"sum_f32/' "$folder/old.json" >"$folder/other.json"
    sed 's/"threads": "1"/"threads": "2"/' "$folder/old.json" >"$folder/threads.json"
    sed 's/"repetition_index": [2-8]/"run_type": "none"/' "$folder/old.json" >"$folder/few.json"
    head -n 9 "$folder/old.json" >"$folder/cut.json"
    against "itself" "[0-9]+ slower, [0-9]+ faster, [0-9]+ within .*, 0 new, 0 gone" "$folder/old.json"
    against "slower" "0 slower, $count faster, 0 within .*, 0 new, 0 gone" "$folder/slow.json"
    against "faster" "$count slower, 0 faster, 0 within .*, 0 new, 0 gone" "$folder/fast.json"
    against "others" "0 slower, 0 faster, 0 within .*, $count new, $count gone" "$folder/other.json"
    for bad in none cut few threads; do
        refused "$bad.json" 1 "$folder/$bad.json: " bench "${few[@]}" --against "$folder/$bad.json"
    done
    refused "too few repetitions" 1 "has fewer than 3 repetitions" bench "${few[@]}" --benchmark_repetitions=2 \
        --against "$folder/old.json"
    [ -z "$(ls -A "$TMPDIR")" ] && pass || fail "temporary files" "$(ls -A "$TMPDIR")"
fi

# --- bad input ---
refused "a bad shape" 1 "$folder/bad: line 1: " "$@" "$program" --shapes "$folder/bad"
refused "a short shape" 1 "$folder/short: line 1: " "$@" "$program" --shapes "$folder/short"
refused "uneven heads" 1 "$folder/uneven: line 1: " "$@" "$program" --shapes "$folder/uneven"
refused "an unknown name" 1 "nameless: no shape" "$@" "$program" --shapes "$folder/shapes" --share nameless
refused "a bad instruction set" 1 "LODROP_ISA" env LODROP_ISA=mmx "$@" "$program" --shapes "$folder/shapes"
refused "a bad count" 2 "lodrop-bench: --threads: 'many' is not in 1..1024" "$@" "$program" --threads many
finish
