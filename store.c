/* SPDX-License-Identifier: MIT */
/*
 * store.c - one log at work: appending, committing, reading.
 *
 * Records gather in a buffer. store_commit() hands it to one helper thread, the only one to write,
 * sync and begin segments after store_open(); while that works, the next batch gathers in a second
 * buffer. A batch's place is settled when its first record is appended, so that the index knows
 * every offset at once. Reading is done where it is asked for, of what is durable only. The rules a
 * log on disk keeps are at the top of segment.c. Hops 5 and 6 of a message's eight (README).
 *
 *   opening, appending, committing, closing, retention, reading; as a store
 */
#include "store.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* How far numbers jump after an unclean stop. Unsynced and perhaps lost is at most one segment and
 * what waited in memory: under 4 GiB of lines of at least 25 bytes. */
#define JUMP UINT64_C(1000000000)
#define MAX_SEGMENT (3u << 30)   /* with a batch behind it, offsets still fit 32 bits */
#define KEEP_BUF (4u << 20)      /* a larger batch buffer is given back after use */
#define FIRST_READ 1024          /* most messages are whole with one read of this */
#define REWRITE (1u << 20)       /* bytes written anew at a time */

static struct logstore *
of(struct store *base)
{
    return (struct logstore *)base; /* its first member */
}

static const struct logstore *
of_const(const struct store *base)
{
    return (const struct logstore *)base;
}

/* --- opening ---------------------------------------------------------------------------------- */

static bool
refuse(const struct logstore *s, const char *what, const char *path)
{
    log_write(s->o.log, LOG_LEVEL_ERROR, "store: %s %s: %s", what, path, strerror(errno));
    return false;
}

/* Make the directory if need be, and make it stay: who made it may have died before he synced. */
static bool
open_dir(struct logstore *s)
{
    char parent[PATH_ROOM];
    int result;

    while (io_again(result = s->io->mkdir(s->io->arg, s->dir, 0700)))
        ;
    if (result < 0 && errno != EEXIST)
        return refuse(s, "cannot create", s->dir);
    snprintf(parent, sizeof parent, "%s", s->dir);
    size_t n = strlen(parent);
    while (n > 1 && parent[n - 1] == '/')
        n--;
    while (n > 0 && parent[n - 1] != '/')
        n--;
    snprintf(parent + n, sizeof parent - n, ".");
    return io_path(s->io, s->io->sync_dir, parent) || refuse(s, "cannot sync", parent);
}

/* Held until the descriptor is closed, also by the end of the process. */
static bool
open_lock(struct logstore *s)
{
    char path[PATH_ROOM];
    int result;

    snprintf(path, sizeof path, "%s/lock", s->dir);
    s->lock_fd = io_open(s->io, path, O_RDWR | O_CREAT);
    if (s->lock_fd < 0)
        return refuse(s, "cannot open", path);
    while (io_again(result = s->io->lock(s->io->arg, s->lock_fd)))
        ;
    if (result < 0 && (errno == EAGAIN || errno == EACCES)) {
        log_write(s->o.log, LOG_LEVEL_ERROR, "store: %s is in use by another server", s->dir);
        return false;
    }
    return result == 0 || refuse(s, "cannot lock", path);
}

/* Write once more what stands at [at, end) of a file. */
static bool
rewrite(const struct store_io *io, int fd, uint64_t at, uint64_t end)
{
    struct buf b = {0};
    bool ok = true;

    buf_reserve(&b, REWRITE);
    while (ok && at < end) {
        ssize_t got = io_read(io, fd, b.p, end - at < REWRITE ? (size_t)(end - at) : REWRITE, at);
        if (got == 0)
            errno = EIO;
        ok = got > 0 && io_write(io, fd, b.p, (size_t)got, at);
        at += ok ? (uint64_t)got : 0;
    }
    int err = errno;
    buf_free(&b);
    errno = err;
    return ok;
}

/* After a sync that failed, the kernel may show pages that it has given up, and a later sync would
 * leave them out: so write what is not proven anew. A full disk on which even that takes space is
 * no reason not to start. */
