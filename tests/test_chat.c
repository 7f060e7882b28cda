/* SPDX-License-Identifier: MIT */
/*
 * test_chat.c - what clients say and hear, without sockets. A connection here is a struct conn with
 * no descriptor: what the server queues for it is its transcript. Scripts read like a conversation:
 *
 *     says(alice, 11, "{'chatType':2,'to':'bob','content':'hi','id':'m1'}");
 *     hears(bob, "{'command':11,'data':{'chatType':2,'content':'hi','createTime':@,...");
 *
 * In what is said and heard, ' stands for a double quote. In what is heard, @ is the clock's
 * present time, ~ is `"msg":"the text of the code"`, and ^ is any 32 hex digits. The next piece of
 * transcript has to match byte for byte, and counts as written to the peer once it is heard.
 *
 *   harness         a server without listeners, its connections, its disk
 *   talking         says, hears, and shorter words for what is said and heard most
 *   commands        every command, every answer
 *   login, presence, groups, leaving and dismissing, sending, retries, users
 *   store           order, offline, history, restarts, groups, a full disk, a dead disk
 *   everything      a long random run: what was acknowledged is heard, once it is asked for
 */
#include "test.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <unistd.h>

#define NOW INT64_C(1700000000000)
#define MINUTE 60000
#define HOUR (60 * MINUTE)

/* --- the disk -------------------------------------------------------------------------------- */

static struct disk { /* the real one, until told otherwise; the store's thread looks at it too */
    atomic_bool full, sync_fails, no_files;
} disk;

static int
d_open(void *arg, const char *path, int flags, mode_t mode)
{
    (void)arg;
    if (!disk.no_files)
        return open(path, flags, mode);
    errno = EMFILE;
    return -1;
}

static int
d_close(void *arg, int fd)
{
    (void)arg;
    return close(fd);
}

static ssize_t
d_pwrite(void *arg, int fd, const void *p, size_t n, off_t at)
{
    (void)arg;
    if (!disk.full)
        return pwrite(fd, p, n, at);
    if (n > 1 && pwrite(fd, p, n / 2, at) < 0) /* half of it still finds room */
        return -1;
    errno = ENOSPC;
    return -1;
}

static ssize_t
d_pread(void *arg, int fd, void *p, size_t n, off_t at)
{
    (void)arg;
    return pread(fd, p, n, at);
}

static int
d_truncate(void *arg, int fd, off_t size)
{
    (void)arg;
    return ftruncate(fd, size);
}

static int
d_sync(void *arg, int fd)
{
    (void)arg;
    (void)fd; /* no power cut happens here */
    if (!disk.sync_fails)
        return 0;
    errno = EIO;
    return -1;
}

static int
d_sync_dir(void *arg, const char *path)
{
    (void)arg;
    (void)path;
    return 0;
}

static int
d_rename(void *arg, const char *from, const char *to)
{
    (void)arg;
    return rename(from, to);
}

static int
d_unlink(void *arg, const char *path)
{
    (void)arg;
    return unlink(path);
}

static int
d_mkdir(void *arg, const char *path, mode_t mode)
{
    (void)arg;
    return mkdir(path, mode);
}

static int
d_list(void *arg, const char *path, struct buf *out)
{
    DIR *d = opendir(path);
    const struct dirent *e;

    (void)arg;
    if (d == NULL)
        return -1;
    while ((e = readdir(d)) != NULL)
        buf_add(out, e->d_name, strlen(e->d_name) + 1);
    closedir(d);
    return 0;
}

static int
d_lock(void *arg, int fd)
{
    (void)arg;
    (void)fd;
    return 0;
}

static const struct store_io disk_io = {
    NULL, d_open, d_close, d_pwrite, d_pread, d_truncate, d_sync, d_sync_dir, d_rename, d_unlink,
    d_mkdir, d_list, d_lock};

/* --- harness --------------------------------------------------------------------------------- */

enum { MAX_CONNS = 1700 };

static int64_t now; /* the server's clock, ms */

static struct world {
    struct jim *j;
    struct chat *c;
    struct conn *conn[MAX_CONNS];
    size_t conns;
    const char *option[16]; /* "key=value", for the next start too */
    size_t options;
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    int ready; /* times the store has called, not yet looked after */
} w = {.mutex = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};

static int64_t
clock_now(void)
{
    return now;
}

static void
store_ready(void *arg)
{
    (void)arg;
    pthread_mutex_lock(&w.mutex);
    w.ready++;
    pthread_cond_signal(&w.cond);
    pthread_mutex_unlock(&w.mutex);
}

static void
set_option(const char *text)
{
    char key[64], err[200];
    const char *at = strchr(text, '=');

    CHECK(at != NULL && (size_t)(at - text) < sizeof key);
    snprintf(key, sizeof key, "%.*s", (int)(at - text), text);
    if (conf_set(&w.j->opt, key, at + 1, false, NULL, err, sizeof err) != 0)
        test_fail(__FILE__, __LINE__, "%s", err);
}

static void
start(void)
{
    struct jim *j = w.j = jim_new();

    set_option("jim.login.groups=");
    set_option("jim.rate.messages=0");
    set_option("jim.store=off");
    set_option("jim.store.dir=data");
    for (size_t i = 0; i < w.options; i++)
        set_option(w.option[i]);
    j->log.level = LOG_LEVEL_DEBUG;
    j->log.file = fopen("/dev/null", "w");
    j->loop = loop_new();
    CHECK(j->log.file != NULL && j->loop != NULL);
    w.c = &j->chat;
    chat_init(w.c, &j->opt, &j->log, &j->stats);
    w.c->now_ms = clock_now;
    struct store_options o = {.dir = j->opt.store_dir, .policy = j->opt.store_sync,
                              .segment = (uint64_t)j->opt.store_segment, .log = &j->log,
                              .io = &disk_io, .ready = store_ready, .replay = record_replay,
                              .span = record_span, .recent = record_recent,
                              .recent_max = MAX_RETRY, .recent_ms = now - RETRY_MS, .arg = w.c};
    j->store = w.c->store = j->opt.store ? store_open(&o) : store_open_none();
    CHECK(j->store != NULL);
    w.ready = 0;
}

/* A server with options besides those of start(), up to a NULL. */
static void
begin(const char *option, ...)
{
    va_list ap;

    now = NOW;
    va_start(ap, option);
    for (; option != NULL; option = va_arg(ap, const char *)) {
        CHECK(w.options < sizeof w.option / sizeof w.option[0]);
        w.option[w.options++] = option;
    }
    va_end(ap);
    start();
}

static struct conn *
comes(enum proto proto)
{
    struct conn *c = xcalloc(1, sizeof *c);

    CHECK(w.conns < MAX_CONNS);
    c->jim = w.j;
    c->fd = -1;
    c->id = ++w.j->next_id;
    c->state = CONN_OPEN;
    c->proto = (uint8_t)proto;
    c->protos = PROTO_BIT(PROTO_TCP) | PROTO_BIT(PROTO_WS) | PROTO_BIT(PROTO_HTTP);
    w.j->conns++;
    return w.conn[w.conns++] = c;
}

/* A frame of answers: what it holds, and how long it is. WebSocket has no number of the command but
 * in the JSON. */
static size_t
take_frame(const struct conn *c, const char *p, size_t n, struct pkt *f)
{
    size_t head = 2, len = n > 1 ? (unsigned char)p[1] : 0;

    if (c->proto == PROTO_TCP) {
        ptrdiff_t used = pkt_decode(p, n, n, f);
        CHECK(used > 0);
        return (size_t)used;
    }
    if (len == 126) {
        CHECK(n > 4);
        head = 4;
        len = (size_t)(unsigned char)p[2] << 8 | (unsigned char)p[3];
    }
    CHECK((unsigned char)p[0] == 0x81 && len < 65536 && n >= head + len);
    char *json = xstrndup(p + head, len);
    const char *command = strstr(json, "\"command\":");
    *f = (struct pkt){.cmd = command != NULL ? (uint8_t)atoi(command + 10) : 0,
                      .body = {p + head, len}};
    free(json);
    return head + len;
}

/* Answers or messages that were put together for one write, taken apart: an entry each. */
static void
take_apart(struct conn *c)
{
    struct out *o = c->out, old = *o;
    struct msg *m = o->entry[o->head].msg;
    uint32_t n = 0;
    struct pkt f;

    if (!m->raw || c->proto == PROTO_HTTP)
        return;
    for (size_t used = 0; used < m->len; n++)
        used += take_frame(c, m->data + used, m->len - used, &f);
    for (o->cap = 4; o->cap < n + old.n; o->cap *= 2)
        ;
    o->entry = xcalloc(o->cap, sizeof o->entry[0]);
    o->head = o->n = 0;
    for (size_t used = 0; used < m->len; o->n++) {
        used += take_frame(c, m->data + used, m->len - used, &f);
        struct msg *one = msg_new(f.cmd, f.seq, f.body.p, f.body.n);
        one->chat_seq = m->chat_seq - m->chats + o->n;
        o->entry[o->n].msg = one;
        o->entry[o->n].member = old.entry[old.head].member;
        o->bytes += f.body.n + MAX_PKT_HEAD;
    }
    for (uint32_t i = 1; i < old.n; i++)
        o->entry[o->n++] = old.entry[(old.head + i) & (old.cap - 1)];
    o->bytes -= m->len + MAX_PKT_HEAD;
    free(old.entry);
    msg_unref(m);
}

static bool
has_something(struct conn *c)
{
    if (c->out == NULL || c->out->n == 0)
        return false;
    take_apart(c);
    return true;
}

static void
pop(struct conn *c, bool written)
{
    struct out *o = c->out;
    struct msg *m = o->entry[o->head].msg;
    struct member *member = o->entry[o->head].member;

    if (written && (member != NULL || m->fetched != NULL))
        deliver_written(w.c, m, member);
    o->head = (o->head + 1) & (o->cap - 1);
    o->n--;
    o->bytes -= m->len + MAX_PKT_HEAD;
    msg_unref(m);
}

static void
forget_output(struct conn *c, bool written)
{
    while (has_something(c))
        pop(c, written);
}

/* The connection breaks: what was queued never left. */
static void
breaks(struct conn *c)
{
    forget_output(c, false);
    c->state = CONN_DEAD;
    chat_closed(w.c, c);
    w.j->conns--;
}

/* He has read everything, and goes. */
static void
goes(struct conn *c)
{
    forget_output(c, true);
    breaks(c);
}

/* Everybody reads what there is, and nobody looks at it. */
static void
quiet(void)
{
    for (size_t i = 0; i < w.conns; i++)
        if (w.conn[i]->state != CONN_DEAD)
            forget_output(w.conn[i], true);
}

static void
await_store(void)
{
    pthread_mutex_lock(&w.mutex);
    while (w.ready == 0)
        pthread_cond_wait(&w.cond, &w.mutex);
    w.ready = 0;
    pthread_mutex_unlock(&w.mutex);
}

/* Until the store has nothing more to say about what was accepted. */
static void
commit(void)
{
    for (;;) {
        deliver_committed(w.c);
        while (w.c->wave_n > 0)
            deliver_waves(w.c);
        if (w.c->pending_n == 0)
            break;
        store_commit(w.j->store);
        await_store();
    }
}

static void
free_connection(struct conn *c)
{
    if (c->pend != NULL) /* an answer to HTTP leaves something here */
        buf_free(&c->pend->answer_head);
    free(c->pend);
    if (c->out != NULL) {
        free(c->out->entry);
        lags_free(&c->out->lags);
    }
    free(c->out);
    free(c);
}

static void
stop(void)
{
    for (size_t i = 0; i < w.conns; i++)
        if (w.conn[i]->state != CONN_DEAD)
            breaks(w.conn[i]);
    w.j->attend = NULL; /* the end of the turn does not come for these */
    w.j->attend_end = &w.j->attend;
    for (size_t i = 0; i < w.conns; i++)
        loop_timer_clear(w.j->loop, &w.conn[i]->timer);
    jim_free(w.j);
    for (size_t i = 0; i < w.conns; i++)
        free_connection(w.conn[i]);
    w.conns = 0;
}

static void
end(void)
{
    stop();
}

/* Stop as the server does, and start again with the same options on the same disk. */
static void
restart(void)
{
    quiet();
    for (size_t i = 0; i < w.conns; i++)
        if (w.conn[i]->state != CONN_DEAD)
            breaks(w.conn[i]);
    commit();
    record_save(w.c, SIZE_MAX);
    stop();
    start();
}

/* --- talking --------------------------------------------------------------------------------- */

static char *
quoted(const char *text)
{
    char *copy = xstrndup(text, strlen(text));

    for (char *p = copy; *p != '\0'; p++)
        if (*p == '\'')
            *p = '"';
    return copy;
}

/* One command; cmd -1: the JSON says which, as on WebSocket. False: it has to wait. */
static bool
tries(struct conn *c, int cmd, const char *json)
{
    char *text = quoted(json);
    bool done = chat_command(w.c, c, cmd, 0, str_of(text));

    free(text);
    return done;
}

static void
says(struct conn *c, int cmd, const char *json)
{
    if (!tries(c, cmd, json))
        test_fail(__FILE__, __LINE__, "%d %s has to wait", cmd, json);
}

/* Does p[0, n) match what is expected? */
static bool
matches(const char *want, const char *p, size_t n)
{
    const char *end = p + n;
    char piece[400];
    int code = 0;

    sscanf(want, "{'code':%d", &code);
    for (; *want != '\0'; want++) {
        piece[0] = *want == '\'' ? '"' : *want;
        piece[1] = '\0';
        if (*want == '@')
            snprintf(piece, sizeof piece, "%lld", (long long)now);
        else if (*want == '~')
            snprintf(piece, sizeof piece, "\"msg\":\"%s\"", code_text(code));
        if (*want == '^') {
            for (int i = 0; i < 32; i++, p++)
                if (p == end || strchr("0123456789abcdef", *p) == NULL)
                    return false;
            continue;
        }
        size_t len = strlen(piece);
        if ((size_t)(end - p) < len || memcmp(p, piece, len) != 0)
            return false;
        p += len;
    }
    return p == end;
}

static const struct msg *
next_message(struct conn *c, const char *want, int line)
{
    if (!has_something(c))
        test_fail(__FILE__, line, "silence instead of\n  %s", want);
    const struct msg *m = c->out->entry[c->out->head].msg;
    CHECK_INT(m->opcode, WS_TEXT);
    return m;
}

static void
hears_at(int line, struct conn *c, const char *want)
{
    const struct msg *m = next_message(c, want, line);

    if (!matches(want, m->data, m->len))
        test_fail(__FILE__, line, "heard\n  %.*s\ninstead of\n  %s", (int)m->len, m->data, want);
    const char *command = strstr(want, "'command':");
    CHECK(command != NULL);
    if (atoi(command + 10) != m->command) /* the cmd byte on TCP-IM says the same */
        test_fail(__FILE__, line, "cmd byte %d with %s", m->command, want);
    pop(c, true);
}
#define hears(c, want) hears_at(__LINE__, (c), (want))

static void
silent_at(int line, struct conn *c)
{
    if (!has_something(c))
        return;
    const struct msg *m = c->out->entry[c->out->head].msg;
    test_fail(__FILE__, line, "heard\n  %.*s\ninstead of nothing", (int)m->len, m->data);
}
#define silent(c) silent_at(__LINE__, (c))

/* The answer that is a code and its text. */
static void
hears_code_at(int line, struct conn *c, int command, int code)
{
    char want[80];

    snprintf(want, sizeof want, "{'code':%d,'command':%d,~}", code, command);
    hears_at(line, c, want);
}
#define hears_code(c, command, code) hears_code_at(__LINE__, (c), (command), (code))

/* A chat message; `to` is a user, or #group. */
static void
hears_chat_at(int line, struct conn *c, const char *from, const char *to, const char *text,
              const char *id, int seq)
{
    char want[1000];

    if (to[0] == '#')
        snprintf(want, sizeof want,
                 "{'command':11,'data':{'chatType':1,'content':'%s','createTime':@,'from':'%s',"
                 "'groupId':'%s','id':'%s','seq':%d}}", text, from, to + 1, id, seq);
    else
        snprintf(want, sizeof want,
                 "{'command':11,'data':{'chatType':2,'content':'%s','createTime':@,'from':'%s',"
                 "'id':'%s','seq':%d,'to':'%s'}}", text, from, id, seq, to);
    hears_at(line, c, want);
}
#define hears_chat(c, from, to, text, id, seq) \
    hears_chat_at(__LINE__, (c), (from), (to), (text), (id), (seq))

static void
hears_ack_at(int line, struct conn *c, int code, const char *id, int seq)
{
    char want[400];

    snprintf(want, sizeof want,
             "{'code':%d,'command':12,'data':{'createTime':@,'id':'%s','seq':%d},~}", code, id,
             seq);
    hears_at(line, c, want);
}
#define hears_ack(c, code, id, seq) hears_ack_at(__LINE__, (c), (code), (id), (seq))

/* `who` joins what he is already in, or has just come to. */
static void
hears_join_at(int line, struct conn *c, const char *who, const char *group)
{
    char want[300];

    snprintf(want, sizeof want,
             "{'code':10011,'command':9,'group':'%s',~,'user':{'nick':'%s','status':'online',"
             "'userId':'%s'}}", group, who, who);
    hears_at(line, c, want);
}
#define hears_join(c, who, group) hears_join_at(__LINE__, (c), (who), (group))

static void
hears_exit_at(int line, struct conn *c, const char *who, const char *group)
{
    char want[300];

    snprintf(want, sizeof want,
             "{'command':10,'data':{'group':'%s','user':{'nick':'%s','status':'offline',"
             "'userId':'%s'}}}", group, who, who);
    hears_at(line, c, want);
}
#define hears_exit(c, who, group) hears_exit_at(__LINE__, (c), (who), (group))

static void
hears_joined(struct conn *c, const char *group)
{
    char want[300];

    snprintf(want, sizeof want,
             "{'code':10011,'command':8,'data':{'group':'%s','result':1},'group':'%s',~,"
             "'result':1}", group, group);
    hears(c, want);
}

static void
hears_login(struct conn *c, const char *who)
{
    char want[300];

    snprintf(want, sizeof want,
             "{'code':10007,'command':6,~,'user':{'nick':'%s','status':'online','terminal':'%s',"
             "'userId':'%s'}}", who, conn_terminal(c), who);
    hears(c, want);
}

/* The CLOSE frame a WebSocket peer gets. */
static void
hears_close(struct conn *c, int code)
{
    CHECK(has_something(c));
    const struct msg *m = c->out->entry[c->out->head].msg;
    CHECK_INT(m->opcode, WS_CLOSE);
    CHECK_INT(m->len, 2);
    CHECK_INT((unsigned char)m->data[0] << 8 | (unsigned char)m->data[1], code);
    pop(c, true);
    silent(c);
}

static bool
is_closing(const struct conn *c)
{
    return c->state == CONN_FINISH && c->shut;
}

/* Log in; what there is to hear is heard. */
static struct conn *
enters_by(enum proto proto, const char *who)
{
    struct conn *c = comes(proto);
    char json[100];

    snprintf(json, sizeof json, "{'userId':'%s'}", who);
    says(c, 5, json);
    CHECK(c->user != NULL);
    forget_output(c, true);
    return c;
}

static struct conn *
enters(const char *who)
{
    return enters_by(PROTO_TCP, who);
}

static void
joins(struct conn *c, const char *group)
{
    char json[100];

    snprintf(json, sizeof json, "{'groupId':'%s'}", group);
    says(c, 7, json);
    if (c->deferred > 0) /* it is answered when it is on disk */
        commit();
    quiet();
}

/* A message to a user, or to a #group. id NULL: none. */
static void
sends(struct conn *c, const char *to, const char *text, const char *id)
{
    char json[600], with_id[200] = "";

    if (id != NULL)
        snprintf(with_id, sizeof with_id, ",'id':'%s'", id);
    snprintf(json, sizeof json, "{'chatType':%d,'%s':'%s','content':'%s'%s}", to[0] == '#' ? 1 : 2,
             to[0] == '#' ? "groupId" : "to", to[0] == '#' ? to + 1 : to, text, with_id);
    says(c, 11, json);
}

static void
sends_bytes(struct conn *c, const char *to, size_t n)
{
    struct buf b = {0};

    buf_printf(&b, "{\"chatType\":2,\"to\":\"%s\",\"content\":\"", to);
    for (size_t i = 0; i < n; i++)
        buf_add(&b, "x", 1);
    buf_printf(&b, "\"}");
    CHECK(chat_command(w.c, c, 11, 0, (struct str){b.p, b.len}));
    buf_free(&b);
}

static int
compare_text(const void *a, const void *b)
{
    return strcmp(a, b);
}

enum { MAX_PIECES = 64, PIECE = 4000 };

/* "peer:1,2,3" for each member of friends or groups (then "#group:"). */
static size_t
conversations(const struct json *map, const char *mark, char (*piece)[PIECE], size_t n)
{
    struct json_iter it, chats, chat;
    struct json key, list, one, name, value;

    json_enter(&it, map);
    while (json_next(&it, &key, &list) > 0) {
        CHECK(n < MAX_PIECES && list.type == JSON_ARRAY);
        size_t len = (size_t)snprintf(piece[n], PIECE, "%s%.*s:", mark, (int)key.n, key.p);
        json_enter(&chats, &list);
        for (bool first = true; json_next(&chats, NULL, &one) > 0; first = false) {
            int64_t seq = 0;
            json_enter(&chat, &one);
            while (json_next(&chat, &name, &value) > 0)
                if (name.n == 3 && memcmp(name.p, "seq", 3) == 0)
                    json_int(&value, &seq);
            CHECK(len < PIECE - 24);
            len += (size_t)snprintf(piece[n] + len, PIECE - len, "%s%lld", first ? "" : ",",
                                    (long long)seq);
        }
        n++;
    }
    return n;
}

/* An answer 20 in short: "10016 bob:1,2 #g:7 more". It stays queued. */
static const char *
fetched(struct conn *c)
{
    static char piece[MAX_PIECES][PIECE], all[20000];
    const struct msg *m = next_message(c, "an answer 20", __LINE__);
    struct json_iter it, data_it;
    struct json key, value, in_data;
    int64_t code = 0;
    size_t n = 0;
    bool more = false;

    CHECK(json_open(&it, m->data, m->len) == 0);
    while (json_next(&it, &key, &value) > 0) {
        if (str_eq((struct str){key.p, key.n}, STR("code")))
            json_int(&value, &code);
        if (!str_eq((struct str){key.p, key.n}, STR("data")))
            continue;
        json_enter(&data_it, &value);
        while (json_next(&data_it, &key, &in_data) > 0) {
            struct str name = {key.p, key.n};
            if (str_eq(name, STR("friends")) || str_eq(name, STR("groups")))
                n = conversations(&in_data, name.p[0] == 'g' ? "#" : "", piece, n);
            else if (str_eq(name, STR("more")))
                more = in_data.type == JSON_TRUE;
        }
    }
    CHECK(it.error == JSON_OK && m->command == 20);
    qsort(piece, n, PIECE, compare_text);
    size_t len = (size_t)snprintf(all, sizeof all, "%lld", (long long)code);
    for (size_t i = 0; i < n; i++) {
        CHECK(len + strlen(piece[i]) + 8 < sizeof all);
        len += (size_t)snprintf(all + len, sizeof all - len, " %s", piece[i]);
    }
    snprintf(all + len, sizeof all - len, "%s", more ? " more" : "");
    return all;
}

/* Command 19 and its answer in short; the answer stays queued. */
static void
asks_at(int line, struct conn *c, const char *json, const char *want)
{
    says(c, 19, json);
    const char *got = fetched(c);
    if (strcmp(got, want) != 0)
        test_fail(__FILE__, line, "fetched '%s', not '%s', with %s", got, want, json);
}

/* The same, and it arrives. */
static void
fetches_at(int line, struct conn *c, const char *json, const char *want)
{
    asks_at(line, c, json, want);
    pop(c, true);
    silent_at(line, c);
}
#define asks(c, json, want) asks_at(__LINE__, (c), (json), (want))
#define fetches(c, json, want) fetches_at(__LINE__, (c), (json), (want))

/* --- commands -------------------------------------------------------------------------------- */

