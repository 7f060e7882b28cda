/* SPDX-License-Identifier: MIT */
/*
 * codec.c - bytes in, views out: everything jim reads from a peer before it knows what it means.
 *
 * The plan, in order:
 *   UTF-8                           what all text is
 *   TCP-IM                          J-IM's own framing
 *   WebSocket                       RFC 6455: handshake key and frames
 *   HTTP head, chunked body         RFC 9112
 *   URLs and lists                  percent-encoding, queries, comma-separated fields
 *
 * Every function is pure: no malloc, descriptor, clock or state outside its arguments, so all of it
 * is tested, fuzzed and read without a server. A decoder is called with all bytes that are there
 * and answers "so many are one frame", "not yet" or "never". Three rules hold throughout: a length
 * is compared with its limit before it is used or added to anything; what was looked at once is not
 * looked at again when one more byte comes, or a peer that sends single bytes would cost quadratic
 * time; and the verdict on a stream does not depend on how the network cut it.
 */
#include "jim.h"

#include <string.h>

#define MAX_CHUNK_LINE 256 /* bytes of a chunk-size line: room for extensions, which nobody uses */

/* === UTF-8 (RFC 3629) ========================================================================= */

/*
 * The state inside a character: how many bytes are still to come and between which bounds the next
 * one must lie. Only the second byte's bounds are ever narrower than 80..BF; that is what keeps out
 * overlong forms, surrogates and everything above U+10FFFF.
 */
#define UTF8_STATE(need, low, high) \
    ((uint32_t)(need) | (uint32_t)(low) << 8 | (uint32_t)(high) << 16)

static const struct {
    uint8_t last; /* first byte of the character: at most this, and above the row before */
    uint32_t state;
} utf8_lead[] = { /* the grammar of RFC 3629 section 4 */
    {0xc1, 0}, /* stray continuation bytes; C0 and C1 could only begin overlong forms */
    {0xdf, UTF8_STATE(1, 0x80, 0xbf)},
    {0xe0, UTF8_STATE(2, 0xa0, 0xbf)},
    {0xec, UTF8_STATE(2, 0x80, 0xbf)},
    {0xed, UTF8_STATE(2, 0x80, 0x9f)},
    {0xef, UTF8_STATE(2, 0x80, 0xbf)},
    {0xf0, UTF8_STATE(3, 0x90, 0xbf)},
    {0xf3, UTF8_STATE(3, 0x80, 0xbf)},
    {0xf4, UTF8_STATE(3, 0x80, 0x8f)},
    {0xff, 0},
};

/* The state after byte b, or UINT32_MAX when b cannot stand here. ASCII only comes this far where
 * it does not belong: utf8_skip() steps over it. */
static uint32_t
utf8_next(uint32_t state, uint8_t b)
{
    uint32_t need = state & 0xff;

    if (state == 0) {
        size_t row = 0;
        while (b > utf8_lead[row].last)
            row++;
        return utf8_lead[row].state ? utf8_lead[row].state : UINT32_MAX;
    }
    if (b < (state >> 8 & 0xff) || b > state >> 16)
        return UINT32_MAX;
    return need == 1 ? 0 : UTF8_STATE(need - 1, 0x80, 0xbf);
}

/* Step over what nearly all text consists of: ASCII, eight bytes at a time, the two-byte characters
 * of other alphabets and most three-byte ones of CJK. Stops where any other character starts. */
static const uint8_t *
utf8_skip(const uint8_t *p, const uint8_t *end)
{
    for (;;) {
        const uint8_t *start = p;
        uint64_t w;

        while (end - p >= 8) {
            memcpy(&w, p, 8);
            if (w & 0x8080808080808080u)
                break;
            p += 8;
        }
        while (p < end && *p < 0x80)
            p++;
        while (end - p >= 2 && p[0] >= 0xc2 && p[0] <= 0xdf && (p[1] & 0xc0) == 0x80)
            p += 2;
        while (end - p >= 3 && p[0] > 0xe0 && p[0] < 0xed && (p[1] & 0xc0) == 0x80
               && (p[2] & 0xc0) == 0x80)
            p += 3;
        if (p == start)
            return p;
    }
}

