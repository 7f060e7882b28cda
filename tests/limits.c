/* SPDX-License-Identifier: MIT */
/*
 * limits.c - the deeper checks of `make limits`: what takes too long, or too much of the machine,
 * for `make test`. Run by the same runner, one after the other.
 *
 *   stalled readers   a thousand who do not read, and pairs who talk meanwhile
 *   attempts          a hundred thousand connections to a server with few descriptors and a ceiling
 *   fan-out           a group of ten thousand: what one turn of the loop costs
 */
#include "client.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MB 1048576

static void
want_descriptors(rlim_t n)
{
    struct rlimit r;

    CHECK(getrlimit(RLIMIT_NOFILE, &r) == 0);
    if (r.rlim_cur >= n)
        return;
    if (r.rlim_max < n)
        r.rlim_max = n; /* root may */
    r.rlim_cur = r.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &r) != 0)
        test_fail(__FILE__, __LINE__, "this needs %llu descriptors", (unsigned long long)n);
}

static int64_t
clock_us(clockid_t clock)
{
    struct timespec ts;

    clock_gettime(clock, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

/* --- stalled readers -------------------------------------------------------------------------- */

#define READERS 1000
#define FLOOD 1200 /* messages to the group, five times what a queue may hold: all fall behind */
#define MORE 400   /* messages that find them stalled, */
#define TIMES 3    /* so often */
#define ALL (FLOOD + TIMES * MORE)
#define SHARE (READERS * 24000L) /* bytes: what one who has fallen behind may hold of his own */
#define PAIRS 10
#define WINDOW 16  /* of the flood's messages, how many may wait for their answer */

struct latencies {
    int64_t us[200000];
    size_t n;
};

static int
compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

static double
percentile_ms(struct latencies *l, size_t percent)
{
    qsort(l->us, l->n, sizeof l->us[0], compare);
    return l->n == 0 ? 0 : (double)l->us[l->n * percent / 100] / 1000;
}

struct pair {
    struct peer from, to;
    int64_t start; /* when the message on its way was said */
    bool has, acked; /* what has come of it: itself, its answer */
};

static void
pair_says(struct pair *p)
{
    p->has = p->acked = false;
    p->start = clock_us(CLOCK_MONOTONIC);
    sayf(&p->from, 11, "{'to':'b%d','chatType':2,'content':'how are you?'}", p->to.fd);
}

/* Hear what has come to each pair. Those with a message and its answer there say the next one, when
 * `on`. Returns how many wait for something. */
static int
pairs_step(struct pair pair[PAIRS], bool on, struct latencies *l)
{
    struct pollfd fds[2 * PAIRS];
    int waiting = 0;

    for (int i = 0; i < 2 * PAIRS; i++) {
        struct pair *p = &pair[i / 2];
        bool wanted = i % 2 == 0 ? !p->has : !p->acked;
        fds[i].fd = !wanted ? -1 : i % 2 == 0 ? p->to.fd : p->from.fd;
        fds[i].events = POLLIN;
        waiting += wanted;
    }
    CHECK(waiting == 0 || poll(fds, 2 * PAIRS, WAIT_MS) > 0);
    for (int i = 0; i < PAIRS; i++) {
        struct pair *p = &pair[i];
        if (fds[2 * i].fd >= 0 && fds[2 * i].revents != 0) {
            CHECK(hear(&p->to) && heard(&p->to, "how are you?"));
            p->has = true;
            if (l->n < sizeof l->us / sizeof l->us[0])
                l->us[l->n++] = clock_us(CLOCK_MONOTONIC) - p->start;
        }
        if (fds[2 * i + 1].fd >= 0 && fds[2 * i + 1].revents != 0) {
            CHECK(hear(&p->from) && heard(&p->from, "\"code\":10000,"));
            p->acked = true;
        }
        if (p->has && p->acked && on)
            pair_says(p);
    }
    return waiting;
}

/* A process of its own: that many messages to the group, as fast as they are answered. */
static pid_t
start_flood(const struct server *s, int messages, int *done)
{
    static char text[201];
    struct peer p;
    int life[2];

    fflush(stdout);
    CHECK(pipe(life) == 0);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid > 0) {
        close(life[1]);
        *done = life[0];
        return pid;
    }
    memset(text, 'x', sizeof text - 1);
    peer_login(&p, s, PROTO_TCP, "flood");
    say(&p, 7, "{'groupId':'hot'}");
    int asked = 0, answered = 0;
    while (answered < messages) {
        for (; asked < messages && asked - answered < WINDOW; asked++)
            sayf(&p, 11, "{'groupId':'hot','chatType':1,'content':'%s'}", text);
        CHECK(hear(&p));
        answered += p.cmd == CMD_CHAT_RESP;
    }
    _exit(0);
}

struct stalled {
    int fd;
    int next; /* seq that has to come */
    struct buf in;
};

/* Take what is there; every message of the group has to be the next one. */
static void
reader_take(struct stalled *r)
{
    struct pkt pkt;
    ptrdiff_t used;
    ssize_t n;

    for (;;) {
        buf_reserve(&r->in, 65536);
        n = read(r->fd, r->in.p + r->in.len, 65536);
        if (n <= 0)
            break;
        r->in.len += (size_t)n;
        size_t at = 0;
        while ((used = pkt_decode(r->in.p + at, r->in.len - at, MB, &pkt)) > 0) {
            at += (size_t)used;
            if (pkt.cmd != CMD_CHAT)
                continue;
            char *seq = memmem(pkt.body.p, pkt.body.n, "\"seq\":", 6);
            CHECK(seq != NULL);
            CHECK_INT(atoi(seq + 6), r->next);
            r->next++;
        }
        CHECK(used == 0);
        buf_drop(&r->in, at);
    }
    CHECK(n < 0 && errno == EAGAIN); /* and nobody was closed */
    if (r->in.len == 0)
        buf_free(&r->in);
}

static void
read_all(struct stalled *reader)
{
    static struct pollfd fds[READERS];
    int waiting = READERS;

    while (waiting > 0) {
        for (int i = 0; i < READERS; i++)
            fds[i] = (struct pollfd){.fd = reader[i].next <= ALL ? reader[i].fd : -1,
                                     .events = POLLIN};
        CHECK(poll(fds, READERS, WAIT_MS) > 0);
        waiting = 0;
        for (int i = 0; i < READERS; i++) {
            if (fds[i].revents != 0)
                reader_take(&reader[i]);
            waiting += reader[i].next <= ALL;
        }
    }
}

static void
readers_come(const struct server *s, struct stalled *reader)
{
    for (int i = 0; i < READERS; i++) {
        struct peer p;
        peer_open_slow(&p, s, PROTO_TCP);
        sayf(&p, 5, "{'userId':'r%d'}", i);
        CHECK(hear(&p));
        say(&p, 7, "{'groupId':'hot'}");
        CHECK(hear(&p) && hear(&p)); /* 8 and 9 */
        reader[i] = (struct stalled){.fd = p.fd, .next = 1};
    }
}

/* Pairs talk as long as the flood lasts. Returns the RSS at its end. */
static long
flood(const struct server *s, int messages, struct pair pair[PAIRS], struct latencies *l,
      long *most)
{
    int done, status;
    pid_t pid = start_flood(s, messages, &done);
    struct pollfd end = {.fd = done, .events = POLLIN};

    l->n = 0;
    while (poll(&end, 1, 0) == 0) {
        pairs_step(pair, true, l);
        long rss = server_rss(s);
        *most = rss > *most ? rss : *most;
    }
    while (pairs_step(pair, false, l) > 0)
        ;
    close(done);
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    return server_rss(s);
}

static void
pairs_come(const struct server *s, struct pair pair[PAIRS])
{
    char name[16];

    for (int i = 0; i < PAIRS; i++) {
        peer_open(&pair[i].to, s, PROTO_TCP);
        snprintf(name, sizeof name, "b%d", pair[i].to.fd);
        sayf(&pair[i].to, 5, "{'userId':'%s'}", name);
        CHECK(hear(&pair[i].to));
        snprintf(name, sizeof name, "a%d", i);
        peer_login(&pair[i].from, s, PROTO_WS, name);
        pair[i].has = pair[i].acked = true;
    }
}

/* The pairs alone: the best of TIMES p99, in ms. */
static double
pairs_alone(struct pair pair[PAIRS], struct latencies *l)
{
    double best = 1e9;

    for (int i = 0; i < TIMES; i++) {
        l->n = 0;
        for (int64_t end = time_mono_ms() + 300; time_mono_ms() < end;)
            pairs_step(pair, true, l);
        while (pairs_step(pair, false, l) > 0)
            ;
        double p99 = percentile_ms(l, 99);
        best = p99 < best ? p99 : best;
    }
    return best;
}

/*
 * The pairs talk at the same time, each with one message on its way, with and without the flood: a
 * pair alone would never find the disk busy with somebody else's message, with a flood it always
 * does. Latencies are those of the machine as well, which runs server, flood, pairs and thousand on
 * what cores it has, and perhaps others: they are told, not judged. What is judged is whose turn it
 * is: while the flood's messages are answered, WINDOW at a time, the pairs' are, too. A server that
 * let them wait for it would answer one of each pair; the best of some runs counts. That it is
 * prompt is measured in CPU time, by limits_fan_out.
 */
TEST(limits_stalled_readers)
{
    static struct stalled reader[READERS];
    static struct latencies l;
    static struct pair pair[PAIRS];
    struct server s;
    double with = 1e9;
    size_t answered = 0;
    long most = 0, rss = 0;

    want_descriptors(READERS + 200);
    server_start(&s, QUIET, FAST, "-o", "jim.queue.max=64k", "-o", "jim.group.notify.max=0", NULL);
    pairs_come(&s, pair);
    double without = pairs_alone(pair, &l), p50 = percentile_ms(&l, 50);
    readers_come(&s, reader);
    long before = server_rss(&s), first = flood(&s, FLOOD, pair, &l, &most);
    CHECK(server_stat(&s, "lags") >= READERS); /* all are behind: from here on nothing may grow */
    double falling = percentile_ms(&l, 99);
    for (int i = 0; i < TIMES; i++) {
        rss = flood(&s, MORE, pair, &l, &most);
        double p99 = percentile_ms(&l, 99);
        with = p99 < with ? p99 : with;
        answered = l.n > answered ? l.n : answered;
    }
    test_note("%d stalled readers: RSS %ld kB before, %ld kB after %d messages, %ld kB after %d, "
              "%ld kB at most", READERS, before / 1024, first / 1024, FLOOD, rss / 1024, ALL,
              most / 1024);
    test_note("pairs: p99 %.1f ms alone, %.1f ms with the flood (p50 %.1f and %.1f); %.1f ms while "
              "the thousand fall behind; %zu of theirs with %d of the flood's", without, with, p50,
              percentile_ms(&l, 50), falling, answered, MORE);
    CHECK(most - before < SHARE);
    CHECK(answered >= 4 * PAIRS);
    read_all(reader);
    rss = server_rss(&s);
    test_note("and each of them got all messages in order; RSS %ld kB", rss / 1024);
    CHECK(rss - before < SHARE);
}

/* --- attempts --------------------------------------------------------------------------------- */

#define ATTEMPTS 100000
#define OPEN 300 /* at a time */

static int
attempt(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct linger reset = {1, 0}; /* no thousands of ports in TIME_WAIT */
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    CHECK(fd >= 0 && fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
    CHECK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset) == 0);
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(connect(fd, (struct sockaddr *)&a, sizeof a) == 0 || errno == EINPROGRESS);
    return fd;
}

