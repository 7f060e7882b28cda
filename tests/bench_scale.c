/* SPDX-License-Identifier: MIT */
/*
 * bench_scale.c - does a message cost more where there is more: connections, users, groups,
 * history? And how many users can be online on one machine? `make bench-scale` runs both and puts
 * what they print into docs/benchmarks.md.
 *
 *   build/bench-scale message   the same talk beside more and more that is quiet, in short turns
 *   build/bench-scale online    bytes an idle connection; then servers of 19,240 users each, until
 *                               there are 1,000,000 or memory or descriptors run short
 *
 * BENCH_ROUNDS (7), BENCH_SLICE (seconds, 0.2), BENCH_ONLINE (1000000), BENCH_USERS (1000000: known
 * users, and messages of history). Each process keeps below 20,000 descriptors. Linux, for /proc.
 *
 *   crowds     connections that are only there, in processes of their own
 *   stores     made by `jim import`
 *   message    the table of works and servers
 *   memory     what the kernel says of itself
 *   online
 */
#include "bench.h"

#include <signal.h>
#include <sys/socket.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <unistd.h>

#define EACH 19240        /* users of a server: 52 of these are a million, two of them talk */
#define MAX_SERVERS 200
#define ROUNDS_ROOM 50
#define LEAST 1000        /* messages of a turn, however long that takes */
#define REPETITIONS 2
#define LEAST_FREE 2.5e9  /* bytes of memory that are left to others */
#define ADDRESSES 3       /* of the clients of one server */
#define FIRST_IDLE 1000   /* users below talk */
#define GIB 1073741824.0
#define TLS_BYTES 14700.0 /* a connection more over TLS: `make tls-load`, README */

static double
setting(const char *name, double usual)
{
    const char *text = getenv(name);

    return text != NULL ? atof(text) : usual;
}

/* --- crowds ----------------------------------------------------------------------------------- */

struct crowd {
    pid_t pid;
    int told; /* a pipe's end: readable once all are logged in */
};

/* In the child: log in, say so, and be there until the parent is not. From one address there are
 * 28,232 ports to a server, and for the second half of them the kernel searches long (about 1 ms):
 * so the clients have more addresses. */
