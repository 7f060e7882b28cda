/* SPDX-License-Identifier: MIT */
/*
 * import_redis.c - `jim import --jim-redis`: what J-IM keeps in Redis, into a store. Redis is only
 * read: AUTH, SCAN, GET, LRANGE and ZRANGE are all that is ever sent. What a key means is known by
 * its name; but who is meant is taken from the messages themselves, for J-IM joins ids with '-' and
 * ':', which ids may hold.
 *
 *   store:user:A-B, store:group:G          sorted sets: messages by createTime
 *   push:user:RECEIVER:SENDER,
 *   push:group:G:MEMBER                    sorted sets: what is waiting for somebody
 *   user:U:info, group:G:info              strings: a User, a Group
 *   user:U:group, group:G:user             lists: memberships
 *
 * All histories come first, then what is waiting, then memberships and cursors, which need both.
 * One blocking connection; a key or a page is asked for while the answers to others are on their
 * way. Nothing is held in memory but a page's largest value.
 *
 *   the connection, pages, keys, the walk
 */
#include "jim.h"

#include <errno.h>
#include <inttypes.h>
#include <netdb.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECT_MS 10000
#define ANSWER_MS 60000 /* the longest silence while something is owed */
#define PAGE 512        /* messages or members asked for at once */
#define WINDOW 16       /* keys asked for at once */
#define MAX_NAME 1024   /* bytes of a key that can be one of J-IM's */

struct source {
    int fd;
    struct buf in, out, value; /* value: an element that is kept while the next is read */
    size_t used, scan;         /* of `in`: consumed; looked at */
    char err[256];             /* why it cannot go on; empty: it can */
};

/* --- the connection --------------------------------------------------------------------------- */

static bool
source_fail(struct source *r, const char *what, const char *why)
{
    if (r->err[0] == '\0')
        snprintf(r->err, sizeof r->err, "redis: %s%s%s", what, why[0] != '\0' ? ": " : "", why);
    return false;
}

static bool
source_wait(struct source *r, short events, int ms)
{
    struct pollfd p = {.fd = r->fd, .events = events};
    int64_t until = time_mono_ms() + ms;
    int n;

    while ((n = poll(&p, 1, ms)) < 0 && errno == EINTR) {
        int64_t left = until - time_mono_ms();
        ms = left > 0 ? (int)left : 0;
    }
    if (n < 0)
        return source_fail(r, "waiting", strerror(errno));
    return n > 0 || source_fail(r, "no answer in time", "");
}

static bool
source_flush(struct source *r)
{
    while (r->out.len > 0) {
        ssize_t put = send(r->fd, r->out.p, r->out.len, 0);
        if (put > 0)
            buf_drop(&r->out, (size_t)put);
        else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            if (!source_wait(r, POLLOUT, ANSWER_MS))
                return false;
        } else if (errno != EINTR)
            return source_fail(r, "cannot write", strerror(errno));
    }
    return true;
}

static bool
source_fill(struct source *r)
{
    ssize_t got;

    if (!source_flush(r))
        return false;
    buf_drop(&r->in, r->used);
    r->used = 0;
    buf_reserve(&r->in, MAX_READ);
    while ((got = recv(r->fd, r->in.p + r->in.len, MAX_READ, 0)) < 0) {
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN && errno != EWOULDBLOCK)
            return source_fail(r, "cannot read", strerror(errno));
        if (!source_wait(r, POLLIN, ANSWER_MS))
            return false;
    }
    if (got == 0)
        return source_fail(r, "the connection ended", "");
    r->in.len += (size_t)got;
    return true;
}

/* Throw away n bytes and CR LF. */
static bool
source_skip(struct source *r, int64_t n)
{
    uint64_t left = (uint64_t)n + 2;

    while (left > 0) {
        size_t have = r->in.len - r->used;
        if (have == 0) {
            if (!source_fill(r))
                return false;
            continue;
        }
        if (have > left)
            have = (size_t)left;
        r->used += have;
        left -= have;
    }
    return true;
}

