/* SPDX-License-Identifier: MIT */
/*
 * test_codec.c - the codecs against the vectors of their standards, and against the network's habit
 * of cutting streams anywhere.
 *
 * A vector is a stream and the transcript its decoder must produce. Each is decoded whole, cut in
 * two at every byte, and byte by byte; the transcript must be the same every time. The bytes always
 * end at an unreadable page, and move from call to call as a connection's buffer does. Then: what
 * has no stream (base64, queries, heads we write), limits, the work a slow drip causes, and mutated
 * vectors, for which there is no right answer but still only one.
 */
#include "test.h"

#include <stdarg.h>

#define ROOM (1u << 17)    /* bytes of the longest stream run through a decoder table */
#define MAX_MESSAGE 1000   /* limit given to pkt_decode() and ws_decode() */
#define MAX_CHUNKED 100    /* and to http_unchunk() */
#define COUNT(a) (sizeof(a) / sizeof(a)[0])

struct vector {
    const char *in;
    size_t n;
    const char *want;
};
#define V(in, want) {in, sizeof in - 1, want}

struct stream { /* one decoding of one input */
    char *p;    /* bytes not yet consumed: p[0, n) */
    size_t n;
    bool over;  /* the decoder said never, or finished for good */
    uint32_t utf8;
    struct sha1 sha1;
    uint32_t crc;
    struct ws ws;
    size_t scan;
    struct http_chunked chunked;
    char text[ROOM + 1024]; /* the transcript */
    size_t len;
};

struct decoder {
    const char *name;
    const struct vector *vectors;
    size_t count;
    bool hex;                           /* the input is written for unhex() */
    size_t (*step)(struct stream *s);   /* bytes consumed; 0: more, or over */
    void (*end)(struct stream *s);      /* the stream has ended without being over */
};

static char *edge; /* one past ROOM writable bytes: unreadable */
static struct crc32c crc_tables;

/* --- inputs ----------------------------------------------------------------------------------- */

static const char ws_key[4] = {0x37, (char)0xfa, 0x21, 0x3d}; /* RFC 6455 section 5.7 */

static int
hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/*
 * Bytes from text: hex digits; 'text' is a mask key and the text masked with it; <text> is itself;
 * [12 a] and {12 a} are the same for twelve times the letter a.
 */
static size_t
unhex(const char *s, size_t n, char *out)
{
    size_t len = 0;

    for (const char *end = s + n; s < end; s++) {
        bool masked = *s == '\'' || *s == '[';
        size_t from = len, repeat = 1;
        char close = *s == '<' ? '>' : *s == '[' ? ']' : *s == '{' ? '}' : *s;

        if (*s == ' ')
            continue;
        if (hex_digit(*s) >= 0) {
            out[len++] = (char)(hex_digit(s[0]) << 4 | hex_digit(s[1]));
            s++;
            continue;
        }
        if (masked)
            for (int k = 0; k < 4; k++)
                out[len++] = ws_key[k];
        from = len;
        if (*s == '[' || *s == '{') {
            repeat = strtoul(s + 1, NULL, 10);
            s = strchr(s + 1, ' ');
        }
        for (s++; *s != close; s++)
            for (size_t k = 0; k < repeat; k++)
                out[len++] = *s;
        for (size_t i = from; masked && i < len; i++)
            out[i] = (char)(out[i] ^ ws_key[(i - from) % 4]);
    }
    return len;
}

/* --- transcripts ------------------------------------------------------------------------------ */

