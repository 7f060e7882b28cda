#!/bin/sh
# bench_peers.sh - run build/bench-peers and put what it prints into docs/benchmarks.md, between the
# marks, behind what was run and when.
doc=docs/benchmarks.md
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
{
    printf '\n```\n$ make bench-peers         # %s, Linux %s, %s CPUs\n```\n\n' \
        "$(date -u +%Y-%m-%d)" "$(uname -r | sed 's/-.*//')" "$(getconf _NPROCESSORS_ONLN)"
    build/bench-peers || exit 1
    echo
} > "$out/table" || exit 1
cat "$out/table"
awk -v table="$out/table" '/<!-- end peers -->/ { on = 0 } !on
    /<!-- peers -->/ { on = 1; while ((getline line < table) > 0) print line }' $doc > "$out/doc" &&
    cat "$out/doc" > $doc
