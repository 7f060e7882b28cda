/* SPDX-License-Identifier: MIT */
/*
 * input.c - from bytes to commands and requests: what a connection has received goes through the
 * codec of its protocol, and what is whole is handed to chat.c or api.c: the second of a message's
 * eight hops (README). Called by conn.c, which read it.
 *
 *   pending    what cannot be used yet: half a frame, a held command
 *   TCP-IM, WebSocket, HTTP
 *   decoding   a proxy's header, the first byte, which decides; then one frame after the other
 */
#include "jim.h"

#include <stdlib.h>
#include <string.h>

/* --- pending ---------------------------------------------------------------------------------- */

void
input_free(struct conn *c)
{
    struct pend *d = c->pend;

    if (d == NULL)
        return;
    c->jim->bounds.held -= d->counted;
    buf_free(&d->raw);
    buf_free(&d->message);
    buf_free(&d->held_body);
    buf_free(&d->answer_head);
    free(d);
    c->pend = NULL;
}

/* Count what the buffers hold now. */
static void
pend_count(struct conn *c)
{
    struct pend *d = c->pend;

    if (d == NULL)
        return;
    size_t n = sizeof *d + d->raw.cap + d->message.cap + d->held_body.cap + d->answer_head.cap;
    c->jim->bounds.held += n - d->counted;
    d->counted = n;
}

static struct pend *
pend_get(struct conn *c)
{
    if (c->pend == NULL)
        c->pend = xcalloc(1, sizeof *c->pend);
    return c->pend;
}

/* Free the pending input when there is none: an idle connection holds no buffers. */
static void
pend_tidy(struct conn *c)
{
    struct pend *d = c->pend;

    if (d != NULL && d->raw.len == 0 && d->message.len == 0 && d->ws.opcode == 0 && !d->held &&
        d->answer_head.len == 0)
        input_free(c);
}

struct buf *
conn_answer_head(struct conn *c)
{
    return &pend_get(c)->answer_head;
}

bool
input_waits_for_reader(const struct conn *c)
{
    return c->out->bytes > (size_t)c->jim->opt.queue_max / 2;
}

/* The same as chat_command(), with the embedding program told before and after it. */
static ASIDE bool
command_told(struct conn *c, int cmd, uint32_t seq, struct str body)
{
    int64_t us = time_mono_us();

    extend_traffic(c, JIM_DECODED, cmd, body.n, 0);
    bool done = chat_command(&c->jim->chat, c, cmd, seq, body);
    if (done)
        extend_traffic(c, JIM_HANDLED, cmd, body.n, time_mono_us() - us);
    return done;
}

static void
conn_command(struct conn *c, int cmd, uint32_t seq, struct str body)
{
    bool told = c->jim->hooks != NULL && c->jim->hooks->traffic != NULL;

    if (told ? command_told(c, cmd, seq, body) : chat_command(&c->jim->chat, c, cmd, seq, body))
        return;
    struct pend *d = pend_get(c);
    d->held = true;
    d->held_cmd = cmd;
    d->held_seq = seq;
    d->held_body.len = 0;
    buf_str(&d->held_body, body);
}

static size_t
input_tcp(struct conn *c, char *p, size_t n)
{
    struct pkt pkt;
    ptrdiff_t used = pkt_decode(p, n, (size_t)c->jim->opt.frame_max, &pkt);

    if (used < 0) {
        conn_drop(c, DROP_PROTOCOL,
                  used == PKT_BAD_VERSION ? "bad protocol version" : "bad frame length");
        return n;
    }
    if (used > 0)
        conn_command(c, pkt.cmd, pkt.seq, pkt.body);
    return (size_t)used;
}

void
conn_control(struct conn *c, enum ws_opcode opcode, const void *p, size_t n)
{
    struct msg *m = msg_new(0, 0, p, n);

    m->opcode = (uint8_t)opcode;
    conn_send(c, m, NULL);
    msg_unref(m);
}

static void
ws_control(struct conn *c, const struct ws_frame *f)
{
    if (f->opcode == WS_PING)
        conn_control(c, WS_PONG, f->payload.p, f->payload.n);
    else if (f->opcode == WS_CLOSE)
        conn_finish(c, f->code); /* RFC 6455 section 5.5.1: the same code back */
}

