/* SPDX-License-Identifier: MIT */
/*
 * test_cluster.c - cluster mode without a redis-server: nodes in this process, on a Redis that does
 * as it is told (fakeredis.h). What a real one makes of it is tested by tests/cluster.c.
 *
 *   the world   one Redis, two nodes, clients; time is set
 *   sends       acknowledged when Redis has said so, and not before
 *   away        errors, cuts, silence
 *   order       gaps, doubles, what is lost on the way
 *   logins, stops, the dead
 *   junk        in replies, and in what others write into Redis
 */
#include "client.h"
#include "fakeredis.h"

#include <poll.h>
#include <unistd.h>

/* --- the world -------------------------------------------------------------------------------- */

#define NODES 2

static struct fakeredis redis;
static struct fake_node node[NODES];
static int nodes;
static struct peer *met[8]; /* who has come: the test's own, closed with all else */

static bool
turn(void)
{
    bool some = false;

    for (int i = 0; i < nodes; i++)
        some |= fake_node_turn(&node[i]) && node[i].j->attend != NULL;
    return fake_turn(&redis) || some;
}

/* Turns until nothing happens any more. */
static void
settle(void)
{
    for (int quiet = 0; quiet < 4;)
        quiet = turn() ? 0 : quiet + 1;
}

/* Time passes, in small steps. */
static void
pass(int64_t ms)
{
    for (int64_t end = fake_now_ms + ms; fake_now_ms < end;) {
        fake_now_ms += end - fake_now_ms < 20 ? end - fake_now_ms : 20;
        settle();
    }
}

