/* SPDX-License-Identifier: MIT */
/*
 * test_loop.c - what loop.c promises, the same on every backend: run it for each. Nothing sleeps;
 * where something must come, loop_turn(-1) waits for it, and a promise broken is a test that runs
 * too long.
 */
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

struct probe { /* a watched descriptor that counts */
    struct loop *l;
    int fd, peer;
    int calls;
    unsigned seen; /* events of the last call */
    bool drain;    /* read what is there when called for reading */
    struct probe *other;
};

static void
on_probe(void *arg, unsigned events)
{
    struct probe *p = arg;
    char b[64];

    p->calls++;
    p->seen = events;
    if (p->drain && (events & LOOP_READ) && read(p->fd, b, sizeof b) < 0)
        CHECK(errno == EAGAIN || errno == ECONNRESET);
}

static void
nonblocking(int fd)
{
    CHECK(fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
}

/* A socketpair, one end watched. */
static void
open_pair(struct probe *p, struct loop *l, unsigned events)
{
    int s[2];

    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
    nonblocking(s[0]);
    nonblocking(s[1]);
    *p = (struct probe){.l = l, .fd = s[0], .peer = s[1]};
    CHECK_INT(loop_add(l, p->fd, events, on_probe, p), 0);
}

static void
close_pair(struct probe *p)
{
    loop_del(p->l, p->fd);
    close(p->fd);
    if (p->peer >= 0)
        close(p->peer);
}

static void
send_byte(int fd)
{
    CHECK(write(fd, "x", 1) == 1);
}

static void
turns_until(struct loop *l, const int *calls, int want)
{
    while (*calls < want)
        CHECK(loop_turn(l, -1) >= 0);
}

/* A few turns without waiting: whatever is ready now is found by the first. */
static void
some_turns(struct loop *l)
{
    for (int i = 0; i < 4; i++)
        CHECK(loop_turn(l, 0) >= 0);
}

/* Room for n descriptors and some; returns how many there are. */
static int
descriptors(int n)
{
    struct rlimit r;

    CHECK(getrlimit(RLIMIT_NOFILE, &r) == 0);
    if (r.rlim_cur < (rlim_t)n + 64) {
        r.rlim_cur = r.rlim_max == RLIM_INFINITY || r.rlim_max > (rlim_t)n + 64 ? (rlim_t)n + 64
                                                                               : r.rlim_max;
        CHECK(setrlimit(RLIMIT_NOFILE, &r) == 0);
    }
    return r.rlim_cur < (rlim_t)n + 64 ? (int)r.rlim_cur - 64 : n;
}

/* --- descriptors ------------------------------------------------------------------------------ */

TEST(loop_backend_is_known)
{
    const char *b = loop_backend();

    CHECK(strcmp(b, "epoll") == 0 || strcmp(b, "kqueue") == 0 || strcmp(b, "poll") == 0);
    test_note("loop backend %s", b);
}

TEST(loop_reads_a_pipe)
{
    struct loop *l = loop_new();
    int fd[2];

    CHECK(l != NULL && pipe(fd) == 0);
    struct probe p = {.l = l, .fd = fd[0], .drain = true};
    CHECK_INT(loop_add(l, fd[0], LOOP_READ, on_probe, &p), 0);
    some_turns(l);
    CHECK_INT(p.calls, 0);
    send_byte(fd[1]);
    CHECK_INT(loop_turn(l, -1), 1);
    CHECK_INT(p.calls, 1);
    CHECK_INT(p.seen, LOOP_READ);
    some_turns(l);
    CHECK_INT(p.calls, 1);
    close(fd[1]); /* the end of the stream is something to read, again and again */
    turns_until(l, &p.calls, 3);
    CHECK_INT(p.seen, LOOP_READ);
    loop_free(l);
}

TEST(loop_writes_a_pipe)
{
    struct loop *l = loop_new();
    char b[4096] = {0};
    int fd[2];

    CHECK(pipe(fd) == 0);
    nonblocking(fd[0]);
    nonblocking(fd[1]);
    struct probe p = {.l = l, .fd = fd[1]};
    CHECK_INT(loop_add(l, fd[1], LOOP_WRITE, on_probe, &p), 0);
    turns_until(l, &p.calls, 2);
    CHECK_INT(p.seen, LOOP_WRITE);
    while (write(fd[1], b, sizeof b) > 0)
        ;
    p.calls = 0;
    some_turns(l);
    CHECK_INT(p.calls, 0);
    while (read(fd[0], b, sizeof b) > 0)
        ;
    turns_until(l, &p.calls, 1);
    loop_free(l);
}

TEST(loop_level_triggered)
{
    struct loop *l = loop_new();
    struct probe p;

    open_pair(&p, l, LOOP_READ);
    send_byte(p.peer);
    for (int i = 1; i <= 3; i++) { /* nothing is read, so it stays ready */
        CHECK_INT(loop_turn(l, -1), 1);
        CHECK_INT(p.calls, i);
    }
    close_pair(&p);
    loop_free(l);
}

TEST(loop_one_callback_a_turn)
{
    struct loop *l = loop_new();
    struct probe p;

    open_pair(&p, l, LOOP_READ | LOOP_WRITE);
    send_byte(p.peer);
    for (int i = 1; i <= 3; i++) {
        CHECK_INT(loop_turn(l, -1), 1);
        CHECK_INT(p.calls, i);
        CHECK_INT(p.seen, LOOP_READ | LOOP_WRITE);
    }
    close_pair(&p);
    loop_free(l);
}

TEST(loop_interest_changes)
{
    struct loop *l = loop_new();
    struct probe p;
    const unsigned order[] = {LOOP_READ, 0, LOOP_WRITE, LOOP_READ, LOOP_READ | LOOP_WRITE, 0,
                              LOOP_READ | LOOP_WRITE, LOOP_WRITE, 0, LOOP_READ};

    open_pair(&p, l, 0);
    send_byte(p.peer);
    some_turns(l);
    CHECK_INT(p.calls, 0);
    for (size_t i = 0; i < sizeof order / sizeof order[0]; i++) {
        CHECK_INT(loop_set(l, p.fd, order[i]), 0);
        p.calls = 0;
        some_turns(l);
        CHECK_INT(p.calls, order[i] != 0 ? 4 : 0);
        if (order[i] != 0)
            CHECK_INT(p.seen, order[i]);
    }
    close_pair(&p);
    loop_free(l);
}

TEST(loop_errors_have_errno)
{
    struct loop *l = loop_new();
    struct probe p;
    int free_fd = dup(0);

    close(free_fd);
    errno = 0;
    CHECK(loop_add(l, -1, LOOP_READ, on_probe, NULL) == -1 && errno == EBADF);
    CHECK(loop_add(l, free_fd, LOOP_READ, on_probe, NULL) == -1 && errno == EBADF);
    CHECK(loop_arg(l, free_fd, on_probe) == NULL);
    CHECK(loop_set(l, free_fd, LOOP_READ) == -1 && errno == ENOENT);
    CHECK(loop_set(l, -1, LOOP_READ) == -1 && errno == ENOENT);
    CHECK(loop_set(l, 1 << 20, LOOP_READ) == -1 && errno == ENOENT);
    open_pair(&p, l, LOOP_READ);
    CHECK(loop_add(l, p.fd, LOOP_READ, on_probe, NULL) == -1 && errno == EEXIST);
    loop_del(l, -1);
    loop_del(l, 1 << 20);
    loop_del(l, p.peer);
    close_pair(&p);
    loop_del(l, p.fd);
    loop_free(l);
    loop_free(NULL);
}

TEST(loop_set_unchanged_asks_nobody)
{
    struct loop *l = loop_new();
    struct probe p;

    open_pair(&p, l, LOOP_READ);
    close(p.fd); /* the kernel would refuse now */
    CHECK_INT(loop_set(l, p.fd, LOOP_READ), 0);
    if (strcmp(loop_backend(), "poll") != 0)
        CHECK(loop_set(l, p.fd, LOOP_WRITE) == -1 && (errno == EBADF || errno == ENOENT));
    loop_del(l, p.fd);
    close(p.peer);
    loop_free(l);
}

TEST(loop_arg_walks_what_is_watched)
{
    struct loop *l = loop_new();
    struct probe p[5];
    int found = 0, top = 0;

    for (int i = 0; i < 5; i++) {
        open_pair(&p[i], l, LOOP_READ);
        top = p[i].fd + 1;
    }
    loop_del(l, p[2].fd);
    CHECK_INT(loop_top(l), top);
    for (int fd = 0; fd < loop_top(l); fd++) {
        struct probe *got = loop_arg(l, fd, on_probe); /* never the loop's own wake pipe */
        if (got == NULL)
            continue;
        found++;
        CHECK(got >= p && got < p + 5 && got != &p[2] && got->fd == fd);
    }
    CHECK_INT(found, 4);
    CHECK(loop_arg(l, -1, on_probe) == NULL && loop_arg(l, 1 << 20, on_probe) == NULL);
    for (int i = 0; i < 5; i++)
        close_pair(&p[i]);
    CHECK_INT(loop_top(l), top);
    loop_free(l);
}

TEST(loop_leaves_no_descriptors)
{
    int before = dup(0);

    close(before);
    for (int i = 0; i < 300; i++)
        loop_free(loop_new());
    int after = dup(0);
    CHECK(after < before + 8); /* the kqueue of tests/kqueue keeps a few */
}

TEST(loop_new_reports_failure)
{
    struct rlimit r;

    CHECK(getrlimit(RLIMIT_NOFILE, &r) == 0);
    for (rlim_t n = 3; n <= 5; n++) { /* 0 to 2 are taken, at most two are left */
        r.rlim_cur = n;
        CHECK(setrlimit(RLIMIT_NOFILE, &r) == 0);
        for (int fd = 3; fd < 64; fd++)
            close(fd);
        errno = 0;
        struct loop *l = loop_new();
        CHECK(l != NULL || errno == EMFILE);
        CHECK(n > 4 || l == NULL); /* poll needs two for its pipe, the others three or more */
        loop_free(l);
    }
}

TEST(loop_two_side_by_side)
{
    struct loop *a = loop_new(), *b = loop_new();
    struct probe p, q;

    open_pair(&p, a, LOOP_READ);
    open_pair(&q, b, LOOP_READ);
    send_byte(p.peer);
    loop_wake(b);
    turns_until(a, &p.calls, 1);
    CHECK_INT(loop_turn(b, -1), 0);
    CHECK_INT(q.calls, 0);
    loop_free(a);
    send_byte(q.peer);
    turns_until(b, &q.calls, 1);
    loop_free(b);
}

/* --- removal and replacement during a turn ---------------------------------------------------- */

static void
del_other(void *arg, unsigned events)
{
    struct probe *p = arg;

    on_probe(p, events);
    loop_del(p->l, p->other->fd);
}

TEST(loop_del_in_anothers_callback)
{
    struct loop *l = loop_new();
    struct probe a, b;

    open_pair(&a, l, 0);
    open_pair(&b, l, 0);
    loop_del(l, a.fd);
    loop_del(l, b.fd);
    a.other = &b;
    b.other = &a;
    CHECK_INT(loop_add(l, a.fd, LOOP_READ | LOOP_WRITE, del_other, &a), 0);
    CHECK_INT(loop_add(l, b.fd, LOOP_READ | LOOP_WRITE, del_other, &b), 0);
    send_byte(a.peer);
    send_byte(b.peer);
    CHECK_INT(loop_turn(l, -1), 1); /* whichever came first silenced the other */
    CHECK_INT(a.calls + b.calls, 1);
    some_turns(l);
    CHECK((a.calls == 0) != (b.calls == 0));
    loop_free(l);
}

static void
del_self(void *arg, unsigned events)
{
    struct probe *p = arg;

    on_probe(p, events);
    loop_del(p->l, p->fd);
}

TEST(loop_del_in_own_callback)
{
    struct loop *l = loop_new();
    struct probe p;

    open_pair(&p, l, 0);
    loop_del(l, p.fd);
    CHECK_INT(loop_add(l, p.fd, LOOP_READ | LOOP_WRITE, del_self, &p), 0);
    send_byte(p.peer);
    CHECK_INT(loop_turn(l, -1), 1);
    some_turns(l);
    CHECK_INT(p.calls, 1);
    CHECK_INT(loop_add(l, p.fd, LOOP_READ, on_probe, &p), 0); /* and welcome back */
    turns_until(l, &p.calls, 2);
    loop_free(l);
}

struct swap { /* two ready descriptors: the first called puts a stranger in the other's place */
    struct probe a, b, stranger;
    bool stranger_ready;
    int swapped;
};

static void
on_swap(void *arg, unsigned events)
{
    struct swap *s = arg;
    struct probe *victim = events & LOOP_WRITE ? &s->b : &s->a; /* a asks for both, b to read */
    int fd[2];

    CHECK_INT(s->swapped++, 0);
    loop_del(victim->l, victim->fd);
    close(victim->fd);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, fd) == 0);
    if (fd[0] != victim->fd) {
        CHECK(dup2(fd[0], victim->fd) == victim->fd);
        close(fd[0]);
    }
    s->stranger = (struct probe){.l = victim->l, .fd = victim->fd, .peer = fd[1]};
    if (s->stranger_ready)
        send_byte(fd[1]);
    CHECK_INT(loop_add(victim->l, victim->fd, LOOP_READ, on_probe, &s->stranger), 0);
    loop_del(victim->l, (victim == &s->a ? &s->b : &s->a)->fd);
}

