/* SPDX-License-Identifier: MIT */
/*
 * cluster_send.c - the way of a message through a cluster. One script gives it its number and keeps
 * it; then it goes to the nodes where its receivers are, and is shown here, and only then its
 * sender is told. Each node shows a conversation's messages in the order of their numbers: what
 * comes too early waits, what does not come is read from the stream, what comes twice is dropped.
 *
 *   order      of a conversation, and what has come too early
 *   gaps       what is missing is read from the stream
 *   readers who fell behind, and get the rest from there
 *   answers    in the order a client has sent
 *   sending    a message to Redis, and what it says
 *   cursors    what has been delivered, told to Redis now and then
 */
#include "jim.h"

#include <assert.h>
#include <stdlib.h>

#define GAP_MS 40         /* how long a missing message may still come by itself */
#define FIRST_MS 1000     /* and at most, to say where a pair begins, while Redis is slow */
#define MAX_FILL 200      /* messages read at once to close a gap */
#define MAX_HELD 4096     /* messages of one conversation that wait for an earlier one */
#define MAX_WAY (64u << 20) /* bytes of messages on their way to Redis: then it is too slow */
#define SLOW_MS 250         /* and slow already when an answer takes as long as this */
#define SLOW_WAY 256        /* then so many may be on their way, and one of each connection */
#define MAX_CURSORS 2000  /* written at a time */
#define SAVE_TICKS 5

/* --- order ------------------------------------------------------------------------------------ */

struct held { /* a message that has come too early */
    struct held *next;
    uint64_t seq;
    struct pending p;
    struct far_send *sent; /* ours: answered once it is shown; NULL */
};

struct far { /* of a conversation */
    bool based;         /* conv->durable means something: messages come here */
    bool listed;        /* its receiver's list has it, as far as this node knows */
    bool filling;       /* what is missing is being read */
    uint64_t upto;      /* there are messages up to this number, as Redis has said */
    int64_t since_ms;   /* loop clock: when the gap was noticed */
    struct held *held;  /* owned, in order */
    size_t nheld;
    struct conv *next_gap, **gap_at; /* in cluster.gaps; gap_at NULL: not in it */
};

struct far_send { /* a message of one of our connections */
    struct op op;
    struct far_send *next; /* of the same connection, behind it; the last one's: the first */
    struct pending p;
    struct buf json;       /* as in struct far_draft; of a retry what was sent the first time */
    size_t way;            /* bytes counted in cluster.way */
    int64_t given_ms;
    size_t head, seq_at;
    bool online;           /* private: the receiver is */
    bool follows;          /* closely on the one before it */
    bool shown;            /* its turn here is over */
    bool done;             /* p.code is its answer */
    struct buf nodes;      /* where to: names, NUL-terminated */
    size_t nnodes;
};

static void sent_shown(struct far_send *s);
static void gap_timer_fired(struct timer *t);

static struct far *
far_get(struct conv *v)
{
    if (v->far == NULL)
        v->far = xcalloc(1, sizeof *v->far);
    return v->far;
}

static void
gap_open(struct cluster *k, struct conv *v)
{
    struct far *f = v->far;

    if (f->gap_at != NULL)
        return;
    f->since_ms = loop_now(k->jim->loop);
    f->next_gap = k->gaps;
    if (k->gaps != NULL)
        k->gaps->far->gap_at = &f->next_gap;
    f->gap_at = &k->gaps;
    k->gaps = v;
    v->pins++;
    if (k->gap_timer.slot == 0)
        loop_timer(k->jim->loop, &k->gap_timer, f->since_ms + GAP_MS, gap_timer_fired);
}

static void
gap_close(struct conv *v)
{
    struct far *f = v->far;

    if (f->gap_at == NULL)
        return;
    *f->gap_at = f->next_gap;
    if (f->next_gap != NULL)
        f->next_gap->far->gap_at = f->gap_at;
    f->gap_at = NULL;
    v->pins--;
}

/* Show what was waiting for `durable` to come this far. */
static void
held_drain(struct cluster *k, struct conv *v)
{
    struct far *f = v->far;

    while (f->held != NULL && f->held->seq <= v->durable + 1) {
        struct held *h = f->held;
        f->held = h->next;
        f->nheld--;
        if (h->seq == v->durable + 1) {
            deliver_far(k->chat, &h->p);
        } else {
            msg_unref(h->p.msg);
            k->stats.doubles++;
        }
        if (h->sent != NULL)
            sent_shown(h->sent);
        free(h);
    }
    if (f->held == NULL && f->upto <= v->durable)
        gap_close(v);
}

