/* SPDX-License-Identifier: MIT */
/*
 * cluster_carry.c - `jim import --cluster FILE` and `jim export --cluster FILE`: the lines of
 * docs/export.md into the Redis that FILE (a properties file) names, and out of it. Nodes may serve
 * meanwhile; they tell nobody of what is imported.
 *
 *   the link   its own loop, and a window of commands on their way
 *   import     a line at a time
 *   export     messages first; what is so of users and groups waits in a temporary file
 */
#include "jim.h"

#include <inttypes.h>
#include <stdlib.h>

#define FLYING 500       /* commands on their way at once */
#define PATIENCE_MS 20000 /* until Redis must be there */
#define PAGE 500         /* messages, users or groups asked for at once */
#define MAX_CARRY_LINE (16u << 20)

/* --- the link --------------------------------------------------------------------------------- */

struct carry {
    struct jim jim;      /* for its options, log, loop and chat */
    struct cluster k;
    struct stats stats;
    size_t flying;
    bool failed;         /* a reply was lost, or an error */
    FILE *out, *later;   /* export */
    struct buf names;    /* collected, NUL-terminated */
    size_t got;          /* elements of the last page */
    char cursor[24];     /* of ZSCAN: where it goes on */
    uint64_t last;       /* seq of its last message */
    struct conv *conv;   /* whose they are */
    struct buf line;
    uint64_t number;     /* of lines */
    uint64_t messages, again, users, groups, members, cursors, refused;
};

struct carry_op {
    struct op op;
    struct carry *carry;
};

static void
carry_step(struct op *o)
{
    struct carry *c = container_of(o, struct carry_op, op)->carry;

    c->failed |= o->failed;
    c->flying--;
    op_end(o);
}

static struct op *
carry_op(struct carry *c, op_reply_fn *reply)
{
    struct op *o = op_new(&c->k, sizeof(struct carry_op), reply, carry_step, NULL);

    container_of(o, struct carry_op, op)->carry = c;
    c->flying++;
    return o;
}

static struct carry *
carry_of(const struct op *o)
{
    return ((const struct carry_op *)(const void *)o)->carry;
}

/* Until no more than `most` commands are on their way. */
static void
carry_wait(struct carry *c, size_t most)
{
    while (c->flying > most) {
        redis_flush(c->k.redis);
        if (loop_turn(c->jim.loop, 100) < 0)
            return;
    }
}

static bool
carry_open(struct carry *c, const char *file)
{
    struct jim *j = &c->jim;
    struct cluster *k = &c->k;
    char err[512];

    *c = (struct carry){.failed = false};
    conf_init(&j->opt);
    j->log = (struct log){stderr, LOG_LEVEL_WARN};
    bool good = conf_load(&j->opt, file, NULL, NULL, err, sizeof err) == 0 &&
                redis_check(&j->opt, err, sizeof err) == 0;
    if (good && j->opt.redis_tls)
        good = (k->tls = tls_client_new(j->opt.ca, err, sizeof err)) != NULL;
    chat_init(&j->chat, &j->opt, &j->log, &c->stats);
    if (!good) {
        fprintf(stderr, "jim: %s\n", err);
        return false;
    }
    j->loop = loop_new();
    k->jim = j;
    k->chat = &j->chat;
    for (int i = 0; i < SCRIPTS; i++)
        redis_script_init(&k->script[i], far_script((enum far_script)i));
    k->redis = redis_new(&(struct redis_options){.opt = &j->opt, .loop = j->loop, .log = &j->log,
                                                 .tls = k->tls, .name = "jim-carry"});
    for (int64_t end = time_mono_ms() + PATIENCE_MS; !redis_is_up(k->redis);) {
        redis_flush(k->redis);
        if (loop_turn(j->loop, 50) < 0 || time_mono_ms() > end) {
            fprintf(stderr, "jim: Redis cannot be reached\n");
            return false;
        }
    }
    return true;
}

static void
carry_close(struct carry *c)
{
    redis_free(c->k.redis);
    while (c->k.ops != NULL)
        op_end(c->k.ops);
    chat_free(&c->jim.chat);
    tls_client_free(c->k.tls);
    if (c->jim.loop != NULL)
        loop_free(c->jim.loop);
    conf_free(&c->jim.opt);
    buf_free(&c->names);
    buf_free(&c->line);
}

