#!/bin/sh
# install.sh - `make check-install`: make install and uninstall into a directory of their own, under
# odd names; programs built against what was installed; init files looked at as far as their
# tools are here; the system calls of a running server held against the unit's filter; a static
# build. Ends with `N passed, N failed`; what could not be looked at is a note.
passed=0 failed=0
work=$(mktemp -d)
trap 'kill $server 2> /dev/null; rm -rf "$work"' EXIT
server=
MAKE=${MAKE:-make} TLS=${TLS:-0}

check() {
    name=$1
    shift
    if "$@" > "$work/out" 2>&1; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAIL $name: $*"
        cat "$work/out"
    fi
}

have() {
    command -v "$1" > /dev/null 2>&1 || { echo "note: no $1: $2 not checked" && false; }
}

not() { ! "$@"; }

until_true() {
    tries=0
    until "$@" > /dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 2400 ] || return 1 # two minutes: a hang
        sleep 0.05
    done
}

# start_server COMMAND...: in the background, as $server. What an earlier one said is gone before: the
# new one's own redirections may come later than the first look at them.
start_server() {
    : > "$work/ready"
    : > "$work/log"
    "$@" > "$work/ready" 2> "$work/log" &
    server=$!
}

listens_or_ended() { grep -q listening "$work/ready" || ! kill -0 "$server"; }
listens() {
    until_true listens_or_ended
    grep -q listening "$work/ready" || { cat "$work/log" && false; }
}

files() { (cd "$1" && find . ! -type d | sort); }

run_make() { "$MAKE" -s TLS="$TLS" "$@"; }

# --- in and out again, under names that a careless quote breaks ------------------------------------

for prefix in /usr/local "/opt/jim & co|x"; do
    dest="$work/de st" root="$work/de st$prefix"
    mkdir -p "$dest$prefix/bin" && echo mine > "$dest$prefix/bin/other"
    check "$prefix: install" run_make install DESTDIR="$dest" PREFIX="$prefix"
    check "$prefix: program" "$root/bin/jim" -V
    check "$prefix: page" cmp jim.8 "$root/share/man/man8/jim.8"
    check "$prefix: no name is left open" not grep -rI '@[a-z_]*@' "$dest"
    check "$prefix: DESTDIR is nowhere" not grep -rF "$dest" "$dest"
    if [ -f jim-cli ]; then
        check "$prefix: jim-cli" test -x "$root/bin/jim-cli"
        check "$prefix: its page" test -f "$root/share/man/man1/jim-cli.1"
    fi
    # The administrator's file is neither overwritten nor taken away.
    check "$prefix: configuration" cmp "$root/etc/jim/jim.properties" contrib/jim.properties
    echo 'jim.port=0' > "$root/etc/jim/jim.properties"
    check "$prefix: install again" run_make install DESTDIR="$dest" PREFIX="$prefix"
    check "$prefix: changed stays" grep -q '^jim.port=0' "$root/etc/jim/jim.properties"
    check "$prefix: uninstall" run_make uninstall DESTDIR="$dest" PREFIX="$prefix"
    cp "$work/out" "$work/said"
    check "$prefix: says what stays" grep -q 'left: .*jim.properties' "$work/said"
    check "$prefix: changed is left" test -f "$root/etc/jim/jim.properties"
    rm "$root/etc/jim/jim.properties"
    check "$prefix: install once more" run_make install DESTDIR="$dest" PREFIX="$prefix"
    check "$prefix: and out" run_make uninstall DESTDIR="$dest" PREFIX="$prefix"
    check "$prefix: nothing but what was there" [ "$(files "$dest")" = ".$prefix/bin/other" ]
    check "$prefix: no directory of its own" not test -e "$root/etc/jim"
    rm -rf "$dest"
done
check "directories" run_make install DESTDIR="$work/d" prefix=/usr libdir=/usr/lib64 \
    bindir=/usr/sbin sysconfdir=/etc mandir=/usr/man docdir=/usr/doc unitdir=
check "each where it was said" test -x "$work/d/usr/sbin/jim" -a -f "$work/d/usr/man/man8/jim.8" \
    -a -f "$work/d/etc/jim/jim.properties" -a -f "$work/d/usr/doc/docs/protocol.md" \
    -a ! -e "$work/d/usr/lib/systemd"
