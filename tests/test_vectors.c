/* SPDX-License-Identifier: MIT */
/*
 * test_vectors.c - the test vectors of docs/protocol.md, read from the document itself, so that
 * what it tells the authors of clients is what the codecs and the running server do.
 *
 *   reading      fenced blocks of a kind; bytes as the document writes them
 *   frames       ```tcp-im and ```websocket: a stream and what a decoder must make of it, whole and
 *                byte by byte; what a server sends is encoded again, too
 *   exchanges    ```exchange: whole conversations, byte for byte, with a server of their own each
 */
#include "client.h"

#include <stdarg.h>

#define ROOM (1u << 18)      /* bytes of the longest stream: there is one of 64 KiB */
#define FRAME_MAX 2202009    /* jim.frame.max, of which the document speaks */
#define MAX_PEERS 4

struct lines { /* the document, line by line */
    struct buf text;
    struct str rest;
    int number;
};

/* --- reading ---------------------------------------------------------------------------------- */

static struct lines
document(void)
{
    char path[600];
    struct lines d = {.number = 0};

    snprintf(path, sizeof path, "%s/docs/protocol.md", test_source());
    test_begins();
    d.text = read_whole(path);
    d.rest = (struct str){d.text.p, d.text.len};
    return d;
}

static bool
next_line(struct lines *d, struct str *line)
{
    d->number++;
    return d->rest.n > 0 && str_split(&d->rest, '\n', line);
}

static bool
begins(struct str s, const char *with)
{
    return s.n >= strlen(with) && memcmp(s.p, with, strlen(with)) == 0;
}

/* Skip to the next block of a kind; false when there is none. */
static bool
next_block(struct lines *d, const char *kind)
{
    char fence[32];
    struct str line;

    snprintf(fence, sizeof fence, "```%s", kind);
    while (next_line(d, &line))
        if (line.n == strlen(fence) && begins(line, fence))
            return true;
    return false;
}

/* The next line of a block that says something; false at its end. */
static bool
block_line(struct lines *d, struct str *line)
{
    while (next_line(d, line)) {
        if (begins(*line, "```"))
            return false;
        if (line->n > 0 && line->p[0] != '#')
            return true;
    }
    test_fail("docs/protocol.md", d->number, "a block without an end");
}

static int
digit(const struct lines *d, char c)
{
    static const char digits[] = "0123456789abcdef";
    const char *at = c == '\0' ? NULL : strchr(digits, c);

    if (at == NULL)
        test_fail("docs/protocol.md", d->number, "'%c' is no hexadecimal digit", c);
    return (int)(at - digits);
}

/* Text between backquotes: \r, \n are escapes. Returns its end. */
static const char *
text_bytes(struct buf *b, const char *p, const char *end)
{
    for (; p < end && *p != '`'; p++) {
        char c = *p;
        if (c == '\\' && p + 1 < end)
            c = *++p == 'r' ? '\r' : '\n';
        buf_add(b, &c, 1);
    }
    return p + 1;
}

/* Bytes as the document writes them: hex digits, blanks between bytes, 00*256, `text`. */
static struct buf
bytes(const struct lines *d, struct str s)
{
    struct buf b = {0};

    for (const char *p = s.p, *end = s.p + s.n; p < end;) {
        if (*p == ' ') {
            p++;
            continue;
        }
        if (*p == '`') {
            p = text_bytes(&b, p + 1, end);
            continue;
        }
        char c = (char)(digit(d, p[0]) << 4 | digit(d, p + 1 < end ? p[1] : ' '));
        long times = 1;
        p += 2;
        if (p < end && *p == '*')
            times = strtol(p + 1, (char **)(uintptr_t)&p, 10);
        for (long i = 0; i < times; i++)
            buf_add(&b, &c, 1);
    }
    return b;
}

/* --- frames ----------------------------------------------------------------------------------- */

