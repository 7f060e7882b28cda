/* SPDX-License-Identifier: MIT */
/*
 * conn.h - a part of jim.h: connections. By file in reading order: tls, msg, lag, output and
 * conn, input, proxy. Included there, where all it needs is declared.
 */
#ifndef CONN_H
#define CONN_H

/* --- tls.c: TLS 1.2 and 1.3, when built with it ----------------------------------------------- */

struct iovec;
struct stats; /* jim.h */
struct tls;        /* one connection's half that knows keys; NULL wherever there is none */
struct tls_server; /* certificates, and handshakes that wait for their turn */
struct tls_client; /* whom outgoing connections trust */

#define TLS_FIRST 0x16     /* the first byte of every client that speaks TLS (RFC 8446 5.1) */
#define TLS_ROOM 16640     /* a record and what is around it */
#define TLS_MIN_READ 32768 /* the least tls_read() may be given */

const char *tls_version(void); /* the library's name and version; NULL: built without */
/* Load jim.ssl.*. NULL with err: what is wrong with which file, or that there is no TLS in here.
 * Else err is empty, or a warning: a certificate is out of its time. */
struct tls_server *tls_server_new(const struct options *o, struct stats *stats, char *err,
                                  size_t errsize);
/* Load them again, for connections that come from now on. -1 with err: all stays as it was.
 * 0: err as above. */
int tls_server_load(struct tls_server *s, const struct options *o, char *err, size_t errsize);
void tls_server_free(struct tls_server *s); /* after all its connections; NULL is allowed */

/*
 * A connection whose first n bytes, at p, have been read from fd (borrowed). Its first tls_read()
 * is due when tls_next() returns `owner`.
 */
struct tls *tls_accept(struct tls_server *s, int fd, void *owner, const char *p, size_t n);
/* fd is readable: has it to wait for its turn, because it is not done with its handshake? */
bool tls_wait(struct tls *t);
bool tls_waiting(struct tls_server *s); /* is it somebody's turn? */
void *tls_next(struct tls_server *s);   /* whose; NULL: nobody's. He is to tls_read() now. */

/* ca: a PEM file of the authorities to trust; empty: the system's. NULL with err. */
struct tls_client *tls_client_new(const char *ca, char *err, size_t errsize);
/* Trust whom `fresh`, used up by it, trusts, in connections that come from now on. */
void tls_client_renew(struct tls_client *c, struct tls_client *fresh);
void tls_client_free(struct tls_client *c); /* after all its connections; NULL is allowed */
/*
 * Begin TLS on a connected, non-blocking socket (borrowed) with the server of that name or address,
 * which its certificate must hold. Go on by tls_read() whenever fd is readable, tls_flush() when it
 * is writable and TLS_PENDING; data may be written once it is TLS_READY. NULL: no memory.
 */
struct tls *tls_connect(struct tls_client *c, int fd, const char *host);

/*
 * As read(): bytes, 0 at the end, -1 with errno (EAGAIN: nothing yet; EPROTO: tls_why()). Takes all
 * that the socket's one read() gave, so that no data waits where the loop does not see it; for this
 * n is TLS_MIN_READ or more. Does the handshake on the way.
 */
ssize_t tls_read(struct tls *t, char *p, size_t n);
/*
 * As writev(): the bytes of data of which not one is left in this process, or -1 with errno. After
 * EAGAIN, or fewer bytes than were given, the next call has to begin with the bytes that were not
 * taken: some of them are encrypted already.
 */
ssize_t tls_write(struct tls *t, const struct iovec *v, int n);
int tls_flush(struct tls *t); /* 1: nothing is left to send, 0: TLS_PENDING, -1: failed */
/* Say that nothing more will be written (close_notify, once). As tls_flush(). */
int tls_close(struct tls *t);
enum tls_state {
    TLS_READY = 1,    /* the handshake is done */
    TLS_QUEUED = 2,   /* waits for its turn: not to be read */
    TLS_PENDING = 4,  /* has bytes to send, whether or not there is data: watch for LOOP_WRITE */
    TLS_OVER = 8,     /* what tls_read() returns next is 0 or a failure, without waiting for fd */
    TLS_FRESH = 16,   /* has not had its first turn */
    TLS_TRUNCATED = 32 /* the end came without the peer's saying so: somebody may have cut it off */
};
unsigned tls_state(const struct tls *t); /* a set of them */
const char *tls_why(const struct tls *t); /* what failed, in a few words */
void tls_free(struct tls *t); /* not the descriptor; NULL is allowed */

