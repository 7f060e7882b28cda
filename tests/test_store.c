/* SPDX-License-Identifier: MIT */
/*
 * test_store.c - the log: what was promised is there afterwards, and nothing else is.
 *
 * Most tests go through `struct box`: a store, one conversation's index, and what each record must
 * look like. Message `seq` always has the same content, so a replay can tell an altered or invented
 * record. An unclean stop is a copy of the directory, taken while the store is open. Faults and
 * recordings go through `struct fake`, a struct store_io over the real calls.
 */
#include "test.h"
#include "../store.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <sys/stat.h>
#include <dirent.h>
#include <unistd.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif
#ifdef __linux__
#include <sys/syscall.h>
#endif

#define ONE "00000000000000000001.log"

/* --- the real disk's syncs -------------------------------------------------------------------- */

#ifdef __linux__
static _Thread_local struct {
    int err;     /* what the next one fails with */
    int fd;      /* of the last one */
    ino_t inode;
} asked = {.fd = -1};

static int
ask(int fd, long call)
{
    struct stat st;

    asked.fd = fd;
    asked.inode = fstat(fd, &st) == 0 ? st.st_ino : 0;
    errno = asked.err;
    asked.err = 0;
    return errno != 0 ? -1 : (int)syscall(call, fd);
}

/* In place of libc's, for all of this program. */
int
fsync(int fd)
{
    return ask(fd, SYS_fsync);
}

int
fdatasync(int fd)
{
    return ask(fd, SYS_fdatasync);
}
#endif

/* Behind the tests with a store_io of their own: does the real one ask the system, and believe what
 * that says? */
TEST(store_disk_syncs)
{
    int fd = store_disk.open(NULL, "f", O_RDWR | O_CREAT, 0600);

    CHECK(fd >= 0);
    CHECK_INT(store_disk.sync(NULL, fd), 0);
    CHECK(store_disk.sync_dir(NULL, "none") == -1 && errno == ENOENT);
#ifdef __linux__
    CHECK_INT(asked.fd, fd);
    asked.err = EIO;
    CHECK(store_disk.sync(NULL, fd) == -1 && errno == EIO);
    struct stat st;
    CHECK(stat(".", &st) == 0);
    CHECK_INT(store_disk.sync_dir(NULL, "."), 0);
    CHECK(asked.inode == st.st_ino);
    asked.err = EIO;
    CHECK(store_disk.sync_dir(NULL, ".") == -1 && errno == EIO);
    asked.err = EINVAL; /* a file system that cannot */
    CHECK_INT(store_disk.sync_dir(NULL, "."), 0);
#endif
    CHECK_INT(store_disk.close(NULL, fd), 0);
}

/* --- a store_io that counts, records and fails ------------------------------------------------ */

enum mode { M_NONE, M_ERRNO, M_SHORT, M_HALF_THEN_FULL, M_DEAD };

struct fake {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    enum mode mode;
    int at, err;     /* what happens to the at-th call */
    int calls, hits; /* so far */
    bool full;       /* the disk: writes get half their bytes in and then ENOSPC */
    bool sync_fails;
    bool hold;       /* syncs wait while it is set */
    int syncs, held;
    bool record;
    struct buf trace; /* names of calls and of what the test notes */
    bool half_done;
};

static void
fake_note(struct fake *f, const char *name)
{
    pthread_mutex_lock(&f->mutex);
    if (f->record) {
        if (f->trace.len > 0)
            buf_add(&f->trace, " ", 1);
        buf_add(&f->trace, name, strlen(name));
    }
    pthread_mutex_unlock(&f->mutex);
}

/* Count a call; true when it must fail, with errno set. *cut: it must do only half. */
static bool
fake_call(struct fake *f, const char *name, bool *cut)
{
    bool fail = false;

    fake_note(f, name);
    pthread_mutex_lock(&f->mutex);
    int k = ++f->calls;
    bool hit = f->mode == M_DEAD ? k >= f->at : f->mode != M_NONE && k == f->at;
    if (f->half_done) {
        f->half_done = false;
        f->hits++;
        fail = true;
        errno = ENOSPC;
    } else if (hit) {
        f->hits++;
        fail = f->mode == M_ERRNO || f->mode == M_DEAD || (cut == NULL && f->mode != M_SHORT);
        errno = f->mode == M_HALF_THEN_FULL ? ENOSPC : f->err;
        if (!fail && cut != NULL)
            *cut = true;
        f->half_done = f->mode == M_HALF_THEN_FULL && cut != NULL;
    }
    pthread_mutex_unlock(&f->mutex);
    return fail;
}

static int
fake_open(void *arg, const char *path, int flags, mode_t mode)
{
    return fake_call(arg, flags & O_CREAT ? "create" : "open", NULL) ? -1 : open(path, flags, mode);
}

static int
fake_close(void *arg, int fd)
{
    bool fail = fake_call(arg, "close", NULL);

    close(fd);
    return fail ? -1 : 0;
}

static ssize_t
fake_pwrite(void *arg, int fd, const void *p, size_t n, off_t at)
{
    struct fake *f = arg;
    bool cut = false;

    if (fake_call(f, "write", &cut))
        return -1;
    pthread_mutex_lock(&f->mutex);
    bool full = f->full;
    pthread_mutex_unlock(&f->mutex);
    if (full) {
        if (n > 1)
            CHECK(pwrite(fd, p, n / 2, at) == (ssize_t)(n / 2));
        errno = ENOSPC;
        return -1;
    }
    return pwrite(fd, p, cut && n > 1 ? n / 2 : n, at);
}

static ssize_t
fake_pread(void *arg, int fd, void *p, size_t n, off_t at)
{
    bool cut = false;

    if (fake_call(arg, "read", &cut))
        return -1;
    return pread(fd, p, cut && n > 2 ? 2 : n, at);
}

static int
fake_truncate(void *arg, int fd, off_t size)
{
    return fake_call(arg, "truncate", NULL) ? -1 : ftruncate(fd, size);
}

static int
fake_sync(void *arg, int fd)
{
    struct fake *f = arg;
    int result = fake_call(f, "sync", NULL) ? -1 : 0, err = errno;

    (void)fd;
    pthread_mutex_lock(&f->mutex);
    f->syncs++;
    f->held++;
    pthread_cond_broadcast(&f->changed);
    while (f->hold)
        pthread_cond_wait(&f->changed, &f->mutex);
    f->held--;
    if (f->sync_fails) {
        result = -1;
        err = EIO;
    }
    pthread_mutex_unlock(&f->mutex);
    errno = err;
    return result;
}

static int
fake_sync_dir(void *arg, const char *path)
{
    (void)path;
    return fake_call(arg, "sync-dir", NULL) ? -1 : 0;
}

static int
fake_rename(void *arg, const char *from, const char *to)
{
    return fake_call(arg, "rename", NULL) ? -1 : rename(from, to);
}

static int
fake_unlink(void *arg, const char *path)
{
    return fake_call(arg, "unlink", NULL) ? -1 : unlink(path);
}

static int
fake_mkdir(void *arg, const char *path, mode_t mode)
{
    return fake_call(arg, "mkdir", NULL) ? -1 : mkdir(path, mode);
}

static int
fake_list(void *arg, const char *path, struct buf *out)
{
    struct dirent *e;

    if (fake_call(arg, "list", NULL))
        return -1;
    DIR *dir = opendir(path);
    if (dir == NULL)
        return -1;
    while ((e = readdir(dir)) != NULL)
        buf_add(out, e->d_name, strlen(e->d_name) + 1);
    closedir(dir);
    return 0;
}

static int
fake_lock(void *arg, int fd)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

    return fake_call(arg, "lock", NULL) ? -1 : fcntl(fd, F_SETLK, &lock);
}

static struct store_io
fake_io(struct fake *f)
{
    memset(f, 0, sizeof *f);
    pthread_mutex_init(&f->mutex, NULL);
    pthread_cond_init(&f->changed, NULL);
    return (struct store_io){f,           fake_open,   fake_close,    fake_pwrite, fake_pread,
                             fake_truncate, fake_sync, fake_sync_dir, fake_rename, fake_unlink,
                             fake_mkdir,  fake_list,   fake_lock};
}

static void
fake_set(struct fake *f, bool *what, bool value)
{
    pthread_mutex_lock(&f->mutex);
    *what = value;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->mutex);
}

static int
fake_get(struct fake *f, const int *what)
{
    pthread_mutex_lock(&f->mutex);
    int n = *what;
    pthread_mutex_unlock(&f->mutex);
    return n;
}

/* --- files ------------------------------------------------------------------------------------ */

/* Names of the log's segments in `dir`, in order, at most `max`; returns how many there are. */
static int
segments(const char *dir, char names[][32], int max)
{
    DIR *d = opendir(dir);
    struct dirent *e;
    int n = 0;

    CHECK(d != NULL);
    while ((e = readdir(d)) != NULL) {
        if (strlen(e->d_name) != 24)
            continue;
        int i = n++;
        CHECK(n <= max);
        for (; i > 0 && strcmp(names[i - 1], e->d_name) > 0; i--)
            memcpy(names[i], names[i - 1], 32);
        snprintf(names[i], 32, "%.31s", e->d_name);
    }
    closedir(d);
    return n;
}