static void
ws_message(struct conn *c, const struct ws_frame *f)
{
    struct pend *d;

    if (f->whole) {
        conn_command(c, -1, 0, f->payload);
        return;
    }
    d = pend_get(c);
    buf_str(&d->message, f->payload);
    if (!f->fin)
        return;
    /* The command may have to be held, which must not touch what it reads from. */
    struct buf message = d->message;
    d->message = (struct buf){0};
    conn_command(c, -1, 0, (struct str){message.p, message.len});
    buf_free(&message);
}

static size_t
input_ws(struct conn *c, char *p, size_t n)
{
    struct ws state = c->pend != NULL ? c->pend->ws : (struct ws){0};
    struct ws_frame f;
    ptrdiff_t used = ws_decode(&state, p, n, (size_t)c->jim->opt.frame_max, &f);

    if (c->pend != NULL || state.opcode != 0 || state.done > 0)
        pend_get(c)->ws = state;
    if (used < 0) {
        c->jim->stats.drops[DROP_PROTOCOL]++;
        conn_finish(c, (enum ws_close)-used);
        return n;
    }
    if (used == 0)
        return 0;
    if (f.opcode >= WS_CLOSE)
        ws_control(c, &f);
    else
        ws_message(c, &f);
    return (size_t)used;
}

static void
ws_open(struct conn *c, const struct http_req *r)
{
    char accept[28];
    struct str query = r->query, name, value;
    struct str user = {NULL, 0}, password = {NULL, 0}, token = {NULL, 0};
    struct buf head = {0};
    int status = http_upgrade_status(c, r);

    if (status == 0 && c->jim->hooks != NULL && !extend_handshake(c, r))
        status = 403;
    if (status == 0 && !ws_accept(r->header[HTTP_WS_KEY], accept))
        status = 400;
    if (status != 0) {
        http_refuse(c, status);
        return;
    }
    buf_printf(&head,
               "HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\n"
               "connection: upgrade\r\nsec-websocket-accept: %.28s\r\n\r\n", accept);
    conn_reply(c, 0, 0, head.p, head.len);
    buf_free(&head);
    conn_speaks(c, PROTO_WS);
    while (query_next(&query, &name, &value)) {
        if (str_eq(name, STR("username")) || str_eq(name, STR("userId")))
            user = value;
        else if (str_eq(name, STR("password")))
            password = value;
        else if (str_eq(name, STR("token")))
            token = value;
    }
    conn_deadline(c, c->jim->opt.login_ms);
    if (user.p != NULL || token.p != NULL)
        chat_login_query(&c->jim->chat, c, user, password, token);
}

static void
http_finish(struct conn *c, const struct http_req *r, struct str body)
{
    c->keep_alive = r->keep_alive;
    c->head_only = str_eq(r->method, STR("HEAD"));
    c->busy = true;
    c->jim->stats.requests++;
    conn_deadline(c, c->jim->opt.http_ms);
    http_request(c, r, body);
}

/*
 * A request whose head is complete but whose body is not. What is known is kept as two numbers; the
 * head itself is decoded again when the body is there, so a body in small pieces costs nothing
 * extra.
 */
static void
http_await(struct conn *c, const struct http_req *r, size_t head, size_t want)
{
    struct pend *d = pend_get(c);

    if (d->head == 0 && r->header[HTTP_EXPECT].p != NULL &&
        str_ieq(r->header[HTTP_EXPECT], STR("100-continue"))) {
        static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
        conn_reply(c, 0, 0, go_on, sizeof go_on - 1);
    }
    if (d->head == 0) /* a slow body has the time of an idle connection, all of it together */
        conn_deadline(c, c->jim->opt.http_ms);
    d->head = head;
    d->want = want;
}

/*
 * A chunked body is decoded in place behind its head, in the connection's own buffer: each byte
 * once, however they come. The head is decoded again when the body is whole.
 */