/* --- import ----------------------------------------------------------------------------------- */

struct told { /* what a line says beside a request's members */
    struct str type;
    int64_t seq, time, lo, hi; /* below 0: nothing */
};

static void
told_live(const struct json *live, struct told *t)
{
    struct json_iter it;
    struct json v;

    json_enter(&it, live);
    if (json_next(&it, NULL, &v) > 0)
        json_int(&v, &t->lo);
    if (json_next(&it, NULL, &v) > 0)
        json_int(&v, &t->hi);
}

static struct told
told_by(struct str json)
{
    struct told t = {.seq = -1, .time = -1};
    struct json_iter it;
    struct json key, value;

    if (json_open(&it, json.p, json.n) != 0)
        return t;
    while (json_next(&it, &key, &value) > 0) {
        struct str name = {key.p, key.n};
        if (str_eq(name, STR("seq")))
            json_int(&value, &t.seq);
        else if (str_eq(name, STR("time")))
            json_int(&value, &t.time);
        else if (str_eq(name, STR("type")) && value.type == JSON_STRING)
            t.type = (struct str){value.p, value.n};
        else if (str_eq(name, STR("live")) && value.type == JSON_ARRAY)
            told_live(&value, &t);
    }
    return t;
}

static void
list_member(struct op *o, struct str user, const char *list, struct str key)
{
    ask_plain(o, "SADD", 2);
    put_key(o, 'u', user, list);
    put_arg(o, key);
    ask_end(o, 'u', user, 1);
}

static void
import_reply(struct op *o, uint32_t n, const struct redis_reply *r)
{
    if (n != 0)
        return;
    carry_of(o)->messages += redis_int(r, 0) == 1;
    carry_of(o)->again += redis_int(r, 0) != 1;
}

/* The chat as it is kept: without the `time` that an export has put at its end. */
static struct str
without_time(struct carry *c, struct str json)
{
    size_t at = json.n;

    while (at > 8 && memcmp(json.p + at - 8, ",\"time\":", 8) != 0)
        at--;
    bool digits = at > 8;
    for (size_t i = at; digits && i + 1 < json.n; i++)
        digits = json.p[i] >= '0' && json.p[i] <= '9';
    if (!digits)
        return json;
    c->line.len = 0;
    buf_add(&c->line, json.p, at - 8);
    buf_add(&c->line, "}", 1);
    return (struct str){c->line.p, c->line.len};
}

static const char *
import_message(struct carry *c, struct str json, const struct request *r, const struct told *t)
{
    char from_text[MAX_ID], to_text[MAX_ID], key_text[MAX_CONV_KEY], esc[3 * MAX_ID];
    char id[6 * MAX_MESSAGE_ID], suffix[3 * MAX_ID + 6 * MAX_MESSAGE_ID + 8];
    struct str from, to, key;
    int64_t chat_type, create;
    bool group;

    if (request_int(r, F_CHAT_TYPE, 0, &chat_type) < 0 || !request_id(r, F_FROM, from_text, &from))
        return "it has no sender, or no chatType that can be one";
    group = chat_type == 1 || (chat_type == 0 && r->f[F_TO].type == JSON_NONE);
    if (!request_id(r, group ? F_GROUP_ID : F_TO, to_text, &to))
        return "it does not say to whom";
    if (t->seq <= 0 || t->seq > INT64_C(1000000000000000))
        return "it has no seq: only what `jim export` has written can be imported here";
    int64_t time = t->time > 0 ? t->time : c->jim.chat.now_ms();
    if (request_int(r, F_CREATE_TIME, 0, &create) <= 0)
        create = time;
    key = group ? group_key(to, key_text) : pair_key(from, to, key_text);
    bool first = conv_find_key(&c->jim.chat.roster, key) == NULL;
    conv_get_key(&c->jim.chat.roster, key);
    struct str chat = without_time(c, json);
    size_t idlen = r->f[F_ID].type == JSON_STRING && r->f[F_ID].n <= sizeof id
                       ? json_text(&r->f[F_ID], id) : 0;
    bool recent = idlen > 0 && idlen <= MAX_MESSAGE_ID &&
                  time + RETRY_MS > c->jim.chat.now_ms();
    struct op *o = carry_op(c, import_reply);
    if (first && !group) {
        list_member(o, user_key(from, esc), ":p", key);
        list_member(o, user_key(to, esc), ":p", key);
    }
    snprintf(suffix, sizeof suffix, ":i:%.*s:%.*s", (int)user_key(from, esc).n, esc,
             (int)(recent ? idlen : 0), id);
    ask_script(o, SCRIPT_CARRY, 3, 7);
    put_key(o, 'c', key, "");
    put_key(o, 'c', key, ":g");
    put_key(o, 'c', key, suffix);
    put_int(o, t->seq);
    put_int(o, time);
    put_int(o, create);
    put_arg(o, from);
    put_arg(o, chat);
    put_arg(o, group ? to : STR(""));
    put_int(o, recent);
    ask_end(o, 'c', key, 0);
    if (first && group)
        ask_index(o, 'G', to, 0, NULL);
    op_sent(o);
    return NULL;
}