bool
utf8_check(uint32_t *state, const void *p, size_t n)
{
    const uint8_t *at = p;
    uint32_t now = *state;

    if (n == 0)
        return true;
    for (const uint8_t *end = at + n; at < end; at++) {
        if (now == 0) {
            at = utf8_skip(at, end);
            if (at == end)
                break;
        }
        now = utf8_next(now, *at);
        if (now == UINT32_MAX)
            return false;
    }
    *state = now;
    return true;
}

/* === TCP-IM =================================================================================== */

#define PKT_VERSION 1
#define PKT_HAS_SEQ 0x20 /* the only mask bit J-IM's server heeds: its length always has 4 bytes */
#define PKT_MASK 0x51    /* what J-IM's server sends, compression bit and all; bodies are plain */

ptrdiff_t
pkt_decode(const char *p, size_t n, size_t max_body, struct pkt *out)
{
    const uint8_t *b = (const uint8_t *)p;
    uint32_t seq = 0, body;
    size_t head = 7;

    if (n > 0 && b[0] != PKT_VERSION)
        return PKT_BAD_VERSION;
    if (n > 1 && b[1] & PKT_HAS_SEQ)
        head = 11;
    if (n < head)
        return 0;
    body = get_be32(b + head - 4);
    if (body > INT32_MAX || body > max_body)
        return PKT_BAD_LENGTH;
    if (n - head < body)
        return 0;
    if (head == 11)
        seq = get_be32(b + 2);
    out->cmd = b[head - 5];
    out->seq = seq <= INT32_MAX ? seq : 0;
    out->body = (struct str){p + head, body};
    return (ptrdiff_t)(head + body);
}

size_t
pkt_head(uint8_t dst[MAX_PKT_HEAD], uint8_t cmd, uint32_t seq, uint32_t body)
{
    size_t n = 0;

    dst[n++] = PKT_VERSION;
    dst[n++] = seq > 0 ? PKT_MASK | PKT_HAS_SEQ : PKT_MASK;
    if (seq > 0) {
        put_be32(dst + n, seq);
        n += 4;
    }
    dst[n++] = cmd;
    put_be32(dst + n, body);
    return n + 4;
}

/* === WebSocket (RFC 6455) ===================================================================== */

#define WS_FIN 0x80
#define WS_RSV 0x70     /* for extensions, of which jim offers none */
#define WS_CONTROL 0x08 /* opcodes with this bit */
#define WS_MASKED 0x80
#define WS_BLOCK 1024   /* bytes unmasked before they are checked: they are still in the L1 cache */

struct ws_header {
    uint8_t opcode; /* as sent: WS_CONTINUE for a continuation */
    bool fin;
    size_t size; /* of the header, mask included */
    uint64_t payload;
};

bool
ws_accept(struct str key, char accept[28])
{
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    uint8_t digest[20], nonce[18];
    struct sha1 s;

    if (key.n != 24 || base64_decode(nonce, key.p, key.n) != 16)
        return false;
    sha1_init(&s);
    sha1_add(&s, key.p, key.n);
    sha1_add(&s, guid, sizeof guid - 1);
    sha1_end(&s, digest);
    base64_encode(accept, digest, sizeof digest);
    return true;
}

size_t
ws_head(uint8_t dst[MAX_WS_HEAD], enum ws_opcode opcode, uint64_t payload)
{
    dst[0] = (uint8_t)(WS_FIN | opcode);
    if (payload < 126) {
        dst[1] = (uint8_t)payload;
        return 2;
    }
    if (payload <= UINT16_MAX) {
        dst[1] = 126;
        dst[2] = (uint8_t)(payload >> 8);
        dst[3] = (uint8_t)payload;
        return 4;
    }
    dst[1] = 127;
    put_be32(dst + 2, (uint32_t)(payload >> 32));
    put_be32(dst + 6, (uint32_t)payload);
    return 10;
}

