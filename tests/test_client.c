/* SPDX-License-Identifier: MIT */
/*
 * test_client.c - the client library: what it makes of JSON; with the real server, on both
 * protocols, also one that is killed; and with peers that are played here, byte by byte.
 */
#include "client.h"

#include "../client_int.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

/* --- codes and messages ----------------------------------------------------------------------- */

TEST(client_codes_are_those_of_the_protocol)
{
    struct jim_result r = {.code = 10001};

    CHECK(strcmp(jim_code_text(10007), "logged in") == 0);
    CHECK(strcmp(jim_code_text(10030), "no such group") == 0);
    CHECK(strcmp(jim_code_text(10031), "unknown code") == 0);
    CHECK(strcmp(jim_code_text(9999), "unknown code") == 0);
    CHECK(jim_result_ok(&r));
    r.code = -1;
    CHECK(jim_result_ok(&r));
    r.code = 10027;
    CHECK(!jim_result_ok(&r));
    r.code = 0;
    CHECK(!jim_result_ok(&r));
    for (int code = CODE_SENT; code <= CODE_NO_GROUP; code++)
        CHECK(strcmp(jim_code_text(code), "unknown code") != 0);
}

static int
message_of(const char *json, struct buf *text, struct jim_message *m)
{
    struct json chat = {.p = json, .n = (uint32_t)strlen(json), .type = JSON_OBJECT};

    return client_message(&chat, text, m);
}

TEST(client_message_is_decoded)
{
    struct buf text = {0};
    struct jim_message m;

    CHECK_INT(message_of("{\"chatType\":1,\"content\":\"a\\u0000b\\n\",\"createTime\":5,\"extras\":"
                         "{\"k\":[1]},\"from\":\"u1\",\"groupId\":\"g\",\"id\":\"i\",\"msgType\":2,"
                         "\"seq\":7}", &text, &m), 0);
    CHECK_INT(m.chat_type, JIM_TO_GROUP);
    CHECK_BYTES(m.from, strlen(m.from), "u1");
    CHECK_BYTES(m.group, strlen(m.group), "g");
    CHECK_BYTES(m.id, strlen(m.id), "i");
    CHECK(m.to == NULL);
    CHECK_INT(m.content_n, 4);
    CHECK(memcmp(m.content, "a\0b\n", 5) == 0);
    CHECK_INT(m.msg_type, 2);
    CHECK_INT(m.create_ms, 5);
    CHECK_INT(m.seq, 7);
    CHECK_BYTES(m.extras, m.extras_n, "{\"k\":[1]}");
    buf_free(&text);
}

TEST(client_message_of_jim_2_and_of_little)
{
    struct buf text = {0};
    struct jim_message m;

    CHECK_INT(message_of("{\"group_id\":\"g\",\"content\":12,\"msgType\":\"3\"}", &text, &m), 0);
    CHECK_BYTES(m.group, strlen(m.group), "g");
    CHECK_BYTES(m.content, m.content_n, "12");
    CHECK_INT(m.msg_type, 3);
    CHECK_INT(message_of("{}", &text, &m), 0);
    CHECK(m.content == NULL && m.from == NULL && m.seq == 0);
    CHECK_INT(m.msg_type, -1);
    buf_free(&text);
}

/* A program may go by what is there: it is what chatType says that is there. */
TEST(client_message_is_of_one_place)
{
    struct buf text = {0};
    struct jim_message m;

    CHECK_INT(message_of("{\"groupId\":\"g\",\"chatType\":2,\"to\":\"u\"}", &text, &m), 0);
    CHECK(m.group == NULL);
    CHECK_BYTES(m.to, strlen(m.to), "u");
    CHECK_INT(message_of("{\"chatType\":1,\"groupId\":\"g\",\"to\":\"u\"}", &text, &m), 0);
    CHECK(m.to == NULL);
    CHECK_BYTES(m.group, strlen(m.group), "g");
    buf_free(&text);
}

TEST(client_message_with_a_member_again_and_again)
{
    struct buf text = {0}, json = {0};
    struct jim_message m;

    buf_lit(&json, "{\"from\":\"u1\"");
    for (int i = 0; i < 1000; i++)
        buf_lit(&json, ",\"to\":\"\"");
    buf_lit(&json, "}\0");
    CHECK_INT(message_of(json.p, &text, &m), 0);
    CHECK_BYTES(m.from, strlen(m.from), "u1");
    CHECK(m.to != NULL);
    buf_free(&json);
    buf_free(&text);
}

/* --- with the server -------------------------------------------------------------------------- */

/* What a handle has said. */
struct ear {
    struct buf messages; /* "from>to:seq:content\n", with '*' behind seq when stored */
    struct buf events;   /* "command " */
    struct buf states;   /* a letter each: Connecting, Ready, Waiting, cLosed, reFused */
    int answers, refused;
    uint64_t last_seq;
    char why[200];
};

static void
on_state(struct jim_client *c, enum jim_client_state state, const char *why, void *arg)
{
    struct ear *e = arg;

    CHECK(jim_client_state(c) == state);
    buf_add(&e->states, &"CRWLF"[state], 1);
    snprintf(e->why, sizeof e->why, "%s", why);
}

static void
on_message(struct jim_client *c, const struct jim_message *m, void *arg)
{
    struct ear *e = arg;

    (void)c;
    buf_printf(&e->messages, "%s>%s:%d%s%s:%s\n", m->from != NULL ? m->from : "",
               m->to != NULL ? m->to : m->group != NULL ? m->group : "", (int)m->seq,
               m->stored ? "*" : "", m->mine ? "=" : "", m->content);
}

static void
on_event(struct jim_client *c, int command, const char *json, size_t n, void *arg)
{
    struct ear *e = arg;

    (void)c, (void)json, (void)n;
    buf_printf(&e->events, "%d ", command);
}

static void
on_answer(struct jim_client *c, const struct jim_result *r, void *arg)
{
    struct ear *e = arg;

    (void)c;
    e->answers++;
    e->refused += !jim_result_ok(r);
    if (r->seq != 0)
        e->last_seq = r->seq;
    snprintf(e->why, sizeof e->why, "%s", r->text);
}

static const char *
url_of(int port, enum proto proto)
{
    static const char *const schemes[2][2] = {{"tcp", "ws"}, {"tcps", "wss"}};
    static char url[4][64];
    static int turn;
    char *u = url[turn++ % 4];

    snprintf(u, sizeof url[0], "%s://localhost:%d/", schemes[through_tls()][proto == PROTO_WS],
             port);
    return u;
}

static struct jim_client_options
options_of(int port, enum proto proto, const char *user, struct ear *e)
{
    return (struct jim_client_options){
        .url = url_of(port, proto), .user = user, .arg = e, .on_state = on_state,
        .on_message = on_message, .on_event = on_event, .backoff_min_ms = 5, .backoff_max_ms = 20,
        .rate = -1, .ca = getenv("JIM_TEST_TLS")};
}