TEST(chat_code_texts)
{
    static const struct {
        int code;
        const char *text;
    } codes[] = {
        {10000, "ok 发送成功"},
        {10001, "offline 用户不在线"},
        {10002, "send failed 消息发送失败,数据格式不正确,请参考:{'from':来源ID,'to':目标ID,"
                "'cmd':'消息命令码','createTime':消息创建时间(Long型),'msgType':Integer消息类型,"
                "'content':内容}"},
        {10003, "ok 获取用户信息成功!"},
        {10004, "get user failed ! 获取用户信息失败!"},
        {10005, "ok 获取所有在线用户信息成功!"},
        {10006, "ok 获取所有离线用户信息成功!"},
        {10007, "ok 登录成功!"},
        {10008, "login failed ! 登录失败!"},
        {10009, "ok 鉴权成功!"},
        {10010, "auth failed! 鉴权失败!"},
        {10011, "join group ok! 加入群组成功!"},
        {10012, "join group failed! 加入群组失败!"},
        {10015, "get user message failed! 获取用户消息失败!"},
        {10016, "get user message ok! 获取离线消息成功!"},
        {10017, "cmd failed! 未知的cmd命令!"},
        {10018, "get user message ok! 获取历史消息成功!"},
        {10019, "online 用户在线"},
        {10020, "Invalid verification! 不合法校验"},
        {10021, "close ok! 关闭成功"},
        {10022, "not logged in 未登录"},
        {10023, "too many requests 请求过于频繁"},
        {10024, "forbidden 没有权限"},
        {10025, "message too large 消息过大"},
        {10026, "logged in elsewhere 已在别处登录"},
        {10027, "store unavailable 存储不可用"},
        {10028, "server shutting down 服务器正在关闭"},
        {10029, "ok 操作成功"},
        {10030, "group not found 群组不存在"},
    };

    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        const char *text = code_text(codes[i].code);
        CHECK_BYTES(text, strlen(text), codes[i].text);
    }
    for (int code = CODE_SENT; code < CODE_END; code++)
        CHECK(code_text(code) != NULL);
}

/* What an answer looks like to the byte: the Chinese is raw UTF-8, the keys are in order. */
TEST(chat_answer_bytes)
{
    static const char want[] = "{\"code\":10022,\"command\":18,\"msg\":\"not logged in "
                               "\xe6\x9c\xaa\xe7\x99\xbb\xe5\xbd\x95\"}";
    begin(NULL);
    struct conn *c = comes(PROTO_TCP);
    says(c, 17, "{}");
    CHECK(has_something(c));
    const struct msg *m = c->out->entry[c->out->head].msg;
    CHECK_BYTES(m->data, m->len, want);
    CHECK_INT(m->seq, 0);
    pop(c, true);
    CHECK(chat_command(w.c, c, 17, 77, STR("{}"))); /* a sequence number comes back */
    CHECK(has_something(c));
    CHECK_INT(c->out->entry[c->out->head].msg->seq, 77);
    end();
}

TEST(chat_before_login)
{
    static const char *const bodies[] = {"", "{}", "{", "[]", "nonsense", "{'userId':'x'}",
                                         "{'to':'x','chatType':2,'groupId':'g','type':1}"};
    begin(NULL);
    struct conn *c = comes(PROTO_TCP);
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        says(c, 7, bodies[i]);
        hears_code(c, 8, 10022);
        says(c, 11, bodies[i]);
        hears_code(c, 12, 10022);
        says(c, 17, bodies[i]);
        hears_code(c, 18, 10022);
        says(c, 19, bodies[i]);
        hears_code(c, 20, 10022);
    }
    silent(c);
    CHECK_INT(c->state, CONN_OPEN);
    CHECK_INT(w.c->roster.users.count, 0);
    end();
}

TEST(chat_handshake_heartbeat)
{
    static const char *const bodies[] = {"", "{}", "{", "\x80", "{'hbbyte':'-127','cmd':13}"};

    begin(NULL);
    struct conn *in = enters("alice"), *out = comes(PROTO_WS);
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++)
        for (int k = 0; k < 2; k++) {
            struct conn *c = k == 0 ? in : out;
            says(c, 1, bodies[i]);
            hears(c, "{'command':2,'data':{'hbyte':-127}}");
            says(c, 13, bodies[i]);
            hears(c, "{'command':13,'data':{'hbbyte':-128}}");
        }
    says(out, -1, "{'cmd':1}");
    hears(out, "{'command':2,'data':{'hbyte':-127}}");
    says(out, -1, "{'cmd':13,'hbbyte':'-127'}");
    hears(out, "{'command':13,'data':{'hbbyte':-128}}");
    end();
}

/* Many answers are one piece of output, in order, on either protocol; and none is lost when there
 * are too many for that. */
TEST(chat_answers_together)
{
    enum { MANY = 400 };

    begin(NULL);
    for (int k = 0; k < 2; k++) {
        struct conn *c = comes(k == 0 ? PROTO_TCP : PROTO_WS);
        for (int i = 0; i < 8; i++)
            says(c, i % 2 == 0 ? 13 : 1, "{}");
        CHECK(c->out->n <= 2);
        for (int i = 8; i < MANY; i++)
            says(c, i % 2 == 0 ? 13 : 1, "{}");
        CHECK(c->out->bytes > MAX_PRESSED);
        for (int i = 0; i < MANY; i += 2) {
            hears(c, "{'command':13,'data':{'hbbyte':-128}}");
            hears(c, "{'command':2,'data':{'hbyte':-127}}");
        }
        silent(c);
    }
    end();
}

/* Messages that one user gets are put together, too: written, all of them are delivered, and what
 * was said to him before that in another conversation is not. */
TEST(chat_messages_together)
{
    enum { MANY = 40 };
    char json[100];

    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob"), *carol = enters("carol");
    for (int i = 0; i < 2 * MANY; i++) {
        struct conn *from = i / 5 % 2 == 0 ? alice : carol;
        snprintf(json, sizeof json, "{'chatType':2,'to':'bob','content':'m%d','msgType':0}", i);
        says(from, 11, json);
    }
    commit();
    CHECK(bob->out->n < MANY);
    struct member *told = member_with(&w.c->roster, bob->user, STR("alice"));
    while (bob->out->n > 1) {
        struct out *o = bob->out;
        const struct msg *m = o->entry[o->head].msg;
        struct member *member = o->entry[o->head].member;
        CHECK_INT(member->cursor, m->chat_seq - m->chats - 1);
        deliver_written(w.c, m, member);
        CHECK_INT(member->cursor, m->chat_seq);
        o->bytes -= m->len + MAX_PKT_HEAD;
        msg_unref(o->entry[o->head].msg);
        o->head = (o->head + 1) & (o->cap - 1);
        o->n--;
    }
    CHECK_INT(told->cursor, MANY);
    CHECK(told->conv->durable == MANY && w.c->stats->delivered < 2 * MANY);
    forget_output(bob, true);
    CHECK_INT(w.c->stats->delivered, 2 * MANY);
    end();
}

TEST(chat_unknown_commands)
{
    static const int unknown[] = {0, 2, 4, 6, 8, 9, 10, 12, 15, 16, 18, 20, 22, 23, 100, 127, 255};
    static const char *const bodies[] = {"{}", "", "{", "[]", "{'cmd':null}", "{'cmd':'x'}",
                                         "{'cmd':[11]}", "{'cmd':0}", "{'cmd':15}", "{'cmd':22}",
                                         "{'cmd':-1}", "{'cmd':267}", "{'cmd':4294967307}",
                                         "{'cmd':11", "{'cmd':99999999999999999999}"};
    begin(NULL);
    struct conn *in = enters("alice"), *out = comes(PROTO_WS);
    for (int k = 0; k < 2; k++) {
        struct conn *c = k == 0 ? in : out;
        for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
            says(c, unknown[i], i % 2 ? "{" : "{'cmd':13}");
            hears_code(c, 0, 10017);
        }
        for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
            says(c, -1, bodies[i]);
            hears_code(c, 0, 10017);
        }
        CHECK_INT(c->state, CONN_OPEN);
    }
    end();
}

/* The frame's number counts on TCP-IM, the body's on WebSocket; both may be a string. */
TEST(chat_command_number)
{
    begin(NULL);
    struct conn *c = comes(PROTO_TCP);
    says(c, 13, "{'cmd':1}");
    hears(c, "{'command':13,'data':{'hbbyte':-128}}");
    says(c, -1, "{'cmd':'13'}");
    hears(c, "{'command':13,'data':{'hbbyte':-128}}");
    says(c, -1, "{'CMD':13}");
    hears(c, "{'command':13,'data':{'hbbyte':-128}}");
    end();
}

/* A request that says nothing of use, as each command that needs something said. */
static void
all_refuse(struct conn *c, const char *json)
{
    says(c, 3, json);
    hears_code(c, 4, 10010);
    says(c, 7, json);
    hears(c, "{'code':10012,'command':8,~,'result':0}");
    says(c, 11, json);
    hears_code(c, 12, 10002);
    says(c, 17, json);
    hears_code(c, 18, 10004);
    says(c, 19, json);
    hears_code(c, 20, 10015);
    CHECK_INT(c->state, CONN_OPEN);
    struct conn *one = comes(PROTO_TCP);
    says(one, 5, json);
    hears_code(one, 6, 10008);
    CHECK(is_closing(one) && one->user == NULL);
}

TEST(chat_bad_requests)
{
    static const char *const bad[] = {"{", "[]", "nonsense", "[1]", "{'a':}", "{} x", "null", "1",
                                      "{'userId':'alice','type':0,'chatType':2,'to':'bob',}",
                                      "{'userId':'alice\xff','to':'bob'}", "'alice'"};
    begin("jim.store=on", NULL);
    struct conn *c = enters("alice");
    commit();
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        says(c, 14, bad[i]);
        hears_code(c, 14, 10020);
        all_refuse(c, bad[i]);
    }
    end();
}

TEST(chat_empty_requests)
{
    static const char *const empty[] = {"", "{}", "{'userId':null,'token':null,'to':null}"};

    begin("jim.store=on", NULL);
    struct conn *c = enters("alice");
    commit();
    for (size_t i = 0; i < sizeof empty / sizeof empty[0]; i++)
        all_refuse(c, empty[i]);
    end();
}

TEST(chat_auth)
{
    begin(NULL);
    struct conn *c = comes(PROTO_TCP);
    says(c, 3, "{'token':'abc'}");
    hears(c, "{'code':10009,'command':4,'data':{'token':'abc'},~}");
    says(c, 3, "{'token':'t','id':'i','createTime':'12','extras':{'b':1,'a':null}}");
    hears(c, "{'code':10009,'command':4,'data':{'createTime':12,'extras':{'b':1},'id':'i',"
             "'token':'t'},~}");
    says(c, 3, "{'token':''}");
    hears_code(c, 4, 10010);
    says(c, 3, "{'id':'x'}");
    hears_code(c, 4, 10010);
    says(c, 17, "{'userId':'x'}"); /* it never logs in */
    hears_code(c, 18, 10022);
    end();
}

/* --- login ----------------------------------------------------------------------------------- */

TEST(chat_login)
{
    begin("jim.login.groups=100:J-IM朋友圈", NULL);
    struct conn *c = comes(PROTO_WS);
    says(c, -1, "{'cmd':5,'userId':'alice','password':'secret'}");
    hears_login(c, "alice");
    hears_join(c, "alice", "100");
    silent(c);
    CHECK_INT(w.c->roster.nusers, 1);
    CHECK_INT(w.c->roster.nonline, 1);
    end();
}

/* Answer 6 comes first, then one notify 9 a group. */
TEST(chat_login_groups)
{
    begin("jim.login.groups=1:one,2:two,3", NULL);
    struct conn *c = comes(PROTO_TCP);
    says(c, 5, "{'userId':'alice'}");
    hears_login(c, "alice");
    bool seen[4] = {false};
    for (int i = 0; i < 3; i++) {
        const struct msg *m = next_message(c, "notify 9", __LINE__);
        CHECK_INT(m->command, 9);
        const char *at = strstr(m->data, "\"group\":\"");
        CHECK(at != NULL && at[9] >= '1' && at[9] <= '3' && !seen[at[9] - '0']);
        seen[at[9] - '0'] = true;
        pop(c, true);
    }
    silent(c);
    end();
}

TEST(chat_login_names)
{
    static const char *const good[][2] = {
        {"{'userId':'u1'}", "u1"},
        {"{'loginname':'u2'}", "u2"},
        {"{'userId':3}", "3"},
        {"{'user_id':'u4'}", "u4"},
        {"{'USERID':'u5','token':'t'}", "u5"},
        {"{'userId':'\\u4e2d\\u6587'}", "中文"},
        {"{'userId':'a b'}", "a b"},
        {"{'userId':'u6','loginname':'other'}", "u6"},
        {"{'userId':'0123456789012345678901234567890123456789012345678901234567890123'}",
         "0123456789012345678901234567890123456789012345678901234567890123"},
    };
    static const char *const bad[] = {
        "{'userId':''}", "{'userId':' '}", "{'userId':'  \\t '}", "{'userId':'a\\nb'}",
        "{'userId':['a']}", "{'userId':{}}", "{'password':'x'}", "{'token':'t'}",
        "{'userId':'\\u0000'}", "{'userId':'a\\u0085'}",
        "{'userId':'01234567890123456789012345678901234567890123456789012345678901234'}",
    };

    begin(NULL);
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        struct conn *c = comes(PROTO_TCP);
        says(c, 5, good[i][0]);
        hears_login(c, good[i][1]);
        CHECK_STR(user_id(c->user), good[i][1]);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct conn *c = comes(PROTO_WS);
        says(c, 5, bad[i]);
        hears_code(c, 6, 10008);
        hears_close(c, WS_POLICY);
        CHECK(is_closing(c) && c->user == NULL);
    }
    end();
}

TEST(chat_login_query)
{
    static const struct {
        const char *user, *who; /* NULL: refused */
    } cases[] = {
        {"alice", "alice"}, {"%E4%B8%AD+%25", "中 %"}, {"a%20b", "a b"}, {"", NULL}, {"+", NULL},
        {"%", NULL}, {"%4", NULL}, {"%zz", NULL}, {"%00", NULL}, {"%0a", NULL}, {"%ff", NULL},
        {"01234567890123456789012345678901234567890123456789012345678901234", NULL},
    };

    begin("jim.login.groups=100", NULL);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct conn *c = comes(PROTO_WS);
        chat_login_query(w.c, c, str_of(cases[i].user), STR(""), STR(""));
        if (cases[i].who == NULL) {
            hears_code(c, 6, 10008);
            hears_close(c, WS_POLICY);
            CHECK(is_closing(c));
        } else {
            hears_login(c, cases[i].who);
            hears_join(c, cases[i].who, "100");
            quiet();
        }
    }
    struct conn *c = comes(PROTO_WS); /* a token alone names nobody in open mode */
    chat_login_query(w.c, c, STR(""), STR(""), STR("token"));
    hears_code(c, 6, 10008);
    end();
}

TEST(chat_login_as_another)
{
    begin("jim.login.groups=100", NULL);
    struct conn *watcher = enters("watcher"), *c = enters("alice");
    quiet();
    says(c, 5, "{'userId':'bob'}");
    hears_exit(watcher, "alice", "100");
    hears_join(watcher, "bob", "100");
    silent(watcher);
    hears_login(c, "bob");
    hears_join(c, "bob", "100");
    silent(c);
    sends(watcher, "alice", "there?", "1"); /* the old name is free of this connection */
    hears_ack(watcher, 10001, "1", 1);
    silent(c);
    sends(watcher, "bob", "there?", "2");
    hears_ack(watcher, 10000, "2", 1);
    hears_chat(c, "watcher", "bob", "there?", "2", 1);
    sends(c, "watcher", "yes", "3");
    hears_chat(watcher, "bob", "watcher", "yes", "3", 2);
    hears_ack(c, 10000, "3", 2);
    CHECK_INT(w.c->roster.nonline, 2);
    goes(c);
    hears_exit(watcher, "bob", "100");
    silent(watcher);
    end();
}

/* Once more as the same: he is told again, nobody else is: it is not his first connection. */
TEST(chat_login_again)
{
    begin("jim.login.groups=100", NULL);
    struct conn *watcher = enters("watcher"), *c = enters("alice");
    quiet();
    says(c, 5, "{'userId':'alice'}");
    hears_login(c, "alice");
    hears_join(c, "alice", "100");
    silent(c);
    CHECK_INT(c->user->nconns, 1);
    CHECK_INT(w.c->roster.nonline, 2);
    silent(watcher);
    end();
}

/* A failed login of somebody who is in: answered and closed; who he was is told to nobody else. */
TEST(chat_login_fails_later)
{
    begin("jim.login.groups=100", NULL);
    struct conn *watcher = enters("watcher"), *c = enters("alice");
    quiet();
    says(c, 5, "{}");
    hears_code(c, 6, 10008);
    CHECK(is_closing(c));
    silent(watcher);
    breaks(c);
    hears_exit(watcher, "alice", "100");
    end();
}

/* --- presence -------------------------------------------------------------------------------- */

TEST(chat_presence_counts_connections)
{
    begin("jim.login.groups=100", NULL);
    struct conn *bob = enters("bob");
    struct conn *tcp = comes(PROTO_TCP), *ws = comes(PROTO_WS);

    says(tcp, 5, "{'userId':'alice'}");
    hears_login(tcp, "alice");
    hears_join(tcp, "alice", "100");
    hears_join(bob, "alice", "100");
    says(ws, 5, "{'userId':'alice'}"); /* the second is nobody's business but its own */
    hears_login(ws, "alice");
    hears_join(ws, "alice", "100");
    silent(bob);
    silent(tcp);
    goes(tcp);
    silent(bob);
    silent(ws);
    sends(bob, "alice", "still there?", "1");
    hears_chat(ws, "bob", "alice", "still there?", "1", 1);
    hears_ack(bob, 10000, "1", 1);
    goes(ws);
    hears_exit(bob, "alice", "100");
    silent(bob);
    end();
}

TEST(chat_presence_is_for_the_group)
{
    begin(NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob"), *carol = enters("carol");
    joins(alice, "a");
    joins(bob, "a");
    joins(bob, "b");
    joins(carol, "b");
    goes(bob);
    hears_exit(alice, "bob", "a");
    silent(alice);
    hears_exit(carol, "bob", "b");
    silent(carol);
    bob = enters("bob");
    hears_join(alice, "bob", "a");
    silent(alice);
    hears_join(carol, "bob", "b");
    silent(carol);
    end();
}

TEST(chat_notify_max)
{
    begin("jim.login.groups=100", "jim.group.notify.max=3", NULL);
    struct conn *a = enters("a"), *b = enters("b");
    quiet();
    struct conn *c = comes(PROTO_TCP);
    says(c, 5, "{'userId':'c'}"); /* three online: as many as may be told */
    hears_login(c, "c");
    hears_join(c, "c", "100");
    hears_join(a, "c", "100");
    hears_join(b, "c", "100");
    struct conn *d = comes(PROTO_TCP), *e = comes(PROTO_TCP);
    says(d, 5, "{'userId':'d'}");
    hears_login(d, "d");
    hears_join(d, "d", "100"); /* he himself is always told */
    silent(a);
    says(e, 5, "{'userId':'e'}");
    hears_login(e, "e");
    hears_join(e, "e", "100");
    silent(b);
    goes(e); /* four are left */
    silent(a);
    silent(d);
    goes(d);
    quiet();
    goes(c);
    hears_exit(a, "c", "100");
    hears_exit(b, "c", "100");
    end();
}

TEST(chat_policy_one)
{
    begin("jim.login.policy=one", "jim.login.groups=100", NULL);
    struct conn *watcher = enters("watcher"), *tcp = enters("alice");
    quiet();
    struct conn *ws = comes(PROTO_WS);
    says(ws, 5, "{'userId':'alice'}");
    hears_code(tcp, 14, 10026);
    CHECK(is_closing(tcp));
    silent(tcp);
    hears_login(ws, "alice");
    hears_join(ws, "alice", "100");
    silent(watcher);
    sends(watcher, "alice", "x", "1"); /* nothing more for the one that goes */
    hears_chat(ws, "watcher", "alice", "x", "1", 1);
    silent(tcp);
    goes(tcp);
    hears_ack(watcher, 10000, "1", 1);
    silent(watcher);
    struct conn *third = enters_by(PROTO_WS, "alice");
    hears_code(ws, 14, 10026);
    hears_close(ws, WS_POLICY);
    goes(ws);
    says(third, 5, "{'userId':'alice'}"); /* one does not displace oneself */
    CHECK_INT(third->state, CONN_OPEN);
    end();
}

TEST(chat_policy_terminal)
{
    begin("jim.login.policy=terminal", NULL);
    struct conn *tcp = enters_by(PROTO_TCP, "alice"), *ws = enters_by(PROTO_WS, "alice");
    struct conn *other = enters_by(PROTO_TCP, "bob");
    silent(tcp);
    struct conn *tcp2 = enters_by(PROTO_TCP, "alice");
    hears_code(tcp, 14, 10026);
    CHECK(is_closing(tcp));
    silent(ws);
    silent(other);
    CHECK(ws->state == CONN_OPEN && tcp2->state == CONN_OPEN && other->state == CONN_OPEN);
    end();
}

TEST(chat_policy_many)
{
    begin(NULL);
    struct conn *one[5];
    for (int i = 0; i < 5; i++)
        one[i] = enters_by(i % 2 ? PROTO_WS : PROTO_TCP, "alice");
    struct conn *bob = enters("bob");
    sends(bob, "alice", "all of you", "1");
    for (int i = 0; i < 5; i++) {
        hears_chat(one[i], "bob", "alice", "all of you", "1", 1);
        silent(one[i]);
    }
    end();
}

/* --- groups ---------------------------------------------------------------------------------- */

TEST(chat_join)
{
    begin(NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob"), *phone = enters("bob");

    says(alice, 7, "{'groupId':'g'}");
    hears_joined(alice, "g");
    hears_join(alice, "alice", "g");
    silent(alice);
    silent(bob);
    says(bob, 7, "{'group_id':'g'}"); /* as 2.x spells it */
    hears_joined(bob, "g");
    hears_join(bob, "bob", "g");
    silent(bob);
    hears_join(alice, "bob", "g");
    silent(alice);
    hears_join(phone, "bob", "g"); /* his other connection is in it too */
    silent(phone);
    says(phone, 7, "{'groupId':'g'}"); /* already in */
    hears_joined(phone, "g");
    hears_join(phone, "bob", "g");
    silent(phone);
    silent(bob);
    silent(alice);
    end();
}

TEST(chat_join_refused)
{
    static const char *const bad[] = {
        "{}", "{'groupId':''}", "{'groupId':'  '}", "{'groupId':'a\\tb'}", "{'groupId':['g']}",
        "{'groupId':'01234567890123456789012345678901234567890123456789012345678901234'}",
    };

    begin(NULL);
    struct conn *alice = enters("alice");
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        says(alice, 7, bad[i]);
        hears(alice, "{'code':10012,'command':8,~,'result':0}");
    }
    CHECK_INT(alice->state, CONN_OPEN); /* J-IM closed it */
    CHECK_INT(w.c->roster.convs.count, 0);
    end();
}

TEST(chat_join_by_api_only)
{
    begin("jim.group.join=api", "jim.login.groups=100", NULL);
    struct conn *alice = enters("alice");
    says(alice, 7, "{'groupId':'g'}");
    hears(alice, "{'code':10024,'command':8,~,'result':0}");
    CHECK(group_find(&w.c->roster, STR("g")) == NULL);
    says(alice, 7, "{'groupId':'100'}"); /* where he is, he may say so */
    hears_joined(alice, "100");
    end();
}

TEST(chat_group_names)
{
    begin("jim.login.groups=100:everybody", NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");
    quiet();
    says(alice, 7, "{'groupId':'g','name':'friends'}");
    says(bob, 7, "{'groupId':'g','name':'his name for it'}"); /* the founder's name stays */
    says(bob, 7, "{'groupId':'100','name':'mine'}");
    quiet();
    goes(bob);
    quiet();
    says(alice, 17, "{'userId':'alice','type':0}");
    hears(alice, "{'code':10005,'command':18,'data':{'friends':[],'groups':["
                 "{'groupId':'g','name':'friends','online':1,'users':["
                 "{'nick':'alice','status':'online','terminal':'tcp','userId':'alice'}]},"
                 "{'groupId':'100','name':'everybody','online':1,'users':["
                 "{'nick':'alice','status':'online','terminal':'tcp','userId':'alice'}]}],"
                 "'nick':'alice','status':'online','terminal':'tcp','userId':'alice'},~}");
    end();
}

/* --- leaving and dismissing ------------------------------------------------------------------- */

static void
hears_left(struct conn *c, int code, const char *group)
{
    char want[200];

    snprintf(want, sizeof want, "{'code':%d,'command':22,'group':'%s',~}", code, group);
    hears(c, want);
}

/* The notice of somebody's leaving for good: he is still online. */
static void
hears_goodbye_at(int line, struct conn *c, const char *who, const char *group)
{
    char want[300];

    snprintf(want, sizeof want,
             "{'command':10,'data':{'group':'%s','user':{'nick':'%s','status':'online',"
             "'userId':'%s'}}}", group, who, who);
    hears_at(line, c, want);
}
#define hears_goodbye(c, who, group) hears_goodbye_at(__LINE__, (c), (who), (group))

TEST(chat_leave)
{
    begin(NULL);
    struct conn *alice = enters("alice"), *phone = enters_by(PROTO_WS, "alice");
    struct conn *bob = enters("bob"), *carol = enters("carol");
    joins(alice, "g");
    joins(bob, "g");
    quiet();
    says(alice, 21, "{'groupId':'g'}");
    hears_left(alice, 10029, "g");
    silent(alice);
    hears_goodbye(phone, "alice", "g"); /* his other devices are told */
    hears_goodbye(bob, "alice", "g");
    silent(carol);
    sends(alice, "#g", "x", NULL);
    hears_code(alice, 12, 10024);
    sends(bob, "#g", "y", "1");
    hears_chat(bob, "bob", "#g", "y", "1", 1);
    hears_ack(bob, 10000, "1", 1);
    silent(phone);
    says(alice, 21, "{'groupId':'g'}"); /* once more, as after a lost answer */
    hears_left(alice, 10029, "g");
    silent(bob);
    end();
}

TEST(chat_leave_refused)
{
    static const char *const bad[] = {"{}", "{'groupId':''}", "{'groupId':{}}", "["};

    begin(NULL);
    struct conn *stranger = comes(PROTO_TCP), *alice = enters("alice"), *bob = enters("bob");
    says(stranger, 21, "{'groupId':'g'}");
    hears_code(stranger, 22, 10022);
    joins(bob, "his");
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        says(alice, 21, bad[i]);
        hears_code(alice, 22, 10020);
    }
    says(alice, 21, "{'groupId':'none'}");
    hears_left(alice, 10030, "none");
    says(alice, 21, "{'groupId':'his'}"); /* the same: whether it exists is not hers to know */
    hears_left(alice, 10030, "his");
    silent(bob);
    end();
}

TEST(chat_leave_by_api_only)
{
    begin("jim.group.join=api", "jim.login.groups=100", NULL);
    struct conn *alice = enters("alice");
    says(alice, 21, "{'groupId':'100'}");
    hears_left(alice, 10024, "100");
    CHECK(member_in_group(&w.c->roster, alice->user, STR("100")) != NULL);
    group_remove(w.c, group_find(&w.c->roster, STR("100")), alice->user);
    hears_goodbye(alice, "alice", "100");
    says(alice, 7, "{'groupId':'100'}");
    hears(alice, "{'code':10024,'command':8,~,'result':0}");
    group_add(w.c, group_find(&w.c->roster, STR("100")), alice->user);
    hears_join(alice, "alice", "100");
    end();
}

TEST(chat_leave_is_kept)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");
    joins(alice, "g");
    joins(bob, "g");
    says(alice, 21, "{'groupId':'g'}");
    quiet();
    restart();
    bob = enters("bob");
    alice = enters("alice");
    sends(alice, "#g", "x", NULL);
    hears_code(alice, 12, 10024);
    says(alice, 21, "{'groupId':'g'}");
    hears_left(alice, 10029, "g");
    says(bob, 17, "{'userId':'bob','type':0}");
    hears(bob, "{'code':10005,'command':18,'data':{'friends':[],'groups':[{'groupId':'g',"
               "'name':'g','online':1,'users':[{'nick':'bob','status':'online','terminal':'tcp',"
               "'userId':'bob'}]}],'nick':'bob','status':'online','terminal':'tcp',"
               "'userId':'bob'},~}");
    end();
}