/* The next element. Its text lives until the next call. */
static bool
source_next(struct source *r, struct resp *out)
{
    ptrdiff_t used;

    while ((used = resp_decode(r->in.p + r->used, r->in.len - r->used, &r->scan, MAX_RECORD,
                               out)) == 0)
        if (!source_fill(r))
            return false;
    if (used < 0)
        return source_fail(r, "what answers does not speak its protocol", "");
    r->used += (size_t)used;
    return out->type != RESP_LARGE || source_skip(r, out->n);
}

static void
source_ask(struct source *r, const struct str *arg, size_t n)
{
    resp_command(&r->out, arg, n);
}

static bool
connect_to(struct source *r, const struct dial_addr *a)
{
    int err;

    r->fd = dial(a);
    if (r->fd < 0)
        return source_fail(r, "cannot connect", strerror(errno));
    if (!source_wait(r, POLLOUT, CONNECT_MS))
        return false;
    err = dial_error(r->fd);
    return err == 0 || source_fail(r, "cannot connect", strerror(err));
}

/* A command whose answer is "OK" or "PONG", or an error that is told. */
static bool
source_expect(struct source *r, const struct str *arg, size_t n)
{
    char why[200];
    struct resp answer;

    source_ask(r, arg, n);
    if (!source_next(r, &answer))
        return false;
    if (answer.type == RESP_STATUS)
        return true;
    snprintf(why, sizeof why, "%.*s", (int)answer.text.n, answer.text.n > 0 ? answer.text.p : "");
    return source_fail(r, "refused", why);
}

static bool
source_login(struct source *r)
{
    const char *password = getenv("JIM_REDIS_AUTH"), *user = getenv("JIM_REDIS_USER");
    struct str arg[3] = {STR("AUTH")};
    size_t n = 1;

    if (password != NULL && password[0] != '\0') {
        if (user != NULL && user[0] != '\0')
            arg[n++] = str_of(user);
        arg[n++] = str_of(password);
        if (!source_expect(r, arg, n))
            return false;
    }
    arg[0] = STR("PING"); /* says NOAUTH when a password is missing */
    return source_expect(r, arg, 1);
}

static bool
source_open(struct source *r, const char *address)
{
    struct dial_addrs found;
    struct str host, port;

    *r = (struct source){.fd = -1};
    if (!dial_split(str_of(address), STR("6379"), &host, &port))
        return source_fail(r, "no address", address);
    int err = dial_look_up(host, port, false, &found);
    if (err != 0)
        return source_fail(r, address, gai_strerror(err));
    for (size_t i = 0; i < found.n; i++) {
        r->err[0] = '\0';
        if (connect_to(r, &found.a[i]))
            return source_login(r);
        if (r->fd >= 0)
            close(r->fd);
        r->fd = -1;
    }
    return false;
}

static void
source_close(struct source *r)
{
    if (r->fd >= 0)
        close(r->fd);
    buf_free(&r->in);
    buf_free(&r->out);
    buf_free(&r->value);
}

/* --- pages ------------------------------------------------------------------------------------ */

enum key_kind { KEY_STRING, KEY_LIST, KEY_SORTED };

/* What is known of a key by its name. */
struct key_type {
    enum key_kind kind;
    /* Take one value, with its score where there is one. NULL, or why it is refused. */
    const char *(*take)(struct import *im, struct str key, struct str value, int64_t score);
};

struct walk {
    struct import *im;
    struct source *r;
    const struct key_type *(*type_of)(struct str key); /* NULL: not for this walk */
    struct buf names; /* keys of one answer to SCAN, the length before each */
};

static void
ask_page(struct source *r, enum key_kind kind, struct str key, uint64_t from)
{
    char start[24], end[24];
    struct str arg[5] = {STR("GET"), key};
    size_t n = 2;

    if (kind != KEY_STRING) {
        snprintf(start, sizeof start, "%" PRIu64, from);
        snprintf(end, sizeof end, "%" PRIu64, from + PAGE - 1);
        arg[0] = kind == KEY_LIST ? STR("LRANGE") : STR("ZRANGE");
        arg[n++] = str_of(start);
        arg[n++] = str_of(end);
    }
    if (kind == KEY_SORTED)
        arg[n++] = STR("WITHSCORES");
    source_ask(r, arg, n);
}

