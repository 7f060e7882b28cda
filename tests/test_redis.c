/* SPDX-License-Identifier: MIT */
/*
 * test_redis.c - the link to Redis against servers that do as they are told: fakes on loopback, on
 * the test's own thread, which take commands apart by themselves. The clock is the test's.
 */
#include "client.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <unistd.h>

#define FAKES 3
#define PEERS 8
#define ARGS 16

struct fake;
typedef void answer_fn(struct fake *f, int peer, const struct str *arg, size_t n);

struct fake { /* a server */
    int fd, port;
    int peer[PEERS];
    struct buf in[PEERS], out[PEERS];
    size_t piece;       /* bytes of one write; 0: all */
    answer_fn *answer;  /* NULL: usual() */
    bool deaf;          /* reads and says nothing */
    struct buf heard;   /* commands, a line each, but for the login */
    int connects;
    int slow[PEERS];    /* commands to be answered later */
};

struct setup {
    struct loop *loop;
    struct log log;
    struct options opt;
    struct redis *r;
    struct fake fake[FAKES];
    int ups, downs, pushes;
    char why[200];
    struct buf got; /* what callbacks were told */
    int calls;
};

static int64_t now_ms;

static int64_t
clock_ms(void)
{
    return now_ms;
}

/* --- fakes ------------------------------------------------------------------------------------ */

static void
tell(struct fake *f, int peer, const char *text)
{
    buf_add(&f->out[peer], text, strlen(text));
}

static void
fake_close(struct fake *f, int peer)
{
    close(f->peer[peer]);
    f->peer[peer] = -1;
    buf_free(&f->in[peer]);
    buf_free(&f->out[peer]);
}

/* The login of today's servers. True when it was one of its commands. */
static bool
welcome(struct fake *f, int peer, const struct str *arg)
{
    if (str_eq(arg[0], STR("HELLO")))
        tell(f, peer, "%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n");
    else if (str_eq(arg[0], STR("PING")))
        tell(f, peer, "+PONG\r\n");
    else if (str_eq(arg[0], STR("SELECT")))
        tell(f, peer, "+OK\r\n");
    else
        return false;
    return true;
}

static void
usual(struct fake *f, int peer, const struct str *arg, size_t n)
{
    (void)n;
    if (welcome(f, peer, arg))
        return;
    if (str_eq(arg[0], STR("ECHO"))) {
        buf_printf(&f->out[peer], "$%zu\r\n%.*s\r\n", arg[1].n, (int)arg[1].n, arg[1].p);
        return;
    }
    tell(f, peer, "-ERR unknown command\r\n");
}

/* A number behind `mark` at *at, which moves behind its CR LF; -1: not there yet. */
static long
take_head(struct buf in, size_t *at, char mark)
{
    char *end = *at < in.len ? memmem(in.p + *at, in.len - *at, "\r\n", 2) : NULL;

    if (end == NULL)
        return -1;
    CHECK(in.p[*at] == mark);
    long n = atol(in.p + *at + 1);
    *at = (size_t)(end + 2 - in.p);
    return n;
}

/* One command; its length, 0 when it is not complete. */
static size_t
take_command(struct buf in, struct str *arg, size_t *n)
{
    size_t at = 0;
    long count = take_head(in, &at, '*');

    if (count < 0)
        return 0;
    for (*n = 0; *n < (size_t)count; (*n)++) {
        long size = take_head(in, &at, '$');
        if (size < 0 || in.len - at < (size_t)size + 2)
            return 0;
        if (*n < ARGS)
            arg[*n] = (struct str){in.p + at, (size_t)size};
        CHECK(memcmp(in.p + at + size, "\r\n", 2) == 0);
        at += (size_t)size + 2;
    }
    return at;
}

static void
fake_hears(struct fake *f, int peer)
{
    struct str arg[ARGS];
    size_t n, used;

    while (f->peer[peer] >= 0 && (used = take_command(f->in[peer], arg, &n)) > 0) {
        for (size_t i = 0; i < n && i < ARGS; i++)
            if (arg[i].n < 100)
                buf_printf(&f->heard, "%s%.*s", i > 0 ? " " : "", (int)arg[i].n, arg[i].p);
        buf_printf(&f->heard, "\n");
        (f->answer != NULL ? f->answer : usual)(f, peer, arg, n);
        if (f->peer[peer] >= 0)
            buf_drop(&f->in[peer], used);
    }
}

static void
fake_peer(struct fake *f, int i)
{
    struct buf *in = &f->in[i], *out = &f->out[i];
    ssize_t n;

    for (;;) {
        buf_reserve(in, 65536);
        n = read(f->peer[i], in->p + in->len, 65536);
        if (n <= 0)
            break;
        in->len += (size_t)n;
    }
    if (n == 0) {
        fake_close(f, i);
        return;
    }
    fake_hears(f, i);
    if (f->peer[i] < 0 || out->len == 0)
        return;
    n = write(f->peer[i], out->p, f->piece > 0 && f->piece < out->len ? f->piece : out->len);
    if (n > 0)
        buf_drop(out, (size_t)n);
}

static void
fake_serve(struct fake *f)
{
    int fd;

    while (!f->deaf && (fd = accept(f->fd, NULL, NULL)) >= 0) {
        int i = 0;
        while (i < PEERS && f->peer[i] >= 0)
            i++;
        CHECK(i < PEERS);
        fcntl(fd, F_SETFL, O_NONBLOCK);
        f->peer[i] = fd;
        f->connects++;
    }
    for (int i = 0; i < PEERS && !f->deaf; i++)
        if (f->peer[i] >= 0)
            fake_peer(f, i);
}

static void
fake_open(struct fake *f)
{
    struct sockaddr_in a = {.sin_family = AF_INET};
    socklen_t n = sizeof a;

    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    f->fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(f->fd >= 0 && bind(f->fd, (struct sockaddr *)&a, sizeof a) == 0);
    CHECK(listen(f->fd, 64) == 0 && getsockname(f->fd, (struct sockaddr *)&a, &n) == 0);
    fcntl(f->fd, F_SETFL, O_NONBLOCK);
    f->port = ntohs(a.sin_port);
    for (int i = 0; i < PEERS; i++)
        f->peer[i] = -1;
}

/* Everybody who is connected to it loses it. */
static void
fake_drop(struct fake *f)
{
    for (int i = 0; i < PEERS; i++)
        if (f->peer[i] >= 0)
            fake_close(f, i);
}

/* --- the test's side -------------------------------------------------------------------------- */

static void
on_up(void *arg, struct redis *r)
{
    struct setup *s = arg;

    CHECK(redis_is_up(r));
    s->ups++;
}

static void
on_down(void *arg, struct redis *r, const char *why)
{
    struct setup *s = arg;

    CHECK(!redis_is_up(r));
    s->downs++;
    snprintf(s->why, sizeof s->why, "%s", why);
}

static void
put_reply(struct buf *b, const struct redis_reply *e)
{
    static const char *const marks[] = {"+", "-", ":", "$", "?", "[", "nil", "#",
                                        ",", "(", "=", "{", "~", ">", "?"};

    buf_printf(b, "%s", marks[e->type]);
    if (e->type == RESP_INT || e->type == RESP_BOOL)
        buf_printf(b, "%lld", (long long)e->n);
    buf_str(b, redis_text(e));
    if (e->type != RESP_ARRAY && e->type < RESP_MAP)
        return;
    uint32_t span = 1;
    for (size_t i = 0; i < (size_t)e->n; i++) {
        buf_printf(b, "%s", i > 0 ? " " : "");
        put_reply(b, redis_at(e, i));
        span += redis_at(e, i)->span;
    }
    CHECK_INT(e->span, span);
    CHECK(redis_at(e, (size_t)e->n) == NULL);
    buf_printf(b, "]");
}