TEST(chat_leave_a_large_group)
{
    begin("jim.group.notify.max=1", NULL);
    struct conn *alice = enters("alice"), *phone = enters_by(PROTO_WS, "alice");
    struct conn *bob = enters("bob");
    joins(alice, "g");
    joins(bob, "g");
    quiet();
    says(alice, 21, "{'groupId':'g'}");
    hears_left(alice, 10029, "g");
    hears_goodbye(phone, "alice", "g");
    silent(bob);
    end();
}

static struct conv *
founds(const char *group, const char *name)
{
    return group_create(w.c, str_of(group), str_of(name));
}

TEST(chat_dismiss)
{
    begin("jim.store=on", "jim.login.groups=100", "jim.group.open=on", NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");
    joins(alice, "g");
    joins(bob, "g");
    sends(alice, "#g", "x", "1");
    commit();
    quiet();
    group_dismiss(w.c, group_find(&w.c->roster, STR("g")));
    commit();
    hears_goodbye(alice, "alice", "g"); /* each of himself */
    hears_goodbye(bob, "bob", "g");
    silent(alice);
    silent(bob);
    for (int again = 0; again < 2; again++) {
        CHECK(group_find(&w.c->roster, STR("g")) == NULL);
        says(alice, 7, "{'groupId':'g'}");
        hears(alice, "{'code':10030,'command':8,~,'result':0}");
        sends(alice, "#g", "x", NULL);
        hears_code(alice, 12, 10030);
        says(alice, 21, "{'groupId':'g'}"); /* that is where he wants to be */
        hears_left(alice, 10029, "g");
        says(alice, 19, "{'userId':'alice','type':1,'groupId':'g'}");
        hears_code(alice, 20, 10024); /* what was said there is not his any more */
        group_dismiss(w.c, group_find_any(&w.c->roster, STR("100")));
        commit();
        quiet();
        restart();
        alice = enters("alice"); /* and not even the configuration brings 100 back */
        CHECK(group_find(&w.c->roster, STR("100")) == NULL);
    }
    end();
}

TEST(chat_dismiss_and_found_again)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");
    joins(alice, "g");
    sends(alice, "#g", "x", "1");
    sends(alice, "#g", "x", "2");
    commit();
    group_dismiss(w.c, group_find(&w.c->roster, STR("g")));
    commit();
    struct conv *v = founds("g", "second");
    CHECK_INT(v->nmembers, 0);
    joins(bob, "g");
    quiet();
    for (int again = 0; again < 2; again++) {
        v = group_find(&w.c->roster, STR("g"));
        CHECK(v != NULL && v->nmembers == 1 && v->life == 1);
        CHECK_STR(str_of(v->name), "second");
        sends(alice, "#g", "x", NULL);
        hears_code(alice, 12, 10024);
        sends(bob, "#g", "y", NULL);
        commit();
        CHECK_INT(v->seq, 3 + again); /* numbers go on */
        restart();
        alice = enters("alice");
        bob = enters("bob");
        quiet();
    }
    joins(alice, "g");
    fetches(alice, "{'userId':'alice','type':0,'groupId':'g'}", "10016");
    end();
}

/* A dismissal that never got to the disk has not been; and what is asked of the group while it is
 * on its way is told that it is gone. */
TEST(chat_dismiss_while_full)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");
    joins(alice, "g");
    disk.full = true;
    struct conv *v = group_find(&w.c->roster, STR("g"));
    CHECK(group_dismiss(w.c, v));
    CHECK(group_create_later(w.c, STR("g"), STR("")) == v);
    commit();
    silent(alice);
    CHECK(!v->gone && v->nmembers == 1 && v->changes == 0);
    disk.full = false;
    CHECK(group_dismiss(w.c, v) && group_dismiss(w.c, v)); /* twice is once */
    says(bob, 7, "{'groupId':'g'}");
    commit();
    hears_goodbye(alice, "alice", "g");
    hears(bob, "{'code':10030,'command':8,~,'result':0}");
    CHECK(v->gone && v->life == 1);
    joins(bob, "h");
    restart();
    CHECK(group_find(&w.c->roster, STR("g")) == NULL);
    bob = enters("bob");
    CHECK(member_in_group(&w.c->roster, bob->user, STR("g")) == NULL);
    end();
}

static void
logged(char type, const char *json)
{
    char *text = quoted(json);
    struct store_rec rec = {.number = 1, .time_ms = NOW, .type = type, .conv = STR("g:g"),
                            .json = str_of(text)};

    record_replay(w.c, &rec);
    free(text);
}

/* What was lost is written again later, behind what is newer: the life it speaks of decides. */
TEST(chat_dismiss_replayed_out_of_order)
{
    begin(NULL);
    logged(REC_JOIN, "{'userId':'old'}");
    struct conv *v = group_find(&w.c->roster, STR("g"));
    CHECK_INT(v->nmembers, 1);
    logged(REC_JOIN, "{'life':2,'userId':'new'}"); /* tells of two dismissals that come later */
    CHECK_INT(v->nmembers, 1);
    CHECK_STR(user_id(v->member[0]->user), "new");
    logged(REC_GROUP, "{'dismissed':true,'groupId':'g','life':1}");
    logged(REC_JOIN, "{'userId':'old'}");
    logged(REC_GROUP, "{'groupId':'g','life':2,'name':'n'}");
    CHECK(group_find(&w.c->roster, STR("g")) == v && v->nmembers == 1);
    CHECK_STR(str_of(v->name), "n");
    logged(REC_GROUP, "{'dismissed':true,'groupId':'g','life':3}");
    CHECK(group_find(&w.c->roster, STR("g")) == NULL && v->nmembers == 0);
    CHECK_INT(w.c->roster.ngroups, 0);
    logged(REC_JOIN, "{'life':3,'userId':'newest'}"); /* it was created anew, then */
    CHECK(group_find(&w.c->roster, STR("g")) == v && v->nmembers == 1);
    logged(REC_JOIN, "{'life':-1,'userId':'x'}"); /* nonsense changes nothing */
    logged(REC_JOIN, "{'life':99999999999,'userId':'x'}");
    logged(REC_JOIN, "{'life':'x','userId':'x'}");
    CHECK(v->life == 3 && v->nmembers == 1);
    logged(REC_GROUP, "{'dismissed':true,'groupId':'g','life':3}"); /* members or not */
    CHECK(v->gone && v->nmembers == 0);
    end();
}

TEST(chat_group_changes_without_effect)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice");
    struct conv *v = founds("g", "name");
    CHECK(group_add(w.c, v, alice->user));
    commit();
    quiet();
    CHECK(founds("g", "other") == v);
    CHECK_STR(str_of(v->name), "name");
    CHECK(!group_add(w.c, v, alice->user));
    group_rename(w.c, v, STR("name"));
    CHECK_INT(w.c->pending_n, 0); /* nothing was recorded */
    silent(alice);
    group_rename(w.c, v, STR("other"));
    CHECK_INT(w.c->pending_n, 1);
    silent(alice);
    end();
}

/* --- sending --------------------------------------------------------------------------------- */

