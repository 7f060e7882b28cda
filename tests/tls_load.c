/* SPDX-License-Identifier: MIT */
/*
 * tls_load.c - thousands of TLS connections, and what they cost: `make tls-load`. Its figures are
 * its notes; what it checks is that nobody is cut off. Linux: it reads /proc.
 *
 * The peers of client.h do the talking. For comparison nginx, when it is there with its stream
 * module, ends TLS before a jim that speaks plain text.
 */
#include "client.h"

#include <arpa/inet.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define MANY 9000   /* as many as half of 20,000 descriptors allow a process */
#define ROUNDS 30   /* reloads */
#define PAIRS 100
#define TALK 200    /* messages each of them sends */
#define MODULE "/usr/lib/nginx/modules/ngx_stream_module.so"

static void run(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void
run(const char *format, ...)
{
    char command[1024];
    va_list ap;

    va_start(ap, format);
    vsnprintf(command, sizeof command, format, ap);
    va_end(ap);
    CHECK(system(command) == 0);
}

static void
make_cert(const char *name, const char *kind)
{
    run("openssl req -x509 -newkey %s -nodes -days 30 -subj /CN=%s"
        " -addext subjectAltName=DNS:localhost -keyout %s.key -out %s.crt 2>/dev/null",
        kind, name, name, name);
}

#define EC "ec -pkeyopt ec_paramgen_curve:P-256"

/* CPU time of a process with one thread that works, in ns. */
static double
cpu_of(pid_t pid)
{
    char path[64];
    double ns;

    snprintf(path, sizeof path, "/proc/%ld/schedstat", (long)pid);
    struct buf b = read_whole(path);
    CHECK(sscanf(b.p, "%lf", &ns) == 1);
    buf_free(&b);
    return ns;
}

static void
login(struct peer *p, int port, int i)
{
    peer_connect_port(p, port, false);
    sayf(p, 5, "{'userId':'u%d'}", i);
    EXPECT(p, "{'code':10007,<...>");
}

/* --- disconnects ------------------------------------------------------------------------------ */

/* One certificate after the other, both known to every peer. */
static void
swap_cert(const struct server *s, int round)
{
    const char *now = round % 2 ? "two" : "one", *other = round % 2 ? "one" : "two";

    run("cat %s.crt %s.key %s.crt > next.pem; mv next.pem live.pem", now, now, other);
    if (s != NULL)
        CHECK(kill(s->pid, SIGHUP) == 0);
}

static void
talk(struct peer *p, int n, unsigned *seed)
{
    for (int i = 0; i < n; i++) {
        *seed = *seed * 1103515245u + 12345u;
        int from = (int)(*seed >> 8) % MANY, to = (from + 4999) % MANY;
        sayf(&p[from], 11, "{'to':'u%d','chatType':2,'content':'message %d'}", to, i);
        EXPECT(&p[from], "{'code':10000,<...>");
        EXPECT(&p[to], "{'command':11,<...>");
    }
}

TEST(load_reload_cuts_nobody)
{
    const char *const args[] = {QUIET, FAST, "-o", "jim.store=off", NULL};
    static struct peer p[MANY];
    struct rlimit files;
    struct server s;
    struct peer fresh;
    unsigned seed = 1;

    CHECK(getrlimit(RLIMIT_NOFILE, &files) == 0);
    files.rlim_cur = files.rlim_max;
    CHECK(setrlimit(RLIMIT_NOFILE, &files) == 0);
    CHECK(files.rlim_cur > MANY + 1000);
    make_cert("one", EC);
    make_cert("two", EC);
    swap_cert(NULL, 0);
    CHECK(setenv("JIM_TEST_TLS", "live.pem", 1) == 0);
    server_start_with(&s, 0, false, args);
    long before = server_rss(&s);
    double cpu = cpu_of(s.pid);
    for (int i = 0; i < MANY; i++)
        login(&p[i], s.port[0], i);
    test_note("%d idle TLS connections, logged in: %ld bytes each; a handshake and login took "
              "%.0f us of CPU", MANY, (server_rss(&s) - before) / MANY,
              (cpu_of(s.pid) - cpu) / 1e3 / MANY);
    for (int round = 1; round <= ROUNDS; round++) {
        swap_cert(&s, round);
        talk(p, 200, &seed);
        peer_connect(&fresh, &s);
        EXPECT_QUIET(&fresh);
        peer_close(&fresh);
    }
    for (int i = 0; i < MANY; i++) /* every one of them is still there */
        EXPECT_QUIET(&p[i]);
    CHECK_INT(server_stat(&s, "online"), MANY);
    CHECK_INT(server_stat(&s, "tlsFailed"), 0);
    test_note("%d certificate reloads, %d messages meanwhile: 0 disconnects", ROUNDS, 200 * ROUNDS);
    _exit(0); /* 9,000 goodbyes prove nothing more */
}

/* --- cost ------------------------------------------------------------------------------------- */

static int
free_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&a, n) == 0);
    CHECK(getsockname(fd, (struct sockaddr *)&a, &n) == 0);
    close(fd);
    return ntohs(a.sin_port);
}

