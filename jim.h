/* SPDX-License-Identifier: MIT */
/*
 * jim.h - the table of contents of jim, an instant-messaging server on one port.
 *
 * Part 1 is the whole public interface, for programs that embed the server. Part 2, under
 * JIM_INTERNAL, is every shared limit, struct and function of the server itself, grouped by file in
 * reading order: what knows nothing of chat (base.h: util, hash, codec, resp, loop, dial), stores
 * (stores.h), conf, connections (conn.h: tls, msg, conn, input), roster, the chat (request,
 * profile, chat, group, send, deliver, retry, query, record, keep), logins (login.h: worker, users,
 * token, hook, auth, admin), bounds, notify, jail, jim, broadcast, what an embedding program adds
 * (embed.h: embed, extend, own_proto, own_store), HTTP (web.h: http, api, routes, metrics), data
 * carried elsewhere (import.h: export, import, import_redis), the link to Redis (redis.h: redis,
 * redis_map, redis_link), and one node among others (cluster.h: cluster, cluster_*).
 */
#ifndef JIM_H
#define JIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* === Part 1: embedding ======================================================================== */

/*
 * A server inside another program: jim_new(), options, functions to be called, jim_start(), then
 * jim_run(), or jim_poll() in a loop of one's own. docs/embedding.md shows it all.
 *
 * Threads: a server belongs to one thread at a time, which makes all calls for it and in which all
 * the functions it is given are called. From other threads, and only between jim_start() and
 * jim_free(): jim_post(), jim_stop(), jim_reload() and jim_store_durable(). Several servers may run
 * in one process.
 *
 * Texts are UTF-8, given by pointer and length, without a NUL at the end; those handed to a
 * function are the server's, and gone when it returns; those handed in are copied. JSON handed in
 * is sent as it is: it has to be valid. Connections are named by numbers that are never used twice:
 * one that is gone is simply not found. No function may block: the whole server waits for it.
 */

#define JIM_VERSION "0.1.0"

#ifndef JIM_API
#if defined(__GNUC__)
#define JIM_API __attribute__((visibility("default")))
#else
#define JIM_API
#endif
#endif

struct jim; /* one server */

/* Exit codes of the program and results of jim_start() and jim_run(). */
enum jim_exit {
    JIM_OK = 0,
    JIM_BAD_CONFIG = 1,   /* an option or the configuration file is wrong */
    JIM_CANNOT_START = 2, /* port in use, store locked or damaged */
    JIM_STORE_FAILED = 3  /* ran, but the store failed on the way */
};

/* A server with every option at its default. Dies only when memory is exhausted. */
JIM_API struct jim *jim_new(void);

/* Set one option (`jim.port`, `jim.store`, ...: see jim(8)). Before jim_start() only. Returns 0,
 * or -1 with a sentence in err (errsize bytes, always NUL-terminated). */
JIM_API int jim_set(struct jim *j, const char *key, const char *value, char *err, size_t errsize);

/* Read a jim.properties file; options set with jim_set() win over it. Returns 0, or -1 with err. */
JIM_API int jim_load(struct jim *j, const char *file, char *err, size_t errsize);

/* Open the store and the ports. Returns JIM_OK, or an enum jim_exit after logging why; then only
 * jim_free() may follow. */
JIM_API int jim_start(struct jim *j);

/* The n-th listening address as text ("127.0.0.1:8888"), or NULL past the last. Borrowed until
 * jim_free(). */
JIM_API const char *jim_listening(const struct jim *j, size_t n);

/* Serve until jim_stop(); then drain queues, commit the store, and return an enum jim_exit. */
JIM_API int jim_run(struct jim *j);

/*
 * The same in another loop. jim_fd() is readable when there is something to do, -1 when the system
 * has no such descriptor (the poll backend); jim_timeout() says how many ms may pass before
 * jim_poll() has to be called even so: 0 none, -1 any. jim_poll() makes one turn, and waits for it
 * at most timeout_ms (-1: until something happens). It returns 1 as long as the server runs; after
 * jim_stop(), when all is drained and closed, JIM_OK or minus an enum jim_exit: call it no more.
 */
JIM_API int jim_fd(const struct jim *j);
JIM_API int jim_timeout(const struct jim *j);
JIM_API int jim_poll(struct jim *j, int timeout_ms);

/* Ask the server to end. From any thread and from signal handlers. */
JIM_API void jim_stop(struct jim *j);

/* Ask for the configuration to be read again, where it can change live, and the log file to be
 * reopened. From any thread and from signal handlers. */
JIM_API void jim_reload(struct jim *j);

/* Close everything and release all memory. Not from a function the server has called. NULL is
 * allowed. */
JIM_API void jim_free(struct jim *j);

/* Have fn(j, arg) called in the server's thread, soon and in order. From any thread. When the
 * server is freed first, fn(NULL, arg) is called instead: to free arg. Returns 0, or -1 when 65536
 * wait already. */
JIM_API int jim_post(struct jim *j, void (*fn)(struct jim *j, void *arg), void *arg);

/* --- calls: after jim_start() ----------------------------------------------------------------- */

/*
 * Send a command to whoever is connected: {"command":N,…} with N given beside it, for TCP-IM's
 * frames. Nothing is stored, and who is absent misses it; jim_chat() is for messages. They return
 * how many connections it was queued for.
 */
JIM_API size_t jim_send_user(struct jim *j, const char *user, size_t user_len, int command,
                             const char *json, size_t n);
JIM_API size_t jim_send_users(struct jim *j, const char *const *users, size_t count, int command,
                              const char *json, size_t n); /* NUL-terminated names */
JIM_API size_t jim_send_group(struct jim *j, const char *group, size_t group_len, int command,
                              const char *json, size_t n);
JIM_API size_t jim_send_conn(struct jim *j, uint64_t conn, int command, const char *json, size_t n);
/* To everybody who is logged in now, a share of them a turn; who has not read what he was sent
 * before is left out. Returns 0, or -1: 16 such are on their way already. */
JIM_API int jim_send_all(struct jim *j, int command, const char *json, size_t n);

/* Send a chat message as POST /api/message/send does, from anybody: the JSON is that call's body.
 * Returns 0 when it is accepted, to be stored and then delivered, or the code that refuses it. */
JIM_API int jim_chat(struct jim *j, const char *json, size_t n);

/* The same of plain texts: to a user, or (to.p NULL) to a group. */
struct jim_text { /* p NULL: absent */
    const char *p;
    size_t n;
};
JIM_API int jim_say(struct jim *j, struct jim_text from, struct jim_text to, struct jim_text group,
                    struct jim_text content);

/* Make a user a member of a group, which is made when there is none (name: NULL, or what it is then
 * called), or end that. Members are told as ever. 0, or -1: no valid ids, or no such thing. It is
 * so at once, and written with the next batch: a crash before that undoes it. Should the disk be
 * full, it is written when there is room. */
JIM_API int jim_group_bind(struct jim *j, const char *user, size_t user_len, const char *group,
                           size_t group_len, const char *name);
JIM_API int jim_group_unbind(struct jim *j, const char *user, size_t user_len, const char *group,
                             size_t group_len);

/* Close: what is queued is still written. The number of connections; 0: there is none. */
JIM_API size_t jim_close_user(struct jim *j, const char *user, size_t user_len);
JIM_API size_t jim_close_conn(struct jim *j, uint64_t conn);

/* Look-ups. The connections of a user: how many there are; the first `max` of them go to ids. */
JIM_API size_t jim_user_conns(const struct jim *j, const char *user, size_t user_len, uint64_t *ids,
                              size_t max);
/* Members of a group, those online first: fn is called for each. Returns how many there are. It
 * must not change who is in the group. */
JIM_API size_t jim_group_members(const struct jim *j, const char *group, size_t group_len,
                                 void (*fn)(void *arg, const char *user, size_t n, int online),
                                 void *arg);
JIM_API size_t jim_conn_count(const struct jim *j);
/* Of a connection: its user (NULL before login; borrowed until jim_free()), its address as text (""
 * when it is gone; through a proxy that jim.proxy.* names, its client's), what it speaks ("tcp",
 * "ws", "http", an own protocol's name; NULL: gone). */
JIM_API const char *jim_conn_user(const struct jim *j, uint64_t conn, size_t *n);
JIM_API void jim_conn_address(const struct jim *j, uint64_t conn, char *text, size_t size);
JIM_API const char *jim_conn_protocol(const struct jim *j, uint64_t conn);
/* A pointer of one's own with a connection: `destroy` (or NULL) is called with it when the
 * connection ends, or another is set. jim_conn_set(): 0, or -1 when the connection is gone. */
JIM_API int jim_conn_set(struct jim *j, uint64_t conn, void *own, void (*destroy)(void *own));
JIM_API void *jim_conn_get(const struct jim *j, uint64_t conn);

/* --- functions the server calls: set before jim_start() --------------------------------------- */

