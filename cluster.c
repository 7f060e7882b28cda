/* SPDX-License-Identifier: MIT */
/*
 * cluster.c - one node among others: what all of cluster mode stands on. Messages are
 * cluster_send.c's, who is where cluster_login.c's, groups cluster_group.c's, questions
 * cluster_query.c's; what must happen in Redis in one go is in cluster_scripts.c.
 *
 *   operations  commands to Redis, and what follows when all of their replies are there
 *   commands    keys and arguments
 *   junk        what no node has written
 *   routing     to other nodes' inboxes: all of a turn for one node is one entry
 *   inbox       what the others have for us
 *   leases      who lives; whose users have to be taken off
 *   ticks       what goes on all the time, a little at a time
 *   start       and end
 *   numbers     for the API and the metrics
 *
 * An inbox is a stream of the node's own, read with XREAD BLOCK over a second connection: what
 * comes while that is away is there when it is back. It may be cut or lost all the same: what
 * matters is checked by seq (cluster_send.c), so that an inbox only makes things quick.
 */
#include "jim.h"

#include <assert.h>
#include <stdlib.h>

#define LEASE_MS 10000      /* a node that does not renew it counts as dead */
#define RENEW_MS 2000       /* how often it is renewed */
#define CLAIM_MS 10000      /* who takes a dead node's users off must say so again in this time */
#define TRUST_MS 6000       /* after Redis was away nobody is held to be dead for so long: others
                               need time to renew their leases, too */
#define COMPLAIN_MS 60000   /* between two errors of Redis that are logged */
#define TICK_MS 200
#define INBOX_ENTRIES 20000 /* about how many an inbox may hold */
#define INBOX_S 120         /* and how long it outlives its node */
#define MAX_BATCH 128       /* messages in one entry of an inbox */
#define MAX_KEPT (16u << 20) /* bytes of batches that wait for another try */
#define READ_MS 5000        /* an XREAD waits so long */
#define AGAIN_FAST 400      /* users registered again a tick, when Redis is back */
#define AGAIN_SLOW 20       /* and all the time: heals what went wrong elsewhere */
#define AGAIN_MS 30000      /* but nobody more often than this */
#define CHECKS 40           /* conversations looked at a tick */
#define CHECK_MS 2000       /* but none more often than this */
#define JUNK_MS 1000        /* between two lines about junk */
#define SWEEP 400           /* users and conversations considered for being forgotten a tick */

/* --- operations ------------------------------------------------------------------------------- */

struct op *
op_new(struct cluster *k, size_t size, op_reply_fn *reply, op_fn *step, op_fn *release)
{
    struct op *o = xcalloc(1, size);

    o->k = k;
    o->left = 1;
    o->reply = reply;
    o->step = step;
    o->free = release;
    o->next = k->ops;
    o->at = &k->ops;
    if (k->ops != NULL)
        k->ops->at = &o->next;
    k->ops = o;
    return o;
}

struct op *
op_of_command(struct cluster *k, size_t size, struct conn *c, uint32_t seq, op_reply_fn *reply,
              op_fn *step, op_fn *release)
{
    struct op *o = op_new(k, size, reply, step, release);

    o->conn = c;
    o->seq = seq;
    o->parked = c->parked = true;
    c->deferred++;
    return o;
}

void
op_next(struct op *o, op_reply_fn *reply, op_fn *step)
{
    o->left = 1;
    o->failed = false;
    o->reply = reply;
    o->step = step;
}

static void
op_count_down(struct op *o)
{
    assert(o->left > 0);
    if (--o->left == 0)
        o->step(o);
}

void
op_sent(struct op *o)
{
    op_count_down(o);
}

void
op_end(struct op *o)
{
    *o->at = o->next;
    if (o->next != NULL)
        o->next->at = o->at;
    if (o->free != NULL)
        o->free(o);
    if (o->conn != NULL) {
        if (o->parked)
            o->conn->parked = false;
        conn_answered(o->conn);
    }
    free(o);
}

bool
op_alive(const struct op *o)
{
    return o->conn != NULL && o->conn->state != CONN_DEAD && !o->conn->shut;
}

/* Every command may meet the same error: one now and then says enough. */
static void
op_complain(struct cluster *k, struct str error)
{
    int64_t now = loop_now(k->jim->loop);

    if (k->said_ms != 0 && now - k->said_ms < COMPLAIN_MS)
        return;
    k->said_ms = now;
    log_write(k->chat->log, LOG_LEVEL_WARN, "Redis: %.*s", (int)error.n, error.p);
}

static void
op_reply(void *arg, uint64_t n, const struct redis_reply *r, bool sent)
{
    struct op *o = arg;

    (void)sent;
    if (r == NULL || redis_is_error(r, "")) {
        o->failed = true;
        o->k->stats.lost++;
        if (r != NULL)
            op_complain(o->k, redis_text(r));
    } else if (o->reply != NULL) {
        o->reply(o, (uint32_t)n, r);
    }
    op_count_down(o);
}