/* A score is createTime in milliseconds, which doubles hold exactly. */
static int64_t
score_of(struct str text)
{
    char copy[64];

    if (text.n == 0 || text.n >= sizeof copy)
        return 0;
    memcpy(copy, text.p, text.n);
    copy[text.n] = '\0';
    double d = strtod(copy, NULL);
    return d >= 0 && d < 1e15 ? (int64_t)d : d >= 1e15 ? INT64_C(1000000000000000) : 0;
}

/* One value of a key, and the score behind it. False: the connection is gone. */
static bool
take_value(struct walk *w, const struct key_type *type, struct str key, const struct resp *value)
{
    struct source *r = w->r;
    struct resp score = {.type = RESP_BULK};
    const char *why = NULL;
    bool large = value->type == RESP_LARGE;

    if (type->kind == KEY_SORTED) {
        r->value.len = 0;
        buf_str(&r->value, value->text);
        if (!source_next(r, &score))
            return false;
    }
    struct str text = type->kind == KEY_SORTED ? (struct str){r->value.p, r->value.len}
                                               : value->text;
    if (large)
        why = "a value over 16 MiB";
    else if (value->type == RESP_BULK && score.type == RESP_BULK)
        why = type->take(w->im, key, text, score_of(score.text));
    else if (value->type != RESP_NIL) /* nil: gone since SCAN named it */
        why = "an answer of another kind than asked for";
    import_tick(w->im);
    if (why != NULL && w->im->failed == NULL)
        import_refuse(w->im, key, why);
    return w->im->failed == NULL;
}

/* The answer to ask_page(). Returns how many values it had, -1 when there is no going on. */
static int64_t
take_page(struct walk *w, const struct key_type *type, struct str key)
{
    struct resp head;

    if (!source_next(w->r, &head))
        return -1;
    if (head.type == RESP_ERROR) { /* WRONGTYPE: somebody else's key */
        import_refuse(w->im, key, "no value of the kind J-IM keeps there");
        return 0;
    }
    if (type->kind == KEY_STRING)
        return take_value(w, type, key, &head) ? 0 : -1;
    if (head.type != RESP_ARRAY) {
        source_fail(w->r, "an answer that was not asked for", "");
        return -1;
    }
    int64_t n = type->kind == KEY_SORTED ? head.n / 2 : head.n;
    for (int64_t i = 0; i < n; i++) {
        struct resp value;
        if (!source_next(w->r, &value) || !take_value(w, type, key, &value))
            return -1;
    }
    return n;
}

/* --- keys: what each holds -------------------------------------------------------------------- */

static bool
begins(struct str s, struct str with)
{
    return s.n > with.n && memcmp(s.p, with.p, with.n) == 0;
}

/* The id between `head` and `tail` of a key. */
static bool
between(struct str key, struct str head, struct str tail, struct str *id)
{
    if (key.n <= head.n + tail.n || !begins(key, head) ||
        memcmp(key.p + key.n - tail.n, tail.p, tail.n) != 0)
        return false;
    *id = (struct str){key.p + head.n, key.n - head.n - tail.n};
    return true;
}

static const char *
take_pair(struct import *im, struct str key, struct str value, int64_t score)
{
    struct request r;

    (void)key;
    if (!request_parse(&r, value))
        return "a message that is no JSON object";
    return import_chat(im, value, &r, IMPORT_PAIR, score, NULL);
}

static const char *
take_group(struct import *im, struct str key, struct str value, int64_t score)
{
    struct request r;

    (void)key;
    if (!request_parse(&r, value))
        return "a message that is no JSON object";
    return import_chat(im, value, &r, IMPORT_GROUP, score, NULL);
}

/* Waiting for its receiver. */
static const char *
take_push_pair(struct import *im, struct str key, struct str value, int64_t score)
{
    struct request r;
    struct placed at;

    (void)key;
    if (!request_parse(&r, value))
        return "a message that is no JSON object";
    const char *why = import_chat(im, value, &r, IMPORT_PAIR, score, &at);
    if (why == NULL)
        import_waits(im, at.to, at.conv, at.seq);
    return why;
}

