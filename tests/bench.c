/* SPDX-License-Identifier: MIT */
/*
 * bench.c - jim-bench: what a jim server on your own hardware can do, and whether it does it right.
 * It loads a server that runs (-h, -p), or starts ./jim on a free port in a directory of its own.
 * Every message carries a number, so that one lost, doubled or out of order is seen: then it exits
 * with 1. `jim-bench --help` says the rest.
 *
 *   results    a table for people, JSON for programs
 *   server     its own counters, beside what /proc says
 *   works      what can be measured
 *   main       options
 */
#include "bench.h"

#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

struct bench { /* what was asked for */
    const char *host, *jim;
    struct process server;   /* ours, or only its pid */
    bool own, json, any, bad; /* any: a result was printed */
    bool busy;                /* the generator never sleeps while it has work out */
    const struct wire *wire;
    uint32_t pairs, window, members, count;
    double rate, seconds;
    size_t bytes;
    uint32_t next_user;      /* every work has users of its own */
    const char *more[16];    /* options for our own server */
    size_t mores;
};

/* --- results ---------------------------------------------------------------------------------- */

struct stamp { /* where server and work stand */
    double ns;
    struct usage use;
    struct calls calls;
};

struct result {
    const char *work;
    const struct wire *wire;
    double seconds, messages, deliveries;
    struct stamp from, to;
    struct hist *latency; /* NULL: none */
    const char *unit;     /* what `messages` are */
    double bytes_each;    /* memory a connection; 0: not measured */
    uint64_t missing, repeated, refused;
};

static void
print_head(void)
{
    printf("CPU: seconds of the server a million deliveries (or of what the row counts). calls:\n"
           "system calls of the server a message (read, write, wait). Latency in milliseconds.\n\n"
           "| work     | proto |   number | unit       |  a second |    CPU | calls |"
           "     p50 |     p99 |   p99.9 |     max | RSS MB |\n"
           "|----------|-------|---------:|------------|----------:|-------:|------:|"
           "--------:|--------:|--------:|--------:|-------:|\n");
}

static double
result_cpu(const struct result *r)
{
    double n = r->deliveries > 0 ? r->deliveries : r->messages;

    return n > 0 ? (r->to.use.cpu - r->from.use.cpu) * 1e6 / n : 0;
}

static double
result_calls(const struct result *r)
{
    const struct calls *from = &r->from.calls, *to = &r->to.calls;
    double calls = to->reads - from->reads + to->writes - from->writes + to->waits - from->waits;

    return r->messages > 0 ? calls / r->messages : 0;
}

static double
result_ms(const struct result *r, double part)
{
    return r->latency != NULL && r->latency->n > 0 ? hist_at(r->latency, part) / 1e6 : 0;
}

static void
print_json(struct bench *b, const struct result *r)
{
    double proc = r->to.use.reads + r->to.use.writes - r->from.use.reads - r->from.use.writes;

    printf("%s{\"work\":\"%s\",\"proto\":\"%s\",\"unit\":\"%s\",\"number\":%.0f,"
           "\"deliveries\":%.0f,\"seconds\":%.6f,\"cpuPerMillion\":%.4f,\"userSeconds\":%.2f,"
           "\"systemSeconds\":%.2f,\"callsPerMessage\":%.4f,\"procReadsWritesPerMessage\":%.4f,"
           "\"p50Ms\":%.4f,\"p90Ms\":%.4f,\"p99Ms\":%.4f,\"p999Ms\":%.4f,\"maxMs\":%.4f,"
           "\"rssBytes\":%.0f,\"bytesPerConnection\":%.0f,\"missing\":%llu,\"repeated\":%llu,"
           "\"refused\":%llu}",
           b->any ? ",\n" : "[", r->work, r->wire->name, r->unit, r->messages, r->deliveries,
           r->seconds, result_cpu(r), r->to.use.user - r->from.use.user,
           r->to.use.sys - r->from.use.sys, result_calls(r),
           r->messages > 0 ? proc / r->messages : 0, result_ms(r, 0.5), result_ms(r, 0.9),
           result_ms(r, 0.99), result_ms(r, 0.999), result_ms(r, 1), r->to.use.rss,
           r->bytes_each, (unsigned long long)r->missing, (unsigned long long)r->repeated,
           (unsigned long long)r->refused);
}

