/* SPDX-License-Identifier: MIT */
/*
 * fakeredis.h - as much of Redis as a node of a cluster talks to, on loopback and on the caller's
 * own thread, with faults to order; and nodes in this process, on a clock that is set. So cluster
 * mode is tested where there is no redis-server, and nothing of it waits for real time.
 *
 * It is no Redis: all keys hold one kind of thing, fields with a value, in the order they were put
 * in (a stream's field is an entry's id), and of the scripts in cluster_scripts.c it does what a
 * node is told by them, not all that they keep. What Redis makes of them `make check-cluster` says.
 */
#ifndef FAKEREDIS_H
#define FAKEREDIS_H

#ifndef JIM_INTERNAL
#define JIM_INTERNAL
#endif
#include "../jim.h"

/* --- the fake --------------------------------------------------------------------------------- */

#define FAKE_PEERS 16
#define FAKE_RULES 32

enum fake_how { /* what becomes of a command for which there is a rule */
    FAKE_ANSWER, /* it is not done: the rule's bytes are the reply */
    FAKE_HOLD,   /* it is done; its reply, and all behind it, waits for fake_release() */
    FAKE_LOSE    /* it is done, and the connection is cut in place of a reply */
};

struct fake_rule {
    const char *what; /* a command, in capitals, or a script: `send` is SCRIPT_SEND; borrowed */
    enum fake_how how;
    struct str text;  /* for FAKE_ANSWER; borrowed */
    int times;        /* how often yet; below 0: always */
};

struct fake_peer { /* a connection to it */
    int fd;            /* -1: none */
    struct buf in, out;
    size_t sendable;   /* bytes of out that may go; SIZE_MAX: all */
    struct buf blocked; /* key and last id of an XREAD that waits; empty: none does */
    int64_t since_ms;
};

struct fake_item {
    struct fake_item *next;
    struct buf key, field, value;
};

struct fakeredis {
    int fd, port;
    bool deaf;            /* it accepts and reads, and that is all */
    bool gone;            /* connections are cut as they come */
    struct fake_peer peer[FAKE_PEERS];
    struct fake_rule rule[FAKE_RULES];
    size_t rules;
    struct fake_item *items, **items_end;
    struct redis_script script[SCRIPTS];
    uint32_t loaded;      /* scripts it knows: bit i */
    uint64_t entries;     /* ids given to entries of inboxes */
    struct buf heard;     /* a line a command: its name or its script's, keys, arguments */
};

void fake_open(struct fakeredis *f);
void fake_close(struct fakeredis *f);
/* Serve what has come. Was there anything? */
bool fake_turn(struct fakeredis *f);
void fake_cut(struct fakeredis *f); /* every connection to it */
void fake_rule(struct fakeredis *f, const char *what, enum fake_how how, struct str text,
               int times);
void fake_release(struct fakeredis *f); /* the replies held, and the rules that hold */
/* Its data: NULL when there is none. */
const struct fake_item *fake_get(const struct fakeredis *f, const char *key, const char *field);
void fake_put(struct fakeredis *f, const char *key, const char *field, const char *value);
/* A message of a conversation into its stream: seq, from, the chat's JSON. */
void fake_message(struct fakeredis *f, const char *conv, unsigned seq, const char *from,
                  const char *json);
/* Something for a node's inbox, as another node, or anybody, may write it. */
void fake_post(struct fakeredis *f, const char *node, struct str head, struct str text);
/* Bytes on every connection a node has to it. */
void fake_blurt(struct fakeredis *f, struct str bytes);
/* Was a command heard whose line has these parts in this order (`send*hello`)? Since the last
 * fake_forget(). */
bool fake_heard(const struct fakeredis *f, const char *pattern);
void fake_forget(struct fakeredis *f);

/* --- nodes in this process -------------------------------------------------------------------- */

struct fake_node {
    struct jim *j;     /* NULL: it has ended */
    struct listener listener;
    bool over;
};

extern int64_t fake_now_ms; /* the loop clock of all nodes, and the fake's */

/* options: key, value, key, value, ..., NULL. */
void fake_node_start(struct fake_node *n, const struct fakeredis *f, const char *const *options);
int fake_node_connect(struct fake_node *n); /* a client's end of a new connection */
/* A turn; false: it has ended, as jim_run() ends. */
bool fake_node_turn(struct fake_node *n);
void fake_node_free(struct fake_node *n);

#endif /* FAKEREDIS_H */
