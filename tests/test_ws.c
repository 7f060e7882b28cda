/* SPDX-License-Identifier: MIT */
/*
 * test_ws.c - WebSocket as RFC 6455 has it, on the running server. What the commands say over it
 * is in test_server.c, beside the same conversations over TCP-IM.
 *
 *   upgrade   the handshake, its refusals, origins, login by query
 *   frames    masks, fragments, lengths, control frames, text
 *   limits    frame.max, peers that stop in the middle
 */
#include "client.h"

#define UNKNOWN "{'code':10017,'command':0,'msg':'cmd failed! 未知的cmd命令!'}"
#define HEARTBEAT "{\"cmd\":13}"
#define ANSWER "{\"command\":13,\"data\":{\"hbbyte\":-128}}"

/* --- upgrade ---------------------------------------------------------------------------------- */

/* The first reply to an upgrade request of these header lines. */
static struct reply
upgrade(const struct server *s, const char *request_line, const char *headers)
{
    struct buf b = {0};

    buf_printf(&b, "%s\r\n%s\r\n", request_line, headers);
    buf_add(&b, "", 1);
    return ask(s, b.p);
}

#define HOST "Host: localhost\r\n"
#define UPGRADE "Upgrade: websocket\r\nConnection: Upgrade\r\n"
#define KEY "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
#define VERSION "Sec-WebSocket-Version: 13\r\n"

