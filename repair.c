/* SPDX-License-Identifier: MIT */
/*
 * repair.c - `jim check -r`: all that can be read of a damaged log, copied into a new one. The
 * directory itself is never written to. It is read here without the scan of segment.c, which stops
 * to judge: every byte is tried as the beginning of a record, so that the neighbours of a lost
 * newline are found; and a segment whose header is lost tells its salt by its lines' checksums.
 *
 *   files and lines, the salt, copying, the subcommand
 */
#include "store.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SECTOR 4096         /* bytes given up where the disk cannot read */
#define FLUSH_BYTES (4u << 20) /* copied between two commits */

struct repair {
    const char *dir;
    char path[PATH_ROOM]; /* of the segment being read */
    FILE *out;
    struct crc32c crc;
    uint32_t seed;        /* of its lines */
    struct store *store;  /* the copy */
    uint64_t last;        /* number of the last record copied, as the old log has it */
    uint64_t wrote;       /* and as the new log has it */
    size_t waiting;       /* bytes appended since the last commit */
    uint64_t kept, messages, bad, lost; /* records, messages, places, bytes */
    const char *failed;   /* why it cannot go on; NULL: it can */
};

/* --- files and lines -------------------------------------------------------------------------- */

static void
leave_out(struct repair *r, uint64_t at, size_t n, const char *why)
{
    fprintf(r->out, "%s:%" PRIu64 ": %s: %zu bytes left out\n", r->path, at, why, n);
    r->bad++;
    r->lost += n;
}

/* The whole file; what the disk cannot read becomes zeros, which are no record. */
static bool
read_segment(struct repair *r, struct buf *to)
{
    struct stat st;
    int fd = io_open(&store_disk, r->path, O_RDONLY);

    to->len = 0;
    if (fd < 0 || fstat(fd, &st) != 0) {
        fprintf(r->out, "%s: cannot open: %s: left out\n", r->path, strerror(errno));
        if (fd >= 0)
            close(fd);
        r->bad++;
        return false;
    }
    size_t size = (size_t)st.st_size;
    buf_reserve(to, size + 1);
    while (to->len < size) {
        ssize_t got = io_read(&store_disk, fd, to->p + to->len, size - to->len, to->len);
        if (got == 0)
            break;
        if (got < 0) {
            got = (ssize_t)(SECTOR - to->len % SECTOR);
            if ((size_t)got > size - to->len)
                got = (ssize_t)(size - to->len);
            memset(to->p + to->len, 0, (size_t)got);
        }
        to->len += (size_t)got;
    }
    close(fd);
    return true;
}

/* Hand what was appended to the disk and wait for it. */
static bool
flush_copy(struct repair *r)
{
    r->waiting = 0;
    while (store_durable(r->store) < r->wrote) {
        store_commit(r->store);
        if (store_poll(r->store) == STORE_LOST) {
            r->failed = "the copy cannot be written";
            return false;
        }
        nanosleep(&(struct timespec){0, 100000}, NULL);
    }
    return true;
}

static void
copy_record(struct repair *r, uint64_t at, size_t n, const struct store_rec *rec)
{
    if (rec->number <= r->last) {
        leave_out(r, at, n, "record number out of order");
        return;
    }
    r->last = rec->number;
    if (rec->type == REC_BATCH)
        return;
    if (!rec_is_known(rec->type)) {
        r->failed = "a later version of jim wrote this: repair it with that one";
        return;
    }
    uint64_t number = store_append(r->store, rec->type, rec->conv, rec->seq, rec->json,
                                   rec->time_ms, NULL);
    if (number == 0) {
        r->failed = "the copy cannot be written";
        return;
    }
    r->wrote = number;
    r->kept++;
    r->messages += rec->type == REC_MESSAGE;
    r->waiting += n;
    if (r->waiting > FLUSH_BYTES)
        flush_copy(r);
}

/* A line that is no record: two or more may have become one, where a newline was damaged. Calls
 * itself once a newline. */
