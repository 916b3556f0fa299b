#!/bin/bash
# How the units were compiled: contraction is off in all of them, nothing relaxes IEEE arithmetic, and instruction sets
# are asked for in their own object libraries only.
#
#     flags.sh BUILD
build=$1
. "$(dirname "$0")/count.sh"

if [ ! -f "$build/compile_commands.json" ]; then
    skip "compiler flags" "the build has no compile_commands.json"
    finish
fi
commands=$(grep '"command":' "$build/compile_commands.json")
[ -n "$commands" ] && pass || fail "no unit was compiled"
short='s/.* -c //; s/",\?$//'
expect_none "units without -ffp-contract=off" "$(grep -v -e '-ffp-contract=off' <<<"$commands" | sed "$short")"
relaxed='-(ffast-math|Ofast|f(associative|unsafe|finite|reciprocal)|mrecip|ffp-contract=(on|fast))'
expect_none "units with relaxed arithmetic" "$(grep -E -e "$relaxed" <<<"$commands" | sed "$short")"
expect_none "units compiled for the machine at hand" "$(grep -E -e '-m(arch|cpu|tune)=' <<<"$commands" | sed "$short")"
expect_none "instruction sets asked for outside their object libraries" \
    "$(grep -E -e ' -m(avx|fma|f16c|bmi|sse)' <<<"$commands" | grep -vE '_avx(2|512)\.dir/' | sed "$short")"
finish
