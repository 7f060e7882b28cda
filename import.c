/* SPDX-License-Identifier: MIT */
/*
 * import.c - `jim import`: what was said and joined elsewhere, into a store. It is replayed and
 * written by the functions the server itself uses, with the store locked as a server locks it; only
 * nobody is told.
 *
 * An import that did not end can be run again, and one that did as well: what is there already is
 * found and skipped. For messages that takes a fingerprint of each in memory, and where one fits, a
 * look at the message itself, so that none is ever lost to a coincidence. Everything else is
 * written only when it is news, and cursors only rise.
 *
 *   the store      opened, written to in batches, synced at the end
 *   messages there which ones the store has
 *   numbers        a message may get another number here than it had: cursors are translated
 *   messages       from a chat object to a record
 *   the rest       users, groups, memberships, cursors
 *   lines          JSON lines from a descriptor
 */
#include "jim.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define COMMIT_BYTES (1u << 20) /* appended between two batches */
#define WAIT_BYTES (8u << 20)   /* appended before the disk is waited for: bounds what waits */
#define SAVE_CURSORS 4096       /* and cursors */
#define MAX_STATE (2 * MAX_FRIENDS) /* bytes of a user's or group's line */
#define MAX_KEPT INT64_C(1000000000000000) /* a number from outside above this is not kept: there
                                              must be room behind it, for clients too (2^53) */
#define MAX_RUNS (1u << 20)     /* pieces of translation kept: 24 MiB. Beyond, a cursor may stay
                                   too low, and what is behind it be delivered again */
#define PROGRESS_MS 500

/* --- the store -------------------------------------------------------------------------------- */

/* Numbers that followed one another there and do so here. */
struct run {
    uint64_t there, here, n;
};

/* What an import knows of a conversation. */
struct track {
    uint32_t hash;
    struct conv *conv; /* borrowed */
    uint64_t upto;     /* highest number of what was imported, or was there already */
    struct run *run;   /* owned */
    size_t runs, cap;
};

/* The first message a user waits for. */
struct first {
    uint32_t hash;
    struct user *user; /* borrowed */
    struct conv *conv; /* borrowed */
    uint64_t seq;
};

static bool
track_is(const void *item, const void *key)
{
    return ((const struct track *)item)->conv == key;
}

static struct track *
track_find(const struct import *im, struct conv *v)
{
    return map_find(&im->tracks, map_hash(&im->tracks, &v, sizeof v), track_is, v);
}

static struct track *
track_get(struct import *im, struct conv *v)
{
    struct track *t = track_find(im, v);

    if (t != NULL)
        return t;
    t = xcalloc(1, sizeof *t);
    t->hash = map_hash(&im->tracks, &v, sizeof v);
    t->conv = v;
    map_add(&im->tracks, t);
    return t;
}

static void seen_add(struct prints *s, uint64_t print, uint64_t seq);

/* A message's id, copied to dst; false when it has none that is kept. */
static bool
message_id(const struct request *r, char dst[6 * MAX_MESSAGE_ID], struct str *id)
{
    const struct json *v = &r->f[F_ID];

    if (v->type == JSON_NONE || v->n > 6 * MAX_MESSAGE_ID)
        return false;
    *id = (struct str){dst, json_text(v, dst)};
    return id->n > 0 && id->n <= MAX_MESSAGE_ID;
}

/* At the start: a record of the store. */
static void
import_replay(void *arg, const struct store_rec *rec)
{
    struct import *im = arg;
    char from_text[MAX_ID], id_text[6 * MAX_MESSAGE_ID];
    struct request r;
    struct str from, id;

    record_replay(&im->chat, rec);
    if (rec->type != REC_MESSAGE)
        return;
    struct conv *v = conv_find_key(&im->chat.roster, rec->conv);
    if (v == NULL || !request_parse(&r, rec->json))
        return;
    if (request_id(&r, F_FROM, from_text, &from) && message_id(&r, id_text, &id))
        seen_add(&im->seen, retry_print(&im->chat.retries, user_get(&im->chat.roster, from), v, id),
                 rec->seq);
}

