/* SPDX-License-Identifier: MIT */
/*
 * cli_run.c - see cli_run.h.
 */
#include "cli_run.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_ARGS 24

/* --- the program ------------------------------------------------------------------------------ */

static const char *
cli_program(void)
{
    static char path[4096];
    const char *cli = getenv("JIM_CLI");

    if (cli == NULL)
        snprintf(path, sizeof path, "%s/jim-cli", test_source());
    return cli != NULL ? cli : path;
}

/* In the child: an environment of its own, and jim-cli. */
static void
become(const struct server *s, const char *const *args)
{
    static const char *const gone[] = {"JIM_URL", "JIM_USER", "JIM_PASSWORD", "JIM_TOKEN", "TERM",
                                       "NO_COLOR", "XDG_STATE_HOME"};
    static const char *const under[] = {"valgrind", "-q", "--error-exitcode=99",
                                        "--leak-check=full", "--log-file=valgrind.%p"};
    const char *argv[MAX_ARGS + 12] = {NULL};
    char url[64], home[4096];
    size_t n = 0, first;

    if (getenv("JIM_CLI_UNDER") != NULL)
        for (; n < sizeof under / sizeof under[0]; n++)
            argv[n] = under[n];
    argv[n++] = cli_program();
    first = n + 2 * through_tls();

    for (size_t i = 0; i < sizeof gone / sizeof gone[0]; i++)
        unsetenv(gone[i]);
    if (through_tls()) {
        argv[n++] = "--ca";
        argv[n++] = getenv("JIM_TEST_TLS");
    }
    for (; *args != NULL; args++) { /* NAME=VALUE in front goes into the environment */
        const char *equals = strchr(*args, '=');
        if (n == first && equals != NULL && (*args)[0] >= 'A' && (*args)[0] <= 'Z') {
            char *name = xstrndup(*args, (size_t)(equals - *args));
            setenv(name, equals + 1, 1);
            free(name);
        } else {
            argv[n++] = *args;
        }
    }
    if (s != NULL && getenv("JIM_URL") == NULL) {
        snprintf(url, sizeof url, "%s:%d", through_tls() ? "tcps://localhost" : "127.0.0.1",
                 s->port[0]);
        setenv("JIM_URL", url, 1);
    }
    if (getcwd(home, sizeof home) != NULL)
        setenv("HOME", home, 1);
    setenv("TZ", "UTC", 1);
    execvp(argv[0], (char *const *)(uintptr_t)argv);
    _exit(127);
}

static void
gather_args(const char **args, const char *first, va_list ap)
{
    size_t n = 0;

    for (const char *arg = first; arg != NULL; arg = va_arg(ap, const char *)) {
        CHECK(n < MAX_ARGS - 1);
        args[n++] = arg;
    }
    args[n] = NULL;
}

void
cli_start_args(struct cli_run *r, const struct server *s, const char *const *args)
{
    int in[2], out[2], err[2];

    memset(r, 0, sizeof *r);
    test_begins();
    fflush(stdout);
    CHECK(pipe(in) == 0 && pipe(out) == 0 && pipe(err) == 0);
    int mine[] = {in[1], out[0], err[0]};
    for (size_t i = 0; i < 3; i++)
        CHECK(fcntl(mine[i], F_SETFD, FD_CLOEXEC) == 0 && fcntl(mine[i], F_SETFL, O_NONBLOCK) == 0);
    signal(SIGPIPE, SIG_IGN);
    r->pid = fork();
    CHECK(r->pid >= 0);
    if (r->pid == 0) {
        signal(SIGPIPE, SIG_DFL);
        dup2(in[0], 0);
        dup2(out[1], 1);
        dup2(err[1], 2);
        for (int i = 0; i < 2; i++) {
            close(in[i]);
            close(out[i]);
            close(err[i]);
        }
        become(s, args);
    }
    close(in[0]);
    close(out[1]);
    close(err[1]);
    r->in = in[1];
    r->out = out[0];
    r->err = err[0];
}