/* Enough replicas have it, or it is not known to be safe. */
static void
op_waited(void *arg, uint64_t n, const struct redis_reply *r, bool sent)
{
    struct op *o = arg;

    (void)n, (void)sent;
    if (redis_int(r, -1) < o->k->chat->opt->redis_wait)
        o->failed = true;
    op_count_down(o);
}

/* --- commands --------------------------------------------------------------------------------- */

void
ask_plain(struct op *o, const char *name, size_t args)
{
    redis_begin(o->k->redis, args + 1);
    redis_arg_str(o->k->redis, str_of(name));
}

void
ask_script(struct op *o, enum far_script script, size_t keys, size_t args)
{
    redis_script(o->k->redis, &o->k->script[script], keys, args);
}

/* jim:{KIND:ID}SUFFIX */
static struct str
make_key(char dst[MAX_CONV_KEY + 64], char kind, struct str id, const char *suffix)
{
    int n = snprintf(dst, MAX_CONV_KEY + 64, "jim:{%c:%.*s}%s", kind, (int)id.n, id.p, suffix);

    return (struct str){dst, (size_t)n};
}

void
put_key(struct op *o, char kind, struct str id, const char *suffix)
{
    char text[MAX_CONV_KEY + 64];

    redis_arg_str(o->k->redis, make_key(text, kind, id, suffix));
}

void
put_arg(struct op *o, struct str s)
{
    redis_arg_str(o->k->redis, s);
}

void
put_int(struct op *o, int64_t n)
{
    redis_arg_int(o->k->redis, n);
}

void
ask_wait(struct op *o)
{
    if (o->k->chat->opt->redis_wait <= 0)
        return;
    o->left++;
    redis_wait(o->k->redis, op_waited);
}

void
ask_end(struct op *o, char kind, struct str id, uint32_t n)
{
    char text[MAX_CONV_KEY + 64];

    o->left++;
    o->k->stats.commands++;
    redis_end(o->k->redis, make_key(text, kind, id, ""), op_reply, o, n);
}

void
put_group_keys(struct op *o, struct str conv)
{
    put_key(o, 'c', conv, ":g");
    put_key(o, 'c', conv, ":m");
    put_key(o, 'c', conv, ":d");
    put_key(o, 'c', conv, ":o");
    put_key(o, 'c', conv, ":n");
}

size_t
reply_count(const struct redis_reply *r)
{
    return redis_at(r, 0) == NULL ? 0 : (size_t)r->n;
}

struct str
user_key(struct str id, char dst[3 * MAX_ID])
{
    return (struct str){dst, id_escape(dst, id)};
}

unsigned
bucket_of(struct str id)
{
    static const uint64_t key[2] = {0, 0}; /* the same on every node */

    return (unsigned)(siphash13(key, id.p, id.n) % BUCKETS);
}

static struct str
bucket_name(struct str id, char dst[8])
{
    return (struct str){dst, (size_t)snprintf(dst, 8, "%u", bucket_of(id))};
}

void
ask_index(struct op *o, char kind, struct str id, int score, const char *only)
{
    char text[8];
    struct str bucket = bucket_name(id, text);

    ask_plain(o, "ZADD", only != NULL ? 4 : 3);
    put_key(o, kind, bucket, "");
    if (only != NULL)
        put_arg(o, str_of(only));
    put_int(o, score);
    put_arg(o, id);
    ask_end(o, kind, bucket, UINT32_MAX);
}

void
ask_unindex(struct op *o, char kind, struct str id)
{
    char text[8];
    struct str bucket = bucket_name(id, text);

    ask_plain(o, "ZREM", 2);
    put_key(o, kind, bucket, "");
    put_arg(o, id);
    ask_end(o, kind, bucket, UINT32_MAX);
}

bool
cluster_takes(const struct cluster *k, char kind, struct str id)
{
    char text[MAX_CONV_KEY + 64];

    return k->leased && (redis_is_up(k->redis) ||
                         redis_takes(k->redis, make_key(text, kind, id, "")));
}

bool
cluster_can(const struct cluster *k)
{
    return k->leased && (redis_is_up(k->redis) || redis_takes(k->redis, (struct str){NULL, 0}));
}

bool
cluster_up(const struct cluster *k)
{
    return cluster_takes(k, 's', STR("nodes")) && cluster_takes(k, 'n', cluster_self(k)) &&
           loop_now(k->jim->loop) - k->leased_ms < LEASE_MS;
}

struct str
cluster_self(const struct cluster *k)
{
    return (struct str){k->id, NODE_ID};
}

/* --- junk ------------------------------------------------------------------------------------- */