static bool
refresh(struct logstore *s, int fd, const char *path, uint64_t from)
{
    if (rewrite(s->io, fd, from, s->end))
        return true;
    if (errno != ENOSPC && errno != EDQUOT && errno != EFBIG)
        return false;
    log_write(s->o.log, LOG_LEVEL_WARN, "store: %s:%" PRIu64 ": no space to write the end anew: "
              "had a sync failed before this start, the next power cut may damage it", path, from);
    return true;
}

/* Cut what a power cut left unfinished, and sync what is kept, be it only the mark of a clean stop:
 * it was perhaps only in memory when the process died, and from now on it counts as durable. */
static bool
mend(struct logstore *s, const struct scan *c, uint64_t first)
{
    char path[PATH_ROOM];
    bool torn = c->result == SCAN_TORN, ok;

    segment_path(path, s->dir, first, "");
    if (torn)
        log_write(s->o.log, LOG_LEVEL_WARN,
                  "store: %s:%" PRIu64 ": %s: cut a torn tail of %" PRIu64 " bytes", path,
                  c->bad_at, c->why, c->bad_end - c->bad_at);
    if (torn && c->bad_at == 0) {
        ok = io_path(s->io, s->io->unlink, path);
    } else {
        int fd = io_open(s->io, path, O_RDWR);
        ok = fd >= 0 && (!torn || io_truncate(s->io, fd, c->bad_at)) &&
             refresh(s, fd, path, c->proven) && io_sync(s->io, fd);
        int err = errno;
        if (fd >= 0)
            s->io->close(s->io->arg, fd);
        errno = err;
    }
    return (ok && io_path(s->io, s->io->sync_dir, s->dir)) || refuse(s, "cannot mend", path);
}

/* Settle, from what the scan found, where the next batch goes. */
static bool
open_end(struct logstore *s, struct scan *c)
{
    char path[PATH_ROOM];

    if (c->result == SCAN_DAMAGED || c->result == SCAN_ERROR) {
        segment_path(path, s->dir, c->bad_first, "");
        log_write(s->o.log, LOG_LEVEL_ERROR,
                  "store: %s:%" PRIu64 ": %s%s%s: not started, nothing changed; "
                  "`jim check %s` says more", c->bad_first > 0 ? path : s->dir, c->bad_at, c->why,
                  c->err != 0 ? ": " : "", c->err != 0 ? strerror(c->err) : "", s->dir);
        return false;
    }
    s->seg = c->seg;
    s->segs = c->segs;
    s->seg_cap = c->cap;
    c->seg = NULL;
    s->sum = c->sum;
    c->sum = NULL;
    s->base.last = s->base.durable = s->written = s->safe = s->synced = c->last;
    s->next = c->last + 1;
    s->indexed = c->messages;
    s->fresh = true;
    if (c->firsts == 0)
        return true;
    uint64_t first = c->first[c->firsts - 1];
    s->end = s->segs > 0 ? s->seg[s->segs - 1].size : 0;
    if (!mend(s, c, first))
        return false;
    if (c->result == SCAN_TORN || !c->closed) {
        /* Numbers up to `first` and more may have been handed out and lost with an empty
         * segment. */
        s->next = (c->last > first ? c->last : first) + JUMP;
        return true;
    }
    segment_path(path, s->dir, first, "");
    s->fd = io_open(s->io, path, O_WRONLY);
    s->clean = true;
    s->fresh = false;
    return s->fd >= 0 || refuse(s, "cannot open", path);
}

/* The newest messages once more, for those who want their contents: so the scan need not look into
 * any. */
static void
open_recent(struct logstore *s, struct scan *c)
{
    uint32_t from = c->segs;
    uint64_t n = 0;

    if (s->o.recent == NULL)
        return;
    while (from > 0 && n < s->o.recent_max &&
           (c->seg[from - 1].messages == 0 || c->seg[from - 1].newest >= s->o.recent_ms))
        n += c->seg[--from].messages;
    scan_messages(c, from, n > s->o.recent_max ? n - s->o.recent_max : 0, s->o.recent);
}

static bool
open_log(struct logstore *s)
{
    struct scan c = {.io = s->io, .dir = s->dir, .tidy = true, .sums = true, .record = s->o.replay,
                     .span = s->o.span, .arg = s->o.arg};
    int64_t start = time_mono_ms();

    scan_run(&c);
    if (c.result == SCAN_CLEAN || c.result == SCAN_TORN)
        open_recent(s, &c);
    bool ok = open_end(s, &c);
    if (ok)
        log_write(s->o.log, LOG_LEVEL_INFO,
                  "store: %s: %" PRIu64 " messages in %" PRIu32 " segments read in %lld ms", s->dir,
                  c.messages, c.segs, (long long)(time_mono_ms() - start));
    scan_free(&c);
    return ok;
}

