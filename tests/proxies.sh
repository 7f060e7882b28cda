#!/bin/sh
# SPDX-License-Identifier: MIT
# proxies.sh - `make check-proxies`: the configurations in docs/proxy.md and docs/cluster.md, word for
# word but for addresses, ports, names and files, before JIM=path/to/jim (built with TLS=1), with
# PEM=certificate-and-key for localhost. Needs haproxy, nginx with its stream module, curl, openssl,
# python3, nodejs. Ends with `N passed, N failed`.
set -u
here=$(cd "$(dirname "$0")/.." && pwd)
dir=$(mktemp -d)
passed=0 failed=0 others='' pid=''
cd "$dir" || exit 1
trap 'kill $others $pid 2> /dev/null; wait; rm -rf "$dir"' EXIT
trap 'exit 1' INT TERM
cp "$PEM" im.pem # certificate, then key
export SSL_CERT_FILE="$dir/im.pem" NODE_EXTRA_CA_CERTS="$dir/im.pem"

until_true() { # COMMAND...: at most two minutes, which only a hang takes
    tries=0
    until "$@" > /dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 2400 ] || return 1
        sleep 0.05
    done
}

check() { # NAME COMMAND...
    name=$1
    shift
    if "$@" > out 2>&1; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAIL $name: $*"
        for file in out proxy.log jim.log; do
            [ ! -s "$file" ] || { echo "-- $file:" && tail -n 20 "$file"; }
        done
    fi
}

# --- what is started -----------------------------------------------------------------------------

# start_jim ARG...: on a free port, $jim.
start_jim() {
    : > ready
    "$JIM" -q -p 0 -o jim.store=off -o jim.api.key=secret "$@" > ready 2> jim.log &
    others="$others $!"
    until_true grep -q listening ready || { cat jim.log && exit 1; }
    jim=$(sed 's/.*://' ready)
}

