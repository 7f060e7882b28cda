/* SPDX-License-Identifier: MIT */
/*
 * crash.c - the crash simulator: does the store keep its word on a disk that dies?
 *
 *   build/crash [-v] [-f FAILURES] [-l sync|sync-dir] [-s SEED | N]
 *
 * runs N seeds (10,000), or one with a trace, and stops after so many failures (10). A seed is a
 * life of one log: some sessions, each an opening, a workload as the chat makes it and an end,
 * which is a clean stop, a kill of the process or a power cut at some call to the disk, be it
 * during recovery; with disks that are full for a while, fail, or do only a part. -l makes the disk
 * lie, to see that it is noticed.
 *
 * What must hold is kept in `hist`: all records that ever were in the log, in order. At each
 * opening the log must consist of a prefix of it and of what was on its way, less a beginning that
 * retention was allowed to drop; byte for byte, nothing else; and long enough:
 *
 *   after a kill           all that was reported durable, whatever the policy
 *   after a power cut      all that was reported durable (group), or known to be synced (others)
 *
 * so that no acknowledged record is lost, none invented, none altered, no conversation has a gap.
 * And a number that was ever shown belongs to one content for all time, under each policy. Every
 * other opening takes the .idx files, and then reads each message where they say that it stands.
 *
 *   model, records, opening, news, workload, sessions, command line
 */
#include "simdisk.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef __linux__
#include <sched.h>
#endif

#define SEEDS 10000
#define CONVS 5
#define MAX_ALL 4096 /* appends of one seed */
#define IDLE_MS 20

/* --- model ------------------------------------------------------------------------------------ */

struct attempt { /* a record that was appended; its content follows from its place in all[] */
    uint64_t number, seq;
    char type;
    int conv;
    size_t pad;
};

struct talk {
    char key[16];
    uint64_t seq;     /* handed out */
    uint64_t replayed;
    struct store_index index;
};

struct world {
    struct rng rng;
    uint64_t seed;
    bool lie_sync, lie_sync_dir;
    struct attempt all[MAX_ALL];
    int n;
    int hist[MAX_ALL], nhist; /* in the log, in order */
    int wait[MAX_ALL], nwait; /* appended after these: perhaps in the log */
    int bound;    /* so many of hist must be there now */
    int floor;    /* and so many after a power cut */
    int lost[MAX_ALL], nlost; /* of the last batch lost: to be sent again in the same shape */
    uint64_t shown; /* the highest number anybody has been shown */
    struct talk conv[CONVS];
    struct store *s;
    int64_t policy;
    uint64_t segment;
    bool ready;     /* the store has news */
    int gone;       /* so many of hist this process does not have: dropped, or not found */
    int may_go;     /* so many, at the most, a later one may not find */
    bool spans;     /* the current opening takes .idx files */
    int replayed;   /* records, in it */
    int lowest, highest; /* their places in hist and behind it, in `wait`; lowest -1: none */
    struct buf text, line;
    bool bad;
    unsigned long long records, reads, sessions, flips, drops, spanned; /* over all seeds */
};

