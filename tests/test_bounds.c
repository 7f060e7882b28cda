/* SPDX-License-Identifier: MIT */
/*
 * test_bounds.c - what peers can make the server hold, and for how long: bounds of connections,
 * memory, descriptors, conversations, answers owed, and the times after which it gives up on a
 * peer. (Those of single messages, queues and rates stand beside what they bound, elsewhere.)
 */
#include "client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#define MB 1048576

/* --- connections ------------------------------------------------------------------------------ */

/* Does the server serve another connection? */
static bool
is_let_in(struct peer *p, const struct server *s)
{
    peer_connect(p, s);
    say(p, 13, "");
    return hear(p);
}

/* Until a number of GET /api/stats, asked over a connection there is, is what it should be. */
static void
wait_for_stat(struct peer *http, const char *key, long long want)
{
    int64_t deadline = time_mono_ms() + WAIT_MS;
    struct reply r;

    do {
        CHECK(time_mono_ms() < deadline);
        put_str(http, "GET /api/stats HTTP/1.1\r\nHost: localhost\r\n\r\n");
        hear_reply(http, &r, false);
        CHECK_INT(r.status, 200);
        http->text = r.body;
    } while (number(http, key) != want);
}

TEST(bounds_connections_per_ip)
{
    struct server s;
    struct peer first, second, http, more;

    server_start(&s, "-o", "jim.connections.per.ip=3", NULL);
    CHECK(is_let_in(&first, &s));
    CHECK(is_let_in(&second, &s));
    peer_connect(&http, &s);
    wait_for_stat(&http, "connections", 3);
    CHECK(!is_let_in(&more, &s));
    peer_close(&more);
    wait_for_stat(&http, "refusedIp", 1);
    peer_close(&second);
    wait_for_stat(&http, "connections", 2); /* that place is free again */
    CHECK(is_let_in(&more, &s));
    CHECK(!is_let_in(&second, &s));
}

static struct address *
come(struct jim *j, const char *ip)
{
    struct sockaddr_storage a = {0};
    unsigned char from[16];
    struct address *out;

    if (strchr(ip, ':') != NULL) {
        struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)(void *)&a;
        in6->sin6_family = AF_INET6;
        CHECK(inet_pton(AF_INET6, ip, &in6->sin6_addr) == 1);
    } else {
        struct sockaddr_in *in = (struct sockaddr_in *)(void *)&a;
        in->sin_family = AF_INET;
        CHECK(inet_pton(AF_INET, ip, &in->sin_addr) == 1);
    }
    address_bytes(&a, from);
    bool in = address_enter(j, from, &out);
    CHECK(in == (out != NULL));
    return out;
}

TEST(bounds_addresses)
{
    struct jim *j = jim_new();
    char err[200];

    CHECK_INT(jim_set(j, "jim.connections.per.ip", "2", err, sizeof err), 0);
    struct address *a = come(j, "192.0.2.1"), *b = come(j, "::ffff:192.0.2.1");
    CHECK(a != NULL && a == b); /* the same, whichever family the port has */
    CHECK(come(j, "192.0.2.1") == NULL);
    struct address *c = come(j, "192.0.2.2");
    CHECK(c != NULL && c != a);
    /* Who has one IPv6 address has all of the /64. */
    struct address *d = come(j, "2001:db8:0:1::1"), *e = come(j, "2001:db8:0:1:ffff::2");
    CHECK(d != NULL && d == e && come(j, "2001:db8:0:1::3") == NULL);
    struct address *f = come(j, "2001:db8:0:2::1");
    CHECK(f != NULL && f != d);
    address_leave(j, a);
    CHECK(come(j, "192.0.2.1") == a);
    struct address *all[] = {a, b, c, d, e, f};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        address_leave(j, all[i]);
    CHECK_INT(j->bounds.addresses.count, 0);
    jim_free(j);
}

TEST(bounds_connections_max_is_counted)
{
    struct server s;
    struct peer http, more;

    server_start(&s, "-o", "jim.connections.max=1", NULL);
    peer_connect(&http, &s);
    wait_for_stat(&http, "connections", 1);
    CHECK(!is_let_in(&more, &s));
    wait_for_stat(&http, "refusedMax", 1);
}

