/* SPDX-License-Identifier: MIT */
/*
 * kill.c - the real server, killed with SIGKILL again and again while 20 clients send.
 *
 *   build/kill [-v] [-s SEED] [KILLS]        JIM: the program, ./jim by default
 *
 * Half of the clients speak TCP-IM, half WebSocket. Each keeps several messages on their way, to
 * groups and to one peer, each with an id of its own; when the server is gone it connects to the
 * next one and sends again what was not acknowledged, and now and then what was. Each also joins
 * and leaves a group of its own, and looks after each login whether it is in there. In each fifth
 * life of the server its files may not grow beyond a few KiB for a while, a full disk to it. At
 * last history (command 19) and `jim export` are compared with what the clients were told.
 *
 *   model, results, frames out, groups, answers, frames in, clients, server, lives, comparison,
 *   commands
 */
#ifndef JIM_INTERNAL
#define JIM_INTERNAL
#endif
#include "../jim.h"
#include "soak.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define KILLS 200
#define CLIENTS 20
#define GROUPS 2
#define TALKS (GROUPS + CLIENTS / 2)
#define WINDOW 6       /* messages of a client on their way */
#define SENDS 80       /* new messages of a client in one life of the server: bounds the log */
#define REFUSED_MS 10  /* pause of a client that was refused */
#define PATIENCE 120000 /* ms for anything that has to come: only a hang takes this long */

/* --- model ------------------------------------------------------------------------------------ */

struct message {
    int from, talk;
    bool acked;
    uint64_t seq;       /* as it was first told, 0: nobody was told yet */
    int64_t create_ms;  /* as acknowledged */
    int stored, exported; /* how often they hold it */
};

struct talk { /* two groups of all, and the pairs (0, 1), (2, 3), ... */
    int *by_seq; /* message + 1; owned */
    size_t cap;
};

enum state { AWAY, UPGRADING, LOGGING_IN, READY };

struct client {
    int fd;
    bool ws;
    enum state state;
    struct buf in, out;
    int way[WINDOW], nway; /* sent and not answered, in order */
    int again[WINDOW], nagain; /* to be sent again first */
    int fresh;                 /* new messages in this life of the server */
    int64_t pause_until;       /* all times: time_mono_ms() */
    uint64_t live[TALKS];      /* highest seq heard live */
    int asked_talk;            /* history being read, -1: none */
    bool member;               /* of its own group: so it was told last */
    int wants;                 /* CMD_JOIN, CMD_LEAVE: on its way; 0: neither */
    bool unsure;               /* such a one was never answered */
    bool looked;               /* has compared what it was told with what is, in this life */
};

struct test {
    struct message *m; /* owned */
    int n, cap;
    struct talk talk[TALKS];
    struct client client[CLIENTS];
    uint64_t rng;
    bool verbose;
    char dir[64], store[96];
    const char *jim;
    pid_t pid;
    int out; /* the server's stdout, -1: its port is known */
    int port;
    int64_t limit_until; /* its files are limited, 0: they are not */
    struct buf said;
    bool sending; /* new messages are wanted */
    uint64_t history_seq;
    bool history_more;
    struct buf scratch;
    unsigned long long acked, retries, live, refused, kills, early, limited;
    unsigned long long changes, looks;
    unsigned long long groups, missing, duplicates, gaps, different, answers, order, other;
};

static uint32_t
below(struct test *t, uint32_t n)
{
    return draw(&t->rng) % n;
}

static void
put_content(struct buf *b, int m)
{
    size_t pad = (size_t)m * 7919 % 211;

    if (m % 50 == 49)
        pad += 4000;
    buf_printf(b, "message %d ", m);
    for (size_t i = 0; i < pad; i++)
        buf_printf(b, "%c", (int)('a' + (i + (size_t)m) % 26));
}

static bool
in_talk(int client, int talk)
{
    return talk < GROUPS || (talk - GROUPS) == client / 2;
}

