/* SPDX-License-Identifier: MIT */
/*
 * redis.c - commands for Redis: put together, sent where their key belongs, answered once. Which
 * server has which keys is redis_map.c's business, bytes are redis_link.c's.
 *
 * A key belongs to a part: one of the 16384 slots of a Redis Cluster, else there is one part for
 * all. What is on its way for a part goes to one link and so keeps its order. When a part moves to
 * another link, its commands are held until all that were on their way have come back; then one
 * goes ahead, and when that is done, the others. What Redis puts off is held, too, and what comes
 * after it.
 *
 *   reading replies, slots
 *   the end       of a command: its callback
 *   sending       to a link, or holding back
 *   replies       redirections and what else is not for the caller
 *   commands      put together
 */
#include "jim.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define RETRY_PAUSE 50 /* ms until what was put off is tried again */
#define MAX_TRIES 64   /* redirections and refusals one command may meet */
#define HOLE_TRIES 10  /* "not served" of a slot: in this time the map has asked two servers */

/* --- reading replies, slots ------------------------------------------------------------------- */

const struct redis_reply *
redis_at(const struct redis_reply *r, size_t i)
{
    if (r == NULL || (r->type != RESP_ARRAY && r->type < RESP_MAP) || i >= (uint64_t)r->n)
        return NULL;
    const struct redis_reply *e = r + 1;
    while (i-- > 0)
        e = redis_next(e);
    return e;
}

int64_t
redis_int(const struct redis_reply *r, int64_t otherwise)
{
    char copy[24], *end;

    if (r != NULL && (r->type == RESP_INT || r->type == RESP_BOOL))
        return r->n;
    struct str text = redis_text(r);
    if (text.n == 0 || text.n >= sizeof copy || (text.p[0] != '-' && (text.p[0] < '0' ||
                                                                     text.p[0] > '9')))
        return otherwise;
    memcpy(copy, text.p, text.n);
    copy[text.n] = '\0';
    long long n = strtoll(copy, &end, 10); /* what does not fit is the nearest that does */
    return *end == '\0' && end > copy ? n : otherwise;
}

struct str
redis_text(const struct redis_reply *r)
{
    return r != NULL && r->text.p != NULL ? r->text : STR("");
}

bool
redis_is_error(const struct redis_reply *r, const char *word)
{
    size_t n = strlen(word);

    return r != NULL && r->type == RESP_ERROR && r->text.n >= n &&
           memcmp(r->text.p, word, n) == 0 &&
           (n == 0 || r->text.n == n || r->text.p[n] == ' ');
}

/* CRC-16 with polynomial 0x1021, from 0 (XMODEM): Redis Cluster's specification, appendix A. */
static uint16_t
crc16(const char *p, size_t n)
{
    static const uint16_t t[16] = {0x0000, 0x1021, 0x2042, 0x3063, 0x4084, 0x50a5, 0x60c6, 0x70e7,
                                   0x8108, 0x9129, 0xa14a, 0xb16b, 0xc18c, 0xd1ad, 0xe1ce, 0xf1ef};
    unsigned crc = 0;

    for (size_t i = 0; i < n; i++) {
        unsigned byte = (unsigned char)p[i];
        crc = (crc << 4 ^ t[(crc >> 12 ^ byte >> 4) & 15]) & 0xffff;
        crc = (crc << 4 ^ t[(crc >> 12 ^ byte) & 15]) & 0xffff;
    }
    return (uint16_t)crc;
}

uint16_t
redis_slot(struct str key)
{
    const char *open = key.n > 0 ? memchr(key.p, '{', key.n) : NULL;

    if (open != NULL) {
        const char *tag = open + 1, *end = key.p + key.n;
        const char *close = tag < end ? memchr(tag, '}', (size_t)(end - tag)) : NULL;
        if (close != NULL && close > tag)
            key = (struct str){tag, (size_t)(close - tag)};
    }
    return crc16(key.p, key.n) % REDIS_SLOTS;
}

