/* SPDX-License-Identifier: MIT */
/*
 * cluster_group.c - who is in a group, in a cluster: a change is one script on the group's keys;
 * what follows from it is told to its members, here and on the nodes where they are.
 *
 * A user's own list of groups (jim:{u:U}:g) is written before he joins and after he has left: a
 * node that dies in between leaves a group on the list that he is not in, and his next login drops
 * it.
 *
 *   changes    users join or leave a group: asked, told, answered
 *   commands   7 joining, 21 leaving
 *   the API    create, join, leave, dismiss, rename
 *   words      what other nodes say
 */
#include "jim.h"

#include <stdlib.h>

/* --- changes ---------------------------------------------------------------------------------- */

struct changed { /* a user who joins or leaves */
    char id[MAX_ID];
    uint8_t idlen;
    int64_t state;      /* as script_enter and script_leave have it */
    bool fresh;         /* it is a change */
    bool here;          /* written down as being on this node; pinned */
    int64_t online;
    uint64_t seq;
    struct buf profile, cursor;
    struct buf nodes;   /* of the group, NUL-terminated names */
    struct buf at;      /* where he is */
};

struct change_op {
    struct op op;
    char id[MAX_ID], name[MAX_ID];
    uint8_t idlen, namelen;
    bool joins, api, made;
    bool gone;              /* there is no such group */
    const char *how;        /* for script_enter */
    struct changed *user;   /* owned */
    size_t users;
    int code;               /* of the answer of the API */
    /* The group as it is then: */
    int64_t online, total;
    struct buf title;
};

static struct str
change_id(const struct change_op *q)
{
    return (struct str){q->id, q->idlen};
}

static struct str
changed_id(const struct changed *u)
{
    return (struct str){u->id, u->idlen};
}

static void
change_free(struct op *o)
{
    struct change_op *q = container_of(o, struct change_op, op);

    for (size_t i = 0; i < q->users; i++) {
        struct changed *u = &q->user[i];
        if (u->here)
            user_find(&o->k->chat->roster, changed_id(u))->pins--;
        buf_free(&u->profile);
        buf_free(&u->cursor);
        buf_free(&u->nodes);
        buf_free(&u->at);
    }
    free(q->user);
    buf_free(&q->title);
}

static struct str
of_buf(const struct buf *b)
{
    return (struct str){b->p, b->len};
}

static void
put_names(struct buf *b, const struct redis_reply *r, size_t first)
{
    const struct redis_reply *e = redis_at(r, first);

    for (size_t i = first; i < reply_count(r); i++, e = redis_next(e)) {
        buf_str(b, redis_text(e));
        buf_add(b, "", 1);
    }
}

static void
route_names(struct cluster *k, const struct buf *names, struct str head, struct str text)
{
    for (size_t i = 0; i < names->len;) {
        struct str node = str_of(names->p + i);
        far_route(k, node, head, text);
        i += node.n + 1;
    }
}

/* Four commands a user: 0 his list, 1 what is known of him, 2 where he is, 3 the group. */
static void
change_reply(struct op *o, uint32_t n, const struct redis_reply *r)
{
    struct change_op *q = container_of(o, struct change_op, op);
    struct changed *u = &q->user[n / 4];

    if (n / 4 >= q->users)
        return;
    if (n % 4 == 1)
        buf_str(&u->profile, redis_text(r));
    if (n % 4 == 2)
        put_names(&u->at, r, 0);
    if (n % 4 != 3)
        return;
    uint64_t seq = 0;
    u->state = q->joins ? far_entered(o->k, r, &seq) : redis_int(redis_at(r, 0), 0);
    o->failed |= u->state < 0;
    if (u->state == 2)
        q->gone = true;
    if (u->state != 1)
        return;
    if (q->joins) {
        u->fresh = redis_int(redis_at(r, 1), 0) == 1;
        q->made |= redis_int(redis_at(r, 3), 0) == 1;
        u->seq = seq;
        u->online = redis_int(redis_at(r, 5), 0);
        buf_str(&u->cursor, redis_text(redis_at(r, 6)));
        put_names(&u->nodes, r, 7);
    } else {
        u->fresh = true;
        u->online = redis_int(redis_at(r, 1), 0);
        put_names(&u->nodes, r, 3);
    }
}