/* Text a function writes for the server: append to it. */
struct jim_out;
JIM_API void jim_out_add(struct jim_out *out, const char *p, size_t n);
JIM_API void jim_out_string(struct jim_out *out, const char *p, size_t n); /* as a JSON string */

/* The member `key` of a JSON object as text with a NUL behind it; of what is no string, its JSON.
 * Returns its length, or -1: there is none, or it has `size` bytes or more. */
JIM_API int jim_json_member(const char *json, size_t n, const char *key, char *text, size_t size);

/*
 * Logins (command 5, or a WebSocket address) in place of jim.auth=open: fn gets what was given, and
 * answers with jim_login_answer(), in the call or later; the client's other commands wait, for
 * jim.timeout.login at most. `json`: a User object, {"userId":…,"nick":…,"groups":[…]}, or NULL:
 * the userId he gave. Returns 0, or -1: the connection is gone, or it was answered already, or no
 * user can be made of the JSON (then it still has to be answered).
 */
struct jim_login {
    uint64_t ticket; /* for the answer */
    uint64_t conn;
    struct jim_text user, password, token;
    const char *address, *protocol;
};
enum jim_verdict { JIM_WELCOME, JIM_REFUSE, JIM_TRY_LATER };
JIM_API void jim_on_login(struct jim *j, void (*fn)(void *arg, struct jim *j,
                                                    const struct jim_login *l), void *arg);
JIM_API int jim_login_answer(struct jim *j, uint64_t ticket, enum jim_verdict verdict,
                             const char *json, size_t n);

/* A handshake: command 1, or the upgrade to WebSocket (only then the texts are there). 0 refuses:
 * the connection is closed, an upgrade answered with 403. */
struct jim_handshake {
    uint64_t conn;
    struct jim_text path, query, host, origin, authorization;
};
JIM_API void jim_on_handshake(struct jim *j, int (*fn)(void *arg, struct jim *j,
                                                       const struct jim_handshake *h), void *arg);

/* Codes to refuse with; any other number from 10002 on will do, too. */
enum jim_code {
    JIM_CODE_BAD = 10002,
    JIM_CODE_RATE = 10023,
    JIM_CODE_FORBIDDEN = 10024,
    JIM_CODE_TOO_LARGE = 10025
};

/* A user asks to join a group he is not in (command 7). 0 allows, a code refuses. */
JIM_API void jim_on_join(struct jim *j, int (*fn)(void *arg, struct jim *j, uint64_t conn,
                                                  struct jim_text user, struct jim_text group),
                         void *arg);

/*
 * A chat message that is about to be stored, after all other checks. 0 allows, a code refuses. What
 * is written to `content` or `extras` (a JSON object) takes the place of the message's own. A
 * message sent again (same id) gets its first answer and does not come here. What fn itself sends
 * with jim_chat() or jim_say() does, before that returns.
 */
struct jim_chat {
    uint64_t conn;              /* 0: from the API or jim_chat() */
    int chat_type, msg_type;    /* 1 group, 2 private */
    struct jim_text from, to, group, id;
    struct jim_text content;    /* decoded; of what is no string, its JSON */
    struct jim_text extras;     /* JSON */
};
JIM_API void jim_on_chat(struct jim *j, int (*fn)(void *arg, struct jim *j,
                                                  const struct jim_chat *chat,
                                                  struct jim_out *content, struct jim_out *extras),
                         void *arg);

/* A chat message is stored, and delivery to who is connected has begun. */
struct jim_stored {
    struct jim_text from, to, group;
    uint64_t seq;               /* its number in the conversation */
    struct jim_text content;    /* decoded, as in jim_on_chat() */
    struct jim_text json;       /* the delivered command 11: {"command":11,"data":{…}} */
};
JIM_API void jim_on_stored(struct jim *j, void (*fn)(void *arg, struct jim *j,
                                                     const struct jim_stored *s), void *arg);
/* Message `seq` has been written whole to a connection of this user. group: empty for a private
 * message. */
JIM_API void jim_on_delivered(struct jim *j, void (*fn)(void *arg, struct jim *j,
                                                        struct jim_text user, struct jim_text group,
                                                        uint64_t seq), void *arg);

/*
 * Who is where. A login gives JIM_USER_BOUND, then JIM_GROUP_BOUND for each of his groups, then its
 * answer; the end of a connection JIM_USER_UNBOUND, its jim_on_closed(), then JIM_GROUP_UNBOUND for
 * each. `edge`: his first connection, or his last. `member`: not only presence: the membership
 * itself has begun or ended, of whoever is connected or not (conn 0).
 */
enum jim_bound { JIM_USER_BOUND, JIM_USER_UNBOUND, JIM_GROUP_BOUND, JIM_GROUP_UNBOUND };
struct jim_binding {
    enum jim_bound what;
    uint64_t conn;
    struct jim_text user, group; /* group: empty for the first two */
    int edge, member;
};
JIM_API void jim_on_binding(struct jim *j, void (*fn)(void *arg, struct jim *j,
                                                      const struct jim_binding *b), void *arg);

/* The life of a connection: it has shown what it speaks (behind TLS, if any); it is gone, and why.
 * The pointer set with jim_conn_set() is destroyed after the latter. */
enum jim_why {
    JIM_BY_PEER, JIM_BY_SERVER, JIM_BROKEN, /* he has closed it; we have; the network */
    JIM_UNREAD, JIM_NO_PROTOCOL, JIM_NO_LOGIN, JIM_IDLE, JIM_SILENT, JIM_NONSENSE, JIM_DISPLACED
};
JIM_API void jim_on_opened(struct jim *j, void (*fn)(void *arg, struct jim *j, uint64_t conn),
                           void *arg);
JIM_API void jim_on_closed(struct jim *j, void (*fn)(void *arg, struct jim *j, uint64_t conn,
                                                     enum jim_why why), void *arg);

/* Its traffic. */
enum jim_traffic {
    JIM_RECEIVED, /* `bytes` were read; command 0 */
    JIM_DECODED,  /* a command with a body of so many bytes; -1: the JSON says which it is */
    JIM_HANDLED,  /* the same, done: it took `us` microseconds (its answer may come later) */
    JIM_SENT      /* so many bytes were written: a command, or several answers that were put
                     together behind this one; -1: none, but HTTP or a control frame */
};
JIM_API void jim_on_traffic(struct jim *j, void (*fn)(void *arg, struct jim *j, uint64_t conn,
                                                      enum jim_traffic what, int command,
                                                      size_t bytes, int64_t us), void *arg);
/* Nothing has come from it for jim.heartbeat.timeout. Not 0 keeps it for that time once more. */
JIM_API void jim_on_silent(struct jim *j, int (*fn)(void *arg, struct jim *j, uint64_t conn),
                           void *arg);

/* What is known of a user (command 17; type 0 online, 1 offline, 2 all of his friends and groups):
 * write the User object for the answer and return 1; 0: the server answers by itself; -1: there is
 * no such user. */
JIM_API void jim_on_user_info(struct jim *j, int (*fn)(void *arg, struct jim *j, uint64_t conn,
                                                       struct jim_text user, int type,
                                                       struct jim_out *json), void *arg);

/*
 * A command of one's own: a number from 23 to 255. fn gets the request, and answers with
 * jim_request_answer() if at all, or later with jim_send_conn(). open: also before login. Returns
 * 0, or -1: the number is taken.
 */
struct jim_request {
    uint64_t conn;
    int command;
    uint32_t seq;          /* TCP-IM's; goes into the answer */
    struct jim_text user;  /* absent before login */
    struct jim_text json;  /* as it was sent; empty: there was none */
};
JIM_API int jim_on_command(struct jim *j, int command, int open,
                           void (*fn)(void *arg, struct jim *j, const struct jim_request *r),
                           void *arg);
JIM_API void jim_request_answer(struct jim *j, const struct jim_request *r, int command,
                                const char *json, size_t n);

/*
 * HTTP. jim_on_http() sees every request first; not 0: it answers, nobody else. jim_on_route() adds
 * a path: exactly this one, or with `*` at its end all that begin like it; methods: "GET, POST",
 * for the Allow field, too; open: without jim.api.key and from anywhere. Own routes come behind the
 * API's and before files. Both answer with jim_http_answer(), in the call or later, always once;
 * the connection waits. jim_on_http_done() sees every response's status.
 */
struct jim_http {
    uint64_t conn;
    struct jim_text method, path, query, body; /* path and query still encoded */
    struct jim_text host, origin, authorization, content_type;
};
typedef int jim_http_fn(void *arg, struct jim *j, const struct jim_http *h);
JIM_API void jim_on_http(struct jim *j, jim_http_fn *fn, void *arg);
JIM_API int jim_on_route(struct jim *j, const char *path, const char *methods, int open,
                         jim_http_fn *fn, void *arg); /* its result counts for nothing */
JIM_API int jim_http_answer(struct jim *j, uint64_t conn, int status, const char *type,
                            const char *body, size_t n); /* -1: nothing is owed there */