/* Files that are streamed take descriptors, too: they may not take the store's. */
TEST(bounds_files_and_connections_share_descriptors)
{
    const char *const args[] = {QUIET, "-o", "jim.http.page=.", NULL};
    struct server s;
    struct peer alice, p[20];
    struct reply r;
    int refused = 0;

    FILE *f = fopen("large.bin", "w");
    CHECK(f != NULL && ftruncate(fileno(f), 64 * MB) == 0 && fclose(f) == 0);
    server_start_with(&s, 64, false, args); /* of which half are connections' */
    peer_login(&alice, &s, PROTO_TCP, "alice");
    for (int i = 0; i < 20; i++) { /* first all have their place */
        peer_connect_port(&p[i], s.port[0], true);
        put_str(&p[i], "GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n");
        hear_reply(&p[i], &r, false);
    }
    for (int i = 0; i < 20; i++) {
        put_str(&p[i], "GET /large.bin HTTP/1.1\r\nHost: localhost\r\n\r\n");
        hear_reply(&p[i], &r, true);
        refused += r.status == 503;
        CHECK(r.status == 503 || r.status == 200);
        say(&alice, 11, "{'to':'bob','chatType':2,'content':'and the store works'}");
        EXPECT(&alice, "{'code':10001,<...>");
    }
    CHECK(refused > 0 && refused < 20);
}

/* --- memory ----------------------------------------------------------------------------------- */

#define CEILING 24
#define HOSTS 150

/* A sanitizer keeps what has been freed, and is no server's memory. */
static bool
is_measurable(void)
{
    if (SANITIZED)
        test_note("sanitized: not tested");
    return !SANITIZED;
}

/* Half a frame of 1 MB, of which nothing can be used yet. */
static void
send_half_a_frame(struct peer *p)
{
    static char zeros[MB / 16];

    put(p, "\x01\x51\x0b\x00\x10\x00\x00", 7);
    for (int i = 0; i < 15; i++) {
        if (send(p->fd, zeros, sizeof zeros, MSG_NOSIGNAL) < (ssize_t)sizeof zeros)
            return; /* it is not taken any more */
    }
}

TEST(bounds_memory_max)
{
    struct server s;
    struct peer alice, http, hostile[HOSTS];
    struct reply r;
    long most = 0;
    char ceiling[40];

    if (!is_measurable())
        return;
    snprintf(ceiling, sizeof ceiling, "jim.memory.max=%dm", CEILING);
    server_start(&s, QUIET, FAST, "-o", ceiling, NULL);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    peer_connect(&http, &s);
    for (int i = 0; i < HOSTS; i++) {
        peer_connect(&hostile[i], &s);
        send_half_a_frame(&hostile[i]);
        EXPECT_QUIET(&alice); /* those who are there are served */
        long rss = server_rss(&s);
        most = rss > most ? rss : most;
    }
    test_note("memory: %ld kB at most under a ceiling of %d", most / 1024, CEILING * 1024);
    CHECK(most <= CEILING * (long)MB);
    CHECK(most > CEILING / 2 * (long)MB); /* it was put to the test */
    put_str(&http, "GET /api/stats HTTP/1.1\r\nHost: localhost\r\n\r\n");
    hear_reply(&http, &r, false);
    http.text = r.body;
    CHECK(number(&http, "pressed") + number(&http, "refusedMemory") > 0);
    for (int i = 0; i < HOSTS; i++)
        peer_close(&hostile[i]);
    wait_for_stat(&http, "connections", 2);
    int64_t deadline = time_mono_ms() + WAIT_MS;
    do { /* all is as it was */
        CHECK(time_mono_ms() < deadline);
        say(&alice, 11, "{'to':'bob','chatType':2,'content':'x'}");
        CHECK(hear(&alice));
    } while (!heard(&alice, "\"code\":10001,"));
}

static void
begin_a_large_frame(struct peer *p, const struct server *s)
{
    peer_connect(p, s);
    put(p, "\x01\x51\x0b\x00\x7f\x00\x00", 7);
}

