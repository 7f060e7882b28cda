/* SPDX-License-Identifier: MIT */
/*
 * bounds.c - what all peers together may make the server hold. Each single thing has its limit
 * where it is made; here is what adds up: connections of one address, and memory.
 *
 *   addresses   who has how many connections, and where one comes from
 *   memory      jim.memory.max: how much is used, and whether that is too much
 *   worst case  what the options allow, as a sum one can read
 *
 * Memory is known in two ways. Owners count what they hold as they take and give it: that is quick
 * and of the moment, but knows nothing of the allocator's losses. The system's figure of what is
 * resident knows everything, but is asked at most every SAMPLE_MS. In between, the sum is the last
 * figure and what has been counted on top of it since.
 */
#include "jim.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#define SAMPLE_MS 100    /* how old the system's figure may be */
#define TRIM_MS 1000     /* how often the allocator is asked to give back what it keeps */
#define BASE (6u << 20)  /* what a server without peers takes, where the system does not say */
#define USER_COST 192    /* bytes of a user, conversation, membership or message id with their */
#define CONV_COST 384    /* places in the maps, as malloc() rounds them: measured, rounded up */
#define MEMBER_COST 160
#define RETRY_COST 56     /* retry.c: 40 in the ring, a quarter of a line */

/* --- addresses -------------------------------------------------------------------------------- */

struct address { /* somebody's, as long as he has a connection */
    uint32_t hash;
    uint32_t conns;
    unsigned char ip[16]; /* IPv4 as ::ffff:a.b.c.d; of IPv6 the network of 64 bits one gets */
};

static bool
address_is(const void *item, const void *key)
{
    return memcmp(((const struct address *)item)->ip, key, 16) == 0;
}

static const unsigned char mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

static bool
is_mapped(const unsigned char ip[16])
{
    return memcmp(ip, mapped, sizeof mapped) == 0;
}

bool
address_parse(struct str text, unsigned char ip[16])
{
    char zero_ended[ADDRESS_ROOM];

    if (text.n == 0 || text.n >= sizeof zero_ended || memchr(text.p, '\0', text.n) != NULL)
        return false;
    memcpy(zero_ended, text.p, text.n);
    zero_ended[text.n] = '\0';
    if (inet_pton(AF_INET6, zero_ended, ip) == 1)
        return true;
    memcpy(ip, mapped, sizeof mapped);
    return inet_pton(AF_INET, zero_ended, ip + sizeof mapped) == 1;
}

static void
address_text(const unsigned char ip[16], char text[ADDRESS_ROOM])
{
    if (is_mapped(ip))
        inet_ntop(AF_INET, ip + sizeof mapped, text, ADDRESS_ROOM);
    else
        inet_ntop(AF_INET6, ip, text, ADDRESS_ROOM);
}

void
address_bytes(const struct sockaddr_storage *a, unsigned char ip[16])
{
    memset(ip, 0, 16);
    if (a->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)a;
        memcpy(ip, mapped, sizeof mapped);
        memcpy(ip + sizeof mapped, &in->sin_addr, 4);
    } else if (a->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)a;
        memcpy(ip, &in6->sin6_addr, 16);
    }
}

void
address_network(unsigned char ip[16])
{
    if (!is_mapped(ip))
        memset(ip + 8, 0, 8);
}

bool
address_enter(struct jim *j, const unsigned char from[16], struct address **out)
{
    struct map *m = &j->bounds.addresses;
    unsigned char ip[16];

    *out = NULL;
    if (j->opt.per_ip == 0)
        return true;
    memcpy(ip, from, sizeof ip);
    address_network(ip);
    uint32_t hash = map_hash(m, ip, sizeof ip);
    struct address *t = map_find(m, hash, address_is, ip);
    if (t != NULL && (int64_t)t->conns >= j->opt.per_ip)
        return false;
    if (t == NULL) {
        t = xcalloc(1, sizeof *t);
        t->hash = hash;
        memcpy(t->ip, ip, sizeof ip);
        map_add(m, t);
    }
    t->conns++;
    *out = t;
    return true;
}

void
address_leave(struct jim *j, struct address *a)
{
    if (a == NULL || --a->conns > 0)
        return;
    map_remove(&j->bounds.addresses, a);
    free(a);
}

bool
address_peer(const struct conn *c, unsigned char ip[16])
{
    struct sockaddr_storage a = {0};
    socklen_t n = sizeof a;

    if (c->proxied != NULL) {
        memcpy(ip, c->proxied->ip, 16);
        return true;
    }
    if (getpeername(c->fd, (struct sockaddr *)&a, &n) != 0)
        return false;
    address_bytes(&a, ip);
    return a.ss_family == AF_INET || a.ss_family == AF_INET6;
}

void
address_peer_text(const struct conn *c, char text[ADDRESS_ROOM])
{
    unsigned char ip[16];

    text[0] = '\0';
    if (address_peer(c, ip))
        address_text(ip, text);
}

bool
address_is_loopback(const struct sockaddr_storage *a)
{
    static const struct in6_addr one = IN6ADDR_LOOPBACK_INIT;
    unsigned char ip[16];

    address_bytes(a, ip);
    return (is_mapped(ip) && ip[sizeof mapped] == 127) || memcmp(ip, &one, sizeof ip) == 0;
}

/* --- memory ----------------------------------------------------------------------------------- */

