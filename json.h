/* SPDX-License-Identifier: MIT */
/*
 * json.h - a JSON reader and writer in one header.
 *
 * Reading allocates nothing: values are views into the caller's text. It is a pull parser: open a
 * text, ask for member after member, and the grammar (RFC 8259) is checked on the way, nested
 * values included, so one pass over the text both validates it and finds what the caller wants. A
 * result is valid only once json_next() has returned 0 for the whole document: a fault may come
 * late.
 *
 * Writing appends to a growable buffer. The escapes are those J-IM's clients are used to: \" \\ \n
 * \r \t \b \f, other controls, U+007F-U+009F, U+2028 and U+2029 as \uXXXX with upper-case hex, and
 * everything else as raw UTF-8.
 *
 * Use: #include "json.h" for the declarations; in exactly one file, #define JSON_IMPLEMENTATION
 * first. To write into your own buffer type, define JSON_BUF to a struct that has the members
 * `char *p; size_t len, cap;`, and JSON_RESERVE(b, n) to an expression that makes room for n more
 * bytes or does not return. The default reallocates and calls abort() when out of memory.
 */
#ifndef JSON_H
#define JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__SSE2__) && defined(__GNUC__)
#include <emmintrin.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define JSON_MAX_DEPTH 32 /* nesting beyond this is refused: bounds the stack and hostile input */

enum json_type {
    JSON_NONE, /* no value: the zero struct json, "the member was not there" */
    JSON_NULL,
    JSON_FALSE,
    JSON_TRUE,
    JSON_NUMBER,
    JSON_STRING,
    JSON_ARRAY,
    JSON_OBJECT
};

enum json_error {
    JSON_OK,
    JSON_SYNTAX, /* not what the grammar allows here, or the text ends too early */
    JSON_DEPTH,  /* nested deeper than JSON_MAX_DEPTH */
    JSON_UTF8    /* a string holds bytes that are not UTF-8 (RFC 3629), a cut character included */
};

/* A value as it stands in the text; borrowed from it. */
struct json {
    const char *p;    /* first byte: of a string, the byte after the quote; else of the value */
    uint32_t n;       /* bytes: of a string without its quotes; else of the whole value */
    uint8_t type;     /* enum json_type */
    bool escaped;     /* string: holds a backslash, so its text differs from its value */
    bool plain;       /* string: json_put_value() may copy it as it stands */
};

/* Where a walk over one object or array stands. */
struct json_iter {
    const char *start; /* beginning of the text that was opened, for the error offset */
    const char *p;     /* next unread byte */
    const char *end;
    uint8_t close;     /* '}' or ']'; 0: json_next() has returned 0 or -1 and will again */
    bool first;        /* no member read yet */
    bool whole;        /* opened with json_open(): nothing but white space may follow */
    enum json_error error; /* why json_next() returned -1 */
};

/*
 * Open a document: `n` bytes at `text` (n < 4 GiB), which must be one object or one array with
 * nothing but white space around it. Returns 0, or -1 (it->error, json_error_at()).
 */
int json_open(struct json_iter *it, const char *text, size_t n);

/* Walk the members of a value that json_next() gave: `v` must be JSON_OBJECT or JSON_ARRAY. */
void json_enter(struct json_iter *it, const struct json *v);

/*
 * The next member: 1 and *key (objects; else JSON_NONE) and *val, 0 at the end, -1 at a fault.
 * `key` may be NULL. A nested value is checked as a whole before it is returned.
 */
int json_next(struct json_iter *it, struct json *key, struct json *val);

/*
 * Offset in bytes from the start of the opened text to the fault: the first byte that cannot be
 * right, the bracket that is too deep, the first byte of a bad character, or the end of a text cut
 * short.
 */
size_t json_error_at(const struct json_iter *it);

/*
 * The text of a string value (escapes decoded; a lone surrogate becomes U+FFFD) copied to dst,
 * which must hold v->n bytes. Returns its length, at most v->n. A value of any other type is copied
 * as it stands in the text: numbers and booleans become their text, objects and arrays their JSON.
 */
size_t json_text(const struct json *v, char *dst);

/*
 * An integer as fastjson's clients mean it: a number (fraction cut off), a string that holds a
 * number (commas between digits ignored, leading zeros allowed, blanks not), true = 1, false = 0.
 * Returns 1 and *out; 0 when there is none (JSON_NONE, null, "" and "null"); -1 when it is
 * something else or does not fit.
 */
int json_int_any(const struct json *v, int64_t *out);
static inline int
json_int(const struct json *v, int64_t *out)
{
    if (v->type != JSON_NUMBER || v->n != 1)
        return json_int_any(v, out);
    *out = *v->p - '0'; /* kinds and flags: what has been read is a digit */
    return 1;
}

/* --- texts and numbers, many bytes at a time -------------------------------------------------- */

static inline uint32_t
json_byte(const char *p)
{
    return (unsigned char)*p;
}

static inline bool
json_is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* What is behind white space. */
static inline const char *
json_space(const char *p, const char *end)
{
    /* Mostly there is none, and the first comparison says so. */
    while (p < end && json_byte(p) <= ' ' && (*p == ' ' || *p == '\n' || *p == '\t' || *p == '\r'))
        p++;
    return p;
}

