/* SPDX-License-Identifier: MIT */
/*
 * request.c - JSON in, JSON out: what clients ask becomes a struct request, what they are told is
 * put together here. Knows names, codes and texts; decides nothing.
 *
 *   requests    one pass over the text, names tolerant, unknown ones ignored
 *   the usual member, read in place
 *   a request, member by member
 *   answers     codes, texts, and the pieces answers are made of; keys in alphabetical order
 */
#include "jim.h"

#include <string.h>

/* --- requests --------------------------------------------------------------------------------- */

#define MAX_FOLDED 16 /* bytes of the longest name there is, folded; rounded up */

/* As name_is() wants them. */
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
    [F_FRIENDS] = "friends",
    [F_LOGIN_NAME] = "loginname", /* what 2.x called userId */
    [F_USERS] = "users",
    [F_LIFE] = "life",            /* these two only in the log */
    [F_DISMISSED] = "dismissed",
};

/*
 * The names as nearly all clients write them, with what stands around them, found by their first
 * byte, last byte and length without folding. The factors give each a slot of its own; two in one
 * would be a warning of the compiler (-Woverride-init). The first slot has a name like the others:
 * the zero struct order guesses at it.
 */
#define SLOTS 64
#define SLOT(first, last, n) ((3u * (first) + 30u * (last) + 11u * (unsigned)(n) + 62u) % SLOTS)
#define SPELT(first, last, name, field) \
    [SLOT(first, last, sizeof(name) - 1)] = {"\"" name "\":", sizeof("\"" name "\":") - 1, field}
static const struct spelt {
    _Alignas(32) char text[16];
    uint32_t n, field; /* n 0: no name */
} spelt[SLOTS] = {
    SPELT('c', 'd', "cmd", F_CMD),
    SPELT('u', 'd', "userId", F_USER_ID),
    SPELT('p', 'd', "password", F_PASSWORD),
    SPELT('t', 'n', "token", F_TOKEN),
    SPELT('t', 'o', "to", F_TO),
    SPELT('f', 'm', "from", F_FROM),
    SPELT('g', 'd', "groupId", F_GROUP_ID),
    SPELT('f', 'd', "fromUserId", F_FROM_USER_ID),
    SPELT('c', 'e', "chatType", F_CHAT_TYPE),
    SPELT('m', 'e', "msgType", F_MSG_TYPE),
    SPELT('c', 't', "content", F_CONTENT),
    SPELT('c', 'e', "createTime", F_CREATE_TIME),
    SPELT('i', 'd', "id", F_ID),
    SPELT('e', 's', "extras", F_EXTRAS),
    SPELT('t', 'e', "type", F_TYPE),
    SPELT('b', 'e', "beginTime", F_BEGIN_TIME),
    SPELT('e', 'e', "endTime", F_END_TIME),
    SPELT('o', 't', "offset", F_OFFSET),
    SPELT('c', 't', "count", F_COUNT),
    SPELT('n', 'e', "name", F_NAME),
    SPELT('b', 'q', "beforeSeq", F_BEFORE_SEQ),
    SPELT('a', 'q', "afterSeq", F_AFTER_SEQ),
    SPELT('l', 'e', "loginname", F_LOGIN_NAME),
    SPELT('u', 's', "users", F_USERS),
};
_Static_assert(SLOT('c', 'd', 3) == 0, "see above");

/* Bytes as they stand, in whatever order the machine has. */
static inline uint64_t
get_ne64(const char *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof v);
    return v;
}

static inline uint64_t
get_ne32(const char *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof v);
    return v;
}

/* Are n bytes, 1 to 16, the same? As two pieces that may overlap; a call of memcmp() costs more. */
static inline bool
same(const char *a, const char *b, size_t n)
{
    uint64_t x, y, u, v;

    if (n < 4)
        return a[0] == b[0] && a[n / 2] == b[n / 2] && a[n - 1] == b[n - 1];
    if (n < 8) {
        x = get_ne32(a), y = get_ne32(b);
        u = get_ne32(a + n - 4), v = get_ne32(b + n - 4);
    } else {
        x = get_ne64(a), y = get_ne64(b);
        u = get_ne64(a + n - 8), v = get_ne64(b + n - 8);
    }
    return ((x ^ y) | (u ^ v)) == 0;
}

