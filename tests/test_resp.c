/* SPDX-License-Identifier: MIT */
/*
 * test_resp.c - Redis's protocol: each vector decoded whole, cut in two at every byte and byte by
 * byte, the bytes at an unreadable page; the transcript must be the same every time.
 */
#include "test.h"

#define MAX_TEXT 20 /* limit given to resp_decode() */
#define ROOM 20000

struct transcript {
    char text[ROOM];
    size_t len;
    bool over;
};

static const struct vector {
    const char *in, *want;
} vectors[] = {
    /* the examples of the protocol's description */
    {"+OK\r\n", "+OK."},
    {"-ERR unknown command 'asdf'\r\n", "-ERR unknown command 'asdf'."},
    {"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n",
     "-WRONGTYPE Operation against a key holding the wrong kind of value."},
    {":0\r\n", ":0."},
    {":1000\r\n", ":1000."},
    {":-1\r\n", ":-1."},
    {"$5\r\nhello\r\n", "$hello."},
    {"$0\r\n\r\n", "$."},
    {"$-1\r\n", "nil."},
    {"*0\r\n", "*0."},
    {"*-1\r\n", "nil."},
    {"*2\r\n$5\r\nhello\r\n$5\r\nworld\r\n", "*2.$hello.$world."},
    {"*3\r\n:1\r\n:2\r\n:3\r\n", "*3.:1.:2.:3."},
    {"*2\r\n*3\r\n:1\r\n:2\r\n:3\r\n*2\r\n+Hello\r\n-World\r\n",
     "*2.*3.:1.:2.:3.*2.+Hello.-World."},
    {"*3\r\n$5\r\nhello\r\n$-1\r\n$5\r\nworld\r\n", "*3.$hello.nil.$world."},
    /* bytes that look like the protocol, inside a string */
    {"$8\r\n\r\n$3\r\n+x\r\n", "$\r\n$3\r\n+x."},
    {"+\r\n", "+."},
    /* the ends of numbers */
    {":9223372036854775807\r\n", ":9223372036854775807."},
    {":-9223372036854775808\r\n", ":-9223372036854775808."},
    {":+7\r\n", ":7."},
    {":9223372036854775808\r\n", "bad line"},
    {":-9223372036854775809\r\n", "bad line"},
    {":\r\n", "bad line"},
    {":-\r\n", "bad line"},
    {":1x\r\n", "bad line"},
    {": 1\r\n", "bad line"},
    {"$x\r\n", "bad line"},
    {":123456789012345678901234567890", "bad line"}, /* before its end has come */
    /* lengths */
    {"$20\r\n12345678901234567890\r\n", "$12345678901234567890."},
    {"$21\r\n123456789012345678901\r\n+OK\r\n", "large 21.+OK."},
    {"$536870912\r\n", "large 536870912."},
    {"$536870913\r\n", "bad length"},
    {"$-2\r\n", "bad length"},
    {"*1048576\r\n", "*1048576."},
    {"*1048577\r\n", "bad length"},
    {"*-2\r\n", "bad length"},
    /* line ends */
    {"+OK\n", "bad line"},
    {"+OK\rx", "bad line"},
    {"+a\nb\r\n", "bad line"},
    {"$5\r\nhelloXX", "bad line"},
    {"$5\r\nhello\rX", "bad line"},
    /* no type */
    {"x", "bad type"},
    {"\r\n", "bad type"},
    {"\xff", "bad type"},
    {"+OK\r\n?\r\n", "+OK.bad type"},
    /* RESP3: the examples of its description */
    {"_\r\n", "nil."},
    {"#t\r\n#f\r\n", "#1.#0."},
    {",1.23\r\n", ",1.23."},
    {",10\r\n,inf\r\n,-inf\r\n,nan\r\n,-1.5e-9\r\n", ",10.,inf.,-inf.,nan.,-1.5e-9."},
    {"(3492890328409238509324850943850943825024385\r\n",
     "(3492890328409238509324850943850943825024385."},
    {"(-7\r\n", "(-7."},
    {"!11\r\nSYNTAX oops\r\n", "-SYNTAX oops."},
    {"=8\r\ntxt:Some\r\n", "=Some."},
    {"=4\r\nmkd:\r\n", "=."},
    {"%2\r\n+first\r\n:1\r\n+second\r\n:2\r\n", "%4.+first.:1.+second.:2."},
    {"%0\r\n~0\r\n", "%0.~0."},
    {"~3\r\n+orange\r\n#t\r\n:100\r\n", "~3.+orange.#1.:100."},
    {">3\r\n+message\r\n+somechannel\r\n+text\r\n", ">3.+message.+somechannel.+text."},
    {"|1\r\n+ttl\r\n:3600\r\n*1\r\n:1\r\n", "|2.+ttl.:3600.*1.:1."},
    {"%1048576\r\n", "%2097152."},
    {"%1048577\r\n", "bad length"},
    {"~-1\r\n", "bad length"},
    {"%-1\r\n", "bad length"},
    {"!-1\r\n", "bad length"},
    {"_x\r\n", "bad line"},
    {"#x\r\n", "bad line"},
    {"#\r\n", "bad line"},
    {"#tf\r\n", "bad line"},
    {",\r\n", "bad line"},
    {",1x\r\n", "bad line"},
    {",.\r\n", "bad line"},
    {"(1.5\r\n", "bad line"},
    {"(\r\n", "bad line"},
    {"(inf\r\n", "bad line"},
    {"=3\r\ntxt\r\n", "bad line"},
    {"=4\r\ntxt;\r\n", "bad line"},
    {"$?\r\n", "bad line"},
    {"*?\r\n", "bad line"},
    /* cut short */
    {"", ""},
    {"$", ""},
    {"$5", ""},
    {"$5\r", ""},
    {"$5\r\nhell", ""},
    {"$5\r\nhello\r", ""},
    {"+OK\r\n+O", "+OK."},
};

