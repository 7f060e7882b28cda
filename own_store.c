/* SPDX-License-Identifier: MIT */
/*
 * own_store.c - a store of the embedding program as one of the server's kinds (stores.h): records
 * as plain structs, news by number from any thread. It finds messages by conversation and seq.
 */
#include "jim.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct own_store {
    struct store base;
    struct jim_store own;
    struct store_options o;
    struct store_stats stats;
    pthread_mutex_t mutex; /* for `safe`: 64-bit atomics want a library on small machines */
    uint64_t safe;         /* what jim_store_durable() has said; any thread */
    bool lost;             /* jim_store_lost() */
};

struct jim_replay {
    struct own_store *store;
    bool bad; /* a record cannot be one */
};

void
jim_use_store(struct jim *j, const struct jim_store *s)
{
    struct hooks *h = extend_get(j);

    h->store = *s;
    h->has_store = true;
}

static struct own_store *
of(struct store *base)
{
    return (struct own_store *)base;
}

/* --- appending -------------------------------------------------------------------------------- */

static uint64_t
own_append(struct store *base, char type, struct str conv, uint64_t seq, struct str json,
           int64_t now_ms, struct store_index *index)
{
    struct own_store *s = of(base);
    struct jim_record rec = {.number = base->last + 1, .time_ms = now_ms, .type = type,
                             .conv = {conv.p, conv.n}, .seq = seq, .json = {json.p, json.n}};

    if (s->lost) /* not heard of yet: what came now would be taken for lost, but the store has it */
        return 0;
    if (LINE_HEAD + conv.n + json.n > MAX_RECORD || s->own.append(s->own.arg, &rec) != 0)
        return 0;
    base->last++;
    s->stats.appended++;
    if (index != NULL)
        store_index_add(index, &(struct store_rec){.type = type, .seq = seq, .time_ms = now_ms,
                                                   .segment = STORE_ANYWHERE});
    return base->last;
}

static void
own_commit(struct store *base)
{
    of(base)->own.commit(of(base)->own.arg);
}

static enum store_news
own_poll(struct store *base)
{
    struct own_store *s = of(base);

    pthread_mutex_lock(&s->mutex);
    uint64_t safe = s->safe > base->last ? base->last : s->safe;
    pthread_mutex_unlock(&s->mutex);
    bool more = safe > base->durable;
    s->stats.durable += more ? safe - base->durable : 0;
    if (more)
        base->durable = safe;
    if (!s->lost)
        return more ? STORE_MORE : STORE_SAME;
    s->lost = false;
    s->stats.lost++;
    base->last = base->durable;
    return STORE_LOST;
}

static struct own_store *
store_in(struct jim *j)
{
    return j->hooks != NULL && j->hooks->has_store ? (struct own_store *)j->store : NULL;
}

void
jim_store_durable(struct jim *j, uint64_t number)
{
    struct own_store *s = store_in(j);

    if (s == NULL)
        return;
    pthread_mutex_lock(&s->mutex);
    if (number > s->safe)
        s->safe = number;
    pthread_mutex_unlock(&s->mutex);
    s->o.ready(s->o.arg);
}

void
jim_store_lost(struct jim *j)
{
    struct own_store *s = store_in(j);

    if (s == NULL)
        return;
    s->lost = true;
    s->o.ready(s->o.arg);
}

/* --- reading ---------------------------------------------------------------------------------- */

static int
own_read(struct store *base, struct str conv, const struct store_index *x, uint64_t seq,
         struct buf *to, struct store_rec *rec)
{
    struct own_store *s = of(base);
    struct jim_out out = {.b = *to}; /* written behind what is there */
    size_t start = to->len;
    int64_t time_ms = 0;

    (void)x;
    int got = s->own.read(s->own.arg, conv.p, conv.n, seq, &out, &time_ms);
    *to = out.b;
    if (got != 0 || to->len == start) {
        to->len = start;
        return -ENOENT;
    }
    *rec = (struct store_rec){.time_ms = time_ms, .type = REC_MESSAGE, .seq = seq, .conv = conv,
                              .json = {to->p + start, to->len - start},
                              .segment = STORE_ANYWHERE};
    return 0;
}

static void
own_stats(const struct store *base, struct store_stats *out)
{
    *out = ((const struct own_store *)base)->stats;
}

static int
own_close(struct store *base)
{
    struct own_store *s = of(base);
    int result = s->own.close(s->own.arg);

    pthread_mutex_destroy(&s->mutex);
    free(s);
    return result == 0 ? 0 : -1;
}

/* --- starting --------------------------------------------------------------------------------- */

void
jim_replay(struct jim_replay *r, const struct jim_record *rec)
{
    struct own_store *s = r->store;
    struct store_rec one = {.number = rec->number, .time_ms = rec->time_ms, .type = rec->type,
                            .seq = rec->seq, .conv = {rec->conv.p, rec->conv.n},
                            .json = {rec->json.p, rec->json.n}, .segment = STORE_ANYWHERE};

    if (rec->number <= s->base.last || rec->conv.n == 0) {
        r->bad = true;
        return;
    }
    s->base.last = rec->number;
    s->o.replay(s->o.arg, &one);
    if (rec->type == REC_MESSAGE && rec->time_ms >= s->o.recent_ms)
        s->o.recent(s->o.arg, &one);
}

struct store *
own_store_open(struct hooks *h, const struct store_options *o)
{
    static const struct store_ops ops = {.append = own_append, .commit = own_commit,
                                         .poll = own_poll, .read = own_read, .close = own_close,
                                         .stats = own_stats};
    struct own_store *s = xcalloc(1, sizeof *s);
    struct jim_replay r = {.store = s};
    int e = pthread_mutex_init(&s->mutex, NULL);

    if (e != 0) {
        log_write(o->log, LOG_LEVEL_ERROR, "own store: %s", strerror(e));
        free(s);
        return NULL;
    }
    s->base.ops = &ops;
    s->base.keeps = true;
    s->own = h->store;
    s->o = *o;
    if (s->own.open(s->own.arg, &r) != 0 || r.bad) {
        log_write(o->log, LOG_LEVEL_ERROR, r.bad ? "own store: its records do not rise"
                                                 : "own store: cannot be opened");
        pthread_mutex_destroy(&s->mutex);
        free(s);
        return NULL;
    }
    s->base.durable = s->base.last;
    s->safe = s->base.last;
    return &s->base;
}
