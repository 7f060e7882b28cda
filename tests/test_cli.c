/* SPDX-License-Identifier: MIT */
/*
 * test_cli.c - jim-cli as people use it: the program itself against a real server, through pipes
 * and on a terminal (a pty, read as screen.c reads it). The line editor alone is in test_edit.c.
 */
#include "cli_run.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

/* --- usage ------------------------------------------------------------------------------------ */

TEST(cli_wrong_usage)
{
    static const struct {
        const char *args[6];
        const char *why;
    } rows[] = {
        {{NULL}, "jim-cli: what to do? jim-cli -h lists the commands\n"},
        {{"dance"}, "jim-cli: there is no command dance (jim-cli -h lists them)\n"},
        {{"-x"}, "jim-cli: unknown option -x (jim-cli -h tells more)\n"},
        {{"--nonsense=1"}, "jim-cli: unknown option --nonsense (jim-cli -h tells more)\n"},
        {{"--json=yes"}, "jim-cli: unknown option --json (jim-cli -h tells more)\n"},
        {{"tail", "-u"}, "jim-cli: --user takes a value: USER\n"},
        {{"tail"}, "jim-cli: who are you? -u USER, -t TOKEN, or JIM_USER in the environment\n"},
        {{"send", "-ua", "hello"}, "jim-cli: send takes -T USER or -G GROUP\n"},
        {{"send", "-ua", "-Tb", "-Gc", "hello"}, "jim-cli: either -T or -G, not both\n"},
        {{"groups", "-ua", "-Tb"}, "jim-cli: --to is not for groups\n"},
        {{"-n3", "send", "-ua", "-Tb", "x"}, "jim-cli: --last is not for send\n"},
        {{"groups", "-ua", "x"}, "jim-cli: usage: jim-cli groups \n"},
        {{"join", "-ua"}, "jim-cli: usage: jim-cli join GROUP [NAME]\n"},
        {{"tail", "-ua", "-n", "-1"}, "jim-cli: --last: not understood: -1\n"},
        {{"tail", "-ua", "-n", "1001"}, "jim-cli: -n takes at most 1000 here\n"},
        {{"history", "-ua", "-Tb", "--since", "2026-13-01"},
         "jim-cli: --since: not understood: 2026-13-01\n"},
        {{"tail", "-ua", "-w", "99999999999"}, "jim-cli: --wait: not understood: 99999999999\n"},
        {{"send", "-ua", "-Tb", ""}, "jim-cli: the message is empty\n"},
        {{"chat", "-ua"}, "jim-cli: chat in a pipe takes -T USER or -G GROUP\n"},
        {{"-s\x1b[2J\n", "tail", "-t@/none\x1b"},
         "jim-cli: /none\\x1b: No such file or directory\n"},
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct cli_run r;
        cli_start_args(&r, NULL, rows[i].args);
        int code = cli_end(&r);
        COMPLAINED(&r, rows[i].why);
        SAID(&r, "");
        CHECK_INT(code, i + 1 < sizeof rows / sizeof rows[0] ? 1 : 5);
    }
}

TEST(cli_help_and_version)
{
    struct cli_run r;

    CHECK_INT(cli(&r, NULL, NULL, "--help", NULL), 0);
    CHECK(strstr(r.said.p, "usage: jim-cli") != NULL && r.complained.len == 0);
    CHECK_INT(cli(&r, NULL, NULL, "-V", NULL), 0);
    CHECK(strncmp(r.said.p, "jim-cli " JIM_VERSION, strlen("jim-cli " JIM_VERSION)) == 0);
}

/* Answers that nobody gets are no success. */
TEST(cli_help_that_cannot_be_written)
{
    static const char *const asked[] = {"-V", "-h"};
    char command[4200];

    for (int i = 0; i < 2; i++) {
        test_begins();
        snprintf(command, sizeof command, "\"${JIM_CLI:-%s/jim-cli}\" %s >&- 2>err", test_source(),
                 asked[i]);
        int status = system(command);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 5);
        CHECK(has(read_whole("err"), "jim-cli: cannot write: "));
    }
}

/* What the program takes stands in its page, and in the completions. */
TEST(cli_documented)
{
    static const char *const files[] = {"jim-cli.1", "contrib/completions/jim-cli.bash",
                                        "contrib/completions/_jim-cli",
                                        "contrib/completions/jim-cli.fish"};
    struct cli_run r;
    size_t found = 0;

    CHECK_INT(cli(&r, NULL, NULL, "--help", NULL), 0);
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        char path[4096], name[32];
        snprintf(path, sizeof path, "%s/%s", test_source(), files[i]);
        struct buf text = read_whole(path);
        for (const char *p = r.said.p; (p = strstr(p, "--")) != NULL; p++) {
            size_t n = strspn(p + 2, "abcdefghijklmnopqrstuvwxyz-");
            if (n == 0)
                continue;
            snprintf(name, sizeof name, "%.*s", (int)n, p + 2);
            if (strstr(text.p, name) == NULL)
                test_fail(__FILE__, __LINE__, "%s says nothing of --%s", files[i], name);
            found++;
        }
        for (const char *p = r.said.p; (p = strstr(p, "\n  ")) != NULL; p++) {
            size_t n = strspn(p + 3, "abcdefghijklmnopqrstuvwxyz");
            if (n == 0)
                continue;
            snprintf(name, sizeof name, "%.*s", (int)n, p + 3);
            if (strstr(text.p, name) == NULL)
                test_fail(__FILE__, __LINE__, "%s says nothing of %s", files[i], name);
            found++;
        }
        buf_free(&text);
    }
    CHECK(found >= 4 * 29); /* 19 options and 10 commands */
}

