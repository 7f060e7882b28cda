/* SPDX-License-Identifier: MIT */
/*
 * cluster_query.c - messages that are asked for (command 19, and the API's offline and history), in
 * a cluster: scripts on each conversation's keys read them, within the limits of an answer.
 *
 *   fetching  the question, and the answer in the making
 *   offline   conversation by conversation, some at a time, until there is no more room
 *   history   of one conversation
 *   requests  what is asked, and who may
 */
#include "jim.h"

#include <stdlib.h>

#define AT_ONCE 16 /* conversations asked about together: each may fill the room that is left */

/* --- fetching --------------------------------------------------------------------------------- */

struct fetch_op {
    struct op op;
    bool api;
    int64_t type;
    char id[MAX_ID];      /* whose messages; empty: a group's history for the API */
    uint8_t idlen;
    bool one, group;      /* one conversation: a group, or with a user */
    char peer[MAX_ID];    /* its id */
    uint8_t peerlen;
    struct buf keys;      /* conversations to be asked about: NUL-terminated, pairs first */
    size_t at;            /* how far that has got, in bytes */
    char *asked[AT_ONCE]; /* those of this step: in keys */
    size_t nasked;
    struct buf friends, groups; /* the two maps of the answer */
    size_t room;          /* bytes left */
    int64_t left, taken;  /* messages */
    bool more;
    int code;             /* other than 0: refused */
    struct fetched *marks; /* owned until it goes with the answer */
    /* History: */
    int64_t begin, end, offset, count, before, after;
    bool has_begin, has_end, has_before, has_after;
};

static void
fetch_free(struct op *o)
{
    struct fetch_op *q = container_of(o, struct fetch_op, op);

    buf_free(&q->keys);
    buf_free(&q->friends);
    buf_free(&q->groups);
    free(q->marks);
}

static struct str
fetch_id(const struct fetch_op *q)
{
    return (struct str){q->id, q->idlen};
}

/* {"friends":…,"groups":…[,"more":true][,"userId":…]} behind what was begun. */
static void
put_fetched(struct fetch_op *q, struct buf *b)
{
    json_put_key(b, "data");
    buf_lit(b, "{\"friends\":{");
    buf_add(b, q->friends.p, q->friends.len);
    buf_lit(b, "},\"groups\":{");
    buf_add(b, q->groups.p, q->groups.len);
    buf_lit(b, "}");
    if (q->more)
        buf_lit(b, ",\"more\":true");
    if (q->idlen > 0)
        put_text(b, "userId", fetch_id(q));
    buf_lit(b, "}");
}

static void
fetch_answer(struct fetch_op *q)
{
    struct op *o = &q->op;
    struct chat *c = o->k->chat;
    int code = o->failed ? CODE_STORE : q->code;

    if (code == 0)
        code = q->type == 0 ? CODE_OFFLINE_MESSAGES : CODE_HISTORY;
    bool good = code == CODE_OFFLINE_MESSAGES || code == CODE_HISTORY;
    if (!q->api && !op_alive(o)) {
        op_end(o);
        return;
    }
    struct buf *b = answer_begin(c, code, CMD_MESSAGES_RESP);
    if (good)
        put_fetched(q, b);
    put_msg(b, code);
    buf_add(b, "}", 1);
    if (q->api) {
        api_sent(o->conn, code, b->p, b->len);
    } else {
        struct msg *m = msg_new(CMD_MESSAGES_RESP, o->seq, b->p, b->len);
        if (good) { /* else he gets none of them, though some were read before it failed */
            m->fetched = q->marks;
            q->marks = NULL;
        }
        conn_send(o->conn, m, NULL);
        msg_unref(m);
    }
    op_end(o);
}

/* Messages, elements of r from the third on, as `"key":[…]`. */
static void
put_messages(struct fetch_op *q, struct buf *b, struct str key, const struct redis_reply *r)
{
    const struct redis_reply *e = redis_at(r, 2);

    if (e == NULL)
        return;
    if (b->len > 0)
        buf_lit(b, ",");
    json_put_string(b, key.p, key.n);
    buf_lit(b, ":[");
    size_t begun = b->len;
    for (size_t i = 2; i < reply_count(r); i++, e = redis_next(e)) {
        if (!far_json(q->op.k, redis_text(e)))
            continue;
        if (b->len > begun)
            buf_lit(b, ",");
        buf_str(b, redis_text(e));
        q->taken++;
        q->left--;
    }
    buf_lit(b, "]");
}

