/* SPDX-License-Identifier: MIT */
/*
 * segment.c - how a log looks on disk and how it is read as a whole. A directory holds `lock` and
 * segments, each named by its first record number; a segment is a header line and then one line a
 * record:
 *
 *   jim-log 1 <salt> fresh <crc>
 *   <crc> <number> <time_ms> <type> <conversation> <seq> <json>
 *
 * Who reads a log relies on five rules. A segment is synced before the next one appears. Each batch
 * begins with a record that names the highest number already synced: a bad line below a number
 * named later is damage, any other bad line in the last segment is what a power cut leaves. The
 * first batch of a segment names the last number before it: only oldest segments may be missing.
 * What could not be written is cut off again, and the cut synced before anything is written over
 * it. And after an unclean stop numbers jump and a new segment begins: no number ever has two
 * contents.
 *
 *   lines, scanning, subcommands
 */
#include "store.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAGIC "jim-log"
#define VERSION 1
#define CHUNK (1u << 18) /* bytes a read at start: what was read is still in the cache when used */

/* --- lines ------------------------------------------------------------------------------------ */

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

/* Digits and a blank, which is consumed too. NULL, or where the rest begins. */
static const char *
skip_number(const char *p, const char *end, uint64_t *out)
{
    const char *start = p;
    uint64_t v = 0;
    unsigned digit;

    for (; p < end && (digit = (unsigned)*p - '0') <= 9; p++)
        v = v * 10 + digit;
    if (p == start || p - start > 18 || p == end || *p != ' ')
        return NULL;
    *out = v;
    return p + 1;
}

bool
take_number(struct str *rest, uint64_t *out)
{
    const char *p = rest->n > 0 ? skip_number(rest->p, rest->p + rest->n, out) : NULL;

    if (p == NULL)
        return false;
    rest->n -= (size_t)(p - rest->p);
    rest->p = p;
    return true;
}

void
line_put(struct buf *b, const struct crc32c *crc, uint32_t seed, struct digits *time,
         const struct store_rec *r)
{
    buf_reserve(b, LINE_HEAD + r->conv.n + r->json.n);
    char *line = b->p + b->len, *body = line + 9;
    char *to = at_lit(json_int_at(body, (int64_t)r->number), " ");

    to = at_lit(digits_at(time, to, r->time_ms), " ");
    *to++ = r->type;
    to = at_lit(to, " ");
    memcpy(to, r->conv.p, r->conv.n);
    to = at_lit(to + r->conv.n, " ");
    to = at_lit(json_int_at(to, (int64_t)r->seq), " ");
    memcpy(to, r->json.p, r->json.n);
    to += r->json.n;
    put_hex(line, crc32c_add(crc, seed, body, (size_t)(to - body)));
    line[8] = ' ';
    *to++ = '\n';
    b->len = (size_t)(to - b->p);
}

/* Read a line, without its newline, into views. NULL, or what is wrong with it. The cheap tests
 * come first: holds_proof() tries this at every byte of a bad line. */
const char *
line_parse(const struct crc32c *crc, uint32_t seed, struct str line, struct store_rec *r)
{
    const char *body = line.p + 9, *end = line.p + line.n, *p, *conv;
    uint32_t sum;
    uint64_t time_ms;

    if (line.n < 9 || line.p[8] != ' ' || !take_hex(line.p, &sum) ||
        (p = skip_number(body, end, &r->number)) == NULL ||
        (p = skip_number(p, end, &time_ms)) == NULL || end - p < 2 || p[1] != ' ')
        return "not a record";
    r->type = p[0];
    for (conv = p += 2; p < end && *p != ' ';)
        p++;
    r->conv = (struct str){conv, (size_t)(p - conv)};
    if (p == end || (p = skip_number(p + 1, end, &r->seq)) == NULL)
        return "not a record";
    r->json = (struct str){p, (size_t)(end - p)};
    if (crc32c_add(crc, seed, body, (size_t)(end - body)) != sum)
        return "bad checksum";
    r->time_ms = (int64_t)time_ms;
    return NULL;
}

