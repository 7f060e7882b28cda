/* SPDX-License-Identifier: MIT */
/*
 * send.c - the first half of a message's way: checked, encoded, numbered, given to the store. Hop 4
 * of the README's eight; what is safe on disk goes on in deliver.c. A message that has got a number
 * is not refused any more.
 *
 *   sending    from a request to a record and an entry in the queue
 *   several    receivers of one call of the API, answered together
 *   stored     messages: from an import, and read again for who has missed them
 */
#include "jim.h"

#include <stdlib.h>
#include <string.h>

/* --- sending ---------------------------------------------------------------------------------- */

/* Length of a value's text in bytes, escapes decoded. */
static size_t
text_length(struct chat *c, const struct json *v)
{
    if (v->type != JSON_STRING || !v->escaped)
        return v->n;
    c->line.len = 0;
    buf_reserve(&c->line, v->n);
    return json_text(v, c->line.p);
}

/* What goes before the chat object when it is delivered; a brace goes behind. */
#define DELIVERY_HEAD "{\"command\":11,\"data\":"
static const struct str delivery_head = {DELIVERY_HEAD, sizeof DELIVERY_HEAD - 1};

/* Sends that one call of the API has made of an array, and what became of them. */
struct fan {
    struct conn *conn;  /* who asked: their `deferred` holds it in memory */
    uint32_t left;      /* answers still owed; one more while the sends are being made */
    uint32_t n;
    bool group;         /* the names are groups */
    struct fan_item {
        int code;
        char *name;     /* JSON of the receiver, as it was given; owned; NULL: far too long */
        char *id;       /* JSON of the message id; owned; NULL: refused */
        int64_t create_ms;
        uint64_t seq;
    } item[];
};

#define ID_ROOM (6 * MAX_MESSAGE_ID) /* every byte may have come as \u00xx */

/* A message on its way through the checks. */
struct draft {
    const struct request *r;
    struct pending p;      /* what it will be in the queue; filled in on the way */
    bool api;              /* from the HTTP API: may do all */
    bool to_all;           /* a broadcast: no receiver, no number, not stored */
    int64_t chat_type, msg_type, cmd;
    bool has_msg_type, has_cmd;
    int64_t now_ms;        /* the one look at the clock that a message is worth */
    char *id_text;         /* ID_ROOM bytes; borrowed: too many to be zeroed each time */
    struct str id;         /* the client's or ours; in the request or in id_text */
    bool id_plain;         /* the client's may be copied as it stands in the request */
    bool own_id;           /* it is ours: cannot be a retry */
    uint64_t print;        /* retry_print(), if it is not ours; also when it is for `guess` */
    const struct member *guess;
};

static void
new_message_id(struct chat *c, struct draft *d)
{
    uint64_t half[2];

    c->id_count++;
    half[0] = siphash13(c->id_key, &c->id_count, sizeof c->id_count);
    half[1] = siphash13(c->id_key, half, sizeof half[0]);
    snprintf(d->id_text, ID_ROOM, "%016llx%016llx", (unsigned long long)half[0],
             (unsigned long long)half[1]);
    d->id = (struct str){d->id_text, 32};
    d->own_id = true;
}

/* What one read has brought is of one moment: the clock is asked once for all of it. */
static int64_t
clock_of(struct chat *c)
{
    if (c->burst_ms < 0)
        return c->now_ms();
    if (c->burst_ms == 0)
        c->burst_ms = c->now_ms();
    return c->burst_ms;
}

