#!/bin/bash
# The text of the tree: nothing left half-done, no place of one machine, no file that grew beyond reading.
#
#     hygiene.sh SOURCE
. "$(dirname "$0")/count.sh"
cd "$1" || exit 1

if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
    files=$(git ls-files --cached --others --exclude-standard)
else
    files=$(find . \( -name 'build*' -o -name '.?*' \) -prune -o -type f -print)
fi
# Text that people write; this file has to name what it looks for.
texts=$(grep -lIE '' $files 2>/dev/null |
    grep -vE '(^|/)(LICENSE|tests/structure/hygiene\.sh)$|\.(svg|json|jsonl|vocab)$')
[ -n "$texts" ] && pass || fail "no files"

expect_none "left half-done" "$(grep -nE 'TODO|FIXME|HACK|#if 0|^(SPEED|DEMO)$' $texts)"
expect_none "places of one machine" \
    "$(grep -nE '(^|[^A-Za-z0-9_.])/(work|home|root|Users|mnt|opt)/|\.\./shared' $texts |
        grep -v '^\.ci/run:.*\.\./shared/data')"
expect_none "numbers of a tracker" "$(grep -niE '\bissue #?[0-9]' $texts)"
expect_none "registry hosts" "$(grep -nE 'pypi\.|pythonhosted|huggingface\.co|download\.pytorch' $texts)"
expect_none "files over 600 lines" "$(wc -l $(grep -E '\.(c|h|cpp|py|sh|cmake)$|Makefile$|CMakeLists.txt$' <<<"$texts") |
    awk '$1 > 600 && $2 != "total" {print $2 ": " $1 " lines"}')"
expect_none "lines over 120 columns in code" \
    "$(awk 'length > 120 {print FILENAME ":" FNR ": " length " columns"}' $(grep -E '\.(c|h|cpp|def)$' <<<"$texts"))"
expect_none "tabs or trailing blanks in code" \
    "$(grep -nP '\t|[ \t]+$' $(grep -E '\.(c|h|cpp|def|py|sh|cmake)$' <<<"$texts"))"
finish