bool
import_open(struct import *im, const char *dir)
{
    *im = (struct import){.dir = dir, .log = {stderr, LOG_LEVEL_WARN}};
    conf_init(&im->opt);
    chat_init(&im->chat, &im->opt, &im->log, &im->stats);
    map_init(&im->tracks);
    map_init(&im->firsts);
    im->progress = isatty(STDERR_FILENO) == 1;
    /* Not synced batch by batch: nothing is promised before the end. */
    struct store_options o = {.dir = dir, .policy = STORE_OFF,
                              .segment = (uint64_t)im->opt.store_segment, .log = &im->log,
                              .replay = import_replay, .arg = im};
    im->chat.store = store_open(&o);
    return im->chat.store != NULL;
}

static void
import_fail(struct import *im, const char *why)
{
    if (im->failed == NULL)
        im->failed = why;
}

/* The states that were written are pending until they are on disk; here, until all is. */
static void
note_states(struct import *im)
{
    struct chat *c = &im->chat;

    if (c->pending_n == 0)
        return;
    size_t last = (c->pending_head + c->pending_n - 1) & (c->pending_cap - 1);
    if (c->pending[last].number > im->wrote)
        im->wrote = c->pending[last].number;
    im->waiting += c->pending_n * 256; /* about */
    c->pending_n = 0; /* a batch that is lost ends the import: none is written again */
}

/* Wait until all that was appended can be read again. */
static bool
import_flush(struct import *im)
{
    struct store *s = im->chat.store;

    note_states(im);
    im->waiting = 0;
    while (im->failed == NULL && store_durable(s) < im->wrote) {
        store_commit(s);
        if (store_poll(s) == STORE_LOST || store_failed(s)) {
            import_fail(im, "the store cannot be written");
            break;
        }
        nanosleep(&(struct timespec){0, 100000}, NULL);
    }
    return im->failed == NULL;
}

/* Something was appended: hand it to the disk now and then. */
static void
import_wrote(struct import *im, size_t bytes)
{
    struct store *s = im->chat.store;
    size_t before = im->waiting;

    note_states(im);
    im->waiting += bytes;
    if (im->waiting > WAIT_BYTES) {
        import_flush(im);
    } else if (before / COMMIT_BYTES != im->waiting / COMMIT_BYTES) {
        store_commit(s);
        if (store_poll(s) == STORE_LOST)
            import_fail(im, "the store cannot be written");
    }
}

void
import_refuse(struct import *im, struct str where, const char *why)
{
    log_write(&im->log, LOG_LEVEL_WARN, "%.*s: %s", (int)where.n, where.p, why);
    im->refused++;
}

void
import_tick(struct import *im)
{
    im->read++;
    if (!im->progress || (im->read & 255) != 0 || time_mono_ms() < im->progress_ms)
        return;
    im->progress_ms = time_mono_ms() + PROGRESS_MS;
    fprintf(stderr, "\r%" PRIu64 " read, %" PRIu64 " messages new ", im->read, im->messages);
}

static void
print_summary(const struct import *im, FILE *out)
{
    const struct {
        uint64_t n;
        const char *text;
    } notes[] = {
        {im->no_id, "messages had no id that is kept, and got one made of their content"},
        {im->no_from, "group messages had no sender: they are from 'system'"},
        {im->late, "messages have a createTime far before their time: history by time may not find "
                   "them"},
        {im->stamped, "messages had a createTime ahead of their time, and got that"},
    };

    fprintf(out, "%s: imported %" PRIu64 " messages, %" PRIu64 " users, %" PRIu64 " groups, %"
            PRIu64 " memberships, %" PRIu64 " cursors; %" PRIu64 " messages were there already; %"
            PRIu64 " refused\n", im->dir, im->messages, im->users, im->groups, im->members,
            im->cursors, im->again, im->refused);
    for (size_t i = 0; i < sizeof notes / sizeof notes[0]; i++)
        if (notes[i].n > 0)
            fprintf(out, "%s: %" PRIu64 " %s\n", im->dir, notes[i].n, notes[i].text);
}

