/* SPDX-License-Identifier: MIT */
/*
 * fuzz_server.c - a whole server in the process: its loop over socket pairs, a clock that is set,
 * a store on a disk in memory. Nothing of it waits for real time.
 *
 *   world      a server and its peers
 *   server     several peers, ops: say, stop reading, go, let time pass, fail the disk, reload
 *   stream     one peer's bytes, whole and in pieces: the server must answer the same
 */
#include "fuzz.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#define PEERS 4

struct peer {
    int fd;          /* -1: none */
    bool stalled;    /* does not read */
    unsigned char first; /* byte it has sent: decides the protocol */
    bool spoke;
    struct buf heard;
};

static struct world {
    struct jim *j;
    struct listener listener;
    struct peer peer[PEERS];
    bool keep; /* what was heard, for comparing */
} w;

static int64_t now; /* the clock of all, ms */

static int64_t
clock_now(void)
{
    return now;
}

/* --- world ------------------------------------------------------------------------------------ */

static void
set(const char *key, const char *value)
{
    char err[256];

    MUST(jim_set(w.j, key, value, err, sizeof err) == 0);
}

static void
world_begin(bool store)
{
    now = 1700000000000;
    disk_reset();
    w.j = jim_new();
    w.j->disk = &fuzz_disk;
    set("jim.store", store ? "on" : "off");
    set("jim.store.dir", "d");
    set("jim.store.segment", "4096");
    set("jim.queue.max", "65536");
    set("jim.frame.max", "2048");
    set("jim.message.max", "1024");
    set("jim.rate.messages", "50");
    set("jim.rate.burst", "20");
    set("jim.fetch.max", "5");
    set("jim.log.level", "error");
    w.j->opt.ports = 0; /* peers come over socket pairs */
    MUST(jim_start(w.j) == JIM_OK);
    w.j->log.level = -1; /* a failing disk has much to say */
    w.j->chat.now_ms = clock_now;
    w.j->start_ms = w.j->started_ms = now;
    loop_set_clock(w.j->loop, clock_now);
    memset(w.j->chat.id_key, 1, sizeof w.j->chat.id_key);
    w.listener = (struct listener){.jim = w.j, .fd = -1};
    w.listener.protos = PROTO_BIT(PROTO_TCP) | PROTO_BIT(PROTO_WS) | PROTO_BIT(PROTO_HTTP);
    for (int i = 0; i < PEERS; i++)
        w.peer[i] = (struct peer){.fd = -1};
}

static void
peer_come(struct peer *p)
{
    int pair[2], little = 4096;

    if (p->fd >= 0)
        return;
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    for (int i = 0; i < 2; i++)
        MUST(fcntl(pair[i], F_SETFL, O_NONBLOCK) == 0);
    setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &little, sizeof little); /* soon full */
    p->fd = pair[0];
    p->stalled = p->spoke = false;
    p->heard.len = 0;
    conn_new(&w.listener, pair[1], &(struct sockaddr_storage){.ss_family = AF_UNIX});
}

static void
peer_go(struct peer *p)
{
    if (p->fd >= 0)
        close(p->fd);
    p->fd = -1;
}

/* What a server says on TCP-IM is whole frames of JSON objects, all but an unfinished last one. */
static void
check_heard(struct peer *p)
{
    size_t at = 0;
    ptrdiff_t used;
    struct pkt pkt;

    if (p->first != 1)
        return;
    while ((used = pkt_decode(p->heard.p + at, p->heard.len - at, 1 << 20, &pkt)) > 0) {
        struct request r;
        MUST(request_parse(&r, pkt.body) && pkt.cmd < COMMANDS);
        at += (size_t)used;
    }
    MUST(used == 0);
    if (!w.keep)
        buf_drop(&p->heard, at);
}

/* Returns whether anything was heard. */
static bool
peer_hear(struct peer *p)
{
    bool some = false;
    ssize_t n;

    if (p->fd < 0 || p->stalled)
        return false;
    for (;;) {
        buf_reserve(&p->heard, 8192);
        n = read(p->fd, p->heard.p + p->heard.len, 8192);
        if (n <= 0)
            break;
        p->heard.len += (size_t)n;
        some = true;
    }
    if (p->heard.len > 0)
        check_heard(p);
    if (!w.keep && p->first != 1)
        p->heard.len = 0;
    if (n == 0)
        peer_go(p);
    return some;
}

/* Turns of the loop until nothing happens any more. */
static void
settle(void)
{
    int quiet = 0;

    for (int i = 0; i < 500 && quiet < 3; i++) {
        if (w.j->chat.pending_n == 0) /* else the store will wake the loop */
            loop_wake(w.j->loop);
        jim_turn(w.j);
        bool busy = w.j->attend != NULL || w.j->chat.pending_n > 0;
        for (int k = 0; k < PEERS; k++)
            busy |= peer_hear(&w.peer[k]);
        quiet = busy ? 0 : quiet + 1;
    }
}

