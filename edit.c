/* SPDX-License-Identifier: MIT */
/*
 * edit.c - the line one types: a small editor for one line on a terminal.
 *
 * It is a machine without a descriptor: typed bytes go in by edit_feed(), what the terminal has to
 * be sent comes out by edit_output(). So it can be tested byte by byte, and messages that arrive
 * while one types are printed above the line by edit_print().
 *
 *   words      candidates of a completion
 *   text       inserting, deleting, moving; what was cut can be put back (Ctrl-Y)
 *   history    older lines; searching them (Ctrl-R); the file they are kept in
 *   completion
 *   drawing    the line may take several rows; wide characters do not break at the edge
 *   keys       escape sequences, UTF-8 and pasted text put together from bytes
 *
 * The line is UTF-8 that is well formed: what is not becomes U+FFFD on its way in. The cursor
 * stands before a character and never within what a terminal draws as one: a character with the
 * marks (width 0) that follow it. A line feed can come in by pasting alone, and is drawn as an
 * arrow.
 */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_KEY 32       /* bytes of an escape sequence; longer ones are swallowed */
#define MAX_SHOWN 200    /* candidates listed */
#define MAX_WORDS 10000  /* and kept */
#define MAX_HISTORY_FILE (4u << 20) /* bytes read of a history file: the last ones */
#define MAX_REMEMBERED (EDIT_MAX / 16)

enum edit_state { STATE_TEXT, STATE_ESC, STATE_CSI, STATE_SS3 };

struct edit {
    struct buf line;
    size_t at;         /* cursor: byte offset in line */
    struct buf done;   /* the line of the last EDIT_LINE */
    struct buf cut;    /* what was cut last */
    bool cutting;      /* the last key cut something: the next cut joins it */
    struct buf prompt;

    char **old;        /* owned: the history, oldest first */
    size_t old_n, old_at; /* old_at == old_n: at the line being typed */
    struct buf typed;  /* that line, while an older one is looked at */
    int file;          /* of the history, -1: none */

    bool searching;
    struct buf query;
    size_t found;      /* index in old[] of the match + 1; 0: none */

    edit_complete *complete;
    void *arg;
    bool tabbed;       /* the last key was a Tab that could not go on: the next lists */

    int columns, rows; /* of the terminal */
    bool drawn;        /* the line stands on the screen */
    int row;           /* of the cursor, counted from the first one drawn */
    int end_row, end_column; /* behind the last character drawn */
    struct buf out;

    enum edit_state state;
    char key[MAX_KEY]; /* of an escape sequence, without ESC [; or of a character not complete */
    size_t key_n;
    bool pasting;
    bool vanishes;     /* the line, when it is finished */
    bool after_return; /* CR came last: an LF behind it in the same paste is no second line end */
};

/* --- words ------------------------------------------------------------------------------------ */

void
edit_words_add(struct edit_words *w, struct str word)
{
    if (w->n == MAX_WORDS)
        return;
    GROW(w->word, w->n, w->cap, 16);
    w->word[w->n++] = xstrndup(word.p, word.n);
}

void
edit_words_free(struct edit_words *w)
{
    for (size_t i = 0; i < w->n; i++)
        free(w->word[i]);
    free(w->word);
    *w = (struct edit_words){0};
}

