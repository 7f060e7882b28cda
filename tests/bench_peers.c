/* SPDX-License-Identifier: MIT */
/*
 * bench_peers.c - jim beside redis-server (pub/sub), nats-server, mosquitto (QoS 0 and 1) and a
 * relay that does nothing but read and write: the same work on each, in short turns one after
 * another, so that whatever else the machine is doing is shared by all. `make bench-peers` runs it
 * and puts what it prints into docs/benchmarks.md.
 *
 * The figure is CPU seconds of the server, all threads, a million deliveries: throughput would
 * measure this generator as well. It never sleeps in a turn: who finds it asleep pays for waking
 * it, several microseconds on a virtual machine, and how often that is depends on how fast it reads
 * and not on the server; from a network card nobody pays. With BENCH_SLEEP it does sleep.
 * BENCH_ROUNDS (15), BENCH_SLICE (seconds, 0.3), BENCH_IDLE (connections, 5000), BENCH_STARTS (11),
 * BENCH_ONLY: parts of names of servers, with commas. A server that is not installed is left out.
 *
 *   relay      the floor: what the kernel costs
 *   servers    how each is started
 *   measuring  start, idle connections, work
 *   tables
 */
#include "bench.h"

#include <arpa/inet.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS_ROOM 50

/* --- relay ------------------------------------------------------------------------------------ */

#define HELLO 15         /* S or R, topic, bytes a message */
#define TOPICS 1024      /* flows one relay may carry at a time */
#define RELAY_ROOM 65536

struct wired { /* a client of the relay */
    int fd;
    bool sender;
    bool known;
    uint32_t topic;
    uint64_t size, rest; /* bytes of a message; of the last one, not whole yet */
    uint32_t place;      /* receivers: index in the topic */
};

struct relay {
    int poll;
    bool acks;
    struct {
        struct wired **to; /* owned */
        uint32_t n, cap;
    } topic[TOPICS];
    char room[RELAY_ROOM];
};

static void
relay_write(int fd, const char *p, size_t n)
{
    while (n > 0) {
        ssize_t put = write(fd, p, n);
        if (put < 0 && errno == EAGAIN)
            poll(&(struct pollfd){.fd = fd, .events = POLLOUT}, 1, -1);
        else if (put < 0)
            return; /* gone: its own event will say so */
        else {
            p += put;
            n -= (size_t)put;
        }
    }
}

static void
relay_know(struct relay *r, struct wired *w, const char *hello)
{
    w->known = true;
    w->sender = hello[0] == 'S';
    w->topic = (uint32_t)(hello[1] - '0');
    for (int i = 2; i < 7; i++)
        w->topic = w->topic * 10 + (uint32_t)(hello[i] - '0');
    w->topic %= TOPICS;
    w->size = strtoull(hello + 7, NULL, 10);
    relay_write(w->fd, "k", 1);
    if (w->sender)
        return;
    if (r->topic[w->topic].n == r->topic[w->topic].cap) {
        r->topic[w->topic].cap = r->topic[w->topic].cap * 2 + 1;
        r->topic[w->topic].to = xrealloc(r->topic[w->topic].to,
                                         r->topic[w->topic].cap * sizeof(struct wired *));
    }
    w->place = r->topic[w->topic].n;
    r->topic[w->topic].to[r->topic[w->topic].n++] = w;
}

static void
relay_drop(struct relay *r, struct wired *w)
{
    if (w->known && !w->sender) {
        struct wired *last = r->topic[w->topic].to[--r->topic[w->topic].n];
        r->topic[w->topic].to[w->place] = last;
        last->place = w->place;
    }
    close(w->fd);
    free(w);
}

/* What a sender said goes to all who hear it; he is told how many messages were whole. */
static void
relay_read(struct relay *r, struct wired *w)
{
    static const char acks[16 * 1024] = "";
    ssize_t n = read(w->fd, r->room, w->known ? RELAY_ROOM : HELLO);

    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0 || (!w->known && n != HELLO)) {
        relay_drop(r, w);
        return;
    }
    if (!w->known) {
        r->room[n] = '\0';
        relay_know(r, w, r->room);
        return;
    }
    for (uint32_t i = 0; i < r->topic[w->topic].n; i++)
        relay_write(r->topic[w->topic].to[i]->fd, r->room, (size_t)n);
    uint64_t whole = (w->rest + (uint64_t)n) / w->size;
    w->rest = (w->rest + (uint64_t)n) % w->size;
    if (r->acks && whole > 0 && whole <= 1024)
        relay_write(w->fd, acks, 16 * whole);
}