/* --- offline ---------------------------------------------------------------------------------- */

static void offline_some(struct op *o);

/* The other one of the pair; false when the key is none of ours. */
static bool
key_peer(const struct fetch_op *q, struct str key, char dst[MAX_ID], struct str *peer)
{
    struct str kind, first;
    char text[MAX_ID];
    struct str id;

    if (!str_split(&key, ':', &kind) || key.p == NULL)
        return false;
    if (kind.n == 1 && kind.p[0] == 'g')
        return id_unescape(key, dst, peer);
    if (!str_split(&key, ':', &first) || key.p == NULL || !id_unescape(first, text, &id))
        return false;
    return id_unescape(str_eq(id, fetch_id(q)) ? key : first, dst, peer);
}

static size_t
bytes_of(const struct redis_reply *r)
{
    const struct redis_reply *e = redis_at(r, 2);
    size_t n = 0;

    for (size_t i = 2; i < reply_count(r); i++, e = redis_next(e))
        n += redis_text(e).n + 1;
    return n;
}

/* How far this answer has come in a conversation: the cursor goes there when it has arrived. */
static void
missed_mark(struct fetch_op *q, struct str key, int64_t upto)
{
    struct roster *r = &q->op.k->chat->roster;
    struct user *u = user_find(r, fetch_id(q));

    if (q->api || u == NULL || u->nconns == 0 || upto <= 0)
        return;
    struct conv *v = conv_get_key(r, key);
    struct member *m = v != NULL ? member_of(r, u, v) : NULL;
    if (m != NULL && !m->left)
        fetched_add(&q->marks, m, (uint64_t)upto);
}

static void
missed_reply(struct op *o, uint32_t n, const struct redis_reply *r)
{
    struct fetch_op *q = container_of(o, struct fetch_op, op);
    struct str key = str_of(q->asked[n]), peer;
    char text[MAX_ID];
    int64_t upto = redis_int(redis_at(r, 0), -1);
    size_t bytes = bytes_of(r), messages = reply_count(r) > 2 ? reply_count(r) - 2 : 0;

    if (upto < 0) {
        if (q->one && q->group && (!q->api || upto == -2))
            q->code = q->api ? CODE_NO_GROUP : CODE_FORBIDDEN;
        return;
    }
    if (upto > MAX_SEQ || !key_peer(q, key, text, &peer)) {
        far_junk(o->k, "offline messages of", key);
        return;
    }
    q->more |= redis_int(redis_at(r, 1), 0) == 1;
    if (messages > 0 && q->taken > 0 && (bytes > q->room || (int64_t)messages > q->left)) {
        q->more = true; /* the others of this step have taken the room */
        return;
    }
    q->room -= bytes < q->room ? bytes : q->room;
    put_messages(q, key.p[0] == 'g' ? &q->groups : &q->friends, peer, r);
    missed_mark(q, key, upto);
}

static void
ask_missed(struct fetch_op *q, struct str key, uint32_t n)
{
    struct op *o = &q->op;
    bool group = key.p[0] == 'g';
    char text[MAX_ID];
    struct str peer;
    bool notes = !group && key_peer(q, key, text, &peer) && str_eq(peer, fetch_id(q));

    ask_script(o, SCRIPT_MISSED, 4, 6);
    put_key(o, 'c', key, "");
    put_key(o, 'c', key, ":g");
    put_key(o, 'c', key, ":d");
    put_key(o, 'c', key, ":m");
    put_arg(o, fetch_id(q));
    put_int(o, group);
    put_int(o, !group && !notes);
    put_int(o, q->left);
    put_int(o, (int64_t)q->room);
    put_int(o, q->taken == 0);
    ask_end(o, 'c', key, n);
}