void
cli_start(struct cli_run *r, const struct server *s, const char *first, ...)
{
    const char *args[MAX_ARGS];
    va_list ap;

    va_start(ap, first);
    gather_args(args, first, ap);
    va_end(ap);
    cli_start_args(r, s, args);
}

static void
take(int *fd, struct buf *b)
{
    ssize_t n;

    if (*fd < 0)
        return;
    buf_reserve(b, 65537);
    n = read(*fd, b->p + b->len, 65536);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        close(*fd);
        *fd = -1;
    }
    b->len += n > 0 ? (size_t)n : 0;
    b->p[b->len] = '\0';
}

int64_t
deadline(void)
{
    return time_mono_ms() + 3 * WAIT_MS;
}

/* Take what it says, once something comes, and let it have what is left of the input. */
static void
cli_turn(struct cli_run *r, struct str *input, int64_t until)
{
    struct pollfd f[3] = {{.fd = r->out, .events = POLLIN}, {.fd = r->err, .events = POLLIN},
                          {.fd = input != NULL && input->n > 0 ? r->in : -1, .events = POLLOUT}};
    int64_t left = until - time_mono_ms();

    if (left <= 0)
        test_fail(__FILE__, __LINE__, "waited in vain; out:\n%s\nerr:\n%s",
                  r->said.p != NULL ? r->said.p : "",
                  r->complained.p != NULL ? r->complained.p : "");
    if (poll(f, 3, (int)left) <= 0)
        return;
    if (f[0].revents != 0)
        take(&r->out, &r->said);
    if (f[1].revents != 0)
        take(&r->err, &r->complained);
    if (f[2].revents != 0) {
        ssize_t n = write(r->in, input->p, input->n);
        if (n < 0 && errno == EPIPE) {
            input->n = 0;
        } else if (n > 0) {
            input->p += n;
            input->n -= (size_t)n;
        }
    }
}

void
cli_say_to(struct cli_run *r, const char *text)
{
    struct str input = str_of(text);
    int64_t until = deadline();

    while (input.n > 0)
        cli_turn(r, &input, until);
}

void
cli_close_input(struct cli_run *r)
{
    close(r->in);
    r->in = -1;
}

size_t
count_of(const struct buf *b, const char *part)
{
    size_t n = 0;

    for (const char *p = b->p; p != NULL && (p = strstr(p, part)) != NULL; p++)
        n++;
    return n;
}

/* Wait until standard output holds `part` n times. */
void
cli_hears(struct cli_run *r, const char *part, size_t n)
{
    int64_t until = deadline();

    while (count_of(&r->said, part) < n)
        cli_turn(r, NULL, until);
}

void
cli_listen(struct cli_run *r, int64_t ms)
{
    int64_t until = time_mono_ms() + ms, left;

    while ((left = until - time_mono_ms()) > 0) {
        struct pollfd f[2] = {{.fd = r->out, .events = POLLIN}, {.fd = r->err, .events = POLLIN}};
        if (poll(f, 2, (int)left) <= 0)
            continue;
        if (f[0].revents != 0)
            take(&r->out, &r->said);
        if (f[1].revents != 0)
            take(&r->err, &r->complained);
    }
}

void
cli_complains(struct cli_run *r, const char *part)
{
    int64_t until = deadline();

    while (count_of(&r->complained, part) == 0)
        cli_turn(r, NULL, until);
}