static void
relay_main(int listener, bool acks)
{
    struct relay *r = xcalloc(1, sizeof *r);
    struct epoll_event e[512] = {{.events = EPOLLIN}};

    r->acks = acks;
    r->poll = epoll_create1(0);
    epoll_ctl(r->poll, EPOLL_CTL_ADD, listener, &e[0]);
    for (;;) {
        int n = epoll_wait(r->poll, e, 512, -1);
        for (int i = 0; i < n; i++) {
            if (e[i].data.ptr != NULL) {
                relay_read(r, e[i].data.ptr);
                continue;
            }
            struct epoll_event add = {.events = EPOLLIN};
            int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
            if (fd < 0)
                continue;
            struct wired *w = xcalloc(1, sizeof *w);
            w->fd = fd;
            add.data.ptr = w;
            epoll_ctl(r->poll, EPOLL_CTL_ADD, fd, &add);
        }
    }
}

static void
start_relay(struct process *p, bool acks)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) != 0 || listen(fd, 1024) != 0 ||
        getsockname(fd, (struct sockaddr *)&a, &n) != 0)
        die("the relay cannot listen: %s", strerror(errno));
    p->port = ntohs(a.sin_port);
    fflush(NULL);
    if ((p->pid = fork()) < 0)
        die("fork: %s", strerror(errno));
    if (p->pid == 0) {
        process_child();
        relay_main(fd, acks);
    }
    close(fd);
}

/* --- servers ---------------------------------------------------------------------------------- */

static void
start_relay_plain(struct process *p)
{
    start_relay(p, false);
}

static void
start_relay_acks(struct process *p)
{
    start_relay(p, true);
}

static void
start_jim(struct process *p, const char *store)
{
    const char *jim = getenv("JIM");
    const char *const more[] = {store, NULL};

    process_jim(p, jim != NULL ? jim : "./jim", more);
}

static void
start_jim_off(struct process *p)
{
    start_jim(p, "jim.store=off");
}

static void
start_jim_on(struct process *p)
{
    start_jim(p, "jim.store=on"); /* sync group: answered and delivered once it is on disk */
}

static void
start_redis(struct process *p)
{
    char port[16];

    process_dir(p);
    p->port = free_port();
    snprintf(port, sizeof port, "%d", p->port);
    process_start(p, (const char *const[]){"redis-server", "--port", port, "--bind", "127.0.0.1",
                                           "--dir", p->dir, "--save", "", "--appendonly", "no",
                                           "--client-output-buffer-limit", "pubsub 0 0 0", NULL});
}

static void
start_nats(struct process *p)
{
    char port[16];

    process_dir(p);
    p->port = free_port();
    snprintf(port, sizeof port, "%d", p->port);
    process_start(p, (const char *const[]){"nats-server", "-a", "127.0.0.1", "-p", port, NULL});
}

static void
start_mosquitto(struct process *p)
{
    char path[128];

    process_dir(p);
    p->port = free_port();
    snprintf(path, sizeof path, "%s/conf", p->dir);
    FILE *f = fopen(path, "w");
    if (f == NULL)
        die("%s: %s", path, strerror(errno));
    /* No limits that a window of 64 meets, and no delay: the best it can do. */
    fprintf(f, "listener %d 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n"
               "max_inflight_messages 0\nmax_queued_messages 0\nlog_type none\n", p->port);
    fclose(f);
    process_start(p, (const char *const[]){"mosquitto", "-c", path, NULL});
}

struct server {
    const char *name;
    const struct wire *wire;
    void (*start)(struct process *p);
    struct process process;
    bool out;            /* not installed, or not asked for */
    double start_ms[2];  /* median and the longest */
    double idle;         /* bytes resident a connection */
};

static struct server servers[] = {
    {.name = "relay", .wire = &wire_relay, .start = start_relay_plain},
    {.name = "relay + ack", .wire = &wire_relay_ack, .start = start_relay_acks},
    {.name = "jim tcp", .wire = &wire_tcp, .start = start_jim_off},
    {.name = "jim ws", .wire = &wire_ws, .start = start_jim_off},
    {.name = "jim tcp, store", .wire = &wire_tcp, .start = start_jim_on},
    {.name = "jim ws, store", .wire = &wire_ws, .start = start_jim_on},
    {.name = "redis", .wire = &wire_redis, .start = start_redis},
    {.name = "nats", .wire = &wire_nats, .start = start_nats},
    {.name = "mosquitto 0", .wire = &wire_mqtt0, .start = start_mosquitto},
    {.name = "mosquitto 1", .wire = &wire_mqtt1, .start = start_mosquitto},
};
enum { RELAY, RELAY_ACK, JIM_TCP, JIM_WS, JIM_TCP_ON, JIM_WS_ON, REDIS, SERVERS = 10 };