static void
note(struct transcript *t, const char *what, struct str text)
{
    int n = snprintf(t->text + t->len, sizeof t->text - t->len, "%s%.*s", what, (int)text.n,
                     text.n > 0 ? text.p : "");

    CHECK(n >= 0 && t->len + (size_t)n < sizeof t->text);
    t->len += (size_t)n;
}

static void
note_element(struct transcript *t, const struct resp *e)
{
    static const char *const marks[] = {"+", "-", ":", "$", "large ", "*", "nil", "#",
                                        ",", "(", "=", "%", "~", ">", "|"};
    char number[32] = "";

    if (e->type == RESP_INT || e->type == RESP_LARGE || e->type == RESP_ARRAY ||
        e->type == RESP_BOOL || e->type >= RESP_MAP)
        snprintf(number, sizeof number, "%lld", (long long)e->n);
    note(t, marks[e->type], e->text);
    note(t, number, STR("."));
}

/* The input in pieces: up to `cut`, then the rest; or (cut 0) byte by byte. */
static void
decode(const char *in, size_t n, size_t cut, struct transcript *t)
{
    size_t used = 0, scan = 0, skip = 0, have = cut > 0 ? cut : 1;

    *t = (struct transcript){.len = 0};
    for (;; have = cut > 0 || have == n ? n : have + 1) {
        while (!t->over) {
            struct resp e;
            while (skip > 0 && used < have) {
                skip--;
                used++;
            }
            if (skip > 0)
                break;
            char *edge = test_edge(in + used, have - used);
            ptrdiff_t got = resp_decode(edge, have - used, &scan, MAX_TEXT, &e);
            if (got == 0)
                break;
            if (got < 0) {
                t->over = true;
                note(t, got == RESP_BAD_TYPE ? "bad type" : got == RESP_BAD_LINE ? "bad line"
                                                                                 : "bad length",
                     STR(""));
                break;
            }
            used += (size_t)got;
            CHECK(used <= have);
            note_element(t, &e);
            if (e.type == RESP_LARGE)
                skip = (size_t)e.n + 2;
        }
        if (have == n)
            break;
    }
}

TEST(resp_vectors)
{
    static struct transcript t;
    size_t count = 0;

    for (; count < sizeof vectors / sizeof vectors[0]; count++) {
        const struct vector *v = &vectors[count];
        size_t n = strlen(v->in);
        for (size_t cut = n > 0 ? 0 : 1; cut <= n; cut++) { /* cut == n: whole */
            decode(v->in, n, cut, &t);
            if (strcmp(t.text, v->want) != 0)
                test_fail(__FILE__, __LINE__, "%s cut at %zu: %s, not %s", v->in, cut, t.text,
                          v->want);
        }
    }
    test_note("%zu RESP vectors, each whole, at every split and byte by byte", count);
}

/* The longest line there may be, and one more. */
TEST(resp_long_line)
{
    static char in[MAX_LINE + 8];
    struct resp e;
    size_t scan = 0;

    memset(in, 'x', sizeof in);
    in[0] = '+';
    memcpy(in + MAX_LINE, "\r\n", 2);
    CHECK_INT(resp_decode(in, sizeof in, &scan, 10, &e), MAX_LINE + 2);
    CHECK_INT(e.text.n, MAX_LINE - 1);
    memset(in + MAX_LINE, 'x', 2);
    CHECK_INT(resp_decode(in, MAX_LINE, &scan, 10, &e), 0);
    CHECK_INT(resp_decode(in, MAX_LINE + 1, &scan, 10, &e), RESP_BAD_LINE);
}

/* A slow drip looks at no byte of a line twice. */
TEST(resp_drip_is_linear)
{
    static char in[MAX_LINE];
    struct resp e;
    size_t scan = 0;

    memset(in, 'x', sizeof in);
    in[0] = '+';
    CHECK_INT(resp_decode(in, 4000, &scan, 10, &e), 0);
    CHECK_INT(scan, 4000);
    in[1000] = '\n'; /* behind it: nobody looks there again */
    CHECK_INT(resp_decode(in, 4001, &scan, 10, &e), 0);
}

TEST(resp_commands)
{
    struct buf b = {0};

    resp_command(&b, (struct str[]){STR("PING")}, 1);
    resp_command(&b, (struct str[]){STR("SET"), STR("a\r\nb"), STR("")}, 3);
    CHECK_BYTES(b.p, b.len, "*1\r\n$4\r\nPING\r\n*3\r\n$3\r\nSET\r\n$4\r\na\r\nb\r\n$0\r\n\r\n");
    buf_free(&b);
}
