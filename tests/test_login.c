/* SPDX-License-Identifier: MIT */
/*
 * test_login.c - logging in to a running server that checks who one is: by users file, by token,
 * and by a web service, which the test plays itself. What is asked behind a login waits for it;
 * what others ask does not.
 */
#include "client.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#define COUNT(a) (sizeof(a) / sizeof(a)[0])
#define SECRET "0123456789abcdef0123456789abcdef"
#define AT_ONCE "-o", "jim.auth.delay=0"
#define BY_FILE "-o", "jim.auth=file", "-o", "jim.users.file=users"
#define BY_TOKEN "-o", "jim.auth=token", "-o", "jim.token.secret=" SECRET

#define REFUSED "{'code':10008,'command':6,'msg':'login failed ! 登录失败!'}"
#define LATER "{'code':10008,'command':6,'msg':'try later 请稍后再试'}"
#define WELCOME(user)                                                                              \
    "{'code':10007,'command':6,'msg':'ok 登录成功!','user':{'nick':'" user                         \
    "','status':'online','terminal':'<terminal>','userId':'" user "'}}"
#define JOINED(group, user)                                                                        \
    "{'code':10011,'command':9,'group':'" group "','msg':'join group ok! 加入群组成功!','user':{"  \
    "'nick':'" user "','status':'online','userId':'" user "'}}"
#define BEAT "{'command':13,'data':{'hbbyte':-128}}"

/* --- the users file --------------------------------------------------------------------------- */

/* A line for the users file; more: further members, with ' for ". */
static void
put_entry(struct buf *b, const char *user, const char *password, uint32_t rounds, const char *more)
{
    struct verifier v;

    test_begins();
    verifier_make(&v, str_of(password), rounds);
    buf_printf(b, "{\"userId\":\"%s\",\"password\":\"", user);
    verifier_put(b, &v);
    buf_printf(b, "\"");
    size_t at = b->len;
    buf_printf(b, "%s}\n", more);
    for (; at < b->len; at++)
        if (b->p[at] == '\'')
            b->p[at] = '"';
}

/* User, password, more; and so on up to a NULL. */
static void
write_users(const char *user, ...)
{
    struct buf b = {0};
    va_list ap;

    va_start(ap, user);
    for (; user != NULL; user = va_arg(ap, const char *)) {
        const char *password = va_arg(ap, const char *);
        put_entry(&b, user, password, 20, va_arg(ap, const char *));
    }
    va_end(ap);
    buf_add(&b, "", 1);
    write_file("users", b.p);
    buf_free(&b);
}

static void
talk_file(enum proto proto)
{
    static const char *const bad[] = {
        "{'userId':'ann','password':'wrong'}", "{'userId':'ann'}",
        "{'userId':'ann','password':''}",      "{'userId':'ann','password':null}",
        "{'userId':'nobody','password':'sesame'}", "{'userId':'Ann','password':'sesame'}",
        "{'userId':'ann','password':'sesame '}", "{'userId':'bob','password':'sesame'}",
        "{'password':'sesame'}",               "{'userId':'','password':'sesame'}",
        "{'userId':['ann'],'password':'sesame'}", "{'userId':'ann','password':['sesame']}",
        "{'userId':'ann','token':'sesame'}",   "[]", "{"};
    struct server s;
    struct peer p;

    write_users("ann", "sesame", "", "bob", "s\xc3\xa9same", "", NULL);
    server_start(&s, BY_FILE, AT_ONCE, NULL);
    for (size_t i = 0; i < COUNT(bad); i++) {
        if (proto == PROTO_WS && bad[i][0] == '[')
            break; /* without a cmd it is no login */
        peer_open(&p, &s, proto);
        say(&p, 5, bad[i]);
        EXPECT(&p, REFUSED);
        if (proto == PROTO_WS)
            EXPECT_CLOSE(&p, 1008);
        else
            EXPECT_END(&p);
        peer_close(&p);
    }
    peer_open(&p, &s, proto);
    say(&p, 5, "{'userId':'ann','password':'sesame'}");
    EXPECT(&p, WELCOME("ann"));
    EXPECT_QUIET(&p); /* no group: those at login are for the open one */
    peer_open(&p, &s, proto);
    say(&p, 5, "{'loginname':'bob','password':'s\\u00e9same'}");
    EXPECT(&p, WELCOME("bob"));
}

TEST(login_file) { talk_file(PROTO_TCP); }
TEST(login_file_ws) { talk_file(PROTO_WS); }

TEST(login_query)
{
    static const char *const bad[] = {
        "/?username=ann", "/?username=ann&password=wrong", "/?username=ann&password=ses%61m",
        "/?username=ann&password=%zz", "/?username=%00&password=sesame", "/?username=ann&token=x",
        "/?token=x"};
    struct server s;
    struct peer p;

    write_users("ann", "ses&me", "", NULL);
    server_start(&s, BY_FILE, AT_ONCE, NULL);
    for (size_t i = 0; i < COUNT(bad); i++) {
        peer_connect(&p, &s);
        peer_upgrade(&p, bad[i]);
        EXPECT(&p, REFUSED);
        EXPECT_CLOSE(&p, 1008);
        peer_close(&p);
    }
    peer_connect(&p, &s);
    peer_upgrade(&p, "/?password=ses%26me&userId=ann");
    EXPECT(&p, WELCOME("ann"));
}

TEST(login_profile)
{
    struct server s;
    struct peer ann, bob;

    write_users("ann", "a",
                ",'nick':'Ann','avatar':'http://x/a.png','sign':'hi','extras':{'age':7},"
                "'groups':['1',{'groupId':'2','name':'Team'}]",
                "bob", "b", ",'groups':[2]", NULL);
    server_start(&s, BY_FILE, AT_ONCE, "-o", "jim.login.groups=3:All", NULL);
    peer_open(&bob, &s, PROTO_TCP);
    say(&bob, 5, "{'userId':'bob','password':'b'}");
    EXPECT(&bob, WELCOME("bob"));
    EXPECT(&bob, JOINED("2", "bob"));
    EXPECT(&bob, JOINED("3", "bob"));
    peer_open(&ann, &s, PROTO_TCP);
    say(&ann, 5, "{'userId':'ann','password':'a'}");
    EXPECT(&ann, "{'code':10007,'command':6,'msg':'ok 登录成功!','user':{'avatar':'http://x/a.png',"
                 "'extras':{'age':7},'nick':'Ann','sign':'hi','status':'online','terminal':'tcp',"
                 "'userId':'ann'}}");
    for (int group = 0; group < 3; group++)
        EXPECT(&ann, "{'code':10011,'command':9,'group':'<...>");
    EXPECT(&bob, "{'code':10011,'command':9,'group':'2','msg':'join group ok! 加入群组成功!',"
                 "'user':{'nick':'Ann','status':'online','userId':'ann'}}");
    EXPECT(&bob, "{'code':10011,'command':9,'group':'3',<...>");
    say(&bob, 17, "{'userId':'bob','type':2}");
    CHECK(hear(&bob));
    CHECK(heard(&bob, "\"groupId\":\"2\",\"name\":\"Team\",\"online\":2"));
    say(&bob, 17, "{'userId':'ann'}");
    EXPECT(&bob, "{'code':10003,'command':18,'data':{'avatar':'http://x/a.png','extras':{'age':7},"
                 "'nick':'Ann','sign':'hi','status':'online','terminal':'tcp','userId':'ann'},"
                 "<...>");
}