static void
dir_remove(const char *dir)
{
    DIR *d = opendir(dir);
    struct dirent *e;
    char path[512];

    if (d == NULL)
        return;
    while ((e = readdir(d)) != NULL) {
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        unlink(path);
    }
    closedir(d);
    CHECK(rmdir(dir) == 0);
}

/* What a process killed now would leave behind. */
static void
dir_copy(const char *from, const char *to)
{
    char names[64][32], path[128];
    int n = segments(from, names, 64);

    dir_remove(to);
    CHECK(mkdir(to, 0700) == 0);
    for (int i = 0; i < n; i++) {
        snprintf(path, sizeof path, "%s/%.31s", from, names[i]);
        struct buf b = read_whole(path);
        snprintf(path, sizeof path, "%s/%.31s", to, names[i]);
        write_whole(path, b.p, b.len);
        buf_free(&b);
    }
}

/* --- a store under test ----------------------------------------------------------------------- */

struct box {
    struct store *s;
    struct store_index index;
    uint64_t seq;      /* of the newest message, replayed or appended */
    uint64_t replayed; /* messages at the last open */
    uint64_t number;   /* of the last record replayed */
    uint64_t others;   /* records of other types replayed */
    int pipe[2];
    struct log log;
    struct fake *fake; /* NULL, or what keeps the trace */
};

static void
on_ready(void *arg)
{
    struct box *b = arg;

    CHECK(write(b->pipe[1], "", 1) == 1);
}

/* The one content message `seq` may have: lengths differ, and exceed one read now and then. */
static struct str
content(uint64_t seq, struct buf *b)
{
    b->len = 0;
    buf_printf(b, "{\"content\":\"m%" PRIu64 " ", seq);
    for (uint64_t i = 0; i < (seq % 11 == 10 ? 1500 : seq % 7); i++)
        buf_printf(b, "%" PRIu64, (seq + i) % 10);
    buf_printf(b, "\",\"seq\":%" PRIu64 "}", seq);
    return (struct str){b->p, b->len};
}

static void
check_record(const struct store_rec *rec, uint64_t seq)
{
    struct buf want = {0};
    struct str json = content(seq, &want);

    CHECK_INT(rec->type, REC_MESSAGE);
    CHECK_INT(rec->seq, seq);
    CHECK_STR(rec->conv, "u:a:b");
    CHECK_INT(rec->time_ms, 1000 + seq);
    if (!str_eq(rec->json, json))
        test_fail(__FILE__, __LINE__, "altered: %.*s", (int)rec->json.n, rec->json.p);
    buf_free(&want);
}

static void
on_replay(void *arg, const struct store_rec *rec)
{
    struct box *b = arg;

    CHECK(rec->number > b->number);
    b->number = rec->number;
    if (rec->type != REC_MESSAGE) {
        b->others++;
        return;
    }
    check_record(rec, ++b->seq);
    b->replayed++;
    store_index_add(&b->index, rec);
}

static bool
box_open(struct box *b, const char *dir, int64_t policy, uint64_t segment,
         const struct store_io *io)
{
    memset(b, 0, sizeof *b);
    b->log = (struct log){stdout, LOG_LEVEL_INFO};
    CHECK(pipe(b->pipe) == 0);
    struct store_options o = {.dir = dir, .policy = policy, .segment = segment, .log = &b->log,
                              .io = io, .ready = on_ready, .replay = on_replay, .arg = b};
    b->s = store_open(&o);
    if (b->s == NULL) {
        close(b->pipe[0]);
        close(b->pipe[1]);
        store_index_free(&b->index);
    }
    return b->s != NULL;
}

static int
box_close(struct box *b)
{
    int result = store_close(b->s);

    close(b->pipe[0]);
    close(b->pipe[1]);
    store_index_free(&b->index);
    return result;
}

/* Append message b->seq + 1; its number, or 0. */
static uint64_t
box_append(struct box *b)
{
    struct buf json = {0};
    uint64_t seq = b->seq + 1;
    uint64_t number = store_append(b->s, REC_MESSAGE, STR("u:a:b"), seq, content(seq, &json),
                                   (int64_t)(1000 + seq), &b->index);

    if (number != 0)
        b->seq = seq;
    buf_free(&json);
    return number;
}

/* One turn of a loop: wait for the helper, poll, commit. */
static enum store_news
box_turn(struct box *b)
{
    char c;

    CHECK(read(b->pipe[0], &c, 1) == 1);
    enum store_news news = store_poll(b->s);
    store_commit(b->s);
    return news;
}

/* Commit, and turn until `number` is durable or something was lost; whether it is durable. */
static bool
box_settle(struct box *b, uint64_t number)
{
    store_commit(b->s);
    while (store_durable(b->s) < number)
        if (box_turn(b) == STORE_LOST)
            return false;
    return true;
}

/* n messages, `batch` of them a commit. */
static void
box_fill(struct box *b, int n, int batch)
{
    for (int i = 1; i <= n; i++) {
        uint64_t number = box_append(b);
        CHECK(number != 0);
        if (i % batch == 0 || i == n)
            CHECK(box_settle(b, number));
    }
}

static void
box_read_all(struct box *b)
{
    struct buf to = {0};
    struct store_rec rec;

    for (uint64_t i = 0; i < b->seq; i++) {
        uint64_t seq = 1 + i * 7919 % b->seq; /* jump about, so that descriptors come and go */
        to.len = 0;
        CHECK_INT(store_read(b->s, STR("-"), &b->index, seq, &to, &rec), 0);
        check_record(&rec, seq);
    }
    CHECK_INT(store_read(b->s, STR("-"), &b->index, 0, &to, &rec), -ENOENT);
    CHECK_INT(store_read(b->s, STR("-"), &b->index, b->seq + 1, &to, &rec), -ENOENT);
    buf_free(&to);
}

/* --- the ordinary life of a log --------------------------------------------------------------- */

static void
round_trip(const char *dir, int64_t policy)
{
    struct box b;
    struct store_rec rec;
    struct buf to = {0};

    CHECK(box_open(&b, dir, policy, 1 << 20, NULL));
    CHECK(store_keeps(b.s));
    CHECK_INT(store_durable(b.s), 0);
    CHECK_INT(store_poll(b.s), STORE_SAME);
    uint64_t number = box_append(&b);
    CHECK_INT(number, 2); /* 1 is the batch */
    CHECK_INT(store_durable(b.s), 0);
    /* Only what is durable: */
    CHECK_INT(store_read(b.s, STR("-"), &b.index, 1, &to, &rec), -ENOENT);
    CHECK(box_settle(&b, number));
    CHECK_INT(store_read(b.s, STR("-"), &b.index, 1, &to, &rec), 0);
    box_fill(&b, 60, 1);
    box_fill(&b, 60, 9);
    box_read_all(&b);
    CHECK(store_append(b.s, REC_CURSOR, STR("u:a:b"), 17, STR("{\"userId\":\"a\"}"), 5, NULL) != 0);
    CHECK(store_append(b.s, REC_USER, STR("-"), 0, STR("{\"userId\":\"张\"}"), 5, NULL) != 0);
    CHECK_INT(box_close(&b), 0); /* commits what was only appended */
    buf_free(&to);

    CHECK(box_open(&b, dir, policy, 1 << 20, NULL));
    CHECK_INT(b.replayed, 121);
    CHECK_INT(b.others, 2);
    CHECK_INT(store_index_first(&b.index), 1);
    box_read_all(&b);
    box_fill(&b, 30, 4);
    box_read_all(&b);
    CHECK_INT(box_close(&b), 0);

    CHECK(box_open(&b, dir, policy, 1 << 20, NULL));
    CHECK_INT(b.replayed, 151);
    box_read_all(&b);
    CHECK_INT(box_close(&b), 0);
    char names[4][32];
    CHECK_INT(segments(dir, names, 4), 1); /* clean stops: still the same segment */
}

TEST(store_round_trip)
{
    round_trip("group", STORE_GROUP);
    round_trip("off", STORE_OFF);
    round_trip("now", 0);
    round_trip("soon", 20);
    round_trip("late", 3600000);
}