void
far_junk(struct cluster *k, const char *what, struct str text)
{
    int64_t now = loop_now(k->jim->loop);

    k->stats.junk++;
    if (k->junk_ms > now)
        return;
    k->junk_ms = now + JUNK_MS;
    log_write(k->chat->log, LOG_LEVEL_WARN, "cluster: not used, no node writes this: %s: %.*s",
              what, (int)(text.n < 200 ? text.n : 200), text.n > 0 ? text.p : "");
}

bool
far_json(struct cluster *k, struct str json)
{
    struct json_iter it;
    struct json key, value;
    int more = json_open(&it, json.p, json.n) == 0 && it.close == '}' ? 1 : -1;

    while (more > 0)
        more = json_next(&it, &key, &value);
    if (more < 0)
        far_junk(k, "no JSON object", json);
    return more == 0;
}

bool
far_number(struct str digits, uint64_t *seq)
{
    uint64_t n = 0;

    for (size_t i = 0; i < digits.n; i++) {
        if (i == 16 || digits.p[i] < '0' || digits.p[i] > '9')
            return false;
        n = 10 * n + (uint64_t)(digits.p[i] - '0');
    }
    *seq = n;
    return n > 0 && n <= MAX_SEQ;
}

int
far_entered(struct cluster *k, const struct redis_reply *r, uint64_t *seq)
{
    int64_t state = redis_int(redis_at(r, 0), -1);
    int64_t n = state == 1 ? redis_int(redis_at(r, 4), -1) : 0;

    *seq = (uint64_t)n;
    if (state == 0 || state == 2 || (state == 1 && reply_count(r) >= 7 && n >= 0 && n <= MAX_SEQ))
        return (int)state;
    far_junk(k, "a reply to joining a group", redis_text(r));
    return -1;
}

/* --- routing ---------------------------------------------------------------------------------- */

static struct far_node *
peer_get(struct cluster *k, struct str node)
{
    struct far_node *p = k->peers;

    if (node.n == 0 || node.n > NODE_ID || str_eq(node, cluster_self(k)))
        return NULL;
    while (p != NULL && !str_eq((struct str){p->id, p->idlen}, node))
        p = p->next;
    if (p == NULL) {
        p = xcalloc(1, sizeof *p);
        memcpy(p->id, node.p, node.n);
        p->idlen = (uint8_t)node.n;
        p->next = k->peers;
        k->peers = p;
        k->npeers++;
    }
    p->used_ms = loop_now(k->jim->loop);
    return p;
}

struct batch_op { /* an entry for an inbox, kept until it is there */
    struct op op;
    struct buf pairs;
    size_t n;
    struct timer again;
    char id[NODE_ID];
    uint8_t idlen;
    int tries;
};

static void batch_send(struct batch_op *b);

static void
batch_again(struct timer *t)
{
    batch_send(container_of(t, struct batch_op, again));
}

static void
batch_free(struct op *o)
{
    struct batch_op *b = container_of(o, struct batch_op, op);

    o->k->kept -= b->pairs.len;
    loop_timer_clear(o->k->jim->loop, &b->again);
    buf_free(&b->pairs);
}

/* Lost on the way: once more, for a while. Twice does no harm. */
static void
batch_step(struct op *o)
{
    struct batch_op *b = container_of(o, struct batch_op, op);

    if (!o->failed || b->tries++ >= 50 || o->k->kept > MAX_KEPT || o->k->stopping)
        op_end(o);
    else
        loop_timer(o->k->jim->loop, &b->again, loop_now(o->k->jim->loop) + TICK_MS, batch_again);
}

static void
batch_send(struct batch_op *b)
{
    struct op *o = &b->op;
    struct str node = {b->id, b->idlen};
    const char *p = b->pairs.p;
    uint32_t n;

    op_next(o, NULL, batch_step);
    ask_plain(o, "XADD", 6 + 2 * b->n);
    put_key(o, 'n', node, "");
    put_arg(o, STR("NOMKSTREAM")); /* without an inbox there is no node */
    put_arg(o, STR("MAXLEN"));
    put_arg(o, STR("~"));
    put_int(o, INBOX_ENTRIES);
    put_arg(o, STR("*"));
    for (size_t i = 0; i < 2 * b->n; i++) {
        memcpy(&n, p, sizeof n);
        put_arg(o, (struct str){p + sizeof n, n});
        p += sizeof n + n;
    }
    ask_end(o, 'n', node, 0);
    o->k->stats.batches++;
    op_sent(o);
}

static void
peer_flush(struct cluster *k, struct far_node *p)
{
    if (p->n == 0)
        return;
    struct op *o = op_new(k, sizeof(struct batch_op), NULL, batch_step, batch_free);
    struct batch_op *b = container_of(o, struct batch_op, op);
    memcpy(b->id, p->id, p->idlen);
    b->idlen = p->idlen;
    b->pairs = p->pairs;
    b->n = p->n;
    k->kept += b->pairs.len;
    p->pairs = (struct buf){0};
    p->n = 0;
    batch_send(b);
}

