#!/bin/sh
# lint.sh - the budgets of the source: lines to 100 columns, functions to 60 lines, files below
# 1,000 lines of code, no mutable file-scope variable, no tabs. Ends with `N passed, N failed`.
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
verdict globals "$(grep -nE '^(static )?(struct [a-z_]+|int|bool|char|unsigned|size_t|u?int[0-9]+_t) \*?[a-z_]+(\[[^]]*\])?( = .*)?;' ./*.c | grep -v const)"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