TEST(chat_private)
{
    begin(NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob"), *carol = enters("carol");

    sends(alice, "bob", "hi", "m1");
    hears_chat(bob, "alice", "bob", "hi", "m1", 1);
    hears_ack(alice, 10000, "m1", 1);
    now += 1000;
    sends(bob, "alice", "hello", "m2"); /* the same conversation */
    hears_chat(alice, "bob", "alice", "hello", "m2", 2);
    hears_ack(bob, 10000, "m2", 2);
    sends(carol, "bob", "hey", "m3"); /* another one */
    hears_chat(bob, "carol", "bob", "hey", "m3", 1);
    hears_ack(carol, 10000, "m3", 1);
    sends(alice, "nobody", "hm", "m4");
    hears_ack(alice, 10001, "m4", 1);
    goes(bob);
    sends(alice, "bob", "gone?", "m5");
    hears_ack(alice, 10001, "m5", 3);
    silent(alice);
    silent(carol);
    CHECK_INT(w.j->stats.messages, 5);
    end();
}

TEST(chat_private_other_connections)
{
    begin(NULL);
    struct conn *desk = enters("alice"), *phone = enters_by(PROTO_WS, "alice");
    struct conn *bob = enters("bob");
    sends(desk, "bob", "hi", "m1");
    hears_chat(phone, "alice", "bob", "hi", "m1", 1);
    hears_chat(bob, "alice", "bob", "hi", "m1", 1);
    hears_ack(desk, 10000, "m1", 1);
    silent(desk);
    silent(phone);
    end();
}

TEST(chat_private_to_oneself)
{
    begin(NULL);
    struct conn *desk = enters("alice"), *phone = enters("alice");
    sends(desk, "alice", "note", "m1");
    hears_chat(desk, "alice", "alice", "note", "m1", 1);
    hears_ack(desk, 10000, "m1", 1);
    hears_chat(phone, "alice", "alice", "note", "m1", 1);
    silent(desk);
    silent(phone);
    end();
}

TEST(chat_group)
{
    begin(NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob"), *phone = enters_by(PROTO_WS, "bob");
    struct conn *carol = enters("carol");
    joins(alice, "g");
    joins(bob, "g");

    sends(alice, "#g", "hi all", "m1");
    hears_chat(alice, "alice", "#g", "hi all", "m1", 1); /* one's own copy before the ack */
    hears_ack(alice, 10000, "m1", 1);
    hears_chat(bob, "alice", "#g", "hi all", "m1", 1);
    hears_chat(phone, "alice", "#g", "hi all", "m1", 1);
    silent(bob);
    silent(phone);
    silent(carol);
    sends(carol, "#g", "me too", "m2");
    hears_code(carol, 12, 10024);
    sends(carol, "#nosuch", "me too", "m3");
    hears_code(carol, 12, 10024);
    goes(bob);
    goes(phone);
    quiet();
    sends(alice, "#g", "anyone?", "m4"); /* nobody but himself: still sent, and numbered on */
    hears_chat(alice, "alice", "#g", "anyone?", "m4", 2);
    hears_ack(alice, 10000, "m4", 2);
    CHECK(group_find(&w.c->roster, STR("nosuch")) == NULL);
    end();
}

TEST(chat_group_open)
{
    begin("jim.group.open=on", NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");
    joins(bob, "g");
    sends(alice, "#g", "from outside", "m1");
    hears_chat(bob, "alice", "#g", "from outside", "m1", 1);
    hears_ack(alice, 10000, "m1", 1);
    silent(alice); /* no member, no copy */
    sends(alice, "#new", "hello?", "m2");
    hears_ack(alice, 10000, "m2", 1);
    end();
}

/* However many receive it, there is one struct msg, so that each wire format is encoded once. */
TEST(chat_group_shares_the_message)
{
    begin(NULL);
    struct conn *c[6];
    for (int i = 0; i < 6; i++) {
        char who[2] = {(char)('a' + i), '\0'};
        c[i] = enters_by(i % 2 ? PROTO_WS : PROTO_TCP, who);
        joins(c[i], "g");
    }
    sends(c[0], "#g", "x", "m1");
    const struct msg *m = c[0]->out->entry[c[0]->out->head].msg;
    for (int i = 0; i < 6; i++)
        CHECK(c[i]->out->entry[c[i]->out->head].msg == m);
    CHECK_INT(m->refs, 6);
    end();
}

TEST(chat_from_is_the_session)
{
    begin(NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");
    says(alice, 11, "{'chatType':2,'to':'bob','from':'carol','content':'x','id':'1','seq':99}");
    hears_chat(bob, "alice", "bob", "x", "1", 1);
    hears_ack(alice, 10000, "1", 1);
    end();
}

/* What is for one person is not passed off as a group's: who reads would put it, and its number,
 * among what the group has said. `to` beside a group is passed on: J-IM's own client sends it. */
TEST(chat_private_names_no_group)
{
    begin(NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");
    joins(alice, "g");
    joins(bob, "g");
    says(alice, 11, "{'chatType':2,'to':'bob','groupId':'g','content':'x','id':'1'}");
    hears_chat(bob, "alice", "bob", "x", "1", 1);
    hears_ack(alice, 10000, "1", 1);
    says(alice, 11, "{'chatType':2,'to':'bob','group_id':{'a':1},'content':'x','id':'2'}");
    hears_chat(bob, "alice", "bob", "x", "2", 2);
    hears_ack(alice, 10000, "2", 2);
    says(alice, 11, "{'chatType':1,'to':'bob','groupId':'g','content':'x','id':'3'}");
    hears(bob, "{'command':11,'data':{'chatType':1,'content':'x','createTime':@,'from':'alice',"
               "'groupId':'g','id':'3','seq':1,'to':'bob'}}");
    end();
}

/* What is passed on: known members, completed and in order; the rest is dropped. */
TEST(chat_fields)
{
    begin(NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");
    says(alice, 11, "{'to':'bob','chatType':'2','msgType':'77','cmd':'11','id':'1','content':'x',"
                    "'unknown':1,'extras':{'z':[1,{'y':null}],'a':'b'},'from':null,"
                    "'@type':'evil'}");
    hears(bob, "{'command':11,'data':{'chatType':2,'cmd':11,'content':'x','createTime':@,"
               "'extras':{'z':[1,{}],'a':'b'},'from':'alice','id':'1','msgType':77,'seq':1,"
               "'to':'bob'}}");
    quiet();
    says(alice, 11, "{'to':'bob','chatType':2.0,'msgType':-3,'id':7}");
    hears(bob, "{'command':11,'data':{'chatType':2,'createTime':@,'from':'alice','id':'7',"
               "'msgType':-3,'seq':2,'to':'bob'}}");
    hears_ack(alice, 10000, "7", 2);
    says(alice, 11, "{'to':'bob','chatType':2,'content':12.50,'id':'8'}");
    hears(bob, "{'command':11,'data':{'chatType':2,'content':'12.50','createTime':@,"
               "'from':'alice','id':'8','seq':3,'to':'bob'}}");
    quiet();
    says(alice, 11, "{'to':'bob','chatType':2,'content':'','id':'9'}");
    hears_chat(bob, "alice", "bob", "", "9", 4);
    quiet();
    says(alice, 11, "{'to':'bob','chatType':2,'content':'a\\u0022\\n\\\\\\u0001\\u4e2d\\/\\u2028',"
                    "'id':'10'}");
    hears_chat(bob, "alice", "bob", "a\\'\\n\\\\\\u0001中/\\u2028", "10", 5);
    end();
}

TEST(chat_refused)
{
    static const struct {
        const char *json;
        int code;
    } cases[] = {
        {"{'to':'bob','content':'x'}", 10002},
        {"{'chatType':0,'to':'bob','content':'x'}", 10002},
        {"{'chatType':3,'to':'bob','content':'x'}", 10002},
        {"{'chatType':-1,'to':'bob'}", 10002},
        {"{'chatType':'x','to':'bob'}", 10002},
        {"{'chatType':[2],'to':'bob'}", 10002},
        {"{'chatType':'','to':'bob'}", 10002},
        {"{'chatType':4294967298,'to':'bob'}", 10002},
        {"{'chatType':2,'content':'x'}", 10002},
        {"{'chatType':2,'to':''}", 10002},
        {"{'chatType':2,'to':'  '}", 10002},
        {"{'chatType':2,'to':'a\\nb'}", 10002},
        {"{'chatType':2,'to':['bob','carol']}", 10002},
        {"{'chatType':2,'groupId':'g'}", 10002},
        {"{'chatType':2,'to':'01234567890123456789012345678901234567890123456789012345678901234'}",
         10002},
        {"{'chatType':1,'to':'bob'}", 10002},
        {"{'chatType':1,'groupId':''}", 10002},
        {"{'chatType':1,'groupId':['g']}", 10002},
        {"{'chatType':1,'groupId':'not his'}", 10024},
        {"{'chatType':2,'to':'bob','msgType':'x'}", 10002},
        {"{'chatType':2,'to':'bob','msgType':{}}", 10002},
        {"{'chatType':2,'to':'bob','extras':'x'}", 10002},
        {"{'chatType':2,'to':'bob','extras':[1]}", 10002},
    };

    begin(NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");
    joins(alice, "g");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        says(alice, 11, cases[i].json);
        hears_code(alice, 12, cases[i].code);
        silent(alice);
        silent(bob);
    }
    sends(alice, "bob", "the first", "1"); /* no number was used up */
    hears_chat(bob, "alice", "bob", "the first", "1", 1);
    hears_ack(alice, 10000, "1", 1);
    sends(alice, "#g", "the first", "1");
    hears_chat(alice, "alice", "#g", "the first", "1", 1);
    CHECK_INT(w.c->roster.users.count, 2);
    end();
}

/* {"chatType":2,"to":"bob","content":unit repeated}, and what is answered. */
static void
sends_long(struct conn *c, const char *unit, size_t count, int code)
{
    struct buf b = {0};

    buf_printf(&b, "{\"chatType\":2,\"to\":\"bob\",\"content\":\"");
    for (size_t i = 0; i < count; i++)
        buf_add(&b, unit, strlen(unit));
    buf_printf(&b, "\"}");
    CHECK(chat_command(w.c, c, 11, 0, (struct str){b.p, b.len}));
    buf_free(&b);
    if (code != 10000) {
        hears_code(c, 12, code);
        return;
    }
    const struct msg *m = next_message(c, "an ack", __LINE__);
    CHECK(m->len > 60 && memcmp(m->data, "{\"code\":10000,\"command\":12", 26) == 0);
    pop(c, true);
}

/* The limit is in bytes of the text itself, however it was escaped. */
TEST(chat_message_max)
{
    begin("jim.message.max=600", NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");

    sends_long(alice, "x", 600, 10000);
    sends_long(alice, "x", 601, 10025);
    sends_long(alice, "中", 200, 10000);
    sends_long(alice, "中", 201, 10025);
    sends_long(alice, "\\u4e2d", 200, 10000);
    sends_long(alice, "\\u4e2d", 201, 10025);
    sends_long(alice, "\\n", 600, 10000);
    sends_long(alice, "\\n", 601, 10025);
    sends_long(alice, "\\u0041", 600, 10000);
    sends_long(alice, "\\ud83d\\ude00", 150, 10000);
    sends_long(alice, "\\ud83d\\ude00", 151, 10025);
    quiet();
    sends(alice, "bob", "x", "1");
    hears_chat(bob, "alice", "bob", "x", "1", 7);
    end();
}

TEST(chat_message_ids)
{
    char id[200], want[600];

    begin(NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");
    sends(alice, "bob", "x", NULL);
    hears_chat(bob, "alice", "bob", "x", "^", 1);
    hears_ack(alice, 10000, "^", 1);
    says(alice, 11, "{'chatType':2,'to':'bob','content':'x','id':''}");
    hears_chat(bob, "alice", "bob", "x", "^", 2);
    hears_ack(alice, 10000, "^", 2);
    says(alice, 11, "{'chatType':2,'to':'bob','content':'x','id':'a\\u0022\\\\\\nb'}");
    hears_chat(bob, "alice", "bob", "x", "a\\'\\\\\\nb", 3);
    hears_ack(alice, 10000, "a\\'\\\\\\nb", 3);
    memset(id, 'i', sizeof id);
    id[MAX_MESSAGE_ID] = '\0';
    sends(alice, "bob", "x", id);
    snprintf(want, sizeof want, "{'code':10000,'command':12,'data':{'createTime':@,'id':'%s',"
                                "'seq':4},~}", id);
    hears(alice, want);
    id[MAX_MESSAGE_ID] = 'i';
    id[MAX_MESSAGE_ID + 1] = '\0';
    sends(alice, "bob", "x", id);
    hears_code(alice, 12, 10002);
    end();
}

TEST(chat_message_ids_differ)
{
    enum { N = 500 };
    static char seen[N][33];

    begin(NULL);
    struct conn *alice = enters("alice");
    for (int i = 0; i < N; i++) {
        sends(alice, "bob", "x", NULL);
        const struct msg *m = next_message(alice, "an ack", __LINE__);
        const char *at = strstr(m->data, "\"id\":\"");
        CHECK(at != NULL);
        memcpy(seen[i], at + 6, 32);
        pop(alice, true);
    }
    qsort(seen, N, sizeof seen[0], compare_text);
    for (int i = 1; i < N; i++)
        CHECK(strcmp(seen[i - 1], seen[i]) != 0);
    end();
}

/* The client's time counts up to five minutes off, then the server's. */
TEST(chat_create_time)
{
    static const struct {
        int64_t off;
        bool kept;
    } cases[] = {{0, true}, {-1, true}, {1, true}, {-300000, true}, {300000, true},
                 {-300001, false}, {300001, false}, {-NOW, false}, {-NOW + 1, false},
                 {NOW, false}, {-2 * NOW, false}, {INT64_MAX - NOW, false}};
    static const char *const others[] = {"'createTime':'x'", "'createTime':[1]", "'createTime':''",
                                         "'createTime':null", "'createTime':1e30", "'x':1"};
    char json[200], want[300];

    begin(NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int form = 0; form < 2; form++) {
            const char *quote = form ? "'" : "";
            long long stated = (long long)(now + cases[i].off);
            long long counts = cases[i].kept ? stated : (long long)now;
            snprintf(json, sizeof json,
                     "{'chatType':2,'to':'bob','id':'%zu%d','createTime':%s%lld%s}", i, form, quote,
                     stated, quote);
            says(alice, 11, json);
            snprintf(want, sizeof want, "{'code':10000,'command':12,'data':{'createTime':%lld,"
                                        "'id':'%zu%d','seq':%zu},~}", counts, i, form,
                     2 * i + (size_t)form + 1);
            hears(alice, want);
            snprintf(want, sizeof want, "{'command':11,'data':{'chatType':2,'createTime':%lld,"
                                        "'from':'alice','id':'%zu%d','seq':%zu,'to':'bob'}}",
                     counts, i, form, 2 * i + (size_t)form + 1);
            hears(bob, want);
        }
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        snprintf(json, sizeof json, "{'chatType':2,'to':'bob','id':'o%zu',%s}", i, others[i]);
        says(alice, 11, json);
        char id[8];
        snprintf(id, sizeof id, "o%d", (int)i);
        hears_ack(alice, 10000, id, (int)(2 * sizeof cases / sizeof cases[0] + i + 1));
    }
    end();
}

TEST(chat_stopping)
{
    begin(NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");
    sends(alice, "bob", "x", "1");
    quiet();
    w.c->stopping = true;
    sends(alice, "bob", "y", "2");
    hears_code(alice, 12, 10028);
    sends(alice, "bob", "x", "1"); /* what was accepted before stays accepted */
    hears_ack(alice, 10000, "1", 1);
    silent(bob);
    end();
}

/* --- retries --------------------------------------------------------------------------------- */

TEST(chat_retry)
{
    begin(NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");
    sends(alice, "bob", "hi", "m1");
    hears_chat(bob, "alice", "bob", "hi", "m1", 1);
    hears_ack(alice, 10000, "m1", 1);
    int64_t sent = now;
    now += HOUR;
    sends(alice, "bob", "hi", "m1");
    now = sent; /* the time of the first */
    hears_ack(alice, 10000, "m1", 1);
    now += HOUR;
    sends(alice, "bob", "other content", "m1");
    now = sent;
    hears_ack(alice, 10000, "m1", 1);
    silent(bob);
    goes(bob); /* the code says how it is today */
    sends(alice, "bob", "hi", "m1");
    hears_ack(alice, 10001, "m1", 1);
    bob = enters("bob");
    sends(alice, "bob", "hi", "m1");
    hears_ack(alice, 10000, "m1", 1);
    silent(bob);
    sends(alice, "bob", "next", "m2"); /* and no number was used up */
    hears_chat(bob, "alice", "bob", "next", "m2", 2);
    CHECK_INT(w.j->stats.retries, 4);
    CHECK_INT(w.j->stats.messages, 2);
    end();
}

TEST(chat_retry_is_of_one_user_and_conversation)
{
    begin(NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob"), *carol = enters("carol");
    joins(alice, "g");
    joins(carol, "g");
    sends(alice, "bob", "1", "m");
    hears_chat(bob, "alice", "bob", "1", "m", 1);
    hears_ack(alice, 10000, "m", 1);
    sends(alice, "carol", "2", "m"); /* another conversation */
    hears_chat(carol, "alice", "carol", "2", "m", 1);
    hears_ack(alice, 10000, "m", 1);
    sends(bob, "alice", "3", "m"); /* another user, the same conversation */
    hears_chat(alice, "bob", "alice", "3", "m", 2);
    hears_ack(bob, 10000, "m", 2);
    sends(alice, "#g", "4", "m");
    hears_chat(alice, "alice", "#g", "4", "m", 1);
    hears_ack(alice, 10000, "m", 1);
    hears_chat(carol, "alice", "#g", "4", "m", 1);
    sends(carol, "#g", "5", "m");
    hears_chat(carol, "carol", "#g", "5", "m", 2);
    hears_ack(carol, 10000, "m", 2);
    quiet();
    struct conn *phone = enters("alice"); /* the same user from elsewhere */
    sends(phone, "bob", "1", "m");
    hears_ack(phone, 10000, "m", 1);
    silent(bob);
    sends(phone, "#g", "4", "m");
    hears_ack(phone, 10000, "m", 1);
    silent(phone);
    silent(carol);
    sends(alice, "bob", "6", "M"); /* ids have a case */
    hears_chat(bob, "alice", "bob", "6", "M", 3);
    hears_ack(alice, 10000, "M", 3);
    sends(alice, "bob", "7", "n"); /* where the last one went, then elsewhere */
    hears_chat(bob, "alice", "bob", "7", "n", 4);
    hears_ack(alice, 10000, "n", 4);
    sends(alice, "carol", "8", "n");
    hears_chat(carol, "alice", "carol", "8", "n", 2);
    hears_ack(alice, 10000, "n", 2);
    end();
}

/* An id is forgotten after 24 hours, whether or not something was said meanwhile. */
TEST(chat_retry_within_a_day)
{
    begin(NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");
    sends(alice, "bob", "hi", "m1");
    quiet();
    now += 24 * (int64_t)HOUR - 2000;
    sends(alice, "bob", "hi", "m1");
    silent(bob);
    CHECK_INT(w.j->stats.retries, 1);
    end();
}

TEST(chat_retry_after_a_day)
{
    begin(NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");
    sends(alice, "bob", "hi", "m1");
    quiet();
    now += 24 * (int64_t)HOUR + 2000;
    sends(alice, "bob", "hi", "m1");
    hears_chat(bob, "alice", "bob", "hi", "m1", 2);
    hears_ack(alice, 10000, "m1", 2);
    end();
}

TEST(chat_retry_after_a_day_of_talk)
{
    begin(NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");
    sends(alice, "bob", "hi", "m1");
    now += 24 * (int64_t)HOUR + 2000;
    sends(alice, "bob", "something", "m2");
    quiet();
    sends(alice, "bob", "hi", "m1");
    hears_chat(bob, "alice", "bob", "hi", "m1", 3);
    hears_ack(alice, 10000, "m1", 3);
    sends(alice, "bob", "hi", "m1"); /* and is remembered anew */
    hears_ack(alice, 10000, "m1", 3);
    silent(bob);
    end();
}

/* The table is bounded: the oldest is forgotten first. */
TEST(chat_retry_table)
{
    char id[20];

    begin(NULL);
    struct conn *alice = enters("alice");
    for (int i = 0; i < MAX_RETRY + 10; i++) {
        snprintf(id, sizeof id, "m%d", i);
        sends(alice, "bob", "x", id);
        forget_output(alice, true);
    }
    CHECK_INT(w.c->retries.count, MAX_RETRY);
    sends(alice, "bob", "x", "m10");
    hears_ack(alice, 10001, "m10", 11);
    sends(alice, "bob", "x", "m9");
    hears_ack(alice, 10001, "m9", MAX_RETRY + 11);
    end();
}

/* --- rate ------------------------------------------------------------------------------------ */

/* --- comings and goings of somebody in many groups -------------------------------------------- */

enum { ROOMS = 12, GUESTS = 190 }; /* together more than one turn's work, each less */

/* A turn of the server: of all that is to be told, a share. */
static void
announce_some(void)
{
    w.c->told = 0;
    group_announce(w.c);
}

static void
guests_enter(struct conn *guest[GUESTS])
{
    char groups[200] = "jim.login.groups=", name[16];

    for (int i = 0; i < ROOMS; i++)
        snprintf(groups + strlen(groups), 16, "%sr%d:R", i == 0 ? "" : ",", i);
    begin(groups, NULL);
    for (int i = 0; i < GUESTS; i++) {
        snprintf(name, sizeof name, "u%d", i);
        guest[i] = enters(name);
        while (deliver_waits(w.c))
            announce_some();
    }
    commit();
    quiet();
    announce_some();
}

/* Each has heard so many comings and goings, and nothing else. */
static void
guests_heard(struct conn *guest[GUESTS], int came, int went)
{
    for (int i = 0; i < GUESTS; i++) {
        int n[2] = {0, 0};
        while (has_something(guest[i])) {
            int command = guest[i]->out->entry[guest[i]->out->head].msg->command;
            CHECK(command == CMD_JOIN_NOTIFY || command == CMD_EXIT_NOTIFY);
            n[command == CMD_EXIT_NOTIFY]++;
            pop(guest[i], true);
        }
        CHECK_INT(n[0], came);
        CHECK_INT(n[1], went);
    }
}

TEST(chat_presence_in_shares)
{
    static struct conn *guest[GUESTS];
    int turns = 0;

    guests_enter(guest);
    struct conn *alice = enters("alice");
    for (int i = 0; i < GUESTS; i++)
        silent(guest[i]); /* not in the turn of her login */
    for (; deliver_waits(w.c); turns++)
        announce_some();
    CHECK(turns > ROOMS * GUESTS / (MAX_SLICE + GUESTS));
    guests_heard(guest, ROOMS, 0);
    goes(alice);
    announce_some();
    alice = enters("alice"); /* she is back before all know that she went */
    while (deliver_waits(w.c))
        announce_some();
    guests_heard(guest, ROOMS, ROOMS);
    goes(alice);
    announce_some();
    alice = enters("alice");
    says(alice, 21, "{'groupId':'r3'}");
    commit();
    goes(alice);
    while (deliver_waits(w.c))
        announce_some();
    guests_heard(guest, 0, ROOMS); /* that she was back for a moment nobody need know */
    end();
}

TEST(chat_presence_of_many_in_one_turn)
{
    static struct conn *guest[GUESTS];
    struct conn *c[2];

    guests_enter(guest);
    for (int i = 0; i < ROOMS; i++) {
        char text[40];
        snprintf(text, sizeof text, "{'groupId':'r%d'}", i);
        for (int k = 0; k < GUESTS && i % 2 == 0; k++)
            says(guest[k], 21, text);
    }
    commit();
    quiet();
    announce_some();
    c[0] = enters("alice"); /* half a turn's work each, and more */
    guests_heard(guest, ROOMS / 2, 0);
    c[1] = enters("bob");
    for (int i = 0; i < GUESTS; i++)
        silent(guest[i]);
    goes(c[0]); /* this had its turn's share, too */
    while (deliver_waits(w.c))
        announce_some();
    guests_heard(guest, ROOMS / 2, ROOMS / 2);
    end();
}

/* --- large groups: the fan-out is a work of several turns ------------------------------------- */

enum { MULTITUDE = 1500 }; /* more than one turn's share, which counts members and connections */

static void
crowd_enters(struct conn *crowd[MULTITUDE])
{
    char name[16];

    begin("jim.login.groups=hot", "jim.group.notify.max=0", NULL);
    for (int i = 0; i < MULTITUDE; i++) {
        snprintf(name, sizeof name, "u%d", i);
        crowd[i] = enters(name);
    }
}

/* How many copies of message `seq` a connection has got; all that it has got is heard. */
static int
copies(struct conn *c, uint64_t seq)
{
    int n = 0;

    while (has_something(c)) {
        const struct msg *m = c->out->entry[c->out->head].msg;
        n += m->command == CMD_CHAT && m->chat_seq == seq;
        pop(c, true);
    }
    return n;
}

TEST(chat_fan_in_shares)
{
    static struct conn *crowd[MULTITUDE];
    int got = 0, turns = 0;

    crowd_enters(crowd);
    sends(crowd[0], "#hot", "x", "m1");
    for (int i = 0; i < MULTITUDE; i++)
        silent(crowd[i]); /* not in the turn of who sent it */
    while (w.c->wave_n > 0) {
        CHECK(crowd[0]->deferred == 1);
        deliver_waves(w.c);
        turns++;
    }
    CHECK(turns >= 2 * MULTITUDE / MAX_SLICE);
    CHECK(has_something(crowd[0]));
    hears_chat(crowd[0], "u0", "#hot", "x", "m1", 1);
    hears_ack(crowd[0], 10000, "m1", 1); /* behind his own copy, and when all have theirs */
    for (int i = 1; i < MULTITUDE; i++)
        got += copies(crowd[i], 1);
    CHECK_INT(got, MULTITUDE - 1);
    end();
}

TEST(chat_fan_members_come_and_go)
{
    static struct conn *crowd[MULTITUDE];
    struct conn *late[20];
    char name[16];

    crowd_enters(crowd);
    sends(crowd[0], "#hot", "x", "m1");
    struct conn *early = enters("early"); /* before the walk begins, but after it was safe */
    deliver_waves(w.c);
    CHECK(w.c->wave_n == 1);
    for (int i = 1; i < MULTITUDE; i += 3) { /* some who have it, some who have not */
        goes(crowd[i]);
        crowd[i] = NULL;
    }
    for (int i = 0; i < 20; i++) {
        snprintf(name, sizeof name, "late%d", i);
        late[i] = enters(name);
    }
    crowd[1] = enters("u1"); /* gone and back: it is one of the messages he has missed */
    while (w.c->wave_n > 0)
        deliver_waves(w.c);
    for (int i = 2; i < MULTITUDE; i++)
        if (crowd[i] != NULL)
            CHECK_INT(copies(crowd[i], 1), 1);
    for (int i = 0; i < 20; i++)
        silent(late[i]);
    silent(early);
    silent(crowd[1]);
    sends(crowd[0], "#hot", "y", "m2");
    while (w.c->wave_n > 0)
        deliver_waves(w.c);
    for (int i = 0; i < 20; i++)
        CHECK_INT(copies(late[i], 2), 1);
    CHECK_INT(copies(early, 2), 1);
    end();
}

TEST(chat_fan_order)
{
    static struct conn *crowd[MULTITUDE];

    crowd_enters(crowd);
    struct conn *a = crowd[0], *b = crowd[1], *c = crowd[2];
    sends(a, "#hot", "first", "m1");
    sends(a, "u1", "mine", "m2");
    sends(b, "#hot", "second", "m3");
    sends(c, "u5", "theirs", "m4"); /* has nothing to do with it: is not held up */
    hears_chat(crowd[5], "u2", "u5", "theirs", "m4", 1);
    hears_ack(c, 10000, "m4", 1);
    CHECK_INT(w.c->wave_n, 3);
    while (w.c->wave_n > 0)
        deliver_waves(w.c);
    hears_chat(a, "u0", "#hot", "first", "m1", 1); /* answers in the order of what was sent */
    hears_ack(a, 10000, "m1", 1);
    hears_ack(a, 10000, "m2", 1);
    hears_chat(a, "u1", "#hot", "second", "m3", 2);
    silent(a);
    hears_chat(b, "u0", "#hot", "first", "m1", 1);
    hears_chat(b, "u0", "u1", "mine", "m2", 1);
    hears_chat(b, "u1", "#hot", "second", "m3", 2);
    hears_ack(b, 10000, "m3", 2);
    end();
}

/* Messages to a group stay in order also when it shrinks below what is called large meanwhile. */
TEST(chat_fan_order_in_a_group_that_shrinks)
{
    static struct conn *crowd[MULTITUDE];

    crowd_enters(crowd);
    sends(crowd[0], "#hot", "first", "m1");
    for (int i = 10; i < MULTITUDE; i++)
        goes(crowd[i]);
    sends(crowd[1], "#hot", "second", "m2");
    silent(crowd[2]);
    while (w.c->wave_n > 0)
        deliver_waves(w.c);
    hears_chat(crowd[2], "u0", "#hot", "first", "m1", 1);
    hears_chat(crowd[2], "u1", "#hot", "second", "m2", 2);
    end();
}

enum { GANG = 40 }; /* members of a large group: above DELIVER_DIRECT */

static void
gang_enters(struct conn *gang[GANG])
{
    char name[16];

    for (int i = 0; i < GANG; i++) {
        snprintf(name, sizeof name, "u%d", i);
        gang[i] = enters_by(i % 2 == 0 ? PROTO_TCP : PROTO_WS, name);
    }
}

static const struct msg *
first_of(const struct conn *c)
{
    return c->out->entry[c->out->head].msg;
}

/* What waits for a group comes to each as one entry; to who came meanwhile, what came after him. */
TEST(chat_fan_together)
{
    struct conn *gang[GANG];

    begin("jim.login.groups=hot", "jim.group.notify.max=0", NULL);
    gang_enters(gang);
    sends(gang[0], "#hot", "one", "m1");
    sends(gang[1], "#hot", "two", "m2");
    struct conn *late = enters("late");
    sends(gang[0], "#hot", "three", "m3");
    uint64_t encoded = w.j->stats.encoded;
    deliver_waves(w.c);
    CHECK_INT(w.c->wave_n, 0);
    CHECK_INT(w.j->stats.encoded - encoded, 3 * 2 + 3); /* each for both protocols; answers */
    CHECK(first_of(gang[10]) == first_of(gang[38])); /* one for all who speak it */
    CHECK(first_of(gang[11]) == first_of(gang[39]) && first_of(gang[11]) != first_of(gang[10]));
    CHECK_INT(late->out->n, 1);
    hears_chat(late, "u0", "#hot", "three", "m3", 3);
    silent(late);
    for (int i = 0; i < GANG; i++) {
        CHECK_INT(gang[i]->out->n, i < 2 ? 2 : 1);
        hears_chat(gang[i], "u0", "#hot", "one", "m1", 1);
        hears_chat(gang[i], "u1", "#hot", "two", "m2", 2);
        hears_chat(gang[i], "u0", "#hot", "three", "m3", 3);
    }
    hears_ack(gang[0], 10000, "m1", 1);
    hears_ack(gang[0], 10000, "m3", 3);
    hears_ack(gang[1], 10000, "m2", 2);
    CHECK_INT(w.j->stats.delivered, 3 * GANG + 1);
    end();
}

/* Other groups' messages and very long ones are not put together, and stay in order. */
TEST(chat_fan_together_of_one_group)
{
    struct conn *gang[GANG];
    static char text[MAX_LINE];

    begin("jim.login.groups=hot,cold", "jim.group.notify.max=0", NULL);
    gang_enters(gang);
    memset(text, 'x', 500);
    sends(gang[0], "#hot", "one", "m1");
    sends(gang[0], "#cold", "two", "m2");
    sends(gang[0], "#hot", "three", "m3");
    sends(gang[0], "#hot", "four", "m4");
    for (int i = 0; i < 40; i++)
        sends(gang[2], "#hot", text, NULL); /* more than one bundle */
    while (w.c->wave_n > 0)
        deliver_waves(w.c);
    CHECK_INT(gang[5]->out->n, 4); /* one; two; three and four and as many as fit; the rest */
    hears_chat(gang[5], "u0", "#hot", "one", "m1", 1);
    hears_chat(gang[5], "u0", "#cold", "two", "m2", 1);
    hears_chat(gang[5], "u0", "#hot", "three", "m3", 2);
    hears_chat(gang[5], "u0", "#hot", "four", "m4", 3);
    for (uint64_t seq = 4; seq < 44; seq++) {
        CHECK(has_something(gang[5]));
        CHECK_INT(first_of(gang[5])->chat_seq, seq);
        pop(gang[5], true);
    }
    silent(gang[5]);
    end();
}

/* Who has no room for a bundle gets all of it from the store. */
TEST(chat_fan_together_to_one_behind)
{
    struct conn *gang[GANG];

    begin("jim.login.groups=hot", "jim.group.notify.max=0", "jim.store=on", "jim.queue.max=65536",
          NULL);
    gang_enters(gang);
    sends_bytes(gang[0], "u5", 65000);
    commit();
    for (int i = 0; i < 3; i++)
        sends(gang[1], "#hot", "a text of some length, so that three of them are what does not fit",
              NULL);
    commit();
    CHECK_INT(gang[5]->out->n, 1);
    CHECK_INT(gang[5]->out->lags.n, 1);
    CHECK_INT(lags_first(&gang[5]->out->lags)->seq, 1);
    CHECK_INT(first_of(gang[7])->chats, 2);
    end();
}

static void
count_delivered(void *arg, struct jim *j, struct jim_text user, struct jim_text group, uint64_t seq)
{
    (void)j;
    (void)user;
    CHECK(group.n == 3 && (seq == 1 || seq == 2));
    *(uint64_t *)arg += seq;
}

/* A program that is told of what was delivered is told of each message. */
TEST(chat_fan_one_by_one_for_hooks)
{
    struct conn *gang[GANG];
    uint64_t sum = 0;

    begin("jim.login.groups=hot", "jim.group.notify.max=0", NULL);
    jim_on_delivered(w.j, count_delivered, &sum);
    w.c->hooks = w.j->hooks;
    gang_enters(gang);
    sends(gang[0], "#hot", "one", "m1");
    sends(gang[1], "#hot", "two", "m2");
    deliver_waves(w.c);
    for (int i = 0; i < GANG; i++) {
        hears_chat(gang[i], "u0", "#hot", "one", "m1", 1);
        if (i == 0)
            hears_ack(gang[i], 10000, "m1", 1);
        hears_chat(gang[i], "u1", "#hot", "two", "m2", 2);
    }
    CHECK_INT(sum, GANG * (1 + 2));
    end();
}

/* A server that stops in the middle of one owes nobody anything. */
TEST(chat_fan_stopped)
{
    static struct conn *crowd[MULTITUDE];

    crowd_enters(crowd);
    sends(crowd[0], "#hot", "x", "m1");
    deliver_waves(w.c);
    CHECK(w.c->wave_n == 1);
    end();
}

TEST(chat_rate)
{
    begin("jim.rate.messages=2", "jim.rate.burst=3", NULL);
    struct conn *c = comes(PROTO_TCP), *other = comes(PROTO_TCP);
    c->read_ms = other->read_ms = 1000000;
    says(c, 5, "{'userId':'alice'}");
    says(c, 13, "");
    sends(c, "bob", "x", "1");
    quiet();
    says(c, 13, "");
    hears_code(c, 13, 10023);
    sends(c, "bob", "x", "2");
    hears_code(c, 12, 10023);
    says(c, 17, "{'userId':'alice'}");
    hears_code(c, 18, 10023);
    says(c, 99, "");
    hears_code(c, 0, 10023);
    says(other, 13, ""); /* each connection has its own */
    hears(other, "{'command':13,'data':{'hbbyte':-128}}");
    c->read_ms += 499;
    says(c, 13, "");
    hears_code(c, 13, 10023);
    c->read_ms += 1;
    says(c, 13, "");
    hears(c, "{'command':13,'data':{'hbbyte':-128}}");
    says(c, 13, "");
    hears_code(c, 13, 10023);
    c->read_ms += 3600000; /* never more than the burst */
    for (int i = 0; i < 3; i++) {
        says(c, 13, "");
        hears(c, "{'command':13,'data':{'hbbyte':-128}}");
    }
    says(c, 13, "");
    hears_code(c, 13, 10023);
    end();
}

TEST(chat_rate_off)
{
    begin("jim.rate.messages=0", "jim.rate.burst=1", NULL);
    struct conn *c = comes(PROTO_TCP);
    for (int i = 0; i < 1000; i++) {
        says(c, 13, "");
        hears(c, "{'command':13,'data':{'hbbyte':-128}}");
    }
    end();
}

/* --- close ----------------------------------------------------------------------------------- */

TEST(chat_close)
{
    static const char *const bodies[] = {"", "{}", "{'userId':null}", "{'userId':'alice'}"};

    begin(NULL);
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        struct conn *c = enters_by(PROTO_WS, "alice");
        says(c, 14, bodies[i]);
        hears_code(c, 14, 10021);
        hears_close(c, WS_NORMAL);
        CHECK(is_closing(c));
        goes(c);
    }
    struct conn *stranger = comes(PROTO_TCP); /* works without a login */
    says(stranger, 14, "{'userId':'alice'}");
    hears_code(stranger, 14, 10024);
    CHECK_INT(stranger->state, CONN_OPEN);
    says(stranger, 14, "");
    hears_code(stranger, 14, 10021);
    CHECK(is_closing(stranger));
    end();
}

TEST(chat_close_all_of_oneself)
{
    begin(NULL);
    struct conn *alice = enters("alice"), *desk = enters("bob"), *phone = enters("bob");
    says(alice, 14, "{'userId':'bob'}");
    hears_code(alice, 14, 10024);
    says(alice, 14, "{'userId':'nobody'}");
    hears_code(alice, 14, 10024);
    CHECK(desk->state == CONN_OPEN && phone->state == CONN_OPEN && alice->state == CONN_OPEN);
    says(desk, 14, "{'userId':'bob'}");
    hears_code(desk, 14, 10021);
    CHECK(is_closing(desk) && is_closing(phone));
    CHECK_INT(alice->state, CONN_OPEN);
    struct conn *third = enters("bob"), *fourth = enters("bob");
    says(third, 14, ""); /* without a name: this one only */
    CHECK(is_closing(third) && fourth->state == CONN_OPEN);
    end();
}

/* --- users ----------------------------------------------------------------------------------- */

TEST(chat_user)
{
    begin("jim.login.groups=100:all", NULL);
    struct conn *bob = enters_by(PROTO_WS, "bob"), *alice = enters("alice");
    goes(bob);
    quiet();
    says(alice, 17, "{'userId':'alice','type':'0'}");
    hears(alice, "{'code':10005,'command':18,'data':{'friends':[],'groups':[{'groupId':'100',"
                 "'name':'all','online':1,'users':[{'nick':'alice','status':'online',"
                 "'terminal':'tcp','userId':'alice'}]}],'nick':'alice','status':'online',"
                 "'terminal':'tcp','userId':'alice'},~}");
    says(alice, 17, "{'userId':'alice','type':1}");
    hears(alice, "{'code':10006,'command':18,'data':{'friends':[],'groups':[{'groupId':'100',"
                 "'name':'all','online':1,'users':[{'nick':'bob','status':'offline',"
                 "'userId':'bob'}]}],'nick':'alice','status':'online','terminal':'tcp',"
                 "'userId':'alice'},~}");
    for (int missing = 0; missing < 2; missing++) { /* type missing is 2 */
        says(alice, 17, missing ? "{'userId':'alice'}" : "{'userid':'alice','type':2}");
        hears(alice, "{'code':10003,'command':18,'data':{'friends':[],'groups':[{'groupId':'100',"
                     "'name':'all','online':1,'users':[{'nick':'alice','status':'online',"
                     "'terminal':'tcp','userId':'alice'},{'nick':'bob','status':'offline',"
                     "'userId':'bob'}]}],'nick':'alice','status':'online','terminal':'tcp',"
                     "'userId':'alice'},~}");
    }
    silent(alice);
    end();
}

TEST(chat_user_alone)
{
    begin(NULL);
    struct conn *alice = enters("alice");
    for (int type = 0; type < 3; type++) { /* arrays even when there is nothing in them */
        static const int code[] = {10005, 10006, 10003};
        char json[80], want[200];
        snprintf(json, sizeof json, "{'userId':'alice','type':%d}", type);
        snprintf(want, sizeof want, "{'code':%d,'command':18,'data':{'friends':[],'groups':[],"
                                    "'nick':'alice','status':'online','terminal':'tcp',"
                                    "'userId':'alice'},~}", code[type]);
        says(alice, 17, json);
        hears(alice, want);
    }
    joins(alice, "g");
    says(alice, 17, "{'userId':'alice','type':1}");
    hears(alice, "{'code':10006,'command':18,'data':{'friends':[],'groups':[{'groupId':'g',"
                 "'name':'g','online':1,'users':[]}],'nick':'alice','status':'online',"
                 "'terminal':'tcp','userId':'alice'},~}");
    end();
}

TEST(chat_user_other)
{
    begin("jim.login.groups=100", NULL);
    struct conn *alice = enters("alice"), *bob = enters_by(PROTO_WS, "bob");
    quiet();
    says(alice, 17, "{'userId':'bob','type':2}");
    hears(alice, "{'code':10003,'command':18,'data':{'nick':'bob','status':'online',"
                 "'terminal':'ws','userId':'bob'},~}");
    goes(bob);
    quiet();
    says(alice, 17, "{'userId':'bob'}");
    hears(alice, "{'code':10003,'command':18,'data':{'nick':'bob','status':'offline',"
                 "'userId':'bob'},~}");
    says(alice, 17, "{'userId':'nobody','type':2}");
    hears_code(alice, 18, 10004);
    sends(alice, "ghost", "written to, but never seen", "1");
    quiet();
    says(alice, 17, "{'userId':'ghost'}");
    hears_code(alice, 18, 10004);
    end();
}

TEST(chat_user_refused)
{
    static const char *const bad[] = {
        "{'type':2}", "{'userId':''}", "{'userId':'alice','type':3}",
        "{'userId':'alice','type':-1}", "{'userId':'alice','type':'x'}",
        "{'userId':'alice','type':[0]}", "{'userId':['alice']}", "{'userId':'Alice'}",
    };

    begin(NULL);
    struct conn *alice = enters("alice");
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        says(alice, 17, bad[i]);
        hears_code(alice, 18, 10004);
    }
    end();
}

/* How many users the answer lists, and what `online` says. */
static void
count_users(struct conn *c, const char *json, size_t users, const char *online)
{
    size_t n = 0;

    says(c, 17, json);
    const struct msg *m = next_message(c, "an answer 18", __LINE__);
    char *text = xstrndup(m->data, m->len);
    for (const char *p = text; (p = strstr(p, "\"nick\"")) != NULL; p++)
        n++;
    CHECK_INT(n, users + 1);
    CHECK(strstr(text, online) != NULL);
    free(text);
    pop(c, true);
}

TEST(chat_user_list_max)
{
    struct conn *c[12];
    char who[16];

    begin("jim.login.groups=100", "jim.group.list.max=4", NULL);
    for (int i = 0; i < 12; i++) {
        snprintf(who, sizeof who, "u%d", i);
        c[i] = enters(who);
    }
    for (int i = 6; i < 12; i++)
        goes(c[i]);
    quiet();
    count_users(c[0], "{'userId':'u0','type':0}", 4, "\"online\":6,");
    count_users(c[0], "{'userId':'u0','type':1}", 4, "\"online\":6,");
    count_users(c[0], "{'userId':'u0','type':2}", 4, "\"online\":6,");
    w.j->opt.list_max = 500;
    count_users(c[0], "{'userId':'u0','type':0}", 6, "\"online\":6,");
    count_users(c[0], "{'userId':'u0','type':1}", 6, "\"online\":6,");
    count_users(c[0], "{'userId':'u0','type':2}", 12, "\"online\":6,");
    w.j->opt.list_max = 0;
    count_users(c[0], "{'userId':'u0','type':2}", 0, "\"online\":6,");
    end();
}

/* --- without a login ------------------------------------------------------------------------- */

TEST(chat_anonymous)
{
    char name[2][17];

    begin("jim.login.required=off", NULL);
    struct conn *bob = enters("bob"), *any[2] = {comes(PROTO_TCP), comes(PROTO_TCP)};
    for (int i = 0; i < 2; i++)
        for (int again = 0; again < 2; again++) {
            says(any[i], 11, "{'chatType':2,'to':'bob','from':'alice','content':'boo'}");
            const struct msg *m = next_message(bob, "a chat", __LINE__);
            const char *from = strstr(m->data, "\"from\":\"");
            CHECK(from != NULL && strspn(from + 8, "0123456789abcdef") == 16);
            if (again)
                CHECK(memcmp(name[i], from + 8, 16) == 0); /* his name as long as he is here */
            snprintf(name[i], sizeof name[i], "%.16s", from + 8);
            pop(bob, true);
            hears_ack(any[i], 10000, "^", again + 1);
        }
    CHECK(strcmp(name[0], name[1]) != 0);
    says(any[0], 11, "{'chatType':1,'groupId':'g','content':'boo'}");
    hears_code(any[0], 12, 10024);
    says(any[0], 17, "{'userId':'bob'}");
    hears(any[0], "{'code':10003,'command':18,'data':{'nick':'bob','status':'online',"
                  "'terminal':'tcp','userId':'bob'},~}");
    says(any[0], 7, "{'groupId':'g'}"); /* nobody can be a member without a name */
    hears(any[0], "{'code':10012,'command':8,~,'result':0}");
    end();
}

/* --- the API's way in ------------------------------------------------------------------------ */

static int
api(struct conn *c, const char *json)
{
    struct request r;
    char *text = quoted(json);

    CHECK(request_parse(&r, str_of(text)));
    int code = send_api(w.c, c, &r);
    free(text);
    return code;
}

TEST(chat_api)
{
    begin(NULL);
    struct conn *alice = enters("alice"), *http = comes(PROTO_HTTP);
    joins(alice, "g");
    CHECK_INT(api(http, "{'chatType':1,'groupId':'g','content':'news','id':'1'}"), 0);
    hears_chat(alice, "system", "#g", "news", "1", 1);
    CHECK_INT(api(http, "{'chatType':2,'to':'alice','from':'bob','content':'x','id':'2'}"), 0);
    hears_chat(alice, "bob", "alice", "x", "2", 1);
    silent(alice);
    CHECK_INT(http->deferred, 0);
    CHECK(has_something(http));
    CHECK_INT(api(http, "{'chatType':1,'groupId':'nosuch','content':'x'}"), 10030);
    CHECK_INT(api(http, "{'chatType':2,'content':'x'}"), 10002);
    CHECK_INT(api(http, "{'chatType':2,'to':'alice','from':'a\\nb'}"), 10002);
    CHECK_INT(api(http, "{'chatType':0,'to':'alice'}"), 10002);
    end();
}

/* A whole call. */
static void
calls(struct conn *c, const char *path, const char *json)
{
    struct http_req r = {.method = STR("POST"), .path = str_of(path)};
    char *text = quoted(json);

    c->loopback = c->keep_alive = true;
    CHECK(api_call(c, &r, str_of(text)));
    free(text);
}

/* Its answer. */
static void
answers_at(int line, struct conn *c, int status, const char *want)
{
    const struct msg *m = next_message(c, want, line);
    const char *body = memmem(m->data, m->len, "\r\n\r\n", 4);

    CHECK_INT(atoi(m->data + strlen("HTTP/1.1 ")), status);
    CHECK(body != NULL);
    body += 4;
    if (!matches(want, body, (size_t)(m->data + m->len - body)))
        test_fail(__FILE__, line, "answered\n  %.*s\ninstead of\n  %s", (int)m->len, m->data, want);
    pop(c, true);
}
#define answers(c, status, want) answers_at(__LINE__, (c), (status), (want))

TEST(chat_api_answers_when_it_is_safe)
{
    begin("jim.store=on", NULL);
    struct conn *http = comes(PROTO_HTTP);
    calls(http, "/api/message/send", "{'chatType':2,'to':['a','b'],'id':'1'}");
    silent(http);
    CHECK_INT(http->deferred, 2);
    commit();
    answers(http, 200, "{'code':10001,'command':12,'data':["
            "{'code':10001,'createTime':@,'id':'1','msg':'offline 用户不在线','seq':1,'to':'a'},"
            "{'code':10001,'createTime':@,'id':'1','msg':'offline 用户不在线','seq':1,'to':'b'}],~}");
    silent(http); /* once */
    calls(http, "/api/group/create", "{'groupId':'g','userId':'a'}");
    silent(http);
    commit();
    answers(http, 200, "{'code':10011,'data':{'groupId':'g','name':'g','online':0,'total':1},~}");
    calls(http, "/api/group/create", "{'groupId':'g','userId':'a'}"); /* nothing to wait for */
    answers(http, 200, "{'code':10011,'data':{'groupId':'g','name':'g','online':0,'total':1},~}");
    CHECK_INT(http->deferred, 0);
    end();
}

TEST(chat_api_while_the_disk_is_full)
{
    begin("jim.store=on", NULL);
    struct conn *http = comes(PROTO_HTTP);
    calls(http, "/api/message/send", "{'chatType':2,'to':['a'],'id':'1'}");
    commit();
    pop(http, true);
    disk.full = true;
    calls(http, "/api/message/send", "{'chatType':2,'to':['a','b'],'id':'1'}");
    commit();
    answers(http, 200, "{'code':10001,'command':12,'data':["
            "{'code':10001,'createTime':@,'id':'1','msg':'offline 用户不在线','seq':1,'to':'a'},"
            "{'code':10027,'msg':'store unavailable 存储不可用','to':'b'}],'failed':1,~}");
    calls(http, "/api/message/send", "{'chatType':2,'to':['b','c']}");
    commit();
    answers(http, 503, "{'code':10027,'command':12,'data':["
            "{'code':10027,'msg':'store unavailable 存储不可用','to':'b'},"
            "{'code':10027,'msg':'store unavailable 存储不可用','to':'c'}],'failed':2,~}");
    calls(http, "/api/group/create", "{'groupId':'g','userId':'a'}");
    commit();
    answers(http, 503, "{'code':10027,~}");
    disk.full = false;
    calls(http, "/api/group/create", "{'groupId':'g','userId':'a'}"); /* so ask again */
    record_save(w.c, 1000);
    commit();
    answers(http, 200, "{'code':10011,'data':{'groupId':'g','name':'g','online':0,'total':1},~}");
    CHECK_INT(w.j->stats.refused_sends[10027 - 10000], 3);
    disk.sync_fails = true;
    calls(http, "/api/group/create", "{'groupId':'h'}");
    commit();
    answers(http, 503, "{'code':10027,~}");
    calls(http, "/api/group/create", "{'groupId':'i'}"); /* nothing is begun that cannot be kept */
    answers(http, 503, "{'code':10027,~}");
    CHECK(group_find(&w.c->roster, STR("i")) == NULL);
    end();
}

TEST(chat_api_forgotten_at_the_stop)
{
    begin("jim.store=on", NULL);
    struct conn *http = comes(PROTO_HTTP), *other = comes(PROTO_HTTP);
    calls(http, "/api/message/send", "{'chatType':2,'to':['a','b','c']}");
    calls(other, "/api/group/create", "{'groupId':'g'}");
    CHECK_INT(http->deferred, 3);
    http->state = other->state = CONN_DEAD; /* gone, and only kept for the answers they are owed */
    input_free(http);
    input_free(other);
    w.conns = 0; /* the server frees them now */
    end();
}

/* --- store: order ---------------------------------------------------------------------------- */

TEST(chat_store_nothing_before_the_commit)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");
    commit();
    sends(alice, "bob", "hi", "m1");
    silent(alice);
    silent(bob);
    CHECK_INT(alice->deferred, 1);
    store_commit(w.j->store); /* on its way is not there */
    silent(bob);
    commit();
    hears_chat(bob, "alice", "bob", "hi", "m1", 1);
    hears_ack(alice, 10000, "m1", 1);
    CHECK_INT(alice->deferred, 0);
    CHECK(alice->resume); /* its waiting input is looked at again */
    end();
}

/* Answers keep the order of the requests: what comes behind a message waits for its ack. */
TEST(chat_store_order)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");
    commit();
    sends(alice, "bob", "1", "m1");
    sends(alice, "bob", "2", "m2"); /* messages may follow one another */
    static const int commands[] = {1, 3, 5, 7, 13, 14, 17, 19, 0, 99};
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        CHECK(!tries(alice, commands[i], "{'userId':'alice','type':0,'groupId':'g'}"));
    CHECK(!tries(alice, -1, "nonsense"));
    CHECK(!tries(alice, 11, "nonsense")); /* a refusal is an answer too */
    CHECK(!tries(alice, 11, "{'chatType':1,'groupId':'not his'}"));
    CHECK(!tries(alice, 11, "{'chatType':9}"));
    silent(alice);
    says(bob, 13, ""); /* others need not wait */
    hears(bob, "{'command':13,'data':{'hbbyte':-128}}");
    commit();
    hears_ack(alice, 10000, "m1", 1);
    hears_ack(alice, 10000, "m2", 2);
    silent(alice);
    says(alice, 13, "");
    hears(alice, "{'command':13,'data':{'hbbyte':-128}}");
    says(alice, 11, "{'chatType':9}");
    hears_code(alice, 12, 10002);
    end();
}

/* A command that had to wait counts once against the rate. */
TEST(chat_store_order_and_rate)
{
    begin("jim.store=on", "jim.rate.messages=1", "jim.rate.burst=4", NULL);
    struct conn *alice = enters("alice");
    commit();
    quiet();
    sends(alice, "bob", "1", "m1");
    CHECK(!tries(alice, 11, "{'chatType':9}"));
    commit();
    hears_ack(alice, 10001, "m1", 1);
    says(alice, 11, "{'chatType':9}");
    hears_code(alice, 12, 10002);
    says(alice, 13, ""); /* login, message, refusal, and this: four */
    hears(alice, "{'command':13,'data':{'hbbyte':-128}}");
    says(alice, 13, "");
    hears_code(alice, 13, 10023);
    end();
}

/* The sender is gone before the commit: his message is not. */
TEST(chat_store_sender_gone)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");
    commit();
    sends(alice, "bob", "last words", "m1");
    breaks(alice);
    commit();
    hears_chat(bob, "alice", "bob", "last words", "m1", 1);
    silent(bob);
    CHECK_INT(alice->deferred, 0);
    end();
}

/* The end comes with answers owed and a batch on its way: nothing is leaked or touched after. */
TEST(chat_store_stopped_in_the_middle)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice");
    commit();
    sends(alice, "bob", "1", "m1");
    sends(alice, "bob", "1", "m1");
    store_commit(w.j->store);
    sends(alice, "bob", "2", "m2");
    CHECK_INT(alice->deferred, 3);
    end();
}

TEST(chat_store_retry_pending)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");
    commit();
    sends(alice, "bob", "hi", "m1");
    sends(alice, "bob", "hi", "m1");
    silent(alice); /* it may not be safer than the first */
    store_commit(w.j->store);
    sends(alice, "bob", "hi", "m1"); /* the batch is on its way, or just done */
    commit();
    hears_chat(bob, "alice", "bob", "hi", "m1", 1);
    silent(bob);
    hears_ack(alice, 10000, "m1", 1);
    hears_ack(alice, 10000, "m1", 1);
    hears_ack(alice, 10000, "m1", 1);
    silent(alice);
    sends(alice, "bob", "hi", "m1"); /* long done: answered at once */
    hears_ack(alice, 10000, "m1", 1);
    end();
}

/* --- store: offline messages ----------------------------------------------------------------- */

TEST(chat_store_offline)
{
    begin("jim.store=on", NULL);
    struct conn *bob = enters("bob");
    joins(bob, "g");
    commit();
    goes(bob);
    struct conn *alice = enters("alice");
    joins(alice, "g");
    sends(alice, "bob", "hi", "m1");
    sends(alice, "#g", "hi all", "m2");
    commit();
    hears_ack(alice, 10001, "m1", 1);
    hears_chat(alice, "alice", "#g", "hi all", "m2", 1);
    hears_ack(alice, 10000, "m2", 1);

    bob = enters("bob");
    commit();
    says(bob, 19, "{'userId':'bob','type':'0'}");
    hears(bob, "{'code':10016,'command':20,'data':{'friends':{'alice':[{'chatType':2,"
               "'content':'hi','createTime':@,'from':'alice','id':'m1','seq':1,'to':'bob'}]},"
               "'groups':{'g':[{'chatType':1,'content':'hi all','createTime':@,'from':'alice',"
               "'groupId':'g','id':'m2','seq':1}]},'userId':'bob'},~}");
    says(bob, 19, "{'userId':'bob','type':0}"); /* both maps, empty too */
    hears(bob, "{'code':10016,'command':20,'data':{'friends':{},'groups':{},'userId':'bob'},~}");
    silent(bob);
    quiet();
    fetches(alice, "{'userId':'alice','type':0}", "10016"); /* nothing of his own */
    end();
}

TEST(chat_store_offline_one)
{
    begin("jim.store=on", NULL);
    struct conn *bob = enters("bob");
    joins(bob, "g");
    joins(bob, "h");
    commit();
    goes(bob);
    struct conn *alice = enters("alice"), *carol = enters("carol");
    joins(alice, "g");
    joins(alice, "h");
    sends(alice, "bob", "x", NULL);
    sends(carol, "bob", "x", NULL);
    sends(alice, "#g", "x", NULL);
    sends(alice, "#h", "x", NULL);
    sends(alice, "#h", "x", NULL);
    commit();
    quiet();
    bob = enters("bob");
    fetches(bob, "{'userId':'bob','type':0,'fromUserId':'carol'}", "10016 carol:1");
    fetches(bob, "{'userId':'bob','type':0,'fromUserId':'carol'}", "10016");
    fetches(bob, "{'userId':'bob','type':0,'fromUserId':'dave'}", "10016");
    fetches(bob, "{'userId':'bob','type':0,'groupId':'h','fromUserId':'alice'}", "10016 #h:1,2");
    fetches(bob, "{'userId':'bob','type':0}", "10016 #g:1 alice:1");
    fetches(bob, "{'userId':'bob','type':0}", "10016");
    end();
}

TEST(chat_store_own_messages_are_not_offline)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");
    commit();
    goes(bob);
    sends(alice, "bob", "1", NULL);
    commit();
    goes(alice);
    bob = enters("bob");
    sends(bob, "alice", "2", NULL); /* before he has fetched the first */
    sends(bob, "alice", "3", NULL);
    commit();
    quiet();
    const struct member *m = member_with(&w.c->roster, bob->user, STR("alice"));
    CHECK(m->cursor == 0 && m->live_lo == 2 && m->live_hi == 3); /* need not be looked at again */
    fetches(bob, "{'userId':'bob','type':0}", "10016 alice:1");
    fetches(bob, "{'userId':'bob','type':0}", "10016");
    goes(bob);
    alice = enters("alice");
    fetches(alice, "{'userId':'alice','type':0}", "10016 bob:2,3");
    end();
}

/* However many they are: an answer reads no more of them than it may. */
TEST(chat_store_own_messages_are_not_read_without_end)
{
    char want[60];

    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice"), *bob;
    sends(alice, "bob", "1", NULL);
    bob = enters("bob");
    for (int i = 0; i < MAX_SCAN + 100; i++) {
        sends(bob, "alice", "x", NULL);
        if (i % 500 != 0)
            continue;
        commit();
        forget_output(alice, true);
        forget_output(bob, false);
    }
    commit();
    breaks(bob);
    sends(alice, "bob", "y", NULL);
    commit();
    forget_output(alice, true);
    bob = enters("bob");
    sends(bob, "alice", "z", NULL); /* from here on what is before it is looked at again */
    commit();
    forget_output(bob, false);
    struct member *m = member_with(&w.c->roster, bob->user, STR("alice"));
    m->cursor = 0; /* nor has he been shown the first */
    fetches(bob, "{'userId':'bob','type':0}", "10016 alice:1 more");
    CHECK_INT(m->cursor, MAX_SCAN + 1);
    snprintf(want, sizeof want, "10016 alice:%d", MAX_SCAN + 102);
    fetches(bob, "{'userId':'bob','type':0}", want);
    end();
}

/* Who makes the server read for nothing uses up his rate. */
TEST(chat_store_reading_in_vain_counts)
{
    static const char *const never = "{'userId':'alice','type':1,'fromUserId':'bob','endTime':%lld,"
                                     "'beginTime':%lld}";
    char json[200];

    begin("jim.store=on", "jim.rate.messages=2", "jim.rate.burst=3", NULL);
    struct conn *alice = enters("alice");
    for (int i = 0; i < 2 * MAX_VAIN; i++) {
        alice->read_ms += 1000;
        sends(alice, "bob", "x", NULL);
    }
    commit();
    alice->read_ms += 1000000;
    forget_output(alice, true);
    snprintf(json, sizeof json, never, (long long)NOW - 1, (long long)NOW - 1);
    fetches(alice, json, "10018"); /* one, and two for reading 200 */
    says(alice, 13, "");
    hears_code(alice, 13, 10023);
    alice->read_ms += 1500;
    for (int i = 0; i < 3; i++) /* those that are found cost nothing more */
        fetches(alice, "{'userId':'alice','type':1,'fromUserId':'bob','offset':198}",
                "10018 bob:199,200");
    end();
}

/* What cannot be read for want of a descriptor has not been delivered, and is no hole. */
TEST(chat_store_no_descriptor_to_read)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice"), *bob;
    sends(alice, "bob", "1", NULL);
    sends(alice, "bob", "2", NULL);
    commit();
    bob = enters("bob");
    disk.no_files = true;
    fetches(bob, "{'userId':'bob','type':0}", "10027");
    fetches(bob, "{'userId':'bob','type':1,'fromUserId':'alice'}", "10027");
    fetches(bob, "{'userId':'bob','type':1,'fromUserId':'alice','beginTime':1}", "10027");
    disk.no_files = false;
    fetches(bob, "{'userId':'bob','type':1,'fromUserId':'alice'}", "10018 alice:1,2");
    fetches(bob, "{'userId':'bob','type':0}", "10016 alice:1,2");
    fetches(bob, "{'userId':'bob','type':0}", "10016");
    end();
}

TEST(chat_store_cursor_moves_when_written)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice");
    sends(alice, "bob", "1", NULL);
    sends(alice, "bob", "2", NULL);
    commit();
    struct conn *bob = enters("bob");
    asks(bob, "{'userId':'bob','type':0}", "10016 alice:1,2");
    breaks(bob); /* before it left */
    bob = enters("bob");
    asks(bob, "{'userId':'bob','type':0}", "10016 alice:1,2");
    struct conn *phone = enters("bob"); /* not written yet: as new for another connection */
    asks(phone, "{'userId':'bob','type':0}", "10016 alice:1,2");
    pop(bob, true);
    fetches(bob, "{'userId':'bob','type':0}", "10016");
    end();
}

/* Two answers under way, the first one lost with its connection. */
TEST(chat_store_cursor_two_connections)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice");
    for (int i = 0; i < 3; i++)
        sends(alice, "bob", "x", NULL);
    commit();
    struct conn *desk = enters("bob"), *phone = enters("bob");
    asks(desk, "{'userId':'bob','type':0}", "10016 alice:1,2,3");
    asks(phone, "{'userId':'bob','type':0}", "10016 alice:1,2,3");
    breaks(desk);
    pop(phone, true);
    fetches(phone, "{'userId':'bob','type':0}", "10016");
    end();
}

TEST(chat_store_live_moves_the_cursor)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");
    joins(bob, "g");
    joins(alice, "g");
    commit();
    sends(alice, "bob", "1", "m1");
    sends(alice, "#g", "1", "m2");
    commit();
    hears_chat(bob, "alice", "bob", "1", "m1", 1);
    hears_chat(bob, "alice", "#g", "1", "m2", 1);
    fetches(bob, "{'userId':'bob','type':0}", "10016");
    sends(alice, "bob", "2", "m3");
    sends(alice, "#g", "2", "m4");
    commit();
    breaks(bob); /* queued, but never left */
    bob = enters("bob");
    fetches(bob, "{'userId':'bob','type':0}", "10016 #g:2 alice:2");
    end();
}

/* New messages come live while older ones still wait: those are not lost with them. */
TEST(chat_store_live_before_offline)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice");
    sends(alice, "bob", "1", NULL);
    sends(alice, "bob", "2", NULL);
    commit();
    struct conn *bob = enters("bob");
    sends(alice, "bob", "3", NULL);
    commit();
    hears_chat(bob, "alice", "bob", "3", "^", 3);
    fetches(bob, "{'userId':'bob','type':0}", "10016 alice:1,2");
    fetches(bob, "{'userId':'bob','type':0}", "10016");
    end();
}

