/* SPDX-License-Identifier: MIT */
/*
 * cli_ask.c - the commands of jim-cli that ask, print and end: send, history, offline, online,
 * groups, join, leave; and tail, which asks for the last messages and then follows.
 *
 * Those that end log in without fetching what waits for the user: it stays on the server for the
 * client he reads with.
 */
#include "cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_STDIN (1u << 20) /* bytes of a message from standard input: servers take fewer */
#define MAX_HELD (64u << 20) /* bytes of live messages held back by tail -n */

/* --- send ------------------------------------------------------------------------------------- */

static void
on_ack(struct jim_client *client, const struct jim_result *r, void *arg)
{
    struct cli *c = arg;
    struct buf b = {0};

    (void)client;
    c->owed--;
    if (!jim_result_ok(r)) {
        cli_say(c, "not sent: %s", r->text);
        cli_fail(c, r->code == 0 ? CLI_UNSENT : CLI_REFUSED);
    }
    if (c->json && r->json != NULL) {
        struct json v = {.p = r->json, .n = (uint32_t)r->n, .type = JSON_OBJECT};
        json_put_value(&b, &v);
        buf_lit(&b, "\n");
        cli_write(c, &b);
        buf_free(&b);
    }
}

/* All of standard input, without the line feed at its end. False after saying why. */
static bool
read_stdin(struct cli *c, struct buf *b)
{
    ssize_t n;

    do {
        buf_reserve(b, 65536);
        n = read(STDIN_FILENO, b->p + b->len, 65536);
        b->len += n > 0 ? (size_t)n : 0;
    } while ((n > 0 && b->len <= MAX_STDIN) || (n < 0 && errno == EINTR));
    if (n < 0 || b->len > MAX_STDIN) {
        cli_say(c, "cannot read standard input: %s", n < 0 ? strerror(errno) : "it is too long");
        return false;
    }
    if (b->len > 0 && b->p[b->len - 1] == '\n')
        b->len--;
    return true;
}

/* Text that is no UTF-8 would be refused by the server as broken JSON: say it better. */
static bool
is_utf8(const struct buf *b)
{
    uint32_t state = 0;

    return utf8_check(&state, b->p, b->len) && state == 0;
}

int
cli_send(struct cli *c)
{
    struct buf text = {0};

    for (int i = 0; i < c->arg_n; i++)
        buf_printf(&text, "%s%s", i > 0 ? " " : "", c->args[i]);
    if (c->arg_n == 0 && !read_stdin(c, &text)) {
        cli_fail(c, CLI_LOCAL);
    } else if (text.len == 0) {
        cli_say(c, "the message is empty");
        cli_fail(c, CLI_USAGE);
    } else if (!is_utf8(&text)) {
        cli_say(c, "the message is not UTF-8");
        cli_fail(c, CLI_LOCAL);
    } else if (cli_login(c) == CLI_OK) {
        struct jim_send what = {.to = c->to, .group = c->group, .content = text.p,
                                .content_n = text.len, .id = c->id};
        cli_owe(c, jim_client_send(c->client, &what, on_ack, c));
        cli_run(c, NULL);
        if (c->status == CLI_CONNECT && c->owed > 0)
            c->status = CLI_UNSENT;
    }
    buf_free(&text);
    return c->status;
}

/* --- tail ------------------------------------------------------------------------------------- */

/*
 * With -n the last messages are asked for when the connection is there, and what comes by itself
 * meanwhile is held back until they have been printed: then what is behind them follows, so that
 * nothing is missing or printed twice.
 */
struct place { /* a conversation whose past is asked for */
    char *name;    /* owned */
    bool group;
    uint64_t last; /* printed up to here */
};
struct tail {
    struct cli *cli;
    bool asked, lost;
    struct place *place;       /* owned, names too */
    size_t places, answered;   /* answers to their questions come in the order of these */
    struct jim_message **held; /* owned, each one block */
    size_t held_n, held_cap, held_bytes;
};