TEST(ws_upgrade_to_the_byte)
{
    struct server s;
    struct peer p;
    struct reply r;

    server_start(&s, NULL);
    peer_connect(&p, &s);
    put_str(&p, "GET /chat HTTP/1.1\r\n" HOST UPGRADE KEY VERSION "\r\n");
    hear_reply(&p, &r, true);
    CHECK(strncmp(r.head.p, "HTTP/1.1 101 Switching Protocols\r\n", 34) == 0);
    CHECK(str_ieq(header(&r, "upgrade"), STR("websocket")));
    CHECK(str_ieq(header(&r, "connection"), STR("upgrade")));
    CHECK_STR(header(&r, "sec-websocket-accept"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    CHECK_STR(header(&r, "content-length"), "");
    CHECK_STR(header(&r, "sec-websocket-extensions"), "");
    CHECK_STR(header(&r, "sec-websocket-protocol"), "");
    put(&p, "\x81\x8a\0\0\0\0{\"cmd\":13}", 16);
    EXPECT_RAW(&p, "\x81\x25{\"command\":13,\"data\":{\"hbbyte\":-128}}");
}

TEST(ws_upgrade_accepted)
{
    static const char *const headers[] = {
        "host: localhost\r\nupgrade: WebSocket\r\nconnection: keep-alive, upgrade\r\n"
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n",
        HOST UPGRADE KEY VERSION "Sec-WebSocket-Protocol: chat, superchat\r\n",
        HOST UPGRADE KEY VERSION "Sec-WebSocket-Extensions: permessage-deflate\r\n",
        HOST "Upgrade: h2c, websocket\r\nConnection: Upgrade, HTTP2-Settings\r\n" KEY VERSION};
    struct server s;

    server_start(&s, NULL);
    for (size_t i = 0; i < sizeof headers / sizeof headers[0]; i++)
        CHECK_INT(upgrade(&s, "GET /any/path?x=y HTTP/1.1", headers[i]).status, 101);
}

TEST(ws_upgrade_refused)
{
    static const struct {
        const char *line, *headers;
        int status;
    } cases[] = {
        {"GET / HTTP/1.1", HOST UPGRADE KEY, 426},
        {"GET / HTTP/1.1", HOST UPGRADE KEY "Sec-WebSocket-Version: 8\r\n", 426},
        {"GET / HTTP/1.1", HOST UPGRADE KEY "Sec-WebSocket-Version: 99\r\n", 426},
        {"GET / HTTP/1.1", HOST UPGRADE VERSION, 400},
        {"GET / HTTP/1.1", HOST UPGRADE "Sec-WebSocket-Key: short\r\n" VERSION, 400},
        {"GET / HTTP/1.1", HOST UPGRADE "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ\r\n" VERSION,
         400},
        {"GET / HTTP/1.1", UPGRADE KEY VERSION, 400},
        {"POST / HTTP/1.1", HOST UPGRADE KEY VERSION, 400},
        {"GET / HTTP/1.0", HOST UPGRADE KEY VERSION, 200}}; /* 1.0 knows no Upgrade: the page */
    struct server s;
    struct reply r;

    server_start(&s, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        printf("%s %s\n", cases[i].line, cases[i].headers);
        r = upgrade(&s, cases[i].line, cases[i].headers);
        CHECK_INT(r.status, cases[i].status);
        if (r.status == 426)
            CHECK_STR(header(&r, "sec-websocket-version"), "13");
    }
}

TEST(ws_upgrade_in_pieces_with_a_frame_behind_it)
{
    struct server s;
    struct peer p;
    struct reply r;

    server_start(&s, NULL);
    peer_connect(&p, &s);
    peer_hold(&p);
    put_str(&p, "GET / HTTP/1.1\r\n" HOST UPGRADE KEY VERSION "\r\n");
    ws_put_str(&p, 0x81, HEARTBEAT);
    peer_release(&p, 3);
    hear_reply(&p, &r, true);
    CHECK_INT(r.status, 101);
    p.proto = PROTO_WS;
    EXPECT_FRAME(&p, 0x81, ANSWER);
}

TEST(ws_upgrade_after_http)
{
    struct server s;
    struct peer p;
    struct reply r;

    server_start(&s, NULL);
    peer_connect(&p, &s);
    put_str(&p, "GET /healthz HTTP/1.1\r\n" HOST "\r\n");
    hear_reply(&p, &r, false);
    CHECK_INT(r.status, 200);
    peer_upgrade(&p, "/");
    EXPECT_QUIET(&p);
}

static int
upgrade_from(const struct server *s, const char *host, const char *origin)
{
    char headers[512];

    snprintf(headers, sizeof headers, "Host: %s\r\n" UPGRADE KEY VERSION "%s%s%s", host,
             origin ? "Origin: " : "", origin ? origin : "", origin ? "\r\n" : "");
    return upgrade(s, "GET / HTTP/1.1", headers).status;
}

TEST(ws_origins_same)
{
    struct server s;

    server_start(&s, NULL);
    CHECK_INT(upgrade_from(&s, "chat.example", NULL), 101);
    CHECK_INT(upgrade_from(&s, "chat.example", "http://chat.example"), 101);
    CHECK_INT(upgrade_from(&s, "chat.example:8888", "http://chat.example:8888"), 101);
    CHECK_INT(upgrade_from(&s, "chat.example", "https://CHAT.example"), 101);
    CHECK_INT(upgrade_from(&s, "chat.example", "http://localhost:3000"), 101);
    CHECK_INT(upgrade_from(&s, "chat.example", "http://127.0.0.1"), 101);
    CHECK_INT(upgrade_from(&s, "chat.example", "http://[::1]:8080"), 101);
    CHECK_INT(upgrade_from(&s, "chat.example", "http://evil.example"), 403);
    CHECK_INT(upgrade_from(&s, "chat.example", "http://chat.example.evil"), 403);
    CHECK_INT(upgrade_from(&s, "chat.example", "http://localhost.evil.example"), 403);
    CHECK_INT(upgrade_from(&s, "chat.example", "http://127.0.0.1.evil.example"), 403);
    CHECK_INT(upgrade_from(&s, "chat.example", "null"), 403);
}

TEST(ws_origins_of_a_list)
{
    struct server s;

    server_start(&s, "-o", "jim.ws.origins=https://a.example, https://b.example:444", NULL);
    CHECK_INT(upgrade_from(&s, "chat.example", NULL), 101);
    CHECK_INT(upgrade_from(&s, "chat.example", "https://a.example"), 101);
    CHECK_INT(upgrade_from(&s, "chat.example", "https://b.example:444"), 101);
    CHECK_INT(upgrade_from(&s, "chat.example", "https://b.example"), 403);
    CHECK_INT(upgrade_from(&s, "chat.example", "http://a.example"), 403);
}

TEST(ws_origins_of_all)
{
    struct server s;

    server_start(&s, "-o", "jim.ws.origins=*", NULL);
    CHECK_INT(upgrade_from(&s, "chat.example", "http://evil.example"), 101);
    CHECK_INT(upgrade_from(&s, "chat.example", "null"), 101);
}

TEST(ws_login_by_query)
{
    struct server s;
    struct peer p;

    server_start(&s, NULL);
    peer_connect(&p, &s);
    peer_upgrade(&p, "/?username=alice&password=secret&token=");
    EXPECT(&p, "{'code':10007,'command':6,'msg':'ok 登录成功!','user':{'nick':'alice',"
               "'status':'online','terminal':'ws','userId':'alice'}}");
    EXPECT(&p, "{'code':10011,'command':9,'group':'100','msg':'join group ok! 加入群组成功!',"
               "'user':{'nick':'alice','status':'online','userId':'alice'}}");
    EXPECT_QUIET(&p);
}

TEST(ws_login_by_query_percent_encoded)
{
    struct server s;
    struct peer p;

    server_start(&s, QUIET, NULL);
    peer_connect(&p, &s);
    peer_upgrade(&p, "/chat?x=1&username=%E6%9C%8B%20%22%26+b&password=x");
    EXPECT(&p, "{'code':10007,'command':6,'msg':'ok 登录成功!','user':{'nick':'朋 \\'& b',"
               "'status':'online','terminal':'ws','userId':'朋 \\'& b'}}");
    EXPECT_QUIET(&p);
}

TEST(ws_login_by_query_failed)
{
    static const char *const targets[] = {"/?username=&password=x", "/?username=%20&password=x",
                                          "/?username=a%01b&password=x",
                                          "/?username=%ff&password=x"};
    struct server s;
    struct peer p;

    server_start(&s, NULL);
    for (size_t i = 0; i < sizeof targets / sizeof targets[0]; i++) {
        printf("%s\n", targets[i]);
        peer_connect(&p, &s);
        peer_upgrade(&p, targets[i]);
        EXPECT(&p, "{'code':10008,'command':6,'msg':'login failed ! 登录失败!'}");
        CHECK(hear(&p));
        CHECK_INT(p.op, 0x88);
        EXPECT_END(&p);
    }
}

TEST(ws_without_query_is_anonymous_until_login)
{
    struct server s;
    struct peer p;

    server_start(&s, QUIET, NULL);
    peer_open(&p, &s, PROTO_WS);
    say(&p, 19, "{'userId':'alice','type':0}");
    EXPECT(&p, "{'code':10022,'command':20,'msg':'not logged in 未登录'}");
    say(&p, 5, "{'userId':'alice'}");
    EXPECT(&p, "{'code':10007,<...>");
    say(&p, 19, "{'userId':'alice','type':0}");
    EXPECT(&p, "{'code':10016,<...>");
}

/* --- frames ----------------------------------------------------------------------------------- */

TEST(ws_mask_is_required)
{
    struct server s;
    struct peer p;

    server_start(&s, NULL);
    peer_open(&p, &s, PROTO_WS);
    put(&p, "\x81\x0a{\"cmd\":13}", 12);
    EXPECT_CLOSE(&p, 1002);
}

TEST(ws_reserved_bits_and_opcodes)
{
    static const int first[] = {0xc1, 0xa1, 0x91, 0xf1, 0x83, 0x87, 0x8b, 0x8f, 0x80, 0x00};
    struct server s;
    struct peer p;

    server_start(&s, NULL);
    for (size_t i = 0; i < sizeof first / sizeof first[0]; i++) {
        printf("first byte %02x\n", (unsigned)first[i]);
        peer_open(&p, &s, PROTO_WS);
        ws_put_str(&p, first[i], HEARTBEAT);
        EXPECT_CLOSE(&p, 1002);
        peer_close(&p);
    }
}

TEST(ws_binary_is_answered_in_text)
{
    struct server s;
    struct peer p;

    server_start(&s, NULL);
    peer_open(&p, &s, PROTO_WS);
    ws_put_str(&p, 0x82, HEARTBEAT);
    EXPECT_FRAME(&p, 0x81, ANSWER);
    ws_put(&p, 0x82, "\xff\xfe", 2); /* no text, so no matter of UTF-8 */
    EXPECT(&p, UNKNOWN);
}

TEST(ws_fragments_with_a_ping_between)
{
    struct server s;
    struct peer p;

    server_start(&s, NULL);
    peer_open(&p, &s, PROTO_WS);
    ws_put_str(&p, 0x01, "{\"cm");
    ws_put_str(&p, 0x89, "are you there?");
    EXPECT_FRAME(&p, 0x8a, "are you there?");
    ws_put_str(&p, 0x00, "d\":");
    ws_put_str(&p, 0x00, "");
    ws_put_str(&p, 0x8a, "a pong nobody asked for");
    ws_put_str(&p, 0x80, "13}");
    EXPECT_FRAME(&p, 0x81, ANSWER);
    EXPECT_QUIET(&p);
}

TEST(ws_fragments_of_one_byte)
{
    struct server s;
    struct peer p;
    const char *text = HEARTBEAT;

    server_start(&s, NULL);
    peer_open(&p, &s, PROTO_WS);
    for (size_t i = 0; text[i] != '\0'; i++)
        ws_put(&p, (text[i + 1] == '\0' ? 0x80 : 0) | (i == 0), text + i, 1);
    EXPECT_FRAME(&p, 0x81, ANSWER);
}

TEST(ws_new_message_within_fragments)
{
    struct server s;
    struct peer p;

    server_start(&s, NULL);
    peer_open(&p, &s, PROTO_WS);
    ws_put_str(&p, 0x01, "{\"cm");
    ws_put_str(&p, 0x81, HEARTBEAT);
    EXPECT_CLOSE(&p, 1002);
}

TEST(ws_ping_pong)
{
    struct server s;
    struct peer p;
    char payload[125];

    server_start(&s, NULL);
    peer_open(&p, &s, PROTO_WS);
    ws_put_str(&p, 0x89, "");
    EXPECT_FRAME(&p, 0x8a, "");
    for (size_t i = 0; i < sizeof payload; i++)
        payload[i] = (char)(i + 100);
    ws_put(&p, 0x89, payload, sizeof payload);
    CHECK(hear(&p));
    CHECK_INT(p.op, 0x8a);
    CHECK(p.text.n == 125 && memcmp(p.text.p, payload, 125) == 0);
    ws_put_str(&p, 0x8a, "unasked");
    ws_put_str(&p, 0x89, HEARTBEAT); /* a payload is not a command */
    EXPECT_FRAME(&p, 0x8a, HEARTBEAT);
    EXPECT_QUIET(&p);
}

TEST(ws_control_frames_are_short_and_whole)
{
    struct server s;
    struct peer p;
    char payload[126] = {0};

    server_start(&s, NULL);
    peer_open(&p, &s, PROTO_WS);
    ws_put(&p, 0x89, payload, 126);
    EXPECT_CLOSE(&p, 1002);
    peer_open(&p, &s, PROTO_WS);
    ws_put_str(&p, 0x09, "x");
    EXPECT_CLOSE(&p, 1002);
}

TEST(ws_close_is_echoed)
{
    static const struct {
        const char *payload;
        size_t n;
        int code;
    } cases[] = {{"\x03\xe8", 2, 1000}, {"\x03\xe9gone", 6, 1001}, {"\x0b\xb8", 2, 3000},
                 {"\x13\x87", 2, 4999}, {"\x03\xef", 2, 1007}, {"\x03\xf3\xe5\x86\x8d", 5, 1011}};
    struct server s;
    struct peer p;

    server_start(&s, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        peer_open(&p, &s, PROTO_WS);
        ws_put(&p, 0x88, cases[i].payload, cases[i].n);
        EXPECT_CLOSE(&p, cases[i].code);
        peer_close(&p);
    }
    peer_open(&p, &s, PROTO_WS);
    ws_put(&p, 0x88, "", 0);
    CHECK(hear(&p));
    CHECK_INT(p.op, 0x88);
    EXPECT_END(&p);
}

TEST(ws_close_that_may_not_be)
{
    static const struct {
        const char *payload;
        size_t n;
        int code;
    } cases[] = {{"\x03", 1, 1002},         {"\x00\x00", 2, 1002},     {"\x03\xe7", 2, 1002},
                 {"\x03\xec", 2, 1002},     {"\x03\xed", 2, 1002},     {"\x03\xee", 2, 1002},
                 {"\x03\xf7", 2, 1002},     {"\x07\xd0", 2, 1002},     {"\x13\x88", 2, 1002},
                 {"\xff\xff", 2, 1002},     {"\x03\xe8\xff", 3, 1007}, {"\x03\xe8\xc3", 3, 1007}};
    struct server s;
    struct peer p;

    server_start(&s, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        printf("case %zu\n", i);
        peer_open(&p, &s, PROTO_WS);
        ws_put(&p, 0x88, cases[i].payload, cases[i].n);
        EXPECT_CLOSE(&p, cases[i].code);
        peer_close(&p);
    }
}

TEST(ws_close_payload_is_no_command)
{
    struct server s;
    struct peer alice, bob;

    server_start(&s, QUIET, NULL);
    peer_login(&alice, &s, PROTO_WS, "alice");
    peer_login(&bob, &s, PROTO_WS, "bob");
    ws_put_str(&alice, 0x88, "\x03\xe8{\"userId\":\"bob\"}");
    EXPECT_CLOSE(&alice, 1000);
    EXPECT_QUIET(&bob);
}

TEST(ws_answers_come_before_the_close)
{
    struct server s;
    struct peer p;

    server_start(&s, QUIET, NULL);
    peer_login(&p, &s, PROTO_WS, "alice");
    peer_hold(&p);
    say(&p, 11, "{'to':'bob','chatType':2,'id':'last'}");
    ws_put_str(&p, 0x88, "\x03\xe8");
    peer_release(&p, IN_ONE_WRITE);
    EXPECT(&p, "{'code':10001,'command':12,<...>");
    EXPECT_CLOSE(&p, 1000);
}

TEST(ws_text_must_be_utf8)
{
    static const char *const texts[] = {"{\"cmd\":13,\"x\":\"\xff\"}", "\xc0\xaf", "\xed\xa0\x80",
                                        "\xf4\x90\x80\x80", "\xe4\xbd", "\xf8\x88\x80\x80\x80"};
    struct server s;
    struct peer p;

    server_start(&s, NULL);
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        peer_open(&p, &s, PROTO_WS);
        ws_put_str(&p, 0x81, texts[i]);
        EXPECT_CLOSE(&p, 1007);
        peer_close(&p);
    }
}

TEST(ws_text_may_be_cut_within_a_character)
{
    struct server s;
    struct peer p;

    server_start(&s, NULL);
    peer_open(&p, &s, PROTO_WS);
    ws_put_str(&p, 0x01, "{\"cmd\":13,\"x\":\"\xe4\xbd");
    ws_put_str(&p, 0x00, "\xa0\xf0");
    ws_put_str(&p, 0x80, "\x9f\x98\x80\"}");
    EXPECT_FRAME(&p, 0x81, ANSWER);
    ws_put_str(&p, 0x01, "\xe4\xbd");
    ws_put_str(&p, 0x80, "x");
    EXPECT_CLOSE(&p, 1007);
}

TEST(ws_lengths_in_their_shortest_form)
{
    struct server s;
    struct peer p;

    server_start(&s, NULL);
    peer_open(&p, &s, PROTO_WS);
    put(&p, "\x81\xfe\0\x0a\0\0\0\0{\"cmd\":13}", 18);
    EXPECT_CLOSE(&p, 1002);
    peer_open(&p, &s, PROTO_WS);
    put(&p, "\x81\xff\0\0\0\0\0\0\0\x0a\0\0\0\0{\"cmd\":13}", 24);
    EXPECT_CLOSE(&p, 1002);
    peer_open(&p, &s, PROTO_WS);
    put(&p, "\x81\xff\x80\0\0\0\0\0\0\x0a\0\0\0\0{\"cmd\":13}", 24);
    EXPECT_CLOSE(&p, 1002);
}

/* alice says something of n bytes to bob; returns the bytes of what he hears. */
static size_t
say_bytes(struct peer *alice, struct peer *bob, size_t n)
{
    char *content = malloc(n + 1);

    CHECK(content != NULL);
    memset(content, 'x', n);
    content[n] = '\0';
    sayf(alice, 11, "{'to':'bob','chatType':2,'id':'','content':'%s'}", content);
    CHECK(hear(alice));
    CHECK_INT(number(alice, "code"), 10000);
    CHECK(hear(bob)); /* which looks at the form of the length */
    CHECK_INT(bob->op, 0x81);
    free(content);
    return bob->text.n;
}

TEST(ws_lengths_the_server_sends)
{
    struct server s;
    struct peer alice, bob;

    server_start(&s, QUIET, NULL);
    peer_login(&alice, &s, PROTO_WS, "alice");
    peer_login(&bob, &s, PROTO_WS, "bob");
    size_t around = say_bytes(&alice, &bob, 1) - 1;
    CHECK_INT(say_bytes(&alice, &bob, 65534 - around), 65534);
    CHECK_INT(say_bytes(&alice, &bob, 65535 - around), 65535);
    CHECK_INT(say_bytes(&alice, &bob, 65536 - around), 65536);
    CHECK_INT(say_bytes(&alice, &bob, 65537 - around), 65537);
}

TEST(ws_lengths_around_the_borders)
{
    static const size_t sizes[] = {125, 126, 127, 65535, 65536, 65537, 200000, 1000000};
    struct server s;
    struct peer p;
    char *text = malloc(1000001);

    CHECK(text != NULL);
    server_start(&s, NULL);
    peer_open(&p, &s, PROTO_WS);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        memset(text, ' ', sizes[i]);
        memcpy(text, HEARTBEAT, 10);
        ws_put(&p, 0x81, text, sizes[i]);
        EXPECT_FRAME(&p, 0x81, ANSWER);
    }
    free(text);
}

