/* SPDX-License-Identifier: MIT */
/*
 * cluster_look.c - users and groups as Redis knows them: command 17 and what the API shows and does
 * with users. What is shown is put together in a roster of its own, made for one question and freed
 * with its answer: so the JSON is written by the same functions as on a single node.
 *
 *   looking     the question, and what its steps have found
 *   steps       lists, then groups, then users
 *   answers     what is shown
 *   questions   17, and the routes that read
 *   others      online, friends, broadcast
 */
#include "jim.h"

#include <stdlib.h>

#define USER_BYTES 50 /* a user takes more than this in an answer: bounds how many are asked for */
#define BROADCAST_MS 3000 /* how long other nodes may take to say how many they have reached */

/* --- looking ---------------------------------------------------------------------------------- */

enum look { LOOK_FLAT, LOOK_WHOLE, LOOK_GROUP, LOOK_GROUP_USERS, LOOK_USERS, LOOK_GROUPS };

struct part { /* a group, or a piece of a list */
    char id[MAX_ID];
    uint8_t idlen;
    int64_t state, online, total;
    struct buf title;
    struct buf names; /* of users or groups, NUL-terminated */
    size_t nnames;
};

struct look_op {
    struct op op;
    enum look kind;
    bool api;
    char id[MAX_ID];     /* the user or group it is about */
    uint8_t idlen;
    int64_t type, offset, count;
    bool known;          /* the user has logged in once */
    struct roster view;  /* owned: who has been found */
    struct part *part;   /* owned */
    size_t parts, cap;
    struct user **ask;   /* whom to ask for, once each; owned */
    size_t asked, ask_cap;
    int64_t online[BUCKETS], total[BUCKETS];
};

static void
look_free(struct op *o)
{
    struct look_op *q = container_of(o, struct look_op, op);

    for (size_t i = 0; i < q->parts; i++) {
        buf_free(&q->part[i].title);
        buf_free(&q->part[i].names);
    }
    free(q->part);
    free(q->ask);
    roster_free(&q->view);
}

static struct str
look_id(const struct look_op *q)
{
    return (struct str){q->id, q->idlen};
}

static struct part *
part_add(struct look_op *q, struct str id)
{
    GROW(q->part, q->parts, q->cap, 8);
    struct part *p = &q->part[q->parts++];
    *p = (struct part){.idlen = (uint8_t)id.n};
    if (id.n > 0)
        memcpy(p->id, id.p, id.n);
    return p;
}

static size_t
look_room(const struct look_op *q)
{
    return (size_t)q->op.k->chat->opt->queue_max / 2;
}

/* Somebody to be shown. False: there are too many already. */
static bool
look_user(struct look_op *q, struct str id)
{
    struct user *u;

    if (!id_ok(id) || q->asked * USER_BYTES > look_room(q))
        return false;
    u = user_get(&q->view, id);
    if (u->record != 0)
        return true;
    GROW(q->ask, q->asked, q->ask_cap, 64);
    q->ask[q->asked++] = u;
    u->record = q->asked;
    return true;
}

static void
part_name(struct part *p, struct str name)
{
    buf_str(&p->names, name);
    buf_add(&p->names, "", 1);
    p->nnames++;
}

/* --- steps ------------------------------------------------------------------------------------ */

static void look_build(struct op *o);

static bool
look_failed(struct op *o)
{
    if (!o->failed && !o->k->gone)
        return false;
    o->failed = true;
    look_build(o);
    return true;
}

/* 2 * i: what is known of the i-th; and where he is. */
static void
user_reply(struct op *o, uint32_t n, const struct redis_reply *r)
{
    struct look_op *q = container_of(o, struct look_op, op);

    if (n / 2 >= q->asked)
        return;
    struct user *u = q->ask[n / 2];
    if (n % 2 == 1) {
        u->elsewhere = presence_of(r) & 7;
    } else if (redis_text(r).n > 0) {
        u->known = true;
        profile_set(u, redis_text(r));
    }
}