/* --- msg.c: encoded messages ------------------------------------------------------------------ */

/*
 * One message on its way out: immutable, shared by every receiver, freed with the last reference.
 * The JSON is the same for all; only the head before it differs, and is encoded once a wire
 * format.
 */
struct msg {
    uint32_t refs;
    uint32_t len;          /* bytes of data */
    uint32_t seq;          /* TCP-IM sequence number to echo, 0: none (never shared then) */
    uint8_t command;       /* TCP-IM cmd byte */
    uint8_t opcode;        /* enum ws_opcode */
    uint8_t pkt_len, ws_len; /* length of the heads, 0: not encoded yet */
    bool raw;              /* the data is everything: heads are in it, or it is HTTP */
    uint8_t size;          /* which of the pool's */
    uint32_t bytes;        /* it takes, this struct included */
    size_t *held;          /* where its bytes are counted; NULL: not yet */
    uint8_t pkt[MAX_PKT_HEAD];
    uint8_t ws[MAX_WS_HEAD];
    uint16_t room;         /* a piece: bytes that data has room for, as more are put behind */
    uint16_t chats;        /* a piece: chat messages of one conversation in it, besides the last */
    bool alone;            /* a chat message that goes to one user */
    uint64_t chat_seq;     /* a chat message, or the last of a piece: its number there */
    struct msg_pool *pool; /* where its memory goes back to; NULL: to free() */
    union {
        struct fetched *fetched;  /* an answer 20: owned; what its arrival proves delivered */
        struct msg *next_free;    /* while in the pool */
    };
    char data[];
};

/* Memory of short messages, used again: in the steady state they cost no malloc. */
struct msg_pool {
    struct {
        struct msg *free; /* owned: msg_pool_free() */
        uint32_t n;
    } size[POOLS];
    uint64_t made;    /* how often there was none, and malloc was called */
};

struct fetched { /* cursors an answer 20 moves once it is written */
    size_t n, cap;
    struct {
        struct member *member;
        uint64_t upto;
    } mark[];
};

void fetched_add(struct fetched **f, struct member *m, uint64_t upto); /* *f NULL: the first */
/* A message with one reference, for the caller. */
struct msg *msg_new(uint8_t command, uint32_t seq, const char *data, size_t n);
/* The same from a pool, which outlives it; NULL: none. For what every message needs. data NULL: the
 * caller fills in the n bytes. */
struct msg *msg_take(struct msg_pool *pool, uint8_t command, uint32_t seq, const char *data,
                     size_t n);
/* The head that goes before its data on a protocol, encoded on first use; counted there. */
struct str msg_encode(struct msg *m, unsigned proto, uint64_t *encoded);
static inline struct str
msg_head(struct msg *m, unsigned proto, uint64_t *encoded)
{
    return m->raw ? STR("") : msg_encode(m, proto, encoded);
}
/* A piece: several messages as one, behind each other with their heads. One of `room` bytes,
 * empty. */
struct msg *msg_piece(struct msg_pool *pool, uint8_t command, uint32_t seq, size_t room);
/* One more message of n bytes at its end, which has room for it and for its head, as the protocol
 * has it and counted there: returns where the n bytes go. */
char *msg_put(struct msg *piece, unsigned proto, uint8_t command, uint32_t seq, size_t n,
              uint64_t *encoded);
_Static_assert(MAX_PKT_HEAD < 16 && MAX_WS_HEAD <= MAX_PKT_HEAD, "heads are short");
void msg_unref(struct msg *m);
void msg_pool_free(struct msg_pool *pool); /* the spare ones */
void msg_hold(struct msg *m, size_t *held); /* count its bytes there until it is freed; once */

/* --- lag.c: what a slow reader has fallen behind with ----------------------------------------- */

/* A conversation whose live messages did not fit: from `seq` on they come from the store. */
struct lag {
    struct member *member; /* borrowed; NULL: the place is free */
    uint64_t seq;          /* 0: done; the place is kept, for others may stand behind it */
};

struct lags { /* zeroed: none */
    struct lag *place;     /* owned */
    uint32_t cap;          /* of places: a power of two */
    uint32_t n, done;      /* how many he is behind with, and how many he was */
    uint32_t at;           /* the first of the former */
};