static void
logstore_free(struct logstore *s)
{
    for (int i = 0; i < READERS; i++)
        if (s->reader[i].fd >= 0)
            s->io->close(s->io->arg, s->reader[i].fd);
    if (s->fd >= 0)
        s->io->close(s->io->arg, s->fd);
    if (s->lock_fd >= 0)
        s->io->close(s->io->arg, s->lock_fd);
    buf_free(&s->gather.buf);
    buf_free(&s->work.buf);
    summary_free(s->gather.sealed);
    summary_free(s->work.sealed);
    summary_free(s->sealed);
    summary_free(s->sum);
    free(s->doomed);
    free(s->seg);
    free(s->dir);
    free(s);
}

/* --- appending -------------------------------------------------------------------------------- */

/* Has a conversation's key no blanks and no control characters? */
static bool
key_is_word(struct str key)
{
    size_t i = 0;

    while (i < key.n && (unsigned char)key.p[i] > ' ')
        i++;
    return i == key.n && i > 0;
}

/* (Re)write the REC_BATCH at the start of `gather`. It is written when the first record needs to
 * know its offset, and again when the batch sets off, with what is synced by then: so its length
 * must not depend on the number, which is below the record's own. */
static void
put_batch_head(struct logstore *s, uint64_t synced)
{
    struct batch *b = &s->gather;
    char json[96];
    size_t len = b->buf.len;
    char *at = at_lit(json, "{\"synced\":"), *to = json_int_at(at, (int64_t)b->first);

    assert(synced < b->first); /* so there is room for it */
    memset(at, ' ', (size_t)(to - at));
    json_int_at(at, (int64_t)synced);
    if (b->leads)
        to = json_int_at(at_lit(to, ",\"prev\":"), (int64_t)b->prev);
    to = at_lit(to, "}");
    struct store_rec rec = {.number = b->first, .time_ms = b->time_ms, .type = REC_BATCH,
                            .conv = STR("-"), .json = {json, (size_t)(to - json)}};
    b->buf.len = 0;
    line_put(&b->buf, &s->crc, s->seg[b->segment].seed, &s->time, &rec);
    if (len > 0)
        b->buf.len = len;
    else
        summary_add(s->sum, &rec, (struct str){b->buf.p, b->buf.len});
}

/* Make up the next segment's header. */
static void
plan_next(struct logstore *s)
{
    unsigned char salt[8];
    struct seg_plan *p = &s->plan;

    if (p->len > 0)
        return;
    random_bytes(salt, sizeof salt);
    for (size_t i = 0; i < sizeof salt; i++)
        snprintf(p->h.salt + 2 * i, 3, "%02x", salt[i]);
    p->len = header_put(p->text, &s->crc, &p->h);
}

/* The batch begins a segment: its place in memory; the helper makes it. */
static void
begin_segment(struct logstore *s)
{
    struct batch *b = &s->gather;

    plan_next(s);
    b->own = s->plan;
    s->plan.len = 0;
    if (s->segs > 0 && s->sum != NULL) {
        b->sealed = s->sum;
        b->sealed_first = s->seg[s->segs - 1].first;
        b->sealed_size = s->end;
    }
    s->sum = summary_new(b->own.h.salt, b->prev);
    uint32_t seed = crc32c_add(&s->crc, 0, b->own.h.salt, 16);
    segment_push(&s->seg, &s->segs, &s->seg_cap,
                 (struct segment){.first = b->first, .seed = seed});
    s->end = b->own.len;
    s->fresh = false;
}

/* Settle where the batch goes: behind what is on its way, or in a segment of its own. */
static void
begin_batch(struct logstore *s, int64_t now_ms)
{
    struct batch *b = &s->gather;

    b->first = s->next++;
    b->prev = s->base.last;
    b->begun_us = time_mono_us();
    b->time_ms = now_ms;
    b->must_sync = s->clean; /* or a power cut might show the log clean and without this batch */
    b->rotate = s->fresh || s->end >= s->o.segment;
    b->created = false;
    b->sealed = NULL;
    if (b->rotate)
        begin_segment(s);
    b->segment = s->segs - 1;
    b->base = (uint32_t)s->end;
    b->mark = summary_now(s->sum);
    b->leads = b->mark.records == 0;
    put_batch_head(s, 0);
    s->end += b->buf.len;
}

