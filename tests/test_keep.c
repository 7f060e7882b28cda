/* SPDX-License-Identifier: MIT */
/*
 * test_keep.c - retention: messages that are too old, or too much, go; users, groups, names,
 * memberships, cursors and the numbers of conversations stay, whenever the server stops.
 *
 * A town of users, pairs and groups, made directly in the roster and the log, so that nothing but
 * the store and the chat's own records is between a test and what it asks.
 */
#include "test.h"
#include "../store.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <unistd.h>

#define USERS 12
#define DAY INT64_C(86400000)
#define START INT64_C(1750000000000)

static int64_t now; /* the town's clock, ms */

static int64_t
clock_now(void)
{
    return now;
}

/* --- a disk that can be watched --------------------------------------------------------------- */

struct disk {
    bool full;           /* writes fail; __atomic */
    bool no_unlink;      /* of the first segment */
    bool record;
    struct buf trace;    /* "write" of records and their "sync", "unlink/NAME", "sync-dir" */
    int fd;              /* that records were last written to */
    void (*before)(void *arg); /* NULL, or: called before each call that changes something */
    void *arg;
};

static void
disk_changes(struct disk *d, const char *what, const char *path)
{
    const char *slash = path != NULL ? strrchr(path, '/') : NULL;

    if (d->before != NULL)
        d->before(d->arg);
    if (d->record)
        buf_printf(&d->trace, "%s%s ", what, slash != NULL ? slash : "");
}

static ssize_t
d_pwrite(void *arg, int fd, const void *p, size_t n, off_t at)
{
    struct disk *d = arg;

    const char *text = p;
    bool line = n > 9 && text[9] >= '0' && text[9] <= '9'; /* no header, no .idx */
    if (line)
        d->fd = fd;
    disk_changes(d, line ? "write" : "other", NULL);
    if (__atomic_load_n(&d->full, __ATOMIC_SEQ_CST)) {
        errno = ENOSPC;
        return -1;
    }
    return store_disk.pwrite(NULL, fd, p, n, at);
}

static int
d_sync(void *arg, int fd)
{
    struct disk *d = arg;

    disk_changes(d, fd == d->fd ? "sync" : "other", NULL);
    return 0;
}

static int
d_sync_dir(void *arg, const char *path)
{
    (void)path;
    disk_changes(arg, "sync-dir", NULL);
    return 0;
}

static int
d_rename(void *arg, const char *from, const char *to)
{
    disk_changes(arg, "rename", to);
    return store_disk.rename(NULL, from, to);
}

static int
d_unlink(void *arg, const char *path)
{
    struct disk *d = arg;

    disk_changes(d, "unlink", path);
    if (d->no_unlink && strcmp(path + strlen(path) - 6, "01.log") == 0) {
        errno = EPERM;
        return -1;
    }
    return store_disk.unlink(NULL, path);
}

static int
d_list(void *arg, const char *path, struct buf *out)
{
    (void)arg;
    return store_disk.list(NULL, path, out);
}

static struct store_io
disk_io(struct disk *d)
{
    struct store_io io = store_disk;

    memset(d, 0, sizeof *d);
    io.arg = d;
    io.pwrite = d_pwrite;
    io.sync = d_sync;
    io.sync_dir = d_sync_dir;
    io.rename = d_rename;
    io.unlink = d_unlink;
    io.list = d_list;
    return io;
}

/* --- a town ----------------------------------------------------------------------------------- */

struct town {
    struct jim *j;
    struct chat *c;
    struct store_io io;
};

static void
town_open(struct town *t, const char *dir, const struct store_io *io, int64_t policy)
{
    struct jim *j = t->j = jim_new();

    j->log = (struct log){stdout, LOG_LEVEL_WARN};
    j->loop = loop_new();
    CHECK(j->loop != NULL);
    t->c = &j->chat;
    chat_init(t->c, &j->opt, &j->log, &j->stats);
    t->c->now_ms = clock_now;
    t->io = *io;
    struct store_options o = {.dir = dir, .policy = policy, .segment = 4096, .log = &j->log,
                              .io = &t->io, .replay = record_replay, .span = record_span,
                              .recent = record_recent, .recent_max = MAX_RETRY,
                              .recent_ms = now - RETRY_MS, .arg = t->c};
    j->store = t->c->store = store_open(&o);
    CHECK(j->store != NULL);
}