bool lags_has(const struct lags *l, const struct member *member);
void lags_add(struct lags *l, struct member *member, uint64_t seq); /* seq is not 0, he not there */
void lags_done(struct lags *l); /* the first: on to the next */
void lags_free(struct lags *l);

/* The one to catch up with, until it is done; NULL: none. Valid until lags_add(). */
static inline struct lag *
lags_first(const struct lags *l)
{
    return l->n > 0 ? &l->place[l->at] : NULL;
}

/* --- output.c, conn.c: connections ------------------------------------------------------------ */

struct listener;
struct address;
struct proxied;
struct sockaddr_storage;

enum drop { /* why the server closed a connection that its peer had not finished with */
    DROP_UNREAD,   /* he does not read what is sent to him */
    DROP_DETECT,   /* no protocol, or no HTTP head, in time */
    DROP_LOGIN,    /* no login in time */
    DROP_IDLE,     /* HTTP: idle, or too slow with a body */
    DROP_SILENT,   /* heartbeat, or PINGs without an answer */
    DROP_PROTOCOL, /* what he sent cannot be understood */
    DROP_DISPLACED, /* jim.login.policy */
    DROPS
};

/* Output waiting for a connection's socket. Exists only while there is some. */
struct out {
    struct {
        struct msg *msg;       /* ref */
        struct member *member; /* whose cursor it moves when written; NULL: nobody's */
    } *entry;              /* ring of cap entries; owned */
    uint32_t head, n, cap; /* cap is a power of two */
    uint32_t sent;         /* bytes of the first entry already written, its head included */
    size_t bytes;          /* queued in all */
    size_t held;           /* bytes of this, the ring and the lags: counted */
    struct lags lags;      /* what is read from the store once the entries are written */
    bool asked;            /* cluster: for what comes next of them */
    int file;              /* streamed behind the entries; -1: none; owned */
    off_t file_at, file_end;
    struct out *next_free; /* while in jim's free list */
};

/* Input a connection could not use yet. Exists only while there is some. */
struct pend {
    struct buf raw;        /* bytes read and not decoded */
    size_t scan;           /* how far http_decode() has looked */
    struct buf message;    /* WebSocket: fragments of a message so far */
    struct ws ws;
    struct http_chunked chunked;
    size_t head;           /* HTTP: bytes of a head whose body is awaited; 0: none is */
    struct buf answer_head; /* HTTP: header lines for the answer that is owed */
    size_t want;           /* HTTP: bytes of raw before decoding makes sense again */
    bool in_chunks;        /* HTTP: the body behind that head is chunked */
    bool held;             /* a command waits for earlier answers: */
    int held_cmd;
    uint32_t held_seq;
    struct buf held_body;
    size_t counted;        /* bytes of all the buffers, as counted last */
};

enum conn_state {
    CONN_DETECT, /* nothing received yet, or a PROXY header */
    CONN_OPEN,   /* speaking its protocol */
    CONN_FINISH, /* no more input; closes when the output is written */
    CONN_LINGER, /* our side is shut; what still comes in is thrown away until the peer closes */
    CONN_DEAD    /* to be released at the end of the turn, or when `deferred` is back at 0 */
};

/*
 * A client connection, from conn_new() to a conn_turn(), which frees it: jim.c calls that at the
 * end of a turn, or of a callback, when nobody holds one. chat.c reads and writes only the members
 * marked chat.
 */
