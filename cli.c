/* SPDX-License-Identifier: MIT */
/*
 * cli.c - jim-cli: the command line, what all commands share.
 *
 *   output     sentences on standard error, messages as text or JSON, nothing a terminal obeys
 *   a run      the client of jim_client.h, stepped until there is an end; how long to be patient
 *   options    one table for all commands; passwords by file, environment or prompt
 *
 * The commands that ask and end are in cli_ask.c, the conversation (chat) is in cli_chat.c, frames
 * (raw) are in cli_raw.c.
 */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define DEFAULT_URL "tcp://127.0.0.1:8888"
#define PATIENCE_MS 60000         /* with a connection that was there and is lost */
#define BACKOFF_MS 5000           /* longest between two tries: somebody is waiting */
#define MAX_SECRET 8192           /* bytes of a password or token */
#define MAX_NAME 256              /* bytes of a user or group that are shown */

/* --- output ----------------------------------------------------------------------------------- */

void
cli_say(struct cli *c, const char *format, ...)
{
    char text[2048];
    struct buf b = {0};
    va_list ap;

    if (c->before_say != NULL)
        c->before_say(c);
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    buf_lit(&b, "jim-cli: ");
    term_show(&b, str_of(text), NULL);
    buf_lit(&b, "\n");
    fwrite(b.p, 1, b.len, stderr);
    buf_free(&b);
}

int
cli_fail(struct cli *c, int status)
{
    if (c->status == CLI_OK)
        c->status = status;
    c->over = true;
    return c->status;
}

void
cli_write(struct cli *c, const struct buf *text)
{
    if (text->len == 0)
        return;
    if (fwrite(text->p, 1, text->len, stdout) == text->len && fflush(stdout) == 0)
        return;
    if (errno == EPIPE) { /* `jim-cli tail | head -n 1`: end as every other program does */
        signal(SIGPIPE, SIG_DFL);
        raise(SIGPIPE);
    }
    cli_say(c, "cannot write: %s", strerror(errno));
    cli_fail(c, CLI_LOCAL);
}

struct json
cli_member(struct str text, const char *name)
{
    struct json key, value, found = {0};
    struct json_iter it;
    int more;

    if (text.n == 0 || json_open(&it, text.p, text.n) != 0)
        return found;
    while ((more = json_next(&it, &key, &value)) == 1)
        if (key.type == JSON_STRING && !key.escaped &&
            str_eq((struct str){key.p, key.n}, str_of(name)))
            found = value;
    return more == 0 ? found : (struct json){0};
}

char *
cli_text(const struct json *v)
{
    char *text = xmalloc((size_t)v->n + 1);

    text[v->type == JSON_NONE || v->type == JSON_NULL ? 0 : json_text(v, text)] = '\0';
    return text;
}

void
cli_name(const struct cli *c, struct buf *out, const char *name)
{
    struct str s = str_of(name != NULL ? name : "?");
    unsigned hash = 0;

    if (s.n > MAX_NAME)
        s.n = MAX_NAME;
    for (size_t i = 0; i < s.n; i++)
        hash = hash * 31 + (unsigned char)s.p[i];
    if (c->colour)
        buf_printf(out, "\x1b[%u;%um", hash / 6 % 2, 31 + hash % 6);
    term_show(out, s, NULL);
    if (c->colour)
        buf_lit(out, "\x1b[0m");
}

void
cli_message(const struct cli *c, struct buf *out, const struct jim_message *m, bool dated,
            bool where)
{
    static const char *const types[] = {"", "image", "voice", "video", "music", "news"};
    int64_t ms = m->create_ms > 0 ? m->create_ms : time_wall_ms();
    time_t seconds = (time_t)(ms / 1000);
    char stamp[64] = "?";
    struct tm tm;

    if (localtime_r(&seconds, &tm) != NULL)
        strftime(stamp, sizeof stamp, dated ? "%Y-%m-%d %H:%M:%S" : "%H:%M", &tm);
    buf_printf(out, "%s ", stamp);
    if (where && m->chat_type == JIM_TO_GROUP) {
        buf_lit(out, "[#");
        term_show(out, str_of(m->group), NULL);
        buf_lit(out, "] ");
    }
    cli_name(c, out, m->from);
    if (where && m->chat_type == JIM_TO_USER) {
        buf_lit(out, " > ");
        cli_name(c, out, m->to);
    } else if (m->chat_type == JIM_TO_ALL) {
        buf_lit(out, " (to all)");
    }
    buf_lit(out, ": ");
    if (m->msg_type > 0 && m->msg_type < (int64_t)(sizeof types / sizeof types[0]))
        buf_printf(out, "(%s) ", types[m->msg_type]);
    else if (m->msg_type > 0)
        buf_printf(out, "(type %lld) ", (long long)m->msg_type);
    if (m->content != NULL) /* further lines are set in, so that none looks like another message */
        term_show(out, (struct str){m->content, m->content_n}, "\n      ");
    buf_lit(out, "\n");
}

