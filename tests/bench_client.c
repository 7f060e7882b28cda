/* SPDX-License-Identifier: MIT */
/*
 * bench_client.c - what the client library costs: CPU for messages sent, acknowledged and heard,
 * beside the hand-written client of jim-bench at the same work; and the memory of a handle.
 *
 *   build/bench-client [MESSAGES [HANDLES]]       JIM: the program, ./jim by default
 *
 * One pair, a window of 64, 64 bytes; the server without a store, for it is not what is measured.
 * Server and client share the machine, but only the client's CPU counts.
 */
#include "bench.h"

#include "../jim_client.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define WINDOW 64
#define CONTENT "sixty-four bytes of text, as much as people say at a time......."

static double
cpu_now(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec)
           + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

/* --- the hand-written one --------------------------------------------------------------------- */

static double
by_hand(const struct process *server, const struct wire *wire, uint64_t messages)
{
    struct spec s = {.host = "127.0.0.1", .port = server->port, .sender = wire, .receiver = wire,
                     .flows = 1, .window = WINDOW, .bytes = 64};
    struct load *l = load_new(&s);

    load_run(l, 0.2);
    uint64_t from = l->deliveries;
    double cpu = cpu_now();
    while (l->deliveries - from < messages)
        load_turn(l, now_ns() + 1000000000);
    cpu = cpu_now() - cpu;
    messages = l->deliveries - from;
    load_settle(l);
    if (load_bad(l) != 0)
        die("lost or refused messages");
    load_free(l);
    return cpu * 1e6 / (double)messages;
}

/* --- the library ------------------------------------------------------------------------------ */

struct ends {
    uint64_t heard, answered;
};

static void
on_message(struct jim_client *c, const struct jim_message *m, void *arg)
{
    struct ends *e = arg;

    (void)c, (void)m;
    e->heard++;
}

static void
on_answer(struct jim_client *c, const struct jim_result *r, void *arg)
{
    struct ends *e = arg;

    (void)c;
    if (!jim_result_ok(r))
        die("a message was refused: %s", r->text);
    e->answered++;
}

static struct jim_client *
handle(const struct process *server, bool ws, const char *user, struct ends *e)
{
    char url[64], err[200];
    struct jim_client_options o = {.url = url, .user = user, .rate = -1, .window = WINDOW,
                                   .on_message = on_message, .arg = e};
    struct jim_client *c;

    snprintf(url, sizeof url, "%s://127.0.0.1:%d", ws ? "ws" : "tcp", server->port);
    c = jim_client_new(&o, err, sizeof err);
    if (c == NULL || jim_client_connect(c, 10000) < 0)
        die("%s", c == NULL ? err : jim_client_error(c));
    return c;
}

static double
by_library(const struct process *server, bool ws, uint64_t messages)
{
    struct ends e = {0, 0};
    struct jim_client *a = handle(server, ws, ws ? "wa" : "ta", &e);
    struct jim_client *b = handle(server, ws, ws ? "wb" : "tb", &e);
    struct jim_send what = {.to = ws ? "wb" : "tb", .content = CONTENT};
    double cpu = cpu_now();

    for (uint64_t sent = 0; e.heard < messages || e.answered < messages;) {
        struct pollfd p[2];
        for (; sent < messages && jim_client_pending(a) < WINDOW; sent++)
            if (jim_client_send(a, &what, on_answer, &e) == 0)
                die("%s", jim_client_error(a));
        jim_client_step(a);
        jim_client_step(b);
        p[0] = (struct pollfd){.fd = jim_client_fd(a), .events = jim_client_events(a)};
        p[1] = (struct pollfd){.fd = jim_client_fd(b), .events = jim_client_events(b)};
        poll(p, 2, jim_client_pending(a) < WINDOW && sent < messages ? 0 : 1000);
    }
    cpu = cpu_now() - cpu;
    jim_client_free(a);
    jim_client_free(b);
    return cpu * 1e6 / (double)messages;
}

static double
resident(void)
{
    return usage_of(getpid()).rss;
}

/* In a process of its own, so that nothing is used again. */
static void
memory(const struct process *server, bool ws, size_t n)
{
    fflush(NULL);
    pid_t pid = fork();

    if (pid < 0)
        die("fork: %s", strerror(errno));
    if (pid > 0) {
        waitpid(pid, NULL, 0);
        return;
    }

    struct jim_client **c = calloc(n, sizeof *c);
    struct ends e = {0, 0};
    double before = resident(), after;

    for (size_t i = 0; c != NULL && i < n; i++) {
        char user[32];
        snprintf(user, sizeof user, "%s%zu", ws ? "w" : "t", i);
        c[i] = handle(server, ws, user, &e);
    }
    for (int round = 0; round < 3; round++)
        for (size_t i = 0; i < n; i++)
            jim_client_step(c[i]);
    after = resident();
    printf("%s %.0f\n", ws ? "WebSocket" : "TCP-IM", (after - before) / (double)n);
    fflush(NULL);
    _exit(0);
}

int
main(int argc, char **argv)
{
    static const char *const more[] = {"jim.store=off", NULL};
    uint64_t messages = argc > 1 ? strtoull(argv[1], NULL, 10) : 300000;
    size_t handles = argc > 2 ? strtoul(argv[2], NULL, 10) : 5000;
    struct process server;
    struct rlimit r;

    if (getrlimit(RLIMIT_NOFILE, &r) == 0) {
        r.rlim_cur = r.rlim_max;
        setrlimit(RLIMIT_NOFILE, &r);
    }
    process_jim(&server, getenv("JIM") != NULL ? getenv("JIM") : "./jim", more);
    printf("seconds of the client's CPU for a million messages sent, acknowledged and heard:\n\n"
           "| protocol | by hand | jim_client.h |\n|---|---:|---:|\n");
    for (int ws = 0; ws < 2; ws++) {
        double hand = by_hand(&server, ws ? &wire_ws : &wire_tcp, messages);
        double library = by_library(&server, ws, messages);
        printf("| %s | %.2f | %.2f |\n", ws ? "WebSocket" : "TCP-IM", hand, library);
        fflush(stdout);
    }
    printf("\nbytes resident for each of %zu handles, logged in and idle:\n", handles);
    memory(&server, false, handles);
    memory(&server, true, handles);
    process_stop(&server);
    return 0;
}
