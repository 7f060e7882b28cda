#!/bin/sh
# SPDX-License-Identifier: MIT
# import_redis.sh - `jim import --jim-redis` against a real redis-server, filled as J-IM 3.0 fills it:
# JIM=./jim TALK=build/talk tests/import_redis.sh. What was imported is then asked of a running jim.
# Ends with `N passed, N failed`.
set -u
: "${JIM:=./jim}" "${TALK:=build/talk}"
dir=$(mktemp -d)
passed=0 failed=0 redis='' server=''
export JIM_REDIS_AUTH=opensesame
unset REDISCLI_AUTH

finish() {
    [ -n "$server" ] && kill "$server" && wait "$server"
    [ -n "$redis" ] && kill "$redis" && wait "$redis"
    rm -rf "$dir"
} 2> /dev/null
trap finish EXIT

# check NAME WANT GOT: GOT must hold WANT. refute: it must not.
check() {
    case "$3" in
    *"$2"*) passed=$((passed + 1)) ;;
    *)
        failed=$((failed + 1))
        printf 'FAIL %s: no\n  %s\nin\n  %s\n' "$1" "$2" "$3"
        ;;
    esac
}
refute() {
    case "$3" in
    *"$2"*)
        failed=$((failed + 1))
        printf 'FAIL %s:\n  %s\nis in\n  %s\n' "$1" "$2" "$3"
        ;;
    *) passed=$((passed + 1)) ;;
    esac
}

start_redis() {
    tries=0
    while [ $tries -lt 30 ]; do
        port=$((20000 + ($$ * 7 + tries * 131) % 30000))
        redis-server --port $port --bind 127.0.0.1 --dir "$dir" --save '' --appendonly no \
            --requirepass $JIM_REDIS_AUTH > "$dir/redis.log" 2>&1 &
        redis=$!
        while kill -0 $redis 2> /dev/null; do
            cli INFO server | tr -d '\r' | grep -qx "process_id:$redis" && return # ours
            sleep 0.05
        done
        wait $redis
        redis=''
        tries=$((tries + 1))
    done
    cat "$dir/redis.log"
    exit 1
}

cli() { REDISCLI_AUTH=$JIM_REDIS_AUTH redis-cli -p $port "$@" 2> /dev/null; }

# chat TYPE FROM TO-OR-GROUP ID TIME TEXT: as J-IM writes it, keys in order, nulls left out.
chat() {
    to="\"to\":\"$3\"" group=''
    [ "$1" = 1 ] && to='' group="\"groupId\":\"$3\","
    printf '{"chatType":%s,"cmd":11,"content":"%s","createTime":%s,"from":"%s",%s"id":"%s","msgType":0%s}' \
        "$1" "$6" "$5" "$2" "$group" "$4" "${to:+,$to}"
}
zadd() { cli ZADD "$1" "$2" "$3" > /dev/null; }
private() { # KEY FROM TO ID TIME TEXT [push]
    m=$(chat 2 "$2" "$3" "$4" "$5" "$6")
    zadd "store:user:$1" "$5" "$m"
    [ -n "${7:-}" ] && zadd "push:user:$3:$2" "$5" "$m"
}

