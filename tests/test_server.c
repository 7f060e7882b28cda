/* SPDX-License-Identifier: MIT */
/*
 * test_server.c - the running server, seen from outside: what J-IM's clients say and what they
 * must hear, byte for byte, over TCP-IM and (tests named ws_) WebSocket.
 *
 *   commands   a conversation for each, and every refusal
 *   input      what a lenient reader takes, and what closes the connection
 *   delivery   who gets a message, once
 *   presence   notices, login policies, identity, limits
 *   history    offline messages, filters, pages
 *   store      restarts, cuts, locks, the subcommands
 *   life       many peers, silent peers, slow peers, no descriptors, start and stop
 *   noise      changed bytes, and peers that come and go
 */
#include "client.h"

#include <fcntl.h>
#include <glob.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define UNKNOWN "{'code':10017,'command':0,'msg':'cmd failed! 未知的cmd命令!'}"
#define LOGIN_FAILED "{'code':10008,'command':6,'msg':'login failed ! 登录失败!'}"
#define SEND_FAILED                                                                            \
    "{'code':10002,'command':12,'msg':'send failed 消息发送失败,数据格式不正确,请参考:"        \
    "{<'>from<'>:来源ID,<'>to<'>:目标ID,<'>cmd<'>:<'>消息命令码<'>,<'>createTime<'>:"          \
    "消息创建时间(Long型),<'>msgType<'>:Integer消息类型,<'>content<'>:内容}'}"
#define USER_FAILED "{'code':10004,'command':18,'msg':'get user failed ! 获取用户信息失败!'}"
#define MESSAGES_FAILED "{'code':10015,'command':20,'msg':'get user message failed! 获取用户消息失败!'}"
#define JOIN_FAILED "{'code':10012,'command':8,'msg':'join group failed! 加入群组失败!','result':0}"
#define CLOSE_OK "{'code':10021,'command':14,'msg':'close ok! 关闭成功'}"
#define FORBIDDEN(command) "{'code':10024,'command':" #command ",'msg':'forbidden 没有权限'}"
#define HEARTBEAT "{'command':13,'data':{'hbbyte':-128}}"
#define ACK(id, seq)                                                                           \
    "{'code':10000,'command':12,'data':{'createTime':<time>,'id':'" id "','seq':" #seq         \
    "},'msg':'ok 发送成功'}"
#define ACK_OFFLINE(id, seq)                                                                   \
    "{'code':10001,'command':12,'data':{'createTime':<time>,'id':'" id "','seq':" #seq         \
    "},'msg':'offline 用户不在线'}"
#define JOINED(group, user)                                                                    \
    "{'code':10011,'command':9,'group':'" group "','msg':'join group ok! 加入群组成功!',"      \
    "'user':{'nick':'" user "','status':'online','userId':'" user "'}}"
#define LEFT(group, user)                                                                      \
    "{'command':10,'data':{'group':'" group "','user':{'nick':'" user                          \
    "','status':'offline','userId':'" user "'}}}"

/* --- commands --------------------------------------------------------------------------------- */

static void
talk_handshake(enum proto proto)
{
    struct server s;
    struct peer p;

    server_start(&s, NULL);
    peer_open(&p, &s, proto);
    say(&p, 1, "{}");
    EXPECT(&p, "{'command':2,'data':{'hbyte':-127}}");
    say(&p, 1, "{'hbyte':-127}");
    EXPECT(&p, "{'command':2,'data':{'hbyte':-127}}");
}

TEST(server_handshake) { talk_handshake(PROTO_TCP); }
TEST(ws_handshake_command) { talk_handshake(PROTO_WS); }

static void
talk_auth(enum proto proto)
{
    struct server s;
    struct peer p;

    server_start(&s, NULL);
    peer_open(&p, &s, proto);
    say(&p, 3, "{'token':'tok1'}");
    EXPECT(&p, "{'code':10009,'command':4,'data':{'token':'tok1'},'msg':'ok 鉴权成功!'}");
    say(&p, 3, "{}");
    EXPECT(&p, "{'code':10010,'command':4,'msg':'auth failed! 鉴权失败!'}");
    say(&p, 11, "{'to':'bob','chatType':2}"); /* and it logs nobody in */
    EXPECT(&p, "{'code':10022,'command':12,'msg':'not logged in 未登录'}");
}

TEST(server_auth) { talk_auth(PROTO_TCP); }
TEST(ws_auth) { talk_auth(PROTO_WS); }

static void
talk_login(enum proto proto)
{
    struct server s;
    struct peer alice, bob;

    server_start(&s, NULL);
    peer_open(&alice, &s, proto);
    say(&alice, 5, "{'userId':'alice','password':'secret'}");
    EXPECT(&alice, "{'code':10007,'command':6,'msg':'ok 登录成功!','user':{'nick':'alice',"
                   "'status':'online','terminal':'<terminal>','userId':'alice'}}");
    EXPECT(&alice, JOINED("100", "alice"));
    peer_open(&bob, &s, proto);
    say(&bob, 5, "{'userId':'bob'}");
    EXPECT(&bob, "{'code':10007,'command':6,'msg':'ok 登录成功!','user':{'nick':'bob',"
                 "'status':'online','terminal':'<terminal>','userId':'bob'}}");
    EXPECT(&bob, JOINED("100", "bob"));
    EXPECT(&alice, JOINED("100", "bob"));
    EXPECT_QUIET(&bob);
}

TEST(server_login) { talk_login(PROTO_TCP); }
TEST(ws_login) { talk_login(PROTO_WS); }

TEST(server_login_failed_closes)
{
    static const char *const bodies[] = {"", "{}", "{", "[]", "null", "\"x\"", "{'userId':''}",
                                         "{'userId':'  '}", "{'userId':null,'password':'x'}",
                                         "{'userId':'a\\u0001b'}", "{'userId':{}}x"};
    struct server s;
    struct peer p;

    server_start(&s, NULL);
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        peer_open(&p, &s, PROTO_TCP);
        say(&p, 5, bodies[i]);
        EXPECT(&p, LOGIN_FAILED);
        EXPECT_END(&p);
        peer_close(&p);
    }
}

TEST(server_login_takes_ids_of_64_bytes)
{
    struct server s;
    struct peer p;

    server_start(&s, QUIET, NULL);
    peer_open(&p, &s, PROTO_TCP);
    sayf(&p, 5, "{'userId':'%064d'}", 7);
    EXPECT(&p, "{'code':10007,<...>");
    sayf(&p, 5, "{'userId':'%065d'}", 7);
    EXPECT(&p, LOGIN_FAILED);
    EXPECT_END(&p);
}

TEST(ws_login_failed_closes)
{
    struct server s;
    struct peer p;

    server_start(&s, NULL);
    peer_open(&p, &s, PROTO_WS);
    say(&p, 5, "{'password':'x'}");
    EXPECT(&p, LOGIN_FAILED);
    CHECK(hear(&p));
    CHECK_INT(p.op, 0x88);
    EXPECT_END(&p);
}

static void
talk_join(enum proto proto)
{
    struct server s;
    struct peer alice, bob;

    server_start(&s, QUIET, NULL);
    peer_login(&alice, &s, proto, "alice");
    peer_login(&bob, &s, proto, "bob");
    say(&alice, 7, "{'groupId':'g1','name':'One'}");
    EXPECT(&alice, "{'code':10011,'command':8,'data':{'group':'g1','result':1},'group':'g1',"
                   "'msg':'join group ok! 加入群组成功!','result':1}");
    EXPECT(&alice, JOINED("g1", "alice"));
    say(&bob, 7, "{'groupId':'g1'}");
    EXPECT(&bob, "{'code':10011,'command':8,'data':{'group':'g1','result':1},'group':'g1',"
                 "'msg':'join group ok! 加入群组成功!','result':1}");
    EXPECT(&bob, JOINED("g1", "bob"));
    EXPECT(&alice, JOINED("g1", "bob"));
    peer_close(&bob);
    EXPECT(&alice, LEFT("g1", "bob"));
    say(&alice, 7, "{}");
    EXPECT(&alice, JOIN_FAILED);
    say(&alice, 7, "{'groupId':''}");
    EXPECT(&alice, JOIN_FAILED);
    EXPECT_QUIET(&alice);
}

TEST(server_join) { talk_join(PROTO_TCP); }
TEST(ws_join) { talk_join(PROTO_WS); }

static void
talk_private(enum proto proto)
{
    struct server s;
    struct peer alice, bob;

    server_start(&s, QUIET, NULL);
    peer_login(&alice, &s, proto, "alice");
    peer_login(&bob, &s, proto, "bob");
    say(&alice, 11, "{'from':'alice','to':'bob','chatType':2,'msgType':0,'id':'m1',"
                    "'content':'hello bob 你好','extras':{'b':1,'a':[null,1.50]}}");
    EXPECT(&alice, ACK("m1", 1));
    CHECK(hear(&bob));
    CHECK_LIKE(bob.text, proto == PROTO_WS
        ? "{'command':11,'data':{'chatType':2,'cmd':11,'content':'hello bob 你好',"
          "'createTime':<time>,'extras':{'b':1,'a':[null,1.50]},'from':'alice','id':'m1',"
          "'msgType':0,'seq':1,'to':'bob'}}"
        : "{'command':11,'data':{'chatType':2,'content':'hello bob 你好','createTime':<time>,"
          "'extras':{'b':1,'a':[null,1.50]},'from':'alice','id':'m1','msgType':0,'seq':1,"
          "'to':'bob'}}");
    say(&bob, 11, "{'to':'alice','chatType':2,'content':''}");
    EXPECT(&bob, ACK("<id>", 2));
    CHECK(hear(&alice));
    CHECK_INT(number(&alice, "seq"), 2);
    say(&alice, 11, "{'to':'carol','chatType':2,'content':'are you there?'}");
    EXPECT(&alice, ACK_OFFLINE("<id>", 1));
    EXPECT_QUIET(&bob);
}

TEST(server_chat_private) { talk_private(PROTO_TCP); }
TEST(ws_chat_private) { talk_private(PROTO_WS); }

static void
join(struct peer *p, const char *group)
{
    sayf(p, 7, "{'groupId':'%s'}", group);
    EXPECT(p, "{'code':10011,'command':8,<...>");
    EXPECT(p, "{'code':10011,'command':9,<...>");
}

static void
talk_group(enum proto proto)
{
    struct server s;
    struct peer alice, bob;

    server_start(&s, QUIET, NULL);
    peer_login(&alice, &s, proto, "alice");
    peer_login(&bob, &s, proto, "bob");
    join(&alice, "g1");
    join(&bob, "g1");
    EXPECT(&alice, JOINED("g1", "bob"));
    say(&alice, 11, "{'cmd':11,'groupId':'g1','chatType':1,'msgType':77,'content':'to all'}");
    const char *chat = "{'command':11,'data':{'chatType':1,'cmd':11,'content':'to all',"
                       "'createTime':<time>,'from':'alice','groupId':'g1','id':'<id>',"
                       "'msgType':77,'seq':1}}";
    EXPECT(&alice, chat); /* his own copy first, as in J-IM */
    EXPECT(&alice, ACK("<id>", 1));
    EXPECT(&bob, chat);
    say(&alice, 11, "{'groupId':'g2','chatType':1,'content':'x'}");
    EXPECT(&alice, FORBIDDEN(12));
    EXPECT_QUIET(&bob);
}

TEST(server_chat_group) { talk_group(PROTO_TCP); }
TEST(ws_chat_group) { talk_group(PROTO_WS); }

static void
talk_chat_refused(enum proto proto)
{
    static const char *const bodies[] = {
        "{}", "{'to':'bob','content':'no type'}", "{'to':'bob','chatType':0}",
        "{'to':'bob','chatType':3}", "{'to':'bob','chatType':-1}", "{'to':'bob','chatType':'x'}",
        "{'chatType':2}", "{'to':'','chatType':2}", "{'chatType':1}",
        "{'groupId':'','chatType':1}", "{'to':'bob','chatType':2,'extras':'x'}",
        "{'to':'bob','chatType':2,'msgType':'x'}", "{'to':'bob','chatType':2,'extras':[1]}"};
    struct server s;
    struct peer alice, bob;

    server_start(&s, QUIET, NULL);
    peer_login(&alice, &s, proto, "alice");
    peer_login(&bob, &s, proto, "bob");
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        printf("%s\n", bodies[i]);
        say(&alice, 11, bodies[i]);
        EXPECT(&alice, SEND_FAILED);
    }
    EXPECT_QUIET(&bob);
    say(&alice, 11, "{'to':'bob','chatType':2}"); /* and none of them used a number */
    EXPECT(&alice, ACK("<id>", 1));
}

TEST(server_chat_refused) { talk_chat_refused(PROTO_TCP); }
TEST(ws_chat_refused) { talk_chat_refused(PROTO_WS); }

static void
talk_heartbeat(enum proto proto)
{
    struct server s;
    struct peer p;

    server_start(&s, NULL);
    peer_open(&p, &s, proto);
    say(&p, 13, "");
    EXPECT(&p, HEARTBEAT);
    say(&p, 13, "{'hbbyte':'-127'}");
    EXPECT(&p, HEARTBEAT);
    if (proto == PROTO_TCP) {
        say(&p, 13, "\x80"); /* as J-IM's own client does */
        EXPECT(&p, HEARTBEAT);
    }
}

TEST(server_heartbeat) { talk_heartbeat(PROTO_TCP); }
TEST(ws_heartbeat) { talk_heartbeat(PROTO_WS); }

TEST(server_close_oneself)
{
    struct server s;
    struct peer p;

    server_start(&s, QUIET, NULL);
    peer_open(&p, &s, PROTO_TCP); /* allowed before login, too */
    say(&p, 14, "");
    EXPECT(&p, CLOSE_OK);
    EXPECT_END(&p);
    peer_login(&p, &s, PROTO_TCP, "alice");
    say(&p, 14, "{}");
    EXPECT(&p, CLOSE_OK);
    EXPECT_END(&p);
}

TEST(ws_close_oneself)
{
    struct server s;
    struct peer p;

    server_start(&s, QUIET, NULL);
    peer_login(&p, &s, PROTO_WS, "alice");
    say(&p, 14, "{}");
    EXPECT(&p, CLOSE_OK);
    EXPECT_CLOSE(&p, 1000);
}

TEST(server_close_by_own_id_closes_all_of_them)
{
    struct server s;
    struct peer tcp, ws;

    server_start(&s, QUIET, NULL);
    peer_login(&tcp, &s, PROTO_TCP, "alice");
    peer_login(&ws, &s, PROTO_WS, "alice");
    say(&tcp, 14, "{'userId':'alice'}");
    EXPECT(&tcp, CLOSE_OK);
    EXPECT_END(&tcp);
    hear_end(&ws);
}

TEST(server_close_refused)
{
    struct server s;
    struct peer alice, bob;

    server_start(&s, QUIET, NULL);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    peer_login(&bob, &s, PROTO_TCP, "bob");
    say(&alice, 14, "{'userId':'bob'}");
    EXPECT(&alice, FORBIDDEN(14));
    EXPECT_QUIET(&bob);
    say(&alice, 14, "not json");
    EXPECT(&alice, "{'code':10020,'command':14,'msg':'Invalid verification! 不合法校验'}");
    EXPECT_QUIET(&alice);
}

TEST(server_closed_user_is_offline_at_once)
{
    struct server s;
    struct peer alice, bob;

    server_start(&s, QUIET, NULL);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    peer_login(&bob, &s, PROTO_TCP, "bob");
    join(&alice, "g1");
    join(&bob, "g1");
    EXPECT(&alice, JOINED("g1", "bob"));
    say(&bob, 14, "");
    EXPECT(&bob, CLOSE_OK);
    EXPECT_END(&bob); /* bob's side of the socket stays open: he need not do anything */
    say(&alice, 11, "{'to':'bob','chatType':2}");
    EXPECT(&alice, LEFT("g1", "bob"));
    EXPECT(&alice, ACK_OFFLINE("<id>", 1));
}

