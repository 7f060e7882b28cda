/* SPDX-License-Identifier: MIT */
/*
 * cluster_login.c - who is where. Each node writes down, for every user connected to it, that he is
 * there: with the user (how many connections, and of what kind), and in each of his groups. A
 * user's first node in a group and his last one are what the other members hear of.
 *
 *   telling     notices to those in a group, wherever they are
 *   login       what is known of a user, then his groups, then the answer
 *   leaving     the last connection here has gone
 *   again       all is written once more, in case Redis has forgotten, or was told wrong
 *   the dead    users of a node that does not renew its lease
 *   words       what other nodes say
 */
#include "jim.h"

#include <stdlib.h>

#define REAP 64 /* a dead node's users taken off at a time */

/* --- telling ---------------------------------------------------------------------------------- */

void
tell_here(struct cluster *k, struct str key, struct msg *m, struct str but)
{
    struct conv *v = conv_find_key(&k->chat->roster, key);

    for (uint32_t i = 0; v != NULL && v->group && i < v->nonline; i++)
        if (!str_eq(user_id(v->member[i]->user), but))
            for (struct conn *o = v->member[i]->user->conns; o != NULL; o = o->next_of_user)
                conn_send(o, m, NULL);
}

/* The nodes: elements of `nodes` from `first` on. */
void
tell_group(struct cluster *k, struct str key, struct msg *m, struct str but, int64_t online,
           const struct redis_reply *nodes, size_t first)
{
    char head[MAX_CONV_KEY + 3 * MAX_ID + 32], text[3 * MAX_ID];
    struct str user = user_key(but, text);
    const struct redis_reply *e = redis_at(nodes, first);

    if (online > k->chat->opt->notify_max)
        return;
    tell_here(k, key, m, but);
    int n = snprintf(head, sizeof head, "n %u %.*s %.*s", m->command, (int)key.n, key.p,
                     (int)user.n, user.p);
    for (size_t i = first; i < reply_count(nodes); i++, e = redis_next(e))
        far_route(k, redis_text(e), (struct str){head, (size_t)n}, (struct str){m->data, m->len});
}

unsigned
presence_of(const struct redis_reply *r)
{
    struct str text = redis_text(redis_at(r, 1)), count;

    if (text.n == 0 || !str_split(&text, ' ', &count))
        return PROTO_NONE;
    return str_eq(text, STR("ws")) ? PROTO_WS : str_eq(text, STR("tcp")) ? PROTO_TCP : PROTO_HTTP;
}

/* --- login ------------------------------------------------------------------------------------ */

struct far_group { /* a group he is in, or comes into */
    char id[MAX_ID];
    uint8_t idlen, namelen;
    char name[MAX_ID];
    bool joins;          /* by this login */
    bool in, fresh, first;
    int64_t online;
    struct buf nodes;    /* names, NUL-terminated */
    size_t nnodes;
};

struct login_op {
    struct op op;
    struct user *user;   /* pinned */
    struct buf json;     /* what auth.c knows of him */
    struct far_group *group; /* owned */
    size_t groups, cap;
    bool news;           /* his profile has to be written */
};

static void
login_free_op(struct op *o)
{
    struct login_op *l = container_of(o, struct login_op, op);

    l->user->pins--;
    for (size_t i = 0; i < l->groups; i++)
        buf_free(&l->group[i].nodes);
    free(l->group);
    buf_free(&l->json);
}

static struct far_group *
add_group(struct login_op *l, struct str id)
{
    for (size_t i = 0; i < l->groups; i++)
        if (str_eq((struct str){l->group[i].id, l->group[i].idlen}, id))
            return &l->group[i];
    GROW(l->group, l->groups, l->cap, 8);
    struct far_group *g = &l->group[l->groups++];
    *g = (struct far_group){.idlen = (uint8_t)id.n};
    memcpy(g->id, id.p, id.n);
    return g;
}

static void
add_joining(struct login_op *l, struct str id, struct str name)
{
    struct far_group *g = add_group(l, id);

    g->joins = true;
    if (name.n <= MAX_ID && g->namelen == 0) {
        memcpy(g->name, name.p, name.n);
        g->namelen = (uint8_t)name.n;
    }
}

