/* SPDX-License-Identifier: MIT */
/*
 * chat.c - what commands mean: who may do what, and what follows. Knows connections only as struct
 * conn, conn_send() and conn_reply(); never sees a descriptor or a wire format, so all of it runs
 * in a test without sockets. What becomes of a message is send.c's and deliver.c's, what is asked
 * for is query.c's, who is in a group and who is told of it group.c's. Hop 3 of the README's eight.
 *
 *   login      names to users, users to connections
 *   commands   the table of all that a client may ask
 *   start      and end
 */
#include "jim.h"

#include <assert.h>
#include <stdlib.h>

/* --- login ------------------------------------------------------------------------------------ */

/* ending: the connection itself, not only its user. */
static void
unbind(struct chat *c, struct conn *conn, bool ending)
{
    struct user *u = conn->user;
    struct conn **at;

    if (u == NULL)
        return;
    if (c->hooks != NULL)
        extend_binding(c->hooks, JIM_USER_UNBOUND, conn, u, NULL, u->nconns == 1, false);
    if (c->hooks != NULL && ending)
        extend_closed(conn);
    for (at = &u->conns; *at != conn; at = &(*at)->next_of_user)
        assert(*at != NULL);
    *at = conn->next_of_user;
    conn->next_of_user = NULL;
    conn->user = NULL;
    bool last = --u->nconns == 0;
    if (c->hooks != NULL)
        extend_groups(c->hooks, JIM_GROUP_UNBOUND, conn, u, last);
    if (last)
        user_online(&c->roster, u, false);
    if (c->cluster != NULL)
        cluster_closed(c->cluster, u);
    else if (last)
        group_absent(c, u);
}

void
chat_closed(struct chat *c, struct conn *conn)
{
    auth_gone(conn);
    unbind(c, conn, true);
    if (c->hooks != NULL)
        extend_closed(conn); /* of nobody */
}

void
chat_close_user(struct chat *c, struct user *u, int code, const struct conn *except)
{
    for (struct conn *o = u->conns; o != NULL; o = o->next_of_user) {
        if (o == except)
            continue;
        if (code != 0)
            answer_code(c, o, CMD_CLOSE, 0, code);
        conn_finish(o, code != 0 ? WS_POLICY : WS_NORMAL);
    }
}

void
chat_displace(struct chat *c, struct user *u, const struct conn *conn, unsigned proto)
{
    if (c->opt->login_policy == LOGIN_MANY)
        return;
    for (struct conn *o = u->conns; o != NULL; o = o->next_of_user)
        if (o != conn && (c->opt->login_policy == LOGIN_ONE || o->proto == proto)) {
            c->stats->drops[DROP_DISPLACED]++;
            o->reason = REASON_DROPS + DROP_DISPLACED;
            answer_code(c, o, CMD_CLOSE, 0, CODE_ELSEWHERE);
            conn_finish(o, WS_POLICY);
        }
}

/* The groups everybody joins, and those that what is known of him names. */
static void
join_login_groups(struct chat *c, struct user *u, struct str json)
{
    char id_text[MAX_ID], name_text[MAX_ID];
    struct str id, name;
    struct json_iter it;
    struct json title;

    for (size_t i = 0; conf_login_group(conf_login_groups(c->opt), i, &id, &name); i++)
        group_enter(c, u, id, name);
    if (!profile_groups(&it, json))
        return;
    while (profile_next_group(&it, id_text, &id, &title)) {
        size_t n = title.n <= MAX_ID ? json_text(&title, name_text) : 0;
        name = (struct str){name_text, n};
        group_enter(c, u, id, id_ok(name) ? name : STR(""));
    }
}

bool
chat_bind(struct chat *c, struct conn *conn, struct user *u)
{
    c->stats->logins++;
    if (conn->user == u)
        return false;
    unbind(c, conn, false); /* a connection is one user at a time */
    conn->recent = NULL;
    conn->user = u;
    conn->next_of_user = u->conns;
    u->conns = conn;
    bool first = u->nconns++ == 0;
    if (first)
        user_online(&c->roster, u, true);
    conn_logged_in(conn);
    return first;
}

void
chat_login_answer(struct chat *c, struct conn *conn, uint32_t seq, const struct user *u)
{
    struct buf *b = answer_begin(c, CODE_LOGIN_OK, CMD_LOGIN_RESP);

    put_msg(b, CODE_LOGIN_OK);
    json_put_key(b, "user");
    put_user(b, u);
    answer_send(c, conn, CMD_LOGIN_RESP, seq);
}