static void
peer_say(struct peer *p, const void *bytes, size_t n)
{
    if (p->fd < 0 || n == 0)
        return;
    if (!p->spoke)
        p->first = *(const unsigned char *)bytes;
    p->spoke = true;
    for (size_t at = 0; at < n;) {
        ssize_t sent = send(p->fd, (const char *)bytes + at, n - at, MSG_NOSIGNAL);
        if (sent <= 0)
            return; /* the server has stopped reading, or has gone */
        at += (size_t)sent;
    }
}

static void
world_end(void)
{
    for (int i = 0; i < PEERS; i++)
        peer_go(&w.peer[i]);
    settle();
    now += 300000; /* nobody is waited for any longer */
    settle();
    MUST(w.j->conns == 0 && w.j->chat.pending_n == 0 && w.j->chat.roster.nonline == 0);
    conn_free_spares(w.j);
    MUST(w.j->bounds.held == 0); /* what peers made the server hold has been given back */
    jim_stop(w.j);
    jim_run(w.j);
    jim_free(w.j);
    for (int i = 0; i < PEERS; i++)
        buf_free(&w.peer[i].heard);
    disk_reset();
}

/* --- server ----------------------------------------------------------------------------------- */

/* A login, ready made, for a first step that mutations would seldom find. */
static void
peer_log_in(struct peer *p, char name)
{
    char json[] = "{\"userId\":\"u?\"}", frame[64];

    json[sizeof json - 4] = name;
    size_t head = pkt_head((uint8_t *)frame, CMD_LOGIN, 0, sizeof json - 1);
    memcpy(frame + head, json, sizeof json - 1);
    peer_say(p, frame, head + sizeof json - 1);
}

/*
 * Byte 0: 1 with a store, the rest which write fails first. Then ops, a byte each: the low two bits
 * are the peer, the next three what happens, with a length or a time behind it.
 */
void
fuzz_server(const uint8_t *p, size_t n)
{
    if (n < 2)
        return;
    world_begin(p[0] & 1);
    disk_fail(p[0] / 2);
    for (size_t at = 1; at < n;) {
        struct peer *peer = &w.peer[p[at] & 3];
        unsigned op = p[at] >> 2 & 7;
        size_t arg = at + 1 < n ? p[at + 1] : 0, left = n - at > 2 ? n - at - 2 : 0;
        at += 2;
        if (op <= 2) {
            size_t len = op == 2 ? arg * 16 : arg;
            len = len < left ? len : left;
            peer_come(peer);
            peer_say(peer, p + at, len);
            at += len;
        } else if (op == 3) {
            peer_come(peer);
            peer_log_in(peer, (char)('0' + arg % 8));
        } else if (op == 4) {
            if (arg & 1 && peer->fd >= 0)
                shutdown(peer->fd, SHUT_WR);
            else
                peer_go(peer);
        } else if (op == 5) {
            now += (int64_t)(arg * arg * 2);
        } else if (op == 6) {
            peer->stalled = arg & 1;
        } else {
            disk_fail((unsigned)arg);
        }
        settle();
    }
    world_end();
}

/* --- stream ----------------------------------------------------------------------------------- */

static void
run_stream(const uint8_t *p, size_t n, size_t piece, struct buf *heard)
{
    world_begin(false);
    w.keep = true;
    peer_come(&w.peer[0]);
    for (size_t at = 0; at < n; at += piece) {
        peer_say(&w.peer[0], p + at, n - at < piece ? n - at : piece);
        settle();
    }
    if (w.peer[0].fd >= 0)
        shutdown(w.peer[0].fd, SHUT_WR);
    settle();
    buf_add(heard, w.peer[0].heard.p, w.peer[0].heard.len);
    w.keep = false;
    world_end();
}

static bool
says(const uint8_t *p, size_t n, const char *word)
{
    size_t len = strlen(word);

    for (size_t i = 0; i + len <= n; i++)
        if (str_ieq((struct str){(const char *)p + i, len}, str_of(word)))
            return true;
    return false;
}

/* Byte 0 is the size of the pieces. */
void
fuzz_stream(const uint8_t *p, size_t n)
{
    struct buf whole = {0}, split = {0};

    /* Counters of reads, and an answer that is only given to who waits for it, may differ. */
    if (n < 2 || says(p, n, "stats") || says(p, n, "metrics") || says(p, n, "100-continue"))
        return;
    run_stream(p + 1, n - 1, n, &whole);
    run_stream(p + 1, n - 1, 1 + p[0] % 64, &split);
    /* A peer that is closed for what it sent may not have been given its last answers. */
    size_t common = whole.len < split.len ? whole.len : split.len;
    MUST(common == 0 || memcmp(whole.p, split.p, common) == 0);
    buf_free(&whole);
    buf_free(&split);
}