static void
talk_user(enum proto proto)
{
    struct server s;
    struct peer alice, bob;

    server_start(&s, "-o", "jim.login.groups=100:J-IM朋友圈", NULL);
    peer_login(&bob, &s, proto, "bob");
    EXPECT(&bob, JOINED("100", "bob"));
    peer_close(&bob);
    peer_login(&alice, &s, proto, "alice");
    EXPECT(&alice, JOINED("100", "alice"));
    say(&alice, 17, "{'userId':'alice','type':'0'}");
    EXPECT(&alice, "{'code':10005,'command':18,'data':{'friends':[],'groups':[{'groupId':'100',"
                   "'name':'J-IM朋友圈','online':1,'users':[{'nick':'alice','status':'online',"
                   "'terminal':'<terminal>','userId':'alice'}]}],'nick':'alice',"
                   "'status':'online','terminal':'<terminal>','userId':'alice'},"
                   "'msg':'ok 获取所有在线用户信息成功!'}");
    say(&alice, 17, "{'userId':'alice','type':1}");
    EXPECT(&alice, "{'code':10006,'command':18,'data':{'friends':[],'groups':[{'groupId':'100',"
                   "'name':'J-IM朋友圈','online':1,'users':[{'nick':'bob','status':'offline',"
                   "'userId':'bob'}]}],'nick':'alice','status':'online',"
                   "'terminal':'<terminal>','userId':'alice'},"
                   "'msg':'ok 获取所有离线用户信息成功!'}");
    for (int missing = 0; missing < 2; missing++) {
        say(&alice, 17, missing ? "{'userId':'alice'}" : "{'userId':'alice','type':2}");
        CHECK(hear(&alice));
        CHECK(heard(&alice, "{\"code\":10003,\"command\":18,\"data\":{\"friends\":[],"));
        CHECK(heard(&alice, "\"nick\":\"bob\",\"status\":\"offline\",\"userId\":\"bob\""));
        CHECK(heard(&alice, "\"msg\":\"ok 获取用户信息成功!\"}"));
    }
    say(&alice, 17, "{'userId':'bob','type':2}"); /* another: flat */
    EXPECT(&alice, "{'code':10003,'command':18,'data':{'nick':'bob','status':'offline',"
                   "'userId':'bob'},'msg':'ok 获取用户信息成功!'}");
}

TEST(server_user) { talk_user(PROTO_TCP); }
TEST(ws_user) { talk_user(PROTO_WS); }

static void
talk_user_refused(enum proto proto)
{
    static const char *const bodies[] = {"{}", "{'userId':''}", "{'userId':'nobody'}",
                                         "{'userId':'alice','type':3}",
                                         "{'userId':'alice','type':-1}",
                                         "{'userId':'alice','type':'x'}"};
    struct server s;
    struct peer p;

    server_start(&s, QUIET, NULL);
    peer_login(&p, &s, proto, "alice");
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        say(&p, 17, bodies[i]);
        EXPECT(&p, USER_FAILED);
    }
}

TEST(server_user_refused) { talk_user_refused(PROTO_TCP); }
TEST(ws_user_refused) { talk_user_refused(PROTO_WS); }

TEST(server_user_list_has_its_limit)
{
    struct server s;
    struct peer a, b, c;

    server_start(&s, "-o", "jim.group.list.max=2", "-o", "jim.login.groups=7:Seven", NULL);
    peer_login(&a, &s, PROTO_TCP, "a");
    peer_login(&b, &s, PROTO_TCP, "b");
    peer_login(&c, &s, PROTO_TCP, "c");
    EXPECT(&c, JOINED("7", "c"));
    say(&c, 17, "{'userId':'c','type':0}");
    CHECK(hear(&c));
    CHECK_INT(number(&c, "online"), 3);
    CHECK(heard(&c, "\"users\":[{"));
    size_t users = 0;
    for (size_t i = 0; i + 10 < c.text.n; i++)
        users += memcmp(c.text.p + i, "\"userId\":\"", 10) == 0;
    CHECK_INT(users, 3); /* two listed, and c itself */
}

static void
talk_messages_refused(enum proto proto)
{
    static const char *const bodies[] = {
        "{}", "{'type':0}", "{'userId':'','type':0}", "{'userId':'alice'}",
        "{'userId':'alice','type':3}", "{'userId':'alice','type':-1}",
        "{'userId':'alice','type':'x'}", "{'userId':'alice','type':1}"};
    struct server s;
    struct peer p;

    server_start(&s, QUIET, NULL);
    peer_login(&p, &s, proto, "alice");
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        say(&p, 19, bodies[i]);
        EXPECT(&p, MESSAGES_FAILED);
    }
    say(&p, 19, "{'userId':'bob','type':0}");
    EXPECT(&p, FORBIDDEN(20));
    say(&p, 19, "{'userId':'alice','type':1,'groupId':'g1'}");
    EXPECT(&p, FORBIDDEN(20));
    say(&p, 19, "{'userId':'alice','type':0,'groupId':'g1'}");
    EXPECT(&p, FORBIDDEN(20));
}

TEST(server_messages_refused) { talk_messages_refused(PROTO_TCP); }
TEST(ws_messages_refused) { talk_messages_refused(PROTO_WS); }

TEST(server_unknown_commands_are_answered)
{
    static const int commands[] = {0,  2,  4,  6,  8,  9,  10, 12, 15,  16,
                                   18, 20, 22, 23, 32, 33, 99, 127, 128, 254, 255};
    struct server s;
    struct peer p;

    server_start(&s, QUIET, NULL);
    peer_open(&p, &s, PROTO_TCP);
    for (int login = 0; login < 2; login++) {
        for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
            say(&p, commands[i], i % 2 ? "{}" : "");
            EXPECT(&p, UNKNOWN);
        }
        say(&p, 5, "{'userId':'alice'}");
        EXPECT(&p, "{'code':10007,<...>");
    }
}

TEST(ws_unknown_commands_are_answered)
{
    static const char *const texts[] = {"", "{}", "[]", "null", "not json", "{\"cmd\":null}",
                                        "{\"cmd\":-1}", "{\"cmd\":0}", "{\"cmd\":22}",
                                        "{\"cmd\":\"x\"}", "{\"cmd\":99}", "{\"cmd\":13}x",
                                        "{\"cmd\":15}", "{\"command\":13}", "{\"cmd\":4294967309}"};
    struct server s;
    struct peer p;

    server_start(&s, NULL);
    peer_open(&p, &s, PROTO_WS);
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        printf("%s\n", texts[i]);
        ws_put_str(&p, 0x81, texts[i]);
        EXPECT(&p, UNKNOWN);
    }
}

TEST(server_bad_json_is_answered)
{
    static const char *const bodies[] = {"", "{", "[]", "null", "7", "x", "{\"a\":}", "{}{}"};
    struct server s;
    struct peer p;

    server_start(&s, QUIET, NULL);
    peer_login(&p, &s, PROTO_TCP, "alice");
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        printf("%s\n", bodies[i]);
        say(&p, 3, bodies[i]);
        EXPECT(&p, "{'code':10010,'command':4,'msg':'auth failed! 鉴权失败!'}");
        say(&p, 7, bodies[i]);
        EXPECT(&p, JOIN_FAILED);
        say(&p, 11, bodies[i]);
        EXPECT(&p, SEND_FAILED);
        say(&p, 17, bodies[i]);
        EXPECT(&p, USER_FAILED);
        say(&p, 19, bodies[i]);
        EXPECT(&p, MESSAGES_FAILED);
    }
    say(&p, 14, "{");
    EXPECT(&p, "{'code':10020,'command':14,'msg':'Invalid verification! 不合法校验'}");
}

/* Commands that need a login: whatever they say, they hear so. */
static void
talk_before_login(enum proto proto)
{
    static const char *const bodies[] = {"{}", "", "{'userId':'alice','type':0}", "{'to':1}"};
    struct server s;
    struct peer p;

    server_start(&s, NULL);
    peer_open(&p, &s, proto);
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        say(&p, 7, bodies[i]);
        EXPECT(&p, "{'code':10022,'command':8,'msg':'not logged in 未登录'}");
        say(&p, 11, bodies[i]);
        EXPECT(&p, "{'code':10022,'command':12,'msg':'not logged in 未登录'}");
        say(&p, 17, bodies[i]);
        EXPECT(&p, "{'code':10022,'command':18,'msg':'not logged in 未登录'}");
        say(&p, 19, bodies[i]);
        EXPECT(&p, "{'code':10022,'command':20,'msg':'not logged in 未登录'}");
    }
    if (proto == PROTO_TCP) {
        say(&p, 11, "not json");
        EXPECT(&p, "{'code':10022,'command':12,'msg':'not logged in 未登录'}");
    }
    EXPECT_QUIET(&p);
}

TEST(server_before_login) { talk_before_login(PROTO_TCP); }
TEST(ws_before_login) { talk_before_login(PROTO_WS); }

/* --- input ------------------------------------------------------------------------------------ */

TEST(server_frames_to_the_byte)
{
    struct server s;
    struct peer p;

    server_start(&s, QUIET, NULL);
    peer_open(&p, &s, PROTO_TCP);
    put(&p, "\1\0\15\0\0\0\0", 7);
    EXPECT_RAW(&p, "\1\x51\15\0\0\0\x25{\"command\":13,\"data\":{\"hbbyte\":-128}}");
    put(&p, "\1\x51\1\0\0\0\0", 7);
    EXPECT_RAW(&p, "\1\x51\2\0\0\0\x23{\"command\":2,\"data\":{\"hbyte\":-127}}");
    put(&p, "\1\x51\17\0\0\0\2{}", 9);
    EXPECT_RAW(&p, "\1\x51\0\0\0\0\x42{\"code\":10017,\"command\":0,\"msg\":\"cmd failed! "
                   "未知的cmd命令!\"}");
    put(&p, "\1\x71\0\0\1\2\15\0\0\0\0", 11);
    EXPECT_RAW(&p, "\1\x71\0\0\1\2\15\0\0\0\x25{\"command\":13,\"data\":{\"hbbyte\":-128}}");
}

TEST(server_sequence_numbers_come_back)
{
    struct server s;
    struct peer alice, bob;

    server_start(&s, QUIET, NULL);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    peer_login(&bob, &s, PROTO_TCP, "bob");
    say_seq(&alice, 0x7fffffff, 13, "");
    EXPECT_SEQ(&alice, 0x7fffffff, HEARTBEAT);
    say_seq(&alice, 5, 11, "{'to':'bob','chatType':2,'content':'x','id':'m'}");
    EXPECT_SEQ(&alice, 5, ACK("m", 1));
    EXPECT(&bob, "{'command':11,<...>"); /* the reply only, not the delivery */
    say_seq(&alice, 6, 7, "{'groupId':'g'}");
    EXPECT_SEQ(&alice, 6, "{'code':10011,'command':8,<...>");
    EXPECT(&alice, JOINED("g", "alice"));
    say_seq(&alice, 7, 99, "");
    EXPECT_SEQ(&alice, 7, UNKNOWN);
    say_seq(&alice, 8, 19, "{'userId':'alice','type':0}");
    EXPECT_SEQ(&alice, 8, "{'code':10016,<...>");
    say_seq(&alice, 0, 13, ""); /* none, as is every number below */
    EXPECT(&alice, HEARTBEAT);
    say_seq(&alice, -1, 13, "");
    EXPECT(&alice, HEARTBEAT);
}

TEST(server_mask_is_ignored)
{
    static const int masks[] = {0x00, 0x0f, 0x10, 0x40, 0x51, 0x80, 0xd0, 0xdf};
    struct server s;
    struct peer p;

    server_start(&s, NULL);
    peer_open(&p, &s, PROTO_TCP);
    for (size_t i = 0; i < sizeof masks / sizeof masks[0]; i++) {
        say_mask(&p, masks[i], 13, "");
        EXPECT(&p, HEARTBEAT);
    }
    say_mask(&p, 0xff, 13, ""); /* with the bit of a sequence number, which is 0 */
    EXPECT(&p, HEARTBEAT);
}

TEST(server_names_are_read_leniently)
{
    static const struct {
        const char *said, *heard;
    } cases[] = {
        {"{'TO':'bob','chattype':'2','MSG_TYPE':'1','CONTENT':'a'}",
         "{'chatType':2,'content':'a','createTime':<time>,'from':'alice','id':'<id>','msgType':1,"
         "'seq':1,'to':'bob'}"},
        {"{'to':'bob','chat-type':2.9,'content':7,'msgtype':1e0}",
         "{'chatType':2,'content':'7','createTime':<time>,'from':'alice','id':'<id>','msgType':1,"
         "'seq':2,'to':'bob'}"},
        {"{'to':'eve','to':'bob','chatType':1,'chatType':2,'content':'a','content':'b'}",
         "{'chatType':2,'content':'b','createTime':<time>,'from':'alice','id':'<id>','seq':3,"
         "'to':'bob'}"},
        {" {\t'to' : 'bob' , 'chatType' : 2 ,\r\n 'unknown' : { 'x' : [ 1 , 2 ] } , 'id' : '' } ",
         "{'chatType':2,'createTime':<time>,'from':'alice','id':'<id>','seq':4,'to':'bob'}"},
        {"{'to':'bob','chatType':2,'content':true,'cmd':'5','msgType':null,'extras':null}",
         "{'chatType':2,'cmd':5,'content':'true','createTime':<time>,'from':'alice','id':'<id>',"
         "'seq':5,'to':'bob'}"},
        {"{'to':'bob','chatType':2,'content':{'a':[1]},'@type':'java.lang.Runtime'}",
         "{'chatType':2,'content':'{\\'a\\':[1]}','createTime':<time>,'from':'alice','id':'<id>',"
         "'seq':6,'to':'bob'}"},
        {"{'to':'bob','chatType':2,'content':'\\u4f60\\/\\\\\\'\\u0001\\ud83d\\ude00\\t'}",
         "{'chatType':2,'content':'你/\\\\\\'\\u0001😀\\t','createTime':<time>,'from':'alice',"
         "'id':'<id>','seq':7,'to':'bob'}"}};
    struct server s;
    struct peer alice, bob;
    char want[512];

    server_start(&s, QUIET, NULL);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    peer_login(&bob, &s, PROTO_TCP, "bob");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        printf("%s\n", cases[i].said);
        say(&alice, 11, cases[i].said);
        EXPECT(&alice, "{'code':10000,<...>");
        snprintf(want, sizeof want, "{'command':11,'data':%s}", cases[i].heard);
        EXPECT(&bob, want);
    }
}

TEST(server_old_names_are_understood)
{
    struct server s;
    struct peer p;

    server_start(&s, QUIET, NULL);
    peer_open(&p, &s, PROTO_TCP);
    say(&p, 5, "{'loginname':'alice','password':'x'}");
    EXPECT(&p, "{'code':10007,<...>");
    say(&p, 7, "{'group_id':'g1'}");
    EXPECT(&p, "{'code':10011,'command':8,<...>");
    EXPECT(&p, JOINED("g1", "alice"));
    say(&p, 7, "{'GROUPID':'g2'}");
    EXPECT(&p, "{'code':10011,'command':8,<...>");
    EXPECT(&p, JOINED("g2", "alice"));
    say(&p, 7, "{'group-id':'g3'}");
    EXPECT(&p, "{'code':10011,'command':8,<...>");
    EXPECT(&p, JOINED("g3", "alice"));
    say(&p, 17, "{'userid':'alice'}");
    EXPECT(&p, "{'code':10003,<...>");
    say(&p, 19, "{'user_id':'alice','TYPE':'0'}");
    EXPECT(&p, "{'code':10016,<...>");
}

TEST(server_create_time_is_kept_when_it_can_be_true)
{
    struct server s;
    struct peer alice, bob;
    long long now = time_wall_ms();

    server_start(&s, QUIET, NULL);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    peer_login(&bob, &s, PROTO_TCP, "bob");
    sayf(&alice, 11, "{'to':'bob','chatType':2,'createTime':%lld}", now - 240000);
    CHECK(hear(&alice) && hear(&bob));
    CHECK_INT(number(&alice, "createTime"), now - 240000);
    CHECK_INT(number(&bob, "createTime"), now - 240000);
    sayf(&alice, 11, "{'to':'bob','chatType':2,'createTime':'%lld'}", now + 240000);
    CHECK(hear(&alice) && hear(&bob));
    CHECK_INT(number(&alice, "createTime"), now + 240000);
    CHECK_INT(number(&bob, "createTime"), now + 240000);
}

TEST(server_create_time_far_off_is_the_servers)
{
    struct server s;
    struct peer alice;
    long long now = time_wall_ms();

    server_start(&s, QUIET, NULL);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    sayf(&alice, 11, "{'to':'bob','chatType':2,'createTime':%lld}", now - 400000);
    EXPECT(&alice, ACK_OFFLINE("<id>", 1));
    sayf(&alice, 11, "{'to':'bob','chatType':2,'createTime':%lld}", now + 400000);
    EXPECT(&alice, ACK_OFFLINE("<id>", 2));
    say(&alice, 11, "{'to':'bob','chatType':2,'createTime':1}");
    EXPECT(&alice, ACK_OFFLINE("<id>", 3));
    say(&alice, 11, "{'to':'bob','chatType':2,'createTime':-9223372036854775808}");
    EXPECT(&alice, ACK_OFFLINE("<id>", 4));
}

TEST(server_from_cannot_be_claimed)
{
    struct server s;
    struct peer alice, bob;

    server_start(&s, QUIET, NULL);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    peer_login(&bob, &s, PROTO_TCP, "bob");
    say(&alice, 11, "{'from':'carol','to':'bob','chatType':2}");
    EXPECT(&alice, ACK("<id>", 1));
    EXPECT(&bob, "{'command':11,'data':{'chatType':2,'createTime':<time>,'from':'alice',"
                 "'id':'<id>','seq':1,'to':'bob'}}");
}

