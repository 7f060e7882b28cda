/* SPDX-License-Identifier: MIT */
/*
 * cli_raw.c - jim-cli raw: every frame in both directions as it is on the wire, for people who
 * implement the protocol (docs/protocol.md).
 *
 *   showing  the head's fields, the bytes in hex, the JSON
 *   sending  lines of standard input: a command with its JSON, or bytes in hex
 *   the run  ends when standard input has, and nothing was heard for a while
 *
 * It stands on the client library's link, below its handle: so nothing is sent that was not asked
 * for, neither a heartbeat nor an answer; a login with -u or -t only.
 */
#include "cli.h"

#include "client_int.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MAX_INPUT (4u << 20) /* bytes of a line */
#define QUIET_MS 1000        /* silence behind the end of input that ends the run, without -w */
#define CONNECT_MS 30000     /* for an address to answer */
#define MAX_DUMPED 4096      /* bytes of a frame shown in hex, unless -j: all */

struct raw {
    struct cli *cli;
    struct link link;
    struct buf in;    /* standard input: a line's beginning */
    bool end;         /* of it */
    bool open;        /* the link is, or was */
    int64_t since_ms; /* time_mono_ms() of the last frame or line */
    struct buf out;
};

/* --- showing ---------------------------------------------------------------------------------- */

static const char *
command_name(unsigned cmd)
{
    static const char *const names[] = {
        "unknown", "handshake", "handshake answer", "auth", "auth answer", "login", "login answer",
        "join", "join answer", "notice: joined", "notice: left", "chat", "chat answer", "heartbeat",
        "close", "cancel", "cancel answer", "users", "users answer", "messages", "messages answer",
        "leave", "leave answer"};

    return cmd < sizeof names / sizeof names[0] ? names[cmd] : "unknown";
}

static uint64_t
big_endian(const unsigned char *p, size_t n)
{
    uint64_t v = 0;

    while (n-- > 0)
        v = v << 8 | *p++;
    return v;
}

/* What the head of a TCP-IM frame says (docs/protocol.md section 2). */
static void
show_tcp(struct buf *b, const unsigned char *p, size_t n)
{
    bool numbered = n > 1 && (p[1] & 0x20) != 0;
    size_t head = numbered ? 11 : 7;

    if (n < head) {
        buf_printf(b, "tcp-im, cut off after %zu bytes\n", n);
        return;
    }
    buf_printf(b, "tcp-im version %u, mask 0x%02x, ", p[0], p[1]);
    if (numbered)
        buf_printf(b, "seq %llu, ", (unsigned long long)big_endian(p + 2, 4));
    buf_printf(b, "cmd %u (%s), length %llu\n", p[head - 5], command_name(p[head - 5]),
               (unsigned long long)big_endian(p + head - 4, 4));
}

/* What the head of a WebSocket frame says (RFC 6455 section 5.2). */
static void
show_ws(struct buf *b, const unsigned char *p, size_t n)
{
    static const char *const names[16] = {[0] = "continuation", [1] = "text", [2] = "binary",
                                          [8] = "close", [9] = "ping", [10] = "pong"};
    const char *name = names[p[0] & 15];
    unsigned length = n > 1 ? p[1] & 0x7f : 0;
    size_t more = length == 126 ? 2 : length == 127 ? 8 : 0;

    buf_printf(b, "websocket %s%s%s", name != NULL ? name : "reserved opcode",
               (p[0] & 0x80) != 0 ? ", fin" : "", (p[0] & 0x70) != 0 ? ", rsv" : "");
    if (n >= 2 + more)
        buf_printf(b, "%s, length %llu", (p[1] & 0x80) != 0 ? ", masked" : "",
                   more > 0 ? (unsigned long long)big_endian(p + 2, more) : length);
    if ((p[0] & 15) == 8 && n >= 2 + more + 2 && (p[1] & 0x80) == 0)
        buf_printf(b, ", code %u", (unsigned)big_endian(p + 2 + more, 2));
    buf_lit(b, "\n");
}