static void
import_free(struct import *im)
{
    struct map *maps[] = {&im->tracks, &im->firsts};
    void *item;

    for (size_t i = 0, at = 0; i < 2; i++, at = 0) {
        while ((item = map_next(maps[i], &at)) != NULL) {
            if (i == 0)
                free(((struct track *)item)->run);
            free(item);
        }
        map_free(maps[i]);
    }
    free(im->seen.print);
    free(im->seen.seq);
    buf_free(&im->line);
    buf_free(&im->text);
    chat_free(&im->chat);
    conf_free(&im->opt);
}

int
import_close(struct import *im, FILE *out)
{
    struct chat *c = &im->chat;
    int code = im->refused > 0 ? 1 : 0;
    bool opened = c->store != NULL;

    while (opened && im->failed == NULL && record_unsaved(c)) {
        uint64_t last = record_save(c, SAVE_CURSORS);
        if (last > im->wrote)
            im->wrote = last;
        import_flush(im);
    }
    if (opened)
        import_flush(im);
    if (im->progress)
        fputs("\r\033[K", stderr);
    if (store_close(c->store) != 0)
        import_fail(im, "the store cannot be synced");
    if (!opened || im->failed != NULL) {
        if (im->failed != NULL)
            log_write(&im->log, LOG_LEVEL_ERROR, "%s: %s: not all is imported; run it again",
                      im->dir, im->failed);
        code = 2;
    } else {
        print_summary(im, out);
    }
    import_free(im);
    return code;
}

/* --- messages there --------------------------------------------------------------------------- */

static void
seen_put(struct prints *s, uint64_t print, uint32_t seq)
{
    size_t at = (size_t)print & (s->cap - 1);

    while (s->print[at] != 0)
        at = (at + 1) & (s->cap - 1);
    s->print[at] = print;
    s->seq[at] = seq;
}

static void
seen_add(struct prints *s, uint64_t print, uint64_t seq)
{
    if (s->n >= s->cap / 4 * 3) {
        struct prints old = *s;
        s->cap = old.cap == 0 ? 1024 : 2 * old.cap;
        s->print = xcalloc(s->cap, sizeof s->print[0]);
        s->seq = xcalloc(s->cap, sizeof s->seq[0]);
        for (size_t i = 0; i < old.cap; i++)
            if (old.print[i] != 0)
                seen_put(s, old.print[i], old.seq[i]);
        free(old.print);
        free(old.seq);
    }
    seen_put(s, print != 0 ? print : 1, (uint32_t)seq);
    s->n++;
}

/* Is message `seq` of v really the one with this id from this user? */
static bool
is_message(struct import *im, const struct conv *v, uint64_t seq, const struct user *from,
           struct str id)
{
    char from_text[MAX_ID], id_text[6 * MAX_MESSAGE_ID];
    struct store_rec rec;
    struct request r;
    struct str from_there, id_there;

    im->line.len = 0;
    int got = store_read(im->chat.store, conv_key(v), &v->index, seq, &im->line, &rec);
    if (got == -ENOENT && im->wrote > store_durable(im->chat.store) && import_flush(im))
        got = store_read(im->chat.store, conv_key(v), &v->index, seq, &im->line, &rec);
    if (got != 0)
        return got == -EIO; /* unreadable now, and once read: what is known of it must do */
    return request_parse(&r, rec.json) && request_id(&r, F_FROM, from_text, &from_there) &&
           str_eq(from_there, user_id(from)) && message_id(&r, id_text, &id_there) &&
           str_eq(id_there, id);
}

/* The number of a message that is there already, 0: it is not. */
static uint64_t
seen_seq(struct import *im, const struct conv *v, uint64_t print, const struct user *from,
         struct str id)
{
    const struct prints *s = &im->seen;

    if (s->cap == 0)
        return 0;
    if (print == 0)
        print = 1;
    for (size_t at = (size_t)print & (s->cap - 1); s->print[at] != 0; at = (at + 1) & (s->cap - 1))
        if (s->print[at] == print) {
            uint64_t seq = v->seq - ((uint32_t)v->seq - s->seq[at]); /* of the last 2^32 */
            if (is_message(im, v, seq, from, id))
                return seq;
        }
    return 0;
}

/* --- numbers ---------------------------------------------------------------------------------- */

