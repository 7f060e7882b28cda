/* SPDX-License-Identifier: MIT */
/*
 * cli_deep.c - `make check-cli`: jim-cli while its server is killed under it, again and again.
 * Lines go into `chat` and out of `tail`; each must arrive once and in order, at the other end and
 * in the store. What takes longer than `make test` should.
 */
#include "cli_run.h"

#include <signal.h>

#define LIFE_MS 1100 /* of a connection: who loses younger ones waits ever longer between tries */

/* Does each of n lines stand there once, in order? */
static void
check_lines(const struct buf *b, int n, const char *where)
{
    const char *p = b->p;
    char want[32];

    for (int i = 0; i < n; i++) {
        const char *end = strchr(p, '\n'), *at;
        snprintf(want, sizeof want, "\"line %d.\"", i);
        at = strstr(p, want);
        if (end == NULL || at == NULL || at > end)
            test_fail(__FILE__, __LINE__, "%s: line %d is not where it belongs", where, i);
        p = end + 1;
    }
    CHECK_INT(count_of(b, "\n"), n);
}

static void
run(const char *scheme, int restarts, int lines)
{
    struct cli_run in, out, r;
    struct server s;
    char url[64];
    int n = 0;

    server_start(&s, QUIET, FAST, NULL);
    snprintf(url, sizeof url, "%s://127.0.0.1:%d", scheme, s.port[0]);
    cli_start(&out, &s, "-s", url, "-u", "bob", "tail", "-T", "alice", NULL);
    cli_start(&in, &s, "-s", url, "-u", "alice", "chat", "-T", "bob", "-r", "0", NULL);
    for (int round = 0; round <= restarts; round++) {
        int part = lines / (restarts + 1), last = round == restarts ? lines : n + part;
        struct buf text = {0};
        for (; n < last; n++)
            buf_printf(&text, "line %d.\n", n);
        buf_lit(&text, "\0");
        cli_say_to(&in, text.p);
        buf_free(&text);
        if (round == restarts)
            break;
        /* Part of it has arrived, and part is under way in every stage. */
        cli_hears(&out, "line ", (size_t)(n - part / 2));
        server_again(&s, round % 3 == 2 ? SIGTERM : SIGKILL);
        cli_hears(&out, "line ", (size_t)n);
        cli_listen(&out, LIFE_MS);
    }
    CHECK_INT(cli_end(&in), 0);
    cli_hears(&out, "line ", (size_t)lines);
    kill(out.pid, SIGTERM);
    cli_end(&out);
    CHECK_INT(cli(&r, &s, NULL, "-u", "bob", "history", "-T", "alice", "-j", NULL), 0);
    check_lines(&out.said, lines, "tail");
    check_lines(&r.said, lines, "history");
    test_note("%s: %d lines through %d restarts: 0 lost, 0 doubled", scheme, lines, restarts);
}

TEST(deep_restarts_tcp)
{
    run("tcp", 50, 10000);
}

TEST(deep_restarts_ws)
{
    run("ws", 10, 2000);
}