/*
 * Of the 8 bytes at p, the high bit of each that is not plain ASCII: a control, '"', '\\', DEL or a
 * byte from 0x80. Sums are taken of 7-bit values, so no carry leaves its byte: all 8 answers are
 * exact and the byte order does not matter.
 */
static inline uint64_t
json_stops(const char *p)
{
    const uint64_t ones = UINT64_MAX / 255, high = ones * 0x80;
    uint64_t x;

    memcpy(&x, p, sizeof x);
    uint64_t low = x & ~high;
    uint64_t from_blank = low + ones * 0x60;
    uint64_t not_quote = (low ^ ones * '"') + ones * 0x7f;
    uint64_t not_backslash = (low ^ ones * '\\') + ones * 0x7f;
    uint64_t is_del = low + ones;
    return (~(from_blank & not_quote & not_backslash) | is_del | x) & high;
}

/* Which byte in memory order has the first bit of json_stops(); there is one. */
static inline size_t
json_first(uint64_t stops)
{
#if defined(__GNUC__) && defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    return (size_t)__builtin_ctzll(stops) / 8;
#else
    unsigned char byte[8];
    size_t i = 0;

    memcpy(byte, &stops, sizeof byte);
    while (byte[i] == 0)
        i++;
    return i;
#endif
}

#if defined(__SSE2__) && defined(__GNUC__) /* every x86-64 */
/* json_stops() for 16 bytes; of each, the high bit counts. With 0x20 taken away, ASCII without
 * controls and DEL is 0 to 0x5e; 0x21 more, at most 0xff, gives all else its high bit. */
static inline __m128i
json_stops16(const char *p)
{
    __m128i x = _mm_loadu_si128((const __m128i *)(const void *)p);
    __m128i from_blank = _mm_sub_epi8(x, _mm_set1_epi8(0x20));
    __m128i low = _mm_adds_epu8(from_blank, _mm_set1_epi8(0x21));
    __m128i quote = _mm_cmpeq_epi8(x, _mm_set1_epi8('"'));
    __m128i backslash = _mm_cmpeq_epi8(x, _mm_set1_epi8('\\'));

    return _mm_or_si128(low, _mm_or_si128(quote, backslash));
}
#endif

/* json_span() of a long text, or of a very short one. */
const char *json_span_more(const char *start, const char *p, const char *end);

/*
 * The first byte from p on that is not plain ASCII as json_stops() has it, or end. The text begins
 * at `start`, which is p or before it: near the end 16 bytes are loaded that end with it, and those
 * before p are shifted out.
 */
static inline const char *
json_span(const char *start, const char *p, const char *end)
{
#if defined(__SSE2__) && defined(__GNUC__)
    if (end - p >= 16) {
        unsigned stops = (unsigned)_mm_movemask_epi8(json_stops16(p));
        if (stops != 0)
            return p + (unsigned)__builtin_ctz(stops);
        p += 16;
    } else if (end - start >= 16) {
        unsigned stops = (unsigned)_mm_movemask_epi8(json_stops16(end - 16)) >> (16 - (end - p));
        return stops != 0 ? p + (unsigned)__builtin_ctz(stops) : end;
    }
#endif
    return json_span_more(start, p, end);
}

/* The number that the first n of the 8 bytes at p are, 1 to 8, if all 8 are digits: neighbours are
 * joined to pairs, pairs to fours, fours to the whole. */
static inline bool
json_eight(const char *p, int n, int64_t *value)
{
    const uint64_t ones = UINT64_MAX / 255;
    uint64_t x = 0;

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    memcpy(&x, p, sizeof x);
#else
    for (int i = 7; i >= 0; i--)
        x = x << 8 | json_byte(p + i);
#endif
    /* A digit is 0x3n, and still is with 6 added. A byte that carries into the next, from 0xfa on,
     * is none itself. */
    const uint64_t high = ones * 0xf0, digit = ones * 0x30;
    if ((((x & high) ^ digit) | (((x + ones * 6) & high) ^ digit)) != 0)
        return false;
    x <<= 64 - 8 * n;                            /* what is behind them goes, zeros come first */
    x = (x & ones * 0x0f) * (1 + (10 << 8)) >> 8; /* the first of two is the lower byte */
    x = (x & UINT64_C(0x00ff00ff00ff00ff)) * (1 + (100 << 16)) >> 16;
    x = (x & UINT64_C(0x0000ffff0000ffff)) * (1 + (UINT64_C(10000) << 32)) >> 32;
    *value = (int64_t)x;
    return true;
}

#if defined(__SSE2__) && defined(__GNUC__)
/* Bit i: is byte i of the 16 at p no digit? 9 and 0x76 are 0x7f; all above has the high bit. */
static inline unsigned
json_no_digits16(const char *p)
{
    __m128i x = _mm_loadu_si128((const __m128i *)(const void *)p);
    __m128i digit = _mm_sub_epi8(x, _mm_set1_epi8('0'));

    return (unsigned)_mm_movemask_epi8(_mm_adds_epu8(digit, _mm_set1_epi8(0x76)));
}
#endif

