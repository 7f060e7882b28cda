/* SPDX-License-Identifier: MIT */
/*
 * test_edit.c - the line editor of jim-cli, byte by byte: keys go in, and what comes out is read as
 * on a terminal (screen.c). And what term.c lets through to one.
 */
#include "../cli.h"
#include "screen.h"

#include <sys/stat.h>
#include <unistd.h>

struct typist {
    struct edit *edit;
    struct screen screen;
    enum edit_event event; /* the last that was not EDIT_MORE */
    char line[4096];       /* of the last EDIT_LINE */
};

static void
look(struct typist *t)
{
    struct buf *out = edit_output(t->edit);

    screen_take(&t->screen, out->p, out->len);
    out->len = 0;
}

static void
start(struct typist *t, int columns, int rows, edit_complete *complete)
{
    memset(t, 0, sizeof *t);
    screen_init(&t->screen, columns, rows);
    t->edit = edit_new(complete, NULL);
    edit_size(t->edit, columns, rows);
    edit_prompt(t->edit, STR("> "));
    look(t);
}

static void
end(struct typist *t)
{
    edit_free(t->edit);
    screen_free(&t->screen);
}

/* Type; one byte at a time when `piece` is 1. */
static void
type_pieces(struct typist *t, const char *keys, size_t n, size_t piece)
{
    enum edit_event event;

    while (n > 0) {
        size_t taken = edit_feed(t->edit, keys, n < piece ? n : piece, &event);
        CHECK(taken > 0 && taken <= n);
        keys += taken;
        n -= taken;
        if (event == EDIT_LINE) {
            struct str line = edit_line(t->edit);
            CHECK(line.n < sizeof t->line);
            memcpy(t->line, line.p, line.n);
            t->line[line.n] = '\0';
            edit_remember(t->edit, line);
        }
        if (event != EDIT_MORE)
            t->event = event;
        look(t);
    }
}

static void
type(struct typist *t, const char *keys)
{
    type_pieces(t, keys, strlen(keys), SIZE_MAX);
}

#define CHECK_ROW(t, row, want) CHECK_STR(str_of(screen_row(&(t)->screen, (row))), want)
#define CHECK_LINE(t, want) CHECK_STR(str_of((t)->line), want)
#define CHECK_CURSOR(t, r, c) (CHECK_INT((t)->screen.row, r), CHECK_INT((t)->screen.column, c))

TEST(edit_types)
{
    struct typist t;

    start(&t, 40, 10, NULL);
    type(&t, "hello");
    CHECK_ROW(&t, 0, "> hello");
    CHECK_CURSOR(&t, 0, 7);
    type(&t, "\r");
    CHECK_INT(t.event, EDIT_LINE);
    CHECK_LINE(&t, "hello");
    CHECK_ROW(&t, 0, "> hello");
    CHECK_ROW(&t, 1, ">");
    CHECK_CURSOR(&t, 1, 2);
    end(&t);
}

/* A key and what it makes of "one two three" with the cursor behind "two". */
TEST(edit_keys)
{
    static const struct {
        const char *keys, *line;
    } rows[] = {
        {"X", "one twoX three"},
        {"\x01X", "Xone two three"},
        {"\x1b[HX", "Xone two three"},
        {"\x1bOHX", "Xone two three"},
        {"\x1b[1~X", "Xone two three"},
        {"\x05X", "one two threeX"},
        {"\x1b[FX", "one two threeX"},
        {"\x1b[4~X", "one two threeX"},
        {"\x02X", "one twXo three"},
        {"\x1b[DX", "one twXo three"},
        {"\x1bODX", "one twXo three"},
        {"\x06X", "one two Xthree"},
        {"\x1b[CX", "one two Xthree"},
        {"\x1b" "bX", "one Xtwo three"},
        {"\x1b[1;5DX", "one Xtwo three"},
        {"\x1b" "fX", "one two threeX"},
        {"\x1b[1;5CX", "one two threeX"},
        {"\x7f", "one tw three"},
        {"\x08", "one tw three"},
        {"\x04", "one twothree"},
        {"\x1b[3~", "one twothree"},
        {"\x0b", "one two"},
        {"\x15", " three"},
        {"\x17", "one  three"},
        {"\x1b" "d", "one two"},
        {"\x1b\x7f", "one  three"},
        {"\x0b\x01\x19", " threeone two"},
        {"\x17\x17\x05\x19", " threeone two"}, /* two cuts, put back as one */
        {"\x01\x1b" "d\x1b" "d\x05\x19", " threeone two"},
        {"\x17X\x19", "one Xtwo three"},
        {"\x14", "one tw othree"},
        {"\x05X\x14", "one two threXe"}, /* at the end: the last two */
        {"\x1b[99;99zX", "one twoX three"}, /* a key nobody knows */
        {"\x1b[<0;1;1MX", "one twoX three"},
        {"\x1b\x1b[DX", "one twXo three"},
        {"\x02\x02\x02\x02\x02\x02\x02\x02\x02X", "Xone two three"},
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        for (size_t piece = 1; piece < 3; piece++) {
            struct typist t;
            char want[64];
            start(&t, 40, 10, NULL);
            type(&t, "one two three\x1b[D\x1b[D\x1b[D\x1b[D\x1b[D\x1b[D");
            type_pieces(&t, rows[i].keys, strlen(rows[i].keys), piece == 1 ? 1 : SIZE_MAX);
            snprintf(want, sizeof want, "> %s", rows[i].line);
            CHECK_ROW(&t, 0, want);
            end(&t);
        }
    }
}