/* May a frame that begins with byte b come now (sections 5.2, 5.4 and 5.5)? */
static bool
ws_expects(const struct ws *s, uint8_t b)
{
    if (b & WS_RSV)
        return false;
    switch (b & 15) {
    case WS_CONTINUE:
        return s->opcode != 0;
    case WS_TEXT:
    case WS_BINARY:
        return s->opcode == 0;
    case WS_CLOSE:
    case WS_PING:
    case WS_PONG:
        return b & WS_FIN;
    default:
        return false;
    }
}

/* Read the payload length (section 5.2). Returns how many bytes it takes behind the frame's second,
 * or -1 when it breaks a rule; *length is set once n covers those bytes. */
static int
ws_length(const uint8_t *p, size_t n, uint64_t *length)
{
    uint8_t first = p[1] & 127;
    int extra = first == 127 ? 8 : first == 126 ? 2 : 0;

    *length = first;
    if (p[0] & WS_CONTROL && first > MAX_CONTROL)
        return -1;
    if ((p[0] & 15) == WS_CLOSE && first == 1) /* half a status code (section 5.5.1) */
        return -1;
    if (extra == 0 || n < 2 + (size_t)extra)
        return extra;
    *length = 0;
    for (int i = 0; i < extra; i++)
        *length = *length << 8 | p[2 + i];
    if (*length < (extra == 8 ? 65536u : 126u) || *length >> 63)
        return -1;
    return extra;
}

/* 1 when the header is whole and allowed, 0 when bytes are missing, or minus an enum ws_close. */
static int
ws_header(const struct ws *s, const uint8_t *p, size_t n, size_t max, struct ws_header *h)
{
    int extra;

    if (n > 0 && !ws_expects(s, p[0]))
        return -WS_PROTOCOL;
    if (n < 2)
        return 0;
    if (!(p[1] & WS_MASKED) != s->server) /* section 5.1: a client must mask, a server must not */
        return -WS_PROTOCOL;
    extra = ws_length(p, n, &h->payload);
    if (extra < 0)
        return -WS_PROTOCOL;
    h->size = 2 + (size_t)extra;
    if (n < h->size)
        return 0;
    h->opcode = p[0] & 15;
    h->fin = p[0] & WS_FIN;
    /* A message that will be too big is refused before its payload takes up memory. */
    if (!(h->opcode & WS_CONTROL) && (h->payload > max || s->total > max - h->payload))
        return -WS_TOO_BIG;
    h->size += s->server ? 0 : 4;
    return n >= h->size;
}

/* Unmask n bytes that begin `phase` bytes into the payload (section 5.3). Returns whether any of
 * them is not ASCII. */
static bool
ws_unmask(char *p, size_t n, const uint8_t key[4], uint64_t phase)
{
    uint8_t mask[8];
    uint64_t m, w, seen = 0;
    size_t i = 0;

    for (size_t k = 0; k < 8; k++)
        mask[k] = key[(phase + k) & 3];
    memcpy(&m, mask, 8); /* in memory order, so byte order does not matter */
    for (; n - i >= 8; i += 8) {
        memcpy(&w, p + i, 8);
        w ^= m;
        memcpy(p + i, &w, 8);
        seen |= w;
    }
    for (; i < n; i++) {
        uint8_t b = (uint8_t)p[i] ^ mask[i & 7];
        p[i] = (char)b;
        seen |= b;
    }
    return seen & 0x8080808080808080u;
}

/* Unmask what is new of the `have` payload bytes, and check it when it is text. */
static bool
ws_advance(struct ws *s, char *payload, size_t have, const uint8_t key[4], bool text)
{
    while (s->done < have) {
        size_t at = (size_t)s->done;
        size_t take = have - at < WS_BLOCK ? have - at : WS_BLOCK;
        bool other = ws_unmask(payload + at, take, key, at);
        if (text && (other || s->utf8 != 0) && !utf8_check(&s->utf8, payload + at, take))
            return false;
        s->done += take;
    }
    return true;
}

/* Codes a peer may send: RFC 6455 section 7.4, and the IANA registry for 1012 to 1014. */
static bool
ws_code_allowed(unsigned code)
{
    return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014)
        || (code >= 3000 && code <= 4999);
}

