/* SPDX-License-Identifier: MIT */
/*
 * redis.h - a part of jim.h: the link to Redis, by file in reading order: redis, redis_map,
 * redis_link. Included there, behind all that it needs.
 */
#ifndef REDIS_H
#define REDIS_H

/* --- redis.c: commands and replies ------------------------------------------------------------ */

#define REDIS_QUEUED (64u << 20) /* bytes of commands that wait for their reply */
#define REDIS_REPLY (32u << 20)  /* bytes of one reply: two of the largest records */
#define REDIS_ELEMENTS 262144    /* elements of one reply */
#define REDIS_SCRIPTS 64         /* scripts used on one struct redis */
#define REDIS_DEPTH 16           /* replies in replies in replies */
#define REDIS_SLOTS 16384        /* parts of a Redis Cluster: its own number */

struct redis; /* one server, the master that Sentinels know, or a Redis Cluster: jim.redis.* says */

/* An element of a reply. What an aggregate holds stands behind it in the same array. */
struct redis_reply {
    enum resp_type type;
    uint32_t span;   /* to the element beside it; 1 unless it holds others */
    int64_t n;       /* RESP_INT, RESP_BOOL: the value. RESP_ARRAY, RESP_SET, RESP_MAP (keys and
                        values in turn), RESP_PUSH: how many elements it holds itself */
    struct str text; /* of the other types but RESP_NIL */
};
/* The i-th of what r holds; NULL when it holds fewer, is none that holds any, or is NULL. */
const struct redis_reply *redis_at(const struct redis_reply *r, size_t i);
/* The element behind e in the same aggregate; only while there is one. */
static inline const struct redis_reply *
redis_next(const struct redis_reply *e)
{
    return e + e->span;
}
/* r->n of a RESP_INT, or the number a text is; `otherwise` when it is none, or r is NULL. */
int64_t redis_int(const struct redis_reply *r, int64_t otherwise);
struct str redis_text(const struct redis_reply *r); /* empty when it has none, or is NULL */
/* Is it an error whose first word is `word` ("NOPERM"); "": any error? */
bool redis_is_error(const struct redis_reply *r, const char *word);

/*
 * What became of a command; arg and n are those of redis_end(). reply lives until the function
 * returns; it may be an error, which Redis says when it has not done the command (a script may
 * have done a part). NULL: there is none, because the link was lost, no answer came in time, there
 * was no link, or too much waits; then `sent` says whether the command may have been done all the
 * same (true) or surely not (false). Called exactly once a command, from a later loop_turn() and
 * never within a call of redis_*() but redis_free(). May call all of redis_*() but redis_free().
 */
typedef void redis_reply_fn(void *arg, uint64_t n, const struct redis_reply *reply, bool sent);

struct redis_options { /* all borrowed while the struct redis lives */
    const struct options *opt; /* jim.redis.*; read at redis_new() and at each connect */
    struct loop *loop;
    const struct log *log;
    struct tls_client *tls; /* whom to trust; needed and used when jim.redis.tls is on */
    const char *name;       /* of the connections, for CLIENT LIST: no blanks; NULL: "jim" */
    int64_t timeout_ms;     /* 0: jim.redis.timeout */
    void *arg;              /* for all of these, which may be NULL; called from loop_turn() */
    /* Every command can be served: each master there has to be is connected, and says that its
     * cluster is up. At first, and again behind each down(); when that did not last, not before a
     * while has passed, which grows each time. */
    void (*up)(void *arg, struct redis *r);
    /* Some or all cannot be. In a Redis Cluster those for other masters still are: redis_takes()
     * knows. */
    void (*down)(void *arg, struct redis *r, const char *why);
    /* What Redis says unasked (RESP3: `>`), as messages of channels subscribed to. */
    void (*push)(void *arg, struct redis *r, const struct redis_reply *what);
};

/* Are jim.redis.* as a whole something to connect to? 0, or -1 with err. */
int redis_check(const struct options *o, char *err, size_t errsize);
/* Begins to connect, and goes on for ever, with pauses of up to 2 s in between. */
struct redis *redis_new(const struct redis_options *o);
/* Every command without a reply gets its callback first, which must not give new ones. Not from a
 * callback. NULL is allowed. */
