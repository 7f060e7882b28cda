/* SPDX-License-Identifier: MIT */
/*
 * fakeredis.c - see fakeredis.h.
 *
 *   items      what it keeps
 *   replies    written
 *   commands   of which a node uses these
 *   scripts    by name
 *   dispatch   rules, then tables
 *   peers      connections
 *   nodes      in this process
 */
#include "fakeredis.h"

#include <assert.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ARGS 400 /* of a command: an entry for an inbox has up to 262 */

struct cmd { /* a command that is being done */
    struct fakeredis *f;
    struct fake_peer *p;
    struct buf *out;
    const struct str *key, *arg; /* keys, and the arguments behind them */
    size_t keys, args;
};

/* --- items ------------------------------------------------------------------------------------ */

static struct str
of(const struct buf *b)
{
    return (struct str){b->p, b->len};
}

static struct fake_item *
item_of(const struct fakeredis *f, struct str key, struct str field)
{
    struct fake_item *i = f->items;

    while (i != NULL && !(str_eq(of(&i->key), key) && str_eq(of(&i->field), field)))
        i = i->next;
    return i;
}

/* Is it new? */
static bool
item_put(struct fakeredis *f, struct str key, struct str field, struct str value)
{
    struct fake_item *i = item_of(f, key, field);
    bool fresh = i == NULL;

    if (fresh) {
        i = xcalloc(1, sizeof *i);
        buf_str(&i->key, key);
        buf_str(&i->field, field);
        *f->items_end = i;
        f->items_end = &i->next;
    }
    i->value.len = 0;
    buf_str(&i->value, value);
    return fresh;
}

static void
item_free(struct fake_item *i)
{
    buf_free(&i->key);
    buf_free(&i->field);
    buf_free(&i->value);
    free(i);
}

/* field NULL: all of the key's. Returns how many there were. */
static int64_t
item_drop(struct fakeredis *f, struct str key, const struct str *field)
{
    int64_t n = 0;

    for (struct fake_item **at = &f->items; *at != NULL;) {
        struct fake_item *i = *at;
        if (!str_eq(of(&i->key), key) || (field != NULL && !str_eq(of(&i->field), *field))) {
            at = &i->next;
            continue;
        }
        *at = i->next;
        item_free(i);
        n++;
    }
    f->items_end = &f->items;
    while (*f->items_end != NULL)
        f->items_end = &(*f->items_end)->next;
    return n;
}

/* The next of a key's, from i on. */
static const struct fake_item *
item_from(const struct fake_item *i, struct str key)
{
    while (i != NULL && !str_eq(of(&i->key), key))
        i = i->next;
    return i;
}

static int64_t
item_count(const struct fakeredis *f, struct str key)
{
    int64_t n = 0;

    for (const struct fake_item *i = item_from(f->items, key); i != NULL;
         i = item_from(i->next, key))
        n++;
    return n;
}

static struct str
item_value(const struct fakeredis *f, struct str key, const char *field, const char *otherwise)
{
    const struct fake_item *i = item_of(f, key, str_of(field));

    return i != NULL ? of(&i->value) : str_of(otherwise);
}

/* As far as digits go. */
static int64_t
number_in(struct str s)
{
    int64_t n = 0;

    for (size_t i = 0; i < s.n && i < 18 && s.p[i] >= '0' && s.p[i] <= '9'; i++)
        n = 10 * n + (s.p[i] - '0');
    return n;
}

/* Returns what it is then. */
static int64_t
item_add(struct fakeredis *f, struct str key, const char *field, int64_t by)
{
    char text[24];
    int64_t n = number_in(item_value(f, key, field, "0")) + by;
    int len = snprintf(text, sizeof text, "%lld", (long long)n);

    item_put(f, key, str_of(field), (struct str){text, (size_t)len});
    return n;
}

/* --- replies ---------------------------------------------------------------------------------- */

static void
put_bulk(struct buf *b, struct str s)
{
    buf_printf(b, "$%zu\r\n", s.n);
    buf_str(b, s);
    buf_lit(b, "\r\n");
}

