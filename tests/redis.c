/* SPDX-License-Identifier: MIT */
/*
 * redis.c - the deeper checks of `make check-redis`: the link to Redis against real servers, which
 * are started for each test (rserver.c; redis-server and redis-cli 7; openssl for TLS).
 *
 *   one server    users and databases, TLS, stopped for 10 seconds, killed
 *   Sentinel      a planned failover, a dead master
 *   a cluster     a failover, a slot migration, a dead master under load
 *
 * Under load a writer counts and appends by a script, hundreds of commands on their way at any
 * time, and knows of each what became of it. At the end every stream is read: what was acknowledged
 * is there once, what surely was not done is not there, and, unless something was put off, the
 * order is the writer's.
 */
#include "rserver.h"

#include <netinet/in.h>
#include <sys/wait.h>
#include <unistd.h>

#define KEYS 60        /* streams, over all slots */
#define WINDOW 400     /* commands on their way */
#define LOW_SLOTS 100  /* which are moved */

/* --- the writer ------------------------------------------------------------------------------- */

enum fate { WRITTEN, REFUSED, UNKNOWN, NOT_SENT };

struct writer {
    struct loop *loop;
    struct log log;
    struct options opt;
    struct tls_client *tls;
    struct redis *r;
    struct redis_script append;
    bool up;
    int ups, downs;
    uint8_t *fate;        /* of each command: 0: on its way; 1 + enum fate */
    uint64_t n, cap;      /* commands so far */
    int64_t refused_ms;   /* when some were given while it was down */
    uint64_t out;         /* on their way */
    uint64_t fates[4], waited;
    bool wait;            /* only what a replica has counts as written */
    bool read_ok;         /* of the streams, at the end */
    uint64_t at;          /* the stream that is read */
    uint64_t found, twice, ghosts, disorder;
    uint64_t last[KEYS];
    int tag[KEYS];        /* of the keys; the first half are in slots below LOW_SLOTS */
};

static void
writer_up(void *arg, struct redis *r)
{
    struct writer *w = arg;

    (void)r;
    w->up = true;
    w->ups++;
}

static void
writer_down(void *arg, struct redis *r, const char *why)
{
    struct writer *w = arg;

    (void)r;
    (void)why;
    w->up = false;
    w->downs++;
}

static void
writer_begin(struct writer *w)
{
    memset(w, 0, sizeof *w);
    w->loop = loop_new();
    w->log = (struct log){stderr, LOG_LEVEL_WARN};
    conf_init(&w->opt);
    for (int i = 0, tag = 0; i < KEYS; i++, tag++) {
        char text[16];
        do
            snprintf(text, sizeof text, "%d", ++tag);
        while (i < KEYS / 2 && redis_slot(str_of(text)) >= LOW_SLOTS);
        w->tag[i] = tag;
    }
    w->cap = 4000000;
    w->fate = xcalloc(w->cap, 1);
    redis_script_init(&w->append,
                      "redis.call('INCR', KEYS[2])\n"
                      "return redis.call('XADD', KEYS[1], '*', 'n', ARGV[1])");
}

static void
writer_set(struct writer *w, const char *key, const char *value)
{
    char err[200];

    if (conf_set(&w->opt, key, value, false, NULL, err, sizeof err) != 0)
        test_fail(__FILE__, __LINE__, "%s", err);
}

static void
writer_at(struct writer *w, const char *key, const char *format, const struct rserver *s, int n)
{
    char text[400];
    size_t len = (size_t)snprintf(text, sizeof text, "%s", format);

    for (int i = 0; i < n; i++)
        len += (size_t)snprintf(text + len, sizeof text - len, "%s127.0.0.1:%d",
                                i > 0 ? "," : "", s[i].port);
    writer_set(w, key, text);
}

static void
writer_port(struct writer *w, int port)
{
    char text[16];

    snprintf(text, sizeof text, "%d", port);
    writer_set(w, "jim.redis.port", text);
}