static struct jim_client *
client_with(const struct jim_client_options *o)
{
    char err[200];
    struct jim_client *c = jim_client_new(o, err, sizeof err);

    if (c == NULL)
        test_fail(__FILE__, __LINE__, "%s", err);
    return c;
}

static struct jim_client *
client_of(int port, enum proto proto, const char *user, struct ear *e)
{
    struct jim_client_options o = options_of(port, proto, user, e);
    struct jim_client *c = client_with(&o);

    if (jim_client_connect(c, WAIT_MS) < 0)
        test_fail(__FILE__, __LINE__, "%s", jim_client_error(c));
    return c;
}

static bool
heard_event(const struct ear *e, const char *what)
{
    return has(e->events, what);
}

#define CHECK_SAID(b, want) CHECK_BYTES((b).p, (b).len, (want))

/* Step until what is waited for is so. */
#define UNTIL(c, cond) \
    do { \
        int64_t until_ms = time_mono_ms() + WAIT_MS; \
        while (!(cond)) { \
            if (time_mono_ms() > until_ms) \
                test_fail(__FILE__, __LINE__, "never: %s (%s)", #cond, jim_client_error(c)); \
            jim_client_wait((c), 50); \
        } \
    } while (0)

static void
ear_free(struct ear *e)
{
    buf_free(&e->messages);
    buf_free(&e->events);
    buf_free(&e->states);
}

/* Let everything that is on its way arrive: an answer comes behind it. */
static void
settle(struct jim_client *c)
{
    struct jim_result r;

    CHECK_INT(jim_client_call(c, 13, NULL, 0, &r, WAIT_MS), 0);
    CHECK_INT(r.code, -1);
    CHECK_INT(r.command, 13);
}

static void
send_to(struct jim_client *c, const char *to, const char *content)
{
    struct jim_send what = {.to = to, .content = content};
    struct jim_result r;

    if (jim_client_send_wait(c, &what, &r, WAIT_MS) < 0 || !jim_result_ok(&r))
        test_fail(__FILE__, __LINE__, "%s", r.text);
}

static void
talk(enum proto from, enum proto to)
{
    struct server s;
    struct ear ea = {.answers = 0}, eb = ea;

    server_start(&s, QUIET, FAST, NULL);
    struct jim_client *a = client_of(s.port[0], from, "a", &ea);
    struct jim_client *b = client_of(s.port[0], to, "b", &eb);
    struct jim_send what = {.to = "b", .content = "one \"1\"", .id = "i-1"};
    struct jim_result r;
    CHECK_INT(jim_client_send_wait(a, &what, &r, WAIT_MS), 0);
    CHECK_INT(r.code, 10000);
    CHECK_INT(r.seq, 1);
    CHECK_BYTES(r.id, strlen(r.id), "i-1");
    CHECK(r.create_ms > 0);
    what = (struct jim_send){.to = "nobody", .content = "?"};
    CHECK_INT(jim_client_send_wait(a, &what, &r, WAIT_MS), 0);
    CHECK_INT(r.code, 10001);
    CHECK(jim_client_join(a, "g", "The group", on_answer, &ea) != 0);
    UNTIL(a, ea.answers == 1);
    CHECK_INT(ea.refused, 0);
    CHECK(jim_client_join(b, "g", NULL, on_answer, &eb) != 0);
    UNTIL(b, eb.answers == 1);
    what = (struct jim_send){.group = "g", .content = "all"};
    CHECK_INT(jim_client_send_wait(a, &what, &r, WAIT_MS), 0);
    CHECK_INT(r.seq, 1);
    send_to(b, "a", "two");
    settle(a);
    settle(b);
    CHECK_SAID(ea.messages, "b>a:2:two\n"); /* its own is not told */
    CHECK_SAID(eb.messages, "a>b:1:one \"1\"\na>g:1:all\n");
    CHECK_INT(jim_client_seen(a, "b", NULL), 2);
    CHECK_INT(jim_client_seen(b, NULL, "g"), 1);
    jim_client_close(a);
    while (jim_client_wait(a, -1) == 0)
        continue;
    CHECK(jim_client_send(a, &what, NULL, NULL) == 0);
    CHECK_SAID(ea.states, "CRL");
    jim_client_free(a);
    jim_client_free(b);
    ear_free(&ea);
    ear_free(&eb);
}

TEST(client_talks_over_tcp)
{
    talk(PROTO_TCP, PROTO_TCP);
}

TEST(client_talks_over_ws)
{
    talk(PROTO_WS, PROTO_WS);
}

TEST(client_talks_across)
{
    talk(PROTO_WS, PROTO_TCP);
}

TEST(client_asks_for_users_and_history)
{
    struct server s;
    struct ear e = {.answers = 0};
    struct jim_result r;
    bool more;

    server_start(&s, QUIET, FAST, NULL);
    struct jim_client *c = client_of(s.port[0], PROTO_WS, "a", &e);
    for (int i = 0; i < 5; i++)
        send_to(c, "b", "x");
    CHECK(jim_client_info(c, "a", 2, on_answer, &e) != 0);
    CHECK(jim_client_info(c, "zz", 2, on_answer, &e) != 0);
    UNTIL(c, e.answers == 2);
    CHECK_INT(e.refused, 1);
    const char ask[] = "{\"userId\":\"a\",\"type\":1,\"fromUserId\":\"b\",\"count\":3}";
    CHECK_INT(jim_client_call(c, 19, ask, strlen(ask), &r, WAIT_MS), 0);
    CHECK_INT(r.code, 10018);
    e.messages.len = 0;
    CHECK_INT(jim_result_messages(c, &r, &more, on_message, &e), 3);
    CHECK_SAID(e.messages, "a>b:1*=:x\na>b:2*=:x\na>b:3*=:x\n");
    struct jim_history h = {.with = "b", .before_seq = UINT64_MAX, .count = 2};
    CHECK(jim_client_history(c, &h, on_answer, &e) != 0);
    CHECK(jim_client_leave(c, "none", on_answer, &e) != 0);
    UNTIL(c, e.answers == 4);
    CHECK_INT(e.refused, 2);
    CHECK_INT(jim_client_call(c, 99, NULL, 0, &r, WAIT_MS), 0); /* no such command */
    CHECK_INT(r.code, 10017);
    CHECK_INT(jim_client_call(c, 99, "[1]", 3, &r, WAIT_MS), -1);
    CHECK(strstr(jim_client_error(c), "JSON object") != NULL);
    jim_client_free(c);
    ear_free(&e);
}

TEST(client_is_refused)
{
    struct server s;
    struct ear e = {.answers = 0};

    write_file("users", "a:x\n");
    server_start(&s, QUIET, "-o", "jim.auth=token", "-o",
                 "jim.token.secret=0123456789abcdef0123456789abcdef", NULL);
    struct jim_client_options o = options_of(s.port[0], PROTO_TCP, "a", &e);
    o.token = "bad";
    struct jim_client *c = client_with(&o);
    CHECK_INT(jim_client_connect(c, WAIT_MS), -1);
    CHECK(jim_client_state(c) == JIM_CLIENT_REFUSED);
    CHECK(strcmp(jim_client_error(c), "the login was refused") == 0);
    CHECK_INT(jim_client_step(c), -1);
    CHECK_SAID(e.states, "CF");
    jim_client_free(c);
    ear_free(&e);
}

TEST(client_displaced_stays_away)
{
    struct server s;
    struct ear ea = {.answers = 0}, eb = ea;

    server_start(&s, QUIET, "-o", "jim.login.policy=one", NULL);
    struct jim_client *a = client_of(s.port[0], PROTO_WS, "a", &ea);
    struct jim_client *b = client_of(s.port[0], PROTO_TCP, "a", &eb);
    UNTIL(a, jim_client_state(a) == JIM_CLIENT_CLOSED);
    CHECK(strcmp(jim_client_error(a), "logged in elsewhere") == 0);
    settle(b);
    jim_client_free(a);
    jim_client_free(b);
    ear_free(&ea);
    ear_free(&eb);
}

/* The server once more, on the same port. */
static void
start_again(struct server *s, int port, const char *option)
{
    char number[16];
    const char *args[] = {"-p", number, QUIET, FAST, option != NULL ? "-o" : NULL, option, NULL};

    snprintf(number, sizeof number, "%d", port);
    server_start_with(s, 0, true, args);
}

/* Is what was heard messages 1 to n of one conversation, each once, live or fetched? */
static void
check_run(const struct buf *heard, const char *who, int n)
{
    struct str rest = {heard->p, heard->len}, line;
    char want[64];

    for (int i = 1; i <= n; i++) {
        CHECK(str_split(&rest, '\n', &line));
        size_t size = (size_t)snprintf(want, sizeof want, "%s:%d", who, i);
        if (line.n < size + 1 || memcmp(line.p, want, size) != 0
            || (line.p[size] != ':' && line.p[size] != '*'))
            test_fail(__FILE__, __LINE__, "message %d of %d is %.*s", i, n, (int)line.n, line.p);
    }
    CHECK_INT(rest.n, 0);
}

static void
survive(enum proto proto, int sig)
{
    struct server s;
    struct ear ea = {.answers = 0}, eb = ea;
    struct jim_send what = {.to = "b", .content = "x"};

    server_start(&s, QUIET, FAST, NULL);
    int port = s.port[0];
    struct jim_client *a = client_of(port, proto, "a", &ea);
    struct jim_client *b = client_of(port, proto, "b", &eb);
    for (int i = 0; i < 300; i++)
        CHECK(jim_client_send(a, &what, on_answer, &ea) != 0);
    UNTIL(a, ea.answers > 0); /* in the middle of it */
    server_end(&s, sig);
    UNTIL(a, jim_client_state(a) == JIM_CLIENT_WAITING);
    UNTIL(b, jim_client_state(b) == JIM_CLIENT_WAITING);
    for (int i = 0; i < 300; i++)
        CHECK(jim_client_send(a, &what, on_answer, &ea) != 0);
    start_again(&s, port, NULL);
    UNTIL(a, ea.answers == 600);
    CHECK_INT(ea.refused, 0);
    CHECK_INT(ea.last_seq, 600);
    CHECK_INT(jim_client_pending(a), 0);
    UNTIL(b, jim_client_seen(b, "a", NULL) == 600);
    check_run(&eb.messages, "a>b", 600);
    jim_client_free(a);
    jim_client_free(b);
    ear_free(&ea);
    ear_free(&eb);
}

TEST(client_survives_a_kill_over_tcp)
{
    survive(PROTO_TCP, SIGKILL);
}

TEST(client_survives_a_kill_over_ws)
{
    survive(PROTO_WS, SIGKILL);
}

TEST(client_survives_a_stop)
{
    survive(PROTO_TCP, SIGTERM);
}

TEST(client_is_told_where_it_stands)
{
    struct server s;
    struct peer a, b;

    server_start(&s, QUIET, "-o", "jim.fetch.max=1", NULL);
    peer_login(&a, &s, PROTO_TCP, "a");
    say(&a, 7, "{'groupId':'g'}");
    CHECK(hear(&a) && hear(&a)); /* 8 and 9 */
    say(&a, 11, "{'chatType':2,'to':'b','content':'x'}");
    CHECK(hear(&a));
    say(&a, 11, "{'chatType':1,'groupId':'g','content':'x'}");
    CHECK(hear(&a) && hear(&a));
    say(&a, 19, "{'userId':'a','type':2}");
    EXPECT(&a, "{'code':10018,'command':20,'data':{'friends':{'b':{'delivered':1,'seq':1}},"
               "'groups':{},'more':true,'userId':'a'},'msg':'get user message ok! "
               "获取历史消息成功!'}");
    say(&a, 19, "{'userId':'a','type':2,'offset':1}");
    EXPECT(&a, "{'code':10018,'command':20,'data':{'friends':{},'groups':{'g':{'delivered':1,"
               "'seq':1}},'userId':'a'},'msg':'get user message ok! 获取历史消息成功!'}");
    say(&a, 19, "{'userId':'b','type':2}");
    CHECK(hear(&a) && number(&a, "code") == 10024);
    say(&a, 21, "{'groupId':'g'}");
    CHECK(hear(&a));
    say(&a, 19, "{'userId':'a','type':2,'offset':1}");
    CHECK(hear(&a) && heard(&a, "\"groups\":{}")); /* no longer a member */
    peer_login(&b, &s, PROTO_WS, "b");
    say(&b, 19, "{'userId':'b','type':2}");
    CHECK(hear(&b) && heard(&b, "\"a\":{\"delivered\":0,\"seq\":1}"));
    say(&b, 19, "{'userId':'b','type':2,'offset':'x'}");
    CHECK(hear(&b) && number(&b, "code") == 10015);
}

TEST(client_without_reconnect_ends)
{
    struct server s;
    struct ear e = {.answers = 0};
    struct jim_send what = {.to = "b", .content = "x"};

    server_start(&s, QUIET, NULL);
    struct jim_client_options o = options_of(s.port[0], PROTO_TCP, "a", &e);
    o.no_reconnect = true;
    struct jim_client *c = client_with(&o);
    CHECK_INT(jim_client_connect(c, WAIT_MS), 0);
    server_end(&s, SIGKILL);
    CHECK(jim_client_send(c, &what, on_answer, &e) != 0);
    UNTIL(c, jim_client_state(c) == JIM_CLIENT_CLOSED);
    CHECK_INT(e.answers, 1);
    CHECK_INT(e.refused, 1);
    CHECK_INT(jim_client_pending(c), 0);
    jim_client_free(c);
    ear_free(&e);
}

/* --- what is wrong from the beginning --------------------------------------------------------- */

TEST(client_options_are_checked)
{
    static const char *const bad[][2] = {
        {"", "there is no url"},
        {"http://x", "a url begins with"},
        {"tcp://", "not understood"},
        {"tcp://host:", "not understood"},
        {"tcp://host:99x", "not understood"},
        {"tcp://[::1", "not understood"},
        {"tcp://h:1/path", "not understood"},
        {"ws://h:1/a b", "not understood"},
        {"ws://h:1/a\r\nX: y", "not understood"},
    };
    char err[200];
    struct jim_client_options o = {.user = "a"};

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        o.url = bad[i][0];
        CHECK(jim_client_new(&o, err, sizeof err) == NULL);
        if (strstr(err, bad[i][1]) == NULL)
            test_fail(__FILE__, __LINE__, "%s: %s", bad[i][0], err);
    }
    o = (struct jim_client_options){.url = "127.0.0.1:1"};
    CHECK(jim_client_new(&o, err, sizeof err) == NULL);
    CHECK(strstr(err, "neither a user nor a token") != NULL);
    if (jim_client_no_tls() != NULL) {
        o = (struct jim_client_options){.url = "tcps://127.0.0.1:1", .user = "a"};
        CHECK(jim_client_new(&o, err, sizeof err) == NULL);
        CHECK(strstr(err, "TLS") != NULL);
    }
}

