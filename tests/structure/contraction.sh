#!/bin/bash
# In the object libraries of the instruction sets no expression could be contracted (a * b + c rounded once instead of
# twice): the compiler makes the same object as the build has, or the same assembly, when it is allowed to. So the bits do
# not hang on a flag.
#
#     contraction.sh BUILD
build=$1
. "$(dirname "$0")/count.sh"

if [ ! -f "$build/compile_commands.json" ]; then
    skip "contraction" "the build has no compile_commands.json"
    finish
fi
cd "$build" || exit 1
units=$(sed -nE 's/^ *"command": "(.*lod_(avx2|avx512|neon)\.dir.*)",?$/\1/p' compile_commands.json |
    sed 's/\\"/"/g; s/\\\\/\\/g')
if [ -z "$units" ]; then
    skip "contraction" "this build has no kernels with an instruction set of their own"
    finish
fi
relaxed_object=$(mktemp)
trap 'rm -f "$relaxed_object"' EXIT
while read -r command; do
    object=${command##* -o }
    object=${object%% *}
    eval "${command%% -o *} -ffp-contract=fast -o $relaxed_object -c ${command##* -c }"
    if cmp -s "$object" "$relaxed_object"; then
        pass
        continue
    fi
    command="${command% -o *} -g0 -S ${command##* -c }"
    strict=$(eval "$command -o -")
    relaxed=$(eval "${command/-ffp-contract=off/-ffp-contract=fast} -o -")
    if [ -z "$strict" ]; then
        fail "does not compile: $command"
    else
        expect_none "contractible: ${command##* }" "$(diff <(echo "$strict") <(echo "$relaxed"))"
    fi
done <<<"$units"
finish
