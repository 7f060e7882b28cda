/* SPDX-License-Identifier: MIT */
/*
 * simdisk.c - the simulated disk and clock of the crash simulator: see simdisk.h. The store is
 * built with its calls to threads, clock and random bytes renamed (Makefile: SIM) to those at the
 * end of this file.
 *
 *   dice, files, directory, death, calls, turns
 */
#include "simdisk.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SECTOR 512u
#define NAME 40
#define FILES 4096 /* that ever were, in one seed */
#define FDS 64

/* A write or a cut that is not safe: what the sectors it touches look like after it. */
struct disk_op {
    size_t at, n;    /* bytes it changed */
    size_t size;     /* of the file, after it */
    size_t sector;   /* first one touched */
    struct buf image; /* whole sectors */
};

struct file {
    struct buf now, safe;
    struct disk_op *op; /* from `safe` to `now` */
    size_t ops, cap;
    int locked; /* by this descriptor + 1 */
};

struct name {
    char text[NAME];
    int file;
};

struct dir {
    struct name *name;
    size_t n, cap;
};

enum change { ADD, MOVE, REMOVE };
struct dirop {
    enum change what;
    char from[NAME], to[NAME];
    int file;
};

/* Whose turn it is, and what the helper may do in it. */
enum turn { MASTER, HELPER };
struct turns {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    enum turn turn;
    bool alive; /* there is a helper */
    int budget; /* calls; UNTIL_IDLE */
    void *(*fn)(void *);
    void *arg;
    int64_t now_ms;
};

static struct sim {
    struct rng rng;
    struct plan plan;
    int calls;
    bool trace, dead, dying, faulty, lost_pages;
    struct file *file[FILES];
    int files;
    struct dir now, safe;
    struct dirop *op;
    size_t ops, cap;
    bool made, made_safe; /* the directory itself */
    int fd[FDS];          /* file + 1 */
    struct sim_count count;
    struct turns turns;
} sim = {.turns = {.mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER}};

static _Thread_local bool is_helper;

/* --- dice ------------------------------------------------------------------------------------- */

