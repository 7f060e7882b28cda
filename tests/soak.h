/* SPDX-License-Identifier: MIT */
/*
 * soak.h - for the programs that kill servers for minutes while clients talk: kill.c,
 * cluster_chaos.c.
 */
#ifndef SOAK_H
#define SOAK_H

#include "draw.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static inline void complain(unsigned long long *count, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Count a violation; the first of each kind are shown. */
static inline void
complain(unsigned long long *count, const char *format, ...)
{
    va_list ap;

    if (++*count > 5)
        return;
    va_start(ap, format);
    vprintf(format, ap);
    va_end(ap);
    printf("\n");
    fflush(stdout);
}

static inline void
die(const char *what)
{
    printf("%s: %s\n0 passed, 1 failed\n", what, strerror(errno));
    exit(1);
}

#endif /* SOAK_H */