/* The other side of a message: its group, or the user with whom it was. */
static const char *
other_side(struct jim_client *client, const struct jim_message *m)
{
    const char *user = jim_client_user(client);

    if (m->chat_type == JIM_TO_GROUP)
        return m->group;
    return m->from != NULL && user != NULL && strcmp(m->from, user) == 0 ? m->to : m->from;
}

/* Is it of the conversation that -T or -G name, if they do? */
static bool
is_wanted(const struct cli *c, const struct jim_message *m)
{
    const char *name = c->group != NULL ? c->group : c->to;
    const char *other = other_side(c->client, m);

    if (name == NULL)
        return true;
    return m->chat_type == (c->group != NULL ? JIM_TO_GROUP : JIM_TO_USER) && other != NULL &&
           strcmp(other, name) == 0;
}

static void
tail_print(struct tail *t, const struct jim_message *m)
{
    const char *name = other_side(t->cli->client, m);

    for (size_t i = 0; i < t->places && name != NULL && m->seq != 0; i++) {
        struct place *p = &t->place[i];
        if (p->group != (m->chat_type == JIM_TO_GROUP) || strcmp(p->name, name) != 0)
            continue;
        if (m->seq <= p->last)
            return;
        p->last = m->seq;
    }
    cli_print(t->cli, m);
}

/* Copy a string behind the block's end so far. */
static const char *
keep(char **at, const char *p, size_t n)
{
    char *to = *at;

    if (p == NULL)
        return NULL;
    memcpy(to, p, n);
    to[n] = '\0';
    *at += n + 1;
    return to;
}

static struct jim_message *
message_copy(const struct jim_message *m, size_t *size)
{
    const char *s[] = {m->from, m->to, m->group, m->id};

    *size = sizeof *m + m->content_n + m->json_n + 8;
    for (size_t i = 0; i < 4; i++)
        *size += s[i] != NULL ? strlen(s[i]) : 0;
    struct jim_message *copy = xmalloc(*size);
    char *at = (char *)(copy + 1);
    *copy = *m;
    copy->from = keep(&at, m->from, m->from != NULL ? strlen(m->from) : 0);
    copy->to = keep(&at, m->to, m->to != NULL ? strlen(m->to) : 0);
    copy->group = keep(&at, m->group, m->group != NULL ? strlen(m->group) : 0);
    copy->id = keep(&at, m->id, m->id != NULL ? strlen(m->id) : 0);
    copy->content = keep(&at, m->content, m->content_n);
    copy->json = keep(&at, m->json, m->json_n);
    copy->extras = NULL;
    copy->extras_n = 0;
    return copy;
}

static void
tail_release(struct tail *t)
{
    for (size_t i = 0; i < t->held_n; i++) {
        if (!t->cli->over)
            tail_print(t, t->held[i]);
        free(t->held[i]);
    }
    t->held_n = t->held_bytes = 0;
}

static void
tail_message(struct jim_client *client, const struct jim_message *m, void *arg)
{
    struct tail *t = arg;
    size_t size;

    (void)client;
    if (!is_wanted(t->cli, m) || t->cli->over)
        return;
    if (t->cli->owed == 0 || t->held_bytes > MAX_HELD) {
        tail_release(t);
        tail_print(t, m);
        return;
    }
    GROW(t->held, t->held_n, t->held_cap, 64);
    t->held[t->held_n++] = message_copy(m, &size);
    t->held_bytes += size;
}

static void
tail_past_message(struct jim_client *client, const struct jim_message *m, void *arg)
{
    (void)client;
    tail_print(arg, m);
}

static void
tail_past(struct jim_client *client, const struct jim_result *r, void *arg)
{
    struct tail *t = arg;

    t->cli->owed--;
    t->answered++;
    if (t->cli->over)
        return;
    if (!jim_result_ok(r)) {
        cli_refused(t->cli, "the last messages", r);
        return;
    }
    jim_result_messages(client, r, NULL, tail_past_message, t);
    if (t->cli->owed == 0)
        tail_release(t);
}

