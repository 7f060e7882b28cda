/* SPDX-License-Identifier: MIT */
/*
 * test.h - what a test sees. A test is a function defined with TEST(name) in any test_*.c; make
 * finds it by that line. Each runs in a process of its own, in an empty directory of its own, with
 * a time limit, and fails by a false CHECK, a signal, a non-zero exit or running too long.
 */
#ifndef TEST_H
#define TEST_H

#ifndef JIM_INTERNAL
#define JIM_INTERNAL
#endif
#include "../jim.h"
#include "draw.h"

#include <stdlib.h>
#include <string.h>

#define TEST(name) void test_##name(void); void test_##name(void)

/* Report and end the test unless the condition holds. */
#define CHECK(cond) ((cond) ? (void)0 : test_fail(__FILE__, __LINE__, "%s", #cond))
#define CHECK_INT(got, want) test_int(__FILE__, __LINE__, #got, (long long)(got), (long long)(want))
/* Compare n bytes or a struct str with a C string. */
#define CHECK_BYTES(p, n, want) test_bytes(__FILE__, __LINE__, #p, (p), (n), (want), strlen(want))
#define CHECK_STR(s, want) CHECK_BYTES((s).p, (s).n, (want))

void test_fail(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4), noreturn));
void test_int(const char *file, int line, const char *what, long long got, long long want);
void test_bytes(const char *file, int line, const char *what, const void *got, size_t n,
                const void *want, size_t want_n);

/* A number for the summary's notes ("note: 214 codec vectors"). */
void test_note(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* n bytes that end at an unreadable page, so that reading past them crashes; lives until the test
 * ends. */
char *test_edge(const void *p, size_t n);
struct buf read_whole(const char *path); /* all of a file, and a NUL behind it; buf_free() it */
void write_whole(const char *path, const void *p, size_t n); /* a file with nothing else in it */

/* Directory of the source tree, absolute: for golden files and corpora. */
const char *test_source(void);

#endif /* TEST_H */