static const char *
import_user_line(struct carry *c, struct str json, const struct request *r)
{
    char text[MAX_ID], esc[3 * MAX_ID];
    struct str id, user;
    const char *why = profile_check(json);

    if (why != NULL || !request_id(r, F_USER_ID, text, &id))
        return why != NULL ? why : "it has no userId";
    struct user *u = user_get(&c->jim.chat.roster, id);
    profile_set(u, json);
    c->line.len = 0;
    record_put_user(&c->line, u);
    user = user_key(id, esc);
    struct op *o = carry_op(c, NULL);
    ask_plain(o, "HSET", 3);
    put_key(o, 'u', user, "");
    put_arg(o, STR("p"));
    put_arg(o, (struct str){c->line.p, c->line.len});
    ask_end(o, 'u', user, 1);
    ask_index(o, 'U', id, 1, "NX");
    op_sent(o);
    c->users++;
    return NULL;
}

static void
ask_group(struct op *o, struct str key, const char *field, struct str value)
{
    ask_plain(o, "HSET", 3);
    put_key(o, 'c', key, ":g");
    put_arg(o, str_of(field));
    put_arg(o, value);
    ask_end(o, 'c', key, 1);
}

static const char *
import_group_line(struct carry *c, const struct request *r)
{
    char text[MAX_ID], name_text[MAX_ID], key_text[MAX_CONV_KEY];
    struct str id, name, key;

    if (!request_id(r, F_GROUP_ID, text, &id))
        return "it has no groupId";
    key = group_key(id, key_text);
    struct op *o = carry_op(c, NULL);
    ask_group(o, key, "id", id);
    if (r->f[F_DISMISSED].type == JSON_TRUE) {
        ask_group(o, key, "gone", STR("1"));
        ask_unindex(o, 'G', id);
    } else {
        ask_index(o, 'G', id, 0, NULL);
    }
    if (request_id(r, F_NAME, name_text, &name))
        ask_group(o, key, "name", name);
    op_sent(o);
    c->groups++;
    return NULL;
}

/* How far somebody has got: of a group's member, or in a pair. */
static const char *
import_progress(struct carry *c, const struct request *r, const struct told *t, bool group)
{
    char text[MAX_ID], other_text[MAX_ID], key_text[MAX_CONV_KEY], esc[3 * MAX_ID];
    struct str id, other, key;

    if (!request_id(r, F_USER_ID, text, &id) ||
        !request_id(r, group ? F_GROUP_ID : F_FROM_USER_ID, other_text, &other))
        return "it does not say whose it is";
    if (t->seq < 0 || t->lo < 0 || t->hi < 0)
        return "it has no seq: only what `jim export -a` has written can be imported here";
    key = group ? group_key(other, key_text) : pair_key(id, other, key_text);
    struct op *o = carry_op(c, NULL);
    list_member(o, user_key(id, esc), group ? ":g" : ":p", key);
    if (group) {
        ask_group(o, key, "id", other);
        ask_index(o, 'G', other, 0, NULL);
        ask_plain(o, "ZADD", 4);
        put_key(o, 'c', key, ":m");
        put_arg(o, STR("NX"));
        put_int(o, 1);
        put_arg(o, id);
        ask_end(o, 'c', key, 1);
    }
    ask_script(o, SCRIPT_DELIVERED, 2, 5);
    put_key(o, 'c', key, ":d");
    put_key(o, 'c', key, ":m");
    put_arg(o, id);
    put_int(o, t->seq);
    put_int(o, t->lo);
    put_int(o, t->hi);
    put_int(o, 0);
    ask_end(o, 'c', key, 1);
    op_sent(o);
    c->members += group;
    c->cursors += !group;
    return NULL;
}

