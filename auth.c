/* SPDX-License-Identifier: MIT */
/*
 * auth.c - who may log in, when jim.auth is not `open`: by the users file, by a signed token, or by
 * what a web service says. A login is one struct login from the command to its answer; the
 * connection waits meanwhile (conn->deferred), the server does not: passwords are checked by
 * threads, the web service is asked over the loop.
 *
 *   penalties   a refusal is answered later the more of them an address has had, and after those
 *               that are still held back
 *   answers     welcome, refused, or later
 *   modes       file, token, hook, the embedding program: what each does with a login
 *   logins      from a request or a WebSocket address to a mode
 *   start       and end
 */
#include "jim.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_DELAY_MS 30000  /* what a refusal adds is not more */
#define FORGET_MS 600000    /* an address that did nothing wrong for so long begins anew */
#define PENALTY_SETS 256    /* of PENALTY_WAYS addresses each: 32 kB in all */
#define PENALTY_WAYS 4
#define MAX_DOUBLED 16      /* failures that count: 2^16 times any delay is above MAX_DELAY_MS */

struct penalty {
    uint64_t address; /* fingerprint; 0: free */
    int64_t last_ms;  /* loop clock */
    int64_t until_ms; /* when the last of the refusals held back is answered; in the past: none */
    unsigned failures;
};

struct login {
    struct task task;       /* file */
    struct hook_call call;  /* hook */
    struct timer timer;     /* its refusal is held back until then */
    struct auth *auth;
    struct login *next, **at; /* in a list of all; `at` points to what points here */
    struct conn *conn;      /* borrowed: `deferred` keeps it in memory */
    uint32_t seq;           /* of the answer */
    uint64_t address;       /* 0: unknown */
    uint64_t ticket;        /* for jim_login_answer() */
    char id[MAX_ID];
    uint8_t idlen;          /* 0: no userId was given */
    bool known, right;      /* file: is in it; the password is his */
    bool held;              /* refused; the timer runs */
    bool answered;          /* by the embedding program, whose functions are called meanwhile */
    atomic_bool gone;       /* nobody waits: the thread need not check */
    struct verifier verifier;
    size_t password_len;
    char password[MAX_PASSWORD];
};

struct auth {
    struct jim *jim;        /* borrowed */
    struct users *users;    /* file: owned */
    struct workers *workers; /* file, hook: owned */
    struct hook *hook;      /* owned */
    struct login *logins;   /* owned */
    struct task reload;      /* reading the users file again: */
    bool reloading, again;  /* under way; asked for meanwhile */
    struct users *fresh;    /* what it has found */
    char reload_err[512];
    bool closing;
    uint64_t tickets;
    uint64_t key[2];        /* of the fingerprints */
    struct penalty penalty[PENALTY_SETS][PENALTY_WAYS];
};

/* --- penalties -------------------------------------------------------------------------------- */

/* Which address a connection comes from, as a keyed fingerprint; 0 when that cannot be told. */
static uint64_t
address_of(const struct auth *a, const struct conn *conn)
{
    unsigned char ip[16];

    if (!address_peer(conn, ip))
        return 0;
    address_network(ip);
    uint64_t print = siphash13(a->key, ip, sizeof ip);
    return print != 0 ? print : 1;
}

/* The entry of an address; make: take over the one that was quiet longest. */
static struct penalty *
penalty_of(struct auth *a, uint64_t address, bool make)
{
    struct penalty *set = a->penalty[address % PENALTY_SETS], *oldest = &set[0];

    for (int i = 0; i < PENALTY_WAYS; i++) {
        if (set[i].address == address)
            return &set[i];
        if (set[i].address == 0 || (oldest->address != 0 && set[i].last_ms < oldest->last_ms))
            oldest = &set[i];
    }
    if (!make)
        return NULL;
    *oldest = (struct penalty){.address = address};
    return oldest;
}

/*
 * One more failure: for how long its answer is held back, in ms. Refusals of an address are
 * answered one after another, each its delay after the one before it: over many connections at
 * once they come no faster than over one. The place in the line stays taken when a connection
 * goes, but nobody waits for longer than FORGET_MS. Only refusals stand in line: a right password
 * is answered at once, whatever others from the same address (a company's, a proxy's) are up to.
 * So who takes silence for a refusal need not wait for it: him jim.connections.per.ip must bound.
 */