TEST(store_line_format)
{
    struct box b;
    struct store_rec rec;
    struct buf to = {0};

    CHECK(box_open(&b, "d", STORE_GROUP, 1 << 20, NULL));
    box_fill(&b, 1, 1);
    CHECK_INT(store_read(b.s, STR("-"), &b.index, 1, &to, &rec), 0);
    CHECK(to.len > 9);
    CHECK_BYTES(to.p + 8, to.len - 8, " 2 1001 M u:a:b 1 {\"content\":\"m1 1\",\"seq\":1}");
    CHECK_INT(rec.number, 2);
    CHECK_INT(rec.segment, 0);
    CHECK_INT(box_close(&b), 0);
    to.len = 0;

    struct buf file = read_whole("d/" ONE);
    struct str rest = {file.p, file.len}, line, word, salt = {0};
    struct crc32c crc;
    char hex[9];
    crc32c_init(&crc);
    CHECK(str_split(&rest, '\n', &line));
    for (int i = 0; str_split(&line, ' ', &word); i++)
        if (i == 2)
            salt = word;
    CHECK_INT(salt.n, 16);
    for (int i = 0; i < 3; i++) { /* the batch, the message, the mark of the clean stop */
        CHECK(str_split(&rest, '\n', &line));
        uint32_t sum = crc32c_add(&crc, 0, salt.p, salt.n);
        sum = crc32c_add(&crc, sum, line.p + 9, line.n - 9);
        snprintf(hex, sizeof hex, "%08" PRIx32, sum);
        CHECK_BYTES(line.p, 8, hex);
    }
    CHECK(memmem(line.p, line.n, "\"closed\":true", 13) != NULL);
    CHECK_INT(rest.n, 0);
    buf_free(&file);
    buf_free(&to);
}

TEST(store_rotation)
{
    struct box b;
    char names[400][32];

    CHECK(box_open(&b, "d", STORE_GROUP, 4096, NULL));
    box_fill(&b, 500, 3);
    box_read_all(&b);
    int n = segments("d", names, 400);
    CHECK(n > 20); /* more than descriptors are kept for */
    CHECK_INT(box_close(&b), 0);
    CHECK(box_open(&b, "d", STORE_OFF, 4096, NULL));
    CHECK_INT(b.replayed, 500);
    box_read_all(&b);
    box_fill(&b, 100, 3);
    box_read_all(&b);
    CHECK_INT(box_close(&b), 0);
    CHECK(box_open(&b, "d", STORE_GROUP, 4096, NULL));
    CHECK_INT(b.replayed, 600);
    CHECK_INT(box_close(&b), 0);
}

TEST(store_none)
{
    struct store *s = store_open_none();
    struct store_index x = {0};
    struct store_rec rec;
    struct buf to = {0};

    CHECK(!store_keeps(s));
    CHECK_INT(store_poll(s), STORE_SAME);
    CHECK_INT(store_append(s, REC_MESSAGE, STR("c"), 1, STR("{}"), 0, &x), 1);
    CHECK_INT(store_append(s, REC_MESSAGE, STR("c"), 2, STR("{}"), 0, &x), 2);
    CHECK_INT(store_durable(s), 2);
    store_commit(s);
    CHECK_INT(store_poll(s), STORE_MORE);
    CHECK_INT(store_poll(s), STORE_SAME);
    CHECK_INT(store_read(s, STR("-"), &x, 1, &to, &rec), -ENOENT);
    CHECK(!store_failed(s));
    CHECK_INT(store_close(s), 0);
}

/* A store of another kind: it is given what it needs to find a message by itself, the index only
 * counts, and what it has nothing of need not be there. */
struct shelf {
    struct store base;
    struct buf line[3];
};

static uint64_t
shelf_append(struct store *s, char type, struct str conv, uint64_t seq, struct str json,
             int64_t now_ms, struct store_index *index)
{
    struct buf *b = &((struct shelf *)s)->line[seq - 1];

    buf_printf(b, "%.*s %.*s", (int)conv.n, conv.p, (int)json.n, json.p);
    store_index_add(index, &(struct store_rec){.type = type, .seq = seq, .time_ms = now_ms,
                                               .segment = STORE_ANYWHERE});
    return ++s->last;
}

static void
shelf_commit(struct store *s)
{
    s->durable = s->last;
}

static int
shelf_read(struct store *s, struct str conv, const struct store_index *x, uint64_t seq,
           struct buf *to, struct store_rec *rec)
{
    const struct buf *b = &((struct shelf *)s)->line[seq - 1];
    size_t start = to->len;

    if (seq < store_index_first(x) || b->len <= conv.n || memcmp(b->p, conv.p, conv.n) != 0)
        return -ENOENT;
    buf_add(to, b->p + conv.n + 1, b->len - conv.n - 1);
    *rec = (struct store_rec){.seq = seq, .json = {to->p + start, to->len - start}};
    return 0;
}

TEST(store_of_another_kind)
{
    static const struct store_ops ops = {.append = shelf_append, .commit = shelf_commit,
                                         .read = shelf_read};
    struct shelf shelf = {.base = {.ops = &ops, .keeps = true}};
    struct store *s = &shelf.base;
    struct store_index x = {0};
    struct store_stats stats = {.segments = 7};
    struct store_rec rec;
    struct buf to = {0};

    for (uint64_t seq = 1; seq <= 3; seq++)
        CHECK_INT(store_append(s, REC_MESSAGE, STR("g:a"), seq, STR("{1}"), 5, &x), seq);
    CHECK_INT(store_last(s), 3);
    CHECK_INT(store_durable(s), 0);
    store_commit(s);
    CHECK_INT(store_durable(s), 3);
    CHECK_INT(store_read(s, STR("g:a"), &x, 3, &to, &rec), 0);
    CHECK(str_eq(rec.json, STR("{1}")));
    CHECK_INT(store_read(s, STR("g:b"), &x, 3, &to, &rec), -ENOENT);
    store_stats(s, &stats);
    CHECK_INT(stats.segments, 0);
    CHECK_INT(store_segments(s) + store_bytes(s) + store_held(s), 0);
    CHECK_INT(store_expired(s, 1, 1, 1000).segment, 0);
    CHECK_INT(x.runs, 1);
    CHECK_INT(store_index_first(&x), 1);
    store_index_drop(&x, 1000);
    CHECK_INT(store_index_first(&x), 1);
    store_index_cut(&x, 0);
    CHECK_INT(store_index_first(&x), 0);
    store_index_free(&x);
    buf_free(&to);
    for (int i = 0; i < 3; i++)
        buf_free(&shelf.line[i]);
}

/* A batch gathers while the helper is at work, however many turns that takes: one sync for all. */
TEST(store_group_commit)
{
    struct fake f;
    struct store_io io = fake_io(&f);
    struct box b;
    uint64_t number = 0;

    CHECK(box_open(&b, "d", STORE_GROUP, 1 << 20, &io));
    box_fill(&b, 1, 1);
    int before = fake_get(&f, &f.syncs);
    fake_set(&f, &f.hold, true);
    uint64_t first = box_append(&b);
    store_commit(b.s);
    pthread_mutex_lock(&f.mutex);
    while (f.held == 0)
        pthread_cond_wait(&f.changed, &f.mutex);
    pthread_mutex_unlock(&f.mutex);
    for (int i = 0; i < 100; i++) {
        number = box_append(&b);
        store_commit(b.s);
        CHECK_INT(store_poll(b.s), STORE_SAME);
    }
    CHECK(store_durable(b.s) < first);
    fake_set(&f, &f.hold, false);
    CHECK_INT(box_turn(&b), STORE_MORE);
    CHECK_INT(store_durable(b.s), first);
    CHECK_INT(box_turn(&b), STORE_MORE);
    CHECK_INT(store_durable(b.s), number);
    CHECK_INT(fake_get(&f, &f.syncs) - before, 2);
    box_read_all(&b);
    CHECK_INT(box_close(&b), 0);
}

TEST(store_large_records)
{
    struct fake f;
    struct store_io io = fake_io(&f);
    struct box b;
    struct buf json = {0}, to = {0};
    struct store_rec rec;
    struct store_index x = {0};

    CHECK(box_open(&b, "d", STORE_GROUP, 1 << 20, &io));
    buf_reserve(&json, MAX_RECORD + 1);
    memset(json.p, 'x', MAX_RECORD);
    json.p[0] = '{';
    json.len = MAX_RECORD - 200;
    struct str s = {json.p, json.len};
    uint64_t number = store_append(b.s, REC_MESSAGE, STR("c"), 1, s, 7, &x);
    CHECK(number != 0);
    struct str more = {json.p, MAX_RECORD};
    CHECK_INT(store_append(b.s, REC_MESSAGE, STR("c"), 2, more, 7, &x), 0);
    CHECK(!store_failed(b.s));
    CHECK(box_settle(&b, number));
    CHECK_INT(store_read(b.s, STR("-"), &x, 1, &to, &rec), 0);
    CHECK(str_eq(rec.json, s));
    /* What may wait for a disk that hangs is bounded. */
    fake_set(&f, &f.hold, true);
    CHECK(box_append(&b) != 0);
    store_commit(b.s);
    uint64_t seq = 1, last = 0;
    while ((number = store_append(b.s, REC_MESSAGE, STR("c"), seq + 1, s, 7, &x)) != 0) {
        last = number;
        seq++;
    }
    CHECK(seq > 10 && seq < 20);
    fake_set(&f, &f.hold, false);
    CHECK(box_settle(&b, last));
    CHECK(store_append(b.s, REC_CURSOR, STR("c"), 2, STR("{}"), 7, NULL) != 0);
    to.len = 0;
    CHECK_INT(store_read(b.s, STR("-"), &x, seq, &to, &rec), 0);
    CHECK(str_eq(rec.json, s));
    CHECK_INT(box_close(&b), 0);
    store_index_free(&x);
    buf_free(&json);
    buf_free(&to);
}

