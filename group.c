/* SPDX-License-Identifier: MIT */
/*
 * group.c - groups: coming, going, and who is told. A group is made by the first who joins it, by
 * the API, or by the configuration; it is there until it is dismissed, also without members.
 *
 *   notices      9 and 10, to whom, and when there would be too many
 *   presence     a user's first connection and his last
 *   membership   each change is a record; a repetition changes nothing
 *   commands     7 joining, 21 leaving
 *
 * Dismissing is one record however many members there are: it begins another life of the group,
 * and a membership counts in the life it was recorded in. The numbers of its messages go on.
 */
#include "jim.h"

#include <assert.h>
#include <stdlib.h>

/* --- notices ---------------------------------------------------------------------------------- */

/* Notify 9: {"code":10011,"command":9,"group":…,"msg":…,"user":…}. A reference for the caller. */
struct msg *
group_joined_msg(struct chat *c, struct str group, const struct user *u, bool online)
{
    struct buf *b = answer_begin(c, CODE_JOIN_OK, CMD_JOIN_NOTIFY);

    put_text(b, "group", group);
    put_msg(b, CODE_JOIN_OK);
    json_put_key(b, "user");
    put_user_brief(b, u, online);
    buf_add(b, "}", 1);
    return msg_new(CMD_JOIN_NOTIFY, 0, b->p, b->len);
}

/* Notify 10: {"command":10,"data":{"group":…,"user":…}}. Who is online still has left for good. */
struct msg *
group_left_msg(struct chat *c, struct str group, const struct user *u, bool online)
{
    struct buf *b = answer_begin(c, 0, CMD_EXIT_NOTIFY);

    json_put_key(b, "data");
    buf_add(b, "{", 1);
    put_text(b, "group", group);
    json_put_key(b, "user");
    put_user_brief(b, u, online);
    buf_add(b, "}}", 2);
    return msg_new(CMD_EXIT_NOTIFY, 0, b->p, b->len);
}

static struct msg *
joined_msg(struct chat *c, const struct conv *v, const struct user *u)
{
    return group_joined_msg(c, str_of(v->id), u, u->nconns > 0);
}

static struct msg *
left_msg(struct chat *c, const struct conv *v, const struct user *u)
{
    return group_left_msg(c, str_of(v->id), u, u->nconns > 0);
}

/* In a larger group nobody is told of others: ten thousand logins must not make a hundred million
 * notices. */
static bool
too_many(const struct chat *c, const struct conv *v)
{
    return v->nonline > c->opt->notify_max;
}

/* Tell everybody online in a group but one user. */
static void
tell_others(const struct chat *c, const struct conv *v, struct msg *m, const struct user *but)
{
    if (too_many(c, v))
        return;
    for (uint32_t i = 0; i < v->nonline; i++)
        if (v->member[i]->user != but)
            for (struct conn *o = v->member[i]->user->conns; o != NULL; o = o->next_of_user)
                conn_send(o, m, NULL);
}

/* His connections, but the one that is told otherwise. */
static void
tell_user(const struct user *u, struct msg *m, const struct conn *but)
{
    for (struct conn *o = u->conns; o != NULL; o = o->next_of_user)
        if (o != but)
            conn_send(o, m, NULL);
}

/* --- presence --------------------------------------------------------------------------------- */

void
group_present(struct chat *c, const struct user *u, struct conn *own, bool first)
{
    for (struct member *m = u->members; m != NULL; m = m->next_of_user) {
        if (!m->conv->group || m->left)
            continue;
        struct msg *notice = joined_msg(c, m->conv, u);
        conn_send(own, notice, NULL);
        if (first || m->fresh)
            tell_others(c, m->conv, notice, u);
        m->fresh = false;
        msg_unref(notice);
    }
}

void
group_absent(struct chat *c, const struct user *u)
{
    for (struct member *m = u->members; m != NULL; m = m->next_of_user) {
        if (!m->conv->group || m->left || m->conv->nonline == 0 || too_many(c, m->conv))
            continue;
        struct msg *notice = left_msg(c, m->conv, u);
        tell_others(c, m->conv, notice, u);
        msg_unref(notice);
    }
}

/* --- membership ------------------------------------------------------------------------------- */

static void
set_name(struct conv *v, struct str name)
{
    free(v->name);
    v->name = name.n > 0 ? xstrndup(name.p, name.n) : NULL;
}

/* The first name counts; it is the one who makes a group that gives it. */
static void
first_name(struct chat *c, struct conv *v, struct str name)
{
    if (name.n == 0 || v->name != NULL)
        return;
    set_name(v, name);
    record_group(c, v);
}

void
group_enter(struct chat *c, struct user *u, struct str id, struct str name)
{
    struct conv *v = group_get(&c->roster, id);

    if (v->gone)
        return;
    first_name(c, v, name);
    if (member_in_group(&c->roster, u, id) != NULL)
        return;
    struct member *m = member_add(&c->roster, u, v);
    m->fresh = true;
    record_member(c, m);
}

struct conv *
group_create(struct chat *c, struct str id, struct str name)
{
    struct conv *v = group_find(&c->roster, id);

    if (v != NULL) {
        first_name(c, v, name);
        return v;
    }
    v = group_get(&c->roster, id);
    group_revive(&c->roster, v);
    set_name(v, name);
    record_group(c, v);
    return v;
}

