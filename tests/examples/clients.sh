# clients.sh - examples/client.py and examples/client.mjs over each transport: answers, offline
# messages, live ones, groups, a killed server, a silent one, refusals.
. ./begin
options='-o jim.store.sync=off -o jim.fetch.max=100 -o jim.rate.messages=1000'
start $options

password= host=127.0.0.1
# client KIND USER ARG...: run one; its stdin is to be said, its stdout what it got.
client() {
    kind=$1 user=$2
    shift 2
    case $kind in
    py-*) timeout 300 python3 "$root/examples/client.py" "$@" "${kind#*-}://$host:$port" "$user" $password ;;
    node-native) timeout 300 node --no-warnings --experimental-websocket "$root/examples/client.mjs" "$@" \
        "ws://$host:$port" "$user" $password ;;
    node-*) timeout 300 node "$root/examples/client.mjs" "$@" "${kind#*-}://$host:$port" "$user" $password ;;
    esac
}

# lines TO N: N messages to somebody, as a client's stdin.
lines() { seq 1 "$2" | sed "s/^/$1 text /"; }
# numbers FILE: the numbers of the texts in a client's output, in order, in one line.
numbers() { sed -n 's/.*"content": *"text \([0-9]*\)".*/\1/p' "$1" | tr '\n' ' '; }
all_of() { [ "$(numbers "$1")" = "$(seq 1 "$2" | tr '\n' ' ')" ]; }
said() { [ "$(grep -c "$2" "$1")" -eq "$3" ]; }
online() { curl -s "http://127.0.0.1:$port/api/user/online?userid=$1" | grep -q 10019; }
kinds="py-tcp py-ws node-tcp node-ws"
node --experimental-websocket -e 'new WebSocket("ws://127.0.0.1:1")' 2>&1 |
    grep -q 'not defined\|bad option' || kinds="$kinds node-native"

for k in $kinds; do
    other=py-tcp
    [ "$k" = py-tcp ] && other=node-ws

    # Nobody is there: 10001 for each, and all of it, once, in order, at the login.
    lines "$k-a" 30 | client "$k" "$k-b" > sent
    check "$k: answers" said sent '"code": *10001' 30
    client "$other" "$k-a" -n 30 < /dev/null > got
    check "$k to $other: offline" all_of got 30

    # The other way round, more than may be sent at once, and more than fits one answer.
    lines "$k-b" 450 | client "$other" "$k-a" > sent
    client "$k" "$k-b" -n 450 < /dev/null > got
    check "$other to $k: offline, in pages" [ "$(grep content got | sort -u | wc -l)" -eq 450 ]

    # A group, live, while the server is killed twice. What was sent is sent again, what was missed
    # is fetched; each comes once. The sender's own come back to him.
    mkfifo typing 2> /dev/null
    rm -f got sent err # what is waited for there is not what was there before
    client "$k" "$k-c" -n 300 < /dev/null > got 2>> log &
    receiver=$!
    client "$k" "$k-d" < typing > sent 2>> log &
    sender=$!
    exec 3> typing
    until_true online "$k-c"
    lines '#100' 100 >&3
    until_true grep -q 'text 20"' got
    kill -9 "$server" && wait "$server" 2> /dev/null
    lines '#100' 200 | tail -n 100 >&3
    start $options
    until_true grep -q 'text 120"' got
    kill -9 "$server" && wait "$server" 2> /dev/null
    start $options
    lines '#100' 300 | tail -n 100 >&3
    exec 3>&-
    wait "$receiver" "$sender"
    check "$k: a killed server" all_of got 300
    check "$k: each answered" said sent '"command": *12' 300

    # A server that says nothing is noticed, and left for good only by those who stop.
    rm -f got err
    client "$k" "$k-e" -b 1 -n 1 < /dev/null > got 2> err &
    receiver=$!
    until_true online "$k-e"
    kill -STOP "$server"
    until_true grep -q 'connection lost' err
    check "$k: silence is noticed" [ $? -eq 0 ]
    kill -CONT "$server"
    lines "$k-e" 1 | client "$other" "$k-f" > sent
    wait "$receiver"
    check "$k: and overcome" all_of got 1