static void
on_push(void *arg, struct redis *r, const struct redis_reply *what)
{
    struct setup *s = arg;

    (void)r;
    s->pushes++;
    buf_printf(&s->got, "push ");
    put_reply(&s->got, what);
    buf_printf(&s->got, "\n");
}

static void
on_reply(void *arg, uint64_t n, const struct redis_reply *reply, bool sent)
{
    struct setup *s = arg;

    s->calls++;
    buf_printf(&s->got, "%llu ", (unsigned long long)n);
    if (reply != NULL)
        put_reply(&s->got, reply);
    else
        buf_printf(&s->got, "%s", sent ? "unknown" : "not sent");
    buf_printf(&s->got, "\n");
}

static void
begin(struct setup *s)
{
    memset(s, 0, sizeof *s);
    now_ms = 1000000;
    s->loop = loop_new();
    loop_set_clock(s->loop, clock_ms);
    s->log = (struct log){stderr, -1};
    conf_init(&s->opt);
    for (int i = 0; i < FAKES; i++)
        fake_open(&s->fake[i]);
    s->opt.redis_port = s->fake[0].port;
}

static void set_string(char **to, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void
set_string(char **to, const char *format, ...)
{
    char text[200];
    va_list ap;

    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    free(*to);
    *to = xstrndup(text, strlen(text));
}

static void
start(struct setup *s)
{
    const struct redis_options o = {.opt = &s->opt, .loop = s->loop, .log = &s->log, .arg = s,
                                    .up = on_up, .down = on_down, .push = on_push};
    char err[200];

    CHECK(redis_check(&s->opt, err, sizeof err) == 0);
    s->r = redis_new(&o);
}

static void
turn(struct setup *s)
{
    CHECK(loop_turn(s->loop, 1) >= 0);
    if (s->r != NULL)
        redis_flush(s->r);
    for (int i = 0; i < FAKES; i++)
        fake_serve(&s->fake[i]);
}

/* Turns until it is so; time passes by `step` ms a turn. */
#define UNTIL_BY(s, step, condition) \
    do { \
        int64_t end = time_mono_ms() + WAIT_MS; \
        while (!(condition)) { \
            if (time_mono_ms() > end) \
                test_fail(__FILE__, __LINE__, "never: %s", #condition); \
            now_ms += (step); \
            turn(s); \
        } \
    } while (0)
#define UNTIL(s, condition) UNTIL_BY(s, 0, condition)

static void
end(struct setup *s)
{
    redis_free(s->r);
    s->r = NULL;
    for (int i = 0; i < FAKES; i++) {
        fake_drop(&s->fake[i]);
        close(s->fake[i].fd);
        buf_free(&s->fake[i].heard);
    }
    loop_free(s->loop);
    conf_free(&s->opt);
    buf_free(&s->got);
}

static void
echo(struct setup *s, const char *key, const char *text, uint64_t n)
{
    redis_begin(s->r, 2);
    redis_arg_lit(s->r, "ECHO");
    redis_arg_str(s->r, str_of(text));
    redis_end(s->r, str_of(key), on_reply, s, n);
}

static void
check_got(struct setup *s, const char *want)
{
    CHECK_BYTES(s->got.p, s->got.len, want);
    s->got.len = 0;
}

static void
check_heard(struct fake *f, const char *want)
{
    CHECK_BYTES(f->heard.p, f->heard.len, want);
    f->heard.len = 0;
}

/* --- slots, options --------------------------------------------------------------------------- */

TEST(redis_slots)
{
    static const struct {
        const char *key, *same;
    } cases[] = { /* keys, and what of them counts: Redis Cluster's specification */
        {"{user1000}.following", "user1000"},
        {"foo{}{bar}", "foo{}{bar}"},
        {"foo{{bar}}zap", "{bar"},
        {"foo{bar}{zap}", "bar"},
        {"foo{bar", "foo{bar"},
        {"foo{", "foo{"},
        {"}foo{x}", "x"},
    };

    CHECK_INT(redis_slot(STR("123456789")), 0x31c3); /* the check value of CRC-16/XMODEM */
    CHECK_INT(redis_slot(STR("")), 0);
    CHECK_INT(redis_slot(STR("foo")), 12182); /* as `cluster keyslot foo` says */
    CHECK_INT(redis_slot(STR("\xff\x00\x80")), redis_slot(STR("{\xff\x00\x80}")));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct buf b = {0};
        buf_printf(&b, "{%s}", cases[i].same);
        bool braces = strpbrk(cases[i].same, "{}") != NULL;
        struct str same = braces ? str_of(cases[i].same) : (struct str){b.p, b.len};
        if (strcmp(cases[i].same, "{bar") == 0)
            CHECK_INT(redis_slot(str_of(cases[i].key)), 4015);
        else
            CHECK_INT(redis_slot(str_of(cases[i].key)), redis_slot(same));
        buf_free(&b);
    }
}

TEST(redis_options)
{
    static const struct {
        const char *key, *value, *key2, *value2, *why;
    } cases[] = {
        {"host", "r", "port", "1", NULL},
        {"host", "", NULL, NULL, "jim.redis.host"},
        {"port", "0", NULL, NULL, "jim.redis.port"},
        {"nodes", "a:1,[::1]:2, c", NULL, NULL, NULL},
        {"nodes", "a:1,b:0", NULL, NULL, "jim.redis.nodes"},
        {"nodes", ",", NULL, NULL, "jim.redis.nodes"},
        {"nodes", "a:1", "db", "1", "jim.redis.db"},
        {"nodes", "a:1", "sentinel", "m@b", "one of them"},
        {"sentinel", "m@b:1,c", NULL, NULL, NULL},
        {"sentinel", "b:1", NULL, NULL, "jim.redis.sentinel"},
        {"sentinel", "@b:1", NULL, NULL, "jim.redis.sentinel"},
        {"sentinel", "m@", NULL, NULL, "jim.redis.sentinel"},
        {"user", "u", NULL, NULL, "jim.redis.auth"},
        {"user", "u", "auth", "p", NULL},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct options o;
        char key[64], err[200] = "";
        conf_init(&o);
        snprintf(key, sizeof key, "jim.redis.%s", cases[i].key);
        CHECK(conf_set(&o, key, cases[i].value, false, NULL, err, sizeof err) == 0);
        snprintf(key, sizeof key, "jim.redis.%s", cases[i].key2 != NULL ? cases[i].key2 : "");
        if (cases[i].key2 != NULL)
            CHECK(conf_set(&o, key, cases[i].value2, false, NULL, err, sizeof err) == 0);
        int result = redis_check(&o, err, sizeof err);
        if ((result == 0) != (cases[i].why == NULL) ||
            (result != 0 && strstr(err, cases[i].why) == NULL))
            test_fail(__FILE__, __LINE__, "%s=%s: %d %s", cases[i].key, cases[i].value, result,
                      err);
        conf_free(&o);
    }
}

/* --- one server ------------------------------------------------------------------------------- */

TEST(redis_login)
{
    struct setup s;

    begin(&s);
    set_string(&s.opt.redis_auth, "secret");
    s.opt.redis_db = 3;
    start(&s);
    CHECK(!redis_is_up(s.r));
    UNTIL(&s, s.ups == 1);
    check_heard(&s.fake[0], "HELLO 3 AUTH default secret SETNAME jim\nSELECT 3\nPING\n");
    end(&s);
    begin(&s);
    set_string(&s.opt.redis_auth, "secret");
    set_string(&s.opt.redis_user, "us");
    start(&s);
    UNTIL(&s, s.ups == 1);
    check_heard(&s.fake[0], "HELLO 3 AUTH us secret SETNAME jim\nPING\n");
    end(&s);
}

static void
old_server(struct fake *f, int peer, const struct str *arg, size_t n)
{
    if (str_eq(arg[0], STR("HELLO")))
        tell(f, peer, "-ERR unknown command `HELLO`\r\n");
    else if (str_eq(arg[0], STR("CLIENT")) || str_eq(arg[0], STR("AUTH")))
        tell(f, peer, "+OK\r\n");
    else
        usual(f, peer, arg, n);
}

TEST(redis_login_of_old_servers)
{
    struct setup s;

    begin(&s);
    s.fake[0].answer = old_server;
    set_string(&s.opt.redis_auth, "secret");
    s.opt.redis_db = 2;
    start(&s);
    UNTIL(&s, s.ups == 1);
    check_heard(&s.fake[0], "HELLO 3 AUTH default secret SETNAME jim\nAUTH secret\n"
                            "CLIENT SETNAME jim\nSELECT 2\nPING\n");
    echo(&s, "k", "x", 1);
    UNTIL(&s, s.calls == 1);
    check_got(&s, "1 $x\n");
    end(&s);
}

static void
wrong_password(struct fake *f, int peer, const struct str *arg, size_t n)
{
    (void)arg;
    (void)n;
    tell(f, peer, "-WRONGPASS invalid username-password pair or user is disabled.\r\n");
}

static void
loading(struct fake *f, int peer, const struct str *arg, size_t n)
{
    if (str_eq(arg[0], STR("PING")) && f->connects < 3)
        tell(f, peer, "-LOADING Redis is loading the dataset in memory\r\n");
    else
        usual(f, peer, arg, n);
}

TEST(redis_login_refused)
{
    struct setup s;

    begin(&s);
    s.fake[0].answer = wrong_password;
    start(&s);
    UNTIL_BY(&s, 100, s.fake[0].connects == 3); /* with pauses */
    CHECK(!redis_is_up(s.r));
    s.fake[0].answer = usual;
    UNTIL_BY(&s, 100, s.ups == 1);
    CHECK_INT(s.downs, 0);
    end(&s);
    begin(&s); /* one that loads its data takes no commands yet */
    s.fake[0].answer = loading;
    start(&s);
    UNTIL_BY(&s, 100, s.ups == 1);
    CHECK_INT(s.fake[0].connects, 3);
    end(&s);
}

TEST(redis_turn_is_one_write)
{
    struct setup s;
    struct redis_stats before, after;
    struct buf want = {0};

    begin(&s);
    start(&s);
    UNTIL(&s, s.ups == 1);
    redis_stats(s.r, &before);
    for (uint64_t i = 0; i < 1000; i++) {
        char text[16];
        snprintf(text, sizeof text, "v%d", (int)i);
        echo(&s, i % 2 ? "a" : "b", text, i);
        buf_printf(&want, "%d $v%d\n", (int)i, (int)i);
    }
    CHECK_INT(s.calls, 0);
    CHECK(redis_queued(s.r) > 0);
    UNTIL(&s, s.calls == 1000);
    redis_stats(s.r, &after);
    CHECK_INT(after.writes - before.writes, 1);
    CHECK_INT(after.replies - before.replies, 1000);
    CHECK_INT(redis_queued(s.r), 0);
    buf_add(&want, "", 1);
    check_got(&s, want.p);
    buf_free(&want);
    end(&s);
}

TEST(redis_arguments)
{
    static const int64_t numbers[] = {0, 9, 10, -1, INT64_MAX, INT64_MIN};
    struct setup s;

    begin(&s);
    start(&s);
    UNTIL(&s, s.ups == 1);
    s.fake[0].heard.len = 0;
    redis_begin(s.r, 1 + sizeof numbers / sizeof numbers[0]);
    redis_arg_lit(s.r, "ECHO");
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        redis_arg_int(s.r, numbers[i]);
    redis_end(s.r, STR("k"), NULL, NULL, 0); /* nobody wants to know */
    redis_begin(s.r, 2);
    redis_arg_lit(s.r, "ECHO");
    redis_arg(s.r, NULL, 0);
    redis_end(s.r, STR("k"), on_reply, &s, 1);
    UNTIL(&s, s.calls == 1);
    check_got(&s, "1 $\n");
    check_heard(&s.fake[0], "ECHO 0 9 10 -1 9223372036854775807 -9223372036854775808\nECHO \n");
    end(&s);
}

/* The name of a host is looked up beside the loop. */
TEST(redis_host_by_name)
{
    struct setup s;

    begin(&s);
    set_string(&s.opt.redis_host, "localhost");
    start(&s);
    UNTIL(&s, s.ups == 1 || s.fake[0].connects > 0);
    UNTIL_BY(&s, 1, s.ups == 1);
    end(&s);
    begin(&s); /* and given up with the link */
    set_string(&s.opt.redis_host, "localhost");
    start(&s);
    end(&s);
}

static const char everything[] =
    "*13\r\n+OK\r\n-ERR no\r\n:-5\r\n$4\r\na\r\nb\r\n$0\r\n\r\n$-1\r\n*-1\r\n*0\r\n_\r\n#t\r\n"
    ",1.5\r\n(123456789012345678901234567890\r\n=5\r\ntxt:x\r\n"
    "%2\r\n+a\r\n*2\r\n:1\r\n~2\r\n:2\r\n:3\r\n+b\r\n%0\r\n"
    "|1\r\n+ttl\r\n*2\r\n:9\r\n:8\r\n*2\r\n|1\r\n+k\r\n+v\r\n:1\r\n|0\r\n:2\r\n"
    ">2\r\n+message\r\n$2\r\nhi\r\n"
    "+last\r\n";
static const char told[] =
    "1 [+OK -ERR no :-5 $a\r\nb $ nil nil [] nil #1 ,1.5 (123456789012345678901234567890 =x]\n"
    "2 {+a [:1 ~:2 :3]] +b {]]\n"
    "3 [:1 :2]\n"
    "push >+message $hi]\n"
    "4 +last\n";

static void
say_everything(struct fake *f, int peer, const struct str *arg, size_t n)
{
    (void)n;
    if (!welcome(f, peer, arg) && str_eq(arg[1], STR("1")))
        tell(f, peer, everything);
}

TEST(redis_replies_cut_anywhere)
{
    for (size_t piece = 1; piece < 60; piece++) {
        struct setup s;
        begin(&s);
        s.fake[0].answer = say_everything;
        start(&s);
        UNTIL(&s, s.ups == 1);
        s.fake[0].piece = piece;
        echo(&s, "k", "1", 1);
        for (uint64_t i = 2; i <= 4; i++)
            echo(&s, "k", "more", i);
        UNTIL(&s, s.calls == 4);
        check_got(&s, told);
        end(&s);
    }
}

static struct buf large; /* what large_reply() says */

static void
large_reply(struct fake *f, int peer, const struct str *arg, size_t n)
{
    if (!welcome(f, peer, arg) && str_eq(arg[1], STR("large")))
        buf_add(&f->out[peer], large.p, large.len);
    else if (!str_eq(arg[0], STR("HELLO")) && !str_eq(arg[0], STR("PING")))
        usual(f, peer, arg, n);
}

/* Of what is too large nothing is kept, and the connection lives on. */
TEST(redis_reply_too_large)
{
    static const char want[] = "1 -TOOLARGE reply is above what is taken\n2 $after\n";
    struct setup s;
    char *filler = xcalloc(1, REDIS_REPLY + 10);

    begin(&s);
    s.fake[0].answer = large_reply;
    start(&s);
    UNTIL(&s, s.ups == 1);
    for (int kind = 0; kind < 3; kind++) {
        large.len = 0;
        if (kind == 0) { /* one string */
            buf_printf(&large, "*3\r\n:1\r\n$%u\r\n", REDIS_REPLY + 1);
            buf_add(&large, filler, REDIS_REPLY + 1);
            buf_printf(&large, "\r\n:2\r\n");
        } else if (kind == 1) { /* several together */
            buf_printf(&large, "*5\r\n");
            for (int i = 0; i < 5; i++) {
                buf_printf(&large, "$%u\r\n", REDIS_REPLY / 4);
                buf_add(&large, filler, REDIS_REPLY / 4);
                buf_printf(&large, "\r\n");
            }
        } else { /* too many */
            buf_printf(&large, "*2\r\n*%d\r\n", REDIS_ELEMENTS);
            for (int i = 0; i <= REDIS_ELEMENTS; i++)
                buf_printf(&large, "*1\r\n:1\r\n");
        }
        int calls = s.calls;
        echo(&s, "k", "large", 1);
        echo(&s, "k", "after", 2);
        UNTIL(&s, s.calls == calls + 2);
        check_got(&s, want);
    }
    CHECK_INT(s.fake[0].connects, 1);
    free(filler);
    buf_free(&large);
    end(&s);
}

static void
goes_wrong(struct fake *f, int peer, const struct str *arg, size_t n)
{
    (void)n;
    if (welcome(f, peer, arg))
        return;
    if (str_eq(arg[1], STR("close"))) {
        tell(f, peer, "*2\r\n:1\r\n"); /* within its answer */
        CHECK(write(f->peer[peer], f->out[peer].p, f->out[peer].len) > 0);
        fake_close(f, peer);
    } else if (str_eq(arg[1], STR("junk"))) {
        tell(f, peer, "HTTP/1.1 400 Bad Request\r\n");
    } else if (str_eq(arg[1], STR("twice"))) {
        tell(f, peer, "+1\r\n+2\r\n");
    } else if (str_eq(arg[1], STR("deep"))) {
        for (int i = 0; i < 20; i++)
            tell(f, peer, "*1\r\n");
    } else {
        tell(f, peer, "+OK\r\n");
    }
}

TEST(redis_connection_lost)
{
    static const struct {
        const char *word, *got, *why;
    } cases[] = {
        {"close", "1 +OK\n2 unknown\n3 unknown\n", "closed"},
        {"junk", "1 +OK\n2 unknown\n3 unknown\n", "protocol"},
        {"deep", "1 +OK\n2 unknown\n3 unknown\n", "protocol"},
        {"twice", "1 +OK\n2 +1\n3 +2\n", "not asked"},
    };
    struct setup s;

    begin(&s);
    s.fake[0].answer = goes_wrong;
    start(&s);
    UNTIL(&s, s.ups == 1);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int calls = s.calls;
        CHECK(redis_is_up(s.r));
        echo(&s, "k", "fine", 1);
        echo(&s, "k", cases[i].word, 2);
        echo(&s, "k", "fine", 3);
        UNTIL(&s, s.downs == (int)i + 1);
        UNTIL(&s, s.calls == calls + 3);
        check_got(&s, cases[i].got);
        CHECK(strstr(s.why, cases[i].why) != NULL);
        CHECK(!redis_takes(s.r, STR("k")));
        echo(&s, "k", "fine", 4); /* at once, and not within the call */
        CHECK_INT(s.calls, calls + 3);
        UNTIL(&s, s.calls == calls + 4);
        check_got(&s, "4 not sent\n");
        UNTIL_BY(&s, 20, s.ups == (int)i + 2);
    }
    end(&s);
}