/* A name in small letters, without `_` and `-`, and ended by a zero byte. False: it is longer than
 * all that are ours, or has too many escapes. */
static bool
name_fold(const struct json *key, char folded[MAX_FOLDED + 1])
{
    char text[256];
    struct str name = {key->p, key->n};
    size_t n = 0;

    if (key->escaped && key->n > sizeof text)
        return false;
    if (key->escaped)
        name = (struct str){text, json_text(key, text)};
    for (size_t i = 0; i < name.n; i++) {
        char c = name.p[i];
        if (c == '_' || c == '-')
            continue;
        if (n == MAX_FOLDED || c == '\0')
            return false;
        folded[n++] = c >= 'A' && c <= 'Z' ? c | 0x20 : c;
    }
    folded[n] = '\0';
    return true;
}

bool
name_is(const struct json *key, const char *name)
{
    char folded[MAX_FOLDED + 1];

    return key->type == JSON_STRING && name_fold(key, folded) && strcmp(folded, name) == 0;
}

/* A name that is spelt in any other way, or is none of ours. Anybody may send a frame full of them:
 * each is folded once. */
static ASIDE enum field
field_folded(const char *p, size_t n)
{
    struct json name = {.p = p, .n = (uint32_t)n, .type = JSON_STRING};
    char folded[MAX_FOLDED + 1];
    enum field f = 0;

    name.escaped = n > 0 && memchr(p, '\\', n) != NULL;
    if (!name_fold(&name, folded))
        return FIELDS;
    while (f < FIELDS &&
           (folded[0] != field_names[f][0] || strcmp(folded, field_names[f]) != 0))
        f++;
    return f;
}

/* Its place in spelt[]; SLOTS: not spelt as it usually is. */
static inline unsigned
slot_of(const struct json *name)
{
    const char *p = name->p;
    size_t n = name->n;

    if (n == 0)
        return SLOTS;
    unsigned at = SLOT((unsigned char)p[0], (unsigned char)p[n - 1], n);

    return spelt[at].n == n + 3 && same(spelt[at].text + 1, p, n) ? at : SLOTS;
}

static inline enum field
field_at(unsigned at, const struct json *name)
{
    return at < SLOTS ? (enum field)spelt[at].field : field_folded(name->p, name->n);
}

enum field
request_field(const struct json *name)
{
    return field_at(slot_of(name), name);
}

/* --- the usual member ------------------------------------------------------------------------- */

/*
 * Nearly all members are a plain name with its colon right behind it, then a plain string or a
 * whole number. They are read in place, in about a third of the time json_next() takes. All else,
 * right or wrong, is left to that: nothing is taken here that it would not take.
 *
 * The text from `start` to `end` ends with '}', so that none of these is its last byte: a quote, a
 * colon, a comma, a digit. What stands behind one of them may be looked at.
 */

/* Does this name stand at p, and something behind it? */
static inline bool
is_at(const char *p, const char *end, const struct spelt *name)
{
#if defined(__SSE2__) && defined(__GNUC__)
    if (end - p >= 16) {
        __m128i a = _mm_loadu_si128((const __m128i *)(const void *)p);
        __m128i b = _mm_loadu_si128((const __m128i *)(const void *)name->text);
        unsigned differ = ~(unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(a, b));
        return (unsigned)__builtin_ctz(differ) >= name->n; /* 16 when none does */
    }
#endif
    return end - p > (ptrdiff_t)name->n && same(name->text, p, name->n);
}

/* The name at p, which is before the end: what is behind its colon, or NULL. */
static inline const char *
usual_name(const char *start, const char *p, const char *end, struct json *name)
{
    const char *stop;

    if (*p != '"')
        return NULL;
    stop = json_span(start, ++p, end);
    if (stop == end || stop[0] != '"' || stop[1] != ':')
        return NULL;
    *name = (struct json){p, (uint32_t)(stop - p), JSON_STRING, false, true};
    return stop + 2;
}

/* The value at p, which is before the end: what is behind it, or NULL. It is one only if that is a
 * comma or a brace: up to its point, 1.5 is a whole number. */