/* The length of the header line, newline included. */
size_t
header_put(char dst[HEADER_ROOM], const struct crc32c *crc, const struct seg_header *h)
{
    int n = snprintf(dst, HEADER_ROOM, "%s %d %s fresh ", MAGIC, VERSION, h->salt);

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
    if (!take_word(&rest, &salt) || salt.n != 16 || !take_word(&rest, &kind) || rest.n != 8 ||
        !take_hex(rest.p, &sum) || sum != crc32c_add(crc, 0, line.p, line.n - 9))
        return "bad header";
    if (!str_eq(kind, STR("fresh")))
        return "a kind of segment this version of jim does not know";
    memcpy(h->salt, salt.p, 16);
    h->salt[16] = '\0';
    return NULL;
}

/* The number behind `key` in a REC_BATCH; false when there is none. */
static bool
batch_number(struct str json, struct str key, uint64_t *out)
{
    size_t at = 0;

    while (at + key.n <= json.n && memcmp(json.p + at, key.p, key.n) != 0)
        at++;
    if (at + key.n > json.n)
        return false;
    *out = 0;
    for (at += key.n; at < json.n && json.p[at] >= '0' && json.p[at] <= '9'; at++)
        *out = *out * 10 + (uint64_t)(json.p[at] - '0');
    return true;
}