static int
edit_words_order(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* --- text ------------------------------------------------------------------------------------- */

static void
set_text(struct buf *b, const char *p, size_t n)
{
    b->len = 0;
    buf_add(b, p, n);
}

static struct str
str_in(const struct buf *b)
{
    return (struct str){b->p, b->len};
}

static uint32_t
char_at(const struct edit *e, size_t at, size_t *n)
{
    uint32_t c;

    *n = term_char((struct str){e->line.p + at, e->line.len - at}, &c);
    return c;
}

/* The end of what is drawn as one character at `at`. */
static size_t
next_of(const struct edit *e, size_t at)
{
    size_t n;

    if (at >= e->line.len)
        return e->line.len;
    char_at(e, at, &n);
    at += n;
    while (at < e->line.len && term_width(char_at(e, at, &n)) == 0)
        at += n;
    return at;
}

static size_t
previous_of(const struct edit *e, size_t at)
{
    size_t n;

    while (at > 0) {
        at--;
        if (((unsigned char)e->line.p[at] & 0xc0) != 0x80 && term_width(char_at(e, at, &n)) != 0)
            break;
    }
    return at;
}

static void
bell(struct edit *e)
{
    buf_lit(&e->out, "\a");
}

static void
insert(struct edit *e, const char *p, size_t n)
{
    if (n > EDIT_MAX - e->line.len) {
        bell(e);
        return;
    }
    if (n == 0)
        return;
    buf_reserve(&e->line, n);
    memmove(e->line.p + e->at + n, e->line.p + e->at, e->line.len - e->at);
    memcpy(e->line.p + e->at, p, n);
    e->line.len += n;
    e->at += n;
}

/* Take [from, to) out of the line. */
static void
delete(struct edit *e, size_t from, size_t to)
{
    memmove(e->line.p + from, e->line.p + to, e->line.len - to);
    e->line.len -= to - from;
    e->at = from;
}

/* The same, to be put back by Ctrl-Y. */
static void
cut(struct edit *e, size_t from, size_t to)
{
    struct buf joined = {0};

    if (from == to)
        return;
    if (e->cutting && from < e->at) { /* backwards: it stood before what was cut last */
        buf_add(&joined, e->line.p + from, to - from);
        buf_str(&joined, str_in(&e->cut));
    } else {
        if (e->cutting)
            buf_str(&joined, str_in(&e->cut));
        buf_add(&joined, e->line.p + from, to - from);
    }
    buf_free(&e->cut);
    e->cut = joined;
    e->cutting = true;
    delete(e, from, to);
}

/* Letters and digits make a word; so does what is not ASCII. */
static bool
is_word(const struct edit *e, size_t at)
{
    unsigned char c = (unsigned char)e->line.p[at];

    return c >= 0x80 || (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
}

static size_t
word_after(const struct edit *e, size_t at)
{
    while (at < e->line.len && !is_word(e, at))
        at = next_of(e, at);
    while (at < e->line.len && is_word(e, at))
        at = next_of(e, at);
    return at;
}

static size_t
word_before(const struct edit *e, size_t at)
{
    while (at > 0 && !is_word(e, previous_of(e, at)))
        at = previous_of(e, at);
    while (at > 0 && is_word(e, previous_of(e, at)))
        at = previous_of(e, at);
    return at;
}

/* Where the blank-separated word before the cursor begins: Ctrl-W. */
static size_t
blank_before(const struct edit *e, size_t at)
{
    while (at > 0 && e->line.p[at - 1] == ' ')
        at--;
    while (at > 0 && e->line.p[at - 1] != ' ')
        at = previous_of(e, at);
    return at;
}

/* Swap the characters before and at the cursor: Ctrl-T. */
static void
transpose(struct edit *e)
{
    char held[64];
    size_t middle = e->at < e->line.len ? e->at : previous_of(e, e->at);
    size_t from = previous_of(e, middle), to = next_of(e, middle), n = middle - from;

    if (middle == 0 || middle == to || n > sizeof held) {
        bell(e);
        return;
    }
    memcpy(held, e->line.p + from, n);
    memmove(e->line.p + from, e->line.p + middle, to - middle);
    memcpy(e->line.p + from + (to - middle), held, n);
    e->at = to;
}

void
edit_clear(struct edit *e)
{
    edit_hide(e);
    e->line.len = e->at = 0;
    e->old_at = e->old_n;
    e->searching = e->cutting = e->tabbed = false;
}

/* --- history ---------------------------------------------------------------------------------- */

static void
history_add(struct edit *e, struct str line)
{
    if (e->old == NULL)
        e->old = xcalloc(EDIT_HISTORY, sizeof *e->old);
    if (e->old_n > 0 && str_eq(str_of(e->old[e->old_n - 1]), line))
        return;
    if (e->old_n == EDIT_HISTORY) {
        free(e->old[0]);
        memmove(e->old, e->old + 1, (EDIT_HISTORY - 1) * sizeof *e->old);
        e->old_n--;
    }
    e->old[e->old_n++] = xstrndup(line.p, line.n);
}

/* A line feed is kept as \n, a backslash doubled. */
static void
history_line(struct buf *out, struct str line)
{
    for (size_t i = 0; i < line.n; i++) {
        if (line.p[i] == '\n')
            buf_lit(out, "\\n");
        else if (line.p[i] == '\\')
            buf_lit(out, "\\\\");
        else
            buf_add(out, &line.p[i], 1);
    }
    buf_lit(out, "\n");
}

void
edit_remember(struct edit *e, struct str line)
{
    struct buf text = {0};

    if (line.n == 0 || line.n > MAX_REMEMBERED || line.p[0] == ' ' ||
        memchr(line.p, '\0', line.n) != NULL)
        return;
    history_add(e, line);
    e->old_at = e->old_n;
    if (e->file < 0)
        return;
    history_line(&text, line);
    /* One write at the end of the file: what others append at the same time stays whole. A history
     * that cannot be kept is no reason to stop talking. */
    if (write(e->file, text.p, text.len) != (ssize_t)text.len) {
        close(e->file);
        e->file = -1;
    }
    buf_free(&text);
}

/* Lines of the file; anything that could not be typed is replaced, since it will be drawn. */
static void
history_take(struct edit *e, struct str text)
{
    struct str line;
    struct buf plain = {0};

    while (str_split(&text, '\n', &line)) {
        plain.len = 0;
        while (line.n > 0) {
            uint32_t c;
            size_t n = term_char(line, &c);
            bool escape = line.n > 1 && line.p[0] == '\\';
            if (escape)
                buf_add(&plain, line.p[1] == 'n' ? "\n" : &line.p[1], 1);
            else if (c == TERM_BAD || c < 0x20 || (c >= 0x7f && c < 0xa0))
                buf_lit(&plain, "?");
            else
                buf_add(&plain, line.p, n);
            n = escape ? 2 : n == 0 ? 1 : n;
            line.p += n;
            line.n -= n;
        }
        if (plain.len > 0 && plain.len <= MAX_REMEMBERED)
            history_add(e, str_in(&plain));
    }
    buf_free(&plain);
}

/* The file has grown to twice what is remembered: written anew beside it and put in its place. */
static int
history_shrink(struct edit *e, const char *path)
{
    struct buf name = {0}, text = {0};
    int fd, status = -1;

    buf_printf(&name, "%s.%ld", path, (long)getpid());
    buf_lit(&name, "\0");
    for (size_t i = 0; i < e->old_n; i++)
        history_line(&text, str_of(e->old[i]));
    fd = open(name.p, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_APPEND | O_CLOEXEC, 0600);
    if (fd >= 0) {
        if (write(fd, text.p, text.len) == (ssize_t)text.len && rename(name.p, path) == 0) {
            close(e->file);
            e->file = fd;
            status = 0;
        } else {
            close(fd);
            unlink(name.p);
        }
    }
    buf_free(&name);
    buf_free(&text);
    return status;
}

int
edit_open(struct edit *e, const char *path)
{
    struct buf text = {0};
    struct stat st;
    size_t lines = 0;
    ssize_t n;
    int fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);

    if (fd < 0)
        return -1;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || fchmod(fd, 0600) != 0) {
        int error = S_ISREG(st.st_mode) ? errno : EINVAL;
        close(fd);
        errno = error;
        return -1;
    }
    off_t from = st.st_size > (off_t)MAX_HISTORY_FILE ? st.st_size - (off_t)MAX_HISTORY_FILE : 0;
    if (lseek(fd, from, SEEK_SET) == from) {
        do {
            buf_reserve(&text, 65536);
            n = read(fd, text.p + text.len, 65536);
            text.len += n > 0 ? (size_t)n : 0;
        } while (n > 0 && text.len < MAX_HISTORY_FILE + 65536);
    }
    for (size_t i = 0; i < text.len; i++)
        lines += text.p[i] == '\n';
    e->file = fd;
    history_take(e, str_in(&text));
    e->old_at = e->old_n;
    buf_free(&text);
    if (from > 0 || lines > (size_t)2 * EDIT_HISTORY)
        history_shrink(e, path);
    return 0;
}