static uint64_t
logstore_append(struct store *base, char type, struct str conv, uint64_t seq, struct str json,
                int64_t now_ms, struct store_index *index)
{
    struct logstore *s = of(base);
    struct batch *b = &s->gather;
    size_t most = LINE_HEAD + conv.n + json.n;

    assert(seq <= MAX_NUMBER && (index == NULL || type == REC_MESSAGE));
    assert(key_is_word(conv) && memchr(json.p, '\n', json.n) == NULL); /* or lines would break */
    if (s->base.failed || most > MAX_RECORD || b->buf.len + most > STORE_PENDING)
        return 0;
    if (now_ms < 0)
        now_ms = 0;
    if (b->buf.len == 0)
        begin_batch(s, now_ms);
    struct store_rec rec = {.number = s->next++, .time_ms = now_ms, .type = type, .seq = seq,
                            .conv = conv, .json = json, .segment = b->segment,
                            .offset = (uint32_t)s->end};
    size_t len = b->buf.len;
    line_put(&b->buf, &s->crc, s->seg[b->segment].seed, &s->time, &rec);
    s->end += b->buf.len - len;
    s->base.last = b->last = rec.number;
    s->stats.appended++;
    struct segment *seg = &s->seg[b->segment];
    seg->messages += type == REC_MESSAGE; /* about: what is lost again is not taken off */
    if (now_ms > seg->newest)
        seg->newest = now_ms;
    summary_add(s->sum, &rec, (struct str){b->buf.p + len, b->buf.len - len});
    if (index != NULL) {
        store_index_add(index, &rec);
        s->indexed++;
    }
    return rec.number;
}

/* Nothing can be left behind: a helper that is not idle calls ready() when it is, which makes a
 * turn, which ends here. */
static void
logstore_commit(struct store *base)
{
    struct logstore *s = of(base);

    if (s->gather.buf.len == 0)
        return;
    pthread_mutex_lock(&s->mutex);
    bool idle = s->job == JOB_IDLE;
    if (idle) {
        put_batch_head(s, s->synced);
        s->gather.prepare = s->end >= s->o.segment / 4 * 3;
        if (s->gather.prepare) {
            plan_next(s);
            s->gather.next = s->plan;
        }
        struct batch empty = s->work;
        s->work = s->gather;
        s->gather = empty;
        s->gather.buf.len = 0;
        s->job = JOB_BUSY;
    }
    pthread_mutex_unlock(&s->mutex);
    if (idle)
        pthread_cond_signal(&s->wake); /* now: woken before, it would only wait for the mutex */
}

static void
fail_for_life(struct logstore *s, const char *what, int err)
{
    s->base.failed = true;
    log_write(s->o.log, LOG_LEVEL_ERROR,
              "store: %s: %s failed: %s: nothing is kept any more until a restart", s->dir, what,
              strerror(err));
}

/* Undo begin_segment(): the file that was planned, and perhaps prepared, is for the next try. */
static void
unbegin_segment(struct logstore *s, struct batch *b)
{
    summary_free(s->sum);
    s->sum = b->sealed;
    b->sealed = NULL;
    s->plan = b->own;
    s->fresh = true;
}

/* A batch is gone, and with it all that was appended since: go back to where it began. */
static void
rewind_to(struct logstore *s, struct batch *b)
{
    if (b != &s->gather && s->gather.buf.len > 0 && s->gather.rotate)
        unbegin_segment(s, &s->gather);
    s->gather.buf.len = 0;
    s->next = b->first;
    s->base.last = b->prev;
    s->segs = b->segment + 1;
    s->fresh = false;
    if (b->created) {
        s->seg[b->segment].size = b->base;
        s->clean = false;
    }
    if (b->created || !b->rotate) {
        summary_cut(s->sum, &b->mark);
    } else {
        s->segs--;
        unbegin_segment(s, b);
    }
    s->end = s->segs > 0 ? s->seg[s->segs - 1].size : 0;
}