static inline const char *
usual_value(const char *start, const char *p, const char *end, struct json *value)
{
    const char *stop;

    if (*p == '"') {
        stop = json_span(start, ++p, end);
        if (stop == end || *stop != '"')
            return NULL;
        *value = (struct json){p, (uint32_t)(stop - p), JSON_STRING, false, true};
        return stop + 1;
    }
    stop = json_digits(start, p, end);
    if (stop == p || (*p == '0' && stop - p > 1))
        return NULL;
    *value = (struct json){p, (uint32_t)(stop - p), JSON_NUMBER, false, false};
    return stop;
}

/* *to = *v, which has no escapes, with two stores: n and what is behind it are one word. */
static inline void
put_usual(struct json *to, const struct json *v)
{
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    uint64_t rest = v->n | (uint64_t)v->type << 32 | (uint64_t)v->plain << 48;

    _Static_assert(offsetof(struct json, plain) == offsetof(struct json, n) + 6, "48 bits");
    to->p = v->p;
    memcpy((char *)to + offsetof(struct json, n), &rest, sizeof rest);
#else
    *to = *v;
#endif
}

/* --- a request, member by member -------------------------------------------------------------- */

/* A request being read. */
struct reading {
    struct request *r;
    struct order *order;
    struct json_iter it;
    enum field last; /* FIELDS: none yet, or a name that is none of ours */
};

_Static_assert(FIELDS < sizeof((struct order *)0)->after, "and one for the first");

/* The field a name stands for, remembered as the one behind the last. */
static inline enum field
next_field(struct reading *in, const struct json *name)
{
    unsigned at = slot_of(name);

    in->order->after[in->last] = (uint8_t)(at % SLOTS);
    return field_at(at, name);
}

/* A usual name that is not where it was: its field, and what is behind its colon; or NULL. */
static ASIDE const char *
other_name(struct reading *in, const char *p, enum field *f)
{
    struct json name;

    p = usual_name(in->it.start, json_space(p, in->it.end), in->it.end, &name);
    if (p == NULL)
        return NULL;
    *f = next_field(in, &name);
    return p;
}

static ASIDE const char *
behind_blanks(const char *p, const char *end)
{
    return json_space(p, end);
}

/*
 * Usual members in a row, the next of them at p. Most names are where they were in the request
 * before, and one comparison says so. True: that was all. False: json_next() has to go on.
 */
static inline bool
usual_members(struct reading *in, const char *p)
{
    const char *start = in->it.start, *end = in->it.end;

    for (;;) {
        const struct spelt *guess = &spelt[in->order->after[in->last]];
        enum field f = guess->field, other;
        struct json value;
        if (is_at(p, end, guess)) {
            p += guess->n;
        } else {
            p = other_name(in, p, &other);
            if (p == NULL)
                return false;
            f = other;
        }
        if (json_byte(p) <= ' ')
            p = behind_blanks(p, end);
        p = usual_value(start, p, end, &value);
        if (p == NULL)
            return false;
        char next = *p;
        if (next != ',' && next != '}')
            return false;
        if (f < FIELDS)
            put_usual(&in->r->f[f], &value);
        if (next == '}')
            return p + 1 == end;
        in->last = f;
        in->it.p = p++;
    }
}

/* Member by member: one load of what json_next() has just stored in pieces would have to wait. */
static inline void
put(struct json *to, const struct json *value)
{
    to->p = value->p;
    to->n = value->n;
    to->type = value->type != JSON_NULL ? value->type : JSON_NONE;
    to->escaped = value->escaped;
    to->plain = value->plain;
}

/* A member that is not usual. As json_next(): 1, 0 at the end of all, -1: it is wrong. */
static ASIDE int
other_member(struct reading *in)
{
    struct json name, value;

    in->it.first = in->it.p == in->it.start + 1;
    int more = json_next(&in->it, &name, &value);
    if (more <= 0)
        return more;
    enum field f = next_field(in, &name);
    if (f < FIELDS)
        put(&in->r->f[f], &value);
    in->last = f;
    return 1;
}

static inline bool
in_braces(struct str s)
{
    return s.n >= 2 && s.p[0] == '{' && s.p[s.n - 1] == '}';
}