static int64_t
penalty_add(struct auth *a, uint64_t address)
{
    int64_t now = loop_now(a->jim->loop), delay = a->jim->opt.auth_delay;

    if (address == 0 || delay <= 0)
        return delay;
    struct penalty *p = penalty_of(a, address, true);
    if (now - p->last_ms > FORGET_MS)
        p->failures = 0;
    p->last_ms = now;
    for (unsigned i = 0; i < p->failures && delay < MAX_DELAY_MS; i++)
        delay *= 2;
    if (p->failures < MAX_DOUBLED)
        p->failures++;
    int64_t wait = delay < MAX_DELAY_MS ? delay : MAX_DELAY_MS;
    if (p->until_ms > now)
        wait += p->until_ms - now;
    if (wait > FORGET_MS)
        wait = FORGET_MS;
    p->until_ms = now + wait;
    return wait;
}

static void
penalty_clear(struct auth *a, uint64_t address)
{
    struct penalty *p = address != 0 ? penalty_of(a, address, false) : NULL;

    if (p != NULL)
        *p = (struct penalty){0};
}

/* --- answers ---------------------------------------------------------------------------------- */

/* Is there still somebody to be answered? */
static bool
is_there(const struct login *l)
{
    return !l->auth->closing && l->conn->state != CONN_DEAD && !l->conn->shut;
}

/* Forget a login; whatever waited behind it goes on. */
static void
login_free(struct login *l)
{
    struct conn *conn = l->conn;

    loop_timer_clear(l->auth->jim->loop, &l->timer);
    *l->at = l->next;
    if (l->next != NULL)
        l->next->at = l->at;
    wipe(l->password, l->password_len);
    free(l);
    conn->login = NULL;
    conn_answered(conn);
}

static void
login_welcome(struct login *l, struct str id, struct str json)
{
    struct jim *j = l->auth->jim;

    penalty_clear(l->auth, l->address);
    if (is_there(l)) {
        chat_welcome(&j->chat, l->conn, l->seq, id, json);
    }
    login_free(l);
}

static void
login_answer(struct login *l, bool later)
{
    struct conn *conn = l->conn;
    bool there = is_there(l);

    if (there)
        chat_refuse(&l->auth->jim->chat, conn, l->seq, later);
    login_free(l);
    if (there)
        conn_finish(conn, WS_POLICY);
}

static void
login_timer_fired(struct timer *t)
{
    login_answer(container_of(t, struct login, timer), false);
}

/* It cannot be decided: nobody is punished for that. */
static void
login_later(struct login *l)
{
    l->auth->jim->stats.logins_later++;
    login_answer(l, true);
}

static void
login_refuse(struct login *l, const char *why)
{
    struct jim *j = l->auth->jim;
    int64_t delay = penalty_add(l->auth, l->address);

    j->stats.login_failures++;
    log_write(&j->log, LOG_LEVEL_DEBUG, "connection %llu: login refused in %lld ms: %s",
              (unsigned long long)l->conn->id, (long long)delay, why);
    if (delay <= 0 || !is_there(l) || j->draining) {
        login_answer(l, false);
        return;
    }
    l->held = true;
    if (l->conn->user == NULL) /* who is kept waiting by us is not to be cut off for it */
        conn_deadline(l->conn, delay + j->opt.login_ms);
    loop_timer(j->loop, &l->timer, loop_now(j->loop) + delay, login_timer_fired);
}

void
auth_gone(struct conn *conn)
{
    struct login *l = conn->login;

    if (l == NULL)
        return;
    l->gone = true;
    if (l->held || l->auth->jim->opt.auth == AUTH_EMBED)
        login_free(l);
}

/* --- modes ------------------------------------------------------------------------------------ */

static struct str
login_id(const struct login *l)
{
    return (struct str){l->id, l->idlen};
}

static void
password_run(struct task *t)
{
    struct login *l = container_of(t, struct login, task);

    l->right = !l->gone && verifier_is(&l->verifier, (struct str){l->password, l->password_len});
}

static void password_done(struct task *t);

/* Have a thread compare the password with what the users file says now. */
static void
check_password(struct login *l)
{
    struct auth *a = l->auth;
    struct str json;

    l->known = users_find(a->users, login_id(l), &l->verifier, &json);
    if (!l->known)
        users_decoy(a->users, login_id(l), &l->verifier);
    l->task = (struct task){.run = password_run, .done = password_done};
    if (!workers_add(a->workers, &l->task, false))
        login_later(l);
}

