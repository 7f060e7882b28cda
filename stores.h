/* SPDX-License-Identifier: MIT */
/*
 * stores.h - a part of jim.h: what the server sees of a store, whichever it is. Included there,
 * where all it needs is declared.
 */
#ifndef STORES_H
#define STORES_H

enum store_policy { STORE_GROUP = -1, STORE_OFF = -2 }; /* else: milliseconds between syncs */

/* Record types. A capital must be understood; a reader that does not know a small letter skips
 * it. */
enum store_type {
    REC_MESSAGE = 'M',  /* seq: its place in the conversation; json: the chat object */
    REC_BATCH = 'b',    /* json: {"synced":N}: all up to N were on disk before this was written;
                           "prev":P in a segment's first: the last number before the segment;
                           "closed":true: a clean stop. Not handed to replay() */
    REC_CURSOR = 'C',   /* seq: delivered up to; json: {"userId":…[,"live":[lo,hi]]} */
    REC_GROUP = 'G',    /* json: {["dismissed":true,]"groupId":…[,"life":N][,"name":…]}: what is
                           known of a group, latest wins; a higher life ends all memberships */
    REC_JOIN = 'J',     /* seq: the last message before; json: {["life":N,]"userId":…} */
    REC_LEAVE = 'L',    /* json: {"userId":…} */
    REC_SEQ = 'S',      /* seq: the conversation's last so far, of a message no longer kept; {} */
    REC_USER = 'U'      /* conversation "-"; json: {"userId":…, profile}: latest wins */
};

struct store_rec {
    uint64_t number;  /* the log's own, rising */
    int64_t time_ms;  /* server's wall clock at append */
    char type;        /* enum store_type */
    uint64_t seq;     /* the conversation's number it is about, 0 when about none */
    struct str conv;  /* conversation key: no blanks or control characters; "-" for none */
    struct str json;
    uint32_t segment; /* where it stands: number of the segment in this process */
    uint32_t offset;  /* byte offset of its line in it */
};

/* Messages of one conversation in one segment, without a gap in their seq, and in order of time:
 * what a start takes at once. */
struct store_span {
    struct str conv;
    uint64_t first; /* seq of the first */
    uint32_t segment, count;
    uint32_t oldest, newest; /* when they were stored, about: for store_index_add_span(), too */
    struct str places; /* where their lines stand: for store_index_add_span() */
};

/* Positions of one conversation's messages, by seq. Zero struct at the start; memory is the store's
 * business: about 4 bytes a message. Embedded by the conversation. */
struct store_index {
    struct store_run *run; /* owned: messages of one segment, oldest run first */
    uint32_t runs, cap;
};

/* How the store reaches the disk: tests put faults and a simulated disk here. The functions
 * behave as their POSIX namesakes and set errno. NULL in struct store_options means the real
 * disk. */
struct store_io {
    void *arg; /* handed to each */
    int (*open)(void *arg, const char *path, int flags, mode_t mode);
    int (*close)(void *arg, int fd);
    ssize_t (*pwrite)(void *arg, int fd, const void *p, size_t n, off_t at);
    ssize_t (*pread)(void *arg, int fd, void *p, size_t n, off_t at);
    int (*truncate)(void *arg, int fd, off_t size);
    int (*sync)(void *arg, int fd);                      /* data and size */
    int (*sync_dir)(void *arg, const char *path);
    int (*rename)(void *arg, const char *from, const char *to);
    int (*unlink)(void *arg, const char *path);
    int (*mkdir)(void *arg, const char *path, mode_t mode);
    /* Names in a directory, each NUL-terminated, appended to out. 0 or -1. */
    int (*list)(void *arg, const char *path, struct buf *out);
    int (*lock)(void *arg, int fd); /* exclusive, until closed; -1 when another has it */
};

struct store_options {
    const char *dir;
    int64_t policy;       /* enum store_policy, or ms */
    uint64_t segment;     /* bytes at which a new segment is begun */
    const struct log *log;
    const struct store_io *io;
    /* Called from the helper thread when store_poll() has something to say; until store_close() has
     * returned. One call may stand for several pieces of news: poll every turn. */
    void (*ready)(void *arg);
    /* Each valid record at start, oldest first; views live until it returns. */
    void (*replay)(void *arg, const struct store_rec *rec);
    /* NULL, or: messages come here, so that they need not be read one by one; what is no message
     * comes to replay() before the messages of its segment, without an offset. */
    void (*span)(void *arg, const struct store_span *span);
    /* NULL, or: then the newest messages, at most recent_max stored since recent_ms, and perhaps
     * some older ones of the same segment; oldest first. */
    void (*recent)(void *arg, const struct store_rec *rec);
    uint64_t recent_max;
    int64_t recent_ms;
    void *arg; /* for all */
};

