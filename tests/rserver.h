/* SPDX-License-Identifier: MIT */
/*
 * rserver.h - redis-servers with options of their own, replicas and Sentinels among them: on free
 * ports, each in a directory below the test's, and ended with the test (redis-server, redis-cli).
 */
#ifndef RSERVER_H
#define RSERVER_H

#include "client.h"

#include <unistd.h>

#define LONG_MS 180000 /* longest wait for servers among themselves: only a hang takes this long */

/* Set password, tls or sentinel before the start. */
struct rserver {
    pid_t pid;
    int port;
    char dir[32], password[32];
    const char *args[24];
    bool sentinel, tls;
};

/* Run a program to its end: its exit code, 128 when killed; what it said is in `out`. */
int run_to_end(struct buf *out, const char *const *argv);
/* What redis-cli says to a command given as words, the last NULL. To be freed. */
struct buf redis_cli(const struct rserver *s, const char *word, ...);
/* Is `part` in what it says to these two words? */
bool cli_says(const struct rserver *s, const char *part, const char *word, const char *second);

/* In the directory `dir`, which is made, with these options for redis-server, the last NULL. */
void rserver_start(struct rserver *s, const char *dir, const char *arg, ...);
void rserver_again(struct rserver *s); /* after its end, as it was */
void rserver_kill(struct rserver *s);
/* Sentinel number i of 3, two of which must agree, for the master `first`, called `mine`. */
void sentinel_start(struct rserver *s, int i, const struct rserver *first);

#define WAIT_FOR(condition) \
    do { \
        int64_t end = time_mono_ms() + LONG_MS; \
        while (!(condition)) { \
            if (time_mono_ms() > end) \
                test_fail(__FILE__, __LINE__, "never: %s", #condition); \
            usleep(20000); \
        } \
    } while (0)

#endif /* RSERVER_H */
