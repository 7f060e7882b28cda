/* SPDX-License-Identifier: MIT */
/*
 * client.c - the client's handle: options, the life of its connections, and the functions that
 * wait. The client library is jim_client.h and, in reading order, client_msg.c, client_link.c,
 * client_ask.c, client_sync.c and this.
 *
 *   errors      sentences
 *   options     copied, with their defaults
 *   hearing     a frame to whom it concerns
 *   life        connecting, greeting, ready, lost, trying again, the end
 *   time        what is due, and when
 *   a step      for any loop
 *   waiting     poll and step
 *
 * A connection over TCP-IM is greeted with a numbered and a bare heartbeat: J-IM swallows what is
 * numbered, so whether the first is answered tells whether answers can be matched by number. No
 * callback closes the link under the code that called it: client_lose() marks it, the step ends it.
 */
#include "jim.h"
#include "client_int.h"

#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define READY_MS 1000 /* a connection that lived that long ends the count of failures */

/* --- errors ----------------------------------------------------------------------------------- */

void
client_error(struct jim_client *c, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    vsnprintf(c->error, sizeof c->error, format, ap);
    va_end(ap);
}

void
client_lose(struct jim_client *c, const char *format, ...)
{
    va_list ap;

    if (c->lost)
        return;
    c->lost = true;
    va_start(ap, format);
    vsnprintf(c->link.why, sizeof c->link.why, format, ap);
    va_end(ap);
}

const char *
jim_client_error(const struct jim_client *c)
{
    return c->error;
}

const char *
jim_client_no_tls(void)
{
    return tls_version() != NULL ? NULL : "not built with TLS: make TLS=1";
}

/* --- options ---------------------------------------------------------------------------------- */

static char *
copy(const char *s)
{
    return s != NULL ? xstrndup(s, strlen(s)) : NULL;
}

static void
set_options(struct jim_client *c, const struct jim_client_options *o)
{
    c->opt = *o;
    c->opt.url = c->opt.ca = NULL; /* the link has taken what it needs */
    c->opt.user = copy(o->user);
    c->opt.password = copy(o->password);
    c->opt.token = copy(o->token);
    if (o->heartbeat_ms == 0)
        c->opt.heartbeat_ms = 30000;
    if (o->timeout_ms <= 0)
        c->opt.timeout_ms = 30000;
    if (o->backoff_min_ms <= 0)
        c->opt.backoff_min_ms = 250;
    if (o->backoff_max_ms <= 0)
        c->opt.backoff_max_ms = 30000;
    if (o->rate == 0)
        c->opt.rate = 200;
    if (o->window == 0)
        c->opt.window = 256;
    if (o->queue_max == 0)
        c->opt.queue_max = 4u << 20;
    if (o->frame_max == 0)
        c->opt.frame_max = 16u << 20;
}

static bool heard(void *arg, int command, uint32_t seq, const char *json, size_t n);

static void
seen(void *arg, bool out, const void *bytes, size_t n, const char *json, size_t json_n)
{
    struct jim_client *c = arg;

    c->opt.on_frame(c, out, bytes, n, json, json_n, c->opt.arg);
}

struct jim_client *
jim_client_new(const struct jim_client_options *o, char *err, size_t errsize)
{
    struct jim_client *c = xcalloc(1, sizeof *c);

    if (errsize > 0)
        err[0] = '\0';
    c->state = JIM_CLIENT_WAITING;
    set_options(c, o);
    if (link_init(&c->link, o->url, o->ca, err, errsize) < 0) {
        jim_client_free(c);
        return NULL;
    }
    if (!o->no_login && o->user == NULL && o->token == NULL) {
        snprintf(err, errsize, "there is neither a user nor a token to log in with");
        jim_client_free(c);
        return NULL;
    }
    c->link.arg = c;
    c->link.heard = heard;
    c->link.seen = o->on_frame != NULL ? seen : NULL;
    c->link.frame_max = c->opt.frame_max;
    return c;
}

static void
free_secret(const char *s)
{
    union { const char *is; char *was; } u = {.is = s};

    if (s == NULL)
        return;
    wipe(u.was, strlen(s));
    free(u.was);
}

void
jim_client_free(struct jim_client *c)
{
    if (c == NULL)
        return;
    ask_free_all(c);
    sync_free(c);
    link_free(&c->link);
    free_secret(c->opt.user);
    free_secret(c->opt.password);
    free_secret(c->opt.token);
    free(c->user);
    buf_free(&c->text);
    buf_free(&c->kept);
    free(c);
}

