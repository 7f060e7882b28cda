/* SPDX-License-Identifier: MIT */
/*
 * bench_wire.c - the protocols of the servers that are loaded: what a client says, and how little
 * of what it hears has to be understood to know that nothing is lost, doubled or out of order. The
 * generator shares the machine with the server, so it must cost less: messages are templates in
 * which digits change, and what comes back is searched only where the last one was found.
 *
 *   payload    common to all
 *   jim        TCP-IM, WebSocket, HTTP
 *   redis, nats, mqtt, and the relay, which knows no protocol at all
 */
#include "bench.h"

static const char filler[] = "the quick brown fox jumps over the lazy dog 0123456789 ";

/* A payload whose digits are filled in later. */
static void
put_body(struct client *c, size_t bytes)
{
    c->body_at = c->frame.len;
    buf_str(&c->frame, STR("jb"));
    for (size_t i = 2; i < bytes; i++)
        buf_add(&c->frame, &filler[i % (sizeof filler - 1)], 1);
}

static size_t
find(const char *p, size_t n, const char *what)
{
    const char *at = memmem(p, n, what, strlen(what));

    return at == NULL ? n : (size_t)(at - p);
}

/* --- jim -------------------------------------------------------------------------------------- */

static void
put_pkt(struct buf *b, int cmd, const char *json, size_t n)
{
    uint8_t head[MAX_PKT_HEAD];

    buf_add(b, head, pkt_head(head, (uint8_t)cmd, 0, (uint32_t)n));
    buf_add(b, json, n);
}

/* The head of a masked frame; the key is that of RFC 6455 section 5.7. */
static void
put_ws_head(struct buf *b, size_t n)
{
    static const uint8_t key[4] = {0x37, 0xfa, 0x21, 0x3d};
    uint8_t head[MAX_WS_HEAD];
    size_t len = ws_head(head, WS_TEXT, n);

    head[1] |= 0x80;
    buf_add(b, head, len);
    buf_add(b, key, sizeof key);
}