static void
ask_change(struct change_op *q, size_t i)
{
    struct op *o = &q->op;
    struct changed *u = &q->user[i];
    char text[3 * MAX_ID], group_text[MAX_CONV_KEY];
    struct str user = user_key(changed_id(u), text), key = group_key(change_id(q), group_text);
    struct user *here = user_find(&o->k->chat->roster, changed_id(u));
    uint32_t n = (uint32_t)(4 * i);

    if (q->joins && here != NULL && here->nconns > 0) {
        u->here = true;
        here->pins++;
    }

    if (q->joins) {
        ask_plain(o, "SADD", 2);
        put_key(o, 'u', user, ":g");
        put_arg(o, key);
        ask_end(o, 'u', user, n);
    }
    ask_plain(o, "HGET", 2);
    put_key(o, 'u', user, "");
    put_arg(o, STR("p"));
    ask_end(o, 'u', user, n + 1);
    ask_plain(o, "HKEYS", 1);
    put_key(o, 'u', user, ":n");
    ask_end(o, 'u', user, n + 2);
    ask_script(o, q->joins ? SCRIPT_ENTER : SCRIPT_LEAVE, 5, q->joins ? 5 : 1);
    put_group_keys(o, key);
    put_arg(o, changed_id(u));
    if (q->joins) {
        put_arg(o, u->here ? cluster_self(o->k) : STR(""));
        put_arg(o, str_of(q->how));
        put_arg(o, (struct str){q->name, q->namelen});
        put_arg(o, change_id(q));
    }
    ask_end(o, 'c', key, n + 3);
}

/* Him, his connections here but one, and on other nodes; and the others in the group. */
static void
tell_change(struct change_op *q, struct changed *u, const struct conn *by)
{
    struct cluster *k = q->op.k;
    struct chat *c = k->chat;
    char text[3 * MAX_ID], group_text[MAX_CONV_KEY], head[MAX_CONV_KEY + 3 * MAX_ID + 32];
    struct str user = user_key(changed_id(u), text), key = group_key(change_id(q), group_text);
    struct user *here = user_find(&c->roster, changed_id(u));
    struct user *shown = xcalloc(1, sizeof *shown + u->idlen);

    memcpy(shown->id, u->id, u->idlen);
    shown->idlen = u->idlen;
    profile_set(shown, of_buf(&u->profile));
    struct msg *m = q->joins ? group_joined_msg(c, change_id(q), shown, u->at.len > 0)
                             : group_left_msg(c, change_id(q), shown, u->at.len > 0);
    struct str json = {m->data, m->len};
    for (struct conn *o = here != NULL ? here->conns : NULL; o != NULL; o = o->next_of_user)
        if (o != by)
            conn_send(o, m, NULL);
    int n = snprintf(head, sizeof head, "%c %.*s %.*s", q->joins ? 'J' : 'L', (int)user.n, user.p,
                     (int)key.n, key.p);
    route_names(k, &u->at, (struct str){head, (size_t)n}, json);
    if (u->online <= c->opt->notify_max) {
        tell_here(k, key, m, changed_id(u));
        n = snprintf(head, sizeof head, "n %u %.*s %.*s", m->command, (int)key.n, key.p,
                     (int)user.n, user.p);
        route_names(k, &u->nodes, (struct str){head, (size_t)n}, json);
    }
    msg_unref(m);
    profile_free(shown);
    free(shown);
}

static void
left_here(struct cluster *k, struct user *u, struct str key)
{
    struct conv *v = conv_find_key(&k->chat->roster, key);
    struct member *m = u != NULL && v != NULL ? member_of(&k->chat->roster, u, v) : NULL;

    if (m == NULL || m->left)
        return;
    member_leave(m);
    if (!far_wanted(v))
        far_unbase(k, v);
}

/* He has been written down as being here, in a group: if he has gone since, that must go, too. */
static void
entered_here(struct cluster *k, struct user *u, struct conv *v, struct str cursor, uint64_t seq)
{
    far_member(k, u, v, cursor, seq);
    if (u->nconns + u->coming == 0 && !k->gone)
        presence_leave(k, u);
}