/* A group that a second login brings is news for its members, though the user is online already. */
TEST(login_joins_while_online)
{
    struct server s;
    struct peer ann, bob;

    write_users("ann", "a", "", "bob", "b", ",'groups':['1']", NULL);
    server_start(&s, BY_FILE, AT_ONCE, NULL);
    peer_open(&ann, &s, PROTO_TCP);
    say(&ann, 5, "{'userId':'ann','password':'a'}");
    EXPECT(&ann, WELCOME("ann"));
    peer_open(&bob, &s, PROTO_TCP);
    say(&bob, 5, "{'userId':'bob','password':'b'}");
    EXPECT(&bob, WELCOME("bob"));
    EXPECT(&bob, JOINED("1", "bob"));
    write_users("ann", "a", ",'groups':['1']", NULL);
    CHECK(kill(s.pid, SIGHUP) == 0);
    do { /* until the file has been read again */
        peer_open(&ann, &s, PROTO_WS);
        say(&ann, 5, "{'userId':'ann','password':'a'}");
        EXPECT(&ann, WELCOME("ann"));
        say(&ann, 13, "");
        CHECK(hear(&ann));
    } while (!heard(&ann, "\"command\":9"));
    EXPECT(&bob, JOINED("1", "ann"));
    EXPECT_QUIET(&bob);
}

/* --- order ------------------------------------------------------------------------------------ */

TEST(login_order)
{
    struct server s;
    struct peer p;

    write_users("ann", "a", "", "bob", "b", "", NULL);
    server_start(&s, BY_FILE, AT_ONCE, NULL);
    for (size_t piece = 1; piece < 1000; piece = piece == 1 ? 999 : 1000) {
        peer_open(&p, &s, PROTO_TCP);
        peer_hold(&p); /* all at once: each waits for the login before it */
        say_seq(&p, 1, 13, "");
        say_seq(&p, 2, 11, "{'chatType':2,'to':'zoe','content':'too early'}");
        say_seq(&p, 3, 5, "{'userId':'ann','password':'a'}");
        say_seq(&p, 4, 11, "{'chatType':2,'to':'zoe','content':'1','id':'x'}");
        say_seq(&p, 5, 13, "");
        say_seq(&p, 6, 5, "{'userId':'bob','password':'b'}");
        say_seq(&p, 7, 11, "{'chatType':2,'to':'ann','content':'from bob','id':'y'}");
        say_seq(&p, 8, 17, "{'userId':'bob','type':0}");
        say_seq(&p, 9, 5, "{'userId':'bob','password':'wrong'}");
        say_seq(&p, 10, 13, "");
        peer_release(&p, piece == 1 ? 1 : IN_ONE_WRITE);
        EXPECT_SEQ(&p, 1, BEAT);
        EXPECT_SEQ(&p, 2, "{'code':10022,<...>");
        EXPECT_SEQ(&p, 3, WELCOME("ann"));
        EXPECT_SEQ(&p, 4, "{'code':10001,'command':12,<...>");
        EXPECT_SEQ(&p, 5, BEAT);
        EXPECT_SEQ(&p, 6, WELCOME("bob"));
        EXPECT_SEQ(&p, 7, "{'code':10001,'command':12,<...>"); /* ann is bob by now: not there */
        EXPECT_SEQ(&p, 8, "{'code':10005,'command':18,'data':{'friends':[],'groups':[],"
                          "'nick':'bob',<...>");
        EXPECT_SEQ(&p, 9, REFUSED);
        EXPECT_END(&p); /* and nothing behind it */
    }
}

TEST(login_then_silence)
{
    struct server s;
    struct peer p;

    write_users("ann", "a", "", NULL);
    server_start(&s, BY_FILE, AT_ONCE, NULL);
    peer_open(&p, &s, PROTO_TCP);
    say(&p, 5, "{'userId':'ann','password':'a'}");
    peer_shut(&p); /* says no more, and still gets his answer */
    EXPECT(&p, WELCOME("ann"));
    EXPECT_END(&p);
}

/* Who goes while his login is looked into is not online afterwards. */
TEST(login_gone)
{
    struct server s;
    struct buf b = {0};
    struct peer p;

    put_entry(&b, "ann", "a", 30000, "");
    buf_add(&b, "", 1);
    write_file("users", b.p);
    server_start(&s, BY_FILE, AT_ONCE, NULL);
    for (int i = 0; i < 3; i++) {
        peer_open(&p, &s, i == 1 ? PROTO_WS : PROTO_TCP);
        say(&p, 5, "{'userId':'ann','password':'a'}");
        if (i == 2)
            peer_close(&p);
        else
            peer_abort(&p);
    }
    peer_open(&p, &s, PROTO_TCP); /* behind them in the queue */
    say(&p, 5, "{'userId':'ann','password':'b'}");
    EXPECT(&p, REFUSED);
    struct reply r = ask_for(&s, "GET", "/api/user/online?userid=ann", "", NULL);
    CHECK_LIKE(r.body, "{'code':10001,'msg':'offline 用户不在线'}");
    CHECK_INT(server_stat(&s, "online"), 0);
}

/* Stopped while logins are looked into: a clean end. */
TEST(login_stopped)
{
    struct server s;
    struct buf b = {0};
    struct peer p[20];

    put_entry(&b, "ann", "a", 30000, "");
    buf_add(&b, "", 1);
    write_file("users", b.p);
    server_start(&s, BY_FILE, "-o", "jim.drain=0", NULL);
    for (size_t i = 0; i < COUNT(p); i++) {
        peer_open(&p[i], &s, PROTO_TCP);
        say(&p[i], 5, "{'userId':'ann','password':'a'}");
    }
    CHECK_INT(server_end(&s, SIGTERM), 0);
}

