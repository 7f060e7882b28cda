/* SPDX-License-Identifier: MIT */
/*
 * sys/event.h - the part of the BSDs' kqueue interface that loop.c uses, for tests on Linux. See
 * ../kqueue.c for what it is and what it is not. Types and values are FreeBSD's.
 */
#ifndef TEST_KQUEUE_EVENT_H
#define TEST_KQUEUE_EVENT_H

#include <stdint.h>
#include <time.h>

#define EVFILT_READ (-1)
#define EVFILT_WRITE (-2)

#define EV_ADD 0x0001
#define EV_DELETE 0x0002
#define EV_CLEAR 0x0020
#define EV_RECEIPT 0x0040
#define EV_ERROR 0x4000
#define EV_EOF 0x8000

struct kevent {
    uintptr_t ident;
    short filter;
    unsigned short flags;
    unsigned int fflags;
    int64_t data;
    void *udata; /* not kept: always NULL in results */
};

#define EV_SET(k, a, b, c, d, e, f) \
    ((k)->ident = (a), (k)->filter = (b), (k)->flags = (c), (k)->fflags = (d), (k)->data = (e), \
     (k)->udata = (f))

int kqueue(void);
int kevent(int kq, const struct kevent *changes, int nchanges, struct kevent *events, int nevents,
           const struct timespec *timeout);

#endif