/* Somebody was told that message m is number seq of its conversation. */
static void
told(struct test *t, int m, uint64_t seq)
{
    struct talk *v = &t->talk[t->m[m].talk];

    if (seq == 0 || seq > 10000000) {
        complain(&t->other, "message %d has the impossible number %" PRIu64, m, seq);
        return;
    }
    if (seq >= v->cap) {
        size_t cap = 2 * (size_t)seq + 64;
        v->by_seq = xrealloc(v->by_seq, cap * sizeof v->by_seq[0]);
        memset(v->by_seq + v->cap, 0, (cap - v->cap) * sizeof v->by_seq[0]);
        v->cap = cap;
    }
    if (v->by_seq[seq] != 0 && v->by_seq[seq] != m + 1)
        complain(&t->different, "conversation %d number %" PRIu64 " is message %d and message %d",
                 t->m[m].talk, seq, v->by_seq[seq] - 1, m);
    if (t->m[m].seq != 0 && t->m[m].seq != seq)
        complain(&t->duplicates, "message %d is number %" PRIu64 " and number %" PRIu64, m,
                 t->m[m].seq, seq);
    v->by_seq[seq] = m + 1;
    t->m[m].seq = seq;
}

/* --- results ---------------------------------------------------------------------------------- */

/* A chat object, wherever it comes from; the message it is, or -1 when it is none that was sent. */
static int
chat_message(struct test *t, const char *p, size_t n, uint64_t *seq)
{
    struct json_iter it;
    struct json key, value, content = {0};
    int64_t number = 0;
    int m = -1, from = -1, talk = -1, to = -1, got;

    if (json_open(&it, p, n) != 0)
        return -1;
    while ((got = json_next(&it, &key, &value)) > 0) {
        struct str name = {key.p, key.n}, text = {value.p, value.n};
        char copy[24] = {0};
        memcpy(copy, text.p, text.n < sizeof copy ? text.n : sizeof copy - 1);
        if (str_eq(name, STR("id")))
            m = copy[0] == 'm' ? atoi(copy + 1) : -1;
        else if (str_eq(name, STR("from")))
            from = atoi(copy + 1);
        else if (str_eq(name, STR("to")))
            to = atoi(copy + 1);
        else if (str_eq(name, STR("groupId")))
            talk = atoi(copy + 1);
        else if (str_eq(name, STR("content")))
            content = value;
        else if (str_eq(name, STR("seq")))
            json_int(&value, &number);
    }
    if (got < 0 || m < 0 || m >= t->n)
        return -1;
    if (to >= 0)
        talk = to / 2 == from / 2 ? GROUPS + from / 2 : -1;
    t->scratch.len = 0;
    put_content(&t->scratch, m);
    if (from != t->m[m].from || talk != t->m[m].talk ||
        !str_eq((struct str){content.p, content.n}, (struct str){t->scratch.p, t->scratch.len}))
        complain(&t->different, "message %d has changed: %.*s", m, n < 200 ? (int)n : 200, p);
    *seq = (uint64_t)number;
    return m;
}

/* --- frames out ------------------------------------------------------------------------------- */

static void
send_frame(struct client *c, uint8_t cmd, const char *json, size_t n)
{
    if (!c->ws) {
        unsigned char head[] = {1, 0x51, cmd, (unsigned char)(n >> 24), (unsigned char)(n >> 16),
                                (unsigned char)(n >> 8), (unsigned char)n};
        buf_add(&c->out, head, sizeof head);
        buf_add(&c->out, json, n);
        return;
    }
    unsigned char head[8] = {0x81, (unsigned char)(0x80 | n)}; /* masked with zeros */
    size_t len = 6;
    if (n > 125) {
        head[1] = 0x80 | 126;
        head[2] = (unsigned char)(n >> 8);
        head[3] = (unsigned char)n;
        memset(head + 4, 0, 4);
        len = 8;
    }
    buf_add(&c->out, head, len);
    buf_add(&c->out, json, n);
}

static void
send_message(struct test *t, struct client *c, int m)
{
    struct message *msg = &t->m[m];
    struct buf b = {0};

    buf_printf(&b, "{\"cmd\":11,\"chatType\":%d,", msg->talk < GROUPS ? 1 : 2);
    if (msg->talk < GROUPS)
        buf_printf(&b, "\"groupId\":\"g%d\",", msg->talk);
    else
        buf_printf(&b, "\"to\":\"u%d\",", msg->from ^ 1);
    buf_printf(&b, "\"msgType\":0,\"id\":\"m%d\",\"content\":\"", m);
    put_content(&b, m);
    buf_add(&b, "\"}", 2);
    send_frame(c, 11, b.p, b.len);
    buf_free(&b);
    c->way[c->nway++] = m;
}

