/* SPDX-License-Identifier: MIT */
/* embed.c - a server in a loop of the program's own, which reads its standard input, too: a line
 * there is said to everybody; its end ends the server. embed [PORT] */
#include <jim.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static struct jim *server;

static void
on_signal(int sig)
{
    (void)sig;
    jim_stop(server); /* may be called from anywhere */
}

static void
say_to_all(const char *line)
{
    static const struct jim_text none = {NULL, 0};
    struct jim_text from = {"console", 7}, group = {"all", 3}, text = {line, strcspn(line, "\n")};

    jim_say(server, from, none, group, text);
}

/* Returns 0 when there is nothing more to come. */
static int
read_console(void)
{
    static char line[256];
    static size_t n;
    ssize_t got = read(0, line + n, sizeof line - 1 - n);

    if (got <= 0)
        return 0;
    n += (size_t)got;
    line[n] = '\0';
    for (char *end; (end = strchr(line, '\n')) != NULL || n == sizeof line - 1;) {
        say_to_all(line);
        size_t used = end != NULL ? (size_t)(end - line) + 1 : n;
        memmove(line, line + used, n - used + 1);
        n -= used;
    }
    return 1;
}

static int
serve(void)
{
    struct pollfd fds[2] = {{0, POLLIN, 0}, {jim_fd(server), POLLIN, 0}};
    int running;

    do {
        int wait = jim_timeout(server);
        if (fds[1].fd < 0 && (wait < 0 || wait > 10))
            wait = 10; /* a system without epoll and kqueue */
        if (poll(fds, 2, wait) > 0 && fds[0].revents != 0 && !read_console()) {
            fds[0].fd = -1;
            jim_stop(server);
        }
        running = jim_poll(server, 0);
    } while (running > 0);
    return -running;
}

int
main(int argc, char **argv)
{
    char err[256];
    int status = JIM_BAD_CONFIG;

    server = jim_new();
    signal(SIGTERM, on_signal);
    signal(SIGINT, on_signal);
    if (jim_set(server, "jim.port", argc > 1 ? argv[1] : "8888", err, sizeof err) != 0 ||
        jim_set(server, "jim.store", "off", err, sizeof err) != 0 ||
        jim_set(server, "jim.login.groups", "all:Everybody", err, sizeof err) != 0) {
        fprintf(stderr, "%s\n", err);
    } else if ((status = jim_start(server)) == JIM_OK) {
        printf("listening on %s\n", jim_listening(server, 0));
        fflush(stdout);
        status = serve();
    }
    jim_free(server);
    return status;
}
