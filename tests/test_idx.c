/* SPDX-License-Identifier: MIT */
/*
 * test_idx.c - the .idx files beside sealed segments: a start with them finds what a start without
 * them finds, and whatever is wrong with one, it is as if it were not there.
 */
#include "test.h"
#include "../store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <unistd.h>

#define CONVS 7

struct shelf {
    struct store *s;
    struct store_index index[CONVS];
    uint64_t seq[CONVS];
    bool set_back; /* the clock, with every eighth message of a conversation */
    int parts; /* ends of those that are in order of time, seen by shelf_text() */
    struct buf states;    /* what was replayed that is no message */
    uint64_t spans, recent;
    uint64_t recent_last; /* number of the newest of them */
    struct log log;
    struct store_io io;
};

static int
conv_of(struct str key)
{
    CHECK(key.n == 4 && memcmp(key.p, "g:c", 3) == 0 && key.p[3] >= '0' && key.p[3] < '0' + CONVS);
    return key.p[3] - '0';
}

static void
on_replay(void *arg, const struct store_rec *rec)
{
    struct shelf *f = arg;

    CHECK(rec->type != REC_MESSAGE && rec->type != REC_BATCH);
    buf_printf(&f->states, "%" PRIu64 " %" PRId64 " %c %.*s %" PRIu64 " %.*s\n", rec->number,
               rec->time_ms, rec->type, (int)rec->conv.n, rec->conv.p, rec->seq, (int)rec->json.n,
               rec->json.p);
}

static void
on_span(void *arg, const struct store_span *span)
{
    struct shelf *f = arg;
    int i = conv_of(span->conv);

    CHECK(span->count > 0 && span->first > f->seq[i]);
    store_index_add_span(&f->index[i], span);
    f->seq[i] = span->first + span->count - 1;
    f->spans++;
}

static void
on_recent(void *arg, const struct store_rec *rec)
{
    struct shelf *f = arg;

    CHECK(rec->type == REC_MESSAGE && rec->number > f->recent_last);
    f->recent_last = rec->number;
    f->recent++;
}

/* Thousands of starts: none needs to survive a power cut. */
static int
no_sync(void *arg, int fd)
{
    (void)arg;
    (void)fd;
    return 0;
}

static int
no_sync_dir(void *arg, const char *path)
{
    (void)arg;
    (void)path;
    return 0;
}

static bool
shelf_open_as(struct shelf *f, const char *dir, const struct store_io *io, uint64_t recent_max,
              int64_t recent_ms)
{
    struct store_io copy = io != NULL ? *io : store_disk;

    memset(f, 0, sizeof *f);
    f->io = copy;
    f->log = (struct log){stdout, LOG_LEVEL_ERROR};
    struct store_options o = {.dir = dir, .policy = STORE_GROUP, .segment = 1500, .log = &f->log,
                              .io = &f->io, .replay = on_replay, .span = on_span,
                              .recent = on_recent, .recent_max = recent_max,
                              .recent_ms = recent_ms, .arg = f};
    f->s = store_open(&o);
    return f->s != NULL;
}

static bool
shelf_open(struct shelf *f, const char *dir)
{
    struct store_io io = store_disk;

    io.sync = no_sync;
    io.sync_dir = no_sync_dir;
    f->io = io;
    return shelf_open_as(f, dir, &f->io, 0, 0);
}

static void
shelf_close(struct shelf *f)
{
    if (f->s != NULL)
        CHECK_INT(store_close(f->s), 0);
    for (int i = 0; i < CONVS; i++)
        store_index_free(&f->index[i]);
    buf_free(&f->states);
}

static void
shelf_say(struct shelf *f, int i)
{
    char key[] = "g:c0", json[120];
    uint64_t seq = ++f->seq[i];

    key[3] = (char)('0' + i);
    snprintf(json, sizeof json, "{\"content\":\"%" PRIu64 " in %d%.*s\"}", seq, i, (int)(seq % 40),
             "........................................");
    int64_t ms = (int64_t)(f->set_back ? 1000 + seq % 8 * 16384 : 1000 + seq);
    CHECK(store_append(f->s, REC_MESSAGE, str_of(key), seq, str_of(json), ms, &f->index[i]) != 0);
}

/* False when what was appended is lost. */
static bool
shelf_settle(struct shelf *f)
{
    enum store_news news = STORE_SAME;

    while (store_durable(f->s) < store_last(f->s) && news != STORE_LOST) {
        store_commit(f->s);
        news = store_poll(f->s);
        usleep(50);
    }
    return news != STORE_LOST;
}

