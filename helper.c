/* SPDX-License-Identifier: MIT */
/*
 * helper.c - the store's thread, the only one to write, sync and begin segments between
 * store_open() and store_close(). It takes a batch from the loop's thread and says what became of
 * it; between two batches it does what can wait: it prepares the next segment's file, so that a
 * rotation is one rename; writes the .idx of the segment before; and removes what retention drops.
 * Hop 6 of a message's eight (README).
 *
 *   batches, chores, the thread
 */
#include "store.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <time.h>

/* --- batches ---------------------------------------------------------------------------------- */

static enum outcome
batch_fail(struct logstore *s, struct batch *b, enum outcome outcome, const char *what)
{
    b->err = errno;
    b->what = what;
    if (outcome == BATCH_FAILED)
        s->broken = true;
    return outcome;
}

/* After a failed sync the kernel may drop the pages, and report success the next time: there is no
 * next time. */
bool
helper_sync(struct logstore *s)
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

static void
spare_path(const struct logstore *s, char path[PATH_ROOM])
{
    snprintf(path, PATH_ROOM, "%s/%s", s->dir, SPARE);
}

void
spare_drop(struct logstore *s)
{
    char path[PATH_ROOM];

    if (s->spare.len == 0)
        return;
    s->io->close(s->io->arg, s->spare_fd);
    s->spare.len = 0;
    spare_path(s, path);
    io_path(s->io, s->io->unlink, path);
}

/* Write the header of a planned segment into a file that has no name of its own yet. BATCH_KEPT, or
 * what that means for a batch that needs it: *what failed, with errno. */
static enum outcome
spare_make(struct logstore *s, const struct seg_plan *plan, const char **what)
{
    char path[PATH_ROOM];
    enum outcome outcome = BATCH_KEPT;

    if (s->spare.len > 0 && strcmp(s->spare.h.salt, plan->h.salt) == 0)
        return BATCH_KEPT;
    spare_drop(s);
    spare_path(s, path);
    *what = "creating a segment";
    s->spare_fd = io_open(s->io, path, O_WRONLY | O_CREAT | O_TRUNC);
    if (s->spare_fd < 0)
        return BATCH_LOST;
    s->spare = *plan;
    if (!io_write(s->io, s->spare_fd, plan->text, plan->len, 0)) {
        *what = "writing a segment's header";
        outcome = BATCH_LOST;
    } else if (!io_sync(s->io, s->spare_fd)) {
        *what = "syncing a segment's header";
        outcome = BATCH_FAILED;
    }
    int err = errno;
    if (outcome != BATCH_KEPT)
        spare_drop(s);
    errno = err;
    return outcome;
}

/* Close the segment before with all of it on disk, then begin the batch's own: the name it is given
 * is a promise that its header is there. */
static enum outcome
rotate(struct logstore *s, struct batch *b)
{
    char path[PATH_ROOM], spare[PATH_ROOM];
    const char *what = NULL;

    if (!helper_sync(s))
        return batch_fail(s, b, BATCH_FAILED, "syncing a full segment");
    enum outcome outcome = spare_make(s, &b->own, &what);
    if (outcome != BATCH_KEPT)
        return batch_fail(s, b, outcome, what);
    segment_path(path, s->dir, b->first, "");
    spare_path(s, spare);
    if (!io_rename(s->io, spare, path))
        return batch_fail(s, b, BATCH_LOST, "renaming a segment");
    s->spare.len = 0;
    int fd = s->spare_fd;
    if (!io_path(s->io, s->io->sync_dir, s->dir)) {
        outcome = batch_fail(s, b, BATCH_FAILED, "syncing the directory");
        s->io->close(s->io->arg, fd);
        return outcome;
    }
    if (s->fd >= 0)
        s->io->close(s->io->arg, s->fd);
    s->fd = fd;
    b->created = true;
    s->sealed = b->sealed;
    s->sealed_first = b->sealed_first;
    s->sealed_size = b->sealed_size;
    b->sealed = NULL;
    return BATCH_KEPT;
}

static enum outcome
helper_batch(struct logstore *s, struct batch *b)
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

/* --- chores ----------------------------------------------------------------------------------- */

/* After a batch, when its outcome is known to the loop: what the next one need not wait for. False:
 * a sync failed. */
