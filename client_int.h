/* SPDX-License-Identifier: MIT */
/*
 * client_int.h - what the files of the client library share; programs include jim_client.h alone.
 * In reading order: messages, the link (one connection), asks (requests and their answers), the
 * conversations and what is missing in them, and the handle that holds it all.
 */
#ifndef CLIENT_INT_H
#define CLIENT_INT_H

#include "jim_client.h"

#include <sys/socket.h>

/* --- client_msg.c: the server's JSON ---------------------------------------------------------- */

/* Is this the member's name, as the server writes it? */
bool client_key_is(const struct json *key, const char *name);
/* Make *m of a chat object; its strings are put into *text, in the place of what was there. -1: it
 * is none. */
int client_message(const struct json *chat, struct buf *text, struct jim_message *m);
/* What a frame's JSON says at its top: views of it, JSON_NONE where it says nothing. */
struct answer {
    int64_t code, command; /* -1: none */
    struct json data, user, group, msg;
};
/* The member of that name in an object; JSON_NONE without one. -1: it is no object. */
int client_member(const char *json, size_t n, const char *name, struct json *out);
/* -1: it is not an object. */
int client_answer(const char *json, size_t n, struct answer *a);

/* --- client_link.c: one connection ------------------------------------------------------------ */

#define LINK_READ 65536 /* bytes one read() may bring; they are on the stack. >= TLS_MIN_READ */

enum link_state {
    LINK_NONE,    /* no socket */
    LINK_CONNECT, /* waits for the connection */
    LINK_TLS,     /* and for TLS */
    LINK_UPGRADE, /* and to become a WebSocket */
    LINK_OPEN
};

struct link_addr {
    struct sockaddr_storage sa;
    socklen_t len;
};

struct link {
    char *host, *port, *target; /* owned; target: of the upgrade; NULL: TCP-IM */
    char *authority;            /* owned: the Host of the upgrade */
    struct link_addr *addr;     /* owned */
    size_t addrs, at;           /* at: the one that is tried */
    bool numeric;               /* the host is an address: nothing to look up */
    struct tls_client *trust;   /* owned; NULL: plain text */
    struct tls *tls;            /* owned */
    int fd;                     /* -1: none */
    enum link_state state;
    struct buf in;              /* a frame's beginning; empty between frames */
    struct buf out;             /* what the socket has not taken yet, */
    size_t sent;                /* from here on */
    struct buf message;         /* WebSocket: fragments of a message */
    struct ws ws;
    size_t scan;                /* of an upgrade's head: looked at so far */
    char key[24];               /* Sec-WebSocket-Key */
    uint8_t mask[64];           /* random bytes for masks */
    size_t masks;               /* bytes of it not used yet */
    bool over;                  /* the peer has said that nothing more will come */
    bool alive;                 /* something has come; who looks at it takes it back */
    size_t frame_max;
    char why[200];              /* the last thing that went wrong */
    void *arg;                  /* of the two: */
    /* A frame has come: command (-1: look into the JSON), sequence number or 0. False: stop here,
     * the link has been closed. */
    bool (*heard)(void *arg, int command, uint32_t seq, const char *json, size_t n);
    /* NULL: nobody looks on. */
    void (*seen)(void *arg, bool out, const void *bytes, size_t n, const char *json, size_t json_n);
};

/* Take a url apart and look its host up (waits). 0, or -1 with err. */
int link_init(struct link *l, const char *url, const char *ca, char *err, size_t errsize);
int link_resolve(struct link *l, char *err, size_t errsize); /* look it up again */
void link_free(struct link *l);
void link_close(struct link *l); /* at once */
/* Begin to connect to addr[at]. False: why. */
bool link_connect(struct link *l);
/* Go on: connect, read, hand out frames. False: it has failed, or is over: why. */
bool link_read(struct link *l);
/* Write what is there. False: why. */
bool link_write(struct link *l);
/* Put a command with its JSON object ("" for none) into the output; seq 0: unnumbered. */
void link_put(struct link *l, int command, uint32_t seq, const char *json, size_t n);
void link_bye(struct link *l, int code); /* WebSocket: a CLOSE frame into the output */
short link_events(const struct link *l); /* POLLIN, POLLOUT */
static inline size_t
link_waiting(const struct link *l) /* bytes not taken by the socket yet */
{
    return l->out.len - l->sent;
}

/* --- client_ask.c: requests and their answers ------------------------------------------------- */

enum ask_kind {
    ASK_USER,    /* the program's */
    ASK_MESSAGE, /* a message of the program's */
    ASK_LOGIN, ASK_PROBE, ASK_PING, ASK_BYE, /* the handle's own: */
    ASK_STAND, ASK_OFFLINE, ASK_FILL         /* see client_sync.c */
};

struct client_conv;
struct ask {
    struct ask *next;
    uint64_t number;      /* the program's; 0: the handle's own, before all of the program's */
    jim_answer *fn;       /* NULL: nobody asks */
    void *arg;
    struct client_conv *conv; /* ASK_FILL; else NULL */
    int64_t until_ms;     /* answered by then, or never; 0: no limit */
    uint32_t seq;         /* number on the wire; 0: none */
    uint32_t n;           /* bytes of json */
    uint16_t id_n, to_n;  /* ASK_MESSAGE: its id and receiver stand behind the json, with NULs */
    uint8_t kind, command;
    uint8_t tries;        /* times it was on its way when a connection was lost */
    bool group;           /* the receiver is one */
    bool again;           /* does no harm twice */
    bool begun;           /* has been sent once: the server may have it */
    bool dropped;         /* no longer waited for: not to be made again */
    char json[];
};
struct asks { /* a list */
    struct ask *first, *last;
};