uint64_t
rng_next(struct rng *r) /* splitmix64: any seed is a good one */
{
    uint64_t z = r->s += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

uint32_t
rng_below(struct rng *r, uint32_t n)
{
    return (uint32_t)((rng_next(r) >> 32) * n >> 32);
}

bool
rng_one_in(struct rng *r, uint32_t n)
{
    return rng_below(r, n) == 0;
}

static bool
percent(uint32_t n)
{
    return rng_below(&sim.rng, 100) < n;
}

void
sim_say(const char *format, ...)
{
    va_list ap;

    if (!sim.trace)
        return;
    va_start(ap, format);
    vprintf(format, ap);
    va_end(ap);
    printf("\n");
    fflush(stdout);
}

/* --- files ------------------------------------------------------------------------------------ */

static void
set_size(struct buf *b, size_t size)
{
    if (size > b->len) {
        buf_reserve(b, size - b->len);
        memset(b->p + b->len, 0, size - b->len);
    }
    b->len = size;
}

static void
put_bytes(struct buf *b, size_t at, const char *p, size_t n)
{
    if (at + n > b->len)
        set_size(b, at + n);
    if (n > 0)
        memcpy(b->p + at, p, n);
}

/* Note that bytes [at, at + n) of the file have changed and its size is another one. */
static void
file_changed(struct file *f, size_t at, size_t n)
{
    if (f->ops == f->cap) {
        f->cap = f->cap == 0 ? 8 : 2 * f->cap;
        f->op = xrealloc(f->op, f->cap * sizeof *f->op);
    }
    struct disk_op *op = &f->op[f->ops++];
    size_t from = at / SECTOR * SECTOR, to = (at + n + SECTOR - 1) / SECTOR * SECTOR;
    *op = (struct disk_op){.at = at, .n = n, .size = f->now.len, .sector = at / SECTOR};
    if (n == 0)
        return;
    if (from < f->now.len)
        put_bytes(&op->image, 0, f->now.p + from, (to < f->now.len ? to : f->now.len) - from);
    set_size(&op->image, to - from);
}

static void
file_write(struct file *f, size_t at, const char *p, size_t n)
{
    put_bytes(&f->now, at, p, n);
    file_changed(f, at, n);
}

static void
file_cut(struct file *f, size_t size)
{
    size_t old = f->now.len;

    set_size(&f->now, size);
    file_changed(f, old < size ? old : size, old < size ? size - old : old - size);
}

static void
file_forget_ops(struct file *f)
{
    for (size_t i = 0; i < f->ops; i++)
        buf_free(&f->op[i].image);
    f->ops = 0;
}

static void
file_sync(struct file *f)
{
    if (f->ops == 0)
        return;
    for (size_t i = 0; i < f->ops; i++)
        put_bytes(&f->safe, f->op[i].sector * SECTOR, f->op[i].image.p, f->op[i].image.len);
    set_size(&f->safe, f->op[f->ops - 1].size);
    file_forget_ops(f);
}

static void
file_free(struct file *f)
{
    file_forget_ops(f);
    free(f->op);
    buf_free(&f->now);
    buf_free(&f->safe);
    free(f);
}

/* How much is left of what was not safe. */
enum garbage { ZEROS, NOISE, OLD, ANY };
struct luck {
    uint32_t keep, garbage; /* per cent */
    enum garbage kind;
    const struct file *old; /* whose bytes these blocks held before */
};

static struct luck
any_luck(void)
{
    static const struct luck kinds[] = {{.keep = 100}, {.keep = 0}, {.keep = 50},
                                        {.keep = 90, .garbage = 5}, {.keep = 50, .garbage = 30},
                                        {.keep = 100, .garbage = 10},
                                        {.keep = 100, .garbage = 100}};
    struct luck luck = kinds[rng_below(&sim.rng, sizeof kinds / sizeof kinds[0])];

    luck.kind = (enum garbage)rng_below(&sim.rng, ANY + 1);
    bool first = sim.files > 1 && percent(50); /* the first segment of the log before this one */
    luck.old = sim.file[first ? 1 : rng_below(&sim.rng, (uint32_t)sim.files)];
    return luck;
}

/* The bytes an op changed in a sector come out as rubbish. */
static void
spoil(const struct file *f, struct buf *b, const struct disk_op *op, size_t sector,
      struct luck luck)
{
    size_t from = sector * SECTOR, to = from + SECTOR;

    if (luck.kind == ANY)
        luck.kind = (enum garbage)rng_below(&sim.rng, ANY);

    if (from < op->at)
        from = op->at;
    if (to > op->at + op->n)
        to = op->at + op->n;
    for (size_t i = from; i < to; i++) {
        char c = 0;
        if (i < f->safe.len && i - op->sector * SECTOR < op->image.len &&
            f->safe.p[i] == op->image.p[i - op->sector * SECTOR])
            continue; /* written over with what it was */
        if (luck.kind == NOISE)
            c = (char)rng_next(&sim.rng);
        else if (luck.kind == OLD && i < luck.old->now.len)
            c = luck.old->now.p[i];
        b->p[i] = c;
    }
}

/* Settle what has become of one sector. */
static void
file_settle_sector(const struct file *f, size_t sector, struct luck luck, struct buf *out)
{
    const struct disk_op *touching[64];
    uint32_t n = 0;

    for (size_t i = 0; i < f->ops; i++) {
        const struct disk_op *op = &f->op[i];
        if (sector < op->sector || sector >= op->sector + op->image.len / SECTOR)
            continue;
        if (n == sizeof touching / sizeof touching[0]) /* the oldest states stand for one another */
            memmove(touching, touching + 1, --n * sizeof touching[0]);
        touching[n++] = op;
    }
    if (n == 0)
        return;
    uint32_t state = percent(luck.keep) ? n : rng_below(&sim.rng, n);
    if (state > 0) {
        const struct disk_op *op = touching[state - 1];
        put_bytes(out, sector * SECTOR, op->image.p + (sector - op->sector) * SECTOR, SECTOR);
    }
    if (percent(luck.garbage)) {
        if (out->len < (sector + 1) * SECTOR)
            set_size(out, (sector + 1) * SECTOR);
        spoil(f, out, touching[rng_below(&sim.rng, n)], sector, luck);
    }
}

/* Decide what of the changes since the last sync has reached the disk, and make that `safe`. */
static void
file_settle(struct file *f, struct luck luck)
{
    size_t begin = SIZE_MAX, end = 0, size = f->safe.len;
    struct buf out = {0};

    if (f->ops == 0)
        return;
    put_bytes(&out, 0, f->safe.p, f->safe.len);
    for (size_t i = 0; i < f->ops; i++) {
        size_t from = f->op[i].sector, to = from + f->op[i].image.len / SECTOR;
        begin = from < begin ? from : begin;
        end = to > end ? to : end;
    }
    for (size_t sector = begin; sector < end; sector++)
        file_settle_sector(f, sector, luck, &out);
    if (percent(luck.keep))
        size = f->op[f->ops - 1].size;
    else if (percent(70)) {
        uint32_t i = rng_below(&sim.rng, (uint32_t)f->ops + 1);
        size = i == 0 ? f->safe.len : f->op[i - 1].size;
    } else if (f->op[f->ops - 1].size > f->safe.len) { /* grown, but not as far as it should have */
        size = f->safe.len + rng_below(&sim.rng, (uint32_t)(f->op[f->ops - 1].size - f->safe.len));
        size = size / SECTOR * SECTOR > f->safe.len ? size / SECTOR * SECTOR : size;
    }
    set_size(&out, size);
    buf_free(&f->safe);
    f->safe = out;
    file_forget_ops(f);
}

static void
file_reload(struct file *f)
{
    f->now.len = 0;
    put_bytes(&f->now, 0, f->safe.p, f->safe.len);
}

/* A sync that fails: the pages may still be due; or they are forgotten, and either shown on or
 * not. */
static void
file_fail_sync(struct file *f)
{
    uint32_t kind = rng_below(&sim.rng, 3);

    sim.lost_pages = true;
    sim_say("    the sync fails: %s", kind == 0   ? "pages are still due"
                                      : kind == 1 ? "pages are lost, though shown"
                                                  : "pages are lost");
    if (kind == 0)
        return;
    file_settle(f, any_luck());
    if (kind == 2)
        file_reload(f);
}

/* --- directory -------------------------------------------------------------------------------- */

static struct name *
dir_find(const struct dir *d, const char *name)
{
    for (size_t i = 0; i < d->n; i++)
        if (strcmp(d->name[i].text, name) == 0)
            return &d->name[i];
    return NULL;
}

static void
dir_remove(struct dir *d, const char *name, int file)
{
    struct name *e = dir_find(d, name);

    if (e != NULL && e->file == file)
        *e = d->name[--d->n];
}

static void
dir_set(struct dir *d, const char *name, int file)
{
    struct name *e = dir_find(d, name);

    if (e == NULL) {
        if (d->n == d->cap) {
            d->cap = d->cap == 0 ? 16 : 2 * d->cap;
            d->name = xrealloc(d->name, d->cap * sizeof *d->name);
        }
        e = &d->name[d->n++];
        snprintf(e->text, sizeof e->text, "%s", name);
    }
    e->file = file;
}

static void
dir_apply(struct dir *d, const struct dirop *op)
{
    if (op->what != ADD)
        dir_remove(d, op->from, op->file);
    if (op->what != REMOVE)
        dir_set(d, op->to, op->file);
}

static void
dir_change(enum change what, const char *from, const char *to, int file)
{
    if (sim.ops == sim.cap) {
        sim.cap = sim.cap == 0 ? 8 : 2 * sim.cap;
        sim.op = xrealloc(sim.op, sim.cap * sizeof *sim.op);
    }
    struct dirop *op = &sim.op[sim.ops++];
    *op = (struct dirop){.what = what, .file = file};
    snprintf(op->from, sizeof op->from, "%s", from);
    snprintf(op->to, sizeof op->to, "%s", to);
    dir_apply(&sim.now, op);
}

/* Each change of names has reached the disk or not: up to one, as a journal has it, or anyhow. */
static void
dir_settle(void)
{
    bool journal = percent(50);
    uint32_t keep = rng_below(&sim.rng, 101), upto = rng_below(&sim.rng, (uint32_t)sim.ops + 1);

    for (size_t i = 0; i < sim.ops; i++) {
        bool kept = journal ? i < upto : percent(keep);
        sim_say("    %s %s %s: %s", sim.op[i].what == ADD    ? "create"
                                    : sim.op[i].what == MOVE ? "rename"
                                                             : "unlink",
                sim.op[i].from, sim.op[i].to, kept ? "kept" : "lost");
        if (kept)
            dir_apply(&sim.safe, &sim.op[i]);
    }
    sim.ops = 0;
}

/* --- death ------------------------------------------------------------------------------------ */

void
sim_revive(void)
{
    sim.dead = sim.dying = false;
    sim.plan = (struct plan){0};
    sim.calls = 0;
    sim.faulty = sim.lost_pages = false;
}

void
sim_power_cut(void)
{
    sim_say("  the power is gone");
    if (!sim.made_safe && percent(50)) {
        sim.made = false;
        sim.ops = 0;
        sim.safe.n = 0;
    } else if (sim.made) {
        sim.made_safe = true;
        dir_settle();
    }
    sim.now.n = 0;
    for (size_t i = 0; i < sim.safe.n; i++)
        dir_set(&sim.now, sim.safe.name[i].text, sim.safe.name[i].file);
    struct luck luck = any_luck();
    for (int i = 0; i < sim.files; i++) {
        struct file *f = sim.file[i];
        if (f->ops > 0)
            sim_say("    file %d: %zu unsafe changes behind %zu bytes", i, f->ops, f->safe.len);
        file_settle(f, luck);
        file_reload(f);
    }
    sim_revive();
}

void
sim_wipe(void)
{
    sim.now.n = sim.safe.n = sim.ops = 0;
    sim.made = sim.made_safe = false;
}

const char *
sim_flip(uint64_t at)
{
    size_t bytes = 0;

    for (size_t i = 0; i < sim.now.n; i++)
        bytes += sim.file[sim.now.name[i].file]->now.len;
    if (bytes == 0)
        return NULL;
    uint64_t bit = at % (8 * bytes);
    for (size_t i = 0; i < sim.now.n; i++) {
        struct file *f = sim.file[sim.now.name[i].file];
        if (bit >= 8 * f->now.len) {
            bit -= 8 * f->now.len;
            continue;
        }
        char c = f->now.p[bit / 8] ^ (char)(1 << bit % 8);
        sim_say("  flip bit %d of byte %zu of %s", (int)(bit % 8), (size_t)(bit / 8),
                sim.now.name[i].text);
        file_write(f, bit / 8, &c, 1);
        file_sync(f);
        return sim.now.name[i].text;
    }
    return NULL;
}

/* --- calls ------------------------------------------------------------------------------------ */

enum effect { DONE, PART, REFUSED };

static void turns_yield(void);

/* Before each call: the helper may lose its turn, the machine its life. REFUSED: errno is set.
 * PART: only a part is to be done. */
static enum effect
enter(const char *name, const char *path, bool takes_space)
{
    const struct plan *p = &sim.plan;

    turns_yield();
    if (sim.dead) {
        errno = EIO;
        return REFUSED;
    }
    sim.count.calls++;
    int k = ++sim.calls;
    sim_say("  %s%d %s %s", is_helper ? "    " : "", k, name, path);
    if (k == p->die_at) {
        sim_say("  dies");
        sim.count.power_cuts += p->die_how == DEATH_POWER;
        sim.count.kills += p->die_how == DEATH_KILL;
        sim.dead = true;
        sim.dying = percent(50);
        errno = EIO;
        return sim.dying ? PART : REFUSED;
    }
    if (k == p->fail_at) {
        sim.faulty = true;
        sim.count.failures++;
        errno = EIO;
        return REFUSED;
    }
    if (takes_space && p->full_at > 0 && k >= p->full_at && k < p->full_at + p->full_for) {
        sim.faulty = true;
        sim.count.full++;
        errno = ENOSPC;
        return PART;
    }
    if (p->nuisance > 0 && rng_one_in(&sim.rng, p->nuisance)) {
        sim.count.nuisances++;
        errno = EINTR;
        return percent(50) ? REFUSED : PART;
    }
    errno = 0;
    return DONE;
}

/* After a call that was made: its result, unless it was the last one. */
static int
leave(int result)
{
    if (!sim.dying)
        return result;
    sim.dying = false;
    errno = EIO;
    return -1;
}

/* enter() for a call that cannot be done in part. */
static bool
refused(const char *name, const char *path, bool takes_space)
{
    enum effect e = enter(name, path, takes_space);

    return e == REFUSED || (e == PART && !sim.dying && errno != EINTR);
}

static const char *
base(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash != NULL ? slash + 1 : path;
}

static struct file *
file_of(int fd)
{
    if (fd < 0 || fd >= FDS || sim.fd[fd] == 0)
        abort(); /* a descriptor that is not open: a fault of the store, whatever the seed */
    return sim.file[sim.fd[fd] - 1];
}

static int
sim_open(void *arg, const char *path, int flags, mode_t mode)
{
    int fd = 0, file;

    (void)arg;
    (void)mode;
    if (refused(flags & O_CREAT ? "create" : "open", path, (flags & O_CREAT) != 0))
        return -1;
    const struct name *e = sim.made ? dir_find(&sim.now, base(path)) : NULL;
    if (e == NULL && (!sim.made || !(flags & O_CREAT))) {
        errno = ENOENT;
        return -1;
    }
    while (fd < FDS && sim.fd[fd] != 0)
        fd++;
    if (fd == FDS || sim.files == FILES)
        abort();
    if (e == NULL) {
        file = sim.files++;
        sim.file[file] = xcalloc(1, sizeof *sim.file[file]);
        dir_change(ADD, "", base(path), file);
    } else {
        file = e->file;
        if ((flags & O_TRUNC) && sim.file[file]->now.len > 0)
            file_cut(sim.file[file], 0);
    }
    if (leave(0) < 0)
        return -1;
    sim.fd[fd] = file + 1;
    return fd;
}

static int
sim_close(void *arg, int fd)
{
    struct file *f = file_of(fd);

    (void)arg;
    turns_yield();
    if (f->locked == fd + 1)
        f->locked = 0;
    sim.fd[fd] = 0;
    return 0;
}

static ssize_t
sim_pwrite(void *arg, int fd, const void *p, size_t n, off_t at)
{
    struct file *f = file_of(fd);
    char what[64];
    bool most;

    (void)arg;
    snprintf(what, sizeof what, "%d: %zu at %lld", sim.fd[fd] - 1, n, (long long)at);
    /* Bytes that are there already can be written over on a full disk. */
    enum effect e = enter("write", what, (size_t)at + n > f->now.len);
    if (e == REFUSED)
        return -1;
    if (e == PART) {
        int err = errno;
        most = n > 1 && percent(70);
        n = most ? 1 + rng_below(&sim.rng, (uint32_t)n - 1) : 0;
        if (n > 0)
            file_write(f, (size_t)at, p, n);
        if (leave(0) < 0)
            return -1;
        errno = err;
        /* A full disk may also say so only after a part was written. */
        return n > 0 && (err == EINTR || percent(50)) ? (ssize_t)n : -1;
    }
    file_write(f, (size_t)at, p, n);
    return (ssize_t)n;
}

static ssize_t
sim_pread(void *arg, int fd, void *p, size_t n, off_t at)
{
    const struct file *f = file_of(fd);
    char what[64];

    (void)arg;
    snprintf(what, sizeof what, "%d: at %lld", sim.fd[fd] - 1, (long long)at);
    enum effect e = enter("read", what, false);
    if (e == REFUSED)
        return -1;
    size_t left = (size_t)at < f->now.len ? f->now.len - (size_t)at : 0;
    if (n > left)
        n = left;
    if (e == PART && n > 1)
        n = 1 + rng_below(&sim.rng, (uint32_t)n - 1);
    if (n > 0)
        memcpy(p, f->now.p + at, n);
    return leave(0) < 0 ? -1 : (ssize_t)n;
}

static int
sim_truncate(void *arg, int fd, off_t size)
{
    struct file *f = file_of(fd);
    char what[64];

    (void)arg;
    snprintf(what, sizeof what, "%d: %lld", sim.fd[fd] - 1, (long long)size);
    if (refused("truncate", what, false))
        return -1;
    file_cut(f, (size_t)size);
    return leave(0);
}

static int
sim_sync(void *arg, int fd)
{
    struct file *f = file_of(fd);
    char what[64];

    (void)arg;
    snprintf(what, sizeof what, "%d", sim.fd[fd] - 1);
    if (refused("sync", what, false)) {
        int err = errno;
        if (err == EIO && !sim.dead)
            file_fail_sync(f);
        errno = err;
        return -1;
    }
    if (!sim.plan.lie_sync)
        file_sync(f);
    return leave(0);
}

static int
sim_sync_dir(void *arg, const char *path)
{
    (void)arg;
    if (refused("sync-dir", path, false)) {
        sim.lost_pages = sim.lost_pages || (errno == EIO && !sim.dead);
        return -1;
    }
    if (sim.plan.lie_sync_dir)
        return leave(0);
    if (strcmp(path, ".") == 0) {
        sim.made_safe = sim.made;
        return leave(0);
    }
    for (size_t i = 0; i < sim.ops; i++)
        dir_apply(&sim.safe, &sim.op[i]);
    sim.ops = 0;
    return leave(0);
}

static int
sim_rename(void *arg, const char *from, const char *to)
{
    (void)arg;
    if (refused("rename", to, rng_one_in(&sim.rng, 4)))
        return -1;
    const struct name *e = dir_find(&sim.now, base(from));
    if (e == NULL) {
        errno = ENOENT;
        return -1;
    }
    dir_change(MOVE, base(from), base(to), e->file);
    return leave(0);
}

static int
sim_unlink(void *arg, const char *path)
{
    (void)arg;
    if (refused("unlink", path, false))
        return -1;
    const struct name *e = dir_find(&sim.now, base(path));
    if (e == NULL) {
        errno = ENOENT;
        return -1;
    }
    dir_change(REMOVE, base(path), "", e->file);
    return leave(0);
}

static int
sim_mkdir(void *arg, const char *path, mode_t mode)
{
    (void)arg;
    (void)mode;
    if (refused("mkdir", path, !sim.made))
        return -1;
    if (sim.made) {
        errno = EEXIST;
        return -1;
    }
    sim.made = true;
    return leave(0);
}

static int
sim_list(void *arg, const char *path, struct buf *out)
{
    (void)arg;
    if (refused("list", path, false) || leave(0) < 0)
        return -1;
    for (size_t i = 0; i < sim.now.n; i++)
        buf_add(out, sim.now.name[i].text, strlen(sim.now.name[i].text) + 1);
    return 0;
}

static int
sim_lock(void *arg, int fd)
{
    struct file *f = file_of(fd);

    (void)arg;
    if (refused("lock", "", false) || leave(0) < 0)
        return -1;
    if (f->locked != 0 && f->locked != fd + 1) {
        errno = EAGAIN;
        return -1;
    }
    f->locked = fd + 1;
    return 0;
}

const struct store_io *
sim_io(void)
{
    static const struct store_io io = {
        .open = sim_open, .close = sim_close, .pwrite = sim_pwrite, .pread = sim_pread,
        .truncate = sim_truncate, .sync = sim_sync, .sync_dir = sim_sync_dir, .rename = sim_rename,
        .unlink = sim_unlink, .mkdir = sim_mkdir, .list = sim_list, .lock = sim_lock,
    };

    return &io;
}

void
sim_end(void)
{
    for (int i = 0; i < sim.files; i++)
        file_free(sim.file[i]);
    sim.files = 0;
    sim_wipe();
    memset(sim.fd, 0, sizeof sim.fd);
    free(sim.now.name);
    free(sim.safe.name);
    free(sim.op);
    sim.now = sim.safe = (struct dir){0};
    sim.op = NULL;
    sim.cap = 0;
}

void
sim_start(uint64_t seed, bool trace)
{
    sim.rng.s = seed;
    sim.trace = trace;
    sim.turns.now_ms = 1000000;
    sim_revive();
}

void
sim_plan(struct plan plan)
{
    sim.plan = plan;
    sim.calls = 0;
    sim.faulty = sim.lost_pages = false;
}

bool
sim_dead(void)
{
    return sim.dead;
}

enum death
sim_died_of(void)
{
    return sim.dead ? sim.plan.die_how : DEATH_NONE;
}

bool
sim_faulty(void)
{
    return sim.faulty;
}

bool
sim_lost_pages(void)
{
    return sim.lost_pages;
}

int
sim_open_files(void)
{
    int n = 0;

    for (int i = 0; i < FDS; i++)
        n += sim.fd[i] != 0;
    return n;
}

struct sim_count *
sim_count(void)
{
    return &sim.count;
}

/* --- turns ------------------------------------------------------------------------------------ */

/* Hand the turn over and wait until it comes back. */
static void
turns_give(enum turn to)
{
    struct turns *t = &sim.turns;
    enum turn own = to == MASTER ? HELPER : MASTER;

    pthread_mutex_lock(&t->mutex);
    t->turn = to;
    pthread_cond_broadcast(&t->changed);
    while (t->turn != own && (own == HELPER || t->alive))
        pthread_cond_wait(&t->changed, &t->mutex);
    pthread_mutex_unlock(&t->mutex);
}

/* The helper is about to call the disk. */
static void
turns_yield(void)
{
    if (!is_helper)
        return;
    while (sim.turns.budget == 0)
        turns_give(MASTER);
    if (sim.turns.budget > 0)
        sim.turns.budget--;
}

void
sim_run(int calls)
{
    if (!sim.turns.alive)
        return;
    sim.turns.budget = calls;
    turns_give(HELPER);
}

void
sim_sleep(int64_t ms)
{
    sim.turns.now_ms += ms;
}

static void *
helper_main(void *arg)
{
    struct turns *t = &sim.turns;

    (void)arg;
    is_helper = true;
    pthread_mutex_lock(&t->mutex);
    while (t->turn != HELPER)
        pthread_cond_wait(&t->changed, &t->mutex);
    pthread_mutex_unlock(&t->mutex);
    void *result = t->fn(t->arg);
    pthread_mutex_lock(&t->mutex);
    t->alive = false;
    t->turn = MASTER;
    pthread_cond_broadcast(&t->changed);
    pthread_mutex_unlock(&t->mutex);
    return result;
}

/* What the store calls instead of the functions without sim_ in front. */
int sim_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *),
                       void *arg);
