/* SPDX-License-Identifier: MIT */
/*
 * chat.c - what messages mean: who may do what, and what follows. Knows connections only as struct
 * conn, conn_send() and conn_reply(); never sees a descriptor or a wire format, so all of it runs in a
 * test without sockets.
 *
 *   requests      JSON to struct request: one pass, names tolerant, unknown ones ignored
 *   answers       codes, texts, and the pieces answers are made of
 *   the log       users, groups and memberships are records too; one lost with a batch is redone
 *   presence      who is told that somebody has come or gone
 *   login         names to users, users to connections
 *   groups        joining
 *   sending       check, number, store, remember the id; then wait for the store
 *   delivery      what is on disk goes to the receivers, then the sender is told
 *   commands      the table of all that a client may ask
 *   start         the log read back
 *
 * A message is never shown or acknowledged before store_durable() says that it is safe, and never
 * refused after it has got a number.
 */
#include "jim.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* --- requests ---------------------------------------------------------------------------------- */

/* Folded as json_fold() does: groupId, group_id and GROUP-ID are all the same. */
static const char *const field_names[FIELDS] = {
    [F_CMD] = "cmd",
    [F_USER_ID] = "userid",
    [F_PASSWORD] = "password",
    [F_TOKEN] = "token",
    [F_TO] = "to",
    [F_FROM] = "from",
    [F_GROUP_ID] = "groupid",
    [F_FROM_USER_ID] = "fromuserid",
    [F_CHAT_TYPE] = "chattype",
    [F_MSG_TYPE] = "msgtype",
    [F_CONTENT] = "content",
    [F_CREATE_TIME] = "createtime",
    [F_ID] = "id",
    [F_EXTRAS] = "extras",
    [F_TYPE] = "type",
    [F_BEGIN_TIME] = "begintime",
    [F_END_TIME] = "endtime",
    [F_OFFSET] = "offset",
    [F_COUNT] = "count",
    [F_NAME] = "name",
    [F_BEFORE_SEQ] = "beforeseq",
    [F_AFTER_SEQ] = "afterseq",
    [F_LOGIN_NAME] = "loginname", /* what 2.x called userId */
};

static enum field
field_of(const struct json *key)
{
    char name[JSON_NAME_MAX];
    size_t n = json_fold(key, name);

    for (enum field f = 0; n > 0 && f < FIELDS; f++)
        if (field_names[f][0] == name[0] && strcmp(field_names[f], name) == 0)
            return f;
    return FIELDS;
}

bool
request_parse(struct request *r, struct str json)
{
    struct json_iter it;
    struct json key, value;
    int more;

    memset(r, 0, sizeof *r);
    if (json.n >= UINT32_MAX || json_open(&it, json.p, json.n) != 0 || it.close != '}')
        return false;
    while ((more = json_next(&it, &key, &value)) > 0) {
        enum field f = field_of(&key);
        if (f < FIELDS)
            r->f[f] = value.type == JSON_NULL ? (struct json){0} : value;
    }
    if (r->f[F_USER_ID].type == JSON_NONE)
        r->f[F_USER_ID] = r->f[F_LOGIN_NAME];
    return more == 0;
}

bool
request_id(const struct request *r, enum field f, char dst[MAX_ID], struct str *id)
{
    const struct json *v = &r->f[f];
    char text[6 * MAX_ID]; /* every byte of an id may have come as \u00xx */

    if (v->type == JSON_NONE || v->type >= JSON_ARRAY || v->n > sizeof text)
        return false;
    size_t n = json_text(v, text);
    if (n > MAX_ID)
        return false;
    memcpy(dst, text, n);
    *id = (struct str){dst, n};
    return id_ok(*id);
}

int
request_int(const struct request *r, enum field f, int64_t missing, int64_t *n)
{
    int got = json_int(&r->f[f], n);

    if (got == 0)
        *n = missing;
    return got;
}

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

/* --- answers ----------------------------------------------------------------------------------- */

const char *
code_text(int code)
{
    static const char *const texts[CODE_END - CODE_SENT] = {
        "ok 发送成功",
        "offline 用户不在线",
        ("send failed 消息发送失败,数据格式不正确,请参考:{'from':来源ID,'to':目标ID,"
         "'cmd':'消息命令码','createTime':消息创建时间(Long型),'msgType':Integer消息类型,"
         "'content':内容}"),
        "ok 获取用户信息成功!",
        "get user failed ! 获取用户信息失败!",
        "ok 获取所有在线用户信息成功!",
        "ok 获取所有离线用户信息成功!",
        "ok 登录成功!",
        "login failed ! 登录失败!",
        "ok 鉴权成功!",
        "auth failed! 鉴权失败!",
        "join group ok! 加入群组成功!",
        "join group failed! 加入群组失败!",
        "Protocol version number does not match 协议版本号不匹配!",
        "unsupported cmd command 不支持的cmd命令!",
        "get user message failed! 获取用户消息失败!",
        "get user message ok! 获取离线消息成功!",
        "cmd failed! 未知的cmd命令!",
        "get user message ok! 获取历史消息成功!",
        "online 用户在线",
        "Invalid verification! 不合法校验",
        "close ok! 关闭成功",
        "not logged in 未登录",
        "too many requests 请求过于频繁",
        "forbidden 没有权限",
        "message too large 消息过大",
        "logged in elsewhere 已在别处登录",
        "store unavailable 存储不可用",
        "server shutting down 服务器正在关闭",
        "ok 操作成功",
        "group not found 群组不存在",
    };

    assert(code >= CODE_SENT && code < CODE_END);
    return texts[code - CODE_SENT];
}

void
put_answer(struct buf *b, int code, int command)
{
    buf_add(b, "{", 1);
    if (code != 0) {
        json_put_key(b, "code");
        json_put_int(b, code);
    }
    json_put_key(b, "command");
    json_put_int(b, command);
}