/* Three requests, of which two wait for the disk, are answered in their order. */
static void
talk_pipelined(size_t piece, const char *store)
{
    struct server s;
    struct peer p;

    server_start(&s, QUIET, "-o", store, NULL);
    peer_login(&p, &s, PROTO_TCP, "alice");
    peer_hold(&p);
    for (int i = 0; i < 5; i++) {
        say_seq(&p, 3 * i + 1, 11, "{'to':'bob','chatType':2,'content':'one'}");
        say_seq(&p, 3 * i + 2, 11, "{'to':'bob','chatType':2,'content':'two'}");
        say_seq(&p, 3 * i + 3, 13, "");
    }
    peer_release(&p, piece);
    for (int i = 0; i < 5; i++) {
        EXPECT_SEQ(&p, 3 * i + 1, "{'code':10001,'command':12,<...>");
        CHECK_INT(number(&p, "seq"), 2 * i + 1);
        EXPECT_SEQ(&p, 3 * i + 2, "{'code':10001,'command':12,<...>");
        CHECK_INT(number(&p, "seq"), 2 * i + 2);
        EXPECT_SEQ(&p, 3 * i + 3, HEARTBEAT);
    }
}

TEST(server_pipelined_in_order) { talk_pipelined(IN_ONE_WRITE, "jim.store=on"); }
TEST(server_pipelined_without_store) { talk_pipelined(IN_ONE_WRITE, "jim.store=off"); }
TEST(server_pipelined_in_pieces) { talk_pipelined(7, "jim.store=on"); }
TEST(server_one_byte_at_a_time) { talk_pipelined(1, "jim.store=on"); }

/* Joining and leaving take place when they are on disk; what was sent behind them waits. */
static void
talk_pipelined_join(enum proto proto, const char *store)
{
    struct server s;
    struct peer p;

    server_start(&s, QUIET, "-o", store, NULL);
    peer_login(&p, &s, proto, "alice");
    for (int i = 0; i < 5; i++) {
        peer_hold(&p);
        say(&p, 11, "{'to':'bob','chatType':2,'content':'before'}");
        say(&p, 7, "{'groupId':'g'}");
        say(&p, 11, "{'groupId':'g','chatType':1,'content':'in'}");
        say(&p, 21, "{'groupId':'g'}");
        say(&p, 11, "{'groupId':'g','chatType':1,'content':'out'}");
        say(&p, 13, "");
        peer_release(&p, IN_ONE_WRITE);
        EXPECT(&p, "{'code':10001,'command':12,<...>");
        EXPECT(&p, "{'code':10011,'command':8,<...>");
        EXPECT(&p, JOINED("g", "alice"));
        EXPECT(&p, "{'command':11,'data':{'chatType':1,<...>");
        EXPECT(&p, "{'code':10000,'command':12,<...>");
        EXPECT(&p, "{'code':10029,'command':22,'group':'g',<...>");
        EXPECT(&p, "{'code':10024,'command':12,<...>");
        EXPECT(&p, HEARTBEAT);
    }
}

TEST(server_pipelined_join) { talk_pipelined_join(PROTO_TCP, "jim.store=on"); }
TEST(ws_pipelined_join) { talk_pipelined_join(PROTO_WS, "jim.store=on"); }
TEST(server_pipelined_join_without_store) { talk_pipelined_join(PROTO_TCP, "jim.store=off"); }

/* Joins in one write share the disk's work, and keep their order with what is answered at once. */
TEST(server_joins_share_a_batch)
{
    struct server s;
    struct peer p;
    char text[200];

    server_start(&s, QUIET, NULL);
    peer_login(&p, &s, PROTO_TCP, "alice");
    say(&p, 7, "{'groupId':'old'}");
    EXPECT(&p, "{'code':10011,'command':8,<...>");
    EXPECT(&p, JOINED("old", "alice"));
    long long before = server_stat(&s, "storeBatches");
    peer_hold(&p);
    for (int i = 0; i < 40; i++) {
        snprintf(text, sizeof text, "{'groupId':'g%d'}", i);
        say(&p, 7, text);
    }
    say(&p, 7, "{'groupId':'old'}");
    say(&p, 7, "{}");
    say(&p, 7, "{'groupId':'g0'}");
    say(&p, 11, "{'groupId':'g39','chatType':1}");
    peer_release(&p, IN_ONE_WRITE);
    for (int i = 0; i < 40; i++) {
        snprintf(text, sizeof text, "{'code':10011,'command':8,'data':{'group':'g%d',<...>", i);
        EXPECT(&p, text);
        hear(&p); /* that he is in it */
    }
    EXPECT(&p, "{'code':10011,'command':8,'data':{'group':'old',<...>");
    EXPECT(&p, JOINED("old", "alice"));
    EXPECT(&p, "{'code':10012,'command':8,<...>");
    EXPECT(&p, "{'code':10011,'command':8,'data':{'group':'g0',<...>");
    EXPECT(&p, JOINED("g0", "alice"));
    EXPECT(&p, "{'command':11,'data':{'chatType':1,<...>");
    EXPECT(&p, "{'code':10000,'command':12,<...>");
    CHECK(server_stat(&s, "storeBatches") - before < 20);
}

TEST(server_queries_see_what_was_sent_before_them)
{
    struct server s;
    struct peer p;

    server_start(&s, QUIET, NULL);
    peer_login(&p, &s, PROTO_TCP, "alice");
    peer_hold(&p);
    say(&p, 11, "{'to':'bob','chatType':2,'content':'one','id':'a'}");
    say(&p, 19, "{'userId':'alice','type':1,'fromUserId':'bob'}");
    peer_release(&p, IN_ONE_WRITE);
    EXPECT(&p, ACK_OFFLINE("a", 1));
    EXPECT(&p, "{'code':10018,'command':20,'data':{'friends':{'bob':[{'chatType':2,"
               "'content':'one','createTime':<time>,'from':'alice','id':'a','seq':1,"
               "'to':'bob'}]},'groups':{},'userId':'alice'},"
               "'msg':'get user message ok! 获取历史消息成功!'}");
}

TEST(server_half_closed_peer_gets_his_answers)
{
    struct server s;
    struct peer p;

    server_start(&s, QUIET, NULL);
    peer_login(&p, &s, PROTO_TCP, "alice");
    peer_hold(&p);
    say(&p, 11, "{'to':'bob','chatType':2,'id':'a'}");
    say(&p, 13, "");
    peer_release(&p, IN_ONE_WRITE);
    peer_shut(&p);
    EXPECT(&p, ACK_OFFLINE("a", 1));
    EXPECT(&p, HEARTBEAT);
    EXPECT_END(&p);
}

TEST(server_deep_json)
{
    struct server s;
    struct peer p;
    char deep[2001];

    server_start(&s, QUIET, NULL);
    peer_login(&p, &s, PROTO_TCP, "alice");
    memset(deep, '[', 1000);
    memset(deep + 1000, ']', 1000);
    deep[2000] = '\0';
    sayf(&p, 11, "{'to':'bob','chatType':2,'extras':{'x':%s}}", deep);
    EXPECT(&p, SEND_FAILED);
    sayf(&p, 11, "{'to':'bob','chatType':2,'extras':{'x':%.*s}}", 1000, deep);
    EXPECT(&p, SEND_FAILED);
    EXPECT_QUIET(&p);
}

TEST(server_bad_frames_close)
{
    static const struct {
        const char *bytes;
        size_t n;
    } bad[] = {{"\0", 1}, {"\2", 1}, {"\x81\5hello", 7}, {"\x80", 1}, {"g", 1},
               {"\1\x51\15\xff\xff\xff\xff", 7}, {"\1\x51\15\x80\0\0\0", 7},
               {"\1\x51\13\x7f\xff\xff\xff", 7}, {"\1\x71\0\0\0\1\13\x7f\xff\xff\xff", 11},
               {"\1\x51\15\0\0\0\0\2", 8}, {"\1\x51\15\0\0\0\0GET / HTTP/1.1\r\n\r\n", 25}};
    struct server s;
    struct peer p;

    server_start(&s, NULL);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        printf("bad frame %zu\n", i);
        peer_connect(&p, &s);
        put(&p, bad[i].bytes, bad[i].n);
        hear_end(&p);
        peer_close(&p);
    }
}

TEST(server_frame_max)
{
    struct server s;
    struct peer p;
    char body[1026];

    server_start(&s, "-o", "jim.frame.max=1024", "-o", "jim.message.max=1000", NULL);
    peer_open(&p, &s, PROTO_TCP);
    memset(body, 'x', sizeof body);
    body[1024] = '\0';
    say(&p, 13, body);
    EXPECT(&p, HEARTBEAT);
    put(&p, "\1\x51\15\0\0\4\1", 7); /* 1,025: the head is enough to know */
    EXPECT_END(&p);
}

/* Ask until the server has noticed that a user's connections are gone. */
static void
wait_offline(struct peer *p, const char *user)
{
    int64_t deadline = time_mono_ms() + WAIT_MS;

    do {
        CHECK(time_mono_ms() < deadline);
        sayf(p, 17, "{'userId':'%s'}", user);
        CHECK(hear(p));
    } while (!heard(p, "\"status\":\"offline\""));
}

/* --- delivery --------------------------------------------------------------------------------- */

TEST(server_everyone_on_every_protocol_gets_it)
{
    static const enum proto both[] = {PROTO_TCP, PROTO_WS};
    struct server s;
    struct peer alice[2], bob[2];

    server_start(&s, QUIET, NULL);
    for (int i = 0; i < 2; i++) {
        peer_login(&alice[i], &s, both[i], "alice");
        peer_login(&bob[i], &s, both[i], "bob");
    }
    for (int i = 0; i < 2; i++) {
        say(&alice[i], 11, "{'to':'bob','chatType':2,'content':'hi'}");
        EXPECT(&alice[i], "{'code':10000,'command':12,<...>");
        EXPECT(&alice[!i], "{'command':11,<...>"); /* the sender's other connection, too */
        EXPECT(&bob[0], "{'command':11,<...>");
        EXPECT(&bob[1], "{'command':11,<...>");
    }
    struct reply r = api_send(&s, "{'from':'alice','to':'bob','chatType':2,'content':'hi'}");
    CHECK_INT(r.status, 200);
    for (int i = 0; i < 2; i++) {
        EXPECT(&bob[i], "{'command':11,'data':{'chatType':2,'content':'hi','createTime':<time>,"
                        "'from':'alice','id':'<id>','seq':3,'to':'bob'}}");
        EXPECT(&alice[i], "{'command':11,<...>");
        EXPECT_QUIET(&bob[i]);
        EXPECT_QUIET(&alice[i]);
    }
}

TEST(server_groups_span_protocols)
{
    static const enum proto both[] = {PROTO_TCP, PROTO_WS};
    struct server s;
    struct peer alice[2], bob[2];

    server_start(&s, "-o", "jim.login.groups=g:G", "-o", "jim.group.notify.max=0", NULL);
    for (int i = 0; i < 2; i++) {
        peer_login(&alice[i], &s, both[i], "alice");
        EXPECT(&alice[i], JOINED("g", "alice"));
        peer_login(&bob[i], &s, both[i], "bob");
        EXPECT(&bob[i], JOINED("g", "bob"));
    }
    for (int i = 0; i < 2; i++) {
        say(&alice[i], 11, "{'groupId':'g','chatType':1,'content':'hi'}");
        EXPECT(&alice[i], "{'command':11,<...>"); /* own copy, then the ack */
        EXPECT(&alice[i], "{'code':10000,'command':12,<...>");
        EXPECT(&alice[!i], "{'command':11,<...>");
        EXPECT(&bob[0], "{'command':11,<...>");
        EXPECT(&bob[1], "{'command':11,<...>");
    }
    CHECK_INT(api_send(&s, "{'groupId':'g','chatType':1,'content':'hi'}").status, 200);
    for (int i = 0; i < 2; i++) {
        EXPECT(&bob[i], "{'command':11,'data':{'chatType':1,'content':'hi','createTime':<time>,"
                        "'from':'system','groupId':'g','id':'<id>','seq':3}}");
        EXPECT(&alice[i], "{'command':11,<...>");
        EXPECT_QUIET(&bob[i]);
        EXPECT_QUIET(&alice[i]);
    }
}

TEST(server_message_to_oneself_arrives_once)
{
    struct server s;
    struct peer a, b;

    server_start(&s, QUIET, NULL);
    peer_login(&a, &s, PROTO_TCP, "alice");
    peer_login(&b, &s, PROTO_TCP, "alice");
    say(&a, 11, "{'to':'alice','chatType':2,'content':'note'}");
    size_t copies = 0;
    do {
        CHECK(hear(&a));
        copies += a.cmd == 11;
    } while (a.cmd != 12);
    CHECK_INT(number(&a, "code"), 10000);
    CHECK(copies <= 1);
    EXPECT(&b, "{'command':11,<...>");
    EXPECT_QUIET(&b);
    EXPECT_QUIET(&a);
}

static void
talk_retry(enum proto proto)
{
    struct server s;
    struct peer alice, bob, again;
    struct buf first = {0};

    server_start(&s, QUIET, NULL);
    peer_login(&alice, &s, proto, "alice");
    peer_login(&bob, &s, proto, "bob");
    say(&alice, 11, "{'to':'bob','chatType':2,'content':'x','id':'r1'}");
    EXPECT(&alice, ACK("r1", 1));
    buf_str(&first, alice.text);
    CHECK(hear(&bob));
    say(&alice, 11, "{'to':'bob','chatType':2,'content':'other content','id':'r1'}");
    CHECK(hear(&alice));
    CHECK(alice.text.n == first.len && memcmp(alice.text.p, first.p, first.len) == 0);
    EXPECT_QUIET(&bob);
    /* the same id to someone else is another message, and so is that of another sender */
    say(&alice, 11, "{'to':'carol','chatType':2,'content':'x','id':'r1'}");
    EXPECT(&alice, ACK_OFFLINE("r1", 1));
    say(&bob, 11, "{'to':'alice','chatType':2,'content':'x','id':'r1'}");
    EXPECT(&bob, ACK("r1", 2));
    CHECK(hear(&alice));
    /* the code tells of now */
    peer_login(&again, &s, proto, "alice");
    peer_close(&bob);
    wait_offline(&again, "bob");
    say(&again, 11, "{'to':'bob','chatType':2,'content':'x','id':'r1'}");
    CHECK(hear(&again));
    CHECK_INT(number(&again, "seq"), 1);
    CHECK_INT(number(&again, "code"), 10001);
    buf_free(&first);
}

TEST(server_retry) { talk_retry(PROTO_TCP); }
TEST(ws_retry) { talk_retry(PROTO_WS); }

TEST(server_retry_in_a_group)
{
    struct server s;
    struct peer alice, bob;

    server_start(&s, "-o", "jim.login.groups=g:G", "-o", "jim.group.notify.max=0", NULL);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    EXPECT(&alice, JOINED("g", "alice"));
    peer_login(&bob, &s, PROTO_TCP, "bob");
    EXPECT(&bob, JOINED("g", "bob"));
    peer_hold(&alice);
    say(&alice, 11, "{'groupId':'g','chatType':1,'id':'r'}"); /* before the first is on disk */
    say(&alice, 11, "{'groupId':'g','chatType':1,'id':'r'}");
    peer_release(&alice, IN_ONE_WRITE);
    EXPECT(&alice, "{'command':11,<...>");
    EXPECT(&alice, ACK("r", 1));
    EXPECT(&alice, ACK("r", 1));
    EXPECT(&bob, "{'command':11,<...>");
    EXPECT_QUIET(&bob);
}

TEST(server_retry_after_a_restart)
{
    struct server s;
    struct peer alice, bob;
    long long when;

    server_start(&s, QUIET, NULL);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    say(&alice, 11, "{'to':'bob','chatType':2,'content':'x','id':'r1'}");
    EXPECT(&alice, ACK_OFFLINE("r1", 1));
    when = number(&alice, "createTime");
    server_restart(&s, SIGKILL, QUIET, NULL);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    peer_login(&bob, &s, PROTO_TCP, "bob");
    say(&alice, 11, "{'to':'bob','chatType':2,'content':'x','id':'r1'}");
    EXPECT(&alice, ACK("r1", 1));
    CHECK_INT(number(&alice, "createTime"), when);
    EXPECT_QUIET(&bob);
    say(&bob, 19, "{'userId':'bob','type':0}");
    CHECK(hear(&bob));
    CHECK(heard(&bob, "{\"alice\":[{\"chatType\":2,\"content\":\"x\""));
    CHECK(!heard(&bob, "\"seq\":2"));
}

