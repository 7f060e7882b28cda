/* SPDX-License-Identifier: MIT */
/*
 * hook.c - an HTTP/1.1 client on the server's loop, for one purpose: to POST a login to the web
 * service that knows the users (jim.login.hook) and take its answer. Knows nothing of logins: JSON
 * goes out, a status and a body come back.
 *
 * A call waits for a connection, of which there are few; it has one to itself until its response is
 * whole; then the connection stays open for the next. Every call ends in time, whatever the service
 * does: its timer counts from the moment it was handed over.
 *
 *   addresses    the URL, and its name resolved: at the start, and again in a thread
 *   responses    head and body, within limits
 *   trust        over https: who vouches for the service, read again on SIGHUP
 *   links        the connections, plain or TLS
 *   calls        waiting, answered, given up
 */
#include "jim.h"

#include <errno.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define HOOK_LINKS 16         /* calls in flight: more would only queue up in the service */
#define HOOK_WAITING 1024     /* calls that wait for one of them */
#define HOOK_BODY (512u << 10) /* bytes of a response's body: a User with all his friends */
#define HOOK_READ TLS_MIN_READ /* bytes of one read */
#define WHY_ROOM 160          /* bytes of a reason, for the log */

/* One connection to the service. */
struct hook_link {
    struct hook *hook;
    int fd;                 /* -1: closed */
    struct tls *tls;        /* owned; NULL: plain, or not connected yet */
    unsigned trust;         /* the hook's when it was connected */
    bool connected;         /* the request may go; over TLS the service has proved who it is */
    bool reused;            /* has answered before: may be closed by the time we write */
    struct hook_call *call; /* borrowed; NULL: idle */
    size_t sent;            /* bytes of its request */
    struct buf in;          /* the response so far; owned */
    struct http_reply head; /* of it, when head_len > 0 */
    size_t head_len;
    struct http_chunked chunked;
};

struct resolve { /* a look-up in a thread; belongs to it meanwhile */
    struct task job;
    struct hook *hook;
    struct hook_url url;
    struct dial_addrs found;
    int error;         /* of getaddrinfo() */
    const char *ca;    /* authorities to read on the way; NULL: none */
    struct tls_client *fresh; /* what came of it; owned; NULL: ca_why */
    char ca_why[512];
};

struct hook {
    struct loop *loop;        /* borrowed, as are the next three */
    const struct options *opt;
    const struct log *log;
    struct workers *workers;
    struct hook_url url;
    char host[NI_MAXHOST];    /* of it, as a certificate names it */
    struct tls_client *tls;   /* owned; NULL: plain */
    unsigned trust;           /* how often the authorities have been read again */
    bool trust_due;           /* they are to be */
    struct dial_addrs addrs;
    size_t at;                /* the address that is used now */
    struct resolve resolve;
    bool resolving;
    bool in_clear;            /* that passwords can be read on their way was logged */
    char why[WHY_ROOM];       /* the last call failed, and that was logged; empty: it did not */
    struct hook_call *first, **end; /* waiting; borrowed */
    size_t waiting;
    struct hook_link link[HOOK_LINKS];
};

/* --- addresses -------------------------------------------------------------------------------- */

const char *
hook_url(const char *text, struct hook_url *u)
{
    static const char shape[] = "it has to be http://HOST[:PORT]/PATH, or https://";
    size_t n = strlen(text), scheme, at;

    *u = (struct hook_url){.tls = n > 8 && str_ieq((struct str){text, 8}, STR("https://"))};
    scheme = at = u->tls ? 8 : 7;
    if (n < 8 || n > 2000 || (!u->tls && !str_ieq((struct str){text, 7}, STR("http://"))))
        return shape;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)text[i] <= ' ' || (unsigned char)text[i] >= 0x7f || text[i] == '#' ||
            text[i] == '@')
            return "blanks, '#', '@' and characters beyond ASCII cannot be in it";
    while (at < n && text[at] != '/' && text[at] != '?')
        at++;
    u->authority = (struct str){text + scheme, at - scheme};
    if (!dial_split(u->authority, str_of(u->tls ? "443" : "80"), &u->host, &u->port) ||
        (at < n && text[at] == '?'))
        return shape;
    u->path = at < n ? (struct str){text + at, n - at} : STR("/");
    return NULL;
}