TEST(edit_end_interrupt_suspend)
{
    struct typist t;

    start(&t, 40, 10, NULL);
    type(&t, "abc\x03");
    CHECK_INT(t.event, EDIT_INTERRUPT);
    CHECK_ROW(&t, 0, "> abc^C");
    CHECK_ROW(&t, 1, ">");
    type(&t, "x\x1a");
    CHECK_INT(t.event, EDIT_SUSPEND);
    type(&t, "\x02\x04\x04");
    CHECK_INT(t.event, EDIT_END);
    end(&t);
}

/* Wide characters: two columns, and none is cut in two at the edge. */
TEST(edit_wide)
{
    struct typist t;

    start(&t, 9, 10, NULL);
    type(&t, "你好世界");
    CHECK_ROW(&t, 0, "> 你好世");
    CHECK_ROW(&t, 1, "界");
    CHECK_CURSOR(&t, 1, 2);
    type(&t, "\x1b[D\x1b[D");
    CHECK_CURSOR(&t, 0, 6);
    type(&t, "x");
    CHECK_ROW(&t, 0, "> 你好x世");
    CHECK_CURSOR(&t, 0, 7);
    type(&t, "\x7f\x7f");
    CHECK_ROW(&t, 0, "> 你世界");
    CHECK_ROW(&t, 1, "");
    type(&t, "\r");
    CHECK_LINE(&t, "你世界");
    end(&t);
}

/* A character and its marks go together; an emoji is wide. */
TEST(edit_marks)
{
    struct typist t;

    start(&t, 40, 10, NULL);
    type(&t, "ae\xcc\x81z😀!");
    CHECK_ROW(&t, 0, "> ae\xcc\x81z😀!");
    CHECK_CURSOR(&t, 0, 8);
    type(&t, "\x1b[D\x1b[D\x1b[D");
    CHECK_CURSOR(&t, 0, 4);
    type(&t, "\x7f\r");
    CHECK_LINE(&t, "az😀!");
    end(&t);
}

TEST(edit_broken_utf8)
{
    struct typist t;

    start(&t, 40, 10, NULL);
    type_pieces(&t, "a\xe4\xbd", 3, 1); /* the third byte is still to come */
    CHECK_ROW(&t, 0, "> a");
    type_pieces(&t, "\xa0\xff" "b\xc0\xafz\xe4\xbd" "c\r", 10, 1);
    CHECK_LINE(&t, "a你\xef\xbf\xbd" "b\xef\xbf\xbd\xef\xbf\xbdz\xef\xbf\xbd\xef\xbf\xbd" "c");
    end(&t);
}

/* A line of several rows: the cursor in each of them, and rows given up again. */
TEST(edit_rows)
{
    struct typist t;

    start(&t, 10, 10, NULL);
    type(&t, "abcdefgh");
    CHECK_ROW(&t, 0, "> abcdefgh");
    CHECK_CURSOR(&t, 1, 0); /* the row is full: the cursor stands on the next */
    type(&t, "ijklmnopqrst");
    CHECK_ROW(&t, 1, "ijklmnopqr");
    CHECK_ROW(&t, 2, "st");
    type(&t, "\x01");
    CHECK_CURSOR(&t, 0, 2);
    type(&t, "X");
    CHECK_ROW(&t, 0, "> Xabcdefg");
    CHECK_ROW(&t, 1, "hijklmnopq");
    CHECK_ROW(&t, 2, "rst");
    CHECK_CURSOR(&t, 0, 3);
    type(&t, "\x05\x15");
    CHECK_ROW(&t, 0, ">");
    CHECK_ROW(&t, 1, "");
    CHECK_ROW(&t, 2, "");
    CHECK_CURSOR(&t, 0, 2);
    end(&t);
}