static int
new_message(struct test *t, int client)
{
    if (t->n == t->cap) {
        t->cap = t->cap == 0 ? 4096 : 2 * t->cap;
        t->m = xrealloc(t->m, (size_t)t->cap * sizeof *t->m);
    }
    int talk = below(t, 2) == 0 ? (int)below(t, GROUPS) : GROUPS + client / 2;
    t->m[t->n] = (struct message){.from = client, .talk = talk};
    return t->n++;
}

/* A message of this client that was acknowledged, from the last few hundred; -1: none found. */
static int
old_message(struct test *t, int client)
{
    for (int tries = 0; tries < 40; tries++) {
        int back = 1 + (int)below(t, 400), m = t->n - back;
        if (m >= 0 && t->m[m].from == client && t->m[m].acked)
            return m;
    }
    return -1;
}

/* Fill the window. */
static void
send_some(struct test *t, int i)
{
    struct client *c = &t->client[i];

    while (c->state == READY && c->nway < WINDOW && time_mono_ms() >= c->pause_until) {
        int m = -1;
        if (c->nagain > 0) {
            m = c->again[0];
            memmove(c->again, c->again + 1, (size_t)--c->nagain * sizeof c->again[0]);
            t->retries++;
        } else if (!t->sending || c->fresh >= SENDS) {
            break;
        } else if (below(t, 16) == 0 && (m = old_message(t, i)) >= 0) {
            t->retries++;
            c->fresh++;
        } else {
            m = new_message(t, i);
            c->fresh++;
        }
        send_message(t, c, m);
    }
}

/* --- groups ----------------------------------------------------------------------------------- */

/* Is he in his own group? */
static void
ask_groups(struct client *c, int i)
{
    char json[64];
    int n = snprintf(json, sizeof json, "{\"cmd\":17,\"userId\":\"u%d\",\"type\":0}", i);

    send_frame(c, CMD_USER, json, (size_t)n);
    c->looked = false;
}

static void
on_groups(struct test *t, struct client *c, const char *p, size_t n)
{
    char own[32];
    int i = (int)(c - t->client), len = snprintf(own, sizeof own, "\"groupId\":\"own%d\"", i);
    bool in = memmem(p, n, own, (size_t)len) != NULL;

    if (in != c->member && !c->unsure)
        complain(&t->groups, "user %d has %s, and is %s", i, c->member ? "joined" : "left",
                 in ? "in" : "out");
    c->member = in;
    c->unsure = false;
    c->looked = true;
    t->looks++;
}

static void
change_group(struct test *t, int i)
{
    struct client *c = &t->client[i];
    char json[64];

    if (c->state != READY || !c->looked || c->wants != 0 || !t->sending ||
        time_mono_ms() < c->pause_until || below(t, 8) != 0)
        return;
    c->wants = c->member ? CMD_LEAVE : CMD_JOIN;
    int n = snprintf(json, sizeof json, "{\"cmd\":%d,\"groupId\":\"own%d\"}", c->wants, i);
    send_frame(c, (uint8_t)c->wants, json, (size_t)n);
}

static void
on_change(struct test *t, struct client *c, int64_t code)
{
    bool done = code == (c->wants == CMD_JOIN ? CODE_JOIN_OK : CODE_DONE);

    if (c->wants == 0 || (!done && code != CODE_STORE))
        complain(&t->other, "%d is answered with %d", c->wants, (int)code);
    if (done)
        c->member = c->wants == CMD_JOIN;
    else
        c->pause_until = time_mono_ms() + REFUSED_MS;
    t->changes += done;
    c->wants = 0;
}

/* --- answers ---------------------------------------------------------------------------------- */

/* The first message on the way is answered. */
static void
on_ack(struct test *t, struct client *c, int64_t code, const struct json *data)
{
    struct json_iter it;
    struct json key, value;
    int64_t seq = 0, create = 0;
    int m = -1;

    if (c->nway == 0) {
        complain(&t->other, "an answer to nothing");
        return;
    }
    int first = c->way[0];
    memmove(c->way, c->way + 1, (size_t)--c->nway * sizeof c->way[0]);
    if (code == CODE_STORE || code == CODE_STOPPING) {
        t->refused++;
        c->pause_until = time_mono_ms() + REFUSED_MS;
        if (!t->m[first].acked)
            c->again[c->nagain++] = first;
        return;
    }
    if ((code != CODE_SENT && code != CODE_OFFLINE) || data->type != JSON_OBJECT) {
        complain(&t->other, "message %d is answered with %d", first, (int)code);
        return;
    }
    json_enter(&it, data);
    while (json_next(&it, &key, &value) > 0) {
        if (key.n == 2 && value.n > 1 && value.n < 12) /* id */
            m = atoi(value.p + 1);
        else if (key.n == 3)
            json_int(&value, &seq);
        else if (key.n == 10)
            json_int(&value, &create);
    }
    struct message *msg = &t->m[first];
    if (m != first)
        complain(&t->order, "message %d is answered before %d", m, first);
    else if (msg->acked && (msg->create_ms != create || msg->seq != (uint64_t)seq))
        complain(&t->answers, "message %d: the answer to a retry is another", m);
    told(t, first, (uint64_t)seq);
    t->acked += !msg->acked;
    msg->acked = true;
    msg->create_ms = create;
}

