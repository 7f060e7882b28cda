#!/bin/sh
# bench_doc.sh NAME - run build/bench-NAME and put what it prints into docs/benchmarks.md, between
# NAME's marks, behind what was run and when. Stores are made in BENCH_DIR (/tmp) and go with it.
doc=docs/benchmarks.md
out=$(mktemp -d "${BENCH_DIR:-/tmp}/bench.XXXXXX") || exit 1
trap 'rm -rf "$out"' EXIT
trap 'exit 1' HUP INT TERM
# What was asked for, as it would be typed.
asked=$(env | sort | sed -n '/^BENCH_DIR=/d; /^BENCH_/{ s/=\(.*[^A-Za-z0-9.].*\)$/="\1"/; p; }' | tr '\n' ' ')
BENCH_DIR=$out
export BENCH_DIR
{
    printf '\n```\n$ %smake bench-%s         # %s, Linux %s, %s CPUs\n```\n\n' "$asked" "$1" \
        "$(date -u +%Y-%m-%d)" "$(uname -r | sed 's/-.*//')" "$(getconf _NPROCESSORS_ONLN)"
    "build/bench-$1" || exit 1
    echo
} > "$out/table" || exit 1
cat "$out/table"
awk -v table="$out/table" -v name="$1" '$0 == "<!-- end " name " -->" { on = 0 } !on
    $0 == "<!-- " name " -->" { on = 1; while ((getline line < table) > 0) print line }' $doc \
    > "$out/doc" && cat "$out/doc" > $doc