static void
swap(bool stranger_ready)
{
    struct loop *l = loop_new();
    struct swap s = {.stranger_ready = stranger_ready};

    open_pair(&s.a, l, 0);
    open_pair(&s.b, l, 0);
    loop_del(l, s.a.fd);
    loop_del(l, s.b.fd);
    CHECK_INT(loop_add(l, s.a.fd, LOOP_READ | LOOP_WRITE, on_swap, &s), 0);
    CHECK_INT(loop_add(l, s.b.fd, LOOP_READ, on_swap, &s), 0);
    send_byte(s.a.peer);
    send_byte(s.b.peer);
    CHECK_INT(loop_turn(l, -1), 1);
    CHECK_INT(s.swapped, 1);
    CHECK_INT(s.stranger.calls, 0); /* not with the event of the one before it */
    if (!stranger_ready) {
        some_turns(l);
        CHECK_INT(s.stranger.calls, 0);
        send_byte(s.stranger.peer);
    }
    turns_until(l, &s.stranger.calls, 1);
    loop_free(l);
}

TEST(loop_same_number_reused_in_turn)
{
    swap(false);
}

TEST(loop_same_number_reused_and_ready)
{
    swap(true);
}

static void
set_other(void *arg, unsigned events)
{
    struct probe *p = arg;

    on_probe(p, events);
    CHECK_INT(loop_set(p->l, p->other->fd, 0), 0);
}

