/* SPDX-License-Identifier: MIT */
/*
 * client_link.c - one connection of a client: from a url to frames. Knows bytes and nothing of
 * chat; part of the client library (jim_client.h).
 *
 *   urls       taken apart
 *   names      to addresses; the only thing here that waits
 *   output     frames put together, WebSocket's masked; one write for many
 *   upgrade    a WebSocket's first request, and its answer (RFC 6455 section 4.1)
 *   input      frames taken apart where they were read; only an unfinished rest is copied
 *   life       connect, read, write, close
 */
#include "jim.h"
#include "client_int.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAX_ADDRS 16       /* addresses of a name that are tried */
#define MAX_READS 16       /* reads a step: 1 MiB */
#define KEEP_OUT 4096      /* bytes of output memory kept while the connection is busy */
#define MAX_PONGS 65536    /* bytes waiting above which a PING is not answered: he does not read */

static bool
fail(struct link *l, const char *why, const char *more)
{
    snprintf(l->why, sizeof l->why, "%s%s%s", why, more[0] == '\0' ? "" : ": ", more);
    return false;
}

/* --- urls ------------------------------------------------------------------------------------- */

struct scheme {
    const char *name;
    bool ws, tls;
};

/* host:port, [address]:port or host, up to the first '/'; the rest is the target. */
static int
take_authority(struct link *l, struct str s, bool ws)
{
    const char *slash = memchr(s.p, '/', s.n);
    struct str authority = {s.p, slash != NULL ? (size_t)(slash - s.p) : s.n};
    struct str host = authority, port = STR("8888");
    const char *end = NULL, *colon;

    if (authority.n > 0 && authority.p[0] == '[') {
        end = memchr(authority.p, ']', authority.n);
        if (end == NULL)
            return -1;
        host = (struct str){authority.p + 1, (size_t)(end - authority.p - 1)};
    }
    colon = end == NULL ? memchr(authority.p, ':', authority.n) : end + 1;
    if (colon != NULL && colon < authority.p + authority.n) {
        if (*colon != ':')
            return -1;
        port = (struct str){colon + 1, (size_t)(authority.p + authority.n - colon - 1)};
        if (end == NULL)
            host.n = (size_t)(colon - authority.p);
    }
    if (host.n == 0 || port.n == 0 || port.n > 5 || strspn(port.p, "0123456789") < port.n)
        return -1;
    if (slash != NULL && slash[1] != '\0' && !ws)
        return -1; /* TCP-IM has no paths */
    for (size_t i = 0; i < s.n; i++)
        if ((unsigned char)s.p[i] <= ' ' || s.p[i] == 0x7f || s.p[i] == '#')
            return -1; /* nothing that could break out of a line of the upgrade */
    l->host = xstrndup(host.p, host.n);
    l->port = xstrndup(port.p, port.n);
    l->authority = xstrndup(authority.p, authority.n);
    if (ws)
        l->target = slash != NULL ? xstrndup(slash, strlen(slash)) : xstrndup("/", 1);
    return 0;
}

int
link_init(struct link *l, const char *url, const char *ca, char *err, size_t errsize)
{
    static const struct scheme schemes[] = {
        {"tcp://", false, false}, {"ws://", true, false}, {"tcps://", false, true},
        {"wss://", true, true}, {"", false, false},
    };
    const struct scheme *s = schemes;

    *l = (struct link){.fd = -1};
    if (url == NULL || url[0] == '\0') {
        snprintf(err, errsize, "there is no url");
        return -1;
    }
    while (strncmp(url, s->name, strlen(s->name)) != 0)
        s++;
    if (s->name[0] == '\0' && strstr(url, "://") != NULL) {
        snprintf(err, errsize, "%.80s: a url begins with tcp://, ws://, tcps:// or wss://", url);
        return -1;
    }
    if (take_authority(l, str_of(url + strlen(s->name)), s->ws) < 0) {
        snprintf(err, errsize, "%.80s: not understood; like tcp://host:port or ws://host:port/path",
                 url);
        return -1;
    }
    if (s->tls && (l->trust = tls_client_new(ca != NULL ? ca : "", err, errsize)) == NULL)
        return -1;
    return link_resolve(l, err, errsize);
}

/* --- names ------------------------------------------------------------------------------------ */

