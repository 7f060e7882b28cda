/* SPDX-License-Identifier: MIT */
/*
 * deliver.c - the second half of a message's way: what is safe on disk goes to its receivers, and
 * is acknowledged to its sender. Hop 7 of the README's eight. A message is never shown or
 * acknowledged before store_durable() says that it is safe.
 *
 *   delivery   from the queue to the receivers, then to the sender
 *   fan-outs   the same for large groups, a share of the members at a time
 *   left       what follows when it has been written to a receiver
 */
#include "jim.h"

#include <string.h>

/* --- delivery --------------------------------------------------------------------------------- */

/* Returns how many connections it went to, and one: the work it was. */
static uint32_t
send_to_user(const struct user *u, struct msg *m, struct member *member, const struct conn *but)
{
    uint32_t n = 1;

    for (struct conn *o = u->conns; o != NULL; o = o->next_of_user)
        if (o != but) {
            conn_send(o, m, member);
            n++;
        }
    return n;
}

static uint32_t
deliver_message(struct chat *c, const struct pending *p)
{
    struct conv *v = p->conv;
    uint32_t n = 0;

    if (p->to == NULL) {
        for (uint32_t i = 0; i < v->nonline; i++)
            n += send_to_user(v->member[i]->user, p->msg, v->member[i], NULL);
        return n;
    }
    n = send_to_user(p->to, p->msg, member_of_pair(v, p->to), NULL);
    if (p->from != p->to) {
        struct member *sender = member_of_pair(v, p->from);
        send_to_user(p->from, p->msg, sender, p->conn);
        if (p->kind != PENDING_FAR || p->from->nconns > 0) /* one need not be told what one said */
            member_delivered(&c->roster, sender, p->seq);
    }
    return n;
}

/* "data":{"createTime":…,"id":…,"seq":…}: there is room for all of it, and for some bytes more. */
static char *
put_accepted(struct chat *c, char *to, const struct pending *p)
{
    to = digits_at(&c->time, at_lit(to, "\"data\":{\"createTime\":"), p->create_ms);
    to = at_lit(to, ",\"id\":");
    memcpy(to, p->msg->data + p->id_at, p->id_len);
    to = digits_at(&c->seq, at_lit(to + p->id_len, ",\"seq\":"), (int64_t)p->seq);
    return at_lit(to, "}");
}

/* The usual answer, written where it is to leave from. */
#define SENT_FRONT "{\"code\":10000,\"command\":12,"
#define SENT_NAMES "\"data\":{\"createTime\":,\"id\":,\"seq\":}"
#define SENT_BACK ",\"msg\":\"" TEXT_SENT "\"}"
_Static_assert(sizeof SENT_BACK > JSON_INT_ROOM, "digits_at() may write that far");

static void
acknowledge_sent(struct chat *c, const struct pending *p)
{
    size_t n = sizeof SENT_FRONT SENT_NAMES SENT_BACK - 1 + digits_of(&c->time, p->create_ms) +
               p->id_len + digits_of(&c->seq, (int64_t)p->seq);
    char *to = conn_reply_room(p->conn, CMD_CHAT_RESP, p->reply_seq, n);

    if (to != NULL)
        (void)at_lit(put_accepted(c, at_lit(to, SENT_FRONT), p), SENT_BACK);
}

/* Tell its sender what a pending message has come to. */
static void
acknowledge(struct chat *c, const struct pending *p, int code)
{
    struct buf *b = &c->out;
    unsigned proto = p->conn->proto;

    if (p->fan != NULL) {
        send_fan_result(c, p, code);
    } else if (code == CODE_SENT && (proto == PROTO_TCP || proto == PROTO_WS)) {
        acknowledge_sent(c, p);
    } else {
        b->len = 0;
        put_answer(b, code, CMD_CHAT_RESP);
        if (code == CODE_SENT || code == CODE_OFFLINE) {
            buf_lit(b, ",");
            buf_reserve(b, sizeof SENT_NAMES + 2 * JSON_INT_ROOM + p->id_len);
            b->len = (size_t)(put_accepted(c, b->p + b->len, p) - b->p);
        }
        put_msg(b, code);
        if (proto == PROTO_HTTP) {
            buf_add(b, "}", 1);
            api_sent(p->conn, code, b->p, b->len);
        } else {
            answer_send(c, p->conn, CMD_CHAT_RESP, p->reply_seq);
        }
    }
    conn_answered(p->conn);
}