/* What a change means for the users who are here. */
static void
apply_change(struct change_op *q, struct changed *u)
{
    struct cluster *k = q->op.k;
    char group_text[MAX_CONV_KEY];
    struct str key = group_key(change_id(q), group_text);
    struct user *here = user_find(&k->chat->roster, changed_id(u));

    if (!q->joins)
        left_here(k, here, key);
    else if (u->here)
        entered_here(k, here, group_get(&k->chat->roster, change_id(q)), of_buf(&u->cursor),
                     u->seq);
}

/* Behind the answer: lists that may be written later. */
static void
change_lists(struct change_op *q)
{
    char text[3 * MAX_ID], group_text[MAX_CONV_KEY];
    struct str key = group_key(change_id(q), group_text);
    struct op *o = op_new(q->op.k, sizeof *o, NULL, op_end, NULL);

    if (q->made)
        ask_index(o, 'G', change_id(q), 0, NULL);
    for (size_t i = 0; !q->joins && i < q->users; i++) {
        struct str user = user_key(changed_id(&q->user[i]), text);
        ask_plain(o, "SREM", 2);
        put_key(o, 'u', user, ":g");
        put_arg(o, key);
        ask_end(o, 'u', user, 0);
    }
    op_sent(o);
}

/* --- commands --------------------------------------------------------------------------------- */

static struct change_op *
change_new(struct cluster *k, struct conn *c, uint32_t seq, struct str id, op_fn *step)
{
    struct op *o = op_of_command(k, sizeof(struct change_op), c, seq, change_reply, step,
                                 change_free);
    struct change_op *q = container_of(o, struct change_op, op);

    memcpy(q->id, id.p, id.n);
    q->idlen = (uint8_t)id.n;
    return q;
}

static void
change_user(struct change_op *q, struct str id)
{
    q->user = xrealloc(q->user, (q->users + 1) * sizeof *q->user);
    struct changed *u = &q->user[q->users++];
    *u = (struct changed){.idlen = (uint8_t)id.n};
    memcpy(u->id, id.p, id.n);
}

static void
join_step(struct op *o)
{
    struct change_op *q = container_of(o, struct change_op, op);
    struct cluster *k = o->k;
    struct changed *u = &q->user[0];
    struct user *here = user_find(&k->chat->roster, changed_id(u));
    int code = o->failed ? CODE_STORE : u->state == 1 ? CODE_JOIN_OK : CODE_NO_GROUP;

    if (op_alive(o))
        group_join_answer(k->chat, o->conn, o->seq, code, change_id(q));
    if (code == CODE_JOIN_OK) {
        if (op_alive(o)) {
            struct msg *m = group_joined_msg(k->chat, change_id(q), here, true);
            conn_send(o->conn, m, NULL);
            msg_unref(m);
        }
        if (u->fresh)
            tell_change(q, u, o->conn);
        apply_change(q, u);
        change_lists(q);
    }
    op_end(o);
}

bool
cluster_join(struct chat *c, struct conn *from, uint32_t seq, const struct request *r)
{
    char text[MAX_ID], name_text[MAX_ID];
    struct str id, name;
    struct user *u = from->user;
    int code = 0;

    if (r == NULL || !request_id(r, F_GROUP_ID, text, &id)) {
        group_join_answer(c, from, seq, CODE_JOIN_FAILED, STR(""));
        return true;
    }
    bool already = member_in_group(&c->roster, u, id) != NULL;
    if (!already && c->opt->group_join == JOIN_API)
        code = CODE_FORBIDDEN;
    else if (!already && u->joined >= MAX_JOINED)
        code = CODE_JOIN_FAILED;
    else if (!cluster_can(c->cluster))
        code = CODE_STORE;
    if (code != 0) {
        group_join_answer(c, from, seq, code, STR(""));
        return true;
    }
    struct change_op *q = change_new(c->cluster, from, seq, id, join_step);
    q->joins = true;
    q->how = already && c->opt->group_join == JOIN_API ? "0" : "2";
    if (request_id(r, F_NAME, name_text, &name)) {
        memcpy(q->name, name.p, name.n);
        q->namelen = (uint8_t)name.n;
    }
    change_user(q, user_id(u));
    ask_change(q, 0);
    op_sent(&q->op);
    return true;
}

