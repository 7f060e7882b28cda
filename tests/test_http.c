/* SPDX-License-Identifier: MIT */
/*
 * test_http.c - HTTP on the running server, from outside.
 *
 *   messages   heads, bodies, connections: RFC 9112
 *   refusals   what is malformed, too large, unknown or not allowed
 *   files      the page, directories, and every way out of them
 *   access     keys, origins, hosts, CORS
 *   routes     the API
 *   time       idle and dripping connections
 */
#include "client.h"

#include <sys/stat.h>
#include <unistd.h>

#define HOST "Host: localhost\r\n"
#define JSON "Content-Type: application/json\r\n"

/* --- messages --------------------------------------------------------------------------------- */

/* The next response on a connection: status and whole body. */
#define EXPECT_REPLY(p, status, body) expect_reply(__FILE__, __LINE__, (p), (status), (body))

static void
expect_reply(const char *file, int line, struct peer *p, int status, const char *body)
{
    struct reply r;

    hear_reply(p, &r, false);
    test_int(file, line, "status", r.status, status);
    check_like(file, line, r.body, body, "");
}

#define HEALTHY "{'status':'ok'}"
#define GET_HEALTH "GET /healthz HTTP/1.1\r\n" HOST "\r\n"

TEST(http_keep_alive)
{
    struct server s;
    struct peer p;

    server_start(&s, NULL);
    peer_connect(&p, &s);
    for (int i = 0; i < 5; i++) {
        put_str(&p, GET_HEALTH);
        EXPECT_REPLY(&p, 200, HEALTHY);
    }
}

TEST(http_head_of_a_response)
{
    struct server s;
    struct reply r;

    server_start(&s, NULL);
    r = ask(&s, GET_HEALTH);
    CHECK(strncmp(r.head.p, "HTTP/1.1 200 OK\r\n", 17) == 0);
    CHECK_STR(header(&r, "content-type"), "application/json; charset=utf-8");
    CHECK_STR(header(&r, "content-length"), "15");
    CHECK_STR(header(&r, "connection"), "keep-alive");
    CHECK_INT(header(&r, "date").n, 29);
    CHECK_STR(header(&r, "set-cookie"), "");
}

TEST(http_pipelined_in_order)
{
    struct server s;
    struct peer p;

    server_start(&s, NULL);
    peer_connect(&p, &s);
    put_str(&p, GET_HEALTH "GET /nothing HTTP/1.1\r\n" HOST "\r\n" GET_HEALTH);
    EXPECT_REPLY(&p, 200, HEALTHY);
    EXPECT_REPLY(&p, 404, "<...>");
    EXPECT_REPLY(&p, 200, HEALTHY);
}

#define SEND(n, body)                                                                          \
    "POST /api/message/send HTTP/1.1\r\n" HOST JSON "Content-Length: " #n "\r\n\r\n" body
#define TO_BOB "{\"to\":\"bob\",\"chatType\":2}"

TEST(http_pipelined_behind_the_store)
{
    struct server s;
    struct peer p;

    server_start(&s, NULL);
    peer_connect(&p, &s);
    put_str(&p, SEND(25, TO_BOB) GET_HEALTH SEND(25, TO_BOB) SEND(25, TO_BOB) GET_HEALTH);
    for (int i = 1; i <= 3; i++) {
        struct reply r;
        hear_reply(&p, &r, false);
        CHECK_INT(r.status, 200);
        CHECK_INT(number(&p, "seq"), i);
        if (i != 2)
            EXPECT_REPLY(&p, 200, HEALTHY);
    }
}

#define SAYS(from, to, id) \
    SEND(43, "{\"from\":\"" from "\",\"to\":\"" to "\",\"chatType\":2,\"id\":\"" id "\"}")

/* What one says is nobody else's retry, though it comes on one connection. */
TEST(http_pipelined_of_several_senders)
{
    static const int seq[] = {1, 2, 3, 2};
    struct server s;
    struct peer p;

    server_start(&s, NULL);
    peer_connect(&p, &s);
    put_str(&p, SAYS("a", "b", "1") SAYS("a", "b", "2") SAYS("b", "a", "2") SAYS("a", "b", "2"));
    for (int i = 0; i < 4; i++) {
        struct reply r;
        hear_reply(&p, &r, false);
        CHECK_INT(r.status, 200);
        CHECK_INT(number(&p, "seq"), seq[i]);
    }
}

TEST(http_pipelined_byte_by_byte)
{
    struct server s;
    struct peer p;

    server_start(&s, NULL);
    peer_connect(&p, &s);
    peer_hold(&p);
    put_str(&p, SEND(25, TO_BOB) "\r\n\r\n" GET_HEALTH);
    peer_release(&p, 1);
    EXPECT_REPLY(&p, 200, "{'code':10001,<...>");
    EXPECT_REPLY(&p, 200, HEALTHY);
}