static void
resolve_run(struct task *t)
{
    struct resolve *r = container_of(t, struct resolve, job);

    r->error = dial_look_up(r->url.host, r->url.port, false, &r->found);
    if (r->ca != NULL)
        r->fresh = tls_client_new(r->ca, r->ca_why, sizeof r->ca_why);
}

static void
take_addresses(struct hook *h, int error, const struct dial_addrs *found)
{
    if (error != 0) { /* the old ones may still be right */
        log_write(h->log, LOG_LEVEL_WARN, "login hook: %s: %s", h->host, gai_strerror(error));
        return;
    }
    h->addrs = *found;
    h->at = 0;
    for (size_t i = 0; i < found->n && h->tls == NULL && !h->in_clear; i++)
        if (!address_is_loopback(&found->a[i].sa)) {
            log_write(h->log, LOG_LEVEL_WARN, "login hook: passwords go to %s in clear: https:// "
                      "would hide them", h->host);
            h->in_clear = true;
        }
}

static void take_trust(struct hook *h, struct tls_client *fresh, const char *why);

static void
resolve_done(struct task *t)
{
    struct resolve *r = container_of(t, struct resolve, job);
    struct hook *h = r->hook;

    h->resolving = false;
    if (!t->ran)
        return;
    take_addresses(h, r->error, &r->found);
    if (r->ca != NULL)
        take_trust(h, r->fresh, r->ca_why);
    if (h->trust_due) /* since then */
        hook_resolve(h);
}

void
hook_resolve(struct hook *h)
{
    if (h->resolving || h->workers == NULL)
        return;
    h->resolve = (struct resolve){.job = {.run = resolve_run, .done = resolve_done}, .hook = h,
                                  .url = h->url, .ca = h->trust_due ? h->opt->ca : NULL};
    h->trust_due = false;
    h->resolving = workers_add(h->workers, &h->resolve.job, true); /* as the first: never refused */
}

void
hook_reload(struct hook *h)
{
    h->trust_due = h->tls != NULL;
    hook_resolve(h);
}

/* --- responses -------------------------------------------------------------------------------- */

/* "HTTP/1.1 200 OK": the status, 0 when it is no status line. */
static int
status_line(struct str line, bool *http11)
{
    if (line.n < 12 || memcmp(line.p, "HTTP/1.", 7) != 0 || line.p[8] != ' ' ||
        (line.n > 12 && line.p[12] != ' ') || (line.p[7] != '0' && line.p[7] != '1'))
        return 0;
    *http11 = line.p[7] == '1';
    int status = 0;
    for (int i = 9; i < 12; i++) {
        if (line.p[i] < '0' || line.p[i] > '9')
            return 0;
        status = 10 * status + (line.p[i] - '0');
    }
    return status >= 100 ? status : 0;
}

static bool
take_length(struct str text, struct http_reply *r)
{
    uint64_t n = 0;

    if (text.n == 0 || text.n > 18)
        return false;
    for (size_t i = 0; i < text.n; i++) {
        if (text.p[i] < '0' || text.p[i] > '9')
            return false;
        n = 10 * n + (uint64_t)(text.p[i] - '0');
    }
    if (r->sized && r->length != n)
        return false;
    r->sized = true;
    r->length = n;
    return true;
}

static bool
field_line(struct str line, struct http_reply *r)
{
    struct str name;

    if (!str_split(&line, ':', &name) || line.p == NULL || name.n == 0)
        return false;
    for (size_t i = 0; i < name.n; i++) /* a blank here is a folded line, or smuggling */
        if ((unsigned char)name.p[i] <= ' ' || (unsigned char)name.p[i] >= 0x7f)
            return false;
    line = str_trim(line);
    if (str_ieq(name, STR("content-length")))
        return take_length(line, r);
    if (str_ieq(name, STR("transfer-encoding"))) {
        if (r->chunked || !str_ieq(line, STR("chunked")))
            return false;
        r->chunked = true;
    }
    if (str_ieq(name, STR("connection")) && http_list_has(line, "close"))
        r->keep_alive = false;
    return true;
}

