/* SPDX-License-Identifier: MIT */
/*
 * client_ask.c - what a client asks, from the call to its answer; part of the client library
 * (jim_client.h).
 *
 * An ask stands in one of two lists: `wait`, by number, or `flight`, as they were sent. A lost
 * connection or a passing refusal moves it back from flight to wait, to its place by number: so
 * messages are sent again in their order. While the server refuses, nothing new is sent until all
 * that is on its way is answered.
 *
 *   lists      of asks
 *   telling    whoever asked
 *   making     an ask; a message; the other requests
 *   sending    within window and pace
 *   answers    find whose they are: by number over TCP-IM, else by kind and order, for answers keep
 *              the order of the requests
 *   the end    of a connection, of patience, of all
 */
#include "jim.h"
#include "client_int.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define MAX_JSON 2097152   /* bytes of a request: what jim.frame.max lets through by default */
#define MAX_WRITE 262144   /* bytes that wait for the socket before more are put there */
#define LARGE 65536        /* bytes from which on a request is suspected when connections break */
#define MAX_TRIES 5        /* and how many it may break */
#define HOLD_MS 200        /* the first pause after a refusal that passes, doubled by the next */
#define MAX_HOLD_MS 10000
#define LATE_MS 1000       /* what a frame that is coming prolongs the wait for an answer by */
#define PACE_PART 5 / 8    /* what may be sent at once, of a second's worth: the server allows twice
                              that second, and bunches arrive */

/* --- lists ------------------------------------------------------------------------------------ */

static void
add_last(struct asks *l, struct ask *k)
{
    k->next = NULL;
    if (l->last != NULL)
        l->last->next = k;
    else
        l->first = k;
    l->last = k;
}

/* To its place by number, behind its equals. New ones have the highest. */
static void
add_sorted(struct asks *l, struct ask *k)
{
    struct ask **at = &l->first;

    if (l->last == NULL || l->last->number <= k->number) {
        add_last(l, k);
        return;
    }
    while ((*at)->number <= k->number)
        at = &(*at)->next;
    k->next = *at;
    *at = k;
}

static struct ask *
take_first(struct asks *l)
{
    struct ask *k = l->first;

    l->first = k->next;
    if (l->first == NULL)
        l->last = NULL;
    return k;
}

static void
unlink_after(struct asks *l, struct ask *before, struct ask *k)
{
    if (before == NULL)
        l->first = k->next;
    else
        before->next = k->next;
    if (l->last == k)
        l->last = before;
}

static const char *
ask_id(const struct ask *k)
{
    return k->json + k->n;
}

static const char *
ask_to(const struct ask *k)
{
    return k->json + k->n + k->id_n + 1;
}

static size_t
ask_bytes(const struct ask *k)
{
    return sizeof *k + k->n;
}

/* It is answered, or nobody waits for it any more: it no longer counts. */
static void
ask_settled(struct jim_client *c, struct ask *k)
{
    if (k->number == 0 || k->dropped)
        return;
    k->dropped = true;
    k->fn = NULL;
    c->nasks--;
    c->queued -= ask_bytes(k);
}

static void
ask_free(struct jim_client *c, struct ask *k)
{
    ask_settled(c, k);
    if (k->kind == ASK_LOGIN)
        wipe(k->json, k->n);
    free(k);
}

static void
list_free(struct jim_client *c, struct asks *l)
{
    while (l->first != NULL)
        ask_free(c, take_first(l));
}

void
ask_free_all(struct jim_client *c)
{
    list_free(c, &c->flight);
    list_free(c, &c->wait);
    c->nflight = 0;
}

/* --- telling ---------------------------------------------------------------------------------- */

static void
tell(struct jim_client *c, struct ask *k, struct jim_result *r)
{
    jim_answer *fn = k->fn;

    r->request = k->number;
    ask_settled(c, k);
    if (fn != NULL)
        fn(c, r, k->arg);
}

static void
tell_none(struct jim_client *c, struct ask *k, const char *why)
{
    struct jim_result r = {.text = why};

    if (k->kind == ASK_MESSAGE)
        r.id = ask_id(k);
    tell(c, k, &r);
}

/* --- making ----------------------------------------------------------------------------------- */

static bool
ask_allowed(struct jim_client *c, size_t n)
{
    if (c->over || c->closing)
        client_error(c, "the connection is closed");
    else if (n > MAX_JSON)
        client_error(c, "too large: a request has at most %d bytes", MAX_JSON);
    else if (c->queued + sizeof(struct ask) + n > c->opt.queue_max)
        client_error(c, "the queue is full: %zu requests wait for an answer", c->nasks);
    else
        return true;
    return false;
}