static void
hold(struct cluster *k, struct conv *v, const struct pending *p, struct far_send *sent)
{
    struct far *f = v->far;
    struct held **at = &f->held;

    while (*at != NULL && (*at)->seq < p->seq)
        at = &(*at)->next;
    if ((*at != NULL && (*at)->seq == p->seq && sent == NULL) || f->nheld >= MAX_HELD) {
        k->stats.doubles++; /* or it is read from the stream when its turn comes */
        msg_unref(p->msg);
        if (sent != NULL)
            sent_shown(sent);
        if (p->seq > f->upto)
            f->upto = p->seq;
        gap_open(k, v);
        return;
    }
    struct held *h = xcalloc(1, sizeof *h);
    h->seq = p->seq;
    h->p = *p;
    h->sent = sent;
    h->next = *at;
    *at = h;
    f->nheld++;
    if (f->gap_at == NULL && f->based)
        k->stats.gaps++;
    gap_open(k, v);
}

/* Messages of a pair come here from number `first` on. */
static void
pair_base(struct cluster *k, struct conv *v, uint64_t first)
{
    v->seq = v->durable = first - 1;
    v->far->based = true;
    held_drain(k, v);
}

/*
 * Message p->seq of p->conv has come, from wherever: show it when its turn is. Takes p->msg.
 *
 * The first that is heard of a pair while one of them is here says where to begin. When it follows
 * closely on another, that may still be on its way, from another node: it waits as if one were
 * missing, and if none comes, gap_timer_fired() begins with it. What comes later is for the offline
 * messages.
 */
static void
arrive(struct cluster *k, const struct pending *p, struct far_send *sent, bool follows)
{
    struct conv *v = p->conv;
    struct far *f = far_get(v);

    if (!f->based && !v->group) {
        if (follows && p->seq > 1) {
            hold(k, v, p, sent);
            return;
        }
        pair_base(k, v, f->held != NULL && f->held->seq < p->seq ? f->held->seq : p->seq);
    }
    if (f->based && p->seq > v->durable + 1) {
        hold(k, v, p, sent);
        return;
    }
    if (f->based && p->seq == v->durable + 1) {
        deliver_far(k->chat, p);
    } else { /* heard before, or nobody here wants to */
        k->stats.doubles += f->based;
        msg_unref(p->msg);
    }
    if (sent != NULL)
        sent_shown(sent);
    held_drain(k, v);
}

static bool
pair_is_here(const struct conv *v)
{
    for (uint32_t i = 0; i < v->nmembers; i++)
        if (v->member[i]->user->nconns > 0)
            return true;
    return false;
}

bool
far_wanted(const struct conv *v)
{
    if (v->group && v->nonline > 0)
        return true;
    for (uint32_t i = 0; i < v->nmembers; i++)
        if (v->member[i]->user->nconns + v->member[i]->user->coming > 0)
            return true;
    return false;
}

/* The other one of a pair; oneself in notes. */
static struct user *
peer_of(const struct conv *v, const struct user *u)
{
    for (uint32_t i = 0; i < v->nmembers; i++)
        if (v->member[i]->user != u)
            return v->member[i]->user;
    return v->member[0]->user;
}

void
far_heard(struct cluster *k, struct conv *v, uint64_t seq, struct str from, struct str chat,
          bool follows)
{
    struct pending p = {.kind = PENDING_FAR, .conv = v, .seq = seq};
    struct buf *b = &k->chat->out;

    if (v->group ? v->far == NULL || !v->far->based : !pair_is_here(v))
        return;
    if (!id_ok(from) || !far_json(k, chat))
        return;
    p.from = v->group ? user_get(&k->chat->roster, from) : user_find(&k->chat->roster, from);
    if (!v->group && (p.from == NULL || member_of(&k->chat->roster, p.from, v) == NULL)) {
        far_junk(k, "a message of somebody else", from);
        return;
    }
    p.to = v->group ? NULL : peer_of(v, p.from);
    b->len = 0;
    buf_lit(b, "{\"command\":11,\"data\":");
    buf_str(b, chat);
    buf_lit(b, "}");
    p.msg = msg_take(k->chat->msgs, CMD_CHAT, 0, b->p, b->len);
    p.msg->chat_seq = seq;
    msg_hold(p.msg, &k->jim->bounds.held);
    arrive(k, &p, NULL, follows);
}

