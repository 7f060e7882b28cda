/* SPDX-License-Identifier: MIT */
/*
 * jail.c - giving up rights. In the order of a start: jail_enter() while root still may all, then
 * the ports are bound, jail_drop() becomes jim.user, jail_close() takes away what is never needed;
 * only then are the store read and threads started, for what is taken away is taken from this
 * thread and those it starts.
 *
 *   users, root directory    any POSIX system
 *   closing                  Linux: Landlock and seccomp; OpenBSD: unveil and pledge; elsewhere
 *                            nothing (Capsicum would have to know every file beforehand)
 *
 * jail_close() leaves out in silence (but at debug level) what the system does not have: it is a
 * second line behind code that should not need one. So that it never is what breaks a server, what
 * it refuses is a list of things no part of a server does, rather than all but a list of things
 * this version and this libc do.
 */
#include "jim.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* --- users, root directory -------------------------------------------------------------------- */

static int
jail_error(const struct jim *j, const char *what, const char *name)
{
    log_write(&j->log, LOG_LEVEL_ERROR, "%s=%s: %s", what, name, strerror(errno));
    return -1;
}

/* Look up jim.user while its files can be reached. */
static int
find_user(struct jim *j)
{
    const char *name = j->opt.user;

    errno = 0;
    const struct passwd *p = getpwnam(name);
    if (p == NULL) {
        log_write(&j->log, LOG_LEVEL_ERROR, "jim.user: there is no user '%s'", name);
        return -1;
    }
    j->uid = p->pw_uid;
    j->gid = p->pw_gid;
    if (geteuid() == j->uid)
        return 0;
    if (geteuid() != 0) {
        log_write(&j->log, LOG_LEVEL_ERROR, "jim.user=%s: only root can be somebody else", name);
        return -1;
    }
#ifdef __APPLE__
    int group = (int)p->pw_gid; /* as it has it */
#else
    gid_t group = p->pw_gid;
#endif
    return initgroups(name, group) == 0 ? 0 : jail_error(j, "jim.user", name);
}

int
jail_enter(struct jim *j)
{
    j->uid = geteuid();
    j->gid = getegid();
    if (j->opt.user[0] != '\0' && find_user(j) != 0)
        return -1;
    if (j->opt.chroot[0] != '\0' && (chroot(j->opt.chroot) != 0 || chdir("/") != 0))
        return jail_error(j, "jim.chroot", j->opt.chroot);
    return 0;
}

/* The store's directory, by whoever may make it, for who will write there. */
static int
make_store_dir(const struct jim *j)
{
    const char *dir = j->opt.store_dir;

    if (!jim_keeps_log(j) || mkdir(dir, 0700) != 0)
        return 0; /* it is there, or store_open() will say what is wrong */
    return chown(dir, j->uid, j->gid) == 0 ? 0 : jail_error(j, "jim.store.dir", dir);
}

int
jail_drop(struct jim *j)
{
    bool root = geteuid() == 0;

    if (make_store_dir(j) != 0)
        return -1;
    if (j->uid == geteuid()) {
        if (root)
            log_write(&j->log, LOG_LEVEL_WARN, "running as root: jim.user names who to be instead");
        return 0;
    }
    if (j->log.file != stderr && fchown(fileno(j->log.file), j->uid, j->gid) != 0)
        return jail_error(j, "jim.log.file", j->opt.log_file);
    if (setgid(j->gid) != 0 || setuid(j->uid) != 0)
        return jail_error(j, "jim.user", j->opt.user);
    if (setuid(0) == 0 || geteuid() != j->uid || getegid() != j->gid) {
        log_write(&j->log, LOG_LEVEL_ERROR, "jim.user=%s: root cannot be left", j->opt.user);
        return -1;
    }
    return 0;
}

/* --- closing ---------------------------------------------------------------------------------- */

/* The leak checker stops its own threads with ptrace(), and reads /proc. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define NO_CLOSING
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define NO_CLOSING
#endif
#endif

#if defined(__linux__) && defined(__has_include) && !defined(NO_CLOSING)
#if __has_include(<linux/landlock.h>) && __has_include(<linux/seccomp.h>)
#define CLOSING_LINUX
#endif
#endif

enum access {
    MAY_READ = 1,
    MAY_WRITE = 2,
    MAY_ADD = 4, /* write what is there, and new files */
    MAY_OPEN = 8 /* a directory, to sync it: names can be listed */
};

#if defined(CLOSING_LINUX) || defined(__OpenBSD__)

/* Where a file or directory stands: one that is replaced by rename() is another. */
static void
directory_of(const char *path, char dir[PATH_ROOM])
{
    size_t n = strlen(path);

    while (n > 1 && path[n - 1] == '/')
        n--;
    while (n > 0 && path[n - 1] != '/')
        n--;
    snprintf(dir, PATH_ROOM, "%.*s.", (int)n, path);
}

