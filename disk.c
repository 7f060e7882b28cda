/* SPDX-License-Identifier: MIT */
/*
 * disk.c - how the store reaches the disk. `store_disk` is the real one behind struct store_io;
 * the io_ functions are the only callers of any of them: they repeat what was interrupted and
 * finish what was done by half.
 *
 *   the real disk, calls made whole
 */
#include "store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SHORTAGE_MS 30000 /* how long a shortage of descriptors is waited out */

/* --- the real disk ---------------------------------------------------------------------------- */

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

/*
 * A directory, for its sync. When there is no descriptor for it, one is waited for: a directory
 * that has changed and cannot be synced is the end of the store, and a shortage passes. Only the
 * store's own thread waits here, and a start.
 */
static int
open_dir(void *arg, const char *path)
{
    const struct timespec nap = {.tv_nsec = 20000000};
    int64_t until = time_mono_ms() + SHORTAGE_MS;
    int fd;

    while ((fd = disk_open(arg, path, O_RDONLY | O_DIRECTORY, 0)) < 0 &&
           (errno == EMFILE || errno == ENFILE) && time_mono_ms() < until)
        nanosleep(&nap, NULL);
    return fd;
}

static int
disk_sync_dir(void *arg, const char *path)
{
    int fd = open_dir(arg, path);

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

/* --- calls made whole ------------------------------------------------------------------------- */

/* Was a call only interrupted? Each through struct store_io is repeated while this says so. */
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
