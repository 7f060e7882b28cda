/* SPDX-License-Identifier: MIT */
/*
 * retry.c - message ids seen before: sent again, a message gets its first answer. Every message
 * looks here, is added, and pushes out the oldest, each at a random place of a table that no cache
 * holds: so what counts is how many lines of memory are touched. A ring keeps the entries in order
 * of time; a table of 8-byte slots, tag and place in the ring side by side, finds them, and an
 * entry is looked at only when its tag is right. Both are taken at once; the ring's memory becomes
 * resident as it is used, that of the slots with the first message.
 *
 *   prints    who sent what where, in 64 bits
 *   slots     open addressing with linear probing, at most half full
 *   the ring  finding, adding, forgetting
 */
#include "jim.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Who sent it where is in the fingerprint, keyed so that nobody can aim. */
struct retry {
    uint64_t print;
    struct conv *conv;  /* borrowed; NULL: forgotten, the place is used again in its turn */
    uint64_t seq;
    int64_t create_ms;
    uint32_t at_s;      /* when, in seconds since 1970 */
};

struct retry_slot {
    uint32_t tag;   /* low half of the print: its lowest bits say where it wants to stand */
    uint32_t place; /* in the ring, + 1; 0: free */
};

#define SLOTS (2u * MAX_RETRY)
_Static_assert((MAX_RETRY & (MAX_RETRY - 1)) == 0, "places are taken modulo it");

/* --- prints ----------------------------------------------------------------------------------- */

/* Two messages of one sender in one conversation differ in the hash of their ids; the same id of
 * others, in a multiple of a secret number. */
uint64_t
retry_print(const struct retries *r, const struct user *from, const struct conv *v, struct str id)
{
    return siphash13(r->key, id.p, id.n) + (uintptr_t)from * (r->factor[0] | 1) +
           (uintptr_t)v * (r->factor[1] | 1);
}

/* --- slots ------------------------------------------------------------------------------------ */

static void
slot_add(struct retries *r, uint32_t tag, uint32_t place)
{
    uint32_t i = tag % SLOTS;

    while (r->slot[i].place != 0)
        i = (i + 1) % SLOTS;
    r->slot[i] = (struct retry_slot){tag, place + 1};
}

/* Empty the slot of this place and close the gap (Knuth, vol. 3, 6.4, algorithm R). */
static void
slot_drop(struct retries *r, uint32_t tag, uint32_t place)
{
    uint32_t i = tag % SLOTS;

    while (r->slot[i].place != place + 1)
        i = (i + 1) % SLOTS;
    for (uint32_t k = (i + 1) % SLOTS; r->slot[k].place != 0; k = (k + 1) % SLOTS) {
        uint32_t home = r->slot[k].tag % SLOTS;
        if ((k - home) % SLOTS >= (k - i) % SLOTS) {
            r->slot[i] = r->slot[k];
            i = k;
        }
    }
    r->slot[i].place = 0;
}

/* --- the ring --------------------------------------------------------------------------------- */

static bool
retry_is_old(const struct retry *t, int64_t now_ms)
{
    return (int64_t)t->at_s * 1000 + RETRY_MS < now_ms;
}

void
retry_fetch(const struct retries *r, uint64_t print)
{
    FETCH(&r->slot[(uint32_t)print % SLOTS]);
}

bool
retry_find(const struct retries *r, uint64_t print, int64_t now_ms, struct retry_hit *hit)
{
    uint32_t tag = (uint32_t)print;

    for (uint32_t i = tag % SLOTS; r->slot[i].place != 0; i = (i + 1) % SLOTS) {
        const struct retry *t = &r->ring[r->slot[i].place - 1];
        if (r->slot[i].tag != tag || t->print != print || retry_is_old(t, now_ms))
            continue;
        *hit = (struct retry_hit){t->seq, t->create_ms};
        return true;
    }
    return false;
}

static void
drop_oldest(struct retries *r)
{
    struct retry *t = &r->ring[r->head];

    if (t->conv != NULL)
        slot_drop(r, (uint32_t)t->print, r->head);
    r->head = (r->head + 1) % MAX_RETRY;
    r->count--;
}

void
retry_add(struct retries *r, uint64_t print, struct conv *v, uint64_t seq, int64_t create_ms,
          int64_t now_ms)
{
    while (r->count > 0 && (r->count == MAX_RETRY || retry_is_old(&r->ring[r->head], now_ms)))
        drop_oldest(r);
    uint32_t place = (r->head + r->count++) % MAX_RETRY;
    /* Who goes next but one is known: his slot is at hand by then; he himself, even earlier. */
    FETCH(&r->ring[(r->head + 8) % MAX_RETRY]);
    FETCH(&r->slot[(uint32_t)r->ring[(r->head + 2) % MAX_RETRY].print % SLOTS]);
    r->ring[place] = (struct retry){print, v, seq, create_ms, (uint32_t)(now_ms / 1000)};
    slot_add(r, (uint32_t)print, place);
}

void
retry_forget(struct retries *r, const struct conv *v, uint64_t after)
{
    for (uint32_t i = 0; i < r->count; i++) {
        uint32_t place = (r->head + i) % MAX_RETRY;
        struct retry *t = &r->ring[place];
        if (t->conv != v || t->seq <= after)
            continue;
        slot_drop(r, (uint32_t)t->print, place);
        t->conv = NULL;
    }
}

/*
 * The slots are visited in no order: on pages of 4 KiB each visit would have to look up where its
 * page is, too. They are as large as one large page, and stand where one can be. What else is taken
 * for that is never touched, and so costs nothing.
 */
static void
slots_init(struct retries *r)
{
    const uintptr_t size = SLOTS * sizeof r->slot[0];

    r->memory = xcalloc(2, size);
    r->slot = (void *)(((uintptr_t)r->memory + size - 1) / size * size);
#ifdef MADV_HUGEPAGE
    madvise(r->slot, size, MADV_HUGEPAGE); /* a hint: without such pages it goes on as before */
#endif
}

void
retry_init(struct retries *r)
{
    *r = (struct retries){.ring = xcalloc(MAX_RETRY, sizeof r->ring[0])};
    slots_init(r);
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
