/* SPDX-License-Identifier: MIT */
/*
 * screen.c - see screen.h. Characters of East Asia and emoji are two columns wide here by a rule of
 * thumb of its own: a mistake in term.c must not hide itself.
 */
#include "screen.h"

#include <stdio.h>

void
screen_init(struct screen *s, int columns, int rows)
{
    memset(s, 0, sizeof *s);
    CHECK(columns <= SCREEN_COLUMNS && rows <= SCREEN_ROWS);
    s->columns = columns;
    s->rows = rows;
}

void
screen_free(struct screen *s)
{
    buf_free(&s->above);
}

const char *
screen_row(const struct screen *s, int row)
{
    static char text[SCREEN_COLUMNS * 16 + 1];
    size_t n = 0, end = 0;
    bool behind = false; /* a wide character: its second column is empty, and no blank */

    for (int i = 0; i < s->columns; i++) {
        const char *c = s->cell[row][i];
        size_t len = strlen(c);
        if (len == 0 && !behind)
            text[n++] = ' ';
        memcpy(text + n, c, len);
        n += len;
        if (len > 0 && strcmp(c, " ") != 0)
            end = n;
        behind = len >= 3 && ((unsigned char)c[0] >= 0xe3 && (unsigned char)c[0] != 0xef);
    }
    text[end] = '\0';
    return text;
}

char *
screen_text(const struct screen *s)
{
    struct buf b = {0};
    int last = -1;

    buf_add(&b, s->above.p, s->above.len);
    for (int i = 0; i < s->rows; i++)
        if (screen_row(s, i)[0] != '\0')
            last = i;
    for (int i = 0; i <= last; i++)
        buf_printf(&b, "%s\n", screen_row(s, i));
    buf_lit(&b, "\0");
    return b.p;
}

static void
wipe_cells(struct screen *s, int row, int from)
{
    for (int i = from; i < SCREEN_COLUMNS; i++)
        s->cell[row][i][0] = '\0';
}

static void
line_feed(struct screen *s)
{
    s->full = false;
    if (s->row + 1 < s->rows) {
        s->row++;
        return;
    }
    buf_printf(&s->above, "%s\n", screen_row(s, 0));
    memmove(s->cell[0], s->cell[1], sizeof s->cell[0] * (size_t)(s->rows - 1));
    wipe_cells(s, s->rows - 1, 0);
}

static void
sequence(struct screen *s, const char *p, size_t n)
{
    int a = p[0] >= '0' && p[0] <= '9' ? atoi(p) : 0;
    int count = a > 0 ? a : 1;

    s->full = false;
    switch (p[n - 1]) {
    case 'A': s->row = s->row > count ? s->row - count : 0; break;
    case 'B': s->row = s->row + count < s->rows ? s->row + count : s->rows - 1; break;
    case 'C':
        s->column += count;
        s->column = s->column < s->columns ? s->column : s->columns - 1;
        break;
    case 'H': s->row = s->column = 0; break;
    case 'm': s->colour = true; break;
    case 'J':
        if (a == 2)
            for (int i = 0; i < s->rows; i++)
                wipe_cells(s, i, 0);
        wipe_cells(s, s->row, s->column);
        for (int i = s->row + 1; i < s->rows; i++)
            wipe_cells(s, i, 0);
        break;
    case 'h':
    case 'l':
        if (n == 6 && memcmp(p, "?2004", 5) == 0) {
            s->paste = p[n - 1] == 'h';
            break;
        } /* FALLTHROUGH */
    default: test_fail(__FILE__, __LINE__, "sequence ESC [ %.*s on a terminal", (int)n, p);
    }
}

static void
visible(struct screen *s, const char *p, size_t n)
{
    unsigned char lead = (unsigned char)p[0];
    int width = n >= 3 && lead >= 0xe3 && lead != 0xef ? 2 : 1;
    size_t held;

    if (n == 2 && (lead == 0xcc || lead == 0xcd)) { /* U+0300 to U+036F: over the one before */
        int column = s->full ? s->column : s->column - 1;
        CHECK(column >= 0);
        held = strlen(s->cell[s->row][column]);
        CHECK(held + n < sizeof s->cell[0][0]);
        memcpy(s->cell[s->row][column] + held, p, n);
        s->cell[s->row][column][held + n] = '\0';
        return;
    }
    if (s->full || s->column + width > s->columns) {
        s->column = 0;
        line_feed(s);
    }
    memcpy(s->cell[s->row][s->column], p, n);
    s->cell[s->row][s->column][n] = '\0';
    if (width == 2)
        s->cell[s->row][s->column + 1][0] = '\0';
    s->column += width;
    if (s->column >= s->columns) {
        s->column = s->columns - 1;
        s->full = true;
    }
}

static void
control(struct screen *s, char c)
{
    switch (c) {
    case '\r':
        s->column = 0;
        s->full = false;
        break;
    case '\n': line_feed(s); break;
    case '\a': s->bells++; break;
    default: test_fail(__FILE__, __LINE__, "control 0x%02x on a terminal", (unsigned char)c);
    }
}

void
screen_take(struct screen *s, const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char first;
        CHECK(s->wait_n < sizeof s->wait - 1);
        s->wait[s->wait_n++] = p[i];
        first = (unsigned char)s->wait[0];
        if (first == 0x1b) {
            if (s->wait_n == 2 && s->wait[1] != '[')
                test_fail(__FILE__, __LINE__, "ESC 0x%02x on a terminal",
                          (unsigned char)s->wait[1]);
            if (s->wait_n < 3 || p[i] < 0x40)
                continue;
            s->wait[s->wait_n] = '\0';
            sequence(s, s->wait + 2, s->wait_n - 2);
        } else if (first < 0x20 || first == 0x7f) {
            control(s, p[i]);
        } else {
            size_t want = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
            CHECK(first < 0x80 || first >= 0xc2);
            if (s->wait_n < want)
                continue;
            CHECK(first != 0xc2 || (unsigned char)s->wait[1] >= 0xa0); /* C1 */
            visible(s, s->wait, want);
        }
        s->wait_n = 0;
    }
}
