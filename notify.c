/* SPDX-License-Identifier: MIT */
/*
 * notify.c - telling the service manager how far the server is, in systemd's way (sd_notify(3)):
 * one datagram of KEY=value lines to the socket that $NOTIFY_SOCKET names. Only the program does;
 * an embedding program speaks for itself. The socket is connected before the jail is entered, for
 * it cannot be found from inside, and a manager that is gone or slow is no reason to wait or to
 * fail.
 */
#include "jim.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

void
notify_open(struct jim *j)
{
    const char *path = j->program ? getenv("NOTIFY_SOCKET") : NULL;
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    size_t n = path == NULL ? 0 : strlen(path);

    j->notify = -1;
    if (n < 2 || n >= sizeof a.sun_path || (path[0] != '/' && path[0] != '@'))
        return;
    memcpy(a.sun_path, path, n);
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
    if (path[0] == '@')
        a.sun_path[0] = '\0'; /* Linux's abstract names: nothing stands behind them */
    else
        size++;
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    if (fd < 0)
        return;
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    if (connect(fd, (struct sockaddr *)&a, size) != 0)
        close(fd);
    else
        j->notify = fd;
}

void
notify_send(const struct jim *j, const char *format, ...)
{
    char text[512];
    va_list ap;

    if (!j->program || j->notify < 0)
        return;
    va_start(ap, format);
    int n = vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    if (n > 0 && (size_t)n < sizeof text && send(j->notify, text, (size_t)n, 0) < 0)
        log_write(&j->log, LOG_LEVEL_DEBUG, "the service manager does not listen");
}

void
notify_close(struct jim *j)
{
    if (j->program && j->notify >= 0)
        close(j->notify);
    j->notify = -1;
}