/* What a call of the API asked for is on disk; or was lost, and the caller had better ask again. */
static void
call_done(const struct pending *p, bool safe)
{
    api_done(p->conn, safe ? p->code : CODE_STORE, p->conv);
    conn_answered(p->conn);
}

/* Its receivers have it: now its sender hears of it. */
static void
deliver_end(struct chat *c, const struct pending *p)
{
    if (p->kind == PENDING_ACK)
        acknowledge(c, p, p->code);
    else if (p->kind != PENDING_FAR)
        acknowledge(c, p, p->to != NULL && p->to->nconns == 0 ? CODE_OFFLINE : CODE_SENT);
    msg_unref(p->msg);
}

static void wave_push(struct chat *c, const struct pending *p);

/*
 * What is durable goes out: at once, or as a fan-out of its own when the group is large, or when it
 * has to stay behind one: in its conversation, or in the answers to its sender. Returns the work.
 */
uint32_t
deliver(struct chat *c, const struct pending *p)
{
    struct conv *v = p->conv;
    uint32_t n = 1;

    if (p->kind >= PENDING_STATE) { /* none of what comes behind PENDING_CALL comes here */
        if (p->kind == PENDING_CHANGE)
            group_changed(c, p);
        else if (p->kind == PENDING_CALL)
            call_done(p, true);
        return p->kind == PENDING_CHANGE;
    }
    if (p->kind == PENDING_SEND) {
        c->stats->messages++;
        v->durable = p->seq;
    }
    bool large = p->kind == PENDING_SEND && p->to == NULL && v->nonline > DELIVER_DIRECT;
    if (large || p->conn->waves > 0 || (p->kind == PENDING_SEND && v->waves > 0)) {
        wave_push(c, p);
        if (p->kind == PENDING_SEND && c->hooks != NULL)
            extend_stored(c, p);
        return n;
    }
    if (p->kind == PENDING_SEND)
        n += deliver_message(c, p);
    if (p->kind == PENDING_SEND && c->hooks != NULL)
        extend_stored(c, p);
    deliver_end(c, p);
    return n;
}

void
deliver_far(struct chat *c, const struct pending *p)
{
    struct conv *v = p->conv;

    v->seq = v->durable = p->seq;
    if ((p->to == NULL && v->nonline > DELIVER_DIRECT) || v->waves > 0 ||
        (p->conn != NULL && p->conn->waves > 0)) {
        wave_push(c, p);
        return;
    }
    deliver_message(c, p);
    deliver_end(c, p);
}

void
deliver_answer(struct chat *c, const struct pending *p)
{
    if (p->conn->waves > 0)
        wave_push(c, p);
    else
        deliver_end(c, p);
}

/* The batch is gone: nobody has seen its messages, and their numbers are free again. */
static void
lost(struct chat *c, struct pending *p)
{
    struct conv *v = p->conv;

    if (p->kind == PENDING_STATE) {
        record_lost(c, p);
        return;
    }
    if (p->kind == PENDING_CHANGE) {
        group_unchanged(c, p);
        return;
    }
    if (p->kind == PENDING_CALL) {
        call_done(p, false);
        return;
    }
    if (p->kind == PENDING_SEND && v->seq > v->durable) {
        v->seq = v->durable;
        store_index_cut(&v->index, v->durable);
        retry_forget(&c->retries, v, v->durable);
    }
    if (p->kind == PENDING_RETRY && p->seq <= v->durable) {
        deliver(c, p); /* what it repeats is safe; only its turn came behind what is lost */
        return;
    }
    acknowledge(c, p, send_refused(c, CODE_STORE));
    msg_unref(p->msg);
}

void
deliver_forget(const struct pending *p)
{
    if (p->fan != NULL)
        send_fan_forget(p->fan);
    if (p->msg != NULL)
        msg_unref(p->msg);
    if (p->conn != NULL)
        conn_answered(p->conn);
}

