/* SPDX-License-Identifier: MIT */
/*
 * index.c - where messages stand. In memory: by conversation and seq, four bytes a message. On
 * disk: beside each segment that gets no more records a file of the same name with `.idx`, which
 * tells a start what it would else find by reading the segment:
 *
 *   <crc> jim-idx 2 <size> <last> <prev> <newest> <messages> <records> <n> <m> <salt>
 *   n bytes: the lines that are no messages, as they are
 *   m bytes: of each run its conversation, first seq, count, times and offsets, as varints
 *
 * Such a file is never needed and never believed over the log: one that is missing, cut short,
 * garbled, or not of this very segment (salt, size) is passed over, and the segment read. So it is
 * not synced either. A summary is what becomes of it: kept while records are appended or read.
 *
 *   the index, summaries, .idx files, taking them
 */
#include "store.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define IDX_VERSION 2
#define IDX_HEAD 256          /* more than a head line can have */
#define MAX_IDX (1u << 30)    /* bytes; a longer one is none of ours */
#define IDX_READ (1u << 20)

/* --- the index ------------------------------------------------------------------------------- */

/* Messages of one conversation in one segment, without a gap in their seq, and in order of time. */
struct store_run {
    uint64_t first; /* seq of the first */
    uint32_t segment, count;
    uint32_t cap : 31; /* of `many`; 0: `few` is meant: a quiet conversation costs no malloc */
    uint32_t back : 1; /* the clock was set back before it: it is older than some before it */
    uint32_t newest;   /* when the newest was stored of those since the clock was set back, about */
    union {
        uint32_t few[2];
        uint32_t *many; /* owned */
    } at; /* the lines' offsets */
};
#define MAX_CAP 0x7fffffffu /* a segment has no room for so many: gcc would not believe it */

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
        r->cap = r->count & MAX_CAP;
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
        r->cap = (r->count + r->count / 2 + 1) & MAX_CAP;
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

/*
 * When messages were stored, for the index: in units of 1,024 ms, and in order as long as none is
 * older than one before it by more than STORE_BACK_MS. Clocks are set.
 */
#define BACK ((STORE_BACK_MS >> 10) - 1)

static uint32_t
coarse(int64_t ms)
{
    return ms < 0 ? 0 : ms >> 10 < UINT32_MAX - BACK ? (uint32_t)(ms >> 10) : UINT32_MAX - BACK;
}

/* Begin a run with the place of `rec`, and without it. */
static struct store_run *
index_push(struct store_index *x, const struct store_rec *rec)
{
    uint32_t time = coarse(rec->time_ms), newest = 0;

    if (x->runs > 0) {
        run_seal(&x->run[x->runs - 1]);
        newest = x->run[x->runs - 1].newest;
    }
    if (x->runs == x->cap) {
        x->cap += x->cap / 2 + 1;
        x->run = xrealloc(x->run, x->cap * sizeof x->run[0]);
    }
    bool back = time + BACK < newest;
    x->run[x->runs] = (struct store_run){.first = rec->seq, .segment = rec->segment, .back = back,
                                         .newest = back || time > newest ? time : newest};
    return &x->run[x->runs++];
}