/* A line taller than the screen: the rows around the cursor are what is seen. */
TEST(edit_taller_than_the_screen)
{
    struct typist t;

    start(&t, 10, 4, NULL);
    for (int i = 0; i < 8; i++)
        type(&t, "0123456789");
    type(&t, "end");
    CHECK_ROW(&t, t.screen.row, "89end");
    type(&t, "\x01");
    CHECK_ROW(&t, t.screen.row, "> 01234567");
    type(&t, "Z\x05!");
    CHECK_ROW(&t, t.screen.row, "789end!");
    end(&t);
}

/* What comes in meanwhile stands above the line, which is as it was. */
TEST(edit_prints_above)
{
    struct typist t;

    start(&t, 12, 8, NULL);
    type(&t, "a long line of mine\x1b[D\x1b[D");
    edit_print(t.edit, STR("bob: hi\nbob: there\n"));
    look(&t);
    CHECK_ROW(&t, 0, "bob: hi");
    CHECK_ROW(&t, 1, "bob: there");
    CHECK_ROW(&t, 2, "> a long lin");
    CHECK_ROW(&t, 3, "e of mine");
    CHECK_CURSOR(&t, 3, 7);
    type(&t, "X");
    CHECK_ROW(&t, 3, "e of miXne");
    for (int i = 0; i < 20; i++)
        edit_print(t.edit, STR("more\n"));
    look(&t);
    char *text = screen_text(&t.screen);
    int lines = 0;
    for (const char *p = text; (p = strstr(p, "more\n")) != NULL; p++)
        lines++;
    CHECK_INT(lines, 20);
    CHECK(strstr(text, "more\n> a long lin\ne of miXne\n") != NULL);
    CHECK(strstr(text, "> a") == strrchr(text, '>'));
    free(text);
    end(&t);
}

TEST(edit_resize)
{
    struct typist t;

    start(&t, 30, 8, NULL);
    type(&t, "a line of text, this is");
    t.screen.columns = 20;
    edit_size(t.edit, 20, 8);
    look(&t);
    CHECK_ROW(&t, 0, "> a line of text, th");
    CHECK_ROW(&t, 1, "is is");
    t.screen.columns = 40;
    edit_size(t.edit, 40, 8);
    look(&t);
    CHECK_ROW(&t, 0, "> a line of text, this is");
    CHECK_ROW(&t, 1, "");
    end(&t);
}

TEST(edit_history)
{
    struct typist t;

    start(&t, 40, 20, NULL);
    type(&t, "first\rsecond\rsecond\r not kept\rmine");
    type(&t, "\x1b[A");
    CHECK_ROW(&t, 4, "> second");
    type(&t, "\x10");
    CHECK_ROW(&t, 4, "> first");
    int bells = t.screen.bells;
    type(&t, "\x1b[A");
    CHECK_INT(t.screen.bells, bells + 1);
    type(&t, "\x1b[B\x0e");
    CHECK_ROW(&t, 4, "> mine");
    type(&t, "\x1b[A!\r");
    CHECK_LINE(&t, "second!");
    end(&t);
}

TEST(edit_search)
{
    struct typist t;

    start(&t, 60, 20, NULL);
    type(&t, "apple pie\rbanana\rapple tart\rcherry\r");
    type(&t, "\x12" "app");
    CHECK_ROW(&t, 4, "(search) app : apple tart");
    type(&t, "\x12");
    CHECK_ROW(&t, 4, "(search) app : apple pie");
    type(&t, "\x07");
    CHECK_ROW(&t, 4, ">");
    type(&t, "\x12" "appx\x7f\x12\x05!\r");
    CHECK_LINE(&t, "apple pie!");
    type(&t, "\x12" "nana\r");
    CHECK_LINE(&t, "banana");
    end(&t);
}