void redis_free(struct redis *r);
bool redis_is_up(const struct redis *r);
/* Would a command with this key be sent now? NULL: one that any master can take. */
bool redis_takes(const struct redis *r, struct str key);
size_t redis_queued(const struct redis *r); /* bytes of commands without a reply */

/*
 * One command: redis_begin(), its `argc` arguments (the name is the first), redis_end(). Nothing is
 * written before redis_flush().
 *
 * key: routes it in a Redis Cluster, by its hash tag; all keys of the command have to be in one
 * slot. p NULL: any master. The command itself is not looked at.
 *
 * Order: commands with the same keys are done in the order they were given, also when their slot
 * moves to another master in between; so are all with keys in one slot (without a Redis Cluster:
 * all) while it does not move. Exceptions: a command that Redis puts off (CLUSTERDOWN, LOADING,
 * NOSCRIPT), or sends back and forth while a migration ends, may be done behind some that had been
 * written before that was read. What is given after that waits for it. What Redis puts off is tried
 * again until its time is over; then the caller gets the refusal, or NULL. That a slot is not
 * served, he gets after half a second, and then at once until it is.
 *
 * Time: a connection is lost when its oldest command has had its time and nothing has come for as
 * long; one that is slow, but answers, has six times as long.
 */
void redis_begin(struct redis *r, size_t argc);
void redis_arg(struct redis *r, const void *p, size_t n);
void redis_arg_str(struct redis *r, struct str s);
void redis_arg_int(struct redis *r, int64_t n);
#define redis_arg_lit(r, literal) redis_arg((r), (literal), sizeof(literal) - 1)
/* Between redis_begin() or redis_script() and redis_end(): this command may take ms, not the usual
 * time-out; REDIS_FOREVER: as long as it likes. What is behind it on the connection has to wait for
 * it: commands that block (XREAD BLOCK) belong to a struct redis of their own. */
#define REDIS_FOREVER INT64_C(-1)
void redis_patience(struct redis *r, int64_t ms);
/* And: WAIT for jim.redis.wait replicas follows it on its connection, one for all of a turn. Its
 * reply, RESP_INT with how many have it, comes to `wait` with the same arg and n behind the
 * command's own, exactly once, too: NULL behind an error or no reply, at once. */
void redis_wait(struct redis *r, redis_reply_fn *wait);
void redis_end(struct redis *r, struct str key, redis_reply_fn *fn, void *arg, uint64_t n);

struct redis_script {
    const char *text; /* Lua; borrowed while a struct redis lives that has used it */
    char sha[41];
};
void redis_script_init(struct redis_script *s, const char *text);
/* In place of redis_begin(): EVALSHA with `keys` keys and then `args` other arguments to come.
 * Redis gets the text ahead of its first use on a connection, and again when it has lost it. */
void redis_script(struct redis *r, const struct redis_script *s, size_t keys, size_t args);

/* At the end of a turn, every turn: write what was given, one write a connection; take up names
 * that have been resolved. */
void redis_flush(struct redis *r);

uint16_t redis_slot(struct str key); /* of a Redis Cluster; its hash tag alone counts */

struct redis_stats { /* since it was made */
    uint64_t commands, replies, lost, refused; /* lost: no reply; refused: not sent either */
    uint64_t writes, bytes_out, bytes_in;
    uint64_t connects, moved, asked, retried;
};
void redis_stats(const struct redis *r, struct redis_stats *out);

/* --- redis_link.c: one connection to one server ----------------------------------------------- */

enum redis_kind { /* of a command */
    REDIS_ASKED,  /* for a caller of redis_end() */
    REDIS_ASKING, /* the others are the link's own: ASKING */
    REDIS_LOAD,   /* SCRIPT LOAD */
    REDIS_WAIT,   /* WAIT, for those of a turn that want it */
    REDIS_PING,
    REDIS_LOOK    /* what redis_map.c wants to know */
};