static void
tail_ask(struct tail *t, const char *name, bool group)
{
    struct jim_history h = {.group = group ? name : NULL, .with = group ? NULL : name,
                            .before_seq = UINT64_MAX, .count = t->cli->last};

    t->place = xrealloc(t->place, (t->places + 1) * sizeof *t->place);
    t->place[t->places++] = (struct place){.name = xstrndup(name, strlen(name)), .group = group};
    cli_owe(t->cli, jim_client_history(t->cli->client, &h, tail_past, t));
}

/* The ids of an array of objects, each handed to fn. */
static void
each_member(const struct json *array, const char *name,
            void (*fn)(void *arg, const char *id, struct str object), void *arg)
{
    struct json_iter it;
    struct json v;

    if (array->type != JSON_ARRAY)
        return;
    json_enter(&it, array);
    while (json_next(&it, NULL, &v) == 1) {
        struct json id = cli_member((struct str){v.p, v.n}, name);
        if (v.type != JSON_OBJECT || id.type != JSON_STRING)
            continue;
        char *text = cli_text(&id);
        fn(arg, text, (struct str){v.p, v.n});
        free(text);
    }
}

static void
tail_group(void *arg, const char *id, struct str object)
{
    (void)object;
    tail_ask(arg, id, true);
}

static void
tail_friend(void *arg, const char *id, struct str object)
{
    (void)object;
    tail_ask(arg, id, false);
}

static void
tail_circle(void *arg, const char *id, struct str object) /* friends come in groups, too */
{
    struct json users = cli_member(object, "users");

    (void)id;
    each_member(&users, "userId", tail_friend, arg);
}

static void
tail_info(struct jim_client *client, const struct jim_result *r, void *arg)
{
    struct tail *t = arg;
    struct json data, list;

    (void)client;
    t->cli->owed--;
    if (!jim_result_ok(r)) {
        cli_refused(t->cli, "groups and friends", r);
        return;
    }
    data = cli_member((struct str){r->json, r->n}, "data");
    list = cli_member((struct str){data.p, data.n}, "groups");
    each_member(&list, "groupId", tail_group, t);
    list = cli_member((struct str){data.p, data.n}, "friends");
    each_member(&list, "groupId", tail_circle, t);
    if (t->cli->owed == 0)
        tail_release(t);
}

static void tail_stands(struct jim_client *client, const struct jim_result *r, void *arg);

/* Which conversations are there? Told in pages. */
static void
tail_ask_stands(struct tail *t)
{
    const char *user = jim_client_user(t->cli->client);
    struct buf b = {0};

    buf_lit(&b, "{\"type\":2,\"userId\":");
    json_put_string(&b, user, strlen(user));
    buf_printf(&b, ",\"offset\":%zu}", t->places);
    cli_owe(t->cli, jim_client_request(t->cli->client, 19, b.p, b.len, tail_stands, t));
    buf_free(&b);
}

/* The names in an object, each a conversation. */
static void
tail_names(struct tail *t, const struct json *object, bool group)
{
    struct json_iter it;
    struct json key, v;

    if (object->type != JSON_OBJECT)
        return;
    json_enter(&it, object);
    while (json_next(&it, &key, &v) == 1) {
        char *name = cli_text(&key);
        tail_ask(t, name, group);
        free(name);
    }
}

static void
tail_stands(struct jim_client *client, const struct jim_result *r, void *arg)
{
    struct tail *t = arg;
    struct json data, list;
    size_t before = t->places;

    t->cli->owed--;
    if (t->cli->over)
        return;
    if (r->code == 0) { /* lost with the connection: if it was the first, asked with the next */
        t->asked = t->places > 0;
        return;
    }
    if (!jim_result_ok(r)) { /* a server that does not know the question */
        cli_owe(t->cli, jim_client_info(client, jim_client_user(client), 2, tail_info, t));
        return;
    }
    data = cli_member((struct str){r->json, r->n}, "data");
    list = cli_member((struct str){data.p, data.n}, "groups");
    tail_names(t, &list, true);
    list = cli_member((struct str){data.p, data.n}, "friends");
    tail_names(t, &list, false);
    if (t->places > before && cli_member((struct str){data.p, data.n}, "more").type == JSON_TRUE)
        tail_ask_stands(t);
    if (t->cli->owed == 0)
        tail_release(t);
}