/* Waiting for the member that stands in the key behind the group, which the message names. */
static const char *
take_push_group(struct import *im, struct str key, struct str value, int64_t score)
{
    struct str head = STR("push:group:"), id;
    struct request r;
    struct placed at;

    if (!request_parse(&r, value))
        return "a message that is no JSON object";
    const char *why = import_chat(im, value, &r, IMPORT_GROUP, score, &at);
    if (why != NULL)
        return why;
    size_t skip = head.n + strlen(at.conv->id) + 1;
    if (key.n <= skip || memcmp(key.p + head.n, at.conv->id, strlen(at.conv->id)) != 0 ||
        key.p[skip - 1] != ':')
        return "a message of another group than the key's: kept, but it is not known for whom";
    id = (struct str){key.p + skip, key.n - skip};
    if (!id_ok(id))
        return "the member's id is none that jim allows";
    import_waits(im, user_get(&im->chat.roster, id), at.conv, at.seq);
    return NULL;
}

static const char *
take_user_info(struct import *im, struct str key, struct str value, int64_t score)
{
    struct request r;

    (void)key;
    (void)score;
    return request_parse(&r, value) ? import_user(im, value, &r) : "no JSON object";
}

static const char *
take_group_info(struct import *im, struct str key, struct str value, int64_t score)
{
    struct request r;

    (void)key;
    (void)score;
    return request_parse(&r, value) ? import_group(im, value, &r) : "no JSON object";
}

static const char *
join(struct import *im, struct str user, struct str group)
{
    if (!id_ok(user))
        return "the user's id is none that jim allows";
    if (!id_ok(group))
        return "the group's id is none that jim allows";
    import_join(im, user_get(&im->chat.roster, user), group_get(&im->chat.roster, group));
    return NULL;
}

static const char *
take_groups_of_user(struct import *im, struct str key, struct str value, int64_t score)
{
    struct str id;

    (void)score;
    return between(key, STR("user:"), STR(":group"), &id) ? join(im, id, value) : NULL;
}

static const char *
take_users_of_group(struct import *im, struct str key, struct str value, int64_t score)
{
    struct str id;

    (void)score;
    return between(key, STR("group:"), STR(":user"), &id) ? join(im, value, id) : NULL;
}

static const char *
take_friends(struct import *im, struct str key, struct str value, int64_t score)
{
    uint64_t users = im->users; /* he counts once, for what else is known of him */
    struct buf b = {0};
    struct request r;
    struct str id;
    const char *why = "no list";

    (void)score;
    if (!between(key, STR("user:"), STR(":friends"), &id) || !id_ok(id))
        return "the user's id is none that jim allows";
    buf_printf(&b, "{\"friends\":");
    buf_str(&b, value);
    put_text(&b, "userId", id);
    buf_add(&b, "}", 1);
    if (request_parse(&r, (struct str){b.p, b.len}))
        why = import_user(im, (struct str){b.p, b.len}, &r);
    im->users = users;
    buf_free(&b);
    return why;
}

static const struct key_type *
type_of_history(struct str key)
{
    static const struct key_type pair = {KEY_SORTED, take_pair}, group = {KEY_SORTED, take_group};

    return begins(key, STR("store:user:")) ? &pair : begins(key, STR("store:group:")) ? &group
                                                                                      : NULL;
}

static const struct key_type *
type_of_push(struct str key)
{
    static const struct key_type pair = {KEY_SORTED, take_push_pair},
                                 group = {KEY_SORTED, take_push_group};

    return begins(key, STR("push:user:")) ? &pair : begins(key, STR("push:group:")) ? &group
                                                                                    : NULL;
}

static const struct key_type *
type_of_group(struct str key)
{
    static const struct key_type info = {KEY_STRING, take_group_info},
                                 users = {KEY_LIST, take_users_of_group};
    struct str id;

    if (between(key, STR("group:"), STR(":info"), &id))
        return &info;
    return between(key, STR("group:"), STR(":user"), &id) ? &users : NULL;
}

static const struct key_type *
type_of_user(struct str key)
{
    static const struct key_type info = {KEY_STRING, take_user_info},
                                 groups = {KEY_LIST, take_groups_of_user},
                                 friends = {KEY_STRING, take_friends};
    struct str id;

    if (between(key, STR("user:"), STR(":info"), &id))
        return &info;
    if (between(key, STR("user:"), STR(":friends"), &id))
        return &friends;
    return between(key, STR("user:"), STR(":group"), &id) ? &groups : NULL;
}