void
deliver_after(struct chat *c, struct conn *conn, int code, struct conv *v)
{
    if (c->pending_n == 0) {
        api_done(conn, code, v);
        return;
    }
    struct pending p = {.number = pending_last(c), .kind = PENDING_CALL, .code = code,
                        .conn = conn, .conv = v};
    pending_push(c, &p);
    conn->deferred++;
}

void
deliver_committed(struct chat *c)
{
    enum store_news news = store_poll(c->store);
    uint64_t durable = store_durable(c->store);
    uint32_t work = 0;

    c->more = false;
    if (news == STORE_LOST)
        keep_lost(c);
    /* Not those that a hook adds meanwhile: they are not among what is lost. */
    for (size_t left = c->pending_n; left > 0 && c->pending_n > 0; left--) {
        struct pending p = c->pending[c->pending_head];
        bool safe = p.number <= durable;
        if (!safe && news != STORE_LOST)
            break;
        if (work > MAX_DELIVER && news != STORE_LOST) { /* the news of a loss come only once */
            c->more = true;
            break;
        }
        c->pending_head = (c->pending_head + 1) & (c->pending_cap - 1);
        c->pending_n--;
        if (safe)
            work += deliver(c, &p);
        else
            lost(c, &p);
    }
}

bool
deliver_waits(const struct chat *c)
{
    return c->more || c->wave_n > 0 || c->announce_n > 0;
}

/* --- fan-outs --------------------------------------------------------------------------------- */

/* Is it a message? */
static bool
is_send(const struct pending *p)
{
    return p->kind == PENDING_SEND || p->kind == PENDING_FAR;
}

static void
wave_push(struct chat *c, const struct pending *p)
{
    if (c->wave_n == c->wave_cap)
        c->wave = ring_grow(c->wave, sizeof *c->wave, &c->wave_head, &c->wave_cap, 16);
    struct wave *f = &c->wave[(c->wave_head + c->wave_n++) & (c->wave_cap - 1)];
    *f = (struct wave){.p = *p, .left = UINT32_MAX};
    if (p->conn != NULL)
        p->conn->waves++;
    if (p->conv != NULL && p->conv->waves++ == 0)
        p->conv->told = is_send(p) ? p->seq - 1 : p->conv->durable;
}

#define HEAVY 4096     /* bytes that count as a message more: see MAX_ROUND */
#define MAX_BUNDLE 16384  /* bytes of messages that go out together */

static struct pending *
wave_at(struct chat *c, uint32_t i)
{
    return &c->wave[(c->wave_head + i) & (c->wave_cap - 1)].p;
}

/* Is it a message to a group? */
static bool
wave_fans(const struct pending *p)
{
    return is_send(p) && p->to == NULL;
}

/*
 * What has come to wait for one group is told to its members together: each gets one piece, written
 * as it stands, and is looked at once. (Hooks see each message by itself.)
 */
static void
bundle_begin(struct chat *c)
{
    const struct pending *first = wave_at(c, 0);
    uint32_t n = 1, bytes = first->msg->len;

    for (; n < c->wave_n && c->hooks == NULL; n++) {
        const struct pending *p = wave_at(c, n);
        if (!wave_fans(p) || p->conv != first->conv || p->seq != first->seq + n ||
            bytes + p->msg->len > MAX_BUNDLE)
            break;
        bytes += p->msg->len;
    }
    c->bundle = (struct bundle){.n = n, .bytes = bytes};
}

/* The bundle as one, for those who speak that. */
static struct msg *
bundle_piece(struct chat *c, unsigned proto)
{
    struct bundle *b = &c->bundle;

    if (b->piece[proto] != NULL)
        return b->piece[proto];
    struct msg *piece = msg_piece(c->msgs, CMD_CHAT, 0, b->bytes + b->n * MAX_PKT_HEAD);
    for (uint32_t i = 0; i < b->n; i++) {
        struct msg *m = wave_at(c, i)->msg;
        memcpy(msg_put(piece, proto, CMD_CHAT, 0, m->len, &c->stats->encoded), m->data, m->len);
    }
    piece->chat_seq = wave_at(c, 0)->seq + b->n - 1;
    piece->chats = (uint16_t)(b->n - 1);
    return b->piece[proto] = piece;
}

