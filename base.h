/* SPDX-License-Identifier: MIT */
/*
 * base.h - a part of jim.h: what knows nothing of chat, and would serve another server as well. By
 * file in reading order: util, hash, codec, resp, loop, dial. Included there, behind the limits.
 */
#ifndef BASE_H
#define BASE_H

#include <sys/socket.h>

/* --- util.c: strings, buffers, maps, log, time ------------------------------------------------ */

/* A function that runs seldom, kept out of those that run often. */
#ifdef __GNUC__
#define ASIDE __attribute__((noinline))
#define FETCH(p) __builtin_prefetch(p) /* it will be looked at soon: have it come into the cache */
#else
#define ASIDE
#define FETCH(p) ((void)0)
#endif

/* What the member of that name at p is part of: how a timer finds whose it is. */
#define container_of(p, type, member) ((type *)(void *)((char *)(p) - offsetof(type, member)))

struct str { /* borrowed bytes, not NUL-terminated; p may be NULL when n is 0 */
    const char *p;
    size_t n;
};
#define STR(literal) ((struct str){(literal), sizeof(literal) - 1})

struct str str_of(const char *cstring); /* NULL gives the empty string */
bool str_eq(struct str a, struct str b);
bool str_ieq(struct str a, struct str b); /* ASCII case ignored */
/* Compare without leaking where the first difference is, for keys and tokens. */
bool str_eq_secret(struct str a, struct str b);
/* Split off everything up to `sep` from *rest; false when *rest is exhausted (rest->p is NULL). */
bool str_split(struct str *rest, char sep, struct str *part);
struct str str_trim(struct str s); /* without blanks, tabs, CR and LF at both ends */

/* memset(p, 0, n) for more than a few words, on every message's way: of a size that it knows gcc
 * makes `rep stos`, which takes longer to begin than all of it should. */
void zero(void *p, size_t n);
/* memcpy() of a few bytes, an id or a name: pieces of a fixed size that may overlap. Of a length
 * that it knows to be short gcc makes `rep movs`, and else a call. */
static inline void
copy_short(char *to, const char *from, size_t n)
{
    if (n >= 16) {
        for (size_t i = 0; i < n - 16; i += 16)
            memcpy(to + i, from + i, 16);
        memcpy(to + n - 16, from + n - 16, 16);
    } else if (n >= 8) {
        memcpy(to, from, 8);
        memcpy(to + n - 8, from + n - 8, 8);
    } else if (n >= 4) {
        memcpy(to, from, 4);
        memcpy(to + n - 4, from + n - 4, 4);
    } else if (n > 0) {
        to[0] = from[0];
        to[n / 2] = from[n / 2];
        to[n - 1] = from[n - 1];
    }
}

/* malloc family that ends the program when memory runs out: for small things of bounded number. */
void *xmalloc(size_t n);
void *xcalloc(size_t count, size_t size);
void *xrealloc(void *p, size_t n);
char *xstrndup(const char *p, size_t n);
/* Room for one more in a growing array: n items at p, with room for cap; at first for least. */
#define GROW(p, n, cap, least)                                                                     \
    do {                                                                                           \
        if ((n) == (cap)) {                                                                        \
            (cap) = (cap) == 0 ? (least) : 2 * (cap);                                              \
            (p) = xrealloc((p), (cap) * sizeof *(p));                                              \
        }                                                                                          \
    } while (0)
/*
 * A ring that is full: *cap items of `size` bytes (a power of two, or 0: none yet), the oldest at
 * *head. Returns what is in it in one twice as large (at first: of `least` items), the oldest in
 * front; the caller's to free().
 */
void *ring_grow(void *ring, size_t size, uint32_t *head, uint32_t *cap, uint32_t least);

