/* SPDX-License-Identifier: MIT */
/*
 * cli_chat.c - jim-cli chat: a conversation on a terminal, or lines from a pipe.
 *
 *   printing       above the line being typed, or on standard output
 *   conversations  the current one, and what is unread in the others
 *   sending        a message is printed when it is acknowledged, or marked when that takes long
 *   hearing        messages, notices, the state of the connection
 *   commands       /to, /group, ... and the completion of names
 *   terminal       what is typed; cli_tty.c has the rest of it
 *   pipe           each line is a message
 *   the loop
 */
#include "cli.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MARK_MS 700          /* an acknowledgement that takes longer is worth a mark */
#define MAX_WAITING 1000     /* messages of a pipe that wait for acknowledgement */
#define MAX_LINE_IN (1u << 20) /* bytes of a line of a pipe: above any message */
#define MAX_NAMES_KNOWN 5000 /* users, and groups, kept for completion */
#define MAX_CONVERSATIONS 1000
#define SHOWN_HISTORY 20     /* messages of /history */
#define NONE SIZE_MAX

struct conversation {
    char *name; /* owned */
    bool group;
    size_t unread;
    bool told; /* that he is offline */
};

struct unacked { /* a message that is not acknowledged */
    struct unacked *next;
    struct talk *chat;
    char *name, *text; /* owned */
    size_t n;
    bool group;
    bool marked;       /* printed, as not acknowledged yet */
    int64_t wall_ms, mono_ms;
    size_t line;       /* of a pipe */
};

struct talk {
    struct cli *cli;
    struct edit *edit;      /* owned; NULL: a pipe */
    struct conversation *conversation; /* owned */
    size_t conversations, current; /* NONE: none */
    struct unacked *first, **last;
    size_t unsent;          /* messages between them */
    size_t late;            /* acknowledged this turn, after they had been marked */
    size_t failed;          /* messages of a pipe that were refused */
    struct edit_words users, groups;
    bool asked;             /* for names */
    bool lost;              /* the connection, and it was said */
    bool leaving;           /* /quit was said while messages were unacknowledged */
    int year, day;          /* of the last message printed */
    struct buf in;          /* of a pipe: what is not sent yet */
    bool end;               /* of standard input */
    size_t line;            /* number of the last line of a pipe */
    struct buf out;         /* of a pipe: printed at the end of the turn */
    struct tty tty;         /* unless a pipe */
};

/* --- printing --------------------------------------------------------------------------------- */

static struct str
text_of(const struct buf *b)
{
    return (struct str){b->p, b->len};
}

static void
chat_print(struct talk *ch, const struct buf *text)
{
    if (ch->edit != NULL)
        edit_print(ch->edit, text_of(text));
    else
        buf_str(&ch->out, text_of(text));
}

