/* SPDX-License-Identifier: MIT */
/*
 * flap.c - the client library on a bad network, with a server that is killed again and again.
 *
 *   build/flap [-v] [-s SEED] [MESSAGES [RESTARTS]]       JIM: the program, ./jim by default
 *
 * Six clients, half of them over TCP-IM and half over WebSocket, send MESSAGES (10,000) to a group
 * and to each other, through a proxy of ours that delays, cuts frames in two, resets, closes and
 * goes silent; meanwhile the server is started RESTARTS (50) times again, behind SIGKILL and
 * SIGTERM in turn. At last every message must have been answered once, and heard once by each who
 * was to hear it, in the order it was sent. Everything runs in one poll() loop; only the server is
 * a process of its own.
 *
 *   random, server, proxy, clients, what is right, the loop
 */
#ifndef JIM_INTERNAL
#define JIM_INTERNAL
#endif
#include "../jim.h"
#include "../jim_client.h"
#include "ports.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define CLIENTS 6
#define PIPES 64          /* connections through the proxy at once */
#define PIECES 64         /* pieces of data on their way in one direction */
#define PATIENCE_MS 600000 /* only a hang takes this long */
#define AHEAD 40          /* messages a client has queued */

struct piece {
    char *p;
    size_t n, sent;
    int64_t due_ms;
};
struct direction {
    struct piece piece[PIECES];
    size_t first, count;
    bool ended; /* what comes in is over */
};
struct pipe_ {
    int fd[2];               /* the client's side, the server's; -1: free */
    struct direction to[2];  /* towards fd[i] */
    int64_t end_ms;          /* when something happens to it */
    bool silent;
};

struct speaker {
    struct flap *f;
    struct jim_client *c;
    int me;
    int sent[2];              /* messages to the group, and to the next one */
    int heard[CLIENTS][2];    /* the last of each other one, likewise */
    int answered, failed;
    bool member;              /* has been logged in, and so is in the group */
};

struct flap {
    uint64_t seed, first_seed; /* as it is by now; as it was given */
    int messages, restarts;
    bool verbose;
    char dir[64];
    int port, proxy_port, listener;
    pid_t pid;
    int ready;                /* what the server says when it listens comes here; -1: it has */
    struct pipe_ pipe[PIPES];
    struct speaker s[CLIENTS];
    int members;              /* nobody sends before all are in the group */
    int answered, done_restarts, bad;
    uint64_t losses;          /* connections that were lost, as the clients tell */
    uint64_t caught;          /* messages that came from the store */
    struct buf said;          /* what was wrong, for the end of the output */
    int64_t now_ms;
};

/* --- random ----------------------------------------------------------------------------------- */

static uint32_t
dice(struct flap *f, uint32_t n)
{
    f->seed = f->seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(f->seed >> 33) % n;
}

static void
die(const char *what)
{
    perror(what);
    exit(2);
}