TEST(server_retry_after_a_lost_connection)
{
    struct server s;
    struct peer alice, bob;

    server_start(&s, QUIET, NULL);
    peer_login(&bob, &s, PROTO_TCP, "bob");
    peer_login(&alice, &s, PROTO_TCP, "alice");
    say(&alice, 11, "{'to':'bob','chatType':2,'content':'x','id':'r1'}");
    peer_close(&alice); /* not knowing whether it was heard */
    peer_open(&alice, &s, PROTO_TCP);
    peer_hold(&alice);
    say(&alice, 5, "{'userId':'alice'}");
    say(&alice, 11, "{'to':'bob','chatType':2,'content':'x','id':'r1'}");
    peer_release(&alice, IN_ONE_WRITE);
    EXPECT(&alice, "{'code':10007,<...>");
    do /* the first may come as one from his other connection */
        CHECK(hear(&alice));
    while (alice.cmd == 11);
    CHECK_INT(number(&alice, "code"), 10000);
    CHECK_INT(number(&alice, "seq"), 1);
    EXPECT(&bob, "{'command':11,<...>");
    EXPECT_QUIET(&bob);
}

/* --- presence --------------------------------------------------------------------------------- */

TEST(server_notices_for_first_and_last_connection_only)
{
    struct server s;
    struct peer alice, bob, bob2;

    server_start(&s, "-o", "jim.login.groups=g:G", NULL);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    EXPECT(&alice, JOINED("g", "alice"));
    peer_login(&bob, &s, PROTO_TCP, "bob");
    EXPECT(&bob, JOINED("g", "bob"));
    EXPECT(&alice, JOINED("g", "bob"));
    peer_login(&bob2, &s, PROTO_WS, "bob");
    EXPECT(&bob2, JOINED("g", "bob")); /* he himself is told on every connection */
    EXPECT_QUIET(&alice);
    EXPECT_QUIET(&bob);
    say(&bob, 14, "");
    hear_end(&bob);
    peer_close(&bob);
    say(&bob2, 11, "{'to':'alice','chatType':2,'content':'still here'}");
    EXPECT(&bob2, ACK("<id>", 1));
    EXPECT(&alice, "{'command':11,<...>"); /* and no notice before it */
    peer_close(&bob2);
    EXPECT(&alice, LEFT("g", "bob"));
}

TEST(server_notices_end_in_large_groups)
{
    struct server s;
    struct peer p[4];
    static const char *const names[] = {"a", "b", "c", "d"};

    server_start(&s, "-o", "jim.login.groups=g:G", "-o", "jim.group.notify.max=2", NULL);
    peer_login(&p[0], &s, PROTO_TCP, names[0]);
    EXPECT(&p[0], JOINED("g", "a"));
    peer_login(&p[1], &s, PROTO_TCP, names[1]);
    EXPECT(&p[1], JOINED("g", "b"));
    EXPECT(&p[0], JOINED("g", "b"));
    peer_login(&p[2], &s, PROTO_TCP, names[2]);
    EXPECT(&p[2], JOINED("g", "c"));
    peer_login(&p[3], &s, PROTO_TCP, names[3]);
    EXPECT(&p[3], JOINED("g", "d"));
    for (int i = 0; i < 4; i++)
        EXPECT_QUIET(&p[i]);
}

#define ELSEWHERE "{'code':10026,'command':14,'msg':'logged in elsewhere 已在别处登录'}"

TEST(server_login_policy_terminal)
{
    struct server s;
    struct peer tcp, ws, tcp2;

    server_start(&s, QUIET, "-o", "jim.login.policy=terminal", NULL);
    peer_login(&tcp, &s, PROTO_TCP, "alice");
    peer_login(&ws, &s, PROTO_WS, "alice");
    EXPECT_QUIET(&tcp);
    peer_login(&tcp2, &s, PROTO_TCP, "alice");
    EXPECT(&tcp, ELSEWHERE);
    EXPECT_END(&tcp);
    EXPECT_QUIET(&ws);
    EXPECT_QUIET(&tcp2);
}

TEST(server_login_policy_one)
{
    struct server s;
    struct peer ws, tcp;

    server_start(&s, QUIET, "-o", "jim.login.policy=one", NULL);
    peer_login(&ws, &s, PROTO_WS, "alice");
    peer_login(&tcp, &s, PROTO_TCP, "alice");
    EXPECT(&ws, ELSEWHERE);
    CHECK(hear(&ws));
    CHECK_INT(ws.op, 0x88);
    EXPECT_END(&ws);
    say(&tcp, 5, "{'userId':'alice'}"); /* one does not displace oneself */
    EXPECT(&tcp, "{'code':10007,<...>");
    EXPECT_QUIET(&tcp);
}

TEST(server_login_as_another_user)
{
    struct server s;
    struct peer p, bob;

    server_start(&s, "-o", "jim.login.groups=g:G", NULL);
    peer_login(&bob, &s, PROTO_TCP, "bob");
    EXPECT(&bob, JOINED("g", "bob"));
    peer_login(&p, &s, PROTO_TCP, "alice");
    EXPECT(&bob, JOINED("g", "alice"));
    EXPECT(&p, JOINED("g", "alice"));
    say(&p, 5, "{'userId':'zed'}");
    EXPECT(&p, "{'code':10007,<...>");
    EXPECT(&p, JOINED("g", "zed"));
    EXPECT(&bob, LEFT("g", "alice"));
    EXPECT(&bob, JOINED("g", "zed"));
    say(&bob, 11, "{'to':'alice','chatType':2}");
    EXPECT(&bob, ACK_OFFLINE("<id>", 1));
    EXPECT_QUIET(&p);
    say(&p, 11, "{'to':'bob','chatType':2,'id':'z'}");
    EXPECT(&p, ACK("z", 1));
    EXPECT(&bob, "{'command':11,'data':{'chatType':2,'createTime':<time>,'from':'zed','id':'z',"
                 "'seq':1,'to':'bob'}}");
}

TEST(server_group_open)
{
    struct server s;
    struct peer alice, bob;

    server_start(&s, QUIET, "-o", "jim.group.open=on", NULL);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    peer_login(&bob, &s, PROTO_TCP, "bob");
    join(&bob, "g");
    say(&alice, 11, "{'groupId':'g','chatType':1,'content':'from outside'}");
    EXPECT(&alice, ACK("<id>", 1));
    EXPECT(&bob, "{'command':11,<...>");
}

TEST(server_login_not_required)
{
    struct server s;
    struct peer nobody, bob;

    server_start(&s, QUIET, "-o", "jim.login.required=off", NULL);
    peer_login(&bob, &s, PROTO_TCP, "bob");
    peer_open(&nobody, &s, PROTO_TCP);
    say(&nobody, 11, "{'from':'alice','to':'bob','chatType':2,'content':'guess'}");
    EXPECT(&nobody, ACK("<id>", 1));
    CHECK(hear(&bob));
    CHECK(heard(&bob, "\"content\":\"guess\""));
    CHECK(heard(&bob, "\"from\":\""));
    CHECK(!heard(&bob, "\"from\":\"alice\"") && !heard(&bob, "\"from\":\"\""));
}

TEST(server_rate_limit)
{
    struct server s;
    struct peer p;
    int sent = 0, refused = 0;

    server_start(&s, QUIET, "-o", "jim.rate.messages=1", "-o", "jim.rate.burst=5", NULL);
    peer_login(&p, &s, PROTO_TCP, "alice");
    peer_hold(&p);
    for (int i = 0; i < 40; i++)
        say(&p, 11, "{'to':'bob','chatType':2}");
    peer_release(&p, IN_ONE_WRITE);
    for (int i = 0; i < 40; i++) {
        CHECK(hear(&p));
        if (number(&p, "code") == 10001) {
            CHECK_INT(number(&p, "seq"), ++sent);
            continue;
        }
        check_like(__FILE__, __LINE__, p.text,
                   "{'code':10023,'command':12,'msg':'too many requests 请求过于频繁'}", "tcp");
        refused++;
    }
    CHECK(sent >= 4 && sent < 20);
    CHECK_INT(sent + refused, 40);
}

TEST(server_message_max_counts_decoded_bytes)
{
    static const char *const fit[] = {"0123456789", "\\u670b\\u53cb\\u5708x", "朋友圈x",
                                      "\\n\\n\\n\\n\\n\\n\\n\\n\\n\\n", "\\ud83d\\ude00123456"};
    static const char *const large[] = {"0123456789a", "朋友圈xy", "\\u670b\\u53cb\\u5708xy"};
    struct server s;
    struct peer p;

    server_start(&s, QUIET, "-o", "jim.message.max=10", NULL);
    peer_login(&p, &s, PROTO_TCP, "alice");
    for (size_t i = 0; i < sizeof large / sizeof large[0]; i++) {
        sayf(&p, 11, "{'to':'bob','chatType':2,'content':'%s'}", large[i]);
        EXPECT(&p, "{'code':10025,'command':12,'msg':'message too large 消息过大'}");
    }
    for (size_t i = 0; i < sizeof fit / sizeof fit[0]; i++) {
        sayf(&p, 11, "{'to':'bob','chatType':2,'content':'%s'}", fit[i]);
        EXPECT(&p, "{'code':10001,'command':12,<...>");
        CHECK_INT(number(&p, "seq"), i + 1); /* the refused ones used none */
    }
}

TEST(server_message_max_default)
{
    struct server s;
    struct peer p;
    char *content = malloc(65538);

    CHECK(content != NULL);
    memset(content, 'x', 65537);
    content[65537] = '\0';
    server_start(&s, QUIET, NULL);
    peer_login(&p, &s, PROTO_TCP, "alice");
    sayf(&p, 11, "{'to':'bob','chatType':2,'content':'%s'}", content);
    EXPECT(&p, "{'code':10025,'command':12,'msg':'message too large 消息过大'}");
    sayf(&p, 11, "{'to':'bob','chatType':2,'content':'%s'}", content + 1);
    EXPECT(&p, ACK_OFFLINE("<id>", 1));
    free(content);
}

/* --- history ---------------------------------------------------------------------------------- */

/* The contents of the messages in an answer, a blank between them. */
#define CHECK_SAID(p, want) check_said(__FILE__, __LINE__, (p), (want))

static void
check_said(const char *file, int line, struct peer *p, const char *want)
{
    static const char key[] = "\"content\":\"";
    struct buf got = {0};
    const char *at, *end;

    if (!hear(p))
        test_fail(file, line, "connection ended instead of %s", want);
    struct str rest = p->text;
    while (rest.n > 0 && (at = memmem(rest.p, rest.n, key, sizeof key - 1)) != NULL) {
        at += sizeof key - 1;
        rest = (struct str){at, rest.n - (size_t)(at - rest.p)};
        end = memchr(rest.p, '"', rest.n);
        CHECK(end != NULL);
        if (got.len > 0)
            buf_add(&got, " ", 1);
        buf_add(&got, at, (size_t)(end - at));
    }
    test_bytes(file, line, "messages in the answer", got.p, got.len, want, strlen(want));
    buf_free(&got);
}

/* alice and bob say one to six in turn, a second between them; returns the time of the first. */
static long long
six_messages(struct peer *alice, struct peer *bob)
{
    static const char *const words[] = {"one", "two", "three", "four", "five", "six"};
    long long start = time_wall_ms() - 60000;

    for (int i = 0; i < 6; i++) {
        struct peer *from = i % 2 ? bob : alice, *to = i % 2 ? alice : bob;
        sayf(from, 11, "{'to':'%s','chatType':2,'content':'%s','createTime':%lld}",
             i % 2 ? "alice" : "bob", words[i], start + i * 1000);
        EXPECT(from, "{'code':10000,'command':12,<...>");
        EXPECT(to, "{'command':11,<...>");
    }
    return start;
}

static void
ask_history(struct peer *p, const char *more)
{
    sayf(p, 19, "{'userId':'alice','type':1,'fromUserId':'bob'%s}", more);
}

static void
talk_history(enum proto proto)
{
    struct server s;
    struct peer alice, bob;

    server_start(&s, QUIET, NULL);
    peer_login(&alice, &s, proto, "alice");
    peer_login(&bob, &s, proto, "bob");
    six_messages(&alice, &bob);
    ask_history(&alice, "");
    CHECK_SAID(&alice, "one two three four five six");
    CHECK(heard(&alice, "{\"code\":10018,\"command\":20,\"data\":{\"friends\":{\"bob\":[{"));
    CHECK(heard(&alice, "}]},\"groups\":{},\"userId\":\"alice\"},"
                        "\"msg\":\"get user message ok! 获取历史消息成功!\"}"));
    say(&bob, 19, "{'userId':'bob','type':'1','fromUserId':'alice'}");
    CHECK_SAID(&bob, "one two three four five six");
    say(&bob, 19, "{'userId':'bob','type':'1','fromUserId':'carol'}");
    CHECK_SAID(&bob, "");
    CHECK(heard(&bob, "\"code\":10018"));
}

TEST(server_history) { talk_history(PROTO_TCP); }
TEST(ws_history) { talk_history(PROTO_WS); }

TEST(server_history_by_time)
{
    struct server s;
    struct peer alice, bob;
    char more[96];

    server_start(&s, QUIET, NULL);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    peer_login(&bob, &s, PROTO_TCP, "bob");
    long long start = six_messages(&alice, &bob);
    snprintf(more, sizeof more, ",'beginTime':%lld", start + 2000); /* inclusive */
    ask_history(&alice, more);
    CHECK_SAID(&alice, "three four five six");
    snprintf(more, sizeof more, ",'endTime':%lld", start + 2000);
    ask_history(&alice, more);
    CHECK_SAID(&alice, "one two three");
    snprintf(more, sizeof more, ",'beginTime':'%lld','endTime':%lld.0", start + 1000, start + 3999);
    ask_history(&alice, more);
    CHECK_SAID(&alice, "two three four");
    snprintf(more, sizeof more, ",'beginTime':%lld,'offset':1,'count':2", start + 1000);
    ask_history(&alice, more);
    CHECK_SAID(&alice, "three four");
    snprintf(more, sizeof more, ",'beginTime':%lld,'endTime':%lld", start + 3000, start + 1000);
    ask_history(&alice, more);
    CHECK_SAID(&alice, "");
}

struct history_case { /* of six messages: what is asked more, and what is heard */
    const char *more, *said;
};

static void
check_histories(const struct history_case *cases, size_t n)
{
    struct server s;
    struct peer alice, bob;

    server_start(&s, QUIET, NULL);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    peer_login(&bob, &s, PROTO_TCP, "bob");
    six_messages(&alice, &bob);
    for (size_t i = 0; i < n; i++) {
        printf("%s\n", cases[i].more);
        ask_history(&alice, cases[i].more);
        CHECK_SAID(&alice, cases[i].said);
    }
}

TEST(server_history_by_count)
{
    static const struct history_case cases[] = {
        {",'offset':4", "five six"},
        {",'count':2", "one two"},
        {",'offset':'1','count':'3'", "two three four"},
        {",'offset':2,'count':-1", "three four five six"},
        {",'count':-5", "one two three four five six"},
        {",'count':0", ""},
        {",'offset':6", ""},
        {",'offset':2147483647,'count':2147483647", ""},
    };

    check_histories(cases, sizeof cases / sizeof cases[0]);
}

TEST(server_history_by_seq)
{
    static const struct history_case cases[] = {
        {",'beforeSeq':4", "one two three"},
        {",'beforeSeq':4,'count':2", "two three"},
        {",'beforeSeq':1", ""},
        {",'beforeSeq':1000,'count':1", "six"},
        {",'afterSeq':4", "five six"},
        {",'afterSeq':2,'count':2", "three four"},
        {",'afterSeq':6", ""},
        {",'afterSeq':1,'beforeSeq':4", "two three"},
        {",'afterSeq':'0','count':'1'", "one"},
    };

    check_histories(cases, sizeof cases / sizeof cases[0]);
}

TEST(server_history_is_in_order_of_seq)
{
    struct server s;
    struct peer p;
    long long now = time_wall_ms();

    server_start(&s, QUIET, NULL);
    peer_login(&p, &s, PROTO_TCP, "alice");
    for (int i = 0; i < 3; i++) {
        sayf(&p, 11, "{'to':'bob','chatType':2,'content':'%d','createTime':%lld}", i,
             now - i * 1000);
        EXPECT(&p, "{'code':10001,<...>");
    }
    ask_history(&p, "");
    CHECK_SAID(&p, "0 1 2");
}

TEST(server_history_group_wins_over_peer)
{
    struct server s;
    struct peer p;

    server_start(&s, QUIET, NULL);
    peer_login(&p, &s, PROTO_TCP, "alice");
    join(&p, "g");
    say(&p, 11, "{'to':'bob','chatType':2,'content':'private'}");
    EXPECT(&p, "{'code':10001,<...>");
    say(&p, 11, "{'groupId':'g','chatType':1,'content':'public'}");
    EXPECT(&p, "{'command':11,<...>");
    EXPECT(&p, "{'code':10000,<...>");
    say(&p, 19, "{'userId':'alice','type':1,'fromUserId':'bob','groupId':'g'}");
    CHECK_SAID(&p, "public");
    CHECK(heard(&p, "\"data\":{\"friends\":{},\"groups\":{\"g\":[{"));
}