void
cli_message_json(struct buf *out, const struct jim_message *m)
{
    struct json v = {.p = m->json, .n = (uint32_t)m->json_n, .type = JSON_OBJECT};

    /* Not copied as it came: written anew, all controls are escaped. */
    json_put_value(out, &v);
    buf_lit(out, "\n");
}

void
cli_print(struct cli *c, const struct jim_message *m)
{
    struct buf b = {0};

    if (c->json)
        cli_message_json(&b, m);
    else
        cli_message(c, &b, m, true, c->to == NULL && c->group == NULL);
    cli_write(c, &b);
    buf_free(&b);
}

/* --- a run ------------------------------------------------------------------------------------ */

int
cli_open(struct cli *c, struct jim_client_options *o)
{
    char err[512];

    o->url = c->url;
    o->user = c->user;
    o->password = c->password;
    o->token = c->token;
    o->ca = c->ca;
    o->rate = c->rate;
    o->backoff_max_ms = BACKOFF_MS;
    c->down_since = time_mono_ms();
    c->client = jim_client_new(o, err, sizeof err);
    if (c->client != NULL)
        return CLI_OK;
    cli_say(c, "%s", err);
    return cli_fail(c, CLI_CONNECT);
}

void
cli_state(struct cli *c, enum jim_client_state state, const char *why)
{
    if (state == JIM_CLIENT_READY) {
        c->was_ready = true;
        c->down_since = 0;
        return;
    }
    if (c->down_since == 0)
        c->down_since = time_mono_ms();
    if (state == JIM_CLIENT_REFUSED) {
        cli_say(c, "%s", why);
        cli_fail(c, CLI_REFUSED);
    } else if (state == JIM_CLIENT_CLOSED && !c->over) {
        cli_say(c, "%s", why);
        cli_fail(c, c->was_ready ? CLI_REFUSED : CLI_CONNECT);
    } else if (state == JIM_CLIENT_WAITING && !c->was_ready && c->wait_ms < 0) {
        cli_say(c, "%s", why);
        cli_fail(c, CLI_CONNECT);
    }
}

int
cli_patience(struct cli *c)
{
    int64_t most = c->wait_ms >= 0 ? c->wait_ms : !c->was_ready || c->for_ever ? -1 : PATIENCE_MS;

    if (c->down_since == 0 || most < 0 || c->over)
        return -1;
    int64_t left = c->down_since + most - time_mono_ms();
    if (left > 0)
        return left < 60000 ? (int)left : 60000;
    cli_say(c, "no connection for %lld s: %s", (long long)(most / 1000),
            jim_client_error(c->client));
    cli_fail(c, CLI_CONNECT);
    return 0;
}

static bool
nothing_owed(const struct cli *c)
{
    return c->owed == 0;
}

int
cli_run(struct cli *c, bool (*done)(const struct cli *c))
{
    if (done == NULL)
        done = nothing_owed;
    while (!c->over && !done(c)) {
        int patience = cli_patience(c);
        if (!c->over && jim_client_wait(c->client, patience) != 0 && !c->over)
            cli_fail(c, CLI_CONNECT);
    }
    return c->status;
}

static bool
is_ready(const struct cli *c)
{
    return c->was_ready;
}

static void
on_state(struct jim_client *client, enum jim_client_state state, const char *why, void *arg)
{
    (void)client;
    cli_state(arg, state, why);
}

static void
on_missed(struct jim_client *client, const struct jim_message *m, void *arg)
{
    struct cli *c = arg;

    (void)client;
    c->missed += !m->mine;
}

int
cli_login(struct cli *c)
{
    struct jim_client_options o = {.no_catch_up = true, .on_state = on_state,
                                   .on_message = on_missed, .arg = c};

    return cli_open(c, &o) == CLI_OK ? cli_run(c, is_ready) : c->status;
}

int
cli_refused(struct cli *c, const char *what, const struct jim_result *r)
{
    cli_say(c, "%s: %s", what, r->text);
    return cli_fail(c, r->code == 0 ? CLI_CONNECT : CLI_REFUSED);
}