TEST(chat_store_group_since_joining)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");
    joins(alice, "g");
    sends(alice, "#g", "before", NULL);
    commit();
    joins(bob, "g");
    commit();
    quiet();
    fetches(bob, "{'userId':'bob','type':0}", "10016");
    goes(bob);
    sends(alice, "#g", "after", NULL);
    commit();
    bob = enters("bob");
    fetches(bob, "{'userId':'bob','type':0}", "10016 #g:2");
    fetches(bob, "{'userId':'bob','type':1,'groupId':'g'}", "10018 #g:1,2");
    end();
}

/* What is not yet on disk when one joins may be heard or not; what is said later is there. */
TEST(chat_store_joins_while_pending)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");
    joins(alice, "g");
    commit();
    sends(alice, "#g", "1", NULL);
    says(bob, 7, "{'groupId':'g'}");
    commit();
    goes(bob);
    sends(alice, "#g", "2", NULL);
    commit();
    bob = enters("bob");
    fetches(bob, "{'userId':'bob','type':0}", "10016 #g:2");
    end();
}

TEST(chat_store_offline_limit)
{
    begin("jim.store=on", "jim.fetch.max=3", NULL);
    struct conn *alice = enters("alice"), *carol = enters("carol");
    for (int i = 0; i < 5; i++)
        sends(alice, "bob", "x", NULL);
    for (int i = 0; i < 2; i++)
        sends(carol, "bob", "x", NULL);
    commit();
    struct conn *bob = enters("bob");
    fetches(bob, "{'userId':'bob','type':0,'fromUserId':'alice'}", "10016 alice:1,2,3 more");
    fetches(bob, "{'userId':'bob','type':0,'fromUserId':'alice'}", "10016 alice:4,5");
    fetches(bob, "{'userId':'bob','type':0}", "10016 carol:1,2");
    sends(alice, "bob", "x", NULL);
    commit();
    breaks(bob);
    for (int i = 0; i < 2; i++)
        sends(carol, "bob", "x", NULL);
    commit();
    bob = enters("bob");
    fetches(bob, "{'userId':'bob','type':0}", "10016 alice:6 carol:3,4"); /* exactly full */
    fetches(bob, "{'userId':'bob','type':0}", "10016");
    end();
}