/* Kept in a file: private, bounded, line feeds and backslashes whole, shared by two at a time. */
TEST(edit_history_file)
{
    struct typist t, u;
    struct stat st;

    start(&t, 40, 20, NULL);
    start(&u, 40, 20, NULL);
    CHECK_INT(edit_open(t.edit, "history"), 0);
    CHECK_INT(edit_open(u.edit, "history"), 0);
    type(&t, "one\r");
    type(&u, "back\\slash\\n\r");
    type(&t, "\x1b[200~two\nrows\x1b[201~\r");
    CHECK_LINE(&t, "two\nrows");
    end(&t);
    end(&u);
    CHECK(stat("history", &st) == 0 && (st.st_mode & 07777) == 0600);
    start(&t, 40, 20, NULL);
    CHECK_INT(edit_open(t.edit, "history"), 0);
    type(&t, "\x10");
    CHECK_ROW(&t, 0, "> two↵rows");
    type(&t, "\x10\r");
    CHECK_LINE(&t, "back\\slash\\n");
    type(&t, "\x10\x10\x10\x10\r");
    CHECK_LINE(&t, "one");
    end(&t);
}

TEST(edit_history_file_is_bounded)
{
    struct typist t;
    char line[64];

    start(&t, 40, 20, NULL);
    CHECK_INT(edit_open(t.edit, "history"), 0);
    for (int i = 0; i < 2 * EDIT_HISTORY + 1; i++) {
        snprintf(line, sizeof line, "line %d\r", i);
        type(&t, line);
    }
    end(&t);
    start(&t, 40, 20, NULL);
    CHECK_INT(edit_open(t.edit, "history"), 0);
    end(&t);
    FILE *f = fopen("history", "r");
    int lines = 0;
    CHECK(f != NULL && fgets(line, sizeof line, f) != NULL);
    CHECK_STR(str_of(line), "line 1001\n");
    for (lines = 1; fgets(line, sizeof line, f) != NULL; lines++)
        ;
    fclose(f);
    CHECK_INT(lines, EDIT_HISTORY);
}

/* Neither a link nor a file that others may read is taken as it is; rubbish in it cannot harm. */
TEST(edit_history_file_hostile)
{
    struct typist t;
    struct stat st;
    FILE *f = fopen("open", "w");

    CHECK(f != NULL && fwrite("a\x1b[2J\xc2\x9b" "b\n\xff\n\\", 1, 12, f) == 12 && fclose(f) == 0);
    CHECK(symlink("open", "link") == 0 && chmod("open", 0644) == 0);
    start(&t, 40, 20, NULL);
    CHECK_INT(edit_open(t.edit, "link"), -1);
    CHECK_INT(edit_open(t.edit, "."), -1);
    CHECK_INT(edit_open(t.edit, "open"), 0);
    CHECK(stat("open", &st) == 0 && (st.st_mode & 07777) == 0600);
    type(&t, "\x10\x10\x10");
    CHECK_ROW(&t, 0, "> a?[2J?b");
    end(&t);
}

static size_t
fruit(void *arg, struct str before, struct edit_words *words)
{
    static const char *const names[] = {"banana", "apple", "apricot", "苹果", "苹花", "banana"};
    size_t from = before.n;

    (void)arg;
    while (from > 0 && before.p[from - 1] != ' ')
        from--;
    struct str part = {before.p + from, before.n - from};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strncmp(names[i], part.p, part.n) == 0)
            edit_words_add(words, str_of(names[i]));
    return from;
}

TEST(edit_completes)
{
    struct typist t;

    start(&t, 40, 10, fruit);
    type(&t, "x b\t");
    CHECK_ROW(&t, 0, "> x banana");
    CHECK_CURSOR(&t, 0, 11); /* with a blank behind it */
    type(&t, "a\t");
    CHECK_ROW(&t, 0, "> x banana ap");
    type(&t, "\t");
    CHECK_INT(t.screen.bells, 1);
    type(&t, "\t");
    CHECK_ROW(&t, 0, "apple    apricot");
    CHECK_ROW(&t, 1, "> x banana ap");
    type(&t, "r\t\x7f 苹\t\t\t\r");
    CHECK_LINE(&t, "x banana apricot 苹");
    CHECK_ROW(&t, 1, "苹果  苹花");
    type(&t, "zz\t");
    CHECK_INT(t.screen.bells, 3);
    end(&t);
}

/* Pasted text is text: nothing in it is a key, no line is sent by it. */
TEST(edit_paste)
{
    for (size_t piece = 1; piece < 9; piece++) {
        static const char keys[] = "a\x1b[200~b\r\nc\rd\ne\tf\x03\x04\x1b[A\x1b[31m\x7fg\x1b[201~h";
        struct typist t;
        start(&t, 40, 10, fruit);
        type_pieces(&t, keys, sizeof keys - 1, piece);
        CHECK_INT(t.event, EDIT_MORE);
        CHECK_ROW(&t, 0, "> ab↵c↵d↵e fgh");
        type(&t, "\r");
        CHECK_LINE(&t, "ab\nc\nd\ne\tfgh");
        end(&t);
    }
}