static void
offline_some(struct op *o)
{
    struct fetch_op *q = container_of(o, struct fetch_op, op);

    if (o->failed || o->k->gone || q->code != 0) {
        o->failed |= o->k->gone;
        fetch_answer(q);
        return;
    }
    if (q->at >= q->keys.len || q->left <= 0 || (q->taken > 0 && q->room == 0)) {
        q->more |= q->at < q->keys.len;
        fetch_answer(q);
        return;
    }
    op_next(o, missed_reply, offline_some);
    for (q->nasked = 0; q->nasked < AT_ONCE && q->at < q->keys.len; q->nasked++) {
        struct str key = str_of(q->keys.p + q->at);
        q->asked[q->nasked] = q->keys.p + q->at;
        q->at += key.n + 1;
        ask_missed(q, key, (uint32_t)q->nasked);
    }
    op_sent(o);
}

static void
add_key(struct fetch_op *q, struct str key)
{
    buf_str(&q->keys, key);
    buf_add(&q->keys, "", 1);
}

static void
lists_reply(struct op *o, uint32_t n, const struct redis_reply *r)
{
    struct fetch_op *q = container_of(o, struct fetch_op, op);
    const struct redis_reply *e = redis_at(r, 0);

    (void)n;
    for (size_t i = 0; i < reply_count(r); i++, e = redis_next(e))
        if (redis_text(e).n > 2 && redis_text(e).n < MAX_CONV_KEY)
            add_key(q, redis_text(e));
}

static void
fetch_offline(struct fetch_op *q)
{
    struct op *o = &q->op;
    char text[3 * MAX_ID];
    struct str user = user_key(fetch_id(q), text);
    static const char *const lists[] = {":p", ":g"};

    struct user *here = user_find(&o->k->chat->roster, fetch_id(q));

    if (here != NULL) /* what has reached him must not come again */
        far_save_user(o->k, here);
    op_next(o, lists_reply, offline_some);
    for (uint32_t i = 0; !q->one && i < 2; i++) {
        ask_plain(o, "SMEMBERS", 1);
        put_key(o, 'u', user, lists[i]);
        ask_end(o, 'u', user, i);
    }
    op_sent(o);
}

/* --- history ---------------------------------------------------------------------------------- */

static void
history_reply(struct op *o, uint32_t n, const struct redis_reply *r)
{
    struct fetch_op *q = container_of(o, struct fetch_op, op);
    int64_t state = redis_int(redis_at(r, 0), 0);
    struct str peer = {q->peer, q->peerlen};

    (void)n;
    if (state == 1) {
        q->more = redis_int(redis_at(r, 1), 0) == 1;
        put_messages(q, q->group ? &q->groups : &q->friends, peer, r);
    } else {
        q->code = q->api ? CODE_NO_GROUP : CODE_FORBIDDEN;
    }
}

static void
history_step(struct op *o)
{
    fetch_answer(container_of(o, struct fetch_op, op));
}

static void
put_bound(struct op *o, bool has, int64_t n)
{
    if (has)
        put_int(o, n);
    else
        put_arg(o, STR(""));
}

static void
fetch_history(struct fetch_op *q)
{
    struct op *o = &q->op;
    struct str key = str_of(q->keys.p);

    op_next(o, history_reply, history_step);
    ask_script(o, SCRIPT_HISTORY, 3, 10);
    put_key(o, 'c', key, "");
    put_key(o, 'c', key, ":g");
    put_key(o, 'c', key, ":m");
    put_arg(o, q->api ? STR("") : fetch_id(q));
    put_int(o, q->group);
    put_bound(o, q->has_begin, q->begin);
    put_bound(o, q->has_end, q->end);
    put_int(o, q->offset);
    put_int(o, q->count);
    put_bound(o, q->has_before, q->before);
    put_bound(o, q->has_after, q->after);
    put_int(o, q->left);
    put_int(o, (int64_t)q->room);
    ask_end(o, 'c', key, 0);
    op_sent(o);
}

/* --- requests --------------------------------------------------------------------------------- */

/* Times beyond what a script's numbers hold mean the same as the ends of what they hold. */
static int64_t
within(int64_t n)
{
    const int64_t most = INT64_C(1) << 50;

    return n > most ? most : n < -most ? -most : n;
}