static void
put_piece(struct buf *b, struct str s)
{
    uint32_t n = (uint32_t)s.n;

    buf_add(b, &n, sizeof n);
    buf_str(b, s);
}

void
far_route(struct cluster *k, struct str node, struct str head, struct str text)
{
    struct far_node *p = peer_get(k, node);

    if (p == NULL)
        return;
    put_piece(&p->pairs, head);
    put_piece(&p->pairs, text);
    k->stats.routed++;
    if (++p->n == MAX_BATCH)
        peer_flush(k, p);
}

/* Nodes that have not been written to for a minute are forgotten. */
static void
peers_tidy(struct cluster *k)
{
    int64_t old = loop_now(k->jim->loop) - 60000;

    for (struct far_node **at = &k->peers; *at != NULL;) {
        struct far_node *p = *at;
        if (p->n > 0 || p->used_ms > old) {
            at = &p->next;
            continue;
        }
        *at = p->next;
        buf_free(&p->pairs);
        free(p);
        k->npeers--;
    }
}

/* --- inbox ------------------------------------------------------------------------------------ */

#define MAX_WORDS 6

/* m CONV SEQ FROM, and a + when it follows closely on another. False: no node says that. */
static bool
inbox_message(struct cluster *k, const struct str *w, size_t n, struct str text)
{
    char from_text[MAX_ID];
    struct str from;
    struct conv *v;
    uint64_t seq;
    bool follows = n == 5 && str_eq(w[4], STR("+"));

    if ((n != 4 && !follows) || !far_number(w[2], &seq) || !id_unescape(w[3], from_text, &from) ||
        (v = conv_get_key(&k->chat->roster, w[1])) == NULL)
        return false;
    k->stats.arrived++;
    far_heard(k, v, seq, from, text, follows);
    return true;
}

/* What a node says: words, of which the first is one letter, and a text. */
static void
inbox_item(struct cluster *k, struct str head, struct str text)
{
    struct str w[MAX_WORDS], rest = head;
    size_t n = 0;
    bool known = false;

    while (n < MAX_WORDS && str_split(&rest, ' ', &w[n]))
        n++;
    char what = n > 0 && w[0].n == 1 ? w[0].p[0] : '\0';
    if (what == '-')
        return; /* our own: see lease_renew() */
    if (what == 'm')
        known = inbox_message(k, w, n, text);
    else if (what >= 'A' && what <= 'Z')
        known = group_word(k, what, w, n, text);
    else
        known = presence_word(k, what, w, n, text);
    if (!known)
        far_junk(k, "for a node", head);
}

static void inbox_read(struct cluster *k);

static void
inbox_entry(struct cluster *k, const struct redis_reply *entry)
{
    struct str id = redis_text(redis_at(entry, 0)), rest = id, number;
    const struct redis_reply *fields = redis_at(entry, 1), *f = redis_at(fields, 0);
    uint64_t at;

    /* What stands in k->last is asked with: anything else would be refused for ever. */
    if (id.n >= sizeof k->last || !str_split(&rest, '-', &number) || !far_number(number, &at) ||
        (!str_eq(rest, STR("0")) && !far_number(rest, &at))) {
        far_junk(k, "an entry's id", id);
        return;
    }
    memcpy(k->last, id.p, id.n);
    k->last[id.n] = '\0';
    for (size_t i = 0; i + 1 < reply_count(fields); i += 2) {
        const struct redis_reply *value = redis_next(f);
        inbox_item(k, redis_text(f), redis_text(value));
        f = redis_next(value);
    }
}

/* RESP3 has a map here (stream, its entries), RESP2 an array of such pairs. */
static void
inbox_answer(void *arg, uint64_t n, const struct redis_reply *r, bool sent)
{
    struct cluster *k = arg;
    const struct redis_reply *of = redis_at(r, 0), *entries;

    (void)n, (void)sent;
    k->reading = false;
    if (r == NULL || redis_is_error(r, "")) {
        k->stats.lost += r != NULL;
        if (redis_is_error(r, "CLUSTERDOWN"))
            op_complain(k, redis_text(r));
        else if (r != NULL)
            far_junk(k, "the inbox", redis_text(r));
        return; /* tick_fired() comes back to it */
    }
    entries = r->type == RESP_MAP ? redis_at(r, 1) : redis_at(of, 1);
    const struct redis_reply *e = redis_at(entries, 0);
    for (size_t i = 0; i < reply_count(entries); i++, e = redis_next(e))
        inbox_entry(k, e);
    inbox_read(k);
}