void
far_base(struct cluster *k, struct conv *v, uint64_t seq)
{
    struct far *f = far_get(v);

    if (!f->based) {
        f->based = true;
        v->seq = v->durable = seq;
        held_drain(k, v);
    } else if (seq > v->durable && seq > f->upto) {
        f->upto = seq;
        gap_open(k, v);
    }
}

void
far_unbase(struct cluster *k, struct conv *v)
{
    struct far *f = v->far;

    if (f == NULL || (!f->based && f->held == NULL))
        return;
    f->based = false;
    f->upto = 0;
    while (f->held != NULL) {
        struct held *h = f->held;
        f->held = h->next;
        msg_unref(h->p.msg);
        if (h->sent != NULL)
            sent_shown(h->sent);
        free(h);
    }
    f->nheld = 0;
    gap_close(v);
    (void)k;
}

void
far_gone(struct conv *v)
{
    struct far *f = v->far;

    if (f == NULL)
        return;
    assert(f->held == NULL && f->gap_at == NULL);
    free(f);
    v->far = NULL;
}

/* --- gaps ------------------------------------------------------------------------------------- */

struct fill_op {
    struct op op;
    struct conv *conv; /* pinned */
    uint64_t to;
    size_t got;
};

static void
fill_free(struct op *o)
{
    container_of(o, struct fill_op, op)->conv->pins--;
}

/* The number in an entry's id. */
static bool
entry_number(const struct redis_reply *entry, uint64_t *seq)
{
    struct str id = redis_text(redis_at(entry, 0)), part;

    return str_split(&id, '-', &part) && far_number(part, seq);
}

static void
fill_reply(struct op *o, uint32_t n, const struct redis_reply *r)
{
    struct fill_op *q = container_of(o, struct fill_op, op);
    struct conv *v = q->conv;
    const struct redis_reply *e = redis_at(r, 0);

    (void)n;
    for (size_t i = 0; i < reply_count(r); i++, e = redis_next(e)) {
        const struct redis_reply *fields = redis_at(e, 1);
        uint64_t seq;
        if (!v->far->based)
            continue;
        if (!entry_number(e, &seq) || seq > q->to) {
            far_junk(o->k, "an entry's id", redis_text(redis_at(e, 0)));
            continue;
        }
        q->got++;
        if (seq > v->durable + 1 && (v->far->held == NULL || seq < v->far->held->seq))
            v->seq = v->durable = seq - 1; /* retention has taken what was before */
        o->k->stats.filled += seq == v->durable + 1;
        far_heard(o->k, v, seq, redis_text(redis_at(fields, 5)), redis_text(redis_at(fields, 7)),
                  false);
    }
}

static void
fill_step(struct op *o)
{
    struct fill_op *q = container_of(o, struct fill_op, op);
    struct conv *v = q->conv;
    struct far *f = v->far;

    f->filling = false;
    if (!o->failed && f->based && v->durable < q->to && q->got < MAX_FILL) {
        v->seq = v->durable = q->to; /* the stream has no more of them */
        held_drain(o->k, v);
    } else if (f->based) {
        held_drain(o->k, v);
    }
    f->since_ms = loop_now(o->k->jim->loop);
    op_end(o);
}

void
ask_messages(struct op *o, struct str conv, uint64_t from, uint64_t to, int64_t count)
{
    char text[32];

    ask_plain(o, "XRANGE", 5);
    put_key(o, 'c', conv, "");
    snprintf(text, sizeof text, "%llu-0", (unsigned long long)from);
    put_arg(o, str_of(text));
    snprintf(text, sizeof text, "%llu-0", (unsigned long long)to);
    put_arg(o, str_of(to > 0 ? text : "+"));
    put_arg(o, STR("COUNT"));
    put_int(o, count);
    ask_end(o, 'c', conv, 0);
}