struct conn {
    /* What a delivery looks at stands together, on one or two lines of the cache. */
    struct conn *next_of_user; /* chat */
    struct jim *jim;
    struct out *out;           /* owned, NULL when nothing is queued */
    struct conn *next_bulk;    /* in the list of those that can wait a little */
    struct tls *tls;           /* owned, NULL when it speaks plain text */
    struct pend *pend;         /* owned, NULL when no input is pending */
    int fd;                    /* -1 once closed */
    uint32_t deferred;         /* chat: answers still owed for commands already taken */
    uint8_t state;             /* enum conn_state */
    uint8_t proto;             /* enum proto */
    bool tls_only : 1;         /* its port refuses plain text */
    bool attend : 1;           /* in the list */
    bool bulk : 1;             /* in the other */
    bool resume : 1;           /* its input is to be looked at again */
    bool loopback : 1;         /* peer address is 127/8 or ::1, and no proxy's */
    bool keep_alive : 1;       /* HTTP */
    bool head_only : 1;        /* HTTP: the request was HEAD */
    bool busy : 1;             /* HTTP: a request is being answered */
    bool many : 1;             /* what was queued last was more than a few small messages */
    bool full : 1;             /* its socket takes no more until the loop says so */
    bool shut : 1;             /* nothing more may be queued: the last word is */
    bool ended : 1;            /* the peer has shut its side */
    bool opened : 1;           /* jim_on_opened() was told */
    bool own_http : 1;         /* HTTP: the embedding program owes the answer */
    bool parked : 1;           /* a command of his is with the disk or, in a cluster, with Redis,
                                  and all wait for it: also messages, which it may be about */
    bool joining : 1;          /* parked, and all that is owed to him are answers to joins */
    uint8_t watched;           /* enum loop_events the loop looks out for */
    uint8_t protos;            /* PROTO_BITs its port serves */
    uint8_t silent;            /* WebSocket pings without an answer */
    uint8_t reason;            /* enum reason it ends for; or REASON_DROPS + enum drop */
    struct conn *next_attend;  /* in jim's list for the end of the turn */
    struct user *user;         /* chat: borrowed; NULL before login */
    struct login *login;       /* auth: one that is not decided yet holds back every command */
    struct address *address;   /* where it comes from; NULL: nobody counts */
    struct proxied *proxied;   /* for whom a proxy speaks; owned; NULL: nobody */
    struct member *recent;     /* chat: whose message was sent from here last; NULL: nobody's */
    struct own *own;           /* of the embedding program; owned, NULL when it has nothing */
    struct timer timer;        /* what it means depends on state and proto: conn_timer() */
    uint64_t id;               /* never used twice */
    int64_t read_ms;           /* last bytes received, loop clock */
    int64_t bucket_us;         /* chat: when the bucket of requests will be full, loop clock */
    uint16_t waves;            /* chat: of `deferred`, for messages whose fan-out has not ended */
    uint16_t close_code;       /* WebSocket: of the CLOSE to send when nothing is owed any more */
    bool proxy_due : 1;        /* DETECT: first of all a PROXY header must come */
    bool forwards : 1;         /* the peer's X-Forwarded-For is believed */
    struct far_send *sends;    /* cluster: the last of his messages that are with Redis; a ring */
};

enum reason { REASON_LOST, REASON_PEER, REASON_US, REASON_DROPS };

/* --- output.c: what is on its way to one ------------------------------------------------------ */

/*
 * Queue m for c, to be written at the end of the turn; takes a reference of its own. `member` goes
 * with a chat message: deliver_written() is told when it has left; and over jim.queue.max it is not
 * queued but read from the store when there is room. What has no store to come from may take twice
 * that room, and then closes the connection.
 */
void conn_send(struct conn *c, struct msg *m, struct member *member);
/* Cluster: a message that a connection had fallen behind with, in order; then NULL, and the number
 * behind all that was asked for. */
void conn_caught_up(struct conn *c, struct member *member, struct msg *m, uint64_t next);
/* Queue JSON as an answer to one connection: behind the last, if that is still queued and there is
 * room, so that many answers are one piece of output. */
void conn_reply(struct conn *c, uint8_t command, uint32_t seq, const char *json, size_t n);
/* The same of JSON that is yet to be written, at once, and all n bytes of it: where. NULL: he is
 * told nothing any more. Not for own protocols, which encode what is there. */
char *conn_reply_room(struct conn *c, uint8_t command, uint32_t seq, size_t n);
/* HTTP: stream `size` bytes of fd (owned from here on) behind what is queued. */
void conn_send_file(struct conn *c, int fd, off_t size);
/* May n more bytes be queued, within jim.queue.max? */
bool conn_has_room(const struct conn *c, size_t n);
void conn_attend(struct conn *c);      /* have conn_turn() called at the end of the turn */
void conn_attend_bulk(struct conn *c); /* the same, when others have had theirs */
/* For conn.c. Write what is queued, of which there is some, until all is gone, the socket is full,
 * or the turn's share is used up. Has the socket taken all of something? */
bool conn_flush(struct conn *c);
void out_drop(struct conn *c); /* forget what is queued; there is some */
/* For jim.c. */
void conn_free_spares(struct jim *j); /* queues and messages kept for reuse */

/* --- conn.c: from its first byte to its last -------------------------------------------------- */