/* Of what happens besides messages: set apart on a terminal, and not part of a pipe's output. */
static void note(struct talk *ch, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void
note(struct talk *ch, const char *format, ...)
{
    char text[1024];
    struct buf b = {0};
    va_list ap;

    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    if (ch->edit == NULL) {
        if (!ch->cli->quiet)
            cli_say(ch->cli, "%s", text);
        return;
    }
    if (ch->cli->colour)
        buf_lit(&b, "\x1b[2m");
    buf_lit(&b, "-- ");
    term_show(&b, str_of(text), "\n   ");
    if (ch->cli->colour)
        buf_lit(&b, "\x1b[0m");
    buf_lit(&b, "\n");
    chat_print(ch, &b);
    buf_free(&b);
}

static void
chat_flush(struct talk *ch)
{
    struct buf *out = ch->edit != NULL ? edit_output(ch->edit) : &ch->out;

    cli_write(ch->cli, out);
    out->len = 0;
}

/* Before something is said on standard error: the line being typed is out of the way. */
static void
chat_before_say(struct cli *c)
{
    struct talk *ch = c->arg;
    struct buf *out;

    if (ch->edit == NULL || !ch->tty.raw)
        return;
    edit_hide(ch->edit);
    out = edit_pending(ch->edit);
    cli_write(c, out);
    out->len = 0;
}

static void
print_message(struct talk *ch, const struct jim_message *m, bool where, const char *mark)
{
    time_t seconds = (time_t)((m->create_ms > 0 ? m->create_ms : time_wall_ms()) / 1000);
    struct buf b = {0};
    char date[64];
    struct tm tm;

    if (ch->edit != NULL && localtime_r(&seconds, &tm) != NULL &&
        (tm.tm_year != ch->year || tm.tm_yday != ch->day)) {
        ch->year = tm.tm_year;
        ch->day = tm.tm_yday;
        strftime(date, sizeof date, "%Y-%m-%d", &tm);
        note(ch, "%s", date);
    }
    if (ch->edit == NULL && ch->cli->json)
        cli_message_json(&b, m);
    else
        cli_message(ch->cli, &b, m, ch->edit == NULL, where);
    if (mark != NULL)
        buf_printf(&b, "      (%s)\n", mark);
    chat_print(ch, &b);
    buf_free(&b);
}

/* --- conversations ---------------------------------------------------------------------------- */

static size_t
conversation_find(struct talk *ch, const char *name, bool group)
{
    size_t i = 0;

    while (i < ch->conversations && (ch->conversation[i].group != group ||
                                     strcmp(ch->conversation[i].name, name) != 0))
        i++;
    if (i < ch->conversations)
        return i;
    if (i == MAX_CONVERSATIONS) { /* one place serves for what is beyond: never the current one */
        i -= ch->current == i - 1 ? 2 : 1;
        free(ch->conversation[i].name);
    } else
        ch->conversation = xrealloc(ch->conversation,
                                    ++ch->conversations * sizeof *ch->conversation);
    ch->conversation[i] = (struct conversation){.name = xstrndup(name, strlen(name)),
                                                .group = group};
    return i;
}

static bool
is_current(const struct talk *ch, const char *name, bool group)
{
    const struct conversation *v;

    if (ch->current == NONE || name == NULL)
        return false;
    v = &ch->conversation[ch->current];
    return v->group == group && strcmp(v->name, name) == 0;
}

static void
conversation_go(struct talk *ch, const char *name, bool group)
{
    ch->current = conversation_find(ch, name, group);
    ch->conversation[ch->current].unread = 0;
}

static void
chat_prompt(struct talk *ch)
{
    struct buf b = {0};
    size_t unread = 0;
    const char *between = " (";

    for (size_t i = 0; i < ch->conversations; i++)
        unread += ch->conversation[i].unread;
    if (ch->current != NONE) {
        if (ch->conversation[ch->current].group)
            buf_lit(&b, "#");
        term_show(&b, str_of(ch->conversation[ch->current].name), NULL);
    }
    if (ch->cli->down_since != 0) {
        buf_printf(&b, "%sno connection", between);
        between = ", ";
    }
    if (unread > 0) {
        buf_printf(&b, "%s%zu unread", between, unread);
        between = ", ";
    }
    if (ch->unsent > 0 && (ch->first->marked || ch->cli->down_since != 0)) {
        buf_printf(&b, "%s%zu unacknowledged", between, ch->unsent);
        between = ", ";
    }
    buf_printf(&b, "%s> ", between[0] == ',' ? ")" : "");
    edit_prompt(ch->edit, text_of(&b));
    buf_free(&b);
}

/* --- sending ---------------------------------------------------------------------------------- */

static void
sent_print(struct unacked *s, const char *mark)
{
    struct talk *ch = s->chat;
    struct jim_message m = {
        .from = jim_client_user(ch->cli->client), .to = s->group ? NULL : s->name,
        .group = s->group ? s->name : NULL, .content = s->text, .content_n = s->n, .msg_type = -1,
        .chat_type = s->group ? JIM_TO_GROUP : JIM_TO_USER, .create_ms = s->wall_ms, .mine = true};

    print_message(ch, &m, !is_current(ch, s->name, s->group), mark);
}

static void
sent_remove(struct unacked *s)
{
    struct talk *ch = s->chat;
    struct unacked **at = &ch->first;

    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
    if (s->next == NULL)
        ch->last = at;
    ch->unsent--;
    free(s->name);
    free(s->text);
    free(s);
}

static void
on_ack(struct jim_client *client, const struct jim_result *r, void *arg)
{
    struct unacked *s = arg;
    struct talk *ch = s->chat;
    bool ok = jim_result_ok(r);

    (void)client;
    if (ch->edit == NULL) {
        if (!ok) {
            cli_say(ch->cli, "line %zu was not sent: %s", s->line, r->text);
            ch->failed++;
        }
    } else {
        if (!s->marked)
            sent_print(s, NULL);
        if (!ok)
            note(ch, "not sent: %.200s: %s", s->text, r->text);
        ch->late += ok && s->marked;
        size_t at = conversation_find(ch, s->name, s->group);
        if (r->code == 10001 && !ch->conversation[at].told)
            note(ch, "%s is offline and finds it later", s->name);
        ch->conversation[at].told = r->code == 10001;
    }
    sent_remove(s);
}

/* False when the message has to wait, or was refused at once (which is said). */
static bool
send_text(struct talk *ch, struct str text)
{
    struct conversation *v = &ch->conversation[ch->current];
    struct unacked *s = xcalloc(1, sizeof *s);

    *s = (struct unacked){.chat = ch, .name = xstrndup(v->name, strlen(v->name)), .group = v->group,
                       .text = xstrndup(text.p, text.n), .n = text.n, .wall_ms = time_wall_ms(),
                       .mono_ms = time_mono_ms(), .line = ch->line + 1};
    struct jim_send what = {.to = v->group ? NULL : s->name, .group = v->group ? s->name : NULL,
                            .content = s->text, .content_n = s->n, .create_ms = s->wall_ms};
    *ch->last = s;
    ch->last = &s->next;
    ch->unsent++;
    ch->leaving = false;
    if (jim_client_send(ch->cli->client, &what, on_ack, s) != 0)
        return true;
    sent_remove(s);
    return false;
}

static void
say_leaving(struct talk *ch)
{
    note(ch, "%zu messages are not acknowledged; again to leave all the same", ch->unsent);
}

/* Mark what has waited too long; returns ms until the next could have, -1: none. */
static int
chat_mark(struct talk *ch)
{
    int64_t now = time_mono_ms();

    if (ch->edit == NULL)
        return -1;
    if (ch->late > 0) {
        if (ch->unsent == 0)
            note(ch, "all messages are acknowledged");
        ch->late = 0;
    }
    for (struct unacked *s = ch->first; s != NULL; s = s->next) {
        int64_t left = s->mono_ms + MARK_MS - now;
        if (s->marked)
            continue;
        if (left > 0)
            return (int)left;
        s->marked = true;
        sent_print(s, "not acknowledged yet");
        if (ch->leaving && s == ch->first)
            say_leaving(ch);
    }
    return -1;
}

/* --- hearing ---------------------------------------------------------------------------------- */

/* Remember a name for completion: one that can be shown and typed as it is. */
static void
learn(struct edit_words *w, const char *name)
{
    struct buf shown = {0};
    bool plain;

    if (name == NULL || name[0] == '\0' || w->n >= MAX_NAMES_KNOWN)
        return;
    for (size_t i = 0; i < w->n; i++)
        if (strcmp(w->word[i], name) == 0)
            return;
    term_show(&shown, str_of(name), NULL);
    plain = str_eq(text_of(&shown), str_of(name)) && strpbrk(name, " \"") == NULL;
    buf_free(&shown);
    if (plain)
        edit_words_add(w, str_of(name));
}

static void
on_message(struct jim_client *client, const struct jim_message *m, void *arg)
{
    struct talk *ch = arg;
    bool group = m->chat_type == JIM_TO_GROUP;
    const char *me = jim_client_user(client);
    bool mine = m->mine || (m->from != NULL && me != NULL && strcmp(m->from, me) == 0);
    const char *other = group ? m->group : mine ? m->to : m->from;

    if (ch->edit != NULL && other != NULL && m->chat_type != JIM_TO_ALL) {
        learn(&ch->users, m->from);
        learn(group ? &ch->groups : &ch->users, other);
        size_t at = conversation_find(ch, other, group);
        if (ch->current == NONE && !group) /* somebody speaks: answer by typing */
            ch->current = at;
        ch->conversation[at].unread += at != ch->current && !mine;
        if (!mine)
            ch->conversation[at].told = false;
    }
    print_message(ch, m, ch->edit == NULL || !is_current(ch, other, group), NULL);
}

/* A flat User of a notice: the name, owned by the caller, and whether he is online. */
static char *
user_of(struct str object, bool *online)
{
    struct json id = cli_member(object, "userId"), status = cli_member(object, "status");

    *online = str_eq((struct str){status.p, status.n}, STR("online"));
    return cli_text(&id);
}

static void
on_event(struct jim_client *client, int command, const char *json, size_t n, void *arg)
{
    struct talk *ch = arg;
    struct json whole = {.p = json, .n = (uint32_t)n};
    struct json data = command == 10 ? cli_member((struct str){json, n}, "data") : whole;
    struct json group = cli_member((struct str){data.p, data.n}, "group");
    struct json user = cli_member((struct str){data.p, data.n}, "user");
    const char *me = jim_client_user(client);
    bool online;

    if (ch->edit == NULL || (command != 9 && command != 10) || user.type != JSON_OBJECT)
        return;
    char *where = cli_text(&group), *name = user_of((struct str){user.p, user.n}, &online);
    learn(&ch->groups, where);
    learn(&ch->users, name);
    bool here = is_current(ch, where, true) || is_current(ch, name, false);
    if (me != NULL && strcmp(name, me) == 0) {
        if (command == 10)
            note(ch, "you have left #%s", where);
    } else if (here && command == 9) {
        note(ch, "%s %s #%s", name, online ? "is online in" : "has become a member of", where);
    } else if (here) {
        note(ch, "%s %s #%s", name, online ? "has left" : "is offline in", where);
    }
    free(where);
    free(name);
}

static void
names_of(struct talk *ch, struct json list, bool groups)
{
    struct json_iter it;
    struct json v;

    if (list.type != JSON_ARRAY)
        return;
    json_enter(&it, &list);
    while (json_next(&it, NULL, &v) == 1) {
        struct str object = {v.p, v.n};
        struct json id = cli_member(object, "groupId"), users = cli_member(object, "users"), user;
        char *name = cli_text(&id);
        struct json_iter inner;
        bool online;
        if (groups)
            learn(&ch->groups, name);
        free(name);
        if (users.type != JSON_ARRAY)
            continue;
        json_enter(&inner, &users);
        while (json_next(&inner, NULL, &user) == 1) {
            name = user_of((struct str){user.p, user.n}, &online);
            learn(&ch->users, name);
            free(name);
        }
    }
}

static void
on_names(struct jim_client *client, const struct jim_result *r, void *arg)
{
    struct talk *ch = arg;
    struct json data = cli_member((struct str){r->json, r->n}, "data");

    (void)client;
    names_of(ch, cli_member((struct str){data.p, data.n}, "groups"), true);
    names_of(ch, cli_member((struct str){data.p, data.n}, "friends"), false);
}

static void
on_state(struct jim_client *client, enum jim_client_state state, const char *why, void *arg)
{
    struct talk *ch = arg;

    cli_state(ch->cli, state, why);
    if (ch->cli->over)
        return;
    if (state == JIM_CLIENT_WAITING && !ch->lost) {
        ch->lost = true;
        note(ch, "%s: %s; trying again", ch->cli->was_ready ? "connection lost" : "no connection",
             why);
    } else if (state == JIM_CLIENT_READY) {
        if (ch->lost)
            note(ch, "connected again");
        else if (ch->edit != NULL)
            note(ch, "%s at %s; /help tells more", jim_client_user(client), ch->cli->url);
        ch->lost = false;
        if (!ch->asked && ch->edit != NULL)
            jim_client_info(client, jim_client_user(client), 2, on_names, ch);
        ch->asked = true;
    }
}

/* --- commands --------------------------------------------------------------------------------- */

/* The next name of a command's arguments: up to a blank, or between quotes. Owned; NULL: none. */
static char *
take_name(struct str *rest)
{
    bool quoted;
    struct str name;

    *rest = str_trim(*rest);
    if (rest->n == 0)
        return NULL;
    quoted = rest->p[0] == '"';
    if (quoted) {
        rest->p++;
        rest->n--;
    }
    str_split(rest, quoted ? '"' : ' ', &name);
    if (rest->p == NULL)
        *rest = (struct str){"", 0};
    *rest = str_trim(*rest);
    return name.n > 0 ? xstrndup(name.p, name.n) : NULL;
}

static void
say_line(struct talk *ch, struct str text)
{
    if (text.n == 0)
        return;
    if (ch->current == NONE)
        note(ch, "to whom? /to USER or /group ID says it");
    else if (!send_text(ch, text))
        note(ch, "not sent: %s", jim_client_error(ch->cli->client));
}

static void
go(struct talk *ch, struct str rest, bool group)
{
    char *name = take_name(&rest);

    if (name == NULL) {
        note(ch, group ? "/group takes the id of a group" : "/to takes the name of a user");
        return;
    }
    conversation_go(ch, name, group);
    free(name);
    say_line(ch, rest);
}

static void
do_to(struct talk *ch, struct str rest)
{
    go(ch, rest, false);
}

static void
do_group(struct talk *ch, struct str rest)
{
    go(ch, rest, true);
}

static void
history_message(struct jim_client *client, const struct jim_message *m, void *arg)
{
    struct talk *ch = arg;
    struct buf b = {0};

    (void)client;
    cli_message(ch->cli, &b, m, true, true);
    chat_print(ch, &b);
    buf_free(&b);
}

static void
on_history(struct jim_client *client, const struct jim_result *r, void *arg)
{
    struct talk *ch = arg;

    if (!jim_result_ok(r))
        note(ch, "no history: %s", r->text);
    else if (jim_result_messages(client, r, NULL, history_message, ch) <= 0)
        note(ch, "nothing was said yet");
    else
        note(ch, "end of the history");
}

static void
do_history(struct talk *ch, struct str rest)
{
    char *text = take_name(&rest);
    long count = text != NULL ? strtol(text, NULL, 10) : SHOWN_HISTORY;

    free(text);
    if (ch->current == NONE || count < 1 || count > CLI_PAGE) {
        note(ch, ch->current == NONE ? "whose? /to USER or /group ID says it"
                                     : "/history takes a number up to 1000");
        return;
    }
    const struct conversation *v = &ch->conversation[ch->current];
    struct jim_history h = {.with = v->group ? NULL : v->name, .group = v->group ? v->name : NULL,
                            .before_seq = UINT64_MAX, .count = count};
    if (jim_client_history(ch->cli->client, &h, on_history, ch) == 0)
        note(ch, "no history: %s", jim_client_error(ch->cli->client));
}

static void
on_who(struct jim_client *client, const struct jim_result *r, void *arg)
{
    struct talk *ch = arg;
    struct json data = cli_member((struct str){r->json, r->n}, "data"), v;
    struct json list = cli_member((struct str){data.p, data.n}, "groups");
    struct json_iter it;
    bool online;

    (void)client;
    if (!jim_result_ok(r)) {
        note(ch, "unknown: %s", r->text);
        return;
    }
    if (list.type != JSON_ARRAY) { /* one user */
        char *name = user_of((struct str){data.p, data.n}, &online);
        note(ch, "%s is %s", name, online ? "online" : "offline");
        free(name);
        return;
    }
    json_enter(&it, &list);
    while (json_next(&it, NULL, &v) == 1) {
        struct json id = cli_member((struct str){v.p, v.n}, "groupId"), user;
        struct json users = cli_member((struct str){v.p, v.n}, "users");
        char *group = cli_text(&id);
        struct buf b = {0};
        struct json_iter inner;
        buf_printf(&b, "#%s:", group);
        if (users.type == JSON_ARRAY && (ch->current == NONE || is_current(ch, group, true))) {
            json_enter(&inner, &users);
            while (json_next(&inner, NULL, &user) == 1 && b.len < 900) {
                char *name = user_of((struct str){user.p, user.n}, &online);
                buf_printf(&b, " %s", name);
                free(name);
            }
            note(ch, "%.*s%s", (int)b.len, b.p, b.len < 900 ? "" : " and more");
        }
        buf_free(&b);
        free(group);
    }
}

static void
do_who(struct talk *ch, struct str rest)
{
    const char *me = jim_client_user(ch->cli->client);
    char *name = take_name(&rest);
    bool group = ch->current == NONE || ch->conversation[ch->current].group;
    const char *user = name != NULL ? name : group ? me : ch->conversation[ch->current].name;

    if (user == NULL ||
        jim_client_info(ch->cli->client, user, group && name == NULL ? 0 : 2, on_who, ch) == 0)
        note(ch, "unknown: %s", jim_client_error(ch->cli->client));
    free(name);
}

static void
do_list(struct talk *ch, struct str rest)
{
    (void)rest;
    if (ch->conversations == 0)
        note(ch, "no conversations yet");
    for (size_t i = 0; i < ch->conversations; i++) {
        const struct conversation *v = &ch->conversation[i];
        note(ch, "%s%s: %zu unread%s", v->group ? "#" : "", v->name, v->unread,
             i == ch->current ? " (here)" : "");
    }
}

struct asked { /* for joining or leaving */
    struct talk *chat;
    bool join;
    char name[];
};

static void
on_asked(struct jim_client *client, const struct jim_result *r, void *arg)
{
    struct asked *a = arg;
    struct talk *ch = a->chat;

    (void)client;
    if (!jim_result_ok(r)) {
        note(ch, "%s #%s: %s", a->join ? "cannot join" : "cannot leave", a->name, r->text);
    } else {
        note(ch, "you have %s #%s", a->join ? "joined" : "left", a->name);
        if (a->join)
            conversation_go(ch, a->name, true);
        else if (is_current(ch, a->name, true))
            ch->current = NONE;
    }
    free(a);
}

static void
join_or_leave(struct talk *ch, struct str rest, bool join)
{
    char *name = take_name(&rest);
    const char *group = name;
    struct asked *a;

    if (group == NULL && !join && ch->current != NONE && ch->conversation[ch->current].group)
        group = ch->conversation[ch->current].name;
    if (group == NULL) {
        note(ch, "%s takes the id of a group", join ? "/join" : "/leave");
        return;
    }
    a = xmalloc(sizeof *a + strlen(group) + 1);
    a->chat = ch;
    a->join = join;
    memcpy(a->name, group, strlen(group) + 1);
    if ((join ? jim_client_join(ch->cli->client, group, NULL, on_asked, a)
              : jim_client_leave(ch->cli->client, group, on_asked, a)) == 0) {
        note(ch, "%s", jim_client_error(ch->cli->client));
        free(a);
    }
    free(name);
}

static void
do_join(struct talk *ch, struct str rest)
{
    join_or_leave(ch, rest, true);
}

static void
do_leave(struct talk *ch, struct str rest)
{
    join_or_leave(ch, rest, false);
}

static void
do_quit(struct talk *ch, struct str rest)
{
    (void)rest;
    if (ch->unsent > 0 && !ch->leaving) { /* most often it is a matter of a moment */
        ch->leaving = true;
        if (ch->cli->down_since != 0)
            say_leaving(ch);
        return;
    }
    cli_fail(ch->cli, ch->unsent > 0 ? CLI_UNSENT : CLI_OK);
}

static void do_help(struct talk *ch, struct str rest);

static const struct {
    const char *name, *args, *help;
    void (*fn)(struct talk *ch, struct str rest);
    char completes; /* u: a user, g: a group, 0: nothing */
} commands[] = {
    {"/group", "ID [TEXT]", "speak in a group", do_group, 'g'},
    {"/help", "", "this list", do_help, 0},
    {"/history", "[N]", "the last messages of this conversation", do_history, 0},
    {"/join", "ID", "become a member of a group, which is made if need be", do_join, 'g'},
    {"/leave", "[ID]", "leave a group", do_leave, 'g'},
    {"/list", "", "conversations, and what is unread in them", do_list, 0},
    {"/quit", "", "end (Ctrl-D, too)", do_quit, 0},
    {"/to", "USER [TEXT]", "speak to a user", do_to, 'u'},
    {"/who", "[USER]", "who is online in this group; whether a user is", do_who, 'u'},
};
#define COMMANDS (sizeof commands / sizeof commands[0])

static void
do_help(struct talk *ch, struct str rest)
{
    (void)rest;
    for (size_t i = 0; i < COMMANDS; i++)
        note(ch, "%s %s%*s%s", commands[i].name, commands[i].args,
             (int)(22 - strlen(commands[i].name) - strlen(commands[i].args)), "", commands[i].help);
    note(ch, "//text says /text. Tab completes, Up and Ctrl-R find older lines");
}

static void
chat_line(struct talk *ch, struct str line)
{
    struct str rest = line, name;

    if (line.n > 1 && line.p[0] == '/' && line.p[1] == '/') {
        say_line(ch, (struct str){line.p + 1, line.n - 1});
        return;
    }
    if (line.n == 0 || line.p[0] != '/') {
        say_line(ch, line);
        return;
    }
    str_split(&rest, ' ', &name);
    if (rest.p == NULL)
        rest = (struct str){"", 0};
    for (size_t i = 0; i < COMMANDS; i++) {
        if (str_eq(str_of(commands[i].name), name)) {
            commands[i].fn(ch, rest);
            return;
        }
    }
    note(ch, "%.*s is no command; /help lists them, //... says it", name.n < 60 ? (int)name.n : 60,
         name.p);
}

static void
offer(struct edit_words *out, const struct edit_words *from, struct str part)
{
    for (size_t i = 0; i < from->n; i++)
        if (strlen(from->word[i]) >= part.n && memcmp(from->word[i], part.p, part.n) == 0)
            edit_words_add(out, str_of(from->word[i]));
}

static size_t
chat_complete(void *arg, struct str before, struct edit_words *words)
{
    struct talk *ch = arg;
    size_t from = before.n, first = 0;
    char kind = 'u';

    while (from > 0 && before.p[from - 1] != ' ')
        from--;
    struct str part = {before.p + from, before.n - from};
    while (first < before.n && before.p[first] != ' ')
        first++;
    for (size_t i = 0; i < COMMANDS; i++) {
        if (from == 0 && part.n > 0 && strncmp(commands[i].name, part.p, part.n) == 0)
            edit_words_add(words, str_of(commands[i].name));
        if (from == first + 1 && str_eq(str_of(commands[i].name), (struct str){before.p, first}))
            kind = commands[i].completes;
    }
    if (kind == 'g')
        offer(words, &ch->groups, part);
    else if (kind == 'u' && (from > 0 || part.n == 0 || part.p[0] != '/') && before.n > 0)
        offer(words, &ch->users, part);
    return from;
}

/* --- terminal --------------------------------------------------------------------------------- */

static void
typed(struct talk *ch, const char *p, size_t n)
{
    enum edit_event event;

    while (n > 0 && !ch->cli->over) {
        size_t taken = edit_feed(ch->edit, p, n, &event);
        p += taken;
        n -= taken;
        if (event == EDIT_LINE) {
            struct buf line = {0};
            buf_str(&line, edit_line(ch->edit));
            edit_remember(ch->edit, text_of(&line));
            if (line.len > 1 && line.p[0] == '/' && line.p[1] != '/')
                note(ch, "%.*s", line.len < 500 ? (int)line.len : 500, line.p);
            chat_line(ch, text_of(&line));
            chat_prompt(ch);
            buf_free(&line);
        } else if (event == EDIT_END) {
            do_quit(ch, (struct str){0});
        } else if (event == EDIT_SUSPEND) {
            tty_suspend(&ch->tty);
        }
    }
}

/* --- pipe ------------------------------------------------------------------------------------- */

/* Send what is there in lines, as far as there is room for it. */
static void
pipe_send(struct talk *ch)
{
    size_t done = 0;

    while (!ch->cli->over && ch->unsent < MAX_WAITING && done < ch->in.len) {
        const char *from = ch->in.p + done;
        const char *end = memchr(from, '\n', ch->in.len - done);
        if (end == NULL && !ch->end)
            break;
        struct str line = {from, end != NULL ? (size_t)(end - from) : ch->in.len - done};
        size_t n = line.n + (end != NULL);
        uint32_t state = 0;
        if (line.n > 0 && line.p[line.n - 1] == '\r')
            line.n--;
        if (line.n > 0 && (!utf8_check(&state, line.p, line.n) || state != 0)) {
            cli_say(ch->cli, "line %zu was not sent: it is not UTF-8", ch->line + 1);
            ch->failed++;
        } else if (line.n > 0 && !send_text(ch, line)) {
            if (ch->unsent > 0) /* the client's queue is full: later */
                break;
            cli_say(ch->cli, "line %zu was not sent: %s", ch->line + 1,
                    jim_client_error(ch->cli->client));
            ch->failed++;
        }
        ch->line++;
        done += n;
    }
    buf_drop(&ch->in, done);
    if (ch->in.len > MAX_LINE_IN && memchr(ch->in.p, '\n', ch->in.len) == NULL) {
        cli_say(ch->cli, "line %zu is too long", ch->line + 1);
        cli_fail(ch->cli, CLI_UNSENT);
    }
}

/* --- the loop --------------------------------------------------------------------------------- */

static void
read_input(struct talk *ch)
{
    char bytes[16384];
    ssize_t n = read(STDIN_FILENO, bytes, sizeof bytes);

    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (n <= 0 && ch->edit != NULL) {
        cli_fail(ch->cli, ch->unsent > 0 ? CLI_UNSENT : CLI_OK); /* the terminal is gone */
    } else if (n <= 0) {
        ch->end = true;
        if (n < 0) {
            cli_say(ch->cli, "cannot read standard input: %s", strerror(errno));
            cli_fail(ch->cli, CLI_LOCAL);
        }
    } else if (ch->edit != NULL) {
        typed(ch, bytes, (size_t)n);
    } else {
        buf_add(&ch->in, bytes, (size_t)n);
    }
}

static int
sooner(int a, int b)
{
    return a < 0 ? b : b < 0 || a < b ? a : b;
}

/* Is there room for more of standard input? Always for the rest of a line: pipe_send() has a limit.
 */
static bool
is_hungry(const struct talk *ch)
{
    return !ch->end && (ch->edit != NULL ||
                        (ch->cli->was_ready && (ch->in.len < 65536 ||
                                                memchr(ch->in.p, '\n', ch->in.len) == NULL)));
}

static void
chat_turn(struct talk *ch)
{
    struct cli *c = ch->cli;
    int timeout = sooner(chat_mark(ch), sooner(cli_patience(c), jim_client_timeout(c->client)));
    struct pollfd f[3] = {
        {.fd = is_hungry(ch) ? STDIN_FILENO : -1, .events = POLLIN},
        {.fd = jim_client_fd(c->client), .events = jim_client_events(c->client)},
        {.fd = ch->edit != NULL ? ch->tty.signal : -1, .events = POLLIN}};
    unsigned char number;

    if (ch->edit != NULL)
        chat_prompt(ch);
    chat_flush(ch);
    if (c->over || (poll(f, 3, timeout) < 0 && errno != EINTR && errno != EAGAIN))
        return;
    if (f[2].revents != 0 && read(ch->tty.signal, &number, 1) == 1)
        tty_signal(&ch->tty, number);
    if (f[0].revents != 0)
        read_input(ch);
    if (ch->edit == NULL && c->was_ready)
        pipe_send(ch);
    if (!c->over && jim_client_step(c->client) != 0 && !c->over)
        cli_fail(c, CLI_CONNECT);
    if (ch->edit == NULL && c->was_ready && !c->over)
        pipe_send(ch); /* acknowledgements have made room */
    if (ch->leaving && ch->unsent == 0)
        cli_fail(c, CLI_OK);
    if (ch->edit == NULL && ch->end && ch->in.len == 0 && ch->unsent == 0 && c->was_ready)
        cli_fail(c, ch->failed > 0 ? CLI_UNSENT : CLI_OK);
}

static bool
chat_begin(struct talk *ch)
{
    struct cli *c = ch->cli;
    const char *term = getenv("TERM");
    bool terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) &&
                    (term == NULL || strcmp(term, "dumb") != 0);
    char *path;

    if (!terminal && c->to == NULL && c->group == NULL) {
        cli_say(c, "chat in a pipe takes -T USER or -G GROUP");
        cli_fail(c, CLI_USAGE);
        return false;
    }
    ch->current = NONE;
    if (c->to != NULL || c->group != NULL)
        conversation_go(ch, c->group != NULL ? c->group : c->to, c->group != NULL);
    if (!terminal)
        return true;
    ch->edit = edit_new(chat_complete, ch);
    edit_vanish(ch->edit); /* it comes back as a message, when the server has it */
    if (tty_begin(&ch->tty, ch->edit) != 0) {
        cli_say(c, "cannot use the terminal: %s", strerror(errno));
        cli_fail(c, CLI_LOCAL);
        return false;
    }
    path = tty_history();
    if (path != NULL && edit_open(ch->edit, path) != 0 && !c->quiet)
        note(ch, "no history is kept: %s: %s", path, strerror(errno));
    free(path);
    if (c->to != NULL)
        learn(&ch->users, c->to);
    return true;
}

