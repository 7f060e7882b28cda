/* SPDX-License-Identifier: MIT */
/*
 * client_msg.c - what a client makes of the server's JSON: codes, chat messages, the messages of an
 * answer 20. Knows neither a connection nor a handle; part of the client library (jim_client.h).
 *
 *   codes      what they mean, which of them are a success
 *   messages   a chat object to a struct jim_message
 *   answers    the messages in an answer 20
 */
#include "jim.h"
#include "client_int.h"

#include <string.h>

/* --- codes ------------------------------------------------------------------------------------ */

static const struct {
    int code;
    bool ok;
    const char *text;
} codes[] = {
    {10000, true, "sent"},
    {10001, true, "stored, the receiver is offline"},
    {10002, false, "message not understood"},
    {10003, true, "user"},
    {10004, false, "no such user"},
    {10005, true, "users online"},
    {10006, true, "users offline"},
    {10007, true, "logged in"},
    {10008, false, "login refused"},
    {10009, true, "token accepted"},
    {10010, false, "token refused"},
    {10011, true, "joined"},
    {10012, false, "cannot join that group"},
    {10013, false, "protocol version not supported"},
    {10014, false, "command not supported"},
    {10015, false, "messages cannot be fetched"},
    {10016, true, "offline messages"},
    {10017, false, "unknown command"},
    {10018, true, "history"},
    {10019, true, "online"},
    {10020, false, "request not understood"},
    {10021, true, "closed"},
    {10022, false, "not logged in"},
    {10023, false, "too many requests"},
    {10024, false, "forbidden"},
    {10025, false, "message too large"},
    {10026, false, "logged in elsewhere"},
    {10027, false, "the server cannot store it now"},
    {10028, false, "the server is shutting down"},
    {10029, true, "done"},
    {10030, false, "no such group"},
};
#define FIRST_CODE 10000
#define CODES ((int)(sizeof codes / sizeof codes[0])) /* one after the other, without a gap */

const char *
jim_code_text(int code)
{
    if (code < FIRST_CODE || code >= FIRST_CODE + CODES)
        return "unknown code";
    return codes[code - FIRST_CODE].text;
}

bool
jim_result_ok(const struct jim_result *r)
{
    if (r->code == -1)
        return true;
    return r->code >= FIRST_CODE && r->code < FIRST_CODE + CODES && codes[r->code - FIRST_CODE].ok;
}

/* --- messages --------------------------------------------------------------------------------- */

bool
client_key_is(const struct json *key, const char *name)
{
    return strlen(name) == key->n && memcmp(key->p, name, key->n) == 0;
}

/* The text of a value in the buffer, with a NUL behind it. Room was made for all of them before. */
static const char *
keep_text(struct buf *text, const struct json *v, size_t *n)
{
    char *p = text->p + text->len;
    size_t got = json_text(v, p);

    p[got] = '\0';
    text->len += got + 1;
    if (n != NULL)
        *n = got;
    return p;
}

static void
take_string(struct jim_message *m, const struct json *key, const struct json *v, struct buf *text)
{
    if (client_key_is(key, "content"))
        m->content = keep_text(text, v, &m->content_n);
    else if (client_key_is(key, "from"))
        m->from = keep_text(text, v, NULL);
    else if (client_key_is(key, "to"))
        m->to = keep_text(text, v, NULL);
    else if (client_key_is(key, "id"))
        m->id = keep_text(text, v, NULL);
    else if (client_key_is(key, "groupId") || client_key_is(key, "group_id")) /* J-IM 3.x, 2.x */
        m->group = keep_text(text, v, NULL);
}

static void
take_number(struct jim_message *m, const struct json *key, const struct json *v)
{
    int64_t n = 0, *out = client_key_is(key, "chatType")     ? &m->chat_type
                        : client_key_is(key, "msgType")    ? &m->msg_type
                        : client_key_is(key, "createTime") ? &m->create_ms
                        : client_key_is(key, "seq")        ? &n
                                                           : NULL;

    if (out == NULL || json_int(v, &n) != 1)
        return;
    if (out == &n)
        m->seq = n > 0 ? (uint64_t)n : 0;
    else
        *out = n;
}