/* json_digits() of a very long number, or of a very short text. */
const char *json_digits_more(const char *p, const char *end);

/* The first byte that is no digit, or end; `start` as in json_span(). */
static inline const char *
json_digits(const char *start, const char *p, const char *end)
{
#if defined(__SSE2__) && defined(__GNUC__)
    unsigned others = 0;

    if (end - p >= 16)
        others = json_no_digits16(p);
    else if (end - start >= 16)
        others = json_no_digits16(end - 16) >> (16 - (end - p));
    if (others != 0)
        return p + (unsigned)__builtin_ctz(others);
#else
    (void)start;
#endif
    return json_digits_more(p, end);
}

/* --- writing ---------------------------------------------------------------------------------- */

#ifndef JSON_BUF
struct json_buf {
    char *p;         /* owned by the caller: free(b.p) */
    size_t len, cap; /* bytes */
};
void json_buf_reserve(struct json_buf *b, size_t n);
#define JSON_BUF struct json_buf
#define JSON_BUF_OWN /* the implementation brings json_buf_reserve() */
#define JSON_RESERVE(b, n) json_buf_reserve((b), (n))
#endif

/* Append n bytes as they are. */
void json_put_raw(JSON_BUF *b, const char *p, size_t n);
/* Append `"name":`, with a comma before it unless an object has just been opened. `name` is written
 * as it is: it must need no escapes. */
void json_put_key(JSON_BUF *b, const char *name);
/* Append a comma unless the last byte opened an array or object or the buffer is empty. */
void json_put_comma(JSON_BUF *b);
/* Append UTF-8 text (valid, by the caller's promise) as a quoted and escaped string. */
void json_put_string(JSON_BUF *b, const char *p, size_t n);
/* Would json_put_string() write this text as it is, but for the quotes? */
bool json_is_plain(const char *p, size_t n);
/* Append a decimal integer. */
void json_put_int(JSON_BUF *b, int64_t v);
/* Write one where there is room for JSON_INT_ROOM bytes, and return what is behind it. */
#define JSON_INT_ROOM 20 /* 19 digits and a sign */
char *json_int_long(char *to, int64_t v);
static inline char *
json_int_at(char *to, int64_t v)
{
    if (v < 0 || v > 9)
        return json_int_long(to, v);
    *to = (char)('0' + v);
    return to + 1;
}
/* Append a value that was read: compact, escapes as above, null members of objects left out,
 * numbers as they were written, duplicate members as they were; JSON_NONE as null. The value must
 * have been checked. */
void json_put_value(JSON_BUF *b, const struct json *v);

#ifdef __cplusplus
}
#endif

#endif /* JSON_H */

/* === implementation =========================================================================== */
/*
 * Reading order: characters, then one json_scan_*() for each rule of the grammar, then the public
 * reader, then the writer. A scanner takes the next unread byte and returns the one after what it
 * has read, or NULL after json_fail(). None looks at a byte before comparing with it->end, so a
 * text may end at the last byte of the last readable page.
 */
#if defined(JSON_IMPLEMENTATION) && !defined(JSON_IMPLEMENTED)
#define JSON_IMPLEMENTED

#include <stdlib.h>

/* Code that runs seldom, kept out of what runs often: inlined there it would cost registers. */
#ifdef __GNUC__
#define JSON_ASIDE __attribute__((noinline))
#else
#define JSON_ASIDE
#endif

/* The escapes of one letter that are not the character itself, and what they stand for. */
#define JSON_LETTERS 5
static const char json_letter[] = "bfnrt";
static const char json_control[] = "\b\f\n\r\t";

/* --- characters ------------------------------------------------------------------------------- */

const char *
json_span_more(const char *start, const char *p, const char *end)
{
#if defined(__SSE2__) && defined(__GNUC__)
    for (; end - p >= 32; p += 32) {
        __m128i a = json_stops16(p), b = json_stops16(p + 16);
        if (_mm_movemask_epi8(_mm_or_si128(a, b)) == 0)
            continue;
        return p + __builtin_ctz((unsigned)_mm_movemask_epi8(a) |
                                 (unsigned)_mm_movemask_epi8(b) << 16);
    }
    if (end - start >= 16)
        return json_span(start, p, end); /* two steps are left at most */
#else
    (void)start;
#endif
    for (; end - p >= 8; p += 8)
        if (json_stops(p) != 0)
            return p + json_first(json_stops(p));
    while (p < end && *p >= 0x20 && *p < 0x7f && *p != '"' && *p != '\\')
        p++;
    return p;
}

/* Of the 8 bytes at p, the high bit of each that is no digit; exact, as json_stops() is. */
static inline uint64_t
json_no_digits(const char *p)
{
    const uint64_t ones = UINT64_MAX / 255, high = ones * 0x80;
    uint64_t x;

    memcpy(&x, p, sizeof x);
    x ^= ones * '0'; /* digits are 0 to 9 now */
    return (((x & ~high) + ones * 0x76) | x) & high;
}

const char *
json_digits_more(const char *p, const char *end)
{
    for (; end - p >= 8; p += 8)
        if (json_no_digits(p) != 0)
            return p + json_first(json_no_digits(p));
    while (p < end && json_is_digit(*p))
        p++;
    return p;
}

