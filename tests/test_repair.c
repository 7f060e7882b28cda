/* SPDX-License-Identifier: MIT */
/*
 * test_repair.c - `jim check -r`: whatever byte is damaged, only the record it belongs to is left
 * out of the copy, the copy is a clean log, and the damaged directory stays as it is.
 */
#include "test.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <unistd.h>

#define RECORDS 40
#define KEY "p:ann:bob"

struct seen {
    bool seq[RECORDS + 1];
    int n;
};

static void
wait_durable(struct store *s, uint64_t number)
{
    while (store_durable(s) < number) {
        store_commit(s);
        CHECK(store_poll(s) != STORE_LOST);
        usleep(100);
    }
}

static int
text_of(char dst[200], uint64_t seq)
{
    return snprintf(dst, 200, "{\"content\":\"number %" PRIu64 "\",\"seq\":%" PRIu64 "}", seq, seq);
}

/* A log of several small segments; two records a batch, so that all but the last are proven. */
static void
make_log(const char *dir)
{
    struct log log = {stderr, LOG_LEVEL_ERROR};
    struct store_options o = {.dir = dir, .policy = STORE_GROUP, .segment = 1024, .log = &log};
    struct store *s = store_open(&o);
    struct store_index index = {0};
    char text[200];

    CHECK(s != NULL);
    for (uint64_t seq = 1; seq <= RECORDS; seq++) {
        struct str json = {text, (size_t)text_of(text, seq)};
        uint64_t number = store_append(s, REC_MESSAGE, STR(KEY), seq, json,
                                       (int64_t)(1000 + seq), &index);
        if (seq % 2 == 0)
            wait_durable(s, number);
    }
    CHECK_INT(store_close(s), 0);
    store_index_free(&index);
}

static void
see(void *arg, const struct store_rec *rec)
{
    struct seen *seen = arg;
    char text[200];
    int n = text_of(text, rec->seq);

    CHECK_INT(rec->type, REC_MESSAGE);
    CHECK(rec->seq >= 1 && rec->seq <= RECORDS && !seen->seq[rec->seq]);
    CHECK_STR(rec->conv, KEY);
    CHECK_INT(rec->time_ms, 1000 + (int64_t)rec->seq);
    CHECK_BYTES(text, (size_t)n, text);
    CHECK(rec->json.n == (size_t)n && memcmp(rec->json.p, text, (size_t)n) == 0);
    seen->seq[rec->seq] = true;
    seen->n++;
}

static void
names_of(const char *dir, char names[32][32], int *n)
{
    DIR *d = opendir(dir);
    struct dirent *e;

    CHECK(d != NULL);
    *n = 0;
    while ((e = readdir(d)) != NULL)
        if (strlen(e->d_name) == 24 && *n < 32)
            snprintf(names[(*n)++], 32, "%.31s", e->d_name);
    closedir(d);
    for (int i = 0; i < *n; i++)
        for (int j = i + 1; j < *n; j++)
            if (strcmp(names[j], names[i]) < 0) {
                char t[32];
                memcpy(t, names[i], 32);
                memcpy(names[i], names[j], 32);
                memcpy(names[j], t, 32);
            }
}

/* Repair "a", which must be damaged, and read the copy. Leaves no copy behind. */
static void
repair_and_see(struct seen *seen, const char *where)
{
    struct log log = {stderr, LOG_LEVEL_WARN};
    struct store_options o = {.dir = "a.repaired", .policy = STORE_GROUP, .segment = 1024,
                              .log = &log, .replay = see, .arg = seen};
    FILE *out = fopen("out", "w");

    CHECK(out != NULL);
    CHECK_INT(store_repair("a/", out), 2);
    fclose(out);
    struct buf text = read_whole("out");
    buf_add(&text, "", 1);
    if (strstr(text.p, where) == NULL || strstr(text.p, "mv 'a.repaired' 'a'") == NULL)
        test_fail(__FILE__, __LINE__, "%s not in %s", where, text.p);
    buf_free(&text);
    out = fopen("out", "w");
    CHECK(out != NULL);
    CHECK_INT(store_check("a.repaired", out), 0);
    CHECK_INT(store_repair("a", out), 2); /* there is a copy: not again */
    fclose(out);
    *seen = (struct seen){0};
    struct store *s = store_open(&o);
    CHECK(s != NULL);
    CHECK_INT(store_close(s), 0);
    CHECK(system("rm -r a.repaired") == 0);
}