TEST(client_messages_are_checked)
{
    struct jim_client_options o = {.url = "127.0.0.1:1", .user = "a", .queue_max = 1000};
    struct jim_client *c = client_with(&o);
    struct jim_send what = {.to = "b", .group = "g"};

    CHECK(jim_client_send(c, &what, NULL, NULL) == 0);
    what = (struct jim_send){.to = "b", .content = "\xff"};
    CHECK(jim_client_send(c, &what, NULL, NULL) == 0);
    what = (struct jim_send){.to = "b", .extras = "[]"};
    CHECK(jim_client_send(c, &what, NULL, NULL) == 0);
    what = (struct jim_send){.to = "b", .extras = "{\"a\":1} x"};
    CHECK(jim_client_send(c, &what, NULL, NULL) == 0);
    what = (struct jim_send){.to = ""};
    CHECK(jim_client_send(c, &what, NULL, NULL) == 0);
    CHECK_INT(jim_client_pending(c), 0);
    what = (struct jim_send){.to = "b", .content = "x", .extras = "{\"a\":1}"};
    size_t n = 0;
    while (n < 20 && jim_client_send(c, &what, NULL, NULL) != 0)
        n++;
    CHECK(n > 1 && n < 20);
    CHECK(strstr(jim_client_error(c), "queue is full") != NULL);
    CHECK_INT(jim_client_pending(c), n);
    jim_client_free(c);
}