static void
report(struct bench *b, const struct result *r)
{
    double n = r->deliveries > 0 ? r->deliveries : r->messages;
    uint64_t bad = r->missing + r->repeated + r->refused;

    if (b->json) {
        print_json(b, r);
    } else {
        if (!b->any)
            print_head();
        printf("| %-8s | %-5s | %8.0f | %-10s | %9.0f | %6.2f | %5.2f | %7.3f | %7.3f | %7.3f |"
               " %7.3f | %6.1f |\n", r->work, r->wire->name, r->messages, r->unit,
               r->seconds > 0 ? n / r->seconds : 0, result_cpu(r), result_calls(r),
               result_ms(r, 0.5), result_ms(r, 0.99), result_ms(r, 0.999), result_ms(r, 1),
               r->to.use.rss / 1e6);
        if (r->bytes_each > 0)
            printf("  %.0f bytes resident a connection\n", r->bytes_each);
    }
    if (bad > 0)
        fprintf(stderr, "jim-bench: %s over %s: %llu missing, %llu repeated, %llu refused\n",
                r->work, r->wire->name, (unsigned long long)r->missing,
                (unsigned long long)r->repeated, (unsigned long long)r->refused);
    b->any = true;
    b->bad |= bad > 0;
    fflush(stdout);
}

/* --- server ----------------------------------------------------------------------------------- */

/* Where the server stands, from its own counters (kept since it began) and from /proc. */
static struct stamp
stamp(const struct bench *b)
{
    struct stamp s = {.use = usage_of(b->server.pid), .calls = jim_calls(b->host, b->server.port)};

    s.ns = (double)now_ns();
    return s;
}

/* --- works ------------------------------------------------------------------------------------ */

static struct spec
spec_of(struct bench *b, uint32_t flows, uint32_t members)
{
    struct spec s = {.host = b->host, .port = b->server.port, .sender = b->wire,
                     .receiver = b->wire, .flows = flows, .members = members,
                     .first = b->next_user, .window = b->window, .bytes = b->bytes,
                     .busy = b->busy};

    b->next_user += flows * (2 + members);
    return s;
}

/* Load after a warm-up, with the server watched; then what was on its way comes in. */
static void
measure(struct bench *b, const char *work, const struct spec *spec)
{
    struct load *l = load_new(spec);
    struct hist *h = xcalloc(1, sizeof *h);
    struct result r = {.work = work, .wire = b->wire, .latency = h, .unit = "messages"};

    load_run(l, b->seconds / 5);
    uint64_t messages = l->deliveries, answers = l->messages;
    r.from = stamp(b);
    l->latency = h;
    r.seconds = load_run(l, b->seconds);
    l->latency = NULL;
    r.to = stamp(b);
    r.deliveries = (double)(l->deliveries - messages);
    r.messages = (double)(l->messages - answers);
    load_settle(l);
    r.missing = l->missing;
    r.repeated = l->repeated;
    r.refused = l->refused;
    if (l->refused > 0)
        fprintf(stderr, "jim-bench: refused: %s\n", l->refusal);
    load_free(l);
    report(b, &r);
    free(h);
}

static void
work_p2p(struct bench *b)
{
    struct spec s = spec_of(b, b->pairs, 0);

    measure(b, "p2p", &s);
}

static void
work_open(struct bench *b)
{
    struct spec s = spec_of(b, b->pairs, 0);

    s.window = 0;
    s.rate = b->rate;
    measure(b, "open", &s);
}

static void
work_fanout(struct bench *b)
{
    struct spec s = spec_of(b, 1, b->members);

    measure(b, "fanout", &s);
}

static void
work_http(struct bench *b)
{
    struct spec s = spec_of(b, b->pairs, 0);

    s.sender = &wire_http;
    s.window = 1;
    measure(b, "http", &s);
}