static void put(struct stream *s, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void
put(struct stream *s, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    s->len += (size_t)vsnprintf(s->text + s->len, sizeof s->text - s->len, format, ap);
    va_end(ap);
    CHECK(s->len < sizeof s->text);
}

/* The text between angle brackets; long runs of one byte as a count. */
static void
put_bytes(struct stream *s, struct str b)
{
    if (b.n > 60 && memcmp(b.p, b.p + 1, b.n - 1) == 0) {
        put(s, " <%zu*%c>", b.n, b.p[0]);
        return;
    }
    put(s, " <");
    for (size_t i = 0; i < b.n; i++)
        put(s, (uint8_t)b.p[i] < 0x20 ? "\\x%02x" : "%c", b.p[i]);
    put(s, ">");
}

static void
begin_entry(struct stream *s)
{
    if (s->len > 0)
        put(s, " | ");
}

/* --- one adapter per decoder ------------------------------------------------------------------ */

static size_t
step_utf8(struct stream *s)
{
    if (!utf8_check(&s->utf8, s->p, s->n)) {
        put(s, "bad");
        s->over = true;
        return 0;
    }
    return s->n;
}

static void
end_utf8(struct stream *s)
{
    put(s, s->utf8 == 0 ? "ok" : "cut");
}

static size_t
step_sha1(struct stream *s)
{
    sha1_add(&s->sha1, s->p, s->n);
    return s->n;
}

static void
end_sha1(struct stream *s)
{
    uint8_t digest[20];

    sha1_end(&s->sha1, digest);
    for (int i = 0; i < 20; i++)
        put(s, "%02x", digest[i]);
}

static size_t
step_crc(struct stream *s)
{
    s->crc = crc32c_add(&crc_tables, s->crc, s->p, s->n);
    return s->n;
}

static void
end_crc(struct stream *s)
{
    put(s, "%08x", (unsigned)s->crc);
}

static size_t
step_pkt(struct stream *s)
{
    struct pkt pkt;
    ptrdiff_t r = pkt_decode(s->p, s->n, MAX_MESSAGE, &pkt);

    if (r == 0)
        return 0;
    begin_entry(s);
    if (r < 0) {
        put(s, "%s", r == PKT_BAD_VERSION ? "bad version" : "bad length");
        s->over = true;
        return 0;
    }
    put(s, "%u/%u", pkt.cmd, (unsigned)pkt.seq);
    put_bytes(s, pkt.body);
    CHECK(pkt.body.p + pkt.body.n == s->p + r);
    return (size_t)r;
}

static void
end_pending(struct stream *s)
{
    if (s->n == 0 && s->len > 0)
        return;
    begin_entry(s);
    put(s, "+%zu", s->n);
}

static size_t
step_ws(struct stream *s)
{
    static const char *const names[16] = {
        [WS_TEXT] = "text", [WS_BINARY] = "binary", [WS_CLOSE] = "close", [WS_PING] = "ping",
        [WS_PONG] = "pong"};
    struct ws_frame f;
    ptrdiff_t r = ws_decode(&s->ws, s->p, s->n, MAX_MESSAGE, &f);

    if (r == 0)
        return 0;
    begin_entry(s);
    if (r < 0) {
        put(s, "error %d", (int)-r);
        s->over = true;
        return 0;
    }
    CHECK(s->ws.done == 0);
    CHECK(f.payload.p + f.payload.n == s->p + r);
    CHECK(f.fin || !f.whole);
    CHECK(f.opcode < 16 && names[f.opcode] != NULL);
    put(s, "%s", names[f.opcode]);
    if (f.opcode == WS_CLOSE)
        put(s, " %u", f.code);
    else if (!f.whole)
        put(s, f.fin ? " end" : " part");
    put_bytes(s, f.payload);
    return (size_t)r;
}

static const char *const http_names[HTTP_HEADERS] = {
    "host", "connection", "upgrade", "key", "version", "origin", "auth", "cl", "te", "type",
    "expect", "match", "since", "acrm", "acrh"};

static size_t
step_http(struct stream *s)
{
    struct http_req q;
    ptrdiff_t r = http_decode(s->p, s->n, &s->scan, &q);

    if (r == 0)
        return 0;
    begin_entry(s);
    if (r < 0) {
        put(s, "%d", (int)-r);
        s->over = true;
        return 0;
    }
    CHECK(s->scan == 0);
    put(s, "%.*s %.*s", (int)q.method.n, q.method.p, (int)q.path.n, q.path.p);
    if (q.query.n > 0)
        put(s, "?%.*s", (int)q.query.n, q.query.p);
    put(s, "%s%s%s%s", q.http11 ? " 1.1" : " 1.0", q.keep_alive ? " keep" : " close",
        q.upgrade ? " upgrade" : "", q.chunked ? " chunked" : "");
    if (q.length > 0)
        put(s, " length=%llu", (unsigned long long)q.length);
    for (int i = 0; i < HTTP_HEADERS; i++)
        if (q.header[i].p != NULL)
            put(s, " %s=%.*s", http_names[i], (int)q.header[i].n, q.header[i].p);
    return (size_t)r;
}

/* The body stays in the buffer, so nothing is ever consumed. */
static size_t
step_chunked(struct stream *s)
{
    int r = http_unchunk(&s->chunked, s->p, &s->n, MAX_CHUNKED);

    if (r == 0) {
        CHECK(s->chunked.raw == s->n); /* nothing is left to be looked at again */
        CHECK(s->chunked.body == s->n);
        return 0;
    }
    s->over = true;
    if (r < 0) {
        put(s, "%d", -r);
        return 0;
    }
    put(s, "done");
    put_bytes(s, (struct str){s->p, s->chunked.body});
    return 0;
}

/* Whatever came behind the body must still be there; how much had come by then depends on the cuts,
 * so it is part of the transcript only here. */
static void
end_chunked(struct stream *s)
{
    if (s->over && s->text[0] == 'd' && s->n > s->chunked.raw) {
        put(s, " rest");
        put_bytes(s, (struct str){s->p + s->chunked.raw, s->n - s->chunked.raw});
    }
    if (s->over)
        return;
    put(s, "more");
    put_bytes(s, (struct str){s->p, s->chunked.body});
}

/* --- vectors ---------------------------------------------------------------------------------- */

static const struct vector utf8_vectors[] = {
    V("", "ok"),
    V("00", "ok"),
    V("7f", "ok"),
    V("<The quick brown fox jumps over the lazy dog>", "ok"),
    /* RFC 3629 section 7: three examples, then a BOM and U+233B4 */
    V("41 e289a2 ce91 2e", "ok"),
    V("ed959c eab5ad ec96b4", "ok"),
    V("e697a5 e69cac e8aa9e", "ok"),
    V("efbbbf f0a38eb4", "ok"),
    /* both ends of each length: U+80 U+7FF U+800 U+FFFF U+10000 U+10FFFF */
    V("c280", "ok"),
    V("dfbf", "ok"),
    V("e0a080", "ok"),
    V("efbfbf", "ok"),
    V("f0908080", "ok"),
    V("f48fbfbf", "ok"),
    /* around the surrogates: U+D7FF U+E000 are characters, U+D800 U+DBFF U+DC00 U+DFFF are not */
    V("ed9fbf", "ok"),
    V("ee8080", "ok"),
    V("eda080", "bad"),
    V("edafbf", "bad"),
    V("edb080", "bad"),
    V("edbfbf", "bad"),
    V("eda081 edb080", "bad"), /* CESU-8 */
    /* overlong: first and last of each */
    V("c080", "bad"),
    V("c0af", "bad"),
    V("c1bf", "bad"),
    V("e08080", "bad"),
    V("e080af", "bad"),
    V("e09fbf", "bad"),
    V("f0808080", "bad"),
    V("f08080af", "bad"),
    V("f08fbfbf", "bad"),
    V("f888808080", "bad"),
    V("fc8480808080", "bad"),
    /* above U+10FFFF */
    V("f4908080", "bad"),
    V("f5808080", "bad"),
    V("f7bfbfbf", "bad"),
    V("fe", "bad"),
    V("ff", "bad"),
    /* continuation bytes without a first one; first bytes without theirs */
    V("80", "bad"),
    V("bf", "bad"),
    V("<a> 80", "bad"),
    V("c2 <a>", "bad"),
    V("c2 c2 80", "bad"),
    V("e4b8 <a>", "bad"),
    V("f09f98 <a>", "bad"),
    V("e4b8ad 80", "bad"),
    V("<01234567> 80", "bad"),
    V("<01234567> e4b8ad <012345678> ff", "bad"),
    /* ends inside a character */
    V("c2", "cut"),
    V("e0", "cut"),
    V("e0a0", "cut"),
    V("ed9f", "cut"),
    V("f0", "cut"),
    V("f490", "bad"),
    V("f48f", "cut"),
    V("f09f98", "cut"),
    V("<01234567> e4b8ad e696", "cut"),
    V("e5ad94e4bc8ae581a5 <, > f09f9880 <; Gr> c3bc c39f <e>", "ok"),
};

static const struct vector sha1_vectors[] = {
    /* FIPS 180-1 appendix A and B, FIPS 180-2 for 896 bits; then lengths around the padding */
    V("", "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
    V("<abc>", "a9993e364706816aba3e25717850c26c9cd0d89d"),
    V("<abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq>",
      "84983e441c3bd26ebaae4aa1f95129e5e54670f1"),
    V("<abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqr"
      "lmnopqrsmnopqrstnopqrstu>",
      "a49b2446a02c645bf419f995b67091253a04a259"),
    V("{55 a}", "c1c8bbdc22796e28c0e15163d20899b65621d65a"),
    V("{56 a}", "c2db330f6083854c99d4b5bfb6e8f29f201be699"),
    V("{63 a}", "03f09f5b158a7a8cdad920bddc29b81c18a551f5"),
    V("{64 a}", "0098ba824b5c16427bd7a1122a5a442a25ec644d"),
    V("{65 a}", "11655326c708d70319be2610e8a57d9a5b959d3b"),
    V("{119 a}", "ee971065aaa017e0632a8ca6c77bb3bf8b1dfc56"),
    V("{120 a}", "f34c1488385346a55709ba056ddd08280dd4c6d6"),
};

static const struct vector crc_vectors[] = {
    V("", "00000000"),
    /* RFC 3720 appendix B.4 */
    V("0000000000000000000000000000000000000000000000000000000000000000", "8a9136aa"),
    V("ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff", "62a8ab43"),
    V("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", "46dd794e"),
    V("1f1e1d1c1b1a191817161514131211100f0e0d0c0b0a09080706050403020100", "113fdb5c"),
    V("01c00000000000000000000000000000140000000000040000000014000000182800000000000000"
      "0200000000000000",
      "d9963a56"),
    V("<123456789>", "e3069283"), /* the check value of the CRC catalogues */
};

static const struct vector pkt_vectors[] = {
    /* wire.md section 2 */
    V("01510d00000000", "13/0 <>"),
    V("01510d00000025 <{\"command\":13,\"data\":{\"hbbyte\":-128}}>",
      "13/0 <{\"command\":13,\"data\":{\"hbbyte\":-128}}>"),
    V("01510c00000033 <{\"code\":10000,\"command\":12,\"msg\":\"ok \xe5\x8f\x91\xe9\x80\x81\xe6\x88"
      "\x90\xe5\x8a\x9f\"}>",
      "12/0 <{\"code\":10000,\"command\":12,\"msg\":\"ok \xe5\x8f\x91\xe9\x80\x81\xe6\x88"
      "\x90\xe5\x8a\x9f\"}>"),
    /* recorded from J-IM 3.0: golden/tcp_framing.json */
    V("01000d000000027b7d", "13/0 <{}>"),
    V("01000d000000027b7d01000d000000027b7d", "13/0 <{}> | 13/0 <{}>"),
    V("01000d000000027b7d01000d000000027b7d01000d0000", "13/0 <{}> | 13/0 <{}> | +5"),
    V("01100d000000027b7d", "13/0 <{}>"),
    V("010f0d000000027b7d", "13/0 <{}>"),
    V("01ff000000000d000000027b7d", "13/0 <{}>"), /* sequence number 0 */
    V("010063000000027b7d01000d000000027b7d", "99/0 <{}> | 13/0 <{}>"),
    V("00000d000000027b7d", "bad version"),
    V("02000d000000027b7d", "bad version"),
    V("ff000d000000027b7d", "bad version"),
    V("01000d000000027b7d02000d000000027b7d01000d000000027b7d", "13/0 <{}> | bad version"),
    V("01000dffffffff7b7d", "bad length"),
    V("01000d800000007b7d", "bad length"),
    V("01000d7fffffff7b7d", "bad length"),
    V("01", "+1"),
    V("0120000000050d00", "+8"),
    V("0120000000050d00 000000", "13/5 <>"),
    /* sequence numbers: int32, counting only when positive */
    V("0171000000070d000000027b7d", "13/7 <{}>"),
    V("01717fffffff0b000000027b7d", "11/2147483647 <{}>"),
    V("0171800000000b000000027b7d", "11/0 <{}>"),
    V("0171ffffffff0b000000027b7d", "11/0 <{}>"),
    V("0171000000010b0000000001510d00000000", "11/1 <> | 13/0 <>"),
    V("", "+0"),
    V("0100", "+2"),
    V("0120", "+2"),
    V("01000d000000", "+6"),
    V("01000d00000001", "+7"),
    V("01200000000001000000", "+10"),
    V("0120000000000100000002 <a>", "+12"),
    V("01000b000003e8 {1000 x}", "11/0 <1000*x>"),
    V("01000b000003e9", "bad length"),
    V("0120000000010b000003e9", "bad length"),
    V("0100ff0000000180", "255/0 <\x80>"), /* the J-IM Java client's one-byte heartbeat body */
};

static const struct vector ws_vectors[] = {
    /* RFC 6455 section 5.7 */
    V("8185 37fa213d 7f9f4d5158", "text <Hello>"),
    V("8a85 37fa213d 7f9f4d5158", "pong <Hello>"),
    V("0183 'Hel' 8082 'lo'", "text part <Hel> | text end <lo>"),
    V("8985 'Hello'", "ping <Hello>"),
    V("82fe0100 [256 b]", "binary <256*b>"),
    V("82ff0000000000010000", "error 1009"), /* its 64 KiB frame, above our limit */
    /* its unmasked ones must not come from a client (section 5.1) */
    V("8105 48656c6c6f", "error 1002"),
    V("0103 48656c", "error 1002"),
    V("8905 48656c6c6f", "error 1002"),
    V("827e0100", "error 1002"),
    /* whole messages */
    V("", "+0"),
    V("8180 ''", "text <>"),
    V("8280 ''", "binary <>"),
    V("8281 '\xff'", "binary <\xff>"),
    V("8185 'Hello' 8185 'World'", "text <Hello> | text <World>"),
    V("8189 '\xe4\xb8\xad\xe6\x96\x87!\xc3\xbc'", "text <\xe4\xb8\xad\xe6\x96\x87!\xc3\xbc>"),
    V("81fd [125 a]", "text <125*a>"),
    V("81fe007e [126 a]", "text <126*a>"),
    V("81fe03e8 [1000 a]", "text <1000*a>"),
    V("8195 'seventeen bytes \xf0\x9f\x98\x80.'", "text <seventeen bytes \xf0\x9f\x98\x80.>"),
    /* not whole yet */
    V("81", "+1"),
    V("8185", "+2"),
    V("8185 37fa21", "+5"),
    V("8185 'Hell'", "+10"),
    V("81fe00", "+3"),
    V("81fe007e", "+4"),
    V("81fe007e 'abc'", "+11"),
    /* RSV bits and reserved opcodes (section 5.2) */
    V("c180 ''", "error 1002"),
    V("a180 ''", "error 1002"),
    V("9180 ''", "error 1002"),
    V("f180 ''", "error 1002"),
    V("d980 ''", "error 1002"),
    V("83", "error 1002"),
    V("84", "error 1002"),
    V("85", "error 1002"),
    V("86", "error 1002"),
    V("87", "error 1002"),
    V("8b", "error 1002"),
    V("8c", "error 1002"),
    V("8d", "error 1002"),
    V("8e", "error 1002"),
    V("8f", "error 1002"),
    V("03", "error 1002"),
    V("8185 'Hello' c1", "text <Hello> | error 1002"),
    /* lengths: shortest form only, no sign bit */
    V("81fe007d", "error 1002"),
    V("81fe0000", "error 1002"),
    V("81ff000000000000ffff", "error 1002"),
    V("81ff0000000000000005", "error 1002"),
    V("81ff8000000000000000", "error 1002"),
    V("81ffffffffffffffffff", "error 1002"),
    V("81ff7fffffffffffffff", "error 1009"),
    V("81ff000000000001", "+8"),
    /* control frames: at most 125 bytes, one piece (section 5.5) */
    V("89fe", "error 1002"),
    V("89ff", "error 1002"),
    V("8afe007e", "error 1002"),
    V("88fe0080", "error 1002"),
    V("09", "error 1002"),
    V("0a80 ''", "error 1002"),
    V("0882", "error 1002"),
    V("89fd [125 p]", "ping <125*p>"),
    V("8980 ''", "ping <>"),
    V("8a80 ''", "pong <>"),
    V("8982 '\xff\xfe'", "ping <\xff\xfe>"),
    /* fragments (section 5.4) */
    V("0180 '' 0080 '' 8080 ''", "text part <> | text part <> | text end <>"),
    V("0281 'a' 0081 'b' 8081 'c' 8181 'd'",
      "binary part <a> | binary part <b> | binary end <c> | text <d>"),
    V("0183 'Hel' 8981 'p' 8082 'lo'", "text part <Hel> | ping <p> | text end <lo>"),
    V("0183 'Hel' 8a80 '' 8980 '' 0081 'l' 8a81 'x' 8081 'o'",
      "text part <Hel> | pong <> | ping <> | text part <l> | pong <x> | text end <o>"),
    V("0183 'Hel' 8882 '\x03\xe8'", "text part <Hel> | close 1000 <>"),
    V("8080 ''", "error 1002"),
    V("00", "error 1002"),
    V("0181 'a' 8181 'b'", "text part <a> | error 1002"),
    V("0181 'a' 02", "text part <a> | error 1002"),
    V("0181 'a' 8081 'b' 8081 'c'", "text part <a> | text end <b> | error 1002"),
    V("8181 'a' 8081 'b'", "text <a> | error 1002"),
    /* a character cut by fragments, and by a ping between them */
    V("0181 '\xe4' 0081 '\xb8' 8081 '\xad'",
      "text part <\xe4> | text part <\xb8> | text end <\xad>"),
    V("0182 '\xe4\xb8' 8983 'abc' 8081 '\xad'",
      "text part <\xe4\xb8> | ping <abc> | text end <\xad>"),
    V("0182 '\xe4\xb8' 8981 '\xff' 8081 '\xad'",
      "text part <\xe4\xb8> | ping <\xff> | text end <\xad>"),
    V("0181 '\xe4' 8081 'a'", "text part <\xe4> | error 1007"),
    V("0181 '\xe4' 0081 'a'", "text part <\xe4> | error 1007"),
    V("0181 '\xe4' 008a 'a'", "text part <\xe4> | error 1007"),
    V("0281 '\xe4' 8081 'a'", "binary part <\xe4> | binary end <a>"),
    /* bad UTF-8, at the end and before the frame is there */
    V("8182 '\xc0\xaf'", "error 1007"),
    V("8181 '\xff'", "error 1007"),
    V("8182 '\xe4\xb8'", "error 1007"),
    V("8183 '\xed\xa0\x80'", "error 1007"),
    V("8184 '\xf4\x90\x80\x80'", "error 1007"),
    V("818a 'a\xff'", "error 1007"),
    V("81fe03e8 'abcdefghijkl\x80'", "error 1007"),
    V("0181 '\xe4' 8080 ''", "text part <\xe4> | error 1007"),
    V("0181 'a' 008a '\x80'", "text part <a> | error 1007"),
    V("8182 'ok' 8181 '\xff'", "text <ok> | error 1007"),
    /* too big: one frame, the sum of fragments, known from the header alone */
    V("81fe03e9", "error 1009"),
    V("82fe03e9", "error 1009"),
    V("82feffff", "error 1009"),
    V("01fe03e8 [1000 a] 8080 ''", "text part <1000*a> | text end <>"),
    V("01fe03e7 [999 a] 8081 'b'", "text part <999*a> | text end <b>"),
    V("01fe03e7 [999 a] 8082", "text part <999*a> | error 1009"),
    V("01fe01f4 [500 a] 00fe01f4 [500 b] 8981 'p' 8081",
      "text part <500*a> | text part <500*b> | ping <p> | error 1009"),
    V("01fe03e8 [1000 a] 89fd [125 p]", "text part <1000*a> | ping <125*p>"),
    V("01fe03e8 [1000 a] 8080 '' 81fe03e8 [1000 b]",
      "text part <1000*a> | text end <> | text <1000*b>"),
    /* close (sections 5.5.1 and 7.4) */
    V("8880 ''", "close 1005 <>"),
    V("8881", "error 1002"),
    V("8882 '\x03\xe8'", "close 1000 <>"),
    V("8885 '\x03\xe8"
      "bye'",
      "close 1000 <bye>"),
    V("8888 '\x03\xe9\xe5\x86\x8d\xe8\xa7\x81'", "close 1001 <\xe5\x86\x8d\xe8\xa7\x81>"),
    V("8882 '\x03\xea'", "close 1002 <>"),
    V("8882 '\x03\xeb'", "close 1003 <>"),
    V("8882 '\x03\xec'", "error 1002"), /* 1004 */
    V("8882 '\x03\xed'", "error 1002"), /* 1005 */
    V("8882 '\x03\xee'", "error 1002"), /* 1006 */
    V("8882 '\x03\xef'", "close 1007 <>"),
    V("8882 '\x03\xf6'", "close 1014 <>"),
    V("8882 '\x03\xf7'", "error 1002"), /* 1015 */
    V("8882 '\x03\xf8'", "error 1002"), /* 1016 */
    V("8882 '\x03\xe7'", "error 1002"), /* 999 */
    V("8882 0000 0000 0000", "error 1002"),
    V("8882 '\x0b\xb7'", "error 1002"), /* 2999 */
    V("8882 '\x0b\xb8'", "close 3000 <>"),
    V("8882 '\x13\x87'", "close 4999 <>"),
    V("8882 '\x13\x88'", "error 1002"), /* 5000 */
    V("8882 '\xff\xff'", "error 1002"),
    V("88fd '\x03'", "+7"),
    V("88fd '\x03\xec'", "error 1002"), /* before the reason is there */
    V("8883 '\x03\xe8\xff'", "error 1007"),
    V("8884 '\x03\xe8\xe4\xb8'", "error 1007"),
    V("8890 '\x03\xe8 \xc0'", "error 1007"),
    V("8890 '\x03\xe8 \xe4\xb8'", "+11"),
    V("0182 '\xe4\xb8' 8885 '\x03\xe8\xe4\xb8\xad'",
      "text part <\xe4\xb8> | close 1000 <\xe4\xb8\xad>"),
};

#define GET "GET / HTTP/1.1\r\nHost: a\r\n"
#define POST "POST / HTTP/1.1\r\nHost: a\r\n"
#define END "\r\n"

static const struct vector http_vectors[] = {
    /* request lines */
    V(GET END, "GET / 1.1 keep host=a"),
    V("GET / HTTP/1.0\r\n\r\n", "GET / 1.0 close"),
    V("GET / HTTP/1.2\r\nHost: a\r\n\r\n", "GET / 1.1 keep host=a"),
    V("GET / HTTP/1.9\r\n\r\n", "400"),
    V("GET /a/b%20c?x=1&y=%2F?z HTTP/1.1\r\nHost: a\r\n\r\n",
      "GET /a/b%20c?x=1&y=%2F?z 1.1 keep host=a"),
    V("GET /? HTTP/1.1\r\nHost: a\r\n\r\n", "GET / 1.1 keep host=a"),
    V("GET //x HTTP/1.1\r\nHost: a\r\n\r\n", "GET //x 1.1 keep host=a"),
    V("get / HTTP/1.1\r\nHost: a\r\n\r\n", "get / 1.1 keep host=a"),
    V("M-SEARCH!#$%&'*+.^_`|~ / HTTP/1.0\r\n\r\n", "M-SEARCH!#$%&'*+.^_`|~ / 1.0 close"),
    V("GET /\xe4\xb8\xad HTTP/1.0\r\n\r\n", "GET /\xe4\xb8\xad 1.0 close"),
    V("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS * 1.1 keep host=a"),
    V("GET * HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    V("OPTIONS ** HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    V("OPTIONX * HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    V("OPTIONSX * HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    V("\r\n\n\r\nGET / HTTP/1.0\r\n\r\n", "GET / 1.0 close"),
    V("\n\nGET / HTTP/1.0\n\n", "GET / 1.0 close"),
    V("GET / HTTP/1.1\nHost: a\n\r\n", "GET / 1.1 keep host=a"),
    V(GET END GET END, "GET / 1.1 keep host=a | GET / 1.1 keep host=a"),
    V(GET END "\r\n\r\n" GET END "\r", "GET / 1.1 keep host=a | GET / 1.1 keep host=a | +1"),
    V("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    V("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    V(" GET / HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    V("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", "400"),
    V("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    V("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    V("GET /a\tb HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    V("GET /a\x7f HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    V("GET /a\0 HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    V("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    V("GET /?a#b HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    V("GET  HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    V("GET HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    V("GET a HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    V("GET ?a HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    V("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    V("G\xc3\xa4T / HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    V("GET /\r\n\r\n", "400"), /* HTTP/0.9 */
    V("GET\r\n\r\n", "400"),
    V("hello world\r\n\r\n", "400"),
    V("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    V("\rGET / HTTP/1.0\r\n\r\n", "400"),
    V("\r\r\nGET / HTTP/1.0\r\n\r\n", "400"),
    /* versions */
    V("GET / HTTP/2.0\r\nHost: a\r\n\r\n", "505"),
    V("GET / HTTP/0.9\r\n\r\n", "505"),
    V("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505"), /* RFC 9113 section 3.4 */
    V("GET / HTTP/1.10\r\nHost: a\r\n\r\n", "400"),
    V("GET / HTTP/11\r\nHost: a\r\n\r\n", "400"),
    V("GET / HTTP/1.\r\nHost: a\r\n\r\n", "400"),
    V("GET / HTTP/x.1\r\nHost: a\r\n\r\n", "400"),
    V("GET / HTTP//.1\r\nHost: a\r\n\r\n", "400"),
    V("GET / HTTP/:.1\r\nHost: a\r\n\r\n", "400"),
    V("GET / HTTP/1./\r\nHost: a\r\n\r\n", "400"),
    V("GET / HTTP/1.:\r\nHost: a\r\n\r\n", "400"),
    V("GET / HTTP/1,1\r\nHost: a\r\n\r\n", "400"),
    V("GET / http/1.1\r\nHost: a\r\n\r\n", "400"),
    V("GET / HTTPS/1.1\r\nHost: a\r\n\r\n", "400"),
    V("GET / FTP/1.1\r\nHost: a\r\n\r\n", "400"),
    /* absolute form: RFC 9112 section 3.2.2 */
    V("GET http://b:80/c?d HTTP/1.1\r\nHost: a\r\n\r\n", "GET /c?d 1.1 keep host=b:80"),
    V("GET HTTPS://b HTTP/1.1\r\nHost: a\r\n\r\n", "GET / 1.1 keep host=b"),
    V("GET http://b?d=/e HTTP/1.1\r\nHost: a\r\n\r\n", "GET /?d=/e 1.1 keep host=b"),
    V("GET http://[::1]:8888/ HTTP/1.0\r\n\r\n", "GET / 1.0 close host=[::1]:8888"),
    V("GET http://b/ HTTP/1.1\r\n\r\n", "400"),
    V("GET http:///c HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    V("GET http:// HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    V("GET http:/b HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    V("GET http://u@b/ HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    V("GET ftp://b/ HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    V("GET gopher://host/path HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    /* fields */
    V("GET / HTTP/1.1\r\nhOST:a\r\n\r\n", "GET / 1.1 keep host=a"),
    V("GET / HTTP/1.1\r\nHost: \t a:8888\t \r\n\r\n", "GET / 1.1 keep host=a:8888"),
    V("GET / HTTP/1.1\r\nHost:\r\n\r\n", "GET / 1.1 keep host="),
    V(GET "X-Unknown: \xe4\xb8\xad \"a:b\"\tc\r\n" END, "GET / 1.1 keep host=a"),
    V(GET "Hos: t\r\nHostt: x\r\n" END, "GET / 1.1 keep host=a"),
    V(GET "Origin: http://a\r\nAuthorization: Bearer  x y\r\nContent-Type: a/b; c=d\r\nExpect: "
          "100-continue\r\n" END,
      "GET / 1.1 keep host=a origin=http://a auth=Bearer  x y type=a/b; c=d expect=100-continue"),
    V(GET "If-None-Match: \"x\"\r\nIf-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n" END,
      "GET / 1.1 keep host=a match=\"x\" since=Sun, 06 Nov 1994 08:49:37 GMT"),
    V(GET "Access-Control-Request-Method: PUT\r\nAccess-Control-Request-Headers: x, y\r\n" END,
      "GET / 1.1 keep host=a acrm=PUT acrh=x, y"),
    V("GET / HTTP/1.1\r\n\r\n", "400"),
    V("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "400"),
    V("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", "400"),
    V("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "400"),
    V("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "400"),
    V("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", "400"),
    V("GET / HTTP/1.1\r\nHost : a\r\n\r\n", "400"),
    V("GET / HTTP/1.1\r\nHost\t: a\r\n\r\n", "400"),
    V("GET / HTTP/1.1\r\n Host: a\r\n\r\n", "400"),
    V(GET "X: a\r\n b\r\n" END, "400"), /* obs-fold */
    V(GET "X: a\r\n\tb: c\r\n" END, "400"),
    V(GET " \r\n" END, "400"),
    V(GET ": a\r\n" END, "400"),
    V(GET "X\r\n" END, "400"),
    V(GET "X y: a\r\n" END, "400"),
    V(GET "X\xc3\xa4: a\r\n" END, "400"),
    V(GET "X(: a\r\n" END, "400"),
    V(GET "X: a\0b\r\n" END, "400"),
    V(GET "X\0: a\r\n" END, "400"),
    V(GET "X: a\x01\r\n" END, "400"),
    V(GET "X: a\x7f\r\n" END, "400"),
    V(GET "X: a\x1b[1m\r\n" END, "400"),
    V(GET "X: a\rb\r\n" END, "400"),
    V(GET "X: a\r\r\n" END, "400"),
    V(GET "X: a\rContent-Length: 5\r\n" END, "400"),
    V(GET "Origin: a\r\nOrigin: b\r\n" END, "400"),
    V(GET "Authorization: a\r\nAuthorization: b\r\n" END, "400"),
    V(GET "Content-Type: a\r\nContent-Type: a\r\n" END, "400"),
    V(GET "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Version: 8\r\n" END, "400"),
    V(GET "If-None-Match: a\r\nIf-None-Match: b\r\n" END, "GET / 1.1 keep host=a match=a"),
    V(GET "azAZ09-_: a\r\n" END, "GET / 1.1 keep host=a"),
    /* keep-alive: RFC 9112 section 9.3 */
    V(GET "Connection: close\r\n" END, "GET / 1.1 close host=a connection=close"),
    V(GET "Connection: CLOSE , x\r\n" END, "GET / 1.1 close host=a connection=CLOSE , x"),
    V(GET "Connection: x,,close\r\n" END, "GET / 1.1 close host=a connection=x,,close"),
    V(GET "Connection: closed\r\n" END, "GET / 1.1 keep host=a connection=closed"),
    V(GET "Connection: x\r\nConnection: close\r\n" END, "GET / 1.1 close host=a connection=x"),
    V(GET "Connection: keep-alive\r\nConnection: close\r\n" END,
      "GET / 1.1 close host=a connection=keep-alive"),
    V("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
      "GET / 1.0 keep connection=Keep-Alive"),
    V("GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n",
      "GET / 1.0 close connection=keep-alive, close"),
    V("GET / HTTP/1.0\r\nConnection: x\r\nConnection: keep-alive\r\n\r\n",
      "GET / 1.0 keep connection=x"),
    /* length: RFC 9112 section 6.2 */
    V(POST "Content-Length: 0\r\n" END, "POST / 1.1 keep host=a cl=0"),
    V(POST "Content-Length: 17\r\n" END, "POST / 1.1 keep length=17 host=a cl=17"),
    V(POST "Content-Length:\t007 \r\n" END, "POST / 1.1 keep length=7 host=a cl=007"),
    V(POST "Content-Length: 5\r\nContent-Length: 5\r\n" END,
      "POST / 1.1 keep length=5 host=a cl=5"),
    V(POST "Content-Length: 18446744073709551615\r\n" END,
      "POST / 1.1 keep length=18446744073709551615 host=a cl=18446744073709551615"),
    V(POST "Content-Length: 18446744073709551616\r\n" END, "400"),
    V(POST "Content-Length: 184467440737095516150\r\n" END, "400"),
    V(POST "Content-Length: 99999999999999999999999999\r\n" END, "400"),
    V(POST "Content-Length: 5\r\nContent-Length: 6\r\n" END, "400"),
    V(POST "Content-Length: 5\r\nContent-Length:\r\n" END, "400"),
    V(POST "Content-Length: 5, 5\r\n" END, "400"),
    V(POST "Content-Length: 5 5\r\n" END, "400"),
    V(POST "Content-Length: +5\r\n" END, "400"),
    V(POST "Content-Length: -5\r\n" END, "400"),
    V(POST "Content-Length: 0x5\r\n" END, "400"),
    V(POST "Content-Length: 5.0\r\n" END, "400"),
    V(POST "Content-Length:\r\n" END, "400"),
    V(POST "Content-Length : 5\r\n" END, "400"),
    /* transfer codings: section 6.1 */
    V(POST "Transfer-Encoding: chunked\r\n" END, "POST / 1.1 keep chunked host=a te=chunked"),
    V(POST "Transfer-Encoding: Chunked \r\n" END, "POST / 1.1 keep chunked host=a te=Chunked"),
    V(POST "Transfer-Encoding: gzip, chunked\r\n" END, "501"),
    V(POST "Transfer-Encoding: gzip\r\n" END, "501"),
    V(POST "Transfer-Encoding: identity\r\n" END, "501"),
    V(POST "Transfer-Encoding: xchunked\r\n" END, "501"),
    V(POST "Transfer-Encoding: chunked, chunked\r\n" END, "501"),
    V(POST "Transfer-Encoding: \"chunked\"\r\n" END, "501"),
    V(POST "Transfer-Encoding:\r\n" END, "400"),
    V(POST "Transfer-Encoding:\x0b"
           "chunked\r\n" END,
      "400"),
    V(POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n" END, "400"),
    V(POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n" END, "400"),
    V(POST "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n" END, "400"),
    V(POST "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n" END, "400"),
    V(POST "Content-Length: 0\r\nTransfer-Encoding: x\r\n" END, "400"),
    V("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "400"),
    /* upgrade: RFC 6455 section 4.1 */
    V("GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n"
      "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
      "Origin: http://example.com\r\nSec-WebSocket-Protocol: chat, superchat\r\n"
      "Sec-WebSocket-Version: 13\r\n\r\n",
      "GET /chat 1.1 keep upgrade host=server.example.com connection=Upgrade upgrade=websocket "
      "key=dGhlIHNhbXBsZSBub25jZQ== version=13 origin=http://example.com"),
    V(GET "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n" END,
      "GET / 1.1 keep upgrade host=a connection=keep-alive, Upgrade upgrade=WebSocket"),
    V(GET "Connection: x\r\nConnection: upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket\r\n" END,
      "GET / 1.1 keep upgrade host=a connection=x upgrade=h2c"),
    V(GET "Upgrade: websocket\r\n" END, "GET / 1.1 keep host=a upgrade=websocket"),
    V(GET "Connection: upgrade\r\n" END, "GET / 1.1 keep host=a connection=upgrade"),
    V(GET "Connection: upgrade\r\nUpgrade: h2c\r\n" END,
      "GET / 1.1 keep host=a connection=upgrade upgrade=h2c"),
    V("GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
      "GET / 1.0 close connection=upgrade upgrade=websocket"),
    V(GET "Sec-WebSocket-Key: a\r\nSec-WebSocket-Key: a\r\n" END, "400"),
    /* not whole yet */
    V("", "+0"),
    V("G", "+1"),
    V("\r\n\r\n", "+4"),
    V("\r", "+1"),
    V(GET, "+25"),
    V(GET "\r", "+26"),
    V("GET / HTTP/1.1\r\nHost: a\r\n\rX", "+27"),
    V("GET / HTTP/1.1\r\nHost: a\r\n\rX\n\n", "400"),
};

static const struct vector chunked_vectors[] = {
    V("", "more <>"),
    V("0\r\n\r\n", "done <>"),
    V("5\r\nhello\r\n0\r\n\r\n", "done <hello>"),
    V("5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", "done <hello world>"),
    V("4\r\nWiki\r\n7\r\npedia i\r\nB\r\nn \r\nchunks.\r\n0\r\n\r\n",
      "done <Wikipedia in \\x0d\\x0achunks.>"),
    V("a\r\n0123456789\r\n000\r\n\r\n", "done <0123456789>"),
    V("A\r\n0123456789\r\n0\r\n\r\n", "done <0123456789>"),
    V("5\nhello\n0\n\n", "done <hello>"),
    V("00000005\r\nhello\r\n0\r\n\r\n", "done <hello>"),
    V("5;a=b;c=\"d e\"\r\nhello\r\n0;z\r\n\r\n", "done <hello>"),
    V("5 \t;\ta\r\nhello\r\n0 \r\n\r\n", "done <hello>"),
    V("5\r\nhello\r\n0\r\nX: y\r\nContent-Length: 3\r\n\r\n", "done <hello>"),
    V("0\r\nX: y\n\n", "done <>"),
    V("5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\r\n", "done <hello> rest <GET / HTTP/1.1\\x0d\\x0a>"),
    V("0\r\n\r\n0\r\n\r\n", "done <> rest <0\\x0d\\x0a\\x0d\\x0a>"),
    V("64\r\n"
      "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
      "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n0\r\n\r\n",
      "done <100*a>"),
    /* not whole yet */
    V("5", "more <>"),
    V("5\r", "more <>"),
    V("5\r\nhel", "more <hel>"),
    V("5\r\nhello", "more <hello>"),
    V("5\r\nhello\r", "more <hello>"),
    V("5\r\nhello\r\n0", "more <hello>"),
    V("5\r\nhello\r\n0\r\n", "more <hello>"),
    V("5\r\nhello\r\n0\r\n\r", "more <hello>"),
    V("0\r\nX: y\r\n", "more <>"),
    /* sizes */
    V("\r\n", "400"),
    V("g\r\n", "400"),
    V(" 5\r\nhello", "400"),
    V("-5\r\n", "400"),
    V("+5\r\n", "400"),
    V("0x5\r\nhello", "400"),
    V("5 5\r\nhello", "400"),
    V("5,\r\nhello", "400"),
    V(";a\r\n", "400"),
    V("5\rhello", "400"),
    V("5\r\r\nhello", "400"),
    V("5;a\rb\r\nhello", "400"),
    V("5;a\0\r\nhello", "400"),
    V("5\0\r\nhello", "400"),
    V("10000000000000000\r\n", "400"),
    V("fffffffffffffffff\r\n", "400"),
    V("ffffffffffffffff\r\n", "413"),
    V("65\r\n", "413"),
    V("3c\r\n012345678901234567890123456789012345678901234567890123456789\r\n29\r\n", "413"),
    V("3c\r\n012345678901234567890123456789012345678901234567890123456789\r\n28\r\n",
      "more <012345678901234567890123456789012345678901234567890123456789>"),
    /* behind the data */
    V("5\r\nhelloX", "400"),
    V("5\r\nhello!\r\n", "400"),
    V("5\r\nhello\rX", "400"),
    V("5\r\nhello\r\r\n", "400"),
    V("5\r\nhello0\r\n\r\n", "400"),
    V("5\r\nhello\r\n\r\n", "400"),
    V("5\r\nhello\r\nx", "400"),
    /* trailers */
    V("0\r\n\rX", "400"),
    V("0\r\n\r\r\n", "400"),
    V("0\r\nX: y\rZ\r\n\r\n", "400"),
    V("0\r\nX: \0\r\n\r\n", "400"),
    V("0\r\nX: \x7f\r\n\r\n", "400"),
    V("0\r\nX:\ty\r\n\r\n", "done <>"),
};

#define TABLE(v) (v), COUNT(v)
static const struct decoder decoders[] = {
    {"utf8", TABLE(utf8_vectors), true, step_utf8, end_utf8},
    {"sha1", TABLE(sha1_vectors), true, step_sha1, end_sha1},
    {"crc32c", TABLE(crc_vectors), true, step_crc, end_crc},
    {"pkt", TABLE(pkt_vectors), true, step_pkt, end_pending},
    {"ws", TABLE(ws_vectors), true, step_ws, end_pending},
    {"http", TABLE(http_vectors), false, step_http, end_pending},
    {"chunked", TABLE(chunked_vectors), false, step_chunked, end_chunked},
};

/* --- the harness ------------------------------------------------------------------------------ */

static void
set_up(void)
{
    static char zero[ROOM];

    edge = test_edge(zero, ROOM) + ROOM;
    crc32c_init(&crc_tables);
}

static void
begin(struct stream *s)
{
    size_t size = offsetof(struct stream, text); /* the transcript is long and needs no clearing */

    memset(s, 0, size);
    s->len = 0;
    s->text[0] = '\0';
    s->p = edge;
    sha1_init(&s->sha1);
}

/* n more bytes arrive: they and what is pending move so that they end at the edge. */
static void
feed(const struct decoder *d, struct stream *s, const char *p, size_t n)
{
    char *to = edge - s->n - n;

    memmove(to, s->p, s->n);
    if (n > 0)
        memcpy(to + s->n, p, n);
    s->p = to;
    s->n += n;
    while (!s->over) {
        size_t used = d->step(s);
        CHECK(used <= s->n);
        s->p += used;
        s->n -= used;
        if (used == 0 || s->n == 0)
            break;
    }
}

static void
finish(const struct decoder *d, struct stream *s)
{
    if (!s->over || d->end == end_chunked)
        d->end(s);
}

static size_t
input(const struct decoder *d, const struct vector *v, char *out)
{
    if (d->hex)
        return unhex(v->in, v->n, out);
    memcpy(out, v->in, v->n);
    return v->n;
}

/* Decode in pieces that end at `cut`, or of one byte each when cut is 0. */
static void
decode(const struct decoder *d, struct stream *s, const char *in, size_t n, size_t cut)
{
    begin(s);
    if (cut == 0) {
        for (size_t i = 0; i < n; i++)
            feed(d, s, in + i, 1);
    } else {
        feed(d, s, in, cut);
        if (cut < n)
            feed(d, s, in + cut, n - cut);
    }
    finish(d, s);
}

static void
check_vector(const struct decoder *d, size_t index)
{
    static char in[ROOM];
    static struct stream s;
    const struct vector *v = &d->vectors[index];
    size_t n = input(d, v, in);

    for (size_t cut = 0; cut <= n; cut++) {
        decode(d, &s, in, n, cut);
        if (strcmp(s.text, v->want) != 0)
            test_fail(__FILE__, __LINE__, "%s vector %zu\n  %s\ncut at %zu of %zu gives\n  %s\n"
                      "not\n  %s", d->name, index, v->in, cut, n, s.text, v->want);
    }
}

TEST(codec_vectors)
{
    size_t count = 0;

    set_up();
    for (size_t i = 0; i < COUNT(decoders); i++)
        for (size_t k = 0; k < decoders[i].count; k++, count++)
            check_vector(&decoders[i], k);
    test_note("%zu codec vectors, each whole, at every split and byte by byte", count);
}

/* No bytes are no bytes, wherever they would stand. */
TEST(codec_nothing)
{
    struct ws ws = {0};
    struct ws_frame frame;
    struct pkt pkt;
    struct http_req req;
    struct http_chunked chunked = {0};
    uint32_t state = 0;
    size_t scan = 0, n = 0;

    set_up();
    for (int i = 0; i < 2; i++) {
        char *p = i == 0 ? edge : NULL;
        CHECK_INT(pkt_decode(p, 0, 10, &pkt), 0);
        CHECK_INT(ws_decode(&ws, p, 0, 10, &frame), 0);
        CHECK_INT(http_decode(p, 0, &scan, &req), 0);
        CHECK_INT(http_unchunk(&chunked, p, &n, 10), 0);
        CHECK(utf8_check(&state, p, 0) && state == 0);
        CHECK_INT(crc32c_add(&crc_tables, 5, p, 0), 5);
        CHECK_INT(base64_encode(edge - 1, p, 0), 0);
        CHECK_INT(base64_decode(edge - 1, p, 0), 0);
        CHECK_INT(url_decode(edge - 1, (struct str){p, 0}, false), 0);
    }
}

/* A caller without a limit of its own still gets the format's. */
TEST(codec_no_limit)
{
    char in[16];
    struct ws ws = {0};
    struct ws_frame frame;
    struct pkt pkt;

    CHECK_INT(pkt_decode(in, unhex("01000d7fffffff", 14, in), SIZE_MAX, &pkt), 0);
    CHECK_INT(pkt_decode(in, unhex("01000d80000000", 14, in), SIZE_MAX, &pkt), PKT_BAD_LENGTH);
    CHECK_INT(ws_decode(&ws, in, unhex("81ff7fffffffffffffff", 20, in), SIZE_MAX, &frame),
              SIZE_MAX > UINT32_MAX ? 0 : -WS_TOO_BIG);
    ws = (struct ws){.total = UINT32_MAX, .opcode = WS_BINARY};
    CHECK_INT(ws_decode(&ws, in, unhex("80ff7fffffffffffffff", 20, in), SIZE_MAX / 2, &frame),
              -WS_TOO_BIG);
}

/* --- UTF-8 ------------------------------------------------------------------------------------ */

static uint8_t viable[1 << 24 >> 3]; /* bit per prefix of up to 3 bytes: it begins a character */
static uint8_t viable_short[2][1 << 16];

static void
mark_characters(void)
{
    for (uint32_t c = 0; c <= 0x10ffff; c++) {
        uint8_t b[4];
        if (c >= 0xd800 && c <= 0xdfff)
            continue;
        if (c < 0x80)
            continue;
        if (c < 0x800) {
            b[0] = (uint8_t)(0xc0 | c >> 6);
            b[1] = (uint8_t)(0x80 | (c & 63));
        } else if (c < 0x10000) {
            b[0] = (uint8_t)(0xe0 | c >> 12);
            b[1] = (uint8_t)(0x80 | (c >> 6 & 63));
            b[2] = (uint8_t)(0x80 | (c & 63));
        } else {
            b[0] = (uint8_t)(0xf0 | c >> 18);
            b[1] = (uint8_t)(0x80 | (c >> 12 & 63));
            b[2] = (uint8_t)(0x80 | (c >> 6 & 63));
        }
        viable_short[0][b[0]] = 1;
        viable_short[1][b[0] << 8 | b[1]] = 1;
        if (c >= 0x800) {
            uint32_t at = (uint32_t)b[0] << 16 | (uint32_t)b[1] << 8 | b[2];
            viable[at >> 3] |= (uint8_t)(1 << (at & 7));
        }
    }
}

static bool
accepts(const uint8_t *p, size_t n, uint32_t *state)
{
    *state = 0;
    return utf8_check(state, p, n);
}

/* Every sequence of bytes is refused at the first byte that no character has there, not before. */
TEST(codec_utf8_every_sequence)
{
    uint8_t b[4];
    uint32_t state;

    mark_characters();
    for (uint32_t i = 0; i < 1 << 24; i++) {
        b[0] = (uint8_t)(i >> 16);
        b[1] = (uint8_t)(i >> 8);
        b[2] = (uint8_t)i;
        if (b[0] < 0x80) {
            i |= 0xffff;
            continue;
        }
        if (accepts(b, 1, &state) != viable_short[0][b[0]] || (viable_short[0][b[0]] && state == 0))
            test_fail(__FILE__, __LINE__, "%02x", b[0]);
        if (!viable_short[0][b[0]]) {
            i |= 0xffff;
            continue;
        }
        if (accepts(b, 2, &state) != viable_short[1][b[0] << 8 | b[1]])
            test_fail(__FILE__, __LINE__, "%02x%02x", b[0], b[1]);
        if (!viable_short[1][b[0] << 8 | b[1]] || b[0] < 0xe0) {
            i |= 0xff;
            continue;
        }
        bool good = viable[i >> 3] >> (i & 7) & 1;
        if (accepts(b, 3, &state) != good || (good && (state == 0) != (b[0] < 0xf0)))
            test_fail(__FILE__, __LINE__, "%02x%02x%02x", b[0], b[1], b[2]);
        for (unsigned last = 0; good && b[0] >= 0xf0 && last < 256; last++) {
            b[3] = (uint8_t)last;
            if (accepts(b, 4, &state) != (last >> 6 == 2) || (last >> 6 == 2 && state != 0))
                test_fail(__FILE__, __LINE__, "%02x%02x%02x%02x", b[0], b[1], b[2], b[3]);
        }
    }
}

/* The fast paths must not depend on where in a text something stands. */
TEST(codec_utf8_anywhere)
{
    static const char *const around[] = {"", "a", "\xe4\xb8\xad", "a\xe4\xb8\xad", "\xc3\xbc",
                                         "\xf0\x9f\x98\x80", "01234567"};
    char text[256], bytes[64];

    set_up();
    for (size_t v = 0; v < COUNT(utf8_vectors); v++) {
        size_t n = unhex(utf8_vectors[v].in, utf8_vectors[v].n, bytes);
        for (size_t k = 0; k < COUNT(around) * 20; k++) {
            size_t len = 0, step = strlen(around[k / 20]);
            uint32_t state = 0;
            for (size_t i = 0; i < k % 20; i++, len += step)
                memcpy(text + len, around[k / 20], step + 1);
            memcpy(text + len, bytes, n);
            memcpy(edge - len - n, text, len + n);
            bool good = utf8_check(&state, edge - len - n, len + n);
            CHECK(good == (strcmp(utf8_vectors[v].want, "bad") != 0));
            CHECK(!good || (state == 0) == (strcmp(utf8_vectors[v].want, "ok") == 0));
        }
    }
}

/* --- SHA-1, CRC-32C, base64 ------------------------------------------------------------------- */

TEST(codec_sha1_million)
{
    static char a[1000];
    static struct stream s;
    struct sha1 whole;

    memset(a, 'a', sizeof a);
    sha1_init(&whole);
    for (int i = 0; i < 1000; i++)
        sha1_add(&whole, a, sizeof a);
    s.sha1 = whole;
    s.len = 0;
    end_sha1(&s);
    CHECK_BYTES(s.text, s.len, "34aa973cd4c4daa4f61eeb2bdbad27316534016f"); /* FIPS 180-1 C */
}

static uint64_t random_state = 1;

static uint32_t
crc_by_bits(const uint8_t *p, size_t n)
{
    uint32_t crc = 0xffffffff;

    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ 0x82f63b78 : crc >> 1;
    }
    return ~crc;
}

TEST(codec_crc32c_by_definition)
{
    static uint8_t b[200];

    set_up();
    for (size_t i = 0; i < sizeof b; i++)
        b[i] = (uint8_t)draw(&random_state);
    for (size_t from = 0; from < 9; from++)
        for (size_t n = 0; n < sizeof b - from; n++)
            CHECK_INT(crc32c_add(&crc_tables, 0, b + from, n), crc_by_bits(b + from, n));
}

TEST(codec_base64)
{
    static const struct {
        const char *plain, *coded;
    } good[] = {/* RFC 4648 section 10 */
                {"", ""}, {"f", "Zg=="}, {"fo", "Zm8="}, {"foo", "Zm9v"}, {"foob", "Zm9vYg=="},
                {"fooba", "Zm9vYmE="}, {"foobar", "Zm9vYmFy"}, {"\xfb\xff\xbf", "+/+/"}};
    static const char *const bad[] = {
        "Z", "Zg", "Zg=", "Zm8", "=", "==", "===", "====", "Z===", "Zg==Zg==", "Zg=g", "=Zg=",
        "Zm9v ", " Zm9v", "Zm 9", "Zm\n9", "Zm9v\n", "Zm9-", "Zm9_", "Zm9\xc3", "Zm9v====",
        "Zm9v="};
    char out[16];

    for (size_t i = 0; i < COUNT(good); i++) {
        size_t n = strlen(good[i].plain), m = strlen(good[i].coded);
        CHECK_BYTES(out, base64_encode(out, good[i].plain, n), good[i].coded);
        const char *in = test_edge(good[i].coded, m);
        ptrdiff_t got = base64_decode(out, in, m);
        CHECK_INT(got, n);
        CHECK_BYTES(out, n, good[i].plain);
    }
    for (size_t i = 0; i < COUNT(bad); i++)
        if (base64_decode(out, bad[i], strlen(bad[i])) != -1)
            test_fail(__FILE__, __LINE__, "accepts %s", bad[i]);
    CHECK_INT(base64_decode(out, "Zm\0v", 4), -1);
    CHECK_INT(base64_decode(out, "Zh==", 4), 1); /* bits behind the end are ignored */
    CHECK_INT(out[0], 'f');
}

TEST(codec_base64_round_trip)
{
    char in[64] = {0}, coded[88], back[66];

    for (size_t n = 0; n <= sizeof in; n++) {
        for (size_t i = 0; i < n; i++)
            in[i] = (char)draw(&random_state);
        size_t m = base64_encode(coded, in, n);
        CHECK_INT(m, 4 * ((n + 2) / 3));
        CHECK_INT(base64_decode(back, coded, m), n);
        CHECK(memcmp(in, back, n) == 0);
    }
}

/* --- what jim writes -------------------------------------------------------------------------- */

TEST(codec_pkt_head)
{
    static const struct {
        uint8_t cmd;
        uint32_t seq, body;
        const char *want;
    } rows[] = {{13, 0, 37, "01510d00000025"}, /* wire.md section 2 */
                {12, 0, 51, "01510c00000033"},
                {12, 7, 51, "0171000000070c00000033"},
                {255, INT32_MAX, 0x01020304, "01717fffffffff01020304"}};
    uint8_t head[MAX_PKT_HEAD];
    char want[MAX_PKT_HEAD], frame[MAX_PKT_HEAD + 2];
    struct pkt pkt;

    for (size_t i = 0; i < COUNT(rows); i++) {
        size_t n = unhex(rows[i].want, strlen(rows[i].want), want);
        CHECK_INT(pkt_head(head, rows[i].cmd, rows[i].seq, rows[i].body), n);
        CHECK(memcmp(head, want, n) == 0);
    }
    size_t n = pkt_head(head, 11, 5, 2);
    memcpy(frame, head, n);
    memcpy(frame + n, "{}", 2);
    CHECK_INT(pkt_decode(frame, n + 2, 2, &pkt), n + 2);
    CHECK(pkt.cmd == 11 && pkt.seq == 5);
    CHECK_INT(pkt_decode(frame, n + 2, 1, &pkt), PKT_BAD_LENGTH);
}

TEST(codec_ws_head)
{
    static const struct {
        enum ws_opcode opcode;
        uint64_t payload;
        const char *want;
    } rows[] = {{WS_TEXT, 5, "8105"}, /* RFC 6455 section 5.7 */
                {WS_PING, 0, "8900"},
                {WS_BINARY, 256, "827e0100"},
                {WS_BINARY, 65536, "827f0000000000010000"},
                {WS_TEXT, 125, "817d"},
                {WS_TEXT, 126, "817e007e"},
                {WS_TEXT, 65535, "817effff"},
                {WS_CLOSE, 2, "8802"},
                {WS_TEXT, 0x0102030405060708, "817f0102030405060708"}};
    uint8_t head[MAX_WS_HEAD];
    char want[MAX_WS_HEAD];

    for (size_t i = 0; i < COUNT(rows); i++) {
        size_t n = unhex(rows[i].want, strlen(rows[i].want), want);
        CHECK_INT(ws_head(head, rows[i].opcode, rows[i].payload), n);
        CHECK(memcmp(head, want, n) == 0);
    }
}

TEST(codec_ws_accept)
{
    static const char *const bad[] = {"", "dGhlIHNhbXBsZSBub25jZQ=", "dGhlIHNhbXBsZSBub25jZQ",
                                      "dGhlIHNhbXBsZSBub25jZQ===", "dGhlIHNhbXBsZSBub25jZSE=",
                                      "dGhlIHNhbXBsZSBub25jZSEh", "dGhlIHNhbXBsZSBub25j!Q==",
                                      "dGhlIHNhbXBsZSBub25jZSE=dGhlIHNhbXBsZQ==", "Zm9v"};
    char accept[28];

    CHECK(ws_accept(STR("dGhlIHNhbXBsZSBub25jZQ=="), accept)); /* RFC 6455 section 1.3 */
    CHECK_BYTES(accept, 28, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    CHECK(ws_accept(STR("AQIDBAUGBwgJCgsMDQ4PEC=="), accept)); /* section 4.1 */
    CHECK_BYTES(accept, 28, "OfS0wDaT5NoxF2gqm7Zj2YtetzM=");
    for (size_t i = 0; i < COUNT(bad); i++)
        if (ws_accept((struct str){bad[i], strlen(bad[i])}, accept))
            test_fail(__FILE__, __LINE__, "accepts %s", bad[i]);
    CHECK(!ws_accept((struct str){NULL, 0}, accept));
}

/* --- URLs and lists --------------------------------------------------------------------------- */

TEST(codec_url_decode)
{
    static const struct {
        const char *in;
        bool plus;
        const char *want; /* NULL: malformed */
    } rows[] = {
        {"", false, ""},
        {"abc", false, "abc"},
        {"a%20b", false, "a b"},
        {"a+b", false, "a+b"},
        {"a+b", true, "a b"},
        {"a%2Bb+", true, "a+b "},
        {"%e4%B8%aD", false, "\xe4\xb8\xad"},
        {"%25%32%35", false, "%25"}, /* decoded once */
        {"%2e%2e%2f", false, "../"},
        {"\xe4", false, "\xe4"},
        {"%", false, NULL},
        {"%4", false, NULL},
        {"%%", false, NULL},
        {"%4g", false, NULL},
        {"%g4", false, NULL},
        {"%+1", true, NULL},
        {"abc%", false, NULL},
        {"abc%f", false, NULL},
        {"%u4e2d", false, NULL},
        {"% 41", false, NULL},
    };
    char out[32];

    for (size_t i = 0; i < COUNT(rows); i++) {
        size_t n = strlen(rows[i].in);
        char *p = test_edge(rows[i].in, n);
        ptrdiff_t got = url_decode(out, (struct str){p, n}, rows[i].plus);
        if (rows[i].want == NULL) {
            CHECK_INT(got, -1);
            continue;
        }
        CHECK_BYTES(out, (size_t)got, rows[i].want);
        got = url_decode(p, (struct str){p, n}, rows[i].plus); /* in place */
        CHECK_BYTES(p, (size_t)got, rows[i].want);
    }
    CHECK_INT(url_decode(out, STR("a%00b"), false), 3);
    CHECK(memcmp(out, "a\0b", 3) == 0);
}

TEST(codec_query)
{
    static const struct {
        const char *in, *want;
    } rows[] = {
        {"", ""},
        {"a=1", "[a|1]"},
        {"a=1&b=2", "[a|1][b|2]"},
        {"a", "[a|]"},
        {"a=", "[a|]"},
        {"=1", "[|1]"},
        {"=", "[|]"},
        {"a=b=c", "[a|b=c]"},
        {"&&a=1&&b=2&", "[a|1][b|2]"},
        {"&", ""},
        {"a=%26&b=%3D+", "[a|%26][b|%3D+]"},
        {"a;b=1", "[a;b|1]"},
    };

    for (size_t i = 0; i < COUNT(rows); i++) {
        struct str rest, name, value;
        char got[64] = "";
        size_t len = 0;
        rest.n = strlen(rows[i].in);
        rest.p = test_edge(rows[i].in, rest.n);
        while (query_next(&rest, &name, &value))
            len += (size_t)snprintf(got + len, sizeof got - len, "[%.*s|%.*s]", (int)name.n,
                                    name.p, (int)value.n, value.n > 0 ? value.p : "");
        CHECK_BYTES(got, len, rows[i].want);
        CHECK(!query_next(&rest, &name, &value));
    }
}

TEST(codec_http_list)
{
    static const struct {
        const char *list, *token;
        bool want;
    } rows[] = {
        {"", "a", false},          {"a", "a", true},           {"A", "a", true},
        {"a", "A", true},          {"aa", "a", false},         {"a", "aa", false},
        {"x,a", "a", true},        {"a,x", "a", true},         {" \ta\t , x", "a", true},
        {"x , a ", "a", true},     {"x a", "a", false},        {",,a,,", "a", true},
        {",", "a", false},         {"a;q=1", "a", false},      {"xa,ax", "a", false},
        {"gzip, deflate", "deflate", true}, {"aZ", "Az", true}, {"[", "{", false},
        {"@", "`", false},
    };

    for (size_t i = 0; i < COUNT(rows); i++) {
        size_t n = strlen(rows[i].list);
        struct str list = {test_edge(rows[i].list, n), n};
        CHECK_INT(http_list_has(list, rows[i].token), rows[i].want);
    }
    CHECK(!http_list_has((struct str){NULL, 0}, "a"));
}

/* --- limits and slow drips -------------------------------------------------------------------- */

static const struct decoder *const http_decoder = &decoders[5];
static const struct decoder *const chunked_decoder = &decoders[6];

/* `head`, then `fill` letters, then `tail`: what the decoder says, whole and byte by byte. */
static void
check_filled(const struct decoder *d, const char *head, size_t fill, const char *tail,
             const char *want)
{
    static struct stream s;
    size_t a = strlen(head), b = strlen(tail), n = a + fill + b;
    char *in = malloc(n);

    CHECK(in != NULL);
    memcpy(in, head, a);
    memset(in + a, 'a', fill);
    memcpy(in + a + fill, tail, b);
    for (int way = 0; way < 2; way++) {
        decode(d, &s, in, n, way == 0 ? n : 0);
        if (strncmp(s.text, want, strlen(want)) != 0)
            test_fail(__FILE__, __LINE__, "%s: %zu letters give %.60s, not %s", d->name, fill,
                      s.text, want);
    }
    free(in);
}

TEST(codec_http_limits)
{
    static const char head[] = "GET / HTTP/1.0\r\nX: ";
    static char many[MAX_HEAD];
    size_t n = 0;

    set_up();
    check_filled(http_decoder, head, MAX_LINE - 3, "\r\n\r\n", "GET / 1.0 close");
    check_filled(http_decoder, head, MAX_LINE - 2, "\r\n\r\n", "431");
    check_filled(http_decoder, head, MAX_LINE - 2, "\n\n", "431");
    check_filled(http_decoder, "GET /", MAX_LINE - 14, " HTTP/1.0\r\n\r\n", "GET /aaaa");
    check_filled(http_decoder, "GET /", MAX_LINE - 13, " HTTP/1.0\r\n\r\n", "431");
    check_filled(http_decoder, "GET /", MAX_HEAD - 6, "", "+16383");
    check_filled(http_decoder, "GET /", MAX_HEAD - 5, "", "431");
    n += (size_t)snprintf(many, sizeof many, "GET / HTTP/1.0\r\n");
    while (n < MAX_HEAD - 100)
        n += (size_t)snprintf(many + n, sizeof many - n, "X-Filler: %040d\r\n", 0);
    snprintf(many + n, sizeof many - n, "X:");
    check_filled(http_decoder, many, MAX_HEAD - n - 6, "\r\n\r\n", "GET / 1.0 close");
    check_filled(http_decoder, many, MAX_HEAD - n - 5, "\r\n\r\n", "431");
}

/* A flood of empty lines is a head that is too long. */
TEST(codec_http_empty_lines)
{
    static char in[MAX_HEAD + 64];
    static struct stream s;

    set_up();
    for (size_t i = 0; i < sizeof in; i += 2)
        memcpy(in + i, "\r\n", 2);
    for (size_t cut = 0; cut < 2; cut++) {
        decode(http_decoder, &s, in, MAX_HEAD - 2, cut ? MAX_HEAD - 2 : 0);
        CHECK_BYTES(s.text, s.len, "+16382");
        decode(http_decoder, &s, in, sizeof in, cut ? sizeof in : 0);
        CHECK_BYTES(s.text, s.len, "431");
    }
}

/* What was scanned is replaced by what would end the head: it must not be looked at again. */
TEST(codec_http_drip_is_linear)
{
    static char in[MAX_HEAD], dirty[MAX_HEAD];
    size_t scan = 0, n = 0, looked = 0;
    struct http_req req;

    n += (size_t)snprintf(in, sizeof in, "GET / HTTP/1.0\r\n");
    while (n + 72 < sizeof in)
        n += (size_t)snprintf(in + n, sizeof in - n, "X-Filler: %050d\r\n", 0);
    memcpy(dirty, in, n);
    for (size_t i = 1; i <= n; i++) {
        size_t before = scan;
        CHECK_INT(http_decode(dirty, i, &scan, &req), 0);
        CHECK(scan <= i && scan >= before);
        looked += i - before;
        if (scan >= 4) /* an empty line is recognised by the three bytes before its LF */
            memset(dirty, '\n', scan - 3);
    }
    CHECK(looked <= 2 * n);
    memcpy(in + n, "\r\n", 2);
    CHECK_INT(http_decode(in, n + 2, &scan, &req), n + 2);
    CHECK_INT(scan, 0);
}

/* Each call may touch only the new byte: the others are compared with what they must be by then. */
TEST(codec_ws_drip_is_linear)
{
    const size_t size = 1 << 20, head = 14;
    char *plain = malloc(size), *in = malloc(head + size);
    struct ws ws = {0};
    struct ws_frame f;

    CHECK(plain != NULL && in != NULL);
    for (size_t i = 0; i < size; i++)
        plain[i] = "text, \xe4\xb8\xad\xe6\x96\x87 \xc3\xbc \xf0\x9f\x98\x80!"[i % 20];
    memset(plain + size / 20 * 20, '.', size % 20);
    memcpy(in, "\x81\xff\0\0\0\0\0\x10\0\0", 10);
    memcpy(in + 10, ws_key, 4);
    for (size_t i = 0; i < size; i++) {
        in[head + i] = (char)(plain[i] ^ ws_key[i % 4]);
        if (i == size - 1)
            break;
        CHECK_INT(ws_decode(&ws, in, head + i + 1, size, &f), 0);
        CHECK(ws.done == i + 1);
        in[head + i] ^= 0x15; /* unmasked and checked: nobody may care any more */
    }
    for (size_t i = 0; i < size - 1; i++)
        in[head + i] ^= 0x15;
    CHECK_INT(ws_decode(&ws, in, head + size, size, &f), head + size);
    CHECK(f.whole && f.payload.n == size && memcmp(f.payload.p, plain, size) == 0);
    CHECK(ws.done == 0 && ws.utf8 == 0 && ws.total == 0);
    free(plain);
    free(in);
}

/* A 64-bit length, in pieces around the block size and the eight-byte steps. */
TEST(codec_ws_big_frame)
{
    const size_t size = 70001, head = 14;
    char *in = malloc(head + size), *work = malloc(head + size);

    CHECK(in != NULL && work != NULL);
    memcpy(in, "\x82\xff\0\0\0\0\0\x01\x11\x71", 10);
    memcpy(in + 10, ws_key, 4);
    for (size_t i = 0; i < size; i++)
        in[head + i] = (char)((int)(i * 7 % 251) ^ ws_key[i % 4]);
    for (size_t piece = 1; piece < 2100; piece += piece < 40 ? 1 : 331) {
        struct ws ws = {0};
        struct ws_frame f;
        ptrdiff_t r = 0;
        for (size_t n = 0, take; n < head + size; n += take) {
            take = head + size - n < piece ? head + size - n : piece;
            memcpy(work + n, in + n, take);
            CHECK_INT(r, 0);
            r = ws_decode(&ws, work, n + take, size, &f);
        }
        CHECK_INT(r, head + size);
        for (size_t i = 0; i < size; i++)
            if ((uint8_t)f.payload.p[i] != i * 7 % 251)
                test_fail(__FILE__, __LINE__, "pieces of %zu: byte %zu", piece, i);
    }
    struct ws ws = {0};
    struct ws_frame f;
    CHECK_INT(ws_decode(&ws, in, head, size - 1, &f), -WS_TOO_BIG);
    free(in);
    free(work);
}

/* One byte a chunk, one byte a call: the buffer holds the body and nothing else. */
TEST(codec_chunked_drip_is_linear)
{
    const size_t size = 1 << 20;
    char *p = malloc(size + 16);
    struct http_chunked s = {0};
    size_t n = 0, chunk = 1;

    CHECK(p != NULL);
    for (size_t done = 0; done < size; done += chunk, chunk = chunk % 977 + 1) {
        char line[32];
        if (chunk > size - done)
            chunk = size - done;
        int len = snprintf(line, sizeof line, "%zx;x\r\n", chunk);
        for (int i = 0; i < len; i++) {
            p[n++] = line[i];
            CHECK_INT(http_unchunk(&s, p, &n, size), 0);
            CHECK(n == done && s.raw == n);
        }
        for (size_t i = 0; i < chunk; i++) {
            p[n++] = (char)((done + i) % 251);
            CHECK_INT(http_unchunk(&s, p, &n, size), 0);
            CHECK(n == done + i + 1 && s.raw == n);
        }
        p[n++] = '\n';
        CHECK_INT(http_unchunk(&s, p, &n, size), 0);
    }
    memcpy(p + n, "0\r\n\r\nrest", 9);
    n += 9;
    CHECK_INT(http_unchunk(&s, p, &n, size), 1);
    CHECK_INT(s.body, size);
    CHECK_BYTES(p + s.raw, n - s.raw, "rest");
    for (size_t i = 0; i < size; i++)
        CHECK((uint8_t)p[i] == i % 251);
    CHECK_INT(http_unchunk(&s, p, &n, size), 1); /* and stays at the end */
    free(p);
}

TEST(codec_chunked_limits)
{
    set_up();
    check_filled(chunked_decoder, "1;", 252, "\r\nx\r\n0\r\n\r\n", "done <x>");
    check_filled(chunked_decoder, "1;", 253, "\r\nx\r\n0\r\n\r\n", "400");
    check_filled(chunked_decoder, "1;", 100000, "", "400");
    check_filled(chunked_decoder, "0\r\nX: ", MAX_HEAD - 7, "\r\n\r\n", "done <>");
    check_filled(chunked_decoder, "0\r\nX: ", MAX_HEAD - 6, "\r\n\r\n", "400");
    check_filled(chunked_decoder, "0\r\nX: ", 100000, "", "400");
}

/* --- mutations -------------------------------------------------------------------------------- */

#define MAX_FUZZ 4096

static size_t
mutate(char *p, size_t n)
{
    for (uint32_t times = 1 + draw(&random_state) % 4; times > 0; times--) {
        size_t at = n > 0 ? draw(&random_state) % n : 0, to = n > 0 ? draw(&random_state) % n : 0;
        size_t len = 1 + draw(&random_state) % 8;
        switch (n > 0 ? draw(&random_state) % 6 : 2) {
        case 0:
            p[at] = (char)(p[at] ^ 1 << draw(&random_state) % 8);
            break;
        case 1:
            p[at] = "\r\n\0:,; 09afAF%&\x80\xff\x7f\x01"[draw(&random_state) % 20];
            break;
        case 2: /* insert */
            memmove(p + at + 1, p + at, n - at);
            p[at] = (char)draw(&random_state);
            n++;
            break;
        case 3: /* remove */
            memmove(p + at, p + at + 1, n - at - 1);
            n--;
            break;
        case 4: /* copy a piece over another */
            if (at + len <= n && to + len <= n)
                memmove(p + at, p + to, len);
            break;
        default: /* cut the end off */
            if (draw(&random_state) % 4 == 0)
                n = at;
        }
    }
    return n;
}

/* The decoders without a stream: anything goes but a wrong access. */
static void
fuzz_helpers(const char *in, size_t n)
{
    struct str s = {edge - n, n}, rest, name, value;
    char *exact = malloc(n + 1), accept[28];
    ptrdiff_t r;

    CHECK(exact != NULL);
    memcpy(edge - n, in, n);
    r = url_decode(exact, s, n & 1);
    CHECK(r >= -1 && r <= (ptrdiff_t)n);
    for (rest = s; query_next(&rest, &name, &value);)
        CHECK(name.n + value.n <= n && rest.n < n);
    http_list_has(s, "chunked");
    ws_accept(s, accept);
    r = base64_decode(exact, s.p, s.n);
    CHECK(r >= -1 && r <= (ptrdiff_t)(n / 4 * 3));
    free(exact);
}

TEST(codec_fuzz)
{
    static char in[MAX_FUZZ], copy[MAX_FUZZ];
    static struct stream whole, cut;
    const char *more = getenv("FUZZ_INPUTS");
    unsigned long inputs = more ? strtoul(more, NULL, 10) : 300000;

    set_up();
    for (unsigned long i = 0; i < inputs; i++) {
        const struct decoder *d = &decoders[i % COUNT(decoders)];
        size_t n = mutate(in, input(d, &d->vectors[draw(&random_state) % d->count], in));
        memcpy(copy, in, n);
        decode(d, &whole, in, n, n);
        decode(d, &cut, in, n, n > 0 && i % 16 != 0 ? 1 + draw(&random_state) % n : 0);
        if (strcmp(whole.text, cut.text) != 0)
            test_fail(__FILE__, __LINE__, "%s input %lu: %s\nin pieces: %s", d->name, i, whole.text,
                      cut.text);
        CHECK(memcmp(in, copy, n) == 0);
        if (n > 0)
            fuzz_helpers(in, n);
    }
    test_note("%lu mutated codec inputs", inputs);
}