/* Bytes of the character at p, whose first byte is 0x80 or above, and its code; 0 when it is not
 * UTF-8: a stray or missing continuation, too long a form, a surrogate or above U+10FFFF. */
static inline size_t
json_utf8(const char *p, const char *end, uint32_t *code)
{
    uint32_t lead = json_byte(p), c;
    size_t n = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;

    if (lead < 0xc2 || lead > 0xf4 || (size_t)(end - p) < n)
        return 0;
    if ((p[1] & 0xc0) != 0x80 || (n > 2 && (p[2] & 0xc0) != 0x80) ||
        (n > 3 && (p[3] & 0xc0) != 0x80))
        return 0;
    /* Not a loop: Chinese text, the usual case, reads a quarter faster this way. */
    c = (lead & (0x7fu >> n)) << 6 | (json_byte(p + 1) & 0x3f);
    if (n > 2)
        c = c << 6 | (json_byte(p + 2) & 0x3f);
    if (n > 3)
        c = c << 6 | (json_byte(p + 3) & 0x3f);
    if (n == 3 && (c < 0x800 || (c >= 0xd800 && c <= 0xdfff)))
        return 0;
    if (n == 4 && (c < 0x10000 || c > 0x10ffff))
        return 0;
    *code = c;
    return n;
}

static size_t
json_utf8_put(char dst[4], uint32_t c)
{
    size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;

    if (n == 1) {
        dst[0] = (char)c;
        return 1;
    }
    for (size_t i = n - 1; i > 0; i--, c >>= 6)
        dst[i] = (char)(0x80 | (c & 0x3f));
    dst[0] = (char)((0xf00u >> n & 0xf0) | c);
    return n;
}

static uint32_t
json_hex4(const char *p)
{
    uint32_t c = 0;

    for (int i = 0; i < 4; i++)
        c = c << 4 | ((json_byte(p + i) & 0xf) + (p[i] > '9' ? 9 : 0));
    return c;
}

/* The character that the escape at p stands for, a pair of surrogates being one character; returns
 * what follows. The text has been checked. */
static const char *
json_unescape(const char *p, const char *end, uint32_t *code)
{
    const char *at = memchr(json_letter, p[1], JSON_LETTERS);
    uint32_t c, low = 0;

    if (p[1] != 'u') {
        *code = at != NULL ? json_byte(&json_control[at - json_letter]) : json_byte(p + 1);
        return p + 2;
    }
    c = json_hex4(p + 2);
    p += 6;
    *code = c;
    if (c < 0xd800 || c > 0xdfff)
        return p;
    if (c < 0xdc00 && end - p >= 6 && p[0] == '\\' && p[1] == 'u')
        low = json_hex4(p + 2);
    if (low < 0xdc00 || low > 0xdfff) {
        *code = 0xfffd;
        return p;
    }
    *code = 0x10000 + ((c & 0x3ff) << 10 | (low & 0x3ff));
    return p + 6;
}

/* --- the grammar ------------------------------------------------------------------------------ */

static const char *
json_fail(struct json_iter *it, const char *at, enum json_error error)
{
    it->p = at;
    it->close = 0;
    it->error = error;
    return NULL;
}

/* From a backslash: only whether the escape is one. */
static const char *
json_scan_escape(struct json_iter *it, const char *p)
{
    p++;
    if (p == it->end || memchr("\"\\/bfnrtu", *p, 9) == NULL)
        return json_fail(it, p, JSON_SYNTAX);
    if (*p++ != 'u')
        return p;
    for (const char *stop = p + 4; p < stop; p++) {
        if (p == it->end)
            return json_fail(it, p, JSON_SYNTAX);
        char letter = (char)(*p | 0x20);
        if (!json_is_digit(*p) && (letter < 'a' || letter > 'f'))
            return json_fail(it, p, JSON_SYNTAX);
    }
    return p;
}

/* From a byte that is not ASCII up to the next that is. */
static const char *
json_scan_high(struct json_iter *it, const char *p, struct json *v)
{
    do {
        uint32_t c;
        size_t n = json_utf8(p, it->end, &c);
        if (n == 0)
            return json_fail(it, p, JSON_UTF8);
        if (c < 0xa0 || c == 0x2028 || c == 0x2029)
            v->plain = false;
        p += n;
    } while (p < it->end && json_byte(p) >= 0x80);
    return p;
}

/* The rest of a string from the first byte on that is not plain ASCII, its end included. */
static const char *
json_scan_rest(struct json_iter *it, const char *p, struct json *v)
{
    for (;; p = json_span(it->start, p, it->end)) {
        if (p == it->end)
            return json_fail(it, p, JSON_SYNTAX);
        if (*p == '"')
            break;
        if (json_byte(p) >= 0x80) {
            p = json_scan_high(it, p, v);
        } else if (*p == '\\') {
            v->escaped = true;
            v->plain = false;
            p = json_scan_escape(it, p);
        } else if (*p == 0x7f) {
            v->plain = false;
            p++;
        } else {
            return json_fail(it, p, JSON_SYNTAX);
        }
        if (p == NULL)
            return NULL;
    }
    v->n = (uint32_t)(p - v->p);
    return p + 1;
}