TEST(loop_set_in_anothers_callback)
{
    struct loop *l = loop_new();
    struct probe a, b;

    open_pair(&a, l, 0);
    open_pair(&b, l, 0);
    loop_del(l, a.fd);
    loop_del(l, b.fd);
    a.other = &b;
    b.other = &a;
    CHECK_INT(loop_add(l, a.fd, LOOP_READ, set_other, &a), 0);
    CHECK_INT(loop_add(l, b.fd, LOOP_READ, set_other, &b), 0);
    send_byte(a.peer);
    send_byte(b.peer);
    CHECK_INT(loop_turn(l, -1), 1);
    struct probe *quiet = a.calls == 0 ? &a : &b;
    some_turns(l);
    CHECK_INT(quiet->calls, 0);
    CHECK_INT(loop_set(l, quiet->other->fd, 0), 0); /* or it might come first again */
    CHECK_INT(loop_set(l, quiet->fd, LOOP_READ), 0);
    turns_until(l, &quiet->calls, 1);
    loop_free(l);
}

struct grow {
    struct probe p[8];
    int calls, copies;
    int high;
};

static void
on_grow(void *arg, unsigned events)
{
    struct probe *p = arg;
    struct grow *g = (struct grow *)(void *)p->other; /* p->other is lent for this */

    on_probe(p, events);
    g->calls++;
    g->high += g->high / 2; /* past the end of the table most times */
    int fd = dup2(p->fd, g->high);
    CHECK_INT(fd, g->high);
    CHECK_INT(loop_add(p->l, fd, LOOP_READ, on_probe, &g->p[7]), 0);
    g->copies++;
    loop_del(p->l, p->fd);
}

