/* SPDX-License-Identifier: MIT */
/*
 * segment.c - how a log looks on disk and how it is read as a whole. A directory holds `lock` and
 * segments, each named by its first record number; a segment is a header line and then one line a
 * record:
 *
 *   jim-log 1 <first> <last number before> <salt> fresh <crc>
 *   <crc> <number> <time_ms> <type> <conversation> <seq> <json>
 *
 * Who reads a log relies on four rules. A segment is synced before the next one appears. Each batch
 * begins with a record that names the highest number already synced: a bad line below a number
 * named later is damage, any other bad line in the last segment is what a power cut leaves. What
 * could not be written is cut off again, and the cut synced before anything is written over it.
 * And after an unclean stop numbers jump and a new segment begins: no number ever has two contents.
 *
 *   the disk, lines, scanning, subcommands
 */
#include "jim.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC "jim-log"
#define VERSION 1
#define CHUNK (1u << 20) /* bytes a read at start */

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

const struct store_io store_disk = {
    .open = disk_open, .close = disk_close, .pwrite = disk_pwrite, .pread = disk_pread,
    .truncate = disk_truncate, .sync = disk_sync, .sync_dir = disk_sync_dir, .rename = disk_rename,
    .unlink = disk_unlink, .mkdir = disk_mkdir, .list = disk_list, .lock = disk_lock,
};

/* Was a call only interrupted? Every call through struct store_io is repeated while this says so.
 * */
bool
io_again(ssize_t result)
{
    return result < 0 && errno == EINTR;
}

int
io_open(const struct store_io *io, const char *path, int flags)
{
    int fd;

    while (io_again(fd = io->open(io->arg, path, flags, 0600)))
        ;
    return fd;
}

bool
io_write(const struct store_io *io, int fd, const char *p, size_t n, uint64_t at)
{
    while (n > 0) {
        ssize_t put = io->pwrite(io->arg, fd, p, n, (off_t)at);
        if (io_again(put))
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

ssize_t
io_read(const struct store_io *io, int fd, void *p, size_t n, uint64_t at)
{
    ssize_t got;

    while (io_again(got = io->pread(io->arg, fd, p, n, (off_t)at)))
        ;
    return got;
}

bool
io_truncate(const struct store_io *io, int fd, uint64_t size)
{
    int result;

    while (io_again(result = io->truncate(io->arg, fd, (off_t)size)))
        ;
    return result == 0;
}

bool
io_sync(const struct store_io *io, int fd)
{
    int result;

    while (io_again(result = io->sync(io->arg, fd)))
        ;
    return result == 0;
}

/* For the calls that take one path: sync_dir and unlink. */
bool
io_path(const struct store_io *io, int (*call)(void *arg, const char *path), const char *path)
{
    int result;

    while (io_again(result = call(io->arg, path)))
        ;
    return result == 0;
}

bool
io_rename(const struct store_io *io, const char *from, const char *to)
{
    int result;

    while (io_again(result = io->rename(io->arg, from, to)))
        ;
    return result == 0;
}

/* DIR/NNNNNNNNNNNNNNNNNNNN.log and what follows. store_open() has refused a DIR this would cut. */
void
segment_path(char path[PATH_ROOM], const char *dir, uint64_t first, const char *suffix)
{
    snprintf(path, PATH_ROOM, "%s/%020" PRIu64 ".log%s", dir, first, suffix);
}

/* --- lines ------------------------------------------------------------------------------------ */

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

void
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
const char *
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
size_t
header_put(char dst[HEADER_ROOM], const struct crc32c *crc, const struct seg_header *h)
{
    int n = snprintf(dst, HEADER_ROOM, "%s %d %" PRIu64 " %" PRIu64 " %s fresh ", MAGIC, VERSION,
                     h->first, h->prev, h->salt);

    assert(n > 0 && n + 9 <= HEADER_ROOM);
    put_hex(dst + n, crc32c_add(crc, 0, dst, (size_t)n - 1));
    dst[n + 8] = '\n';
    return (size_t)n + 9;
}

const char *
header_parse(const struct crc32c *crc, struct str line, struct seg_header *h)
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

static bool
batch_closed(struct str json)
{
    size_t n = sizeof CLOSED - 1;

    return json.n > n && memcmp(json.p + json.n - n, CLOSED, n) == 0;
}

/* --- scanning: one pass over the whole log ---------------------------------------------------- */

enum line { LINE_END, LINE_WHOLE, LINE_PART, LINE_ERROR };

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
    if (rec->type == REC_BATCH && batch_synced(rec->json) >= c->last)
        c->proven = rec->offset;
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

void
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
    struct seg_header h = {0};
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
    c->proven = line.n + 1;
    c->closed = false; /* an empty segment behind a clean stop: somebody died beginning it */
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

    while (io_again(result = c->io->list(c->io->arg, c->dir, &names)))
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
void
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
    struct scan c = {.io = &store_disk, .dir = dir, .go_on = true};
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

void
export_message(FILE *out, const struct store_rec *rec)
{
    if (rec->json.n < 2 || rec->json.p[rec->json.n - 1] != '}')
        return;
    fwrite(rec->json.p, 1, rec->json.n - 1, out);
    fprintf(out, "%s\"time\":%" PRId64 "}\n", rec->json.n > 2 ? "," : "", rec->time_ms);
}

static void
export_record(void *arg, const struct store_rec *rec)
{
    if (rec->type == REC_MESSAGE)
        export_message(arg, rec);
}

int
store_walk(const char *dir, void (*record)(void *arg, const struct store_rec *rec), void *arg)
{
    struct scan c = {.io = &store_disk, .dir = dir, .go_on = true, .record = record, .arg = arg};

    scan_run(&c);
    bool bad = c.result == SCAN_DAMAGED || c.result == SCAN_ERROR;
    if (bad)
        say_bad(&c, stderr);
    free(c.first);
    free(c.seg);
    return bad ? 2 : 0;
}

int
store_export(const char *dir, FILE *out)
{
    int code = store_walk(dir, export_record, out);

    if (fflush(out) != 0 || ferror(out)) {
        fprintf(stderr, "jim: cannot write: %s\n", strerror(errno));
        return 2;
    }
    return code;
}