/* Check what is there of a close frame (section 5.5.1); cut the code off the payload. At most 125
 * bytes, so looking at all of them each time is no burden. */
static int
ws_close(struct str *payload, bool whole, uint16_t *code)
{
    uint32_t state = 0;

    *code = WS_NO_STATUS;
    if (payload->n < 2)
        return 0;
    *code = (uint16_t)((uint8_t)payload->p[0] << 8 | (uint8_t)payload->p[1]);
    if (!ws_code_allowed(*code))
        return -WS_PROTOCOL;
    payload->p += 2;
    payload->n -= 2;
    if (!utf8_check(&state, payload->p, payload->n) || (whole && state != 0))
        return -WS_BAD_DATA;
    return 0;
}

/* A data frame is complete: report it as part of its message. */
static int
ws_complete(struct ws *s, const struct ws_header *h, struct ws_frame *out)
{
    uint8_t message = h->opcode == WS_CONTINUE ? s->opcode : h->opcode;

    out->opcode = message;
    out->whole = h->fin && h->opcode != WS_CONTINUE;
    if (h->fin && s->utf8 != 0)
        return -WS_BAD_DATA;
    s->opcode = h->fin ? 0 : message;
    s->total = h->fin ? 0 : s->total + h->payload;
    return 0;
}

ptrdiff_t
ws_decode(struct ws *s, char *p, size_t n, size_t max, struct ws_frame *out)
{
    struct ws_header h;
    struct str payload;
    uint8_t key[4] = {0};
    bool text, whole;
    int r = ws_header(s, (const uint8_t *)p, n, max, &h);

    if (r <= 0)
        return r;
    payload.p = p + h.size;
    payload.n = n - h.size < h.payload ? n - h.size : (size_t)h.payload;
    whole = payload.n == h.payload;
    text = h.opcode == WS_TEXT || (h.opcode == WS_CONTINUE && s->opcode == WS_TEXT);
    if (!s->server)
        memcpy(key, p + h.size - 4, 4);
    if (!ws_advance(s, p + h.size, payload.n, key, text))
        return -WS_BAD_DATA;
    *out = (struct ws_frame){.opcode = h.opcode, .fin = h.fin, .whole = h.fin};
    if (h.opcode == WS_CLOSE)
        r = ws_close(&payload, whole, &out->code);
    else if (whole && !(h.opcode & WS_CONTROL))
        r = ws_complete(s, &h, out);
    if (r < 0)
        return r;
    if (!whole)
        return 0;
    out->payload = payload;
    s->done = 0;
    return (ptrdiff_t)(h.size + h.payload);
}

/* === HTTP head (RFC 9112) ===================================================================== */

/*
 * Two passes. The first only looks for the empty line, from where the last call stopped; the second
 * parses the whole head once. It is strict where leniency lets a proxy in front of jim see other
 * requests than jim does (RFC 9112 section 11.2): such a head is refused, never repaired.
 */

struct http_head {
    struct http_req *out;
    struct str authority; /* of an absolute-form target */
    bool close, keep_alive, upgrade, websocket; /* tokens seen in any Connection or Upgrade */
};

static const struct {
    const char *name;
    bool once; /* a second one is refused: two answers to who asks, or what for, or where it ends */
} http_fields[HTTP_HEADERS] = {
    [HTTP_HOST] = {"host", true},
    [HTTP_CONNECTION] = {"connection", false},
    [HTTP_UPGRADE] = {"upgrade", false},
    [HTTP_WS_KEY] = {"sec-websocket-key", true},
    [HTTP_WS_VERSION] = {"sec-websocket-version", true},
    [HTTP_ORIGIN] = {"origin", true},
    [HTTP_AUTHORIZATION] = {"authorization", true},
    [HTTP_CONTENT_LENGTH] = {"content-length", false},
    [HTTP_TRANSFER_ENCODING] = {"transfer-encoding", true},
    [HTTP_CONTENT_TYPE] = {"content-type", true},
    [HTTP_EXPECT] = {"expect", false},
    [HTTP_IF_NONE_MATCH] = {"if-none-match", false},
    [HTTP_IF_MODIFIED_SINCE] = {"if-modified-since", false},
    [HTTP_ACR_METHOD] = {"access-control-request-method", false},
    [HTTP_ACR_HEADERS] = {"access-control-request-headers", false},
};