TEST(loop_table_moves_in_callback)
{
    struct loop *l = loop_new();
    struct grow g = {.high = 450};

    g.high = descriptors(6000) >= 6000 ? 450 : 60;
    for (int i = 0; i < 7; i++) {
        open_pair(&g.p[i], l, 0);
        loop_del(l, g.p[i].fd);
        g.p[i].other = (struct probe *)(void *)&g;
        send_byte(g.p[i].peer);
    }
    for (int i = 0; i < 6; i++)
        CHECK_INT(loop_add(l, g.p[i].fd, LOOP_READ, on_grow, &g.p[i]), 0);
    CHECK_INT(loop_turn(l, -1), 6);
    CHECK_INT(g.calls, 6);
    CHECK_INT(g.p[7].calls, 0);
    CHECK_INT(loop_top(l), g.high + 1);
    CHECK_INT(loop_turn(l, -1), 6); /* the copies, still unread */
    CHECK_INT(g.p[7].calls, 6);
    loop_free(l);
}

TEST(loop_high_numbers)
{
    struct loop *l = loop_new();
    struct probe p;
    int high = descriptors(5100) >= 5100 ? 5000 : 200;

    open_pair(&p, l, 0);
    loop_del(l, p.fd);
    CHECK_INT(dup2(p.fd, high), high);
    close(p.fd);
    p.fd = high;
    p.drain = true;
    CHECK_INT(loop_add(l, p.fd, LOOP_READ, on_probe, &p), 0);
    CHECK_INT(loop_top(l), high + 1);
    send_byte(p.peer);
    turns_until(l, &p.calls, 1);
    CHECK_INT(loop_set(l, p.fd, LOOP_WRITE), 0);
    turns_until(l, &p.calls, 2);
    CHECK_INT(p.seen, LOOP_WRITE);
    close_pair(&p);
    loop_free(l);
}

/* --- hang-ups --------------------------------------------------------------------------------- */

TEST(loop_hangup_without_interest)
{
    struct loop *l = loop_new();
    struct probe p;

    open_pair(&p, l, 0);
    some_turns(l);
    CHECK(shutdown(p.peer, SHUT_WR) == 0); /* no more to read is not a hang-up */
    some_turns(l);
    CHECK_INT(p.calls, 0);
    close(p.peer);
    p.peer = -1;
    turns_until(l, &p.calls, 1);
    CHECK_INT(p.seen, LOOP_READ);
    close_pair(&p);
    loop_free(l);
}

