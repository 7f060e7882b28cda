/* SPDX-License-Identifier: MIT */
/*
 * test_api.c - the routes of the HTTP API on the running server, from outside. What all routes have
 * in common (keys, origins, parameters) is in test_http.c.
 *
 *   table      every route against docs/openapi.yaml, and what is the same for all of them
 *   messages   several receivers, broadcasts, history, offline
 *   users      list, info
 *   groups     creating, joining, leaving, dismissing, renaming; what can be asked of them
 *   metrics    the text format, and that it tells what /api/stats tells
 */
#include "client.h"

#include <ctype.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define FORM "Content-Type: application/x-www-form-urlencoded\r\n"

/* POST JSON, with ' for ". */
static struct reply
post(const struct server *s, const char *path, const char *json)
{
    char *text = strdup(json);
    struct reply r;

    CHECK(text != NULL);
    printf("%s %s\n", path, json);
    for (char *p = text; *p != '\0'; p++)
        if (*p == '\'')
            *p = '"';
    r = ask_for(s, "POST", path, "Content-Type: application/json\r\n", text);
    free(text);
    return r;
}

static struct reply
get(const struct server *s, const char *target)
{
    printf("%s\n", target);
    return ask_for(s, "GET", target, "", NULL);
}

/* An answer: its status, and what its body is like. */
#define ANSWERS(reply, status, want) answers(__FILE__, __LINE__, (reply), (status), (want))

static void
answers(const char *file, int line, struct reply r, int status, const char *want)
{
    test_int(file, line, "status", r.status, status);
    check_like(file, line, r.body, want, "");
}

#define INVALID "{'code':10020,'msg':'Invalid verification! 不合法校验'}"
#define NO_GROUP "{'code':10030,'msg':'group not found 群组不存在'}"
#define DONE "{'code':10029,'msg':'ok 操作成功'}"
#define TOO_LARGE "{'code':10025,'msg':'message too large 消息过大'}"

/* --- table ------------------------------------------------------------------------------------ */

#define MAX_PATHS 64

struct operations { /* what docs/openapi.yaml has below `paths:` */
    struct path {
        char path[64];
        bool get, post, open; /* open: `security: []` in each operation */
        int operations, ok; /* ok: those with an answer 200 */
    } path[MAX_PATHS];
    size_t n;
};

static size_t
indent_of(const char *line)
{
    return strspn(line, " ");
}

/* A line of the paths section. Its layout is fixed: path, method, member, at 2, 4 and 6 blanks. */
static void
path_line(struct operations *o, const char *line)
{
    struct path *p = o->n > 0 ? &o->path[o->n - 1] : NULL;

    if (indent_of(line) == 2) {
        CHECK(o->n < MAX_PATHS && strlen(line) < sizeof p->path && line[2] == '/');
        snprintf(o->path[o->n++].path, sizeof p->path, "%.*s", (int)strlen(line) - 3, line + 2);
    } else if (indent_of(line) == 4) {
        CHECK(p != NULL);
        if (strcmp(line, "    get:") == 0)
            p->get = true;
        else if (strcmp(line, "    post:") == 0)
            p->post = true;
        else
            test_fail(__FILE__, __LINE__, "%s: %s", p->path, line);
        p->operations++;
    } else if (strcmp(line, "      security: []") == 0) {
        p->open = true;
    } else if (strncmp(line, "        '200':", 14) == 0) {
        p->ok++;
    }
}

/* Each `$ref: '#/components/KIND/NAME'` names something that is there. */
static void
check_refs(struct buf yaml)
{
    static const char mark[] = "'#/components/";
    char kind[32], name[64], defined[80];

    for (const char *at = yaml.p; (at = strstr(at, mark)) != NULL; at++) {
        CHECK(sscanf(at + sizeof mark - 1, "%31[a-zA-Z]/%63[a-zA-Z0-9]'", kind, name) == 2);
        const char *section = strstr(yaml.p, "\ncomponents:\n");
        char head[40];
        snprintf(head, sizeof head, "\n  %s:\n", kind);
        CHECK(section != NULL && (section = strstr(section, head)) != NULL);
        const char *end = section + 1;
        while ((end = strchr(end, '\n')) != NULL && strncmp(end, "\n    ", 5) == 0)
            end++;
        snprintf(defined, sizeof defined, "\n    %s:\n", name);
        const char *found = strstr(section, defined);
        if (found == NULL || (end != NULL && found > end))
            test_fail(__FILE__, __LINE__, "%s %s is not defined", kind, name);
    }
}

static void
read_openapi(struct operations *o)
{
    char path[512];
    bool in_paths = false;

    snprintf(path, sizeof path, "%s/docs/openapi.yaml", test_source());
    struct buf yaml = read_whole(path);
    check_refs(yaml);
    struct str rest = {yaml.p, yaml.len}, line;
    while (str_split(&rest, '\n', &line)) {
        char text[256];
        snprintf(text, sizeof text, "%.*s", (int)line.n, line.p);
        CHECK(line.n < sizeof text && strchr(text, '\t') == NULL);
        if (text[0] == '\0' || text[indent_of(text)] == '#')
            continue;
        CHECK_INT(indent_of(text) % 2, 0);
        CHECK(text[line.n - 1] != ' ');
        if (indent_of(text) == 0)
            in_paths = strcmp(text, "paths:") == 0;
        else if (in_paths)
            path_line(o, text);
    }
    buf_free(&yaml);
}

TEST(api_openapi_describes_the_routes)
{
    struct operations o = {.n = 0};
    size_t n = 0;

    read_openapi(&o);
    for (const struct route *r; (r = api_route(n)) != NULL; n++) {
        const struct path *found = NULL;
        for (size_t i = 0; i < o.n; i++)
            if (strcmp(o.path[i].path, r->path) == 0) {
                CHECK(found == NULL);
                found = &o.path[i];
            }
        printf("%s\n", r->path);
        CHECK(found != NULL);
        CHECK(found->post && found->get == !r->post_only && found->open == r->open);
        CHECK_INT(found->ok, found->operations);
    }
    CHECK_INT(o.n, n); /* and none that does not exist */
}