/* Whatever the order of conversations, repeating until `more` is gone gives everything once. */
TEST(chat_store_offline_all_in_pages)
{
    begin("jim.store=on", "jim.fetch.max=4", NULL);
    struct conn *bob = enters("bob");
    joins(bob, "g");
    commit();
    goes(bob);
    struct conn *a[3] = {enters("a"), enters("b"), enters("c")};
    joins(a[0], "g");
    for (int i = 0; i < 21; i++)
        sends(a[i % 3], i % 3 == 0 && i % 2 == 0 ? "#g" : "bob", "x", NULL);
    commit();
    quiet();
    bob = enters("bob");
    int pages = 0, messages = 0;
    for (bool more = true; more; pages++) {
        CHECK(pages < 10);
        says(bob, 19, "{'userId':'bob','type':0}");
        const char *got = fetched(bob);
        more = strstr(got, " more") != NULL;
        for (const char *p = got + 5; *p != '\0'; p++)
            messages += *p == ':' || *p == ',';
        pop(bob, true);
    }
    CHECK_INT(messages, 21);
    CHECK_INT(pages, 6);
    fetches(bob, "{'userId':'bob','type':0}", "10016");
    end();
}

/* At most half of jim.queue.max bytes, but always at least one message. */
TEST(chat_store_answer_bytes)
{
    begin("jim.store=on", "jim.queue.max=65536", NULL);
    struct conn *alice = enters("alice");
    static const size_t sizes[] = {15000, 15000, 15000, 60000, 100, 65536, 100};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        sends_bytes(alice, "bob", sizes[i]);
    commit();
    quiet();
    struct conn *bob = enters("bob");
    static const char *const pages[] = {"10016 alice:1,2 more", "10016 alice:3 more",
                                        "10016 alice:4 more", "10016 alice:5 more",
                                        "10016 alice:6 more", "10016 alice:7"};
    for (size_t i = 0; i < sizeof pages / sizeof pages[0]; i++)
        fetches(bob, "{'userId':'bob','type':0}", pages[i]);
    static const char history[] = "{'userId':'bob','type':1,'fromUserId':'alice','afterSeq':%d}";
    static const int after[] = {0, 2, 3, 4, 5, 6};
    for (size_t i = 0; i < sizeof pages / sizeof pages[0]; i++) {
        char json[100], want[60];
        snprintf(json, sizeof json, history, after[i]);
        snprintf(want, sizeof want, "10018%s", pages[i] + 5);
        fetches(bob, json, want);
    }
    fetches(bob, "{'userId':'bob','type':1,'fromUserId':'alice','beforeSeq':3}", "10018 alice:1,2");
    fetches(bob, "{'userId':'bob','type':1,'fromUserId':'alice','beforeSeq':4}",
            "10018 alice:2,3 more");
    fetches(bob, "{'userId':'bob','type':1,'fromUserId':'alice','beforeSeq':7}",
            "10018 alice:6 more");
    end();
}

/* Too much for his queue, but nothing is lost. */
TEST(chat_store_slow_reader)
{
    begin("jim.store=on", "jim.queue.max=65536", NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");
    commit();
    for (int i = 0; i < 10; i++) {
        sends_bytes(alice, "bob", 20000);
        commit();
        forget_output(alice, true);
        CHECK(bob->out == NULL || bob->out->bytes <= 65536);
    }
    if (bob->state == CONN_DEAD) { /* the end of the turn would let go of it */
        forget_output(bob, false);
        chat_closed(w.c, bob);
    } else {
        breaks(bob);
    }
    bob = enters("bob");
    int heard = 0;
    for (bool more = true; more;) {
        says(bob, 19, "{'userId':'bob','type':0}");
        const char *got = fetched(bob);
        more = strstr(got, " more") != NULL;
        for (const char *p = got + 5; *p != '\0'; p++)
            heard += *p == ':' || *p == ',';
        pop(bob, true);
    }
    CHECK_INT(heard, 10);
    end();
}

TEST(chat_store_messages_refused)
{
    static const struct {
        const char *json;
        int code;
    } cases[] = {
        {"{'userId':'bob'}", 10015},
        {"{'type':0}", 10015},
        {"{'userId':'','type':0}", 10015},
        {"{'userId':'bob','type':3}", 10015},
        {"{'userId':'bob','type':-1}", 10015},
        {"{'userId':'bob','type':'x'}", 10015},
        {"{'userId':'bob','type':1}", 10015},
        {"{'userId':'alice','type':0}", 10024},
        {"{'userId':'alice','type':1,'fromUserId':'bob'}", 10024},
        {"{'userId':'bob','type':1,'groupId':'g'}", 10024},
        {"{'userId':'bob','type':0,'groupId':'g'}", 10024},
        {"{'userId':'bob','type':1,'groupId':'nosuch'}", 10024},
        {"{'userId':'bob','type':1,'fromUserId':'alice','offset':'x'}", 10015},
        {"{'userId':'bob','type':1,'fromUserId':'alice','count':[1]}", 10015},
        {"{'userId':'bob','type':1,'fromUserId':'alice','beginTime':'x'}", 10015},
        {"{'userId':'bob','type':1,'fromUserId':'alice','endTime':{}}", 10015},
        {"{'userId':'bob','type':1,'fromUserId':'alice','beforeSeq':'x'}", 10015},
        {"{'userId':'bob','type':1,'fromUserId':'alice','afterSeq':'x'}", 10015},
    };

    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");
    joins(alice, "g");
    sends(alice, "bob", "x", NULL);
    commit();
    quiet();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        says(bob, 19, cases[i].json);
        hears_code(bob, 20, cases[i].code);
    }
    end();
}

TEST(chat_messages_without_store)
{
    begin(NULL);
    struct conn *alice = enters("alice");
    says(alice, 19, "{'userId':'alice','type':0}");
    hears_code(alice, 20, 10015);
    says(alice, 19, "{'userId':'alice','type':1,'fromUserId':'bob'}");
    hears_code(alice, 20, 10015);
    end();
}

/* --- store: history -------------------------------------------------------------------------- */

TEST(chat_store_history)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob"), *carol = enters("carol");
    commit();
    sends(alice, "bob", "hi", "m1");
    sends(bob, "alice", "hello", "m2");
    sends(carol, "bob", "hey", "m3");
    commit();
    quiet();
    says(alice, 19, "{'userId':'alice','type':'1','fromUserId':'bob'}"); /* both directions */
    hears(alice, "{'code':10018,'command':20,'data':{'friends':{'bob':[{'chatType':2,"
                 "'content':'hi','createTime':@,'from':'alice','id':'m1','seq':1,'to':'bob'},"
                 "{'chatType':2,'content':'hello','createTime':@,'from':'bob','id':'m2','seq':2,"
                 "'to':'alice'}]},'groups':{},'userId':'alice'},~}");
    fetches(bob, "{'userId':'bob','type':1,'fromUserId':'alice'}", "10018 alice:1,2");
    fetches(alice, "{'userId':'alice','type':1,'fromUserId':'carol'}", "10018");
    says(alice, 19, "{'userId':'alice','type':1,'fromUserId':'nobody'}");
    hears(alice, "{'code':10018,'command':20,'data':{'friends':{},'groups':{},'userId':'alice'},"
                 "~}");
    goes(bob); /* history moves no cursor */
    sends(alice, "bob", "3", NULL);
    commit();
    bob = enters("bob");
    fetches(bob, "{'userId':'bob','type':1,'fromUserId':'alice'}", "10018 alice:1,2,3");
    fetches(bob, "{'userId':'bob','type':0}", "10016 alice:3");
    end();
}

/* Twenty messages, at most eight an answer: bounds, and the numbers they give. */
static const struct {
    const char *bounds, *want;
} pages[] = {
    {"'count':3", "1,2,3"},
    {"'offset':0,'count':3", "1,2,3"},
    {"'offset':3,'count':3", "4,5,6"},
    {"'offset':18,'count':3", "19,20"},
    {"'offset':20,'count':3", ""},
    {"'offset':1000000,'count':3", ""},
    {"'offset':9223372036854775807,'count':9223372036854775807", ""},
    {"'offset':'2','count':'2'", "3,4"},
    {"'offset':15", "16,17,18,19,20"},
    {"'offset':15,'count':-1", "16,17,18,19,20"},
    {"'offset':-1,'count':5", ""},
    {"'count':0", ""},
    {"'count':5.9", "1,2,3,4,5"},
    {"'count':8", "1,2,3,4,5,6,7,8"},
    {"'count':9", "1,2,3,4,5,6,7,8 more"},
    {"'x':1", "1,2,3,4,5,6,7,8 more"},
    {"'offset':12", "13,14,15,16,17,18,19,20"},
    {"'offset':11", "12,13,14,15,16,17,18,19 more"},
    {"'afterSeq':17", "18,19,20"},
    {"'afterSeq':0,'count':2", "1,2"},
    {"'afterSeq':20", ""},
    {"'afterSeq':9223372036854775807", ""},
    {"'afterSeq':-5,'count':1", "1"},
    {"'beforeSeq':4", "1,2,3"},
    {"'beforeSeq':1", ""},
    {"'beforeSeq':0", ""},
    {"'beforeSeq':-9", ""},
    {"'beforeSeq':21,'count':3", "18,19,20"},
    {"'beforeSeq':9223372036854775807,'count':3", "18,19,20"},
    {"'beforeSeq':18,'count':3", "15,16,17"},
    {"'beforeSeq':3,'count':3", "1,2"},
    {"'beforeSeq':18,'count':3,'offset':2", "13,14,15"},
    {"'beforeSeq':18,'offset':17", ""},
    {"'beforeSeq':20", "12,13,14,15,16,17,18,19 more"},
    {"'beforeSeq':9", "1,2,3,4,5,6,7,8"},
    {"'beforeSeq':10,'afterSeq':6", "7,8,9"},
    {"'beforeSeq':6,'afterSeq':6", ""},
    {"'beforeSeq':7,'afterSeq':6", ""},
    {"'beforeSeq':null,'count':1", "1"},
};

TEST(chat_store_history_pages)
{
    char json[200], want[100];

    begin("jim.store=on", "jim.fetch.max=8", NULL);
    struct conn *alice = enters("alice");
    joins(alice, "g");
    for (int i = 0; i < 20; i++) {
        sends(alice, "bob", "x", NULL);
        sends(alice, "#g", "x", NULL);
        if (i % 3 == 0)
            commit();
    }
    commit();
    quiet();
    for (size_t i = 0; i < sizeof pages / sizeof pages[0]; i++) {
        const char *seqs = pages[i].want;
        snprintf(json, sizeof json, "{'userId':'alice','type':1,'fromUserId':'bob',%s}",
                 pages[i].bounds);
        snprintf(want, sizeof want, "10018%s%s", seqs[0] != '\0' ? " bob:" : "", seqs);
        fetches(alice, json, want);
        snprintf(json, sizeof json, "{'userId':'alice','type':1,'groupId':'g',%s}",
                 pages[i].bounds);
        snprintf(want, sizeof want, "10018%s%s", seqs[0] != '\0' ? " #g:" : "", seqs);
        fetches(alice, json, want);
    }
    end();
}

/* Ten messages a minute apart, from minute 0 on; some say they were written earlier or later. */
static void
ten_minutes(struct conn *c)
{
    static const int off[10] = {0, 0, -5 * MINUTE, 0, 5 * MINUTE, 0, -5 * MINUTE, 0, 0, 5 * MINUTE};
    char json[200];

    for (int i = 0; i < 10; i++) {
        now = NOW + i * MINUTE;
        snprintf(json, sizeof json, "{'chatType':2,'to':'bob','createTime':%lld}",
                 (long long)now + off[i]);
        says(c, 11, json);
        commit();
        forget_output(c, true);
    }
}

TEST(chat_store_history_times)
{
    /* createTimes in minutes: 0 1 -3 3 9 5 1 7 8 14 */
    static const struct {
        int64_t begin, end; /* ms after NOW; INT64_MIN: not given */
        const char *want;
    } cases[] = {
        {INT64_MIN, 0, "1,3"},
        {INT64_MIN, -1, "3"},
        {INT64_MIN, -3 * MINUTE, "3"},
        {INT64_MIN, -3 * MINUTE - 1, ""},
        {0, 0, "1"},
        {1, MINUTE - 1, ""},
        {MINUTE, MINUTE, "2,7"},
        {MINUTE, 3 * MINUTE, "2,4,7"},
        {3 * MINUTE + 1, INT64_MIN, "5,6,8,9,10"},
        {9 * MINUTE, INT64_MIN, "5,10"},
        {9 * MINUTE, 14 * MINUTE - 1, "5"},
        {14 * MINUTE, INT64_MIN, "10"},
        {14 * MINUTE + 1, INT64_MIN, ""},
        {5 * MINUTE, 8 * MINUTE, "6,8,9"},
        {8 * MINUTE, 5 * MINUTE, ""},
        {-NOW, 100 * (int64_t)HOUR, "1,2,3,4,5,6,7,8,9,10"},
    };
    char json[300], want[100];

    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice");
    ten_minutes(alice);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t n = (size_t)snprintf(json, sizeof json,
                                    "{'userId':'alice','type':1,'fromUserId':'bob'");
        if (cases[i].begin != INT64_MIN)
            n += (size_t)snprintf(json + n, sizeof json - n, ",'beginTime':%lld",
                                  (long long)(NOW + cases[i].begin));
        if (cases[i].end != INT64_MIN)
            n += (size_t)snprintf(json + n, sizeof json - n, ",'endTime':'%lld'",
                                  (long long)(NOW + cases[i].end));
        snprintf(json + n, sizeof json - n, "}");
        snprintf(want, sizeof want, "10018%s%s", cases[i].want[0] != '\0' ? " bob:" : "",
                 cases[i].want);
        fetches(alice, json, want);
    }
    end();
}

/* Numbers that no message has, as an import or a repair leaves them: nothing is left out. */
TEST(chat_store_history_times_and_holes)
{
    char json[300];

    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice");
    for (int i = 0; i < 4; i++) {
        now = NOW + i * HOUR;
        sends(alice, "bob", "x", NULL);
        commit();
        if (i == 1)
            alice->recent->conv->seq += 1000;
    }
    forget_output(alice, true);
    for (int round = 0; round < 2; round++) {
        snprintf(json, sizeof json, "{'userId':'alice','type':1,'fromUserId':'bob',"
                 "'beginTime':%lld,'endTime':%lld}", (long long)NOW, (long long)NOW + 2 * HOUR);
        fetches(alice, json, "10018 bob:1,2,1003");
        snprintf(json, sizeof json, "{'userId':'alice','type':1,'fromUserId':'bob',"
                 "'beginTime':%lld,'beforeSeq':1003,'count':1}", (long long)NOW);
        fetches(alice, json, "10018 bob:2");
        restart();
        alice = enters("alice");
    }
    end();
}

/* Times with the other bounds: offset and count are places among what the times leave. */
TEST(chat_store_history_times_and_pages)
{
    static const struct {
        const char *bounds, *want;
    } cases[] = {
        {"'count':2", "2,4"},
        {"'offset':1", "4,7"},
        {"'offset':1,'count':1", "4"},
        {"'offset':3", ""},
        {"'afterSeq':2", "4,7"},
        {"'beforeSeq':7", "2,4"},
        {"'beforeSeq':7,'count':1", "4"},
        {"'beforeSeq':11,'count':2", "4,7"},
        {"'beforeSeq':11,'count':1,'offset':1", "4"},
        {"'count':0", ""},
    };
    char json[300], want[100];

    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice");
    ten_minutes(alice);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        snprintf(json, sizeof json, "{'userId':'alice','type':1,'fromUserId':'bob',"
                                    "'beginTime':%lld,'endTime':%lld.9,%s}",
                 (long long)NOW + MINUTE, (long long)NOW + 3 * MINUTE, cases[i].bounds);
        snprintf(want, sizeof want, "10018%s%s", cases[i].want[0] != '\0' ? " bob:" : "",
                 cases[i].want);
        fetches(alice, json, want);
    }
    static const char *const edges[] = {
        "'beginTime':-9223372036854775808,'endTime':9223372036854775807",
        "'beginTime':0", "'endTime':9.2e18", "'beginTime':1.7e12,'endTime':1800000000000",
    };
    for (size_t i = 0; i < sizeof edges / sizeof edges[0]; i++) {
        snprintf(json, sizeof json, "{'userId':'alice','type':1,'fromUserId':'bob',%s}", edges[i]);
        fetches(alice, json, i == 3 ? "10018 bob:1,2,4,5,6,7,8,9,10"
                                    : "10018 bob:1,2,3,4,5,6,7,8,9,10");
    }
    end();
}

/*
 * A clock that is set: from 1970, where a board starts that has no clock of its own, to what it is;
 * two hours back, and right again; nine seconds back. Four messages a minute apart each time.
 */
static const int64_t parts_at[] = {MINUTE - NOW, 0, -2 * HOUR, 0, 4 * MINUTE - 9000};

static void
clock_is_set(struct conn *c)
{
    for (size_t part = 0; part < sizeof parts_at / sizeof parts_at[0]; part++)
        for (int i = 0; i < 4; i++) {
            now = NOW + parts_at[part] + i * MINUTE;
            sends_bytes(c, "bob", 500);
            commit();
            forget_output(c, true);
        }
}

TEST(chat_store_history_clock_set_back)
{
    static const struct {
        int64_t begin, end; /* ms after NOW */
        const char *bounds, *want;
    } cases[] = {
        {-NOW, 9 * MINUTE - NOW, "'count':9", "1,2,3,4"},
        {2 * MINUTE - NOW, 3 * MINUTE - NOW, "'count':9", "2,3"},
        {0, 4 * MINUTE - 9001, "'count':9", "5,6,7,8,13,14,15,16"},
        {0, 4 * MINUTE, "'count':9", "5,6,7,8,13,14,15,16,17"},
        {MINUTE, 2 * MINUTE, "'count':9", "6,7,14,15"},
        {MINUTE, 2 * MINUTE, "'offset':1,'count':2", "7,14"},
        {MINUTE, 2 * MINUTE, "'beforeSeq':99,'count':3", "7,14,15"},
        {MINUTE, 2 * MINUTE, "'beforeSeq':15,'count':1,'offset':1", "7"},
        {MINUTE, 2 * MINUTE, "'afterSeq':6", "7,14,15"},
        {-2 * HOUR, -HOUR, "'count':9", "9,10,11,12"},
        {-HOUR, -1, "'count':9", ""},
        {-2 * HOUR, 0, "'beforeSeq':99,'count':3", "11,12,13"},
        {5 * MINUTE, HOUR, "'count':9", "19,20"},
        {-NOW, HOUR, "'offset':3,'count':7", "4,5,6,7,8,9,10"},
        {-NOW, HOUR, "'beforeSeq':99,'offset':9,'count':3", "9,10,11"},
    };
    char json[300], want[100];

    begin("jim.store=on", "jim.store.segment=4k", NULL);
    struct conn *alice = enters("alice");
    clock_is_set(alice);
    for (int round = 0; round < 2; round++) { /* as it was said, and as a start finds it */
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            snprintf(json, sizeof json, "{'userId':'alice','type':1,'fromUserId':'bob',"
                     "'beginTime':%lld,'endTime':%lld,%s}", (long long)(NOW + cases[i].begin),
                     (long long)(NOW + cases[i].end), cases[i].bounds);
            snprintf(want, sizeof want, "10018%s%s", cases[i].want[0] != '\0' ? " bob:" : "",
                     cases[i].want);
            fetches(alice, json, want);
        }
        restart();
        alice = enters("alice");
    }
    end();
}

/* --- store: a restart ------------------------------------------------------------------------ */

/* An answer's text, with its parts in an order of their own: members have none. */
static char *
answer_to(struct conn *c, int cmd, const char *json)
{
    enum { MAX_PARTS = 200 };
    char *part[MAX_PARTS];
    size_t n = 0;
    struct buf b = {0};

    says(c, cmd, json);
    const struct msg *m = next_message(c, "an answer", __LINE__);
    struct str rest = {m->data, m->len}, one;
    while (str_split(&rest, '{', &one)) {
        CHECK(n < MAX_PARTS);
        while (one.n > 0 && strchr(",]}", one.p[one.n - 1]) != NULL)
            one.n--;
        part[n++] = xstrndup(one.p, one.n);
    }
    for (size_t i = 0; i < n; i++) /* few enough */
        for (size_t k = i + 1; k < n; k++)
            if (strcmp(part[k], part[i]) < 0) {
                char *swap = part[i];
                part[i] = part[k];
                part[k] = swap;
            }
    for (size_t i = 0; i < n; i++) {
        buf_printf(&b, "%s\n", part[i]);
        free(part[i]);
    }
    buf_add(&b, "", 1);
    pop(c, true);
    return b.p;
}

/* All that alice can find out, and what waits for dave. The caller frees it. */
static char *
everything(void)
{
    static const char *const asked[] = {
        "{'userId':'alice','type':2}", "{'userId':'alice','type':0}", "{'userId':'alice','type':1}",
        "{'userId':'bob'}", "{'userId':'carol'}", "{'userId':'dave'}", "{'userId':'ghost'}",
        "{'userId':'alice','type':1,'fromUserId':'bob'}",
        "{'userId':'alice','type':1,'fromUserId':'alice'}",
        "{'userId':'alice','type':1,'fromUserId':'ghost'}",
        "{'userId':'alice','type':1,'fromUserId':'a:b c%d'}",
        "{'userId':'alice','type':1,'groupId':'g'}", "{'userId':'alice','type':1,'groupId':'100'}",
        "{'userId':'alice','type':1,'groupId':'空 :%'}", "{'userId':'alice','type':0}",
    };
    struct buf b = {0};

    struct conn *alice = enters("alice");
    for (size_t i = 0; i < sizeof asked / sizeof asked[0]; i++) {
        char *text = answer_to(alice, i < 7 ? 17 : 19, asked[i]);
        buf_printf(&b, "%s\n%s\n", asked[i], text);
        free(text);
    }
    goes(alice);
    struct conn *dave = enters("dave");
    says(dave, 19, "{'userId':'dave','type':0}");
    buf_printf(&b, "%s\n", fetched(dave));
    breaks(dave); /* he does not get it */
    buf_add(&b, "", 1);
    return b.p;
}

/* Users, groups with names, memberships, messages, cursors: all that a day leaves behind. */
static void
a_day(void)
{
    struct conn *alice = enters("alice"), *bob = enters("bob"), *carol = enters("carol");
    struct conn *dave = enters("dave");

    says(alice, 7, "{'groupId':'g','name':'names \\u0022 and 名字'}");
    commit();
    says(alice, 7, "{'groupId':'空 :%'}");
    joins(bob, "g");
    joins(dave, "g");
    commit();
    sends(alice, "dave", "while he is here", NULL);
    commit();
    quiet();
    goes(dave);
    now += 1000;
    sends(alice, "bob", "hi \\u0022bob\\u0022 \\\\ \\u4e2d", "m1");
    sends(bob, "alice", "hello", "m2");
    sends(alice, "alice", "note", NULL);
    sends(alice, "ghost", "anyone?", NULL);
    sends(alice, "a:b c%d", "what a name", NULL);
    sends(alice, "#g", "hi all", NULL);
    sends(carol, "#100", "hi everybody", NULL);
    sends(bob, "dave", "1", NULL);
    sends(alice, "#空 :%", "to myself", NULL);
    commit();
    quiet();
    now += 1000;
    goes(bob);
    sends(alice, "bob", "gone?", NULL);
    sends(alice, "#g", "gone?", NULL);
    commit();
    quiet();
    goes(alice);
    goes(carol);
}

