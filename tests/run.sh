#!/bin/sh
# Runs every test of a build folder and sums their last lines, `N passed, N failed, N skipped`. A test that crashes,
# runs out of time, or ends without that line counts as one failure. Shows what was skipped, and what failed tests said
# (but for their lines that start with ok).
#
#     tests/run.sh BUILD [ctest arguments, e.g. -R lowrank]
set -u
build=${1:?usage: tests/run.sh BUILD [ctest arguments]}
shift
ctest --test-dir "$build" --verbose --parallel "$(nproc)" "$@" 2>&1 | awk '
    function add(summary, part) {
        split(summary, part, "[ ,]+")
        passed += part[1]
        failed += part[3]
        skipped += part[5]
        return part[3]
    }
    # "7: text" is output of test number 7.
    /^[0-9]+: / {
        number = $1 + 0
        line = substr($0, index($0, ": ") + 2)
        if (line !~ /^ok /) {
            output[number] = output[number] "    " line "\n"
        }
        if (line ~ /^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$/) {
            summary[number] = line
        } else if (line ~ /[^ ]/) {
            summary[number] = ""
        }
        if (line ~ /^skip/) {
            skips[number] = skips[number] "       " line "\n"
        }
    }
    # "  3/12 Test  #7: name ......   Passed    0.10 sec"
    /^ *[0-9]+\/[0-9]+ Test +#[0-9]+: / {
        match($0, /#[0-9]+/)
        number = substr($0, RSTART + 1, RLENGTH - 1) + 0
        match($0, /#[0-9]+: [^ ]+/)
        name = substr($0, RSTART, RLENGTH)
        sub(/.*: /, "", name)
        match($0, /[0-9.]+ sec/)
        seconds = substr($0, RSTART, RLENGTH - 4)
        clean = $0 ~ / Passed +[0-9.]+ sec/
        bad = summary[number] == "" ? 0 : add(summary[number])
        told = summary[number] == "" ? "no last line" : summary[number]
        if (!bad && (!clean || summary[number] == "")) {
            failed++
            bad = 1
            match($0, /(Passed|\*\*\*[A-Za-z ]*[A-Za-z])/)
            told = told " (" substr($0, RSTART, RLENGTH) ")"
        }
        printf "%-4s %-28s %7s s  %s\n", bad ? "FAIL" : "ok", name, seconds, told
        printf "%s", bad ? output[number] : skips[number]
        fflush()
        tests++
    }
    END {
        if (!tests) {
            print "no tests were found"
            failed++
        }
        printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
        exit failed > 0
    }'