TEST(api_every_route)
{
    struct server s;
    const struct route *r;

    server_start(&s, QUIET, FAST, "-o", "jim.api.key=k", NULL);
    for (size_t i = 0; (r = api_route(i)) != NULL; i++) {
        const char *allow = r->post_only ? "POST, OPTIONS" : "GET, HEAD, POST, OPTIONS";
        printf("%s\n", r->path);
        struct reply a = ask_for(&s, "POST", r->path, "", "{}"); /* no key */
        CHECK_INT(a.status, r->open ? 200 : 401);
        if (!r->open)
            CHECK_STR(header(&a, "www-authenticate"), "Bearer");
        a = ask_for(&s, "POST", r->path, "Authorization: Bearer K\r\n", "{}");
        CHECK_INT(a.status, r->open ? 200 : 401);
        a = ask_for(&s, "DELETE", r->path, "Authorization: Bearer k\r\n", NULL);
        CHECK_INT(a.status, 405);
        CHECK_STR(header(&a, "allow"), allow);
        a = ask_for(&s, "GET", r->path, "Authorization: Bearer k\r\n", NULL);
        CHECK(r->post_only ? a.status == 405 : a.status != 405);
        int status = a.status;
        a = ask_for(&s, "HEAD", r->path, "Authorization: Bearer k\r\n", NULL);
        CHECK_INT(a.status, status);
        a = ask_for(&s, "OPTIONS", r->path, "", NULL);
        CHECK_INT(a.status, 204);
        CHECK_STR(header(&a, "allow"), allow);
        a = ask_for(&s, "POST", r->path, "Authorization: Bearer k\r\n", "{\"to\":"); /* no JSON */
        CHECK_INT(a.status, 400);
        CHECK_STR(header(&a, "content-type"), "application/json; charset=utf-8");
        a = ask_for(&s, "POST", r->path, FORM "Authorization: Bearer k\r\n", "users=%ff");
        CHECK_INT(a.status, 400);
    }
    CHECK_INT(ask_for(&s, "GET", "/api/", "", NULL).status, 404);
    CHECK_INT(ask_for(&s, "GET", "/api/group", "", NULL).status, 404);
}

/* --- messages --------------------------------------------------------------------------------- */

#define SENT(to, id, seq) \
    "{'code':10000,'createTime':<time>,'id':'" id "','msg':'ok 发送成功','seq':" #seq \
    ",'to':'" to "'}"
#define KEPT(to, id, seq) \
    "{'code':10001,'createTime':<time>,'id':'" id "','msg':'offline 用户不在线','seq':" #seq \
    ",'to':'" to "'}"

TEST(api_send_to_several)
{
    struct server s;
    struct peer bob, carol;

    server_start(&s, QUIET, NULL);
    peer_login(&bob, &s, PROTO_TCP, "bob");
    peer_login(&carol, &s, PROTO_WS, "小红");
    ANSWERS(post(&s, "/api/message/send", "{'from':'a','to':['bob','小红','dave'],'chatType':2,"
                 "'content':'x','id':'i'}"), 200,
            "{'code':10000,'command':12,'data':[" SENT("bob", "i", 1) "," SENT("小红", "i", 1) ","
            KEPT("dave", "i", 1) "],'msg':'ok 发送成功'}");
    EXPECT(&bob, "{'command':11,'data':{'chatType':2,'content':'x','createTime':<time>,'from':'a',"
                 "'id':'i','seq':1,'to':'bob'}}");
    EXPECT(&carol, "{'command':11,'data':{'chatType':2,'content':'x','createTime':<time>,"
                   "'from':'a','id':'i','seq':1,'to':'小红'}}");
    /* Once more, with one who is new: to the others it is a retry. */
    ANSWERS(post(&s, "/api/message/send", "{'from':'a','to':['bob','eve'],'chatType':2,"
                 "'content':'x','id':'i'}"), 200,
            "{'code':10000,'command':12,'data':[" SENT("bob", "i", 1) "," KEPT("eve", "i", 1)
            "],'msg':'ok 发送成功'}");
    EXPECT_QUIET(&bob);
    CHECK_INT(server_stat(&s, "messages"), 4);
}

TEST(api_send_to_several_by_form)
{
    struct server s;

    server_start(&s, QUIET, NULL);
    ANSWERS(ask_for(&s, "POST", "/api/message/send?to=nobody&chatType=2", FORM,
                    "to=bob&to=a%22b&content=x&id=i"), 200,
            "{'code':10001,'command':12,'data':[" KEPT("bob", "i", 1) "," KEPT("a\\'b", "i", 1)
            "],'msg':'offline 用户不在线'}");
}

TEST(api_send_to_several_groups)
{
    struct server s;
    struct peer bob;

    server_start(&s, "-o", "jim.login.groups=g:G,h:H", NULL);
    peer_open(&bob, &s, PROTO_TCP);
    say(&bob, 5, "{'userId':'bob'}");
    for (int i = 0; i < 3; i++)
        CHECK(hear(&bob));
    ANSWERS(post(&s, "/api/message/send",
                 "{'groupId':['g','h','none',''],'chatType':1,'content':'x','id':'i'}"), 200,
            "{'code':10000,'command':12,'data':["
            "{'code':10000,'createTime':<time>,'groupId':'g','id':'i','msg':'ok 发送成功','seq':1},"
            "{'code':10000,'createTime':<time>,'groupId':'h','id':'i','msg':'ok 发送成功','seq':1},"
            "{'code':10030,'groupId':'none','msg':'group not found 群组不存在'},"
            "{'code':10002,'groupId':'','msg':'send failed <...>");
    EXPECT(&bob, "{'command':11,'data':{'chatType':1,'content':'x','createTime':<time>,"
                 "'from':'system','groupId':'g','id':'i','seq':1}}");
    EXPECT(&bob, "{'command':11,'data':{'chatType':1,'content':'x','createTime':<time>,"
                 "'from':'system','groupId':'h','id':'i','seq':1}}");
    CHECK_INT(server_stat(&s, "refused10030"), 1);
    CHECK_INT(server_stat(&s, "refused10002"), 1);
}

TEST(api_send_to_several_refused)
{
    static const char *const bodies[] = {
        "{'to':[],'chatType':2}", "{'to':['a'],'chatType':0}", "{'to':['a'],'chatType':1}",
        "{'to':{'x':1},'chatType':2}", "{'to':'a','groupId':['g'],'chatType':2}",
        "{'to':['a',{'x':1}],'groupId':'g','chatType':1}"};
    struct server s;
    struct buf b = {0};

    server_start(&s, QUIET, "-o", "jim.store=off", NULL);
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        struct reply r = post(&s, "/api/message/send", bodies[i]);
        ANSWERS(r, 400, "{'code':10002,'command':12,<...>");
    }
    ANSWERS(post(&s, "/api/message/send", "{'groupId':['x','y'],'chatType':1}"), 404,
            "{'code':10030,'command':12,'data':[{'code':10030,'groupId':'x','msg':"
            "'group not found 群组不存在'},{'code':10030,'groupId':'y','msg':"
            "'group not found 群组不存在'}],'failed':2,'msg':'group not found 群组不存在'}");
    CHECK_INT(server_stat(&s, "messages"), 0);
    for (int n = MAX_NAMES; n <= MAX_NAMES + 1; n++) {
        b.len = 0;
        buf_printf(&b, "{'chatType':2,'to':[");
        for (int i = 0; i < n; i++)
            buf_printf(&b, "%s'u%d'", i > 0 ? "," : "", i);
        buf_printf(&b, "]}");
        CHECK_INT(post(&s, "/api/message/send", b.p).status, n > MAX_NAMES ? 413 : 200);
    }
    CHECK_INT(server_stat(&s, "messages"), MAX_NAMES);
    b.len = 0;
    buf_printf(&b, "{'chatType':2,'to':['a','b','c','d','e','f','g','h','i'],'extras':{'x':'");
    for (int i = 0; i < 2000000; i++)
        buf_add(&b, "x", 1);
    buf_printf(&b, "'}}");
    struct reply r = api_send(&s, b.p); /* 9 of these are more than MAX_FAN */
    ANSWERS(r, 413, "{'code':10025,'command':12,<...>");
    buf_free(&b);
}