/* Time passes until it is so. */
#define UNTIL(condition) \
    do { \
        int64_t end = fake_now_ms + 60000; \
        for (settle(); !(condition); pass(20)) \
            if (fake_now_ms > end) \
                test_fail(__FILE__, __LINE__, "never: %s", #condition); \
    } while (0)

static bool
up(int i)
{
    return cluster_up(node[i].j->cluster);
}

static void
start_node(const char *const *options)
{
    fake_node_start(&node[nodes++], &redis, options);
    UNTIL(up(nodes - 1));
}

#define OPTIONS(...) ((const char *const[]){__VA_ARGS__, NULL})
#define LOG "jim.log.file", "log"
#define ALONE OPTIONS(LOG)
#define GROUP OPTIONS(LOG, "jim.login.groups", "g:Gang")

static void
begin(int n, const char *const *options)
{
    fake_open(&redis);
    for (int i = 0; i < n; i++)
        start_node(options);
}

/* All nodes stop as they do with SIGTERM. */
static void
end(void)
{
    for (int i = 0; i < nodes; i++)
        jim_stop(node[i].j);
    for (int i = 0; i < nodes; i++) {
        UNTIL(node[i].over);
        fake_node_free(&node[i]);
    }
    for (int i = 0; met[i] != NULL; i++)
        if (met[i]->fd >= 0)
            peer_close(met[i]);
    fake_close(&redis);
}

/* Has node i, which is alone, read all of its inbox? It has a connection of its own for that, and
 * either comes back after a pause that is random: no order is certain between the two. */
static bool
inbox_empty(int i)
{
    char last[32];

    snprintf(last, sizeof last, "%llu-0", (unsigned long long)redis.entries);
    return strcmp(node[i].j->cluster->last, last) == 0;
}

static const char *
name_of(int i)
{
    return cluster_self(node[i].j->cluster).p;
}

/* A peer who will have something to hear: who does not fails here, at the caller's line. */
#define SOON(p) soon(__FILE__, __LINE__, (p))
static struct peer *
soon(const char *file, int line, struct peer *p)
{
    int64_t late = time_mono_ms() + WAIT_MS;

    while (!peer_ready(p, 0)) {
        if (time_mono_ms() > late)
            test_fail(file, line, "nothing came");
        turn();
    }
    return p;
}

/* Nothing has come that has not been heard. */
static bool
quiet(struct peer *p)
{
    settle();
    return !peer_ready(p, 0);
}

static void
come(struct peer *p, int i)
{
    int k = 0;

    while (met[k] != NULL && met[k] != p)
        k++;
    met[k] = p;
    *p = (struct peer){.proto = PROTO_TCP, .fd = fake_node_connect(&node[i])};
}

/* Log in; the groups' notices have been heard then, too. */
static void
login(struct peer *p, int i, const char *user)
{
    come(p, i);
    sayf(p, CMD_LOGIN, "{'userId':'%s'}", user);
    EXPECT(SOON(p), "{'code':10007,'command':6,<...>");
    while (!quiet(p))
        CHECK(hear(p));
}

#define ACK(p, n) ack(__FILE__, __LINE__, (p), (n))
static void
ack(const char *file, int line, struct peer *p, int seq)
{
    expect(file, line, soon(file, line, p), 0, "{'code':10000,'command':12,<...>");
    test_int(file, line, "seq", number(p, "seq"), seq);
}

/* A message with that number and content, for p. */
#define HEARS(p, n, text) hears(__FILE__, __LINE__, (p), (n), (text))
static void
hears(const char *file, int line, struct peer *p, int seq, const char *text)
{
    char part[64];

    expect(file, line, soon(file, line, p), 0, "{'command':11,'data':{<...>");
    test_int(file, line, "seq", number(p, "seq"), seq);
    snprintf(part, sizeof part, "\"content\":\"%s\"", text);
    if (!heard(p, part))
        test_fail(file, line, "not %s: %.*s", text, (int)p->text.n, p->text.p);
}

/* What a node puts into another's inbox for message n of the pair a and b, or the group g. more:
 * " +" when it follows closely on the one before it. */
static void
post_more(const char *conv, int n, const char *content, const char *more)
{
    char head[64], text[200];
    int len = snprintf(head, sizeof head, "m %s %d b%s", conv, n, more);
    int size = snprintf(text, sizeof text, "{\"chatType\":2,\"content\":\"%s\",\"from\":\"b\","
                        "\"id\":\"i%d\",\"seq\":%d,\"to\":\"a\"}", content, n, n);

    fake_post(&redis, name_of(0), (struct str){head, (size_t)len},
              (struct str){text, (size_t)size});
}

static void
post(const char *conv, int n, const char *content)
{
    post_more(conv, n, content, "");
}

static bool
logged(const char *part)
{
    struct buf b = read_whole("log");
    bool is = has(b, part);

    buf_free(&b);
    return is;
}

/* --- sends ------------------------------------------------------------------------------------ */

/* The number is Redis's, and nobody hears anything before it has come. */
TEST(node_ack_when_redis_has_said_so)
{
    struct peer a, b;

    begin(1, ALONE);
    login(&a, 0, "a");
    login(&b, 0, "b");
    fake_put(&redis, "jim:{c:p:a:b}:g", "seq", "41");
    fake_rule(&redis, "send", FAKE_HOLD, STR(""), -1);
    say(&a, CMD_CHAT, "{'chatType':2,'content':'hi','id':'1','to':'b'}");
    UNTIL(fake_heard(&redis, "send jim:{c:p:a:b}*\"content\":\"hi\""));
    CHECK(quiet(&a) && quiet(&b));
    fake_release(&redis);
    EXPECT(SOON(&a), "{'code':10000,'command':12,'data':{'createTime':<time>,'id':'1','seq':42},"
                     "'msg':'ok 发送成功'}");
    EXPECT(SOON(&b), "{'command':11,'data':{'chatType':2,'content':'hi',"
                     "'createTime':<time>,'from':'a','id':'1','seq':42,'to':'b'}}");
    say(&a, CMD_CHAT, "{'chatType':2,'content':'ho','id':'1','to':'b'}"); /* sent before */
    ACK(&a, 42);
    CHECK(quiet(&b));
    say(&a, CMD_CHAT, "{'chatType':2,'content':'x','to':'nobody'}");
    EXPECT(SOON(&a), "{'code':10001,'command':12,<...>");
    end();
}

/* A message sent before, on another node that has gone since: what it said then counts. */
TEST(node_retry)
{
    struct peer a, b;

    begin(1, ALONE);
    login(&a, 0, "a");
    login(&b, 0, "b");
    fake_message(&redis, "p:a:b", 7, "a", "{\"content\":\"first\",\"id\":\"x\",\"seq\":7}");
    fake_put(&redis, "jim:{c:p:a:b}:i:a:x", "", "7");
    say(&a, CMD_CHAT, "{'chatType':2,'content':'second','id':'x','to':'b'}");
    ACK(&a, 7);
    CHECK(heard(&a, "\"id\":\"x\""));
    HEARS(&b, 7, "first");
    CHECK(quiet(&a) && quiet(&b));
    end();
}

/* Answers come in the order of the requests, also when Redis's replies say another. */
TEST(node_answers_in_order)
{
    struct peer a, b;

    begin(1, ALONE);
    login(&a, 0, "a");
    login(&b, 0, "b");
    fake_rule(&redis, "send", FAKE_ANSWER, STR("-ERR no\r\n"), 1);
    for (int n = 1; n <= 3; n++)
        sayf(&a, CMD_CHAT, "{'chatType':2,'content':'%d','id':'i%d','to':'b'}", n, n);
    EXPECT(SOON(&a), "{'code':10027,'command':12,<...>");
    ACK(&a, 1);
    ACK(&a, 2);
    HEARS(&b, 1, "2");
    HEARS(&b, 2, "3");
    CHECK(quiet(&a) && quiet(&b));
    end();
}

/* Between two nodes: to the one where the receiver is, once, and nowhere else. */
TEST(node_to_node)
{
    struct peer a, b, c;

    begin(2, GROUP);
    login(&a, 0, "a");
    login(&b, 1, "b");
    EXPECT(SOON(&a), "{'code':10011,'command':9,'group':'g',<...>");
    say(&a, CMD_CHAT, "{'chatType':2,'content':'hi','to':'b'}");
    ACK(&a, 1);
    HEARS(&b, 1, "hi");
    say(&b, CMD_CHAT, "{'chatType':1,'content':'all','groupId':'g'}");
    HEARS(&b, 1, "all");
    ACK(&b, 1);
    HEARS(&a, 1, "all");
    login(&c, 0, "c");
    EXPECT(SOON(&b), "{'code':10011,'command':9,'group':'g',<...>");
    EXPECT(SOON(&a), "{'code':10011,'command':9,'group':'g',<...>");
    settle();
    fake_forget(&redis);
    say(&a, CMD_CHAT, "{'chatType':2,'content':'here','to':'c'}");
    ACK(&a, 2 - 1);
    HEARS(&c, 1, "here");
    CHECK(quiet(&b));
    CHECK(!fake_heard(&redis, "XADD*m p:a:c")); /* both are on this node */
    peer_close(&c);
    EXPECT(SOON(&b), "{'command':10,<...>");
    EXPECT(SOON(&a), "{'command':10,<...>");
    CHECK(quiet(&a) && quiet(&b));
    end();
}

/* --- away ------------------------------------------------------------------------------------- */

/* What Redis refuses is 10027, has not been shown to anybody, and may be sent again. */
TEST(node_send_refused_by_redis)
{
    struct peer a, b;

    begin(1, ALONE);
    login(&a, 0, "a");
    login(&b, 0, "b");
    fake_rule(&redis, "send", FAKE_ANSWER, STR("-OOM command not allowed\r\n"), 1);
    say(&a, CMD_CHAT, "{'chatType':2,'content':'hi','id':'1','to':'b'}");
    EXPECT(SOON(&a), "{'code':10027,'command':12,<...>");
    CHECK(quiet(&b) && quiet(&a));
    CHECK(logged("Redis: OOM command not allowed"));
    say(&a, CMD_CHAT, "{'chatType':2,'content':'hi','id':'1','to':'b'}");
    ACK(&a, 1);
    HEARS(&b, 1, "hi");
    end();
}

/* A connection that is cut before the reply: nobody knows, so 10027. Then all is registered again,
 * the message is found by its number, once, and a retry gets its first answer. */
TEST(node_cut_before_the_reply)
{
    struct peer a, b;

    begin(1, GROUP);
    login(&a, 0, "a");
    login(&b, 0, "b");
    EXPECT(SOON(&a), "{'code':10011,'command':9,<...>");
    say(&a, CMD_CHAT, "{'chatType':1,'content':'one','groupId':'g','id':'1'}");
    HEARS(&a, 1, "one");
    ACK(&a, 1);
    HEARS(&b, 1, "one");
    pass(500); /* the round of registering that comes with the start */
    fake_rule(&redis, "send", FAKE_LOSE, STR(""), 1);
    say(&a, CMD_CHAT, "{'chatType':1,'content':'two','groupId':'g','id':'2'}");
    EXPECT(SOON(&a), "{'code':10027,'command':12,<...>");
    CHECK(!up(0) && quiet(&a) && quiet(&b));
    CHECK(logged("cluster: Redis is away: "));
    fake_forget(&redis);
    node[0].j->cluster->check_ms = INT64_MAX; /* by registering it is found, too */
    UNTIL(up(0));
    pass(500);
    CHECK(fake_heard(&redis, "HSET jim:{u:a}:n*1 tcp") && fake_heard(&redis, "HSET jim:{u:b}:n"));
    CHECK(fake_heard(&redis, "enter jim:{c:g:g}:g*a") && fake_heard(&redis, "enter*b"));
    HEARS(&a, 2, "two");
    HEARS(&b, 2, "two");
    say(&a, CMD_CHAT, "{'chatType':1,'content':'two','groupId':'g','id':'2'}");
    ACK(&a, 2);
    pass(3000);
    CHECK(quiet(&a) && quiet(&b));
    end();
}

/* Silence: 10027 when the time is over, to what comes then at once; logins are told to come later,
 * who is there stays. */
TEST(node_silence)
{
    struct peer a, b, c;

    begin(1, ALONE);
    login(&a, 0, "a");
    login(&b, 0, "b");
    settle();
    redis.deaf = true;
    say(&a, CMD_CHAT, "{'chatType':2,'content':'hi','id':'1','to':'b'}");
    pass(1000);
    CHECK(quiet(&a));
    pass(1100);
    EXPECT(SOON(&a), "{'code':10027,'command':12,<...>");
    CHECK(!up(0));
    say(&a, CMD_CHAT, "{'chatType':2,'content':'hi','id':'1','to':'b'}");
    EXPECT(SOON(&a), "{'code':10027,'command':12,<...>");
    say(&a, CMD_MESSAGES, "{'type':0,'userId':'a'}");
    EXPECT(SOON(&a), "{'code':10027,'command':20,<...>");
    say(&a, CMD_JOIN, "{'groupId':'g'}");
    EXPECT(SOON(&a), "{'code':10027,'command':8,<...>");
    come(&c, 0);
    say(&c, CMD_LOGIN, "{'userId':'c'}");
    EXPECT(SOON(&c), "{'code':10008,'command':6,'msg':'try later 请稍后再试'}");
    EXPECT_END(SOON(&c));
    peer_close(&c);
    say(&a, CMD_HEARTBEAT, "{}");
    EXPECT(SOON(&a), "{'command':13,<...>");
    CHECK(logged("cluster: Redis is away: no answer in time"));
    redis.deaf = false;
    fake_cut(&redis);
    fake_forget(&redis);
    UNTIL(up(0));
    UNTIL(fake_heard(&redis, "HSET jim:{u:a}:n*1 tcp"));
    CHECK(quiet(&b));
    say(&a, CMD_CHAT, "{'chatType':2,'content':'hi','id':'1','to':'b'}");
    ACK(&a, 1);
    HEARS(&b, 1, "hi");
    end();
}

/* A Redis that was started anew has forgotten the scripts: it gets them again. */
TEST(node_scripts_again)
{
    struct peer a;

    begin(1, ALONE);
    login(&a, 0, "a");
    say(&a, CMD_CHAT, "{'chatType':2,'content':'1','to':'a'}");
    CHECK(hear(SOON(&a)) && hear(SOON(&a)));
    redis.loaded = 0; /* SCRIPT FLUSH, while the node is connected */
    say(&a, CMD_CHAT, "{'chatType':2,'content':'2','to':'a'}");
    UNTIL(peer_ready(&a, 0));
    CHECK(hear(&a) && hear(SOON(&a)));
    CHECK_INT(number(&a, "seq"), 2);
    end();
}

/* --- order ------------------------------------------------------------------------------------ */

/* A number that was missed is read from the stream; all come in order, and once. */
TEST(node_gap)
{
    struct peer a;

    begin(1, ALONE);
    login(&a, 0, "a");
    for (unsigned n = 1; n <= 5; n++) {
        char json[64];
        snprintf(json, sizeof json, "{\"content\":\"s%u\",\"from\":\"b\",\"seq\":%u}", n, n);
        fake_message(&redis, "p:a:b", n, "b", json);
    }
    post("p:a:b", 1, "p1");
    HEARS(&a, 1, "p1");
    post("p:a:b", 1, "p1");
    post("p:a:b", 4, "p4");
    post("p:a:b", 3, "p3");
    post("p:a:b", 4, "p4");
    CHECK(quiet(&a));
    CHECK(!fake_heard(&redis, "XRANGE"));
    UNTIL(fake_heard(&redis, "XRANGE jim:{c:p:a:b} 2-0 2-0"));
    HEARS(&a, 2, "s2");
    HEARS(&a, 3, "p3");
    HEARS(&a, 4, "p4");
    post("p:a:b", 2, "p2");
    post("p:a:b", 4, "p4");
    CHECK(quiet(&a));
    UNTIL(peer_ready(&a, 0)); /* the last one that nobody would miss: looked for now and then */
    HEARS(&a, 5, "s5");
    pass(5000);
    CHECK(quiet(&a));
    CHECK_INT(node[0].j->cluster->stats.filled, 2);
    end();
}

/* Redis goes while a gap is about to be read, while it is being read, and comes back under another
 * connection: what is missing is read then. */
TEST(node_gap_while_away)
{
    struct peer a;

    begin(1, ALONE);
    struct cluster *k = node[0].j->cluster;
    k->check_ms = INT64_MAX; /* by looking for lost messages it is found, too */
    login(&a, 0, "a");
    post("p:a:b", 1, "p1");
    HEARS(&a, 1, "p1");
    for (int round = 0; round < 2; round++) {
        unsigned n = 2 + 2 * (unsigned)round;
        char json[64];
        UNTIL(redis_is_up(k->inbox) && inbox_empty(0));
        snprintf(json, sizeof json, "{\"content\":\"s%u\",\"from\":\"b\",\"seq\":%u}", n, n);
        fake_message(&redis, "p:a:b", n, "b", json);
        if (round == 1)
            fake_rule(&redis, "XRANGE", FAKE_LOSE, STR(""), 1);
        fake_forget(&redis);
        post("p:a:b", (int)n + 1, "next");
        UNTIL(inbox_empty(0));
        CHECK(k->gaps != NULL);
        if (round == 1)
            UNTIL(fake_heard(&redis, "XRANGE"));
        redis.gone = true;
        fake_cut(&redis);
        UNTIL(!up(0));
        pass(1000); /* the timer goes on */
        CHECK(quiet(&a) && (round == 1 || !fake_heard(&redis, "XRANGE")));
        redis.gone = false;
        UNTIL(peer_ready(&a, 0));
        snprintf(json, sizeof json, "s%u", n);
        HEARS(&a, (int)n, json);
        HEARS(&a, (int)n + 1, "next");
    }
    CHECK(quiet(&a) && k->gaps == NULL);
    end();
}

/* The first two messages of a pair, sent at once on two nodes: one hears the later one, its own,
 * while the earlier is still on its way. */
TEST(node_first_messages_cross)
{
    struct peer a, b;

    begin(2, ALONE);
    login(&a, 0, "a");
    login(&b, 1, "b");
    fake_rule(&redis, "send", FAKE_HOLD, STR(""), 1);
    say(&a, CMD_CHAT, "{'chatType':2,'content':'one','to':'b'}");
    UNTIL(fake_heard(&redis, "send*one"));
    say(&b, CMD_CHAT, "{'chatType':2,'content':'two','to':'a'}");
    UNTIL(fake_heard(&redis, "send*two"));
    settle();
    fake_release(&redis);
    HEARS(&b, 1, "one");
    ACK(&b, 2);
    ACK(&a, 1);
    HEARS(&a, 2, "two");
    CHECK(quiet(&a) && quiet(&b));
    end();
}

/* The same of two devices of one sender, and in an old conversation of which the receiver's node
 * has heard nothing yet. */
TEST(node_two_devices_cross)
{
    struct peer near, far, b;

    begin(2, ALONE);
    login(&far, 0, "a");
    login(&near, 1, "a");
    login(&b, 1, "b");
    fake_put(&redis, "jim:{c:p:a:b}:g", "seq", "41");
    fake_put(&redis, "jim:{c:p:a:b}:g", "t", "1000");
    fake_rule(&redis, "send", FAKE_HOLD, STR(""), 1);
    say(&far, CMD_CHAT, "{'chatType':2,'content':'one','to':'b'}");
    UNTIL(fake_heard(&redis, "send*one"));
    say(&near, CMD_CHAT, "{'chatType':2,'content':'two','to':'b'}");
    UNTIL(fake_heard(&redis, "send*two"));
    settle();
    fake_release(&redis);
    HEARS(&b, 42, "one");
    HEARS(&b, 43, "two");
    HEARS(&near, 42, "one");
    ACK(&near, 43);
    ACK(&far, 42);
    HEARS(&far, 43, "two");
    CHECK(quiet(&near) && quiet(&far) && quiet(&b));
    end();
}

/* He goes, and comes back: what is for him then is heard anew. */
static void
login_again(struct peer *p, int i, const char *user)
{
    char key[40];

    snprintf(key, sizeof key, "jim:{u:%s}:n", user);
    peer_close(p);
    UNTIL(fake_get(&redis, key, name_of(i)) == NULL);
    CHECK(node[i].j->cluster->gaps == NULL);
    login(p, i, user);
}

/* How long the first of a pair waits for one before it: not at all when that was long ago, else as
 * long as for any that is missing, or until he goes for whom it is. */
TEST(node_first_waits)
{
    struct peer a;

    begin(1, ALONE);
    login(&a, 0, "a");
    post("p:a:b", 7, "long ago");
    HEARS(&a, 7, "long ago");
    login_again(&a, 0, "a");
    post_more("p:a:b", 9, "p9", " +");
    post_more("p:a:b", 8, "p8", " +");
    post_more("p:a:b", 9, "p9", " +");
    CHECK(quiet(&a));
    UNTIL(peer_ready(&a, 0));
    HEARS(&a, 8, "p8");
    HEARS(&a, 9, "p9");
    post_more("p:a:b", 7, "too late", " +");
    CHECK(quiet(&a));
    login_again(&a, 0, "a");
    node[0].j->cluster->lag_ms = 500; /* Redis is slow: so may be what is awaited */
    post_more("p:a:b", 20, "p20", " +");
    pass(900);
    CHECK(quiet(&a));
    post_more("p:a:b", 19, "p19", " +");
    UNTIL(peer_ready(&a, 0));
    HEARS(&a, 19, "p19");
    HEARS(&a, 20, "p20");
    login_again(&a, 0, "a");
    post_more("p:a:b", 25, "p25", " +");
    CHECK(quiet(&a));
    login_again(&a, 0, "a");
    post_more("p:a:b", 30, "p30", " +");
    post("p:a:b", 32, "p32"); /* which shows that 31 is missing, and that is all it shows */
    HEARS(&a, 30, "p30");
    CHECK(quiet(&a));
    post("p:a:b", 31, "p31");
    HEARS(&a, 31, "p31");
    HEARS(&a, 32, "p32");
    CHECK(quiet(&a) && !fake_heard(&redis, "XRANGE"));
    end();
}

/* What retention has taken is passed over. */
TEST(node_gap_of_old_messages)
{
    struct peer a;

    begin(1, ALONE);
    login(&a, 0, "a");
    post("p:a:b", 1, "p1");
    HEARS(&a, 1, "p1");
    fake_message(&redis, "p:a:b", 7, "b", "{\"content\":\"s7\",\"seq\":7}");
    post("p:a:b", 9, "p9");
    UNTIL(peer_ready(&a, 0));
    HEARS(&a, 7, "s7");
    HEARS(&a, 9, "p9");
    CHECK(quiet(&a));
    end();
}

/* An entry for another node's inbox whose reply is lost is written again: twice is heard once. */
TEST(node_routed_again)
{
    struct peer a, b;

    begin(2, ALONE);
    login(&a, 0, "a");
    login(&b, 1, "b");
    settle();
    fake_rule(&redis, "XADD", FAKE_LOSE, STR(""), 1);
    say(&a, CMD_CHAT, "{'chatType':2,'content':'hi','to':'b'}");
    ACK(&a, 1);
    HEARS(&b, 1, "hi");
    uint64_t doubles = node[1].j->cluster->stats.doubles;
    UNTIL(node[1].j->cluster->stats.doubles > doubles);
    CHECK(quiet(&b));
    say(&a, CMD_CHAT, "{'chatType':2,'content':'ho','to':'b'}");
    ACK(&a, 2);
    HEARS(&b, 2, "ho");
    end();
}

/* An entry that never comes to the other node: the next one shows that it is missing. */
TEST(node_routed_nowhere)
{
    struct peer a, b;

    begin(2, ALONE);
    login(&a, 0, "a");
    login(&b, 1, "b");
    say(&a, CMD_CHAT, "{'chatType':2,'content':'1','to':'b'}");
    ACK(&a, 1);
    HEARS(&b, 1, "1");
    fake_rule(&redis, "XADD", FAKE_ANSWER, STR("_\r\n"), 1);
    say(&a, CMD_CHAT, "{'chatType':2,'content':'2','to':'b'}");
    ACK(&a, 2);
    CHECK(quiet(&b));
    say(&a, CMD_CHAT, "{'chatType':2,'content':'3','to':'b'}");
    ACK(&a, 3);
    CHECK(quiet(&b));
    UNTIL(peer_ready(&b, 0));
    HEARS(&b, 2, "2");
    HEARS(&b, 3, "3");
    CHECK_INT(node[1].j->cluster->stats.filled, 1);
    end();
}

/* --- logins, stops, the dead ------------------------------------------------------------------ */

/* jim.login.policy=one: who is there before goes, on whatever node. */
TEST(node_login_displaces)
{
    struct peer old, same, new;

    begin(2, OPTIONS(LOG, "jim.login.policy", "one"));
    login(&old, 0, "a");
    login(&same, 0, "a");
    EXPECT(SOON(&old), "{'code':10026,'command':14,<...>");
    EXPECT_END(SOON(&old));
    login(&new, 1, "a");
    EXPECT(SOON(&same), "{'code':10026,'command':14,<...>");
    EXPECT_END(SOON(&same));
    CHECK(quiet(&new));
    peer_close(&old);
    peer_close(&same);
    settle();
    CHECK(fake_get(&redis, "jim:{u:a}:n", name_of(0)) == NULL);
    CHECK(fake_get(&redis, "jim:{u:a}:n", name_of(1)) != NULL);
    end();
}

/* The answer to a login waits for Redis: presence, then each group. */
TEST(node_login_waits)
{
    struct peer a;

    begin(1, GROUP);
    fake_rule(&redis, "login", FAKE_HOLD, STR(""), -1);
    come(&a, 0);
    say(&a, CMD_LOGIN, "{'userId':'a'}");
    UNTIL(fake_heard(&redis, "login jim:{u:a}*1 tcp g:g"));
    CHECK(quiet(&a) && !fake_heard(&redis, "enter"));
    fake_release(&redis);
    fake_rule(&redis, "enter", FAKE_HOLD, STR(""), -1);
    UNTIL(fake_heard(&redis, "enter*Gang"));
    CHECK(quiet(&a));
    fake_release(&redis);
    EXPECT(SOON(&a), "{'code':10007,'command':6,<...>");
    EXPECT(SOON(&a), "{'code':10011,'command':9,'group':'g',<...>");
    end();
}

/* A login that Redis refuses, or does not answer, is one to be tried later, and leaves nobody
 * registered. */
TEST(node_login_refused)
{
    static const char *const steps[] = {"login", "enter"};
    struct peer a;

    begin(1, GROUP);
    for (int i = 0; i < 4; i++) {
        bool late = i >= 2;
        fake_rule(&redis, steps[i % 2], late ? FAKE_HOLD : FAKE_ANSWER, STR("-ERR no\r\n"), 1);
        come(&a, 0);
        say(&a, CMD_LOGIN, "{'userId':'a'}");
        if (late)
            CHECK(quiet(&a));
        UNTIL(peer_ready(&a, 0));
        EXPECT(SOON(&a), "{'code':10008,'command':6,'msg':'try later 请稍后再试'}");
        EXPECT_END(SOON(&a));
        peer_close(&a);
        UNTIL(up(0) && fake_get(&redis, "jim:{u:a}:n", name_of(0)) == NULL);
    }
    login(&a, 0, "a");
    end();
}

/* Who goes while his login is on its way is off again. */
TEST(node_login_gone)
{
    struct peer a;

    begin(1, GROUP);
    fake_rule(&redis, "login", FAKE_HOLD, STR(""), -1);
    come(&a, 0);
    say(&a, CMD_LOGIN, "{'userId':'a'}");
    UNTIL(fake_heard(&redis, "login"));
    peer_close(&a);
    settle();
    fake_release(&redis);
    UNTIL(fake_heard(&redis, "away jim:{u:a}") && fake_heard(&redis, "exit*a"));
    settle();
    CHECK(fake_get(&redis, "jim:{u:a}:n", name_of(0)) == NULL);
    CHECK(fake_get(&redis, "jim:{c:g:g}:o", "a") == NULL);
    end();
}

/* A stop takes the users off, then the node; and says to clients that there are others. */
TEST(node_stop)
{
    struct peer a, b;
    char self[NODE_ID + 1], key[64];

    begin(2, GROUP);
    login(&a, 0, "a");
    login(&b, 1, "b");
    EXPECT(SOON(&a), "{'code':10011,'command':9,<...>");
    settle();
    snprintf(self, sizeof self, "%s", name_of(1));
    snprintf(key, sizeof key, "jim:{n:%s}:u", self);
    CHECK(fake_get(&redis, "jim:{s:nodes}", self) != NULL && fake_get(&redis, key, "b") != NULL);
    fake_rule(&redis, "away", FAKE_HOLD, STR(""), -1);
    jim_stop(node[1].j);
    EXPECT(SOON(&b), "{'code':10028,'command':14,'msg':'server shutting down 服务器正在关闭',"
                     "'retryAfter':<...>");
    EXPECT_END(SOON(&b));
    peer_close(&b);
    settle();
    CHECK(fake_heard(&redis, "away jim:{u:b}") && !node[1].over);
    CHECK(fake_get(&redis, "jim:{s:nodes}", self) != NULL); /* as long as somebody is on it */
    fake_release(&redis);
    UNTIL(node[1].over);
    CHECK(fake_get(&redis, "jim:{u:b}:n", self) == NULL);
    CHECK(fake_get(&redis, "jim:{c:g:g}:o", "b") == NULL);
    CHECK(fake_heard(&redis, "ZADD jim:{U:* XX 1 b")); /* in the list of all users: offline */
    CHECK(fake_get(&redis, "jim:{s:nodes}", self) == NULL && fake_get(&redis, key, "b") == NULL);
    EXPECT(SOON(&a), "{'command':10,'data':{'group':'g','user':{'nick':'b','status':'offline',"
                     "'userId':'b'}}}");
    end();
}

/* A node that has taken itself off the list is not put on it again, however long Redis takes to say
 * that it has: others would ask it, and then hold it to be dead. */
TEST(node_stop_is_the_last_word)
{
    char self[NODE_ID + 1], inbox[64];

    begin(1, OPTIONS(LOG, "jim.redis.timeout", "10000", "jim.drain", "60s"));
    snprintf(self, sizeof self, "%s", name_of(0));
    snprintf(inbox, sizeof inbox, "XADD jim:{n:%s}", self);
    fake_rule(&redis, "ZREM", FAKE_HOLD, STR(""), -1);
    jim_stop(node[0].j);
    UNTIL(fake_heard(&redis, "DEL jim:{n:"));
    fake_forget(&redis);
    pass(5000);
    CHECK(!node[0].over);
    CHECK(!fake_heard(&redis, "lease") && !fake_heard(&redis, inbox));
    CHECK(fake_get(&redis, "jim:{s:nodes}", self) == NULL);
    fake_release(&redis);
    UNTIL(node[0].over);
    CHECK(fake_get(&redis, "jim:{s:nodes}", self) == NULL);
    end();
}

/* Redis keeps everything: nothing is made on disk, at the start or at the end. */
TEST(node_no_directory)
{
    struct peer a;

    begin(1, GROUP);
    login(&a, 0, "a");
    say(&a, CMD_CHAT, "{'chatType':1,'content':'kept','groupId':'g'}");
    HEARS(&a, 1, "kept");
    ACK(&a, 1);
    end();
    CHECK(access("jim-data", F_OK) != 0);
}

/* A stop does not wait for a Redis that is not there. */
TEST(node_stop_without_redis)
{
    struct peer a;

    begin(1, GROUP);
    login(&a, 0, "a");
    redis.gone = true;
    fake_cut(&redis);
    UNTIL(!up(0));
    jim_stop(node[0].j);
    EXPECT(SOON(&a), "{'code':10028,'command':14,<...>");
    peer_close(&a);
    int64_t begun = fake_now_ms;
    UNTIL(node[0].over);
    CHECK(fake_now_ms - begun < 1000);
    end();
}

/* The users of a node that is dead are taken off it by who is told to. */
TEST(node_dead)
{
    static const char dead[] = "0123456789abcdef";
    struct peer a;

    begin(1, GROUP);
    login(&a, 0, "a");
    settle();
    fake_put(&redis, "jim:{n:0123456789abcdef}:u", "b", "");
    fake_put(&redis, "jim:{u:b}:n", dead, "1 tcp");
    fake_put(&redis, "jim:{u:b}:g", "g:g", "");
    fake_put(&redis, "jim:{c:g:g}:o", "b", dead);
    fake_rule(&redis, "lease", FAKE_ANSWER,
              STR("*3\r\n:1\r\n$16\r\n0123456789abcdef\r\n$1\r\nx\r\n"), 1);
    UNTIL(fake_heard(&redis, "reaped*0123456789abcdef"));
    EXPECT(SOON(&a), "{'command':10,'data':{'group':'g','user':{'nick':'b','status':'offline',"
                     "'userId':'b'}}}");
    CHECK(fake_get(&redis, "jim:{u:b}:n", dead) == NULL);
    CHECK(fake_get(&redis, "jim:{c:g:g}:o", "b") == NULL);
    CHECK(logged("cluster: node 0123456789abcdef is dead"));
    CHECK(quiet(&a));
    end();
}

/* The program itself, ended by a signal: the same. Here time passes by itself. */
#define MEANWHILE(condition) \
    do { \
        int64_t late = time_mono_ms() + WAIT_MS; \
        while (!(condition)) { \
            fake_now_ms = time_mono_ms(); \
            if (fake_now_ms > late) \
                test_fail(__FILE__, __LINE__, "never: %s", #condition); \
            if (!fake_turn(&redis)) \
                usleep(200); \
        } \
    } while (0)

TEST(node_program_stop)
{
    struct server s;
    struct peer a;
    char port[40];

    fake_open(&redis);
    snprintf(port, sizeof port, "jim.redis.port=%d", redis.port);
    server_start(&s, QUIET, "-o", "jim.cluster=on", "-o", port, "-o", "jim.drain=60s", NULL);
    struct pollfd ended = {.fd = s.alive, .events = POLLIN};
    MEANWHILE(fake_heard(&redis, "lease"));
    peer_open(&a, &s, PROTO_TCP);
    do { /* the first may come before the lease */
        say(&a, CMD_LOGIN, "{'userId':'a'}");
        MEANWHILE(peer_ready(&a, 0));
        CHECK(hear(&a));
        if (heard(&a, "10008")) {
            peer_close(&a);
            peer_open(&a, &s, PROTO_TCP);
        }
    } while (!heard(&a, "10007"));
    fake_forget(&redis);
    CHECK(kill(s.pid, SIGTERM) == 0);
    MEANWHILE(peer_ready(&a, 0));
    EXPECT(&a, "{'code':10028,'command':14,<...>");
    EXPECT_END(&a);
    peer_close(&a);
    MEANWHILE(poll(&ended, 1, 0) > 0);
    CHECK_INT(server_end(&s, 0), 0);
    CHECK(fake_heard(&redis, "away jim:{u:a}") && fake_heard(&redis, "ZREM jim:{s:nodes}"));
    fake_close(&redis);
}

/* --- junk ------------------------------------------------------------------------------------- */

/* Chats and notices that are no JSON, numbers that are none, unknown words: others write in Redis,
 * too, and nobody may hear of it. */
TEST(node_junk_in_the_inbox)
{
    static const struct {
        const char *head, *text;
    } junk[] = {
        {"", "{}"}, {"m", "{}"}, {"m g:g 1", "{}"}, {"m g:g 1 b more", "{}"}, {"m g:g x b", "{}"},
        {"m g:g -1 b", "{}"}, {"m g:g 0 b", "{}"}, {"m g:g  b", "{}"},
        {"m g:g 1000000000000001 b", "{}"}, {"m g:g 18446744073709551617 b", "{}"},
        {"m g 1 b", "{}"}, {"m q:g 1 b", "{}"}, {"m g:%zz 1 b", "{}"}, {"m p:a 1 b", "{}"},
        {"m g:g 1 %00", "{}"}, {"m p:a:b 1 c", "{}"}, {"m g:g 1 b", ""}, {"m g:g 1 b", "hello"},
        {"m g:g 1 b", "[1]"}, {"m g:g 1 b", "{\"a\":1"}, {"m g:g 1 b", "{\"a\":1}}"},
        {"m p:a:b 1 b", "{\"a\":\"\xff\"}"}, {"m\tg:g 1 b", "{}"}, {"M g:g 1 b", "{}"},
        {"n 9 g:g", "{}"}, {"n 11 g:g x", "{}"}, {"n 9 g:g x", "junk"}, {"n 265 g:g x", "{}"},
        {"x a", ""}, {"x a 10000", ""}, {"d a", ""}, {"u a", "junk"}, {"u", "{}"}, {"J a", "{}"},
        {"J a g:g", "junk"}, {"L a g:g", "junk"}, {"G", ""}, {"b x y", "{}"},
        {"b 0123456789abcdef 0123456789abcdef", "junk"},
        {"b 0123456789abcdef 0123456789012345678901234567890123456789012345678901234567", "{}"},
        {"c", ""}, {"? ? ? ? ? ? ? ?", "?"},
    };
    struct peer p[3];
    const char *names[] = {"a", "b", "c"};

    begin(1, GROUP);
    for (int i = 0; i < 3; i++)
        login(&p[i], 0, names[i]);
    for (int i = 0; i < 3; i++)
        while (!quiet(&p[i]))
            CHECK(hear(&p[i]));
    for (size_t i = 0; i < sizeof junk / sizeof junk[0]; i++) {
        uint64_t before = node[0].j->cluster->stats.junk;
        fake_post(&redis, name_of(0), str_of(junk[i].head), str_of(junk[i].text));
        settle();
        for (int k = 0; k < 3; k++)
            if (!quiet(&p[k]))
                test_fail(__FILE__, __LINE__, "%s was told of \"%s\" \"%s\"", names[k],
                          junk[i].head, junk[i].text);
        if (node[0].j->cluster->stats.junk != before + 1)
            test_fail(__FILE__, __LINE__, "not counted: \"%s\" \"%s\"", junk[i].head,
                      junk[i].text);
    }
    CHECK(logged("warn: cluster: not used, no node writes this: "));
    fake_rule(&redis, "XREAD", FAKE_ANSWER, STR("-WRONGTYPE not a stream\r\n"), 1);
    UNTIL(logged("no node writes this: the inbox: WRONGTYPE not a stream"));
    fake_rule(&redis, "XREAD", FAKE_ANSWER,
              STR("*1\r\n*2\r\n$1\r\nx\r\n*1\r\n*2\r\n$4\r\nid-0\r\n*0\r\n"), 1);
    pass(6000);
    post("g:g", 1, "one");
    for (int i = 0; i < 3; i++)
        HEARS(&p[i], 1, "one");
    end();
}

/* Replies that no script of ours gives. A send is refused then, and the node goes on. */
TEST(node_junk_for_a_send)
{
    static const char *const junk[] = {
        "+OK\r\n", ":10000\r\n", "$-1\r\n", "_\r\n", "*-1\r\n", "*0\r\n", "%0\r\n", "*1\r\n*0\r\n",
        "*1\r\n:10000\r\n", "*2\r\n:10000\r\n:0\r\n", "*2\r\n:10000\r\n:-1\r\n",
        "*2\r\n:10000\r\n$1\r\nx\r\n", "*2\r\n:10000\r\n:9223372036854775807\r\n",
        "*2\r\n:10000\r\n*1\r\n:1\r\n", "*1\r\n:12345\r\n", "*1\r\n:10001\r\n", "*1\r\n:-7\r\n",
        "*1\r\n:4294977296\r\n", "*1\r\n$5\r\nERROR\r\n", "~2\r\n#t\r\n,1.5\r\n",
    };
    struct peer a, b;

    begin(1, ALONE);
    login(&a, 0, "a");
    login(&b, 0, "b");
    for (size_t i = 0; i < sizeof junk / sizeof junk[0]; i++) {
        fake_rule(&redis, "send", FAKE_ANSWER, str_of(junk[i]), 1);
        say(&a, CMD_CHAT, "{'chatType':2,'content':'hi','to':'b'}");
        CHECK(hear(SOON(&a)));
        if (!heard(&a, "\"code\":10027") || !quiet(&b))
            test_fail(__FILE__, __LINE__, "%s: %.*s", junk[i], (int)a.text.n, a.text.p);
    }
    CHECK(up(0) && logged("no node writes this: a reply to a message"));
    fake_rule(&redis, "HKEYS", FAKE_ANSWER, STR("*2\r\n*1\r\n:1\r\n$3\r\na\0b\r\n"), 2);
    say(&a, CMD_CHAT, "{'chatType':2,'content':'hi','to':'b'}");
    ACK(&a, 1);
    HEARS(&b, 1, "hi");
    fake_rule(&redis, "send", FAKE_ANSWER, /* what was sent first: no chat, or one without an id */
              STR("*5\r\n:10000\r\n:1\r\n$1\r\n1\r\n:1\r\n$4\r\njunk\r\n"), 1);
    fake_rule(&redis, "send", FAKE_ANSWER,
              STR("*5\r\n:10000\r\n:1\r\n$1\r\n1\r\n:1\r\n$2\r\n{}\r\n"), 1);
    for (int i = 0; i < 2; i++) {
        say(&a, CMD_CHAT, "{'chatType':2,'content':'hi','id':'mine','to':'b'}");
        EXPECT(SOON(&a), "{'code':10000,'command':12,'data':{'createTime':1,'id':'mine','seq':1},"
                         "<...>");
    }
    CHECK(quiet(&a) && quiet(&b));
    end();
}

/* Into a group nobody comes by junk, and nobody is thrown out of it. */
TEST(node_junk_for_a_login)
{
    static const char *const enter[] = {
        "+OK\r\n", "_\r\n", "*0\r\n", "*1\r\n:1\r\n", "*1\r\n:3\r\n", "*1\r\n$1\r\nx\r\n",
        "*7\r\n:1\r\n:1\r\n:1\r\n:0\r\n:-1\r\n:1\r\n$5\r\n0 0 0\r\n",
        "*7\r\n:1\r\n:1\r\n:1\r\n:0\r\n:9223372036854775807\r\n:1\r\n$5\r\n0 0 0\r\n",
    };
    static const char *const login_junk[] = {
        "+OK\r\n", "*0\r\n", "*3\r\n:1\r\n:2\r\n:3\r\n",
        "*3\r\n$4\r\njunk\r\n*1\r\n_\r\n*2\r\n_\r\n*0\r\n",
        "*3\r\n$0\r\n\r\n*0\r\n*3\r\n$1\r\ng\r\n$2\r\ng:\r\n$5\r\ng:%00\r\n",
    };
    struct peer a, b;

    begin(1, GROUP);
    for (size_t i = 0; i < sizeof enter / sizeof enter[0]; i++) {
        fake_rule(&redis, "enter", FAKE_ANSWER, str_of(enter[i]), 1);
        come(&a, 0);
        say(&a, CMD_LOGIN, "{'userId':'a'}");
        CHECK(hear(SOON(&a)));
        if (!heard(&a, "\"code\":10008"))
            test_fail(__FILE__, __LINE__, "%s: %.*s", enter[i], (int)a.text.n, a.text.p);
        EXPECT_END(SOON(&a));
        peer_close(&a);
        settle();
    }
    for (size_t i = 0; i < sizeof login_junk / sizeof login_junk[0]; i++) {
        fake_rule(&redis, "login", FAKE_ANSWER, str_of(login_junk[i]), 1);
        login(&a, 0, "a");
        peer_close(&a);
        settle();
    }
    login(&a, 0, "a");
    login(&b, 0, "b");
    EXPECT(SOON(&a), "{'code':10011,'command':9,<...>");
    fake_rule(&redis, "enter", FAKE_ANSWER, STR("*0\r\n"), -1);
    fake_cut(&redis);
    UNTIL(!up(0));
    fake_forget(&redis);
    UNTIL(fake_heard(&redis, "enter*a") && fake_heard(&redis, "enter*b"));
    settle();
    say(&a, CMD_CHAT, "{'chatType':1,'content':'hi','groupId':'g'}");
    HEARS(&a, 1, "hi");
    ACK(&a, 1);
    HEARS(&b, 1, "hi");
    end();
}

/* What a stream has that is no chat is passed over, live and for who asks. */
TEST(node_junk_in_a_stream)
{
    struct peer a;

    begin(1, GROUP);
    login(&a, 0, "a");
    fake_message(&redis, "g:g", 1, "", "{\"content\":\"nobody's\",\"seq\":1}");
    post("g:g", 2, "two");
    UNTIL(peer_ready(&a, 0));
    HEARS(&a, 2, "two");
    post("p:a:b", 1, "one");
    HEARS(&a, 1, "one");
    fake_message(&redis, "p:a:b", 2, "b", "junk");
    fake_message(&redis, "p:a:b", 3, "", "{\"content\":\"s3\",\"seq\":3}");
    fake_message(&redis, "p:a:b", 4, "stranger", "{\"content\":\"s4\",\"seq\":4}");
    fake_message(&redis, "p:a:b", 5, "b", "{\"content\":\"s5\",\"seq\":5}");
    post("p:a:b", 6, "six");
    UNTIL(peer_ready(&a, 0));
    HEARS(&a, 5, "s5");
    HEARS(&a, 6, "six");
    fake_rule(&redis, "XRANGE", FAKE_ANSWER, /* ids that are none, or of more than was asked for */
              STR("*6\r\n*2\r\n$1\r\nx\r\n*0\r\n:1\r\n*1\r\n$3\r\n7-0\r\n*2\r\n$21\r\n"
                  "99999999999999999999-\r\n*0\r\n*0\r\n*2\r\n$4\r\n99-0\r\n*8\r\n+t\r\n+1\r\n"
                  "+c\r\n+1\r\n+f\r\n+b\r\n+j\r\n+{}\r\n"), 1);
    post("p:a:b", 9, "nine");
    UNTIL(peer_ready(&a, 0));
    HEARS(&a, 9, "nine");
    pass(3000);
    CHECK(quiet(&a));
    fake_put(&redis, "jim:{u:a}:p", "p:a:b", "");
    fake_rule(&redis, "missed", FAKE_ANSWER,
              STR("*6\r\n:9\r\n:0\r\n$4\r\njunk\r\n$7\r\n{\"n\":1}\r\n:7\r\n"
                  "$7\r\n{\"n\":2}\r\n"), 1);
    fake_rule(&redis, "missed", FAKE_ANSWER, STR("*2\r\n:2\r\n:0\r\n"), 1); /* the group */
    say(&a, CMD_MESSAGES, "{'type':0,'userId':'a'}");
    EXPECT(SOON(&a), "{'code':10016,'command':20,'data':{'friends':{'b':[{'n':1},{'n':2}]},"
                     "'groups':{},'userId':'a'},<...>");
    end();
}

static struct reply
api(struct peer *p, const char *target)
{
    struct reply r;
    char head[512];

    snprintf(head, sizeof head, "POST %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer k\r\n"
                                "Content-Length: 0\r\n\r\n", target);
    put_str(p, head);
    hear_reply(SOON(p), &r, false);
    return r;
}

/* Names in lists that are no ids, and lengths that no list has. */
TEST(node_junk_in_lists)
{
    struct peer p;
    char id[400], key[64], junk[500];
    struct reply r;

    begin(1, OPTIONS(LOG, "jim.api.key", "k"));
    come(&p, 0);
    p.proto = PROTO_HTTP;
    memset(id, 'x', sizeof id);
    snprintf(key, sizeof key, "jim:{G:%u}", bucket_of(STR("g")));
    snprintf(junk, sizeof junk, "%.*s", 300, id);
    fake_put(&redis, key, junk, "0");
    fake_put(&redis, key, "g", "0");
    fake_put(&redis, key, "\xff", "0");
    fake_rule(&redis, "page", FAKE_ANSWER, STR("*4\r\n:1\r\n$1\r\n\xff\r\n:0\r\n:1\r\n"), 1);
    r = api(&p, "/api/group/list");
    CHECK_LIKE(r.body, "{'code':10029,'data':{'groups':[{'groupId':'g','name':'g','online':0,"
                       "'total':1}],'total':3},<...>");
    fake_rule(&redis, "ZCARD", FAKE_ANSWER, STR(":9223372036854775807\r\n"), 3);
    r = api(&p, "/api/group/list?type=2&offset=9007199254740991");
    CHECK_INT(r.status, 503);
    fake_rule(&redis, "nodes", FAKE_ANSWER,
              STR("*6\r\n$1\r\nx\r\n:1\r\n$4\r\njunk\r\n$1\r\ny\r\n:1\r\n$2\r\n{}\r\n"), 1);
    r = api(&p, "/api/cluster");
    CHECK(memmem(r.body.p, r.body.n, "junk}", 5) == NULL);
    CHECK(memmem(r.body.p, r.body.n, "\"node\":\"y\"", 10) != NULL);
    fake_put(&redis, "jim:{n:0123456789abcdef}:u", "%61", ""); /* a, but not as a node writes it */
    fake_rule(&redis, "lease", FAKE_ANSWER,
              STR("*2\r\n:1\r\n$16\r\n0123456789abcdef\r\n"), 1);
    UNTIL(fake_heard(&redis, "reaped"));
    CHECK(!fake_heard(&redis, "away"));
    end();
}

/* A broadcast whose time is over before Redis has said which nodes there are. */
TEST(node_broadcast_late)
{
    struct peer p, a;
    struct reply r;

    begin(1, OPTIONS(LOG, "jim.api.key", "k", "jim.redis.timeout", "10000"));
    login(&a, 0, "a");
    come(&p, 0);
    p.proto = PROTO_HTTP;
    fake_rule(&redis, "nodes", FAKE_HOLD, STR(""), -1);
    put_str(&p, "POST /api/message/broadcast?content=all HTTP/1.1\r\nHost: localhost\r\n"
                "Authorization: Bearer k\r\nContent-Length: 0\r\n\r\n");
    EXPECT(SOON(&a), "{'command':11,<...>");
    pass(4000);
    fake_release(&redis);
    hear_reply(SOON(&p), &r, false);
    CHECK_LIKE(r.body, "{'code':10000,'command':12,'data':{'sent':1},<...>");
    end();
}