/* The members that are not about sender and receiver. Returns 0 or a code. */
static int
draft_fields(struct chat *c, struct draft *d)
{
    const struct request *r = d->r;
    int got_type = request_int(r, F_MSG_TYPE, 0, &d->msg_type);
    int got_cmd = request_int(r, F_CMD, 0, &d->cmd);
    int64_t now = d->now_ms = clock_of(c);

    if (d->to_all)
        d->chat_type = 0;
    else if (request_int(r, F_CHAT_TYPE, 0, &d->chat_type) < 0 ||
             (d->chat_type != 1 && d->chat_type != 2))
        return CODE_SEND_FAILED;
    if (got_type < 0)
        return CODE_SEND_FAILED;
    d->has_msg_type = got_type > 0;
    d->has_cmd = got_cmd > 0;
    if (r->f[F_EXTRAS].type != JSON_NONE && r->f[F_EXTRAS].type != JSON_OBJECT)
        return CODE_SEND_FAILED;
    if (text_length(c, &r->f[F_CONTENT]) > (size_t)c->opt->message_max)
        return CODE_TOO_LARGE;
    if (request_int(r, F_CREATE_TIME, 0, &d->p.create_ms) <= 0 ||
        d->p.create_ms < now - CLOCK_SKEW_MS || d->p.create_ms > now + CLOCK_SKEW_MS)
        d->p.create_ms = now;
    d->id_plain = r->f[F_ID].plain;
    if (r->f[F_ID].n > ID_ROOM)
        return CODE_SEND_FAILED;
    if (d->id_plain)
        d->id = (struct str){r->f[F_ID].p, r->f[F_ID].n};
    else
        d->id = (struct str){d->id_text, json_text(&r->f[F_ID], d->id_text)};
    if (d->id.n > MAX_MESSAGE_ID)
        return CODE_SEND_FAILED;
    if (r->f[F_ID].type == JSON_NONE || d->id.n == 0)
        new_message_id(c, d);
    return 0;
}

/* Whose message it is: the session's user, whatever he says; the API names one freely. */
static int
draft_from(struct chat *c, struct draft *d)
{
    char text[MAX_ID];
    struct str id = STR("system");

    if (d->api) {
        if (d->r->f[F_FROM].type != JSON_NONE && !request_id(d->r, F_FROM, text, &id))
            return CODE_SEND_FAILED;
        d->p.from = user_get(&c->roster, id);
        if (c->cluster != NULL)
            d->p.conn->recent = NULL; /* nobody is kept for a call of the API */
    } else if (d->p.conn->user != NULL) {
        d->p.from = d->p.conn->user;
    } else { /* jim.login.required=off: J-IM's anonymous sender */
        /* Two words: never what a message id is made of. */
        uint64_t of[2] = {d->p.conn->id, UINT64_MAX};
        int n = snprintf(text, sizeof text, "%016llx",
                         (unsigned long long)siphash13(c->id_key, of, sizeof of));
        d->p.from = user_get(&c->roster, (struct str){text, (size_t)n});
    }
    return 0;
}

/* Where it goes. Nothing is made before all else is known to be right. */
static int
draft_to(struct chat *c, struct draft *d)
{
    char text[MAX_ID];
    struct member *m = d->p.conn->recent; /* most say more than one thing to the same */
    bool pair = d->chat_type == 2;
    const struct json *name = &d->r->f[pair ? F_TO : F_GROUP_ID];
    struct str id = {name->p, name->n}; /* as it stands: if it is the recent one's, it is right */

    if (!name->plain || !(pair ? member_is_with : member_is_in)(m, d->p.from, id)) {
        if (!value_id(name, text, &id))
            return CODE_SEND_FAILED;
        m = (pair ? member_with : member_in_group)(&c->roster, d->p.from, id);
        d->p.conn->recent = m;
    }
    if (pair) {
        if (m == NULL && !d->api && c->cluster == NULL && d->p.from->begun++ >= MAX_BEGUN) {
            d->p.from->begun = MAX_BEGUN;
            return CODE_FORBIDDEN;
        }
        d->p.to = m != NULL ? member_peer(m) : user_get(&c->roster, id);
        d->p.conv = m != NULL ? m->conv : pair_get(&c->roster, d->p.from, d->p.to);
        return 0;
    }
    if (c->cluster != NULL) { /* who is in it, and whether it is there, Redis decides */
        d->p.conv = group_get(&c->roster, id);
    } else if (m != NULL) {
        d->p.conv = m->conv;
    } else if (d->api) {
        d->p.conv = group_find(&c->roster, id);
        return d->p.conv == NULL ? CODE_NO_GROUP : 0;
    } else if (c->opt->group_open) {
        d->p.conv = group_get(&c->roster, id);
        return d->p.conv->gone ? CODE_NO_GROUP : 0;
    } else {
        return CODE_FORBIDDEN;
    }
    return 0;
}

