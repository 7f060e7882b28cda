/* SPDX-License-Identifier: MIT */
/*
 * test_embed.c - the server inside another program: every function it can be given and every call
 * it has, over real sockets. The server runs in a thread of the test (or in its own loop, once);
 * what its hooks see is written to a trace, which is looked at when the thread has ended, or when a
 * hook has said so through a pipe.
 */
#include "client.h"

#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <unistd.h>

#define COUNT(a) (sizeof(a) / sizeof(a)[0])
#define T(text) (text).n > 0 ? (int)(text).n : 0, (text).p
#define LOGIN(p, user) say((p), 5, "{'userId':'" user "'}")
#define WELCOME(user)                                                                              \
    "{'code':10007,'command':6,'msg':'ok 登录成功!','user':{'nick':'" user                         \
    "','status':'online','terminal':'<terminal>','userId':'" user "'}}"

/* --- a server in a thread --------------------------------------------------------------------- */

struct host {
    struct jim *j;
    struct server s;   /* for the peers: where it listens */
    pthread_t thread;
    struct buf trace;  /* written in the server's thread, read after its end */
    int pipe[2];       /* a hook says something, the test waits for it */
    int result;        /* of jim_run() */
    int count;         /* for a test's hook */
    uint64_t ticket;
};

static void trace(struct host *h, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void
trace(struct host *h, const char *format, ...)
{
    char line[512];
    va_list ap;

    va_start(ap, format);
    int n = vsnprintf(line, sizeof line, format, ap);
    va_end(ap);
    buf_add(&h->trace, line, (size_t)n);
    buf_add(&h->trace, "\n", 1);
}

static void
host_set(struct host *h, const char *key, const char *value)
{
    char err[256];

    if (jim_set(h->j, key, value, err, sizeof err) != 0)
        test_fail(__FILE__, __LINE__, "%s", err);
}

static void
host_new(struct host *h)
{
    *h = (struct host){.j = jim_new()};
    CHECK(pipe(h->pipe) == 0);
    host_set(h, "jim.port", "0");
    host_set(h, "jim.store", "off");
    host_set(h, "jim.login.groups", "");
    host_set(h, "jim.auth.delay", "0");
    host_set(h, "jim.log.level", "error");
}

static void *
host_thread(void *arg)
{
    struct host *h = arg;

    h->result = jim_run(h->j);
    return NULL;
}

static void
host_listen(struct host *h)
{
    CHECK_INT(jim_start(h->j), JIM_OK);
    h->s.port[0] = atoi(strrchr(jim_listening(h->j, 0), ':') + 1);
}

static void
host_start(struct host *h)
{
    host_listen(h);
    CHECK(pthread_create(&h->thread, NULL, host_thread, h) == 0);
    test_begins();
}

/* Stop it, and look at what its hooks have seen. */
static void
host_end(struct host *h, const char *want)
{
    jim_stop(h->j);
    CHECK(pthread_join(h->thread, NULL) == 0);
    CHECK_INT(h->result, JIM_OK);
    jim_free(h->j);
    if (want != NULL)
        CHECK_BYTES(h->trace.p, h->trace.len, want);
    buf_free(&h->trace);
    close(h->pipe[0]);
    close(h->pipe[1]);
}

/* A hook has got somewhere: the test's thread goes on. What it wrote before can be read then. */
static void
tell(struct host *h)
{
    CHECK(write(h->pipe[1], "x", 1) == 1);
}

static void
wait_told(struct host *h)
{
    struct pollfd p = {.fd = h->pipe[0], .events = POLLIN};
    char c;

    CHECK_INT(poll(&p, 1, WAIT_MS), 1);
    CHECK(read(h->pipe[0], &c, 1) == 1);
}

/* Have something done in the server's thread, and wait for that. */
struct errand {
    struct host *h;
    void (*fn)(struct host *h);
};

static void
run_errand(struct jim *j, void *arg)
{
    struct errand *e = arg;

    CHECK(j != NULL);
    e->fn(e->h);
    tell(e->h);
}

static void
inside(struct host *h, void (*fn)(struct host *h))
{
    struct errand e = {h, fn};

    CHECK_INT(jim_post(h->j, run_errand, &e), 0);
    wait_told(h);
}

static bool
is(struct jim_text t, const char *text)
{
    return t.p != NULL && t.n == strlen(text) && memcmp(t.p, text, t.n) == 0;
}

/* --- logins ----------------------------------------------------------------------------------- */

static void
on_login(void *arg, struct jim *j, const struct jim_login *l)
{
    struct host *h = arg;
    static const char user[] = "{\"userId\":\"ann\",\"nick\":\"Ann\",\"groups\":[\"g1\"]}";

    trace(h, "login %.*s %.*s %.*s %s %s", T(l->user), T(l->password), T(l->token), l->address,
          l->protocol);
    if (is(l->password, "right")) {
        CHECK_INT(jim_login_answer(j, l->ticket, JIM_WELCOME, NULL, 0), 0);
        CHECK_INT(jim_login_answer(j, l->ticket, JIM_WELCOME, NULL, 0), -1);
    } else if (is(l->token, "t")) {
        CHECK_INT(jim_login_answer(j, l->ticket, JIM_WELCOME, "{}", 2), -1); /* who is that? */
        CHECK_INT(jim_login_answer(j, l->ticket, JIM_WELCOME, user, sizeof user - 1), 0);
    } else {
        CHECK_INT(jim_login_answer(j, l->ticket, is(l->password, "busy") ? JIM_TRY_LATER
                                                                         : JIM_REFUSE, NULL, 0),
                  0);
    }
}

TEST(embed_login_now)
{
    struct host h;
    struct peer p;

    host_new(&h);
    jim_on_login(h.j, on_login, &h);
    host_start(&h);
    peer_open(&p, &h.s, PROTO_TCP);
    say(&p, 5, "{'userId':'bob','password':'wrong'}");
    EXPECT(&p, "{'code':10008,'command':6,'msg':'login failed ! 登录失败!'}");
    EXPECT_END(&p);
    peer_open(&p, &h.s, PROTO_WS);
    say(&p, 5, "{'userId':'bob','password':'busy'}");
    EXPECT(&p, "{'code':10008,'command':6,'msg':'try later 请稍后再试'}");
    EXPECT_CLOSE(&p, 1008);
    peer_open(&p, &h.s, PROTO_TCP);
    say_seq(&p, 7, 5, "{'userId':'bob','password':'right'}");
    EXPECT_SEQ(&p, 7, WELCOME("bob"));
    EXPECT_QUIET(&p);
    peer_connect(&p, &h.s);
    peer_upgrade(&p, "/?token=t");
    EXPECT(&p, "{'code':10007,'command':6,'msg':'ok 登录成功!','user':{'nick':'Ann',"
               "'status':'online','terminal':'ws','userId':'ann'}}");
    EXPECT(&p, "{'code':10011,'command':9,'group':'g1',<...>");
    host_end(&h, "login bob wrong  127.0.0.1 tcp\nlogin bob busy  127.0.0.1 ws\n"
                 "login bob right  127.0.0.1 tcp\nlogin   t 127.0.0.1 ws\n");
}

static void on_opened(void *arg, struct jim *j, uint64_t conn);

/* Who comes through a proxy has his own address, however it is asked for. */
TEST(embed_login_through_a_proxy)
{
    struct host h;
    struct peer p;

    host_new(&h);
    host_set(&h, "jim.proxy.protocol", "127.0.0.1");
    jim_on_login(h.j, on_login, &h);
    jim_on_opened(h.j, on_opened, &h);
    host_start(&h);
    peer_connect(&p, &h.s);
    put_str(&p, "PROXY TCP4 192.0.2.7 127.0.0.1 1 2\r\n");
    say(&p, 5, "{'userId':'bob','password':'right'}");
    EXPECT(&p, WELCOME("bob"));
    peer_connect(&p, &h.s);
    put_str(&p, "PROXY TCP6 2001:db8::7 ::1 1 2\r\n");
    say(&p, 5, "{'userId':'bob','password':'right'}");
    EXPECT(&p, WELCOME("bob"));
    host_end(&h, "opened tcp 192.0.2.7\nlogin bob right  192.0.2.7 tcp\n"
                 "opened tcp 2001:db8::7\nlogin bob right  2001:db8::7 tcp\n");
}

/* With jim.auth given, that decides; and a function decides also who may listen to the world. */
TEST(embed_login_and_options)
{
    struct host h;
    struct peer p;

    host_new(&h);
    host_set(&h, "jim.auth", "token");
    host_set(&h, "jim.token.secret", "0123456789abcdef0123456789abcdef");
    jim_on_login(h.j, on_login, &h);
    host_start(&h);
    peer_open(&p, &h.s, PROTO_TCP);
    say(&p, 5, "{'userId':'bob','password':'right'}");
    EXPECT(&p, "{'code':10008,'command':6,<...>");
    host_end(&h, "");

    host_new(&h);
    host_set(&h, "jim.bind.ip", "0.0.0.0");
    jim_on_login(h.j, on_login, &h);
    host_start(&h);
    host_end(&h, "");
}

static void
on_login_later(void *arg, struct jim *j, const struct jim_login *l)
{
    struct host *h = arg;

    (void)j;
    h->ticket = l->ticket;
    tell(h);
}

static void
answer_login(struct host *h)
{
    trace(h, "answer %d", jim_login_answer(h->j, h->ticket, JIM_WELCOME, NULL, 0));
}

TEST(embed_login_later)
{
    struct host h;
    struct peer p, other;

    host_new(&h);
    jim_on_login(h.j, on_login_later, &h);
    host_start(&h);
    peer_open(&p, &h.s, PROTO_TCP);
    LOGIN(&p, "ann");
    say(&p, 17, "{'cmd':17,'type':'0','userId':'bob'}"); /* waits behind it */
    wait_told(&h);
    peer_open(&other, &h.s, PROTO_TCP);
    EXPECT_QUIET(&other); /* others do not wait */
    inside(&h, answer_login);
    EXPECT(&p, WELCOME("ann"));
    EXPECT(&p, "{'code':10004,'command':18,<...>");
    inside(&h, answer_login); /* once */
    LOGIN(&other, "bob");
    wait_told(&h);
    peer_abort(&other);
    LOGIN(&p, "ann"); /* when this is heard, that has been seen */
    wait_told(&h);
    inside(&h, answer_login);
    EXPECT(&p, WELCOME("ann"));
    host_end(&h, "answer 0\nanswer -1\nanswer 0\n");
}

/* What the answer gives rise to may answer again, and is told that it is done. */
static void
on_binding_again(void *arg, struct jim *j, const struct jim_binding *b)
{
    struct host *h = arg;

    trace(h, "%d %.*s: again %d", (int)b->what, T(b->user),
          jim_login_answer(j, h->ticket, b->what == JIM_USER_BOUND ? JIM_REFUSE : JIM_WELCOME, NULL,
                           0));
}

static void
on_login_at_once(void *arg, struct jim *j, const struct jim_login *l)
{
    struct host *h = arg;

    h->ticket = l->ticket;
    trace(h, "answer %d", jim_login_answer(j, l->ticket, JIM_WELCOME, NULL, 0));
}

TEST(embed_login_answered_from_within)
{
    struct host h;
    struct peer p;

    host_new(&h);
    jim_on_login(h.j, on_login_at_once, &h);
    jim_on_binding(h.j, on_binding_again, &h);
    host_start(&h);
    peer_open(&p, &h.s, PROTO_TCP);
    LOGIN(&p, "ann");
    EXPECT(&p, WELCOME("ann"));
    LOGIN(&p, "bob");
    EXPECT(&p, WELCOME("bob"));
    host_end(&h, "0 ann: again -1\nanswer 0\n"
                 "1 ann: again -1\n0 bob: again -1\nanswer 0\n"
                 "1 bob: again -1\n");
}

/* Who never gets an answer is cut off in time, and the answer that comes then finds nobody. */
static void
on_closed(void *arg, struct jim *j, uint64_t conn, enum jim_why why)
{
    struct host *h = arg;
    size_t n;
    const char *user = jim_conn_user(j, conn, &n);

    trace(h, "closed %s %.*s %d", jim_conn_protocol(j, conn), (int)n, user != NULL ? user : "",
          (int)why);
    tell(h);
}

TEST(embed_login_never)
{
    struct host h;
    struct peer p;

    host_new(&h);
    host_set(&h, "jim.timeout.login", "100ms");
    jim_on_login(h.j, on_login_later, &h);
    jim_on_closed(h.j, on_closed, &h);
    host_start(&h);
    peer_open(&p, &h.s, PROTO_TCP);
    LOGIN(&p, "ann");
    wait_told(&h);
    EXPECT_END(&p);
    wait_told(&h);
    inside(&h, answer_login);
    host_end(&h, "closed tcp  5\nanswer -1\n");
}

/* --- what may be refused ---------------------------------------------------------------------- */

static int
on_handshake(void *arg, struct jim *j, const struct jim_handshake *s)
{
    (void)j;
    trace(arg, "shake %.*s %.*s %.*s", T(s->path), T(s->query), T(s->host));
    return is(s->path, "/yes");
}

TEST(embed_handshake)
{
    struct host h;
    struct peer p;

    host_new(&h);
    jim_on_handshake(h.j, on_handshake, &h);
    host_start(&h);
    peer_open(&p, &h.s, PROTO_TCP);
    say(&p, 1, "{}");
    EXPECT_END(&p);
    struct reply r = ask(&h.s, "GET /no HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
                               "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                               "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
    CHECK_INT(r.status, 403);
    peer_connect(&p, &h.s);
    peer_upgrade(&p, "/yes?a=b");
    host_end(&h, "shake   \nshake /no  localhost\nshake /yes a=b localhost\n");
}

static int
on_join(void *arg, struct jim *j, uint64_t conn, struct jim_text user, struct jim_text group)
{
    (void)arg;
    CHECK(jim_conn_user(j, conn, NULL) != NULL && is(user, "ann"));
    return is(group, "no") ? 12345 : is(group, "odd") ? 1 : 0;
}

TEST(embed_join)
{
    struct host h;
    struct peer p;

    host_new(&h);
    jim_on_join(h.j, on_join, &h);
    host_start(&h);
    peer_login(&p, &h.s, PROTO_TCP, "ann");
    say(&p, 7, "{'groupId':'no'}");
    EXPECT(&p, "{'code':12345,'command':8,'msg':'refused 被拒绝','result':0}");
    say(&p, 7, "{'groupId':'odd'}"); /* 1 is no code to refuse with */
    EXPECT(&p, "{'code':10024,'command':8,'msg':'forbidden 没有权限','result':0}");
    say(&p, 7, "{'groupId':'yes'}");
    EXPECT(&p, "{'code':10011,'command':8,<...>");
    EXPECT(&p, "{'code':10011,'command':9,<...>");
    host_end(&h, NULL);
}

static int
on_chat(void *arg, struct jim *j, const struct jim_chat *c, struct jim_out *content,
        struct jim_out *extras)
{
    struct host *h = arg;
    static const char big[70000] = "x";

    (void)j;
    trace(h, "chat %d %d %d %.*s>%.*s%.*s [%.*s] %.*s", c->conn != 0, c->chat_type, c->msg_type,
          T(c->from), T(c->to), T(c->group), T(c->content), T(c->extras));
    if (is(c->content, "spam"))
        return JIM_CODE_FORBIDDEN;
    if (is(c->content, "own"))
        return 20001;
    if (is(c->content, "big"))
        jim_out_add(content, big, sizeof big);
    if (is(c->content, "bad"))
        jim_out_add(extras, "[]", 2);
    if (is(c->content, "say \"darn\"\n")) {
        jim_out_add(content, "say \"d*", 7);
        jim_out_add(content, "**\"", 3);
        jim_out_add(extras, "{\"filtered\":true}", 17);
    }
    if (is(c->content, "empty"))
        jim_out_add(content, NULL, 0);
    return 0;
}

#define SAY(content) "{'chatType':2,'content':'" content "','msgType':0,'to':'bob'}"
#define REFUSED(code, msg) "{'code':" #code ",'command':12,'msg':'" msg "'}"

TEST(embed_chat)
{
    struct host h;
    struct peer ann, bob;

    host_new(&h);
    jim_on_chat(h.j, on_chat, &h);
    host_start(&h);
    peer_login(&ann, &h.s, PROTO_TCP, "ann");
    peer_login(&bob, &h.s, PROTO_WS, "bob");
    say(&ann, 11, SAY("spam"));
    EXPECT(&ann, REFUSED(10024, "forbidden 没有权限"));
    say(&ann, 11, SAY("own"));
    EXPECT(&ann, REFUSED(20001, "refused 被拒绝"));
    say(&ann, 11, SAY("big"));
    EXPECT(&ann, REFUSED(10025, "message too large 消息过大"));
    say(&ann, 11, SAY("bad"));
    EXPECT(&ann, "{'code':10002,'command':12,<...>");
    say(&ann, 11, "{'chatType':2,'content':'say \\'darn\\'\\n','extras':{'a':1},'id':'i',"
                  "'to':'bob'}");
    EXPECT(&bob, "{'command':11,'data':{'chatType':2,'content':'say \\'d***\\'',"
                 "'createTime':<time>,'extras':{'filtered':true},'from':'ann','id':'i','seq':1,"
                 "'to':'bob'}}");
    EXPECT(&ann, "{'code':10000,'command':12,<...>");
    /* Sent again it was accepted before: neither seen nor changed once more. */
    say(&ann, 11, "{'chatType':2,'content':'spam','id':'i','to':'bob'}");
    EXPECT(&ann, "{'code':10000,'command':12,<...>");
    say(&ann, 11, SAY("empty"));
    EXPECT(&bob, "{'command':11,'data':{'chatType':2,'content':'','createTime':<time>,"
                 "'from':'ann','id':'<id>','msgType':0,'seq':2,'to':'bob'}}");
    struct reply r = api_send(&h.s, "{'chatType':2,'content':'own','from':'eve','to':'bob'}");
    CHECK_INT(r.status, 403);
    CHECK_LIKE(r.body, "{'code':20001,'command':12,'msg':'refused 被拒绝'}");
    host_end(&h, "chat 1 2 0 ann>bob [spam] \nchat 1 2 0 ann>bob [own] \n"
                 "chat 1 2 0 ann>bob [big] \nchat 1 2 0 ann>bob [bad] \n"
                 "chat 1 2 0 ann>bob [say \"darn\"\n] {\"a\":1}\nchat 1 2 0 ann>bob [empty] \n"
                 "chat 0 2 0 eve>bob [own] \n");
}

/* Tell a moderator of one that is changed, by a message, before all of the change is written. */
static int
on_chat_moderated(void *arg, struct jim *j, const struct jim_chat *c, struct jim_out *content,
                  struct jim_out *extras)
{
    struct jim_text system = {"filter", 6}, boss = {"boss", 4}, none = {NULL, 0};

    (void)arg, (void)extras;
    if (!is(c->from, "ann"))
        return 0;
    jim_out_add(content, "d*", 2);
    CHECK_INT(jim_say(j, system, boss, none, (struct jim_text){"changed", 7}), 0);
    jim_out_add(content, "**", 2);
    return 0;
}

TEST(embed_chat_said_from_within)
{
    struct host h;
    struct peer ann, bob;

    host_new(&h);
    jim_on_chat(h.j, on_chat_moderated, &h);
    host_start(&h);
    peer_login(&ann, &h.s, PROTO_TCP, "ann");
    peer_login(&bob, &h.s, PROTO_TCP, "bob");
    say(&ann, 11, SAY("darn"));
    EXPECT(&bob, "{'command':11,'data':{'chatType':2,'content':'d***',<...>");
    EXPECT(&ann, "{'code':10000,'command':12,<...>");
    host_end(&h, NULL);
}

/* --- what has happened ------------------------------------------------------------------------ */

static void
on_stored(void *arg, struct jim *j, const struct jim_stored *s)
{
    (void)j;
    trace(arg, "stored %.*s>%.*s%.*s %llu %.20s [%.*s]", T(s->from), T(s->to), T(s->group),
          (unsigned long long)s->seq, s->json.p, T(s->content));
}

static void
on_delivered(void *arg, struct jim *j, struct jim_text user, struct jim_text group, uint64_t seq)
{
    (void)j;
    trace(arg, "delivered %.*s %.*s %llu", T(user), T(group), (unsigned long long)seq);
}

TEST(embed_stored_delivered)
{
    struct host h;
    struct peer ann, bob;

    host_new(&h);
    host_set(&h, "jim.store", "on");
    jim_on_stored(h.j, on_stored, &h);
    jim_on_delivered(h.j, on_delivered, &h);
    host_start(&h);
    peer_login(&ann, &h.s, PROTO_TCP, "ann");
    peer_login(&bob, &h.s, PROTO_TCP, "bob");
    say(&ann, 11, SAY("\\'hi\\'\\\\"));
    EXPECT(&ann, "{'code':10000,<...>");
    EXPECT(&bob, "{'command':11,<...>");
    say(&bob, 7, "{'groupId':'g'}");
    EXPECT(&bob, "{'code':10011,'command':8,<...>");
    EXPECT(&bob, "{'code':10011,'command':9,<...>");
    say(&bob, 11, "{'chatType':1,'content':'all','groupId':'g'}");
    EXPECT(&bob, "{'command':11,<...>");
    EXPECT(&bob, "{'code':10000,<...>");
    host_end(&h, "stored ann>bob 1 {\"command\":11,\"data\" [\"hi\"\\]\ndelivered bob  1\n"
                 "stored bob>g 1 {\"command\":11,\"data\" [all]\ndelivered bob g 1\n");
}

static void
on_binding(void *arg, struct jim *j, const struct jim_binding *b)
{
    static const char *const names[] = {"user+", "user-", "group+", "group-"};

    (void)j;
    trace(arg, "%s%s %.*s %.*s%s%s", names[b->what], b->conn == 0 ? " nowhere" : "", T(b->user),
          T(b->group), b->edge ? " edge" : "", b->member ? " member" : "");
}

static void
on_opened(void *arg, struct jim *j, uint64_t conn)
{
    char address[64];

    jim_conn_address(j, conn, address, sizeof address);
    trace(arg, "opened %s %s", jim_conn_protocol(j, conn), address);
}

static void
bind_carl(struct host *h)
{
    CHECK_INT(jim_group_bind(h->j, "carl", 4, "g", 1, NULL), 0);
    CHECK_INT(jim_group_unbind(h->j, "carl", 4, "g", 1), 0);
    CHECK_INT(jim_group_unbind(h->j, "carl", 4, "g", 1), -1);
    CHECK_INT(jim_group_unbind(h->j, "carl", 4, "nowhere", 7), -1);
    CHECK_INT(jim_group_bind(h->j, "", 0, "g", 1, NULL), -1);
}

/* The order of J-IM's listeners: at login user, groups; at the end user, connection, groups. */
TEST(embed_binding)
{
    struct host h;
    struct peer one, two;

    host_new(&h);
    host_set(&h, "jim.login.groups", "g:G");
    jim_on_binding(h.j, on_binding, &h);
    jim_on_opened(h.j, on_opened, &h);
    jim_on_closed(h.j, on_closed, &h);
    host_start(&h);
    peer_open(&one, &h.s, PROTO_TCP);
    LOGIN(&one, "ann");
    EXPECT(&one, WELCOME("ann"));
    EXPECT(&one, "{'code':10011,'command':9,<...>");
    peer_open(&two, &h.s, PROTO_WS);
    LOGIN(&two, "ann");
    EXPECT(&two, WELCOME("ann"));
    EXPECT(&two, "{'code':10011,'command':9,<...>");
    say(&two, 7, "{'groupId':'k'}");
    EXPECT(&two, "{'code':10011,'command':8,<...>");
    EXPECT(&two, "{'code':10011,'command':9,<...>");
    inside(&h, bind_carl);
    say(&two, 14, "{}");
    wait_told(&h); /* closed: not when the peer is, but when nothing reaches him any more */
    peer_abort(&one);
    wait_told(&h);
    host_end(&h, "opened tcp 127.0.0.1\n"
                 "user+ ann  edge\ngroup+ ann g edge member\n"
                 "opened http 127.0.0.1\n" /* as every WebSocket begins */
                 "user+ ann \ngroup+ ann g\n"
                 "group+ ann k member\n"
                 "group+ nowhere carl g member\ngroup- nowhere carl g member\n"
                 "user- ann \nclosed ws ann 1\ngroup- ann k\ngroup- ann g\n"
                 "user- ann  edge\nclosed tcp ann 2\ngroup- ann k edge\ngroup- ann g edge\n");
}

TEST(embed_closed_why)
{
    struct host h;
    struct peer p;

    host_new(&h);
    host_set(&h, "jim.login.policy", "one");
    jim_on_closed(h.j, on_closed, &h);
    host_start(&h);
    peer_login(&p, &h.s, PROTO_TCP, "ann");
    put(&p, "\x02", 1); /* no version of TCP-IM */
    wait_told(&h);
    peer_login(&p, &h.s, PROTO_TCP, "ann");
    peer_close(&p);
    wait_told(&h);
    peer_login(&p, &h.s, PROTO_TCP, "bob");
    struct peer again;
    peer_login(&again, &h.s, PROTO_TCP, "bob");
    wait_told(&h);
    peer_connect(&p, &h.s);
    put_str(&p, "?"); /* never was one that speaks */
    EXPECT_END(&p);
    host_end(&h, "closed tcp ann 8\nclosed tcp ann 0\nclosed tcp bob 9\nclosed tcp bob 1\n");
}

static void
on_traffic(void *arg, struct jim *j, uint64_t conn, enum jim_traffic what, int command,
           size_t bytes, int64_t us)
{
    static const char *const names[] = {"received", "decoded", "handled", "sent"};

    CHECK(jim_conn_protocol(j, conn) != NULL && us >= 0 && (what == JIM_HANDLED || us == 0));
    trace(arg, "%s %d %zu", names[what], command, bytes);
}

static int
on_silent(void *arg, struct jim *j, uint64_t conn)
{
    struct host *h = arg;

    CHECK(jim_conn_user(j, conn, NULL) != NULL);
    trace(h, "silent");
    return h->count++ < 2;
}

TEST(embed_traffic)
{
    struct host h;
    struct peer p;

    host_new(&h);
    host_set(&h, "jim.heartbeat.timeout", "20");
    jim_on_traffic(h.j, on_traffic, &h);
    jim_on_silent(h.j, on_silent, &h);
    jim_on_closed(h.j, on_closed, &h);
    host_start(&h);
    peer_open(&p, &h.s, PROTO_TCP);
    say(&p, 5, "{'userId':'ann'}");
    EXPECT(&p, WELCOME("ann"));
    EXPECT_END(&p);
    host_end(&h, "received 0 23\ndecoded 5 16\nhandled 5 16\nsent 6 130\n"
                 "silent\nsilent\nsilent\nclosed tcp ann 7\n");
}

/* --- what is added ---------------------------------------------------------------------------- */

static int
on_user_info(void *arg, struct jim *j, uint64_t conn, struct jim_text user, int type,
             struct jim_out *json)
{
    (void)arg, (void)j, (void)conn;
    if (is(user, "nobody"))
        return -1;
    if (!is(user, "bob"))
        return 0;
    jim_out_add(json, "{\"nick\":", 8);
    jim_out_string(json, type == 2 ? "B\"b" : "b", type == 2 ? 3 : 1);
    jim_out_add(json, ",\"userId\":\"bob\"}", 16);
    return 1;
}

TEST(embed_user_info)
{
    struct host h;
    struct peer p;

    host_new(&h);
    jim_on_user_info(h.j, on_user_info, &h);
    host_start(&h);
    peer_login(&p, &h.s, PROTO_TCP, "ann");
    say(&p, 17, "{'userId':'bob'}");
    EXPECT(&p, "{'code':10003,'command':18,'data':{'nick':'B\\'b','userId':'bob'},"
               "'msg':'ok 获取用户信息成功!'}");
    say(&p, 17, "{'userId':'nobody'}");
    EXPECT(&p, "{'code':10004,'command':18,<...>");
    say(&p, 17, "{'type':0,'userId':'ann'}");
    EXPECT(&p, "{'code':10005,'command':18,'data':{'friends':[],'groups':[],<...>");
    host_end(&h, NULL);
}

TEST(embed_json_member)
{
    static const char json[] = "{ \"a\" : \"x\\\"\\u00e4\", \"b\":[1, 2],\"a\":\"last\","
                               "\"e\":\"\",\"z\":null}";
    char text[8];

    CHECK_INT(jim_json_member(json, sizeof json - 1, "a", text, sizeof text), 4);
    CHECK(strcmp(text, "last") == 0);
    CHECK_INT(jim_json_member(json, sizeof json - 1, "a", text, 4), -1);
    CHECK_INT(jim_json_member(json, 23, "a", text, sizeof text), -1); /* cut off */
    CHECK_INT(jim_json_member("{\"a\":\"x\\\"\\u00e4\"}", 17, "a", text, sizeof text), 4);
    CHECK(strcmp(text, "x\"ä") == 0);
    CHECK_INT(jim_json_member(json, sizeof json - 1, "b", text, sizeof text), 6);
    CHECK(strcmp(text, "[1, 2]") == 0);
    CHECK_INT(jim_json_member(json, sizeof json - 1, "e", text, sizeof text), 0);
    CHECK_INT(jim_json_member(json, sizeof json - 1, "z", text, sizeof text), -1);
    CHECK_INT(jim_json_member(json, sizeof json - 1, "c", text, sizeof text), -1);
    CHECK_INT(jim_json_member("[]", 2, "c", text, sizeof text), -1);
}

static void
on_command(void *arg, struct jim *j, const struct jim_request *r)
{
    char answer[128];
    int n = snprintf(answer, sizeof answer, "{\"command\":%d,\"user\":\"%.*s\",\"got\":%.*s}",
                     r->command + 1, T(r->user), T(r->json));

    (void)arg;
    jim_request_answer(j, r, r->command + 1, answer, (size_t)n);
}

TEST(embed_command)
{
    struct host h;
    struct peer p;

    host_new(&h);
    CHECK_INT(jim_on_command(h.j, 30, 0, on_command, &h), 0);
    CHECK_INT(jim_on_command(h.j, 255, 1, on_command, &h), 0);
    CHECK_INT(jim_on_command(h.j, 30, 0, on_command, &h), -1);
    CHECK_INT(jim_on_command(h.j, 22, 0, on_command, &h), -1);
    CHECK_INT(jim_on_command(h.j, 256, 0, on_command, &h), -1);
    host_start(&h);
    peer_open(&p, &h.s, PROTO_WS);
    say(&p, 30, "{'cmd':30}");
    EXPECT(&p, "{'code':10022,'command':30,'msg':'not logged in 未登录'}");
    say(&p, 254, "{'cmd':254}");
    EXPECT(&p, "{'code':10017,'command':0,<...>");
    say(&p, 255, "{}");
    EXPECT(&p, "{'command':256,'user':'','got':{'cmd':255}}");
    peer_login(&p, &h.s, PROTO_TCP, "ann");
    say_seq(&p, 9, 30, "{'n':1}");
    EXPECT_SEQ(&p, 9, "{'command':31,'user':'ann','got':{'n':1}}");
    CHECK_INT(p.cmd, 31);
    say(&p, 30, "no JSON");
    EXPECT(&p, "{'code':10020,'command':30,<...>");
    host_end(&h, NULL);
}

static int
on_http(void *arg, struct jim *j, const struct jim_http *q)
{
    if (!is(q->path, "/closed"))
        return 0;
    (void)arg;
    CHECK_INT(jim_http_answer(j, q->conn, 451, "text/plain", "no", 2), 0);
    return 1;
}

static int
on_route(void *arg, struct jim *j, const struct jim_http *q)
{
    struct host *h = arg;
    char body[256];
    int n = snprintf(body, sizeof body, "%.*s %.*s %.*s %.*s", T(q->method), T(q->path),
                     T(q->query), T(q->body));

    if (is(q->path, "/own/later")) {
        h->ticket = q->conn;
        tell(h);
        return 0;
    }
    CHECK_INT(jim_http_answer(j, q->conn, 201, "text/plain", body, (size_t)n), 0);
    CHECK_INT(jim_http_answer(j, q->conn, 201, "text/plain", body, (size_t)n), -1);
    return 0;
}

static void
answer_http(struct host *h)
{
    trace(h, "answer %d", jim_http_answer(h->j, h->ticket, 200, "text/plain", "late", 4));
}

static void
on_http_done(void *arg, struct jim *j, uint64_t conn, int status, uint64_t length)
{
    (void)j, (void)conn;
    trace(arg, "%d %llu", status, (unsigned long long)length);
}

TEST(embed_http)
{
    struct host h;
    struct peer p;
    struct reply r;

    host_new(&h);
    host_set(&h, "jim.api.key", "k");
    jim_on_http(h.j, on_http, &h);
    jim_on_http_done(h.j, on_http_done, &h);
    CHECK_INT(jim_on_route(h.j, "/own/*", "GET, POST", 1, on_route, &h), 0);
    CHECK_INT(jim_on_route(h.j, "/api/mine", "POST", 0, on_route, &h), 0);
    CHECK_INT(jim_on_route(h.j, "mine", "POST", 0, on_route, &h), -1);
    host_start(&h);
    r = ask_for(&h.s, "POST", "/own/x%20?q=1", "", "body");
    CHECK_INT(r.status, 201);
    CHECK_STR(r.body, "POST /own/x%20 q=1 body");
    CHECK_STR(header(&r, "content-type"), "text/plain");
    r = ask(&h.s, "HEAD /own/ HTTP/1.1\r\nHost: h\r\n\r\n");
    CHECK_INT(r.status, 201);
    r = ask_for(&h.s, "PUT", "/own/x", "", "");
    CHECK_INT(r.status, 405);
    CHECK_STR(header(&r, "allow"), "GET, POST");
    CHECK_INT(ask_for(&h.s, "GET", "/own", "", NULL).status, 404);
    CHECK_INT(ask_for(&h.s, "GET", "/closed", "", NULL).status, 451);
    CHECK_INT(ask_for(&h.s, "POST", "/api/mine", "", "").status, 401);
    CHECK_INT(ask_for(&h.s, "POST", "/api/mine", "Authorization: Bearer k\r\n", "").status, 201);
    peer_connect(&p, &h.s); /* what is asked behind a late answer waits for it */
    put_str(&p, "GET /own/later HTTP/1.1\r\nHost: h\r\n\r\nGET /own/b HTTP/1.1\r\nHost: h\r\n\r\n");
    wait_told(&h);
    inside(&h, answer_http);
    hear_reply(&p, &r, false);
    CHECK_STR(r.body, "late");
    hear_reply(&p, &r, false);
    CHECK_STR(r.body, "GET /own/b  ");
    put_str(&p, "GET /own/later HTTP/1.1\r\nHost: h\r\n\r\n");
    wait_told(&h);
    peer_abort(&p);
    CHECK_INT(ask_for(&h.s, "GET", "/healthz", "", NULL).status, 200);
    inside(&h, answer_http);
    host_end(&h, "201 23\n201 12\n405 39\n404 30\n451 2\n401 33\n201 16\n200 4\nanswer 0\n"
                 "201 12\n200 15\nanswer -1\n");
}

/* A page of another origin may use an own route as it may the API. */
TEST(embed_route_cors)
{
    static const char here[] = "Origin: http://a.example\r\n";
    struct host h;
    struct peer p;
    struct reply r;

    host_new(&h);
    host_set(&h, "jim.api.key", "k");
    host_set(&h, "jim.http.cors", "http://a.example");
    CHECK_INT(jim_on_route(h.j, "/own/*", "GET, POST", 1, on_route, &h), 0);
    CHECK_INT(jim_on_route(h.j, "/mine", "PUT", 0, on_route, &h), 0);
    CHECK_INT(jim_on_route(h.j, "/any", "GET, OPTIONS", 0, on_route, &h), 0);
    host_start(&h);
    r = ask_for(&h.s, "OPTIONS", "/mine", here, NULL);
    CHECK_INT(r.status, 204);
    CHECK_STR(header(&r, "access-control-allow-origin"), "http://a.example");
    CHECK_STR(header(&r, "access-control-allow-methods"), "PUT, OPTIONS");
    CHECK_STR(header(&r, "allow"), "PUT, OPTIONS");
    r = ask_for(&h.s, "OPTIONS", "/mine", "Origin: http://b.example\r\n", NULL);
    CHECK_INT(r.status, 204);
    CHECK_STR(header(&r, "access-control-allow-origin"), "");
    CHECK_STR(header(&r, "vary"), "origin");
    r = ask_for(&h.s, "PUT", "/mine", here, "");
    CHECK_INT(r.status, 401);
    CHECK_STR(header(&r, "access-control-allow-origin"), "http://a.example");
    CHECK_STR(header(&r, "www-authenticate"), "Bearer");
    r = ask_for(&h.s, "GET", "/own/x", here, NULL);
    CHECK_INT(r.status, 201);
    CHECK_STR(header(&r, "access-control-allow-origin"), "http://a.example");
    r = ask_for(&h.s, "GET", "/own/x", "", NULL);
    CHECK_INT(r.status, 201);
    CHECK_STR(header(&r, "vary"), "");
    r = ask_for(&h.s, "OPTIONS", "/any", "Authorization: Bearer k\r\n", NULL); /* the function's */
    CHECK_INT(r.status, 201);
    peer_connect(&p, &h.s); /* an answer that comes later has it, and the next one not */
    put_str(&p, "GET /own/later HTTP/1.1\r\nHost: h\r\nOrigin: http://a.example\r\n\r\n"
                "GET /own/x HTTP/1.1\r\nHost: h\r\n\r\n");
    wait_told(&h);
    inside(&h, answer_http);
    hear_reply(&p, &r, false);
    CHECK_STR(header(&r, "access-control-allow-origin"), "http://a.example");
    hear_reply(&p, &r, false);
    CHECK_INT(r.status, 201);
    CHECK_STR(header(&r, "access-control-allow-origin"), "");
    host_end(&h, "answer 0\n");
}

/* --- an own protocol: lines ------------------------------------------------------------------- */

/* `LINE login NAME`, `LINE to NAME TEXT`, `LINE group NAME TEXT`, `LINE raw NUMBER JSON`. */
static int
line_detect(void *arg, const char *p, size_t n)
{
    (void)arg;
    return memcmp(p, "LINE ", n < 5 ? n : 5) != 0 ? 0 : n < 5 ? -1 : 1;
}

static ptrdiff_t
line_decode(void *arg, struct jim *j, uint64_t conn, const char *p, size_t n, int *command,
            struct jim_out *json)
{
    const char *end = memchr(p, '\n', n);
    char line[256], name[64], text[128] = "";

    (void)arg;
    CHECK(strcmp(jim_conn_protocol(j, conn), "line") == 0);
    if (end == NULL)
        return 0;
    snprintf(line, sizeof line, "%.*s", (int)(end - p), p);
    if (sscanf(line, "LINE login %63s", name) == 1)
        *command = 5;
    else if (sscanf(line, "LINE to %63s %127[^\n]", name, text) == 2)
        *command = 11;
    else if (sscanf(line, "LINE bad%1s", name) == 1)
        return -1;
    else if (sscanf(line, "LINE fetch %63s", name) == 1)
        *command = 19;
    else if (sscanf(line, "LINE join %63s", name) == 1)
        *command = 7;
    static const char *const form[] = {[5] = "userId", [7] = "groupId", [11] = "to",
                                       [19] = "userId"};
    if (*command > 0) {
        jim_out_add(json, "{\"", 2);
        jim_out_add(json, form[*command], strlen(form[*command]));
        jim_out_add(json, "\":", 2);
        jim_out_string(json, name, strlen(name));
        if (*command == 11) {
            jim_out_add(json, ",\"chatType\":2,\"content\":", 24);
            jim_out_string(json, text, strlen(text));
        }
        jim_out_add(json, *command == 19 ? ",\"type\":0}" : "}", *command == 19 ? 10 : 1);
    }
    return end - p + 1;
}

/* Of a chat its JSON, of other commands the number; of 9 nothing. */
static void
line_encode(void *arg, int command, const char *json, size_t n, struct jim_out *bytes)
{
    struct host *h = arg;
    char number[16];

    h->count++;
    if (command == 9)
        return;
    jim_out_add(bytes, number, (size_t)snprintf(number, sizeof number, "%d ", command));
    if (command == 11 || command == 20)
        jim_out_add(bytes, json, n);
    jim_out_add(bytes, "\n", 1);
}

static void
hear_line(struct peer *p, const char *want)
{
    CHECK(hear_bytes(p, strlen(want)));
    CHECK_STR(p->text, want);
}

static void
use_lines(struct host *h, struct jim_protocol *line)
{
    *line = (struct jim_protocol){"line", h, line_detect, line_decode, line_encode};
    CHECK_INT(jim_on_protocol(h->j, line), 0);
}

TEST(embed_protocol)
{
    struct host h;
    struct jim_protocol line;
    struct peer p, ann;
    static const char *const texts[] = {"L", "IN", "E login bo", "b\nLINE to ann one\nLINE no",
                                        "thing\nLINE to ann two\n"};

    host_new(&h);
    use_lines(&h, &line);
    host_start(&h);
    peer_login(&ann, &h.s, PROTO_TCP, "ann");
    peer_connect(&p, &h.s);
    for (size_t i = 0; i < COUNT(texts); i++)
        put_str(&p, texts[i]);
    hear_line(&p, "6 \n12 \n12 \n");
    EXPECT(&ann, "{'command':11,'data':{'chatType':2,'content':'one',<...>");
    EXPECT(&ann, "{'command':11,'data':{'chatType':2,'content':'two',<...>");
    say(&ann, 17, "{'userId':'bob'}");
    EXPECT(&ann, "{'code':10003,'command':18,'data':{'nick':'bob','status':'online',"
                 "'terminal':'line','userId':'bob'},<...>");
    say(&ann, 11, "{'chatType':2,'content':'back','createTime':1,'id':'x','to':'bob'}");
    EXPECT(&ann, "{'code':10000,<...>");
    CHECK(hear_bytes(&p, 3));
    CHECK_STR(p.text, "11 ");
    put_str(&p, "LINE bad!\n");
    hear_end(&p);
    struct peer other; /* jim's own are not disturbed */
    peer_login(&other, &h.s, PROTO_WS, "ws");
    CHECK_INT(ask_for(&h.s, "GET", "/healthz", "", NULL).status, 200);
    peer_connect(&other, &h.s);
    put_str(&other, "LIST / HTTP/1.1\r\nHost: h\r\n\r\n"); /* not LINE, once that is clear */
    struct reply r;
    hear_reply(&other, &r, false);
    CHECK_INT(r.status, 405);
    host_end(&h, NULL);
}

/* A message to many is encoded once; one that the protocol has nothing for counts as delivered. */
TEST(embed_protocol_many)
{
    struct host h;
    struct jim_protocol line;
    struct peer p[3], ann;

    host_new(&h);
    host_set(&h, "jim.store", "on");
    use_lines(&h, &line);
    host_start(&h);
    peer_login(&ann, &h.s, PROTO_TCP, "ann");
    for (int i = 0; i < 3; i++) {
        peer_connect(&p[i], &h.s);
        char text[64];
        snprintf(text, sizeof text, "LINE login u%d\nLINE join g\n", i);
        put_str(&p[i], text);
        hear_line(&p[i], "6 \n8 \n");
    }
    say(&ann, 7, "{'groupId':'g'}");
    EXPECT(&ann, "{'code':10011,'command':8,<...>");
    EXPECT(&ann, "{'code':10011,'command':9,<...>");
    say(&ann, 11, "{'chatType':1,'content':'x','groupId':'g'}");
    for (int i = 0; i < 3; i++) {
        CHECK(hear_bytes(&p[i], 3));
        CHECK_STR(p[i].text, "11 ");
    }
    host_end(&h, NULL);
    /* Answers 6 and 8, notices of oneself, notices of u1, u2 and ann to all others, the message. */
    CHECK_INT(h.count, 3 + 3 + 3 + 3 + 1);
}

/* What has been delivered over it is not offline; what was fetched over it is not either. */
TEST(embed_protocol_cursor)
{
    struct host h;
    struct jim_protocol line;
    struct peer p, ann;

    host_new(&h);
    host_set(&h, "jim.store", "on");
    use_lines(&h, &line);
    host_start(&h);
    peer_login(&ann, &h.s, PROTO_TCP, "ann");
    say(&ann, 11, SAY("early"));
    EXPECT(&ann, "{'code':10001,<...>");
    peer_connect(&p, &h.s);
    put_str(&p, "LINE login bob\nLINE fetch bob\n");
    CHECK(hear_bytes(&p, strlen("6 \n20 ")));
    do
        CHECK(hear_bytes(&p, 1));
    while (p.text.p[0] != '\n');
    say(&ann, 11, SAY("live"));
    EXPECT(&ann, "{'code':10000,<...>");
    CHECK(hear_bytes(&p, 3));
    do
        CHECK(hear_bytes(&p, 1));
    while (p.text.p[0] != '\n');
    peer_login(&ann, &h.s, PROTO_TCP, "bob");
    say(&ann, 19, "{'type':0,'userId':'bob'}");
    EXPECT(&ann, "{'code':10016,'command':20,'data':{'friends':{},'groups':{},'userId':'bob'},"
                 "<...>");
    host_end(&h, NULL);
}

/* --- an own store: in memory ------------------------------------------------------------------ */

struct memory {
    struct host *h;
    struct {
        struct jim_record rec;
        char text[512];
    } kept[64];
    size_t n, safe;     /* records; of them durable */
    bool hold, refuse;  /* nothing becomes durable; nothing is taken */
    int opened, closed;
};

static int
memory_open(void *arg, struct jim_replay *r)
{
    struct memory *m = arg;

    m->opened++;
    for (size_t i = 0; i < m->n; i++)
        jim_replay(r, &m->kept[i].rec);
    return 0;
}

static int
memory_append(void *arg, const struct jim_record *rec)
{
    struct memory *m = arg;

    if (m->refuse)
        return -1;
    CHECK(m->n < COUNT(m->kept) && rec->conv.n + rec->json.n < sizeof m->kept[0].text);
    CHECK(m->n == 0 || rec->number == m->kept[m->n - 1].rec.number + 1); /* what is lost is free */
    char *text = m->kept[m->n].text;
    memcpy(text, rec->conv.p, rec->conv.n);
    memcpy(text + rec->conv.n, rec->json.p, rec->json.n);
    m->kept[m->n].rec = *rec;
    m->kept[m->n].rec.conv.p = text;
    m->kept[m->n++].rec.json.p = text + rec->conv.n;
    return 0;
}

static void
memory_commit(void *arg)
{
    struct memory *m = arg;

    if (m->hold || m->safe == m->n)
        return;
    m->safe = m->n;
    jim_store_durable(m->h->j, m->kept[m->n - 1].rec.number);
    jim_store_durable(m->h->j, 1); /* an older one, told late: takes nothing back */
}

static int
memory_read(void *arg, const char *conv, size_t n, uint64_t seq, struct jim_out *json,
            int64_t *time_ms)
{
    struct memory *m = arg;

    for (size_t i = 0; i < m->safe; i++) {
        const struct jim_record *r = &m->kept[i].rec;
        if (r->type != 'M' || r->seq != seq || r->conv.n != n || memcmp(r->conv.p, conv, n) != 0)
            continue;
        jim_out_add(json, r->json.p, r->json.n);
        *time_ms = r->time_ms;
        return 0;
    }
    return -1;
}

static int
memory_close(void *arg)
{
    ((struct memory *)arg)->closed++;
    return 0;
}

static void
use_memory(struct host *h, struct memory *m)
{
    struct jim_store s = {m, memory_open, memory_append, memory_commit, memory_read, memory_close};

    m->h = h;
    jim_use_store(h->j, &s);
}

TEST(embed_store)
{
    static struct memory m;
    struct host h;
    struct peer ann, bob;

    host_new(&h);
    use_memory(&h, &m);
    host_start(&h);
    peer_login(&ann, &h.s, PROTO_TCP, "ann");
    say(&ann, 11, "{'chatType':2,'content':'one','id':'i1','to':'bob'}");
    EXPECT(&ann, "{'code':10001,'command':12,'data':{'createTime':<time>,'id':'i1','seq':1},<...>");
    say(&ann, 11, "{'chatType':2,'content':'two','id':'i2','to':'bob'}");
    EXPECT(&ann, "{'code':10001,'command':12,'data':{'createTime':<time>,'id':'i2','seq':2},<...>");
    host_end(&h, NULL);
    CHECK_INT(m.opened, 1);
    CHECK_INT(m.closed, 1);

    host_new(&h); /* all of it comes back */
    host_set(&h, "jim.store", "on"); /* the default, which makes no directory beside it */
    use_memory(&h, &m);
    host_start(&h);
    peer_login(&ann, &h.s, PROTO_TCP, "ann");
    say(&ann, 11, "{'chatType':2,'content':'one','id':'i1','to':'bob'}"); /* a retry still */
    EXPECT(&ann, "{'code':10001,'command':12,'data':{'createTime':<time>,'id':'i1','seq':1},<...>");
    say(&ann, 11, "{'chatType':2,'content':'three','id':'i3','to':'bob'}");
    EXPECT(&ann, "{'code':10001,'command':12,'data':{'createTime':<time>,'id':'i3','seq':3},<...>");
    peer_login(&bob, &h.s, PROTO_TCP, "bob");
    say(&bob, 19, "{'type':0,'userId':'bob'}");
    EXPECT(&bob, "{'code':10016,'command':20,'data':{'friends':{'ann':[{'chatType':2,"
                 "'content':'one',<...>");
    CHECK(heard(&bob, "\"two\"") && heard(&bob, "\"three\""));
    say(&bob, 19, "{'count':1,'fromUserId':'ann','offset':1,'type':1,'userId':'bob'}");
    EXPECT(&bob, "{'code':10018,'command':20,'data':{'friends':{'ann':[{'chatType':2,"
                 "'content':'two',<...>");
    CHECK(!heard(&bob, "one") && !heard(&bob, "three"));
    host_end(&h, NULL);
    CHECK(access("jim-data", F_OK) != 0);
}

static struct memory held;

static void
lose_all(struct host *h)
{
    held.n = held.safe;
    held.hold = false;
    jim_store_lost(h->j);
}

/* What comes before the server has heard of the loss is refused: it must not be in the store under
 * a number that is given anew. */
static void
lose_all_and_say(struct host *h)
{
    struct jim_text ann = {"ann", 3}, bob = {"bob", 3}, none = {NULL, 0};

    lose_all(h);
    CHECK_INT(jim_say(h->j, ann, bob, none, (struct jim_text){"early", 5}), 10027);
    CHECK_INT(held.n, held.safe);
}

static void
hold_all(struct host *h)
{
    (void)h;
    held.hold = true;
}

static void
refuse_all(struct host *h)
{
    (void)h;
    held.refuse = true;
}

/* Nothing is shown before it is durable; what is lost was shown to nobody, and its number is given
 * anew. */
TEST(embed_store_loses)
{
    struct host h;
    struct peer ann, bob;

    host_new(&h);
    use_memory(&h, &held);
    host_start(&h);
    peer_login(&ann, &h.s, PROTO_TCP, "ann");
    peer_login(&bob, &h.s, PROTO_TCP, "bob");
    say(&ann, 11, SAY("kept"));
    EXPECT(&ann, "{'code':10000,<...>");
    EXPECT(&bob, "{'command':11,<...>");
    inside(&h, hold_all);
    say(&ann, 11, SAY("lost"));
    EXPECT_QUIET(&bob);
    inside(&h, lose_all);
    EXPECT(&ann, "{'code':10027,<...>");
    say(&ann, 11, SAY("again"));
    EXPECT(&bob, "{'command':11,'data':{'chatType':2,'content':'again',<...>");
    CHECK_INT(number(&bob, "seq"), 2);
    EXPECT(&ann, "{'code':10000,<...>");
    inside(&h, hold_all);
    say(&ann, 11, SAY("lost"));
    EXPECT_QUIET(&bob);
    inside(&h, lose_all_and_say);
    EXPECT(&ann, "{'code':10027,<...>");
    say(&ann, 11, SAY("once more"));
    EXPECT(&bob, "{'command':11,'data':{'chatType':2,'content':'once more',<...>");
    CHECK_INT(number(&bob, "seq"), 3);
    EXPECT(&ann, "{'code':10000,<...>");
    inside(&h, refuse_all);
    say(&ann, 11, SAY("no"));
    EXPECT(&ann, "{'code':10027,<...>");
    host_end(&h, NULL);
}

/* --- calls ------------------------------------------------------------------------------------ */

static void
send_all_ways(struct host *h)
{
    static const char *const users[] = {"ann", "nobody", "bob"};
    static const char json[] = "{\"command\":40}";
    size_t n = sizeof json - 1;
    uint64_t ids[4];

    CHECK_INT(jim_send_user(h->j, "ann", 3, 40, json, n), 2);
    CHECK_INT(jim_send_user(h->j, "nobody", 6, 40, json, n), 0);
    CHECK_INT(jim_send_users(h->j, users, COUNT(users), 40, json, n), 3);
    CHECK_INT(jim_send_group(h->j, "g", 1, 40, json, n), 1);
    CHECK_INT(jim_send_group(h->j, "none", 4, 40, json, n), 0);
    CHECK_INT(jim_send_all(h->j, 40, json, n), 0);
    CHECK_INT(jim_user_conns(h->j, "bob", 3, ids, 4), 1);
    CHECK_INT(jim_send_conn(h->j, ids[0], 40, json, n), 1);
    CHECK_INT(jim_send_conn(h->j, ids[0] + (1u << 24), 40, json, n), 0);
    CHECK_INT(jim_send_conn(h->j, 0, 40, json, n), 0);
    CHECK_INT(jim_user_conns(h->j, "ann", 3, ids, 1), 2);
    CHECK_INT(jim_user_conns(h->j, "nobody", 6, ids, 1), 0);
    CHECK_INT(jim_conn_count(h->j), 3);
}

static void
note_member(void *arg, const char *user, size_t n, int online)
{
    trace(arg, "member %.*s %d", (int)n, user, online);
}

static void
members(struct host *h)
{
    CHECK_INT(jim_group_bind(h->j, "carl", 4, "g", 1, NULL), 0);
    CHECK_INT(jim_group_members(h->j, "g", 1, note_member, h), 2);
    CHECK_INT(jim_group_members(h->j, "none", 4, note_member, h), 0);
    CHECK(jim_conn_protocol(h->j, 12345) == NULL && jim_conn_get(h->j, 12345) == NULL);
    CHECK_INT(jim_conn_set(h->j, 12345, h, NULL), -1);
    CHECK_INT(jim_close_conn(h->j, 12345), 0);
    CHECK_INT(jim_close_user(h->j, "ann", 3), 2);
    CHECK_INT(jim_close_user(h->j, "nobody", 6), 0);
}

static void
bind_bob(struct host *h)
{
    CHECK_INT(jim_group_bind(h->j, "bob", 3, "g", 1, "Gees"), 0);
}

TEST(embed_calls)
{
    struct host h;
    struct peer ann, two, bob;

    host_new(&h);
    host_start(&h);
    peer_login(&ann, &h.s, PROTO_TCP, "ann");
    peer_login(&two, &h.s, PROTO_WS, "ann");
    peer_login(&bob, &h.s, PROTO_TCP, "bob");
    inside(&h, bind_bob);
    EXPECT(&bob, "{'code':10011,'command':9,'group':'g',<...>");
    inside(&h, send_all_ways);
    for (int i = 0; i < 3; i++) {
        EXPECT(&ann, "{'command':40}");
        EXPECT(&two, "{'command':40}");
        EXPECT(&bob, "{'command':40}");
    }
    EXPECT(&bob, "{'command':40}");
    CHECK_INT(bob.cmd, 40);
    EXPECT_QUIET(&ann);
    EXPECT_QUIET(&bob);
    inside(&h, members);
    EXPECT_END(&ann);
    EXPECT_CLOSE(&two, 1000);
    host_end(&h, "member bob 1\nmember carl 0\n");
}

/* A robot: answers what is said to it, from within the hook. */
static void
echo(void *arg, struct jim *j, const struct jim_stored *s)
{
    char json[128];
    int n = snprintf(json, sizeof json, "{\"chatType\":2,\"content\":\"you said %llu\","
                     "\"from\":\"echo\",\"to\":\"%.*s\"}", (unsigned long long)s->seq, T(s->from));

    (void)arg;
    if (is(s->to, "echo"))
        CHECK_INT(jim_chat(j, json, (size_t)n), 0);
}

static void
bad_chats(struct host *h)
{
    CHECK_INT(jim_chat(h->j, "{", 1), 10002);
    CHECK_INT(jim_chat(h->j, "{\"chatType\":2}", 14), 10002);
    static const char many[] = "{\"chatType\":2,\"content\":\"x\",\"to\":[\"ann\",\"echo\"]}";
    CHECK_INT(jim_chat(h->j, many, sizeof many - 1), 0);
}

static void
say_things(struct host *h)
{
    struct jim_text none = {NULL, 0}, to = {"ann", 3}, from = {"console", 7}, text = {"\"\1", 2};

    CHECK_INT(jim_say(h->j, from, to, none, text), 0);
    CHECK_INT(jim_say(h->j, from, none, to, text), 10030); /* no such group */
    CHECK_INT(jim_say(h->j, none, to, none, text), 10002);
}

static void
embed_echo(const char *store)
{
    struct host h;
    struct peer ann;

    host_new(&h);
    host_set(&h, "jim.store", store);
    jim_on_stored(h.j, echo, &h);
    host_start(&h);
    peer_login(&ann, &h.s, PROTO_TCP, "ann");
    for (int i = 0; i < 50; i++) {
        say(&ann, 11, "{'chatType':2,'content':'hello','to':'echo'}");
        bool acked = false, echoed = false;
        while (!acked || !echoed) { /* in whichever order */
            CHECK(hear(&ann));
            acked |= ann.cmd == 12;
            echoed |= ann.cmd == 11 && heard(&ann, "you said");
        }
    }
    inside(&h, say_things);
    EXPECT(&ann, "{'command':11,'data':{'chatType':2,'content':'\\'\\u0001','createTime':<time>,"
                 "'from':'console','id':'<id>',<...>");
    inside(&h, bad_chats);
    EXPECT(&ann, "{'command':11,'data':{'chatType':2,'content':'x','createTime':<time>,"
                 "'from':'system',<...>");
    host_end(&h, NULL);
}

TEST(embed_chat_from_hook)
{
    embed_echo("off");
    embed_echo("on");
}

static void
destroy(void *own)
{
    struct host *h = *(struct host **)own;

    trace(h, "destroyed");
    free(own);
}

static void
set_own(void *arg, struct jim *j, uint64_t conn)
{
    for (int i = 0; i < 2; i++) {
        struct host **own = xmalloc(sizeof *own);
        *own = arg;
        CHECK_INT(jim_conn_set(j, conn, own, destroy), 0);
        CHECK(jim_conn_get(j, conn) == own);
    }
}

static void
see_own(void *arg, struct jim *j, uint64_t conn, enum jim_why why)
{
    CHECK(*(struct host **)jim_conn_get(j, conn) == arg);
    on_closed(arg, j, conn, why);
}

TEST(embed_conn_pointer)
{
    struct host h;
    struct peer p;

    host_new(&h);
    jim_on_opened(h.j, set_own, &h);
    jim_on_closed(h.j, see_own, &h);
    host_start(&h);
    peer_login(&p, &h.s, PROTO_TCP, "ann");
    peer_close(&p);
    wait_told(&h);
    host_end(&h, "destroyed\nclosed tcp ann 0\ndestroyed\n");
}

/* Who is told that his pointer goes finds no connection any more to give another to. */
static struct late {
    struct host *h;
    uint64_t conn;
} late;

static void
destroy_late(void *own)
{
    struct late *l = own;

    trace(l->h, "set %d, get %d, speaks %d",
          jim_conn_set(l->h->j, l->conn, own, destroy_late),
          jim_conn_get(l->h->j, l->conn) != NULL, jim_conn_protocol(l->h->j, l->conn) != NULL);
    tell(l->h);
}

static void
set_late(void *arg, struct jim *j, uint64_t conn)
{
    late = (struct late){arg, conn};
    CHECK_INT(jim_conn_set(j, conn, &late, destroy_late), 0);
}

TEST(embed_conn_pointer_goes_last)
{
    struct host h;
    struct peer p;

    host_new(&h);
    jim_on_opened(h.j, set_late, &h);
    host_start(&h);
    peer_login(&p, &h.s, PROTO_TCP, "ann");
    peer_close(&p);
    wait_told(&h);
    host_end(&h, "set -1, get 0, speaks 0\n");
}

/* --- loops and threads ------------------------------------------------------------------------ */

#define POSTERS 4
#define POSTS 3000

struct poster {
    struct host *h;
    pthread_t thread;
    int next; /* in the server's thread: each comes in its turn */
};

struct posted {
    struct poster *from;
    int n;
};

static void
take_post(struct jim *j, void *arg)
{
    struct posted *p = arg;

    CHECK(j == p->from->h->j);
    CHECK_INT(p->n, p->from->next);
    p->from->next++;
    free(p);
}

static void *
post_many(void *arg)
{
    struct poster *from = arg;

    for (int i = 0; i < POSTS; i++) {
        struct posted *p = xmalloc(sizeof *p);
        *p = (struct posted){from, i};
        CHECK_INT(jim_post(from->h->j, take_post, p), 0);
    }
    return NULL;
}

static void
note_freed(struct jim *j, void *arg)
{
    CHECK(j == NULL);
    ++*(int *)arg;
}

TEST(embed_post)
{
    struct poster poster[POSTERS] = {{0}};
    struct host h;
    int freed = 0;

    host_new(&h);
    host_start(&h);
    for (int i = 0; i < POSTERS; i++) {
        poster[i].h = &h;
        CHECK(pthread_create(&poster[i].thread, NULL, post_many, &poster[i]) == 0);
    }
    for (int i = 0; i < POSTERS; i++)
        CHECK(pthread_join(poster[i].thread, NULL) == 0);
    jim_stop(h.j);
    CHECK(pthread_join(h.thread, NULL) == 0);
    CHECK_INT(jim_post(h.j, note_freed, &freed), 0); /* nobody runs it any more */
    jim_free(h.j);
    CHECK_INT(freed, 1);
    for (int i = 0; i < POSTERS; i++)
        CHECK(poster[i].next <= POSTS);
    h.j = jim_new(); /* never started: the queue has its bound */
    for (int i = 0; i < 65536; i++)
        CHECK_INT(jim_post(h.j, note_freed, &freed), 0);
    CHECK_INT(jim_post(h.j, note_freed, &freed), -1);
    jim_free(h.j);
    CHECK_INT(freed, 65537);
}

/* Two servers in one loop that is neither's; a client in a thread talks to both, then ends them. */
static void *
talk_to_both(void *arg)
{
    struct host *h = arg;
    struct peer ann, bob;

    test_begins();
    for (int i = 0; i < 2; i++) {
        peer_login(&ann, &h[i].s, PROTO_TCP, "ann");
        peer_login(&bob, &h[i].s, PROTO_WS, "bob");
        say(&ann, 11, SAY("hi"));
        EXPECT(&bob, "{'command':11,<...>");
        CHECK_INT(number(&bob, "seq"), 1); /* they know nothing of each other */
        EXPECT(&ann, "{'code':10000,<...>");
    }
    for (int i = 0; i < 2; i++)
        jim_stop(h[i].j);
    return NULL;
}

static int
poll_both(struct host *h, const int *running)
{
    struct pollfd fds[2];
    int wait = -1;

    for (int i = 0; i < 2; i++) {
        fds[i] = (struct pollfd){.fd = running[i] == 1 ? jim_fd(h[i].j) : -1, .events = POLLIN};
        int least = running[i] == 1 ? jim_timeout(h[i].j) : -1;
        if (running[i] == 1 && fds[i].fd < 0 && (least < 0 || least > 1))
            least = 1; /* no descriptor to wait for: the poll backend */
        if (least >= 0 && (wait < 0 || least < wait))
            wait = least;
    }
    return poll(fds, 2, wait);
}

TEST(embed_foreign_loop)
{
    struct host h[2];
    pthread_t client;
    int running[2] = {1, 1};

    for (int i = 0; i < 2; i++) {
        host_new(&h[i]);
        host_set(&h[i], "jim.store", "on");
        host_set(&h[i], "jim.store.dir", i == 0 ? "one" : "two");
        host_listen(&h[i]);
    }
    CHECK(pthread_create(&client, NULL, talk_to_both, h) == 0);
    while (running[0] == 1 || running[1] == 1) {
        CHECK(poll_both(h, running) >= 0);
        for (int i = 0; i < 2; i++)
            if (running[i] == 1)
                running[i] = jim_poll(h[i].j, 0);
    }
    CHECK(pthread_join(client, NULL) == 0);
    for (int i = 0; i < 2; i++) {
        CHECK_INT(running[i], JIM_OK);
        jim_free(h[i].j);
        buf_free(&h[i].trace);
    }
}

/* What is called between two turns gets on its way without anything else happening. */
TEST(embed_calls_between_turns)
{
    static const char json[] = "{\"chatType\":2,\"content\":\"x\",\"to\":\"ann\"}";
    struct host h;
    static struct memory m;

    host_new(&h);
    use_memory(&h, &m);
    host_listen(&h);
    while (jim_timeout(h.j) == 0)
        CHECK_INT(jim_poll(h.j, 0), 1);
    CHECK_INT(jim_chat(h.j, json, sizeof json - 1), 0);
    CHECK_INT(jim_timeout(h.j), 0);
    for (int i = 0; i < 3; i++)
        CHECK_INT(jim_poll(h.j, 0), 1);
    CHECK_INT(m.safe, 1);
    jim_stop(h.j);
    CHECK_INT(jim_timeout(h.j), 0);
    int running = jim_poll(h.j, 0);
    CHECK_INT(jim_timeout(h.j), 0); /* nobody is there to be waited for */
    while ((running = jim_poll(h.j, -1)) == 1)
        ;
    CHECK_INT(running, JIM_OK);
    jim_free(h.j);
    buf_free(&h.trace);
}

/* A cluster is the program's alone: hooks would be told of one node, and of no other. */
TEST(embed_no_cluster)
{
    struct host h;

    host_new(&h);
    host_set(&h, "jim.store", "on");
    host_set(&h, "jim.cluster", "on");
    host_set(&h, "jim.log.file", "log");
    CHECK_INT(jim_start(h.j), JIM_BAD_CONFIG);
    jim_free(h.j);
    struct buf log = read_whole("log");
    CHECK(has(log, " error: jim.cluster=on is for the program jim: an embedding program would be "
                   "told of this node alone\n"));
    buf_free(&log);
    close(h.pipe[0]);
    close(h.pipe[1]);
}