/* Message `there` of the lines is `here` in the store. */
static void
run_note(struct import *im, struct track *t, uint64_t there, uint64_t here)
{
    struct run *last = t->runs > 0 ? &t->run[t->runs - 1] : NULL;

    if (last != NULL && there < last->there + last->n) { /* numbers begin anew: another source */
        im->runs -= t->runs;
        t->runs = 0;
        last = NULL;
    }
    if (last != NULL && there == last->there + last->n && here == last->here + last->n) {
        last->n++;
        return;
    }
    if (im->runs == MAX_RUNS)
        return;
    GROW(t->run, t->runs, t->cap, 1);
    t->run[t->runs++] = (struct run){there, here, 1};
    im->runs++;
}

/* The last message here that stands at or before number `there` of the lines. */
static uint64_t
run_here(const struct track *t, uint64_t there)
{
    size_t low = 0, high = t->runs;

    while (low < high) { /* the first run that begins behind it */
        size_t middle = low + (high - low) / 2;
        if (t->run[middle].there <= there)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0)
        return t->run[0].here - 1;
    const struct run *r = &t->run[low - 1];
    return there - r->there < r->n ? r->here + (there - r->there) : r->here + r->n - 1;
}

/* --- messages --------------------------------------------------------------------------------- */

/* Numbers of a line that no request has. */
struct marks {
    int64_t seq, time; /* -1: none */
    int64_t live[2];
};

static void
take_marks(struct str json, struct marks *m)
{
    struct json_iter it, live;
    struct json key, value, item;

    *m = (struct marks){-1, -1, {0, 0}};
    if (json_open(&it, json.p, json.n) != 0)
        return;
    while (json_next(&it, &key, &value) > 0) {
        struct str name = {key.p, key.n};
        if (str_eq(name, STR("seq")))
            json_int(&value, &m->seq);
        else if (str_eq(name, STR("time")))
            json_int(&value, &m->time);
        if (!str_eq(name, STR("live")) || value.type != JSON_ARRAY)
            continue;
        json_enter(&live, &value);
        for (int i = 0; i < 2 && json_next(&live, NULL, &item) > 0; i++)
            json_int(&item, &m->live[i]);
    }
}

/* A chat object that was read. */
struct incoming {
    const struct request *r;
    char from_text[MAX_ID], to_text[MAX_ID], id_text[6 * MAX_MESSAGE_ID];
    struct str from, to, id; /* to: the receiver or the group */
    int64_t type, create_ms;
    bool has_create;
    struct marks marks;
};

/* An id made of the whole text, so that it is the same the next time. */
static void
make_id(struct incoming *in, struct str json)
{
    static const char hex[] = "0123456789abcdef";
    struct sha1 s;
    uint8_t digest[20];

    sha1_init(&s);
    sha1_add(&s, json.p, json.n);
    sha1_end(&s, digest);
    for (size_t i = 0; i < 16; i++) {
        in->id_text[2 * i] = hex[digest[i] >> 4];
        in->id_text[2 * i + 1] = hex[digest[i] & 15];
    }
    in->id = (struct str){in->id_text, 32};
}

static const char *
take_place(struct import *im, struct incoming *in, enum import_kind kind)
{
    const struct request *r = in->r;
    bool has_group = r->f[F_GROUP_ID].type != JSON_NONE;

    if (request_int(r, F_CHAT_TYPE, 0, &in->type) < 0)
        return "chatType is no number";
    if (kind != IMPORT_ANY)
        in->type = kind == IMPORT_GROUP ? 1 : 2;
    else if (in->type == 0)
        in->type = has_group && r->f[F_TO].type == JSON_NONE ? 1 : 2;
    if (in->type != 1 && in->type != 2)
        return "chatType is neither 1 nor 2";
    if (in->type == 1 && !has_group)
        return "a group message without groupId";
    if (in->type == 2 && r->f[F_TO].type == JSON_NONE)
        return "a private message without a receiver";
    if (in->type == 2 && r->f[F_FROM].type == JSON_NONE)
        return "a private message without a sender";
    if (!request_id(r, in->type == 1 ? F_GROUP_ID : F_TO, in->to_text, &in->to))
        return in->type == 1 ? "the group's id is none that jim allows"
                             : "the receiver's id is none that jim allows";
    in->from = STR("system");
    if (r->f[F_FROM].type == JSON_NONE)
        im->no_from++;
    else if (!request_id(r, F_FROM, in->from_text, &in->from))
        return "the sender's id is none that jim allows";
    return NULL;
}