struct buf {         /* a growable byte array; the zero struct is empty and owns nothing */
    char *p;         /* owned: buf_free() */
    size_t len, cap; /* bytes */
};
void buf_grow(struct buf *b, size_t n); /* what buf_reserve() calls when there is not enough */
static inline void
buf_reserve(struct buf *b, size_t n) /* room for n more bytes after len */
{
    if (b->cap - b->len < n)
        buf_grow(b, n);
}
void buf_add(struct buf *b, const void *p, size_t n);
void buf_str(struct buf *b, struct str s);
/* A literal: its length is known, so the copy is a few moves in place. */
#define buf_lit(b, literal) \
    (buf_reserve((b), sizeof(literal) - 1), \
     (void)memcpy((b)->p + (b)->len, (literal), sizeof(literal) - 1), \
     (void)((b)->len += sizeof(literal) - 1))
/* The same where there is room; what is behind it. */
#define at_lit(to, literal) \
    ((char *)memcpy((to), (literal), sizeof(literal) - 1) + sizeof(literal) - 1)
void buf_printf(struct buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
void buf_drop(struct buf *b, size_t n); /* remove n bytes from the front */
void buf_free(struct buf *b);           /* back to the zero struct */

#define JSON_BUF struct buf
#define JSON_RESERVE(b, n) buf_reserve((b), (n))
#include "json.h"

/* The digits of a number that is written several times, as the time that many messages have in
 * common: made once. The zero struct holds none. */
struct digits {
    int64_t value;
    char text[JSON_INT_ROOM];
    uint8_t n;
};
/* Make them; how many there are. Often it is the last number, or the next. */
static inline size_t
digits_of(struct digits *d, int64_t value)
{
    if (value == d->value && d->n > 0)
        return d->n;
    if (value > 0 && value - 1 == d->value && d->n > 0 && d->text[d->n - 1] != '9')
        d->text[d->n - 1]++;
    else
        d->n = (uint8_t)(json_int_at(d->text, value) - d->text);
    d->value = value;
    return d->n;
}
/* Write it where there is room for JSON_INT_ROOM bytes; what is behind it. */
static inline char *
digits_at(struct digits *d, char *to, int64_t value)
{
    size_t n = digits_of(d, value);

    memcpy(to, d->text, JSON_INT_ROOM);
    return to + n;
}

/*
 * A hash set of items found by key. Items are the caller's; each starts with its uint32_t hash, as
 * map_hash() gave it. Keyed with random bytes (SipHash-1-3), so that nobody can choose colliding
 * ids. Grows a cluster at a time on later calls: no single call touches more than a few dozen
 * items.
 */
struct map {
    void **slot, **old; /* owned; borrowed items; `old` is being moved to `slot`, else NULL */
    size_t size, old_size; /* slots, powers of two */
    size_t count;          /* items in both */
    size_t moved;          /* next slot of `old` to move */
    uint64_t key[2];
};
typedef bool map_eq(const void *item, const void *key);
void map_init(struct map *m);
void map_free(struct map *m); /* not the items */
uint32_t map_hash(const struct map *m, const void *p, size_t n);
void *map_find(const struct map *m, uint32_t hash, map_eq *eq, const void *key);
void map_add(struct map *m, void *item);         /* item->hash set, its key not in the map */
void map_remove(struct map *m, const void *item); /* by address; must be in the map */
/* Visit items in no order: *at starts at 0; NULL at the end. No adding or removing meanwhile. */
void *map_next(const struct map *m, size_t *at);

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };
struct log {
    FILE *file; /* stderr, or owned by conf: the log file */
    int level;  /* enum log_level: what is printed */
};
/* One line, time in front, control characters escaped. Never passwords, tokens or message
 * content. */
void log_write(const struct log *l, enum log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Has all that was printed to `out` been written? False: why not is said on stderr. For who prints
 * a result: a full disk must not look like success. */
bool print_end(FILE *out);
/* First of all in a program: opens those of descriptors 0 to 2 that are closed, for reading, so
 * that writing there fails as before. Else the next file or socket would get what is meant for
 * them. */
void open_standard_fds(void);

int64_t time_wall_ms(void); /* since 1970, UTC */
int64_t time_mono_ms(void); /* since an arbitrary start, never backwards */
int64_t time_mono_us(void); /* the same clock */
void random_bytes(void *p, size_t n); /* from the kernel; dies when it has none */
uint64_t siphash13(const uint64_t key[2], const void *p, size_t n);

/* --- hash.c: digests and base64. As pure as codec.c ------------------------------------------- */

/* Network byte order, wherever it stands. */
static inline uint32_t
get_be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline void
put_be32(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 24);
    p[1] = (uint8_t)(v >> 16);
    p[2] = (uint8_t)(v >> 8);
    p[3] = (uint8_t)v;
}