TEST(http_line_ends_may_be_bare)
{
    struct server s;

    server_start(&s, NULL);
    CHECK_INT(ask(&s, "\r\n\nGET /healthz HTTP/1.1\nhost: localhost\n\n").status, 0);
    CHECK_INT(ask(&s, "GET /healthz HTTP/1.1\nhost: localhost\n\n").status, 200);
}

TEST(http_chunked_body)
{
    struct server s;
    struct peer p;

    server_start(&s, NULL);
    for (size_t piece = 1; piece < 200; piece += 25) {
        peer_connect(&p, &s);
        peer_hold(&p);
        put_str(&p, "POST /api/message/send HTTP/1.1\r\n" HOST JSON
                    "Transfer-Encoding: chunked\r\n\r\n"
                    "5\r\n{\"to\"\r\n0E;ext=\"x\"\r\n:\"bob\",\"chatTy\r\n6\r\npe\":2}\r\n"
                    "0\r\nTrailer: x\r\n\r\n" GET_HEALTH);
        peer_release(&p, piece);
        EXPECT_REPLY(&p, 200, "{'code':10001,<...>");
        EXPECT_REPLY(&p, 200, HEALTHY);
        peer_close(&p);
    }
}

TEST(http_expect_continue)
{
    struct server s;
    struct peer p;
    struct reply r;

    server_start(&s, NULL);
    peer_connect(&p, &s);
    put_str(&p, "POST /api/message/send HTTP/1.1\r\n" HOST JSON
                "Content-Length: 25\r\nExpect: 100-continue\r\n\r\n");
    hear_reply(&p, &r, true);
    CHECK_INT(r.status, 100);
    put_str(&p, TO_BOB);
    EXPECT_REPLY(&p, 200, "{'code':10001,<...>");
}

TEST(http_expect_continue_refused)
{
    struct server s;
    struct peer p;
    struct reply r;

    server_start(&s, NULL);
    peer_connect(&p, &s);
    put_str(&p, "POST /api/message/send HTTP/1.1\r\n" HOST JSON
                "Content-Length: 99999999\r\nExpect: 100-continue\r\n\r\n");
    hear_reply(&p, &r, false);
    CHECK_INT(r.status, 413);
}

TEST(http_head)
{
    struct server s;
    struct peer p;
    struct reply r;

    server_start(&s, NULL);
    peer_connect(&p, &s);
    put_str(&p, "HEAD / HTTP/1.1\r\n" HOST "\r\n"
                "HEAD /nothing HTTP/1.1\r\n" HOST "\r\n" GET_HEALTH);
    hear_reply(&p, &r, true);
    CHECK_INT(r.status, 200);
    CHECK(header(&r, "content-length").n >= 3);
    hear_reply(&p, &r, true);
    CHECK_INT(r.status, 404);
    EXPECT_REPLY(&p, 200, HEALTHY); /* right behind: no body was sent */
}

TEST(http_options)
{
    struct server s;
    struct reply r;

    server_start(&s, NULL);
    r = ask_for(&s, "OPTIONS", "/api/message/send", "", NULL);
    CHECK_INT(r.status, 204);
    CHECK_STR(header(&r, "allow"), "POST, OPTIONS");
    CHECK_INT(server_stat(&s, "messages"), 0);
    r = ask_for(&s, "OPTIONS", "/api/user/online", "", NULL);
    CHECK_INT(r.status, 204);
    CHECK_STR(header(&r, "allow"), "GET, HEAD, POST, OPTIONS");
}

TEST(http_connection_close)
{
    struct server s;
    struct peer p;
    struct reply r;

    server_start(&s, NULL);
    peer_connect(&p, &s);
    put_str(&p, "GET /healthz HTTP/1.1\r\n" HOST "Connection: x, Close\r\n\r\n" GET_HEALTH);
    hear_reply(&p, &r, false);
    CHECK_INT(r.status, 200);
    CHECK_STR(header(&r, "connection"), "close");
    hear_reply(&p, &r, false);
    CHECK_INT(r.status, 0); /* the end, and no second answer */
}