TEST(chat_store_restart)
{
    begin("jim.store=on", "jim.login.groups=100:everybody,200", NULL);
    a_day();
    char *before = everything();
    for (int i = 0; i < 3; i++) {
        restart();
        char *after = everything();
        if (strcmp(before, after) != 0)
            test_fail(__FILE__, __LINE__, "start %d: before\n%s\nafter\n%s", i, before, after);
        free(after);
    }
    CHECK(strstr(before, "10016 #100:1 #g:1,2 bob:1") != NULL);
    free(before);
    struct conn *bob = enters("bob");
    fetches(bob, "{'userId':'bob','type':0}", "10016 #g:2 alice:3");
    restart();
    bob = enters("bob");
    fetches(bob, "{'userId':'bob','type':0}", "10016"); /* cursors stay where they were */
    struct conn *alice = enters("alice");
    quiet();
    sends(alice, "bob", "and on", "n"); /* and numbers go on */
    commit();
    hears_chat(bob, "alice", "bob", "and on", "n", 4);
    end();
}

/* What came live while older messages waited is remembered too. */
TEST(chat_store_restart_live_range)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice");
    sends(alice, "bob", "1", NULL);
    sends(alice, "bob", "2", NULL);
    commit();
    struct conn *bob = enters("bob");
    sends(alice, "bob", "3", NULL);
    sends(alice, "bob", "4", NULL);
    commit();
    quiet();
    restart();
    bob = enters("bob");
    fetches(bob, "{'userId':'bob','type':0}", "10016 alice:1,2");
    restart();
    bob = enters("bob");
    fetches(bob, "{'userId':'bob','type':0}", "10016");
    end();
}

TEST(chat_store_restart_membership)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");
    joins(alice, "g");
    joins(bob, "g");
    commit();
    struct member *m = member_in_group(&w.c->roster, bob->user, STR("g"));
    member_leave(m); /* as the API does it */
    record_member(w.c, m);
    sends(alice, "#g", "x", NULL);
    commit();
    quiet();
    restart();
    alice = enters("alice");
    bob = enters("bob");
    sends(bob, "#g", "x", NULL);
    hears_code(bob, 12, 10024);
    fetches(bob, "{'userId':'bob','type':0}", "10016");
    fetches(alice, "{'userId':'alice','type':0}", "10016");
    joins(bob, "g"); /* again: from here on */
    commit();
    restart();
    bob = enters("bob");
    fetches(bob, "{'userId':'bob','type':0}", "10016");
    fetches(bob, "{'userId':'bob','type':1,'groupId':'g'}", "10018 #g:1");
    end();
}

TEST(chat_store_restart_retry)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice");
    int64_t sent = now;
    joins(alice, "g");
    says(alice, 11, "{'chatType':2,'to':'bob','content':'x','id':'a\\u0022中',"
                    "'createTime':1700000000001}");
    sends(alice, "#g", "x", "m2");
    commit();
    quiet();
    now += HOUR;
    restart();
    alice = enters("alice");
    struct conn *bob = enters("bob");
    commit();
    sends(alice, "bob", "x", "a\\u0022中");
    now = sent + 1;
    hears_ack(alice, 10000, "a\\'中", 1); /* its own time, its own number */
    now = sent;
    sends(alice, "#g", "x", "m2");
    hears_ack(alice, 10000, "m2", 1);
    silent(alice);
    silent(bob);
    sends(bob, "alice", "x", "m2"); /* another sender */
    commit();
    hears_ack(bob, 10000, "m2", 2);
    now += 25 * (int64_t)HOUR;
    restart(); /* what is older than a day is not taken up again */
    alice = enters("alice");
    sends(alice, "#g", "x", "m2");
    commit();
    hears_chat(alice, "alice", "#g", "x", "m2", 2);
    end();
}

/* --- store: groups ---------------------------------------------------------------------------- */

/* Has somebody been told something? Then the power fails at once, and nothing more gets to the
 * disk. */
static void
dies_when_answered(struct conn *c)
{
    for (int i = 0; !has_something(c); i++) {
        CHECK(i < 2);
        commit();
    }
    disk.full = true;
    quiet();
    for (size_t i = 0; i < w.conns; i++)
        breaks(w.conn[i]);
    commit();
    stop();
    disk.full = false;
    start();
}

static bool
is_member(const char *user, const char *group)
{
    struct user *u = user_find(&w.c->roster, str_of(user));

    return u != NULL && member_in_group(&w.c->roster, u, str_of(group)) != NULL;
}

/* What was answered is so after a power cut. */
TEST(chat_store_groups_survive)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice"), *http;
    commit();
    quiet();
    says(alice, 7, "{'groupId':'g','name':'n'}");
    dies_when_answered(alice);
    CHECK(is_member("alice", "g"));
    CHECK_STR(str_of(group_find(&w.c->roster, STR("g"))->name), "n");
    alice = enters("alice");
    quiet();
    says(alice, 21, "{'groupId':'g'}");
    dies_when_answered(alice);
    CHECK(!is_member("alice", "g"));
    http = comes(PROTO_HTTP);
    calls(http, "/api/group/rename", "{'groupId':'g','name':'m'}");
    dies_when_answered(http);
    CHECK_STR(str_of(group_find(&w.c->roster, STR("g"))->name), "m");
    http = comes(PROTO_HTTP);
    calls(http, "/api/group/join", "{'groupId':'g','users':['alice','bob']}");
    dies_when_answered(http);
    CHECK(is_member("alice", "g") && is_member("bob", "g"));
    http = comes(PROTO_HTTP);
    calls(http, "/api/group/leave", "{'groupId':'g','userId':'bob'}");
    dies_when_answered(http);
    CHECK(is_member("alice", "g") && !is_member("bob", "g"));
    http = comes(PROTO_HTTP);
    calls(http, "/api/group/dismiss", "{'groupId':'g'}");
    dies_when_answered(http);
    CHECK(group_find(&w.c->roster, STR("g")) == NULL);
    http = comes(PROTO_HTTP);
    calls(http, "/api/group/create", "{'groupId':'h','name':'x','userId':'bob'}");
    dies_when_answered(http);
    CHECK(is_member("bob", "h"));
    end();
}

/* Nobody is told, and nothing has happened, before it is on disk; what comes behind waits. */
TEST(chat_store_join_and_leave_wait)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob"), *phone = enters("bob");
    joins(alice, "g");
    says(bob, 7, "{'groupId':'g'}");
    CHECK(!tries(bob, 11, "{'chatType':1,'groupId':'g','content':'x'}"));
    CHECK(!tries(bob, 21, "{'groupId':'g'}"));
    store_commit(w.j->store);
    silent(alice);
    silent(bob);
    CHECK(!is_member("bob", "g"));
    commit();
    hears_joined(bob, "g");
    hears_join(bob, "bob", "g");
    hears_join(phone, "bob", "g");
    hears_join(alice, "bob", "g");
    says(bob, 7, "{'groupId':'g'}"); /* again: nothing to wait for */
    hears_joined(bob, "g");
    hears_join(bob, "bob", "g");
    sends(bob, "#g", "x", "1");
    commit();
    hears_chat(alice, "bob", "#g", "x", "1", 1);
    quiet();
    says(bob, 21, "{'groupId':'g'}");
    CHECK(!tries(bob, 11, "{'chatType':1,'groupId':'g','content':'x'}"));
    says(phone, 21, "{'groupId':'g'}"); /* twice on its way is once */
    silent(bob);
    silent(alice);
    CHECK(is_member("bob", "g"));
    commit();
    hears_left(bob, 10029, "g");
    hears_goodbye(phone, "bob", "g");
    hears_left(phone, 10029, "g");
    hears_goodbye(alice, "bob", "g");
    silent(alice);
    sends(bob, "#g", "x", NULL);
    hears_code(bob, 12, 10024);
    end();
}

/* Of a change that is lost nothing is left. */
TEST(chat_store_groups_while_full)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob"), *http = comes(PROTO_HTTP);
    joins(alice, "g");
    disk.full = true;
    says(bob, 7, "{'groupId':'g','name':'late'}");
    says(alice, 21, "{'groupId':'g'}");
    commit();
    hears(bob, "{'code':10027,'command':8,~,'result':0}");
    hears_left(alice, 10027, "g");
    silent(bob);
    silent(alice);
    says(bob, 7, "{'groupId':'new','name':'n'}");
    calls(http, "/api/group/dismiss", "{'groupId':'g'}");
    commit();
    hears(bob, "{'code':10027,'command':8,~,'result':0}");
    answers(http, 503, "{'code':10027,~}");
    calls(http, "/api/group/rename", "{'groupId':'g','name':'other'}");
    commit();
    answers(http, 503, "{'code':10027,~}");
    calls(http, "/api/group/create", "{'groupId':'newer','userId':'bob'}");
    commit();
    answers(http, 503, "{'code':10027,~}");
    silent(alice);
    CHECK(is_member("alice", "g") && !is_member("bob", "g") && !is_member("bob", "newer"));
    CHECK(group_find(&w.c->roster, STR("g"))->name == NULL);
    CHECK_INT(w.c->roster.ngroups, 1);
    CHECK(group_find_any(&w.c->roster, STR("new")) == NULL);
    calls(http, "/api/group/dismiss", "{'groupId':'new'}");
    answers(http, 404, "{'code':10030,~}");
    CHECK(!record_unsaved(w.c) || w.c->roster.dirty != NULL); /* nor is it written later */
    disk.full = false;
    joins(bob, "new");
    says(alice, 21, "{'groupId':'g'}");
    commit();
    hears_left(alice, 10029, "g");
    restart();
    CHECK(!is_member("alice", "g") && is_member("bob", "new"));
    CHECK_INT(w.c->roster.ngroups, 2);
    end();
}

/* What the embedding program does takes place at once, also while something else about the same
 * member is on its way; after a restart it is as it was before. */
TEST(chat_store_bound_while_on_its_way)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");
    joins(bob, "g");
    struct conv *v = group_find(&w.c->roster, STR("g"));
    says(alice, 7, "{'groupId':'g'}");
    CHECK(group_add(w.c, v, alice->user) && group_remove(w.c, v, alice->user));
    says(bob, 21, "{'groupId':'g'}");
    CHECK(group_remove(w.c, v, bob->user) && group_add(w.c, v, bob->user));
    commit();
    quiet();
    CHECK(!is_member("alice", "g") && is_member("bob", "g"));
    CHECK(group_rename(w.c, v, STR("first")) && group_rename(w.c, v, STR("second")));
    commit();
    CHECK_STR(str_of(v->name), "second");
    restart();
    v = group_find(&w.c->roster, STR("g"));
    CHECK(!is_member("alice", "g") && is_member("bob", "g"));
    CHECK_STR(str_of(v->name), "second");
    end();
}

/* What was lost is not written again behind a change of the same that is on its way. */
TEST(chat_store_lost_before_a_change)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice");
    commit();
    disk.full = true;
    struct conv *v = founds("g", "lost");
    CHECK(group_add(w.c, v, alice->user));
    commit();
    quiet();
    disk.full = false;
    says(alice, 21, "{'groupId':'g'}");
    CHECK(group_rename(w.c, v, STR("name")));
    record_save(w.c, 1000);
    commit();
    hears_left(alice, 10029, "g");
    for (int again = 0; again < 2; again++) {
        CHECK(!is_member("alice", "g"));
        CHECK_STR(str_of(group_find(&w.c->roster, STR("g"))->name), "name");
        restart();
    }
    end();
}

/* Nor behind a joining: who has left and joins again is in, as he is told. */
TEST(chat_store_lost_before_joining)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice");
    disk.full = true;
    CHECK(group_add(w.c, founds("g", ""), alice->user));
    commit();
    disk.full = false;
    quiet();
    says(alice, 21, "{'groupId':'g'}");
    commit();
    hears_left(alice, 10029, "g");
    says(alice, 7, "{'groupId':'g'}");
    record_save(w.c, 1000);
    commit();
    hears_joined(alice, "g");
    for (int again = 0; again < 2; again++) {
        CHECK(is_member("alice", "g"));
        restart();
    }
    end();
}

/* The first of two changes of a member is on disk, the second on its way. */
TEST(chat_store_lost_before_two_changes)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice"), *phone = enters("alice"), *tablet = enters("alice");
    disk.full = true;
    CHECK(group_add(w.c, founds("g", ""), alice->user));
    commit();
    disk.full = false;
    quiet();
    says(alice, 21, "{'groupId':'g'}");
    says(phone, 7, "{'groupId':'g'}");
    store_commit(w.j->store);
    says(tablet, 21, "{'groupId':'g'}");
    while (w.c->pending_n > 1) {
        await_store();
        deliver_committed(w.c);
    }
    CHECK(is_member("alice", "g"));
    quiet();
    record_save(w.c, 1000);
    commit();
    hears_left(tablet, 10029, "g");
    for (int again = 0; again < 2; again++) {
        CHECK(!is_member("alice", "g"));
        restart();
    }
    end();
}

/* A membership that a login has brought and the disk has not taken is answered when it has. */
TEST(chat_store_join_again_what_was_lost)
{
    begin("jim.store=on", "jim.login.groups=g", NULL);
    disk.full = true;
    struct conn *alice = enters("alice");
    commit();
    quiet();
    CHECK(is_member("alice", "g")); /* it will be written later */
    says(alice, 7, "{'groupId':'g'}");
    commit();
    hears(alice, "{'code':10027,'command':8,~,'result':0}");
    disk.full = false;
    says(alice, 7, "{'groupId':'g'}");
    silent(alice);
    dies_when_answered(alice);
    CHECK(is_member("alice", "g"));
    end();
}

/* What he has missed till then is not passed over by it: he was in all the time. */
TEST(chat_store_join_again_misses_nothing)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");
    joins(bob, "g");
    commit();
    disk.full = true;
    CHECK(group_add(w.c, founds("g", ""), alice->user));
    commit();
    disk.full = false;
    goes(alice);
    sends(bob, "#g", "1", NULL);
    commit();
    alice = enters("alice");
    quiet();
    says(alice, 7, "{'groupId':'g'}");
    silent(alice);
    dies_when_answered(alice);
    alice = enters("alice");
    fetches(alice, "{'userId':'alice','type':0}", "10016 #g:1");
    end();
}

/* Groups, their names, lives and members, as text. */
static char *
groups_text(void)
{
    static const char *const ids[] = {"g0", "g1", "g2"};
    struct buf b = {0};

    for (int i = 0; i < 3; i++) {
        struct conv *v = group_find_any(&w.c->roster, str_of(ids[i]));
        buf_printf(&b, "%s:", ids[i]);
        if (v != NULL)
            buf_printf(&b, " %s %u %s", v->gone ? "gone" : "there", v->life,
                       v->name != NULL ? v->name : "-");
        for (char u[] = "a"; v != NULL && u[0] <= 'd'; u[0]++)
            buf_printf(&b, "%s", is_member(u, ids[i]) ? u : "");
        buf_printf(&b, "\n");
    }
    buf_add(&b, "", 1);
    return b.p;
}

/* What was answered about groups, and what took place at once: the latest of them, in the order in
 * which they were asked for, says who is in. What is refused changes nothing; dismissing ends what
 * was said in that life of the group. */
enum { USERS_OF_MODEL = 4, GROUPS_OF_MODEL = 3, CONNS_OF_MODEL = 12 };

struct promise {
    uint32_t order; /* of the request; 0: nothing has been said, so he is not in */
    uint32_t life;  /* of the group, when it was asked for */
    bool in;
};

struct asked { /* a request that is not answered yet */
    const struct conn *conn;
    int user, group; /* user -1: to dismiss the group */
    struct promise p; /* order 0: nothing is written, it is so already */
};

struct model {
    uint64_t rng;
    uint32_t order; /* the latest request's */
    struct promise said[USERS_OF_MODEL][GROUPS_OF_MODEL];
    uint32_t lives[GROUPS_OF_MODEL]; /* at least so many times was it dismissed */
    struct asked asked[400];
    int n;
    bool writing; /* a batch is at the helper, and nobody has looked what became of it */
    struct conn *conn[CONNS_OF_MODEL]; /* two of each user, and HTTP */
};

static const char *const model_user[] = {"a", "b", "c", "d"};
static const char *const model_group[] = {"g0", "g1", "g2"};

static uint32_t
model_life(int g)
{
    const struct conv *v = group_find_any(&w.c->roster, str_of(model_group[g]));

    return v != NULL ? v->life : 0;
}

static struct promise
model_order(struct model *m, int g, bool in)
{
    return (struct promise){++m->order, model_life(g), in};
}

static void
model_says(struct model *m, int u, int g, struct promise p)
{
    if (p.order > m->said[u][g].order)
        m->said[u][g] = p;
}

static void
model_asks(struct model *m, const struct conn *c, int u, int g, struct promise p)
{
    CHECK(m->n < (int)(sizeof m->asked / sizeof m->asked[0]));
    m->asked[m->n++] = (struct asked){c, u, g, p};
}

/* An answer belongs to the oldest request of its connection. */
static void
model_answered(struct model *m, const struct conn *c, int code)
{
    int i = 0;

    while (i < m->n && m->asked[i].conn != c)
        i++;
    CHECK(i < m->n);
    struct asked a = m->asked[i];
    m->n--;
    memmove(m->asked + i, m->asked + i + 1, (size_t)(m->n - i) * sizeof a);
    if (code != 10011 && code != 10029)
        return;
    if (a.user < 0)
        m->lives[a.group] = a.p.life > m->lives[a.group] ? a.p.life : m->lives[a.group];
    else if (a.p.order > 0)
        model_says(m, a.user, a.group, a.p);
    else if (c->proto == PROTO_TCP)
        CHECK(is_member(model_user[a.user], model_group[a.group]) == a.p.in);
}

static void
model_hears(struct model *m)
{
    for (int i = 0; i < CONNS_OF_MODEL; i++)
        for (struct conn *c = m->conn[i]; has_something(c); pop(c, true)) {
            const struct msg *said = c->out->entry[c->out->head].msg;
            const char *code = memmem(said->data, said->len, "\"code\":", 7);
            if (c->proto == PROTO_HTTP || said->command == 8 || said->command == 22) {
                CHECK(code != NULL);
                model_answered(m, c, atoi(code + 7));
            }
        }
}

static bool
model_waits(const struct model *m, int u, int g)
{
    for (int i = 0; i < m->n; i++)
        if (m->asked[i].user == u && m->asked[i].group == g)
            return true;
    return false;
}

/* Are they in, and out, as they were told? Who waits for an answer may be either. */
static void
model_check(const struct model *m, int round, const char *when)
{
    for (int g = 0; g < GROUPS_OF_MODEL; g++) {
        uint32_t life = model_life(g);
        if (life < m->lives[g])
            test_fail(__FILE__, __LINE__, "round %d, %s: %s was dismissed", round, when,
                      model_group[g]);
        for (int u = 0; u < USERS_OF_MODEL; u++) {
            bool in = m->said[u][g].in && m->said[u][g].life == life;
            if (is_member(model_user[u], model_group[g]) != in && !model_waits(m, u, g))
                test_fail(__FILE__, __LINE__, "round %d, %s: %s was told he is %s %s", round, when,
                          model_user[u], in ? "in" : "not in", model_group[g]);
        }
    }
}

/* A login may bring him into a group. */
static void
model_enters(struct model *m, int i)
{
    int u = i / 2;

    if (i >= 2 * USERS_OF_MODEL) {
        m->conn[i] = comes(PROTO_HTTP);
        return;
    }
    bool was = is_member(model_user[u], "g0");
    m->conn[i] = enters(model_user[u]);
    if (!was && is_member(model_user[u], "g0"))
        model_says(m, u, 0, model_order(m, 0, true));
}

/* By a client: 7 or 21. What is so already is answered at once, and has to be so. */
static void
model_commands(struct model *m, int i, int g, int cmd, const char *json)
{
    struct conn *c = m->conn[i];
    uint32_t owed = c->deferred;
    struct promise p = model_order(m, g, cmd == 7);

    if (!tries(c, cmd, json))
        return;
    if (c->deferred == owed)
        p.order = 0;
    model_asks(m, c, i / 2, g, p);
}

/* By a call, which nobody makes on a connection that waits for another. */
static void
model_calls(struct model *m, int u, int g, const char *what)
{
    struct conn *c = m->conn[2 * USERS_OF_MODEL + (int)(draw(&m->rng) % 4)];
    char path[40], json[60];
    struct promise p = model_order(m, g, strcmp(what, "join") == 0);
    const struct conv *v = group_find(&w.c->roster, str_of(model_group[g]));
    uint64_t last = store_last(w.c->store);

    if (c->deferred > 0)
        return;
    snprintf(path, sizeof path, "/api/group/%s", what);
    snprintf(json, sizeof json, "{'groupId':'%s','userId':'%s','name':'%c'}", model_group[g],
             model_user[u], (char)('A' + draw(&m->rng) % 26));
    calls(c, path, json);
    if (store_last(w.c->store) == last)
        p.order = 0;
    if (strcmp(what, "dismiss") == 0) {
        p.life += v != NULL;
        u = -1;
    }
    model_asks(m, c, u, g, p);
}

/* By the program itself: at once. */
static void
model_does(struct model *m, int u, int g, bool in)
{
    struct user *user = user_get(&w.c->roster, str_of(model_user[u]));
    struct conv *v = group_find(&w.c->roster, str_of(model_group[g]));

    if (in && v == NULL)
        v = founds(model_group[g], "");
    if (v != NULL && (in ? group_add : group_remove)(w.c, v, user))
        model_says(m, u, g, model_order(m, g, in));
}

/* All that is on its way arrives. */
static void
model_rests(struct model *m)
{
    commit();
    m->writing = false;
}

/* The disk is full for a moment: what took place at once is to be written again. */
static void
model_loses(struct model *m, int u, int g)
{
    bool was = disk.full;

    disk.full = true;
    model_does(m, u, g, !is_member(model_user[u], model_group[g]));
    model_rests(m);
    disk.full = was;
}

/* A batch is begun, or arrives; the disk is full from now on, or no more; what was lost is written
 * again; a step of retention. */
static void
model_disk(struct model *m)
{
    switch (draw(&m->rng) % 8) {
    case 0:
        disk.full = !disk.full && draw(&m->rng) % 3 == 0;
        break;
    case 1:
        if (keep_begin(w.c))
            keep_step(w.c);
        break;
    case 2:
        record_save(w.c, 1000);
        break;
    case 3:
        if (draw(&m->rng) % 4 == 0)
            model_rests(m);
        break;
    case 4:
    case 5:
        m->writing = m->writing || w.c->pending_n > 0;
        store_commit(w.j->store);
        break;
    default:
        if (m->writing)
            await_store();
        m->writing = false;
        deliver_committed(w.c);
    }
}

static void
something_with_groups(struct model *m, uint32_t users, uint32_t groups)
{
    int i = (int)(draw(&m->rng) % (2 * users)), u = i / 2, g = (int)(draw(&m->rng) % groups);
    char json[60];
    struct conv *v = group_find(&w.c->roster, str_of(model_group[g]));

    snprintf(json, sizeof json, "{'groupId':'%s','name':'%c'}", model_group[g],
             (char)('A' + draw(&m->rng) % 26));
    switch (draw(&m->rng) % 20) {
    case 0:
    case 1:
    case 2:
        model_commands(m, i, g, 7, json);
        break;
    case 3:
    case 4:
        model_commands(m, i, g, 21, json);
        break;
    case 5:
        model_calls(m, u, g, "join");
        break;
    case 6:
        model_calls(m, u, g, "leave");
        break;
    case 7:
        group_create_later(w.c, str_of(model_group[g]), str_of(draw(&m->rng) % 2 ? "N" : ""));
        break;
    case 8:
        if (v != NULL)
            group_rename(w.c, v, str_of(draw(&m->rng) % 2 ? "X" : "Y"));
        break;
    case 9:
        if (draw(&m->rng) % 4 == 0)
            model_calls(m, u, g, "dismiss");
        break;
    case 10:
        model_does(m, u, g, true);
        break;
    case 11:
        model_does(m, u, g, false);
        break;
    case 12:
        model_loses(m, u, g);
        break;
    case 13:
        if (m->conn[i]->deferred == 0) {
            goes(m->conn[i]);
            model_enters(m, i);
        }
        break;
    default:
        model_disk(m);
    }
}

/* Whatever is asked for, done at once, or lost, in whichever order: it is as was answered, also
 * when all of it has come to rest, and a restart finds what there was. Half of the rounds are about
 * one user and one group, so that several changes of one member meet. */
TEST(chat_store_groups_at_random)
{
    struct model m = {.rng = 1};

    begin("jim.store=on", "jim.login.groups=g0", "jim.store.segment=4k", "jim.store.keep.bytes=16k",
          NULL);
    for (int round = 0; round < 300; round++) {
        for (int i = 0; i < CONNS_OF_MODEL; i++)
            model_enters(&m, i);
        uint32_t users = round % 2 != 0 ? 1 : USERS_OF_MODEL;
        uint32_t groups = round % 2 != 0 ? 1 : GROUPS_OF_MODEL;
        for (int i = 0; i < 400; i++) {
            something_with_groups(&m, users, groups);
            model_hears(&m);
            model_check(&m, round, "on the way");
        }
        disk.full = false;
        model_rests(&m);
        record_save(w.c, SIZE_MAX);
        model_rests(&m);
        CHECK(!record_unsaved(w.c));
        model_hears(&m);
        CHECK_INT(m.n, 0);
        model_check(&m, round, "at rest");
        char *before = groups_text();
        restart();
        model_check(&m, round, "after a restart");
        char *after = groups_text();
        if (strcmp(before, after) != 0)
            test_fail(__FILE__, __LINE__, "round %d: before\n%s\nafter\n%s", round, before, after);
        free(before);
        free(after);
    }
    CHECK(access("data/00000000000000000001.log", F_OK) != 0); /* retention has been at work */
    end();
}