/* Something of everything: nothing at all, half a frame, half a head, a login, noise. */
static void
bother(int fd, int i)
{
    static const char *const words[] = {"GET / HTTP/1.1\r\nHost: localhost\r\n",
                                        "\x01\x51\x05", "\x01\x51\x0d\0\0\0\0", "\xff noise"};
    static const size_t lengths[] = {35, 3, 7, 7};
    static char large[65536];

    if (i % 6 == 4) {
        memcpy(large, "\x01\x51\x0b\x00\x10\x00\x00", 7);
        (void)!send(fd, large, sizeof large, MSG_NOSIGNAL);
    } else if (i % 6 < 4) {
        (void)!send(fd, words[i % 6], lengths[i % 6], MSG_NOSIGNAL);
    }
}

TEST(limits_attempts)
{
    const char *const args[] = {QUIET, FAST, "-o", "jim.memory.max=32m", "-o",
                                "jim.timeout.detect=1s", NULL};
    static int open_fd[OPEN];
    struct server s;
    struct peer alice, bob, more[20];
    long most = 0;

    server_start_with(&s, 64, false, args);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    peer_login(&bob, &s, PROTO_WS, "bob");
    int64_t start = time_mono_ms();
    memset(open_fd, -1, sizeof open_fd);
    for (int i = 0; i < ATTEMPTS; i++) {
        int *fd = &open_fd[i % OPEN];
        if (*fd >= 0) {
            close(*fd);
        }
        *fd = attempt(s.port[0]);
        bother(*fd, i);
        if (i % 1000 != 0)
            continue;
        say(&alice, 11, "{'to':'bob','chatType':2,'content':'still there?'}"); /* still serving */
        CHECK(hear(&bob) && heard(&bob, "still there?"));
        CHECK(hear(&alice) && heard(&alice, "\"code\":10000,"));
        long rss = server_rss(&s);
        most = rss > most ? rss : most;
    }
    test_note("%d attempts in %lld ms with 64 descriptors: RSS %ld kB at most under a ceiling of "
              "32768 kB", ATTEMPTS, (long long)(time_mono_ms() - start), most / 1024);
    CHECK(most <= 32 * MB);
    for (int i = 0; i < OPEN; i++)
        close(open_fd[i]);
    for (int i = 0; i < 20; i++) { /* and then normal again */
        char name[16];
        snprintf(name, sizeof name, "m%d", i);
        peer_login(&more[i], &s, PROTO_TCP, name);
    }
    CHECK_INT(server_stat(&s, "online"), 22);
}