static const char *
take_chat(struct import *im, struct incoming *in, struct str json, enum import_kind kind)
{
    const struct request *r = in->r;
    int64_t n;
    const char *why;

    if (json.n > MAX_RECORD / 2)
        return "too large for a message";
    if (request_int(r, F_MSG_TYPE, 0, &n) < 0)
        return "msgType is no number";
    if (r->f[F_EXTRAS].type != JSON_NONE && r->f[F_EXTRAS].type != JSON_OBJECT)
        return "extras is no object";
    why = take_place(im, in, kind);
    if (why != NULL)
        return why;
    in->has_create = request_int(r, F_CREATE_TIME, 0, &in->create_ms) > 0;
    take_marks(json, &in->marks);
    if (!message_id(r, in->id_text, &in->id)) {
        make_id(in, json);
        im->no_id++;
    }
    return NULL;
}

/* When the message was stored; never in the future. */
static int64_t
record_time(const struct import *im, const struct incoming *in, int64_t when)
{
    int64_t now = im->chat.now_ms();

    if (when < 0)
        when = in->marks.time >= 0 ? in->marks.time : in->has_create ? in->create_ms : now;
    if (when > now)
        when = now;
    return when < 0 ? 0 : when;
}

/* Number it and store it. */
static const char *
store_chat(struct import *im, struct track *t, struct incoming *in, struct user *from, int64_t when)
{
    struct conv *v = t->conv;
    int64_t seq = in->marks.seq;
    struct sent sent = {.from = from, .conv = v, .chat_type = in->type, .id = in->id,
                        .time_ms = record_time(im, in, when)};

    sent.create_ms = in->has_create ? in->create_ms : sent.time_ms;
    bool ahead = sent.create_ms > sent.time_ms + CLOCK_SKEW_MS;
    if (ahead) /* what the server does with such a createTime, too */
        sent.create_ms = sent.time_ms;
    sent.seq = seq > 0 && seq <= MAX_KEPT && (uint64_t)seq > v->seq ? (uint64_t)seq : v->seq + 1;
    uint64_t number = send_import(&im->chat, in->r, &sent);
    if (number == 0) {
        if (im->chat.out.len + LINE_HEAD + v->keylen > MAX_RECORD)
            return "too large for a message";
        import_fail(im, "the store cannot be written");
        return im->failed;
    }
    im->wrote = number;
    im->messages++;
    im->stamped += ahead;
    im->late += sent.create_ms < sent.time_ms - CLOCK_SKEW_MS;
    seen_add(&im->seen, retry_print(&im->chat.retries, from, v, in->id), sent.seq);
    import_wrote(im, im->chat.out.len + LINE_HEAD);
    return NULL;
}

const char *
import_chat(struct import *im, struct str json, const struct request *r, enum import_kind kind,
            int64_t when_ms, struct placed *out)
{
    struct roster *roster = &im->chat.roster;
    struct incoming in = {.r = r};
    const char *why = take_chat(im, &in, json, kind);

    if (why != NULL)
        return why;
    struct user *from = user_get(roster, in.from);
    struct user *to = in.type == 2 ? user_get(roster, in.to) : NULL;
    struct conv *v = to != NULL ? pair_get(roster, from, to) : group_get(roster, in.to);
    struct track *t = track_get(im, v);
    uint64_t seq = seen_seq(im, v, retry_print(&im->chat.retries, from, v, in.id), from, in.id);
    if (seq != 0) {
        im->again++;
    } else {
        why = store_chat(im, t, &in, from, when_ms);
        if (why != NULL)
            return why;
        seq = v->seq;
    }
    if (seq > t->upto)
        t->upto = seq;
    if (in.marks.seq > 0)
        run_note(im, t, (uint64_t)in.marks.seq, seq);
    if (out != NULL)
        *out = (struct placed){v, to, seq};
    return NULL;
}

/* --- the rest --------------------------------------------------------------------------------- */

/* The line as a record has it: compact, without nulls, and nothing in it of a type that clients do
 * not expect. */