void
bounds_init(struct jim *j)
{
    j->bounds = (struct bounds){.statm = -1};
    j->bounds.sampled_ms = j->bounds.trimmed_ms = INT64_MIN / 2; /* never */
    map_init(&j->bounds.addresses);
#ifdef __linux__
    /* Kept open: it can be read again from inside a chroot. */
    j->bounds.statm = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    j->bounds.page = (size_t)sysconf(_SC_PAGESIZE);
#endif
}

void
bounds_free(struct jim *j)
{
    if (j->bounds.addresses.slot == NULL)
        return;
    map_free(&j->bounds.addresses);
    if (j->bounds.statm >= 0)
        close(j->bounds.statm);
}

/* What the owners have counted: O(1). */
static size_t
counted(const struct jim *j)
{
    const struct chat *c = &j->chat;
    const struct roster *r = &c->roster;

    return j->bounds.held + (c->pending_cap + c->redo_cap) * sizeof(struct pending) +
           c->wave_cap * sizeof(struct wave) + c->out.cap + c->line.cap +
           c->retries.count * RETRY_COST + r->users.count * USER_COST +
           r->convs.count * CONV_COST + r->members.count * MEMBER_COST +
           (j->store != NULL ? store_held(j->store) : 0);
}

size_t
memory_resident(const struct jim *j)
{
    const struct bounds *b = &j->bounds;
    char text[128];
    unsigned long pages;
    ssize_t n = b->statm >= 0 ? pread(b->statm, text, sizeof text - 1, 0) : -1;

    if (n <= 0)
        return 0;
    text[n] = '\0';
    return sscanf(text, "%*u %lu", &pages) == 1 ? pages * b->page : 0;
}

static void
sample(struct jim *j, size_t now_counted)
{
    struct bounds *b = &j->bounds;
    size_t used = memory_resident(j);

    b->sampled_ms = loop_now(j->loop);
    b->counted = now_counted;
    b->resident = used > 0 ? used : BASE + now_counted + now_counted / 8;
}

size_t
memory_used(struct jim *j)
{
    struct bounds *b = &j->bounds;
    size_t n = counted(j), grown = n > b->counted ? n - b->counted : 0;

    if (loop_now(j->loop) - b->sampled_ms >= SAMPLE_MS ||
        grown > (size_t)j->opt.memory_max / 32) {
        sample(j, n);
        grown = 0;
    }
    return b->resident + grown;
}

/* What has been freed may still count as resident: ask the allocator to let go of it. */
static size_t
memory_trim(struct jim *j, size_t used)
{
#ifdef __GLIBC__
    struct bounds *b = &j->bounds;

    if (loop_now(j->loop) - b->trimmed_ms >= TRIM_MS) {
        b->trimmed_ms = loop_now(j->loop);
        malloc_trim(0);
        sample(j, counted(j));
        return b->resident;
    }
#else
    (void)j;
#endif
    return used;
}

bool
memory_full(struct jim *j)
{
    struct bounds *b = &j->bounds;
    size_t max = (size_t)j->opt.memory_max;

    if (max == 0)
        return false;
    /* The margin is for what one turn may take before it is asked again; once full, more than the
     * next message has to be free before anything is taken in. */
    size_t limit = max - max / 8 - (b->full ? max / 32 : 0);
    size_t used = memory_used(j);
    if (used > limit)
        used = memory_trim(j, used);
    bool full = used > limit;
    if (full != b->full)
        log_write(&j->log, LOG_LEVEL_WARN,
                  full ? "memory: %zu of %zu kB are used: connections and messages are refused"
                       : "memory: %zu of %zu kB are used: all is taken in again",
                  used / 1024, max / 1024);
    b->full = full;
    return full;
}

/* --- worst case ------------------------------------------------------------------------------- */

#define MB 1048576.0

void
memory_print(const struct jim *j)
{
    const struct options *o = &j->opt;
    const struct roster *r = &j->chat.roster;
    size_t conns = j->conns_max;
    /* Half a frame read, twice for the growing buffer, and a command that waits. */
    double input = (3.0 * (double)o->frame_max + 2.0 * MAX_READ + MAX_HEAD) / MB;
    /* Small messages that take turns stand in 512 bytes each, a PONG of 11 in 144: that is half a
     * queue of these, until his input waits, and then one of those. */
    double output = 10.0 * (double)o->queue_max / MB;
    double store = jim_keeps_log(j) ? 2.0 * STORE_PENDING / MB : 0;
    double ids = MAX_RETRY * (double)RETRY_COST / MB;

    if (o->connections_max > 0 && (size_t)o->connections_max < conns)
        conns = (size_t)o->connections_max;
    double all = (double)conns * (input + output + (double)sizeof(struct conn) / MB) + store + ids;
    log_write(&j->log, LOG_LEVEL_DEBUG,
              "memory at worst: %zu connections x (input %.1f MB + output %.1f MB) + batches for a "
              "hanging disk %.0f MB + message ids %.0f MB = %.0f MB", conns, input, output, store,
              ids, all);
    log_write(&j->log, LOG_LEVEL_DEBUG,
              "memory for what is known: %zu users, %zu conversations, %zu memberships x %d, %d, "
              "%d bytes, and 4 to 8 bytes a stored message", r->users.count, r->convs.count,
              r->members.count, USER_COST, CONV_COST, MEMBER_COST);
    if (o->memory_max > 0)
        log_write(&j->log, LOG_LEVEL_DEBUG,
                  "memory: jim.memory.max ends all that at %.0f MB; %.1f MB are used now",
                  (double)o->memory_max / MB, (double)memory_resident(j) / MB);
}