static void
salvage_line(struct repair *r, uint64_t at, struct str line, const char *why)
{
    struct store_rec first, last;
    size_t i = 1;

    while (i < line.n && line_parse(&r->crc, r->seed, (struct str){line.p + i, line.n - i},
                                    &last) != NULL)
        i++;
    if (i >= line.n) {
        leave_out(r, at, line.n, why);
        return;
    }
    struct str head = {line.p, i - 1};
    if (line_parse(&r->crc, r->seed, head, &first) == NULL)
        copy_record(r, at, head.n, &first);
    else
        salvage_line(r, at, head, why);
    leave_out(r, at + i - 1, 1, "a damaged newline");
    copy_record(r, at + i, line.n - i, &last);
}

static void
copy_lines(struct repair *r, struct str text, uint64_t at)
{
    while (text.n > 0 && r->failed == NULL) {
        struct store_rec rec;
        char *end = memchr(text.p, '\n', text.n);
        struct str line = {text.p, end != NULL ? (size_t)(end - text.p) : text.n};
        const char *why = line_parse(&r->crc, r->seed, line, &rec);
        if (why == NULL)
            copy_record(r, at, line.n, &rec);
        else
            salvage_line(r, at, line, why);
        size_t used = line.n + (end != NULL);
        text.p += used;
        text.n -= used;
        at += used;
    }
}

/* --- the salt --------------------------------------------------------------------------------- */

/* The checksum that was there before these bytes were added to it: CRC runs backwards as well. */
static uint32_t
crc_before(const struct crc32c *c, uint32_t sum, struct str bytes)
{
    uint8_t index[256]; /* of the table's entry with this first byte: they all differ */

    for (unsigned i = 0; i < 256; i++)
        index[c->t[0][i] >> 24] = (uint8_t)i;
    sum = ~sum;
    for (size_t i = bytes.n; i > 0; i--) {
        uint8_t at = index[sum >> 24];
        sum = (sum ^ c->t[0][at]) << 8 | (uint8_t)(at ^ (uint8_t)bytes.p[i - 1]);
    }
    return ~sum;
}

/* What the line's checksum must have started from; false when it does not look like a line. */
static bool
line_seed(const struct repair *r, struct str line, uint32_t *seed)
{
    char text[9];

    if (line.n < 20 || line.p[8] != ' ')
        return false;
    memcpy(text, line.p, 8);
    text[8] = '\0';
    if (strspn(text, "0123456789abcdef") != 8)
        return false;
    *seed = crc_before(&r->crc, (uint32_t)strtoul(text, NULL, 16),
                       (struct str){line.p + 9, line.n - 9});
    return true;
}

/* The header is lost. Two lines in a row that need the same salt prove it: by chance they would
 * once in four thousand million times. */
static bool
find_seed(struct repair *r, struct str text)
{
    struct str line;
    uint32_t before = 0, seed;
    bool have = false;

    while (str_split(&text, '\n', &line)) {
        if (!line_seed(r, line, &seed))
            continue;
        if (have && seed == before) {
            r->seed = seed;
            return true;
        }
        before = seed;
        have = true;
    }
    return false;
}

/* --- copying ---------------------------------------------------------------------------------- */

static void
copy_segment(struct repair *r, struct buf *text)
{
    struct str rest = {text->p, text->len}, line = rest;
    struct seg_header h;
    char *end = text->len > 0 ? memchr(text->p, '\n', text->len) : NULL;

    if (end != NULL)
        line.n = (size_t)(end - text->p);
    const char *why = end != NULL ? header_parse(&r->crc, line, &h) : "no header";
    if (why == NULL) {
        r->seed = crc32c_add(&r->crc, 0, h.salt, 16);
        copy_lines(r, (struct str){end + 1, text->len - line.n - 1}, line.n + 1);
    } else if (find_seed(r, rest)) {
        copy_lines(r, rest, 0); /* names the header as a line that is none */
    } else {
        leave_out(r, 0, text->len, why);
    }
}

