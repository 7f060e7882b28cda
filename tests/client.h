/* SPDX-License-Identifier: MIT */
/*
 * client.h - what the tests speak to a running server with: the program itself, started and ended;
 * peers on TCP-IM, WebSocket and HTTP. Every wait ends with what was waited for, or with the test
 * after WAIT_MS; nothing sleeps. Frames are put together and taken apart here, byte by byte,
 * without codec.c: a mistake there must not hide itself.
 *
 * JSON is written with ' for ", and an expected text may hold these:
 *
 *   <time>      milliseconds since 1970 by the clock, give or take ten minutes
 *   <id>        32 hex digits
 *   <terminal>  how the hearing peer is connected: tcp or ws
 *   <'>         a real single quote
 *   <...>       whatever comes, to the end
 */
#ifndef CLIENT_H
#define CLIENT_H

#include "test.h"

#include <signal.h>
#include <sys/types.h>

#define WAIT_MS 60000 /* longest wait for anything that has to come: only a hang takes this long */

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

/* --- the server ------------------------------------------------------------------------------- */

struct server {
    pid_t pid;
    int alive; /* readable when it has ended */
    int port[4];
    char ready[256]; /* the line it said when it was */
};

/*
 * JIM_TEST_TLS=FILE, a certificate for localhost and its key, switches the transport: every server
 * started serves TLS only, and every peer speaks it. Needs a build with TLS.
 */
bool through_tls(void);
/*
 * JIM_TEST_CLUSTER=1 makes every server a node of a cluster, on a redis-server that is started for
 * the test (engine.c). NULL where there is none, as in `make test`.
 */
extern int (*const cluster_port)(void);     /* where it is; starts it */
extern void (*const cluster_ready)(const struct server *s);

/* No groups at login, so no notices between what a test is about. */
#define QUIET "-o", "jim.login.groups="
#define FAST "-o", "jim.rate.messages=0"

/* Start `jim -p PORT -d data ARG... NULL` in the test's directory, on a port that stays the test's
 * (ports.h), and wait until it listens. When the test is over, it must still run, and end with 0
 * when asked to. */
void server_start(struct server *s, const char *arg, ...);
/* The same with at most `files` descriptors, and without -p when the arguments have ports. */
void server_start_with(struct server *s, int files, bool own_ports, const char *const *args);
/* What the test allocates from here on lives until its end, and is no leak. Starting a server says
 * so, too. */
void test_begins(void);
/* Send a signal, wait for the end; returns the exit code, 128 + signal when killed. */
int server_end(struct server *s, int sig);
void server_restart(struct server *s, int sig, const char *arg, ...);
/* A number of GET /api/stats. */
long long server_stat(const struct server *s, const char *key);
long server_rss(const struct server *s); /* bytes resident */

struct output {
    int code;      /* exit code */
    struct buf out, err;
};
/* Run `jim ARG... NULL` to its end. */
void run_jim(struct output *o, const char *arg, ...);
/* The same, but no write to its standard output succeeds, as where a disk is full. */
void run_jim_unheard(struct output *o, const char *arg, ...);
bool has(struct buf text, const char *part);
void write_file(const char *path, const char *text);

/* --- peers ------------------------------------------------------------------------------------ */

struct peer {
    int fd;
    struct tls *tls; /* NULL: plain text */
    enum proto proto;
    struct buf in;   /* received; the first `used` bytes have been heard */
    size_t used;
    struct buf held; /* said, not sent yet */
    bool holding;
    /* What was heard last: */
    struct str text; /* body or payload; until the next hear() */
    uint8_t cmd, mask;
    uint32_t seq;
    uint8_t op;      /* WebSocket: FIN, RSV and opcode as sent */
    uint16_t code;   /* of a CLOSE frame */
};

void peer_connect(struct peer *p, const struct server *s); /* no byte sent yet: say() is TCP-IM */
void peer_connect_port(struct peer *p, int port, bool slow);
/* Over TCP-IM, or over WebSocket behind its upgrade. */
void peer_open(struct peer *p, const struct server *s, enum proto proto);
/* A peer whose socket holds little, on both sides: what it does not read stays with the server. */
void peer_open_slow(struct peer *p, const struct server *s, enum proto proto);
void peer_upgrade(struct peer *p, const char *target); /* connected before; checks the 101 */
/* Open and log in; the server is one without groups at login. */
void peer_login(struct peer *p, const struct server *s, enum proto proto, const char *user);
void peer_close(struct peer *p);
void peer_shut(struct peer *p);  /* no more will be said; answers are still heard */
void peer_abort(struct peer *p); /* with a reset: what was not read is thrown away */

