/* SPDX-License-Identifier: MIT */
/*
 * loop.c - waits for descriptors, timers and wake-ups, and calls back. One thread owns a loop; only
 * loop_wake() may come from elsewhere. Knows nothing of sockets or chat; called by jim.c. A
 * message's first hop of the README's eight.
 *
 * In reading order:
 *   1. struct loop: a table of watched descriptors indexed by number, 24 bytes each, and the list
 *      of those the last wait found ready.
 *   2. Three backends, epoll, kqueue and poll, one of them built: the same four functions each, to
 *      be read side by side. All are level-triggered: what is left unread is reported next turn.
 *   3. Watching: loop_add(), loop_set(), loop_del(), and who is watched.
 *   4. Wake-up: a pipe to itself, at most one byte in it.
 *   5. Timers: a binary heap of the callers' struct timer, the next one on top. The wait ends when
 *      it is due; there is no tick, so an idle server sleeps.
 *   6. loop_turn(): wait, read the clock, callbacks, timers.
 *   7. Start and end.
 *
 * The ready list keeps the wait apart from the callbacks, because a callback may remove, replace or
 * add any descriptor: note(), loop_del() and dispatch() say how events still find their owner.
 */
#include "jim.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(JIM_LOOP_POLL)
#define USE_POLL
#elif defined(JIM_LOOP_KQUEUE) || defined(__APPLE__) || defined(__FreeBSD__) || \
    defined(__OpenBSD__) || defined(__NetBSD__) || defined(__DragonFly__)
#define USE_KQUEUE
#elif defined(__linux__)
#define USE_EPOLL
#else
#define USE_POLL
#endif

#if defined(USE_EPOLL)
#include <sys/epoll.h>
#elif defined(USE_KQUEUE)
#include <sys/types.h> /* before event.h, which needs it on OpenBSD */

#include <sys/event.h>
#include <sys/time.h>
#include <time.h>
#else
#include <poll.h>
#endif

_Static_assert(ATOMIC_BOOL_LOCK_FREE == 2, "else loop_wake() is not async-signal-safe");

#define MAX_BATCH 512 /* descriptors taken from one wait: many share a system call, and timers still
                         get their turn soon */
#define MIN_TABLE 64  /* first size of the tables, in entries */

/* === 1. The loop ============================================================================== */

/* Beside enum loop_events, inside this file. */
enum {
    WATCHED = 4, /* in watch.events: so that 0 is "free entry" and not "no events asked for" */
    FAULT = 8    /* in ready.events: an error or a hang-up, to be shown whatever was asked for */
};

struct watch { /* one per descriptor number up to the highest: every byte counts */
    loop_fn *fn;
    void *arg;      /* borrowed until loop_del() */
    uint32_t place; /* poll: index in l->polled; unused elsewhere */
    uint16_t ready; /* place in l->ready + 1; 0: not in it */
    uint8_t events; /* enum loop_events | WATCHED; 0: a free entry */
};
_Static_assert(sizeof(struct watch) <= 24, "memory per connection");

struct loop {
    struct watch *table; /* owned; moves when loop_add() grows it, callbacks included */
    int size, top;       /* entries; one above the highest descriptor ever watched */
    struct {
        int fd; /* -1: removed since */
        unsigned events;
    } ready[MAX_BATCH];
    uint16_t nready;

    struct timer **heap; /* owned; borrowed timers; heap[0] is due first */
    size_t timers, heap_size;
    bool in_timers; /* run_timers() is calling back */
    int64_t (*clock)(void); /* time_mono_ms() */
    int64_t now;

    int wake[2];       /* pipe: read end, write end */
    atomic_bool woken; /* a byte is in the pipe, or about to be */

#if defined(USE_POLL)
    struct pollfd *polled; /* owned; without gaps, in no order */
    size_t npolled, polled_size;
    size_t next; /* where the next scan begins */
#else
    int kernel; /* epoll's or kqueue's descriptor */
#endif
};

/* The wait found fd ready. Merges what is reported in pieces (kqueue: once for reading, once for
 * writing), so that each descriptor is called back at most once a turn. */
static void
note(struct loop *l, int fd, unsigned events)
{
    struct watch *w = &l->table[fd];

    if (w->ready > 0) {
        l->ready[w->ready - 1].events |= events;
        return;
    }
    l->ready[l->nready].fd = fd;
    l->ready[l->nready].events = events;
    w->ready = ++l->nready;
}