/* --- the index -------------------------------------------------------------------------------- */

TEST(store_index_gaps)
{
    struct box b;
    struct store_index x = {0};
    struct buf to = {0}, json = {0};
    struct store_rec rec;
    uint64_t number = 0, seqs[] = {5, 6, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 1000};
    size_t n = sizeof seqs / sizeof seqs[0];

    CHECK(box_open(&b, "d", STORE_GROUP, 300, NULL));
    CHECK_INT(store_index_first(&x), 0);
    store_index_cut(&x, 3);
    for (size_t i = 0; i < n; i++) {
        number = store_append(b.s, REC_MESSAGE, STR("c"), seqs[i], content(seqs[i], &json), 1, &x);
        CHECK(i % 3 != 0 || box_settle(&b, number));
    }
    CHECK(box_settle(&b, number));
    CHECK_INT(store_index_first(&x), 5);
    for (uint64_t seq = 0, i = 0; seq < 1100; seq++) {
        bool there = i < n && seqs[i] == seq;
        i += there;
        to.len = 0;
        CHECK_INT(store_read(b.s, STR("-"), &x, seq, &to, &rec), there ? 0 : -ENOENT);
        CHECK(!there || rec.seq == seq);
    }
    for (uint64_t last = 1001; last > 0; last--) {
        store_index_cut(&x, last - 1);
        for (size_t i = 0; i < n; i++) {
            to.len = 0;
            CHECK_INT(store_read(b.s, STR("-"), &x, seqs[i], &to, &rec),
                      seqs[i] < last ? 0 : -ENOENT);
        }
    }
    CHECK_INT(store_index_first(&x), 0);
    store_index_free(&x);
    CHECK_INT(box_close(&b), 0);
    buf_free(&to);
    buf_free(&json);
}

/* A run that was sealed with one message left in it goes on when what came behind it is lost. */
TEST(store_index_cut_and_go_on)
{
    struct store_index x = {0};

    for (int round = 0; round < 3; round++) {
        for (uint64_t seq = round == 0 ? 1 : 2; seq <= 3; seq++)
            store_index_add(&x, &(struct store_rec){.seq = seq});
        store_index_cut(&x, 1);
        store_index_add(&x, &(struct store_rec){.seq = 2, .segment = 1}); /* seals the first run */
        store_index_cut(&x, 1);
        CHECK_INT(store_index_first(&x), 1);
        CHECK_INT(x.runs, 1);
    }
    store_index_free(&x);
}

static void
ordered(const struct store_index *x, uint64_t seq, uint64_t first, uint64_t last)
{
    uint64_t from, to;

    store_index_ordered(x, seq, &from, &to);
    CHECK_INT(from, first);
    CHECK_INT(to, last);
}

/* Where the clock was set back, however it comes into the index; and what is lost again. */
TEST(store_index_clock_set_back)
{
    static const struct {
        uint64_t seq;
        int64_t ms;
    } said[] = {{1, 500000}, {2, 700000}, {3, 691000}, {5, 692000}, {6, 682000}, {7, 800000},
                {8, 700000}, {9, 0}, {20, 900000}};
    struct store_index x = {0};
    const uint64_t end = UINT64_MAX;

    ordered(&x, 0, 0, end);
    ordered(&x, 7, 0, end);
    for (uint32_t i = 0; i < sizeof said / sizeof said[0]; i++)
        store_index_add(&x, &(struct store_rec){.seq = said[i].seq, .time_ms = said[i].ms,
                                                .segment = i / 3, .offset = i});
    ordered(&x, 0, 0, 5); /* a few seconds are nothing, */
    ordered(&x, 4, 0, 5);
    ordered(&x, 5, 0, 5);
    ordered(&x, 6, 6, 7); /* but they do not add up */
    ordered(&x, 8, 8, 8);
    ordered(&x, 9, 9, end);
    ordered(&x, 15, 9, end);
    CHECK_INT(store_index_next(&x, 0), 1);
    CHECK_INT(store_index_next(&x, 3), 3);
    CHECK_INT(store_index_next(&x, 4), 5);
    CHECK_INT(store_index_next(&x, 10), 20);
    CHECK_INT(store_index_next(&x, 21), 0);
    store_index_cut(&x, 7);
    store_index_add(&x, &(struct store_rec){.seq = 8, .time_ms = 800000, .segment = 3});
    ordered(&x, 8, 6, end);
    store_index_drop(&x, 2);
    ordered(&x, 8, 0, end);
    store_index_free(&x);
}

TEST(store_index_memory)
{
    static struct store_index x[100];
    struct store_rec rec = {.type = REC_MESSAGE};
    size_t used = 0;

    memset(x, 0, sizeof x);
#if defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 33)
    size_t before = mallinfo2().uordblks;
#endif
    for (uint32_t i = 0; i < 100000; i++) { /* in turn; a new segment every 33,333 messages */
        rec.seq = i / 100 + 1;
        rec.segment = i / 33333;
        rec.offset = i * 200;
        store_index_add(&x[i % 100], &rec);
    }
#if defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 33)
    used = mallinfo2().uordblks - before;
#endif
    if (used > 0) /* 0: another allocator, as the sanitizers have */
        test_note("index: %.2f bytes a message", (double)used / 100000);
    CHECK(used < 800000);
    for (int i = 0; i < 100; i++)
        store_index_free(&x[i]);
}

/* --- what start-up believes ------------------------------------------------------------------- */

/* 50 records in batches, cut anywhere: what was whole is there, more can be added, and it stays.
 * Every fourth place from the first on, so that four tests share the time. */
static void
cut_everywhere(size_t first)
{
    struct fake f;
    struct store_io io = fake_io(&f);
    struct box b;

    CHECK(box_open(&b, "a", STORE_GROUP, 1 << 20, &io));
    box_fill(&b, 42, 5); /* 9 batches */
    dir_copy("a", "b");
    CHECK_INT(box_close(&b), 0);
    struct buf file = read_whole("b/" ONE);
    uint64_t messages = 0, records = 0;
    size_t start = 0;
    FILE *null = fopen("/dev/null", "w");
    CHECK(null != NULL);
    for (size_t cut = 0; cut <= file.len; cut++) {
        bool boundary = cut > 0 && file.p[cut - 1] == '\n';
        if (boundary) { /* one more whole line */
            struct str line = {file.p + start, cut - start};
            records += start > 0;
            messages += memmem(line.p, line.n, " M ", 3) != NULL;
            start = cut;
        }
        if (cut % 4 != first)
            continue;
        dir_remove("c");
        CHECK(mkdir("c", 0700) == 0);
        write_whole("c/" ONE, file.p, cut);
        CHECK_INT(store_check("c", null), boundary ? 0 : 1);
        CHECK(box_open(&b, "c", STORE_GROUP, 1 << 20, &io));
        CHECK_INT(b.replayed, messages);
        CHECK_INT(store_durable(b.s), records);
        uint64_t number = box_append(&b);
        CHECK(number > records + 1000000); /* nothing handed out before can come again */
        CHECK(box_settle(&b, number));
        box_fill(&b, 1, 1);
        CHECK_INT(box_close(&b), 0);
        CHECK(box_open(&b, "c", STORE_GROUP, 1 << 20, &io));
        CHECK_INT(b.replayed, messages + 2);
        CHECK_INT(box_close(&b), 0);
        CHECK_INT(store_check("c", null), 0);
    }
    CHECK_INT(records, 51);
    fclose(null);
    buf_free(&file);
}

TEST(store_cut_everywhere_0)
{
    cut_everywhere(0);
}

TEST(store_cut_everywhere_1)
{
    cut_everywhere(1);
}

TEST(store_cut_everywhere_2)
{
    cut_everywhere(2);
}

TEST(store_cut_everywhere_3)
{
    cut_everywhere(3);
}

struct line {
    size_t at, n;      /* with its newline */
    uint64_t number;   /* 0: the header */
    uint64_t synced;   /* of a batch */
};

static size_t
split_lines(const struct buf *file, struct line *lines, size_t max)
{
    size_t n = 0;

    for (size_t at = 0; at < file->len; n++) {
        CHECK(n < max);
        const char *p = file->p + at, *end = memchr(p, '\n', file->len - at);
        const char *mark = memmem(p, (size_t)(end - p), "{\"synced\":", 10);
        lines[n] = (struct line){at, (size_t)(end - p) + 1, at > 0 ? strtoull(p + 9, NULL, 10) : 0,
                                 mark != NULL ? strtoull(mark + 10, NULL, 10) : 0};
        at += lines[n].n;
    }
    return n;
}

