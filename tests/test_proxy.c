/* SPDX-License-Identifier: MIT */
/*
 * test_proxy.c - clients that come through a proxy: what it says of them, in a PROXY header or in
 * X-Forwarded-For, and what counts for them then. The test is the proxy. (With real ones: `make
 * check-proxies`.)
 */
#include "client.h"

#include <arpa/inet.h>

#define COUNT(a) (sizeof(a) / sizeof(a)[0])
#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"
#define LOCAL SIGNATURE "\x20\x00\x00\x00"
/* A version 2 header: the client is 192.0.2.N. */
#define V2(n) SIGNATURE "\x21\x11\x00\x0c\xc0\x00\x02" n "\x7f\x00\x00\x01\x12\x34\x22\xb8"
#define PUT(p, bytes) put((p), (bytes), sizeof(bytes) - 1)

static const char *
text_of(const unsigned char ip[16])
{
    static char text[INET6_ADDRSTRLEN];

    CHECK(inet_ntop(AF_INET6, ip, text, sizeof text) != NULL);
    return strncmp(text, "::ffff:", 7) == 0 ? text + 7 : text;
}

static void
bytes_of(const char *text, unsigned char ip[16])
{
    char mapped[64];

    snprintf(mapped, sizeof mapped, "%s%s", strchr(text, ':') == NULL ? "::ffff:" : "", text);
    CHECK(inet_pton(AF_INET6, mapped, ip) == 1);
}

/* --- networks --------------------------------------------------------------------------------- */

TEST(proxy_networks)
{
    static const struct {
        const char *list, *ip;
        bool in;
    } cases[] = {
        {"", "127.0.0.1", false},
        {"127.0.0.1", "127.0.0.1", true},
        {"127.0.0.1", "127.0.0.2", false},
        {"10.0.0.0/8", "10.255.0.1", true},
        {"10.0.0.0/8", "11.0.0.1", false},
        {"10.1.2.3/8", "10.9.9.9", true}, /* bits behind the prefix do not count */
        {"192.0.2.128/25", "192.0.2.127", false},
        {"192.0.2.128/25", "192.0.2.255", true},
        {"192.0.2.4/31", "192.0.2.5", true},
        {"192.0.2.4/31", "192.0.2.6", false},
        {"0.0.0.0/0", "203.0.113.9", true},
        {"0.0.0.0/0", "2001:db8::1", false}, /* all of IPv4 is not all */
        {"::/0", "203.0.113.9", true},
        {"::1", "::1", true},
        {"2001:db8:8000::/33", "2001:db8:8000::1", true},
        {"2001:db8:8000::/33", "2001:db8:7fff::1", false},
        {"::ffff:192.0.2.0/120", "192.0.2.9", true}, /* written as the kernel may have it */
        {"10.0.0.1, ::1 ,192.0.2.0/24", "192.0.2.7", true},
        {"10.0.0.1, ::1 ,192.0.2.0/24", "10.0.0.2", false},
    };
    static const char *const bad[] = {",", "10.0.0.1,", "10.0.0", "10.0.0.1/33", "10.0.0.1/",
                                      "10.0.0.1/8/8", "10.0.0.1/-1", "10.0.0.1/ 8", "::1/129",
                                      "[::1]", "localhost", "10.0.0.1 10.0.0.2", "10.0.0.1/8x",
                                      "010.0.0.1.", "::1%lo", "none", " ",
                                      "1111:2222:3333:4444:5555:6666:7777:8888:9999:aaaa:bbbb"};
    unsigned char ip[16];

    for (size_t i = 0; i < COUNT(cases); i++) {
        bytes_of(cases[i].ip, ip);
        CHECK(networks_ok(cases[i].list));
        if (networks_have(cases[i].list, ip) != cases[i].in)
            test_fail(__FILE__, __LINE__, "%s in %s", cases[i].ip, cases[i].list);
    }
    for (size_t i = 0; i < COUNT(bad); i++)
        if (networks_ok(bad[i]))
            test_fail(__FILE__, __LINE__, "'%s' is taken", bad[i]);
}