/* Show the history's line `to`; old_n is the one being typed. */
static void
history_go(struct edit *e, size_t to)
{
    if (e->old_at == e->old_n)
        set_text(&e->typed, e->line.p, e->line.len);
    struct str s = to == e->old_n ? str_in(&e->typed) : str_of(e->old[to]);
    set_text(&e->line, s.p, s.n);
    e->at = e->line.len;
    e->old_at = to;
}

static bool
holds(const char *text, struct str part)
{
    size_t n = strlen(text);

    for (size_t i = 0; i + part.n <= n; i++)
        if (memcmp(text + i, part.p, part.n) == 0)
            return true;
    return false;
}

/* The newest line before `before` that holds the query. */
static void
search(struct edit *e, size_t before)
{
    struct str query = str_in(&e->query);

    for (size_t i = before; i > 0 && query.n > 0; i--) {
        if (holds(e->old[i - 1], query)) {
            e->found = i;
            return;
        }
    }
    bell(e);
}

/* Leave the search; the line found becomes the line. */
static void
search_end(struct edit *e, bool take)
{
    e->searching = false;
    if (take && e->found > 0)
        history_go(e, e->found - 1);
}

/* A key while searching; false: it ends the search and is then to be done as always. */
static bool
search_key(struct edit *e, unsigned char c)
{
    if (c == 0x12) { /* Ctrl-R: the next older one */
        search(e, e->found > 0 ? e->found - 1 : e->old_n);
    } else if (c == 0x08 || c == 0x7f) {
        while (e->query.len > 0 && ((unsigned char)e->query.p[--e->query.len] & 0xc0) == 0x80)
            ;
        e->found = 0;
        if (e->query.len > 0)
            search(e, e->old_n);
    } else if (c == 0x07 || c == 0x03) { /* Ctrl-G, Ctrl-C: as before */
        search_end(e, false);
    } else {
        search_end(e, true);
        return false;
    }
    return true;
}