const int64_t store_bounds_us[STORE_BOUNDS] = {
    100, 250, 500, 1000, 2500, 5000, 10000, 25000, 50000, 100000, 250000, 500000, 1000000};

/* One batch more that is safe: how long its oldest record has waited for that. */
static void
count_batch(struct logstore *s, const struct batch *b)
{
    int64_t us = time_mono_us() - b->begun_us;
    int i = 0;

    while (i < STORE_BOUNDS && us > store_bounds_us[i])
        i++;
    s->stats.within[i]++;
    s->stats.waited_us += (uint64_t)us;
    s->stats.batches++;
    s->stats.bytes += b->buf.len;
    s->stats.durable += b->last - b->first; /* `first` is the batch's own line */
}

/* What became of the batch in `work`. */
static enum store_news
batch_done(struct logstore *s)
{
    struct batch *b = &s->work;

    if (b->outcome == BATCH_KEPT) {
        if (s->lossy)
            log_write(s->o.log, LOG_LEVEL_WARN, "store: %s can be written again", s->dir);
        s->lossy = s->clean = false;
        s->base.durable = b->last;
        s->seg[b->segment].size = b->base + (uint32_t)b->buf.len;
        count_batch(s, b);
        return STORE_MORE;
    }
    s->stats.lost++;
    if (b->outcome == BATCH_FAILED)
        fail_for_life(s, b->what, b->err);
    else if (!s->lossy)
        log_write(s->o.log, LOG_LEVEL_ERROR,
                  "store: %s: %s failed: %s: messages are refused until it works again", s->dir,
                  b->what, strerror(b->err));
    s->lossy = true;
    rewind_to(s, b);
    return STORE_LOST;
}

static enum store_news
logstore_poll(struct store *base)
{
    struct logstore *s = of(base);

    pthread_mutex_lock(&s->mutex);
    bool done = s->job == JOB_DONE;
    int sync_err = s->job == JOB_IDLE ? s->sync_err : 0; /* with a batch, its outcome says it too */
    if (sync_err != 0)
        s->sync_err = 0;
    pthread_mutex_unlock(&s->mutex);
    enum store_news news = STORE_SAME;
    if (sync_err != 0) {
        if (!s->base.failed)
            fail_for_life(s, "syncing", sync_err);
        if (s->gather.buf.len > 0)
            rewind_to(s, &s->gather);
        return STORE_LOST;
    }
    if (!done)
        return news;
    news = batch_done(s);
    if (s->work.buf.cap > KEEP_BUF)
        buf_free(&s->work.buf);
    pthread_mutex_lock(&s->mutex);
    s->job = JOB_IDLE;
    pthread_mutex_unlock(&s->mutex);
    return news;
}

/* --- closing ---------------------------------------------------------------------------------- */

/* Everything is written, the helper gone: sync, and say at the end of the log that the stop was
 * clean. Synced before the mark is written: the mark proves all that stands before it. */
static bool
close_log(struct logstore *s)
{
    char json[96];

    if (!helper_sync(s)) {
        log_write(s->o.log, LOG_LEVEL_ERROR, "store: cannot sync %s: %s", s->dir, strerror(errno));
        return false;
    }
    if (s->fd < 0 || s->clean)
        return true;
    int n = snprintf(json, sizeof json, "{\"synced\":%" PRIu64, s->base.last);
    if (summary_now(s->sum).records == 0) /* its first batch could not be written */
        n += snprintf(json + n, sizeof json - (size_t)n, ",\"prev\":%" PRIu64, s->base.last);
    n += snprintf(json + n, sizeof json - (size_t)n, "%s", CLOSED);
    struct store_rec rec = {.number = s->next, .time_ms = time_wall_ms(), .type = REC_BATCH,
                            .conv = STR("-"), .json = {json, (size_t)n}};
    s->gather.buf.len = 0;
    line_put(&s->gather.buf, &s->crc, s->seg[s->segs - 1].seed, &s->time, &rec);
    s->dirty = true;
    if (!io_write(s->io, s->fd, s->gather.buf.p, s->gather.buf.len, s->end)) {
        /* No harm: the next start takes this for an unclean stop. */
        log_write(s->o.log, LOG_LEVEL_WARN, "store: cannot mark the end of %s: %s", s->dir,
                  strerror(errno));
        return io_truncate(s->io, s->fd, s->end);
    }
    if (helper_sync(s))
        return true;
    log_write(s->o.log, LOG_LEVEL_ERROR, "store: cannot sync %s: %s", s->dir, strerror(errno));
    return false;
}

