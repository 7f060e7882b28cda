/* SPDX-License-Identifier: MIT */
/*
 * engine.c - a redis-server for tests: see engine.h. With JIM_TEST_CLUSTER set, engine_options()
 * gives every server that client.c starts one of its own, so that the tests of a single server say
 * how a node of a cluster behaves.
 */
#include "engine.h"
#include "ports.h"

#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* One command over a connection of its own; the answer's first line, or "" when there is none. */
struct str
engine_says(const struct engine *e, const char *command)
{
    static char line[4096];
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                            .sin_port = htons((uint16_t)e->port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    size_t n = 0;
    ssize_t got = -1;

    CHECK(fd >= 0);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) == 0) {
        dprintf(fd, "%s\r\n", command);
        struct pollfd p = {.fd = fd, .events = POLLIN};
        while (n < sizeof line - 1 && memchr(line, '\n', n) == NULL && poll(&p, 1, WAIT_MS) > 0 &&
               (got = read(fd, line + n, sizeof line - 1 - n)) > 0)
            n += (size_t)got;
    }
    close(fd);
    while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r'))
        n--;
    line[n] = '\0';
    return (struct str){line, n};
}

void
engine_run(struct engine *e)
{
    char port[8];

    snprintf(port, sizeof port, "%d", e->port);
    e->pid = fork();
    CHECK(e->pid >= 0);
    if (e->pid == 0) {
        if (freopen("redis.log", "a", stdout) == NULL)
            _exit(126);
        execlp("redis-server", "redis-server", "--port", port, "--bind",
               e->bind != NULL ? e->bind : "127.0.0.1", "--protected-mode", "no", "--save", "",
               "--appendonly", "yes", "--appendfsync", "no", "--dir", ".", (char *)NULL);
        _exit(127);
    }
    for (int64_t end = time_mono_ms() + WAIT_MS; !str_eq(engine_says(e, "PING"), STR("+PONG"));) {
        if (time_mono_ms() > end || waitpid(e->pid, NULL, WNOHANG) == e->pid)
            test_fail(__FILE__, __LINE__, "no redis-server:\n%s", read_whole("redis.log").p);
        poll(NULL, 0, 10);
    }
}

void
engine_start(struct engine *e)
{
    test_begins();
    e->port = free_port();
    engine_run(e);
}

void
engine_end(struct engine *e, int sig)
{
    int status;

    CHECK(kill(e->pid, sig) == 0);
    CHECK(waitpid(e->pid, &status, 0) == e->pid);
}

/* Redis and the other nodes can be asked: then /healthz says 200. */
void
node_ready(const struct server *s)
{
    for (int64_t end = time_mono_ms() + WAIT_MS;;) {
        if (ask_for(s, "GET", "/healthz", "", NULL).status == 200)
            return;
        CHECK(time_mono_ms() < end);
        poll(NULL, 0, 10);
    }
}

/* --- for client.c ----------------------------------------------------------------------------- */

static int
port_of_engine(void)
{
    static struct engine e;

    if (e.port == 0)
        engine_start(&e);
    return e.port;
}

int (*const cluster_port)(void) = port_of_engine;
void (*const cluster_ready)(const struct server *s) = node_ready;