/* bob, who is away, gets one from alice, two from carol, and three in a group of all. */
static void
three_for_bob(struct server *s, struct peer *alice, struct peer *carol)
{
    struct peer bob;

    peer_login(&bob, s, PROTO_TCP, "bob");
    join(&bob, "g");
    peer_close(&bob);
    peer_login(alice, s, PROTO_TCP, "alice");
    peer_login(carol, s, PROTO_TCP, "carol");
    join(alice, "g");
    say(alice, 11, "{'to':'bob','chatType':2,'content':'one'}");
    EXPECT(alice, "{'code':10001,<...>");
    say(carol, 11, "{'to':'bob','chatType':2,'content':'two'}");
    EXPECT(carol, "{'code':10001,<...>");
    say(alice, 11, "{'groupId':'g','chatType':1,'content':'three'}");
    EXPECT(alice, "{'command':11,<...>");
    EXPECT(alice, "{'code':10000,<...>");
}

#define NOTHING                                                                                \
    "{'code':10016,'command':20,'data':{'friends':{},'groups':{},'userId':'bob'},"             \
    "'msg':'get user message ok! 获取离线消息成功!'}"

static void
talk_offline(enum proto proto)
{
    struct server s;
    struct peer alice, bob, carol;
    char want[1024];

    server_start(&s, QUIET, NULL);
    three_for_bob(&s, &alice, &carol);
    peer_login(&bob, &s, proto, "bob");
    CHECK(hear(&bob)); /* notice of the group he is in */
    say(&bob, 19, "{'userId':'bob','type':'0'}");
    CHECK(hear(&bob));
    bool alice_first = heard(&bob, "\"friends\":{\"alice\""); /* a map has no order */
    const char *one = "'alice':[{'chatType':2,'content':'one','createTime':<time>,"
                      "'from':'alice','id':'<id>','seq':1,'to':'bob'}]";
    const char *two = "'carol':[{'chatType':2,'content':'two','createTime':<time>,"
                      "'from':'carol','id':'<id>','seq':1,'to':'bob'}]";
    snprintf(want, sizeof want,
             "{'code':10016,'command':20,'data':{'friends':{%s,%s},'groups':{'g':[{'chatType':1,"
             "'content':'three','createTime':<time>,'from':'alice','groupId':'g','id':'<id>',"
             "'seq':1}]},'userId':'bob'},'msg':'get user message ok! 获取离线消息成功!'}",
             alice_first ? one : two, alice_first ? two : one);
    CHECK_LIKE(bob.text, want);
    say(&bob, 19, "{'userId':'bob','type':0}"); /* once */
    EXPECT(&bob, NOTHING);
}

TEST(server_offline) { talk_offline(PROTO_TCP); }
TEST(ws_offline) { talk_offline(PROTO_WS); }

TEST(server_offline_of_one_conversation)
{
    struct server s;
    struct peer alice, bob, carol;

    server_start(&s, QUIET, NULL);
    three_for_bob(&s, &alice, &carol);
    peer_login(&bob, &s, PROTO_TCP, "bob");
    CHECK(hear(&bob));
    say(&bob, 19, "{'userId':'bob','type':0,'fromUserId':'carol'}");
    CHECK_SAID(&bob, "two");
    say(&bob, 19, "{'userId':'bob','type':0,'groupId':'g','fromUserId':'alice'}");
    CHECK_SAID(&bob, "three");
    say(&bob, 19, "{'userId':'bob','type':0,'fromUserId':'carol'}");
    EXPECT(&bob, NOTHING);
    say(&bob, 19, "{'userId':'bob','type':0}");
    CHECK_SAID(&bob, "one");
    say(&bob, 19, "{'userId':'bob','type':0}");
    EXPECT(&bob, NOTHING);
}

TEST(server_offline_of_a_group_begins_at_the_join)
{
    struct server s;
    struct peer alice, bob;

    server_start(&s, QUIET, NULL);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    join(&alice, "g");
    say(&alice, 11, "{'groupId':'g','chatType':1,'content':'before'}");
    CHECK(hear(&alice) && hear(&alice));
    peer_login(&bob, &s, PROTO_TCP, "bob");
    join(&bob, "g");
    peer_close(&bob);
    EXPECT(&alice, JOINED("g", "bob"));
    EXPECT(&alice, LEFT("g", "bob"));
    say(&alice, 11, "{'groupId':'g','chatType':1,'content':'after'}");
    CHECK(hear(&alice) && hear(&alice));
    peer_login(&bob, &s, PROTO_TCP, "bob");
    CHECK(hear(&bob));
    say(&bob, 19, "{'userId':'bob','type':0}");
    CHECK_SAID(&bob, "after");
}

TEST(server_own_messages_do_not_wait_for_their_sender)
{
    struct server s;
    struct peer alice;

    server_start(&s, QUIET, NULL);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    join(&alice, "g");
    say(&alice, 11, "{'to':'bob','chatType':2,'content':'mine'}");
    CHECK(hear(&alice));
    say(&alice, 11, "{'groupId':'g','chatType':1,'content':'mine, too'}");
    CHECK(hear(&alice) && hear(&alice));
    say(&alice, 19, "{'userId':'alice','type':0}");
    CHECK_SAID(&alice, "");
}

TEST(server_fetch_max_and_more)
{
    struct server s;
    struct peer alice, bob;

    server_start(&s, QUIET, "-o", "jim.fetch.max=3", NULL);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    for (int i = 1; i <= 7; i++) {
        sayf(&alice, 11, "{'to':'bob','chatType':2,'content':'%d'}", i);
        EXPECT(&alice, "{'code':10001,<...>");
    }
    ask_history(&alice, "");
    CHECK_SAID(&alice, "1 2 3");
    CHECK(heard(&alice, "},\"groups\":{},\"more\":true,\"userId\":\"alice\"}"));
    ask_history(&alice, ",'afterSeq':3");
    CHECK_SAID(&alice, "4 5 6");
    CHECK(heard(&alice, "\"more\":true"));
    ask_history(&alice, ",'afterSeq':4,'count':100");
    CHECK_SAID(&alice, "5 6 7");
    CHECK(!heard(&alice, "\"more\""));
    peer_login(&bob, &s, PROTO_TCP, "bob");
    say(&bob, 19, "{'userId':'bob','type':0}");
    CHECK_SAID(&bob, "1 2 3");
    CHECK(heard(&bob, "\"more\":true"));
    say(&bob, 19, "{'userId':'bob','type':0}");
    CHECK_SAID(&bob, "4 5 6");
    CHECK(heard(&bob, "\"more\":true"));
    say(&bob, 19, "{'userId':'bob','type':0}");
    CHECK_SAID(&bob, "7");
    CHECK(!heard(&bob, "\"more\""));
    say(&bob, 19, "{'userId':'bob','type':0}");
    EXPECT(&bob, NOTHING);
}

/* Send `n` messages of `size` bytes from an online peer to bob; the first byte of each tells them
 * apart. */
static void
send_large(struct peer *from, int n, size_t size)
{
    char *content = malloc(size + 1);

    CHECK(content != NULL);
    memset(content, 'x', size);
    content[size] = '\0';
    for (int i = 0; i < n; i++) {
        sayf(from, 11, "{'to':'bob','chatType':2,'content':'%s'}", content);
        CHECK(hear(from));
        CHECK(number(from, "seq") > 0);
    }
    free(content);
}

TEST(server_answers_take_half_a_queue_at_most)
{
    struct server s;
    struct peer alice, bob;
    long long next = 1;
    bool more;

    server_start(&s, QUIET, "-o", "jim.queue.max=65536", NULL);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    send_large(&alice, 7, 10000);
    send_large(&alice, 2, 60000); /* one of these at least, although it is more than half */
    peer_login(&bob, &s, PROTO_TCP, "bob");
    do {
        say(&bob, 19, "{'userId':'bob','type':0}");
        CHECK(hear(&bob));
        CHECK(bob.text.n < 32768 + 256 || next > 7);
        CHECK_INT(number(&bob, "seq"), next);
        for (size_t i = 0; i + 6 < bob.text.n; i++)
            next += memcmp(bob.text.p + i, "\"seq\":", 6) == 0;
        more = heard(&bob, "\"more\":true");
    } while (more);
    CHECK_INT(next, 10);
}

/* --- store ------------------------------------------------------------------------------------ */

static void
keep_offline_messages(int sig)
{
    struct server s;
    struct peer alice, bob, carol;

    server_start(&s, QUIET, NULL);
    three_for_bob(&s, &alice, &carol);
    server_restart(&s, sig, QUIET, NULL);
    peer_login(&bob, &s, PROTO_TCP, "bob");
    EXPECT(&bob, JOINED("g", "bob")); /* membership survives as well */
    say(&bob, 19, "{'userId':'bob','type':0}");
    CHECK(hear(&bob));
    CHECK(heard(&bob, "\"content\":\"one\"") && heard(&bob, "\"content\":\"two\""));
    CHECK(heard(&bob, "\"content\":\"three\""));
}

TEST(server_restart_keeps_offline_messages) { keep_offline_messages(SIGTERM); }
TEST(server_kill_keeps_offline_messages) { keep_offline_messages(SIGKILL); }

TEST(server_restart_keeps_what_was_fetched)
{
    struct server s;
    struct peer alice, bob, carol;

    server_start(&s, QUIET, NULL);
    three_for_bob(&s, &alice, &carol);
    peer_login(&bob, &s, PROTO_TCP, "bob");
    EXPECT(&bob, JOINED("g", "bob"));
    say(&bob, 19, "{'userId':'bob','type':0,'fromUserId':'carol'}");
    CHECK_SAID(&bob, "two");
    server_restart(&s, SIGTERM, QUIET, NULL);
    peer_login(&bob, &s, PROTO_TCP, "bob");
    EXPECT(&bob, JOINED("g", "bob"));
    say(&bob, 19, "{'userId':'bob','type':0,'fromUserId':'carol'}");
    EXPECT(&bob, NOTHING);
    say(&bob, 19, "{'userId':'bob','type':0,'groupId':'g'}");
    CHECK_SAID(&bob, "three");
}

TEST(server_kill_keeps_every_acknowledged_message)
{
    struct server s;
    struct peer p;
    int acked = 0;

    server_start(&s, QUIET, NULL);
    peer_login(&p, &s, PROTO_TCP, "alice");
    peer_hold(&p);
    for (int i = 1; i <= 50; i++)
        sayf(&p, 11, "{'to':'bob','chatType':2,'content':'m','id':'%d'}", i);
    peer_release(&p, 100);
    while (acked < 20) {
        CHECK(hear(&p));
        CHECK_INT(number(&p, "seq"), ++acked);
    }
    server_restart(&s, SIGKILL, QUIET, NULL);
    peer_login(&p, &s, PROTO_TCP, "alice");
    ask_history(&p, "");
    CHECK(hear(&p));
    struct str rest = p.text;
    const char *at;
    int kept = 0;
    while (rest.n > 0 && (at = memmem(rest.p, rest.n, "\"seq\":", 6)) != NULL) {
        CHECK_INT(atoi(at + 6), ++kept); /* none is missing in between */
        rest = (struct str){at + 6, rest.n - (size_t)(at + 6 - rest.p)};
    }
    CHECK(kept >= acked);
    sayf(&p, 11, "{'to':'bob','chatType':2}");
    CHECK(hear(&p));
    CHECK_INT(number(&p, "seq"), kept + 1);
}

/* Of the messages in an answer. */
static int
first_seq(const struct peer *p)
{
    const char *at = memmem(p->text.p, p->text.n, "\"seq\":", 6);

    CHECK(at != NULL);
    return atoi(at + 6);
}

/* The oldest file goes while the server runs: with it the messages, but not the group, the member
 * and the numbers that it held. */
TEST(server_keep_bytes)
{
    static const char first[] = "data/00000000000000000001.log";
    struct server s;
    struct peer alice, bob;
    int said = 0;

    server_start(&s, QUIET, FAST, "-o", "jim.store.segment=4096", "-o",
                 "jim.store.keep.bytes=8192", NULL);
    peer_login(&bob, &s, PROTO_TCP, "bob");
    join(&bob, "g");
    peer_close(&bob);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    do {
        sayf(&alice, 11, "{'to':'bob','chatType':2,'content':'%d'}", ++said);
        CHECK(hear(&alice));
        CHECK_INT(number(&alice, "seq"), said);
        CHECK(said < 20000);
    } while (access(first, F_OK) == 0);
    ask_history(&alice, ",'count':1,'afterSeq':0");
    CHECK(hear(&alice));
    int oldest = first_seq(&alice);
    CHECK(oldest > 1 && oldest <= said);
    server_restart(&s, SIGKILL, QUIET, FAST, NULL);
    peer_login(&bob, &s, PROTO_TCP, "bob");
    EXPECT(&bob, JOINED("g", "bob"));
    say(&bob, 19, "{'userId':'bob','type':0}"); /* what is left of what he has missed */
    CHECK(hear(&bob));
    CHECK(first_seq(&bob) >= oldest);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    say(&alice, 11, "{'to':'bob','chatType':2,'content':'on'}");
    CHECK(hear(&alice));
    CHECK_INT(number(&alice, "seq"), said + 1);
}

TEST(server_restart_keeps_groups_and_numbers)
{
    struct server s;
    struct peer p;

    server_start(&s, QUIET, NULL);
    peer_login(&p, &s, PROTO_TCP, "alice");
    say(&p, 7, "{'groupId':'g','name':'名字'}");
    CHECK(hear(&p) && hear(&p));
    say(&p, 11, "{'groupId':'g','chatType':1,'content':'one'}");
    EXPECT(&p, "{'command':11,<...>");
    EXPECT(&p, ACK("<id>", 1));
    server_restart(&s, SIGTERM, QUIET, NULL);
    peer_login(&p, &s, PROTO_TCP, "alice");
    EXPECT(&p, JOINED("g", "alice"));
    say(&p, 11, "{'groupId':'g','chatType':1,'content':'two'}");
    EXPECT(&p, "{'command':11,<...>");
    EXPECT(&p, ACK("<id>", 2));
    say(&p, 19, "{'userId':'alice','type':1,'groupId':'g'}");
    CHECK_SAID(&p, "one two");
    say(&p, 17, "{'userId':'alice','type':2}");
    CHECK(hear(&p));
    CHECK(heard(&p, "\"groups\":[{\"groupId\":\"g\",\"name\":\"名字\",\"online\":1,"));
}

/* Names that J-IM's keys mix up, or that a log line could. */
TEST(server_conversations_do_not_mix)
{
    static const char *const pairs[][2] = {
        {"a-b", "c"}, {"a", "b-c"}, {"a:b", "c"}, {"a", "b:c"}, {"a%3Ab", "c"}, {"u1", "x"},
        {"u10", "x"}, {"g:100", "y"}, {"*", "z"}, {"朋 友", "\\'{}"}, {"A", "b-c"}};
    size_t n = sizeof pairs / sizeof pairs[0];
    struct server s;
    struct peer p;
    char want[16];

    server_start(&s, QUIET, NULL);
    for (int restarted = 0; restarted < 2; restarted++) {
        for (size_t i = 0; i < n; i++) {
            peer_login(&p, &s, PROTO_TCP, pairs[i][0]);
            if (!restarted) {
                sayf(&p, 11, "{'to':'%s','chatType':2,'content':'%zu'}", pairs[i][1], i);
                EXPECT(&p, ACK_OFFLINE("<id>", 1));
            }
            sayf(&p, 19, "{'userId':'%s','type':1,'fromUserId':'%s'}", pairs[i][0], pairs[i][1]);
            snprintf(want, sizeof want, "%zu", i);
            CHECK_SAID(&p, want);
            peer_close(&p);
        }
        if (!restarted)
            server_restart(&s, SIGTERM, QUIET, NULL);
    }
}

TEST(server_segments_are_one_history)
{
    struct server s;
    struct peer p;
    glob_t files;

    server_start(&s, QUIET, "-o", "jim.store.segment=4096", NULL);
    peer_login(&p, &s, PROTO_TCP, "alice");
    for (int i = 1; i <= 60; i++) {
        sayf(&p, 11, "{'to':'bob','chatType':2,'content':'%0100d'}", i);
        CHECK(hear(&p));
        CHECK_INT(number(&p, "seq"), i);
    }
    server_restart(&s, SIGTERM, QUIET, "-o", "jim.store.segment=4096", NULL);
    CHECK_INT(glob("data/*.log", 0, NULL, &files), 0);
    CHECK(files.gl_pathc >= 3);
    globfree(&files);
    peer_login(&p, &s, PROTO_TCP, "alice");
    for (int i = 1; i <= 60; i++) {
        sayf(&p, 19, "{'userId':'alice','type':1,'fromUserId':'bob','afterSeq':%d,'count':1}",
             i - 1);
        CHECK(hear(&p));
        CHECK_INT(number(&p, "seq"), i);
    }
}