/* Logged in and silent: the memory each of them costs. And how fast they came. */
static void
work_idle(struct bench *b)
{
    struct hist *h = xcalloc(1, sizeof *h);
    struct spec s = spec_of(b, b->count, 0);
    struct result r = {.work = "idle", .wire = b->wire, .unit = "logins", .latency = h};

    s.idle = true;
    s.window = 0;
    s.logins = h;
    r.from = stamp(b);
    struct load *l = load_new(&s);
    r.to = stamp(b);
    r.seconds = (r.to.ns - r.from.ns) / 1e9;
    r.messages = l->clients;
    r.bytes_each = (r.to.use.rss - r.from.use.rss) / l->clients;
    load_free(l);
    report(b, &r);
    free(h);
}

/* Users who come, log in, go, and come again. */
static void
work_login(struct bench *b)
{
    struct hist *h = xcalloc(1, sizeof *h);
    struct result r = {.work = "login", .wire = b->wire, .unit = "logins", .latency = h};
    struct spec s = spec_of(b, b->count < 1000 ? b->count : 1000, 0);

    s.idle = true;
    s.window = 0;
    s.logins = h;
    r.from = stamp(b);
    while (r.messages < b->count) {
        struct load *l = load_new(&s);
        r.messages += l->clients;
        load_free(l);
    }
    r.to = stamp(b);
    r.seconds = (r.to.ns - r.from.ns) / 1e9;
    report(b, &r);
    free(h);
}

/* Messages to who is not there; then all of them come and fetch what waits for them. */
static void
work_offline(struct bench *b)
{
    struct spec s = spec_of(b, b->pairs, 0), fetch = s;
    struct result r = {.work = "store", .wire = b->wire, .unit = "messages"};

    s.absent = true;
    r.from = stamp(b);
    struct load *l = load_new(&s);
    while (l->messages < b->count) {
        load_run(l, 0);
        load_turn(l, now_ns() + 100000000);
    }
    load_settle(l);
    r.to = stamp(b);
    r.seconds = (r.to.ns - r.from.ns) / 1e9;
    r.messages = (double)l->messages;
    r.refused = l->refused;
    uint64_t sent = l->messages;
    load_free(l);
    report(b, &r);

    fetch.first += fetch.flows;
    fetch.idle = fetch.fetch = true;
    fetch.window = 0;
    r = (struct result){.work = "fetch", .wire = b->wire, .unit = "messages", .from = stamp(b)};
    l = load_new(&fetch);
    int64_t last = now_ns();
    for (uint64_t had = 0; l->fetching > 0 && now_ns() - last < INT64_C(10000000000);) {
        load_turn(l, now_ns() + 100000000);
        if (l->deliveries > had)
            last = now_ns();
        had = l->deliveries;
    }
    r.to = stamp(b);
    r.seconds = (r.to.ns - r.from.ns) / 1e9;
    r.messages = r.deliveries = (double)l->deliveries;
    r.missing = sent - l->deliveries;
    r.repeated = l->repeated;
    load_free(l);
    report(b, &r);
}

/* Several loads in one thread, each with its own epoll: served in turn, twenty times a millisecond
 * at least. */
static void
run_all(struct load **l, int n, double seconds)
{
    int64_t end = now_ns() + (int64_t)(seconds * 1e9);
    struct timespec t = {0, 50000};
    struct pollfd p[8];

    for (int i = 0; i < n; i++) {
        load_run(l[i], 0);
        p[i] = (struct pollfd){.fd = l[i]->poll, .events = POLLIN};
    }
    while (now_ns() < end) {
        ppoll(p, (nfds_t)n, &t, NULL);
        for (int i = 0; i < n; i++)
            load_turn(l[i], 0);
    }
}