static struct ask *
ask_make(struct jim_client *c, enum ask_kind kind, int command, struct str json, size_t more)
{
    struct ask *k = xmalloc(sizeof *k + json.n + more);

    *k = (struct ask){.kind = (uint8_t)kind, .command = (uint8_t)command, .n = (uint32_t)json.n};
    if (json.n > 0)
        memcpy(k->json, json.p, json.n);
    if (kind == ASK_USER || kind == ASK_MESSAGE) {
        k->number = ++c->number;
        c->nasks++;
        c->queued += ask_bytes(k);
    }
    return k;
}

struct ask *
ask_new(struct jim_client *c, enum ask_kind kind, int command, const char *json, size_t n)
{
    struct ask *k = ask_make(c, kind, command, (struct str){json, n}, 0);

    add_sorted(&c->wait, k);
    return k;
}

static bool
is_utf8(const char *p, size_t n)
{
    uint32_t state = 0;

    return utf8_check(&state, p, n) && state == 0;
}

static bool
is_object(const char *p, size_t n)
{
    struct json_iter it;
    struct json v;
    int r;

    if (n >= UINT32_MAX || json_open(&it, p, n) < 0 || it.close != '}')
        return false;
    while ((r = json_next(&it, NULL, &v)) > 0)
        continue;
    return r == 0;
}

/* What is wrong with it? NULL: nothing. */
static const char *
send_wrong(const struct jim_send *w, size_t content_n)
{
    const char *to = w->to != NULL ? w->to : w->group;

    if ((w->to == NULL) == (w->group == NULL))
        return "a message goes to a user or to a group";
    if (to[0] == '\0' || strlen(to) > MAX_ID || !is_utf8(to, strlen(to)))
        return "a receiver's name has 1 to 64 bytes of UTF-8";
    if (w->id != NULL && (w->id[0] == '\0' || strlen(w->id) > MAX_MESSAGE_ID
                          || !is_utf8(w->id, strlen(w->id))))
        return "an id has 1 to 128 bytes of UTF-8";
    if (content_n > MAX_JSON || !is_utf8(w->content, content_n))
        return "the content is too large, or not UTF-8";
    if (w->extras != NULL && !is_object(w->extras, strlen(w->extras)))
        return "the extras are not a JSON object";
    return NULL;
}

static void
put_member(struct buf *b, const char *name, const char *text, size_t n)
{
    json_put_key(b, name);
    json_put_string(b, text, n);
}

static void
put_chat(struct buf *b, const struct jim_send *w, size_t content_n, const char *id)
{
    int64_t when = w->create_ms == 0 ? time_wall_ms() : w->create_ms;

    buf_lit(b, "{");
    json_put_key(b, "chatType");
    json_put_int(b, w->group != NULL ? JIM_TO_GROUP : JIM_TO_USER);
    put_member(b, "id", id, strlen(id));
    if (w->group != NULL)
        put_member(b, "groupId", w->group, strlen(w->group));
    else
        put_member(b, "to", w->to, strlen(w->to));
    if (when > 0) {
        json_put_key(b, "createTime");
        json_put_int(b, when);
    }
    if (w->msg_type >= 0) {
        json_put_key(b, "msgType");
        json_put_int(b, w->msg_type);
    }
    if (w->content != NULL)
        put_member(b, "content", w->content, content_n);
    if (w->extras != NULL) {
        json_put_key(b, "extras");
        buf_add(b, w->extras, strlen(w->extras));
    }
    buf_lit(b, "}");
}