enum jim_client_state
jim_client_state(const struct jim_client *c)
{
    return c->state;
}

const char *
jim_client_user(const struct jim_client *c)
{
    return c->user != NULL ? c->user : c->opt.user;
}

size_t
jim_client_pending(const struct jim_client *c)
{
    return c->nasks;
}

bool
client_is_me(const struct jim_client *c, const char *user)
{
    const char *me = jim_client_user(c);

    return me != NULL && user != NULL && strcmp(me, user) == 0;
}

/* --- hearing ---------------------------------------------------------------------------------- */

static void
set_state(struct jim_client *c, enum jim_client_state state, const char *why)
{
    c->state = state;
    if (c->opt.on_state != NULL)
        c->opt.on_state(c, state, why, c->opt.arg);
}

static void
event(struct jim_client *c, const struct answer *a, const char *json, size_t n)
{
    if (c->opt.on_event != NULL)
        c->opt.on_event(c, (int)a->command, json, n, c->opt.arg);
}

/* Logged in, or as far as it goes without. */
static void
ready(struct jim_client *c)
{
    c->since_ms = c->now_ms;
    c->tried = 0;
    c->error[0] = '\0';
    c->state = JIM_CLIENT_READY;
    sync_begin(c); /* before what the program may ask for now */
    set_state(c, JIM_CLIENT_READY, "");
}

static void
greet(struct jim_client *c)
{
    struct buf b = {0};

    c->greeted = true;
    c->numbered = false;
    c->seq = 0;
    c->heard_ms = c->said_ms = c->pace_at = c->now_ms;
    c->pace = c->opt.rate > 0 ? c->opt.rate * 1000 / 2 : 0;
    if (c->link.target == NULL) {
        ask_say_now(c, ASK_PROBE, 13, STR(""), true);
        ask_say_now(c, ASK_PROBE, 13, STR(""), false);
    }
    if (c->opt.no_login) {
        if (c->link.target != NULL)
            ready(c);
        return; /* else the second probe's answer does it */
    }
    const char *const members[][2] = {{"password", c->opt.password}, {"token", c->opt.token},
                                      {"userId", c->opt.user}};
    buf_lit(&b, "{");
    for (size_t i = 0; i < 3; i++) {
        if (members[i][1] == NULL)
            continue;
        json_put_key(&b, members[i][0]);
        json_put_string(&b, members[i][1], strlen(members[i][1]));
    }
    buf_lit(&b, "}");
    ask_say_now(c, ASK_LOGIN, 5, (struct str){b.p, b.len}, false);
    wipe(b.p, b.len);
    buf_free(&b);
}

void
client_user(struct jim_client *c, const struct answer *a)
{
    struct json_iter it;
    struct json key, v;

    if (a->user.type != JSON_OBJECT)
        return;
    json_enter(&it, &a->user);
    while (json_next(&it, &key, &v) > 0) {
        if (v.type != JSON_STRING || !client_key_is(&key, "userId"))
            continue;
        free(c->user);
        c->user = xcalloc(1, v.n + 1u);
        json_text(&v, c->user);
    }
}

void
client_logged_in(struct jim_client *c, const struct answer *a, const char *json, size_t n)
{
    if (a->code == 10007) {
        client_user(c, a);
        if (c->user == NULL)
            c->user = copy(c->opt.user); /* J-IM may answer with nothing more */
        event(c, a, json, n);
        ready(c);
    } else if (a->code == 10008
               && (a->msg.n < 9 || memcmp(a->msg.p, "try later", 9) != 0)) {
        event(c, a, json, n);
        client_end(c, JIM_CLIENT_REFUSED, "the login was refused");
    } else {
        client_lose(c, "the server cannot log in now: %s",
                    a->code == 10008 ? "try later" : jim_code_text((int)a->code));
    }
}

/* J-IM does not answer a join but tells it to the group, the one who joins included. */
static bool
is_join(struct jim_client *c, const struct answer *a)
{
    struct json_iter it;
    struct json key, v;
    bool me = false;

    if (a->command != 9 || c->numbered || a->user.type != JSON_OBJECT)
        return false;
    json_enter(&it, &a->user);
    while (json_next(&it, &key, &v) > 0)
        me |= client_key_is(&key, "userId") && v.n < MAX_ID * 6 && c->user != NULL
              && v.n == strlen(c->user) && memcmp(v.p, c->user, v.n) == 0;
    return me && ask_joined(c, &a->group);
}

