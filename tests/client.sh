#!/bin/sh
# client.sh - what `make check-client` runs: build/flap; the headers in C++; the libraries' symbols;
# the example of docs/client.md, built as it says and run under valgrind against JIM.
# Ends with `N passed, N failed`.
passed=0 failed=0
dir=$(mktemp -d)
server=
trap '[ -n "$server" ] && kill "$server"; rm -rf "$dir"' EXIT

until_true() { # command...: at most two minutes, which only a hang takes
    tries=0
    until "$@" > /dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 1200 ] || return 1
        sleep 0.1
    done
}

verdict() { # name, what is wrong
    if [ -z "$2" ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'FAIL %s\n%s\n' "$1" "$2"
    fi
}

build/flap > "$dir/flap" 2>&1
grep -v passed, "$dir/flap"
counts=$(tail -n 1 "$dir/flap")
case $counts in
*passed,*) passed=$((passed + ${counts%% passed*})) failed=$((failed + $(echo "$counts" |
    sed 's/.*passed, \([0-9]*\).*/\1/'))) ;;
*) verdict flap "it did not end; its last lines were
$(tail -n 50 "$dir/flap")" ;;
esac

for header in jim.h jim_client.h; do
    printf '#include "%s"\n#include "%s"\n' "$header" "$header" > "$dir/h.cc"
    verdict "$header in C++" \
        "$(g++ -std=c++11 -Wall -Wextra -Wpedantic -Werror -I. -c -o /dev/null "$dir/h.cc" 2>&1)"
done

verdict "libjimclient.a shows jim_ only" \
    "$(nm -g --defined-only libjimclient.a | grep ' [A-Z] ' | grep -v ' jim_')"
verdict "libjimclient.so shows jim_ only" \
    "$(nm -D --defined-only libjimclient.so | grep ' [A-Z] ' | grep -v ' jim_')"
verdict "libjimclient.so has the whole interface" "$(sed -n 's/^JIM_API .*[ *]\(jim_[a-z_]*\)(.*/\1/p' \
    jim_client.h | while read -r name; do
        nm -D --defined-only libjimclient.so | grep -q " T $name\$" || echo "$name"
    done)"

# The example, extracted; it answers, and ends when another logs in in its place.
sed -n '/^```c$/,/^```$/p' docs/client.md | grep -v '^```' > "$dir/hello.c"
verdict "the example has 30 lines" "$([ "$(wc -l < "$dir/hello.c")" -le 32 ] || wc -l "$dir/hello.c")"
verdict "the example builds" "$(${CC:-cc} -std=c11 -Wall -Wextra -Wpedantic -Werror -I. \
    -o "$dir/hello" "$dir/hello.c" libjimclient.a ${LIBS:--lpthread} 2>&1)"
"$JIM" -p 0 -d "$dir/data" -o jim.login.policy=one > "$dir/out" 2> "$dir/log" &
server=$!
until_true grep -q listening "$dir/out" || cat "$dir/log"
port=$(sed -n 's/.*listening on .*:\([0-9]*\).*/\1/p' "$dir/out" | head -n 1)
online() {
    curl -s "http://127.0.0.1:$port/api/user/online?userid=$1" | grep -q 10019
}
# What he answers waits for ann.
answered() {
    curl -s "http://127.0.0.1:$port/api/message/offline?userId=ann" | grep -q "\"from\":\"$1\""
}
for url in tcp ws; do
    timeout 300 valgrind -q --leak-check=full --error-exitcode=9 "$dir/hello" \
        "$url://127.0.0.1:$port" "echo-$url" > "$dir/hello.out" 2> "$dir/hello.err" &
    hello=$!
    until_true online "echo-$url"
    curl -s -d "{\"chatType\":2,\"from\":\"ann\",\"to\":\"echo-$url\",\"content\":\"hi\"}" \
        "http://127.0.0.1:$port/api/message/send" > /dev/null
    verdict "the example answers over $url" \
        "$(until_true answered "echo-$url" || { echo no; cat "$dir/hello.err" "$dir/log"; })"
    timeout 300 "$dir/hello" "$url://127.0.0.1:$port" "echo-$url" > /dev/null 2>&1 &
    other=$!
    wait "$hello"
    verdict "the example is clean under valgrind over $url" \
        "$(grep -q 'logged in elsewhere' "$dir/hello.err" && ! grep -q == "$dir/hello.err" ||
            { echo no; cat "$dir/hello.err"; })"
    kill "$other" 2> /dev/null
    wait "$other" 2> /dev/null
done

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