static void
copy_all(struct repair *r, const struct scan *found)
{
    struct buf text = {0};

    crc32c_init(&r->crc);
    for (uint32_t i = 0; i < found->firsts && r->failed == NULL; i++) {
        segment_path(r->path, r->dir, found->first[i], "");
        if (read_segment(r, &text))
            copy_segment(r, &text);
    }
    buf_free(&text);
    if (r->failed == NULL)
        flush_copy(r);
}

/* A server must not start meanwhile. The lock goes with the descriptor; -1: somebody has it. */
static int
lock_source(const char *dir)
{
    char path[PATH_ROOM + 8];

    snprintf(path, sizeof path, "%s/lock", dir);
    int fd = io_open(&store_disk, path, O_RDWR);
    if (fd < 0)
        return errno == ENOENT ? -2 : -1; /* a copy of the files alone: nobody serves it */
    if (store_disk.lock(NULL, fd) == 0)
        return fd;
    close(fd);
    return -1;
}

/* --- the subcommand --------------------------------------------------------------------------- */

static int
say_failed(const char *path, const char *why)
{
    fprintf(stderr, "jim: %s: %s\n", path, why);
    return 2;
}

static bool
sync_parent(const char *path)
{
    char parent[PATH_ROOM];
    const char *slash = strrchr(path, '/');

    snprintf(parent, sizeof parent, "%.*s", slash != NULL ? (int)(slash - path + 1) : 1,
             slash != NULL ? path : ".");
    return io_path(&store_disk, store_disk.sync_dir, parent);
}

/* Write the copy under a name that says it is not finished, and rename it when it is. */
static int
write_copy(const char *dir, const char *to, FILE *out)
{
    struct scan found = {.io = &store_disk, .dir = dir, .go_on = true};
    struct log log = {stderr, LOG_LEVEL_WARN};
    struct repair r = {.dir = dir, .out = out};
    char tmp[PATH_ROOM + 8];

    snprintf(tmp, sizeof tmp, "%s.tmp", to);
    if (access(tmp, F_OK) == 0)
        return say_failed(tmp, "left over from a repair that did not end: remove it first");
    struct store_options o = {.dir = tmp, .policy = STORE_OFF, .segment = 64u << 20, .log = &log};
    r.store = store_open(&o);
    if (r.store == NULL)
        return 2;
    scan_run(&found);
    copy_all(&r, &found);
    scan_free(&found);
    if (store_close(r.store) != 0 && r.failed == NULL)
        r.failed = "the copy cannot be synced";
    if (r.failed == NULL && (!io_rename(&store_disk, tmp, to) || !sync_parent(to)))
        r.failed = strerror(errno);
    if (r.failed != NULL)
        return say_failed(tmp, r.failed);
    fprintf(out, "%s: %" PRIu64 " records, %" PRIu64 " messages kept; %" PRIu64
            " bytes in %" PRIu64 " places left out\n", to, r.kept, r.messages, r.lost, r.bad);
    return 0;
}

int
store_repair(const char *dir, FILE *out)
{
    char name[PATH_ROOM], to[PATH_ROOM];
    size_t n = strlen(dir);
    struct stat st;

    while (n > 1 && dir[n - 1] == '/')
        n--;
    if (n + 40 > sizeof name)
        return say_failed(dir, strerror(ENAMETOOLONG));
    snprintf(name, sizeof name, "%.*s", (int)n, dir);
    snprintf(to, sizeof to, "%.*s.repaired", (int)n, dir);
    if (lstat(to, &st) == 0)
        return say_failed(to, "is there already; remove or rename it first");
    int code = store_check(name, out);
    if (code != 2) {
        fprintf(out, "nothing to repair: no copy made\n");
        return code;
    }
    int lock = lock_source(name); /* only now: store_check() asks for it */
    if (lock == -1)
        return say_failed(name, "in use by a running server, or cannot be locked");
    if (write_copy(name, to, out) == 0)
        fprintf(out, "to use it:\n  mv '%s' '%s.damaged'\n  mv '%s' '%s'\n", name, name, to, name);
    if (lock >= 0)
        close(lock);
    return code;
}