static void
password_done(struct task *t)
{
    struct login *l = container_of(t, struct login, task);
    struct verifier now;
    struct str json;

    if (l->gone) { /* nothing was found out, so nothing is held against him */
        login_free(l);
        return;
    }
    if (!t->ran) {
        login_later(l);
        return;
    }
    /* The file may have been read again meanwhile: what it says now counts. */
    bool known = users_find(l->auth->users, login_id(l), &now, &json);
    if (known && (!l->known || memcmp(now.hash, l->verifier.hash, sizeof now.hash) != 0)) {
        check_password(l);
        return;
    }
    if (known && l->right)
        login_welcome(l, login_id(l), json);
    else
        login_refuse(l, "wrong name or password");
}

static void
login_by_file(struct login *l, struct str password)
{
    if (l->idlen == 0 || password.n == 0 || password.n > sizeof l->password) {
        login_refuse(l, "no userId or no password");
        return;
    }
    memcpy(l->password, password.p, password.n);
    l->password_len = password.n;
    check_password(l);
}

static void
login_by_token(struct login *l, struct str token)
{
    struct jim *j = l->auth->jim;
    struct buf claims = {0};
    char text[MAX_ID];
    struct str id = {0};
    const char *why = token_check(token, str_of(j->opt.token_secret), j->chat.now_ms() / 1000,
                                  &claims, text, &id);

    if (why == NULL && l->idlen > 0 && !str_eq(login_id(l), id))
        why = "the userId is not the token's sub";
    if (why == NULL)
        login_welcome(l, id, (struct str){claims.p, claims.len});
    else
        login_refuse(l, why);
    buf_free(&claims);
}

/* The User's id: the service may know him by another name than he has typed. NULL, or why not. */
static const char *
hooked_id(const struct login *l, struct str json, char text[MAX_ID], struct str *id)
{
    struct request r;
    const char *why = profile_check(json);

    if (why != NULL || !request_parse(&r, json))
        return why != NULL ? why : "not a JSON object";
    if (r.f[F_USER_ID].type != JSON_NONE)
        return request_id(&r, F_USER_ID, text, id) ? NULL : "its userId cannot be one";
    *id = login_id(l);
    return id->n > 0 ? NULL : "it has no userId";
}

static void
hook_answered(struct hook_call *call, int status, struct str body)
{
    struct login *l = container_of(call, struct login, call);
    char text[MAX_ID];
    struct str id;

    if (status == 401 || status == 403) {
        login_refuse(l, "the login hook says so");
        return;
    }
    const char *why = status == 200 ? hooked_id(l, body, text, &id) : "another status than 200";
    if (why == NULL) {
        login_welcome(l, id, body);
        return;
    }
    if (status != 0)
        log_write(&l->auth->jim->log, LOG_LEVEL_WARN, "login hook: status %d: %s", status, why);
    login_later(l);
}

static void
put_given(struct buf *b, const char *key, struct str text)
{
    if (text.n > 0)
        put_text(b, key, text);
}

static void
login_by_hook(struct login *l, struct str password, struct str token)
{
    char ip[ADDRESS_ROOM];
    struct buf b = {0};

    address_peer_text(l->conn, ip);
    buf_add(&b, "{", 1);
    put_text(&b, "ip", str_of(ip));
    put_given(&b, "password", password);
    put_text(&b, "terminal", str_of(conn_terminal(l->conn)));
    put_given(&b, "token", token);
    put_given(&b, "userId", login_id(l));
    buf_add(&b, "}", 1);
    l->call.done = hook_answered;
    bool taken = hook_post(l->auth->hook, &l->call, (struct str){b.p, b.len});
    wipe(b.p, b.len);
    buf_free(&b);
    if (!taken)
        login_later(l);
}

/* The embedding program decides: it knows the login by a number whose low bits lead to its
 * connection, as those of a connection's do. */
static void
login_by_function(struct login *l, struct str password, struct str token)
{
    struct auth *a = l->auth;
    struct hooks *h = a->jim->hooks;
    char ip[ADDRESS_ROOM];
    struct jim_login given = {.conn = conn_public_id(l->conn), .address = ip,
                              .protocol = conn_terminal(l->conn), .user = {l->id, l->idlen},
                              .password = {password.p, password.n}, .token = {token.p, token.n}};

    address_peer_text(l->conn, ip);
    l->ticket = given.ticket = ++a->tickets << FD_BITS | (uint64_t)l->conn->fd;
    h->login(h->login_arg, a->jim, &given);
}

