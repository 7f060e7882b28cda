/* SPDX-License-Identifier: MIT */
/*
 * fuzz_cluster.c - a node of a cluster whose Redis is not to be trusted: replies, entries of its
 * inbox and of conversations are the input's, on a Redis that does the rest well (fakeredis.h).
 * What its clients hear must be JSON all the same, and the node go on.
 */
#include "fakeredis.h"
#include "fuzz.h"

#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#define CLIENTS 3 /* a, b; and c, who speaks HTTP */

static struct fakeredis redis;
static struct fake_node node;
static struct {
    int fd; /* -1: none */
    struct buf heard;
} client[CLIENTS];

/* Whose reply is the input's. */
static const char *const replies[] = {
    "send",   "login",  "enter", "away",  "exit",  "leave",  "missed",  "history",
    "page",   "nodes",  "check", "lease", "create", "dismiss", "rename", "delivered",
    "reaped", "XREAD",  "XRANGE", "XADD", "HKEYS", "HGET",   "HGETALL", "SMEMBERS",
    "SRANDMEMBER", "ZRANGE", "ZCOUNT", "ZCARD", "SADD", "HSET", "PING", "HELLO",
};

/* What a client says. */
static const struct {
    uint8_t cmd;
    const char *json;
} sayings[] = {
    {CMD_LOGIN, "{\"userId\":\"a\"}"},
    {CMD_LOGIN, "{\"userId\":\"b\"}"},
    {CMD_CHAT, "{\"chatType\":2,\"content\":\"x\",\"id\":\"1\",\"to\":\"a\"}"},
    {CMD_CHAT, "{\"chatType\":2,\"content\":\"x\",\"to\":\"b\"}"},
    {CMD_CHAT, "{\"chatType\":1,\"content\":\"x\",\"groupId\":\"g\"}"},
    {CMD_JOIN, "{\"groupId\":\"h\",\"name\":\"H\"}"},
    {CMD_LEAVE, "{\"groupId\":\"h\"}"},
    {CMD_USER, "{\"type\":2,\"userId\":\"a\"}"},
    {CMD_USER, "{\"type\":0,\"userId\":\"b\"}"},
    {CMD_MESSAGES, "{\"type\":0,\"userId\":\"a\"}"},
    {CMD_MESSAGES, "{\"type\":0,\"userId\":\"b\"}"},
    {CMD_MESSAGES, "{\"type\":1,\"userId\":\"a\",\"fromUserId\":\"b\"}"},
    {CMD_MESSAGES, "{\"type\":1,\"userId\":\"b\",\"groupId\":\"g\"}"},
    {CMD_CLOSE, "{\"userId\":\"a\"}"},
    {CMD_HEARTBEAT, "{}"},
};

/* What the API is asked. */
static const char *const calls[] = {
    "/api/user/list?type=2", "/api/user/online?userid=a", "/api/user/info?userid=a&type=2",
    "/api/group/list", "/api/group/info?groupId=g", "/api/group/users?groupId=g&type=2",
    "/api/group/create?groupId=i&users=a,b", "/api/group/join?groupId=g&users=b",
    "/api/group/leave?groupId=g&users=a", "/api/group/dismiss?groupId=g",
    "/api/group/rename?groupId=g&name=G", "/api/message/broadcast?content=x",
    "/api/message/history?groupId=g", "/api/message/offline?userId=a",
    "/api/user/close?userid=b", "/api/cluster", "/metrics",
};

/* --- clients ---------------------------------------------------------------------------------- */

static void
client_go(int i)
{
    if (client[i].fd >= 0)
        close(client[i].fd);
    client[i].fd = -1;
    client[i].heard.len = 0;
}

/* Whole frames of JSON objects, all but an unfinished last one. */
static void
check_frames(struct buf *heard)
{
    struct request r;
    struct pkt pkt;
    ptrdiff_t used;

    while ((used = pkt_decode(heard->p, heard->len, 1 << 24, &pkt)) > 0) {
        MUST(request_parse(&r, pkt.body) && pkt.cmd < COMMANDS);
        buf_drop(heard, (size_t)used);
    }
    MUST(used == 0);
}

/* Answers with their length; their bodies are JSON objects, but for the metrics. */
static void
check_answers(struct buf *heard)
{
    for (;;) {
        const char *end = heard->len > 0 ? memmem(heard->p, heard->len, "\r\n\r\n", 4) : NULL;
        const char *at = end != NULL
            ? memmem(heard->p, (size_t)(end - heard->p), "Content-Length: ", 16) : NULL;
        struct request r;
        if (at == NULL)
            return;
        size_t head = (size_t)(end + 4 - heard->p), n = strtoul(at + 16, NULL, 10);
        if (heard->len < head + n)
            return;
        MUST(heard->p[head] != '{' || request_parse(&r, (struct str){heard->p + head, n}));
        buf_drop(heard, head + n);
    }
}