static void
put_number(struct buf *b, int64_t n)
{
    buf_printf(b, ":%lld\r\n", (long long)n);
}

static void
put_array(struct buf *b, size_t n)
{
    buf_printf(b, "*%zu\r\n", n);
}

/* The fields of a key, with their values or without, behind `first` other elements: the array's
 * head is here as well. */
static void
put_items(struct cmd *c, struct str key, size_t first, struct buf *others, bool values)
{
    size_t n = (size_t)item_count(c->f, key);

    put_array(c->out, first + n * (values ? 2 : 1));
    if (others != NULL)
        buf_str(c->out, of(others));
    for (const struct fake_item *i = item_from(c->f->items, key); i != NULL;
         i = item_from(i->next, key)) {
        put_bulk(c->out, of(&i->field));
        if (values)
            put_bulk(c->out, of(&i->value));
    }
}

/* A stream's entries with lo <= number <= hi, `most` of them. */
static void
put_entries(struct cmd *c, struct str key, int64_t lo, int64_t hi, int64_t most)
{
    struct buf b = {0};
    int64_t n = 0;

    for (const struct fake_item *i = item_from(c->f->items, key); i != NULL && n < most;
         i = item_from(i->next, key)) {
        int64_t at = number_in(of(&i->field));
        if (at < lo || at > hi)
            continue;
        put_array(&b, 2);
        put_bulk(&b, of(&i->field));
        buf_str(&b, of(&i->value)); /* an array, as it was put in */
        n++;
    }
    put_array(c->out, (size_t)n);
    buf_str(c->out, of(&b));
    buf_free(&b);
}

static void
entry_add(struct fakeredis *f, struct str key, int64_t number, const struct str *pair, size_t n)
{
    struct buf b = {0};
    char id[32];
    int len = snprintf(id, sizeof id, "%lld-0", (long long)number);

    put_array(&b, n);
    for (size_t i = 0; i < n; i++)
        put_bulk(&b, pair[i]);
    item_put(f, key, (struct str){id, (size_t)len}, of(&b));
    buf_free(&b);
}

/* --- commands --------------------------------------------------------------------------------- */

static void
do_hello(struct cmd *c)
{
    buf_lit(c->out, "%1\r\n$5\r\nproto\r\n:3\r\n");
}

static void
do_pong(struct cmd *c)
{
    buf_lit(c->out, "+PONG\r\n");
}

static void
do_one(struct cmd *c)
{
    put_number(c->out, 1);
}

/* SCRIPT LOAD: of the node's own, only; the text is an argument. */
static void
do_load(struct cmd *c)
{
    for (int i = 0; i < SCRIPTS; i++)
        if (str_eq(c->arg[0], str_of(far_script((enum far_script)i)))) {
            c->f->loaded |= 1u << i;
            put_bulk(c->out, str_of(c->f->script[i].sha));
            return;
        }
    buf_lit(c->out, "-ERR no such script\r\n");
}

/* SADD key member, HSET key field value, ZADD key [XX] score member. */
static void
do_put(struct cmd *c)
{
    bool known = str_eq(c->arg[0], STR("XX"));
    const struct str *a = c->arg + known;
    bool score = c->args - known == 2 && (str_eq(a[0], STR("0")) || str_eq(a[0], STR("1")));
    struct str field = score ? a[1] : a[0], value = score ? a[0] : c->args > 1 ? a[1] : STR("");

    put_number(c->out, known && item_of(c->f, c->key[0], field) == NULL
                           ? 0 : item_put(c->f, c->key[0], field, value));
}

/* SREM, HDEL, ZREM key field. */
static void
do_remove(struct cmd *c)
{
    put_number(c->out, item_drop(c->f, c->key[0], &c->arg[0]));
}

/* DEL key key. */
static void
do_del(struct cmd *c)
{
    int64_t n = item_drop(c->f, c->key[0], NULL);

    for (size_t i = 0; i < c->args; i++)
        n += item_drop(c->f, c->arg[i], NULL);
    put_number(c->out, n);
}

