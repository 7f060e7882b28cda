/* SPDX-License-Identifier: MIT */
/*
 * redis_link.c - one connection to one Redis, on the loop: it connects, logs in, writes commands
 * as one pipeline and hands replies back in the same order. Where commands belong and what an error
 * means is redis.c's business, which hears of everything through struct redis_ops.
 *
 * Replies are decoded element by element as they come, each byte once; only the elements of the
 * reply that is coming are kept, and of one that is too large nothing.
 *
 *   the end      of a connection, and the pause before the next
 *   writing      commands, with what has to stand in front of some
 *   logging in   HELLO, or what stood for it in older servers
 *   replies      elements to a whole
 *   events       connect, TLS, read, write, time
 */
#include "jim.h"

#include <errno.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAUSE_MS 100       /* before the first new try, or half of it */
#define MAX_PAUSE_MS 2000  /* and at most */
#define MAX_SLOW 5         /* times its time a command may have on top while others are answered */
#define KEEP_ROOM 262144   /* bytes of a buffer that is kept while it is empty */
#define LINK_READ MAX_READ /* bytes of one read: above TLS_MIN_READ */

enum step { STEP_HELLO, STEP_AUTH, STEP_NAME, STEP_SELECT, STEP_ROLE, STEP_PING, STEP_END };

struct redis_resolve { /* a look-up in a thread; belongs to it meanwhile */
    struct task job;
    struct redis_link *link; /* NULL: nobody wants it any more */
    char host[NI_MAXHOST], port[8];
    struct dial_addrs found;
    int error;
};

static void timer_fired(struct timer *t);
static void link_event(void *arg, unsigned events);

/* --- the end ---------------------------------------------------------------------------------- */

struct redis_link *
redis_link_new(struct redis *r, struct str host, struct str port, const struct redis_ops *ops)
{
    struct redis_link *k = xcalloc(1, sizeof *k);

    k->redis = r;
    k->ops = ops;
    k->host = xstrndup(host.p, host.n);
    k->port = xstrndup(port.p, port.n);
    k->fd = -1;
    k->end = k->fresh = &k->first;
    k->waiters_end = &k->waiters;
    k->patience_ms = r->timeout_ms;
    return k;
}

struct redis_cmd *
redis_link_close(struct redis_link *k)
{
    struct redis_cmd *cmds = k->first;

    k->life++;
    k->state = RLINK_OFF;
    loop_timer_clear(k->redis->o.loop, &k->timer);
    if (k->resolve != NULL)
        k->resolve->link = NULL;
    k->resolve = NULL;
    if (k->tls != NULL)
        tls_close(k->tls); /* a goodbye, if there is room for it */
    tls_free(k->tls);
    k->tls = NULL;
    if (k->fd >= 0) {
        loop_del(k->redis->o.loop, k->fd);
        close(k->fd);
    }
    k->fd = -1;
    k->first = NULL;
    k->end = k->fresh = &k->first;
    k->stale = k->broken = false;
    k->loaded = 0;
    buf_free(&k->out);
    buf_free(&k->in);
    free(k->node);
    k->node = NULL;
    k->nodes = k->node_cap = 0;
    k->depth = 0;
    k->out_at = k->start = k->used = k->scan = k->skip = 0;
    k->large = k->old = false;
    return cmds;
}

void
redis_link_free(struct redis_link *k)
{
    free(k->host);
    free(k->port);
    free(k);
}

bool
redis_link_sent(const struct redis_link *k, const struct redis_cmd *cmd)
{
    return cmd->gathered && k->written > cmd->at;
}

/* From an event or a timer: the connection is over. */
static void
link_lost(struct redis_link *k, const char *why)
{
    if (k->state < RLINK_READY && k->addrs.n > 0)
        k->addr = (k->addr + 1) % k->addrs.n;
    struct redis_cmd *cmds = redis_link_close(k);
    k->fails++;
    k->ops->lost(k, why, cmds);
}

/* The same from anywhere: told when the loop comes to its timers. */
static void
link_break(struct redis_link *k, const char *why)
{
    if (!k->broken && why != k->why)
        snprintf(k->why, sizeof k->why, "%s", why);
    k->broken = true;
    loop_timer(k->redis->o.loop, &k->timer, loop_now(k->redis->o.loop), timer_fired);
}