int
link_resolve(struct link *l, char *err, size_t errsize)
{
    struct addrinfo hints = {.ai_flags = AI_NUMERICSERV, .ai_socktype = SOCK_STREAM}, *list = NULL;
    int e;

    hints.ai_flags |= AI_NUMERICHOST;
    e = getaddrinfo(l->host, l->port, &hints, &list);
    l->numeric = e == 0;
    if (e != 0) {
        hints.ai_flags = AI_NUMERICSERV;
        e = getaddrinfo(l->host, l->port, &hints, &list);
    }
    if (e != 0) {
        snprintf(err, errsize, "%.80s: %s", l->host, gai_strerror(e));
        return -1;
    }
    free(l->addr);
    l->addrs = l->at = 0;
    for (const struct addrinfo *a = list; a != NULL && l->addrs < MAX_ADDRS; a = a->ai_next)
        l->addrs++;
    l->addr = xcalloc(l->addrs, sizeof l->addr[0]);
    l->addrs = 0;
    for (const struct addrinfo *a = list; a != NULL && l->addrs < MAX_ADDRS; a = a->ai_next) {
        if (a->ai_addrlen > sizeof l->addr[0].sa)
            continue;
        memcpy(&l->addr[l->addrs].sa, a->ai_addr, a->ai_addrlen);
        l->addr[l->addrs++].len = a->ai_addrlen;
    }
    freeaddrinfo(list);
    return 0;
}

/* --- output ----------------------------------------------------------------------------------- */

static void
see(struct link *l, bool out, const void *bytes, size_t n, const char *json, size_t json_n)
{
    if (l->seen != NULL)
        l->seen(l->arg, out, bytes, n, json, json_n);
}

/* Four bytes nobody can foresee (RFC 6455 section 10.3). */
static void
next_mask(struct link *l, uint8_t mask[4])
{
    if (l->masks < 4) {
        random_bytes(l->mask, sizeof l->mask);
        l->masks = sizeof l->mask;
    }
    l->masks -= 4;
    memcpy(mask, l->mask + l->masks, 4);
}

/* XOR n bytes with the mask, eight at a time. */
static void
put_masked(char *dst, const char *p, size_t n, const uint8_t mask[4])
{
    uint8_t twice[8];
    uint64_t m, w;
    size_t i = 0;

    memcpy(twice, mask, 4);
    memcpy(twice + 4, mask, 4);
    memcpy(&m, twice, 8);
    for (; n - i >= 8; i += 8) {
        memcpy(&w, p + i, 8);
        w ^= m;
        memcpy(dst + i, &w, 8);
    }
    for (; i < n; i++)
        dst[i] = (char)((uint8_t)p[i] ^ mask[i & 3]);
}

/* A frame of two pieces: the JSON's head with its command in it, and the rest. */
static void
ws_put(struct link *l, enum ws_opcode opcode, const char *head, size_t head_n, const char *p,
       size_t n)
{
    uint8_t first[MAX_WS_HEAD], mask[4];
    size_t size = ws_head(first, opcode, head_n + n), from;
    struct buf *b = &l->out;

    if (l->seen != NULL) {
        struct buf whole = {0};
        buf_add(&whole, first, size);
        buf_add(&whole, head, head_n);
        buf_add(&whole, p, n);
        bool json = opcode == WS_TEXT;
        see(l, true, whole.p, whole.len, json ? whole.p + size : NULL, json ? head_n + n : 0);
        buf_free(&whole);
    }
    first[1] |= 0x80;
    next_mask(l, mask);
    buf_reserve(b, size + 4 + head_n + n);
    buf_add(b, first, size);
    buf_add(b, mask, 4);
    from = b->len;
    buf_add(b, head, head_n); /* short: its phase shifts the rest's */
    for (size_t i = 0; i < head_n; i++)
        b->p[from + i] = (char)((uint8_t)b->p[from + i] ^ mask[i & 3]);
    uint8_t turned[4];
    for (size_t i = 0; i < 4; i++)
        turned[i] = mask[(head_n + i) & 3];
    put_masked(b->p + b->len, p, n, turned);
    b->len += n;
}

void
link_put(struct link *l, int command, uint32_t seq, const char *json, size_t n)
{
    uint8_t head[MAX_PKT_HEAD];
    char text[24];

    if (l->target != NULL) {
        bool more = n > 2; /* members behind the command */
        int len = snprintf(text, sizeof text, "{\"cmd\":%d%s", command, more ? "," : "}");
        ws_put(l, WS_TEXT, text, (size_t)len, more ? json + 1 : "", more ? n - 1 : 0);
        return;
    }
    size_t size = pkt_head(head, (uint8_t)command, seq, (uint32_t)n);
    size_t at = l->out.len;
    buf_reserve(&l->out, size + n);
    buf_add(&l->out, head, size);
    buf_add(&l->out, json, n);
    see(l, true, l->out.p + at, size + n, n > 0 ? l->out.p + at + size : NULL, n);
}