/* The directory a file stands in and, should its name be a link, the one it leads to. */
static void
each_directory(const char *path, unsigned access,
               void (*fn)(void *arg, const char *path, unsigned access), void *arg)
{
    char dir[PATH_ROOM];
    char *real = realpath(path, NULL);

    directory_of(path, dir);
    fn(arg, dir, access);
    if (real != NULL) {
        directory_of(real, dir);
        fn(arg, dir, access);
    }
    free(real);
}

/* The directories of a list of files, one a line. */
static void
each_file(const char *list, void (*fn)(void *arg, const char *path, unsigned access), void *arg)
{
    char path[PATH_ROOM];
    struct str rest = str_of(list), line;

    while (rest.n > 0 && str_split(&rest, '\n', &line)) {
        snprintf(path, sizeof path, "%.*s", (int)line.n, line.p);
        each_directory(path, MAY_READ, fn, arg);
    }
}

/* Everything a running server opens by name, again or for the first time. */
static void
each_path(const struct jim *j, void (*fn)(void *arg, const char *path, unsigned access), void *arg)
{
    /* What the resolver reads, libraries it loads, time zones. */
    static const char *const system_paths[] = {"/etc", "/usr", "/lib", "/lib64", "/run",
                                               "/dev/null", "/dev/urandom"};
    const struct options *o = &j->opt;
    const char *store_dir = jim_keeps_log(j) ? o->store_dir : NULL;
    struct {
        const char *path;
        unsigned access;
        bool in; /* the directory it stands in is meant */
    } paths[] = {{j->conf_file, MAY_READ, true},
                 {o->auth == AUTH_FILE ? o->users_file : NULL, MAY_READ, true},
                 {o->http_page, MAY_READ, false},
                 {o->log_file, MAY_ADD, true},
                 {store_dir, MAY_READ | MAY_WRITE, false},
                 {store_dir, MAY_OPEN, true}};

    for (size_t i = 0; i < sizeof system_paths / sizeof system_paths[0]; i++)
        fn(arg, system_paths[i], MAY_READ);
    const char *const lists[] = {o->ssl_cert, o->ssl_key, o->ssl_ocsp, o->ssl_client_ca, o->ca};
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++)
        each_file(lists[i], fn, arg);
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        if (paths[i].path == NULL || paths[i].path[0] == '\0')
            continue;
        if (paths[i].in)
            each_directory(paths[i].path, paths[i].access, fn, arg);
        else
            fn(arg, paths[i].path, paths[i].access);
    }
}
#endif

#if defined(CLOSING_LINUX)

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

/* The same on every architecture; libc's header may be older than the kernel's. */
#define LANDLOCK_CREATE 444
#define LANDLOCK_ADD 445
#define LANDLOCK_RESTRICT 446
#define LANDLOCK_REFER (UINT64_C(1) << 13)    /* since its second version */
#define LANDLOCK_TRUNCATE (UINT64_C(1) << 14) /* since its third */
#define LANDLOCK_FIRST ((LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1) /* all rights of the first */
#define LANDLOCK_FILE                                                                            \
    (LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_READ_FILE | \
     LANDLOCK_TRUNCATE) /* those that a file can have, too */

struct landlock {
    int ruleset;
    uint64_t handled;
    bool failed;
};

static void
landlock_allow(void *arg, const char *path, unsigned access)
{
    struct landlock *l = arg;
    uint64_t rights = 0;
    struct stat st;
    int fd = open(path, O_PATH | O_CLOEXEC);

    if (fd < 0)
        return; /* what is not there cannot be reached anyway */
    if (access & MAY_OPEN)
        rights |= LANDLOCK_ACCESS_FS_READ_DIR;
    if (access & MAY_READ)
        rights |= LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;
    if (access & (MAY_WRITE | MAY_ADD))
        rights |= LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_MAKE_REG;
    if (access & MAY_WRITE)
        rights |= LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_TRUNCATE;
    if (fstat(fd, &st) == 0 && !S_ISDIR(st.st_mode))
        rights &= LANDLOCK_FILE;
    struct landlock_path_beneath_attr rule = {.allowed_access = rights & l->handled,
                                              .parent_fd = fd};
    if (syscall(LANDLOCK_ADD, l->ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) != 0)
        l->failed = true;
    close(fd);
}

