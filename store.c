/* SPDX-License-Identifier: MIT */
/*
 * store.c - one log at work: appending, committing, reading, and the index.
 *
 * Records gather in a buffer. store_commit() hands it to one helper thread, the only one to write,
 * sync and begin segments after store_open(); while that works, the next batch gathers in a second
 * buffer. A batch's place is settled when its first record is appended, so that the index knows
 * every offset at once. Reading is done where it is asked for, of what is durable only. The rules a
 * log on disk keeps are at the top of segment.c.
 *
 *   helper thread, opening, appending, closing, index and reading
 */
#include "jim.h"

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
#define READERS 16               /* descriptors kept for reading segments */

/* --- the helper thread ------------------------------------------------------------------------ */

enum outcome {
    BATCH_KEPT,
    BATCH_LOST,  /* cut off again; the next one may find room */
    BATCH_FAILED /* nobody knows what is on disk: the store's last batch */
};

struct batch {
    struct buf buf;       /* whole lines, its REC_BATCH first; owned */
    uint64_t first, last; /* record numbers */
    uint64_t prev;        /* the last number before it */
    int64_t time_ms;
    int64_t begun_us;     /* when its first record was appended, on time_mono_us() */
    uint32_t segment;     /* where it goes, and at which offset */
    uint32_t base;
    bool rotate;          /* `segment` is to be created first, with `header` */
    bool must_sync;       /* whatever the policy */
    size_t header_len;
    char header[HEADER_ROOM];
    /* What the helper says of it: */
    bool created; /* `segment` is on disk with its header, whatever became of the batch */
    enum outcome outcome;
    const char *what; /* that failed, with this errno */
    int err;
};

/* `work` belongs to the helper while JOB_BUSY, else to the loop's thread. */
enum job { JOB_IDLE, JOB_BUSY, JOB_DONE };

struct read_fd {
    int fd; /* -1: free */
    uint32_t segment;
    uint64_t used; /* value of the clock of store->reads when last used */
};

struct store {
    /* Set by store_open() and then only read, by both threads. */
    struct store_options o; /* o.dir is `dir` */
    char *dir;              /* owned */
    const struct store_io *io;
    struct crc32c crc;
    bool keeps;
    int lock_fd;

    /* The loop's thread only. */
    struct segment *seg; /* owned; with what `gather` and `work` will create */
    uint32_t segs, seg_cap;
    struct batch gather; /* empty: its other members mean nothing */
    uint64_t next;       /* number of the next record */
    uint64_t last;       /* highest number on disk, in `work` or in `gather` */
    uint64_t durable;
    uint64_t end;        /* offset in the last segment at which the next line will stand */
    bool fresh;          /* the next batch must begin a segment */
    bool clean;          /* the log on disk ends with the mark of a clean stop */
    bool failed;
    bool lossy;          /* the last batch was lost, and that was logged */
    struct read_fd reader[READERS];
    uint64_t reads;
    struct store_stats stats;
    uint64_t indexed; /* messages read at start or appended since */

    /* The helper's only; store_open() and store_close() use them while there is no helper. */
    int fd;           /* of the last segment, -1: none to be written to */
    bool dirty;       /* written since the last sync */
    bool broken;      /* a sync or a cut failed */
    uint64_t written; /* highest number on disk, synced or not */
    uint64_t safe;    /* what `written` was at the last sync */
    int64_t sync_ms;  /* when a sync is due at the latest, on time_mono_ms(); -1: none is */

    /* Under `mutex`. */
    pthread_mutex_t mutex;
    pthread_cond_t wake; /* the helper waits for JOB_BUSY, `stop` or sync_ms */
    pthread_cond_t idle; /* store_close() waits for the end of JOB_BUSY */
    enum job job;
    bool stop;
    uint64_t synced;     /* highest number known to be synced */
    int sync_err;        /* errno of a sync between batches that failed, till store_poll() */
    struct batch work;
    pthread_t thread;
};