/* A server that is there and does nothing: stopped, or cut off. */
TEST(redis_no_answer_in_time)
{
    struct setup s;

    begin(&s);
    start(&s);
    UNTIL(&s, s.ups == 1);
    s.fake[0].deaf = true;
    echo(&s, "k", "x", 1);
    UNTIL_BY(&s, 10, now_ms >= 1000000 + 4900);
    CHECK_INT(s.calls, 0);
    echo(&s, "k", "y", 2);
    UNTIL_BY(&s, 10, s.calls == 2);
    CHECK(now_ms >= 1005000 && now_ms < 1005100);
    check_got(&s, "1 unknown\n2 unknown\n");
    CHECK_INT(s.downs, 1);
    s.fake[0].deaf = false;
    fake_serve(&s.fake[0]);
    UNTIL_BY(&s, 10, s.ups == 2);
    /* Nobody asks: it is found out all the same. */
    s.fake[0].deaf = true;
    UNTIL_BY(&s, 10, s.downs == 2);
    CHECK(strstr(s.why, "in time") != NULL);
    end(&s);
}

static int64_t answer_at;

/* One ECHO a second of the test's clock is answered. */
static void
says_slowly(struct fake *f, int peer, const struct str *arg, size_t n)
{
    (void)n;
    if (!welcome(f, peer, arg))
        f->slow[peer]++;
}