int
auth_answer(struct auth *a, uint64_t ticket, enum jim_verdict verdict, struct str json)
{
    struct conn *c = conn_at(a->jim, (int)(ticket & ((1u << FD_BITS) - 1)));
    struct login *l = c != NULL ? c->login : NULL;
    char text[MAX_ID];
    struct str id;

    if (l == NULL || l->ticket != ticket || l->held || l->answered)
        return -1;
    id = login_id(l);
    if (verdict == JIM_WELCOME &&
        (json.p != NULL ? hooked_id(l, json, text, &id) != NULL : id.n == 0))
        return -1;
    l->answered = true;
    if (verdict == JIM_REFUSE)
        login_refuse(l, "the embedding program says so");
    else if (verdict == JIM_TRY_LATER)
        login_later(l);
    else
        login_welcome(l, id, json.p != NULL ? json : STR(""));
    return 0;
}

/* --- logins ----------------------------------------------------------------------------------- */

/* What a client has shown, decoded. */
struct shown {
    struct buf text; /* holds the three; owned */
    struct str user, password, token;
    bool bad;        /* one of them cannot be what it should be */
};

static void
login_begin(struct auth *a, struct conn *conn, uint32_t seq, struct shown *s)
{
    struct login *l = xcalloc(1, sizeof *l);
    int64_t mode = a->jim->opt.auth;

    l->auth = a;
    l->conn = conn;
    l->seq = seq;
    l->address = address_of(a, conn);
    l->next = a->logins;
    l->at = &a->logins;
    if (a->logins != NULL)
        a->logins->at = &l->next;
    a->logins = l;
    conn->deferred++;
    conn->login = l;
    if (!s->bad && s->user.n > 0) {
        memcpy(l->id, s->user.p, s->user.n);
        l->idlen = (uint8_t)s->user.n;
    }
    if (s->bad)
        login_refuse(l, "it makes no sense");
    else if (mode == AUTH_FILE)
        login_by_file(l, s->password);
    else if (mode == AUTH_TOKEN)
        login_by_token(l, s->token);
    else if (mode == AUTH_EMBED)
        login_by_function(l, s->password, s->token);
    else
        login_by_hook(l, s->password, s->token);
    wipe(s->text.p, s->text.len);
    buf_free(&s->text);
}

/* Append a member's text; what is longer than max bytes, or no text, is bad. */
static struct str
take_field(struct shown *s, const struct json *v, size_t max)
{
    char *p = s->text.p + s->text.len;

    if (v->type == JSON_NONE || s->bad)
        return STR("");
    if (v->type >= JSON_ARRAY || v->n > 6 * max) {
        s->bad = true;
        return STR("");
    }
    size_t n = json_text(v, p);
    s->text.len += n;
    s->bad = n > max;
    return (struct str){p, n};
}

void
auth_login(struct auth *a, struct conn *conn, uint32_t seq, const struct request *r)
{
    struct shown s = {.bad = r == NULL};

    buf_reserve(&s.text, 6 * (MAX_ID + MAX_PASSWORD + MAX_TOKEN)); /* views must not move */
    if (r != NULL) {
        s.user = take_field(&s, &r->f[F_USER_ID], MAX_ID);
        s.password = take_field(&s, &r->f[F_PASSWORD], MAX_PASSWORD);
        s.token = take_field(&s, &r->f[F_TOKEN], MAX_TOKEN);
    }
    s.bad = s.bad || (s.user.n > 0 && !id_ok(s.user));
    login_begin(a, conn, seq, &s);
}

static struct str
take_encoded(struct shown *s, struct str v, size_t max)
{
    char *p = s->text.p + s->text.len;
    uint32_t utf8 = 0;
    ptrdiff_t n = v.n > 3 * max ? -1 : url_decode(p, v, true);

    if (n < 0 || (size_t)n > max || !utf8_check(&utf8, p, (size_t)n) || utf8 != 0) {
        s->bad = true;
        return STR("");
    }
    s->text.len += (size_t)n;
    return (struct str){p, (size_t)n};
}

void
auth_login_query(struct auth *a, struct conn *conn, struct str user, struct str password,
                 struct str token)
{
    struct shown s = {.bad = false};

    buf_reserve(&s.text, 3 * (MAX_ID + MAX_PASSWORD + MAX_TOKEN));
    s.user = take_encoded(&s, user, MAX_ID);
    s.password = take_encoded(&s, password, MAX_PASSWORD);
    s.token = take_encoded(&s, token, MAX_TOKEN);
    s.bad = s.bad || (s.user.n > 0 && !id_ok(s.user));
    login_begin(a, conn, 0, &s);
}

/* --- start ------------------------------------------------------------------------------------ */

