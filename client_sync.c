/* SPDX-License-Identifier: MIT */
/*
 * client_sync.c - the conversations of a client: each message once, in order, and what is missing
 * fetched; part of the client library (jim_client.h).
 *
 * `last` of a conversation is where one stands. A message with the next number is told at once; one
 * further on is held, and what is between is fetched from the server's history (ASK_FILL). What the
 * store does not have either is passed over.
 *
 * After each login: ASK_STAND asks, for all conversations, which number they have reached and how
 * far they have been delivered; ASK_OFFLINE fetches what has not been delivered, which moves the
 * server's cursor; what has been delivered into a connection that died is then fetched by ASK_FILL.
 * The first answer to ASK_STAND is also where conversations begin that this handle has not heard
 * of: from then on a conversation unknown begins at 1. With a server that does not know ASK_STAND a
 * conversation begins with the first message that comes.
 *
 *   conversations   found, made
 *   holding         messages before their turn
 *   telling         in order
 *   filling         gaps
 *   arriving        live, fetched, and one's own
 *   catching up     after a login
 */
#include "jim.h"
#include "client_int.h"

#include <stdlib.h>
#include <string.h>

#define MAX_HELD 1048576 /* bytes of messages held; more are dropped and fetched again */

enum source { LIVE, FETCHED, FILLED };

/* --- conversations ---------------------------------------------------------------------------- */

struct conv_key {
    bool group;
    const char *id;
    size_t n;
};

static bool
conv_eq(const void *item, const void *key)
{
    const struct client_conv *v = item;
    const struct conv_key *k = key;

    return v->group == k->group && v->idn == k->n && memcmp(v->id, k->id, k->n) == 0;
}

static struct client_conv *
conv_find(const struct jim_client *c, bool group, const char *id, size_t n)
{
    const struct map *m = &c->sync.convs;

    if (m->slot == NULL)
        return NULL;
    return map_find(m, map_hash(m, id, n), conv_eq, &(struct conv_key){group, id, n});
}

static struct client_conv *
conv_get(struct jim_client *c, bool group, const char *id, size_t n)
{
    struct map *m = &c->sync.convs;
    struct client_conv *v = conv_find(c, group, id, n);

    if (v != NULL)
        return v;
    if (m->slot == NULL)
        map_init(m);
    v = xcalloc(1, sizeof *v + n + 1);
    v->hash = map_hash(m, id, n);
    v->group = group;
    v->known = c->sync.based; /* it is new, and begins at 1 */
    v->round = c->sync.round;
    v->idn = n;
    memcpy(v->id, id, n);
    map_add(m, v);
    return v;
}

uint64_t
jim_client_seen(const struct jim_client *c, const char *with, const char *group)
{
    const char *id = group != NULL ? group : with;
    const struct client_conv *v = conv_find(c, group != NULL, id, strlen(id));

    return v != NULL && v->known ? v->last : 0;
}

void
jim_client_set_seen(struct jim_client *c, const char *with, const char *group, uint64_t seq)
{
    const char *id = group != NULL ? group : with;
    struct client_conv *v = conv_get(c, group != NULL, id, strlen(id));

    v->known = true;
    v->last = seq;
}

/* --- holding ---------------------------------------------------------------------------------- */

static void
hold(struct jim_client *c, struct client_conv *v, uint64_t seq, bool own, enum source from,
     struct str json)
{
    struct client_held **at = &v->held, *h;

    if (seq > v->high)
        v->high = seq;
    while (*at != NULL && (*at)->seq < seq)
        at = &(*at)->next;
    if (*at != NULL && (*at)->seq == seq) {
        (*at)->own |= own;
        return;
    }
    if (!own && c->sync.held + json.n > MAX_HELD)
        return; /* v->high sees that it is fetched */
    h = xmalloc(sizeof *h + json.n);
    *h = (struct client_held){.next = *at, .seq = seq, .own = own, .stored = from != LIVE,
                              .n = json.n};
    if (json.n > 0)
        memcpy(h->json, json.p, json.n);
    *at = h;
    c->sync.held += json.n;
}

static struct client_held *
unhold(struct jim_client *c, struct client_conv *v)
{
    struct client_held *h = v->held;

    v->held = h->next;
    c->sync.held -= h->n;
    return h;
}