/* --- a server that is played ------------------------------------------------------------------ */

struct fake {
    int listener, fd, port;
    struct buf in;  /* what the client has said */
    size_t used;
    bool ws;
    /* What was heard last: */
    int cmd, seq;
    uint8_t op, mask[4];
    struct buf body; /* ends with a NUL */
};

static void
fake_begin(struct fake *f)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;

    test_begins();
    *f = (struct fake){.fd = -1};
    f->listener = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(bind(f->listener, (struct sockaddr *)&a, sizeof a) == 0);
    CHECK(listen(f->listener, 8) == 0);
    CHECK(getsockname(f->listener, (struct sockaddr *)&a, &n) == 0);
    fcntl(f->listener, F_SETFL, O_NONBLOCK);
    f->port = ntohs(a.sin_port);
}

static void
fake_hang_up(struct fake *f)
{
    if (f->fd >= 0)
        close(f->fd);
    f->fd = -1;
    f->in.len = f->used = 0;
    f->ws = false;
}

static void
fake_end(struct fake *f)
{
    fake_hang_up(f);
    close(f->listener);
    buf_free(&f->in);
    buf_free(&f->body);
}

/* Take what has come; accept who comes. */
static void
fake_step(struct fake *f)
{
    char data[4096];
    ssize_t n;

    if (f->fd < 0) {
        f->fd = accept(f->listener, NULL, NULL);
        if (f->fd >= 0)
            fcntl(f->fd, F_SETFL, O_NONBLOCK);
    }
    while (f->fd >= 0 && (n = recv(f->fd, data, sizeof data, 0)) > 0)
        buf_add(&f->in, data, (size_t)n);
}

static void
fake_put(struct fake *f, const void *p, size_t n)
{
    while (f->fd < 0)
        fake_step(f);
    if (n > 0)
        CHECK(send(f->fd, p, n, MSG_NOSIGNAL) == (ssize_t)n);
}

/* Put a frame's bytes at the end of a buffer. JSON is written with ' for ". */
static void
put_frame(struct buf *b, bool ws, int first, int seq, int cmd, const char *json)
{
    size_t n = strlen(json), at;
    char head[11] = {1, seq != 0 ? 0x71 : 0x51, (char)(seq >> 24), (char)(seq >> 16),
                     (char)(seq >> 8), (char)seq};
    size_t size = seq != 0 ? 6 : 2;

    if (ws) {
        head[0] = (char)first;
        head[1] = (char)(n < 126 ? n : 126);
        head[2] = (char)(n >> 8);
        head[3] = (char)n;
        buf_add(b, head, n < 126 ? 2 : 4);
    } else {
        head[size] = (char)cmd;
        head[size + 1] = head[size + 2] = 0;
        head[size + 3] = (char)(n >> 8);
        head[size + 4] = (char)n;
        buf_add(b, head, size + 5);
    }
    at = b->len;
    buf_add(b, json, n);
    for (; at < b->len; at++)
        if (b->p[at] == '\'')
            b->p[at] = '"';
}

static void
fake_say(struct fake *f, int seq, int cmd, const char *json)
{
    struct buf b = {0};

    put_frame(&b, f->ws, 0x81, seq, cmd, json);
    fake_put(f, b.p, b.len);
    buf_free(&b);
}