static const char *
clean_state(struct import *im, struct str json)
{
    static const char *const texts[] = {"avatar", "name", "nick", "sign"};
    struct json whole = {.p = json.p, .n = (uint32_t)json.n, .type = JSON_OBJECT};
    struct json_iter it;
    struct json key, value;

    if (json.n > MAX_STATE)
        return "too large";
    if (json_open(&it, json.p, json.n) != 0)
        return "not a JSON object";
    while (json_next(&it, &key, &value) > 0) {
        struct str name = {key.p, key.n};
        if (value.type == JSON_NULL)
            continue;
        for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
            if (str_eq(name, str_of(texts[i])) && value.type != JSON_STRING)
                return "avatar, name, nick and sign are texts";
        if (str_eq(name, STR("extras")) && value.type != JSON_OBJECT)
            return "extras is no object";
    }
    im->text.len = 0;
    json_put_value(&im->text, &whole);
    return NULL;
}

const char *
import_user(struct import *im, struct str json, const struct request *r)
{
    char text[MAX_ID];
    struct str id;

    if (!request_id(r, F_USER_ID, text, &id))
        return "the user's id is missing or none that jim allows";
    const char *why = clean_state(im, json);
    if (why == NULL)
        why = profile_check((struct str){im->text.p, im->text.len});
    if (why != NULL)
        return why;
    im->users += record_learn(&im->chat, user_get(&im->chat.roster, id),
                              (struct str){im->text.p, im->text.len});
    import_wrote(im, 0);
    return NULL;
}

const char *
import_group(struct import *im, struct str json, const struct request *r)
{
    char text[MAX_ID];
    struct str id;

    if (!request_id(r, F_GROUP_ID, text, &id))
        return "the group's id is missing or none that jim allows";
    const char *why = clean_state(im, json);
    if (why != NULL)
        return why;
    if ((r->f[F_NAME].type == JSON_NONE || r->f[F_NAME].n == 0) &&
        r->f[F_DISMISSED].type != JSON_TRUE)
        return NULL; /* says nothing: a group is there when somebody is in it */
    if (r->f[F_NAME].n > 6 * MAX_ID)
        return "the group's name is too long";
    im->groups += record_import(&im->chat, group_get(&im->chat.roster, id),
                                (struct str){im->text.p, im->text.len});
    import_wrote(im, 0);
    return NULL;
}

/* He has got everything up to seq. */
static void
import_cursor(struct import *im, struct member *m, uint64_t seq)
{
    if (seq <= m->cursor)
        return;
    member_delivered_upto(&im->chat.roster, m, seq);
    im->cursors++;
}

/* The same as a line says it; t: how its numbers are translated. */
static void
import_progress(struct import *im, struct member *m, const struct track *t, const struct marks *at)
{
    uint64_t lo = at->live[0] > 0 ? (uint64_t)at->live[0] : 0;
    uint64_t hi = at->live[1] > 0 ? (uint64_t)at->live[1] : 0;

    if (at->seq > 0)
        import_cursor(im, m, run_here(t, (uint64_t)at->seq));
    if (lo == 0 || hi < lo || m->live_hi != 0)
        return;
    /* Only where the numbers are whole: what is left out is delivered twice, not lost. */
    uint64_t here_lo = run_here(t, lo), here_hi = run_here(t, hi);
    if (here_hi - here_lo != hi - lo || here_lo <= m->cursor)
        return;
    member_delivered(&im->chat.roster, m, here_lo);
    if (m->live_lo == here_lo)
        m->live_hi = here_hi;
    else
        import_cursor(im, m, here_hi);
}