static bool
chores_after(struct logstore *s, const struct seg_plan *plan)
{
    const char *what;
    struct buf file = {0};

    if (s->sealed != NULL && summary_now(s->sealed).records > 0) {
        idx_put(s->sealed, &s->crc, s->sealed_size, &file);
        idx_write(s->io, s->dir, s->sealed_first, &file);
        buf_free(&file);
    }
    summary_free(s->sealed);
    s->sealed = NULL;
    if (plan->len > 0 && !s->broken && spare_make(s, plan, &what) == BATCH_FAILED) {
        s->broken = true; /* else it did not work out, and the rotation will try again */
        return false;
    }
    return true;
}

/* Remove the oldest segment. One at a time, the directory synced after each: a power cut must not
 * bring back an older one and leave a gap behind it. What makes it dispensable is synced before,
 * whatever the policy. *gone: it is. False: a sync failed. */
static bool
chore_remove(struct logstore *s, uint64_t first, bool *gone)
{
    char path[PATH_ROOM];

    *gone = false;
    if (s->broken || s->stuck)
        return true;
    if (!helper_sync(s))
        return false;
    segment_path(path, s->dir, first, ".idx");
    io_path(s->io, s->io->unlink, path); /* there may be none */
    segment_path(path, s->dir, first, "");
    if (!io_path(s->io, s->io->unlink, path)) {
        log_write(s->o.log, LOG_LEVEL_ERROR,
                  "store: cannot remove %s: %s: nothing is removed any more until a restart", path,
                  strerror(errno));
        s->stuck = true;
        return true;
    }
    *gone = true;
    if (io_path(s->io, s->io->sync_dir, s->dir))
        return true;
    s->broken = true;
    return false;
}

/* --- the thread ------------------------------------------------------------------------------- */

/* Wait for something to do, or until a sync is due. */
static void
helper_wait(struct logstore *s)
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

/* Called and left with the mutex held. */
static void
helper_doomed(struct logstore *s)
{
    uint64_t first = s->doomed[0];
    bool gone;

    pthread_mutex_unlock(&s->mutex);
    bool ok = chore_remove(s, first, &gone);
    int err = errno;
    pthread_mutex_lock(&s->mutex);
    s->synced = s->safe;
    s->dooms = gone ? s->dooms - 1 : 0;
    memmove(s->doomed, s->doomed + 1, s->dooms * sizeof s->doomed[0]);
    if (!ok)
        s->sync_err = err != 0 ? err : EIO;
}

/* The same: do the batch in `work`, or a sync that is due. */
static void
helper_work(struct logstore *s, bool due)
{
    struct seg_plan plan = {.len = 0};
    bool ok = true;

    pthread_mutex_unlock(&s->mutex);
    if (due) {
        ok = helper_sync(s);
    } else {
        s->work.outcome = helper_batch(s, &s->work);
        if (s->work.prepare && s->work.outcome == BATCH_KEPT)
            plan = s->work.next;
    }
    int err = errno;
    pthread_mutex_lock(&s->mutex);
    s->synced = s->safe;
    if (!due)
        s->job = JOB_DONE;
    if (!ok)
        s->sync_err = err != 0 ? err : EIO;
    pthread_cond_signal(&s->idle);
    pthread_mutex_unlock(&s->mutex);
    if ((!due || !ok) && s->o.ready != NULL)
        s->o.ready(s->o.arg);
    if (!due)
        ok = chores_after(s, &plan);
    err = errno;
    pthread_mutex_lock(&s->mutex);
    if (!due && !ok)
        s->sync_err = err != 0 ? err : EIO;
}

static void *
helper(void *arg)
{
    struct logstore *s = arg;

    pthread_mutex_lock(&s->mutex);
    for (;;) {
        bool due = s->sync_ms >= 0 && time_mono_ms() >= s->sync_ms;
        int before = s->sync_err;
        if (due || s->job == JOB_BUSY)
            helper_work(s, due);
        else if (s->dooms == 0 && s->stop)
            break;
        else if (s->dooms == 0)
            helper_wait(s);
        if (s->dooms > 0)
            helper_doomed(s);
        if (s->sync_err != before && s->o.ready != NULL) {
            pthread_mutex_unlock(&s->mutex);
            s->o.ready(s->o.arg);
            pthread_mutex_lock(&s->mutex);
        }
    }
    pthread_mutex_unlock(&s->mutex);
    return NULL;
}

/* Signals are the loop's: one that landed here would neither wake it nor be seen at once. */
bool
helper_start(struct logstore *s)
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

void
helper_stop(struct logstore *s)
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
