#!/bin/sh
# lint.sh - the budgets of the source: lines to 100 columns, functions to 60 lines, files below
# 1,000 lines of code, no mutable file-scope variable, no tabs; and whether the READMEs' maps of it are
# true. Ends with `N passed, N failed`.
passed=0 failed=0

verdict() { # name, findings
    if [ -z "$2" ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'FAIL %s\n%s\n' "$1" "$2"
    fi
}

sources=$(ls ./*.c ./*.h)
# Columns are characters, not bytes: the texts of the codes are Chinese.
verdict columns "$(LC_ALL=C.UTF-8 grep -nE '.{101,}' $sources tests/*.c tests/*.h)"
verdict tabs "$(grep -n '	' $sources tests/*.c tests/*.h)"
verdict functions "$(for f in $sources; do
    awk -v f="$f" '/^[a-z_]+\(/ { name = $0; sub(/\(.*/, "", name) }
        /^{/ { start = NR }
        /^}/ { if (start && NR - start - 1 > 60)
                   print f ":" start ": " name "() has " NR - start - 1 " lines"; start = 0 }' "$f"
done)"
# Code is what is left without blank lines and comments, also those that begin behind code.
verdict files "$(for f in $sources; do
    n=$(awk 'comment { comment = !/\*\//; next }
        /^ *$/ { next }
        /^ *\/\*/ { comment = !/\*\//; next }
        { n++; comment = /\/\* / && !/\/\* .*\*\// }
        END { print n + 0 }' "$f")
    [ "$n" -ge 1000 ] && echo "$f: $n lines of code"
done)"
# The READMEs' maps name every file once, the server's in the order of the Makefile's; and functions
# are where they are said to be.
files=$(ls *.c *.h)
library=$(sed -n '/^LIB = /,/[^\\]$/p' Makefile | sed 's/LIB =//; s/\\//' | tr -s ' \t' '\n\n' | grep .)
for map in README.md README.zh-CN.md; do
    named=$(awk '/^## (Reading the code|阅读代码)/ { on = 1; next } /^## / { on = 0 }
        on && $1 == "|" && $2 ~ /\.[ch]$/ { print $2 }' $map)
    verdict "$map" "$({ echo "$named"; echo "$files"; } | sort | uniq -c |
        awk '$1 != 2 { print $2 ": not there, or not named once" }'
    [ "$(echo "$named" | grep -x -F "$library")" = "$library" ] || echo "another order than LIB's"
    sed 's/（/ (/g; s/）/)/g' $map | grep -oE '`[a-z_]+` \([a-z_]+\.[ch]\)' | tr -d '`()' |
        while read -r name file; do
            grep -q "^$name(" "$file" || echo "no $name() in $file"
        done)"
done
verdict globals "$(grep -nE '^(static )?(struct [a-z_]+|int|bool|char|unsigned|size_t|u?int[0-9]+_t) \*?[a-z_]+(\[[^]]*\])?( = .*)?;' ./*.c | grep -v const)"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
