/* SPDX-License-Identifier: MIT */
/*
 * cluster_chaos.c - three nodes and a Redis, all of which die, stand still and come back while many
 * users talk. At last every message that was acknowledged must be in its conversation once, at the
 * place that was told, and every member must have got it.
 *
 *   build/cluster-chaos [-v] [-s SEED] [-u USERS] [-t SECONDS] [-c]     JIM: the program, ./jim
 *   -c: a Redis Cluster of three masters and three replicas, with a failover and a slot migration,
 *   which must have happened at the end
 *
 * Half of the users speak TCP-IM, half WebSocket; ten share a group, two a private conversation.
 * Each connects to any node, fetches what he has missed, sends with ids of his own, and sends again
 * what was not acknowledged. Ends with the line `N passed, N failed`.
 *
 *   model, processes, frames, what is heard, clients, events, comparison
 */
#ifndef JIM_INTERNAL
#define JIM_INTERNAL
#endif
#include "../jim.h"
#include "ports.h"
#include "soak.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#define NODES 3
#define ENGINES 6      /* of a Redis Cluster; else one */
#define SLOTS 16384
#define TARGET 1       /* the server slots are moved to: a master, which is never killed */
#define MEMBERS 10     /* of a group */
#define WINDOW 3       /* messages of a user on their way */
#define PATIENCE 120000 /* ms for anything that has to come: only a hang takes this long */
#define STUCK 30000    /* ms after which a client tries another connection */
#define GRACE 10000    /* ms after Redis is back in which a refusal is no wonder */
#define SLOW 1000      /* ms without an answer, or a turn, after which that holds as well */
#define LOOK 500       /* ms between two looks at who has which slots */

/* --- model ------------------------------------------------------------------------------------ */

struct message {
    int from, talk;
    bool acked;
    uint64_t seq;      /* as it was first told, 0: nobody was told yet */
    uint16_t got;      /* bit i: member i of the talk has it */
    uint8_t stored;    /* how often its conversation has it */
};

struct talk {
    int first, members; /* users first .. first + members - 1 */
    bool group;
    uint64_t last;      /* highest seq in the store */
};

enum state { AWAY, UPGRADING, LOGGING_IN, FETCHING, REFUSED, READY, LEAVING };

struct client {
    int fd, node;
    bool ws;
    enum state state;
    struct buf in, out;
    int way[WINDOW], nway;      /* sent and not answered, in order */
    int again[2 * WINDOW], nagain; /* to be sent again first */
    int64_t pause_until;
    int refusals;               /* since something was last granted */
    uint64_t live[2];           /* highest seq heard live on this connection: group, pair */
    int64_t since_ms;           /* in this state */
    int64_t sent_ms;            /* when the last message left */
};

struct process {
    pid_t pid;
    int port;
    int64_t start_at; /* it is dead, and is started then; 0: it runs */
    int64_t go_at;    /* it stands still until then; 0: it runs */
    int probe;        /* an engine's: a connection, 0: none */
    int64_t asked_ms; /* when it was asked over that, 0: it has answered */
};

struct test {
    struct message *m; /* owned */
    int n, cap;
    struct talk *talk; /* owned: the groups, then the pairs */
    int talks, groups;
    struct client *client; /* owned */
    int users;
    struct process node[NODES], engine[ENGINES];
    int engines;
    uint8_t owner[SLOTS];  /* of a Redis Cluster, at the start: which engine */
    int moved, failed_over; /* slots, at the end */
    pid_t reshard;         /* at work; 0: none */
    bool kill_due;         /* a master, when that has ended */
    int64_t look_at;       /* at who has which slots */
    int64_t tended_ms;     /* when tend() was called last; 0: never */
    int64_t trouble_until;  /* Redis may be away until then */
    uint64_t rng;
    bool verbose, sending, cluster;
    const char *jim;
    char dir[64], seeds[128];
    unsigned long long acked, live, fetched, repeats, refused, stopping, unanswered, logins;
    unsigned long long kills, stops;
    unsigned long long missing, doubles, different, order, unheard, gaps, answers;
};

static uint32_t
below(struct test *t, uint32_t n)
{
    return draw(&t->rng) % n;
}

/* What the processes have said last, then the end. */
static void
give_up(const struct test *t, const char *what)
{
    char line[200];

    printf("%s\n", what);
    fflush(stdout);
    snprintf(line, sizeof line, "tail -n 12 %s/*.log", t->dir);
    if (system(line) == 0)
        printf("0 passed, 1 failed\n");
    exit(1);
}

/* --- processes -------------------------------------------------------------------------------- */