/* The embedding program may refuse it, or change it; but not what was accepted before. */
static int
draft_hook(struct chat *c, struct draft *d)
{
    struct str from = user_id(d->p.from);
    struct str other = d->p.to != NULL ? user_id(d->p.to) : str_of(d->p.conv->id);
    struct jim_chat chat = {.conn = d->api ? 0 : conn_public_id(d->p.conn),
                            .chat_type = (int)d->chat_type, .msg_type = (int)d->msg_type,
                            .from = {from.p, from.n}, .id = {d->id.p, d->id.n}};
    struct retry_hit hit;

    if (!d->own_id && retry_find(&c->retries, retry_print(&c->retries, d->p.from, d->p.conv, d->id),
                                 d->now_ms, &hit))
        return 0;
    *(d->p.to != NULL ? &chat.to : &chat.group) = (struct jim_text){other.p, other.n};
    return extend_chat(c->hooks, &chat, &d->r);
}

/* All names of a chat object, and the texts a message comes with. */
#define CHAT_NAMES "{\"chatType\":,\"cmd\":,\"content\":,\"createTime\":,\"extras\":,\"from\":," \
                   "\"groupId\":,\"id\":,\"msgType\":,\"seq\":,\"to\":}"

/* What put_chat() writes at most, but for values that are not plain. */
static size_t
chat_room(const struct draft *d)
{
    const struct json *f = d->r->f;

    return sizeof CHAT_NAMES + 5 * (JSON_INT_ROOM + 2) + f[F_CONTENT].n + f[F_GROUP_ID].n +
           f[F_TO].n + d->p.from->idlen + d->id.n;
}

/* Is it all there is? */
static bool
chat_is_plain(const struct draft *d)
{
    const struct json *f = d->r->f;

    return (f[F_CONTENT].plain || f[F_CONTENT].type == JSON_NONE) &&
           (f[F_GROUP_ID].plain || f[F_GROUP_ID].type == JSON_NONE) &&
           (f[F_TO].plain || f[F_TO].type == JSON_NONE) && f[F_EXTRAS].type == JSON_NONE &&
           d->p.from->plain && (d->id_plain || d->own_id);
}

/* What is written at `to` in b is of any length, and room is needed behind it: to go on writing. */
static char *
go_on(struct buf *b, size_t room)
{
    buf_reserve(b, room);
    return b->p + b->len;
}

static inline char *
put_member(struct buf *b, char *to, const struct json *v, size_t room)
{
    if (v->plain)
        return put_plain(to, v->p, v->n);
    b->len = (size_t)(to - b->p);
    put_as_text(b, v);
    return go_on(b, room);
}

static inline char *
put_id(struct buf *b, char *to, struct str id, bool plain, size_t room)
{
    if (plain)
        return put_plain(to, id.p, id.n);
    b->len = (size_t)(to - b->p);
    json_put_string(b, id.p, id.n);
    return go_on(b, room);
}

/* The chat object, keys in alphabetical order; and where the id's text stands in b.
 * There is room for all that is plain, so most members are written without asking for any. */