/* Read what is between the last that was shown and the first that waits. */
static void
fill(struct cluster *k, struct conv *v)
{
    struct far *f = v->far;
    uint64_t to = f->held != NULL ? f->held->seq - 1 : f->upto;

    if (to <= v->durable) {
        held_drain(k, v);
        return;
    }
    struct op *o = op_new(k, sizeof(struct fill_op), fill_reply, fill_step, fill_free);
    struct fill_op *q = container_of(o, struct fill_op, op);
    o->quiet = true;
    q->conv = v;
    q->to = to;
    v->pins++;
    f->filling = true;
    ask_messages(o, conv_key(v), v->durable + 1, to, MAX_FILL);
    op_sent(o);
}

/* A gap is read up when it does not close by itself. A pair that waits where to begin does so now:
 * nothing can be read up there, for what was before is not known, so a slow Redis has longer. */
static void
gap_timer_fired(struct timer *t)
{
    struct cluster *k = container_of(t, struct cluster, gap_timer);
    int64_t now = loop_now(k->jim->loop), first_ms = GAP_MS + 2 * k->lag_ms;

    if (first_ms > FIRST_MS)
        first_ms = FIRST_MS;
    for (struct conv *v = k->gaps, *after; v != NULL; v = after) {
        struct far *f = v->far;
        int64_t waited = now - f->since_ms;
        after = f->next_gap; /* nothing here calls back: the gap of v is closed, or none */
        if (!f->based && waited >= first_ms)
            pair_base(k, v, f->held->seq);
        else if (f->based && waited >= GAP_MS && !f->filling && cluster_can(k))
            fill(k, v);
    }
    if (k->gaps != NULL)
        loop_timer(k->jim->loop, t, now + GAP_MS, gap_timer_fired);
}

struct check_op {
    struct op op;
    struct conv *conv; /* pinned */
};

static void
check_free(struct op *o)
{
    container_of(o, struct check_op, op)->conv->pins--;
}

static void
check_reply(struct op *o, uint32_t n, const struct redis_reply *r)
{
    struct conv *v = container_of(o, struct check_op, op)->conv;
    int64_t seq = redis_int(r, 0);

    (void)n;
    if (v->far != NULL && v->far->based && seq > 0 && seq <= MAX_SEQ)
        far_base(o->k, v, (uint64_t)seq);
}

int64_t
far_keep_since(const struct chat *c)
{
    return c->opt->keep_days > 0 ? c->now_ms() - c->opt->keep_days * 86400000 : 0;
}

void
far_check(struct cluster *k, struct conv *v)
{
    struct str key = conv_key(v);

    if (v->far == NULL || !v->far->based || v->far->gap_at != NULL)
        return;
    struct op *o = op_new(k, sizeof(struct check_op), check_reply, op_end, check_free);
    struct check_op *q = container_of(o, struct check_op, op);
    o->quiet = true;
    q->conv = v;
    v->pins++;
    ask_script(o, SCRIPT_CHECK, 2, 1);
    put_key(o, 'c', key, "");
    put_key(o, 'c', key, ":g");
    put_int(o, far_keep_since(k->chat));
    ask_end(o, 'c', key, 0);
    op_sent(o);
}

/* --- readers who fell behind ------------------------------------------------------------------ */

#define MAX_BEHIND 64 /* messages read at once for one connection */

struct behind_op {
    struct op op;
    struct member *member; /* his, and he is connected */
    uint64_t next;         /* behind the last that came */
    struct timer again;    /* Redis was away */
};

static void
behind_free(struct op *o)
{
    loop_timer_clear(o->k->jim->loop, &container_of(o, struct behind_op, op)->again);
}

static void
behind_end(struct behind_op *q)
{
    if (op_alive(&q->op))
        conn_caught_up(q->op.conn, q->member, NULL, q->next);
    op_end(&q->op);
}

static void
behind_timer(struct timer *t)
{
    behind_end(container_of(t, struct behind_op, again));
}

