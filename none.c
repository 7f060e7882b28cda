/* SPDX-License-Identifier: MIT */
/*
 * none.c - the store that keeps nothing: what is appended is durable with the next look, and cannot
 * be read. The smallest there can be, so also the one to begin another with: see stores.h.
 */
#include "jim.h"

#include <errno.h>
#include <stdlib.h>

struct none {
    struct store base;
    uint64_t told; /* what poll() has said is durable */
};

static uint64_t
none_append(struct store *s, char type, struct str conv, uint64_t seq, struct str json,
            int64_t now_ms, struct store_index *index)
{
    (void)type, (void)conv, (void)seq, (void)json, (void)now_ms, (void)index;
    s->durable++;
    return ++s->last;
}

static void
none_commit(struct store *s)
{
    (void)s;
}

static enum store_news
none_poll(struct store *s)
{
    struct none *n = (struct none *)s;
    bool more = s->durable > n->told;

    n->told = s->durable;
    return more ? STORE_MORE : STORE_SAME;
}

static int
none_read(struct store *s, struct str conv, const struct store_index *x, uint64_t seq,
          struct buf *to, struct store_rec *rec)
{
    (void)s, (void)conv, (void)x, (void)seq, (void)to, (void)rec;
    return -ENOENT;
}

static int
none_close(struct store *s)
{
    free(s);
    return 0;
}

static const struct store_ops none_ops = {.append = none_append, .commit = none_commit,
                                          .poll = none_poll, .read = none_read,
                                          .close = none_close};

struct store *
store_open_none(void)
{
    struct none *n = xcalloc(1, sizeof *n);

    n->base.ops = &none_ops;
    return &n->base;
}
