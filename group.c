/* SPDX-License-Identifier: MIT */
/*
 * group.c - groups: coming, going, and who is told. A group is made by the first who joins it, by
 * the API, or by the configuration; it is there until it is dismissed, also without members.
 *
 *   notices      9 and 10, to whom, and when there would be too many
 *   presence     a user's first connection and his last
 *   membership   each change is a record; a repetition changes nothing
 *   changes      what is asked for takes place, and is answered, when it is on disk
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

/* Is anybody to be told of him here? */
static bool
is_heard_of(const struct chat *c, const struct member *m)
{
    return m->conv->group && !m->left && m->conv->nonline > 0 && !too_many(c, m->conv);
}

/*
 * Are too many to be told of him for this turn? Then it is done later, a share at a time: somebody
 * may be in a thousand groups, and so may a hundred who come at once. What becomes of him meanwhile
 * is told when that is done.
 */
static bool
is_for_later(struct chat *c, const struct user *u)
{
    uint32_t work = 0;

    if (u->announced)
        return true;
    for (const struct member *m = u->members; m != NULL; m = m->next_of_user)
        work += is_heard_of(c, m) ? m->conv->nonline : 0;
    if (c->told + work > MAX_DELIVER)
        return true;
    c->told += work;
    return false;
}

static void
announce_later(struct chat *c, struct user *u)
{
    if (u->announced)
        return;
    u->announced = true;
    if (c->announce_n == c->announce_cap)
        c->announce = ring_grow(c->announce, sizeof *c->announce, &c->announce_head,
                                &c->announce_cap, 16);
    c->announce[(c->announce_head + c->announce_n++) & (c->announce_cap - 1)] =
        (struct announce){.user = u, .member = u->members, .online = u->nconns > 0};
}

/* The others in one of his groups. */
static void
announce(struct chat *c, const struct member *m, bool online)
{
    struct str id = str_of(m->conv->id);
    struct msg *notice = online ? group_joined_msg(c, id, m->user, true)
                                : group_left_msg(c, id, m->user, false);

    tell_others(c, m->conv, notice, m->user);
    msg_unref(notice);
}

uint32_t
group_announce(struct chat *c)
{
    uint32_t work = 0;

    for (; c->announce_n > 0 && work < MAX_SLICE; work++) {
        struct announce *a = &c->announce[c->announce_head];
        struct user *u = a->user;
        if (a->member != NULL) {
            const struct member *m = a->member;
            a->member = m->next_of_user;
            if (is_heard_of(c, m)) {
                work += m->conv->nonline;
                announce(c, m, a->online);
            }
            continue;
        }
        bool still = a->online == (u->nconns > 0);
        c->announce_head = (c->announce_head + 1) & (c->announce_cap - 1);
        c->announce_n--;
        u->announced = false;
        if (!still)
            announce_later(c, u);
    }
    return work;
}

void
group_present(struct chat *c, struct user *u, struct conn *own, bool first)
{
    bool later = first && is_for_later(c, u);

    for (struct member *m = u->members; m != NULL; m = m->next_of_user) {
        if (!m->conv->group || m->left)
            continue;
        struct msg *notice = joined_msg(c, m->conv, u);
        conn_send(own, notice, NULL);
        if (!later && (first || m->fresh))
            tell_others(c, m->conv, notice, u);
        m->fresh = false;
        msg_unref(notice);
    }
    if (later)
        announce_later(c, u);
}

void
group_absent(struct chat *c, struct user *u)
{
    if (is_for_later(c, u)) {
        announce_later(c, u);
        return;
    }
    for (const struct member *m = u->members; m != NULL; m = m->next_of_user)
        if (is_heard_of(c, m))
            announce(c, m, false);
}

/* --- membership ------------------------------------------------------------------------------- */

static void
set_name(struct conv *v, struct str name)
{
    free(v->name);
    v->name = name.n > 0 ? xstrndup(name.p, name.n) : NULL;
}

/* Is one on its way to be given? Then that counts. */
static bool
wants_name(const struct conv *v, struct str name)
{
    return name.n > 0 && v->name == NULL && v->changes == 0;
}

