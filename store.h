/* SPDX-License-Identifier: MIT */
/*
 * store.h - what the files of the store share: disk.c, segment.c, index.c, helper.c, store.c and
 * repair.c. What the rest of the server sees of the store is in jim.h.
 */
#ifndef STORE_H
#define STORE_H

#include "jim.h"

#include <pthread.h>

/* --- disk.c: how the store reaches the disk --------------------------------------------------- */

extern const struct store_io store_disk; /* the real one */
/* Was a call only interrupted? Calls through struct store_io are repeated while this says so. */
bool io_again(ssize_t result);
int io_open(const struct store_io *io, const char *path, int flags);
bool io_write(const struct store_io *io, int fd, const char *p, size_t n, uint64_t at); /* all */
ssize_t io_read(const struct store_io *io, int fd, void *p, size_t n, uint64_t at);
bool io_truncate(const struct store_io *io, int fd, uint64_t size);
bool io_sync(const struct store_io *io, int fd);
bool io_rename(const struct store_io *io, const char *from, const char *to);
bool io_path(const struct store_io *io, int (*call)(void *arg, const char *path), const char *path);
/* DIR/NNNNNNNNNNNNNNNNNNNN.log and what follows. store_open() refuses a DIR this would cut. */
void segment_path(char path[PATH_ROOM], const char *dir, uint64_t first, const char *suffix);

/* --- segment.c: how a log looks on disk ------------------------------------------------------- */

#define HEADER_ROOM 64 /* a header line is shorter */
#define CLOSED ",\"closed\":true}" /* ends the last REC_BATCH of a clean stop */
#define SPARE "next.tmp" /* the segment prepared ahead: a header that has no name yet */

struct segment {    /* one file of the log; its number in this process is its place in the array */
    uint64_t first; /* the number in its name */
    int64_t newest; /* time of its newest record, 0: it has none */
    uint64_t messages;
    uint32_t seed;  /* CRC of its salt: where every line's CRC starts */
    uint32_t size;  /* bytes that may be read: up to the last durable batch */
};

struct seg_header {
    char salt[17]; /* hex digits: a line of another file, or an older one, fails its CRC */
};

struct reader {
    const struct store_io *io;
    int fd;
    struct buf buf; /* a window of the file; owned */
    uint64_t at;    /* its offset in the file */
    size_t pos;     /* what stands before has been handed out */
    bool eof;
};

enum scan_result { SCAN_CLEAN, SCAN_TORN, SCAN_DAMAGED, SCAN_ERROR };

struct scan_head { /* where a batch begins */
    uint64_t number, offset;
};

/* One pass over a whole log: set io, dir and what is wanted; scan_run(); scan_free(). */
struct scan {
    const struct store_io *io;
    const char *dir;
    struct crc32c crc;
    bool tidy;  /* remove what was not finished or belongs to nothing, write missing .idx files */
    bool go_on; /* note damage and read what can be read */
    bool sums;  /* make a summary of each segment; that of the last stays in `sum` */
    void (*record)(void *arg, const struct store_rec *rec);
    void (*span)(void *arg, const struct store_span *span); /* NULL, or takes messages; with sums */
    void *arg;
    struct reader reader;
    uint64_t *first; /* numbers in the names, ascending; owned */
    uint32_t firsts;
    struct segment *seg; /* those whose header is right; owned, until store_open() takes it */
    uint32_t segs, cap;
    char salt[17];       /* of the segment being read, */
    uint64_t head;       /* the length of its header line, */
    struct summary *sum; /* and its summary; owned, until store_open() takes it */
    struct buf idx;      /* an .idx file; owned */
    uint64_t last; /* highest record number */
    uint64_t records, messages;
    bool closed; /* the last record says that the stop was clean */
    uint64_t proven; /* offset in the last segment: what stands before it was synced for certain */
    struct buf heads; /* struct scan_head of its batches from there on; owned */
    size_t head_at;   /* in it: the first that is not proven */
    /* The first thing found wrong: */
    enum scan_result result;
    uint64_t bad_first, bad_at, bad_end; /* segment, offset, end of the file when torn */
    const char *why;
    int err;
};
void scan_run(struct scan *c); /* what came of it is in c->result */
/* Can a segment whose first batch says that `prev` was the last number before it come behind the
 * `before` segments read so far? They may all be empty, with what was before them dropped. */
bool scan_follows(const struct scan *c, uint32_t before, uint64_t prev);
/* Once more, the messages of segments from `segment` on, but for the first `skip` of them. */
void scan_messages(struct scan *c, uint32_t segment, uint64_t skip,
                   void (*fn)(void *arg, const struct store_rec *rec));
void scan_free(struct scan *c);

bool rec_is_known(char type); /* may a server of this version go on when it meets one? */
bool rec_is_state(char type); /* neither a message nor about the log itself */
void segment_push(struct segment **seg, uint32_t *segs, uint32_t *cap, struct segment add);
/* The length of the header line, newline included. */
size_t header_put(char dst[HEADER_ROOM], const struct crc32c *crc, const struct seg_header *h);
/* Read one, without its newline. NULL, or what is wrong with it. */
const char *header_parse(const struct crc32c *crc, struct str line, struct seg_header *h);
/* Append a record as a line, newline included. */
void line_put(struct buf *b, const struct crc32c *crc, uint32_t seed, struct digits *time,
              const struct store_rec *r);
/* Read a line, without its newline, into views. NULL, or what is wrong with it. */
const char *line_parse(const struct crc32c *crc, uint32_t seed, struct str line,
                       struct store_rec *r);
bool take_number(struct str *rest, uint64_t *out); /* up to 18 digits and a blank */