/* Every single flipped bit is found, and the tail is cut only when nothing says it was synced. */
static void
flip_all(const char *from, const struct store_io *io, bool clean)
{
    struct buf file = read_whole(from);
    struct line lines[32];
    size_t n = split_lines(&file, lines, 32), refused = 0, cut = 0;

    for (size_t at = 0, l = 0; at < file.len; at++) {
        if (at == lines[l].at + lines[l].n)
            l++;
        uint64_t proof = 0;
        for (size_t i = l + 1; i < n; i++)
            if (lines[i].synced > proof)
                proof = lines[i].synced;
        for (int bit = 0; bit < 8; bit++) {
            struct box b;
            file.p[at] ^= (char)(1 << bit);
            dir_remove("c");
            CHECK(mkdir("c", 0700) == 0);
            write_whole("c/" ONE, file.p, file.len);
            file.p[at] ^= (char)(1 << bit);
            bool opened = box_open(&b, "c", STORE_GROUP, 1 << 20, io);
            CHECK_INT(opened, l > 0 && proof < lines[l].number);
            if (opened) {
                CHECK_INT(store_durable(b.s), lines[l].number - 1);
                CHECK_INT(box_close(&b), 0);
                cut++;
            } else {
                struct buf after = read_whole("c/" ONE); /* as it was found */
                CHECK_INT(after.len, file.len);
                buf_free(&after);
                refused++;
            }
        }
    }
    CHECK(refused > 0 && cut > 0);
    CHECK(!clean || cut == 8 * lines[n - 1].n); /* a clean stop proves all but its own mark */
    buf_free(&file);
}

TEST(store_flip_every_bit)
{
    struct fake f;
    struct store_io io = fake_io(&f);
    struct box b;

    CHECK(box_open(&b, "a", STORE_GROUP, 1 << 20, &io));
    box_fill(&b, 8, 2);
    dir_copy("a", "b");
    CHECK_INT(box_close(&b), 0);
    flip_all("b/" ONE, &io, false);
    flip_all("a/" ONE, &io, true);
}

/* Open "c", expecting refusal; what was logged must name this. */
static void
expect_damage(const char *where)
{
    struct box b = {.pipe = {-1, -1}};
    struct store_options o = {.dir = "c", .policy = STORE_GROUP, .segment = 4096, .log = &b.log,
                              .ready = on_ready, .replay = on_replay, .arg = &b};

    b.log = (struct log){fopen("log", "w"), LOG_LEVEL_INFO};
    CHECK(b.log.file != NULL);
    CHECK(store_open(&o) == NULL);
    store_index_free(&b.index);
    fclose(b.log.file);
    struct buf text = read_whole("log");
    buf_add(&text, "", 1);
    printf("%s", text.p);
    CHECK(strstr(text.p, where) != NULL);
    CHECK(strstr(text.p, "jim check c") != NULL);
    buf_free(&text);
    FILE *out = fopen("out", "w");
    CHECK(out != NULL);
    CHECK_INT(store_check("c", out), 2);
    fclose(out);
    text = read_whole("out");
    buf_add(&text, "", 1);
    CHECK(strstr(text.p, where) != NULL);
    buf_free(&text);
}

TEST(store_damage)
{
    struct box b;
    char names[64][32], path[64], where[96];

    CHECK(box_open(&b, "a", STORE_GROUP, 1024, NULL));
    box_fill(&b, 60, 2);
    CHECK_INT(box_close(&b), 0);
    int n = segments("a", names, 64);
    CHECK(n > 4);
    for (int i = 0; i < n; i++) { /* a bad byte in the second line of each segment */
        dir_copy("a", "c");
        snprintf(path, sizeof path, "c/%.31s", names[i]);
        struct buf file = read_whole(path);
        size_t at = (size_t)((char *)memchr(file.p, '\n', file.len) - file.p) + 1;
        file.p[at + 12] ^= 1;
        write_whole(path, file.p, file.len);
        snprintf(where, sizeof where, "%s:%zu:", path, at);
        buf_free(&file);
        expect_damage(where);
    }
    for (int i = 1; i < n - 1; i++) { /* a missing segment: the one behind it tells */
        dir_copy("a", "c");
        snprintf(path, sizeof path, "c/%.31s", names[i]);
        CHECK(unlink(path) == 0);
        snprintf(where, sizeof where, "c/%.31s:0: records before this segment", names[i + 1]);
        expect_damage(where);
    }
    for (int i = 0; i < n - 1; i++) { /* one that lost its last line, or its header */
        dir_copy("a", "c");
        snprintf(path, sizeof path, "c/%.31s", names[i]);
        struct buf file = read_whole(path);
        write_whole(path, file.p, file.len - 5);
        snprintf(where, sizeof where, "c/%.31s:", names[i]);
        expect_damage(where);
        write_whole(path, file.p, 20);
        expect_damage(where);
        buf_free(&file);
    }
    dir_copy("a", "c");
    snprintf(path, sizeof path, "c/%.31s", names[1]);
    CHECK(rename(path, "c/00000000000000000002.log") == 0);
    expect_damage("c/00000000000000000002.log:0: the file's name");
}

/* An unsynced tail with holes is cut, though valid lines follow: they were never promised. */
TEST(store_torn_tail)
{
    struct box b;
    struct line lines[64];

    CHECK(box_open(&b, "a", STORE_GROUP, 1 << 20, NULL));
    box_fill(&b, 10, 2);
    for (int i = 0; i < 9; i++)
        CHECK(box_append(&b) != 0);
    CHECK(box_settle(&b, 24));
    dir_copy("a", "c");
    CHECK_INT(box_close(&b), 0);
    struct buf file = read_whole("c/" ONE);
    CHECK_INT(split_lines(&file, lines, 64), 26);
    memset(file.p + lines[18].at + 3, 0, 60); /* a page that never came */
    write_whole("c/" ONE, file.p, file.len);
    FILE *out = fopen("out", "w");
    CHECK(out != NULL);
    CHECK_INT(store_check("c", out), 1);
    fclose(out);
    CHECK(box_open(&b, "c", STORE_GROUP, 1 << 20, NULL));
    CHECK_INT(store_durable(b.s), 17);
    CHECK_INT(b.replayed, 11);
    CHECK_INT(box_close(&b), 0);
    struct buf after = read_whole("c/" ONE);
    CHECK_INT(after.len, lines[18].at);
    buf_free(&after);
    /* The same hole one batch earlier is damage: the last batch says that it was synced. */
    memset(file.p + lines[15].at + 3, 0, 60);
    write_whole("c/" ONE, file.p, file.len);
    char where[64];
    snprintf(where, sizeof where, "c/" ONE ":%zu:", lines[14].at);
    memset(file.p + lines[14].at + 3, 0, 20);
    write_whole("c/" ONE, file.p, file.len);
    expect_damage(where);
    buf_free(&file);
}

/* Add a line of one's own to the log in "c". */
static void
forge(const char *rest)
{
    struct buf file = read_whole("c/" ONE);
    struct crc32c crc;
    char salt[17], head[10];

    CHECK(sscanf(file.p, "jim-log 1 %16s", salt) == 1);
    crc32c_init(&crc);
    uint32_t sum = crc32c_add(&crc, crc32c_add(&crc, 0, salt, 16), rest, strlen(rest));
    snprintf(head, sizeof head, "%08" PRIx32 " ", sum);
    buf_add(&file, head, 9);
    buf_add(&file, rest, strlen(rest));
    buf_add(&file, "\n", 1);
    write_whole("c/" ONE, file.p, file.len);
    buf_free(&file);
}

static void
count_record(void *arg, const struct store_rec *rec)
{
    CHECK_INT(rec->type, REC_MESSAGE);
    ++*(int *)arg;
}

/* How many messages a start finds; -1: it is refused. */
static int
count_messages(const char *dir)
{
    int n = 0;
    struct log log = {stdout, LOG_LEVEL_INFO};
    struct store_options o = {.dir = dir, .policy = STORE_GROUP, .segment = 1 << 20, .log = &log,
                              .replay = count_record, .arg = &n};
    struct store *s = store_open(&o);

    if (s == NULL)
        return -1;
    CHECK_INT(store_close(s), 0);
    return n;
}

/* Whoever dies while he begins a segment leaves an empty one. Retention may drop all before it: so
 * a log may begin with it, but not with one that looks so only because its records are gone. */
TEST(store_begins_with_an_empty_segment)
{
    struct box b;
    char names[4][32], path[64];

    CHECK(box_open(&b, "d", STORE_GROUP, 1 << 20, NULL));
    box_fill(&b, 5, 2);
    CHECK_INT(box_close(&b), 0);
    struct buf first = read_whole("d/" ONE);
    size_t header = (size_t)((char *)memchr(first.p, '\n', first.len) + 1 - first.p);
    write_whole("d/00000000000000000020.log", first.p, header);
    CHECK(box_open(&b, "d", STORE_GROUP, 1 << 20, NULL));
    box_fill(&b, 3, 3);
    CHECK_INT(box_close(&b), 0);
    CHECK_INT(segments("d", names, 4), 3);
    dir_copy("d", "cut");
    CHECK(unlink("d/" ONE) == 0);
    CHECK_INT(count_messages("d"), 3);
    write_whole("cut/" ONE, first.p, header);
    CHECK_INT(count_messages("cut"), -1);
    snprintf(path, sizeof path, "cut/%.31s", names[1]);
    CHECK(unlink(path) == 0);
    CHECK_INT(count_messages("cut"), -1);
    buf_free(&first);
}