int sim_pthread_join(pthread_t thread, void **result);
int sim_pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex);
int sim_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex,
                               const struct timespec *until);
int64_t sim_time_mono_ms(void);
int64_t sim_time_wall_ms(void);
void sim_random_bytes(void *p, size_t n);

int
sim_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
    if (sim.turns.alive)
        abort(); /* one helper at a time is what this can rule */
    sim.turns.fn = fn;
    sim.turns.arg = arg;
    sim.turns.turn = MASTER;
    sim.turns.alive = true;
    return pthread_create(thread, attr, helper_main, NULL);
}

int
sim_pthread_join(pthread_t thread, void **result)
{
    while (sim.turns.alive)
        sim_run(UNTIL_IDLE);
    return pthread_join(thread, result);
}

/* Both wake up without a reason, as they may: who waits looks again. */
int
sim_pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex)
{
    (void)cond;
    pthread_mutex_unlock(mutex);
    if (is_helper)
        turns_give(MASTER);
    else
        sim_run(UNTIL_IDLE);
    pthread_mutex_lock(mutex);
    return 0;
}

int
sim_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex,
                           const struct timespec *until)
{
    (void)until;
    return sim_pthread_cond_wait(cond, mutex);
}

int64_t
sim_time_mono_ms(void)
{
    return sim.turns.now_ms;
}

int64_t
sim_time_wall_ms(void)
{
    return 1700000000000 + sim.turns.now_ms;
}

void
sim_random_bytes(void *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ((unsigned char *)p)[i] = (unsigned char)rng_next(&sim.rng);
}