static void
answer_slowly(struct fake *f)
{
    if (now_ms < answer_at)
        return;
    answer_at = now_ms + 1000;
    for (int i = 0; i < PEERS; i++)
        if (f->peer[i] >= 0 && f->slow[i] > 0) {
            f->slow[i]--;
            tell(f, i, "+slow\r\n");
        }
}

/* A server that has more to do than its time allows, but goes on, is not left: all that is on its
 * way would be lost, and come again. But not for ever. */
TEST(redis_slow)
{
    struct setup s;

    begin(&s);
    s.fake[0].answer = says_slowly;
    start(&s);
    UNTIL(&s, s.ups == 1);
    for (uint64_t i = 0; i < 20; i++)
        echo(&s, "k", "x", i);
    while (s.calls < 20) {
        answer_slowly(&s.fake[0]);
        now_ms += 10;
        turn(&s);
    }
    CHECK_INT(s.downs, 0);
    CHECK(memmem(s.got.p, s.got.len, "unknown", 7) == NULL);
    for (uint64_t i = 0; i < 3; i++) /* it stops in the middle */
        echo(&s, "k", "y", i);
    while (s.calls < 22) {
        answer_slowly(&s.fake[0]);
        now_ms += 10;
        turn(&s);
    }
    int64_t from = now_ms;
    UNTIL_BY(&s, 10, s.downs == 1);
    CHECK(now_ms - from > 4900 && now_ms - from < 5100);
    UNTIL_BY(&s, 10, s.ups == 2);
    from = now_ms;
    for (uint64_t i = 0; i < 100; i++)
        echo(&s, "k", "z", i);
    while (s.downs < 2) {
        answer_slowly(&s.fake[0]);
        now_ms += 10;
        turn(&s);
    }
    CHECK(now_ms - from > 29000 && now_ms - from < 31000); /* six times its time */
    end(&s);
}

static void
ask_slowly(struct setup *s, int64_t ms, uint64_t n)
{
    redis_begin(s->r, 2);
    redis_arg_lit(s->r, "XREAD");
    redis_arg_int(s->r, ms);
    redis_patience(s->r, ms);
    redis_end(s->r, STR("k"), on_reply, s, n);
}

static void
says_nothing(struct fake *f, int peer, const struct str *arg, size_t n)
{
    (void)n;
    if (!str_eq(arg[0], STR("XREAD")))
        welcome(f, peer, arg);
}

TEST(redis_patience)
{
    struct setup s;

    begin(&s);
    s.fake[0].answer = says_nothing;
    start(&s);
    UNTIL(&s, s.ups == 1);
    ask_slowly(&s, REDIS_FOREVER, 1);
    UNTIL_BY(&s, 1000, now_ms >= 1000000 + 100000);
    CHECK_INT(s.calls, 0);
    for (int i = 0; i < PEERS; i++)
        if (s.fake[0].peer[i] >= 0)
            tell(&s.fake[0], i, "+late\r\n");
    UNTIL(&s, s.calls == 1);
    check_got(&s, "1 +late\n");
    int64_t from = now_ms;
    ask_slowly(&s, 300, 2);
    UNTIL_BY(&s, 10, s.calls == 2);
    CHECK(now_ms - from >= 300 && now_ms - from < 400);
    check_got(&s, "2 unknown\n");
    end(&s);
}