static void
writer_start(struct writer *w)
{
    const struct redis_options o = {.opt = &w->opt, .loop = w->loop, .log = &w->log, .arg = w,
                                    .tls = w->tls, .up = writer_up, .down = writer_down};
    char err[200];

    if (redis_check(&w->opt, err, sizeof err) != 0)
        test_fail(__FILE__, __LINE__, "%s", err);
    w->r = redis_new(&o);
}

static void
writer_turn(struct writer *w)
{
    CHECK(loop_turn(w->loop, 20) >= 0);
    redis_flush(w->r);
}

#define TURN_UNTIL(w, condition) \
    do { \
        int64_t until_ms = time_mono_ms() + LONG_MS; \
        while (!(condition)) { \
            if (time_mono_ms() > until_ms) \
                test_fail(__FILE__, __LINE__, "never: %s", #condition); \
            writer_turn(w); \
        } \
    } while (0)

static void
settle(struct writer *w, uint64_t n, enum fate fate)
{
    CHECK_INT(w->fate[n], 0); /* each callback once */
    w->fate[n] = (uint8_t)(1 + fate);
    w->fates[fate]++;
    w->out--;
}

static void
on_written(void *arg, uint64_t n, const struct redis_reply *reply, bool sent)
{
    struct writer *w = arg;

    if (reply != NULL && reply->type == RESP_ERROR && w->fates[REFUSED] < 5)
        printf("refused: %.*s\n", (int)reply->text.n, reply->text.p);
    if (reply == NULL)
        settle(w, n, sent ? UNKNOWN : NOT_SENT);
    else if (reply->type == RESP_ERROR)
        settle(w, n, REFUSED);
    else if (!w->wait)
        settle(w, n, WRITTEN);
}

static void
on_waited(void *arg, uint64_t n, const struct redis_reply *reply, bool sent)
{
    struct writer *w = arg;

    (void)sent;
    if (w->fate[n] != 0)
        return;
    w->waited++;
    settle(w, n, redis_int(reply, 0) >= 1 ? WRITTEN : UNKNOWN);
}

static void
write_one(struct writer *w)
{
    uint64_t n = w->n++;
    char key[32], count[32];

    CHECK(w->n < w->cap);
    int len = snprintf(key, sizeof key, "s{%d}", w->tag[n % KEYS]);
    snprintf(count, sizeof count, "c{%d}", w->tag[n % KEYS]);
    redis_script(w->r, &w->append, 2, 1);
    redis_arg_str(w->r, str_of(key));
    redis_arg_str(w->r, str_of(count));
    redis_arg_int(w->r, (int64_t)n);
    if (w->wait)
        redis_wait(w->r, on_waited);
    redis_end(w->r, (struct str){key, (size_t)len}, on_written, w, n);
    w->out++;
}

/* Write for so long. */
static void
write_for(struct writer *w, int64_t ms)
{
    for (int64_t end = time_mono_ms() + ms; time_mono_ms() < end;) {
        /* While it is down, a few a millisecond: each is refused at once. */
        int64_t now = time_mono_ms();
        int most = w->up ? WINDOW : now > w->refused_ms ? 3 : 0;
        w->refused_ms = now;
        for (int i = 0; w->out < WINDOW && i < most; i++)
            write_one(w);
        writer_turn(w);
    }
}

#define WRITE_UNTIL(w, condition) \
    do { \
        int64_t until_ms = time_mono_ms() + LONG_MS; \
        while (!(condition)) { \
            if (time_mono_ms() > until_ms) \
                test_fail(__FILE__, __LINE__, "never: %s", #condition); \
            write_for(w, 50); \
        } \
    } while (0)

/* Write until a program has ended; its exit code. */
static int
write_while(struct writer *w, pid_t pid)
{
    int status;

    for (;;) {
        write_for(w, 20);
        pid_t got = waitpid(pid, &status, WNOHANG);
        CHECK(got >= 0);
        if (got == pid)
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
    }
}

static void
take_entry(struct writer *w, uint64_t key, uint64_t n)
{
    if (n >= w->n || n % KEYS != key) {
        w->ghosts++;
        return;
    }
    uint8_t fate = w->fate[n];
    if (fate >= 100) {
        w->twice++;
        return;
    }
    w->ghosts += fate == 1 + NOT_SENT || fate == 1 + REFUSED;
    w->found += fate == 1 + WRITTEN;
    w->disorder += n < w->last[key];
    w->last[key] = n;
    w->fate[n] = 100;
}

static void read_stream(struct writer *w, const char *from);

static void
on_range(void *arg, uint64_t n, const struct redis_reply *reply, bool sent)
{
    struct writer *w = arg;
    char from[64] = "(0-0";
    const struct redis_reply *e;

    (void)sent;
    if (reply == NULL || reply->type != RESP_ARRAY)
        test_fail(__FILE__, __LINE__, "stream %d cannot be read", (int)n);
    for (size_t i = 0; i < (size_t)reply->n; i++) {
        e = i == 0 ? redis_at(reply, 0) : redis_next(e);
        struct str id = redis_text(redis_at(e, 0));
        take_entry(w, n, (uint64_t)redis_int(redis_at(redis_at(e, 1), 1), -1));
        snprintf(from, sizeof from, "(%.*s", (int)id.n, id.p);
    }
    if (reply->n == 0 && ++w->at == KEYS)
        w->read_ok = true;
    else
        read_stream(w, reply->n == 0 ? "-" : from);
}

static void
read_stream(struct writer *w, const char *from)
{
    char key[32];
    int len = snprintf(key, sizeof key, "s{%d}", w->tag[w->at]);

    redis_begin(w->r, 6);
    redis_arg_lit(w->r, "XRANGE");
    redis_arg_str(w->r, str_of(key));
    redis_arg_str(w->r, str_of(from));
    redis_arg_lit(w->r, "+");
    redis_arg_lit(w->r, "COUNT");
    redis_arg_int(w->r, 1000);
    redis_end(w->r, (struct str){key, (size_t)len}, on_range, w, w->at);
}

/* Everything has its answer; what is there is what should be. */
static void
writer_end(struct writer *w, const char *what)
{
    struct redis_stats st;

    WRITE_UNTIL(w, w->fates[WRITTEN] > 1000);
    TURN_UNTIL(w, w->out == 0 && w->up);
    read_stream(w, "-");
    TURN_UNTIL(w, w->read_ok);
    redis_stats(w->r, &st);
    test_note("%s: %llu commands, %llu acknowledged, %llu unknown, %llu not sent, %llu refused; "
              "%llu moved, %llu asked, %llu put off; %llu writes; out of order %llu", what,
              (unsigned long long)w->n, (unsigned long long)w->fates[WRITTEN],
              (unsigned long long)w->fates[UNKNOWN], (unsigned long long)w->fates[NOT_SENT],
              (unsigned long long)w->fates[REFUSED], (unsigned long long)st.moved,
              (unsigned long long)st.asked, (unsigned long long)st.retried,
              (unsigned long long)st.writes, (unsigned long long)w->disorder);
    CHECK_INT(w->fates[WRITTEN] - w->found, 0); /* acknowledged, and lost */
    CHECK_INT(w->twice, 0);
    CHECK_INT(w->ghosts, 0);
    if (st.retried == 0) /* nothing was put off */
        CHECK_INT(w->disorder, 0);
    redis_free(w->r);
    tls_client_free(w->tls);
    loop_free(w->loop);
    conf_free(&w->opt);
    free(w->fate);
}

/* --- one server ------------------------------------------------------------------------------- */

TEST(real_user_and_database)
{
    struct rserver s = {.password = "topsecret"};
    struct writer w;

    rserver_start(&s, "a", "--requirepass", "topsecret", NULL);
    struct buf out = redis_cli(&s, "ACL", "SETUSER", "jim", "on", ">other", "~*", "&*", "+@all",
                               NULL);
    CHECK(strncmp(out.p, "OK", 2) == 0);
    buf_free(&out);
    writer_begin(&w);
    writer_port(&w, s.port);
    writer_set(&w, "jim.redis.auth", "other");
    writer_set(&w, "jim.redis.user", "jim");
    writer_set(&w, "jim.redis.db", "5");
    writer_start(&w);
    TURN_UNTIL(&w, w.up);
    write_for(&w, 1000);
    CHECK(cli_says(&s, "name=jim", "CLIENT", "LIST"));
    CHECK(cli_says(&s, "user=jim", "CLIENT", "LIST"));
    CHECK(cli_says(&s, "db5:keys", "INFO", "keyspace"));
    CHECK_INT(w.downs, 0);
    writer_end(&w, "one server");
}

TEST(real_wrong_password)
{
    struct rserver s = {.password = "topsecret"};
    struct writer w;

    rserver_start(&s, "a", "--requirepass", "topsecret", NULL);
    writer_begin(&w);
    w.log.level = -1;
    writer_port(&w, s.port);
    writer_start(&w);
    TURN_UNTIL(&w, strstr(w.r->why, "NOAUTH") != NULL);
    CHECK(!w.up);
    writer_set(&w, "jim.redis.auth", "topsecret");
    TURN_UNTIL(&w, w.up);
    write_for(&w, 300);
    writer_end(&w, "password given later");
}

TEST(real_tls)
{
    struct rserver s = {.tls = true};
    struct writer w;
    struct buf out = {0};
    char err[300];
    const char *const make[] = {"openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                                "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj",
                                "/CN=redis", "-addext", "subjectAltName=IP:127.0.0.1",
                                "-keyout", "key.pem", "-out", "cert.pem", NULL};

    CHECK(tls_version() != NULL);
    CHECK_INT(run_to_end(&out, make), 0);
    rserver_start(&s, "a", "--port", "0", "--tls-cert-file", "../cert.pem", "--tls-key-file",
                  "../key.pem", "--tls-ca-cert-file", "../cert.pem", "--tls-auth-clients", "no",
                  NULL);
    writer_begin(&w);
    writer_port(&w, s.port);
    writer_set(&w, "jim.redis.tls", "on");
    w.tls = tls_client_new("cert.pem", err, sizeof err);
    CHECK(w.tls != NULL);
    writer_start(&w);
    TURN_UNTIL(&w, w.up);
    write_for(&w, 1000);
    rserver_kill(&s);
    TURN_UNTIL(&w, !w.up);
    for (int i = 0; i < KEYS; i++) /* what was there is gone: no persistence */
        w.last[i] = 0;
    memset(w.fate, 99, w.n);
    w.fates[WRITTEN] = 0;
    rserver_again(&s);
    TURN_UNTIL(&w, w.up);
    write_for(&w, 500);
    writer_end(&w, "TLS");
    buf_free(&out);
}

TEST(real_stopped_for_10_seconds)
{
    struct rserver s = {0};
    struct writer w;

    rserver_start(&s, "a", NULL);
    writer_begin(&w);
    writer_port(&w, s.port);
    writer_start(&w);
    TURN_UNTIL(&w, w.up);
    write_for(&w, 500);
    CHECK(kill(s.pid, SIGSTOP) == 0);
    int64_t from = time_mono_ms();
    write_for(&w, 10000);
    CHECK_INT(w.downs, 1);
    CHECK(w.fates[NOT_SENT] > 0);
    CHECK(kill(s.pid, SIGCONT) == 0);
    TURN_UNTIL(&w, w.up);
    test_note("up again %d ms behind the end of a stop of 10 s",
              (int)(time_mono_ms() - from - 10000));
    write_for(&w, 500);
    writer_end(&w, "stopped for 10 s");
}

/* Killed five times, with every write in its file before its answer. */
TEST(real_killed_with_aof)
{
    struct rserver s = {0};
    struct writer w;

    rserver_start(&s, "a", "--appendonly", "yes", "--appendfsync", "no", NULL);
    writer_begin(&w);
    writer_port(&w, s.port);
    writer_start(&w);
    for (int i = 0; i < 5; i++) {
        TURN_UNTIL(&w, w.up);
        write_for(&w, 500);
        rserver_kill(&s);
        write_for(&w, 100);
        rserver_again(&s);
    }
    CHECK_INT(w.downs, 5);
    writer_end(&w, "killed 5 times");
}

/* --- Sentinel --------------------------------------------------------------------------------- */

TEST(real_sentinel)
{
    struct rserver r[2] = {0}, s[3] = {0};
    char port[16];
    struct writer w;

    rserver_start(&r[0], "a", NULL);
    snprintf(port, sizeof port, "%d", r[0].port);
    rserver_start(&r[1], "b", "--replicaof", "127.0.0.1", port, NULL);
    WAIT_FOR(cli_says(&r[1], "master_link_status:up", "INFO", "replication"));
    for (int i = 0; i < 3; i++)
        sentinel_start(&s[i], i, &r[0]);
    for (int i = 0; i < 3; i++) {
        WAIT_FOR(cli_says(&s[i], "slaves=1,sentinels=3", "INFO", "sentinel"));
    }
    writer_begin(&w);
    w.wait = true; /* replication may lose what only the master has */
    writer_set(&w, "jim.redis.wait", "1");
    writer_at(&w, "jim.redis.sentinel", "mine@", s, 3);
    writer_start(&w);
    TURN_UNTIL(&w, w.up);
    write_for(&w, 500);
    struct buf out = redis_cli(&s[0], "SENTINEL", "failover", "mine", NULL); /* planned */
    CHECK(strncmp(out.p, "OK", 2) == 0);
    buf_free(&out);
    WRITE_UNTIL(&w, cli_says(&r[1], "role:master", "INFO", "replication"));
    WRITE_UNTIL(&w, cli_says(&r[0], "master_link_status:up", "INFO", "replication"));
    uint64_t before = w.fates[WRITTEN];
    WRITE_UNTIL(&w, w.fates[WRITTEN] >= before + 1000); /* on the new master, with its replica */
    int ups = w.ups;
    rserver_kill(&r[1]);
    WRITE_UNTIL(&w, cli_says(&r[0], "role:master", "INFO", "replication"));
    WRITE_UNTIL(&w, w.up && w.ups > ups);
    w.wait = false; /* there is no replica any more */
    write_for(&w, 500);
    writer_end(&w, "Sentinel");
}

/* --- a cluster -------------------------------------------------------------------------------- */

#define NODES 6

static void
start_cluster(struct rserver *s)
{
    const char *argv[24] = {"redis-cli", "--cluster", "create"};
    static char at[NODES][32];
    struct buf out = {0};
    int n = 3;

    for (int i = 0; i < NODES; i++) {
        char dir[16];
        snprintf(dir, sizeof dir, "n%d", i);
        rserver_start(&s[i], dir, "--cluster-enabled", "yes", "--cluster-node-timeout", "5000",
                      "--appendonly", "yes", "--appendfsync", "everysec",
                      "--repl-diskless-sync-delay", "0", NULL);
        snprintf(at[i], sizeof at[i], "127.0.0.1:%d", s[i].port);
        argv[n++] = at[i];
    }
    argv[n++] = "--cluster-replicas";
    argv[n++] = "1";
    argv[n++] = "--cluster-yes";
    if (run_to_end(&out, argv) != 0)
        test_fail(__FILE__, __LINE__, "%s", out.p);
    buf_free(&out);
    for (int i = 0; i < NODES; i++) {
        WAIT_FOR(cli_says(&s[i], "cluster_state:ok", "CLUSTER", "INFO"));
        WAIT_FOR(cli_says(&s[i], "role:master", "INFO", "replication") ||
                 cli_says(&s[i], "master_link_status:up", "INFO", "replication"));
    }
}

static bool
is_master(const struct rserver *s)
{
    return cli_says(s, "role:master", "INFO", "replication");
}

/* An id as CLUSTER MYID says it. */
static void
my_id(const struct rserver *s, char id[41])
{
    struct buf out = redis_cli(s, "CLUSTER", "MYID", NULL);

    CHECK(out.len >= 40);
    snprintf(id, 41, "%.40s", out.p);
    buf_free(&out);
}

/* Slots go from one master to another while the writer goes on. */
static void
migrate(struct writer *w, const struct rserver *from, const struct rserver *to)
{
    char at[32], source[41], target[41], slots[16];

    snprintf(slots, sizeof slots, "%d", LOW_SLOTS);
    snprintf(at, sizeof at, "127.0.0.1:%d", from->port);
    my_id(from, source);
    my_id(to, target);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        struct buf out = {0};
        const char *const argv[] = {"redis-cli", "--cluster", "reshard", at, "--cluster-from",
                                    source, "--cluster-to", target, "--cluster-slots", slots,
                                    "--cluster-pipeline", "1", "--cluster-yes", NULL};
        int code = run_to_end(&out, argv);
        if (code != 0)
            fputs(out.p, stderr);
        _exit(code);
    }
    CHECK_INT(write_while(w, pid), 0);
}

TEST(real_cluster)
{
    struct rserver s[NODES] = {0};
    struct redis_stats st;
    struct writer w;

    start_cluster(s);
    writer_begin(&w);
    writer_at(&w, "jim.redis.nodes", "", s, 2);
    writer_start(&w);
    TURN_UNTIL(&w, w.up);
    write_for(&w, 1000);
    CHECK(is_master(&s[0]) && is_master(&s[1]));
    migrate(&w, &s[0], &s[1]); /* the first master's slots begin at 0; the lowest go first */
    redis_stats(w.r, &st);
    CHECK(st.moved > 0 && st.asked > 0);
    CHECK_INT(w.downs, 0);
    int replica = 3;
    while (replica < NODES && is_master(&s[replica]))
        replica++;
    struct buf out = redis_cli(&s[replica], "CLUSTER", "FAILOVER", NULL); /* planned */
    CHECK(strncmp(out.p, "OK", 2) == 0);
    buf_free(&out);
    WRITE_UNTIL(&w, is_master(&s[replica]));
    write_for(&w, 1000);
    CHECK_INT(w.fates[NOT_SENT] + w.fates[REFUSED], 0);
    writer_end(&w, "cluster: slots moved, planned failover");
}

TEST(real_cluster_master_killed)
{
    struct rserver s[NODES] = {0};
    struct writer w;
    int dead = 2;

    start_cluster(s);
    writer_begin(&w);
    w.wait = true;
    writer_set(&w, "jim.redis.wait", "1");
    writer_at(&w, "jim.redis.nodes", "", s, 3);
    writer_start(&w);
    TURN_UNTIL(&w, w.up);
    write_for(&w, 1000);
    CHECK(is_master(&s[dead]));
    rserver_kill(&s[dead]);
    int64_t from = time_mono_ms();
    WRITE_UNTIL(&w, w.up && w.ups > 1);
    CHECK_INT(w.ups, 2);
    test_note("a dead master was replaced after %d ms (cluster-node-timeout 5000)",
              (int)(time_mono_ms() - from));
    rserver_again(&s[dead]); /* comes back as a replica */
    WRITE_UNTIL(&w, !is_master(&s[dead]));
    write_for(&w, 1000);
    writer_end(&w, "cluster: a master killed");
}