static char
lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c;
}

static bool
is_control(char c)
{
    return (uint8_t)c < 0x20 || c == 0x7f;
}

static bool
is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* RFC 9110 section 5.6.2. */
static bool
is_token(struct str s)
{
    for (size_t i = 0; i < s.n; i++) {
        char c = lower(s.p[i]);
        if (!(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9')
            && (c == '\0' || strchr("-_!#$%&'*+.^`|~", c) == NULL))
            return false;
    }
    return s.n > 0;
}

/* RFC 9110 section 5.6.3; not str_trim(), for which a CR is a blank. */
static struct str
trim_blanks(struct str s)
{
    while (s.n > 0 && is_blank(s.p[0])) {
        s.p++;
        s.n--;
    }
    while (s.n > 0 && is_blank(s.p[s.n - 1]))
        s.n--;
    return s;
}

/* Move what stands before the first `sep` from *rest to *part, dropping the separator; without one,
 * move everything and return false. */
static bool
cut(struct str *rest, char sep, struct str *part)
{
    const char *at = rest->n > 0 ? memchr(rest->p, sep, rest->n) : NULL;

    *part = *rest;
    if (at == NULL) {
        *rest = (struct str){NULL, 0};
        return false;
    }
    part->n = (size_t)(at - rest->p);
    rest->p = at + 1;
    rest->n -= part->n + 1;
    return true;
}

/* Does an empty line end right before p[i]? */
static bool
http_empty_line(const char *p, size_t i)
{
    if (i == 0 || p[--i] != '\n')
        return false;
    if (i > 0 && p[i - 1] == '\r')
        i--;
    return i == 0 || p[i - 1] == '\n';
}

/* Past the empty lines that p[i] may begin; a lone CR at the end may become one. */
static size_t
http_skip_empty(const char *p, size_t n, size_t i)
{
    for (;;) {
        if (i < n && p[i] == '\n')
            i++;
        else if (n - i >= 2 && p[i] == '\r' && p[i + 1] == '\n')
            i += 2;
        else
            return i;
    }
}

/*
 * Find the end of the head, looking only at what is new. An empty line ends it, unless nothing but
 * empty lines came before; that this is still so needs no flag: *scan then stands behind one, where
 * it cannot stand later.
 */
static size_t
http_find_end(const char *p, size_t n, size_t *scan)
{
    size_t i = *scan;
    const char *lf;

    if (i == 0 || http_empty_line(p, i)) {
        i = http_skip_empty(p, n, i);
        *scan = i;
        if (i == n || (i + 1 == n && p[i] == '\r'))
            return 0;
    }
    while (i < n && (lf = memchr(p + i, '\n', n - i)) != NULL) {
        i = (size_t)(lf - p) + 1;
        if (http_empty_line(p, i))
            return i;
    }
    *scan = n;
    return 0;
}

/* Cut off the next line, without its end; 0 or minus the status. A CR anywhere else is a control
 * character, and those are refused but for the tab. */
static int
http_line(struct str *rest, struct str *line)
{
    cut(rest, '\n', line);
    if (line->n > 0 && line->p[line->n - 1] == '\r')
        line->n--;
    if (line->n > MAX_LINE)
        return -431;
    for (size_t i = 0; i < line->n; i++)
        if (is_control(line->p[i]) && line->p[i] != '\t')
            return -400;
    return 0;
}

/* A host with an optional port (RFC 3986 section 3.2), checked just enough that it cannot pass for
 * more than that; user names in front are refused (RFC 9110 section 4.2.4). */
static bool
http_host_valid(struct str host)
{
    for (size_t i = 0; i < host.n; i++)
        if ((uint8_t)host.p[i] <= ' ' || strchr("/?#@\\\"<>", host.p[i]) != NULL)
            return false;
    return true;
}

/* Take `http://host` off an absolute-form target (RFC 9112 section 3.2.2). */
static bool
http_absolute(struct str *target, struct str *authority)
{
    size_t n = 0, scheme = 0;

    if (target->n >= 7 && str_ieq((struct str){target->p, 7}, STR("http://")))
        scheme = 7;
    else if (target->n >= 8 && str_ieq((struct str){target->p, 8}, STR("https://")))
        scheme = 8;
    else
        return false;
    target->p += scheme;
    target->n -= scheme;
    while (n < target->n && target->p[n] != '/' && target->p[n] != '?')
        n++;
    *authority = (struct str){target->p, n};
    target->p += n;
    target->n -= n;
    return n > 0 && http_host_valid(*authority);
}

static int
http_target(struct http_head *h, struct str target)
{
    struct http_req *out = h->out;

    for (size_t i = 0; i < target.n; i++)
        if (target.p[i] == '#' || target.p[i] == '\t')
            return -400;
    if (target.n == 1 && target.p[0] == '*') { /* asterisk-form (section 3.2.4) */
        out->path = target;
        return out->method.n == 7 && memcmp(out->method.p, "OPTIONS", 7) == 0 ? 0 : -400;
    }
    if (target.n == 0)
        return -400;
    if (target.p[0] != '/' && !http_absolute(&target, &h->authority))
        return -400;
    if (!cut(&target, '?', &out->path))
        out->query = (struct str){"", 0};
    else
        out->query = target;
    if (out->path.n == 0)
        out->path = (struct str){"/", 1};
    return 0;
}

/* `HTTP/1.1`: section 2.3. A later minor version promises to be understood as 1.1. */
static int
http_version(struct str v, bool *http11)
{
    if (v.n != 8 || memcmp(v.p, "HTTP/", 5) != 0 || v.p[6] != '.' || v.p[5] < '0' || v.p[5] > '9'
        || v.p[7] < '0' || v.p[7] > '9')
        return -400;
    if (v.p[5] != '1')
        return -505;
    *http11 = v.p[7] != '0';
    return 0;
}

/* `method SP target SP version`, single blanks only: section 3 allows more, smugglers use more. */
static int
http_request_line(struct http_head *h, struct str line)
{
    struct str target;
    int r;

    if (!cut(&line, ' ', &h->out->method) || !cut(&line, ' ', &target))
        return -400;
    if (!is_token(h->out->method))
        return -400;
    r = http_version(line, &h->out->http11);
    return r < 0 ? r : http_target(h, target);
}

/* Digits only: no sign, no list, no blank (RFC 9110 section 8.6). */
static bool
http_number(struct str s, uint64_t *out)
{
    uint64_t v = 0;

    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] < '0' || s.p[i] > '9')
            return false;
        uint64_t digit = (uint64_t)(s.p[i] - '0');
        if (v > (UINT64_MAX - digit) / 10)
            return false;
        v = v * 10 + digit;
    }
    *out = v;
    return s.n > 0;
}