void
put_msg(struct buf *b, int code)
{
    const char *text = code_text(code);

    json_put_key(b, "msg");
    json_put_string(b, text, strlen(text));
}

void
put_text(struct buf *b, const char *key, struct str text)
{
    json_put_key(b, key);
    json_put_string(b, text.p, text.n);
}

static void
put_profile(struct buf *b, const char *key, const char *json)
{
    if (json == NULL)
        return;
    json_put_key(b, key);
    json_put_raw(b, json, strlen(json));
}

static void
put_nick(struct buf *b, const struct user *u)
{
    if (u->profile != NULL && u->profile->nick != NULL)
        put_profile(b, "nick", u->profile->nick);
    else
        put_text(b, "nick", user_id(u));
}

void
put_user_front(struct buf *b, const struct user *u)
{
    if (u->profile == NULL)
        return;
    put_profile(b, "avatar", u->profile->avatar);
    put_profile(b, "extras", u->profile->extras);
}

void
put_user_back(struct buf *b, const struct user *u)
{
    put_nick(b, u);
    put_profile(b, "sign", u->profile != NULL ? u->profile->sign : NULL);
    put_text(b, "status", u->nconns > 0 ? STR("online") : STR("offline"));
    if (u->conns != NULL)
        put_text(b, "terminal", str_of(conn_terminal(u->conns)));
    put_text(b, "userId", user_id(u));
}

void
put_user(struct buf *b, const struct user *u)
{
    buf_add(b, "{", 1);
    put_user_front(b, u);
    put_user_back(b, u);
    buf_add(b, "}", 1);
}

void
put_user_brief(struct buf *b, const struct user *u, bool online)
{
    buf_add(b, "{", 1);
    put_nick(b, u);
    put_text(b, "status", online ? STR("online") : STR("offline"));
    put_text(b, "userId", user_id(u));
    buf_add(b, "}", 1);
}

static struct buf *
answer_begin(struct chat *c, int code, int command)
{
    c->out.len = 0;
    put_answer(&c->out, code, command);
    return &c->out;
}

static void
answer_send(struct chat *c, struct conn *to, uint8_t command, uint32_t seq)
{
    buf_add(&c->out, "}", 1);
    conn_reply(to, command, seq, c->out.p, c->out.len);
}

/* The answer that is a code and its text. */
static void
answer_code(struct chat *c, struct conn *to, uint8_t command, uint32_t seq, int code)
{
    put_msg(answer_begin(c, code, command), code);
    answer_send(c, to, command, seq);
}

/* --- the log ----------------------------------------------------------------------------------- */

static struct pending *
pending_push(struct chat *c)
{
    if (c->pending_n == c->pending_cap) {
        size_t cap = c->pending_cap == 0 ? 64 : 2 * c->pending_cap;
        size_t first = c->pending_cap - c->pending_head;
        struct pending *grown = xmalloc(cap * sizeof *grown);
        if (c->pending_n > 0) {
            memcpy(grown, c->pending + c->pending_head, first * sizeof *grown);
            memcpy(grown + first, c->pending, c->pending_head * sizeof *grown);
        }
        free(c->pending);
        c->pending = grown;
        c->pending_head = 0;
        c->pending_cap = cap;
    }
    struct pending *p = &c->pending[(c->pending_head + c->pending_n++) & (c->pending_cap - 1)];
    *p = (struct pending){0};
    return p;
}

static void
put_user_record(struct buf *b, const struct user *u)
{
    const struct profile *p = u->profile;

    buf_add(b, "{", 1);
    if (p != NULL) {
        put_profile(b, "avatar", p->avatar);
        put_profile(b, "extras", p->extras);
        put_profile(b, "nick", p->nick);
        put_profile(b, "sign", p->sign);
    }
    put_text(b, "userId", user_id(u));
    buf_add(b, "}", 1);
}

/* Write what is so now of a user, a group or a membership, and see that it gets to the disk. */
static void
log_state(struct chat *c, char type, struct conv *v, struct user *u)
{
    struct buf *b = &c->line;
    uint64_t seq = 0;

    b->len = 0;
    if (type == REC_USER) {
        put_user_record(b, u);
    } else if (type == REC_GROUP) {
        buf_add(b, "{", 1);
        put_text(b, "groupId", str_of(v->id));
        if (v->name != NULL)
            put_text(b, "name", str_of(v->name));
        buf_add(b, "}", 1);
    } else {
        struct member *m = member_of(&c->roster, u, v);
        seq = m != NULL ? m->cursor : 0;
        buf_add(b, "{", 1);
        put_text(b, "userId", user_id(u));
        buf_add(b, "}", 1);
    }
    uint64_t number = store_append(c->store, type, v != NULL ? (struct str){v->key, v->keylen} : STR("-"),
                                   seq, (struct str){b->p, b->len}, c->now_ms(), NULL);
    if (number == 0 || number <= store_durable(c->store))
        return; /* failed for good: health says so; or there is nothing to wait for */
    struct pending *p = pending_push(c);
    p->number = number;
    p->kind = PENDING_STATE;
    p->type = type;
    p->conv = v;
    p->from = u;
}

static void
log_cursor(struct chat *c, struct member *m)
{
    struct buf *b = &c->line;

    b->len = 0;
    buf_add(b, "{", 1);
    if (m->live_hi != 0)
        buf_printf(b, "\"live\":[%llu,%llu],", (unsigned long long)m->live_lo,
                   (unsigned long long)m->live_hi);
    json_put_raw(b, "\"userId\":", 9);
    json_put_string(b, m->user->id, m->user->idlen);
    buf_add(b, "}", 1);
    store_append(c->store, REC_CURSOR, (struct str){m->conv->key, m->conv->keylen}, m->cursor,
                 (struct str){b->p, b->len}, c->now_ms(), NULL);
}

bool
chat_unsaved(const struct chat *c)
{
    return (c->roster.dirty != NULL || c->redo_n > 0) && !store_failed(c->store);
}