fill() {
    t=1700000000000
    # A conversation, the last two messages of which wait for bob.
    private ann-bob ann bob m1 $((t + 1)) '第一条 😀 \"quoted\"'
    private ann-bob bob ann m2 $((t + 2)) 'second\nline'
    private ann-bob ann bob m3 $((t + 3)) third push
    private ann-bob ann bob m4 $((t + 4)) fourth push
    # Ids with '-': two conversations under one key.
    private a-b-c a-b c d1 $((t + 5)) 'from a-b to c'
    private a-b-c a b-c d2 $((t + 6)) 'from a to b-c' push
    # Equal scores: Redis orders them by text.
    private eve-ann eve ann e2 $((t + 7)) same
    private eve-ann eve ann e1 $((t + 7)) same
    private eve-ann eve ann e3 $((t + 7)) same
    # Ids with ':'; a message that waits and is in no history; chatType 0, no id.
    zadd push:user:x:y:z "$((t + 8))" "$(chat 2 y:z x q1 $((t + 8)) 'only waiting')"
    zadd store:user:ann-zoe "$((t + 9))" \
        '{"chatType":0,"content":"no id","createTime":'$((t + 9))',"from":"zoe","to":"ann"}'
    # A group of several pages, 1500 messages; the last three wait for bob. One more without members.
    i=1
    while [ $i -le 1500 ]; do
        m=$(chat 1 ann 100 g$i $((t + i)) "to all $i")
        printf 'ZADD store:group:100 %s ' $((t + i))
        printf '%s\n' "'$m'"
        [ $i -gt 1497 ] && printf "ZADD push:group:100:bob %s '%s'\n" $((t + i)) "$m"
        i=$((i + 1))
    done > "$dir/commands"
    cli < "$dir/commands" > /dev/null
    zadd store:group:empty "$t" "$(chat 1 eve empty h1 $t alone)"
    zadd store:group:nobody "$t" \
        '{"chatType":1,"content":"who","createTime":'$t',"groupId":"nobody","id":"n1","msgType":0}'
    # Users and groups, as a login leaves them; a TTL as J-IM sets it.
    for u in ann bob eve; do
        cli SETEX user:$u:info 2147483647 \
            '{"avatar":"http://x/'$u'.png","extras":{"k":1},"nick":"昵称 '$u'","status":"online","terminal":"tcp","userId":"'$u'"}' > /dev/null
        cli SET user:$u:terminal:tcp '"online"' > /dev/null
        cli RPUSH user:$u:group 100 > /dev/null
        cli RPUSH group:100:user $u > /dev/null
    done
    cli RPUSH user:bob:group 200 > /dev/null
    cli RPUSH group:200:user bob > /dev/null
    cli SET group:100:info '{"groupId":"100","name":"J-IM朋友圈"}' > /dev/null
    cli SET user:ann:friends '[{"groupId":"1","name":"我的好友","users":[{"nick":"B","status":"online","userId":"bob"}]}]' > /dev/null
    # What is refused: no JSON, no sender, an id of 65 bytes, a key of another type.
    zadd store:user:ann-bob $((t + 5)) 'not json'
    zadd store:user:null-bob $((t + 5)) '{"chatType":2,"content":"x","createTime":1,"id":"x1","to":"bob"}'
    long=$(printf '%065d' 0)
    private "$long-ann" "$long" ann x2 $((t + 5)) 'long'
    cli SET store:user:wrong text > /dev/null
}

port_of() { sed -n 's/^jim: listening on 127.0.0.1://p' "$1"; }

start_redis
fill
cli CONFIG RESETSTAT > /dev/null
out=$("$JIM" import --jim-redis 127.0.0.1:$port "$dir/data" 2> "$dir/err")
check 'some refused: exit 1' 'exit 1' "exit $?"
check summary 'imported 1513 messages, 3 users, 1 groups, 4 memberships' "$out"
check 'waiting messages are in the history too' '6 messages were there already; 4 refused' "$out"
check 'ids made' '1 messages had no id' "$out"
check 'group message without sender' "1 group messages had no sender" "$out"
check 'no JSON' 'store:user:ann-bob: a message that is no JSON object' "$(cat "$dir/err")"
check 'no sender' 'store:user:null-bob: a private message without a sender' "$(cat "$dir/err")"
check 'long id' "the sender's id is none that jim allows" "$(cat "$dir/err")"
check 'another type' 'store:user:wrong: no value of the kind' "$(cat "$dir/err")"
used=$(cli INFO commandstats | sed -n 's/^cmdstat_\([^:]*\):.*/\1/p' | sort | tr '\n' ' ')
# CONFIG and INFO are this script's.
check 'only read' 'auth config|resetstat get lrange ping scan zrange ' "$used"

"$JIM" check "$dir/data" > "$dir/check"
check 'a clean store' 'no damage' "$(cat "$dir/check")"
"$JIM" export -a "$dir/data" > "$dir/one"
out=$("$JIM" import --jim-redis "127.0.0.1:$port" "$dir/data" 2> /dev/null)
check 'again: nothing' 'imported 0 messages, 0 users, 0 groups, 0 memberships, 0 cursors; 1519' "$out"
"$JIM" export -a "$dir/data" > "$dir/two"
check 'again: the same store' same "$(cmp "$dir/one" "$dir/two" && echo same)"
out=$(JIM_REDIS_AUTH=wrong "$JIM" import --jim-redis 127.0.0.1:$port "$dir/other" 2>&1)
check 'wrong password: exit 2' 'exit 2' "exit $?"
check 'wrong password' 'WRONGPASS' "$out"
out=$(JIM_REDIS_AUTH='' "$JIM" import --jim-redis 127.0.0.1:$port "$dir/other" 2>&1)
check 'no password' 'NOAUTH' "$out"
out=$(JIM_REDIS_USER=default "$JIM" import --jim-redis 127.0.0.1:$port "$dir/other" 2>&1)
check 'with a user name' 'imported 1513 messages' "$out"

