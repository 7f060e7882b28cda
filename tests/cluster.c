/* SPDX-License-Identifier: MIT */
/*
 * cluster.c - what a cluster adds to the running server: several nodes on one redis-server, which
 * each test starts for itself; `make check-cluster` runs it (Debian: redis-server).
 *
 *   nodes        started, and peers on them
 *   messages, presence, groups, questions, the API
 *   Redis away, nodes dead, stops
 *   machines     a cut link between network namespaces
 *   one port     several processes on it
 *   Sentinel, a Redis Cluster, old messages
 *   export and import
 */
#include "engine.h"
#include "ports.h"
#include "rserver.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>
#ifdef __linux__
#include <sched.h>
#endif

/* --- nodes ------------------------------------------------------------------------------------ */

static void
node_start(struct server *s, const struct engine *e, const char *more)
{
    char port[40];

    snprintf(port, sizeof port, "jim.redis.port=%d", e->port);
    server_start(s, "-o", "jim.cluster=on", "-o", port, FAST, "-o", more, NULL);
    node_ready(s);
}

#define ALONE "jim.login.groups="
#define GROUP "jim.login.groups=g:Gang"

/* A group message of p's, heard by him and acknowledged. */
static void
tell(struct peer *p, int n)
{
    sayf(p, CMD_CHAT, "{'chatType':1,'content':'c%d','groupId':'g','id':'i%d'}", n, n);
    do
        CHECK(hear(p));
    while (!heard(p, "\"command\":12"));
    CHECK(heard(p, "\"code\":10000"));
}

/* --- messages --------------------------------------------------------------------------------- */

TEST(cluster_private)
{
    struct engine e = {0};
    struct server s[2];
    struct peer a, b;

    engine_start(&e);
    node_start(&s[0], &e, ALONE);
    node_start(&s[1], &e, ALONE);
    peer_login(&a, &s[0], PROTO_TCP, "a");
    peer_login(&b, &s[1], PROTO_WS, "b");
    say_seq(&a, 7, CMD_CHAT, "{'chatType':2,'content':'hi','id':'1','msgType':0,'to':'b'}");
    EXPECT_SEQ(&a, 7, "{'code':10000,'command':12,'data':{'createTime':<time>,'id':'1','seq':1},"
                      "'msg':'ok 发送成功'}");
    EXPECT(&b, "{'command':11,'data':{'chatType':2,'content':'hi','createTime':<time>,'from':'a',"
               "'id':'1','msgType':0,'seq':1,'to':'b'}}");
    say(&b, CMD_CHAT, "{'chatType':2,'content':'ho','to':'a'}");
    EXPECT(&a, "{'command':11,'data':{'chatType':2,'cmd':11,'content':'ho',"
               "'createTime':<time>,'from':'b','id':'<id>','seq':2,'to':'a'}}");
    EXPECT(&b, "{'code':10000,'command':12,'data':{'createTime':<time>,'id':'<id>','seq':2},"
               "'msg':'ok 发送成功'}");
    EXPECT_QUIET(&a);
    EXPECT_QUIET(&b);
}

static bool
hears_chat(struct peer *p)
{
    do
        if (!peer_ready(p, 1000) || !hear(p))
            return false;
    while (!heard(p, "\"command\":11,"));
    return true;
}

/* Two who write to each other for the first time, at once, on two nodes: each node knows its own
 * message first, whichever it is. (All but those where a node had to wait for a processor.) */
TEST(cluster_first_messages)
{
    struct engine e = {0};
    struct server s[2];
    struct peer p[2];
    int heard_both = 0;

    engine_start(&e);
    for (int i = 0; i < 2; i++)
        node_start(&s[i], &e, ALONE);
    for (int n = 0; n < 20; n++) {
        char name[2][8];
        for (int i = 0; i < 2; i++) {
            snprintf(name[i], sizeof name[i], "%c%d", "ab"[i], n);
            peer_login(&p[i], &s[i], PROTO_TCP, name[i]);
        }
        for (int i = 0; i < 2; i++)
            sayf(&p[i], CMD_CHAT, "{'chatType':2,'content':'hi','to':'%s'}", name[1 - i]);
        heard_both += hears_chat(&p[0]) && hears_chat(&p[1]);
        for (int i = 0; i < 2; i++)
            peer_close(&p[i]);
    }
    CHECK(heard_both >= 10);
}

TEST(cluster_group)
{
    struct engine e = {0};
    struct server s[3];
    struct peer p[3];
    const char *names[] = {"a", "b", "c"};

    engine_start(&e);
    for (int i = 0; i < 3; i++)
        node_start(&s[i], &e, GROUP);
    for (int i = 0; i < 3; i++) {
        peer_open(&p[i], &s[i], i == 1 ? PROTO_WS : PROTO_TCP);
        sayf(&p[i], CMD_LOGIN, "{'userId':'%s'}", names[i]);
        EXPECT(&p[i], "{'code':10007,'command':6,<...>");
        EXPECT(&p[i], "{'code':10011,'command':9,'group':'g',<...>");
        for (int k = 0; k < i; k++) {
            CHECK(hear(&p[k]));
            CHECK(heard(&p[k], "\"command\":9") && heard(&p[k], "\"group\":\"g\""));
        }
    }
    for (int n = 1; n <= 30; n++) {
        sayf(&p[n % 3], CMD_CHAT, "{'chatType':1,'content':'%d','groupId':'g'}", n);
        for (int i = 0; i < 3; i++) {
            CHECK(hear(&p[i]));
            CHECK_INT(number(&p[i], "seq"), n);
            CHECK(heard(&p[i], "\"command\":11"));
        }
        CHECK(hear(&p[n % 3]));
        CHECK(heard(&p[n % 3], "\"code\":10000"));
    }
    peer_close(&p[1]);
    EXPECT(&p[0], "{'command':10,'data':{'group':'g','user':{'nick':'b','status':'offline',"
                  "'userId':'b'}}}");
    EXPECT(&p[2], "{'command':10,<...>");
}

/* A client that sends the same id again, on whatever node, gets the same answer and tells nobody
 * twice. */
TEST(cluster_retry)
{
    struct engine e = {0};
    struct server s[2];
    struct peer a, again, b;

    engine_start(&e);
    node_start(&s[0], &e, ALONE);
    node_start(&s[1], &e, ALONE);
    peer_login(&b, &s[1], PROTO_WS, "b");
    peer_login(&a, &s[0], PROTO_TCP, "a");
    say(&a, CMD_CHAT, "{'chatType':2,'content':'one','id':'x','to':'b'}");
    CHECK(hear(&a));
    CHECK_INT(number(&a, "seq"), 1);
    CHECK(hear(&b));
    peer_close(&a);
    peer_login(&again, &s[1], PROTO_TCP, "a");
    say(&again, CMD_CHAT, "{'chatType':2,'content':'other','id':'x','to':'b'}");
    EXPECT(&again, "{'code':10000,'command':12,'data':{'createTime':<time>,'id':'x','seq':1},"
                   "<...>");
    say(&again, CMD_CHAT, "{'chatType':2,'content':'two','id':'y','to':'b'}");
    CHECK(hear(&again));
    CHECK(hear(&b));
    CHECK_INT(number(&b, "seq"), 2);
}