/* {"groupId":…,"seq":…,"type":"member","userId":…} */
static const char *
import_member(struct import *im, struct str json, const struct request *r)
{
    char user_text[MAX_ID], group_text[MAX_ID];
    struct str user, group;
    struct marks at;

    if (!request_id(r, F_USER_ID, user_text, &user))
        return "the user's id is missing or none that jim allows";
    if (!request_id(r, F_GROUP_ID, group_text, &group))
        return "the group's id is missing or none that jim allows";
    take_marks(json, &at);
    struct user *u = user_get(&im->chat.roster, user);
    struct conv *v = group_get(&im->chat.roster, group);
    if (v->gone)
        return NULL; /* dismissed here: nobody is brought back */
    struct member *m = member_of(&im->chat.roster, u, v);
    const struct track *t = track_find(im, v);
    bool translated = t != NULL && t->runs > 0;
    if (m == NULL) {
        m = member_add(&im->chat.roster, u, v);
        if (at.seq >= 0)
            m->cursor = translated && at.seq > 0 ? run_here(t, (uint64_t)at.seq)
                        : (uint64_t)at.seq < v->seq ? (uint64_t)at.seq : v->seq;
        record_member(&im->chat, m);
        im->members++;
        import_wrote(im, 0);
    }
    if (translated && !m->left) /* who has left here since is not brought back */
        import_progress(im, m, t, &at);
    return NULL;
}

/* {"fromUserId":…,"seq":…,"type":"cursor","userId":…} */
static const char *
import_pair_cursor(struct import *im, struct str json, const struct request *r)
{
    char user_text[MAX_ID], peer_text[MAX_ID];
    struct str user, peer;
    struct marks at;

    if (!request_id(r, F_USER_ID, user_text, &user) ||
        !request_id(r, F_FROM_USER_ID, peer_text, &peer))
        return "an id is missing or none that jim allows";
    take_marks(json, &at);
    struct user *u = user_find(&im->chat.roster, user);
    struct member *m = u != NULL ? member_with(&im->chat.roster, u, peer) : NULL;
    const struct track *t = m != NULL ? track_find(im, m->conv) : NULL;
    if (t != NULL && t->runs > 0) /* without the messages there is nothing to have got */
        import_progress(im, m, t, &at);
    return NULL;
}

/* {"groupId":…,"seq":…,"type":"seq"} or {"fromUserId":…,"seq":…,"type":"seq","userId":…}: how far a
 * conversation has counted. The next number here is above it, and above all that is here. */
static const char *
import_seq(struct import *im, struct str json, const struct request *r)
{
    char user_text[MAX_ID], other_text[MAX_ID];
    struct roster *roster = &im->chat.roster;
    struct str user, other;
    struct conv *v;
    struct marks at;

    take_marks(json, &at);
    if (at.seq < 1 || at.seq > MAX_KEPT)
        return "the number is missing or none that jim keeps";
    if (request_id(r, F_GROUP_ID, other_text, &other))
        v = group_get(roster, other);
    else if (request_id(r, F_USER_ID, user_text, &user) &&
             request_id(r, F_FROM_USER_ID, other_text, &other))
        v = pair_get(roster, user_get(roster, user), user_get(roster, other));
    else
        return "an id is missing or none that jim allows";
    if ((uint64_t)at.seq <= v->seq)
        return NULL;
    v->seq = v->durable = (uint64_t)at.seq;
    record_seq(&im->chat, v);
    import_wrote(im, 0);
    return NULL;
}

static bool
first_is(const void *item, const void *key)
{
    const struct first *f = item, *k = key;

    return f->user == k->user && f->conv == k->conv;
}

static struct first *
first_find(const struct import *im, struct first *key)
{
    const void *both[2] = {key->user, key->conv};

    key->hash = map_hash(&im->firsts, both, sizeof both);
    return map_find(&im->firsts, key->hash, first_is, key);
}

void
import_waits(struct import *im, struct user *u, struct conv *v, uint64_t seq)
{
    struct first key = {.user = u, .conv = v, .seq = seq}, *f = first_find(im, &key);

    if (f == NULL) {
        f = xmalloc(sizeof *f);
        *f = key;
        map_add(&im->firsts, f);
    } else if (seq < f->seq) {
        f->seq = seq;
    }
}

/* How far u has got in v by what was imported; `all` when he waits for nothing. */
static uint64_t
delivered(const struct import *im, struct user *u, struct conv *v, uint64_t all)
{
    const struct first *f = first_find(im, &(struct first){.user = u, .conv = v});

    return f != NULL ? f->seq - 1 : all;
}

void
import_join(struct import *im, struct user *u, struct conv *v)
{
    struct member *m = member_of(&im->chat.roster, u, v);
    const struct track *t = track_find(im, v);

    if (v->gone)
        return;
    if (m == NULL) {
        m = member_add(&im->chat.roster, u, v);
        m->cursor = delivered(im, u, v, v->seq);
        record_member(&im->chat, m);
        im->members++;
        import_wrote(im, 0);
    } else if (!m->left) {
        import_cursor(im, m, delivered(im, u, v, t != NULL ? t->upto : 0));
    }
}