/* SMEMBERS, HKEYS, SRANDMEMBER; ZRANGE of all. */
static void
do_fields(struct cmd *c)
{
    put_items(c, c->key[0], 0, NULL, false);
}

static void
do_hgetall(struct cmd *c)
{
    put_items(c, c->key[0], 0, NULL, true);
}

static void
do_hget(struct cmd *c)
{
    const struct fake_item *i = item_of(c->f, c->key[0], c->arg[0]);

    if (i == NULL)
        buf_lit(c->out, "_\r\n");
    else
        put_bulk(c->out, of(&i->value));
}

static void
do_count(struct cmd *c)
{
    put_number(c->out, item_count(c->f, c->key[0]));
}

/* XADD key ... * name value ...: only inboxes are written like this. */
static void
do_xadd(struct cmd *c)
{
    size_t i = 0;

    while (i < c->args && !str_eq(c->arg[i], STR("*")))
        i++;
    assert(i < c->args);
    entry_add(c->f, c->key[0], (int64_t)++c->f->entries, c->arg + i + 1, c->args - i - 1);
    buf_printf(c->out, "+%llu-0\r\n", (unsigned long long)c->f->entries);
}

/* XRANGE key from to COUNT n. */
static void
do_xrange(struct cmd *c)
{
    bool open = str_eq(c->arg[1], STR("+"));

    put_entries(c, c->key[0], number_in(c->arg[0]), open ? INT64_MAX : number_in(c->arg[1]),
                number_in(c->arg[3]));
}

/* XREAD COUNT n BLOCK ms STREAMS key last: answered when there is something (fake_turn()). */
static void
do_xread(struct cmd *c)
{
    c->p->since_ms = fake_now_ms;
    c->p->blocked.len = 0;
    buf_printf(&c->p->blocked, "%.*s %.*s", (int)c->arg[5].n, c->arg[5].p, (int)c->arg[6].n,
               c->arg[6].p);
}

/* --- scripts ---------------------------------------------------------------------------------- */

static void
script_send(struct cmd *c)
{
    bool group = memchr(c->arg[5].p, 'g', c->arg[5].n) != NULL;
    bool member = memchr(c->arg[5].p, 'm', c->arg[5].n) != NULL;
    bool keep = memchr(c->arg[5].p, 'r', c->arg[5].n) != NULL;
    struct str hit = keep ? item_value(c->f, c->key[4], "", "") : STR("");
    struct buf j = {0}, b = {0};
    int64_t seq = number_in(hit), before = number_in(item_value(c->f, c->key[1], "t", "0"));
    bool follows = hit.n == 0 && number_in(c->arg[1]) - before < 5000;

    if (group && member && item_of(c->f, c->key[2], c->arg[0]) == NULL) {
        buf_lit(c->out, "*1\r\n:10024\r\n");
        return;
    }
    if (hit.n > 0) { /* as it was sent first: the rest of its entry is j */
        char id[24];
        snprintf(id, sizeof id, "%lld-0", (long long)seq);
        struct str first = item_value(c->f, c->key[0], id, ""), line;
        for (int i = 0; i < 16 && str_split(&first, '\n', &line); i++)
            ;
        buf_str(&j, (struct str){first.p, first.n - 2});
    } else {
        char text[24];
        seq = item_add(c->f, c->key[1], "seq", 1);
        item_put(c->f, c->key[1], STR("t"), c->arg[1]);
        snprintf(text, sizeof text, "%lld", (long long)seq);
        buf_str(&j, c->arg[3]);
        buf_str(&j, str_of(text));
        buf_str(&j, c->arg[4]);
        entry_add(c->f, c->key[0], seq, (struct str[]){STR("t"), c->arg[1], STR("c"), c->arg[2],
                  STR("f"), c->arg[0], STR("j"), of(&j)}, 8);
        if (keep)
            item_put(c->f, c->key[4], STR(""), str_of(text));
    }
    put_number(&b, 10000);
    put_number(&b, seq);
    put_bulk(&b, c->arg[2]);
    put_number(&b, hit.n > 0);
    put_bulk(&b, hit.n > 0 ? of(&j) : STR(""));
    put_number(&b, follows);
    if (group) {
        put_items(c, c->key[3], 6, &b, false);
    } else {
        put_array(c->out, 6);
        buf_str(c->out, of(&b));
    }
    buf_free(&j);
    buf_free(&b);
}