/* From the byte after the opening quote. Inline as far as plain ASCII goes: names and most values
 * end there. */
static inline const char *
json_scan_string(struct json_iter *it, const char *p, struct json *v)
{
    const char *stop = json_span(it->start, p, it->end);

    *v = (struct json){p, (uint32_t)(stop - p), JSON_STRING, false, true};
    if (stop < it->end && *stop == '"')
        return stop + 1;
    return json_scan_rest(it, stop, v);
}

/* One or more digits. */
static const char *
json_scan_digits(struct json_iter *it, const char *p)
{
    const char *stop = json_digits(it->start, p, it->end);

    return stop > p ? stop : json_fail(it, p, JSON_SYNTAX);
}

static const char *
json_scan_number(struct json_iter *it, const char *p)
{
    if (*p == '-')
        p++;
    p = p < it->end && *p == '0' ? p + 1 : json_scan_digits(it, p);
    if (p != NULL && p < it->end && *p == '.')
        p = json_scan_digits(it, p + 1);
    if (p != NULL && p < it->end && (*p == 'e' || *p == 'E')) {
        p++;
        if (p < it->end && (*p == '+' || *p == '-'))
            p++;
        p = json_scan_digits(it, p);
    }
    return p;
}

static const char *
json_scan_word(struct json_iter *it, const char *p, const char *word)
{
    for (; *word != '\0'; p++, word++)
        if (p == it->end || *p != *word)
            return json_fail(it, p, JSON_SYNTAX);
    return p;
}

/* To the next member or element: its first byte, or the closing bracket when there is none. */
static inline const char *
json_scan_more(struct json_iter *it, const char *p, char close, bool first)
{
    p = json_space(p, it->end);
    if (p == it->end)
        return json_fail(it, p, JSON_SYNTAX);
    if (first || *p == close)
        return p;
    if (*p != ',')
        return json_fail(it, p, JSON_SYNTAX);
    p = json_space(p + 1, it->end);
    /* A bracket here means a comma too many; for the caller it would be the end. */
    if (p == it->end || *p == close)
        return json_fail(it, p, JSON_SYNTAX);
    return p;
}

/* From where a member's name must begin to where its value must. */
static inline const char *
json_scan_key(struct json_iter *it, const char *p, struct json *key)
{
    if (*p != '"')
        return json_fail(it, p, JSON_SYNTAX);
    p = json_scan_string(it, p + 1, key);
    if (p == NULL)
        return NULL;
    p = json_space(p, it->end);
    if (p == it->end || *p != ':')
        return json_fail(it, p, JSON_SYNTAX);
    return json_space(p + 1, it->end);
}

static inline const char *json_scan_value(struct json_iter *it, const char *p, struct json *v,
                                          int depth);

/* From the opening bracket of a value that stands inside `depth` others. */
static const char *
json_scan_nested(struct json_iter *it, const char *p, int depth)
{
    const char close = *p == '{' ? '}' : ']';
    struct json unused;

    if (depth >= JSON_MAX_DEPTH)
        return json_fail(it, p, JSON_DEPTH);
    p++;
    for (bool first = true;; first = false) {
        p = json_scan_more(it, p, close, first);
        if (p != NULL && *p == close)
            return p + 1;
        if (p != NULL && close == '}')
            p = json_scan_key(it, p, &unused);
        if (p != NULL)
            p = json_scan_value(it, p, &unused, depth + 1);
        if (p == NULL)
            return NULL;
    }
}

/* A value that is no string. */
static const char *
json_scan_other(struct json_iter *it, const char *p, struct json *v, int depth)
{
    const char *begin = p;

    switch (*p) {
    case '{':
        v->type = JSON_OBJECT;
        p = json_scan_nested(it, p, depth);
        break;
    case '[':
        v->type = JSON_ARRAY;
        p = json_scan_nested(it, p, depth);
        break;
    case 't':
        v->type = JSON_TRUE;
        p = json_scan_word(it, p, "true");
        break;
    case 'f':
        v->type = JSON_FALSE;
        p = json_scan_word(it, p, "false");
        break;
    case 'n':
        v->type = JSON_NULL;
        p = json_scan_word(it, p, "null");
        break;
    default: /* a number, or nothing at all: its first byte will tell */
        v->type = JSON_NUMBER;
        p = json_scan_number(it, p);
    }
    if (p == NULL)
        return NULL;
    v->p = begin;
    v->n = (uint32_t)(p - begin);
    v->escaped = v->plain = false;
    return p;
}

/* From where a value must begin, inside `depth` brackets. */
static inline const char *
json_scan_value(struct json_iter *it, const char *p, struct json *v, int depth)
{
    if (p == it->end)
        return json_fail(it, p, JSON_SYNTAX);
    return *p == '"' ? json_scan_string(it, p + 1, v) : json_scan_other(it, p, v, depth);
}

/* --- reading ---------------------------------------------------------------------------------- */