TEST(api_send_to_several_in_order)
{
    static const char many[] = "{\"to\":[\"a\",\"b\",\"c\"],\"chatType\":2}";
    struct server s;
    struct peer p;
    struct reply r;
    char head[200];

    server_start(&s, QUIET, NULL);
    peer_connect(&p, &s);
    snprintf(head, sizeof head, "POST /api/message/send HTTP/1.1\r\nHost: localhost\r\n"
             "Content-Length: %zu\r\n\r\n%s", sizeof many - 1, many);
    peer_hold(&p);
    for (int i = 0; i < 3; i++) {
        put_str(&p, head);
        put_str(&p, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    }
    peer_release(&p, IN_ONE_WRITE);
    for (int i = 1; i <= 3; i++) {
        hear_reply(&p, &r, false);
        CHECK_INT(r.status, 200);
        CHECK_INT(number(&p, "seq"), i);
        hear_reply(&p, &r, false);
        CHECK_LIKE(r.body, "{'status':'ok'}");
    }
}

/* Who asked has gone before the answer: what he asked for is done all the same. */
TEST(api_caller_goes)
{
    static const char *const calls[][2] = {
        {"/api/message/send", "{\"to\":[\"a\",\"b\"],\"chatType\":2}"},
        {"/api/message/broadcast", "{\"content\":\"x\"}"},
        {"/api/group/create", "{\"groupId\":\"g\",\"users\":[\"a\",\"b\"]}"},
        {"/api/group/dismiss", "{\"groupId\":\"g\"}"}};
    struct server s;
    struct peer p;
    char text[300];

    server_start(&s, QUIET, NULL);
    for (int i = 0; i < 40; i++) {
        const char *const *call = calls[i % 4];
        snprintf(text, sizeof text, "POST %s HTTP/1.1\r\nHost: localhost\r\n"
                 "Content-Length: %zu\r\n\r\n%s", call[0], strlen(call[1]), call[1]);
        peer_connect(&p, &s);
        put_str(&p, text);
        peer_abort(&p);
    }
    while (server_stat(&s, "openHttp") != 1)
        ;
    CHECK(server_stat(&s, "messages") <= 20);
    CHECK_INT(server_end(&s, SIGTERM), 0);
}

TEST(api_broadcast)
{
    struct server s;
    struct peer alice, phone, bob, stranger;

    server_start(&s, QUIET, NULL);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    peer_login(&phone, &s, PROTO_WS, "alice");
    peer_login(&bob, &s, PROTO_WS, "bob");
    peer_open(&stranger, &s, PROTO_TCP);
    EXPECT_QUIET(&stranger);
    ANSWERS(post(&s, "/api/message/broadcast", "{'content':'大家好','msgType':0,'extras':{'k':1},"
                 "'from':'admin','to':'x','groupId':'y','id':'b1'}"), 200,
            "{'code':10000,'command':12,'data':{'sent':3},'msg':'ok 发送成功'}");
    struct peer *hearers[] = {&alice, &phone, &bob};
    for (int i = 0; i < 3; i++)
        EXPECT(hearers[i], "{'command':11,'data':{'chatType':0,'content':'大家好',"
                           "'createTime':<time>,'extras':{'k':1},'from':'admin','id':'b1',"
                           "'msgType':0}}");
    EXPECT_QUIET(&stranger);
    ANSWERS(ask_for(&s, "POST", "/api/message/broadcast", FORM, "content=x"), 200,
            "{'code':10000,'command':12,'data':{'sent':3},'msg':'ok 发送成功'}");
    EXPECT(&bob, "{'command':11,'data':{'chatType':0,'content':'x','createTime':<time>,"
                 "'from':'system','id':'<id>'}}");
    say(&bob, 19, "{'userId':'bob','type':0}"); /* kept nowhere */
    EXPECT(&bob, "{'code':10016,'command':20,'data':{'friends':{},'groups':{},'userId':'bob'},"
                 "<...>");
    CHECK_INT(server_stat(&s, "messages"), 0);
    CHECK_INT(server_stat(&s, "broadcasts"), 2);
}

TEST(api_broadcast_refused)
{
    static const char *const bodies[] = {"{}", "{'content':null}", "{'content':'x','from':''}",
                                         "{'content':'x','extras':1}",
                                         "{'content':'x','msgType':'y'}"};
    struct server s;

    server_start(&s, QUIET, "-o", "jim.message.max=4", NULL);
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        struct reply r = post(&s, "/api/message/broadcast", bodies[i]);
        ANSWERS(r, 400, "{'code':10002,'command':12,<...>");
    }
    ANSWERS(post(&s, "/api/message/broadcast", "{'content':'12345'}"), 413,
            "{'code':10025,'command':12,'msg':'message too large 消息过大'}");
}

/* More than are attended to in one turn, while some go and come. */
TEST(api_broadcast_to_many)
{
    enum { MANY = MAX_ATTEND + 200 };
    struct server s;
    struct peer *p = calloc(MANY, sizeof *p), late;
    struct reply r;

    CHECK(p != NULL);
    server_start(&s, QUIET, NULL);
    for (int i = 0; i < MANY; i++) {
        peer_open(&p[i], &s, i % 2 ? PROTO_WS : PROTO_TCP);
        sayf(&p[i], 5, "{'userId':'u%d'}", i / 2);
    }
    for (int i = 0; i < MANY; i++)
        EXPECT(&p[i], "{'code':10007,<...>");
    for (int i = 0; i < 50; i++) /* holes in the row of descriptors */
        peer_close(&p[MANY - 1 - 3 * i]);
    peer_login(&late, &s, PROTO_TCP, "late");
    while (server_stat(&s, "openTcp") + server_stat(&s, "openWs") != MANY - 50 + 1)
        ;
    r = post(&s, "/api/message/broadcast", "{'content':'x','id':'b'}");
    CHECK_LIKE(r.body, "{'code':10000,'command':12,'data':{'sent':663},'msg':'ok 发送成功'}");
    for (int i = 0; i < MANY; i++) {
        bool closed = (MANY - 1 - i) % 3 == 0 && (MANY - 1 - i) / 3 < 50;
        if (closed)
            continue;
        EXPECT(&p[i], "{'command':11,'data':{'chatType':0,'content':'x',<...>");
        EXPECT_QUIET(&p[i]); /* once */
    }
    EXPECT(&late, "{'command':11,'data':{'chatType':0,'content':'x',<...>");
    free(p);
}