struct sha1 {
    uint32_t h[5];
    uint64_t n; /* bytes so far */
    uint8_t block[64];
};
void sha1_init(struct sha1 *s); /* FIPS 180-4 section 6.1 */
void sha1_add(struct sha1 *s, const void *p, size_t n);
void sha1_end(struct sha1 *s, uint8_t digest[20]);

struct sha256 { /* FIPS 180-4 section 6.2 */
    uint32_t h[8];
    uint64_t n; /* bytes so far */
    uint8_t block[64];
};
void sha256_init(struct sha256 *s);
void sha256_add(struct sha256 *s, const void *p, size_t n);
void sha256_end(struct sha256 *s, uint8_t digest[32]);

struct hmac256 { /* HMAC-SHA-256, RFC 2104; a copy taken behind init() saves the key's two blocks */
    struct sha256 inner, outer;
};
void hmac256_init(struct hmac256 *m, const void *key, size_t n);
void hmac256_add(struct hmac256 *m, const void *p, size_t n);
void hmac256_end(struct hmac256 *m, uint8_t mac[32]);

/* PBKDF2 with HMAC-SHA-256 (RFC 8018 section 5.2), rounds >= 1: n bytes of key to out. Takes about
 * half a microsecond a round and 32 bytes. */
void pbkdf2(struct str password, struct str salt, uint32_t rounds, uint8_t *out, size_t n);
/* Overwrite a secret; not left out by a compiler that sees that nobody reads it. */
void wipe(void *p, size_t n);

/* RFC 4648 section 4. dst holds 4 * ((n + 2) / 3) bytes; returns how many were written; no NUL. */
size_t base64_encode(char *dst, const void *p, size_t n);
/* Strict: padding needed, no blanks. dst holds 3 * (n / 4) bytes. Returns the length, or -1. */
ptrdiff_t base64_decode(void *dst, const char *p, size_t n);
/* The same with the alphabet of section 5 and without padding. Decoding is canonical: bits behind
 * the last byte must be zero. dst of decode holds n bytes. */
size_t base64url_encode(char *dst, const void *p, size_t n);
ptrdiff_t base64url_decode(void *dst, const char *p, size_t n);

struct crc32c { /* tables of CRC-32C (RFC 3720 appendix B.4), eight bytes a step */
    uint32_t t[8][256];
    bool instruction; /* the processor has one for it: the tables are not used */
};
void crc32c_init(struct crc32c *c);
/* Continue `crc` (0 at the start) over n bytes. */
uint32_t crc32c_add(const struct crc32c *c, uint32_t crc, const void *p, size_t n);

/* --- codec.c: bytes in, views out. No malloc, descriptor, clock or state outside the arguments  */

/*
 * Decoders return the bytes they consumed, 0 when they need more, or a negative number: which one
 * is said at each. Views borrow the input. Lengths are checked against their limit before use.
 */

/* Check a piece of UTF-8 (RFC 3629). *state is 0 at the start and again at every character's
 * end, so text may come in pieces; false at the first byte that cannot be right. */
bool utf8_check(uint32_t *state, const void *p, size_t n);

struct pkt { /* a TCP-IM frame (J-IM 3.0) */
    uint8_t cmd;
    uint32_t seq;    /* the sequence number, 0 when the frame has none or one <= 0 */
    struct str body; /* borrowed from the input */
};
enum { PKT_BAD_VERSION = -1, PKT_BAD_LENGTH = -2 }; /* length negative or above the limit */
/* One frame: 01 mask [seq:4 if mask & 0x20] cmd len:4 body, big-endian. */
ptrdiff_t pkt_decode(const char *p, size_t n, size_t max_body, struct pkt *out);
/* The head of a frame with mask 0x51, or 0x71 and the number when seq > 0. Returns its length. */
size_t pkt_head(uint8_t dst[MAX_PKT_HEAD], uint8_t cmd, uint32_t seq, uint32_t body);