int
json_open(struct json_iter *it, const char *text, size_t n)
{
    if (n == 0)
        text = ""; /* NULL may come with it */
    /* A length that struct json cannot hold counts as a text cut short at its first byte. */
    if (n >= UINT32_MAX)
        n = 0;
    *it = (struct json_iter){.start = text, .end = text + n, .first = true, .whole = true};
    it->p = json_space(text, it->end);
    if (it->p == it->end || (*it->p != '{' && *it->p != '[')) {
        json_fail(it, it->p, JSON_SYNTAX);
        return -1;
    }
    it->close = *it->p++ == '{' ? '}' : ']';
    return 0;
}

void
json_enter(struct json_iter *it, const struct json *v)
{
    *it = (struct json_iter){.start = v->p, .p = v->p, .end = v->p, .first = true};
    if (v->type != JSON_OBJECT && v->type != JSON_ARRAY)
        return; /* the caller's mistake: nothing to see */
    it->p = v->p + 1;
    it->end = v->p + v->n;
    it->close = v->type == JSON_OBJECT ? '}' : ']';
}

/* What follows the last bracket: for a whole document, nothing. */
static int
json_end(struct json_iter *it, const char *p)
{
    it->close = 0;
    it->p = p;
    if (!it->whole)
        return 0;
    it->p = json_space(p, it->end);
    if (it->p == it->end)
        return 0;
    json_fail(it, it->p, JSON_SYNTAX);
    return -1;
}

int
json_next(struct json_iter *it, struct json *key, struct json *val)
{
    const char close = (char)it->close;
    struct json unused;
    const char *p;

    if (key == NULL)
        key = &unused;
    *key = *val = (struct json){0};
    if (close == 0)
        return it->error == JSON_OK ? 0 : -1;
    p = json_scan_more(it, it->p, close, it->first);
    if (p != NULL && *p == close)
        return json_end(it, p + 1);
    if (p != NULL && close == '}')
        p = json_scan_key(it, p, key);
    if (p != NULL)
        p = json_scan_value(it, p, val, 1);
    if (p == NULL) {
        *key = *val = (struct json){0};
        return -1;
    }
    it->p = p;
    it->first = false;
    return 1;
}

size_t
json_error_at(const struct json_iter *it)
{
    return (size_t)(it->p - it->start);
}

size_t
json_text(const struct json *v, char *dst)
{
    const char *p = v->p, *end;
    size_t n = 0;

    if (v->n == 0)
        return 0; /* p may be NULL */
    end = p + v->n;
    while (v->escaped && p < end) {
        const char *stop = memchr(p, '\\', (size_t)(end - p));
        if (stop == NULL)
            break;
        memcpy(dst + n, p, (size_t)(stop - p));
        n += (size_t)(stop - p);
        uint32_t c;
        p = json_unescape(stop, end, &c);
        n += json_utf8_put(dst + n, c);
    }
    memcpy(dst + n, p, (size_t)(end - p));
    return n + (size_t)(end - p);
}

/* A decimal exponent, cut at a number of digits that no text of 4 GiB has. NULL: not one. */
static const char *
json_exponent(const char *p, const char *end, int64_t *exponent)
{
    bool negative = p < end && *p == '-';
    int64_t e = 0;

    if (p < end && (*p == '-' || *p == '+'))
        p++;
    if (p == end || !json_is_digit(*p))
        return NULL;
    for (; p < end && json_is_digit(*p); p++)
        if (e < (int64_t)1 << 40)
            e = e * 10 + (*p - '0');
    *exponent = negative ? -e : e;
    return p;
}

/* The first `count` digits of the mantissa that ends at `end`, as if zeros followed it for ever;
 * commas and the point are no digits. 1, or -1 when it is too large. */
static int
json_whole(const char *p, const char *end, int64_t count, bool negative, int64_t *out)
{
    const uint64_t limit = (uint64_t)INT64_MAX + negative;
    uint64_t value = 0;

    for (; count > 0; count--) {
        while (p < end && !json_is_digit(*p))
            p++;
        if (p == end && value == 0)
            break; /* 0e999999999 */
        uint64_t digit = p < end ? (uint64_t)(*p++ - '0') : 0;
        if (value > (limit - digit) / 10)
            return -1;
        value = value * 10 + digit;
    }
    if (negative && value > 0)
        *out = -(int64_t)(value - 1) - 1; /* the lowest has no positive counterpart */
    else
        *out = (int64_t)value;
    return 1;
}

/* Nearly every number there is: nothing but digits, too few to be out of range. */
static inline bool
json_short(const char *p, const char *end, bool negative, int64_t *out)
{
    int64_t value = 0, last;

    if (p == end || end - p > 16)
        return false;
    if (end - p > 8) { /* two eights that overlap */
        if (!json_eight(p, (int)(end - p - 8), &value) || !json_eight(end - 8, 8, &last))
            return false;
        value = value * 100000000 + last;
        p = end;
    }
    for (; p < end; p++) {
        if (!json_is_digit(*p))
            return false;
        value = value * 10 + (*p - '0');
    }
    *out = negative ? -value : value;
    return true;
}