/* A line has a bound, and beyond it a bell. */
TEST(edit_line_is_bounded)
{
    struct typist t;
    enum edit_event event;
    static char text[EDIT_MAX + 100];

    start(&t, 80, 24, NULL);
    memset(text, 'x', sizeof text);
    CHECK(edit_feed(t.edit, "\x1b[200~", 6, &event) == 6);
    CHECK(edit_feed(t.edit, text, sizeof text, &event) == sizeof text);
    edit_output(t.edit)->len = 0;
    CHECK(edit_feed(t.edit, "\x1b[201~\r", 7, &event) == 7);
    CHECK_INT(event, EDIT_LINE);
    CHECK_INT(edit_line(t.edit).n, EDIT_MAX);
    end(&t);
}

/* Random keys: nothing but the screen's own rules is written, and the cursor stays in the line. */
TEST(edit_random_keys)
{
    static const char *const some[] = {"\x1b[A", "\x1b[B", "\x1b[C", "\x1b[D", "\x12", "\x07", "\t",
                                       "\x7f", "\x01", "\x05", "\x0b", "\x15", "\x17", "\x19",
                                       "\x14", "你", "e\xcc\x81", "😀", "\r", "\x1b" "b", "\x1b" "d",
                                       "\x1b[200~", "\x1b[201~", "\xe4", "\xbd", "\x04", "\x03"};
    uint32_t seed = 1;
    struct typist t;

    start(&t, 13, 5, fruit);
    for (int i = 0; i < 30000; i++) {
        char c[2] = {0};
        seed = seed * 1664525 + 1013904223;
        size_t pick = (seed >> 8) % 60;
        c[0] = (char)('a' + pick % 26);
        type(&t, pick < sizeof some / sizeof some[0] ? some[pick] : c);
        if (pick == 59) {
            t.screen.columns = 7 + (int)(seed >> 20) % 40;
            edit_size(t.edit, t.screen.columns, 5);
        }
        t.screen.above.len = 0;
    }
    end(&t);
}

static void
check_shown(const char *text, size_t n, const char *newline, const char *want)
{
    struct buf b = {0};

    term_show(&b, (struct str){test_edge(text, n), n}, newline);
    CHECK_BYTES(b.p, b.len, want);
    buf_free(&b);
}

/* What a message may not do to a terminal. */
TEST(term_hostile_text)
{
#define SHOWN(text, want) check_shown(text, sizeof(text) - 1, NULL, want)
    SHOWN("plain 你好 e\xcc\x81 😀", "plain 你好 e\xcc\x81 😀");
    SHOWN("\x1b]0;title\a\x1b[2J", "\\x1b]0;title\\x07\\x1b[2J");
    SHOWN("a\r\nb\bc\x7f", "a\\x0d\\x0ab\\x08c\\x7f");
    SHOWN("a\0b", "a\\x00b");
    SHOWN("\xc2\x9b" "31m \xc2\x85 \x9b" "31m", "\\u009b31m \\u0085 \xef\xbf\xbd" "31m");
    SHOWN("\xe2\x80\xae" "evil\xe2\x81\xa6", "\\u202eevil\\u2066");
    SHOWN("\xf3\xa0\x81\x81", "\\ue0041"); /* tags */
    SHOWN("\xc0\x9b \xed\xa0\x80 \xf4\x90\x80\x80 \xe4\xbd",
          "\xef\xbf\xbd\xef\xbf\xbd \xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd "
          "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd \xef\xbf\xbd\xef\xbf\xbd");
    SHOWN("\ta", "    a");
    check_shown("a\nb\r\n", 5, "\n  ", "a\n  b\\x0d\n  ");
#undef SHOWN
}

TEST(term_columns_of_text)
{
    CHECK_INT(term_columns(STR("abc")), 3);
    CHECK_INT(term_columns(STR("你好，ｆ")), 8);
    CHECK_INT(term_columns(STR("e\xcc\x81")), 1);
    CHECK_INT(term_columns(STR("😀\xef\xb8\x8f")), 2);
    CHECK_INT(term_columns(STR("é ß я ω ↵ …")), 11);
    CHECK_INT(term_columns(STR("한국어 日本語 ﾊﾝｶｸ")), 18);
    CHECK_INT(term_columns(STR("\xff")), 1);
    CHECK_INT(term_width(0x10ffff), 1);
    CHECK_INT(term_width(0x3fffd), 2);
    CHECK_INT(term_width(0x3fffe), 1);
}
