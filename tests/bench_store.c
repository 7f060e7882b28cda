/* SPDX-License-Identifier: MIT */
/*
 * bench_store.c - what keeping messages costs. `make bench-store` runs it.
 *
 *   build/bench-store       a real server under load: messages stored a second, CPU, send to ack;
 *                           beside it the disk's own limit, and redis-server appending as safely
 *   build/bench-store big   10 million messages in 10,000 conversations: index, start, history;
 *                           and 10,000 offline messages fetched from 100 conversations
 *
 * BENCH_SECONDS: length of each measurement (2). BENCH_DIR: where the logs go (/tmp): must be on
 * the disk that is meant. BENCH_MILLIONS: size of `big` (10). JIM: the program (./jim).
 *
 *   time and files, processes, clients, measuring, small, big
 */
#ifndef JIM_INTERNAL
#define JIM_INTERNAL
#endif
#include "../store.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#define WINDOW 32    /* messages a sender has on their way: a busy client, not a full pipe */
#define SENDERS 200  /* the most */
#define ROOM (1u << 16)

/* --- time and files --------------------------------------------------------------------------- */

static void
die(const char *what)
{
    fprintf(stderr, "bench-store: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int64_t
now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static double
env_number(const char *name, double otherwise)
{
    const char *text = getenv(name);

    return text != NULL && atof(text) > 0 ? atof(text) : otherwise;
}

/* A directory of its own for everything one run writes. */
static void
make_dir(char *dir, size_t size)
{
    const char *base = getenv("BENCH_DIR");

    snprintf(dir, size, "%s/jim-bench.XXXXXX", base != NULL ? base : "/tmp");
    if (mkdtemp(dir) == NULL)
        die(dir);
}

static void
remove_dir(const char *dir)
{
    pid_t pid = fork();

    if (pid == 0) {
        execlp("rm", "rm", "-rf", dir, (char *)NULL);
        _exit(127);
    }
    waitpid(pid, NULL, 0);
}

static int
compare_u32(const void *a, const void *b)
{
    uint32_t x, y;

    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

struct times { /* in microseconds; owned */
    uint32_t *us;
    size_t n, cap;
};

static void
times_add(struct times *t, int64_t us)
{
    if (t->n == t->cap) {
        t->cap = t->cap == 0 ? 65536 : 2 * t->cap;
        t->us = xrealloc(t->us, t->cap * sizeof t->us[0]);
    }
    t->us[t->n++] = (uint32_t)us;
}

static double
times_ms(const struct times *t, double part)
{
    size_t at = (size_t)(part * (double)t->n);

    return t->n == 0 ? 0 : t->us[at < t->n ? at : t->n - 1] / 1000.0;
}

static void
times_sort(struct times *t)
{
    if (t->n > 0)
        qsort(t->us, t->n, sizeof t->us[0], compare_u32);
}

/* --- processes -------------------------------------------------------------------------------- */

struct process {
    pid_t pid;
    int port;
};

/* CPU seconds of all its threads so far. */
static double
cpu_of(pid_t pid)
{
    char path[64], text[1024], *p;
    unsigned long user = 0, sys = 0;

    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *f = fopen(path, "r");
    if (f == NULL)
        return 0;
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = '\0';
    p = strrchr(text, ')');
    if (p != NULL)
        sscanf(p + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &sys);
    return (double)(user + sys) / (double)sysconf(_SC_CLK_TCK);
}

static long
rss_of(pid_t pid)
{
    char path[64];
    long size = 0, resident = 0;

    snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
    FILE *f = fopen(path, "r");
    if (f == NULL || fscanf(f, "%ld %ld", &size, &resident) != 2)
        resident = 0;
    if (f != NULL)
        fclose(f);
    return resident * sysconf(_SC_PAGESIZE);
}

/* Start the server on a free port and wait until it says that it listens. */
static void
start_jim(struct process *p, const char *dir, const char *sync)
{
    const char *jim = getenv("JIM");
    char option[64], line[256] = "";
    int out[2];

    snprintf(option, sizeof option, "jim.store.sync=%s", sync);
    fflush(stdout); /* or the child would print it once more */
    if (pipe(out) != 0 || (p->pid = fork()) < 0)
        die("fork");
    if (p->pid == 0) {
        dup2(out[1], STDOUT_FILENO);
        close(out[0]);
        close(out[1]);
        if (jim == NULL)
            jim = "./jim";
        execl(jim, jim, "-q", "-p", "0", "-d", dir, "-o", option, "-o", "jim.login.groups=", "-o",
              "jim.rate.messages=0", (char *)NULL);
        _exit(127);
    }
    close(out[1]);
    FILE *f = fdopen(out[0], "r");
    char *colon = fgets(line, sizeof line, f) != NULL ? strrchr(line, ':') : NULL;
    fclose(f);
    if (colon == NULL)
        die("the server did not start");
    p->port = atoi(colon + 1);
}

static void
stop(struct process *p)
{
    int status;

    kill(p->pid, SIGTERM);
    waitpid(p->pid, &status, 0);
}

static int
connect_to(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;

    if (fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof a) == 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        return fd;
    }
    if (fd >= 0)
        close(fd);
    return -1;
}

static int
free_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) != 0 ||
        getsockname(fd, (struct sockaddr *)&a, &n) != 0)
        die("no free port");
    close(fd);
    return ntohs(a.sin_port);
}