/* Who waits for his turn at the threads is not cut off for having been slow to log in. */
TEST(login_waits_for_its_turn)
{
    static const char login[] = "\x01\x51\x05\0\0\0\x1f{\"userId\":\"ann\",\"password\":\"a\"}";
    struct jim *j = jim_new();
    struct listener l = {.jim = j, .fd = -1, .protos = PROTO_BIT(PROTO_TCP)};
    struct buf b = {0};
    char err[200], answer[1000];
    int pair[2];

    put_entry(&b, "ann", "a", 30000, "");
    buf_add(&b, "", 1);
    write_file("users", b.p);
    buf_free(&b);
    CHECK_INT(jim_set(j, "jim.auth", "file", err, sizeof err), 0);
    CHECK_INT(jim_set(j, "jim.users.file", "users", err, sizeof err), 0);
    CHECK_INT(jim_set(j, "jim.store", "off", err, sizeof err), 0);
    j->opt.ports = 0;
    CHECK_INT(jim_start(j), JIM_OK);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    CHECK(fcntl(pair[1], F_SETFL, O_NONBLOCK) == 0);
    conn_new(&l, pair[1], &(struct sockaddr_storage){.ss_family = AF_UNIX});
    struct conn *c = conn_at(j, pair[1]);
    CHECK(write(pair[0], login, sizeof login - 1) == (ssize_t)sizeof login - 1);
    CHECK(jim_turn(j));
    while (c->user == NULL) {
        if (c->login != NULL)
            c->timer.fn(&c->timer); /* his time is over, each time he is looked at */
        CHECK_INT(c->state, CONN_OPEN);
        CHECK(jim_turn(j));
    }
    ssize_t n = read(pair[0], answer, sizeof answer - 1);
    answer[n > 0 ? n : 0] = '\0';
    CHECK(n > 7 && strstr(answer + 7, "\"code\":10007") != NULL);
    close(pair[0]);
    jim_free(j);
}

/* --- storms ----------------------------------------------------------------------------------- */

TEST(login_storm)
{
    enum { LOGINS = 200, MESSAGES = 50 };
    static struct peer p[LOGINS];
    struct server s;
    struct buf b = {0};
    struct peer ann, bob;
    char text[100];
    long long done;
    int before = 0;

    put_entry(&b, "ann", "a", 10, "");
    put_entry(&b, "bob", "b", 10, "");
    put_entry(&b, "many", "m", 5000, "");
    buf_add(&b, "", 1);
    write_file("users", b.p);
    server_start(&s, BY_FILE, AT_ONCE, FAST, "-o", "jim.store=off", NULL);
    peer_open(&ann, &s, PROTO_TCP);
    say(&ann, 5, "{'userId':'ann','password':'a'}");
    EXPECT(&ann, WELCOME("ann"));
    peer_open(&bob, &s, PROTO_TCP);
    say(&bob, 5, "{'userId':'bob','password':'b'}");
    EXPECT(&bob, WELCOME("bob"));
    for (int i = 0; i < LOGINS; i++)
        peer_open(&p[i], &s, PROTO_TCP); /* first: with TLS this takes longer than all logins */
    for (int i = 0; i < LOGINS; i++)
        say(&p[i], 5, "{'userId':'many','password':'m'}");
    for (int i = 0; i < MESSAGES; i++) {
        snprintf(text, sizeof text, "{'chatType':2,'to':'bob','content':'%d','id':'%d'}", i, i);
        say(&ann, 11, text);
        EXPECT(&bob, "{'command':11,<...>");
        EXPECT(&ann, "{'code':10000,'command':12,<...>");
        done = server_stat(&s, "logins") - 2;
        before += done < LOGINS;
    }
    test_note("%d of %d messages answered while logins were looked into", before, MESSAGES);
    CHECK(before > 0); /* how many is a matter of who gets the processors */
    for (int i = 0; i < LOGINS; i++)
        EXPECT(&p[i], WELCOME("many"));
    CHECK_INT(server_stat(&s, "logins"), LOGINS + 2);
}

/* --- penalties -------------------------------------------------------------------------------- */

/* Log in wrongly; the answer is held back, so there is none to be heard. */
static void
guesses(const struct server *s, struct peer *p)
{
    long long failed = server_stat(s, "loginFailures");

    peer_open(p, s, PROTO_TCP);
    say(p, 5, "{'userId':'ann','password':'hunter2'}");
    while (server_stat(s, "loginFailures") == failed)
        ;
}

TEST(login_penalty)
{
    /* 10, 20, 30 and 30 s, each from when the one before it is answered; then anew */
    static const long delays[] = {10000, 30000, 60000, 90000, 10000};
    struct server s;
    struct peer p[5], ann;
    const char *why = " ms: wrong name or password\n";
    char *end;

    write_users("ann", "sesame", "", NULL);
    int64_t start = time_mono_ms();
    server_start(&s, BY_FILE, FAST, "-o", "jim.auth.delay=10s", "-o", "jim.log.level=debug", "-o",
                 "jim.log.file=log", NULL);
    for (int i = 0; i < 5; i++) {
        if (i == 4) { /* who knows the password is let in at once, and what was is forgotten */
            peer_open(&ann, &s, PROTO_TCP);
            say(&ann, 5, "{'userId':'ann','password':'sesame'}");
            EXPECT(&ann, WELCOME("ann"));
        }
        guesses(&s, &p[i]);
    }
    long took = (long)(time_mono_ms() - start);
    struct buf log = read_whole("log");
    const char *at = log.p;
    for (int i = 0; i < 5; i++) {
        at = strstr(at, "login refused in ");
        CHECK(at != NULL);
        at += strlen("login refused in ");
        long ms = strtol(at, &end, 10);
        CHECK(ms >= delays[i] - took && ms <= delays[i]);
        CHECK(strncmp(end, why, strlen(why)) == 0);
    }
    CHECK(!has(log, "hunter2") && !has(log, "sesame"));
    CHECK(!peer_ready(&p[0], 0));
    peer_abort(&p[1]); /* its refusal is forgotten with it */
    while (server_stat(&s, "connections") > 6) /* the others, ann, and who asks */
        ;
    CHECK(kill(s.pid, SIGTERM) == 0); /* a stop does not wait for punishments */
    EXPECT(&p[0], REFUSED);
    EXPECT_END(&p[0]);
    EXPECT(&p[4], REFUSED);
    CHECK_INT(server_end(&s, 0), 0);
}