static bool
fetch_bounds(struct fetch_op *q, const struct request *r)
{
    int begin = request_int(r, F_BEGIN_TIME, 0, &q->begin);
    int end = request_int(r, F_END_TIME, 0, &q->end);
    int before = request_int(r, F_BEFORE_SEQ, 0, &q->before);
    int after = request_int(r, F_AFTER_SEQ, 0, &q->after);

    if (begin < 0 || end < 0 || before < 0 || after < 0 ||
        request_int(r, F_OFFSET, 0, &q->offset) < 0 || request_int(r, F_COUNT, -1, &q->count) < 0)
        return false;
    q->begin = within(q->begin);
    q->end = within(q->end);
    q->before = within(q->before);
    q->after = within(q->after);
    q->offset = within(q->offset);
    q->count = within(q->count);
    q->has_begin = begin > 0;
    q->has_end = end > 0;
    q->has_before = before > 0;
    q->has_after = after > 0;
    return true;
}

/* What is asked for. 0, or the code to refuse it with. from NULL: the API asks. */
static int
fetch_names(struct fetch_op *q, const struct conn *from, const struct request *r)
{
    char id_text[MAX_ID], peer_text[MAX_ID], key_text[MAX_CONV_KEY];
    struct str id = {id_text, 0}, peer = {peer_text, 0};

    q->group = r->f[F_GROUP_ID].type != JSON_NONE;
    q->one = q->group || r->f[F_FROM_USER_ID].type != JSON_NONE;
    if (r->f[F_USER_ID].type != JSON_NONE && !request_id(r, F_USER_ID, id_text, &id))
        return CODE_MESSAGES_FAILED;
    if (q->one && !request_id(r, q->group ? F_GROUP_ID : F_FROM_USER_ID, peer_text, &peer))
        return CODE_MESSAGES_FAILED;
    if (id.n == 0 && (from != NULL || q->type == 0 || !q->group))
        return CODE_MESSAGES_FAILED;
    if (from != NULL && !str_eq(id, user_id(from->user)))
        return CODE_FORBIDDEN;
    if (q->type == 1 && (!q->one || !fetch_bounds(q, r)))
        return CODE_MESSAGES_FAILED;
    memcpy(q->id, id.p, id.n);
    q->idlen = (uint8_t)id.n;
    memcpy(q->peer, peer.p, peer.n);
    q->peerlen = (uint8_t)peer.n;
    if (q->one)
        add_key(q, q->group ? group_key(peer, key_text) : pair_key(id, peer, key_text));
    return 0;
}

/* A copy of the question on its way; its code when it is refused. */
static int
fetch_begin(struct cluster *k, struct conn *c, const struct conn *from, uint32_t seq,
            int64_t type, const struct request *r)
{
    struct fetch_op names = {.type = type};
    int code = type == 0 || type == 1 ? fetch_names(&names, from, r) : CODE_MESSAGES_FAILED;

    if (code == 0 && !cluster_can(k))
        code = CODE_STORE;
    if (code != 0) {
        buf_free(&names.keys);
        return code;
    }
    struct op *o = op_of_command(k, sizeof(struct fetch_op), c, seq, NULL, NULL, fetch_free);
    struct fetch_op *q = container_of(o, struct fetch_op, op);
    names.op = *o;
    *q = names;
    q->api = from == NULL;
    q->left = k->chat->opt->fetch_max;
    q->room = (size_t)k->chat->opt->queue_max / 2;
    if (type == 0)
        fetch_offline(q);
    else
        fetch_history(q);
    return 0;
}

bool
cluster_messages(struct chat *c, struct conn *from, uint32_t seq, const struct request *r)
{
    int64_t type;
    int code = CODE_MESSAGES_FAILED;

    if (r != NULL && request_int(r, F_TYPE, -1, &type) > 0)
        code = fetch_begin(c->cluster, from, from, seq, type, r);
    if (code != 0)
        answer_code(c, from, CMD_MESSAGES_RESP, seq, code);
    return true;
}

void
far_messages(struct call *k, int64_t type)
{
    call_later(k);
    int code = fetch_begin(k->chat->cluster, k->c, NULL, 0, type, &k->r);

    if (code == 0)
        return;
    buf_free(conn_answer_head(k->c));
    call_code(k, code, CMD_MESSAGES_RESP);
}