static void
leave_step(struct op *o)
{
    struct change_op *q = container_of(o, struct change_op, op);
    struct cluster *k = o->k;
    struct changed *u = &q->user[0];
    struct user *here = user_find(&k->chat->roster, changed_id(u));
    struct conv *v = group_find_any(&k->chat->roster, change_id(q));
    bool was = here != NULL && v != NULL && member_of(&k->chat->roster, here, v) != NULL;
    int code = o->failed ? CODE_STORE : u->state == 1 || was ? CODE_DONE : CODE_NO_GROUP;

    if (op_alive(o))
        group_leave_answer(k->chat, o->conn, o->seq, code, change_id(q));
    if (!o->failed && u->state == 1) {
        tell_change(q, u, o->conn);
        apply_change(q, u);
        change_lists(q);
    }
    op_end(o);
}

bool
cluster_leave(struct chat *c, struct conn *from, uint32_t seq, const struct request *r)
{
    char text[MAX_ID];
    struct str id;

    if (r == NULL || !request_id(r, F_GROUP_ID, text, &id)) {
        answer_code(c, from, CMD_LEAVE_RESP, seq, CODE_INVALID);
        return true;
    }
    bool in = member_in_group(&c->roster, from->user, id) != NULL;
    if (c->opt->group_join == JOIN_API || !cluster_can(c->cluster)) {
        group_leave_answer(c, from, seq, !cluster_can(c->cluster) ? CODE_STORE
                                         : in                    ? CODE_FORBIDDEN
                                                                 : CODE_NO_GROUP, id);
        return true;
    }
    struct change_op *q = change_new(c->cluster, from, seq, id, leave_step);
    change_user(q, user_id(from->user));
    ask_change(q, 0);
    op_sent(&q->op);
    return true;
}

/* --- the API ---------------------------------------------------------------------------------- */

static void
api_answer(struct change_op *q, int code, bool group)
{
    struct buf b = {0};
    struct str title = q->title.len > 0 ? of_buf(&q->title) : change_id(q);

    buf_printf(&b, "{\"code\":%d", code);
    if (group) {
        json_put_key(&b, "data");
        buf_add(&b, "{", 1);
        put_text(&b, "groupId", change_id(q));
        put_text(&b, "name", title);
        json_put_key(&b, "online");
        json_put_int(&b, q->online);
        json_put_key(&b, "total");
        json_put_int(&b, q->total);
        buf_add(&b, "}", 1);
    }
    put_msg(&b, code);
    buf_add(&b, "}", 1);
    api_sent(q->op.conn, code, b.p, b.len);
    buf_free(&b);
    op_end(&q->op);
}

static void
api_end(struct op *o)
{
    struct change_op *q = container_of(o, struct change_op, op);

    api_answer(q, o->failed ? CODE_STORE : q->code, !o->failed);
}

static void
api_title(struct op *o, uint32_t n, const struct redis_reply *r)
{
    struct change_op *q = container_of(o, struct change_op, op);

    (void)n;
    if (id_ok(redis_text(redis_at(r, 1))))
        buf_str(&q->title, redis_text(redis_at(r, 1)));
    q->online = redis_int(redis_at(r, 2), 0);
    q->total = redis_int(redis_at(r, 3), 0);
}

static void
api_changed(struct op *o)
{
    struct change_op *q = container_of(o, struct change_op, op);
    char text[MAX_CONV_KEY];
    struct str key = group_key(change_id(q), text);

    if (o->failed || o->k->gone || (q->gone && q->users > 0)) {
        api_answer(q, o->failed || o->k->gone ? CODE_STORE : CODE_NO_GROUP, false);
        return;
    }
    for (size_t i = 0; i < q->users; i++) {
        if (!q->user[i].fresh)
            continue;
        tell_change(q, &q->user[i], NULL);
        apply_change(q, &q->user[i]);
    }
    change_lists(q);
    op_next(o, api_title, api_end);
    ask_script(o, SCRIPT_PAGE, 5, 3);
    put_group_keys(o, key);
    put_int(o, 2);
    put_int(o, 0);
    put_int(o, 0);
    ask_end(o, 'c', key, 0);
    op_sent(o);
}

