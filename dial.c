/* SPDX-License-Identifier: MIT */
/*
 * dial.c - outgoing connections, as far as they are alike: HOST:PORT taken apart, a name looked up,
 * a socket that connects without waiting. What is spoken then is the caller's business.
 */
#include "jim.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <unistd.h>

static bool
is_port(struct str s)
{
    int n = 0;

    for (size_t i = 0; i < s.n && i < 6; i++) {
        if (s.p[i] < '0' || s.p[i] > '9')
            return false;
        n = 10 * n + (s.p[i] - '0');
    }
    return s.n > 0 && s.n <= 5 && n > 0 && n <= 65535;
}

bool
dial_split(struct str text, struct str usual, struct str *host, struct str *port)
{
    const char *colon;

    *port = usual;
    if (text.n > 0 && text.p[0] == '[') {
        const char *close = memchr(text.p, ']', text.n);
        if (close == NULL)
            return false;
        *host = (struct str){text.p + 1, (size_t)(close - text.p - 1)};
        colon = close + 1 < text.p + text.n ? close + 1 : NULL;
        if (colon != NULL && *colon != ':')
            return false;
    } else {
        colon = text.n > 0 ? memchr(text.p, ':', text.n) : NULL;
        *host = (struct str){text.p, colon == NULL ? text.n : (size_t)(colon - text.p)};
    }
    if (colon != NULL)
        *port = (struct str){colon + 1, (size_t)(text.p + text.n - colon - 1)};
    return host->n > 0 && host->n < NI_MAXHOST && is_port(*port);
}

int
dial_look_up(struct str host, struct str port, bool numeric, struct dial_addrs *to)
{
    struct addrinfo hints = {.ai_flags = AI_NUMERICSERV | (numeric ? AI_NUMERICHOST : 0),
                             .ai_socktype = SOCK_STREAM}, *list;
    char name[NI_MAXHOST], number[8];

    snprintf(name, sizeof name, "%.*s", (int)host.n, host.p);
    snprintf(number, sizeof number, "%.*s", (int)port.n, port.p);
    to->n = 0;
    int e = getaddrinfo(name, number, &hints, &list);
    if (e != 0)
        return e;
    for (const struct addrinfo *a = list; a != NULL && to->n < DIAL_ADDRS; a = a->ai_next) {
        if (a->ai_addrlen > sizeof to->a[0].sa)
            continue;
        memcpy(&to->a[to->n].sa, a->ai_addr, a->ai_addrlen);
        to->a[to->n++].len = a->ai_addrlen;
    }
    freeaddrinfo(list);
    return 0;
}

int
dial(const struct dial_addr *a)
{
    int on = 1, fd = socket(a->sa.ss_family, SOCK_STREAM, 0);

    if (fd < 0)
        return -1;
    fcntl(fd, F_SETFL, O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(fd, (const struct sockaddr *)&a->sa, a->len) == 0 || errno == EINPROGRESS ||
        errno == EINTR)
        return fd;
    int e = errno;
    close(fd);
    errno = e;
    return -1;
}

int
dial_error(int fd)
{
    int error = 0;
    socklen_t size = sizeof error;

    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 ? error : errno;
}