struct ws { /* what a WebSocket decoder remembers between calls; zero struct at the start */
    uint64_t total;   /* payload bytes of the finished fragments of this message */
    uint64_t done;    /* payload bytes of the current frame already unmasked and checked */
    uint32_t utf8;    /* utf8_check() state of the text message */
    uint8_t opcode;   /* WS_TEXT or WS_BINARY while a fragmented message is open, else 0 */
    bool server;      /* set by the caller: the frames are a server's, and not masked */
};
enum ws_opcode {
    WS_CONTINUE = 0, WS_TEXT = 1, WS_BINARY = 2, WS_CLOSE = 8, WS_PING = 9, WS_PONG = 10
};
enum ws_close { /* RFC 6455 section 7.4.1 */
    WS_NORMAL = 1000, WS_GOING_AWAY = 1001, WS_PROTOCOL = 1002, WS_NO_STATUS = 1005,
    WS_BAD_DATA = 1007, WS_POLICY = 1008, WS_TOO_BIG = 1009, WS_INTERNAL = 1011
};
struct ws_frame {
    uint8_t opcode;  /* of a continuation: that of its message */
    bool fin;        /* the message (or control frame) is complete with this frame */
    bool whole;      /* fin, and not preceded by fragments: payload is the message */
    uint16_t code;   /* WS_CLOSE: the status code, WS_NO_STATUS when the frame has none */
    struct str payload; /* unmasked; borrowed from the input; WS_CLOSE: without the code */
};
/*
 * One client frame, or with s->server one of a server (RFC 6455 section 5), unmasked in place as
 * its bytes arrive: call again with the same bytes and more behind them. Negative: minus the enum
 * ws_close to fail the connection with (WS_PROTOCOL: no mask, or a server's, RSV bits, reserved
 * opcode, a control frame over 125 bytes or fragmented, a length not in its shortest form or over
 * 2^63, a bad continuation or close code; WS_BAD_DATA: text or a close reason that is not UTF-8, as
 * early as the bytes show it; WS_TOO_BIG: message above `max`).
 */
ptrdiff_t ws_decode(struct ws *s, char *p, size_t n, size_t max, struct ws_frame *out);
/* The head of an unmasked server frame with FIN set. Returns its length. */
size_t ws_head(uint8_t dst[MAX_WS_HEAD], enum ws_opcode opcode, uint64_t payload);
/* Sec-WebSocket-Accept for a client's key (section 4.2.2). False when the key is not base64 of 16
 * bytes. No NUL. */
bool ws_accept(struct str key, char accept[28]);

enum http_header { /* the header fields jim looks at */
    HTTP_HOST, HTTP_CONNECTION, HTTP_UPGRADE, HTTP_WS_KEY, HTTP_WS_VERSION, HTTP_ORIGIN,
    HTTP_AUTHORIZATION, HTTP_CONTENT_LENGTH, HTTP_TRANSFER_ENCODING, HTTP_CONTENT_TYPE, HTTP_EXPECT,
    HTTP_IF_NONE_MATCH, HTTP_IF_MODIFIED_SINCE, HTTP_ACR_METHOD,
    HTTP_ACR_HEADERS, /* ACR: Access-Control-Request-... */
    HTTP_HEADERS
};
struct http_req {
    struct str method;
    struct str path;  /* as sent, still percent-encoded, without the query */
    struct str query; /* without '?' */
    struct str header[HTTP_HEADERS]; /* p == NULL: absent; trimmed */
    uint64_t length;  /* Content-Length, 0 without one */
    bool chunked;     /* Transfer-Encoding: chunked */
    bool keep_alive;  /* as version and Connection say */
    bool http11;      /* else 1.0 */
    bool upgrade;     /* Connection holds "upgrade" and Upgrade holds "websocket" */
};
/*
 * A request head (RFC 9112), up to and with its empty line; a bare LF ends a line too, empty lines
 * before the request line are skipped. *scan (0 at first, and again behind each head) remembers how
 * far earlier calls looked, so that a slow drip costs linear time. The host of an absolute-form
 * target replaces Host. header[] has the first of fields given twice; flags consider them all.
 * Negative: minus the status to answer before closing: 400 (malformed, control characters, blank
 * before a colon, obs-fold, no Host in 1.1, a second Host, Origin or other field that must be one,
 * Content-Length not a number, repeated with another value or beside Transfer-Encoding), 431
 * (MAX_HEAD, MAX_LINE), 501 (a transfer coding other than chunked), 505 (not HTTP/1.0 or 1.1; 1.x
 * with x > 1 counts as 1.1).
 */
