#!/bin/bash
# What liblodrop.so exports is what include/lodrop.h declares, and all of it starts with lod_.
#
#     symbols.sh LIBRARY HEADER
library=$1
header=$2
. "$(dirname "$0")/count.sh"

exported=$(nm -D --defined-only "$library" | awk '{print $3}' | sed 's/@.*//' | sort -u)
# Names before a parenthesis on a LOD_API line; the line after one that ends before its name is not ours to guess.
declared=$(grep -oE '^LOD_API [^(]*\(' "$header" | sed -E 's/.*[ *]([a-z0-9_]+)\($/\1/' | sort -u)

if [ -z "$exported" ] || [ -z "$declared" ]; then
    fail "nothing to compare: $(wc -w <<<"$exported") exported, $(wc -w <<<"$declared") declared"
fi
expect_none "every LOD_API line names a function" "$(grep -nE '^LOD_API [^(]*$' "$header")"
expect_none "exported names start with lod_" "$(grep -v '^lod_' <<<"$exported")"
expect_none "exported, but not in $(basename "$header")" "$(comm -23 <(echo "$exported") <(echo "$declared"))"
expect_none "in $(basename "$header"), but not exported" "$(comm -13 <(echo "$exported") <(echo "$declared"))"
finish