TEST(http_1_0)
{
    struct server s;
    struct peer p;
    struct reply r;

    server_start(&s, NULL);
    peer_connect(&p, &s);
    put_str(&p, "GET /healthz HTTP/1.0\r\n\r\n"); /* needs no Host */
    hear_reply(&p, &r, false);
    CHECK_INT(r.status, 200);
    CHECK_STR(header(&r, "connection"), "close");
    hear_reply(&p, &r, false);
    CHECK_INT(r.status, 0);
    peer_connect(&p, &s);
    put_str(&p, "GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    hear_reply(&p, &r, false);
    CHECK_STR(header(&r, "connection"), "keep-alive");
    put_str(&p, GET_HEALTH);
    EXPECT_REPLY(&p, 200, HEALTHY);
}

TEST(http_half_closed)
{
    struct server s;
    struct peer p;

    server_start(&s, NULL);
    peer_connect(&p, &s);
    put_str(&p, SEND(25, TO_BOB) GET_HEALTH);
    peer_shut(&p);
    EXPECT_REPLY(&p, 200, "{'code':10001,<...>");
    EXPECT_REPLY(&p, 200, HEALTHY);
    hear_end(&p);
}

/* --- refusals --------------------------------------------------------------------------------- */

TEST(http_malformed_heads)
{
    static const struct {
        const char *text;
        int status;
    } cases[] = {
        {"GET / HTTP/1.1\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\nX: a\001b\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\nX: a\rY: b\r\n\r\n", 400},
        {"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
        {"GET / x HTTP/1.1\r\nHost: a\r\n\r\n", 400},
        {"GET /\r\nHost: a\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", 400},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0",
         400},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxx", 400},
        {"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505},
        {"GET / HTTP/1.x\r\nHost: a\r\n\r\n", 400}};
    struct server s;
    struct peer p;
    struct reply r;

    server_start(&s, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        printf("%s\n", cases[i].text);
        peer_connect(&p, &s);
        put_str(&p, cases[i].text);
        hear_reply(&p, &r, false);
        CHECK_INT(r.status, cases[i].status);
        CHECK_STR(header(&r, "connection"), "close");
        hear_end(&p); /* what follows cannot be understood */
        peer_close(&p);
    }
}

TEST(http_content_length_twice_the_same)
{
    struct server s;
    struct peer p;

    server_start(&s, NULL);
    peer_connect(&p, &s);
    put_str(&p, "POST /healthz HTTP/1.1\r\n" HOST "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}"
                GET_HEALTH);
    EXPECT_REPLY(&p, 200, HEALTHY);
    EXPECT_REPLY(&p, 200, HEALTHY);
}

/* A request head with a header line of n bytes, given `times`. */
static struct reply
with_header(const struct server *s, size_t n, int times)
{
    struct buf b = {0};
    struct reply r;
    char *line = malloc(n + 1);

    CHECK(line != NULL);
    memset(line, 'x', n);
    memcpy(line, "X: ", 3);
    line[n] = '\0';
    buf_printf(&b, "GET /healthz HTTP/1.1\r\n" HOST);
    for (int i = 0; i < times; i++)
        buf_printf(&b, "%s\r\n", line);
    buf_printf(&b, "\r\n");
    buf_add(&b, "", 1);
    r = ask(s, b.p);
    buf_free(&b);
    free(line);
    return r;
}

TEST(http_head_too_large)
{
    struct server s;

    server_start(&s, NULL);
    CHECK_INT(with_header(&s, 8000, 1).status, 200);
    CHECK_INT(with_header(&s, 8200, 1).status, 431);
    CHECK_INT(with_header(&s, 4000, 4).status, 200);
    CHECK_INT(with_header(&s, 4000, 5).status, 431);
    CHECK_INT(with_header(&s, 100, 1000).status, 431);
}

TEST(http_body_too_large)
{
    struct server s;
    struct peer p;
    struct reply r;

    server_start(&s, "-o", "jim.frame.max=1024", "-o", "jim.message.max=1000", NULL);
    peer_connect(&p, &s);
    put_str(&p, "POST /api/message/send HTTP/1.1\r\n" HOST JSON "Content-Length: 1025\r\n\r\n");
    hear_reply(&p, &r, false); /* the head is enough to know */
    CHECK_INT(r.status, 413);
    hear_end(&p);
    peer_connect(&p, &s);
    put_str(&p, "POST /api/message/send HTTP/1.1\r\n" HOST JSON
                "Transfer-Encoding: chunked\r\n\r\n401\r\n");
    hear_reply(&p, &r, false);
    CHECK_INT(r.status, 413);
    peer_connect(&p, &s);
    put_str(&p, "POST /api/message/send HTTP/1.1\r\n" HOST JSON
                "Content-Length: 99999999999999999999\r\n\r\n");
    hear_reply(&p, &r, false);
    CHECK(r.status == 413 || r.status == 400);
}

TEST(http_not_found)
{
    static const char *const paths[] = {"/nothing", "/api", "/api/", "/api/nothing",
                                        "/api/user/online/", "/API/stats", "/test/upload",
                                        "/webim", "/api/message/sendx"};
    struct server s;

    server_start(&s, NULL);
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        printf("%s\n", paths[i]);
        CHECK_INT(ask_for(&s, "GET", paths[i], "", NULL).status, 404);
    }
}

TEST(http_method_not_allowed)
{
    static const struct {
        const char *method, *path, *allow;
    } cases[] = {{"GET", "/api/message/send", "POST, OPTIONS"},
                 {"PUT", "/api/message/send", "POST, OPTIONS"},
                 {"GET", "/api/user/close?userid=alice", "POST, OPTIONS"},
                 {"DELETE", "/api/stats", "GET, HEAD, POST, OPTIONS"},
                 {"PATCH", "/api/user/online?userid=alice", "GET, HEAD, POST, OPTIONS"},
                 {"POST", "/", "GET, HEAD"},
                 {"FOO", "/index.html", "GET, HEAD"},
                 {"TRACE", "/", "GET, HEAD"}};
    struct server s;
    struct reply r;

    server_start(&s, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        r = ask_for(&s, cases[i].method, cases[i].path, "", NULL);
        CHECK_INT(r.status, 405);
        CHECK(header(&r, "allow").n >= strlen(cases[i].allow));
        CHECK(memcmp(header(&r, "allow").p, cases[i].allow, strlen(cases[i].allow)) == 0);
    }
}

/* --- files ------------------------------------------------------------------------------------ */

TEST(http_built_in_page)
{
    struct server s;
    struct reply r;

    server_start(&s, NULL);
    r = ask_for(&s, "GET", "/", "", NULL);
    CHECK_INT(r.status, 200);
    CHECK_STR(header(&r, "content-type"), "text/html; charset=utf-8");
    CHECK(memmem(r.body.p, r.body.n, "<html", 5) != NULL);
    CHECK(header(&r, "etag").n > 2);
    r = ask_for(&s, "GET", "/jim.js", "", NULL);
    CHECK_STR(header(&r, "content-type"), "text/javascript; charset=utf-8");
    r = ask_for(&s, "GET", "/jim.css?v=2", "", NULL);
    CHECK_STR(header(&r, "content-type"), "text/css; charset=utf-8");
    CHECK_INT(ask_for(&s, "GET", "/../jim.js", "", NULL).status, 404);
}

/* site/ with a few files, and things beside it that must not be seen. */
static void
make_site(void)
{
    CHECK(mkdir("site", 0700) == 0 && mkdir("site/sub", 0700) == 0);
    CHECK(mkdir("site/empty", 0700) == 0 && mkdir("site/.git", 0700) == 0);
    write_file("site/index.html", "<html>root</html>");
    write_file("site/a.txt", "a text");
    write_file("site/b%c d.txt", "odd name");
    write_file("site/noextension", "?");
    write_file("site/sub/index.html", "<html>sub</html>");
    write_file("site/.hidden", "top secret");
    write_file("site/.git/config", "top secret");
    write_file("secret.txt", "top secret");
    CHECK(symlink("../secret.txt", "site/link.txt") == 0);
    CHECK(symlink("..", "site/up") == 0);
    CHECK(symlink("/etc", "site/sub/etc") == 0);
    CHECK(mkfifo("site/fifo", 0600) == 0);
}

TEST(http_files)
{
    static const struct {
        const char *path, *type, *body;
    } cases[] = {{"/", "text/html; charset=utf-8", "<html>root</html>"},
                 {"/index.html", "text/html; charset=utf-8", "<html>root</html>"},
                 {"/a.txt", "text/plain; charset=utf-8", "a text"},
                 {"/a.txt?x=y", "text/plain; charset=utf-8", "a text"},
                 {"/%61.txt", "text/plain; charset=utf-8", "a text"},
                 {"/b%25c%20d.txt", "text/plain; charset=utf-8", "odd name"},
                 {"/noextension", "application/octet-stream", "?"},
                 {"/sub/", "text/html; charset=utf-8", "<html>sub</html>"}};
    struct server s;
    struct reply r;

    make_site();
    server_start(&s, "-o", "jim.http.page=site", NULL);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        printf("%s\n", cases[i].path);
        r = ask_for(&s, "GET", cases[i].path, "", NULL);
        CHECK_INT(r.status, 200);
        CHECK_STR(header(&r, "content-type"), cases[i].type);
        CHECK_STR(r.body, cases[i].body);
    }
    r = ask_for(&s, "GET", "/sub", "", NULL);
    CHECK_INT(r.status, 301);
    CHECK_STR(header(&r, "location"), "/sub/");
    r = ask_for(&s, "GET", "///sub", "", NULL);
    CHECK_INT(r.status, 301);
    CHECK_STR(header(&r, "location"), "/sub/"); /* not a host of that name */
    r = ask_for(&s, "HEAD", "/a.txt", "", NULL);
    CHECK_INT(r.status, 200);
    CHECK_STR(header(&r, "content-length"), "6");
}