/* As join_login_groups() of chat.c: the groups everybody joins, and those his User object names. */
static void
add_login_groups(struct login_op *l)
{
    const struct options *opt = l->op.k->chat->opt;
    char id_text[MAX_ID], name_text[MAX_ID];
    struct str id, name;
    struct json_iter it;
    struct json title;

    for (size_t i = 0; conf_login_group(conf_login_groups(opt), i, &id, &name); i++)
        add_joining(l, id, name);
    if (!profile_groups(&it, (struct str){l->json.p, l->json.len}))
        return;
    while (profile_next_group(&it, id_text, &id, &title)) {
        size_t n = title.n <= MAX_ID ? json_text(&title, name_text) : 0;
        name = (struct str){name_text, n};
        add_joining(l, id, id_ok(name) ? name : STR(""));
    }
}

static void
ask_presence(struct op *o, struct str user, const struct user *u, uint32_t conns, unsigned proto)
{
    char text[32];

    ask_plain(o, "HSET", 3);
    put_key(o, 'u', user, ":n");
    put_arg(o, cluster_self(o->k));
    snprintf(text, sizeof text, "%u %s", conns,
             u->conns != NULL ? conn_terminal(u->conns) : proto_name(proto));
    put_arg(o, str_of(text));
    ask_end(o, 'u', user, UINT32_MAX);
}

struct member *
far_member(struct cluster *k, struct user *u, struct conv *v, struct str cursor, uint64_t seq)
{
    struct roster *r = &k->chat->roster;
    struct member *m = member_of(r, u, v);
    struct str part[3] = {{0}};
    uint64_t n[3] = {0};

    far_base(k, v, seq);
    if (m != NULL && !m->left)
        return m;
    group_revive(r, v);
    m = member_add(r, u, v);
    for (int i = 0; i < 3 && str_split(&cursor, ' ', &part[i]); i++)
        if (!far_number(part[i], &n[i]))
            n[i] = 0; /* it is, or is none: a second delivery then, never a loss */
    m->cursor = n[0];
    m->live_lo = n[1];
    m->live_hi = n[2];
    return m;
}

/* Replies of script_enter, one a group. Its conversation is looked after from here on: what comes
 * for it before the login is answered is for the offline messages. */
static void
entered(struct op *o, uint32_t n, const struct redis_reply *r)
{
    struct login_op *l = container_of(o, struct login_op, op);

    if (n >= l->groups)
        return;
    struct far_group *g = &l->group[n];
    struct str id = {g->id, g->idlen};
    uint64_t seq;
    int state = far_entered(o->k, r, &seq);
    o->failed |= state < 0;
    g->in = state == 1;
    g->fresh = redis_int(redis_at(r, 1), 0) == 1;
    g->first = redis_int(redis_at(r, 2), 0) == 1;
    g->online = redis_int(redis_at(r, 5), 0);
    if (!g->in)
        return;
    if (redis_int(redis_at(r, 3), 0) == 1)
        g->joins = true; /* and it has to be listed */
    const struct redis_reply *e = redis_at(r, 7);
    for (size_t i = 7; i < reply_count(r); i++, e = redis_next(e)) {
        buf_str(&g->nodes, redis_text(e));
        buf_add(&g->nodes, "", 1);
        g->nnodes++;
    }
    far_member(o->k, l->user, group_get(&o->k->chat->roster, id), redis_text(redis_at(r, 6)),
               seq);
    if (redis_int(redis_at(r, 3), 0) == 1) {
        struct op *index = op_new(o->k, sizeof *index, NULL, op_end, NULL);
        ask_index(index, 'G', id, 0, NULL);
        op_sent(index);
    }
}

static void
tell_entered(struct login_op *l, struct conn *own)
{
    struct cluster *k = l->op.k;
    char text[MAX_CONV_KEY], head[MAX_CONV_KEY + 3 * MAX_ID + 32], user_text[3 * MAX_ID];
    struct str user = user_key(user_id(l->user), user_text);

    for (size_t i = 0; i < l->groups; i++) {
        struct far_group *g = &l->group[i];
        struct str id = {g->id, g->idlen}, key = group_key(id, text);
        if (!g->in)
            continue;
        struct msg *m = group_joined_msg(k->chat, id, l->user, true);
        conn_send(own, m, NULL);
        if ((g->first || g->fresh) && g->online <= k->chat->opt->notify_max) {
            const char *p = g->nodes.p;
            tell_here(k, key, m, user_id(l->user));
            int n = snprintf(head, sizeof head, "n %u %.*s %.*s", m->command, (int)key.n, key.p,
                             (int)user.n, user.p);
            for (size_t at = 0; at < g->nnodes; at++) {
                far_route(k, str_of(p), (struct str){head, (size_t)n},
                          (struct str){m->data, m->len});
                p += str_of(p).n + 1;
            }
        }
        msg_unref(m);
    }
}