done

# More conversations to catch up with than may be asked for at once; and what came last went into a
# connection that died: the cursors are behind it.
# bulk USER FIRST: messages FIRST to FIRST+99, of a hundred others, into the store.
bulk() {
    seq 100 | while read -r n; do
        echo "{\"chatType\":2,\"from\":\"f$n\",\"to\":\"$1\",\"content\":\"text $(($2 + n - 1))\"}"
        [ "$2" -eq 1 ] || echo "{\"type\":\"cursor\",\"userId\":\"$1\",\"fromUserId\":\"f$n\",\"seq\":2}"
    done | "$JIM" import data >> log 2>&1
}
few='-o jim.store.sync=off -o jim.rate.messages=50 -o jim.rate.burst=50'
for k in $kinds; do
    kill "$server" && wait "$server"
    bulk "$k-g" 1
    start $few
    client "$k" "$k-g" -n 200 < /dev/null > got 2>> log &
    receiver=$!
    until_true said got '"content"' 100
    kill "$server" && wait "$server"
    bulk "$k-g" 101
    start $few
    wait "$receiver"
    check "$k: a hundred conversations" [ "$(grep content got | sort -u | wc -l)" -eq 200 ]
done

# A private message that names a group, as a server of J-IM passes it on, is none of the group's: what
# the group says under the same number is not lost behind it.
cat > names.py <<'END'
import sys
source, main, _ = open(sys.argv[1], encoding='utf-8').read().rpartition('\nasyncio.run(main())')
exec(source)
c, got = Client.__new__(Client), []
c.user, c.last, c.on_chat = 'ann', {}, lambda chat: got.append(chat['content'])
for kind, text in (2, 'private'), (1, "the group's"):
    c.take({'chatType': kind, 'from': 'eve', 'to': 'ann', 'groupId': '100', 'seq': 1, 'content': text})
sys.exit(got != ['private', "the group's"])
END
check "python: a group's name in a private message" python3 names.py "$root/examples/client.py"
{
    sed '/^const { values, positionals }/,$d' "$root/examples/client.mjs"
    cat << 'END'
const c = Object.create(Client.prototype), got = [];
Object.assign(c, { user: 'ann', last: new Map(), onchat: (chat) => got.push(chat.content) });
for (const [chatType, content] of [[2, 'private'], [1, "the group's"]])
  c.take({ chatType, from: 'eve', to: 'ann', groupId: '100', seq: 1, content });
process.exit(got.join() === "private,the group's" && c.last.get('{"fromUserId":"eve"}') === 1 ? 0 : 1);
END
} > names.mjs
check "node: a group's name in a private message" node names.mjs

# An address of IPv6, where there is one.
kill "$server" && wait "$server"
: > ready
"$JIM" -q -b ::1 -p "$port" -o jim.auth=open -d data > ready 2>> log &
server=$!
until_true listens_or_ended
if grep -q listening ready; then
    host='[::1]'
    for k in $kinds; do
        lines "$k-h" 1 | client "$k" "$k-i" > got 2>> log
        check "$k: IPv6" said got '"code": *10001' 1
    done
    host=127.0.0.1
fi

# Who is elsewhere, or refused, does not try again.
kill "$server" && wait "$server"
printf 'right\n' | "$JIM" passwd users ann > /dev/null
start -o jim.auth=file -o jim.users.file=users -o jim.login.policy=one -o jim.auth.delay=0
for k in $kinds; do
    client "$k" nobody < /dev/null > got 2> err
    check "$k: refused" [ $? -eq 1 ]
    check "$k: says so" grep -q 'login failed' err
    password=right
    rm -f got err
    client "$k" ann -n 1 < /dev/null > got 2> err &
    first=$!
    until_true grep -q '"code": *10007' got
    client "$other" ann < /dev/null > got-too
    wait "$first"
    check "$k: displaced" [ $? -eq 1 ]
    check "$k: by whom" grep -q 'logged in elsewhere' err
    password=
done
end