static size_t
http_chunks(struct conn *c)
{
    struct pend *d = c->pend;
    size_t head = d->head, rest = d->raw.len - head, scan = 0;
    int done = http_unchunk(&d->chunked, d->raw.p + head, &rest, (size_t)c->jim->opt.frame_max);
    struct http_req r;

    d->raw.len = head + rest;
    if (done == 0)
        return 0;
    if (done < 0 || http_decode(d->raw.p, head, &scan, &r) <= 0) {
        http_refuse(c, done < 0 ? -done : 400);
        return d->raw.len;
    }
    struct http_chunked body = d->chunked;
    d->chunked = (struct http_chunked){0};
    d->in_chunks = false;
    d->head = d->scan = 0;
    http_finish(c, &r, (struct str){d->raw.p + head, body.body});
    return head + body.raw;
}

static size_t
http_begin_chunks(struct conn *c, const struct http_req *r, size_t head, const char *p)
{
    http_await(c, r, head, 0);
    c->pend->in_chunks = true;
    if (c->pend->raw.p == p)
        return http_chunks(c);
    c->resume = true; /* once the bytes have moved there */
    conn_attend(c);
    return 0;
}

/* Each request through an HTTP proxy may be another client's. False: he has as many connections as
 * he may. */
static bool
http_is_from(struct conn *c, struct str head)
{
    unsigned char ip[16];
    bool known = proxy_forwarded(c->jim->opt.proxy_forwarded, head, ip);

    return proxy_speaks_for(c, known ? ip : NULL);
}

static size_t
input_http(struct conn *c, char *p, size_t n)
{
    struct pend *d = c->pend;
    size_t scan = d != NULL && d->head == 0 ? d->scan : 0;
    struct http_req r;

    if (d != NULL && d->in_chunks)
        return http_chunks(c);
    if (d != NULL && n < d->want)
        return 0;
    ptrdiff_t head = http_decode(p, n, &scan, &r);
    if (head < 0) {
        http_refuse(c, (int)-head);
        return n;
    }
    if (head == 0) {
        if (d == NULL || d->raw.len == 0) /* its first byte: the clock starts */
            conn_deadline(c, c->jim->opt.detect_ms);
        pend_get(c)->scan = scan;
        return 0;
    }
    if (d != NULL)
        d->scan = 0;
    if (c->forwards && !http_is_from(c, (struct str){p, (size_t)head})) {
        c->keep_alive = false;
        http_error(c, 429, STR(""));
        return n;
    }
    if (r.upgrade && !r.chunked && r.length == 0) {
        ws_open(c, &r);
        return (size_t)head;
    }
    if (r.chunked)
        return http_begin_chunks(c, &r, (size_t)head, p);
    if (r.length > (uint64_t)c->jim->opt.frame_max) {
        http_refuse(c, 413);
        return n;
    }
    size_t whole = (size_t)head + (size_t)r.length;
    if (n < whole) {
        http_await(c, &r, (size_t)head, whole);
        return 0;
    }
    if (d != NULL)
        d->head = d->want = 0;
    http_finish(c, &r, (struct str){p + head, (size_t)r.length});
    return whole;
}

void
conn_speaks(struct conn *c, enum proto proto)
{
    c->jim->stats.open[c->proto]--;
    c->proto = (uint8_t)proto;
    c->jim->stats.open[proto]++;
    c->jim->stats.proto[proto]++;
}

size_t
input_header(struct conn *c, char *p, size_t n)
{
    struct buf *raw = &pend_get(c)->raw;
    struct proxy_said said;

    buf_add(raw, p, n);
    ptrdiff_t head = proxy_decode(raw->p, raw->len, &said);
    if (head <= 0) {
        pend_count(c);
        if (head < 0)
            conn_drop(c, DROP_PROTOCOL, "its proxy should have sent a PROXY header");
        return 0;
    }
    size_t rest = raw->len - (size_t)head; /* all of it new: the header was not whole before */
    if (rest > 0)
        memcpy(p, raw->p + head, rest);
    input_free(c);
    c->proxy_due = false;
    if (proxy_speaks_for(c, said.known ? said.ip : NULL))
        return rest;
    conn_close(c, "its client has as many connections as he may");
    return 0;
}

