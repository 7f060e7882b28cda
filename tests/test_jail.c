/* SPDX-License-Identifier: MIT */
/*
 * test_jail.c - giving up rights: jim.user and jim.chroot (which need root to be tested at all),
 * and the sandbox, in which all tests of the running server run, too.
 */
#include "client.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static bool
is_root(void)
{
    if (geteuid() == 0)
        return true;
    test_note("not root: not tested");
    return false;
}

/* A server inside of which everything can still be done. */
static void
check_serves(const struct server *s)
{
    struct peer alice;

    peer_login(&alice, s, PROTO_TCP, "alice");
    say(&alice, 11, "{'to':'bob','chatType':2,'content':'kept'}");
    EXPECT(&alice, "{'code':10001,<...>");
    struct reply r = ask_for(s, "GET", "/", "", NULL);
    CHECK_INT(r.status, 200);
    peer_close(&alice);
}

TEST(jail_user)
{
    struct server s;
    char path[64];

    if (!is_root())
        return;
    CHECK(chmod(".", 0755) == 0); /* somebody else has to get at the store */
    server_start(&s, QUIET, "-o", "jim.user=nobody", "-o", "jim.log.file=log.txt", NULL);
    snprintf(path, sizeof path, "/proc/%ld/status", (long)s.pid);
    struct buf status = read_whole(path);
    CHECK(!has(status, "Uid:\t0") && !has(status, "\t0\t0\t0\n"));
    char *groups = strstr(status.p, "\nGroups:\t");
    CHECK(groups != NULL && strncmp(groups + 9, "0 ", 2) != 0); /* root's went, too */
    struct stat st;
    CHECK(stat("data", &st) == 0 && st.st_uid != 0);
    check_serves(&s);
    server_restart(&s, SIGTERM, QUIET, "-o", "jim.user=nobody", NULL);
    check_serves(&s);
}

TEST(jail_user_is_unknown)
{
    struct output o;

    run_jim(&o, "-p", "0", "-o", "jim.user=no-such-user", NULL);
    CHECK_INT(o.code, 1);
    CHECK(has(o.err, "no-such-user"));
}

TEST(jail_root_is_warned)
{
    struct server s;

    if (!is_root())
        return;
    server_start(&s, "-o", "jim.log.file=log.txt", NULL);
    struct buf log = read_whole("log.txt");
    CHECK(has(log, "running as root"));
    buf_free(&log);
}

TEST(jail_chroot)
{
    struct server s;

    if (!is_root())
        return;
    if (SANITIZED) { /* it looks for leaks in /proc, which is not there */
        test_note("sanitized: not tested");
        return;
    }
    CHECK(mkdir("cell", 0700) == 0);
    server_start(&s, QUIET, "-o", "jim.chroot=cell", "-o", "jim.store.dir=/kept", "-o",
                 "jim.log.file=/log.txt", NULL);
    CHECK(access("cell/kept", F_OK) == 0 && access("cell/log.txt", F_OK) == 0);
    check_serves(&s);
}

TEST(jail_chroot_is_missing)
{
    struct output o;

    run_jim(&o, "-p", "0", "-o", "jim.chroot=nowhere", NULL);
    CHECK_INT(o.code, 1);
    CHECK(has(o.err, "jim.chroot"));
}

/* This process is a test's own: it can go into the sandbox itself. */
static struct jim *
close_oneself(void)
{
    struct jim *j = jim_new();
    char err[200];

    CHECK(mkdir("data", 0700) == 0 && mkdir("page", 0700) == 0 && mkdir("conf", 0700) == 0);
    write_file("page/index.html", "page");
    CHECK(mkdir("kept", 0700) == 0 && mkdir("certs", 0700) == 0);
    write_file("kept/jim.properties",
               "jim.store.dir=data\njim.http.page=page\njim.ssl.cert=conf/cert.pem\n");
    write_file("certs/1.pem", "one");
    write_file("certs/2.pem", "two");
    CHECK(symlink("../kept/jim.properties", "conf/jim.properties") == 0);
    CHECK(symlink("../certs/1.pem", "conf/cert.pem") == 0);
    write_file("secret", "secret");
    CHECK_INT(jim_load(j, "conf/jim.properties", err, sizeof err), 0);
    j->program = true;
    j->log = (struct log){fopen("data/log", "w"), LOG_LEVEL_DEBUG};
    CHECK(j->log.file != NULL);
    jail_close(j);
    fflush(j->log.file);
    return j;
}

static bool
says(const char *part)
{
    struct buf log = read_whole("data/log");
    bool found = has(log, part);

    buf_free(&log);
    return found;
}

TEST(jail_closes_files)
{
    struct jim *j = close_oneself();

    CHECK(says("sandbox: "));
    if (!says("Landlock version") || says("Landlock version 0")) {
        test_note("no Landlock: not tested");
        jim_free(j);
        return;
    }
    CHECK(open("secret", O_RDONLY) < 0 && errno == EACCES);
    CHECK(open("new", O_WRONLY | O_CREAT, 0600) < 0 && errno == EACCES);
    CHECK(open("page/index.html", O_RDONLY) >= 0);
    CHECK(open("page/index.html", O_WRONLY) < 0);
    /* Links lead to where they led, so that certificates can be renewed by a new link. */
    CHECK(open("conf/jim.properties", O_RDONLY) >= 0);
    CHECK(open("conf/cert.pem", O_RDONLY) >= 0 && open("certs/2.pem", O_RDONLY) >= 0);
    /* What a store does. */
    CHECK(open("data/a.tmp", O_RDWR | O_CREAT | O_TRUNC, 0600) >= 0);
    CHECK(rename("data/a.tmp", "data/a") == 0);
    CHECK(truncate("data/a", 0) == 0);
    CHECK(unlink("data/a") == 0);
    CHECK(open("data", O_RDONLY | O_DIRECTORY) >= 0);
    jim_free(j);
}

TEST(jail_closes_calls)
{
    char *const argv[] = {(char[]){"true"}, NULL};
    struct jim *j = close_oneself();

    if (!says("refused") || says(", 0 system calls")) {
        test_note("no seccomp: not tested");
        jim_free(j);
        return;
    }
    CHECK(execv("/bin/true", argv) < 0 && errno == EPERM);
    CHECK(chroot(".") < 0 && errno == EPERM);
    jim_free(j);
}

TEST(jail_can_be_left_out)
{
    struct server s;

    server_start(&s, "-v", "-o", "jim.sandbox=off", "-o", "jim.log.file=log.txt", NULL);
    struct buf log = read_whole("log.txt");
    CHECK(log.len > 0 && !has(log, "sandbox"));
    buf_free(&log);
}

/* A program that embeds the server stays as it is. */
TEST(jail_is_for_the_program)
{
    struct jim *j = jim_new();
    char err[200];

    CHECK_INT(jim_set(j, "jim.store", "off", err, sizeof err), 0);
    CHECK_INT(jim_set(j, "jim.port", "0", err, sizeof err), 0);
    CHECK_INT(jim_start(j), JIM_OK);
    write_file("new", "x");
    jim_free(j);
}