void
cli_owe(struct cli *c, uint64_t request)
{
    if (request != 0) {
        c->owed++;
        return;
    }
    cli_say(c, "%s", jim_client_error(c->client));
    cli_fail(c, CLI_LOCAL);
}

/* --- options ---------------------------------------------------------------------------------- */

enum { CHAT = 1, SEND = 2, TAIL = 4, HISTORY = 8, OFFLINE = 16, ONLINE = 32, GROUPS = 64,
       JOIN = 128, LEAVE = 256, RAW = 512, ALL = 1023 };
enum { TARGET_NONE, TARGET_MAY, TARGET_MUST };

static const struct action {
    const char *name, *args, *help;
    int (*fn)(struct cli *c);
    unsigned bit;
    int least, most; /* arguments; -1: any number */
    int target;      /* -T or -G */
} commands[] = {
    {"chat", "[-T USER | -G GROUP]", "talk; without a terminal, each line of input is a message",
     cli_chat, CHAT, 0, 0, TARGET_MAY},
    {"send", "-T USER | -G GROUP [TEXT...]", "send a message: TEXT, or all of standard input",
     cli_send, SEND, 0, -1, TARGET_MUST},
    {"tail", "[-T USER | -G GROUP] [-n N]", "follow what is said; -n: the last N messages first",
     cli_tail, TAIL, 0, 0, TARGET_MAY},
    {"history", "-T USER | -G GROUP", "print a conversation", cli_history, HISTORY, 0, 0,
     TARGET_MUST},
    {"offline", "[-T USER | -G GROUP]", "fetch and print what waits for you", cli_offline, OFFLINE,
     0, 0, TARGET_MAY},
    {"online", "[USER...]", "who is online in your groups; whether these users are", cli_online,
     ONLINE, 0, -1, TARGET_NONE},
    {"groups", "", "your groups", cli_groups, GROUPS, 0, 0, TARGET_NONE},
    {"join", "GROUP [NAME]", "become a member of a group, which is made if need be", cli_join, JOIN,
     1, 2, TARGET_NONE},
    {"leave", "GROUP", "leave a group", cli_leave, LEAVE, 1, 1, TARGET_NONE},
    {"raw", "", "show every frame; send `CMD JSON` or bytes in hex from standard input", cli_raw,
     RAW, 0, 0, TARGET_NONE},
};
#define COMMANDS (sizeof commands / sizeof commands[0])

static const struct flag {
    char c; /* below 'A': there is no letter for it */
    const char *name, *value, *help;
    unsigned where; /* commands it is for */
} options[] = {
    {'s', "server", "URL",
     "tcp://HOST:PORT, ws://..., tcps://, wss:// [$JIM_URL, " DEFAULT_URL "]", ALL},
    {'u', "user", "USER", "who you are [$JIM_USER]", ALL},
    {'p', "password", "TEXT", "your password [$JIM_PASSWORD]; others may see it: better -P", ALL},
    {'P', "password-file", "FILE", "read it from a file; -: ask, or take a line of input", ALL},
    {'t', "token", "TOKEN", "log in by a token [$JIM_TOKEN]; @FILE: read it from there", ALL},
    {1, "ca", "FILE", "trust the certificates in FILE (TLS)", ALL},
    {'w', "wait", "SECONDS", "try that long to reach the server; 0: for ever", ALL},
    {'q', "quiet", NULL, "say nothing but errors", ALL},
    {'C', "no-color", NULL, "no colours [$NO_COLOR]", ALL},
    {'T', "to", "USER", "the conversation with a user", CHAT | SEND | TAIL | HISTORY | OFFLINE},
    {'G', "group", "GROUP", "the conversation of a group", CHAT | SEND | TAIL | HISTORY | OFFLINE},
    {'j', "json", NULL, "print JSON, an object a line (tail always does)",
     ALL & ~(unsigned)(JOIN | LEAVE)},
    {'n', "last", "N", "the last N messages", TAIL | HISTORY},
    {2, "since", "TIME", "from TIME on: 2026-11-25[ 13:00[:00]], 90m, 3d ago, or ms", HISTORY},
    {3, "until", "TIME", "up to TIME", HISTORY},
    {'i', "id", "ID", "the message's id: the same again is not sent twice", SEND},
    {'r', "rate", "N", "requests a second to stay within [200]; 0: no limit", ALL},
    {'V', "version", NULL, "print the version", ALL},
    {'h', "help", NULL, "print this", ALL},
};
#define OPTIONS (sizeof options / sizeof options[0])