static void
on_live(struct test *t, struct client *c, const struct json *data)
{
    uint64_t seq;
    int m = chat_message(t, data->p, data->n, &seq), i = (int)(c - t->client);

    if (m < 0) {
        complain(&t->other, "a message nobody sent: %.*s", (int)data->n, data->p);
        return;
    }
    int talk = t->m[m].talk;
    if (!in_talk(i, talk))
        complain(&t->other, "message %d reaches user %d", m, i);
    if (seq <= c->live[talk])
        complain(&t->order, "user %d hears number %" PRIu64 " of conversation %d after %" PRIu64, i,
                 seq, talk, c->live[talk]);
    c->live[talk] = seq;
    t->live++;
    told(t, m, seq);
}

/* Take stock of a stored message, the next one of its conversation. */
static void
take_stored(struct test *t, int talk, const char *p, size_t n, uint64_t *next, bool export)
{
    uint64_t seq;
    int m = chat_message(t, p, n, &seq);

    if (m < 0 || (talk >= 0 && t->m[m].talk != talk)) {
        complain(&t->other, "stored, but nobody sent it: %.*s", n < 200 ? (int)n : 200, p);
        return;
    }
    if (seq > *next)
        complain(&t->gaps, "conversation %d: after %" PRIu64 " comes %" PRIu64, t->m[m].talk,
                 *next - 1, seq);
    else if (seq < *next)
        complain(&t->duplicates, "conversation %d: after %" PRIu64 " comes %" PRIu64, t->m[m].talk,
                 *next - 1, seq);
    *next = seq + 1;
    told(t, m, seq);
    if ((export ? t->m[m].exported++ : t->m[m].stored++) > 0)
        complain(&t->duplicates, "message %d is stored twice", m);
}

/* data: {"friends":{...},"groups":{...},"more":true,...}, one conversation in it. */
static void
on_history(struct test *t, struct client *c, const struct json *data)
{
    struct json_iter it, maps, array;
    struct json key, value, list, chat;

    t->history_more = false;
    json_enter(&it, data);
    while (json_next(&it, &key, &value) > 0) {
        if (value.type == JSON_TRUE)
            t->history_more = true;
        if (value.type != JSON_OBJECT)
            continue;
        json_enter(&maps, &value);
        while (json_next(&maps, NULL, &list) > 0) {
            json_enter(&array, &list);
            while (json_next(&array, NULL, &chat) > 0)
                take_stored(t, c->asked_talk, chat.p, chat.n, &t->history_seq, false);
        }
    }
    c->asked_talk = -1;
}

static void
on_answer(struct test *t, struct client *c, const char *p, size_t n)
{
    struct json_iter it;
    struct json key, value, data = {0};
    int64_t code = 0, command = 0;
    int got = -1;

    if (json_open(&it, p, n) == 0)
        while ((got = json_next(&it, &key, &value)) > 0) {
            if (str_eq((struct str){key.p, key.n}, STR("command")))
                json_int(&value, &command);
            else if (str_eq((struct str){key.p, key.n}, STR("code")))
                json_int(&value, &code);
            else if (str_eq((struct str){key.p, key.n}, STR("data")))
                data = value;
        }
    if (got < 0)
        complain(&t->other, "not JSON: %.*s", n < 200 ? (int)n : 200, p);
    else if (command == CMD_LOGIN_RESP && code == CODE_LOGIN_OK) {
        c->state = READY;
        ask_groups(c, (int)(c - t->client));
    } else if (command == CMD_USER_RESP)
        on_groups(t, c, p, n);
    else if (command == CMD_JOIN_RESP || command == CMD_LEAVE_RESP)
        on_change(t, c, code);
    else if (command == CMD_CHAT_RESP)
        on_ack(t, c, code, &data);
    else if (command == CMD_CHAT && data.type == JSON_OBJECT)
        on_live(t, c, &data);
    else if (command == CMD_MESSAGES_RESP && code == CODE_HISTORY && data.type == JSON_OBJECT)
        on_history(t, c, &data);
    else if (command != CMD_JOIN_NOTIFY && command != CMD_EXIT_NOTIFY)
        complain(&t->other, "unexpected: %.*s", n < 200 ? (int)n : 200, p);
}

