/* SPDX-License-Identifier: MIT */
/*
 * bench_load.c - clients by the thousand in one thread: reads and writes are gathered as the server
 * gathers them, so that the generator is not what is measured.
 *
 *   understood  what a wire has heard, and whether it is what had to come
 *   sending     templates stamped and written, a write a client and turn
 *   turns       wait, read, fill windows, write
 *   life        connecting, running, settling
 */
#include "bench.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define IN_ROOM (1u << 18)  /* bytes taken from a socket a turn */
#define AT_ONCE 128         /* logins on their way: below every server's backlog */
#define PATIENCE 10000000000 /* ns without progress after which what is missing is lost */
#define MAX_DUE 1000        /* open loop: messages sent a turn */

/* --- understood ------------------------------------------------------------------------------- */

static uint64_t
take_hex(const char *p, int digits)
{
    uint64_t v = 0;

    for (int i = 0; i < digits; i++)
        v = v << 4 | (uint64_t)(p[i] <= '9' ? p[i] - '0' : p[i] - 'a' + 10);
    return v;
}

static void
put_hex(char *p, uint64_t v, int digits)
{
    static const char hex[] = "0123456789abcdef";

    for (int i = digits - 1; i >= 0; i--, v >>= 4)
        p[i] = hex[v & 15];
}

/* Messages of a flow that are through: heard by all and, where there are answers, answered. */
static uint64_t
flow_done(const struct flow *f)
{
    uint64_t heard = f->receivers > 0 ? f->whole : f->sent;
    uint64_t acked = f->sender->wire->acks ? f->acked : f->sent;

    return heard < acked ? heard : acked;
}

/* `n` receivers more have heard message `number`. In an open loop only their sum is known. */
static void
flow_heard(const struct load *l, struct flow *f, uint64_t number, uint32_t n)
{
    f->heard += n;
    if (f->heard_by == NULL) {
        f->whole = f->heard / f->receivers;
        return;
    }
    f->heard_by[number % l->spec.window] += n;
    for (uint32_t *by; *(by = &f->heard_by[(f->whole + 1) % l->spec.window]) >= f->receivers;) {
        *by = 0;
        f->whole++;
    }
}

static void
flow_touch(struct load *l, struct flow *f)
{
    if (f->listed)
        return;
    f->listed = true;
    l->fill[l->fills++] = f;
}

void
client_ready(struct client *c)
{
    int one = 1;

    if (c->ready)
        return;
    c->ready = true;
    /* Acknowledge at each read until something is sent, whatever was said so far: a client that has
     * answered once does so later and in part within the server's sends, and on its account. */
    setsockopt(c->fd, IPPROTO_TCP, TCP_QUICKACK, &one, sizeof one);
    c->load->readies++;
    if (c->load->spec.logins != NULL)
        hist_add(c->load->spec.logins, now_ns() - c->begun_ns);
    if (c->sends != NULL && c->load->spec.window > 0)
        flow_touch(c->load, c->sends);
}

void
client_acked(struct client *c, uint64_t messages)
{
    if (messages == 0 || c->sends == NULL)
        return;
    c->sends->acked += messages;
    c->load->messages += messages;
    flow_touch(c->load, c->sends);
}

/* The numbers of a flow come without gaps and in order, or something is wrong. */
void
client_body(struct client *c, const char *body)
{
    struct load *l = c->load;
    uint32_t flow = (uint32_t)take_hex(body + 2, 6);
    uint64_t number = take_hex(body + 8, 12);
    int i = 0;

    if (flow >= l->flows)
        return; /* another run's */
    while (i < FLOWS_SEEN - 1 && c->seen[i].last > 0 && c->seen[i].flow != flow)
        i++;
    c->seen[i].flow = flow;
    if (number <= c->seen[i].last) {
        l->repeated++;
        return;
    }
    l->missing += number - c->seen[i].last - 1;
    c->seen[i].last = number;
    struct flow *f = &l->flow[flow];
    flow_heard(l, f, number, 1);
    l->deliveries++;
    if (l->latency != NULL)
        hist_add(l->latency, now_ns() - (int64_t)take_hex(body + 20, 16));
    flow_touch(l, f);
}

void
client_refused(struct client *c, const char *p, size_t n)
{
    struct load *l = c->load;

    if (l->refused++ == 0)
        snprintf(l->refusal, sizeof l->refusal, "%.*s", (int)(n < 150 ? n : 150), p);
    if (c->sends != NULL && c->ready) { /* it is through, in its way */
        c->sends->acked++;
        if (c->sends->receivers > 0)
            flow_heard(l, c->sends, c->sends->acked, c->sends->receivers);
        flow_touch(l, c->sends);
    }
}