/*
 * === 2. Backends ===============================================================================
 *
 * backend_open()   0, or -1 with errno.
 * backend_close()  releases what open took.
 * backend_set()    brings the kernel from watching `was` to watching `want`: bits of watch.events,
 *                  0 for not at all. 0, or -1 with errno. Takes effect at once: what a descriptor
 *                  that is gone had still to say, no later wait reports.
 * backend_wait()   waits ms (-1: for ever) and note()s at most MAX_BATCH descriptors. How many, or
 *                  -1 with errno. When there are more, the next call begins with those left out.
 */

/* --- epoll: Linux ----------------------------------------------------------------------------- */
#if defined(USE_EPOLL)

static int
backend_open(struct loop *l)
{
    l->kernel = epoll_create1(EPOLL_CLOEXEC);
    return l->kernel < 0 ? -1 : 0;
}

static void
backend_close(struct loop *l)
{
    if (l->kernel >= 0)
        close(l->kernel);
}

static int
backend_set(struct loop *l, int fd, unsigned was, unsigned want)
{
    struct epoll_event e = {0};

    e.data.fd = fd;
    if (want & LOOP_READ)
        e.events |= EPOLLIN;
    if (want & LOOP_WRITE)
        e.events |= EPOLLOUT;
    int op = was == 0 ? EPOLL_CTL_ADD : want == 0 ? EPOLL_CTL_DEL : EPOLL_CTL_MOD;
    return epoll_ctl(l->kernel, op, fd, &e);
}

static int
backend_wait(struct loop *l, int ms)
{
    struct epoll_event e[MAX_BATCH];
    int n = epoll_wait(l->kernel, e, MAX_BATCH, ms);

    for (int i = 0; i < n; i++)
        note(l, e[i].data.fd, (e[i].events & EPOLLIN ? LOOP_READ : 0u) |
                                  (e[i].events & EPOLLOUT ? LOOP_WRITE : 0u) |
                                  (e[i].events & (EPOLLERR | EPOLLHUP) ? FAULT : 0u));
    return n;
}

static const char backend_name[] = "epoll";

/* --- kqueue: the BSDs and macOS --------------------------------------------------------------- */
#elif defined(USE_KQUEUE)

static int
backend_open(struct loop *l)
{
    l->kernel = kqueue();
    if (l->kernel < 0)
        return -1;
    return fcntl(l->kernel, F_SETFD, FD_CLOEXEC);
}

static void
backend_close(struct loop *l)
{
    if (l->kernel >= 0)
        close(l->kernel);
}

/* Not EV_SET(): udata is a pointer here and an integer there, and we do without it anyway, for a
 * descriptor finds its owner in the table. */
static void
put_change(struct kevent *k, int fd, bool write, uint16_t flags)
{
    memset(k, 0, sizeof *k);
    k->ident = (uintptr_t)fd;
    k->filter = write ? EVFILT_WRITE : EVFILT_READ;
    k->flags = flags;
}

/* The write filter's flags for what is watched, 0 for no filter. When nothing is asked for we still
 * owe the hang-up, and of the two filters only this one keeps quiet about a peer that merely has no
 * more to send. EV_CLEAR makes "writable" a single report, which dispatch() drops, instead of one
 * every turn; the price is that the hang-up, too, is said once, where epoll and poll repeat it. */
static uint16_t
write_flags(unsigned events)
{
    if (events & LOOP_WRITE)
        return EV_ADD;
    return events == WATCHED ? EV_ADD | EV_CLEAR : 0;
}

static int
backend_set(struct loop *l, int fd, unsigned was, unsigned want)
{
    struct kevent k[3];
    uint16_t from = write_flags(was), to = write_flags(want);
    int n = 0;

    if ((was ^ want) & LOOP_READ)
        put_change(&k[n++], fd, false, want & LOOP_READ ? EV_ADD : EV_DELETE);
    /* Deleted first: EV_ADD alone leaves EV_CLEAR as it was on a filter that is there already. */
    if (from != to && from != 0)
        put_change(&k[n++], fd, true, EV_DELETE);
    if (from != to && to != 0)
        put_change(&k[n++], fd, true, to);
    /* Without room for results the first refused change is the return value. */
    return kevent(l->kernel, k, n, NULL, 0, NULL);
}