static void
ask_user(struct op *o, struct str id, uint32_t n)
{
    char text[3 * MAX_ID];
    struct str user = user_key(id, text);

    ask_plain(o, "HGET", 2);
    put_key(o, 'u', user, "");
    put_arg(o, STR("p"));
    ask_end(o, 'u', user, n);
    ask_plain(o, "HGETALL", 1);
    put_key(o, 'u', user, ":n");
    ask_end(o, 'u', user, n + 1);
}

/* The friends of the user that it is about. */
static void
look_friends(struct look_op *q, const struct user *u)
{
    const char *text = u->profile != NULL ? u->profile->friends : NULL;
    struct json_iter groups, members, users, user;
    struct json group, key, value, entry, name, id;
    char id_text[MAX_ID];
    struct str friend;

    if (text == NULL || json_open(&groups, text, strlen(text)) != 0)
        return;
    while (json_next(&groups, NULL, &group) > 0 && group.type == JSON_OBJECT) {
        json_enter(&members, &group);
        while (json_next(&members, &key, &value) > 0) {
            if (value.type != JSON_ARRAY)
                continue;
            json_enter(&users, &value);
            while (json_next(&users, NULL, &entry) > 0 && entry.type == JSON_OBJECT) {
                json_enter(&user, &entry);
                while (json_next(&user, &name, &id) > 0)
                    if (request_field(&name) == F_USER_ID && value_id(&id, id_text, &friend))
                        look_user(q, friend);
            }
        }
    }
}

static void
look_users(struct op *o)
{
    struct look_op *q = container_of(o, struct look_op, op);

    if (look_failed(o))
        return;
    if (q->kind == LOOK_WHOLE)
        look_friends(q, user_get(&q->view, look_id(q)));
    for (size_t i = 0; q->kind != LOOK_GROUPS && i < q->parts; i++) {
        struct part *p = &q->part[i];
        for (size_t at = 0; at < p->names.len;) {
            struct str name = str_of(p->names.p + at);
            look_user(q, name);
            at += name.n + 1;
        }
    }
    op_next(o, user_reply, look_build);
    for (size_t i = 0; i < q->asked; i++)
        ask_user(o, user_id(q->ask[i]), (uint32_t)(2 * i));
    op_sent(o);
}

/* script_page of the n-th group. */
static void
page_reply(struct op *o, uint32_t n, const struct redis_reply *r)
{
    struct look_op *q = container_of(o, struct look_op, op);
    struct part *p = &q->part[n];
    const struct redis_reply *e = redis_at(r, 4);

    p->state = redis_int(redis_at(r, 0), 0);
    if (id_ok(redis_text(redis_at(r, 1))))
        buf_str(&p->title, redis_text(redis_at(r, 1)));
    p->online = redis_int(redis_at(r, 2), 0);
    p->total = redis_int(redis_at(r, 3), 0);
    for (size_t i = 4; i + 1 < reply_count(r); i += 2) {
        part_name(p, redis_text(e));
        e = redis_next(redis_next(e));
    }
}

static void
ask_page(struct op *o, struct part *p, int64_t type, int64_t offset, int64_t count, uint32_t n)
{
    char text[MAX_CONV_KEY];
    struct str key = group_key((struct str){p->id, p->idlen}, text);

    ask_script(o, SCRIPT_PAGE, 5, 3);
    put_group_keys(o, key);
    put_int(o, type);
    put_int(o, offset);
    put_int(o, count);
    ask_end(o, 'c', key, n);
}

static int
part_order(const void *a, const void *b)
{
    const struct part *x = a, *y = b;
    int order = memcmp(x->id, y->id, x->idlen < y->idlen ? x->idlen : y->idlen);

    return order != 0 ? order : (int)x->idlen - (int)y->idlen;
}

static void
look_groups(struct op *o)
{
    struct look_op *q = container_of(o, struct look_op, op);

    if (look_failed(o))
        return;
    if (q->kind == LOOK_FLAT) {
        look_build(o);
        return;
    }
    if (q->parts > 1)
        qsort(q->part, q->parts, sizeof *q->part, part_order);
    op_next(o, page_reply, look_users);
    for (size_t i = 0; i < q->parts; i++)
        ask_page(o, &q->part[i], q->type, 0, o->k->chat->opt->list_max, (uint32_t)i);
    op_sent(o);
}