ptrdiff_t
hook_head(const char *p, size_t n, struct http_reply *r)
{
    struct str rest = {p, n < MAX_HEAD ? n : MAX_HEAD}, line;
    bool http11 = false;

    *r = (struct http_reply){.keep_alive = true};
    while (rest.n > 0 && memchr(rest.p, '\n', rest.n) != NULL) {
        str_split(&rest, '\n', &line);
        if (line.n > 0 && line.p[line.n - 1] == '\r')
            line.n--;
        if (r->status == 0) {
            if ((r->status = status_line(line, &http11)) == 0)
                return -1;
            r->keep_alive = http11;
        } else if (line.n == 0) {
            if (r->chunked && r->sized)
                return -1;
            if (r->status < 200 || r->status == 204 || r->status == 304) {
                r->sized = true;
                r->length = 0;
            }
            r->keep_alive = r->keep_alive && (r->sized || r->chunked);
            return rest.p - p;
        } else if (!field_line(line, r)) {
            return -1;
        }
    }
    return n >= MAX_HEAD ? -1 : 0;
}

/* --- trust ------------------------------------------------------------------------------------ */

static void link_drop(struct hook_link *k);

/* Connections that were made under the old authorities end: now, or after their answer. */
static void
take_trust(struct hook *h, struct tls_client *fresh, const char *why)
{
    if (fresh == NULL) {
        log_write(h->log, LOG_LEVEL_ERROR, "login hook: authorities not reloaded: %s", why);
        return;
    }
    tls_client_renew(h->tls, fresh);
    log_write(h->log, LOG_LEVEL_INFO, "login hook: authorities reloaded");
    h->trust++;
    for (int i = 0; i < HOOK_LINKS; i++)
        if (h->link[i].call == NULL)
            link_drop(&h->link[i]);
}

/* --- links ------------------------------------------------------------------------------------ */

/* As read() and write(); link_why() knows what failed. n is HOOK_READ. */
static ssize_t
hook_read(struct hook_link *k, char *p, size_t n)
{
    ssize_t got;

    if (k->tls != NULL)
        return tls_read(k->tls, p, n);
    do
        got = read(k->fd, p, n);
    while (got < 0 && errno == EINTR);
    return got;
}

static ssize_t
hook_write(struct hook_link *k, char *p, size_t n)
{
    ssize_t put;

    if (k->tls != NULL)
        return tls_write(k->tls, &(struct iovec){p, n}, 1);
    do
        put = write(k->fd, p, n);
    while (put < 0 && errno == EINTR);
    return put;
}

/* What errno stands for; text is room for it. */
static const char *
link_why(const struct hook_link *k, char text[WHY_ROOM])
{
    if (k->tls == NULL || errno != EPROTO)
        return strerror(errno);
    snprintf(text, WHY_ROOM, "TLS: %s", tls_why(k->tls));
    return text;
}

static void
link_drop(struct hook_link *k)
{
    if (k->tls != NULL)
        tls_close(k->tls); /* a goodbye, if there is room for it */
    tls_free(k->tls);
    k->tls = NULL;
    if (k->fd >= 0) {
        loop_del(k->hook->loop, k->fd);
        close(k->fd);
    }
    k->fd = -1;
    k->connected = k->reused = false;
    if (k->call != NULL)
        k->call->link = NULL;
    k->call = NULL;
    buf_free(&k->in);
    k->head_len = 0;
}