bool
request_parse_like(struct request *r, struct str json, struct order *order)
{
    int more = 1;

    zero(r, sizeof *r);
    if (json.n >= UINT32_MAX || (!in_braces(json) && !in_braces(json = str_trim(json))))
        return false;
    const char *p = json.p; /* what stands before the next name: a brace or a comma */
    struct reading in = {r, order, {.start = p, .p = p + 1, .end = p + json.n}, FIELDS};
    in.it.close = '}';
    in.it.whole = true;
    while (more > 0 && !usual_members(&in, p + 1)) {
        do {
            more = other_member(&in);
            p = in.it.p;
        } while (more > 0 && (p == in.it.end || *p != ','));
    }
    if (r->f[F_USER_ID].type == JSON_NONE)
        r->f[F_USER_ID] = r->f[F_LOGIN_NAME];
    return more >= 0;
}

bool
request_parse(struct request *r, struct str json)
{
    struct order none = {{0}};

    return request_parse_like(r, json, &none);
}

bool
request_id(const struct request *r, enum field f, char dst[MAX_ID], struct str *id)
{
    return value_id(&r->f[f], dst, id);
}

/* One that is not written as most are. */
static ASIDE bool
odd_id(const struct json *v, char dst[MAX_ID], struct str *id)
{
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

bool
value_id(const struct json *v, char dst[MAX_ID], struct str *id)
{
    if (!v->plain || v->n == 0 || v->n > MAX_ID || v->p[0] <= ' ')
        return odd_id(v, dst, id);
    copy_short(dst, v->p, v->n); /* nothing in it to object to */
    *id = (struct str){dst, v->n};
    return true;
}

/* --- answers ---------------------------------------------------------------------------------- */

const char *
code_text(int code)
{
    static const char *const texts[CODE_END - CODE_SENT] = {
        TEXT_SENT,
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

    return code >= CODE_SENT && code < CODE_END ? texts[code - CODE_SENT] : "refused 被拒绝";
}

void
put_answer(struct buf *b, int code, int command)
{
    buf_lit(b, "{");
    if (code != 0) {
        buf_lit(b, "\"code\":");
        json_put_int(b, code);
        buf_lit(b, ",");
    }
    buf_lit(b, "\"command\":");
    json_put_int(b, command);
}

void
put_msg(struct buf *b, int code)
{
    struct str text = str_of(code_text(code)); /* without anything that needs an escape */

    buf_lit(b, ",\"msg\":\"");
    buf_str(b, text);
    buf_lit(b, "\"");
}

void
put_text(struct buf *b, const char *key, struct str text)
{
    json_put_key(b, key);
    json_put_string(b, text.p, text.n);
}

void
put_field(struct buf *b, const char *key, const struct json *v)
{
    if (v->type == JSON_NONE)
        return;
    json_put_key(b, key);
    put_as_text(b, v);
}

void
put_as_text(struct buf *b, const struct json *v)
{
    if (v->type == JSON_STRING)
        json_put_value(b, v);
    else /* a number or an object where a text belongs: its JSON is the text */
        json_put_string(b, v->p, v->n);
}

void
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

const char *
proto_name(unsigned proto)
{
    return proto == PROTO_TCP ? "tcp" : proto == PROTO_WS ? "ws" : "http";
}

void
put_user_back(struct buf *b, const struct user *u)
{
    put_nick(b, u);
    put_profile(b, "sign", u->profile != NULL ? u->profile->sign : NULL);
    put_text(b, "status", user_is_online(u) ? STR("online") : STR("offline"));
    if (u->conns != NULL)
        put_text(b, "terminal", str_of(conn_terminal(u->conns)));
    else if (u->elsewhere != PROTO_NONE)
        put_text(b, "terminal", str_of(proto_name(u->elsewhere)));
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

struct buf *
answer_begin(struct chat *c, int code, int command)
{
    c->out.len = 0;
    put_answer(&c->out, code, command);
    return &c->out;
}

void
answer_send(struct chat *c, struct conn *to, uint8_t command, uint32_t seq)
{
    buf_lit(&c->out, "}");
    conn_reply(to, command, seq, c->out.p, c->out.len);
}

void
answer_code(struct chat *c, struct conn *to, uint8_t command, uint32_t seq, int code)
{
    put_msg(answer_begin(c, code, command), code);
    answer_send(c, to, command, seq);
}

