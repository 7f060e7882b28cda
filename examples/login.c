/* SPDX-License-Identifier: MIT */
/* login.c - who may log in is for this program to say, and it takes its time: login [PORT] */
#include <jim.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct jim *server;

static void
on_signal(int sig)
{
    (void)sig;
    jim_stop(server); /* may be called from anywhere */
}

/* A question to whatever knows the users: here a thread of its own, which may wait for a database as
 * long as it likes. The server goes on meanwhile. */
struct question {
    struct jim *server;
    uint64_t ticket;
    char user[65], password[65];
    int right;
};

/* In the server's thread again. */
static void
answer(struct jim *j, void *arg)
{
    struct question *q = arg;
    char json[256];

    if (j != NULL && q->right) { /* NULL: the server has ended meanwhile */
        int n = snprintf(json, sizeof json, "{\"userId\":\"%s\",\"nick\":\"%s the member\","
                         "\"groups\":[\"members\"]}", q->user, q->user);
        jim_login_answer(j, q->ticket, JIM_WELCOME, json, (size_t)n);
    } else if (j != NULL) {
        jim_login_answer(j, q->ticket, JIM_REFUSE, NULL, 0);
    }
    free(q);
}

static void *
look_up(void *arg)
{
    struct question *q = arg;

    q->right = (strcmp(q->user, "ann") == 0 && strcmp(q->password, "secret-a") == 0) ||
               (strcmp(q->user, "bob") == 0 && strcmp(q->password, "secret-b") == 0);
    if (jim_post(q->server, answer, q) != 0)
        free(q);
    return NULL;
}

static void
on_login(void *arg, struct jim *j, const struct jim_login *l)
{
    struct question *q = calloc(1, sizeof *q);
    pthread_t thread;

    (void)arg;
    if (q == NULL || l->user.n >= sizeof q->user || l->password.n >= sizeof q->password) {
        free(q);
        jim_login_answer(j, l->ticket, JIM_REFUSE, NULL, 0);
        return;
    }
    q->server = j;
    q->ticket = l->ticket;
    if (l->user.n > 0)
        memcpy(q->user, l->user.p, l->user.n);
    if (l->password.n > 0)
        memcpy(q->password, l->password.p, l->password.n);
    if (pthread_create(&thread, NULL, look_up, q) == 0) {
        pthread_detach(thread);
    } else {
        free(q);
        jim_login_answer(j, l->ticket, JIM_TRY_LATER, NULL, 0);
    }
}

int
main(int argc, char **argv)
{
    char err[256];
    int status = JIM_BAD_CONFIG;

    server = jim_new();
    jim_on_login(server, on_login, NULL);
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