/* However often a client sends again: the node's count of what is on its way stays right, or it
 * would in the end take the way for full, and refuse everybody everything. */
TEST(cluster_many_retries)
{
    struct engine e = {0};
    struct server s;
    struct peer p;

    engine_start(&e);
    node_start(&s, &e, GROUP);
    peer_open(&p, &s, PROTO_TCP);
    say(&p, CMD_LOGIN, "{'userId':'a'}");
    CHECK(hear(&p) && hear(&p));
    for (int n = 1; n <= 10; n++)
        tell(&p, n);
    for (int n = 0; n < 400; n++) /* what Redis has kept is longer than what was sent: its seq */
        tell(&p, 10);
    CHECK_INT(number(&p, "seq"), 10);
}

/* All connections of a user hear, wherever they are, but the one that has sent. */
TEST(cluster_devices)
{
    struct engine e = {0};
    struct server s[2];
    struct peer a[3], b[2];

    engine_start(&e);
    node_start(&s[0], &e, ALONE);
    node_start(&s[1], &e, ALONE);
    peer_login(&a[0], &s[0], PROTO_TCP, "a");
    peer_login(&a[1], &s[1], PROTO_WS, "a");
    peer_login(&a[2], &s[0], PROTO_WS, "a");
    peer_login(&b[0], &s[0], PROTO_TCP, "b");
    peer_login(&b[1], &s[1], PROTO_TCP, "b");
    say(&a[0], CMD_CHAT, "{'chatType':2,'content':'one','to':'b'}");
    EXPECT(&a[0], "{'code':10000,'command':12,<...>");
    EXPECT(&a[1], "{'command':11,<...>");
    EXPECT(&a[2], "{'command':11,<...>");
    EXPECT(&b[0], "{'command':11,<...>");
    EXPECT(&b[1], "{'command':11,<...>");
    say(&a[1], CMD_CHAT, "{'chatType':2,'content':'note','to':'a'}");
    EXPECT(&a[0], "{'command':11,<...>");
    EXPECT(&a[2], "{'command':11,<...>");
    for (int i = 0; i < 2; i++)
        CHECK(hear(&a[1])); /* the answer, and to oneself it comes everywhere */
    for (int i = 0; i < 3; i++)
        EXPECT_QUIET(&a[i]);
}

/* Offline messages are found on any node; what has been fetched is not fetched again. */
TEST(cluster_offline)
{
    struct engine e = {0};
    struct server s[2];
    struct peer a, b;

    engine_start(&e);
    node_start(&s[0], &e, GROUP);
    node_start(&s[1], &e, GROUP);
    peer_open(&b, &s[0], PROTO_TCP);
    say(&b, CMD_LOGIN, "{'userId':'b'}");
    CHECK(hear(&b) && hear(&b));
    peer_close(&b);
    peer_open(&a, &s[1], PROTO_WS);
    say(&a, CMD_LOGIN, "{'userId':'a'}");
    CHECK(hear(&a) && hear(&a));
    do /* the first may come while b has not quite gone */
        say(&a, CMD_CHAT, "{'chatType':2,'content':'x','to':'b'}");
    while (hear(&a) && !heard(&a, "10001") && (heard(&a, "10000") || hear(&a)));
    say(&a, CMD_CHAT, "{'chatType':1,'content':'y','groupId':'g'}");
    while (hear(&a) && !heard(&a, "\"code\":10000"))
        ;
    peer_open(&b, &s[0], PROTO_TCP);
    say(&b, CMD_LOGIN, "{'userId':'b'}");
    CHECK(hear(&b) && hear(&b));
    say(&b, CMD_MESSAGES, "{'type':0,'userId':'b'}");
    CHECK(hear(&b));
    CHECK(heard(&b, "\"code\":10016") && heard(&b, "\"content\":\"x\"") &&
          heard(&b, "\"groups\":{\"g\":[{") && heard(&b, "\"content\":\"y\""));
    peer_close(&b);
    for (bool left = true; left;) { /* the cursor is written when the connection goes */
        peer_open(&b, &s[1], PROTO_TCP);
        say(&b, CMD_LOGIN, "{'userId':'b'}");
        CHECK(hear(&b) && hear(&b));
        say(&b, CMD_MESSAGES, "{'type':0,'userId':'b'}");
        CHECK(hear(&b));
        left = heard(&b, "\"content\"");
        peer_close(&b);
        poll(NULL, 0, 20);
    }
    peer_open(&b, &s[1], PROTO_TCP);
    say(&b, CMD_LOGIN, "{'userId':'b'}");
    CHECK(hear(&b) && hear(&b));
    say(&b, CMD_MESSAGES, "{'type':0,'userId':'b'}");
    EXPECT(&b, "{'code':10016,'command':20,'data':{'friends':{},'groups':{},'userId':'b'},<...>");
    say(&b, CMD_MESSAGES, "{'type':1,'userId':'b','groupId':'g'}");
    CHECK(hear(&b));
    CHECK(heard(&b, "\"content\":\"y\"") && heard(&b, "\"code\":10018"));
    say(&b, CMD_MESSAGES, "{'type':1,'userId':'b','groupId':'other'}");
    EXPECT(&b, "{'code':10024,'command':20,<...>");
}

/* --- presence, groups, questions -------------------------------------------------------------- */

TEST(cluster_policy)
{
    struct engine e = {0};
    struct server s[2];
    struct peer one, two;
    char port[40];

    engine_start(&e);
    snprintf(port, sizeof port, "jim.redis.port=%d", e.port);
    for (int i = 0; i < 2; i++) {
        server_start(&s[i], QUIET, "-o", "jim.cluster=on", "-o", port, "-o",
                     "jim.login.policy=one", NULL);
        node_ready(&s[i]);
    }
    peer_login(&one, &s[0], PROTO_TCP, "a");
    peer_login(&two, &s[1], PROTO_WS, "a");
    EXPECT(&one, "{'code':10026,'command':14,<...>");
    EXPECT_END(&one);
    EXPECT_QUIET(&two);
}