/* The smallest ceiling is one that a server with much to keep has reached from the start. */
TEST(bounds_memory_full_is_answered)
{
    struct server s;
    struct peer alice, http, more;
    struct reply r;

    if (!is_measurable())
        return;
    server_start(&s, QUIET, FAST, "-o", "jim.memory.max=8m", "-o", "jim.frame.max=8m", "-o",
                 "jim.store.sync=off", NULL); /* it takes thousands of messages */
    peer_login(&alice, &s, PROTO_TCP, "alice");
    peer_connect(&http, &s);
    wait_for_stat(&http, "connections", 2);
    begin_a_large_frame(&more, &s);
    int64_t deadline = time_mono_ms() + WAIT_MS;
    char *piece = calloc(1, 4096);
    do { /* until it is full, and alice the one who comes upon that */
        CHECK(time_mono_ms() < deadline);
        if (send(more.fd, piece, 4096, MSG_NOSIGNAL) < 0 && errno != EAGAIN) {
            peer_close(&more); /* it was that peer, and what it took is free again */
            begin_a_large_frame(&more, &s);
        }
        say(&alice, 11, "{'to':'bob','chatType':2,'content':'x'}");
        CHECK(hear(&alice));
    } while (!heard(&alice, "\"code\":10027,\"command\":12,"));
    say(&alice, 19, "{'userId':'alice','type':0}");
    CHECK(hear(&alice));
    if (heard(&alice, "10027")) { /* unless the peer that took it is closed by now */
        put_str(&http, "POST /api/message/send HTTP/1.1\r\nHost: localhost\r\n"
                       "Content-Length: 23\r\n\r\n{\"chatType\":2,\"to\":\"b\"}");
        hear_reply(&http, &r, false);
        CHECK(r.status == 503 || r.status == 200);
    }
    EXPECT_QUIET(&alice);
    free(piece);
}

TEST(bounds_worst_case_is_printed)
{
    struct server s;

    server_start(&s, "-v", "-o", "jim.log.file=log.txt", "-o", "jim.connections.max=10", "-o",
                 "jim.frame.max=1m", "-o", "jim.queue.max=1m", "-o", "jim.memory.max=64m", NULL);
    struct buf log = read_whole("log.txt");
    CHECK(has(log, "memory at worst: 10 connections x (input 3.1 MB + output 10.0 MB) + "
                   "batches for a hanging disk 512 MB + message ids 7 MB = 650 MB"));
    CHECK(has(log, "jim.memory.max ends all that at 64 MB"));
    buf_free(&log);
}

/* --- a queue's own memory --------------------------------------------------------------------- */

/* Who talks to himself and does not read has messages and answers queued that take turns: each
 * stands by itself, in memory that is not many times what it holds. */
TEST(bounds_queue_of_small_pieces)
{
    static const char login[] = "\x01\x51\x05\0\0\0\x0e{\"userId\":\"a\"}";
    static const char chat[] = "\x01\x51\x0b\0\0\0\x17{\"chatType\":2,\"to\":\"a\"}";
    struct jim *j = jim_new();
    struct listener l = {.jim = j, .fd = -1, .protos = PROTO_BIT(PROTO_TCP)};
    char err[200];
    int pair[2], little = 4096;

    CHECK_INT(jim_set(j, "jim.store", "off", err, sizeof err), 0);
    CHECK_INT(jim_set(j, "jim.rate.messages", "0", err, sizeof err), 0);
    j->opt.ports = 0;
    CHECK_INT(jim_start(j), JIM_OK);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    for (int i = 0; i < 2; i++)
        CHECK(fcntl(pair[i], F_SETFL, O_NONBLOCK) == 0);
    CHECK(setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &little, sizeof little) == 0);
    conn_new(&l, pair[1], &(struct sockaddr_storage){.ss_family = AF_UNIX});
    struct conn *c = conn_at(j, pair[1]);
    CHECK(write(pair[0], login, sizeof login - 1) == (ssize_t)sizeof login - 1);
    for (int turns = 0; c->out == NULL || !input_waits_for_reader(c); turns++) {
        CHECK(turns < 100000);
        CHECK(write(pair[0], chat, sizeof chat - 1) == (ssize_t)sizeof chat - 1);
        loop_wake(j->loop);
        CHECK(jim_turn(j));
    }
    CHECK(c->out->n > 1000);
    test_note("memory: %zu bytes for %zu queued", j->bounds.held, c->out->bytes);
    CHECK(j->bounds.held < 8 * c->out->bytes);
    close(pair[0]);
    jim_free(j);
}