bool
group_add(struct chat *c, struct conv *v, struct user *u, const struct conn *by)
{
    assert(!v->gone);
    if (member_in_group(&c->roster, u, str_of(v->id)) != NULL)
        return false;
    record_member(c, member_add(&c->roster, u, v));
    struct msg *m = joined_msg(c, v, u);
    tell_user(u, m, by);
    tell_others(c, v, m, u);
    msg_unref(m);
    if (c->hooks != NULL)
        extend_binding(c->hooks, JIM_GROUP_BOUND, by, u, v, false, true);
    return true;
}

bool
group_remove(struct chat *c, struct conv *v, struct user *u, const struct conn *by)
{
    struct member *m = member_in_group(&c->roster, u, str_of(v->id));

    if (m == NULL)
        return false;
    struct msg *notice = left_msg(c, v, u);
    tell_user(u, notice, by);
    tell_others(c, v, notice, u);
    msg_unref(notice);
    member_leave(m);
    record_member(c, m);
    if (c->hooks != NULL)
        extend_binding(c->hooks, JIM_GROUP_UNBOUND, by, u, v, false, true);
    return true;
}

void
group_rename(struct chat *c, struct conv *v, struct str name)
{
    if (v->name != NULL && str_eq(str_of(v->name), name))
        return;
    set_name(v, name);
    record_group(c, v);
}

void
group_dismiss(struct chat *c, struct conv *v)
{
    if (v->gone)
        return;
    for (uint32_t i = 0; i < v->nonline; i++) { /* each of himself, not of the others */
        struct msg *notice = left_msg(c, v, v->member[i]->user);
        tell_user(v->member[i]->user, notice, NULL);
        msg_unref(notice);
    }
    for (uint32_t i = 0; c->hooks != NULL && i < v->nmembers; i++)
        extend_binding(c->hooks, JIM_GROUP_UNBOUND, NULL, v->member[i]->user, v, false, true);
    group_enter_life(v, v->life + 1);
    group_bury(&c->roster, v);
    set_name(v, STR(""));
    record_group(c, v);
}

/* --- commands --------------------------------------------------------------------------------- */

/* Answer 8; accepted, in both its forms: 2.x looks into `data`, 3.x beside it. */
void
group_join_answer(struct chat *c, struct conn *to, uint32_t seq, int code, struct str id)
{
    struct buf *b = answer_begin(c, code, CMD_JOIN_RESP);
    bool in = code == CODE_JOIN_OK;

    if (in) {
        json_put_key(b, "data");
        buf_add(b, "{", 1);
        put_text(b, "group", id);
        json_put_key(b, "result");
        json_put_int(b, 1);
        buf_add(b, "}", 1);
        put_text(b, "group", id);
    }
    put_msg(b, code);
    json_put_key(b, "result");
    json_put_int(b, in);
    answer_send(c, to, CMD_JOIN_RESP, seq);
}

static bool
join_refused(struct chat *c, struct conn *from, uint32_t seq, int code)
{
    group_join_answer(c, from, seq, code, STR(""));
    return true;
}

bool
group_join(struct chat *c, struct conn *from, uint32_t seq, const struct request *r)
{
    char text[MAX_ID], name_text[MAX_ID];
    struct str id, name;
    struct user *u = from->user;

    if (r == NULL || u == NULL || !request_id(r, F_GROUP_ID, text, &id))
        return join_refused(c, from, seq, CODE_JOIN_FAILED);
    bool already = member_in_group(&c->roster, u, id) != NULL;
    if (!already && c->opt->group_join == JOIN_API)
        return join_refused(c, from, seq, CODE_FORBIDDEN);
    if (!already && u->joined >= MAX_JOINED)
        return join_refused(c, from, seq, CODE_JOIN_FAILED);
    int code = already || c->hooks == NULL ? 0 : extend_join(from, id);
    if (code != 0)
        return join_refused(c, from, seq, code);
    struct conv *v = group_get(&c->roster, id);
    if (v->gone)
        return join_refused(c, from, seq, CODE_NO_GROUP);
    if (v->nmembers == 0 && request_id(r, F_NAME, name_text, &name))
        first_name(c, v, name);
    /* Before it is on disk, unlike a message: should it be lost, he can join again. */
    group_join_answer(c, from, seq, CODE_JOIN_OK, id);
    struct msg *m = joined_msg(c, v, u);
    conn_send(from, m, NULL);
    msg_unref(m);
    group_add(c, v, u, from);
    return true;
}

void
group_leave_answer(struct chat *c, struct conn *to, uint32_t seq, int code, struct str id)
{
    struct buf *b = answer_begin(c, code, CMD_LEAVE_RESP);

    put_text(b, "group", id);
    put_msg(b, code);
    answer_send(c, to, CMD_LEAVE_RESP, seq);
}

bool
group_leave(struct chat *c, struct conn *from, uint32_t seq, const struct request *r)
{
    char text[MAX_ID];
    struct str id;
    struct conv *v = NULL;
    struct member *m = NULL;
    int code = CODE_DONE;

    if (r == NULL || from->user == NULL || !request_id(r, F_GROUP_ID, text, &id)) {
        answer_code(c, from, CMD_LEAVE_RESP, seq, CODE_INVALID);
        return true;
    }
    v = group_find_any(&c->roster, id);
    m = v != NULL ? member_of(&c->roster, from->user, v) : NULL;
    if (m == NULL) /* a group he never was in: whether it exists is not his business */
        code = CODE_NO_GROUP;
    else if (!m->left && c->opt->group_join == JOIN_API)
        code = CODE_FORBIDDEN;
    group_leave_answer(c, from, seq, code, id);
    if (code == CODE_DONE)
        group_remove(c, v, from->user, from);
    return true;
}