JIM_API void jim_on_http_done(struct jim *j, void (*fn)(void *arg, struct jim *j, uint64_t conn,
                                                        int status, uint64_t length), void *arg);

/*
 * A wire protocol of one's own on the same ports (those not pinned to another). detect gets a
 * connection's first bytes, before jim's own protocols are tried: 1 mine, 0 not, -1 more are needed
 * (of 64 at most). decode makes a command of what has come: it returns the bytes used (0: more are
 * needed; negative: close), and sets *command (0: none in them), its JSON written to `json`. encode
 * writes what goes out for a command, or nothing. Messages to many are encoded once.
 */
struct jim_protocol {
    const char *name; /* borrowed until jim_free(), as what follows */
    void *arg;
    int (*detect)(void *arg, const char *p, size_t n);
    ptrdiff_t (*decode)(void *arg, struct jim *j, uint64_t conn, const char *p, size_t n,
                        int *command, struct jim_out *json);
    void (*encode)(void *arg, int command, const char *json, size_t n, struct jim_out *bytes);
};
JIM_API int jim_on_protocol(struct jim *j, const struct jim_protocol *p); /* -1: there are 8 */

/*
 * A store of one's own in place of jim.store. Records are messages ('M') and what else has to come
 * back at a start; their numbers rise, and are the server's. A message is delivered and
 * acknowledged once jim_store_durable() has been told its number, or a higher one.
 */
struct jim_record {
    uint64_t number;
    int64_t time_ms;
    char type;
    struct jim_text conv; /* key of the conversation, "-" for none: no blank in it */
    uint64_t seq;         /* 'M': its number in the conversation, from 1 without a gap */
    struct jim_text json; /* one line of text */
};
struct jim_replay;
struct jim_store { /* functions return 0, or -1 */
    void *arg;
    /* Hand every record kept to jim_replay(), in the order of their numbers. -1: no start. */
    int (*open)(void *arg, struct jim_replay *r);
    int (*append)(void *arg, const struct jim_record *rec); /* -1: refused; its number is free */
    void (*commit)(void *arg);  /* the turn is over: what was appended should get on its way */
    /* Write the JSON of message seq of a conversation, set *time_ms. -1: it is not there. */
    int (*read)(void *arg, const char *conv, size_t n, uint64_t seq, struct jim_out *json,
                int64_t *time_ms);
    int (*close)(void *arg);    /* make all of it durable; -1: that failed */
};
JIM_API void jim_replay(struct jim_replay *r, const struct jim_record *rec);
JIM_API void jim_use_store(struct jim *j, const struct jim_store *s); /* copied */
/* All up to this number is safe. From any thread, also within append() and commit(). */
JIM_API void jim_store_durable(struct jim *j, uint64_t number);
/* What has a higher number than the last durable one is lost: the store forgets it, its senders are
 * told, the numbers are given anew. From the server's thread; until it has come to that, what is
 * sent is refused, and not appended. */
JIM_API void jim_store_lost(struct jim *j);

#ifdef __cplusplus
}
#endif

/* === Part 2: internals ======================================================================== */
#ifdef JIM_INTERNAL

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>

/* --- limits ----------------------------------------------------------------------------------- */

#define ADDRESS_ROOM 46        /* bytes of an address as text: INET6_ADDRSTRLEN */
#define MAX_ID 64              /* bytes of a user or group id: fits keys, log lines and packets */
#define MAX_READ 65536         /* bytes taken from one socket a turn: the fairness quantum */
#define MAX_ATTEND 512         /* connections served at the end of one turn before events are polled
                                  again */
#define MAX_DELIVER 2048       /* work of small fan-outs a turn: a receiver is one, a message queued
                                  to a connection of his another */
#define MAX_ROUND 8192         /* and of large ones a round, which takes several turns: much, so
                                  that a write finds several messages; 2048 cost a busy group of
                                  1,000 three times the CPU. One of 4 KiB counts twice, and so on:
                                  what waits for a write is about as much as a turn may write */
#define MAX_PATIENT 128        /* the round's other half: connections written to that can wait */
#define MAX_SLICE 512          /* of its messages are queued between two looks at events, */
#define SLICE_US 250           /* or connections written to for so long */
#define DELIVER_DIRECT 32      /* members online up to which a message is delivered in one go */
#define MAX_DEFERRED 1024      /* answers owed to one connection before its input has to wait */
#define MAX_JOINED 1000        /* groups a user can join by himself */
#define MAX_BEGUN 10000        /* conversations a user can begin while the server runs: each is kept
                                  for ever, whether there is anybody at the other end or not */
#define MAX_PRESSED 8192       /* bytes queued to a connection when memory is short, and of input
                                  that waits */
#define MAX_QUEUED 65536       /* bytes queued by one turn's callbacks before they are written: what
                                  is written while it is still in the cache costs half */
#define MAX_HEAD 16384         /* bytes of an HTTP head, request line included */
#define MAX_LINE 8192          /* bytes of one line of it */
#define MAX_CONTROL 125        /* payload of a WebSocket control frame (RFC 6455 section 5.5) */
#define MAX_PKT_HEAD 11        /* bytes before a TCP-IM body, sequence number included: the most */
#define MAX_WS_HEAD 10         /* bytes before a server's WebSocket payload */
#define MAX_IOV 64             /* pieces one writev may take */
#define MAX_GATHER 65536       /* bytes of small pieces copied together for one write: as much as
                                  one is given */
#define POOLS 3                /* sizes of messages whose memory is used again: */
#define MAX_POOLED 16384       /* bytes of the largest, struct msg included */
#define MAX_POOL (512u << 10)  /* bytes kept of each */
#define MAX_RECORD (16u << 20) /* bytes of one log line: above any message or answer */
#define MAX_MESSAGE_ID 128     /* bytes of a message's id */
#define MAX_SCAN 20000         /* records one request for messages may read: bounds the turn */
#define MAX_VAIN 100           /* so many of them that are not in the answer count as a request: who
                                  has a lot read for nothing comes to the end of his rate */
#define MAX_RETRY 131072       /* message ids remembered against retries, oldest forgotten first */
#define RETRY_MS 86400000      /* and for how long: 24 hours */
#define CLOCK_SKEW_MS 300000   /* how far a client's createTime may be off to be believed */
#define MAX_LISTEN 16          /* listening ports */
#define MAX_NAMES 256          /* users or groups that one call of the API may name */
#define MAX_FAN (16u << 20)    /* bytes that one call may make of a message to several: they are
                                  stored in one turn, and wait in memory for the disk */
#define MAX_PAGE 1000          /* users or groups in one answer of the API */
#define MAX_BROADCASTS 16      /* broadcasts on their way at once */
#define MAX_PROFILE 4096       /* bytes of a nick, avatar, sign or extras, as JSON */
#define MAX_FRIENDS (256u << 10) /* bytes of a user's friend groups, as JSON: some 5,000 friends */
#define MAX_GROUPS 1000        /* groups one login may join */

/* --- util.c, hash.c, codec.c, resp.c, loop.c, dial.c: what knows nothing of chat -------------- */

#include "base.h"

/* --- store.c, none.c, segment.c, repair.c: the log and its index, and other stores ------------ */

#include "stores.h"

/* --- conf.c: the option table ----------------------------------------------------------------- */

enum proto { PROTO_NONE, PROTO_TCP, PROTO_WS, PROTO_HTTP, PROTO_OWN, PROTOS };
#define PROTO_BIT(proto) (1u << (proto))

enum auth_mode { AUTH_OPEN, AUTH_FILE, AUTH_TOKEN, AUTH_HOOK, AUTH_EMBED }; /* jim_on_login() */
enum login_policy { LOGIN_MANY, LOGIN_TERMINAL, LOGIN_ONE };
enum group_join { JOIN_OPEN, JOIN_API };

struct port_spec {
    uint16_t port;   /* 0: any free one */
    unsigned protos; /* PROTO_BIT set it is pinned to; 0: all that are served */
    bool tls;        /* plain text is refused */
};

#define OPTIONS_MAX 128  /* keys there may be */
struct option_set {      /* some of them; the zero struct is none */
    uint64_t bits[OPTIONS_MAX / 64]; /* bit i: row i of the table */
};

