/* SPDX-License-Identifier: MIT */
/* filter.c - refuses some messages and mends others before they are stored: filter [PORT] */
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

static const char *const bad[] = {"darn", "heck"};

/* What was written to `content` takes the place of the message's own. */
static int
on_chat(void *arg, struct jim *j, const struct jim_chat *chat, struct jim_out *content,
        struct jim_out *extras)
{
    size_t stars = 0, at = 0;

    (void)arg, (void)j;
    if (chat->content.n > 1000)
        return JIM_CODE_TOO_LARGE;
    while (at < chat->content.n) {
        size_t n = 0;
        for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
            size_t len = strlen(bad[i]);
            if (chat->content.n - at >= len && memcmp(chat->content.p + at, bad[i], len) == 0)
                n = len;
        }
        if (n > 0)
            jim_out_add(content, "****", n);
        else
            jim_out_add(content, chat->content.p + at, 1);
        at += n > 0 ? n : 1;
        stars += n > 0;
    }
    if (stars > 3)
        return JIM_CODE_FORBIDDEN;
    if (stars > 0)
        jim_out_add(extras, "{\"filtered\":true}", 17);
    return 0;
}

int
main(int argc, char **argv)
{
    char err[256];
    int status = JIM_BAD_CONFIG;

    server = jim_new();
    jim_on_chat(server, on_chat, NULL);
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