TEST(server_cut_answer_is_not_delivered)
{
    struct server s;
    struct peer alice, bob;
    char piece[] = "\1\x51\24";

    server_start(&s, QUIET, FAST, NULL);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    send_large(&alice, 8, 60000); /* more than both sockets hold */
    peer_open_slow(&bob, &s, PROTO_TCP);
    say(&bob, 5, "{'userId':'bob'}");
    EXPECT(&bob, "{'code':10007,<...>");
    say(&bob, 19, "{'userId':'bob','type':0}");
    CHECK(hear_bytes(&bob, 3));
    CHECK(memcmp(bob.text.p, piece, 3) == 0); /* the answer is on its way */
    peer_abort(&bob);
    wait_offline(&alice, "bob");
    peer_login(&bob, &s, PROTO_TCP, "bob");
    for (int next = 1; next <= 8;) {
        say(&bob, 19, "{'userId':'bob','type':0}");
        CHECK(hear(&bob));
        CHECK_INT(number(&bob, "seq"), next);
        for (size_t i = 0; i + 6 < bob.text.n; i++)
            next += memcmp(bob.text.p + i, "\"seq\":", 6) == 0;
    }
    say(&bob, 19, "{'userId':'bob','type':0}");
    EXPECT(&bob, NOTHING);
}

TEST(server_live_message_leaves_older_ones_waiting)
{
    struct server s;
    struct peer alice, bob;

    server_start(&s, QUIET, NULL);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    say(&alice, 11, "{'to':'bob','chatType':2,'content':'older'}");
    EXPECT(&alice, ACK_OFFLINE("<id>", 1));
    peer_login(&bob, &s, PROTO_TCP, "bob");
    say(&alice, 11, "{'to':'bob','chatType':2,'content':'live'}");
    EXPECT(&alice, ACK("<id>", 2));
    EXPECT(&bob, "{'command':11,<...>");
    peer_close(&bob);
    wait_offline(&alice, "bob");
    say(&alice, 11, "{'to':'bob','chatType':2,'content':'newer'}");
    EXPECT(&alice, ACK_OFFLINE("<id>", 3));
    server_restart(&s, SIGTERM, QUIET, NULL);
    peer_login(&bob, &s, PROTO_TCP, "bob");
    say(&bob, 19, "{'userId':'bob','type':0}");
    CHECK_SAID(&bob, "older newer");
    say(&bob, 19, "{'userId':'bob','type':0}");
    EXPECT(&bob, NOTHING);
}

/* Read until the connection ends or `last` has come: which messages came? */
static void
note_seqs(struct peer *p, bool *came, int last)
{
    while (!came[last] && hear(p)) {
        struct str rest = p->text;
        const char *at;
        while (rest.n > 0 && (at = memmem(rest.p, rest.n, "\"seq\":", 6)) != NULL) {
            int seq = atoi(at + 6);
            CHECK(seq >= 1 && seq <= last);
            came[seq] = true;
            rest = (struct str){at + 6, rest.n - (size_t)(at + 6 - rest.p)};
        }
    }
}

TEST(server_slow_reader_catches_up)
{
    struct server s;
    struct peer alice, bob, carol;
    bool came[41] = {false};

    server_start(&s, QUIET, FAST, NULL);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    peer_open_slow(&bob, &s, PROTO_TCP);
    say(&bob, 5, "{'userId':'bob'}");
    EXPECT(&bob, "{'code':10007,<...>");
    peer_login(&carol, &s, PROTO_WS, "bob"); /* who reads, and misses nothing */
    for (int i = 1; i <= 40; i++) {
        send_large(&alice, 1, 60000);
        CHECK(hear(&carol));
        CHECK_INT(number(&carol, "seq"), i);
    }
    note_seqs(&bob, came, 40); /* 2.4 MB: more than twice what may be queued */
    for (int i = 1; i <= 40; i++)
        if (!came[i])
            test_fail(__FILE__, __LINE__, "message %d did not come", i);
}

/* The same in a large group, whose messages go out several together: partly written, left to the
 * store and caught up with, on both protocols. */
TEST(server_slow_reader_of_a_large_group_catches_up)
{
    enum { MEMBERS = 40, MESSAGES = 160, AT_ONCE = 8, SIZE = 7000 };
    struct server s;
    static struct peer member[MEMBERS];
    struct peer alice;
    struct buf b = {0};
    char name[32];

    server_start(&s, "-o", "jim.login.groups=g", "-o", "jim.group.notify.max=0", FAST, "-o",
                 "jim.queue.max=65536", NULL);
    for (int i = 0; i < MEMBERS; i++) {
        snprintf(name, sizeof name, "{'userId':'u%d'}", i);
        peer_open_slow(&member[i], &s, i % 2 == 0 ? PROTO_TCP : PROTO_WS);
        say(&member[i], 5, name);
        EXPECT(&member[i], "{'code':10007,<...>");
    }
    peer_login(&alice, &s, PROTO_TCP, "alice");
    for (int i = 0; i < AT_ONCE; i++) {
        buf_lit(&b, "\x01\x51\x0b");
        uint8_t n[4];
        put_be32(n, SIZE);
        buf_add(&b, n, 4);
        size_t from = b.len;
        buf_lit(&b, "{\"chatType\":1,\"groupId\":\"g\",\"content\":\"");
        while (b.len - from < SIZE - 2)
            buf_add(&b, "x", 1);
        buf_lit(&b, "\"}");
    }
    for (int i = 0; i < MESSAGES; i += AT_ONCE) {
        put(&alice, b.p, b.len);
        for (int acks = 0; acks < AT_ONCE;) {
            CHECK(hear(&alice));
            acks += heard(&alice, "\"command\":12");
        }
    }
    buf_free(&b);
    CHECK(server_stat(&s, "lags") > 0);
    for (int i = 0; i < MEMBERS; i++) {
        bool came[MESSAGES + 1] = {false};
        note_seqs(&member[i], came, MESSAGES);
        for (int k = 1; k <= MESSAGES; k++)
            if (!came[k])
                test_fail(__FILE__, __LINE__, "message %d has not come to u%d", k, i);
    }
}

/* Who catches up while messages are on their way to others gets each of them once, and in order:
 * from the store or live. */
TEST(server_slow_reader_among_fan_outs)
{
    enum { MEMBERS = 40, SENDERS = 4, EACH = 500, ROUNDS = 3 };
    static struct peer member[MEMBERS], sender[SENDERS];
    struct server s;
    char text[600];
    int seq = 0;

    server_start(&s, QUIET, FAST, "-o", "jim.group.open=on", "-o", "jim.group.notify.max=0", "-o",
                 "jim.queue.max=65536", NULL);
    for (int i = 0; i < MEMBERS; i++) {
        peer_open_slow(&member[i], &s, PROTO_TCP);
        sayf(&member[i], 5, "{'userId':'u%d'}", i);
        EXPECT(&member[i], "{'code':10007,<...>");
        say(&member[i], 7, "{'groupId':'g'}");
        EXPECT(&member[i], "{'code':10011,'command':8,<...>");
        EXPECT(&member[i], "{'code':10011,'command':9,<...>");
    }
    for (int i = 0; i < SENDERS; i++) {
        snprintf(text, sizeof text, "sender%d", i);
        peer_login(&sender[i], &s, PROTO_TCP, text);
    }
    snprintf(text, sizeof text, "{'chatType':1,'groupId':'g','content':'%0500d'}", 0);
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < SENDERS; i++) {
            peer_hold(&sender[i]);
            for (int k = 0; k < EACH; k++)
                say(&sender[i], 11, text);
            peer_release(&sender[i], 1u << 20);
        }
        for (int k = 0; k < SENDERS * EACH; k++) {
            CHECK(hear(&member[0]));
            CHECK_INT(number(&member[0], "seq"), ++seq);
        }
        for (int i = 0; i < SENDERS; i++)
            for (int k = 0; k < EACH; k++)
                EXPECT(&sender[i], "{'code':10000,<...>");
    }
    CHECK(server_stat(&s, "lags") > 0);
}

/* The next frame: is it the next message of a group that is called g and a number? */
static bool
hear_in_turn(struct peer *p, int *seq, int groups)
{
    static const char name[] = "\"groupId\":\"g";

    CHECK(hear(p));
    const char *at = memmem(p->text.p, p->text.n, name, sizeof name - 1);
    if (at == NULL)
        return false;
    int group = atoi(at + sizeof name - 1);
    CHECK(group >= 0 && group < groups);
    CHECK_INT(number(p, "seq"), ++seq[group]);
    return true;
}

/* Who has fallen behind in hundreds of conversations gets each whole and in order, also when in all
 * of them more is said while he catches up. */
TEST(server_slow_reader_behind_in_many)
{
    enum { GROUPS = 600, ROUNDS = 5 };
    struct server s;
    struct peer alice, bob;
    int seq[GROUPS] = {0}, left = GROUPS * ROUNDS;

    server_start(&s, QUIET, FAST, "-o", "jim.group.open=on", "-o", "jim.queue.max=65536", NULL);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    peer_open_slow(&bob, &s, PROTO_TCP);
    say(&bob, 5, "{'userId':'bob'}");
    EXPECT(&bob, "{'code':10007,<...>");
    for (int i = 0; i < GROUPS; i++) {
        sayf(&bob, 7, "{'groupId':'g%d'}", i);
        EXPECT(&bob, "{'code':10011,'command':8,<...>");
        EXPECT(&bob, "{'code':10011,'command':9,<...>");
    }
    send_large(&alice, 100, 60000);
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < GROUPS; i++) {
            sayf(&alice, 11, "{'chatType':1,'groupId':'g%d','content':'%d'}", i, round);
            EXPECT(&alice, "{'code':10000,<...>");
        }
        CHECK(server_stat(&s, "lags") > GROUPS / 2);
        for (int n = round >= 2 ? 600 : 0; n > 0; n--)
            left -= hear_in_turn(&bob, seq, GROUPS);
    }
    while (left > 0)
        left -= hear_in_turn(&bob, seq, GROUPS);
}

TEST(server_slow_reader_loses_nothing)
{
    struct server s;
    struct peer alice, bob;
    bool came[41] = {false};

    server_start(&s, QUIET, FAST, NULL);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    peer_open_slow(&bob, &s, PROTO_TCP);
    say(&bob, 5, "{'userId':'bob'}");
    EXPECT(&bob, "{'code':10007,<...>");
    send_large(&alice, 40, 60000);
    peer_close(&bob);
    wait_offline(&alice, "bob");
    peer_login(&bob, &s, PROTO_TCP, "bob");
    do {
        say(&bob, 19, "{'userId':'bob','type':0}");
        CHECK(hear(&bob));
        bool more = heard(&bob, "\"more\":true");
        for (size_t i = 0; i + 6 < bob.text.n; i++)
            if (memcmp(bob.text.p + i, "\"seq\":", 6) == 0)
                came[atoi(bob.text.p + i + 6)] = true;
        if (!more)
            break;
    } while (true);
    int first = 1;
    while (!came[first])
        first++; /* these were in the sockets' buffers: written, as far as the server can know */
    CHECK(first < 10);
    for (int i = first; i <= 40; i++)
        CHECK(came[i]);
}

#ifdef __linux__
/* May the server open as many files as before, or none more? */
static void
spare_files(const struct server *s, bool some)
{
    static struct rlimit before;
    char path[64];
    struct stat st;
    struct rlimit now;
    rlim_t n = 0;

    if (some) {
        CHECK(prlimit(s->pid, RLIMIT_NOFILE, &before, NULL) == 0);
        return;
    }
    do /* the lowest that is free */
        snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)s->pid, (int)n++);
    while (lstat(path, &st) == 0);
    CHECK(prlimit(s->pid, RLIMIT_NOFILE, NULL, &before) == 0);
    now = (struct rlimit){n - 1, before.rlim_max};
    CHECK(prlimit(s->pid, RLIMIT_NOFILE, &now, NULL) == 0);
}
#endif

/* What he has missed cannot be read just now: he is not sent what comes behind it. */
TEST(server_slow_reader_without_descriptors)
{
#ifdef __linux__
    struct server s;
    struct peer alice, bob;
    bool came[41] = {false};

    server_start(&s, QUIET, FAST, NULL);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    peer_open_slow(&bob, &s, PROTO_TCP);
    say(&bob, 5, "{'userId':'bob'}");
    EXPECT(&bob, "{'code':10007,<...>");
    say(&alice, 11, "{'to':'carol','chatType':2}"); /* the log is begun */
    EXPECT(&alice, ACK_OFFLINE("<id>", 1));
    spare_files(&s, false);
    send_large(&alice, 40, 60000);
    note_seqs(&bob, came, 40);
    spare_files(&s, true);
    int last = 0;
    while (last < 40 && came[last + 1])
        last++;
    CHECK(last > 0 && last < 40);
    for (int i = last + 1; i <= 40; i++)
        CHECK(!came[i]);
    peer_close(&bob);
    wait_offline(&alice, "bob");
    peer_login(&bob, &s, PROTO_TCP, "bob");
    for (bool more = true; more;) {
        say(&bob, 19, "{'userId':'bob','type':0}");
        CHECK(hear(&bob));
        more = heard(&bob, "\"more\":true");
        for (size_t i = 0; i + 6 < bob.text.n; i++)
            if (memcmp(bob.text.p + i, "\"seq\":", 6) == 0)
                CHECK_INT(atoi(bob.text.p + i + 6), ++last);
    }
    CHECK_INT(last, 40);
#endif
}

/* A segment that is begun when there is no descriptor for its directory is not the end of it. */
TEST(server_segment_without_descriptors)
{
#ifdef __linux__
    struct server s;
    struct peer alice;

    server_start(&s, QUIET, FAST, "-o", "jim.store.segment=4096", NULL);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    send_large(&alice, 4, 1000); /* full with the fourth; the next was prepared with the third */
    say(&alice, 13, "");
    CHECK(hear(&alice));
    spare_files(&s, false);
    say(&alice, 11, "{'to':'bob','chatType':2}");
    CHECK(!peer_ready(&alice, 100));
    spare_files(&s, true);
    EXPECT(&alice, ACK_OFFLINE("<id>", 5));
    CHECK_INT(server_stat(&s, "storeFailed"), 0);
#endif
}

TEST(server_slow_reader_without_store_is_closed)
{
    struct server s;
    struct peer alice, bob;

    server_start(&s, QUIET, FAST, "-o", "jim.store=off", NULL);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    peer_open_slow(&bob, &s, PROTO_TCP);
    say(&bob, 5, "{'userId':'bob'}");
    EXPECT(&bob, "{'code':10007,<...>");
    send_large(&alice, 40, 60000);
    hear_end(&bob);
    EXPECT_QUIET(&alice);
}

TEST(server_without_store)
{
    struct server s;
    struct peer alice, bob;

    server_start(&s, QUIET, "-o", "jim.store=off", NULL);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    say(&alice, 19, "{'userId':'alice','type':0}");
    EXPECT(&alice, MESSAGES_FAILED);
    say(&alice, 19, "{'userId':'alice','type':1,'fromUserId':'bob'}");
    EXPECT(&alice, MESSAGES_FAILED);
    say(&alice, 11, "{'to':'bob','chatType':2,'content':'lost'}");
    CHECK(hear(&alice));
    CHECK_INT(number(&alice, "code"), 10001);
    peer_login(&bob, &s, PROTO_TCP, "bob");
    say(&alice, 11, "{'to':'bob','chatType':2,'content':'hi','id':'x'}");
    CHECK(hear(&alice));
    CHECK_INT(number(&alice, "code"), 10000);
    EXPECT(&bob, "{'command':11,<...>");
    say(&alice, 11, "{'to':'bob','chatType':2,'content':'hi','id':'x'}");
    CHECK(hear(&alice));
    EXPECT_QUIET(&bob);
    CHECK(access("data", F_OK) != 0);
}

TEST(server_locked_directory)
{
    struct server s;
    struct output o;

    server_start(&s, NULL);
    run_jim(&o, "-p", "0", "-d", "data", NULL);
    CHECK_INT(o.code, 2);
    CHECK_INT(o.out.len, 0);
    CHECK(has(o.err, "data"));
}

/* The only file of the log. */
static const char *
log_path(void)
{
    static char path[256];
    glob_t files;

    CHECK_INT(glob("data/*.log", 0, NULL, &files), 0);
    CHECK_INT(files.gl_pathc, 1);
    snprintf(path, sizeof path, "%s", files.gl_pathv[0]);
    globfree(&files);
    return path;
}