static void
inbox_read(struct cluster *k)
{
    char text[MAX_CONV_KEY + 64];
    struct str key = make_key(text, 'n', cluster_self(k), "");

    if (k->reading || k->gone || !redis_takes(k->inbox, key))
        return;
    k->reading = true;
    redis_begin(k->inbox, 8);
    redis_arg_lit(k->inbox, "XREAD");
    redis_arg_lit(k->inbox, "COUNT");
    redis_arg_lit(k->inbox, "64");
    redis_arg_lit(k->inbox, "BLOCK");
    redis_arg_int(k->inbox, READ_MS);
    redis_arg_lit(k->inbox, "STREAMS");
    redis_arg_str(k->inbox, key);
    redis_arg_str(k->inbox, str_of(k->last));
    redis_patience(k->inbox, READ_MS + k->chat->opt->redis_ms);
    redis_end(k->inbox, key, inbox_answer, k, 0);
}

/* --- leases ----------------------------------------------------------------------------------- */

static void lease_timer_fired(struct timer *t);

static void
node_keys(struct op *o)
{
    put_key(o, 's', STR("nodes"), "");
    put_key(o, 's', STR("nodes"), ":i");
    put_key(o, 's', STR("nodes"), ":r");
}

struct lease_op {
    struct op op;
    char dead[NODE_ID];
    size_t deadlen;
    bool ours; /* it had not ended */
    int64_t sent_ms;
};

static void
lease_reply(struct op *o, uint32_t n, const struct redis_reply *r)
{
    struct lease_op *l = container_of(o, struct lease_op, op);
    struct cluster *k = o->k;
    struct str dead = redis_text(redis_at(r, 1));

    if (n != 0)
        return;
    l->ours = redis_int(redis_at(r, 0), 0) == 1;
    if (dead.n > 0 && dead.n <= NODE_ID) {
        memcpy(l->dead, dead.p, dead.n);
        l->deadlen = dead.n;
    }
    k->nnodes = reply_count(r) > 2 ? reply_count(r) - 2 : 0;
}

static void
lease_step(struct op *o)
{
    struct lease_op *l = container_of(o, struct lease_op, op);
    struct cluster *k = o->k;

    if (o->failed) {
        op_end(o);
        return;
    }
    k->leased_ms = loop_now(k->jim->loop);
    if (k->leased_ms - l->sent_ms > RENEW_MS) /* Redis stood still, for the others as well */
        k->trust_ms = k->leased_ms + TRUST_MS;
    if (!l->ours && k->leased)
        k->fast = true;
    if (!k->leased)
        log_write(k->chat->log, LOG_LEVEL_INFO, "cluster: node %s, %zu nodes", k->id, k->nnodes);
    k->leased = true;
    if (l->deadlen > 0)
        presence_reap(k, (struct str){l->dead, l->deadlen});
    op_end(o);
}

static void
put_info(struct cluster *k, struct buf *b)
{
    const char *name = jim_listening(k->jim, 0);

    buf_add(b, "{", 1);
    put_text(b, "address", str_of(name != NULL ? name : ""));
    json_put_key(b, "connections");
    json_put_int(b, (int64_t)k->jim->conns);
    json_put_key(b, "messages");
    json_put_int(b, (int64_t)k->stats.sent);
    json_put_key(b, "started");
    json_put_int(b, k->jim->start_ms);
    json_put_key(b, "users");
    json_put_int(b, (int64_t)k->chat->roster.nonline);
    buf_add(b, "}", 1);
}

/* Say that we live; keep the inbox, and drop of it what has been read. */
static void
lease_renew(struct cluster *k)
{
    struct buf b = {0};
    int64_t now = loop_now(k->jim->loop);

    if (k->leaving) /* it would undo what stop_lease() has asked for */
        return;
    struct op *o = op_new(k, sizeof(struct lease_op), lease_reply, lease_step, NULL);
    if (now - k->leased_ms > 2 * RENEW_MS) /* we could not: nor could others, maybe */
        k->trust_ms = now + TRUST_MS;
    o->quiet = true;
    container_of(o, struct lease_op, op)->sent_ms = now;
    ask_plain(o, "XADD", 6); /* makes it, should it have gone with a lease that had ended */
    put_key(o, 'n', cluster_self(k), "");
    put_arg(o, STR("MINID"));
    put_arg(o, str_of(k->last));
    put_arg(o, STR("*"));
    put_arg(o, STR("-"));
    put_arg(o, STR(""));
    ask_end(o, 'n', cluster_self(k), 1);
    ask_plain(o, "EXPIRE", 2);
    put_key(o, 'n', cluster_self(k), "");
    put_int(o, INBOX_S);
    ask_end(o, 'n', cluster_self(k), 1);
    put_info(k, &b);
    ask_script(o, SCRIPT_LEASE, 3, 5);
    node_keys(o);
    put_arg(o, cluster_self(k));
    put_int(o, LEASE_MS);
    put_arg(o, (struct str){b.p, b.len});
    put_int(o, now >= k->trust_ms);
    put_int(o, CLAIM_MS);
    ask_end(o, 's', STR("nodes"), 0);
    buf_free(&b);
    op_sent(o);
}