struct options {           /* one member a key; times in ms, sizes in bytes; strings owned */
    char *bind_ip;         /* empty: every address */
    struct port_spec port[MAX_LISTEN];
    size_t ports;
    int64_t protocols;     /* set of PROTO_BIT */
    int64_t heartbeat;     /* 0: off */
    int64_t auth;          /* enum auth_mode */
    int64_t auth_delay;
    char *users_file, *token_secret, *login_hook;
    int64_t hook_ms;
    int64_t login_required, login_policy, group_open, group_join;
    char *login_groups;    /* id:name,id:name */
    int64_t notify_max, list_max;
    char *api_key, *http_page, *http_cors, *ws_origins;
    int64_t message_max, frame_max, queue_max, fetch_max;
    int64_t rate, burst;   /* requests a second and connection; 0: no limit */
    int64_t connections_max; /* 0: what the descriptor limit leaves */
    int64_t per_ip;        /* connections of one address; 0: no limit */
    char *proxy_protocol, *proxy_forwarded; /* networks; empty: none */
    int64_t memory_max;    /* bytes; 0: no limit */
    char *user, *chroot;   /* empty: none */
    int64_t sandbox;
    int64_t detect_ms, login_ms, http_ms, drain_ms;
    int64_t store;
    char *store_dir;
    int64_t store_sync;    /* enum store_policy or ms */
    int64_t store_segment;
    int64_t keep_days, keep_bytes; /* 0: no limit */
    int64_t ssl, ssl_only;
    char *ssl_cert, *ssl_key, *ssl_ocsp; /* files, one a line */
    char *ssl_client_ca, *ca;
    char *redis_host, *redis_nodes, *redis_sentinel, *redis_auth, *redis_user;
    int64_t cluster, reuseport;
    int64_t redis_port, redis_db, redis_tls, redis_ms, redis_wait;
    int64_t log_level;
    char *log_file;        /* empty: stderr */
    struct option_set set; /* keys that were given */
};

void conf_init(struct options *o); /* every default */
void conf_free(struct options *o);
bool conf_has(const struct option_set *s, const char *key); /* s may be NULL; false: unknown, too */
void conf_note(struct option_set *s, const char *key);      /* put it in; not an unknown one */
/* Set a key. `more`: a list key given before from the same source is added to, not replaced. 0,
 * or -1 with a sentence in err. Ignored J-IM keys are noted in `notices` (one sentence a line). */
int conf_set(struct options *o, const char *key, const char *value, bool more, struct buf *notices,
             char *err, size_t errsize);
/* Read a properties file; keys in `keep` (NULL: none) are checked but left as they are. */
int conf_load(struct options *o, const char *file, const struct option_set *keep,
              struct buf *notices, char *err, size_t errsize);
/* The same from an open file; `file` is its name in sentences. */
int conf_read(struct options *o, FILE *f, const char *file, const struct option_set *keep,
              struct buf *notices, char *err, size_t errsize);
/* What can only be judged with all keys known. 0, or -1 with err. */
int conf_check(const struct options *o, char *err, size_t errsize);
/* Copy the keys that may change while running, except those in `keep`; both stay owners of their
 * own strings. */
void conf_copy_live(struct options *to, const struct options *from, const struct option_set *keep);
void conf_print(FILE *out); /* the table, for -h */
/* The groups joined at login; their default is for open logins only. */
const char *conf_login_groups(const struct options *o);
/* The n-th `id:name` of a login group list; false past the last. */
bool conf_login_group(const char *list, size_t n, struct str *id, struct str *name);

/* --- tls.c, msg.c, lag.c, output.c, conn.c, input.c, proxy.c: connections --------------------- */

#include "conn.h"

/* --- roster.c: users, conversations, memberships ---------------------------------------------- */

/*
 * A user exists from his first login or the first message to him; he is never freed while the
 * server runs, for messages may wait for him.
 */
struct user {
    uint32_t hash;
    uint8_t idlen;
    bool known : 1;         /* has logged in once */
    bool plain : 1;         /* nothing in his id needs an escape in JSON */
    bool announced : 1;     /* that he has come or gone is being told; an entry in chat.announce */
    uint8_t elsewhere : 3;  /* cluster: enum proto of a connection to another node, as was heard
                               last; PROTO_NONE: he has none */
    uint16_t begun;         /* conversations he has begun since the start, as far as they count */
    uint32_t nconns;
    uint32_t joined;        /* groups he is in */
    uint32_t place;         /* known: index in roster->user */
    uint32_t joining;       /* groups he has asked to be in; on their way to the disk */
    struct user *next;      /* the one made before; all of them: roster.made_users */
    uint64_t record;        /* number of his latest REC_USER */
    struct conn *conns;     /* borrowed; linked by next_of_user */
    struct member *members; /* owned; linked by next_of_user */
    struct profile *profile; /* owned; NULL: nick is the id, nothing else */
    uint32_t pins;          /* cluster: what is on its way and speaks of him */
    uint32_t coming;        /* cluster: logins of his that are on their way */
    char id[];
};

struct profile { /* JSON texts as they are printed, quotes included; owned; NULL: absent */
    char *nick, *avatar, *sign, *extras, *friends;
};

/* What two users say to each other, or what is said in a group. */
struct conv {
    uint32_t hash;
    bool group;
    bool gone;              /* a group that was dismissed: only its history is left; in its life 0:
                               one that never was, for it is on its way to the disk or was lost */
    uint32_t nmembers, nonline, cap;
    uint32_t place;         /* a group that is not gone: index in roster->group */
    struct member **member; /* owned array: the online ones first, so that a message costs what it
                               delivers, not what the group has members */
    uint64_t seq;           /* last number handed out */
    uint64_t durable;       /* last number that may be shown */
    uint32_t waves;          /* messages whose fan-out has not ended */
    uint32_t changes;       /* group: of its REC_GROUP, on their way to the disk */
    uint64_t told;          /* while there are any: the last number whose fan-out has */
    struct conv *next;      /* the one made before; all of them: roster.made_convs */
    uint64_t group_record, seq_record; /* numbers of its latest REC_GROUP and REC_SEQ */
    struct store_index index;
    struct far *far;        /* cluster: what waits for earlier messages; owned by cluster.c; NULL */
    uint32_t pins;          /* cluster: what is on its way and speaks of it */
    uint32_t refs;          /* members there are of it, those who have left included */
    char *name;             /* group: owned, NULL: none */
    char *id;               /* group: owned; else NULL */
    uint32_t life;          /* group: times it was dismissed; no earlier membership counts */
    uint32_t keylen;
    char key[];             /* as in the log: g:ID or p:A:B, blanks, '%' and ':' percent-encoded */
};

/*
 * A user's place in a conversation, and how far it has been delivered to him: everything up to
 * cursor, and besides the messages live_lo..live_hi that reached him live while older ones still
 * waited.
 */
struct member {
    uint32_t hash;
    uint32_t place;           /* index in conv->member */
    struct user *user;        /* borrowed */
    struct conv *conv;        /* borrowed */
    struct member *next_of_user;
    struct member *next_dirty; /* cursor not in the log yet */
    uint64_t record; /* number of his latest REC_JOIN; of a pair: of his latest REC_CURSOR */
    uint64_t change; /* of his latest PENDING_CHANGE: he joins or leaves; 0: none is on its way */
    uint64_t cursor;
    uint64_t live_lo, live_hi; /* 0, 0: none */
    uint32_t fanned;          /* large fan-outs up to this number (its low half) pass him by: he has
                                 got them, or they were durable before he came */
    bool dirty;
    bool left;                /* a group he has left; kept, for messages in flight refer to it */
    bool fresh;               /* joined by the login that is being answered */
};

struct roster {
    struct map users, convs, members;
    /* All of them, the newest first, linked by next. None is freed before the roster is: a walk
     * over them may pause. */
    struct user *made_users;
    struct conv *made_convs;
    struct user **sweep_user; /* cluster: where roster_sweep() is in these; NULL: at the start */
    struct conv **sweep_conv;
    struct member *dirty;
    struct user **user;       /* owned array: who is known, those online first, so that a page of
                                 a list costs what it shows */
    size_t nusers, nonline, user_cap; /* known; with a connection */
    struct conv **group;      /* owned array: the groups that are not gone, in no order */
    size_t ngroups, group_cap;
};

void roster_init(struct roster *r);
void roster_free(struct roster *r);
/*
 * Cluster: forget up to `max` users and conversations that nobody here has to do with: no
 * connection, no pin. What is known of them is in Redis. False: the round is over.
 */
bool roster_sweep(struct roster *r, size_t max, void (*gone)(struct conv *v));
bool user_is_online(const struct user *u); /* here or, in a cluster, anywhere */
/* 1–64 bytes of UTF-8 without control characters. */
bool id_ok(struct str id);
#define MAX_CONV_KEY (4 + 2 * 3 * MAX_ID) /* of a conversation: "p:A:B" with every byte escaped */
struct str group_key(struct str id, char dst[MAX_CONV_KEY]); /* as the log names it */
struct str pair_key(struct str a, struct str b, char dst[MAX_CONV_KEY]); /* in whichever order */
/* An id as it stands in keys: ':', '%' and blanks percent-encoded. dst holds 3 * MAX_ID bytes. */
size_t id_escape(char *dst, struct str id);
bool id_unescape(struct str part, char dst[MAX_ID], struct str *id); /* false: it is none */
struct user *user_find(struct roster *r, struct str id);
struct user *user_get(struct roster *r, struct str id); /* made when missing; id_ok() by promise */
struct str user_id(const struct user *u);
void user_know(struct roster *r, struct user *u); /* he has logged in once; may be said again */
struct conv *group_find(struct roster *r, struct str id); /* NULL: also when it is gone */
struct conv *group_find_any(struct roster *r, struct str id); /* or one that was dismissed */
/* Made when missing; one that was dismissed stays so until group_revive(). */
struct conv *group_get(struct roster *r, struct str id);
/* The same, but who makes it has yet to group_revive() it: until then nobody finds it. */
struct conv *group_prepare(struct roster *r, struct str id);
static inline bool
group_dismissed(const struct conv *v)
{
    return v->gone && v->life > 0;
}
/* The group is in its n-th life, from which no earlier membership counts: all its members leave,
 * unless it was in that life already. */