static void
script_login(struct cmd *c)
{
    put_array(c->out, 3);
    put_bulk(c->out, item_value(c->f, c->key[0], "p", ""));
    put_items(c, c->key[2], 0, NULL, true);
    item_put(c->f, c->key[2], c->arg[0], c->arg[1]);
    for (size_t i = 2; i < c->args; i++)
        item_put(c->f, c->key[1], c->arg[i], STR(""));
    put_items(c, c->key[1], 0, NULL, false);
}

static void
script_away(struct cmd *c)
{
    item_drop(c->f, c->key[2], &c->arg[0]);
    put_array(c->out, 3);
    put_number(c->out, item_count(c->f, c->key[2]));
    put_bulk(c->out, item_value(c->f, c->key[0], "p", ""));
    put_items(c, c->key[1], 0, NULL, false);
}

/* Everybody is on one node at most. */
static void
script_enter(struct cmd *c)
{
    struct str user = c->arg[0], node = c->arg[1], how = c->arg[2];
    bool made = item_of(c->f, c->key[0], STR("id")) == NULL;
    bool fresh = item_of(c->f, c->key[1], user) == NULL;
    bool first = node.n > 0 && item_of(c->f, c->key[3], user) == NULL;
    struct buf b = {0};

    if (made && (str_eq(how, STR("0")) || str_eq(how, STR("3")))) {
        buf_lit(c->out, "*1\r\n:2\r\n");
        return;
    }
    if (fresh && str_eq(how, STR("0"))) {
        buf_lit(c->out, "*1\r\n:0\r\n");
        return;
    }
    item_put(c->f, c->key[0], STR("id"), c->arg[4]);
    item_put(c->f, c->key[1], user, STR("0"));
    if (first) {
        item_put(c->f, c->key[3], user, node);
        item_put(c->f, c->key[4], node, STR("1"));
    }
    put_number(&b, 1);
    put_number(&b, fresh);
    put_number(&b, first);
    put_number(&b, made);
    put_bulk(&b, item_value(c->f, c->key[0], "seq", "0"));
    put_number(&b, item_count(c->f, c->key[3]));
    put_bulk(&b, STR("0 0 0"));
    put_items(c, c->key[4], 7, &b, false);
    buf_free(&b);
}

static void
script_exit(struct cmd *c)
{
    const struct fake_item *at = item_of(c->f, c->key[3], c->arg[0]);
    bool was = at != NULL && str_eq(of(&at->value), c->arg[1]);
    struct buf b = {0};

    if (was)
        item_drop(c->f, c->key[3], &c->arg[0]);
    put_number(&b, was);
    put_number(&b, item_count(c->f, c->key[3]));
    put_items(c, c->key[4], 2, &b, false);
    buf_free(&b);
}

static void
script_check(struct cmd *c)
{
    put_bulk(c->out, item_value(c->f, c->key[1], "seq", "0"));
}

/* No lease ever ends, and nobody is dead: a test that wants it says so by a rule. */
static void
script_lease(struct cmd *c)
{
    struct buf b = {0};

    item_put(c->f, c->key[0], c->arg[0], c->arg[1]);
    put_number(&b, 1);
    put_bulk(&b, STR(""));
    put_items(c, c->key[0], 2, &b, false);
    buf_free(&b);
}

static void
script_nodes(struct cmd *c)
{
    put_array(c->out, 0);
}

/* --- dispatch --------------------------------------------------------------------------------- */

typedef void do_fn(struct cmd *c);

