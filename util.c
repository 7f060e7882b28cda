/* SPDX-License-Identifier: MIT */
/*
 * util.c - strings, buffers, the hash map, the log, time and random bytes: nothing chat-specific,
 * and nothing that knows what a connection is. Used by every other file.
 *
 *   strings   struct str: borrowed bytes with a length; never NUL-terminated
 *   memory    xmalloc and its family end the program: for small things of bounded number
 *   buf       a growable array of bytes
 *   map       a hash set of the caller's items that grows a little at every call
 *   log       one line an event on stderr or in a file
 *   time, random bytes
 *
 * The body of json.h is compiled here too.
 */
#define JSON_IMPLEMENTATION
#include "jim.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#if defined(__linux__) || defined(__APPLE__)
#include <sys/random.h>
#endif

/* --- strings ---------------------------------------------------------------------------------- */

struct str
str_of(const char *cstring)
{
    return (struct str){cstring, cstring == NULL ? 0 : strlen(cstring)};
}

bool
str_eq(struct str a, struct str b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

static char
ascii_lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

bool
str_ieq(struct str a, struct str b)
{
    if (a.n != b.n)
        return false;
    for (size_t i = 0; i < a.n; i++)
        if (ascii_lower(a.p[i]) != ascii_lower(b.p[i]))
            return false;
    return true;
}

bool
str_eq_secret(struct str a, struct str b)
{
    unsigned diff = a.n != b.n;

    for (size_t i = 0; i < a.n; i++)
        diff |= (unsigned)(unsigned char)a.p[i] ^
                (unsigned)(unsigned char)(b.n > 0 ? b.p[i % b.n] : 0);
    return diff == 0;
}

bool
str_split(struct str *rest, char sep, struct str *part)
{
    if (rest->p == NULL)
        return false;
    const char *at = rest->n > 0 ? memchr(rest->p, sep, rest->n) : NULL;
    if (at == NULL) {
        *part = *rest;
        *rest = (struct str){NULL, 0};
        return true;
    }
    *part = (struct str){rest->p, (size_t)(at - rest->p)};
    rest->n -= part->n + 1;
    rest->p = at + 1;
    return true;
}

static bool
is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

struct str
str_trim(struct str s)
{
    while (s.n > 0 && is_blank(s.p[0])) {
        s.p++;
        s.n--;
    }
    while (s.n > 0 && is_blank(s.p[s.n - 1]))
        s.n--;
    return s;
}

/* --- memory ----------------------------------------------------------------------------------- */

/*
 * Carrying on without memory for the server's own bookkeeping would only move the crash to a place
 * nobody tested. What a peer can make large is capped before it is asked for.
 */
static void *
memory(void *p)
{
    if (p == NULL) {
        fputs("jim: out of memory\n", stderr);
        abort();
    }
    return p;
}

void *
xmalloc(size_t n)
{
    return memory(malloc(n > 0 ? n : 1));
}

void *
xcalloc(size_t count, size_t size)
{
    return memory(calloc(count > 0 ? count : 1, size > 0 ? size : 1));
}

void *
xrealloc(void *p, size_t n)
{
    return memory(realloc(p, n > 0 ? n : 1));
}

char *
xstrndup(const char *p, size_t n)
{
    char *copy = xmalloc(n + 1);

    if (n > 0)
        memcpy(copy, p, n);
    copy[n] = '\0';
    return copy;
}

void *
ring_grow(void *ring, size_t size, uint32_t *head, uint32_t *cap, uint32_t least)
{
    size_t before = *head * size, behind = (*cap - *head) * size;
    uint32_t more = *cap == 0 ? least : 2 * *cap;
    char *grown = xmalloc(more * size);

    if (ring != NULL) {
        memcpy(grown, (char *)ring + before, behind);
        memcpy(grown + behind, ring, before);
    }
    free(ring);
    *head = 0;
    *cap = more;
    return grown;
}

/* --- buffers ---------------------------------------------------------------------------------- */

void
zero(void *p, size_t n)
{
    memset(p, 0, n);
}

void
buf_grow(struct buf *b, size_t n)
{
    size_t cap = b->cap < 64 ? 64 : b->cap;
    while (cap - b->len < n) {
        if (cap > SIZE_MAX / 2)
            memory(NULL);
        cap *= 2;
    }
    b->p = xrealloc(b->p, cap);
    b->cap = cap;
}

void
buf_add(struct buf *b, const void *p, size_t n)
{
    if (n == 0)
        return;
    buf_reserve(b, n);
    memcpy(b->p + b->len, p, n);
    b->len += n;
}

void
buf_str(struct buf *b, struct str s)
{
    buf_add(b, s.p, s.n);
}

void
buf_printf(struct buf *b, const char *format, ...)
{
    for (size_t room = 128;;) {
        va_list ap;
        buf_reserve(b, room);
        va_start(ap, format);
        int n = vsnprintf(b->p + b->len, b->cap - b->len, format, ap);
        va_end(ap);
        if (n < 0)
            return;
        if ((size_t)n < b->cap - b->len) {
            b->len += (size_t)n;
            return;
        }
        room = (size_t)n + 1;
    }
}

void
buf_drop(struct buf *b, size_t n)
{
    b->len -= n;
    if (b->len > 0 && n > 0)
        memmove(b->p, b->p + n, b->len);
}

void
buf_free(struct buf *b)
{
    free(b->p);
    *b = (struct buf){0};
}

/* --- map -------------------------------------------------------------------------------------- */

/*
 * Open addressing with linear probing over pointers; an item's hash stands in the item itself, so a
 * slot costs 8 bytes. At three quarters full a table of twice the size takes over, and every later
 * map_add() moves a few clusters of the old one: a run of used slots up to the next empty one.
 * Moving whole clusters keeps every remaining probe sequence of the old table intact.
 */

static uint32_t
item_hash(const void *item)
{
    uint32_t hash;

    memcpy(&hash, item, sizeof hash);
    return hash;
}

void
map_init(struct map *m)
{
    *m = (struct map){.size = 16};
    m->slot = xcalloc(m->size, sizeof m->slot[0]);
    random_bytes(m->key, sizeof m->key);
}

void
map_free(struct map *m)
{
    free(m->slot);
    free(m->old);
    *m = (struct map){0};
}

uint32_t
map_hash(const struct map *m, const void *p, size_t n)
{
    return (uint32_t)siphash13(m->key, p, n);
}

static void *
table_find(void **slot, size_t size, uint32_t hash, map_eq *eq, const void *key)
{
    for (size_t i = hash & (size - 1); slot[i] != NULL; i = (i + 1) & (size - 1))
        if (item_hash(slot[i]) == hash && eq(slot[i], key))
            return slot[i];
    return NULL;
}

void *
map_find(const struct map *m, uint32_t hash, map_eq *eq, const void *key)
{
    void *item = table_find(m->slot, m->size, hash, eq, key);

    if (item == NULL && m->old != NULL)
        item = table_find(m->old, m->old_size, hash, eq, key);
    return item;
}

static void
table_add(void **slot, size_t size, void *item)
{
    size_t i = item_hash(item) & (size - 1);

    while (slot[i] != NULL)
        i = (i + 1) & (size - 1);
    slot[i] = item;
}

/*
 * Move one cluster. Slot 0 may hold the rest of a cluster that began at the end of the table;
 * moving that rest first leaves the beginning a cluster in its own right.
 */
static void
map_move(struct map *m)
{
    while (m->moved < m->old_size && m->old[m->moved] == NULL)
        if (++m->moved % 64 == 0)
            return; /* a long empty stretch is work too */
    for (; m->moved < m->old_size && m->old[m->moved] != NULL; m->moved++) {
        table_add(m->slot, m->size, m->old[m->moved]);
        m->old[m->moved] = NULL;
    }
    if (m->moved == m->old_size) {
        free(m->old);
        m->old = NULL;
    }
}

void
map_add(struct map *m, void *item)
{
    if (m->old != NULL) {
        map_move(m);
        if (m->old != NULL)
            map_move(m);
    } else if ((m->count + 1) * 4 > m->size * 3) {
        m->old = m->slot;
        m->old_size = m->size;
        m->moved = 0;
        m->size *= 2;
        m->slot = xcalloc(m->size, sizeof m->slot[0]);
    }
    table_add(m->slot, m->size, item);
    m->count++;
}

/* Empty slot i and close the gap (Knuth, vol. 3, 6.4, algorithm R). */
static void
table_remove(void **slot, size_t size, size_t i)
{
    size_t mask = size - 1;

    for (size_t j = (i + 1) & mask; slot[j] != NULL; j = (j + 1) & mask) {
        size_t home = item_hash(slot[j]) & mask;
        if (((j - home) & mask) >= ((j - i) & mask)) {
            slot[i] = slot[j];
            i = j;
        }
    }
    slot[i] = NULL;
}

static bool
table_drop(void **slot, size_t size, const void *item)
{
    size_t mask = size - 1;

    for (size_t i = item_hash(item) & mask; slot[i] != NULL; i = (i + 1) & mask)
        if (slot[i] == item) {
            table_remove(slot, size, i);
            return true;
        }
    return false;
}

void
map_remove(struct map *m, const void *item)
{
    if (table_drop(m->slot, m->size, item) ||
        (m->old != NULL && table_drop(m->old, m->old_size, item)))
        m->count--;
}

void *
map_next(const struct map *m, size_t *at)
{
    while (*at < m->size)
        if (m->slot[(*at)++] != NULL)
            return m->slot[*at - 1];
    while (m->old != NULL && *at < m->size + m->old_size)
        if (m->old[(*at)++ - m->size] != NULL)
            return m->old[*at - 1 - m->size];
    return NULL;
}

/* --- log -------------------------------------------------------------------------------------- */

void
log_write(const struct log *l, enum log_level level, const char *format, ...)
{
    static const char names[][6] = {"error", "warn", "info", "debug"};
    char text[1024], stamp[32];
    va_list ap;
    time_t now = time(NULL);
    struct tm tm;

    if ((int)level > l->level || l->file == NULL)
        return;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    /* A peer's name or path may be in it: a line of the log stays one line. */
    for (char *p = text; *p != '\0'; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
    gmtime_r(&now, &tm);
    strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%SZ", &tm);
    fprintf(l->file, "%s %s: %s\n", stamp, names[level], text);
    fflush(l->file);
}

bool
print_end(FILE *out)
{
    errno = 0; /* an earlier write may have failed, and nobody knows any more why */
    if (fflush(out) == 0 && !ferror(out))
        return true;
    fprintf(stderr, "jim: cannot write: %s\n", errno != 0 ? strerror(errno) : "not all of it");
    return false;
}

void
open_standard_fds(void)
{
    int fd;

    while ((fd = open("/dev/null", O_RDONLY)) >= 0 && fd <= STDERR_FILENO)
        ;
    if (fd >= 0)
        close(fd);
}

/* --- time and random bytes -------------------------------------------------------------------- */

static int64_t
clock_us(clockid_t id)
{
    struct timespec ts;

    clock_gettime(id, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

int64_t
time_wall_ms(void)
{
    return clock_us(CLOCK_REALTIME) / 1000;
}

int64_t
time_mono_ms(void)
{
    return clock_us(CLOCK_MONOTONIC) / 1000;
}

int64_t
time_mono_us(void)
{
    return clock_us(CLOCK_MONOTONIC);
}

void
random_bytes(void *p, size_t n)
{
    size_t got = 0;

    /* No file is needed, so also in a chroot; 256 bytes a call is what it may be asked for. */
    while (got < n && getentropy((char *)p + got, n - got < 256 ? n - got : 256) == 0)
        got += n - got < 256 ? n - got : 256;
    if (got == n)
        return;
    int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);

    while (fd >= 0 && got < n) {
        ssize_t r = read(fd, (char *)p + got, n - got);
        if (r < 0 && errno == EINTR)
            continue;
        if (r <= 0)
            break;
        got += (size_t)r;
    }
    if (fd >= 0)
        close(fd);
    if (got < n) {
        fputs("jim: no random bytes from the system\n", stderr);
        abort();
    }
}

/* SipHash with 1 compression and 3 finalization rounds (Aumasson and Bernstein, 2012). */

struct sip {
    uint64_t v[4];
};

static inline uint64_t
rotl(uint64_t x, int bits)
{
    return x << bits | x >> (64 - bits);
}

static inline void
sip_round(struct sip *s)
{
    s->v[0] += s->v[1];
    s->v[1] = rotl(s->v[1], 13) ^ s->v[0];
    s->v[0] = rotl(s->v[0], 32);
    s->v[2] += s->v[3];
    s->v[3] = rotl(s->v[3], 16) ^ s->v[2];
    s->v[0] += s->v[3];
    s->v[3] = rotl(s->v[3], 21) ^ s->v[0];
    s->v[2] += s->v[1];
    s->v[1] = rotl(s->v[1], 17) ^ s->v[2];
    s->v[2] = rotl(s->v[2], 32);
}

uint64_t
siphash13(const uint64_t key[2], const void *p, size_t n)
{
    struct sip s = {{key[0] ^ 0x736f6d6570736575, key[1] ^ 0x646f72616e646f6d,
                     key[0] ^ 0x6c7967656e657261, key[1] ^ 0x7465646279746573}};
    const unsigned char *b = p;
    uint64_t word, last = (uint64_t)n << 56;

    for (; n >= 8; b += 8, n -= 8) {
        /* Byte order changes the values, not the quality: the key never leaves the process. */
        memcpy(&word, b, 8);
        s.v[3] ^= word;
        sip_round(&s);
        s.v[0] ^= word;
    }
    for (size_t i = 0; i < n; i++)
        last |= (uint64_t)b[i] << (8 * i);
    s.v[3] ^= last;
    sip_round(&s);
    s.v[0] ^= last;
    s.v[2] ^= 0xff;
    for (int i = 0; i < 3; i++)
        sip_round(&s);
    return s.v[0] ^ s.v[1] ^ s.v[2] ^ s.v[3];
}
