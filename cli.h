/* SPDX-License-Identifier: MIT */
/*
 * cli.h - what the files of jim-cli share. In reading order: term.c, what a terminal makes of text;
 * edit.c, the line one types; cli.c, the command line and what commands share; cli_ask.c, those
 * that ask and end, and tail; cli_chat.c, the conversation on a terminal or a pipe; cli_tty.c, that
 * terminal; cli_raw.c, frames for people who implement the protocol. It stands on the client
 * library (jim_client.h) and on util.c.
 */
#ifndef CLI_H
#define CLI_H

#include "jim.h"

#include <pthread.h>
#include <termios.h>

#include "jim_client.h"

/* --- term.c: columns and what is hostile ------------------------------------------------------ */

#define TERM_BAD UINT32_MAX /* not UTF-8 */

/* The character at the front of s: its bytes and *code. One byte and TERM_BAD when it is no UTF-8;
 * 0 and TERM_BAD when s ends within what is right so far. */
size_t term_char(struct str s, uint32_t *code);
int term_width(uint32_t c);        /* columns: 0, 1 or 2 */
size_t term_columns(struct str s); /* of text that is safe to show */
/*
 * Append s as it may be shown: controls, the invisible characters that reorder text and such become
 * \xNN or \uNNNN, a tab four blanks, what is not UTF-8 U+FFFD. A line feed becomes `newline`; NULL:
 * \x0a.
 */
void term_show(struct buf *out, struct str s, const char *newline);

/* --- edit.c: the line one types --------------------------------------------------------------- */

#define EDIT_MAX 65536    /* bytes of a line: what a message may hold by default */
#define EDIT_HISTORY 1000 /* lines remembered; a line above EDIT_MAX / 16 is not */

struct edit; /* knows keys and columns, and no descriptor: bytes go in and out */

enum edit_event {
    EDIT_MORE,      /* all was taken */
    EDIT_LINE,      /* Enter: edit_line() has it until the next call */
    EDIT_END,       /* Ctrl-D on an empty line */
    EDIT_INTERRUPT, /* Ctrl-C: the line has been thrown away */
    EDIT_SUSPEND    /* Ctrl-Z */
};

struct edit_words { /* candidates of a completion; zero struct is empty */
    char **word;    /* owned, each too */
    size_t n, cap;
};
void edit_words_add(struct edit_words *w, struct str word);
void edit_words_free(struct edit_words *w);

/* Add the words that could stand where `before`, the line up to the cursor, ends; returns where in
 * it the word to be completed begins. */
typedef size_t edit_complete(void *arg, struct str before, struct edit_words *words);

struct edit *edit_new(edit_complete *complete, void *arg); /* complete: NULL for none */
void edit_free(struct edit *e);                            /* NULL is allowed */
void edit_size(struct edit *e, int columns, int rows);     /* of the terminal; redraws */
void edit_prompt(struct edit *e, struct str prompt);       /* one line, safe to show, no colours */

/* Take typed bytes up to the first event. Returns how many were taken. */
size_t edit_feed(struct edit *e, const char *p, size_t n, enum edit_event *event);
void edit_vanish(struct edit *e); /* from now on a finished line does not stay on the screen */
struct str edit_line(const struct edit *e); /* of EDIT_LINE; it has been cleared since */
/* Put lines (each ends with a line feed) above the line being typed. */
void edit_print(struct edit *e, struct str text);
/* What the terminal has to be sent; empty it (len = 0) once sent. Draws the line if need be. */
struct buf *edit_output(struct edit *e);
struct buf *edit_pending(struct edit *e); /* the same, without drawing */
void edit_hide(struct edit *e);  /* take the line off the screen, until the next edit_output() */
void edit_clear(struct edit *e); /* forget what was typed */

/* The history is remembered in memory and, after edit_open(), in a file of mode 0600, one line
 * each. Lines that begin with a blank are not remembered. Several programs may share the file. */
void edit_remember(struct edit *e, struct str line);
int edit_open(struct edit *e, const char *path); /* 0, or -1 with errno: memory only */

/* --- cli.c: options, output, and a run of the client ------------------------------------------ */

#define CLI_PAGE 1000 /* messages asked for at once: jim.fetch.max */

enum cli_exit { /* jim-cli(1) promises these */
    CLI_OK = 0,
    CLI_USAGE = 1,   /* the command line is wrong */
    CLI_CONNECT = 2, /* the server cannot be reached, or was lost for good */
    CLI_REFUSED = 3, /* it refused: the login, or what was asked */
    CLI_UNSENT = 4,  /* not every message was acknowledged */
    CLI_LOCAL = 5    /* something here: a file, standard input or output */
};

