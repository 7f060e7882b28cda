/* SPDX-License-Identifier: MIT */
/*
 * store.c - the append-only log and its index. A directory holds `lock` and segments, each named by
 * its first record number; a segment is a header line and then one line a record:
 *
 *   jim-log 1 <first> <last number before> <salt> fresh <crc>
 *   <crc> <number> <time_ms> <type> <conversation> <seq> <json>
 *
 * Records gather in a buffer. store_commit() hands it to one helper thread, the only one to write,
 * sync and begin segments after store_open(); while that works, the next batch gathers in a second
 * buffer. A batch's place is settled when its first record is appended, so that the index knows
 * every offset at once. Reading is done where it is asked for, of what is durable only.
 *
 * What start-up believes rests on four rules. A segment is synced before the next one appears.
 * Each batch begins with a record that names the highest number already synced: a bad line below a
 * number named later is damage, any other bad line in the last segment is what a power cut leaves.
 * What could not be written is cut off again, and the cut synced before anything is written over
 * it. And after an unclean stop numbers jump and a new segment begins: no number ever has two
 * contents.
 *
 *   the disk, lines, scanning, subcommands: how a log looks and how it is read as a whole
 *   helper thread, opening, appending, closing, index and reading: one store at work
 */
#include "jim.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAGIC "jim-log"
#define VERSION 1
#define HEADER_ROOM 128 /* a header line is shorter: two numbers of 18 digits, salt and words */
#define LINE_HEAD 96    /* a record line's bytes beside conversation and JSON are fewer */
#define MAX_NUMBER UINT64_C(999999999999999999) /* 18 digits: every sum of two fits 63 bits */
/* How far numbers jump after an unclean stop. Unsynced and perhaps lost is at most one segment and
 * what waited in memory: under 4 GiB of lines of at least 25 bytes. */
#define JUMP UINT64_C(1000000000)
#define MAX_SEGMENT (3u << 30)   /* with a batch behind it, offsets still fit 32 bits */
#define MAX_PENDING (256u << 20) /* bytes gathered while the disk hangs; then appends are refused */
#define CHUNK (1u << 20)         /* bytes a read at start */
#define KEEP_BUF (4u << 20)      /* a larger batch buffer is given back after use */
#define FIRST_READ 1024          /* most messages are whole with one read of this */
#define READERS 16               /* descriptors kept for reading segments */
#define PATH_ROOM 4096

struct segment {    /* one file of the log; its number in this process is its place in the array */
    uint64_t first; /* the number in its name */
    uint32_t seed;  /* CRC of its salt: where every line's CRC starts */
    uint32_t size;  /* bytes that may be read: up to the last durable batch */
};

/* --- the disk --------------------------------------------------------------------------------- */

static int
disk_open(void *arg, const char *path, int flags, mode_t mode)
{
    (void)arg;
    return open(path, flags | O_CLOEXEC, mode);
}

static int
disk_close(void *arg, int fd)
{
    (void)arg;
    return close(fd);
}

static ssize_t
disk_pwrite(void *arg, int fd, const void *p, size_t n, off_t at)
{
    (void)arg;
    return pwrite(fd, p, n, at);
}

static ssize_t
disk_pread(void *arg, int fd, void *p, size_t n, off_t at)
{
    (void)arg;
    return pread(fd, p, n, at);
}

static int
disk_truncate(void *arg, int fd, off_t size)
{
    (void)arg;
    return ftruncate(fd, size);
}

static int
disk_sync(void *arg, int fd)
{
    (void)arg;
#if defined(F_FULLFSYNC)
    /* fsync() of macOS leaves the data in the drive's cache; not every file system has better. */
    if (fcntl(fd, F_FULLFSYNC) == 0)
        return 0;
    return errno == ENOTSUP || errno == EINVAL || errno == ENOTTY ? fsync(fd) : -1;
#elif defined(_POSIX_SYNCHRONIZED_IO) && _POSIX_SYNCHRONIZED_IO > 0
    return fdatasync(fd);
#else
    return fsync(fd);
#endif
}

static int
disk_sync_dir(void *arg, const char *path)
{
    int fd = disk_open(arg, path, O_RDONLY | O_DIRECTORY, 0);

    if (fd < 0)
        return -1;
    int result = fsync(fd), err = errno;
    close(fd);
    errno = err;
    return result < 0 && err == EINVAL ? 0 : result; /* a file system that cannot has no need */
}

static int
disk_rename(void *arg, const char *from, const char *to)
{
    (void)arg;
    return rename(from, to);
}

static int
disk_unlink(void *arg, const char *path)
{
    (void)arg;
    return unlink(path);
}

static int
disk_mkdir(void *arg, const char *path, mode_t mode)
{
    (void)arg;
    return mkdir(path, mode);
}

static int
disk_list(void *arg, const char *path, struct buf *out)
{
    DIR *dir = opendir(path);
    struct dirent *entry;

    (void)arg;
    if (dir == NULL)
        return -1;
    while (errno = 0, (entry = readdir(dir)) != NULL)
        buf_add(out, entry->d_name, strlen(entry->d_name) + 1);
    int err = errno;
    closedir(dir);
    errno = err;
    return err == 0 ? 0 : -1;
}

/* A lock of the open file where there is one: a lock of the process would not keep out a second
 * server of the same process, and would be lost with any descriptor of the file. */
static int
disk_lock(void *arg, int fd)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

    (void)arg;
#ifdef F_OFD_SETLK
    if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
        return 0;
    if (errno != EINVAL)
        return -1;
#endif
    return fcntl(fd, F_SETLK, &lock);
}

static const struct store_io disk = {
    .open = disk_open, .close = disk_close, .pwrite = disk_pwrite, .pread = disk_pread,
    .truncate = disk_truncate, .sync = disk_sync, .sync_dir = disk_sync_dir, .rename = disk_rename,
    .unlink = disk_unlink, .mkdir = disk_mkdir, .list = disk_list, .lock = disk_lock,
};

/* Was a call only interrupted? Every call through struct store_io is repeated while this says so.
 * */
static bool
again(ssize_t result)
{
    return result < 0 && errno == EINTR;
}

static int
io_open(const struct store_io *io, const char *path, int flags)
{
    int fd;

    while (again(fd = io->open(io->arg, path, flags, 0600)))
        ;
    return fd;
}

static bool
io_write(const struct store_io *io, int fd, const char *p, size_t n, uint64_t at)
{
    while (n > 0) {
        ssize_t put = io->pwrite(io->arg, fd, p, n, (off_t)at);
        if (again(put))
            continue;
        if (put <= 0) {
            if (put == 0)
                errno = EIO;
            return false;
        }
        p += put;
        n -= (size_t)put;
        at += (uint64_t)put;
    }
    return true;
}

static ssize_t
io_read(const struct store_io *io, int fd, void *p, size_t n, uint64_t at)
{
    ssize_t got;

    while (again(got = io->pread(io->arg, fd, p, n, (off_t)at)))
        ;
    return got;
}

static bool
io_truncate(const struct store_io *io, int fd, uint64_t size)
{
    int result;

    while (again(result = io->truncate(io->arg, fd, (off_t)size)))
        ;
    return result == 0;
}

static bool
io_sync(const struct store_io *io, int fd)
{
    int result;

    while (again(result = io->sync(io->arg, fd)))
        ;
    return result == 0;
}

/* For the calls that take one path: sync_dir and unlink. */
static bool
io_path(const struct store_io *io, int (*call)(void *arg, const char *path), const char *path)
{
    int result;

    while (again(result = call(io->arg, path)))
        ;
    return result == 0;
}

static bool
io_rename(const struct store_io *io, const char *from, const char *to)
{
    int result;

    while (again(result = io->rename(io->arg, from, to)))
        ;
    return result == 0;
}