TEST(store_later_versions)
{
    struct box b;

    CHECK(box_open(&b, "a", STORE_GROUP, 1 << 20, NULL));
    box_fill(&b, 3, 3);
    dir_copy("a", "c");
    CHECK_INT(box_close(&b), 0);
    forge("5 1004 x - 0 {\"a small letter\":\"may be skipped\"}");
    CHECK(box_open(&b, "c", STORE_GROUP, 1 << 20, NULL));
    CHECK_INT(b.replayed, 3);
    CHECK_INT(b.others, 0);
    CHECK_INT(store_durable(b.s), 5);
    CHECK_INT(box_close(&b), 0);
    forge("6 1004 X - 0 {\"a capital\":\"must be understood\"}");
    expect_damage("later version");
    dir_copy("a", "c");
    struct buf file = read_whole("c/" ONE);
    file.p[8] = '2';
    write_whole("c/" ONE, file.p, file.len);
    expect_damage(ONE ":0: a format this version");
    buf_free(&file);
}

/* The numbers of a log that was stopped uncleanly again and again rise, and it stays readable. */
TEST(store_unclean_stops)
{
    struct box b;
    char names[64][32], dir[2][4] = {"a", "b"};
    uint64_t last = 0, total = 0;

    for (int i = 0; i < 8; i++) {
        CHECK(box_open(&b, dir[i % 2], i % 3 == 0 ? STORE_OFF : STORE_GROUP, 600, NULL));
        CHECK_INT(b.replayed, total);
        if (i % 4 != 3) { /* now and then nothing is written */
            uint64_t number = box_append(&b);
            CHECK(number > last + 1000000 || i == 0);
            CHECK(box_settle(&b, number));
            box_fill(&b, 20, 3);
            total += 21;
            last = store_durable(b.s);
        }
        box_read_all(&b);
        dir_copy(dir[i % 2], dir[(i + 1) % 2]);
        write_whole("a/00000000000000000099.log.tmp", "half", 4);
        write_whole("a/notes.txt", "not ours", 8);
        box_close(&b);
    }
    CHECK(box_open(&b, "a", STORE_GROUP, 600, NULL));
    CHECK_INT(b.replayed, total);
    CHECK_INT(box_close(&b), 0);
    CHECK(access("a/00000000000000000099.log.tmp", F_OK) != 0);
    CHECK(access("a/notes.txt", F_OK) == 0);
    CHECK(segments("a", names, 64) > 6);
}

TEST(store_locked)
{
    struct box b, other;

    CHECK(box_open(&b, "d", STORE_GROUP, 1 << 20, NULL));
    CHECK(!box_open(&other, "d", STORE_GROUP, 1 << 20, NULL)); /* in the same process, even */
    box_fill(&b, 3, 1);
    CHECK(!box_open(&other, "d", STORE_GROUP, 1 << 20, NULL));
    FILE *out = fopen("out", "w");
    CHECK(out != NULL);
    CHECK_INT(store_check("d", out), 0); /* reading is no harm */
    fclose(out);
    struct buf text = read_whole("out");
    CHECK(memmem(text.p, text.len, "in use", 6) != NULL);
    buf_free(&text);
    CHECK(!box_open(&other, "d", STORE_GROUP, 1 << 20, NULL)); /* nor does it loosen the lock */
    CHECK_INT(box_close(&b), 0);
    CHECK(box_open(&other, "d", STORE_GROUP, 1 << 20, NULL));
    CHECK_INT(other.replayed, 3);
    CHECK_INT(box_close(&other), 0);
    CHECK(!box_open(&other, "no/such/dir", STORE_GROUP, 1 << 20, NULL));
    write_whole("file", "x", 1);
    CHECK(!box_open(&other, "file", STORE_GROUP, 1 << 20, NULL));
    CHECK(!box_open(&other, "d", STORE_GROUP, UINT64_C(4) << 30, NULL));
}

/* --- faults ----------------------------------------------------------------------------------- */

/* Every record that was ever appended, by attempt: after a loss numbers and seqs are used again. */
struct attempt {
    uint64_t number, seq;
    int generation;
};

struct trial {
    struct attempt all[256];
    size_t n;
    uint64_t kept[64]; /* kept[seq]: the number it is durable under, 0: it is not */
    int generation;
    uint64_t seq, found; /* replayed: newest seq; how many of the kept */
    struct store_index index;
    int pipe[2];
};

static void
trial_json(char json[80], uint64_t seq, int generation)
{
    snprintf(json, 80, "{\"content\":\"%" PRIu64 " of %d\",\"seq\":%" PRIu64 "}", seq, generation,
             seq);
}

static void
trial_replay(void *arg, const struct store_rec *rec)
{
    struct trial *t = arg;
    bool known = false;

    if (rec->type != REC_MESSAGE)
        return;
    CHECK_INT(rec->seq, ++t->seq); /* no gap */
    for (size_t i = 0; i < t->n && !known; i++) {
        char json[80];
        trial_json(json, t->all[i].seq, t->all[i].generation);
        known = t->all[i].number == rec->number && str_eq(rec->json, str_of(json));
        if (known && t->kept[rec->seq] != 0) {
            CHECK_INT(t->kept[rec->seq], rec->number);
            t->found++;
        }
    }
    CHECK(known);
    store_index_add(&t->index, rec);
}

static void
trial_ready(void *arg)
{
    struct trial *t = arg;

    CHECK(write(t->pipe[1], "", 1) == 1);
}

static struct store *
trial_open(struct trial *t, int64_t policy, const struct store_io *io)
{
    static const struct log quiet = {NULL, LOG_LEVEL_ERROR};
    struct store_options o = {.dir = "d", .policy = policy, .segment = 400, .log = &quiet, .io = io,
                              .ready = trial_ready, .replay = trial_replay, .arg = t};

    store_index_free(&t->index);
    t->seq = t->found = 0;
    return store_open(&o);
}

/* One batch of three; whether it became durable. What is lost comes again with new content. */
static bool
trial_batch(struct trial *t, struct store *s)
{
    size_t start = t->n;
    uint64_t seq = t->seq, number = 0;

    t->generation++;
    for (int i = 0; i < 3; i++) {
        char json[80];
        trial_json(json, ++seq, t->generation);
        number = store_append(s, REC_MESSAGE, STR("g:1"), seq, str_of(json), 1, &t->index);
        if (number == 0)
            return false;
        t->all[t->n++] = (struct attempt){number, seq, t->generation};
        if (i == 1)
            store_commit(s); /* the third gathers while the helper works */
    }
    store_commit(s);
    while (store_durable(s) < number) {
        char c;
        CHECK(read(t->pipe[0], &c, 1) == 1);
        enum store_news news = store_poll(s);
        store_commit(s);
        for (size_t i = start; i < t->n; i++)
            if (t->all[i].number <= store_durable(s)) {
                t->kept[t->all[i].seq] = t->all[i].number;
                t->seq = t->all[i].seq;
            }
        if (news == STORE_LOST) {
            store_index_cut(&t->index, t->seq);
            return false;
        }
    }
    return true;
}

/* Everything promised must be readable, also while the store refuses more. */
static void
trial_read(const struct trial *t, struct store *s, struct fake *f)
{
    struct buf to = {0};
    struct store_rec rec;

    for (uint64_t seq = 1; seq <= t->seq; seq++) {
        to.len = 0;
        int hits = fake_get(f, &f->hits);
        int result = store_read(s, STR("-"), &t->index, seq, &to, &rec);
        CHECK(result == 0 || fake_get(f, &f->hits) > hits); /* unless the fault was in this read */
        CHECK(result != 0 || rec.number == t->kept[seq] || t->kept[seq] == 0);
    }
    buf_free(&to);
}

/* The k-th call fails: whether it was reached. The log has an earlier, torn end to be mended. */
static bool
trial_run(int64_t policy, enum mode mode, int err, int k)
{
    struct fake f;
    struct store_io io = fake_io(&f);
    struct trial t = {.n = 0};
    int lost = 0;

    printf("policy %d mode %d errno %d call %d\n", (int)policy, (int)mode, err, k);
    dir_remove("d");
    dir_copy("base", "d");
    write_whole("d/00000000000000000077.log.tmp", "x", 1);
    CHECK(pipe(t.pipe) == 0);
    for (uint64_t i = 1; i <= 4; i++) { /* what "base" holds */
        t.all[t.n++] = (struct attempt){1 + i, i, 0};
        t.kept[i] = 1 + i;
    }
    f.mode = mode;
    f.err = err;
    f.at = k;
    struct store *s = trial_open(&t, policy, &io);
    if (s != NULL) {
        for (int i = 0; i < 5; i++)
            lost += !trial_batch(&t, s);
        trial_read(&t, s, &f);
        bool failed = store_failed(s);
        CHECK_INT(store_append(s, REC_CURSOR, STR("g:1"), 1, STR("{}"), 1, NULL) == 0, failed);
        if (store_close(s) == 0)
            CHECK(!failed);
    }
    if (mode == M_SHORT || (mode == M_ERRNO && err == EINTR))
        CHECK(s != NULL && lost == 0);
    bool hit = f.hits > 0;

    uint64_t kept = 0; /* and afterwards, with a disk that works */
    for (size_t i = 0; i < 64; i++)
        kept += t.kept[i] != 0;
    f.mode = M_NONE;
    f.half_done = false;
    s = trial_open(&t, policy, &io);
    CHECK(s != NULL);
    CHECK_INT(t.found, kept);
    CHECK(trial_batch(&t, s));
    CHECK_INT(store_close(s), 0);
    store_index_free(&t.index);
    close(t.pipe[0]);
    close(t.pipe[1]);
    return hit;
}