# What the documents name below docs/ and examples/ is there, by the same links.
linked() {
    (cd "$1" && for file in README.md README.zh-CN.md docs/*.md; do
        grep -oE '\]\((\.\./)?(README\.md|[a-z-]+\.md|docs/[^)#]*|examples/[^)#]*)' "$file" |
            sed 's/^](//' | while read -r to; do
            [ -e "$(dirname "$file")/$to" ] || echo "$file: $to"
        done
    done) > "$work/dangling"
    not grep . "$work/dangling"
}
check "links among the documents" linked "$work/d/usr/doc"

# --- used from where it was installed, without DESTDIR ------------------------------------------------

prefix="$work/in stalled"
check "install" run_make install PREFIX="$prefix"
sed 's/^#\(jim\..*=..*\)/\1/; s/^jim.port=.*/jim.port=0/; s/^jim.login.groups=.*//' \
    contrib/jim.properties > "$prefix/etc/jim/jim.properties"
start_server "$prefix/bin/jim" -c "$prefix/etc/jim/jim.properties" -d "$work/data"
check "starts with every default written down" listens
check "and without a complaint" not sh -c "grep 'warn: jim\|error' '$work/log' |
    grep -v 'used by the cluster only'"
kill "$server" 2> /dev/null && wait "$server" 2> /dev/null
server=

# compile NAME FLAG...: a program in $work/NAME.c against what pkg-config says of module $module.
compile() {
    name=$1
    shift
    flags=$(PKG_CONFIG_PATH="$prefix/lib/pkgconfig" pkg-config "$@" "$module") || return 1
    eval "${CC:-cc} -o \"\$work/$name\" \"\$work/$name.c\" $flags"
}
if have pkg-config "jim.pc" && [ -f "$prefix/lib/pkgconfig/jim.pc" ]; then
    cat > "$work/embed.c" << 'END'
#include <jim.h>
int main(void)
{
    char err[256];
    struct jim *j = jim_new();

    if (jim_set(j, "jim.port", "0", err, sizeof err) != 0 ||
        jim_set(j, "jim.store", "off", err, sizeof err) != 0 || jim_start(j) != JIM_OK)
        return 1;
    jim_stop(j);
    int status = jim_run(j);
    jim_free(j);
    return status;
}
END
    module=jim
    check "jim.pc: version" [ "$("$prefix/bin/jim" -V | cut -d' ' -f2)" = \
        "$(PKG_CONFIG_PATH="$prefix/lib/pkgconfig" pkg-config --modversion jim)" ]
    check "jim.pc: compiles and links" compile embed --cflags --libs
    check "runs" env LD_LIBRARY_PATH="$prefix/lib" "$work/embed"
    # Without the shared library the private ones have to be named.
    rm -f "$prefix"/lib/libjim*.so*
    check "jim.pc: links statically" compile embed --static --cflags --libs
    check "runs alone" "$work/embed"
    run_make install PREFIX="$prefix"
else
    echo "note: libjim is not built: jim.pc not checked"
fi
if [ -f "$prefix/lib/pkgconfig/jim-client.pc" ] && have pkg-config "jim-client.pc"; then
    cat > "$work/client.c" << 'END'
#include <jim_client.h>
int main(void)
{
    struct jim_client_options nothing = {0};
    char err[256];
    struct jim_client *c = jim_client_new(&nothing, err, sizeof err); /* without a user: NULL */

    jim_client_free(c);
    return 0;
}
END
    module=jim-client
    check "jim-client.pc: compiles and links" compile client --cflags --libs
    check "runs" env LD_LIBRARY_PATH="$prefix/lib" "$work/client"
    rm -f "$prefix"/lib/libjim*.so*
    check "jim-client.pc: links statically" compile client --static --cflags --libs
    check "runs alone" "$work/client"
fi

# --- init files ----------------------------------------------------------------------------------------

doc=$prefix/share/doc/jim/init
for f in freebsd netbsd openrc sysv openbsd; do
    check "sh -n jim.$f" sh -n "$doc/jim.$f"
done
if have shellcheck "shell style"; then
    check "shellcheck" shellcheck -s sh contrib/install.sh tests/install.sh
    check "shellcheck jim.sysv" shellcheck -s sh "$doc/jim.sysv"
    # What rc.subr and OpenRC look at or set is unused, or unset, to an onlooker.
    check "shellcheck rc.d" shellcheck -s sh -e SC1091,SC2034,SC2154,SC2086 "$doc/jim.freebsd" \
        "$doc/jim.netbsd" "$doc/jim.openrc"
    check "shellcheck rc.d" shellcheck -s ksh -e SC1091,SC2034 "$doc/jim.openbsd"
fi
if have python3 "the plist"; then
    check "jim.plist" python3 -c 'import plistlib, sys
p = plistlib.load(open(sys.argv[1], "rb"))
assert p["ProgramArguments"][0] == sys.argv[2], p' "$doc/jim.plist" "$prefix/bin/jim"
fi
# unit_ok FILE: nothing to complain of in it; about other units there may be.
unit_ok() {
    systemd-analyze verify --man=no "$1" 2> "$work/verify"
    not grep -i 'jim' "$work/verify"
}
if have systemd-analyze "jim.service"; then
    check "systemd-analyze verify" unit_ok "$prefix/lib/systemd/system/jim.service"
    exposure=$(systemd-analyze security --offline=true --no-pager \
        "$prefix/lib/systemd/system/jim.service" 2> /dev/null | tail -n 1)
    echo "note: $exposure"
    level=$(echo "$exposure" | sed -n 's/.*: \([0-9]*\)\..*/\1/p')
    check "systemd-analyze security: below 2.0" [ "${level:-9}" -lt 2 ]
fi

# Every system call of a server that starts, talks, reloads and stops must be in the unit's list.
allowed() {
    sets=$(sed -n 's/^SystemCallFilter=//p' contrib/jim.service.in | tr ' ' '\n')
    for name in $(echo "$sets" | grep -v '^~' | grep -v @); do echo "$name"; done
    plus=$(echo "$sets" | sed -n '/^~/q; /^@/p')
    minus='@privileged @resources'
    list() {
        for set in "$@"; do
            systemd-analyze syscall-filter --no-pager "$set" | grep '^ ' | tr -d ' ' |
                while read -r call; do
                    case $call in '#'*) ;; @*) list "$call" ;; *) echo "$call" ;; esac
                done
        done
    }
    # shellcheck disable=SC2086
    { list $minus | sort -u > "$work/minus" && list $plus | sort -u | comm -23 - "$work/minus"; }
}
if have strace "the unit's system calls" && have systemd-analyze "the unit's system calls"; then
    mkdir "$work/traced" # as StateDirectory= does
    # -D: the tracer is not the parent, so that $! is jim itself.
    start_server strace -D -f -o "$work/trace" "$prefix/bin/jim" -q -p 0 -d "$work/traced"
    check "starts under strace" listens
    port=$(sed 's/.*://' "$work/ready")
    echo 'a hello' > "$work/say"
    check "a talk under strace" sh -c "timeout 120 python3 examples/client.py \
        tcp://127.0.0.1:$port a < '$work/say' > '$work/got' 2>&1
        grep -q 10000 '$work/got' || { cat '$work/got' '$work/log' && false; }"
    kill -HUP "$server"
    kill "$server"
    wait "$server"
    until_true grep -q "^$server .*exited with" "$work/trace"
    server=
    allowed | sort -u > "$work/allowed"
    # Before exec it was strace; Landlock and seccomp are refused to nobody who asks in vain.
    used=$(sed -n 's/^[0-9]* *\([a-z_0-9]*\)(.*/\1/p' "$work/trace" | grep -v '^execve$' | sort -u)
    echo "$used" | comm -23 - "$work/allowed" > "$work/beyond"
    echo "note: $(echo "$used" | wc -l) system calls used, $(wc -l < "$work/allowed") allowed"
    check "system calls within the filter" not grep . "$work/beyond"
fi

# --- a static build ------------------------------------------------------------------------------------

# With musl, and the kernel's headers from where they are; as contrib/Dockerfile does it on Alpine.
if have musl-gcc "a static build"; then
    mkdir "$work/static"
    # Only files the repository knows, so that no object of another build gets in.
    git ls-files -co --exclude-standard | tar cf - -T - | tar xf - -C "$work/static"
    kernel="-idirafter /usr/include -idirafter /usr/include/$(gcc -print-multiarch)"
    check "static build" "$MAKE" -s -C "$work/static" CC=musl-gcc LDFLAGS=-static TLS=0 \
        CFLAGS="-O1 $kernel" jim
    check "static" sh -c "file -L '$work/static/jim' | grep -q 'statically linked'"
    start_server "$work/static/jim" -v -p 0 -d "$work/musl"
    check "static: starts" listens
    check "static: sandbox" sh -c "grep -q 'sandbox: Landlock' '$work/log' || { cat '$work/log' && false; }"
    kill "$server" && wait "$server"
    check "static: stops" [ $? -eq 0 ]
    server=
fi
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