/* What errno stands for. */
static const char *
link_why(const struct redis_link *k)
{
    return k->tls != NULL && errno == EPROTO ? tls_why(k->tls) : strerror(errno);
}

/* --- writing ---------------------------------------------------------------------------------- */

bool
redis_link_takes(const struct redis_link *k)
{
    return !k->stale && !k->broken && !k->down &&
           (k->state == RLINK_READY || (k->state > RLINK_PAUSE && k->fails == 0));
}

void
redis_link_add(struct redis_link *k, struct redis_cmd *cmd)
{
    struct loop *l = k->redis->o.loop;

    cmd->next = NULL;
    cmd->gathered = false;
    *k->end = cmd;
    k->end = &cmd->next;
    if (k->state == RLINK_READY && cmd->until < k->timer.at_ms && !k->broken)
        loop_timer(l, &k->timer, cmd->until, timer_fired);
}

/* Put a command of the link's own in front of the first that is not gathered; returns it. */
static struct redis_cmd *
link_own(struct redis_link *k, enum redis_kind kind, const struct str *arg, size_t n)
{
    struct buf b = {0};

    resp_command(&b, arg, n);
    struct redis_cmd *cmd = xcalloc(1, sizeof *cmd + b.len);
    cmd->bytes = memcpy(cmd + 1, b.p, b.len);
    cmd->size = b.len;
    cmd->kind = (uint8_t)kind;
    cmd->slot = cmd->script = -1;
    cmd->ms = k->patience_ms;
    cmd->until = loop_now(k->redis->o.loop) + cmd->ms;
    buf_free(&b);
    cmd->next = *k->fresh;
    *k->fresh = cmd;
    if (k->end == k->fresh)
        k->end = &cmd->next;
    return cmd;
}

static void
gather_one(struct redis_link *k)
{
    struct redis_cmd *cmd = *k->fresh;

    cmd->at = k->gathered;
    cmd->gathered = true;
    k->gathered += cmd->size;
    buf_add(&k->out, cmd->bytes, cmd->size);
    k->fresh = &cmd->next;
}

static void
gather(struct redis_link *k)
{
    while (*k->fresh != NULL) {
        const struct redis_cmd *cmd = *k->fresh;
        if (cmd->script >= 0 && !(k->loaded >> cmd->script & 1)) {
            const char *text = k->redis->script[cmd->script]->text;
            k->loaded |= UINT64_C(1) << cmd->script;
            link_own(k, REDIS_LOAD, (struct str[]){STR("SCRIPT"), STR("LOAD"), str_of(text)}, 3);
            gather_one(k);
        }
        if (cmd->asking) {
            link_own(k, REDIS_ASKING, (struct str[]){STR("ASKING")}, 1);
            gather_one(k);
        }
        gather_one(k);
    }
}

/* Hear what can be done next. */
static void
link_watch(struct redis_link *k)
{
    bool put = k->state == RLINK_CONNECT || k->out_at < k->out.len ||
               (k->tls != NULL && tls_state(k->tls) & TLS_PENDING);

    if (k->fd >= 0)
        loop_set(k->redis->o.loop, k->fd, LOOP_READ | (put ? LOOP_WRITE : 0));
}

/* One write of what is gathered. */
static void
link_write(struct redis_link *k)
{
    struct iovec v = {k->out.p + k->out_at, k->out.len - k->out_at};
    ssize_t n;

    if (v.iov_len == 0 || k->broken)
        return;
    do
        n = k->tls != NULL ? tls_write(k->tls, &v, 1) : write(k->fd, v.iov_base, v.iov_len);
    while (n < 0 && errno == EINTR);
    k->redis->stats.writes++;
    if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK) {
        link_break(k, link_why(k));
        return;
    }
    k->out_at += n > 0 ? (size_t)n : 0;
    k->redis->stats.bytes_out += n > 0 ? (uint64_t)n : 0;
    if (k->state == RLINK_READY)
        k->written += n > 0 ? (uint64_t)n : 0;
    if (k->out_at == k->out.len) {
        if (k->state == RLINK_HELLO)
            wipe(k->out.p, k->out.len); /* a password may be in it */
        k->out.len = k->out_at = 0;
        if (k->out.cap > KEEP_ROOM)
            buf_free(&k->out);
    }
    link_watch(k);
}