/* --- completion ------------------------------------------------------------------------------- */

/* Bytes that all words have in common at the front, cut to whole characters. */
static size_t
words_common(const struct edit_words *w)
{
    const char *first = w->word[0], *last = w->word[w->n - 1]; /* sorted: these differ most */
    size_t n = 0;

    while (first[n] != '\0' && first[n] == last[n])
        n++;
    while (n > 0 && ((unsigned char)first[n] & 0xc0) == 0x80)
        n--;
    return n;
}

/* In columns, above the line. */
static void
words_list(struct edit *e, const struct edit_words *w)
{
    size_t widest = 0, column = 0, shown = w->n < MAX_SHOWN ? w->n : MAX_SHOWN;
    struct buf text = {0}, word = {0};

    for (size_t i = 0; i < shown; i++) {
        size_t columns = term_columns(str_of(w->word[i]));
        widest = columns > widest ? columns : widest;
    }
    for (size_t i = 0; i < shown; i++) {
        word.len = 0;
        term_show(&word, str_of(w->word[i]), NULL);
        size_t columns = term_columns(str_in(&word));
        if (column > 0 && column + widest > (size_t)e->columns) {
            buf_lit(&text, "\n");
            column = 0;
        }
        buf_str(&text, str_in(&word));
        for (column += columns; columns < widest + 2; columns++, column++)
            buf_lit(&text, " ");
    }
    buf_lit(&text, "\n");
    if (shown < w->n)
        buf_printf(&text, "and %zu more\n", w->n - shown);
    edit_print(e, str_in(&text));
    buf_free(&word);
    buf_free(&text);
}

