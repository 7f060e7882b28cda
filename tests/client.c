/* SPDX-License-Identifier: MIT */
/*
 * client.c - see client.h.
 *
 *   server     fork, exec, the readiness line, signals, exit codes
 *   transport  plain text, or TLS
 *   peers      sockets with deadlines
 *   saying     frames put together
 *   hearing    frames taken apart
 *   expecting  texts compared
 *   HTTP       requests and responses
 */
#include "client.h"
#include "ports.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#if SANITIZED
#include <sanitizer/lsan_interface.h>
#endif

#define MAX_ARGS 40
#define MAX_SERVERS 10

/* What runs, and the highest descriptor of a peer: to be ended when the test has passed. */
static struct server running[MAX_SERVERS];
static int highest;
static struct tls_client *trust; /* whom all peers trust, when they speak TLS */

/* --- server ----------------------------------------------------------------------------------- */

static int
left_of(int64_t deadline)
{
    int64_t left = deadline - time_mono_ms();

    return left > 0 ? (int)left : 0;
}

/* Is fd ready before the deadline? */
static bool
wait_for(int fd, short events, int64_t deadline)
{
    struct pollfd f = {.fd = fd, .events = events};
    int n;

    while ((n = poll(&f, 1, left_of(deadline))) < 0 && errno == EINTR)
        ;
    return n > 0;
}

bool
through_tls(void)
{
    return getenv("JIM_TEST_TLS") != NULL;
}

static bool
in_cluster(void)
{
    return cluster_port != NULL && getenv("JIM_TEST_CLUSTER") != NULL;
}

static const char *
tls_cert(void)
{
    static char option[4096];

    snprintf(option, sizeof option, "jim.ssl.cert=%s", getenv("JIM_TEST_TLS"));
    return option;
}

static const char *
program(void)
{
    static char path[4096];
    const char *jim = getenv("JIM");

    if (jim == NULL)
        snprintf(path, sizeof path, "%s/jim", test_source());
    return jim != NULL ? jim : path;
}

/* Append the arguments of a variadic call up to its NULL. */
static size_t
gather(const char **argv, size_t n, const char *arg, va_list ap)
{
    for (; arg != NULL; arg = va_arg(ap, const char *)) {
        CHECK(n < MAX_ARGS - 1);
        argv[n++] = arg;
    }
    argv[n] = NULL;
    return n;
}

static int
close_on_exec(int fd)
{
    CHECK(fd >= 0 && fcntl(fd, F_SETFD, FD_CLOEXEC) == 0);
    return fd;
}