/* --- frames in -------------------------------------------------------------------------------- */

static void
log_in(struct test *t, struct client *c)
{
    char json[64];
    int n = snprintf(json, sizeof json, "{\"cmd\":5,\"userId\":\"u%d\"}", (int)(c - t->client));

    c->state = LOGGING_IN;
    send_frame(c, 5, json, (size_t)n);
}

/* The length of the frame at p, its head included, and where its payload is; 0: not all there. */
static size_t
frame_length(const struct client *c, const unsigned char *p, size_t n, size_t *head)
{
    size_t len;

    if (!c->ws) {
        *head = n > 1 && (p[1] & 0x20) ? 11 : 7;
        if (n < *head)
            return 0;
        len = get_be32(p + *head - 4);
    } else {
        *head = n < 2 ? 2 : p[1] == 126 ? 4 : p[1] == 127 ? 10 : 2;
        if (n < *head)
            return 0;
        len = *head == 2 ? p[1] : *head == 4 ? (size_t)p[2] << 8 | p[3] : get_be32(p + 6);
    }
    return n - *head < len ? 0 : *head + len;
}

/* Everything that has come. */
static void
hear(struct test *t, struct client *c)
{
    size_t at = 0, head, len;
    const char *p;

    if (c->state == UPGRADING) {
        const char *end = c->in.len == 0 ? NULL : memmem(c->in.p, c->in.len, "\r\n\r\n", 4);
        if (end == NULL)
            return;
        if (memcmp(c->in.p, "HTTP/1.1 101 ", 13) != 0)
            complain(&t->other, "no upgrade: %.*s", 40, c->in.p);
        buf_drop(&c->in, (size_t)(end - c->in.p) + 4);
        log_in(t, c);
    }
    while (p = c->in.p + at,
           (len = frame_length(c, (const unsigned char *)p, c->in.len - at, &head)) > 0) {
        if (!c->ws || (*p & 15) == WS_TEXT)
            on_answer(t, c, p + head, len - head);
        at += len;
    }
    buf_drop(&c->in, at);
}

/* --- clients ---------------------------------------------------------------------------------- */

static void
client_leave(struct test *t, struct client *c)
{
    int keep[WINDOW], n = 0;

    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    c->state = AWAY;
    c->in.len = c->out.len = 0;
    c->asked_talk = -1;
    c->unsure |= c->wants != 0;
    c->wants = 0;
    c->looked = false;
    for (int i = 0; i < c->nway; i++) /* before those that were refused: the oldest first */
        if (!t->m[c->way[i]].acked)
            keep[n++] = c->way[i];
    for (int i = 0; i < c->nagain && n < WINDOW; i++)
        keep[n++] = c->again[i];
    memcpy(c->again, keep, sizeof keep);
    c->nagain = n;
    c->nway = 0;
}