static void
show_hex(struct buf *b, const unsigned char *p, size_t n)
{
    for (size_t at = 0; at < n && at < MAX_DUMPED; at += 16) {
        buf_printf(b, "  %04zx ", at);
        for (size_t i = at; i < at + 16; i++) {
            if (i < n)
                buf_printf(b, " %02x", p[i]);
            else
                buf_lit(b, "   ");
        }
        buf_lit(b, "  ");
        for (size_t i = at; i < at + 16 && i < n; i++)
            buf_printf(b, "%c", p[i] >= 0x20 && p[i] < 0x7f ? p[i] : '.');
        buf_lit(b, "\n");
    }
    if (n > MAX_DUMPED)
        buf_printf(b, "  ... %zu bytes more\n", n - MAX_DUMPED);
}

static void
put_json(struct buf *b, const char *json, size_t n)
{
    struct json v = {.p = json, .n = (uint32_t)n, .type = JSON_OBJECT};
    struct json_iter it;
    int more;

    if (json_open(&it, json, n) != 0)
        more = -1;
    else
        while ((more = json_next(&it, NULL, &(struct json){0})) == 1)
            ;
    if (more == 0)
        json_put_value(b, &v);
    else
        buf_lit(b, "null");
}

/* As a line of JSON: all there is, for programs. */
static void
frame_json(struct buf *b, bool out, const unsigned char *p, size_t n, const char *json,
           size_t json_n)
{
    buf_printf(b, "{\"direction\":\"%s\",\"hex\":\"", out ? "out" : "in");
    for (size_t i = 0; i < n; i++)
        buf_printf(b, "%02x", p[i]);
    buf_lit(b, "\",\"json\":");
    if (json != NULL && json_n > 0)
        put_json(b, json, json_n);
    else
        buf_lit(b, "null");
    buf_printf(b, ",\"time\":%lld}\n", (long long)time_wall_ms());
}

static bool
is_http(const unsigned char *p, size_t n)
{
    return n >= 5 && (memcmp(p, "GET /", 5) == 0 || memcmp(p, "HTTP/", 5) == 0);
}

static void
show_http(struct buf *b, struct str head)
{
    struct str line;

    while (str_split(&head, '\n', &line) && (head.n > 0 || line.n > 0)) {
        if (line.n > 0 && line.p[line.n - 1] == '\r')
            line.n--;
        buf_lit(b, "  ");
        term_show(b, line, NULL);
        buf_lit(b, "\n");
    }
}

static void
frame_text(struct raw *r, struct buf *b, bool out, const unsigned char *p, size_t n)
{
    int64_t now = time_wall_ms();
    time_t seconds = (time_t)(now / 1000);
    char stamp[32] = "?";
    struct tm tm;

    if (localtime_r(&seconds, &tm) != NULL)
        strftime(stamp, sizeof stamp, "%H:%M:%S", &tm);
    if (r->cli->colour)
        buf_str(b, out ? STR("\x1b[33m") : STR("\x1b[36m"));
    buf_printf(b, "%s.%03d %s %zu bytes: ", stamp, (int)(now % 1000), out ? ">" : "<", n);
    if (n == 0)
        buf_lit(b, "nothing\n");
    else if (p[0] == 0x01)
        show_tcp(b, p, n);
    else if (is_http(p, n))
        buf_lit(b, "http\n");
    else
        show_ws(b, p, n);
    if (r->cli->colour)
        buf_lit(b, "\x1b[0m");
}