static bool
client_hear(int i)
{
    struct buf *b = &client[i].heard;
    ssize_t n;
    bool some = false;

    while (client[i].fd >= 0) {
        buf_reserve(b, 65536);
        n = read(client[i].fd, b->p + b->len, 65536);
        if (n <= 0)
            break;
        b->len += (size_t)n;
        some = true;
        if (i == CLIENTS - 1)
            check_answers(b);
        else
            check_frames(b);
    }
    if (client[i].fd >= 0 && n == 0)
        client_go(i);
    return some;
}

/* Turns until nothing happens any more. */
static void
settle(void)
{
    int quiet = 0;

    for (int i = 0; i < 300 && quiet < 3; i++) {
        bool busy = fake_node_turn(&node) && node.j->attend != NULL;
        busy |= fake_turn(&redis);
        for (int k = 0; k < CLIENTS; k++)
            busy |= client_hear(k);
        quiet = busy ? 0 : quiet + 1;
    }
}

static void
client_put(int i, const void *p, size_t n)
{
    if (client[i].fd < 0 && !node.over)
        client[i].fd = fake_node_connect(&node);
    if (client[i].fd >= 0 && send(client[i].fd, p, n, MSG_NOSIGNAL) < 0)
        client_go(i);
}

static void
client_say(int i, size_t what)
{
    char frame[256];
    const char *json = sayings[what].json;
    size_t n = strlen(json);
    size_t head = pkt_head((uint8_t *)frame, sayings[what].cmd, 0, (uint32_t)n);

    memcpy(frame + head, json, n);
    client_put(i, frame, head + n);
}

static void
client_call(size_t what)
{
    char text[256];
    int n = snprintf(text, sizeof text, "POST %s HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer k\r\n"
                     "Content-Length: 0\r\n\r\n", calls[what]);

    client_put(CLIENTS - 1, text, (size_t)n);
}

/* --- the target ------------------------------------------------------------------------------- */

static void
begin(void)
{
    static const char *const options[] = {
        "jim.login.groups", "g:Gang",      "jim.api.key", "k",         "jim.log.level", "error",
        "jim.queue.max",    "65536",       "jim.rate.messages", "0",   "jim.fetch.max", "5",
        NULL,
    };

    fake_now_ms = 0;
    fake_open(&redis);
    fake_node_start(&node, &redis, options);
    node.j->log.level = -1;
    memset(node.j->chat.id_key, 1, sizeof node.j->chat.id_key);
    for (int i = 0; i < CLIENTS; i++)
        client[i].fd = -1;
    settle();
    client_say(0, 0);
    client_say(1, 1);
    settle();
    MUST(cluster_up(node.j->cluster) && node.j->chat.roster.nonline == 2);
}

static void
end(void)
{
    redis.rules = 0; /* from now on it is as it should be: the node must be, too */
    redis.deaf = false;
    fake_release(&redis);
    fake_cut(&redis);
    for (int i = 0; i < 200 && !cluster_up(node.j->cluster); i++) {
        fake_now_ms += 100;
        settle();
    }
    MUST(cluster_up(node.j->cluster));
    for (int i = 0; i < CLIENTS; i++)
        client_go(i);
    settle();
    jim_stop(node.j);
    for (int i = 0; i < 200 && !node.over; i++) {
        fake_now_ms += 100;
        settle();
    }
    MUST(node.over && node.j->conns == 0);
    fake_node_free(&node);
    fake_close(&redis);
    for (int i = 0; i < CLIENTS; i++)
        buf_free(&client[i].heard);
}

/*
 * Ops: a byte that says what, one that says which, one for a length, then so many bytes (of an
 * entry, a NUL between its two parts).
 */
void
fuzz_cluster(const uint8_t *p, size_t n)
{
    begin();
    for (size_t at = 0; at + 2 < n;) {
        unsigned op = p[at] % 8, which = p[at + 1];
        size_t len = p[at + 2] < n - at - 3 ? p[at + 2] : n - at - 3;
        struct str bytes = {(const char *)p + at + 3, len}, rest = bytes, head;
        at += 3 + len;
        if (op == 0 && redis.rules < FAKE_RULES) {
            fake_rule(&redis, replies[which % (sizeof replies / sizeof replies[0])], FAKE_ANSWER,
                      bytes, which < 128 ? 1 : 2);
        } else if (op == 1 && str_split(&rest, '\0', &head)) {
            fake_post(&redis, cluster_self(node.j->cluster).p, head, rest);
        } else if (op == 2) {
            char json[256];
            snprintf(json, sizeof json, "%.*s", (int)len, len > 0 ? bytes.p : "");
            fake_message(&redis, which & 128 ? "g:g" : "p:a:b", 1 + which % 16,
                         which & 64 ? "b" : "z", json);
        } else if (op == 3) {
            client_say(which & 1, which / 2 % (sizeof sayings / sizeof sayings[0]));
        } else if (op == 4) {
            client_call(which % (sizeof calls / sizeof calls[0]));
        } else if (op == 5) {
            fake_now_ms += 20 * which;
        } else if (op == 6) {
            fake_blurt(&redis, bytes);
        } else if (which & 1) {
            fake_cut(&redis);
        } else {
            client_go((int)(which / 2 % CLIENTS));
        }
        settle();
    }
    end();
}