void
chat_welcome(struct chat *c, struct conn *conn, uint32_t seq, struct str id, struct str json)
{
    if (c->cluster != NULL) {
        cluster_login(c->cluster, conn, seq, id, json);
        return;
    }
    struct user *u = user_get(&c->roster, id), *was = conn->user;
    bool first = chat_bind(c, conn, u), bound = conn->user != was;
    record_learn(c, u, json);
    if (c->hooks != NULL && bound)
        extend_binding(c->hooks, JIM_USER_BOUND, conn, u, NULL, first, false);
    join_login_groups(c, u, json);
    if (c->hooks != NULL)
        extend_groups(c->hooks, JIM_GROUP_BOUND, conn, u, first);
    chat_displace(c, u, conn, conn->proto);
    chat_login_answer(c, conn, seq, u);
    group_present(c, u, conn, first);
}

void
chat_refuse(struct chat *c, struct conn *conn, uint32_t seq, bool later)
{
    struct buf *b = answer_begin(c, CODE_LOGIN_FAILED, CMD_LOGIN_RESP);

    if (later)
        put_text(b, "msg", STR("try later 请稍后再试"));
    else
        put_msg(b, CODE_LOGIN_FAILED);
    answer_send(c, conn, CMD_LOGIN_RESP, seq);
}

/* The open login: who names himself is believed. */
static void
login_open(struct chat *c, struct conn *conn, uint32_t seq, struct str id)
{
    if (id_ok(id)) {
        chat_welcome(c, conn, seq, id, STR(""));
        return;
    }
    c->stats->login_failures++;
    chat_refuse(c, conn, seq, false);
    conn_finish(conn, WS_POLICY);
}

static bool
on_login(struct chat *c, struct conn *from, uint32_t seq, const struct request *r)
{
    char text[MAX_ID];
    struct str id = {0};

    if (c->auth != NULL)
        auth_login(c->auth, from, seq, r);
    else if (r != NULL && request_id(r, F_USER_ID, text, &id))
        login_open(c, from, seq, id);
    else
        login_open(c, from, seq, STR(""));
    return true;
}

void
chat_login_query(struct chat *c, struct conn *from, struct str user, struct str password,
                 struct str token)
{
    char text[3 * MAX_ID];
    ptrdiff_t n = -1;

    if (c->auth != NULL) {
        auth_login_query(c->auth, from, user, password, token);
        return;
    }
    if (user.n <= sizeof text)
        n = url_decode(text, user, true);
    login_open(c, from, 0, (struct str){text, n > 0 ? (size_t)n : 0});
}

/* --- commands --------------------------------------------------------------------------------- */

static bool
on_handshake(struct chat *c, struct conn *from, uint32_t seq, const struct request *r)
{
    (void)r; /* empty, JSON or one raw byte: it is not looked at */
    if (c->hooks != NULL && !extend_handshake(from, NULL)) {
        conn_finish(from, WS_POLICY);
        return true;
    }
    static const char data[] = ",\"data\":{\"hbyte\":-127}";
    buf_add(answer_begin(c, 0, CMD_HANDSHAKE_RESP), data, sizeof data - 1);
    answer_send(c, from, CMD_HANDSHAKE_RESP, seq);
    return true;
}

static bool
on_heartbeat(struct chat *c, struct conn *from, uint32_t seq, const struct request *r)
{
    (void)r;
    static const char data[] = ",\"data\":{\"hbbyte\":-128}";
    buf_add(answer_begin(c, 0, CMD_HEARTBEAT), data, sizeof data - 1);
    answer_send(c, from, CMD_HEARTBEAT, seq);
    return true;
}

/* Is this a token? Where none are checked, any will do. */
static bool
token_ok(const struct chat *c, const struct json *v)
{
    struct buf text = {0}, claims = {0};
    char id_text[MAX_ID];
    struct str id;

    if (v->type == JSON_NONE || v->n == 0)
        return false;
    if (c->opt->auth != AUTH_TOKEN)
        return true;
    if (v->type != JSON_STRING || v->n > MAX_TOKEN)
        return false;
    buf_reserve(&text, v->n);
    text.len = json_text(v, text.p);
    bool ok = token_check((struct str){text.p, text.len}, str_of(c->opt->token_secret),
                          c->now_ms() / 1000, &claims, id_text, &id) == NULL;
    buf_free(&text);
    buf_free(&claims);
    return ok;
}