TEST(cli_cannot_connect)
{
    struct cli_run r;
    struct server s;

    server_start(&s, QUIET, NULL);
    CHECK_INT(server_end(&s, SIGTERM), 0);
    const char *const commands[][4] = {{"send", "-Tb", "x"}, {"tail"}, {"history", "-Tb"},
                                       {"groups"}, {"raw"}, {"chat", "-Tb"}};
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        CHECK_INT(cli(&r, &s, NULL, "JIM_USER=alice", commands[i][0], commands[i][1],
                      commands[i][2], NULL), 2);
        CHECK(strstr(r.complained.p, "Connection refused") != NULL);
        CHECK_INT(count_of(&r.complained, "\n"), 1);
        SAID(&r, "");
    }
    CHECK_INT(cli(&r, NULL, NULL, "-s", "nonsense://x", "-u", "a", "tail", NULL), 2);
    CHECK_INT(count_of(&r.complained, "\n"), 1);
}

/* With -w it goes on trying: a server that starts later is found. */
TEST(cli_waits_for_a_server)
{
    struct cli_run r;
    struct server s;

    server_start(&s, QUIET, NULL);
    CHECK_INT(server_end(&s, SIGTERM), 0);
    cli_start(&r, &s, "send", "-u", "alice", "-T", "bob", "-w", "60", "late", NULL);
    server_again(&s, 0);
    CHECK_INT(cli_end(&r), 0);
    CHECK_INT(cli(&r, &s, NULL, "history", "-u", "bob", "-T", "alice", NULL), 0);
    CHECK_INT(count_of(&r.said, "alice: late\n"), 1);
}

/* --- send ------------------------------------------------------------------------------------- */

TEST(cli_send)
{
    struct cli_run r;
    struct server s;
    struct peer bob;

    server_start(&s, QUIET, NULL);
    peer_login(&bob, &s, through_tls() ? PROTO_TCP : PROTO_WS, "bob");
    CHECK_INT(cli(&r, &s, NULL, "-u", "alice", "send", "-T", "bob", "hello", "there", NULL), 0);
    SAID(&r, "");
    COMPLAINED(&r, "");
    EXPECT(&bob, "{'command':11,'data':{'chatType':2,'content':'hello there','createTime':<time>,"
                 "'from':'alice','id':'<id>','msgType':0,'seq':1,'to':'bob'}}");
    CHECK_INT(cli(&r, &s, "two\nlines 你好\n\n", "JIM_USER=alice", "send", "--to=bob", "--id=i-1",
                  "-j", NULL), 0);
    EXPECT(&bob, "{'command':11,'data':{'chatType':2,'content':'two\\nlines 你好\\n','createTime':"
                 "<time>,'from':'alice','id':'i-1','msgType':0,'seq':2,'to':'bob'}}");
    CHECK_LIKE(((struct str){r.said.p, r.said.len - 1}),
               "{'code':10000,'command':12,'data':{'createTime':<time>,'id':'i-1','seq':2},"
               "'msg':'ok 发送成功'}");
    /* The same id again: the same answer, and nobody gets it twice. */
    CHECK_INT(cli(&r, &s, NULL, "JIM_USER=alice", "send", "-Tbob", "-ii-1", "-j", "--", "-x", NULL),
              0);
    CHECK(strstr(r.said.p, "\"seq\":2") != NULL);
    EXPECT_QUIET(&bob);
}

TEST(cli_send_refused)
{
    static char large[65538];
    struct cli_run r;
    struct server s;

    server_start(&s, QUIET, NULL);
    CHECK_INT(cli(&r, &s, NULL, "-u", "alice", "send", "-G", "nowhere", "x", NULL), 3);
    COMPLAINED(&r, "jim-cli: not sent: forbidden\n");
    memset(large, 'x', sizeof large - 1);
    CHECK_INT(cli(&r, &s, large, "-u", "alice", "send", "-T", "bob", NULL), 3);
    COMPLAINED(&r, "jim-cli: not sent: message too large\n");
    CHECK_INT(cli(&r, &s, "\xff\xfe", "-u", "alice", "send", "-T", "bob", NULL), 5);
    COMPLAINED(&r, "jim-cli: the message is not UTF-8\n");
    CHECK_INT(cli(&r, &s, NULL, "-u", "", "send", "-T", "bob", "x", NULL), 3);
    CHECK_INT(count_of(&r.complained, "\n"), 1);
}

/* --- passwords -------------------------------------------------------------------------------- */

static void
start_with_passwords(struct server *s)
{
    struct output o;

    write_file("secret", "s3cret pass\nmore\n");
    int in = open("secret", O_RDONLY), kept = dup(0);
    CHECK(in >= 0 && dup2(in, 0) == 0);
    run_jim(&o, "passwd", "-i", "1000", "users", "alice", NULL);
    CHECK_INT(o.code, 0);
    dup2(kept, 0);
    close(kept);
    close(in);
    server_start(s, QUIET, "-o", "jim.auth=file", "-o", "jim.users.file=users", "-o",
                 "jim.auth.delay=0", NULL);
}

TEST(cli_passwords)
{
    struct cli_run r;
    struct server s;

    start_with_passwords(&s);
    CHECK_INT(cli(&r, &s, NULL, "-u", "alice", "groups", NULL), 3);
    CHECK_INT(count_of(&r.complained, "\n"), 1);
    CHECK_INT(cli(&r, &s, NULL, "JIM_PASSWORD=wrong", "-u", "alice", "groups", NULL), 3);
    CHECK(strstr(r.complained.p, "wrong") == NULL);
    CHECK_INT(cli(&r, &s, NULL, "JIM_PASSWORD=s3cret pass", "-u", "alice", "groups", NULL), 0);
    CHECK_INT(cli(&r, &s, NULL, "-u", "alice", "-p", "s3cret pass", "groups", NULL), 0);
    CHECK_INT(cli(&r, &s, NULL, "-u", "alice", "-P", "secret", "groups", NULL), 0);
    CHECK_INT(cli(&r, &s, NULL, "-u", "alice", "-P", "nosuch", "groups", NULL), 5);
    /* The first line of input is the password, the rest the message. */
    CHECK_INT(cli(&r, &s, "s3cret pass\nhello", "-ualice", "-P-", "send", "-Tbob", NULL), 0);
    CHECK_INT(cli(&r, &s, NULL, "-u", "alice", "-P", "secret", "history", "-T", "bob", NULL), 0);
    CHECK_INT(count_of(&r.said, "alice: hello\n"), 1);
}