static void fail(struct world *w, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The first violation of a seed is the one to look at. */
static void
fail(struct world *w, const char *format, ...)
{
    va_list ap;

    if (w->bad)
        return;
    w->bad = true;
    printf("seed %" PRIu64 ": ", w->seed);
    va_start(ap, format);
    vprintf(format, ap);
    va_end(ap);
    printf("; replay: build/crash%s -v -s %" PRIu64 "\n",
           w->lie_sync ? " -l sync" : w->lie_sync_dir ? " -l sync-dir" : "", w->seed);
}

static uint32_t
below(struct world *w, uint32_t n)
{
    return rng_below(&w->rng, n);
}

static bool
percent(struct world *w, uint32_t n)
{
    return below(w, 100) < n;
}

/* --- records ---------------------------------------------------------------------------------- */

static struct str
content(struct world *w, int id)
{
    static const char letters[] = "abcdefghijklmnop 0123456789\\\"/-_.:,;!?{}[]()<>=+*&%$#@";
    struct rng r = {w->seed * 1000003 + (uint64_t)id};

    w->text.len = 0;
    buf_printf(&w->text, "{\"id\":%06d,\"content\":\"", id);
    buf_reserve(&w->text, w->all[id].pad + 8);
    for (size_t left = w->all[id].pad; left > 0;) {
        uint64_t bits = rng_next(&r);
        for (int i = 0; i < 8 && left > 0; i++, left--, bits >>= 8)
            w->text.p[w->text.len++] = letters[bits % (sizeof letters - 1)];
    }
    buf_add(&w->text, "\"}", 2);
    return (struct str){w->text.p, w->text.len};
}

static int64_t
time_of(int id)
{
    return 1600000000000 + id;
}

static struct str
key_of(const struct world *w, const struct attempt *a)
{
    return a->conv < 0 ? STR("-") : str_of(w->conv[a->conv].key);
}

/* Is this record attempt `id`, to the last byte? */
static bool
is_attempt(struct world *w, const struct store_rec *rec, int id)
{
    const struct attempt *a = &w->all[id];

    return rec->number == a->number && rec->type == a->type && rec->seq == a->seq &&
           rec->time_ms == time_of(id) && str_eq(rec->conv, key_of(w, a)) &&
           str_eq(rec->json, content(w, id));
}

static size_t
any_pad(struct world *w)
{
    uint32_t kind = below(w, 100);

    return kind < 70 ? below(w, 60) : kind < 95 ? below(w, 700) : kind < 99 ? below(w, 4000)
                                                                            : below(w, 30000);
}

/* Append a record of this shape. False: refused. */
static bool
append(struct world *w, char type, int conv, size_t pad)
{
    if (w->n == MAX_ALL)
        return false;
    int id = w->n;
    struct attempt *a = &w->all[id];
    struct talk *v = conv >= 0 ? &w->conv[conv] : NULL;

    *a = (struct attempt){.type = type, .conv = conv, .pad = pad};
    if (type == REC_MESSAGE)
        a->seq = v->seq + 1;
    else if (type == REC_CURSOR)
        a->seq = v->seq;
    a->number = store_append(w->s, type, key_of(w, a), a->seq, content(w, id), time_of(id),
                             type == REC_MESSAGE ? &v->index : NULL);
    if (a->number == 0)
        return false;
    if (type == REC_MESSAGE)
        v->seq++;
    if (a->number <= w->shown)
        fail(w, "number %" PRIu64 " is handed out again", a->number);
    if (w->nwait > 0 && a->number <= w->all[w->wait[w->nwait - 1]].number)
        fail(w, "number %" PRIu64 " does not rise", a->number);
    sim_say("append %d: number %" PRIu64 " %c seq %" PRIu64 " %zu bytes", id, a->number, type,
            a->seq, w->text.len);
    w->wait[w->nwait++] = id;
    w->n++;
    w->records++;
    return true;
}

/* --- opening ---------------------------------------------------------------------------------- */

static void
on_ready(void *arg)
{
    struct world *w = arg;

    w->ready = true; /* in turns: no lock needed */
}

/* The attempt at a place in hist, and behind it in `wait`. */
static int
attempt_at(const struct world *w, int at)
{
    return at < w->nhist ? w->hist[at] : w->wait[at - w->nhist];
}

/* The place of the record with this number (conv NULL), or of a message; -1: there is none. */
static int
place_of(const struct world *w, uint64_t number, const struct talk *conv, uint64_t seq)
{
    for (int at = w->nhist + w->nwait - 1; at >= 0; at--) {
        const struct attempt *a = &w->all[attempt_at(w, at)];
        if (conv == NULL ? a->number == number
                         : a->type == REC_MESSAGE && &w->conv[a->conv] == conv && a->seq == seq)
            return at;
    }
    return -1;
}

/* `n` records stand in the log, the last of them at `at`. */
static void
found(struct world *w, int at, int n)
{
    if (w->lowest < 0 || at - (n - 1) < w->lowest)
        w->lowest = at - (n - 1);
    if (at > w->highest)
        w->highest = at;
    w->replayed += n;
}

/* The messages of a conversation come without a gap, the first of them wherever it may. */
static void
found_message(struct world *w, struct talk *v, uint64_t first, uint64_t last)
{
    if (v->replayed != 0 && first != v->replayed + 1)
        fail(w, "%s has %" PRIu64 " behind %" PRIu64, v->key, first, v->replayed);
    v->replayed = last;
}

static void
on_replay(void *arg, const struct store_rec *rec)
{
    struct world *w = arg;
    int at = place_of(w, rec->number, NULL, 0);

    if (at < 0 || !is_attempt(w, rec, attempt_at(w, at))) {
        fail(w, "record %" PRIu64 " %c is none that was appended", rec->number, rec->type);
        return;
    }
    if (!w->spans && w->lowest >= 0 && at != w->highest + 1)
        fail(w, "record %" PRIu64 " does not follow the one before", rec->number);
    found(w, at, 1);
    if (rec->type != REC_MESSAGE)
        return;
    struct talk *v = &w->conv[w->all[attempt_at(w, at)].conv];
    found_message(w, v, rec->seq, rec->seq);
    store_index_add(&v->index, rec);
}

/* A run of messages, as an .idx file tells it. */
static void
on_span(void *arg, const struct store_span *span)
{
    struct world *w = arg;
    struct talk *v = NULL;
    uint64_t last = span->first + span->count - 1;

    for (int i = 0; i < CONVS; i++)
        if (str_eq(span->conv, str_of(w->conv[i].key)))
            v = &w->conv[i];
    int at = v != NULL && span->count > 0 ? place_of(w, 0, v, last) : -1;
    if (at < 0) {
        fail(w, "an .idx file has messages nobody sent");
        return;
    }
    found(w, at, 1);
    found(w, place_of(w, 0, v, span->first), 1);
    w->replayed += (int)span->count - 2;
    w->spanned += span->count;
    found_message(w, v, span->first, last);
    store_index_add_span(&v->index, span);
}

/* One of the newest, read once more. */
static void
on_recent(void *arg, const struct store_rec *rec)
{
    struct world *w = arg;
    int at = place_of(w, rec->number, NULL, 0);

    if (rec->type != REC_MESSAGE || at < w->lowest || at > w->highest ||
        !is_attempt(w, rec, attempt_at(w, at)))
        fail(w, "record %" PRIu64 " is no recent message", rec->number);
}

/* Forget what an earlier process knew. */
static void
forget(struct world *w)
{
    for (int i = 0; i < CONVS; i++) {
        store_index_free(&w->conv[i].index);
        w->conv[i].seq = w->conv[i].replayed = 0;
    }
    w->replayed = 0;
    w->lowest = w->highest = -1;
    w->nlost = 0;
}

/* Everything that an opening found by .idx files stands where they say. */
static void
read_all(struct world *w, int from, int to)
{
    struct store_rec rec;

    for (int at = from; at < to && !w->bad && !sim_dead() && !sim_faulty(); at++) {
        const struct attempt *a = &w->all[w->hist[at]];
        if (a->type != REC_MESSAGE)
            continue;
        w->line.len = 0;
        int result = store_read(w->s, STR("-"), &w->conv[a->conv].index, a->seq, &w->line, &rec);
        if (result == 0 ? !is_attempt(w, &rec, w->hist[at]) : !sim_dead() && !sim_faulty())
            fail(w, "%s %" PRIu64 " is not where an .idx file says", w->conv[a->conv].key, a->seq);
    }
}

/* How far the conversations had counted before place n. */
static void
count_to(struct world *w, int n)
{
    for (int i = 0; i < n; i++) {
        const struct attempt *a = &w->all[w->hist[i]];
        if (a->type == REC_MESSAGE)
            w->conv[a->conv].seq = a->seq;
    }
}

/* From now on the log is what was replayed, and that is safe. */
static void
settle_opening(struct world *w)
{
    int base = w->lowest, n = w->highest + 1;

    if (base < 0) /* an empty segment may be all that retention has left */
        base = n = w->may_go >= w->bound ? w->may_go : 0;
    if (base > w->may_go)
        fail(w, "the log begins with record %d, and only %d may be gone", base, w->may_go);
    if (n - base != w->replayed)
        fail(w, "%d records are there of %d", w->replayed, n - base);
    if (n < w->bound)
        fail(w, "the log ends with record %d, %d must be there", n, w->bound);
    uint64_t last = n > 0 && w->replayed > 0 ? w->all[attempt_at(w, n - 1)].number : 0;
    for (int i = w->nhist; i < n && i - w->nhist < w->nwait; i++)
        w->hist[i] = w->wait[i - w->nhist];
    w->nwait = 0;
    w->nhist = w->bound = w->floor = n;
    w->gone = base;
    count_to(w, n);
    if (last > w->shown)
        w->shown = last;
    if (store_durable(w->s) < last)
        fail(w, "what was replayed is not durable");
    if (w->spans)
        read_all(w, base, n);
}

/* Under the weak policies, what was not synced goes with its pages. */
static void
give_up_lost_pages(struct world *w)
{
    if (sim_lost_pages() && w->bound > w->floor)
        w->bound = w->floor;
}

/* True when the log is open. A disk that fails during it excuses a refusal. */
static bool
open_log(struct world *w, const struct log *log)
{
    struct store_options o = {.dir = "d", .policy = w->policy, .segment = w->segment, .log = log,
                              .io = sim_io(), .ready = on_ready, .replay = on_replay, .arg = w};

    w->spans = percent(w, 50);
    if (w->spans) {
        o.span = on_span;
        o.recent = on_recent;
        o.recent_max = below(w, 20);
    }
    forget(w);
    w->ready = false;
    sim_say("open: policy %d, segment %d", (int)w->policy, (int)w->segment);
    w->s = store_open(&o);
    if (w->s != NULL) {
        settle_opening(w);
    } else {
        if (!sim_dead() && !sim_faulty())
            fail(w, "the log is refused");
        if (sim_lost_pages() && w->bound > w->floor)
            w->bound = w->floor; /* as in close_log() */
        if (sim_open_files() > 0)
            fail(w, "%d files are left open", sim_open_files());
        give_up_lost_pages(w);
    }
    return w->s != NULL;
}

/* --- news ------------------------------------------------------------------------------------- */

/* The first n waiting records are in the log. */
static void
wait_to_hist(struct world *w, int n)
{
    for (int i = 0; i < n; i++)
        w->hist[w->nhist++] = w->wait[i];
    w->nwait -= n;
    memmove(w->wait, w->wait + n, (size_t)w->nwait * sizeof w->wait[0]);
    if (w->nhist > 0 && w->all[w->hist[w->nhist - 1]].number > w->shown)
        w->shown = w->all[w->hist[w->nhist - 1]].number;
}

static void
lose_waiting(struct world *w)
{
    for (int i = w->nwait - 1; i >= 0; i--) {
        const struct attempt *a = &w->all[w->wait[i]];
        if (a->type == REC_MESSAGE) {
            w->conv[a->conv].seq = a->seq - 1;
            store_index_cut(&w->conv[a->conv].index, a->seq - 1);
        }
    }
    memcpy(w->lost, w->wait, (size_t)w->nwait * sizeof w->wait[0]);
    w->nlost = w->nwait;
    if (!store_failed(w->s))
        w->nwait = 0; /* they may not come back */
}

/* A turn of the loop: hear the news, commit. */
static void
turn(struct world *w)
{
    enum store_news news = store_poll(w->s);
    int n = 0;

    w->ready = false;
    while (n < w->nwait && w->all[w->wait[n]].number <= store_durable(w->s))
        n++;
    if (n > 0) {
        sim_say("durable: %" PRIu64, store_durable(w->s));
        if (news == STORE_SAME)
            fail(w, "durable without news");
        wait_to_hist(w, n);
        w->bound = w->nhist;
        if (w->policy == STORE_GROUP)
            w->floor = w->nhist;
    }
    if (news == STORE_LOST) {
        sim_say("lost: %d records%s", w->nwait, store_failed(w->s) ? "; failed for life" : "");
        if (!sim_dead() && !sim_faulty())
            fail(w, "lost without a reason");
        lose_waiting(w);
    }
    store_commit(w->s);
}

/* --- workload --------------------------------------------------------------------------------- */

static void
append_some(struct world *w)
{
    static const char types[] = "MMMMMMMMMMCCGJLU";
    uint32_t n = 1 + below(w, percent(w, 10) ? 30 : 6);

    for (uint32_t i = 0; i < n; i++) {
        char type = types[below(w, sizeof types - 1)];
        if (!append(w, type, type == REC_USER ? -1 : (int)below(w, CONVS), any_pad(w)))
            break;
    }
}

/* What clients do when a message was refused. */
static void
append_again(struct world *w)
{
    int n = w->nlost;

    if (n > 1 && percent(w, 60))
        n = 1 + (int)below(w, (uint32_t)n);
    w->nlost = 0;
    for (int i = 0; i < n; i++) {
        const struct attempt *a = &w->all[w->lost[i]];
        if (!append(w, a->type, a->conv, a->pad))
            break;
    }
}

/* Read a message that must be there, and one that must not. */
static void
read_one(struct world *w)
{
    struct store_rec rec;

    if (w->nhist == 0)
        return;
    int at = (int)below(w, (uint32_t)w->nhist), id = w->hist[at];
    const struct attempt *a = &w->all[id];
    if (a->type != REC_MESSAGE)
        return;
    struct talk *v = &w->conv[a->conv];
    w->line.len = 0;
    w->reads++;
    int result = store_read(w->s, STR("-"), &v->index, a->seq, &w->line, &rec);
    if (at < w->gone && result != -ENOENT)
        fail(w, "%s %" PRIu64 " was dropped and can be read", v->key, a->seq);
    if (at < w->gone)
        return;
    if (result == 0 && !is_attempt(w, &rec, id))
        fail(w, "%s %" PRIu64 " reads as something else", v->key, a->seq);
    if (result != 0 && !sim_dead() && !sim_faulty())
        fail(w, "%s %" PRIu64 " cannot be read: %s", v->key, a->seq, strerror(-result));
    w->line.len = 0;
    if (store_read(w->s, STR("-"), &v->index, v->seq + 1, &w->line, &rec) != -ENOENT)
        fail(w, "%s %" PRIu64 " can be read", v->key, v->seq + 1);
}

/* Nothing to do for a while: under a policy of so many milliseconds all gets synced. */
static void
idle(struct world *w)
{
    sim_run(UNTIL_IDLE);
    turn(w);
    sim_run(UNTIL_IDLE);
    turn(w);
    sim_sleep(IDLE_MS + 1);
    sim_run(UNTIL_IDLE);
    if (!sim_dead() && !sim_faulty() && w->policy >= 0)
        w->floor = w->nhist;
}

/* Retention, as keep.c does it: when all is durable, the oldest segments go. */
static void
drop_some(struct world *w)
{
    int64_t most = 1 + (int64_t)below(w, 3) * (int64_t)w->segment;

    sim_run(UNTIL_IDLE);
    turn(w);
    struct store_bound b = store_expired(w->s, 0, most, 0);
    if (b.segment == 0 || w->nwait > 0 || store_failed(w->s))
        return;
    for (int i = 0; i < CONVS; i++)
        store_index_drop(&w->conv[i].index, b.segment);
    while (w->gone < w->nhist && w->all[w->hist[w->gone]].number < b.number)
        w->gone++;
    if (w->gone > w->may_go)
        w->may_go = w->gone;
    sim_say("drop: %d records, all below %" PRIu64, w->gone, b.number);
    store_drop(w->s, b.segment);
    w->drops++;
}

static void
act(struct world *w)
{
    uint32_t what = below(w, 100);

    if (w->nlost > 0 && percent(w, 30))
        append_again(w);
    else if (what < 45)
        append_some(w);
    else if (what < 65)
        turn(w);
    else if (what < 80)
        sim_run(1 + (int)below(w, 3));
    else if (what < 90)
        sim_run(UNTIL_IDLE);
    else if (what < 95)
        read_one(w);
    else if (what < 97)
        drop_some(w);
    else
        idle(w);
    if (w->ready && percent(w, 50))
        turn(w);
}

/* --- sessions --------------------------------------------------------------------------------- */

static struct plan
any_plan(struct world *w, int about)
{
    struct plan p = {.lie_sync = w->lie_sync, .lie_sync_dir = w->lie_sync_dir};
    int calls = 1 + about;

    if (percent(w, 75)) {
        p.die_at = 1 + (int)below(w, percent(w, 30) ? 10 : (uint32_t)calls);
        p.die_how = percent(w, 65) ? DEATH_POWER : DEATH_KILL;
    }
    if (percent(w, 20))
        p.fail_at = 1 + (int)below(w, (uint32_t)calls);
    if (percent(w, 30)) {
        p.full_at = 1 + (int)below(w, (uint32_t)calls);
        p.full_for = 1 + (int)below(w, 12);
    }
    if (percent(w, 30))
        p.nuisance = 3 + below(w, 20);
    return p;
}

/* Stop, whatever the state; what was only on its way is in doubt unless the stop was clean. */
static void
close_log(struct world *w)
{
    bool failed = store_failed(w->s);

    sim_say("close");
    int result = store_close(w->s);
    w->s = NULL;
    if (sim_open_files() > 0)
        fail(w, "%d files are left open", sim_open_files());
    if (result == 0) {
        if (failed)
            fail(w, "a failed store says that it stopped well");
        wait_to_hist(w, w->nwait); /* the next opening will tell */
        w->bound = w->floor = w->nhist;
    } else if (!sim_dead() && !sim_faulty()) {
        fail(w, "a store that never failed says it has");
    }
    give_up_lost_pages(w);
}

/* Between two processes. */
static void
after(struct world *w, uint32_t power)
{
    if (sim_died_of() == DEATH_POWER || (!sim_dead() && percent(w, power))) {
        if (w->bound > w->floor)
            w->bound = w->floor;
        sim_power_cut();
    }
    sim_revive();
}

static void
session(struct world *w, const struct log *log)
{
    static const int64_t policies[] = {STORE_GROUP, STORE_GROUP, STORE_GROUP, 0, IDLE_MS,
                                       STORE_OFF};
    bool early = percent(w, 25); /* trouble from the start */
    uint32_t steps = 5 + below(w, 50);

    w->sessions++;
    w->policy = policies[below(w, sizeof policies / sizeof policies[0])];
    if (percent(w, 30))
        w->segment = 200 + below(w, 6000);
    struct plan p = any_plan(w, early ? 40 : 70);
    sim_plan(early ? p : (struct plan){.lie_sync = p.lie_sync, .lie_sync_dir = p.lie_sync_dir});
    if (!open_log(w, log)) {
        after(w, 20);
        return;
    }
    if (!early)
        sim_plan(p);
    for (uint32_t i = 0; i < steps && !w->bad && !(sim_dead() && percent(w, 30)); i++)
        act(w);
    close_log(w);
    after(w, 40);
}

/* A disk without faults: everything is there and can be read, again and again; and when a bit has
 * flipped, the log is refused or still whole. */
static void
last_session(struct world *w, const struct log *log)
{
    w->policy = STORE_GROUP;
    for (int round = 0; round < 2 && !w->bad; round++) {
        sim_plan((struct plan){0});
        if (!open_log(w, log))
            return;
        for (int i = 0; i < 20; i++)
            read_one(w);
        append_some(w);
        idle(w);
        close_log(w);
    }
    uint64_t at = rng_next(&w->rng);
    if (w->bad || sim_flip(at) == NULL)
        return;
    struct store_options o = {.dir = "d", .policy = w->policy, .segment = w->segment, .log = log,
                              .io = sim_io(), .ready = on_ready, .replay = on_replay, .arg = w};
    forget(w);
    w->spans = false;
    w->flips++;
    w->s = store_open(&o);
    if (w->s != NULL && (w->replayed != w->nhist - w->gone || w->highest + 1 != w->nhist))
        fail(w, "a flipped bit costs %d records unnoticed", w->nhist - w->gone - w->replayed);
    store_close(w->s);
    w->s = NULL;
}

/* An earlier log stood on these blocks, with the same numbers as the one to come. */
static void
make_past(struct world *w, const struct log *log)
{
    w->policy = STORE_GROUP;
    if (!open_log(w, log))
        return;
    for (int i = 0; i < 3; i++)
        append_some(w);
    close_log(w);
    sim_wipe();
    w->nhist = w->nwait = w->bound = w->floor = w->gone = w->may_go = 0;
    w->shown = 0;
}

static bool
run_seed(struct world *w, uint64_t seed, bool trace)
{
    struct log log = {trace ? stdout : NULL, LOG_LEVEL_INFO};

    w->seed = seed;
    w->rng.s = seed ^ UINT64_C(0x6a696d); /* another sequence than the disk's */
    w->n = w->nhist = w->nwait = w->nlost = w->bound = w->floor = w->gone = w->may_go = 0;
    w->shown = 0;
    w->bad = false;
    w->segment = 200 + below(w, 6000);
    for (int i = 0; i < CONVS; i++)
        snprintf(w->conv[i].key, sizeof w->conv[i].key, i < 3 ? "u:a:b%d" : "g:%d", i);
    sim_start(seed, trace);
    make_past(w, &log);
    uint32_t sessions = 3 + below(w, 5);
    for (uint32_t i = 0; i < sessions && !w->bad; i++)
        session(w, &log);
    if (!w->bad)
        last_session(w, &log);
    forget(w);
    sim_end();
    return !w->bad;
}

/* --- command line ----------------------------------------------------------------------------- */

static uint64_t running; /* the seed, for on_signal() */

/* A crash or a hang of the store is a finding too. */
static void
on_signal(int sig)
{
    char text[96];
    int n = snprintf(text, sizeof text, "seed %" PRIu64 ": signal %d\n0 passed, 1 failed\n",
                     running, sig);

    if (write(1, text, (size_t)n) < 0)
        _exit(2);
    _exit(1);
}

/* Master and helper take turns: on one processor the turn changes faster. */
static void
use_one_processor(void)
{
#ifdef __linux__
    cpu_set_t set;
    int cpu = sched_getcpu();

    CPU_ZERO(&set);
    CPU_SET(cpu < 0 ? 0u : (unsigned)cpu, &set);
    sched_setaffinity(0, sizeof set, &set);
#endif
}

static int
usage(void)
{
    fprintf(stderr, "usage: crash [-v] [-f FAILURES] [-l sync|sync-dir] [-s SEED | N]\n");
    return 2;
}

int
main(int argc, char **argv)
{
    struct world *w = xcalloc(1, sizeof *w);
    uint64_t first = 1, n = SEEDS, most = 10, passed = 0, failed = 0;
    bool trace = false;
    int c;

    while ((c = getopt(argc, argv, "vf:l:s:")) != -1) {
        trace = trace || c == 'v';
        w->lie_sync = w->lie_sync || (c == 'l' && strcmp(optarg, "sync") == 0);
        w->lie_sync_dir = w->lie_sync_dir || (c == 'l' && strcmp(optarg, "sync-dir") == 0);
        if (c == 'f')
            most = strtoull(optarg, NULL, 10);
        if (c == 's') {
            first = strtoull(optarg, NULL, 10);
            n = 1;
        } else if (c == '?' || (c == 'l' && !w->lie_sync && !w->lie_sync_dir)) {
            return usage();
        }
    }
    if (optind < argc)
        n = strtoull(argv[optind], NULL, 10);
    if (n == 0)
        return usage();
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    use_one_processor();
    signal(SIGABRT, on_signal);
    signal(SIGSEGV, on_signal);
    signal(SIGALRM, on_signal);
    int64_t start = time_mono_ms();
    for (running = first; running < first + n && failed < most; running++) {
        alarm(60);
        if (run_seed(w, running, trace))
            passed++;
        else
            failed++;
    }
    alarm(0);
    const struct sim_count *count = sim_count();
    printf("note: crash: %" PRIu64 " seeds, %llu sessions, %llu records, %llu reads, %llu calls to "
           "the disk\n", passed + failed, w->sessions, w->records, w->reads, count->calls);
    printf("note: crash: %llu power cuts, %llu kills, %llu failures, %llu times full, %llu "
           "interruptions, %llu flipped bits, %llu drops, %llu messages by .idx; %.1f s\n",
           count->power_cuts, count->kills, count->failures, count->full, count->nuisances,
           w->flips, w->drops, w->spanned, (double)(time_mono_ms() - start) / 1000);
    printf("%" PRIu64 " passed, %" PRIu64 " failed\n", passed, failed);
    buf_free(&w->text);
    buf_free(&w->line);
    free(w);
    return failed > 0;
}