void
client_fetched(struct client *c, bool more)
{
    if (more)
        return;
    c->asks = false;
    c->load->fetching--;
}

/* --- sending ---------------------------------------------------------------------------------- */

void
client_flush(struct client *c)
{
    if (c->to_flush)
        return;
    c->to_flush = true;
    c->load->flush[c->load->flushes++] = c;
}

static void
client_watch(struct client *c, bool writing)
{
    struct epoll_event e = {.events = EPOLLIN | (writing ? EPOLLOUT : 0), .data.ptr = c};

    if (writing == c->watched)
        return;
    c->watched = writing;
    epoll_ctl(c->load->poll, EPOLL_CTL_MOD, c->fd, &e);
}

static void
client_write(struct client *c)
{
    while (c->sent < c->out.len) {
        ssize_t n = send(c->fd, c->out.p + c->sent, c->out.len - c->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN)
            die("a client cannot write: %s", strerror(errno));
        if (n < 0)
            break;
        c->sent += (size_t)n;
    }
    if (c->sent == c->out.len)
        c->sent = c->out.len = 0;
    client_watch(c, c->out.len > 0);
}

static void
put_masked(struct buf *b, const char *p, size_t n, const char key[4])
{
    uint64_t mask, word;

    memcpy(&mask, key, 4);
    memcpy((char *)&mask + 4, key, 4);
    buf_reserve(b, n + 8);
    char *to = b->p + b->len;
    for (size_t i = 0; i + 8 <= n; i += 8) {
        memcpy(&word, p + i, 8);
        word ^= mask;
        memcpy(to + i, &word, 8);
    }
    for (size_t i = n & ~(size_t)7; i < n; i++)
        to[i] = (char)(p[i] ^ key[i % 4]);
    b->len += n;
}

static void
flow_send(struct flow *f, int64_t at_ns)
{
    struct client *c = f->sender;
    char *body = c->frame.p + c->body_at;
    uint64_t number = ++f->sent;

    put_hex(body + 2, f->index, 6);
    put_hex(body + 8, number, 12);
    put_hex(body + 20, (uint64_t)at_ns, 16);
    if (c->packet_id) {
        c->frame.p[c->id_at] = (char)((number % 65535 + 1) >> 8);
        c->frame.p[c->id_at + 1] = (char)(number % 65535 + 1);
    } else if (c->id_at > 0) {
        put_hex(c->frame.p + c->id_at, number, 12);
    }
    buf_add(&c->out, c->frame.p, c->masked_at > 0 ? c->masked_at : c->frame.len);
    if (c->masked_at > 0)
        put_masked(&c->out, c->frame.p + c->masked_at, c->frame.len - c->masked_at,
                   c->frame.p + c->masked_at - 4);
    client_flush(c);
}

/* Closed loop: fill the windows of the flows from which something has come. */
static void
fill_windows(struct load *l)
{
    int64_t now = l->fills > 0 ? now_ns() : 0;

    for (uint32_t i = 0; i < l->fills; i++) {
        struct flow *f = l->fill[i];
        f->listed = false;
        while (!l->stopped && l->spec.window > 0 && f->sender->ready &&
               f->sent - flow_done(f) < l->spec.window)
            flow_send(f, now);
    }
    l->fills = 0;
}

/*
 * Open loop: message k is due at start + k / rate, whatever the server is doing. Its time of
 * sending, as the receiver will see it, is when it was due and not when we got round to it: a
 * server that stalls shows that in every message that had to wait.
 */
static int64_t
send_due(struct load *l)
{
    double step = 1e9 / l->spec.rate;
    int64_t now = now_ns(), due = l->start_ns + (int64_t)((double)l->planned * step);

    for (int i = 0; due <= now && i < MAX_DUE; i++) {
        flow_send(&l->flow[l->planned % l->flows], due);
        due = l->start_ns + (int64_t)((double)++l->planned * step);
    }
    return due;
}

/* --- turns ------------------------------------------------------------------------------------ */

static void
client_begin(struct client *c)
{
    int e = 0;
    socklen_t n = sizeof e;

    c->connected = true;
    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &e, &n) != 0 || e != 0)
        die("cannot connect to %s:%d: %s", c->load->spec.host, c->load->spec.port, strerror(e));
    c->watched = true;
    client_watch(c, false);
    c->wire->hello(c);
}