/* A password of the command line does not stay in the list of processes. */
TEST(cli_password_hidden)
{
    struct cli_run r;
    struct server s;
    char path[64];

    start_with_passwords(&s);
    cli_start(&r, &s, "-u", "alice", "-p", "s3cret pass", "chat", "-T", "bob", NULL);
    cli_say_to(&r, "x\n");
    struct reply reply;
    do /* it has come so far */
        reply = ask_for(&s, "GET", "/api/user/online?userid=alice", "", NULL);
    while (memmem(reply.body.p, reply.body.n, "10019", 5) == NULL);
    snprintf(path, sizeof path, "/proc/%ld/cmdline", (long)r.pid);
    if (access(path, R_OK) == 0 && getenv("JIM_CLI_UNDER") == NULL) {
        struct buf b = read_whole(path);
        CHECK(memmem(b.p, b.len, "alice", 5) != NULL && memmem(b.p, b.len, "s3cret", 6) == NULL);
        buf_free(&b);
    }
    CHECK_INT(cli_end(&r), 0);
}

TEST(cli_token)
{
    struct output o;
    struct cli_run r;
    struct server s;

    server_start(&s, QUIET, "-o", "jim.auth=token", "-o",
                 "jim.token.secret=0123456789abcdef0123456789abcdef", NULL);
    run_jim(&o, "token", "-s", "0123456789abcdef0123456789abcdef", "-u", "alice", NULL);
    CHECK_INT(o.code, 0);
    o.out.p[strcspn(o.out.p, "\n")] = '\0';
    write_file("token", o.out.p);
    CHECK_INT(cli(&r, &s, NULL, "-t", o.out.p, "send", "-T", "bob", "x", NULL), 0);
    CHECK_INT(cli(&r, &s, NULL, "-t", "@token", "history", "-T", "bob", NULL), 0);
    CHECK_INT(count_of(&r.said, "alice: x\n"), 1);
    CHECK_INT(cli(&r, &s, NULL, "-t", "nonsense", "groups", NULL), 3);
}

/* --- history, offline, online, groups --------------------------------------------------------- */

TEST(cli_history)
{
    struct cli_run r;
    struct server s;
    struct buf lines = {0};
    const char *p;
    char want[64];

    server_start(&s, QUIET, FAST, NULL);
    for (int i = 1; i <= 2300; i++)
        buf_printf(&lines, "line %d\n", i);
    buf_lit(&lines, "\0");
    CHECK_INT(cli(&r, &s, lines.p, "-u", "alice", "chat", "-T", "bob", "-r", "0", NULL), 0);
    /* Over three pages, in order, each once. */
    CHECK_INT(cli(&r, &s, NULL, "-u", "bob", "history", "-T", "alice", NULL), 0);
    COMPLAINED(&r, "");
    p = r.said.p;
    for (int i = 1; i <= 2300; i++) {
        snprintf(want, sizeof want, "alice: line %d\n", i);
        const char *at = strstr(p, ": ");
        CHECK(at != NULL && at - p == (ptrdiff_t)strlen("2026-11-25 19:50:31 alice"));
        CHECK(strncmp(at - 5, want, strlen(want)) == 0);
        p = strchr(p, '\n') + 1;
    }
    CHECK(*p == '\0');
    CHECK_INT(cli(&r, &s, NULL, "-u", "bob", "history", "-T", "alice", "-n", "1500", NULL), 0);
    CHECK_INT(count_of(&r.said, "\n"), 1500);
    CHECK(strstr(r.said.p, "line 801\n") != NULL && strstr(r.said.p, "line 800\n") == NULL);
    CHECK_INT(cli(&r, &s, NULL, "-u", "bob", "history", "-T", "alice", "-n2", "-j", NULL), 0);
    CHECK_LIKE(((struct str){r.said.p, strcspn(r.said.p, "\n")}),
               "{'chatType':2,'content':'line 2299','createTime':<time>,'from':'alice','id':'<id>',"
               "'msgType':0,'seq':2299,'to':'bob'}");
    CHECK_INT(count_of(&r.said, "\n"), 2);
    CHECK_INT(cli(&r, &s, NULL, "-u", "bob", "history", "-T", "alice", "-n0", NULL), 0);
    SAID(&r, "");
    CHECK_INT(cli(&r, &s, NULL, "-u", "bob", "history", "-T", "nobody", NULL), 0);
    SAID(&r, "");
    CHECK_INT(cli(&r, &s, NULL, "-u", "bob", "history", "-G", "nowhere", NULL), 3);
    COMPLAINED(&r, "jim-cli: history: forbidden\n");
}

TEST(cli_history_by_time)
{
    struct cli_run r;
    struct server s;

    server_start(&s, QUIET, NULL);
    CHECK_INT(cli(&r, &s, NULL, "-u", "alice", "send", "-T", "bob", "now", NULL), 0);
    const struct {
        const char *option, *time;
        size_t found;
    } rows[] = {{"--since", "10m", 1}, {"--until", "10m", 0}, {"--since", "2020-01-01", 1},
                {"--until", "2020-01-01 12:30", 0}, {"--until", "2100-12-31T23:59:59", 1},
                {"--since", "4102444800000", 0}, {"--since", "3d", 1}, {"--until", "1h", 0}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        CHECK_INT(cli(&r, &s, NULL, "-u", "bob", "history", "-T", "alice", rows[i].option,
                      rows[i].time, NULL), 0);
        CHECK_INT(count_of(&r.said, "alice: now\n"), rows[i].found);
    }
}