/* DIR/NNNNNNNNNNNNNNNNNNNN.log and what follows. store_open() has refused a DIR this would cut. */
static void
segment_path(char path[PATH_ROOM], const char *dir, uint64_t first, const char *suffix)
{
    snprintf(path, PATH_ROOM, "%s/%020" PRIu64 ".log%s", dir, first, suffix);
}

/* --- lines ------------------------------------------------------------------------------------ */

struct header {
    uint64_t first, prev; /* prev: the last number of the segment before, 0 when there was none */
    char salt[17];        /* hex digits: a line of another file, or an older one, fails its CRC */
};

static char *
put_number(char *p, uint64_t v)
{
    char digits[20];
    size_t n = 0;

    do
        digits[n++] = (char)('0' + v % 10);
    while ((v /= 10) > 0);
    while (n > 0)
        *p++ = digits[--n];
    return p;
}

static void
put_hex(char *p, uint32_t v)
{
    for (int i = 7; i >= 0; i--, v >>= 4)
        p[i] = "0123456789abcdef"[v & 15];
}

/* Exactly eight lower-case digits: an upper-case one is a flipped bit. */
static bool
take_hex(const char *p, uint32_t *out)
{
    uint32_t v = 0;

    for (int i = 0; i < 8; i++) {
        if (p[i] >= '0' && p[i] <= '9')
            v = v << 4 | (uint32_t)(p[i] - '0');
        else if (p[i] >= 'a' && p[i] <= 'f')
            v = v << 4 | (uint32_t)(p[i] - 'a' + 10);
        else
            return false;
    }
    *out = v;
    return true;
}

/* The bytes up to the next blank, which is consumed too. */
static bool
take_word(struct str *rest, struct str *word)
{
    const char *blank = rest->n > 0 ? memchr(rest->p, ' ', rest->n) : NULL;

    if (blank == NULL)
        return false;
    *word = (struct str){rest->p, (size_t)(blank - rest->p)};
    rest->n -= word->n + 1;
    rest->p = blank + 1;
    return true;
}

static bool
take_number(struct str *rest, uint64_t *out)
{
    size_t i = 0;
    uint64_t v = 0;

    for (; i < rest->n && i <= 18 && rest->p[i] >= '0' && rest->p[i] <= '9'; i++)
        v = v * 10 + (uint64_t)(rest->p[i] - '0');
    if (i == 0 || i > 18 || i == rest->n || rest->p[i] != ' ')
        return false;
    *out = v;
    rest->p += i + 1;
    rest->n -= i + 1;
    return true;
}

static char *
put_str(char *p, struct str s)
{
    if (s.n > 0)
        memcpy(p, s.p, s.n);
    return p + s.n;
}

static void
line_put(struct buf *b, const struct crc32c *crc, uint32_t seed, const struct store_rec *r)
{
    buf_reserve(b, LINE_HEAD + r->conv.n + r->json.n);
    char *line = b->p + b->len, *body = line + 9, *p = body;

    p = put_number(p, r->number);
    *p++ = ' ';
    p = put_number(p, (uint64_t)r->time_ms);
    *p++ = ' ';
    *p++ = r->type;
    *p++ = ' ';
    p = put_str(p, r->conv);
    *p++ = ' ';
    p = put_number(p, r->seq);
    *p++ = ' ';
    p = put_str(p, r->json);
    put_hex(line, crc32c_add(crc, seed, body, (size_t)(p - body)));
    line[8] = ' ';
    *p++ = '\n';
    b->len = (size_t)(p - b->p);
}

/* Read a line, without its newline, into views. NULL, or what is wrong with it. The cheap tests
 * come first: holds_proof() tries this at every byte of a bad line. */
static const char *
line_parse(const struct crc32c *crc, uint32_t seed, struct str line, struct store_rec *r)
{
    uint32_t sum;
    uint64_t time_ms;
    struct str type, body;

    if (line.n < 9 || line.p[8] != ' ' || !take_hex(line.p, &sum))
        return "not a record";
    body = r->json = (struct str){line.p + 9, line.n - 9};
    if (!take_number(&r->json, &r->number) || !take_number(&r->json, &time_ms) ||
        !take_word(&r->json, &type) || type.n != 1 || !take_word(&r->json, &r->conv) ||
        !take_number(&r->json, &r->seq))
        return "not a record";
    if (crc32c_add(crc, seed, body.p, body.n) != sum)
        return "bad checksum";
    r->time_ms = (int64_t)time_ms;
    r->type = type.p[0];
    return NULL;
}

/* The length of the header line, newline included. */
static size_t
header_put(char dst[HEADER_ROOM], const struct crc32c *crc, const struct header *h)
{
    int n = snprintf(dst, HEADER_ROOM, "%s %d %" PRIu64 " %" PRIu64 " %s fresh ", MAGIC, VERSION,
                     h->first, h->prev, h->salt);

    assert(n > 0 && n + 9 <= HEADER_ROOM);
    put_hex(dst + n, crc32c_add(crc, 0, dst, (size_t)n - 1));
    dst[n + 8] = '\n';
    return (size_t)n + 9;
}

static const char *
header_parse(const struct crc32c *crc, struct str line, struct header *h)
{
    struct str rest = line, magic, salt, kind;
    uint64_t version;
    uint32_t sum;

    if (!take_word(&rest, &magic) || !str_eq(magic, STR(MAGIC)) || !take_number(&rest, &version))
        return "not a log of jim";
    if (version != VERSION)
        return "a format this version of jim does not know";
    if (!take_number(&rest, &h->first) || !take_number(&rest, &h->prev) ||
        !take_word(&rest, &salt) || salt.n != 16 || !take_word(&rest, &kind) || rest.n != 8 ||
        !take_hex(rest.p, &sum) || sum != crc32c_add(crc, 0, line.p, line.n - 9))
        return "bad header";
    if (!str_eq(kind, STR("fresh")))
        return "a kind of segment this version of jim does not know";
    memcpy(h->salt, salt.p, 16);
    h->salt[16] = '\0';
    return NULL;
}

/* The number that a REC_BATCH says was synced. */
static uint64_t
batch_synced(struct str json)
{
    struct str key = STR("{\"synced\":");
    uint64_t v = 0;

    if (json.n < key.n || memcmp(json.p, key.p, key.n) != 0)
        return 0;
    for (size_t i = key.n; i < json.n && json.p[i] >= '0' && json.p[i] <= '9'; i++)
        v = v * 10 + (uint64_t)(json.p[i] - '0');
    return v;
}

#define CLOSED ",\"closed\":true}" /* ends the last REC_BATCH of a clean stop */

static bool
batch_closed(struct str json)
{
    size_t n = sizeof CLOSED - 1;

    return json.n > n && memcmp(json.p + json.n - n, CLOSED, n) == 0;
}

/* --- scanning: one pass over the whole log ---------------------------------------------------- */

struct reader {
    const struct store_io *io;
    int fd;
    struct buf buf; /* a window of the file; owned */
    uint64_t at;    /* its offset in the file */
    size_t pos;     /* what stands before has been handed out */
    bool eof;
};

enum line { LINE_END, LINE_WHOLE, LINE_PART, LINE_ERROR };

enum scan_result { SCAN_CLEAN, SCAN_TORN, SCAN_DAMAGED, SCAN_ERROR };