/* --- limits ----------------------------------------------------------------------------------- */

#define SMALL "-o", "jim.frame.max=1024", "-o", "jim.message.max=1000"

TEST(ws_frame_max)
{
    struct server s;
    struct peer p;
    char text[1025];

    server_start(&s, SMALL, NULL);
    memset(text, ' ', sizeof text);
    memcpy(text, HEARTBEAT, 10);
    peer_open(&p, &s, PROTO_WS);
    ws_put(&p, 0x81, text, 1024);
    EXPECT_FRAME(&p, 0x81, ANSWER);
    ws_put(&p, 0x81, text, 1025);
    EXPECT_CLOSE(&p, 1009);
}

TEST(ws_frame_max_of_fragments)
{
    struct server s;
    struct peer p;
    char text[600];

    server_start(&s, SMALL, NULL);
    memset(text, ' ', sizeof text);
    memcpy(text, HEARTBEAT, 10);
    peer_open(&p, &s, PROTO_WS);
    ws_put(&p, 0x01, text, 600);
    ws_put(&p, 0x80, text + 10, 424); /* together as large as may be */
    EXPECT_FRAME(&p, 0x81, ANSWER);
    ws_put(&p, 0x01, text, 600);
    ws_put(&p, 0x80, text + 10, 425);
    EXPECT_CLOSE(&p, 1009);
}