static int
connect_to(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;

    if (fd < 0)
        die("socket");
    if (connect(fd, (struct sockaddr *)&a, sizeof a) != 0) {
        close(fd);
        return -1;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    return fd;
}

static pid_t
run(struct test *t, const char *log, char *const argv[])
{
    char path[128];
    pid_t pid = fork();

    if (pid < 0)
        die("fork");
    if (pid > 0)
        return pid;
    snprintf(path, sizeof path, "%s/%s", t->dir, log);
#ifdef __linux__
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* die() leaves nobody behind */
#endif
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (fd < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0)
        _exit(126);
    execvp(argv[0], argv);
    _exit(127);
}

/* Without syncs, for nobody pulls a plug: what is written before it is answered outlives its
 * process, and how long a disk takes that all else here uses, too, is not what this is about. */
static void
start_engine(struct test *t, int i)
{
    char port[8], dir[96], log[24];
    const char *argv[] = {"redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "",
                          "--appendonly", "yes", "--appendfsync", "no", "--dir", dir,
                          "--cluster-enabled", t->cluster ? "yes" : "no",
                          "--cluster-node-timeout", "5000", NULL};

    snprintf(port, sizeof port, "%d", t->engine[i].port);
    snprintf(dir, sizeof dir, "%s/redis%d", t->dir, i);
    snprintf(log, sizeof log, "redis%d.log", i);
    mkdir(dir, 0700);
    t->engine[i].pid = run(t, log, (char *const *)(uintptr_t)argv);
    t->engine[i].start_at = t->engine[i].go_at = 0;
}

static void
start_node(struct test *t, int i)
{
    char port[8], redis[160], log[24];
    const char *argv[] = {t->jim, "-p", port, "-o", "jim.cluster=on", "-o", redis, "-o",
                          "jim.login.groups=", "-o", "jim.rate.messages=0", "-o",
                          "jim.redis.timeout=5s", "-o", "jim.drain=1s", "-o",
                          t->cluster ? "jim.redis.wait=1" : "jim.redis.wait=0", NULL};

    snprintf(port, sizeof port, "%d", t->node[i].port);
    if (t->cluster)
        snprintf(redis, sizeof redis, "jim.redis.nodes=%s", t->seeds);
    else
        snprintf(redis, sizeof redis, "jim.redis.port=%d", t->engine[0].port);
    snprintf(log, sizeof log, "jim%d.log", i);
    t->node[i].pid = run(t, log, (char *const *)(uintptr_t)argv);
    t->node[i].start_at = 0;
}

/* GET or POST over a connection of its own: the body; NULL: no answer, or not 200. */
static char *
http(struct test *t, int node, const char *method, const char *target)
{
    struct buf b = {0};
    int fd = connect_to(t->node[node].port);
    ssize_t got = 0;
    char *body;

    if (fd < 0)
        return NULL;
    dprintf(fd, "%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", method, target);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    do {
        buf_reserve(&b, 65536);
        if (poll(&p, 1, PATIENCE) <= 0)
            break;
        got = read(fd, b.p + b.len, 65535);
        b.len += got > 0 ? (size_t)got : 0;
    } while (got > 0);
    close(fd);
    buf_add(&b, "", 1);
    body = strstr(b.p, "\r\n\r\n");
    body = body != NULL && strncmp(b.p, "HTTP/1.1 200", 12) == 0 ? xstrndup(body + 4,
                                                                           strlen(body + 4)) : NULL;
    buf_free(&b);
    return body;
}

static void
await_nodes(struct test *t)
{
    int64_t end = time_mono_ms() + PATIENCE;

    for (int i = 0; i < NODES; i++)
        for (;;) {
            char *body = http(t, i, "GET", "/healthz");
            if (body != NULL) {
                free(body);
                break;
            }
            if (time_mono_ms() > end)
                give_up(t, "a node does not get ready");
            poll(NULL, 0, 20);
        }
}

static void
command(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void
command(const char *format, ...)
{
    char line[512];
    va_list ap;

    va_start(ap, format);
    vsnprintf(line, sizeof line, format, ap);
    va_end(ap);
    if (system(line) != 0)
        printf("note: failed: %s\n", line);
}

/* A line of CLUSTER NODES: `ID HOST:PORT@BUS FLAGS MASTER PING PONG EPOCH LINK SLOTS...`. */
static void
read_owner(const struct test *t, char *line, uint8_t *owner)
{
    const char *port = strchr(line, ':');
    int which = 0, field = 0;

    while (port != NULL && which < t->engines && atoi(port + 1) != t->engine[which].port)
        which++;
    if (port == NULL || which == t->engines)
        return;
    for (char *word = strtok(line, " \n"); word != NULL; word = strtok(NULL, " \n")) {
        int first = 0, last = 0, n = field++ < 8 ? 0 : sscanf(word, "%d-%d", &first, &last);
        for (int slot = first; n > 0 && slot <= (n == 2 ? last : first) && slot < SLOTS; slot++)
            owner[slot] = (uint8_t)which;
    }
}

/* Which engine has each slot, as one says that is never killed. False: some have none. */
static bool
read_owners(const struct test *t, uint8_t *owner)
{
    char line[4096];

    memset(owner, UINT8_MAX, SLOTS);
    snprintf(line, sizeof line, "redis-cli -p %d cluster nodes", t->engine[TARGET].port);
    FILE *f = popen(line, "r");
    if (f == NULL)
        die("popen");
    while (fgets(line, sizeof line, f) != NULL)
        read_owner(t, line, owner);
    pclose(f);
    return memchr(owner, UINT8_MAX, SLOTS) == NULL;
}

/* A reshard gives slots to TARGET; a failover gives a master's to who was none. */
static void
compare_owners(struct test *t)
{
    uint8_t now[SLOTS];
    bool master[ENGINES] = {false};

    t->look_at = time_mono_ms() + LOOK;
    if (!read_owners(t, now))
        return; /* they are about to change */
    t->moved = t->failed_over = 0;
    for (int i = 0; i < SLOTS; i++)
        master[t->owner[i]] = true;
    for (int i = 0; i < SLOTS; i++) {
        t->moved += now[i] == TARGET && t->owner[i] != TARGET;
        t->failed_over += !master[now[i]];
    }
}

static void
start_engines(struct test *t)
{
    size_t n = 0;
    char all[160] = "";
    int64_t until;

    t->engines = t->cluster ? ENGINES : 1;
    for (int i = 0; i < t->engines; i++) {
        t->engine[i].port = free_port();
        start_engine(t, i);
        n += (size_t)snprintf(all + n, sizeof all - n, " 127.0.0.1:%d", t->engine[i].port);
        until = time_mono_ms() + PATIENCE;
        for (int fd; (fd = connect_to(t->engine[i].port)) < 0 || close(fd) != 0; poll(NULL, 0, 10))
            if (time_mono_ms() > until)
                give_up(t, "a redis-server does not start");
    }
    if (!t->cluster)
        return;
    snprintf(t->seeds, sizeof t->seeds, "127.0.0.1:%d,127.0.0.1:%d", t->engine[0].port,
             t->engine[1].port);
    command("redis-cli --cluster create%s --cluster-replicas 1 --cluster-yes > %s/create.log 2>&1",
            all, t->dir);
    for (until = time_mono_ms() + PATIENCE; !read_owners(t, t->owner); poll(NULL, 0, 50))
        if (time_mono_ms() > until)
            give_up(t, "a slot has no owner");
}

/* --- frames ----------------------------------------------------------------------------------- */

static void
say(struct client *c, uint8_t cmd, const char *json, size_t n)
{
    if (c->ws) {
        char head[48];
        int k = snprintf(head, sizeof head, "{\"cmd\":%d,", cmd);
        size_t all = (size_t)k + n - 1;
        unsigned char h[8] = {0x81, 0, 0, 0, 0, 0, 0, 0};
        size_t hn = 2;
        if (all < 126) {
            h[1] = (unsigned char)(0x80 | all);
        } else {
            h[1] = 0x80 | 126;
            h[2] = (unsigned char)(all >> 8);
            h[3] = (unsigned char)all;
            hn = 4;
        }
        buf_add(&c->out, h, hn);
        buf_add(&c->out, "\0\0\0\0", 4); /* a mask that changes nothing */
        buf_add(&c->out, head, (size_t)k);
        buf_add(&c->out, json + 1, n - 1);
        return;
    }
    uint8_t h[MAX_PKT_HEAD];
    buf_add(&c->out, h, pkt_head(h, cmd, 0, (uint32_t)n));
    buf_add(&c->out, json, n);
}

/* A server's frame at the start of `in`: its length, 0: not whole yet. */
static size_t
frame(const struct client *c, struct str *body)
{
    const unsigned char *p = (const unsigned char *)c->in.p;
    size_t n = c->in.len, head = 2, len;

    if (c->ws) {
        if (n < 2)
            return 0;
        len = p[1];
        if (len == 126 && n >= 4) {
            len = (size_t)p[2] << 8 | p[3];
            head = 4;
        } else if (len == 127 && n >= 10) {
            len = (size_t)get_be32(p + 6);
            head = 10;
        } else if (len >= 126) {
            return 0;
        }
        *body = (struct str){c->in.p + head, p[0] == 0x81 ? len : 0};
        return n >= head + len ? head + len : 0;
    }
    if (n < 7)
        return 0;
    head = p[1] & 0x20 ? 11 : 7;
    if (n < head)
        return 0;
    len = get_be32(p + head - 4);
    *body = (struct str){c->in.p + head, len};
    return n >= head + len ? head + len : 0;
}

/* --- what is heard ---------------------------------------------------------------------------- */

static long long
number(const char *p, const char *end, const char *key)
{
    size_t n = strlen(key);

    for (; p + n < end; p++)
        if (memcmp(p, key, n) == 0)
            return strtoll(p + n, NULL, 10);
    return -1;
}

/* The next chat in [p, end) that a user of ours has sent: its message, its seq; NULL: none. */
static const char *
next_chat(const char *p, const char *end, int *m, uint64_t *seq)
{
    for (; p + 8 < end; p++)
        if (memcmp(p, "\"id\":\"m", 7) == 0) {
            *m = atoi(p + 7);
            *seq = (uint64_t)number(p, end, "\"seq\":");
            return p + 8;
        }
    return NULL;
}

static void
heard_chat(struct test *t, int who, int i, uint64_t seq, bool live)
{
    if (i < 0 || i >= t->n) {
        complain(&t->answers, "user %d has got a message that nobody has sent", who);
        return;
    }
    struct message *m = &t->m[i];
    const struct talk *k = &t->talk[m->talk];
    int member = who - k->first;
    if (member < 0 || member >= k->members) {
        complain(&t->answers, "user %d has got message %d, which is not for him", who, i);
        return;
    }
    if (m->seq != 0 && m->seq != seq)
        complain(&t->different, "message %d is number %llu and %llu", i,
                 (unsigned long long)m->seq, (unsigned long long)seq);
    m->seq = seq;
    t->repeats += m->got >> member & 1;
    m->got |= (uint16_t)(1u << member);
    t->live += live;
    t->fetched += !live;
    uint64_t *last = &t->client[who].live[!k->group];
    if (live && seq <= *last)
        complain(&t->order, "user %d, talk %d: %llu came behind %llu", who, m->talk,
                 (unsigned long long)seq, (unsigned long long)*last);
    if (live && seq > *last)
        *last = seq;
}

static void
send_again(struct client *c, int m)
{
    if (c->nagain < 2 * WINDOW)
        c->again[c->nagain++] = m;
}

/* Ask again later, and the later, the more often it was in vain. */
static void
pause_longer(struct test *t, struct client *c)
{
    c->refusals += c->refusals < 5;
    c->pause_until = time_mono_ms() + 50 + below(t, 50u << c->refusals);
}

static void
heard_ack(struct test *t, struct client *c, const char *p, const char *end)
{
    long long code = number(p, end, "\"code\":");
    uint64_t seq;
    int told = -1;

    if (c->nway == 0) {
        complain(&t->answers, "an answer too many: %.*s", (int)(end - p), p);
        return;
    }
    int i = c->way[0];
    memmove(c->way, c->way + 1, (size_t)--c->nway * sizeof c->way[0]);
    if (code != CODE_SENT && code != CODE_OFFLINE) {
        t->refused++;
        t->stopping += code == CODE_STOPPING;
        pause_longer(t, c);
        send_again(c, i);
        if (code != CODE_STOPPING && (code != CODE_STORE || time_mono_ms() > t->trouble_until))
            complain(&t->answers, "message %d of user %d: node %d refused it with %lld", i,
                     t->m[i].from, c->node, code);
        return;
    }
    c->refusals = 0;
    struct message *m = &t->m[i];
    if (next_chat(p, end, &told, &seq) == NULL || told != i)
        complain(&t->answers, "the answer to %d is for %d", i, told);
    if (m->seq != 0 && m->seq != seq)
        complain(&t->different, "message %d is acknowledged as %llu, but is %llu", i,
                 (unsigned long long)seq, (unsigned long long)m->seq);
    m->seq = seq;
    t->acked += !m->acked;
    m->acked = true;
}

static void fetch(struct client *c, int who);

static void
heard(struct test *t, int who, const char *p, size_t n)
{
    struct client *c = &t->client[who];
    const char *end = p + n, *at = p;
    long long command_of = number(p, end, "\"command\":");
    uint64_t seq;
    int m;

    if (command_of == CMD_LOGIN_RESP) {
        if (number(p, end, "\"code\":") == CODE_LOGIN_OK) {
            t->logins++;
            c->state = FETCHING;
            c->since_ms = time_mono_ms();
            fetch(c, who);
        }
    } else if (command_of == CMD_CHAT) {
        if (next_chat(p, end, &m, &seq) != NULL)
            heard_chat(t, who, m, seq, true);
    } else if (command_of == CMD_CHAT_RESP) {
        heard_ack(t, c, p, end);
    } else if (command_of == CMD_MESSAGES_RESP) {
        bool good = number(p, end, "\"code\":") == CODE_OFFLINE_MESSAGES;
        while ((at = next_chat(at, end, &m, &seq)) != NULL)
            heard_chat(t, who, m, seq, false);
        bool more = number(p, end, "\"more\":tru") >= 0 || strstr(p, "\"more\":true") != NULL;
        if (!good) {
            c->state = REFUSED;
            pause_longer(t, c);
        } else if (more) {
            fetch(c, who);
        } else {
            c->state = READY;
            c->since_ms = time_mono_ms();
            c->refusals = 0;
        }
    }
}

/* --- clients ---------------------------------------------------------------------------------- */

static void
fetch(struct client *c, int who)
{
    char json[64];
    int n = snprintf(json, sizeof json, "{\"type\":0,\"userId\":\"u%d\"}", who);

    say(c, CMD_MESSAGES, json, (size_t)n);
}

static void
lose(struct test *t, struct client *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    for (int i = 0; i < c->nway; i++)
        send_again(c, c->way[i]);
    t->unanswered += (unsigned)c->nway;
    c->nway = 0;
    c->in.len = c->out.len = 0;
    c->live[0] = c->live[1] = 0;
    if (c->state == READY || c->state == LEAVING)
        c->pause_until = time_mono_ms() + 50 + below(t, 300);
    else
        pause_longer(t, c);
    c->state = AWAY;
    c->since_ms = time_mono_ms();
}

/* Say no more, but hear what has been said: what has left the server counts as delivered. */
static void
leave(struct client *c)
{
    shutdown(c->fd, SHUT_WR);
    c->state = LEAVING;
    c->since_ms = time_mono_ms();
}

static void
login(struct client *c, int who)
{
    char json[64];
    int n = snprintf(json, sizeof json, "{\"userId\":\"u%d\"}", who);

    c->state = LOGGING_IN;
    say(c, CMD_LOGIN, json, (size_t)n);
}

static void
connect_somewhere(struct test *t, int who)
{
    struct client *c = &t->client[who];

    c->node = (int)below(t, NODES);
    c->fd = connect_to(t->node[c->node].port);
    if (c->fd < 0) {
        pause_longer(t, c);
        return;
    }
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    c->since_ms = time_mono_ms();
    if (c->ws) {
        static const char upgrade[] = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
                                      "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                                      "Sec-WebSocket-Key: MDEyMzQ1Njc4OTAxMjM0NQ==\r\n\r\n";
        c->state = UPGRADING;
        buf_add(&c->out, upgrade, sizeof upgrade - 1);
    } else {
        login(c, who);
    }
}

static int
new_message(struct test *t, int who)
{
    if (t->n == t->cap) {
        t->cap = t->cap == 0 ? 1024 : 2 * t->cap;
        t->m = xrealloc(t->m, (size_t)t->cap * sizeof *t->m);
    }
    bool group = below(t, 2) == 0;
    t->m[t->n] = (struct message){.from = who,
                                  .talk = group ? who / MEMBERS : t->groups + who / 2};
    return t->n++;
}

static void
send_one(struct test *t, int who)
{
    struct client *c = &t->client[who];
    char json[160];
    int n, m;

    if (c->nagain > 0) {
        m = c->again[0];
        memmove(c->again, c->again + 1, (size_t)--c->nagain * sizeof c->again[0]);
    } else {
        m = new_message(t, who);
    }
    if (t->talk[t->m[m].talk].group)
        n = snprintf(json, sizeof json, "{\"chatType\":1,\"content\":\"%d\",\"groupId\":\"g%d\","
                     "\"id\":\"m%d\"}", m, t->m[m].talk, m);
    else
        n = snprintf(json, sizeof json, "{\"chatType\":2,\"content\":\"%d\",\"id\":\"m%d\","
                     "\"to\":\"u%d\"}", m, m, who ^ 1);
    c->way[c->nway++] = m;
    c->sent_ms = time_mono_ms();
    say(c, CMD_CHAT, json, (size_t)n);
}

static void
client_read(struct test *t, int who)
{
    struct client *c = &t->client[who];
    struct str body;
    size_t n;

    buf_reserve(&c->in, 65536);
    ssize_t got = read(c->fd, c->in.p + c->in.len, 65535);
    if (got <= 0) {
        if (got == 0 || (errno != EAGAIN && errno != EINTR))
            lose(t, c);
        return;
    }
    c->in.len += (size_t)got;
    if (c->state == UPGRADING) {
        c->in.p[c->in.len] = '\0';
        char *end = strstr(c->in.p, "\r\n\r\n");
        if (end == NULL)
            return;
        buf_drop(&c->in, (size_t)(end + 4 - c->in.p));
        login(c, who);
    }
    while (c->fd >= 0 && (n = frame(c, &body)) > 0) {
        if (body.n > 0) {
            char *text = xstrndup(body.p, body.n);
            heard(t, who, text, body.n);
            free(text);
        }
        if (c->fd >= 0)
            buf_drop(&c->in, n);
    }
}

static void
client_write(struct client *c)
{
    ssize_t w = send(c->fd, c->out.p, c->out.len, MSG_NOSIGNAL);

    if (w < 0 && errno != EAGAIN && errno != EINTR) {
        c->out.len = 0; /* the other side is gone, but what it has said is still to be read */
        c->state = LEAVING;
        c->since_ms = time_mono_ms();
    } else if (w > 0) {
        buf_drop(&c->out, (size_t)w);
    }
}

static void
client_turn(struct test *t, int who)
{
    struct client *c = &t->client[who];
    int64_t now = time_mono_ms();

    if (c->state == AWAY && now >= c->pause_until)
        connect_somewhere(t, who);
    if (c->state == REFUSED && now >= c->pause_until) {
        c->state = FETCHING;
        fetch(c, who);
    }
    if (c->state == LEAVING && now - c->since_ms > STUCK)
        lose(t, c);
    else if (c->fd >= 0 && c->state != READY && c->state != LEAVING && now - c->since_ms > STUCK)
        leave(c); /* it is not getting anywhere */
    if (c->state != READY || now < c->pause_until || c->nway == WINDOW)
        return;
    if (!t->sending && c->nagain == 0)
        return;
    send_one(t, who);
    c->pause_until = now + 100 + below(t, 1500);
    if (t->sending && below(t, 200) == 0)
        leave(c); /* clients come and go, too */
}

static void
turn(struct test *t, struct pollfd *fds)
{
    for (int i = 0; i < t->users; i++) {
        struct client *c = &t->client[i];
        client_turn(t, i);
        fds[i] = (struct pollfd){.fd = c->fd, .events = POLLIN};
        if (c->out.len > 0)
            fds[i].events |= POLLOUT;
    }
    poll(fds, (nfds_t)t->users, 10);
    for (int i = 0; i < t->users; i++) {
        if (fds[i].revents & (POLLIN | POLLHUP | POLLERR) && t->client[i].fd == fds[i].fd)
            client_read(t, i);
        if (fds[i].revents & POLLOUT && t->client[i].fd == fds[i].fd)
            client_write(&t->client[i]);
    }
}

/* --- events ----------------------------------------------------------------------------------- */

static void
end_process(struct process *p, int sig, int64_t back_ms)
{
    int status;

    if (kill(p->pid, sig) != 0)
        die("kill");
    if (sig == SIGKILL || sig == SIGTERM)
        waitpid(p->pid, &status, 0);
    p->start_at = time_mono_ms() + back_ms;
}

/* A hundred slots to TARGET, from all the others. */
static void
reshard(struct test *t)
{
    char line[320];
    const char *argv[] = {"sh", "-c", line, NULL};

    if (t->reshard > 0)
        return;
    snprintf(line, sizeof line, "exec redis-cli --cluster reshard 127.0.0.1:%d --cluster-from all "
             "--cluster-to $(redis-cli -p %d cluster myid) --cluster-slots 100 --cluster-yes",
             t->engine[TARGET].port, t->engine[TARGET].port);
    t->reshard = run(t, "reshard.log", (char *const *)(uintptr_t)argv);
}

/* A master that dies while it gives a slot away may leave it without an owner, which no client can
 * help: so it does not die before. */
static void
kill_engine(struct test *t)
{
    t->kill_due = t->reshard > 0;
    if (t->kill_due)
        return;
    end_process(&t->engine[0], SIGKILL, 1500);
    t->kills++;
}

/* In a cluster it comes back when a replica has taken its place, however long that takes. */
static bool
may_come_back(struct test *t, int64_t dead_ms)
{
    if (!t->cluster || dead_ms > PATIENCE)
        return true;
    if (time_mono_ms() >= t->look_at)
        compare_owners(t);
    return t->failed_over > 0;
}

/* Is an engine slow to answer? Then what a node refuses meanwhile is no wonder, either: nobody has
 * stopped it, but the machine has others to serve, too. */
static bool
is_slow(struct process *p, int64_t now)
{
    char bytes[64];

    if (p->probe == 0) {
        p->probe = connect_to(p->port);
        p->asked_ms = 0;
        if (p->probe < 0)
            p->probe = 0;
        return p->probe == 0;
    }
    ssize_t got = recv(p->probe, bytes, sizeof bytes, MSG_DONTWAIT);
    if (got > 0)
        p->asked_ms = 0;
    if (p->asked_ms == 0 && send(p->probe, "PING\r\n", 6, MSG_NOSIGNAL | MSG_DONTWAIT) == 6)
        p->asked_ms = now;
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
        close(p->probe);
        p->probe = 0;
        return true;
    }
    return p->asked_ms > 0 && now - p->asked_ms > SLOW;
}

static void
tend(struct test *t)
{
    int64_t now = time_mono_ms();

    if (t->tended_ms > 0 && now - t->tended_ms > SLOW)
        t->trouble_until = now + GRACE;
    t->tended_ms = now;
    if (t->reshard > 0 && waitpid(t->reshard, NULL, WNOHANG) == t->reshard)
        t->reshard = 0;
    if (t->kill_due)
        kill_engine(t);
    for (int i = 0; i < NODES; i++)
        if (t->node[i].start_at > 0 && now >= t->node[i].start_at)
            start_node(t, i);
    for (int i = 0; i < t->engines; i++) {
        struct process *p = &t->engine[i];
        if (p->start_at > 0 && now >= p->start_at && may_come_back(t, now - p->start_at))
            start_engine(t, i);
        if (p->start_at > 0 || p->go_at > 0 || t->reshard > 0 || is_slow(p, now))
            t->trouble_until = now + GRACE;
        if (p->go_at > 0 && now >= p->go_at) {
            kill(p->pid, SIGCONT);
            p->go_at = 0;
        }
    }
}

static void
event(struct test *t, int n, int64_t stand_ms)
{
    static const char *const what[] = {"a node is killed", "Redis stands still",
                                       "a node is stopped", "Redis is killed"};
    struct process *node = &t->node[n / 2 % NODES], *engine = &t->engine[0];

    if (t->verbose)
        printf("%s\n", t->cluster && n % 4 == 1 ? "slots move" : what[n % 4]);
    if (n % 4 == 0 && node->start_at == 0) {
        end_process(node, SIGKILL, 1500);
        t->kills++;
    } else if (n % 4 == 1 && t->cluster) {
        reshard(t);
    } else if (n % 4 == 1) {
        kill(engine->pid, SIGSTOP);
        engine->go_at = time_mono_ms() + stand_ms;
        t->stops++;
    } else if (n % 4 == 2 && node->start_at == 0) {
        end_process(node, SIGTERM, 500);
    } else if (n % 4 == 3 && engine->start_at == 0 && engine->go_at == 0) {
        kill_engine(t);
    }
    fflush(stdout);
}

/* --- comparison ------------------------------------------------------------------------------- */

/* All of a conversation, through any node. */
static void
read_talk(struct test *t, int k)
{
    struct talk *talk = &t->talk[k];
    char target[160];

    for (bool more = true; more;) {
        int n = snprintf(target, sizeof target, "/api/message/history?afterSeq=%llu&count=500&",
                         (unsigned long long)talk->last);
        if (talk->group)
            snprintf(target + n, sizeof target - (size_t)n, "groupId=g%d", k);
        else
            snprintf(target + n, sizeof target - (size_t)n, "userId=u%d&fromUserId=u%d",
                     talk->first, talk->first + 1);
        char *body = http(t, k % NODES, "GET", target);
        if (body == NULL)
            give_up(t, "no history");
        const char *at = body, *end = body + strlen(body);
        int m, count = 0;
        uint64_t seq;
        while ((at = next_chat(at, end, &m, &seq)) != NULL) {
            count++;
            if (seq != talk->last + 1)
                complain(&t->gaps, "talk %d: %llu behind %llu", k, (unsigned long long)seq,
                         (unsigned long long)talk->last);
            talk->last = seq;
            if (m < 0 || m >= t->n || t->m[m].talk != k) {
                complain(&t->answers, "talk %d has a message of another", k);
                continue;
            }
            t->m[m].stored++;
            if (t->m[m].seq != 0 && t->m[m].seq != seq)
                complain(&t->different, "message %d is stored as %llu, but was told as %llu", m,
                         (unsigned long long)seq, (unsigned long long)t->m[m].seq);
        }
        more = count == 500;
        free(body);
    }
}

/* Has everybody got what is stored? */
static bool
all_heard(const struct test *t)
{
    for (int i = 0; i < t->n; i++) {
        const struct message *m = &t->m[i];
        const struct talk *k = &t->talk[m->talk];
        int own = m->from - k->first;
        if (m->stored > 0 && (m->got | 1u << own) != (1u << k->members) - 1)
            return false;
    }
    return true;
}

static void
compare(struct test *t, struct pollfd *fds)
{
    for (int k = 0; k < t->talks; k++)
        read_talk(t, k);
    for (int64_t end = time_mono_ms() + PATIENCE; !all_heard(t) && time_mono_ms() < end;)
        turn(t, fds); /* the last of it may be on its way */
    for (int i = 0; i < t->n; i++) {
        const struct message *m = &t->m[i];
        const struct talk *k = &t->talk[m->talk];
        if (m->stored > 1)
            complain(&t->doubles, "message %d is there %d times", i, m->stored);
        if (m->acked && m->stored == 0)
            complain(&t->missing, "message %d was acknowledged as %llu, and is not there", i,
                     (unsigned long long)m->seq);
        for (int who = 0; m->stored > 0 && who < k->members; who++)
            if (k->first + who != m->from && !(m->got >> who & 1))
                complain(&t->unheard, "message %d (talk %d, %llu) has not reached user %d", i,
                         m->talk, (unsigned long long)m->seq, k->first + who);
    }
}

/* Who still waits for something, and for what. */
static void
complain_of_client(struct test *t, int who)
{
    static const char *const state[] = {"away", "upgrading", "logging in", "fetching",
                                        "refused", "ready", "leaving"};
    const struct client *c = &t->client[who];
    int64_t now = time_mono_ms();

    if (c->state == READY && c->nway + c->nagain == 0)
        return;
    complain(&t->answers, "user %d (%s, node %d) is not done: %s for %lld ms, %d on their way"
             " (message %d for %lld ms), %d to be sent again (message %d)", who,
             c->ws ? "ws" : "tcp", c->node, state[c->state], (long long)(now - c->since_ms),
             c->nway, c->nway > 0 ? c->way[0] : -1, (long long)(now - c->sent_ms), c->nagain,
             c->nagain > 0 ? c->again[0] : -1);
}

/* However long a reshard and a failover take: both have happened, and are over. */
static void
await_events(struct test *t, struct pollfd *fds)
{
    for (int64_t end = time_mono_ms() + 2 * PATIENCE; time_mono_ms() < end;) {
        const struct process *engine = &t->engine[0];
        turn(t, fds);
        tend(t);
        if (time_mono_ms() < t->look_at)
            continue;
        compare_owners(t);
        if (t->moved == 0)
            reshard(t);
        if (t->failed_over == 0 && engine->start_at == 0)
            kill_engine(t);
        if (t->moved > 0 && t->failed_over > 0 && t->reshard == 0 && engine->start_at == 0)
            return;
    }
}

/* Let everybody send what is left, then connect once more and fetch what he has missed. */
static void
settle(struct test *t, struct pollfd *fds)
{
    int64_t end = time_mono_ms() + PATIENCE;
    bool busy = true;

    t->sending = false;
    while (busy && time_mono_ms() < end) {
        busy = false;
        tend(t);
        turn(t, fds);
        for (int i = 0; i < t->users; i++)
            busy |= t->client[i].state != READY || t->client[i].nway + t->client[i].nagain > 0;
    }
    for (int i = 0; i < t->users && busy; i++)
        complain_of_client(t, i);
    for (int i = 0; i < t->users; i++)
        if (t->client[i].fd >= 0)
            leave(&t->client[i]);
    for (busy = true; busy && time_mono_ms() < end + PATIENCE;) {
        busy = false;
        turn(t, fds);
        for (int i = 0; i < t->users; i++)
            busy |= t->client[i].state != READY;
    }
    for (int64_t rest = time_mono_ms() + 500; time_mono_ms() < rest;)
        turn(t, fds);
}

static void
make_groups(struct test *t)
{
    t->groups = t->users / MEMBERS;
    t->talks = t->groups + t->users / 2;
    t->talk = xcalloc((size_t)t->talks, sizeof *t->talk);
    for (int g = 0; g < t->groups; g++) {
        struct buf b = {0};
        t->talk[g] = (struct talk){.first = g * MEMBERS, .members = MEMBERS, .group = true};
        buf_printf(&b, "/api/group/create?groupId=g%d", g);
        for (int i = 0; i < MEMBERS; i++)
            buf_printf(&b, "&users=u%d", g * MEMBERS + i);
        buf_add(&b, "", 1);
        char *body = http(t, g % NODES, "POST", b.p);
        if (body == NULL)
            give_up(t, "a group cannot be made");
        free(body);
        buf_free(&b);
    }
    for (int p = 0; p < t->users / 2; p++)
        t->talk[t->groups + p] = (struct talk){.first = 2 * p, .members = 2};
}

static int
report(const struct test *t)
{
    unsigned long long bad[] = {t->missing, t->doubles, t->different, t->order, t->unheard,
                                t->gaps, t->answers};
    static const char *const names[] = {"acknowledged and lost", "there twice",
                                        "with another number than told", "out of order",
                                        "not received", "gaps", "wrong answers"};
    int failed = 0;

    printf("note: %llu messages acknowledged, %llu heard live, %llu fetched, %llu heard again;"
           " %llu refused (%llu by a node that stopped), %llu unanswered; %llu logins, %llu kills,"
           " %llu standstills\n",
           t->acked, t->live, t->fetched, t->repeats, t->refused, t->stopping, t->unanswered,
           t->logins, t->kills, t->stops);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        printf("%s: %llu\n", names[i], bad[i]);
        failed += bad[i] > 0;
    }
    if (t->cluster) {
        printf("slots moved to another master: %d\nslots a replica has taken over: %d\n", t->moved,
               t->failed_over);
        failed += (t->moved == 0) + (t->failed_over == 0);
    }
    int checks = t->cluster ? 10 : 8;
    failed += t->acked == 0;
    printf("%d passed, %d failed\n", checks - failed, failed);
    return failed > 0;
}