struct scan {
    const struct store_io *io;
    const char *dir;
    struct crc32c crc;
    bool tidy;  /* remove what a creation that did not finish left behind */
    bool go_on; /* note damage and read what can be read */
    void (*record)(void *arg, const struct store_rec *rec);
    void *arg;
    struct reader reader;
    uint64_t *first; /* numbers in the names, ascending; owned */
    uint32_t firsts;
    struct segment *seg; /* those whose header is right; owned, until store_open() takes it */
    uint32_t segs, cap;
    uint64_t last; /* highest record number */
    uint64_t records, messages;
    bool closed; /* the last record says that the stop was clean */
    /* The first thing found wrong: */
    enum scan_result result;
    uint64_t bad_first, bad_at, bad_end; /* segment, offset, end of the file when torn */
    const char *why;
    int err;
};

static void
reader_seek(struct reader *r, uint64_t at)
{
    r->at = at;
    r->pos = r->buf.len = 0;
    r->eof = false;
}

static uint64_t
reader_tell(const struct reader *r)
{
    return r->at + r->pos;
}

/* The next line, without its newline; borrowed until the next call. LINE_PART: the file, or the
 * longest line there can be, ended before a newline came. */
static enum line
next_line(struct reader *r, struct str *line)
{
    size_t seen = 0;

    if (r->buf.p == NULL)
        buf_reserve(&r->buf, 2 * CHUNK);
    for (;;) {
        char *p = r->buf.p + r->pos, *end;
        size_t n = r->buf.len - r->pos;
        if ((end = memchr(p + seen, '\n', n - seen)) != NULL) {
            *line = (struct str){p, (size_t)(end - p)};
            r->pos += line->n + 1;
            return LINE_WHOLE;
        }
        if (r->eof || n > MAX_RECORD) {
            *line = (struct str){p, n};
            r->pos += n;
            return n > 0 ? LINE_PART : LINE_END;
        }
        seen = n;
        buf_drop(&r->buf, r->pos);
        r->at += r->pos;
        r->pos = 0;
        buf_reserve(&r->buf, CHUNK);
        ssize_t got = io_read(r->io, r->fd, r->buf.p + n, CHUNK, r->at + n);
        if (got < 0)
            return LINE_ERROR;
        r->buf.len += (size_t)got;
        r->eof = got == 0;
    }
}

/* Note what is wrong, unless something was before. Returns false, for the caller to pass on. */
static bool
scan_bad(struct scan *c, enum scan_result result, uint64_t first, uint64_t at, const char *why)
{
    if (c->result == SCAN_CLEAN) {
        c->result = result;
        c->bad_first = first;
        c->bad_at = at;
        c->why = why;
        c->err = result == SCAN_ERROR ? errno : 0;
    }
    return false;
}

/*
 * * Does a REC_BATCH in this line prove that record `number` was once synced? In a bad line it may
 * stand anywhere: when the byte that was damaged is a newline, two lines have become one.
 */
static bool
holds_proof(const struct scan *c, uint32_t seed, struct str line, uint64_t number)
{
    struct store_rec rec;

    for (size_t i = 0; i < line.n; i++) {
        if (line_parse(&c->crc, seed, (struct str){line.p + i, line.n - i}, &rec) != NULL)
            continue;
        return rec.type == REC_BATCH && batch_synced(rec.json) >= number;
    }
    return false;
}

/*
 * * A line of the last segment is bad, or record `number` is missing. Damage or a torn tail? Valid
 * records behind it prove nothing: a power cut may keep the later pages of a batch and lose the
 * earlier ones. Reads on to the end of the file.
 */
static bool
was_synced(struct scan *c, uint32_t seed, struct str line, uint64_t number, bool *error)
{
    enum line got = LINE_PART;

    do
        if (holds_proof(c, seed, line, number))
            return true;
    while ((got = next_line(&c->reader, &line)) == LINE_WHOLE || got == LINE_PART);
    *error = got == LINE_ERROR;
    return false;
}

/* Take one good line. Returns NULL, or why this version must not go on. */
static const char *
scan_record(struct scan *c, const struct store_rec *rec)
{
    if (rec->type >= 'A' && rec->type <= 'Z' && strchr("MCGJLU", rec->type) == NULL)
        return "a record only a later version of jim understands";
    c->last = rec->number;
    c->records++;
    c->messages += rec->type == REC_MESSAGE;
    c->closed = rec->type == REC_BATCH && batch_closed(rec->json);
    if (rec->type >= 'A' && rec->type <= 'Z' && c->record != NULL)
        c->record(c->arg, rec);
    return NULL;
}

/* A bad line at `at` of the current segment; `next` is the number it should have had, 0: not known.
 * True when the scan can go on with the line behind it. */
static bool
scan_bad_line(struct scan *c, uint64_t at, struct str line, uint64_t next, const char *why)
{
    const struct segment *seg = &c->seg[c->segs - 1];
    bool last = seg->first == c->first[c->firsts - 1], error = false;
    uint64_t behind = reader_tell(&c->reader);

    if (last && next != 0 && !was_synced(c, seg->seed, line, next, &error)) {
        scan_bad(c, error ? SCAN_ERROR : SCAN_TORN, seg->first, at, error ? "cannot read" : why);
        c->bad_end = reader_tell(&c->reader);
        return false;
    }
    scan_bad(c, SCAN_DAMAGED, seg->first, at, why);
    reader_seek(&c->reader, behind);
    return c->go_on;
}

static bool
scan_lines(struct scan *c)
{
    struct segment *seg = &c->seg[c->segs - 1];
    uint64_t next = seg->first; /* the number the next record must have; 0 behind a damaged one */

    for (;;) {
        struct store_rec rec;
        struct str line;
        uint64_t at = reader_tell(&c->reader);
        enum line got = next_line(&c->reader, &line);
        seg->size = (uint32_t)at;
        if (got == LINE_END)
            return true;
        if (got == LINE_ERROR)
            return scan_bad(c, SCAN_ERROR, seg->first, at, "cannot read");
        const char *why = got == LINE_PART ? "an unfinished line"
                                           : line_parse(&c->crc, seg->seed, line, &rec);
        if (why == NULL && (next != 0 ? rec.number != next : rec.number <= c->last))
            why = "record number out of order";
        if (reader_tell(&c->reader) > UINT32_MAX)
            return scan_bad(c, SCAN_DAMAGED, seg->first, at, "larger than a segment can be");
        rec.segment = c->segs - 1;
        rec.offset = (uint32_t)at;
        if (why == NULL) {
            why = scan_record(c, &rec);
            if (why != NULL)
                return scan_bad(c, SCAN_DAMAGED, seg->first, at, why);
            next = rec.number + 1;
        } else if (scan_bad_line(c, at, line, next, why)) {
            next = 0;
        } else {
            return false;
        }
    }
}

static void
segment_push(struct segment **seg, uint32_t *segs, uint32_t *cap, struct segment add)
{
    if (*segs == *cap) {
        *cap = *cap < 16 ? 16 : *cap * 2;
        *seg = xrealloc(*seg, *cap * sizeof **seg);
    }
    (*seg)[(*segs)++] = add;
}

static bool
scan_segment(struct scan *c, uint64_t first)
{
    struct str line;
    struct header h = {0};
    enum line got = next_line(&c->reader, &line);

    if (got == LINE_ERROR)
        return scan_bad(c, SCAN_ERROR, first, 0, "cannot read");
    if (got != LINE_WHOLE && line.n < HEADER_ROOM && first == c->first[c->firsts - 1]) {
        /* Header and name are synced before use, so nothing was ever written here. */
        c->bad_end = line.n;
        return scan_bad(c, SCAN_TORN, first, 0, "an unfinished header");
    }
    const char *why = got == LINE_WHOLE ? header_parse(&c->crc, line, &h) : "no header";
    if (why == NULL && h.first != first)
        why = "the file's name is not the one it was given";
    if (why != NULL)
        return scan_bad(c, SCAN_DAMAGED, first, 0, why);
    if (first <= c->last || (c->segs > 0 && h.prev != c->last)) {
        scan_bad(c, SCAN_DAMAGED, first, 0, "records before this segment are missing");
        if (!c->go_on)
            return false;
    }
    segment_push(&c->seg, &c->segs, &c->cap,
                 (struct segment){first, crc32c_add(&c->crc, 0, h.salt, 16), 0});
    return scan_lines(c);
}