static bool
heard(void *arg, int command, uint32_t seq, const char *json, size_t n)
{
    struct jim_client *c = arg;
    struct answer a;

    if (json == NULL && command < 0) {
        greet(c);
        return !c->lost;
    }
    if (client_answer(json, n, &a) < 0)
        a = (struct answer){.code = -1, .command = -1};
    if (command >= 0)
        a.command = command;
    if (a.command == 11 && a.data.type == JSON_OBJECT)
        sync_live(c, &a.data);
    else if (a.command == 14 && a.code == 10026)
        client_end(c, JIM_CLIENT_CLOSED, "logged in elsewhere");
    else if (a.command == 9 || a.command == 10) {
        is_join(c, &a);
        event(c, &a, json, n);
    } else if (!ask_answered(c, seq, &a, json, n))
        event(c, &a, json, n);
    if (c->greeted && c->opt.no_login && c->state == JIM_CLIENT_CONNECTING && seq == 0)
        ready(c); /* the second probe is answered */
    return !c->lost && !c->over;
}

/* --- life ------------------------------------------------------------------------------------- */

/* For good. The link goes when the step is done with it. */
void
client_end(struct jim_client *c, enum jim_client_state state, const char *why)
{
    if (c->over)
        return;
    c->over = true;
    client_error(c, "%s", why);
    ask_fail_all(c, why);
    set_state(c, state, why);
}

/* The n-th failure in a row: when to try again. Full jitter keeps a thousand clients of a server
 * that was restarted from coming back all at once. */
static int64_t
backoff(const struct jim_client *c)
{
    unsigned n = c->failures < 20 ? c->failures : 20;
    int64_t most = c->opt.backoff_min_ms;
    uint64_t random;

    while (n-- > 0 && most < c->opt.backoff_max_ms)
        most *= 2;
    if (most > c->opt.backoff_max_ms)
        most = c->opt.backoff_max_ms;
    random_bytes(&random, sizeof random);
    return (int64_t)(random % ((uint64_t)most + 1));
}

/* The link has failed, or is over; link.why says why. */
static void
connection_lost(struct jim_client *c)
{
    bool was_ready = c->state == JIM_CLIENT_READY, greeted = c->greeted;
    char why[sizeof c->link.why];

    memcpy(why, c->link.why, sizeof why);
    link_close(&c->link);
    c->lost = c->greeted = false;
    c->ping_ms = 0;
    c->failures = was_ready && c->now_ms - c->since_ms >= READY_MS ? 0 : c->failures;
    sync_lost(c);
    ask_lost(c);
    if (c->over)
        return;
    if (c->bye || (c->closing && c->nasks == 0)) {
        client_end(c, JIM_CLIENT_CLOSED, "closed");
        return;
    }
    if (!greeted && ++c->tried < c->link.addrs) { /* the next address, at once */
        c->link.at = (c->link.at + 1) % c->link.addrs;
        c->retry_ms = c->now_ms;
    } else if (c->opt.no_reconnect) {
        client_end(c, JIM_CLIENT_CLOSED, why);
        return;
    } else {
        c->failures++;
        c->tried = 0;
        c->retry_ms = c->now_ms + backoff(c);
        c->unresolved = !greeted && !c->link.numeric && !c->opt.resolve_once;
    }
    client_error(c, "%s", why);
    set_state(c, JIM_CLIENT_WAITING, why);
}

static void
connect_again(struct jim_client *c)
{
    char err[sizeof c->link.why];

    if (c->unresolved && link_resolve(&c->link, err, sizeof err) < 0)
        client_lose(c, "%s", err); /* what it had before may still be right next time */
    c->unresolved = false;
    c->since_ms = c->now_ms;
    set_state(c, JIM_CLIENT_CONNECTING, "");
    if (!c->lost && !c->over && !link_connect(&c->link))
        c->lost = true;
}

void
jim_client_close(struct jim_client *c)
{
    if (c->closing || c->over)
        return;
    c->closing = true;
    c->close_ms = time_mono_ms() + c->opt.timeout_ms;
}

/* --- time ------------------------------------------------------------------------------------- */