# What stands between ``` behind a heading of a file in docs/.
block() { # FILE HEADING
    awk -v heading="$2" '/^##/ { sub(/^#* /, ""); on = $0 == heading } !on { next }
        /^```/ { if (code) exit; code = 1; next } code' "$here/docs/$1"
}

# proxy haproxy|nginx: started with the configuration `conf`, in which PORT stands where it listens; again
# with another port, should somebody have taken it. $port is what it got.
proxy() {
    program=$1
    stop_proxy
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        port=$((10000 + $(od -An -N2 -tu2 /dev/urandom) % 12000))
        answers && continue # somebody else
        sed "s/PORT/127.0.0.1:$port/" conf > proxy.conf
        if [ "$program" = haproxy ]; then
            haproxy -db -f proxy.conf > proxy.log 2>&1 &
        else
            nginx -p "$dir" -c proxy.conf -e proxy.log > proxy.out 2>&1 &
        fi
        pid=$!
        until_true listens_or_ended
        kill -0 "$pid" 2> /dev/null && return
    done
    echo "FAIL $program does not start"
    cat proxy.conf proxy.log
    exit 1
}
answers() {
    curl -s -o /dev/null -m 5 "http://127.0.0.1:$port/"
    [ $? -ne 7 ] # nobody is there
}
listens_or_ended() { answers || ! kill -0 "$pid"; }
stop_proxy() {
    [ -n "$pid" ] && kill "$pid" && wait "$pid"
    pid=
} 2> /dev/null

# The documents' addresses, names and files for ours. Of the nodes of the cluster, one is gone and the
# others are the same jim.
ours() {
    sed "s/bind :[0-9]*/bind PORT/; s/listen [0-9]*/listen PORT/
        s/\\(-i\\|server_name\\) im\\.example\\.com/& localhost/; s/verifyhost [a-z.]*/verifyhost localhost/
        s/10\.0\.0\.3:8888/127.0.0.1:1/; s#/etc/haproxy/#$dir/#; s#/etc/nginx/im\\.[a-z]*#$dir/im.pem#
        s/\\(127\\.0\\.0\\.1\\|10\\.0\\.0\\.[0-9]\\):8888/127.0.0.1:$jim/g"
}
# In place of the rest of an nginx.conf; in one process, which needs nobody else's rights.
nginx_conf() { # stream FILE | http FILE | both STREAM-FILE HTTP-FILE
    [ ! -f /usr/lib/nginx/modules/ngx_stream_module.so ] ||
        echo "load_module /usr/lib/nginx/modules/ngx_stream_module.so;"
    echo "daemon off; master_process off; pid nginx.pid; events { worker_connections 1000; }"
    [ "$1" = http ] || cat "$2"
    [ "$1" = stream ] && return
    [ "$1" = http ] || shift
    echo "http { access_log off;"
    for path in client_body proxy fastcgi uwsgi scgi; do echo "${path}_temp_path $path;"; done
    cat "$2"
    echo "}"
}

# --- what has to come through --------------------------------------------------------------------

get() { # PATH CURL-OPTION...
    path=$1
    shift
    curl -sS --cacert im.pem "$@" "https://localhost:$port$path"
}
healthy() { get /healthz "$@" | grep -q '"status":"ok"'; }
speaks() { [ "$(get /healthz -o /dev/null -w '%{http_version}')" = "$1" ]; }
key() { # the HTTP API wants it, for everybody has a loopback address
    [ "$(get /api/stats -o /dev/null -w '%{http_code}')" = 401 ] &&
        get /api/stats -H 'Authorization: Bearer secret' | grep -q '"connections"'
}
big() { # it is jim that has something against the body, of 2 MB
    head -c 2000000 /dev/zero | tr '\0' x > big
    get /api/message/send -H 'Authorization: Bearer secret' --data-binary @big | grep -q 10002
}
# talk URL: the clients beside jim, one in each language, and one of them is told what the other says.
talk() {
    : > got
    timeout 120 python3 "$here/examples/client.py" -n 1 "$1" bob < /dev/null > got 2> err &
    client=$!
    until_true grep -q 10007 got || { cat err && false; }
    echo 'bob hello' | timeout 120 node "$here/examples/client.mjs" "$1" ann 2> err |
        grep -q '"code": *10000' || { cat err && false; }
    wait "$client" && grep -q '"content": *"hello"' got
}
# Who asks for a WebSocket from a page of ORIGIN, COUNT times at once: how many are let in?
upgrades() { # COUNT ORIGIN WANTED
    python3 -c 'import socket, ssl, sys
port, count, origin, wanted = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
trust, kept, let_in = ssl.create_default_context(), [], 0
for i in range(count):
    try:
        s = socket.create_connection(("127.0.0.1", port), 60)
        s = trust.wrap_socket(s, server_hostname="localhost")
        s.sendall(f"GET / HTTP/1.1\r\nHost: im.example.com:{port}\r\nOrigin: {origin}\r\n"
                  "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                  "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode())
        answer = s.recv(1000).split(b"\r\n")[0]
        let_in += b" 101 " in answer
        kept.append(s)
    except OSError as e:
        answer = e
print(let_in, "let in; the last:", answer)
sys.exit(let_in != wanted)' "$port" "$@"
}
# Of 110 of one address a hundred are let in, when those before them have gone.
limit() {
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        upgrades 110 "https://im.example.com:$port" 100 && return
        sleep 0.5
    done
    return 1
}
# At a jim that lets three connections of an address in: of five of 127.0.0.7, who stay, three are, and of
# five of 127.0.0.8 three, too, though each says that he is somebody else.
clients() { # ws|tcp
    python3 -c 'import socket, ssl, sys
port, tcp, kept, let_in = int(sys.argv[1]), sys.argv[2] == "tcp", [], []
trust = ssl.create_default_context()
for address in ["127.0.0.7"] * 5 + ["127.0.0.8"] * 5:
    answer = b""
    try:
        s = socket.create_connection(("127.0.0.1", port), 60, (address, 0))
        s = trust.wrap_socket(s, server_hostname="localhost")
        s.sendall(b"\1\x51\x0d\0\0\0\0" if tcp else
                  f"GET / HTTP/1.1\r\nHost: im.example.com:{port}\r\nX-Forwarded-For: 192.0.2.{len(let_in)}\r\n"
                  "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                  "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode())
        answer = s.recv(1000).split(b"\r\n")[0]
        kept.append(s)
    except OSError as e:
        print(e)
    let_in.append(answer[:1] == b"\1" if tcp else b" 101 " in answer)
print(let_in)
sys.exit(let_in != ([True] * 3 + [False] * 2) * 2)' "$port" "$1"
}
each() { # ws|tcp: when those before them have gone
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        clients "$1" && return
        sleep 0.5
    done
    return 1
}
refused() { # FIELD: without a key the API is for nobody who comes through it
    [ "$(get /api/stats -o /dev/null -w '%{http_code}' -H 'Host: localhost' -H "$1")" = 403 ]
}
named() { # what is the same for all that jim knows to be proxies; it has no key
    check "$1: health" healthy
    check "$1: WebSocket" talk "wss://localhost:$port"
    check "$1: three connections an address" each ws
    check "$1: nobody is local" refused 'X-Forwarded-For: 127.0.0.1'
    check "$1: nor without saying so" refused 'A: b'
}
http() { # what is the same for all
    check "$1: health" healthy
    check "$1: key" key
    check "$1: a large body" big
    check "$1: WebSocket" talk "wss://localhost:$port"
    check "$1: its own page" upgrades 1 "https://im.example.com:$port" 1
    check "$1: another's page" upgrades 1 https://elsewhere.example 0
    check "$1: 100 connections an address" limit
}
# Who says all he has to say and closes his side gets what he has asked for.
halves() {
    python3 -c 'import socket, sys
for i in range(100):
    s = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 60)
    s.sendall(b"\1\x51\x0d\0\0\0\0" * 2)
    s.shutdown(socket.SHUT_WR)
    got = b""
    while some := s.recv(1000):
        got += some
    assert len(got) == 88, (i, got)' "$port"
}

# --- docs/proxy.md -------------------------------------------------------------------------------

start_jim

what="HAProxy, by TCP"
block proxy.md "$what" | ours > conf
proxy haproxy
http "$what"
check "$what: HTTP/1.1" speaks 1.1
check "$what: TCP-IM" talk "tcps://localhost:$port"
sed 's/PORT ssl .*/PORT/' conf > plain && mv plain conf
proxy haproxy
check "$what: closed on one side" halves

what="HAProxy, by HTTP"
block proxy.md "$what" | ours > conf
proxy haproxy
http "$what"
check "$what: HTTP/2" speaks 2

what="nginx, by TCP"
block proxy.md "$what" | ours > stream
nginx_conf stream stream > conf
proxy nginx
http "$what"
check "$what: HTTP/1.1" speaks 1.1
check "$what: TCP-IM" talk "tcps://localhost:$port"
sed 's/ ssl;/;/; /ssl_/d' conf > plain && mv plain conf
proxy nginx
check "$what: closed on one side" halves

what="nginx, by HTTP"
block proxy.md "$what" | ours > site
nginx_conf http site > conf
proxy nginx
http "$what"
nginx_conf both stream site | sed 's/PORT/127.0.0.1:8443/' > both
check "$what, and by TCP" nginx -t -p "$dir" -c both -e both.log
said=$(sed -n 's/.*`\(location ~ .*}\)`.*/\1/p' "$here/docs/proxy.md")
sed "s#^    location / {#    $said\n&#" site > other
nginx_conf http other > conf
proxy nginx
forbidden() { [ "$(get "$1" -o /dev/null -w '%{http_code}' -H 'Authorization: Bearer secret')" = 403 ]; }
check "$what: no API" forbidden /api/stats
check "$what: no metrics" forbidden /metrics
check "$what: but health" healthy
sed 's#location / {#location /im/ {#; s#\(proxy_pass .*\);#\1/;#' site > other
nginx_conf http other > conf
proxy nginx
page() { get /im/ | grep -q '<script.*jim.js' && get /im/jim.js | grep -q 'new WebSocket'; }
check "$what: the page below a path" page
check "$what: WebSocket below a path" talk "wss://localhost:$port/im/"

# The client's address: each line of its table, added to the configuration it names.
added() { sed -n "s/^| $1 | \`\([^\`]*\)\`.*/\1/p" "$here/docs/proxy.md"; }
one() { # HEADING KEY: a jim that knows that proxy, and lets three of an address in
    what="$1, the client's address"
    start_jim -o jim.api.key= -o "$2=127.0.0.1" -o jim.connections.per.ip=3
}

one "HAProxy, by TCP" jim.proxy.protocol
block proxy.md "HAProxy, by TCP" | ours | sed "s/^ *server a .*/& $(added 'HAProxy, by TCP')/" > conf
proxy haproxy
named "$what"
check "$what: TCP-IM" each tcp
sed 's/PORT ssl .*/PORT/' conf > plain && mv plain conf
proxy haproxy
check "$what: closed on one side" halves
sed "s/$(added 'HAProxy, by TCP')/send-proxy/" conf > first && mv first conf
proxy haproxy
check "$what, version 1: closed on one side" halves
unheard() { ! curl -s -m 60 "http://127.0.0.1:$jim/healthz"; }
check "$what: a header must come" unheard
local_again() { # the proxy has an address of its own: this machine's programs have theirs
    curl -s -m 60 "http://127.0.0.1:$jim/api/stats" | grep -q '"connections"'
}
start_jim -o jim.api.key= -o jim.proxy.protocol=127.0.0.2 -o jim.connections.per.ip=3
block proxy.md "HAProxy, by TCP" | ours |
    sed "s/^ *server a .*/    source 127.0.0.2\n& $(added 'HAProxy, by TCP')/" > conf
proxy haproxy
named "$what, from an address of its own"
check "$what, from an address of its own: the API here" local_again

one "HAProxy, by HTTP" jim.proxy.forwarded
block proxy.md "HAProxy, by HTTP" | ours | sed "s/^ *server a .*/    $(added 'HAProxy, by HTTP')\n&/" > conf
proxy haproxy
named "$what"

one "nginx, by TCP" jim.proxy.protocol
block proxy.md "nginx, by TCP" | ours | sed "s/^ *proxy_pass .*/&\n$(added 'nginx, by TCP')/" > stream
nginx_conf stream stream > conf
proxy nginx
named "$what"
check "$what: TCP-IM" each tcp

one "nginx, by HTTP" jim.proxy.forwarded
block proxy.md "nginx, by HTTP" | ours | sed "s/^ *proxy_pass .*/&\n$(added 'nginx, by HTTP')/" > site
nginx_conf http site > conf
proxy nginx
named "$what"
sed 's/\$remote_addr;/$proxy_add_x_forwarded_for;/' conf > add && mv add conf
proxy nginx
named "$what, appended"
sed "s#^ *proxy_pass .*#&\nproxy_bind 127.0.0.2;#" conf > bound && mv bound conf
start_jim -o jim.api.key= -o jim.proxy.forwarded=127.0.0.2 -o jim.connections.per.ip=3
sed "s#http://127.0.0.1:[0-9]*;#http://127.0.0.1:$jim;#" conf > bound && mv bound conf
proxy nginx
named "$what, from an address of its own"
check "$what, from an address of its own: the API here" local_again

# TLS as it comes, and TLS once more.
start_jim -o jim.ssl=on -o jim.ssl.cert=im.pem
what="HAProxy, jim's TLS"
block proxy.md "HAProxy, by TCP" | ours | sed 's/PORT ssl .*/PORT/' > conf
proxy haproxy
check "$what: health" healthy
check "$what: TCP-IM" talk "tcps://localhost:$port"
check "$what: and plain" talk "ws://localhost:$port"
start_jim -o jim.ssl=on -o jim.ssl.only=on -o jim.ssl.cert=im.pem -o jim.api.key= \
    -o jim.proxy.protocol=127.0.0.1 -o jim.connections.per.ip=3
what="HAProxy, jim's TLS, the client's address"
block proxy.md "HAProxy, by TCP" | ours |
    sed "s/PORT ssl .*/PORT/; s/\(server a .*\) check/\1 $(added 'HAProxy, by TCP')/" > conf
proxy haproxy
named "$what"
check "$what: TCP-IM" each tcp
start_jim -o jim.ssl=on -o jim.ssl.only=on -o jim.ssl.cert=im.pem
what="HAProxy, TLS twice"
cp im.pem ca.pem
server=$(tr '\n' ' ' < "$here/docs/proxy.md" | sed -n 's/.*`\(server a [^`]* ssl verify[^`]*\)`.*/\1/p' | ours)
block proxy.md "HAProxy, by TCP" | ours | sed "s#^ *server a .*#    $server#" > conf
proxy haproxy
check "$what: health" healthy
check "$what: TCP-IM" talk "tcps://localhost:$port"

# --- docs/cluster.md -----------------------------------------------------------------------------

start_jim
around() { # nobody notices that a node is gone, also before the proxy does
    for _ in 1 2 3 4 5 6 7 8 9; do
        curl -s -m 60 "http://127.0.0.1:$port/healthz" | grep -q '"status":"ok"' || return 1
    done
}
what="cluster.md, HAProxy"
block cluster.md "HAProxy" | ours > conf
proxy haproxy
check "$what: around a node that is gone" around
check "$what: TCP-IM" talk "tcp://localhost:$port"
check "$what: WebSocket" talk "ws://localhost:$port"
check "$what: closed on one side" halves
# With compose: only read, for the names are those of its network.
compose=$(tr '\n' ' ' < "$here/docs/cluster.md" | sed -n 's/.*`\(server-template [^`]*\)`.*/\1/p')
{
    printf 'resolvers docker\n    parse-resolv-conf\n'
    block cluster.md "HAProxy" | sed "s#^ *server a .*#    $compose#; /^ *server [bc] /d"
} > compose.conf
check "$what, compose" haproxy -c -f compose.conf
what="cluster.md, nginx"
block cluster.md "nginx" | ours > stream
nginx_conf stream stream > conf
proxy nginx
check "$what: around a node that is gone" around
check "$what: TCP-IM" talk "tcp://localhost:$port"
check "$what: WebSocket" talk "ws://localhost:$port"
check "$what: closed on one side" halves
stop_proxy
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