/* --- the end ---------------------------------------------------------------------------------- */

/* From loop_turn(): the command is over, and so is its WAIT. */
static void
cmd_over(struct redis *r, struct redis_cmd *cmd, const struct redis_reply *reply, bool sent)
{
    static const struct redis_reply nobody = {.type = RESP_INT, .span = 1};

    r->queued -= cmd->size;
    r->stats.replies += reply != NULL;
    r->stats.lost += reply == NULL && sent;
    r->stats.refused += reply == NULL && !sent;
    if (cmd->fn != NULL)
        cmd->fn(cmd->arg, cmd->n, reply, sent);
    if (cmd->wait != NULL && reply == NULL)
        cmd->wait(cmd->arg, cmd->n, NULL, sent);
    else if (cmd->wait != NULL)
        cmd->wait(cmd->arg, cmd->n, redis_is_error(reply, "") ? NULL : &nobody, false);
    free(cmd);
}

/* The same of commands that wait for a WAIT, whose own reply has been told. */
static void
waits_over(struct redis_cmd *list, const struct redis_reply *reply)
{
    while (list != NULL) {
        struct redis_cmd *cmd = list;
        list = cmd->next;
        cmd->wait(cmd->arg, cmd->n, reply, true);
        free(cmd);
    }
}

static void
failed_fired(struct timer *t)
{
    struct redis *r = container_of(t, struct redis, failed_timer);
    struct redis_cmd *list = r->failed;

    r->failed = NULL;
    r->failed_end = &r->failed;
    while (list != NULL) {
        struct redis_cmd *cmd = list;
        list = cmd->next;
        cmd_over(r, cmd, NULL, false);
    }
}

/* From anywhere: it was not done, and its callback hears of it in another turn. */
static void
cmd_fail(struct redis *r, struct redis_cmd *cmd)
{
    cmd->next = NULL;
    *r->failed_end = cmd;
    r->failed_end = &cmd->next;
    if (r->failed_timer.slot == 0)
        loop_timer(r->o.loop, &r->failed_timer, loop_now(r->o.loop), failed_fired);
}

/* --- sending ---------------------------------------------------------------------------------- */

static void held_fired(struct timer *t);

/* Held back, behind all that were given before it. */
static void
cmd_hold(struct redis *r, struct redis_cmd *cmd, int64_t not_before)
{
    struct redis_cmd **at = &r->held;

    cmd->not_before = not_before;
    if (cmd->tries == 0)
        at = r->held_end;
    while (*at != NULL && (*at)->serial < cmd->serial)
        at = &(*at)->next;
    cmd->next = *at;
    *at = cmd;
    if (cmd->next == NULL)
        r->held_end = &cmd->next;
    if (cmd->slot >= 0)
        r->part[cmd->slot].held++;
    if (r->held_timer.slot == 0)
        loop_timer(r->o.loop, &r->held_timer, loop_now(r->o.loop) + RETRY_PAUSE, held_fired);
}

static void
cmd_give(struct redis *r, struct redis_cmd *cmd, struct redis_link *k)
{
    if (cmd->slot >= 0) {
        struct redis_part *p = &r->part[cmd->slot];
        p->owed++;
        p->moving = p->moving || p->probe; /* the others wait for what becomes of this one */
    }
    redis_link_add(k, cmd);
}

/* It has come back from a link. */
static void
cmd_back(struct redis *r, struct redis_cmd *cmd)
{
    if (cmd->slot < 0)
        return;
    struct redis_part *p = &r->part[cmd->slot];
    if (--p->owed == 0 && p->moving) {
        p->moving = false;
        r->release = true;
    }
}

static struct redis_link *
any_link(const struct redis *r)
{
    for (struct redis_link *k = r->links; k != NULL; k = k->next)
        if (k->wanted && k->state == RLINK_READY && redis_link_takes(k))
            return k;
    return NULL;
}