TEST(login_refused_later)
{
    struct server s;
    struct peer p;

    write_users("ann", "a", "", NULL);
    server_start(&s, BY_FILE, "-o", "jim.auth.delay=50ms", NULL);
    peer_open(&p, &s, PROTO_TCP);
    say_seq(&p, 7, 5, "{'userId':'ann','password':'b'}");
    say_seq(&p, 8, 13, ""); /* waits, and is not answered: the connection ends */
    EXPECT_SEQ(&p, 7, REFUSED);
    EXPECT_END(&p);
}

/* --- reloading -------------------------------------------------------------------------------- */

/* Can he log in now? */
static bool
gets_in(const struct server *s, const char *user, const char *password)
{
    struct peer p;

    peer_open(&p, s, PROTO_TCP);
    sayf(&p, 5, "{'userId':'%s','password':'%s'}", user, password);
    CHECK(hear(&p));
    bool in = heard(&p, "10007");
    peer_close(&p);
    return in;
}

TEST(login_reload)
{
    struct server s;

    write_users("ann", "a", "", "bob", "b", "", NULL);
    server_start(&s, BY_FILE, AT_ONCE, "-o", "jim.log.file=log", NULL);
    CHECK(gets_in(&s, "ann", "a") && gets_in(&s, "bob", "b") && !gets_in(&s, "eve", "e"));
    write_file("users", "ann:a\n"); /* a mistake: the users stay, the log says where it is */
    CHECK(kill(s.pid, SIGHUP) == 0);
    while (!has(read_whole("log"), "users file not reloaded: users:1: not a JSON object"))
        ;
    CHECK(gets_in(&s, "ann", "a"));
    write_users("ann", "changed", "", "eve", "e", "", NULL);
    CHECK(kill(s.pid, SIGHUP) == 0);
    while (!gets_in(&s, "eve", "e"))
        ;
    CHECK(gets_in(&s, "ann", "changed") && !gets_in(&s, "ann", "a") && !gets_in(&s, "bob", "b"));
}

/* --- tokens ----------------------------------------------------------------------------------- */

/* A token with these claims and an exp `seconds` from now. */
static const char *
token(const char *claims, int seconds)
{
    struct buf json = {0}, t = {0};

    test_begins();
    buf_printf(&json, "{'exp':%lld%s}", (long long)(time_wall_ms() / 1000 + seconds), claims);
    for (size_t i = 0; i < json.len; i++)
        if (json.p[i] == '\'')
            json.p[i] = '"';
    token_make(&t, STR(SECRET), (struct str){json.p, json.len});
    buf_add(&t, "", 1);
    buf_free(&json);
    return t.p; /* lives until the test ends */
}

static void
talk_token(enum proto proto)
{
    struct server s;
    struct peer p;
    const char *good = token(",'sub':'ann'", 600), *old = token(",'sub':'ann'", -1);

    server_start(&s, BY_TOKEN, AT_ONCE, NULL);
    peer_open(&p, &s, proto);
    sayf(&p, 3, "{'token':'%s'}", good);
    sayf(&p, 3, "{'token':'%s'}", old);
    say(&p, 3, "{'token':'x'}");
    say(&p, 17, "{'userId':'ann'}");
    CHECK(hear(&p));
    CHECK(heard(&p, "\"code\":10009") && heard(&p, good));
    EXPECT(&p, "{'code':10010,'command':4,'msg':'auth failed! 鉴权失败!'}");
    EXPECT(&p, "{'code':10010,'command':4,'msg':'auth failed! 鉴权失败!'}");
    EXPECT(&p, "{'code':10022,<...>"); /* a token that is good logs nobody in by itself */
    sayf(&p, 5, "{'token':'%s'}", good);
    EXPECT(&p, WELCOME("ann"));
    EXPECT_QUIET(&p);
    sayf(&p, 5, "{'userId':'ann','token':'%s'}", good); /* again, and by name */
    EXPECT(&p, WELCOME("ann"));
    peer_open(&p, &s, proto);
    sayf(&p, 5, "{'userId':'bob','token':'%s'}", good);
    EXPECT(&p, REFUSED);
    peer_open(&p, &s, proto);
    sayf(&p, 5, "{'userId':'ann','token':'%s'}", old);
    EXPECT(&p, REFUSED);
    peer_open(&p, &s, proto);
    say(&p, 5, "{'userId':'ann','password':'" SECRET "'}");
    EXPECT(&p, REFUSED);
}

TEST(login_token) { talk_token(PROTO_TCP); }
TEST(login_token_ws) { talk_token(PROTO_WS); }

TEST(login_token_query)
{
    struct server s;
    struct peer p;
    char target[2000];

    server_start(&s, BY_TOKEN, AT_ONCE, "-o", "jim.log.level=debug", "-o", "jim.log.file=log",
                 NULL);
    const char *t = token(",'sub':'ann','nick':'Ann','groups':['7']", 600);
    snprintf(target, sizeof target, "/?token=%s", t);
    peer_connect(&p, &s);
    peer_upgrade(&p, target);
    EXPECT(&p, "{'code':10007,'command':6,'msg':'ok 登录成功!','user':{'nick':'Ann','status':"
               "'online','terminal':'ws','userId':'ann'}}");
    EXPECT(&p, "{'code':10011,'command':9,'group':'7',<...>");
    snprintf(target, sizeof target, "/?username=bob&token=%s", t);
    peer_connect(&p, &s);
    peer_upgrade(&p, target);
    EXPECT(&p, REFUSED);
    CHECK(!has(read_whole("log"), t));
}

/* --- the hook --------------------------------------------------------------------------------- */

struct service { /* the web service that knows the users */
    int fd;
    char option[80];
};

static void
service_open(struct service *v)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t n = sizeof a;

    v->fd = socket(AF_INET, SOCK_STREAM, 0);
    fcntl(v->fd, F_SETFD, FD_CLOEXEC); /* or jim, too, would listen there */
    CHECK(v->fd >= 0 && bind(v->fd, (struct sockaddr *)&a, n) == 0 && listen(v->fd, 64) == 0 &&
          getsockname(v->fd, (struct sockaddr *)&a, &n) == 0);
    snprintf(v->option, sizeof v->option, "jim.login.hook=http://127.0.0.1:%d/login?x=1",
             ntohs(a.sin_port));
}