static void
lease_timer_fired(struct timer *t)
{
    struct cluster *k = container_of(t, struct cluster, lease_timer);
    char text[MAX_CONV_KEY + 64];

    if (k->gone)
        return;
    if (redis_takes(k->redis, make_key(text, 's', STR("nodes"), "")))
        lease_renew(k);
    peers_tidy(k);
    loop_timer(k->jim->loop, t, loop_now(k->jim->loop) + RENEW_MS, lease_timer_fired);
}

/* --- ticks ------------------------------------------------------------------------------------ */

/* Some users who are connected here are registered again. */
static void
again_some(struct cluster *k)
{
    struct user *u = k->again;
    int left = k->fast ? AGAIN_FAST : AGAIN_SLOW;

    if (u != NULL) {
        u->pins--;
    } else if (k->fast || loop_now(k->jim->loop) >= k->again_ms) {
        k->again_ms = loop_now(k->jim->loop) + AGAIN_MS;
        u = k->chat->roster.made_users;
    }
    for (int looked = 0; u != NULL && left > 0 && looked < 10 * AGAIN_FAST; u = u->next, looked++)
        if (u->nconns > 0) {
            presence_again(k, u);
            left--;
        }
    k->again = u;
    if (u != NULL)
        u->pins++;
    else
        k->fast = false;
}

static bool
conv_is_here(const struct conv *v)
{
    if (v->group)
        return v->nonline > 0;
    for (uint32_t i = 0; i < v->nmembers; i++)
        if (v->member[i]->user->nconns > 0)
            return true;
    return false;
}

/* Some conversations are looked at: a last message that was lost on its way nobody would miss. */
static void
check_some(struct cluster *k)
{
    struct conv *v = k->check;
    int left = CHECKS;

    if (v != NULL) {
        v->pins--;
    } else if (loop_now(k->jim->loop) >= k->check_ms) {
        k->check_ms = loop_now(k->jim->loop) + CHECK_MS;
        v = k->chat->roster.made_convs;
    }
    for (int looked = 0; v != NULL && left > 0 && looked < 10 * CHECKS; v = v->next, looked++)
        if (v->far != NULL && conv_is_here(v)) {
            far_check(k, v);
            left--;
        }
    k->check = v;
    if (v != NULL)
        v->pins++;
}

static void
tick_fired(struct timer *t)
{
    struct cluster *k = container_of(t, struct cluster, tick);

    loop_timer(k->jim->loop, t, loop_now(k->jim->loop) + TICK_MS, tick_fired);
    if (k->gone)
        return;
    roster_sweep(&k->chat->roster, SWEEP, far_gone);
    if (!cluster_can(k))
        return;
    far_save(k, false);
    again_some(k);
    check_some(k);
    inbox_read(k);
}

void
cluster_turn(struct cluster *k)
{
    for (struct far_node *p = k->peers; p != NULL; p = p->next)
        peer_flush(k, p);
    redis_flush(k->redis);
    redis_flush(k->inbox);
}

/* --- start ------------------------------------------------------------------------------------ */

static void
redis_came(void *arg, struct redis *r)
{
    struct cluster *k = arg;

    if (r == k->inbox) {
        inbox_read(k);
        return;
    }
    log_write(k->chat->log, LOG_LEVEL_INFO, "cluster: Redis is there");
    k->trust_ms = loop_now(k->jim->loop) + TRUST_MS;
    if (k->leased && !k->gone) {
        if (k->again != NULL)
            k->again->pins--;
        k->again = NULL;
        k->fast = true; /* it may have forgotten what we had told it last */
    }
    if (!k->gone)
        lease_renew(k);
}

static void
redis_went(void *arg, struct redis *r, const char *why)
{
    struct cluster *k = arg;

    if (r == k->redis)
        log_write(k->chat->log, LOG_LEVEL_WARN, "cluster: %s is away: %s",
                  cluster_can(k) ? "a part of Redis" : "Redis", why);
}

int
cluster_check(const struct jim *j, char *err, size_t errsize)
{
    const struct options *o = &j->opt;

    if (!o->cluster)
        return 0;
    if (!j->program) {
        snprintf(err, errsize, "jim.cluster=on is for the program jim: an embedding program would "
                               "be told of this node alone");
        return -1;
    }
    if (!o->store) {
        snprintf(err, errsize, "jim.cluster=on keeps messages in Redis: jim.store=off cannot be "
                               "had with it");
        return -1;
    }
    if (o->keep_bytes > 0) {
        snprintf(err, errsize, "jim.store.keep.bytes is of one node's disk; with jim.cluster=on "
                               "use jim.store.keep.days");
        return -1;
    }
    if (!o->login_required) {
        snprintf(err, errsize, "jim.login.required=off cannot be had with jim.cluster=on: who has "
                               "no name cannot be found on another node");
        return -1;
    }
    return redis_check(o, err, errsize);
}