static const struct work {
    const char *name;
    uint32_t flows, members, window;
    size_t bytes;
} works[] = {
    {"window 1, 64 B", 50, 0, 1, 64},
    {"window 64, 64 B", 50, 0, 64, 64},
    {"window 16, 1 kB", 50, 0, 16, 1024},
    {"group of 100, window 1", 1, 100, 1, 64}, /* every delivery is a write */
    {"group of 100, window 4", 1, 100, 4, 64},
    {"group of 100, window 16", 1, 100, 16, 64},
    {"group of 1,000, window 1", 1, 1000, 1, 64},
    {"group of 1,000, window 4", 1, 1000, 4, 64},
    {"group of 1,000, window 16", 1, 1000, 16, 64},
};
enum { HUNDRED = 3, THOUSAND = 6, WORKS = sizeof works / sizeof works[0] };

struct cells { /* of one work: what each round measured */
    double cpu[SERVERS][ROUNDS_ROOM];
    double calls[SERVERS]; /* reads and writes a message */
};

/* --- measuring -------------------------------------------------------------------------------- */

static double
env_number(const char *name, double otherwise)
{
    const char *text = getenv(name);

    return text != NULL && atof(text) > 0 ? atof(text) : otherwise;
}

static int
compare(const void *a, const void *b)
{
    double x, y;

    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

static double
median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof v[0], compare);
    return n % 2 == 1 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

static int
rounds(void)
{
    double n = env_number("BENCH_ROUNDS", 15);

    return n < ROUNDS_ROOM ? (int)n : ROUNDS_ROOM;
}

/* Does it take connections? Waits up to ten seconds; false when the program has ended. */
static bool
reachable(struct process *p)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)p->port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

    for (int64_t end = now_ns() + INT64_C(10000000000); now_ns() < end;) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        bool got = connect(fd, (struct sockaddr *)&a, sizeof a) == 0;
        close(fd);
        if (got)
            return true;
        if (waitpid(p->pid, NULL, WNOHANG) == p->pid) {
            p->pid = 0;
            return false;
        }
        nanosleep(&(struct timespec){0, 100000}, NULL);
    }
    return false;
}

static struct spec
idle_spec(const struct server *s, uint32_t n)
{
    return (struct spec){.host = "127.0.0.1", .port = s->process.port, .sender = s->wire,
                         .receiver = s->wire, .flows = n, .bytes = 64, .idle = true};
}

/* From fork() to the answer to the first login. */
static void
measure_start(struct server *s)
{
    double ms[ROUNDS_ROOM];
    int n = (int)env_number("BENCH_STARTS", 11);

    for (int i = 0; i < n && i < ROUNDS_ROOM; i++) {
        int64_t begun = now_ns();
        s->start(&s->process);
        if (!reachable(&s->process)) {
            s->out = true;
            process_stop(&s->process);
            return;
        }
        struct spec spec = idle_spec(s, 1);
        struct load *l = load_new(&spec);
        ms[i] = (double)(now_ns() - begun) / 1e6;
        load_free(l);
        process_stop(&s->process);
    }
    s->start_ms[0] = median(ms, n < ROUNDS_ROOM ? n : ROUNDS_ROOM);
    s->start_ms[1] = ms[(n < ROUNDS_ROOM ? n : ROUNDS_ROOM) - 1];
}

/* Logged in, or subscribed, and silent. The server is a fresh one. */
static void
measure_idle(struct server *s)
{
    s->start(&s->process);
    if (!reachable(&s->process))
        die("%s does not start again", s->name);
    struct spec spec = idle_spec(s, (uint32_t)env_number("BENCH_IDLE", 5000));
    double before = usage_of(s->process.pid).rss;
    struct load *l = load_new(&spec);
    s->idle = (usage_of(s->process.pid).rss - before) / l->clients;
    load_free(l);
    process_stop(&s->process);
}

/* Reads and writes so far: what /proc has seen, and what it does not see of jim. */
static double
calls_of(const struct server *s, const struct usage *u)
{
    double calls = u->reads + u->writes;

    if (s->wire->jim) {
        struct calls own = jim_calls("127.0.0.1", s->process.port);
        calls += own.reads + own.writes;
    }
    return calls;
}