/* False when there is no redis-server on this machine. */
static bool
start_redis(struct process *p, const char *dir)
{
    char port[16];
    int fd = -1;

    p->port = free_port();
    snprintf(port, sizeof port, "%d", p->port);
    fflush(stdout);
    if ((p->pid = fork()) < 0)
        die("fork");
    if (p->pid == 0) {
        if (freopen("/dev/null", "w", stdout) == NULL)
            _exit(127);
        execlp("redis-server", "redis-server", "--port", port, "--bind", "127.0.0.1", "--dir", dir,
               "--appendonly", "yes", "--appendfsync", "always", "--save", "", (char *)NULL);
        _exit(127);
    }
    for (int i = 0; i < 500 && (fd = connect_to(p->port)) < 0; i++) {
        if (waitpid(p->pid, NULL, WNOHANG) == p->pid)
            return false;
        nanosleep(&(struct timespec){0, 10000000}, NULL);
    }
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

/* --- clients ---------------------------------------------------------------------------------- */

struct client {
    int fd;
    struct buf request;      /* one message, to be sent again and again */
    size_t id_at;            /* where it has 12 digits to be counted up; 0: it has none */
    uint64_t sent;
    int64_t at[WINDOW];      /* when the messages on their way were sent */
    uint32_t head, on_way;
    char *in;                /* ROOM bytes; owned */
    size_t have;
    struct buf out;
};

/* Count the whole replies in p[0, n) and say how many bytes they take. */
typedef size_t count_replies(const char *p, size_t n, size_t *used);

static void
put_frame(struct buf *b, int cmd, const char *json, size_t n)
{
    uint8_t head[MAX_PKT_HEAD];

    buf_add(b, head, pkt_head(head, (uint8_t)cmd, 0, (uint32_t)n));
    buf_add(b, json, n);
}

static size_t
count_frames(const char *p, size_t n, size_t *used)
{
    size_t count = 0;
    struct pkt pkt;
    ptrdiff_t len;

    *used = 0;
    while ((len = pkt_decode(p + *used, n - *used, ROOM, &pkt)) > 0) {
        if (pkt.cmd != CMD_CHAT_RESP || memcmp(pkt.body.p, "{\"code\":1000", 12) != 0 ||
            pkt.body.p[12] > '1')
            die("a message was refused");
        count++;
        *used += (size_t)len;
    }
    return count;
}

/* "$15\r\n1700000000000-0\r\n" */
static size_t
count_bulks(const char *p, size_t n, size_t *used)
{
    size_t count = 0, lines = 0;

    *used = 0;
    if (n > 0 && p[0] != '$')
        die("Redis refused a command");
    for (size_t i = 0; i < n; i++)
        if (p[i] == '\n' && ++lines % 2 == 0) {
            count++;
            *used = i + 1;
        }
    return count;
}

static void
write_all(int fd, const char *p, size_t n)
{
    while (n > 0) {
        ssize_t put = send(fd, p, n, MSG_NOSIGNAL);
        if (put < 0 && errno != EINTR)
            die("send");
        if (put > 0) {
            p += put;
            n -= (size_t)put;
        }
    }
}

static void
chat_json(struct buf *b, int from, size_t content)
{
    buf_printf(b, "{\"chatType\":2,\"cmd\":11,\"content\":\"");
    for (size_t i = 0; i < content; i++)
        buf_add(b, &"abcdefghijklmnopqrstuvwxyz0123456789"[i % 36], 1);
    buf_printf(b, "\",\"from\":\"s%03d\",\"id\":\"%03d-000000000000\",\"msgType\":0,"
               "\"to\":\"r%03d\"}", from, from, from);
}

/* Where the twelve digits of chat_json()'s id begin. */
static size_t
id_place(const struct client *c)
{
    for (size_t i = c->request.len - 12; i > 0; i--)
        if (memcmp(c->request.p + i, "-000000000000", 13) == 0)
            return i + 1;
    return 0;
}

static void
open_jim_client(struct client *c, int port, int i, size_t content)
{
    struct buf json = {0}, login = {0};
    char in[4096];
    struct pkt pkt;

    c->fd = connect_to(port);
    if (c->fd < 0)
        die("connect");
    buf_printf(&json, "{\"userId\":\"s%03d\",\"password\":\"p\"}", i);
    put_frame(&login, CMD_LOGIN, json.p, json.len);
    write_all(c->fd, login.p, login.len);
    size_t n = 0;
    while (pkt_decode(in, n, sizeof in, &pkt) == 0) {
        ssize_t got = recv(c->fd, in + n, sizeof in - n, 0);
        if (got <= 0)
            die("login");
        n += (size_t)got;
    }
    json.len = 0;
    chat_json(&json, i, content);
    put_frame(&c->request, CMD_CHAT, json.p, json.len);
    c->id_at = id_place(c);
    buf_free(&json);
    buf_free(&login);
}

static void
open_redis_client(struct client *c, int port, int i, size_t content)
{
    struct buf json = {0};

    c->fd = connect_to(port);
    if (c->fd < 0)
        die("connect");
    chat_json(&json, i, content);
    buf_printf(&c->request, "*5\r\n$4\r\nXADD\r\n$6\r\nchat%02d\r\n$1\r\n*\r\n$1\r\nm\r\n$%zu\r\n",
               i % 100, json.len);
    buf_add(&c->request, json.p, json.len);
    buf_add(&c->request, "\r\n", 2);
    c->id_at = id_place(c);
    buf_free(&json);
}

/* Fill the window again, with one write. */
static void
send_more(struct client *c, uint32_t window)
{
    char digits[13];
    int64_t now = now_us();

    c->out.len = 0;
    for (; c->on_way < window; c->on_way++) {
        snprintf(digits, sizeof digits, "%012" PRIu64, ++c->sent % UINT64_C(1000000000000));
        memcpy(c->request.p + c->id_at, digits, 12);
        buf_add(&c->out, c->request.p, c->request.len);
        c->at[(c->head + c->on_way) % WINDOW] = now;
    }
    write_all(c->fd, c->out.p, c->out.len);
}

/* Take what has come. Returns how many messages were acknowledged. */
static size_t
take_replies(struct client *c, count_replies *count, struct times *times)
{
    ssize_t got = recv(c->fd, c->in + c->have, ROOM - c->have, MSG_DONTWAIT);
    size_t used;

    if (got <= 0) {
        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            return 0;
        die("the connection has ended");
    }
    c->have += (size_t)got;
    size_t n = count(c->in, c->have, &used);
    memmove(c->in, c->in + used, c->have - used);
    c->have -= used;
    int64_t now = now_us();
    for (size_t i = 0; i < n; i++, c->head = (c->head + 1) % WINDOW)
        if (times != NULL)
            times_add(times, now - c->at[c->head]);
    c->on_way -= (uint32_t)n;
    return n;
}

/* --- measuring -------------------------------------------------------------------------------- */

struct load {
    int senders;
    uint32_t window;
    size_t content;
    bool redis;
};

struct result {
    double rate, cpu; /* messages a second; CPU seconds a million */
    double p50, p99, p999;
};

/* Keep every sender's window full for `us`. Returns the messages acknowledged. */
static size_t
drive(struct client *c, const struct load *l, int64_t us, struct times *times)
{
    struct pollfd fds[SENDERS];
    int64_t end = now_us() + us;
    size_t done = 0;

    for (int i = 0; i < l->senders; i++) {
        fds[i] = (struct pollfd){.fd = c[i].fd, .events = POLLIN};
        send_more(&c[i], l->window);
    }
    while (now_us() < end) {
        if (poll(fds, (nfds_t)l->senders, 100) < 0 && errno != EINTR)
            die("poll");
        for (int i = 0; i < l->senders; i++)
            if (fds[i].revents != 0) {
                done += take_replies(&c[i], l->redis ? count_bulks : count_frames, times);
                send_more(&c[i], l->window);
            }
    }
    return done;
}

static struct result
measure(const struct process *p, const struct load *l)
{
    struct client *c = xcalloc((size_t)l->senders, sizeof *c);
    struct times times = {0};
    double seconds = env_number("BENCH_SECONDS", 2);

    for (int i = 0; i < l->senders; i++) {
        c[i].in = xmalloc(ROOM);
        (l->redis ? open_redis_client : open_jim_client)(&c[i], p->port, i, l->content);
    }
    drive(&c[0], l, 300000, NULL);
    double cpu = cpu_of(p->pid);
    int64_t start = now_us();
    size_t done = drive(c, l, (int64_t)(seconds * 1e6), &times);
    double took = (double)(now_us() - start) / 1e6;
    cpu = cpu_of(p->pid) - cpu;
    times_sort(&times);
    struct result r = {(double)done / took, done > 0 ? cpu * 1e6 / (double)done : 0,
                       times_ms(&times, 0.5), times_ms(&times, 0.99), times_ms(&times, 0.999)};
    for (int i = 0; i < l->senders; i++) {
        close(c[i].fd);
        free(c[i].in);
        buf_free(&c[i].request);
        buf_free(&c[i].out);
    }
    free(times.us);
    free(c);
    return r;
}

static void
print_row(const char *what, size_t content, int senders, struct result r)
{
    printf("| %-12s | %5zu | %4d | %8.0f | %6.2f | %7.2f | %7.2f | %7.2f |\n", what, content,
           senders, r.rate, r.cpu, r.p50, r.p99, r.p999);
    fflush(stdout);
}

static struct result
run_jim(const struct load *l, const char *sync, const char *name)
{
    struct process p;
    char dir[256];

    make_dir(dir, sizeof dir);
    start_jim(&p, dir, sync);
    struct result r = measure(&p, l);
    stop(&p);
    remove_dir(dir);
    print_row(name, l->content, l->senders, r);
    return r;
}

static struct result
run_redis(struct load l)
{
    struct process p;
    struct result r = {0};
    char dir[256];

    l.redis = true;
    make_dir(dir, sizeof dir);
    if (start_redis(&p, dir)) {
        r = measure(&p, &l);
        stop(&p);
        print_row("redis always", l.content, l.senders, r);
    } else {
        printf("(no redis-server here)\n");
    }
    remove_dir(dir);
    return r;
}

/* Nothing but write() and fdatasync(), one message each: what the disk allows a sender that waits
 * for every one. `batch`: so many in one write. */
static void
run_disk(size_t content, int batch)
{
    size_t line = content + 160, n = line * (size_t)batch; /* about what a record is around it */
    char dir[256], path[300], *p = xmalloc(n);
    struct times times = {0};
    double seconds = env_number("BENCH_SECONDS", 2);

    memset(p, 'x', n);
    make_dir(dir, sizeof dir);
    snprintf(path, sizeof path, "%s/plain", dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (fd < 0)
        die(path);
    int64_t start = now_us(), at = start;
    while (at - start < (int64_t)(seconds * 1e6)) {
        if (write(fd, p, n) != (ssize_t)n || fdatasync(fd) != 0)
            die("write");
        int64_t now = now_us();
        times_add(&times, now - at);
        at = now;
    }
    close(fd);
    remove_dir(dir);
    times_sort(&times);
    struct result r = {(double)times.n * batch * 1e6 / (double)(at - start), 0,
                       times_ms(&times, 0.5), times_ms(&times, 0.99), times_ms(&times, 0.999)};
    print_row(batch == 1 ? "disk alone" : "disk by 1000", content, 1, r);
    free(times.us);
    free(p);
}

/* --- small: the server under load ------------------------------------------------------------- */

static void
judge(const char *what, double is, double target, bool at_most)
{
    printf("%s: %.2f (target %s %.2f): %s\n", what, is, at_most ? "<=" : ">=", target,
           (at_most ? is <= target : is >= target) ? "met" : "NOT MET");
}

static void
run_size(size_t content)
{
    static const int senders[] = {1, 20, SENDERS};
    struct result group = {0}, off = {0}, redis = {0};

    run_disk(content, 1);
    run_disk(content, 1000);
    run_jim(&(struct load){1, 1, content, false}, "group", "group, 1 way");
    for (size_t i = 0; i < sizeof senders / sizeof senders[0]; i++) {
        struct load l = {senders[i], WINDOW, content, false};
        group = run_jim(&l, "group", "group");
        run_jim(&l, "10", "10 ms");
        off = run_jim(&l, "off", "off");
        redis = run_redis(l);
    }
    printf("\n%zu bytes, %d senders:\n", content, SENDERS);
    if (off.cpu > 0)
        judge("  CPU a message, group / off", group.cpu / off.cpu, 1.3, true);
    if (redis.rate > 0) {
        judge("  messages a second, group / redis always", group.rate / redis.rate, 1, false);
        printf("  CPU a message, group / redis always: %.2f\n", group.cpu / redis.cpu);
    }
    judge("  messages a second, group / J-IM's best (2,600)", group.rate / 2600, 50, false);
    judge("  CPU a million, J-IM's (526 s) / group", 526 / group.cpu, 50, false);
    printf("\n");
}

static void
small(void)
{
    static const size_t contents[] = {64, 1024};

    printf("A sender has up to %d messages on their way; \"1 way\": one. CPU: seconds of the\n"
           "server a million messages. Milliseconds from send to acknowledgement.\n\n"
           "| store        | bytes | from |    msg/s |    CPU |     p50 |     p99 |   p99.9 |\n"
           "|--------------|------:|-----:|---------:|-------:|--------:|--------:|--------:|\n",
           WINDOW);
    for (size_t i = 0; i < sizeof contents / sizeof contents[0]; i++)
        run_size(contents[i]);
}

/* --- big: much in the store ------------------------------------------------------------------- */

#define CONVS 10000
#define READING 100     /* users of the second store, */
#define PEERS 100       /* the conversations each is in, */
#define EACH 100        /* and what waits for him in each */

struct big {
    struct store *store;
    struct store_index *index; /* CONVS of them; owned */
    uint64_t *seq;             /* of each */
    struct log log;
};

static void
big_append(struct big *b, uint32_t conv, const char *from, const char *to)
{
    char key[64], json[320];
    uint64_t seq = b->seq[conv] + 1;

    snprintf(key, sizeof key, "p:%s:%s", from, to);
    int n = snprintf(json, sizeof json, "{\"chatType\":2,\"cmd\":11,\"content\":\"What is said is "
                     "about as long as what people type, %08u\",\"createTime\":1700000000000,"
                     "\"from\":\"%s\",\"id\":\"%06u-%010" PRIu64 "\",\"msgType\":0,\"seq\":%" PRIu64
                     ",\"to\":\"%s\"}", conv * 7919u, from, conv, seq, seq, to);
    while (store_append(b->store, REC_MESSAGE, str_of(key), seq, (struct str){json, (size_t)n},
                        INT64_C(1700000000000), &b->index[conv]) == 0) {
        store_commit(b->store); /* it has enough in its buffer */
        store_poll(b->store);
    }
    b->seq[conv] = seq;
}

static void
big_replay(void *arg, const struct store_rec *rec)
{
    struct big *b = arg;

    if (rec->type == REC_MESSAGE)
        store_index_add(&b->index[strtoul(rec->conv.p + 3, NULL, 10) % CONVS], rec);
}

static void
big_open(struct big *b, const char *dir)
{
    struct store_options o = {.dir = dir, .policy = STORE_OFF, .segment = 64u << 20,
                              .log = &b->log, .replay = big_replay, .arg = b};

    b->log = (struct log){stderr, LOG_LEVEL_ERROR};
    b->index = xcalloc(CONVS, sizeof b->index[0]);
    b->seq = xcalloc(CONVS, sizeof b->seq[0]);
    b->store = store_open(&o);
    if (b->store == NULL)
        die(dir);
}

static void
big_close(struct big *b)
{
    if (store_close(b->store) != 0)
        die("closing the store");
    for (size_t i = 0; i < CONVS; i++)
        store_index_free(&b->index[i]);
    free(b->index);
    free(b->seq);
}

static void
big_turn(struct big *b, uint64_t i)
{
    if (i % 1000 != 0)
        return;
    store_commit(b->store);
    store_poll(b->store);
}

/* One message in five goes to conversation 0, so that it is long enough to scroll in. */
static uint64_t
big_write(const char *dir, uint64_t messages)
{
    struct big b;
    uint64_t x = 1;

    big_open(&b, dir);
    int64_t start = now_us();
    for (uint64_t i = 0; i < messages; i++) {
        char from[32], to[32];
        x = x * UINT64_C(6364136223846793005) + 1442695040888963407u;
        uint32_t conv = i % 5 == 0 ? 0 : 1 + (uint32_t)((x >> 33) % (CONVS - 1));
        snprintf(from, sizeof from, "a%05u", conv);
        snprintf(to, sizeof to, "b%05u", conv);
        big_append(&b, conv, from, to);
        big_turn(&b, i);
    }
    uint64_t last = b.seq[0];
    big_close(&b);
    printf("written through store.h, sync off: %.0f messages a second\n",
           (double)messages * 1e6 / (double)(now_us() - start));
    return last;
}

static double
log_bytes(const char *dir)
{
    struct buf names = {0};
    double sum = 0;

    if (store_disk.list(NULL, dir, &names) != 0)
        die(dir);
    for (size_t at = 0; at < names.len; at += strlen(names.p + at) + 1) {
        char path[600];
        struct stat st;
        snprintf(path, sizeof path, "%s/%s", dir, names.p + at);
        if (strstr(path, ".log") != NULL && stat(path, &st) == 0)
            sum += (double)st.st_size;
    }
    buf_free(&names);
    return sum;
}

static void
drop_idx(const char *dir)
{
    struct buf names = {0};

    if (store_disk.list(NULL, dir, &names) != 0)
        die(dir);
    for (size_t at = 0; at < names.len; at += strlen(names.p + at) + 1) {
        char path[600];
        snprintf(path, sizeof path, "%s/%s", dir, names.p + at);
        if (strstr(names.p + at, ".idx") != NULL)
            unlink(path);
    }
    buf_free(&names);
}

static void
big_index(const char *dir, uint64_t messages)
{
#ifdef __GLIBC__
    struct big b;
    struct mallinfo2 before = mallinfo2();

    big_open(&b, dir);
    struct mallinfo2 after = mallinfo2();
    double bytes = (double)(after.uordblks + after.hblkhd - before.uordblks - before.hblkhd) -
                   (double)CONVS * sizeof b.seq[0];
    judge("index, bytes a message (malloc's own included)", bytes / (double)messages, 8, true);
    big_close(&b);
#else
    (void)dir, (void)messages;
#endif
}

static double
big_start(struct process *p, const char *dir, const char *what)
{
    int64_t start = now_us();
    double mb = log_bytes(dir) / 1e6;

    start_jim(p, dir, "group");
    double s = (double)(now_us() - start) / 1e6;
    printf("server start, %s: %.2f s (%.0f MB of log, %.0f MB/s), %.0f MB resident\n", what, s, mb,
           mb / s, (double)rss_of(p->pid) / 1e6);
    return mb / s;
}

/* Ask on a blocking connection; the answer's body is in *in, in front of which is its head. */
static struct str
ask(int fd, struct buf *in, int cmd, const char *json)
{
    struct buf out = {0};
    struct pkt pkt;

    put_frame(&out, cmd, json, strlen(json));
    write_all(fd, out.p, out.len);
    buf_free(&out);
    in->len = 0;
    do {
        buf_reserve(in, ROOM);
        ssize_t got = recv(fd, in->p + in->len, ROOM, 0);
        if (got <= 0)
            die("no answer");
        in->len += (size_t)got;
    } while (pkt_decode(in->p, in->len, 1u << 30, &pkt) == 0);
    return pkt.body;
}

static size_t
count_in(struct str text, const char *part)
{
    size_t n = 0, len = strlen(part);

    for (const char *p = text.p, *end = text.p + text.n;
         p < end && (p = memmem(p, (size_t)(end - p), part, len)) != NULL; p += len)
        n++;
    return n;
}

/* The 50 messages before `seq` of conversation 0, 2,000 times. */
static void
big_page(int port, uint64_t seq, const char *what, double target)
{
    struct buf in = {0};
    struct times times = {0};
    char json[256];
    int fd = connect_to(port);

    ask(fd, &in, CMD_LOGIN, "{\"userId\":\"a00000\",\"password\":\"p\"}");
    snprintf(json, sizeof json, "{\"userId\":\"a00000\",\"fromUserId\":\"b00000\",\"type\":1,"
             "\"count\":50,\"beforeSeq\":%" PRIu64 "}", seq);
    for (int i = 0; i < 2000; i++) {
        int64_t start = now_us();
        struct str body = ask(fd, &in, CMD_MESSAGES, json);
        times_add(&times, now_us() - start);
        if (count_in(body, "\"seq\":") != 50)
            die("a page of history is not 50 messages");
    }
    times_sort(&times);
    printf("%s: p50 %.3f ms, ", what, times_ms(&times, 0.5));
    judge("p99", times_ms(&times, 0.99), target, true);
    close(fd);
    buf_free(&in);
    free(times.us);
}

static void
big_history(const char *dir, uint64_t last)
{
    struct process p;

    big_start(&p, dir, ".idx as they are");
    stop(&p);
    drop_idx(dir);
    double speed = big_start(&p, dir, "without .idx");
    judge("MB of log a second at start", speed, 400, false);
    big_page(p.port, last + 1, "newest 50", 1);
    uint64_t back = last > 1000050 ? last - 1000000 : last / 2;
    big_page(p.port, back, "50, a million messages back", 5);
    stop(&p);
}

static void
offline_write(const char *dir)
{
    struct big b;
    uint64_t i = 0;

    big_open(&b, dir);
    for (uint32_t n = 0; n < EACH; n++)
        for (uint32_t reader = 0; reader < READING; reader++)
            for (uint32_t peer = 0; peer < PEERS; peer++) {
                char from[32], to[32];
                snprintf(from, sizeof from, "p%05u", reader * PEERS + peer);
                snprintf(to, sizeof to, "reader%03u", reader);
                big_append(&b, reader * PEERS + peer, from, to);
                big_turn(&b, ++i);
            }
    big_close(&b);
}

/* All that waits for one reader. Returns how many messages came. */
static size_t
fetch_all(int port, uint32_t reader, struct buf *in, struct times *first)
{
    char json[128];
    size_t n = 0;
    bool more = true;
    int fd = connect_to(port);

    snprintf(json, sizeof json, "{\"userId\":\"reader%03u\",\"password\":\"p\"}", reader);
    ask(fd, in, CMD_LOGIN, json);
    snprintf(json, sizeof json, "{\"userId\":\"reader%03u\",\"type\":0}", reader);
    int64_t start = now_us();
    for (int i = 0; more; i++) {
        struct str body = ask(fd, in, CMD_MESSAGES, json);
        n += count_in(body, "\"seq\":");
        more = count_in(body, "\"more\":true") > 0;
    }
    times_add(first, now_us() - start);
    close(fd);
    return n;
}

static void
offline(const char *dir)
{
    struct process p;
    struct buf in = {0};
    struct times times = {0};
    size_t n = 0;

    offline_write(dir);
    start_jim(&p, dir, "group");
    double cpu = cpu_of(p.pid);
    int64_t start = now_us();
    for (uint32_t reader = 0; reader < READING; reader++)
        n += fetch_all(p.port, reader, &in, &times);
    double s = (double)(now_us() - start) / 1e6;
    cpu = cpu_of(p.pid) - cpu;
    times_sort(&times);
    printf("%d offline messages of %d conversations, by each of %d users one after another:\n"
           "  %zu messages, %.0f a second, %.2f CPU s a million, a user waits %.1f ms (p50)\n",
           PEERS * EACH, PEERS, READING, n, (double)n / s, cpu * 1e6 / (double)n,
           times_ms(&times, 0.5));
    if (n != READING * PEERS * EACH)
        printf("  NOT ALL OF THEM\n");
    stop(&p);
    buf_free(&in);
    free(times.us);
}

static void
big(void)
{
    uint64_t messages = (uint64_t)(env_number("BENCH_MILLIONS", 10) * 1e6);
    char dir[256];

    printf("%" PRIu64 " messages in %d conversations, every fifth in one of them:\n", messages,
           CONVS);
    make_dir(dir, sizeof dir);
    uint64_t last = big_write(dir, messages);
    big_index(dir, messages);
    big_history(dir, last);
    remove_dir(dir);
    make_dir(dir, sizeof dir);
    offline(dir);
    remove_dir(dir);
}

int
main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    if (argc == 1)
        small();
    else if (argc == 2 && strcmp(argv[1], "big") == 0)
        big();
    else {
        fputs("usage: bench-store [big]\n", stderr);
        return 1;
    }
    return 0;
}