/* --- every store ------------------------------------------------------------------------------ */

struct store;

enum store_news {
    STORE_SAME, /* nothing new */
    STORE_MORE, /* store_durable() has risen */
    STORE_LOST  /* a batch could not be written: every record above store_durable() is gone, and the
                   caller must forget them (store_index_cut()); the store may work on (disk full) */
};

#define STORE_BOUNDS 13 /* of the histogram of waiting times */
extern const int64_t store_bounds_us[STORE_BOUNDS];
struct store_stats { /* since it was opened */
    uint64_t appended, durable; /* records; those of lost batches stay in `appended` alone */
    uint64_t batches, lost;     /* batches that became durable; that could not be written */
    uint64_t bytes;             /* of the former */
    uint64_t segments, size;    /* files of the log, and their bytes, now */
    uint64_t within[STORE_BOUNDS + 1]; /* batches by the time from the append of the oldest record
                                   to the turn that knew it durable: up to this bound and above
                                   the one before; the last: above all */
    uint64_t waited_us;         /* sum of these times */
};

struct store_bound {  /* of retention; the first segment that stays: */
    uint32_t segment; /* its number in this process */
    uint64_t number;  /* and that of its first record */
};

/*
 * What a kind of store does: the log (store.c), none (none.c), or another. Its own struct begins
 * with a struct store, which its opening function fills; jim.c's open_store() chooses. All calls
 * come from the loop's thread and must not block. What each means, and returns, stands at the
 * function of the same name below.
 */
struct store_ops {
    uint64_t (*append)(struct store *s, char type, struct str conv, uint64_t seq, struct str json,
                       int64_t now_ms, struct store_index *index);
    void (*commit)(struct store *s);
    enum store_news (*poll)(struct store *s);
    int (*read)(struct store *s, struct str conv, const struct store_index *x, uint64_t seq,
                struct buf *to, struct store_rec *rec);
    int (*close)(struct store *s);
    /* NULL: it has nothing of the kind. */
    void (*stats)(const struct store *s, struct store_stats *out); /* zeroed before */
    size_t (*held)(const struct store *s);
    uint32_t (*segments)(const struct store *s);
    uint64_t (*bytes)(const struct store *s);
    struct store_bound (*expired)(const struct store *s, int64_t keep_ms, int64_t keep_bytes,
                                  int64_t now_ms);
    void (*drop)(struct store *s, uint32_t segment); /* not NULL where expired() is not */
};

/* What every store keeps up to date, so that the loop need not call it to know. */
struct store {
    const struct store_ops *ops;
    bool keeps;       /* false: read() finds nothing, and records need not be written again */
    bool failed;      /* for good: it refuses for the rest of its life */
    uint64_t durable; /* every record up to this number is as safe as the policy says: may be
                         acknowledged and shown. Rises (or news are lost) in poll() only */
    uint64_t last;    /* number of the newest record, durable or not */
};

/* A log on disk: lock the directory, check and read it all through replay(), cut a torn tail. NULL
 * when it is locked, damaged or cannot be reached: logged with file and offset. */
struct store *store_open(const struct store_options *o);
/* A store that keeps nothing: appends are committed at once and reads find nothing. */
struct store *store_open_none(void);
/* Commit what was appended, sync, release everything. 0, or -1 when the store had failed. NULL is
 * allowed. */
static inline int
store_close(struct store *s)
{
    return s == NULL ? 0 : s->ops->close(s);
}

static inline bool
store_keeps(const struct store *s)
{
    return s->keeps;
}

static inline bool
store_failed(const struct store *s)
{
    return s->failed;
}

static inline uint64_t
store_durable(const struct store *s)
{
    return s->durable;
}

static inline uint64_t
store_last(const struct store *s)
{
    return s->last;
}

/* Copy a record into the pending batch. Returns its number (> 0), or 0 when the store refuses: it
 * has failed for good, the line would pass MAX_RECORD, or too much waits for a disk that hangs (the
 * log: STORE_PENDING). index: NULL, or where to note a REC_MESSAGE (store_index_add()). */
static inline uint64_t
store_append(struct store *s, char type, struct str conv, uint64_t seq, struct str json,
             int64_t now_ms, struct store_index *index)
{
    return s->ops->append(s, type, conv, seq, json, now_ms, index);
}

/* End of a turn: send the pending batch on its way, if none is. */
static inline void
store_commit(struct store *s)
{
    s->ops->commit(s);
}

/* Each turn: what has become of it? */
static inline enum store_news
store_poll(struct store *s)
{
    return s->ops->poll(s);
}

