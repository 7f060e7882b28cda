/* SPDX-License-Identifier: MIT */
/*
 * bench.h - what the two load generators are made of. jim-bench (bench.c) loads one server, the
 * user's or its own; bench-peers (bench_peers.c) loads several with the same work, in turns.
 *
 *   util  time, histograms, processes and what /proc says of them
 *   wire  protocols: what a client says, and how little of what it hears has to be understood
 *   load  clients by the thousand in one thread, and the checking of what reaches them
 */
#ifndef BENCH_H
#define BENCH_H

#ifndef JIM_INTERNAL
#define JIM_INTERNAL
#endif
#include "../jim.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* --- util ------------------------------------------------------------------------------------- */

void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
int64_t now_ns(void); /* monotonic */

/* Counts of values by size, as HdrHistogram keeps them: 64 classes a power of two, so a percentile
 * is right to 1.6 %, at the cost of an addition a value. */
#define HIST_BITS 6
struct hist {
    uint64_t n, max, count[64 - HIST_BITS + 1][1 << HIST_BITS];
};
void hist_add(struct hist *h, int64_t value); /* below 0 counts as 0 */
double hist_at(const struct hist *h, double part); /* part 0.5: the median */

struct usage { /* of a process since it began */
    double cpu;              /* seconds, all threads, also those that have ended */
    double user, sys;        /* the same in two parts, in ticks of the kernel */
    double rss;              /* bytes resident */
    double reads, writes;    /* system calls of these kinds: /proc/PID/io */
};
/* Zeros when the process is not ours to see. */
struct usage usage_of(pid_t pid);

/* jim's system calls on its clients' sockets, which use send and recv and are not in /proc; and its
 * waits for events. From /api/stats, since it began. */
struct calls {
    double reads, writes, waits;
};
struct calls jim_calls(const char *host, int port); /* dies when it cannot be asked */

struct process {
    pid_t pid;
    int port;
    char dir[64]; /* its own, removed by process_stop(); empty: none */
};
/* Start a program with its output thrown away; in a directory of its own when `dir`. */
void process_dir(struct process *p);
void process_start(struct process *p, const char *const argv[]);
/* Start jim with these options more (pairs end with NULL), wait until it listens. */
void process_jim(struct process *p, const char *program, const char *const more[]);
void process_stop(struct process *p);
void process_child(void); /* in a child: it ends when its parent does, however that comes */
int free_port(void);

/* --- wire ------------------------------------------------------------------------------------- */

#define BODY 36    /* bytes of a payload that mean something: jb, flow, number, time */
#define FLOWS_SEEN 2 /* flows one client may hear */

struct load;
struct client;

struct wire { /* one protocol, as one kind of client uses it */
    const char *name;
    bool acks;  /* the server answers every message */
    bool jim;   /* users and groups rather than topics */
    /* Put what a new client says first into c->out. */
    void (*hello)(struct client *c);
    /* Make c->frame: one message of `bytes`, and note the places where it changes. */
    void (*message)(struct client *c, size_t bytes);
    /* Understand the whole frames of p[0, n); returns the bytes they take. */
    size_t (*take)(struct client *c, char *p, size_t n);
};
extern const struct wire wire_tcp, wire_ws, wire_http, wire_redis, wire_nats, wire_mqtt0,
    wire_mqtt1, wire_relay, wire_relay_ack;

struct client {
    struct load *load;
    const struct wire *wire;
    int fd;
    uint32_t number;      /* user u<number> */
    uint32_t topic;       /* of the flow it sends or hears */
    struct flow *sends;   /* NULL: only hears */
    bool grouped;         /* its flow is a group's */
    bool joins;           /* it is a member of that group */
    bool asks;            /* jim: fetches what waits for it, once it has logged in */
    bool connected, ready, watched; /* watched: for writing */
    bool to_flush;
    uint8_t stage;
    struct buf in, out;   /* a frame's beginning; what did not fit the socket */
    size_t sent;          /* bytes of out that have left */
    struct buf frame;     /* a message, to be stamped and sent again and again */
    size_t body_at, id_at; /* places in it; id_at 0: none */
    size_t masked_at;     /* WebSocket: from here on it is masked when sent; 0: never */
    bool packet_id;       /* the id is MQTT's: 16 bits, not 12 hex digits */
    size_t mark;          /* where the last body stood in what was heard */
    int64_t begun_ns;
    struct {
        uint32_t flow;
        uint64_t last;
    } seen[FLOWS_SEEN];
};

/* What a wire has understood. */
void client_ready(struct client *c);
void client_acked(struct client *c, uint64_t messages);
void client_body(struct client *c, const char *body); /* BODY bytes */
void client_refused(struct client *c, const char *p, size_t n);
void client_fetched(struct client *c, bool more);
/* Have c->out written at the end of the turn. */
void client_flush(struct client *c);

/* --- load ------------------------------------------------------------------------------------- */

struct flow { /* a sender, and all who hear it */
    struct client *sender;
    uint32_t index, receivers;
    uint64_t sent, acked, heard;
    uint64_t whole;      /* messages that all receivers have heard */
    uint32_t *heard_by;  /* owned; a ring of spec.window: of each message behind them, how many */
    bool listed; /* to be filled at the end of the turn */
};

struct spec {
    const char *host;
    int port;
    const char *from;        /* own address, IPv4; NULL: the kernel's choice */
    const struct wire *sender, *receiver;
    uint32_t flows, members; /* members 0: one receiver a flow, a pair; else a group of so many */
    uint32_t first;          /* number of the first user */
    uint32_t window;         /* messages a sender has on their way; 0: open loop */
    double rate;             /* open loop: messages a second, all flows together */
    size_t bytes;
    bool busy;               /* ask for events without waiting: no server pays for waking us */
    bool absent;             /* nobody is there to hear */
    bool idle;               /* `flows` clients that do nothing */
    bool fetch;              /* idle ones that ask for what waits for them */
    struct hist *logins;     /* from connecting to being logged in, ns; NULL: not wanted */
};

struct load {
    struct spec spec;
    struct client *client; /* owned; the senders first */
    struct flow *flow;     /* owned */
    uint32_t clients, flows;
    int poll;              /* epoll's descriptor */
    struct client **flush; /* owned */
    struct flow **fill;    /* owned */
    uint32_t flushes, fills, readies, fetching;
    bool stopped;          /* no new messages */
    int64_t start_ns;      /* open loop: of message 0 */
    uint64_t planned;      /* and how many have been due */
    uint64_t messages, deliveries; /* acknowledged and heard by all; heard */
    uint64_t missing, repeated, refused;
    struct hist *latency;  /* of deliveries, when not NULL; borrowed */
    char refusal[160];     /* the first */
};

/* Connect and log in all clients; dies when that fails. */
struct load *load_new(const struct spec *spec);
/* Keep the work going for so many seconds (0: until `deliveries` more). Returns seconds taken. */
double load_run(struct load *l, double seconds);
void load_turn(struct load *l, int64_t until_ns); /* one wait and what follows from it */
/* Stop sending and wait for what is on its way; what does not come is missing. */
void load_settle(struct load *l);
void load_free(struct load *l);
uint64_t load_bad(const struct load *l); /* missing, repeated or refused */

#endif /* BENCH_H */