static int
compare_numbers(const void *a, const void *b)
{
    uint64_t x, y;

    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

/* Find the segments of the directory, in order. Names that are none of ours are left alone. */
static void
scan_names(struct scan *c)
{
    struct buf names = {0};
    size_t cap = 0;
    int result;

    while (again(result = c->io->list(c->io->arg, c->dir, &names)))
        names.len = 0;
    if (result < 0)
        scan_bad(c, SCAN_ERROR, 0, 0, "cannot list the directory");
    for (size_t at = 0; at < names.len; at += strlen(names.p + at) + 1) {
        const char *name = names.p + at, *suffix = name + 20;
        uint64_t first = strspn(name, "0123456789") == 20 ? strtoull(name, NULL, 10) : 0;
        char path[PATH_ROOM];
        if (first == 0 || first > MAX_NUMBER || strncmp(suffix, ".log", 4) != 0)
            continue;
        segment_path(path, c->dir, first, ".tmp");
        if (strcmp(suffix, ".log.tmp") == 0 && c->tidy)
            io_path(c->io, c->io->unlink, path); /* if it stays, the next creation overwrites it */
        if (suffix[4] != '\0')
            continue;
        if (c->firsts == cap) {
            cap = cap < 16 ? 16 : cap * 2;
            c->first = xrealloc(c->first, cap * sizeof c->first[0]);
        }
        c->first[c->firsts++] = first;
    }
    buf_free(&names);
    if (c->firsts > 0)
        qsort(c->first, c->firsts, sizeof c->first[0], compare_numbers);
}

/* Check and read everything; what came of it is in c->result. */
static void
scan_run(struct scan *c)
{
    crc32c_init(&c->crc);
    c->reader.io = c->io;
    scan_names(c);
    for (uint32_t i = 0; i < c->firsts && (c->result == SCAN_CLEAN || c->go_on); i++) {
        char path[PATH_ROOM];
        segment_path(path, c->dir, c->first[i], "");
        c->reader.fd = io_open(c->io, path, O_RDONLY);
        if (c->reader.fd < 0) {
            scan_bad(c, SCAN_ERROR, c->first[i], 0, "cannot open");
            continue;
        }
        reader_seek(&c->reader, 0);
        scan_segment(c, c->first[i]);
        c->io->close(c->io->arg, c->reader.fd);
    }
    buf_free(&c->reader.buf);
}

/* --- subcommands ------------------------------------------------------------------------------ */

/* Asked, not taken: a server that starts at this moment must not find the directory locked. */
static bool
in_use(const char *dir)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    char path[PATH_ROOM];

    snprintf(path, sizeof path, "%s/lock", dir);
    int fd = open(path, O_RDONLY | O_CLOEXEC), result = -1;
    if (fd < 0)
        return false;
#ifdef F_OFD_GETLK
    result = fcntl(fd, F_OFD_GETLK, &lock);
#endif
    if (result < 0)
        result = fcntl(fd, F_GETLK, &lock);
    close(fd);
    return result == 0 && lock.l_type != F_UNLCK;
}

static void
say_bad(const struct scan *c, FILE *out)
{
    char path[PATH_ROOM];

    segment_path(path, c->dir, c->bad_first, "");
    fprintf(out, "%s:%" PRIu64 ": %s%s%s\n", c->bad_first > 0 ? path : c->dir, c->bad_at, c->why,
            c->err != 0 ? ": " : "", c->err != 0 ? strerror(c->err) : "");
}

int
store_check(const char *dir, FILE *out)
{
    struct scan c = {.io = &disk, .dir = dir, .go_on = true};
    bool live = in_use(dir);
    int code = 0;

    scan_run(&c);
    fprintf(out, "%s: segments %" PRIu32 ", records %" PRIu64 ", messages %" PRIu64 "\n", dir,
            c.segs, c.records, c.messages);
    if (live)
        fprintf(out, "in use by a running server: checked as far as it was written\n");
    if (c.result == SCAN_CLEAN || (c.result == SCAN_TORN && live)) {
        fprintf(out, "no damage\n");
    } else if (c.result == SCAN_TORN) {
        say_bad(&c, out);
        fprintf(out, "torn tail of %" PRIu64 " bytes, never confirmed as synced: the next start "
                "cuts it off\n", c.bad_end - c.bad_at);
        code = 1;
    } else {
        say_bad(&c, out);
        fprintf(out, "damaged\n");
        code = 2;
    }
    free(c.first);
    free(c.seg);
    return code;
}

static void
export_record(void *arg, const struct store_rec *rec)
{
    FILE *out = arg;

    if (rec->type != REC_MESSAGE || rec->json.n < 2 || rec->json.p[rec->json.n - 1] != '}')
        return;
    fwrite(rec->json.p, 1, rec->json.n - 1, out);
    fprintf(out, "%s\"time\":%" PRId64 "}\n", rec->json.n > 2 ? "," : "", rec->time_ms);
}

int
store_export(const char *dir, FILE *out)
{
    struct scan c = {.io = &disk, .dir = dir, .go_on = true, .record = export_record, .arg = out};

    scan_run(&c);
    bool bad = c.result == SCAN_DAMAGED || c.result == SCAN_ERROR;
    if (bad)
        say_bad(&c, stderr);
    free(c.first);
    free(c.seg);
    if (fflush(out) != 0 || ferror(out)) {
        fprintf(stderr, "jim: cannot write: %s\n", strerror(errno));
        return 2;
    }
    return bad ? 2 : 0;
}

/* --- the helper thread ------------------------------------------------------------------------ */

enum outcome {
    BATCH_KEPT,
    BATCH_LOST,  /* cut off again; the next one may find room */
    BATCH_FAILED /* nobody knows what is on disk: the store's last batch */
};

struct batch {
    struct buf buf;       /* whole lines, its REC_BATCH first; owned */
    uint64_t first, last; /* record numbers */
    uint64_t prev;        /* the last number before it */
    int64_t time_ms;
    uint32_t segment;     /* where it goes, and at which offset */
    uint32_t base;
    bool rotate;          /* `segment` is to be created first, with `header` */
    bool must_sync;       /* whatever the policy */
    size_t header_len;
    char header[HEADER_ROOM];
    /* What the helper says of it: */
    bool created; /* `segment` is on disk with its header, whatever became of the batch */
    enum outcome outcome;
    const char *what; /* that failed, with this errno */
    int err;
};

/* `work` belongs to the helper while JOB_BUSY, else to the loop's thread. */
enum job { JOB_IDLE, JOB_BUSY, JOB_DONE };

struct read_fd {
    int fd; /* -1: free */
    uint32_t segment;
    uint64_t used; /* value of the clock of store->reads when last used */
};

struct store {
    /* Set by store_open() and then only read, by both threads. */
    struct store_options o; /* o.dir is `dir` */
    char *dir;              /* owned */
    const struct store_io *io;
    struct crc32c crc;
    bool keeps;
    int lock_fd;

    /* The loop's thread only. */
    struct segment *seg; /* owned; with what `gather` and `work` will create */
    uint32_t segs, seg_cap;
    struct batch gather; /* empty: its other members mean nothing */
    uint64_t next;       /* number of the next record */
    uint64_t last;       /* highest number on disk, in `work` or in `gather` */
    uint64_t durable;
    uint64_t end;        /* offset in the last segment at which the next line will stand */
    bool fresh;          /* the next batch must begin a segment */
    bool clean;          /* the log on disk ends with the mark of a clean stop */
    bool failed;
    bool lossy;          /* the last batch was lost, and that was logged */
    struct read_fd reader[READERS];
    uint64_t reads;