int
auth_check(const struct options *o, char *err, size_t errsize)
{
    struct hook_url url;
    const char *why;

    if (o->auth == AUTH_FILE && o->users_file[0] == '\0') {
        snprintf(err, errsize, "jim.auth=file needs jim.users.file");
        return -1;
    }
    if (o->auth == AUTH_TOKEN && strlen(o->token_secret) < MIN_SECRET) {
        snprintf(err, errsize, "jim.auth=token needs a jim.token.secret of at least %d bytes",
                 MIN_SECRET);
        return -1;
    }
    if (o->auth == AUTH_HOOK && (why = hook_url(o->login_hook, &url)) != NULL) {
        snprintf(err, errsize, "jim.auth=hook needs a jim.login.hook that works: %s", why);
        return -1;
    }
    if (o->auth == AUTH_HOOK && url.tls && tls_version() == NULL) {
        snprintf(err, errsize, "jim.login.hook: https:// is for a jim with TLS, which this one is "
                               "built without; `make TLS=1` builds it");
        return -1;
    }
    if (o->auth != AUTH_OPEN && !o->login_required) {
        snprintf(err, errsize, "jim.login.required=off makes nothing of jim.auth: anyone could "
                 "send without a login");
        return -1;
    }
    return 0;
}

static void
workers_ready(void *arg)
{
    loop_wake(((struct auth *)arg)->jim->loop);
}

/* All cores but the loop's. */
static size_t
threads_for(int64_t mode)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);

    if (mode == AUTH_HOOK || cores < 3)
        return 1;
    return cores - 1 < MAX_WORKERS ? (size_t)cores - 1 : MAX_WORKERS;
}

struct auth *
auth_new(struct jim *j)
{
    struct auth *a = xcalloc(1, sizeof *a);
    const struct options *o = &j->opt;
    char err[512];

    a->jim = j;
    random_bytes(a->key, sizeof a->key);
    if (o->auth == AUTH_FILE) {
        a->users = users_load(o->users_file, err, sizeof err);
        if (a->users == NULL) {
            log_write(&j->log, LOG_LEVEL_ERROR, "users file: %s", err);
            free(a);
            return NULL;
        }
        log_write(&j->log, LOG_LEVEL_INFO, "users file: %zu users", users_count(a->users));
    }
    if (o->auth == AUTH_FILE || o->auth == AUTH_HOOK) {
        a->workers = workers_new(threads_for(o->auth), MAX_TASKS, workers_ready, a);
        if (a->workers == NULL) {
            log_write(&j->log, LOG_LEVEL_ERROR, "cannot start a thread for logins");
            auth_free(a);
            return NULL;
        }
    }
    if (o->auth == AUTH_HOOK) {
        a->hook = hook_new(j->loop, o, &j->log, a->workers);
        if (a->hook == NULL) {
            auth_free(a);
            return NULL;
        }
    }
    return a;
}

void
auth_free(struct auth *a)
{
    if (a == NULL)
        return;
    a->closing = true;
    workers_free(a->workers); /* ends the logins it had */
    while (a->logins != NULL) {
        if (a->logins->call.hook != NULL)
            hook_cancel(&a->logins->call);
        buf_free(&a->logins->call.request);
        login_free(a->logins);
    }
    hook_free(a->hook);
    users_free(a->users);
    free(a);
}

void
auth_poll(struct auth *a)
{
    if (a->workers != NULL)
        workers_poll(a->workers);
}

static struct auth *
auth_of_reload(struct task *t)
{
    return container_of(t, struct auth, reload);
}

static void
reload_run(struct task *t)
{
    struct auth *a = auth_of_reload(t);

    a->fresh = users_load(a->jim->opt.users_file, a->reload_err, sizeof a->reload_err);
}

static void
reload_done(struct task *t)
{
    struct auth *a = auth_of_reload(t);
    struct log *log = &a->jim->log;

    a->reloading = false;
    if (a->fresh != NULL) {
        users_free(a->users);
        a->users = a->fresh;
        a->fresh = NULL;
        log_write(log, LOG_LEVEL_INFO, "users file: %zu users", users_count(a->users));
    } else if (t->ran) {
        log_write(log, LOG_LEVEL_ERROR, "users file not reloaded: %s", a->reload_err);
    }
    if (a->again && !a->closing)
        auth_reload(a);
}

void
auth_reload(struct auth *a)
{
    a->again = a->reloading;
    if (a->hook != NULL)
        hook_reload(a->hook);
    if (a->users == NULL || a->reloading)
        return;
    a->reload = (struct task){.run = reload_run, .done = reload_done};
    a->reloading = workers_add(a->workers, &a->reload, true);
}

void
auth_drain(struct auth *a)
{
    for (struct login *l = a->logins, *next; l != NULL; l = next) {
        next = l->next;
        if (l->held)
            login_answer(l, false);
    }
}