static bool
on_auth(struct chat *c, struct conn *from, uint32_t seq, const struct request *r)
{
    int64_t create;

    if (r == NULL || !token_ok(c, &r->f[F_TOKEN])) {
        answer_code(c, from, CMD_AUTH_RESP, seq, CODE_AUTH_FAILED);
        return true;
    }
    struct buf *b = answer_begin(c, CODE_AUTH_OK, CMD_AUTH_RESP);
    json_put_key(b, "data");
    buf_add(b, "{", 1);
    if (request_int(r, F_CREATE_TIME, 0, &create) > 0) {
        json_put_key(b, "createTime");
        json_put_int(b, create);
    }
    if (r->f[F_EXTRAS].type == JSON_OBJECT) {
        json_put_key(b, "extras");
        json_put_value(b, &r->f[F_EXTRAS]);
    }
    put_field(b, "id", &r->f[F_ID]);
    put_field(b, "token", &r->f[F_TOKEN]);
    buf_add(b, "}", 1);
    put_msg(b, CODE_AUTH_OK);
    answer_send(c, from, CMD_AUTH_RESP, seq);
    return true;
}

static bool
on_close(struct chat *c, struct conn *from, uint32_t seq, const struct request *r)
{
    char text[MAX_ID];
    struct str id;
    bool named = r != NULL && r->f[F_USER_ID].type != JSON_NONE;
    bool own = named && from->user != NULL && request_id(r, F_USER_ID, text, &id) &&
               str_eq(id, user_id(from->user));
    int code = r == NULL ? CODE_INVALID : named && !own ? CODE_FORBIDDEN : CODE_CLOSED;

    answer_code(c, from, CMD_CLOSE, seq, code);
    if (code != CODE_CLOSED)
        return true;
    if (own && c->cluster != NULL)
        cluster_close_user(c->cluster, user_id(from->user), 0);
    if (own)
        chat_close_user(c, from->user, 0, from);
    conn_finish(from, WS_NORMAL);
    return true;
}

static const struct handler {
    bool (*fn)(struct chat *, struct conn *, uint32_t seq, const struct request *); /* request NULL:
                                                     not JSON; false: has to wait, nothing done */
    uint8_t answer; /* command of its answer */
    bool login;     /* needs one */
} handlers[COMMANDS] = {
    [CMD_HANDSHAKE] = {on_handshake, CMD_HANDSHAKE_RESP, false},
    [CMD_AUTH] = {on_auth, CMD_AUTH_RESP, false},
    [CMD_LOGIN] = {on_login, CMD_LOGIN_RESP, false},
    [CMD_JOIN] = {group_join, CMD_JOIN_RESP, true},
    [CMD_CHAT] = {send_chat, CMD_CHAT_RESP, true},
    [CMD_HEARTBEAT] = {on_heartbeat, CMD_HEARTBEAT, false},
    [CMD_CLOSE] = {on_close, CMD_CLOSE, false},
    [CMD_USER] = {query_user, CMD_USER_RESP, true},
    [CMD_MESSAGES] = {query_messages, CMD_MESSAGES_RESP, true},
    [CMD_LEAVE] = {group_leave, CMD_LEAVE_RESP, true},
};

/* In a cluster Redis has to be asked first. */
static const struct handler far[COMMANDS] = {
    [CMD_JOIN] = {cluster_join, CMD_JOIN_RESP, true},
    [CMD_USER] = {cluster_user, CMD_USER_RESP, true},
    [CMD_MESSAGES] = {cluster_messages, CMD_MESSAGES_RESP, true},
    [CMD_LEAVE] = {cluster_leave, CMD_LEAVE_RESP, true},
};

/*
 * A bucket of `burst` requests that fills at `rate` a second, kept as the one moment at which it
 * will be full again. Time is that of the last bytes read: no clock call for it.
 */
static int64_t
bucket_after(const struct chat *c, const struct conn *from, uint32_t n)
{
    int64_t now = from->read_ms * 1000;

    return (from->bucket_us > now ? from->bucket_us : now) + n * (1000000 / c->opt->rate);
}

bool
chat_rate_ok(const struct chat *c, const struct conn *from)
{
    return c->opt->rate <= 0 || bucket_after(c, from, 1) - from->read_ms * 1000 <=
                                    c->opt->burst * (1000000 / c->opt->rate);
}

void
chat_rate_take(const struct chat *c, struct conn *from, uint32_t n)
{
    if (c->opt->rate > 0)
        from->bucket_us = bucket_after(c, from, n);
}

/* The command's number: the frame's, or what the JSON says; -1 when it says none that makes
 * sense. */
static int
command_of(int cmd, const struct request *r, bool parsed)
{
    int64_t n;

    if (cmd >= 0)
        return cmd;
    return parsed && request_int(r, F_CMD, -1, &n) > 0 && n >= 0 && n <= MAX_COMMAND ? (int)n : -1;
}