TEST(chat_store_friends_again_what_was_lost)
{
    begin("jim.store=on", NULL);
    struct conn *http = comes(PROTO_HTTP);
    static const char call[] = "{'userId':'a','friends':[{'groupId':'f','users':['b']}]}";
    disk.full = true;
    calls(http, "/api/user/friends", call);
    commit();
    answers(http, 503, "{'code':10027,~}");
    calls(http, "/api/user/friends", call);
    commit();
    answers(http, 503, "{'code':10027,~}");
    disk.full = false;
    calls(http, "/api/user/friends", call);
    silent(http);
    dies_when_answered(http);
    struct user *u = user_find(&w.c->roster, STR("a"));
    CHECK(u != NULL && u->profile != NULL && u->profile->friends != NULL);
    end();
}

/* --- store: a full disk, a dead disk --------------------------------------------------------- */

TEST(chat_store_disk_full)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");
    joins(alice, "g");
    joins(bob, "g");
    sends(alice, "bob", "1", "m1");
    sends(alice, "#g", "1", "g1");
    commit();
    quiet();

    disk.full = true;
    sends(alice, "bob", "2", "m2");
    sends(alice, "bob", "3", "m3");
    sends(alice, "bob", "2", "m2"); /* a retry of what is about to be lost */
    sends(alice, "#g", "2", "g2");
    sends(bob, "alice", "4", "m4");
    commit();
    for (int i = 0; i < 4; i++)
        hears_code(alice, 12, 10027);
    silent(alice);
    hears_code(bob, 12, 10027);
    silent(bob); /* nothing of it has been shown */
    fetches(bob, "{'userId':'bob','type':1,'fromUserId':'alice'}", "10018 alice:1");
    fetches(bob, "{'userId':'bob','type':0}", "10016");
    sends(alice, "bob", "2", "m2"); /* still full */
    commit();
    hears_code(alice, 12, 10027);
    CHECK(!store_failed(w.j->store));

    disk.full = false;
    sends(alice, "bob", "two", "m2"); /* refused, so this is no retry; and there is no gap */
    commit();
    hears_chat(bob, "alice", "bob", "two", "m2", 2);
    hears_ack(alice, 10000, "m2", 2);
    sends(alice, "#g", "two", "g2");
    commit();
    hears_chat(bob, "alice", "#g", "two", "g2", 2);
    quiet();
    for (int i = 0; i < 2; i++) {
        says(bob, 19, "{'userId':'bob','type':1,'fromUserId':'alice','afterSeq':1}");
        hears(bob, "{'code':10018,'command':20,'data':{'friends':{'alice':[{'chatType':2,"
                   "'content':'two','createTime':@,'from':'alice','id':'m2','seq':2,'to':'bob'}]},"
                   "'groups':{},'userId':'bob'},~}");
        fetches(bob, "{'userId':'bob','type':1,'groupId':'g'}", "10018 #g:1,2");
        restart();
        bob = enters("bob");
        fetches(bob, "{'userId':'bob','type':0}", "10016");
    }
    end();
}

/* Sent again, a message that is on disk gets its first answer, also when later ones are lost. */
TEST(chat_store_retry_of_what_is_safe)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");
    sends(alice, "bob", "1", "m1");
    commit();
    quiet();
    disk.full = true;
    sends(alice, "bob", "2", "m2");
    sends(alice, "bob", "1", "m1");
    commit();
    hears_code(alice, 12, 10027);
    hears_ack(alice, 10000, "m1", 1);
    silent(bob);
    end();
}

/* A batch is on its way and another one gathers behind it: both are lost, in order. */
TEST(chat_store_disk_full_behind)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");
    sends(alice, "bob", "1", "m1");
    commit();
    quiet();
    disk.full = true;
    sends(alice, "bob", "2", "m2");
    store_commit(w.j->store);
    sends(alice, "bob", "3", "m3");
    sends(alice, "carol", "1", "c1");
    commit();
    for (int i = 0; i < 3; i++)
        hears_code(alice, 12, 10027);
    silent(alice);
    disk.full = false;
    sends(alice, "bob", "2", "m2");
    sends(alice, "carol", "1", "c1");
    commit();
    hears_ack(alice, 10000, "m2", 2);
    hears_ack(alice, 10001, "c1", 1);
    hears_chat(bob, "alice", "bob", "2", "m2", 2);
    silent(bob);
    restart();
    bob = enters("bob");
    fetches(bob, "{'userId':'bob','type':1,'fromUserId':'alice'}", "10018 alice:1,2");
    end();
}

/* Users, groups and memberships made while nothing could be written are on disk afterwards. */
TEST(chat_store_states_are_written_again)
{
    begin("jim.store=on", NULL);
    disk.full = true;
    struct conn *alice = enters("alice"), *bob = enters("bob");
    struct conv *v = founds("g", "the group");
    group_add(w.c, v, alice->user);
    group_add(w.c, v, bob->user);
    commit();
    quiet();
    CHECK(record_unsaved(w.c));
    record_save(w.c, 1000); /* still full */
    commit();
    CHECK(record_unsaved(w.c));
    disk.full = false;
    record_save(w.c, 1000);
    commit();
    CHECK(!record_unsaved(w.c));
    sends(bob, "#g", "x", "1");
    commit();
    quiet();
    restart();
    struct conn *carol = enters("carol");
    says(carol, 17, "{'userId':'alice'}"); /* known */
    hears(carol, "{'code':10003,'command':18,'data':{'nick':'alice','status':'offline',"
                 "'userId':'alice'},~}");
    alice = enters("alice");
    says(alice, 17, "{'userId':'alice','type':1}");
    hears(alice, "{'code':10006,'command':18,'data':{'friends':[],'groups':[{'groupId':'g',"
                 "'name':'the group','online':1,'users':[{'nick':'bob','status':'offline',"
                 "'userId':'bob'}]}],'nick':'alice','status':'online','terminal':'tcp',"
                 "'userId':'alice'},~}");
    end();
}

static uint64_t
append_refused(struct store *s, char type, struct str conv, uint64_t seq, struct str json,
               int64_t now_ms, struct store_index *index)
{
    (void)s, (void)type, (void)conv, (void)seq, (void)json, (void)now_ms, (void)index;
    return 0;
}

/* The store takes nothing for a while, for too much waits for a disk that hangs: what is so already
 * is written when it does again, and what was asked for is refused at once. */
TEST(chat_store_states_refused)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice");
    const struct store_ops *ops = w.j->store->ops;
    struct store_ops refusing = *ops;
    refusing.append = append_refused;
    w.j->store->ops = &refusing;
    CHECK(group_add(w.c, founds("g", "the group"), alice->user));
    CHECK(user_find(&w.c->roster, STR("bob")) == NULL);
    enters("bob");
    quiet();
    says(alice, 7, "{'groupId':'h'}");
    hears(alice, "{'code':10027,'command':8,~,'result':0}");
    record_save(w.c, 1000); /* in vain */
    w.j->store->ops = ops;
    CHECK(record_unsaved(w.c));
    record_save(w.c, 1000);
    commit();
    CHECK(!record_unsaved(w.c));
    restart();
    CHECK(is_member("alice", "g") && !is_member("alice", "h"));
    CHECK_STR(str_of(group_find(&w.c->roster, STR("g"))->name), "the group");
    struct user *bob = user_find(&w.c->roster, STR("bob"));
    CHECK(bob != NULL && bob->known);
    end();
}

/* Joined and left while nothing could be written: what is so at last counts. */
TEST(chat_store_left_while_full)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice");
    joins(alice, "h");
    commit();
    disk.full = true;
    struct conv *g = founds("g", ""), *h = founds("h", "");
    CHECK(group_add(w.c, g, alice->user) && group_remove(w.c, g, alice->user));
    CHECK(group_remove(w.c, h, alice->user) && group_add(w.c, h, alice->user));
    commit();
    quiet();
    disk.full = false;
    record_save(w.c, 1000);
    commit();
    restart();
    alice = enters("alice");
    sends(alice, "#g", "x", NULL);
    hears_code(alice, 12, 10024);
    sends(alice, "#h", "x", "1");
    commit();
    hears_chat(alice, "alice", "#h", "x", "1", 1);
    end();
}

/* He joins behind messages that are then lost: their numbers are given again, and those are his. */
TEST(chat_store_joined_behind_what_was_lost)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");
    joins(alice, "g");
    commit();
    disk.full = true;
    sends(alice, "#g", "lost 1", NULL);
    sends(alice, "#g", "lost 2", NULL);
    group_add(w.c, founds("g", ""), bob->user);
    commit();
    quiet();
    disk.full = false;
    record_save(w.c, 1000);
    commit();
    goes(bob);
    quiet();
    sends(alice, "#g", "1", NULL);
    commit();
    quiet();
    bob = enters("bob");
    fetches(bob, "{'userId':'bob','type':0}", "10016 #g:1");
    end();
}

/* The same in a conversation of two: the sender's own cursor, and what he hears afterwards. */
TEST(chat_store_lost_private)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");
    commit();
    disk.full = true;
    sends(alice, "bob", "lost", NULL);
    sends(bob, "alice", "lost", NULL);
    commit();
    hears_code(alice, 12, 10027);
    hears_code(bob, 12, 10027);
    disk.full = false;
    goes(alice);
    goes(bob);
    alice = enters("alice");
    sends(alice, "bob", "1", NULL);
    commit();
    goes(alice);
    bob = enters("bob");
    sends(bob, "alice", "2", NULL);
    commit();
    quiet();
    fetches(bob, "{'userId':'bob','type':0}", "10016 alice:1");
    alice = enters("alice");
    fetches(alice, "{'userId':'alice','type':0}", "10016 bob:2");
    end();
}

/* Moved cursors whose batch is lost: at worst a message comes twice. */
TEST(chat_store_lost_cursor)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");
    sends(alice, "bob", "1", NULL);
    commit();
    quiet();
    disk.full = true;
    record_save(w.c, 1000);
    sends(alice, "bob", "lost", NULL); /* so that there is something to wait for */
    commit();
    disk.full = false;
    forget_output(alice, true);
    sends(alice, "bob", "2", NULL);
    commit();
    breaks(bob);
    restart();
    bob = enters("bob");
    says(bob, 19, "{'userId':'bob','type':0}");
    const char *got = fetched(bob);
    CHECK(strcmp(got, "10016 alice:2") == 0 || strcmp(got, "10016 alice:1,2") == 0);
    end();
}

TEST(chat_store_dead_disk)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");
    joins(alice, "g");
    joins(bob, "g");
    sends(alice, "bob", "1", "m1");
    sends(alice, "#g", "1", "g1");
    commit();
    quiet();
    goes(bob);
    sends(alice, "bob", "2", "m2");
    commit();
    quiet();

    disk.sync_fails = true;
    sends(alice, "bob", "3", "m3");
    sends(alice, "bob", "3", "m3");
    commit();
    hears_code(alice, 12, 10027);
    hears_code(alice, 12, 10027);
    silent(alice);
    CHECK(store_failed(w.j->store));
    disk.sync_fails = false; /* it is too late for that */
    for (int i = 0; i < 3; i++) {
        sends(alice, "bob", "3", "m3"); /* refused at once */
        hears_code(alice, 12, 10027);
        sends(alice, "#g", "2", NULL);
        hears_code(alice, 12, 10027);
    }
    sends(alice, "bob", "1", "m1"); /* what is on disk was sent, and stays so */
    hears_ack(alice, 10001, "m1", 1);
    CHECK(!record_unsaved(w.c));

    bob = enters("bob"); /* reading, coming and going still work */
    fetches(bob, "{'userId':'bob','type':1,'fromUserId':'alice'}", "10018 alice:1,2");
    fetches(bob, "{'userId':'bob','type':0}", "10016 alice:2");
    fetches(bob, "{'userId':'bob','type':1,'groupId':'g'}", "10018 #g:1");
    struct conn *carol = enters("carol");
    says(carol, 7, "{'groupId':'g'}"); /* but nothing that cannot be kept */
    hears(carol, "{'code':10027,'command':8,~,'result':0}");
    CHECK_INT(group_find(&w.c->roster, STR("g"))->nmembers, 2);
    record_save(w.c, 1000);
    quiet();
    end();
}

/* It fails while one batch is on its way and another one gathers. */
TEST(chat_store_dead_disk_behind)
{
    begin("jim.store=on", NULL);
    struct conn *alice = enters("alice"), *bob = enters("bob");
    commit();
    disk.sync_fails = true;
    sends(alice, "bob", "1", "m1");
    store_commit(w.j->store);
    sends(alice, "bob", "2", "m2");
    sends(bob, "alice", "3", "m3");
    commit();
    hears_code(alice, 12, 10027);
    hears_code(alice, 12, 10027);
    hears_code(bob, 12, 10027);
    silent(alice);
    silent(bob);
    CHECK(alice->deferred == 0 && bob->deferred == 0);
    end();
}

/* --- everything at once ---------------------------------------------------------------------- */

enum { CROWD = 5, CROWD_GROUPS = 2, MAX_SAID = 3000, MAX_OWED = 40 };

enum fate { UNSAID, UNKNOWN, REFUSED, ACCEPTED }; /* of a message, as far as its sender knows */

static struct crowd {
    uint64_t seed;
    struct {
        int from, to; /* user; or CROWD + group */
        enum fate fate;
        int64_t seq;            /* 0: nobody has heard it */
        int heard[CROWD];
    } said[MAX_SAID];
    int n;
    struct {
        struct conn *c;
        int owed[MAX_OWED], first, count; /* messages whose answers are owed, oldest first */
    } at[CROWD][3];
} crowd;

static uint32_t
draw_below(uint32_t n)
{
    return draw(&crowd.seed) % n;
}

/* A chat object that has reached user u. */
static void
crowd_hears_chat(int u, const struct json *chat)
{
    struct request r;
    struct json_iter it;
    struct json key, value;
    int64_t seq = 0;
    char id[16] = "";

    CHECK(request_parse(&r, (struct str){chat->p, chat->n}) && r.f[F_ID].n < sizeof id);
    memcpy(id, r.f[F_ID].p, r.f[F_ID].n);
    int m = atoi(id);
    CHECK(m >= 0 && m < crowd.n);
    json_enter(&it, chat);
    while (json_next(&it, &key, &value) > 0)
        if (str_eq((struct str){key.p, key.n}, STR("seq")))
            json_int(&value, &seq);
    CHECK(seq > 0);
    if (crowd.said[m].seq != 0)
        CHECK_INT(seq, crowd.said[m].seq); /* its number is its number, whoever hears it */
    crowd.said[m].seq = seq;
    CHECK(crowd.said[m].to >= CROWD || crowd.said[m].to == u || crowd.said[m].from == u);
    crowd.said[m].heard[u]++;
}

/* An answer 20: everything in it has reached user u. Returns how many, or -1 - that for `more`. */
static int
crowd_hears_answer(int u, const struct json *data)
{
    struct json_iter it, map, list;
    struct json key, value, chats, chat;
    int n = 0;
    bool more = false;

    json_enter(&it, data);
    while (json_next(&it, &key, &value) > 0) {
        more |= value.type == JSON_TRUE;
        if (value.type != JSON_OBJECT)
            continue;
        json_enter(&map, &value);
        while (json_next(&map, &key, &chats) > 0) {
            json_enter(&list, &chats);
            for (; json_next(&list, NULL, &chat) > 0; n++)
                crowd_hears_chat(u, &chat);
        }
    }
    return more ? -1 - n : n;
}

static void
crowd_hears_ack(int u, int k, int64_t code)
{
    CHECK(crowd.at[u][k].count > 0);
    int m = crowd.at[u][k].owed[crowd.at[u][k].first];

    crowd.at[u][k].first = (crowd.at[u][k].first + 1) % MAX_OWED;
    crowd.at[u][k].count--;
    CHECK(code == 10000 || code == 10001 || code == 10027);
    if (code != 10027)
        crowd.said[m].fate = ACCEPTED;
    else if (crowd.said[m].fate == UNSAID)
        crowd.said[m].fate = REFUSED;
}

/* User u reads one message on his k-th connection. Returns what crowd_hears_answer() says. */
static int
crowd_reads(int u, int k)
{
    struct conn *c = crowd.at[u][k].c;
    const struct msg *m = c->out->entry[c->out->head].msg;
    struct json_iter it;
    struct json key, value;
    int64_t code = 0;
    int result = 0;

    CHECK(json_open(&it, m->data, m->len) == 0);
    while (json_next(&it, &key, &value) > 0) {
        if (str_eq((struct str){key.p, key.n}, STR("code")))
            json_int(&value, &code);
        else if (str_eq((struct str){key.p, key.n}, STR("data")) && m->command == 11)
            crowd_hears_chat(u, &value);
        else if (str_eq((struct str){key.p, key.n}, STR("data")) && m->command == 20)
            result = crowd_hears_answer(u, &value);
    }
    if (m->command == 12)
        crowd_hears_ack(u, k, code);
    pop(c, true);
    return result;
}

static void
crowd_leaves(int u, int k)
{
    struct conn *c = crowd.at[u][k].c;

    if (c == NULL)
        return;
    for (; crowd.at[u][k].count > 0; crowd.at[u][k].count--) {
        int m = crowd.at[u][k].owed[crowd.at[u][k].first];
        crowd.at[u][k].first = (crowd.at[u][k].first + 1) % MAX_OWED;
        if (crowd.said[m].fate != ACCEPTED)
            crowd.said[m].fate = UNKNOWN; /* he will never know */
    }
    crowd.at[u][k].c = NULL;
    breaks(c);
}

static void
crowd_comes(int u, int k)
{
    char json[40];

    if (crowd.at[u][k].c != NULL || w.conns == MAX_CONNS)
        return;
    crowd.at[u][k].c = comes(k % 2 ? PROTO_WS : PROTO_TCP);
    snprintf(json, sizeof json, "{'userId':'u%d'}", u);
    says(crowd.at[u][k].c, 5, json);
}

/* Say message m, for the first time or again. */
static void
crowd_says(int u, int k, int m)
{
    char json[200];
    int to = crowd.said[m].to;

    if (crowd.at[u][k].c == NULL || crowd.at[u][k].count == MAX_OWED)
        return;
    if (to < CROWD)
        snprintf(json, sizeof json, "{'chatType':2,'to':'u%d','content':'%d','id':'%d'}", to, m, m);
    else
        snprintf(json, sizeof json, "{'chatType':1,'groupId':'g%d','content':'%d','id':'%d'}",
                 to - CROWD, m, m);
    crowd.at[u][k].owed[(crowd.at[u][k].first + crowd.at[u][k].count++) % MAX_OWED] = m;
    says(crowd.at[u][k].c, 11, json);
}

static void
crowd_says_something(int u, int k)
{
    if (crowd.at[u][k].c == NULL || crowd.n == MAX_SAID)
        return;
    crowd.said[crowd.n].from = u;
    crowd.said[crowd.n].to = (int)draw_below(CROWD + CROWD_GROUPS);
    crowd_says(u, k, crowd.n++);
}

static void
crowd_repeats(int u, int k)
{
    int m = crowd.n > 0 ? (int)draw_below((uint32_t)crowd.n) : 0;

    if (crowd.n > 0 && crowd.said[m].from == u)
        crowd_says(u, k, m);
}

static void
crowd_restarts(void)
{
    for (int u = 0; u < CROWD; u++)
        for (int k = 0; k < 3; k++)
            crowd_leaves(u, k);
    disk.full = false;
    commit();
    record_save(w.c, draw_below(2) ? 1000 : 0);
    restart();
}

/* The machine stops: what is on disk is copied away as it is, what is in memory is gone. */
static void
crowd_crashes(void)
{
    disk.full = false;
    commit();
    for (int i = 0; i < 20; i++)
        crowd_says_something((int)draw_below(CROWD), (int)draw_below(3)); /* these stay in memory */
    for (int u = 0; u < CROWD; u++)
        for (int k = 0; k < 3; k++)
            crowd_leaves(u, k);
    CHECK(system("cp -r data crashed") == 0);
    stop();
    CHECK(system("rm -rf data && mv crashed data") == 0);
    start();
}

static void
crowd_step(void)
{
    int u = (int)draw_below(CROWD), k = (int)draw_below(3);
    struct conn *c = crowd.at[u][k].c;
    char json[40];

    now += draw_below(50);
    switch (draw_below(16)) {
    case 0:
        crowd_comes(u, k);
        break;
    case 1:
        if (draw_below(3) == 0)
            crowd_leaves(u, k);
        break;
    case 2:
    case 3:
    case 4:
        crowd_says_something(u, k);
        break;
    case 5:
        crowd_repeats(u, k);
        break;
    case 6:
        snprintf(json, sizeof json, "{'userId':'u%d','type':0}", u);
        if (c != NULL && c->deferred == 0)
            says(c, 19, json);
        break;
    case 7:
        commit();
        break;
    case 8:
        deliver_committed(w.c);
        store_commit(w.j->store);
        break;
    case 9:
        if (draw_below(4) == 0)
            record_save(w.c, 1 + draw_below(5));
        break;
    case 10:
        if (draw_below(6) == 0)
            disk.full = !disk.full;
        break;
    default:
        for (uint32_t n = draw_below(12); n > 0 && c != NULL && has_something(c); n--)
            crowd_reads(u, k);
    }
}

/* At last everybody comes, and reads all there is for him. */
static void
crowd_ends(void)
{
    char json[60];

    disk.full = false;
    commit();
    for (int u = 0; u < CROWD; u++)
        for (int k = 0; k < 3; k++)
            while (crowd.at[u][k].c != NULL && has_something(crowd.at[u][k].c))
                crowd_reads(u, k);
    for (int u = 0; u < CROWD; u++) {
        crowd_comes(u, 0);
        while (has_something(crowd.at[u][0].c))
            crowd_reads(u, 0);
        snprintf(json, sizeof json, "{'userId':'u%d','type':0}", u);
        commit();
        for (int more = -1; more < 0;) {
            says(crowd.at[u][0].c, 19, json);
            while (has_something(crowd.at[u][0].c))
                more = crowd_reads(u, 0);
        }
        says(crowd.at[u][0].c, 19, json);
        const char *left = fetched(crowd.at[u][0].c);
        CHECK_BYTES(left, strlen(left), "10016");
        pop(crowd.at[u][0].c, true);
    }
}

static bool
same_conversation(int a, int b)
{
    int from_a = crowd.said[a].from, to_a = crowd.said[a].to;
    int from_b = crowd.said[b].from, to_b = crowd.said[b].to;

    if (to_a >= CROWD || to_b >= CROWD)
        return to_a == to_b;
    return (from_a == from_b && to_a == to_b) || (from_a == to_b && to_a == from_b);
}

/* What was accepted has reached all it was meant for; what was refused, nobody. */
static void
crowd_check(void)
{
    for (int m = 0; m < crowd.n; m++) {
        int64_t seq = crowd.said[m].seq;
        bool before = seq <= 1;
        for (int u = 0; u < CROWD; u++) {
            int to = crowd.said[m].to;
            bool meant = to >= CROWD || to == u;
            if (meant && crowd.said[m].fate == ACCEPTED && crowd.said[m].heard[u] == 0)
                test_fail(__FILE__, __LINE__, "%d (to %d, seq %lld) never reached %d", m, to,
                          (long long)seq, u);
            if (crowd.said[m].fate == REFUSED && crowd.said[m].heard[u] > 0)
                test_fail(__FILE__, __LINE__, "%d was refused, but %d heard it", m, u);
        }
        for (int other = 0; other < crowd.n && seq > 0; other++) {
            if (other == m || !same_conversation(m, other))
                continue;
            CHECK(crowd.said[other].seq != seq);
            before |= crowd.said[other].seq == seq - 1;
        }
        CHECK(before); /* no gap: a message has one before it, or is the first */
    }
}

TEST(chat_store_everything)
{
    for (uint64_t life = 1; life <= 8; life++) {
        memset(&crowd, 0, sizeof crowd);
        crowd.seed = life * 0x9e3779b97f4a7c15;
        w.options = 0;
        begin("jim.store=on", "jim.fetch.max=7", "jim.store.segment=64k",
              "jim.login.groups=g0,g1", NULL);
        for (int u = 0; u < CROWD; u++) { /* everybody is in both groups before it begins */
            crowd_comes(u, 0);
            forget_output(crowd.at[u][0].c, true);
        }
        commit();
        quiet();
        for (int step = 0; step < 12000; step++) {
            if (step % 4000 == 1999)
                crowd_restarts();
            if (step % 4000 == 3999)
                crowd_crashes();
            crowd_step();
        }
        crowd_ends();
        crowd_check();
        end();
        CHECK(system("rm -rf data") == 0);
    }
}