void
chat_save(struct chat *c, size_t max)
{
    while (c->redo_n > 0) {
        struct pending p = c->redo[--c->redo_n];
        log_state(c, p.type, p.conv, p.from);
    }
    while (c->roster.dirty != NULL && max-- > 0) {
        struct member *m = c->roster.dirty;
        c->roster.dirty = m->next_dirty;
        m->dirty = false;
        if (!m->left && store_keeps(c->store))
            log_cursor(c, m);
    }
}

/* --- presence ---------------------------------------------------------------------------------- */

/* Notify 9: {"code":10011,"command":9,"group":…,"msg":…,"user":…}. A reference for the caller. */
static struct msg *
joined_msg(struct chat *c, const struct conv *v, const struct user *u)
{
    struct buf *b = answer_begin(c, CODE_JOIN_OK, CMD_JOIN_NOTIFY);

    put_text(b, "group", str_of(v->id));
    put_msg(b, CODE_JOIN_OK);
    json_put_key(b, "user");
    put_user_brief(b, u, true);
    buf_add(b, "}", 1);
    return msg_new(CMD_JOIN_NOTIFY, 0, b->p, b->len);
}

/* Notify 10: {"command":10,"data":{"group":…,"user":…}}. */
static struct msg *
left_msg(struct chat *c, const struct conv *v, const struct user *u)
{
    struct buf *b = answer_begin(c, 0, CMD_EXIT_NOTIFY);

    json_put_key(b, "data");
    buf_add(b, "{", 1);
    put_text(b, "group", str_of(v->id));
    json_put_key(b, "user");
    put_user_brief(b, u, false);
    buf_add(b, "}}", 2);
    return msg_new(CMD_EXIT_NOTIFY, 0, b->p, b->len);
}

/* Tell everybody online in a group but one user, unless they are too many to be told. */
static void
tell_others(struct chat *c, const struct conv *v, struct msg *m, const struct user *but)
{
    if (v->nonline > c->opt->notify_max)
        return;
    for (uint32_t i = 0; i < v->nonline; i++)
        if (v->member[i]->user != but)
            for (struct conn *o = v->member[i]->user->conns; o != NULL; o = o->next_of_user)
                conn_send(o, m, NULL);
}

static void
announce_joined(struct chat *c, struct conv *v, const struct user *u, struct conn *own, bool others)
{
    struct msg *m = joined_msg(c, v, u);

    conn_send(own, m, NULL);
    if (others)
        tell_others(c, v, m, u);
    msg_unref(m);
}

/* --- login ------------------------------------------------------------------------------------- */

static void
unbind(struct chat *c, struct conn *conn)
{
    struct user *u = conn->user;
    struct conn **at;

    if (u == NULL)
        return;
    for (at = &u->conns; *at != conn; at = &(*at)->next_of_user)
        assert(*at != NULL);
    *at = conn->next_of_user;
    conn->next_of_user = NULL;
    conn->user = NULL;
    if (--u->nconns > 0)
        return;
    user_online(&c->roster, u, false);
    for (struct member *m = u->members; m != NULL; m = m->next_of_user) {
        if (!m->conv->group || m->left || m->conv->nonline > c->opt->notify_max)
            continue;
        struct msg *notice = left_msg(c, m->conv, u);
        tell_others(c, m->conv, notice, u);
        msg_unref(notice);
    }
}