TEST(cli_offline)
{
    struct cli_run r;
    struct server s;

    server_start(&s, QUIET, FAST, NULL);
    CHECK_INT(cli(&r, &s, "a\nb\n", "-u", "alice", "chat", "-T", "bob", NULL), 0);
    CHECK_INT(cli(&r, &s, NULL, "-u", "carol", "send", "-T", "bob", "c", NULL), 0);
    CHECK_INT(cli(&r, &s, NULL, "-u", "bob", "offline", "-T", "alice", "-j", NULL), 0);
    CHECK_INT(count_of(&r.said, "\"from\":\"alice\""), 2);
    CHECK_INT(count_of(&r.said, "\n"), 2);
    CHECK_INT(cli(&r, &s, NULL, "-u", "bob", "offline", NULL), 0);
    CHECK_INT(count_of(&r.said, "carol > bob: c\n"), 1);
    CHECK_INT(count_of(&r.said, "\n"), 1);
    CHECK_INT(cli(&r, &s, NULL, "-u", "bob", "offline", NULL), 0);
    SAID(&r, "");
}

TEST(cli_groups_and_online)
{
    struct cli_run r;
    struct server s;
    struct peer bob;

    server_start(&s, QUIET, NULL);
    CHECK_INT(cli(&r, &s, NULL, "-u", "alice", "groups", NULL), 0);
    SAID(&r, "");
    CHECK_INT(cli(&r, &s, NULL, "-u", "alice", "join", "200", "the two hundred", NULL), 0);
    CHECK_INT(cli(&r, &s, NULL, "-u", "bob", "join", "200", NULL), 0);
    CHECK_INT(cli(&r, &s, NULL, "-u", "bob", "join", "300", NULL), 0);
    peer_login(&bob, &s, PROTO_TCP, "bob");
    CHECK_INT(cli(&r, &s, NULL, "-u", "alice", "groups", NULL), 0);
    SAID(&r, "200\t2 online  the two hundred\n");
    CHECK_INT(cli(&r, &s, NULL, "-u", "alice", "groups", "-j", NULL), 0);
    SAID(&r, "{\"groupId\":\"200\",\"name\":\"the two hundred\",\"online\":2}\n");
    CHECK_INT(cli(&r, &s, NULL, "-u", "alice", "online", NULL), 0);
    CHECK(strstr(r.said.p, "alice\n") != NULL && strstr(r.said.p, "bob\n") != NULL);
    CHECK_INT(count_of(&r.said, "\n"), 2);
    CHECK_INT(cli(&r, &s, NULL, "-u", "alice", "online", "bob", "alice", NULL), 0);
    SAID(&r, "bob\tonline\nalice\tonline\n");
    CHECK_INT(cli(&r, &s, NULL, "-u", "alice", "online", "zoe", "bob", NULL), 3);
    SAID(&r, "bob\tonline\n");
    COMPLAINED(&r, "jim-cli: no such user is known: zoe\n");
    CHECK_INT(cli(&r, &s, NULL, "-u", "alice", "leave", "200", NULL), 0);
    CHECK_INT(cli(&r, &s, NULL, "-u", "alice", "leave", "nowhere", NULL), 3);
    CHECK_INT(cli(&r, &s, NULL, "-u", "alice", "groups", NULL), 0);
    SAID(&r, "");
}

/* --- hostile content -------------------------------------------------------------------------- */

/* Nothing of what others send reaches a terminal as a control; JSON has it escaped. */
TEST(cli_hostile_content)
{
    static const char evil[] =
        "{'chatType':2,'to':'bob','from':'mal','content':'a\\u001b[2J\\u0007\\r\\nb: c\\u009b31m"
        "\\u202edef','msgType':0,'extras':{'k':'\\u001b\\u0085'}}";
    struct cli_run r;
    struct server s;

    server_start(&s, QUIET, NULL);
    CHECK_INT(api_send(&s, evil).status, 200);
    CHECK_INT(cli(&r, &s, NULL, "-u", "bob", "history", "-T", "mal", NULL), 0);
    CHECK(strstr(r.said.p, "mal: a\\x1b[2J\\x07\\x0d\n      b: c\\u009b31m\\u202edef\n") != NULL);
    CHECK_INT(cli(&r, &s, NULL, "-u", "bob", "history", "-T", "mal", "-j", NULL), 0);
    CHECK_INT(cli(&r, &s, NULL, "-u", "bob", "raw", "-w1", NULL), 0);
    struct reply reply = ask_for(&s, "POST", "/api/group/create",
                                 "Content-Type: application/json\r\n",
                                 "{\"groupId\":\"g1\",\"name\":\"x\\u202ey\",\"users\":[\"bob\"]}");
    CHECK_INT(reply.status, 200);
    CHECK_INT(cli(&r, &s, "19 {\"userId\":\"bob\",\"type\":1,\"fromUserId\":\"mal\"}\n", "-u",
                  "bob", "raw", NULL), 0);
    for (size_t i = 0; i < r.said.len; i++)
        CHECK((unsigned char)r.said.p[i] >= 0x20 || r.said.p[i] == '\n');
    CHECK(strstr(r.said.p, "\xc2\x9b") == NULL);
    CHECK_INT(cli(&r, &s, NULL, "-u", "bob", "groups", NULL), 0);
    SAID(&r, "g1\t1 online  x\\u202ey\n");
}

/* --- tail ------------------------------------------------------------------------------------- */

