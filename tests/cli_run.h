/* SPDX-License-Identifier: MIT */
/*
 * cli_run.h - what tests run jim-cli with: through pipes, or on a terminal that screen.c reads.
 * JIM_CLI is the program (else jim-cli beside the sources); with JIM_CLI_UNDER=valgrind it runs
 * under valgrind, whose findings end it with 99. Waits as in client.h, three times as long.
 */
#ifndef CLI_RUN_H
#define CLI_RUN_H

#include "client.h"
#include "screen.h"

/* --- through pipes ---------------------------------------------------------------------------- */

struct cli_run {
    pid_t pid;
    int in, out, err; /* pipes; -1: closed */
    struct buf said, complained; /* what came so far; NUL behind it */
};

/* Arguments of the form NAME=VALUE in front set its environment, which is empty of what it looks at
 * but for the server's JIM_URL (s NULL: none) and a HOME of its own. */
void cli_start_args(struct cli_run *r, const struct server *s, const char *const *args);
void cli_start(struct cli_run *r, const struct server *s, const char *first, ...);
void cli_say_to(struct cli_run *r, const char *text); /* into its standard input */
void cli_close_input(struct cli_run *r);
/* Wait until standard output holds `part` n times. */
void cli_hears(struct cli_run *r, const char *part, size_t n);
/* Take what it says for so long. */
void cli_listen(struct cli_run *r, int64_t ms);
void cli_complains(struct cli_run *r, const char *part);
/* Wait for its end; its exit code, 128 + signal when killed. */
int cli_end(struct cli_run *r);
/* Run it to its end with this input (NULL: none). */
int cli(struct cli_run *r, const struct server *s, const char *input, const char *first, ...);
size_t count_of(const struct buf *b, const char *part);
int64_t deadline(void); /* on time_mono_ms()'s clock */

#define SAID(r, want) CHECK_BYTES((r)->said.p, (r)->said.len, (want))
#define COMPLAINED(r, want) CHECK_BYTES((r)->complained.p, (r)->complained.len, (want))

/* The server again on its port, after it was ended by sig (0: it was already). */
void server_again(struct server *s, int sig);

/* --- on a terminal ---------------------------------------------------------------------------- */

struct terminal {
    pid_t pid;
    int fd; /* of the pty's other end */
    struct screen screen;
};

void terminal_start(struct terminal *t, const struct server *s, int columns, int rows,
                    const char *first, ...);
/* Take what has come, waiting for at most ms. False: the program has ended. */
bool terminal_take(struct terminal *t, int ms);
/* Wait until a row reads so, or holds this; its number. */
int row_is(struct terminal *t, const char *want);
int row_has(struct terminal *t, const char *part);
void type(struct terminal *t, const char *keys);
int terminal_end(struct terminal *t);

#endif /* CLI_RUN_H */
