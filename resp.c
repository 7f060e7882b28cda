/* SPDX-License-Identifier: MIT */
/*
 * resp.c - Redis's protocol, RESP2 and RESP3
 * (https://redis.io/docs/latest/develop/reference/protocol-spec/). As pure as codec.c: bytes in,
 * views out.
 *
 * A reply is a tree, but it is decoded element by element: an array gives its head, and what
 * follows is its elements. So a reply of any size is read in the room of its largest value, and
 * nothing is allocated because a peer has announced it. What an element looks like stands in one
 * table, by its first byte. Of RESP3 the strings and aggregates without a length in front (`$?`,
 * `*?`) are missing: no Redis sends them.
 */
#include "jim.h"

#include <string.h>

#define MAX_DIGITS 20      /* bytes of a number with its sign: 64 bits */
#define MAX_ELEMENTS 1048576 /* of one array: what Redis itself takes at most */
#define MAX_BULK (INT64_C(1) << 29) /* bytes of one string: what Redis itself takes at most */

enum form { /* what stands between the first byte and CR LF */
    FORM_NONE,
    FORM_TEXT,  /* the value */
    FORM_INT,   /* the value */
    FORM_NUMBER, /* the value, kept as a text: a double, or an integer of any size */
    FORM_BOOL,  /* t or f */
    FORM_NULL,  /* nothing */
    FORM_BYTES, /* how many bytes follow, behind which CR LF stands again */
    FORM_COUNT, /* how many elements follow */
    FORM_PAIRS  /* how many pairs of them */
};

static const struct {
    uint8_t form;
    uint8_t type;
} rows[128] = {
    ['+'] = {FORM_TEXT, RESP_STATUS}, ['-'] = {FORM_TEXT, RESP_ERROR}, [':'] = {FORM_INT, RESP_INT},
    ['$'] = {FORM_BYTES, RESP_BULK},  ['*'] = {FORM_COUNT, RESP_ARRAY},
    /* RESP3 */
    ['_'] = {FORM_NULL, RESP_NIL},    ['#'] = {FORM_BOOL, RESP_BOOL},
    [','] = {FORM_NUMBER, RESP_DOUBLE}, ['('] = {FORM_NUMBER, RESP_BIG},
    ['!'] = {FORM_BYTES, RESP_ERROR}, ['='] = {FORM_BYTES, RESP_VERBATIM},
    ['%'] = {FORM_PAIRS, RESP_MAP},   ['|'] = {FORM_PAIRS, RESP_ATTRIBUTE},
    ['~'] = {FORM_COUNT, RESP_SET},   ['>'] = {FORM_COUNT, RESP_PUSH},
};

/* Where the CR stands that ends the first line; 0: not there yet. */
static ptrdiff_t
line_end(const char *p, size_t n, size_t *scan, size_t most)
{
    size_t at = *scan > 0 ? *scan : 1;

    while (at < n && at <= most && p[at] != '\r' && p[at] != '\n')
        at++;
    *scan = at;
    if (at > most || (at < n && p[at] == '\n'))
        return RESP_BAD_LINE;
    if (at + 1 >= n)
        return 0;
    return p[at + 1] == '\n' ? (ptrdiff_t)at : RESP_BAD_LINE;
}

/* A whole decimal number; false when it is none or does not fit. */
static bool
take_int(const char *p, size_t n, int64_t *out)
{
    bool negative = n > 0 && p[0] == '-';
    size_t i = n > 0 && (p[0] == '-' || p[0] == '+');
    uint64_t v = 0, most = (uint64_t)INT64_MAX + negative;

    if (i == n)
        return false;
    for (; i < n; i++) {
        uint64_t digit = (uint64_t)(unsigned char)p[i] - '0';
        if (digit > 9 || v > (most - digit) / 10)
            return false;
        v = v * 10 + digit;
    }
    *out = negative ? (int64_t)(0 - v) : (int64_t)v;
    return true;
}

/* What a double or a big number may look like: [+-]digits, with a fraction and an exponent, or inf
 * or nan, if it is a double. */