ptrdiff_t http_decode(const char *p, size_t n, size_t *scan, struct http_req *out);

struct http_chunked { /* zero struct at the start of a body */
    size_t body;      /* decoded bytes so far; they stand at the start of the buffer */
    size_t raw;       /* where undecoded bytes begin */
    uint64_t left;    /* bytes left of the current chunk */
    uint32_t line;    /* bytes of the current size line, or of the trailers */
    uint8_t state;
};
/*
 * Decode a chunked body (RFC 9112 section 7.1) in place: p[0, s->body) is body, p[s->raw, *n) is
 * not yet decoded. Call again with more bytes behind and *n grown. Moves what is left down and
 * shortens *n, so that the buffer never holds much more than the body. Returns 1 at the end (the
 * bytes from s->raw on belong to the next request), 0 for more, or minus the status: 400, 413
 * (body above max).
 */
int http_unchunk(struct http_chunked *s, char *p, size_t *n, size_t max);

/* Percent-decode (RFC 3986 section 2.1) into dst, which holds s.n bytes; plus: '+' is a blank.
 * Returns the length, or -1 at a malformed escape. */
ptrdiff_t url_decode(char *dst, struct str s, bool plus);
/* The next `name=value` of a query or form; both still encoded; value empty without '='. */
bool query_next(struct str *rest, struct str *name, struct str *value);
/* Does a comma-separated header list hold `token` (ASCII case ignored)? */
bool http_list_has(struct str list, const char *token);

/* --- resp.c: Redis's protocol. As pure as codec.c --------------------------------------------- */

enum resp_type {
    RESP_STATUS, /* a short text, as "OK" */
    RESP_ERROR,  /* a short text: its first word says what kind of error */
    RESP_INT,
    RESP_BULK,   /* any bytes */
    RESP_LARGE,  /* a string above `max`: its n bytes and CR LF follow, for the caller to skip */
    RESP_ARRAY,  /* n elements follow, each to be decoded by itself; they may be arrays again */
    RESP_NIL,
    /* RESP3 alone: */
    RESP_BOOL,
    RESP_DOUBLE,    /* its text, as Redis writes it: 1.5, 10, 1e-9, inf, -inf, nan */
    RESP_BIG,       /* an integer of any size, as text */
    RESP_VERBATIM,  /* a string for humans, without its "txt:" */
    RESP_MAP,       /* n elements follow: keys and values in turn */
    RESP_SET,       /* n elements follow */
    RESP_PUSH,      /* n elements follow; no answer to anything */
    RESP_ATTRIBUTE  /* n elements follow, as in a map, and then what they are about */
};
struct resp {
    enum resp_type type;
    int64_t n;       /* RESP_INT, RESP_BOOL: the value; RESP_LARGE and all that hold others: how
                        many follow */
    struct str text; /* of the other types but RESP_NIL: borrowed from the input */
};
enum {
    RESP_BAD_TYPE = -1,  /* no element begins like this */
    RESP_BAD_LINE = -2,  /* no number where one belongs, a line over MAX_LINE, or CR LF missing */
    RESP_BAD_LENGTH = -3 /* negative, over 512 MiB, or over 2^20 elements or pairs */
};
/* One element of a reply. *scan (0 at first and behind each element) as for http_decode(). */
ptrdiff_t resp_decode(const char *p, size_t n, size_t *scan, size_t max, struct resp *out);
/* Append a command of n arguments, its name included. */
void resp_command(struct buf *b, const struct str *arg, size_t n);

