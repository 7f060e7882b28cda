/* SPDX-License-Identifier: MIT */
/*
 * ports.h - ports for redis-servers that the tests start.
 */
#ifndef PORTS_H
#define PORTS_H

#include <arpa/inet.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <unistd.h>

static inline bool
is_free(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    bool is = bind(fd, (struct sockaddr *)&a, sizeof a) == 0;

    close(fd);
    return is;
}

/* Below the ports that systems give to clients, and so is the one 10000 above, on which a cluster's
 * servers speak among themselves. */
static inline int
free_port(void)
{
    uint16_t any;
    int port;

    do {
        random_bytes(&any, sizeof any);
        port = 10000 + any % 12000;
    } while (!is_free(port) || !is_free(port + 10000));
    return port;
}

#endif
