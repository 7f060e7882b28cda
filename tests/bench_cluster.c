/* SPDX-License-Identifier: MIT */
/*
 * bench_cluster.c - what a message costs in a cluster of 2, 4 and 8 nodes: commands to Redis, bytes
 * from and to it, and processor time of Redis and of all nodes. `make bench-cluster`; a note a
 * line.
 *
 * One user sends to one on another node, or to a group whose members are on two nodes. Beside it,
 * what it would be if each message went to every node, as J-IM has it: the same copy, as many times
 * as there are other nodes. A copy's bytes are the difference to a message that needs none.
 */
#include "engine.h"

#include <unistd.h>

#define MESSAGES 20000
#define WAY 50 /* on their way at once */
#define CHAT(rest) "{'content':'0123456789012345678901234567890123456789'," rest "}"

static long long
info(const struct engine *e, const char *section, const char *key)
{
    char command[64], line[512];
    long long n = -1;

    snprintf(command, sizeof command, "redis-cli -p %d info %s", e->port, section);
    FILE *f = popen(command, "r");
    CHECK(f != NULL);
    while (fgets(line, sizeof line, f) != NULL)
        if (strncmp(line, key, strlen(key)) == 0)
            n = strtoll(line + strlen(key) + 1, NULL, 10);
    pclose(f);
    CHECK(n >= 0);
    return n;
}

/* Microseconds of processor. */
static long long
redis_cpu(const struct engine *e)
{
    char path[64];
    unsigned long user, system;

    snprintf(path, sizeof path, "/proc/%ld/stat", (long)e->pid);
    struct buf text = read_whole(path);
    CHECK(sscanf(strrchr(text.p, ')') + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
                 &user, &system) == 2);
    return (long long)(user + system) * 1000000 / sysconf(_SC_CLK_TCK);
}

struct cost { /* in all, or a message */
    double commands, inside, in, out, redis_us, nodes_us, routed;
};

static double
count(const struct server *s, const char *key)
{
    struct reply r = ask_for(s, "GET", "/api/cluster", "", NULL);
    struct peer p = {.text = r.body};

    return (double)number(&p, key);
}

static struct cost
cost(const struct engine *e, const struct server *s, int nodes)
{
    struct cost c = {.inside = (double)info(e, "stats", "total_commands_processed"),
                     .in = (double)info(e, "stats", "total_net_input_bytes"),
                     .out = (double)info(e, "stats", "total_net_output_bytes"),
                     .redis_us = (double)redis_cpu(e)};

    for (int i = 0; i < nodes; i++) {
        c.nodes_us += (double)server_stat(&s[i], "cpuUs");
        c.commands += count(&s[i], "commands");
        c.routed += count(&s[i], "routed");
    }
    return c;
}

/* to NULL: nobody hears it. */
static struct cost
measure(const struct engine *e, const struct server *s, int nodes, struct peer *from,
        struct peer *to, const char *chat)
{
    struct cost a = cost(e, s, nodes), b;
    int sent = 0, acked = 0, got = to == NULL ? MESSAGES : 0;
    const double n = MESSAGES;

    while (acked < MESSAGES || got < MESSAGES) {
        peer_hold(from);
        while (sent < MESSAGES && sent < acked + WAY) {
            say(from, CMD_CHAT, chat);
            sent++;
        }
        peer_release(from, IN_ONE_WRITE);
        if (acked < sent) {
            CHECK(hear(from));
            acked += heard(from, "\"command\":12");
        }
        while (got < MESSAGES && (acked == MESSAGES || peer_ready(to, 0))) {
            CHECK(hear(to));
            got++;
        }
    }
    b = cost(e, s, nodes);
    return (struct cost){(b.commands - a.commands) / n, (b.inside - a.inside) / n,
                         (b.in - a.in) / n, (b.out - a.out) / n, (b.redis_us - a.redis_us) / n,
                         (b.nodes_us - a.nodes_us) / n, (b.routed - a.routed) / n};
}

/* A row of the table in docs/cluster.md; `alone`: the same without a copy for another node. */
static void
row(int nodes, const char *what, struct cost c, struct cost alone)
{
    double in = c.in - alone.in, out = c.out - alone.out;

    test_note("| %d | %s | %.2f | %.1f | %.0f | %.0f | %.1f | %.1f | %.0f, %.0f |", nodes, what,
              c.commands, c.inside, c.in, c.out, c.redis_us, c.nodes_us,
              alone.in + in * (nodes - 1), alone.out + out * (nodes - 1));
}

static void
bench(int nodes)
{
    struct engine e = {0};
    struct server s[8];
    struct peer p[8];
    char port[40], target[200] = "/api/group/create?groupId=g", name[8];

    engine_start(&e);
    /* As who keeps messages should have it; the tests' own do without, for slow disks. */
    CHECK(str_eq(engine_says(&e, "CONFIG SET appendfsync always"), STR("+OK")));
    snprintf(port, sizeof port, "jim.redis.port=%d", e.port);
    for (int i = 0; i < nodes; i++) {
        server_start(&s[i], QUIET, FAST, "-o", "jim.cluster=on", "-o", port, NULL);
        node_ready(&s[i]);
    }
    for (int i = 0; i < 8; i++)
        snprintf(target + strlen(target), 20, "&users=u%d", i);
    CHECK_INT(ask_for(&s[0], "POST", target, "", NULL).status, 200);
    for (int i = 0; i < 8; i++) {
        snprintf(name, sizeof name, "u%d", i);
        peer_open(&p[i], &s[i % 2], PROTO_TCP);
        sayf(&p[i], CMD_LOGIN, "{'userId':'%s'}", name);
        CHECK(hear(&p[i]) && hear(&p[i]));
        for (int k = 0; k < i; k++)
            CHECK(hear(&p[k])); /* the notice */
    }
    for (int i = 2; i < 8; i++)
        peer_close(&p[i]);
    while (peer_ready(&p[0], 300) && hear(&p[0]))
        ;
    while (peer_ready(&p[1], 300) && hear(&p[1]))
        ;
    struct cost alone = measure(&e, s, nodes, &p[0], NULL, CHAT("'chatType':2,'to':'nobody'"));
    row(nodes, "private, receiver offline", alone, alone);
    row(nodes, "private", measure(&e, s, nodes, &p[0], &p[1], CHAT("'chatType':2,'to':'u1'")),
        alone);
    struct cost group = measure(&e, s, nodes, &p[0], &p[1], CHAT("'chatType':1,'groupId':'g'"));
    peer_close(&p[1]);
    while (peer_ready(&p[0], 300) && hear(&p[0]))
        ;
    row(nodes, "group on two nodes", group,
        measure(&e, s, nodes, &p[0], NULL, CHAT("'chatType':1,'groupId':'g'")));
}

TEST(bench_cluster_2)
{
    bench(2);
}

TEST(bench_cluster_4)
{
    bench(4);
}

TEST(bench_cluster_8)
{
    bench(8);
}