static bool
is_number(struct str s, bool real)
{
    size_t i = s.n > 0 && (s.p[0] == '-' || s.p[0] == '+'), digits = 0;
    struct str rest = {s.p + i, s.n - i};

    if (real && (str_eq(rest, STR("inf")) || str_eq(rest, STR("nan"))))
        return true;
    for (; i < s.n; i++) {
        bool digit = s.p[i] >= '0' && s.p[i] <= '9';
        if (!digit && (!real || memchr(".eE+-", s.p[i], 5) == NULL))
            return false;
        digits += digit;
    }
    return digits > 0;
}

/* The value that stands on the first line itself. */
static bool
take_line(enum form form, struct str line, struct resp *out)
{
    out->text = line;
    switch (form) {
    case FORM_NULL:
        return line.n == 0;
    case FORM_BOOL:
        out->n = line.n == 1 && line.p[0] == 't';
        out->text = (struct str){NULL, 0};
        return line.n == 1 && (line.p[0] == 't' || line.p[0] == 'f');
    case FORM_NUMBER:
        return is_number(line, out->type == RESP_DOUBLE);
    case FORM_INT:
        out->text = (struct str){NULL, 0};
        return take_int(line.p, line.n, &out->n);
    default:
        return true;
    }
}

/* The string behind its length; `head` bytes have been looked at. */
static ptrdiff_t
bulk(const char *p, size_t n, size_t head, size_t max, struct resp *out)
{
    if (out->n > MAX_BULK)
        return RESP_BAD_LENGTH;
    if ((uint64_t)out->n > max) {
        out->type = RESP_LARGE;
        return (ptrdiff_t)head;
    }
    size_t length = (size_t)out->n;
    if (n - head < length + 2)
        return 0;
    if (memcmp(p + head + length, "\r\n", 2) != 0)
        return RESP_BAD_LINE;
    out->n = 0;
    out->text = (struct str){p + head, length};
    if (out->type == RESP_VERBATIM) { /* "txt:" or "mkd:" in front */
        if (length < 4 || out->text.p[3] != ':')
            return RESP_BAD_LINE;
        out->text = (struct str){p + head + 4, length - 4};
    }
    return (ptrdiff_t)(head + length + 2);
}

ptrdiff_t
resp_decode(const char *p, size_t n, size_t *scan, size_t max, struct resp *out)
{
    unsigned char first = n > 0 ? (unsigned char)p[0] : '+';

    if (first >= sizeof rows / sizeof rows[0] || rows[first].form == FORM_NONE)
        return RESP_BAD_TYPE;
    enum form form = rows[first].form;
    bool word = form == FORM_TEXT || form == FORM_NUMBER;
    ptrdiff_t end = line_end(p, n, scan, word ? MAX_LINE : 1 + MAX_DIGITS);
    if (end <= 0)
        return end;
    size_t head = (size_t)end + 2;
    ptrdiff_t used = (ptrdiff_t)head;
    struct str line = {p + 1, (size_t)end - 1};
    *out = (struct resp){.type = rows[first].type};
    if (form < FORM_BYTES) {
        if (!take_line(form, line, out))
            return RESP_BAD_LINE;
    } else if (!take_int(line.p, line.n, &out->n)) {
        return RESP_BAD_LINE;
    } else if (out->n < 0) {
        if (out->n != -1 || (first != '$' && first != '*')) /* RESP2's way to say nil */
            return RESP_BAD_LENGTH;
        *out = (struct resp){.type = RESP_NIL};
    } else if (form == FORM_BYTES) {
        used = bulk(p, n, head, max, out);
    } else {
        if (out->n > MAX_ELEMENTS)
            return RESP_BAD_LENGTH;
        out->n *= form == FORM_PAIRS ? 2 : 1;
    }
    if (used > 0)
        *scan = 0;
    return used;
}

void
resp_command(struct buf *b, const struct str *arg, size_t n)
{
    buf_printf(b, "*%zu\r\n", n);
    for (size_t i = 0; i < n; i++) {
        buf_printf(b, "$%zu\r\n", arg[i].n);
        buf_str(b, arg[i]);
        buf_add(b, "\r\n", 2);
    }
}