TEST(http_files_none_outside)
{
    static const char *const paths[] = {
        "/../secret.txt", "/%2e%2e/secret.txt", "/%2E%2e/secret.txt", "/..%2fsecret.txt",
        "/..%2Fsecret.txt", "/%2e%2e%2fsecret.txt", "/sub/../../secret.txt",
        "/sub/%2e%2e/%2e%2e/secret.txt", "/.%2e/secret.txt", "//secret.txt", "//etc/passwd",
        "/%2fetc/passwd", "/etc/passwd", "/..", "/../", "/../..", "/..;/secret.txt",
        "/..%5csecret.txt", "/..\\secret.txt", "/....//secret.txt", "/%252e%252e/secret.txt",
        "/%c0%ae%c0%ae/secret.txt", "/sub/..", "/a.txt%00", "/%00", "/a.txt%00.html",
        "/link.txt", "/up/secret.txt", "/up/", "/sub/etc/passwd", "/.hidden", "/.git/config",
        "/.git/", "/fifo", "/empty/", "/missing.txt", "/a.txt/b", "/%zz", "/%", "/%2"};
    struct server s;
    struct reply r;

    make_site();
    server_start(&s, "-o", "jim.http.page=site", NULL);
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        printf("%s\n", paths[i]);
        r = ask_for(&s, "GET", paths[i], "", NULL);
        CHECK(memmem(r.body.p, r.body.n, "secret", 6) == NULL);
        CHECK_INT(r.status, 404);
    }
    r = ask(&s, "GET http://localhost/../secret.txt HTTP/1.1\r\n" HOST "\r\n");
    CHECK_INT(r.status, 404);
    r = ask(&s, "GET ../secret.txt HTTP/1.1\r\n" HOST "\r\n");
    CHECK(r.status == 400 || r.status == 404);
}