void
redis_link_flush(struct redis_link *k)
{
    if (k->state != RLINK_READY)
        return;
    if (k->stale && k->first == NULL)
        link_break(k, k->why);
    gather(k);
    link_write(k);
}

void
redis_link_retire(struct redis_link *k, const char *why)
{
    if (k->state != RLINK_READY || k->stale)
        return;
    k->stale = true;
    snprintf(k->why, sizeof k->why, "%s", why);
}

void
redis_link_look(struct redis_link *k, const struct str *arg, size_t n)
{
    link_own(k, REDIS_LOOK, arg, n);
    redis_link_flush(k);
}

void
redis_link_await(struct redis_link *k)
{
    char replicas[24], ms[24];

    snprintf(replicas, sizeof replicas, "%lld", (long long)k->redis->o.opt->redis_wait);
    /* While it waits, the connection does nothing else: that must not take all of their time. */
    snprintf(ms, sizeof ms, "%lld", (long long)(k->patience_ms + 1) / 2);
    link_own(k, REDIS_WAIT, (struct str[]){STR("WAIT"), str_of(replicas), str_of(ms)}, 3);
}

/* --- logging in ------------------------------------------------------------------------------- */

static bool
step_applies(const struct redis_link *k, enum step step)
{
    const struct options *o = k->redis->o.opt;

    switch (step) {
    case STEP_HELLO:
        return !k->plain;
    case STEP_AUTH:
        return k->old && o->redis_auth[0] != '\0';
    case STEP_NAME:
        return k->old && !k->plain;
    case STEP_SELECT:
        return !k->plain && o->redis_db > 0 && k->redis->mode != REDIS_SHARDS;
    case STEP_ROLE:
        return k->master;
    default:
        return true;
    }
}

/* The command of a step; returns how many arguments it has, of 7 at most. */
static size_t
step_command(const struct redis_link *k, struct str arg[7], char number[24])
{
    const struct options *o = k->redis->o.opt;
    struct str user = str_of(o->redis_user), auth = str_of(o->redis_auth);
    struct str name = str_of(k->redis->o.name != NULL ? k->redis->o.name : "jim");
    size_t n = 0;

    switch ((enum step)k->step) {
    case STEP_HELLO:
        arg[n++] = STR("HELLO");
        arg[n++] = STR("3");
        if (auth.n > 0) {
            arg[n++] = STR("AUTH");
            arg[n++] = user.n > 0 ? user : STR("default");
            arg[n++] = auth;
        }
        arg[n++] = STR("SETNAME");
        arg[n++] = name;
        break;
    case STEP_AUTH:
        arg[n++] = STR("AUTH");
        if (user.n > 0)
            arg[n++] = user;
        arg[n++] = auth;
        break;
    case STEP_NAME:
        arg[n++] = STR("CLIENT");
        arg[n++] = STR("SETNAME");
        arg[n++] = name;
        break;
    case STEP_SELECT:
        snprintf(number, 24, "%lld", (long long)o->redis_db);
        arg[n++] = STR("SELECT");
        arg[n++] = str_of(number);
        break;
    case STEP_ROLE:
        arg[n++] = STR("ROLE");
        break;
    case STEP_PING:
    case STEP_END:
        arg[n++] = STR("PING");
        break;
    }
    return n;
}

/* Go on with that step, or the next that is not to be left out. */
static void
step_to(struct redis_link *k, enum step step)
{
    struct str arg[7];
    char number[24];

    while (!step_applies(k, step))
        step++;
    k->step = (uint8_t)step;
    if (step < STEP_END) {
        k->state = RLINK_HELLO;
        resp_command(&k->out, arg, step_command(k, arg, number));
        link_write(k);
        return;
    }
    k->state = RLINK_READY;
    k->fails = 0;
    k->gathered = k->written = 0;
    loop_timer(k->redis->o.loop, &k->timer, k->heard_ms + k->patience_ms, timer_fired);
    k->ops->up(k);
}