static void
put_chat(struct chat *c, struct buf *b, struct draft *d, uint64_t seq)
{
    const struct json *f = d->r->f;
    size_t room = chat_room(d);
    char *to = go_on(b, room);

    /* Made now, read below: right after it was written, memory is slow to be read. */
    digits_of(&c->seq, (int64_t)seq);

    to = json_int_at(at_lit(to, "{\"chatType\":"), d->chat_type);
    if (d->has_cmd)
        to = json_int_at(at_lit(to, ",\"cmd\":"), d->cmd);
    if (f[F_CONTENT].type != JSON_NONE)
        to = put_member(b, at_lit(to, ",\"content\":"), &f[F_CONTENT], room);
    to = digits_at(&c->time, at_lit(to, ",\"createTime\":"), d->p.create_ms);
    if (f[F_EXTRAS].type != JSON_NONE) {
        b->len = (size_t)(at_lit(to, ",\"extras\":") - b->p);
        json_put_value(b, &f[F_EXTRAS]);
        to = go_on(b, room);
    }
    to = put_id(b, at_lit(to, ",\"from\":"), user_id(d->p.from), d->p.from->plain, room);
    if (d->chat_type == 1 && f[F_GROUP_ID].type != JSON_NONE)
        to = put_member(b, at_lit(to, ",\"groupId\":"), &f[F_GROUP_ID], room);
    to = at_lit(to, ",\"id\":");
    d->p.id_at = (uint32_t)(to - b->p);
    to = put_id(b, to, d->id, d->id_plain || d->own_id, room);
    d->p.id_len = (uint32_t)(to - b->p) - d->p.id_at;
    if (d->has_msg_type)
        to = json_int_at(at_lit(to, ",\"msgType\":"), d->msg_type);
    if (!d->to_all)
        to = digits_at(&c->seq, at_lit(to, ",\"seq\":"), (int64_t)seq);
    if (!d->to_all && f[F_TO].type != JSON_NONE)
        to = put_member(b, at_lit(to, ",\"to\":"), &f[F_TO], room);
    b->len = (size_t)(at_lit(to, "}") - b->p);
}

/* The message as it is delivered: the chat object and a brace behind the head. The usual one is
 * written where it is to stand. */
static struct msg *
chat_msg(struct chat *c, struct draft *d, uint64_t seq)
{
    size_t room = delivery_head.n + chat_room(d) + 1;

    if (chat_is_plain(d)) {
        struct msg *m = msg_take(c->msgs, CMD_CHAT, 0, NULL, room);
        struct buf b = {m->data, 0, room}; /* never has to grow */
        buf_lit(&b, DELIVERY_HEAD);
        put_chat(c, &b, d, seq);
        buf_lit(&b, "}");
        m->len = (uint32_t)b.len;
        return m;
    }
    c->out.len = 0;
    buf_lit(&c->out, DELIVERY_HEAD);
    put_chat(c, &c->out, d, seq);
    buf_lit(&c->out, "}");
    return msg_take(c->msgs, CMD_CHAT, 0, c->out.p, c->out.len);
}

static void
owe_answer(const struct draft *d)
{
    d->p.conn->deferred++;
    if (d->p.fan != NULL)
        d->p.fan->left++;
}

/* A message that was sent before (retry.c): owe its sender the same answer, once it is safe. */
static void
send_again(struct chat *c, struct draft *d, const struct retry_hit *t)
{
    struct pending *p = &d->p;

    c->stats->retries++;
    c->out.len = 0;
    json_put_string(&c->out, d->id.p, d->id.n);
    p->kind = PENDING_RETRY;
    p->seq = t->seq;
    p->create_ms = t->create_ms;
    p->id_at = 0;
    p->id_len = (uint32_t)c->out.len;
    p->msg = msg_new(0, 0, c->out.p, c->out.len);
    msg_hold(p->msg, &p->conn->jim->bounds.held);
    /* Its turn comes after everything that was accepted before it: also the message it repeats. */
    p->number = pending_last(c);
    pending_push(c, p);
    owe_answer(d);
}

/* Number and store m, which is used up: its text is that of its delivery, the chat object and a
 * brace. */
static int
send_new(struct chat *c, struct draft *d, struct msg *m)
{
    struct pending *p = &d->p;
    struct conv *v = p->conv;
    struct str chat = {m->data + delivery_head.n, m->len - delivery_head.n - 1};

    p->number = store_append(c->store, REC_MESSAGE, conv_key(v), v->seq + 1, chat, d->now_ms,
                             &v->index);
    if (p->number == 0) {
        msg_unref(m);
        return CODE_STORE;
    }
    p->kind = PENDING_SEND;
    p->msg = m;
    p->seq = m->chat_seq = ++v->seq;
    m->alone = p->to != NULL;
    msg_hold(m, &p->conn->jim->bounds.held);
    if (!d->own_id)
        retry_add(&c->retries, d->print, v, p->seq, p->create_ms, d->now_ms);
    owe_answer(d);
    if (store_keeps(c->store) || c->pending_n > 0)
        pending_push(c, p);
    else
        deliver(c, p);
    return 0;
}

