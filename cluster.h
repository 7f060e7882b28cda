/* SPDX-License-Identifier: MIT */
/*
 * cluster.h - a part of jim.h: what makes jim a node of a cluster. First what the rest of the
 * server calls, then what the cluster_*.c files share. Included there, where all it needs is
 * declared.
 *
 * Redis is the truth. A node's memory holds the users connected to it, their groups, and the
 * conversations they are in; all else is asked for when it is needed, and forgotten. What is asked
 * for is a struct op: commands on their way, and what happens when all replies are there.
 */
#ifndef CLUSTER_H
#define CLUSTER_H

/* --- for the rest of the server --------------------------------------------------------------- */

struct cluster;

/* Can the options be served by a cluster? 0, or -1 with err. */
int cluster_check(const struct jim *j, char *err, size_t errsize);
struct cluster *cluster_new(struct jim *j); /* NULL: logged */
void cluster_free(struct cluster *k);       /* NULL is allowed */
/* Each turn, when all that is to be sent is known. */
void cluster_turn(struct cluster *k);
/* The server stops: no lease any more. Then cluster_busy() says whether Redis still has to answer
 * what must not get lost. */
void cluster_stop(struct cluster *k);
bool cluster_busy(struct cluster *k);
void cluster_hint(struct cluster *k, struct conn *c); /* tell a client to connect elsewhere */

/* A login that auth.c or an open login allows; answers it. */
void cluster_login(struct cluster *k, struct conn *c, uint32_t seq, struct str id, struct str json);
void cluster_closed(struct cluster *k, struct user *u); /* one of his connections here has gone */
/* Close his connections to all other nodes; code: as for chat_close_user(). */
void cluster_close_user(struct cluster *k, struct str id, int code);
/* Commands 7, 17, 19 and 21. */
bool cluster_join(struct chat *c, struct conn *from, uint32_t seq, const struct request *r);
bool cluster_user(struct chat *c, struct conn *from, uint32_t seq, const struct request *r);
bool cluster_messages(struct chat *c, struct conn *from, uint32_t seq, const struct request *r);
bool cluster_leave(struct chat *c, struct conn *from, uint32_t seq, const struct request *r);
/* What the routes of the API do in a cluster; each answers the call. Ids and names as given. */
struct call;
void far_broadcast(struct call *k, struct msg *m);
void far_messages(struct call *k, int64_t type);
void far_user_online(struct call *k, struct str id);
void far_user_list(struct call *k, int64_t type, int64_t offset, int64_t count);
void far_user_info(struct call *k, struct str id, int64_t type);
void far_user_friends(struct call *k, struct str id, struct str json);
void far_group_create(struct call *k, struct str id, struct str name, const struct str *users,
                      size_t n);
void far_group_change(struct call *k, struct str id, bool joins, const struct str *users, size_t n);
void far_group_dismiss(struct call *k, struct str id);
void far_group_rename(struct call *k, struct str id, struct str name);
/* whole: with the group's online and total, and a page of its users; else only those. */
void far_group_page(struct call *k, struct str id, bool whole, int64_t type, int64_t offset,
                    int64_t count);
void far_group_list(struct call *k, int64_t offset, int64_t count);
void route_cluster(struct call *k); /* /api/cluster */
void cluster_metrics(const struct cluster *k, struct buf *b); /* Prometheus text */

/* A message that has passed every check but those that Redis makes. */
struct far_draft {
    struct pending p;      /* as far as it is known: no number, no msg, no seq */
    int64_t now_ms;
    bool api;              /* need not be a member */
    struct str json;       /* `head` bytes, then the chat with a 0 for its seq */
    size_t head, seq_at;
    struct str id;         /* the client's own; empty: ours, which cannot have been sent before */
};
/* Ask for a conversation's messages from seq on, for a connection that has fallen behind: they go
 * to conn_caught_up(). False: not now. */