/* Digits, commas between them, perhaps a fraction and an exponent, and nothing else. */
static int
json_decimal(const char *p, const char *end, int64_t *out)
{
    const bool negative = p < end && *p == '-';
    const char *digits = p + negative, *stop;
    int64_t count = 0, exponent = 0;

    if (json_short(digits, end, negative, out))
        return 1;
    for (p = digits;; p++) {
        stop = json_digits(digits, p, end);
        if (stop == p)
            return -1;
        count += stop - p;
        p = stop;
        if (p == end || *p != ',')
            break;
    }
    if (p < end && *p == '.') {
        stop = json_digits(digits, p + 1, end);
        if (stop == p + 1)
            return -1;
        p = stop;
    }
    stop = p;
    if (p < end && (*p == 'e' || *p == 'E'))
        p = json_exponent(p + 1, end, &exponent);
    if (p != end)
        return -1;
    return json_whole(digits, stop, count + exponent, negative, out);
}

/* An integer that is not written as one. */
static JSON_ASIDE int
json_int_odd(const struct json *v, int64_t *out)
{
    char text[256]; /* the longest integer with commas, all written as \uXXXX, takes 156 */
    const char *p = v->p;
    size_t n = v->n;

    switch (v->type) {
    case JSON_NONE:
    case JSON_NULL:
        return 0;
    case JSON_FALSE:
    case JSON_TRUE:
        *out = v->type == JSON_TRUE;
        return 1;
    case JSON_NUMBER:
        return json_decimal(p, p + n, out);
    case JSON_STRING:
        break;
    default:
        return -1;
    }
    if (v->escaped) {
        if (n > sizeof text)
            return -1;
        n = json_text(v, text);
        p = text;
    }
    if (n == 0 || (n == 4 && memcmp(p, "null", 4) == 0))
        return 0;
    return json_decimal(p, p + n, out);
}

int
json_int_any(const struct json *v, int64_t *out)
{
    if (v->type == JSON_NUMBER && v->n == 2 && *v->p != '-') { /* a command, mostly */
        *out = (v->p[0] - '0') * 10 + (v->p[1] - '0');
        return 1;
    }
    if (v->type == JSON_NUMBER && json_short(v->p, v->p + v->n, false, out))
        return 1;
    return json_int_odd(v, out);
}

/* --- writing ---------------------------------------------------------------------------------- */

#ifdef JSON_BUF_OWN
void
json_buf_reserve(struct json_buf *b, size_t n)
{
    size_t cap = b->cap > SIZE_MAX / 2 ? SIZE_MAX : b->cap * 2;
    char *p;

    if (b->cap - b->len >= n)
        return;
    if (n > SIZE_MAX - b->len)
        abort();
    if (cap < b->len + n)
        cap = b->len + n;
    if (cap < 64)
        cap = 64;
    p = realloc(b->p, cap);
    if (p == NULL)
        abort();
    b->p = p;
    b->cap = cap;
}
#endif

/* Where the next n bytes go, which the caller counts in b->len itself. */
static inline char *
json_room(JSON_BUF *b, size_t n)
{
    if (b->cap - b->len < n)
        JSON_RESERVE(b, n);
    return b->p + b->len;
}

void
json_put_raw(JSON_BUF *b, const char *p, size_t n)
{
    if (n == 0)
        return; /* p may be NULL */
    memcpy(json_room(b, n), p, n);
    b->len += n;
}

void
json_put_comma(JSON_BUF *b)
{
    /* A string ends with a quote: a bracket as last byte can only be one that has just opened. */
    if (b->len > 0 && b->p[b->len - 1] != '{' && b->p[b->len - 1] != '[')
        json_put_raw(b, ",", 1);
}

void
json_put_key(JSON_BUF *b, const char *name)
{
    size_t n = strlen(name);
    char *to;

    json_put_comma(b);
    to = json_room(b, n + 3);
    to[0] = '"';
    memcpy(to + 1, name, n);
    memcpy(to + 1 + n, "\":", 2);
    b->len += n + 3;
}

static void
json_put_escape(JSON_BUF *b, uint32_t c)
{
    static const char hex[] = "0123456789ABCDEF";
    const char *at = c < 0x20 ? memchr(json_control, (int)c, JSON_LETTERS) : NULL;
    char *to = json_room(b, 6);

    to[0] = '\\';
    if (c == '"' || c == '\\' || at != NULL) {
        to[1] = at != NULL ? json_letter[at - json_control] : (char)c;
        b->len += 2;
        return;
    }
    to[1] = 'u';
    for (int i = 5; i > 1; i--, c >>= 4)
        to[i] = hex[c & 0xf];
    b->len += 6;
}

/* Bytes of the character at p and its code if it must be escaped, else 0; p is where json_span()
 * has stopped. */
static size_t
json_special(const char *p, const char *end, uint32_t *code)
{
    *code = json_byte(p);
    if (*code < 0x80)
        return 1;
    if (*code == 0xc2 && end - p >= 2 && json_byte(p + 1) < 0xa0) {
        *code = json_byte(p + 1);
        return 2;
    }
    if (*code == 0xe2 && end - p >= 3 && json_byte(p + 1) == 0x80 && (p[2] & 0xfe) == 0xa8) {
        *code = 0x2028 | (json_byte(p + 2) & 1);
        return 3;
    }
    return 0;
}