/* Files: none but those of each_path(). Returns Landlock's version, 0 for none. */
static int
close_files(const struct jim *j)
{
    struct landlock l = {.handled = LANDLOCK_FIRST};
    struct landlock_ruleset_attr attr = {0};
    long version = syscall(LANDLOCK_CREATE, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

    if (version < 1)
        return 0;
    l.handled |= (version >= 2 ? LANDLOCK_REFER : 0) | (version >= 3 ? LANDLOCK_TRUNCATE : 0);
    attr.handled_access_fs = l.handled;
    l.ruleset = (int)syscall(LANDLOCK_CREATE, &attr, sizeof attr.handled_access_fs, 0);
    if (l.ruleset < 0)
        return 0;
    each_path(j, landlock_allow, &l);
    if (!l.failed && syscall(LANDLOCK_RESTRICT, l.ruleset, 0) != 0)
        l.failed = true;
    close(l.ruleset);
    return l.failed ? 0 : (int)version;
}

#if defined(__x86_64__) && !defined(__ILP32__)
#define ARCH AUDIT_ARCH_X86_64
#elif defined(__i386__)
#define ARCH AUDIT_ARCH_I386
#elif defined(__aarch64__) && defined(AUDIT_ARCH_AARCH64)
#define ARCH AUDIT_ARCH_AARCH64
#elif defined(__arm__) && defined(__ARM_EABI__)
#define ARCH AUDIT_ARCH_ARM
#elif defined(__riscv) && __riscv_xlen == 64 && defined(AUDIT_ARCH_RISCV64)
#define ARCH AUDIT_ARCH_RISCV64
#elif defined(__s390x__)
#define ARCH AUDIT_ARCH_S390X
#endif

#ifdef ARCH

/* What somebody who has taken over a server would go on with, and a server never does. */
static const uint32_t refused_calls[] = {
    SYS_execve, SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, SYS_mount, SYS_umount2,
    SYS_pivot_root, SYS_chroot, SYS_unshare, SYS_setns, SYS_swapon, SYS_swapoff, SYS_reboot,
    SYS_init_module, SYS_delete_module, SYS_keyctl, SYS_add_key, SYS_request_key, SYS_acct,
    SYS_quotactl, SYS_personality, SYS_sethostname, SYS_setdomainname, SYS_vhangup, SYS_syslog,
    SYS_perf_event_open, SYS_open_by_handle_at, SYS_name_to_handle_at,
#ifdef SYS_execveat
    SYS_execveat,
#endif
#ifdef SYS_finit_module
    SYS_finit_module,
#endif
#ifdef SYS_kexec_load
    SYS_kexec_load,
#endif
#ifdef SYS_kexec_file_load
    SYS_kexec_file_load,
#endif
#ifdef SYS_bpf
    SYS_bpf,
#endif
#ifdef SYS_userfaultfd
    SYS_userfaultfd,
#endif
#ifdef SYS_io_uring_setup
    SYS_io_uring_setup,
#endif
#ifdef SYS_kcmp
    SYS_kcmp,
#endif
#ifdef SYS_settimeofday
    SYS_settimeofday,
#endif
#ifdef SYS_iopl
    SYS_iopl,
#endif
#ifdef SYS_ioperm
    SYS_ioperm,
#endif
#ifdef SYS_pidfd_getfd
    SYS_pidfd_getfd,
#endif
#ifdef SYS_open_tree
    SYS_open_tree, SYS_move_mount, SYS_fsopen, SYS_fsmount,
#endif
};
#define REFUSED (sizeof refused_calls / sizeof refused_calls[0])
#define X32 0x40000000u /* system calls of another ABI, with numbers of their own */

/* Calls that are refused fail with EPERM. Returns how many, 0 when the system will not have it. */
static int
close_calls(void)
{
    struct sock_filter code[REFUSED + 8];
    size_t n = 0;
    uint32_t arch_at = offsetof(struct seccomp_data, arch);
    uint32_t nr_at = offsetof(struct seccomp_data, nr);

    code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, arch_at);
    code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 0, REFUSED + 3);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, nr_at);
    code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, X32, REFUSED + 1, 0);
    for (size_t i = 0; i < REFUSED; i++)
        code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, refused_calls[i],
                                                 (uint8_t)(REFUSED - i), 0);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
    struct sock_fprog program = {(unsigned short)n, code};
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0 ? (int)REFUSED : 0;
}
#else
static int
close_calls(void)
{
    return 0;
}
#endif

void
jail_close(struct jim *j)
{
    if (!j->opt.sandbox || !j->program)
        return;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
        log_write(&j->log, LOG_LEVEL_DEBUG, "sandbox: none: %s", strerror(errno));
        return;
    }
    int landlock = close_files(j), calls = close_calls();
    log_write(&j->log, LOG_LEVEL_DEBUG, "sandbox: Landlock version %d, %d system calls refused",
              landlock, calls);
}

#elif defined(__OpenBSD__)

static void
unveil_path(void *arg, const char *path, unsigned access)
{
    bool *failed = arg;

    const char *rights = access & MAY_WRITE                ? "rwc"
                         : access & (MAY_READ | MAY_OPEN) ? "r"
                                                          : "wc";

    if (unveil(path, rights) != 0 && errno != ENOENT)
        *failed = true;
}

void
jail_close(struct jim *j)
{
    bool failed = false;

    if (!j->opt.sandbox || !j->program)
        return;
    each_path(j, unveil_path, &failed);
    if (unveil(NULL, NULL) != 0 || pledge("stdio rpath wpath cpath flock inet dns", NULL) != 0)
        failed = true;
    log_write(&j->log, LOG_LEVEL_DEBUG, "sandbox: unveil and pledge%s",
              failed ? ", not all of them" : "");
}

#else

void
jail_close(struct jim *j)
{
    if (j->opt.sandbox && j->program)
        log_write(&j->log, LOG_LEVEL_DEBUG, "sandbox: this build has none");
}

#endif