/* Send a member the last n of the bundle. Returns the work. */
static uint32_t
bundle_send(struct chat *c, struct member *member, uint32_t n)
{
    struct bundle *b = &c->bundle;
    uint32_t work = 1;

    for (struct conn *o = member->user->conns; o != NULL; o = o->next_of_user, work++)
        if (n == b->n && o->proto != PROTO_OWN)
            conn_send(o, bundle_piece(c, o->proto), member);
        else
            for (uint32_t i = b->n - n; i < b->n; i++)
                conn_send(o, wave_at(c, i)->msg, member);
    return work * (1 + b->bytes / HEAVY);
}

void
deliver_bundle_end(struct chat *c)
{
    for (int i = 0; i < PROTOS; i++)
        if (c->bundle.piece[i] != NULL)
            msg_unref(c->bundle.piece[i]);
    zero(&c->bundle, sizeof c->bundle);
}

/*
 * Members are walked from the last one online to the first. When one of them goes, the last one
 * takes his place: somebody who has had the message, and is known by `fanned`, or nobody has. Who
 * comes is put behind the last; `fanned` says so of him, too, should so many go that he is before
 * the border after all, or come before the walk begins: he finds it among those he has missed. Who
 * came between two messages of a bundle is behind by those after it alone.
 */
static uint32_t
wave_some(struct chat *c, struct wave *f, uint32_t share)
{
    struct conv *v = f->p.conv;
    uint32_t n = 0, last = (uint32_t)f->p.seq + c->bundle.n - 1;

    if (f->left > v->nonline)
        f->left = v->nonline;
    while (f->left > 0 && n < share) {
        struct member *m = v->member[--f->left];
        int32_t behind = (int32_t)(last - m->fanned);
        if (behind <= 0)
            continue;
        m->fanned = last;
        n += bundle_send(c, m, (uint32_t)behind < c->bundle.n ? (uint32_t)behind : c->bundle.n);
    }
    return n;
}

uint32_t
deliver_waves(struct chat *c)
{
    uint32_t work = 0;

    for (; c->wave_n > 0 && work < MAX_SLICE; work++) {
        struct wave *f = &c->wave[c->wave_head];
        uint32_t n = 1;
        if (wave_fans(&f->p)) {
            if (c->bundle.n == 0)
                bundle_begin(c);
            work += wave_some(c, f, MAX_SLICE - work);
            if (f->left > 0)
                break;
            n = c->bundle.n;
            deliver_bundle_end(c);
        } else if (is_send(&f->p)) {
            work += deliver_message(c, &f->p);
        }
        for (; n > 0; n--) {
            struct pending p = *wave_at(c, 0);
            c->wave_head = (c->wave_head + 1) & (c->wave_cap - 1);
            c->wave_n--;
            if (p.conv != NULL)
                p.conv->waves--;
            if (is_send(&p))
                p.conv->told = p.seq;
            if (p.conn != NULL)
                p.conn->waves--;
            deliver_end(c, &p);
        }
    }
    return work;
}

uint64_t
deliver_told(const struct member *m)
{
    const struct conv *v = m->conv;
    /* The one under way may be done with him, though not with all. */
    int32_t ahead = v->group ? (int32_t)(m->fanned - (uint32_t)v->told) : 0;

    return v->waves == 0 ? v->durable : v->told + (ahead > 0 ? (uint32_t)ahead : 0);
}

/* --- when it has left ------------------------------------------------------------------------- */

void
deliver_written(struct chat *c, const struct msg *m, struct member *member)
{
    if (member != NULL) {
        c->stats->delivered += 1u + m->chats;
        member_delivered_range(&c->roster, member, m->chat_seq - m->chats, m->chat_seq);
        if (c->hooks != NULL) /* then each is by itself */
            extend_delivered(c, member, m->chat_seq);
    }
    for (size_t i = 0; m->fetched != NULL && i < m->fetched->n; i++)
        member_delivered_upto(&c->roster, m->fetched->mark[i].member, m->fetched->mark[i].upto);
}
