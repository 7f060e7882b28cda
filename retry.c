/* SPDX-License-Identifier: MIT */
/*
 * retry.c - message ids seen before: sent again, a message gets its first answer. Every message
 * looks here and is added, at a random place of a table that no cache holds: so what counts is how
 * many lines of memory are touched, and this is made to touch one. A ring keeps the entries in
 * order of time. To find them there is a table of lines, as long as the processor's; each is a
 * queue of its own, of tags and places in the ring, and an entry is looked at only when its tag is
 * right. Who is forgotten by the ring need not be taken off his line: he is pushed out of it, too,
 * in time. On average four of a line's 16 are in the ring: one in two million of its entries is
 * pushed off its line before its time. Both are taken at once; the ring's memory becomes resident
 * as it is used, that of the lines with the first message.
 *
 *   prints    who sent what where, in 64 bits
 *   the ring  finding, adding, forgetting
 */
#include "jim.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Who sent it where is in the fingerprint, keyed so that nobody can aim. */
struct retry {
    uint64_t print;     /* 0: forgotten, or nobody yet */
    struct conv *conv;  /* borrowed */
    uint64_t seq;
    int64_t create_ms;
    uint32_t at_s;      /* when, in seconds since 1970 */
};

#define PER_LINE 16
#define LINES (4u * MAX_RETRY / PER_LINE)

struct retry_line { /* the newest first: high bits of the print, and the place in the ring */
    uint32_t entry[PER_LINE];
};

_Static_assert((MAX_RETRY & (MAX_RETRY - 1)) == 0, "places are bits");

/* --- prints ----------------------------------------------------------------------------------- */

/* Two messages of one sender in one conversation differ in the hash of their ids; the same id of
 * others, in a multiple of a secret number. */
uint64_t
retry_print(const struct retries *r, const struct user *from, const struct conv *v, struct str id)
{
    return siphash13(r->key, id.p, id.n) + (uintptr_t)from * (r->factor[0] | 1) +
           (uintptr_t)v * (r->factor[1] | 1);
}

/* --- the ring --------------------------------------------------------------------------------- */

static struct retry_line *
line_of(const struct retries *r, uint64_t print)
{
    return &r->line[print % LINES];
}

/* What a line has of a print: the bits above a place. */
static uint32_t
tag_of(uint64_t print)
{
    return (uint32_t)(print >> 32) & ~(MAX_RETRY - 1u);
}

void
retry_fetch(const struct retries *r, uint64_t print)
{
    FETCH(line_of(r, print));
}

bool
retry_find(const struct retries *r, uint64_t print, int64_t now_ms, struct retry_hit *hit)
{
    const struct retry_line *l = line_of(r, print);
    const uint32_t tag = tag_of(print);
    uint32_t like = 0;

    for (int i = 0; i < PER_LINE; i++) /* the high bit when one is alike: several at once */
        like |= (l->entry[i] ^ tag) / MAX_RETRY - 1;
    for (int i = 0; like >> 31 != 0 && i < PER_LINE; i++) {
        const struct retry *t = &r->ring[l->entry[i] % MAX_RETRY];
        if ((l->entry[i] ^ tag) < MAX_RETRY && t->print == print &&
            (int64_t)t->at_s * 1000 + RETRY_MS >= now_ms) {
            *hit = (struct retry_hit){t->seq, t->create_ms};
            return true;
        }
    }
    return false;
}

void
retry_add(struct retries *r, uint64_t print, struct conv *v, uint64_t seq, int64_t create_ms,
          int64_t now_ms)
{
    struct retry_line *l = line_of(r, print);
    uint32_t place = r->next++ % MAX_RETRY;

    r->ring[place] = (struct retry){print, v, seq, create_ms, (uint32_t)(now_ms / 1000)};
    memmove(&l->entry[1], &l->entry[0], sizeof l->entry - sizeof l->entry[0]);
    l->entry[0] = tag_of(print) | place;
    if (r->count < MAX_RETRY)
        r->count++;
}

void
retry_forget(struct retries *r, const struct conv *v, uint64_t after)
{
    for (uint32_t i = 0; i < r->count; i++)
        if (r->ring[i].conv == v && r->ring[i].seq > after)
            r->ring[i].print = 0;
}

/*
 * The lines are visited in no order: on pages of 4 KiB each visit would have to look up where its
 * page is, too. They are as large as one large page, and stand where one can be. What else is taken
 * for that is never touched, and so costs nothing.
 */
static void
lines_init(struct retries *r)
{
    const uintptr_t size = LINES * sizeof r->line[0];

    r->memory = xcalloc(2, size);
    r->line = (void *)(((uintptr_t)r->memory + size - 1) / size * size);
#ifdef MADV_HUGEPAGE
    madvise(r->line, size, MADV_HUGEPAGE); /* a hint: without such pages it goes on as before */
#endif
}

void
retry_init(struct retries *r)
{
    *r = (struct retries){.ring = xcalloc(MAX_RETRY, sizeof r->ring[0])};
    lines_init(r);
    random_bytes(r->key, sizeof r->key);
    random_bytes(r->factor, sizeof r->factor);
}

void
retry_free(struct retries *r)
{
    free(r->ring);
    free(r->memory);
    *r = (struct retries){0};
}