/* A group he has left, or that is gone, since his list was written. */
static void
drop_stale(struct login_op *l)
{
    struct cluster *k = l->op.k;
    char text[MAX_CONV_KEY], user_text[3 * MAX_ID];
    struct str user = user_key(user_id(l->user), user_text);

    for (size_t i = 0; i < l->groups; i++) {
        struct far_group *g = &l->group[i];
        struct str id = {g->id, g->idlen};
        if (g->in)
            continue;
        struct conv *v = group_find_any(&k->chat->roster, id);
        struct member *m = v != NULL ? member_of(&k->chat->roster, l->user, v) : NULL;
        if (m != NULL && !m->left)
            member_leave(m);
        struct op *o = op_new(k, sizeof *o, NULL, op_end, NULL);
        o->quiet = true;
        ask_plain(o, "SREM", 2);
        put_key(o, 'u', user, ":g");
        put_arg(o, group_key(id, text));
        ask_end(o, 'u', user, 0);
        op_sent(o);
    }
}

static void
login_done(struct op *o)
{
    struct login_op *l = container_of(o, struct login_op, op);
    struct cluster *k = o->k;
    struct chat *c = k->chat;
    struct conn *conn = o->conn;
    struct user *u = l->user;

    if (o->failed && op_alive(o)) {
        c->stats->logins_later++;
        chat_refuse(c, conn, o->seq, true);
    } else if (op_alive(o)) {
        drop_stale(l);
        chat_bind(c, conn, u);
        chat_displace(c, u, conn, conn->proto);
        chat_login_answer(c, conn, o->seq, u);
        tell_entered(l, conn);
    }
    bool refuse = o->failed && op_alive(o);
    if (--u->coming == 0 && u->nconns == 0 && !k->gone)
        presence_leave(k, u);
    op_end(o);
    if (refuse)
        conn_finish(conn, WS_POLICY);
}

/* Now the groups. */
static void
login_groups(struct op *o)
{
    struct login_op *l = container_of(o, struct login_op, op);
    char text[MAX_CONV_KEY];
    struct buf p = {0};

    if (o->failed || o->k->gone) {
        o->failed = true;
        login_done(o);
        return;
    }
    bool news = profile_set(l->user, (struct str){l->json.p, l->json.len}) || l->news;
    op_next(o, entered, login_done);
    if (news) {
        char user_text[3 * MAX_ID];
        struct str user = user_key(user_id(l->user), user_text);
        record_put_user(&p, l->user);
        ask_plain(o, "HSET", 3);
        put_key(o, 'u', user, "");
        put_arg(o, STR("p"));
        put_arg(o, (struct str){p.p, p.len});
        ask_end(o, 'u', user, UINT32_MAX);
        buf_free(&p);
    }
    for (size_t i = 0; i < l->groups; i++) {
        struct far_group *g = &l->group[i];
        struct str id = {g->id, g->idlen}, key = group_key(id, text);
        ask_script(o, SCRIPT_ENTER, 5, 5);
        put_group_keys(o, key);
        put_arg(o, user_id(l->user));
        put_arg(o, cluster_self(o->k));
        put_arg(o, g->joins ? STR("1") : STR("0"));
        put_arg(o, (struct str){g->name, g->namelen});
        put_arg(o, id);
        ask_end(o, 'c', key, (uint32_t)i);
    }
    op_sent(o);
}

/* jim.login.policy, on the other nodes he is connected to. */
static void
displace_elsewhere(struct login_op *l, const struct redis_reply *others)
{
    struct cluster *k = l->op.k;
    char head[3 * MAX_ID + 16], text[3 * MAX_ID];
    struct str user = user_key(user_id(l->user), text);
    const struct redis_reply *e = redis_at(others, 0);

    if (k->chat->opt->login_policy == LOGIN_MANY || l->op.conn == NULL)
        return;
    int n = snprintf(head, sizeof head, "d %.*s %s", (int)user.n, user.p,
                     conn_terminal(l->op.conn));
    for (size_t i = 0; i + 1 < reply_count(others); i += 2) {
        far_route(k, redis_text(e), (struct str){head, (size_t)n}, STR(""));
        e = redis_next(redis_next(e));
    }
}

