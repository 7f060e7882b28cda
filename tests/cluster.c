/* SPDX-License-Identifier: MIT */
/*
 * cluster.c - what a cluster adds to the running server: several nodes on one redis-server, which
 * each test starts for itself; `make check-cluster` runs it (Debian: redis-server).
 *
 *   nodes        started, and peers on them
 *   messages, presence, groups, questions, the API
 *   Redis away, nodes dead, stops
 */
#include "engine.h"

#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

/* --- nodes ------------------------------------------------------------------------------------ */

static void
node_start(struct server *s, const struct engine *e, const char *more)
{
    char port[40];

    snprintf(port, sizeof port, "jim.redis.port=%d", e->port);
    server_start(s, "-o", "jim.cluster=on", "-o", port, FAST, "-o", "jim.redis.timeout=2000", "-o",
                 more, NULL);
    node_ready(s);
}

#define ALONE "jim.login.groups="
#define GROUP "jim.login.groups=g:Gang"

/* --- messages --------------------------------------------------------------------------------- */

TEST(cluster_private)
{
    struct engine e;
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

TEST(cluster_group)
{
    struct engine e;
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
    struct engine e;
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

/* All connections of a user hear, wherever they are, but the one that has sent. */
TEST(cluster_devices)
{
    struct engine e;
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
    struct engine e;
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
    struct engine e;
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
    struct engine e;
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
    struct engine e;
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
    struct engine e;
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

/* A node that is killed: its users are offline within 15 s, their groups are told. */
TEST(cluster_dead)
{
    struct engine e;
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
    struct engine e, through;
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
    for (int64_t end = time_mono_ms() + 15000;;) {
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
    struct engine e;
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

/* --- export and import ------------------------------------------------------------------------ */

/* What a single server has kept goes into the cluster, and comes out of it as it was. */
TEST(cluster_carry)
{
    struct engine e;
    struct server s;
    struct peer a, b;
    struct reply r;
    char conf[64], command[512];

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
             "$JIM export -a data > one && $JIM import --cluster redis.properties < one > said && "
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
    r = ask_for(&s, "GET", "/api/group/info?groupId=g", "", NULL);
    CHECK(memmem(r.body.p, r.body.n, "\"name\":\"Gang\"", 13) != NULL);
}