/* Something is wrong: said now, and again behind the tests that fail for it. */
static void say(struct flap *f, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void
say(struct flap *f, const char *format, ...)
{
    char line[400];
    va_list ap;

    va_start(ap, format);
    vsnprintf(line, sizeof line, format, ap);
    va_end(ap);
    printf("%s\n", line);
    buf_printf(&f->said, "    %s\n", line);
}

/* --- server ----------------------------------------------------------------------------------- */

static int
listen_at(int *port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    if (bind(fd, (struct sockaddr *)&a, sizeof a) < 0 || listen(fd, 64) < 0
        || getsockname(fd, (struct sockaddr *)&a, &n) < 0)
        die("listen");
    fcntl(fd, F_SETFL, O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    *port = ntohs(a.sin_port);
    return fd;
}

static void
server_start(struct flap *f)
{
    char port[16], data[80];
    int line[2];
    const char *program = getenv("JIM") != NULL ? getenv("JIM") : "./jim";

    snprintf(port, sizeof port, "%d", f->port);
    snprintf(data, sizeof data, "%s/data", f->dir);
    if (pipe(line) < 0)
        die("pipe");
    fcntl(line[0], F_SETFL, O_NONBLOCK);
    fcntl(line[0], F_SETFD, FD_CLOEXEC);
    f->pid = fork();
    if (f->pid < 0)
        die("fork");
    if (f->pid > 0) {
        close(line[1]);
        if (f->ready >= 0)
            close(f->ready);
        f->ready = line[0];
        return;
    }
    dup2(line[1], 1);
    close(line[1]);
    if (!f->verbose)
        dup2(open("/dev/null", O_WRONLY), 2);
    execl(program, program, "-p", port, "-d", data, "-o", "jim.login.groups=g:G", "-o",
          "jim.rate.messages=0", "-o", "jim.drain=200ms", (char *)NULL);
    _exit(127);
}

/* Has it said that it listens, or ended? Until then SIGTERM may find it without a handler. */
static bool
server_is_up(struct flap *f)
{
    char line[200];

    if (f->ready < 0)
        return true;
    if (read(f->ready, line, sizeof line) < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    close(f->ready);
    f->ready = -1;
    return true;
}

static void
server_stop(struct flap *f, int sig)
{
    int status;

    kill(f->pid, sig);
    if (waitpid(f->pid, &status, 0) < 0)
        die("waitpid");
    if (sig == SIGTERM && (!WIFEXITED(status) || WEXITSTATUS(status) != 0)) {
        say(f, WIFSIGNALED(status) ? "the server was ended by signal %d"
                                   : "the server ended with status %d",
            WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
        f->bad++;
    }
}

/* --- proxy ------------------------------------------------------------------------------------ */

static void
pipe_close(struct pipe_ *p, bool reset)
{
    struct linger l = {.l_onoff = 1};

    for (int i = 0; i < 2; i++) {
        if (p->fd[i] < 0)
            continue;
        if (reset)
            setsockopt(p->fd[i], SOL_SOCKET, SO_LINGER, &l, sizeof l);
        close(p->fd[i]);
        p->fd[i] = -1;
        while (p->to[i].count > 0) {
            free(p->to[i].piece[p->to[i].first].p);
            p->to[i].first = (p->to[i].first + 1) % PIECES;
            p->to[i].count--;
        }
    }
    *p = (struct pipe_){.fd = {-1, -1}};
}

static void
proxy_accept(struct flap *f)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)f->port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct pipe_ *p = f->pipe;
    int on = 1, fd;

    while ((fd = accept(f->listener, NULL, NULL)) >= 0) {
        while (p < f->pipe + PIPES && p->fd[0] >= 0)
            p++;
        if (p == f->pipe + PIPES) {
            close(fd);
            return;
        }
        p->fd[0] = fd;
        p->fd[1] = socket(AF_INET, SOCK_STREAM, 0);
        for (int i = 0; i < 2; i++) {
            fcntl(p->fd[i], F_SETFL, O_NONBLOCK);
            fcntl(p->fd[i], F_SETFD, FD_CLOEXEC);
            setsockopt(p->fd[i], IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        }
        p->end_ms = f->now_ms + 20 + dice(f, 3000);
        if (connect(p->fd[1], (struct sockaddr *)&a, sizeof a) < 0 && errno != EINPROGRESS)
            pipe_close(p, true);
    }
}

/* Take what has come from one side, a random part of it at a time. */
static bool
pipe_read(struct flap *f, struct pipe_ *p, int from)
{
    struct direction *d = &p->to[!from];
    char data[8192];

    while (d->count < PIECES) {
        ssize_t n = recv(p->fd[from], data, 1 + dice(f, sizeof data), 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR || errno == ENOTCONN))
            return true;
        if (n < 0)
            return false;
        if (n == 0) {
            d->ended = true;
            return true;
        }
        size_t at = (d->first + d->count) % PIECES;
        size_t before = (at + PIECES - 1) % PIECES;
        int64_t due = f->now_ms + dice(f, 6);
        if (d->count > 0 && d->piece[before].due_ms > due)
            due = d->piece[before].due_ms; /* delayed, but in order */
        d->piece[at] = (struct piece){.p = xmalloc((size_t)n), .n = (size_t)n, .due_ms = due};
        memcpy(d->piece[at].p, data, (size_t)n);
        d->count++;
    }
    return true;
}

static bool
pipe_write(struct flap *f, struct pipe_ *p, int to)
{
    struct direction *d = &p->to[to];

    while (d->count > 0 && d->piece[d->first].due_ms <= f->now_ms && !p->silent) {
        struct piece *q = &d->piece[d->first];
        ssize_t n = send(p->fd[to], q->p + q->sent, q->n - q->sent, MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EINTR || errno == ENOTCONN))
            return true;
        if (n < 0)
            return false;
        q->sent += (size_t)n;
        if (q->sent < q->n)
            return true;
        free(q->p);
        d->first = (d->first + 1) % PIECES;
        d->count--;
    }
    return !(d->count == 0 && d->ended);
}

/* Something happens to it: frames cut in two, with or without a reset; or silence, then that. */
static void
pipe_fate(struct flap *f, struct pipe_ *p)
{
    if (!p->silent && dice(f, 4) == 0) {
        p->silent = true;
        p->end_ms = f->now_ms + 100 + dice(f, 900);
        return;
    }
    for (int i = 0; i < 2 && !p->silent; i++) {
        struct direction *d = &p->to[i];
        if (d->count > 0) { /* a part of what is on its way still arrives */
            struct piece *q = &d->piece[d->first];
            ssize_t n = send(p->fd[i], q->p + q->sent,
                             1 + dice(f, (uint32_t)(q->n - q->sent)), MSG_NOSIGNAL);
            (void)n;
        }
    }
    pipe_close(p, dice(f, 2) == 0);
}

static void
pipe_step(struct flap *f, struct pipe_ *p)
{
    if (f->now_ms >= p->end_ms) {
        pipe_fate(f, p);
        return;
    }
    for (int i = 0; i < 2; i++)
        if (!p->to[!i].ended && !pipe_read(f, p, i)) {
            pipe_close(p, true);
            return;
        }
    for (int i = 0; i < 2; i++)
        if (!pipe_write(f, p, i)) {
            pipe_close(p, false);
            return;
        }
}

/* --- clients ---------------------------------------------------------------------------------- */

static void
complain(struct flap *f, const char *what, int who, int from, int kind, int got, int want)
{
    if (f->bad++ < 20)
        say(f, "u%d: %s from u%d (%s): %d, not %d", who, what, from, kind ? "private" : "group",
            got, want);
}

static void
on_message(struct jim_client *c, const struct jim_message *m, void *arg)
{
    struct speaker *s = arg;
    int from = -1, number = -1, kind = m->group == NULL;

    (void)c;
    if (m->content == NULL || sscanf(m->content, "%d:%d", &from, &number) != 2 || from < 0
        || from >= CLIENTS) {
        complain(s->f, "nonsense", s->me, from, kind, number, 0);
        return;
    }
    s->f->caught += m->stored;
    if (number != s->heard[from][kind] + 1)
        complain(s->f, "heard", s->me, from, kind, number, s->heard[from][kind] + 1);
    s->heard[from][kind] = number;
}

static void
on_answer(struct jim_client *c, const struct jim_result *r, void *arg)
{
    struct speaker *s = arg;

    (void)c;
    s->answered++;
    s->f->answered++;
    if (!jim_result_ok(r) && s->failed++ < 3)
        say(s->f, "u%d: %d %s", s->me, r->code, r->text);
}

static void
on_state(struct jim_client *c, enum jim_client_state state, const char *why, void *arg)
{
    struct speaker *s = arg;

    (void)c;
    s->f->losses += state == JIM_CLIENT_WAITING;
    s->f->members += state == JIM_CLIENT_READY && !s->member;
    s->member |= state == JIM_CLIENT_READY;
    if (s->f->verbose && state == JIM_CLIENT_WAITING)
        printf("u%d: %s\n", s->me, why);
    if (state > JIM_CLIENT_WAITING) {
        say(s->f, "u%d: ended: %s", s->me, why);
        s->f->bad++;
    }
}

static void
speaker_start(struct flap *f, int i)
{
    struct speaker *s = &f->s[i];
    char url[64], user[16], err[200];
    struct jim_client_options o = {
        .url = url, .user = user, .rate = -1, .backoff_min_ms = 10, .backoff_max_ms = 100,
        .heartbeat_ms = 300, .timeout_ms = 2000, .arg = s, .on_message = on_message,
        .on_state = on_state, .window = 64};

    s->f = f;
    s->me = i;
    snprintf(url, sizeof url, "%s://127.0.0.1:%d", i % 2 ? "ws" : "tcp", f->proxy_port);
    snprintf(user, sizeof user, "u%d", i);
    s->c = jim_client_new(&o, err, sizeof err);
    if (s->c == NULL) {
        printf("%s\n", err);
        exit(2);
    }
}

static void
speaker_send(struct flap *f, struct speaker *s)
{
    char content[32], to[16];
    while (f->members == CLIENTS && s->sent[0] + s->sent[1] < f->messages / CLIENTS
           && jim_client_pending(s->c) < AHEAD) {
        int kind = dice(f, 3) > 0;
        struct jim_send what = {.content = content};
        snprintf(content, sizeof content, "%d:%d", s->me, ++s->sent[kind]);
        snprintf(to, sizeof to, "u%d", (s->me + 1) % CLIENTS);
        if (kind)
            what.to = to;
        else
            what.group = "g";
        if (jim_client_send(s->c, &what, on_answer, s) == 0) {
            say(f, "u%d: %s", s->me, jim_client_error(s->c));
            f->bad++;
        }
    }
}

/* --- what is right ---------------------------------------------------------------------------- */

/* Has everybody sent what he was to send, had all his answers, and heard all there is, and has the
 * server been started again as often as it was to be? */
static bool
is_done(const struct flap *f)
{
    if (f->done_restarts < f->restarts)
        return false;
    for (int i = 0; i < CLIENTS; i++) {
        int sent = f->s[i].sent[0] + f->s[i].sent[1];
        if (sent < f->messages / CLIENTS || f->s[i].answered < sent)
            return false;
    }
    for (int i = 0; i < CLIENTS; i++)
        for (int from = 0; from < CLIENTS; from++) {
            const struct speaker *s = &f->s[i], *o = &f->s[from];
            if (i != from && s->heard[from][0] < o->sent[0])
                return false;
            if (i == (from + 1) % CLIENTS && s->heard[from][1] < o->sent[1])
                return false;
        }
    return true;
}

static int
report(const struct flap *f, bool in_time, int64_t start_ms)
{
    int lost = 0, group = 0, failed = 0, passed = 0;
    uint64_t seen_bad = 0;

    for (int i = 0; i < CLIENTS; i++) {
        group += f->s[i].sent[0];
        failed += f->s[i].failed + (f->s[i].answered != f->s[i].sent[0] + f->s[i].sent[1]);
    }
    for (int i = 0; i < CLIENTS; i++) {
        for (int from = 0; from < CLIENTS; from++) {
            if (i != from)
                lost += f->s[from].sent[0] - f->s[i].heard[from][0];
            if (i == (from + 1) % CLIENTS)
                lost += f->s[from].sent[1] - f->s[i].heard[from][1];
        }
        /* The group has as many numbers as it was sent messages: none is stored twice. */
        seen_bad += jim_client_seen(f->s[i].c, NULL, "g") != (uint64_t)group;
    }
    printf("note: %d messages, %d restarts, %llu connections lost, %llu messages from the store, "
           "%.1f s\n", f->answered, f->done_restarts, (unsigned long long)f->losses,
           (unsigned long long)f->caught, (double)(time_mono_ms() - start_ms) / 1000);
    const struct {
        const char *what;
        bool ok;
    } tests[] = {
        {"every message answered once, with success", failed == 0},
        {"every message heard by all it was for", lost == 0 && in_time},
        {"each once and in order", f->bad == 0},
        {"stored once", seen_bad == 0},
        {"as many restarts as were asked for", f->done_restarts == f->restarts},
    };
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) {
        passed += tests[i].ok;
        if (!tests[i].ok)
            printf("FAIL: %s (seed %llu, lost %d, failed %d, wrong %d)\n", tests[i].what,
                   (unsigned long long)f->first_seed, lost, failed, f->bad);
    }
    if (passed < 5)
        printf("%.*s", (int)f->said.len, f->said.p);
    printf("%d passed, %d failed\n", passed, 5 - passed);
    return passed == 5 ? 0 : 1;
}