/* How far a conversation has counted of which no message is left. */
static const char *
import_count(struct carry *c, const struct request *r, const struct told *t)
{
    char text[MAX_ID], other_text[MAX_ID], key_text[MAX_CONV_KEY], esc[3 * MAX_ID];
    struct str id, other, key;
    bool group = r->f[F_GROUP_ID].type != JSON_NONE;

    if (!request_id(r, group ? F_GROUP_ID : F_USER_ID, text, &id) ||
        (!group && !request_id(r, F_FROM_USER_ID, other_text, &other)))
        return "it does not say of what";
    if (t->seq <= 0 || t->seq > MAX_SEQ)
        return "it has no seq that can be one";
    key = group ? group_key(id, key_text) : pair_key(id, other, key_text);
    struct op *o = carry_op(c, NULL);
    if (group) {
        ask_group(o, key, "id", id);
        ask_index(o, 'G', id, 0, NULL);
    } else {
        list_member(o, user_key(id, esc), ":p", key);
        list_member(o, user_key(other, esc), ":p", key);
    }
    ask_script(o, SCRIPT_COUNTED, 1, 1);
    put_key(o, 'c', key, ":g");
    put_int(o, t->seq);
    ask_end(o, 'c', key, 1);
    op_sent(o);
    return NULL;
}

static void
import_line(struct carry *c, struct str json)
{
    struct request r;
    const char *why = "it is no JSON object";

    c->number++;
    if (str_trim(json).n == 0)
        return;
    if (request_parse(&r, json)) {
        struct told t = told_by(json);
        if (t.type.n == 0)
            why = import_message(c, json, &r, &t);
        else if (str_eq(t.type, STR("user")))
            why = import_user_line(c, json, &r);
        else if (str_eq(t.type, STR("group")))
            why = import_group_line(c, &r);
        else if (str_eq(t.type, STR("member")) || str_eq(t.type, STR("cursor")))
            why = import_progress(c, &r, &t, t.type.p[0] == 'm');
        else if (str_eq(t.type, STR("seq")))
            why = import_count(c, &r, &t);
        else
            why = "its type is none that is known";
    }
    if (why != NULL) {
        fprintf(stderr, "line %" PRIu64 ": %s\n", c->number, why);
        c->refused++;
    }
    carry_wait(c, FLYING);
}

int
cluster_import(const char *file, FILE *in, FILE *out)
{
    struct carry *c = xcalloc(1, sizeof *c);
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    int code = 2;

    if (carry_open(c, file)) {
        while (!c->failed && (n = getline(&line, &cap, in)) > 0 && n <= (ssize_t)MAX_CARRY_LINE)
            import_line(c, str_trim((struct str){line, (size_t)n}));
        bool whole = feof(in) && !ferror(in);
        carry_wait(c, 0);
        if (c->failed || !whole)
            fprintf(stderr, "jim: not to the end: run it again\n");
        else
            code = c->refused > 0;
        fprintf(out, "%s: imported %" PRIu64 " messages, %" PRIu64 " users, %" PRIu64 " groups, %"
                PRIu64 " memberships, %" PRIu64 " cursors; %" PRIu64 " messages were there already;"
                " %" PRIu64 " refused\n", file, c->messages, c->users, c->groups, c->members,
                c->cursors, c->again, c->refused);
    }
    free(line);
    carry_close(c);
    free(c);
    return code;
}

/* --- export ----------------------------------------------------------------------------------- */

static void
names_reply(struct op *o, uint32_t n, const struct redis_reply *r)
{
    struct carry *c = carry_of(o);
    const struct redis_reply *e = redis_at(r, 0);

    (void)n;
    c->got = reply_count(r);
    for (size_t i = 0; i < c->got; i++, e = redis_next(e)) {
        buf_str(&c->names, redis_text(e));
        buf_add(&c->names, "", 1);
    }
}