void
chat_closed(struct chat *c, struct conn *conn)
{
    unbind(c, conn);
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

/* jim.login.policy: who has to go because `conn` has come. */
static void
displace(struct chat *c, struct user *u, const struct conn *conn)
{
    if (c->opt->login_policy == LOGIN_MANY)
        return;
    for (struct conn *o = u->conns; o != NULL; o = o->next_of_user)
        if (o != conn && (c->opt->login_policy == LOGIN_ONE || o->proto == conn->proto)) {
            answer_code(c, o, CMD_CLOSE, 0, CODE_ELSEWHERE);
            conn_finish(o, WS_POLICY);
        }
}

static void
set_group_name(struct chat *c, struct conv *v, struct str name)
{
    if (name.n == 0 || v->name != NULL)
        return;
    v->name = xstrndup(name.p, name.n);
    log_state(c, REC_GROUP, v, NULL);
}

static void
join_login_groups(struct chat *c, struct user *u)
{
    struct str id, name;

    for (size_t i = 0; conf_login_group(c->opt->login_groups, i, &id, &name); i++) {
        struct conv *v = group_get(&c->roster, id);
        set_group_name(c, v, name);
        if (member_in_group(&c->roster, u, id) == NULL) {
            member_add(&c->roster, u, v);
            log_state(c, REC_JOIN, v, u);
        }
    }
}

static void
login(struct chat *c, struct conn *conn, uint32_t seq, struct str id)
{
    struct user *u = user_get(&c->roster, id);

    if (conn->user != u) {
        unbind(c, conn); /* a connection is one user at a time */
        conn->user = u;
        conn->next_of_user = u->conns;
        u->conns = conn;
        if (u->nconns++ == 0)
            user_online(&c->roster, u, true);
    }
    bool first = u->nconns == 1;
    if (!u->known) {
        u->known = true;
        c->roster.nusers++;
        log_state(c, REC_USER, NULL, u);
    }
    join_login_groups(c, u);
    displace(c, u, conn);
    struct buf *b = answer_begin(c, CODE_LOGIN_OK, CMD_LOGIN_RESP);
    put_msg(b, CODE_LOGIN_OK);
    json_put_key(b, "user");
    put_user(b, u);
    answer_send(c, conn, CMD_LOGIN_RESP, seq);
    for (struct member *m = u->members; m != NULL; m = m->next_of_user)
        if (m->conv->group && !m->left)
            announce_joined(c, m->conv, u, conn, first);
}

static void
login_failed(struct chat *c, struct conn *conn, uint32_t seq)
{
    answer_code(c, conn, CMD_LOGIN_RESP, seq, CODE_LOGIN_FAILED);
    conn_finish(conn, WS_POLICY);
}

/* A name of blanks is none. */
static bool
is_blank_id(struct str id)
{
    return str_trim(id).n == 0;
}

static bool
on_login(struct chat *c, struct conn *from, uint32_t seq, const struct request *r)
{
    char text[MAX_ID];
    struct str id;

    if (r != NULL && request_id(r, F_USER_ID, text, &id) && !is_blank_id(id))
        login(c, from, seq, id);
    else
        login_failed(c, from, seq);
    return true;
}

void
chat_login_query(struct chat *c, struct conn *from, struct str user, struct str token)
{
    char text[3 * MAX_ID];
    ptrdiff_t n = -1;

    (void)token; /* open login takes a name only */
    if (user.n <= sizeof text)
        n = url_decode(text, user, true);
    struct str id = {text, n > 0 ? (size_t)n : 0};
    if (id_ok(id) && !is_blank_id(id))
        login(c, from, 0, id);
    else
        login_failed(c, from, 0);
}

/* --- groups ------------------------------------------------------------------------------------ */

static void
join_refused(struct chat *c, struct conn *from, uint32_t seq, int code)
{
    struct buf *b = answer_begin(c, code, CMD_JOIN_RESP);

    put_msg(b, code);
    json_put_key(b, "result");
    json_put_int(b, 0);
    answer_send(c, from, CMD_JOIN_RESP, seq);
}

/* Answer 8 in both its forms: 2.x looks into `data`, 3.x beside it. */
static void
join_accepted(struct chat *c, struct conn *from, uint32_t seq, struct str id)
{
    struct buf *b = answer_begin(c, CODE_JOIN_OK, CMD_JOIN_RESP);

    json_put_key(b, "data");
    buf_add(b, "{", 1);
    put_text(b, "group", id);
    json_put_key(b, "result");
    json_put_int(b, 1);
    buf_add(b, "}", 1);
    put_text(b, "group", id);
    put_msg(b, CODE_JOIN_OK);
    json_put_key(b, "result");
    json_put_int(b, 1);
    answer_send(c, from, CMD_JOIN_RESP, seq);
}

static bool
on_join(struct chat *c, struct conn *from, uint32_t seq, const struct request *r)
{
    char text[MAX_ID], name_text[MAX_ID];
    struct str id, name = {NULL, 0};
    struct user *u = from->user;

    if (r == NULL || u == NULL || !request_id(r, F_GROUP_ID, text, &id) || is_blank_id(id)) {
        join_refused(c, from, seq, CODE_JOIN_FAILED);
        return true;
    }
    bool already = member_in_group(&c->roster, u, id) != NULL;
    if (!already && c->opt->group_join == JOIN_API) {
        join_refused(c, from, seq, CODE_FORBIDDEN);
        return true;
    }
    struct conv *v = group_get(&c->roster, id);
    if (v->nmembers == 0 && request_id(r, F_NAME, name_text, &name))
        set_group_name(c, v, name);
    if (!already) {
        member_add(&c->roster, u, v);
        log_state(c, REC_JOIN, v, u);
    }
    join_accepted(c, from, seq, id);
    announce_joined(c, v, u, from, !already);
    for (struct conn *o = u->conns; !already && o != NULL; o = o->next_of_user)
        if (o != from) { /* his other devices learn of the group too */
            struct msg *m = joined_msg(c, v, u);
            conn_send(o, m, NULL);
            msg_unref(m);
        }
    return true;
}

/* --- retries ----------------------------------------------------------------------------------- */

/* A message id seen before: who sent it where is in the fingerprint, keyed so that nobody can aim. */
struct retry {
    uint32_t hash;      /* low half of the fingerprint, as struct map wants it */
    uint32_t at_s;      /* when, in seconds since 1970 */
    uint64_t print;
    struct conv *conv;  /* borrowed */
    uint64_t seq;
    int64_t create_ms;
    struct retry *next; /* the next younger */
};

static uint64_t
retry_print(const struct chat *c, const struct user *from, const struct conv *v, struct str id)
{
    char text[sizeof from + sizeof v + MAX_MESSAGE_ID];

    memcpy(text, &from, sizeof from);
    memcpy(text + sizeof from, &v, sizeof v);
    memcpy(text + sizeof from + sizeof v, id.p, id.n);
    return siphash13(c->retries.key, text, sizeof from + sizeof v + id.n);
}

static bool
retry_is(const void *item, const void *key)
{
    return ((const struct retry *)item)->print == *(const uint64_t *)key;
}

static struct retry *
retry_find(const struct chat *c, uint64_t print)
{
    return map_find(&c->retries, (uint32_t)print, retry_is, &print);
}

/* Take the oldest out, to be used again or freed. */
static struct retry *
retry_take(struct chat *c)
{
    struct retry *t = c->retry_old;

    map_remove(&c->retries, t);
    c->retry_old = t->next;
    if (c->retry_old == NULL)
        c->retry_new = NULL;
    return t;
}

static void
retry_add(struct chat *c, uint64_t print, struct conv *v, uint64_t seq, int64_t create_ms,
          int64_t now_ms)
{
    struct retry *t = NULL;

    while (c->retry_old != NULL && (int64_t)c->retry_old->at_s * 1000 + RETRY_MS < now_ms) {
        free(t);
        t = retry_take(c);
    }
    if (t == NULL && c->retries.count >= MAX_RETRY)
        t = retry_take(c);
    if (t == NULL)
        t = xmalloc(sizeof *t);
    *t = (struct retry){(uint32_t)print, (uint32_t)(now_ms / 1000), print, v, seq, create_ms, NULL};
    map_add(&c->retries, t);
    if (c->retry_new != NULL)
        c->retry_new->next = t;
    else
        c->retry_old = t;
    c->retry_new = t;
}

/* Forget a message that never got to the disk: sent again, it is a new one. */
static void
retry_forget(struct chat *c, const struct conv *v, uint64_t after)
{
    struct retry **at = &c->retry_old, *last = NULL;

    while (*at != NULL) {
        struct retry *t = *at;
        if (t->conv == v && t->seq > after) {
            *at = t->next;
            map_remove(&c->retries, t);
            free(t);
        } else {
            last = t;
            at = &t->next;
        }
    }
    c->retry_new = last;
}

/* --- sending ----------------------------------------------------------------------------------- */

/* A message on its way through the checks. */
struct draft {
    const struct request *r;
    struct conn *conn;     /* who gets the answer */
    uint32_t reply_seq;
    bool api;              /* from the HTTP API: may do all */
    struct user *from;
    struct user *to;       /* private */
    struct conv *conv;
    int64_t chat_type, msg_type, cmd, create_ms;
    bool has_msg_type, has_cmd;
    char id_text[6 * MAX_MESSAGE_ID];
    struct str id;         /* the client's or ours; in id_text */
    bool own_id;           /* it is ours: cannot be a retry */
};

static void
new_message_id(struct chat *c, struct draft *d)
{
    uint64_t half[2];

    c->id_count++;
    half[0] = siphash13(c->id_key, &c->id_count, sizeof c->id_count);
    half[1] = siphash13(c->id_key, half, sizeof half[0]);
    snprintf(d->id_text, sizeof d->id_text, "%016llx%016llx", (unsigned long long)half[0],
             (unsigned long long)half[1]);
    d->id = (struct str){d->id_text, 32};
    d->own_id = true;
}

/* The members that are not about sender and receiver. Returns 0 or a code. */
static int
draft_fields(struct chat *c, struct draft *d)
{
    const struct request *r = d->r;
    int got_type = request_int(r, F_MSG_TYPE, 0, &d->msg_type);
    int got_cmd = request_int(r, F_CMD, 0, &d->cmd);
    int64_t now = c->now_ms();

    if (request_int(r, F_CHAT_TYPE, 0, &d->chat_type) < 0 || got_type < 0 ||
        (d->chat_type != 1 && d->chat_type != 2))
        return CODE_SEND_FAILED;
    d->has_msg_type = got_type > 0;
    d->has_cmd = got_cmd > 0;
    if (r->f[F_EXTRAS].type != JSON_NONE && r->f[F_EXTRAS].type != JSON_OBJECT)
        return CODE_SEND_FAILED;
    if (text_length(c, &r->f[F_CONTENT]) > (size_t)c->opt->message_max)
        return CODE_TOO_LARGE;
    if (request_int(r, F_CREATE_TIME, 0, &d->create_ms) <= 0 ||
        d->create_ms < now - CLOCK_SKEW_MS || d->create_ms > now + CLOCK_SKEW_MS)
        d->create_ms = now;
    if (r->f[F_ID].n > sizeof d->id_text)
        return CODE_SEND_FAILED;
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
        d->from = user_get(&c->roster, id);
    } else if (d->conn->user != NULL) {
        d->from = d->conn->user;
    } else { /* jim.login.required=off: J-IM's anonymous sender */
        uint64_t name = siphash13(c->id_key, &d->conn->id, sizeof d->conn->id);
        int n = snprintf(text, sizeof text, "%016llx", (unsigned long long)name);
        d->from = user_get(&c->roster, (struct str){text, (size_t)n});
    }
    return 0;
}