static int
backend_wait(struct loop *l, int ms)
{
    struct kevent k[MAX_BATCH];
    struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
    int n = kevent(l->kernel, NULL, 0, k, MAX_BATCH, ms < 0 ? NULL : &t);

    for (int i = 0; i < n; i++) {
        /* The end of the read side is something to read; that of the write side, a hang-up. */
        if (k[i].filter == EVFILT_READ)
            note(l, (int)k[i].ident, LOOP_READ);
        else
            note(l, (int)k[i].ident, LOOP_WRITE | (k[i].flags & EV_EOF ? FAULT : 0u));
    }
    return n;
}

static const char backend_name[] = "kqueue";

/* --- poll: everywhere ------------------------------------------------------------------------- */
#else

static int
backend_open(struct loop *l)
{
    l->polled_size = MIN_TABLE;
    l->polled = xmalloc(l->polled_size * sizeof l->polled[0]);
    return 0;
}

static void
backend_close(struct loop *l)
{
    free(l->polled);
}

static int
backend_set(struct loop *l, int fd, unsigned was, unsigned want)
{
    struct watch *w = &l->table[fd];
    struct pollfd *p;

    if (was == 0) {
        if (fcntl(fd, F_GETFD) < 0) /* said now, as the other backends do */
            return -1;
        if (l->npolled == l->polled_size) {
            l->polled_size *= 2;
            l->polled = xrealloc(l->polled, l->polled_size * sizeof l->polled[0]);
        }
        w->place = (uint32_t)l->npolled++;
        l->polled[w->place].fd = fd;
        l->polled[w->place].revents = 0;
    }
    p = &l->polled[w->place];
    if (want == 0) { /* the last one fills the gap */
        *p = l->polled[--l->npolled];
        l->table[p->fd].place = w->place;
        return 0;
    }
    p->events = (short)((want & LOOP_READ ? POLLIN : 0) | (want & LOOP_WRITE ? POLLOUT : 0));
    return 0;
}

static int
backend_wait(struct loop *l, int ms)
{
    int n = poll(l->polled, (nfds_t)l->npolled, ms), left = n;

    /* Each scan begins where the last one ended, so that with a full batch no descriptor is left
     * out for being far behind. */
    for (size_t i = 0; i < l->npolled && left > 0 && l->nready < MAX_BATCH; i++) {
        size_t at = l->next < l->npolled ? l->next : 0;
        int got = l->polled[at].revents;

        l->next = at + 1;
        if (got == 0)
            continue;
        note(l, l->polled[at].fd, (got & POLLIN ? LOOP_READ : 0u) |
                                      (got & POLLOUT ? LOOP_WRITE : 0u) |
                                      (got & (POLLERR | POLLHUP | POLLNVAL) ? FAULT : 0u));
        left--;
    }
    return n;
}

static const char backend_name[] = "poll";

#endif

const char *
loop_backend(void)
{
    return backend_name;
}

/* === 3. Watching ============================================================================== */

/* The entry of a watched descriptor, else NULL. Valid until the next callback or loop_add(). */
static struct watch *
find(const struct loop *l, int fd)
{
    return fd >= 0 && fd < l->top && l->table[fd].events != 0 ? &l->table[fd] : NULL;
}

int
loop_add(struct loop *l, int fd, unsigned events, loop_fn *fn, void *arg)
{
    assert(fn != NULL && (events & ~(unsigned)(LOOP_READ | LOOP_WRITE)) == 0);
    if (fd < 0 || find(l, fd) != NULL) {
        errno = fd < 0 ? EBADF : EEXIST;
        return -1;
    }
    if (fd >= l->size) {
        int size = l->size;
        assert(fd < INT_MAX / 2); /* no kernel counts that far */
        while (size <= fd)
            size *= 2;
        l->table = xrealloc(l->table, (size_t)size * sizeof l->table[0]);
        memset(l->table + l->size, 0, (size_t)(size - l->size) * sizeof l->table[0]);
        l->size = size;
    }
    if (backend_set(l, fd, 0, events | WATCHED) != 0)
        return -1;
    if (fd >= l->top)
        l->top = fd + 1;
    l->table[fd].fn = fn;
    l->table[fd].arg = arg;
    l->table[fd].events = (uint8_t)(events | WATCHED);
    return 0;
}