/* Is number seq held as one this handle has sent, and had its answer to? */
static bool
is_own(const struct client_conv *v, uint64_t seq)
{
    const struct client_held *h = v->held;

    while (h != NULL && h->seq < seq)
        h = h->next;
    return h != NULL && h->seq == seq && h->own;
}

/* --- telling ---------------------------------------------------------------------------------- */

static void
tell(struct jim_client *c, struct jim_message *m, bool stored)
{
    m->stored = stored;
    m->mine = client_is_me(c, m->from);
    if (c->opt.on_message != NULL)
        c->opt.on_message(c, m, c->opt.arg);
}

static void
tell_held(struct jim_client *c, struct client_conv *v)
{
    struct client_held *h = unhold(c, v);
    struct json chat = {.p = h->json, .n = (uint32_t)h->n, .type = JSON_OBJECT};
    struct buf text = {0}; /* c->text may be in use by the message that brought us here */
    struct jim_message m;

    v->last = h->seq;
    if (!h->own && client_message(&chat, &text, &m) == 0)
        tell(c, &m, h->stored);
    buf_free(&text);
    free(h);
}

/* --- filling ---------------------------------------------------------------------------------- */

static void
put_subject(struct jim_client *c, struct buf *b, int type)
{
    buf_lit(b, "{");
    json_put_key(b, "userId");
    json_put_string(b, c->user, strlen(c->user));
    json_put_key(b, "type");
    json_put_int(b, type);
}

static void
fill(struct jim_client *c, struct client_conv *v)
{
    struct buf b = {0};

    if (c->user == NULL || c->state != JIM_CLIENT_READY)
        return; /* the next login sees to it */
    put_subject(c, &b, 1);
    json_put_key(&b, v->group ? "groupId" : "fromUserId");
    json_put_string(&b, v->id, v->idn);
    json_put_key(&b, "afterSeq");
    json_put_int(&b, (int64_t)v->last);
    buf_lit(&b, "}");
    v->filling = true;
    v->began = v->last;
    ask_new(c, ASK_FILL, 19, b.p, b.len)->conv = v;
    buf_free(&b);
}

/* Tell what is held and has its turn; then see whether something is missing. `pass`: what is
 * missing is nowhere. */
static void
settle(struct jim_client *c, struct client_conv *v, bool pass)
{
    while (v->held != NULL && (pass || v->held->seq <= v->last + 1)) {
        if (v->held->seq <= v->last)
            free(unhold(c, v));
        else
            tell_held(c, v);
    }
    if (pass && v->high > v->last)
        v->last = v->high;
    if (v->known && !v->filling && v->high > v->last)
        fill(c, v);
}

/* --- arriving --------------------------------------------------------------------------------- */

/* It is the conversation's next, or as good as that. */
static void
take_next(struct jim_client *c, struct client_conv *v, struct jim_message *m, bool own,
          enum source from)
{
    v->known = true;
    v->last = m->seq;
    if (v->high < m->seq)
        v->high = m->seq;
    if (!own)
        tell(c, m, from != LIVE);
}

/* Has this handle sent it, and waits for the answer? */
static bool
is_pending(const struct jim_client *c, const struct jim_message *m)
{
    return m->id != NULL && client_is_me(c, m->from) && ask_has_id(c, m->id);
}

static void
arrive(struct jim_client *c, struct client_conv *v, struct jim_message *m, enum source from)
{
    bool own = is_own(v, m->seq) || is_pending(c, m);
    bool fetch = !c->opt.no_catch_up && !c->sync.no_store;
    struct str json = {m->json, m->json_n};

    if (v->known && m->seq <= v->last)
        return;
    if (fetch && from != FILLED
        && (v->filling || (c->sync.catching && !v->known && from == LIVE))) {
        hold(c, v, m->seq, own, from, json);
        return;
    }
    if (fetch && from != FILLED && v->known && m->seq > v->last + 1) {
        hold(c, v, m->seq, own, from, json);
        fill(c, v);
        return;
    }
    take_next(c, v, m, own, from);
}

/* A chat: to its conversation, if it has one and a place in it. */
static void
take_chat(struct jim_client *c, const struct json *chat, enum source from)
{
    struct jim_message m;
    const char *id;

    if (client_message(chat, &c->text, &m) < 0)
        return;
    id = m.chat_type == JIM_TO_GROUP ? m.group
         : m.chat_type == JIM_TO_USER && client_is_me(c, m.from) ? m.to
         : m.chat_type == JIM_TO_USER ? m.from : NULL;
    if (m.seq == 0 || id == NULL) {
        if (!is_pending(c, &m))
            tell(c, &m, from != LIVE);
        return;
    }
    arrive(c, conv_get(c, m.chat_type == JIM_TO_GROUP, id, strlen(id)), &m, from);
}

