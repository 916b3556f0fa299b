# What the structural checks share: counting. Sourced.
set -u
export LC_ALL=C
passed=0
failed=0
skipped=0

pass() {
    passed=$((passed + 1))
}

fail() { # WHAT [DETAILS, as lines]
    echo "FAIL $1"
    [ -z "${2:-}" ] || printf '%s\n' "$2" | sed -n 's/^/     /; 1,20p'
    failed=$((failed + 1))
}

skip() { # WHAT WHY
    echo "skip $1: $2"
    skipped=$((skipped + 1))
}

# Fails with DETAILS if there are any.
expect_none() { # WHAT DETAILS
    if [ -n "$2" ]; then fail "$1" "$2"; else pass; fi
}

finish() {
    echo "$passed passed, $failed failed, $skipped skipped"
    exit $((failed > 0))
}
