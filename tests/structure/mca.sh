#!/bin/bash
# bench/mca.py finds the inner loops of the product kernels of this build, and llvm-mca takes them: between half and all
# of the time is multiply-adds.
#
#     mca.sh BUILD MACHINE
. "$(dirname "$0")/count.sh"
build=$1
case $2 in
x86_64) isa=avx2 ;;
aarch64) isa=neon ;;
*) isa= ;;
esac
if ! compgen -c llvm-mca | grep -q . || [ -z "$isa" ]; then
    skip "llvm-mca" "it is not installed, or knows no kernels for $2"
    finish
fi
table=$("$(dirname "$0")/../../bench/mca.py" "$build" 2>&1) && pass || fail "mca.py" "$table"
for kernel in lowrank attention; do
    grep -qE "^\| ${kernel}_tile_f32__${isa}_[0-9]+x[0-9]+ .* \| (0\.[5-9][0-9]|1\.00) \|$" <<<"$table" && pass ||
        fail "no inner loop of $kernel" "$table"
done
finish
