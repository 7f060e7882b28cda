/* SPDX-License-Identifier: MIT */
/*
 * jim_client.h - a client of jim, and of J-IM as far as J-IM goes, in one header.
 *
 * A handle is one user's connection over TCP-IM or WebSocket. It logs in, keeps the connection
 * alive, connects again when it is lost, sends again what was not acknowledged (by the same id, so
 * that nothing is stored twice), and fetches from the server's store what it missed, so that
 * on_message gets each message of a conversation once, in the order of its numbers. With a server
 * that numbers nothing, J-IM, a message is passed on as it comes.
 *
 * Two ways to use it, also mixed:
 *
 *   waiting      jim_client_connect(), jim_client_send_wait(), jim_client_call(), and
 *                jim_client_wait() in a loop to hear what comes
 *   in a loop    poll() for jim_client_events() of jim_client_fd(), at most jim_client_timeout()
 *                milliseconds; then jim_client_step(), whatever happened. All three may be others
 *                after every call of a jim_client function: ask before each poll(). Nothing waits,
 *                but for names: see `resolve_once`.
 *
 * A handle is used from one thread at a time; handles share nothing. Callbacks are called from
 * within step, wait, connect, call and send_wait only, never from the others. A callback may ask,
 * send and close; it must not free its handle, nor call a function that itself calls back.
 *
 * Text is UTF-8. What a callback is handed is borrowed until it returns, and what jim_client_call()
 * and jim_client_send_wait() hand out until the next function of the handle that calls back. When
 * memory is exhausted the program ends, as in the server.
 */
#ifndef JIM_CLIENT_H
#define JIM_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define JIM_API __attribute__((visibility("default")))
#else
#define JIM_API
#endif

struct jim_client;

/* --- what is heard ---------------------------------------------------------------------------- */

enum jim_client_state {
    JIM_CLIENT_CONNECTING, /* to the server, or logging in */
    JIM_CLIENT_READY,      /* logged in; what was missed is being fetched, what waits is sent */
    JIM_CLIENT_WAITING,    /* the connection is lost or could not be made: `why`; tries again */
    JIM_CLIENT_CLOSED,     /* for good: as asked for, displaced by another login (10026), or lost
                              and no_reconnect is set */
    JIM_CLIENT_REFUSED     /* for good: the login was refused (10008) */
};

enum jim_chat_type { JIM_TO_ALL = 0, JIM_TO_GROUP = 1, JIM_TO_USER = 2 };

/* A chat message. Strings are decoded and end with a NUL; NULL: it has none. */
struct jim_message {
    const char *from, *to, *group; /* `to` of a private message, `group` of a group's */
    const char *id;
    const char *content;
    size_t content_n;   /* its bytes: there may be a NUL among them */
    int64_t chat_type;  /* enum jim_chat_type */
    int64_t msg_type;   /* 0 text, 1 image, ... by convention; -1: not said */
    int64_t create_ms;  /* since 1970, UTC; 0: not said */
    uint64_t seq;       /* place in its conversation, from 1; 0: the server does not number */
    bool mine;          /* from this handle's user, at another connection of his */
    bool stored;        /* fetched from the store rather than live */
    const char *json;   /* all of it as it came: the chat object, extras_n bytes of it are extras */
    size_t json_n;
    const char *extras; /* the JSON object; not ended by a NUL; NULL: none */
    size_t extras_n;
};

/* An answer to a request, or that there is none. */
struct jim_result {
    uint64_t request;  /* the number the request got when it was made */
    int code;          /* docs/protocol.md §6; 0: no answer, `text` says why; -1: an answer without
                          one (2, 13) */
    int command;       /* of the answer: 12 for a message, 20 for a history, ...; 0 also for none */
    const char *text;  /* the code's meaning in a few words, or why there is no answer */
    uint64_t seq;      /* of a message: its place in the conversation; 0: not told */
    const char *id;    /* of a message: its id, the server's where it names one; else NULL */
    int64_t create_ms; /* of a message: its time; 0: not told */
    const char *json;  /* the whole answer as it came; NULL: none */
    size_t n;
};
/* Did the request succeed? 10000 and 10001 (stored, receiver offline), 10003, 10005-10007, 10009,
 * 10011, 10016, 10018, 10019, 10021, 10029; and answers without a code. */
JIM_API bool jim_result_ok(const struct jim_result *r);
/* What a code means, in English: "too many requests"; "unknown code" of others. */
JIM_API const char *jim_code_text(int code);

typedef void jim_answer(struct jim_client *c, const struct jim_result *r, void *arg);

/* --- a handle --------------------------------------------------------------------------------- */

