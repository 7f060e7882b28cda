/* SPDX-License-Identifier: MIT */
/*
 * json.h - a JSON reader and writer in one header.
 *
 * Reading allocates nothing: values are views into the caller's text. It is a pull parser: open a
 * text, ask for member after member, and the grammar (RFC 8259) is checked on the way, nested values
 * included, so one pass over the text both validates it and finds what the caller wants. A result is
 * valid only once json_next() has returned 0 for the whole document: a fault may come late.
 *
 * Writing appends to a growable buffer. The escapes are those J-IM's clients are used to: \" \\ \n \r
 * \t \b \f, other controls, U+007F-U+009F, U+2028 and U+2029 as \uXXXX with upper-case hex, and
 * everything else as raw UTF-8.
 *
 * Use: #include "json.h" for the declarations; in exactly one file, #define JSON_IMPLEMENTATION first.
 * To write into your own buffer type, define JSON_BUF to a struct that has the members
 * `char *p; size_t len, cap;`, and JSON_RESERVE(b, n) to an expression that makes room for n more
 * bytes or does not return. The default reallocates and calls abort() when out of memory.
 */
#ifndef JSON_H
#define JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define JSON_MAX_DEPTH 32 /* nesting beyond this is refused: bounds the stack and hostile input */
#define JSON_NAME_MAX 24  /* longest folded member name json_fold() can tell apart, NUL included */

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
    JSON_UTF8    /* a string holds bytes that are not UTF-8 (RFC 3629) */
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
    uint8_t close;     /* '}' or ']' */
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
 * The next member: 1 and *key (objects; else JSON_NONE) and *val, 0 at the end, -1 at a fault. `key`
 * may be NULL. A nested value is checked as a whole before it is returned.
 */
int json_next(struct json_iter *it, struct json *key, struct json *val);

/* Offset in bytes from the start of the opened text to where the last fault was seen. */
size_t json_error_at(const struct json_iter *it);

/*
 * The text of a string value (escapes decoded; a lone surrogate becomes U+FFFD) copied to dst, which
 * must hold v->n bytes. Returns its length, at most v->n. A value of any other type is copied as it
 * stands in the text: numbers and booleans become their text, objects and arrays their JSON.
 */
size_t json_text(const struct json *v, char *dst);

/*
 * An integer as fastjson's clients mean it: a number (fraction cut off), a string that holds a number
 * (commas between digits ignored), true = 1, false = 0. Returns 1 and *out; 0 when there is none
 * (JSON_NONE, null, "" and "null"); -1 when it is something else or does not fit.
 */
int json_int(const struct json *v, int64_t *out);

/*
 * A member name folded for tolerant comparison: ASCII lower case, without '_' and '-'. Writes at most
 * JSON_NAME_MAX bytes with the NUL; returns the length, or 0 for a name that is too long (none of the
 * names one looks for is) or empty.
 */
size_t json_fold(const struct json *key, char dst[JSON_NAME_MAX]);

/* --- writing ---------------------------------------------------------------------------------- */

#ifndef JSON_BUF
struct json_buf {
    char *p;         /* owned by the caller: free(b.p) */
    size_t len, cap; /* bytes */
};
void json_buf_reserve(struct json_buf *b, size_t n);
#define JSON_BUF struct json_buf
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
/* Append a decimal integer. */
void json_put_int(JSON_BUF *b, int64_t v);
/* Append a value that was read: compact, escapes as above, null members of objects left out, numbers
 * as they were written, duplicate members as they were. The value must have been checked. */
void json_put_value(JSON_BUF *b, const struct json *v);

#endif /* JSON_H */