/*
 * The same in a cluster: Redis gives the number. The chat object stands in c->out with a 0 for it;
 * what is before and behind that goes there.
 */
static int
send_to_redis(struct chat *c, const struct draft *d)
{
    struct buf *b = &c->out;
    struct far_draft f = {.p = d->p, .now_ms = d->now_ms, .api = d->api};

    if (c->stopping)
        return CODE_STOPPING;
    for (f.seq_at = f.p.id_at + f.p.id_len; memcmp(b->p + f.seq_at, "\"seq\":", 6) != 0; f.seq_at++)
        ; /* between them is the message's type, a number */
    f.seq_at += 6;
    f.json = (struct str){b->p, b->len};
    f.head = delivery_head.n;
    f.id = d->own_id ? STR("") : d->id;
    int code = cluster_send(c->cluster, &f);
    if (code == 0)
        owe_answer(d);
    return code;
}

/* What the table of retries has of a message comes from far: it is sent for at once, as if the
 * message went where the last one did. */
static void
draft_guess(struct chat *c, struct draft *d)
{
    const struct member *m = d->p.conn->recent;
    const struct json *id = &d->r->f[F_ID];

    if (m == NULL || !id->plain || id->n > MAX_MESSAGE_ID)
        return;
    d->guess = m;
    d->print = retry_print(&c->retries, m->user, m->conv, (struct str){id->p, id->n});
    retry_fetch(&c->retries, d->print);
}

/* Returns 0 when the message is accepted: then its answer is pending. Else the code to refuse
 * it. */
static int
send_draft(struct chat *c, struct draft *d)
{
    draft_guess(c, d);
    int code = draft_fields(c, d);

    if (code == 0)
        code = draft_from(c, d);
    if (code == 0)
        code = draft_to(c, d);
    if (code == 0 && c->hooks != NULL)
        code = draft_hook(c, d);
    if (code != 0)
        return code;
    if (!d->own_id &&
        (d->guess == NULL || d->guess->conv != d->p.conv || d->guess->user != d->p.from)) {
        d->print = retry_print(&c->retries, d->p.from, d->p.conv, d->id);
        retry_fetch(&c->retries, d->print);
    }
    if (c->cluster != NULL) {
        c->out.len = 0;
        buf_lit(&c->out, DELIVERY_HEAD);
        put_chat(c, &c->out, d, 0);
        return send_to_redis(c, d);
    }
    struct msg *m = chat_msg(c, d, d->p.conv->seq + 1);
    if (!d->own_id) { /* after encoding: what the table holds of it has come into the cache */
        struct retry_hit hit;
        if (retry_find(&c->retries, d->print, d->now_ms, &hit)) {
            msg_unref(m);
            send_again(c, d, &hit);
            deliver_committed(c);
            return 0;
        }
    }
    if (c->stopping) {
        msg_unref(m);
        return CODE_STOPPING;
    }
    code = send_new(c, d, m);
    if (code == 0 && c->pending_n > 0 && !store_keeps(c->store))
        deliver_committed(c); /* nothing to wait for but what was before */
    return code;
}

_Static_assert(CODE_END - CODE_SENT <= sizeof((struct stats *)0)->refused_sends / 8, "a code each");

int
send_refused(struct chat *c, int code)
{
    if (code >= CODE_SENT && code < CODE_END)
        c->stats->refused_sends[code - CODE_SENT]++;
    return code;
}

bool
send_chat(struct chat *c, struct conn *from, uint32_t seq, const struct request *r)
{
    char id_text[ID_ROOM];
    struct draft d;

    zero(&d, sizeof d);
    d.r = r;
    d.p.conn = from;
    d.p.reply_seq = seq;
    d.id_text = id_text;
    int code = r == NULL ? CODE_SEND_FAILED : send_draft(c, &d);

    if (code == 0)
        return true;
    if (from->deferred > 0)
        return false; /* a refusal, too, comes after the answers to what was sent before */
    answer_code(c, from, CMD_CHAT_RESP, seq, send_refused(c, code));
    return true;
}