static void
login_known(struct op *o, uint32_t n, const struct redis_reply *r)
{
    struct login_op *l = container_of(o, struct login_op, op);
    struct str profile = redis_text(redis_at(r, 0)), key, part;
    const struct redis_reply *list = redis_at(r, 2), *e = redis_at(list, 0);
    char text[MAX_ID];

    if (n != 0)
        return;
    l->news = profile.n == 0;
    if (profile.n > 0)
        profile_set(l->user, profile);
    for (size_t i = 0; i < reply_count(list); i++, e = redis_next(e)) {
        struct str id;
        key = redis_text(e);
        if (str_split(&key, ':', &part) && key.p != NULL && id_unescape(key, text, &id))
            add_group(l, id);
    }
    displace_elsewhere(l, redis_at(r, 1));
}

void
cluster_login(struct cluster *k, struct conn *c, uint32_t seq, struct str id, struct str json)
{
    struct chat *chat = k->chat;
    char text[3 * MAX_ID], group_text[MAX_CONV_KEY], presence[32];
    struct str user = user_key(id, text);

    if (!cluster_can(k)) {
        chat->stats->logins_later++;
        chat_refuse(chat, c, seq, true);
        conn_finish(c, WS_POLICY);
        return;
    }
    struct op *o = op_of_command(k, sizeof(struct login_op), c, seq, login_known, login_groups,
                                 login_free_op);
    struct login_op *l = container_of(o, struct login_op, op);
    l->user = user_get(&chat->roster, id);
    l->user->pins++;
    l->user->coming++;
    buf_str(&l->json, json);
    add_login_groups(l);
    ask_plain(o, "SADD", 2);
    put_key(o, 'n', cluster_self(k), ":u");
    put_arg(o, user);
    ask_end(o, 'n', cluster_self(k), 1);
    ask_index(o, 'U', id, 0, NULL);
    snprintf(presence, sizeof presence, "%u %s",
             l->user->nconns + l->user->coming - (c->user == l->user), conn_terminal(c));
    ask_script(o, SCRIPT_LOGIN, 3, 2 + l->groups);
    put_key(o, 'u', user, "");
    put_key(o, 'u', user, ":g");
    put_key(o, 'u', user, ":n");
    put_arg(o, cluster_self(k));
    put_arg(o, str_of(presence));
    for (size_t i = 0; i < l->groups; i++)
        put_arg(o, group_key((struct str){l->group[i].id, l->group[i].idlen}, group_text));
    ask_end(o, 'u', user, 0);
    op_sent(o);
}

/* --- leaving ---------------------------------------------------------------------------------- */

struct reap_op { /* a dead node's users are being taken off */
    struct op op;
    char node[NODE_ID];
    uint8_t nodelen;
    size_t busy;   /* users being taken off, and one while they are being made */
    bool failed;   /* some are left for the next time */
    size_t found;
};

struct leave_op { /* a user goes off a node: of ours, or of a dead one */
    struct op op;
    char id[MAX_ID];
    uint8_t idlen;
    char node[NODE_ID];
    uint8_t nodelen;
    struct user *user; /* pinned; ours, with all that is known of him; NULL: of a dead node */
    struct user *shown; /* for the notices; owned when user is NULL */
    char **group;      /* owned ids, in the order of the commands; owned */
    size_t groups;
    bool nowhere;      /* he is on no node any more */
    struct timer again;
    struct reap_op *reap; /* the dead node's; NULL */
};

static void reap_one_less(struct reap_op *r);

static struct str
leave_id(const struct leave_op *l)
{
    return (struct str){l->id, l->idlen};
}

static void
leave_groups_free(struct leave_op *l)
{
    for (size_t i = 0; i < l->groups; i++)
        free(l->group[i]);
    free(l->group);
    l->group = NULL;
    l->groups = 0;
}

static void
leave_free(struct op *o)
{
    struct leave_op *l = container_of(o, struct leave_op, op);

    loop_timer_clear(o->k->jim->loop, &l->again);
    leave_groups_free(l);
    if (l->user != NULL) {
        l->user->pins--;
    } else if (l->shown != NULL) {
        profile_free(l->shown);
        free(l->shown);
    }
    if (l->reap != NULL)
        reap_one_less(l->reap);
}