/* Start what takes part, each with its load. */
static void
take_seats(const struct work *w, struct load **load)
{
    for (int i = 0; i < SERVERS; i++) {
        struct server *s = &servers[i];
        if (s->out)
            continue;
        s->start(&s->process);
        if (!reachable(&s->process))
            die("%s does not start again", s->name);
        struct spec spec = {.host = "127.0.0.1", .port = s->process.port, .sender = s->wire,
                            .receiver = s->wire, .flows = w->flows, .members = w->members,
                            .window = w->window, .bytes = w->bytes,
                            .busy = getenv("BENCH_SLEEP") == NULL};
        load[i] = load_new(&spec);
        load_run(load[i], env_number("BENCH_SLICE", 0.3) / 2);
        load_settle(load[i]);
    }
}

static void
leave_seats(const struct work *w, struct load **load)
{
    for (int i = 0; i < SERVERS; i++) {
        if (load[i] == NULL)
            continue;
        if (load_bad(load[i]) > 0)
            die("%s, %s: %llu missing, %llu repeated, %llu refused: %s", servers[i].name, w->name,
                (unsigned long long)load[i]->missing, (unsigned long long)load[i]->repeated,
                (unsigned long long)load[i]->refused, load[i]->refusal);
        load_free(load[i]);
        load[i] = NULL;
        process_stop(&servers[i].process);
    }
}

/* Each round has new processes: where one has landed in memory makes it a third slower or faster
 * than another, for as long as it lives. */
static void
measure_work(const struct work *w, struct cells *cells)
{
    struct load *load[SERVERS] = {0};
    double n[SERVERS] = {0};

    for (int round = 0; round < rounds(); round++) {
        take_seats(w, load);
        for (int k = 0; k < SERVERS; k++) {
            int i = round % 2 == 0 ? k : SERVERS - 1 - k; /* there and back: a trend cancels out */
            if (load[i] == NULL)
                continue;
            struct usage from = usage_of(servers[i].process.pid);
            double before = calls_of(&servers[i], &from);
            uint64_t had = load[i]->deliveries;
            from = usage_of(servers[i].process.pid); /* asking is work, too */
            load_run(load[i], env_number("BENCH_SLICE", 0.3));
            load_settle(load[i]); /* nobody works while another is measured */
            struct usage to = usage_of(servers[i].process.pid);
            double got = (double)(load[i]->deliveries - had);
            cells->cpu[i][round] = got > 0 ? (to.cpu - from.cpu) * 1e6 / got : 0;
            cells->calls[i] += calls_of(&servers[i], &to) - before;
            n[i] += got / (w->members > 0 ? w->members : 1);
        }
        leave_seats(w, load);
    }
    for (int i = 0; i < SERVERS; i++)
        cells->calls[i] /= n[i] > 0 ? n[i] : 1;
}

/* --- tables ----------------------------------------------------------------------------------- */

static void
row_begin(const char *name)
{
    printf("| %-25s |", name);
}

static void
head(void)
{
    row_begin("");
    for (int i = 0; i < SERVERS; i++)
        if (!servers[i].out)
            printf(" %s |", servers[i].name);
    printf("\n|---|");
    for (int i = 0; i < SERVERS; i++)
        if (!servers[i].out)
            printf("---:|");
    printf("\n");
}

/* Median over the rounds, the least and the most. */
static void
print_work(const struct work *w, const struct cells *c)
{
    int n = rounds();

    row_begin(w->name);
    for (int i = 0; i < SERVERS; i++)
        if (!servers[i].out) {
            double v[ROUNDS_ROOM];
            memcpy(v, c->cpu[i], sizeof v);
            double m = median(v, n);
            printf(m < 1 ? " %.3f (%.3f–%.3f) |" : " %.2f (%.2f–%.2f) |", m, v[0], v[n - 1]);
        }
    printf("\n");
    fflush(stdout);
}

static void
print_calls(const struct work *w, const struct cells *c)
{
    row_begin(w->name);
    for (int i = 0; i < SERVERS; i++)
        if (!servers[i].out)
            printf(" %.3f |", c->calls[i]);
    printf("\n");
}

/*
 * How many of n sorted measurements lie below the interval that holds the true median in 95 of 100
 * cases, and as many above it: each is below the median with probability 1/2, whatever their
 * distribution (the sign test).
 */