/* A store with three messages of alice's, cleanly closed. */
static void
make_store(void)
{
    struct server s;
    struct peer p;

    server_start(&s, QUIET, NULL);
    peer_login(&p, &s, PROTO_TCP, "alice");
    for (int i = 1; i <= 3; i++) {
        sayf(&p, 11, "{'to':'bob','chatType':2,'content':'needle %d','id':'n%d'}", i, i);
        EXPECT(&p, "{'code':10001,<...>");
    }
    CHECK_INT(server_end(&s, SIGTERM), 0);
}

TEST(server_check_and_export)
{
    struct output o;

    make_store();
    struct buf log = read_whole(log_path());
    CHECK(has(log, "needle 2")); /* readable with grep */
    run_jim(&o, "check", "data", NULL);
    CHECK_INT(o.code, 0);
    CHECK(has(o.out, "messages 3"));
    run_jim(&o, "export", "data", NULL);
    CHECK_INT(o.code, 0);
    struct str rest = {o.out.p, o.out.len}, line;
    char want[256];
    for (int i = 1; i <= 3; i++) {
        CHECK(str_split(&rest, '\n', &line));
        snprintf(want, sizeof want, "\"content\":\"needle %d\"", i);
        CHECK(line.n > 0 && memmem(line.p, line.n, want, strlen(want)) != NULL);
        snprintf(want, sizeof want, "\"seq\":%d,", i);
        CHECK(memmem(line.p, line.n, want, strlen(want)) != NULL);
        CHECK(memmem(line.p, line.n, "\"time\":", 7) != NULL);
        CHECK(line.p[0] == '{' && line.p[line.n - 1] == '}');
    }
    CHECK(str_split(&rest, '\n', &line));
    CHECK_INT(line.n, 0);
    buf_free(&log);
}

TEST(server_torn_tail_is_cut)
{
    struct server s;
    struct peer p;
    struct output o;

    make_store();
    FILE *f = fopen(log_path(), "a");
    CHECK(f != NULL);
    fputs("01234567 99 1700000000000 M p:alice:bob {\"cont", f);
    fclose(f);
    run_jim(&o, "check", "data", NULL);
    CHECK_INT(o.code, 1);
    run_jim(&o, "check", "data", NULL); /* it only looks */
    CHECK_INT(o.code, 1);
    server_start(&s, QUIET, NULL);
    peer_login(&p, &s, PROTO_TCP, "alice");
    ask_history(&p, "");
    CHECK_SAID(&p, "needle 1 needle 2 needle 3");
    say(&p, 11, "{'to':'bob','chatType':2,'content':'four'}");
    EXPECT(&p, ACK_OFFLINE("<id>", 4));
    CHECK_INT(server_end(&s, SIGTERM), 0);
    run_jim(&o, "check", "data", NULL);
    CHECK_INT(o.code, 0);
}

TEST(server_damage_is_refused)
{
    struct output o;
    char *needle;
    int fd;

    make_store();
    struct buf log = read_whole(log_path());
    needle = memmem(log.p, log.len, "needle 1", 8);
    CHECK(needle != NULL);
    fd = open(log_path(), O_WRONLY);
    CHECK(fd >= 0 && pwrite(fd, "N", 1, needle - log.p) == 1);
    close(fd);
    run_jim(&o, "check", "data", NULL);
    CHECK_INT(o.code, 2);
    CHECK(has(o.out, ".log"));
    run_jim(&o, "-p", "0", "-d", "data", NULL);
    CHECK_INT(o.code, 2);
    CHECK(has(o.err, log_path()));
    /* and the offset of the line that is wrong */
    char *line = needle;
    while (line > log.p && line[-1] != '\n')
        line--;
    char offset[32];
    snprintf(offset, sizeof offset, "%td", line - log.p);
    CHECK(has(o.err, offset));
    buf_free(&log);
}

TEST(server_check_of_no_store)
{
    struct output o;

    run_jim(&o, "check", "nowhere", NULL);
    CHECK(o.code != 0);
    run_jim(&o, "export", "nowhere", NULL);
    CHECK(o.code != 0);
    run_jim(&o, "check", NULL);
    CHECK_INT(o.code, 1);
}

/* --- life ------------------------------------------------------------------------------------- */

TEST(server_members_may_vanish_together)
{
    struct server s;
    struct peer p[6];
    char name[16];

    server_start(&s, "-o", "jim.login.groups=g:G", NULL);
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < 6; i++) {
            snprintf(name, sizeof name, "u%d", i);
            peer_login(&p[i], &s, i % 2 ? PROTO_WS : PROTO_TCP, name);
        }
        CHECK(kill(s.pid, SIGSTOP) == 0); /* it sees all of them gone in one turn */
        for (int i = 0; i < 6; i++) {
            if (round % 2)
                say(&p[i], 11, "{'groupId':'g','chatType':1,'content':'last words'}");
            if (i % 3)
                peer_close(&p[i]);
            else
                peer_abort(&p[i]);
        }
        CHECK(kill(s.pid, SIGCONT) == 0);
    }
    peer_open(&p[0], &s, PROTO_TCP);
    EXPECT_QUIET(&p[0]);
}

/* Log in n peers at once: all say it, then all hear it. `u0`, `u1`, ... */
static void
login_many(struct peer *p, int n, const struct server *s)
{
    char name[64];

    for (int at = 0; at < n; at += 200) {
        int end = at + 200 < n ? at + 200 : n;
        for (int i = at; i < end; i++) {
            peer_connect(&p[i], s);
            snprintf(name, sizeof name, "{'userId':'u%d'}", i);
            say(&p[i], 5, name);
        }
        for (int i = at; i < end; i++) {
            EXPECT(&p[i], "{'code':10007,<...>");
            do
                CHECK(hear(&p[i]));
            while (!heard(&p[i], "\"group\":\"100\"")); /* his own notice: what follows is not */
        }
    }
}

/* Forget what has come so far. */
static void
drop_notices(struct peer *p)
{
    say(p, 13, "");
    do
        CHECK(hear(p));
    while (p->cmd != 13);
}

#define MANY 10000

TEST(server_ten_thousand_idle_peers)
{
    struct rlimit files;
    struct server s;
    struct peer *p;
    int many = through_tls() ? 2000 : MANY; /* a handshake costs more than a login */

    CHECK(getrlimit(RLIMIT_NOFILE, &files) == 0);
    if (SANITIZED || files.rlim_cur < MANY + 100 || access("/proc/self/statm", R_OK) != 0) {
        test_note("10,000 peers: skipped (needs 10,100 descriptors, /proc and no sanitizer)");
        return;
    }
    server_start(&s, NULL);
    p = calloc(MANY, sizeof *p);
    CHECK(p != NULL);
    long before = server_rss(&s);
    int64_t start = time_mono_ms();
    login_many(p, many, &s);
    long after = server_rss(&s);
    test_note("%d logged-in idle peers: %ld bytes each, logged in within %lld ms", many,
              (after - before) / many, (long long)(time_mono_ms() - start));
    CHECK((after - before) / many < (through_tls() ? 16000 : 1000));
    CHECK_INT(server_stat(&s, "online"), many);
    drop_notices(&p[0]);
    drop_notices(&p[many - 1]);
    sayf(&p[0], 11, "{'to':'u%d','chatType':2,'content':'far away'}", many - 1);
    EXPECT(&p[0], ACK("<id>", 1));
    EXPECT(&p[many - 1], "{'command':11,<...>");
    CHECK_INT(server_end(&s, SIGTERM), 0);
    free(p);
}

TEST(server_group_of_a_thousand)
{
    struct server s;
    struct peer *p = calloc(1000, sizeof *p);
    char name[16];

    CHECK(p != NULL);
    server_start(&s, "-o", "jim.group.notify.max=0", NULL);
    for (int i = 0; i < 1000; i++) {
        snprintf(name, sizeof name, "u%d", i);
        peer_open(&p[i], &s, i % 2 ? PROTO_WS : PROTO_TCP);
        sayf(&p[i], 5, "{'userId':'%s'}", name);
    }
    for (int i = 0; i < 1000; i++) {
        EXPECT(&p[i], "{'code':10007,<...>");
        EXPECT(&p[i], "{'code':10011,'command':9,<...>");
    }
    long long encoded = server_stat(&s, "encoded");
    long long answers = server_stat(&s, "encoded") - encoded; /* of being asked for it */
    encoded += answers;
    say(&p[0], 11, "{'groupId':'100','chatType':1,'content':'hello','id':'h'}");
    for (int i = 0; i < 1000; i++)
        EXPECT(&p[i], "{'command':11,'data':{'chatType':1,<...>");
    EXPECT(&p[0], ACK("h", 1));
    encoded = server_stat(&s, "encoded") - encoded - answers;
    test_note("a message to 1,000 members: %lld frames encoded, ack included", encoded);
    CHECK(encoded <= 3);
    for (int i = 0; i < 1000; i++)
        EXPECT_QUIET(&p[i]);
    free(p);
}

/* The end comes neither at once nor too late. */
static void
ends_after(struct peer *p, int64_t start, int64_t at_least)
{
    EXPECT_END(p);
    CHECK(time_mono_ms() - start >= at_least);
}

TEST(server_timeout_detect)
{
    struct server s;
    struct peer p;
    int64_t start = time_mono_ms();

    server_start(&s, "-o", "jim.timeout.detect=200ms", NULL);
    peer_connect(&p, &s);
    ends_after(&p, start, 150);
}

TEST(server_timeout_login)
{
    struct server s;
    struct peer in, out;
    int64_t start;

    write_file("c.properties", "jim.login.groups=\n");
    server_start(&s, FAST, "-c", "c.properties", NULL);
    peer_login(&in, &s, PROTO_TCP, "alice"); /* with all the time he may need */
    write_file("c.properties", "jim.login.groups=\njim.timeout.login=300ms\njim.message.max=1\n");
    CHECK(kill(s.pid, SIGHUP) == 0);
    do { /* until that is so */
        say(&in, 11, "{'to':'bob','chatType':2,'content':'xx'}");
        CHECK(hear(&in));
    } while (number(&in, "code") != 10025);
    start = time_mono_ms();
    peer_open(&out, &s, PROTO_TCP);
    do /* saying something else does not help */
        say(&out, 13, "");
    while (hear(&out));
    CHECK(time_mono_ms() - start >= 250);
    EXPECT_QUIET(&in);
}

TEST(server_timeout_heartbeat)
{
    struct server s;
    struct peer quiet, busy;
    bool gone = false;
    int64_t start = time_mono_ms();

    server_start(&s, QUIET, FAST, "-o", "jim.heartbeat.timeout=3000", NULL);
    peer_login(&quiet, &s, PROTO_TCP, "alice");
    peer_login(&busy, &s, PROTO_TCP, "bob");
    while (!gone) { /* what the server sends to alice does not count */
        say(&busy, 11, "{'to':'alice','chatType':2,'content':'still there?'}");
        say(&busy, 13, ""); /* answered whatever the disk does */
        do {
            CHECK(hear(&busy));
            gone |= number(&busy, "code") == 10001;
        } while (busy.cmd != 13);
        peer_ready(&busy, 50);
    }
    CHECK(time_mono_ms() - start >= 2900);
    hear_end(&quiet);
    drop_notices(&busy); /* he is still there */
}

TEST(server_out_of_descriptors)
{
    const char *const args[] = {QUIET, NULL};
    struct server s;
    struct peer first, p[100];

    server_start_with(&s, 64, false, args);
    peer_login(&first, &s, PROTO_TCP, "alice");
    for (int i = 0; i < 100; i++) {
        peer_connect(&p[i], &s); /* the system takes them, whatever the server does */
        if (through_tls())
            peer_hold(&p[i]); /* a handshake does not fit into what the system takes */
        say(&p[i], 13, "");
    }
    peer_release(&p[0], IN_ONE_WRITE);
    EXPECT(&p[0], HEARTBEAT);
    EXPECT_QUIET(&first);
    for (int i = 0; i < 70; i++)
        peer_close(&p[i]);
    for (int i = 70; i < 100; i++) { /* their turn has come */
        peer_release(&p[i], IN_ONE_WRITE);
        EXPECT(&p[i], HEARTBEAT);
    }
    EXPECT_QUIET(&first);
    CHECK_INT(server_end(&s, SIGTERM), 0);
}

TEST(server_stop_flushes_what_it_owes)
{
    struct server s;
    struct peer alice, bob;

    server_start(&s, QUIET, FAST, "-o", "jim.drain=60s", NULL);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    send_large(&alice, 8, 60000);
    peer_open_slow(&bob, &s, PROTO_TCP);
    say(&bob, 5, "{'userId':'bob'}");
    EXPECT(&bob, "{'code':10007,<...>");
    say(&bob, 19, "{'userId':'bob','type':0}");
    CHECK(peer_ready(&bob, WAIT_MS));
    CHECK(kill(s.pid, SIGTERM) == 0);
    EXPECT(&bob, "{'code':10016,<...>"); /* the whole of it */
    CHECK(bob.text.n > 400000);
    hear_end(&bob);
    hear_end(&alice);
    CHECK_INT(server_end(&s, 0), 0);
}

TEST(server_stop_says_so_to_websockets)
{
    struct server s;
    struct peer p;

    server_start(&s, QUIET, NULL);
    peer_login(&p, &s, PROTO_WS, "alice");
    CHECK(kill(s.pid, SIGTERM) == 0);
    EXPECT_CLOSE(&p, 1001);
    CHECK_INT(server_end(&s, 0), 0);
}

TEST(server_stop_does_not_wait_for_ever)
{
    struct server s;
    struct peer alice, bob;

    server_start(&s, QUIET, FAST, "-o", "jim.drain=200ms", NULL);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    send_large(&alice, 8, 60000);
    peer_open_slow(&bob, &s, PROTO_TCP);
    say(&bob, 5, "{'userId':'bob'}");
    EXPECT(&bob, "{'code':10007,<...>");
    say(&bob, 19, "{'userId':'bob','type':0}");
    CHECK(peer_ready(&bob, WAIT_MS)); /* and he reads no more */
    CHECK_INT(server_end(&s, SIGTERM), 0);
    server_start(&s, QUIET, NULL);
    peer_login(&bob, &s, PROTO_TCP, "bob");
    say(&bob, 19, "{'userId':'bob','type':0}");
    CHECK(hear(&bob));
    CHECK_INT(number(&bob, "seq"), 1); /* what was cut off has not been delivered */
}

TEST(server_second_signal_is_final)
{
    struct server s;
    struct peer alice, bob;
    int64_t start = time_mono_ms();

    server_start(&s, QUIET, FAST, "-o", "jim.drain=1h", NULL);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    send_large(&alice, 8, 60000);
    peer_open_slow(&bob, &s, PROTO_TCP);
    say(&bob, 5, "{'userId':'bob'}");
    EXPECT(&bob, "{'code':10007,<...>");
    say(&bob, 19, "{'userId':'bob','type':0}");
    CHECK(peer_ready(&bob, WAIT_MS));
    CHECK(kill(s.pid, SIGTERM) == 0);
    hear_end(&alice); /* it has begun to stop */
    server_end(&s, SIGTERM);
    CHECK(time_mono_ms() - start < WAIT_MS);
}

TEST(server_stops_on_interrupt)
{
    struct server s;
    struct peer p;

    server_start(&s, QUIET, NULL);
    peer_login(&p, &s, PROTO_TCP, "alice");
    CHECK_INT(server_end(&s, SIGINT), 0);
    EXPECT_END(&p);
}

TEST(server_port_in_use)
{
    struct server s;
    struct output o;
    char port[16];

    server_start(&s, NULL);
    snprintf(port, sizeof port, "%d", s.port[0]);
    run_jim(&o, "-p", port, "-d", "other", NULL);
    CHECK_INT(o.code, 2);
    CHECK_INT(o.out.len, 0);
    CHECK(has(o.err, port));
}

TEST(server_readiness_line)
{
    static const char *const args[] = {"-o", "jim.port=0,0/ws", "-p", "0/http", NULL};
    struct server s;
    char want[128];

    server_start_with(&s, 0, true, (const char *const[]){"-p", "0", NULL});
    snprintf(want, sizeof want, "jim: listening on 127.0.0.1:%d", s.port[0]);
    CHECK_STR(str_of(s.ready), want);
    CHECK_INT(server_end(&s, SIGTERM), 0);
    server_start_with(&s, 0, true, args);
    snprintf(want, sizeof want, "jim: listening on 127.0.0.1:%d 127.0.0.1:%d 127.0.0.1:%d",
             s.port[0], s.port[1], s.port[2]);
    CHECK_STR(str_of(s.ready), want);
    CHECK(s.port[2] > 0);
}