/* Read message `seq` of a conversation (its key and its index: a store looks at what it needs): its
 * line is appended to `to` and *rec points into it (valid until `to` changes). 0, -ENOENT when it
 * is not in the store (any more), -EAGAIN when the system has no descriptor or memory for it now
 * (logged), -EIO when the line is damaged (logged). */
static inline int
store_read(struct store *s, struct str conv, const struct store_index *x, uint64_t seq,
           struct buf *to, struct store_rec *rec)
{
    return s->ops->read(s, conv, x, seq, to, rec);
}

static inline void
store_stats(const struct store *s, struct store_stats *out)
{
    memset(out, 0, sizeof *out);
    if (s->ops->stats != NULL)
        s->ops->stats(s, out);
}

/* Bytes of batches and, about, of all indexes. */
static inline size_t
store_held(const struct store *s)
{
    return s->ops->held == NULL ? 0 : s->ops->held(s);
}

/*
 * The index. Note a REC_MESSAGE, appended or replayed, in its conversation's; seq must rise from
 * call to call. A store that finds messages by conversation and seq gives STORE_ANYWHERE for its
 * segment: then a message costs no memory here.
 */
#define STORE_ANYWHERE UINT32_MAX
void store_index_add(struct store_index *x, const struct store_rec *rec);
void store_index_add_span(struct store_index *x, const struct store_span *span);
uint64_t store_index_first(const struct store_index *x); /* lowest seq there is, 0: none */
uint64_t store_index_next(const struct store_index *x, uint64_t seq); /* lowest from seq on; or 0 */
/*
 * The numbers around seq whose messages were stored in order of time: none more than STORE_BACK_MS
 * before another with a lower number. All of them, from 0 to UINT64_MAX, unless the clock was set
 * back.
 */
#define STORE_BACK_MS 11264
void store_index_ordered(const struct store_index *x, uint64_t seq, uint64_t *first,
                         uint64_t *last);
void store_index_cut(struct store_index *x, uint64_t last); /* forget what is above `last` */
void store_index_free(struct store_index *x);

/*
 * Retention. Segments are dropped whole, oldest first, never the last: those before the segment
 * that store_expired() names, 0: none are to go. Before store_drop(), what they alone tell must be
 * written again and durable, and their messages be out of every index (store_index_drop()).
 */
static inline struct store_bound
store_expired(const struct store *s, int64_t keep_ms, int64_t keep_bytes, /* 0: no such limit */
              int64_t now_ms)
{
    struct store_bound none = {0};

    return s->ops->expired == NULL ? none : s->ops->expired(s, keep_ms, keep_bytes, now_ms);
}

static inline void
store_drop(struct store *s, uint32_t segment)
{
    s->ops->drop(s, segment);
}

/* How many segments there are, begun ones included, and the bytes of all of them. */
static inline uint32_t
store_segments(const struct store *s)
{
    return s->ops->segments == NULL ? 0 : s->ops->segments(s);
}

static inline uint64_t
store_bytes(const struct store *s)
{
    return s->ops->bytes == NULL ? 0 : s->ops->bytes(s);
}

void store_index_drop(struct store_index *x, uint32_t segment); /* forget what stands before it */
/* Is there a message in that segment or behind it? */
bool store_index_reaches(const struct store_index *x, uint32_t segment);

/* --- segment.c: how a log looks on disk (see store.h, too) ------------------------------------ */

#define PATH_ROOM 4096
#define LINE_HEAD 96 /* a record line's bytes beside conversation and JSON are fewer */
#define STORE_PENDING (256u << 20) /* bytes that wait for a disk that hangs; then appends fail */
#define MAX_NUMBER UINT64_C(999999999999999999) /* 18 digits: every sum of two fits 63 bits */
/* The subcommands. check: 0 clean, 1 torn tail, 2 damaged (all said on `out`); export: chat objects
 * with seq and time, one a line, 0 or 2. Whether `out` could be written print_end() tells. */
int store_check(const char *dir, FILE *out);
int store_export(const char *dir, FILE *out);
void export_message(FILE *out, const struct store_rec *rec); /* one line of it */
/* Every record that can be read, oldest first, whoever serves the store meanwhile. 0, or 2 when
 * not all could be read (said on stderr). */
int store_walk(const char *dir, void (*record)(void *arg, const struct store_rec *rec), void *arg);

/* --- repair.c: what can still be read of a damaged log --------------------------------------- */

/* check -r: as store_check(); of a damaged store, a copy without the damage is written to
 * DIR.repaired. DIR is left as it is. */
int store_repair(const char *dir, FILE *out);

#endif /* STORES_H */