/* Everything at once: pairs on both protocols at a steady rate, a group, and the HTTP API. */
static void
work_mixed(struct bench *b)
{
    struct spec s[4];
    struct load *l[4];
    struct hist *h = xcalloc(1, sizeof *h);
    struct result r = {.work = "mixed", .wire = b->wire, .latency = h, .unit = "messages"};

    for (int i = 0; i < 4; i++) {
        s[i] = spec_of(b, i < 2 ? (b->pairs + 1) / 2 : 1, i == 2 ? b->members : 0);
        s[i].window = 0;
        s[i].rate = i < 2 ? b->rate * 0.45 : i == 2 ? b->rate / 1000 : b->rate * 0.1;
    }
    s[0].sender = s[0].receiver = &wire_tcp;
    s[1].sender = s[1].receiver = &wire_ws;
    s[3].sender = &wire_http;
    s[3].flows = b->pairs;
    b->next_user += 2 * b->pairs;
    for (int i = 0; i < 4; i++)
        l[i] = load_new(&s[i]);
    run_all(l, 4, b->seconds / 5);
    r.from = stamp(b);
    for (int i = 0; i < 4; i++) {
        r.messages -= (double)l[i]->messages;
        r.deliveries -= (double)l[i]->deliveries;
        l[i]->latency = h;
    }
    run_all(l, 4, b->seconds);
    r.to = stamp(b);
    r.seconds = (r.to.ns - r.from.ns) / 1e9;
    for (int i = 0; i < 4; i++) {
        r.messages += (double)l[i]->messages;
        r.deliveries += (double)l[i]->deliveries;
        l[i]->latency = NULL;
        load_settle(l[i]);
        r.missing += l[i]->missing;
        r.repeated += l[i]->repeated;
        r.refused += l[i]->refused;
        load_free(l[i]);
    }
    report(b, &r);
    free(h);
}

static const struct {
    const char *name;
    void (*run)(struct bench *b);
    const char *about;
} works[] = {
    {"idle", work_idle, "-n connections, logged in and silent: bytes of memory each"},
    {"p2p", work_p2p, "-c pairs, -w messages of -b bytes on their way in each"},
    {"open", work_open, "-c pairs, -r messages a second in all, whatever the server does"},
    {"fanout", work_fanout, "a group of -g members"},
    {"offline", work_offline, "-n messages to who is not there, then fetched (needs the store)"},
    {"login", work_login, "-n logins, 128 at a time, by 1,000 users who come again"},
    {"http", work_http, "-c HTTP senders, one message at a time each"},
    {"mixed", work_mixed, "pairs on both protocols, a group and HTTP, -r a second in all"},
};
#define WORKS (sizeof works / sizeof works[0])

/* --- main ------------------------------------------------------------------------------------- */

static void
usage(FILE *out)
{
    fputs("usage: jim-bench [options] [WORK...]\n\n"
          "Loads a server of jim and measures it; checks that no message is lost, doubled or out\n"
          "of order (exit code 1). All works, one after another, when none is named:\n\n", out);
    for (size_t i = 0; i < WORKS; i++)
        fprintf(out, "  %-8s %s\n", works[i].name, works[i].about);
    fputs("\n  -h HOST -p PORT   a server that runs; else ./jim is started for it\n"
          "  --pid PID         its process, when it is on this machine: CPU and memory\n"
          "  --jim FILE        the program to start (./jim)\n"
          "  --store on|off    of the server that is started (on)\n"
          "  -o KEY=VALUE      an option more for it\n"
          "  --proto tcp|ws|both  what the clients speak (both)\n"
          "  -c PAIRS  -w WINDOW  -b BYTES  -g MEMBERS   50, 1, 64, 100\n"
          "  -r RATE           messages a second (10000)\n"
          "  -n COUNT          connections, logins or messages (2000)\n"
          "  -t SECONDS        each measurement, after a warm-up of a fifth (2)\n"
          "  --busy            ask for events without waiting: on one machine, a server then pays\n"
          "                    for its own work and not for waking this program up\n"
          "  --json            an array of objects instead of the table\n\n"
          "A server that runs must let its clients send as fast as they can\n"
          "(jim.rate.messages=0), and anybody log in.\n", out);
}

static uint32_t
number(const char *text, uint32_t low, uint32_t high)
{
    char *end;
    unsigned long n = strtoul(text, &end, 10);

    if (*end != '\0' || end == text || n < low || n > high)
        die("jim-bench: %s: must be a number from %u to %u", text, low, high);
    return (uint32_t)n;
}