static int
beyond(int n)
{
    double share = 1, sum = 0; /* how probable it is that k are below; that fewer are */
    int k = 0;

    for (int i = 0; i < n; i++)
        share /= 2;
    for (; sum + share <= 0.025; k++) {
        sum += share;
        share *= (double)(n - k) / (k + 1);
    }
    return k > 0 ? k - 1 : 0;
}

/*
 * A target as a ratio of two servers: the median of what it was in each round, in which both ran
 * within a second of one another, so that what the machine does meanwhile is in both. Without a
 * target (0) it is there to compare with.
 */
static void
judge(const struct cells *c, size_t work, int is, int to, double most)
{
    double ratio[ROUNDS_ROOM];
    int n = rounds(), k = beyond(n);

    if (servers[is].out || servers[to].out)
        return;
    for (int i = 0; i < n; i++)
        ratio[i] = c[work].cpu[is][i] / c[work].cpu[to][i];
    double m = median(ratio, n);
    printf("| %s | %s / %s | %.2f (%.2f–%.2f) |", works[work].name, servers[is].name,
           servers[to].name, m, ratio[k], ratio[n - 1 - k]);
    if (most == 0)
        printf(" | |\n");
    else
        printf(" ≤ %.2f | %s |\n", most,
               m <= most          ? "met"
               : ratio[k] <= most ? "open"
                                  : "not met");
}

static void
judge_all(const struct cells *c)
{
    printf("\nRatios: the median of the rounds' and, in brackets, the interval that holds the\n"
           "true median in 95 of 100 cases. `open`: the target is inside it, but below what was\n"
           "seen. The relay's are what reading and writing alone cost.\n\n"
           "| work | ratio | is | target | |\n|---|---|---:|---:|---|\n");
    for (size_t work = 0; work < WORKS; work++)
        judge(c, work, RELAY, REDIS, 0);
    for (size_t work = HUNDRED; work < WORKS; work++)
        judge(c, work, JIM_TCP, RELAY, 0);
    for (int jim = JIM_TCP; jim <= JIM_WS; jim++) {
        judge(c, 0, jim, RELAY_ACK, 1.15);
        judge(c, 0, jim, REDIS, 1);
        judge(c, 1, jim, REDIS, 0.85);
        judge(c, 2, jim, REDIS, 0.9);
        for (size_t window = 0; window < 3; window++) {
            judge(c, HUNDRED + window, jim, REDIS, 0.85);
            judge(c, THOUSAND + window, jim, REDIS, 0.8);
        }
        judge(c, 1, jim + 2, REDIS, 1.6);
        for (size_t window = 0; window < 3; window++)
            judge(c, THOUSAND + window, jim + 2, jim, 1.05);
    }
}

static void
left_out(void)
{
    const char *only = getenv("BENCH_ONLY");

    for (int i = 0; i < SERVERS && only != NULL; i++) {
        struct str rest = str_of(only), part;
        servers[i].out = true;
        while (str_split(&rest, ',', &part))
            if (part.n > 0 && memmem(servers[i].name, strlen(servers[i].name), part.p, part.n))
                servers[i].out = false;
    }
}

int
main(void)
{
    static struct cells cells[WORKS];

    signal(SIGPIPE, SIG_IGN);
    left_out();
    for (int i = 0; i < SERVERS; i++)
        if (!servers[i].out)
            measure_start(&servers[i]);
    printf("CPU seconds of the server a million deliveries: median of the rounds "
           "(least–most).\n\n");
    head();
    for (size_t i = 0; i < WORKS; i++) {
        measure_work(&works[i], &cells[i]);
        print_work(&works[i], &cells[i]);
    }
    for (int i = 0; i < SERVERS; i++)
        if (!servers[i].out)
            measure_idle(&servers[i]);
    row_begin("bytes a connection");
    for (int i = 0; i < SERVERS; i++)
        if (!servers[i].out)
            printf(" %.0f |", servers[i].idle);
    printf("\n");
    row_begin("first login, ms (most)");
    for (int i = 0; i < SERVERS; i++)
        if (!servers[i].out)
            printf(" %.1f (%.1f) |", servers[i].start_ms[0], servers[i].start_ms[1]);
    printf("\n");
    judge_all(cells);
    printf("\nReads and writes a message (of a group: all of its deliveries), without waits for\n"
           "events. /proc/PID/io counts them, but for `send` and `recv`: those jim counts itself,\n"
           "in `/api/stats`.\n\n");
    head();
    for (size_t i = 0; i < WORKS; i++)
        print_calls(&works[i], &cells[i]);
    return 0;
}