/* --- index.c: what is in a segment, and its .idx file ----------------------------------------- */

/* Where message `seq` stands; false: not in the index. */
bool store_index_find(const struct store_index *x, uint64_t seq, uint32_t *segment,
                      uint32_t *offset);

/*
 * What a start has to know of one segment, collected while its records are appended or read: about
 * 8 bytes a message of that segment. One thread at a time.
 */
struct summary;
struct summary_mark { /* how far it has got */
    uint64_t last;    /* record number */
    uint64_t records, messages;
    int64_t newest;
    size_t states;
    uint32_t runs, places;
};
struct summary *summary_new(const char salt[17], uint64_t prev);
void summary_free(struct summary *m); /* NULL is allowed */
void summary_again(struct summary *m, const char salt[17]); /* as a new one, for another segment */
void summary_prev(struct summary *m, uint64_t prev);
/* line: with its newline. */
void summary_add(struct summary *m, const struct store_rec *rec, struct str line);
size_t summary_held(const struct summary *m); /* bytes, about */
struct summary_mark summary_now(const struct summary *m);
void summary_cut(struct summary *m, const struct summary_mark *mark); /* back to there */

/* Replace what is in `to` by the .idx file of a segment of `size` bytes. */
void idx_put(struct summary *m, const struct crc32c *crc, uint64_t size, struct buf *to);
/* Write one, or leave none: it may fail. */
void idx_write(const struct store_io *io, const char *dir, uint64_t first, const struct buf *file);
/* Take segment `first` from its .idx file: false, with nothing done, when it has to be read. */
bool idx_take(struct scan *c, uint64_t first);
/* Hand over what the scan's summary says of the segment just read. */
void idx_replay(struct scan *c);

/* --- store.c and helper.c: a log at work ------------------------------------------------------ */

#define READERS 16 /* descriptors kept for reading segments */

/* A segment to come: its header is made up before its file is. */
struct seg_plan {
    char text[HEADER_ROOM];
    size_t len; /* 0: none is planned */
    struct seg_header h;
};

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
    int64_t begun_us;     /* when its first record was appended, on time_mono_us() */
    uint32_t segment;     /* where it goes, and at which offset */
    uint32_t base;
    bool rotate;          /* `segment` is to be created first, as `own` says */
    bool leads;           /* it is the first of its segment */
    bool must_sync;       /* whatever the policy */
    bool prepare;         /* and afterwards the one that `next` says */
    struct seg_plan own, next;
    struct summary *sealed; /* rotate: of the segment before, till the helper takes it; owned */
    uint64_t sealed_first, sealed_size;
    struct summary_mark mark; /* where its records begin in the summary */
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

struct logstore {
    struct store base;   /* `last`: on disk, in `work` or in `gather` */

    /* Set by store_open() and then only read, by both threads. */
    struct store_options o; /* o.dir is `dir` */
    char *dir;              /* owned */
    const struct store_io *io;
    struct crc32c crc;
    int lock_fd;

    /* The loop's thread only. */
    struct segment *seg; /* owned; with what `gather` and `work` will create */
    uint32_t segs, seg_cap;
    struct batch gather; /* empty: its other members mean nothing */
    uint64_t next;       /* number of the next record */
    uint64_t end;        /* offset in the last segment at which the next line will stand */
    struct digits time; /* of the last line */
    struct summary *sum; /* of the last segment; owned */
    struct seg_plan plan;    /* for the next segment */
    uint32_t kept;       /* segments before this number are dropped */
    bool fresh;          /* the next batch must begin a segment */
    bool clean;          /* the log on disk ends with the mark of a clean stop */
    bool lossy;          /* the last batch was lost, and that was logged */
    struct read_fd reader[READERS];
    uint64_t reads;
    struct store_stats stats;
    uint64_t indexed;    /* messages in the index, about */

    /* The helper's only; store_open() and store_close() use them while there is no helper. */
    int fd;           /* of the last segment, -1: none to be written to */
    bool dirty;       /* written since the last sync */
    bool broken;      /* a sync or a cut failed */
    uint64_t written; /* highest number on disk, synced or not */
    uint64_t safe;    /* what `written` was at the last sync */
    int64_t sync_ms;  /* when a sync is due at the latest, on time_mono_ms(); -1: none is */
    struct seg_plan spare;   /* of the file prepared as SPARE; len 0: there is none */
    int spare_fd;
    bool stuck;          /* a segment could not be removed: a newer one must not go before it */
    struct summary *sealed; /* to be written as .idx; owned */
    uint64_t sealed_first, sealed_size;

    /* Under `mutex`. */
    pthread_mutex_t mutex;
    pthread_cond_t wake; /* the helper waits for JOB_BUSY, `stop` or sync_ms */
    pthread_cond_t idle; /* store_close() waits for the end of JOB_BUSY */
    enum job job;
    bool stop;
    uint64_t synced;     /* highest number known to be synced */
    int sync_err;        /* errno of a sync between batches that failed, till store_poll() */
    uint64_t *doomed;    /* segments to be removed, by first number, oldest first; owned */
    uint32_t dooms, doomed_cap;
    struct batch work;
    pthread_t thread;
};

/* --- helper.c: the thread that writes --------------------------------------------------------- */

/* Start it; false: logged. Stop it when it has done all it was told to. */
bool helper_start(struct logstore *s);
void helper_stop(struct logstore *s);
/* Sync what was written; for the helper, and for who is alone with the store. False: errno, and
 * never again. */
bool helper_sync(struct logstore *s);
void spare_drop(struct logstore *s); /* remove the file prepared for a segment to come */

#endif /* STORE_H */