bool cluster_read(struct cluster *k, struct conn *c, struct member *m, uint64_t seq);
/* 0: Redis has been asked, and one of the connection's `deferred` will be answered; or the code it
 * is refused with. */
int cluster_send(struct cluster *k, const struct far_draft *d);
/* Is Redis so slow that who waits for an answer should not send another message yet? */
bool cluster_slow(const struct cluster *k);

/* --- cluster_scripts.c ------------------------------------------------------------------------ */

enum far_script { /* what each does, its keys, arguments and reply stand there */
    SCRIPT_SEND, SCRIPT_LOGIN, SCRIPT_AWAY, SCRIPT_ENTER, SCRIPT_EXIT, SCRIPT_LEAVE, SCRIPT_CREATE,
    SCRIPT_DISMISS, SCRIPT_RENAME, SCRIPT_PAGE, SCRIPT_DELIVERED, SCRIPT_MISSED, SCRIPT_HISTORY,
    SCRIPT_CHECK, SCRIPT_LEASE, SCRIPT_REAPED, SCRIPT_NODES, SCRIPT_CARRY, SCRIPT_COUNTED, SCRIPTS
};
const char *far_script(enum far_script n); /* its Lua text */

/* --- cluster.c: the link, operations, other nodes --------------------------------------------- */

#define NODE_ID 16                       /* characters of a node's name */
#define MAX_SEQ INT64_C(1000000000000000) /* number of a message: Lua's numbers hold it */

struct cluster_stats {
    uint64_t sent, routed, batches; /* messages stored; copies to other nodes; writes they took */
    uint64_t arrived;               /* from other nodes */
    uint64_t doubles, gaps, filled; /* heard twice; numbers missed, and read from Redis */
    uint64_t retries, unsure;       /* sent before; lost on the way: nobody knows */
    uint64_t reaped;                /* users taken off dead nodes */
    uint64_t junk;                  /* what no node has written, and was not used */
    uint64_t commands, lost;
};

/* Another node, and what this turn has for it. */
struct far_node {
    struct far_node *next;
    char id[NODE_ID];
    uint8_t idlen;
    struct buf pairs; /* head NUL text, each behind its length (uint32_t) */
    size_t n;         /* pairs */
    int64_t used_ms;
};

struct cluster {
    struct jim *jim;
    struct chat *chat;
    struct redis *redis, *inbox;
    struct redis_script script[SCRIPTS];
    struct tls_client *tls;   /* owned; NULL: no TLS */
    struct op *ops;           /* owned: all on their way */
    struct far_node *peers;       /* owned */
    size_t npeers, kept;      /* kept: bytes of batches that wait */
    char id[NODE_ID + 1];
    char last[64];            /* of the inbox: the entry read last */
    size_t nnodes;            /* live ones, as the last lease had them */
    struct timer tick, lease_timer, gap_timer;
    int64_t leased_ms, trust_ms; /* loop clock: when the lease was renewed; from when on dead nodes
                                    are believed to be dead */
    int64_t stopped_ms, again_ms, check_ms; /* when it was; when the next rounds may begin */
    struct user *again;       /* pinned: the next to be registered again; NULL: from the start */
    struct conv *check;       /* pinned: the next to be looked at */
    bool fast;                /* all have to be registered again now */
    bool leased;              /* the first lease is there */
    bool reading, stopping;
    bool leaving;             /* Redis has been told to take this node off its list */
    bool gone;                /* and has said that it is done */
    struct conv *gaps;        /* with something missing, or too early; pinned */
    size_t way, nway;         /* bytes of messages on their way to Redis; how many */
    int64_t lag_ms, answered_ms; /* how long the last that was answered had taken; when it was */
    int64_t said_ms;          /* when an error of Redis was last logged */
    int64_t junk_ms;          /* when junk may be logged again */
    unsigned ticks;           /* since cursors were written */
    struct cluster_stats stats;
};