TEST(server_ports_pinned_to_a_protocol)
{
    static const char *const args[] = {QUIET, "-p", "0", "-p", "0/ws", "-p", "0/tcp", NULL};
    struct server s;
    struct peer p;
    struct reply r;

    server_start_with(&s, 0, true, args);
    peer_connect_port(&p, s.port[1], false);
    say(&p, 13, ""); /* TCP-IM where only WebSocket is spoken */
    EXPECT_END(&p);
    peer_connect_port(&p, s.port[1], false);
    peer_upgrade(&p, "/");
    EXPECT_QUIET(&p);
    peer_connect_port(&p, s.port[1], false);
    put_str(&p, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    hear_reply(&p, &r, false);
    CHECK(r.status == 404 || r.status == 426);
    peer_connect_port(&p, s.port[2], false);
    EXPECT_QUIET(&p);
    put_str(&p, "");
    peer_connect_port(&p, s.port[2], false);
    put_str(&p, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    hear_end(&p);
    CHECK_INT(ask_for(&s, "GET", "/", "", NULL).status, 200);
}

TEST(server_protocols_can_be_left_out)
{
    struct server s;
    struct peer p;

    server_start(&s, QUIET, "-o", "jim.protocols=ws,http", NULL);
    peer_open(&p, &s, PROTO_TCP);
    say(&p, 13, "");
    EXPECT_END(&p);
    peer_open(&p, &s, PROTO_WS);
    EXPECT_QUIET(&p);
}

TEST(server_bad_options)
{
    static const char *const bad[][3] = {
        {"-o", "jim.nothing=1", "jim.nothing"}, {"-o", "jim.port=x", "jim.port"},
        {"-o", "jim.port=70000", "jim.port"},   {"-o", "jim.auth=none", "jim.auth"},
        {"-o", "jim.queue.max=1", "jim.queue.max"}, {"-o", "jim.store=perhaps", "jim.store"},
        {"-o", "nonsense", "key=value"},        {"-c", "missing.properties", "missing.properties"},
        {"-p", "", "jim.port"},                 {"-b", "not.an.address.", "not.an.address."},
        {"extra", NULL, ""},                    {"-z", NULL, ""}};
    struct output o;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        printf("%s %s\n", bad[i][0], bad[i][1] ? bad[i][1] : "");
        run_jim(&o, "-d", "data", bad[i][0], bad[i][1], NULL);
        CHECK(o.code == 1 || (o.code == 2 && strcmp(bad[i][0], "-b") == 0));
        CHECK_INT(o.out.len, 0);
        CHECK(has(o.err, bad[i][2]));
    }
}

TEST(server_bad_properties_name_file_and_line)
{
    struct output o;

    write_file("a.properties", "# a comment\njim.port = 0\n\njim.nothing = 1\n");
    run_jim(&o, "-c", "a.properties", "-d", "data", NULL);
    CHECK_INT(o.code, 1);
    CHECK(has(o.err, "a.properties:4"));
    CHECK(has(o.err, "jim.nothing"));
    write_file("b.properties", "jim.port = 0\njim.heartbeat.timeout = soon\n");
    run_jim(&o, "-c", "b.properties", "-d", "data", NULL);
    CHECK_INT(o.code, 1);
    CHECK(has(o.err, "b.properties:2"));
}

TEST(server_reads_j_im_properties)
{
    struct server s;
    struct peer p;

    write_file("jim.properties", "#bind\r\njim.bind.ip=127.0.0.1\r\njim.port=0\r\n"
               "jim.heartbeat.timeout=0\r\njim.store=off\r\njim.cluster=off\r\njim.ssl=off\r\n"
               "jim.key.store.path=classpath:ssl/keystore.jks\r\n"
               "jim.key.store.pwd=214323428310224\r\n"
               "jim.http.scan.packages=org.jim.server.demo\r\njim.http.max.live.time=0\r\n"
               "jim.redis.retrynum=100\r\njim.redis.maxactive=-1\r\njim.redis.maxidle=20\r\n"
               "jim.redis.maxwait=5000\r\njim.redis.timeout=2000\r\njim.redis.host=127.0.0.1\r\n"
               "jim.redis.port=6379\r\njim.redis.auth=\r\njim.login.groups=7:\\u670b\\u53cb\r\n");
    server_start(&s, "-c", "jim.properties", "-o", "jim.store=on", NULL);
    peer_login(&p, &s, PROTO_TCP, "alice");
    EXPECT(&p, JOINED("7", "alice"));
    say(&p, 17, "{'userId':'alice'}");
    CHECK(hear(&p));
    CHECK(heard(&p, "\"name\":\"朋友\""));
    say(&p, 19, "{'userId':'alice','type':0}"); /* the command line wins: the store is on */
    EXPECT(&p, "{'code':10016,<...>");
}

TEST(server_version_and_help)
{
    struct output o;

    run_jim(&o, "-V", NULL);
    CHECK_INT(o.code, 0);
    CHECK(has(o.out, "jim " JIM_VERSION));
    run_jim(&o, "-h", NULL);
    CHECK_INT(o.code, 0);
    CHECK(has(o.out, "usage: jim"));
    CHECK(has(o.out, "jim.queue.max"));
}

static void
unwritten(const struct output *o, const char *what)
{
    if (o->code != 2 || !has(o->err, "jim: cannot write: "))
        test_fail(__FILE__, __LINE__, "%s ended with %d", what, o->code);
}

/* A result that nobody gets is no success: a script must not go on as if it had one. */
TEST(server_result_that_cannot_be_written)
{
    struct output o;

    write_file("in", "{\"chatType\":2,\"from\":\"a\",\"to\":\"b\",\"content\":\"hi\"}\n");
    CHECK(freopen("in", "r", stdin) != NULL);
    run_jim_unheard(&o, "import", "d", NULL);
    unwritten(&o, "import");
    run_jim(&o, "export", "d", NULL);
    CHECK(o.code == 0 && has(o.out, "\"hi\""));
    run_jim_unheard(&o, "-V", NULL);
    unwritten(&o, "-V");
    run_jim_unheard(&o, "-h", NULL);
    unwritten(&o, "-h");
    run_jim_unheard(&o, "check", "d", NULL);
    unwritten(&o, "check");
    run_jim_unheard(&o, "check", "-r", "d", NULL);
    unwritten(&o, "check -r");
    run_jim_unheard(&o, "export", "d", NULL);
    unwritten(&o, "export");
    run_jim_unheard(&o, "export", "-a", "d", NULL);
    unwritten(&o, "export -a");
    run_jim_unheard(&o, "token", "-s", "01234567890123456789012345678901", "-u", "a", NULL);
    unwritten(&o, "token");
    run_jim_unheard(&o, "check", NULL); /* what has nothing to print says what it has to */
    CHECK_INT(o.code, 1);
}

/* What is closed is not the next file: none of the store is written to by what has to be said. */
TEST(server_closed_descriptors)
{
    char command[4200];

    test_begins();
    snprintf(command, sizeof command, "echo x | \"${JIM:-%s/jim}\" import d 2>&-",
             test_source());
    int status = system(command);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 1); /* it has refused the line, and said so */
    CHECK_INT(read_whole("d/lock").len, 0);
}

TEST(server_public_address_needs_a_word)
{
    struct server s;
    struct output o;
    struct peer p;

    run_jim(&o, "-p", "0", "-d", "data", "-b", "0.0.0.0", NULL);
    CHECK_INT(o.code, 1);
    CHECK(has(o.err, "jim.auth"));
    server_start(&s, "-b", "0.0.0.0", "-o", "jim.auth=open", NULL);
    CHECK(strncmp(s.ready, "jim: listening on 0.0.0.0:", 26) == 0);
    peer_open(&p, &s, PROTO_TCP);
    EXPECT_QUIET(&p);
}

TEST(server_reload)
{
    struct server s;
    struct peer p;
    int64_t deadline = time_mono_ms() + WAIT_MS;

    write_file("c.properties", "jim.message.max=10\njim.login.groups=\n");
    server_start(&s, FAST, "-c", "c.properties", NULL);
    peer_login(&p, &s, PROTO_TCP, "alice");
    say(&p, 11, "{'to':'bob','chatType':2,'content':'0123456789a'}");
    CHECK(hear(&p));
    CHECK_INT(number(&p, "code"), 10025);
    write_file("c.properties", "jim.message.max=20\njim.login.groups=\n");
    CHECK(kill(s.pid, SIGHUP) == 0);
    do {
        CHECK(time_mono_ms() < deadline);
        say(&p, 11, "{'to':'bob','chatType':2,'content':'0123456789a'}");
        CHECK(hear(&p));
    } while (number(&p, "code") == 10025);
    EXPECT_QUIET(&p);
    CHECK_INT(server_end(&s, SIGTERM), 0);
}

TEST(server_bad_reload_changes_nothing)
{
    struct server s;
    struct peer p;

    write_file("c.properties", "jim.message.max=10\n");
    server_start(&s, QUIET, "-c", "c.properties", NULL);
    peer_login(&p, &s, PROTO_TCP, "alice");
    write_file("c.properties", "jim.message.max=20\nnonsense.jim\njim.nothing=1\n");
    CHECK(kill(s.pid, SIGHUP) == 0);
    for (int i = 0; i < 20; i++)
        EXPECT_QUIET(&p);
    say(&p, 11, "{'to':'bob','chatType':2,'content':'0123456789a'}");
    CHECK(hear(&p));
    CHECK_INT(number(&p, "code"), 10025);
    CHECK_INT(server_end(&s, SIGTERM), 0);
}

TEST(server_log_tells_no_secrets)
{
    struct server s;
    struct peer p, q;

    server_start(&s, "-v", "-o", "jim.log.file=log.txt", "-o", "jim.api.key=k3y", NULL);
    peer_open(&p, &s, PROTO_TCP);
    say(&p, 3, "{'token':'t0ken'}");
    CHECK(hear(&p));
    say(&p, 5, "{'userId':'alice','password':'s3cret','token':'t0ken'}");
    CHECK(hear(&p) && hear(&p));
    say(&p, 11, "{'to':'bob','chatType':2,'content':'pr1vate'}");
    CHECK(hear(&p));
    say(&p, 5, "{'userId':'','password':'s3cret','token':'t0ken'}");
    EXPECT(&p, LOGIN_FAILED);
    peer_connect(&q, &s);
    peer_upgrade(&q, "/?username=bob&password=s3cret&token=t0ken");
    CHECK(hear(&q));
    ask_for(&s, "POST", "/api/message/send?content=pr1vate", "Authorization: Bearer k3y\r\n",
            "{\"to\":\"bob\",\"chatType\":2}");
    ask_for(&s, "GET", "/api/stats", "Authorization: Bearer k3y \r\nCookie: pr1vate\r\n", NULL);
    CHECK_INT(server_end(&s, SIGTERM), 0);
    struct buf log = read_whole("log.txt");
    CHECK(has(log, "debug"));
    CHECK(!has(log, "s3cret") && !has(log, "t0ken"));
    CHECK(!has(log, "pr1vate") && !has(log, "k3y"));
    buf_free(&log);
}

TEST(server_log_is_reopened)
{
    struct server s;
    struct peer p;
    int64_t deadline = time_mono_ms() + WAIT_MS;

    server_start(&s, FAST, "-o", "jim.log.file=log.txt", NULL);
    peer_open(&p, &s, PROTO_TCP);
    CHECK(rename("log.txt", "log.old") == 0);
    CHECK(kill(s.pid, SIGHUP) == 0);
    while (access("log.txt", F_OK) != 0) {
        CHECK(time_mono_ms() < deadline);
        EXPECT_QUIET(&p);
    }
}

/* Who sends and is gone before the disk has answered: his connection's memory outlives him until
 * then, and the server may stop in that very moment. LeakSanitizer is the judge. */
TEST(server_stops_while_it_owes_answers)
{
    struct server s;
    struct peer p;

    server_start(&s, QUIET, FAST, NULL);
    for (int round = 0; round < 12; round++) {
        peer_login(&p, &s, round % 2 ? PROTO_TCP : PROTO_WS, "u");
        peer_hold(&p);
        for (int i = 0; i < 20; i++)
            say(&p, 11, "{'to':'v','chatType':2,'content':'x'}");
        peer_release(&p, IN_ONE_WRITE);
        peer_abort(&p);
        server_restart(&s, SIGTERM, QUIET, FAST, NULL);
    }
}

/* --- noise ------------------------------------------------------------------------------------ */

/* The same numbers each time. */
static uint32_t
dice(uint32_t *state, uint32_t sides)
{
    *state = *state * 1664525u + 1013904223u;
    return (*state >> 8) % sides;
}

/* Bytes of a valid conversation with a few of them changed, in random pieces. */
static void
make_noise(struct peer *p, uint32_t *seed)
{
    static const char *const bodies[] = {
        "{'userId':'u1'}", "{'to':'u2','chatType':2,'content':'x','extras':{'a':[1,{}]}}",
        "{'groupId':'g','chatType':1,'id':'i'}", "{'userId':'u1','type':0,'count':3}",
        "{'userId':'u1','type':1,'fromUserId':'u2','beforeSeq':9}", "{'token':'\\u4f60'}"};
    static const int commands[] = {5, 11, 7, 11, 19, 17, 13, 3, 1};

    peer_hold(p);
    for (int i = 0; i < 12; i++)
        say(p, commands[i < 1 ? 0 : dice(seed, 9)], bodies[i < 1 ? 0 : dice(seed, 6)]);
    for (uint32_t i = dice(seed, 4); i > 0; i--)
        p->held.p[dice(seed, (uint32_t)p->held.len)] ^= (char)(1u << dice(seed, 8));
}

static void
survive(enum proto proto)
{
    struct server s;
    struct peer p, good;
    uint32_t seed = 20240601;

    server_start(&s, QUIET, FAST, NULL);
    peer_login(&good, &s, PROTO_TCP, "good");
    for (int round = 0; round < 200; round++) {
        peer_open(&p, &s, proto);
        make_noise(&p, &seed);
        while (p.held.len > 0) { /* until it is closed, or has said all */
            size_t n = 1 + dice(&seed, 300);
            n = n < p.held.len ? n : p.held.len;
            if (send(p.fd, p.held.p, n, 0) < 0)
                break;
            buf_drop(&p.held, n);
            peer_drain(&p);
        }
        if (round % 10 == 0)
            EXPECT_QUIET(&good);
        if (round % 3)
            peer_close(&p);
        else
            peer_abort(&p);
    }
    EXPECT_QUIET(&good);
}

TEST(server_survives_noise) { survive(PROTO_TCP); }
TEST(ws_survives_noise) { survive(PROTO_WS); }

/* One thing a peer may do; a closed one (fd < 0) comes back. */
static void
do_something(struct peer *p, struct server *s, uint32_t *seed, bool *gone)
{
    char name[16];
    int who = (int)dice(seed, 5);

    if (*gone) {
        peer_open(p, s, dice(seed, 2) ? PROTO_WS : PROTO_TCP);
        snprintf(name, sizeof name, "u%d", who);
        sayf(p, 5, "{'userId':'%s'}", name);
        *gone = false;
        return;
    }
    switch (dice(seed, 9)) {
    case 0:
        say(p, 11, "{'groupId':'g','chatType':1,'content':'to all'}");
        return;
    case 1:
        sayf(p, 11, "{'to':'u%d','chatType':2,'content':'to one','id':'%u'}", who,
             (unsigned)dice(seed, 50));
        return;
    case 2:
        sayf(p, 19, "{'userId':'u%d','type':0}", who);
        return;
    case 3:
        sayf(p, 19, "{'userId':'u%d','type':1,'groupId':'g','count':20}", who);
        return;
    case 4:
        sayf(p, 17, "{'userId':'u%d'}", who);
        return;
    case 5:
        sayf(p, 5, "{'userId':'u%d'}", who);
        return;
    case 6:
        peer_drain(p);
        return;
    case 7:
        peer_close(p);
        break;
    default:
        say(p, 13, "");
        peer_abort(p);
    }
    *gone = true;
}

TEST(server_survives_coming_and_going)
{
    struct server s;
    struct peer p[10], good;
    bool gone[10];
    uint32_t seed = 7;

    memset(gone, true, sizeof gone);
    server_start(&s, FAST, "-o", "jim.login.groups=g:G", "-o", "jim.login.policy=terminal", NULL);
    for (int step = 0; step < 3000; step++) {
        uint32_t i = dice(&seed, 10);
        if (step % 500 == 100) /* let it find a lot in one turn */
            CHECK(kill(s.pid, SIGSTOP) == 0);
        if (step % 500 == 160)
            CHECK(kill(s.pid, SIGCONT) == 0);
        if (step % 500 >= 100 && step % 500 < 160 && gone[i])
            continue; /* who comes now would have to wait for it */
        do_something(&p[i], &s, &seed, &gone[i]);
    }
    peer_open(&good, &s, PROTO_TCP);
    EXPECT_QUIET(&good);
}