/* Where it goes. Nothing is made before all else is known to be right. */
static int
draft_to(struct chat *c, struct draft *d)
{
    char text[MAX_ID];
    struct str id;
    struct member *m;

    if (!request_id(d->r, d->chat_type == 1 ? F_GROUP_ID : F_TO, text, &id) || is_blank_id(id))
        return CODE_SEND_FAILED;
    if (d->chat_type == 2) {
        m = member_with(&c->roster, d->from, id);
        d->to = m != NULL ? member_peer(m) : user_get(&c->roster, id);
        d->conv = m != NULL ? m->conv : pair_get(&c->roster, d->from, d->to);
        return 0;
    }
    m = member_in_group(&c->roster, d->from, id);
    if (m != NULL) {
        d->conv = m->conv;
    } else if (d->api) {
        d->conv = group_find(&c->roster, id);
        return d->conv == NULL ? CODE_NO_GROUP : 0;
    } else if (c->opt->group_open) {
        d->conv = group_get(&c->roster, id);
    } else {
        return CODE_FORBIDDEN;
    }
    return 0;
}

static void
put_field(struct buf *b, const char *key, const struct json *v)
{
    if (v->type == JSON_NONE)
        return;
    json_put_key(b, key);
    if (v->type == JSON_STRING)
        json_put_value(b, v);
    else /* a number or an object where a text belongs: its JSON is the text */
        json_put_string(b, v->p, v->n);
}

/* The chat object, keys in alphabetical order. *id_at: where the id's text begins in b. */
static void
put_chat(struct buf *b, const struct draft *d, uint64_t seq, size_t *id_at)
{
    const struct request *r = d->r;

    buf_add(b, "{", 1);
    json_put_key(b, "chatType");
    json_put_int(b, d->chat_type);
    if (d->has_cmd) {
        json_put_key(b, "cmd");
        json_put_int(b, d->cmd);
    }
    put_field(b, "content", &r->f[F_CONTENT]);
    json_put_key(b, "createTime");
    json_put_int(b, d->create_ms);
    if (r->f[F_EXTRAS].type != JSON_NONE) {
        json_put_key(b, "extras");
        json_put_value(b, &r->f[F_EXTRAS]);
    }
    put_text(b, "from", user_id(d->from));
    put_field(b, "groupId", &r->f[F_GROUP_ID]);
    json_put_key(b, "id");
    *id_at = b->len;
    json_put_string(b, d->id.p, d->id.n);
    if (d->has_msg_type) {
        json_put_key(b, "msgType");
        json_put_int(b, d->msg_type);
    }
    json_put_key(b, "seq");
    json_put_int(b, (int64_t)seq);
    put_field(b, "to", &r->f[F_TO]);
    buf_add(b, "}", 1);
}