/* --- PROXY ------------------------------------------------------------------------------------ */

#define ROW(bytes, ip) {bytes, sizeof(bytes) - 1, ip}
#define V1_LONGEST                                                                                \
    "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:"   \
    "ffff 65535 65535\r\n"

static const struct {
    const char *bytes;
    size_t n;
    const char *ip; /* NULL: for nobody that is known */
} good[] = {
    ROW("PROXY TCP4 192.0.2.7 127.0.0.1 56324 8888\r\n", "192.0.2.7"),
    ROW("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "255.255.255.255"),
    ROW("PROXY TCP6 2001:db8::7 ::1 0 8888\r\n", "2001:db8::7"),
    ROW("PROXY TCP6 ::ffff:192.0.2.7 ::1 1 8888\r\n", "192.0.2.7"),
    ROW("PROXY UNKNOWN\r\n", NULL),
    ROW("PROXY UNKNOWN whatever this is\r\n", NULL),
    ROW(V1_LONGEST, NULL),
    ROW(V2("\x07"), "192.0.2.7"),
    ROW(SIGNATURE "\x21\x11\x00\x11\xc0\x00\x02\x07\x7f\x00\x00\x01\x12\x34\x22\xb8" /* a TLV */
                  "\x04\x00\x02\x00\x00", "192.0.2.7"),
    ROW(SIGNATURE "\x21\x21\x00\x24\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07"
                  "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x12\x34\x22\xb8", "2001:db8::7"),
    ROW(LOCAL, NULL),
    ROW(SIGNATURE "\x20\x11\x00\x0c\xc0\x00\x02\x07\x7f\x00\x00\x01\x12\x34\x22\xb8", NULL),
    ROW(SIGNATURE "\x21\x00\x00\x00", NULL),         /* UNSPEC */
    ROW(SIGNATURE "\x21\x12\x00\x02\x00\x00", NULL), /* UDP: not what jim is for */
    ROW(SIGNATURE "\x21\x31\x00\x03/un", NULL),      /* AF_UNIX */
};

static const struct {
    const char *bytes;
    size_t n;
    const char *why;
} bad[] = {
    ROW("G", "HTTP"),
    ROW("\x01", "TCP-IM"),
    ROW("\x16\x03\x01", "TLS"),
    ROW("PROXYTCP4 192.0.2.7 127.0.0.1 1 2\r\n", "a blank is missing"),
    ROW("proxy TCP4 192.0.2.7 127.0.0.1 1 2\r\n", "small letters"),
    ROW("PROXY TCP4 192.0.2.7 127.0.0.1 1 2\n", "no CR"),
    ROW("PROXY TCP4  192.0.2.7 127.0.0.1 1 2\r\n", "two blanks"),
    ROW("PROXY TCP4 192.0.2.7 127.0.0.1 1 2 \r\n", "a blank at the end"),
    ROW("PROXY TCP4 192.0.2.7 127.0.0.1 1\r\n", "one port"),
    ROW("PROXY TCP4 192.0.2.7 127.0.0.1 1 65536\r\n", "a port too large"),
    ROW("PROXY TCP4 192.0.2.7 127.0.0.1 -1 2\r\n", "a port too small"),
    ROW("PROXY TCP4 ::1 ::1 1 2\r\n", "another family"),
    ROW("PROXY TCP6 192.0.2.7 127.0.0.1 1 2\r\n", "another family"),
    ROW("PROXY TCP4 192.0.2 127.0.0.1 1 2\r\n", "no address"),
    ROW("PROXY TCP4 192.0.2.7\0 127.0.0.1 1 2\r\n", "a NUL"),
    ROW("PROXY UDP4 192.0.2.7 127.0.0.1 1 2\r\n", "no such family"),
    ROW("PROXY UNKNOWNS\r\n", "no such family"),
    ROW("PROXY \r\n", "no family"),
    ROW("PROXY UNKNOWN fffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:"
        "ffff 65535 65535\r\n", "too long"),
    ROW("PROXY UNKNOWN ................................................................"
        "..............................", "never ends"),
    ROW("\r\n\r\n\0\r\nQUIT\r", "another signature"),
    ROW(SIGNATURE "\x11\x11\x00\x00", "version 1 in binary"),
    ROW(SIGNATURE "\x22\x11\x00\x00", "neither LOCAL nor PROXY"),
    ROW(SIGNATURE "\x21\x11\x00\x0b...........", "too short for IPv4"),
    ROW(SIGNATURE "\x21\x21\x00\x23...................................", "too short for IPv6"),
    ROW(SIGNATURE "\x21\x11\x08\x01", "too many TLVs"),
    ROW(SIGNATURE "\x20\x00\xff\xff", "too many TLVs"),
};

/* Whole, with more behind it, and every part of it, which ends where reading further crashes. */
TEST(proxy_header)
{
    struct proxy_said said;

    for (size_t i = 0; i < COUNT(good); i++) {
        size_t n = good[i].n;
        for (size_t part = 0; part < n; part++)
            CHECK_INT(proxy_decode(test_edge(good[i].bytes, part), part, &said), 0);
        CHECK_INT(proxy_decode(test_edge(good[i].bytes, n), n, &said), n);
        CHECK(said.known == (good[i].ip != NULL));
        if (said.known && strcmp(text_of(said.ip), good[i].ip) != 0)
            test_fail(__FILE__, __LINE__, "%s, not %s", text_of(said.ip), good[i].ip);
        struct buf more = {0};
        buf_add(&more, good[i].bytes, n);
        buf_str(&more, STR("PROXY \r\n\r\n"));
        CHECK_INT(proxy_decode(test_edge(more.p, more.len), more.len, &said), n);
        buf_free(&more);
    }
    for (size_t i = 0; i < COUNT(bad); i++)
        if (proxy_decode(test_edge(bad[i].bytes, bad[i].n), bad[i].n, &said) != -1)
            test_fail(__FILE__, __LINE__, "%s: %s is taken", bad[i].bytes, bad[i].why);
    CHECK_INT(sizeof V1_LONGEST - 1, 107);
    /* 107 bytes are the most that version 1 has; one line end may still come at the last. */
    char line[108];
    memset(line, '.', sizeof line);
    memcpy(line, "PROXY UNKNOWN ", 14);
    CHECK_INT(proxy_decode(test_edge(line, 106), 106, &said), 0);
    CHECK_INT(proxy_decode(test_edge(line, 107), 107, &said), -1);
    memcpy(line + 105, "\r\n", 2);
    CHECK_INT(proxy_decode(test_edge(line, 107), 107, &said), 107);
    memcpy(line + 105, ".\r\n", 3);
    CHECK_INT(proxy_decode(test_edge(line, 108), 108, &said), -1);
    /* And 2 KB behind the head those of version 2. */
    char *large = xcalloc(1, 16 + 2048);
    memcpy(large, V2("\x07"), 28);
    memcpy(large + 14, "\x08\x00", 2);
    CHECK_INT(proxy_decode(large, 16 + 2047, &said), 0);
    CHECK_INT(proxy_decode(large, 16 + 2048, &said), 16 + 2048);
    free(large);
}

/* --- X-Forwarded-For -------------------------------------------------------------------------- */

#define XFF "X-Forwarded-For: "
#define FIVE ",10.0.0.3,10.0.0.3,10.0.0.3,10.0.0.3,10.0.0.3"
#define PROXIES_31 ",10.0.0.2" FIVE FIVE FIVE FIVE FIVE FIVE

TEST(proxy_forwarded_for)
{
    static const struct {
        const char *fields, *ip; /* NULL: not known */
    } cases[] = {
        {"", NULL},
        {XFF "\r\n", NULL},
        {XFF "192.0.2.7\r\n", "192.0.2.7"},
        {"x-fORWARDED-fOR:192.0.2.7\n", "192.0.2.7"},
        {XFF "203.0.113.66, 192.0.2.7\r\n", "192.0.2.7"}, /* the client has written the first */
        {XFF "127.0.0.1\r\n" XFF "192.0.2.7\r\n", "192.0.2.7"},
        {XFF "192.0.2.7,10.0.0.2\r\n", "192.0.2.7"}, /* through two proxies */
        {XFF "192.0.2.7\r\n" XFF "10.0.0.2\r\nB: c\r\n" XFF "10.0.0.3\r\n", "192.0.2.7"},
        {XFF "203.0.113.66,192.0.2.7,10.0.0.2,10.0.0.3\r\n", "192.0.2.7"},
        {XFF "10.0.0.2, 10.0.0.3\r\n", "10.0.0.2"}, /* a proxy is the client itself */
        {XFF "192.0.2.7" PROXIES_31 "\r\n", "192.0.2.7"}, /* only so many count */
        {XFF "192.0.2.7,10.0.0.4" PROXIES_31 "\r\n", "10.0.0.4"},
        {XFF "192.0.2.7\r\n" XFF "10.0.0.4" PROXIES_31 "\r\n", "10.0.0.4"},
        {XFF "192.0.2.7:4711\r\n", "192.0.2.7"},
        {XFF "2001:db8::7\r\n", "2001:db8::7"},
        {XFF "[2001:db8::7]\r\n", "2001:db8::7"},
        {XFF "[2001:db8::7]:4711\r\n", "2001:db8::7"},
        {XFF "::ffff:192.0.2.7\r\n", "192.0.2.7"},
        {XFF " , 192.0.2.7\t, ,\r\n", "192.0.2.7"},
        {XFF "unknown\r\n", NULL},
        {XFF "192.0.2.7, unknown\r\n", NULL},
        {XFF "192.0.2.7, unknown, 10.0.0.2\r\n", "10.0.0.2"},
        {XFF "unknown, 192.0.2.7\r\n", "192.0.2.7"},
        {XFF "192.0.2.7:\r\n", NULL},
        {XFF "192.0.2.7:65536\r\n", NULL},
        {XFF "192.0.2.7:x\r\n", NULL},
        {XFF "[2001:db8::7\r\n", NULL},
        {XFF "[2001:db8::7]x\r\n", NULL},
        {XFF "[2001:db8::7]:\r\n", NULL},
        {XFF "[]\r\n", NULL},
        {XFF "\"192.0.2.7\"\r\n", NULL},
        {XFF "192.0.2.7 192.0.2.8\r\n", NULL},
        {XFF "300.0.2.7\r\n", NULL},
        {"X-Forwarded-For2: 192.0.2.7\r\nA: X-Forwarded-For: 192.0.2.8\r\n", NULL},
        {"Forwarded: for=192.0.2.7\r\n", NULL},
    };
    unsigned char ip[16];

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct buf head = {0};
        struct http_req r;
        size_t scan = 0;
        buf_printf(&head, "GET /?x-forwarded-for:9.9.9.9 HTTP/1.1\r\nHost: a\r\n%s\r\n",
                   cases[i].fields);
        CHECK_INT(http_decode(head.p, head.len, &scan, &r), head.len);
        bool known = proxy_forwarded("10.0.0.0/24", (struct str){head.p, head.len}, ip);
        if (known != (cases[i].ip != NULL) || (known && strcmp(text_of(ip), cases[i].ip) != 0))
            test_fail(__FILE__, __LINE__, "%s is from %s", cases[i].fields,
                      known ? text_of(ip) : "nobody");
        buf_free(&head);
    }
}

