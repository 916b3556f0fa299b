#!/bin/bash
# The example runs and prints a number, and is the one that the README shows.
#
#     example.sh SOURCE PROGRAM [EMULATOR...]
source=$1
program=$2
shift 2
. "$(dirname "$0")/count.sh"

printed=$("$@" "$program" 2>&1)
if [ $? -eq 0 ] && grep -qE '[0-9]\.[0-9]' <<<"$printed"; then
    pass
else
    fail "examples/lowrank.c" "$printed"
fi
block=$(awk '/^```c$/ {inside = 1; next} /^```$/ {inside = 0} inside' "$source/README.md" 2>/dev/null)
if [ -z "$block" ]; then
    skip "README's example" "README.md has no block of C"
else
    expect_none "README.md shows another example than examples/lowrank.c" \
        "$(diff <(echo "$block") "$source/examples/lowrank.c")"
fi
finish