TEST(http_not_modified)
{
    struct server s;
    struct reply r;
    char tag[160], date[160];

    make_site();
    server_start(&s, "-o", "jim.http.page=site", NULL);
    r = ask_for(&s, "GET", "/a.txt", "", NULL);
    struct str etag = header(&r, "etag"), modified = header(&r, "last-modified");
    CHECK(etag.n > 2 && etag.p[0] == '"' && modified.n == 29);
    snprintf(tag, sizeof tag, "If-None-Match: \"x\", %.*s\r\n", (int)etag.n, etag.p);
    snprintf(date, sizeof date, "If-Modified-Since: %.*s\r\n", (int)modified.n, modified.p);
    r = ask_for(&s, "GET", "/a.txt", tag, NULL);
    CHECK_INT(r.status, 304);
    CHECK_INT(r.body.n, 0);
    CHECK(header(&r, "etag").n > 2);
    CHECK_INT(ask_for(&s, "GET", "/a.txt", date, NULL).status, 304);
    CHECK_INT(ask_for(&s, "GET", "/a.txt", "If-None-Match: *\r\n", NULL).status, 304);
    CHECK_INT(ask_for(&s, "GET", "/a.txt", "If-None-Match: \"x\"\r\n", NULL).status, 200);
    write_file("site/a.txt", "another text");
    CHECK_INT(ask_for(&s, "GET", "/a.txt", tag, NULL).status, 200);
    r = ask_for(&s, "GET", "/", "", NULL);
    etag = header(&r, "etag");
    snprintf(tag, sizeof tag, "If-None-Match: W/%.*s\r\n", (int)etag.n, etag.p);
    CHECK_INT(ask_for(&s, "GET", "/", tag, NULL).status, 304);
}

#define LARGE (5 * 1024 * 1024)

TEST(http_large_file)
{
    struct server s;
    struct peer p, other;
    struct reply r;
    unsigned char *bytes = malloc(LARGE);

    CHECK(bytes != NULL);
    for (size_t i = 0; i < LARGE; i++)
        bytes[i] = (unsigned char)(i * 2654435761u >> 13);
    make_site();
    FILE *f = fopen("site/large.bin", "w");
    CHECK(f != NULL && fwrite(bytes, 1, LARGE, f) == LARGE && fclose(f) == 0);
    server_start(&s, "-o", "jim.http.page=site", NULL);
    peer_connect_port(&p, s.port[0], true); /* slow: it takes many turns */
    put_str(&p, "GET /large.bin HTTP/1.1\r\n" HOST "\r\n" GET_HEALTH);
    CHECK(peer_ready(&p, WAIT_MS));
    peer_connect(&other, &s);
    put_str(&other, GET_HEALTH);
    EXPECT_REPLY(&other, 200, HEALTHY); /* meanwhile others are served */
    hear_reply(&p, &r, false);
    CHECK_INT(r.status, 200);
    CHECK_INT(r.body.n, LARGE);
    CHECK(memcmp(r.body.p, bytes, LARGE) == 0);
    EXPECT_REPLY(&p, 200, HEALTHY);
    free(bytes);
}

TEST(http_page_must_be_a_directory)
{
    struct output o;

    run_jim(&o, "-p", "0", "-d", "data", "-o", "jim.http.page=missing", NULL);
    CHECK_INT(o.code, 1);
    CHECK(has(o.err, "jim.http.page"));
}

/* --- access ----------------------------------------------------------------------------------- */

#define FORBIDDEN "{'code':10024,'msg':'forbidden 没有权限'}"

TEST(http_api_key)
{
    static const char *const bad[] = {
        "", "Authorization: Bearer wrong\r\n", "Authorization: Bearer\r\n",
        "Authorization: Basic s3cret\r\n", "Authorization: Bearer s3cre\r\n",
        "Authorization: Bearer s3crett\r\n", "Authorization: s3cret\r\n"};
    static const char *const good[] = {
        "Authorization: Bearer s3cret\r\n", "authorization: bearer  s3cret\r\n",
        "Origin: http://evil.example\r\nAuthorization: Bearer s3cret\r\n"};
    struct server s;
    struct reply r;

    server_start(&s, "-o", "jim.api.key=s3cret", NULL);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        r = ask_for(&s, "GET", "/api/stats", bad[i], NULL);
        CHECK_INT(r.status, 401);
        CHECK_LIKE(r.body, "{'code':10022,'msg':'not logged in 未登录'}");
        CHECK_STR(header(&r, "www-authenticate"), "Bearer");
    }
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        CHECK_INT(ask_for(&s, "GET", "/api/stats", good[i], NULL).status, 200);
    CHECK_INT(ask_for(&s, "GET", "/healthz", "", NULL).status, 200);
    CHECK_INT(ask_for(&s, "GET", "/", "", NULL).status, 200);
    CHECK_INT(ask_for(&s, "POST", "/api/message/send", JSON, TO_BOB).status, 401);
}

