/* SPDX-License-Identifier: MIT */
/*
 * routes.c - what the routes of the API do: each takes the parameters of a call, asks the chat, and
 * answers. All is there for whoever may call at all; api.c has seen to that.
 *
 *   parameters  names, lists of names, pages
 *   messages    send, broadcast, history, offline
 *   users       online, list, info, close, friends
 *   groups      create, join, leave, dismiss, rename; info, list, users
 *
 * A call that changes users or groups is answered when the change is on disk.
 */
#include "jim.h"

/* --- parameters ------------------------------------------------------------------------------- */

/* Users that a call names, valid ids all of them. */
struct names {
    size_t n;
    struct str id[MAX_NAMES];
    char text[MAX_NAMES][MAX_ID];
};

static bool
names_add(struct names *n, const struct json *v)
{
    return n->n < MAX_NAMES && value_id(v, n->text[n->n], &n->id[n->n]) && ++n->n > 0;
}

/* `userId`, and `users`: one or an array. Returns 0 or the code to refuse with. */
static int
names_get(const struct request *r, struct names *n)
{
    const struct json *one = &r->f[F_USER_ID], *many = &r->f[F_USERS];
    struct json_iter it;
    struct json v;

    n->n = 0;
    if (one->type != JSON_NONE && !names_add(n, one))
        return CODE_INVALID;
    if (many->type == JSON_NONE)
        return 0;
    if (many->type != JSON_ARRAY)
        return names_add(n, many) ? 0 : CODE_INVALID;
    json_enter(&it, many);
    while (json_next(&it, NULL, &v) > 0)
        if (!names_add(n, &v))
            return n->n == MAX_NAMES ? CODE_TOO_LARGE : CODE_INVALID;
    return 0;
}

/* A part of a list: [from, to) of it. */
struct page {
    size_t from, to;
    int64_t type; /* 0 online, 1 offline, 2 all */
};

static bool
page_asked(const struct request *r, int64_t *type, int64_t *offset, int64_t *count)
{
    if (request_int(r, F_TYPE, 2, type) < 0 || *type < 0 || *type > 2 ||
        request_int(r, F_OFFSET, 0, offset) < 0 || *offset < 0 ||
        request_int(r, F_COUNT, 100, count) < 0 || *count < 0)
        return false;
    if (*count > MAX_PAGE)
        *count = MAX_PAGE;
    return true;
}

/* The page that a request asks for, of a list of which the first `online` of `total` are online.
 * False: the request makes no sense. */
static bool
page_get(const struct request *r, size_t online, size_t total, struct page *p)
{
    int64_t offset, count;

    if (!page_asked(r, &p->type, &offset, &count))
        return false;
    size_t begin = p->type == 1 ? online : 0, end = p->type == 0 ? online : total;
    p->from = (uint64_t)offset < end - begin ? begin + (size_t)offset : end;
    p->to = (size_t)count < end - p->from ? p->from + (size_t)count : end;
    return true;
}

static void
put_number(struct buf *b, const char *key, size_t n)
{
    json_put_key(b, key);
    json_put_int(b, (int64_t)n);
}

/* --- messages --------------------------------------------------------------------------------- */

void
route_send(struct call *k)
{
    call_later(k);
    int code = send_api(k->chat, k->c, &k->r);
    if (code != 0) {
        buf_free(conn_answer_head(k->c));
        call_code(k, code, CMD_CHAT_RESP);
    }
}

void
route_broadcast(struct call *k)
{
    int code;
    struct msg *m = send_to_all(k->chat, k->c, &k->r, &code);

    if (m == NULL) {
        call_code(k, code, CMD_CHAT_RESP);
        return;
    }
    if (k->chat->cluster != NULL)
        far_broadcast(k, m);
    else if (broadcast_begin(k->c->jim, k->c, m, STR(""), STR("")))
        call_later(k);
    else
        call_code(k, send_refused(k->chat, CODE_RATE), CMD_CHAT_RESP);
    msg_unref(m);
}

static void
answer_messages(struct call *k, int64_t type)
{
    if (k->chat->cluster != NULL) {
        far_messages(k, type);
        return;
    }
    int code = query_api(k->chat, type, &k->r);
    struct buf b = {0};

    if (code != CODE_OFFLINE_MESSAGES && code != CODE_HISTORY) {
        call_code(k, code, CMD_MESSAGES_RESP);
        return;
    }
    buf_add(&b, k->chat->out.p, k->chat->out.len);
    call_json(k, 200, &b);
}

void
route_history(struct call *k)
{
    answer_messages(k, 1);
}

void
route_offline(struct call *k)
{
    answer_messages(k, 0);
}