static void
earliest(int64_t *first, int64_t at)
{
    if (at != 0 && at < *first)
        *first = at;
}

/* When the silence has to be broken, and when it has lasted too long; INT64_MAX: never. */
static int64_t
ping_due(const struct jim_client *c)
{
    int64_t first = c->said_ms < c->heard_ms ? c->said_ms : c->heard_ms;

    if (c->opt.heartbeat_ms < 0 || c->state != JIM_CLIENT_READY || c->ping_ms != 0)
        return INT64_MAX;
    return first + c->opt.heartbeat_ms;
}

static int64_t
silence_due(const struct jim_client *c)
{
    int64_t wait = c->opt.heartbeat_ms < c->opt.timeout_ms ? c->opt.heartbeat_ms
                                                           : c->opt.timeout_ms;

    if (c->ping_ms == 0 || c->state != JIM_CLIENT_READY)
        return INT64_MAX;
    return (c->heard_ms > c->ping_ms ? c->heard_ms : c->ping_ms) + wait;
}

/* When the next thing is due by the clock. */
static int64_t
next_due(const struct jim_client *c)
{
    int64_t first = INT64_MAX, send = ask_due(c);

    if (c->link.state == LINK_NONE)
        first = c->retry_ms;
    else if (c->state == JIM_CLIENT_CONNECTING)
        first = c->since_ms + c->opt.timeout_ms;
    earliest(&first, ping_due(c));
    earliest(&first, silence_due(c));
    earliest(&first, ask_until(c));
    if (send >= 0)
        earliest(&first, c->now_ms + send);
    if (c->closing) {
        earliest(&first, c->close_ms);
        if (!c->bye && c->nasks == 0)
            first = c->now_ms;
    }
    return first;
}

int
jim_client_timeout(const struct jim_client *c)
{
    int64_t now = time_mono_ms(), due;

    if (c->over)
        return 0;
    due = next_due(c);
    if (due == INT64_MAX)
        return -1;
    return due <= now ? 0 : due - now > INT32_MAX ? INT32_MAX : (int)(due - now);
}

int
jim_client_fd(const struct jim_client *c)
{
    return c->link.fd;
}

short
jim_client_events(const struct jim_client *c)
{
    return link_events(&c->link);
}

/* --- a step ----------------------------------------------------------------------------------- */

/* What the clock brings, while there is a link. */
static void
on_time(struct jim_client *c)
{
    if (c->state == JIM_CLIENT_CONNECTING && c->now_ms >= c->since_ms + c->opt.timeout_ms)
        client_lose(c, "%s", c->greeted ? "no answer to the login in time"
                                        : "no connection in time");
    ask_expire(c);
    if (c->now_ms >= silence_due(c))
        client_lose(c, "the server gives no sign of life");
    else if (c->now_ms >= ping_due(c)) {
        c->ping_ms = c->now_ms;
        ask_say_now(c, ASK_PING, 13, STR(""), c->numbered);
    }
}

static void
on_close(struct jim_client *c)
{
    if (c->now_ms >= c->close_ms)
        client_end(c, JIM_CLIENT_CLOSED, c->nasks > 0 ? "closed before all was answered"
                                                      : "closed");
    else if (c->nasks == 0 && c->state != JIM_CLIENT_READY)
        client_end(c, JIM_CLIENT_CLOSED, "closed");
    else if (c->nasks == 0 && !c->bye) {
        c->bye = true;
        ask_say_now(c, ASK_BYE, 14, STR(""), c->numbered);
        link_bye(&c->link, WS_NORMAL);
    }
}

/* Send what may be sent. */
static void
push(struct jim_client *c)
{
    if (c->over || c->lost || c->link.state == LINK_NONE)
        return;
    ask_pump(c);
    if (!link_write(&c->link))
        c->lost = true;
}

static int
step(struct jim_client *c, bool readable)
{
    c->now_ms = time_mono_ms();
    if (!c->over && c->link.state == LINK_NONE && c->now_ms >= c->retry_ms)
        connect_again(c);
    if (!c->over && !c->lost && readable && c->link.state != LINK_NONE && !link_read(&c->link))
        c->lost = true;
    if (c->link.alive) /* be it a piece of a frame that takes its time */
        c->heard_ms = c->now_ms;
    c->link.alive = false;
    if (!c->over && !c->lost && c->link.state != LINK_NONE)
        on_time(c);
    if (!c->over && c->closing)
        on_close(c);
    push(c);
    if (c->lost && !c->over)
        connection_lost(c);
    if (c->over)
        link_close(&c->link);
    return c->over ? -1 : 0;
}

