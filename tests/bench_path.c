/* SPDX-License-Identifier: MIT */
/*
 * bench_path.c - how many instructions a message takes on its way through the server: the whole
 * program in one process and one thread, its clients at the other end of socket pairs, so that
 * each turn does the same work in every run. `make callgrind` counts what serve() does.
 *
 *   build/bench-path WORK DELIVERIES
 *
 * WORK is PROTOCOL-WINDOW[-BYTES] between two users (tcp-1, ws-64, tcp-16-1024), or
 * PROTOCOL-gMEMBERS[-wWINDOW] for a group (ws-g100, tcp-g100-w16: every message goes to MEMBERS
 * connections), each with -store behind it for a server that keeps its messages. Without valgrind
 * it prints the CPU time they took, the system calls on sockets of another kind included.
 */
#ifndef JIM_INTERNAL
#define JIM_INTERNAL
#endif
#include "../jim.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BYTES 64       /* of content, unless WORK says otherwise */
#define MAX_PEERS 1000 /* the largest group */

struct work {
    enum proto proto;
    uint32_t window;
    size_t bytes;
    uint32_t members; /* of the group; 0: between two */
    bool store;
};

struct path {
    struct jim *j;
    struct work work;
    int fd[MAX_PEERS]; /* the clients' ends; the first sends */
    uint32_t fds;
    struct buf out;
    uint64_t sent;
    int64_t served_ns; /* in serve(), of this thread */
};