int
loop_set(struct loop *l, int fd, unsigned events)
{
    struct watch *w = find(l, fd);

    assert((events & ~(unsigned)(LOOP_READ | LOOP_WRITE)) == 0);
    if (w == NULL) {
        errno = ENOENT;
        return -1;
    }
    if (w->events == (events | WATCHED))
        return 0;
    if (backend_set(l, fd, w->events, events | WATCHED) != 0)
        return -1;
    w->events = (uint8_t)(events | WATCHED);
    return 0;
}

void
loop_del(struct loop *l, int fd)
{
    struct watch *w = find(l, fd);

    if (w == NULL)
        return;
    /* It cannot be told from here whether the number is used again before this turn ends; so the
     * event that waits for it is struck out now, and whoever comes next starts with none. */
    if (w->ready > 0)
        l->ready[w->ready - 1].fd = -1;
    (void)backend_set(l, fd, w->events, 0); /* fails only when closed already: then it is out too */
    memset(w, 0, sizeof *w);
}

void *
loop_arg(const struct loop *l, int fd, loop_fn *fn)
{
    struct watch *w = find(l, fd);

    return w != NULL && w->fn == fn ? w->arg : NULL;
}

int
loop_top(const struct loop *l)
{
    return l->top;
}

/* === 4. Wake-up =============================================================================== */

void
loop_wake(struct loop *l)
{
    int saved = errno; /* a signal handler must not change it under the code it interrupts */

    /* Only the first wake since the last turn writes: any number costs one byte and none blocks. */
    if (!atomic_exchange(&l->woken, true))
        while (write(l->wake[1], "", 1) < 0 && errno == EINTR)
            ;
    errno = saved;
}

static void
on_wake(void *arg, unsigned events)
{
    struct loop *l = arg;
    char byte;

    (void)events;
    /* Cleared only once the pipe is empty, so that it never holds two. A wake in between writes
     * nothing, and need not: this turn still returns after it. An exchange and not a store, because
     * only reading `woken` makes visible what that waker did before. */
    if (read(l->wake[0], &byte, 1) == 1)
        (void)atomic_exchange(&l->woken, false);
}

static int
open_wake(struct loop *l)
{
    if (pipe(l->wake) != 0) /* not pipe2(): macOS has none */
        return -1;
    for (int i = 0; i < 2; i++)
        if (fcntl(l->wake[i], F_SETFD, FD_CLOEXEC) != 0 ||
            fcntl(l->wake[i], F_SETFL, O_NONBLOCK) != 0)
            return -1;
    return loop_add(l, l->wake[0], LOOP_READ, on_wake, l);
}

/* === 5. Timers ================================================================================ */

int64_t
loop_now(const struct loop *l)
{
    return l->now;
}

void
loop_set_clock(struct loop *l, int64_t (*now_ms)(void))
{
    l->clock = now_ms;
    l->now = now_ms();
}

static void
heap_put(struct loop *l, size_t i, struct timer *t)
{
    l->heap[i] = t;
    t->slot = i + 1;
}

/* Put t where it belongs, given that place i is free and all others are in order. */
static void
heap_settle(struct loop *l, size_t i, struct timer *t)
{
    struct timer **h = l->heap;

    for (; i > 0 && h[(i - 1) / 2]->at_ms > t->at_ms; i = (i - 1) / 2)
        heap_put(l, i, h[(i - 1) / 2]);
    for (size_t c; (c = 2 * i + 1) < l->timers; i = c) {
        if (c + 1 < l->timers && h[c + 1]->at_ms < h[c]->at_ms)
            c++;
        if (h[c]->at_ms >= t->at_ms)
            break;
        heap_put(l, i, h[c]);
    }
    heap_put(l, i, t);
}