static void
crowd_main(struct spec spec, int tell)
{
    static const char *const from[ADDRESSES] = {"127.0.0.2", "127.0.0.3", "127.0.0.4"};
    struct linger reset = {1, 0}; /* closing leaves nothing behind in the kernel */
    struct load *l[ADDRESSES];
    uint32_t left = spec.flows;

    process_child();
    for (uint32_t k = 0; k < ADDRESSES; k++) {
        spec.from = from[k];
        spec.flows = left / (ADDRESSES - k);
        l[k] = load_new(&spec);
        left -= spec.flows;
        spec.first += spec.flows;
        for (uint32_t i = 0; i < l[k]->clients; i++)
            setsockopt(l[k]->client[i].fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    }
    if (write(tell, "y", 1) != 1)
        _exit(1);
    for (int k = 0;; k = (k + 1) % ADDRESSES)
        load_turn(l[k], now_ns() + INT64_C(5000000000));
}

static struct crowd
crowd_start(int port, const struct wire *wire, uint32_t n)
{
    struct spec s = {.host = "127.0.0.1", .port = port, .sender = wire, .receiver = wire,
                     .flows = n, .first = FIRST_IDLE, .idle = true, .bytes = 64};
    struct crowd c;
    int pipes[2];

    fflush(NULL);
    if (pipe(pipes) != 0 || (c.pid = fork()) < 0)
        die("fork: %s", strerror(errno));
    if (c.pid == 0) {
        close(pipes[0]);
        crowd_main(s, pipes[1]);
    }
    close(pipes[1]);
    c.told = pipes[0];
    return c;
}

static void
crowd_wait(struct crowd *c)
{
    char yes;

    if (read(c->told, &yes, 1) != 1)
        die("a crowd has not come in");
    close(c->told);
}

static void
crowd_stop(struct crowd *c)
{
    if (c->pid > 0) {
        kill(c->pid, SIGTERM);
        waitpid(c->pid, NULL, 0);
    }
    c->pid = 0;
}

/* --- stores ----------------------------------------------------------------------------------- */

/* Everybody has a profile, is in a group of ten and has had one private message. */
static void
write_users(FILE *f, int n)
{
    for (int i = 0; i < n; i += 2)
        fprintf(f, "{\"chatType\":2,\"content\":\"hello\",\"createTime\":1700000000000,"
                "\"from\":\"u%06d\",\"id\":\"i%d\",\"seq\":1,\"to\":\"u%06d\"}\n", i, i, i + 1);
    for (int i = 0; i < n; i++)
        fprintf(f, "{\"avatar\":\"/a/%d.png\",\"nick\":\"User %d\",\"sign\":\"hello\","
                "\"userId\":\"u%06d\",\"type\":\"user\"}\n", i, i, i);
    for (int i = 0; i < n; i++)
        fprintf(f, "{\"groupId\":\"h%06d\",\"userId\":\"u%06d\",\"type\":\"member\"}\n", i / 10, i);
    for (int i = 0; i < n; i += 2)
        fprintf(f, "{\"fromUserId\":\"u%06d\",\"seq\":1,\"userId\":\"u%06d\","
                "\"type\":\"cursor\"}\n", i, i + 1);
}

/* 10,000 groups of ten. */
static void
write_groups(FILE *f, int n)
{
    for (int i = 0; i < n; i++)
        fprintf(f, "{\"groupId\":\"h%06d\",\"userId\":\"u%06d\",\"type\":\"member\"}\n", i / 10, i);
}

/* All between the first two users, who have heard it all. */
static void
write_history(FILE *f, int n)
{
    for (int i = 1; i <= n; i++)
        fprintf(f, "{\"chatType\":2,\"content\":\"something said a while ago, number %d\","
                "\"createTime\":1700000000000,\"from\":\"u000000\",\"id\":\"i%d\",\"seq\":%d,"
                "\"to\":\"u000001\"}\n", i, i, i);
    fprintf(f, "{\"fromUserId\":\"u000000\",\"seq\":%d,\"userId\":\"u000001\","
            "\"type\":\"cursor\"}\n", n);
}

static void
store_make(struct process *p, void (*write_lines)(FILE *f, int n), int n)
{
    char command[128];

    process_dir(p);
    snprintf(command, sizeof command, "./jim import %s >/dev/null", p->dir);
    FILE *f = popen(command, "w");
    if (f == NULL)
        die("%s: %s", command, strerror(errno));
    write_lines(f, n);
    if (pclose(f) != 0)
        die("%s has failed", command);
}

/* --- message ---------------------------------------------------------------------------------- */

enum { MANY_ONE, MANY_SIXTEEN, ONE_SIXTEEN, GROUPS_SIXTEEN, WORKS };

static const struct work {
    const char *name;
    uint32_t flows, members, window;
} works[WORKS] = {
    {"50 pairs, window 1", 50, 0, 1},
    {"50 pairs, window 16", 50, 0, 16},
    {"1 pair, window 16", 1, 0, 16},
    {"50 groups of 2, window 16", 50, 1, 16},
};

static const struct place {
    const char *name;
    uint32_t idle; /* connections besides the 100 that talk */
    void (*write_lines)(FILE *f, int n);
    int lines;     /* 0: BENCH_USERS */
} places[] = {
    {"100 connections", 0, NULL, 0},
    {"10,000 connections", 9900, NULL, 0},
    {"19,000 connections", 18900, NULL, 0},
    {"100, 10^6 users known", 0, write_users, 0},
    {"19,000, 10^6 users known", 18900, write_users, 0},
    {"100, 10,000 groups", 0, write_groups, 100000},
    {"100, history of 10^6", 0, write_history, 0},
};
#define PLACES (sizeof places / sizeof places[0])

enum { CALLS = WORKS, LOGIN = CALLS + WORKS, ASKING, FIGURES };

struct server {
    struct process store, jim;
    struct crowd crowd;
    double at[FIGURES][ROUNDS_ROOM]; /* by the round */
    double rss, start; /* bytes; CPU seconds until it listened */
};

static double
calls_of(const struct server *s)
{
    struct calls c = jim_calls("127.0.0.1", s->jim.port);
    struct usage u = usage_of(s->jim.pid);

    return c.reads + c.writes + c.waits + u.reads + u.writes;
}

/* One turn of one work on one server: CPU and system calls a message, in microseconds. */
static void
message_turn(struct server *s, int work, int round)
{
    const struct work *w = &works[work];
    struct spec spec = {.host = "127.0.0.1", .port = s->jim.port, .sender = &wire_tcp,
                        .receiver = &wire_tcp, .flows = w->flows, .members = w->members,
                        .window = w->window, .bytes = 64};
    double slice = setting("BENCH_SLICE", 0.2);

    double before = usage_of(s->jim.pid).cpu;
    struct load *l = load_new(&spec);
    if (work == MANY_ONE)
        s->at[LOGIN][round] = (usage_of(s->jim.pid).cpu - before) * 1e6 / l->clients;
    load_run(l, slice / 4);
    double calls = calls_of(s);
    uint64_t messages = l->messages;
    double cpu = usage_of(s->jim.pid).cpu;
    do
        load_run(l, slice);
    while (l->messages - messages < LEAST);
    cpu = usage_of(s->jim.pid).cpu - cpu;
    double done = (double)(l->messages - messages);
    calls = calls_of(s) - calls;
    load_settle(l);
    if (load_bad(l) > 0)
        die("%s: %llu messages went wrong", w->name, (unsigned long long)load_bad(l));
    load_free(l);
    s->at[work][round] = cpu * 1e6 / done;
    s->at[CALLS + work][round] = calls / done;
}

/* What it costs to ask how the server is. */
static void
asking_turn(struct server *s, int round)
{
    double cpu = usage_of(s->jim.pid).cpu;

    for (int i = 0; i < 50; i++)
        jim_calls("127.0.0.1", s->jim.port);
    s->at[ASKING][round] = (usage_of(s->jim.pid).cpu - cpu) * 1e6 / 50;
}

static void
place_start(struct server *s, const struct place *p)
{
    char dir[96];
    const char *const more[] = {"jim.store.sync=off", dir, NULL};
    int n = p->lines > 0 ? p->lines : (int)setting("BENCH_USERS", 1e6);

    if (p->write_lines != NULL)
        store_make(&s->store, p->write_lines, n);
    else
        process_dir(&s->store);
    snprintf(dir, sizeof dir, "jim.store.dir=%s", s->store.dir);
    process_jim(&s->jim, "./jim", more);
    s->start = usage_of(s->jim.pid).cpu;
    if (p->idle > 0) {
        s->crowd = crowd_start(s->jim.port, &wire_tcp, p->idle);
        crowd_wait(&s->crowd);
    }
}

static int
by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Median (least–most), and by how much the median differs from that of the first server. */
static void
print_cell(const struct server *s, const struct server *base, int figure, int rounds)
{
    double v[ROUNDS_ROOM], b[ROUNDS_ROOM];

    memcpy(v, s->at[figure], sizeof v);
    memcpy(b, base->at[figure], sizeof b);
    qsort(v, (size_t)rounds, sizeof v[0], by_value);
    qsort(b, (size_t)rounds, sizeof b[0], by_value);
    printf(" %.2f (%.2f–%.2f)%s", v[rounds / 2], v[0], v[rounds - 1], s == base ? " |" : "");
    if (s != base)
        printf(" %.2f |", v[rounds / 2] / b[rounds / 2]);
}

static void
print_messages(const struct server *s, int rounds)
{
    static const char *const extra[] = {"a login", "one `/api/stats`"};

    printf("|                        |");
    for (int i = 0; i < WORKS; i++)
        printf(" %s |", works[i].name);
    printf(" %s | %s | RSS, MB | start, s |\n|---|", extra[0], extra[1]);
    for (int i = 0; i < WORKS + 4; i++)
        printf("---:|");
    for (size_t k = 0; k < PLACES; k++) {
        printf("\n| %-22s |", places[k].name);
        for (int i = 0; i < FIGURES; i++)
            if (i < CALLS || i >= LOGIN)
                print_cell(&s[k], &s[0], i, rounds);
        printf(" %.1f | %.2f |", s[k].rss / 1e6, s[k].start);
    }
    printf("\n\nSystem calls a message (reads, writes, waits, those of the store):\n\n"
           "|                        |");
    for (int i = 0; i < WORKS; i++)
        printf(" %s |", works[i].name);
    printf("\n|---|---:|---:|---:|---:|");
    for (size_t k = 0; k < PLACES; k++) {
        printf("\n| %-22s |", places[k].name);
        for (int i = CALLS; i < LOGIN; i++)
            print_cell(&s[k], &s[0], i, rounds);
    }
    printf("\n");
}

static void
message(void)
{
    static struct server s[PLACES];
    int rounds = (int)setting("BENCH_ROUNDS", 7);

    if (rounds < 1 || rounds > ROUNDS_ROOM)
        die("BENCH_ROUNDS: 1 to %d", ROUNDS_ROOM);
    for (size_t k = 0; k < PLACES; k++)
        place_start(&s[k], &places[k]);
    for (int n = 1; n <= REPETITIONS; n++) {
        for (int r = 0; r < rounds; r++)
            for (int i = 0; i <= WORKS; i++)
                for (size_t k = 0; k < PLACES; k++) /* the first is another every round */
                    if (i < WORKS)
                        message_turn(&s[(k + (size_t)r) % PLACES], i, r);
                    else
                        asking_turn(&s[(k + (size_t)r) % PLACES], r);
        for (size_t k = 0; k < PLACES; k++)
            s[k].rss = usage_of(s[k].jim.pid).rss;
        printf("Repetition %d, CPU µs of the server a message: median of %d turns (least–most) and "
               "its ratio to\nthat of the first row.\n\n", n, rounds);
        print_messages(s, rounds);
        printf("\n");
        fflush(stdout);
    }
    for (size_t k = 0; k < PLACES; k++) {
        crowd_stop(&s[k].crowd);
        process_stop(&s[k].jim);
        process_stop(&s[k].store);
    }
}

/* --- memory ----------------------------------------------------------------------------------- */

#define SLABS 400

struct slab {
    char name[40];
    double size, bytes; /* of an object; of all pages */
};

struct memory {
    double free; /* bytes, with what is only cached of files */
    int slabs;
    struct slab slab[SLABS];
};

/* A number behind a name, in bytes, from a file of lines `Name:  NUMBER kB`; 0: not there. */
static double
kb_of(const char *path, const char *name)
{
    char line[256];
    double kb = 0;
    FILE *f = fopen(path, "r");

    while (f != NULL && fgets(line, sizeof line, f) != NULL)
        if (strncmp(line, name, strlen(name)) == 0 && line[strlen(name)] == ':')
            kb = atof(line + strlen(name) + 1);
    if (f != NULL)
        fclose(f);
    return kb * 1024;
}

/* Not MemAvailable: that takes the inodes and dentries of sockets for reclaimable, which they are
 * not as long as the sockets are open. */
static double
memory_free(void)
{
    return kb_of("/proc/meminfo", "MemFree") + kb_of("/proc/meminfo", "Buffers") +
           kb_of("/proc/meminfo", "Cached");
}

/* Whoever looks through /proc/PID/fd leaves an inode and a dentry there for every descriptor: what
 * is cached of that kind is dropped first. */
static void
memory_take(struct memory *m)
{
    char line[512];
    FILE *f = fopen("/proc/sys/vm/drop_caches", "w");

    if (f != NULL) {
        fputs("2\n", f);
        fclose(f);
    }
    f = fopen("/proc/slabinfo", "r"); /* root's, like the file above */

    *m = (struct memory){.free = memory_free()};
    while (f != NULL && m->slabs < SLABS && fgets(line, sizeof line, f) != NULL) {
        struct slab *s = &m->slab[m->slabs];
        double pages, slabs;
        char *data = strstr(line, "slabdata");
        if (data != NULL && sscanf(data, "slabdata %*s %lf", &slabs) == 1 &&
            sscanf(line, "%39s %*s %*s %lf %*s %lf", s->name, &s->size, &pages) == 3) {
            s->bytes = slabs * pages * (double)sysconf(_SC_PAGESIZE);
            m->slabs++;
        }
    }
    if (f != NULL)
        fclose(f);
}

static double
pss_of(pid_t pid)
{
    char path[64];

    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", (int)pid);
    return kb_of(path, "Pss");
}

static const struct slab *
slab_find(const struct memory *m, const char *name)
{
    static const struct slab none = {"", 0, 0};

    for (int i = 0; i < m->slabs; i++)
        if (strcmp(m->slab[i].name, name) == 0)
            return &m->slab[i];
    return &none;
}

/* Caches of what is in a socket that is open and watched, by how much they have grown an end; their
 * sum. Others' processes fill some of them as well. */
static double
print_slabs(const struct memory *from, const struct memory *to, double ends)
{
    static const char *const names[] = {"TCP", "sock_inode_cache", "filp", "dentry",
                                        "eventpoll_epi", "ep_head", "lsm_inode_cache",
                                        "lsm_file_cache"};
    double sum = 0;

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const struct slab *s = slab_find(to, names[i]);
        double each = (s->bytes - slab_find(from, names[i])->bytes) / ends;
        if (s->size == 0)
            continue;
        printf("%s`%s` %.0f (%.0f an object)", i > 0 ? ", " : "", names[i], each, s->size);
        sum += each;
    }
    return sum;
}