static void
messages_reply(struct op *o, uint32_t n, const struct redis_reply *r)
{
    struct carry *c = carry_of(o);
    const struct redis_reply *e = redis_at(r, 0);

    (void)n;
    c->got = reply_count(r);
    for (size_t i = 0; i < c->got; i++, e = redis_next(e)) {
        const struct redis_reply *fields = redis_at(e, 1);
        c->last = (uint64_t)strtoull(redis_text(redis_at(e, 0)).p, NULL, 10);
        export_message(c->out, &(struct store_rec){.json = redis_text(redis_at(fields, 7)),
                                                   .time_ms = redis_int(redis_at(fields, 1), 0)});
    }
}

/* user -> "CURSOR LO HI", of a pair's or a group's members. */
static void
progress_reply(struct op *o, uint32_t n, const struct redis_reply *r)
{
    struct carry *c = carry_of(o);
    const struct redis_reply *e = redis_at(r, 0);
    struct conv *v = c->conv;

    (void)n;
    for (size_t i = 0; i + 1 < reply_count(r); i += 2) {
        const struct redis_reply *at = redis_next(e);
        struct str id = redis_text(e), rest = redis_text(at), part[3] = {{0}};
        int64_t number[3] = {0};
        for (int k = 0; k < 3 && str_split(&rest, ' ', &part[k]); k++)
            number[k] = strtoll(part[k].p, NULL, 10);
        e = redis_next(at);
        struct buf *b = &c->line;
        b->len = 0;
        buf_add(b, "{", 1);
        if (v->group) {
            put_text(b, "groupId", str_of(v->id));
        } else {
            struct user *a = v->member[0]->user, *other = v->member[v->nmembers - 1]->user;
            put_text(b, "fromUserId", user_id(str_eq(user_id(a), id) ? other : a));
        }
        if (number[2] > 0) {
            json_put_key(b, "live");
            buf_printf(b, "[%" PRId64 ",%" PRId64 "]", number[1], number[2]);
        }
        json_put_key(b, "seq");
        json_put_int(b, number[0]);
        put_text(b, "userId", id);
        put_text(b, "type", v->group ? STR("member") : STR("cursor"));
        buf_add(b, "}\n", 2);
        fwrite(b->p, 1, b->len, c->later);
    }
}

/* A group's name; and how far a conversation has counted, when no message of it tells. */
static void
title_reply(struct op *o, uint32_t n, const struct redis_reply *r)
{
    struct carry *c = carry_of(o);
    struct str name = redis_text(redis_at(r, 0));
    int64_t seq = redis_int(redis_at(r, 1), 0);
    struct conv *v = c->conv;
    struct buf *b = &c->line;

    (void)n;
    b->len = 0;
    if (v->group && name.n > 0) {
        buf_add(b, "{", 1);
        put_text(b, "groupId", str_of(v->id));
        put_text(b, "name", name);
        put_text(b, "type", STR("group"));
        buf_add(b, "}\n", 2);
    }
    if (c->last == 0 && seq > 0) {
        export_count(b, v, (uint64_t)seq);
        buf_add(b, "\n", 1);
    }
    fwrite(b->p, 1, b->len, c->later);
}

static void
profile_reply(struct op *o, uint32_t n, const struct redis_reply *r)
{
    struct carry *c = carry_of(o);
    struct str json = redis_text(r);

    (void)n;
    if (json.n < 3)
        return;
    fwrite(json.p, 1, json.n - 1, c->later);
    fputs(",\"type\":\"user\"}\n", c->later);
}

/* One conversation, once. */
static void
export_conv(struct carry *c, struct str key)
{
    struct op *o;

    if (c->failed || conv_find_key(&c->jim.chat.roster, key) != NULL)
        return;
    c->conv = conv_get_key(&c->jim.chat.roster, key);
    if (c->conv == NULL)
        return;
    c->last = 0;
    do {
        o = carry_op(c, messages_reply);
        ask_messages(o, key, c->last + 1, 0, PAGE);
        op_sent(o);
        carry_wait(c, 0);
    } while (!c->failed && c->got == PAGE);
    o = carry_op(c, title_reply);
    ask_plain(o, "HMGET", 3);
    put_key(o, 'c', key, ":g");
    put_arg(o, STR("name"));
    put_arg(o, STR("seq"));
    ask_end(o, 'c', key, 0);
    op_sent(o);
    o = carry_op(c, progress_reply);
    ask_plain(o, "HGETALL", 1);
    put_key(o, 'c', key, ":d");
    ask_end(o, 'c', key, 0);
    op_sent(o);
    carry_wait(c, 0);
}

