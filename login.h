/* SPDX-License-Identifier: MIT */
/*
 * login.h - a part of jim.h: how logins are checked, by file in reading order. Included there,
 * where all it needs is declared.
 */
#ifndef LOGIN_H
#define LOGIN_H

#define MAX_PASSWORD 1024      /* bytes of a password */
#define MAX_TOKEN 8192         /* bytes of a login token: what a WebSocket address can hold */
#define MIN_SECRET 32          /* bytes of jim.token.secret: RFC 7518 section 3.2 */
#define MAX_WORKERS 4          /* threads that check passwords */
#define MAX_TASKS 4096         /* logins that wait for them: a few minutes' worth */

/* --- worker.c: threads for what would stop the loop ------------------------------------------- */

struct task { /* embed it in your struct; yours again when done() is called */
    struct task *next;
    void (*run)(struct task *t);  /* in a thread */
    void (*done)(struct task *t); /* in the loop's; may free it */
    bool ran;                     /* false in done(): workers_free() came first */
};
struct workers;
/* `ready` is called from a thread when workers_poll() has something to do. NULL: no threads. */
struct workers *workers_new(size_t threads, size_t max, void (*ready)(void *arg), void *arg);
/* first: before all others, and however many these are. False: `max` are waiting already. */
bool workers_add(struct workers *w, struct task *t, bool first);
void workers_poll(struct workers *w); /* each turn: done() for what has been run */
/* Wait for what is running; every task gets its done(). NULL is allowed. */
void workers_free(struct workers *w);

/* --- users.c: the users file ------------------------------------------------------------------ */

#define PASSWORD_ROUNDS 200000 /* of a new password: see users.c */
#define MAX_ROUNDS 2000000     /* about a second: one entry must not keep a thread busy for long */

struct verifier { /* what proves a password: pbkdf2-sha256$ROUNDS$SALT$HASH in the file */
    uint32_t rounds;
    uint8_t salt_len, salt[64];
    uint8_t hash[32];
};
void verifier_make(struct verifier *v, struct str password, uint32_t rounds);
bool verifier_is(const struct verifier *v, struct str password); /* slow, as it should be */
bool verifier_parse(struct verifier *v, struct str text); /* false: it is none */
void verifier_put(struct buf *b, const struct verifier *v); /* appended as text */

struct users;
/* Read the whole file; from any thread. NULL with a sentence that names file and line in err. */
struct users *users_load(const char *file, char *err, size_t errsize);
void users_free(struct users *u); /* NULL is allowed */
size_t users_count(const struct users *u);
/* False when he is not in it; json: what else the file says, a checked User object, borrowed. */
bool users_find(const struct users *u, struct str id, struct verifier *v, struct str *json);
/* For a name that is not in it: the verifier of some user, always the same for a name. Checking a
 * password against it takes as long as if the name were there. */
void users_decoy(const struct users *u, struct str id, struct verifier *v);
/* Whose line of a users file is it? False: nobody's (blank, a comment, or wrong). */
bool users_line(struct str line, char id_text[MAX_ID], struct str *id);

/* --- token.c: login tokens -------------------------------------------------------------------- */

/*
 * A JWT (RFC 7519) signed with HMAC-SHA-256, and nothing else: an `alg` other than HS256, `crit`, a
 * member given twice, padding or a wrong signature refuse it, and so do a missing or past `exp` and
 * a future `nbf`. NULL: it is good; claims has its payload, a checked User object, and id (in
 * id_text) is its `sub`. Else what is wrong with it, for the log.
 */
const char *token_check(struct str token, struct str secret, int64_t now_s, struct buf *claims,
                        char id_text[MAX_ID], struct str *id);
void token_make(struct buf *out, struct str secret, struct str claims); /* appended */

/* --- hook.c: asking a web service whether a login is right ------------------------------------ */

struct http_reply { /* the head of an HTTP/1.x response */
    int status;
    bool chunked, keep_alive;
    bool sized;      /* Content-Length is given; else, unless chunked, the body ends with the
                        connection */
    uint64_t length;
};
/* Returns the bytes of the head, 0 when it is not complete, -1 when it is none (RFC 9112) or has
 * more than MAX_HEAD bytes. */
ptrdiff_t hook_head(const char *p, size_t n, struct http_reply *r);

struct hook_url {
    struct str host, port, path; /* borrowed from the text; path with query */
    struct str authority;        /* for the Host field */
    bool tls;                    /* https */
};
/* NULL, or what is wrong with it. */
const char *hook_url(const char *text, struct hook_url *u);

struct hook;
struct hook_call { /* one question; yours again when done() is called; zeroed before */
    struct timer timer;
    struct hook_call *next;
    struct hook *hook;
    struct hook_link *link; /* its connection; borrowed; NULL: it waits for one */
    struct buf request;
    unsigned tries;         /* connections that were lost without an answer */
    /* status 0: no answer that can be understood, or none in time. body: until it returns. */
    void (*done)(struct hook_call *call, int status, struct str body);
};
/* Resolves the address, which may take its time: at start only. NULL, after logging why, when there
 * is no TLS or jim.ca cannot be read. */
struct hook *hook_new(struct loop *l, const struct options *o, const struct log *log,
                      struct workers *w);
void hook_free(struct hook *h); /* no call may be left; NULL is allowed */
/* POST JSON. False: too many wait, done() is not called. */
bool hook_post(struct hook *h, struct hook_call *call, struct str json);
void hook_cancel(struct hook_call *call); /* done() is not called any more */
void hook_resolve(struct hook *h); /* look the name up again, in a thread */
void hook_reload(struct hook *h);  /* and read jim.ca again, for connections from then on */

/* --- auth.c: who may log in ------------------------------------------------------------------- */

struct auth;
/* Can jim.auth work with what else is configured? 0, or -1 with err. */
int auth_check(const struct options *o, char *err, size_t errsize);
/* For j's options. NULL, after logging why, when the users file cannot be read. */
struct auth *auth_new(struct jim *j);
void auth_free(struct auth *a); /* what is undecided is not answered any more; NULL is allowed */
/*
 * Log in who is not simply believed (jim.auth other than open). The answer comes in this call or
 * later, through chat_welcome() or chat_refuse(); until then conn->deferred counts it, and
 * conn->login holds back every other command.
 */
void auth_login(struct auth *a, struct conn *conn, uint32_t seq, const struct request *r);
/* The same for a WebSocket address; all still percent-encoded, empty when not given. */
void auth_login_query(struct auth *a, struct conn *conn, struct str user, struct str password,
                      struct str token);
void auth_gone(struct conn *conn); /* whose login is not decided yet: nobody waits for that */
/* For jim_login_answer(): 0, or -1 when there is no such login or no user in the JSON. */
int auth_answer(struct auth *a, uint64_t ticket, enum jim_verdict verdict, struct str json);
void auth_poll(struct auth *a);   /* each turn: what threads have found out */
/* Read the users file again, resolve the hook's address and read whom it may trust. */
void auth_reload(struct auth *a);
void auth_drain(struct auth *a);  /* the server stops: refusals are not held back any more */

/* --- admin.c: the subcommands that make secrets ----------------------------------------------- */

/* argv[0] is the subcommand. Return an exit code. */
int admin_passwd(int argc, char **argv);
int admin_token(int argc, char **argv);

#endif /* LOGIN_H */
