#!/bin/bash
# Wide instructions stay in the object libraries of their instruction set (x86-64): folders *_avx512.dir may use
# everything, *_avx2.dir no zmm, opmask or register above 15, all others nothing that is VEX- or EVEX-encoded. And the
# object libraries of an instruction set define no symbol but variants of their own: a shared inline function that got
# out of line there could be the copy that other code is linked with. Nor do they call what kernels may not. Tests may do
# as they like.
#
#     registers.sh BUILD MACHINE
build=$1
machine=$2
. "$(dirname "$0")/count.sh"

objects=$(find "$build" \( -path '*/lod*.dir/*' -o -path '*/bench_peak*.dir/*' \) -name '*.o' | sort)
if [ -z "$objects" ]; then
    fail "no objects below the build folder"
    finish
fi

vex_integer='andn|bextr|bls[ir]|blsmsk|bzhi|mulx|pdep|pext|rorx|s[ah][lr]x'

check_x86() { # OBJECT FOLDER
    local banned
    case $2 in
    *_avx512) return ;;
    *_avx2) banned='%zmm|%k[0-7]|%[xy]mm(1[6-9]|2[0-9]|3[01])' ;;
    *) banned="%[yz]mm|%k[0-7]|:\\t(\\{.*\\} )?(v[a-z]|($vex_integer)[lq]? )" ;;
    esac
    expect_none "$2: $(basename "$1") has instructions beyond its set" \
        "$(objdump -d --no-show-raw-insn "$1" | grep -P "$banned")"
}

check_symbols() { # OBJECT FOLDER
    local isa=${2##*_}
    expect_none "$2: $(basename "$1") defines more than variants for $isa" \
        "$(nm --defined-only --extern-only "$1" | awk '{print $2, $3}' |
            grep -vE "^T lod_[a-z0-9_]+__$isa(_[0-9]+x[0-9]+)?$")"
}

# A kernel allocates nothing, takes no lock, prints nothing and asks nobody: it copies, and it calls SLEEF.
check_calls() { # OBJECT FOLDER
    expect_none "$2: $(basename "$1") calls what a kernel may not" \
        "$(nm --undefined-only "$1" | awk '{print $2}' |
            grep -vE '^(mem(cpy|set|move)|Sleef_[a-z0-9_]+|_GLOBAL_OFFSET_TABLE_|__stack_chk_fail|)$')"
}

for object in $objects; do
    folder=$(basename "$(sed -E 's|\.dir/.*||' <<<"$object")")
    [ "$machine" != x86_64 ] || check_x86 "$object" "$folder"
    case $folder in
    lod_avx2 | lod_avx512 | lod_neon)
        check_symbols "$object" "$folder"
        check_calls "$object" "$folder"
        ;;
    esac
done
[ "$machine" = x86_64 ] || skip "registers" "the check knows x86-64, the build is for $machine"
finish
