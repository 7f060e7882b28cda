/* SPDX-License-Identifier: MIT */
/*
 * simdisk.h - a disk and a clock in memory for the store, both ruled by one seed.
 *
 * The disk keeps apart what has been written and what is safe. A write or a cut is safe when its
 * file was synced after it, a name when its directory was. At a power cut each 512-byte sector that
 * is not safe shows, independently of its neighbours, any state it has had since the last sync; or
 * its unsafe bytes are garbage: zeros, noise, or what stood at that place of another file. Sizes
 * and names are kept or lost one by one. Two things are taken for granted, as by anybody who
 * appends to files: a sector is written as a whole, and bytes that were not written anew stay as
 * they are.
 *
 * The store's helper thread runs in turns with its master: sim_run() lets it make so many calls to
 * the disk, and nothing else lets it run. So a seed decides everything, and can be replayed.
 */
#ifndef SIMDISK_H
#define SIMDISK_H

#ifndef JIM_INTERNAL
#define JIM_INTERNAL
#endif
#include "../jim.h"

struct rng {
    uint64_t s;
};
uint64_t rng_next(struct rng *r);
uint32_t rng_below(struct rng *r, uint32_t n); /* 0 to n - 1 */
bool rng_one_in(struct rng *r, uint32_t n);

enum death {
    DEATH_NONE,
    DEATH_POWER, /* what is not safe is in doubt */
    DEATH_KILL   /* of the process: what was written is there, though not safe yet */
};

/* What will go wrong. Calls are counted from sim_plan() on; 0: never. */
struct plan {
    int die_at;
    enum death die_how;
    int fail_at; /* that call fails with EIO; when it is a sync, pages may be lost for good */
    int full_at, full_for; /* no space between these calls */
    uint32_t nuisance; /* one call in so many is interrupted or does only a part */
    /* Lies, to see whether the tests notice: calls that say they have done it. */
    bool lie_sync, lie_sync_dir;
};

struct sim_count { /* over all seeds */
    unsigned long long calls, power_cuts, kills, failures, full, nuisances;
};

void sim_start(uint64_t seed, bool trace); /* an empty disk */
void sim_plan(struct plan plan);
void sim_end(void); /* free it */
const struct store_io *sim_io(void);
bool sim_dead(void);          /* the planned death has come: every call fails since then */
enum death sim_died_of(void);
bool sim_faulty(void);        /* has any call failed since sim_plan()? */
bool sim_lost_pages(void);    /* has a sync? */
int sim_open_files(void);
void sim_power_cut(void);     /* make a disk again of what survives */
void sim_wipe(void);          /* all names go; the blocks keep what they hold, as garbage */
void sim_revive(void);        /* calls work again, on the disk as it is */
/* Flip a bit of a file chosen by `at`; its name, or NULL when there is nothing to flip. Twice the
 * same is nothing. */
const char *sim_flip(uint64_t at);
struct sim_count *sim_count(void);

void sim_run(int calls); /* let the helper run until it waits or has made so many calls */
#define UNTIL_IDLE (-1)
void sim_sleep(int64_t ms); /* move the clock */
void sim_say(const char *format, ...) __attribute__((format(printf, 1, 2))); /* into the trace */

#endif /* SIMDISK_H */