/* --- online ----------------------------------------------------------------------------------- */

struct online {
    struct process jim[MAX_SERVERS];
    struct crowd crowd[MAX_SERVERS];
    int n;
    double users;
    double jim_bytes[2], kernel; /* one connection: over TCP-IM, over WebSocket; of its end */
    struct memory before, after;
};

/* Bytes of jim an idle connection with its user, on a server that had none. */
static void
idle_bytes(struct online *o, const struct wire *wire, double *bytes)
{
    const char *const more[] = {"jim.store=off", NULL};
    struct process p = {0};

    process_jim(&p, "./jim", more);
    jim_calls("127.0.0.1", p.port);
    double rss = usage_of(p.pid).rss;
    memory_take(&o->before);
    struct crowd c = crowd_start(p.port, wire, EACH);
    crowd_wait(&c);
    memory_take(&o->after);
    *bytes = (usage_of(p.pid).rss - rss) / EACH;
    printf("- %s: jim %.0f bytes; kernel, of one end: ", wire == &wire_ws ? "WebSocket" : "TCP-IM",
           *bytes);
    printf("; together %.0f\n", print_slabs(&o->before, &o->after, 2.0 * EACH));
    fflush(stdout);
    crowd_stop(&c);
    process_stop(&p);
}

/* 50 pairs on this server talk, nothing is lost. Returns CPU µs a message. */
static double
talk(const struct process *p, double seconds)
{
    struct spec s = {.host = "127.0.0.1", .port = p->port, .sender = &wire_tcp,
                     .receiver = &wire_tcp, .flows = 50, .window = 1, .bytes = 64};
    struct load *l = load_new(&s);
    double cpu = usage_of(p->pid).cpu;

    do
        load_run(l, seconds);
    while (l->messages == 0);
    cpu = usage_of(p->pid).cpu - cpu;
    double each = cpu * 1e6 / (double)l->messages;
    load_settle(l);
    if (load_bad(l) > 0)
        die("%llu messages went wrong", (unsigned long long)load_bad(l));
    load_free(l);
    return each;
}