"$JIM" -p 0 -d "$dir/data" -o jim.login.groups= > "$dir/ready" 2> "$dir/log" &
server=$!
tries=0
while [ -z "$(port_of "$dir/ready")" ] && [ $tries -lt 2400 ]; do
    tries=$((tries + 1))
    sleep 0.05
done
jim=$(port_of "$dir/ready")
[ -n "$jim" ] || cat "$dir/log"
check healthz ok "$(curl -s "http://127.0.0.1:$jim/healthz")"
out=$("$JIM" import --jim-redis 127.0.0.1:$port "$dir/data" 2>&1)
check 'not while a server runs' 'in use' "$out"

say() { "$TALK" "$jim" 5 "{\"userId\":\"$1\"}" "$2" "$3"; }
out=$(say ann 19 '{"userId":"ann","fromUserId":"bob","type":1}')
check unicode '"content":"第一条 😀 \"quoted\"","createTime":1700000000001' "$out"
check 'order, numbers' '"seq":1,"to":"bob"},{"chatType":2,"cmd":11,"content":"second\nline"' "$out"
check 'the last number' '"id":"m4","msgType":0,"seq":4' "$out"
out=$(say ann 19 '{"userId":"ann","fromUserId":"bob","type":1,"beginTime":1700000000002,"endTime":1700000000003}')
check 'history by time' '"friends":{"bob":[{"chatType":2,"cmd":11,"content":"second\nline"' "$out"
check 'history by time' '"id":"m3","msgType":0,"seq":3,"to":"bob"}]' "$out"
out=$(say ann 19 '{"userId":"ann","type":0}')
check 'ann has missed nothing' '"friends":{},"groups":{}' "$out"
out=$(say bob 19 '{"userId":"bob","type":0}')
check 'bob waits for two and three' '"friends":{"ann":[{"chatType":2,"cmd":11,"content":"third"' "$out"
check 'the group from 1498' '"groups":{"100":[{"chatType":1,"cmd":11,"content":"to all 1498"' "$out"
refute 'not more of the group' 'to all 1497"' "$out"
out=$(say b-c 19 '{"userId":"b-c","type":0}')
check 'ids with -' '"friends":{"a":[{"chatType":2,"cmd":11,"content":"from a to b-c"' "$out"
out=$(say a-b 19 '{"userId":"a-b","fromUserId":"c","type":1}')
check 'ids with -, the other' '"friends":{"c":[{"chatType":2,"cmd":11,"content":"from a-b to c"' "$out"
refute 'ids with -, apart' 'from a to b-c' "$out"
out=$(say x 19 '{"userId":"x","type":0}')
check 'ids with :' '"friends":{"y:z":[{"chatType":2,"cmd":11,"content":"only waiting"' "$out"
out=$(say eve 19 '{"userId":"eve","fromUserId":"ann","type":1}')
check 'equal scores' '"id":"e1","msgType":0,"seq":1,"to":"ann"},' "$out"
check 'equal scores' '"id":"e3","msgType":0,"seq":3' "$out"
out=$(say ann 19 '{"userId":"ann","fromUserId":"zoe","type":1}')
check 'chatType 0 is private' '"friends":{"zoe":[{"chatType":2,"content":"no id"' "$out"
out=$(say ann 17 '{"userId":"ann","type":2}')
check friends '"friends":[{"groupId":"1","name":"我的好友"' "$out"
out=$(say bob 17 '{"userId":"bob","type":2}')
check 'group name and members' '"groupId":"100","name":"J-IM朋友圈","online":1,"users":[' "$out"
check 'a group of one' '"groupId":"200","name":"200"' "$out"
check profile '"avatar":"http://x/ann.png","extras":{"k":1},"nick":"昵称 ann","status":"offline"' "$out"
out=$(say ann 19 '{"userId":"ann","groupId":"100","type":1,"beforeSeq":1501,"count":2}')
check 'the end of a long history' '"content":"to all 1499"' "$out"
out=$(curl -s "http://127.0.0.1:$jim/api/message/send" -d '{"chatType":1,"groupId":"100","content":"on"}')
check 'numbers go on' '"seq":1501' "$out"
out=$(curl -s "http://127.0.0.1:$jim/api/user/online?userid=bob")
check 'nobody is online' '"code":10001' "$out"

printf '%d passed, %d failed\n' $passed $failed
[ $failed -eq 0 ]