static void
client_come(struct test *t, struct client *c)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)t->port)};
    int on = 1;

    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0)
        die("socket");
    if (connect(c->fd, (struct sockaddr *)&a, sizeof a) != 0) {
        client_leave(t, c);
        return;
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    fcntl(c->fd, F_SETFD, FD_CLOEXEC);
    if (!c->ws) {
        log_in(t, c);
        return;
    }
    c->state = UPGRADING;
    buf_printf(&c->out, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: "
               "websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
               "dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
}

/* Read what has come; false when the connection has ended. */
static bool
client_read(struct test *t, struct client *c)
{
    ssize_t got;

    do {
        buf_reserve(&c->in, 65536);
        got = recv(c->fd, c->in.p + c->in.len, 65536, 0);
        if (got > 0)
            c->in.len += (size_t)got;
    } while (got > 0);
    int err = errno;
    hear(t, c);
    return got < 0 && (err == EAGAIN || err == EINTR);
}

static bool
client_write(struct client *c)
{
    if (c->out.len == 0)
        return true;
    ssize_t put = send(c->fd, c->out.p, c->out.len, MSG_NOSIGNAL);
    if (put > 0)
        buf_drop(&c->out, (size_t)put);
    return put > 0 || errno == EAGAIN || errno == EINTR;
}

/* --- server ----------------------------------------------------------------------------------- */

static void
server_start(struct test *t, int life, bool limited)
{
    static const char *const sync[] = {"group", "group", "10ms", "off"};
    char policy[40], log[96];
    int fds[2];

    if (pipe(fds) != 0)
        die("pipe");
    fcntl(fds[0], F_SETFD, FD_CLOEXEC);
    snprintf(policy, sizeof policy, "jim.store.sync=%s", sync[life % 4]);
    t->limit_until = limited ? time_mono_ms() + 20 + below(t, 150) : 0;
    snprintf(log, sizeof log, "%s/log", t->dir);
    rlim_t most = 8192 + below(t, 30000);
    t->limited += limited;
    t->said.len = 0;
    t->out = fds[0];
    t->port = 0;
    t->pid = fork();
    if (t->pid < 0)
        die("fork");
    if (t->pid > 0) {
        close(fds[1]);
        fcntl(fds[0], F_SETFL, O_NONBLOCK);
        return;
    }
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(fds[1], 1);
    dup2(fd, 2);
    if (limited)
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){most, RLIM_INFINITY});
    execl(t->jim, t->jim, "-p", "0", "-d", t->store, "-o", policy, "-o", "jim.rate.messages=0",
          "-o", "jim.store.segment=65536", "-o", "jim.login.groups=g0:Zero,g1:One", (char *)NULL);
    _exit(127);
}

/* Its port, once it has said it. */
static void
server_hear(struct test *t)
{
    char text[256];
    ssize_t got = read(t->out, text, sizeof text);

    if (got > 0)
        buf_add(&t->said, text, (size_t)got);
    if (got == 0 || (t->said.len > 0 && t->said.p[t->said.len - 1] == '\n')) {
        buf_add(&t->said, "", 1);
        const char *colon = strrchr(t->said.p, ':');
        t->port = colon != NULL ? atoi(colon + 1) : 0;
        close(t->out);
        t->out = -1;
        if (got == 0 && t->port == 0)
            complain(&t->other, "the server does not start: see the log");
    }
}

/* Its disk is no longer full: it has to notice by itself. */
static void
server_unlimit(struct test *t)
{
    t->limit_until = 0;
#ifdef __linux__ /* elsewhere only its next life is better */
    if (prlimit(t->pid, RLIMIT_FSIZE, &(struct rlimit){RLIM_INFINITY, RLIM_INFINITY}, NULL) != 0)
        die("prlimit");
#endif
}

/* The end of the server; what it has sent before is still heard. Returns its exit code, or minus
 * the signal. */
