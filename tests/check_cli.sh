#!/bin/sh
# check_cli.sh - `make check-cli`: the completions (bash; zsh and fish when installed), jim-cli through
# restarts of its server (cli_deep.c), and its tests under valgrind. Ends with `N passed, N failed`.
passed=0 failed=0

check() { # name, command...
    name=$1
    shift
    if "$@"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAIL $name"
    fi
}

# What bash offers for a line with the cursor at its end.
offers() { # completion file, function, word wanted, words of the line...
    bash -c '. "$1"; f=$2; want=$3; shift 3; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); $f
        for word in "${COMPREPLY[@]}"; do [ "$word" = "$want" ] && exit 0; done; exit 1' bash "$@"
}

dir=contrib/completions
for file in "$dir"/*.bash; do
    check "$file" bash -n "$file"
done
for file in "$dir"/_*; do
    command -v zsh > /dev/null && check "$file" zsh -n "$file"
done
for file in "$dir"/*.fish; do
    command -v fish > /dev/null && check "$file" fish -n "$file"
done
check 'jim-cli s' offers "$dir/jim-cli.bash" _jim_cli send jim-cli s
check 'jim-cli -u a h' offers "$dir/jim-cli.bash" _jim_cli history jim-cli -u a h
check 'jim-cli history --' offers "$dir/jim-cli.bash" _jim_cli --since jim-cli history --
check 'jim c' offers "$dir/jim.bash" _jim check jim c
check 'jim check -' offers "$dir/jim.bash" _jim -r jim check -
check 'jim export -' offers "$dir/jim.bash" _jim --cluster jim export -
check 'jim import --j' offers "$dir/jim.bash" _jim --jim-redis jim import --j
check 'jim -c cli.' offers "$dir/jim.bash" _jim cli.c jim -c cli.
for option in cluster jim-redis; do
    check "--$option for zsh and fish" sh -c "grep -q -e --$option '$dir/_jim' &&
        grep -q -e '-l $option' '$dir/jim.fish'"
done
check 'jim -o jim.p' offers "$dir/jim.bash" _jim jim.port= ./jim -o jim.p

count() { # what, its output: add up its closing line
    grep -E 'note: ' "$2"
    line=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$2" | tail -n 1)
    echo "$1: ${line:-no result}"
    case $line in
    *' 0 failed') passed=$((passed + ${line%% *})) ;;
    *)
        tail -n 60 "$2"
        failed=$((failed + 1))
        ;;
    esac
}
export JIM_SOURCE="$PWD" JIM="$PWD/jim" JIM_CLI="$PWD/jim-cli"
# The restarts wait most of their time, so that there is room for valgrind beside them.
build/check-cli -j 2 > build/check-cli.log 2>&1 &
JIM_CLI_UNDER=valgrind build/run-tests -j 2 cli_ > build/check-cli-valgrind.log 2>&1
wait
count restarts build/check-cli.log
count valgrind build/check-cli-valgrind.log
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
