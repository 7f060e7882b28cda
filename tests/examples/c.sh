#!/bin/sh
# c.sh - the examples in C, built against libjim.a: each serves real sockets under valgrind, which
# must find no error and no leak, and is looked at by c.py (valgrind, python3).
. ./begin

# run NAME: start it, have it looked at, end it; 0 when all went well.
run() {
    : > ready
    rm -f console
    mkfifo console
    valgrind -q --log-file=found --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=all \
        --show-leak-kinds=all "$root/build/examples/$1" 0 < console > ready 2> log &
    server=$!
    exec 8> console # closed, it ends embed.c; the others do not read it
    until_true grep -q listening ready || { cat log; return 1; }
    python3 "$root/tests/examples/c.py" "$1" "$(sed 's/.*://' ready)"
    looked=$?
    exec 8>&-
    [ "$1" = embed ] || kill "$server"
    wait "$server"
    ended=$?
    [ "$looked" -eq 0 ] && [ "$ended" -eq 0 ] && [ ! -s found ] && return 0
    cat log found
    return 1
}

for name in echo_bot login filter command telnet embed; do
    check "examples/$name.c" run "$name"
done
lines() { [ "$(wc -l < "$root/examples/telnet.c")" -le 80 ]; }
check "a protocol of its own in 80 lines" lines
end