/* --- users ------------------------------------------------------------------------------------ */

void
route_user_online(struct call *k)
{
    char text[MAX_ID];
    struct str id;
    const struct user *u;

    if (!request_id(&k->r, F_USER_ID, text, &id)) {
        call_code(k, CODE_INVALID, 0);
        return;
    }
    if (k->chat->cluster != NULL) {
        far_user_online(k, id);
        return;
    }
    u = user_find(&k->chat->roster, id);
    call_code(k, u != NULL && u->nconns > 0 ? CODE_ONLINE : CODE_OFFLINE, 0);
}

/* Of a status: 10005, 10006, 10003, as answer 18 has them. */
static int
users_code(int64_t type)
{
    return type == 0 ? CODE_ONLINE_USERS : type == 1 ? CODE_OFFLINE_USERS : CODE_USER_OK;
}

void
route_user_list(struct call *k)
{
    const struct roster *r = &k->chat->roster;
    struct buf b = {0};
    struct page p;
    int64_t offset, count;

    if (!page_get(&k->r, r->nonline, r->nusers, &p)) {
        call_code(k, CODE_INVALID, 0);
        return;
    }
    if (k->chat->cluster != NULL && page_asked(&k->r, &p.type, &offset, &count)) {
        far_user_list(k, p.type, offset, count);
        return;
    }
    buf_add(&b, "{", 1);
    put_number(&b, "total", p.type == 0   ? r->nonline
                            : p.type == 1 ? r->nusers - r->nonline
                                          : r->nusers);
    json_put_key(&b, "users");
    buf_add(&b, "[", 1);
    for (size_t i = p.from; i < p.to && b.len < (size_t)k->chat->opt->queue_max / 2; i++) {
        json_put_comma(&b);
        put_user(&b, r->user[i]);
    }
    buf_add(&b, "]}", 2);
    call_data(k, users_code(p.type), &b);
}

void
route_user_info(struct call *k)
{
    char text[MAX_ID];
    struct str id;
    const struct user *u;
    int64_t type;
    struct buf b = {0};

    if (!request_id(&k->r, F_USER_ID, text, &id) || request_int(&k->r, F_TYPE, 2, &type) < 0 ||
        type < 0 || type > 2) {
        call_code(k, CODE_INVALID, 0);
        return;
    }
    if (k->chat->cluster != NULL) {
        far_user_info(k, id, type);
        return;
    }
    u = user_find(&k->chat->roster, id);
    if (u == NULL || !u->known) {
        call_code(k, CODE_USER_FAILED, 0);
        return;
    }
    put_user_whole(k->chat, &b, u, type);
    call_data(k, CODE_USER_OK, &b);
}

void
route_user_close(struct call *k)
{
    char text[MAX_ID];
    struct str id;
    struct user *u;

    if (!request_id(&k->r, F_USER_ID, text, &id)) {
        call_code(k, CODE_INVALID, 0);
        return;
    }
    u = user_find(&k->chat->roster, id);
    if (k->chat->cluster != NULL)
        cluster_close_user(k->chat->cluster, id, 0);
    if (u != NULL)
        chat_close_user(k->chat, u, 0, NULL);
    call_code(k, CODE_CLOSED, 0);
}

/* A change that nobody can keep is not begun. */
static int
change_code(const struct chat *c)
{
    bool away = store_failed(c->store) || (c->cluster != NULL && !cluster_can(c->cluster));

    return away ? CODE_STORE : c->stopping ? CODE_STOPPING : 0;
}

/* Asked again after it was lost, it is no news; but not on disk either. */
static void
learn_friends(struct call *k, struct user *u, struct str json)
{
    if (!record_learn(k->chat, u, json) && u->record == 0)
        record_user(k->chat, u);
    if (u->record == 0)
        call_code(k, CODE_STORE, 0);
    else
        call_changed(k, CODE_DONE, NULL);
}

/* A user's friend groups: what is given replaces what was there. Who is not known yet is from now
 * on: an application may prepare its users before they come. */
void
route_user_friends(struct call *k)
{
    char text[MAX_ID];
    struct str id;
    const struct json *friends = &k->r.f[F_FRIENDS];
    struct buf b = {0};
    int code = change_code(k->chat);

    buf_printf(&b, "{\"friends\":");
    json_put_value(&b, friends);
    buf_add(&b, "}", 1);
    struct str json = {b.p, b.len};
    if (!request_id(&k->r, F_USER_ID, text, &id) || friends->type != JSON_ARRAY ||
        profile_check(json) != NULL)
        code = CODE_INVALID;
    if (code == 0 && k->chat->cluster != NULL) {
        far_user_friends(k, id, json);
    } else if (code == 0) {
        learn_friends(k, user_get(&k->chat->roster, id), json);
    } else {
        call_code(k, code, 0);
    }
    buf_free(&b);
}

