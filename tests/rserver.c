/* SPDX-License-Identifier: MIT */
/*
 * rserver.c - see rserver.h.
 */
#include "rserver.h"
#include "ports.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* Run a program to its end; what it said is in `out`. */
int
run_to_end(struct buf *out, const char *const *argv)
{
    int fds[2], status;
    ssize_t n;

    CHECK(pipe(fds) == 0);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        dup2(fds[1], 1);
        dup2(fds[1], 2);
        close(fds[0]);
        execvp(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    close(fds[1]);
    do {
        buf_reserve(out, 4096);
        n = read(fds[0], out->p + out->len, 4095);
        out->len += n > 0 ? (size_t)n : 0;
    } while (n > 0 || (n < 0 && errno == EINTR));
    close(fds[0]);
    buf_reserve(out, 1);
    out->p[out->len] = '\0';
    CHECK(waitpid(pid, &status, 0) == pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

/* What redis-cli says to a command given as words. */
struct buf
redis_cli(const struct rserver *s, const char *word, ...)
{
    const char *argv[40] = {"redis-cli", "-h", "127.0.0.1", "-p", NULL};
    char port[16];
    struct buf out = {0};
    int n = 4;
    va_list ap;

    snprintf(port, sizeof port, "%d", s->port);
    argv[n++] = port;
    if (s->password[0] != '\0') {
        argv[n++] = "--no-auth-warning";
        argv[n++] = "-a";
        argv[n++] = s->password;
    }
    if (s->tls) {
        argv[n++] = "--tls";
        argv[n++] = "--cacert";
        argv[n++] = "cert.pem";
    }
    va_start(ap, word);
    for (; word != NULL && n < 39; word = va_arg(ap, const char *))
        argv[n++] = word;
    va_end(ap);
    run_to_end(&out, argv);
    return out;
}

bool
cli_says(const struct rserver *s, const char *part, const char *word, const char *second)
{
    struct buf out = redis_cli(s, word, second, NULL);
    bool yes = strstr(out.p, part) != NULL;

    buf_free(&out);
    return yes;
}

/* False: it has ended at once; somebody may have been quicker to take its port. */
static bool
try_launch(struct rserver *s)
{
    char port[16], mine[32];
    const char *argv[40] = {"redis-server"};
    bool ended = false;
    int n = 1;

    snprintf(port, sizeof port, "%d", s->port);
    if (s->sentinel) {
        argv[n++] = "sentinel.conf";
        argv[n++] = "--sentinel";
    } else {
        const char *const common[] = {s->tls ? "--tls-port" : "--port", port, "--save", "",
                                      "--bind", "127.0.0.1"};
        for (size_t i = 0; i < sizeof common / sizeof common[0]; i++)
            argv[n++] = common[i];
    }
    for (size_t i = 0; s->args[i] != NULL; i++)
        argv[n++] = s->args[i];
    s->pid = fork();
    CHECK(s->pid >= 0);
    if (s->pid == 0) {
        int log = open("/dev/null", O_WRONLY);
        if (chdir(s->dir) != 0 || (log = open("log", O_WRONLY | O_CREAT | O_APPEND, 0600)) < 0)
            _exit(126);
        dup2(log, 1);
        dup2(log, 2);
        execvp(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    snprintf(mine, sizeof mine, "process_id:%ld\r", (long)s->pid); /* and nobody else's port */
    WAIT_FOR((ended = waitpid(s->pid, NULL, WNOHANG) == s->pid) ||
             cli_says(s, mine, "INFO", "server"));
    return !ended;
}

void
rserver_again(struct rserver *s)
{
    CHECK(try_launch(s));
}

void
rserver_start(struct rserver *s, const char *dir, const char *arg, ...)
{
    va_list ap;
    size_t n = 0;

    snprintf(s->dir, sizeof s->dir, "%s", dir);
    CHECK(mkdir(dir, 0700) == 0 || errno == EEXIST);
    va_start(ap, arg);
    for (; arg != NULL && n < 23; arg = va_arg(ap, const char *))
        s->args[n++] = arg;
    va_end(ap);
    if (s->sentinel) { /* its port is in its file */
        rserver_again(s);
        return;
    }
    do
        s->port = free_port();
    while (!try_launch(s));
}

void
rserver_kill(struct rserver *s)
{
    CHECK(kill(s->pid, SIGKILL) == 0 && waitpid(s->pid, NULL, 0) == s->pid);
    s->pid = 0;
}

void
sentinel_start(struct rserver *s, int i, const struct rserver *first)
{
    char path[64], dir[16];
    struct buf b = {0};

    s->sentinel = true;
    s->port = free_port();
    snprintf(dir, sizeof dir, "s%d", i);
    CHECK(mkdir(dir, 0700) == 0);
    snprintf(path, sizeof path, "%s/sentinel.conf", dir);
    buf_printf(&b, "port %d\nbind 127.0.0.1\nsentinel monitor mine 127.0.0.1 %d 2\n"
                   "sentinel down-after-milliseconds mine 5000\n"
                   "sentinel failover-timeout mine 5000\n", s->port, first->port);
    buf_add(&b, "", 1);
    write_file(path, b.p);
    buf_free(&b);
    rserver_start(s, dir, NULL);
}