TEST(cli_tail)
{
    struct cli_run r, other;
    struct server s;

    server_start(&s, QUIET, FAST, NULL);
    CHECK_INT(cli(&other, &s, "1\n2\n3\n", "-u", "alice", "chat", "-T", "bob", NULL), 0);
    cli_start(&r, &s, "-u", "bob", "tail", NULL);
    cli_hears(&r, "\"content\":\"3\"", 1); /* what waited */
    CHECK_INT(cli(&other, &s, NULL, "-u", "carol", "send", "-T", "bob", "4", NULL), 0);
    cli_hears(&r, "\"from\":\"carol\"", 1);
    CHECK_INT(count_of(&r.said, "\n"), 4);
    kill(r.pid, SIGTERM);
    CHECK_INT(cli_end(&r), 128 + SIGTERM);

    /* The last two of one conversation, whether they were fetched before or not; then only it. */
    cli_start(&r, &s, "-u", "bob", "tail", "-T", "alice", "-n", "2", NULL);
    cli_hears(&r, "\"content\":\"3\"", 1);
    CHECK_INT(cli(&other, &s, NULL, "-u", "carol", "send", "-T", "bob", "5", NULL), 0);
    CHECK_INT(cli(&other, &s, NULL, "-u", "alice", "send", "-T", "bob", "6", NULL), 0);
    cli_hears(&r, "\"content\":\"6\"", 1);
    CHECK_INT(count_of(&r.said, "\n"), 3);
    CHECK_INT(count_of(&r.said, "\"content\":\"1\""), 0);
    kill(r.pid, SIGTERM);
    cli_end(&r);
}

/* -n over all conversations, while messages are waiting that are among the last: none twice. */
TEST(cli_tail_last_of_all)
{
    struct cli_run r, other;
    struct server s;

    server_start(&s, QUIET, FAST, NULL);
    CHECK_INT(cli(&other, &s, NULL, "-u", "bob", "join", "g1", NULL), 0);
    CHECK_INT(cli(&other, &s, NULL, "-u", "bob", "join", "g2", NULL), 0);
    CHECK_INT(cli(&other, &s, NULL, "-u", "alice", "join", "g1", NULL), 0);
    CHECK_INT(cli(&other, &s, "1\n2\n3\n", "-u", "alice", "chat", "-G", "g1", NULL), 0);
    CHECK_INT(cli(&other, &s, "4\n5\n", "-u", "bob", "chat", "-G", "g2", NULL), 0);
    CHECK_INT(cli(&other, &s, "7\n", "-u", "carol \"c\"", "chat", "-T", "bob", NULL), 0);
    CHECK_INT(cli(&other, &s, NULL, "-u", "bob", "offline", NULL), 0); /* all has been read */
    cli_start(&r, &s, "-u", "bob", "tail", "-n", "2", NULL);
    cli_hears(&r, "\"content\":\"7\"", 1);
    cli_hears(&r, "\"content\":\"3\"", 1);
    cli_hears(&r, "\"content\":\"5\"", 1);
    CHECK_INT(cli(&other, &s, "6\n", "-u", "alice", "chat", "-G", "g1", NULL), 0);
    cli_hears(&r, "\"content\":\"6\"", 1);
    for (char c = '2'; c <= '7'; c++) {
        char part[] = "\"content\":\"0\"";
        part[11] = c;
        CHECK_INT(count_of(&r.said, part), 1);
    }
    kill(r.pid, SIGTERM);
    cli_end(&r);
}

/* A tail that nobody reads any more ends as other programs do. */
TEST(cli_tail_into_a_closed_pipe)
{
    struct cli_run r, other;
    struct server s;

    server_start(&s, QUIET, NULL);
    CHECK_INT(cli(&other, &s, NULL, "-u", "alice", "send", "-T", "bob", "1", NULL), 0);
    cli_start(&r, &s, "-u", "bob", "tail", NULL);
    cli_hears(&r, "\n", 1);
    close(r.out);
    r.out = -1;
    CHECK_INT(cli(&other, &s, NULL, "-u", "alice", "send", "-T", "bob", "2", NULL), 0);
    CHECK_INT(cli_end(&r), 128 + SIGPIPE);
}

/* Lines piped in while the server is killed and started again, and followed by a tail: each arrives
 * once, in order, at the store and at the other end. */
TEST(cli_restarts)
{
    struct cli_run in, out, r;
    struct server s;
    char line[32];
    int n = 0;

    server_start(&s, QUIET, FAST, NULL);
    cli_start(&out, &s, "-u", "bob", "tail", "-T", "alice", NULL);
    cli_start(&in, &s, "-u", "alice", "chat", "-T", "bob", "-r", "0", NULL);
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < 50; i++) {
            snprintf(line, sizeof line, "line %d.\n", n++);
            cli_say_to(&in, line);
        }
        cli_hears(&out, "line ", (size_t)(round * 100 + 10)); /* in the midst of it */
        server_again(&s, round % 2 == 0 ? SIGKILL : SIGTERM);
        for (int i = 0; i < 50; i++) {
            snprintf(line, sizeof line, "line %d.\n", n++);
            cli_say_to(&in, line);
        }
    }
    CHECK_INT(cli_end(&in), 0);
    cli_hears(&out, "line ", (size_t)n);
    CHECK(strstr(out.complained.p, "connected again") != NULL);
    kill(out.pid, SIGTERM);
    cli_end(&out);
    CHECK_INT(cli(&r, &s, NULL, "-u", "bob", "history", "-T", "alice", "-j", NULL), 0);
    const struct buf *both[] = {&out.said, &r.said};
    for (size_t i = 0; i < 2; i++) {
        const char *p = both[i]->p;
        CHECK_INT(count_of(both[i], "\n"), n);
        for (int k = 0; k < n; k++) {
            snprintf(line, sizeof line, "\"line %d.\"", k);
            const char *end = strchr(p, '\n');
            const char *at = strstr(p, line);
            CHECK(end != NULL && at != NULL && at < end);
            p = end + 1;
        }
    }
}

/* --- chat in a pipe --------------------------------------------------------------------------- */

TEST(cli_pipe)
{
    struct cli_run r;
    struct server s;
    struct peer bob;

    server_start(&s, QUIET, FAST, NULL);
    peer_login(&bob, &s, PROTO_TCP, "bob");
    cli_start(&r, &s, "-u", "alice", "chat", "-T", "bob", NULL);
    cli_say_to(&r, "/to nobody\n\nno newline");
    EXPECT(&bob, "{'command':11,'data':{'chatType':2,'content':'/to nobody','createTime':<time>,"
                 "'from':'alice','id':'<id>','msgType':0,'seq':1,'to':'bob'}}");
    say(&bob, 11, "{'chatType':2,'to':'alice','content':'an answer'}");
    cli_hears(&r, "bob > alice: an answer\n", 1);
    CHECK_INT(cli_end(&r), 0);
    CHECK(hear(&bob) && heard(&bob, "\"command\":12"));
    EXPECT(&bob, "{'command':11,'data':{'chatType':2,'content':'no newline','createTime':<time>,"
                 "'from':'alice','id':'<id>','msgType':0,'seq':3,'to':'bob'}}");
}