void
link_bye(struct link *l, int code)
{
    char payload[2] = {(char)(code >> 8), (char)(code & 255)};

    if (l->target != NULL && l->state == LINK_OPEN)
        ws_put(l, WS_CLOSE, payload, code == WS_NO_STATUS ? 0 : 2, "", 0);
}

/* --- upgrade ---------------------------------------------------------------------------------- */

static void
ask_upgrade(struct link *l)
{
    uint8_t nonce[16];

    random_bytes(nonce, sizeof nonce);
    base64_encode(l->key, nonce, sizeof nonce);
    size_t at = l->out.len;
    buf_printf(&l->out,
               "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
               "Sec-WebSocket-Key: %.24s\r\nSec-WebSocket-Version: 13\r\n\r\n",
               l->target, l->authority, l->key);
    see(l, true, l->out.p + at, l->out.len - at, NULL, 0);
}

/* Where the head ends, with its empty line; 0: not yet. */
static size_t
head_end(struct link *l, const char *p, size_t n)
{
    size_t i = l->scan > 3 ? l->scan - 3 : 0;

    for (; i + 4 <= n; i++)
        if (memcmp(p + i, "\r\n\r\n", 4) == 0)
            return i + 4;
    l->scan = n;
    return 0;
}

/* Is it what RFC 6455 section 4.1 asks for, point by point? */
static bool
upgraded(struct link *l, struct str head)
{
    struct str line, name, want = {NULL, 28};
    bool upgrade = false, connection = false, accepted = false;
    char accept[28];
    int accepts = 0;

    str_split(&head, '\n', &line);
    line = str_trim(line);
    if (line.n < 12 || memcmp(line.p, "HTTP/1.1 ", 9) != 0)
        return fail(l, "the server does not speak WebSocket", "its answer is not HTTP/1.1");
    if (memcmp(line.p + 9, "101", 3) != 0) {
        char status[64];
        snprintf(status, sizeof status, "HTTP %.*s", line.n > 60 ? 51 : (int)line.n - 9,
                 line.p + 9);
        return fail(l, "the server does not upgrade to WebSocket", status);
    }
    ws_accept((struct str){l->key, 24}, accept);
    want.p = accept;
    while (str_split(&head, '\n', &line)) {
        struct str value = line;
        if (!str_split(&value, ':', &name) || value.p == NULL)
            continue;
        value = str_trim(value);
        if (str_ieq(name, STR("upgrade")))
            upgrade |= str_ieq(value, STR("websocket"));
        else if (str_ieq(name, STR("connection")))
            connection |= http_list_has(value, "upgrade");
        else if (str_ieq(name, STR("sec-websocket-accept")))
            accepted = accepts++ == 0 && str_eq(value, want);
        else if (str_ieq(name, STR("sec-websocket-extensions")) && value.n > 0)
            return fail(l, "the server does not speak WebSocket", "an extension nobody asked for");
        else if (str_ieq(name, STR("sec-websocket-protocol")))
            return fail(l, "the server does not speak WebSocket", "a protocol nobody asked for");
    }
    if (!upgrade || !connection || !accepted)
        return fail(l, "the server does not speak WebSocket",
                    accepted ? "no Upgrade in its answer" : "Sec-WebSocket-Accept is wrong");
    return true;
}

/* --- input ------------------------------------------------------------------------------------ */

static bool
ws_control(struct link *l, const struct ws_frame *f)
{
    char text[160];

    if (f->opcode == WS_PING && link_waiting(l) < MAX_PONGS)
        ws_put(l, WS_PONG, f->payload.p, f->payload.n, "", 0);
    if (f->opcode != WS_CLOSE)
        return true;
    link_bye(l, f->code);
    link_write(l);
    snprintf(text, sizeof text, "%u%s%.*s", f->code, f->payload.n > 0 ? " " : "",
             (int)f->payload.n, f->payload.n > 0 ? f->payload.p : "");
    return fail(l, "the server closed the connection", text);
}

static bool
ws_heard(struct link *l, const struct ws_frame *f)
{
    struct str m = f->payload;

    if (f->opcode >= WS_CLOSE)
        return ws_control(l, f);
    if (!f->whole) {
        buf_str(&l->message, m);
        if (!f->fin)
            return true;
        m = (struct str){l->message.p, l->message.len};
    }
    bool go = l->heard(l->arg, -1, 0, m.p, m.n);
    buf_free(&l->message);
    return go;
}