TEST(loop_hangup_after_interest_is_dropped)
{
    struct loop *l = loop_new();
    struct probe p;

    open_pair(&p, l, LOOP_READ | LOOP_WRITE);
    send_byte(p.peer);
    turns_until(l, &p.calls, 1);
    CHECK_INT(loop_set(l, p.fd, 0), 0);
    p.calls = 0;
    some_turns(l);
    CHECK_INT(p.calls, 0);
    close(p.peer);
    p.peer = -1;
    turns_until(l, &p.calls, 1);
    CHECK_INT(p.seen, LOOP_READ);
    close_pair(&p);
    loop_free(l);
}

TEST(loop_hangup_as_asked_for)
{
    struct loop *l = loop_new();
    struct probe p;

    for (unsigned events = 1; events <= 3; events++) {
        open_pair(&p, l, events);
        close(p.peer);
        p.peer = -1;
        turns_until(l, &p.calls, 1);
        CHECK_INT(p.seen, events);
        close_pair(&p);
    }
    loop_free(l);
}

TEST(loop_hangup_of_a_full_pipe)
{
    struct loop *l = loop_new();
    char b[4096] = {0};
    int fd[2];

    CHECK(pipe(fd) == 0);
    nonblocking(fd[1]);
    while (write(fd[1], b, sizeof b) > 0)
        ;
    struct probe p = {.l = l, .fd = fd[1]};
    CHECK_INT(loop_add(l, fd[1], LOOP_WRITE, on_probe, &p), 0);
    some_turns(l);
    CHECK_INT(p.calls, 0);
    close(fd[0]);
    turns_until(l, &p.calls, 1);
    CHECK_INT(p.seen, LOOP_WRITE);
    CHECK(write(fd[1], b, 1) < 0 && errno == EPIPE);
    loop_free(l);
}

/* --- many ------------------------------------------------------------------------------------- */

static struct probe *
many_pairs(struct loop *l, int n, bool drain)
{
    struct probe *p = calloc((size_t)n * 2, sizeof *p);

    CHECK(p != NULL);
    for (int i = 0; i < n; i++) {
        struct probe *a = &p[2 * i], *b = &p[2 * i + 1];
        open_pair(a, l, LOOP_READ);
        *b = (struct probe){.l = l, .fd = a->peer, .peer = -1};
        CHECK_INT(loop_add(l, b->fd, LOOP_READ, on_probe, b), 0);
        a->drain = b->drain = drain;
        send_byte(a->fd);
        send_byte(b->fd);
        a->peer = -1;
    }
    return p;
}

TEST(loop_many_ready_at_once)
{
    struct loop *l = loop_new();
    int n = descriptors(4000) / 2, served = 0;
    struct probe *p = many_pairs(l, n, true);

    while (served < 2 * n) {
        int ran = loop_turn(l, -1);
        CHECK(ran >= 0);
        served += ran;
    }
    some_turns(l);
    for (int i = 0; i < 2 * n; i++) {
        CHECK_INT(p[i].calls, 1);
        close_pair(&p[i]);
    }
    free(p);
    loop_free(l);
}

TEST(loop_many_stay_ready_and_none_starves)
{
    struct loop *l = loop_new();
    int n = descriptors(4000) / 2, served = 0, most = 0;
    struct probe *p = many_pairs(l, n, false);

    while (served < 2 * n) {
        CHECK(loop_turn(l, -1) > 0);
        served = 0;
        for (int i = 0; i < 2 * n; i++) {
            served += p[i].calls > 0;
            most = p[i].calls > most ? p[i].calls : most;
        }
    }
    CHECK(most <= 2);
    free(p);
    loop_free(l);
}

TEST(loop_random_adds_and_removals)
{
    struct loop *l = loop_new();
    struct probe p[64];
    unsigned events[64], seed = 12345;
    bool on[64] = {0};

    for (int i = 0; i < 64; i++) { /* all readable and writable */
        open_pair(&p[i], l, 0);
        send_byte(p[i].peer);
        loop_del(l, p[i].fd);
    }
    for (int round = 0; round < 3000; round++) {
        for (int k = 0; k < 8; k++) {
            seed = seed * 1103515245u + 12345u;
            unsigned i = seed >> 16 & 63, want = seed >> 24 & 3, what = seed >> 28 & 3;
            if (!on[i])
                CHECK_INT(loop_add(l, p[i].fd, want, on_probe, &p[i]), 0);
            else if (what == 0)
                loop_del(l, p[i].fd);
            else
                CHECK_INT(loop_set(l, p[i].fd, want), 0);
            on[i] = !on[i] || what != 0;
            events[i] = want;
        }
        int want = 0;
        for (int i = 0; i < 64; i++) {
            p[i].calls = 0;
            want += on[i] && events[i] != 0;
        }
        CHECK_INT(loop_turn(l, 0), want);
        for (int i = 0; i < 64; i++) {
            CHECK_INT(p[i].calls, on[i] && events[i] != 0);
            if (p[i].calls > 0)
                CHECK_INT(p[i].seen, events[i]);
        }
    }
    loop_free(l);
}

/* --- timers ----------------------------------------------------------------------------------- */

#define TIMERS 10000

