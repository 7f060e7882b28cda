/* SPDX-License-Identifier: MIT */
/*
 * worker.c - a few threads for what would stop the loop: a password's hash, a users file, a name to
 * be resolved. A task is run by a thread and then handed back to the loop's thread, which hears of
 * it by a wake-up. Knows nothing of what tasks are about.
 *
 *   threads    take from the queue, run, put on the list of what is done
 *   the loop   adds, and takes what is done
 */
#include "jim.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

struct workers {
    void (*ready)(void *arg);
    void *arg;
    size_t max; /* tasks that may wait */
    size_t threads;
    pthread_t thread[MAX_WORKERS];

    /* Under `mutex`. */
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    struct task *first, **end; /* waiting, oldest first */
    size_t waiting;
    struct task *done, **done_end;
    bool stop;
};

/* --- threads ---------------------------------------------------------------------------------- */

static void *
work(void *arg)
{
    struct workers *w = arg;

    pthread_mutex_lock(&w->mutex);
    while (!w->stop) {
        struct task *t = w->first;
        if (t == NULL) {
            pthread_cond_wait(&w->wake, &w->mutex);
            continue;
        }
        w->first = t->next;
        if (w->first == NULL)
            w->end = &w->first;
        w->waiting--;
        pthread_mutex_unlock(&w->mutex);
        t->run(t);
        pthread_mutex_lock(&w->mutex);
        t->ran = true;
        t->next = NULL;
        *w->done_end = t;
        w->done_end = &t->next;
        pthread_mutex_unlock(&w->mutex);
        w->ready(w->arg);
        pthread_mutex_lock(&w->mutex);
    }
    pthread_mutex_unlock(&w->mutex);
    return NULL;
}

struct workers *
workers_new(size_t threads, size_t max, void (*ready)(void *arg), void *arg)
{
    struct workers *w = xcalloc(1, sizeof *w);
    sigset_t all, old;

    w->ready = ready;
    w->arg = arg;
    w->max = max;
    w->end = &w->first;
    w->done_end = &w->done;
    pthread_mutex_init(&w->mutex, NULL);
    pthread_cond_init(&w->wake, NULL);
    sigfillset(&all); /* signals are for the thread that waits for them */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    while (w->threads < threads && w->threads < MAX_WORKERS &&
           pthread_create(&w->thread[w->threads], NULL, work, w) == 0)
        w->threads++;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (w->threads > 0)
        return w;
    workers_free(w);
    return NULL;
}

/* --- the loop --------------------------------------------------------------------------------- */

bool
workers_add(struct workers *w, struct task *t, bool first)
{
    pthread_mutex_lock(&w->mutex);
    bool room = first || w->waiting < w->max;
    if (room) {
        struct task **at = first ? &w->first : w->end;
        t->ran = false;
        t->next = *at;
        if (t->next == NULL)
            w->end = &t->next;
        *at = t;
        w->waiting++;
        pthread_cond_signal(&w->wake);
    }
    pthread_mutex_unlock(&w->mutex);
    return room;
}

static void
finish(struct task *t)
{
    while (t != NULL) {
        struct task *next = t->next;
        t->done(t); /* may free it */
        t = next;
    }
}

void
workers_poll(struct workers *w)
{
    pthread_mutex_lock(&w->mutex);
    struct task *done = w->done;
    w->done = NULL;
    w->done_end = &w->done;
    pthread_mutex_unlock(&w->mutex);
    finish(done);
}

void
workers_free(struct workers *w)
{
    if (w == NULL)
        return;
    pthread_mutex_lock(&w->mutex);
    w->stop = true;
    pthread_cond_broadcast(&w->wake);
    pthread_mutex_unlock(&w->mutex);
    for (size_t i = 0; i < w->threads; i++)
        pthread_join(w->thread[i], NULL);
    finish(w->done);
    finish(w->first);
    pthread_mutex_destroy(&w->mutex);
    pthread_cond_destroy(&w->wake);
    free(w);
}
