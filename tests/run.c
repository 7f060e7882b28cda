/* SPDX-License-Identifier: MIT */
/*
 * run.c - the test runner. `run-tests [-j N] [-v] [-x] [PART...]` runs every test whose name
 * begins with one of the parts (all without any), or with -x every other; N at a time, or 4, since
 * most wait for a disk or a peer. It ends with the line `N passed, N failed`; -v tells each test
 * and how long it took.
 *
 * A test is a child process in its own process group and its own empty directory, so a crash, a
 * leak of descriptors or a forgotten server of one test never touches another; what it printed is
 * shown only when it failed.
 */
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TIME_LIMIT 600 /* seconds: only a hang takes this long, also under valgrind's slowness */

#ifndef TEST_LIST
#define TEST_LIST "list.inc"
#endif

#define TEST_ENTRY(name) void test_##name(void);
#include TEST_LIST
#undef TEST_ENTRY

static const struct {
    const char *name;
    void (*fn)(void);
} tests[] = {
#define TEST_ENTRY(name) {#name, test_##name},
#include TEST_LIST
};
#define TESTS (sizeof tests / sizeof tests[0])

struct job {
    pid_t pid; /* 0: free */
    size_t test;
    int64_t start_ms;
    char dir[64], log[128];
};

void
test_fail(const char *file, int line, const char *format, ...)
{
    va_list ap;

    printf("%s:%d: ", file, line);
    va_start(ap, format);
    vprintf(format, ap);
    va_end(ap);
    printf("\n");
    fflush(stdout);
    _exit(1);
}

void
test_int(const char *file, int line, const char *what, long long got, long long want)
{
    if (got != want)
        test_fail(file, line, "%s is %lld, not %lld", what, got, want);
}

void
test_bytes(const char *file, int line, const char *what, const void *got, size_t n,
           const void *want, size_t want_n)
{
    if (n == want_n && (n == 0 || memcmp(got, want, n) == 0))
        return;
    test_fail(file, line, "%s is (%zu bytes)\n  %.*s\nnot (%zu bytes)\n  %.*s", what, n, (int)n,
              n ? (const char *)got : "", want_n, (int)want_n, (const char *)want);
}

void
test_note(const char *format, ...)
{
    va_list ap;

    printf("note: ");
    va_start(ap, format);
    vprintf(format, ap);
    va_end(ap);
    printf("\n");
}

char *
test_edge(const void *p, size_t n)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t size = (n + page - 1) / page * page;
    char *map = mmap(NULL, size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);

    CHECK(map != MAP_FAILED);
    CHECK(mprotect(map + size, page, PROT_NONE) == 0);
    if (n > 0)
        memcpy(map + size - n, p, n);
    return map + size - n;
}

struct buf
read_whole(const char *path)
{
    struct buf b = {0};
    int fd = open(path, O_RDONLY);
    ssize_t n;

    CHECK(fd >= 0);
    do {
        buf_reserve(&b, 65536);
        n = read(fd, b.p + b.len, 65535);
        CHECK(n >= 0);
        b.len += (size_t)n;
    } while (n > 0);
    b.p[b.len] = '\0';
    close(fd);
    return b;
}

void
write_whole(const char *path, const void *p, size_t n)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);

    CHECK(fd >= 0);
    CHECK(n == 0 || write(fd, p, n) == (ssize_t)n);
    close(fd);
}

const char *
test_source(void)
{
    const char *dir = getenv("JIM_SOURCE");

    return dir ? dir : ".";
}

static void
start(struct job *job, size_t test)
{
    char dir[] = "/tmp/jim-test.XXXXXX";

    if (mkdtemp(dir) == NULL) {
        perror("mkdtemp");
        exit(2);
    }
    snprintf(job->dir, sizeof job->dir, "%s", dir);
    snprintf(job->log, sizeof job->log, "%s.out", dir);
    job->test = test;
    job->start_ms = time_mono_ms();
    fflush(stdout);
    job->pid = fork();
    if (job->pid != 0)
        return;
    setpgid(0, 0);
    int fd = open(job->log, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    if (fd < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0 || chdir(job->dir) != 0)
        _exit(2);
    close(fd);
    signal(SIGPIPE, SIG_IGN);
    alarm(TIME_LIMIT);
    tests[test].fn();
    fflush(stdout);
    exit(0); /* not _exit: the leak checker runs at exit */
}

/* Print the test's output: all of it after a failure, else only its notes. */
static void
show(const struct job *job, bool failed)
{
    FILE *f = fopen(job->log, "r");
    char line[4096];

    while (f != NULL && fgets(line, sizeof line, f) != NULL)
        if (failed || strncmp(line, "note: ", 6) == 0)
            printf("    %s", line);
    if (f != NULL)
        fclose(f);
}

static void
remove_dir(const char *dir)
{
    char command[256];

    snprintf(command, sizeof command, "rm -rf '%s' '%s.out'", dir, dir);
    if (system(command) != 0)
        printf("cannot remove %s\n", dir);
}

/* Wait for one child; returns whether its test passed. */
static bool
finish(struct job *jobs, size_t n, bool verbose)
{
    int status;
    pid_t pid;

    while ((pid = wait(&status)) < 0 && errno == EINTR)
        ;
    for (size_t i = 0; i < n; i++) {
        struct job *job = &jobs[i];
        if (job->pid != pid)
            continue;
        bool failed = !WIFEXITED(status) || WEXITSTATUS(status) != 0;
        kill(-pid, SIGKILL); /* servers it started and did not stop */
        if (failed || verbose)
            printf("%s %s", failed ? "FAIL" : "ok  ", tests[job->test].name);
        if (failed && WIFSIGNALED(status))
            printf(" (signal %d%s)", WTERMSIG(status),
                   WTERMSIG(status) == SIGALRM ? ": ran too long" : "");
        if (verbose)
            printf(" %.2f s", (double)(time_mono_ms() - job->start_ms) / 1000);
        if (failed || verbose)
            printf("\n");
        show(job, failed);
        remove_dir(job->dir);
        job->pid = 0;
        return !failed;
    }
    printf("FAIL lost child %ld\n", (long)pid);
    return false;
}

static bool
wanted(const char *name, char **parts, int n, bool others)
{
    for (int i = 0; i < n; i++)
        if (strncmp(name, parts[i], strlen(parts[i])) == 0)
            return !others;
    return n == 0 || others;
}

int
main(int argc, char **argv)
{
    struct job jobs[16] = {{0}};
    size_t running = 0, limit = 4, passed = 0, failed = 0;
    bool verbose = false, others = false;
    int c;

    while ((c = getopt(argc, argv, "j:vx")) != -1) {
        if (c == 'j' && atoi(optarg) > 0 && atoi(optarg) <= 16)
            limit = (size_t)atoi(optarg);
        else if (c == 'v')
            verbose = true;
        else if (c == 'x')
            others = true;
        else
            return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t i = 0; i < TESTS || running > 0;) {
        if (i < TESTS && !wanted(tests[i].name, argv + optind, argc - optind, others)) {
            i++;
            continue;
        }
        if (i < TESTS && running < limit) {
            size_t slot = 0;
            while (jobs[slot].pid != 0)
                slot++;
            start(&jobs[slot], i++);
            running++;
            continue;
        }
        if (finish(jobs, limit, verbose))
            passed++;
        else
            failed++;
        running--;
    }
    printf("%zu passed, %zu failed\n", passed, failed);
    return failed > 0 || passed == 0;
}