/* A message that was sent before: owe its sender the same answer, once that message is safe. */
static void
send_again(struct chat *c, const struct draft *d, const struct retry *t)
{
    struct pending *p = pending_push(c);

    c->stats->retries++;
    c->out.len = 0;
    json_put_string(&c->out, d->id.p, d->id.n);
    *p = (struct pending){.kind = PENDING_RETRY, .reply_seq = d->reply_seq, .conv = d->conv,
                          .from = d->from, .to = d->to, .conn = d->conn, .seq = t->seq,
                          .create_ms = t->create_ms, .id_len = (uint32_t)c->out.len};
    p->msg = msg_new(0, 0, c->out.p, c->out.len);
    /* Its turn comes after everything that was accepted before it: also the message it repeats. */
    size_t before = (c->pending_head + c->pending_n - 2) & (c->pending_cap - 1);
    p->number = c->pending_n > 1 ? c->pending[before].number : 0;
    d->conn->deferred++;
}

/* Number it, encode it, store it. */
static int
send_new(struct chat *c, const struct draft *d, uint64_t print)
{
    static const char head[] = "{\"command\":11,\"data\":";
    struct conv *v = d->conv;
    struct buf *b = &c->out;
    size_t id_at;
    int64_t now = c->now_ms();

    b->len = 0;
    buf_add(b, head, sizeof head - 1);
    put_chat(b, d, v->seq + 1, &id_at);
    size_t id_end = id_at + 1;
    while (b->p[id_end] != '"')
        id_end += b->p[id_end] == '\\' ? 2 : 1;
    struct str chat = {b->p + sizeof head - 1, b->len - (sizeof head - 1)};
    uint64_t number = store_append(c->store, REC_MESSAGE, (struct str){v->key, v->keylen},
                                   v->seq + 1, chat, now, &v->index);
    if (number == 0)
        return CODE_STORE;
    v->seq++;
    buf_add(b, "}", 1);
    if (!d->own_id)
        retry_add(c, print, v, v->seq, d->create_ms, now);
    struct pending *p = pending_push(c);
    *p = (struct pending){.number = number, .kind = PENDING_SEND, .reply_seq = d->reply_seq,
                          .conv = v, .from = d->from, .to = d->to, .conn = d->conn, .seq = v->seq,
                          .create_ms = d->create_ms, .id_at = (uint32_t)id_at,
                          .id_len = (uint32_t)(id_end + 1 - id_at)};
    p->msg = msg_new(CMD_CHAT, 0, b->p, b->len);
    p->msg->chat_seq = v->seq;
    d->conn->deferred++;
    return 0;
}

/* Returns 0 when the message is accepted: then its answer is pending. Else the code to refuse it. */
static int
send_draft(struct chat *c, struct draft *d)
{
    uint64_t print = 0;
    int code = draft_fields(c, d);

    if (code == 0)
        code = draft_from(c, d);
    if (code == 0)
        code = draft_to(c, d);
    if (code != 0)
        return code;
    if (!d->own_id) {
        print = retry_print(c, d->from, d->conv, d->id);
        const struct retry *t = retry_find(c, print);
        if (t != NULL) {
            send_again(c, d, t);
            chat_committed(c);
            return 0;
        }
    }
    if (c->stopping)
        return CODE_STOPPING;
    code = send_new(c, d, print);
    if (code == 0 && !store_keeps(c->store))
        chat_committed(c); /* nothing to wait for */
    return code;
}

static bool
on_chat(struct chat *c, struct conn *from, uint32_t seq, const struct request *r)
{
    struct draft d = {.r = r, .conn = from, .reply_seq = seq};
    int code = r == NULL ? CODE_SEND_FAILED : send_draft(c, &d);

    if (code == 0)
        return true;
    if (from->deferred > 0)
        return false; /* a refusal, too, comes after the answers to what was sent before */
    answer_code(c, from, CMD_CHAT_RESP, seq, code);
    return true;
}

int
chat_api_send(struct chat *c, struct conn *conn, const struct request *r)
{
    struct draft d = {.r = r, .conn = conn, .api = true};

    return send_draft(c, &d);
}

/* --- delivery ---------------------------------------------------------------------------------- */

static void
send_to_user(const struct user *u, struct msg *m, struct member *member, const struct conn *but)
{
    for (struct conn *o = u->conns; o != NULL; o = o->next_of_user)
        if (o != but)
            conn_send(o, m, member);
}

static void
deliver_message(struct chat *c, const struct pending *p)
{
    struct conv *v = p->conv;

    c->stats->messages++;
    v->durable = p->seq;
    if (p->to == NULL) {
        for (uint32_t i = 0; i < v->nonline; i++)
            send_to_user(v->member[i]->user, p->msg, v->member[i], NULL);
        return;
    }
    send_to_user(p->to, p->msg, member_of(&c->roster, p->to, v), NULL);
    if (p->from != p->to) {
        struct member *sender = member_of(&c->roster, p->from, v);
        send_to_user(p->from, p->msg, sender, p->conn);
        member_delivered(&c->roster, sender, p->seq); /* one need not be told what one has said */
    }
}