/* Now its users come or go. */
static void
api_change(struct op *o)
{
    struct change_op *q = container_of(o, struct change_op, op);

    if (o->failed || o->k->gone || q->gone) {
        api_answer(q, q->gone ? CODE_NO_GROUP : CODE_STORE, false);
        return;
    }
    op_next(o, change_reply, api_changed);
    for (size_t i = 0; i < q->users; i++)
        ask_change(q, i);
    op_sent(o);
}

static void
made_reply(struct op *o, uint32_t n, const struct redis_reply *r)
{
    struct change_op *q = container_of(o, struct change_op, op);

    (void)n;
    q->made = redis_int(redis_at(r, 0), 0) == 1;
}

static void
renamed_reply(struct op *o, uint32_t n, const struct redis_reply *r)
{
    struct change_op *q = container_of(o, struct change_op, op);

    (void)n;
    q->gone = redis_int(redis_at(r, 0), 0) == 2;
}

static struct change_op *
api_op(struct call *k, struct str id, op_reply_fn *reply)
{
    call_later(k);
    struct change_op *q = change_new(k->chat->cluster, k->c, 0, id, api_change);
    q->op.reply = reply;
    q->api = true;
    return q;
}

void
far_group_create(struct call *k, struct str id, struct str name, const struct str *users, size_t n)
{
    struct change_op *q = api_op(k, id, made_reply);
    char text[MAX_CONV_KEY];
    struct str key = group_key(id, text);

    q->joins = true;
    q->how = "3";
    q->code = CODE_JOIN_OK;
    for (size_t i = 0; i < n; i++)
        change_user(q, users[i]);
    ask_script(&q->op, SCRIPT_CREATE, 5, 2);
    put_group_keys(&q->op, key);
    put_arg(&q->op, id);
    put_arg(&q->op, name);
    ask_end(&q->op, 'c', key, 0);
    op_sent(&q->op);
}

void
far_group_change(struct call *k, struct str id, bool joins, const struct str *users, size_t n)
{
    struct change_op *q = api_op(k, id, NULL);

    q->joins = joins;
    q->how = "3";
    q->code = joins ? CODE_JOIN_OK : CODE_DONE;
    for (size_t i = 0; i < n; i++)
        change_user(q, users[i]);
    op_sent(&q->op);
}

void
far_group_rename(struct call *k, struct str id, struct str name)
{
    struct change_op *q = api_op(k, id, renamed_reply);
    char text[MAX_CONV_KEY];
    struct str key = group_key(id, text);

    q->code = CODE_DONE;
    ask_script(&q->op, SCRIPT_RENAME, 5, 1);
    put_group_keys(&q->op, key);
    put_arg(&q->op, name);
    ask_end(&q->op, 'c', key, 0);
    op_sent(&q->op);
}

/* Everybody is out, and each is told of himself. */
static void
dismiss_here(struct cluster *k, struct str key)
{
    struct conv *v = conv_find_key(&k->chat->roster, key);

    if (v == NULL || !v->group)
        return;
    for (uint32_t i = 0; i < v->nonline; i++) {
        struct user *u = v->member[i]->user;
        struct msg *m = group_left_msg(k->chat, str_of(v->id), u, true);
        for (struct conn *o = u->conns; o != NULL; o = o->next_of_user)
            conn_send(o, m, NULL);
        msg_unref(m);
    }
    group_enter_life(v, v->life + 1);
    far_unbase(k, v);
}