/* Members join, leave and are let in from anywhere; everybody is told once. */
TEST(cluster_membership)
{
    struct engine e = {0};
    struct server s[2];
    struct peer a, b;
    struct reply r;

    engine_start(&e);
    node_start(&s[0], &e, ALONE);
    node_start(&s[1], &e, ALONE);
    peer_login(&a, &s[0], PROTO_TCP, "a");
    peer_login(&b, &s[1], PROTO_TCP, "b");
    say(&a, CMD_JOIN, "{'groupId':'g','name':'Gang'}");
    EXPECT(&a, "{'code':10011,'command':8,<...>");
    EXPECT(&a, "{'code':10011,'command':9,'group':'g',<...>");
    r = ask_for(&s[0], "POST", "/api/group/join?groupId=g&users=b", "", NULL);
    CHECK_INT(r.status, 200);
    CHECK_LIKE(r.body, "{'code':10011,'data':{'groupId':'g','name':'Gang','online':<...>");
    EXPECT(&b, "{'code':10011,'command':9,'group':'g',<...>");
    EXPECT(&a, "{'code':10011,'command':9,'group':'g',<...>");
    do { /* b's node registers him for it when it hears of it */
        r = ask_for(&s[1], "GET", "/api/group/info?groupId=g", "", NULL);
    } while (memmem(r.body.p, r.body.n, "\"online\":2", 10) == NULL);
    say(&b, CMD_CHAT, "{'chatType':1,'content':'x','groupId':'g'}");
    EXPECT(&a, "{'command':11,<...>");
    EXPECT(&b, "{'command':11,<...>");
    EXPECT(&b, "{'code':10000,'command':12,<...>");
    say(&a, CMD_USER, "{'userId':'a','type':2}");
    CHECK(hear(&a));
    CHECK(heard(&a, "\"groups\":[{\"groupId\":\"g\",\"name\":\"Gang\",\"online\":2,\"users\":[{"));
    CHECK(heard(&a, "\"status\":\"online\",\"terminal\":\"tcp\",\"userId\":\"b\""));
    say(&b, CMD_LEAVE, "{'groupId':'g'}");
    EXPECT(&b, "{'code':10029,'command':22,<...>");
    EXPECT(&a, "{'command':10,<...>");
    say(&b, CMD_CHAT, "{'chatType':1,'content':'x','groupId':'g'}");
    EXPECT(&b, "{'code':10024,'command':12,<...>");
    r = ask_for(&s[1], "POST", "/api/group/dismiss?groupId=g", "", NULL);
    CHECK_INT(r.status, 200);
    EXPECT(&a, "{'command':10,<...>");
    say(&a, CMD_CHAT, "{'chatType':1,'content':'x','groupId':'g'}");
    CHECK(hear(&a));
    CHECK(heard(&a, "\"command\":12") && !heard(&a, "10000"));
}

TEST(cluster_lists)
{
    struct engine e = {0};
    struct server s[2];
    struct peer p[3];
    struct reply r;

    engine_start(&e);
    node_start(&s[0], &e, GROUP);
    node_start(&s[1], &e, GROUP);
    for (int i = 0; i < 3; i++) {
        peer_open(&p[i], &s[i % 2], PROTO_WS);
        sayf(&p[i], CMD_LOGIN, "{'userId':'u%d'}", i);
        CHECK(hear(&p[i]));
    }
    peer_close(&p[2]);
    do {
        r = ask_for(&s[1], "GET", "/api/user/list?type=1", "", NULL);
        CHECK_INT(r.status, 200);
    } while (memmem(r.body.p, r.body.n, "\"total\":1", 9) == NULL);
    CHECK(memmem(r.body.p, r.body.n, "\"userId\":\"u2\"", 13) != NULL);
    r = ask_for(&s[1], "GET", "/api/user/list?type=0", "", NULL);
    CHECK(memmem(r.body.p, r.body.n, "\"total\":2", 9) != NULL);
    for (int i = 0; i < 2; i++) { /* each node counts its own */
        CHECK_INT(server_stat(&s[i], "online"), 1);
        CHECK_INT(server_stat(&s[i], "users"), 1);
    }
    r = ask_for(&s[1], "GET", "/api/user/list?count=1&offset=2", "", NULL);
    CHECK(memmem(r.body.p, r.body.n, "\"userId\":\"u2\"", 13) != NULL);
    r = ask_for(&s[0], "GET", "/api/user/online?userid=u1", "", NULL);
    CHECK_LIKE(r.body, "{'code':10019,<...>");
    r = ask_for(&s[0], "GET", "/api/user/online?userid=u2", "", NULL);
    CHECK_LIKE(r.body, "{'code':10001,<...>");
    r = ask_for(&s[0], "GET", "/api/group/list", "", NULL);
    CHECK_LIKE(r.body, "{'code':10029,'data':{'groups':[{'groupId':'g','name':'Gang','online':2,"
                       "'total':3}],'total':1},<...>");
    r = ask_for(&s[0], "GET", "/api/group/users?groupId=g&type=1", "", NULL);
    CHECK_LIKE(r.body, "{'code':10029,'data':{'groupId':'g','total':1,'users':[{'nick':'u2',"
                       "'status':'offline','userId':'u2'}]},<...>");
    r = ask_for(&s[0], "GET", "/api/user/info?userid=nobody", "", NULL);
    CHECK_INT(r.status, 404);
    r = ask_for(&s[0], "POST", "/api/message/broadcast?content=all", "", NULL);
    CHECK_LIKE(r.body, "{'code':10000,'command':12,'data':{'sent':2},<...>");
    r = ask_for(&s[0], "GET", "/api/cluster", "", NULL);
    CHECK(memmem(r.body.p, r.body.n, "\"redis\":\"up\"", 12) != NULL);
    r = ask_for(&s[0], "GET", "/metrics", "", NULL);
    CHECK(memmem(r.body.p, r.body.n, "\njim_cluster_up 1\n", 18) != NULL);
    r = ask_for(&s[0], "POST", "/api/user/close?userId=u1", "", NULL);
    CHECK_INT(r.status, 200);
    hear_end(&p[1]);
}

/* --- Redis away, nodes dead, stops ------------------------------------------------------------ */

/* While Redis is away requests are refused, connections stay; afterwards all is as it was, and what
 * had been acknowledged is there. */
TEST(cluster_away)
{
    struct engine e = {0};
    struct server s[2];
    struct peer a, b;
    struct reply r;

    engine_start(&e);
    node_start(&s[0], &e, ALONE);
    node_start(&s[1], &e, ALONE);
    peer_login(&a, &s[0], PROTO_TCP, "a");
    peer_login(&b, &s[1], PROTO_WS, "b");
    say(&a, CMD_CHAT, "{'chatType':2,'content':'one','id':'1','to':'b'}");
    EXPECT(&a, "{'code':10000,'command':12,<...>");
    EXPECT(&b, "{'command':11,<...>");
    engine_end(&e, SIGKILL);
    do {
        say(&a, CMD_CHAT, "{'chatType':2,'content':'two','id':'2','to':'b'}");
        CHECK(hear(&a));
        CHECK(heard(&a, "\"code\":10027"));
        say(&a, CMD_MESSAGES, "{'type':0,'userId':'a'}");
        CHECK(hear(&a));
        r = ask_for(&s[0], "GET", "/healthz", "", NULL);
    } while (r.status != 503 || !heard(&a, "\"code\":10027"));
    engine_run(&e);
    node_ready(&s[0]);
    node_ready(&s[1]);
    say(&a, CMD_CHAT, "{'chatType':2,'content':'two','id':'2','to':'b'}");
    EXPECT(&a, "{'code':10000,'command':12,'data':{'createTime':<time>,'id':'2','seq':2},<...>");
    EXPECT(&b, "{'command':11,'data':{'chatType':2,'content':'two',<...>");
    r = ask_for(&s[0], "GET", "/api/message/history?userId=a&fromUserId=b", "", NULL);
    CHECK(memmem(r.body.p, r.body.n, "\"content\":\"one\"", 15) != NULL);
}

static long
metric(const struct server *s, const char *name)
{
    struct reply r = ask_for(s, "GET", "/metrics", "", NULL);
    char key[64];
    int n = snprintf(key, sizeof key, "\njim_cluster_%s ", name);
    const char *at = memmem(r.body.p, r.body.n, key, (size_t)n);

    CHECK(at != NULL);
    return atol(at + n);
}