static void
collect_pairs(struct carry *c, struct str id)
{
    char esc[3 * MAX_ID];
    struct str user = user_key(id, esc);
    struct op *o = carry_op(c, profile_reply);

    ask_plain(o, "HGET", 2);
    put_key(o, 'u', user, "");
    put_arg(o, STR("p"));
    ask_end(o, 'u', user, 0);
    op_sent(o);
    o = carry_op(c, names_reply);
    ask_plain(o, "SMEMBERS", 1);
    put_key(o, 'u', user, ":p");
    ask_end(o, 'u', user, 0);
    op_sent(o);
    c->names.len = 0;
    carry_wait(c, 0);
    struct buf keys = c->names;
    c->names = (struct buf){0};
    for (size_t at = 0; at < keys.len;) {
        struct str key = str_of(keys.p + at);
        export_conv(c, key);
        at += key.n + 1;
    }
    buf_free(&keys);
}

/* A page of ZSCAN: where it goes on, and names with their scores. */
static void
scan_reply(struct op *o, uint32_t n, const struct redis_reply *r)
{
    struct carry *c = carry_of(o);
    struct str cursor = redis_text(redis_at(r, 0));
    const struct redis_reply *list = redis_at(r, 1), *e = redis_at(list, 0);

    (void)n;
    snprintf(c->cursor, sizeof c->cursor, "%.*s", (int)cursor.n, cursor.n > 0 ? cursor.p : "");
    for (size_t i = 0; i + 1 < reply_count(list); i += 2, e = redis_next(redis_next(e))) {
        buf_str(&c->names, redis_text(e));
        buf_add(&c->names, "", 1);
    }
}

/* All users, or all groups, of one part of the list. By ZSCAN: people move in the list as they come
 * and go, and by their places some would be missed. It may name somebody twice. */
static void
export_bucket(struct carry *c, char kind, int bucket)
{
    char name[8], text[MAX_CONV_KEY];
    struct str id = {name, (size_t)snprintf(name, sizeof name, "%d", bucket)};

    snprintf(c->cursor, sizeof c->cursor, "0");
    do {
        struct op *o = carry_op(c, scan_reply);
        ask_plain(o, "ZSCAN", 4);
        put_key(o, kind, id, "");
        put_arg(o, str_of(c->cursor));
        put_arg(o, STR("COUNT"));
        put_int(o, PAGE);
        ask_end(o, kind, id, 0);
        op_sent(o);
        c->names.len = 0;
        carry_wait(c, 0);
        struct buf list = c->names;
        c->names = (struct buf){0};
        for (size_t at = 0; at < list.len && !c->failed;) {
            struct str one = str_of(list.p + at);
            if (kind == 'G')
                export_conv(c, group_key(one, text));
            else
                collect_pairs(c, one);
            at += one.n + 1;
        }
        buf_free(&list);
    } while (!c->failed && strcmp(c->cursor, "0") != 0 && c->cursor[0] != '\0');
}

int
cluster_export(const char *file, FILE *out)
{
    struct carry *c = xcalloc(1, sizeof *c);
    int code = 2, byte;

    bool open = carry_open(c, file);
    if (open && (c->later = tmpfile()) == NULL)
        perror("jim: temporary file");
    if (open && c->later != NULL) {
        c->out = out;
        for (int i = 0; i < BUCKETS; i++)
            export_bucket(c, 'U', i);
        for (int i = 0; i < BUCKETS; i++)
            export_bucket(c, 'G', i);
        bool whole = print_end(c->later); /* before rewind() forgets that a write failed */
        rewind(c->later);
        while (whole && !c->failed && (byte = getc(c->later)) != EOF)
            putc(byte, out);
        if (c->failed)
            fprintf(stderr, "jim: Redis has not said all there is\n");
        else if (ferror(c->later))
            perror("jim: temporary file");
        else if (whole)
            code = 0;
        fclose(c->later);
    }
    carry_close(c);
    free(c);
    return code;
}
