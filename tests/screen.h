/* SPDX-License-Identifier: MIT */
/*
 * screen.h - a terminal to test with: what a program has written to it ends up in rows of text, as
 * a person would see it. It knows what jim-cli sends and ends the test at anything else.
 */
#ifndef SCREEN_H
#define SCREEN_H

#include "test.h"

#define SCREEN_ROWS 60
#define SCREEN_COLUMNS 132

struct screen {
    int columns, rows;
    int row, column;   /* of the cursor */
    bool full;         /* the last column was just written: the next character wraps */
    char cell[SCREEN_ROWS][SCREEN_COLUMNS][16]; /* UTF-8; "" behind a wide character */
    struct buf above;  /* rows that scrolled off the top, a line each */
    char wait[32];     /* bytes of a sequence or character not complete */
    size_t wait_n;
    bool paste;        /* bracketed paste has been asked for */
    bool colour;       /* a colour has been seen */
    int bells;
};

void screen_init(struct screen *s, int columns, int rows);
void screen_take(struct screen *s, const char *p, size_t n);
/* A row's text without blanks at its end; until the next call. */
const char *screen_row(const struct screen *s, int row);
/* Everything: what scrolled off, and the rows down to the last that is not empty. Owned by the
 * caller. */
char *screen_text(const struct screen *s);
void screen_free(struct screen *s);

#endif /* SCREEN_H */