    /* The helper's only; store_open() and store_close() use them while there is no helper. */
    int fd;           /* of the last segment, -1: none to be written to */
    bool dirty;       /* written since the last sync */
    bool broken;      /* a sync or a cut failed */
    uint64_t written; /* highest number on disk, synced or not */
    uint64_t safe;    /* what `written` was at the last sync */
    int64_t sync_ms;  /* when a sync is due at the latest, on time_mono_ms(); -1: none is */

    /* Under `mutex`. */
    pthread_mutex_t mutex;
    pthread_cond_t wake; /* the helper waits for JOB_BUSY, `stop` or sync_ms */
    pthread_cond_t idle; /* store_close() waits for the end of JOB_BUSY */
    enum job job;
    bool stop;
    uint64_t synced;     /* highest number known to be synced */
    int sync_err;        /* errno of a sync between batches that failed, till store_poll() */
    struct batch work;
    pthread_t thread;
};

static enum outcome
batch_fail(struct store *s, struct batch *b, enum outcome outcome, const char *what)
{
    b->err = errno;
    b->what = what;
    if (outcome == BATCH_FAILED)
        s->broken = true;
    return outcome;
}

/* After a failed sync the kernel may drop the pages and report success the next time: never again.
 * */
static bool
helper_sync(struct store *s)
{
    s->sync_ms = -1;
    if (s->dirty && !io_sync(s->io, s->fd)) {
        s->broken = true;
        return false;
    }
    s->dirty = false;
    s->safe = s->written;
    return true;
}

/* Write the header of a batch's segment, and only then give it its name. */
static enum outcome
create_segment(struct store *s, struct batch *b, int *out)
{
    char path[PATH_ROOM], tmp[PATH_ROOM];

    segment_path(path, s->dir, b->first, "");
    segment_path(tmp, s->dir, b->first, ".tmp");
    int fd = io_open(s->io, tmp, O_WRONLY | O_CREAT | O_TRUNC);
    if (fd < 0)
        return batch_fail(s, b, BATCH_LOST, "creating a segment");
    enum outcome outcome = BATCH_KEPT;
    if (!io_write(s->io, fd, b->header, b->header_len, 0))
        outcome = batch_fail(s, b, BATCH_LOST, "writing a segment's header");
    else if (!io_sync(s->io, fd))
        outcome = batch_fail(s, b, BATCH_FAILED, "syncing a segment's header");
    else if (!io_rename(s->io, tmp, path))
        outcome = batch_fail(s, b, BATCH_LOST, "renaming a segment");
    else if (!io_path(s->io, s->io->sync_dir, s->dir))
        outcome = batch_fail(s, b, BATCH_FAILED, "syncing the directory");
    if (outcome == BATCH_KEPT) {
        *out = fd;
        return outcome;
    }
    s->io->close(s->io->arg, fd);
    if (outcome == BATCH_LOST)
        io_path(s->io, s->io->unlink, tmp);
    return outcome;
}

/* Close the segment before with all of it on disk, then begin the batch's own. */
static enum outcome
rotate(struct store *s, struct batch *b)
{
    int fd;

    if (!helper_sync(s))
        return batch_fail(s, b, BATCH_FAILED, "syncing a full segment");
    enum outcome outcome = create_segment(s, b, &fd);
    if (outcome != BATCH_KEPT)
        return outcome;
    if (s->fd >= 0)
        s->io->close(s->io->arg, s->fd);
    s->fd = fd;
    b->created = true;
    return BATCH_KEPT;
}

static enum outcome
helper_batch(struct store *s, struct batch *b)
{
    errno = EIO;
    if (s->broken)
        return batch_fail(s, b, BATCH_FAILED, "an earlier sync");
    if (b->rotate) {
        enum outcome outcome = rotate(s, b);
        if (outcome != BATCH_KEPT)
            return outcome;
    }
    s->dirty = true;
    if (!io_write(s->io, s->fd, b->buf.p, b->buf.len, b->base)) {
        enum outcome outcome = batch_fail(s, b, BATCH_LOST, "writing");
        /* Synced, or else after a power cut lines of this batch might stand behind those of one
         * that was written over it. */
        if (!io_truncate(s->io, s->fd, b->base))
            return batch_fail(s, b, BATCH_FAILED, "cutting off a batch that could not be written");
        return helper_sync(s) ? outcome : batch_fail(s, b, BATCH_FAILED, "syncing");
    }
    s->written = b->last;
    if (s->o.policy == STORE_GROUP || b->must_sync) {
        if (!helper_sync(s))
            return batch_fail(s, b, BATCH_FAILED, "syncing");
    } else if (s->o.policy != STORE_OFF && s->sync_ms < 0) {
        s->sync_ms = time_mono_ms() + s->o.policy;
    }
    return BATCH_KEPT;
}

/* Wait for something to do, or until a sync is due. */
static void
helper_wait(struct store *s)
{
    struct timespec ts = {0};
    int64_t ms = s->sync_ms;

    if (ms < 0) {
        pthread_cond_wait(&s->wake, &s->mutex);
        return;
    }
#ifdef __APPLE__ /* has no conditions on the monotonic clock, but relative waits */
    ms = ms > time_mono_ms() ? ms - time_mono_ms() : 0;
#endif
    ts.tv_sec = (time_t)(ms / 1000);
    ts.tv_nsec = (long)(ms % 1000) * 1000000;
#ifdef __APPLE__
    pthread_cond_timedwait_relative_np(&s->wake, &s->mutex, &ts);
#else
    pthread_cond_timedwait(&s->wake, &s->mutex, &ts);
#endif
}

static void *
helper(void *arg)
{
    struct store *s = arg;

    pthread_mutex_lock(&s->mutex);
    for (;;) {
        bool due = s->sync_ms >= 0 && time_mono_ms() >= s->sync_ms, ok = true;
        if (!due && s->job != JOB_BUSY) {
            if (s->stop)
                break;
            helper_wait(s);
            continue;
        }
        pthread_mutex_unlock(&s->mutex);
        if (due)
            ok = helper_sync(s);
        else
            s->work.outcome = helper_batch(s, &s->work);
        int err = errno;
        pthread_mutex_lock(&s->mutex);
        s->synced = s->safe;
        if (!due)
            s->job = JOB_DONE;
        if (!ok)
            s->sync_err = err != 0 ? err : EIO;
        pthread_cond_signal(&s->idle);
        if (!due || !ok) {
            pthread_mutex_unlock(&s->mutex);
            if (s->o.ready != NULL)
                s->o.ready(s->o.arg);
            pthread_mutex_lock(&s->mutex);
        }
    }
    pthread_mutex_unlock(&s->mutex);
    return NULL;
}

/* Signals are the loop's: one that landed here would neither wake it nor be seen at once. */
static bool
helper_start(struct store *s)
{
    pthread_condattr_t attr;
    sigset_t all, old;

    pthread_mutex_init(&s->mutex, NULL);
    pthread_cond_init(&s->idle, NULL);
    pthread_condattr_init(&attr);
#ifndef __APPLE__
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
#endif
    pthread_cond_init(&s->wake, &attr);
    pthread_condattr_destroy(&attr);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int err = pthread_create(&s->thread, NULL, helper, s);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (err != 0) {
        log_write(s->o.log, LOG_LEVEL_ERROR, "store: cannot start a thread: %s", strerror(err));
        pthread_cond_destroy(&s->wake);
        pthread_cond_destroy(&s->idle);
        pthread_mutex_destroy(&s->mutex);
    }
    return err == 0;
}