static enum outcome
batch_fail(struct store *s, struct batch *b, enum outcome outcome, const char *what)
{
    b->err = errno;
    b->what = what;
    if (outcome == BATCH_FAILED)
        s->broken = true;
    return outcome;
}

/* After a failed sync the kernel may drop the pages and report success the next time: never again.
 * */
static bool
helper_sync(struct store *s)
{
    s->sync_ms = -1;
    if (s->dirty && !io_sync(s->io, s->fd)) {
        s->broken = true;
        return false;
    }
    s->dirty = false;
    s->safe = s->written;
    return true;
}

/* Write the header of a batch's segment, and only then give it its name. */
static enum outcome
create_segment(struct store *s, struct batch *b, int *out)
{
    char path[PATH_ROOM], tmp[PATH_ROOM];

    segment_path(path, s->dir, b->first, "");
    segment_path(tmp, s->dir, b->first, ".tmp");
    int fd = io_open(s->io, tmp, O_WRONLY | O_CREAT | O_TRUNC);
    if (fd < 0)
        return batch_fail(s, b, BATCH_LOST, "creating a segment");
    enum outcome outcome = BATCH_KEPT;
    if (!io_write(s->io, fd, b->header, b->header_len, 0))
        outcome = batch_fail(s, b, BATCH_LOST, "writing a segment's header");
    else if (!io_sync(s->io, fd))
        outcome = batch_fail(s, b, BATCH_FAILED, "syncing a segment's header");
    else if (!io_rename(s->io, tmp, path))
        outcome = batch_fail(s, b, BATCH_LOST, "renaming a segment");
    else if (!io_path(s->io, s->io->sync_dir, s->dir))
        outcome = batch_fail(s, b, BATCH_FAILED, "syncing the directory");
    if (outcome == BATCH_KEPT) {
        *out = fd;
        return outcome;
    }
    s->io->close(s->io->arg, fd);
    if (outcome == BATCH_LOST)
        io_path(s->io, s->io->unlink, tmp);
    return outcome;
}

/* Close the segment before with all of it on disk, then begin the batch's own. */
static enum outcome
rotate(struct store *s, struct batch *b)
{
    int fd;

    if (!helper_sync(s))
        return batch_fail(s, b, BATCH_FAILED, "syncing a full segment");
    enum outcome outcome = create_segment(s, b, &fd);
    if (outcome != BATCH_KEPT)
        return outcome;
    if (s->fd >= 0)
        s->io->close(s->io->arg, s->fd);
    s->fd = fd;
    b->created = true;
    return BATCH_KEPT;
}

static enum outcome
helper_batch(struct store *s, struct batch *b)
{
    errno = EIO;
    if (s->broken)
        return batch_fail(s, b, BATCH_FAILED, "an earlier sync");
    if (b->rotate) {
        enum outcome outcome = rotate(s, b);
        if (outcome != BATCH_KEPT)
            return outcome;
    }
    s->dirty = true;
    if (!io_write(s->io, s->fd, b->buf.p, b->buf.len, b->base)) {
        enum outcome outcome = batch_fail(s, b, BATCH_LOST, "writing");
        /* Synced, or else after a power cut lines of this batch might stand behind those of one
         * that was written over it. */
        if (!io_truncate(s->io, s->fd, b->base))
            return batch_fail(s, b, BATCH_FAILED, "cutting off a batch that could not be written");
        return helper_sync(s) ? outcome : batch_fail(s, b, BATCH_FAILED, "syncing");
    }
    s->written = b->last;
    if (s->o.policy == STORE_GROUP || b->must_sync) {
        if (!helper_sync(s))
            return batch_fail(s, b, BATCH_FAILED, "syncing");
    } else if (s->o.policy != STORE_OFF && s->sync_ms < 0) {
        s->sync_ms = time_mono_ms() + s->o.policy;
    }
    return BATCH_KEPT;
}