TEST(ws_huge_length)
{
    struct server s;
    struct peer p;

    server_start(&s, NULL);
    peer_open(&p, &s, PROTO_WS);
    put(&p, "\x81\xff\0\0\0\1\0\0\0\x0a\1\2\3\4", 14); /* 2^32 + 10 is not 10 */
    EXPECT_CLOSE(&p, 1009);
    peer_open(&p, &s, PROTO_WS);
    put(&p, "\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\1\2\3\4", 14);
    EXPECT_CLOSE(&p, 1009);
}

TEST(ws_one_byte_at_a_time)
{
    struct server s;
    struct peer p;

    server_start(&s, QUIET, NULL);
    peer_login(&p, &s, PROTO_WS, "alice");
    peer_hold(&p);
    say(&p, 11, "{'to':'bob','chatType':2,'content':'你好','id':'a'}");
    ws_put_str(&p, 0x89, "ping");
    say(&p, 13, "");
    peer_release(&p, 1);
    CHECK(hear(&p));
    if (p.op == 0x8a) { /* need not wait for the disk */
        CHECK_STR(p.text, "ping");
        CHECK(hear(&p));
    }
    CHECK_LIKE(p.text, "{'code':10001,'command':12,'data':{'createTime':<time>,'id':'a','seq':1},"
                       "'msg':'offline 用户不在线'}");
    CHECK(hear(&p));
    if (p.op == 0x8a)
        CHECK(hear(&p));
    CHECK_STR(p.text, ANSWER);
}