/* Redis does not keep up: who waits for an answer is not read from when much is on its way; and all
 * are answered in the end, in order. */
TEST(cluster_slow)
{
    struct engine e = {0};
    struct server s;
    struct peer a, b;
    char port[40];

    engine_start(&e);
    snprintf(port, sizeof port, "jim.redis.port=%d", e.port);
    server_start(&s, "-o", "jim.cluster=on", "-o", port, FAST, "-o", "jim.redis.timeout=30s", "-o",
                 ALONE, NULL);
    node_ready(&s);
    peer_login(&a, &s, PROTO_TCP, "a");
    peer_login(&b, &s, PROTO_TCP, "b");
    CHECK(kill(e.pid, SIGSTOP) == 0);
    say(&a, CMD_CHAT, "{'chatType':2,'content':'x','to':'b'}");
    poll(NULL, 0, 600); /* an answer that takes so long makes it slow */
    long before = metric(&s, "commands_total"), given = 0, last;
    for (int n = 0; n < 1000; n++)
        say(&a, CMD_CHAT, "{'chatType':2,'content':'x','to':'b'}");
    do { /* until no more of them are given */
        last = given;
        poll(NULL, 0, 200);
        given = metric(&s, "commands_total") - before;
    } while (given < 256 || given - last > 50);
    CHECK(given < 5 * 256 + 200); /* leases and looks; it would be 5000 */
    CHECK(kill(e.pid, SIGCONT) == 0);
    for (int n = 1; n <= 1001; n++) {
        CHECK(hear(&a));
        CHECK(heard(&a, "\"code\":10000"));
        CHECK_INT(number(&a, "seq"), n);
        CHECK(hear(&b));
        CHECK_INT(number(&b, "seq"), n);
    }
}

/* A node that is killed: its users are offline within 15 s, their groups are told. */
TEST(cluster_dead)
{
    struct engine e = {0};
    struct server s[2];
    struct peer a, b;
    struct reply r;
    int64_t begun;

    engine_start(&e);
    node_start(&s[0], &e, GROUP);
    node_start(&s[1], &e, GROUP);
    peer_open(&a, &s[0], PROTO_TCP);
    say(&a, CMD_LOGIN, "{'userId':'a'}");
    CHECK(hear(&a) && hear(&a));
    peer_open(&b, &s[1], PROTO_TCP);
    say(&b, CMD_LOGIN, "{'userId':'b'}");
    CHECK(hear(&b) && hear(&b) && hear(&a));
    begun = time_mono_ms();
    CHECK_INT(server_end(&s[1], SIGKILL), 128 + SIGKILL);
    do {
        r = ask_for(&s[0], "GET", "/api/user/online?userid=b", "", NULL);
        poll(NULL, 0, 100);
    } while (memmem(r.body.p, r.body.n, "10019", 5) != NULL);
    test_note("a dead node's users are offline after %lld ms",
              (long long)(time_mono_ms() - begun));
    EXPECT(&a, "{'command':10,'data':{'group':'g','user':{'nick':'b','status':'offline',"
               "'userId':'b'}}}");
}

/* A cable: a process that carries bytes between a port of its own and Redis. Stopped, it is cut:
 * what is sent into it stays there, and nobody is told. */
static pid_t
cable(const struct engine *e, int *port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                             .sin_port = htons((uint16_t)e->port)}, own = to;
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    struct pollfd f[64];
    nfds_t n = 1;
    static char bytes[65536];

    *port = free_port();
    own.sin_port = htons((uint16_t)*port);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    CHECK(bind(listener, (struct sockaddr *)&own, sizeof own) == 0 && listen(listener, 16) == 0);
    pid_t pid = fork();
    if (pid != 0)
        return close(listener), pid;
    f[0] = (struct pollfd){.fd = listener, .events = POLLIN};
    while (poll(f, n, -1) > 0) { /* the two ends of a connection stand side by side */
        for (nfds_t i = 1; i < n; i++) {
            nfds_t other = i % 2 == 1 ? i + 1 : i - 1;
            if (f[i].fd < 0 || f[i].revents == 0)
                continue;
            ssize_t got = read(f[i].fd, bytes, sizeof bytes);
            if (got > 0 && send(f[other].fd, bytes, (size_t)got, MSG_NOSIGNAL) == got)
                continue;
            close(f[i].fd);
            close(f[other].fd);
            f[i].fd = f[other].fd = -1;
        }
        if (f[0].revents == 0 || n + 2 > 64)
            continue;
        int a = accept(listener, NULL, NULL), b = socket(AF_INET, SOCK_STREAM, 0);
        if (a < 0 || b < 0 || connect(b, (struct sockaddr *)&to, sizeof to) != 0)
            _exit(1);
        f[n++] = (struct pollfd){.fd = a, .events = POLLIN};
        f[n++] = (struct pollfd){.fd = b, .events = POLLIN};
    }
    _exit(0);
}

/* A node whose cable to Redis is cut: it refuses, its users count as offline; when it is whole
 * again they are there, and hear what was said meanwhile. */
TEST(cluster_cut)
{
    struct engine e = {0}, through = {0};
    struct server s[2];
    struct peer a, b;
    struct reply r;

    engine_start(&e);
    pid_t pid = cable(&e, &through.port);
    node_start(&s[0], &e, GROUP);
    node_start(&s[1], &through, GROUP);
    peer_open(&a, &s[0], PROTO_TCP);
    say(&a, CMD_LOGIN, "{'userId':'a'}");
    CHECK(hear(&a) && hear(&a));
    peer_open(&b, &s[1], PROTO_TCP);
    say(&b, CMD_LOGIN, "{'userId':'b'}");
    CHECK(hear(&b) && hear(&b) && hear(&a));
    CHECK(kill(pid, SIGSTOP) == 0);
    say(&b, CMD_CHAT, "{'chatType':1,'content':'lost?','groupId':'g','id':'once'}");
    EXPECT(&b, "{'code':10027,'command':12,<...>");
    CHECK_INT(ask_for(&s[1], "GET", "/healthz", "", NULL).status, 503);
    for (int64_t end = time_mono_ms() + WAIT_MS;;) {
        r = ask_for(&s[0], "GET", "/api/user/online?userid=b", "", NULL);
        if (memmem(r.body.p, r.body.n, "10001", 5) != NULL)
            break;
        CHECK(time_mono_ms() < end);
        poll(NULL, 0, 100);
    }
    EXPECT(&a, "{'command':10,<...>");
    say(&a, CMD_CHAT, "{'chatType':1,'content':'meanwhile','groupId':'g'}");
    EXPECT(&a, "{'command':11,<...>");
    EXPECT(&a, "{'code':10000,'command':12,<...>");
    CHECK(kill(pid, SIGCONT) == 0);
    for (bool told = false; !told;) { /* in whichever order they come */
        CHECK(hear(&b));
        told = heard(&b, "meanwhile");
    }
    node_ready(&s[1]);
    do {
        r = ask_for(&s[0], "GET", "/api/user/online?userid=b", "", NULL);
        poll(NULL, 0, 50);
    } while (memmem(r.body.p, r.body.n, "10019", 5) == NULL);
    say(&b, CMD_CHAT, "{'chatType':1,'content':'lost?','groupId':'g','id':'once'}");
    do
        CHECK(hear(&b));
    while (!heard(&b, "\"command\":12"));
    CHECK(heard(&b, "\"code\":10000"));
    r = ask_for(&s[0], "GET", "/api/message/history?groupId=g", "", NULL);
    const char *first = memmem(r.body.p, r.body.n, "lost?", 5);
    CHECK(first != NULL && memmem(first + 5, r.body.n - (size_t)(first + 5 - r.body.p), "lost?",
                                  5) == NULL);
}