static int
logstore_close(struct store *base)
{
    struct logstore *s = of(base);
    bool ok = true;

    for (;;) {
        pthread_mutex_lock(&s->mutex);
        while (s->job == JOB_BUSY)
            pthread_cond_wait(&s->idle, &s->mutex);
        pthread_mutex_unlock(&s->mutex);
        if (logstore_poll(base) == STORE_LOST)
            ok = false;
        if (s->gather.buf.len == 0)
            break;
        logstore_commit(base);
    }
    helper_stop(s);
    if (s->sync_err != 0)
        fail_for_life(s, "syncing", s->sync_err);
    spare_drop(s);
    if (s->broken || !close_log(s))
        ok = false;
    logstore_free(s);
    return ok ? 0 : -1;
}

static size_t
logstore_held(const struct store *base)
{
    const struct logstore *s = of_const(base);

    return s->gather.buf.cap + s->work.buf.cap + s->seg_cap * sizeof s->seg[0] +
           (size_t)s->indexed * 6 + (s->sum != NULL ? summary_held(s->sum) : 0);
}

/* --- retention -------------------------------------------------------------------------------- */

static uint32_t
logstore_segments(const struct store *base)
{
    const struct logstore *s = of_const(base);

    return s->segs - s->kept;
}

static uint64_t
logstore_bytes(const struct store *base)
{
    const struct logstore *s = of_const(base);
    uint64_t sum = 0;

    for (uint32_t i = s->kept; i < s->segs; i++)
        sum += s->seg[i].size;
    return sum;
}

static void
logstore_stats(const struct store *base, struct store_stats *out)
{
    *out = of_const(base)->stats;
    out->segments = logstore_segments(base);
    out->size = logstore_bytes(base);
}

static struct store_bound
logstore_expired(const struct store *base, int64_t keep_ms, int64_t keep_bytes, int64_t now_ms)
{
    const struct logstore *s = of_const(base);
    uint64_t bytes = keep_bytes > 0 ? logstore_bytes(base) : 0;
    uint32_t n = s->kept;

    for (; n + 1 < s->segs; n++) {
        bool old = keep_ms > 0 && s->seg[n].newest + keep_ms < now_ms;
        if (!old && (keep_bytes <= 0 || bytes <= (uint64_t)keep_bytes))
            break;
        bytes -= keep_bytes > 0 ? s->seg[n].size : 0;
    }
    struct store_bound bound = {0};
    if (n > s->kept) {
        bound.segment = n;
        bound.number = s->seg[n].first;
    }
    return bound;
}

/* Reading is done on this thread only, a call at a time: once the descriptors kept for it are
 * closed nobody can be in the middle of a segment that goes, and none need be counted. They are
 * closed here and first, so that it is the helper's unlink that gives the blocks back, and not a
 * close on the loop. */
static void
logstore_drop(struct store *base, uint32_t segment)
{
    struct logstore *s = of(base);

    for (int i = 0; i < READERS; i++)
        if (s->reader[i].fd >= 0 && s->reader[i].segment < segment) {
            s->io->close(s->io->arg, s->reader[i].fd);
            s->reader[i] = (struct read_fd){.fd = -1};
        }
    pthread_mutex_lock(&s->mutex);
    for (; s->kept < segment; s->kept++) {
        GROW(s->doomed, s->dooms, s->doomed_cap, 8);
        s->doomed[s->dooms++] = s->seg[s->kept].first;
        uint64_t n = s->seg[s->kept].messages;
        s->indexed -= n < s->indexed ? n : s->indexed;
    }
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->mutex);
}

/* --- reading ---------------------------------------------------------------------------------- */

/* A descriptor for reading the segment, from the few that are kept open. -1: errno. */
static int
read_fd(struct logstore *s, uint32_t segment)
{
    struct read_fd *oldest = &s->reader[0];
    char path[PATH_ROOM];

    for (int i = 0; i < READERS; i++) {
        struct read_fd *r = &s->reader[i];
        if (r->fd >= 0 && r->segment == segment) {
            r->used = ++s->reads;
            return r->fd;
        }
        if (r->used < oldest->used)
            oldest = r;
    }
    if (oldest->fd >= 0)
        s->io->close(s->io->arg, oldest->fd);
    segment_path(path, s->dir, s->seg[segment].first, "");
    int fd = io_open(s->io, path, O_RDONLY);
    *oldest = (struct read_fd){fd, segment, fd >= 0 ? ++s->reads : 0};
    return fd;
}