/* Note a field jim looks at; `again` when it is not the first of its name. */
static int
http_note(struct http_head *h, enum http_header field, struct str value, bool again)
{
    uint64_t length;

    switch (field) {
    case HTTP_CONNECTION:
        h->close = h->close || http_list_has(value, "close");
        h->keep_alive = h->keep_alive || http_list_has(value, "keep-alive");
        h->upgrade = h->upgrade || http_list_has(value, "upgrade");
        return 0;
    case HTTP_UPGRADE:
        h->websocket = h->websocket || http_list_has(value, "websocket");
        return 0;
    case HTTP_HOST:
        return http_host_valid(value) ? 0 : -400;
    case HTTP_CONTENT_LENGTH:
        if (!http_number(value, &length) || (again && length != h->out->length))
            return -400;
        h->out->length = length;
        return 0;
    default:
        return 0;
    }
}

/* `name: value`. A blank in or around the name, so also a folded line, makes it no token: sections
 * 5.1 and 5.2 ask for 400. */
static int
http_field_line(struct http_head *h, struct str line)
{
    struct str name, *header = h->out->header;
    size_t field = 0;
    bool again;

    if (!cut(&line, ':', &name) || !is_token(name))
        return -400;
    line = trim_blanks(line);
    while (field < HTTP_HEADERS && !str_ieq(name, str_of(http_fields[field].name)))
        field++;
    if (field == HTTP_HEADERS)
        return 0;
    again = header[field].p != NULL;
    if (again && http_fields[field].once)
        return -400;
    if (!again)
        header[field] = line;
    return http_note(h, (enum http_header)field, line, again);
}