/* --- the loop --------------------------------------------------------------------------------- */

static int
wait_for_all(struct flap *f)
{
    struct pollfd p[1 + CLIENTS + 2 * PIPES];
    int n = 0, wait = 50;

    p[n++] = (struct pollfd){.fd = f->listener, .events = POLLIN};
    for (int i = 0; i < CLIENTS; i++) {
        int due = jim_client_timeout(f->s[i].c);
        p[n++] = (struct pollfd){.fd = jim_client_fd(f->s[i].c),
                                 .events = jim_client_events(f->s[i].c)};
        if (due >= 0 && due < wait)
            wait = due;
    }
    for (int i = 0; i < PIPES; i++) {
        struct pipe_ *q = &f->pipe[i];
        for (int side = 0; side < 2 && q->fd[0] >= 0; side++) {
            short events = q->to[!side].count < PIECES && !q->to[!side].ended ? POLLIN : 0;
            p[n++] = (struct pollfd){.fd = q->fd[side], .events = events};
            if (q->to[side].count > 0 && wait > 2)
                wait = 2;
        }
    }
    return poll(p, (nfds_t)n, wait);
}

static bool
run(struct flap *f, int64_t until_ms)
{
    while (f->now_ms < until_ms) {
        f->now_ms = time_mono_ms();
        proxy_accept(f);
        for (int i = 0; i < PIPES; i++)
            if (f->pipe[i].fd[0] >= 0)
                pipe_step(f, &f->pipe[i]);
        for (int i = 0; i < CLIENTS; i++) {
            speaker_send(f, &f->s[i]);
            jim_client_step(f->s[i].c);
        }
        int due = (int)((int64_t)f->answered * (f->restarts + 1) / f->messages);
        int sig = f->done_restarts % 2 ? SIGTERM : SIGKILL;
        if (f->done_restarts < due && f->done_restarts < f->restarts &&
            (sig == SIGKILL || server_is_up(f))) {
            f->done_restarts++;
            server_stop(f, sig);
            server_start(f);
        }
        if (is_done(f))
            return true;
        wait_for_all(f);
    }
    return false;
}

