/* SPDX-License-Identifier: MIT */
/*
 * engine.h - a redis-server of the test's own: on a free port, in the test's directory, keeping all
 * it is told, though it be killed (appendfsync no: all is written before it is answered, and nobody
 * waits for a disk, which the loss of power alone would need), and ended with the test.
 */
#ifndef ENGINE_H
#define ENGINE_H

#include "client.h"

struct engine {
    pid_t pid;
    int port;
    const char *bind; /* NULL: 127.0.0.1 */
};

void engine_start(struct engine *e); /* zeroed, or with an address */
void engine_run(struct engine *e); /* again, on the same port and with what it had */
void engine_end(struct engine *e, int sig);
/* One inline command over a connection of its own: the reply's first line, or "" when there is no
 * reply. Until the next call. */
struct str engine_says(const struct engine *e, const char *command);
/* Redis can be asked: /healthz says 200. */
void node_ready(const struct server *s);

#endif /* ENGINE_H */