/* Wait for something to do, or until a sync is due. */
static void
helper_wait(struct store *s)
{
    struct timespec ts = {0};
    int64_t ms = s->sync_ms;

    if (ms < 0) {
        pthread_cond_wait(&s->wake, &s->mutex);
        return;
    }
#ifdef __APPLE__ /* has no conditions on the monotonic clock, but relative waits */
    ms = ms > time_mono_ms() ? ms - time_mono_ms() : 0;
#endif
    ts.tv_sec = (time_t)(ms / 1000);
    ts.tv_nsec = (long)(ms % 1000) * 1000000;
#ifdef __APPLE__
    pthread_cond_timedwait_relative_np(&s->wake, &s->mutex, &ts);
#else
    pthread_cond_timedwait(&s->wake, &s->mutex, &ts);
#endif
}

static void *
helper(void *arg)
{
    struct store *s = arg;

    pthread_mutex_lock(&s->mutex);
    for (;;) {
        bool due = s->sync_ms >= 0 && time_mono_ms() >= s->sync_ms, ok = true;
        if (!due && s->job != JOB_BUSY) {
            if (s->stop)
                break;
            helper_wait(s);
            continue;
        }
        pthread_mutex_unlock(&s->mutex);
        if (due)
            ok = helper_sync(s);
        else
            s->work.outcome = helper_batch(s, &s->work);
        int err = errno;
        pthread_mutex_lock(&s->mutex);
        s->synced = s->safe;
        if (!due)
            s->job = JOB_DONE;
        if (!ok)
            s->sync_err = err != 0 ? err : EIO;
        pthread_cond_signal(&s->idle);
        if (!due || !ok) {
            pthread_mutex_unlock(&s->mutex);
            if (s->o.ready != NULL)
                s->o.ready(s->o.arg);
            pthread_mutex_lock(&s->mutex);
        }
    }
    pthread_mutex_unlock(&s->mutex);
    return NULL;
}

/* Signals are the loop's: one that landed here would neither wake it nor be seen at once. */
static bool
helper_start(struct store *s)
{
    pthread_condattr_t attr;
    sigset_t all, old;

    pthread_mutex_init(&s->mutex, NULL);
    pthread_cond_init(&s->idle, NULL);
    pthread_condattr_init(&attr);
#ifndef __APPLE__
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
#endif
    pthread_cond_init(&s->wake, &attr);
    pthread_condattr_destroy(&attr);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int err = pthread_create(&s->thread, NULL, helper, s);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (err != 0) {
        log_write(s->o.log, LOG_LEVEL_ERROR, "store: cannot start a thread: %s", strerror(err));
        pthread_cond_destroy(&s->wake);
        pthread_cond_destroy(&s->idle);
        pthread_mutex_destroy(&s->mutex);
    }
    return err == 0;
}

static void
helper_stop(struct store *s)
{
    pthread_mutex_lock(&s->mutex);
    s->stop = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->mutex);
    pthread_join(s->thread, NULL);
    pthread_cond_destroy(&s->wake);
    pthread_cond_destroy(&s->idle);
    pthread_mutex_destroy(&s->mutex);
}

/* --- opening ---------------------------------------------------------------------------------- */

static bool
refuse(const struct store *s, const char *what, const char *path)
{
    log_write(s->o.log, LOG_LEVEL_ERROR, "store: %s %s: %s", what, path, strerror(errno));
    return false;
}

/* Make the directory if need be, and make it stay: who made it may have died before he synced. */
static bool
open_dir(struct store *s)
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
open_lock(struct store *s)
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
refresh(struct store *s, int fd, const char *path, uint64_t from)
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
mend(struct store *s, const struct scan *c, uint64_t first)
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
open_end(struct store *s, struct scan *c)
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
    s->last = s->durable = s->written = s->safe = s->synced = c->last;
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
        /* Numbers up to `first` and more may have been handed out and lost with an empty segment.
         * */
        s->next = (c->last > first ? c->last : first) + JUMP;
        return true;
    }
    segment_path(path, s->dir, first, "");
    s->fd = io_open(s->io, path, O_WRONLY);
    s->clean = true;
    s->fresh = false;
    return s->fd >= 0 || refuse(s, "cannot open", path);
}