static void
leave_group_add(struct leave_op *l, struct str id)
{
    l->group = xrealloc(l->group, (l->groups + 1) * sizeof *l->group);
    l->group[l->groups++] = xstrndup(id.p, id.n);
}

static void
ask_exits(struct leave_op *l)
{
    struct op *o = &l->op;
    char text[MAX_CONV_KEY];

    for (size_t i = 0; i < l->groups; i++) {
        struct str key = group_key(str_of(l->group[i]), text);
        ask_script(o, SCRIPT_EXIT, 5, 2);
        put_group_keys(o, key);
        put_arg(o, leave_id(l));
        put_arg(o, (struct str){l->node, l->nodelen});
        ask_end(o, 'c', key, (uint32_t)i);
    }
}

static void
ask_away(struct leave_op *l)
{
    struct op *o = &l->op;
    char text[3 * MAX_ID];
    struct str user = user_key(leave_id(l), text);

    ask_script(o, SCRIPT_AWAY, 3, 1);
    put_key(o, 'u', user, "");
    put_key(o, 'u', user, ":g");
    put_key(o, 'u', user, ":n");
    put_arg(o, (struct str){l->node, l->nodelen});
    ask_end(o, 'u', user, UINT32_MAX - 1);
}

/* The user's entry goes last: a node that dies before it has done the rest has it on its list. */
static void
leave_last(struct op *o)
{
    struct leave_op *l = container_of(o, struct leave_op, op);
    char text[3 * MAX_ID];
    struct str user = user_key(leave_id(l), text), node = {l->node, l->nodelen};
    bool away = l->user == NULL || l->user->nconns + l->user->coming == 0;

    if (o->failed || o->k->gone) {
        if (l->reap != NULL)
            l->reap->failed = true;
        op_end(o);
        return;
    }
    op_next(o, NULL, op_end);
    if (away) {
        ask_plain(o, "SREM", 2);
        put_key(o, 'n', node, ":u");
        put_arg(o, user);
        ask_end(o, 'n', node, 0);
    }
    if (l->nowhere && away)
        ask_index(o, 'U', leave_id(l), 1, "XX");
    op_sent(o);
}

static void
left_group(struct leave_op *l, size_t i, const struct redis_reply *r)
{
    struct cluster *k = l->op.k;
    char text[MAX_CONV_KEY];
    struct str id = str_of(l->group[i]);

    if (redis_int(redis_at(r, 0), 0) != 1 || redis_int(redis_at(r, 1), 0) == 0)
        return;
    struct msg *m = group_left_msg(k->chat, id, l->shown, false);
    tell_group(k, group_key(id, text), m, leave_id(l), redis_int(redis_at(r, 1), 0), r, 2);
    msg_unref(m);
}

static void
leave_reply(struct op *o, uint32_t n, const struct redis_reply *r)
{
    struct leave_op *l = container_of(o, struct leave_op, op);

    if (n == UINT32_MAX - 1)
        l->nowhere = redis_int(redis_at(r, 0), 0) == 0;
    else if (n < l->groups)
        left_group(l, n, r);
}

static void leave_ask(struct leave_op *l);

static void
leave_again(struct timer *t)
{
    struct leave_op *l = container_of(t, struct leave_op, again);

    if (l->user->nconns + l->user->coming > 0) /* he is back */
        op_end(&l->op);
    else
        leave_ask(l);
}

/* Redis must hear of it, or he stays online as long as this node lives. */
static void
leave_step(struct op *o)
{
    struct leave_op *l = container_of(o, struct leave_op, op);

    if (o->failed && !o->k->gone)
        loop_timer(o->k->jim->loop, &l->again, loop_now(o->k->jim->loop) + 1000, leave_again);
    else
        leave_last(o);
}

static void
leave_ask(struct leave_op *l)
{
    op_next(&l->op, leave_reply, leave_step);
    ask_away(l);
    ask_exits(l);
    op_sent(&l->op);
}

/* His last connection here has gone. All in one go: should he log in again at once, that must come
 * behind it. */