/* Zero all of it, then set what you need: zero stands for the default. Strings are copied. */
struct jim_client_options {
    const char *url;      /* tcp://host:port, ws://host:port/path, tcps:// and wss:// with TLS; a
                             bare host:port is tcp. Ports default to 8888. [::1] in brackets */
    const char *user;     /* NULL: whom the token names */
    const char *password, *token;
    const char *ca;       /* a PEM file of whom to trust; NULL: the system's authorities */
    int64_t heartbeat_ms; /* silence, of either side, after which a heartbeat is sent: 30 s. As long
                             again without a byte, or timeout_ms if that is less, and the connection
                             counts as lost. -1: never */
    int64_t timeout_ms;   /* for connecting, and for an answer while connected: 30 s. A message has
                             no such limit: it is sent until it is acknowledged */
    int64_t backoff_min_ms, backoff_max_ms; /* 250 ms and 30 s: after the n-th failure in a row it
                             waits a random time of up to min * 2^n, at most max */
    int64_t rate;         /* requests a second to stay within: 200, as jim.rate.messages; -1: no
                             pace. Beyond the server's it refuses some (10023): they are sent again,
                             but out of their order */
    size_t window;        /* requests on their way at once: 256 */
    size_t queue_max;     /* bytes of requests that wait for an answer or a connection: 4 MiB */
    size_t frame_max;     /* bytes of one frame from the server: 16 MiB; a longer one is an error */
    bool no_reconnect;    /* a lost connection, or one that cannot be made, is the end */
    bool no_login;        /* ready as soon as connected; the program asks for 5 itself, after each
                             reconnect, and for what it has missed */
    bool no_catch_up;     /* fetch nothing: on_message gets what is live, whatever is missing */
    bool resolve_once;    /* names are looked up (which waits for the name server) in
                             jim_client_new() only; else again when all addresses have failed */
    void *arg;            /* handed to the callbacks, each of which may be NULL: */
    void (*on_state)(struct jim_client *c, enum jim_client_state state, const char *why, void *arg);
    /* Every message but those this handle has sent: their answers tell. */
    void (*on_message)(struct jim_client *c, const struct jim_message *m, void *arg);
    /* Every other thing the server says unasked: notices 9 and 10, answers nobody waits for; and
     * the answer 6 to the login. `json` is the whole of it. */
    void (*on_event)(struct jim_client *c, int command, const char *json, size_t n, void *arg);
    /* For looking on: each frame as it is on the wire, masks of WebSocket removed (the bytes are
     * the head and the payload; an HTTP head as a whole), and the JSON inside, NULL if it has
     * none. */
    void (*on_frame)(struct jim_client *c, bool out, const void *bytes, size_t n, const char *json,
                     size_t json_n, void *arg);
};

/* NULL with a sentence in err (errsize bytes, always ended by a NUL): the options are wrong, the
 * host is not known, or it is to be TLS and this was built without. Nothing is sent before the
 * first step. */
JIM_API struct jim_client *jim_client_new(const struct jim_client_options *o, char *err,
                                          size_t errsize);
/* At once: what waits is dropped without its callback. NULL is allowed. */
JIM_API void jim_client_free(struct jim_client *c);
/* Say goodbye: send what is queued, wait for its answers, close. Steps go on until they return -1;
 * what has no answer after timeout_ms is told so. No other request can be made. */
JIM_API void jim_client_close(struct jim_client *c);

JIM_API enum jim_client_state jim_client_state(const struct jim_client *c);
/* The last thing that went wrong, as a sentence; "" when nothing did. Until the next call. */
JIM_API const char *jim_client_error(const struct jim_client *c);
/* Who is logged in: as the options or the server's answer 6 say; NULL: nobody yet. */
JIM_API const char *jim_client_user(const struct jim_client *c);
/* Requests without an answer so far: those that wait to be sent, and those that were. */
JIM_API size_t jim_client_pending(const struct jim_client *c);
/* Why TLS cannot be used: a sentence; NULL: it can. */
JIM_API const char *jim_client_no_tls(void);

/* --- in a loop -------------------------------------------------------------------------------- */

JIM_API int jim_client_fd(const struct jim_client *c); /* -1: none now */
JIM_API short jim_client_events(const struct jim_client *c); /* POLLIN, POLLOUT; 0 without an fd */
/* Milliseconds after which a step is due even if nothing happens; 0: at once; -1: none. */
JIM_API int jim_client_timeout(const struct jim_client *c);
/* Do what can be done without waiting. 0, or -1 when it is closed for good (jim_client_state()). */
JIM_API int jim_client_step(struct jim_client *c);

/* --- waiting ---------------------------------------------------------------------------------- */

/* poll() once for at most timeout_ms (-1: as long as it takes), then step. As jim_client_step(). A
 * signal ends the wait. */