TEST(redis_too_much_waits)
{
    struct setup s;
    char *text = xcalloc(1, 1 << 20);

    memset(text, 'x', (1 << 20) - 1);
    begin(&s);
    start(&s);
    UNTIL(&s, s.ups == 1);
    s.fake[0].deaf = true;
    for (uint64_t i = 0; i < 70; i++)
        echo(&s, "k", text, i);
    CHECK(redis_queued(s.r) <= REDIS_QUEUED);
    UNTIL(&s, s.calls == 70 - 63);
    CHECK(memmem(s.got.p, s.got.len, "unknown", 7) == NULL);
    CHECK(memcmp(s.got.p, "63 not sent\n64 not sent\n", 24) == 0);
    s.got.len = 0;
    UNTIL_BY(&s, 100, s.calls == 70); /* what was written in part may have been done */
    CHECK(memcmp(s.got.p, "0 unknown\n", 10) == 0);
    CHECK(memmem(s.got.p, s.got.len, "62 not sent\n", 12) != NULL);
    CHECK_INT(redis_queued(s.r), 0);
    free(text);
    end(&s);
}

TEST(redis_free_tells_everybody)
{
    struct setup s;

    begin(&s);
    start(&s);
    echo(&s, "k", "0", 0); /* not connected */
    turn(&s);
    UNTIL(&s, s.ups == 1);
    s.fake[0].deaf = true;
    echo(&s, "k", "1", 1);
    turn(&s);
    echo(&s, "k", "2", 2);
    redis_free(s.r);
    s.r = NULL;
    CHECK(s.calls == 3);
    CHECK(memmem(s.got.p, s.got.len, "1 unknown\n2 not sent\n", 21) != NULL);
    end(&s);
}

/* --- scripts, WAIT ---------------------------------------------------------------------------- */

static bool forgetful; /* has lost the script; does not answer WAIT */

static void
runs_scripts(struct fake *f, int peer, const struct str *arg, size_t n)
{
    if (str_eq(arg[0], STR("SCRIPT"))) {
        forgetful = false;
        tell(f, peer, "$40\r\n0123456789012345678901234567890123456789\r\n");
    } else if (str_eq(arg[0], STR("EVALSHA"))) {
        tell(f, peer, forgetful ? "-NOSCRIPT No matching script.\r\n" : ":7\r\n");
    } else {
        usual(f, peer, arg, n);
    }
}

static void
run_script(struct setup *s, const struct redis_script *script, uint64_t n)
{
    redis_script(s->r, script, 1, 1);
    redis_arg_lit(s->r, "k");
    redis_arg_int(s->r, (int64_t)n);
    redis_end(s->r, STR("k"), on_reply, s, n);
}

#define SHA "e0e1f9fabfc9d4800c877a703b823ac0578ff8db" /* of `return 1`, as SCRIPT LOAD says */

TEST(redis_scripts)
{
    struct redis_script script;
    struct setup s;

    redis_script_init(&script, "return 1");
    CHECK_BYTES(script.sha, 40, SHA);
    begin(&s);
    s.fake[0].answer = runs_scripts;
    forgetful = true;
    start(&s);
    UNTIL(&s, s.ups == 1);
    s.fake[0].heard.len = 0;
    run_script(&s, &script, 1);
    run_script(&s, &script, 2);
    UNTIL(&s, s.calls == 2);
    check_got(&s, "1 :7\n2 :7\n");
    check_heard(&s.fake[0], "SCRIPT LOAD return 1\nEVALSHA " SHA " 1 k 1\nEVALSHA " SHA
                            " 1 k 2\n");
    forgetful = true; /* SCRIPT FLUSH */
    run_script(&s, &script, 3);
    run_script(&s, &script, 4);
    UNTIL(&s, s.calls == 4);
    check_got(&s, "3 :7\n4 :7\n");
    check_heard(&s.fake[0], "EVALSHA " SHA " 1 k 3\nEVALSHA " SHA " 1 k 4\n"
                            "SCRIPT LOAD return 1\nEVALSHA " SHA " 1 k 3\nEVALSHA " SHA
                            " 1 k 4\n");
    fake_drop(&s.fake[0]); /* another connection may be to another server */
    UNTIL_BY(&s, 20, s.ups == 2);
    s.fake[0].heard.len = 0;
    run_script(&s, &script, 5);
    UNTIL(&s, s.calls == 5);
    check_heard(&s.fake[0], "SCRIPT LOAD return 1\nEVALSHA " SHA " 1 k 5\n");
    end(&s);
}

static void
on_wait(void *arg, uint64_t n, const struct redis_reply *reply, bool sent)
{
    struct setup *s = arg;

    buf_printf(&s->got, "wait ");
    on_reply(arg, n, reply, sent);
}

static void
waits(struct fake *f, int peer, const struct str *arg, size_t n)
{
    if (str_eq(arg[0], STR("WAIT")))
        tell(f, peer, forgetful ? "" : ":2\r\n");
    else
        usual(f, peer, arg, n);
}

static void
echo_wait(struct setup *s, const char *text, uint64_t n)
{
    redis_begin(s->r, 2);
    if (text == NULL)
        redis_arg_lit(s->r, "FAIL");
    else
        redis_arg_lit(s->r, "ECHO");
    redis_arg_str(s->r, str_of(text));
    redis_wait(s->r, on_wait);
    redis_end(s->r, STR("k"), on_reply, s, n);
}

TEST(redis_wait)
{
    struct setup s;

    begin(&s);
    s.fake[0].answer = waits;
    start(&s);
    UNTIL(&s, s.ups == 1);
    echo_wait(&s, "x", 1); /* nobody is waited for */
    UNTIL(&s, s.calls == 2);
    check_got(&s, "1 $x\nwait 1 :0\n");
    s.opt.redis_wait = 2;
    s.fake[0].heard.len = 0;
    echo_wait(&s, "a", 1);
    echo(&s, "k", "b", 2);
    echo_wait(&s, NULL, 3);
    echo_wait(&s, "c", 4);
    UNTIL(&s, s.calls == 9);
    check_heard(&s.fake[0], "ECHO a\nECHO b\nFAIL \nECHO c\nWAIT 2 2500\n");
    check_got(&s, "1 $a\n2 $b\n3 -ERR unknown command\nwait 3 not sent\n4 $c\n"
                  "wait 1 :2\nwait 4 :2\n");
    forgetful = true;
    echo_wait(&s, "x", 5);
    UNTIL(&s, s.calls == 10);
    fake_drop(&s.fake[0]);
    UNTIL(&s, s.calls == 11);
    check_got(&s, "5 $x\nwait 5 unknown\n");
    end(&s);
}

/* --- a Redis Cluster -------------------------------------------------------------------------- */

static struct { /* what the fakes of a cluster do */
    struct setup *s;
    int low, high;         /* who has slots 0 to 8191, and those above */
    int refusals[FAKES];   /* how many commands it refuses */
    const char *refusal;   /* with this, in which % is the port of `elsewhere` */
    const char *first;     /* or, the first, with this; NULL: not */
    int elsewhere;
    bool nothing;          /* they know of no slots */
    bool down[FAKES];      /* its cluster is down, as it sees it */
    bool hole[FAKES];      /* it knows no owner of slot 12182 */
} world;