/* Wait for its end; its exit code, 128 + signal when killed. */
int
cli_end(struct cli_run *r)
{
    int64_t until = deadline();
    int status;

    if (r->in >= 0)
        cli_close_input(r);
    while (r->out >= 0 || r->err >= 0)
        cli_turn(r, NULL, until);
    CHECK(waitpid(r->pid, &status, 0) == r->pid);
    buf_add(&r->said, "", 1);
    buf_add(&r->complained, "", 1);
    r->said.len--;
    r->complained.len--;
    printf("%s%s", r->said.p, r->complained.p); /* shown if the test fails */
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Run it to its end with this input (NULL: none). */
int
cli(struct cli_run *r, const struct server *s, const char *input, const char *first, ...)
{
    const char *args[MAX_ARGS];
    va_list ap;

    va_start(ap, first);
    gather_args(args, first, ap);
    va_end(ap);
    cli_start_args(r, s, args);
    if (input != NULL)
        cli_say_to(r, input);
    return cli_end(r);
}

/* The server again on its port, after it was ended by sig. */
void
server_again(struct server *s, int sig)
{
    char port[16];

    snprintf(port, sizeof port, "%d", s->port[0]);
    if (sig != 0)
        CHECK_INT(server_end(s, sig), sig == SIGKILL ? 128 + SIGKILL : 0);
    server_start_with(s, 0, true, (const char *const[]){"-p", port, QUIET, FAST, NULL});
}

void
terminal_start(struct terminal *t, const struct server *s, int columns, int rows,
               const char *first, ...)
{
    const char *args[MAX_ARGS];
    struct winsize size = {.ws_col = (unsigned short)columns, .ws_row = (unsigned short)rows};
    va_list ap;

    va_start(ap, first);
    gather_args(args, first, ap);
    va_end(ap);
    test_begins();
    fflush(stdout);
    screen_init(&t->screen, columns, rows);
    t->fd = posix_openpt(O_RDWR | O_NOCTTY);
    CHECK(t->fd >= 0 && grantpt(t->fd) == 0 && unlockpt(t->fd) == 0);
    CHECK(fcntl(t->fd, F_SETFD, FD_CLOEXEC) == 0);
    int held = open(ptsname(t->fd), O_RDWR | O_NOCTTY | O_CLOEXEC);
    CHECK(held >= 0 && ioctl(held, TIOCSWINSZ, &size) == 0);
    t->pid = fork();
    CHECK(t->pid >= 0);
    if (t->pid == 0) {
        int fd;
        setsid();
        fd = open(ptsname(t->fd), O_RDWR); /* becomes the terminal of the session */
#ifdef TIOCSCTTY
        ioctl(fd, TIOCSCTTY, 0);
#endif
        dup2(fd, 0);
        dup2(fd, 1);
        dup2(fd, 2);
        if (fd > 2)
            close(fd);
        become(s, args);
    }
    close(held);
}

/* Take what has come, waiting for at most ms. False: the program has ended. */
bool
terminal_take(struct terminal *t, int ms)
{
    struct pollfd f = {.fd = t->fd, .events = POLLIN};
    char bytes[4096];
    ssize_t n;

    if (poll(&f, 1, ms) <= 0)
        return true;
    n = read(t->fd, bytes, sizeof bytes);
    if (n <= 0)
        return false;
    screen_take(&t->screen, bytes, (size_t)n);
    return true;
}

/* Wait until a row reads so (part: holds it); its number. */
static int
terminal_row(struct terminal *t, const char *want, bool part)
{
    int64_t until = deadline();

    for (;;) {
        for (int i = 0; i < t->screen.rows; i++) {
            const char *row = screen_row(&t->screen, i);
            if (part ? strstr(row, want) != NULL : strcmp(row, want) == 0)
                return i;
        }
        if (time_mono_ms() > until || !terminal_take(t, 1000)) {
            char *text = screen_text(&t->screen);
            test_fail(__FILE__, __LINE__, "no row \"%s\" on\n%s", want, text);
        }
    }
}

int
row_is(struct terminal *t, const char *want)
{
    return terminal_row(t, want, false);
}

int
row_has(struct terminal *t, const char *part)
{
    return terminal_row(t, part, true);
}

void
type(struct terminal *t, const char *keys)
{
    size_t n = strlen(keys);

    CHECK(write(t->fd, keys, n) == (ssize_t)n);
}

int
terminal_end(struct terminal *t)
{
    int64_t until = deadline();
    int status;

    while (terminal_take(t, 1000))
        CHECK(time_mono_ms() < until);
    CHECK(waitpid(t->pid, &status, 0) == t->pid);
    char *text = screen_text(&t->screen);
    printf("%s", text);
    free(text);
    close(t->fd);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