/* Some of everything: runs, gaps, states. */
static void
shelf_fill(struct shelf *f, int n)
{
    for (int k = 0; k < n; k++) {
        char json[40];
        shelf_say(f, (k * k + k / 3) % CONVS);
        if (k % 50 == 49)
            f->seq[k % CONVS] += 3; /* a gap: numbers were given out and lost */
        snprintf(json, sizeof json, "{\"userId\":\"u%d\"}", k);
        if (k % 4 == 0)
            CHECK(store_append(f->s, k % 8 == 0 ? REC_CURSOR : REC_USER, STR("g:c1"), 5,
                               str_of(json), k, NULL) != 0);
        if (k % 5 == 0)
            CHECK(shelf_settle(f));
    }
    CHECK(shelf_settle(f));
}

/* All that a start has found, and every message. */
static struct buf
shelf_text(struct shelf *f)
{
    struct buf to = {0}, line = {0};
    struct store_rec rec;
    uint64_t first, last;

    buf_add(&to, f->states.p, f->states.len);
    for (int i = 0; i < CONVS; i++)
        for (uint64_t seq = 0; seq <= f->seq[i] + 1; seq++) {
            line.len = 0;
            int result = store_read(f->s, STR("-"), &f->index[i], seq, &line, &rec);
            buf_printf(&to, "%d %" PRIu64 " %d %.*s\n", i, seq, result,
                       result == 0 ? (int)rec.json.n : 0, result == 0 ? rec.json.p : "");
            store_index_ordered(&f->index[i], seq, &first, &last);
            buf_printf(&to, "ordered %" PRIu64 " to %" PRIu64 "\n", first, last);
            f->parts += last != UINT64_MAX && seq == last;
        }
    buf_free(&line);
    return to;
}

static void
same(const struct buf *a, const struct buf *b)
{
    CHECK_INT(a->len, b->len);
    CHECK(memcmp(a->p, b->p, a->len) == 0);
}

/* --- files ------------------------------------------------------------------------------------ */

static void
put(const char *path, const char *p, size_t n)
{
    unlink(path); /* what is truncated and written again, ext4 syncs */
    write_whole(path, p, n);
}

/* Names in "d" that end so, in order. Returns how many. */
static int
names_of(const char *suffix, char names[64][40])
{
    DIR *d = opendir("d");
    struct dirent *e;
    size_t len = strlen(suffix);
    int n = 0;

    CHECK(d != NULL);
    while ((e = readdir(d)) != NULL) {
        size_t have = strlen(e->d_name);
        if (have < len || have > 30 || strcmp(e->d_name + have - len, suffix) != 0)
            continue;
        int i = n++;
        CHECK(n <= 64);
        for (; i > 0 && strcmp(names[i - 1] + 2, e->d_name) > 0; i--)
            memcpy(names[i], names[i - 1], 40);
        snprintf(names[i], 40, "d/%.30s", e->d_name);
    }
    closedir(d);
    return n;
}

/* A log of several segments in "d"; set_back: the clock was. Returns the number of .idx files, one
 * for each but the last. */
static int
make_log(char idx[64][40], bool set_back)
{
    struct shelf f;
    char logs[64][40];

    CHECK(shelf_open(&f, "d"));
    f.set_back = set_back;
    shelf_fill(&f, 150);
    struct buf text = shelf_text(&f);
    CHECK(set_back ? f.parts > CONVS : f.parts == 0);
    buf_free(&text);
    shelf_close(&f);
    int n = names_of(".idx", idx);
    CHECK(n > 5);
    CHECK_INT(n, names_of(".log", logs) - 1);
    return n;
}

static struct buf
open_text(uint64_t *spans)
{
    struct shelf f;

    CHECK(shelf_open(&f, "d"));
    struct buf text = shelf_text(&f);
    if (spans != NULL)
        *spans = f.spans;
    shelf_close(&f);
    return text;
}

/* --- tests ------------------------------------------------------------------------------------ */

TEST(idx_same_state)
{
    char idx[64][40];
    int n = make_log(idx, true);
    struct buf before[64], with = open_text(NULL), without;

    for (int i = 0; i < n; i++) {
        before[i] = read_whole(idx[i]);
        CHECK(unlink(idx[i]) == 0);
    }
    without = open_text(NULL);
    same(&with, &without);
    for (int i = 0; i < n; i++) { /* they are there again: reading finds what had been kept */
        struct buf again = read_whole(idx[i]);
        same(&before[i], &again);
        buf_free(&again);
        buf_free(&before[i]);
    }
    buf_free(&with);
    buf_free(&without);
}