static void
put_range(struct buf *b, int first, int last, int master)
{
    buf_printf(b, "*4\r\n:%d\r\n:%d\r\n*3\r\n$9\r\n127.0.0.1\r\n:%d\r\n$2\r\nid\r\n*3\r\n$0\r\n\r\n"
                  ":1\r\n$2\r\nid\r\n", first, last, world.s->fake[master].port);
}

static void
in_cluster(struct fake *f, int peer, const struct str *arg, size_t n)
{
    int i = (int)(f - world.s->fake);

    if (str_eq(arg[0], STR("CLUSTER")) && str_eq(arg[1], STR("INFO"))) {
        tell(f, peer, world.down[i] ? "$39\r\ncluster_state:fail\r\ncluster_slots_ok:1\r\n"
                                    : "$18\r\ncluster_state:ok\r\n");
        tell(f, peer, "\r\n");
    } else if (str_eq(arg[0], STR("CLUSTER"))) {
        tell(f, peer, world.nothing ? "*0\r\n" : world.hole[i] ? "*3\r\n" : "*2\r\n");
        if (world.nothing)
            return;
        put_range(&f->out[peer], 0, 8191, world.low);
        put_range(&f->out[peer], 8192, world.hole[i] ? 12181 : 16383, world.high);
        if (world.hole[i])
            put_range(&f->out[peer], 12183, 16383, world.high);
    } else if (str_eq(arg[0], STR("ECHO")) && world.down[i]) {
        tell(f, peer, "-CLUSTERDOWN The cluster is down\r\n");
    } else if (str_eq(arg[0], STR("ASKING"))) {
        tell(f, peer, "+OK\r\n");
    } else if (str_eq(arg[0], STR("ECHO")) && world.refusals[i] > 0) {
        char text[100];
        const char *refusal = world.first != NULL ? world.first : world.refusal;
        const char *at = strchr(refusal, '%');
        size_t head = at != NULL ? (size_t)(at - refusal) : strlen(refusal);
        world.first = NULL;
        snprintf(text, sizeof text, "%.*s", (int)head, refusal);
        if (at != NULL)
            snprintf(text + head, sizeof text - head, "%d", world.s->fake[world.elsewhere].port);
        world.refusals[i]--;
        buf_printf(&f->out[peer], "-%s\r\n", text);
    } else {
        usual(f, peer, arg, n);
    }
}

#define LOW "b"    /* slot 3300 */
#define HIGH "foo" /* slot 12182 */

static void
begin_cluster(struct setup *s)
{
    begin(s);
    memset(&world, 0, sizeof world);
    world.s = s;
    world.high = 1;
    for (int i = 0; i < FAKES; i++)
        s->fake[i].answer = in_cluster;
    set_string(&s->opt.redis_nodes, "127.0.0.1:%d", s->fake[0].port);
    start(s);
    UNTIL_BY(s, 1, s->ups == 1);
    for (int i = 0; i < FAKES; i++)
        s->fake[i].heard.len = 0;
}

/* The commands a fake has heard, without the login and what the map asks. */
static void
check_echoes(struct fake *f, const char *want)
{
    struct buf b = {0};
    struct str rest = {f->heard.p, f->heard.len}, line;

    while (str_split(&rest, '\n', &line))
        if (line.n > 4 && (memcmp(line.p, "ECHO", 4) == 0 || memcmp(line.p, "ASKI", 4) == 0))
            buf_printf(&b, "%.*s\n", (int)line.n, line.p);
    CHECK_BYTES(b.p, b.len, want);
    buf_free(&b);
    f->heard.len = 0;
}

TEST(redis_cluster_routes)
{
    struct setup s;
    struct redis_stats before, after;

    begin_cluster(&s);
    CHECK_INT(redis_slot(STR(LOW)), 3300);
    redis_stats(s.r, &before);
    for (uint64_t i = 0; i < 6; i++)
        echo(&s, i % 2 ? HIGH : LOW, i % 2 ? "high" : "low", i);
    redis_begin(s.r, 2);
    redis_arg_lit(s.r, "ECHO");
    redis_arg_lit(s.r, "any");
    redis_end(s.r, (struct str){NULL, 0}, on_reply, &s, 6);
    UNTIL(&s, s.calls == 7);
    redis_stats(s.r, &after);
    CHECK_INT(after.writes - before.writes, 2); /* one a server */
    CHECK(memmem(s.got.p, s.got.len, "6 $any", 6) != NULL);
    CHECK(memmem(s.fake[0].heard.p, s.fake[0].heard.len, "low\nECHO low\nECHO low\n", 22) != NULL);
    CHECK(memmem(s.fake[1].heard.p, s.fake[1].heard.len, "high\nECHO high\nECHO high\n", 25) !=
          NULL);
    CHECK(memmem(s.fake[0].heard.p, s.fake[0].heard.len, "high", 4) == NULL);
    CHECK_INT(after.moved, 0);
    end(&s);
}

/* A slot moves while commands for it are on their way: their order stays. */
TEST(redis_cluster_moved)
{
    struct setup s;
    struct redis_stats stats;

    begin_cluster(&s);
    world.refusal = "MOVED 12182 127.0.0.1:%";
    world.elsewhere = world.high = 2;
    world.refusals[1] = 3;
    for (uint64_t i = 1; i <= 3; i++)
        echo(&s, HIGH, (char[]){(char)('0' + i), '\0'}, i);
    s.fake[1].piece = 30; /* one refusal a turn */
    do {
        turn(&s);
        redis_stats(s.r, &stats);
    } while (stats.moved == 0);
    CHECK_INT(stats.moved, 1);
    echo(&s, HIGH, "4", 4);
    echo(&s, HIGH, "5", 5);
    UNTIL(&s, s.calls == 5);
    check_got(&s, "1 $1\n2 $2\n3 $3\n4 $4\n5 $5\n");
    check_echoes(&s.fake[1], "ECHO 1\nECHO 2\nECHO 3\n");
    check_echoes(&s.fake[2], "ECHO 1\nECHO 2\nECHO 3\nECHO 4\nECHO 5\n");
    echo(&s, HIGH, "6", 6); /* the map has learned it */
    UNTIL(&s, s.calls == 6);
    check_echoes(&s.fake[2], "ECHO 6\n");
    /* The map is asked for anew, and the old master is not wanted any more. */
    UNTIL_BY(&s, 20, s.fake[1].peer[0] < 0 && s.fake[1].peer[1] < 0 && s.fake[1].peer[2] < 0);
    CHECK_INT(s.downs, 0);
    end(&s);
}

TEST(redis_cluster_ask)
{
    struct setup s;

    begin_cluster(&s);
    world.refusal = "ASK 12182 127.0.0.1:%";
    world.elsewhere = 2;
    world.refusals[1] = 2;
    echo(&s, HIGH, "1", 1);
    echo(&s, HIGH, "2", 2);
    echo(&s, HIGH, "3", 3);
    UNTIL(&s, s.calls == 3);
    check_got(&s, "3 $3\n1 $1\n2 $2\n");
    echo(&s, HIGH, "4", 4); /* that command alone: the slot stays */
    UNTIL(&s, s.calls == 4);
    check_echoes(&s.fake[1], "ECHO 1\nECHO 2\nECHO 3\nECHO 4\n");
    check_echoes(&s.fake[2], "ASKING\nECHO 1\nASKING\nECHO 2\n");
    end(&s);
}

/* Half of the keys have moved when the first command comes, all of them when the second does. */
TEST(redis_cluster_ask_behind_tryagain)
{
    struct setup s;

    begin_cluster(&s);
    world.first = "TRYAGAIN Multiple keys request during rehashing of slot";
    world.refusal = "ASK 12182 127.0.0.1:%";
    world.elsewhere = 2;
    world.refusals[1] = 4;
    echo(&s, HIGH, "1", 1);
    echo(&s, HIGH, "2", 2);
    UNTIL_BY(&s, 10, s.calls == 2);
    check_got(&s, "1 $1\n2 $2\n");
    check_echoes(&s.fake[2], "ASKING\nECHO 1\nASKING\nECHO 2\n");
    end(&s);
}

