/* SPDX-License-Identifier: MIT */
/*
 * admin.c - the subcommands that make secrets: `jim passwd` puts a password into a users file, `jim
 * token` prints a login token. Both work on files and terminals and need no server.
 *
 *   reading    a password, without showing it
 *   writing    the users file anew, and only then in place of the old one
 *   passwd, token
 */
#include "jim.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#define TOKEN_SECONDS 86400 /* a token without -e: long enough for a day's session */

static int
fail(const char *what, const char *why)
{
    fprintf(stderr, "jim: %s: %s\n", what, why);
    return JIM_BAD_CONFIG;
}

/* --- reading ---------------------------------------------------------------------------------- */

/* One line of a descriptor, byte by byte so that nothing behind it is taken. False when there is
 * none. What is beyond the room is cut off, and then too long for whoever asked. */
static bool
read_line(int fd, char *dst, size_t room, size_t *n)
{
    char c;
    ssize_t got;

    *n = 0;
    while ((got = read(fd, &c, 1)) == 1 && c != '\n')
        if (*n < room)
            dst[(*n)++] = c;
    if (*n > 0 && dst[*n - 1] == '\r')
        (*n)--;
    return got == 1 || (got == 0 && *n > 0);
}

static void
on_signal(int sig)
{
    (void)sig; /* it only has to end read(): the terminal must get its echo back */
}

/* Ask on the terminal behind fd without echo. */
static bool
ask(int fd, const char *prompt, char *dst, size_t room, size_t *n)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP};
    enum { SIGNALS = sizeof signals / sizeof signals[0] };
    struct sigaction caught = {.sa_handler = on_signal}, old[SIGNALS];
    struct termios t, quiet;

    if (tcgetattr(fd, &t) != 0)
        return false;
    for (int i = 0; i < SIGNALS; i++)
        sigaction(signals[i], &caught, &old[i]);
    quiet = t;
    quiet.c_lflag &= ~(tcflag_t)ECHO;
    tcsetattr(fd, TCSAFLUSH, &quiet);
    fputs(prompt, stderr);
    bool ok = read_line(fd, dst, room, n);
    fputc('\n', stderr);
    tcsetattr(fd, TCSAFLUSH, &t);
    for (int i = 0; i < SIGNALS; i++)
        sigaction(signals[i], &old[i], NULL);
    return ok;
}

/* A new password from stdin: asked twice on a terminal, else one line. NULL, or what is wrong. */
static const char *
read_password(char dst[MAX_PASSWORD + 1], size_t *n)
{
    char again[MAX_PASSWORD + 1];
    size_t again_n;
    uint32_t utf8 = 0;
    bool terminal = isatty(STDIN_FILENO);

    if (terminal ? !ask(STDIN_FILENO, "New password: ", dst, MAX_PASSWORD + 1, n)
                 : !read_line(STDIN_FILENO, dst, MAX_PASSWORD + 1, n))
        return "none was given";
    if (*n == 0)
        return "it is empty";
    if (*n > MAX_PASSWORD)
        return "it is too long";
    if (!utf8_check(&utf8, dst, *n) || utf8 != 0)
        return "it is not UTF-8, so no client could send it";
    if (!terminal)
        return NULL;
    bool same = ask(STDIN_FILENO, "Again: ", again, sizeof again, &again_n) && again_n == *n &&
                memcmp(again, dst, *n) == 0;
    wipe(again, sizeof again);
    return same ? NULL : "the two are not the same";
}

/* --- writing ---------------------------------------------------------------------------------- */

/* A user's line with a new password, and all else as it was. line: empty for a new user. */
static void
put_user_line(struct buf *out, struct str line, struct str id, const struct verifier *v)
{
    struct json_iter it;
    struct json key, value;
    struct buf text = {0};

    verifier_put(&text, v);
    buf_add(out, "{", 1);
    put_text(out, "userId", id);
    put_text(out, "password", (struct str){text.p, text.len});
    if (line.n > 0 && json_open(&it, line.p, line.n) == 0)
        while (json_next(&it, &key, &value) > 0) {
            if (name_is(&key, "userid") || name_is(&key, "password"))
                continue;
            json_put_comma(out);
            json_put_value(out, &key);
            buf_add(out, ":", 1);
            json_put_value(out, &value);
        }
    buf_add(out, "}\n", 2);
    buf_free(&text);
}