static void
talk(const struct server *s)
{
    api_send(s, "{'from':'ann','to':'bob','chatType':2,'content':'1','id':'1'}");
    api_send(s, "{'from':'bob','to':'ann','chatType':2,'content':'2','id':'2'}");
    api_send(s, "{'from':'ann','to':'bob','chatType':2,'content':'3','id':'3'}");
}

#define CHAT(n, from, to) \
    "{'chatType':2,'content':'" #n "','createTime':<time>,'from':'" from "','id':'" #n "','seq':" \
    #n ",'to':'" to "'}"
#define HISTORY(friends) \
    "{'code':10018,'command':20,'data':{'friends':{" friends "},'groups':{},'userId':'bob'}," \
    "'msg':'get user message ok! 获取历史消息成功!'}"
#define BAD_QUERY "{'code':10015,'command':20,'msg':'get user message failed! 获取用户消息失败!'}"

TEST(api_history)
{
    struct server s;

    server_start(&s, QUIET, NULL);
    talk(&s);
    ANSWERS(get(&s, "/api/message/history?userId=bob&fromUserId=ann"), 200,
            HISTORY("'ann':[" CHAT(1, "ann", "bob") "," CHAT(2, "bob", "ann") ","
                    CHAT(3, "ann", "bob") "]"));
    ANSWERS(post(&s, "/api/message/history", "{'userid':'bob','fromUserId':'ann','beforeSeq':3,"
                 "'count':1}"), 200, HISTORY("'ann':[" CHAT(2, "bob", "ann") "]"));
    ANSWERS(get(&s, "/api/message/history?userId=bob&fromUserId=ann&afterSeq=3"), 200, HISTORY(""));
    ANSWERS(get(&s, "/api/message/history?userId=bob&fromUserId=zoe"), 200, HISTORY(""));
    ANSWERS(get(&s, "/api/message/history?userId=bob"), 400, BAD_QUERY);
    ANSWERS(get(&s, "/api/message/history?fromUserId=bob"), 400, BAD_QUERY);
    ANSWERS(get(&s, "/api/message/history?userId=bob&fromUserId="), 400, BAD_QUERY);
    ANSWERS(get(&s, "/api/message/history?userId=bob&fromUserId=ann&count=x"), 400, BAD_QUERY);
    server_restart(&s, SIGKILL, QUIET, NULL);
    ANSWERS(get(&s, "/api/message/history?userId=bob&fromUserId=ann&offset=2&count=5"), 200,
            HISTORY("'ann':[" CHAT(3, "ann", "bob") "]"));
}

TEST(api_history_of_a_group)
{
    static const char there[] =
        "{'code':10018,'command':20,'data':{'friends':{},'groups':{'g':[{'chatType':1,"
        "'content':'x','createTime':<time>,'from':'system','groupId':'g','id':'1','seq':1}]}},"
        "<...>";
    struct server s;

    server_start(&s, QUIET, NULL);
    post(&s, "/api/group/create", "{'groupId':'g','users':['ann']}");
    api_send(&s, "{'groupId':'g','chatType':1,'content':'x','id':'1'}");
    ANSWERS(get(&s, "/api/message/history?groupId=g"), 200, there);
    ANSWERS(get(&s, "/api/message/history?groupId=g&userId=bob"), 200,
            "{'code':10018,'command':20,'data':{'friends':{},'groups':{'g':[{<...>");
    ANSWERS(get(&s, "/api/message/history?groupId=none"), 404,
            "{'code':10030,'command':20,'msg':'group not found 群组不存在'}");
    post(&s, "/api/group/dismiss", "{'groupId':'g'}");
    ANSWERS(get(&s, "/api/message/history?groupId=g"), 200, there); /* what was said stays */
}

TEST(api_offline)
{
    static const char missed[] =
        "{'code':10016,'command':20,'data':{'friends':{'ann':[" CHAT(1, "ann", "bob") ","
        CHAT(3, "ann", "bob") "]},'groups':{},'userId':'bob'},<...>";
    struct server s;
    struct peer bob;

    server_start(&s, QUIET, NULL);
    talk(&s);
    /* What bob has said moved his cursor past the first; so it is ann's two only before that. */
    api_send(&s, "{'from':'ann','to':'carol','chatType':2,'content':'1','id':'1'}");
    for (int i = 0; i < 2; i++) /* asking moves nothing */
        ANSWERS(get(&s, "/api/message/offline?userId=carol"), 200,
                "{'code':10016,'command':20,'data':{'friends':{'ann':[" CHAT(1, "ann", "carol")
                "]},'groups':{},'userId':'carol'},<...>");
    ANSWERS(get(&s, "/api/message/offline?userId=bob&fromUserId=ann"), 200, missed);
    ANSWERS(get(&s, "/api/message/offline?userId=nobody"), 200,
            "{'code':10016,'command':20,'data':{'friends':{},'groups':{},'userId':'nobody'},<...>");
    ANSWERS(get(&s, "/api/message/offline?userId=bob&groupId=none"), 404,
            "{'code':10030,'command':20,<...>");
    ANSWERS(post(&s, "/api/message/offline", "{}"), 400, BAD_QUERY);
    peer_login(&bob, &s, PROTO_TCP, "bob");
    say(&bob, 19, "{'userId':'bob','type':0}");
    EXPECT(&bob, missed);
}

TEST(api_messages_without_a_store)
{
    struct server s;

    server_start(&s, QUIET, "-o", "jim.store=off", NULL);
    talk(&s);
    ANSWERS(get(&s, "/api/message/history?userId=bob&fromUserId=ann"), 400, BAD_QUERY);
    ANSWERS(get(&s, "/api/message/offline?userId=bob"), 400, BAD_QUERY);
}

/* --- users ------------------------------------------------------------------------------------ */

#define ON(id) "{'nick':'" id "','status':'online','terminal':'tcp','userId':'" id "'}"
#define OFF(id) "{'nick':'" id "','status':'offline','userId':'" id "'}"
#define USERS(code, text, total, users) \
    "{'code':" #code ",'data':{'total':" #total ",'users':[" users "]},'msg':'" text "'}"
#define ALL(total, users) USERS(10003, "ok 获取用户信息成功!", total, users)