TEST(store_faults)
{
    static const struct {
        enum mode mode;
        int err;
    } kinds[] = {{M_ERRNO, EIO}, {M_ERRNO, ENOSPC}, {M_ERRNO, EINTR}, {M_SHORT, 0},
                 {M_HALF_THEN_FULL, ENOSPC}, {M_DEAD, EIO}, {M_DEAD, ENOSPC}};
    static const int64_t policies[] = {STORE_GROUP, STORE_OFF, 0, 5};
    struct trial t = {.n = 0};
    int runs = 0;

    CHECK(pipe(t.pipe) == 0); /* "base": four messages and a torn fifth, after an unclean stop */
    struct store *s = trial_open(&t, STORE_GROUP, NULL);
    CHECK(s != NULL);
    for (uint64_t i = 1; i <= 4; i++) {
        char json[80];
        trial_json(json, i, 0);
        CHECK(store_append(s, REC_MESSAGE, STR("g:1"), i, str_of(json), 1, NULL) == 1 + i);
    }
    store_commit(s);
    char c;
    CHECK(read(t.pipe[0], &c, 1) == 1);
    CHECK_INT(store_poll(s), STORE_MORE);
    dir_copy("d", "base");
    CHECK_INT(store_close(s), 0);
    FILE *end = fopen("base/" ONE, "a");
    CHECK(end != NULL);
    fputs("01234567 6 1 M g:1 5 {\"cont", end);
    fclose(end);
    for (size_t p = 0; p < 4; p++)
        for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
            for (int k = 1; trial_run(policies[p], kinds[i].mode, kinds[i].err, k); k++)
                runs++;
    test_note("store: %d faulty runs", runs);
    close(t.pipe[0]);
    close(t.pipe[1]);
}

TEST(store_disk_full)
{
    struct fake f;
    struct store_io io = fake_io(&f);
    struct box b;

    CHECK(box_open(&b, "d", STORE_GROUP, 1500, &io));
    box_fill(&b, 5, 2);
    for (int round = 0; round < 6; round++) { /* some of them when a segment is to be begun */
        uint64_t before = store_durable(b.s), seq = b.seq;
        fake_set(&f, &f.full, true);
        for (int i = 0; i < 3; i++) {
            for (int j = 0; j < 4; j++)
                CHECK(box_append(&b) != 0);
            CHECK(!box_settle(&b, before + 1));
            CHECK_INT(store_durable(b.s), before);
            CHECK(!store_failed(b.s));
            store_index_cut(&b.index, seq);
            b.seq = seq;
            box_read_all(&b);
        }
        fake_set(&f, &f.full, false);
        box_fill(&b, 5, 2);
        box_read_all(&b);
    }
    dir_copy("d", "e");
    CHECK_INT(box_close(&b), 0);
    CHECK(box_open(&b, "d", STORE_GROUP, 1500, &io));
    CHECK_INT(b.replayed, 35);
    CHECK_INT(box_close(&b), 0);
    CHECK(box_open(&b, "e", STORE_GROUP, 1500, &io));
    CHECK_INT(b.replayed, 35);
    CHECK_INT(box_close(&b), 0);
}

TEST(store_failed_sync)
{
    struct fake f;
    struct store_io io = fake_io(&f);
    struct box b;

    CHECK(box_open(&b, "d", STORE_GROUP, 1 << 20, &io));
    box_fill(&b, 5, 2);
    uint64_t before = store_durable(b.s);
    fake_set(&f, &f.sync_fails, true);
    CHECK(box_append(&b) != 0);
    CHECK(!box_settle(&b, before + 1));
    CHECK_INT(store_durable(b.s), before);
    CHECK(store_failed(b.s));
    fake_set(&f, &f.sync_fails, false); /* a later success proves nothing */
    CHECK_INT(box_append(&b), 0);
    store_index_cut(&b.index, --b.seq);
    box_read_all(&b);
    int syncs = fake_get(&f, &f.syncs);
    CHECK_INT(box_close(&b), -1);
    CHECK_INT(fake_get(&f, &f.syncs), syncs);
    CHECK(box_open(&b, "d", STORE_GROUP, 1 << 20, &io));
    CHECK(b.replayed >= 5);
    CHECK_INT(box_close(&b), 0);
}

/* A sync between batches that fails is reported too, and nothing appended since is kept. */
TEST(store_failed_idle_sync)
{
    struct fake f;
    struct store_io io = fake_io(&f);
    struct box b;

    CHECK(box_open(&b, "d", 1, 1 << 20, &io));
    box_fill(&b, 5, 2);
    fake_set(&f, &f.sync_fails, true);
    uint64_t number = box_append(&b);
    enum store_news news = STORE_SAME;
    store_commit(b.s);
    while (news != STORE_LOST) /* two turns; three, when the sync before has its say, too */
        news = box_turn(&b);
    CHECK(store_failed(b.s));
    CHECK_INT(box_append(&b), 0);
    CHECK(store_durable(b.s) <= number);
    CHECK_INT(box_close(&b), -1);
}

TEST(store_idle_sync)
{
    struct fake f;
    struct store_io io = fake_io(&f);
    struct box b;

    CHECK(box_open(&b, "d", 30, 1 << 20, &io));
    box_fill(&b, 1, 1); /* the first batch is synced with its segment's header */
    for (int i = 0; i < 5; i++) {
        int before = fake_get(&f, &f.syncs);
        CHECK(box_append(&b) != 0);
        CHECK(box_settle(&b, store_durable(b.s) + 1));
        pthread_mutex_lock(&f.mutex);
        while (f.syncs == before) /* and nobody calls the store meanwhile */
            pthread_cond_wait(&f.changed, &f.mutex);
        pthread_mutex_unlock(&f.mutex);
    }
    CHECK_INT(box_close(&b), 0);
}

/* --- rules of order --------------------------------------------------------------------------- */

static void
expect_trace(struct fake *f, const char *want)
{
    pthread_mutex_lock(&f->mutex);
    CHECK_BYTES(f->trace.p, f->trace.len, want);
    f->trace.len = 0;
    pthread_mutex_unlock(&f->mutex);
}

/* One message. That it is durable is noted by the helper itself, when it says so: what it does
 * afterwards, it does while the loop goes on. */
static void
traced_ready(void *arg)
{
    struct box *b = arg;

    fake_note(b->fake, "ready");
    on_ready(arg);
}

static bool
traced_open(struct box *b, const char *dir, int64_t policy, uint64_t segment,
            const struct store_io *io)
{
    memset(b, 0, sizeof *b);
    b->log = (struct log){stdout, LOG_LEVEL_INFO};
    b->fake = io->arg;
    CHECK(pipe(b->pipe) == 0);
    struct store_options o = {.dir = dir, .policy = policy, .segment = segment, .log = &b->log,
                              .io = io, .ready = traced_ready, .replay = on_replay, .arg = b};
    b->s = store_open(&o);
    return b->s != NULL;
}

/* Sync before a batch is said to be durable; a segment's header before it has its name, and that
 * before it is written to. What can wait comes after the batch: the .idx, and the next header. */
TEST(store_call_order)
{
    struct fake f;
    struct store_io io = fake_io(&f);
    struct box b;

    f.record = true;
    CHECK(traced_open(&b, "d", STORE_GROUP, 300, &io));
    expect_trace(&f, "mkdir sync-dir create lock list");
    box_fill(&b, 5, 1);
    CHECK_INT(box_close(&b), 0);
    expect_trace(&f, "create write sync rename sync-dir write sync ready " /* a segment begins */
                     "write sync ready create write sync " /* nearly full: prepare the next */
                     "write sync ready "
                     "rename sync-dir close write sync ready " /* which is begun */
                     "create write close rename " /* the .idx of the one before */
                     "write sync ready create write sync "
                     "close unlink write sync close close"); /* what was prepared; the mark */
    buf_free(&f.trace);
}

/* With a weaker policy batches are not synced, but segments are, and what behind a clean stop
 * stands must not look clean after a power cut. */
