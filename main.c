/* SPDX-License-Identifier: MIT */
/*
 * main.c - the command line: options into struct jim, signals to jim_stop() and jim_reload(), and
 * the subcommands that need no server. Everything else is the library's, so that an embedding
 * program has it too.
 */
#include "jim.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NOT_PRINTED 2 /* exit status when a result could not be written */

static void
usage(FILE *out)
{
    fputs("usage: jim [-c FILE] [-p PORT] [-b ADDR] [-d DIR] [-o key=value]... [-q] [-v]\n"
          "       jim check [-r] DIR | export [-a] DIR | -h | -V\n"
          "       jim import [--jim-redis HOST:PORT] DIR\n"
          "       jim export --cluster FILE | import --cluster FILE\n"
          "       jim passwd [-i ROUNDS] FILE USER\n"
          "       jim token -s SECRET -u USER [-e SECONDS] [-n NICK] [-g GROUP]...\n"
          "\n"
          "  -c FILE       read a jim.properties file\n"
          "  -p PORT       listen on PORT (jim.port); again for more, 0 for a free one\n"
          "  -b ADDR       listen on ADDR (jim.bind.ip)\n"
          "  -d DIR        keep messages in DIR (jim.store.dir)\n"
          "  -o key=value  set an option; wins over the file\n"
          "  -q, -v        log errors only; log more\n"
          "  check DIR     verify a store: 0 clean, 1 torn tail, 2 damaged;\n"
          "                -r: copy what is left of a damaged one to DIR.repaired\n"
          "  export DIR    stored messages as JSON lines; -a: users, groups and cursors too\n"
          "  import DIR    JSON lines from stdin into a store: 0 all, 1 some refused, 2 failed;\n"
          "                --jim-redis: what J-IM keeps in Redis (password: JIM_REDIS_AUTH)\n"
          "  passwd FILE USER  set a password in a users file: asks twice, or reads one line\n"
          "  token         print a login token; -s @FILE, or $JIM_TOKEN_SECRET, keeps the secret\n"
          "                out of the list of processes\n"
          "\n"
          "options (defaults in brackets; live: SIGHUP reads them again):\n", out);
    conf_print(out);
}

static int
bad_usage(const char *why)
{
    fprintf(stderr, "jim: %s (jim -h tells more)\n", why);
    return JIM_BAD_CONFIG;
}

/* The exit status of who has printed a result: that must have been written. */
static int
printed(int status)
{
    return print_end(stdout) ? status : NOT_PRINTED;
}

/* Set an option from the command line; ends the program when it is wrong. */
static void
set(struct jim *j, const char *key, const char *value)
{
    char err[512];

    if (jim_set(j, key, value, err, sizeof err) != 0) {
        jim_free(j);
        exit(bad_usage(err));
    }
}

static void
set_pair(struct jim *j, const char *pair)
{
    struct str rest = str_of(pair), key;

    str_split(&rest, '=', &key);
    if (rest.p == NULL) {
        jim_free(j);
        exit(bad_usage("-o takes key=value"));
    }
    key = str_trim(key);
    char *name = xstrndup(key.p, key.n);
    set(j, name, rest.p);
    free(name);
}

/*
 * Signals are taken by a thread that does nothing but wait for them: so nothing runs in a handler,
 * and no global has to say which server is meant.
 */
struct signals {
    struct jim *jim;
    sigset_t wanted;
    atomic_bool over; /* said with SIGUSR1: pthread_cancel() needs a library that no chroot has */
};

static void *
signal_thread(void *arg)
{
    struct signals *s = arg;
    struct jim *j = s->jim;
    bool stopping = false;
    int sig;

    while (!s->over) {
        if (sigwait(&s->wanted, &sig) != 0 || sig == SIGUSR1)
            continue;
        if (sig == SIGHUP) {
            jim_reload(j);
        } else if (stopping) {
            _exit(JIM_BAD_CONFIG); /* asked twice: no more patience */
        } else {
            stopping = true;
            jim_stop(j);
        }
    }
    return NULL;
}

/* Before any thread exists: all inherit the mask, and the signal thread alone takes what is
 * blocked. */
static void
block_signals(sigset_t *s)
{
    sigemptyset(s);
    sigaddset(s, SIGTERM);
    sigaddset(s, SIGINT);
    sigaddset(s, SIGHUP);
    sigaddset(s, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, s, NULL);
    signal(SIGPIPE, SIG_IGN);
#ifdef SIGXFSZ
    signal(SIGXFSZ, SIG_IGN); /* `ulimit -f` is a full disk to the store, no reason to die */
#endif
}