/* They are used: a segment whose middle cannot be read any more is no hindrance to a start. Reading
 * from it is, and the check reads everything. */
TEST(idx_is_used)
{
    char idx[64][40], path[40];
    int n = make_log(idx, false);
    struct shelf f;
    struct buf line = {0};
    struct store_rec rec;

    CHECK(n > 2);
    snprintf(path, sizeof path, "%.26s", idx[1]);
    struct buf log = read_whole(path);
    memset(log.p + 200, 'x', 900);
    put(path, log.p, log.len);
    buf_free(&log);
    CHECK(shelf_open(&f, "d"));
    int bad = 0;
    for (int i = 0; i < CONVS; i++)
        for (uint64_t seq = 1; seq <= f.seq[i]; seq++)
            bad += store_read(f.s, STR("-"), &f.index[i], seq, &line, &rec) == -EIO;
    CHECK(bad > 3);
    shelf_close(&f);
    FILE *out = fopen("out", "w");
    CHECK(out != NULL);
    CHECK_INT(store_check("d", out), 2);
    fclose(out);
    CHECK(unlink(idx[1]) == 0);
    CHECK(!shelf_open(&f, "d"));
    shelf_close(&f);
    buf_free(&line);
}

/* Garbled at any byte, or cut at any length: passed over, and written again. */
TEST(idx_every_byte)
{
    char idx[64][40];
    int n = make_log(idx, false);
    struct buf good = read_whole(idx[n / 2]), want = open_text(NULL);

    for (size_t at = 0; at <= good.len; at++)
        for (int how = 0; how < 2; how++) {
            if (how == 0 && at < good.len) {
                good.p[at] ^= (char)(1 << at % 8);
                put(idx[n / 2], good.p, good.len);
                good.p[at] ^= (char)(1 << at % 8);
            } else {
                put(idx[n / 2], good.p, at);
            }
            struct buf got = open_text(NULL), again = read_whole(idx[n / 2]);
            same(&want, &got);
            same(&good, &again);
            buf_free(&got);
            buf_free(&again);
        }
    buf_free(&good);
    buf_free(&want);
}

/* Of another segment, or of another state of this one. */
TEST(idx_stale)
{
    char idx[64][40], path[40];
    int n = make_log(idx, false);
    struct buf good = read_whole(idx[1]), other = read_whole(idx[2]), want = open_text(NULL);
    struct shelf f;

    put(idx[1], other.p, other.len);
    struct buf got = open_text(NULL), again = read_whole(idx[1]);
    same(&want, &got);
    same(&good, &again);
    CHECK(n > 2);
    snprintf(path, sizeof path, "%.26s", idx[1]); /* a log that has lost its end is not believed */
    struct buf log = read_whole(path);
    put(path, log.p, log.len - 60);
    CHECK(!shelf_open(&f, "d"));
    shelf_close(&f);
    buf_add(&log, "what is that?\n", 14); /* nor one that has got more */
    put(path, log.p, log.len);
    CHECK(!shelf_open(&f, "d"));
    shelf_close(&f);
    snprintf(path, sizeof path, "%.26s", idx[2]); /* nor one behind which one is missing */
    put("path", log.p, log.len);
    CHECK(unlink(path) == 0);
    CHECK(!shelf_open(&f, "d"));
    shelf_close(&f);
    buf_free(&good);
    buf_free(&other);
    buf_free(&want);
    buf_free(&got);
    buf_free(&again);
    buf_free(&log);
}

/* Of a segment with the same name, size and records, written by another server: only the salt says
 * that this one's lines are others. */
TEST(idx_of_a_twin)
{
    char idx[64][40];

    make_log(idx, false);
    struct buf twin = read_whole(idx[1]);
    CHECK(system("rm -r d") == 0);
    make_log(idx, false);
    struct buf good = read_whole(idx[1]), want = open_text(NULL);
    CHECK_INT(twin.len, good.len);
    CHECK(memcmp(twin.p, good.p, good.len) != 0);
    put(idx[1], twin.p, twin.len);
    struct buf got = open_text(NULL), again = read_whole(idx[1]);
    same(&want, &got);
    same(&good, &again);
    buf_free(&twin);
    buf_free(&good);
    buf_free(&want);
    buf_free(&got);
    buf_free(&again);
}