/* Is a whole frame of the client's there? Then it is taken apart, by hand. */
static bool
fake_take(struct fake *f)
{
    const uint8_t *p = (const uint8_t *)f->in.p + f->used;
    size_t n = f->in.len - f->used, head = 2, size;

    if (n < 2)
        return false;
    if (f->ws) {
        CHECK(p[1] & 0x80); /* masked */
        size = p[1] & 0x7f;
        head = size == 126 ? 8 : 6;
        if (n < head)
            return false;
        if (size == 126)
            size = (size_t)p[2] << 8 | p[3];
        f->op = p[0];
        memcpy(f->mask, p + head - 4, 4);
    } else {
        CHECK_INT(p[0], 1);
        head = p[1] & 0x20 ? 11 : 7;
        if (n < head)
            return false;
        f->seq = p[1] & 0x20 ? (int)get_be32(p + 2) : 0;
        f->cmd = p[head - 5];
        size = get_be32(p + head - 4);
    }
    if (n < head + size)
        return false;
    f->body.len = 0;
    buf_add(&f->body, p + head, size);
    for (size_t i = 0; f->ws && i < size; i++)
        f->body.p[i] = (char)((uint8_t)f->body.p[i] ^ f->mask[i & 3]);
    buf_add(&f->body, "", 1);
    f->used += head + size;
    if (f->ws && (f->op & 15) == 1)
        CHECK(sscanf(f->body.p, "{\"cmd\":%d", &f->cmd) == 1);
    return true;
}

/* The client says something next. */
static void
fake_hear(struct fake *f, struct jim_client *c)
{
    int64_t until_ms = time_mono_ms() + WAIT_MS;

    while (fake_step(f), !fake_take(f)) {
        if (time_mono_ms() > until_ms)
            test_fail(__FILE__, __LINE__, "the client says nothing (%s)", jim_client_error(c));
        jim_client_wait(c, 5);
    }
}

/* Hear a command, unnumbered or not. */
static void
fake_expect(struct fake *f, struct jim_client *c, int cmd, bool numbered)
{
    fake_hear(f, c);
    CHECK_INT(f->cmd, cmd);
    CHECK_INT(f->seq != 0, numbered);
}

#define BEAT "{'command':13,'data':{'hbbyte':-128}}"
#define LOGIN "{'code':10007,'command':6,'msg':'ok','user':{'userId':'a'}}"
#define NOTHING "{'code':10016,'command':20,'data':{'friends':{},'groups':{}}}"
#define NOWHERE "{'code':10018,'command':20,'data':{'friends':{},'groups':{}}}"
#define HELLO "{'command':11,'data':{'chatType':2,'from':'b','to':'a','content':'hi','id':'x'%s}}"

/* Greet as jim over TCP-IM: everything up to the end of the catching up. */
static void
fake_welcome(struct fake *f, struct jim_client *c)
{
    fake_expect(f, c, 13, true);
    fake_say(f, f->seq, 13, BEAT);
    fake_expect(f, c, 13, false);
    fake_say(f, 0, 13, BEAT);
    fake_expect(f, c, 5, false);
    CHECK(strcmp(f->body.p, "{\"userId\":\"a\"}") == 0);
    fake_say(f, 0, 6, LOGIN);
    fake_expect(f, c, 19, true);
    fake_say(f, f->seq, 20, NOWHERE);
    fake_expect(f, c, 19, true);
    fake_say(f, f->seq, 20, NOTHING);
}

static struct jim_client *
client_at(const struct fake *f, bool ws, struct ear *e)
{
    char url[64];
    struct jim_client_options o = options_of(1, PROTO_TCP, "a", e);

    snprintf(url, sizeof url, "%s://127.0.0.1:%d", ws ? "ws" : "tcp", f->port);
    o.url = url;
    return client_with(&o);
}

TEST(client_matches_answers_by_number)
{
    struct fake f;
    struct ear e = {.answers = 0};

    fake_begin(&f);
    struct jim_client *c = client_at(&f, false, &e);
    fake_welcome(&f, c);
    CHECK(jim_client_info(c, "x", 2, on_answer, &e) != 0);
    CHECK(jim_client_leave(c, "g", on_answer, &e) != 0);
    fake_expect(&f, c, 17, true);
    int first = f.seq;
    fake_expect(&f, c, 21, true);
    CHECK_INT(f.seq, first + 1);
    fake_say(&f, f.seq, 22, "{'code':10030,'command':22}");
    UNTIL(c, e.answers == 1);
    CHECK(strcmp(e.why, "no such group") == 0);
    fake_say(&f, first, 18, "{'code':10003,'command':18}");
    UNTIL(c, e.answers == 2);
    CHECK_INT(e.refused, 1);
    fake_say(&f, 0, 18, "{'code':10003,'command':18}"); /* nobody's */
    UNTIL(c, heard_event(&e, "18 "));
    fake_say(&f, 99, 18, "{'code':10003,'command':18}");
    UNTIL(c, jim_client_state(c) == JIM_CLIENT_WAITING);
    CHECK(strstr(e.why, "a request that was not made (number 99)") != NULL);
    jim_client_free(c);
    fake_end(&f);
    ear_free(&e);
}

TEST(client_gets_on_with_jim_2020)
{
    struct fake f;
    struct ear e = {.answers = 0};
    struct jim_send what = {.to = "b", .content = "one"};
    char hello[200];

    fake_begin(&f);
    struct jim_client *c = client_at(&f, false, &e);
    fake_expect(&f, c, 13, true); /* swallowed */
    fake_expect(&f, c, 13, false);
    fake_say(&f, 0, 13, BEAT);
    fake_expect(&f, c, 5, false);
    fake_say(&f, 0, 6, "{'code':10007,'command':6,'msg':'ok'}");
    fake_expect(&f, c, 19, false);
    fake_say(&f, 0, 20, "{'code':10016,'command':20}");
    snprintf(hello, sizeof hello, HELLO, "");
    fake_say(&f, 0, 11, hello);
    fake_say(&f, 0, 11, hello); /* numbers nothing: passed on as it comes */
    CHECK(jim_client_send(c, &what, on_answer, &e) != 0);
    fake_expect(&f, c, 11, false);
    fake_say(&f, 0, 12, "{'code':10000,'command':12,'msg':'ok'}");
    UNTIL(c, e.answers == 1);
    CHECK_INT(e.refused, 0);
    CHECK_INT(e.last_seq, 0);
    CHECK_SAID(e.messages, "b>a:0:hi\nb>a:0:hi\n");
    CHECK(jim_client_join(c, "g", NULL, on_answer, &e) != 0);
    fake_expect(&f, c, 7, false);
    fake_say(&f, 0, 9, "{'code':10011,'command':9,'group':'g','user':{'userId':'b'}}");
    fake_say(&f, 0, 9, "{'code':10011,'command':9,'group':'g','user':{'userId':'a'}}");
    UNTIL(c, e.answers == 2);
    CHECK_INT(e.refused, 0);
    CHECK_INT(jim_client_pending(c), 0);
    jim_client_free(c);
    fake_end(&f);
    ear_free(&e);
}