static void
complete(struct edit *e)
{
    struct edit_words w = {0};
    size_t from = 0, unique = 0;
    bool again = e->tabbed;

    e->tabbed = false;
    if (e->complete != NULL)
        from = e->complete(e->arg, (struct str){e->line.p, e->at}, &w);
    if (w.n == 0 || from > e->at) {
        bell(e);
        edit_words_free(&w);
        return;
    }
    qsort(w.word, w.n, sizeof *w.word, edit_words_order);
    for (size_t i = 0; i < w.n; i++) { /* the same word twice is one */
        if (i > 0 && strcmp(w.word[i], w.word[unique - 1]) == 0)
            free(w.word[i]);
        else
            w.word[unique++] = w.word[i];
    }
    w.n = unique;
    size_t common = words_common(&w);
    if (common > e->at - from || w.n == 1) {
        delete(e, from, e->at);
        insert(e, w.word[0], common);
        if (w.n == 1 && (e->at == e->line.len || e->line.p[e->at] != ' '))
            insert(e, " ", 1);
    } else if (again) {
        words_list(e, &w);
        e->tabbed = true;
    } else {
        bell(e);
        e->tabbed = true;
    }
    edit_words_free(&w);
}

/* --- drawing ---------------------------------------------------------------------------------- */

struct place {
    int row, column;
};

/* Append what is drawn for the character at the front of s (marks that follow included) at *p, and
 * move *p on. Rows before `first` and from `last` on are only counted. */
static size_t
draw_char(const struct edit *e, struct str s, struct place *p, int first, int last, struct buf *out)
{
    uint32_t c;
    size_t n = term_char(s, &c);
    int width = c == '\n' ? 1 : c == TERM_BAD ? 1 : term_width(c);

    n += n == 0;
    if (p->column + width > e->columns) {
        p->row++;
        p->column = 0;
        if (p->row > first && p->row < last)
            buf_lit(out, "\r\n");
    }
    if (p->row >= first && p->row < last) {
        if (c == '\n')
            buf_str(out, STR("\xe2\x86\xb5")); /* U+21B5 */
        else if (c == TERM_BAD || c < 0x20)
            buf_lit(out, " ");
        else
            buf_add(out, s.p, n);
    }
    p->column += width;
    return n;
}

/* Draw s from *p on; *cursor: where the byte `at` of it stands (SIZE_MAX: not in here). */
static void
draw_text(const struct edit *e, struct str s, size_t at, struct place *p, struct place *cursor,
          int first, int last, struct buf *out)
{
    size_t i = 0;

    while (i < s.n) {
        struct place before = *p;
        size_t n = draw_char(e, (struct str){s.p + i, s.n - i}, p, first, last, out);
        if (i == at) /* where it was drawn: perhaps not where the one before ended */
            *cursor = p->row > before.row ? (struct place){p->row, 0} : before;
        i += n;
    }
    if (at == s.n)
        *cursor = *p;
}

static void
draw(struct edit *e)
{
    struct buf lead = {0}, text = {0};
    struct place p = {0}, cursor = {0};
    struct str line = str_in(&e->line);
    size_t at = e->at;

    if (e->searching) {
        buf_lit(&lead, "(search) ");
        buf_str(&lead, str_in(&e->query));
        at = SIZE_MAX;
        line = e->found > 0 ? str_of(e->old[e->found - 1]) : (struct str){0};
    } else {
        buf_str(&lead, str_in(&e->prompt));
    }
    /* Once to count the rows, and once to draw those that fit on the screen around the cursor. */
    int first = 0, last = INT32_MAX, most = e->rows > 1 ? e->rows - 1 : 1;
    for (int pass = 0; pass < 2; pass++) {
        p = (struct place){0};
        text.len = 0;
        draw_text(e, str_in(&lead), e->searching ? lead.len : SIZE_MAX, &p, &cursor, first, last,
                  &text);
        if (e->searching && line.n > 0)
            draw_text(e, STR(" : "), SIZE_MAX, &p, &cursor, first, last, &text);
        draw_text(e, line, at, &p, &cursor, first, last, &text);
        if (cursor.column >= e->columns)
            cursor = (struct place){cursor.row + 1, 0};
        if (pass == 0 && p.row >= most) {
            first = cursor.row >= most ? cursor.row - most + 1 : 0;
            last = first + most;
        }
    }
    if (cursor.row > p.row && cursor.row < last) { /* behind a row that is full */
        buf_lit(&text, "\r\n");
        p = cursor;
    }
    e->end_row = (p.row < last ? p.row : last - 1) - first;
    e->end_column = p.row < last ? p.column : e->columns;
    e->row = cursor.row - first;
    buf_str(&e->out, str_in(&text));
    if (e->end_row > e->row)
        buf_printf(&e->out, "\x1b[%dA", e->end_row - e->row);
    if (e->end_row != e->row || e->end_column != cursor.column) {
        buf_lit(&e->out, "\r");
        if (cursor.column > 0)
            buf_printf(&e->out, "\x1b[%dC", cursor.column);
    }
    e->drawn = true;
    buf_free(&lead);
    buf_free(&text);
}