/* Answer, flush, then close; on WebSocket with a CLOSE frame holding `code`. */
void conn_finish(struct conn *c, enum ws_close code);
void conn_close(struct conn *c, const char *why); /* at the end of the turn, output dropped */
void conn_drop(struct conn *c, enum drop reason, const char *why); /* the same, and counted */
/* The connection has got its user: from now on silence is judged by heartbeat and PING. */
void conn_logged_in(struct conn *c);
/* One of the `deferred` answers has been given; counts down, and lets waiting input go on. */
void conn_answered(struct conn *c);
const char *conn_terminal(const struct conn *c);

/* For input.c. Close in `ms`, if what the deadline stands for has not come by then. */
void conn_deadline(struct conn *c, int64_t ms);

/* Make a zeroed struct that of nobody: who is owed answers that nobody waits for. Freed like all,
 * when none are owed, in a conn_turn(). */
void conn_nobody(struct conn *c, struct jim *j);

/* For jim.c. A new connection on an accepted socket, which it owns from here on. */
void conn_new(struct listener *l, int fd, const struct sockaddr_storage *peer);
/* What the end of a turn does for a connection in the list: input that waited, one flush,
 * release. */
void conn_turn(struct conn *c);
/* The connection on a descriptor, NULL: there is none. For walking all up to loop_top(). */
struct conn *conn_at(const struct jim *j, int fd);
void conn_handshakes(struct jim *j);  /* a turn's share of those that wait for theirs */

/* --- input.c: from bytes to commands and requests --------------------------------------------- */

/* Decode and handle what is pending, together with n new bytes at p (borrowed, and changed: frames
 * are unmasked in place). */
void input_take(struct conn *c, char *p, size_t n);
/*
 * The same n bytes while a PROXY header is due: returns how many are behind it; they stand at p
 * now. 0: it is not whole, or nothing is behind it, or the connection is closed.
 */
size_t input_header(struct conn *c, char *p, size_t n);
/* Go on with what was held back, now that it may be. */
void input_resume(struct conn *c);
/*
 * Must the rest of the input wait? For answers that are still owed; or until the peer has read more
 * of what he was answered: who asks a lot at once is slowed down, not cut off.
 */
bool input_waits_for_reader(const struct conn *c);
static inline bool
input_waits(const struct conn *c)
{
    return c->state != CONN_OPEN || c->busy || c->deferred >= MAX_DEFERRED ||
           (c->pend != NULL && c->pend->held) || (c->out != NULL && input_waits_for_reader(c));
}
void input_free(struct conn *c); /* forget what is pending */
/* HTTP: header lines for an answer that comes later; kept until the answer frees them. */
struct buf *conn_answer_head(struct conn *c);
void conn_speaks(struct conn *c, enum proto proto); /* from now on */
/* Queue a WebSocket control frame with n <= MAX_CONTROL bytes. */
void conn_control(struct conn *c, enum ws_opcode opcode, const void *p, size_t n);

/* --- proxy.c: for whom a proxy speaks --------------------------------------------------------- */

/* A list of addresses and CIDR blocks, IPv4 and IPv6, separated by commas; empty: none. */
bool networks_ok(const char *list);
bool networks_have(const char *list, const unsigned char ip[16]); /* the list is ok */

struct proxy_said {
    bool known;           /* else it speaks for itself, or does not say for whom */
    unsigned char ip[16]; /* the client's; as address_bytes() */
};
/* A PROXY header (version 1, or 2 with up to 2 KB of addresses and TLVs) at p. Returns its length,
 * 0: more bytes are needed, -1: it is none. */
ptrdiff_t proxy_decode(const char *p, size_t n, struct proxy_said *out);
/*
 * The last address in the X-Forwarded-For of a request head (which http_decode() has taken) that is
 * not in the list of those who are `believed`; the first of them when it holds no others. False:
 * there is none, or something else behind it. Empty elements do not count (RFC 9110 section 5.6.1).
 */
bool proxy_forwarded(const char *believed, struct str head, unsigned char ip[16]);

enum proxy_kind { PROXY_IS_NONE, PROXY_SENDS_HEADER, PROXY_FORWARDS };
enum proxy_kind proxy_kind(const struct jim *j, const struct sockaddr_storage *peer);
struct proxied { /* for whom a proxy speaks */
    unsigned char ip[16];
};
/* From now on c is for the client of that address, and counts as one of his; NULL: for the proxy
 * itself, which nobody counts. False: he has as many connections as he may; c is to be closed. */
bool proxy_speaks_for(struct conn *c, const unsigned char *ip);
void proxy_forget(struct conn *c); /* as c ends: nobody's any more */

#endif /* CONN_H */