static void
tail_state(struct jim_client *client, enum jim_client_state state, const char *why, void *arg)
{
    struct tail *t = arg;
    struct cli *c = t->cli;

    (void)client;
    cli_state(c, state, why);
    if (c->over)
        return;
    if (state == JIM_CLIENT_WAITING && c->was_ready && !t->lost) {
        t->lost = true;
        if (!c->quiet)
            cli_say(c, "connection lost: %s; trying again", why);
    } else if (state == JIM_CLIENT_READY && t->lost) {
        t->lost = false;
        if (!c->quiet)
            cli_say(c, "connected again");
    }
    if (state != JIM_CLIENT_READY || t->asked || c->last <= 0)
        return;
    t->asked = true;
    if (c->to == NULL && c->group == NULL)
        tail_ask_stands(t);
    else
        tail_ask(t, c->group != NULL ? c->group : c->to, c->group != NULL);
}

static bool
never(const struct cli *c)
{
    (void)c;
    return false;
}

int
cli_tail(struct cli *c)
{
    struct tail t = {.cli = c};
    struct jim_client_options o = {.on_state = tail_state, .on_message = tail_message, .arg = &t};

    c->for_ever = c->wait_ms < 0;
    if (c->last > CLI_PAGE) {
        cli_say(c, "-n takes at most %d here", CLI_PAGE);
        return CLI_USAGE;
    }
    if (cli_open(c, &o) == CLI_OK)
        cli_run(c, never);
    c->over = true;
    tail_release(&t);
    free(t.held);
    for (size_t i = 0; i < t.places; i++)
        free(t.place[i].name);
    free(t.place);
    return c->status;
}

/* --- history and offline ---------------------------------------------------------------------- */

struct pages {
    struct cli *cli;
    bool offline;
    uint64_t after;   /* the last number printed, or before the first wanted */
    uint64_t newest;  /* of the conversation; 0: not known */
    uint64_t printed; /* messages */
    bool more;
    bool progress;    /* to be shown */
};

static void
pages_progress(const struct pages *p)
{
    if (!p->progress)
        return;
    fprintf(stderr, "\r%llu messages", (unsigned long long)p->printed);
    if (p->newest > 0)
        fprintf(stderr, ", at %llu of %llu", (unsigned long long)p->after,
                (unsigned long long)p->newest);
    fputs("\x1b[K", stderr);
}

static void
pages_message(struct jim_client *client, const struct jim_message *m, void *arg)
{
    struct pages *p = arg;

    (void)client;
    if (p->cli->over || (!p->offline && m->seq != 0 && m->seq <= p->after))
        return;
    if (!p->offline)
        p->after = m->seq;
    p->printed++;
    cli_print(p->cli, m);
}

static void
pages_answer(struct jim_client *client, const struct jim_result *r, void *arg)
{
    struct pages *p = arg;
    uint64_t before = p->printed;

    p->cli->owed--;
    if (!jim_result_ok(r)) {
        if (p->progress)
            fputc('\n', stderr);
        cli_refused(p->cli, p->offline ? "waiting messages" : "history", r);
        return;
    }
    jim_result_messages(client, r, &p->more, pages_message, p);
    /* The same page again would be without end. */
    p->more &= p->printed > before;
    pages_progress(p);
}

static void
newest_message(struct jim_client *client, const struct jim_message *m, void *arg)
{
    struct pages *p = arg;

    (void)client;
    p->newest = m->seq;
}