/* --- conversations ---------------------------------------------------------------------------- */

static void
joins_too_many(const char *store)
{
    struct server s;
    struct peer alice;
    int accepted = 0;

    server_start(&s, QUIET, FAST, "-o", store, NULL);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    peer_hold(&alice);
    for (int i = 0; i <= MAX_JOINED; i++)
        sayf(&alice, 7, "{'groupId':'g%d'}", i);
    say(&alice, 13, "");
    peer_release(&alice, IN_ONE_WRITE);
    do {
        CHECK(hear(&alice));
        accepted += alice.cmd == CMD_JOIN_RESP && heard(&alice, "10011");
        if (alice.cmd == CMD_JOIN_RESP && accepted == MAX_JOINED && !heard(&alice, "10011"))
            CHECK_LIKE(alice.text, "{'code':10012,'command':8,<...>");
    } while (alice.cmd != CMD_HEARTBEAT);
    CHECK_INT(accepted, MAX_JOINED);
    say(&alice, 7, "{'groupId':'g0'}"); /* one he is in */
    EXPECT(&alice, "{'code':10011,'command':8,<...>");
}

TEST(bounds_groups_a_user_joins) { joins_too_many("jim.store=off"); }
/* Nor those that are still on their way to the disk. */
TEST(bounds_groups_a_user_is_joining) { joins_too_many("jim.store=on"); }

TEST(bounds_conversations_a_user_begins)
{
    struct server s;
    struct peer alice;
    int accepted = 0;

    server_start(&s, QUIET, FAST, "-o", "jim.store=off", NULL);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    for (int i = 0; i <= MAX_BEGUN; i += 500) {
        peer_hold(&alice);
        for (int k = i; k < i + 500; k++)
            sayf(&alice, 11, "{'to':'n%d','chatType':2}", k);
        peer_release(&alice, IN_ONE_WRITE);
        for (int k = 0; k < 500; k++) {
            CHECK(hear(&alice));
            CHECK(heard(&alice, i < MAX_BEGUN ? "\"code\":10001," : "\"code\":10024,"));
            accepted += i < MAX_BEGUN;
        }
    }
    CHECK_INT(accepted, MAX_BEGUN);
    say(&alice, 11, "{'to':'n0','chatType':2}"); /* one that is begun goes on */
    EXPECT(&alice, "{'code':10001,<...>");
    struct reply r = api_send(&s, "{'from':'alice','to':'new','chatType':2}");
    CHECK_INT(r.status, 200); /* who has the key may */
}

/* More messages than answers may be owed at a time: the rest waits, and none is lost. */
TEST(bounds_answers_owed)
{
    enum { MESSAGES = 4 * MAX_DEFERRED };
    struct server s;
    struct peer alice;

    server_start(&s, QUIET, FAST, NULL);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    peer_hold(&alice);
    for (int i = 1; i <= MESSAGES; i++)
        say(&alice, 11, "{'to':'bob','chatType':2}");
    peer_release(&alice, IN_ONE_WRITE);
    for (int i = 1; i <= MESSAGES; i++) {
        CHECK(hear(&alice));
        CHECK_INT(number(&alice, "seq"), i);
    }
}

TEST(bounds_input_waits_for_answers)
{
    struct jim *j = jim_new();
    struct conn c = {.jim = j, .state = CONN_OPEN, .deferred = MAX_DEFERRED - 1};

    CHECK(!input_waits(&c));
    c.deferred++;
    CHECK(input_waits(&c));
    jim_free(j);
}

/* --- times ------------------------------------------------------------------------------------ */

/* Say a byte at a time until one is told, or shown, to go. */
static void
drip(const char *head, const char *byte)
{
    struct server s;
    struct peer p;
    int64_t start = time_mono_ms();

    server_start(&s, "-o", "jim.timeout.http=300ms", NULL);
    peer_connect(&p, &s);
    put_str(&p, head);
    while (!peer_ready(&p, 20)) {
        CHECK(time_mono_ms() - start < WAIT_MS);
        put_str(&p, byte);
    }
    CHECK(time_mono_ms() - start >= 250);
    hear_end(&p);
}

TEST(bounds_slow_body_ends)
{
    drip("POST /api/stats HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n", " ");
}