static const struct {
    const char *name;
    do_fn *fn;
    size_t keys;
} commands[] = {
    {"HELLO", do_hello, 0},   {"PING", do_pong, 0},      {"SCRIPT", do_load, 1},
    {"SADD", do_put, 1},      {"HSET", do_put, 1},       {"ZADD", do_put, 1},
    {"SREM", do_remove, 1},   {"HDEL", do_remove, 1},    {"ZREM", do_remove, 1},
    {"DEL", do_del, 1},       {"SMEMBERS", do_fields, 1}, {"HKEYS", do_fields, 1},
    {"SRANDMEMBER", do_fields, 1}, {"ZRANGE", do_fields, 1}, {"HGETALL", do_hgetall, 1},
    {"HGET", do_hget, 1},     {"ZCOUNT", do_count, 1},   {"ZCARD", do_count, 1},
    {"EXPIRE", do_one, 1},    {"XADD", do_xadd, 1},      {"XRANGE", do_xrange, 1},
    {"XREAD", do_xread, 0},
};

static const struct {
    const char *name;
    do_fn *fn; /* NULL: only by a rule */
} scripts[SCRIPTS] = {
    [SCRIPT_SEND] = {"send", script_send},       [SCRIPT_LOGIN] = {"login", script_login},
    [SCRIPT_AWAY] = {"away", script_away},       [SCRIPT_ENTER] = {"enter", script_enter},
    [SCRIPT_EXIT] = {"exit", script_exit},       [SCRIPT_LEAVE] = {"leave", NULL},
    [SCRIPT_CREATE] = {"create", do_one},        [SCRIPT_DISMISS] = {"dismiss", NULL},
    [SCRIPT_RENAME] = {"rename", NULL},          [SCRIPT_PAGE] = {"page", NULL},
    [SCRIPT_DELIVERED] = {"delivered", do_one},  [SCRIPT_MISSED] = {"missed", NULL},
    [SCRIPT_HISTORY] = {"history", NULL},        [SCRIPT_CHECK] = {"check", script_check},
    [SCRIPT_LEASE] = {"lease", script_lease},    [SCRIPT_REAPED] = {"reaped", do_one},
    [SCRIPT_NODES] = {"nodes", script_nodes},    [SCRIPT_CARRY] = {"carry", NULL},
    [SCRIPT_COUNTED] = {"counted", NULL},
};

static void
peer_end(struct fake_peer *p)
{
    close(p->fd);
    p->fd = -1;
    buf_free(&p->in);
    buf_free(&p->out);
    buf_free(&p->blocked);
    p->sendable = SIZE_MAX;
}

static struct fake_rule *
rule_for(struct fakeredis *f, const char *name)
{
    for (size_t i = 0; i < f->rules; i++)
        if (f->rule[i].times != 0 && strcmp(f->rule[i].what, name) == 0)
            return &f->rule[i];
    return NULL;
}

static void
do_call(struct cmd *c, const char *name, do_fn *fn)
{
    struct fake_rule *r = rule_for(c->f, name);

    buf_lit(&c->f->heard, "\n");
    buf_str(&c->f->heard, str_of(name));
    for (size_t i = 0; i < c->keys + c->args; i++) {
        struct str s = i < c->keys ? c->key[i] : c->arg[i - c->keys];
        if (s.n > 0 && memchr(s.p, '\n', s.n) == NULL) /* a script's text is not for lines */
            buf_printf(&c->f->heard, " %.*s", (int)s.n, s.p);
    }
    if (r != NULL && r->times > 0)
        r->times--;
    if (r != NULL && r->how == FAKE_HOLD && c->p->sendable == SIZE_MAX)
        c->p->sendable = c->out->len;
    if (r != NULL && r->how == FAKE_ANSWER)
        buf_str(c->out, r->text);
    else if (fn != NULL)
        fn(c);
    else
        buf_lit(c->out, "-ERR the fake does not do this\r\n");
    if (r != NULL && r->how == FAKE_LOSE)
        peer_end(c->p);
}