static struct redis_link *
link_of(const struct redis *r, int32_t slot)
{
    struct redis_link *k = slot < 0 ? any_link(r) : r->part[slot].link;

    return k != NULL && redis_link_takes(k) ? k : NULL;
}

static void
cmd_send(struct redis *r, struct redis_cmd *cmd)
{
    struct redis_part *p = cmd->slot < 0 ? NULL : &r->part[cmd->slot];
    struct redis_link *k = link_of(r, cmd->slot);

    if (p != NULL && (p->moving || p->held > 0))
        cmd_hold(r, cmd, 0);
    else if (k == NULL)
        cmd_fail(r, cmd);
    else
        cmd_give(r, cmd, k);
}

/* Send what has been held back long enough. */
static void
release(struct redis *r)
{
    struct redis_cmd **at = &r->held, *cmd;
    int64_t now = loop_now(r->o.loop);

    r->release = false;
    r->pass++;
    while ((cmd = *at) != NULL) {
        struct redis_part *p = cmd->slot < 0 ? NULL : &r->part[cmd->slot];
        struct redis_link *k = link_of(r, cmd->slot);
        bool late = cmd->until <= now;
        if (!late && (cmd->not_before > now || k == NULL ||
                      (p != NULL && (p->moving || p->pass == r->pass)))) {
            if (p != NULL)
                p->pass = r->pass; /* and what is behind it waits as well */
            at = &cmd->next;
            continue;
        }
        *at = cmd->next;
        if (p != NULL)
            p->held--;
        if (late)
            cmd_fail(r, cmd);
        else
            cmd_give(r, cmd, k);
    }
    r->held_end = at;
}

static void
held_fired(struct timer *t)
{
    struct redis *r = container_of(t, struct redis, held_timer);

    release(r);
    if (r->held != NULL)
        loop_timer(r->o.loop, &r->held_timer, loop_now(r->o.loop) + RETRY_PAUSE, held_fired);
}

void
redis_part_moves(struct redis *r, size_t slot, struct redis_link *to)
{
    struct redis_part *p = &r->part[slot];

    /* The new master may not know of it yet and send commands back, and then know it in the middle
     * of them: one goes ahead when all that are on their way are back. */
    p->probe = p->probe || (p->link != to && p->link != NULL);
    p->moving = p->moving || (p->probe && p->owed > 0);
    p->hole = p->hole && p->link == to;
    p->link = to;
}

/* --- replies ---------------------------------------------------------------------------------- */

/* `MOVED 3999 127.0.0.1:6381`, and so ASK: the link to go to. NULL when it says nothing of use. */
static struct redis_link *
redirection(struct redis *r, struct redis_link *from, struct str text, int64_t *slot)
{
    struct str word, number;

    if (r->mode != REDIS_SHARDS || !str_split(&text, ' ', &word) ||
        !str_split(&text, ' ', &number) || text.p == NULL)
        return NULL;
    const struct redis_reply n = {.type = RESP_STATUS, .text = number};
    *slot = redis_int(&n, -1);
    return *slot < 0 || *slot >= REDIS_SLOTS ? NULL : redis_map_link(r, text, from);
}

static bool
on_moved(struct redis *r, struct redis_link *k, struct redis_cmd *cmd, const struct redis_reply *e)
{
    int64_t slot;
    struct redis_link *to = redirection(r, k, e->text, &slot);

    if (to == NULL)
        return false;
    r->stats.moved++;
    if (r->part[slot].link == k) /* else it has moved on since */
        redis_part_moves(r, (size_t)slot, to);
    redis_map_look(r);
    r->part[slot].probe = true;
    cmd_hold(r, cmd, 0);
    r->release = true;
    return true;
}

