/* SPDX-License-Identifier: MIT */
/*
 * talk.c - TCP-IM for shell scripts: `talk PORT CMD JSON [CMD JSON]...` sends each pair as a frame
 * to 127.0.0.1, and a close (14) behind them, and prints the body of every frame that comes until
 * the server ends the connection, one a line.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void
fail(const char *what)
{
    perror(what);
    exit(1);
}

static void
send_frame(FILE *to, int cmd, const char *body)
{
    uint32_t n = htonl((uint32_t)strlen(body));

    fputc(1, to);
    fputc(0x51, to);
    fputc(cmd, to);
    fwrite(&n, sizeof n, 1, to);
    fputs(body, to);
}

int
main(int argc, char **argv)
{
    struct sockaddr_in a = {.sin_family = AF_INET};
    unsigned char head[7];
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    if (argc < 2)
        return 1;
    alarm(120); /* only a hang takes this long */
    a.sin_port = htons((uint16_t)atoi(argv[1]));
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a) != 0)
        fail("connect");
    FILE *to = fdopen(fd, "w"), *from = fdopen(dup(fd), "r");
    if (to == NULL || from == NULL)
        fail("fdopen");
    for (int i = 2; i + 1 < argc; i += 2)
        send_frame(to, atoi(argv[i]), argv[i + 1]);
    send_frame(to, 14, "");
    if (fflush(to) != 0)
        fail("send");
    while (fread(head, 1, sizeof head, from) == sizeof head) {
        uint32_t n = (uint32_t)head[3] << 24 | (uint32_t)head[4] << 16 | (uint32_t)head[5] << 8 |
                     head[6];
        for (; n > 0; n--)
            putchar(fgetc(from));
        putchar('\n');
    }
    return 0;
}