/* --- fan-out ---------------------------------------------------------------------------------- */

#define MEMBERS 10000
#define SENDERS 20
#define ROUNDS 201

struct crowd {
    struct jim *j;
    struct listener l;
    int listening;
    pid_t pid; /* a process that is all members, and reads what they get */
    int64_t most; /* CPU time of the longest turn, us */
};

static struct sockaddr_un
crowd_address(void)
{
    return (struct sockaddr_un){.sun_family = AF_UNIX, .sun_path = "crowd"};
}

static void
put_command(int fd, int cmd, const char *json)
{
    char frame[512];
    size_t n = strlen(json), head = pkt_head((uint8_t *)frame, (uint8_t)cmd, 0, (uint32_t)n);

    memcpy(frame + head, json, n);
    CHECK(write(fd, frame, head + n) == (ssize_t)(head + n));
}

static void
be_the_crowd(void)
{
    static struct pollfd fds[MEMBERS];
    static char bytes[262144];
    struct sockaddr_un a = crowd_address();
    char json[64];

    for (int i = 0; i < MEMBERS; i++) {
        fds[i] = (struct pollfd){.fd = socket(AF_UNIX, SOCK_STREAM, 0), .events = POLLIN};
        CHECK(fds[i].fd >= 0 && connect(fds[i].fd, (struct sockaddr *)&a, sizeof a) == 0);
        snprintf(json, sizeof json, "{\"userId\":\"u%d\"}", i);
        put_command(fds[i].fd, CMD_LOGIN, json);
    }
    for (;;) {
        CHECK(poll(fds, MEMBERS, -1) > 0);
        for (int i = 0; i < MEMBERS; i++)
            if (fds[i].revents != 0 && read(fds[i].fd, bytes, sizeof bytes) <= 0)
                _exit(0); /* the server is gone */
    }
}