/* nginx before `port`, one process; its port. */
static int
start_nginx(int port, pid_t *pid)
{
    int own = free_port();
    char text[1024], dir[512];

    CHECK(getcwd(dir, sizeof dir) != NULL);
    snprintf(text, sizeof text,
             "load_module " MODULE ";\ndaemon off;\nmaster_process off;\npid nginx.pid;\n"
             "error_log nginx.log;\nworker_rlimit_nofile 20000;\n"
             "events { worker_connections 9000; }\n"
             "stream { server { listen 127.0.0.1:%d ssl; ssl_certificate one.crt;\n"
             "ssl_certificate_key one.key; ssl_protocols TLSv1.2 TLSv1.3;\n"
             "proxy_pass 127.0.0.1:%d; } }\n", own, port);
    write_file("nginx.conf", text);
    *pid = fork();
    CHECK(*pid >= 0);
    if (*pid == 0) {
        execlp("nginx", "nginx", "-p", dir, "-c", "nginx.conf", "-e", "nginx.log", (char *)NULL);
        _exit(127);
    }
    for (int i = 0; i < 1000; i++) {
        struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)own)};
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        bool up = connect(fd, (struct sockaddr *)&a, sizeof a) == 0;
        close(fd);
        if (up)
            return own;
        CHECK(waitpid(*pid, NULL, WNOHANG) == 0);
        usleep(5000);
    }
    test_fail(__FILE__, __LINE__, "nginx does not listen");
}

struct cost {
    double us;  /* CPU a message */
    long bytes; /* an idle connection */
};

/* PAIRS of peers at `port` talk; what it costs the processes that serve them. */
static struct cost
measure(int port, const struct server *s, pid_t other)
{
    enum { IDLE = 2000 };
    static struct peer idle[IDLE], a[PAIRS], b[PAIRS];
    struct server proxy = {.pid = other};
    struct cost c;

    for (int i = 0; i < PAIRS; i++) {
        login(&a[i], port, i);
        login(&b[i], port, PAIRS + i);
    }
    long rss = server_rss(s) + (other ? server_rss(&proxy) : 0);
    for (int i = 0; i < IDLE; i++)
        login(&idle[i], port, 1000 + i);
    c.bytes = (server_rss(s) + (other ? server_rss(&proxy) : 0) - rss) / IDLE;
    double cpu = cpu_of(s->pid) + (other ? cpu_of(other) : 0);
    for (int n = 0; n < TALK; n++) {
        for (int i = 0; i < PAIRS; i++)
            sayf(&a[i], 11, "{'to':'u%d','chatType':2,'content':'%0100d'}", PAIRS + i, n);
        for (int i = 0; i < PAIRS; i++) {
            EXPECT(&a[i], "{'code':10000,<...>");
            EXPECT(&b[i], "{'command':11,<...>");
        }
    }
    c.us = (cpu_of(s->pid) + (other ? cpu_of(other) : 0) - cpu) / 1e3 / (TALK * PAIRS);
    for (int i = 0; i < IDLE; i++)
        peer_close(&idle[i]);
    for (int i = 0; i < PAIRS; i++) {
        peer_close(&a[i]);
        peer_close(&b[i]);
    }
    return c;
}

TEST(load_cost_of_a_message)
{
    const char *const args[] = {QUIET, FAST, "-o", "jim.store=off", NULL};
    struct server plain, tls;
    struct cost c;
    pid_t nginx;
    int port;

    make_cert("one", EC);
    run("cat one.crt one.key > live.pem");
    unsetenv("JIM_TEST_TLS");
    server_start_with(&plain, 0, false, args);
    c = measure(plain.port[0], &plain, 0);
    test_note("plain text: %.1f us of CPU a message, %ld bytes an idle connection", c.us, c.bytes);
    CHECK(setenv("JIM_TEST_TLS", "live.pem", 1) == 0);
    server_start_with(&tls, 0, false, args);
    c = measure(tls.port[0], &tls, 0);
    test_note("TLS: %.1f us, %ld bytes", c.us, c.bytes);
    if (access(MODULE, R_OK) != 0) {
        test_note("nginx with its stream module is not installed: not compared");
        return;
    }
    port = start_nginx(plain.port[0], &nginx);
    c = measure(port, &plain, nginx);
    test_note("TLS ended by nginx before plain text, both processes: %.1f us, %ld bytes", c.us,
              c.bytes);
    kill(nginx, SIGTERM);
    waitpid(nginx, NULL, 0);
}

/* --- fairness --------------------------------------------------------------------------------- */

static int
by_size(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

/* How long an answer takes while another process does handshakes as fast as it can; RSA signatures
 * are the dear ones. */
TEST(load_handshakes_and_chat)
{
    enum { STORM = 2000, ASKED = 500 };
    const char *const args[] = {QUIET, FAST, "-o", "jim.store=off", "-o", "jim.timeout.detect=60s",
                                NULL};
    static int64_t took[ASKED];
    static struct peer p[STORM];
    struct server s;
    struct peer chat;

    make_cert("rsa", "rsa:2048");
    run("cat rsa.crt rsa.key > live.pem");
    CHECK(setenv("JIM_TEST_TLS", "live.pem", 1) == 0);
    server_start_with(&s, 0, false, args);
    peer_connect(&chat, &s);
    EXPECT_QUIET(&chat);
    pid_t storm = fork();
    CHECK(storm >= 0);
    if (storm == 0) {
        for (int i = 0; i < STORM; i++)
            peer_connect(&p[i], &s); /* its hello is on its way */
        for (int i = 0; i < STORM; i++)
            EXPECT_QUIET(&p[i]);
        _exit(0);
    }
    for (int i = 0; i < ASKED; i++) {
        int64_t start = time_mono_ms();
        EXPECT_QUIET(&chat);
        took[i] = time_mono_ms() - start;
    }
    int status;
    CHECK(waitpid(storm, &status, 0) == storm && status == 0);
    qsort(took, ASKED, sizeof took[0], by_size);
    test_note("during %d RSA handshakes an answer took %lld ms (median), %lld (99%%), %lld at most",
              STORM, (long long)took[ASKED / 2], (long long)took[ASKED * 99 / 100],
              (long long)took[ASKED - 1]);
}