uint64_t
jim_client_send(struct jim_client *c, const struct jim_send *what, jim_answer *fn, void *arg)
{
    size_t content_n = what->content == NULL   ? 0
                       : what->content_n != 0 ? what->content_n
                                              : strlen(what->content);
    const char *wrong = send_wrong(what, content_n), *id = what->id;
    const char *to = what->to != NULL ? what->to : what->group;
    char made[33];
    struct buf b = {0};
    struct ask *k = NULL;

    if (wrong != NULL) {
        client_error(c, "%s", wrong);
        return 0;
    }
    if (id == NULL) {
        uint8_t random[16];
        random_bytes(random, sizeof random);
        for (size_t i = 0; i < sizeof random; i++) {
            made[2 * i] = "0123456789abcdef"[random[i] >> 4];
            made[2 * i + 1] = "0123456789abcdef"[random[i] & 15];
        }
        made[32] = '\0';
        id = made;
    }
    buf_reserve(&b, content_n + 256);
    put_chat(&b, what, content_n, id);
    if (ask_allowed(c, b.len)) {
        k = ask_make(c, ASK_MESSAGE, 11, (struct str){b.p, b.len}, strlen(id) + strlen(to) + 2);
        k->id_n = (uint16_t)strlen(id);
        k->to_n = (uint16_t)strlen(to);
        memcpy(k->json + k->n, id, k->id_n + 1u);
        memcpy(k->json + k->n + k->id_n + 1, to, k->to_n + 1u);
        k->group = what->group != NULL;
        k->again = true;
        k->fn = fn;
        k->arg = arg;
        add_sorted(&c->wait, k);
    }
    buf_free(&b);
    return k != NULL ? k->number : 0;
}

/* Commands that do no harm twice. */
static bool
is_harmless(int command)
{
    return command == 7 || command == 13 || command == 17 || command == 21;
}

uint64_t
jim_client_request(struct jim_client *c, int command, const char *json, size_t n, jim_answer *fn,
                   void *arg)
{
    struct ask *k;

    if (command < 1 || command > 127) {
        client_error(c, "a command is a number from 1 to 127");
        return 0;
    }
    if (command == 5 && !c->opt.no_login) {
        client_error(c, "the handle logs in by itself: no_login is not set");
        return 0;
    }
    if (n > 0 && !is_object(json, n)) {
        client_error(c, "a request is a JSON object");
        return 0;
    }
    if (!ask_allowed(c, n))
        return 0;
    k = ask_new(c, ASK_USER, command, json, n);
    k->again = is_harmless(command);
    k->fn = fn;
    k->arg = arg;
    return k->number;
}

/* The object in the buffer, which is freed. */
static uint64_t
ask_buf(struct jim_client *c, int command, struct buf *b, bool again, jim_answer *fn, void *arg)
{
    uint64_t number;

    buf_lit(b, "}");
    number = jim_client_request(c, command, b->p, b->len, fn, arg);
    if (number != 0)
        c->wait.last->again = again;
    buf_free(b);
    return number;
}

uint64_t
jim_client_join(struct jim_client *c, const char *group, const char *name, jim_answer *fn,
                void *arg)
{
    struct buf b = {0};

    buf_lit(&b, "{");
    put_member(&b, "groupId", group, strlen(group));
    if (name != NULL)
        put_member(&b, "name", name, strlen(name));
    return ask_buf(c, 7, &b, true, fn, arg);
}

uint64_t
jim_client_leave(struct jim_client *c, const char *group, jim_answer *fn, void *arg)
{
    struct buf b = {0};

    buf_lit(&b, "{");
    put_member(&b, "groupId", group, strlen(group));
    return ask_buf(c, 21, &b, true, fn, arg);
}

uint64_t
jim_client_info(struct jim_client *c, const char *user, int type, jim_answer *fn, void *arg)
{
    struct buf b = {0};

    buf_lit(&b, "{");
    put_member(&b, "userId", user, strlen(user));
    json_put_key(&b, "type");
    json_put_int(&b, type);
    return ask_buf(c, 17, &b, true, fn, arg);
}

/* The beginning of a command 19. */
static void
put_messages(struct jim_client *c, struct buf *b, int type, const char *with, const char *group)
{
    const char *me = c->user != NULL ? c->user : c->opt.user != NULL ? c->opt.user : "";

    buf_lit(b, "{");
    put_member(b, "userId", me, strlen(me));
    json_put_key(b, "type");
    json_put_int(b, type);
    if (group != NULL)
        put_member(b, "groupId", group, strlen(group));
    else if (with != NULL)
        put_member(b, "fromUserId", with, strlen(with));
}

static void
put_number(struct buf *b, const char *name, int64_t v)
{
    if (v == 0)
        return;
    json_put_key(b, name);
    json_put_int(b, v);
}

uint64_t
jim_client_history(struct jim_client *c, const struct jim_history *h, jim_answer *fn, void *arg)
{
    struct buf b = {0};
    uint64_t before = h->before_seq < INT64_MAX ? h->before_seq : INT64_MAX;

    put_messages(c, &b, 1, h->with, h->group);
    put_number(&b, "afterSeq", (int64_t)(h->after_seq < INT64_MAX ? h->after_seq : INT64_MAX));
    put_number(&b, "beforeSeq", (int64_t)before);
    put_number(&b, "beginTime", h->begin_ms);
    put_number(&b, "endTime", h->end_ms);
    put_number(&b, "offset", h->offset);
    put_number(&b, "count", h->count);
    return ask_buf(c, 19, &b, true, fn, arg);
}

