/* SPDX-License-Identifier: MIT */
/* command.c - a command of one's own, 40: who is connected in a group? command [PORT] */
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

#define CMD_ONLINE 40
#define CMD_ONLINE_ANSWER 41

struct count {
    int online, all;
};

static void
count_member(void *arg, const char *user, size_t n, int online)
{
    struct count *c = arg;

    (void)user, (void)n;
    c->all++;
    c->online += online;
}

/* {"cmd":40,"groupId":"…"} */
static void
on_online(void *arg, struct jim *j, const struct jim_request *r)
{
    struct count c = {0, 0};
    char json[128], group[65];
    int n = jim_json_member(r->json.p, r->json.n, "groupId", group, sizeof group);

    (void)arg;
    if (n > 0)
        jim_group_members(j, group, (size_t)n, count_member, &c);
    n = snprintf(json, sizeof json, "{\"command\":%d,\"members\":%d,\"online\":%d}",
                     CMD_ONLINE_ANSWER, c.all, c.online);
    jim_request_answer(j, r, CMD_ONLINE_ANSWER, json, (size_t)n);
}

int
main(int argc, char **argv)
{
    char err[256];
    int status = JIM_BAD_CONFIG;

    server = jim_new();
    jim_on_command(server, CMD_ONLINE, 0, on_online, NULL);
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