JIM_API int jim_client_wait(struct jim_client *c, int timeout_ms);
/* Wait until it is ready: 0. -1: closed or refused, or not ready in time (it goes on trying when
 * you step); jim_client_error(). */
JIM_API int jim_client_connect(struct jim_client *c, int timeout_ms);
/* Ask and wait for the answer. 0 with *out, whatever its code; -1 with *out (code 0, text): there
 * is none. A message that is not acknowledged in time is no longer waited for, but may have been
 * stored. */
struct jim_send;
JIM_API int jim_client_call(struct jim_client *c, int command, const char *json, size_t n,
                            struct jim_result *out, int timeout_ms);
JIM_API int jim_client_send_wait(struct jim_client *c, const struct jim_send *what,
                                 struct jim_result *out, int timeout_ms);

/* --- requests --------------------------------------------------------------------------------- */

/*
 * Each returns the request's number, above 0, and later calls fn (NULL: nobody asks) once; or 0:
 * it cannot be made (jim_client_error()), fn is not called. They go out in the order they are made,
 * and may be made at any time: they wait for the connection.
 *
 * A message lost with the connection is sent again, with the same id. So are joining, leaving,
 * histories, and requests 7, 13, 17 and 21, which do no harm twice. Any other request that was on
 * its way gets code 0, and so does one above 64 KiB that has gone down with five connections.
 * Refusals that pass (10023, 10027, 10028) of these are not told: they are made again
 * later.
 */
struct jim_send {
    const char *to;        /* a user, */
    const char *group;     /* or a group; one of the two */
    const char *content;   /* NULL: none */
    size_t content_n;      /* 0: up to its NUL */
    int64_t msg_type;      /* 0 text; -1: do not say */
    const char *id;        /* yours, unique, at most 128 bytes; NULL: 32 random hex digits */
    const char *extras;    /* a JSON object; NULL: none */
    int64_t create_ms;     /* your time of it; 0: now; -1: the server's */
};
JIM_API uint64_t jim_client_send(struct jim_client *c, const struct jim_send *what, jim_answer *fn,
                                 void *arg);
/* Any command from 1 to 127 with its JSON object, `cmd` not in it (NULL, 0: none); 5 with no_login
 * only. */
JIM_API uint64_t jim_client_request(struct jim_client *c, int command, const char *json, size_t n,
                                    jim_answer *fn, void *arg);
JIM_API uint64_t jim_client_join(struct jim_client *c, const char *group, const char *name,
                                 jim_answer *fn, void *arg); /* name may be NULL */
JIM_API uint64_t jim_client_leave(struct jim_client *c, const char *group, jim_answer *fn,
                                  void *arg);
/* Users: oneself with friends and groups, or another. type 0 those online, 1 offline, 2 all. */
JIM_API uint64_t jim_client_info(struct jim_client *c, const char *user, int type, jim_answer *fn,
                                 void *arg);

struct jim_history {
    const char *with, *group;       /* one of the two: the conversation */
    uint64_t after_seq, before_seq; /* exclusive; 0: not said. before_seq alone: the newest `count`
                                       before it (UINT64_MAX: of all) */
    int64_t begin_ms, end_ms;       /* createTime within, inclusive; 0: not said */
    int64_t offset, count;          /* 0: not said */
};
/* What was said; on_message does not hear of it. */
JIM_API uint64_t jim_client_history(struct jim_client *c, const struct jim_history *h,
                                    jim_answer *fn, void *arg);
/* What waits on the server for this user, with (user), of (group), or all; for handles with
 * no_catch_up: others fetch it themselves. */
JIM_API uint64_t jim_client_offline(struct jim_client *c, const char *with, const char *group,
                                    jim_answer *fn, void *arg);
/* The messages of an answer 20, in its order, to fn. Returns how many; -1: it is none. *more (may
 * be NULL): there are more to ask for. */
JIM_API int jim_result_messages(struct jim_client *c, const struct jim_result *r, bool *more,
                                void (*fn)(struct jim_client *c, const struct jim_message *m,
                                           void *arg),
                                void *arg);

/* --- where one stands in a conversation, with a user or in a group (the other is NULL) -------- */

/* The number of the last message on_message got, or that was sent; 0: none is known. */
JIM_API uint64_t jim_client_seen(const struct jim_client *c, const char *with, const char *group);
/* All up to seq was seen before: what is behind it is fetched as soon as the handle is ready. To be
 * told before the first step; a program that keeps jim_client_seen() misses nothing. */
JIM_API void jim_client_set_seen(struct jim_client *c, const char *with, const char *group,
                                 uint64_t seq);

#ifdef __cplusplus
}
#endif

#endif /* JIM_CLIENT_H */