void
presence_leave(struct cluster *k, struct user *u)
{
    struct op *o = op_new(k, sizeof(struct leave_op), NULL, NULL, leave_free);
    struct leave_op *l = container_of(o, struct leave_op, op);
    struct str self = cluster_self(k);

    memcpy(l->id, u->id, u->idlen);
    l->idlen = u->idlen;
    memcpy(l->node, self.p, self.n);
    l->nodelen = (uint8_t)self.n;
    l->user = l->shown = u;
    u->pins++;
    far_save_user(k, u);
    for (struct member *m = u->members; m != NULL; m = m->next_of_user) {
        struct conv *v = m->conv;
        if (v->group && !m->left) {
            leave_group_add(l, str_of(v->id));
            if (!far_wanted(v))
                far_unbase(k, v);
        } else if (!v->group && !far_wanted(v)) {
            far_unbase(k, v);
        }
    }
    leave_ask(l);
}

void
cluster_closed(struct cluster *k, struct user *u)
{
    char text[3 * MAX_ID];
    struct str user = user_key(user_id(u), text);

    if (k->gone || (u->nconns == 0 && u->coming > 0))
        return; /* a login of his has said already how it will be */
    if (u->nconns == 0) {
        presence_leave(k, u);
        return;
    }
    struct op *o = op_new(k, sizeof *o, NULL, op_end, NULL);
    o->quiet = true;
    ask_presence(o, user, u, u->nconns, PROTO_NONE);
    op_sent(o);
}

/* --- again ------------------------------------------------------------------------------------ */

struct again_op {
    struct op op;
    struct user *user; /* pinned */
    struct conv **conv; /* pinned, in the order of the commands; owned */
    size_t convs;
};

static void
again_free(struct op *o)
{
    struct again_op *q = container_of(o, struct again_op, op);

    q->user->pins--;
    for (size_t i = 0; i < q->convs; i++)
        q->conv[i]->pins--;
    free(q->conv);
}

static void
again_reply(struct op *o, uint32_t n, const struct redis_reply *r)
{
    struct again_op *q = container_of(o, struct again_op, op);
    struct cluster *k = o->k;

    if (n >= q->convs)
        return;
    struct conv *v = q->conv[n];
    struct member *m = member_of(&k->chat->roster, q->user, v);
    uint64_t seq;
    if (m == NULL || m->left || q->user->nconns == 0)
        return;
    int state = far_entered(k, r, &seq);
    if (state == 0 || state == 2)
        member_leave(m); /* while Redis was away, or its word got lost */
    if (state != 1)
        return;
    far_base(k, v, seq);
    if (redis_int(redis_at(r, 2), 0) != 1)
        return;
    struct msg *notice = group_joined_msg(k->chat, str_of(v->id), q->user, true);
    tell_group(k, conv_key(v), notice, user_id(q->user), redis_int(redis_at(r, 5), 0), r, 7);
    msg_unref(notice);
}

/* He may have gone meanwhile: then what presence_leave() has asked for came first, and is asked
 * again. */
static void
again_step(struct op *o)
{
    struct again_op *q = container_of(o, struct again_op, op);
    struct cluster *k = o->k;
    struct user *u = q->user;
    if (u->nconns + u->coming == 0 && !k->gone)
        presence_leave(k, u);
    op_end(o);
}

void
presence_again(struct cluster *k, struct user *u)
{
    char text[3 * MAX_ID];
    struct str user = user_key(user_id(u), text);
    struct op *o = op_new(k, sizeof(struct again_op), again_reply, again_step, again_free);
    struct again_op *q = container_of(o, struct again_op, op);

    o->quiet = true;
    q->user = u;
    u->pins++;
    ask_plain(o, "SADD", 2);
    put_key(o, 'n', cluster_self(k), ":u");
    put_arg(o, user);
    ask_end(o, 'n', cluster_self(k), UINT32_MAX);
    ask_presence(o, user, u, u->nconns, PROTO_NONE);
    ask_index(o, 'U', user_id(u), 0, NULL);
    q->conv = xmalloc((u->joined + 1) * sizeof q->conv[0]);
    for (struct member *m = u->members; m != NULL; m = m->next_of_user) {
        struct conv *v = m->conv;
        if (!v->group || m->left || q->convs == u->joined)
            continue;
        q->conv[q->convs] = v;
        v->pins++;
        ask_enter(o, u, v, (uint32_t)q->convs++);
    }
    op_sent(o);
}

/* --- the dead --------------------------------------------------------------------------------- */

static void reap_some(struct reap_op *q);

static struct str
reap_node(const struct reap_op *q)
{
    return (struct str){q->node, q->nodelen};
}