uint64_t
jim_client_offline(struct jim_client *c, const char *with, const char *group, jim_answer *fn,
                   void *arg)
{
    struct buf b = {0};

    put_messages(c, &b, 0, with, group);
    /* Not again by itself: what was in a lost answer would be skipped, and nobody told. */
    return ask_buf(c, 19, &b, false, fn, arg);
}

/* --- sending ---------------------------------------------------------------------------------- */

static void
pace_count(struct jim_client *c)
{
    int64_t most = c->opt.rate * 1000 * PACE_PART;

    if (c->opt.rate <= 0 || c->now_ms <= c->pace_at)
        return;
    /* A minute is more than enough to fill it: no overflow. */
    int64_t ms = c->now_ms - c->pace_at < 60000 ? c->now_ms - c->pace_at : 60000;
    c->pace += ms * c->opt.rate;
    if (c->pace > most)
        c->pace = most > 1000 ? most : 1000;
    c->pace_at = c->now_ms;
}

static void
ask_say(struct jim_client *c, struct ask *k, bool numbered)
{
    if (numbered)
        k->seq = c->seq = c->seq < INT32_MAX ? c->seq + 1 : 1;
    else
        k->seq = 0;
    if (k->kind != ASK_MESSAGE)
        k->until_ms = c->now_ms + c->opt.timeout_ms;
    k->begun = true;
    link_put(&c->link, k->command, k->seq, k->json, k->n);
    add_last(&c->flight, k);
    c->nflight++;
    c->said_ms = c->now_ms;
    c->pace -= 1000;
}

struct ask *
ask_say_now(struct jim_client *c, enum ask_kind kind, int command, struct str json, bool numbered)
{
    struct ask *k = ask_make(c, kind, command, json, 0);

    ask_say(c, k, numbered);
    return k;
}

int64_t
ask_due(const struct jim_client *c)
{
    if (c->state != JIM_CLIENT_READY || c->wait.first == NULL || c->nflight >= c->opt.window
        || link_waiting(&c->link) >= MAX_WRITE)
        return -1;
    if (c->hold_ms != 0 && c->nflight > 0)
        return -1;
    if (c->hold_ms > c->now_ms)
        return c->hold_ms - c->now_ms;
    if (c->opt.rate > 0 && c->pace < 1000)
        return (1000 - c->pace + c->opt.rate - 1) / c->opt.rate;
    return 0;
}

void
ask_pump(struct jim_client *c)
{
    pace_count(c);
    while (ask_due(c) == 0) {
        c->hold_ms = 0;
        ask_say(c, take_first(&c->wait), c->numbered);
    }
}

/* --- answers ---------------------------------------------------------------------------------- */

/* Can an answer of this command be one to that request? */
static bool
answers(int command, int64_t answer)
{
    switch (command) {
    case 1: case 3: case 5: case 7: case 11: case 17: case 19: case 21:
        return answer == command + 1;
    case 13: case 14:
        return answer == command;
    default: /* a program's own, or one the server does not know */
        return answer == command || answer == command + 1 || answer == 0;
    }
}

/* Was it told already that there is no answer, or might it have been swallowed? */
static bool
is_doubtful(const struct ask *k)
{
    return k->kind == ASK_PROBE
        || (k->seq == 0 && k->kind != ASK_MESSAGE && (k->kind >= ASK_STAND || k->dropped));
}

/* Whose is it? NULL: nobody's. */
static struct ask *
find_asker(const struct jim_client *c, uint32_t seq, const struct answer *a, struct str id)
{
    for (struct ask *k = c->flight.first; k != NULL; k = k->next) {
        if (seq != 0 && k->seq == seq)
            return k;
        if (seq != 0 || k->seq != 0 || !answers(k->command, a->command))
            continue;
        if (k->kind != ASK_MESSAGE || id.n == 0 || str_eq(id, (struct str){ask_id(k), k->id_n}))
            return k;
    }
    /* 10017 with command 0 is the answer to what is not understood at all: to the oldest. */
    return a->command == 0 && seq == 0 ? c->flight.first : NULL;
}

/*
 * Answers keep the order of the requests. So one to k means that there will be none to those before
 * it that a J-IM may have swallowed.
 */
