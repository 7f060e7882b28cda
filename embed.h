/* SPDX-License-Identifier: MIT */
/*
 * embed.h - a part of jim.h: what an embedding program has given the server (extend.c, own_proto.c,
 * own_store.c), as the rest of it calls that. struct jim and struct chat have a pointer to struct
 * hooks that is NULL while nothing was given: so what is not used costs one look. Included there,
 * where all it needs is declared.
 */
#ifndef EMBED_H
#define EMBED_H

#define MAX_OWN_PROTOS 8
#define MAX_DETECT 64   /* bytes after which an own protocol has to know its connections */
#define MAX_POSTS 65536 /* functions that wait for the server's thread */
#define MAX_COMMAND 255 /* TCP-IM has a byte for it */
#define FD_BITS 24      /* of a connection's public number: its descriptor */

struct jim_out {
    struct buf b;
    bool written; /* be it nothing */
};

struct own_command {
    void (*fn)(void *arg, struct jim *j, const struct jim_request *r);
    void *arg;
    bool open;
};

struct own_route {
    char *path, *methods; /* owned */
    bool open, prefix;
    jim_http_fn *fn;
    void *arg;
    struct own_route *next;
};

struct own_proto {
    struct jim_protocol p;
    struct msg *last, *encoded; /* refs: the message encoded last, and what came of it (NULL:
                                   nothing) */
};

/* What a connection has of the embedding program; most have nothing. */
struct own {
    void *pointer;
    void (*destroy)(void *pointer);
    struct own_proto *proto;
};

struct post {
    void (*fn)(struct jim *j, void *arg);
    void *arg;
    struct post *next;
};

struct hooks {
    struct jim *jim;
    void (*login)(void *, struct jim *, const struct jim_login *);
    int (*handshake)(void *, struct jim *, const struct jim_handshake *);
    int (*join)(void *, struct jim *, uint64_t, struct jim_text, struct jim_text);
    int (*chat)(void *, struct jim *, const struct jim_chat *, struct jim_out *, struct jim_out *);
    void (*stored)(void *, struct jim *, const struct jim_stored *);
    void (*delivered)(void *, struct jim *, struct jim_text, struct jim_text, uint64_t);
    void (*binding)(void *, struct jim *, const struct jim_binding *);
    void (*opened)(void *, struct jim *, uint64_t);
    void (*closed)(void *, struct jim *, uint64_t, enum jim_why);
    void (*traffic)(void *, struct jim *, uint64_t, enum jim_traffic, int, size_t, int64_t);
    int (*silent)(void *, struct jim *, uint64_t);
    int (*user_info)(void *, struct jim *, uint64_t, struct jim_text, int, struct jim_out *);
    jim_http_fn *http;
    void (*http_done)(void *, struct jim *, uint64_t, int, uint64_t);
    void *login_arg, *handshake_arg, *join_arg, *chat_arg, *stored_arg, *delivered_arg,
        *binding_arg, *opened_arg, *closed_arg, *traffic_arg, *silent_arg, *user_info_arg,
        *http_arg, *http_done_arg;
    struct own_command command[MAX_COMMAND + 1];
    struct own_route *route; /* owned */
    struct own_proto proto[MAX_OWN_PROTOS];
    size_t protos;
    struct jim_store store;
    bool has_store;
    /* Scratch of a call: */
    struct request request;           /* a chat whose content or extras were changed, */
    struct buf changes;               /* and what to; used before another hook is called */
    struct jim_out decoded;
    struct jim_text command_json;     /* of the command on its way */
    int command_number;
};

/* --- extend.c: calling what was given --------------------------------------------------------- */

/* Each returns at once when there is no such function; the callers ask for NULL before. */
uint64_t conn_public_id(const struct conn *c);
struct conn *conn_by_id(const struct jim *j, uint64_t id); /* NULL: gone */
bool extend_handshake(struct conn *c, const struct http_req *r); /* r NULL: command 1 */
int extend_join(struct conn *c, struct str group); /* 0 or a code */
/* 0 or a code; *r is another request when the message was changed. */
int extend_chat(struct hooks *h, struct jim_chat *chat, const struct request **r);
void extend_stored(struct chat *c, const struct pending *p);
void extend_delivered(struct chat *c, const struct member *m, uint64_t seq);
void extend_binding(struct hooks *h, enum jim_bound what, const struct conn *conn,
                    const struct user *u, const struct conv *v, bool edge, bool member);
/* All groups of a user whose connection has come or gone. */
void extend_groups(struct hooks *h, enum jim_bound what, const struct conn *conn,
                   const struct user *u, bool edge);
void extend_opened(struct conn *c);
void extend_closed(struct conn *c); /* once, if extend_opened() was */
void extend_traffic(struct conn *c, enum jim_traffic what, int command, size_t bytes, int64_t us);
bool extend_silent(struct conn *c); /* is it kept? */
/* Has the provider answered command 17? */
bool extend_user_info(struct chat *c, struct conn *from, uint32_t seq, const struct request *r);
/* Is there a command of this number? Then extend_command() is to run it, with this JSON. */
struct own_command *extend_command_find(struct hooks *h, int number, struct str json);
bool extend_command(struct chat *c, struct conn *from, uint32_t seq, const struct request *r);
bool extend_http(struct conn *c, const struct http_req *r, struct str body);  /* answered? */
bool extend_route(struct conn *c, const struct http_req *r, struct str body); /* a route's? */
void extend_http_done(struct conn *c, int status, uint64_t length);
void extend_free(struct hooks *h); /* NULL is allowed */
struct hooks *extend_get(struct jim *j); /* j's, made when there are none */
struct own *own_get(struct conn *c); /* made when there is none */
void own_free(struct conn *c); /* the connection's memory is given back */

/* --- own_proto.c: own wire protocols ---------------------------------------------------------- */

enum own_detect { OWN_NONE, OWN_FOUND, OWN_MORE };
enum own_detect own_detect(struct conn *c, const char *p, size_t n);
/* One command at most. Returns the bytes used, 0: more are needed. */
size_t own_input(struct conn *c, const char *p, size_t n,
                 void (*command)(struct conn *c, int cmd, uint32_t seq, struct str json));
/* m as c's protocol writes it: borrowed until the next call; NULL: it writes nothing. */
struct msg *own_encode(struct conn *c, struct msg *m);

void own_forget(struct own_proto *own); /* what it remembers of the message encoded last */

/* --- own_store.c: a store of the embedding program's ------------------------------------------ */

/* As store_open(): NULL, after logging why. */
struct store *own_store_open(struct hooks *h, const struct store_options *o);

/* --- embed.c: what an embedding program calls ------------------------------------------------- */

void embed_init(struct jim *j);
void embed_posted(struct jim *j); /* each turn: run what jim_post() has brought */
void embed_free(struct jim *j);   /* the same at the end */

#endif /* EMBED_H */
