/* SPDX-License-Identifier: MIT */
/*
 * test_client.c - the client library: what it makes of JSON; with the real server, on both
 * protocols, also one that is killed; and with peers that are played here, byte by byte.
 */
#include "client.h"

#include "../client_int.h"

#include <poll.h>
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