void
sync_live(struct jim_client *c, const struct json *chat)
{
    take_chat(c, chat, LIVE);
    buf_free(&c->text);
}

void
sync_own(struct jim_client *c, bool group, const char *id, size_t n, uint64_t seq)
{
    struct client_conv *v;
    bool fetch = !c->opt.no_catch_up && !c->sync.no_store;

    v = conv_get(c, group, id, n);
    if (!v->known && !(fetch && c->sync.catching))
        return; /* where one stands is not known: what the peer has said before may still come */
    if (v->known && seq <= v->last)
        return;
    if (v->known && (!fetch || (seq == v->last + 1 && !v->filling))) {
        v->last = seq;
        if (v->high < seq)
            v->high = seq;
        return;
    }
    hold(c, v, seq, true, LIVE, STR(""));
    if (v->known && !v->filling)
        fill(c, v);
}

/* --- catching up ------------------------------------------------------------------------------ */

/* All chats of an answer 20. Returns whether there are more to ask for. */
static bool
take_chats(struct jim_client *c, const struct json *data, enum source from)
{
    struct json_iter it, peers, chats;
    struct json key, v, list, chat;
    bool more = false;

    if (data->type != JSON_OBJECT)
        return false;
    json_enter(&it, data);
    while (json_next(&it, &key, &v) > 0) {
        if (client_key_is(&key, "more"))
            more = v.type == JSON_TRUE;
        if (v.type != JSON_OBJECT)
            continue;
        json_enter(&peers, &v);
        while (json_next(&peers, NULL, &list) > 0) {
            if (list.type != JSON_ARRAY)
                continue;
            json_enter(&chats, &list);
            while (json_next(&chats, NULL, &chat) > 0)
                take_chat(c, &chat, from);
        }
    }
    buf_free(&c->text);
    return more;
}

static void
ask_stand(struct jim_client *c)
{
    struct buf b = {0};

    put_subject(c, &b, 2);
    json_put_key(&b, "offset");
    json_put_int(&b, (int64_t)c->sync.stands);
    buf_lit(&b, "}");
    ask_new(c, ASK_STAND, 19, b.p, b.len);
    buf_free(&b);
    if (!c->numbered) /* what comes to this before the other is answered: it will not be */
        ask_new(c, ASK_PING, 13, NULL, 0);
}

static void
ask_offline(struct jim_client *c)
{
    struct buf b = {0};

    put_subject(c, &b, 0);
    buf_lit(&b, "}");
    ask_new(c, ASK_OFFLINE, 19, b.p, b.len);
    buf_free(&b);
}

/* All that can be known is known: what is held has its turn, what is missing is fetched. */
static void
caught_up(struct jim_client *c)
{
    struct client_conv *v;
    size_t at = 0;

    c->sync.catching = false;
    while (c->sync.convs.slot != NULL && (v = map_next(&c->sync.convs, &at)) != NULL) {
        if (!v->known && v->held != NULL) { /* as good a beginning as any */
            v->known = true;
            v->last = v->held->seq - 1;
        }
        if (!v->filling)
            settle(c, v, c->sync.no_store);
    }
}

/* The server has forgotten what it numbered: numbers above seq will mean other messages. */
static void
begin_anew(struct jim_client *c, struct client_conv *v, uint64_t seq)
{
    while (v->held != NULL)
        free(unhold(c, v));
    v->last = v->high = seq;
}

/* Where a conversation stands, as the server says. */
static void
take_stand(struct jim_client *c, bool group, const struct json *id, const struct json *stand)
{
    struct json_iter it;
    struct json key, v;
    int64_t seq = 0, delivered = 0;
    struct client_conv *conv;
    struct buf name = {0};

    if (stand->type != JSON_OBJECT)
        return;
    json_enter(&it, stand);
    while (json_next(&it, &key, &v) > 0) {
        if (client_key_is(&key, "seq"))
            json_int(&v, &seq);
        else if (client_key_is(&key, "delivered"))
            json_int(&v, &delivered);
    }
    buf_reserve(&name, id->n + 1u);
    conv = conv_get(c, group, name.p, json_text(id, name.p));
    buf_free(&name);
    if (!conv->known && delivered >= 0) {
        conv->known = true;
        conv->last = (uint64_t)delivered;
        /* What has come since the login was counted as delivered, too. */
        if (conv->held != NULL && conv->held->seq <= conv->last)
            conv->last = conv->held->seq - 1;
    }
    conv->round = c->sync.round;
    if (seq < 0 || (uint64_t)seq < conv->last)
        begin_anew(c, conv, seq < 0 ? 0 : (uint64_t)seq);
    if (conv->high < (uint64_t)seq)
        conv->high = (uint64_t)seq;
}