int
main(int argc, char **argv)
{
    struct flap *f = xcalloc(1, sizeof *f);
    int opt, status;
    bool in_time;
    char command[100];

    f->seed = (uint64_t)time_wall_ms();
    while ((opt = getopt(argc, argv, "vs:")) != -1) {
        f->verbose |= opt == 'v';
        if (opt == 's')
            f->seed = strtoull(optarg, NULL, 10);
    }
    f->messages = optind < argc ? atoi(argv[optind]) : 10000;
    f->messages += CLIENTS - 1 - (f->messages + CLIENTS - 1) % CLIENTS; /* each the same number */
    f->restarts = optind + 1 < argc ? atoi(argv[optind + 1]) : 50;
    f->first_seed = f->seed;
    f->ready = -1;
    setvbuf(stdout, NULL, _IOLBF, 0); /* all of it is there, whatever ends us */
    printf("note: seed %llu\n", (unsigned long long)f->seed);
    signal(SIGPIPE, SIG_IGN);
    snprintf(f->dir, sizeof f->dir, "/tmp/jim-flap.XXXXXX");
    if (mkdtemp(f->dir) == NULL)
        die("mkdtemp");
    f->port = reserve_port(0);
    f->listener = listen_at(&f->proxy_port);
    for (int i = 0; i < PIPES; i++)
        f->pipe[i].fd[0] = f->pipe[i].fd[1] = -1;
    server_start(f);
    int64_t start_ms = f->now_ms = time_mono_ms();
    for (int i = 0; i < CLIENTS; i++)
        speaker_start(f, i);
    in_time = run(f, start_ms + PATIENCE_MS);
    status = report(f, in_time, start_ms);
    server_stop(f, SIGKILL);
    for (int i = 0; i < CLIENTS; i++)
        jim_client_free(f->s[i].c);
    for (int i = 0; i < PIPES; i++)
        pipe_close(&f->pipe[i], true);
    snprintf(command, sizeof command, "rm -rf %s", f->dir);
    if (system(command) != 0)
        status = 1;
    buf_free(&f->said);
    free(f);
    return status;
}
