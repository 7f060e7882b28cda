/* SPDX-License-Identifier: MIT */
/*
 * ports.h - ports for servers that the tests start, end and start again.
 *
 * A port that is free now may be somebody else's when a server comes (back) to it: on Linux it is
 * therefore kept by a socket that is bound to it and does not listen. The system gives it to nobody
 * else, neither to a server that asks for any nor to a client, but a server that sets SO_REUSEADDR,
 * as jim and redis-server do, may have it, lose it and have it again.
 */
#ifndef PORTS_H
#define PORTS_H

#include <arpa/inet.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <unistd.h>

/* This port of 127.0.0.1, or any for 0, until this process ends. 0: it is taken. */
static inline int
reserve_port(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    if (bind(fd, (struct sockaddr *)&a, n) != 0 ||
        getsockname(fd, (struct sockaddr *)&a, &n) != 0) {
        close(fd);
        return 0;
    }
#ifdef __linux__
    int on = 1; /* only now: two of us must not get the same */
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
#else
    close(fd);
#endif
    return ntohs(a.sin_port);
}

/* The same with the one 10000 above, on which the servers of a Redis Cluster speak among
 * themselves; both below those that systems give to clients. */
static inline int
free_port(void)
{
    uint16_t any;
    int port;

    do {
        random_bytes(&any, sizeof any);
        port = 10000 + any % 12000;
    } while (reserve_port(port) == 0 || reserve_port(port + 10000) == 0);
    return port;
}

#endif /* PORTS_H */