int
main(int argc, char **argv)
{
    struct test t = {.users = 60, .rng = 88172645463325252u, .jim = getenv("JIM")};
    int c, seconds = 40, n = 0;

    while ((c = getopt(argc, argv, "vcs:u:t:")) != -1) {
        if (c == 'v')
            t.verbose = true;
        else if (c == 'c')
            t.cluster = true;
        else if (c == 's')
            t.rng += strtoull(optarg, NULL, 10) * 2654435761u;
        else if (c == 'u')
            t.users = atoi(optarg) / MEMBERS * MEMBERS;
        else if (c == 't')
            seconds = atoi(optarg);
        else
            return 2;
    }
    if (t.jim == NULL)
        t.jim = "./jim";
    if (t.users < MEMBERS || seconds < 10)
        return 2;
    snprintf(t.dir, sizeof t.dir, "/tmp/jim-chaos.XXXXXX");
    if (mkdtemp(t.dir) == NULL)
        die("mkdtemp");
    start_engines(&t);
    for (int i = 0; i < NODES; i++) {
        t.node[i].port = free_port();
        start_node(&t, i);
    }
    await_nodes(&t);
    make_groups(&t);
    t.client = xcalloc((size_t)t.users, sizeof *t.client);
    for (int i = 0; i < t.users; i++)
        t.client[i] = (struct client){.fd = -1, .ws = i / 2 % 2};
    struct pollfd *fds = xcalloc((size_t)t.users, sizeof *fds);
    int64_t begun = time_mono_ms(), every = seconds * 1000 / 9 > 30000 ? 30000 : seconds * 1000 / 9;
    t.sending = true;
    t.trouble_until = begun + GRACE; /* replicas have to catch up before WAIT can be satisfied */
    while (time_mono_ms() - begun < seconds * 1000) {
        turn(&t, fds);
        if ((time_mono_ms() - begun) / every > n && time_mono_ms() - begun + every < seconds * 1000)
            event(&t, n++, seconds >= 120 ? 10000 : every * 3 / 4);
        tend(&t);
    }
    if (t.cluster)
        await_events(&t, fds);
    settle(&t, fds);
    await_nodes(&t);
    compare(&t, fds);
    int bad = report(&t);
    for (int i = 0; i < NODES; i++)
        end_process(&t.node[i], SIGTERM, 0);
    for (int i = 0; i < t.engines; i++)
        end_process(&t.engine[i], SIGKILL, 0);
    if (!bad)
        command("rm -rf %s", t.dir);
    else
        command("tail -n 6 %s/*.log; echo '%d failed; all logs: %s'", t.dir, bad, t.dir);
    return bad;
}
