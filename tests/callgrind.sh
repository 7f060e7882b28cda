#!/bin/sh
# callgrind.sh - instructions a message, counted by valgrind in build/bench-path, held against the
# table between the callgrind marks of docs/benchmarks.md. Fails when one has grown by more than 5 %:
# then find out why, or `make callgrind RECORD=1` and say in the commit why it is worth it.
# Counted twice, with N and 2 N deliveries: the difference is free of start, logins and end.
doc=docs/benchmarks.md passed=0 failed=0 rows=
works="tcp-1 tcp-64 tcp-16-1024 tcp-g100 ws-1 ws-64 ws-g100 tcp-1-store tcp-64-store"
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

count() { # WORK DELIVERIES
    valgrind --tool=callgrind --callgrind-out-file="$out/cg" --collect-atstart=no \
        --toggle-collect=serve build/bench-path "$1" "$2" > "$out/log" 2>&1 || cat "$out/log" >&2
    awk '/Collected/ { print $4 }' "$out/log"
}

for work in $works; do
    n=1600
    few=$(count "$work" $n) many=$(count "$work" $((2 * n)))
    if [ -z "$few" ] || [ -z "$many" ]; then
        failed=$((failed + 1))
        continue
    fi
    got=$(((many - few) / n))
    was=$(awk -F'|' -v w="$work" '{ gsub(/[ `]/, "", $2) }
        /<!-- callgrind -->/ { on = 1 } /<!-- end callgrind -->/ { on = 0 }
        on && $2 == w { print $3 + 0 }' $doc)
    rows="$rows$(printf '| `%s` | %d |' "$work" "$got")
"
    if [ -n "$RECORD" ]; then
        echo "$work: $got"
    elif [ -n "$was" ] && [ $((got * 100)) -le $((was * 105)) ]; then
        passed=$((passed + 1))
        echo "$work: $got, recorded $was"
    else
        failed=$((failed + 1))
        echo "FAIL $work: $got instructions a delivery, recorded ${was:-none}"
    fi
done
if [ -n "$RECORD" ]; then
    printf '%s' "$rows" > "$out/rows"
    awk -v rows="$out/rows" '/<!-- end callgrind -->/ { on = 0 } !on
        /<!-- callgrind -->/ { on = 1; print "\n| work | instructions |\n|------|-------------:|"
            while ((getline line < rows) > 0) print line
            print "" }' $doc > "$out/doc" && cat "$out/doc" > $doc
    exit
fi
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