static void
helper_stop(struct store *s)
{
    pthread_mutex_lock(&s->mutex);
    s->stop = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->mutex);
    pthread_join(s->thread, NULL);
    pthread_cond_destroy(&s->wake);
    pthread_cond_destroy(&s->idle);
    pthread_mutex_destroy(&s->mutex);
}

/* --- opening ---------------------------------------------------------------------------------- */

static bool
refuse(const struct store *s, const char *what, const char *path)
{
    log_write(s->o.log, LOG_LEVEL_ERROR, "store: %s %s: %s", what, path, strerror(errno));
    return false;
}

/* Make the directory if need be, and make it stay. */
static bool
open_dir(struct store *s)
{
    char parent[PATH_ROOM];
    int result;

    while (again(result = s->io->mkdir(s->io->arg, s->dir, 0700)))
        ;
    if (result < 0)
        return errno == EEXIST || refuse(s, "cannot create", s->dir);
    snprintf(parent, sizeof parent, "%s", s->dir);
    size_t n = strlen(parent);
    while (n > 1 && parent[n - 1] == '/')
        n--;
    while (n > 0 && parent[n - 1] != '/')
        n--;
    snprintf(parent + n, sizeof parent - n, ".");
    return io_path(s->io, s->io->sync_dir, parent) || refuse(s, "cannot sync", parent);
}

/* Held until the descriptor is closed, also by the end of the process. */
static bool
open_lock(struct store *s)
{
    char path[PATH_ROOM];
    int result;

    snprintf(path, sizeof path, "%s/lock", s->dir);
    s->lock_fd = io_open(s->io, path, O_RDWR | O_CREAT);
    if (s->lock_fd < 0)
        return refuse(s, "cannot open", path);
    while (again(result = s->io->lock(s->io->arg, s->lock_fd)))
        ;
    if (result < 0 && (errno == EAGAIN || errno == EACCES)) {
        log_write(s->o.log, LOG_LEVEL_ERROR, "store: %s is in use by another server", s->dir);
        return false;
    }
    return result == 0 || refuse(s, "cannot lock", path);
}

/* Cut what a power cut left unfinished, and sync what is kept: it was perhaps only in memory when
 * the process died, and from now on it counts as durable. */
static bool
mend(struct store *s, const struct scan *c, uint64_t first)
{
    char path[PATH_ROOM];
    bool torn = c->result == SCAN_TORN, ok;

    segment_path(path, s->dir, first, "");
    if (torn)
        log_write(s->o.log, LOG_LEVEL_WARN,
                  "store: %s:%" PRIu64 ": %s: cut a torn tail of %" PRIu64 " bytes", path,
                  c->bad_at, c->why, c->bad_end - c->bad_at);
    if (torn && c->bad_at == 0) {
        ok = io_path(s->io, s->io->unlink, path);
    } else {
        int fd = io_open(s->io, path, O_WRONLY);
        ok = fd >= 0 && (!torn || io_truncate(s->io, fd, c->bad_at)) && io_sync(s->io, fd);
        int err = errno;
        if (fd >= 0)
            s->io->close(s->io->arg, fd);
        errno = err;
    }
    return (ok && io_path(s->io, s->io->sync_dir, s->dir)) || refuse(s, "cannot mend", path);
}

/* Settle, from what the scan found, where the next batch goes. */
static bool
open_end(struct store *s, struct scan *c)
{
    char path[PATH_ROOM];

    if (c->result == SCAN_DAMAGED || c->result == SCAN_ERROR) {
        segment_path(path, s->dir, c->bad_first, "");
        log_write(s->o.log, LOG_LEVEL_ERROR,
                  "store: %s:%" PRIu64 ": %s%s%s: not started, nothing changed; "
                  "`jim check %s` says more", c->bad_first > 0 ? path : s->dir, c->bad_at, c->why,
                  c->err != 0 ? ": " : "", c->err != 0 ? strerror(c->err) : "", s->dir);
        return false;
    }
    s->seg = c->seg;
    s->segs = c->segs;
    s->seg_cap = c->cap;
    c->seg = NULL;
    s->last = s->durable = s->written = s->safe = s->synced = c->last;
    s->next = c->last + 1;
    s->fresh = true;
    if (c->firsts == 0)
        return true;
    uint64_t first = c->first[c->firsts - 1];
    s->end = s->segs > 0 ? s->seg[s->segs - 1].size : 0;
    if (c->result == SCAN_TORN || !c->closed) {
        /* Numbers up to `first` and more may have been handed out and lost with an empty segment.
         * */
        s->next = (c->last > first ? c->last : first) + JUMP;
        return mend(s, c, first);
    }
    segment_path(path, s->dir, first, "");
    s->fd = io_open(s->io, path, O_WRONLY);
    s->clean = true;
    s->fresh = false;
    return s->fd >= 0 || refuse(s, "cannot open", path);
}

static bool
open_log(struct store *s)
{
    struct scan c = {.io = s->io, .dir = s->dir, .tidy = true, .record = s->o.replay,
                     .arg = s->o.arg};
    int64_t start = time_mono_ms();

    scan_run(&c);
    bool ok = open_end(s, &c);
    if (ok)
        log_write(s->o.log, LOG_LEVEL_INFO,
                  "store: %s: %" PRIu64 " messages in %" PRIu32 " segments read in %lld ms", s->dir,
                  c.messages, c.segs, (long long)(time_mono_ms() - start));
    free(c.first);
    free(c.seg);
    return ok;
}

static void
store_free(struct store *s)
{
    for (int i = 0; i < READERS; i++)
        if (s->keeps && s->reader[i].fd >= 0)
            s->io->close(s->io->arg, s->reader[i].fd);
    if (s->fd >= 0)
        s->io->close(s->io->arg, s->fd);
    if (s->lock_fd >= 0)
        s->io->close(s->io->arg, s->lock_fd);
    buf_free(&s->gather.buf);
    buf_free(&s->work.buf);
    free(s->seg);
    free(s->dir);
    free(s);
}

struct store *
store_open(const struct store_options *o)
{
    struct store *s = xcalloc(1, sizeof *s);

    s->o = *o;
    s->o.dir = s->dir = xstrndup(o->dir, strlen(o->dir));
    s->io = o->io != NULL ? o->io : &disk;
    s->keeps = true;
    s->fd = s->lock_fd = -1;
    s->sync_ms = -1;
    for (int i = 0; i < READERS; i++)
        s->reader[i].fd = -1;
    crc32c_init(&s->crc);
    bool ok = strlen(o->dir) < PATH_ROOM - 64 && o->segment > 0 && o->segment <= MAX_SEGMENT;
    if (!ok)
        log_write(o->log, LOG_LEVEL_ERROR, "store: a segment size over 3 GiB, or too long a path");
    if (!ok || !open_dir(s) || !open_lock(s) || !open_log(s) || !helper_start(s)) {
        store_free(s);
        return NULL;
    }
    return s;
}

struct store *
store_open_none(void)
{
    struct store *s = xcalloc(1, sizeof *s);

    s->fd = s->lock_fd = -1;
    return s;
}

bool
store_keeps(const struct store *s)
{
    return s->keeps;
}

/* --- appending -------------------------------------------------------------------------------- */

static bool
no_bytes_below(struct str s, unsigned char least)
{
    unsigned bad = 0;

    for (size_t i = 0; i < s.n; i++)
        bad |= (unsigned char)s.p[i] < least;
    return bad == 0;
}

/* (Re)write the REC_BATCH at the start of `gather`. It is written when the first record needs to
 * know its offset, and again when the batch sets off, with what is synced by then: so its length
 * must not depend on the number, which is below the record's own. */