TEST(bounds_slow_chunks_end)
{
    drip("POST /api/stats HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
         "fffff\r\n", " ");
}

/* Who asks for a file and does not read it is not waited for. */
TEST(bounds_file_nobody_reads)
{
    struct server s;
    struct peer p;
    int64_t deadline = time_mono_ms() + WAIT_MS;

    FILE *f = fopen("large.bin", "w");
    CHECK(f != NULL && ftruncate(fileno(f), 64 * MB) == 0 && fclose(f) == 0);
    server_start(&s, FAST, "-o", "jim.timeout.http=300ms", "-o", "jim.http.page=.", NULL);
    peer_connect_port(&p, s.port[0], true);
    put_str(&p, "GET /large.bin HTTP/1.1\r\nHost: localhost\r\n\r\n");
    do /* over a connection for each look: one that is kept might be idle for too long, too */
        CHECK(time_mono_ms() < deadline);
    while (server_stat(&s, "dropsIdle") == 0);
}

/* But who reads it slowly is, through a socket that never takes all it is given. */
TEST(bounds_file_read_slowly)
{
    struct jim *j = jim_new();
    struct listener l = {.jim = j, .fd = -1, .protos = PROTO_BIT(PROTO_HTTP)};
    char err[200], room[65536];
    int pair[2], little = 4096;

    FILE *f = fopen("large.bin", "w");
    CHECK(f != NULL && ftruncate(fileno(f), 64 * MB) == 0 && fclose(f) == 0);
    CHECK_INT(jim_set(j, "jim.store", "off", err, sizeof err), 0);
    CHECK_INT(jim_set(j, "jim.http.page", ".", err, sizeof err), 0);
    j->opt.ports = 0;
    CHECK_INT(jim_start(j), JIM_OK);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    CHECK(fcntl(pair[1], F_SETFL, O_NONBLOCK) == 0);
    CHECK(setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &little, sizeof little) == 0);
    conn_new(&l, pair[1], &(struct sockaddr_storage){.ss_family = AF_UNIX});
    struct conn *c = conn_at(j, pair[1]);
    const char *ask = "GET /large.bin HTTP/1.1\r\nHost: localhost\r\n\r\n";
    CHECK(write(pair[0], ask, strlen(ask)) == (ssize_t)strlen(ask));
    for (int reads = 0; reads < 3; reads++) {
        int64_t due = c->timer.at_ms;
        for (int turns = 0; c->timer.at_ms <= due; turns++) {
            CHECK(turns < 1000);
            usleep(2000);
            loop_wake(j->loop);
            CHECK(jim_turn(j));
        }
        CHECK(c->full);
        CHECK(read(pair[0], room, sizeof room) > 0);
    }
    close(pair[0]);
    jim_free(j);
}

/* A peer that has been told goodbye and does not go. */
TEST(bounds_lingering_peer_is_left)
{
    struct server s;
    struct peer p, http;

    server_start(&s, FAST, NULL);
    peer_connect(&http, &s);
    peer_open(&p, &s, PROTO_TCP);
    say(&p, 5, "{}"); /* refused, and closed */
    CHECK(hear(&p));
    wait_for_stat(&http, "connections", 1);
}

/* A write to a peer that has gone must not be a signal: an embedding program has not asked for
 * it. */
TEST(bounds_gone_peer_is_no_signal)
{
    struct jim *j = jim_new();
    struct listener l = {.jim = j, .fd = -1, .protos = PROTO_BIT(PROTO_TCP)};
    char err[200];
    int pair[2];

    CHECK(signal(SIGPIPE, SIG_DFL) != SIG_ERR);
    CHECK_INT(jim_set(j, "jim.store", "off", err, sizeof err), 0);
    j->opt.ports = 0;
    CHECK_INT(jim_start(j), JIM_OK);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    conn_new(&l, pair[1], &(struct sockaddr_storage){.ss_family = AF_UNIX});
    CHECK(write(pair[0], "\x01\x51\x0d\0\0\0\0", 7) == 7);
    CHECK(shutdown(pair[0], SHUT_RD) == 0); /* it will not hear the answer */
    loop_wake(j->loop);
    CHECK(jim_turn(j));
    close(pair[0]);
    jim_free(j);
}
