/* SPDX-License-Identifier: MIT */
/*
 * cli_tty.c - the terminal of jim-cli chat: raw mode, its size, signals, where the history is kept.
 *
 * Signals are taken by a thread that does nothing but wait for them and writes their numbers into a
 * pipe: so the terminal is always given back, and no global has to say which.
 */
#include "cli.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

struct signals {
    sigset_t wanted;
    int to;
};

static void *
signal_thread(void *arg)
{
    struct signals s = *(struct signals *)arg;
    int number;

    free(arg);
    for (;;) {
        if (sigwait(&s.wanted, &number) != 0)
            continue;
        unsigned char c = (unsigned char)number;
        if (number == SIGUSR1 || write(s.to, &c, 1) != 1)
            return NULL; /* the chat is over */
    }
}

int
tty_begin(struct tty *t, struct edit *e)
{
    static const int numbers[] = {SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGWINCH, SIGCONT, SIGTSTP,
                                  SIGUSR1};
    struct signals *s;
    int fd[2], error;

    t->edit = e;
    if (tcgetattr(STDIN_FILENO, &t->cooked) != 0 || pipe(fd) != 0)
        return -1;
    t->signal = fd[0];
    t->signal_in = fd[1];
    s = xmalloc(sizeof *s);
    s->to = fd[1];
    sigemptyset(&s->wanted);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        sigaddset(&s->wanted, numbers[i]);
    pthread_sigmask(SIG_BLOCK, &s->wanted, NULL); /* the thread inherits it */
    error = pthread_create(&t->thread, NULL, signal_thread, s);
    if (error == 0) {
        t->begun = true;
        return 0;
    }
    free(s);
    close(fd[0]);
    close(fd[1]);
    errno = error;
    return -1;
}

void
tty_end(struct tty *t)
{
    tty_restore(t);
    if (!t->begun)
        return;
    pthread_kill(t->thread, SIGUSR1);
    pthread_join(t->thread, NULL);
    close(t->signal);
    close(t->signal_in);
}

static void
tty_flush(struct tty *t)
{
    struct buf *out = edit_pending(t->edit);

    fwrite(out->p, 1, out->len, stdout); /* a terminal that is gone shows nothing */
    fflush(stdout);
    out->len = 0;
}

static void
tty_size(struct tty *t)
{
    struct winsize size = {0};

    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0)
        size.ws_col = size.ws_row = 0;
    edit_size(t->edit, size.ws_col, size.ws_row);
}

void
tty_raw(struct tty *t)
{
    struct termios raw = t->cooked;

    raw.c_iflag &= ~(tcflag_t)(BRKINT | ICRNL | INLCR | IGNCR | INPCK | ISTRIP | IXON);
    raw.c_lflag &= ~(tcflag_t)(ECHO | ICANON | IEXTEN | ISIG);
    raw.c_cflag |= CS8;
    raw.c_cc[VMIN] = 1;
    raw.c_cc[VTIME] = 0;
    tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
    t->raw = true;
    tty_size(t);
    buf_lit(edit_pending(t->edit), "\x1b[?2004h"); /* bracketed paste */
}

void
tty_restore(struct tty *t)
{
    if (!t->raw)
        return;
    edit_hide(t->edit);
    buf_lit(edit_pending(t->edit), "\x1b[?2004l");
    tty_flush(t);
    t->raw = false;
    tcsetattr(STDIN_FILENO, TCSADRAIN, &t->cooked);
}

void
tty_suspend(struct tty *t)
{
    tty_restore(t);
    kill(0, SIGSTOP); /* with its whole group, as Ctrl-Z does */
    tty_raw(t);
}

void
tty_signal(struct tty *t, int number)
{
    sigset_t only;

    switch (number) {
    case SIGWINCH: tty_size(t); break;
    case SIGCONT: tty_raw(t); break; /* the shell may have set the terminal otherwise */
    case SIGTSTP: tty_suspend(t); break;
    default: /* to die of it, with the terminal as it was */
        tty_restore(t);
        signal(number, SIG_DFL);
        sigemptyset(&only);
        sigaddset(&only, number);
        raise(number);
        pthread_sigmask(SIG_UNBLOCK, &only, NULL);
    }
}

/* Make the directories of a path; those that are there are left as they are. */
static void
make_directories(char *path)
{
    for (char *p = path + 1; *p != '\0'; p++) {
        if (*p != '/')
            continue;
        *p = '\0';
        mkdir(path, 0700);
        *p = '/';
    }
}

char *
tty_history(void)
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    struct buf path = {0};

    if (state != NULL && state[0] == '/')
        buf_printf(&path, "%s/jim-cli/history", state);
    else if (home != NULL && home[0] == '/')
        buf_printf(&path, "%s/.local/state/jim-cli/history", home);
    else
        return NULL;
    buf_lit(&path, "\0");
    make_directories(path.p);
    return path.p;
}