TEST(client_sends_again_what_is_refused_for_now)
{
    struct fake f;
    struct ear e = {.answers = 0};
    char ids[3][40];

    fake_begin(&f);
    struct jim_client *c = client_at(&f, false, &e);
    fake_welcome(&f, c);
    for (int i = 0; i < 3; i++) {
        struct jim_send what = {.to = "b", .content = i == 0 ? "0" : i == 1 ? "1" : "2"};
        CHECK(jim_client_send(c, &what, on_answer, &e) != 0);
    }
    for (int i = 0; i < 3; i++) {
        fake_expect(&f, c, 11, true);
        CHECK(sscanf(f.body.p, "{\"chatType\":2,\"id\":\"%39[0-9a-f]", ids[i]) == 1);
        fake_say(&f, f.seq, 12, i == 0 ? "{'code':10023,'command':12}"
                                : i == 1 ? "{'code':10027,'command':12}"
                                         : "{'code':10028,'command':12}");
    }
    for (int i = 0; i < 3; i++) {
        fake_expect(&f, c, 11, true);
        CHECK(strstr(f.body.p, ids[i]) != NULL);
        CHECK_INT(e.answers, i);
        fake_say(&f, f.seq, 12, "{'code':10000,'command':12}");
        UNTIL(c, e.answers == i + 1);
    }
    CHECK_INT(e.refused, 0);
    jim_client_free(c);
    fake_end(&f);
    ear_free(&e);
}

TEST(client_fills_a_gap)
{
    struct fake f;
    struct ear e = {.answers = 0};
    char text[200];

    fake_begin(&f);
    struct jim_client *c = client_at(&f, false, &e);
    fake_welcome(&f, c);
    const char *const seqs[] = {",'seq':1", ",'seq':1", ",'seq':4", ",'seq':5"};
    for (size_t i = 0; i < 4; i++) {
        snprintf(text, sizeof text, HELLO, seqs[i]);
        fake_say(&f, 0, 11, text);
    }
    fake_expect(&f, c, 19, true);
    CHECK(strstr(f.body.p, "\"fromUserId\":\"b\",\"afterSeq\":1}") != NULL);
    CHECK_SAID(e.messages, "b>a:1:hi\n");
    fake_say(&f, f.seq, 20, "{'code':10018,'command':20,'data':{'friends':{'b':[{'chatType':2,"
                            "'content':'2','from':'b','seq':2,'to':'a'}]},'groups':{},"
                            "'more':true}}");
    fake_expect(&f, c, 19, true);
    CHECK(strstr(f.body.p, "\"afterSeq\":2}") != NULL);
    fake_say(&f, f.seq, 20, NOWHERE); /* 3 is in no store any more */
    UNTIL(c, jim_client_seen(c, "b", NULL) == 5);
    CHECK_SAID(e.messages, "b>a:1:hi\nb>a:2*:2\nb>a:4:hi\nb>a:5:hi\n");
    jim_client_free(c);
    fake_end(&f);
    ear_free(&e);
}

TEST(client_notices_a_dead_server)
{
    struct fake f;
    struct ear e = {.answers = 0};
    char url[64];

    fake_begin(&f);
    struct jim_client_options o = options_of(1, PROTO_TCP, "a", &e);
    snprintf(url, sizeof url, "127.0.0.1:%d", f.port);
    o.url = url;
    o.heartbeat_ms = 2000; /* more than the greeting takes on any machine */
    struct jim_client *c = client_with(&o);
    fake_welcome(&f, c);
    fake_expect(&f, c, 13, true);
    fake_say(&f, f.seq, 13, BEAT); /* alive, */
    fake_expect(&f, c, 13, true);  /* and then no more */
    UNTIL(c, jim_client_state(c) == JIM_CLIENT_WAITING);
    CHECK(strcmp(e.why, "the server gives no sign of life") == 0);
    jim_client_free(c);
    fake_end(&f);
    ear_free(&e);
}

/* A frame that takes its time is a sign of life, piece by piece. */
TEST(client_hears_a_slow_frame)
{
    struct fake f;
    struct ear e = {.answers = 0};
    struct buf frame = {0};
    char hello[200];

    fake_begin(&f);
    struct jim_client *c = client_at(&f, false, &e);
    fake_welcome(&f, c);
    UNTIL(c, jim_client_state(c) == JIM_CLIENT_READY);
    snprintf(hello, sizeof hello, HELLO, ",'seq':1");
    put_frame(&frame, false, 0, 0, 11, hello);
    for (size_t i = 0; i < frame.len; i++) {
        int64_t before_ms = time_mono_ms();
        while (time_mono_ms() == before_ms)
            continue;
        fake_put(&f, frame.p + i, 1);
        UNTIL(c, c->heard_ms > before_ms);
    }
    CHECK_SAID(e.messages, "b>a:1:hi\n");
    buf_free(&frame);
    jim_client_free(c);
    fake_end(&f);
    ear_free(&e);
}

/* What is fetched may be large, and the line slow: the answer is not late while it comes. */
TEST(client_waits_for_an_answer_that_comes)
{
    struct fake f;
    struct ear e = {.answers = 0};
    struct buf frame = {0};
    char hello[200];

    fake_begin(&f);
    struct jim_client *c = client_at(&f, false, &e);
    fake_welcome(&f, c);
    UNTIL(c, !c->sync.catching);
    snprintf(hello, sizeof hello, HELLO, ",'seq':1");
    fake_say(&f, 0, 11, hello);
    UNTIL(c, e.messages.len > 0);
    snprintf(hello, sizeof hello, HELLO, ",'seq':3");
    fake_say(&f, 0, 11, hello);
    fake_expect(&f, c, 19, true);
    put_frame(&frame, false, 0, f.seq, 20, "{'code':10018,'command':20,'data':{'friends':{'b':["
              "{'chatType':2,'content':'2','from':'b','seq':2,'to':'a'}]},'groups':{}}}");
    fake_put(&f, frame.p, 10);
    UNTIL(c, c->link.in.len == 10);
    c->flight.first->until_ms = 1; /* long ago */
    jim_client_step(c);
    CHECK_INT(jim_client_state(c), JIM_CLIENT_READY);
    fake_put(&f, frame.p + 10, frame.len - 10);
    UNTIL(c, jim_client_seen(c, "b", NULL) == 3);
    CHECK_SAID(e.messages, "b>a:1:hi\nb>a:2*:2\nb>a:3:hi\n");
    buf_free(&frame);
    jim_client_free(c);
    fake_end(&f);
    ear_free(&e);
}