struct tick { /* the timer first, so that a timer is its tick */
    struct timer t;
    struct loop *l;
    int calls;
    struct tick *other;
    struct ticks *all;
    int64_t want_ms;
};

struct ticks { /* what fired, in order */
    struct tick tick[TIMERS];
    int64_t fired[TIMERS];
    int n;
};

static void
on_tick(struct timer *t)
{
    struct tick *k = (struct tick *)t;

    k->calls++;
    CHECK(t->slot == 0);
    CHECK(loop_now(k->l) >= t->at_ms);
    if (k->all != NULL)
        k->all->fired[k->all->n++] = k->want_ms;
}

TEST(loop_timer_order)
{
    struct loop *l = loop_new();
    struct ticks *all = calloc(1, sizeof *all);
    const int after[] = {20, 5, 10, 0, 5};

    for (int i = 0; i < 5; i++) {
        struct tick *k = &all->tick[i];
        *k = (struct tick){.l = l, .all = all, .want_ms = after[i]};
        loop_timer(l, &k->t, loop_now(l) + after[i], on_tick);
    }
    turns_until(l, &all->n, 5);
    CHECK(all->fired[0] == 0 && all->fired[1] == 5 && all->fired[2] == 5 && all->fired[3] == 10 &&
          all->fired[4] == 20);
    some_turns(l);
    CHECK_INT(all->n, 5); /* each once */
    free(all);
    loop_free(l);
}

TEST(loop_timer_ends_the_wait)
{
    struct loop *l = loop_new();
    struct tick k = {.l = l};
    int turns = 0;

    int64_t at = time_mono_ms() + 30;
    loop_timer(l, &k.t, at, on_tick);
    for (; k.calls == 0; turns++)
        CHECK(loop_turn(l, -1) >= 0);
    CHECK(time_mono_ms() >= at);
    CHECK(turns <= 3); /* no ticking meanwhile; one more for a clock that runs ahead of the wait */
    k.calls = 0;
    loop_timer(l, &k.t, time_mono_ms() + 1, on_tick);
    while (k.calls == 0)
        CHECK(loop_turn(l, INT64_MAX) >= 0);
    loop_free(l);
}

TEST(loop_max_ms_ends_the_wait)
{
    struct loop *l = loop_new();
    struct tick k = {.l = l};

    loop_timer(l, &k.t, loop_now(l) + 1000000, on_tick);
    int64_t start = time_mono_ms();
    CHECK_INT(loop_turn(l, 20), 0);
    CHECK(loop_now(l) >= start + 19);
    CHECK_INT(loop_turn(l, 0), 0);
    CHECK_INT(k.calls, 0);
    loop_free(l);
}

TEST(loop_timer_reset_and_clear)
{
    struct loop *l = loop_new();
    struct tick a = {.l = l}, b = {.l = l}, c = {.l = l};

    loop_timer_clear(l, &a.t); /* never set */
    loop_timer(l, &a.t, loop_now(l), on_tick);
    loop_timer(l, &a.t, loop_now(l) + 1000000, on_tick); /* later */
    loop_timer(l, &b.t, loop_now(l) + 1000000, on_tick);
    loop_timer(l, &b.t, loop_now(l), on_tick); /* earlier */
    loop_timer(l, &c.t, loop_now(l), on_tick);
    loop_timer_clear(l, &c.t);
    loop_timer_clear(l, &c.t);
    CHECK_INT(loop_turn(l, -1), 1);
    CHECK_INT(b.calls, 1);
    some_turns(l);
    CHECK_INT(a.calls, 0);
    CHECK_INT(c.calls, 0);
    loop_timer(l, &c.t, INT64_MIN, on_tick); /* any number is a time */
    loop_timer(l, &a.t, INT64_MAX, on_tick);
    CHECK_INT(loop_turn(l, -1), 1);
    CHECK_INT(c.calls, 1);
    CHECK_INT(loop_turn(l, 0), 0);
    loop_free(l);
}

static void
clear_other(struct timer *t)
{
    struct tick *k = (struct tick *)t;

    on_tick(t);
    loop_timer_clear(k->l, &k->other->t);
}

static void
free_self(struct timer *t)
{
    on_tick(t);
    free(t);
}

TEST(loop_timer_cleared_in_callback)
{
    struct loop *l = loop_new();
    struct tick a = {.l = l}, b = {.l = l}, *c = calloc(1, sizeof *c);

    a.other = &b;
    b.other = &a;
    loop_timer(l, &a.t, loop_now(l), clear_other);
    loop_timer(l, &b.t, loop_now(l), clear_other);
    CHECK_INT(loop_turn(l, -1), 1);
    some_turns(l);
    CHECK_INT(a.calls + b.calls, 1);
    c->l = l;
    loop_timer(l, &c->t, loop_now(l), free_self);
    CHECK_INT(loop_turn(l, -1), 1);
    some_turns(l);
    loop_free(l);
}