/* A clean stop: clients are told to go elsewhere, and their users are offline at once. */
TEST(cluster_stop)
{
    struct engine e = {0};
    struct server s[2];
    struct peer a, b;
    struct reply r;

    engine_start(&e);
    node_start(&s[0], &e, GROUP);
    node_start(&s[1], &e, GROUP);
    peer_open(&a, &s[0], PROTO_TCP);
    say(&a, CMD_LOGIN, "{'userId':'a'}");
    CHECK(hear(&a) && hear(&a));
    peer_open(&b, &s[1], PROTO_TCP);
    say(&b, CMD_LOGIN, "{'userId':'b'}");
    CHECK(hear(&b) && hear(&b) && hear(&a));
    CHECK(kill(s[1].pid, SIGTERM) == 0);
    EXPECT(&b, "{'code':10028,'command':14,'msg':'server shutting down 服务器正在关闭',"
               "'retryAfter':<...>");
    EXPECT_END(&b);
    peer_close(&b);
    CHECK_INT(server_end(&s[1], 0), 0);
    r = ask_for(&s[0], "GET", "/api/user/online?userid=b", "", NULL);
    CHECK_LIKE(r.body, "{'code':10001,<...>");
    EXPECT(&a, "{'command':10,<...>");
}

/* --- machines --------------------------------------------------------------------------------- */

#ifdef __linux__
/*
 * Three machines, as far as the network goes: namespaces, the first with Redis and a bridge,
 * 10.9.0.1, the others with a link to it. A socket belongs to the namespace it was made in, and a
 * process to the one of its parent: so the test goes to where it starts something or connects.
 */
struct machines {
    int ns[3];
};

static void
go(const struct machines *m, int i)
{
    CHECK(setns(m->ns[i], CLONE_NEWNET) == 0);
}

