/* SPDX-License-Identifier: MIT */
/*
 * test_quirks.c - docs/security.md is true: every hole and quirk of J-IM has its row, and every
 * test named there exists. And tests of quirks that have no better place.
 */
#include "client.h"

#include <ctype.h>
#include <dirent.h>
#include <unistd.h>

static const char *const names[] = {
#define TEST_ENTRY(name) #name,
#include "list.inc"
#undef TEST_ENTRY
};

static bool
is_test(struct str name)
{
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (str_eq(name, str_of(names[i])))
            return true;
    return false;
}

/* Check the `words` of a line that look like a test's name; how many there are. */
static int
check_names(struct str line)
{
    struct str word;
    int n = 0;

    for (bool quoted = false; str_split(&line, '`', &word); quoted = !quoted) {
        bool looks = quoted && memchr(word.p, '_', word.n) != NULL;
        for (size_t i = 0; i < word.n; i++)
            looks &= islower((unsigned char)word.p[i]) || isdigit((unsigned char)word.p[i]) ||
                     word.p[i] == '_';
        if (!looks || word.p[word.n - 1] == '_')
            continue;
        if (!is_test(word))
            test_fail(__FILE__, __LINE__, "there is no test %.*s", (int)word.n, word.p);
        n++;
    }
    return n;
}

/* The row `| S7 | … |`. */
static void
check_row(struct buf text, char kind, int number)
{
    char begin[16];

    snprintf(begin, sizeof begin, "\n| %c%d |", kind, number);
    const char *row = strstr(text.p, begin);
    if (row == NULL)
        test_fail(__FILE__, __LINE__, "no row for %c%d", kind, number);
    struct str line = {row + 1, strcspn(row + 1, "\n")};
    bool reason = memmem(line.p, line.n, "does not apply: ", 16) != NULL ||
                  memmem(line.p, line.n, "make browser", 12) != NULL;
    if (check_names(line) == 0 && !reason)
        test_fail(__FILE__, __LINE__, "%c%d has neither a test nor a reason", kind, number);
}

TEST(quirks_are_documented)
{
    char path[4096];

    snprintf(path, sizeof path, "%s/docs/security.md", test_source());
    struct buf text = read_whole(path);
    for (int i = 1; i <= 19; i++)
        check_row(text, 'S', i);
    for (int i = 1; i <= 54; i++)
        check_row(text, 'B', i);
    CHECK(check_names((struct str){text.p, text.len}) > 100); /* those of bounds, too */
    buf_free(&text);
}

/* B19: such ids were found in the word "user:" of every key. */
TEST(quirks_ids_that_are_parts_of_words)
{
    static const char *const ids[] = {"s", "e", "us", "user", "user:", ":", "group"};
    struct server s;
    struct peer p;
    char target[64];

    server_start(&s, QUIET, FAST, NULL);
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
        snprintf(target, sizeof target, "/api/user/online?userid=%s", ids[i]);
        struct reply r = ask_for(&s, "GET", target, "", NULL);
        CHECK(memmem(r.body.p, r.body.n, "10001", 5) != NULL);
        peer_login(&p, &s, PROTO_TCP, ids[i]);
        r = ask_for(&s, "GET", target, "", NULL);
        CHECK(memmem(r.body.p, r.body.n, "10019", 5) != NULL);
    }
}

/* B18: a user's messages were found by how their keys begin. */
TEST(quirks_ids_that_begin_alike)
{
    struct server s;
    struct peer alice, u1, u10;

    server_start(&s, QUIET, NULL);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    say(&alice, 11, "{'to':'u10','chatType':2,'content':'for ten'}");
    CHECK(hear(&alice));
    peer_login(&u1, &s, PROTO_TCP, "u1");
    say(&u1, 19, "{'userId':'u1','type':0}");
    CHECK(hear(&u1) && !heard(&u1, "for ten"));
    peer_login(&u10, &s, PROTO_TCP, "u10");
    say(&u10, 19, "{'userId':'u10','type':0}");
    CHECK(hear(&u10) && heard(&u10, "for ten"));
}

/* B52: there are HTTP connections, some of them sending, while a group is written to. */
TEST(quirks_http_is_no_receiver)
{
    struct server s;
    struct peer alice, bob, http;
    struct reply r;

    server_start(&s, "-o", "jim.login.groups=g", NULL);
    peer_login(&alice, &s, PROTO_TCP, "alice");
    peer_login(&bob, &s, PROTO_WS, "bob");
    CHECK(hear(&alice) && hear(&alice) && hear(&bob)); /* notices */
    peer_connect(&http, &s);
    for (int i = 0; i < 3; i++) {
        put_str(&http, "POST /api/message/send HTTP/1.1\r\nHost: localhost\r\n"
                       "Content-Length: 43\r\n\r\n"
                       "{\"chatType\":1,\"groupId\":\"g\",\"from\":\"alice\"}");
        hear_reply(&http, &r, false);
        CHECK_INT(r.status, 200);
        CHECK(hear(&alice) && alice.cmd == CMD_CHAT);
        CHECK(hear(&bob));
        CHECK_INT(number(&bob, "seq"), i + 1);
    }
}

TEST(quirks_page_runs_no_inline_script)
{
    struct server s;

    server_start(&s, NULL);
    struct reply r = ask_for(&s, "GET", "/", "", NULL);
    CHECK_INT(r.status, 200);
    struct str policy = header(&r, "content-security-policy");
    CHECK(memmem(policy.p, policy.n, "default-src 'self'", 18) != NULL);
    CHECK(memmem(policy.p, policy.n, "unsafe", 6) == NULL);
    r = ask_for(&s, "GET", "/jim.js", "", NULL);
    CHECK_INT(r.status, 200);
    CHECK(memmem(r.body.p, r.body.n, "innerHTML", 9) == NULL);
    CHECK(memmem(r.body.p, r.body.n, "eval(", 5) == NULL);
}

/* S19: beside its listener, a server that has just started has no socket at all. */
TEST(quirks_no_connection_goes_out)
{
    struct server s;
    char path[512], to[64];
    int sockets = 0;
    const struct dirent *e;

    server_start(&s, NULL);
    snprintf(path, sizeof path, "/proc/%ld/fd", (long)s.pid);
    DIR *d = opendir(path);
    if (d == NULL) {
        test_note("no /proc: not tested");
        return;
    }
    while ((e = readdir(d)) != NULL) {
        snprintf(path, sizeof path, "/proc/%ld/fd/%s", (long)s.pid, e->d_name);
        ssize_t n = readlink(path, to, sizeof to - 1);
        sockets += n > 7 && memcmp(to, "socket:", 7) == 0;
    }
    closedir(d);
    CHECK_INT(sockets, 1);
}