/* The first name counts; it is the one who makes a group that gives it. */
static void
first_name(struct chat *c, struct conv *v, struct str name)
{
    if (!wants_name(v, name))
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

/* He is in it now. Who has asked for it has been told. */
static void
entered(struct chat *c, struct conv *v, struct user *u, const struct conn *by)
{
    struct msg *m = joined_msg(c, v, u);

    tell_user(u, m, by);
    tell_others(c, v, m, u);
    msg_unref(m);
    if (c->hooks != NULL)
        extend_binding(c->hooks, JIM_GROUP_BOUND, by, u, v, false, true);
}

bool
group_add(struct chat *c, struct conv *v, struct user *u)
{
    assert(!v->gone);
    if (member_in_group(&c->roster, u, str_of(v->id)) != NULL)
        return false;
    record_member(c, member_add(&c->roster, u, v));
    entered(c, v, u, NULL);
    return true;
}

/* He goes now; the same. */
static void
leave(struct chat *c, struct member *m, const struct conn *by)
{
    struct msg *notice = left_msg(c, m->conv, m->user);

    tell_user(m->user, notice, by);
    tell_others(c, m->conv, notice, m->user);
    msg_unref(notice);
    member_leave(m);
}

static void
left(struct chat *c, const struct member *m, const struct conn *by)
{
    if (c->hooks != NULL)
        extend_binding(c->hooks, JIM_GROUP_UNBOUND, by, m->user, m->conv, false, true);
}

bool
group_remove(struct chat *c, struct conv *v, struct user *u)
{
    struct member *m = member_in_group(&c->roster, u, str_of(v->id));

    if (m == NULL)
        return false;
    leave(c, m, NULL);
    record_member(c, m);
    left(c, m, NULL);
    return true;
}

/* --- changes ---------------------------------------------------------------------------------- */

/* The state of a group that is to be: its name, or none; gone. */
static bool
group_later(struct chat *c, struct conv *v, struct str name, bool gone)
{
    struct msg *text = name.n > 0 ? msg_new(0, 0, name.p, name.n) : NULL;

    return record_change(c, (struct pending){.type = REC_GROUP, .conv = v, .msg = text,
                                             .gone = gone, .seq = v->life + (uint64_t)gone});
}

static bool
name_later(struct chat *c, struct conv *v, struct str name)
{
    return !wants_name(v, name) || group_later(c, v, name, false);
}

/* by NULL: a call, which is answered behind it. */
static bool
member_later(struct chat *c, struct conv *v, struct user *u, enum store_type type,
             struct conn *by, uint32_t seq)
{
    return record_change(c, (struct pending){.type = (char)type, .conv = v, .from = u, .conn = by,
                                             .reply_seq = seq, .seq = v->life});
}

struct conv *
group_create_later(struct chat *c, struct str id, struct str name)
{
    struct conv *v = group_prepare(&c->roster, id);
    bool ok = v->gone ? v->changes > 0 || group_later(c, v, name, false) : name_later(c, v, name);

    return ok ? v : NULL;
}

bool
group_add_later(struct chat *c, struct conv *v, struct user *u)
{
    const struct member *m = member_in_group(&c->roster, u, str_of(v->id));

    return (m != NULL && record_is_safe(c, m->record)) ||
           member_later(c, v, u, REC_JOIN, NULL, 0);
}

bool
group_remove_later(struct chat *c, struct conv *v, struct user *u)
{
    const struct member *m = member_of(&c->roster, u, v);

    return m == NULL || (m->left && record_is_safe(c, m->record)) ||
           member_later(c, v, u, REC_LEAVE, NULL, 0);
}

bool
group_rename(struct chat *c, struct conv *v, struct str name)
{
    bool same = v->name != NULL && str_eq(str_of(v->name), name) && v->changes == 0 &&
                record_is_safe(c, v->group_record);

    return same || group_later(c, v, name, false);
}

bool
group_dismiss(struct chat *c, struct conv *v)
{
    return v->gone || group_later(c, v, STR(""), true);
}

static void
dismiss(struct chat *c, struct conv *v)
{
    for (uint32_t i = 0; i < v->nonline; i++) { /* each of himself, not of the others */
        struct msg *notice = left_msg(c, v, v->member[i]->user);
        tell_user(v->member[i]->user, notice, NULL);
        msg_unref(notice);
    }
    for (uint32_t i = 0; c->hooks != NULL && i < v->nmembers; i++)
        extend_binding(c->hooks, JIM_GROUP_UNBOUND, NULL, v->member[i]->user, v, false, true);
    group_bury(&c->roster, v);
}

/* Its latest record counts, and its latest life more than that. */
static void
group_is(struct chat *c, const struct pending *p)
{
    struct conv *v = p->conv;
    uint32_t life = (uint32_t)p->seq;

    if (life < v->life || (life == v->life && v->group_record > p->number))
        return;
    if (p->gone && !v->gone)
        dismiss(c, v);
    else if (!p->gone)
        group_revive(&c->roster, v);
    group_enter_life(v, life);
    set_name(v, p->msg != NULL ? (struct str){p->msg->data, p->msg->len} : STR(""));
    v->group_record = p->number;
}

/* Who has asked is told twice: the answer, and the notice 9 about himself. */
static void
join_answer(struct chat *c, struct conn *from, uint32_t seq, const struct conv *v,
            const struct user *u)
{
    group_join_answer(c, from, seq, CODE_JOIN_OK, str_of(v->id));
    struct msg *m = joined_msg(c, v, u);
    conn_send(from, m, NULL);
    msg_unref(m);
}

static void
member_joined(struct chat *c, const struct pending *p)
{
    struct conv *v = p->conv;
    struct member *m = member_of(&c->roster, p->from, v);
    bool late = m != NULL && m->record > p->number, over = p->seq < v->life, was;

    if (!over && !late) {
        was = m != NULL && !m->left;
        group_revive(&c->roster, v);
        m = member_add(&c->roster, p->from, v);
        m->record = p->number;
    } else {
        was = true;
    }
    if (p->conn != NULL && over) /* it was dismissed meanwhile */
        group_join_answer(c, p->conn, p->reply_seq, CODE_NO_GROUP, STR(""));
    else if (p->conn != NULL)
        join_answer(c, p->conn, p->reply_seq, v, p->from);
    if (!was)
        entered(c, v, p->from, p->conn);
}

static void
member_left(struct chat *c, const struct pending *p)
{
    struct member *m = member_of(&c->roster, p->from, p->conv);
    bool now = !m->left && m->record <= p->number;

    if (p->conn != NULL)
        group_leave_answer(c, p->conn, p->reply_seq, CODE_DONE, str_of(p->conv->id));
    if (now)
        leave(c, m, p->conn);
    if (m->record < p->number)
        m->record = p->number;
    if (now)
        left(c, m, p->conn);
}

/* It is not on its way any more, though others of the same thing may be. */
static void
change_arrives(struct chat *c, const struct pending *p)
{
    if (p->type == REC_GROUP) {
        p->conv->changes--;
        return;
    }
    struct member *m = member_of(&c->roster, p->from, p->conv);
    if (m != NULL && m->change == p->number)
        m->change = 0;
}

static void
change_end(const struct pending *p)
{
    if (p->msg != NULL)
        msg_unref(p->msg);
    if (p->type == REC_JOIN)
        p->from->joining--;
    if (p->conn == NULL)
        return;
    if (p->conn->deferred == 1)
        p->conn->parked = p->conn->joining = false;
    conn_answered(p->conn);
}

void
group_changed(struct chat *c, const struct pending *p)
{
    change_arrives(c, p);
    if (p->type == REC_GROUP)
        group_is(c, p);
    else if (p->type == REC_JOIN)
        member_joined(c, p);
    else
        member_left(c, p);
    change_end(p);
}

void
group_unchanged(struct chat *c, const struct pending *p)
{
    change_arrives(c, p);
    if (p->conn != NULL && p->type == REC_JOIN)
        group_join_answer(c, p->conn, p->reply_seq, CODE_STORE, STR(""));
    else if (p->conn != NULL)
        group_leave_answer(c, p->conn, p->reply_seq, CODE_STORE, str_of(p->conv->id));
    change_end(p);
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

/* Neither a refusal nor what is so already overtakes: false, it has to wait. */
static bool
join_refused(struct chat *c, struct conn *from, uint32_t seq, int code)
{
    if (from->deferred > 0)
        return false;
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
    const struct member *m = member_in_group(&c->roster, u, id);
    bool already = m != NULL;
    if (!already && c->opt->group_join == JOIN_API)
        return join_refused(c, from, seq, CODE_FORBIDDEN);
    if (!already && u->joined + u->joining >= MAX_JOINED)
        return join_refused(c, from, seq, CODE_JOIN_FAILED);
    int code = already || c->hooks == NULL ? 0 : extend_join(from, id);
    if (code != 0)
        return join_refused(c, from, seq, code);
    struct conv *v = group_prepare(&c->roster, id);
    if (group_dismissed(v))
        return join_refused(c, from, seq, CODE_NO_GROUP);
    if (m != NULL && record_is_safe(c, m->record)) {
        if (from->deferred > 0)
            return false;
        join_answer(c, from, seq, v, u);
        return true;
    }
    bool named = v->nmembers == 0 && request_id(r, F_NAME, name_text, &name);
    if ((named && !name_later(c, v, name)) || !member_later(c, v, u, REC_JOIN, from, seq))
        return join_refused(c, from, seq, CODE_STORE);
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
    if (code == CODE_DONE && !(m->left && record_is_safe(c, m->record))) {
        if (member_later(c, v, from->user, REC_LEAVE, from, seq))
            return true;
        code = CODE_STORE;
    }
    group_leave_answer(c, from, seq, code, id);
    return true;
}