TEST(api_user_list)
{
    struct server s;
    struct peer ann, bob, carol;

    server_start(&s, QUIET, NULL);
    ANSWERS(get(&s, "/api/user/list"), 200, ALL(0, ""));
    api_send(&s, "{'to':'ghost','chatType':2}"); /* has never been here */
    peer_login(&ann, &s, PROTO_TCP, "ann");
    peer_login(&bob, &s, PROTO_TCP, "鲍勃");
    peer_login(&carol, &s, PROTO_TCP, "carol");
    peer_close(&ann);
    while (server_stat(&s, "online") != 2)
        ;
    ANSWERS(get(&s, "/api/user/list"), 200, ALL(3, ON("carol") "," ON("鲍勃") "," OFF("ann")));
    ANSWERS(get(&s, "/api/user/list?type=0"), 200,
            USERS(10005, "ok 获取所有在线用户信息成功!", 2, ON("carol") "," ON("鲍勃")));
    ANSWERS(post(&s, "/api/user/list", "{'type':'1'}"), 200,
            USERS(10006, "ok 获取所有离线用户信息成功!", 1, OFF("ann")));
    ANSWERS(get(&s, "/api/user/list?offset=1&count=1"), 200, ALL(3, ON("鲍勃")));
    ANSWERS(get(&s, "/api/user/list?offset=2"), 200, ALL(3, OFF("ann")));
    ANSWERS(get(&s, "/api/user/list?offset=3"), 200, ALL(3, ""));
    ANSWERS(get(&s, "/api/user/list?offset=9223372036854775807&count=9223372036854775807"), 200,
            ALL(3, ""));
    ANSWERS(get(&s, "/api/user/list?count=0"), 200, ALL(3, ""));
    static const char *const bad[] = {"type=3", "type=-1", "type=x", "offset=-1", "count=-1",
                                      "count=x", "offset=99999999999999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char target[100];
        snprintf(target, sizeof target, "/api/user/list?%s", bad[i]);
        ANSWERS(get(&s, target), 400, INVALID);
    }
    server_restart(&s, SIGTERM, QUIET, NULL);
    ANSWERS(get(&s, "/api/user/list?type=0"), 200,
            USERS(10005, "ok 获取所有在线用户信息成功!", 0, ""));
    ANSWERS(get(&s, "/api/user/list?count=1"), 200,
            "{'code':10003,'data':{'total':3,'users':[{<...>");
}

TEST(api_user_info)
{
    struct server s;
    struct peer ann;

    server_start(&s, "-o", "jim.login.groups=g:G", NULL);
    ANSWERS(get(&s, "/api/user/info?userid=ann"), 404,
            "{'code':10004,'msg':'get user failed ! 获取用户信息失败!'}");
    peer_open(&ann, &s, PROTO_TCP);
    say(&ann, 5, "{'userId':'ann'}");
    CHECK(hear(&ann) && hear(&ann));
    ANSWERS(get(&s, "/api/user/info?userid=ann"), 200,
            "{'code':10003,'data':{'friends':[],'groups':[{'groupId':'g','name':'G','online':1,"
            "'users':[" ON("ann") "]}],'nick':'ann','status':'online','terminal':'tcp',"
            "'userId':'ann'},'msg':'ok 获取用户信息成功!'}");
    ANSWERS(post(&s, "/api/user/info", "{'userId':'ann','type':1}"), 200,
            "{'code':10003,'data':{'friends':[],'groups':[{'groupId':'g','name':'G','online':1,"
            "'users':[]}],<...>");
    ANSWERS(get(&s, "/api/user/info"), 400, INVALID);
    ANSWERS(get(&s, "/api/user/info?userid=ann&type=7"), 400, INVALID);
    api_send(&s, "{'to':'ghost','chatType':2}");
    CHECK_INT(get(&s, "/api/user/info?userid=ghost").status, 404);
}

/* --- groups ----------------------------------------------------------------------------------- */

#define GROUP(id, name, online, total) \
    "{'groupId':'" id "','name':'" name "','online':" #online ",'total':" #total "}"
#define JOINED(id, name, online, total) \
    "{'code':10011,'data':" GROUP(id, name, online, total) ",'msg':'join group ok! 加入群组成功!'}"
#define DONE_WITH(id, name, online, total) \
    "{'code':10029,'data':" GROUP(id, name, online, total) ",'msg':'ok 操作成功'}"
#define CAME(group, who, status) \
    "{'code':10011,'command':9,'group':'" group "','msg':'join group ok! 加入群组成功!','user':" \
    "{'nick':'" who "','status':'" status "','userId':'" who "'}}"
#define WENT(group, who, status) \
    "{'command':10,'data':{'group':'" group "','user':{'nick':'" who "','status':'" status "'," \
    "'userId':'" who "'}}}"

TEST(api_group_create)
{
    struct server s;
    struct peer ann;

    server_start(&s, QUIET, NULL);
    peer_login(&ann, &s, PROTO_TCP, "ann");
    ANSWERS(post(&s, "/api/group/create", "{'groupId':'群','name':'Team','userId':'ann',"
                 "'users':['bob']}"), 200, JOINED("群", "Team", 1, 2));
    EXPECT(&ann, CAME("群", "ann", "online"));
    EXPECT(&ann, CAME("群", "bob", "offline"));
    ANSWERS(post(&s, "/api/group/create", "{'groupId':'群','name':'Other','users':['bob']}"), 200,
            JOINED("群", "Team", 1, 2)); /* again: nothing changes, the name neither */
    EXPECT_QUIET(&ann);
    ANSWERS(ask_for(&s, "POST", "/api/group/create", FORM, "groupId=h"), 200,
            JOINED("h", "h", 0, 0));
    ANSWERS(post(&s, "/api/group/create?groupId=h", "{'name':'late'}"), 200,
            JOINED("h", "late", 0, 0)); /* it had none */
    server_restart(&s, SIGKILL, QUIET, NULL); /* an answer means that it is on disk */
    ANSWERS(get(&s, "/api/group/list"), 200,
            "{'code':10029,'data':{'groups':[" GROUP("群", "Team", 0, 2) ","
            GROUP("h", "late", 0, 0) "],'total':2},'msg':'ok 操作成功'}");
}

#define NAME_65 "'12345678901234567890123456789012345678901234567890123456789012345'"