static void
dispatch(struct fakeredis *f, struct fake_peer *p, const struct str *arg, size_t n)
{
    struct cmd c = {.f = f, .p = p, .out = &p->out, .key = arg + 1};

    if (str_eq(arg[0], STR("EVALSHA"))) {
        int i = 0;
        while (i < SCRIPTS && !str_eq(arg[1], str_of(f->script[i].sha)))
            i++;
        if (i == SCRIPTS || !(f->loaded >> i & 1)) {
            buf_lit(&p->out, "-NOSCRIPT No matching script.\r\n");
            return;
        }
        c.key = arg + 3;
        c.keys = (size_t)number_in(arg[2]);
        c.arg = c.key + c.keys;
        c.args = n - 3 - c.keys;
        do_call(&c, scripts[i].name, scripts[i].fn);
        return;
    }
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        if (str_eq(arg[0], str_of(commands[i].name))) {
            c.keys = commands[i].keys;
            c.arg = c.key + c.keys;
            c.args = n - 1 - c.keys;
            do_call(&c, commands[i].name, commands[i].fn);
            return;
        }
    buf_lit(&p->out, "-ERR unknown command\r\n");
}

/* --- peers ------------------------------------------------------------------------------------ */

/* A number behind `mark` at *at, which moves behind its CR LF; -1: not there yet. */
static int64_t
take_head(struct buf in, size_t *at, char mark)
{
    char *end = *at < in.len ? memmem(in.p + *at, in.len - *at, "\r\n", 2) : NULL;

    if (end == NULL)
        return -1;
    assert(in.p[*at] == mark);
    int64_t n = number_in((struct str){in.p + *at + 1, (size_t)(end - in.p) - *at - 1});
    *at = (size_t)(end + 2 - in.p);
    return n;
}

/* One command; its length, 0 when it is not complete. */
static size_t
take_command(struct buf in, struct str *arg, size_t *n)
{
    size_t at = 0;
    int64_t count = take_head(in, &at, '*');

    assert(count <= ARGS);
    for (*n = 0; count >= 0 && *n < (size_t)count; (*n)++) {
        int64_t size = take_head(in, &at, '$');
        if (size < 0 || in.len - at < (size_t)size + 2)
            return 0;
        arg[*n] = (struct str){in.p + at, (size_t)size};
        at += (size_t)size + 2;
    }
    return count < 0 ? 0 : at;
}

/* An XREAD that waits: is there something for it, or has it waited long enough? */
static void
peer_unblock(struct fakeredis *f, struct fake_peer *p)
{
    struct cmd c = {.f = f, .p = p, .out = &p->out};
    struct str last = of(&p->blocked), key;
    const struct fake_item *i;

    if (p->blocked.len == 0 || !str_split(&last, ' ', &key))
        return;
    i = item_from(f->items, key);
    while (i != NULL && number_in(of(&i->field)) <= number_in(last))
        i = item_from(i->next, key);
    if (i != NULL) {
        buf_lit(&p->out, "%1\r\n");
        put_bulk(&p->out, key);
        put_entries(&c, key, number_in(last) + 1, INT64_MAX, 64);
    } else if (fake_now_ms >= p->since_ms + 5000) {
        buf_lit(&p->out, "_\r\n");
    } else {
        return;
    }
    p->blocked.len = 0;
}

static bool
peer_serve(struct fakeredis *f, struct fake_peer *p)
{
    struct str arg[ARGS];
    size_t n, used;
    ssize_t got;
    bool some = false;

    do {
        buf_reserve(&p->in, 65536);
        got = read(p->fd, p->in.p + p->in.len, 65536);
        p->in.len += got > 0 ? (size_t)got : 0;
        some |= got > 0;
    } while (got > 0);
    if (got == 0 || f->gone) {
        peer_end(p);
        return true;
    }
    while (!f->deaf && p->fd >= 0 && (used = take_command(p->in, arg, &n)) > 0) {
        dispatch(f, p, arg, n);
        if (p->fd >= 0)
            buf_drop(&p->in, used);
    }
    if (p->fd < 0 || f->deaf)
        return some;
    peer_unblock(f, p);
    size_t room = p->out.len < p->sendable ? p->out.len : p->sendable;
    got = room > 0 ? send(p->fd, p->out.p, room, MSG_NOSIGNAL) : 0;
    if (got > 0) {
        buf_drop(&p->out, (size_t)got);
        p->sendable -= p->sendable != SIZE_MAX ? (size_t)got : 0;
    }
    return some || got > 0;
}

