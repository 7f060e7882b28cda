#!/bin/sh
# SPDX-License-Identifier: MIT
# tls_clients.sh - clients that are not ours against jim's TLS: JIM=path/to/jim (built with TLS=1)
# PEM=certificate-and-key for localhost. Then every cipher and version the openssl command knows is
# tried one by one, and all but the good ones have to be refused. Ends with `N passed, N failed`; a
# client that is not installed counts as failed.
set -u
passed=0 failed=0
dir=$(mktemp -d)
here=$(cd "$(dirname "$0")" && pwd)

"$JIM" -p 0 -d "$dir/data" -o jim.ssl=on -o jim.ssl.only=on -o "jim.ssl.cert=$PEM" \
    > "$dir/ready" 2> "$dir/log" &
pid=$!
trap 'kill $pid 2> /dev/null; wait $pid 2> /dev/null; rm -rf "$dir"' EXIT
until grep -q listening "$dir/ready"; do
    kill -0 $pid 2> /dev/null || { cat "$dir/log"; exit 1; }
    sleep 0.05
done
PORT=$(sed 's/.*://' "$dir/ready")
export PORT PEM

verdict() { # NAME STATUS: 0 is good
    if [ "$2" -eq 0 ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAIL $1"
        [ -s "$dir/out" ] && tail -n 20 "$dir/out"
    fi
}

check() { # NAME COMMAND...
    name=$1
    shift
    "$@" > "$dir/out" 2>&1
    verdict "$name" $?
}

# A scan by other people, beside everything else, for it takes a while: what it rates LOW or worse
# fails, but for the OpenSSL engine it misses on its own side.
scan() {
    command -v testssl || return 1
    testssl --quiet --color 0 --warnings off -p -s -f -U --severity LOW \
        --jsonfile "$dir/scan.json" "localhost:$PORT" > "$dir/scan" 2>&1
    if grep -E '"severity" *: *"(LOW|MEDIUM|HIGH|CRITICAL|WARN)"' -B 5 "$dir/scan.json" |
        grep '"id"' | grep -v engine_problem; then
        grep -E '"severity" *: *"(LOW|MEDIUM|HIGH|CRITICAL|WARN)"' -B 5 -A 4 "$dir/scan.json"
        return 1
    fi
    grep -q 'Lucky13\|LUCKY13' "$dir/scan" && grep -q '^ *Done' "$dir/scan" && return # that far
    tail -n 20 "$dir/scan"
    return 1
}
scan > "$dir/scan.out" 2>&1 &
scanner=$!

# --- clients -------------------------------------------------------------------------------------

health() { # OPTION...: ask over openssl s_client
    printf 'GET /healthz HTTP/1.0\r\n\r\n' |
        openssl s_client -quiet -ign_eof -verify_return_error -CAfile "$PEM" -servername localhost \
            -verify_hostname localhost -connect "localhost:$PORT" "$@" > "$dir/health" 2>&1
    grep -q '"status":"ok"' "$dir/health" || { cat "$dir/health" && false; }
}
resumed() { # VERSION: a second connection with the session of the first
    rm -f "$dir/session"
    health "$1" -sess_out "$dir/session" && [ -s "$dir/session" ] || return 1
    openssl s_client "$1" -sess_in "$dir/session" -connect "localhost:$PORT" < /dev/null \
        > "$dir/resumed" 2>&1
    grep -q '^Reused, TLS' "$dir/resumed" || { cat "$dir/resumed" && false; }
}
check s_client-1.2 health -tls1_2
check s_client-1.3 health -tls1_3
check s_client-resumes-1.2 resumed -tls1_2
check s_client-resumes-1.3 resumed -tls1_3

curl_alpn() {
    curl -sS --cacert "$PEM" -v "https://localhost:$PORT/healthz" 2>&1 > "$dir/body" |
        grep -q 'server accepted http/1.1' && grep -q '"status":"ok"' "$dir/body"
}
curl_big() { # a request above a record, and the page in two requests of one connection
    head -c 200000 /dev/zero | tr '\0' x > "$dir/big"
    curl -sS --cacert "$PEM" --data-binary "@$dir/big" "https://localhost:$PORT/api/message/send" |
        grep -q '"code":10002' &&
        curl -sS --cacert "$PEM" "https://localhost:$PORT/" "https://localhost:$PORT/jim.js" |
        grep -q 'new WebSocket'
}
curl_plain() {
    ! curl -sS "http://localhost:$PORT/healthz"
}
check curl curl_alpn
check curl-bodies curl_big
check curl-plain-is-refused curl_plain

check node-tls node -e '
    const { connect } = require("tls"), ca = require("fs").readFileSync(process.env.PEM);
    const frame = (cmd, o) => {
        const body = Buffer.from(JSON.stringify(o)), b = Buffer.alloc(7 + body.length);
        b.writeUInt8(1, 0); b.writeUInt8(0x51, 1); b.writeUInt8(cmd, 2);
        b.writeUInt32BE(body.length, 3); body.copy(b, 7);
        return b;
    };
    const s = connect({ host: "localhost", port: process.env.PORT, ca }, () => {
        s.write(frame(5, { userId: "node" }));
        s.end(frame(11, { to: "node", chatType: 2, content: "x".repeat(50000) }));
    });
    let got = "";
    s.on("data", (d) => { got += d; });
    s.on("end", () => process.exit(got.includes("\"code\":10007") && got.includes("\"command\":12")
        && s.authorized ? 0 : 1));'

check node-https node -e '
    const https = require("https"), ca = require("fs").readFileSync(process.env.PEM);
    const agent = new https.Agent({ keepAlive: true, maxSockets: 1, ca });
    let left = 20;
    for (let i = left; i > 0; i--)
        https.get({ host: "localhost", port: process.env.PORT, path: "/healthz", agent }, (r) => {
            r.on("end", () => { if (--left === 0) process.exit(0); }).resume();
            if (r.statusCode !== 200) process.exit(1);
        });'

python=python3
python3 -c 'import websockets' 2> /dev/null || python=/usr/bin/python3 # where packages put it
check python-websockets $python -c '
import asyncio, json, os, ssl, websockets
async def main():
    trust = ssl.create_default_context(cafile=os.environ["PEM"])
    url = "wss://localhost:" + os.environ["PORT"] + "/?username="
    async with websockets.connect(url + "py1", ssl=trust) as a, \
            websockets.connect(url + "py2", ssl=trust) as b:
        for n in (1, 125, 126, 16383, 16384, 16385, 65000):
            await a.send(json.dumps({"cmd": 11, "to": "py2", "chatType": 2, "content": "y" * n}))
            while True:
                m = json.loads(await asyncio.wait_for(b.recv(), 120))
                if m["command"] == 11:
                    break
            assert m["data"]["content"] == "y" * n
asyncio.run(main())'

# The clients that come with jim, where plain text is refused; and to whom the server is a stranger.
example() { # COMMAND...
    for kind in tcps wss; do
        echo 'nobody hi' | SSL_CERT_FILE=$PEM NODE_EXTRA_CA_CERTS=$PEM timeout 120 "$@" \
            "$kind://localhost:$PORT" me && continue
        echo "over $kind" && return 1
    done > "$dir/said" 2>&1
    [ "$(grep -c '"code": *10001' "$dir/said")" -eq 2 ] || { cat "$dir/said" && false; }
}
stranger() { # COMMAND...: it does not log in, and says why
    for kind in tcps wss; do
        timeout 120 "$@" "$kind://localhost:$PORT" me < /dev/null > "$dir/said" 2> "$dir/why" &
        client=$!
        until grep -q 'self-signed\|self signed' "$dir/why"; do
            kill -0 $client 2> /dev/null || break
            sleep 0.05
        done
        kill $client 2> /dev/null
        wait $client
        grep -q 'self-signed\|self signed' "$dir/why" && [ ! -s "$dir/said" ] ||
            { cat "$dir/why" "$dir/said" && return 1; }
    done
}
for client in 'python3 ../examples/client.py' 'node ../examples/client.mjs'; do
    program=${client%% *} file=$here/${client#* }
    check "${client##*/}" example "$program" "$file"
    check "${client##*/}-stranger" stranger "$program" "$file"
done

# --- what has to be refused ----------------------------------------------------------------------

shakes() { # OPTION...: does the handshake succeed? Tells what happened.
    openssl s_client -connect "localhost:$PORT" "$@" < /dev/null > "$dir/shake" 2>&1 &&
        grep -qE '^New, TLSv1.[23], Cipher is [A-Z]' "$dir/shake"
    set -- $?
    cat "$dir/shake"
    return "$1"
}
refused() {
    ! shakes "$@"
}
for version in -tls1 -tls1_1; do
    check "no$version" refused $version -cipher 'ALL:@SECLEVEL=0'
done
good='ECDHE-ECDSA-AES256-GCM-SHA384 ECDHE-ECDSA-AES128-GCM-SHA256 ECDHE-ECDSA-CHACHA20-POLY1305'
for cipher in $(openssl ciphers 'ALL:COMPLEMENTOFALL:@SECLEVEL=0' | tr : ' '); do
    case " $good TLS_AES_256_GCM_SHA384 TLS_CHACHA20_POLY1305_SHA256 TLS_AES_128_GCM_SHA256 " in
    *" $cipher "*) ;;
    *) check "no-$cipher" refused -tls1_2 -cipher "$cipher:@SECLEVEL=0" ;;
    esac
done
for cipher in $good; do
    check "$cipher" shakes -tls1_2 -cipher "$cipher"
done
for group in X25519 P-256 P-384; do
    check "group-$group" shakes -groups $group
done
check no-weak-group refused -groups P-521 # and none below: s_client knows none that it may offer

# The page itself, in Chromium, over https and wss.
browser() {
    JIM_TEST_TLS=$PEM sh "$here/browser/run.sh" > "$dir/browser" 2>&1 && return 0
    cat "$dir/browser"
    return 1
}
check chromium browser

wait $scanner
status=$?
cp "$dir/scan.out" "$dir/out"
verdict testssl.sh $status

# All this has left the server well.
check server-is-well health
kill $pid
wait $pid
verdict server-ended-well $?
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