/* The whole file with id's line replaced, or added at the end. Other lines stay as they are. */
static void
put_users(struct buf *out, struct str old, struct str id, const struct verifier *v)
{
    char text[MAX_ID];
    struct str line, who;
    bool found = false;

    if (old.n > 0 && old.p[old.n - 1] == '\n')
        old.n--;
    while (old.n > 0 && str_split(&old, '\n', &line))
        if (users_line(line, text, &who) && str_eq(who, id)) {
            put_user_line(out, str_trim(line), id, v);
            found = true;
        } else {
            buf_str(out, line);
            buf_add(out, "\n", 1);
        }
    if (!found)
        put_user_line(out, STR(""), id, v);
}

static bool
write_all(int fd, const char *p, size_t n)
{
    while (n > 0) {
        ssize_t w = write(fd, p, n);
        if (w < 0 && errno != EINTR)
            return false;
        p += w > 0 ? w : 0;
        n -= w > 0 ? (size_t)w : 0;
    }
    return true;
}

/* All of a file; a missing one is empty and gives st->st_mode 0. */
static bool
read_file(const char *file, struct buf *b, struct stat *st)
{
    ssize_t n = 0;
    int fd = open(file, O_RDONLY | O_CLOEXEC);

    *st = (struct stat){0};
    if (fd < 0)
        return errno == ENOENT;
    bool ok = fstat(fd, st) == 0;
    do {
        buf_reserve(b, 65536);
        n = read(fd, b->p + b->len, 65536);
        b->len += n > 0 ? (size_t)n : 0;
    } while (n > 0 || (n < 0 && errno == EINTR));
    close(fd);
    return ok && n == 0;
}

/*
 * Put a new file in the place of the old one: whoever opens it finds the one or the other, whole.
 * The name of the unfinished one is a lock: two of us must not undo each other's work.
 */
static int
replace_file(const char *file, const struct buf *text, const struct stat *old)
{
    struct buf tmp = {0};
    int status = JIM_OK, fd;

    buf_printf(&tmp, "%s.tmp", file);
    fd = open(tmp.p, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) {
        status = fail(tmp.p, errno == EEXIST ? "exists: another `jim passwd` is at work; or "
                                               "remove it" : strerror(errno));
        buf_free(&tmp);
        return status;
    }
    bool ok = write_all(fd, text->p, text->len);
    if (ok && old->st_mode != 0) { /* the server may run as somebody else: it must still read it */
        ok = fchmod(fd, old->st_mode & 07777) == 0;
        if (fchown(fd, old->st_uid, old->st_gid) != 0 && geteuid() == 0)
            ok = false;
    }
    ok = ok && fsync(fd) == 0;
    if (close(fd) != 0 || !ok || rename(tmp.p, file) != 0) {
        status = fail(file, strerror(errno));
        unlink(tmp.p);
    }
    buf_free(&tmp);
    return status;
}

/* --- passwd ----------------------------------------------------------------------------------- */

static int
set_password(const char *file, struct str id, const struct verifier *v)
{
    char *real = realpath(file, NULL); /* a link is followed, not replaced */
    struct buf old = {0}, text = {0};
    struct stat st;
    int status;

    if (real != NULL)
        file = real;
    if (!read_file(file, &old, &st)) {
        status = fail(file, strerror(errno));
    } else {
        put_users(&text, (struct str){old.p, old.len}, id, v);
        status = replace_file(file, &text, &st);
    }
    buf_free(&old);
    buf_free(&text);
    free(real);
    return status;
}

static bool
parse_count(const char *text, long max, long *n)
{
    char *end;

    errno = 0;
    *n = strtol(text, &end, 10);
    return errno == 0 && end != text && *end == '\0' && *n >= 1 && *n <= max;
}

int
admin_passwd(int argc, char **argv)
{
    char password[MAX_PASSWORD + 1];
    long rounds = PASSWORD_ROUNDS;
    struct verifier v;
    size_t n = 0;
    int option;

    while ((option = getopt(argc, argv, "i:")) != -1)
        if (option != 'i' || !parse_count(optarg, MAX_ROUNDS, &rounds))
            return fail("passwd", "-i takes a number of rounds, up to 2000000");
    if (argc - optind != 2)
        return fail("passwd", "usage: jim passwd [-i ROUNDS] FILE USER");
    struct str id = str_of(argv[optind + 1]);
    if (!id_ok(id))
        return fail(argv[optind + 1], "a user's name has 1 to 64 bytes of UTF-8");
    const char *why = read_password(password, &n);
    if (why == NULL)
        verifier_make(&v, (struct str){password, n}, (uint32_t)rounds);
    wipe(password, sizeof password);
    return why != NULL ? fail("password", why) : set_password(argv[optind], id, &v);
}