TEST(client_refuses_other_protocols)
{
    static const struct {
        const char *bytes;
        size_t n;
        const char *why;
    } cases[] = {
        {"HTTP/1.1 400", 12, "does not speak TCP-IM: another version"},
        {"\1\x51\x0d\x7f\xff\xff\xff", 7, "length is wrong"},
        {"\1\x51\x0d\xff\xff\xff\xff", 7, "length is wrong"},
        {"", 0, "the server closed the connection"},
    };
    struct fake f;
    struct ear e = {.answers = 0};

    fake_begin(&f);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct jim_client *c = client_at(&f, false, &e);
        fake_hear(&f, c);
        fake_put(&f, cases[i].bytes, cases[i].n);
        if (cases[i].n == 0)
            fake_hang_up(&f);
        UNTIL(c, jim_client_state(c) == JIM_CLIENT_WAITING);
        if (strstr(e.why, cases[i].why) == NULL)
            test_fail(__FILE__, __LINE__, "%s instead of %s", e.why, cases[i].why);
        fake_hang_up(&f);
        jim_client_free(c);
    }
    fake_end(&f);
    ear_free(&e);
}

/*
 * What jim says to a client that logs in, hears a message and sends one, cut off behind every byte:
 * the rest comes on the next connection, and nothing is lost or told twice.
 */
struct cut {
    struct fake f;
    struct jim_client *c;
    struct ear e;
    size_t left;  /* bytes until the cut; SIZE_MAX: none */
    bool cut;
    bool said, stored; /* b's message was said once; a's is in the store */
};

static void
cut_say(struct cut *t, int seq, int cmd, const char *json)
{
    struct buf b = {0};

    put_frame(&b, false, 0, seq, cmd, json);
    if (t->f.fd >= 0 && t->left >= b.len) {
        fake_put(&t->f, b.p, b.len);
        t->left -= t->left == SIZE_MAX ? 0 : b.len;
    } else if (t->f.fd >= 0) {
        fake_put(&t->f, b.p, t->left);
        fake_hang_up(&t->f);
        t->left = SIZE_MAX;
        t->cut = true;
    }
    buf_free(&b);
}

/* b's message is said once, as number 1, when the client has caught up; a's own becomes 2. */
static void
cut_answer(struct cut *t)
{
    char text[400], stand[200] = "";
    int seq = t->f.seq;
    bool history = strstr(t->f.body.p, "\"type\":1") != NULL;

    snprintf(text, sizeof text, HELLO, ",'seq':1");
    switch (t->f.cmd) {
    case 13:
        cut_say(t, seq, 13, BEAT);
        break;
    case 5:
        cut_say(t, 0, 6, LOGIN);
        break;
    case 11:
        t->stored = true;
        cut_say(t, seq, 12, "{'code':10000,'command':12,'data':{'seq':2}}");
        break;
    case 19:
        if (strstr(t->f.body.p, "\"type\":2") != NULL)
            snprintf(stand, sizeof stand, "'b':{'delivered':%d,'seq':%d}", t->said,
                     t->stored ? 2 : t->said);
        else if (history)
            snprintf(stand, sizeof stand, "'b':[%.*s]", (int)strlen(text) - 22, text + 21);
        snprintf(text, sizeof text, "{'code':%d,'command':20,'data':{'friends':{%s},'groups':{}}}",
                 strstr(t->f.body.p, "\"type\":0") != NULL ? 10016 : 10018, stand);
        cut_say(t, seq, 20, text);
        if (t->f.fd >= 0 && !t->said && strstr(t->f.body.p, "\"type\":0") != NULL) {
            snprintf(text, sizeof text, HELLO, ",'seq':1");
            t->said = true;
            cut_say(t, 0, 11, text);
        }
        break;
    default:
        test_fail(__FILE__, __LINE__, "command %d", t->f.cmd);
    }
}

/* Returns whether the cut came before the end. */
static bool
cut_at(size_t at)
{
    struct cut t = {.left = at};
    struct jim_send what = {.to = "b", .content = "mine"};

    fake_begin(&t.f);
    t.c = client_at(&t.f, false, &t.e);
    CHECK(jim_client_send(t.c, &what, on_answer, &t.e) != 0);
    for (int i = 0; t.e.answers == 0 || t.e.messages.len == 0; i++) {
        CHECK(i < 2000);
        fake_step(&t.f);
        while (t.f.fd >= 0 && fake_take(&t.f))
            cut_answer(&t);
        jim_client_wait(t.c, 1);
    }
    CHECK_INT(t.e.answers, 1);
    CHECK_INT(t.e.refused, 0);
    check_run(&t.e.messages, "b>a", 1);
    CHECK_INT(jim_client_seen(t.c, "b", NULL), 2);
    jim_client_free(t.c);
    fake_end(&t.f);
    ear_free(&t.e);
    return t.cut;
}

TEST(client_is_cut_at_every_byte)
{
    size_t at = 0;

    while (cut_at(at))
        at++;
    CHECK(at > 400);
    test_note("a client's exchange cut at %zu places", at);
}

/* --- a WebSocket that is played --------------------------------------------------------------- */

static const char head_101[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\n"
                               "Connection: keep-alive, Upgrade\r\n";

/* Hear the request for an upgrade and answer with head, an accept (2: a wrong one), more lines. */
static void
fake_upgrade(struct fake *f, struct jim_client *c, const char *head, int accept, const char *more)
{
    char key[25] = "", value[29] = "", answer[600];
    const char *at;

    while (fake_step(f), f->in.len < 4 || memcmp(f->in.p + f->in.len - 4, "\r\n\r\n", 4) != 0)
        jim_client_wait(c, 5);
    buf_add(&f->in, "", 1);
    CHECK(memcmp(f->in.p, "GET / HTTP/1.1\r\n", 16) == 0);
    at = strstr(f->in.p, "Sec-WebSocket-Key: ");
    CHECK(at != NULL && sscanf(at, "Sec-WebSocket-Key: %24s", key) == 1);
    CHECK(strstr(f->in.p, "\r\nSec-WebSocket-Version: 13\r\n") != NULL);
    CHECK(ws_accept(str_of(key), value));
    if (accept == 2)
        value[0] = value[0] == 'x' ? 'y' : 'x';
    snprintf(answer, sizeof answer, "%s%s%s%s%s\r\n", head,
             accept ? "Sec-WebSocket-Accept: " : "", accept ? value : "", accept ? "\r\n" : "",
             more);
    for (size_t i = 0; i < strlen(answer); i++) /* byte by byte */
        fake_put(f, answer + i, 1);
    f->in.len = f->used = 0;
    f->ws = true;
}

TEST(client_checks_the_upgrade)
{
    static const struct {
        const char *head;
        int accept;
        const char *more, *why;
    } cases[] = {
        {head_101, 2, "", "Sec-WebSocket-Accept is wrong"},
        {head_101, 0, "", "Sec-WebSocket-Accept is wrong"},
        {head_101, 1, "Sec-WebSocket-Extensions: permessage-deflate\r\n", "an extension"},
        {head_101, 1, "Sec-WebSocket-Protocol: chat\r\n", "a protocol nobody"},
        {"HTTP/1.1 101 X\r\nUpgrade: websocket\r\n", 1, "", "no Upgrade"},
        {"HTTP/1.1 101 X\r\nConnection: upgrade\r\n", 1, "", "no Upgrade"},
        {"HTTP/1.1 404 Not Found\r\n", 1, "", "does not upgrade to WebSocket: HTTP 404 Not Found"},
        {"SSH-2.0-x\r\n", 1, "", "is not HTTP/1.1"},
    };
    struct fake f;
    struct ear e = {.answers = 0};

    fake_begin(&f);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct jim_client *c = client_at(&f, true, &e);
        fake_upgrade(&f, c, cases[i].head, cases[i].accept, cases[i].more);
        UNTIL(c, jim_client_state(c) == JIM_CLIENT_WAITING);
        if (strstr(e.why, cases[i].why) == NULL)
            test_fail(__FILE__, __LINE__, "%s instead of %s", e.why, cases[i].why);
        fake_hang_up(&f);
        jim_client_free(c);
    }
    fake_end(&f);
    ear_free(&e);
}