void
edit_hide(struct edit *e)
{
    if (!e->drawn)
        return;
    if (e->row > 0)
        buf_printf(&e->out, "\x1b[%dA", e->row);
    buf_lit(&e->out, "\r\x1b[J");
    e->drawn = false;
}

void
edit_print(struct edit *e, struct str text)
{
    struct str line;

    edit_hide(e);
    while (text.n > 0 && str_split(&text, '\n', &line)) {
        buf_str(&e->out, line);
        buf_lit(&e->out, "\r\n");
    }
}

struct buf *
edit_output(struct edit *e)
{
    if (!e->drawn)
        draw(e);
    return &e->out;
}

struct buf *
edit_pending(struct edit *e)
{
    return &e->out;
}

void
edit_size(struct edit *e, int columns, int rows)
{
    /* A terminal may have wrapped the rows drawn anew, or not: nobody can tell. Going up by the
     * rows as they were never wipes a message off; at worst a piece of the old line stays. */
    edit_hide(e);
    e->columns = columns > 1 ? columns : 80;
    e->rows = rows > 0 ? rows : 24;
}

void
edit_prompt(struct edit *e, struct str prompt)
{
    if (str_eq(str_in(&e->prompt), prompt))
        return;
    edit_hide(e);
    set_text(&e->prompt, prompt.p, prompt.n);
}

/* The line is finished: it stays on the screen as it is, and what follows goes below it. */
static void
leave(struct edit *e, const char *mark)
{
    if (!e->drawn)
        draw(e);
    if (e->end_row > e->row)
        buf_printf(&e->out, "\x1b[%dB", e->end_row - e->row);
    buf_printf(&e->out, "%s\r\n", mark);
    e->drawn = false;
}

/* --- keys ------------------------------------------------------------------------------------- */

static void
move(struct edit *e, size_t to)
{
    e->at = to;
}

/* A character to be put in; the usual case, at the end of the line, is drawn by itself. */
static void
put_char(struct edit *e, const char *p, size_t n, uint32_t c)
{
    bool simple = e->drawn && !e->searching && e->at == e->line.len && term_width(c) == 1 &&
                  c >= 0x20 && e->row == e->end_row && e->end_column + 1 < e->columns;

    if (e->searching) {
        if (e->query.len < MAX_REMEMBERED)
            buf_add(&e->query, p, n);
        search(e, e->found > 0 ? e->found : e->old_n);
        edit_hide(e);
        return;
    }
    if (!simple)
        edit_hide(e);
    size_t before = e->line.len;
    insert(e, p, n);
    if (simple && e->line.len > before) {
        buf_add(&e->out, p, n);
        e->end_column++;
    }
}