static void
run(struct bench *b, char **names, int n)
{
    static const struct wire *const both[] = {&wire_tcp, &wire_ws};
    const struct wire *only = b->wire;

    for (size_t i = 0; i < WORKS; i++) {
        bool wanted = n == 0;
        for (int k = 0; k < n; k++)
            wanted |= strcmp(names[k], works[i].name) == 0;
        for (int k = 0; k < 2 && wanted; k++) {
            b->wire = both[k];
            if (only != NULL && only != both[k] && works[i].run != work_mixed)
                continue;
            if (b->own) /* a fresh one: what the last work left in its memory is not counted */
                process_jim(&b->server, b->jim, b->more);
            works[i].run(b);
            if (b->own)
                process_stop(&b->server);
            if (works[i].run == work_mixed)
                break; /* it speaks both by itself */
        }
    }
    b->wire = only;
}

static void
check_names(char **names, int n)
{
    for (int k = 0; k < n; k++) {
        size_t i = 0;
        while (i < WORKS && strcmp(names[k], works[i].name) != 0)
            i++;
        if (i == WORKS)
            die("jim-bench: no such work: %s (see --help)", names[k]);
    }
}

/* Long options are numbered behind the letters. */
enum { O_PID = 256, O_JIM, O_STORE, O_PROTO, O_BUSY, O_JSON, O_HELP };

static void
option(struct bench *b, int o, const char *value)
{
    switch (o) {
    case 'h': b->host = value; break;
    case 'p': b->server.port = (int)number(value, 1, 65535); break;
    case 'c': b->pairs = number(value, 1, 9000); break;
    case 'w': b->window = number(value, 1, 10000); break;
    case 'b': b->bytes = number(value, BODY, 60000); break;
    case 'g': b->members = number(value, 1, 19000); break;
    case 'n': b->count = number(value, 1, 100000000); break;
    case 'r': b->rate = number(value, 1, 10000000); break;
    case 't': b->seconds = atof(value) > 0 ? atof(value) : 2; break;
    case O_PID: b->server.pid = (pid_t)number(value, 1, INT32_MAX); break;
    case O_JIM: b->jim = value; break;
    case O_BUSY: b->busy = true; break;
    case O_JSON: b->json = true; break;
    case O_STORE:
        if (b->mores >= 8)
            die("jim-bench: too many options for the server");
        b->more[b->mores++] = strcmp(value, "off") == 0 ? "jim.store=off" : "jim.store=on";
        break;
    case 'o':
        if (b->mores >= 8)
            die("jim-bench: too many options for the server");
        b->more[b->mores++] = value;
        break;
    case O_PROTO:
        if (strcmp(value, "tcp") != 0 && strcmp(value, "ws") != 0 && strcmp(value, "both") != 0)
            die("jim-bench: --proto is tcp, ws or both");
        b->wire = *value == 't' ? &wire_tcp : *value == 'w' ? &wire_ws : NULL;
        break;
    case O_HELP:
        usage(stdout);
        exit(0);
    default:
        usage(stderr);
        exit(2);
    }
}

int
main(int argc, char **argv)
{
    static const struct option longs[] = {
        {"pid", required_argument, NULL, O_PID},     {"jim", required_argument, NULL, O_JIM},
        {"store", required_argument, NULL, O_STORE}, {"proto", required_argument, NULL, O_PROTO},
        {"busy", no_argument, NULL, O_BUSY},         {"json", no_argument, NULL, O_JSON},
        {"help", no_argument, NULL, O_HELP},         {NULL, 0, NULL, 0}};
    struct bench b = {.host = "127.0.0.1", .jim = "./jim", .pairs = 50, .window = 1, .bytes = 64,
                      .members = 100, .count = 2000, .rate = 10000, .seconds = 2};
    int o;

    signal(SIGPIPE, SIG_IGN);
    while ((o = getopt_long(argc, argv, "h:p:c:w:b:g:n:r:t:o:", longs, NULL)) != -1)
        option(&b, o, optarg);
    check_names(argv + optind, argc - optind);
    b.own = b.server.port == 0;
    if (!b.own)
        b.next_user = (uint32_t)(now_ns() / 1000 % 800000); /* not those of the run before */
    run(&b, argv + optind, argc - optind);
    if (b.json)
        puts(b.any ? "]" : "[]");
    return b.bad ? 1 : 0;
}