/* The same by a name, which may stand for several addresses: only one of them is served. */
static void
service_open_localhost(struct service *v)
{
    service_open(v);
    char *port = strrchr(v->option, ':');
    char rest[40];

    snprintf(rest, sizeof rest, "%s", port);
    snprintf(v->option, sizeof v->option, "jim.login.hook=http://localhost%s", rest);
}

static bool
comes_within(int fd, int ms)
{
    struct pollfd f = {.fd = fd, .events = POLLIN};

    return poll(&f, 1, ms) > 0;
}

static int
service_accept(const struct service *v)
{
    CHECK(comes_within(v->fd, WAIT_MS));
    int fd = accept(v->fd, NULL, NULL);
    CHECK(fd >= 0);
    return fd;
}

/* The next request on a connection, whole; its body, NUL-terminated, until the next one. */
static const char *
service_hears(int fd, struct buf *b)
{
    char *body = NULL;
    size_t want = 0;

    b->len = 0;
    do {
        buf_reserve(b, 4096);
        CHECK(comes_within(fd, WAIT_MS));
        ssize_t n = read(fd, b->p + b->len, 4095);
        CHECK(n > 0);
        b->len += (size_t)n;
        b->p[b->len] = '\0';
        body = strstr(b->p, "\r\n\r\n");
        const char *length = strstr(b->p, "content-length: ");
        if (body != NULL && length != NULL)
            want = (size_t)(body + 4 - b->p) + (size_t)atoi(length + 16);
    } while (body == NULL || b->len < want);
    CHECK_INT(b->len, want);
    CHECK(strncmp(b->p, "POST /login?x=1 HTTP/1.1\r\nhost: ", 32) == 0);
    CHECK(has(*b, "content-type: application/json\r\n"));
    return body + 4;
}

static void
service_writes(int fd, const char *text)
{
    CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
}

/* An answer with a body, ' for ". */
static void
service_says(int fd, int status, const char *json)
{
    struct buf b = {0};

    buf_printf(&b, "HTTP/1.1 %d Whatever\r\nContent-Length: %zu\r\n\r\n%s", status, strlen(json),
               json);
    for (size_t i = 0; i < b.len; i++)
        if (b.p[i] == '\'')
            b.p[i] = '"';
    buf_add(&b, "", 1);
    service_writes(fd, b.p);
    buf_free(&b);
}

#define BY_HOOK(v) "-o", "jim.auth=hook", "-o", (v).option

static void
knocks(struct peer *p, const struct server *s, const char *json)
{
    peer_open(p, s, PROTO_TCP);
    say(p, 5, json);
}

TEST(login_hook)
{
    struct service v;
    struct server s;
    struct buf b = {0};
    struct peer p, other;

    service_open(&v);
    server_start(&s, BY_HOOK(v), AT_ONCE, NULL);
    knocks(&p, &s, "{'userId':'ann','password':'a\\\"\\u00e9'}");
    int fd = service_accept(&v);
    CHECK_LIKE(str_of(service_hears(fd, &b)), "{'ip':'127.0.0.1','password':'a\\'\xc3\xa9',"
                                              "'terminal':'tcp','userId':'ann'}");
    peer_open(&other, &s, PROTO_TCP);
    EXPECT_QUIET(&other); /* the server does not wait for the service */
    say(&p, 13, ""); /* he does */
    CHECK(!peer_ready(&p, 0));
    service_says(fd, 200, "{}");
    EXPECT(&p, WELCOME("ann"));
    EXPECT(&p, BEAT);
    CHECK_INT(server_stat(&s, "connections"), 3); /* the one to the service is none of them */
}

TEST(login_hook_answers)
{
    static const struct {
        int status;
        const char *json, *answer;
    } cases[] = {
        {200, "{}", WELCOME("ann")},
        {200, "{'userId':'real','password':'x'}", WELCOME("real")},
        {200, "{'userId':'','nick':'N'}", LATER},
        {200, "{'userId':7}", WELCOME("7")},
        {200, "{'userId':'a\\n'}", LATER},
        {200, "{'nick':7}", LATER},
        {200, "{'groups':{}}", LATER},
        {200, "[]", LATER},
        {200, "", LATER},
        {200, "<html>", LATER},
        {201, "{}", LATER},
        {204, "", LATER},
        {302, "{}", LATER},
        {401, "{}", REFUSED},
        {403, "", REFUSED},
        {404, "{}", LATER},
        {500, "{}", LATER},
        {503, "", LATER},
    };
    struct service v;
    struct server s;
    struct buf b = {0};
    struct peer p;
    int fd = -1;

    service_open(&v);
    server_start(&s, BY_HOOK(v), AT_ONCE, NULL);
    for (size_t i = 0; i < COUNT(cases); i++) {
        printf("%d %s\n", cases[i].status, cases[i].json);
        knocks(&p, &s, "{'userId':'ann','token':'t'}");
        if (fd < 0)
            fd = service_accept(&v); /* one connection serves them all */
        service_hears(fd, &b);
        service_says(fd, cases[i].status, cases[i].json);
        EXPECT(&p, cases[i].answer);
        if (strcmp(cases[i].answer, LATER) == 0 || strcmp(cases[i].answer, REFUSED) == 0)
            EXPECT_END(&p);
        peer_close(&p);
    }
    CHECK(!comes_within(v.fd, 0));
}

TEST(login_hook_profile)
{
    struct service v;
    struct server s;
    struct buf b = {0};
    struct peer p;
    char target[] = "/?token=t%20t";

    service_open_localhost(&v);
    server_start(&s, BY_HOOK(v), AT_ONCE, NULL);
    peer_connect(&p, &s);
    peer_upgrade(&p, target);
    int fd = service_accept(&v);
    CHECK_LIKE(str_of(service_hears(fd, &b)),
               "{'ip':'127.0.0.1','terminal':'ws','token':'t t'}");
    service_says(fd, 200, "{'userId':'ann','nick':'Ann','sign':'s','groups':['1'],'friends':"
                          "[{'groupId':'f','name':'F','users':[{'userId':'bob','nick':'Bob'}]}]}");
    EXPECT(&p, "{'code':10007,'command':6,'msg':'ok 登录成功!','user':{'nick':'Ann','sign':'s',"
               "'status':'online','terminal':'ws','userId':'ann'}}");
    EXPECT(&p, "{'code':10011,'command':9,'group':'1',<...>");
    say(&p, 17, "{'userId':'ann'}");
    EXPECT(&p, "{'code':10003,'command':18,'data':{'friends':[{'groupId':'f','name':'F','users':["
               "{'nick':'Bob','status':'offline','userId':'bob'}]}],'groups':[{'groupId':'1',"
               "<...>");
}