static bool
on_ask(struct redis *r, struct redis_link *k, struct redis_cmd *cmd, const struct redis_reply *e)
{
    int64_t slot;
    struct redis_link *to = redirection(r, k, e->text, &slot);

    if (to == NULL)
        return false;
    r->stats.asked++;
    /* It keeps behind what was given before it and is put off. */
    bool behind = cmd->slot >= 0 && r->part[cmd->slot].held > 0;
    cmd->asking = !behind;
    if (behind || !redis_link_takes(to))
        cmd_hold(r, cmd, behind ? 0 : loop_now(r->o.loop) + RETRY_PAUSE);
    else
        cmd_give(r, cmd, to);
    return true;
}

static bool
on_later(struct redis *r, struct redis_link *k, struct redis_cmd *cmd, const struct redis_reply *e)
{
    (void)k, (void)e;
    r->stats.retried++;
    cmd_hold(r, cmd, loop_now(r->o.loop) + RETRY_PAUSE);
    return true;
}

/* About the command's slot alone: nobody has it. All else that is down is about every slot. */
static bool
is_hole(const struct redis_reply *e)
{
    return redis_is_error(e, "CLUSTERDOWN Hash slot");
}

/* A slot that is being given to somebody by hand has nobody for a moment. When that is over, each
 * command is refused at once, and is the question whether it is served again. */
static bool
on_clusterdown(struct redis *r, struct redis_link *k, struct redis_cmd *cmd,
               const struct redis_reply *e)
{
    redis_map_look(r);
    if (!is_hole(e)) {
        redis_map_down(k);
    } else if (cmd->slot >= 0) {
        struct redis_part *p = &r->part[cmd->slot];
        p->hole = p->hole || cmd->tries > HOLE_TRIES;
        if (p->hole)
            return false;
    }
    return on_later(r, k, cmd, e);
}

/* A master has become a replica: who is it now? */
static bool
on_readonly(struct redis *r, struct redis_link *k, struct redis_cmd *cmd,
            const struct redis_reply *e)
{
    redis_link_retire(k, "it has become a replica");
    redis_map_look(r);
    return on_later(r, k, cmd, e);
}

static bool
on_noscript(struct redis *r, struct redis_link *k, struct redis_cmd *cmd,
            const struct redis_reply *e)
{
    (void)e;
    if (cmd->script < 0 || cmd->tries > 3 || !redis_link_takes(k))
        return false;
    k->loaded &= ~(UINT64_C(1) << cmd->script);
    r->stats.retried++;
    cmd_give(r, cmd, k);
    return true;
}

/* Has the command to be done again, because Redis refused it for a time or knows a better place?
 * Then it is on its way. */
static bool
again(struct redis *r, struct redis_link *k, struct redis_cmd *cmd, const struct redis_reply *e)
{
    static const struct {
        const char *word;
        bool (*fn)(struct redis *r, struct redis_link *k, struct redis_cmd *cmd,
                   const struct redis_reply *e);
    } refusals[] = {
        {"MOVED", on_moved},       {"ASK", on_ask},           {"TRYAGAIN", on_later},
        {"LOADING", on_later},     {"MASTERDOWN", on_later},  {"READONLY", on_readonly},
        {"NOSCRIPT", on_noscript}, {"CLUSTERDOWN", on_clusterdown},
    };

    if (e->type != RESP_ERROR || cmd->tries >= MAX_TRIES || cmd->until <= loop_now(r->o.loop))
        return false;
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++)
        if (redis_is_error(e, refusals[i].word)) {
            cmd->tries++;
            cmd->asking = false;
            return refusals[i].fn(r, k, cmd, e);
        }
    return false;
}

static void
link_up(struct redis_link *k)
{
    if (k->redis->mode == REDIS_SHARDS)
        redis_map_doubt(k);
    redis_map_changed(k->redis, "");
}

