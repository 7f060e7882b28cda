/* SPDX-License-Identifier: MIT */
/*
 * test_notify.c - what the program tells a service manager: the test is one, with a socket in its
 * own directory (or an abstract one), and the server the sandbox's prisoner.
 */
#include "client.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* A manager's socket; `name` with a leading @ is abstract. */
static int
manager(const char *name)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    size_t n = strlen(name), head = offsetof(struct sockaddr_un, sun_path);
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);

    memcpy(a.sun_path, name, n);
    if (name[0] == '@')
        a.sun_path[0] = '\0';
    CHECK(fd >= 0);
    CHECK(bind(fd, (struct sockaddr *)&a, (socklen_t)(head + n)) == 0);
    CHECK(setenv("NOTIFY_SOCKET", name, 1) == 0);
    return fd;
}

static void
told(int fd, const char *want)
{
    struct pollfd p = {fd, POLLIN, 0};
    char text[600];

    CHECK_INT(poll(&p, 1, WAIT_MS), 1);
    ssize_t n = recv(fd, text, sizeof text - 1, 0);
    CHECK(n > 0);
    text[n] = '\0';
    if (strncmp(text, want, strlen(want)) != 0)
        test_fail(__FILE__, __LINE__, "told '%s', not '%s'", text, want);
}

static void
whole_life(const char *name)
{
    int fd = manager(name);
    struct server s;

    server_start(&s, "-o", "jim.store.dir=elsewhere", NULL);
    told(fd, "READY=1\nSTATUS=listening on 127.0.0.1:");
    CHECK(kill(s.pid, SIGHUP) == 0);
    told(fd, "RELOADING=1\nMONOTONIC_USEC=");
    told(fd, "READY=1\n");
    CHECK_INT(server_end(&s, SIGTERM), 0);
    told(fd, "STOPPING=1\n");
    close(fd);
}

TEST(notify_life_of_a_service)
{
    char name[600];

    CHECK(getcwd(name, 500) != NULL);
    strcat(name, "/notify");
    whole_life(name);
}

TEST(notify_abstract_name)
{
#ifdef __linux__ /* elsewhere there are none */
    char name[64];

    snprintf(name, sizeof name, "@jim-test-%ld", (long)getpid());
    whole_life(name);
#endif
}

/* A manager that is not there, has gone, or does not read is no reason to stop. */
TEST(notify_nobody)
{
    static const char *const names[] = {"", "x", "/nowhere/at/all", "relative", "@"};
    struct server s;

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        CHECK(setenv("NOTIFY_SOCKET", names[i], 1) == 0);
        server_start(&s, NULL);
        CHECK_INT(server_end(&s, SIGTERM), 0);
    }
    char longest[200];
    memset(longest, '/', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    CHECK(setenv("NOTIFY_SOCKET", longest, 1) == 0);
    server_start(&s, NULL);
    CHECK_INT(server_end(&s, SIGTERM), 0);
#ifdef __linux__
    close(manager("@jim-test-gone"));
    server_start(&s, NULL);
    CHECK_INT(server_end(&s, SIGTERM), 0);
    int fd = manager("@jim-test-deaf");
    server_start(&s, NULL);
    for (int i = 0; i < 600; i++)
        CHECK(kill(s.pid, SIGHUP) == 0);
    CHECK_INT(server_end(&s, SIGTERM), 0);
    close(fd);
#endif
}