static void
step_reply(struct redis_link *k, const struct redis_reply *reply)
{
    enum step step = (enum step)k->step;
    bool error = redis_is_error(reply, "");
    bool refused = redis_is_error(reply, "NOAUTH") || redis_is_error(reply, "WRONGPASS");
    char why[160];

    snprintf(why, sizeof why, "%.*s", (int)(reply->text.n < 150 ? reply->text.n : 150),
             reply->text.n > 0 ? reply->text.p : "");
    if (step == STEP_HELLO && error && !refused) { /* before Redis 6, or not allowed */
        k->old = true;
        step_to(k, STEP_AUTH);
    } else if (step == STEP_PING && k->plain && !k->old && refused) { /* a Sentinel with users */
        k->old = true;
        step_to(k, STEP_AUTH);
    } else if (step == STEP_ROLE && !error &&
               !str_eq(redis_text(redis_at(reply, 0)), STR("master"))) {
        link_lost(k, "it is no master");
    } else if (error && step != STEP_NAME && step != STEP_ROLE &&
               !redis_is_error(reply, "NOPERM")) {
        link_lost(k, why);
    } else {
        step_to(k, step == STEP_HELLO ? STEP_SELECT : step + 1);
    }
}

/* --- replies ---------------------------------------------------------------------------------- */

static bool
has_text(enum resp_type type)
{
    return type <= RESP_ERROR || type == RESP_BULK ||
           (type >= RESP_DOUBLE && type <= RESP_VERBATIM);
}

static bool
holds_others(enum resp_type type)
{
    return type == RESP_ARRAY || type >= RESP_MAP;
}

/* A whole reply has come. */
static void
reply_whole(struct redis_link *k)
{
#define LARGE "TOOLARGE reply is above what is taken"
    static const struct redis_reply large = {.type = RESP_ERROR, .span = 1,
                                             .text = {LARGE, sizeof LARGE - 1}};
    const struct redis_reply *reply = k->large ? &large : k->node;
    struct redis_cmd *cmd = k->first;

    for (uint32_t i = 0; i < k->nodes; i++)
        if (has_text(k->node[i].type)) {
            k->node[i].text.p = k->in.p + k->start + k->node[i].n;
            k->node[i].n = 0;
        }
    k->nodes = 0;
    k->large = false;
    if (reply->type == RESP_PUSH) {
        if (k->redis->o.push != NULL && k->state == RLINK_READY)
            k->redis->o.push(k->redis->o.arg, k->redis, reply);
    } else if (k->state == RLINK_HELLO) {
        step_reply(k, reply);
    } else if (cmd == NULL || !redis_link_sent(k, cmd)) {
        link_lost(k, "it answered what was not asked");
    } else {
        k->first = cmd->next;
        if (k->end == &cmd->next)
            k->end = &k->first;
        if (k->fresh == &cmd->next)
            k->fresh = &k->first;
        k->ops->reply(k, cmd, reply);
    }
}

/* An element is complete, and with it, maybe, what holds it. True: so is the reply. */
static bool
reply_close(struct redis_link *k)
{
    while (k->depth > 0) {
        struct redis_frame *f = &k->frame[k->depth - 1];
        if (--f->left > 0)
            return false;
        k->depth--;
        if (f->attribute) { /* of what follows: not an element itself */
            k->nodes = k->large ? 0 : f->node;
            return false;
        }
        if (!k->large)
            k->node[f->node].span = k->nodes - f->node;
    }
    return true;
}

static void
reply_node(struct redis_link *k, const struct resp *e)
{
    if (k->nodes == REDIS_ELEMENTS || e->type == RESP_LARGE)
        k->large = true;
    if (k->large) {
        k->nodes = 0;
        return;
    }
    GROW(k->node, k->nodes, k->node_cap, 16);
    k->node[k->nodes] = (struct redis_reply){.type = e->type, .span = 1, .n = e->n,
                                             .text = {NULL, e->text.n}};
    if (has_text(e->type)) /* where it stands: the buffer may move */
        k->node[k->nodes].n = e->text.p - (k->in.p + k->start);
    k->nodes++;
}

/* False: it holds more in one another than any reply of Redis. */
static bool
reply_element(struct redis_link *k, const struct resp *e)
{
    uint32_t at = k->nodes;

    if (e->type == RESP_ATTRIBUTE && e->n == 0)
        return true;
    reply_node(k, e);
    if (holds_others(e->type) && e->n > 0) {
        if (k->depth == REDIS_DEPTH)
            return false;
        k->frame[k->depth++] = (struct redis_frame){
            .node = at, .attribute = e->type == RESP_ATTRIBUTE, .left = e->n};
        return true;
    }
    if (reply_close(k)) {
        unsigned life = k->life;
        reply_whole(k);
        if (life == k->life)
            k->start = k->used;
    }
    return true;
}