static bool
open_log(struct store *s)
{
    struct scan c = {.io = s->io, .dir = s->dir, .tidy = true, .record = s->o.replay,
                     .arg = s->o.arg};
    int64_t start = time_mono_ms();

    scan_run(&c);
    bool ok = open_end(s, &c);
    if (ok)
        log_write(s->o.log, LOG_LEVEL_INFO,
                  "store: %s: %" PRIu64 " messages in %" PRIu32 " segments read in %lld ms", s->dir,
                  c.messages, c.segs, (long long)(time_mono_ms() - start));
    free(c.first);
    free(c.seg);
    return ok;
}

static void
store_free(struct store *s)
{
    for (int i = 0; i < READERS; i++)
        if (s->keeps && s->reader[i].fd >= 0)
            s->io->close(s->io->arg, s->reader[i].fd);
    if (s->fd >= 0)
        s->io->close(s->io->arg, s->fd);
    if (s->lock_fd >= 0)
        s->io->close(s->io->arg, s->lock_fd);
    buf_free(&s->gather.buf);
    buf_free(&s->work.buf);
    free(s->seg);
    free(s->dir);
    free(s);
}

struct store *
store_open(const struct store_options *o)
{
    struct store *s = xcalloc(1, sizeof *s);

    s->o = *o;
    s->o.dir = s->dir = xstrndup(o->dir, strlen(o->dir));
    s->io = o->io != NULL ? o->io : &store_disk;
    s->keeps = true;
    s->fd = s->lock_fd = -1;
    s->sync_ms = -1;
    for (int i = 0; i < READERS; i++)
        s->reader[i].fd = -1;
    crc32c_init(&s->crc);
    bool ok = strlen(o->dir) < PATH_ROOM - 64 && o->segment > 0 && o->segment <= MAX_SEGMENT;
    if (!ok)
        log_write(o->log, LOG_LEVEL_ERROR, "store: a segment size over 3 GiB, or too long a path");
    if (!ok || !open_dir(s) || !open_lock(s) || !open_log(s) || !helper_start(s)) {
        store_free(s);
        return NULL;
    }
    return s;
}

struct store *
store_open_none(void)
{
    struct store *s = xcalloc(1, sizeof *s);

    s->fd = s->lock_fd = -1;
    return s;
}

bool
store_keeps(const struct store *s)
{
    return s->keeps;
}

/* --- appending -------------------------------------------------------------------------------- */

/* least <= 0x80. Eight at a time, for every message passes here: a byte has its high bit, or gets
 * it from the sum of its other bits and what `least` lacks. No sum leaves its byte. */
static bool
no_bytes_below(struct str s, unsigned char least)
{
    const uint64_t ones = UINT64_MAX / 255, high = ones * 0x80, lacks = ones * (0x80u - least);
    uint64_t good = high;
    size_t i = 0;

    for (; i + 8 <= s.n; i += 8) {
        uint64_t x;
        memcpy(&x, s.p + i, 8);
        good &= x | ((x & ~high) + lacks);
    }
    for (; i < s.n; i++)
        if ((unsigned char)s.p[i] < least)
            return false;
    return good == high;
}

/* (Re)write the REC_BATCH at the start of `gather`. It is written when the first record needs to
 * know its offset, and again when the batch sets off, with what is synced by then: so its length
 * must not depend on the number, which is below the record's own. */
static void
put_batch_head(struct store *s, uint64_t synced)
{
    struct batch *b = &s->gather;
    char json[64];
    size_t len = b->buf.len;
    int width = snprintf(NULL, 0, "%" PRIu64, b->first);
    int n = snprintf(json, sizeof json, "{\"synced\":%-*" PRIu64 "}", width, synced);
    struct store_rec rec = {.number = b->first, .time_ms = b->time_ms, .type = REC_BATCH,
                            .conv = STR("-"), .json = {json, (size_t)n}};
    b->buf.len = 0;
    line_put(&b->buf, &s->crc, s->seg[b->segment].seed, &rec);
    if (len > 0)
        b->buf.len = len;
}