struct redis_cmd { /* one command on its way; its bytes stand behind it */
    struct redis_cmd *next;
    redis_reply_fn *fn, *wait; /* NULL: nobody wants to know */
    void *arg;
    uint64_t n;
    int64_t until;        /* loop clock: when its time is over; INT64_MAX: never */
    int64_t ms;           /* how long that was, when it was given */
    int64_t not_before;   /* put off until then */
    uint64_t at;          /* its first byte's place in all that the link writes */
    uint64_t serial;      /* in the order they were given in */
    size_t size;          /* bytes */
    int32_t slot;         /* in redis.part; -1: any */
    int8_t script;        /* in redis.script; -1: none */
    uint8_t kind, tries;
    bool asking;          /* has to follow an ASKING */
    bool gathered;        /* has a place in what the link writes */
    char *bytes;          /* the block goes on with them */
};

enum redis_state { /* of a link */
    RLINK_OFF,     /* no connection, and none is wanted */
    RLINK_PAUSE,   /* none; the next try comes with the timer */
    RLINK_RESOLVE,
    RLINK_CONNECT,
    RLINK_TLS,
    RLINK_HELLO,   /* logging in: which step, says `step` */
    RLINK_READY
};

struct redis_frame { /* an aggregate whose elements are still coming */
    uint32_t node;
    bool attribute;
    int64_t left;
};

struct redis_link;
struct redis_ops { /* what becomes of a link; from loop_turn() only */
    void (*up)(struct redis_link *k);
    /* The reply to cmd, which is now the callee's. */
    void (*reply)(struct redis_link *k, struct redis_cmd *cmd, const struct redis_reply *reply);
    /* It is closed, and its commands (their `sent` by redis_link_sent()) are the callee's. */
    void (*lost)(struct redis_link *k, const char *why, struct redis_cmd *cmds);
};

struct redis_link {
    struct redis_link *next; /* of redis.links */
    struct redis *redis;
    const struct redis_ops *ops;
    char *host, *port;       /* owned */
    enum redis_state state;
    uint8_t step;            /* of logging in */
    bool plain;              /* a Sentinel: speaks RESP2, and is not logged in to unless it asks */
    bool master;             /* has to be one: ROLE is asked */
    bool stale;              /* takes nothing more, and goes when all is answered */
    bool wanted;             /* by the map */
    bool broken;             /* a write failed: the timer tells */
    bool down;               /* it says that its Redis Cluster is: nothing is given to it */
    bool unsure;             /* it has not said yet */
    bool asked;              /* and this is on its way */
    bool old;                /* HELLO did not work: AUTH and CLIENT SETNAME */
    unsigned fails;          /* since it was last ready */
    unsigned life;           /* how often it has been closed */
    int64_t patience_ms;     /* for a connection, and for what it asks itself */
    char why[160];           /* broken, stale: what is told in the end */
    int fd;
    struct tls *tls;         /* owned; NULL: plain, or not connected yet */
    struct dial_addrs addrs;
    size_t addr;
    struct redis_resolve *resolve; /* owned by its task */
    struct timer timer;
    int64_t heard_ms;
    struct redis_cmd *first, **end; /* in the order they are written in */
    struct redis_cmd **fresh;       /* the first that is not gathered */
    struct redis_cmd *waiters, **waiters_end; /* done, but for a WAIT that is to come */
    struct redis_cmd *waiting;      /* for the one that is out */
    uint64_t loaded;         /* scripts it has: bit i for redis.script[i] */
    struct buf out;          /* gathered, not written; out_at bytes of it are */
    size_t out_at;
    uint64_t gathered, written; /* bytes, since it was connected */
    /* The reply that is coming: */
    struct buf in;
    size_t start, used, scan; /* of in: where the reply begins; decoded; looked at */
    size_t skip;             /* bytes that nobody wants */
    struct redis_reply *node; /* owned; n is a text's offset behind `start` until it is whole */
    uint32_t nodes, node_cap;
    struct redis_frame frame[REDIS_DEPTH];
    unsigned depth;
    bool large;              /* above REDIS_REPLY or REDIS_ELEMENTS: read, and not kept */
};

/* host and port are copied. Nothing happens before redis_link_open(). */
struct redis_link *redis_link_new(struct redis *r, struct str host, struct str port,
                                  const struct redis_ops *ops);