/* Whatever comes from it that is no answer: the login is neither taken nor refused. */
TEST(login_hook_garbage)
{
    static const char *const answers[] = {
        "", "x", "SSH-2.0-OpenSSH_9.2\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nContent-Length: 600000\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n{}\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
        "HTTP/1.1 200 OK\r\nContent-Le", "HTTP/1.1 101 Switching Protocols\r\n\r\n{}",
        "HTTP/1.1 100 Continue\r\n\r\n"};
    struct service v;
    struct server s;
    struct buf b = {0};
    struct peer p;

    service_open(&v);
    server_start(&s, BY_HOOK(v), AT_ONCE, NULL);
    for (size_t i = 0; i < COUNT(answers); i++) {
        printf("%s\n", answers[i]);
        knocks(&p, &s, "{'userId':'ann'}");
        int fd = service_accept(&v);
        service_hears(fd, &b);
        service_writes(fd, answers[i]);
        close(fd);
        EXPECT(&p, LATER);
        EXPECT_END(&p);
        peer_close(&p);
    }
}

/* More than its limit, and without an end. */
TEST(login_hook_floods)
{
    struct service v;
    struct server s;
    struct buf b = {0};
    struct peer p;
    char lot[4096];

    memset(lot, 'x', sizeof lot);
    service_open(&v);
    server_start(&s, BY_HOOK(v), AT_ONCE, NULL);
    for (int i = 0; i < 2; i++) {
        knocks(&p, &s, "{'userId':'ann'}");
        int fd = service_accept(&v);
        service_hears(fd, &b);
        service_writes(fd, i == 0 ? "HTTP/1.1 200 OK\r\nx: " : "HTTP/1.1 200 OK\r\n\r\n");
        signal(SIGPIPE, SIG_IGN);
        while (write(fd, lot, sizeof lot) > 0)
            ;
        close(fd);
        EXPECT(&p, LATER);
    }
}