/* Settle where the batch goes: behind what is on its way, or in a segment of its own. */
static void
begin_batch(struct store *s, int64_t now_ms)
{
    struct batch *b = &s->gather;

    b->first = s->next++;
    b->prev = s->last;
    b->begun_us = time_mono_us();
    b->time_ms = now_ms;
    b->must_sync = s->clean; /* or a power cut might show the log clean and without this batch */
    b->rotate = s->fresh || s->end >= s->o.segment;
    b->created = false;
    if (b->rotate) {
        unsigned char salt[8];
        struct seg_header h = {.first = b->first, .prev = b->prev};
        random_bytes(salt, sizeof salt);
        for (size_t i = 0; i < sizeof salt; i++)
            snprintf(h.salt + 2 * i, 3, "%02x", salt[i]);
        b->header_len = header_put(b->header, &s->crc, &h);
        segment_push(&s->seg, &s->segs, &s->seg_cap,
                     (struct segment){h.first, crc32c_add(&s->crc, 0, h.salt, 16), 0});
        s->end = b->header_len;
        s->fresh = false;
    }
    b->segment = s->segs - 1;
    b->base = (uint32_t)s->end;
    put_batch_head(s, 0);
    s->end += b->buf.len;
}

uint64_t
store_append(struct store *s, char type, struct str conv, uint64_t seq, struct str json,
             int64_t now_ms, struct store_index *index)
{
    struct batch *b = &s->gather;
    size_t most = LINE_HEAD + conv.n + json.n;

    assert(seq <= MAX_NUMBER && (index == NULL || type == REC_MESSAGE));
    if (!s->keeps)
        return ++s->durable;
    assert(conv.n > 0 && no_bytes_below(conv, '!') && no_bytes_below(json, ' '));
    if (s->failed || most > MAX_RECORD || b->buf.len + most > STORE_PENDING)
        return 0;
    if (now_ms < 0)
        now_ms = 0;
    if (b->buf.len == 0)
        begin_batch(s, now_ms);
    struct store_rec rec = {.number = s->next++, .time_ms = now_ms, .type = type, .seq = seq,
                            .conv = conv, .json = json, .segment = b->segment,
                            .offset = (uint32_t)s->end};
    size_t len = b->buf.len;
    line_put(&b->buf, &s->crc, s->seg[b->segment].seed, &rec);
    s->end += b->buf.len - len;
    s->last = b->last = rec.number;
    s->stats.appended++;
    if (index != NULL) {
        store_index_add(index, &rec);
        s->indexed++;
    }
    return rec.number;
}

/* Nothing can be left behind: a helper that is not idle calls ready() when it is, which makes a
 * turn, which ends here. */
void
store_commit(struct store *s)
{
    if (!s->keeps || s->gather.buf.len == 0)
        return;
    pthread_mutex_lock(&s->mutex);
    if (s->job == JOB_IDLE) {
        put_batch_head(s, s->synced);
        struct batch empty = s->work;
        s->work = s->gather;
        s->gather = empty;
        s->gather.buf.len = 0;
        s->job = JOB_BUSY;
        pthread_cond_signal(&s->wake);
    }
    pthread_mutex_unlock(&s->mutex);
}

static void
fail_for_life(struct store *s, const char *what, int err)
{
    s->failed = true;
    log_write(s->o.log, LOG_LEVEL_ERROR,
              "store: %s: %s failed: %s: nothing is kept any more until a restart", s->dir, what,
              strerror(err));
}

/* A batch is gone, and with it all that was appended since: go back to where it began. */
static void
rewind_to(struct store *s, const struct batch *b)
{
    s->gather.buf.len = 0;
    s->next = b->first;
    s->last = b->prev;
    s->segs = b->segment + 1;
    if (b->created) {
        s->seg[b->segment].size = b->base;
        s->clean = false;
    } else if (b->rotate) {
        s->segs--;
        s->fresh = true;
    }
    s->end = s->segs > 0 ? s->seg[s->segs - 1].size : 0;
}