static int
server_end(struct test *t, int sig)
{
    int status;

    kill(t->pid, sig);
    while (waitpid(t->pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (t->out >= 0)
        close(t->out);
    t->out = -1;
    for (int i = 0; i < CLIENTS; i++) {
        struct client *c = &t->client[i];
        if (c->fd >= 0)
            client_read(t, c);
        client_leave(t, c);
        c->fresh = 0;
        c->pause_until = 0;
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* --- lives ------------------------------------------------------------------------------------ */

/* One round of poll(), at most until `until` (time_mono_ms()). */
static void
turn(struct test *t, int64_t until)
{
    struct pollfd p[CLIENTS + 1];
    int64_t left = until - time_mono_ms();
    int wait = left < 0 ? 0 : left > 5 ? 5 : (int)left; /* pauses end meanwhile */

    for (int i = 0; i < CLIENTS; i++) {
        struct client *c = &t->client[i];
        if (c->state == AWAY && t->port > 0)
            client_come(t, c);
        send_some(t, i);
        change_group(t, i);
        p[i] = (struct pollfd){c->fd, (short)(POLLIN | (c->out.len > 0 ? POLLOUT : 0)), 0};
    }
    p[CLIENTS] = (struct pollfd){t->out, POLLIN, 0};
    if (poll(p, CLIENTS + 1, wait) < 0 && errno != EINTR)
        die("poll");
    if (p[CLIENTS].revents != 0)
        server_hear(t);
    for (int i = 0; i < CLIENTS; i++) {
        struct client *c = &t->client[i];
        bool ok = true;
        if (c->fd >= 0 && (p[i].revents & POLLOUT))
            ok = client_write(c);
        if (c->fd >= 0 && (p[i].revents & (POLLIN | POLLHUP | POLLERR)))
            ok = client_read(t, c) && ok;
        if (!ok)
            client_leave(t, c);
    }
}

static void
life(struct test *t, int number)
{
    bool early = below(t, 10) == 0; /* perhaps while it reads its log */

    server_start(t, number, number % 5 == 4);
    int64_t start = time_mono_ms(), until = start + below(t, early ? 15 : 120);
    while (!early && t->port == 0 && time_mono_ms() < start + PATIENCE && t->out >= 0)
        turn(t, start + PATIENCE);
    if (!early)
        until = time_mono_ms() + 2 + below(t, 140);
    while (time_mono_ms() < until) {
        if (t->limit_until > 0 && time_mono_ms() > t->limit_until)
            server_unlimit(t);
        turn(t, until);
    }
    t->early += t->port == 0;
    if (server_end(t, SIGKILL) != -SIGKILL)
        complain(&t->other, "life %d: the server has died of itself", number);
    t->kills++;
    if (t->verbose)
        printf("life %d: %d messages, %llu acknowledged, %llu retries, %llu refused\n", number,
               t->n, t->acked, t->retries, t->refused);
}

/* True when nothing is on its way any more. */
static bool
all_answered(const struct test *t)
{
    for (int i = 0; i < CLIENTS; i++)
        if (t->client[i].state != READY || !t->client[i].looked || t->client[i].wants != 0 ||
            t->client[i].nway > 0 || t->client[i].nagain > 0)
            return false;
    return true;
}

/* --- comparison ------------------------------------------------------------------------------- */

/* Read a conversation's whole history as one of its members. */
static void
read_history(struct test *t, int talk)
{
    struct client *c = &t->client[talk < GROUPS ? talk : 2 * (talk - GROUPS)];
    int64_t until = time_mono_ms() + PATIENCE;

    t->history_seq = 1;
    t->history_more = true;
    while (t->history_more && time_mono_ms() < until) {
        struct buf b = {0};
        buf_printf(&b, "{\"cmd\":19,\"type\":1,\"userId\":\"u%d\",", (int)(c - t->client));
        if (talk < GROUPS)
            buf_printf(&b, "\"groupId\":\"g%d\",", talk);
        else
            buf_printf(&b, "\"fromUserId\":\"u%d\",", (int)(c - t->client) ^ 1);
        buf_printf(&b, "\"afterSeq\":%" PRIu64 "}", t->history_seq - 1);
        send_frame(c, 19, b.p, b.len);
        buf_free(&b);
        c->asked_talk = talk;
        while (c->asked_talk >= 0 && time_mono_ms() < until)
            turn(t, until);
    }
    if (t->history_more)
        complain(&t->other, "the history of conversation %d does not end", talk);
}

/* Run `jim COMMAND DIR`; its standard output goes to a file. Returns its exit code. */
static int
run_jim(struct test *t, const char *command, const char *to)
{
    int status = 0;
    pid_t pid = fork();

    if (pid == 0) {
        int fd = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        dup2(fd, 1);
        execl(t->jim, t->jim, command, t->store, (char *)NULL);
        _exit(127);
    }
    if (pid < 0 || waitpid(pid, &status, 0) < 0)
        die("fork");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

static void
read_export(struct test *t)
{
    uint64_t next[TALKS];
    char path[96], *line = NULL;
    size_t cap = 0, n;
    ssize_t got;

    for (int i = 0; i < TALKS; i++)
        next[i] = 1;
    snprintf(path, sizeof path, "%s/check", t->dir);
    if (run_jim(t, "check", path) != 0)
        complain(&t->other, "jim check finds damage");
    snprintf(path, sizeof path, "%s/export", t->dir);
    if (run_jim(t, "export", path) != 0)
        complain(&t->other, "jim export fails");
    FILE *f = fopen(path, "r");
    if (f == NULL)
        die(path);
    while ((got = getline(&line, &cap, f)) > 0) {
        uint64_t seq;
        n = (size_t)got - (line[got - 1] == '\n');
        int m = chat_message(t, line, n, &seq);
        if (m < 0)
            complain(&t->other, "exported, but nobody sent it: %.*s", n < 200 ? (int)n : 200, line);
        else
            take_stored(t, -1, line, n, &next[t->m[m].talk], true);
    }
    free(line);
    fclose(f);
}

static void
compare(struct test *t)
{
    for (int m = 0; m < t->n; m++) {
        if (!t->m[m].acked)
            complain(&t->other, "message %d was never acknowledged", m);
        if (t->m[m].seq == 0)
            continue;
        if (t->m[m].stored == 0)
            complain(&t->missing, "message %d is missing in history", m);
        if (t->m[m].exported == 0)
            complain(&t->missing, "message %d is missing in the export", m);
    }
}

static void
last_life(struct test *t)
{
    t->sending = false;
    server_start(t, 0, false);
    int64_t until = time_mono_ms() + PATIENCE;
    while (!all_answered(t) && time_mono_ms() < until && (t->out >= 0 || t->port > 0))
        turn(t, until);
    if (!all_answered(t))
        complain(&t->other, "not all messages are answered");
    else
        for (int talk = 0; talk < TALKS; talk++)
            read_history(t, talk);
    if (server_end(t, SIGTERM) != 0)
        complain(&t->other, "the server does not stop with 0");
    read_export(t);
    compare(t);
}

/* --- commands --------------------------------------------------------------------------------- */

static int
report(const struct test *t, int64_t start_ms)
{
    const struct {
        const char *what;
        unsigned long long n;
    } results[] = {{"missing", t->missing}, {"memberships", t->groups},
                   {"duplicates", t->duplicates}, {"gaps", t->gaps},
                   {"different contents", t->different}, {"other answers to retries", t->answers},
                   {"out of order", t->order}, {"else", t->other}};
    int passed = 0, n = (int)(sizeof results / sizeof results[0]);

    printf("note: kill: %llu kills (%llu while starting, %llu lives with a full disk), %llu "
           "messages acknowledged, %llu retries, %llu refusals, %llu delivered live, "
           "%llu joins and leaves, looked after %llu times\n", t->kills, t->early, t->limited,
           t->acked, t->retries, t->refused, t->live, t->changes, t->looks);
    printf("note: kill:");
    for (int i = 0; i < n; i++) {
        printf(" %s %llu,", results[i].what, results[i].n);
        passed += results[i].n == 0;
    }
    printf(" %.1f s\n%d passed, %d failed\n", (double)(time_mono_ms() - start_ms) / 1000, passed,
           n - passed);
    return passed == n ? 0 : 1;
}

static void
remove_dir(const struct test *t, bool good)
{
    char command[200];

    fflush(stdout);
    if (good)
        snprintf(command, sizeof command, "rm -rf '%s'", t->dir);
    else
        snprintf(command, sizeof command, "echo 'left: %s'; tail -n 20 '%s/log'", t->dir, t->dir);
    if (system(command) != 0)
        printf("failed: %s\n", command);
}

int
main(int argc, char **argv)
{
    struct test *t = xcalloc(1, sizeof *t);
    int c, kills = KILLS;

    t->rng = (uint64_t)time_wall_ms();
    while ((c = getopt(argc, argv, "vs:")) != -1) {
        t->verbose = t->verbose || c == 'v';
        if (c == 's')
            t->rng = strtoull(optarg, NULL, 10);
    }
    if (optind < argc)
        kills = atoi(argv[optind]);
    if (kills < 1 || t->rng == 0) {
        fprintf(stderr, "usage: kill [-v] [-s SEED] [KILLS]\n");
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    printf("note: kill: seed %" PRIu64 "\n", t->rng); /* of the choices, not of what happens when */
    t->jim = getenv("JIM") != NULL ? getenv("JIM") : "./jim";
    snprintf(t->dir, sizeof t->dir, "/tmp/jim-kill-XXXXXX");
    if (mkdtemp(t->dir) == NULL)
        die(t->dir);
    snprintf(t->store, sizeof t->store, "%s/data", t->dir);
    for (int i = 0; i < CLIENTS; i++)
        t->client[i] = (struct client){.fd = -1, .ws = i % 2 == 1, .asked_talk = -1};
    int64_t start_ms = time_mono_ms();
    t->sending = true;
    for (int i = 0; i < kills && t->other == 0; i++)
        life(t, i);
    last_life(t);
    int status = report(t, start_ms);
    remove_dir(t, status == 0);
    for (int i = 0; i < CLIENTS; i++) {
        buf_free(&t->client[i].in);
        buf_free(&t->client[i].out);
    }
    for (int i = 0; i < TALKS; i++)
        free(t->talk[i].by_seq);
    buf_free(&t->said);
    buf_free(&t->scratch);
    free(t->m);
    free(t);
    return status;
}