static void
shell(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void
shell(const char *format, ...)
{
    char line[512];
    va_list ap;

    va_start(ap, format);
    vsnprintf(line, sizeof line, format, ap);
    va_end(ap);
    if (system(line) != 0)
        test_fail(__FILE__, __LINE__, "failed: %s", line);
}

/* False: this kernel or user may not have any. */
static bool
machines_made(struct machines *m)
{
    for (int i = 0; i < 3; i++) {
        if (unshare(CLONE_NEWNET) != 0 &&
            (i > 0 || errno != EPERM || unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0)) {
            test_note("network namespaces cannot be had: %s; the cut link is not tested",
                      strerror(errno));
            return false;
        }
        m->ns[i] = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
        CHECK(m->ns[i] >= 0);
        if (system("ip link set lo up") != 0) {
            test_note("ip does not work here; the cut link is not tested");
            return false;
        }
    }
    go(m, 0);
    if (system("ip link add bridge type bridge && ip addr add 10.9.0.1/24 dev bridge && "
               "ip link set bridge up") != 0) {
        test_note("a bridge cannot be had; the cut link is not tested");
        return false;
    }
    for (int i = 1; i < 3; i++) {
        go(m, 0);
        shell("ip link add link%d type veth peer name up%d && ip link set link%d master bridge && "
              "ip link set link%d up && ip link set up%d netns /proc/%ld/fd/%d", i, i, i, i, i,
              (long)getpid(), m->ns[i]);
        go(m, i);
        shell("ip addr add 10.9.0.%d/24 dev up%d && ip link set up%d up", i + 1, i, i);
    }
    return true;
}

/* Is a user online, as a node says? */
static bool
online(const struct server *s, const char *user)
{
    char target[64];

    snprintf(target, sizeof target, "/api/user/online?userid=%s", user);
    struct reply r = ask_for(s, "GET", target, "", NULL);
    return memmem(r.body.p, r.body.n, "10019", 5) != NULL;
}

static void
machines_run(void)
{
    struct engine e = {.bind = "0.0.0.0"};
    struct machines m;
    struct server s[2];
    struct peer a, b;

    if (!machines_made(&m))
        return;
    go(&m, 0);
    engine_start(&e);
    for (int i = 0; i < 2; i++) {
        char port[40];
        snprintf(port, sizeof port, "jim.redis.port=%d", e.port);
        go(&m, i + 1);
        server_start(&s[i], "-o", "jim.cluster=on", "-o", "jim.redis.host=10.9.0.1", "-o", port,
                     FAST, "-o", GROUP, NULL);
        node_ready(&s[i]);
    }
    peer_open(&b, &s[1], PROTO_WS);
    say(&b, CMD_LOGIN, "{'userId':'b'}");
    CHECK(hear(&b) && hear(&b));
    go(&m, 1);
    peer_open(&a, &s[0], PROTO_TCP);
    say(&a, CMD_LOGIN, "{'userId':'a'}");
    CHECK(hear(&a) && hear(&a) && hear(&b));
    for (int n = 1; n <= 10; n++)
        tell(&b, n);
    for (int n = 1; n <= 10; n++) {
        CHECK(hear(&a));
        CHECK_INT(number(&a, "seq"), n);
    }
    go(&m, 0);
    shell("ip link set link2 down");
    say(&b, CMD_CHAT, "{'chatType':1,'content':'c31','groupId':'g','id':'i31'}");
    EXPECT(&b, "{'code':10027,'command':12,<...>");
    go(&m, 2);
    CHECK_INT(ask_for(&s[1], "GET", "/healthz", "", NULL).status, 503);
    int64_t cut = time_mono_ms();
    go(&m, 1);
    while (online(&s[0], "b")) {
        CHECK(time_mono_ms() < cut + WAIT_MS);
        poll(NULL, 0, 100);
    }
    EXPECT(&a, "{'command':10,'data':{'group':'g',<...>");
    EXPECT_QUIET(&b); /* connected as before */
    for (int n = 11; n <= 30; n++)
        tell(&a, n);
    go(&m, 0);
    shell("ip link set link2 up");
    int64_t back = time_mono_ms();
    for (int n = 11; n <= 30;) {
        CHECK(hear(&b));
        if (heard(&b, "\"command\":11"))
            CHECK_INT(number(&b, "seq"), n++);
    }
    go(&m, 1);
    while (!online(&s[0], "b"))
        poll(NULL, 0, 50);
    test_note("a link was cut: users offline and 20 messages after %lld ms; all heard and online "
              "%lld ms after it was back", (long long)(back - cut),
              (long long)(time_mono_ms() - back));
    tell(&b, 31);
    struct reply r = ask_for(&s[0], "GET", "/api/message/history?groupId=g&count=100", "", NULL);
    const char *at = r.body.p, *end = r.body.p + r.body.n;
    for (int n = 1; n <= 31; n++) { /* each once: behind the one before, and no more of them */
        char id[16];
        int k = snprintf(id, sizeof id, "\"id\":\"i%d\"", n);
        at = memmem(at, (size_t)(end - at), id, (size_t)k);
        if (at == NULL)
            test_fail(__FILE__, __LINE__, "message %d is not there", n);
        at += k;
    }
    CHECK(memmem(at, (size_t)(end - at), "\"id\"", 4) == NULL);
    CHECK(memmem(r.body.p, r.body.n, "\"seq\":31}", 9) != NULL);
}
#endif

/* The link of one node is cut. Its clients stay connected and are refused, the others see its user
 * go; when the link is back he is there again, and has all that was acknowledged, in order. */
TEST(cluster_machines)
{
#ifdef __linux__
    machines_run();
#else
    test_note("there are no network namespaces here; the cut link is not tested");
#endif
}

/* --- one port --------------------------------------------------------------------------------- */

#define SHARING 24 /* peers: that all get to one of two is a chance of 1 in 8 million */

/* Connections that the nodes say they have users on, when there are `all` of them. */
static void
shared_out(const struct server *s, int all, int *nodes, int *most)
{
    for (int64_t end = time_mono_ms() + WAIT_MS;;) {
        struct reply r = ask_for(s, "GET", "/api/cluster", "", NULL);
        const char *at = r.body.p, *stop = r.body.p + r.body.n;
        int sum = 0;
        *nodes = *most = 0;
        while ((at = memmem(at, (size_t)(stop - at), "\"users\":", 8)) != NULL) {
            int n = atoi(at += 8);
            sum += n;
            *most = n > *most ? n : *most;
            ++*nodes;
        }
        if (sum == all)
            return;
        CHECK(time_mono_ms() < end);
        poll(NULL, 0, 100);
    }
}

/* Two processes on one port, as docs/cluster.md starts them: the kernel shares connections out,
 * users of both hear each other, and when one stops the other goes on. */
TEST(cluster_one_port)
{
    struct engine e = {0};
    struct server s[2];
    struct peer p[SHARING];
    char redis[40], port[16];
    int nodes, most, moved = 0;
    const char *args[] = {"-p", port, "-o", "jim.cluster=on", "-o", "jim.reuseport=on", "-o", redis,
                          QUIET, "-o", "jim.drain=1s", NULL};

    engine_start(&e);
    snprintf(redis, sizeof redis, "jim.redis.port=%d", e.port);
    snprintf(port, sizeof port, "%d", free_port());
    for (int i = 0; i < 2; i++)
        server_start_with(&s[i], 0, true, args);
    CHECK_INT(s[0].port[0], s[1].port[0]);
    for (int i = 0; i < 8; i++) /* whichever it reaches */
        node_ready(&s[0]);
    for (int i = 0; i < SHARING; i++) {
        char name[8];
        snprintf(name, sizeof name, "u%d", i);
        peer_login(&p[i], &s[0], i % 2 == 0 ? PROTO_TCP : PROTO_WS, name);
    }
    shared_out(&s[0], SHARING, &nodes, &most);
    CHECK_INT(nodes, 2);
    CHECK(most < SHARING);
    test_note("of %d connections to one port the two processes have %d and %d", SHARING, most,
              SHARING - most);
    for (int i = 1; i < SHARING; i++) {
        sayf(&p[0], CMD_CHAT, "{'chatType':2,'content':'x','to':'u%d'}", i);
        EXPECT(&p[0], "{'code':10000,'command':12,<...>");
        EXPECT(&p[i], "{'command':11,<...>");
    }
    CHECK_INT(kill(s[0].pid, SIGTERM), 0);
    CHECK_INT(server_end(&s[0], 0), 0);
    for (int i = 0; i < SHARING; i++) {
        char name[8];
        if (!peer_ready(&p[i], 0))
            continue;
        EXPECT(&p[i], "{'code':10028,'command':14,<...>");
        hear_end(&p[i]);
        peer_close(&p[i]);
        snprintf(name, sizeof name, "u%d", i);
        peer_login(&p[i], &s[1], PROTO_TCP, name);
        moved++;
    }
    CHECK(moved == most || moved == SHARING - most);
    for (int i = 1; i < SHARING; i++) {
        sayf(&p[i], CMD_CHAT, "{'chatType':2,'content':'y','to':'u0'}");
        EXPECT(&p[i], "{'code':10000,'command':12,<...>");
        EXPECT(&p[0], "{'command':11,<...>");
    }
}

/* --- Sentinel --------------------------------------------------------------------------------- */

/* The master dies, the Sentinels choose another, the nodes find it; what two servers had before the
 * ack is there. */
TEST(cluster_sentinel)
{
    struct rserver r[3] = {{0}}, w[3] = {{0}};
    struct server s[2];
    struct peer a, b;
    char port[16], at[128];
    int refused = 0;

    test_begins();
    rserver_start(&r[0], "r0", NULL);
    snprintf(port, sizeof port, "%d", r[0].port);
    for (int i = 1; i < 3; i++)
        rserver_start(&r[i], i == 1 ? "r1" : "r2", "--replicaof", "127.0.0.1", port, NULL);
    for (int i = 1; i < 3; i++)
        WAIT_FOR(cli_says(&r[i], "master_link_status:up", "INFO", "replication"));
    for (int i = 0; i < 3; i++)
        sentinel_start(&w[i], i, &r[0]);
    for (int i = 0; i < 3; i++)
        WAIT_FOR(cli_says(&w[i], "slaves=2,sentinels=3", "INFO", "sentinel"));
    snprintf(at, sizeof at, "jim.redis.sentinel=mine@127.0.0.1:%d,127.0.0.1:%d", w[0].port,
             w[1].port);
    for (int i = 0; i < 2; i++) {
        server_start(&s[i], "-o", "jim.cluster=on", "-o", at, FAST, "-o", "jim.redis.wait=1", "-o",
                     ALONE, NULL);
        node_ready(&s[i]);
    }
    peer_login(&a, &s[0], PROTO_TCP, "a");
    peer_login(&b, &s[1], PROTO_WS, "b");
    for (int n = 1; n <= 20; n++) {
        sayf(&a, CMD_CHAT, "{'chatType':2,'content':'x','id':'%d','to':'b'}", n);
        EXPECT(&a, "{'code':10000,'command':12,<...>");
        CHECK_INT(number(&a, "seq"), n);
    }
    rserver_kill(&r[0]);
    for (int64_t end = time_mono_ms() + LONG_MS;; refused++) {
        say(&a, CMD_CHAT, "{'chatType':2,'content':'x','id':'21','to':'b'}");
        CHECK(hear(&a));
        if (heard(&a, "\"code\":10000"))
            break;
        CHECK(heard(&a, "\"code\":10027") && time_mono_ms() < end);
        poll(NULL, 0, 50);
    }
    CHECK(refused > 0);
    CHECK_INT(number(&a, "seq"), 21);
    CHECK(cli_says(&r[1], "role:master", "INFO", "replication") ||
          cli_says(&r[2], "role:master", "INFO", "replication"));
    for (int n = 1; n <= 21; n++) {
        CHECK(hear(&b));
        CHECK_INT(number(&b, "seq"), n);
    }
    node_ready(&s[1]);
    say(&b, CMD_CHAT, "{'chatType':2,'content':'y','to':'a'}");
    EXPECT(&b, "{'code':10000,'command':12,<...>");
    EXPECT(&a, "{'command':11,<...>");
}

/* --- a Redis Cluster -------------------------------------------------------------------------- */

#define MASTERS 3

/* Masters without replicas, and a node on them which logs to `log`. Returns who has its leases. */
static struct rserver *
masters_start(struct rserver *r, struct server *s)
{
    const char *argv[10] = {"redis-cli", "--cluster", "create"};
    char at[MASTERS][32], nodes[80];
    struct rserver *owner = NULL;
    struct buf out = {0};

    test_begins();
    for (int i = 0; i < MASTERS; i++) {
        char dir[8];
        snprintf(dir, sizeof dir, "n%d", i);
        rserver_start(&r[i], dir, "--cluster-enabled", "yes", "--cluster-node-timeout",
                      "20000", NULL);
        snprintf(at[i], sizeof at[i], "127.0.0.1:%d", r[i].port);
        argv[3 + i] = at[i];
    }
    argv[3 + MASTERS] = "--cluster-yes";
    if (run_to_end(&out, argv) != 0)
        test_fail(__FILE__, __LINE__, "%s", out.p);
    buf_free(&out);
    for (int i = 0; i < MASTERS; i++)
        WAIT_FOR(cli_says(&r[i], "cluster_state:ok", "CLUSTER", "INFO"));
    snprintf(nodes, sizeof nodes, "jim.redis.nodes=%s,%s", at[0], at[1]);
    server_start(s, "-o", "jim.cluster=on", "-o", nodes, FAST, "-o", ALONE, "-o",
                 "jim.log.file=log", NULL);
    node_ready(s);
    for (int i = 0; i < MASTERS; i++)
        if (!cli_says(&r[i], "MOVED", "EXISTS", "jim:{s:nodes}"))
            owner = &r[i];
    CHECK(owner != NULL);
    return owner;
}

/* DELSLOTS or ADDSLOTS: tell him that the leases' slot is not his, or is. */
static void
set_slot(const struct rserver *owner, const char *what)
{
    char slot[8];

    snprintf(slot, sizeof slot, "%d", redis_slot(STR("jim:{s:nodes}")));
    struct buf out = redis_cli(owner, "CLUSTER", what, slot, NULL);
    CHECK(strncmp(out.p, "OK", 2) == 0);
    buf_free(&out);
}

/* Forty messages between as many users; how many were taken: the others are refused with 10027. */
static int
send_some(const struct server *s)
{
    int taken = 0;

    for (int i = 0; i < 40; i++) {
        char body[80];
        snprintf(body, sizeof body, "{\"chatType\":2,\"from\":\"f%d\",\"to\":\"t%d\"}", i, i);
        struct reply r = ask_for(s, "POST", "/api/message/send", "", body);
        taken += memmem(r.body.p, r.body.n, "\"code\":10001", 12) != NULL;
        CHECK(memmem(r.body.p, r.body.n, "\"code\":10001", 12) != NULL ||
              memmem(r.body.p, r.body.n, "\"code\":10027", 12) != NULL);
    }
    return taken;
}

/* Forty users have written to somebody, who is not the owner's; he logs in. */
static void
messages_wait(struct peer *p, const struct server *s, const struct rserver *owner, char name[16])
{
    char text[96];
    int n = 0;

    do {
        snprintf(name, 16, "b%d", n++);
        snprintf(text, sizeof text, "jim:{u:%s}", name);
    } while (!cli_says(owner, "MOVED", "EXISTS", text));
    for (int i = 0; i < 40; i++) {
        snprintf(text, sizeof text, "{\"chatType\":2,\"content\":\"x\",\"from\":\"f%d\","
                 "\"to\":\"%s\"}", i, name);
        CHECK_INT(ask_for(s, "POST", "/api/message/send", "", text).status, 200);
    }
    peer_login(p, s, PROTO_TCP, name);
}

static int
lines(void)
{
    struct buf b = read_whole("log");
    int n = 0;

    for (size_t i = 0; i < b.len; i++)
        n += b.p[i] == '\n';
    buf_free(&b);
    return n;
}

/* One master holds the cluster to be down, the others do not: what is with those goes on, the rest
 * is refused, /healthz says so, and the log says it once. */
TEST(cluster_part_away)
{
    struct rserver r[MASTERS] = {{0}}, *owner;
    struct server s;
    struct peer p;
    char name[16];

    owner = masters_start(r, &s);
    CHECK_INT(send_some(&s), 40);
    messages_wait(&p, &s, owner, name);
    int before = lines();
    set_slot(owner, "DELSLOTS");
    WAIT_FOR(ask_for(&s, "GET", "/healthz", "", NULL).status == 503);
    int64_t begun = time_mono_ms();
    do {
        int taken = send_some(&s);
        CHECK(taken > 0 && taken < 40);
        CHECK_INT(ask_for(&s, "GET", "/healthz", "", NULL).status, 503);
        sayf(&p, CMD_MESSAGES, "{'type':0,'userId':'%s'}", name);
        CHECK(hear(&p));
        CHECK(heard(&p, "\"code\":10027")); /* some of them could be read; none counts as told */
        poll(NULL, 0, 50);
    } while (time_mono_ms() - begun < 5000);
    CHECK(lines() - before < 10);
    set_slot(owner, "ADDSLOTS");
    WAIT_FOR(ask_for(&s, "GET", "/healthz", "", NULL).status == 200);
    WAIT_FOR(send_some(&s) == 40);
    sayf(&p, CMD_MESSAGES, "{'type':0,'userId':'%s'}", name);
    CHECK(hear(&p));
    const char *at = p.text.p, *end = at + p.text.n;
    int told = 0;
    while ((at = memmem(at, (size_t)(end - at), "\"content\"", 9)) != NULL) {
        at++;
        told++;
    }
    CHECK_INT(told, 40);
    CHECK(lines() - before < 20);
}

/* --- old messages ----------------------------------------------------------------------------- */

static int
length(const struct engine *e, const char *conv)
{
    char command[80];

    snprintf(command, sizeof command, "XLEN jim:{c:%s}", conv);
    struct str n = engine_says(e, command);
    CHECK(n.n > 1 && n.p[0] == ':');
    return atoi(n.p + 1);
}

static void
put_old(const struct engine *e, const char *conv, int count)
{
    char command[160];

    for (int n = 1; n <= count; n++) {
        snprintf(command, sizeof command, "XADD jim:{c:%s} %d-0 t 1000 c 1000 f a j "
                 "'{\"seq\":%d}'", conv, n, n);
        CHECK(engine_says(e, command).p[0] == '$');
    }
    snprintf(command, sizeof command, "HSET jim:{c:%s}:g seq %d t 1000", conv, count);
    CHECK(engine_says(e, command).p[0] == ':');
}

/* jim.store.keep.days: old messages of a conversation go as new ones come, and while somebody in it
 * is online; numbers go on. Without the option, and where nobody is, they stay. */
TEST(cluster_keep)
{
    struct engine e = {0};
    struct server s[2];
    struct peer a;
    struct reply r;

    engine_start(&e);
    put_old(&e, "g:g", 158);
    put_old(&e, "p:x:y", 5);
    node_start(&s[0], &e, GROUP);
    peer_open(&a, &s[0], PROTO_TCP);
    say(&a, CMD_LOGIN, "{'userId':'a'}");
    CHECK(hear(&a) && hear(&a));
    tell(&a, 159);
    CHECK_INT(length(&e, "g:g"), 159);
    peer_close(&a);
    CHECK_INT(server_end(&s[0], SIGTERM), 0);
    node_start(&s[1], &e, "jim.store.keep.days=1");
    peer_open(&a, &s[1], PROTO_TCP);
    say(&a, CMD_LOGIN, "{'userId':'a'}");
    CHECK(hear(&a));
    while (!heard(&a, "\"command\":9"))
        CHECK(hear(&a));
    tell(&a, 160);
    CHECK(length(&e, "g:g") < 100); /* with every 32nd message 64 */
    for (int64_t end = time_mono_ms() + 2 * WAIT_MS; length(&e, "g:g") != 2;) {
        CHECK(time_mono_ms() < end);
        poll(NULL, 0, 50);
    }
    r = ask_for(&s[1], "GET", "/api/message/history?groupId=g", "", NULL);
    CHECK(memmem(r.body.p, r.body.n, "\"seq\":159", 9) != NULL);
    CHECK(memmem(r.body.p, r.body.n, "\"seq\":160", 9) != NULL);
    CHECK(memmem(r.body.p, r.body.n, "\"seq\":158", 9) == NULL);
    CHECK_INT(length(&e, "p:x:y"), 5);
}

/* --- export and import ------------------------------------------------------------------------ */

/* What a single server has kept goes into the cluster, and comes out of it as it was. */
#define OLD_GROUP "{\"groupId\":\"old\",\"seq\":17,\"type\":\"seq\"}"
#define OLD_PAIR "{\"fromUserId\":\"c\",\"seq\":4,\"userId\":\"a\",\"type\":\"seq\"}"

TEST(cluster_carry)
{
    struct engine e = {0};
    struct server s;
    struct peer a, b;
    struct reply r;
    char conf[64], command[1024];

    engine_start(&e);
    server_start(&s, "-o", "jim.login.groups=g:Gang", NULL);
    peer_open(&b, &s, PROTO_TCP);
    say(&b, CMD_LOGIN, "{'userId':'b'}");
    CHECK(hear(&b) && hear(&b));
    peer_close(&b);
    peer_open(&a, &s, PROTO_TCP);
    say(&a, CMD_LOGIN, "{'userId':'a'}");
    CHECK(hear(&a) && hear(&a));
    for (int i = 0; i < 5; i++) {
        sayf(&a, CMD_CHAT, "{'chatType':2,'content':'p%d','id':'p%d','to':'b'}", i, i);
        while (hear(&a) && !heard(&a, "\"command\":12"))
            ;
        sayf(&a, CMD_CHAT, "{'chatType':1,'content':'g%d','groupId':'g'}", i);
        while (hear(&a) && !heard(&a, "\"command\":12"))
            ;
    }
    peer_close(&a);
    CHECK_INT(server_end(&s, SIGTERM), 0);
    snprintf(conf, sizeof conf, "jim.redis.port=%d\n", e.port);
    write_file("redis.properties", conf);
    snprintf(command, sizeof command,
             "$JIM export -a data > one && "
             "printf '%%s\\n' '" OLD_GROUP "' '" OLD_PAIR "' >> one && "
             "$JIM import --cluster redis.properties < one > said && "
             "$JIM import --cluster redis.properties < one > again && "
             "$JIM export --cluster redis.properties > two && sort one > one.s && "
             "sort two > two.s");
    CHECK_INT(system(command), 0);
    CHECK(has(read_whole("said"), "imported 10 messages, 2 users, 1 groups, 2 memberships"));
    CHECK(has(read_whole("again"), "imported 0 messages"));
    struct buf one = read_whole("one.s"), two = read_whole("two.s");
    CHECK_BYTES(two.p, two.len, one.p);
    node_start(&s, &e, ALONE);
    peer_login(&b, &s, PROTO_WS, "x");
    peer_close(&b);
    peer_open(&b, &s, PROTO_TCP);
    say(&b, CMD_LOGIN, "{'userId':'b'}");
    CHECK(hear(&b) && hear(&b)); /* the answer, and that he is in the group */
    say(&b, CMD_MESSAGES, "{'type':0,'userId':'b'}");
    CHECK(hear(&b));
    CHECK(heard(&b, "\"content\":\"p4\"") && heard(&b, "\"content\":\"g4\""));
    r = api_send(&s, "{'chatType':1,'content':'on','groupId':'old'}"); /* numbers go on */
    CHECK(memmem(r.body.p, r.body.n, "\"seq\":18", 8) != NULL);
    r = api_send(&s, "{'chatType':2,'content':'on','from':'a','to':'c'}");
    CHECK(memmem(r.body.p, r.body.n, "\"seq\":5", 7) != NULL);
    r = ask_for(&s, "GET", "/api/group/info?groupId=g", "", NULL);
    CHECK(memmem(r.body.p, r.body.n, "\"name\":\"Gang\"", 13) != NULL);
}

/* Move users within the list of all, again and again, until there is no Redis any more. */
static void
move_users(struct engine *e)
{
    char command[200];

    for (int at = 0;; at = (at + 1) % 40) {
        snprintf(command, sizeof command,
                 "EVAL \"for i=0,1999,40 do redis.call('ZADD','jim:{U:0}',%d,'u'..(i+%d)) end "
                 "return 1\" 0", at & 1, at * 7 % 40);
        if (engine_says(e, command).n == 0)
            _exit(0);
    }
}

/* People come and go, and so change their places in the list of all, while an export reads it. */
TEST(cluster_export_of_who_moves)
{
    struct engine e = {0};
    char conf[64];

    engine_start(&e);
    CHECK(engine_says(&e, "EVAL \"for i=0,1999 do redis.call('ZADD','jim:{U:0}',0,'u'..i) "
                          "redis.call('HSET','jim:{u:u'..i..'}','p','{\\\"userId\\\":"
                          "\\\"u'..i..'\\\"}') end return 1\" 0").n > 0);
    pid_t mover = fork();
    CHECK(mover >= 0);
    if (mover == 0)
        move_users(&e);
    snprintf(conf, sizeof conf, "jim.redis.port=%d\n", e.port);
    write_file("redis.properties", conf);
    for (int i = 0; i < 3; i++) {
        CHECK_INT(system("$JIM export --cluster redis.properties | grep '\"type\":\"user\"' | "
                         "sort -u > users"), 0);
        struct buf users = read_whole("users");
        int lines = 0;
        for (size_t at = 0; at < users.len; at++)
            lines += users.p[at] == '\n';
        CHECK_INT(lines, 2000);
        buf_free(&users);
    }
    kill(mover, SIGKILL);
}
