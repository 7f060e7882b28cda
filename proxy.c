/* SPDX-License-Identifier: MIT */
/*
 * proxy.c - for whom a proxy speaks. Of a proxy that is believed, its client's address is what
 * counts everywhere: conn.c and input.c ask here, address_peer() says it.
 *
 *   networks      lists of addresses and CIDR blocks, as jim.proxy.* has them
 *   PROXY         HAProxy's protocol, versions 1 and 2: ahead of all else, TLS included
 *   forwarded     X-Forwarded-For
 *   connections   from what a proxy says to the address that counts
 *
 * Which of the two a proxy has is configured, not guessed: what of a connection is the proxy's and
 * what its client's cannot be seen from here. A proxy that passes on bytes and has no header of its
 * own would pass on one its client made up, and so would it an X-Forwarded-For.
 */
#include "jim.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define MAX_V1 107     /* bytes of a version 1 header, its CR and LF included */
#define V2_HEAD 16     /* bytes ahead of the addresses and TLVs of version 2 */
#define MAX_V2 2048    /* bytes of these: far more than anybody sends */
#define MAX_FORWARDED 32 /* entries of X-Forwarded-For that count, the last: proxies in a row */

/* --- networks --------------------------------------------------------------------------------- */

/* Digits only, at most five. */
static bool
number_parse(struct str text, unsigned most, unsigned *out)
{
    unsigned n = 0;

    if (text.n == 0 || text.n > 5)
        return false;
    for (size_t i = 0; i < text.n; i++) {
        if (text.p[i] < '0' || text.p[i] > '9')
            return false;
        n = n * 10 + (unsigned)(text.p[i] - '0');
    }
    *out = n;
    return n <= most;
}

/* ADDRESS or ADDRESS/BITS; bits counts from the front of the 16 bytes. */
static bool
network_parse(struct str text, unsigned char ip[16], unsigned *bits)
{
    struct str address = {NULL, 0};

    str_split(&text, '/', &address);
    bool v6 = address.n > 0 && memchr(address.p, ':', address.n) != NULL;
    *bits = v6 ? 128 : 32;
    if (!address_parse(address, ip) || (text.p != NULL && !number_parse(text, *bits, bits)))
        return false;
    *bits += v6 ? 0 : 96;
    return true;
}

bool
networks_ok(const char *list)
{
    struct str rest = str_of(list), part;
    unsigned char ip[16];
    unsigned bits;

    if (rest.n == 0)
        return true;
    while (str_split(&rest, ',', &part))
        if (!network_parse(str_trim(part), ip, &bits))
            return false;
    return true;
}

bool
networks_have(const char *list, const unsigned char ip[16])
{
    struct str rest = str_of(list), part;
    unsigned char net[16];
    unsigned bits;

    while (rest.n > 0 && str_split(&rest, ',', &part)) {
        if (!network_parse(str_trim(part), net, &bits) || memcmp(net, ip, bits / 8) != 0)
            continue;
        if (bits % 8 == 0 || (net[bits / 8] ^ ip[bits / 8]) >> (8 - bits % 8) == 0)
            return true;
    }
    return false;
}

/* --- PROXY ------------------------------------------------------------------------------------ */

static const char signature[12] = "\r\n\r\n\0\r\nQUIT\n";

/* `PROXY TCP4 FROM TO PORT PORT`, or `PROXY UNKNOWN` and anything. */
static bool
line_parse(struct str line, struct proxy_said *out)
{
    struct str word[6];
    unsigned char to[16];
    unsigned port;
    size_t n = 0;

    if (str_eq(line, STR("PROXY UNKNOWN")) ||
        (line.n > 14 && memcmp(line.p, "PROXY UNKNOWN ", 14) == 0))
        return true;
    while (n < 6 && str_split(&line, ' ', &word[n]))
        n++;
    bool v6 = n == 6 && str_eq(word[1], STR("TCP6"));
    if (n < 6 || line.p != NULL || (!v6 && !str_eq(word[1], STR("TCP4"))))
        return false;
    out->known = true;
    for (int i = 2; i < 4; i++)
        if (word[i].n == 0 || (memchr(word[i].p, ':', word[i].n) != NULL) != v6)
            return false;
    return address_parse(word[2], out->ip) && address_parse(word[3], to) &&
           number_parse(word[4], 65535, &port) && number_parse(word[5], 65535, &port);
}

static ptrdiff_t
decode_v1(const char *p, size_t n, struct proxy_said *out)
{
    const char *end = memchr(p, '\n', n < MAX_V1 ? n : MAX_V1);

    if (end == NULL)
        return n < MAX_V1 ? 0 : -1;
    size_t used = (size_t)(end - p) + 1;
    return end[-1] == '\r' && line_parse((struct str){p, used - 2}, out) ? (ptrdiff_t)used : -1;
}