/* An escape sequence is complete: its parameters and final byte. */
static void
do_sequence(struct edit *e, const char *key, size_t n)
{
    static const struct {
        const char *keys; /* separated by blanks; without ESC [ or ESC O */
        char c;           /* the control character that does the same; or a letter: Alt with it */
    } same[] = {
        {"A OA", 0x10}, {"B OB", 0x0e}, {"C OC", 0x06}, {"D OD", 0x02}, {"H OH 1~ 7~", 0x01},
        {"F OF 4~ 8~", 0x05}, {"3~", 'x'}, {"1;5C 1;3C 5C Oc", 'f'}, {"1;5D 1;3D 5D Od", 'b'},
        {"200~", '('}, {"201~", ')'}, {"3;5~ 3;3~", 'd'},
    };
    struct str want = {key, n};
    char c = 0;

    for (size_t i = 0; i < sizeof same / sizeof same[0] && c == 0; i++) {
        struct str rest = str_of(same[i].keys), one;
        while (str_split(&rest, ' ', &one))
            if (str_eq(one, want))
                c = same[i].c;
    }
    edit_hide(e);
    if (e->pasting && c != ')')
        return;
    bool cutting = e->cutting;
    e->cutting = false;
    switch (c) {
    case 0x01: move(e, 0); break;
    case 0x05: move(e, e->line.len); break;
    case 0x02: move(e, previous_of(e, e->at)); break;
    case 0x06: move(e, next_of(e, e->at)); break;
    case 0x10: e->old_at > 0 ? history_go(e, e->old_at - 1) : bell(e); break;
    case 0x0e: e->old_at < e->old_n ? history_go(e, e->old_at + 1) : bell(e); break;
    case 'b': move(e, word_before(e, e->at)); break;
    case 'f': move(e, word_after(e, e->at)); break;
    case 'x': delete(e, e->at, next_of(e, e->at)); break;
    case 'd':
        e->cutting = cutting;
        cut(e, e->at, word_after(e, e->at));
        break;
    case '(': e->pasting = true; break;
    case ')': e->pasting = false; break;
    default: break; /* a key that means nothing here */
    }
}

/* A key that edits; returns true when it was one. `cutting`: the key before it cut. */
static bool
do_edit(struct edit *e, unsigned char c, bool cutting)
{
    switch (c) {
    case 0x01: move(e, 0); break;
    case 0x02: move(e, previous_of(e, e->at)); break;
    case 0x05: move(e, e->line.len); break;
    case 0x06: move(e, next_of(e, e->at)); break;
    case 0x04: delete(e, e->at, next_of(e, e->at)); break;
    case 0x08:
    case 0x7f: {
        size_t to = e->at;
        delete(e, previous_of(e, to), to);
        break;
    }
    case 0x0b:
        e->cutting = cutting;
        cut(e, e->at, e->line.len);
        break;
    case 0x15:
        e->cutting = cutting;
        cut(e, 0, e->at);
        break;
    case 0x17:
        e->cutting = cutting;
        cut(e, blank_before(e, e->at), e->at);
        break;
    case 0x19: insert(e, e->cut.p, e->cut.len); break;
    case 0x14: transpose(e); break;
    case 0x10: e->old_at > 0 ? history_go(e, e->old_at - 1) : bell(e); break;
    case 0x0e: e->old_at < e->old_n ? history_go(e, e->old_at + 1) : bell(e); break;
    default: return false;
    }
    return true;
}

/* Any other control character. */
static enum edit_event
do_control(struct edit *e, unsigned char c)
{
    switch (c) {
    case '\r':
    case '\n':
        if (e->vanishes)
            edit_hide(e);
        else
            leave(e, "");
        set_text(&e->done, e->line.p, e->line.len);
        edit_clear(e);
        return EDIT_LINE;
    case '\t':
        complete(e);
        return EDIT_MORE;
    case 0x03:
        leave(e, "^C");
        edit_clear(e);
        return EDIT_INTERRUPT;
    case 0x0c: /* Ctrl-L */
        edit_hide(e);
        buf_lit(&e->out, "\x1b[H\x1b[2J");
        return EDIT_MORE;
    case 0x12: /* Ctrl-R */
        e->searching = true;
        e->query.len = e->found = 0;
        return EDIT_MORE;
    case 0x1a:
        return EDIT_SUSPEND;
    default:
        bell(e);
        return EDIT_MORE;
    }
}

static enum edit_event
do_key(struct edit *e, unsigned char c)
{
    bool cutting = e->cutting, tabbed = e->tabbed;

    if (c == 0x1b) {
        if (e->searching)
            search_end(e, true);
        e->state = STATE_ESC;
        return EDIT_MORE;
    }
    if (e->pasting) { /* no key: text. Of controls, line feeds and tabs are kept */
        bool doubled = c == '\n' && e->after_return;
        e->after_return = c == '\r';
        if ((c == '\r' || c == '\n') && !doubled)
            put_char(e, "\n", 1, '\n');
        else if (c == '\t')
            put_char(e, "\t", 1, '\t');
        return EDIT_MORE;
    }
    edit_hide(e);
    if (e->searching && search_key(e, c))
        return EDIT_MORE;
    if (c == 0x04 && e->line.len == 0)
        return EDIT_END;
    e->cutting = false;
    e->tabbed = c == '\t' && tabbed;
    return do_edit(e, c, cutting) ? EDIT_MORE : do_control(e, c);
}