struct cluster *
cluster_new(struct jim *j)
{
    struct cluster *k = xcalloc(1, sizeof *k);
    struct redis_options o = {.opt = &j->opt, .loop = j->loop, .log = &j->log, .arg = k,
                              .up = redis_came, .down = redis_went};
    uint64_t random;
    char err[256];

    k->jim = j;
    k->chat = &j->chat;
    random_bytes(&random, sizeof random);
    snprintf(k->id, sizeof k->id, "%016llx", (unsigned long long)random);
    snprintf(k->last, sizeof k->last, "0-0");
    for (int i = 0; i < SCRIPTS; i++)
        redis_script_init(&k->script[i], far_script((enum far_script)i));
    if (j->opt.redis_tls && (k->tls = tls_client_new(j->opt.ca, err, sizeof err)) == NULL) {
        log_write(&j->log, LOG_LEVEL_ERROR, "%s", err);
        free(k);
        return NULL;
    }
    o.tls = k->tls;
    o.name = "jim";
    k->redis = redis_new(&o);
    o.name = "jim-inbox";
    k->inbox = redis_new(&o);
    loop_timer(j->loop, &k->tick, loop_now(j->loop) + TICK_MS, tick_fired);
    loop_timer(j->loop, &k->lease_timer, loop_now(j->loop) + RENEW_MS, lease_timer_fired);
    return k;
}

static void
stop_step(struct op *o)
{
    o->k->gone = true;
    op_end(o);
}

/* All users are off: this node was never there. */
static void
stop_lease(struct cluster *k)
{
    struct op *o = op_new(k, sizeof *o, NULL, stop_step, NULL);
    static const char *const suffix[] = {"", ":i", ":r"};

    k->leaving = true;
    for (int i = 0; i < 3; i++) {
        ask_plain(o, i == 1 ? "HDEL" : "ZREM", 2);
        put_key(o, 's', STR("nodes"), suffix[i]);
        put_arg(o, cluster_self(k));
        ask_end(o, 's', STR("nodes"), 0);
    }
    ask_plain(o, "DEL", 2);
    put_key(o, 'n', cluster_self(k), "");
    put_key(o, 'n', cluster_self(k), ":u");
    ask_end(o, 'n', cluster_self(k), 0);
    op_sent(o);
}

void
cluster_stop(struct cluster *k)
{
    if (k->stopping)
        return;
    k->stopping = true;
    k->stopped_ms = loop_now(k->jim->loop);
    far_save(k, true);
}

/* First what is on its way, then the lease. Redis may be away: then it ends by itself. */
bool
cluster_busy(struct cluster *k)
{
    if (!k->stopping || k->gone || !cluster_can(k) ||
        loop_now(k->jim->loop) - k->stopped_ms > k->chat->opt->drain_ms + 2000)
        return false;
    for (const struct op *o = k->ops; o != NULL; o = o->next)
        if (!o->quiet)
            return true;
    for (const struct far_node *p = k->peers; p != NULL; p = p->next)
        if (p->n > 0)
            return true;
    stop_lease(k);
    return true;
}

void
cluster_hint(struct cluster *k, struct conn *c)
{
    struct buf *b = answer_begin(k->chat, CODE_STOPPING, CMD_CLOSE);
    uint32_t random;

    random_bytes(&random, sizeof random);
    put_msg(b, CODE_STOPPING);
    json_put_key(b, "retryAfter");
    json_put_int(b, random % (k->chat->opt->drain_ms > 0 ? k->chat->opt->drain_ms : 1));
    answer_send(k->chat, c, CMD_CLOSE, 0);
}

void
cluster_free(struct cluster *k)
{
    if (k == NULL)
        return;
    k->stopping = k->gone = true;
    loop_timer_clear(k->jim->loop, &k->tick);
    loop_timer_clear(k->jim->loop, &k->lease_timer);
    loop_timer_clear(k->jim->loop, &k->gap_timer);
    for (struct conv *v = k->chat->roster.made_convs; v != NULL; v = v->next)
        far_unbase(k, v);
    redis_free(k->inbox);
    redis_free(k->redis); /* calls back every operation that waits for a reply */
    while (k->ops != NULL)
        op_end(k->ops); /* those that wait for a timer */
    while (k->peers != NULL) {
        struct far_node *p = k->peers;
        k->peers = p->next;
        buf_free(&p->pairs);
        free(p);
    }
    if (k->again != NULL)
        k->again->pins--;
    if (k->check != NULL)
        k->check->pins--;
    for (struct conv *v = k->chat->roster.made_convs; v != NULL; v = v->next)
        far_gone(v);
    tls_client_free(k->tls);
    free(k);
}

/* --- numbers ---------------------------------------------------------------------------------- */

struct nodes_op {
    struct op op;
    struct buf data;
};