TEST(redis_cluster_puts_off)
{
    static const char *const words[] = {"TRYAGAIN later", "CLUSTERDOWN Hash slot not served",
                                        "LOADING data", "MASTERDOWN link"};
    struct setup s;

    begin_cluster(&s);
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        int calls = s.calls;
        world.refusal = words[i];
        world.refusals[1] = 3;
        echo(&s, HIGH, "1", 1);
        int64_t from = now_ms;
        UNTIL(&s, world.refusals[1] == 2);
        turn(&s);
        echo(&s, HIGH, "2", 2); /* waits for it */
        echo(&s, LOW, "3", 3);  /* has nothing to do with it */
        UNTIL_BY(&s, 10, s.calls == calls + 3);
        check_got(&s, "3 $3\n1 $1\n2 $2\n");
        CHECK(now_ms > from && now_ms < from + 1000);
        s.fake[1].heard.len = 0;
    }
    world.refusals[1] = 1000; /* no end to it: the caller gets the refusal, or learns that it was
                                 not done */
    echo(&s, HIGH, "1", 1);
    int64_t from = now_ms;
    UNTIL_BY(&s, 10, s.calls == 13);
    CHECK(memcmp(s.got.p, "1 -MASTERDOWN", 13) == 0 || memcmp(s.got.p, "1 not sent", 10) == 0);
    CHECK(now_ms - from <= 5200);
    end(&s);
}

/* A master that holds its cluster to be down says so once: what it has is refused at once, the rest
 * is served, and there is no up and down until it says otherwise. */
TEST(redis_cluster_down)
{
    struct setup s;

    begin_cluster(&s);
    world.down[1] = true;
    echo(&s, HIGH, "1", 1);
    UNTIL_BY(&s, 10, s.downs == 1);
    CHECK(strstr(s.why, "CLUSTERDOWN") != NULL);
    CHECK(redis_takes(s.r, STR(LOW)) && !redis_takes(s.r, STR(HIGH)));
    UNTIL_BY(&s, 10, s.calls == 1); /* it has waited as long as it may */
    check_got(&s, "1 not sent\n");
    echo(&s, HIGH, "2", 2);
    echo(&s, LOW, "3", 3);
    UNTIL(&s, s.calls == 3);
    CHECK(memmem(s.got.p, s.got.len, "2 not sent\n", 11) != NULL);
    CHECK(memmem(s.got.p, s.got.len, "3 $3\n", 5) != NULL);
    s.got.len = 0;
    fake_drop(&s.fake[1]); /* nor when it is connected to again */
    int64_t from = now_ms;
    UNTIL_BY(&s, 50, now_ms >= from + 100000);
    CHECK_INT(s.ups, 1);
    CHECK_INT(s.downs, 1);
    CHECK(!redis_takes(s.r, STR(HIGH)));
    check_echoes(&s.fake[1], "ECHO 1\n");
    world.down[1] = false;
    UNTIL_BY(&s, 20, s.ups == 2);
    echo(&s, HIGH, "4", 4);
    UNTIL(&s, s.calls == 4);
    check_got(&s, "4 $4\n");
    end(&s);
}

/* A slot that nobody serves: its commands wait for half a second, in which somebody may be given
 * it; from then on they are refused as soon as they come, until one of them is not. */
TEST(redis_cluster_not_served)
{
    struct setup s;

    begin_cluster(&s);
    world.refusal = "CLUSTERDOWN Hash slot not served";
    world.refusals[1] = 1000;
    echo(&s, HIGH, "1", 1);
    echo(&s, HIGH, "2", 2);
    int64_t from = now_ms;
    UNTIL_BY(&s, 10, s.calls == 2);
    check_got(&s, "1 -CLUSTERDOWN Hash slot not served\n2 -CLUSTERDOWN Hash slot not served\n");
    CHECK(now_ms - from >= 400 && now_ms - from <= 1000);
    from = now_ms;
    for (uint64_t i = 3; i <= 5; i++) {
        echo(&s, HIGH, "x", i);
        echo(&s, LOW, "y", 9);
        UNTIL(&s, s.calls == 2 * (int)i - 2);
        CHECK(memmem(s.got.p, s.got.len, "-CLUSTERDOWN Hash slot not served\n", 34) != NULL);
        CHECK(memmem(s.got.p, s.got.len, "9 $y\n", 5) != NULL);
        s.got.len = 0;
        UNTIL_BY(&s, 100, now_ms >= from + 1000 * (int64_t)i);
    }
    CHECK_INT(s.downs, 0);
    world.refusals[1] = 0;
    echo(&s, HIGH, "6", 6);
    UNTIL(&s, s.calls == 9);
    check_got(&s, "6 $6\n");
    world.refusals[1] = 3; /* that was another time */
    echo(&s, HIGH, "7", 7);
    UNTIL_BY(&s, 10, s.calls == 10);
    check_got(&s, "7 $7\n");
    end(&s);
}

/* Servers that see it differently: one knows no owner of a slot, the others do. */
TEST(redis_cluster_hole)
{
    struct setup s;

    begin_cluster(&s);
    world.hole[1] = true;
    world.refusal = "CLUSTERDOWN Hash slot not served"; /* somebody has to look */
    world.refusals[1] = 1;
    echo(&s, HIGH, "0", 0);
    for (uint64_t i = 1; i <= 40; i++) { /* it is asked every 10 s, by turns with the others */
        int64_t from = now_ms;
        UNTIL_BY(&s, 100, now_ms >= from + 5000);
        echo(&s, HIGH, "x", i);
    }
    UNTIL_BY(&s, 10, s.calls == 41);
    CHECK(memmem(s.got.p, s.got.len, "sent", 4) == NULL);
    CHECK(memmem(s.got.p, s.got.len, "-", 1) == NULL);
    CHECK_INT(s.downs, 0);
    end(&s);
}

/* A server that goes again each time it has come is not told to be up each time. */
TEST(redis_swings)
{
    struct setup s;

    begin(&s);
    start(&s);
    UNTIL(&s, s.ups == 1);
    int64_t from = now_ms, since = 0;
    while (now_ms < from + 120000) {
        UNTIL_BY(&s, 10, redis_takes(s.r, STR("k")));
        echo(&s, "k", "served", 1); /* all the same */
        int calls = s.calls;
        UNTIL(&s, s.calls == calls + 1);
        check_got(&s, "1 $served\n");
        fake_drop(&s.fake[0]);
        UNTIL(&s, !redis_takes(s.r, STR("k")));
    }
    CHECK(s.ups <= 9);
    UNTIL_BY(&s, 10, redis_is_up(s.r)); /* it stays: half a minute at the most */
    since = now_ms;
    UNTIL_BY(&s, 100, now_ms >= since + 20000);
    fake_drop(&s.fake[0]);
    UNTIL(&s, !redis_is_up(s.r));
    since = now_ms;
    UNTIL_BY(&s, 10, redis_is_up(s.r));
    CHECK(now_ms - since < 500); /* and that is forgotten */
    end(&s);
}