struct msg *
send_to_all(struct chat *c, struct conn *conn, const struct request *r, int *code)
{
    char id_text[ID_ROOM];
    struct draft d = {.r = r, .p.conn = conn, .api = true, .to_all = true, .id_text = id_text};

    *code = r->f[F_CONTENT].type == JSON_NONE ? CODE_SEND_FAILED : draft_fields(c, &d);
    if (*code == 0)
        *code = draft_from(c, &d);
    if (*code == 0 && c->stopping)
        *code = CODE_STOPPING;
    if (*code != 0) {
        send_refused(c, *code);
        return NULL;
    }
    c->out.len = 0;
    buf_str(&c->out, delivery_head);
    put_chat(c, &c->out, &d, 0);
    buf_add(&c->out, "}", 1);
    return msg_new(CMD_CHAT, 0, c->out.p, c->out.len);
}

/* --- several receivers ------------------------------------------------------------------------ */

static void
fan_free(struct fan *f)
{
    for (uint32_t i = 0; i < f->n; i++) {
        free(f->item[i].name);
        free(f->item[i].id);
    }
    free(f);
}

void
send_fan_forget(struct fan *f)
{
    if (--f->left == 0)
        fan_free(f);
}

static void
put_result(struct buf *b, const struct fan *f, const struct fan_item *t)
{
    json_put_comma(b);
    buf_add(b, "{", 1);
    json_put_key(b, "code");
    json_put_int(b, t->code);
    if (t->id != NULL) {
        json_put_key(b, "createTime");
        json_put_int(b, t->create_ms);
    }
    if (f->group)
        put_profile(b, "groupId", t->name);
    put_profile(b, "id", t->id);
    put_msg(b, t->code);
    if (t->id != NULL) {
        json_put_key(b, "seq");
        json_put_int(b, (int64_t)t->seq);
    }
    if (!f->group)
        put_profile(b, "to", t->name);
    buf_add(b, "}", 1);
}

/* The best of the results stands for all of them; who looks at no more learns that much. */
static int
fan_code(const struct fan *f, uint32_t *failed)
{
    int code = f->item[0].code;

    *failed = 0;
    for (uint32_t i = 0; i < f->n; i++) {
        int one = f->item[i].code;
        bool sent = one == CODE_SENT || one == CODE_OFFLINE;
        *failed += !sent;
        if (one == CODE_SENT || (sent && code != CODE_SENT))
            code = one;
    }
    return code;
}

/* One answer less to wait for; with the last the call is answered. */
static void
fan_drop(struct chat *c, struct fan *f)
{
    uint32_t failed;

    if (--f->left > 0)
        return;
    int code = fan_code(f, &failed);
    struct buf *b = answer_begin(c, code, CMD_CHAT_RESP);
    json_put_key(b, "data");
    buf_add(b, "[", 1);
    for (uint32_t i = 0; i < f->n; i++)
        put_result(b, f, &f->item[i]);
    buf_add(b, "]", 1);
    if (failed > 0) {
        json_put_key(b, "failed");
        json_put_int(b, failed);
    }
    put_msg(b, code);
    buf_add(b, "}", 1);
    api_sent(f->conn, code, b->p, b->len);
    fan_free(f);
}

void
send_fan_result(struct chat *c, const struct pending *p, int code)
{
    struct fan_item *t = &p->fan->item[p->fan_at];

    t->code = code;
    if (code == CODE_SENT || code == CODE_OFFLINE) {
        t->create_ms = p->create_ms;
        t->seq = p->seq;
        t->id = xstrndup(p->msg->data + p->id_at, p->id_len);
    }
    fan_drop(c, p->fan);
}

static char *
json_text_of(const struct json *v)
{
    struct buf b = {0};

    json_put_value(&b, v);
    buf_add(&b, "", 1);
    return b.p;
}