static void
newest_answer(struct jim_client *client, const struct jim_result *r, void *arg)
{
    struct pages *p = arg;

    p->cli->owed--;
    if (!jim_result_ok(r))
        cli_refused(p->cli, "history", r);
    else
        jim_result_messages(client, r, NULL, newest_message, p);
}

static int
pages_run(struct pages *p)
{
    struct cli *c = p->cli;

    p->progress = !c->quiet && isatty(STDERR_FILENO) && !isatty(STDOUT_FILENO);
    do {
        struct jim_history h = {.with = c->to, .group = c->group, .after_seq = p->after,
                                .begin_ms = c->since, .end_ms = c->until};
        p->more = false;
        cli_owe(c, p->offline ? jim_client_offline(c->client, c->to, c->group, pages_answer, p)
                              : jim_client_history(c->client, &h, pages_answer, p));
    } while (cli_run(c, NULL) == CLI_OK && p->more);
    if (p->progress)
        fputc('\n', stderr);
    return c->status;
}

int
cli_history(struct cli *c)
{
    struct pages p = {.cli = c};
    struct jim_history newest = {.with = c->to, .group = c->group, .before_seq = UINT64_MAX,
                                 .count = 1};

    if (cli_login(c) != CLI_OK)
        return c->status;
    cli_owe(c, jim_client_history(c->client, &newest, newest_answer, &p));
    if (cli_run(c, NULL) != CLI_OK)
        return c->status;
    if (c->last >= 0 && p.newest > (uint64_t)c->last) /* numbers have no gaps */
        p.after = p.newest - (uint64_t)c->last;
    return c->last == 0 ? c->status : pages_run(&p);
}

int
cli_offline(struct cli *c)
{
    struct pages p = {.cli = c, .offline = true};

    return cli_login(c) == CLI_OK ? pages_run(&p) : c->status;
}

/* --- online, groups --------------------------------------------------------------------------- */

struct people {
    struct cli *cli;
    struct edit_words names; /* those printed: a user may be in several groups */
};

static void
print_json(struct cli *c, struct str object)
{
    struct json v = {.p = object.p, .n = (uint32_t)object.n, .type = JSON_OBJECT};
    struct buf b = {0};

    json_put_value(&b, &v);
    buf_lit(&b, "\n");
    cli_write(c, &b);
    buf_free(&b);
}

/* A line of text: the id, and what is said of it. */
static void
print_entry(struct cli *c, const char *id, const char *more)
{
    struct buf b = {0};

    cli_name(c, &b, id);
    if (more[0] != '\0')
        buf_lit(&b, "\t");
    term_show(&b, str_of(more), NULL);
    buf_lit(&b, "\n");
    cli_write(c, &b);
    buf_free(&b);
}

static void
people_user(void *arg, const char *id, struct str object)
{
    struct people *p = arg;
    struct json status = cli_member(object, "status");

    if (!str_eq((struct str){status.p, status.n}, STR("online")))
        return;
    for (size_t i = 0; i < p->names.n; i++)
        if (strcmp(p->names.word[i], id) == 0)
            return;
    edit_words_add(&p->names, str_of(id));
    if (p->cli->json)
        print_json(p->cli, object);
    else
        print_entry(p->cli, id, "");
}

static void
people_group(void *arg, const char *id, struct str object)
{
    struct json users = cli_member(object, "users");

    (void)id;
    each_member(&users, "userId", people_user, arg);
}

static void
on_people(struct jim_client *client, const struct jim_result *r, void *arg)
{
    struct people *p = arg;
    struct json data, list;

    (void)client;
    p->cli->owed--;
    if (!jim_result_ok(r)) {
        cli_refused(p->cli, "users", r);
        return;
    }
    data = cli_member((struct str){r->json, r->n}, "data");
    list = cli_member((struct str){data.p, data.n}, "groups");
    each_member(&list, "groupId", people_group, p);
    list = cli_member((struct str){data.p, data.n}, "friends");
    each_member(&list, "groupId", people_group, p);
}

