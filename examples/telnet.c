/* SPDX-License-Identifier: MIT */
/* telnet.c - lines on the same port as everything else: `login NAME`, `NAME text`. telnet [PORT] */
#include <jim.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

static struct jim *server;

static void
on_signal(int sig)
{
    (void)sig;
    jim_stop(server);
}

/* A line begins with a small letter; nothing else that jim speaks does. */
static int
detect(void *arg, const char *p, size_t n)
{
    (void)arg, (void)n;
    return p[0] >= 'a' && p[0] <= 'z';
}

static ptrdiff_t
decode(void *arg, struct jim *j, uint64_t conn, const char *p, size_t n, int *command,
       struct jim_out *json)
{
    const char *end = memchr(p, '\n', n), *blank = memchr(p, ' ', n);

    (void)arg, (void)j, (void)conn;
    if (end == NULL)
        return n > 1000 ? -1 : 0;
    size_t len = (size_t)(end - p) - (end > p && end[-1] == '\r');
    size_t word = blank != NULL && blank < p + len ? (size_t)(blank - p) : len;
    size_t rest = word < len ? word + 1 : len;
    if (word == 5 && memcmp(p, "login", 5) == 0) {
        *command = 5;
        jim_out_add(json, "{\"userId\":", 10);
    } else {
        *command = 11;
        jim_out_add(json, "{\"chatType\":2,\"to\":", 19);
        jim_out_string(json, p, word);
        jim_out_add(json, ",\"content\":", 11);
    }
    jim_out_string(json, p + rest, len - rest);
    jim_out_add(json, "}", 1);
    return end - p + 1;
}

static void
encode(void *arg, int command, const char *json, size_t n, struct jim_out *bytes)
{
    (void)arg;
    if (command != 11 && command != 6) /* messages and the answer to the login; as they are */
        return;
    jim_out_add(bytes, json, n);
    jim_out_add(bytes, "\r\n", 2);
}

int
main(int argc, char **argv)
{
    static const struct jim_protocol lines = {"telnet", NULL, detect, decode, encode};
    char err[256];
    int status = JIM_BAD_CONFIG;

    server = jim_new();
    jim_on_protocol(server, &lines);
    signal(SIGTERM, on_signal);
    if (jim_set(server, "jim.port", argc > 1 ? argv[1] : "8888", err, sizeof err) == 0 &&
        jim_set(server, "jim.store", "off", err, sizeof err) == 0 &&
        (status = jim_start(server)) == JIM_OK) {
        printf("listening on %s\n", jim_listening(server, 0));
        fflush(stdout);
        status = jim_run(server);
    }
    jim_free(server);
    return status;
}