void
import_pairs(struct import *im)
{
    const struct track *t;
    size_t at = 0;

    while ((t = map_next(&im->tracks, &at)) != NULL)
        for (uint32_t i = 0; !t->conv->group && i < t->conv->nmembers; i++) {
            struct member *m = t->conv->member[i];
            import_cursor(im, m, delivered(im, m->user, t->conv, t->upto));
        }
}

/* --- lines ------------------------------------------------------------------------------------ */

static const char *
import_line(struct import *im, struct str line)
{
    static const struct {
        struct str type;
        const char *(*fn)(struct import *im, struct str json, const struct request *r);
    } states[] = {{{"user", 4}, import_user},
                  {{"group", 5}, import_group},
                  {{"member", 6}, import_member},
                  {{"cursor", 6}, import_pair_cursor},
                  {{"seq", 3}, import_seq}};
    struct request r;

    if (!request_parse(&r, line))
        return "not a JSON object";
    const struct json *type = &r.f[F_TYPE];
    if (type->type != JSON_STRING)
        return import_chat(im, line, &r, IMPORT_ANY, -1, NULL);
    const char *why = "a type of line that this version does not know";
    for (size_t i = 0; i < sizeof states / sizeof states[0]; i++)
        if (str_eq((struct str){type->p, type->n}, states[i].type))
            why = states[i].fn(im, line, &r);
    return why;
}

static void
take_line(struct import *im, uint64_t number, struct str line, const char *why)
{
    char where[40];

    line = str_trim(line);
    if (why == NULL && line.n > 0)
        why = import_line(im, line);
    import_tick(im);
    if (why == NULL || im->failed != NULL)
        return;
    int n = snprintf(where, sizeof where, "line %" PRIu64, number);
    import_refuse(im, (struct str){where, (size_t)n}, why);
}

/* The lines of `in` that are whole; all of it at the end. Returns the bytes used. */
static size_t
take_lines(struct import *im, const struct buf *in, size_t seen, bool end, uint64_t *number)
{
    size_t used = 0;
    const char *newline;

    while (im->failed == NULL && seen < in->len &&
           (newline = memchr(in->p + seen, '\n', in->len - seen)) != NULL) {
        size_t n = (size_t)(newline - in->p) - used;
        take_line(im, ++*number, (struct str){in->p + used, n}, NULL);
        seen = used += n + 1;
    }
    if (end && used < in->len) {
        take_line(im, ++*number, (struct str){in->p + used, in->len - used}, NULL);
        used = in->len;
    }
    return used;
}

/* Go on behind a line that is too long: its newline is looked for, the rest forgotten. */
static bool
skip_line(struct buf *in)
{
    const char *newline = in->len > 0 ? memchr(in->p, '\n', in->len) : NULL;

    buf_drop(in, newline != NULL ? (size_t)(newline - in->p) + 1 : in->len);
    return newline == NULL;
}

static void
read_lines(struct import *im, int fd)
{
    struct buf in = {0};
    uint64_t number = 0;
    bool skipping = false;
    size_t seen = 0;

    while (im->failed == NULL) {
        buf_reserve(&in, MAX_READ);
        ssize_t got = read(fd, in.p + in.len, MAX_READ);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            import_fail(im, strerror(errno));
        if (got > 0)
            in.len += (size_t)got;
        if (skipping)
            skipping = skip_line(&in);
        buf_drop(&in, take_lines(im, &in, seen, got == 0 && !skipping, &number));
        seen = in.len;
        if (in.len > MAX_RECORD) {
            take_line(im, ++number, (struct str){NULL, 0}, "longer than 16 MiB");
            in.len = seen = 0;
            skipping = true;
        }
        if (got <= 0)
            break;
    }
    buf_free(&in);
}

int
import_lines(const char *dir, int fd, FILE *out)
{
    struct import im;

    if (import_open(&im, dir))
        read_lines(&im, fd);
    return import_close(&im, out);
}