/* Hear what can be done next. */
static void
link_watch(struct hook_link *k)
{
    bool connecting = !k->connected && k->tls == NULL;
    bool asking = k->connected && k->call != NULL && k->sent < k->call->request.len;
    bool pending = k->tls != NULL && tls_state(k->tls) & TLS_PENDING;

    /* Read all the while: a service may refuse before it has read everything, and end when idle. */
    loop_set(k->hook->loop, k->fd,
             LOOP_READ | (connecting || asking || pending ? LOOP_WRITE : 0));
}

/* The end of a call: whoever asked may ask again from here. */
static void
call_end(struct hook_call *call, int status, struct str body)
{
    loop_timer_clear(call->hook->loop, &call->timer);
    wipe(call->request.p, call->request.len);
    buf_free(&call->request);
    call->done(call, status, body);
}

static void
call_failed(struct hook_call *call, const char *why)
{
    struct hook *h = call->hook;

    if (strcmp(h->why, why) != 0)
        log_write(h->log, LOG_LEVEL_WARN, "login hook %.*s: %s", (int)h->url.authority.n,
                  h->url.authority.p, why);
    snprintf(h->why, sizeof h->why, "%s", why);
    call_end(call, 0, STR(""));
}

/* The connection is lost with its call, which may get another one. */
static void
link_failed(struct hook_link *k, const char *why)
{
    struct hook *h = k->hook;
    struct hook_call *call = k->call;
    /* Nothing was answered: a kept connection may just have been closed by the service, and of
     * several addresses another may be the right one. */
    bool again = call != NULL && k->in.len == 0 && k->head_len == 0 &&
                 (k->reused ||
                  (!k->connected && k->tls == NULL && call->tries + 1 < h->addrs.n));

    if (call != NULL && !k->connected && h->addrs.n > 0)
        h->at = (h->at + 1) % h->addrs.n;
    if (call != NULL && !k->connected && !again)
        hook_resolve(h); /* it may have moved */
    if (call != NULL && !k->reused)
        call->tries++;
    link_drop(k);
    if (again) {
        call->next = h->first;
        if (h->first == NULL)
            h->end = &call->next;
        h->first = call;
        h->waiting++;
    } else if (call != NULL) {
        call_failed(call, why);
    }
}

/* The response is whole. */
static void
link_answered(struct hook_link *k, size_t used, struct str body)
{
    struct hook_call *call = k->call;
    struct buf in = k->in;
    int status = k->head.status;
    bool keep = k->head.keep_alive && used == in.len && k->sent == call->request.len &&
                k->trust == k->hook->trust &&
                !(k->tls != NULL && tls_state(k->tls) & TLS_OVER);

    k->in = (struct buf){0}; /* the body points into it until the call is done */
    k->call = NULL;
    call->link = NULL;
    k->hook->why[0] = '\0';
    if (keep) {
        k->head_len = 0;
        k->reused = true;
        link_watch(k);
    } else {
        link_drop(k);
    }
    call_end(call, status, body);
    buf_free(&in);
}

/* Is what has come so far a response? NULL when it may become one, or is and has been handled;
 * ended: nothing more will come. */
static const char *
link_parse(struct hook_link *k, bool ended)
{
    while (k->head_len == 0) {
        ptrdiff_t head = hook_head(k->in.p, k->in.len, &k->head);
        if (head < 0)
            return "no HTTP response";
        if (head == 0)
            return ended ? "closed without an answer" : NULL;
        if (k->head.status >= 200) {
            k->head_len = (size_t)head;
            k->chunked = (struct http_chunked){0};
        } else if (k->head.status == 101) {
            return "no HTTP response";
        } else {
            buf_drop(&k->in, (size_t)head); /* 100 and its kind: the real one follows */
        }
    }
    char *body = k->in.p + k->head_len;
    size_t have = k->in.len - k->head_len;
    if (k->head.chunked) {
        int done = http_unchunk(&k->chunked, body, &have, HOOK_BODY);
        k->in.len = k->head_len + have;
        if (done < 0)
            return "bad chunks, or too many";
        if (done > 0)
            link_answered(k, k->head_len + k->chunked.raw,
                               (struct str){body, k->chunked.body});
        return done == 0 && ended ? "closed within its answer" : NULL;
    }
    if (have > HOOK_BODY || (k->head.sized && k->head.length > HOOK_BODY))
        return "the answer is too long";
    if (k->head.sized && have >= k->head.length)
        link_answered(k, k->head_len + (size_t)k->head.length,
                           (struct str){body, (size_t)k->head.length});
    else if (ended && (k->head.sized ||
                       (k->tls != NULL && tls_state(k->tls) & TLS_TRUNCATED)))
        return "closed within its answer"; /* RFC 9112 section 9.8: for all we know */
    else if (ended)
        link_answered(k, k->in.len, (struct str){body, have});
    return NULL;
}