void put(struct peer *p, const void *bytes, size_t n);
void put_str(struct peer *p, const char *text);
/* From here on nothing is sent; then all of it, in writes of `piece` bytes. */
#define IN_ONE_WRITE SIZE_MAX
void peer_hold(struct peer *p);
void peer_release(struct peer *p, size_t piece);
/* A command: a frame of TCP-IM (seq 0: none), or a masked text frame with `cmd` put in front. */
void say(struct peer *p, int cmd, const char *json);
void say_seq(struct peer *p, int seq, int cmd, const char *json);
void say_mask(struct peer *p, int mask, int cmd, const char *json);
void sayf(struct peer *p, int cmd, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* The next frame; false when the connection has ended instead. */
bool hear(struct peer *p);
/* Take n bytes as they come into p->text. */
bool hear_bytes(struct peer *p, size_t n);
/* Is anything there to be heard within ms? */
bool peer_ready(struct peer *p, int64_t ms);
/* Throw away what has come so far, without waiting. */
void peer_drain(struct peer *p);
/* Wait for the end, whatever comes before it. */
void hear_end(struct peer *p);
/* The integer after "key": in what was heard last; -1 without one. */
long long number(const struct peer *p, const char *key);
bool heard(const struct peer *p, const char *part); /* does p->text hold it? */

#define EXPECT(p, want) expect(__FILE__, __LINE__, (p), 0, (want))
#define EXPECT_SEQ(p, seq, want) expect(__FILE__, __LINE__, (p), (seq), (want))
#define EXPECT_RAW(p, bytes) expect_raw(__FILE__, __LINE__, (p), (bytes), sizeof(bytes) - 1)
#define EXPECT_END(p) expect_end(__FILE__, __LINE__, (p))
/* Nothing is on its way: a heartbeat's answer is the next thing. */
#define EXPECT_QUIET(p) expect_quiet(__FILE__, __LINE__, (p))
void expect(const char *file, int line, struct peer *p, int seq, const char *want);
void expect_raw(const char *file, int line, struct peer *p, const char *want, size_t n);
void expect_end(const char *file, int line, struct peer *p);
void expect_quiet(const char *file, int line, struct peer *p);
void check_like(const char *file, int line, struct str got, const char *want, const char *terminal);

/* --- WebSocket frames ------------------------------------------------------------------------- */

/* first: FIN, RSV and opcode, the frame's first byte. */
void ws_put(struct peer *p, int first, const void *payload, size_t n);
void ws_put_str(struct peer *p, int first, const char *payload);
#define EXPECT_FRAME(p, first, bytes) \
    expect_frame(__FILE__, __LINE__, (p), (first), (bytes), sizeof(bytes) - 1)
/* A CLOSE frame with this code, then the end. */
#define EXPECT_CLOSE(p, code) expect_close(__FILE__, __LINE__, (p), (code))
void expect_frame(const char *file, int line, struct peer *p, int first, const char *want,
                  size_t n);
void expect_close(const char *file, int line, struct peer *p, int code);

/* --- HTTP ------------------------------------------------------------------------------------- */

struct reply {
    int status;      /* 0: the connection ended before an answer */
    struct str head; /* with its empty line; until the next hear_reply() */
    struct str body;
};
/* Read one response by its Content-Length (without a body when it answers a HEAD). */
void hear_reply(struct peer *p, struct reply *r, bool head);
/* On a connection of its own: send a request as it stands, read the answer, close. */
struct reply ask(const struct server *s, const char *request);
/* The same made of its parts; headers are lines with CRLF; body may be NULL; ' stays '. */
struct reply ask_for(const struct server *s, const char *method, const char *target,
                     const char *headers, const char *body);
/* A header's value, trimmed; empty without one. */
struct str header(const struct reply *r, const char *name);
/* Post a chat to /api/message/send; ' stands for ". */
struct reply api_send(const struct server *s, const char *json);
#define CHECK_LIKE(s, want) check_like(__FILE__, __LINE__, (s), (want), "")

#endif /* CLIENT_H */
