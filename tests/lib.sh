#!/bin/sh
# lib.sh - the libraries from outside: both headers as C11 and C++11, alone and together, with gcc and
# clang; only names that begin with jim_ are visible; the README's program links with either library
# and runs. Needs gcc, g++, clang, nm. Ends with `N passed, N failed`.
passed=0 failed=0 dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

check() { # NAME COMMAND...
    name=$1
    shift
    if "$@" > "$dir/out" 2>&1; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAIL $name"
        head -n 20 "$dir/out"
    fi
}

strict="-Wall -Wextra -Wpedantic -Wundef -Werror -fsyntax-only -I."
for headers in jim.h jim_client.h "jim.h jim_client.h" "jim_client.h jim.h"; do
    for h in $headers; do echo "#include \"$h\""; done > "$dir/h.c"
    echo 'int main(void) { return 0; }' >> "$dir/h.c"
    cp "$dir/h.c" "$dir/h.cc"
    for cc in gcc clang; do
        check "$cc: $headers" $cc -std=c11 -Wstrict-prototypes $strict "$dir/h.c"
    done
    for cc in g++ clang++; do
        check "$cc: $headers" $cc -std=c++11 $strict "$dir/h.cc"
    done
done

# Names that are defined for others to see, without those of ours.
foreign() {
    nm "$@" | awk 'NF == 3 && $3 !~ /^jim_/ { print; bad = 1 } END { exit bad }'
}
check "names of libjim.so.0" foreign -D --defined-only libjim.so.0
check "names of libjim.a" foreign -g --defined-only libjim.a
ours() {
    grep -oE '^JIM_API [^(]*\bjim_[a-z_]+\(' jim.h jim_client.h | grep -oE 'jim_[a-z_]+\(' |
        tr -d '(' | sort > "$dir/declared"
    nm -D --defined-only libjim.so.0 | awk '{ print $3 }' | sort > "$dir/defined"
    diff "$dir/declared" "$dir/defined" && [ -s "$dir/declared" ]
}
check "every function that is declared is there, and no other" ours
soname() { readelf -d libjim.so.0 | grep -q 'SONAME.*\[libjim\.so\.0\]'; }
check "soname" soname

# The program in the README, until it is asked to end.
awk '/^## Embedding/ { on = 1 } on && /^```/ { code = !code; if (!code) exit; next } code' README.md \
    > "$dir/embed.c"
sed -e 's/    fflush(stdout);/&\n        jim_stop(j);/' "$dir/embed.c" > "$dir/stops.c"
runs() { # LIBRARY...
    cc -std=c11 -Wall -Wextra -Werror -I. -o "$dir/embed" "$dir/stops.c" "$@" -lpthread &&
        (cd "$dir" && LD_LIBRARY_PATH=$here ./embed) | grep -q '^listening on 127'
}
here=$PWD
check "README: libjim.a" runs libjim.a $LIBS
check "README: libjim.so" runs -L. -ljim
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