static void say(struct client *c, int cmd, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void
say(struct client *c, int cmd, const char *format, ...)
{
    char text[256];
    va_list ap;

    va_start(ap, format);
    int n = vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    if (c->wire == &wire_tcp) {
        put_pkt(&c->out, cmd, text, (size_t)n);
    } else {
        put_ws_head(&c->out, (size_t)n);
        buf_reserve(&c->out, (size_t)n);
        const char *key = c->out.p + c->out.len - 4;
        for (int i = 0; i < n; i++)
            c->out.p[c->out.len++] = (char)(text[i] ^ key[i % 4]);
    }
    client_flush(c);
}

static void
tcp_hello(struct client *c)
{
    say(c, CMD_LOGIN, "{\"userId\":\"u%06u\",\"password\":\"p\"}", c->number);
}

static void
ws_hello(struct client *c)
{
    buf_printf(&c->out,
               "GET /?username=u%06u HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\n"
               "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
               "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
               c->number, "localhost");
    client_flush(c);
}

static void
http_hello(struct client *c)
{
    buf_str(&c->out, STR("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    client_flush(c);
}

/* Opening quote of the content to the end; the id's digits are noted. */
static void
put_chat(struct client *c, size_t bytes)
{
    struct buf *b = &c->frame;

    buf_printf(b, "{\"chatType\":%d,\"cmd\":11,\"content\":\"", c->grouped ? 1 : 2);
    put_body(c, bytes);
    buf_printf(b, "\",\"createTime\":%lld,\"from\":\"u%06u\",\"id\":\"%08x",
               (long long)time_wall_ms(), c->number, (unsigned)now_ns());
    c->id_at = b->len;
    if (c->grouped)
        buf_printf(b, "000000000000\",\"msgType\":0,\"groupId\":\"g%06u\"}", c->topic);
    else
        buf_printf(b, "000000000000\",\"msgType\":0,\"to\":\"u%06u\"}",
                   c->number + c->load->spec.flows);
}

/* The JSON first, to know its length; then all of it behind its head. */
static void
chat_message(struct client *c, size_t bytes)
{
    struct buf json, head = {0};

    put_chat(c, bytes);
    json = c->frame;
    if (c->wire == &wire_tcp) {
        uint8_t pkt[MAX_PKT_HEAD];
        buf_add(&head, pkt, pkt_head(pkt, CMD_CHAT, 0, (uint32_t)json.len));
    } else if (c->wire == &wire_ws) {
        put_ws_head(&head, json.len);
        c->masked_at = head.len;
    } else {
        buf_printf(&head, "POST /api/message/send HTTP/1.1\r\nHost: localhost\r\n"
                   "Content-Length: %zu\r\n\r\n", json.len);
    }
    c->body_at += head.len;
    c->id_at += head.len;
    buf_add(&head, json.p, json.len);
    buf_free(&json);
    c->frame = head;
}

/* The content of a delivery: where the last one was, else wherever it is. */
static void
chat_body(struct client *c, const char *p, size_t n)
{
    if (c->mark + BODY > n || memcmp(p + c->mark, "\"jb", 3) != 0) {
        c->mark = find(p, n, "\"jb");
        if (c->mark + 1 + BODY > n)
            return; /* somebody else's message */
    }
    client_body(c, p + c->mark + 1);
}

static void
chat_fetched(struct client *c, const char *p, size_t n)
{
    bool more = find(p, n, "\"more\":true") < n;

    for (size_t at = 0; (at += find(p + at, n - at, "\"jb")) + BODY < n; at += BODY)
        client_body(c, p + at + 1);
    client_fetched(c, more);
}

static void
jim_ask(struct client *c)
{
    say(c, CMD_MESSAGES, "{\"cmd\":19,\"type\":0,\"userId\":\"u%06u\"}", c->number);
}

static void
jim_heard(struct client *c, int cmd, const char *p, size_t n)
{
    static const char ok[] = "{\"code\":1000"; /* and 0 or 1 */

    if (cmd == CMD_CHAT) {
        chat_body(c, p, n);
    } else if (cmd == CMD_CHAT_RESP) {
        if (n > sizeof ok && memcmp(p, ok, sizeof ok - 1) == 0 && p[sizeof ok - 1] <= '1')
            client_acked(c, 1);
        else
            client_refused(c, p, n);
    } else if (cmd == CMD_LOGIN_RESP || cmd == CMD_JOIN_RESP) {
        if (find(p, n, cmd == CMD_LOGIN_RESP ? "\"code\":10007" : "\"code\":10011") == n)
            client_refused(c, p, n);
        else if (cmd == CMD_LOGIN_RESP && c->joins)
            say(c, CMD_JOIN, "{\"cmd\":7,\"groupId\":\"g%06u\"}", c->topic);
        else
            client_ready(c);
        if (cmd == CMD_LOGIN_RESP && c->asks)
            jim_ask(c);
    } else if (cmd == CMD_MESSAGES_RESP) {
        chat_fetched(c, p, n);
        if (find(p, n, "\"more\":true") < n)
            jim_ask(c);
    }
}

static size_t
tcp_take(struct client *c, char *p, size_t n)
{
    size_t used = 0;
    ptrdiff_t len;
    struct pkt pkt;

    while ((len = pkt_decode(p + used, n - used, 1u << 30, &pkt)) > 0) {
        jim_heard(c, pkt.cmd, pkt.body.p, pkt.body.n);
        used += (size_t)len;
    }
    if (len < 0)
        die("not a frame of TCP-IM");
    return used;
}

/* The command of an answer's JSON: its `code`, if any, comes before it and has five digits. */
static int
json_command(const char *p, size_t n)
{
    size_t at = find(p, n < 48 ? n : 48, "\"command\":");

    return at + 12 > n ? 0 : atoi(p + at + 10);
}

static size_t
ws_take(struct client *c, char *p, size_t n)
{
    size_t used = 0;

    if (c->stage == 0) { /* the answer to the upgrade */
        used = find(p, n, "\r\n\r\n") + 4;
        if (used > n)
            return 0;
        if (find(p, used, " 101 ") > 16)
            client_refused(c, p, used);
        c->stage = 1;
    }
    for (;;) {
        const uint8_t *b = (const uint8_t *)p + used;
        size_t have = n - used, head = 2, len;
        if (have < 2 || (head = b[1] == 127 ? 10 : b[1] == 126 ? 4 : 2) > have)
            return used;
        len = head == 2 ? b[1] : head == 4 ? (size_t)b[2] << 8 | b[3] : get_be32(b + 6);
        if (have - head < len)
            return used;
        if (b[0] == (0x80 | WS_TEXT))
            jim_heard(c, json_command(p + used + head, len), p + used + head, len);
        else if (b[0] == (0x80 | WS_CLOSE))
            client_refused(c, "closed", 6);
        else if (b[0] == (0x80 | WS_PING)) {
            static const char pong[6] = {(char)(0x80 | WS_PONG), (char)0x80};
            buf_add(&c->out, pong, sizeof pong);
            client_flush(c);
        }
        used += head + len;
    }
}

static size_t
http_take(struct client *c, char *p, size_t n)
{
    size_t used = 0;

    for (;;) {
        size_t head = find(p + used, n - used, "\r\n\r\n") + 4;
        size_t at = find(p + used, n - used, "content-length: ");
        if (head > n - used || at > head)
            return used;
        size_t len = strtoul(p + used + at + 16, NULL, 10);
        if (n - used < head + len)
            return used;
        if (!c->ready)
            client_ready(c);
        else if (len > 14 && memcmp(p + used + head, "{\"code\":1000", 12) == 0)
            client_acked(c, 1);
        else
            client_refused(c, p + used + head, len);
        used += head + len;
    }
}

const struct wire wire_tcp = {"tcp", true, true, tcp_hello, chat_message, tcp_take};
const struct wire wire_ws = {"ws", true, true, ws_hello, chat_message, ws_take};
const struct wire wire_http = {"http", true, true, http_hello, chat_message, http_take};

/* --- redis ------------------------------------------------------------------------------------ */

static void
redis_hello(struct client *c)
{
    if (c->sends != NULL)
        buf_str(&c->out, STR("*1\r\n$4\r\nPING\r\n"));
    else
        buf_printf(&c->out, "*2\r\n$9\r\nSUBSCRIBE\r\n$7\r\nc%06u\r\n", c->topic);
    client_flush(c);
}

static void
redis_message(struct client *c, size_t bytes)
{
    buf_printf(&c->frame, "*3\r\n$7\r\nPUBLISH\r\n$7\r\nc%06u\r\n$%zu\r\n", c->topic, bytes);
    put_body(c, bytes);
    buf_str(&c->frame, STR("\r\n"));
}

/* One bulk string or integer line at p: its bytes, 0 when it is not all there. */
static size_t
redis_piece(const char *p, size_t n, struct str *text)
{
    const char *end = n > 0 ? memchr(p, '\n', n) : NULL;

    if (end == NULL)
        return 0;
    size_t line = (size_t)(end - p) + 1;
    *text = (struct str){p + 1, line - 3};
    if (p[0] != '$')
        return line;
    size_t len = strtoul(p + 1, NULL, 10);
    *text = (struct str){p + line, len};
    return n < line + len + 2 ? 0 : line + len + 2;
}

static size_t
redis_take(struct client *c, char *p, size_t n)
{
    size_t used = 0;

    while (used < n) {
        struct str text[3] = {{0}};
        size_t at = used;
        int pieces = p[at] == '*' ? 3 : 1;
        if (pieces == 3)
            at += 4; /* "*3\r\n" */
        for (int i = 0; i < pieces; i++) {
            size_t step = at < n ? redis_piece(p + at, n - at, &text[i]) : 0;
            if (step == 0)
                return used;
            at += step;
        }
        if (p[used] == '-')
            client_refused(c, p + used, at - used);
        else if (!c->ready)
            client_ready(c);
        else if (pieces == 3)
            client_body(c, text[2].p);
        else
            client_acked(c, 1);
        used = at;
    }
    return used;
}

const struct wire wire_redis = {"redis", true, false, redis_hello, redis_message, redis_take};

/* --- nats ------------------------------------------------------------------------------------- */

static void
nats_hello(struct client *c)
{
    buf_str(&c->out, STR("CONNECT {\"verbose\":false,\"pedantic\":false}\r\n"));
    if (c->sends == NULL)
        buf_printf(&c->out, "SUB c%06u 1\r\n", c->topic);
    buf_str(&c->out, STR("PING\r\n"));
    client_flush(c);
}

static void
nats_message(struct client *c, size_t bytes)
{
    buf_printf(&c->frame, "PUB c%06u %zu\r\n", c->topic, bytes);
    put_body(c, bytes);
    buf_str(&c->frame, STR("\r\n"));
}

static size_t
nats_take(struct client *c, char *p, size_t n)
{
    size_t used = 0;

    while (used < n) {
        const char *end = memchr(p + used, '\n', n - used);
        if (end == NULL)
            return used;
        size_t line = (size_t)(end - p - (ptrdiff_t)used) + 1, body = 0;
        if (p[used] == 'M') {
            const char *blank = end;
            while (blank[-1] != ' ')
                blank--;
            body = strtoul(blank, NULL, 10) + 2;
            if (n - used < line + body)
                return used;
            client_body(c, p + used + line);
        } else if (memcmp(p + used, "PO", 2) == 0) {
            client_ready(c);
        } else if (memcmp(p + used, "PI", 2) == 0) {
            buf_str(&c->out, STR("PONG\r\n"));
            client_flush(c);
        } else if (p[used] == '-') {
            client_refused(c, p + used, line);
        }
        used += line + body;
    }
    return used;
}

const struct wire wire_nats = {"nats", false, false, nats_hello, nats_message, nats_take};

/* --- mqtt (3.1.1) ----------------------------------------------------------------------------- */

static void
mqtt_head(struct buf *b, int type, size_t n)
{
    buf_add(b, &(char){(char)type}, 1);
    do {
        buf_add(b, &(char){(char)((n & 127) | (n > 127 ? 128 : 0))}, 1);
        n >>= 7;
    } while (n > 0);
}

static void
mqtt_hello(struct client *c)
{
    static const char connect[] = "\0\4MQTT\4\2\0\0\0\7";

    mqtt_head(&c->out, 0x10, sizeof connect - 1 + 7);
    buf_add(&c->out, connect, sizeof connect - 1);
    buf_printf(&c->out, "b%06u", c->number);
    client_flush(c);
}

static void
mqtt_publish(struct client *c, size_t bytes, int qos)
{
    mqtt_head(&c->frame, 0x30 | qos << 1, 9 + (qos > 0 ? 2u : 0u) + bytes);
    buf_add(&c->frame, "\0\7", 2);
    buf_printf(&c->frame, "c%06u", c->topic);
    if (qos > 0) {
        c->id_at = c->frame.len;
        c->packet_id = true;
        buf_add(&c->frame, "\0\1", 2);
    }
    put_body(c, bytes);
}

static void
mqtt0_message(struct client *c, size_t bytes)
{
    mqtt_publish(c, bytes, 0);
}

static void
mqtt1_message(struct client *c, size_t bytes)
{
    mqtt_publish(c, bytes, 1);
}

static void
mqtt_subscribe(struct client *c)
{
    mqtt_head(&c->out, 0x82, 12);
    buf_add(&c->out, "\0\1\0\7", 4);
    buf_printf(&c->out, "c%06u", c->topic);
    buf_add(&c->out, c->wire == &wire_mqtt1 ? "\1" : "\0", 1);
    client_flush(c);
}

static void
mqtt_heard(struct client *c, int head, const char *p, size_t n)
{
    switch (head >> 4) {
    case 2: /* CONNACK */
        if (p[1] != 0)
            client_refused(c, "CONNACK", 7);
        else if (c->sends != NULL)
            client_ready(c);
        else
            mqtt_subscribe(c);
        break;
    case 9: /* SUBACK */
        client_ready(c);
        break;
    case 4: /* PUBACK */
        client_acked(c, 1);
        break;
    case 3: /* PUBLISH */
        if (head & 2) {
            buf_add(&c->out, "\x40\2", 2);
            buf_add(&c->out, p + 9, 2);
            client_flush(c);
        }
        if (n >= BODY + 9u + (head & 2))
            client_body(c, p + 9 + (head & 2));
        break;
    }
}

static size_t
mqtt_take(struct client *c, char *p, size_t n)
{
    size_t used = 0;

    for (;;) {
        size_t at = used + 1, len = 0;
        int shift = 0;
        do {
            if (at >= n)
                return used;
            len |= (size_t)(p[at] & 127) << shift;
            shift += 7;
        } while (p[at++] & 128);
        if (n - at < len)
            return used;
        mqtt_heard(c, (unsigned char)p[used], p + at, len);
        used = at + len;
    }
}

const struct wire wire_mqtt0 = {"mqtt qos 0", false, false, mqtt_hello, mqtt0_message, mqtt_take};
const struct wire wire_mqtt1 = {"mqtt qos 1", true, false, mqtt_hello, mqtt1_message, mqtt_take};

/* --- the relay: bench_peers.c ----------------------------------------------------------------- */

static void
relay_hello(struct client *c)
{
    buf_printf(&c->out, "%c%06u%08zu", c->sends != NULL ? 'S' : 'R', c->topic,
               c->load->spec.bytes);
    client_flush(c);
}

static void
relay_message(struct client *c, size_t bytes)
{
    put_body(c, bytes);
}

static size_t
relay_take(struct client *c, char *p, size_t n)
{
    size_t used = 0, size = c->load->spec.bytes;

    if (!c->ready) { /* one byte says that the relay knows us */
        client_ready(c);
        used = 1;
    }
    if (c->sends != NULL) { /* what is answered is 16 bytes a message */
        client_acked(c, (n - used) / 16);
        return used + (n - used) / 16 * 16;
    }
    for (; n - used >= size; used += size)
        client_body(c, p + used);
    return used;
}

const struct wire wire_relay = {"relay", false, false, relay_hello, relay_message, relay_take};
const struct wire wire_relay_ack = {"relay + ack", true, false, relay_hello, relay_message,
                                    relay_take};