/* Who handles a command beyond the tables: the embedding program, or nobody. */
static ASIDE const struct handler *
handler_beyond(const struct chat *c, int n, struct str json)
{
    static const struct handler unknown = {NULL, CMD_UNKNOWN, false},
                                own_open = {extend_command, CMD_UNKNOWN, false},
                                own_login = {extend_command, CMD_UNKNOWN, true};
    const struct own_command *own =
        n > 0 && c->hooks != NULL ? extend_command_find(c->hooks, n, json) : NULL;

    return own == NULL ? &unknown : own->open ? &own_open : &own_login;
}

static inline const struct handler *
handler_of(const struct chat *c, int n, struct str json)
{
    if (n < 0 || n >= COMMANDS)
        return handler_beyond(c, n, json);
    return c->cluster != NULL && far[n].fn != NULL ? &far[n] : &handlers[n];
}

/* Answers are owed for commands before it: may it be taken all the same? A message may, for its own
 * answer comes behind them; and joins among themselves, so that one write to the disk is for all.
 * (Hooks are asked once for each.) */
static bool
may_overtake(const struct chat *c, const struct conn *from, int n)
{
    if (n == CMD_JOIN)
        return from->joining && c->hooks == NULL;
    return n == CMD_CHAT && from->login == NULL && !from->parked &&
           (c->cluster == NULL || !cluster_slow(c->cluster));
}

/* What is done also when there is no memory to be had. */
static bool
is_free(int n)
{
    return n == CMD_HANDSHAKE || n == CMD_HEARTBEAT || n == CMD_CLOSE;
}

/* May he have this done? 0, or the code to refuse it with. */
static int
command_allowed(const struct chat *c, const struct conn *from, int n, const struct handler *h)
{
    if (h->fn == NULL)
        return CODE_UNKNOWN_COMMAND;
    if (memory_full(from->jim) && !is_free(n))
        return CODE_STORE;
    return from->user == NULL && h->login && c->opt->login_required ? CODE_NOT_LOGGED_IN : 0;
}

static ASIDE void
command_refuse(struct chat *c, struct conn *from, int n, uint32_t seq, const struct handler *h,
               int code)
{
    c->stats->pressed += code == CODE_STORE;
    if (h->fn == send_chat)
        send_refused(c, code);
    answer_code(c, from, h->fn == extend_command ? (uint8_t)n : h->answer, seq, code);
}

bool
chat_command(struct chat *c, struct conn *from, int cmd, uint32_t seq, struct str json)
{
    struct request r;
    bool parsed = request_parse_like(&r, json.n > 0 ? json : STR("{}"), &c->order);
    int n = command_of(cmd, &r, parsed);
    const struct handler *h = handler_of(c, n, json);

    if (from->deferred > 0 && !may_overtake(c, from, n))
        return false;
    bool in_time = chat_rate_ok(c, from);
    int code = in_time ? command_allowed(c, from, n, h) : CODE_RATE;
    if (code == 0) {
        if (!h->fn(c, from, seq, parsed ? &r : NULL))
            return false;
    } else if (from->deferred > 0) {
        return false; /* a refusal does not overtake */
    } else {
        command_refuse(c, from, n, seq, h, code);
    }
    if (in_time) /* not before: a command that has to wait comes here twice */
        chat_rate_take(c, from, 1);
    c->stats->requests++;
    return true;
}

/* --- start ------------------------------------------------------------------------------------ */

void
chat_init(struct chat *c, const struct options *opt, const struct log *log, struct stats *stats)
{
    *c = (struct chat){.opt = opt, .log = log, .stats = stats, .now_ms = time_wall_ms,
                       .burst_ms = -1};
    roster_init(&c->roster);
    retry_init(&c->retries);
    random_bytes(c->id_key, sizeof c->id_key);
}

void
chat_free(struct chat *c)
{
    while (c->pending_n > 0) {
        deliver_forget(&c->pending[c->pending_head]);
        c->pending_head = (c->pending_head + 1) & (c->pending_cap - 1);
        c->pending_n--;
    }
    deliver_bundle_end(c);
    for (; c->wave_n > 0; c->wave_n--) {
        deliver_forget(&c->wave[c->wave_head].p);
        c->wave_head = (c->wave_head + 1) & (c->wave_cap - 1);
    }
    if (c->retries.ring != NULL)
        roster_free(&c->roster);
    retry_free(&c->retries);
    free(c->pending);
    free(c->wave);
    free(c->announce);
    free(c->redo);
    buf_free(&c->out);
    buf_free(&c->line);
    *c = (struct chat){0};
}