/* 1: there are more, 0: that is all, -1: the server does not know the question. */
static int
take_stands(struct jim_client *c, const struct answer *a)
{
    struct json_iter it, peers;
    struct json key, v, id, stand;
    int more = 0;

    if (a == NULL || a->code != 10018 || a->data.type != JSON_OBJECT)
        return -1;
    json_enter(&it, &a->data);
    while (json_next(&it, &key, &v) > 0) {
        bool group = client_key_is(&key, "groups");
        if (client_key_is(&key, "more"))
            more = v.type == JSON_TRUE;
        if (v.type != JSON_OBJECT || (!group && !client_key_is(&key, "friends")))
            continue;
        json_enter(&peers, &v);
        while (json_next(&peers, &id, &stand) > 0) {
            take_stand(c, group, &id, &stand);
            c->sync.stands++;
        }
    }
    return more;
}

static void
stand_answered(struct jim_client *c, const struct answer *a)
{
    size_t before = c->sync.stands, at = 0;
    int more = take_stands(c, a);
    struct client_conv *v;

    if (more == 1 && c->sync.stands > before) {
        ask_stand(c);
        return;
    }
    if (more >= 0)
        c->sync.based = true;
    while (c->sync.convs.slot != NULL && (v = map_next(&c->sync.convs, &at)) != NULL) {
        /* It may still have a history: ask for that of each we know. */
        if (more < 0 && v->known && !v->filling)
            fill(c, v);
        if (more >= 0 && v->round != c->sync.round) { /* the server knows it no longer */
            begin_anew(c, v, 0);
            v->known = false;
        }
    }
    ask_offline(c);
}

static void
fill_answered(struct jim_client *c, struct client_conv *v, const struct answer *a)
{
    bool more = false;

    v->filling = false;
    if (a != NULL && a->code == 10018) {
        more = take_chats(c, &a->data, FILLED);
    } else if (a != NULL && a->code == 10015) {
        c->sync.no_store = true;
    } else if (a == NULL || (a->code != 10024 && a->code != 10030)) { /* no longer a member; gone */
        client_lose(c, "what was missed cannot be fetched: %s",
                    a != NULL ? jim_code_text((int)a->code) : "no answer in time");
        return;
    }
    if (more && v->last > v->began)
        fill(c, v);
    else /* without progress nothing more will come of asking */
        settle(c, v, v->last == v->began);
}

void
sync_answer(struct jim_client *c, struct ask *k, const struct answer *a)
{
    if (k->kind == ASK_STAND)
        stand_answered(c, a);
    else if (k->kind == ASK_FILL)
        fill_answered(c, k->conv, a);
    else if (a != NULL && a->code == 10016 && take_chats(c, &a->data, FETCHED))
        ask_offline(c);
    else {
        if (a != NULL && a->code == 10015)
            c->sync.no_store = true;
        caught_up(c);
    }
}

void
sync_begin(struct jim_client *c)
{
    struct sync *s = &c->sync;

    s->no_store = false;
    s->stands = 0;
    s->round++;
    if (c->opt.no_catch_up || c->user == NULL)
        return;
    s->catching = true;
    if (c->link.target != NULL || c->numbered)
        ask_stand(c);
    else
        ask_offline(c); /* J-IM */
}

void
sync_lost(struct jim_client *c)
{
    struct client_conv *v;
    size_t at = 0;

    c->sync.catching = false;
    while (c->sync.convs.slot != NULL && (v = map_next(&c->sync.convs, &at)) != NULL)
        v->filling = false;
}

void
sync_free(struct jim_client *c)
{
    struct client_conv *v;
    size_t at = 0;

    if (c->sync.convs.slot == NULL)
        return;
    while ((v = map_next(&c->sync.convs, &at)) != NULL) {
        while (v->held != NULL)
            free(unhold(c, v));
        free(v);
    }
    map_free(&c->sync.convs);
}