/* Is it for want of descriptors or memory that a file cannot be opened? Then it can be later. */
static bool
is_shortage(int error)
{
    return error == EMFILE || error == ENFILE || error == ENOMEM;
}

/* Append the line at `offset`, without its newline, to `to`. NULL, or what went wrong; *error: what
 * read() is to return for it. */
static const char *
read_line(struct logstore *s, uint32_t segment, uint32_t offset, struct buf *to, int *error)
{
    size_t start = to->len, left = s->seg[segment].size - offset;
    int fd = read_fd(s, segment);

    *error = fd < 0 && is_shortage(errno) ? -EAGAIN : -EIO;
    if (fd < 0)
        return strerror(errno);
    for (size_t want = FIRST_READ;; want *= 4) {
        size_t have = to->len - start;
        if (want > left)
            want = left;
        if (have == want)
            return "an unfinished line";
        buf_reserve(to, want - have);
        ssize_t got = io_read(s->io, fd, to->p + to->len, want - have, (uint64_t)offset + have);
        if (got <= 0)
            return got < 0 ? strerror(errno) : "the file is too short";
        to->len += (size_t)got;
        char *end = memchr(to->p + start + have, '\n', (size_t)got);
        if (end != NULL) {
            to->len = (size_t)(end - to->p);
            return NULL;
        }
    }
}

static int
logstore_read(struct store *base, struct str conv, const struct store_index *x, uint64_t seq,
              struct buf *to, struct store_rec *rec)
{
    struct logstore *s = of(base);
    uint32_t segment, offset;
    size_t start = to->len;
    int error;

    (void)conv; /* its index says where */
    if (!store_index_find(x, seq, &segment, &offset) || segment < s->kept ||
        segment >= s->segs || offset >= s->seg[segment].size)
        return -ENOENT;
    const char *why = read_line(s, segment, offset, to, &error);
    if (why == NULL)
        why = line_parse(&s->crc, s->seg[segment].seed,
                         (struct str){to->p + start, to->len - start}, rec);
    if (why == NULL && (rec->type != REC_MESSAGE || rec->seq != seq))
        why = "another record stands there";
    if (why == NULL) {
        rec->segment = segment;
        rec->offset = offset;
        return 0;
    }
    to->len = start;
    log_write(s->o.log, LOG_LEVEL_ERROR, "store: %s/%020" PRIu64 ".log:%" PRIu32 ": %s", s->dir,
              s->seg[segment].first, offset, why);
    return error;
}

/* --- as a store ------------------------------------------------------------------------------- */

static const struct store_ops log_ops = {
    .append = logstore_append, .commit = logstore_commit, .poll = logstore_poll,
    .read = logstore_read, .close = logstore_close, .stats = logstore_stats,
    .held = logstore_held, .segments = logstore_segments, .bytes = logstore_bytes,
    .expired = logstore_expired, .drop = logstore_drop};

struct store *
store_open(const struct store_options *o)
{
    struct logstore *s = xcalloc(1, sizeof *s);

    s->o = *o;
    s->o.dir = s->dir = xstrndup(o->dir, strlen(o->dir));
    s->io = o->io != NULL ? o->io : &store_disk;
    s->base.ops = &log_ops;
    s->base.keeps = true;
    s->fd = s->lock_fd = -1;
    s->sync_ms = -1;
    for (int i = 0; i < READERS; i++)
        s->reader[i].fd = -1;
    crc32c_init(&s->crc);
    bool ok = strlen(o->dir) < PATH_ROOM - 64 && o->segment > 0 && o->segment <= MAX_SEGMENT;
    if (!ok)
        log_write(o->log, LOG_LEVEL_ERROR, "store: a segment size over 3 GiB, or too long a path");
    if (!ok || !open_dir(s) || !open_lock(s) || !open_log(s) || !helper_start(s)) {
        logstore_free(s);
        return NULL;
    }
    return &s->base;
}