/* --- the walk --------------------------------------------------------------------------------- */

struct wanted {
    struct str key;
    const struct key_type *type;
    bool more; /* its first page was full */
};

/* Read a few keys: the first page of each at one go, then what is left of the long ones. */
static bool
take_keys(struct walk *w, struct wanted *want, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ask_page(w->r, want[i].type->kind, want[i].key, 0);
    for (size_t i = 0; i < n; i++) {
        int64_t got = take_page(w, want[i].type, want[i].key);
        if (got < 0)
            return false;
        want[i].more = got == PAGE;
    }
    for (size_t i = 0; i < n; i++) {
        int64_t got = want[i].more ? PAGE : 0;
        for (uint64_t from = PAGE; got == PAGE; from += PAGE) {
            ask_page(w->r, want[i].type->kind, want[i].key, from);
            got = take_page(w, want[i].type, want[i].key);
        }
        if (got < 0)
            return false;
    }
    return true;
}

static bool
take_names(struct walk *w)
{
    struct wanted want[WINDOW];
    size_t n = 0;
    uint32_t length;

    for (size_t at = 0; at < w->names.len; at += sizeof length + length) {
        memcpy(&length, w->names.p + at, sizeof length);
        struct str key = {w->names.p + at + sizeof length, length};
        const struct key_type *type = w->type_of(key);
        if (type != NULL)
            want[n++] = (struct wanted){key, type, false};
        if (n < WINDOW)
            continue;
        if (!take_keys(w, want, n))
            return false;
        n = 0;
    }
    return take_keys(w, want, n);
}

/* The keys of an answer to SCAN. */
static bool
read_names(struct walk *w, char cursor[24])
{
    struct resp head, next, names, name;

    w->names.len = 0;
    if (!source_next(w->r, &head))
        return false;
    if (head.type == RESP_ERROR)
        return source_fail(w->r, "SCAN refused", "");
    if (head.type != RESP_ARRAY || head.n != 2 || !source_next(w->r, &next) ||
        next.type != RESP_BULK || next.text.n == 0 || next.text.n >= 24)
        return source_fail(w->r, "an answer that was not asked for", "");
    snprintf(cursor, 24, "%.*s", (int)next.text.n, next.text.p);
    if (!source_next(w->r, &names) || names.type != RESP_ARRAY)
        return source_fail(w->r, "an answer that was not asked for", "");
    for (int64_t i = 0; i < names.n; i++) {
        if (!source_next(w->r, &name))
            return false;
        if (name.type != RESP_BULK || name.text.n > MAX_NAME)
            continue; /* no id of ours is that long */
        uint32_t length = (uint32_t)name.text.n;
        buf_add(&w->names, &length, sizeof length);
        buf_str(&w->names, name.text);
    }
    return true;
}

/* All keys that match, in no order; one may come twice, which does no harm. */
static bool
walk(struct import *im, struct source *r, const char *pattern,
     const struct key_type *(*type_of)(struct str key))
{
    struct walk w = {.im = im, .r = r, .type_of = type_of};
    char cursor[24] = "0";
    bool ok;

    do {
        struct str arg[] = {STR("SCAN"),      str_of(cursor), STR("MATCH"),
                            str_of(pattern), STR("COUNT"),   STR("512")};
        source_ask(r, arg, sizeof arg / sizeof arg[0]);
        ok = read_names(&w, cursor) && take_names(&w);
    } while (ok && strcmp(cursor, "0") != 0);
    buf_free(&w.names);
    return ok;
}

int
import_redis(const char *dir, const char *address, FILE *out)
{
    struct import im;
    struct source r;

    if (!source_open(&r, address)) { /* before a directory is made for nothing */
        fprintf(stderr, "jim: %s: %s\n", address, r.err);
        source_close(&r);
        return 2;
    }
    if (import_open(&im, dir)) {
        if (walk(&im, &r, "store:*", type_of_history) && walk(&im, &r, "push:*", type_of_push) &&
            walk(&im, &r, "group:*", type_of_group) && walk(&im, &r, "user:*", type_of_user))
            import_pairs(&im);
        if (r.err[0] != '\0' && im.failed == NULL)
            im.failed = r.err;
    }
    int code = import_close(&im, out);
    source_close(&r);
    return code;
}
