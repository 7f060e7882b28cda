/* SPDX-License-Identifier: MIT */
/*
 * keep.c - retention: old messages go, everything else stays. Segments are dropped whole, but the
 * oldest hold more than messages: users, groups, memberships, cursors, and the only trace of how
 * far a conversation has counted. A pass walks over all there is in memory, and what was last
 * written in a segment that is to go is written again, as it is now; nothing is read from the disk.
 * When all of that is durable the segments go, oldest first. A crash before that repeats the pass;
 * nothing is lost by it.
 *
 *   walking, in steps that leave the loop its turns; dropping
 */
#include "jim.h"

#define DAY_MS INT64_C(86400000)
#define STEP 4000       /* what one step may cost: */
#define COST_VISIT 1    /* looking at a user, member or conversation: one cache line or two */
#define COST_RECORD 16  /* writing a record */

/* --- walking ---------------------------------------------------------------------------------- */

static void
walk_begin(struct chat *c)
{
    c->keep.user = c->roster.made_users;
    c->keep.in_members = false;
    c->keep.conv = c->roster.made_convs;
    c->keep.wait = 0;
}

bool
keep_begin(struct chat *c)
{
    struct keep *k = &c->keep;

    if (k->bound.segment == 0 && store_keeps(c->store) && !store_failed(c->store)) {
        k->bound = store_expired(c->store, c->opt->keep_days * DAY_MS, c->opt->keep_bytes,
                                 c->now_ms());
        walk_begin(c);
    }
    return k->bound.segment != 0;
}

/* Nobody knows any more what is on disk of the pass: the next one looks again. Not at once, for the
 * disk may be full. */
void
keep_lost(struct chat *c)
{
    c->keep.bound.segment = 0;
}

/* Does what stands in the segments that stay not say it? */
static bool
is_old(const struct keep *k, uint64_t record)
{
    return record < k->bound.number;
}

static int
keep_member(struct chat *c, struct member *m)
{
    if (m->left || m->change != 0 || !is_old(&c->keep, m->record)) /* change: see walk_may() */
        return COST_VISIT;
    if (m->conv->group)
        record_member(c, m);
    if (m->live_hi != 0 || (!m->conv->group && m->cursor > 0))
        record_cursor(c, m);
    return COST_RECORD;
}

/* The user the walk is at, or his next membership. */
static int
keep_user(struct chat *c)
{
    struct keep *k = &c->keep;
    int cost = COST_VISIT;

    if (!k->in_members) {
        k->in_members = true;
        k->member = k->user->members;
        if (k->user->known && is_old(k, k->user->record)) {
            record_user(c, k->user);
            cost = COST_RECORD;
        }
    } else if (k->member != NULL) {
        cost = keep_member(c, k->member);
        k->member = k->member->next_of_user;
    } else {
        k->in_members = false;
        k->user = k->user->next;
    }
    return cost;
}

static int
keep_conv(struct chat *c)
{
    struct keep *k = &c->keep;
    struct conv *v = k->conv;
    int cost = COST_VISIT;

    k->conv = v->next;
    store_index_drop(&v->index, k->bound.segment);
    if (v->group && v->changes == 0 && (!v->gone || group_dismissed(v)) &&
        is_old(k, v->group_record)) { /* its only trace, perhaps */
        record_group(c, v);
        cost = COST_RECORD;
    }
    if (v->seq > 0 && is_old(k, v->seq_record) &&
        !store_index_reaches(&v->index, k->bound.segment)) {
        record_seq(c, v);
        cost = COST_RECORD;
    }
    return cost;
}

/* Of what is to go, has all taken place that was recorded to? Then the changes that are still on
 * their way stand in what stays, and say more than what they will replace. */
static bool
walk_may(const struct chat *c)
{
    return c->pending_n == 0 || c->pending[c->pending_head].number >= c->keep.bound.number;
}

/* --- dropping --------------------------------------------------------------------------------- */

/* The walk is done. Waits for all that was written till now, and not only by the pass: what it did
 * not write again because of a newer record must not go while that one is on its way. */
static bool
keep_end(struct chat *c)
{
    struct keep *k = &c->keep;

    if (c->redo_n > 0)
        k->wait = 0; /* something newer is lost, and will be written again */
    else if (k->wait == 0)
        k->wait = store_last(c->store);
    if (k->wait == 0 || k->wait > store_durable(c->store))
        return false;
    store_drop(c->store, k->bound.segment);
    k->bound.segment = 0;
    return false;
}

/* A step that writes waits until that is durable: so a pass takes its time, and messages find the
 * store's batches as short as ever. */
bool
keep_step(struct chat *c)
{
    struct keep *k = &c->keep;

    if (k->bound.segment == 0 || store_failed(c->store) || k->wait > store_durable(c->store) ||
        !walk_may(c))
        return false;
    if (k->user == NULL && k->conv == NULL)
        return keep_end(c);
    uint64_t last = store_last(c->store);
    for (int cost = 0; cost < STEP && (k->user != NULL || k->conv != NULL);)
        cost += k->user != NULL ? keep_user(c) : keep_conv(c);
    k->wait = store_last(c->store) > last ? store_last(c->store) : 0;
    return k->wait == 0;
}