static void
client_read(struct client *c)
{
    static char room[IN_ROOM];
    ssize_t n = recv(c->fd, room, sizeof room, 0);

    if (n <= 0) {
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (c->load->refused > 0)
            die("refused: %s", c->load->refusal);
        die("the server has closed a connection%s%s", n < 0 ? ": " : "",
            n < 0 ? strerror(errno) : "");
    }
    if (c->in.len == 0) {
        size_t used = c->wire->take(c, room, (size_t)n);
        buf_add(&c->in, room + used, (size_t)n - used);
        return;
    }
    buf_add(&c->in, room, (size_t)n);
    buf_drop(&c->in, c->wire->take(c, c->in.p, c->in.len));
    if (c->in.len == 0)
        buf_free(&c->in);
}

/*
 * Events, waited for until then. An open loop waits in nanoseconds, on epoll's own descriptor:
 * epoll_wait() counts in milliseconds, but costs the server less, which wakes this process.
 */
static int
wait_events(struct load *l, struct epoll_event *e, int max, int64_t until_ns)
{
    int64_t left = l->spec.busy && !l->stopped ? 0 : until_ns - now_ns();
    struct pollfd p = {.fd = l->poll, .events = POLLIN};
    struct timespec t = {left / 1000000000, left % 1000000000};

    if (left > 0 && l->spec.rate > 0) {
        ppoll(&p, 1, &t, NULL);
        left = 0;
    }
    return epoll_wait(l->poll, e, max, left > 0 ? (int)(left / 1000000) + 1 : 0);
}