/* What a pending message comes to: {"createTime":…,"id":…,"seq":…} is in c->out behind `data`. */
static void
acknowledge(struct chat *c, const struct pending *p, int code)
{
    struct buf *b = answer_begin(c, code, CMD_CHAT_RESP);

    if (code == CODE_SENT || code == CODE_OFFLINE) {
        json_put_key(b, "data");
        buf_add(b, "{", 1);
        json_put_key(b, "createTime");
        json_put_int(b, p->create_ms);
        json_put_key(b, "id");
        json_put_raw(b, p->msg->data + p->id_at, p->id_len);
        json_put_key(b, "seq");
        json_put_int(b, (int64_t)p->seq);
        buf_add(b, "}", 1);
    }
    put_msg(b, code);
    if (p->conn->proto == PROTO_HTTP) {
        buf_add(b, "}", 1);
        api_sent(p->conn, code, b->p, b->len);
    } else {
        answer_send(c, p->conn, CMD_CHAT_RESP, p->reply_seq);
    }
    conn_answered(p->conn);
}

static void
deliver(struct chat *c, struct pending *p)
{
    if (p->kind == PENDING_STATE)
        return;
    if (p->kind == PENDING_SEND)
        deliver_message(c, p);
    acknowledge(c, p, p->to != NULL && p->to->nconns == 0 ? CODE_OFFLINE : CODE_SENT);
    msg_unref(p->msg);
}

/* The batch is gone: nobody has seen its messages, and their numbers are free again. */
static void
lost(struct chat *c, struct pending *p)
{
    struct conv *v = p->conv;

    if (p->kind == PENDING_STATE) {
        if (c->redo_n == c->redo_cap) {
            c->redo_cap = c->redo_cap == 0 ? 16 : 2 * c->redo_cap;
            c->redo = xrealloc(c->redo, c->redo_cap * sizeof *c->redo);
        }
        c->redo[c->redo_n++] = *p;
        return;
    }
    if (p->kind == PENDING_SEND && v->seq > v->durable) {
        v->seq = v->durable;
        store_index_cut(&v->index, v->durable);
        retry_forget(c, v, v->durable);
    }
    acknowledge(c, p, CODE_STORE);
    msg_unref(p->msg);
}

void
chat_committed(struct chat *c)
{
    enum store_news news = store_poll(c->store);
    uint64_t durable = store_durable(c->store);

    while (c->pending_n > 0) {
        struct pending p = c->pending[c->pending_head];
        bool safe = p.number <= durable;
        if (!safe && news != STORE_LOST)
            break;
        c->pending_head = (c->pending_head + 1) & (c->pending_cap - 1);
        c->pending_n--;
        if (safe)
            deliver(c, &p);
        else
            lost(c, &p);
    }
}

void
chat_written(struct chat *c, const struct msg *m, struct member *member)
{
    if (member != NULL) {
        c->stats->delivered++;
        member_delivered(&c->roster, member, m->chat_seq);
    }
    for (size_t i = 0; m->fetched != NULL && i < m->fetched->n; i++)
        member_delivered_upto(&c->roster, m->fetched->mark[i].member, m->fetched->mark[i].upto);
}

/* --- commands ---------------------------------------------------------------------------------- */