/* A byte of an escape sequence. */
static void
take_escape(struct edit *e, unsigned char c)
{
    char name[MAX_KEY + 1] = "O";

    if (e->state == STATE_ESC) {
        e->key_n = 0;
        e->state = c == '[' ? STATE_CSI : c == 'O' ? STATE_SS3 : STATE_TEXT;
        if (c == 'b' || c == 'B')
            do_sequence(e, "1;5D", 4);
        else if (c == 'f' || c == 'F')
            do_sequence(e, "1;5C", 4);
        else if (c == 'd' || c == 'D')
            do_sequence(e, "3;5~", 4);
        else if ((c == 0x7f || c == 0x08) && !e->pasting) {
            edit_hide(e);
            cut(e, word_before(e, e->at), e->at);
        } else if (c == 0x1b) {
            e->state = STATE_ESC;
        }
        return;
    }
    if (c < 0x20 || c > 0x7e) { /* no sequence holds such: it is over */
        e->state = STATE_TEXT;
        return;
    }
    if (e->key_n < MAX_KEY)
        e->key[e->key_n++] = (char)c;
    if (c < 0x40) /* a parameter (ECMA-48 section 5.4) */
        return;
    bool ss3 = e->state == STATE_SS3;
    size_t n = e->key_n;
    e->state = STATE_TEXT;
    e->key_n = 0;
    memcpy(name + ss3, e->key, n - (n == MAX_KEY && ss3));
    do_sequence(e, name, n + ss3);
}

/* A byte of text from 0x80 on, or what should have been one. */
static void
take_text(struct edit *e, unsigned char byte)
{
    uint32_t c;
    size_t n;

    e->key[e->key_n++] = (char)byte;
    while (e->key_n > 0) {
        n = term_char((struct str){e->key, e->key_n}, &c);
        if (n == 0)
            return;
        if (c == TERM_BAD || (c >= 0x80 && c < 0xa0))
            put_char(e, "\xef\xbf\xbd", 3, 0xfffd);
        else
            put_char(e, e->key, n, c);
        e->key_n -= n;
        memmove(e->key, e->key + n, e->key_n);
    }
}

size_t
edit_feed(struct edit *e, const char *p, size_t n, enum edit_event *event)
{
    *event = EDIT_MORE;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)p[i];
        if (e->state != STATE_TEXT) {
            take_escape(e, c);
            continue;
        }
        if ((c >= 0x20 && c < 0x7f) || c >= 0x80 || e->key_n > 0) {
            e->cutting = e->tabbed = e->after_return = false;
            if (c >= 0x80 || (c >= 0x20 && c != 0x7f)) {
                take_text(e, c);
                continue;
            }
            e->key_n = 0; /* a key within a character: that one is lost */
        }
        *event = do_key(e, c);
        if (*event != EDIT_MORE)
            return i + 1;
    }
    return n;
}

void
edit_vanish(struct edit *e)
{
    e->vanishes = true;
}

struct str
edit_line(const struct edit *e)
{
    return str_in(&e->done);
}

struct edit *
edit_new(edit_complete *fn, void *arg)
{
    struct edit *e = xcalloc(1, sizeof *e);

    e->complete = fn;
    e->arg = arg;
    e->columns = 80;
    e->rows = 24;
    e->file = -1;
    return e;
}

void
edit_free(struct edit *e)
{
    if (e == NULL)
        return;
    for (size_t i = 0; i < e->old_n; i++)
        free(e->old[i]);
    free(e->old);
    buf_free(&e->line);
    buf_free(&e->done);
    buf_free(&e->cut);
    buf_free(&e->prompt);
    buf_free(&e->typed);
    buf_free(&e->query);
    buf_free(&e->out);
    if (e->file >= 0)
        close(e->file);
    free(e);
}