/* What is known of him, where he is, his groups. */
static void
subject_reply(struct op *o, uint32_t n, const struct redis_reply *r)
{
    struct look_op *q = container_of(o, struct look_op, op);
    struct user *u = user_get(&q->view, look_id(q));
    const struct redis_reply *e = redis_at(r, 0);
    char text[MAX_ID];

    if (n == 0 && redis_text(r).n > 0) {
        q->known = u->known = true;
        profile_set(u, redis_text(r));
    }
    if (n == 1)
        u->elsewhere = presence_of(r) & 7;
    for (size_t i = 0; n == 2 && i < reply_count(r) && i < MAX_GROUPS + MAX_JOINED;
         i++, e = redis_next(e)) {
        struct str key = redis_text(e), part, id;
        if (str_split(&key, ':', &part) && key.p != NULL && id_unescape(key, text, &id))
            part_add(q, id);
    }
}

/* --- lists ------------------------------------------------------------------------------------ */

static void
range_reply(struct op *o, uint32_t n, const struct redis_reply *r)
{
    struct look_op *q = container_of(o, struct look_op, op);
    const struct redis_reply *e = redis_at(r, 0);

    for (size_t i = 0; i < reply_count(r); i++, e = redis_next(e))
        part_name(&q->part[n], redis_text(e));
}

/* Groups have been named: each becomes a part of its own. */
static void
list_groups(struct op *o)
{
    struct look_op *q = container_of(o, struct look_op, op);
    struct part *lists = q->part;
    size_t n = q->parts;

    q->part = NULL;
    q->parts = q->cap = 0;
    for (size_t i = 0; i < n; i++) {
        for (size_t at = 0; at < lists[i].names.len;) {
            struct str id = str_of(lists[i].names.p + at);
            if (id_ok(id))
                part_add(q, id);
            else
                far_junk(o->k, "a group's id", id);
            at += id.n + 1;
        }
        buf_free(&lists[i].names);
    }
    free(lists);
    if (look_failed(o))
        return;
    op_next(o, page_reply, look_build);
    for (size_t i = 0; i < q->parts; i++)
        ask_page(o, &q->part[i], 2, 0, 0, (uint32_t)i);
    op_sent(o);
}

/* Ask for what [from, to) has of a bucket's elements at `first` and behind, which stand at `at` in
 * the whole list. */
static void
ask_range(struct look_op *q, int bucket, int64_t at, int64_t first, int64_t n)
{
    struct op *o = &q->op;
    char kind = q->kind == LOOK_USERS ? 'U' : 'G', name[8];
    int64_t from = q->offset > at ? q->offset - at : 0;
    int64_t to = q->offset + q->count < at + n ? q->offset + q->count - at : n;
    struct str id = {name, (size_t)snprintf(name, sizeof name, "%d", bucket)};

    if (from >= to)
        return;
    uint32_t part = (uint32_t)q->parts;
    part_add(q, STR(""));
    ask_plain(o, "ZRANGE", 3);
    put_key(o, kind, id, "");
    put_int(o, first + from);
    put_int(o, first + to - 1);
    ask_end(o, kind, id, part);
}

/* Those online of all the buckets come first, then the others. */
static void
list_ranges(struct op *o)
{
    struct look_op *q = container_of(o, struct look_op, op);
    int64_t at = 0;

    if (look_failed(o))
        return;
    op_next(o, range_reply, q->kind == LOOK_USERS ? look_users : list_groups);
    for (int i = 0; q->type != 1 && i < BUCKETS; i++) {
        ask_range(q, i, at, 0, q->online[i]);
        at += q->online[i];
    }
    for (int i = 0; q->type != 0 && i < BUCKETS; i++) {
        ask_range(q, i, at, q->online[i], q->total[i] - q->online[i]);
        at += q->total[i] - q->online[i];
    }
    op_sent(o);
}