static void
reap_end(struct reap_op *q)
{
    struct op *o = &q->op;

    op_next(o, NULL, op_end);
    ask_script(o, SCRIPT_REAPED, 3, 1);
    put_key(o, 's', STR("nodes"), "");
    put_key(o, 's', STR("nodes"), ":i");
    put_key(o, 's', STR("nodes"), ":r");
    put_arg(o, reap_node(q));
    ask_end(o, 's', STR("nodes"), 0);
    ask_plain(o, "DEL", 1);
    put_key(o, 'n', reap_node(q), "");
    ask_end(o, 'n', reap_node(q), 0);
    op_sent(o);
}

static void
reap_one_less(struct reap_op *q)
{
    if (--q->busy > 0)
        return;
    if (q->failed || q->op.k->gone)
        op_end(&q->op); /* whoever sees it next goes on */
    else if (q->found > 0)
        reap_some(q);
    else
        reap_end(q);
}

/* What is known of him, and his groups: then those. */
static void
reap_known(struct op *o, uint32_t n, const struct redis_reply *r)
{
    struct leave_op *l = container_of(o, struct leave_op, op);
    const struct redis_reply *list = redis_at(r, 2), *e = redis_at(list, 0);
    char text[MAX_ID];

    (void)n;
    l->nowhere = redis_int(redis_at(r, 0), 0) == 0;
    profile_set(l->shown, redis_text(redis_at(r, 1)));
    for (size_t i = 0; i < reply_count(list); i++, e = redis_next(e)) {
        struct str key = redis_text(e), part, id;
        if (str_split(&key, ':', &part) && key.p != NULL && id_unescape(key, text, &id))
            leave_group_add(l, id);
    }
}

static void
reap_groups(struct op *o)
{
    struct leave_op *l = container_of(o, struct leave_op, op);

    if (o->failed || o->k->gone) {
        l->reap->failed = true;
        op_end(o);
        return;
    }
    op_next(o, leave_reply, leave_last);
    ask_exits(l);
    op_sent(o);
}

static void
reap_user(struct reap_op *q, struct str id)
{
    struct op *o = op_new(q->op.k, sizeof(struct leave_op), reap_known, reap_groups, leave_free);
    struct leave_op *l = container_of(o, struct leave_op, op);

    o->quiet = true;
    q->busy++;
    l->reap = q;
    memcpy(l->id, id.p, id.n);
    l->idlen = (uint8_t)id.n;
    memcpy(l->node, q->node, q->nodelen);
    l->nodelen = q->nodelen;
    l->shown = xcalloc(1, sizeof *l->shown + id.n);
    l->shown->idlen = (uint8_t)id.n;
    memcpy(l->shown->id, id.p, id.n);
    ask_away(l);
    op_sent(o);
    q->op.k->stats.reaped++;
}

static void
reap_reply(struct op *o, uint32_t n, const struct redis_reply *r)
{
    struct reap_op *q = container_of(o, struct reap_op, op);
    const struct redis_reply *e = redis_at(r, 0);
    char text[MAX_ID], again[3 * MAX_ID];
    struct str id;

    (void)n;
    for (size_t i = 0; i < reply_count(r); i++, e = redis_next(e)) {
        struct str name = redis_text(e); /* what is written otherwise would never be off the list */
        if (!id_unescape(name, text, &id) || !str_eq(user_key(id, again), name)) {
            far_junk(o->k, "a dead node's user", name);
            continue;
        }
        q->found++;
        reap_user(q, id);
    }
}

static void
reap_step(struct op *o)
{
    struct reap_op *q = container_of(o, struct reap_op, op);

    q->failed |= o->failed;
    reap_one_less(q);
}

static void
reap_some(struct reap_op *q)
{
    struct op *o = &q->op;

    q->busy = 1;
    q->found = 0;
    op_next(o, reap_reply, reap_step);
    ask_plain(o, "SRANDMEMBER", 2);
    put_key(o, 'n', reap_node(q), ":u");
    put_int(o, REAP);
    ask_end(o, 'n', reap_node(q), 0);
    op_sent(o);
}

void
presence_reap(struct cluster *k, struct str node)
{
    struct op *o = op_new(k, sizeof(struct reap_op), NULL, NULL, NULL);
    struct reap_op *q = container_of(o, struct reap_op, op);

    log_write(k->chat->log, LOG_LEVEL_WARN, "cluster: node %.*s is dead", (int)node.n, node.p);
    o->quiet = true;
    memcpy(q->node, node.p, node.n);
    q->nodelen = (uint8_t)node.n;
    reap_some(q);
}