static void
nodes_reply(struct op *o, uint32_t n, const struct redis_reply *r)
{
    struct buf *b = &container_of(o, struct nodes_op, op)->data;
    const struct redis_reply *e = redis_at(r, 0);

    (void)n;
    for (size_t i = 0; i + 2 < reply_count(r); i += 3) {
        const struct redis_reply *rest = redis_next(e), *info = redis_next(rest);
        struct str text = redis_text(info);
        if (!far_json(o->k, text) || !id_ok(redis_text(e))) {
            e = redis_next(info);
            continue;
        }
        json_put_comma(b);
        buf_add(b, "{", 1);
        json_put_key(b, "info");
        json_put_raw(b, text.p, text.n);
        json_put_key(b, "lease");
        json_put_int(b, redis_int(rest, 0));
        put_text(b, "node", redis_text(e));
        json_put_key(b, "self");
        json_put_raw(b, str_eq(redis_text(e), cluster_self(o->k)) ? "true" : "false",
                     str_eq(redis_text(e), cluster_self(o->k)) ? 4 : 5);
        buf_add(b, "}", 1);
        e = redis_next(info);
    }
}

#define AT(member) offsetof(struct cluster_stats, member)
static const struct count {
    const char *name; /* in /api/cluster; in /metrics jim_cluster_NAME_total */
    size_t at;
    const char *help;
} counts[] = {
    {"arrived", AT(arrived), "Messages from other nodes."},
    {"batches", AT(batches), "Entries written to other nodes' inboxes."},
    {"commands", AT(commands), "Commands to Redis."},
    {"doubles", AT(doubles), "Messages heard twice and shown once."},
    {"filled", AT(filled), "Messages that were missed and read from Redis."},
    {"gaps", AT(gaps), "Times a message came before an earlier one."},
    {"junk", AT(junk), "What Redis had that no node writes; not used."},
    {"lost", AT(lost), "Commands without a good reply."},
    {"reaped", AT(reaped), "Users taken off dead nodes."},
    {"retries", AT(retries), "Messages that had been sent before."},
    {"routed", AT(routed), "Messages and notices for other nodes."},
    {"sent", AT(sent), "Messages stored."},
    {"unsure", AT(unsure), "Sends of which Redis did not say what became of them."},
};
#define COUNTS (sizeof counts / sizeof counts[0])

static uint64_t
count_of(const struct cluster *k, const struct count *c)
{
    return *(const uint64_t *)(const void *)((const char *)&k->stats + c->at);
}

static void
put_counts(struct buf *b, const struct cluster *k)
{
    for (size_t i = 0; i < COUNTS; i++) {
        json_put_key(b, counts[i].name);
        json_put_int(b, (int64_t)count_of(k, &counts[i]));
    }
}

void
cluster_metrics(const struct cluster *k, struct buf *b)
{
    buf_printf(b, "# HELP jim_cluster_nodes Nodes whose lease holds.\n"
               "# TYPE jim_cluster_nodes gauge\njim_cluster_nodes %zu\n"
               "# HELP jim_cluster_up Can Redis be asked, and the lease be renewed?\n"
               "# TYPE jim_cluster_up gauge\njim_cluster_up %d\n", k->nnodes, cluster_up(k));
    for (size_t i = 0; i < COUNTS; i++)
        buf_printf(b, "# HELP jim_cluster_%s_total %s\n# TYPE jim_cluster_%s_total counter\n"
                   "jim_cluster_%s_total %llu\n", counts[i].name, counts[i].help, counts[i].name,
                   counts[i].name, (unsigned long long)count_of(k, &counts[i]));
}

static void
nodes_step(struct op *o)
{
    struct nodes_op *q = container_of(o, struct nodes_op, op);
    struct buf b = {0};

    buf_printf(&b, "{\"code\":%d,\"data\":{\"counts\":{", o->failed ? CODE_STORE : CODE_DONE);
    put_counts(&b, o->k);
    buf_printf(&b, "},\"nodes\":[");
    buf_add(&b, q->data.p, q->data.len);
    buf_printf(&b, "],\"redis\":\"%s\",\"self\":\"%s\"}", cluster_up(o->k) ? "up" : "away",
               o->k->id);
    put_msg(&b, o->failed ? CODE_STORE : CODE_DONE);
    buf_add(&b, "}", 1);
    api_sent(o->conn, o->failed ? CODE_STORE : CODE_DONE, b.p, b.len);
    buf_free(&b);
    buf_free(&q->data);
    op_end(o);
}

void
route_cluster(struct call *k)
{
    struct cluster *own = k->chat->cluster;

    if (own == NULL) {
        call_code(k, CODE_INVALID, 0);
        return;
    }
    call_later(k);
    struct op *o = op_of_command(own, sizeof(struct nodes_op), k->c, 0, nodes_reply, nodes_step,
                                 NULL);
    ask_script(o, SCRIPT_NODES, 3, 0);
    node_keys(o);
    ask_end(o, 's', STR("nodes"), 0);
    op_sent(o);
}