void
load_turn(struct load *l, int64_t until_ns)
{
    struct epoll_event e[512];

    if (l->spec.rate > 0 && !l->stopped && l->start_ns > 0) {
        int64_t due = send_due(l);
        until_ns = due < until_ns ? due : until_ns;
    }
    for (uint32_t i = 0; i < l->flushes; i++) {
        l->flush[i]->to_flush = false;
        client_write(l->flush[i]);
    }
    l->flushes = 0;
    int n = wait_events(l, e, 512, until_ns);
    for (int i = 0; i < n; i++) {
        struct client *c = e[i].data.ptr;
        if (!c->connected)
            client_begin(c);
        else if (e[i].events & EPOLLOUT)
            client_write(c);
        if (e[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
            client_read(c);
    }
    fill_windows(l);
}

/* --- life ------------------------------------------------------------------------------------- */

/* Connect from this address; the port is chosen when it is known where to, and may be in use to
 * elsewhere. */
static void
client_bind(int fd, const char *from)
{
    struct sockaddr_in a = {.sin_family = AF_INET};
    int one = 1;

    if (inet_pton(AF_INET, from, &a.sin_addr) != 1 ||
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one) != 0 ||
        bind(fd, (struct sockaddr *)&a, sizeof a) != 0)
        die("%s: %s", from, strerror(errno));
}

static void
client_connect(struct client *c, const struct addrinfo *to)
{
    int one = 1, fd = socket(to->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};

    if (fd < 0)
        die("socket: %s", strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (c->load->spec.from != NULL)
        client_bind(fd, c->load->spec.from);
    c->fd = fd;
    c->begun_ns = now_ns();
    if (connect(fd, to->ai_addr, to->ai_addrlen) != 0 && errno != EINPROGRESS)
        die("cannot connect to %s:%d: %s", c->load->spec.host, c->load->spec.port,
            strerror(errno));
    epoll_ctl(c->load->poll, EPOLL_CTL_ADD, fd, &e);
}

static struct addrinfo *
resolve(const struct spec *s)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *to;
    char port[16];

    snprintf(port, sizeof port, "%d", s->port);
    int e = getaddrinfo(s->host, port, &hints, &to);
    if (e != 0)
        die("%s: %s", s->host, gai_strerror(e));
    return to;
}

/* Room for so many descriptors, or a clear word. */
static void
need_files(uint64_t n)
{
    struct rlimit r;

    if (getrlimit(RLIMIT_NOFILE, &r) != 0)
        return;
    r.rlim_cur = r.rlim_max;
    setrlimit(RLIMIT_NOFILE, &r);
    if (n + 64 > r.rlim_max)
        die("%llu connections need more than the %llu descriptors allowed (ulimit -n)",
            (unsigned long long)n, (unsigned long long)r.rlim_max);
}

/* Who is who: the senders come first, then the receivers, flow after flow. */
static void
client_place(struct load *l, uint32_t i)
{
    const struct spec *s = &l->spec;
    struct client *c = &l->client[i];
    uint32_t each = s->members > 0 ? s->members : 1;

    c->load = l;
    c->asks = s->fetch;
    c->number = s->first + i;
    c->grouped = s->members > 0;
    c->wire = s->receiver;
    c->topic = s->idle ? i : i < l->flows ? i : (i - l->flows) / each;
    c->joins = c->grouped && (i >= l->flows || s->sender != &wire_http);
    if (!s->idle && i < l->flows) {
        c->wire = s->sender;
        c->sends = &l->flow[i];
        c->sends->sender = c;
        c->sends->index = i;
        c->sends->receivers = s->absent ? 0 : each + (c->grouped && c->wire->jim && c->joins);
        if (s->window > 0)
            c->sends->heard_by = xcalloc(s->window, sizeof c->sends->heard_by[0]);
        c->wire->message(c, s->bytes);
    }
}

struct load *
load_new(const struct spec *spec)
{
    struct load *l = xcalloc(1, sizeof *l);
    uint32_t each = spec->absent || spec->idle ? 0 : spec->members > 0 ? spec->members : 1;
    struct addrinfo *to = resolve(spec);

    l->spec = *spec;
    l->flows = spec->flows;
    l->clients = spec->flows * (1 + each);
    need_files(l->clients);
    l->client = xcalloc(l->clients, sizeof l->client[0]);
    l->flow = xcalloc(l->flows, sizeof l->flow[0]);
    l->flush = xcalloc(l->clients, sizeof l->flush[0]);
    l->fill = xcalloc(l->flows, sizeof l->fill[0]);
    l->poll = epoll_create1(EPOLL_CLOEXEC);
    l->stopped = true;
    l->fetching = spec->fetch ? l->clients : 0;
    for (uint32_t i = 0; i < l->clients; i++)
        client_place(l, i);
    uint32_t begun = 0;
    int64_t last = now_ns();
    while (l->readies < l->clients) {
        uint32_t readies = l->readies;
        while (begun < l->clients && begun - l->readies < AT_ONCE)
            client_connect(&l->client[begun++], to);
        load_turn(l, now_ns() + 100000000);
        if (l->refused > 0)
            die("refused: %s", l->refusal);
        if (l->readies > readies)
            last = now_ns();
        if (now_ns() - last > PATIENCE)
            die("%u of %u clients are logged in, and no more come", l->readies, l->clients);
    }
    freeaddrinfo(to);
    return l;
}

double
load_run(struct load *l, double seconds)
{
    int64_t start = now_ns(), end = start + (int64_t)(seconds * 1e9);

    if (l->stopped) {
        l->stopped = false;
        l->start_ns = start;
        l->planned = 0;
        for (uint32_t i = 0; i < l->flows && l->spec.window > 0; i++)
            flow_touch(l, &l->flow[i]);
        fill_windows(l);
    }
    while (now_ns() < end)
        load_turn(l, end);
    return (double)(now_ns() - start) / 1e9;
}

static uint64_t
on_way(const struct load *l)
{
    uint64_t n = 0;

    for (uint32_t i = 0; i < l->flows && !l->spec.idle; i++)
        n += l->flow[i].sent - flow_done(&l->flow[i]);
    return n;
}

void
load_settle(struct load *l)
{
    int64_t last = now_ns();
    uint64_t left = on_way(l);

    l->stopped = true;
    while (left > 0 && now_ns() - last < PATIENCE) {
        load_turn(l, now_ns() + 100000000);
        uint64_t now = on_way(l);
        if (now < left)
            last = now_ns();
        left = now;
    }
    for (uint32_t i = 0; i < l->flows && left > 0; i++)
        l->missing += l->flow[i].sent * l->flow[i].receivers - l->flow[i].heard;
}

uint64_t
load_bad(const struct load *l)
{
    return l->missing + l->repeated + l->refused;
}

void
load_free(struct load *l)
{
    for (uint32_t i = 0; i < l->clients; i++) {
        close(l->client[i].fd);
        buf_free(&l->client[i].in);
        buf_free(&l->client[i].out);
        buf_free(&l->client[i].frame);
    }
    for (uint32_t i = 0; i < l->flows; i++)
        free(l->flow[i].heard_by);
    close(l->poll);
    free(l->client);
    free(l->flow);
    free(l->flush);
    free(l->fill);
    free(l);
}