static int
stats_from(const struct server *s, const char *host, const char *origin)
{
    char request[256];

    snprintf(request, sizeof request, "GET /api/stats HTTP/1.1\r\nHost: %s\r\n%s%s%s\r\n", host,
             origin ? "Origin: " : "", origin ? origin : "", origin ? "\r\n" : "");
    struct reply r = ask(s, request);
    if (r.status == 403)
        CHECK_LIKE(r.body, FORBIDDEN);
    return r.status;
}

TEST(http_api_without_key)
{
    struct server s;

    server_start(&s, NULL);
    CHECK_INT(stats_from(&s, "localhost:8888", NULL), 200);
    CHECK_INT(stats_from(&s, "127.0.0.1", NULL), 200);
    CHECK_INT(stats_from(&s, "[::1]:8888", NULL), 200);
    CHECK_INT(stats_from(&s, "localhost:8888", "http://localhost:8888"), 200);
    CHECK_INT(stats_from(&s, "localhost:8888", "http://localhost:3000"), 403);
    CHECK_INT(stats_from(&s, "localhost", "http://evil.example"), 403);
    CHECK_INT(stats_from(&s, "localhost", "null"), 403);
    CHECK_INT(stats_from(&s, "evil.example", NULL), 403); /* a name that was made to point here */
    CHECK_INT(stats_from(&s, "evil.example", "http://evil.example"), 403);
    CHECK_INT(stats_from(&s, "127.0.0.1.evil.example", NULL), 403);
    CHECK_INT(stats_from(&s, "localhost.evil.example", NULL), 403);
}

TEST(http_cors)
{
    struct server s;
    struct reply r;

    server_start(&s, "-o", "jim.http.cors=https://a.example", "-o", "jim.api.key=k", NULL);
    r = ask_for(&s, "OPTIONS", "/api/stats", "Origin: https://a.example\r\n"
                "Access-Control-Request-Method: GET\r\n", NULL);
    CHECK_INT(r.status, 204);
    CHECK_STR(header(&r, "access-control-allow-origin"), "https://a.example");
    CHECK(header(&r, "access-control-allow-headers").n > 0);
    r = ask_for(&s, "GET", "/api/stats", "Origin: https://a.example\r\n"
                "Authorization: Bearer k\r\n", NULL);
    CHECK_STR(header(&r, "access-control-allow-origin"), "https://a.example");
    r = ask_for(&s, "GET", "/api/stats", "Origin: https://b.example\r\n"
                "Authorization: Bearer k\r\n", NULL);
    CHECK_STR(header(&r, "access-control-allow-origin"), "");
}

TEST(http_cors_is_off)
{
    struct server s;
    struct reply r;

    server_start(&s, NULL);
    r = ask_for(&s, "OPTIONS", "/api/stats", "Origin: https://a.example\r\n"
                "Access-Control-Request-Method: GET\r\n", NULL);
    CHECK_STR(header(&r, "access-control-allow-origin"), "");
}

/* --- routes ----------------------------------------------------------------------------------- */

TEST(http_send)
{
    struct server s;
    struct peer bob;
    struct reply r;

    server_start(&s, QUIET, NULL);
    peer_login(&bob, &s, PROTO_TCP, "bob");
    r = api_send(&s, "{'from':'alice','to':'bob','cmd':11,'chatType':'2','msgType':'0',"
                     "'content':'你好','id':'a','extras':{'k':1}}");
    CHECK_INT(r.status, 200);
    CHECK_LIKE(r.body, "{'code':10000,'command':12,'data':{'createTime':<time>,'id':'a','seq':1},"
                       "'msg':'ok 发送成功'}");
    EXPECT(&bob, "{'command':11,'data':{'chatType':2,'cmd':11,'content':'你好',"
                 "'createTime':<time>,'extras':{'k':1},'from':'alice','id':'a','msgType':0,"
                 "'seq':1,'to':'bob'}}");
    r = api_send(&s, "{'from':'alice','to':'bob','chatType':2,'content':'again','id':'a'}");
    CHECK_LIKE(r.body, "{'code':10000,'command':12,'data':{'createTime':<time>,'id':'a','seq':1},"
                       "'msg':'ok 发送成功'}");
    EXPECT_QUIET(&bob); /* a retry */
    r = api_send(&s, "{'to':'carol','chatType':2,'content':'x'}");
    CHECK_INT(r.status, 200);
    CHECK_LIKE(r.body, "{'code':10001,'command':12,'data':{'createTime':<time>,'id':'<id>',"
                       "'seq':1},'msg':'offline 用户不在线'}");
}