const int64_t store_bounds_us[STORE_BOUNDS] = {
    100, 250, 500, 1000, 2500, 5000, 10000, 25000, 50000, 100000, 250000, 500000, 1000000};

/* One batch more that is safe: how long its oldest record has waited for that. */
static void
count_batch(struct store *s, const struct batch *b)
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
batch_done(struct store *s)
{
    struct batch *b = &s->work;

    if (b->outcome == BATCH_KEPT) {
        if (s->lossy)
            log_write(s->o.log, LOG_LEVEL_WARN, "store: %s can be written again", s->dir);
        s->lossy = s->clean = false;
        s->durable = b->last;
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

enum store_news
store_poll(struct store *s)
{
    if (!s->keeps) {
        bool more = s->durable > s->last;
        s->last = s->durable;
        return more ? STORE_MORE : STORE_SAME;
    }
    pthread_mutex_lock(&s->mutex);
    bool done = s->job == JOB_DONE;
    int sync_err = s->job == JOB_IDLE ? s->sync_err : 0; /* with a batch, its outcome says it too */
    if (sync_err != 0)
        s->sync_err = 0;
    pthread_mutex_unlock(&s->mutex);
    enum store_news news = STORE_SAME;
    if (sync_err != 0) {
        if (!s->failed)
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

void
store_stats(const struct store *s, struct store_stats *out)
{
    *out = s->stats;
    out->segments = s->segs;
}

uint64_t
store_durable(const struct store *s)
{
    return s->durable;
}

bool
store_failed(const struct store *s)
{
    return s->failed;
}

/* --- closing ---------------------------------------------------------------------------------- */

/* Everything is written, the helper gone: sync, and say at the end of the log that the stop was
 * clean. Synced before the mark is written: the mark proves all that stands before it. */
static bool
close_log(struct store *s)
{
    char json[64];

    if (!helper_sync(s)) {
        log_write(s->o.log, LOG_LEVEL_ERROR, "store: cannot sync %s: %s", s->dir, strerror(errno));
        return false;
    }
    if (s->fd < 0 || s->clean)
        return true;
    int n = snprintf(json, sizeof json, "{\"synced\":%" PRIu64 CLOSED, s->last);
    struct store_rec rec = {.number = s->next, .time_ms = time_wall_ms(), .type = REC_BATCH,
                            .conv = STR("-"), .json = {json, (size_t)n}};
    s->gather.buf.len = 0;
    line_put(&s->gather.buf, &s->crc, s->seg[s->segs - 1].seed, &rec);
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

int
store_close(struct store *s)
{
    bool ok = true;

    if (s == NULL)
        return 0;
    while (s->keeps) {
        pthread_mutex_lock(&s->mutex);
        while (s->job == JOB_BUSY)
            pthread_cond_wait(&s->idle, &s->mutex);
        pthread_mutex_unlock(&s->mutex);
        if (store_poll(s) == STORE_LOST)
            ok = false;
        if (s->gather.buf.len == 0)
            break;
        store_commit(s);
    }
    if (s->keeps) {
        helper_stop(s);
        if (s->sync_err != 0)
            fail_for_life(s, "syncing", s->sync_err);
        if (s->broken || !close_log(s))
            ok = false;
    }
    store_free(s);
    return ok ? 0 : -1;
}

/* --- index and reading ------------------------------------------------------------------------ */

struct store_run {  /* messages of one conversation in one segment, without a gap in their seq */
    uint64_t first; /* seq of the first */
    uint32_t segment, count;
    uint32_t cap; /* of `many`; 0: `few` is meant, so that a quiet conversation costs no malloc */
    union {
        uint32_t few[2];
        uint32_t *many; /* owned */
    } at; /* the lines' offsets */
};

static uint32_t *
run_offsets(struct store_run *r)
{
    return r->cap > 0 ? r->at.many : r->at.few;
}

/* A run that gets no more: four bytes a message, no reserve. */
static void
run_seal(struct store_run *r)
{
    if (r->cap > r->count && r->count > 0) {
        r->at.many = xrealloc(r->at.many, r->count * sizeof r->at.many[0]);
        r->cap = r->count;
    }
}

static void
run_add(struct store_run *r, uint32_t offset)
{
    if (r->cap == 0 && r->count == 2) {
        uint32_t *many = xmalloc(6 * sizeof *many);
        memcpy(many, r->at.few, sizeof r->at.few);
        r->at.many = many;
        r->cap = 6;
    } else if (r->cap > 0 && r->count == r->cap) {
        r->cap += r->cap / 2 + 1; /* sealed and cut back to one, it may have been */
        r->at.many = xrealloc(r->at.many, r->cap * sizeof r->at.many[0]);
    }
    run_offsets(r)[r->count++] = offset;
}

static void
run_free(struct store_run *r)
{
    if (r->cap > 0)
        free(r->at.many);
}

void
store_index_add(struct store_index *x, const struct store_rec *rec)
{
    struct store_run *r = x->runs > 0 ? &x->run[x->runs - 1] : NULL;

    if (r != NULL && rec->seq < r->first + r->count)
        return; /* of a log that somebody else wrote: the first one counts */
    if (r == NULL || r->segment != rec->segment || rec->seq != r->first + r->count) {
        if (r != NULL)
            run_seal(r);
        if (x->runs == x->cap) {
            x->cap += x->cap / 2 + 1;
            x->run = xrealloc(x->run, x->cap * sizeof x->run[0]);
        }
        r = &x->run[x->runs++];
        *r = (struct store_run){.first = rec->seq, .segment = rec->segment};
    }
    run_add(r, rec->offset);
}

uint64_t
store_index_first(const struct store_index *x)
{
    return x->runs > 0 ? x->run[0].first : 0;
}

void
store_index_cut(struct store_index *x, uint64_t last)
{
    while (x->runs > 0 && x->run[x->runs - 1].first > last)
        run_free(&x->run[--x->runs]);
    if (x->runs == 0)
        return;
    struct store_run *r = &x->run[x->runs - 1];
    if (last - r->first < r->count)
        r->count = (uint32_t)(last - r->first) + 1;
}

void
store_index_free(struct store_index *x)
{
    for (uint32_t i = 0; i < x->runs; i++)
        run_free(&x->run[i]);
    free(x->run);
    *x = (struct store_index){0};
}

size_t
store_held(const struct store *s)
{
    return s->gather.buf.cap + s->work.buf.cap + s->seg_cap * sizeof s->seg[0] + s->indexed * 6;
}

/* Where message `seq` stands; false: not in the index. */
static bool
index_find(const struct store_index *x, uint64_t seq, uint32_t *segment, uint32_t *offset)
{
    uint32_t low = 0, high = x->runs;

    while (low < high) { /* the first run that begins behind seq */
        uint32_t middle = low + (high - low) / 2;
        if (x->run[middle].first <= seq)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0 || seq - x->run[low - 1].first >= x->run[low - 1].count)
        return false;
    struct store_run *r = &x->run[low - 1];
    *segment = r->segment;
    *offset = run_offsets(r)[seq - r->first];
    return true;
}

/* A descriptor for reading the segment, from the few that are kept open. -1: errno. */
static int
read_fd(struct store *s, uint32_t segment)
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

/* Append the line at `offset`, without its newline, to `to`. NULL, or what went wrong. */
static const char *
read_line(struct store *s, uint32_t segment, uint32_t offset, struct buf *to)
{
    size_t start = to->len, left = s->seg[segment].size - offset;
    int fd = read_fd(s, segment);

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

int
store_read(struct store *s, const struct store_index *x, uint64_t seq, struct buf *to,
           struct store_rec *rec)
{
    uint32_t segment, offset;
    size_t start = to->len;

    if (!s->keeps || !index_find(x, seq, &segment, &offset) || segment >= s->segs ||
        offset >= s->seg[segment].size)
        return -ENOENT;
    const char *why = read_line(s, segment, offset, to);
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
    return -EIO;
}
