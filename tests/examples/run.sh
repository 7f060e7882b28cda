#!/bin/sh
# run.sh - run every example against a real server: each *.sh beside this file but itself, which
# must end with a line `N passed, N failed` of its own. Their sum is the last line here. Needs JIM
# and JIM_SOURCE, absolute; `make check-examples` sets them. With arguments: only those.
cd "$JIM_SOURCE/tests/examples" || exit 1
log=$(mktemp) passed=0 failed=0
trap 'rm -f "$log"' EXIT
[ $# -gt 0 ] || set -- *.sh
for script; do
    [ "$script" = run.sh ] && continue
    sh "$script" > "$log" 2>&1
    status=$?
    cat "$log"
    # `3 passed, 1 failed` as two numbers; a script that broke off counts as a failure.
    counts=$(sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' "$log" | tail -n 1)
    p=${counts% *} f=${counts#* }
    if [ -z "$counts" ] || { [ "$status" -ne 0 ] && [ "$f" -eq 0 ]; }; then
        echo "FAIL $script: exit $status"
        p=0 f=1
    fi
    passed=$((passed + p)) failed=$((failed + f))
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