static void
link_reply(struct redis_link *k, struct redis_cmd *cmd, const struct redis_reply *reply)
{
    struct redis *r = k->redis;

    if (cmd->kind == REDIS_WAIT) {
        struct redis_cmd *list = k->waiting;
        k->waiting = NULL;
        waits_over(list, reply);
    }
    if (cmd->kind != REDIS_ASKED) {
        if (cmd->kind == REDIS_LOOK)
            redis_map_told(k, reply);
        free(cmd);
        return;
    }
    cmd_back(r, cmd);
    if (again(r, k, cmd, reply))
        return;
    if (cmd->slot >= 0) {
        r->part[cmd->slot].probe = false;
        r->part[cmd->slot].hole = is_hole(reply);
    }
    if (cmd->wait == NULL || r->o.opt->redis_wait == 0 || reply->type == RESP_ERROR) {
        cmd_over(r, cmd, reply, true);
        return;
    }
    redis_reply_fn *fn = cmd->fn;
    r->queued -= cmd->size;
    r->stats.replies++;
    cmd->next = NULL;
    *k->waiters_end = cmd;
    k->waiters_end = &cmd->next;
    if (fn != NULL)
        fn(cmd->arg, cmd->n, reply, true);
}

static void
link_gone(struct redis_link *k, const char *why, struct redis_cmd *cmds)
{
    struct redis *r = k->redis;
    struct redis_cmd *waiters = k->waiters, *waiting = k->waiting;

    k->waiters = k->waiting = NULL;
    k->waiters_end = &k->waiters;
    redis_map_lost(r, k, why);
    waits_over(waiting, NULL);
    waits_over(waiters, NULL);
    while (cmds != NULL) {
        struct redis_cmd *cmd = cmds;
        cmds = cmd->next;
        if (cmd->kind != REDIS_ASKED) {
            free(cmd);
            continue;
        }
        cmd_back(r, cmd);
        cmd_over(r, cmd, NULL, redis_link_sent(k, cmd));
    }
}

const struct redis_ops redis_ops = {link_up, link_reply, link_gone};

/* --- commands --------------------------------------------------------------------------------- */

#define DIGITS 24

/* n in decimal, at the end of `text`; returns where it begins. snprintf() costs ten times that. */
static size_t
digits(char text[DIGITS], uint64_t n)
{
    size_t at = DIGITS;

    do
        text[--at] = (char)('0' + n % 10);
    while ((n /= 10) > 0);
    return at;
}

/* What stands in front: how many arguments follow, or bytes. */
static void
put_head(struct buf *b, char mark, size_t n)
{
    char text[DIGITS];
    size_t at = digits(text, n);

    text[--at] = mark;
    buf_add(b, text + at, sizeof text - at);
    buf_lit(b, "\r\n");
}

void
redis_begin(struct redis *r, size_t argc)
{
    r->build.len = 0;
    r->cmd = (struct redis_cmd){.script = -1, .until = r->timeout_ms};
    put_head(&r->build, '*', argc);
}

void
redis_arg(struct redis *r, const void *p, size_t n)
{
    buf_reserve(&r->build, n + DIGITS + 4);
    put_head(&r->build, '$', n);
    buf_add(&r->build, p, n);
    buf_lit(&r->build, "\r\n");
}

void
redis_arg_str(struct redis *r, struct str s)
{
    redis_arg(r, s.p, s.n);
}

void
redis_arg_int(struct redis *r, int64_t n)
{
    char text[DIGITS];
    size_t at = digits(text, n < 0 ? 0 - (uint64_t)n : (uint64_t)n);

    if (n < 0)
        text[--at] = '-';
    redis_arg(r, text + at, sizeof text - at);
}

void
redis_patience(struct redis *r, int64_t ms)
{
    r->cmd.until = ms;
}

void
redis_wait(struct redis *r, redis_reply_fn *wait)
{
    r->cmd.wait = wait;
}