/* Decode what has come. False: the connection is not what it was. */
static bool
link_parse(struct redis_link *k)
{
    unsigned life = k->life;
    struct resp e;

    for (;;) {
        size_t have = k->in.len - k->used, skip = k->skip < have ? k->skip : have;
        k->used += skip;
        k->skip -= skip;
        size_t taken = k->used - k->start;
        ptrdiff_t got = k->skip > 0 ? 0
                                    : resp_decode(k->in.p + k->used, have - skip, &k->scan,
                                                  taken < REDIS_REPLY ? REDIS_REPLY - taken : 0,
                                                  &e);
        if (got == 0)
            break;
        k->used += got > 0 ? (size_t)got : 0;
        if (got > 0 && e.type == RESP_LARGE)
            k->skip = (size_t)e.n + 2;
        if (got < 0 || !reply_element(k, &e)) {
            link_lost(k, "it does not speak Redis's protocol");
            return false;
        }
        if (life != k->life)
            return false;
    }
    if (k->large)
        k->start = k->used;
    buf_drop(&k->in, k->start);
    k->used -= k->start;
    k->start = 0;
    if (k->in.len == 0 && k->in.cap > KEEP_ROOM)
        buf_free(&k->in);
    return true;
}

/* --- events ----------------------------------------------------------------------------------- */

/* Connected: TLS begins, or logging in. */
static void
link_begin(struct redis_link *k)
{
    struct redis *r = k->redis;
    int error = dial_error(k->fd);

    if (error != 0) {
        link_lost(k, strerror(error));
    } else if (!r->o.opt->redis_tls) {
        step_to(k, STEP_HELLO);
    } else {
        k->state = RLINK_TLS;
        k->tls = r->o.tls != NULL ? tls_connect(r->o.tls, k->fd, k->host) : NULL;
        if (k->tls == NULL)
            link_lost(k, "no TLS");
    }
}

static void
link_readable(struct redis_link *k)
{
    unsigned life = k->life;
    ssize_t n;
    int error;

    do {
        buf_reserve(&k->in, LINK_READ);
        do
            n = k->tls != NULL ? tls_read(k->tls, k->in.p + k->in.len, LINK_READ)
                               : read(k->fd, k->in.p + k->in.len, LINK_READ);
        while (n < 0 && errno == EINTR);
        error = errno;
        if (k->state == RLINK_TLS && tls_state(k->tls) & TLS_READY)
            step_to(k, STEP_HELLO);
        if (n < 0 && (error == EAGAIN || error == EWOULDBLOCK))
            break;
        errno = error;
        if (n <= 0) {
            link_lost(k, n == 0 ? "it closed the connection" : link_why(k));
            return;
        }
        k->in.len += (size_t)n;
        k->redis->stats.bytes_in += (uint64_t)n;
        k->heard_ms = loop_now(k->redis->o.loop);
        if (!link_parse(k))
            return;
    } while (life == k->life && k->tls != NULL && tls_state(k->tls) & TLS_OVER);
}

static void
link_event(void *arg, unsigned events)
{
    struct redis_link *k = arg;
    unsigned life = k->life;

    if (events & LOOP_WRITE && k->state == RLINK_CONNECT)
        link_begin(k);
    else if (events & LOOP_WRITE && k->tls != NULL && tls_flush(k->tls) < 0)
        link_break(k, link_why(k));
    else if (events & LOOP_WRITE)
        link_write(k);
    if (events & LOOP_READ && life == k->life && k->state > RLINK_CONNECT && !k->broken)
        link_readable(k);
    if (life == k->life)
        link_watch(k);
}

static void
link_connect(struct redis_link *k)
{
    struct loop *l = k->redis->o.loop;

    k->state = RLINK_CONNECT;
    k->fd = dial(&k->addrs.a[k->addr % k->addrs.n]);
    k->redis->stats.connects++;
    if (k->fd < 0 || loop_add(l, k->fd, LOOP_WRITE, link_event, k) != 0) {
        link_break(k, strerror(errno));
        if (k->fd >= 0)
            close(k->fd);
        k->fd = -1;
    }
}

static void
resolve_run(struct task *t)
{
    struct redis_resolve *q = container_of(t, struct redis_resolve, job);

    q->error = dial_look_up(str_of(q->host), str_of(q->port), false, &q->found);
}