static void
chat_end(struct talk *ch)
{
    if (ch->edit == NULL)
        chat_flush(ch);
    tty_end(&ch->tty);
    if (ch->unsent > 0) {
        cli_say(ch->cli, "%zu messages were not acknowledged", ch->unsent);
        ch->cli->status = CLI_UNSENT;
    }
    jim_client_free(ch->cli->client); /* no callback comes any more */
    ch->cli->client = NULL;
    while (ch->first != NULL)
        sent_remove(ch->first);
    for (size_t i = 0; i < ch->conversations; i++)
        free(ch->conversation[i].name);
    free(ch->conversation);
    edit_words_free(&ch->users);
    edit_words_free(&ch->groups);
    edit_free(ch->edit);
    buf_free(&ch->in);
    buf_free(&ch->out);
}

int
cli_chat(struct cli *c)
{
    struct talk ch = {.cli = c, .last = &ch.first};
    struct jim_client_options o = {.on_state = on_state, .on_message = on_message,
                                   .on_event = on_event, .arg = &ch};

    c->arg = &ch; /* until the end of this function */
    if (!chat_begin(&ch) || cli_open(c, &o) != CLI_OK) {
        chat_end(&ch);
        c->arg = NULL;
        return c->status;
    }
    c->before_say = chat_before_say;
    c->for_ever = ch.edit != NULL && c->wait_ms < 0;
    if (ch.edit != NULL)
        tty_raw(&ch.tty);
    while (!c->over)
        chat_turn(&ch);
    c->before_say = NULL;
    chat_end(&ch);
    c->arg = NULL;
    return c->status;
}