static void
link_readable(struct hook_link *k)
{
    const char *why;
    char text[WHY_ROOM];

    do {
        buf_reserve(&k->in, HOOK_READ);
        ssize_t n = hook_read(k, k->in.p + k->in.len, HOOK_READ);
        if (k->tls != NULL && tls_state(k->tls) & TLS_READY)
            k->connected = true;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return;
        if (k->call == NULL) { /* closed while idle, or talking out of turn */
            link_drop(k);
            return;
        }
        if (n < 0) {
            link_failed(k, link_why(k, text));
            return;
        }
        k->in.len += (size_t)n;
        if ((why = link_parse(k, n == 0)) != NULL) {
            link_failed(k, why);
            return;
        }
    } while (k->tls != NULL && k->call != NULL && tls_state(k->tls) & TLS_OVER);
}

/* connect() has come to an end: TLS begins, or the request may go. False: the link is lost. */
static bool
link_begin(struct hook_link *k)
{
    struct hook *h = k->hook;
    int error = dial_error(k->fd);

    if (error != 0) {
        link_failed(k, strerror(error));
        return false;
    }
    k->trust = h->trust;
    k->connected = h->tls == NULL;
    if (h->tls != NULL && (k->tls = tls_connect(h->tls, k->fd, h->host)) == NULL) {
        link_failed(k, "out of memory");
        return false;
    }
    return true;
}

static void
link_writable(struct hook_link *k)
{
    char text[WHY_ROOM];
    ssize_t n = 0;

    if (!k->connected && k->tls == NULL && !link_begin(k))
        return;
    if (k->tls != NULL && tls_flush(k->tls) < 0)
        n = -1;
    else if (k->connected && k->call != NULL && k->sent < k->call->request.len)
        n = hook_write(k, k->call->request.p + k->sent, k->call->request.len - k->sent);
    if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK)
        link_failed(k, link_why(k, text));
    else
        k->sent += n > 0 ? (size_t)n : 0;
}

static void hook_event(void *arg, unsigned events);

/* A new connection; -1 when the system has none. */
static int
hook_connect(struct hook_link *k)
{
    const struct hook *h = k->hook;
    int fd = dial(&h->addrs.a[h->at]);

    if (fd < 0)
        return -1;
    if (loop_add(h->loop, fd, LOOP_WRITE, hook_event, k) != 0) {
        int e = errno;
        close(fd);
        errno = e;
        return -1;
    }
    k->fd = fd;
    return 0;
}

/* --- calls ------------------------------------------------------------------------------------ */

/* An idle connection, else a free place for a new one, else NULL. */
static struct hook_link *
link_free(struct hook *h)
{
    struct hook_link *closed = NULL;

    for (int i = 0; i < HOOK_LINKS; i++) {
        struct hook_link *k = &h->link[i];
        if (k->call == NULL && k->fd >= 0)
            return k;
        if (k->fd < 0 && closed == NULL)
            closed = k;
    }
    return closed;
}

static struct hook_call *
call_pop(struct hook *h)
{
    struct hook_call *call = h->first;

    h->first = call->next;
    if (h->first == NULL)
        h->end = &h->first;
    h->waiting--;
    return call;
}