int
client_message(const struct json *chat, struct buf *text, struct jim_message *m)
{
    struct json_iter it;
    struct json key, v;
    int r;

    *m = (struct jim_message){.msg_type = -1, .json = chat->p, .json_n = chat->n};
    if (chat->type != JSON_OBJECT)
        return -1;
    text->len = 0;
    buf_reserve(text, chat->n); /* a string's NUL has the place of its name */
    json_enter(&it, chat);
    while ((r = json_next(&it, &key, &v)) > 0) {
        if (v.type == JSON_NULL)
            continue;
        if (v.type == JSON_OBJECT && client_key_is(&key, "extras")) {
            m->extras = v.p;
            m->extras_n = v.n;
            continue;
        }
        take_number(m, &key, &v);
        take_string(m, &key, &v, text);
    }
    if (m->chat_type == JIM_TO_USER)
        m->group = NULL; /* a sender may name one all the same; it is none of the group's */
    else if (m->chat_type == JIM_TO_GROUP)
        m->to = NULL;
    return r;
}

/* --- answers ---------------------------------------------------------------------------------- */

int
client_answer(const char *json, size_t n, struct answer *a)
{
    struct json_iter it;
    struct json key, v;
    int r = json_open(&it, json, n);

    *a = (struct answer){.code = -1, .command = -1};
    if (r == 0 && it.close != '}')
        return -1;
    while (r == 0 && (r = json_next(&it, &key, &v)) > 0) {
        r = 0;
        if (client_key_is(&key, "command"))
            json_int(&v, &a->command);
        else if (client_key_is(&key, "code"))
            json_int(&v, &a->code);
        else if (client_key_is(&key, "data"))
            a->data = v;
        else if (client_key_is(&key, "msg"))
            a->msg = v;
        else if (client_key_is(&key, "user"))
            a->user = v;
        else if (client_key_is(&key, "group"))
            a->group = v;
    }
    return r;
}

int
client_member(const char *json, size_t n, const char *name, struct json *out)
{
    struct json_iter it;
    struct json key, v;
    int r = json_open(&it, json, n);

    *out = (struct json){0};
    while (r == 0 && (r = json_next(&it, &key, &v)) > 0) {
        r = 0;
        if (client_key_is(&key, name))
            *out = v;
    }
    return r;
}

/* What one array of them is walked with. */
struct walk {
    struct jim_client *c;
    void (*fn)(struct jim_client *, const struct jim_message *, void *);
    void *arg;
    struct buf text;
    int count;
};

static void
walk_array(struct walk *w, const struct json *array)
{
    struct json_iter it;
    struct json v;
    struct jim_message m;
    const char *me = jim_client_user(w->c);

    if (array->type != JSON_ARRAY)
        return;
    json_enter(&it, array);
    while (json_next(&it, NULL, &v) > 0) {
        if (client_message(&v, &w->text, &m) < 0)
            continue;
        m.stored = true;
        m.mine = me != NULL && m.from != NULL && strcmp(me, m.from) == 0;
        w->count++;
        w->fn(w->c, &m, w->arg);
    }
}

int
jim_result_messages(struct jim_client *c, const struct jim_result *r, bool *more,
                    void (*fn)(struct jim_client *, const struct jim_message *, void *), void *arg)
{
    struct walk w = {.c = c, .fn = fn, .arg = arg};
    struct json data, key, v, peer;
    struct json_iter it, peers;

    if (more != NULL)
        *more = false;
    if (r->command != 20 || r->json == NULL || client_member(r->json, r->n, "data", &data) < 0)
        return -1;
    if (data.type != JSON_OBJECT)
        return jim_result_ok(r) ? 0 : -1; /* J-IM 2.x leaves it out when there are none */
    json_enter(&it, &data);
    while (json_next(&it, &key, &v) > 0) {
        if (client_key_is(&key, "more") && more != NULL)
            *more = v.type == JSON_TRUE;
        if (v.type != JSON_OBJECT
            || (!client_key_is(&key, "friends") && !client_key_is(&key, "groups")))
            continue;
        json_enter(&peers, &v);
        while (json_next(&peers, NULL, &peer) > 0)
            walk_array(&w, &peer);
    }
    buf_free(&w.text);
    return w.count;
}