/* --- loop.c: readiness, timers, wake-up ------------------------------------------------------- */

struct loop;
enum loop_events { LOOP_READ = 1, LOOP_WRITE = 2 };
/* Called at most once a turn and descriptor. Errors and hang-ups show as LOOP_READ | LOOP_WRITE
 * as far as asked for (as LOOP_READ when nothing was): the next read or write says what it is. */
typedef void loop_fn(void *arg, unsigned events);

struct timer; /* set and cleared through loop_timer(); embed it in your struct, zeroed */
typedef void timer_fn(struct timer *t);
struct timer {
    int64_t at_ms;  /* on loop_now()'s clock */
    timer_fn *fn;
    size_t slot;    /* place in the heap + 1; 0: not set */
};

/* NULL with errno set when the system refuses. `backend` of the running build for -V and logs. */
struct loop *loop_new(void);
void loop_free(struct loop *l);
const char *loop_backend(void); /* "epoll", "kqueue" or "poll" */
/* Watch a descriptor; 0 or -1 with errno. `events` may be 0: then only errors are reported.
 * `arg` is handed to fn and borrowed until loop_del(). */
int loop_add(struct loop *l, int fd, unsigned events, loop_fn *fn, void *arg);
/* Change what is watched; no system call when nothing changes. 0 or -1 with errno. */
int loop_set(struct loop *l, int fd, unsigned events);
/* Stop watching; to be called before close(). No callback for fd follows, this turn included. */
void loop_del(struct loop *l, int fd);
/* The arg of a descriptor watched with fn, NULL if none: for walking all of a kind up to
 * loop_top(). */
void *loop_arg(const struct loop *l, int fd, loop_fn *fn);
int loop_top(const struct loop *l); /* one above the highest descriptor ever watched */
/* One turn: wait at most max_ms (-1: until something happens), run the callbacks and due timers.
 * Returns how many callbacks ran, or -1 with errno for a failure that will not go away. */
int loop_turn(struct loop *l, int64_t max_ms);
void loop_set_clock(struct loop *l, int64_t (*now_ms)(void)); /* for tests: another clock */
int loop_fd(const struct loop *l); /* readable when a turn has something to do; -1: none such */
int loop_wait(const struct loop *l, int64_t max_ms); /* how long a turn may wait, ms; -1: ever */
int64_t loop_now(const struct loop *l); /* ms, monotonic; taken once a turn after the wait */
/* Arrange for fn(t) at at_ms on loop_now()'s clock, once; replaces an earlier arrangement of t. */
void loop_timer(struct loop *l, struct timer *t, int64_t at_ms, timer_fn *fn);
void loop_timer_clear(struct loop *l, struct timer *t); /* allowed when not set */
/* Make the current or next loop_turn() return soon; async-signal-safe and from any thread. */
void loop_wake(struct loop *l);

/* --- dial.c: outgoing connections ------------------------------------------------------------- */

#define DIAL_ADDRS 8 /* addresses tried of a name that has several */
struct dial_addr {
    struct sockaddr_storage sa;
    socklen_t len;
};
struct dial_addrs {
    struct dial_addr a[DIAL_ADDRS];
    size_t n;
};
/* HOST, HOST:PORT, [V6] or [V6]:PORT; without a port, `usual` is it. Views of both. */
bool dial_split(struct str text, struct str usual, struct str *host, struct str *port);
/* 0 or an error for gai_strerror(). numeric: a name is an error; else it may take its time: not on
 * a loop. */
int dial_look_up(struct str host, struct str port, bool numeric, struct dial_addrs *to);
/* A non-blocking socket that is connecting, or -1 with errno. It is writable when that has come to
 * an end; dial_error() says to which: 0, or an errno. */
int dial(const struct dial_addr *a);
int dial_error(int fd);

#endif /* BASE_H */