static bool
on_handshake(struct chat *c, struct conn *from, uint32_t seq, const struct request *r)
{
    (void)r; /* empty, JSON or one raw byte: it is not looked at */
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

static bool
on_auth(struct chat *c, struct conn *from, uint32_t seq, const struct request *r)
{
    int64_t create;

    if (r == NULL || r->f[F_TOKEN].type == JSON_NONE || r->f[F_TOKEN].n == 0) {
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
    if (own)
        chat_close_user(c, from->user, 0, from);
    conn_finish(from, WS_NORMAL);
    return true;
}

static bool
on_user(struct chat *c, struct conn *from, uint32_t seq, const struct request *r)
{
    query_user(c, from, seq, r);
    return true;
}

static bool
on_messages(struct chat *c, struct conn *from, uint32_t seq, const struct request *r)
{
    query_messages(c, from, seq, r);
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
    [CMD_JOIN] = {on_join, CMD_JOIN_RESP, true},
    [CMD_CHAT] = {on_chat, CMD_CHAT_RESP, true},
    [CMD_HEARTBEAT] = {on_heartbeat, CMD_HEARTBEAT, false},
    [CMD_CLOSE] = {on_close, CMD_CLOSE, false},
    [CMD_USER] = {on_user, CMD_USER_RESP, true},
    [CMD_MESSAGES] = {on_messages, CMD_MESSAGES_RESP, true},
};

/*
 * A bucket of `burst` requests that fills at `rate` a second, kept as the one moment at which it will
 * be full again. Time is that of the last bytes read: no clock call for it.
 */
bool
chat_rate_ok(const struct chat *c, struct conn *from)
{
    if (c->opt->rate <= 0)
        return true;
    int64_t now = from->read_ms * 1000, each = 1000000 / c->opt->rate;
    int64_t full = from->bucket_us > now ? from->bucket_us : now;
    if (full + each - now > c->opt->burst * each)
        return false;
    from->bucket_us = full + each;
    return true;
}

/* The command's number: the frame's, or what the JSON says; -1 when it says none that makes sense. */
static int
command_of(int cmd, const struct request *r, bool parsed)
{
    int64_t n;

    if (cmd >= 0)
        return cmd;
    return parsed && request_int(r, F_CMD, -1, &n) > 0 && n >= 0 && n < COMMANDS ? (int)n : -1;
}

bool
chat_command(struct chat *c, struct conn *from, int cmd, uint32_t seq, struct str json)
{
    static const struct handler unknown = {NULL, CMD_UNKNOWN, false};
    struct request r;
    bool parsed = request_parse(&r, json.n > 0 ? json : STR("{}"));
    int n = command_of(cmd, &r, parsed);
    const struct handler *h = n >= 0 && n < COMMANDS ? &handlers[n] : &unknown;

    if (from->deferred > 0 && n != CMD_CHAT)
        return false;
    bool allowed = chat_rate_ok(c, from);
    bool logged_in = from->user != NULL || !c->opt->login_required;
    if (allowed && h->fn != NULL && (logged_in || !h->login)) {
        if (!h->fn(c, from, seq, parsed ? &r : NULL))
            return false;
    } else if (from->deferred > 0) {
        return false;
    } else {
        answer_code(c, from, h->answer, seq,
                    !allowed ? CODE_RATE : h->fn == NULL ? CODE_UNKNOWN_COMMAND
                                                         : CODE_NOT_LOGGED_IN);
    }
    c->stats->requests++;
    return true;
}

/* --- start ------------------------------------------------------------------------------------- */

void
chat_init(struct chat *c, const struct options *opt, const struct log *log, struct stats *stats)
{
    *c = (struct chat){.opt = opt, .log = log, .stats = stats, .now_ms = time_wall_ms};
    roster_init(&c->roster);
    map_init(&c->retries);
    random_bytes(c->id_key, sizeof c->id_key);
}

void
chat_free(struct chat *c)
{
    while (c->pending_n > 0) {
        struct pending *p = &c->pending[c->pending_head];
        if (p->msg != NULL)
            msg_unref(p->msg);
        if (p->conn != NULL)
            conn_answered(p->conn);
        c->pending_head = (c->pending_head + 1) & (c->pending_cap - 1);
        c->pending_n--;
    }
    while (c->retry_old != NULL)
        free(retry_take(c));
    if (c->retries.slot != NULL)
        roster_free(&c->roster);
    map_free(&c->retries);
    free(c->pending);
    free(c->redo);
    buf_free(&c->out);
    buf_free(&c->line);
    *c = (struct chat){0};
}

static char *
json_copy(const struct json *v)
{
    struct buf b = {0};

    json_put_value(&b, v);
    buf_add(&b, "", 1);
    return b.p;
}

static void
replay_user(struct user *u, struct str json)
{
    static const struct {
        const char *name;
        size_t at;
    } members[] = {{"avatar", offsetof(struct profile, avatar)},
                   {"extras", offsetof(struct profile, extras)},
                   {"nick", offsetof(struct profile, nick)},
                   {"sign", offsetof(struct profile, sign)}};
    struct json_iter it;
    struct json key, value;

    if (json_open(&it, json.p, json.n) != 0)
        return;
    while (json_next(&it, &key, &value) > 0)
        for (size_t i = 0; i < sizeof members / sizeof members[0]; i++) {
            if (!str_eq((struct str){key.p, key.n}, str_of(members[i].name)))
                continue;
            if (u->profile == NULL)
                u->profile = xcalloc(1, sizeof *u->profile);
            char **to = (char **)(void *)((char *)u->profile + members[i].at);
            free(*to);
            *to = json_copy(&value);
        }
}

static void
replay_message(struct chat *c, struct conv *v, const struct store_rec *rec)
{
    char text[6 * MAX_MESSAGE_ID], from_text[MAX_ID];
    struct request r;
    struct str from;
    int64_t create = 0;

    v->seq = v->durable = rec->seq;
    store_index_add(&v->index, rec);
    if (rec->time_ms + RETRY_MS < c->now_ms() || !request_parse(&r, rec->json) ||
        r.f[F_ID].type != JSON_STRING || r.f[F_ID].n > sizeof text ||
        !request_id(&r, F_FROM, from_text, &from))
        return;
    struct str id = {text, json_text(&r.f[F_ID], text)};
    request_int(&r, F_CREATE_TIME, 0, &create);
    if (id.n <= MAX_MESSAGE_ID)
        retry_add(c, retry_print(c, user_get(&c->roster, from), v, id), v, rec->seq, create,
                  rec->time_ms);
}

static void
replay_cursor(struct chat *c, struct conv *v, struct user *u, const struct store_rec *rec)
{
    struct member *m = member_of(&c->roster, u, v);
    struct json_iter it, live;
    struct json key, value;
    int64_t range[2] = {0, 0};

    if (m == NULL || m->left || json_open(&it, rec->json.p, rec->json.n) != 0)
        return;
    while (json_next(&it, &key, &value) > 0)
        if (value.type == JSON_ARRAY) {
            json_enter(&live, &value);
            for (int i = 0; i < 2 && json_next(&live, NULL, &value) > 0; i++)
                json_int(&value, &range[i]);
        }
    m->cursor = rec->seq;
    m->live_lo = (uint64_t)range[0];
    m->live_hi = (uint64_t)range[1];
}

void
chat_replay(struct chat *c, const struct store_rec *rec)
{
    struct roster *r = &c->roster;
    struct conv *v = str_eq(rec->conv, STR("-")) ? NULL : conv_get_key(r, rec->conv);
    struct request q;
    char text[MAX_ID];
    struct str id;
    struct user *u = NULL;

    if (rec->type == REC_MESSAGE) {
        if (v != NULL)
            replay_message(c, v, rec);
        return;
    }
    if (!request_parse(&q, rec->json))
        return;
    if (request_id(&q, F_USER_ID, text, &id))
        u = user_get(r, id);
    if (rec->type == REC_USER && u != NULL) {
        replay_user(u, rec->json);
        r->nusers += !u->known;
        u->known = true;
    } else if (rec->type == REC_GROUP && v != NULL && v->group) {
        char name[6 * MAX_ID];
        free(v->name);
        v->name = NULL;
        if (q.f[F_NAME].type == JSON_STRING && q.f[F_NAME].n <= sizeof name)
            v->name = xstrndup(name, json_text(&q.f[F_NAME], name));
    } else if (v == NULL || u == NULL) {
        return;
    } else if (rec->type == REC_JOIN && v->group) {
        member_add(r, u, v)->cursor = rec->seq;
    } else if (rec->type == REC_LEAVE && v->group) {
        if (member_in_group(r, u, str_of(v->id)) != NULL)
            member_leave(member_of(r, u, v));
    } else if (rec->type == REC_CURSOR) {
        replay_cursor(c, v, u, rec);
    }
}

void
chat_replayed(struct chat *c)
{
    log_write(c->log, LOG_LEVEL_INFO, "%zu users, %zu conversations", c->roster.nusers,
              c->roster.convs.count);
}