struct op;
typedef void op_reply_fn(struct op *o, uint32_t n, const struct redis_reply *r);
typedef void op_fn(struct op *o);

/* Commands on their way to Redis, and what they are for. The first member of what says more. */
struct op {
    struct cluster *k;
    struct op *next, **at;  /* all there are */
    uint32_t left;          /* replies awaited; one more while commands are being added */
    bool failed;            /* a reply was lost, or is an error */
    op_reply_fn *reply;     /* each reply of this step that is no error; NULL: they do not matter */
    op_fn *step;            /* all replies of this step are there, or lost */
    op_fn *free;            /* releases what it refers to, but for itself; NULL: nothing */
    struct conn *conn;      /* who gets the answer; its `deferred` holds it; NULL: nobody */
    uint32_t seq;           /* TCP-IM number of the answer */
    bool parked;            /* it is what conn->parked stands for */
    bool quiet;             /* nobody waits for it at a stop */
};

/* A new operation of `size` bytes, zeroed. Add commands, then op_sent(). */
struct op *op_new(struct cluster *k, size_t size, op_reply_fn *reply, op_fn *step, op_fn *release);
/* The same for a command of a client: nothing else of his is looked at before op_end(). */
struct op *op_of_command(struct cluster *k, size_t size, struct conn *c, uint32_t seq,
                         op_reply_fn *reply, op_fn *step, op_fn *release);
void op_next(struct op *o, op_reply_fn *reply, op_fn *step); /* another step: commands may follow */
void op_sent(struct op *o); /* no more commands in this step; may call o->step */
void op_end(struct op *o);  /* it is over: its connection goes on, it is freed */
bool op_alive(const struct op *o); /* is its client still there? */

/* A command: begun, then its arguments, then sent to where `kind` and `id` have their keys. */
void ask_plain(struct op *o, const char *name, size_t args);
void ask_script(struct op *o, enum far_script script, size_t keys, size_t args);
void put_key(struct op *o, char kind, struct str id, const char *suffix); /* jim:{KIND:ID}SUFFIX */
void put_arg(struct op *o, struct str s);
void put_int(struct op *o, int64_t n);
void ask_wait(struct op *o); /* the command is done when jim.redis.wait replicas have it */
void ask_end(struct op *o, char kind, struct str id, uint32_t n); /* n: for o->reply */
/* The five keys of a group that its scripts take: :g :m :d :o :n. */
void put_group_keys(struct op *o, struct str conv);

size_t reply_count(const struct redis_reply *r); /* elements; 0: it is no array, or NULL */

/*
 * What comes from Redis is looked at before it is used: others may write there. far_junk() counts
 * what no node has written, and logs some of it; the others call it and say no.
 */
void far_junk(struct cluster *k, const char *what, struct str text);
bool far_json(struct cluster *k, struct str json); /* is it a JSON object, all of it? */
bool far_number(struct str digits, uint64_t *seq); /* of a message: from 1 to 10^15 */
/* What script_enter says: is he in (1) or not (0), is there no such group (2)? -1: it says nothing
 * of the kind. *seq: the group's last. */
int far_entered(struct cluster *k, const struct redis_reply *r, uint64_t *seq);

/* As far as is known: is this node one of the cluster, with a lease that it can renew? Can anything
 * be asked of Redis? What is kept with `kind` and `id`? (Of a Redis Cluster some may be away.) */
bool cluster_up(const struct cluster *k);
bool cluster_can(const struct cluster *k);
bool cluster_takes(const struct cluster *k, char kind, struct str id);
struct str cluster_self(const struct cluster *k);
struct str user_key(struct str id, char dst[3 * MAX_ID]); /* escaped */
unsigned bucket_of(struct str id); /* in which part of the list of all users or groups it is */
#define BUCKETS 64
/* The commands that keep that list. kind: 'U' users, 'G' groups; score: 0 online, 1 not; only: "XX"
 * if it has him, "NX" if it has not, NULL in any case. Their replies do not matter. */