/* --- groups ----------------------------------------------------------------------------------- */

/* What a call does with a group in a cluster, once its name is known. */
typedef void far_fn(struct call *k, struct str id, const void *arg);

/* The group a call is about; NULL when it has been answered: it is refused, or `far` has been
 * asked. */
static struct conv *
group_of_call(struct call *k, bool change, far_fn *far, const void *arg)
{
    char text[MAX_ID];
    struct str id;
    int code = change ? change_code(k->chat) : 0;
    struct conv *v = NULL;

    if (!request_id(&k->r, F_GROUP_ID, text, &id))
        code = CODE_INVALID;
    if (code == 0 && k->chat->cluster != NULL) {
        far(k, id, arg);
        return NULL;
    }
    if (code == 0 && (v = group_find(&k->chat->roster, id)) == NULL)
        code = CODE_NO_GROUP;
    if (code != 0)
        call_code(k, code, 0);
    return v;
}

/* {"groupId":…,"name":…,"online":…,"total":… and, with a page, ,"users":[…]} */
static void
put_group(struct buf *b, const struct conv *v, const struct page *p, size_t room)
{
    buf_add(b, "{", 1);
    put_text(b, "groupId", str_of(v->id));
    put_text(b, "name", str_of(v->name != NULL ? v->name : v->id));
    put_number(b, "online", v->nonline);
    put_number(b, "total", v->nmembers);
    if (p != NULL) {
        json_put_key(b, "users");
        buf_add(b, "[", 1);
        for (size_t i = p->from; i < p->to && b->len < room; i++) {
            json_put_comma(b);
            put_user(b, v->member[i]->user);
        }
        buf_add(b, "]", 1);
    }
    buf_add(b, "}", 1);
}

void
api_done(struct conn *c, int code, const struct conv *v)
{
    bool done = code == CODE_JOIN_OK || code == CODE_DONE;
    struct buf data = {0};

    if (done && v != NULL && v->gone) /* another call has dismissed it meanwhile */
        code = CODE_NO_GROUP;
    else if (done && v != NULL)
        put_group(&data, v, NULL, 0);
    struct buf b = api_json(code, 0, data.len > 0 ? &data : NULL);
    api_sent(c, code, b.p, b.len);
    buf_free(&b);
}

/* The answer to a call, some of whose changes the store may have refused. */
static void
changed(struct call *k, bool ok, int code, struct conv *v)
{
    if (ok)
        call_changed(k, code, v);
    else
        call_code(k, CODE_STORE, 0);
}

/* Let users in, and answer with the group. */
static void
let_in(struct call *k, struct conv *v, const struct names *names)
{
    bool ok = v != NULL;

    for (size_t i = 0; ok && i < names->n; i++)
        ok = group_add_later(k->chat, v, user_get(&k->chat->roster, names->id[i]));
    changed(k, ok, CODE_JOIN_OK, v);
}

void
route_group_create(struct call *k)
{
    char text[MAX_ID], name_text[MAX_ID];
    struct str id, name = {NULL, 0};
    struct names names;
    int code = names_get(&k->r, &names);

    if (code == 0)
        code = change_code(k->chat);
    if (!request_id(&k->r, F_GROUP_ID, text, &id) ||
        (k->r.f[F_NAME].type != JSON_NONE && !request_id(&k->r, F_NAME, name_text, &name)))
        code = CODE_INVALID;
    if (code != 0)
        call_code(k, code, 0);
    else if (k->chat->cluster != NULL)
        far_group_create(k, id, name, names.id, names.n);
    else
        let_in(k, group_create_later(k->chat, id, name), &names);
}

static void
far_join(struct call *k, struct str id, const void *names)
{
    far_group_change(k, id, true, ((const struct names *)names)->id,
                     ((const struct names *)names)->n);
}

static void
far_leave(struct call *k, struct str id, const void *names)
{
    far_group_change(k, id, false, ((const struct names *)names)->id,
                     ((const struct names *)names)->n);
}

static void
far_rename(struct call *k, struct str id, const void *name)
{
    far_group_rename(k, id, *(const struct str *)name);
}

static void
far_page(struct call *k, struct str id, const void *whole)
{
    int64_t type, offset, count;

    if (page_asked(&k->r, &type, &offset, &count))
        far_group_page(k, id, *(const bool *)whole, type, offset, count);
    else
        call_code(k, CODE_INVALID, 0);
}

