#!/bin/bash
# Arithmetic that would differ between instruction sets or compilers does not occur: approximations, multiply-adds that
# may round once or twice, horizontal intrinsics, libm. Comments may name them. (contraction.sh sees a * b + c.)
#
#     bans.sh SOURCE
. "$(dirname "$0")/count.sh"
cd "$1" || exit 1

simd="kernels/avx2 kernels/avx512 kernels/neon kernels/vector"
everywhere="kernels dispatch autotune trainer"

banned() { # WHAT PATTERN FOLDERS...
    local what=$1 pattern=$2
    shift 2
    expect_none "$what" "$(grep -rnP --include='*.[ch]' --include='*.cpp' -e "^((?!//).)*($pattern)" "$@")"
}

banned "approximate reciprocals and roots" '_(rsqrt|rcp)[0-9]*_|vrsqrte|vrecpe|\brsqrt' $everywhere
banned "multiply-add of unspecified rounding" 'vml[as](q|l)?_' $everywhere
banned "horizontal intrinsics" '_mm[0-9]*_(mask_)?(reduce|hadd|hsub)_|_mm[0-9]*_dp_|\bvaddvq?_f|\bvpaddq?_f' $everywhere
banned "dot products that round differently" 'dpbf16|bfdot|bfmla' $everywhere
banned "SLEEF functions that are not reproducible" 'Sleef_(?!finz_)' $simd
banned "libm where machines must agree" '\b(exp|exp2|expm1|log|log2|log1p|pow|cbrt|hypot|sin|cos|tan|tanh|erf)f? *\(' \
    $simd dispatch autotune trainer
expect_none "relaxed arithmetic in build files" \
    "$(grep -nE 'ffast-math|Ofast|funsafe-math|fp-contract=(fast|on)' CMakeLists.txt Makefile ./*/*.cmake)"
finish