TEST(store_call_order_unsynced)
{
    struct fake f;
    struct store_io io = fake_io(&f);
    struct box b;

    f.record = true;
    CHECK(traced_open(&b, "d", STORE_GROUP, 300, &io));
    box_fill(&b, 1, 1);
    CHECK_INT(box_close(&b), 0);
    CHECK(traced_open(&b, "d", STORE_OFF, 1000, &io));
    f.trace.len = 0;
    box_fill(&b, 2, 1);
    fake_set(&f, &f.full, true);
    CHECK(box_append(&b) != 0);
    CHECK(!box_settle(&b, store_durable(b.s) + 1));
    store_index_cut(&b.index, --b.seq);
    fake_set(&f, &f.full, false);
    expect_trace(&f, "write sync ready write ready write truncate sync ready");
    dir_copy("d", "e");
    CHECK_INT(box_close(&b), 0);

    f.trace.len = 0;
    CHECK(traced_open(&b, "e", STORE_GROUP, 1000, &io)); /* unclean: sync what is durable now */
    expect_trace(&f, "mkdir sync-dir create lock list open read read close "
                     "open read write sync close sync-dir");
    CHECK_INT(box_close(&b), 0);
    CHECK(traced_open(&b, "d", STORE_OFF, 300, &io));
    f.trace.len = 0;
    box_fill(&b, 3, 1);
    CHECK_INT(box_close(&b), 0);
    expect_trace(&f, "create write sync rename sync-dir close write sync ready "
                     "create write close rename "
                     "write ready create write sync "
                     "write ready "
                     "close unlink sync write sync close close");
    buf_free(&f.trace);
}

/* Where `part` stands in what was recorded; the test fails when it does not. */
static const char *
traced_part(struct fake *f, const char *part)
{
    fake_note(f, "");
    buf_add(&f->trace, "", 1);
    const char *p = strstr(f->trace.p, part);
    if (p == NULL)
        test_fail(__FILE__, __LINE__, "no \"%s\" in: %s", part, f->trace.p);
    return p;
}

/* Who made the directory, a segment or the mark of a clean stop may have died before he synced it,
 * or his sync may have failed and its pages be gone while they still show: so whatever a start
 * finds, it writes the end of the log anew, and syncs that and both directories. The crash
 * simulator found each of these missing. */
TEST(store_start_trusts_no_sync)
{
    struct fake f;
    struct store_io io = fake_io(&f);
    struct box b;

    CHECK(box_open(&b, "d", STORE_GROUP, 1 << 20, &io));
    box_fill(&b, 8, 2);
    dir_copy("d", "e");
    CHECK_INT(box_close(&b), 0);
    struct buf before = read_whole("d/" ONE);
    f.record = true;
    CHECK(box_open(&b, "d", STORE_GROUP, 1 << 20, &io)); /* after a clean stop */
    CHECK(traced_part(&f, "mkdir sync-dir ") < traced_part(&f, "read write sync close sync-dir"));
    struct buf after = read_whole("d/" ONE);
    CHECK_INT(after.len, before.len);
    CHECK_INT(memcmp(after.p, before.p, before.len), 0);
    buf_free(&before);
    buf_free(&after);
    CHECK_INT(box_close(&b), 0);
    f.trace.len = 0;
    CHECK(box_open(&b, "e", STORE_GROUP, 1 << 20, &io)); /* and after another */
    CHECK(traced_part(&f, "mkdir sync-dir ") < traced_part(&f, "read write sync close sync-dir"));
    CHECK_INT(b.replayed, 8);
    CHECK_INT(box_close(&b), 0);
    buf_free(&f.trace);
}

/* An empty segment behind a clean stop: somebody died beginning it, so this is no clean stop. */
TEST(store_empty_segment)
{
    struct box b;
    char names[4][32], path[64];

    CHECK(box_open(&b, "d", STORE_GROUP, 100, NULL));
    box_fill(&b, 2, 2);
    CHECK_INT(box_close(&b), 0);
    CHECK(box_open(&b, "d", STORE_GROUP, 100, NULL));
    box_fill(&b, 1, 1); /* full: in a segment of its own */
    dir_copy("d", "e");
    CHECK_INT(box_close(&b), 0);
    CHECK_INT(segments("e", names, 4), 2);
    snprintf(path, sizeof path, "e/%.31s", names[1]);
    struct buf file = read_whole(path);
    const char *end = memchr(file.p, '\n', file.len);
    CHECK(end != NULL);
    write_whole(path, file.p, (size_t)(end - file.p) + 1);
    buf_free(&file);
    CHECK(box_open(&b, "e", STORE_GROUP, 100, NULL));
    CHECK_INT(b.replayed, 2);
    uint64_t number = box_append(&b);
    CHECK(number > 1000000);
    CHECK(box_settle(&b, number));
    CHECK_INT(box_close(&b), 0);
    CHECK(box_open(&b, "e", STORE_GROUP, 100, NULL));
    CHECK_INT(b.replayed, 3);
    CHECK_INT(box_close(&b), 0);
}

/* --- subcommands ------------------------------------------------------------------------------ */

TEST(store_check_and_export)
{
    struct box b;

    CHECK(box_open(&b, "d", STORE_GROUP, 1 << 20, NULL));
    box_fill(&b, 9, 3);
    CHECK(store_append(b.s, REC_JOIN, STR("g:1"), 0, STR("{\"userId\":\"a\"}"), 5, NULL) != 0);
    dir_copy("d", "e");
    CHECK_INT(box_close(&b), 0);
    FILE *out = fopen("out", "w");
    CHECK(out != NULL);
    CHECK_INT(store_check("d", out), 0);
    CHECK_INT(store_export("d", out), 0);
    FILE *end = fopen("e/" ONE, "a");
    CHECK(end != NULL);
    fputs("half a line", end);
    fclose(end);
    char names[4][32];
    CHECK_INT(segments("e", names, 4), 1);
    CHECK_INT(store_check("e", out), 1);
    CHECK_INT(store_check("none", out), 2);
    CHECK_INT(store_export("none", out), 2);
    fclose(out);
    struct buf text = read_whole("out"), want = {0}, json = {0};
    buf_printf(&want, "d: segments 1, records 15, messages 9\nno damage\n");
    for (uint64_t seq = 1; seq <= 9; seq++) {
        struct str s = content(seq, &json);
        buf_printf(&want, "%.*s,\"time\":%" PRIu64 "}\n", (int)s.n - 1, s.p, 1000 + seq);
    }
    CHECK(text.len > want.len);
    CHECK_INT(memcmp(text.p, want.p, want.len), 0);
    buf_add(&text, "", 1);
    CHECK(strstr(text.p, "e: segments 1, records 12, messages 9\ne/" ONE ":") != NULL);
    CHECK(strstr(text.p, "torn tail of 11 bytes") != NULL);
    CHECK(strstr(text.p, "cannot list the directory: No such file") != NULL);
    buf_free(&text);
    buf_free(&want);
    buf_free(&json);
}

/* A damaged log gives everything but the damaged line. */
TEST(store_export_damaged)
{
    struct box b;
    struct line lines[64];

    CHECK(box_open(&b, "c", STORE_GROUP, 1 << 20, NULL));
    box_fill(&b, 9, 3);
    CHECK_INT(box_close(&b), 0);
    struct buf file = read_whole("c/" ONE);
    split_lines(&file, lines, 64);
    file.p[lines[6].at + 20] ^= 4;
    write_whole("c/" ONE, file.p, file.len);
    FILE *out = fopen("out", "w");
    CHECK(out != NULL);
    CHECK_INT(store_export("c", out), 2);
    fclose(out);
    struct buf text = read_whole("out");
    int n = 0;
    for (size_t i = 0; i < text.len; i++)
        n += text.p[i] == '\n';
    CHECK_INT(n, 8);
    CHECK(memmem(text.p, text.len, "m4 ", 3) == NULL);
    buf_free(&text);
    buf_free(&file);
}

/* --- speed ------------------------------------------------------------------------------------ */

static void
count_replay(void *arg, const struct store_rec *rec)
{
    (void)rec;
    ++*(uint64_t *)arg;
}

TEST(store_speed)
{
    static const struct log quiet = {NULL, LOG_LEVEL_ERROR};
    uint64_t count = 0, n = 200000;
    struct store_options o = {.dir = "d", .policy = STORE_OFF, .segment = 16 << 20, .log = &quiet,
                              .replay = count_replay, .arg = &count};
    struct store *s = store_open(&o);
    struct str json = STR("{\"chatType\":2,\"cmd\":11,\"content\":\"a message of ordinary length, "
                          "as people write them\",\"createTime\":1700000000000,\"from\":\"u1\","
                          "\"id\":"
                          "\"0123456789abcdef0123456789abcdef\",\"msgType\":0,\"seq\":12345,"
                          "\"to\":\"u2\"}");

    CHECK(s != NULL);
    int64_t start = time_mono_ms();
    for (uint64_t i = 1; i <= n; i++) {
        CHECK(store_append(s, REC_MESSAGE, STR("u:u1:u2"), i, json, 1700000000000, NULL) != 0);
        if (i % 100 == 0) {
            store_poll(s);
            store_commit(s);
        }
    }
    CHECK_INT(store_close(s), 0);
    int64_t written = time_mono_ms() - start;
    start = time_mono_ms();
    s = store_open(&o);
    int64_t ms = time_mono_ms() - start;
    CHECK(s != NULL);
    CHECK_INT(count, n);
    double mb = (double)(json.n + 55) * (double)n / 1e6;
    test_note("store: appends %.0f k/s, replay %.0f MB/s", (double)n / (double)(written + 1),
              mb * 1000 / (double)(ms + 1));
    CHECK_INT(store_close(s), 0);
}