static void
dismissed_reply(struct op *o, uint32_t n, const struct redis_reply *r)
{
    struct change_op *q = container_of(o, struct change_op, op);
    char text[MAX_CONV_KEY], head[MAX_CONV_KEY + 8];
    struct str key = group_key(change_id(q), text);
    struct buf nodes = {0};

    (void)n;
    q->gone = redis_int(redis_at(r, 0), 0) == 2;
    if (redis_int(redis_at(r, 0), 0) != 1)
        return;
    dismiss_here(o->k, key);
    put_names(&nodes, r, 1);
    int len = snprintf(head, sizeof head, "G %.*s", (int)key.n, key.p);
    route_names(o->k, &nodes, (struct str){head, (size_t)len}, STR(""));
    buf_free(&nodes);
    struct op *index = op_new(o->k, sizeof *index, NULL, op_end, NULL);
    ask_unindex(index, 'G', change_id(q));
    op_sent(index);
}

static void
dismissed_step(struct op *o)
{
    struct change_op *q = container_of(o, struct change_op, op);

    api_answer(q, o->failed ? CODE_STORE : q->gone ? CODE_NO_GROUP : CODE_DONE, false);
}

void
far_group_dismiss(struct call *k, struct str id)
{
    struct change_op *q = api_op(k, id, dismissed_reply);
    char text[MAX_CONV_KEY];
    struct str key = group_key(id, text);

    q->op.step = dismissed_step;
    ask_script(&q->op, SCRIPT_DISMISS, 5, 0);
    put_group_keys(&q->op, key);
    ask_end(&q->op, 'c', key, 0);
    op_sent(&q->op);
}

/* --- words ------------------------------------------------------------------------------------ */

struct enter_op { /* a user who is here has been let into a group elsewhere */
    struct op op;
    struct user *user; /* pinned */
    struct conv *conv; /* pinned */
};

static void
enter_free(struct op *o)
{
    struct enter_op *q = container_of(o, struct enter_op, op);

    q->user->pins--;
    q->conv->pins--;
}

static void
enter_reply(struct op *o, uint32_t n, const struct redis_reply *r)
{
    struct enter_op *q = container_of(o, struct enter_op, op);

    uint64_t seq;

    (void)n;
    if (far_entered(o->k, r, &seq) == 1)
        entered_here(o->k, q->user, q->conv, redis_text(redis_at(r, 6)), seq);
}

void
ask_enter(struct op *o, const struct user *u, const struct conv *v, uint32_t n)
{
    ask_script(o, SCRIPT_ENTER, 5, 5);
    put_group_keys(o, conv_key(v));
    put_arg(o, user_id(u));
    put_arg(o, cluster_self(o->k));
    put_arg(o, STR("0"));
    put_arg(o, STR(""));
    put_arg(o, str_of(v->id));
    ask_end(o, 'c', conv_key(v), n);
}

static void
enter_here(struct cluster *k, struct user *u, struct conv *v)
{
    struct op *o = op_new(k, sizeof(struct enter_op), enter_reply, op_end, enter_free);
    struct enter_op *q = container_of(o, struct enter_op, op);

    q->user = u;
    q->conv = v;
    u->pins++;
    v->pins++;
    ask_enter(o, u, v, 0);
    op_sent(o);
}

static void
word_member(struct cluster *k, bool joins, const struct str *w, struct str text)
{
    char id_text[MAX_ID];
    struct str id;
    struct user *u = id_unescape(w[1], id_text, &id) ? user_find(&k->chat->roster, id) : NULL;
    struct conv *v = conv_get_key(&k->chat->roster, w[2]);

    if (u == NULL || u->nconns == 0 || v == NULL || !v->group)
        return;
    struct msg *m = msg_new(joins ? CMD_JOIN_NOTIFY : CMD_EXIT_NOTIFY, 0, text.p, text.n);
    for (struct conn *o = u->conns; o != NULL; o = o->next_of_user)
        conn_send(o, m, NULL);
    msg_unref(m);
    if (joins)
        enter_here(k, u, v);
    else
        left_here(k, u, w[2]);
}

/* J USER CONV: let into a group, L USER CONV: out of it; the text is the notice. G CONV: it has
 * been dismissed. */
bool
group_word(struct cluster *k, char what, struct str *w, size_t n, struct str text)
{
    if ((what == 'J' || what == 'L') && n == 3) {
        if (far_json(k, text))
            word_member(k, what == 'J', w, text);
    } else if (what == 'G' && n == 2) {
        dismiss_here(k, w[1]);
    } else {
        return false;
    }
    return true;
}