/* Give waiting calls the connections that are free. */
static void
hook_next(struct hook *h)
{
    struct hook_link *k;

    while (h->first != NULL && (k = link_free(h)) != NULL) {
        struct hook_call *call = call_pop(h);
        k->call = call;
        k->sent = 0;
        call->link = k;
        if (k->fd >= 0) {
            link_watch(k);
        } else if (hook_connect(k) != 0) {
            link_failed(k, strerror(errno));
        }
    }
}

static void
hook_event(void *arg, unsigned events)
{
    struct hook_link *k = arg;
    struct hook *h = k->hook;
    int fd = k->fd;

    if (events & LOOP_WRITE)
        link_writable(k);
    if (events & LOOP_READ && k->fd == fd && (k->connected || k->tls != NULL))
        link_readable(k);
    if (k->fd >= 0)
        link_watch(k);
    hook_next(h);
}

static void
call_timer_fired(struct timer *t)
{
    struct hook_call *call = container_of(t, struct hook_call, timer);
    struct hook *h = call->hook;
    bool shaking = call->link != NULL && call->link->tls != NULL && !call->link->connected;

    hook_cancel(call);
    call_failed(call, shaking ? "TLS: no handshake in time" : "no answer in time");
    hook_next(h);
}

bool
hook_post(struct hook *h, struct hook_call *call, struct str json)
{
    struct buf *b = &call->request;

    if (h->addrs.n == 0)
        hook_resolve(h);
    if (h->addrs.n == 0 || h->waiting >= HOOK_WAITING)
        return false;
    call->hook = h;
    call->next = NULL;
    call->tries = 0;
    buf_printf(b,
               "POST %.*s HTTP/1.1\r\nhost: %.*s\r\nuser-agent: jim/" JIM_VERSION "\r\n"
               "accept: application/json\r\ncontent-type: application/json\r\n"
               "content-length: %zu\r\n\r\n", (int)h->url.path.n, h->url.path.p,
               (int)h->url.authority.n, h->url.authority.p, json.n);
    buf_str(b, json);
    *h->end = call;
    h->end = &call->next;
    h->waiting++;
    loop_timer(h->loop, &call->timer, loop_now(h->loop) + h->opt->hook_ms, call_timer_fired);
    hook_next(h);
    return true;
}

void
hook_cancel(struct hook_call *call)
{
    struct hook *h = call->hook;

    loop_timer_clear(h->loop, &call->timer);
    if (call->link != NULL) { /* its answer may still come: nobody else must get it */
        link_drop(call->link);
        return;
    }
    for (struct hook_call **at = &h->first; *at != NULL; at = &(*at)->next)
        if (*at == call) {
            *at = call->next;
            if (call->next == NULL)
                h->end = at;
            h->waiting--;
            return;
        }
}

struct hook *
hook_new(struct loop *l, const struct options *o, const struct log *log, struct workers *w)
{
    struct hook *h = xcalloc(1, sizeof *h);
    struct dial_addrs found;
    char err[512];

    h->loop = l;
    h->opt = o;
    h->log = log;
    h->workers = w;
    h->end = &h->first;
    for (int i = 0; i < HOOK_LINKS; i++)
        h->link[i] = (struct hook_link){.hook = h, .fd = -1};
    hook_url(o->login_hook, &h->url); /* auth_check() has seen that it is one */
    size_t n = h->url.host.n; /* no certificate has the dot that may end it (RFC 6066 section 3) */
    n -= n > 1 && h->url.host.p[n - 1] == '.';
    snprintf(h->host, sizeof h->host, "%.*s", (int)n, h->url.host.p);
    if (h->url.tls && (h->tls = tls_client_new(o->ca, err, sizeof err)) == NULL) {
        log_write(log, LOG_LEVEL_ERROR, "login hook: %s", err);
        free(h);
        return NULL;
    }
    take_addresses(h, dial_look_up(h->url.host, h->url.port, false, &found), &found);
    return h;
}

void
hook_free(struct hook *h)
{
    if (h == NULL)
        return;
    for (int i = 0; i < HOOK_LINKS; i++)
        link_drop(&h->link[i]);
    tls_client_free(h->tls);
    free(h);
}
