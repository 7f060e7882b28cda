#!/bin/sh
# install.sh - what `make install` and `make uninstall` do: `install.sh install|uninstall`, with the
# directories in the environment (the Makefile's variables; GNU Coding Standards, "Directory
# Variables"). One list says what goes where, so that both speak of the same files. What was not
# built is not installed; what is rendered from *.in names the directories without DESTDIR.
set -eu
: "${DESTDIR=}" "${prefix:?}" "${exec_prefix:?}" "${bindir:?}" "${libdir:?}" "${includedir:?}"
: "${mandir:?}" "${docdir:?}" "${sysconfdir:?}" "${pkgconfigdir:?}" "${unitdir?}" "${version:?}"
: "${private?}"
out=${TMPDIR:-/tmp}/jim-install.$$
trap 'rm -f "$out"' EXIT

# In a pkg-config file below prefix, so that the tree can be moved (pkg-config --define-prefix).
below() {
    case $1 in
    "$2"/*) printf '%s' "\${$3}${1#"$2"}" ;;
    *) printf '%s' "$1" ;;
    esac
}

# A value on the right of sed's s|||.
quoted() {
    printf '%s' "$1" | sed 's/[\\&|]/\\&/g'
}

# render FILE: FILE.in with its @names@ replaced, on stdout.
render() {
    case $1 in
    *.pc) sed -e "s|@prefix@|$(quoted "$prefix")|" \
        -e "s|@exec_prefix@|$(quoted "$(below "$exec_prefix/" "$prefix" prefix | sed 's|/$||')")|" \
        -e "s|@libdir@|$(quoted "$(below "$libdir" "$exec_prefix" exec_prefix)")|" \
        -e "s|@includedir@|$(quoted "$(below "$includedir" "$prefix" prefix)")|" \
        -e "s|@version@|$version|" -e "s|@private@|$private|" -e "s|@client@|$client|" "$1.in" ;;
    *) sed -e "s|@bindir@|$(quoted "$bindir")|g" -e "s|@sysconfdir@|$(quoted "$sysconfdir")|g" \
        "$1.in" ;;
    esac
}

# each FUNCTION: call FUNCTION MODE SOURCE TARGET for every file; a mode of `link` is a symbolic link
# to SOURCE, `conf` a file of the administrator's once it is there.
each() {
    if [ -f libjimclient.a ]; then client=jimclient; else client=jim; fi
    "$1" 755 jim "$bindir/jim"
    "$1" 755 jim-cli "$bindir/jim-cli"
    "$1" 644 jim.8 "$mandir/man8/jim.8"
    "$1" 644 jim-cli.1 "$mandir/man1/jim-cli.1"
    for name in jim jimclient; do
        "$1" 644 "lib$name.a" "$libdir/lib$name.a"
        "$1" 755 "lib$name.so.0" "$libdir/lib$name.so.0"
        if [ -f "lib$name.so.0" ]; then
            "$1" link "lib$name.so.0" "$libdir/lib$name.so"
        fi
    done
    if [ -f libjim.a ] || [ -f libjim.so.0 ]; then
        "$1" 644 jim.h "$includedir/jim.h"
        "$1" 644 contrib/jim.pc "$pkgconfigdir/jim.pc"
    fi
    if [ -f jim_client.h ] && [ -f "lib$client.a" ]; then
        "$1" 644 jim_client.h "$includedir/jim_client.h"
        "$1" 644 contrib/jim-client.pc "$pkgconfigdir/jim-client.pc"
    fi
    "$1" conf contrib/jim.properties "$sysconfdir/jim/jim.properties"
    "$1" 644 contrib/jim.properties "$sysconfdir/jim/jim.properties.sample"
    if [ -n "$unitdir" ]; then
        "$1" 644 contrib/jim.service "$unitdir/jim.service"
    fi
    for name in service freebsd openbsd netbsd openrc sysv plist logrotate; do
        "$1" 644 "contrib/jim.$name" "$docdir/init/jim.$name"
    done
    # Placed as in the source tree, so that their links to each other hold.
    for name in README.md README.zh-CN.md CHANGELOG.md SECURITY.md LICENSE docs/*.md docs/openapi.yaml \
        examples/*.c examples/client.py examples/client.mjs; do
        "$1" 644 "$name" "$docdir/$name"
    done
    for name in jim jim-cli; do
        "$1" 644 "contrib/completions/$name.bash" \
            "$prefix/share/bash-completion/completions/$name"
        "$1" 644 "contrib/completions/_$name" "$prefix/share/zsh/site-functions/_$name"
        "$1" 644 "contrib/completions/$name.fish" \
            "$prefix/share/fish/vendor_completions.d/$name.fish"
    done
}

install_one() {
    target=$DESTDIR$3
    if [ "$1" = conf ] && [ -e "$target" ]; then
        return 0
    fi
    if [ "$1" != link ] && [ ! -f "$2" ] && [ ! -f "$2.in" ]; then
        return 0
    fi
    mkdir -p "$(dirname "$target")"
    case $1 in
    link) rm -f "$target" && ln -s "$2" "$target" ;;
    conf) install -m 644 "$2" "$target" ;;
    *)
        if [ -f "$2.in" ]; then
            render "$2" > "$out"
            install -m "$1" "$out" "$target"
        else
            install -m "$1" "$2" "$target"
        fi
        ;;
    esac
}

uninstall_one() {
    target=$DESTDIR$3
    if [ "$1" != conf ] || cmp -s "$target.sample" "$target"; then
        rm -f "$target"
    elif [ -e "$target" ]; then
        echo "left: $target, which has been changed"
    fi
}

case ${1-} in
install) each install_one ;;
uninstall)
    each uninstall_one
    # The directories that are jim's alone; others may have been there before.
    for dir in "$docdir/init" "$docdir/docs" "$docdir/examples" "$docdir" "$sysconfdir/jim"; do
        rmdir "$DESTDIR$dir" 2> /dev/null || :
    done
    ;;
*)
    echo "usage: install.sh install|uninstall" >&2
    exit 2
    ;;
esac