static void
count_reply(struct op *o, uint32_t n, const struct redis_reply *r)
{
    struct look_op *q = container_of(o, struct look_op, op);
    int64_t count = redis_int(r, -1);

    if (count < 0 || count > UINT32_MAX) { /* more than a sorted set holds */
        far_junk(o->k, "a length", redis_text(r));
        o->failed = true;
    } else if (n < BUCKETS) {
        q->online[n] = count;
    } else {
        q->total[n - BUCKETS] = count;
    }
}

static void
ask_counts(struct look_op *q)
{
    struct op *o = &q->op;
    char kind = q->kind == LOOK_USERS ? 'U' : 'G', name[8];

    for (int i = 0; i < BUCKETS; i++) {
        snprintf(name, sizeof name, "%d", i);
        struct str id = str_of(name);
        ask_plain(o, "ZCOUNT", 3);
        put_key(o, kind, id, "");
        put_int(o, 0);
        put_int(o, 0);
        ask_end(o, kind, id, (uint32_t)i);
        ask_plain(o, "ZCARD", 1);
        put_key(o, kind, id, "");
        ask_end(o, kind, id, (uint32_t)(BUCKETS + i));
    }
}

/* --- answers ---------------------------------------------------------------------------------- */

static void
put_number(struct buf *b, const char *key, int64_t n)
{
    json_put_key(b, key);
    json_put_int(b, n);
}

static void
put_users(struct look_op *q, struct buf *b, const struct part *p, size_t room)
{
    for (size_t at = 0; at < p->names.len && b->len < room;) {
        struct str name = str_of(p->names.p + at);
        const struct user *u = user_find(&q->view, name);
        at += name.n + 1;
        if (u == NULL)
            continue;
        json_put_comma(b);
        put_user(b, u);
    }
}

static void
put_title(struct buf *b, const struct part *p)
{
    struct str id = {p->id, p->idlen};

    put_text(b, "groupId", id);
    put_text(b, "name", p->title.len > 0 ? (struct str){p->title.p, p->title.len} : id);
    put_number(b, "online", p->online);
}

static void
put_whole(struct look_op *q, struct buf *b)
{
    struct chat look = *q->op.k->chat; /* the same, but for whom it knows */
    const struct user *u = user_get(&q->view, look_id(q));

    look.roster = q->view;
    buf_add(b, "{", 1);
    put_user_front(b, u);
    json_put_key(b, "friends");
    profile_put_friends(&look, b, u, q->type, look_room(q));
    json_put_key(b, "groups");
    buf_add(b, "[", 1);
    for (size_t i = 0; i < q->parts; i++) {
        if (q->part[i].state != 1)
            continue;
        json_put_comma(b);
        buf_add(b, "{", 1);
        put_title(b, &q->part[i]);
        json_put_key(b, "users");
        buf_add(b, "[", 1);
        put_users(q, b, &q->part[i], look_room(q));
        buf_add(b, "]}", 2);
    }
    buf_add(b, "]", 1);
    put_user_back(b, u);
    buf_add(b, "}", 1);
}

static void
put_one_group(struct look_op *q, struct buf *b, const struct part *p)
{
    struct str id = {p->id, p->idlen};

    buf_add(b, "{", 1);
    if (q->kind == LOOK_GROUP_USERS) {
        put_text(b, "groupId", id);
        put_number(b, "total", q->type == 0   ? p->online
                               : q->type == 1 ? p->total - p->online
                                              : p->total);
    } else {
        put_title(b, p);
        put_number(b, "total", p->total);
    }
    if (q->kind != LOOK_GROUPS) {
        json_put_key(b, "users");
        buf_add(b, "[", 1);
        put_users(q, b, p, look_room(q));
        buf_add(b, "]", 1);
    }
    buf_add(b, "}", 1);
}