/* How many receivers an array has; -1: too many, or of too much altogether. */
static int
fan_size(const struct request *r, enum field f)
{
    struct json_iter it;
    struct json v;
    size_t bytes = 0;
    int n = 0;

    json_enter(&it, &r->f[f]);
    while (n <= MAX_NAMES && json_next(&it, NULL, &v) > 0)
        n++;
    for (enum field i = 0; i < FIELDS; i++)
        bytes += i == f ? 0 : r->f[i].n;
    return n > MAX_NAMES || bytes * (size_t)n > MAX_FAN ? -1 : n;
}

/* Send to each of an array: as many messages as it has members. */
static int
send_fan(struct chat *c, struct conn *conn, const struct request *r, enum field to)
{
    char id_text[ID_ROOM];
    struct request one = *r;
    struct json_iter it;
    int n = fan_size(r, to);

    if (n <= 0)
        return n < 0 ? CODE_TOO_LARGE : CODE_SEND_FAILED;
    struct fan *f = xcalloc(1, sizeof *f + (size_t)n * sizeof f->item[0]);
    f->conn = conn;
    f->left = 1;
    f->group = to == F_GROUP_ID;
    json_enter(&it, &r->f[to]);
    while (f->n < (uint32_t)n && json_next(&it, NULL, &one.f[to]) > 0) {
        struct draft d = {.r = &one, .p = {.conn = conn, .fan = f, .fan_at = f->n}, .api = true,
                          .id_text = id_text};
        struct fan_item *t = &f->item[f->n++];
        if (one.f[to].n <= 6 * MAX_ID) /* what is longer is no id, and need not be repeated */
            t->name = json_text_of(&one.f[to]);
        int code = send_draft(c, &d);
        if (code != 0)
            t->code = send_refused(c, code);
    }
    fan_drop(c, f);
    return 0;
}

int
send_api(struct chat *c, struct conn *conn, const struct request *r)
{
    char id_text[ID_ROOM];
    struct draft d = {.r = r, .p.conn = conn, .api = true, .id_text = id_text};
    int64_t chat_type;
    bool group = request_int(r, F_CHAT_TYPE, 0, &chat_type) > 0 && chat_type == 1;
    enum field to = group ? F_GROUP_ID : F_TO, other = group ? F_TO : F_GROUP_ID;
    int code = CODE_SEND_FAILED;

    if (r->f[other].type == JSON_NONE || r->f[other].type < JSON_ARRAY) {
        if (r->f[to].type == JSON_ARRAY)
            code = send_fan(c, conn, r, to);
        else if (r->f[to].type != JSON_OBJECT)
            code = send_draft(c, &d);
    }
    return code == 0 ? 0 : send_refused(c, code);
}

/* --- stored ----------------------------------------------------------------------------------- */

uint64_t
send_import(struct chat *c, const struct request *r, const struct sent *m)
{
    struct draft d = {.r = r, .chat_type = m->chat_type, .id = m->id,
                      .p = {.from = m->from, .conv = m->conv, .create_ms = m->create_ms}};
    struct str key = conv_key(m->conv);

    d.has_msg_type = request_int(r, F_MSG_TYPE, 0, &d.msg_type) > 0;
    d.has_cmd = request_int(r, F_CMD, 0, &d.cmd) > 0;
    c->out.len = 0;
    put_chat(c, &c->out, &d, m->seq);
    uint64_t number = store_append(c->store, REC_MESSAGE, key, m->seq,
                                   (struct str){c->out.p, c->out.len}, m->time_ms,
                                   &m->conv->index);
    if (number != 0) /* nobody is shown it before the import has ended */
        m->conv->seq = m->conv->durable = m->seq;
    return number;
}

struct msg *
send_stored(struct chat *c, const struct conv *v, uint64_t seq, int *error)
{
    struct store_rec rec;

    c->line.len = c->out.len = 0;
    *error = store_read(c->store, conv_key(v), &v->index, seq, &c->line, &rec);
    if (*error != 0)
        return NULL;
    buf_str(&c->out, delivery_head);
    buf_str(&c->out, rec.json);
    buf_add(&c->out, "}", 1);
    struct msg *m = msg_new(CMD_CHAT, 0, c->out.p, c->out.len);
    m->chat_seq = seq;
    return m;
}