void group_enter_life(struct conv *v, uint32_t life);
void group_bury(struct roster *r, struct conv *v);   /* it is gone, its members have left */
void group_revive(struct roster *r, struct conv *v); /* it is there again, without a member */
/* a == b: notes to oneself. */
struct conv *pair_get(struct roster *r, struct user *a, struct user *b);
struct str conv_key(const struct conv *v); /* as in the log */
struct conv *conv_find_key(struct roster *r, struct str key);
/* By the log's key; made when missing; NULL when the key is none of ours. */
struct conv *conv_get_key(struct roster *r, struct str key);
/* u's place in a group or in the conversation with a peer; NULL when there is none or he has
 * left. */
struct member *member_in_group(struct roster *r, struct user *u, struct str group);
struct member *member_with(struct roster *r, struct user *u, struct str peer);
struct member *member_of(struct roster *r, struct user *u, struct conv *v);
static inline struct member * /* the same of a pair: one of two at most */
member_of_pair(const struct conv *v, const struct user *u)
{
    for (uint32_t i = 0; i < v->nmembers; i++)
        if (v->member[i]->user == u)
            return v->member[i];
    return NULL;
}
/* Is m, or NULL, what member_in_group() or member_with() would find? For who remembers the last. */
bool member_is_in(const struct member *m, const struct user *u, struct str group);
bool member_is_with(const struct member *m, const struct user *u, struct str peer);
/* Join a group: made, or made valid again; its cursor stands at what has been said so far. */
struct member *member_add(struct roster *r, struct user *u, struct conv *v);
void member_leave(struct member *m);
struct user *member_peer(const struct member *m); /* of a pair: the other one (oneself in notes) */
/* Move all of u's memberships to the online or the offline part of their conversations. */
void user_online(struct roster *r, struct user *u, bool online);
/* Message seq has reached the user; those from first to last have; all up to seq have. */
void member_delivered(struct roster *r, struct member *m, uint64_t seq);
void member_delivered_range(struct roster *r, struct member *m, uint64_t first, uint64_t last);
void member_delivered_upto(struct roster *r, struct member *m, uint64_t seq);
/* The next number after `seq` that has not reached him, 0 when all up to conv->durable have. */
uint64_t member_next_missing(const struct member *m, uint64_t seq);

/* --- the chat: what its files share ----------------------------------------------------------- */

/* What an accepted record waits for. */
enum pending_kind {
    PENDING_SEND,  /* a message: delivered and acknowledged when it is on disk */
    PENDING_RETRY, /* a message sent again: only acknowledged */
    PENDING_STATE, /* a user, group or membership: written again should the batch be lost */
    PENDING_CHANGE, /* what somebody asked of a group: takes place when it is on disk, or never */
    PENDING_CALL,  /* a call of the API that asked for such: answered when all of it is on disk */
    PENDING_FAR,   /* cluster: a message that Redis has: delivered; not acknowledged with it */
    PENDING_ACK    /* cluster: its acknowledgement, with `code` */
};
struct pending {
    uint64_t number;   /* record it waits for */
    uint8_t kind;      /* enum pending_kind */
    char type;         /* PENDING_STATE, PENDING_CHANGE: the record's type */
    bool gone;         /* PENDING_CHANGE of REC_GROUP: it is dismissed */
    uint32_t id_at, id_len; /* where in msg->data the message id stands, quotes included */
    uint32_t reply_seq;
    int code;          /* PENDING_CALL, PENDING_ACK: of its answer */
    uint32_t fan_at;   /* which of the fan's messages it is */
    struct fan *fan;   /* send.c: one of several answered together; shared by them; else NULL */
    struct msg *msg;   /* ref: the delivery; a retry: only the text of its id;
                          a change: a group's name, if any; else NULL */
    struct conv *conv; /* a user's state: NULL; a call: the group to answer with, or NULL */
    struct user *from;
    struct user *to;   /* private: the receiver; else NULL */
    struct conn *conn; /* who gets the ack; its `deferred` holds it in memory; a change: NULL: the
                          call that follows it */
    uint64_t seq;      /* a change: the life of the group that it speaks of */
    int64_t create_ms;
};

/* A message on its way to a large group, or one that has to come behind such a one. */
struct wave {
    struct pending p;
    uint32_t left; /* members online that are still to be looked at: the first `left` of them */
};

/* The first of the waves and those behind it that its members are told together, as one piece. */
struct bundle {
    uint32_t n, bytes;         /* how many, and of text; 0: none has begun */
    struct msg *piece[PROTOS]; /* refs; made for the first who speaks that */
};

/* Somebody has come or gone, and many are still to be told. */
struct announce {
    struct user *user;     /* whose `announced` says so */
    struct member *member; /* the next of his groups; NULL: past the last */
    bool online;           /* what they are told */
};

struct retries {
    struct retry *ring;        /* owned; MAX_RETRY places, used in turn */
    struct retry_line *line;   /* finds them; in `memory` */
    void *memory;              /* owned */
    uint64_t key[2], factor[2];
    uint32_t next, count;      /* the place of the next, modulo their number; how many are used */
};

/* Retention under way: a walk over all there is, in steps. */
struct keep {
    struct store_bound bound;  /* what stands before goes; segment 0: no pass under way */
    struct user *user;         /* where the walk is; NULL: past the last */
    struct member *member;
    bool in_members;           /* of `user`: he himself is done */
    struct conv *conv;
    uint64_t wait;             /* record that must be durable before it goes on */
};

/* In which order the members of requests stand; the zero struct knows of none. */
struct order {
    uint8_t after[32]; /* by enum field: place in request.c's table of names; FIELDS: the first */
};

struct chat {
    struct roster roster;
    const struct options *opt; /* borrowed, as are the next five */
    const struct log *log;
    struct stats *stats;
    struct store *store;
    struct auth *auth;         /* NULL when nobody's login is checked */
    struct cluster *cluster;   /* NULL: this is the only node */
    struct msg_pool *msgs;     /* borrowed; NULL: none */
    struct hooks *hooks;       /* borrowed; NULL: none */
    int64_t (*now_ms)(void);   /* time_wall_ms(); tests set their own */
    int64_t burst_ms;          /* its answer for all requests of one read; 0: not asked yet; -1: no
                                  read is being handled */
    struct digits time, seq;   /* of the last message */
    struct order order;        /* of what clients ask */
    struct pending *pending;   /* ring of pending_cap entries in record order; owned */
    uint32_t pending_head, pending_n, pending_cap;
    struct wave *wave;          /* ring of wave_cap entries, in order of delivery; owned */
    uint32_t wave_head, wave_n, wave_cap;
    struct bundle bundle;
    struct announce *announce;  /* ring of announce_cap entries; owned */
    uint32_t announce_head, announce_n, announce_cap;
    uint32_t told;             /* work of comings and goings in this turn, told at once */
    bool more;                 /* durable messages wait for the next turn */
    struct pending *redo;      /* states whose batch was lost, to be written again; owned */
    size_t redo_n, redo_cap;
    struct retries retries;    /* recent message ids */
    uint64_t id_key[2], id_count; /* generator of message ids */
    struct buf out;            /* an answer being written */
    struct buf line;           /* records being written or read */
    struct keep keep;
    bool stopping;             /* sends are refused: 10028 */
};

/* --- request.c: JSON in, JSON out ------------------------------------------------------------- */

enum command { /* commands.md section 0 */
    CMD_UNKNOWN, CMD_HANDSHAKE, CMD_HANDSHAKE_RESP, CMD_AUTH, CMD_AUTH_RESP, CMD_LOGIN,
    CMD_LOGIN_RESP, CMD_JOIN, CMD_JOIN_RESP, CMD_JOIN_NOTIFY, CMD_EXIT_NOTIFY, CMD_CHAT,
    CMD_CHAT_RESP, CMD_HEARTBEAT, CMD_CLOSE, CMD_CANCEL, CMD_CANCEL_RESP, CMD_USER, CMD_USER_RESP,
    CMD_MESSAGES, CMD_MESSAGES_RESP,
    CMD_LEAVE, CMD_LEAVE_RESP, /* from here on jim's own */
    COMMANDS
};

