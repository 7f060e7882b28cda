#!/bin/sh
# planted.sh - are the store's tests any good? Deliberate bugs, planted one by one into copies of the
# sources (or told to the simulated disk, which then lies), must each be caught. A bug whose place in
# the source cannot be found exactly once counts as missed, so that this list cannot rot. Ends with
# `N passed, N failed`; passed means caught.
set -u
passed=0 failed=0 name='' intact=1
: "${MAKE:=make}"
dir=build/planted most=40000 # seeds before a bug counts as missed

rm -rf "$dir"
mkdir -p "$dir/tests" "$dir/build"
cp -p ./*.c ./*.h ./*.o Makefile "$dir"
cp -p tests/*.[ch] "$dir/tests"
rm "$dir"/tests/test_*.c
cp -p tests/test_store.c "$dir/tests"
cp -p build/*.o build/tls-* "$dir/build"
cp -pR web page.inc "$dir"

# plant NAME: begin with a sound copy.
plant() {
    name=$1 intact=1
    cp -p segment.c helper.c store.c "$dir"
    touch "$dir/segment.c" "$dir/helper.c" "$dir/store.c"
}

# change FILE OLD NEW: OLD, to the letter, must be there once.
change() {
    OLD=$2 NEW=$3 awk 'BEGIN { RS = "\001"; old = ENVIRON["OLD"] }
        { at = index($0, old)
          if (at == 0 || index(substr($0, at + 1), old) > 0) exit 1
          printf "%s%s%s", substr($0, 1, at - 1), ENVIRON["NEW"], substr($0, at + length(old))
        }' "$dir/$1" > "$dir/changed" || intact=0
    mv "$dir/changed" "$dir/$1"
}

missed() {
    failed=$((failed + 1))
    printf 'FAIL %s: %s\n' "$name" "$1"
}

caught() {
    passed=$((passed + 1))
    printf 'caught %s: %s\n' "$name" "$1"
}

# Build a target of the copy; false when there is nothing to judge.
build() {
    if [ $intact -eq 0 ]; then
        missed 'its place in the source was not found exactly once'
        return 1
    fi
    (cd "$dir" && $MAKE "$@") > "$dir/out" 2>&1 && return 0
    tail -n 5 "$dir/out"
    missed 'does not build'
    return 1
}

# By the crash simulator, at the first seed that fails.
by_crash() {
    if [ $# -eq 0 ]; then build build/crash || return; fi
    if "$dir/build/crash" -f 1 "$@" "$most" > "$dir/out" 2>&1; then
        missed "$(tail -n 1 "$dir/out")"
    else
        caught "$(grep -m 1 '^seed' "$dir/out" | sed 's/; replay.*//')"
    fi
}

# By a test of tests/test_store.c.
by_test() {
    build build/run-tests TESTSRC="tests/client.c tests/test_store.c" || return
    if JIM_SOURCE=$PWD JIM=$PWD/jim "$dir/build/run-tests" "$1" > "$dir/out" 2>&1; then
        missed "$(tail -n 1 "$dir/out")"
    else
        caught "test $(grep -m 1 '^FAIL' "$dir/out" | sed 's/FAIL //')"
    fi
}

plant 'no bug at all'
build build/crash && if "$dir/build/crash" 300 > "$dir/out" 2>&1; then
    passed=$((passed + 1))
else
    missed "$(grep -m 1 '^seed' "$dir/out")"
fi

# Disks that lie, which is what a call left out comes to.
plant 'no sync of any file'
by_crash -l sync
plant 'no sync of a directory after a rename'
by_crash -l sync-dir

plant 'acknowledged before the sync'
change helper.c 'if (s->o.policy == STORE_GROUP || b->must_sync) {' 'if (b->must_sync) {'
by_crash

plant 'a failed sync tried again'
change helper.c 'if (s->dirty && !io_sync(s->io, s->fd)) {' \
    'if (s->dirty && !io_sync(s->io, s->fd) && !io_sync(s->io, s->fd)) {'
by_crash

plant 'a full segment not synced before the next'
change helper.c 'if (!helper_sync(s))
        return batch_fail(s, b, BATCH_FAILED, "syncing a full segment");' ''
by_crash

plant 'a header not synced before its segment gets its name'
change helper.c '} else if (!io_sync(s->io, s->spare_fd)) {' '} else if (false) {'
by_crash

plant 'a batch that could not be written not cut off'
change helper.c 'if (!io_truncate(s->io, s->fd, b->base))' 'if (false)'
by_crash

plant 'that cut not synced'
change helper.c 'return helper_sync(s) ? outcome' 'return true ? outcome'
by_crash

plant 'numbers do not jump after an unclean stop'
change store.c 'c->last : first) + JUMP' 'c->last : first) + 1'
by_crash

plant 'a clean stop believed though records came after it'
change store.c 'b->must_sync = s->clean;' 'b->must_sync = false;'
by_crash

plant 'a torn tail not cut'
change store.c '(!torn || io_truncate(s->io, fd, c->bad_at)) &&' ''
by_crash

plant 'what a start finds not synced'
change store.c 'refresh(s, fd, path, c->proven) && io_sync(s->io, fd);' \
    'refresh(s, fd, path, c->proven);'
by_crash

plant 'what a start finds not written anew'
change store.c 'refresh(s, fd, path, c->proven) && io_sync' 'io_sync'
by_crash

plant 'an empty segment taken for a clean stop'
change segment.c 'c->closed = false; /*' '/*'
by_crash

plant 'a directory that is there taken for safe'
change store.c 'if (result < 0 && errno != EEXIST)
        return' 'if (result < 0)
        return errno == EEXIST ||'
by_crash

plant 'damage taken for a torn tail'
change segment.c 'return rec.type == REC_BATCH && batch_synced(rec.json) >= number;' 'return false;'
by_crash

plant 'a checksum over the JSON alone'
change segment.c 'crc32c_add(crc, seed, body, (size_t)(to - body))' \
    'crc32c_add(crc, seed, r->json.p, r->json.n)'
change segment.c 'crc32c_add(crc, seed, body, (size_t)(end - body)) != sum' \
    'crc32c_add(crc, seed, r->json.p, r->json.n) != sum'
by_crash

plant 'a checksum without the salt'
change segment.c 'crc32c_add(crc, seed, body, (size_t)(to' \
    'crc32c_add(crc, 0 * seed, body, (size_t)(to'
change segment.c 'crc32c_add(crc, seed, body, (size_t)(end' \
    'crc32c_add(crc, 0 * seed, body, (size_t)(end'
by_crash

plant 'no check of checksums'
change segment.c 'if (crc32c_add(crc, seed, body, (size_t)(end - body)) != sum)' 'if (sum + 1 == 0)'
by_crash

plant 'no check of the header'
change segment.c ' || sum != crc32c_add(crc, 0, line.p, line.n - 9))' ')'
by_test store_flip_every_bit

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