TEST(api_group_refused)
{
    static const char *const creates[] = {
        "{}", "{'groupId':''}", "{'groupId':'g','name':''}", "{'groupId':['g']}",
        "{'groupId':'g','users':['']}", "{'groupId':'g','users':[['x']]}",
        "{'groupId':'g','userId':' '}",
        "{'groupId':'g','users':{}}", "{'groupId':'g','name':" NAME_65 "}"};
    static const char *const paths[] = {"/api/group/join", "/api/group/leave"};
    struct server s;
    struct buf b = {0};

    server_start(&s, QUIET, NULL);
    for (size_t i = 0; i < sizeof creates / sizeof creates[0]; i++)
        ANSWERS(post(&s, "/api/group/create", creates[i]), 400, INVALID);
    CHECK_INT(server_stat(&s, "groups"), 0);
    for (size_t i = 0; i < 2; i++) {
        ANSWERS(post(&s, paths[i], "{'groupId':'g','userId':'ann'}"), 404, NO_GROUP);
        ANSWERS(post(&s, paths[i], "{'userId':'ann'}"), 400, INVALID);
        ANSWERS(post(&s, paths[i], "{'groupId':'g'}"), 400, INVALID);
        ANSWERS(post(&s, paths[i], "{'groupId':'g','users':[]}"), 400, INVALID);
    }
    ANSWERS(post(&s, "/api/group/dismiss", "{'groupId':'g'}"), 404, NO_GROUP);
    ANSWERS(post(&s, "/api/group/dismiss", "{}"), 400, INVALID);
    ANSWERS(post(&s, "/api/group/rename", "{'groupId':'g','name':'x'}"), 404, NO_GROUP);
    ANSWERS(post(&s, "/api/group/rename", "{'groupId':'g'}"), 400, INVALID);
    ANSWERS(get(&s, "/api/group/info?groupId=g"), 404, NO_GROUP);
    ANSWERS(get(&s, "/api/group/info"), 400, INVALID);
    ANSWERS(get(&s, "/api/group/users?groupId=g"), 404, NO_GROUP);
    ANSWERS(get(&s, "/api/group/users"), 400, INVALID);
    ANSWERS(get(&s, "/api/group/list?type=1"), 400, INVALID);
    buf_printf(&b, "{'groupId':'g','users':['u'");
    for (int i = 0; i < MAX_NAMES; i++)
        buf_printf(&b, ",'u%d'", i);
    buf_printf(&b, "]}");
    ANSWERS(post(&s, "/api/group/create", b.p), 413, TOO_LARGE);
    CHECK_INT(server_stat(&s, "groups"), 0);
    buf_free(&b);
}

TEST(api_group_join)
{
    struct server s;
    struct peer ann, bob, phone;

    server_start(&s, QUIET, "-o", "jim.group.join=api", NULL);
    peer_login(&ann, &s, PROTO_TCP, "ann");
    say(&ann, 7, "{'groupId':'g'}");
    EXPECT(&ann, "{'code':10024,'command':8,'msg':'forbidden 没有权限','result':0}");
    post(&s, "/api/group/create", "{'groupId':'g','name':'G','userId':'ann'}");
    EXPECT(&ann, CAME("g", "ann", "online"));
    ANSWERS(post(&s, "/api/group/join", "{'groupId':'g','users':['bob','ann']}"), 200,
            JOINED("g", "G", 1, 2));
    EXPECT(&ann, CAME("g", "bob", "offline"));
    EXPECT_QUIET(&ann);
    peer_login(&bob, &s, PROTO_TCP, "bob");
    EXPECT(&bob, CAME("g", "bob", "online")); /* he finds it at his login */
    EXPECT(&ann, CAME("g", "bob", "online"));
    say(&bob, 11, "{'chatType':1,'groupId':'g','content':'x','id':'1'}");
    EXPECT(&ann, "{'command':11,<...>");
    peer_login(&phone, &s, PROTO_WS, "carol");
    ANSWERS(ask_for(&s, "POST", "/api/group/join", FORM, "groupId=g&users=carol&users=dave"), 200,
            JOINED("g", "G", 3, 4));
    EXPECT(&phone, CAME("g", "carol", "online"));
    EXPECT(&phone, CAME("g", "dave", "offline"));
    say(&bob, 21, "{'groupId':'g'}");
    EXPECT(&bob, "{'command':11,<...>");
    EXPECT(&bob, "{'code':10000,'command':12,<...>");
    EXPECT(&bob, CAME("g", "carol", "online"));
    EXPECT(&bob, CAME("g", "dave", "offline"));
    EXPECT(&bob, "{'code':10024,'command':22,'group':'g','msg':'forbidden 没有权限'}");
}

TEST(api_group_leave)
{
    struct server s;
    struct peer ann, phone, bob;

    server_start(&s, QUIET, NULL);
    peer_login(&ann, &s, PROTO_TCP, "ann");
    peer_login(&phone, &s, PROTO_WS, "ann");
    peer_login(&bob, &s, PROTO_TCP, "bob");
    post(&s, "/api/group/create", "{'groupId':'g','users':['ann','bob','carol']}");
    for (int i = 0; i < 2; i++)
        CHECK(hear(&bob)); /* himself and carol */
    ANSWERS(post(&s, "/api/group/leave", "{'groupId':'g','users':['ann','carol','nobody']}"), 200,
            DONE_WITH("g", "g", 1, 1));
    EXPECT(&bob, WENT("g", "ann", "online"));
    EXPECT(&bob, WENT("g", "carol", "offline"));
    struct peer *his[] = {&ann, &phone};
    for (int i = 0; i < 2; i++) {
        for (int n = 0; n < 3; n++)
            CHECK(hear(his[i]));
        EXPECT(his[i], WENT("g", "ann", "online"));
        EXPECT_QUIET(his[i]);
    }
    ANSWERS(post(&s, "/api/group/leave", "{'groupId':'g','userId':'ann'}"), 200,
            DONE_WITH("g", "g", 1, 1));
    EXPECT_QUIET(&bob);
    server_restart(&s, SIGKILL, QUIET, NULL);
    ANSWERS(get(&s, "/api/group/users?groupId=g"), 200,
            "{'code':10029,'data':{'groupId':'g','total':1,'users':[" OFF("bob") "]},<...>");
}

TEST(api_group_dismiss)
{
    struct server s;
    struct peer ann;

    server_start(&s, QUIET, NULL);
    peer_login(&ann, &s, PROTO_TCP, "ann");
    post(&s, "/api/group/create", "{'groupId':'g','name':'G','users':['ann','bob']}");
    CHECK(hear(&ann) && hear(&ann));
    api_send(&s, "{'groupId':'g','chatType':1,'content':'x'}");
    CHECK(hear(&ann));
    ANSWERS(post(&s, "/api/group/dismiss", "{'groupId':'g'}"), 200, DONE);
    EXPECT(&ann, WENT("g", "ann", "online"));
    ANSWERS(post(&s, "/api/group/dismiss", "{'groupId':'g'}"), 200, DONE);
    EXPECT_QUIET(&ann);
    server_restart(&s, SIGKILL, QUIET, NULL);
    CHECK_INT(get(&s, "/api/group/info?groupId=g").status, 404);
    ANSWERS(get(&s, "/api/group/list"), 200,
            "{'code':10029,'data':{'groups':[],'total':0},'msg':'ok 操作成功'}");
    ANSWERS(post(&s, "/api/group/join", "{'groupId':'g','userId':'ann'}"), 404, NO_GROUP);
    ANSWERS(api_send(&s, "{'groupId':'g','chatType':1,'content':'x'}"), 404,
            "{'code':10030,'command':12,'msg':'group not found 群组不存在'}");
    ANSWERS(post(&s, "/api/group/create", "{'groupId':'g','users':['carol']}"), 200,
            JOINED("g", "g", 0, 1)); /* without its name, and without those who were in it */
    ANSWERS(api_send(&s, "{'groupId':'g','chatType':1,'content':'x'}"), 200,
            "{'code':10000,'command':12,'data':{'createTime':<time>,'id':'<id>','seq':2},<...>");
    server_restart(&s, SIGKILL, QUIET, NULL);
    ANSWERS(get(&s, "/api/group/users?groupId=g"), 200,
            "{'code':10029,'data':{'groupId':'g','total':1,'users':[" OFF("carol") "]},<...>");
}

