/* SPDX-License-Identifier: MIT */
/*
 * bench_util.c - time, histograms, processes and what /proc says of them.
 */
#include "bench.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

void
die(const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fputc('\n', stderr);
    exit(1);
}

int64_t
now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* --- histograms ------------------------------------------------------------------------------- */

/* Values below 64 have a class each; above, the six bits after the highest choose it. */
void
hist_add(struct hist *h, int64_t value)
{
    uint64_t v = value > 0 ? (uint64_t)value : 0;
    int row = 0;

    if (v > h->max)
        h->max = v;
    while (v >> row >= 2u << (HIST_BITS - 1) && row < 64 - HIST_BITS)
        row++;
    h->count[row][v >> row & ((1u << HIST_BITS) - 1)]++;
    h->n++;
}

double
hist_at(const struct hist *h, double part)
{
    uint64_t want = (uint64_t)(part * (double)h->n), seen = 0;

    for (int row = 0; row <= 64 - HIST_BITS; row++)
        for (uint64_t i = 0; i < 1u << HIST_BITS; i++) {
            seen += h->count[row][i];
            if (seen > want) /* the class's upper end, as nobody waited longer than the longest */
                return (double)((i + 1) << row) - 1 < (double)h->max
                           ? (double)((i + 1) << row) - 1 : (double)h->max;
        }
    return (double)h->max;
}

/* --- /proc ------------------------------------------------------------------------------------ */

static void
read_proc(pid_t pid, const char *name, char *text, size_t size)
{
    char path[64];

    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
    FILE *f = fopen(path, "r");
    size_t n = f != NULL ? fread(text, 1, size - 1, f) : 0;
    if (f != NULL)
        fclose(f);
    text[n] = '\0';
}

struct usage
usage_of(pid_t pid)
{
    struct usage u = {0};
    char text[1024];
    unsigned long user = 0, sys = 0, pages = 0, reads = 0, writes = 0;
    struct timespec t;
    clockid_t clock;

    if (pid <= 0)
        return u;
    if (clock_getcpuclockid(pid, &clock) == 0 && clock_gettime(clock, &t) == 0)
        u.cpu = (double)t.tv_sec + (double)t.tv_nsec / 1e9;
    read_proc(pid, "stat", text, sizeof text);
    char *p = strrchr(text, ')');
    if (p != NULL)
        sscanf(p + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &sys);
    u.user = (double)user / (double)sysconf(_SC_CLK_TCK);
    u.sys = (double)sys / (double)sysconf(_SC_CLK_TCK);
    read_proc(pid, "statm", text, sizeof text);
    if (sscanf(text, "%*u %lu", &pages) == 1)
        u.rss = (double)pages * (double)sysconf(_SC_PAGESIZE);
    read_proc(pid, "io", text, sizeof text);
    if ((p = strstr(text, "syscr:")) != NULL)
        sscanf(p, "syscr: %lu syscw: %lu", &reads, &writes);
    u.reads = (double)reads;
    u.writes = (double)writes;
    return u;
}

static double
stat_of(const char *text, const char *key)
{
    const char *at = strstr(text, key);

    return at == NULL ? 0 : atof(at + strlen(key));
}

struct calls
jim_calls(const char *host, int port)
{
    static const char ask[] = "GET /api/stats HTTP/1.0\r\n\r\n";
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *to = NULL;
    char service[16], text[16384];
    size_t n = 0;
    ssize_t got;

    snprintf(service, sizeof service, "%d", port);
    if (getaddrinfo(host, service, &hints, &to) != 0)
        die("%s: not found", host);
    int fd = socket(to->ai_family, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, to->ai_addr, to->ai_addrlen) != 0)
        die("cannot connect to %s:%s: %s", host, service, strerror(errno));
    freeaddrinfo(to);
    if (send(fd, ask, sizeof ask - 1, MSG_NOSIGNAL) > 0)
        while (n < sizeof text - 1 && (got = recv(fd, text + n, sizeof text - 1 - n, 0)) > 0)
            n += (size_t)got;
    close(fd);
    text[n] = '\0';
    return (struct calls){stat_of(text, "\"reads\":"), stat_of(text, "\"writes\":"),
                          stat_of(text, "\"turns\":")};
}

/* --- processes -------------------------------------------------------------------------------- */

int
free_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) != 0 ||
        getsockname(fd, (struct sockaddr *)&a, &n) != 0)
        die("no free port: %s", strerror(errno));
    close(fd);
    return ntohs(a.sin_port);
}

void
process_dir(struct process *p)
{
    const char *base = getenv("BENCH_DIR");

    snprintf(p->dir, sizeof p->dir, "%.40s/jim-bench.XXXXXX", base != NULL ? base : "/tmp");
    if (mkdtemp(p->dir) == NULL)
        die("%s: %s", p->dir, strerror(errno));
}

void
process_child(void)
{
    prctl(PR_SET_PDEATHSIG, SIGTERM);
}

/* In the child: become the program. out: where its output goes, -1: nowhere. */
static void
become(const char *const argv[], int out)
{
    int null = open("/dev/null", O_RDWR);

    process_child();
    dup2(null, STDIN_FILENO);
    dup2(out >= 0 ? out : null, STDOUT_FILENO);
    if (out < 0)
        dup2(null, STDERR_FILENO);
    execvp(argv[0], (char *const *)(uintptr_t)argv);
    _exit(127);
}

void
process_start(struct process *p, const char *const argv[])
{
    fflush(NULL); /* or the child would print it once more */
    if ((p->pid = fork()) < 0)
        die("fork: %s", strerror(errno));
    if (p->pid == 0)
        become(argv, -1);
}

void
process_jim(struct process *p, const char *program, const char *const more[])
{
    const char *argv[32] = {program, "-q", "-p", "0", "-d", p->dir, "-o", "jim.login.groups=",
                            "-o", "jim.rate.messages=0", "-o", "jim.group.notify.max=0"};
    char line[256] = "";
    int out[2];

    process_dir(p);
    for (size_t i = 0; more[i] != NULL; i++) {
        argv[12 + 2 * i] = "-o";
        argv[13 + 2 * i] = more[i];
    }
    fflush(NULL);
    if (pipe(out) != 0 || (p->pid = fork()) < 0)
        die("fork: %s", strerror(errno));
    if (p->pid == 0) {
        close(out[0]);
        become(argv, out[1]);
    }
    close(out[1]);
    FILE *f = fdopen(out[0], "r");
    char *colon = fgets(line, sizeof line, f) != NULL ? strrchr(line, ':') : NULL;
    fclose(f);
    if (colon == NULL)
        die("%s does not start", program);
    p->port = atoi(colon + 1);
}

void
process_stop(struct process *p)
{
    const char *const rm[] = {"rm", "-rf", p->dir, NULL};
    struct process cleaner = {0};

    if (p->pid > 0) {
        kill(p->pid, SIGTERM);
        waitpid(p->pid, NULL, 0);
    }
    if (p->dir[0] != '\0') {
        process_start(&cleaner, rm);
        waitpid(cleaner.pid, NULL, 0);
    }
    *p = (struct process){0};
}