/* The group and the users that join or leave it; NULL when the call has been answered. */
static struct conv *
group_and_names(struct call *k, struct names *names, far_fn *far)
{
    int code = names_get(&k->r, names);

    if (code == 0 && names->n == 0)
        code = CODE_INVALID;
    if (code == 0)
        return group_of_call(k, true, far, names);
    call_code(k, code, 0);
    return NULL;
}

void
route_group_join(struct call *k)
{
    struct names names;
    struct conv *v = group_and_names(k, &names, far_join);

    if (v != NULL)
        let_in(k, v, &names);
}

void
route_group_leave(struct call *k)
{
    struct names names;
    struct conv *v = group_and_names(k, &names, far_leave);
    bool ok = true;

    if (v == NULL)
        return;
    for (size_t i = 0; ok && i < names.n; i++) {
        struct user *u = user_find(&k->chat->roster, names.id[i]);
        ok = u == NULL || group_remove_later(k->chat, v, u);
    }
    changed(k, ok, CODE_DONE, v);
}

void
route_group_dismiss(struct call *k)
{
    char text[MAX_ID];
    struct str id;
    int code = change_code(k->chat);
    struct conv *v = NULL;

    if (!request_id(&k->r, F_GROUP_ID, text, &id))
        code = CODE_INVALID;
    if (code == 0 && k->chat->cluster != NULL) {
        far_group_dismiss(k, id);
        return;
    }
    if (code == 0 && (v = group_find_any(&k->chat->roster, id)) == NULL)
        code = CODE_NO_GROUP; /* but one that is gone already is what the caller wants */
    if (code != 0) {
        call_code(k, code, 0);
        return;
    }
    changed(k, group_dismiss(k->chat, v), CODE_DONE, NULL);
}

void
route_group_rename(struct call *k)
{
    char text[MAX_ID];
    struct str name;

    if (!request_id(&k->r, F_NAME, text, &name)) {
        call_code(k, CODE_INVALID, 0);
        return;
    }
    struct conv *v = group_of_call(k, true, far_rename, &name);
    if (v != NULL)
        changed(k, group_rename(k->chat, v, name), CODE_DONE, v);
}

/* A group and the part of its users that is asked for; NULL when the call has been answered. */
static struct conv *
group_and_page(struct call *k, bool whole, struct page *p)
{
    struct conv *v = group_of_call(k, false, far_page, &whole);

    if (v == NULL || page_get(&k->r, v->nonline, v->nmembers, p))
        return v;
    call_code(k, CODE_INVALID, 0);
    return NULL;
}

void
route_group_info(struct call *k)
{
    struct buf b = {0};
    struct page p;
    struct conv *v = group_and_page(k, true, &p);

    if (v == NULL)
        return;
    put_group(&b, v, &p, (size_t)k->chat->opt->queue_max / 2);
    call_data(k, CODE_DONE, &b);
}

void
route_group_list(struct call *k)
{
    const struct roster *r = &k->chat->roster;
    struct buf b = {0};
    struct page p;
    int64_t offset, count;

    if (!page_get(&k->r, 0, r->ngroups, &p) || p.type != 2) {
        call_code(k, CODE_INVALID, 0);
        return;
    }
    if (k->chat->cluster != NULL && page_asked(&k->r, &p.type, &offset, &count)) {
        far_group_list(k, offset, count);
        return;
    }
    buf_add(&b, "{", 1);
    json_put_key(&b, "groups");
    buf_add(&b, "[", 1);
    for (size_t i = p.from; i < p.to; i++) {
        json_put_comma(&b);
        put_group(&b, r->group[i], NULL, 0);
    }
    buf_add(&b, "]", 1);
    put_number(&b, "total", r->ngroups);
    buf_add(&b, "}", 1);
    call_data(k, CODE_DONE, &b);
}

void
route_group_users(struct call *k)
{
    struct buf b = {0};
    struct page p;
    struct conv *v = group_and_page(k, false, &p);

    if (v == NULL)
        return;
    buf_add(&b, "{", 1);
    put_text(&b, "groupId", str_of(v->id));
    put_number(&b, "total", p.type == 0   ? v->nonline
                            : p.type == 1 ? v->nmembers - v->nonline
                                          : v->nmembers);
    json_put_key(&b, "users");
    buf_add(&b, "[", 1);
    for (size_t i = p.from; i < p.to && b.len < (size_t)k->chat->opt->queue_max / 2; i++) {
        json_put_comma(&b);
        put_user(&b, v->member[i]->user);
    }
    buf_add(&b, "]}", 2);
    call_data(k, CODE_DONE, &b);
}