TEST(redis_cluster_master_dies)
{
    struct setup s;

    begin_cluster(&s);
    CHECK_INT(s.ups, 1);
    s.fake[1].deaf = true;
    close(s.fake[1].fd);
    echo(&s, HIGH, "1", 1);
    turn(&s);
    fake_drop(&s.fake[1]);
    UNTIL(&s, s.downs == 1);
    echo(&s, HIGH, "2", 2);
    echo(&s, LOW, "3", 3);
    CHECK(redis_takes(s.r, STR(LOW)) && !redis_takes(s.r, STR(HIGH)));
    UNTIL(&s, s.calls == 3);
    CHECK(memmem(s.got.p, s.got.len, "1 unknown\n", 10) != NULL);
    CHECK(memmem(s.got.p, s.got.len, "2 not sent\n", 11) != NULL);
    CHECK(memmem(s.got.p, s.got.len, "3 $3\n", 5) != NULL);
    s.got.len = 0;
    world.high = 2; /* a replica has taken over */
    UNTIL_BY(&s, 20, s.ups == 2);
    echo(&s, HIGH, "4", 4);
    UNTIL(&s, s.calls == 4);
    check_got(&s, "4 $4\n");
    s.fake[1].fd = -1;
    end(&s);
}

TEST(redis_cluster_seeds)
{
    struct setup s;

    begin(&s);
    memset(&world, 0, sizeof world);
    world.s = &s;
    for (int i = 0; i < FAKES; i++)
        s.fake[i].answer = in_cluster;
    s.fake[0].deaf = true; /* takes connections, and says nothing */
    world.low = world.high = 2;
    world.nothing = true;
    set_string(&s.opt.redis_nodes, "127.0.0.1:%d,127.0.0.1:1,127.0.0.1:%d", s.fake[0].port,
               s.fake[1].port);
    start(&s);
    UNTIL_BY(&s, 20, s.fake[1].connects > 2);
    CHECK_INT(s.ups, 0);
    world.nothing = false;
    UNTIL_BY(&s, 20, s.ups == 1);
    end(&s);
}

/* --- Sentinel --------------------------------------------------------------------------------- */

static int master; /* which fake */
static bool closed_sentinel;

static void
sentinel(struct fake *f, int peer, const struct str *arg, size_t n)
{
    if (closed_sentinel && str_eq(arg[0], STR("AUTH")))
        closed_sentinel = false;
    else if (closed_sentinel) {
        tell(f, peer, "-NOAUTH Authentication required.\r\n");
        return;
    }
    if (str_eq(arg[0], STR("AUTH"))) {
        tell(f, peer, "+OK\r\n");
    } else if (str_eq(arg[0], STR("SENTINEL"))) {
        CHECK(n == 3 && str_eq(arg[1], STR("get-master-addr-by-name")));
        char port[8];
        int digits = snprintf(port, sizeof port, "%d", world.s->fake[master].port);
        if (str_eq(arg[2], STR("mine")))
            buf_printf(&f->out[peer], "*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%s\r\n", digits, port);
        else
            tell(f, peer, "*-1\r\n");
    } else {
        usual(f, peer, arg, n);
    }
}

static void
master_or_not(struct fake *f, int peer, const struct str *arg, size_t n)
{
    bool is = f == &world.s->fake[world.low];

    if (str_eq(arg[0], STR("ROLE")))
        tell(f, peer, is ? "*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n" : "*1\r\n$5\r\nslave\r\n");
    else if (str_eq(arg[0], STR("ECHO")) && !is)
        tell(f, peer, "-READONLY You can't write against a read only replica.\r\n");
    else
        usual(f, peer, arg, n);
}

TEST(redis_sentinel)
{
    struct setup s;

    begin(&s);
    memset(&world, 0, sizeof world);
    world.s = &s;
    world.low = 2; /* who is the master in truth */
    master = 1;    /* whom the Sentinel takes for it */
    closed_sentinel = true;
    s.fake[0].answer = sentinel;
    s.fake[1].answer = s.fake[2].answer = master_or_not;
    set_string(&s.opt.redis_auth, "secret");
    set_string(&s.opt.redis_sentinel, "mine@127.0.0.1:1,127.0.0.1:%d", s.fake[0].port);
    start(&s);
    UNTIL_BY(&s, 10, s.fake[1].connects > 1); /* which finds out that it is none */
    CHECK_INT(s.ups, 0);
    CHECK(memmem(s.fake[0].heard.p, s.fake[0].heard.len, "AUTH secret\n", 12) != NULL);
    world.low = 1;
    UNTIL_BY(&s, 10, s.ups == 1);
    echo(&s, "k", "1", 1);
    UNTIL(&s, s.calls == 1);
    /* A planned failover: not one command is lost, nor is the order. */
    world.low = master = 2;
    for (uint64_t i = 2; i <= 5; i++)
        echo(&s, "k", (char[]){(char)('0' + i), '\0'}, i);
    UNTIL_BY(&s, 10, s.calls == 5);
    check_got(&s, "1 $1\n2 $2\n3 $3\n4 $4\n5 $5\n");
    UNTIL_BY(&s, 10, redis_is_up(s.r));
    /* The master dies, another takes over. */
    world.low = master = 1;
    s.fake[2].deaf = true;
    echo(&s, "k", "6", 6);
    turn(&s);
    fake_drop(&s.fake[2]);
    int ups = s.ups;
    UNTIL_BY(&s, 10, s.ups == ups + 1);
    check_got(&s, "6 unknown\n");
    echo(&s, "k", "7", 7);
    UNTIL(&s, s.calls == 7);
    check_got(&s, "7 $7\n");
    end(&s);
}

/* A master that is cut off still answers; what the Sentinels say counts. */
TEST(redis_sentinel_is_asked_again)
{
    struct setup s;

    begin(&s);
    memset(&world, 0, sizeof world);
    world.s = &s;
    world.low = master = 1;
    closed_sentinel = false;
    s.fake[0].answer = sentinel;
    s.fake[1].answer = s.fake[2].answer = master_or_not;
    set_string(&s.opt.redis_sentinel, "mine@127.0.0.1:%d", s.fake[0].port);
    start(&s);
    UNTIL_BY(&s, 1, s.ups == 1);
    world.low = master = 2;
    UNTIL_BY(&s, 100, s.fake[2].connects > 0);
    UNTIL_BY(&s, 10, redis_is_up(s.r) && s.fake[1].peer[0] < 0);
    echo(&s, "k", "1", 1);
    UNTIL(&s, s.calls == 1);
    check_got(&s, "1 $1\n");
    end(&s);
}

/* --- junk ------------------------------------------------------------------------------------- */

static uint32_t seed;

static uint32_t
dice(uint32_t n)
{
    seed = seed * 1664525 + 1013904223;
    return (seed >> 8) % n;
}

/* What say_everything() says, with some bytes that are others. */
static void
says_junk(struct fake *f, int peer, const struct str *arg, size_t n)
{
    static const char bytes[] = "+-:$*_#,(!=%~>|0123456789\r\nxt";

    (void)n;
    if (welcome(f, peer, arg))
        return;
    size_t at = f->out[peer].len;
    tell(f, peer, everything);
    for (uint32_t i = dice(4) + 1; i > 0; i--)
        f->out[peer].p[at + dice(sizeof everything - 1)] = bytes[dice(sizeof bytes - 1)];
    f->piece = 50 + dice(100);
}

/* Whatever comes: every callback once, and a new connection when that one is spoilt. */
TEST(redis_junk)
{
    struct setup s;

    begin(&s);
    s.fake[0].answer = says_junk;
    start(&s);
    for (seed = 1; s.fake[0].connects < 100;) {
        UNTIL_BY(&s, 20, redis_takes(s.r, STR("k")));
        int calls = s.calls;
        for (uint64_t i = 0; i < 5; i++)
            echo(&s, "k", "1", i);
        UNTIL_BY(&s, 20, s.calls >= calls + 5);
        CHECK_INT(s.calls, calls + 5);
        s.got.len = 0;
    }
    CHECK_INT(redis_queued(s.r), 0);
    end(&s);
}