bool
fake_turn(struct fakeredis *f)
{
    bool some = false;
    int fd;

    while ((fd = accept(f->fd, NULL, NULL)) >= 0) {
        struct linger now = {.l_onoff = 1}; /* no port is kept for a while afterwards */
        int i = 0;
        while (i < FAKE_PEERS && f->peer[i].fd >= 0)
            i++;
        assert(i < FAKE_PEERS);
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &now.l_onoff, sizeof now.l_onoff);
        fcntl(fd, F_SETFL, O_NONBLOCK);
        f->peer[i].fd = fd;
        some = true;
    }
    for (int i = 0; i < FAKE_PEERS; i++)
        if (f->peer[i].fd >= 0)
            some |= peer_serve(f, &f->peer[i]);
    return some;
}

void
fake_open(struct fakeredis *f)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;

    *f = (struct fakeredis){.fd = socket(AF_INET, SOCK_STREAM, 0)};
    f->items_end = &f->items;
    int done = f->fd < 0 ? -1 : bind(f->fd, (struct sockaddr *)&a, sizeof a);
    done = done != 0 ? done : listen(f->fd, 64);
    done = done != 0 ? done : getsockname(f->fd, (struct sockaddr *)&a, &n);
    assert(done == 0);
    (void)done;
    fcntl(f->fd, F_SETFL, O_NONBLOCK);
    fcntl(f->fd, F_SETFD, FD_CLOEXEC);
    f->port = ntohs(a.sin_port);
    for (int i = 0; i < FAKE_PEERS; i++)
        f->peer[i] = (struct fake_peer){.fd = -1, .sendable = SIZE_MAX};
    for (int i = 0; i < SCRIPTS; i++)
        redis_script_init(&f->script[i], far_script((enum far_script)i));
}

void
fake_cut(struct fakeredis *f)
{
    for (int i = 0; i < FAKE_PEERS; i++)
        if (f->peer[i].fd >= 0)
            peer_end(&f->peer[i]);
}

void
fake_close(struct fakeredis *f)
{
    fake_cut(f);
    close(f->fd);
    for (struct fake_item *i = f->items, *next; i != NULL; i = next) {
        next = i->next;
        item_free(i);
    }
    buf_free(&f->heard);
}

void
fake_rule(struct fakeredis *f, const char *what, enum fake_how how, struct str text, int times)
{
    size_t i = 0;

    while (i < f->rules && f->rule[i].times != 0)
        i++;
    assert(i < FAKE_RULES);
    f->rule[i] = (struct fake_rule){what, how, text, times};
    f->rules += i == f->rules;
}

void
fake_release(struct fakeredis *f)
{
    for (size_t i = 0; i < f->rules; i++)
        if (f->rule[i].how == FAKE_HOLD)
            f->rule[i].times = 0;
    for (int i = 0; i < FAKE_PEERS; i++)
        f->peer[i].sendable = SIZE_MAX;
}

const struct fake_item *
fake_get(const struct fakeredis *f, const char *key, const char *field)
{
    return item_of(f, str_of(key), str_of(field));
}

void
fake_put(struct fakeredis *f, const char *key, const char *field, const char *value)
{
    item_put(f, str_of(key), str_of(field), str_of(value));
}

void
fake_message(struct fakeredis *f, const char *conv, unsigned seq, const char *from,
             const char *json)
{
    char key[200], text[24];

    snprintf(key, sizeof key, "jim:{c:%s}", conv);
    entry_add(f, str_of(key), seq, (struct str[]){STR("t"), STR("1000"), STR("c"), STR("1000"),
              STR("f"), str_of(from), STR("j"), str_of(json)}, 8);
    snprintf(key, sizeof key, "jim:{c:%s}:g", conv);
    snprintf(text, sizeof text, "%u", seq);
    item_put(f, str_of(key), STR("seq"), str_of(text));
}