static int
serve(struct jim *j)
{
    struct signals signals = {.jim = j};
    pthread_t thread;
    const char *address;

    block_signals(&signals.wanted);
    notify_open(j);
    int status = jim_start(j);
    if (status != JIM_OK)
        return status;
    if ((errno = pthread_create(&thread, NULL, signal_thread, &signals)) != 0) {
        perror("jim: thread");
        return JIM_CANNOT_START;
    }
    fputs("jim: listening on", stdout);
    for (size_t i = 0; (address = jim_listening(j, i)) != NULL; i++)
        printf(" %s", address);
    putchar('\n');
    fflush(stdout);
    notify_send(j, "READY=1\nSTATUS=listening on %s\n", jim_listening(j, 0));
    status = jim_run(j);
    signals.over = true;
    pthread_kill(thread, SIGUSR1);
    pthread_join(thread, NULL);
    return status;
}

static int
run(int argc, char **argv)
{
    struct jim *j = jim_new();
    const char *file = NULL;
    char err[512];
    int option, status;

    j->program = true;
    while ((option = getopt(argc, argv, "c:p:b:d:o:qvhV")) != -1) {
        switch (option) {
        case 'c':
            file = optarg;
            break;
        case 'p':
            set(j, "jim.port", optarg);
            break;
        case 'b':
            set(j, "jim.bind.ip", optarg);
            break;
        case 'd':
            set(j, "jim.store.dir", optarg);
            break;
        case 'o':
            set_pair(j, optarg);
            break;
        case 'q':
            set(j, "jim.log.level", "error");
            break;
        case 'v':
            set(j, "jim.log.level", "debug");
            break;
        case 'h':
            usage(stdout);
            jim_free(j);
            return printed(JIM_OK);
        case 'V':
            printf("jim %s (%s, %s)\n", JIM_VERSION, loop_backend(),
                   tls_version() != NULL ? tls_version() : "no TLS");
            jim_free(j);
            return printed(JIM_OK);
        default:
            jim_free(j);
            return JIM_BAD_CONFIG; /* getopt has said why */
        }
    }
    if (optind < argc) {
        jim_free(j);
        return bad_usage("what is not an option is a subcommand, and comes first");
    }
    if (file != NULL && jim_load(j, file, err, sizeof err) != 0) {
        jim_free(j);
        return bad_usage(err);
    }
    status = serve(j);
    notify_close(j);
    jim_free(j);
    return status;
}

/* The subcommands: `argv` is what stands behind jim. */
static int
subcommand(int argc, char **argv)
{
    static const struct {
        const char *name, *option;
        bool value; /* the option takes one */
        int (*plain)(const char *dir, FILE *out);
        int (*special)(const char *dir, FILE *out); /* with the option */
    } commands[] = {{"check", "-r", false, store_check, store_repair},
                    {"export", "-a", false, store_export, export_all},
                    {"import", "--jim-redis", true, NULL, NULL}};

    if (argc == 3 && strcmp(argv[1], "--cluster") == 0 && strcmp(argv[0], "export") == 0)
        return cluster_export(argv[2], stdout);
    if (argc == 3 && strcmp(argv[1], "--cluster") == 0 && strcmp(argv[0], "import") == 0)
        return cluster_import(argv[2], stdin, stdout);
    if (strcmp(argv[0], "passwd") == 0)
        return admin_passwd(argc, argv);
    if (strcmp(argv[0], "token") == 0)
        return admin_token(argc, argv);
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        if (strcmp(argv[0], commands[i].name) != 0)
            continue;
        int at = argc > 1 && strcmp(argv[1], commands[i].option) == 0 ? 2 + commands[i].value : 1;
        if (argc != at + 1 || argv[at][0] == '-')
            return bad_usage("check, export and import take a directory");
        if (!commands[i].value)
            return (at > 1 ? commands[i].special : commands[i].plain)(argv[at], stdout);
        signal(SIGPIPE, SIG_IGN); /* a connection that ends is told as such */
        return at > 1 ? import_redis(argv[at], argv[2], stdout)
                      : import_lines(argv[at], STDIN_FILENO, stdout);
    }
    return -1;
}

int
main(int argc, char **argv)
{
    open_standard_fds();
    int status = argc > 1 ? subcommand(argc - 1, argv + 1) : -1;

    return status >= 0 ? printed(status) : run(argc, argv);
}