static void
put_batch_head(struct store *s, uint64_t synced)
{
    struct batch *b = &s->gather;
    char json[64];
    size_t len = b->buf.len;
    int width = snprintf(NULL, 0, "%" PRIu64, b->first);
    int n = snprintf(json, sizeof json, "{\"synced\":%-*" PRIu64 "}", width, synced);
    struct store_rec rec = {.number = b->first, .time_ms = b->time_ms, .type = REC_BATCH,
                            .conv = STR("-"), .json = {json, (size_t)n}};
    b->buf.len = 0;
    line_put(&b->buf, &s->crc, s->seg[b->segment].seed, &rec);
    if (len > 0)
        b->buf.len = len;
}

/* Settle where the batch goes: behind what is on its way, or in a segment of its own. */
static void
begin_batch(struct store *s, int64_t now_ms)
{
    struct batch *b = &s->gather;

    b->first = s->next++;
    b->prev = s->last;
    b->time_ms = now_ms;
    b->must_sync = s->clean; /* or a power cut might show the log clean and without this batch */
    b->rotate = s->fresh || s->end >= s->o.segment;
    b->created = false;
    if (b->rotate) {
        unsigned char salt[8];
        struct header h = {.first = b->first, .prev = b->prev};
        random_bytes(salt, sizeof salt);
        for (size_t i = 0; i < sizeof salt; i++)
            snprintf(h.salt + 2 * i, 3, "%02x", salt[i]);
        b->header_len = header_put(b->header, &s->crc, &h);
        segment_push(&s->seg, &s->segs, &s->seg_cap,
                     (struct segment){h.first, crc32c_add(&s->crc, 0, h.salt, 16), 0});
        s->end = b->header_len;
        s->fresh = false;
    }
    b->segment = s->segs - 1;
    b->base = (uint32_t)s->end;
    put_batch_head(s, 0);
    s->end += b->buf.len;
}

uint64_t
store_append(struct store *s, char type, struct str conv, uint64_t seq, struct str json,
             int64_t now_ms, struct store_index *index)
{
    struct batch *b = &s->gather;
    size_t most = LINE_HEAD + conv.n + json.n;

    assert(conv.n > 0 && no_bytes_below(conv, '!') && no_bytes_below(json, ' '));
    assert(seq <= MAX_NUMBER && (index == NULL || type == REC_MESSAGE));
    if (!s->keeps)
        return ++s->durable;
    if (s->failed || most > MAX_RECORD || b->buf.len + most > MAX_PENDING)
        return 0;
    if (now_ms < 0)
        now_ms = 0;
    if (b->buf.len == 0)
        begin_batch(s, now_ms);
    struct store_rec rec = {.number = s->next++, .time_ms = now_ms, .type = type, .seq = seq,
                            .conv = conv, .json = json, .segment = b->segment,
                            .offset = (uint32_t)s->end};
    size_t len = b->buf.len;
    line_put(&b->buf, &s->crc, s->seg[b->segment].seed, &rec);
    s->end += b->buf.len - len;
    s->last = b->last = rec.number;
    if (index != NULL)
        store_index_add(index, &rec);
    return rec.number;
}

/* Nothing can be left behind: a helper that is not idle calls ready() when it is, which makes a
 * turn, which ends here. */
void
store_commit(struct store *s)
{
    if (!s->keeps || s->gather.buf.len == 0)
        return;
    pthread_mutex_lock(&s->mutex);
    if (s->job == JOB_IDLE) {
        put_batch_head(s, s->synced);
        struct batch empty = s->work;
        s->work = s->gather;
        s->gather = empty;
        s->gather.buf.len = 0;
        s->job = JOB_BUSY;
        pthread_cond_signal(&s->wake);
    }
    pthread_mutex_unlock(&s->mutex);
}

static void
fail_for_life(struct store *s, const char *what, int err)
{
    s->failed = true;
    log_write(s->o.log, LOG_LEVEL_ERROR,
              "store: %s: %s failed: %s: nothing is kept any more until a restart", s->dir, what,
              strerror(err));
}

/* A batch is gone, and with it all that was appended since: go back to where it began. */
static void
rewind_to(struct store *s, const struct batch *b)
{
    s->gather.buf.len = 0;
    s->next = b->first;
    s->last = b->prev;
    s->segs = b->segment + 1;
    if (b->created) {
        s->seg[b->segment].size = b->base;
        s->clean = false;
    } else if (b->rotate) {
        s->segs--;
        s->fresh = true;
    }
    s->end = s->segs > 0 ? s->seg[s->segs - 1].size : 0;
}

/* What became of the batch in `work`. */
static enum store_news
batch_done(struct store *s)
{
    struct batch *b = &s->work;

    if (b->outcome == BATCH_KEPT) {
        if (s->lossy)
            log_write(s->o.log, LOG_LEVEL_WARN, "store: %s can be written again", s->dir);
        s->lossy = s->clean = false;
        s->durable = b->last;
        s->seg[b->segment].size = b->base + (uint32_t)b->buf.len;
        return STORE_MORE;
    }
    if (b->outcome == BATCH_FAILED)
        fail_for_life(s, b->what, b->err);
    else if (!s->lossy)
        log_write(s->o.log, LOG_LEVEL_ERROR,
                  "store: %s: %s failed: %s: messages are refused until it works again", s->dir,
                  b->what, strerror(b->err));
    s->lossy = true;
    rewind_to(s, b);
    return STORE_LOST;
}

enum store_news
store_poll(struct store *s)
{
    if (!s->keeps) {
        bool more = s->durable > s->last;
        s->last = s->durable;
        return more ? STORE_MORE : STORE_SAME;
    }
    pthread_mutex_lock(&s->mutex);
    bool done = s->job == JOB_DONE;
    int sync_err = s->job == JOB_IDLE ? s->sync_err : 0; /* with a batch, its outcome says it too */
    if (sync_err != 0)
        s->sync_err = 0;
    pthread_mutex_unlock(&s->mutex);
    enum store_news news = STORE_SAME;
    if (sync_err != 0) {
        if (!s->failed)
            fail_for_life(s, "syncing", sync_err);
        if (s->gather.buf.len > 0)
            rewind_to(s, &s->gather);
        return STORE_LOST;
    }
    if (!done)
        return news;
    news = batch_done(s);
    if (s->work.buf.cap > KEEP_BUF)
        buf_free(&s->work.buf);
    pthread_mutex_lock(&s->mutex);
    s->job = JOB_IDLE;
    pthread_mutex_unlock(&s->mutex);
    return news;
}

uint64_t
store_durable(const struct store *s)
{
    return s->durable;
}

bool
store_failed(const struct store *s)
{
    return s->failed;
}

/* --- closing ---------------------------------------------------------------------------------- */

/* Everything is written, the helper gone: sync, and say at the end of the log that the stop was
 * clean. Synced before the mark is written: the mark proves all that stands before it. */
static bool
close_log(struct store *s)
{
    char json[64];

    if (!helper_sync(s)) {
        log_write(s->o.log, LOG_LEVEL_ERROR, "store: cannot sync %s: %s", s->dir, strerror(errno));
        return false;
    }
    if (s->fd < 0 || s->clean)
        return true;
    int n = snprintf(json, sizeof json, "{\"synced\":%" PRIu64 CLOSED, s->last);
    struct store_rec rec = {.number = s->next, .time_ms = time_wall_ms(), .type = REC_BATCH,
                            .conv = STR("-"), .json = {json, (size_t)n}};
    s->gather.buf.len = 0;
    line_put(&s->gather.buf, &s->crc, s->seg[s->segs - 1].seed, &rec);
    s->dirty = true;
    if (!io_write(s->io, s->fd, s->gather.buf.p, s->gather.buf.len, s->end)) {
        /* No harm: the next start takes this for an unclean stop. */
        log_write(s->o.log, LOG_LEVEL_WARN, "store: cannot mark the end of %s: %s", s->dir,
                  strerror(errno));
        return io_truncate(s->io, s->fd, s->end);
    }
    if (helper_sync(s))
        return true;
    log_write(s->o.log, LOG_LEVEL_ERROR, "store: cannot sync %s: %s", s->dir, strerror(errno));
    return false;
}