/* The messages in the line that byte `at` belongs to, its newline included: 0 or 1. */
static uint64_t
seq_at(const struct buf *file, size_t at)
{
    size_t start = at, end = at;
    char line[400];

    while (start > 0 && file->p[start - 1] != '\n')
        start--;
    while (end < file->len && file->p[end] != '\n')
        end++;
    CHECK(end - start < sizeof line);
    memcpy(line, file->p + start, end - start);
    line[end - start] = '\0';
    const char *p = strstr(line, "\"seq\":");
    return p != NULL ? strtoull(p + 6, NULL, 10) : 0;
}

static void
damage_each_byte(const char *path)
{
    struct buf file = read_whole(path);
    int tried = 0;

    for (size_t at = 0; at + 1 < file.len; at += at < 300 ? 1 : 7) {
        struct seen seen;
        char was = file.p[at], where[128];
        uint64_t hurt = was == '\n' ? 0 : seq_at(&file, at); /* around a newline, all is kept */
        file.p[at] ^= 1;
        write_whole(path, file.p, file.len);
        snprintf(where, sizeof where, "%s:", path);
        repair_and_see(&seen, where);
        CHECK_INT(seen.n, hurt != 0 ? RECORDS - 1 : RECORDS);
        CHECK(hurt == 0 || !seen.seq[hurt]);
        struct buf now = read_whole(path);
        CHECK(now.len == file.len && memcmp(now.p, file.p, now.len) == 0);
        buf_free(&now);
        file.p[at] = was;
        tried++;
    }
    write_whole(path, file.p, file.len);
    buf_free(&file);
    test_note("%d damaged bytes repaired around", tried);
}

TEST(repair_each_byte_of_the_first)
{
    char names[32][32], path[64];
    int n;

    make_log("a");
    names_of("a", names, &n);
    snprintf(path, sizeof path, "a/%s", names[0]);
    damage_each_byte(path);
}

TEST(repair_each_byte_between)
{
    char names[32][32], path[64];
    int n;

    make_log("a");
    names_of("a", names, &n);
    CHECK(n > 3);
    snprintf(path, sizeof path, "a/%s", names[n / 2]);
    damage_each_byte(path);
}

TEST(repair_lost_header_and_garbage)
{
    char names[32][32], path[64], where[128];
    struct seen seen;
    int n;

    make_log("a");
    names_of("a", names, &n);
    snprintf(path, sizeof path, "a/%s", names[1]);
    struct buf file = read_whole(path), all = read_whole(path);
    size_t head = (size_t)((char *)memchr(file.p, '\n', file.len) - file.p) + 1;
    memset(file.p, 0, head); /* header and newline: the first record is a batch's */
    write_whole(path, file.p, file.len);
    snprintf(where, sizeof where, "%s:0:", path);
    repair_and_see(&seen, where);
    CHECK_INT(seen.n, RECORDS);
    memcpy(file.p, all.p, file.len);
    memset(file.p + 400, 0, 200); /* a sector that came back as zeros */
    write_whole(path, file.p, file.len);
    repair_and_see(&seen, path);
    CHECK(seen.n < RECORDS && seen.n >= RECORDS - 4);
    memset(file.p, 'x', file.len); /* nothing of it is left: its neighbours are */
    write_whole(path, file.p, file.len);
    repair_and_see(&seen, where);
    CHECK(seen.n < RECORDS && seen.seq[1] && seen.seq[RECORDS]);
    CHECK(unlink(path) == 0);
    repair_and_see(&seen, "missing");
    CHECK(seen.seq[1] && seen.seq[RECORDS]);
    buf_free(&file);
    buf_free(&all);
}

/* A clean store and a torn tail need no copy. */
TEST(repair_nothing)
{
    char names[32][32], path[64];
    int n;
    FILE *out = fopen("out", "w");

    CHECK(out != NULL);
    make_log("a");
    CHECK_INT(store_repair("a", out), 0);
    names_of("a", names, &n);
    snprintf(path, sizeof path, "a/%s", names[n - 1]);
    struct buf file = read_whole(path);
    file.len -= 3;
    write_whole(path, file.p, file.len);
    CHECK_INT(store_repair("a", out), 1);
    CHECK(access("a.repaired", F_OK) != 0);
    fclose(out);
    buf_free(&file);
}