static void
behind_reply(struct op *o, uint32_t n, const struct redis_reply *r)
{
    struct behind_op *q = container_of(o, struct behind_op, op);
    const struct redis_reply *e = redis_at(r, 0);
    struct chat *c = o->k->chat;
    uint64_t told = deliver_told(q->member);

    (void)n;
    if (!op_alive(o))
        return;
    for (size_t i = 0; i < reply_count(r); i++, e = redis_next(e)) {
        struct str chat = redis_text(redis_at(redis_at(e, 1), 7));
        uint64_t seq;
        if (!entry_number(e, &seq)) {
            far_junk(o->k, "an entry's id", redis_text(redis_at(e, 0)));
            continue;
        }
        if (seq > told)
            break; /* it comes live */
        q->next = seq + 1;
        if (!far_json(o->k, chat))
            continue;
        c->out.len = 0;
        buf_lit(&c->out, "{\"command\":11,\"data\":");
        buf_str(&c->out, chat);
        buf_lit(&c->out, "}");
        struct msg *m = msg_new(CMD_CHAT, 0, c->out.p, c->out.len);
        m->chat_seq = seq;
        conn_caught_up(o->conn, q->member, m, 0);
        msg_unref(m);
    }
    if (q->next == 0) /* retention was faster, or there is nothing but junk */
        q->next = told + 1;
}

static void
behind_step(struct op *o)
{
    struct behind_op *q = container_of(o, struct behind_op, op);

    if (o->failed && !o->k->gone)
        loop_timer(o->k->jim->loop, &q->again, loop_now(o->k->jim->loop) + 500, behind_timer);
    else
        behind_end(q);
}

bool
cluster_read(struct cluster *k, struct conn *c, struct member *m, uint64_t seq)
{
    if (k->gone)
        return false;
    struct op *o = op_new(k, sizeof(struct behind_op), behind_reply, behind_step,
                          behind_free);
    struct behind_op *q = container_of(o, struct behind_op, op);
    q->member = m;
    o->conn = c;
    c->deferred++;
    ask_messages(o, conv_key(m->conv), seq, 0, MAX_BEHIND);
    op_sent(o);
    return true;
}

/* --- answers ---------------------------------------------------------------------------------- */

static void
sent_free(struct op *o)
{
    struct far_send *s = container_of(o, struct far_send, op);

    o->k->way -= s->way;
    o->k->nway--;
    s->p.conv->pins--;
    s->p.from->pins--;
    if (s->p.to != NULL)
        s->p.to->pins--;
    buf_free(&s->json);
    buf_free(&s->nodes);
}

/* The answers that are known, up to the first that is not. */
static void
answers(struct conn *c)
{
    while (c->sends != NULL) {
        struct far_send *s = c->sends->next;
        if (!s->done || !s->shown)
            return;
        if (c->sends == s)
            c->sends = NULL;
        else
            c->sends->next = s->next;
        struct chat *chat = s->op.k->chat;
        struct pending p = s->p;
        op_end(&s->op);
        deliver_answer(chat, &p);
    }
}

static void
sent_shown(struct far_send *s)
{
    s->shown = true;
    answers(s->p.conn);
}

/* Refused, or nobody knows: there is nothing to be shown. */
static void
sent_refused(struct far_send *s, int code)
{
    s->p.code = send_refused(s->op.k->chat, code);
    s->p.msg = msg_new(0, 0, s->json.p, s->json.len);
    msg_hold(s->p.msg, &s->op.k->jim->bounds.held);
    s->done = s->shown = true;
    answers(s->p.conn);
}

/* --- sending ---------------------------------------------------------------------------------- */

static void
add_nodes(struct far_send *s, const struct redis_reply *r, size_t first)
{
    const struct redis_reply *e = redis_at(r, first);

    for (size_t i = first; i < reply_count(r); i++, e = redis_next(e)) {
        struct str node = redis_text(e);
        const char *p = s->nodes.p;
        size_t known = 0;
        while (known < s->nnodes && !str_eq(str_of(p), node)) {
            p += str_of(p).n + 1;
            known++;
        }
        if (known < s->nnodes && !s->p.conv->group)
            continue; /* sender and receiver on the same */
        buf_str(&s->nodes, node);
        buf_add(&s->nodes, "", 1);
        s->nnodes++;
    }
}

/* Is it a chat that a node has written? Its answer needs the id. */
static bool
has_id(struct cluster *k, struct str chat)
{
    struct request r;

    if (request_parse(&r, chat) && r.f[F_ID].type == JSON_STRING)
        return true;
    far_junk(k, "a chat", chat);
    return false;
}