static double
files_left(void)
{
    double used = 0, most = 0;
    FILE *f = fopen("/proc/sys/fs/file-nr", "r");

    if (f == NULL || fscanf(f, "%lf %*s %lf", &used, &most) != 2)
        die("/proc/sys/fs/file-nr cannot be read");
    fclose(f);
    return most - used;
}

static void
print_stage(struct online *o, double logins)
{
    double servers = 0, clients = 0;
    struct memory now;

    for (int i = 0; i < o->n; i++) {
        servers += pss_of(o->jim[i].pid);
        clients += pss_of(o->crowd[i].pid);
    }
    memory_take(&now);
    double kernel = o->before.free - now.free - servers - clients;
    o->kernel = kernel / (2 * o->users);
    double first = talk(&o->jim[0], 0.5), last = talk(&o->jim[o->n - 1], 0.5);
    printf("| %.0f | %d | %.0f | %.0f | %.0f | %.0f | %.0f | %.0f | %.2f | %.2f |\n", o->users,
           o->n, logins, servers / 1e6, servers / o->users, clients / 1e6, kernel / 1e6,
           o->kernel, first, last);
    fflush(stdout);
    o->after = now;
}

/* Servers and crowds, two at a time, as far as it goes. */
static const char *
fill(struct online *o, double want)
{
    const char *const more[] = {"jim.store=off", NULL};
    double spent = 0, stage = want / 4;

    while (o->users < want) {
        int64_t from = now_ns();
        int k = o->n;
        if (k + 2 > MAX_SERVERS || files_left() < 5.0 * EACH)
            return "fs.file-max";
        if (memory_free() < LEAST_FREE)
            return "memory";
        for (int i = k; i < k + 2; i++) {
            process_jim(&o->jim[i], "./jim", more);
            o->crowd[i] = crowd_start(o->jim[i].port, &wire_tcp, EACH);
        }
        for (int i = k; i < k + 2; i++)
            crowd_wait(&o->crowd[i]);
        spent += (double)(now_ns() - from) / 1e9;
        o->n += 2;
        o->users += 2.0 * EACH;
        if (o->users < stage)
            continue;
        print_stage(o, o->users / spent);
        stage += want / 4;
    }
    return "";
}