/* What the fields mean together: where the body ends (section 6.3) and what follows it (9.3). */
static int
http_conclude(struct http_head *h)
{
    struct http_req *out = h->out;
    struct str coding = out->header[HTTP_TRANSFER_ENCODING];

    if (out->http11 && out->header[HTTP_HOST].p == NULL)
        return -400;
    if (h->authority.p != NULL) /* section 3.2.2: it counts instead of Host */
        out->header[HTTP_HOST] = h->authority;
    if (coding.p != NULL) {
        if (out->header[HTTP_CONTENT_LENGTH].p != NULL || !out->http11 || coding.n == 0)
            return -400;
        if (!str_ieq(coding, STR("chunked")))
            return -501;
        out->chunked = true;
    }
    out->keep_alive = !h->close && (out->http11 || h->keep_alive);
    /* RFC 9110 section 7.8: an Upgrade in HTTP/1.0 is to be ignored. */
    out->upgrade = out->http11 && h->upgrade && h->websocket;
    return 0;
}

ptrdiff_t
http_decode(const char *p, size_t n, size_t *scan, struct http_req *out)
{
    size_t end = http_find_end(p, n < MAX_HEAD ? n : MAX_HEAD, scan), start;
    struct http_head h = {.out = out};
    struct str rest, line;
    int r;

    if (end == 0)
        return n < MAX_HEAD ? 0 : -431;
    *scan = 0;
    *out = (struct http_req){0};
    start = http_skip_empty(p, end, 0);
    rest = (struct str){p + start, end - start};
    r = http_line(&rest, &line);
    if (r == 0)
        r = http_request_line(&h, line);
    while (r == 0) {
        r = http_line(&rest, &line);
        if (r == 0 && line.n == 0)
            break;
        if (r == 0)
            r = http_field_line(&h, line);
    }
    if (r == 0)
        r = http_conclude(&h);
    return r < 0 ? r : (ptrdiff_t)end;
}

/* === chunked body (RFC 9112 section 7.1) ====================================================== */

enum chunk_state {
    CHUNK_START,       /* at the first digit of a size */
    CHUNK_SIZE,        /* inside it */
    CHUNK_BLANK,       /* blanks behind it */
    CHUNK_EXTENSION,   /* behind a semicolon: skipped */
    CHUNK_SIZE_CR,     /* LF must follow */
    CHUNK_DATA,
    CHUNK_DATA_END,    /* CR LF or LF must follow */
    CHUNK_DATA_CR,
    CHUNK_TRAILER,     /* at the start of a line behind the last chunk */
    CHUNK_TRAILER_IN,  /* inside a trailer field: skipped */
    CHUNK_TRAILER_CR,
    CHUNK_LAST_CR,     /* of the empty line */
    CHUNK_DONE
};