static void
town_close(struct town *t)
{
    t->j->log.file = stderr; /* jim_free() closes any other */
    jim_free(t->j);
}

/* Turns until all is durable; false when something was lost. */
static bool
town_settle(struct town *t)
{
    uint64_t last = store_last(t->c->store);

    while (store_durable(t->c->store) < last) {
        store_commit(t->c->store);
        deliver_committed(t->c);
        if (store_last(t->c->store) < last)
            return false;
        usleep(20);
    }
    return true;
}

static struct user *
someone(struct town *t, int i)
{
    char id[16];

    snprintf(id, sizeof id, "user %d", i);
    return user_get(&t->c->roster, str_of(id));
}

/* n messages in a conversation, each said to have reached those who are in it but the first. */
static void
talk(struct town *t, struct conv *v, int n)
{
    for (int i = 0; i < n; i++) {
        char json[200];
        snprintf(json, sizeof json, "{\"content\":\"%" PRIu64 " of what has been said here in the "
                 "course of time, and is worth some bytes\",\"from\":\"user 1\",\"id\":\"%.20s-%"
                 PRIu64 "\"}", v->seq + 1, v->group ? "g" : "p", v->seq + 1);
        CHECK(store_append(t->c->store, REC_MESSAGE, (struct str){v->key, v->keylen}, ++v->seq,
                           str_of(json), now, &v->index) != 0);
        if (i % 5 == 4)
            CHECK(town_settle(t));
    }
    CHECK(town_settle(t));
    v->durable = v->seq;
    for (uint32_t i = 1; i < v->nmembers; i++)
        member_delivered_upto(&t->c->roster, v->member[i], v->seq);
    record_save(t->c, SIZE_MAX);
    CHECK(town_settle(t));
}

/* Users, some with a nick; a group with a name and one without; who has left; pairs, one with a
 * gap in what has been delivered; and one conversation that goes on. */
static void
town_build(struct town *t)
{
    struct roster *r = &t->c->roster;

    for (int i = 0; i < USERS; i++) {
        struct user *u = someone(t, i);
        user_know(r, u);
        if (i % 3 == 0) {
            u->profile = xcalloc(1, sizeof *u->profile);
            u->profile->nick = xstrndup("\"Nick\"", 6);
        }
        record_user(t->c, u);
    }
    struct conv *named = group_get(r, STR("the named")), *plain = group_get(r, STR("plain"));
    named->name = xstrndup("A name", 6);
    record_group(t->c, named);
    for (int i = 0; i < USERS; i++) {
        record_member(t->c, member_add(r, someone(t, i), named));
        if (i % 2 == 0)
            record_member(t->c, member_add(r, someone(t, i), plain));
    }
    struct member *left = member_in_group(r, someone(t, 3), STR("the named"));
    member_leave(left);
    record_member(t->c, left);
    talk(t, named, 7);
    talk(t, plain, 3);
    for (int i = 1; i < 5; i++)
        talk(t, pair_get(r, someone(t, 0), someone(t, i)), 2 * i);
    struct conv *gap = pair_get(r, someone(t, 5), someone(t, 6));
    talk(t, gap, 9);
    gap->member[1]->cursor = 2;
    member_delivered(r, gap->member[1], 5);
    member_delivered(r, gap->member[1], 6);
    record_save(t->c, SIZE_MAX);
    CHECK(town_settle(t));
}

static struct conv *
busy(struct town *t)
{
    return pair_get(&t->c->roster, someone(t, 10), someone(t, 11));
}

/* --- what is so ------------------------------------------------------------------------------- */

