/* SPDX-License-Identifier: MIT */
/*
 * resp.c - Redis's protocol, RESP2 (https://redis.io/docs/latest/develop/reference/protocol-spec/).
 * As pure as codec.c: bytes in, views out.
 *
 * A reply is a tree, but it is decoded element by element: an array gives its head, and what
 * follows is its elements. So a reply of any size is read in the room of its largest value, and
 * nothing is allocated because a peer has announced it. What an element looks like stands in one
 * table, by its first byte: the further types of RESP3 are further rows.
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
    FORM_BYTES, /* how many bytes follow, behind which CR LF stands again */
    FORM_COUNT  /* how many elements follow */
};

static const struct {
    uint8_t form;
    uint8_t type;
} rows[128] = {
    ['+'] = {FORM_TEXT, RESP_STATUS}, ['-'] = {FORM_TEXT, RESP_ERROR}, [':'] = {FORM_INT, RESP_INT},
    ['$'] = {FORM_BYTES, RESP_BULK},  ['*'] = {FORM_COUNT, RESP_ARRAY},
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
    out->text = (struct str){p + head, length};
    return (ptrdiff_t)(head + length + 2);
}

ptrdiff_t
resp_decode(const char *p, size_t n, size_t *scan, size_t max, struct resp *out)
{
    unsigned char first = n > 0 ? (unsigned char)p[0] : '+';

    if (first >= sizeof rows / sizeof rows[0] || rows[first].form == FORM_NONE)
        return RESP_BAD_TYPE;
    enum form form = rows[first].form;
    ptrdiff_t end = line_end(p, n, scan, form == FORM_TEXT ? MAX_LINE : 1 + MAX_DIGITS);
    if (end <= 0)
        return end;
    size_t head = (size_t)end + 2;
    ptrdiff_t used = (ptrdiff_t)head;
    *out = (struct resp){.type = rows[first].type};
    if (form == FORM_TEXT) {
        out->text = (struct str){p + 1, (size_t)end - 1};
    } else if (!take_int(p + 1, (size_t)end - 1, &out->n)) {
        return RESP_BAD_LINE;
    } else if (form != FORM_INT && out->n < 0) {
        if (out->n != -1)
            return RESP_BAD_LENGTH;
        *out = (struct resp){.type = RESP_NIL};
    } else if (form == FORM_COUNT && out->n > MAX_ELEMENTS) {
        return RESP_BAD_LENGTH;
    } else if (form == FORM_BYTES) {
        used = bulk(p, n, head, max, out);
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