static int
hex_value(char c)
{
    c = lower(c);
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* A size line is complete. */
static int
chunk_begin(struct http_chunked *s, size_t max)
{
    s->line = 0;
    s->state = s->left > 0 ? CHUNK_DATA : CHUNK_TRAILER;
    return s->body > max || s->left > max - s->body ? -413 : 0;
}

/* One byte of a size line. */
static int
chunk_size(struct http_chunked *s, char c, size_t max)
{
    int digit = s->state <= CHUNK_SIZE ? hex_value(c) : -1;

    if (++s->line > MAX_CHUNK_LINE)
        return -400;
    if (digit >= 0) {
        if (s->left >> 60)
            return -400;
        s->left = s->left << 4 | (uint64_t)digit;
        s->state = CHUNK_SIZE;
        return 0;
    }
    if (s->state == CHUNK_START)
        return -400;
    if (c == '\n')
        return chunk_begin(s, max);
    if (s->state == CHUNK_SIZE_CR)
        return -400;
    if (c == '\r')
        s->state = CHUNK_SIZE_CR;
    else if (s->state == CHUNK_EXTENSION)
        return is_control(c) && c != '\t' ? -400 : 0;
    else if (c == ';')
        s->state = CHUNK_EXTENSION;
    else if (is_blank(c))
        s->state = CHUNK_BLANK;
    else
        return -400;
    return 0;
}

/* One byte behind the last chunk: trailer fields, then an empty line. */
static int
chunk_trailer(struct http_chunked *s, char c)
{
    bool empty = s->state == CHUNK_TRAILER || s->state == CHUNK_LAST_CR;

    if (++s->line > MAX_HEAD)
        return -400;
    if (c == '\n')
        s->state = empty ? CHUNK_DONE : CHUNK_TRAILER;
    else if (s->state == CHUNK_TRAILER_CR || s->state == CHUNK_LAST_CR)
        return -400;
    else if (c == '\r')
        s->state = empty ? CHUNK_LAST_CR : CHUNK_TRAILER_CR;
    else if (is_control(c) && c != '\t')
        return -400;
    else
        s->state = CHUNK_TRAILER_IN;
    return 0;
}

/* One byte outside a chunk's data. */
static int
chunk_byte(struct http_chunked *s, char c, size_t max)
{
    if (s->state < CHUNK_DATA)
        return chunk_size(s, c, max);
    if (s->state >= CHUNK_TRAILER)
        return chunk_trailer(s, c);
    if (c == '\n')
        s->state = CHUNK_START;
    else if (c == '\r' && s->state == CHUNK_DATA_END)
        s->state = CHUNK_DATA_CR;
    else
        return -400;
    return 0;
}

/* Move as much of the current chunk's data as is there behind the body. */
static void
chunk_data(struct http_chunked *s, char *p, size_t n)
{
    size_t take = n - s->raw < s->left ? n - s->raw : (size_t)s->left;

    memmove(p + s->body, p + s->raw, take);
    s->body += take;
    s->raw += take;
    s->left -= take;
    if (s->left == 0)
        s->state = CHUNK_DATA_END;
}

int
http_unchunk(struct http_chunked *s, char *p, size_t *n, size_t max)
{
    while (s->raw < *n && s->state != CHUNK_DONE) {
        int r = 0;
        if (s->state == CHUNK_DATA)
            chunk_data(s, p, *n);
        else
            r = chunk_byte(s, p[s->raw++], max);
        if (r < 0)
            return r;
    }
    if (s->raw > s->body) {
        memmove(p + s->body, p + s->raw, *n - s->raw);
        *n -= s->raw - s->body;
        s->raw = s->body;
    }
    return s->state == CHUNK_DONE;
}

/* === URLs and lists =========================================================================== */

ptrdiff_t
url_decode(char *dst, struct str s, bool plus)
{
    char *at = dst;

    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (c == '%') {
            int high = s.n - i > 2 ? hex_value(s.p[i + 1]) : -1;
            int low = high >= 0 ? hex_value(s.p[i + 2]) : -1;
            if (low < 0)
                return -1;
            c = (char)(high << 4 | low);
            i += 2;
        } else if (c == '+' && plus) {
            c = ' ';
        }
        *at++ = c;
    }
    return at - dst;
}

bool
query_next(struct str *rest, struct str *name, struct str *value)
{
    struct str pair = {NULL, 0};

    while (rest->n > 0 && pair.n == 0)
        cut(rest, '&', &pair);
    if (pair.n == 0)
        return false;
    cut(&pair, '=', name);
    *value = pair;
    return true;
}

bool
http_list_has(struct str list, const char *token)
{
    struct str item;

    while (list.n > 0) {
        cut(&list, ',', &item);
        if (str_ieq(trim_blanks(item), str_of(token)))
            return true;
    }
    return false;
}