/* One frame of p[0, n). Bytes taken, 0: more are needed, -1: why; -2: closed meanwhile. */
static ptrdiff_t
take_ws(struct link *l, char *p, size_t n)
{
    struct ws_frame f;
    ptrdiff_t took = ws_decode(&l->ws, p, n, l->frame_max, &f);
    char code[32];

    if (took < 0) {
        link_bye(l, (int)-took);
        link_write(l);
        snprintf(code, sizeof code, "close code %d", (int)-took);
        fail(l, "the server broke the rules of WebSocket", code);
        return -1;
    }
    if (took == 0)
        return 0;
    bool json = f.opcode < WS_CLOSE && f.whole;
    see(l, false, p, (size_t)took, json ? f.payload.p : NULL, json ? f.payload.n : 0);
    if (!ws_heard(l, &f))
        return -1;
    return took;
}

static ptrdiff_t
take_pkt(struct link *l, const char *p, size_t n)
{
    struct pkt k;
    ptrdiff_t took = pkt_decode(p, n, l->frame_max, &k);

    if (took < 0) {
        fail(l, "the server does not speak TCP-IM",
             took == PKT_BAD_VERSION ? "another version" : "a frame's length is wrong");
        return -1;
    }
    if (took == 0)
        return 0;
    see(l, false, p, (size_t)took, k.body.n > 0 ? k.body.p : NULL, k.body.n);
    if (!l->heard(l->arg, k.cmd, k.seq, k.body.p, k.body.n))
        return -1;
    return took;
}

static ptrdiff_t
take_upgrade(struct link *l, const char *p, size_t n)
{
    size_t end = head_end(l, p, n);

    if (end == 0 && n > MAX_HEAD) {
        fail(l, "the server does not speak WebSocket", "its answer has no end");
        return -1;
    }
    if (end == 0)
        return 0;
    see(l, false, p, end, NULL, 0);
    if (!upgraded(l, (struct str){p, end - 2}))
        return -1;
    l->state = LINK_OPEN;
    l->heard(l->arg, -1, 0, NULL, 0); /* open */
    return (ptrdiff_t)end;
}

/* Hand out the whole frames of p[0, n). Returns the bytes they take, -1: why. */
static ptrdiff_t
take(struct link *l, char *p, size_t n)
{
    size_t at = 0;

    while (at < n) {
        ptrdiff_t took = l->state == LINK_UPGRADE ? take_upgrade(l, p + at, n - at)
                         : l->target != NULL      ? take_ws(l, p + at, n - at)
                                                  : take_pkt(l, p + at, n - at);
        if (took < 0)
            return -1;
        if (took == 0)
            break;
        at += (size_t)took;
    }
    return (ptrdiff_t)at;
}

static bool
take_more(struct link *l, char *p, size_t n)
{
    ptrdiff_t took;

    if (l->in.len > 0) {
        buf_add(&l->in, p, n);
        took = take(l, l->in.p, l->in.len);
        if (took < 0)
            return false;
        buf_drop(&l->in, (size_t)took);
        if (l->in.len == 0)
            buf_free(&l->in);
        return true;
    }
    took = take(l, p, n);
    if (took < 0)
        return false;
    buf_add(&l->in, p + took, n - (size_t)took);
    return true;
}

/* --- life ------------------------------------------------------------------------------------- */

void
link_close(struct link *l)
{
    if (l->tls != NULL)
        tls_close(l->tls); /* a goodbye, if there is room for it */
    tls_free(l->tls);
    l->tls = NULL;
    if (l->fd >= 0)
        close(l->fd);
    l->fd = -1;
    l->state = LINK_NONE;
    buf_free(&l->in);
    buf_free(&l->out);
    buf_free(&l->message);
    l->sent = l->scan = 0;
    l->ws = (struct ws){.server = true};
    l->over = false;
}

void
link_free(struct link *l)
{
    link_close(l);
    free(l->host);
    free(l->port);
    free(l->target);
    free(l->authority);
    free(l->addr);
    tls_client_free(l->trust);
}