/* One line refused: the others are sent, the status tells. */
TEST(cli_pipe_refused)
{
    struct cli_run r;
    struct server s;
    struct buf lines = {0};

    server_start(&s, QUIET, FAST, "-o", "jim.message.max=10", NULL);
    CHECK_INT(cli(&r, &s, "a\nmuch too long a line\nb\n\xff\nc\n", "-u", "alice", "chat", "-T",
                  "bob", NULL), 4);
    CHECK_INT(count_of(&r.complained, "jim-cli: line 2 was not sent: message too large\n"), 1);
    CHECK_INT(count_of(&r.complained, "jim-cli: line 4 was not sent: it is not UTF-8\n"), 1);
    CHECK_INT(cli(&r, &s, NULL, "-u", "bob", "history", "-T", "alice", NULL), 0);
    CHECK_INT(count_of(&r.said, "\n"), 3);
    buf_free(&lines);
}

/* A line longer than what is read ahead is refused by the server, and no reason to stop. */
TEST(cli_pipe_long_lines)
{
    struct cli_run r;
    struct server s;
    struct buf lines = {0};

    server_start(&s, QUIET, FAST, NULL);
    for (int i = 0; i < 2; i++) {
        buf_reserve(&lines, 200000);
        memset(lines.p + lines.len, 'a', 200000);
        lines.len += 200000;
        buf_lit(&lines, "\nshort\n");
    }
    buf_lit(&lines, "\0");
    CHECK_INT(cli(&r, &s, lines.p, "-u", "alice", "chat", "-T", "bob", NULL), 4);
    COMPLAINED(&r, "jim-cli: line 1 was not sent: message too large\n"
                   "jim-cli: line 3 was not sent: message too large\n");
    lines.len = 0;
    buf_reserve(&lines, 1200001);
    memset(lines.p, 'a', 1200000);
    lines.p[1200000] = '\0';
    CHECK_INT(cli(&r, &s, lines.p, "-u", "alice", "chat", "-T", "bob", NULL), 4);
    COMPLAINED(&r, "jim-cli: line 1 is too long\n");
    buf_free(&lines);
}

/* The server goes for good: what is not acknowledged is no success. */
TEST(cli_pipe_unacknowledged)
{
    struct cli_run r;
    struct server s;
    struct peer bob;

    server_start(&s, QUIET, NULL);
    peer_login(&bob, &s, PROTO_TCP, "bob");
    cli_start(&r, &s, "-u", "alice", "-w", "1", "chat", "-T", "bob", NULL);
    cli_say_to(&r, "a\n");
    CHECK(hear(&bob));
    CHECK_INT(server_end(&s, SIGKILL), 128 + SIGKILL);
    cli_say_to(&r, "b\n");
    CHECK_INT(cli_end(&r), 4);
    CHECK_INT(count_of(&r.complained, " messages were not acknowledged\n"), 1);
}

/* --- raw -------------------------------------------------------------------------------------- */

TEST(cli_raw)
{
    struct cli_run r;
    struct server s;
    char url[64];

    server_start(&s, QUIET, NULL);
    CHECK_INT(cli(&r, &s, "# a comment\n13\n01 51 0d 0000 0000\nzz\n", "raw", NULL), 0);
    CHECK_INT(count_of(&r.said, "> 7 bytes: tcp-im version 1, mask 0x51, cmd 13 (heartbeat), "
                                "length 0\n  0000  01 51 0d 00 00 00 00  "), 2);
    CHECK_INT(count_of(&r.said, "< 44 bytes: tcp-im"), 2);
    CHECK_INT(count_of(&r.said, "  {\"command\":13,\"data\":{\"hbbyte\":-128}}\n"), 2);
    CHECK(strstr(r.complained.p, "neither `CMD JSON` nor bytes in hex: zz") != NULL);
    snprintf(url, sizeof url, "%s:%d/chat", through_tls() ? "wss://localhost" : "ws://127.0.0.1",
             s.port[0]);
    CHECK_INT(cli(&r, &s, "11 {broken\n", "-u", "alice", "-s", url, "raw", NULL), 0);
    CHECK_INT(count_of(&r.said, "  GET /chat HTTP/1.1\n"), 1);
    CHECK_INT(count_of(&r.said, "  HTTP/1.1 101 Switching Protocols\n"), 1);
    CHECK_INT(count_of(&r.said, "  {\"cmd\":5,\"userId\":\"alice\"}\n"), 1);
    CHECK_INT(count_of(&r.said, "  {\"code\":10007"), 1);
    CHECK_INT(count_of(&r.said, "  {\"code\":10017"), 1); /* broken JSON: no cmd to be found */
    CHECK_INT(cli(&r, &s, "13\n", "-j", "raw", NULL), 0);
    CHECK_INT(count_of(&r.said, "\"direction\":\"out\",\"hex\":\"01510d00000000\",\"json\":null"),
              1);
    CHECK(strstr(r.said.p, "\"json\":{\"command\":13,\"data\":{\"hbbyte\":-128}}") != NULL);
}

/* A server that closes before the end of input is an error; behind it, an answer. */
TEST(cli_raw_closed)
{
    struct cli_run r;
    struct server s;

    server_start(&s, QUIET, NULL);
    cli_start(&r, &s, "raw", NULL);
    cli_say_to(&r, "x13\n"); /* no version there is */
    cli_complains(&r, "closed");
    CHECK_INT(cli_end(&r), 2);
}

/* --- on a terminal ---------------------------------------------------------------------------- */