static void
give_up_before(struct jim_client *c, const struct ask *k)
{
    struct ask *before = NULL, *next;

    if (k->kind == ASK_MESSAGE)
        return; /* J-IM acknowledges these from another thread */
    for (struct ask *d = c->flight.first; d != NULL && d != k; d = next) {
        next = d->next;
        if (!is_doubtful(d)) {
            before = d;
            continue;
        }
        unlink_after(&c->flight, before, d);
        c->nflight--;
        if (d->kind >= ASK_STAND && !d->dropped)
            sync_answer(c, d, NULL);
        ask_free(c, d);
    }
}

/* The server refuses for now: k waits again, and nothing is sent for a while. */
static void
hold(struct jim_client *c, struct ask *k)
{
    int64_t pause = HOLD_MS << (c->holds < 6 ? c->holds : 6);

    if (c->hold_ms == 0) {
        c->holds++;
        c->hold_ms = c->now_ms + (pause < MAX_HOLD_MS ? pause : MAX_HOLD_MS);
    }
    k->until_ms = 0;
    add_sorted(&c->wait, k);
}

/* What an acknowledgement says of the message. */
static void
take_ack(const struct json *data, struct jim_result *r, struct buf *text)
{
    struct json_iter it;
    struct json key, v;
    int64_t n;

    if (data->type != JSON_OBJECT)
        return;
    json_enter(&it, data);
    while (json_next(&it, &key, &v) > 0) {
        if (client_key_is(&key, "seq") && json_int(&v, &n) == 1 && n > 0)
            r->seq = (uint64_t)n;
        else if (client_key_is(&key, "createTime") && json_int(&v, &n) == 1)
            r->create_ms = n;
        else if (client_key_is(&key, "id") && v.type == JSON_STRING) {
            text->len = 0;
            buf_reserve(text, v.n + 1u);
            text->len = json_text(&v, text->p);
            text->p[text->len] = '\0';
            r->id = text->p;
        }
    }
}

static void
take_answer(struct jim_client *c, struct ask *k, const struct answer *a, const char *json,
            size_t n)
{
    struct jim_result r = {.code = (int)a->code, .command = (int)a->command, .json = json, .n = n,
                           .text = a->code == -1 ? "done" : jim_code_text((int)a->code)};
    struct buf text = {0};

    if (k->kind == ASK_MESSAGE) {
        r.id = ask_id(k);
        take_ack(&a->data, &r, &text);
        if (jim_result_ok(&r)) {
            c->holds = 0;
            if (r.seq != 0)
                sync_own(c, k->group, ask_to(k), k->to_n, r.seq);
        }
    }
    if (k->command == 5 && a->code == 10007)
        client_user(c, a);
    tell(c, k, &r);
    buf_free(&text);
}

static bool
is_passing(int64_t code)
{
    return code == 10023 || code == 10027 || code == 10028;
}

bool
ask_answered(struct jim_client *c, uint32_t seq, const struct answer *a, const char *json, size_t n)
{
    struct ask *before = NULL, *k;
    struct jim_result ack = {0};
    struct buf id = {0};

    if (a->command == 12 && seq == 0)
        take_ack(&a->data, &ack, &id);
    k = find_asker(c, seq, a, (struct str){id.p, id.len});
    buf_free(&id);
    if (k == NULL && seq != 0)
        client_lose(c, "the server answers a request that was not made (number %" PRIu32 ")", seq);
    if (k == NULL)
        return seq != 0;
    give_up_before(c, k);
    for (struct ask *f = c->flight.first; f != k; f = f->next)
        before = f;
    unlink_after(&c->flight, before, k);
    c->nflight--;
    if (is_passing(a->code) && !k->dropped
        && (k->kind >= ASK_STAND || (k->kind <= ASK_MESSAGE && k->again))) {
        hold(c, k);
        return true;
    }
    switch (k->kind) {
    case ASK_USER:
    case ASK_MESSAGE:
        take_answer(c, k, a, json, n);
        break;
    case ASK_LOGIN:
        client_logged_in(c, a, json, n);
        break;
    case ASK_PROBE:
        c->numbered |= seq != 0;
        break;
    case ASK_STAND:
    case ASK_OFFLINE:
    case ASK_FILL:
        if (!k->dropped)
            sync_answer(c, k, a);
        break;
    case ASK_PING:
        c->ping_ms = 0;
        break;
    default:
        break;
    }
    ask_free(c, k);
    return true;
}