enum code { /* texts: code_text() */
    CODE_SENT = 10000, CODE_OFFLINE, CODE_SEND_FAILED, CODE_USER_OK, CODE_USER_FAILED,
    CODE_ONLINE_USERS, CODE_OFFLINE_USERS, CODE_LOGIN_OK, CODE_LOGIN_FAILED, CODE_AUTH_OK,
    CODE_AUTH_FAILED, CODE_JOIN_OK, CODE_JOIN_FAILED, CODE_VERSION, CODE_UNSUPPORTED,
    CODE_MESSAGES_FAILED, CODE_OFFLINE_MESSAGES, CODE_UNKNOWN_COMMAND, CODE_HISTORY,
    CODE_ONLINE, CODE_INVALID, CODE_CLOSED, CODE_NOT_LOGGED_IN, CODE_RATE, CODE_FORBIDDEN,
    CODE_TOO_LARGE, CODE_ELSEWHERE, CODE_STORE, CODE_STOPPING, CODE_DONE, CODE_NO_GROUP, CODE_END
};
const char *code_text(int code); /* TEXT_SENT; of a code that is none of ours: "refused 被拒绝" */
#define TEXT_SENT "ok 发送成功"

enum field { /* members a request may have; their names: field_names in request.c */
    F_CMD, F_USER_ID, F_PASSWORD, F_TOKEN, F_TO, F_FROM, F_GROUP_ID, F_FROM_USER_ID, F_CHAT_TYPE,
    F_MSG_TYPE, F_CONTENT, F_CREATE_TIME, F_ID, F_EXTRAS, F_TYPE, F_BEGIN_TIME, F_END_TIME,
    F_OFFSET, F_COUNT, F_NAME, F_BEFORE_SEQ, F_AFTER_SEQ, F_LOGIN_NAME, F_USERS, F_FRIENDS,
    F_LIFE, F_DISMISSED, FIELDS
};
struct request {
    struct json f[FIELDS]; /* JSON_NONE: absent or null */
};
/* Parse one JSON object; false when it is not one. Views borrow the text. */
bool request_parse(struct request *r, struct str json);
/* The same of the next of many requests: most have their members in the same order, so that what
 * stands behind one is what stood there the last time. */
bool request_parse_like(struct request *r, struct str json, struct order *order);
enum field request_field(const struct json *name); /* FIELDS: none that a request may have */
/* Is a member's name this one, which is given in lower case, without '_' and '-'? groupId, group_id
 * and GROUP-ID are all "groupid". */
bool name_is(const struct json *key, const char *folded);
/* A member that names a user or group, copied to dst; false when absent or no valid id. */
bool request_id(const struct request *r, enum field f, char dst[MAX_ID], struct str *id);
bool value_id(const struct json *v, char dst[MAX_ID], struct str *id); /* the same of a value */
/* An integer member: 1 and *n, 0 and `missing` when absent, -1 when it is none. */
static inline int
request_int(const struct request *r, enum field f, int64_t missing, int64_t *n)
{
    int got = json_int(&r->f[f], n);

    if (got == 0)
        *n = missing;
    return got;
}

/* Parts of answers; all append to b. */
void put_answer(struct buf *b, int code, int command); /* {"code":…,"command":… ; code 0: none */
void put_msg(struct buf *b, int code);                 /* ,"msg":"…"  not as the first member */
void put_text(struct buf *b, const char *key, struct str text); /* ,"key":"text" */
/* A request's member as a text, left out when absent: what is no string becomes one. */
void put_field(struct buf *b, const char *key, const struct json *v);
void put_as_text(struct buf *b, const struct json *v); /* its value alone */
/* A string that needs no escapes, where there is room for n + 2 bytes; what is behind it. */
static inline char *
put_plain(char *to, const char *p, size_t n)
{
    to[0] = '"';
    if (n <= 32)
        copy_short(to + 1, p, n);
    else
        memcpy(to + 1, p, n);
    to[n + 1] = '"';
    return to + n + 2;
}
const char *proto_name(unsigned proto); /* "tcp", "ws", "http" */
void put_user(struct buf *b, const struct user *u);    /* a flat User, braces included */
/* The same without braces, in two parts: what comes before and after `friends` and `groups`. */
void put_user_front(struct buf *b, const struct user *u);
void put_user_back(struct buf *b, const struct user *u);
void put_user_brief(struct buf *b, const struct user *u, bool online);
void put_profile(struct buf *b, const char *key, const char *json); /* JSON or NULL: left out */

/* An answer to one connection, in c->out: begun, added to by the caller, closed and sent. */
struct buf *answer_begin(struct chat *c, int code, int command);
void answer_send(struct chat *c, struct conn *to, uint8_t command, uint32_t seq);
void answer_code(struct chat *c, struct conn *to, uint8_t command, uint32_t seq, int code);

/* --- profile.c: what is known of a user ------------------------------------------------------- */

/* Is it a User object whose members can be used? NULL, or what is wrong, as part of a sentence. */
const char *profile_check(struct str json);
/* Take over what a checked User object says (nick, avatar, sign, extras, friends); what it does not
 * say stays, what is empty goes. Is anything different now? json may be empty. */
bool profile_set(struct user *u, struct str json);
void profile_put(struct buf *b, const struct user *u); /* all of it, as members of an object */
void profile_free(struct user *u);
/* A walk over a checked User's `groups`: false when there is no list, or at its end; name:
 * JSON_NONE without one. */
bool profile_groups(struct json_iter *it, struct str json);
bool profile_next_group(struct json_iter *it, char id_text[MAX_ID], struct str *id,
                        struct json *name);
/* His friend groups as they are now: of one status (0 online, 1 offline, 2 all); stops when b has
 * `room` bytes. */
void profile_put_friends(struct chat *c, struct buf *b, const struct user *u, int64_t type,
                         size_t room);

/* --- worker.c, users.c, token.c, hook.c, auth.c, admin.c: logins ------------------------------ */

#include "login.h"

/* --- chat.c: what commands mean --------------------------------------------------------------- */

void chat_init(struct chat *c, const struct options *opt, const struct log *log,
               struct stats *stats);
void chat_free(struct chat *c);
/*
 * One command of a socket protocol. cmd: the frame's cmd byte, or -1: the JSON says. Its answer may
 * come later (from->deferred). Returns false, having done nothing, when the command has to wait
 * until earlier ones are answered: answers keep the order of the requests.
 */
bool chat_command(struct chat *c, struct conn *from, int cmd, uint32_t seq, struct str json);
/* The login that a WebSocket address asks for (`?username=&password=&token=`), still
 * percent-encoded. */
void chat_login_query(struct chat *c, struct conn *from, struct str user, struct str password,
                      struct str token);
/* For auth.c. Log a connection in and answer; json: what is known of the user (profile_check()),
 * or empty. */
void chat_welcome(struct chat *c, struct conn *conn, uint32_t seq, struct str id, struct str json);
/* Answer 10008; the caller then calls conn_finish(). later: it is our fault, not his. */
void chat_refuse(struct chat *c, struct conn *conn, uint32_t seq, bool later);
/* Nothing reaches the user on this connection any more. May be said more than once. */
void chat_closed(struct chat *c, struct conn *conn);
/* May the connection make a request now, or were there too many? And: it has made one, or what
 * counts as n. */
bool chat_rate_ok(const struct chat *c, const struct conn *from);
void chat_rate_take(const struct chat *c, struct conn *from, uint32_t n);
/* Close a user's connections but `except`; each is told `code` first, unless that is 0. */
void chat_close_user(struct chat *c, struct user *u, int code, const struct conn *except);
/* The parts of a login, for a cluster's: this connection is u's from now on (true: his first
 * here); the answer. */
bool chat_bind(struct chat *c, struct conn *conn, struct user *u);
void chat_login_answer(struct chat *c, struct conn *conn, uint32_t seq, const struct user *u);
/* jim.login.policy: who of u's connections has to go because one of this kind has come. */
void chat_displace(struct chat *c, struct user *u, const struct conn *conn, unsigned proto);

/* --- group.c: who is in a group, and who is told ---------------------------------------------- */

/* Commands 7 and 21. */
bool group_join(struct chat *c, struct conn *from, uint32_t seq, const struct request *r);
bool group_leave(struct chat *c, struct conn *from, uint32_t seq, const struct request *r);
/* Presence. The user has logged in on `own`, which is told of each group; the others in them are
 * when it is his first connection. His last connection has gone. */
void group_present(struct chat *c, struct user *u, struct conn *own, bool first);
void group_absent(struct chat *c, struct user *u);
/* For jim.c. Tell some of what these left for later. Returns the work: notices, more or less. */
uint32_t group_announce(struct chat *c);
/* At login, before group_present(): into a group that is made if need be, and left alone if it was
 * dismissed. The name counts when it has none yet; may be empty. */
void group_enter(struct chat *c, struct user *u, struct str id, struct str name);
/* For the embedding program: at once, and recorded; without effect when it is so already. */
struct conv *group_create(struct chat *c, struct str id, struct str name);
/* In or out; all his connections are told, and the other members. False: he was so before. */
bool group_add(struct chat *c, struct conv *v, struct user *u);
bool group_remove(struct chat *c, struct conv *v, struct user *u);
/*
 * For the API: recorded, and takes place when that is on disk; should it be lost, nothing has
 * happened. Nothing is written when it is so already, on disk. NULL, false: the store refuses.
 */
