/* SPDX-License-Identifier: MIT */
/*
 * kqueue.c - enough of kqueue(2) on Linux to build and run loop.c's kqueue block there. It tests
 * the logic of our code against kqueue's documented rules; it is not a BSD kernel, and passing here
 * does not replace a run on one.
 *
 * A kqueue is an epoll instance that holds two more, one with the read filters and one with the
 * write filters. So a descriptor has two filters that know nothing of each other and report
 * separately, as on BSD; EV_CLEAR is EPOLLET on that one filter; and the kernel does all the
 * bookkeeping.
 *
 * As on BSD: EV_ADD on an existing filter leaves its EV_CLEAR as it is; EV_DELETE without a filter
 * is ENOENT; a refused change is reported as an EV_ERROR event while there is room, and as
 * kevent()'s own error, ending the changes, when there is none; EV_RECEIPT reports success as error
 * 0; after any such report kevent() returns without waiting; without room for events it never
 * waits.
 *
 * Unlike BSD: only EVFILT_READ and EVFILT_WRITE; data, fflags and udata are not filled in (but for
 * EV_ERROR's data); a filter vanishes when the last duplicate of a descriptor is closed, not with
 * the descriptor itself; timeouts are rounded up to ms; nevents of 1 sees only read filters while
 * there are any; EV_CLEAR may report on other occasions. Closing a kqueue cannot be seen from here,
 * so its two inner descriptors live until the next kqueue().
 */
#include "sys/event.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <unistd.h>

#define MAX_KQUEUES 64
#define MAX_EVENTS 512 /* from one filter's instance in one call */

struct queue {
    int kq; /* 0: a free entry */
    int filter[2]; /* read, write */
};

/* Mutable globals, since kevent() gets nothing but a number. */
static struct queue queues[MAX_KQUEUES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Is q->kq still the descriptor we made, not closed nor a newcomer under the same number? Then it
 * already holds the read instance. */
static int
alive(const struct queue *q)
{
    struct epoll_event e = {0};

    if (epoll_ctl(q->kq, EPOLL_CTL_ADD, q->filter[0], &e) == 0) {
        epoll_ctl(q->kq, EPOLL_CTL_DEL, q->filter[0], &e);
        return 0;
    }
    return errno == EEXIST;
}

/* A free entry, after releasing those whose kqueue was closed. NULL when there is none. */
static struct queue *
sweep(void)
{
    struct queue *spare = NULL;

    for (struct queue *q = queues; q < queues + MAX_KQUEUES; q++) {
        if (q->kq > 0 && !alive(q)) {
            close(q->filter[0]);
            close(q->filter[1]);
            q->kq = 0;
        }
        if (q->kq == 0)
            spare = q;
    }
    return spare;
}

/* The three descriptors, one inside the other. 0 or -1 with errno. */
static int
make(struct queue *q)
{
    struct epoll_event e = {.events = EPOLLIN};

    q->kq = epoll_create1(0);
    if (q->kq < 0)
        return -1;
    for (int i = 0; i < 2; i++) {
        q->filter[i] = epoll_create1(EPOLL_CLOEXEC);
        if (q->filter[i] < 0 || epoll_ctl(q->kq, EPOLL_CTL_ADD, q->filter[i], &e) != 0) {
            int saved = errno;
            for (int j = 0; j <= i; j++)
                close(q->filter[j]);
            close(q->kq);
            errno = saved;
            return -1;
        }
    }
    return 0;
}

int
kqueue(void)
{
    struct queue made;
    int result = -1;

    pthread_mutex_lock(&lock);
    struct queue *q = sweep();
    if (q == NULL) {
        errno = EMFILE;
    } else if (make(&made) == 0) {
        *q = made;
        result = q->kq;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

/* 0 or -1; *found is a copy, so that nothing is locked during the wait. */
static int
find(int kq, struct queue *found)
{
    int result = -1;

    pthread_mutex_lock(&lock);
    for (struct queue *q = queues; q < queues + MAX_KQUEUES; q++) {
        if (kq > 0 && q->kq == kq) {
            *found = *q;
            result = 0;
        }
    }
    pthread_mutex_unlock(&lock);
    return result;
}

/* One change. Returns 0 or an errno. */
static int
change(const struct queue *q, const struct kevent *k)
{
    int write = k->filter == EVFILT_WRITE;
    struct epoll_event e = {0};

    if (!write && k->filter != EVFILT_READ)
        return EINVAL;
    if (k->ident > INT_MAX)
        return EBADF;
    e.data.fd = (int)k->ident;
    e.events = write ? EPOLLOUT : EPOLLIN | EPOLLRDHUP;
    if (k->flags & EV_CLEAR)
        e.events |= EPOLLET;
    if (k->flags & EV_DELETE)
        return epoll_ctl(q->filter[write], EPOLL_CTL_DEL, (int)k->ident, &e) == 0 ? 0 : errno;
    if (k->flags & EV_ADD)
        return epoll_ctl(q->filter[write], EPOLL_CTL_ADD, (int)k->ident, &e) == 0 || errno == EEXIST
                   ? 0
                   : errno;
    return EINVAL;
}

/* Take up to max events of one filter that are there now. Returns how many, or -1 with errno. */
static int
take(const struct queue *q, int write, struct kevent *events, int max)
{
    struct epoll_event e[MAX_EVENTS];
    int n = max == 0 ? 0 : epoll_wait(q->filter[write], e, max < MAX_EVENTS ? max : MAX_EVENTS, 0);
    uint32_t eof = write ? EPOLLHUP | EPOLLERR : EPOLLHUP | EPOLLRDHUP;

    for (int i = 0; i < n; i++) {
        events[i] = (struct kevent){.ident = (uintptr_t)e[i].data.fd};
        events[i].filter = write ? EVFILT_WRITE : EVFILT_READ;
        if (e[i].events & eof)
            events[i].flags = EV_EOF;
    }
    return n;
}

static int
to_ms(const struct timespec *t)
{
    if (t == NULL)
        return -1;
    int64_t ms = (int64_t)t->tv_sec * 1000 + (t->tv_nsec + 999999) / 1000000;
    return ms > INT_MAX ? INT_MAX : (int)ms;
}

int
kevent(int kq, const struct kevent *changes, int nchanges, struct kevent *events, int nevents,
       const struct timespec *timeout)
{
    struct epoll_event e[2];
    struct queue q;
    int n = 0;

    if (find(kq, &q) != 0) {
        errno = EBADF;
        return -1;
    }
    if (timeout != NULL && (timeout->tv_sec < 0 || timeout->tv_sec > 100000000 ||
                            timeout->tv_nsec < 0 || timeout->tv_nsec >= 1000000000)) {
        errno = EINVAL; /* older BSDs refuse more than 100,000,000 s */
        return -1;
    }
    for (int i = 0; i < nchanges; i++) {
        int error = change(&q, &changes[i]);
        if (error == 0 && !(changes[i].flags & EV_RECEIPT))
            continue;
        if (n < nevents) {
            events[n] = changes[i];
            events[n].flags = EV_ERROR;
            events[n++].data = error;
        } else if (error != 0) {
            errno = error;
            return -1;
        }
    }
    if (n > 0 || nevents == 0)
        return n;
    if (epoll_wait(kq, e, 2, to_ms(timeout)) < 0)
        return -1;
    /* Half for the readers, so that a busy read side does not hide the writers for ever. */
    int r = take(&q, 0, events, nevents - nevents / 2);
    int w = r < 0 ? -1 : take(&q, 1, events + r, nevents - r);
    return w < 0 ? -1 : r + w;
}