static void
put_list(struct look_op *q, struct buf *b)
{
    int64_t online = 0, total = 0;

    for (int i = 0; i < BUCKETS; i++) {
        online += q->online[i];
        total += q->total[i];
    }
    buf_add(b, "{", 1);
    if (q->kind == LOOK_GROUPS) {
        json_put_key(b, "groups");
        buf_add(b, "[", 1);
        for (size_t i = 0; i < q->parts; i++)
            if (q->part[i].state == 1) {
                json_put_comma(b);
                put_one_group(q, b, &q->part[i]);
            }
        buf_add(b, "]", 1);
    }
    put_number(b, "total", q->type == 0 ? online : q->type == 1 ? total - online : total);
    if (q->kind == LOOK_USERS) {
        json_put_key(b, "users");
        buf_add(b, "[", 1);
        for (size_t i = 0; i < q->parts; i++)
            put_users(q, b, &q->part[i], look_room(q));
        buf_add(b, "]", 1);
    }
    buf_add(b, "}", 1);
}

/* The code, and what goes with it. */
static int
look_data(struct look_op *q, struct buf *b)
{
    static const int codes[] = {CODE_ONLINE_USERS, CODE_OFFLINE_USERS, CODE_USER_OK};

    if (q->op.failed)
        return CODE_STORE;
    if (q->kind == LOOK_FLAT || q->kind == LOOK_WHOLE) {
        if (!q->known)
            return CODE_USER_FAILED;
        if (q->kind == LOOK_WHOLE)
            put_whole(q, b);
        else
            put_user(b, user_get(&q->view, look_id(q)));
        return q->api ? CODE_USER_OK : codes[q->type];
    }
    if (q->kind == LOOK_GROUP || q->kind == LOOK_GROUP_USERS) {
        if (q->part[0].state != 1)
            return CODE_NO_GROUP;
        put_one_group(q, b, &q->part[0]);
        return CODE_DONE;
    }
    put_list(q, b);
    return q->kind == LOOK_USERS ? codes[q->type] : CODE_DONE;
}

static void
look_build(struct op *o)
{
    struct look_op *q = container_of(o, struct look_op, op);
    struct chat *c = o->k->chat;
    struct buf data = {0}, b = {0};
    int code = look_data(q, &data);

    if (q->api) {
        buf_printf(&b, "{\"code\":%d", code);
        if (data.len > 0) {
            json_put_key(&b, "data");
            json_put_raw(&b, data.p, data.len);
        }
        put_msg(&b, code);
        buf_add(&b, "}", 1);
        api_sent(o->conn, code, b.p, b.len);
    } else if (op_alive(o)) {
        answer_begin(c, code, CMD_USER_RESP);
        if (data.len > 0) {
            json_put_key(&c->out, "data");
            json_put_raw(&c->out, data.p, data.len);
        }
        put_msg(&c->out, code);
        answer_send(c, o->conn, CMD_USER_RESP, o->seq);
    }
    buf_free(&data);
    buf_free(&b);
    op_end(o);
}

/* --- questions -------------------------------------------------------------------------------- */

static struct look_op *
look_new(struct cluster *k, struct conn *c, uint32_t seq, enum look kind, struct str id,
         int64_t type)
{
    struct op *o = op_of_command(k, sizeof(struct look_op), c, seq, NULL, NULL, look_free);
    struct look_op *q = container_of(o, struct look_op, op);

    roster_init(&q->view);
    q->kind = kind;
    q->type = type;
    q->idlen = (uint8_t)id.n;
    if (id.n > 0)
        memcpy(q->id, id.p, id.n);
    return q;
}

static void
look_subject(struct look_op *q)
{
    struct op *o = &q->op;
    char text[3 * MAX_ID];
    struct str user = user_key(look_id(q), text);

    op_next(o, subject_reply, look_groups);
    ask_user(o, look_id(q), 0);
    if (q->kind == LOOK_WHOLE) {
        ask_plain(o, "SMEMBERS", 1);
        put_key(o, 'u', user, ":g");
        ask_end(o, 'u', user, 2);
    }
    op_sent(o);
}