static void
put_usage(struct buf *b)
{
    buf_lit(b, "usage: jim-cli [OPTION]... COMMAND [ARGUMENT]...\n\n");
    for (size_t i = 0; i < COMMANDS; i++)
        buf_printf(b, "  %s %s\n      %s\n", commands[i].name, commands[i].args, commands[i].help);
    buf_lit(b, "\noptions, anywhere:\n");
    for (size_t i = 0; i < OPTIONS; i++) {
        const struct flag *o = &options[i];
        size_t start = b->len;
        if (o->c >= 'A')
            buf_printf(b, "  -%c, --%s", o->c, o->name);
        else
            buf_printf(b, "      --%s", o->name);
        if (o->value != NULL)
            buf_printf(b, " %s", o->value);
        int n = (int)(b->len - start);
        buf_printf(b, "%*s%s\n", n < 28 ? 28 - n : 1, "", o->help);
    }
    buf_lit(b, "\nexit status: 0 done, 1 usage, 2 no connection, 3 refused, 4 not all "
               "acknowledged, 5 a file or pipe\nhere; jim-cli(1) tells more\n");
}

/* A whole number from 0 to most; false when it is none. */
static bool
take_number(const char *text, int64_t most, int64_t *out)
{
    int64_t n = 0;

    if (text[0] == '\0')
        return false;
    for (; *text != '\0'; text++) {
        if (*text < '0' || *text > '9' || n > most / 10)
            return false;
        n = n * 10 + (*text - '0');
    }
    *out = n;
    return n <= most;
}

/* Milliseconds since 1970 of: such a number; a date and time, local; how long ago (90s 5m 2h 3d) */
static bool
take_time(const char *text, int64_t *out)
{
    static const char units[] = "smhd";
    static const int64_t ms[] = {1000, 60000, 3600000, 86400000};
    size_t n = strlen(text);
    const char *unit = n > 1 ? strchr(units, text[n - 1]) : NULL;
    int year, month, day, hour = 0, minute = 0, second = 0, end = 0;
    char separator = ' ', ago[16];
    int64_t count;

    if (take_number(text, INT64_MAX / 20, out))
        return *out > 0;
    if (unit != NULL && n < sizeof ago) {
        snprintf(ago, sizeof ago, "%.*s", (int)(n - 1), text);
        if (!take_number(ago, 1000000, &count))
            return false;
        *out = time_wall_ms() - count * ms[unit - units];
        return *out > 0;
    }
    int got = sscanf(text, "%4d-%2d-%2d%n%c%2d:%2d%n:%2d%n", &year, &month, &day, &end, &separator,
                     &hour, &minute, &end, &second, &end);
    if (got < 3 || (got != 3 && got < 6) || text[end] != '\0' ||
        (separator != ' ' && separator != 'T') || month < 1 || month > 12 || day < 1 || day > 31 ||
        hour > 23 || minute > 59 || second > 60)
        return false;
    struct tm tm = {.tm_year = year - 1900, .tm_mon = month - 1, .tm_mday = day, .tm_hour = hour,
                    .tm_min = minute, .tm_sec = second, .tm_isdst = -1};
    *out = (int64_t)mktime(&tm) * 1000;
    return *out > 0;
}

/* The first line of a descriptor, byte by byte: what is behind it is for others. Owned; NULL with
 * errno. */
static char *
read_secret(int fd)
{
    char text[MAX_SECRET + 1];
    size_t n = 0;
    ssize_t got = 0;

    while (n < MAX_SECRET && (got = read(fd, text + n, 1)) == 1 && text[n] != '\n')
        n++;
    if (got < 0)
        return NULL;
    if (n > 0 && text[n - 1] == '\r')
        n--;
    char *secret = xstrndup(text, n);
    wipe(text, sizeof text);
    return secret;
}