/* Queue a request; NULL with the handle's error. json may be NULL. */
struct ask *ask_new(struct jim_client *c, enum ask_kind kind, int command, const char *json,
                    size_t n);
/* Send one of the handle's own at once. */
struct ask *ask_say_now(struct jim_client *c, enum ask_kind kind, int command, struct str json,
                        bool numbered);
/* The link is open: send what may be sent now. */
void ask_pump(struct jim_client *c);
/* Could ask_pump() do something? When, in ms from now: 0 now, -1 not by itself. */
int64_t ask_due(const struct jim_client *c);
/* An answer: whose is it? False: nobody's. */
bool ask_answered(struct jim_client *c, uint32_t seq, const struct answer *a, const char *json,
                  size_t n);
/* A J-IM has let this user into the group: was that asked for? */
bool ask_joined(struct jim_client *c, const struct json *group);
void ask_expire(struct jim_client *c);  /* those that have waited long enough */
int64_t ask_until(const struct jim_client *c); /* when the first one will have; 0: none */
void ask_lost(struct jim_client *c);    /* the connection is: what is repeatable waits again */
void ask_fail_all(struct jim_client *c, const char *why); /* tell them all */
void ask_free_all(struct jim_client *c);
/* Forget who asked (the wait is over). */
void ask_drop(struct jim_client *c, uint64_t number);
/* A message of this handle that the server may have, but has not answered? */
bool ask_has_id(const struct jim_client *c, const char *id);

/* --- client_sync.c: conversations, and what is missing in them -------------------------------- */

struct client_held { /* a message that came before its turn */
    struct client_held *next;
    uint64_t seq;
    bool own;    /* only a place: this handle has sent it, nobody is told */
    bool stored;
    size_t n;
    char json[];
};
struct client_conv {
    uint32_t hash;
    bool group;
    bool known;     /* `last` says where one stands */
    bool filling;   /* an ASK_FILL is under way */
    uint64_t last;  /* number of the last message that was told, or sent */
    uint64_t high;  /* the highest the server is known to have */
    uint64_t began; /* `last` when the fill began: is there progress? */
    uint32_t round; /* the login after which the server listed it */
    struct client_held *held; /* by number; owned */
    size_t idn;
    char id[];      /* ends with a NUL */
};
struct sync {
    struct map convs;   /* owned items; no slots before the first */
    size_t held;        /* bytes of all that is held */
    bool based;         /* where one stood at the beginning is known: what is new begins at 1 */
    bool catching;      /* since the login: numbers unknown so far may be told wrong */
    bool no_store;      /* the server keeps nothing to fetch */
    size_t stands;      /* conversations listed so far: where the next page begins */
    uint32_t round;     /* logins */
};

void sync_begin(struct jim_client *c); /* logged in: fetch what was missed */
void sync_lost(struct jim_client *c);
void sync_free(struct jim_client *c);
/* A chat came live. */
void sync_live(struct jim_client *c, const struct json *chat);
/* A message of this handle is in the conversation now, as number seq. */
void sync_own(struct jim_client *c, bool group, const char *id, size_t n, uint64_t seq);
/* The answer to ASK_STAND, ASK_OFFLINE or ASK_FILL; json NULL: there is none. */
void sync_answer(struct jim_client *c, struct ask *k, const struct answer *a);

/* --- client.c: the handle --------------------------------------------------------------------- */

struct jim_client {
    struct link link;
    struct jim_client_options opt; /* strings owned */
    char *user;               /* owned; NULL: nobody yet */
    enum jim_client_state state;
    bool inside;              /* in a function that calls back */
    bool closing;             /* jim_client_close() was called, or is about to be the end */
    bool over;                /* closed for good */
    bool greeted;             /* the link is open and has been greeted */
    bool numbered;            /* the server echoes sequence numbers: it is no J-IM */
    bool bye;                 /* 14 has been queued */
    bool lost;                /* the link is to be given up: link.why */
    bool unresolved;          /* look the host up again before connecting */
    int64_t close_ms;         /* when closing ends, whatever is unanswered */
    int64_t now_ms;           /* of this step; monotonic */
    int64_t since_ms;         /* the connection was begun, or has been ready */
    int64_t heard_ms, said_ms; /* bytes last came, a request last went */
    int64_t ping_ms;          /* when an unanswered 13 was sent; 0: none */
    int64_t retry_ms;         /* when to connect again */
    unsigned failures;        /* in a row */
    size_t tried;             /* addresses tried in this round */
    struct asks flight;       /* on their way, as they were sent */
    struct asks wait;         /* to be sent, by number */
    size_t nflight, nasks;
    size_t queued;            /* bytes of all asks of the program's */
    uint64_t number;          /* of the last request */
    uint32_t seq;             /* the last on the wire */
    int64_t hold_ms;          /* not to send before, for the server has refused for now; 0: send */
    unsigned holds;           /* in a row */
    int64_t pace_at;          /* when the allowance was counted, and what it is, */
    int64_t pace;             /* in thousandths of a request */
    struct sync sync;
    struct buf text;          /* strings of the message that is being told */
    struct buf kept;          /* what a waiting function hands out */
    char error[256];
};

void client_error(struct jim_client *c, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* The link is to be given up when the callbacks are done. */
void client_lose(struct jim_client *c, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void client_user(struct jim_client *c, const struct answer *a); /* it says who is logged in */
void client_logged_in(struct jim_client *c, const struct answer *a, const char *json, size_t n);
void client_end(struct jim_client *c, enum jim_client_state state, const char *why);
bool client_is_me(const struct jim_client *c, const char *user);

#endif /* CLIENT_INT_H */