void
fake_post(struct fakeredis *f, const char *node, struct str head, struct str text)
{
    char key[64];

    snprintf(key, sizeof key, "jim:{n:%s}", node);
    entry_add(f, str_of(key), (int64_t)++f->entries, (struct str[]){head, text}, 2);
}

void
fake_blurt(struct fakeredis *f, struct str bytes)
{
    for (int i = 0; i < FAKE_PEERS; i++)
        if (f->peer[i].fd >= 0)
            buf_str(&f->peer[i].out, bytes);
}

static bool
line_has(struct str line, const char *pattern)
{
    struct str rest = str_of(pattern), part;

    while (str_split(&rest, '*', &part)) {
        const char *at = part.n == 0 ? line.p : memmem(line.p, line.n, part.p, part.n);
        if (at == NULL)
            return false;
        line.n -= (size_t)(at - line.p) + part.n;
        line.p = at + part.n;
    }
    return true;
}

bool
fake_heard(const struct fakeredis *f, const char *pattern)
{
    struct str rest = of(&f->heard), line;

    while (f->heard.len > 0 && str_split(&rest, '\n', &line))
        if (line_has(line, pattern))
            return true;
    return false;
}

void
fake_forget(struct fakeredis *f)
{
    f->heard.len = 0;
}

/* --- nodes ------------------------------------------------------------------------------------ */

int64_t fake_now_ms;

static int64_t
fake_clock(void)
{
    return fake_now_ms;
}

static void
node_set(struct jim *j, const char *key, const char *value)
{
    char err[256] = "";
    int done = jim_set(j, key, value, err, sizeof err);

    if (done != 0)
        fprintf(stderr, "%s\n", err);
    assert(done == 0);
}

void
fake_node_start(struct fake_node *n, const struct fakeredis *f, const char *const *options)
{
    char port[8];

    *n = (struct fake_node){.j = jim_new()};
    snprintf(port, sizeof port, "%d", f->port);
    node_set(n->j, "jim.cluster", "on");
    node_set(n->j, "jim.redis.port", port);
    node_set(n->j, "jim.redis.timeout", "2000");
    node_set(n->j, "jim.login.groups", "");
    node_set(n->j, "jim.sandbox", "off"); /* it is not its process */
    for (; options[0] != NULL; options += 2)
        node_set(n->j, options[0], options[1]);
    n->j->program = true; /* which alone may be a node */
    n->j->opt.ports = 0;  /* clients come over socket pairs */
    int done = jim_start(n->j);
    assert(done == JIM_OK);
    (void)done;
    int64_t at = loop_now(n->j->loop);
    fake_now_ms = at > fake_now_ms ? at : fake_now_ms; /* timers it has are by the real one */
    loop_set_clock(n->j->loop, fake_clock);
    n->listener = (struct listener){.jim = n->j, .fd = -1};
    n->listener.protos = PROTO_BIT(PROTO_TCP) | PROTO_BIT(PROTO_WS) | PROTO_BIT(PROTO_HTTP);
}

int
fake_node_connect(struct fake_node *n)
{
    int pair[2];
    int done = socketpair(AF_UNIX, SOCK_STREAM, 0, pair);

    assert(done == 0);
    (void)done;
    for (int i = 0; i < 2; i++) {
        fcntl(pair[i], F_SETFL, O_NONBLOCK);
        fcntl(pair[i], F_SETFD, FD_CLOEXEC);
    }
    conn_new(&n->listener, pair[1], &(struct sockaddr_storage){.ss_family = AF_UNIX});
    return pair[0];
}

bool
fake_node_turn(struct fake_node *n)
{
    if (!n->over)
        n->over = jim_poll(n->j, 0) != 1;
    return !n->over;
}

void
fake_node_free(struct fake_node *n)
{
    jim_free(n->j);
    n->j = NULL;
}