static void
on_frame(void *arg, bool out, const void *bytes, size_t n, const char *json, size_t json_n)
{
    struct raw *r = arg;
    const unsigned char *p = bytes;

    r->since_ms = time_mono_ms();
    if (r->cli->json) {
        frame_json(&r->out, out, p, n, json, json_n);
        return;
    }
    frame_text(r, &r->out, out, p, n);
    if (n > 0 && is_http(p, n)) {
        show_http(&r->out, (struct str){bytes, n});
        return;
    }
    show_hex(&r->out, p, n);
    if (json != NULL && json_n > 0) {
        buf_lit(&r->out, "  ");
        term_show(&r->out, (struct str){json, json_n}, "\n  ");
        buf_lit(&r->out, "\n");
    }
}

/* --- sending ---------------------------------------------------------------------------------- */

static int
hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Pairs of hex digits, blanks between them; -1 when it is something else. */
static int
from_hex(struct str s, struct buf *out)
{
    while (s.n > 0) {
        if (s.p[0] == ' ' || s.p[0] == '\t') {
            s.p++;
            s.n--;
            continue;
        }
        if (s.n < 2 || hex_digit(s.p[0]) < 0 || hex_digit(s.p[1]) < 0)
            return -1;
        char byte = (char)(hex_digit(s.p[0]) << 4 | hex_digit(s.p[1]));
        buf_add(out, &byte, 1);
        s.p += 2;
        s.n -= 2;
    }
    return 0;
}

/* `CMD` or `CMD {...}`: a decimal number, and JSON behind it if anything. */
static bool
is_command(struct str line, int *cmd, struct str *json)
{
    size_t digits = 0;

    *cmd = 0;
    while (digits < line.n && digits < 4 && line.p[digits] >= '0' && line.p[digits] <= '9')
        *cmd = *cmd * 10 + (line.p[digits++] - '0');
    *json = str_trim((struct str){line.p + digits, line.n - digits});
    return digits > 0 && digits < 4 && *cmd < 256 && (json->n == 0 || json->p[0] == '{');
}

static void
raw_line(struct raw *r, struct str line)
{
    struct cli *c = r->cli;
    struct buf bytes = {0};
    struct str json;
    int cmd;

    line = str_trim(line);
    if (line.n == 0 || line.p[0] == '#')
        return;
    if (is_command(line, &cmd, &json)) {
        link_put(&r->link, cmd, 0, json.p, json.n);
        return;
    }
    if (line.p[0] == 'x') /* says that it is hex: `x13`, which alone would be a command */
        line = (struct str){line.p + 1, line.n - 1};
    if (from_hex(line, &bytes) != 0)
        cli_say(c, "neither `CMD JSON` nor bytes in hex: %.*s", line.n < 60 ? (int)line.n : 60,
                line.p);
    buf_str(&r->link.out, (struct str){bytes.p, bytes.len});
    if (bytes.len > 0)
        on_frame(r, true, bytes.p, bytes.len, NULL, 0);
    buf_free(&bytes);
}

static void
raw_input(struct raw *r)
{
    struct str rest, line;
    ssize_t n;
    size_t done = 0;

    buf_reserve(&r->in, 65536);
    n = read(STDIN_FILENO, r->in.p + r->in.len, 65536);
    if (n < 0 && errno == EINTR)
        return;
    r->since_ms = time_mono_ms();
    r->end = n <= 0;
    r->in.len += n > 0 ? (size_t)n : 0;
    rest = (struct str){r->in.p, r->in.len};
    while (rest.n > 0 && (memchr(rest.p, '\n', rest.n) != NULL || r->end)) {
        str_split(&rest, '\n', &line);
        done += line.n + 1;
        raw_line(r, line);
    }
    buf_drop(&r->in, done < r->in.len ? done : r->in.len);
    if (r->in.len > MAX_INPUT) {
        cli_say(r->cli, "a line of standard input is too long");
        cli_fail(r->cli, CLI_LOCAL);
    }
}

/* --- the run ---------------------------------------------------------------------------------- */

