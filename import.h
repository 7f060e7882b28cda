/* SPDX-License-Identifier: MIT */
/*
 * import.h - a part of jim.h: a server's data carried elsewhere and taken from elsewhere. By file
 * in reading order: export, import, import_redis. Included there, behind all that it needs.
 */
#ifndef IMPORT_H
#define IMPORT_H

/* --- export.c: a whole server as lines -------------------------------------------------------- */

/* export -a: chat lines as store_export(), and behind them what is so of users, groups, memberships
 * and cursors. 0 or 2. */
int export_all(const char *dir, FILE *out);
/* Append the line, but for its end, that tells how far a group, or a pair with its members, has
 * counted when no message says it any more: retention has been here. */
void export_count(struct buf *b, const struct conv *v, uint64_t seq);

/* --- import.c: from elsewhere into a store ---------------------------------------------------- */

/* Messages the store has, by fingerprint: open addressing, 12 bytes a slot. */
struct prints {
    uint64_t *print; /* owned; 0: free */
    uint32_t *seq;   /* owned; low half of the message's number */
    size_t cap, n;   /* cap: a power of two, or 0 */
};

struct import {
    const char *dir;
    struct options opt;
    struct log log;      /* what is refused, and what the store says */
    struct stats stats;
    struct chat chat;
    struct map tracks;   /* struct track by conversation; owned */
    struct map firsts;   /* struct first by user and conversation; owned */
    size_t runs;         /* of all tracks */
    struct prints seen;
    struct buf line, text; /* scratch: of the store; of a state */
    uint64_t wrote;      /* number of the last record appended */
    size_t waiting;      /* bytes appended since the last wait for the disk */
    const char *failed;  /* why it cannot go on; NULL: it can */
    bool progress;       /* stderr is a terminal */
    int64_t progress_ms; /* when it was last told */
    uint64_t read;       /* lines or values */
    uint64_t messages, again, users, groups, members, cursors, refused; /* of the summary */
    uint64_t late, stamped, no_id, no_from;
};
enum import_kind { IMPORT_ANY, IMPORT_PAIR, IMPORT_GROUP }; /* what is known of a chat's place */
struct placed { /* where an imported message stands now */
    struct conv *conv;
    struct user *to; /* private */
    uint64_t seq;
};

/* jim import: JSON lines from a descriptor. 0, 1 when lines were refused, 2 when it cannot. */
int import_lines(const char *dir, int fd, FILE *out);

/* For import_redis.c. False: said why; import_close() all the same. */
bool import_open(struct import *im, const char *dir);
/* Write cursors, sync, print the summary. Returns the exit code. */
int import_close(struct import *im, FILE *out);
void import_refuse(struct import *im, struct str where, const char *why);
void import_tick(struct import *im); /* a line is done: progress */
/* Each returns NULL, or why it is refused. when_ms: the time it was stored, -1: its own `time`. */
const char *import_chat(struct import *im, struct str json, const struct request *r,
                        enum import_kind kind, int64_t when_ms, struct placed *out);
const char *import_user(struct import *im, struct str json, const struct request *r);
const char *import_group(struct import *im, struct str json, const struct request *r);
/* Message seq is the first the user is waiting for, as far as was said before. */
void import_waits(struct import *im, struct user *u, struct conv *v, uint64_t seq);
/* Make him a member; all that was imported has reached him but what he waits for. */
void import_join(struct import *im, struct user *u, struct conv *v);
void import_pairs(struct import *im); /* the same for private conversations */

/* --- import_redis.c: J-IM's Redis ------------------------------------------------------------- */

/* jim import --jim-redis: read everything, write nothing there. Password and user name from the
 * environment: JIM_REDIS_AUTH, JIM_REDIS_USER. */
int import_redis(const char *dir, const char *address, FILE *out);

#endif /* IMPORT_H */