bool
cluster_user(struct chat *c, struct conn *from, uint32_t seq, const struct request *r)
{
    char text[MAX_ID];
    struct str id;
    int64_t type;
    int code = 0;

    if (r == NULL || !request_id(r, F_USER_ID, text, &id) ||
        request_int(r, F_TYPE, 2, &type) < 0 || type < 0 || type > 2)
        code = CODE_USER_FAILED;
    else if (!cluster_can(c->cluster))
        code = CODE_STORE;
    if (code != 0) {
        answer_code(c, from, CMD_USER_RESP, seq, code);
        return true;
    }
    bool own = str_eq(id, user_id(from->user));
    look_subject(look_new(c->cluster, from, seq, own ? LOOK_WHOLE : LOOK_FLAT, id, type));
    return true;
}

/* A question of the API; NULL: it has been refused. */
static struct look_op *
look_api(struct call *k, enum look kind, struct str id, int64_t type)
{
    if (!cluster_can(k->chat->cluster)) {
        call_code(k, CODE_STORE, 0);
        return NULL;
    }
    call_later(k);
    struct look_op *q = look_new(k->chat->cluster, k->c, 0, kind, id, type);
    q->api = true;
    return q;
}

void
far_user_info(struct call *k, struct str id, int64_t type)
{
    struct look_op *q = look_api(k, LOOK_WHOLE, id, type);

    if (q != NULL)
        look_subject(q);
}

static void
look_list(struct look_op *q, int64_t offset, int64_t count)
{
    if (q == NULL)
        return;
    q->offset = offset < INT64_MAX / 2 ? offset : INT64_MAX / 2;
    q->count = count;
    op_next(&q->op, count_reply, list_ranges);
    ask_counts(q);
    op_sent(&q->op);
}

void
far_user_list(struct call *k, int64_t type, int64_t offset, int64_t count)
{
    look_list(look_api(k, LOOK_USERS, STR(""), type), offset, count);
}

void
far_group_list(struct call *k, int64_t offset, int64_t count)
{
    look_list(look_api(k, LOOK_GROUPS, STR(""), 2), offset, count);
}

void
far_group_page(struct call *k, struct str id, bool whole, int64_t type, int64_t offset,
               int64_t count)
{
    struct look_op *q = look_api(k, whole ? LOOK_GROUP : LOOK_GROUP_USERS, id, type);

    if (q == NULL)
        return;
    op_next(&q->op, page_reply, look_users);
    ask_page(&q->op, part_add(q, id), type, offset < INT64_MAX / 2 ? offset : INT64_MAX / 2, count,
             0);
    op_sent(&q->op);
}

/* --- others ----------------------------------------------------------------------------------- */

struct word_op { /* what is answered with a code alone */
    struct op op;
    int code;
    char id[MAX_ID];
    uint8_t idlen;
    struct buf json;
};

static void
word_free(struct op *o)
{
    buf_free(&container_of(o, struct word_op, op)->json);
}

static void
code_answer(struct op *o, int code)
{
    struct buf b = {0};

    buf_printf(&b, "{\"code\":%d", code);
    put_msg(&b, code);
    buf_add(&b, "}", 1);
    api_sent(o->conn, code, b.p, b.len);
    buf_free(&b);
    op_end(o);
}

static void
word_step(struct op *o)
{
    code_answer(o, o->failed ? CODE_STORE : container_of(o, struct word_op, op)->code);
}

static void
online_reply(struct op *o, uint32_t n, const struct redis_reply *r)
{
    (void)n;
    container_of(o, struct word_op, op)->code = redis_int(r, 0) > 0 ? CODE_ONLINE : CODE_OFFLINE;
}

static struct word_op *
word_new(struct call *k, struct str id, op_reply_fn *reply, op_fn *step)
{
    if (!cluster_can(k->chat->cluster)) {
        call_code(k, CODE_STORE, 0);
        return NULL;
    }
    call_later(k);
    struct op *o = op_of_command(k->chat->cluster, sizeof(struct word_op), k->c, 0, reply, step,
                                 word_free);
    struct word_op *q = container_of(o, struct word_op, op);
    memcpy(q->id, id.p, id.n);
    q->idlen = (uint8_t)id.n;
    return q;
}

