/* SPDX-License-Identifier: MIT */
/*
 * fuzz_disk.c - a disk in memory: a few files under one mutex, for the store's helper thread writes
 * while the loop reads. An open file is its number: nothing here is renamed or removed while open.
 */
#include "fuzz.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>

#define FILES 16
#define FIRST_FD 1000 /* far from real descriptors: a mix-up shows */

static struct file {
    char path[256]; /* "": free */
    struct buf data;
} files[FILES];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static unsigned writes_left; /* until all fail; 0: none does */
static bool failing;
static size_t most_read;

void
disk_reset(void)
{
    for (int i = 0; i < FILES; i++) {
        buf_free(&files[i].data);
        files[i].path[0] = '\0';
    }
    disk_fail(0);
    disk_short_reads(0);
}

void
disk_fail(unsigned n)
{
    writes_left = n;
    failing = false;
}

void
disk_short_reads(size_t n)
{
    most_read = n;
}

static struct file *
find(const char *path)
{
    for (int i = 0; i < FILES; i++)
        if (strcmp(files[i].path, path) == 0)
            return &files[i];
    return NULL;
}

static struct file *
make(const char *path)
{
    struct file *f = find("");

    if (f == NULL || strlen(path) >= sizeof f->path) {
        errno = ENOSPC;
        return NULL;
    }
    snprintf(f->path, sizeof f->path, "%s", path);
    f->data.len = 0;
    return f;
}

void
disk_put(const char *path, const void *p, size_t n)
{
    struct file *f = make(path);

    MUST(f != NULL);
    buf_add(&f->data, p, n);
}

static int
m_open(void *arg, const char *path, int flags, mode_t mode)
{
    (void)arg;
    (void)mode;
    pthread_mutex_lock(&mutex);
    struct file *f = find(path);
    if (f == NULL && flags & O_CREAT)
        f = make(path);
    else if (f == NULL)
        errno = ENOENT;
    else if (flags & O_TRUNC)
        f->data.len = 0;
    pthread_mutex_unlock(&mutex);
    return f == NULL ? -1 : FIRST_FD + (int)(f - files);
}

static struct buf *
data_of(int fd)
{
    MUST(fd >= FIRST_FD && fd < FIRST_FD + FILES);
    MUST(files[fd - FIRST_FD].path[0] != '\0');
    return &files[fd - FIRST_FD].data;
}

static int
m_close(void *arg, int fd)
{
    (void)arg;
    MUST(fd >= FIRST_FD && fd < FIRST_FD + FILES);
    return 0;
}

static ssize_t
m_pwrite(void *arg, int fd, const void *p, size_t n, off_t at)
{
    struct buf *b = data_of(fd);
    size_t begin = (size_t)at;

    (void)arg;
    pthread_mutex_lock(&mutex);
    if (writes_left > 0 && --writes_left == 0)
        failing = true;
    if (!failing) {
        if (b->len < begin + n)
            buf_reserve(b, begin + n - b->len);
        if (b->len < begin)
            memset(b->p + b->len, 0, begin - b->len);
        memcpy(b->p + begin, p, n);
        if (b->len < begin + n)
            b->len = begin + n;
    }
    pthread_mutex_unlock(&mutex);
    errno = ENOSPC;
    return failing ? -1 : (ssize_t)n;
}

static ssize_t
m_pread(void *arg, int fd, void *p, size_t n, off_t at)
{
    const struct buf *b = data_of(fd);
    size_t begin = (size_t)at;

    (void)arg;
    pthread_mutex_lock(&mutex);
    size_t left = begin < b->len ? b->len - begin : 0;
    if (n > left)
        n = left;
    if (most_read > 0 && n > most_read)
        n = most_read;
    if (n > 0)
        memcpy(p, b->p + begin, n);
    pthread_mutex_unlock(&mutex);
    return (ssize_t)n;
}

static int
m_truncate(void *arg, int fd, off_t size)
{
    struct buf *b = data_of(fd);

    (void)arg;
    pthread_mutex_lock(&mutex);
    MUST((size_t)size <= b->len);
    b->len = (size_t)size;
    pthread_mutex_unlock(&mutex);
    return 0;
}

static int
m_sync(void *arg, int fd)
{
    (void)arg;
    (void)data_of(fd);
    return 0;
}

static int
m_nothing(void *arg, const char *path)
{
    (void)arg;
    (void)path;
    return 0;
}

static int
m_rename(void *arg, const char *from, const char *to)
{
    (void)arg;
    pthread_mutex_lock(&mutex);
    struct file *f = find(from), *old = find(to);
    MUST(f != NULL && old == NULL);
    snprintf(f->path, sizeof f->path, "%s", to);
    pthread_mutex_unlock(&mutex);
    return 0;
}

static int
m_unlink(void *arg, const char *path)
{
    (void)arg;
    pthread_mutex_lock(&mutex);
    struct file *f = find(path);
    if (f != NULL)
        f->path[0] = '\0';
    pthread_mutex_unlock(&mutex);
    errno = ENOENT;
    return f != NULL ? 0 : -1;
}

static int
m_mkdir(void *arg, const char *path, mode_t mode)
{
    (void)arg;
    (void)path;
    (void)mode;
    return 0;
}

static int
m_list(void *arg, const char *path, struct buf *out)
{
    size_t n = strlen(path);

    (void)arg;
    for (int i = 0; i < FILES; i++)
        if (strncmp(files[i].path, path, n) == 0 && files[i].path[n] == '/')
            buf_add(out, files[i].path + n + 1, strlen(files[i].path + n + 1) + 1);
    return 0;
}

static int
m_lock(void *arg, int fd)
{
    (void)arg;
    (void)fd;
    return 0;
}

const struct store_io fuzz_disk = {
    NULL, m_open, m_close, m_pwrite, m_pread, m_truncate, m_sync, m_nothing, m_rename, m_unlink,
    m_mkdir, m_list, m_lock};