static ptrdiff_t
decode_v2(const char *p, size_t n, struct proxy_said *out)
{
    const unsigned char *b = (const unsigned char *)p;
    enum { LOCAL = 0x20, PROXY = 0x21, TCP4 = 0x11, TCP6 = 0x21 };

    if (n < V2_HEAD)
        return n > 12 && b[12] != LOCAL && b[12] != PROXY ? -1 : 0;
    size_t length = (size_t)b[14] << 8 | b[15];
    bool v4 = b[12] == PROXY && b[13] == TCP4, v6 = b[12] == PROXY && b[13] == TCP6;
    if ((b[12] != LOCAL && b[12] != PROXY) || length > MAX_V2 || (v4 && length < 12) ||
        (v6 && length < 36))
        return -1;
    if (n < V2_HEAD + length)
        return 0;
    out->known = v4 || v6;
    if (v4)
        memset(out->ip + 10, 0xff, 2);
    if (out->known)
        memcpy(v4 ? out->ip + 12 : out->ip, b + V2_HEAD, v4 ? 4 : 16);
    return (ptrdiff_t)(V2_HEAD + length);
}

ptrdiff_t
proxy_decode(const char *p, size_t n, struct proxy_said *out)
{
    *out = (struct proxy_said){.known = false};
    if (memcmp(p, "PROXY ", n < 6 ? n : 6) == 0)
        return n < 6 ? 0 : decode_v1(p, n, out);
    if (memcmp(p, signature, n < sizeof signature ? n : sizeof signature) == 0)
        return n < sizeof signature ? 0 : decode_v2(p, n, out);
    return -1;
}

/* --- forwarded -------------------------------------------------------------------------------- */

/* An entry: an address, with or without a port; of IPv6 that takes brackets. */
static bool
entry_parse(struct str entry, unsigned char ip[16])
{
    const char *end = entry.p + entry.n, *at = memchr(entry.p, ':', entry.n);
    struct str port = {NULL, 0};
    unsigned number;

    if (entry.n > 0 && entry.p[0] == '[') {
        const char *close = memchr(entry.p, ']', entry.n);
        if (close == NULL || (close + 1 < end && close[1] != ':'))
            return false;
        if (close + 1 < end)
            port = (struct str){close + 2, (size_t)(end - close - 2)};
        entry = (struct str){entry.p + 1, (size_t)(close - entry.p - 1)};
    } else if (at != NULL && memchr(at + 1, ':', (size_t)(end - at - 1)) == NULL) {
        port = (struct str){at + 1, (size_t)(end - at - 1)};
        entry.n = (size_t)(at - entry.p);
    }
    return (port.p == NULL || number_parse(port, 65535, &number)) && address_parse(entry, ip);
}

/* The next entry of a head's lines of that name, left to right; `line`, at first empty, is what is
 * left of one. */
static bool
next_entry(struct str *head, struct str *line, struct str *entry)
{
    struct str name;

    for (;;) {
        while (line->p != NULL && str_split(line, ',', entry)) {
            *entry = str_trim(*entry);
            if (entry->n > 0)
                return true;
        }
        do
            if (!str_split(head, '\n', line))
                return false;
        while (!str_split(line, ':', &name) || !str_ieq(name, STR("x-forwarded-for")));
    }
}

bool
proxy_forwarded(const char *believed, struct str head, unsigned char ip[16])
{
    struct str all = head, line = {NULL, 0}, entry;
    unsigned char next[16];
    bool known = false;
    size_t left = 0;

    while (next_entry(&all, &line, &entry))
        left++;
    line = (struct str){NULL, 0};
    for (; next_entry(&head, &line, &entry); left--) {
        if (left > MAX_FORWARDED)
            continue;
        /* Each proxy appends whom it sees; what comes before one that is not believed is anybody's
         * word, and so is what comes before something that is no address. */
        bool is_ip = entry_parse(entry, next);
        if (is_ip && (!known || !networks_have(believed, next)))
            memcpy(ip, next, sizeof next);
        known = is_ip;
    }
    return known;
}

/* --- connections ------------------------------------------------------------------------------ */

enum proxy_kind
proxy_kind(const struct jim *j, const struct sockaddr_storage *peer)
{
    const struct options *o = &j->opt;
    unsigned char ip[16];

    if (o->proxy_protocol[0] == '\0' && o->proxy_forwarded[0] == '\0')
        return PROXY_IS_NONE;
    address_bytes(peer, ip);
    return networks_have(o->proxy_protocol, ip)    ? PROXY_SENDS_HEADER
           : networks_have(o->proxy_forwarded, ip) ? PROXY_FORWARDS
                                                   : PROXY_IS_NONE;
}

void
proxy_forget(struct conn *c)
{
    address_leave(c->jim, c->address);
    c->address = NULL;
    if (c->proxied == NULL)
        return;
    c->jim->bounds.held -= sizeof *c->proxied;
    free(c->proxied);
    c->proxied = NULL;
}

bool
proxy_speaks_for(struct conn *c, const unsigned char *ip)
{
    struct jim *j = c->jim;
    char text[ADDRESS_ROOM];

    if (ip == NULL ? c->proxied == NULL
                   : c->proxied != NULL && memcmp(c->proxied->ip, ip, 16) == 0)
        return true;
    proxy_forget(c);
    if (ip == NULL)
        return true;
    c->proxied = xcalloc(1, sizeof *c->proxied);
    j->bounds.held += sizeof *c->proxied;
    memcpy(c->proxied->ip, ip, 16);
    if (!address_enter(j, ip, &c->address)) {
        j->stats.refused++;
        j->stats.refused_ip++;
        return false;
    }
    if (j->log.level >= LOG_LEVEL_DEBUG) {
        address_peer_text(c, text);
        log_write(&j->log, LOG_LEVEL_DEBUG, "connection %llu: through a proxy, from %s",
                  (unsigned long long)c->id, text);
    }
    return true;
}