/* The first byte decides, once (contract section 2); unless it is an own protocol's. False: it is
 * closed; or nobody can tell yet, and its state is what it was. */
static ASIDE bool
conn_detect(struct conn *c, const char *p, size_t n)
{
    char first = p[0];
    unsigned http = PROTO_BIT(PROTO_HTTP) | PROTO_BIT(PROTO_WS);

    if (c->tls_only && c->tls == NULL) {
        conn_close(c, "plain text is not served here");
        return false;
    }
    enum own_detect own = c->jim->hooks != NULL && c->protos & PROTO_BIT(PROTO_OWN)
                              ? own_detect(c, p, n) : OWN_NONE;
    if (own == OWN_MORE)
        return false;
    if (own == OWN_FOUND) {
        conn_speaks(c, PROTO_OWN);
        conn_deadline(c, c->jim->opt.login_ms);
    } else if (first == 0x01 && c->protos & PROTO_BIT(PROTO_TCP)) {
        conn_speaks(c, PROTO_TCP);
        conn_deadline(c, c->jim->opt.login_ms);
    } else if (first >= 'A' && first <= 'Z' && c->protos & http) {
        conn_speaks(c, PROTO_HTTP);
    } else {
        conn_drop(c, DROP_PROTOCOL, "no protocol this port serves");
        return false;
    }
    c->state = CONN_OPEN;
    if (c->jim->hooks != NULL)
        extend_opened(c);
    return true;
}

/* Decode and handle as much of p as is whole. Returns the bytes used up. */
static size_t
conn_decode(struct conn *c, char *p, size_t n)
{
    size_t used = 0;

    if (c->state == CONN_DETECT && !conn_detect(c, p, n))
        return c->state == CONN_DETECT ? 0 : n;
    while (used < n && !input_waits(c)) {
        size_t step = c->proto == PROTO_TCP   ? input_tcp(c, p + used, n - used)
                      : c->proto == PROTO_WS  ? input_ws(c, p + used, n - used)
                      : c->proto == PROTO_OWN ? own_input(c, p + used, n - used, conn_command)
                                              : input_http(c, p + used, n - used);
        if (step == 0)
            break;
        used += step;
        if (c->pend != NULL && c->pend->raw.p == p)
            n = c->pend->raw.len; /* decoding a chunked body shortens it */
    }
    return used;
}

/* Is there no memory for what would have to be kept of his input? */
static bool
input_pressed(struct conn *c, size_t n)
{
    struct pend *d = c->pend;

    if (d != NULL)
        n += d->raw.len + d->message.len;
    if (n <= MAX_PRESSED || !memory_full(c->jim))
        return false;
    c->jim->stats.pressed++;
    if (c->proto == PROTO_HTTP && c->state == CONN_OPEN && !c->busy)
        http_refuse(c, 503);
    else
        conn_close(c, "no memory for what he sends");
    return true;
}

void
input_take(struct conn *c, char *p, size_t n)
{
    struct pend *d = c->pend;
    size_t used;

    if (d != NULL && d->raw.len > 0) {
        if (n > 0 && input_pressed(c, n))
            return;
        buf_add(&d->raw, p, n);
        used = conn_decode(c, d->raw.p, d->raw.len);
        /* Not the same as before the call: a finished request may have shortened or freed it. */
        if (c->pend != NULL)
            buf_drop(&c->pend->raw, used);
    } else if (n > 0) {
        used = conn_decode(c, p, n);
        if (used < n && (c->state == CONN_OPEN || c->state == CONN_DETECT) &&
            !input_pressed(c, n - used))
            buf_add(&pend_get(c)->raw, p + used, n - used);
    }
    pend_tidy(c);
    pend_count(c);
}

void
input_resume(struct conn *c)
{
    struct pend *d = c->pend;

    c->resume = false;
    if (c->state != CONN_OPEN || d == NULL)
        return;
    if (d->held) {
        struct buf body = d->held_body;
        d->held = false;
        d->held_body = (struct buf){0};
        conn_command(c, d->held_cmd, d->held_seq, (struct str){body.p, body.len});
        buf_free(&body);
    }
    input_take(c, NULL, 0);
}