static void
take_in(struct crowd *c, int fd)
{
    CHECK(fd >= 0 && fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
    conn_new(&c->l, fd, &(struct sockaddr_storage){.ss_family = AF_UNIX});
}

static void
crowd_comes(struct crowd *c)
{
    struct sockaddr_un a = crowd_address();

    c->listening = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(c->listening >= 0 && bind(c->listening, (struct sockaddr *)&a, sizeof a) == 0);
    CHECK(listen(c->listening, 1000) == 0);
    fflush(stdout);
    c->pid = fork();
    CHECK(c->pid >= 0);
    if (c->pid == 0) {
        close(c->listening);
        be_the_crowd();
    }
    for (int i = 0; i < MEMBERS; i++)
        take_in(c, accept(c->listening, NULL, NULL));
    while (c->j->chat.roster.nonline < MEMBERS || c->j->attend != NULL)
        jim_turn(c->j);
}

/* One who is in this process, logged in. */
static int
somebody_comes(struct crowd *c, const char *json)
{
    int pair[2];

    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    take_in(c, pair[1]);
    CHECK(fcntl(pair[0], F_SETFL, O_NONBLOCK) == 0);
    put_command(pair[0], CMD_LOGIN, json);
    return pair[0];
}

/* A turn that waits for nothing; the CPU time of the longest is kept. */
static void
timed_turn(struct crowd *c)
{
    int64_t start = clock_us(CLOCK_THREAD_CPUTIME_ID);

    loop_wake(c->j->loop);
    jim_turn(c->j);
    int64_t took = clock_us(CLOCK_THREAD_CPUTIME_ID) - start;
    c->most = took > c->most ? took : c->most;
}

/* Throw away what has come; was it anything? */
static bool
empty(int fd)
{
    static char bytes[262144];
    bool some = false;

    while (read(fd, bytes, sizeof bytes) > 0)
        some = true;
    return some;
}

/* CPU time of the server until something can be read from fd; *most if it was the most. */
static void
until_heard(struct crowd *c, int fd, int64_t *most)
{
    int64_t start = clock_us(CLOCK_THREAD_CPUTIME_ID);

    while (!empty(fd))
        timed_turn(c);
    int64_t took = clock_us(CLOCK_THREAD_CPUTIME_ID) - start;
    *most = took > *most ? took : *most;
}

/* The least of the mosts; the next begins at 0. */
static void
least(int64_t *best, int64_t *most)
{
    *best = *most < *best ? *most : *best;
    *most = 0;
}

TEST(limits_fan_out)
{
    static const char hot[] = "{\"chatType\":1,\"groupId\":\"hot\",\"content\":\"0123456789\"}";
    struct crowd c = {.j = jim_new()};
    char err[200], json[64];
    int sender[SENDERS], private = 0, to;
    int64_t private_us = 0, login_us = 0;
    int64_t best_us = INT64_MAX, best_private_us = INT64_MAX, best_login_us = INT64_MAX;
    uint64_t before;

    want_descriptors(MEMBERS + 500);
    c.l = (struct listener){.jim = c.j, .fd = -1, .protos = PROTO_BIT(PROTO_TCP)};
    CHECK(jim_set(c.j, "jim.store", "off", err, sizeof err) == 0);
    CHECK(jim_set(c.j, "jim.login.groups", "hot", err, sizeof err) == 0);
    CHECK(jim_set(c.j, "jim.rate.messages", "0", err, sizeof err) == 0);
    c.j->opt.ports = 0;
    CHECK_INT(jim_start(c.j), JIM_OK);
    crowd_comes(&c);
    for (int i = 0; i < SENDERS; i++) {
        snprintf(json, sizeof json, "{\"userId\":\"s%d\"}", i);
        sender[i] = somebody_comes(&c, json);
        until_heard(&c, sender[i], &login_us);
    }
    to = somebody_comes(&c, "{\"userId\":\"to\"}");
    private = somebody_comes(&c, "{\"userId\":\"from\"}");
    until_heard(&c, to, &login_us);
    until_heard(&c, private, &login_us);
    c.most = login_us = 0;
    before = c.j->stats.messages;
    for (int i = 0; i < ROUNDS; i++) {
        for (int k = 0; k < SENDERS && c.j->chat.wave_n < SENDERS; k++)
            put_command(sender[k], CMD_CHAT, hot); /* there is always more to be said */
        timed_turn(&c);
        for (int k = 0; k < SENDERS; k++)
            empty(sender[k]);
        empty(to);
        empty(private);
        put_command(private, CMD_CHAT, "{\"chatType\":2,\"to\":\"alone\"}");
        until_heard(&c, private, &private_us);
        snprintf(json, sizeof json, "{\"userId\":\"late%d\"}", i);
        int late = somebody_comes(&c, json);
        until_heard(&c, late, &login_us);
        close(late);
        if ((i + 1) % (ROUNDS / TIMES) > 0)
            continue;
        least(&best_us, &c.most); /* a processor that is lent to others counts as used */
        least(&best_private_us, &private_us);
        least(&best_login_us, &login_us);
    }
    test_note("a group of %d at full rate (%llu messages): at most %.2f ms of CPU between two "
              "looks at events; a private message took at most %.2f ms, a login %.2f ms", MEMBERS,
              (unsigned long long)(c.j->stats.messages - before), (double)best_us / 1000,
              (double)best_private_us / 1000, (double)best_login_us / 1000);
    CHECK(best_us < 5000 && best_private_us < 5000 && best_login_us < 5000);
    CHECK(c.j->chat.wave_n > 0); /* the load was there until the end */
    jim_free(c.j); /* which ends the crowd */
    CHECK(waitpid(c.pid, NULL, 0) == c.pid);
}