struct cli {
    const char *url, *user, *token, *ca; /* borrowed from the arguments or the environment */
    char *password;      /* owned; NULL: none */
    char *secret_token;  /* owned: the token of the command line */
    const char *password_file;
    const char *to, *group, *id;
    bool json, plain, quiet;   /* -j, -C, -q */
    int64_t last;        /* -n; -1: not said */
    int64_t since, until; /* ms since 1970; 0: not said */
    int64_t wait_ms;     /* -w; -1: not said */
    char **args;         /* what stands behind the command; borrowed */
    int arg_n;

    struct jim_client *client; /* owned */
    bool colour;         /* names in colours on standard output */
    bool for_ever;       /* a lost connection is tried again until the end */
    bool was_ready;
    int64_t down_since;  /* time_mono_ms() since when there is no connection; 0: there is */
    int status;          /* enum cli_exit so far */
    bool over;           /* status is final */
    size_t owed;         /* answers still to come */
    size_t missed;       /* messages that came to a command that does not show any */
    int64_t rate;        /* -r: requests a second; -1: no pace; 0: not said */
    void *arg;           /* the command's own */
    void (*before_say)(struct cli *c); /* before cli_say() writes; NULL: nothing to do */
};

/* One sentence on standard error, behind "jim-cli: "; what is not fit for a terminal: spelt out. */
void cli_say(struct cli *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The end, with this status unless there is one already. Returns the status. */
int cli_fail(struct cli *c, int status);
/* Make the client of the options, with callbacks and arg of *o. 0, or a status after saying why. */
int cli_open(struct cli *c, struct jim_client_options *o);
/* What every on_state does: keeps was_ready and down_since, and ends the run when the server
 * refuses, or cannot be reached at first. */
void cli_state(struct cli *c, enum jim_client_state state, const char *why);
/* Milliseconds until the patience with a lost connection ends; -1: never. Ends the run by then. */
int cli_patience(struct cli *c);
/* Step until the run is over, or until `done` says so (NULL: until nothing is owed). Returns the
 * status. */
int cli_run(struct cli *c, bool (*done)(const struct cli *c));
/* Log in and wait until it is ready, for commands that ask one thing after the other. */
int cli_login(struct cli *c);
/* Write to standard output, and end as by SIGPIPE when nobody reads any more. */
void cli_write(struct cli *c, const struct buf *text);
/* Count a request that is on its way; 0: it could not be made, which is said. */
void cli_owe(struct cli *c, uint64_t request);
/* Say that a request was refused, or not answered; what: "the message". Returns the status. */
int cli_refused(struct cli *c, const char *what, const struct jim_result *r);

/* A member of the JSON object `text`; JSON_NONE without it, or when it is none. */
struct json cli_member(struct str text, const char *name);
char *cli_text(const struct json *v); /* of a string, "" of nothing; owned by the caller */

/* Append a message as a line of text (more when its content has them). dated: with its day. where:
 * name the conversation. */
void cli_message(const struct cli *c, struct buf *out, const struct jim_message *m, bool dated,
                 bool where);
void cli_message_json(struct buf *out, const struct jim_message *m); /* as a line of JSON */
void cli_print(struct cli *c, const struct jim_message *m); /* on standard output, as -j says */
/* Append a name, in its colour if there are any. */
void cli_name(const struct cli *c, struct buf *out, const char *name);

/* cli_ask.c: each logs in, asks, prints, and returns the status. */
int cli_send(struct cli *c);
int cli_tail(struct cli *c);
int cli_history(struct cli *c);
int cli_offline(struct cli *c);
int cli_online(struct cli *c);
int cli_groups(struct cli *c);
int cli_join(struct cli *c);
int cli_leave(struct cli *c);

int cli_chat(struct cli *c); /* cli_chat.c */
int cli_raw(struct cli *c);  /* cli_raw.c */

/* --- cli_tty.c: the terminal of a chat -------------------------------------------------------- */

struct tty { /* zero struct at the start */
    struct edit *edit;     /* borrowed */
    struct termios cooked; /* as it was found */
    bool raw;
    int signal;            /* to read the numbers of signals from, a byte each */
    int signal_in;         /* the pipe's other end */
    bool begun;            /* there is: */
    pthread_t thread;      /* that waits for signals */
};
int tty_begin(struct tty *t, struct edit *e); /* 0, or -1 with errno; signals are blocked */
void tty_end(struct tty *t); /* restore, and no more signals; also if it has not begun */
void tty_raw(struct tty *t);
void tty_restore(struct tty *t); /* as it was found; nothing to do unless raw */
void tty_suspend(struct tty *t);
void tty_signal(struct tty *t, int number); /* does not return from those that end a program */
char *tty_history(void); /* the file, its directories made; owned by the caller; NULL: no home */

#endif /* CLI_H */