bool
ask_joined(struct jim_client *c, const struct json *group)
{
    struct answer a = {.code = 10011, .command = 9};
    struct json id;
    struct ask *before = NULL;

    for (struct ask *k = c->flight.first; k != NULL; before = k, k = k->next) {
        if (k->command != 7 || k->seq != 0 || client_member(k->json, k->n, "groupId", &id) < 0
            || id.n != group->n || memcmp(id.p, group->p, id.n) != 0)
            continue;
        unlink_after(&c->flight, before, k);
        c->nflight--;
        take_answer(c, k, &a, NULL, 0);
        ask_free(c, k);
        return true;
    }
    return false;
}

bool
ask_has_id(const struct jim_client *c, const char *id)
{
    size_t n = strlen(id);

    for (const struct ask *k = c->flight.first; k != NULL; k = k->next)
        if (k->kind == ASK_MESSAGE && k->id_n == n && memcmp(ask_id(k), id, n) == 0)
            return true;
    for (const struct ask *k = c->wait.first; k != NULL; k = k->next) {
        if (k->kind == ASK_MESSAGE && !k->begun)
            return false; /* nor has any behind it */
        if (k->kind == ASK_MESSAGE && k->id_n == n && memcmp(ask_id(k), id, n) == 0)
            return true;
    }
    return false;
}

/* --- the end ---------------------------------------------------------------------------------- */

int64_t
ask_until(const struct jim_client *c)
{
    int64_t first = 0;

    for (const struct ask *k = c->flight.first; k != NULL; k = k->next)
        if (k->until_ms != 0 && (first == 0 || k->until_ms < first))
            first = k->until_ms;
    return first;
}

void
ask_expire(struct jim_client *c)
{
    for (struct ask *k = c->flight.first; k != NULL && !c->lost; k = k->next) {
        if (k->until_ms == 0 || c->now_ms < k->until_ms)
            continue;
        if (k->kind >= ASK_STAND && c->link.in.len > 0) { /* it may be what is just coming */
            k->until_ms = c->now_ms + LATE_MS;
            continue;
        }
        k->until_ms = 0; /* it stays, so that a late answer finds its place */
        if (k->kind == ASK_LOGIN)
            client_lose(c, "no answer to the login in time");
        else if (k->kind == ASK_USER)
            tell_none(c, k, "no answer in time");
        else if (k->kind >= ASK_STAND) {
            k->dropped = true;
            sync_answer(c, k, NULL);
        }
    }
}

void
ask_lost(struct jim_client *c)
{
    struct asks all = c->flight, failed = {NULL, NULL}, rest = c->wait;

    c->flight = c->wait = (struct asks){NULL, NULL};
    c->nflight = 0;
    c->hold_ms = 0;
    while (all.first != NULL) {
        struct ask *k = take_first(&all);
        k->until_ms = 0;
        k->tries++;
        if (k->kind > ASK_MESSAGE || k->dropped)
            ask_free(c, k);
        else if (!k->again || (k->n > LARGE && k->tries >= MAX_TRIES))
            add_last(&failed, k);
        else
            add_sorted(&c->wait, k);
    }
    while (rest.first != NULL) {
        struct ask *k = take_first(&rest);
        if (k->kind > ASK_MESSAGE)
            ask_free(c, k);
        else
            add_sorted(&c->wait, k);
    }
    while (failed.first != NULL) { /* what they do now finds the lists in order */
        struct ask *k = take_first(&failed);
        tell_none(c, k, "the connection was lost before the answer");
        ask_free(c, k);
    }
}

void
ask_fail_all(struct jim_client *c, const char *why)
{
    struct asks lists[2] = {c->flight, c->wait};

    c->flight = c->wait = (struct asks){NULL, NULL};
    c->nflight = 0;
    for (int i = 0; i < 2; i++) {
        while (lists[i].first != NULL) {
            struct ask *k = take_first(&lists[i]);
            if (k->kind <= ASK_MESSAGE && !k->dropped)
                tell_none(c, k, why);
            ask_free(c, k);
        }
    }
}

void
ask_drop(struct jim_client *c, uint64_t number)
{
    struct ask *before = NULL;

    for (struct ask *k = c->flight.first; k != NULL; k = k->next)
        if (k->number == number)
            ask_settled(c, k);
    for (struct ask *k = c->wait.first; k != NULL; before = k, k = k->next) {
        if (k->number != number)
            continue;
        unlink_after(&c->wait, before, k);
        ask_free(c, k);
        return;
    }
}