void
loop_timer(struct loop *l, struct timer *t, int64_t at_ms, timer_fn *fn)
{
    assert(fn != NULL);
    /* What a timer's callback sets runs in a later turn, or one that sets itself to "now" would
     * keep run_timers() busy for ever. */
    if (l->in_timers && at_ms <= l->now)
        at_ms = l->now + 1;
    t->at_ms = at_ms;
    t->fn = fn;
    if (t->slot == 0) {
        if (l->timers == l->heap_size) {
            l->heap_size *= 2;
            l->heap = xrealloc(l->heap, l->heap_size * sizeof l->heap[0]);
        }
        t->slot = ++l->timers;
    }
    heap_settle(l, t->slot - 1, t);
}

void
loop_timer_clear(struct loop *l, struct timer *t)
{
    size_t i = t->slot;

    if (i == 0)
        return;
    t->slot = 0;
    if (i <= --l->timers) /* not the last one: that one moves here */
        heap_settle(l, i - 1, l->heap[l->timers]);
}

/* Each leaves the heap before its callback, which may set it again, clear others or free t. */
static int
run_timers(struct loop *l)
{
    int ran = 0;

    l->in_timers = true;
    for (; l->timers > 0 && l->heap[0]->at_ms <= l->now; ran++) {
        struct timer *t = l->heap[0];
        loop_timer_clear(l, t);
        t->fn(t);
    }
    l->in_timers = false;
    return ran;
}

/* === 6. A turn ================================================================================ */

/* How long the wait may last: until max_ms or the next timer, by the clock of this moment and not
 * by loop_now(), since which callbacks may have taken their time. INT_MAX ms, 24 days, is the most
 * that poll and epoll can express (kqueues take it too); after it a turn ends with nothing done. */
int
loop_wait(const struct loop *l, int64_t max_ms)
{
    int64_t ms = max_ms;

    if (max_ms != 0 && l->timers > 0) {
        int64_t now = l->clock(), at = l->heap[0]->at_ms;
        int64_t left = at > now ? at - now : 0;
        if (ms < 0 || left < ms)
            ms = left;
    }
    return ms < 0 ? -1 : ms > INT_MAX ? INT_MAX : (int)ms;
}

/* Call back for all that is ready. Every round looks into the table afresh: earlier callbacks may
 * have removed this descriptor (-1), asked for something else (masked out) or moved the table. */
static int
dispatch(struct loop *l)
{
    int ran = 0;

    for (size_t i = 0; i < l->nready; i++) {
        int fd = l->ready[i].fd;
        if (fd < 0)
            continue;
        struct watch *w = &l->table[fd];
        unsigned asked = w->events & (LOOP_READ | LOOP_WRITE), got = l->ready[i].events & asked;
        w->ready = 0;
        if (l->ready[i].events & FAULT)
            got = asked != 0 ? asked : LOOP_READ;
        if (got == 0)
            continue;
        ran += w->fn != on_wake;
        w->fn(w->arg, got); /* w may dangle from here on */
    }
    return ran;
}

int
loop_turn(struct loop *l, int64_t max_ms)
{
    l->nready = 0;
    /* A signal ends the wait like a wake-up without a cause: timers are looked at, and the caller,
     * who knows what its handlers do, gets to look as well. The one place where EINTR matters. */
    if (backend_wait(l, loop_wait(l, max_ms)) < 0 && errno != EINTR)
        return -1;
    l->now = l->clock();
    int ran = dispatch(l);
    return ran + run_timers(l);
}

/* === 7. Start and end ========================================================================= */

int
loop_fd(const struct loop *l)
{
#if defined(USE_POLL)
    (void)l;
    return -1;
#else
    return l->kernel;
#endif
}

struct loop *
loop_new(void)
{
    struct loop *l = xcalloc(1, sizeof *l);

    l->size = MIN_TABLE;
    l->table = xcalloc((size_t)l->size, sizeof l->table[0]);
    l->heap_size = MIN_TABLE;
    l->heap = xmalloc(l->heap_size * sizeof l->heap[0]);
    l->wake[0] = l->wake[1] = -1;
    l->clock = time_mono_ms;
    l->now = l->clock();
    if (backend_open(l) == 0 && open_wake(l) == 0)
        return l;
    int saved = errno;
    loop_free(l);
    errno = saved;
    return NULL;
}

void
loop_free(struct loop *l)
{
    if (l == NULL)
        return;
    backend_close(l);
    for (int i = 0; i < 2; i++)
        if (l->wake[i] >= 0)
            close(l->wake[i]);
    free(l->table);
    free(l->heap);
    free(l);
}