/* --- a server behind a proxy ------------------------------------------------------------------ */

/* The proxy opens a connection, with these bytes at its beginning; is what follows answered? */
static bool
is_served(struct peer *p, const struct server *s, const char *header, size_t n)
{
    peer_connect(p, s);
    put(p, header, n);
    say(p, 13, "");
    return hear(p);
}
#define SERVED(p, header) is_served((p), &s, (header), sizeof(header) - 1)

/* A limit counts connections of clients; the proxy's own are nobody's. */
TEST(proxy_connections_per_ip)
{
    struct server s;
    struct peer p[4], more;

    server_start(&s, "-o", "jim.proxy.protocol=192.0.2.0/24, 127.0.0.1", "-o",
                 "jim.connections.per.ip=2", "-o", "jim.timeout.detect=60s", NULL);
    CHECK(SERVED(&p[0], V2("\x07")));
    CHECK(SERVED(&p[1], "PROXY TCP4 192.0.2.7 127.0.0.1 56324 8888\r\n"));
    CHECK(!SERVED(&more, V2("\x07")));
    peer_close(&more);
    CHECK(SERVED(&p[2], V2("\x08")));
    CHECK(SERVED(&p[3], "PROXY TCP6 2001:db8::7 ::1 0 8888\r\n"));
    for (int i = 0; i < 5; i++)
        CHECK(SERVED(&more, LOCAL));
    for (int i = 0; i < 5; i++)
        CHECK(SERVED(&more, "PROXY UNKNOWN\r\n"));
    peer_close(&p[0]); /* its place is free again */
    while (!SERVED(&p[0], V2("\x07")))
        peer_close(&p[0]);
    CHECK(!SERVED(&more, V2("\x07")));
    CHECK(SERVED(&more, V2("\x08")));
    CHECK(!SERVED(&more, V2("\x08")));
}