/* The answer about one user. Unknown is an answer, too, but no success. */
static void
on_user(struct jim_client *client, const struct jim_result *r, void *arg)
{
    struct people *p = arg;
    const char *name = p->cli->args[p->names.n];
    struct json data, status;

    (void)client;
    p->cli->owed--;
    edit_words_add(&p->names, str_of(name)); /* counts: answers come in the order of questions */
    if (r->code == 10004) {
        cli_say(p->cli, "no such user is known: %s", name);
        p->cli->status = CLI_REFUSED;
        return;
    }
    if (!jim_result_ok(r)) {
        cli_refused(p->cli, name, r);
        return;
    }
    data = cli_member((struct str){r->json, r->n}, "data");
    status = cli_member((struct str){data.p, data.n}, "status");
    char *text = cli_text(&status);
    if (p->cli->json && data.type == JSON_OBJECT)
        print_json(p->cli, (struct str){data.p, data.n});
    else
        print_entry(p->cli, name, text);
    free(text);
}

int
cli_online(struct cli *c)
{
    struct people p = {.cli = c};

    if (cli_login(c) != CLI_OK)
        return c->status;
    if (c->arg_n == 0)
        cli_owe(c, jim_client_info(c->client, jim_client_user(c->client), 0, on_people, &p));
    for (int i = 0; i < c->arg_n && !c->over; i++) {
        cli_owe(c, jim_client_info(c->client, c->args[i], 2, on_user, &p));
        cli_run(c, NULL);
    }
    cli_run(c, NULL);
    edit_words_free(&p.names);
    return c->status;
}

static void
print_group(void *arg, const char *id, struct str object)
{
    struct cli *c = arg;
    struct json name = cli_member(object, "name"), online = cli_member(object, "online");
    struct buf b = {0};
    int64_t n = 0;
    char *text = cli_text(&name);

    json_int(&online, &n);
    if (c->json) {
        buf_lit(&b, "{\"groupId\":");
        json_put_string(&b, id, strlen(id));
        buf_lit(&b, ",\"name\":");
        json_put_value(&b, &name);
        buf_printf(&b, ",\"online\":%lld}\n", (long long)n);
        cli_write(c, &b);
    } else {
        buf_printf(&b, "%lld online", (long long)n);
        if (strcmp(text, id) != 0)
            buf_printf(&b, "  %s", text);
        buf_lit(&b, "\0");
        print_entry(c, id, b.p);
    }
    buf_free(&b);
    free(text);
}

static void
on_groups(struct jim_client *client, const struct jim_result *r, void *arg)
{
    struct cli *c = arg;
    struct json data, list;

    (void)client;
    c->owed--;
    if (!jim_result_ok(r)) {
        cli_refused(c, "groups", r);
        return;
    }
    data = cli_member((struct str){r->json, r->n}, "data");
    list = cli_member((struct str){data.p, data.n}, "groups");
    each_member(&list, "groupId", print_group, c);
}

int
cli_groups(struct cli *c)
{
    if (cli_login(c) != CLI_OK)
        return c->status;
    cli_owe(c, jim_client_info(c->client, jim_client_user(c->client), 0, on_groups, c));
    return cli_run(c, NULL);
}

/* --- join, leave ------------------------------------------------------------------------------ */

static void
on_done(struct jim_client *client, const struct jim_result *r, void *arg)
{
    struct cli *c = arg;

    (void)client;
    c->owed--;
    if (!jim_result_ok(r))
        cli_refused(c, c->args[0], r);
}

int
cli_join(struct cli *c)
{
    if (cli_login(c) != CLI_OK)
        return c->status;
    const char *name = c->arg_n > 1 ? c->args[1] : NULL;
    cli_owe(c, jim_client_join(c->client, c->args[0], name, on_done, c));
    return cli_run(c, NULL);
}

int
cli_leave(struct cli *c)
{
    if (cli_login(c) != CLI_OK)
        return c->status;
    cli_owe(c, jim_client_leave(c->client, c->args[0], on_done, c));
    return cli_run(c, NULL);
}