TEST(api_group_rename)
{
    struct server s;
    struct peer ann;

    server_start(&s, QUIET, NULL);
    peer_login(&ann, &s, PROTO_TCP, "ann");
    post(&s, "/api/group/create", "{'groupId':'g','userId':'ann'}");
    CHECK(hear(&ann));
    ANSWERS(post(&s, "/api/group/rename", "{'groupId':'g','name':'新名'}"), 200,
            DONE_WITH("g", "新名", 1, 1));
    EXPECT_QUIET(&ann); /* nobody is told */
    say(&ann, 17, "{'userId':'ann','type':1}");
    EXPECT(&ann, "{'code':10006,'command':18,'data':{'friends':[],'groups':[{'groupId':'g',"
                 "'name':'新名','online':1,'users':[]}],<...>");
    server_restart(&s, SIGKILL, QUIET, NULL);
    ANSWERS(get(&s, "/api/group/info?groupId=g&count=0"), 200,
            "{'code':10029,'data':{'groupId':'g','name':'新名','online':0,'total':1,'users':[]},"
            "'msg':'ok 操作成功'}");
}

TEST(api_group_pages)
{
    struct server s;
    struct peer bob;

    server_start(&s, QUIET, NULL);
    peer_login(&bob, &s, PROTO_TCP, "bob");
    post(&s, "/api/group/create", "{'groupId':'g','users':['ann','bob','carol']}");
    CHECK(hear(&bob));
    ANSWERS(get(&s, "/api/group/info?groupId=g"), 200,
            "{'code':10029,'data':{'groupId':'g','name':'g','online':1,'total':3,'users':["
            ON("bob") "," OFF("ann") "," OFF("carol") "]},'msg':'ok 操作成功'}");
    ANSWERS(get(&s, "/api/group/users?groupId=g&type=0"), 200,
            "{'code':10029,'data':{'groupId':'g','total':1,'users':[" ON("bob") "]},<...>");
    ANSWERS(post(&s, "/api/group/users", "{'groupId':'g','type':1,'offset':1,'count':1}"), 200,
            "{'code':10029,'data':{'groupId':'g','total':2,'users':[" OFF("carol") "]},<...>");
    ANSWERS(get(&s, "/api/group/users?groupId=g&type=1&offset=2"), 200,
            "{'code':10029,'data':{'groupId':'g','total':2,'users':[]},<...>");
    ANSWERS(get(&s, "/api/group/users?groupId=g&offset=-1"), 400, INVALID);
    post(&s, "/api/group/create", "{'groupId':'h'}");
    ANSWERS(get(&s, "/api/group/list?offset=1&count=1"), 200,
            "{'code':10029,'data':{'groups':[" GROUP("h", "h", 0, 0) "],'total':2},<...>");
    ANSWERS(get(&s, "/api/group/list?offset=2"), 200,
            "{'code':10029,'data':{'groups':[],'total':2},<...>");
}

/* --- metrics ---------------------------------------------------------------------------------- */

static int64_t
an_hour_ago(void)
{
    return time_wall_ms() - 3600000;
}

/* A clock that is set back makes nothing younger than it was at its start. */
TEST(api_uptime_of_a_clock_set_back)
{
    struct jim *j = jim_new();
    struct listener l = {.jim = j, .fd = -1, .protos = PROTO_BIT(PROTO_HTTP)};
    static const char ask[] = "GET /api/stats HTTP/1.1\r\nHost: localhost\r\n"
                              "Authorization: Bearer key\r\n\r\n";
    char err[200], text[16384];
    int pair[2];

    CHECK_INT(jim_set(j, "jim.store", "off", err, sizeof err), 0);
    CHECK_INT(jim_set(j, "jim.api.key", "key", err, sizeof err), 0);
    j->opt.ports = 0;
    CHECK_INT(jim_start(j), JIM_OK);
    j->chat.now_ms = an_hour_ago;
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    conn_new(&l, pair[1], &(struct sockaddr_storage){.ss_family = AF_UNIX});
    CHECK(write(pair[0], ask, sizeof ask - 1) == sizeof ask - 1);
    loop_wake(j->loop);
    CHECK(jim_turn(j));
    ssize_t n = read(pair[0], text, sizeof text - 1);
    CHECK(n > 0);
    text[n] = '\0';
    const char *at = strstr(text, "\"uptimeMs\":");
    CHECK(at != NULL);
    long long ms = atoll(at + strlen("\"uptimeMs\":"));
    CHECK(ms >= 0 && ms < WAIT_MS);
    close(pair[0]);
    jim_free(j);
}

/* What has been read of a text in Prometheus' format 0.0.4. */
struct exposition {
    char family[80], type[16]; /* of the last TYPE line */
    int families, samples;
    char seen[200][80];        /* families */
    char sample[400][160];     /* names with labels */
    bool helped;               /* HELP of the family to come was there */
    double last_bucket, last_le, count;
};

static bool
name_ok(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isalpha((unsigned char)p[i]) && p[i] != '_' && p[i] != ':' &&
            (i == 0 || !isdigit((unsigned char)p[i])))
            return false;
    return n > 0;
}

/* {name="value",...}; returns behind it. */
static const char *
labels_end(const char *p)
{
    CHECK(*p == '{');
    do {
        size_t n = strcspn(++p, "=");
        CHECK(name_ok(p, n) && p[n] == '=' && p[n + 1] == '"');
        p = strchr(p + n + 2, '"');
        CHECK(p != NULL);
    } while (*++p == ',');
    CHECK(*p == '}');
    return p + 1;
}

static void
take_comment(struct exposition *e, const char *line)
{
    char family[80], word[16];

    if (sscanf(line, "# HELP %79s", family) == 1) {
        CHECK(!e->helped && strlen(line) > strlen("# HELP  x") + strlen(family));
        snprintf(e->family, sizeof e->family, "%s", family);
        for (int i = 0; i < e->families; i++)
            CHECK(strcmp(e->seen[i], family) != 0);
        CHECK(e->families < 200 && name_ok(family, strlen(family)));
        snprintf(e->seen[e->families++], 80, "%s", family);
        e->helped = true;
        return;
    }
    CHECK(sscanf(line, "# TYPE %79s %15s", family, word) == 2);
    CHECK(e->helped && strcmp(family, e->family) == 0);
    CHECK(strcmp(word, "counter") == 0 || strcmp(word, "gauge") == 0 ||
          strcmp(word, "histogram") == 0);
    size_t n = strlen(family);
    CHECK((strcmp(word, "counter") == 0) == (n > 6 && strcmp(family + n - 6, "_total") == 0));
    snprintf(e->type, sizeof e->type, "%s", word);
    e->helped = false;
    e->last_bucket = e->last_le = -1;
}