struct conv *group_create_later(struct chat *c, struct str id, struct str name);
bool group_add_later(struct chat *c, struct conv *v, struct user *u);
bool group_remove_later(struct chat *c, struct conv *v, struct user *u);
bool group_rename(struct chat *c, struct conv *v, struct str name); /* tells nobody */
bool group_dismiss(struct chat *c, struct conv *v); /* each member is told that he is out */
/* For deliver.c: a PENDING_CHANGE is on disk, or lost. Takes over p->msg, and answers. */
void group_changed(struct chat *c, const struct pending *p);
void group_unchanged(struct chat *c, const struct pending *p);
/* The notices 9 and 10 of a user; a reference for the caller. */
struct msg *group_joined_msg(struct chat *c, struct str group, const struct user *u, bool online);
struct msg *group_left_msg(struct chat *c, struct str group, const struct user *u, bool online);
/* The answers to 7 and 21. */
void group_join_answer(struct chat *c, struct conn *to, uint32_t seq, int code, struct str id);
void group_leave_answer(struct chat *c, struct conn *to, uint32_t seq, int code, struct str id);

/* --- send.c: a message's way to the store ----------------------------------------------------- */

/* Command 11. False: has to wait, see chat_command(). r NULL: it was no JSON object. */
bool send_chat(struct chat *c, struct conn *from, uint32_t seq, const struct request *r);
/*
 * A message through the HTTP API: from anyone, to anyone, or to each of an array. Returns 0 when it
 * is accepted (the answer comes through api_sent(), conn->deferred counts what it waits for; of an
 * array also when all are refused) or the enum code it is refused with.
 */
int send_api(struct chat *c, struct conn *conn, const struct request *r);
/* A message to everybody, as the API makes it: not stored, not numbered. NULL and *code when it is
 * refused. A reference for the caller. */
struct msg *send_to_all(struct chat *c, struct conn *conn, const struct request *r, int *code);
/* Message seq as it was delivered, from the store; a reference for the caller. NULL: *error is what
 * store_read() has returned. */
struct msg *send_stored(struct chat *c, const struct conv *v, uint64_t seq, int *error);
int send_refused(struct chat *c, int code); /* a message was; counts, and returns the code */
void send_fan_result(struct chat *c, const struct pending *p, int code); /* one of p->fan's */
void send_fan_forget(struct fan *f); /* one of them gets no answer; f goes with the last */
/* A message that was sent somewhere else before: `from`, place and times are settled. */
struct sent {
    struct user *from;
    struct conv *conv;
    int64_t chat_type, create_ms;
    int64_t time_ms; /* its record's */
    uint64_t seq;    /* above conv->seq */
    struct str id;
};
/* Store it with what else the request says; nobody is told. Returns the record's number, 0 when it
 * passes MAX_RECORD or the store refuses. */
uint64_t send_import(struct chat *c, const struct request *r, const struct sent *m);

/* --- deliver.c: its way from there ------------------------------------------------------------ */

/* What is durable goes out; or waits for its turn among the fan-outs. Returns the work. */
uint32_t deliver(struct chat *c, const struct pending *p);
/* Each turn: what the store has made durable is delivered and acknowledged, as far as a turn's
 * share of work goes. */
void deliver_committed(struct chat *c);
/* And a slice of the messages to large groups. Returns the work that was. */
uint32_t deliver_waves(struct chat *c);
void deliver_bundle_end(struct chat *c); /* forget what was made for some to go out together */
bool deliver_waits(const struct chat *c); /* is there more of either for the next turn? */
/* Up to which number fan-outs are done with a member: what is above will come to his connections
 * live, so that who has fallen behind must not read it from the store. */
uint64_t deliver_told(const struct member *m);
/* A message handed to conn_send() with a member, or an answer 20, has left for the peer. */
void deliver_written(struct chat *c, const struct msg *m, struct member *member);
/* Answer a call of the API through api_done() once what has been recorded so far is on disk;
 * should it get lost, with CODE_STORE. */
void deliver_after(struct chat *c, struct conn *conn, int code, struct conv *v);
void deliver_forget(const struct pending *p); /* release what it refers to, without an answer */
/*
 * Cluster. A message from Redis, the next of its conversation: deliver it. p->conn: its sender's
 * connection, if it is one of ours. Takes over p->msg.
 */
void deliver_far(struct chat *c, const struct pending *p);
void deliver_answer(struct chat *c, const struct pending *p); /* acknowledge it, with p->code */

/* --- retry.c: message ids seen before --------------------------------------------------------- */

/* What identifies a message of this sender in this conversation. id.n <= MAX_MESSAGE_ID. */
uint64_t retry_print(const struct retries *r, const struct user *from, const struct conv *v,
                     struct str id);
struct retry_hit { /* what its first answer said */
    uint64_t seq;
    int64_t create_ms;
};
void retry_fetch(const struct retries *r, uint64_t print); /* retry_find() will be asked soon */
/* Was it sent before, within RETRY_MS? */
bool retry_find(const struct retries *r, uint64_t print, int64_t now_ms, struct retry_hit *hit);
/* Remember it, and forget who was added MAX_RETRY before it. */
void retry_add(struct retries *r, uint64_t print, struct conv *v, uint64_t seq, int64_t create_ms,
               int64_t now_ms);
/* Forget those of v above `after`, which never got to the disk: sent again, they are new. */
void retry_forget(struct retries *r, const struct conv *v, uint64_t after);
void retry_init(struct retries *r);
void retry_free(struct retries *r);

/* --- query.c: what is asked: users (17) and messages (19) ------------------------------------- */

bool query_user(struct chat *c, struct conn *from, uint32_t seq, const struct request *r);
bool query_messages(struct chat *c, struct conn *from, uint32_t seq, const struct request *r);
/* The same for the API: type 0 or 1, of anybody, no cursor moves. Returns the code; the answer is
 * in c->out when it is CODE_OFFLINE_MESSAGES or CODE_HISTORY. */
int query_api(struct chat *c, int64_t type, const struct request *r);
/* A flat User with friends and groups in it; type: which members of them, as in command 17. */
void put_user_whole(struct chat *c, struct buf *b, const struct user *u, int64_t type);

/* --- record.c: what the chat keeps in the log beside messages --------------------------------- */

void pending_push(struct chat *c, const struct pending *p); /* to the end of the queue: a copy */
uint64_t pending_last(const struct chat *c); /* the record its last entry waits for; 0: none */
/* Write what is so now of a user, a group or a membership, and see that it gets to the disk. */
void record_user(struct chat *c, struct user *u);
void record_group(struct chat *c, struct conv *v);
void record_member(struct chat *c, struct member *m); /* a membership: joined or left */
uint64_t record_cursor(struct chat *c, struct member *m); /* the number, 0: refused for now */
void record_seq(struct chat *c, struct conv *v);
void record_lost(struct chat *c, const struct pending *p); /* its batch is */
/* Write what somebody has asked of a group, as p says (type, conv, from, conn, seq, gone, msg): a
 * PENDING_CHANGE. False: refused, and p->msg is released. */
bool record_change(struct chat *c, struct pending p);
/* Is what a record of that number (0: it was lost) says on disk? */
static inline bool
record_is_safe(const struct chat *c, uint64_t number)
{
    return number != 0 && number <= store_durable(c->store);
}
/* Write up to `max` moved cursors, and states that were lost. Returns the record number of the last
 * cursor, 0 when there was none. */
uint64_t record_save(struct chat *c, size_t max);
bool record_unsaved(const struct chat *c); /* is there something for record_save() to do? */
/* What has become known of a user is taken over and kept, and so is that he is known. Json as for
 * profile_set(). Is anything new? */
bool record_learn(struct chat *c, struct user *u, struct str json);
/* The JSON of a user's and a group's record. */
void record_put_user(struct buf *b, const struct user *u);
void record_put_group(struct buf *b, const struct conv *v);
/* Take over what another log's record says of a group; written when it is news. Returns whether it
 * was. */
bool record_import(struct chat *c, struct conv *v, struct str json);
/* At start, for struct store_options; arg is the chat. */
void record_replay(void *chat, const struct store_rec *rec);
void record_span(void *chat, const struct store_span *span);
void record_recent(void *chat, const struct store_rec *rec);

/* --- keep.c: retention ------------------------------------------------------------------------ */

/* Begin a pass if something is past jim.store.keep.days or jim.store.keep.bytes, and none is under
 * way. True when one is. */
bool keep_begin(struct chat *c);
/* A bounded step of the pass, if one is under way. True: there is more to do at once; false: when
 * the store has news, or nothing. */
bool keep_step(struct chat *c);
void keep_lost(struct chat *c); /* a batch is lost: what the pass has written may be, too */