static void
resolve_done(struct task *t)
{
    struct redis_resolve *q = container_of(t, struct redis_resolve, job);
    struct redis_link *k = q->link;

    if (k != NULL) {
        k->resolve = NULL;
        k->addrs = q->found;
        if (!t->ran || q->error != 0 || q->found.n == 0)
            link_break(k, t->ran && q->error != 0 ? gai_strerror(q->error) : "no address");
        else
            link_connect(k);
    }
    free(q);
}

static void
wake(void *loop)
{
    loop_wake(loop);
}

/* A name is looked up in a thread, each time: it may have moved. */
static void
link_resolve(struct redis_link *k)
{
    struct redis *r = k->redis;
    struct redis_resolve *q = xcalloc(1, sizeof *q);

    if (r->workers == NULL)
        r->workers = workers_new(1, MAX_TASKS, wake, r->o.loop);
    q->job = (struct task){.run = resolve_run, .done = resolve_done};
    q->link = k;
    snprintf(q->host, sizeof q->host, "%s", k->host);
    snprintf(q->port, sizeof q->port, "%s", k->port);
    k->resolve = q;
    if (r->workers == NULL || !workers_add(r->workers, &q->job, true)) {
        k->resolve = NULL;
        free(q);
        link_break(k, "no thread to look its name up");
    }
}

void
redis_link_open(struct redis_link *k, bool pause)
{
    struct loop *l = k->redis->o.loop;
    uint32_t any;

    if (pause) {
        unsigned doubled = k->fails < 6 ? k->fails : 6;
        int64_t most = (int64_t)PAUSE_MS << (doubled > 0 ? doubled - 1 : 0);
        if (most > MAX_PAUSE_MS)
            most = MAX_PAUSE_MS;
        random_bytes(&any, sizeof any); /* so that many do not come back at once */
        k->state = RLINK_PAUSE;
        loop_timer(l, &k->timer, loop_now(l) + most / 2 + any % (most / 2 + 1), timer_fired);
        return;
    }
    k->state = RLINK_RESOLVE;
    loop_timer(l, &k->timer, loop_now(l) + k->patience_ms, timer_fired);
    if (dial_look_up(str_of(k->host), str_of(k->port), true, &k->addrs) == 0 && k->addrs.n > 0)
        link_connect(k);
    else
        link_resolve(k);
}

/* When the oldest command has had its time. A server that answers others meanwhile is slow, not
 * away: to leave it would lose all that is on its way and bring it back at once, as more to do. */
static int64_t
link_until(const struct redis_link *k)
{
    const struct redis_cmd *cmd = k->first;
    int64_t heard;

    if (cmd->until == INT64_MAX)
        return INT64_MAX;
    heard = k->heard_ms + cmd->ms;
    if (heard > cmd->until + MAX_SLOW * cmd->ms)
        heard = cmd->until + MAX_SLOW * cmd->ms;
    return heard > cmd->until ? heard : cmd->until;
}

/* Ready, and it is time to look: has the oldest command had its time? Is it silent? */
static void
link_look(struct redis_link *k)
{
    struct loop *l = k->redis->o.loop;
    int64_t now = loop_now(l), next = now + k->patience_ms;

    if (k->first != NULL && link_until(k) <= now) {
        link_lost(k, "no answer in time");
        return;
    }
    if (k->first == NULL && k->heard_ms + k->patience_ms / 2 <= now) {
        link_own(k, REDIS_PING, (struct str[]){STR("PING")}, 1);
        redis_link_flush(k);
    }
    if (k->first != NULL && link_until(k) < next)
        next = link_until(k);
    if (!k->broken)
        loop_timer(l, &k->timer, next, timer_fired);
}

static void
timer_fired(struct timer *t)
{
    struct redis_link *k = container_of(t, struct redis_link, timer);
    char why[sizeof k->why];

    if (k->broken) {
        memcpy(why, k->why, sizeof why);
        link_lost(k, why);
    } else if (k->state == RLINK_PAUSE) {
        redis_link_open(k, false);
    } else if (k->state == RLINK_READY) {
        link_look(k);
    } else {
        link_lost(k, k->state == RLINK_RESOLVE  ? "its name was not found in time"
                     : k->state == RLINK_CONNECT ? "no connection in time"
                                                 : "no login in time");
    }
}