/* --- words ------------------------------------------------------------------------------------ */

struct close_op {
    struct op op;
    char id[MAX_ID];
    uint8_t idlen;
    int code;
};

static void
close_reply(struct op *o, uint32_t n, const struct redis_reply *r)
{
    struct close_op *q = container_of(o, struct close_op, op);
    const struct redis_reply *e = redis_at(r, 0);
    char head[3 * MAX_ID + 16], text[3 * MAX_ID];
    struct str user = user_key((struct str){q->id, q->idlen}, text);
    int len = snprintf(head, sizeof head, "x %.*s %d", (int)user.n, user.p, q->code);

    (void)n;
    for (size_t i = 0; i < reply_count(r); i++, e = redis_next(e))
        far_route(o->k, redis_text(e), (struct str){head, (size_t)len}, STR(""));
}

void
cluster_close_user(struct cluster *k, struct str id, int code)
{
    struct op *o = op_new(k, sizeof(struct close_op), close_reply, op_end, NULL);
    struct close_op *q = container_of(o, struct close_op, op);
    char text[3 * MAX_ID];
    struct str user = user_key(id, text);

    memcpy(q->id, id.p, id.n);
    q->idlen = (uint8_t)id.n;
    q->code = code;
    ask_plain(o, "HKEYS", 1);
    put_key(o, 'u', user, ":n");
    ask_end(o, 'u', user, 0);
    op_sent(o);
}

static int
word_int(struct str s)
{
    int n = 0;

    for (size_t i = 0; i < s.n && i < 8 && s.p[i] >= '0' && s.p[i] <= '9'; i++)
        n = 10 * n + (s.p[i] - '0');
    return n;
}

static struct user *
word_user(struct cluster *k, struct str word)
{
    char text[MAX_ID];
    struct str id;

    return id_unescape(word, text, &id) ? user_find(&k->chat->roster, id) : NULL;
}

static void
word_broadcast(struct cluster *k, struct str node, struct str number, struct str text)
{
    struct msg *m = msg_new(CMD_CHAT, 0, text.p, text.n);

    if (!broadcast_begin(k->jim, NULL, m, node, number))
        broadcast_told(k, node, number, 0);
    msg_unref(m);
}

static bool
word_notice(struct cluster *k, const struct str *w, struct str text)
{
    char id_text[MAX_ID];
    struct str but;
    int command = word_int(w[1]);

    if ((command != CMD_JOIN_NOTIFY && command != CMD_EXIT_NOTIFY) ||
        !id_unescape(w[3], id_text, &but))
        return false;
    if (!far_json(k, text))
        return true;
    struct msg *m = msg_new((uint8_t)command, 0, text.p, text.n);
    tell_here(k, w[2], m, but);
    msg_unref(m);
    return true;
}

/* n COMMAND CONV USER: a notice for those in a group but him. x USER CODE: close his connections.
 * d USER TERMINAL: somebody has logged in elsewhere. u USER: his profile. b NODE NUMBER: a
 * broadcast, to be answered with c NUMBER CONNECTIONS. */
bool
presence_word(struct cluster *k, char what, struct str *w, size_t n, struct str text)
{
    struct user *u = n >= 2 ? word_user(k, w[1]) : NULL;

    if (what == 'n' && n == 4)
        return word_notice(k, w, text);
    if (what == 'x' && n == 3 && str_eq(w[2], STR("0"))) {
        if (u != NULL)
            chat_close_user(k->chat, u, 0, NULL);
    } else if (what == 'd' && n == 3) {
        if (u != NULL)
            chat_displace(k->chat, u, NULL, str_eq(w[2], STR("ws")) ? PROTO_WS : PROTO_TCP);
    } else if (what == 'u' && n == 2) {
        if (u != NULL && far_json(k, text)) {
            profile_free(u);
            profile_set(u, text);
        }
    } else if (what == 'b' && n == 3 && w[1].n == NODE_ID && w[2].n == NODE_ID) {
        if (far_json(k, text))
            word_broadcast(k, w[1], w[2], text);
    } else if (what == 'c' && n == 3) {
        broadcast_heard(k, w[1], (uint64_t)word_int(w[2]));
    } else {
        return false;
    }
    return true;
}