bool
link_connect(struct link *l)
{
    const struct link_addr *a = &l->addr[l->at];
    int on = 1;

    link_close(l);
    l->fd = socket(a->sa.ss_family, SOCK_STREAM, 0);
    if (l->fd < 0)
        return fail(l, "cannot make a socket", strerror(errno));
    fcntl(l->fd, F_SETFD, FD_CLOEXEC);
    fcntl(l->fd, F_SETFL, O_NONBLOCK);
    setsockopt(l->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
#ifdef SO_NOSIGPIPE
    setsockopt(l->fd, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#endif
    l->state = LINK_CONNECT;
    if (connect(l->fd, (const struct sockaddr *)&a->sa, a->len) < 0 && errno != EINPROGRESS
        && errno != EINTR)
        return fail(l, "cannot connect", strerror(errno));
    return true;
}

/* The socket is connected, and TLS is ready where it has to be. */
static void
link_begin(struct link *l)
{
    l->state = l->target != NULL ? LINK_UPGRADE : LINK_OPEN;
    if (l->target != NULL)
        ask_upgrade(l);
    else
        l->heard(l->arg, -1, 0, NULL, 0);
}

/* 1: connected, 0: not yet, -1: why. */
static int
link_connected(struct link *l)
{
    struct pollfd p = {.fd = l->fd, .events = POLLOUT};
    int e = 0;
    socklen_t n = sizeof e;

    if (poll(&p, 1, 0) <= 0)
        return 0;
    if (getsockopt(l->fd, SOL_SOCKET, SO_ERROR, &e, &n) < 0)
        e = errno;
    if (e != 0) {
        fail(l, "cannot connect", strerror(e));
        return -1;
    }
    if (l->trust == NULL) {
        link_begin(l);
        return 1;
    }
    l->state = LINK_TLS;
    l->tls = tls_connect(l->trust, l->fd, l->host);
    if (l->tls == NULL) {
        fail(l, "TLS", "out of memory");
        return -1;
    }
    return 1;
}

static ssize_t
read_some(struct link *l, char *p)
{
    ssize_t n;

    if (l->tls != NULL)
        return tls_read(l->tls, p, LINK_READ);
    do
        n = recv(l->fd, p, LINK_READ, 0);
    while (n < 0 && errno == EINTR);
    return n;
}

/* Why a read or write has failed. */
static bool
broken(struct link *l)
{
    if (errno == EPROTO && l->tls != NULL)
        return fail(l, "TLS", tls_why(l->tls));
    return fail(l, "the connection broke", strerror(errno));
}

bool
link_read(struct link *l)
{
    char p[LINK_READ];

    if (l->state == LINK_CONNECT) {
        int r = link_connected(l);
        if (r <= 0)
            return r == 0;
    }
    for (int i = 0; i < MAX_READS; i++) {
        ssize_t n = read_some(l, p);
        int e = errno;
        if (l->state == LINK_TLS && tls_state(l->tls) & TLS_READY)
            link_begin(l);
        errno = e;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return true;
        if (n < 0)
            return broken(l);
        if (n == 0)
            return fail(l, "the server closed the connection", "");
        l->alive = true;
        if (!take_more(l, p, (size_t)n))
            return false;
        if (n < LINK_READ && l->tls == NULL)
            return true; /* that was all: no need to ask once more */
    }
    return true;
}

static ssize_t
write_some(struct link *l)
{
    const char *p = l->out.p + l->sent;
    size_t n = link_waiting(l);
    ssize_t w;

    if (l->tls != NULL)
        return tls_write(l->tls, &(struct iovec){l->out.p + l->sent, n}, 1);
    do
#ifdef MSG_NOSIGNAL
        w = send(l->fd, p, n, MSG_NOSIGNAL);
#else
        w = send(l->fd, p, n, 0);
#endif
    while (w < 0 && errno == EINTR);
    return w;
}

bool
link_write(struct link *l)
{
    if (l->tls != NULL && tls_state(l->tls) & TLS_PENDING && tls_flush(l->tls) < 0)
        return fail(l, "TLS", tls_why(l->tls));
    while (l->state >= LINK_UPGRADE && link_waiting(l) > 0) {
        ssize_t n = write_some(l);
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            break;
        if (n < 0)
            return broken(l);
        l->sent += (size_t)n;
    }
    if (link_waiting(l) > 0) {
        if (l->sent > l->out.len / 2) { /* a slow socket, and ever more behind it */
            buf_drop(&l->out, l->sent);
            l->sent = 0;
        }
        return true;
    }
    l->out.len = l->sent = 0;
    if (l->out.cap > KEEP_OUT)
        buf_free(&l->out);
    return true;
}

short
link_events(const struct link *l)
{
    short events = POLLIN;

    if (l->state == LINK_NONE)
        return 0;
    if (l->state == LINK_CONNECT)
        return POLLOUT;
    if ((l->state >= LINK_UPGRADE && link_waiting(l) > 0)
        || (l->tls != NULL && tls_state(l->tls) & TLS_PENDING))
        events |= POLLOUT;
    return events;
}