TEST(http_send_refused)
{
    static const char *const bodies[] = {
        "", "{", "[]", "{}", "null", "{'to':'bob'}", "{'to':'bob','chatType':0}", "{'chatType':2}",
        "{'chatType':1}", "{'to':'bob','chatType':3}", "{'to':'','chatType':2}",
        "{'to':'bob','chatType':2,'extras':'x'}", "{'from':'','to':'bob','chatType':2,'id':{}}x"};
    struct server s;
    struct reply r;

    server_start(&s, NULL);
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        printf("%s\n", bodies[i]);
        r = api_send(&s, bodies[i]);
        CHECK_INT(r.status, 400);
        CHECK_LIKE(r.body, "{'code':10002,'command':12,'msg':'send failed <...>");
    }
    CHECK_INT(server_stat(&s, "messages"), 0);
}

TEST(http_send_too_large)
{
    struct server s;
    struct reply r;

    server_start(&s, "-o", "jim.message.max=4", NULL);
    r = api_send(&s, "{'to':'bob','chatType':2,'content':'12345'}");
    CHECK_INT(r.status, 413);
    CHECK_LIKE(r.body, "{'code':10025,'command':12,'msg':'message too large 消息过大'}");
    CHECK_INT(api_send(&s, "{'to':'bob','chatType':2,'content':'1234'}").status, 200);
}

TEST(http_send_by_form_and_query)
{
    static const char form[] = "Content-Type: application/x-www-form-urlencoded\r\n";
    struct server s;
    struct peer bob;

    server_start(&s, QUIET, NULL);
    peer_login(&bob, &s, PROTO_TCP, "bob");
    CHECK_INT(ask_for(&s, "POST", "/api/message/send", form,
                      "from=alice&to=bob&chatType=2&content=1%2B1+%3D+%E4%BA%8C").status, 200);
    EXPECT(&bob, "{'command':11,'data':{'chatType':2,'content':'1+1 = 二','createTime':<time>,"
                 "'from':'alice','id':'<id>','seq':1,'to':'bob'}}");
    CHECK_INT(ask_for(&s, "POST", "/api/message/send?from=alice&to=bob&chatType=2&content=q%22",
                      "", NULL).status, 200);
    EXPECT(&bob, "{'command':11,'data':{'chatType':2,'content':'q\\'','createTime':<time>,"
                 "'from':'alice','id':'<id>','seq':2,'to':'bob'}}");
    CHECK_INT(ask_for(&s, "POST", "/api/message/send?to=carol&from=alice", JSON,
                      TO_BOB).status, 200); /* what the body says wins */
    EXPECT(&bob, "{'command':11,'data':{'chatType':2,'createTime':<time>,'from':'alice',"
                 "'id':'<id>','seq':3,'to':'bob'}}");
    CHECK_INT(ask_for(&s, "POST", "/api/message/send", form, TO_BOB).status, 200); /* curl -d */
    EXPECT(&bob, "{'command':11,'data':{'chatType':2,'createTime':<time>,'from':'system',"
                 "'id':'<id>','seq':1,'to':'bob'}}");
    CHECK_INT(ask_for(&s, "POST", "/api/message/send", "", TO_BOB).status, 200); /* no type */
    EXPECT(&bob, "{'command':11,<...>");
    CHECK_INT(ask_for(&s, "POST", "/api/message/send", form, "to=%ff&chatType=2").status, 400);
    CHECK_INT(ask_for(&s, "POST", "/api/message/send", form, "to=%zz&chatType=2").status, 400);
}

TEST(http_send_to_a_group)
{
    struct server s;
    struct peer bob;
    struct reply r;

    server_start(&s, "-o", "jim.login.groups=g:G", NULL);
    peer_login(&bob, &s, PROTO_WS, "bob");
    CHECK(hear(&bob));
    r = api_send(&s, "{'from':'alice','groupId':'g','chatType':1,'content':'x'}");
    CHECK_INT(r.status, 200); /* of which he need not be a member */
    EXPECT(&bob, "{'command':11,'data':{'chatType':1,'content':'x','createTime':<time>,"
                 "'from':'alice','groupId':'g','id':'<id>','seq':1}}");
}

TEST(http_user_online)
{
    static const char *const forms[] = {"/api/user/online?userid=alice",
                                        "/api/user/online?userId=%61lice&x=y"};
    struct server s;
    struct peer alice;
    struct reply r;

    server_start(&s, QUIET, NULL);
    r = ask_for(&s, "GET", forms[0], "", NULL);
    CHECK_INT(r.status, 200);
    CHECK_LIKE(r.body, "{'code':10001,'msg':'offline 用户不在线'}");
    peer_login(&alice, &s, PROTO_TCP, "alice");
    for (int i = 0; i < 2; i++) {
        r = ask_for(&s, i ? "POST" : "GET", forms[i], "", NULL);
        CHECK_INT(r.status, 200);
        CHECK_LIKE(r.body, "{'code':10019,'msg':'online 用户在线'}");
    }
    r = ask_for(&s, "POST", "/api/user/online", JSON, "{\"userId\":\"alice\"}");
    CHECK_LIKE(r.body, "{'code':10019,'msg':'online 用户在线'}");
    r = ask_for(&s, "GET", "/api/user/online", "", NULL);
    CHECK_INT(r.status, 400);
    CHECK_LIKE(r.body, "{'code':10020,'msg':'Invalid verification! 不合法校验'}");
}