/* 0: the script; 1: where the receiver is; 2: where the sender is. */
static void
sent_reply(struct op *o, uint32_t n, const struct redis_reply *r)
{
    struct far_send *s = container_of(o, struct far_send, op);

    if (n == 1)
        s->online = reply_count(r) > 0;
    if (n == 1 || n == 2)
        add_nodes(s, r, 0);
    if (n != 0)
        return;
    int64_t code = redis_int(redis_at(r, 0), 0), seq = redis_int(redis_at(r, 1), 0);
    if (code != CODE_SENT ? code != CODE_FORBIDDEN && code != CODE_NO_GROUP
                          : seq <= 0 || seq > MAX_SEQ) {
        far_junk(o->k, "a reply to a message", redis_text(r));
        o->failed = true;
        return;
    }
    s->p.code = (int)code;
    if (code != CODE_SENT)
        return;
    s->p.seq = (uint64_t)seq;
    s->p.create_ms = redis_int(redis_at(r, 2), 0);
    if (redis_int(redis_at(r, 3), 0) == 1) { /* what it said the first time is what counts */
        struct str first = redis_text(redis_at(r, 4));
        if (first.n > 0 && !has_id(o->k, first))
            first.n = 0;
        o->k->stats.retries++;
        o->k->chat->stats->retries++;
        s->json.len = first.n == 0 ? s->json.len : s->head;
        s->seq_at = 0;
        buf_str(&s->json, first);
        if (first.n == 0) /* and retention has taken it: only the answer is left to be given */
            s->head = 0;
    }
    s->follows = redis_int(redis_at(r, 5), 0) == 1;
    if (s->p.conv->group)
        add_nodes(s, r, 6);
}

/* The chat with its number in it, as it is delivered: s->p.msg. */
static void
sent_encode(struct far_send *s)
{
    struct chat *c = s->op.k->chat;
    struct buf *b = &c->out;
    char text[24];
    int n = snprintf(text, sizeof text, "%llu", (unsigned long long)s->p.seq);

    b->len = 0;
    if (s->seq_at > 0) {
        buf_add(b, s->json.p, s->seq_at);
        buf_add(b, text, (size_t)n);
        buf_add(b, s->json.p + s->seq_at + 1, s->json.len - s->seq_at - 1);
    } else {
        buf_add(b, s->json.p, s->json.len);
    }
    buf_lit(b, "}");
    s->p.msg = msg_take(c->msgs, CMD_CHAT, 0, b->p, b->len);
    s->p.msg->chat_seq = s->p.seq;
    msg_hold(s->p.msg, &s->op.k->jim->bounds.held);
}

/* To the other nodes where somebody is who should have it. */
static void
sent_route(struct far_send *s)
{
    struct cluster *k = s->op.k;
    char head[MAX_CONV_KEY + 3 * MAX_ID + 32], from[3 * MAX_ID];
    struct str key = conv_key(s->p.conv), sender = user_key(user_id(s->p.from), from);
    const char *p = s->nodes.p;
    int n = snprintf(head, sizeof head, "m %.*s %llu %.*s%s", (int)key.n, key.p,
                     (unsigned long long)s->p.seq, (int)sender.n, sender.p,
                     s->follows && s->p.to != NULL ? " +" : "");
    struct str chat = {s->p.msg->data + s->head, s->p.msg->len - s->head - 1};

    for (size_t i = 0; i < s->nnodes; i++) {
        struct str node = str_of(p);
        far_route(k, node, (struct str){head, (size_t)n}, chat);
        p += node.n + 1;
    }
}

/* Where the id stands in what was sent the first time. */
static void
sent_find_id(struct far_send *s)
{
    struct request r;
    struct str chat = {s->p.msg->data + s->head, s->p.msg->len - s->head - 1};

    if (s->seq_at == 0 && s->head > 0 && request_parse(&r, chat) &&
        r.f[F_ID].type == JSON_STRING) {
        s->p.id_at = (uint32_t)(r.f[F_ID].p - s->p.msg->data - 1);
        s->p.id_len = r.f[F_ID].n + 2;
    }
}