static void
set_again(struct timer *t)
{
    struct tick *k = (struct tick *)t;

    on_tick(t);
    loop_timer(k->l, t, loop_now(k->l), set_again);
    loop_timer(k->l, &k->other->t, INT64_MIN, set_again); /* nor may two keep each other going */
}

TEST(loop_timer_that_sets_itself)
{
    struct loop *l = loop_new();
    struct tick a = {.l = l}, b = {.l = l};
    struct probe p;

    a.other = &b;
    b.other = &a;
    open_pair(&p, l, LOOP_READ);
    send_byte(p.peer);
    loop_timer(l, &a.t, loop_now(l), set_again);
    for (int i = 1; i <= 200; i++) {
        int before = a.calls, before_b = b.calls;
        CHECK(loop_turn(l, -1) >= 1);
        CHECK_INT(p.calls, i); /* the socket is served every turn */
        CHECK(a.calls <= before + 1 && b.calls <= before_b + 1);
    }
    turns_until(l, &a.calls, 20);
    loop_free(l);
}

static void
set_timer(void *arg, unsigned events)
{
    struct tick *k = arg;

    (void)events;
    loop_timer(k->l, &k->t, loop_now(k->l), on_tick);
}

TEST(loop_timers_run_after_callbacks)
{
    struct loop *l = loop_new();
    struct tick k = {.l = l};
    struct probe p;

    open_pair(&p, l, 0);
    loop_del(l, p.fd);
    CHECK_INT(loop_add(l, p.fd, LOOP_WRITE, set_timer, &k), 0);
    CHECK_INT(loop_turn(l, -1), 2); /* set by a callback and due: the same turn */
    CHECK_INT(k.calls, 1);
    loop_free(l);
}

static int
by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

/* Set, move and clear at random; what is left must fire in the order of qsort(). */
TEST(loop_timer_random_order)
{
    struct loop *l = loop_new();
    struct ticks *all = calloc(1, sizeof *all);
    int64_t *want = calloc(TIMERS, sizeof *want), start = loop_now(l);
    unsigned seed = 1;
    size_t n = 0;

    for (int i = 0; i < TIMERS * 3; i++) {
        seed = seed * 1103515245u + 12345u;
        struct tick *k = &all->tick[i < TIMERS ? (unsigned)i : (seed >> 8) % TIMERS];
        seed = seed * 1103515245u + 12345u;
        k->l = l;
        k->all = all;
        k->want_ms = start + (seed >> 16) % 60;
        if (i >= TIMERS && (seed >> 8) % 3 == 0)
            loop_timer_clear(l, &k->t);
        else
            loop_timer(l, &k->t, k->want_ms, on_tick);
    }
    for (int i = 0; i < TIMERS; i++)
        if (all->tick[i].t.slot > 0)
            want[n++] = all->tick[i].t.at_ms;
    qsort(want, n, sizeof want[0], by_value);
    CHECK(n > TIMERS / 2);
    turns_until(l, &all->n, (int)n);
    some_turns(l);
    CHECK_INT(all->n, n);
    for (size_t i = 0; i < n; i++)
        CHECK_INT(all->fired[i], want[i]);
    free(want);
    free(all);
    loop_free(l);
}

static void
stir(struct timer *t)
{
    struct tick *k = (struct tick *)t;
    unsigned x = (unsigned)(k - k->all->tick) * 2654435761u + (unsigned)k->calls * 40503u;

    CHECK(loop_now(k->l) >= k->want_ms);
    CHECK(k->want_ms >= 0); /* -1: cleared, must not come */
    k->want_ms = -1;
    k->calls++;
    k->all->n++;
    for (int i = 0; i < 2 && k->all->n < TIMERS; i++) {
        struct tick *o = &k->all->tick[(x = x * 1103515245u + 12345u) >> 16 & 255];
        if ((x & 0x300) == 0) {
            loop_timer_clear(k->l, &o->t);
            o->want_ms = -1;
            continue;
        }
        o->want_ms = loop_now(k->l) + (x >> 10 & 3);
        loop_timer(k->l, &o->t, o->want_ms, stir);
    }
}

TEST(loop_timer_random_in_callbacks)
{
    struct loop *l = loop_new();
    struct ticks *all = calloc(1, sizeof *all);
    int armed = 256;

    for (int i = 0; i < 256; i++) {
        all->tick[i] = (struct tick){.l = l, .all = all, .want_ms = loop_now(l)};
        loop_timer(l, &all->tick[i].t, loop_now(l), stir);
    }
    while (armed > 0) {
        CHECK(loop_turn(l, -1) >= 0);
        armed = 0;
        for (int i = 0; i < 256; i++) {
            CHECK((all->tick[i].t.slot > 0) == (all->tick[i].want_ms >= 0));
            armed += all->tick[i].t.slot > 0;
        }
    }
    CHECK(all->n > 256);
    free(all);
    loop_free(l);
}