/* The login, as JSON; the password goes the same way, and is shown like everything else. */
static void
put_login(struct raw *r)
{
    struct cli *c = r->cli;
    const struct {
        const char *name, *value;
    } members[] = {{"userId", c->user}, {"password", c->password}, {"token", c->token}};
    struct buf b = {0};

    buf_lit(&b, "{");
    for (size_t i = 0; i < 3; i++) {
        if (members[i].value == NULL)
            continue;
        json_put_key(&b, members[i].name);
        json_put_string(&b, members[i].value, strlen(members[i].value));
    }
    buf_lit(&b, "}");
    link_put(&r->link, 5, 0, b.p, b.len);
    wipe(b.p, b.len);
    buf_free(&b);
}

static bool
on_heard(void *arg, int command, uint32_t seq, const char *json, size_t n)
{
    struct raw *r = arg;

    (void)command, (void)seq, (void)json, (void)n; /* on_frame() shows it */
    if (r->link.state == LINK_OPEN && !r->open) {
        r->open = true;
        r->since_ms = time_mono_ms();
        if (r->cli->user != NULL || r->cli->token != NULL)
            put_login(r);
    }
    return true;
}

/* Connect to one address after the other. False after saying why. */
static bool
raw_connect(struct raw *r)
{
    char err[512];

    if (link_init(&r->link, r->cli->url, r->cli->ca, err, sizeof err) != 0) {
        cli_say(r->cli, "%s", err);
        return false;
    }
    r->link.arg = r;
    r->link.heard = on_heard;
    r->link.seen = on_frame;
    r->link.frame_max = MAX_INPUT;
    for (; r->link.at < r->link.addrs; r->link.at++) {
        bool good = link_connect(&r->link);
        while (good && r->link.state == LINK_CONNECT) {
            struct pollfd f = {.fd = r->link.fd, .events = POLLOUT};
            good = poll(&f, 1, CONNECT_MS) != 0 && link_read(&r->link);
        }
        if (good)
            return true;
    }
    cli_say(r->cli, "%s: %s", r->cli->url, r->link.why[0] != '\0' ? r->link.why : "no connection");
    return false;
}

/* Milliseconds to wait for more; 0: there is nothing more to wait for; -1: as long as it takes. */
static int
raw_left(const struct raw *r)
{
    int64_t quiet = r->cli->wait_ms >= 0 ? r->cli->wait_ms : QUIET_MS;
    int64_t left = r->since_ms + quiet - time_mono_ms();

    if (!r->end || link_waiting(&r->link) > 0)
        return -1;
    return left <= 0 ? 0 : left < 60000 ? (int)left : 60000;
}

/* One turn; false: the connection is over. */
static bool
raw_turn(struct raw *r, int timeout)
{
    bool hungry = r->open && !r->end && link_waiting(&r->link) < MAX_INPUT;
    struct pollfd f[2] = {{.fd = hungry ? STDIN_FILENO : -1, .events = POLLIN},
                          {.fd = r->link.fd, .events = link_events(&r->link)}};
    bool good = true;

    if (poll(f, 2, timeout) < 0)
        return errno == EINTR || errno == EAGAIN;
    if (f[0].revents != 0)
        raw_input(r);
    if (f[1].revents & ~POLLOUT)
        good = link_read(&r->link);
    return (link_write(&r->link) || !good) && good;
}

int
cli_raw(struct cli *c)
{
    struct raw r = {.cli = c, .since_ms = time_mono_ms()};
    bool good = raw_connect(&r);
    int left;

    if (!good)
        cli_fail(c, CLI_CONNECT);
    while (good && !c->over && (left = raw_left(&r)) != 0) {
        good = raw_turn(&r, left);
        cli_write(c, &r.out);
        r.out.len = 0;
        if (good)
            continue;
        if (!c->quiet || !r.open)
            cli_say(c, "%s", r.link.why);
        if (!r.end || !r.open) /* else closing is an answer, too */
            cli_fail(c, CLI_CONNECT);
    }
    cli_write(c, &r.out);
    link_free(&r.link);
    buf_free(&r.in);
    buf_free(&r.out);
    return c->status;
}