TEST(http_user_close)
{
    struct server s;
    struct peer tcp, ws, bob;
    struct reply r;

    server_start(&s, QUIET, NULL);
    peer_login(&tcp, &s, PROTO_TCP, "alice");
    peer_login(&ws, &s, PROTO_WS, "alice");
    peer_login(&bob, &s, PROTO_TCP, "bob");
    r = ask_for(&s, "POST", "/api/user/close?userid=alice", "", NULL);
    CHECK_INT(r.status, 200);
    CHECK_LIKE(r.body, "{'code':10021,'msg':'close ok! 关闭成功'}");
    hear_end(&tcp);
    hear_end(&ws);
    EXPECT_QUIET(&bob);
    r = ask_for(&s, "POST", "/api/user/close?userid=nobody", "", NULL);
    CHECK_INT(r.status, 200);
    r = ask_for(&s, "POST", "/api/user/close", "", NULL);
    CHECK_INT(r.status, 400);
    CHECK_LIKE(r.body, "{'code':10020,'msg':'Invalid verification! 不合法校验'}");
}

TEST(http_stats)
{
    struct server s;
    struct peer p;

    server_start(&s, QUIET, NULL);
    peer_login(&p, &s, PROTO_TCP, "alice");
    say(&p, 11, "{'to':'alice','chatType':2}");
    CHECK(hear(&p));
    CHECK_INT(server_stat(&s, "messages"), 1);
    CHECK_INT(server_stat(&s, "online"), 1);
    CHECK_INT(server_stat(&s, "users"), 1);
    CHECK_INT(server_stat(&s, "tcp"), 1);
}

TEST(http_rate_limit)
{
    struct server s;
    struct peer p;
    struct reply r;
    int ok = 0, refused = 0;

    server_start(&s, "-o", "jim.rate.messages=1", "-o", "jim.rate.burst=5", NULL);
    peer_connect(&p, &s);
    peer_hold(&p);
    for (int i = 0; i < 40; i++)
        put_str(&p, "GET /api/user/online?userid=x HTTP/1.1\r\n" HOST "\r\n");
    peer_release(&p, IN_ONE_WRITE);
    for (int i = 0; i < 40; i++) {
        hear_reply(&p, &r, false);
        ok += r.status == 200;
        refused += r.status == 429;
        if (r.status == 429)
            CHECK_LIKE(r.body, "{'code':10023,'msg':'too many requests 请求过于频繁'}");
    }
    CHECK_INT(ok + refused, 40);
    CHECK(ok >= 5 && refused > 20);
}

/* --- time ------------------------------------------------------------------------------------- */

TEST(http_idle_keep_alive_ends)
{
    struct server s;
    struct peer p;
    int64_t start = time_mono_ms();

    server_start(&s, "-o", "jim.timeout.http=200ms", NULL);
    peer_connect(&p, &s);
    put_str(&p, GET_HEALTH);
    EXPECT_REPLY(&p, 200, HEALTHY);
    hear_end(&p);
    CHECK(time_mono_ms() - start >= 150);
}

TEST(http_dripping_head_ends)
{
    struct server s;
    struct peer p;
    int64_t start = time_mono_ms();

    server_start(&s, "-o", "jim.timeout.detect=300ms", NULL);
    peer_connect(&p, &s);
    put_str(&p, "GET / HTTP/1.1\r\n" HOST "X: ");
    while (!peer_ready(&p, 20)) { /* until it has been told, or shown, to go */
        CHECK(time_mono_ms() - start < WAIT_MS);
        put_str(&p, "x");
    }
    CHECK(time_mono_ms() - start >= 250);
    hear_end(&p);
}

TEST(http_stop_while_a_file_streams)
{
    struct server s;
    struct peer p;
    struct reply r;

    make_site();
    FILE *f = fopen("site/large.bin", "w");
    CHECK(f != NULL && ftruncate(fileno(f), LARGE) == 0 && fclose(f) == 0);
    server_start(&s, "-o", "jim.http.page=site", "-o", "jim.drain=60s", NULL);
    peer_connect_port(&p, s.port[0], true);
    put_str(&p, "GET /large.bin HTTP/1.1\r\n" HOST "\r\n");
    CHECK(peer_ready(&p, WAIT_MS));
    CHECK(kill(s.pid, SIGTERM) == 0);
    hear_reply(&p, &r, false);
    CHECK_INT(r.body.n, LARGE);
    CHECK_INT(server_end(&s, 0), 0);
}