/* --- bounds.c: addresses and memory ----------------------------------------------------------- */

struct bounds {
    struct map addresses;  /* struct address; owned */
    size_t held;           /* bytes of connections, their input and output, and messages */
    size_t resident, counted; /* what the system said, and what had been counted by then */
    int64_t sampled_ms, trimmed_ms; /* loop clock */
    size_t page;
    int statm;             /* of /proc; -1: none */
    bool full;
};

void bounds_init(struct jim *j);
void bounds_free(struct jim *j);
/* An address as IPv6 has it, IPv4 as ::ffff:a.b.c.d; zeroes: neither. */
void address_bytes(const struct sockaddr_storage *a, unsigned char ip[16]);
bool address_parse(struct str text, unsigned char ip[16]);     /* false: it is none */
/* What counts as one peer: of IPv6 the network of 64 bits, the rest is for its owner to choose. */
void address_network(unsigned char ip[16]);
/* Count a connection from there; *out (NULL: there is no limit) goes to address_leave() with its
 * end. False: it has as many as it may, and *out is NULL. */
bool address_enter(struct jim *j, const unsigned char ip[16], struct address **out);
void address_leave(struct jim *j, struct address *a);
/* The address of whom c is for: what a proxy that is believed says, else the peer's; false when he
 * is gone, or has none. Asked of the kernel: logins are rare, and memory for it would be a
 * connection's for life. */
bool address_peer(const struct conn *c, unsigned char ip[16]);
void address_peer_text(const struct conn *c, char text[ADDRESS_ROOM]); /* empty: he is gone */
bool address_is_loopback(const struct sockaddr_storage *a); /* 127/8, as IPv6, too; or ::1 */
/* Is so much of jim.memory.max used that nothing more should be taken in? Cheap. */
bool memory_full(struct jim *j);
size_t memory_used(struct jim *j); /* bytes, about */
size_t memory_resident(const struct jim *j); /* bytes, as the system says; 0: it does not */
void memory_print(const struct jim *j); /* the worst case the options allow, at debug level */

/* --- notify.c: telling the service manager ---------------------------------------------------- */

/* Connect to $NOTIFY_SOCKET, if there is one and this is the program. Before jail_enter(). */
void notify_open(struct jim *j);
/* Send KEY=value lines (sd_notify(3)); nothing when nobody wants them. Never waits or fails. */
void notify_send(const struct jim *j, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void notify_close(struct jim *j);

/* --- jail.c: giving up rights ----------------------------------------------------------------- */

/* Before anything is opened: look up jim.user, go into jim.chroot. 0, or -1 after logging why. */
int jail_enter(struct jim *j);
/* Once the ports are bound: make the log's directory, become jim.user for good. 0 or -1. */
int jail_drop(struct jim *j);
/* Then, before any thread is started: take away files and system calls that are never needed. */
void jail_close(struct jim *j);

/* --- jim.c: the server as a whole ------------------------------------------------------------- */

struct stats { /* since start; counted where it happens, read by metrics.c */
    uint64_t accepted, closed;
    uint64_t refused;      /* connections closed at once: */
    uint64_t refused_max;  /* of them for jim.connections.max */
    uint64_t refused_ip;   /* for jim.connections.per.ip */
    uint64_t refused_memory; /* for jim.memory.max */
    uint64_t pressed;      /* requests refused and connections closed for jim.memory.max */
    uint64_t open[PROTOS]; /* connections there are now, by what they speak */
    uint64_t drops[DROPS];
    uint64_t logins, login_failures;
    uint64_t http_status[6]; /* HTTP responses by the first digit of their status */
    uint64_t broadcasts;
    uint64_t queued;       /* bytes that wait for sockets now */
    uint64_t proto[PROTOS]; /* connections that were detected as such */
    uint64_t requests;     /* commands and HTTP requests */
    uint64_t messages;     /* chat messages accepted */
    uint64_t delivered;    /* chat messages written to a receiver's connection, whole */
    uint64_t encoded;      /* frames encoded: at most one a message and wire format */
    uint64_t retries;      /* messages recognised as sent before */
    uint64_t refused_sends[32]; /* messages refused, by enum code counted from CODE_SENT */
    uint64_t logins_later; /* that could not be decided */
    uint64_t lags;         /* times a reader fell behind and was sent to the store */
    uint64_t bytes_in, bytes_out;
    uint64_t reads, writes; /* system calls on client sockets */
    uint64_t turns;        /* of the loop: waits for events */
    uint64_t tls, tls_resumed, tls_failed; /* handshakes done, those without a signature, refused */
};

struct listener {
    struct jim *jim;
    int fd;
    unsigned protos;
    bool tls;      /* plain text is refused */
    char name[64]; /* "127.0.0.1:8888" */
};

struct posts;

struct jim {
    struct options opt;
    struct hooks *hooks;       /* owned; NULL: the program has given none */
    struct posts *posts;       /* owned: of jim_post() */
    bool called;               /* something was appended between two turns */
    struct option_set by_hand; /* options set before any file was read: they win over it */
    char *conf_file;           /* owned, NULL: none */
    struct buf notices;        /* of the configuration, logged at start */
    struct log log;
    struct loop *loop;
    struct store *store;
    struct auth *auth;         /* NULL: open */
    struct cluster *cluster;   /* owned; NULL: this is the only node */
    struct chat chat;
    struct stats stats;
    struct tls_server *tls;    /* owned; NULL: off */
    struct listener listen[MAX_LISTEN];
    size_t listeners;
    size_t conns, conns_max;   /* conns_max: what the descriptors allow */
    uint64_t next_id;
    struct conn *attend, **attend_end; /* connections to look at when the callbacks are done */
    size_t fresh;              /* bytes queued since it was attended to */
    struct conn *bulk, **bulk_end; /* those that can wait until the others have had their turn */
    uint32_t share, patience;  /* left of this round of fan-outs: work, and connections of bulk */
    struct bounds bounds;
    const struct store_io *disk; /* NULL: the real one; tests have their own */
    struct out *free_out;      /* spare output queues: no malloc in the steady state */
    struct msg_pool msgs;
    char *input;               /* MAX_READ bytes, shared by all reads of a turn */
    char *gather;              /* MAX_GATHER bytes, shared by all writes */
    struct broadcast *broadcasts; /* on their way, oldest first; owned */
    size_t nbroadcasts;
    struct timer accept_timer; /* listeners are paused until it fires */
    struct timer save_timer;   /* moved cursors go to the log */
    struct timer keep_timer;   /* is something to be dropped from it? */
    uint32_t segments;         /* there were when that was asked last */
    int64_t keep_at;           /* when it may be asked again because there are more, loop clock */
    bool keeping;              /* a pass of retention wants its next turn at once */
    int64_t drain_until;       /* loop clock, while draining */
    bool accept_paused;
    bool room;                 /* a connection has gone since accepting was paused */
    bool draining;
    bool fanning;              /* conn_send() is called for a large fan-out */
    bool program;              /* the process is ours: main.c */
    int notify;                /* owned; the service manager's socket, or -1: notify.c */
    uid_t uid;                 /* who to be once the ports are bound */
    gid_t gid;
    size_t files;              /* open to be streamed: they count as connections do */
    int64_t start_ms;          /* wall clock */
    int64_t started_ms;        /* the same moment by the loop's, which nobody sets back */
    _Atomic int stop, reload; /* set by jim_stop() and jim_reload(); loop_wake() orders them */
};

/* --- broadcast.c: one message to everybody ---------------------------------------------------- */

/* Send m (reference taken) to every connection that is logged in now, some a turn; then answer
 * `conn`, unless it is NULL, through api_sent(); or tell a node of the cluster (empty: none) under
 * which number how many they were. False: too many are on their way. */
bool broadcast_begin(struct jim *j, struct conn *conn, struct msg *m, struct str node,
                     struct str number);
void broadcast_step(struct jim *j); /* each round: a share of it, see jim_fan() */
void broadcast_free(struct jim *j);

/* --- jim.c: the turn of the loop -------------------------------------------------------------- */

/* Does it keep its log on disk, in jim.store.dir? */
bool jim_keeps_log(const struct jim *j);
/* One turn: what jim_run() repeats until this says false. For benchmarks, which count what it
 * costs. */
bool jim_turn(struct jim *j);
/* For conn.c. Attend to the connections in the list, at most MAX_ATTEND; may free any of them. */
void jim_attend_now(struct jim *j);

#include "embed.h"

/* --- http.c, api.c, routes.c, metrics.c: HTTP ------------------------------------------------- */

#include "web.h"

/* --- export.c, import.c, import_redis.c: data carried elsewhere ------------------------------- */

#include "import.h"

/* --- redis.c, redis_map.c, redis_link.c: the link to Redis ------------------------------------ */

#include "redis.h"

/* --- cluster.c, cluster_*.c: one node among others -------------------------------------------- */

#include "cluster.h"

#endif /* JIM_INTERNAL */
#endif /* JIM_H */