int
store_close(struct store *s)
{
    bool ok = true;

    if (s == NULL)
        return 0;
    while (s->keeps) {
        pthread_mutex_lock(&s->mutex);
        while (s->job == JOB_BUSY)
            pthread_cond_wait(&s->idle, &s->mutex);
        pthread_mutex_unlock(&s->mutex);
        if (store_poll(s) == STORE_LOST)
            ok = false;
        if (s->gather.buf.len == 0)
            break;
        store_commit(s);
    }
    if (s->keeps) {
        helper_stop(s);
        if (s->sync_err != 0)
            fail_for_life(s, "syncing", s->sync_err);
        if (s->broken || !close_log(s))
            ok = false;
    }
    store_free(s);
    return ok ? 0 : -1;
}

/* --- index and reading ------------------------------------------------------------------------ */

struct store_run {  /* messages of one conversation in one segment, without a gap in their seq */
    uint64_t first; /* seq of the first */
    uint32_t segment, count;
    uint32_t cap; /* of `many`; 0: `few` is meant, so that a quiet conversation costs no malloc */
    union {
        uint32_t few[2];
        uint32_t *many; /* owned */
    } at; /* the lines' offsets */
};

static uint32_t *
run_offsets(struct store_run *r)
{
    return r->cap > 0 ? r->at.many : r->at.few;
}

/* A run that gets no more: four bytes a message, no reserve. */
static void
run_seal(struct store_run *r)
{
    if (r->cap > r->count && r->count > 0) {
        r->at.many = xrealloc(r->at.many, r->count * sizeof r->at.many[0]);
        r->cap = r->count;
    }
}

static void
run_add(struct store_run *r, uint32_t offset)
{
    if (r->cap == 0 && r->count == 2) {
        uint32_t *many = xmalloc(6 * sizeof *many);
        memcpy(many, r->at.few, sizeof r->at.few);
        r->at.many = many;
        r->cap = 6;
    } else if (r->cap > 0 && r->count == r->cap) {
        r->cap += r->cap / 2;
        r->at.many = xrealloc(r->at.many, r->cap * sizeof r->at.many[0]);
    }
    run_offsets(r)[r->count++] = offset;
}

static void
run_free(struct store_run *r)
{
    if (r->cap > 0)
        free(r->at.many);
}

void
store_index_add(struct store_index *x, const struct store_rec *rec)
{
    struct store_run *r = x->runs > 0 ? &x->run[x->runs - 1] : NULL;

    if (r != NULL && rec->seq < r->first + r->count)
        return; /* of a log that somebody else wrote: the first one counts */
    if (r == NULL || r->segment != rec->segment || rec->seq != r->first + r->count) {
        if (r != NULL)
            run_seal(r);
        if (x->runs == x->cap) {
            x->cap += x->cap / 2 + 1;
            x->run = xrealloc(x->run, x->cap * sizeof x->run[0]);
        }
        r = &x->run[x->runs++];
        *r = (struct store_run){.first = rec->seq, .segment = rec->segment};
    }
    run_add(r, rec->offset);
}

uint64_t
store_index_first(const struct store_index *x)
{
    return x->runs > 0 ? x->run[0].first : 0;
}

void
store_index_cut(struct store_index *x, uint64_t last)
{
    while (x->runs > 0 && x->run[x->runs - 1].first > last)
        run_free(&x->run[--x->runs]);
    if (x->runs == 0)
        return;
    struct store_run *r = &x->run[x->runs - 1];
    if (last - r->first < r->count)
        r->count = (uint32_t)(last - r->first) + 1;
}

void
store_index_free(struct store_index *x)
{
    for (uint32_t i = 0; i < x->runs; i++)
        run_free(&x->run[i]);
    free(x->run);
    *x = (struct store_index){0};
}

/* Where message `seq` stands; false: not in the index. */
static bool
index_find(const struct store_index *x, uint64_t seq, uint32_t *segment, uint32_t *offset)
{
    uint32_t low = 0, high = x->runs;

    while (low < high) { /* the first run that begins behind seq */
        uint32_t middle = low + (high - low) / 2;
        if (x->run[middle].first <= seq)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0 || seq - x->run[low - 1].first >= x->run[low - 1].count)
        return false;
    struct store_run *r = &x->run[low - 1];
    *segment = r->segment;
    *offset = run_offsets(r)[seq - r->first];
    return true;
}

/* A descriptor for reading the segment, from the few that are kept open. -1: errno. */
static int
read_fd(struct store *s, uint32_t segment)
{
    struct read_fd *oldest = &s->reader[0];
    char path[PATH_ROOM];

    for (int i = 0; i < READERS; i++) {
        struct read_fd *r = &s->reader[i];
        if (r->fd >= 0 && r->segment == segment) {
            r->used = ++s->reads;
            return r->fd;
        }
        if (r->used < oldest->used)
            oldest = r;
    }
    if (oldest->fd >= 0)
        s->io->close(s->io->arg, oldest->fd);
    segment_path(path, s->dir, s->seg[segment].first, "");
    int fd = io_open(s->io, path, O_RDONLY);
    *oldest = (struct read_fd){fd, segment, fd >= 0 ? ++s->reads : 0};
    return fd;
}

/* Append the line at `offset`, without its newline, to `to`. NULL, or what went wrong. */
static const char *
read_line(struct store *s, uint32_t segment, uint32_t offset, struct buf *to)
{
    size_t start = to->len, left = s->seg[segment].size - offset;
    int fd = read_fd(s, segment);

    if (fd < 0)
        return strerror(errno);
    for (size_t want = FIRST_READ;; want *= 4) {
        size_t have = to->len - start;
        if (want > left)
            want = left;
        if (have == want)
            return "an unfinished line";
        buf_reserve(to, want - have);
        ssize_t got = io_read(s->io, fd, to->p + to->len, want - have, (uint64_t)offset + have);
        if (got <= 0)
            return got < 0 ? strerror(errno) : "the file is too short";
        to->len += (size_t)got;
        char *end = memchr(to->p + start + have, '\n', (size_t)got);
        if (end != NULL) {
            to->len = (size_t)(end - to->p);
            return NULL;
        }
    }
}

int
store_read(struct store *s, const struct store_index *x, uint64_t seq, struct buf *to,
           struct store_rec *rec)
{
    uint32_t segment, offset;
    size_t start = to->len;

    if (!s->keeps || !index_find(x, seq, &segment, &offset) || segment >= s->segs ||
        offset >= s->seg[segment].size)
        return -ENOENT;
    const char *why = read_line(s, segment, offset, to);
    if (why == NULL)
        why = line_parse(&s->crc, s->seg[segment].seed,
                         (struct str){to->p + start, to->len - start}, rec);
    if (why == NULL && (rec->type != REC_MESSAGE || rec->seq != seq))
        why = "another record stands there";
    if (why == NULL) {
        rec->segment = segment;
        rec->offset = offset;
        return 0;
    }
    to->len = start;
    log_write(s->o.log, LOG_LEVEL_ERROR, "store: %s/%020" PRIu64 ".log:%" PRIu32 ": %s", s->dir,
              s->seg[segment].first, offset, why);
    return -EIO;
}
