#!/bin/bash
# The public header compiles alone, as C11 and as C++17.
#
#     header.sh HEADER CC CXX
header=$1
cc=$2
cxx=$3
. "$(dirname "$0")/count.sh"

warnings='-Wall -Wextra -Wpedantic -Werror -fsyntax-only'
expect_none "C11" "$(echo "#include \"$header\"" | $cc $warnings -std=c11 -x c - 2>&1)"
expect_none "C++17" "$(echo "#include \"$header\"" | $cxx $warnings -std=c++17 -x c++ - 2>&1)"
finish