/* What a stop in the middle leaves behind is removed. */
TEST(idx_leftovers)
{
    static const char *const names[] = {"d/next.tmp", "d/00000000000000000001.log.idx.tmp",
                                        "d/00000000000000000777.log.idx",
                                        "d/00000000000000000777.log.tmp"};
    static const char *const others[] = {"d/my.idx", "d/777.log.idx", "d/notes.tmp"};
    struct shelf f;

    CHECK(shelf_open(&f, "d"));
    shelf_fill(&f, 40);
    shelf_close(&f);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        put(names[i], "left", 4);
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        put(others[i], "not ours", 8);
    struct buf text = open_text(NULL);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        CHECK(access(names[i], F_OK) != 0);
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        CHECK(access(others[i], F_OK) == 0);
    CHECK(access("d/00000000000000000001.log.idx", F_OK) == 0);
    buf_free(&text);
}

/* --- batches that were lost ------------------------------------------------------------------- */

static ssize_t
full_pwrite(void *arg, int fd, const void *p, size_t n, off_t at)
{
    if (!__atomic_load_n((bool *)arg, __ATOMIC_SEQ_CST))
        return pwrite(fd, p, n, at);
    if (n > 1)
        CHECK(pwrite(fd, p, n / 2, at) == (ssize_t)(n / 2));
    errno = ENOSPC;
    return -1;
}

/* Batches that could not be written leave no trace in what is known of their segment. */
TEST(idx_after_losses)
{
    bool full = false;
    struct store_io io = store_disk;
    struct shelf f;
    char idx[64][40];

    io.arg = &full;
    io.pwrite = full_pwrite;
    CHECK(shelf_open_as(&f, "d", &io, 0, 0));
    for (int round = 0; round < 40; round++) {
        uint64_t before[CONVS];
        shelf_fill(&f, 5);
        memcpy(before, f.seq, sizeof before);
        __atomic_store_n(&full, true, __ATOMIC_SEQ_CST);
        for (int i = 0; i < round % 9 + 1; i++) {
            shelf_say(&f, (round + 3 * i) % CONVS);
            if (i % 4 == 3)
                store_commit(f.s); /* and more gathers behind it */
        }
        CHECK(store_append(f.s, REC_USER, STR("-"), 0, STR("{\"lost\":1}"), 1, NULL) != 0);
        CHECK(!shelf_settle(&f));
        __atomic_store_n(&full, false, __ATOMIC_SEQ_CST);
        memcpy(f.seq, before, sizeof before);
        for (int i = 0; i < CONVS; i++)
            store_index_cut(&f.index[i], f.seq[i]);
    }
    shelf_fill(&f, 5);
    f.states.len = 0;
    struct buf live = shelf_text(&f);
    shelf_close(&f);
    struct buf with = open_text(NULL);
    for (int i = names_of(".idx", idx); i-- > 0;)
        CHECK(unlink(idx[i]) == 0);
    struct buf without = open_text(NULL);
    same(&with, &without);
    CHECK(with.len > live.len); /* the states come first */
    CHECK(memcmp(with.p + with.len - live.len, live.p, live.len) == 0);
    CHECK(memmem(with.p, with.len, "lost", 4) == NULL);
    buf_free(&live);
    buf_free(&with);
    buf_free(&without);
}

/* --- the newest messages ---------------------------------------------------------------------- */

TEST(idx_recent)
{
    struct shelf f;
    uint64_t total = 0;
    char idx[64][40];

    make_log(idx, false);
    CHECK(shelf_open_as(&f, "d", NULL, 1000, 0));
    CHECK_INT(f.recent, 150);
    total = f.recent_last;
    shelf_close(&f);
    for (uint64_t max = 0; max < 150; max += 7) {
        CHECK(shelf_open_as(&f, "d", NULL, max, 0));
        CHECK_INT(f.recent, max);
        CHECK(max == 0 || f.recent_last == total);
        shelf_close(&f);
    }
    CHECK(shelf_open_as(&f, "d", NULL, 1000, time_wall_ms() + 100000)); /* none is that young */
    CHECK_INT(f.recent, 0);
    shelf_close(&f);
    CHECK(shelf_open_as(&f, "d", NULL, 1000, 1025)); /* the oldest segments have no such */
    CHECK(f.recent > 0 && f.recent < 150);
    shelf_close(&f);
}