static void
take_bucket(struct exposition *e, const char *line, double v)
{
    const char *le = strstr(line, "{le=\"");

    CHECK(le != NULL);
    double bound = strncmp(le + 5, "+Inf", 4) == 0 ? 1e300 : strtod(le + 5, NULL);
    CHECK(bound > e->last_le && v >= e->last_bucket); /* cumulative */
    e->last_le = bound;
    e->last_bucket = v;
}

static void
take_sample(struct exposition *e, const char *line)
{
    size_t n = strcspn(line, "{ ");
    const char *p = line[n] == '{' ? labels_end(line + n) : line + n;
    size_t family = strlen(e->family);
    char *end;

    CHECK(name_ok(line, n) && *p == ' ' && !e->helped && e->type[0] != '\0');
    double v = strtod(p + 1, &end);
    CHECK(end > p + 1 && *end == '\0' && v >= 0);
    CHECK(n >= family && strncmp(line, e->family, family) == 0);
    if (strcmp(e->type, "histogram") != 0)
        CHECK_INT(n, family);
    else if (strncmp(line + family, "_bucket", 7) == 0)
        take_bucket(e, line, v);
    else if (strncmp(line + family, "_count", 6) == 0)
        CHECK(e->last_le == 1e300 && e->last_bucket == v);
    else
        CHECK(strncmp(line + family, "_sum ", 5) == 0);
    for (int i = 0; i < e->samples; i++)
        CHECK(strcmp(e->sample[i], line) != 0);
    CHECK(e->samples < 400);
    snprintf(e->sample[e->samples++], 160, "%.*s", (int)(p - line), line);
}

static struct exposition exposition; /* one a test: each test is a process */

static struct exposition *
read_metrics(const struct server *s)
{
    struct reply r = get(s, "/metrics");
    struct str rest = r.body, line;

    CHECK_INT(r.status, 200);
    CHECK_STR(header(&r, "content-type"), "text/plain; version=0.0.4; charset=utf-8");
    CHECK(r.body.n > 0 && r.body.p[r.body.n - 1] == '\n');
    while (str_split(&rest, '\n', &line)) {
        char text[300];
        CHECK(line.n < sizeof text);
        snprintf(text, sizeof text, "%.*s", (int)line.n, line.p);
        printf("%s\n", text);
        if (text[0] == '#')
            take_comment(&exposition, text);
        else if (text[0] != '\0')
            take_sample(&exposition, text);
    }
    return &exposition;
}

/* The value of a sample, by name and labels. */
static double
metric(const struct server *s, const char *name)
{
    struct reply r = get(s, "/metrics");
    char text[160];

    snprintf(text, sizeof text, "\n%s ", name);
    const char *at = memmem(r.body.p, r.body.n, text, strlen(text));
    if (at == NULL)
        test_fail(__FILE__, __LINE__, "no %s", name);
    return strtod(at + strlen(text), NULL);
}

TEST(api_metrics_format)
{
    struct server s;
    struct peer p;

    server_start(&s, NULL);
    peer_open(&p, &s, PROTO_TCP);
    say(&p, 5, "{'userId':'ann'}");
    say(&p, 11, "{'chatType':2,'to':'bob'}");
    for (int i = 0; i < 3; i++)
        CHECK(hear(&p));
    const struct exposition *e = read_metrics(&s);
    CHECK(e->families > 35 && e->samples > 70);
}

TEST(api_metrics_count)
{
    struct server s;
    struct peer ann, ws, bad;

    server_start(&s, QUIET, "-o", "jim.login.policy=terminal", NULL);
    peer_login(&ann, &s, PROTO_TCP, "ann");
    peer_login(&ws, &s, PROTO_WS, "ann");
    CHECK_INT(metric(&s, "jim_connections{protocol=\"tcp\"}"), 1);
    CHECK_INT(metric(&s, "jim_connections{protocol=\"ws\"}"), 1);
    CHECK_INT(metric(&s, "jim_connections{protocol=\"http\"}"), 1); /* this one */
    CHECK_INT(metric(&s, "jim_users_online"), 1);
    say(&ann, 11, "{'chatType':2,'to':'ann'}");
    CHECK(hear(&ann) && hear(&ann) && hear(&ws));
    CHECK_INT(metric(&s, "jim_messages_total"), 1);
    CHECK_INT(metric(&s, "jim_messages_delivered_total"), 2);
    CHECK(metric(&s, "jim_store_wait_seconds_count") >= 1);
    CHECK(metric(&s, "jim_store_wait_seconds_sum") > 0);
    CHECK(metric(&s, "jim_store_records_durable_total") >= 2); /* the user and the message */
    say(&ann, 11, "{'chatType':1,'groupId':'g'}");
    CHECK(hear(&ann));
    CHECK_INT(metric(&s, "jim_messages_refused_total{code=\"10024\"}"), 1);
    peer_connect(&bad, &s);
    put_str(&bad, "\x7f");
    hear_end(&bad);
    peer_open(&bad, &s, PROTO_TCP);
    say(&bad, 5, "{'userId':''}");
    hear_end(&bad);
    CHECK_INT(metric(&s, "jim_login_failures_total"), 1);
    CHECK_INT(metric(&s, "jim_drops_total{reason=\"protocol\"}"), 1);
    peer_login(&bad, &s, PROTO_TCP, "ann");
    hear_end(&ann);
    CHECK_INT(metric(&s, "jim_drops_total{reason=\"displaced\"}"), 1);
    CHECK_INT(metric(&s, "jim_logins_total"), 3);
    get(&s, "/nowhere");
    CHECK_INT(metric(&s, "jim_http_responses_total{status=\"4xx\"}"), 1);
    CHECK_INT(metric(&s, "jim_queued_bytes"), 0);
    CHECK_INT(metric(&s, "jim_store_failed"), 0);
}

/* What waits for a reader who does not read is in the sum, and is gone with him. */
TEST(api_metrics_queue)
{
    struct server s;
    struct peer slow, ann;
    struct buf b = {0};

    server_start(&s, QUIET, FAST, NULL);
    peer_open_slow(&slow, &s, PROTO_TCP);
    say(&slow, 5, "{'userId':'slow'}");
    CHECK(hear(&slow));
    peer_login(&ann, &s, PROTO_TCP, "ann");
    buf_printf(&b, "{'chatType':2,'to':'slow','content':'");
    for (int i = 0; i < 60000; i++)
        buf_add(&b, "x", 1);
    buf_printf(&b, "'}");
    for (int i = 0; i < 15; i++) {
        say(&ann, 11, b.p);
        CHECK(hear(&ann));
    }
    CHECK(server_stat(&s, "queued") > 200000);
    CHECK(server_stat(&s, "queued") <= 1048576);
    peer_abort(&slow);
    while (server_stat(&s, "openTcp") != 1)
        ;
    CHECK_INT(server_stat(&s, "queued"), 0);
    buf_free(&b);
}