TEST(cli_terminal)
{
    struct terminal t;
    struct server s;
    struct peer bob;

    server_start(&s, QUIET, FAST, NULL);
    peer_login(&bob, &s, PROTO_TCP, "bob");
    terminal_start(&t, &s, 60, 20, "-u", "alice", "chat", NULL);
    row_has(&t, "-- alice at ");
    row_is(&t, ">");
    CHECK(t.screen.paste);
    type(&t, "hello?\r");
    row_is(&t, "-- to whom? /to USER or /group ID says it");
    type(&t, "/to bob hi 你好\r");
    row_has(&t, " alice: hi 你好");
    row_is(&t, "bob>");
    CHECK(hear(&bob) && heard(&bob, "\"content\":\"hi 你好\""));
    /* A message that comes while one types stands above, and the line is as it was. */
    type(&t, "half a li");
    row_is(&t, "bob> half a li");
    say(&bob, 11, "{'chatType':2,'to':'alice','content':'an answer'}");
    int above = row_has(&t, " bob: an answer");
    CHECK_INT(row_is(&t, "bob> half a li"), above + 1);
    type(&t, "ne\x1b[D\x1b[D\x1b[D\x1b[D\x1b[D\x1b[D\x1b[D\x17whole\r");
    row_has(&t, " alice: whole a line");
    CHECK(hear(&bob) && heard(&bob, "\"command\":12"));
    CHECK(hear(&bob) && heard(&bob, "\"content\":\"whole a line\""));
    /* Older lines. */
    type(&t, "\x1b[A\x1b[A");
    row_is(&t, "bob> /to bob hi 你好");
    type(&t, "\x1b[B\x1b[B");
    row_is(&t, "bob>");
    type(&t, "\x12whole\r");
    CHECK(hear(&bob) && heard(&bob, "\"content\":\"whole a line\""));
    type(&t, "\x04");
    CHECK_INT(terminal_end(&t), 0);
    CHECK(!t.screen.paste);
    struct stat st;
    CHECK(stat(".local/state/jim-cli/history", &st) == 0 && (st.st_mode & 07777) == 0600);
}

/* Names, groups and commands are completed; conversations other than the current are counted. */
TEST(cli_terminal_conversations)
{
    struct terminal t;
    struct server s;
    struct peer bob, carol;

    server_start(&s, QUIET, FAST, NULL);
    peer_login(&bob, &s, PROTO_TCP, "bob");
    peer_login(&carol, &s, PROTO_TCP, "carol");
    say(&bob, 7, "{'groupId':'g200'}");
    CHECK(hear(&bob));
    terminal_start(&t, &s, 80, 30, "-u", "alice", "chat", "-T", "bob", NULL);
    row_is(&t, "bob>");
    type(&t, "/jo\tg200\r");
    row_is(&t, "-- you have joined #g200");
    row_is(&t, "#g200>");
    say(&carol, 11, "{'chatType':2,'to':'alice','content':'psst'}");
    row_has(&t, " carol > alice: psst");
    row_is(&t, "#g200 (1 unread)>");
    type(&t, "/to ca\thello\r");
    row_has(&t, " alice: hello");
    row_is(&t, "carol>");
    type(&t, "/who\r");
    row_is(&t, "-- carol is online");
    say(&bob, 11, "{'chatType':1,'groupId':'g200','content':'to all of us'}");
    row_has(&t, " [#g200] bob: to all of us");
    type(&t, "/list\r");
    row_is(&t, "-- #g200: 1 unread");
    row_is(&t, "-- carol: 0 unread (here)");
    type(&t, "/gr\tg\t\r");
    row_is(&t, "#g200>");
    type(&t, "/history 5\r");
    row_has(&t, " [#g200] bob: to all of us");
    row_is(&t, "-- end of the history");
    type(&t, "/who\r");
    row_has(&t, "-- #g200: ");
    type(&t, "/nonsense\r");
    row_has(&t, "-- /nonsense is no command");
    type(&t, "//slash\r");
    row_has(&t, " alice: /slash");
    type(&t, "/leave\r");
    row_is(&t, "-- you have left #g200");
    row_is(&t, ">");
    type(&t, "/help\r");
    row_has(&t, "-- /to USER [TEXT]");
    type(&t, "/quit\r");
    CHECK_INT(terminal_end(&t), 0);
}

/* However many people speak, what is typed goes to whom the prompt names. */
TEST(cli_terminal_very_many_conversations)
{
    struct terminal t;
    struct server s;
    struct peer bob;

    server_start(&s, QUIET, FAST, NULL);
    peer_login(&bob, &s, PROTO_TCP, "bob");
    terminal_start(&t, &s, 80, 30, "-u", "alice", "chat", NULL);
    row_is(&t, ">");
    for (int i = 0; i < 1003; i++) {
        char json[100];
        if (i == 999) { /* the last that there is a place for */
            row_has(&t, " u998 > alice:");
            type(&t, "/to bob\r");
            row_has(&t, "bob (998 unread)>");
        }
        snprintf(json, sizeof json, "{\"chatType\":2,\"from\":\"u%d\",\"to\":\"alice\"}", i);
        CHECK_INT(api_send(&s, json).status, 200);
    }
    row_has(&t, " u1002 > alice:");
    row_has(&t, "bob (");
    type(&t, "to bob alone\r");
    CHECK(hear(&bob) && heard(&bob, "to bob alone"));
    type(&t, "/quit\r");
    CHECK_INT(terminal_end(&t), 0);
}

/* The window changes its size: the line is drawn anew. A long line takes rows, wide characters as
 * well. */