/* Right answers in every dress. */
TEST(login_hook_dresses)
{
    static const char *const answers[] = {
        "HTTP/1.0 200 OK\r\n\r\n{\"nick\":\"N\"}",
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"nick\":\"N\"}",
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 12\r\n\r\n{\"nick\":\"N\"}",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\n{\"nic\r\n7\r\nk\":\"N\"}"
        "\r\n0\r\nTrailer: x\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nx: y\r\n\r\n"
        "HTTP/1.1 200 OK\nContent-Length: 12\n\n{\"nick\":\"N\"}",
        "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{\"nick\":\"N\"}and more out of turn"};
    struct service v;
    struct server s;
    struct buf b = {0};
    struct peer p;

    service_open(&v);
    server_start(&s, BY_HOOK(v), AT_ONCE, NULL);
    for (size_t i = 0; i < COUNT(answers); i++)
        for (int drip = 0; drip < 2; drip++) {
            printf("%s\n", answers[i]);
            knocks(&p, &s, "{'userId':'ann'}");
            int fd = service_accept(&v);
            service_hears(fd, &b);
            for (const char *at = answers[i]; drip && *at != '\0'; at++)
                CHECK(write(fd, at, 1) == 1 || errno == EPIPE || errno == ECONNRESET);
            if (!drip)
                service_writes(fd, answers[i]);
            close(fd);
            CHECK(hear(&p));
            CHECK(heard(&p, "\"code\":10007") && heard(&p, "\"nick\":\"N\""));
            peer_close(&p);
        }
}

TEST(login_hook_silent)
{
    struct service v;
    struct server s;
    struct buf b = {0};
    struct peer p, other;

    service_open(&v);
    server_start(&s, BY_HOOK(v), AT_ONCE, "-o", "jim.timeout.hook=3s", NULL);
    knocks(&p, &s, "{'userId':'ann'}");
    int fd = service_accept(&v);
    service_hears(fd, &b);
    service_writes(fd, "HTTP/1.1 200 OK\r\n"); /* begins, and falls silent */
    EXPECT(&p, LATER);
    EXPECT_END(&p);
    CHECK(comes_within(fd, WAIT_MS) && read(fd, b.p, 1) <= 0); /* hung up on */
    knocks(&other, &s, "{'userId':'ann'}");
    fd = service_accept(&v);
    service_hears(fd, &b);
    service_says(fd, 200, "{}");
    EXPECT(&other, WELCOME("ann"));
}

/* A connection the service has closed meanwhile costs nobody his login. */
TEST(login_hook_keep_alive)
{
    struct service v;
    struct server s;
    struct buf b = {0};
    struct peer p[2];

    service_open(&v);
    server_start(&s, BY_HOOK(v), AT_ONCE, NULL);
    knocks(&p[0], &s, "{'userId':'ann'}");
    int fd = service_accept(&v);
    service_hears(fd, &b);
    service_says(fd, 200, "{}");
    EXPECT(&p[0], WELCOME("ann"));
    knocks(&p[1], &s, "{'userId':'bob'}");
    service_hears(fd, &b); /* asked over the old one, which breaks without a word */
    close(fd);
    fd = service_accept(&v);
    CHECK_LIKE(str_of(service_hears(fd, &b)),
               "{'ip':'127.0.0.1','terminal':'tcp','userId':'bob'}");
    service_says(fd, 200, "{}");
    EXPECT(&p[1], WELCOME("bob"));
    close(fd); /* and one that ends while nobody asks is not used again */
    peer_close(&p[0]);
    knocks(&p[0], &s, "{'userId':'ann'}");
    fd = service_accept(&v);
    service_hears(fd, &b);
    service_says(fd, 200, "{}");
    EXPECT(&p[0], WELCOME("ann"));
}

TEST(login_hook_in_flight)
{
    enum { LOGINS = 40, LINKS = 16 };
    static struct peer p[LOGINS];
    struct service v;
    struct server s;
    struct buf b = {0};
    int fd[LINKS], done = 0;

    service_open(&v);
    server_start(&s, BY_HOOK(v), AT_ONCE, NULL);
    for (int i = 0; i < LOGINS; i++)
        knocks(&p[i], &s, "{'userId':'ann'}");
    for (int i = 0; i < LINKS; i++) {
        fd[i] = service_accept(&v);
        service_hears(fd[i], &b);
    }
    CHECK_INT(server_stat(&s, "logins"), 0);
    CHECK(!comes_within(v.fd, 0)); /* the others wait */
    for (; done < LOGINS - LINKS; done++) { /* each answer lets the next one ask */
        service_says(fd[done % LINKS], 200, "{}");
        service_hears(fd[done % LINKS], &b);
    }
    for (int i = 0; i < LINKS; i++, done++)
        service_says(fd[done % LINKS], 200, "{}");
    for (int i = 0; i < LOGINS; i++)
        EXPECT(&p[i], WELCOME("ann"));
    CHECK(!comes_within(v.fd, 0));
}

TEST(login_hook_not_there)
{
    struct service v;
    struct server s;
    struct peer p;
    struct buf b = {0};

    service_open(&v);
    server_start(&s, BY_HOOK(v), AT_ONCE, "-o", "jim.log.file=log", NULL);
    close(v.fd); /* nobody listens */
    for (int i = 0; i < 3; i++) {
        knocks(&p, &s, "{'userId':'ann','password':'hunter2'}");
        EXPECT(&p, LATER);
        EXPECT_END(&p);
        peer_close(&p);
    }
    b = read_whole("log");
    const char *first = strstr(b.p, "login hook 127.0.0.1:");
    CHECK(first != NULL && strstr(first + 1, "login hook 127.0.0.1:") == NULL); /* said once */
    CHECK(!has(b, "hunter2"));
    CHECK_INT(server_stat(&s, "loginsLater"), 3);
    CHECK_INT(server_stat(&s, "loginFailures"), 0);
}

TEST(login_hook_unknown_host)
{
    struct server s;
    struct peer p;

    server_start(&s, "-o", "jim.auth=hook", "-o", "jim.login.hook=http://no.such.invalid:1/",
                 AT_ONCE, NULL);
    CHECK(kill(s.pid, SIGHUP) == 0); /* looks it up once more */
    knocks(&p, &s, "{'userId':'ann'}");
    EXPECT(&p, LATER);
    EXPECT_END(&p);
}

/* What anybody between here and the service can read is said; on this host there is nobody. */
TEST(login_hook_in_clear)
{
    static const char warning[] = "passwords go to 192.0.2.1 in clear";
    struct service v;
    struct server here, there;

    service_open(&v);
    server_start(&there, "-o", "jim.auth=hook", "-o", "jim.login.hook=http://192.0.2.1/", "-o",
                 "jim.log.file=log", NULL);
    CHECK(has(read_whole("log"), warning));
    server_start(&here, BY_HOOK(v), "-o", "jim.store=off", "-o", "jim.log.file=other", NULL);
    CHECK(!has(read_whole("other"), "in clear"));
}

/* Who goes while the service thinks: its answer is for nobody. And a stop in the middle. */
TEST(login_hook_gone)
{
    struct service v;
    struct server s;
    struct buf b = {0};
    struct peer p[3];

    service_open(&v);
    server_start(&s, BY_HOOK(v), AT_ONCE, "-o", "jim.drain=0", NULL);
    knocks(&p[0], &s, "{'userId':'ann'}");
    int fd = service_accept(&v);
    service_hears(fd, &b);
    peer_abort(&p[0]);
    peer_open(&p[1], &s, PROTO_TCP);
    while (server_stat(&s, "connections") > 2)
        ;
    service_says(fd, 200, "{}");
    knocks(&p[2], &s, "{'userId':'bob'}");
    service_hears(fd, &b); /* so the answer before has been taken */
    CHECK_INT(server_stat(&s, "online"), 0);
    CHECK_INT(server_end(&s, SIGTERM), 0);
}

/* --- who one is ------------------------------------------------------------------------------- */

/* Whatever one says, one is who has logged in. */
TEST(login_identity)
{
    struct server s;
    struct peer ann, bob, later;

    write_users("ann", "a", ",'groups':['g']", "bob", "b", "", NULL);
    server_start(&s, BY_FILE, AT_ONCE, "-o", "jim.login.policy=one", NULL);
    peer_open(&ann, &s, PROTO_TCP);
    say(&ann, 5, "{'userId':'ann','password':'a'}");
    EXPECT(&ann, WELCOME("ann"));
    EXPECT(&ann, JOINED("g", "ann"));
    peer_open(&bob, &s, PROTO_WS);
    say(&bob, 5, "{'userId':'bob','password':'b'}");
    EXPECT(&bob, WELCOME("bob"));
    say(&bob, 11, "{'chatType':2,'from':'root','to':'ann','content':'hi','id':'1'}");
    EXPECT(&ann, "{'command':11,'data':{'chatType':2,'cmd':11,'content':'hi','createTime':<time>,"
                 "'from':'bob','id':'1','seq':1,'to':'ann'}}");
    EXPECT(&bob, "{'code':10000,'command':12,<...>");
    say(&bob, 11, "{'chatType':1,'groupId':'g','content':'hi'}");
    EXPECT(&bob, "{'code':10024,'command':12,<...>");
    say(&bob, 19, "{'userId':'ann','type':0}");
    EXPECT(&bob, "{'code':10024,'command':20,<...>");
    say(&bob, 19, "{'userId':'bob','groupId':'g','type':1}");
    EXPECT(&bob, "{'code':10024,'command':20,<...>");
    say(&bob, 14, "{'userId':'ann'}");
    EXPECT(&bob, "{'code':10024,'command':14,<...>");
    say(&bob, 17, "{'userId':'ann'}"); /* flat: no friends, no groups */
    EXPECT(&bob, "{'code':10003,'command':18,'data':{'nick':'ann','status':'online','terminal':"
                 "'tcp','userId':'ann'},<...>");
    peer_open(&later, &s, PROTO_WS);
    say(&later, 5, "{'userId':'ann','password':'b'}");
    EXPECT(&later, REFUSED); /* who is not let in displaces nobody */
    EXPECT_QUIET(&ann);
    peer_open(&later, &s, PROTO_WS);
    say(&later, 5, "{'userId':'ann','password':'a'}");
    EXPECT(&later, WELCOME("ann"));
    EXPECT(&ann, "{'code':10026,'command':14,<...>");
    EXPECT_END(&ann);
}

TEST(login_needs_configuration)
{
    static const char *const bad[][3] = {
        {"jim.auth=file", NULL, "jim.users.file"},
        {"jim.auth=file", "jim.users.file=missing", "missing: "},
        {"jim.auth=file", "jim.users.file=users", "users:1: not a JSON object"},
        {"jim.auth=token", NULL, "jim.token.secret"},
        {"jim.auth=token", "jim.token.secret=0123456789abcdef0123456789abcde", "32 bytes"},
        {"jim.auth=hook", NULL, "jim.login.hook"},
        {"jim.auth=hook", "jim.login.hook=a", "http://HOST"}};
    struct output o;

    write_file("users", "ann:a\n");
    for (size_t i = 0; i < COUNT(bad); i++) {
        printf("%s %s\n", bad[i][0], bad[i][1] ? bad[i][1] : "");
        run_jim(&o, "-p", "0", "-d", "data", "-o", bad[i][0], bad[i][1] ? "-o" : NULL, bad[i][1],
                NULL);
        CHECK_INT(o.code, 1);
        CHECK_INT(o.out.len, 0);
        CHECK(has(o.err, bad[i][2]) && !has(o.err, "cdef"));
    }
    run_jim(&o, "-p", "0", "-d", "data", "-o", "jim.auth=hook", "-o",
            "jim.login.hook=https://127.0.0.1:1/", "-o", "jim.ca=missing.pem", NULL);
    CHECK_INT(o.code, 1);
    CHECK(has(o.err, tls_version() == NULL ? "make TLS=1" : "jim.ca: missing.pem: No such file"));
    run_jim(&o, "-p", "0", "-d", "data", BY_TOKEN, "-o", "jim.login.required=off", NULL);
    CHECK_INT(o.code, 1);
    CHECK(has(o.err, "jim.login.required"));
}

/* --- friends ---------------------------------------------------------------------------------- */

static void
shows_friends(struct peer *p, int type, const char *friends)
{
    char want[1000];

    sayf(p, 17, "{'userId':'ann','type':%d}", type);
    snprintf(want, sizeof want, "{'code':%d,'command':18,'data':{'friends':%s,'groups':[],<...>",
             type == 2 ? 10003 : 10005 + type, friends);
    EXPECT(p, want);
}

#define FLAT(user, status) "{'nick':'" user "','status':'" status "','userId':'" user "'}"
#define BOB_ONLINE "{'nick':'bob','status':'online','terminal':'tcp','userId':'bob'}"
#define GROUPS(one, two)                                                                           \
    "[{'groupId':'1','name':'Family','users':[" one "]},{'groupId':'2','name':'2','users':[" two   \
    "]}]"

TEST(login_friends)
{
    struct server s;
    struct peer ann, bob;

    write_users("ann", "a", ",'friends':[{'groupId':1,'name':'Family','users':['bob',{'userId':"
                "'cyd'}]},{'groupId':'2','users':[]}]", "bob", "b", "", NULL);
    server_start(&s, BY_FILE, AT_ONCE, NULL);
    peer_open(&ann, &s, PROTO_TCP);
    say(&ann, 5, "{'userId':'ann','password':'a'}");
    EXPECT(&ann, WELCOME("ann"));
    shows_friends(&ann, 2, GROUPS(FLAT("bob", "offline") "," FLAT("cyd", "offline"), ""));
    shows_friends(&ann, 0, GROUPS("", ""));
    peer_open(&bob, &s, PROTO_TCP);
    say(&bob, 5, "{'userId':'bob','password':'b'}");
    EXPECT(&bob, WELCOME("bob"));
    shows_friends(&ann, 2, GROUPS(BOB_ONLINE "," FLAT("cyd", "offline"), ""));
    shows_friends(&ann, 0, GROUPS(BOB_ONLINE, ""));
    shows_friends(&ann, 1, GROUPS(FLAT("cyd", "offline"), ""));
    say(&bob, 17, "{'userId':'bob'}");
    EXPECT(&bob, "{'code':10003,'command':18,'data':{'friends':[],'groups':[],<...>");
}

#define DONE "{'code':10029,'msg':'ok 操作成功'}"
#define INVALID "{'code':10020,'msg':'Invalid verification! 不合法校验'}"

static void
set_friends(const struct server *s, const char *json, int status, const char *want)
{
    struct buf b = {0};

    buf_str(&b, str_of(json));
    for (size_t i = 0; i < b.len; i++)
        if (b.p[i] == '\'')
            b.p[i] = '"';
    buf_add(&b, "", 1);
    struct reply r = ask_for(s, "POST", "/api/user/friends",
                             "Content-Type: application/json\r\n", b.p);
    CHECK_INT(r.status, status);
    CHECK_LIKE(r.body, want);
    buf_free(&b);
}

TEST(login_friends_api)
{
    static const char *const bad[] = {
        "{}", "{'userId':'ann'}", "{'friends':[]}", "{'userId':'','friends':[]}",
        "{'userId':'ann','friends':{}}", "{'userId':'ann','friends':'[]'}",
        "{'userId':'ann','friends':['bob']}", "{'userId':'ann','friends':[{'name':'x'}]}",
        "{'userId':'ann','friends':[{'groupId':1,'users':[{}]}]}", "[]"};
    struct server s;
    struct peer ann;

    server_start(&s, QUIET, NULL);
    set_friends(&s, "{'userId':'ann','friends':[{'groupId':'1','name':'Family','users':['bob']},"
                    "{'groupId':'2'}]}", 200, DONE); /* before he has ever been here */
    peer_login(&ann, &s, PROTO_TCP, "ann");
    shows_friends(&ann, 2, GROUPS(FLAT("bob", "offline"), ""));
    for (size_t i = 0; i < COUNT(bad); i++)
        set_friends(&s, bad[i], 400, INVALID);
    CHECK_INT(ask_for(&s, "GET", "/api/user/friends?userId=ann", "", NULL).status, 405);
    shows_friends(&ann, 2, GROUPS(FLAT("bob", "offline"), ""));
    server_restart(&s, SIGTERM, QUIET, NULL);
    peer_login(&ann, &s, PROTO_TCP, "ann");
    shows_friends(&ann, 2, GROUPS(FLAT("bob", "offline"), ""));
    set_friends(&s, "{'userId':'ann','friends':[]}", 200, DONE);
    shows_friends(&ann, 2, "[]");
    server_restart(&s, SIGTERM, QUIET, NULL); /* what was taken away stays away */
    peer_login(&ann, &s, PROTO_TCP, "ann");
    shows_friends(&ann, 2, "[]");
}

TEST(login_friends_need_the_key)
{
    struct server s;

    server_start(&s, QUIET, "-o", "jim.api.key=k", NULL);
    set_friends(&s, "{'userId':'ann','friends':[]}", 401,
                "{'code':10022,'msg':'not logged in 未登录'}");
}