static void
die(const char *what)
{
    fprintf(stderr, "bench-path: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* What is counted: everything the server does, nothing of what its clients do. */
__attribute__((noinline)) void serve(struct jim *j);
__attribute__((noinline)) void
serve(struct jim *j)
{
    jim_turn(j);
}

static void
put_frame(struct path *p, int cmd, struct buf *json)
{
    static const uint8_t key[4] = {0x37, 0xfa, 0x21, 0x3d}; /* that of RFC 6455 section 5.7 */
    uint8_t head[MAX_PKT_HEAD];

    if (p->work.proto == PROTO_TCP) {
        buf_add(&p->out, head, pkt_head(head, (uint8_t)cmd, 0, (uint32_t)json->len));
        buf_add(&p->out, json->p, json->len);
        return;
    }
    size_t n = ws_head(head, WS_TEXT, json->len);
    head[1] |= 0x80; /* clients mask */
    buf_add(&p->out, head, n);
    buf_add(&p->out, key, sizeof key);
    for (size_t i = 0; i < json->len; i++)
        buf_add(&p->out, &(char){(char)(json->p[i] ^ key[i % 4])}, 1);
}

static void
send_out(struct path *p, int fd)
{
    for (size_t at = 0; at < p->out.len;) {
        ssize_t n = write(fd, p->out.p + at, p->out.len - at);
        if (n < 0)
            die("write");
        at += (size_t)n;
    }
    p->out.len = 0;
}

/* Throw away what has come to a client. */
static void
drain(int fd)
{
    static char waste[1 << 18];

    while (recv(fd, waste, sizeof waste, MSG_DONTWAIT) > 0)
        ;
}

/* Serve until nothing is left to do: the store is quiet and all that was queued has left. */
static void
settle(struct path *p)
{
    do {
        struct timespec from, to;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
        serve(p->j);
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
        p->served_ns += (to.tv_sec - from.tv_sec) * INT64_C(1000000000) + to.tv_nsec - from.tv_nsec;
        for (uint32_t i = 0; i < p->fds; i++)
            drain(p->fd[i]);
    } while (p->j->attend != NULL || p->j->bulk != NULL || p->j->chat.pending_n > 0 ||
             deliver_waits(&p->j->chat));
}

static void say(struct path *p, uint32_t i, int cmd, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static void
say(struct path *p, uint32_t i, int cmd, const char *format, ...)
{
    struct buf json = {0};
    char text[256];
    va_list ap;

    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    buf_str(&json, str_of(text));
    put_frame(p, cmd, &json);
    buf_free(&json);
    send_out(p, p->fd[i]);
    settle(p);
}

static void
join(struct path *p, uint32_t i)
{
    static const char hello[] = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
                                "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) != 0)
        die("socketpair");
    p->fd[i] = pair[0];
    p->fds = i + 1;
    conn_new(&p->j->listen[0], pair[1], &(struct sockaddr_storage){.ss_family = AF_UNIX});
    if (p->work.proto == PROTO_WS) {
        buf_str(&p->out, STR(hello));
        send_out(p, p->fd[i]);
        settle(p);
    }
    say(p, i, CMD_LOGIN, "{\"cmd\":5,\"userId\":\"u%04u\",\"password\":\"p\"}", i);
    if (p->work.members > 0)
        say(p, i, CMD_JOIN, "{\"cmd\":7,\"groupId\":\"group\"}");
}

/* `window` messages with one write, and all that follows from them. */
static void
round_trip(struct path *p)
{
    struct buf json = {0};

    for (uint32_t i = 0; i < p->work.window; i++) {
        json.len = 0;
        buf_printf(&json, "{\"chatType\":%d,\"cmd\":11,\"content\":\"",
                   p->work.members > 0 ? 1 : 2);
        for (size_t k = 0; k < p->work.bytes; k++)
            buf_add(&json, &"abcdefghijklmnopqrstuvwxyz 0123456789"[k % 37], 1);
        buf_printf(&json, "\",\"createTime\":%lld,\"from\":\"u0000\",\"id\":\"b%015llu\","
                   "\"msgType\":0,\"%s\"}", (long long)time_wall_ms(),
                   (unsigned long long)++p->sent,
                   p->work.members > 0 ? "groupId\":\"group" : "to\":\"u0001");
        put_frame(p, CMD_CHAT, &json);
    }
    buf_free(&json);
    send_out(p, p->fd[0]);
    settle(p);
    if (p->j->stats.messages != p->sent ||
        p->j->stats.delivered != p->sent * (p->work.members > 0 ? p->work.members : 1))
        die("a message was refused");
}

static void
parse(struct work *w, const char *text)
{
    struct str rest = str_of(text), part;
    int n = 0;

    *w = (struct work){.window = 1, .bytes = BYTES};
    for (; str_split(&rest, '-', &part); n++) {
        if (n == 0 && (str_eq(part, STR("tcp")) || str_eq(part, STR("ws"))))
            w->proto = part.n == 2 ? PROTO_WS : PROTO_TCP;
        else if (n == 1 && part.n > 1 && part.p[0] == 'g')
            w->members = (uint32_t)strtoul(part.p + 1, NULL, 10);
        else if (n == 1)
            w->window = (uint32_t)strtoul(part.p, NULL, 10);
        else if (str_eq(part, STR("store")))
            w->store = true;
        else if (part.n > 1 && part.p[0] == 'w')
            w->window = (uint32_t)strtoul(part.p + 1, NULL, 10);
        else
            w->bytes = (size_t)strtoul(part.p, NULL, 10);
    }
    if (n < 2 || w->proto == PROTO_NONE || w->window == 0 || w->window > 64 || w->bytes > 4096 ||
        w->members > MAX_PEERS) {
        fprintf(stderr, "bench-path: no such work: %s\n", text);
        exit(2);
    }
}

static void
set(struct jim *j, const char *key, const char *value)
{
    char err[256];

    if (jim_set(j, key, value, err, sizeof err) != 0)
        die(err);
}

int
main(int argc, char **argv)
{
    struct path p = {0};
    char dir[] = "/tmp/bench-path.XXXXXX", command[64];

    if (argc != 3) {
        fputs("usage: bench-path WORK DELIVERIES\n", stderr);
        return 2;
    }
    parse(&p.work, argv[1]);
    if (mkdtemp(dir) == NULL)
        die(dir);
    p.j = jim_new();
    set(p.j, "jim.port", "0");
    set(p.j, "jim.bind.ip", "127.0.0.1");
    set(p.j, "jim.login.groups", "");
    set(p.j, "jim.rate.messages", "0");
    set(p.j, "jim.log.level", "warn");
    set(p.j, "jim.store", p.work.store ? "on" : "off");
    set(p.j, "jim.store.sync", "off");
    set(p.j, "jim.store.dir", dir);
    if (jim_start(p.j) != JIM_OK)
        return 1;
    uint32_t peers = p.work.members > 0 ? p.work.members : 2;
    for (uint32_t i = 0; i < peers; i++)
        join(&p, i);
    uint64_t want = strtoull(argv[2], NULL, 10);
    p.served_ns = 0;
    while (p.j->stats.delivered < want)
        round_trip(&p);
    printf("%s: %llu deliveries, %.1f ns of the server each\n", argv[1],
           (unsigned long long)p.j->stats.delivered,
           (double)p.served_ns / (double)p.j->stats.delivered);
    jim_free(p.j);
    for (uint32_t i = 0; i < p.fds; i++)
        close(p.fd[i]);
    buf_free(&p.out);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command) == 0 ? 0 : 1;
}