/* Begin to connect; now, or (pause) after the pause that its failures so far ask for. */
void redis_link_open(struct redis_link *k, bool pause);
/* Close it; its commands are returned and the caller's. It may be opened again. */
struct redis_cmd *redis_link_close(struct redis_link *k);
void redis_link_free(struct redis_link *k); /* closed before */
/* May commands be given to it: is it ready, or on its way for the first time? */
bool redis_link_takes(const struct redis_link *k);
void redis_link_add(struct redis_link *k, struct redis_cmd *cmd); /* at the end */
void redis_link_flush(struct redis_link *k); /* gather and write */
/* A ready link takes no more, and is lost, for that reason, when all is answered. */
void redis_link_retire(struct redis_link *k, const char *why);
void redis_link_look(struct redis_link *k, const struct str *arg, size_t n); /* REDIS_LOOK, now */
void redis_link_await(struct redis_link *k); /* REDIS_WAIT, with the next flush */
/* Has some of it been written? */
bool redis_link_sent(const struct redis_link *k, const struct redis_cmd *cmd);

/* --- redis_map.c: which server has what ------------------------------------------------------- */

enum redis_mode { REDIS_ONE, REDIS_SENTINEL, REDIS_SHARDS };

struct redis_part { /* keys that stay together: a slot, or all there are */
    struct redis_link *link; /* NULL: nobody has it */
    uint32_t owed;           /* commands on their way, on whatever link */
    uint32_t held;           /* commands held back */
    uint32_t pass;           /* of release(): which has found one that stays */
    bool moving;             /* to another link: commands wait until nothing is owed */
    bool probe;              /* has moved: one command goes ahead, and the others wait for it */
    bool hole;               /* was not served for a while: who is told so is not put off again */
};

struct redis {
    struct redis_options o;
    enum redis_mode mode;
    int64_t timeout_ms;
    bool up, closing;
    bool release;            /* something held may go now */
    int64_t up_ms;           /* when it was told to be up */
    int64_t steady_ms;       /* it is not told to be up again before */
    unsigned swings;         /* how often, in a row, that did not last */
    struct timer steady_timer;
    struct workers *workers; /* owned; NULL: no name was looked up yet */
    struct redis_link *links;
    struct redis_part *part; /* owned */
    size_t parts;
    struct buf build;        /* the command that is being put together */
    struct redis_cmd cmd;    /* and its head; `until` is how long it may take */
    uint64_t serial;
    size_t queued;           /* bytes of commands without a reply */
    uint32_t pass;
    struct redis_cmd *held, **held_end;     /* rising in serial */
    struct redis_cmd *failed, **failed_end; /* to be told */
    struct timer held_timer, failed_timer;
    const struct redis_script *script[REDIS_SCRIPTS]; /* borrowed */
    size_t scripts;
    struct redis_stats stats;
    /* redis_map.c's: */
    struct redis_link *scout;
    struct buf known;        /* servers of the cluster: host:port,host:port */
    size_t seed;             /* whose turn it is to be asked */
    bool look_again;         /* as soon as the scout is back */
    int64_t looked_ms;
    struct timer look_timer;
    char why[300];           /* what was logged last, since it was up or down; empty: nothing */
    int64_t complained_ms;
};
extern const struct redis_ops redis_ops; /* redis.c's, for the links of the map */

void redis_map_begin(struct redis *r);
void redis_map_end(struct redis *r);
void redis_map_look(struct redis *r); /* something is not where it was thought to be */
/* The link to a server that `from` has named; NULL: that is no address, or there are too many. */
struct redis_link *redis_map_link(struct redis *r, struct str text, const struct redis_link *from);
/* A link is lost; one is ready, or has got another part. */
void redis_map_lost(struct redis *r, struct redis_link *k, const char *why);
void redis_map_changed(struct redis *r, const char *why);
void redis_map_sweep(struct redis *r); /* free what nobody wants */
void redis_map_doubt(struct redis_link *k); /* is its Redis Cluster up? Asked until it says so */
void redis_map_down(struct redis_link *k); /* it says that it is not */
void redis_map_told(struct redis_link *k, const struct redis_reply *reply); /* CLUSTER INFO */
/* In redis.c: from now on these keys are elsewhere. */
void redis_part_moves(struct redis *r, size_t part, struct redis_link *to);

#endif /* REDIS_H */