static void
sent_step(struct op *o)
{
    struct far_send *s = container_of(o, struct far_send, op);
    struct conv *v = s->p.conv;

    o->k->answered_ms = loop_now(o->k->jim->loop);
    o->k->lag_ms = o->k->answered_ms - s->given_ms;
    if (o->failed) {
        o->k->stats.unsure++;
        if (v->far != NULL)
            v->far->listed = false;
        sent_refused(s, CODE_STORE);
        return;
    }
    if (s->p.code != CODE_SENT) {
        sent_refused(s, s->p.code);
        return;
    }
    if (s->seq_at > 0) {
        o->k->stats.sent++;
        o->k->chat->stats->messages++;
    }
    if (!v->group)
        far_get(v)->listed = true;
    sent_encode(s);
    sent_find_id(s);
    if (s->p.to != NULL && !s->online)
        s->p.code = CODE_OFFLINE;
    s->done = true;
    if (s->head > 0)
        sent_route(s);
    struct pending p = s->p;
    p.kind = PENDING_FAR;
    p.fan = NULL;
    if (s->head == 0 || (v->group ? v->far == NULL || !v->far->based : !pair_is_here(v))) {
        sent_shown(s);
        return;
    }
    p.msg->refs++;
    arrive(o->k, &p, s, s->follows);
}

static void
ask_send(struct far_send *s, const struct far_draft *d)
{
    struct op *o = &s->op;
    const struct pending *p = &d->p;
    struct str key = conv_key(p->conv);
    char flags[8], from[3 * MAX_ID], suffix[3 * MAX_ID + 6 * MAX_MESSAGE_ID + 8];
    struct str sender = user_key(user_id(p->from), from), chat = d->json;
    size_t n = 0;

    if (p->conv->group) {
        flags[n++] = 'g';
        if (!d->api && !o->k->chat->opt->group_open)
            flags[n++] = 'm';
        if (!d->api && o->k->chat->opt->group_open)
            flags[n++] = 'c';
    }
    if (d->id.n > 0)
        flags[n++] = 'r';
    snprintf(suffix, sizeof suffix, ":i:%.*s:%.*s", (int)sender.n, sender.p, (int)d->id.n,
             d->id.p);
    ask_script(o, SCRIPT_SEND, 5, 8);
    put_key(o, 'c', key, "");
    put_key(o, 'c', key, ":g");
    put_key(o, 'c', key, p->conv->group ? ":m" : ":d");
    put_key(o, 'c', key, ":n");
    put_key(o, 'c', key, suffix);
    put_arg(o, user_id(p->from));
    put_int(o, d->now_ms);
    put_int(o, p->create_ms);
    put_arg(o, (struct str){chat.p + d->head, d->seq_at - d->head});
    put_arg(o, (struct str){chat.p + d->seq_at + 1, chat.n - d->seq_at - 1});
    put_arg(o, (struct str){flags, n});
    put_int(o, far_keep_since(o->k->chat));
    put_arg(o, p->to != NULL ? user_id(p->to) : STR(""));
    ask_wait(o);
    ask_end(o, 'c', key, 0);
}

/* One of a pair: that he has this conversation, for what looks for all of his (an export, and what
 * waits for him); and on which nodes he is. */
static void
ask_half(struct op *o, const struct user *u, struct conv *v, uint32_t n)
{
    char text[3 * MAX_ID];
    struct str id = user_key(user_id(u), text);

    if (!far_get(v)->listed) {
        ask_plain(o, "SADD", 2);
        put_key(o, 'u', id, ":p");
        put_arg(o, conv_key(v));
        ask_end(o, 'u', id, 3);
    }
    ask_plain(o, "HKEYS", 1);
    put_key(o, 'u', id, ":n");
    ask_end(o, 'u', id, n);
}

/* The receiver's list is written before the message: the other way round, a node that dies in
 * between would leave a message that nobody finds. */
static void
ask_pair(struct op *o, const struct pending *p)
{
    ask_half(o, p->to, p->conv, 1);
    if (p->from != p->to)
        ask_half(o, p->from, p->conv, 2);
}

/* Nothing of a private message is done when a part of it cannot be. */
static bool
pair_taken(const struct cluster *k, const struct pending *p)
{
    char text[3 * MAX_ID];

    return redis_is_up(k->redis) ||
           (cluster_takes(k, 'u', user_key(user_id(p->to), text)) &&
            cluster_takes(k, 'u', user_key(user_id(p->from), text)));
}