TEST(ws_pipelined_in_order)
{
    struct server s;
    struct peer p;

    server_start(&s, QUIET, NULL);
    peer_login(&p, &s, PROTO_WS, "alice");
    peer_hold(&p);
    for (int i = 0; i < 20; i++) {
        sayf(&p, 11, "{'to':'bob','chatType':2,'id':'%d'}", i);
        say(&p, 13, "");
    }
    peer_release(&p, 33);
    for (int i = 1; i <= 20; i++) {
        EXPECT(&p, "{'code':10001,'command':12,<...>");
        CHECK_INT(number(&p, "seq"), i);
        EXPECT_FRAME(&p, 0x81, ANSWER);
    }
}

TEST(ws_lost_without_a_close)
{
    struct server s;
    struct peer alice, bob;

    server_start(&s, "-o", "jim.login.groups=g:G", NULL);
    peer_login(&alice, &s, PROTO_WS, "alice");
    CHECK(hear(&alice));
    peer_login(&bob, &s, PROTO_WS, "bob");
    CHECK(hear(&alice));
    peer_abort(&bob);
    EXPECT(&alice, "{'command':10,'data':{'group':'g','user':{'nick':'bob','status':'offline',"
                   "'userId':'bob'}}}");
    EXPECT_QUIET(&alice);
}