static void
print_capacity(const struct online *o)
{
    const struct {
        const char *name;
        double bytes;
    } kind[] = {{"TCP-IM", o->jim_bytes[0]}, {"WebSocket", o->jim_bytes[1]},
                {"TLS", TLS_BYTES}};

    printf("\nComputed: (memory - 1 GiB for all else) / (jim's bytes + the kernel's), idle users:\n"
           "\n|           | jim | kernel | 8 GiB | 16 GiB | 32 GiB |\n"
           "|---|---:|---:|---:|---:|---:|\n");
    for (int i = 0; i < 3; i++) {
        double each = kind[i].bytes + o->kernel;
        printf("| %-9s | %.0f | %.0f | %.2f million | %.2f million | %.2f million |\n",
               kind[i].name, kind[i].bytes, o->kernel, 7 * GIB / each / 1e6,
               15 * GIB / each / 1e6, 31 * GIB / each / 1e6);
    }
}

static void
online(void)
{
    static struct online o;
    struct sysinfo machine;

    sysinfo(&machine);
    printf("An idle logged-in connection, %d on a server, pages of slab caches of both ends "
           "halved:\n\n", EACH);
    idle_bytes(&o, &wire_tcp, &o.jim_bytes[0]);
    idle_bytes(&o, &wire_ws, &o.jim_bytes[1]);
    printf("\nServers of %d users over TCP-IM, store off, each with a process of clients; %.1f GiB "
           "of memory:\n\n| online | servers | logins/s | servers, MB | bytes a user | clients, MB "
           "| kernel, MB | bytes an end | µs a message, first server | µs, last |\n"
           "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
           EACH, (double)machine.totalram * machine.mem_unit / GIB);
    memory_take(&o.before);
    const char *end = fill(&o, setting("BENCH_ONLINE", 1e6));
    for (int i = 0; i < o.n; i++)
        talk(&o.jim[i], 0.02); /* or it ends here */
    printf("\n%.0f users online%s%s; then 50 pairs talked on each server, nothing lost or "
           "doubled.\n", o.users, *end != '\0' ? ", ended by " : "", end);
    printf("Slab caches, bytes an end: ");
    printf("; together %.0f.\n", print_slabs(&o.before, &o.after, 2 * o.users));
    print_capacity(&o);
    for (int i = 0; i < o.n; i++)
        crowd_stop(&o.crowd[i]);
    for (int i = 0; i < o.n; i++)
        process_stop(&o.jim[i]);
}

int
main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";

    bool one = strcmp(what, "message") == 0 || strcmp(what, "online") == 0;
    if (argc > 2 || (*what != '\0' && !one)) {
        fprintf(stderr, "usage: bench-scale [message | online]\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    if (strcmp(what, "online") != 0)
        message();
    if (strcmp(what, "message") != 0)
        online();
    return 0;
}