/* --- token ------------------------------------------------------------------------------------ */

/* The secret: as it stands, @FILE's first line, or from the environment; the last two are not in
 * the list of processes for all to see. */
static const char *
read_secret(const char *given, struct buf *b)
{
    char line[4096];
    size_t n;

    if (given == NULL)
        given = getenv("JIM_TOKEN_SECRET");
    if (given == NULL)
        return "use -s SECRET, -s @FILE, or set JIM_TOKEN_SECRET";
    if (given[0] != '@') {
        buf_str(b, str_of(given));
    } else {
        int fd = open(given + 1, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            return strerror(errno);
        bool ok = read_line(fd, line, sizeof line, &n);
        close(fd);
        if (ok)
            buf_add(b, line, n);
    }
    return b->len < MIN_SECRET ? "it has fewer than 32 bytes" : NULL;
}

struct claims {
    const char *secret, *user, *nick;
    struct buf groups; /* owned; a JSON list, its end still open */
    long seconds;
};

/* NULL, or what is wrong. */
static const char *
take_option(struct claims *c, int option)
{
    uint32_t utf8 = 0;
    struct str text = str_of(optarg);

    switch (option) {
    case 's':
        c->secret = optarg;
        return NULL;
    case 'u':
        c->user = optarg;
        return id_ok(text) ? NULL : "-u takes a name of 1 to 64 bytes of UTF-8";
    case 'n':
        c->nick = optarg;
        return utf8_check(&utf8, text.p, text.n) && utf8 == 0 ? NULL : "-n takes UTF-8";
    case 'e':
        return parse_count(optarg, 1000000000, &c->seconds) ? NULL : "-e takes seconds";
    case 'g':
        json_put_comma(&c->groups);
        json_put_string(&c->groups, text.p, text.n);
        return id_ok(text) ? NULL : "-g takes a group's id";
    default:
        return "usage: jim token -s SECRET -u USER [-e SECONDS] [-n NICK] [-g GROUP]...";
    }
}

static void
put_claims(struct buf *b, const struct claims *c)
{
    int64_t now = time_wall_ms() / 1000;

    buf_add(b, "{", 1);
    json_put_key(b, "exp");
    json_put_int(b, now + c->seconds);
    if (c->groups.len > 1) {
        json_put_key(b, "groups");
        buf_add(b, c->groups.p, c->groups.len);
        buf_add(b, "]", 1);
    }
    json_put_key(b, "iat");
    json_put_int(b, now);
    if (c->nick != NULL)
        put_text(b, "nick", str_of(c->nick));
    put_text(b, "sub", str_of(c->user));
    buf_add(b, "}", 1);
}

int
admin_token(int argc, char **argv)
{
    struct claims c = {.seconds = TOKEN_SECONDS};
    struct buf secret = {0}, json = {0}, token = {0};
    const char *why = NULL;
    int option, status = JIM_OK;

    buf_add(&c.groups, "[", 1);
    while (why == NULL && (option = getopt(argc, argv, "s:u:n:e:g:")) != -1)
        why = take_option(&c, option);
    if (why == NULL && (c.user == NULL || optind != argc))
        why = "usage: jim token -s SECRET -u USER [-e SECONDS] [-n NICK] [-g GROUP]...";
    if (why != NULL) {
        status = fail("token", why);
    } else if ((why = read_secret(c.secret, &secret)) != NULL) {
        status = fail("secret", why);
    } else {
        put_claims(&json, &c);
        token_make(&token, (struct str){secret.p, secret.len}, (struct str){json.p, json.len});
        if (token.len > MAX_TOKEN)
            status = fail("token", "too long to be taken: fewer groups, or a shorter nick");
        else
            printf("%.*s\n", (int)token.len, token.p);
    }
    wipe(secret.p, secret.len);
    buf_free(&secret);
    buf_free(&json);
    buf_free(&token);
    buf_free(&c.groups);
    return status;
}