static char *
secret_of_file(struct cli *c, const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    char *secret = fd >= 0 ? read_secret(fd) : NULL;

    if (secret == NULL)
        cli_say(c, "%s: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return secret;
}

/* Ask for it on the terminal, without showing what is typed; not on a terminal: a line of input. */
static char *
ask_secret(struct cli *c)
{
    struct termios shown, hidden;
    bool terminal = tcgetattr(STDIN_FILENO, &shown) == 0;
    char *secret;

    if (terminal) {
        hidden = shown;
        hidden.c_lflag &= ~(tcflag_t)ECHO;
        hidden.c_lflag |= ICANON;
        tcsetattr(STDIN_FILENO, TCSAFLUSH, &hidden); /* before it is asked for: some type fast */
        fputs("password: ", stderr);
    }
    secret = read_secret(STDIN_FILENO);
    if (terminal) {
        tcsetattr(STDIN_FILENO, TCSAFLUSH, &shown);
        fputc('\n', stderr);
    }
    if (secret == NULL)
        cli_say(c, "cannot read the password: %s", strerror(errno));
    return secret;
}

/* A secret of the command line: kept, and taken out of what others see in the list of processes. */
static char *
hide_argument(char *text)
{
    char *copy = xstrndup(text, strlen(text));

    wipe(text, strlen(text));
    return copy;
}

/* One option. 0, or a status after saying what is wrong. */
static int
set_option(struct cli *c, const struct flag *o, char *value)
{
    int64_t n = 0;
    bool good = true;

    switch (o->c) {
    case 's': c->url = value; break;
    case 'u': c->user = value; break;
    case 'p':
        free(c->password);
        c->password = hide_argument(value);
        break;
    case 'P': c->password_file = value; break;
    case 't':
        free(c->secret_token);
        c->secret_token = value[0] == '@' ? secret_of_file(c, value + 1) : hide_argument(value);
        if (c->secret_token == NULL)
            return CLI_LOCAL;
        c->token = c->secret_token;
        break;
    case 1: c->ca = value; break;
    case 'w':
        good = take_number(value, 1000000000, &n);
        c->wait_ms = n == 0 ? INT64_MAX / 4 : n * 1000;
        break;
    case 'q': c->quiet = true; break;
    case 'C': c->plain = true; break;
    case 'T': c->to = value; break;
    case 'G': c->group = value; break;
    case 'j': c->json = true; break;
    case 'n': good = take_number(value, INT64_MAX / 20, &c->last); break;
    case 2: good = take_time(value, &c->since); break;
    case 3: good = take_time(value, &c->until); break;
    case 'i': c->id = value; break;
    case 'r':
        good = take_number(value, 1000000, &n);
        c->rate = n == 0 ? -1 : n;
        break;
    default: break;
    }
    if (good)
        return CLI_OK;
    cli_say(c, "--%s: not understood: %s", o->name, value);
    return CLI_USAGE;
}

struct parse {
    struct cli *cli;
    char **argv;        /* what is left of it; ends with NULL */
    const struct action *command;
    uint32_t used;      /* bits of options[] */
    char **args;        /* room for all of argv */
    char seen;          /* h or V: asked for */
};

/* Options in an argument that begins with '-'; a value may stand behind it or be the next one. */
static int
parse_option(struct parse *p, char *arg)
{
    bool is_long = arg[1] == '-';
    char *name = arg + 1 + is_long, *equals = is_long ? strchr(name, '=') : NULL;

    while (*name != '\0') {
        const struct flag *o = NULL;
        size_t n = is_long ? (equals != NULL ? (size_t)(equals - name) : strlen(name)) : 1;
        char *value = equals != NULL ? equals + 1 : !is_long && name[1] != '\0' ? name + 1 : NULL;
        for (size_t i = 0; i < OPTIONS; i++)
            if (is_long ? strlen(options[i].name) == n && strncmp(options[i].name, name, n) == 0
                        : options[i].c == *name)
                o = &options[i];
        if (o == NULL || (is_long && o->value == NULL && equals != NULL)) {
            cli_say(p->cli, "unknown option %s%.*s (jim-cli -h tells more)", is_long ? "--" : "-",
                    (int)n, name);
            return CLI_USAGE;
        }
        if (o->value != NULL && value == NULL && (value = *p->argv) != NULL)
            p->argv++;
        if (o->value != NULL && value == NULL) {
            cli_say(p->cli, "--%s takes a value: %s", o->name, o->value);
            return CLI_USAGE;
        }
        p->used |= UINT32_C(1) << (o - options);
        if (o->c == 'h' || o->c == 'V')
            p->seen = o->c;
        int status = set_option(p->cli, o, value);
        if (status != CLI_OK || is_long || o->value != NULL)
            return status;
        name++;
    }
    return CLI_OK;
}

static const struct action *
find_command(const char *name)
{
    for (size_t i = 0; i < COMMANDS; i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

/* The whole command line into p and its cli. 0, or a status after saying what is wrong. */
static int
parse_all(struct parse *p)
{
    struct cli *c = p->cli;
    bool ended = false;
    char *arg;

    while ((arg = *p->argv) != NULL) {
        int status = CLI_OK;
        p->argv++;
        if (!ended && strcmp(arg, "--") == 0)
            ended = true;
        else if (!ended && arg[0] == '-' && arg[1] != '\0')
            status = parse_option(p, arg);
        else if (p->command != NULL)
            c->args[c->arg_n++] = arg;
        else if ((p->command = find_command(arg)) == NULL) {
            cli_say(c, "there is no command %s (jim-cli -h lists them)", arg);
            status = CLI_USAGE;
        }
        if (status != CLI_OK)
            return status;
    }
    return CLI_OK;
}

/* Does the command get what it needs, and no more? 0 or CLI_USAGE. */
static int
check_usage(struct parse *p)
{
    struct cli *c = p->cli;
    const struct action *command = p->command;
    const struct flag *odd = NULL;

    for (size_t i = 0; i < OPTIONS && command != NULL; i++)
        if ((p->used >> i & 1) != 0 && (options[i].where & command->bit) == 0)
            odd = &options[i];
    if (command == NULL)
        cli_say(c, "what to do? jim-cli -h lists the commands");
    else if (odd != NULL)
        cli_say(c, "--%s is not for %s", odd->name, command->name);
    else if (c->arg_n < command->least || (command->most >= 0 && c->arg_n > command->most))
        cli_say(c, "usage: jim-cli %s %s", command->name, command->args);
    else if (c->to != NULL && c->group != NULL)
        cli_say(c, "either -T or -G, not both");
    else if (command->target == TARGET_MUST && c->to == NULL && c->group == NULL)
        cli_say(c, "%s takes -T USER or -G GROUP", command->name);
    else if (c->user == NULL && c->token == NULL && command->bit != RAW)
        cli_say(c, "who are you? -u USER, -t TOKEN, or JIM_USER in the environment");
    else
        return CLI_OK;
    return CLI_USAGE;
}

static int
run(struct cli *c, const struct action *command)
{
    const char *no_colour = getenv("NO_COLOR"), *term = getenv("TERM");

    if (c->password_file != NULL) {
        free(c->password);
        c->password = strcmp(c->password_file, "-") == 0 ? ask_secret(c)
                                                         : secret_of_file(c, c->password_file);
        if (c->password == NULL)
            return CLI_LOCAL;
    }
    c->json |= command->bit == TAIL;
    c->colour = !c->plain && !c->json && (no_colour == NULL || no_colour[0] == '\0') &&
                (term == NULL || strcmp(term, "dumb") != 0) && isatty(STDOUT_FILENO);
    signal(SIGPIPE, SIG_IGN); /* a connection that ends is told as such */
    c->status = command->fn(c);
    if (c->missed > 0 && !c->quiet)
        cli_say(c, "%zu messages came meanwhile; jim-cli history shows them", c->missed);
    return c->status;
}

static const char *
from_environment(const char *name)
{
    const char *value = getenv(name);

    return value != NULL && value[0] != '\0' ? value : NULL;
}

int
main(int argc, char **argv)
{
    const char *password = from_environment("JIM_PASSWORD");
    struct cli c = {.url = from_environment("JIM_URL"), .user = from_environment("JIM_USER"),
                    .token = from_environment("JIM_TOKEN"), .last = -1, .wait_ms = -1};
    struct parse p = {.cli = &c, .argv = argv + (argc > 0)};
    struct buf out = {0};

    open_standard_fds();
    c.args = xcalloc((size_t)argc + 1, sizeof *c.args);
    if (c.url == NULL)
        c.url = DEFAULT_URL;
    if (password != NULL)
        c.password = xstrndup(password, strlen(password));
    c.status = parse_all(&p);
    if (p.seen == 'h')
        put_usage(&out);
    else if (p.seen == 'V')
        buf_printf(&out, "jim-cli %s%s\n", JIM_VERSION,
                   jim_client_no_tls() == NULL ? " (TLS)" : "");
    else if (c.status == CLI_OK && (c.status = check_usage(&p)) == CLI_OK)
        c.status = run(&c, p.command);
    cli_write(&c, &out);
    buf_free(&out);
    jim_client_free(c.client);
    if (c.password != NULL)
        wipe(c.password, strlen(c.password));
    free(c.password);
    free(c.secret_token);
    free(c.args);
    return c.status;
}