/* The inside of a string. */
static void
json_put_inside(JSON_BUF *b, const char *p, const char *end)
{
    const char *start = p, *run = p;

    for (p = json_span(start, p, end); p < end; p = json_span(start, p, end)) {
        uint32_t c;
        size_t n = json_special(p, end, &c);
        if (n == 0) {
            /* Only the lead bytes 0xc2 and 0xe2 begin what may have to be escaped. */
            for (p++; p < end && (c = json_byte(p)) >= 0x80 && c != 0xc2 && c != 0xe2;)
                p++;
            continue;
        }
        json_put_raw(b, run, (size_t)(p - run));
        json_put_escape(b, c);
        p += n;
        run = p;
    }
    json_put_raw(b, run, (size_t)(end - run));
}

void
json_put_string(JSON_BUF *b, const char *p, size_t n)
{
    json_room(b, n + 2); /* one growth for the usual case */
    json_put_raw(b, "\"", 1);
    if (n > 0)
        json_put_inside(b, p, p + n);
    json_put_raw(b, "\"", 1);
}

bool
json_is_plain(const char *p, size_t n)
{
    const char *start = p, *end = p + n;

    for (p = json_span(start, p, end); p < end; p = json_span(start, p, end)) {
        uint32_t c;
        if (json_special(p, end, &c) != 0)
            return false;
        p++;
    }
    return true;
}

char *
json_int_long(char *to, int64_t v)
{
    static const char pairs[] =
        "00010203040506070809101112131415161718192021222324252627282930313233343536373839"
        "40414243444546474849505152535455565758596061626364656667686970717273747576777879"
        "8081828384858687888990919293949596979899";
    uint64_t value = v < 0 ? 0 - (uint64_t)v : (uint64_t)v, more = 10;
    size_t n = 1;

    if (v < 0)
        *to++ = '-';
    for (; n < 19 && value >= more; more *= 10)
        n++;
    char *p = to + n;
    for (; value >= 10; value /= 100) /* a division for two digits */
        memcpy(p -= 2, pairs + 2 * (value % 100), 2);
    if (p > to)
        to[0] = (char)('0' + value);
    return to + n;
}

void
json_put_int(JSON_BUF *b, int64_t v)
{
    char *to = json_room(b, JSON_INT_ROOM);

    b->len += (size_t)(json_int_at(to, v) - to);
}

/* A string that holds escapes: decoded and encoded again, a run at a time. */
static void
json_put_again(JSON_BUF *b, const struct json *v)
{
    const char *p = v->p, *end = p + v->n, *stop;

    json_put_raw(b, "\"", 1);
    while ((stop = memchr(p, '\\', (size_t)(end - p))) != NULL) {
        char utf8[4];
        uint32_t c;
        json_put_inside(b, p, stop);
        p = json_unescape(stop, end, &c);
        size_t n = json_utf8_put(utf8, c);
        json_put_inside(b, utf8, utf8 + n);
    }
    json_put_inside(b, p, end);
    json_put_raw(b, "\"", 1);
}

/* A value without members. */
static void
json_put_scalar(JSON_BUF *b, const struct json *v)
{
    if (v->type != JSON_STRING) {
        json_put_raw(b, v->p, v->n);
    } else if (v->plain) {
        char *to = json_room(b, (size_t)v->n + 2);
        to[0] = '"';
        memcpy(to + 1, v->p, v->n);
        to[v->n + 1] = '"';
        b->len += (size_t)v->n + 2;
    } else if (v->escaped) {
        json_put_again(b, v);
    } else {
        json_put_string(b, v->p, v->n);
    }
}

/*
 * From the first byte of a value, in one pass: json_next() would read each value again at every
 * depth. The grammar has been checked before; NULL only ends the walk over a value that has not
 * been.
 */
static const char *
json_copy(JSON_BUF *b, struct json_iter *it, const char *p, int depth)
{
    struct json v = {0};
    bool first = true;

    if (p == it->end || (*p != '{' && *p != '[') || depth >= JSON_MAX_DEPTH) {
        p = json_scan_value(it, p, &v, depth);
        if (p != NULL)
            json_put_scalar(b, &v);
        return p;
    }
    const char close = *p == '{' ? '}' : ']';
    json_put_raw(b, p++, 1);
    while (p != NULL && (p = json_scan_more(it, p, close, first)) != NULL && *p != close) {
        first = false;
        if (close == '}' && (p = json_scan_key(it, p, &v)) == NULL)
            break;
        if (close == '}' && p < it->end && *p == 'n') {
            p = json_scan_word(it, p, "null");
            continue;
        }
        json_put_comma(b);
        if (close == '}') {
            json_put_scalar(b, &v);
            json_put_raw(b, ":", 1);
        }
        p = json_copy(b, it, p, depth + 1);
    }
    json_put_raw(b, &close, 1);
    return p != NULL ? p + 1 : NULL;
}

void
json_put_value(JSON_BUF *b, const struct json *v)
{
    struct json_iter it;

    if (v->type == JSON_NONE) {
        json_put_raw(b, "null", 4); /* what is not there must not make the text invalid */
    } else if (v->type == JSON_OBJECT || v->type == JSON_ARRAY) {
        json_enter(&it, v);
        json_copy(b, &it, v->p, 0);
    } else {
        json_put_scalar(b, v);
    }
}

#endif /* JSON_IMPLEMENTATION */
