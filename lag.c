/* SPDX-License-Identifier: MIT */
/*
 * lag.c - the conversations one slow reader has fallen behind with: what is said in them comes to
 * him from the store, one conversation after the other (output.c). Each further message has to know
 * whether its conversation is among them, and they may be thousands, on many connections of one
 * user: so they stand in a hash table, with open addressing and linear probing.
 */
#include "jim.h"

#include <assert.h>
#include <stdlib.h>

/* Where a conversation stands, or would. */
static uint32_t
place_of(const struct lags *l, const struct member *member)
{
    uint32_t i = (uint32_t)((uint64_t)(uintptr_t)member * UINT64_C(0x9e3779b97f4a7c15) >> 32);

    for (i &= l->cap - 1; l->place[i].member != NULL && l->place[i].member != member;)
        i = (i + 1) & (l->cap - 1);
    return i;
}

bool
lags_has(const struct lags *l, const struct member *member)
{
    return l->n > 0 && l->place[place_of(l, member)].seq != 0;
}

/* A table for one more, at most half full, without those that are done. */
static void
lags_grow(struct lags *l)
{
    const struct lag *first = lags_first(l);
    struct lags next = {.cap = 4, .n = l->n};

    while ((l->n + 1) * 2 > next.cap)
        next.cap *= 2;
    next.place = xcalloc(next.cap, sizeof *next.place);
    for (uint32_t i = 0; i < l->cap; i++)
        if (l->place[i].seq != 0)
            next.place[place_of(&next, l->place[i].member)] = l->place[i];
    if (first != NULL)
        next.at = place_of(&next, first->member);
    free(l->place);
    *l = next;
}

void
lags_add(struct lags *l, struct member *member, uint64_t seq)
{
    assert(seq != 0 && !lags_has(l, member));
    if ((l->n + l->done + 1) * 4 > l->cap * 3)
        lags_grow(l);
    uint32_t i = place_of(l, member);
    l->done -= l->place[i].member != NULL;
    l->place[i] = (struct lag){member, seq};
    if (l->n++ == 0)
        l->at = i;
}

void
lags_done(struct lags *l)
{
    l->place[l->at].seq = 0;
    l->n--;
    l->done++;
    while (l->n > 0 && l->place[l->at].seq == 0)
        l->at = (l->at + 1) & (l->cap - 1);
}

void
lags_free(struct lags *l)
{
    free(l->place);
    *l = (struct lags){0};
}