TEST(cli_terminal_resize)
{
    struct winsize size = {.ws_col = 20, .ws_row = 12};
    struct terminal t;
    struct server s;

    server_start(&s, QUIET, NULL);
    terminal_start(&t, &s, 60, 12, "-u", "alice", "chat", "-T", "bob", NULL);
    row_has(&t, "-- alice at ");
    type(&t, "a line of some length, 你好");
    row_is(&t, "bob> a line of some length, 你好");
    t.screen.columns = 20;
    CHECK(ioctl(t.fd, TIOCSWINSZ, &size) == 0);
    int row = row_is(&t, "bob> a line of some");
    CHECK_INT(row_is(&t, "length, 你好"), row + 1);
    type(&t, "\x03");
    row_is(&t, "bob>");
    type(&t, "\x04");
    CHECK_INT(terminal_end(&t), 0);
}

/* Hostile content on a terminal: screen.c ends the test at a sequence that is not jim-cli's. */
TEST(cli_terminal_hostile)
{
    struct terminal t;
    struct server s;

    server_start(&s, QUIET, NULL);
    terminal_start(&t, &s, 70, 12, "TERM=xterm", "-u", "bob", "chat", NULL);
    row_has(&t, "bob at ");
    CHECK_INT(api_send(&s, "{'chatType':2,'to':'bob','from':'mal','content':'x\\u001b[2J\\u0007"
                           "\\u009b5n\\r\\n> y','msgType':0}").status, 200);
    row_has(&t, " mal: x\\x1b[2J\\x07\\u009b5n\\x0d");
    row_is(&t, "      > y");
    CHECK(t.screen.colour);
    CHECK_INT(t.screen.bells, 0);
    row_is(&t, "mal>");
    type(&t, "\x04");
    CHECK_INT(terminal_end(&t), 0);
}

TEST(cli_terminal_without_colours)
{
    static const char *const how[][3] = {{"NO_COLOR=1", "chat"}, {"chat", "-C"}};

    for (size_t i = 0; i < 2; i++) {
        struct terminal t;
        struct server s;
        server_start(&s, QUIET, NULL);
        terminal_start(&t, &s, 70, 12, how[i][0], how[i][1] != NULL ? how[i][1] : "-q", "-u",
                       "alice", "-T", "alice", NULL);
        row_has(&t, "alice at ");
        type(&t, "to myself\r");
        row_has(&t, "alice: to myself");
        CHECK(!t.screen.colour);
        type(&t, "\x04");
        CHECK_INT(terminal_end(&t), 0);
        CHECK_INT(server_end(&s, SIGTERM), 0);
    }
}

/* The server goes and comes again while one types: what was said meanwhile is marked, and sent. */
TEST(cli_terminal_restart)
{
    struct terminal t;
    struct server s;
    struct cli_run r;

    server_start(&s, QUIET, FAST, NULL);
    terminal_start(&t, &s, 70, 20, "-u", "alice", "chat", "-T", "bob", NULL);
    row_has(&t, "alice at ");
    type(&t, "one\r");
    row_has(&t, " alice: one");
    row_is(&t, "-- bob is offline and finds it later");
    CHECK_INT(server_end(&s, SIGKILL), 128 + SIGKILL);
    row_has(&t, "-- connection lost: ");
    type(&t, "two\rthree\rfo");
    row_has(&t, " alice: two");
    row_has(&t, " alice: three");
    row_is(&t, "      (not acknowledged yet)");
    row_is(&t, "bob (no connection, 2 unacknowledged)> fo");
    server_again(&s, 0);
    row_is(&t, "-- connected again");
    row_is(&t, "-- all messages are acknowledged");
    row_is(&t, "bob> fo");
    type(&t, "ur\r");
    row_has(&t, " alice: four");
    type(&t, "/quit\r");
    CHECK_INT(terminal_end(&t), 0);
    CHECK_INT(cli(&r, &s, NULL, "-u", "bob", "history", "-T", "alice", "-j", NULL), 0);
    CHECK_INT(count_of(&r.said, "\n"), 4);
    const char *const each[] = {"\"one\"", "\"two\"", "\"three\"", "\"four\""};
    for (size_t i = 0; i < 4; i++)
        CHECK_INT(count_of(&r.said, each[i]), 1);
}

/* Leaving with messages that nobody has acknowledged takes two words, and is no success. */
TEST(cli_terminal_leaves_unacknowledged)
{
    struct terminal t;
    struct server s;

    server_start(&s, QUIET, NULL);
    terminal_start(&t, &s, 80, 20, "-u", "alice", "chat", "-T", "bob", NULL);
    row_has(&t, "alice at ");
    CHECK_INT(server_end(&s, SIGKILL), 128 + SIGKILL);
    row_has(&t, "-- connection lost: ");
    type(&t, "lost\r/quit\r");
    row_has(&t, "messages are not acknowledged; again to leave all the same");
    type(&t, "\x04");
    CHECK_INT(terminal_end(&t), 4);
}

/* A password is asked for without showing it, and the terminal is given back as it was. */
TEST(cli_terminal_password)
{
    struct termios before, after;
    struct terminal t;
    struct server s;

    start_with_passwords(&s);
    terminal_start(&t, &s, 60, 12, "-u", "alice", "-P", "-", "chat", "-T", "bob", NULL);
    row_is(&t, "password:");
    type(&t, "s3cret pass\n");
    row_has(&t, "alice at ");
    row_is(&t, "bob>");
    char *text = screen_text(&t.screen);
    CHECK(strstr(text, "s3cret") == NULL);
    free(text);
    CHECK(tcgetattr(t.fd, &before) == 0 && (before.c_lflag & (ICANON | ECHO)) == 0);
    kill(t.pid, SIGTERM);
    int64_t until = deadline();
    do {
        CHECK(time_mono_ms() < until);
        terminal_take(&t, 10);
        CHECK(tcgetattr(t.fd, &after) == 0);
    } while ((after.c_lflag & ICANON) == 0);
    CHECK((after.c_lflag & ECHO) != 0);
    CHECK_INT(terminal_end(&t), 128 + SIGTERM);
    CHECK(!t.screen.paste);
    if (access(".local/state/jim-cli/history", R_OK) == 0) {
        struct buf b = read_whole(".local/state/jim-cli/history");
        CHECK(strstr(b.p, "s3cret") == NULL);
        buf_free(&b);
    }
}
