/* SPDX-License-Identifier: MIT */
/*
 * no_engine.c - in place of engine.c, where tests do without a redis-server.
 */
#include "client.h"

int (*const cluster_port)(void) = NULL;
void (*const cluster_ready)(const struct server *s) = NULL;