/* Byte by byte, and all in one piece with what follows; over WebSocket, too. */
TEST(proxy_header_split)
{
    struct server s;
    struct peer p;

    server_start(&s, QUIET, "-o", "jim.proxy.protocol=127.0.0.1", NULL);
    for (int i = 0; i < 2; i++) {
        peer_connect(&p, &s);
        peer_hold(&p);
        PUT(&p, V2("\x07"));
        say(&p, 5, "{'userId':'ann','password':'x'}");
        peer_release(&p, i == 0 ? 1 : IN_ONE_WRITE);
        EXPECT(&p, "{'code':10007,<...>");
        EXPECT_QUIET(&p);
    }
    peer_connect(&p, &s);
    PUT(&p, V2("\x07"));
    peer_upgrade(&p, "/?username=ann");
    EXPECT(&p, "{'code':10007,<...>");
    peer_connect(&p, &s);
    PUT(&p, V2("\x07") V2("\x07")); /* the second is the client's, and no protocol */
    EXPECT_END(&p);
    peer_connect(&p, &s);
    PUT(&p, SIGNATURE);
    peer_shut(&p);
    EXPECT_END(&p);
}

/* Who must send a header and does not, and who sends one without being asked. */
TEST(proxy_not_believed)
{
    struct server s;
    struct peer p;

    server_start(&s, "-o", "jim.proxy.protocol=127.0.0.1", "-o", "jim.timeout.detect=200ms", NULL);
    CHECK(!SERVED(&p, ""));
    CHECK(!SERVED(&p, "PROXY TCP4 192.0.2.7 here 1 2\r\n"));
    peer_connect(&p, &s);
    put_str(&p, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
    EXPECT_END(&p);
    peer_connect(&p, &s);
    PUT(&p, SIGNATURE); /* and no more */
    EXPECT_END(&p);
    peer_connect(&p, &s);
    EXPECT_END(&p);

    server_restart(&s, SIGTERM, "-o", "jim.proxy.protocol=192.0.2.1,::1", NULL);
    CHECK(SERVED(&p, ""));
    CHECK(!SERVED(&p, V2("\x07")));
    peer_connect(&p, &s);
    put_str(&p, "PROXY TCP4 192.0.2.7 127.0.0.1 1 2\r\n\r\n"); /* HTTP it is, but a bad one */
    struct reply r;
    hear_reply(&p, &r, false);
    CHECK_INT(r.status, 400);
    /* His X-Forwarded-For is nobody's, either. */
    r = ask_for(&s, "GET", "/api/stats", "X-Forwarded-For: 192.0.2.7\r\n", NULL);
    CHECK_INT(r.status, 200);
}

static int
stats_status(const struct server *s, const char *header, size_t n, const char *fields)
{
    struct buf b = {0};
    struct peer p;
    struct reply r;

    peer_connect(&p, s);
    put(&p, header, n);
    buf_printf(&b, "GET /api/stats HTTP/1.1\r\nHost: localhost\r\n%s\r\n", fields);
    put(&p, b.p, b.len);
    hear_reply(&p, &r, false);
    buf_free(&b);
    peer_close(&p);
    return r.status;
}
#define STATUS(header, fields) stats_status(&s, (header), sizeof(header) - 1, (fields))

/* Nobody who comes through a proxy is of this machine, whatever it says; the key is for all. */
TEST(proxy_is_not_loopback)
{
    static const char key[] = "Authorization: Bearer k\r\n";
    struct server s;

    server_start(&s, "-o", "jim.proxy.protocol=127.0.0.1", NULL);
    CHECK_INT(STATUS(V2("\x07"), ""), 403);
    CHECK_INT(STATUS("PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n", ""), 403);
    CHECK_INT(STATUS("PROXY TCP6 ::1 ::1 1 2\r\n", ""), 403);
    CHECK_INT(STATUS("PROXY UNKNOWN\r\n", ""), 403);
    CHECK_INT(STATUS(LOCAL, ""), 403);
    server_restart(&s, SIGTERM, "-o", "jim.proxy.protocol=127.0.0.1", "-o", "jim.api.key=k", NULL);
    CHECK_INT(STATUS(V2("\x07"), key), 200);
    server_restart(&s, SIGTERM, "-o", "jim.proxy.forwarded=127.0.0.1", NULL);
    CHECK_INT(STATUS("", ""), 403);
    CHECK_INT(STATUS("", XFF "127.0.0.1\r\n"), 403);
    CHECK_INT(STATUS("", XFF "192.0.2.7\r\n"), 403);
}

static int
health(struct peer *p, const char *fields)
{
    struct buf b = {0};
    struct reply r;

    buf_printf(&b, "GET /healthz HTTP/1.1\r\nHost: a\r\n%s\r\n", fields);
    put(p, b.p, b.len);
    buf_free(&b);
    hear_reply(p, &r, false);
    return r.status;
}

/* An HTTP proxy may have several clients on one connection, one after the other. */
TEST(proxy_forwarded_counts)
{
    struct server s;
    struct peer p, ws[2], more;

    server_start(&s, QUIET, "-o", "jim.proxy.forwarded=127.0.0.1", "-o",
                 "jim.connections.per.ip=2", NULL);
    for (int i = 0; i < 2; i++) {
        peer_connect(&ws[i], &s);
        CHECK_INT(health(&ws[i], XFF "192.0.2.7\r\n"), 200);
    }
    peer_connect(&p, &s);
    CHECK_INT(health(&p, XFF "192.0.2.8\r\n"), 200);
    CHECK_INT(health(&p, ""), 200); /* the proxy itself: as many as it likes */
    CHECK_INT(health(&p, XFF "192.0.2.7, 192.0.2.8\r\n"), 200);
    CHECK_INT(health(&p, XFF "192.0.2.8, 192.0.2.7\r\n"), 429); /* he has two */
    EXPECT_END(&p);
    CHECK_INT(health(&ws[1], XFF "192.0.2.9\r\n"), 200); /* one of them is another's now */
    peer_connect(&p, &s);
    CHECK_INT(health(&p, XFF "192.0.2.7\r\n"), 200);
    for (int i = 0; i < 4; i++) {
        peer_connect(&more, &s);
        CHECK_INT(health(&more, ""), 200);
    }
    /* A body that is awaited is decoded again, and counts once. */
    peer_connect(&more, &s);
    put_str(&more, "POST /healthz HTTP/1.1\r\nHost: a\r\n" XFF "192.0.2.9\r\n"
            "Content-Length: 2\r\n\r\n.");
    put_str(&more, ".");
    struct reply r;
    hear_reply(&more, &r, false);
    CHECK(r.status != 429);
    CHECK_INT(health(&more, XFF "192.0.2.9\r\n"), 200);
}

/* Refused logins of one client do not hold back those of another: the second of the first's waits
 * behind the first, that of the second does not. */
TEST(proxy_login_delay)
{
    static const struct {
        const char *header;
        long ms;
    } tries[] = {{"PROXY TCP4 192.0.2.7 127.0.0.1 1 2\r\n", 10000},
                 {"PROXY TCP4 192.0.2.7 127.0.0.1 1 2\r\n", 30000},
                 {"PROXY TCP4 192.0.2.8 127.0.0.1 1 2\r\n", 10000},
                 {"PROXY TCP6 2001:db8::7 ::1 1 2\r\n", 10000}};
    struct server s;
    struct peer p[COUNT(tries)];
    int64_t start = time_mono_ms();

    server_start(&s, QUIET, "-o", "jim.proxy.protocol=127.0.0.1", "-o", "jim.auth=token", "-o",
                 "jim.token.secret=0123456789abcdef0123456789abcdef", "-o", "jim.auth.delay=10s",
                 "-o", "jim.log.level=debug", "-o", "jim.log.file=log", NULL);
    for (size_t i = 0; i < COUNT(tries); i++) {
        peer_connect(&p[i], &s);
        put_str(&p[i], tries[i].header);
        say(&p[i], 5, "{'token':'x'}");
        for (struct buf log = {0}; ; buf_free(&log)) { /* until it is decided */
            size_t n = 0;
            log = read_whole("log");
            for (const char *at = log.p; (at = strstr(at, "login refused in ")) != NULL; n++)
                at++;
            if (n == i + 1)
                break;
            CHECK(time_mono_ms() - start < WAIT_MS);
        }
    }
    long took = (long)(time_mono_ms() - start);
    struct buf log = read_whole("log");
    const char *at = log.p;
    for (size_t i = 0; i < COUNT(tries); i++) {
        at = strstr(at, "login refused in ") + strlen("login refused in ");
        long ms = strtol(at, NULL, 10);
        CHECK(ms >= tries[i].ms - took && ms <= tries[i].ms);
    }
    CHECK(has(log, "through a proxy, from 192.0.2.8\n"));
    CHECK(has(log, "through a proxy, from 2001:db8::7\n"));
    buf_free(&log);
}

/* SIGHUP changes who is believed, for connections that come from then on. */
TEST(proxy_reload)
{
    struct server s;
    struct peer before, p;

    write_file("jim.properties", "jim.proxy.protocol=192.0.2.1\n");
    server_start(&s, "-c", "jim.properties", NULL);
    CHECK(SERVED(&before, ""));
    write_file("jim.properties", "jim.proxy.protocol=127.0.0.1\n");
    CHECK(kill(s.pid, SIGHUP) == 0);
    while (!SERVED(&p, V2("\x07")))
        peer_close(&p);
    CHECK(!SERVED(&p, ""));
    say(&before, 13, "");
    CHECK(hear(&before));
}