void ask_index(struct op *o, char kind, struct str id, int score, const char *only);
void ask_unindex(struct op *o, char kind, struct str id);

/* To another node's inbox, with this turn's others: a head of words, and text. Not to ourselves. */
void far_route(struct cluster *k, struct str node, struct str head, struct str text);

/* --- cluster_send.c: the way of a message ----------------------------------------------------- */

struct far; /* of a conversation: what waits for earlier messages */

/* Message seq of v, as it stands in `chat`: shown to those here when all before it have been.
 * follows: it was sent just behind another, which may come later. */
void far_heard(struct cluster *k, struct conv *v, uint64_t seq, struct str from, struct str chat,
               bool follows);
/* From now on messages above seq come here. */
void far_base(struct cluster *k, struct conv *v, uint64_t seq);
void far_unbase(struct cluster *k, struct conv *v); /* they do no more */
bool far_wanted(const struct conv *v); /* is somebody here in it, or coming? */
void far_check(struct cluster *k, struct conv *v); /* ask whether something was missed */
void far_gone(struct conv *v); /* it is being forgotten */
/* Messages of a conversation, from number `from` to `to` (0: the last), `count` at most; n is 0. */
void ask_messages(struct op *o, struct str conv, uint64_t from, uint64_t to, int64_t count);
int64_t far_keep_since(const struct chat *c); /* what was stored before need not be kept; ms */
/* Write cursors that have moved. */
void far_save(struct cluster *k, bool all);
void far_save_user(struct cluster *k, const struct user *u); /* his, now */

/* --- cluster_login.c: who is where ------------------------------------------------------------ */

/* Register a user who is connected here, again. */
void presence_again(struct cluster *k, struct user *u);
/* Where he is, by node, from HGETALL of jim:{u:U}:n: a terminal, PROTO_NONE when nowhere. */
unsigned presence_of(const struct redis_reply *r);
/* Take a dead node's users off it. */
void presence_reap(struct cluster *k, struct str node);
/* Tell those in a group but one user; here and on the nodes, if they are not too many. */
void tell_group(struct cluster *k, struct str conv, struct msg *m, struct str but, int64_t online,
                const struct redis_reply *nodes, size_t first);
void tell_here(struct cluster *k, struct str conv, struct msg *m, struct str but);
/* A word from another node about users and groups: what it says, how, and a text. False: no node
 * says that. */
bool presence_word(struct cluster *k, char what, struct str *words, size_t n, struct str text);
/* His last connection here has gone, or a group has been added since: he is off this node. */
void presence_leave(struct cluster *k, struct user *u);
/* He is a member of v now, with that cursor ("CUR LO HI"), and it has come to seq. */
struct member *far_member(struct cluster *k, struct user *u, struct conv *v, struct str cursor,
                          uint64_t seq);

/* --- cluster_group.c: who is in a group ------------------------------------------------------- */

/* He is in the group, if he is a member as before: registers his presence there (script_enter). */
void ask_enter(struct op *o, const struct user *u, const struct conv *v, uint32_t n);
bool group_word(struct cluster *k, char what, struct str *words, size_t n, struct str text);

/* --- cluster_look.c: users and groups as Redis knows them ------------------------------------- */

/* A broadcast of another node has been sent to so many connections here; and, of ours, there. */
void broadcast_told(struct cluster *k, struct str node, struct str number, uint64_t sent);
void broadcast_heard(struct cluster *k, struct str number, uint64_t sent);

/* --- cluster_carry.c: a whole server into Redis, and out of it -------------------------------- */

/* jim import --cluster FILE: the lines of docs/export.md into the Redis that a properties file
 * names. 0, 1 when lines were refused, 2 when it cannot. */
int cluster_import(const char *file, FILE *in, FILE *out);
/* jim export --cluster FILE: as export -a. 0 or 2. */
int cluster_export(const char *file, FILE *out);

#endif /* CLUSTER_H */