/* May a function that calls back run now? */
static bool
enter(struct jim_client *c)
{
    if (c->inside)
        client_error(c, "not from within a callback");
    return !c->inside && (c->inside = true);
}

int
jim_client_step(struct jim_client *c)
{
    int r;

    if (!enter(c))
        return -1;
    r = step(c, true);
    c->inside = false;
    return r;
}

/* --- waiting ---------------------------------------------------------------------------------- */

int
jim_client_wait(struct jim_client *c, int timeout_ms)
{
    struct pollfd p;
    int due, r;

    if (!enter(c))
        return -1;
    c->now_ms = time_mono_ms();
    push(c);
    due = c->lost ? 0 : jim_client_timeout(c);
    if (due < 0 || (timeout_ms >= 0 && timeout_ms < due))
        due = timeout_ms;
    p = (struct pollfd){.fd = c->link.fd, .events = link_events(&c->link)};
    r = poll(&p, 1, due);
    r = step(c, r > 0 && p.revents != 0);
    c->inside = false;
    return r;
}

/* How long until `until`, for jim_client_wait(); 0: it is over. */
static int
left(int64_t until_ms)
{
    int64_t ms = until_ms - time_mono_ms();

    return ms <= 0 ? 0 : ms > INT32_MAX ? INT32_MAX : (int)ms;
}

int
jim_client_connect(struct jim_client *c, int timeout_ms)
{
    int64_t until = timeout_ms < 0 ? INT64_MAX / 2 : time_mono_ms() + timeout_ms;

    while (c->state != JIM_CLIENT_READY) {
        int ms = left(until);
        if (ms == 0) {
            if (c->error[0] == '\0')
                client_error(c, "no connection in time");
            return -1;
        }
        if (jim_client_wait(c, ms) < 0)
            return -1;
    }
    return 0;
}

struct waiter {
    bool done;
    struct jim_result r;
};

/* The answer, copied: what it consists of goes when the callback returns. */
static void
waited(struct jim_client *c, const struct jim_result *r, void *arg)
{
    struct waiter *w = arg;
    size_t id_n = r->id != NULL ? strlen(r->id) + 1 : 0;
    size_t text_n = strlen(r->text) + 1;
    struct buf *b = &c->kept;

    w->done = true;
    w->r = *r;
    b->len = 0;
    buf_reserve(b, r->n + 1 + id_n + text_n);
    if (r->json != NULL) {
        w->r.json = b->p;
        buf_add(b, r->json, r->n);
        buf_add(b, "", 1);
    }
    if (r->id != NULL) {
        w->r.id = b->p + b->len;
        buf_add(b, r->id, id_n);
    }
    w->r.text = b->p + b->len;
    buf_add(b, r->text, text_n);
}

static int
wait_for(struct jim_client *c, uint64_t number, struct waiter *w, struct jim_result *out,
         int timeout_ms)
{
    int64_t until = timeout_ms < 0 ? INT64_MAX / 2 : time_mono_ms() + timeout_ms;

    *out = (struct jim_result){.text = c->error};
    if (number == 0)
        return -1;
    while (!w->done) {
        int ms = left(until);
        if (ms == 0 || (jim_client_wait(c, ms) < 0 && !w->done)) {
            ask_drop(c, number);
            if (ms == 0 && c->state == JIM_CLIENT_READY)
                client_error(c, "no answer in time");
            out->request = number;
            return -1;
        }
    }
    *out = w->r;
    if (out->code == 0)
        client_error(c, "%s", out->text);
    return out->code == 0 ? -1 : 0;
}

int
jim_client_call(struct jim_client *c, int command, const char *json, size_t n,
                struct jim_result *out, int timeout_ms)
{
    struct waiter w = {.done = false};

    return wait_for(c, jim_client_request(c, command, json, n, waited, &w), &w, out, timeout_ms);
}

int
jim_client_send_wait(struct jim_client *c, const struct jim_send *what, struct jim_result *out,
                     int timeout_ms)
{
    struct waiter w = {.done = false};

    return wait_for(c, jim_client_send(c, what, waited, &w), &w, out, timeout_ms);
}