/* The number that one says was synced. */
static uint64_t
batch_synced(struct str json)
{
    uint64_t v = 0;

    batch_number(json, STR("{\"synced\":"), &v);
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
 * Does a REC_BATCH in this line prove that record `number` was once synced? In a bad line it may
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
 * A line of the last segment is bad, or record `number` is missing. Damage or a torn tail? Valid
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

bool
rec_is_known(char type)
{
    return type == REC_MESSAGE || type < 'A' || type > 'Z' || strchr("CGJLSU", type) != NULL;
}

bool
rec_is_state(char type)
{
    return type >= 'A' && type <= 'Z' && type != REC_MESSAGE;
}

/* A batch tells how far the log was synced when it was written; what stands before the batch behind
 * that needs not be written anew by a start. */
static void
scan_proof(struct scan *c, const struct store_rec *rec)
{
    struct scan_head head = {rec->number, rec->offset};
    uint64_t synced = batch_synced(rec->json);

    buf_add(&c->heads, &head, sizeof head);
    for (; c->head_at < c->heads.len; c->head_at += sizeof head) {
        memcpy(&head, c->heads.p + c->head_at, sizeof head);
        if (head.number > synced + 1)
            return;
        c->proven = head.offset;
    }
    c->heads.len = c->head_at = 0;
}

/* Take one good line. Returns NULL, or why this version must not go on. */
static const char *
scan_record(struct scan *c, const struct store_rec *rec, struct str line)
{
    struct segment *seg = &c->seg[c->segs - 1];

    if (!rec_is_known(rec->type))
        return "a record only a later version of jim understands";
    if (rec->type == REC_BATCH)
        scan_proof(c, rec);
    c->last = rec->number;
    c->records++;
    c->closed = rec->type == REC_BATCH && batch_closed(rec->json);
    if (rec->time_ms > seg->newest)
        seg->newest = rec->time_ms;
    if (rec->type == REC_MESSAGE) {
        c->messages++;
        seg->messages++;
    }
    if (c->sums)
        summary_add(c->sum, rec, (struct str){line.p, line.n + 1});
    if (c->record != NULL && c->span == NULL && rec->type >= 'A' && rec->type <= 'Z')
        c->record(c->arg, rec);
    return NULL;
}

bool
scan_follows(const struct scan *c, uint32_t before, uint64_t prev)
{
    if (before == 0)
        return true; /* retention may have dropped any number */
    return c->last > 0 ? prev == c->last : prev < c->seg[0].first;
}

/* The first record of a segment. Returns NULL, or why it cannot follow what was read before: its
 * checksum is right, so this is no torn tail. */
static const char *
scan_first(struct scan *c, const struct store_rec *rec)
{
    uint64_t prev = 0;

    if (rec->number != c->seg[c->segs - 1].first)
        return "the file's name is not the one it was given";
    if (rec->type != REC_BATCH || !batch_number(rec->json, STR(",\"prev\":"), &prev))
        return "begins without saying what was before";
    if (rec->number <= c->last || !scan_follows(c, c->segs - 1, prev))
        return "records before this segment are missing";
    if (c->sums)
        summary_prev(c->sum, prev);
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

/* One line of the current segment, at `at`, and what is wrong with it so far. *next: the number it
 * must have, 0 behind a damaged one; then of the line behind. False: the scan ends here. */
static bool
scan_line(struct scan *c, uint64_t at, struct str line, const char *why, uint64_t *next)
{
    struct segment *seg = &c->seg[c->segs - 1];
    struct store_rec rec;

    if (why == NULL)
        why = line_parse(&c->crc, seg->seed, line, &rec);
    if (why == NULL && at == c->head) {
        const char *wrong = scan_first(c, &rec);
        if (wrong != NULL && !scan_bad(c, SCAN_DAMAGED, seg->first, 0, wrong) && !c->go_on)
            return false;
    } else if (why == NULL && (*next != 0 ? rec.number != *next : rec.number <= c->last)) {
        why = "record number out of order";
    }
    if (reader_tell(&c->reader) > UINT32_MAX)
        return scan_bad(c, SCAN_DAMAGED, seg->first, at, "larger than a segment can be");
    if (why != NULL) {
        bool more = scan_bad_line(c, at, line, *next, why);
        *next = 0;
        return more;
    }
    rec.segment = c->segs - 1;
    rec.offset = (uint32_t)at;
    why = scan_record(c, &rec, line);
    if (why != NULL)
        return scan_bad(c, SCAN_DAMAGED, seg->first, at, why);
    *next = rec.number + 1;
    return true;
}

static bool
scan_lines(struct scan *c)
{
    struct segment *seg = &c->seg[c->segs - 1];
    uint64_t next = seg->first;

    for (;;) {
        struct str line;
        uint64_t at = reader_tell(&c->reader);
        enum line got = next_line(&c->reader, &line);
        seg->size = (uint32_t)at;
        if (got == LINE_END)
            return true;
        if (got == LINE_ERROR)
            return scan_bad(c, SCAN_ERROR, seg->first, at, "cannot read");
        if (!scan_line(c, at, line, got == LINE_PART ? "an unfinished line" : NULL, &next))
            return false;
    }
}

void
segment_push(struct segment **seg, uint32_t *segs, uint32_t *cap, struct segment add)
{
    GROW(*seg, *segs, *cap, 16);
    (*seg)[(*segs)++] = add;
}

/* All but the last share one, so that the conversations in it are found where they were. */
static void
scan_begin_sum(struct scan *c, bool last)
{
    if (c->sum != NULL && !last) {
        summary_again(c->sum, c->salt);
        return;
    }
    summary_free(c->sum);
    c->sum = summary_new(c->salt, 0);
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
    if (why != NULL)
        return scan_bad(c, SCAN_DAMAGED, first, 0, why);
    uint32_t seed = crc32c_add(&c->crc, 0, h.salt, 16);
    segment_push(&c->seg, &c->segs, &c->cap, (struct segment){.first = first, .seed = seed});
    memcpy(c->salt, h.salt, sizeof c->salt);
    c->head = c->proven = line.n + 1;
    c->heads.len = c->head_at = 0;
    c->closed = false; /* an empty segment behind a clean stop: somebody died beginning it */
    if (c->sums)
        scan_begin_sum(c, first == c->first[c->firsts - 1]);
    return scan_lines(c);
}

/* A segment has been read, as far as it could be. */
static void
scan_sum(struct scan *c, uint64_t first)
{
    if (c->segs == 0 || c->seg[c->segs - 1].first != first || c->sum == NULL)
        return;
    if (c->span != NULL)
        idx_replay(c);
    if (c->span != NULL && c->tidy && c->result == SCAN_CLEAN && first != c->first[c->firsts - 1] &&
        summary_now(c->sum).records > 0) {
        char path[PATH_ROOM];
        segment_path(path, c->dir, first, ".idx");
        io_path(c->io, c->io->unlink, path); /* a bad one: replaced, it might be synced for it */
        idx_write(c->io, c->dir, first, &c->idx);
    }
}

static int
compare_numbers(const void *a, const void *b)
{
    uint64_t x, y;

    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

/* Remove what is no use to anybody: if it stays, it is no harm. */
static void
scan_tidy(struct scan *c, const char *name)
{
    char path[PATH_ROOM];
    uint64_t first = strtoull(name, NULL, 10);
    bool segment = false;

    if (strcmp(name + strlen(name) - 4, ".tmp") != 0)
        for (uint32_t i = 0; i < c->firsts; i++)
            segment |= c->first[i] == first;
    snprintf(path, sizeof path, "%s/%s", c->dir, name);
    if (!segment)
        io_path(c->io, c->io->unlink, path);
}

/* The number in a name that is a segment's, or of what belongs to one; else 0. */
static uint64_t
name_number(const char *name)
{
    uint64_t first = strspn(name, "0123456789") == 20 ? strtoull(name, NULL, 10) : 0;

    return first <= MAX_NUMBER && first > 0 && strncmp(name + 20, ".log", 4) == 0 ? first : 0;
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
        uint64_t first = name_number(names.p + at);
        if (first == 0 || names.p[at + 24] != '\0')
            continue;
        GROW(c->first, c->firsts, cap, 16);
        c->first[c->firsts++] = first;
    }
    if (c->firsts > 0)
        qsort(c->first, c->firsts, sizeof c->first[0], compare_numbers);
    for (size_t at = 0; c->tidy && at < names.len; at += strlen(names.p + at) + 1) {
        const char *name = names.p + at, *suffix = name_number(name) > 0 ? name + 24 : "";
        if (strcmp(name, SPARE) == 0 || strcmp(suffix, ".tmp") == 0 ||
            strcmp(suffix, ".idx.tmp") == 0 || strcmp(suffix, ".idx") == 0)
            scan_tidy(c, name);
    }
    buf_free(&names);
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
        if (c->span != NULL && i + 1 < c->firsts && idx_take(c, c->first[i]))
            continue;
        segment_path(path, c->dir, c->first[i], "");
        c->reader.fd = io_open(c->io, path, O_RDONLY);
        if (c->reader.fd < 0) {
            scan_bad(c, SCAN_ERROR, c->first[i], 0, "cannot open");
            continue;
        }
        reader_seek(&c->reader, 0);
        scan_segment(c, c->first[i]);
        c->io->close(c->io->arg, c->reader.fd);
        scan_sum(c, c->first[i]);
    }
}

void
scan_messages(struct scan *c, uint32_t segment, uint64_t skip,
              void (*fn)(void *arg, const struct store_rec *rec))
{
    for (; segment < c->segs; segment++) {
        const struct segment *seg = &c->seg[segment];
        char path[PATH_ROOM];
        struct store_rec rec;
        struct str line;
        segment_path(path, c->dir, seg->first, "");
        c->reader.fd = io_open(c->io, path, O_RDONLY);
        if (c->reader.fd < 0)
            continue;
        reader_seek(&c->reader, 0);
        while (next_line(&c->reader, &line) == LINE_WHOLE &&
               reader_tell(&c->reader) <= seg->size) {
            if (line_parse(&c->crc, seg->seed, line, &rec) != NULL || rec.type != REC_MESSAGE)
                continue; /* the header, for one */
            if (skip > 0)
                skip--;
            else
                fn(c->arg, &rec);
        }
        c->io->close(c->io->arg, c->reader.fd);
    }
}

void
scan_free(struct scan *c)
{
    buf_free(&c->reader.buf);
    buf_free(&c->idx);
    buf_free(&c->heads);
    summary_free(c->sum);
    free(c->first);
    free(c->seg);
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
    scan_free(&c);
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
    scan_free(&c);
    return bad ? 2 : 0;
}

int
store_export(const char *dir, FILE *out)
{
    return store_walk(dir, export_record, out);
}