void
far_user_online(struct call *k, struct str id)
{
    struct word_op *q = word_new(k, id, online_reply, word_step);
    char text[3 * MAX_ID];
    struct str user = user_key(id, text);

    if (q == NULL)
        return;
    ask_plain(&q->op, "HLEN", 1);
    put_key(&q->op, 'u', user, ":n");
    ask_end(&q->op, 'u', user, 0);
    op_sent(&q->op);
}

/* Tell the nodes where he is; then it is done. */
static void
friends_told(struct op *o, uint32_t n, const struct redis_reply *r)
{
    struct word_op *q = container_of(o, struct word_op, op);
    char text[3 * MAX_ID], head[3 * MAX_ID + 4];
    struct str id = {q->id, q->idlen}, user = user_key(id, text);
    struct user *here = user_find(&o->k->chat->roster, id);
    const struct redis_reply *e = redis_at(r, 0);
    int len = snprintf(head, sizeof head, "u %.*s", (int)user.n, user.p);

    if (n != 1)
        return;
    for (size_t i = 0; i < reply_count(r); i++, e = redis_next(e))
        far_route(o->k, redis_text(e), (struct str){head, (size_t)len},
              (struct str){q->json.p, q->json.len});
    if (here != NULL && here->nconns > 0)
        profile_set(here, (struct str){q->json.p, q->json.len});
}

static void
friends_known(struct op *o, uint32_t n, const struct redis_reply *r)
{
    struct word_op *q = container_of(o, struct word_op, op);
    struct roster view;
    struct buf b = {0};
    struct str id = {q->id, q->idlen};

    (void)n;
    roster_init(&view);
    struct user *u = user_get(&view, id);
    profile_set(u, redis_text(r));
    profile_set(u, (struct str){q->json.p, q->json.len});
    record_put_user(&b, u);
    buf_free(&q->json);
    q->json = b;
    roster_free(&view);
}

static void
friends_write(struct op *o)
{
    struct word_op *q = container_of(o, struct word_op, op);
    char text[3 * MAX_ID];
    struct str id = {q->id, q->idlen}, user = user_key(id, text);

    if (o->failed || o->k->gone) {
        code_answer(o, CODE_STORE);
        return;
    }
    op_next(o, friends_told, word_step);
    ask_plain(o, "HSET", 3);
    put_key(o, 'u', user, "");
    put_arg(o, STR("p"));
    put_arg(o, (struct str){q->json.p, q->json.len});
    ask_end(o, 'u', user, 0);
    ask_plain(o, "HKEYS", 1);
    put_key(o, 'u', user, ":n");
    ask_end(o, 'u', user, 1);
    ask_index(o, 'U', id, 1, "NX"); /* known from now on; online, the list has him already */
    op_sent(o);
}

void
far_user_friends(struct call *k, struct str id, struct str json)
{
    struct word_op *q = word_new(k, id, friends_known, friends_write);
    char text[3 * MAX_ID];
    struct str user = user_key(id, text);

    if (q == NULL)
        return;
    q->code = CODE_DONE;
    buf_str(&q->json, json);
    ask_plain(&q->op, "HGET", 2);
    put_key(&q->op, 'u', user, "");
    put_arg(&q->op, STR("p"));
    ask_end(&q->op, 'u', user, 0);
    op_sent(&q->op);
}

struct cast_op { /* a broadcast of ours */
    struct op op;
    struct timer timer;
    char number[NODE_ID + 1];
    struct msg *msg; /* ref */
    size_t waits;  /* nodes that have not said yet how many they have reached; and for their list */
    uint64_t sent;
    bool late;     /* its time was over before Redis had named them */
};

static void
cast_free(struct op *o)
{
    loop_timer_clear(o->k->jim->loop, &container_of(o, struct cast_op, op)->timer);
    msg_unref(container_of(o, struct cast_op, op)->msg);
}

static void
cast_end(struct cast_op *q)
{
    struct op *o = &q->op;
    struct buf b = {0};

    buf_printf(&b, "{\"code\":%d,\"command\":%d,\"data\":{\"sent\":%llu}", CODE_SENT,
               CMD_CHAT_RESP, (unsigned long long)q->sent);
    put_msg(&b, CODE_SENT);
    buf_add(&b, "}", 1);
    api_sent(o->conn, CODE_SENT, b.p, b.len);
    buf_free(&b);
    op_end(o);
}