static int
compare_lines(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Everything that must outlive the messages, as text. */
static struct buf
town_text(struct town *t)
{
    struct roster *r = &t->c->roster;
    struct buf all = {0}, out = {0};
    char *line[400], *save = NULL;
    size_t n = 0;

    for (const struct user *u = r->made_users; u != NULL; u = u->next)
        if (u->known)
            buf_printf(&all, "user %.*s %s\n", (int)u->idlen, u->id,
                       u->profile != NULL ? u->profile->nick : "-");
    for (const struct conv *v = r->made_convs; v != NULL; v = v->next) {
        buf_printf(&all, "conv %.*s %s %" PRIu64 " %" PRIu64 " %u\n", (int)v->keylen, v->key,
                   v->name != NULL ? v->name : "-", v->seq, v->durable, v->nmembers);
        for (uint32_t i = 0; i < v->nmembers; i++) {
            const struct member *m = v->member[i];
            buf_printf(&all, "member %.*s %.*s %" PRIu64 " %" PRIu64 "-%" PRIu64 "\n",
                       (int)v->keylen, v->key, (int)m->user->idlen, m->user->id, m->cursor,
                       m->live_lo, m->live_hi);
        }
    }
    buf_add(&all, "", 1);
    for (char *p = strtok_r(all.p, "\n", &save); p != NULL; p = strtok_r(NULL, "\n", &save)) {
        CHECK(n < 400);
        line[n++] = p;
    }
    qsort(line, n, sizeof line[0], compare_lines);
    for (size_t i = 0; i < n; i++)
        buf_printf(&out, "%s\n", line[i]);
    buf_add(&out, "", 1);
    buf_free(&all);
    return out;
}

static void
check_same(const struct buf *a, const struct buf *b)
{
    if (strcmp(a->p, b->p) != 0)
        test_fail(__FILE__, __LINE__, "it was:\n%s\nand is:\n%s", a->p, b->p);
}

/* What there is of each conversation can be read, up to its last, and nothing before it. */
static void
check_messages(struct town *t)
{
    struct store_rec rec;
    struct buf line = {0};

    for (const struct conv *v = t->c->roster.made_convs; v != NULL; v = v->next) {
        uint64_t first = store_index_first(&v->index);
        for (uint64_t seq = 1; seq <= v->durable; seq++) {
            line.len = 0;
            CHECK_INT(store_read(t->c->store, STR("-"), &v->index, seq, &line, &rec),
                      first != 0 && seq >= first ? 0 : -ENOENT);
        }
    }
    buf_free(&line);
}

static int
files(const char *dir, const char *suffix)
{
    DIR *d = opendir(dir);
    struct dirent *e;
    int n = 0;

    CHECK(d != NULL);
    while ((e = readdir(d)) != NULL) {
        size_t len = strlen(e->d_name), end = strlen(suffix);
        n += len > end && strcmp(e->d_name + len - end, suffix) == 0;
    }
    closedir(d);
    return n;
}

/* A whole pass; how many steps it took. 0: there was nothing to do. */
static int
town_keep(struct town *t)
{
    int steps = 0;

    if (!keep_begin(t->c))
        return 0;
    while (t->c->keep.bound.segment != 0) {
        CHECK(keep_begin(t->c));
        steps++;
        if (!keep_step(t->c)) {
            store_commit(t->c->store);
            deliver_committed(t->c);
            usleep(20);
        }
    }
    return steps;
}

/* --- the tests -------------------------------------------------------------------------------- */

/* Build, let much be said, keep little, and look at it now and after a restart. */
TEST(keep_bytes)
{
    struct disk d;
    struct store_io io = disk_io(&d);
    struct town t;
    struct buf was, is;

    now = START;
    town_open(&t, "d", &io, STORE_GROUP);
    town_build(&t);
    CHECK_INT(town_keep(&t), 0); /* nothing is asked for */
    talk(&t, busy(&t), 200);
    t.j->opt.keep_bytes = 12000;
    CHECK(store_bytes(t.c->store) > 30000);
    CHECK_INT(files("d", ".log"), store_segments(t.c->store));
    was = town_text(&t);
    CHECK(town_keep(&t) > 0);
    is = town_text(&t);
    check_same(&was, &is);
    buf_free(&is);
    check_messages(&t);
    CHECK(store_index_first(&busy(&t)->index) > 100);
    CHECK_INT(store_index_first(&group_get(&t.c->roster, STR("plain"))->index), 0);
    uint32_t left = store_segments(t.c->store);
    town_close(&t);
    CHECK_INT(files("d", ".log"), left);
    CHECK_INT(files("d", ".idx"), left - 1);
    for (int i = 0; i < 2; i++) { /* with the .idx files and without */
        town_open(&t, "d", &io, STORE_GROUP);
        is = town_text(&t);
        check_same(&was, &is);
        buf_free(&is);
        check_messages(&t);
        town_close(&t);
        if (i == 0)
            CHECK(system("rm d/*.idx") == 0);
    }
    FILE *out = fopen("out", "w"); /* that the oldest are missing is no damage */
    CHECK(out != NULL);
    CHECK_INT(store_check("d", out), 0);
    fclose(out);
    buf_free(&was);
}

/* Pass after pass: what was written again is written again, and numbers go on where they were. */
TEST(keep_again_and_again)
{
    struct disk d;
    struct store_io io = disk_io(&d);
    struct town t;

    now = START;
    town_open(&t, "d", &io, STORE_GROUP);
    town_build(&t);
    for (int round = 0; round < 8; round++) {
        t.j->opt.keep_bytes = 14000;
        talk(&t, busy(&t), 120);
        struct conv *plain = group_get(&t.c->roster, STR("plain"));
        uint64_t seq = plain->seq;
        struct buf was = town_text(&t);
        CHECK(town_keep(&t) > 0);
        CHECK(store_bytes(t.c->store) < 30000);
        town_close(&t);
        town_open(&t, "d", &io, round % 2 == 0 ? STORE_GROUP : STORE_OFF);
        struct buf is = town_text(&t);
        check_same(&was, &is);
        buf_free(&was);
        buf_free(&is);
        plain = group_get(&t.c->roster, STR("plain"));
        CHECK_INT(plain->seq, seq);
        if (round == 4)
            talk(&t, plain, 2); /* after passes without any */
        check_messages(&t);
    }
    CHECK(busy(&t)->seq == 8 * 120);
    town_close(&t);
}

TEST(keep_days)
{
    struct disk d;
    struct store_io io = disk_io(&d);
    struct town t;

    now = START;
    town_open(&t, "d", &io, STORE_GROUP);
    t.j->opt.keep_days = 30;
    town_build(&t);
    talk(&t, busy(&t), 100);
    uint64_t old = busy(&t)->seq;
    now += 20 * DAY;
    talk(&t, busy(&t), 100);
    CHECK_INT(town_keep(&t), 0);
    now += 10 * DAY; /* not a moment too early */
    CHECK_INT(town_keep(&t), 0);
    now += 1;
    CHECK(town_keep(&t) > 0);
    uint64_t first = store_index_first(&busy(&t)->index);
    CHECK(first > old - 40 && first <= old + 1); /* whole files only */
    check_messages(&t);
    now += 400 * DAY; /* the last one stays, however old */
    talk(&t, busy(&t), 1);
    CHECK(town_keep(&t) > 0);
    CHECK(store_segments(t.c->store) <= 2);
    CHECK(store_index_first(&busy(&t)->index) > old + 60);
    check_messages(&t);
    town_close(&t);
}

/* --- stops in the middle ---------------------------------------------------------------------- */

struct images {
    struct disk disk;
    int n;
    bool on;
};

/* What a process killed now would leave behind. */
static void
take_image(void *arg)
{
    struct images *im = arg;
    char command[80];

    if (!im->on)
        return;
    snprintf(command, sizeof command, "cp -r d image%d", im->n++);
    CHECK(system(command) == 0);
}

/* Killed before any call of a pass: the next start finds all but expired messages, and its own pass
 * does what is left. */
TEST(keep_killed_anywhere)
{
    static struct images im;
    struct store_io io = disk_io(&im.disk), plain;
    struct disk disk;
    struct town t;
    char dir[20];

    now = START;
    im.disk.before = take_image;
    im.disk.arg = &im;
    town_open(&t, "d", &io, STORE_GROUP);
    town_build(&t);
    talk(&t, busy(&t), 120);
    t.j->opt.keep_bytes = 9000;
    struct buf was = town_text(&t);
    im.on = true; /* the helper is idle */
    CHECK(town_keep(&t) > 0);
    store_close(t.c->store);
    t.j->store = t.c->store = store_open_none();
    im.on = false;
    town_close(&t);
    CHECK(im.n > 12);
    plain = disk_io(&disk);
    for (int i = 0; i < im.n; i++) {
        snprintf(dir, sizeof dir, "image%d", i);
        for (int again = 0; again < 2; again++) {
            town_open(&t, dir, &plain, STORE_GROUP);
            struct buf is = town_text(&t);
            check_same(&was, &is);
            buf_free(&is);
            check_messages(&t);
            t.j->opt.keep_bytes = 9000;
            town_keep(&t);
            CHECK(store_index_first(&busy(&t)->index) > 60);
            town_close(&t);
        }
    }
    test_note("retention: killed at %d places", im.n);
    buf_free(&was);
}

/* --- rules of order --------------------------------------------------------------------------- */

/* Whatever the policy, what was written again is synced before anything is removed; and each
 * removal before the next. */
TEST(keep_call_order)
{
    static const int64_t policies[] = {STORE_GROUP, STORE_OFF, 3600000};

    for (int i = 0; i < 3; i++) {
        struct disk d;
        struct store_io io = disk_io(&d);
        struct town t;
        now = START;
        town_open(&t, "d", &io, policies[i]);
        town_build(&t);
        talk(&t, busy(&t), 100);
        t.j->opt.keep_bytes = 9000;
        d.record = true; /* the helper is idle */
        CHECK(town_keep(&t) > 0);
        town_close(&t);
        buf_add(&d.trace, "", 1);
        const char *p = d.trace.p;
        bool dirty = false, gone = false, logs = false;
        for (char *save, *word = strtok_r(d.trace.p, " ", &save); word != NULL;
             word = strtok_r(NULL, " ", &save)) {
            bool is_log = strncmp(word, "unlink/0", 8) == 0 && strlen(word) == 6 + 1 + 24;
            CHECK(!is_log || (!dirty && !gone));
            gone = is_log || (gone && strcmp(word, "sync-dir") != 0);
            if (!logs)
                dirty = strcmp(word, "write") == 0 || (dirty && strcmp(word, "sync") != 0);
            logs |= is_log;
        }
        CHECK(logs && p != NULL);
        buf_free(&d.trace);
        CHECK(system("rm -r d") == 0);
    }
}

/* A pass whose records are lost removes nothing; nor does the next while they are still to be
 * written again, though they had numbers; a later one does. */
TEST(keep_disk_full)
{
    struct disk d;
    struct store_io io = disk_io(&d);
    struct town t;

    now = START;
    town_open(&t, "d", &io, STORE_GROUP);
    town_build(&t);
    talk(&t, busy(&t), 120);
    struct buf was = town_text(&t);
    int logs = files("d", ".log");
    t.j->opt.keep_bytes = 9000;
    __atomic_store_n(&d.full, true, __ATOMIC_SEQ_CST);
    CHECK(keep_begin(t.c));
    for (int turns = 0; t.c->keep.bound.segment != 0; turns++) { /* until it is given up */
        CHECK(turns < 100);
        keep_step(t.c);
        town_settle(&t);
    }
    CHECK_INT(files("d", ".log"), logs);
    __atomic_store_n(&d.full, false, __ATOMIC_SEQ_CST);
    CHECK(t.c->redo_n > 0);
    for (int i = 0; i < 100; i++) {
        CHECK(keep_begin(t.c));
        keep_step(t.c);
        CHECK(town_settle(&t));
    }
    CHECK_INT(files("d", ".log"), logs);
    record_save(t.c, SIZE_MAX); /* what was lost is written again */
    CHECK(town_keep(&t) > 0);
    town_close(&t);
    CHECK(files("d", ".log") < logs);
    town_open(&t, "d", &io, STORE_GROUP);
    struct buf is = town_text(&t);
    check_same(&was, &is);
    check_messages(&t);
    town_close(&t);
    buf_free(&was);
    buf_free(&is);
}

/* A message that is still on its way may be all that tells how far its conversation has counted:
 * until it is durable nothing goes, even if the pass itself has nothing to write. */
TEST(keep_waits_for_what_is_on_its_way)
{
    struct disk d;
    struct store_io io = disk_io(&d);
    struct town t;

    now = START;
    town_open(&t, "d", &io, STORE_GROUP);
    town_build(&t);
    talk(&t, busy(&t), 60);
    for (struct user *u = t.c->roster.made_users; u != NULL; u = u->next) {
        record_user(t.c, u);
        for (struct member *m = u->members; m != NULL; m = m->next_of_user)
            if (m->conv->group)
                record_member(t.c, m);
            else
                record_cursor(t.c, m);
    }
    for (struct conv *v = t.c->roster.made_convs; v != NULL; v = v->next) {
        if (v->group)
            record_group(t.c, v);
        if (v != busy(&t) && v != group_get(&t.c->roster, STR("plain")))
            record_seq(t.c, v);
    }
    CHECK(town_settle(&t));
    t.j->opt.keep_bytes = (int64_t)store_bytes(t.c->store) - 1000; /* the first segment goes */
    struct conv *plain = group_get(&t.c->roster, STR("plain"));
    CHECK(store_append(t.c->store, REC_MESSAGE, (struct str){plain->key, plain->keylen},
                       ++plain->seq, STR("{}"), now, &plain->index) != 0);
    uint64_t last = store_last(t.c->store);
    CHECK(keep_begin(t.c));
    for (int i = 0; i < 20; i++) {
        keep_step(t.c);
        CHECK(t.c->keep.bound.segment != 0);
    }
    CHECK_INT(store_last(t.c->store), last);
    CHECK(town_keep(&t) > 0);
    town_close(&t);
}

/* Changes of groups that are on their way when a pass begins, in what stays or (behind) in what is
 * to go: the pass neither undoes nor loses them. */
static void
keep_changes(bool behind)
{
    struct disk d;
    struct store_io io = disk_io(&d);
    struct town t;

    now = START;
    town_open(&t, "d", &io, STORE_GROUP);
    town_build(&t);
    talk(&t, busy(&t), 60);
    struct roster *r = &t.c->roster;
    struct conv *named = group_get(r, STR("the named")), *plain = group_get(r, STR("plain"));
    struct conv *again = busy(&t);
    CHECK(group_remove_later(t.c, named, someone(&t, 1)));
    CHECK(group_add_later(t.c, named, someone(&t, 3)));
    CHECK(group_rename(t.c, plain, STR("renamed")));
    CHECK(group_add_later(t.c, plain, someone(&t, 1)));
    CHECK(group_create_later(t.c, STR("new"), STR("New")) != NULL);
    for (int i = 0; behind && i < 81; i++) { /* the segment ends while they wait */
        if (i == 80)
            store_commit(t.c->store);
        CHECK(store_append(t.c->store, REC_MESSAGE, (struct str){again->key, again->keylen},
                           ++again->seq, STR("{\"content\":\"so that the segment is full\"}"), now,
                           &again->index) != 0);
    }
    t.j->opt.keep_bytes = 1;
    CHECK(keep_begin(t.c));
    CHECK((t.c->pending[t.c->pending_head].number < t.c->keep.bound.number) == behind);
    for (int i = 0; i < 20; i++)
        keep_step(t.c);
    CHECK(town_keep(&t) > 0);
    CHECK(town_settle(&t));
    again->durable = again->seq;
    CHECK(keep_begin(t.c) == false || town_keep(&t) > 0);
    struct buf was = town_text(&t);
    CHECK(named->nmembers == USERS - 1 && strcmp(plain->name, "renamed") == 0);
    town_close(&t);
    town_open(&t, "d", &io, STORE_GROUP);
    struct buf is = town_text(&t);
    check_same(&was, &is);
    town_close(&t);
    buf_free(&was);
    buf_free(&is);
}

TEST(keep_changes_on_their_way) { keep_changes(false); }
TEST(keep_changes_on_their_way_in_what_goes) { keep_changes(true); }

/* A group that was asked for and never was, for the disk was full, is not written of: a pass must
 * not make one of it that was dismissed. What was dismissed is written of. */
TEST(keep_group_that_never_was)
{
    struct disk d;
    struct store_io io = disk_io(&d);
    struct town t;
    char key[MAX_CONV_KEY];

    now = START;
    town_open(&t, "d", &io, STORE_GROUP);
    town_build(&t);
    CHECK(group_dismiss(t.c, group_find(&t.c->roster, STR("plain"))));
    CHECK(town_settle(&t));
    talk(&t, busy(&t), 120);
    __atomic_store_n(&d.full, true, __ATOMIC_SEQ_CST);
    struct conv *never = group_create_later(t.c, STR("never"), STR("Never"));
    CHECK(never != NULL && never->changes == 1);
    CHECK(!town_settle(&t));
    CHECK(never->changes == 0 && never->gone && !group_dismissed(never));
    __atomic_store_n(&d.full, false, __ATOMIC_SEQ_CST);
    t.j->opt.keep_bytes = 9000;
    CHECK(town_keep(&t) > 0);
    CHECK_INT(never->group_record, 0);
    town_close(&t);
    town_open(&t, "d", &io, STORE_GROUP);
    CHECK(conv_find_key(&t.c->roster, group_key(STR("never"), key)) == NULL);
    CHECK(group_find(&t.c->roster, STR("plain")) == NULL);
    CHECK(group_find_any(&t.c->roster, STR("plain")) != NULL);
    check_messages(&t);
    town_close(&t);
}

/* One that cannot be removed keeps the ones behind it: there must be no gap. */
TEST(keep_cannot_remove)
{
    struct disk d;
    struct store_io io = disk_io(&d);
    struct town t;

    now = START;
    town_open(&t, "d", &io, STORE_GROUP);
    town_build(&t);
    talk(&t, busy(&t), 60);
    int logs = files("d", ".log");
    t.j->opt.keep_bytes = 9000;
    d.no_unlink = true;
    for (int i = 0; i < 2; i++) { /* nor does a later pass */
        CHECK(town_keep(&t) > 0);
        talk(&t, busy(&t), 60);
    }
    struct buf was = town_text(&t);
    town_close(&t);
    CHECK(files("d", ".log") > logs);
    d.no_unlink = false;
    town_open(&t, "d", &io, STORE_GROUP);
    struct buf is = town_text(&t);
    check_same(&was, &is);
    CHECK_INT(store_index_first(&busy(&t)->index), 1);
    check_messages(&t);
    t.j->opt.keep_bytes = 9000;
    CHECK(town_keep(&t) > 0);
    town_close(&t);
    CHECK(files("d", ".log") < logs);
    buf_free(&was);
    buf_free(&is);
}

/* No step does more than a bounded amount, however much there is. */
TEST(keep_steps_are_bounded)
{
    struct disk d;
    struct store_io io = disk_io(&d);
    struct town t;
    uint64_t most = 0;

    now = START;
    town_open(&t, "d", &io, STORE_OFF);
    for (int i = 0; i < 5000; i++) {
        struct user *u = someone(&t, i);
        user_know(&t.c->roster, u);
        record_user(t.c, u);
        record_member(t.c, member_add(&t.c->roster, u, group_get(&t.c->roster, STR("all"))));
        if (i % 100 == 0)
            CHECK(town_settle(&t));
    }
    talk(&t, busy(&t), 30);
    t.j->opt.keep_bytes = 8192;
    CHECK(keep_begin(t.c));
    int steps = 0;
    while (t.c->keep.bound.segment != 0) {
        uint64_t before = store_last(t.c->store);
        if (!keep_step(t.c)) {
            store_commit(t.c->store);
            deliver_committed(t.c);
        }
        if (store_last(t.c->store) - before > most)
            most = store_last(t.c->store) - before;
        steps++;
    }
    CHECK(steps > 20);
    CHECK(most > 100 && most <= 300);
    town_close(&t);
    town_open(&t, "d", &io, STORE_OFF);
    CHECK_INT(t.c->roster.nusers, 5000);
    CHECK_INT(group_get(&t.c->roster, STR("all"))->nmembers, 5000);
    town_close(&t);
}
