/* SPDX-License-Identifier: MIT */
/*
 * main.c - the command line: options into struct jim, signals to jim_stop() and jim_reload(), and
 * the subcommands that read a store without serving it. Everything else is the library's, so that
 * an embedding program has it too.
 */
#include "jim.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void
usage(FILE *out)
{
    fputs("usage: jim [-c FILE] [-p PORT] [-b ADDR] [-d DIR] [-o key=value]... [-q] [-v]\n"
          "       jim check [-r] DIR | export DIR | -h | -V\n"
          "\n"
          "  -c FILE       read a jim.properties file\n"
          "  -p PORT       listen on PORT (jim.port); again for more, 0 for a free one\n"
          "  -b ADDR       listen on ADDR (jim.bind.ip)\n"
          "  -d DIR        keep messages in DIR (jim.store.dir)\n"
          "  -o key=value  set an option; wins over the file\n"
          "  -q, -v        log errors only; log more\n"
          "  check DIR     verify a store: 0 clean, 1 torn tail, 2 damaged;\n"
          "                -r: copy what is left of a damaged one to DIR.repaired\n"
          "  export DIR    stored messages as JSON lines\n"
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
static void *
signal_thread(void *arg)
{
    struct jim *j = arg;
    bool stopping = false;
    sigset_t wanted;
    int sig;

    sigemptyset(&wanted);
    sigaddset(&wanted, SIGTERM);
    sigaddset(&wanted, SIGINT);
    sigaddset(&wanted, SIGHUP);
    for (;;) {
        if (sigwait(&wanted, &sig) != 0)
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
block_signals(void)
{
    sigset_t s;

    sigemptyset(&s);
    sigaddset(&s, SIGTERM);
    sigaddset(&s, SIGINT);
    sigaddset(&s, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &s, NULL);
    signal(SIGPIPE, SIG_IGN);
}

static int
serve(struct jim *j)
{
    pthread_t signals;
    const char *address;

    block_signals();
    int status = jim_start(j);
    if (status != JIM_OK)
        return status;
    if ((errno = pthread_create(&signals, NULL, signal_thread, j)) != 0) {
        perror("jim: thread");
        return JIM_CANNOT_START;
    }
    fputs("jim: listening on", stdout);
    for (size_t i = 0; (address = jim_listening(j, i)) != NULL; i++)
        printf(" %s", address);
    putchar('\n');
    fflush(stdout);
    status = jim_run(j);
    pthread_cancel(signals);
    pthread_join(signals, NULL);
    return status;
}

static int
run(int argc, char **argv)
{
    struct jim *j = jim_new();
    const char *file = NULL;
    char err[512];
    int option, status;

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
            return JIM_OK;
        case 'V':
            printf("jim %s (%s)\n", JIM_VERSION, loop_backend());
            jim_free(j);
            return JIM_OK;
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
    jim_free(j);
    return status;
}

int
main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*fn)(const char *dir, FILE *out);
    } commands[] = {{"check", store_check}, {"export", store_export}};

    if (argc == 4 && strcmp(argv[1], "check") == 0 && strcmp(argv[2], "-r") == 0)
        return store_repair(argv[3], stdout);
    for (size_t i = 0; argc > 1 && i < sizeof commands / sizeof commands[0]; i++)
        if (strcmp(argv[1], commands[i].name) == 0) {
            if (argc != 3 || argv[2][0] == '-')
                return bad_usage("check and export take a directory");
            return commands[i].fn(argv[2], stdout);
        }
    return run(argc, argv);
}