/* What has been decoded, in the document's words. */
static void say_it(struct buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void
say_it(struct buf *b, const char *format, ...)
{
    char text[256];
    va_list ap;

    va_start(ap, format);
    int n = vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    CHECK(n >= 0 && (size_t)n < sizeof text);
    if (b->len > 0)
        buf_add(b, " | ", 3);
    buf_add(b, text, (size_t)n);
}

static void
say_payload(struct buf *b, struct str s)
{
    char text[32];

    if (s.n > 200) {
        snprintf(text, sizeof text, " %zu bytes", s.n);
        buf_add(b, text, strlen(text));
    } else if (s.n > 0) {
        buf_add(b, " ", 1);
        buf_add(b, s.p, s.n);
    }
}

/* Decode as much as there is; false when no more may come. */
static bool
decode_tcp(const char *p, size_t n, size_t *used, void *state, struct buf *out)
{
    (void)state;
    for (;;) {
        struct pkt pkt;
        char *edge = test_edge(p + *used, n - *used);
        ptrdiff_t r = pkt_decode(edge, n - *used, FRAME_MAX, &pkt);
        if (r == 0)
            return true;
        if (r < 0) {
            say_it(out, "error %s", r == PKT_BAD_VERSION ? "version" : "length");
            return false;
        }
        say_it(out, "cmd %u", pkt.cmd);
        if (pkt.seq > 0) {
            char text[32];
            snprintf(text, sizeof text, " seq %u", (unsigned)pkt.seq);
            buf_add(out, text, strlen(text));
        }
        say_payload(out, pkt.body);
        *used += (size_t)r;
    }
}

struct ws_state {
    struct ws ws;
    struct buf message; /* fragments so far */
    char *input;        /* unmasked in place from call to call */
};

static const char *
opcode_name(unsigned op)
{
    return op == WS_TEXT ? "text" : op == WS_BINARY ? "binary" : op == WS_PING ? "ping" : "pong";
}

static void
say_frame(struct ws_state *s, const struct ws_frame *f, struct buf *out)
{
    if (f->opcode == WS_CLOSE) {
        if (f->code == WS_NO_STATUS)
            say_it(out, "close");
        else
            say_it(out, "close %u", f->code);
        say_payload(out, f->payload);
    } else if (f->opcode >= WS_CLOSE) {
        say_it(out, "%s", opcode_name(f->opcode));
        say_payload(out, f->payload);
    } else {
        buf_add(&s->message, f->payload.p, f->payload.n);
        if (!f->fin)
            return;
        say_it(out, "%s", opcode_name(f->opcode));
        say_payload(out, (struct str){s->message.p, s->message.len});
        s->message.len = 0;
    }
}

static bool
decode_ws(const char *p, size_t n, size_t *used, void *state, struct buf *out)
{
    struct ws_state *s = state;

    (void)p;
    for (;;) {
        struct ws_frame f;
        ptrdiff_t r = ws_decode(&s->ws, s->input + *used, n - *used, FRAME_MAX, &f);
        if (r == 0)
            return true;
        if (r < 0) {
            say_it(out, "fail %d", (int)-r);
            return false;
        }
        say_frame(s, &f, out);
        *used += (size_t)r;
    }
}

typedef bool decode_fn(const char *p, size_t n, size_t *used, void *state, struct buf *out);

/* Give a decoder the stream in pieces; it must say what the document says. */
static void
decoded(const struct lines *d, decode_fn *fn, struct buf in, size_t piece, struct str want)
{
    struct ws_state state = {.input = malloc(in.len + 1)};
    struct buf out = {0};
    size_t used = 0;
    bool open = true;

    CHECK(state.input != NULL);
    for (size_t n = 0; open && n < in.len;) {
        size_t step = piece < in.len - n ? piece : in.len - n;
        memcpy(state.input + n, in.p + n, step);
        n += step;
        open = fn(in.p, n, &used, &state, &out);
    }
    if (open && used < in.len)
        say_it(&out, "more");
    if (out.len != want.n || memcmp(out.p, want.p, want.n) != 0)
        test_fail("docs/protocol.md", d->number, "in pieces of %zu this is\n  %.*s\nnot\n  %.*s",
                  piece, (int)out.len, out.p, (int)want.n, want.p);
    free(state.input);
    buf_free(&state.message);
    buf_free(&out);
}

/* The head that our encoder puts before the payload behind it must be the one that stands there. */
static void
encoded(const struct lines *d, struct buf in, const uint8_t *head, size_t n)
{
    if (n > in.len || memcmp(in.p, head, n) != 0)
        test_fail("docs/protocol.md", d->number, "a server would send another head");
}

static void
server_tcp(const struct lines *d, struct buf in, struct str want)
{
    struct pkt pkt;
    uint8_t head[MAX_PKT_HEAD];

    decoded(d, decode_tcp, in, SIZE_MAX, want);
    decoded(d, decode_tcp, in, 1, want);
    CHECK(pkt_decode(in.p, in.len, FRAME_MAX, &pkt) == (ptrdiff_t)in.len);
    encoded(d, in, head, pkt_head(head, pkt.cmd, pkt.seq, (uint32_t)pkt.body.n));
}

static void
server_ws(const struct lines *d, struct buf in, struct str want)
{
    unsigned op = (uint8_t)in.p[0] & 15, length = (uint8_t)in.p[1] & 127;
    size_t n = length < 126 ? 2 : length == 126 ? 4 : 10;
    struct str payload = {in.p + n, in.len - n};
    struct buf out = {0};
    uint8_t head[MAX_WS_HEAD];

    CHECK(in.len >= n);
    encoded(d, in, head, ws_head(head, (enum ws_opcode)op, payload.n));
    if (op == WS_CLOSE)
        say_it(&out, "close %d", (uint8_t)payload.p[0] << 8 | (uint8_t)payload.p[1]);
    else
        say_it(&out, "%s", opcode_name(op));
    say_payload(&out, op == WS_CLOSE ? (struct str){payload.p + 2, payload.n - 2} : payload);
    if (out.len != want.n || memcmp(out.p, want.p, want.n) != 0)
        test_fail("docs/protocol.md", d->number, "this is '%.*s'", (int)out.len, out.p);
    buf_free(&out);
}

static void
key_vector(const struct lines *d, struct str key, struct str want)
{
    char accept[28], said[64] = "refused";

    if (ws_accept(key, accept))
        snprintf(said, sizeof said, "accept %.28s", accept);
    if (want.n != strlen(said) || memcmp(want.p, said, want.n) != 0)
        test_fail("docs/protocol.md", d->number, "the answer is '%s'", said);
}

/* One vector: a line with who sends what, and the line `= ...`. */
static void
vector(struct lines *d, struct str line, bool ws)
{
    struct str want;

    if (!block_line(d, &want) || !begins(want, "= "))
        test_fail("docs/protocol.md", d->number, "a vector without its line '= ...'");
    want.p += 2;
    want.n -= 2;
    if (ws && begins(line, "key ")) {
        key_vector(d, (struct str){line.p + 4, line.n - 4}, want);
        return;
    }
    bool server = begins(line, "server ");
    if (!server && !begins(line, "client "))
        test_fail("docs/protocol.md", d->number, "neither client nor server");
    struct buf in = bytes(d, (struct str){line.p + 7, line.n - 7});
    CHECK(in.len >= 2);
    if (server && ws) {
        server_ws(d, in, want);
    } else if (server) {
        server_tcp(d, in, want);
    } else {
        decoded(d, ws ? decode_ws : decode_tcp, in, SIZE_MAX, want);
        decoded(d, ws ? decode_ws : decode_tcp, in, 1, want);
    }
    buf_free(&in);
}

static int
vectors(const char *kind)
{
    struct lines d = document();
    struct str line;
    int n = 0;

    while (next_block(&d, kind))
        for (; block_line(&d, &line); n++)
            vector(&d, line, strcmp(kind, "websocket") == 0);
    buf_free(&d.text);
    return n;
}

TEST(vectors_tcp_im)
{
    int n = vectors("tcp-im");

    CHECK(n >= 15);
    test_note("%d TCP-IM vectors of docs/protocol.md", n);
}

TEST(vectors_websocket)
{
    int n = vectors("websocket");

    CHECK(n >= 25);
    test_note("%d WebSocket vectors of docs/protocol.md", n);
}

/* --- exchanges -------------------------------------------------------------------------------- */

/* `got` from *at on is `n` characters of a kind. */
static void
varying(const struct lines *d, struct str got, size_t at, size_t n, const char *of)
{
    for (size_t i = at; i < at + n; i++)
        if (i >= got.n || strchr(of, got.p[i]) == NULL)
            test_fail("docs/protocol.md", d->number, "what came is\n  %.*s", (int)got.n, got.p);
}

/* Replace <time> and <id> by what stands there in `got`, if that is of their kind. */
static struct buf
filled(const struct lines *d, struct buf want, struct str got)
{
    struct buf b = {0};

    for (size_t i = 0; i < want.len;) {
        struct str rest = {want.p + i, want.len - i};
        size_t n = begins(rest, "<time>") ? 13 : begins(rest, "<id>") ? 32 : 0;
        if (n == 0) {
            buf_add(&b, want.p + i++, 1);
            continue;
        }
        varying(d, got, b.len, n, n == 13 ? "0123456789" : "0123456789abcdef");
        buf_add(&b, got.p + b.len, n);
        i += n == 13 ? strlen("<time>") : strlen("<id>");
    }
    return b;
}

static size_t
length_of(struct buf want)
{
    size_t n = want.len;

    for (size_t i = 0; i < want.len; i++) {
        struct str rest = {want.p + i, want.len - i};
        n += begins(rest, "<time>") ? 13 - strlen("<time>") : 0;
        n += begins(rest, "<id>") ? 32 - strlen("<id>") : 0;
    }
    return n;
}

static void
hear_line(const struct lines *d, struct peer *p, struct str line)
{
    if (str_eq(line, STR("end"))) {
        hear_end(p);
        if (p->in.len > p->used)
            test_fail("docs/protocol.md", d->number, "more has come");
        return;
    }
    struct buf want = bytes(d, line);
    if (!hear_bytes(p, length_of(want)))
        test_fail("docs/protocol.md", d->number, "the connection has ended");
    struct buf all = filled(d, want, p->text);
    test_bytes("docs/protocol.md", d->number, "what came", p->text.p, p->text.n, all.p, all.len);
    buf_free(&want);
    buf_free(&all);
}

/* One block: lines `NAME > bytes` and `NAME < bytes`; the first of a NAME connects. */
static int
exchange(struct lines *d, const struct server *s, size_t piece)
{
    struct peer peers[MAX_PEERS];
    char names[MAX_PEERS] = {0};
    struct str line;
    int n = 0;

    for (; block_line(d, &line); n++) {
        size_t i = 0;
        CHECK(line.n > 4 && line.p[1] == ' ' && (line.p[2] == '>' || line.p[2] == '<'));
        while (i < MAX_PEERS && names[i] != '\0' && names[i] != line.p[0])
            i++;
        CHECK(i < MAX_PEERS);
        if (names[i] == '\0') {
            names[i] = line.p[0];
            peer_connect(&peers[i], s);
        }
        struct str rest = {line.p + 4, line.n - 4};
        if (line.p[2] == '<') {
            hear_line(d, &peers[i], rest);
            continue;
        }
        struct buf out = bytes(d, rest);
        peer_hold(&peers[i]);
        put(&peers[i], out.p, out.len);
        peer_release(&peers[i], piece);
        buf_free(&out);
    }
    for (size_t i = 0; i < MAX_PEERS && names[i] != '\0'; i++) {
        if (peers[i].in.len > peers[i].used)
            test_fail("docs/protocol.md", d->number, "%c has been sent more", names[i]);
        peer_close(&peers[i]);
    }
    return n;
}

static void
exchanges(size_t piece)
{
    struct lines d = document();
    int blocks = 0, n = 0;

    for (; next_block(&d, "exchange"); blocks++) {
        char dir[64];
        struct server s;
        snprintf(dir, sizeof dir, "jim.store.dir=store-%d", blocks);
        server_start(&s, QUIET, "-o", dir, NULL);
        n += exchange(&d, &s, piece);
        CHECK_INT(server_end(&s, SIGTERM), 0);
    }
    CHECK(blocks >= 2 && n >= 25);
    test_note("%d lines of %d exchanges of docs/protocol.md", n, blocks);
    buf_free(&d.text);
}

TEST(vectors_exchanges)
{
    exchanges(IN_ONE_WRITE);
}

TEST(vectors_exchanges_byte_by_byte)
{
    exchanges(1);
}
