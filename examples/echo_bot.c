/* SPDX-License-Identifier: MIT */
/* echo_bot.c - a server with a user `echo` who says back whatever he is told: echo_bot [PORT] */
#include <jim.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

static struct jim *server;

static void
on_signal(int sig)
{
    (void)sig;
    jim_stop(server); /* may be called from anywhere */
}

static int
is_echo(struct jim_text user)
{
    return user.n == 4 && memcmp(user.p, "echo", 4) == 0;
}

static void
on_stored(void *arg, struct jim *j, const struct jim_stored *s)
{
    struct jim_text nobody = {NULL, 0};

    (void)arg;
    if (is_echo(s->to) && !is_echo(s->from)) /* or he would talk to himself for ever */
        jim_say(j, s->to, s->from, nobody, s->content);
}

int
main(int argc, char **argv)
{
    char err[256];
    int status = JIM_BAD_CONFIG;

    server = jim_new();
    jim_on_stored(server, on_stored, NULL);
    signal(SIGTERM, on_signal);
    signal(SIGINT, on_signal);
    if (jim_set(server, "jim.port", argc > 1 ? argv[1] : "8888", err, sizeof err) != 0 ||
        jim_set(server, "jim.store", "off", err, sizeof err) != 0) {
        fprintf(stderr, "%s\n", err);
    } else if ((status = jim_start(server)) == JIM_OK) {
        printf("listening on %s\n", jim_listening(server, 0));
        fflush(stdout);
        status = jim_run(server);
    }
    jim_free(server);
    return status;
}