void
store_index_add(struct store_index *x, const struct store_rec *rec)
{
    struct store_run *r = x->runs > 0 ? &x->run[x->runs - 1] : NULL;
    uint32_t time = coarse(rec->time_ms);

    if (r != NULL && rec->seq < r->first + r->count)
        return; /* of a log that somebody else wrote: the first one counts */
    if (r == NULL || r->segment != rec->segment || rec->seq != r->first + r->count ||
        time + BACK < r->newest)
        r = index_push(x, rec);
    else if (time > r->newest)
        r->newest = time;
    if (rec->segment == STORE_ANYWHERE)
        r->count++;
    else
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

/* The first run that begins behind seq. */
static uint32_t
run_behind(const struct store_index *x, uint64_t seq)
{
    uint32_t low = 0, high = x->runs;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (x->run[middle].first <= seq)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool
store_index_find(const struct store_index *x, uint64_t seq, uint32_t *segment, uint32_t *offset)
{
    uint32_t behind = run_behind(x, seq);

    if (behind == 0 || seq - x->run[behind - 1].first >= x->run[behind - 1].count)
        return false;
    struct store_run *r = &x->run[behind - 1];
    *segment = r->segment;
    *offset = r->segment == STORE_ANYWHERE ? 0 : run_offsets(r)[seq - r->first];
    return true;
}

uint64_t
store_index_next(const struct store_index *x, uint64_t seq)
{
    uint32_t behind = run_behind(x, seq);

    if (behind > 0 && seq - x->run[behind - 1].first < x->run[behind - 1].count)
        return seq;
    return behind < x->runs ? x->run[behind].first : 0;
}

void
store_index_ordered(const struct store_index *x, uint64_t seq, uint64_t *first, uint64_t *last)
{
    uint32_t end = run_behind(x, seq), begin = end > 0 ? end - 1 : 0;

    while (begin > 0 && !x->run[begin].back)
        begin--;
    while (end < x->runs && !x->run[end].back)
        end++;
    *first = begin > 0 ? x->run[begin].first : 0;
    *last = end < x->runs ? x->run[end].first - 1 : UINT64_MAX;
}

bool
store_index_reaches(const struct store_index *x, uint32_t segment)
{
    return x->runs > 0 && x->run[x->runs - 1].segment >= segment;
}

void
store_index_drop(struct store_index *x, uint32_t segment)
{
    uint32_t n = 0;

    while (n < x->runs && x->run[n].segment < segment)
        run_free(&x->run[n++]);
    if (n == 0)
        return;
    x->runs -= n;
    memmove(x->run, x->run + n, x->runs * sizeof x->run[0]);
    if (x->runs == 0)
        store_index_free(x);
}

/* --- varints: seven bits a byte, the lowest first --------------------------------------------- */

static void
put_varint(struct buf *b, uint64_t v)
{
    buf_reserve(b, 10);
    for (; v >= 0x80; v >>= 7)
        b->p[b->len++] = (char)(v | 0x80);
    b->p[b->len++] = (char)v;
}

static bool
take_varint(struct str *rest, uint64_t *out)
{
    uint64_t v = 0;

    for (size_t i = 0; i < rest->n && i < 10; i++) {
        v |= (uint64_t)(rest->p[i] & 0x7f) << (7 * i);
        if ((rest->p[i] & 0x80) == 0) {
            *out = v;
            rest->p += i + 1;
            rest->n -= i + 1;
            return true;
        }
    }
    return false;
}

static bool
take_bytes(struct str *rest, struct str *out)
{
    uint64_t n;

    if (!take_varint(rest, &n) || n > rest->n)
        return false;
    *out = (struct str){rest->p, (size_t)n};
    rest->p += n;
    rest->n -= (size_t)n;
    return true;
}

/* A whole run at once: what a start does, some hundred thousand times. */
void
store_index_add_span(struct store_index *x, const struct store_span *span)
{
    struct str rest = span->places;
    struct store_run *r = x->runs > 0 ? &x->run[x->runs - 1] : NULL;
    struct store_rec rec = {.type = REC_MESSAGE, .segment = span->segment,
                            .time_ms = (int64_t)span->oldest << 10};
    uint64_t delta, offset = 0;

    bool whole = r == NULL || span->first >= r->first + r->count;
    if (whole) {
        rec.seq = span->first;
        r = index_push(x, &rec);
        if (span->count > 2) {
            r->at.many = xmalloc(span->count * sizeof r->at.many[0]);
            r->cap = span->count & MAX_CAP;
        }
    }
    for (uint32_t i = 0; i < span->count && take_varint(&rest, &delta); i++) {
        offset += delta;
        rec.offset = (uint32_t)offset;
        rec.seq = span->first + i;
        if (whole)
            run_add(r, rec.offset);
        else
            store_index_add(x, &rec); /* of a log that somebody else wrote */
    }
    r = &x->run[x->runs - 1];
    if (span->newest > r->newest)
        r->newest = span->newest;
}

/* --- summaries -------------------------------------------------------------------------------- */

struct sum_conv {
    uint32_t hash;
    uint32_t run; /* its last one, if that still belongs to it */
    struct str key; /* of the bytes behind */
    char text[];
};

struct sum_run {
    struct sum_conv *conv;
    uint64_t first;
    uint32_t count;
    uint32_t at; /* while it is sorted: the place of the next */
    uint32_t oldest, newest; /* coarse() */
};

struct sum_place {
    uint32_t run, offset;
};

struct summary {
    char salt[17];
    uint64_t prev;       /* the last number of the segment before */
    struct summary_mark now;
    struct buf states;   /* lines */
    struct map convs;    /* of struct sum_conv; owned */
    struct sum_conv *recent; /* looked for last: neighbours are often of one conversation */
    struct sum_run *run; /* owned */
    struct sum_place *place; /* owned: of every message, in order of the log */
    size_t run_cap, place_cap;
};

struct summary *
summary_new(const char salt[17], uint64_t prev)
{
    struct summary *m = xcalloc(1, sizeof *m);

    memcpy(m->salt, salt, sizeof m->salt);
    m->prev = prev;
    map_init(&m->convs);
    return m;
}

void
summary_again(struct summary *m, const char salt[17])
{
    memcpy(m->salt, salt, sizeof m->salt);
    m->prev = 0;
    m->now = (struct summary_mark){0};
    m->states.len = 0;
}

void
summary_prev(struct summary *m, uint64_t prev)
{
    m->prev = prev;
}

void
summary_free(struct summary *m)
{
    size_t at = 0;
    void *item;

    if (m == NULL)
        return;
    while ((item = map_next(&m->convs, &at)) != NULL)
        free(item);
    map_free(&m->convs);
    buf_free(&m->states);
    free(m->run);
    free(m->place);
    free(m);
}

static bool
conv_is(const void *item, const void *key)
{
    return str_eq(((const struct sum_conv *)item)->key, *(const struct str *)key);
}

static struct sum_conv *
summary_conv(struct summary *m, struct str key)
{
    if (m->recent != NULL && str_eq(m->recent->key, key))
        return m->recent;
    uint32_t hash = map_hash(&m->convs, key.p, key.n);
    struct sum_conv *c = map_find(&m->convs, hash, conv_is, &key);
    if (c == NULL) {
        c = xmalloc(sizeof *c + key.n);
        *c = (struct sum_conv){.hash = hash, .run = UINT32_MAX, .key = {c->text, key.n}};
        memcpy(c->text, key.p, key.n);
        map_add(&m->convs, c);
    }
    m->recent = c;
    return c;
}

static void
summary_message(struct summary *m, const struct store_rec *rec)
{
    struct sum_conv *c = summary_conv(m, rec->conv);
    struct sum_run *r = c->run < m->now.runs ? &m->run[c->run] : NULL;
    uint32_t time = coarse(rec->time_ms);

    if (r != NULL && r->conv != c) /* the run was cut, and its place taken by another's */
        r = NULL;
    if (r != NULL && rec->seq < r->first + r->count)
        return; /* as store_index_add() */
    if (r == NULL || rec->seq != r->first + r->count || time + BACK < r->newest) {
        GROW(m->run, m->now.runs, m->run_cap, 64);
        c->run = m->now.runs;
        r = &m->run[m->now.runs++];
        *r = (struct sum_run){.conv = c, .first = rec->seq, .oldest = time, .newest = time};
    }
    r->count++;
    if (time < r->oldest)
        r->oldest = time;
    if (time > r->newest)
        r->newest = time;
    GROW(m->place, m->now.places, m->place_cap, 256);
    m->place[m->now.places++] = (struct sum_place){c->run, rec->offset};
}

void
summary_add(struct summary *m, const struct store_rec *rec, struct str line)
{
    m->now.last = rec->number;
    m->now.records++;
    if (rec->time_ms > m->now.newest)
        m->now.newest = rec->time_ms;
    if (rec->type == REC_MESSAGE) {
        m->now.messages++;
        summary_message(m, rec);
    } else if (rec_is_state(rec->type)) {
        buf_str(&m->states, line);
        m->now.states = m->states.len;
    }
}

size_t
summary_held(const struct summary *m)
{
    return m->states.cap + m->run_cap * sizeof m->run[0] + m->place_cap * sizeof m->place[0];
}

struct summary_mark
summary_now(const struct summary *m)
{
    return m->now;
}

void
summary_cut(struct summary *m, const struct summary_mark *mark)
{
    while (m->now.places > mark->places)
        m->run[m->place[--m->now.places].run].count--;
    m->now = *mark;
    m->states.len = mark->states;
}

/* --- .idx files ------------------------------------------------------------------------------- */

/* The offsets of every run, one run behind the other: a counting sort. */
static uint32_t *
sort_places(struct summary *m)
{
    uint32_t *sorted = xmalloc((m->now.places + 1) * sizeof *sorted), at = 0;

    for (uint32_t i = 0; i < m->now.runs; i++) {
        m->run[i].at = at;
        at += m->run[i].count;
    }
    for (uint32_t i = 0; i < m->now.places; i++)
        sorted[m->run[m->place[i].run].at++] = m->place[i].offset;
    return sorted;
}

static void
put_runs(struct summary *m, struct buf *to)
{
    uint32_t *sorted = sort_places(m), *next = sorted;
    struct buf places = {0};

    for (uint32_t i = 0; i < m->now.runs; i++) {
        const struct sum_run *r = &m->run[i];
        uint32_t before = 0;
        if (r->count == 0)
            continue; /* all of it was cut */
        put_varint(to, r->conv->key.n);
        buf_str(to, r->conv->key);
        put_varint(to, r->first);
        put_varint(to, r->count);
        put_varint(to, r->oldest);
        put_varint(to, r->newest - r->oldest);
        places.len = 0;
        for (uint32_t k = 0; k < r->count; k++) {
            put_varint(&places, *next - before);
            before = *next++;
        }
        put_varint(to, places.len);
        buf_add(to, places.p, places.len);
    }
    buf_free(&places);
    free(sorted);
}

void
idx_put(struct summary *m, const struct crc32c *crc, uint64_t size, struct buf *to)
{
    const struct summary_mark *now = &m->now;
    struct buf runs = {0};
    char sum[9];

    put_runs(m, &runs);
    to->len = 0;
    buf_printf(to, "........ jim-idx %d %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRId64 " %" PRIu64
               " %" PRIu64 " %zu %zu %s\n", IDX_VERSION, size, now->last, m->prev, now->newest,
               now->messages, now->records, m->states.len, runs.len, m->salt);
    buf_add(to, m->states.p, m->states.len);
    buf_add(to, runs.p, runs.len);
    snprintf(sum, sizeof sum, "%08" PRIx32, crc32c_add(crc, 0, to->p + 9, to->len - 9));
    memcpy(to->p, sum, 8);
    buf_free(&runs);
}

/* Not synced: what a power cut makes of it fails its checksum. */
void
idx_write(const struct store_io *io, const char *dir, uint64_t first, const struct buf *file)
{
    char path[PATH_ROOM], tmp[PATH_ROOM];

    segment_path(path, dir, first, ".idx");
    segment_path(tmp, dir, first, ".idx.tmp");
    int fd = io_open(io, tmp, O_WRONLY | O_CREAT | O_TRUNC);
    if (fd < 0)
        return;
    bool ok = io_write(io, fd, file->p, file->len, 0);
    io->close(io->arg, fd);
    if (!ok || !io_rename(io, tmp, path))
        io_path(io, io->unlink, tmp);
}

/* What such a file says; views of its bytes. */
struct idx {
    uint64_t size, last, prev, newest, messages, records;
    struct str states, runs;
    char salt[17];
};

static bool
idx_parse(struct str file, struct idx *x)
{
    struct str rest = file, line, word;
    uint64_t version, states, runs;

    if (!str_split(&rest, '\n', &line) || rest.p == NULL || line.n < 9 || line.n > IDX_HEAD)
        return false;
    line.p += 9;
    line.n -= 9;
    if (!str_split(&line, ' ', &word) || !str_eq(word, STR("jim-idx")) || line.p == NULL ||
        !take_number(&line, &version) || version != IDX_VERSION || !take_number(&line, &x->size) ||
        !take_number(&line, &x->last) || !take_number(&line, &x->prev) ||
        !take_number(&line, &x->newest) || !take_number(&line, &x->messages) ||
        !take_number(&line, &x->records) || !take_number(&line, &states) ||
        !take_number(&line, &runs) || line.n != 16 || states > rest.n || runs != rest.n - states)
        return false;
    memcpy(x->salt, line.p, 16);
    x->salt[16] = '\0';
    x->states = (struct str){rest.p, (size_t)states};
    x->runs = (struct str){rest.p + states, (size_t)runs};
    return true;
}

static bool
take_span(struct str *rest, struct store_span *span)
{
    uint64_t count, oldest, more;

    if (!take_bytes(rest, &span->conv) || !take_varint(rest, &span->first) ||
        !take_varint(rest, &count) || !take_varint(rest, &oldest) || !take_varint(rest, &more) ||
        !take_bytes(rest, &span->places) || span->first > MAX_NUMBER || count == 0 ||
        count > span->places.n || oldest > UINT32_MAX - BACK || more > UINT32_MAX - BACK - oldest)
        return false;
    span->count = (uint32_t)count;
    span->oldest = (uint32_t)oldest;
    span->newest = (uint32_t)(oldest + more);
    return true;
}

static bool
file_read(const struct store_io *io, const char *path, struct buf *to)
{
    int fd = io_open(io, path, O_RDONLY);
    ssize_t got = 1;

    to->len = 0;
    if (fd < 0)
        return false;
    while (got > 0 && to->len < MAX_IDX) {
        buf_reserve(to, IDX_READ);
        got = io_read(io, fd, to->p + to->len, IDX_READ, to->len);
        if (got > 0)
            to->len += (size_t)got;
    }
    io->close(io->arg, fd);
    return got == 0;
}

/* --- taking them: a start --------------------------------------------------------------------- */

/* Hand over what a summary of segment number `segment` says. False, having handed over nothing,
 * when there is a line in it that is none, or one this version must not go on without. */
static bool
replay_idx(struct scan *c, const struct idx *x, uint32_t segment, uint32_t seed)
{
    struct store_span span = {.segment = segment};
    struct store_rec rec;
    struct str rest = x->states, line;

    while (rest.n > 0 && str_split(&rest, '\n', &line))
        if (line_parse(&c->crc, seed, line, &rec) != NULL || !rec_is_known(rec.type))
            return false;
    for (rest = x->runs; rest.n > 0;)
        if (!take_span(&rest, &span))
            return false;
    for (rest = x->states; rest.n > 0 && str_split(&rest, '\n', &line);) {
        line_parse(&c->crc, seed, line, &rec);
        rec.segment = segment;
        rec.offset = 0;
        if (c->record != NULL)
            c->record(c->arg, &rec);
    }
    for (rest = x->runs; rest.n > 0 && take_span(&rest, &span);)
        c->span(c->arg, &span);
    return true;
}

/* Is this the .idx of the segment that is there? */
static bool
idx_belongs(struct scan *c, const struct idx *x, uint64_t first)
{
    char path[PATH_ROOM], head[HEADER_ROOM], end[2];
    struct seg_header h;

    segment_path(path, c->dir, first, "");
    if (x->size < HEADER_ROOM / 4 || x->size > UINT32_MAX)
        return false;
    int fd = io_open(c->io, path, O_RDONLY);
    if (fd < 0)
        return false;
    ssize_t got = io_read(c->io, fd, head, sizeof head, 0);
    const char *newline = got > 0 ? memchr(head, '\n', (size_t)got) : NULL;
    bool ok = newline != NULL &&
              header_parse(&c->crc, (struct str){head, (size_t)(newline - head)}, &h) == NULL &&
              memcmp(h.salt, x->salt, 16) == 0 &&
              io_read(c->io, fd, end, 2, x->size - 1) == 1 && end[0] == '\n';
    c->io->close(c->io->arg, fd);
    return ok;
}

bool
idx_take(struct scan *c, uint64_t first)
{
    char path[PATH_ROOM];
    struct idx x;
    struct buf *b = &c->idx;
    char sum[9];

    segment_path(path, c->dir, first, ".idx");
    if (!file_read(c->io, path, b) || b->len < 9 || !idx_parse((struct str){b->p, b->len}, &x))
        return false;
    snprintf(sum, sizeof sum, "%08" PRIx32, crc32c_add(&c->crc, 0, b->p + 9, b->len - 9));
    if (memcmp(sum, b->p, 8) != 0 || b->p[8] != ' ' || !idx_belongs(c, &x, first) ||
        first <= c->last || x.last < first || !scan_follows(c, c->segs, x.prev))
        return false;
    uint32_t seed = crc32c_add(&c->crc, 0, x.salt, 16);
    if (!replay_idx(c, &x, c->segs, seed))
        return false;
    segment_push(&c->seg, &c->segs, &c->cap,
                 (struct segment){.first = first, .seed = seed, .size = (uint32_t)x.size,
                                  .newest = (int64_t)x.newest, .messages = x.messages});
    c->last = x.last;
    c->records += x.records;
    c->messages += x.messages;
    c->closed = false;
    summary_free(c->sum); /* of a segment before: nothing will be added to that */
    c->sum = NULL;
    return true;
}

void
idx_replay(struct scan *c)
{
    const struct segment *seg = &c->seg[c->segs - 1];
    struct idx x;

    idx_put(c->sum, &c->crc, seg->size, &c->idx);
    if (idx_parse((struct str){c->idx.p, c->idx.len}, &x))
        replay_idx(c, &x, c->segs - 1, seg->seed);
}