/* *alive becomes readable when the process has ended: it alone holds the pipe's other end. */
static pid_t
spawn(const char **argv, int files, int out, int err, int *alive)
{
    struct rlimit limit;
    int life[2];
    pid_t pid;

    fflush(stdout);
    CHECK(pipe(life) == 0);
    *alive = close_on_exec(life[0]);
    pid = fork();
    CHECK(pid >= 0);
    if (pid > 0) {
        close(life[1]);
        return pid;
    }
    if (files > 0) {
        limit.rlim_cur = limit.rlim_max = (rlim_t)files;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    if (dup2(out, 1) < 0 || (err >= 0 && dup2(err, 2) < 0))
        _exit(126);
    execv(argv[0], (char *const *)(uintptr_t)argv);
    _exit(127);
}

static int
exit_code(pid_t pid, int alive)
{
    int status;

    CHECK(wait_for(alive, POLLIN, time_mono_ms() + WAIT_MS));
    close(alive);
    CHECK(waitpid(pid, &status, 0) == pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* "jim: listening on 127.0.0.1:8888 127.0.0.1:9000": the ports. */
static void
read_ready(struct server *s, int fd)
{
    int64_t deadline = time_mono_ms() + WAIT_MS;
    struct str rest, address;
    size_t n = 0, ports = 0;
    ssize_t got;

    while (n == 0 || s->ready[n - 1] != '\n') {
        CHECK(n < sizeof s->ready - 1);
        CHECK(wait_for(fd, POLLIN, deadline));
        got = read(fd, s->ready + n, sizeof s->ready - 1 - n);
        if (got <= 0)
            test_fail(__FILE__, __LINE__, "jim ended with %d before it listened",
                      exit_code(s->pid, s->alive));
        n += (size_t)got;
    }
    s->ready[n - 1] = '\0';
    CHECK(strncmp(s->ready, "jim: listening on ", 18) == 0);
    rest = str_of(s->ready + 18);
    while (ports < 4 && str_split(&rest, ' ', &address)) {
        const char *colon = address.p + address.n;
        while (colon > address.p && *--colon != ':')
            ;
        s->port[ports++] = atoi(colon + 1);
    }
}

/*
 * At the end of a test that has passed: its server must be alive still, and must end well. With a
 * sanitizer that is where it speaks of leaks.
 */
static void
end_running(void)
{
    for (int fd = 3; fd <= highest; fd++) {
        bool alive = false;
        for (int i = 0; i < MAX_SERVERS; i++)
            alive |= running[i].pid != 0 && running[i].alive == fd;
        if (!alive)
            close(fd); /* a server waits a moment for peers that do not */
    }
    for (int i = 0; i < MAX_SERVERS; i++) {
        struct server s = running[i];
        if (s.pid != 0)
            CHECK_INT(server_end(&s, SIGTERM), 0);
    }
}

/* What a test allocates lives until its end; leaks are looked for in the server. */
void
test_begins(void)
{
    static bool begun;

    if (begun)
        return;
    begun = true;
#if SANITIZED
    __lsan_disable();
#endif
    CHECK(atexit(end_running) == 0);
}

static void
note_running(const struct server *s)
{
    int i = 0;

    while (i < MAX_SERVERS && running[i].pid != 0)
        i++;
    CHECK(i < MAX_SERVERS);
    running[i] = *s;
}

void
server_start_with(struct server *s, int files, bool own_ports, const char *const *args)
{
    char any[8] = "0";
    const char *argv[MAX_ARGS] = {program(), "-d", "data", "-p", any};
    size_t n = own_ports ? 3 : 5;
    int out[2];

    if (!own_ports) /* so that it may come back to it */
        snprintf(any, sizeof any, "%d", reserve_port(0));
    for (; *args != NULL; args++) {
        CHECK(n < MAX_ARGS - 11);
        argv[n++] = *args;
    }
    if (through_tls()) {
        const char *const more[] = {"-o", "jim.ssl=on", "-o", "jim.ssl.only=on", "-o", tls_cert()};
        memcpy(&argv[n], more, sizeof more);
        n += sizeof more / sizeof more[0];
    }
    if (in_cluster()) {
        static char port[40];
        snprintf(port, sizeof port, "jim.redis.port=%d", cluster_port());
        const char *const more[] = {"-o", "jim.cluster=on", "-o", port};
        memcpy(&argv[n], more, sizeof more);
        n += sizeof more / sizeof more[0];
    }
    argv[n] = NULL;
    *s = (struct server){0};
    test_begins();
    CHECK(pipe(out) == 0);
    close_on_exec(out[0]);
    close_on_exec(out[1]);
    s->pid = spawn(argv, files, out[1], -1, &s->alive);
    close(out[1]);
    read_ready(s, out[0]);
    close(out[0]);
    note_running(s);
    if (in_cluster())
        cluster_ready(s);
}

void
server_start(struct server *s, const char *arg, ...)
{
    const char *args[MAX_ARGS];
    va_list ap;

    va_start(ap, arg);
    gather(args, 0, arg, ap);
    va_end(ap);
    server_start_with(s, 0, false, args);
}

int
server_end(struct server *s, int sig)
{
    CHECK(kill(s->pid, sig) == 0);
    for (int i = 0; i < MAX_SERVERS; i++)
        if (running[i].pid == s->pid)
            running[i].pid = 0;
    return exit_code(s->pid, s->alive);
}

void
server_restart(struct server *s, int sig, const char *arg, ...)
{
    const char *args[MAX_ARGS];
    va_list ap;

    CHECK_INT(server_end(s, sig), sig == SIGKILL ? 128 + SIGKILL : 0);
    va_start(ap, arg);
    gather(args, 0, arg, ap);
    va_end(ap);
    server_start_with(s, 0, false, args);
}

long long
server_stat(const struct server *s, const char *key)
{
    struct reply r = ask_for(s, "GET", "/api/stats", "", NULL);
    struct peer p = {.text = r.body};

    CHECK_INT(r.status, 200);
    return number(&p, key);
}

long
server_rss(const struct server *s)
{
    char path[64];
    long pages;

    snprintf(path, sizeof path, "/proc/%ld/statm", (long)s->pid);
    struct buf text = read_whole(path);
    CHECK(text.len > 0 && sscanf(text.p, "%*d %ld", &pages) == 1);
    buf_free(&text);
    return pages * sysconf(_SC_PAGESIZE);
}

void
write_file(const char *path, const char *text)
{
    write_whole(path, text, strlen(text));
}

/* Run argv; mode: how its standard output is open, which is a file. */
static void
run_with(struct output *o, const char **argv, int mode)
{
    int out, err, alive;
    pid_t pid;

    test_begins();
    out = close_on_exec(open("run.out", O_CREAT | O_TRUNC | mode, 0600));
    err = close_on_exec(open("run.err", O_CREAT | O_TRUNC | O_RDWR, 0600));
    pid = spawn(argv, 0, out, err, &alive);
    o->code = exit_code(pid, alive);
    close(out);
    close(err);
    o->out = read_whole("run.out");
    o->err = read_whole("run.err");
    printf("%s%s", o->out.p, o->err.p); /* shown if the test fails */
}

void
run_jim(struct output *o, const char *arg, ...)
{
    const char *argv[MAX_ARGS] = {program()};
    va_list ap;

    va_start(ap, arg);
    gather(argv, 1, arg, ap);
    va_end(ap);
    run_with(o, argv, O_RDWR);
}

void
run_jim_unheard(struct output *o, const char *arg, ...)
{
    const char *argv[MAX_ARGS] = {program()};
    va_list ap;

    va_start(ap, arg);
    gather(argv, 1, arg, ap);
    va_end(ap);
    run_with(o, argv, O_RDONLY);
}

bool
has(struct buf text, const char *part)
{
    return text.len > 0 && memmem(text.p, text.len, part, strlen(part)) != NULL;
}

/* --- transport -------------------------------------------------------------------------------- */

static void
tls_begin(struct peer *p)
{
    char err[256];

    if (trust == NULL && (trust = tls_client_new(getenv("JIM_TEST_TLS"), err, sizeof err)) == NULL)
        test_fail(__FILE__, __LINE__, "%s", err);
    p->tls = tls_connect(trust, p->fd, "localhost");
    CHECK(p->tls != NULL);
}

/* As recv() with p->in behind it: > 0, 0 at the end, -1 with errno. */
static ssize_t
peer_recv(struct peer *p, size_t room)
{
    static char all[65536];
    ssize_t got;

    if (p->tls == NULL) {
        buf_reserve(&p->in, room);
        got = recv(p->fd, p->in.p + p->in.len, p->in.cap - p->in.len, 0);
        p->in.len += got > 0 ? (size_t)got : 0;
        return got;
    }
    got = tls_read(p->tls, all, sizeof all);
    if (got > 0)
        buf_add(&p->in, all, (size_t)got);
    return got;
}

static ssize_t
peer_send(struct peer *p, const char *at, size_t n)
{
    struct iovec v = {(void *)(uintptr_t)at, n};

    return p->tls == NULL ? send(p->fd, at, n, 0) : tls_write(p->tls, &v, 1);
}

/* Until there is something to be received, or room to send. With TLS what is there to be received
 * has been: it is in p->in, or is the end. */
static bool
peer_wait(struct peer *p, short events, int64_t deadline)
{
    while (p->tls != NULL) {
        unsigned tls = tls_state(p->tls);
        bool reads = events & POLLIN || !(tls & TLS_READY); /* a handshake is answers to answers */
        if (tls & TLS_OVER && reads)
            return true;
        if (!wait_for(p->fd, (short)((reads ? POLLIN : 0) |
                                     (tls & TLS_PENDING || !reads ? POLLOUT : 0)), deadline))
            return false;
        tls_flush(p->tls);
        if (!reads || peer_recv(p, 0) >= 0 || errno != EAGAIN)
            return true;
    }
    return wait_for(p->fd, events, deadline);
}

static void
peer_gone(struct peer *p)
{
    tls_free(p->tls);
    p->tls = NULL;
    close(p->fd);
}

/* --- peers ------------------------------------------------------------------------------------ */

void
peer_connect_port(struct peer *p, int port, bool slow)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int one = 1, little = 4096, segment = 536;

    *p = (struct peer){.proto = PROTO_TCP};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    p->fd = close_on_exec(socket(AF_INET, SOCK_STREAM, 0));
    highest = p->fd > highest ? p->fd : highest;
    if (slow) { /* small segments keep the sender's buffer small, too */
        CHECK(setsockopt(p->fd, SOL_SOCKET, SO_RCVBUF, &little, sizeof little) == 0);
        CHECK(setsockopt(p->fd, IPPROTO_TCP, TCP_MAXSEG, &segment, sizeof segment) == 0);
    }
    CHECK(connect(p->fd, (struct sockaddr *)&a, sizeof a) == 0);
    CHECK(setsockopt(p->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) == 0);
    CHECK(fcntl(p->fd, F_SETFL, O_NONBLOCK) == 0);
    if (through_tls())
        tls_begin(p);
}

void
peer_connect(struct peer *p, const struct server *s)
{
    peer_connect_port(p, s->port[0], false);
}

void
peer_upgrade(struct peer *p, const char *target)
{
    struct buf b = {0};
    struct reply r;

    buf_printf(&b,
               "GET %s HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
               "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
               "Sec-WebSocket-Version: 13\r\n\r\n", target);
    put(p, b.p, b.len);
    buf_free(&b);
    hear_reply(p, &r, true);
    CHECK_INT(r.status, 101);
    CHECK_STR(header(&r, "sec-websocket-accept"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    p->proto = PROTO_WS;
}

void
peer_open(struct peer *p, const struct server *s, enum proto proto)
{
    peer_connect(p, s);
    if (proto == PROTO_WS)
        peer_upgrade(p, "/");
}

void
peer_open_slow(struct peer *p, const struct server *s, enum proto proto)
{
    peer_connect_port(p, s->port[0], true);
    if (proto == PROTO_WS)
        peer_upgrade(p, "/");
}

void
peer_login(struct peer *p, const struct server *s, enum proto proto, const char *user)
{
    peer_open(p, s, proto);
    sayf(p, 5, "{'userId':'%s','password':'x'}", user);
    EXPECT(p, "{'code':10007,'command':6,'msg':'ok 登录成功!','user':{<...>");
}

void
peer_close(struct peer *p)
{
    if (p->tls != NULL)
        tls_close(p->tls);
    peer_gone(p);
    buf_free(&p->in);
    buf_free(&p->held);
    p->fd = -1;
}

void
peer_shut(struct peer *p)
{
    if (p->tls != NULL)
        CHECK_INT(tls_close(p->tls), 1);
    CHECK(shutdown(p->fd, SHUT_WR) == 0);
}

void
peer_abort(struct peer *p)
{
    struct linger now = {.l_onoff = 1};

    CHECK(setsockopt(p->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now) == 0);
    tls_free(p->tls);
    p->tls = NULL;
    peer_close(p);
}

/* --- saying ----------------------------------------------------------------------------------- */

static void
put_now(struct peer *p, const char *at, size_t n)
{
    int64_t deadline = time_mono_ms() + WAIT_MS;

    while (n > 0) {
        ssize_t sent = peer_send(p, at, n);
        if (sent < 0 && (errno == EPIPE || errno == ECONNRESET || errno == EPROTO))
            return; /* whoever listens next will notice */
        if (sent < 0) {
            CHECK(errno == EAGAIN || errno == EINTR);
            CHECK(peer_wait(p, POLLOUT, deadline));
            continue;
        }
        at += sent;
        n -= (size_t)sent;
    }
}

void
put(struct peer *p, const void *bytes, size_t n)
{
    if (p->holding)
        buf_add(&p->held, bytes, n);
    else
        put_now(p, bytes, n);
}

void
peer_hold(struct peer *p)
{
    p->holding = true;
}

void
peer_release(struct peer *p, size_t piece)
{
    p->holding = false;
    for (size_t at = 0, step; at < p->held.len; at += step) {
        step = p->held.len - at < piece ? p->held.len - at : piece;
        put_now(p, p->held.p + at, step);
    }
    buf_free(&p->held);
}

void
put_str(struct peer *p, const char *text)
{
    put(p, text, strlen(text));
}

static void
put_u32(struct buf *b, uint32_t n)
{
    unsigned char c[4] = {(unsigned char)(n >> 24), (unsigned char)(n >> 16),
                          (unsigned char)(n >> 8), (unsigned char)n};

    buf_add(b, c, 4);
}

static void
put_byte(struct buf *b, int c)
{
    char byte = (char)c;

    buf_add(b, &byte, 1);
}

/* JSON written with ' for ". */
static void
put_json(struct buf *b, const char *json)
{
    size_t start = b->len;

    buf_add(b, json, strlen(json));
    for (size_t i = start; i < b->len; i++)
        if (b->p[i] == '\'')
            b->p[i] = '"';
}

static void
say_tcp(struct peer *p, int mask, int seq, int cmd, const char *json)
{
    struct buf b = {0};

    put_byte(&b, 1);
    put_byte(&b, mask);
    if (mask & 0x20)
        put_u32(&b, (uint32_t)seq);
    put_byte(&b, cmd);
    put_u32(&b, (uint32_t)strlen(json));
    put_json(&b, json);
    put(p, b.p, b.len);
    buf_free(&b);
}

void
ws_put(struct peer *p, int first, const void *payload, size_t n)
{
    static const unsigned char key[4] = {0x37, 0xfa, 0x21, 0x3d};
    struct buf b = {0};

    put_byte(&b, first);
    put_byte(&b, 0x80 | (n < 126 ? (int)n : n < 65536 ? 126 : 127));
    if (n >= 65536)
        put_u32(&b, 0);
    if (n >= 65536)
        put_u32(&b, (uint32_t)n);
    else if (n >= 126) {
        put_byte(&b, (int)(n >> 8));
        put_byte(&b, (int)(n & 255));
    }
    buf_add(&b, key, 4);
    buf_add(&b, payload, n);
    for (size_t i = 0; i < n; i++)
        b.p[b.len - n + i] = (char)(b.p[b.len - n + i] ^ key[i % 4]);
    put(p, b.p, b.len);
    buf_free(&b);
}

void
ws_put_str(struct peer *p, int first, const char *payload)
{
    ws_put(p, first, payload, strlen(payload));
}

static void
say_ws(struct peer *p, int cmd, const char *json)
{
    struct buf b = {0};

    if (json[0] == '\0')
        json = "{}";
    CHECK(json[0] == '{'); /* else there is nowhere to say which command it is */
    buf_printf(&b, "{\"cmd\":%d%s", cmd, json[1] == '}' ? "" : ",");
    put_json(&b, json + 1);
    ws_put(p, 0x81, b.p, b.len);
    buf_free(&b);
}

void
say(struct peer *p, int cmd, const char *json)
{
    if (p->proto == PROTO_WS)
        say_ws(p, cmd, json);
    else
        say_tcp(p, 0x51, 0, cmd, json);
}

void
say_seq(struct peer *p, int seq, int cmd, const char *json)
{
    say_tcp(p, 0x71, seq, cmd, json);
}

void
say_mask(struct peer *p, int mask, int cmd, const char *json)
{
    say_tcp(p, mask, 0, cmd, json);
}

void
sayf(struct peer *p, int cmd, const char *format, ...)
{
    va_list ap;
    char *json;

    va_start(ap, format);
    CHECK(vasprintf(&json, format, ap) >= 0);
    va_end(ap);
    say(p, cmd, json);
    free(json);
}

/* --- hearing ---------------------------------------------------------------------------------- */

/* Have n bytes behind the used ones; false at the end of the connection. */
static bool
fill(struct peer *p, size_t n, int64_t deadline)
{
    while (p->in.len - p->used < n) {
        size_t room = n - (p->in.len - p->used);
        if (!peer_wait(p, POLLIN, deadline))
            test_fail(__FILE__, __LINE__, "nothing came in %d ms; %zu bytes so far: %.*s", WAIT_MS,
                      p->in.len - p->used, (int)(p->in.len - p->used), p->in.p + p->used);
        if (p->in.len - p->used >= n)
            break; /* it came with the handshake */
        ssize_t got = peer_recv(p, room < 512 ? 512 : room);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
            return false;
    }
    return true;
}

static const unsigned char *
unread(const struct peer *p)
{
    return (const unsigned char *)p->in.p + p->used;
}

static void
forget(struct peer *p)
{
    buf_drop(&p->in, p->used);
    p->used = 0;
    p->text = (struct str){NULL, 0};
}

/* The n bytes behind the next `head`: what is said. */
static bool
take(struct peer *p, size_t head, size_t n, int64_t deadline)
{
    if (!fill(p, head + n, deadline))
        return false;
    p->text = (struct str){p->in.p + p->used + head, n};
    p->used += head + n;
    return true;
}

static uint32_t
u32_at(const unsigned char *b)
{
    return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

static bool
hear_tcp(struct peer *p, int64_t deadline)
{
    size_t head;

    if (!fill(p, 2, deadline))
        return false;
    CHECK_INT(unread(p)[0], 1);
    p->mask = unread(p)[1];
    head = p->mask & 0x20 ? 11 : 7;
    if (!fill(p, head, deadline))
        return false;
    p->seq = p->mask & 0x20 ? u32_at(unread(p) + 2) : 0;
    p->cmd = unread(p)[head - 5];
    return take(p, head, u32_at(unread(p) + head - 4), deadline);
}

static bool
hear_ws(struct peer *p, int64_t deadline)
{
    size_t head = 2, n;

    if (!fill(p, 2, deadline))
        return false;
    p->op = unread(p)[0];
    n = unread(p)[1]; /* a mask bit would show as a length from 128 on */
    CHECK(n <= 127);
    if (n >= 126) {
        head = n == 126 ? 4 : 10;
        if (!fill(p, head, deadline))
            return false;
        n = u32_at(unread(p) + head - 4);
        if (head == 4)
            n &= 0xffff;
        else
            CHECK_INT(u32_at(unread(p) + 2), 0);
        CHECK(n >= (head == 4 ? 126u : 65536u)); /* the shortest form, always */
    }
    if (!take(p, head, n, deadline))
        return false;
    p->code = 0;
    if (p->op == 0x88 && n >= 2)
        p->code = (uint16_t)((unsigned char)p->text.p[0] << 8 | (unsigned char)p->text.p[1]);
    return true;
}

bool
hear(struct peer *p)
{
    int64_t deadline = time_mono_ms() + WAIT_MS;

    forget(p);
    return p->proto == PROTO_WS ? hear_ws(p, deadline) : hear_tcp(p, deadline);
}

bool
hear_bytes(struct peer *p, size_t n)
{
    forget(p);
    return take(p, 0, n, time_mono_ms() + WAIT_MS);
}

bool
peer_ready(struct peer *p, int64_t ms)
{
    return p->in.len > p->used || peer_wait(p, POLLIN, time_mono_ms() + ms);
}

void
peer_drain(struct peer *p)
{
    while (peer_recv(p, 65536) > 0)
        p->in.len = 0;
    p->in.len = p->used = 0;
}

void
hear_end(struct peer *p)
{
    while (hear_bytes(p, 1))
        ;
}

bool
heard(const struct peer *p, const char *part)
{
    return p->text.n > 0 && memmem(p->text.p, p->text.n, part, strlen(part)) != NULL;
}

long long
number(const struct peer *p, const char *key)
{
    char quoted[64];
    const char *at;
    long long n = 0;

    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    at = p->text.n == 0 ? NULL : memmem(p->text.p, p->text.n, quoted, strlen(quoted));
    if (at == NULL)
        return -1;
    for (at += strlen(quoted); at < p->text.p + p->text.n && *at >= '0' && *at <= '9'; at++)
        n = n * 10 + *at - '0';
    return n;
}

/* --- expecting -------------------------------------------------------------------------------- */

/* How many bytes of `got` a wildcard takes; 0: they are not what it stands for. */
static size_t
span_of(struct str got, const char *wildcard)
{
    int64_t ms = 0, off;
    size_t n = 0;

    if (strncmp(wildcard, "<...>", 5) == 0)
        return got.n;
    if (strncmp(wildcard, "<id>", 4) == 0) {
        while (n < got.n && n < 32 && strchr("0123456789abcdef", got.p[n]) != NULL)
            n++;
        return n == 32 ? 32 : 0;
    }
    for (; n < got.n && n < 15 && got.p[n] >= '0' && got.p[n] <= '9'; n++)
        ms = ms * 10 + got.p[n] - '0';
    off = time_wall_ms() - ms;
    return off > -600000 && off < 600000 ? n : 0;
}

/* `want` with its wildcards replaced by what stands in their place in `got`. */
static void
fill_in(struct buf *b, struct str got, const char *want, const char *terminal)
{
    while (*want != '\0') {
        const char *end = *want == '<' ? strchr(want, '>') : NULL;
        if (end == NULL) {
            put_byte(b, *want == '\'' ? '"' : *want);
            want++;
            continue;
        }
        if (strncmp(want, "<'>", 3) == 0)
            put_byte(b, '\'');
        else if (strncmp(want, "<terminal>", 10) == 0)
            buf_add(b, terminal, strlen(terminal));
        else {
            size_t at = b->len < got.n ? b->len : got.n;
            struct str rest = {got.p + at, got.n - at};
            size_t n = span_of(rest, want);
            if (n > 0)
                buf_add(b, rest.p, n);
            else
                buf_add(b, want, (size_t)(end + 1 - want));
        }
        want = end + 1;
    }
}

void
check_like(const char *file, int line, struct str got, const char *want, const char *terminal)
{
    struct buf b = {0};

    fill_in(&b, got, want, terminal);
    test_bytes(file, line, "what came", got.p, got.n, b.len ? b.p : "", b.len);
    buf_free(&b);
}

void
expect(const char *file, int line, struct peer *p, int seq, const char *want)
{
    if (!hear(p))
        test_fail(file, line, "connection ended instead of %s", want);
    check_like(file, line, p->text, want, p->proto == PROTO_WS ? "ws" : "tcp");
    if (p->proto == PROTO_WS) {
        test_int(file, line, "first byte of the frame", p->op, 0x81);
        return;
    }
    test_int(file, line, "mask", p->mask, seq > 0 ? 0x71 : 0x51);
    test_int(file, line, "sequence number", p->seq, seq);
    test_int(file, line, "cmd byte", p->cmd, number(p, "command"));
}

void
expect_raw(const char *file, int line, struct peer *p, const char *want, size_t n)
{
    if (!hear_bytes(p, n))
        test_fail(file, line, "connection ended");
    test_bytes(file, line, "what came", p->text.p, p->text.n, want, n);
}

void
expect_end(const char *file, int line, struct peer *p)
{
    if (hear(p))
        test_fail(file, line, "not the end, but %.*s", (int)p->text.n, p->text.p);
    test_int(file, line, "bytes before the end", (long long)p->in.len, 0);
}

void
expect_quiet(const char *file, int line, struct peer *p)
{
    say(p, 13, "");
    expect(file, line, p, 0, "{'command':13,'data':{'hbbyte':-128}}");
}

void
expect_frame(const char *file, int line, struct peer *p, int first, const char *want, size_t n)
{
    if (!hear(p))
        test_fail(file, line, "connection ended");
    test_int(file, line, "first byte of the frame", p->op, first);
    test_bytes(file, line, "payload", p->text.p, p->text.n, want, n);
}

void
expect_close(const char *file, int line, struct peer *p, int code)
{
    if (!hear(p))
        test_fail(file, line, "connection ended without a CLOSE frame");
    test_int(file, line, "first byte of the frame", p->op, 0x88);
    test_int(file, line, "close code", p->code, code);
    expect_end(file, line, p);
}

/* --- HTTP ------------------------------------------------------------------------------------- */

struct str
header(const struct reply *r, const char *name)
{
    size_t n = strlen(name);
    struct str rest = r->head, line;

    while (str_split(&rest, '\n', &line))
        if (line.n > n && line.p[n] == ':' && str_ieq((struct str){line.p, n}, str_of(name)))
            return str_trim((struct str){line.p + n + 1, line.n - n - 1});
    return (struct str){"", 0};
}

void
hear_reply(struct peer *p, struct reply *r, bool head)
{
    int64_t deadline = time_mono_ms() + WAIT_MS;
    const char *end = NULL;
    size_t n = 1, length = 0;
    struct str text;

    forget(p);
    *r = (struct reply){0};
    while (end == NULL) {
        if (!fill(p, n, deadline))
            return;
        n = p->in.len + 1;
        end = memmem(p->in.p, p->in.len, "\r\n\r\n", 4);
    }
    n = (size_t)(end - p->in.p) + 4;
    CHECK(n > 13 && memcmp(p->in.p, "HTTP/1.1 ", 9) == 0);
    r->head = (struct str){p->in.p, n};
    r->status = atoi(p->in.p + 9);
    text = header(r, "content-length");
    for (size_t i = 0; i < text.n; i++)
        length = length * 10 + (size_t)(text.p[i] - '0');
    if (head || r->status == 304 || r->status == 204 || r->status < 200)
        length = 0;
    if (!take(p, n, length, deadline))
        test_fail(__FILE__, __LINE__, "response cut off: %zu of %zu bytes", p->in.len, n + length);
    r->head = (struct str){p->in.p, n};
    r->body = p->text;
}

struct reply
ask(const struct server *s, const char *request)
{
    static struct peer p; /* so that the answer outlives the connection */
    struct reply r;

    buf_free(&p.in);
    peer_connect(&p, s);
    put_str(&p, request);
    hear_reply(&p, &r, strncmp(request, "HEAD ", 5) == 0);
    peer_gone(&p);
    return r;
}

struct reply
ask_for(const struct server *s, const char *method, const char *target, const char *headers,
        const char *body)
{
    struct buf b = {0};
    struct reply r;

    buf_printf(&b, "%s %s HTTP/1.1\r\nHost: localhost\r\n%s", method, target, headers);
    if (body != NULL)
        buf_printf(&b, "Content-Length: %zu\r\n", strlen(body));
    buf_printf(&b, "\r\n%s", body != NULL ? body : "");
    put_byte(&b, '\0');
    r = ask(s, b.p);
    buf_free(&b);
    return r;
}

struct reply
api_send(const struct server *s, const char *json)
{
    struct buf b = {0};
    struct reply r;

    put_json(&b, json);
    put_byte(&b, '\0');
    r = ask_for(s, "POST", "/api/message/send", "Content-Type: application/json\r\n", b.p);
    buf_free(&b);
    return r;
}