static void
fake_welcome_ws(struct fake *f, struct jim_client *c)
{
    fake_upgrade(f, c, head_101, 1, "");
    fake_hear(f, c);
    CHECK_INT(f->cmd, 5);
    fake_say(f, 0, 6, LOGIN);
    fake_hear(f, c);
    CHECK_INT(f->cmd, 19);
    fake_say(f, 0, 20, NOWHERE);
    fake_hear(f, c);
    CHECK_INT(f->cmd, 13);
    fake_say(f, 0, 13, BEAT);
    fake_hear(f, c);
    CHECK_INT(f->cmd, 19);
    fake_say(f, 0, 20, NOTHING);
}

TEST(client_hears_fragments_and_pings)
{
    struct fake f;
    struct ear e = {.answers = 0};
    struct buf b = {0};
    char text[200];
    uint8_t mask[4];

    fake_begin(&f);
    struct jim_client *c = client_at(&f, true, &e);
    fake_welcome_ws(&f, c);
    memcpy(mask, f.mask, 4);
    snprintf(text, sizeof text, HELLO, ",'seq':1");
    char tail[200];
    snprintf(tail, sizeof tail, "%s", text + 30);
    text[30] = '\0';
    put_frame(&b, true, 0x01, 0, 0, text);     /* a text's beginning, */
    put_frame(&b, true, 0x89, 0, 0, "are you"); /* a PING between, */
    put_frame(&b, true, 0x00, 0, 0, "");        /* nothing, */
    put_frame(&b, true, 0x80, 0, 0, tail);     /* and its end */
    for (size_t i = 0; i < b.len; i++) {
        fake_put(&f, b.p + i, 1);
        jim_client_wait(c, 1);
    }
    fake_hear(&f, c);
    CHECK_INT(f.op, 0x8a);
    CHECK(strcmp(f.body.p, "are you") == 0);
    CHECK(memcmp(mask, f.mask, 4) != 0); /* another for each frame */
    UNTIL(c, e.messages.len > 0);
    CHECK_SAID(e.messages, "b>a:1:hi\n");
    buf_free(&b);
    jim_client_free(c);
    fake_end(&f);
    ear_free(&e);
}

TEST(client_holds_a_server_to_the_rules)
{
    static const struct {
        const char *bytes;
        size_t n;
        int close; /* what the client says of it */
        const char *why;
    } cases[] = {
        {"\x81\x82xxxx..", 8, 1002, "close code 1002"},       /* masked */
        {"\xc1\x02{}", 4, 1002, "close code 1002"},           /* RSV1 */
        {"\x83\x00", 2, 1002, "close code 1002"},             /* no such opcode */
        {"\x80\x00", 2, 1002, "close code 1002"},             /* continues nothing */
        {"\x81\x02\xff\xff", 4, 1007, "close code 1007"},    /* not UTF-8 */
        {"\x81\x7f\0\0\0\1\0\0\0\0", 10, 1009, "close code 1009"}, /* 4 GiB */
        {"\x88\x05\x03\xe9" "bye", 7, 1001, "closed the connection: 1001 bye"},
    };
    struct fake f;
    struct ear e = {.answers = 0};

    fake_begin(&f);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct jim_client *c = client_at(&f, true, &e);
        fake_welcome_ws(&f, c);
        fake_put(&f, cases[i].bytes, cases[i].n);
        UNTIL(c, jim_client_state(c) == JIM_CLIENT_WAITING);
        if (strstr(e.why, cases[i].why) == NULL)
            test_fail(__FILE__, __LINE__, "%s instead of %s", e.why, cases[i].why);
        fake_hear(&f, c);
        CHECK_INT(f.op, 0x88);
        CHECK_INT((uint8_t)f.body.p[0] << 8 | (uint8_t)f.body.p[1], cases[i].close);
        fake_hang_up(&f);
        jim_client_free(c);
    }
    fake_end(&f);
    ear_free(&e);
}

TEST(client_of_a_jim_2020_over_ws)
{
    struct fake f;
    struct ear e = {.answers = 0};
    struct jim_send what = {.group = "g", .content = "one", .id = "i"};

    fake_begin(&f);
    struct jim_client *c = client_at(&f, true, &e);
    fake_upgrade(&f, c, head_101, 1, "content-length: 0\r\n");
    fake_hear(&f, c);
    fake_say(&f, 0, 6, "{'code':10007,'command':6,'msg':'ok'}");
    fake_hear(&f, c);
    CHECK_INT(f.cmd, 19); /* its type 2 is swallowed */
    fake_hear(&f, c);
    CHECK_INT(f.cmd, 13);
    fake_say(&f, 0, 13, BEAT);
    fake_hear(&f, c);
    CHECK(f.cmd == 19 && strstr(f.body.p, "\"type\":0") != NULL);
    fake_say(&f, 0, 20, NOTHING);
    CHECK(jim_client_send(c, &what, on_answer, &e) != 0);
    fake_hear(&f, c);
    CHECK_INT(f.cmd, 11);
    fake_say(&f, 0, 11, "{'command':11,'data':{'chatType':1,'content':'one','from':'a',"
                        "'groupId':'g','id':'i'}}"); /* his own: not told */
    fake_say(&f, 0, 12, "{'code':10000,'command':12}");
    UNTIL(c, e.answers == 1);
    CHECK_INT(e.messages.len, 0);
    jim_client_free(c);
    fake_end(&f);
    ear_free(&e);
}
