#!/usr/bin/env bash
# all.sh - every check there is: what `make check-all` runs, and CI (.ci/run). The list below is the
# only one. `make test` comes first, then PACKAGES, a command that installs what the others want, if
# it is set. The rest runs in streams beside one another, each in a copy of the tree of its own. A
# step is shown when it is over; one that fails, with the end of its output. With arguments: only
# the steps of these names. The last line is `N passed, N failed`, over everything.
set -u
limit=${LIMIT:-1800} # seconds until a step counts as hung
export MAKEFLAGS=-j2 # two jobs, and nothing that was said to `make check-all`

# STREAM NAME COMMAND. `a` computes all the time, `b` and `c` wait a good deal as well.
steps='
a lint make lint
a man mandoc -T lint -W warning jim.8 jim-cli.1
a werror make werror
a asan make asan
a tsan make tsan
a fuzz make fuzz FUZZ_TIME=10
a analyze make analyze
b limits make limits
b poll make check-poll
b kqueue make check-kqueue
b check-tls make check-tls
b tls-clients make tls-clients
b proxies make check-proxies
b node make check-node
b import-redis make import-redis
b check-redis make check-redis
b browser make browser
b examples make check-examples
b lib make check-lib
b install make check-install
b ppc make check-ppc
c kill make kill
c check-client make check-client
c cluster make check-cluster
c cluster-chaos make cluster-chaos
c redis-cluster-chaos make cluster-chaos CHAOS="-c -u 40 -t 50"
c check-cli make check-cli
c crash make crash
c crash-asan make crash-asan
c callgrind make callgrind
c crash-planted make crash-planted
c mac make check-mac
'

cd "$(dirname "$0")/.." || exit 1
log=$(mktemp -d)
only=" $* "

# What is in progress has its process in a *.pid; that of a step ends all that the step has started.
clean_up() {
    for pid in "$log"/*.pid; do
        [ -f "$pid" ] && kill "$(cat "$pid" 2> /dev/null)" 2> /dev/null
    done
    rm -rf "$log"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

wanted() { [ "$only" = "  " ] || [[ $only == *" $1 "* ]]; }

# step NAME COMMAND: run it; its output goes to $log/NAME. Prints a line for report().
step() {
    local name=$1 command=$2 status TIMEFORMAT='%0R %0U %0S'
    wanted "$name" || return 0
    { time { (
        echo "$BASHPID" > "$log/$name.pid"
        exec timeout -k 10 "$limit" bash -c "$command" > "$log/$name" 2>&1
    ); }; } 2> "$log/$name.time"
    status=$?
    rm "$log/$name.pid"
    [ "$status" -ne 124 ] || echo "FAIL $name: not done after $limit s" >> "$log/$name"
    echo "$name $status $(tail -n 1 "$log/$name.time") $command"
}

# stream LETTER DIR: its steps in turn, in that directory.
stream() {
    local letter name command
    echo "$BASHPID" > "$log/stream-$1.pid"
    cd "$2" || return
    while read -r letter name command; do
        if [ "$letter" = "$1" ]; then step "$name" "$command" < /dev/null; fi
    done <<< "$steps"
    rm "$log/stream-$1.pid"
}

run() {
    local copy
    echo "$BASHPID" > "$log/run.pid"
    step test 'make test' < /dev/null
    [ -z "${PACKAGES:-}" ] || step packages "$PACKAGES" < /dev/null
    for copy in b c; do
        cp -a . "$log/$copy"
    done
    stream a . &
    stream b "$log/b" &
    stream c "$log/c" &
    wait
    rm "$log/run.pid"
}

# Show each step that is over, and add up the `N passed, N failed` lines they end with.
report() {
    local name status wall user system command counts seen=' ' passed=0 failed=0
    while read -r name status wall user system command; do
        printf '\n=== %s: %s\n' "$name" "$command"
        seen="$seen$name "
        counts=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$log/$name" | tail -n 1)
        if [ -n "$counts" ]; then
            passed=$((passed + ${counts%% *}))
            counts=${counts#*passed, }
            failed=$((failed + ${counts%% *}))
        fi
        if [ "$status" -ne 0 ]; then
            # What failed, with what it says of it, and the end of everything.
            grep -A 60 '^FAIL' "$log/$name" | head -n 400
            printf '... the last lines of %s:\n' "$name"
            tail -n 120 "$log/$name"
            case $counts in
            "0 failed"* | "") failed=$((failed + 1)) ;; # it broke before or after its tests
            esac
        else
            grep -E 'note: |passed, ' "$log/$name"
        fi
        printf -- '--- %s: exit %d after %d s, %d s of them computing\n' "$name" "$status" "$wall" \
            $((user + system))
    done
    while read -r _ name command; do
        if wanted "$name" && [[ $seen != *" $name "* ]]; then
            printf '\nFAIL %s: it was not run\n' "$name"
            failed=$((failed + 1))
        fi
    done <<< "$(grep . <<< "$steps")"
    printf '\n%d passed, %d failed\n' "$passed" "$failed"
    [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
}

set -m # or what is started in the background could not hear SIGINT, which some tests send
run | report &
wait $!