void
redis_end(struct redis *r, struct str key, redis_reply_fn *fn, void *arg, uint64_t n)
{
    bool room = r->queued + r->build.len <= REDIS_QUEUED;
    size_t size = room ? r->build.len : 0;
    struct redis_cmd *cmd = xmalloc(sizeof *cmd + size);

    *cmd = r->cmd;
    cmd->fn = fn;
    cmd->arg = arg;
    cmd->n = n;
    cmd->serial = ++r->serial;
    cmd->ms = r->cmd.until;
    cmd->until = r->cmd.until < 0 ? INT64_MAX : loop_now(r->o.loop) + r->cmd.until;
    cmd->slot = r->mode != REDIS_SHARDS ? 0 : key.p != NULL ? redis_slot(key) : -1;
    cmd->size = size;
    cmd->bytes = (char *)(cmd + 1);
    if (size > 0)
        memcpy(cmd->bytes, r->build.p, size);
    r->queued += size;
    r->stats.commands++;
    if (r->build.cap > MAX_READ)
        buf_free(&r->build);
    if (room)
        cmd_send(r, cmd);
    else
        cmd_fail(r, cmd);
}

void
redis_script_init(struct redis_script *s, const char *text)
{
    struct sha1 sha;
    uint8_t digest[20];

    s->text = text;
    sha1_init(&sha);
    sha1_add(&sha, text, strlen(text));
    sha1_end(&sha, digest);
    for (size_t i = 0; i < sizeof digest; i++)
        snprintf(s->sha + 2 * i, 3, "%02x", digest[i]);
}

void
redis_script(struct redis *r, const struct redis_script *s, size_t keys, size_t args)
{
    size_t i = 0;

    while (i < r->scripts && r->script[i] != s)
        i++;
    assert(i < REDIS_SCRIPTS);
    r->script[i] = s;
    if (i == r->scripts)
        r->scripts++;
    redis_begin(r, 3 + keys + args);
    r->cmd.script = (int8_t)i;
    redis_arg_lit(r, "EVALSHA");
    redis_arg(r, s->sha, 40);
    redis_arg_int(r, (int64_t)keys);
}

void
redis_flush(struct redis *r)
{
    struct redis_link *next;

    if (r->workers != NULL)
        workers_poll(r->workers);
    if (r->release)
        release(r);
    for (struct redis_link *k = r->links; k != NULL; k = next) {
        next = k->next;
        if (k->waiters != NULL && k->waiting == NULL) {
            k->waiting = k->waiters;
            k->waiters = NULL;
            k->waiters_end = &k->waiters;
            redis_link_await(k);
        }
        redis_link_flush(k);
    }
    redis_map_sweep(r);
}

bool
redis_is_up(const struct redis *r)
{
    return r->up;
}

bool
redis_takes(const struct redis *r, struct str key)
{
    return link_of(r, r->mode != REDIS_SHARDS ? 0 : key.p != NULL ? redis_slot(key) : -1) != NULL;
}

size_t
redis_queued(const struct redis *r)
{
    return r->queued;
}

void
redis_stats(const struct redis *r, struct redis_stats *out)
{
    *out = r->stats;
}

struct redis *
redis_new(const struct redis_options *o)
{
    struct redis *r = xcalloc(1, sizeof *r);

    r->o = *o;
    r->timeout_ms = o->timeout_ms > 0 ? o->timeout_ms : o->opt->redis_ms;
    r->held_end = &r->held;
    r->failed_end = &r->failed;
    redis_map_begin(r);
    return r;
}

void
redis_free(struct redis *r)
{
    if (r == NULL)
        return;
    r->closing = true;
    while (r->links != NULL) {
        struct redis_link *k = r->links;
        r->links = k->next;
        struct redis_cmd *cmds = redis_link_close(k);
        link_gone(k, "closed", cmds);
        redis_link_free(k);
    }
    workers_free(r->workers);
    for (struct redis_cmd *cmd = r->held; cmd != NULL; cmd = r->held) {
        r->held = cmd->next;
        cmd_over(r, cmd, NULL, false);
    }
    failed_fired(&r->failed_timer);
    loop_timer_clear(r->o.loop, &r->failed_timer);
    loop_timer_clear(r->o.loop, &r->held_timer);
    redis_map_end(r);
    buf_free(&r->build);
    free(r->part);
    free(r);
}