/* How long the last answer took does not tell when there is none. */
bool
cluster_slow(const struct cluster *k)
{
    return k->nway >= SLOW_WAY && (k->lag_ms > SLOW_MS ||
                                   loop_now(k->jim->loop) - k->answered_ms > SLOW_MS);
}

int
cluster_send(struct cluster *k, const struct far_draft *d)
{
    const struct pending *p = &d->p;
    struct conn *c = p->conn;
    struct far_send *s;

    if (!cluster_takes(k, 'c', conv_key(p->conv)) || k->way + d->json.n > MAX_WAY ||
        (p->to != NULL && !pair_taken(k, p)))
        return CODE_STORE;
    s = container_of(op_new(k, sizeof *s, sent_reply, sent_step, sent_free), struct far_send, op);
    s->p = *p;
    s->p.kind = PENDING_ACK;
    s->p.code = CODE_STORE;
    buf_str(&s->json, d->json);
    s->head = d->head;
    s->seq_at = d->seq_at;
    s->way = d->json.n;
    k->way += s->way;
    s->given_ms = loop_now(k->jim->loop);
    if (k->nway++ == 0) { /* the time in which nobody has asked does not count */
        k->answered_ms = s->given_ms;
        k->lag_ms = 0;
    }
    p->conv->pins++;
    p->from->pins++;
    if (p->to != NULL)
        p->to->pins++;
    if (c->sends == NULL) {
        s->next = s;
    } else {
        s->next = c->sends->next;
        c->sends->next = s;
    }
    c->sends = s;
    if (p->to != NULL)
        ask_pair(&s->op, &s->p);
    ask_send(s, d);
    op_sent(&s->op);
    return 0;
}

/* --- cursors ---------------------------------------------------------------------------------- */

struct cursor_op { /* written again when it is lost: it is the member's that is dirty */
    struct op op;
    struct user *user; /* pinned, as is its conversation */
    struct conv *conv;
    uint64_t cursor, lo, hi;
};

static void
cursor_free(struct op *o)
{
    struct cursor_op *q = container_of(o, struct cursor_op, op);

    q->user->pins--;
    q->conv->pins--;
}

static void cursor_ask(struct cursor_op *q);

static void
cursor_step(struct op *o)
{
    struct cursor_op *q = container_of(o, struct cursor_op, op);
    struct member *m = member_of(&o->k->chat->roster, q->user, q->conv);

    if (o->failed && m != NULL && !m->left && !o->k->gone && !m->dirty) {
        m->dirty = true;
        m->next_dirty = o->k->chat->roster.dirty;
        o->k->chat->roster.dirty = m;
    }
    op_end(o);
}

static void
cursor_ask(struct cursor_op *q)
{
    struct op *o = &q->op;
    struct str key = conv_key(q->conv);

    ask_script(o, SCRIPT_DELIVERED, 2, 5);
    put_key(o, 'c', key, ":d");
    put_key(o, 'c', key, ":m");
    put_arg(o, user_id(q->user));
    put_int(o, (int64_t)q->cursor);
    put_int(o, (int64_t)q->lo);
    put_int(o, (int64_t)q->hi);
    put_int(o, q->conv->group);
    ask_end(o, 'c', key, 0);
    op_sent(o);
}

static void
cursor_write(struct cluster *k, struct member *m)
{
    struct op *o = op_new(k, sizeof(struct cursor_op), NULL, cursor_step, cursor_free);
    struct cursor_op *q = container_of(o, struct cursor_op, op);

    q->user = m->user;
    q->conv = m->conv;
    q->user->pins++;
    q->conv->pins++;
    q->cursor = m->cursor;
    q->lo = m->live_lo;
    q->hi = m->live_hi;
    cursor_ask(q);
}

void
far_save_user(struct cluster *k, const struct user *u)
{
    for (struct member *m = u->members; m != NULL; m = m->next_of_user)
        if (m->dirty && !m->left)
            cursor_write(k, m); /* and once more with all the others */
}

void
far_save(struct cluster *k, bool all)
{
    struct roster *r = &k->chat->roster;

    if (!all && ++k->ticks % SAVE_TICKS != 0)
        return;
    for (size_t n = 0; r->dirty != NULL && (all || n < MAX_CURSORS); n++) {
        struct member *m = r->dirty;
        r->dirty = m->next_dirty;
        m->dirty = false;
        if (!m->left)
            cursor_write(k, m);
    }
}