/* --- wake-up ---------------------------------------------------------------------------------- */

TEST(loop_wake_coalesces)
{
    struct loop *l = loop_new();
    struct tick k = {.l = l};

    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 100000; i++)
            loop_wake(l);
        CHECK_INT(loop_turn(l, INT64_MAX), 0);
        k.calls = 0; /* one turn took them all: now only the timer ends the wait */
        loop_timer(l, &k.t, time_mono_ms() + 3, on_tick);
        int turns = 0;
        for (; k.calls == 0; turns++)
            CHECK(loop_turn(l, -1) >= 0);
        CHECK(turns <= 3);
    }
    loop_free(l);
}

static void
wake_up(void *arg, unsigned events)
{
    struct probe *p = arg;

    on_probe(p, events);
    loop_wake(p->l);
}

TEST(loop_wake_from_a_callback)
{
    struct loop *l = loop_new();
    struct probe p;

    open_pair(&p, l, 0);
    loop_del(l, p.fd);
    p.drain = true;
    CHECK_INT(loop_add(l, p.fd, LOOP_READ, wake_up, &p), 0);
    for (int i = 0; i < 50; i++) {
        loop_wake(l); /* so that the pipe's event may come before or after in the same turn */
        send_byte(p.peer);
        CHECK_INT(loop_turn(l, -1), 1);
        if (i % 2 == 0) /* the first either saw the callback's wake or left it to this one */
            loop_wake(l);
        CHECK_INT(loop_turn(l, i % 2 == 0 ? -1 : 0), 0);
    }
    loop_free(l);
}

struct waker {
    struct loop *l;
    atomic_int sent;
    int plain; /* handed over by the wake alone */
    int rounds;
};

static void *
wake_once(void *arg)
{
    struct waker *w = arg;

    w->plain = 42;
    loop_wake(w->l);
    return NULL;
}

TEST(loop_wake_from_a_thread)
{
    struct loop *l = loop_new();

    for (int i = 0; i < 50; i++) {
        struct waker w = {.l = l};
        pthread_t t;
        CHECK(pthread_create(&t, NULL, wake_once, &w) == 0);
        CHECK_INT(loop_turn(l, -1), 0);
        CHECK_INT(w.plain, 42);
        CHECK(pthread_join(t, NULL) == 0);
    }
    loop_free(l);
}

static void *
wake_often(void *arg)
{
    struct waker *w = arg;

    for (int i = 0; i < w->rounds; i++) {
        atomic_fetch_add(&w->sent, 1);
        loop_wake(w->l);
    }
    return NULL;
}

TEST(loop_wake_is_never_lost)
{
    struct loop *l = loop_new();
    struct waker w = {.l = l, .rounds = 20000};
    pthread_t t[4];

    for (int i = 0; i < 4; i++)
        CHECK(pthread_create(&t[i], NULL, wake_often, &w) == 0);
    while (atomic_load(&w.sent) < 4 * w.rounds) /* a lost wake: the wait does not end */
        CHECK_INT(loop_turn(l, -1), 0);
    for (int i = 0; i < 4; i++)
        CHECK(pthread_join(t[i], NULL) == 0);
    loop_free(l);
}

static struct loop *signal_loop; /* a handler gets no argument */
static volatile sig_atomic_t signals;

static void
on_signal(int sig)
{
    (void)sig;
    signals++;
    loop_wake(signal_loop);
}

TEST(loop_wake_from_a_signal_handler)
{
    struct sigaction a = {.sa_handler = on_signal};
    struct itimerval soon = {.it_value = {.tv_usec = 2000}};
    struct tick k = {0};

    signal_loop = k.l = loop_new();
    CHECK(sigaction(SIGUSR1, &a, NULL) == 0 && sigaction(SIGPROF, &a, NULL) == 0);
    a.sa_flags = SA_RESTART;
    CHECK(sigaction(SIGALRM, &a, NULL) == 0);
    errno = 77;
    for (int i = 0; i < 1000; i++)
        CHECK(raise(SIGUSR1) == 0);
    CHECK_INT(errno, 77);
    CHECK_INT(loop_turn(signal_loop, -1), 0);
    for (int i = 0; i < 20; i++) { /* during the wait, before or after it: it ends each time */
        signals = 0;
        CHECK(setitimer(ITIMER_REAL, &soon, NULL) == 0);
        while (signals == 0)
            CHECK(loop_turn(signal_loop, -1) >= 0);
    }
    loop_timer(k.l, &k.t, time_mono_ms() + 10, on_tick);
    soon.it_interval.tv_usec = 1000; /* interrupted again and again, timers still come */
    CHECK(setitimer(ITIMER_REAL, &soon, NULL) == 0);
    turns_until(k.l, &k.calls, 1);
    soon = (struct itimerval){0};
    CHECK(setitimer(ITIMER_REAL, &soon, NULL) == 0);
    loop_free(signal_loop);
}