static void
cast_less(struct cast_op *q)
{
    if (--q->waits == 0)
        cast_end(q);
}

static void
cast_timer_fired(struct timer *t)
{
    struct cast_op *q = container_of(t, struct cast_op, timer);

    q->late = q->op.left > 0; /* its reply comes yet, or is lost: then cast_step() */
    if (!q->late)
        cast_end(q);
}

/* It ends when the last node has answered. */
static void
cast_step(struct op *o)
{
    struct cast_op *q = container_of(o, struct cast_op, op);

    if (o->failed || q->late)
        cast_end(q);
    else
        cast_less(q);
}

/* The nodes there are; those whose lease has ended will not answer. */
static void
cast_nodes(struct op *o, uint32_t n, const struct redis_reply *r)
{
    struct cast_op *q = container_of(o, struct cast_op, op);
    const struct redis_reply *e = redis_at(r, 0);
    char head[64];
    int len = snprintf(head, sizeof head, "b %s %s", o->k->id, q->number);

    (void)n;
    if (q->late)
        return;
    for (size_t i = 0; i + 2 < reply_count(r); i += 3) {
        struct str node = redis_text(e);
        bool other = !str_eq(node, cluster_self(o->k)) && redis_int(redis_next(e), 0) > 0;
        if (other) {
            far_route(o->k, node, (struct str){head, (size_t)len},
                      (struct str){q->msg->data, q->msg->len});
            q->waits++;
        }
        e = redis_next(redis_next(redis_next(e)));
    }
}

void
broadcast_heard(struct cluster *k, struct str number, uint64_t sent)
{
    for (struct op *o = k->ops; o != NULL; o = o->next) {
        struct cast_op *q = container_of(o, struct cast_op, op);
        if (o->step != cast_step || !str_eq(str_of(q->number), number))
            continue;
        if (o->left > 0 && q->waits == 1)
            return; /* more have answered than were asked: the list itself is waited for */
        q->sent += sent;
        cast_less(q);
        return;
    }
}

void
broadcast_told(struct cluster *k, struct str node, struct str number, uint64_t sent)
{
    char head[64];
    int n = snprintf(head, sizeof head, "c %.*s %llu", (int)number.n, number.p,
                     (unsigned long long)sent);

    if (str_eq(node, cluster_self(k)))
        broadcast_heard(k, number, sent);
    else
        far_route(k, node, (struct str){head, (size_t)n}, STR(""));
}

void
far_broadcast(struct call *k, struct msg *m)
{
    struct cluster *own = k->chat->cluster;
    struct op *o;
    uint64_t random;

    if (!cluster_can(own)) {
        call_code(k, send_refused(k->chat, CODE_STORE), CMD_CHAT_RESP);
        return;
    }
    call_later(k);
    o = op_of_command(own, sizeof(struct cast_op), k->c, 0, cast_nodes, cast_step, cast_free);
    struct cast_op *q = container_of(o, struct cast_op, op);
    random_bytes(&random, sizeof random);
    snprintf(q->number, sizeof q->number, "%016llx", (unsigned long long)random);
    q->msg = m;
    m->refs++;
    q->waits = 2; /* the list, and this node */
    loop_timer(own->jim->loop, &q->timer, loop_now(own->jim->loop) + BROADCAST_MS,
               cast_timer_fired);
    ask_script(o, SCRIPT_NODES, 3, 0);
    put_key(o, 's', STR("nodes"), "");
    put_key(o, 's', STR("nodes"), ":i");
    put_key(o, 's', STR("nodes"), ":r");
    ask_end(o, 's', STR("nodes"), 0);
    op_sent(o);
    if (!broadcast_begin(own->jim, NULL, m, cluster_self(own), str_of(q->number)))
        broadcast_told(own, cluster_self(own), str_of(q->number), 0);
}
