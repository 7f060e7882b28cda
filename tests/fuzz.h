/* SPDX-License-Identifier: MIT */
/*
 * fuzz.h - what is fuzzed. A target is a function that takes any bytes and ends the process when
 * something that must hold does not. To add one: a function in fuzz.c, its row in fuzz_targets[],
 * a TEST in test_fuzz.c, and a few inputs in corpus/NAME/.
 *
 * The same targets run three ways: `make fuzz` under libFuzzer with the sanitizers, `make test`
 * over the corpus and some mutations of it, and `build/fuzz-replay NAME FILE...` by hand.
 */
#ifndef FUZZ_H
#define FUZZ_H

#ifndef JIM_INTERNAL
#define JIM_INTERNAL
#endif
#include "../jim.h"

#include <stdlib.h>
#include <string.h>

#define MUST(cond) ((cond) ? (void)0 : fuzz_fail(__FILE__, __LINE__, #cond))

void fuzz_fail(const char *file, int line, const char *what) __attribute__((noreturn));

struct fuzz_target {
    const char *name; /* also of its directory in corpus/ */
    void (*fn)(const uint8_t *p, size_t n);
    size_t max;       /* longest input that makes sense */
};
extern const struct fuzz_target fuzz_targets[]; /* the last has no name */
const struct fuzz_target *fuzz_find(const char *name); /* NULL: there is none */

/* Feed a target one input in memory of just its size, so that a sanitizer sees a read behind it. */
void fuzz_run(const struct fuzz_target *t, const void *p, size_t n);
/* Change n bytes at p, which has room for t->max, a little; returns the new length. */
size_t fuzz_mutate(uint64_t *seed, uint8_t *p, size_t n, size_t max);
/* Every file of corpus/NAME/ below `dir`, and `mutations` changes of each. Returns inputs run. */
unsigned long fuzz_replay(const struct fuzz_target *t, const char *dir, unsigned mutations);

/* fuzz_server.c */
void fuzz_server(const uint8_t *p, size_t n);
void fuzz_stream(const uint8_t *p, size_t n);
void fuzz_cluster(const uint8_t *p, size_t n); /* fuzz_cluster.c */

/* fuzz_disk.c: a disk in memory, for the store. One at a time; forgotten by disk_reset(). */
extern const struct store_io fuzz_disk;
void disk_reset(void);
/* The n-th write from now on and all later ones fail; 0: none does. */
void disk_fail(unsigned n);
/* At most so many bytes a read; 0: as many as asked for. */
void disk_short_reads(size_t n);
void disk_put(const char *path, const void *p, size_t n);

#endif /* FUZZ_H */
