/* SPDX-License-Identifier: MIT */
/*
 * query.c - what clients ask for: users (command 17) and messages (command 19). Reads the roster
 * and the store, changes nothing; an answer 20 carries with it which cursors its arrival will
 * move.
 *
 *   users       oneself with friends and groups, others flat
 *   fetching    records from the store into an answer, within its limits
 *   history     one conversation by time, place or number
 *   command 19  what has not reached the caller yet; history; where his conversations stand
 */
#include "jim.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* --- users ------------------------------------------------------------------------------------ */

/* A group with the members of one status (0 online, 1 offline, 2 all), as many as may be listed. */
static void
put_group(struct chat *c, struct buf *b, const struct conv *v, int64_t type, size_t room)
{
    uint32_t from = type == 1 ? v->nonline : 0;
    uint32_t to = type == 0 ? v->nonline : v->nmembers;

    buf_add(b, "{", 1);
    put_text(b, "groupId", str_of(v->id));
    put_text(b, "name", str_of(v->name != NULL ? v->name : v->id));
    json_put_key(b, "online");
    json_put_int(b, v->nonline);
    json_put_key(b, "users");
    buf_add(b, "[", 1);
    for (uint32_t i = from; i < to && i - from < c->opt->list_max && b->len < room; i++) {
        json_put_comma(b);
        put_user(b, v->member[i]->user);
    }
    buf_add(b, "]}", 2);
}

void
put_user_whole(struct chat *c, struct buf *b, const struct user *u, int64_t type)
{
    size_t room = (size_t)c->opt->queue_max / 2;

    buf_add(b, "{", 1);
    put_user_front(b, u);
    json_put_key(b, "friends");
    profile_put_friends(c, b, u, type, room);
    json_put_key(b, "groups");
    buf_add(b, "[", 1);
    for (const struct member *m = u->members; m != NULL; m = m->next_of_user)
        if (m->conv->group && !m->left) {
            json_put_comma(b);
            put_group(c, b, m->conv, type, room);
        }
    buf_add(b, "]", 1);
    put_user_back(b, u);
    buf_add(b, "}", 1);
}

bool
query_user(struct chat *c, struct conn *from, uint32_t seq, const struct request *r)
{
    static const int codes[] = {CODE_ONLINE_USERS, CODE_OFFLINE_USERS, CODE_USER_OK};
    char text[MAX_ID];
    struct str id;
    int64_t type;
    struct user *u = NULL;

    if (c->hooks != NULL && extend_user_info(c, from, seq, r))
        return true;
    if (r != NULL && request_id(r, F_USER_ID, text, &id))
        u = user_find(&c->roster, id);
    if (u == NULL || !u->known || request_int(r, F_TYPE, 2, &type) < 0 || type < 0 || type > 2) {
        answer_code(c, from, CMD_USER_RESP, seq, CODE_USER_FAILED);
        return true;
    }
    struct buf *b = answer_begin(c, codes[type], CMD_USER_RESP);
    json_put_key(b, "data");
    if (u == from->user)
        put_user_whole(c, b, u, type);
    else
        put_user(b, u);
    put_msg(b, codes[type]);
    answer_send(c, from, CMD_USER_RESP, seq);
    return true;
}

/* --- fetching --------------------------------------------------------------------------------- */

/* An answer 20 under construction. */
struct fetch {
    struct chat *c;
    struct user *user;       /* whose messages */
    struct buf *out;         /* the answer */
    size_t room;             /* bytes it may have */
    int64_t left;            /* messages it may still take */
    int64_t taken;
    bool more;               /* something was left out for want of room */
    bool away;               /* the store could not be read just now */
    uint32_t reads;          /* records read */
    uint32_t vain;           /* of them, for nothing, but for those that told where to look */
    bool peek;               /* no cursor will move */
    struct fetched *marks;   /* owned until it goes with the answer */
};

/* May another message of n bytes go in? The first always may. */
static bool
fetch_room(struct fetch *f, size_t n)
{
    if (f->left > 0 && (f->taken == 0 || f->out->len + n <= f->room))
        return true;
    f->more = true;
    return false;
}

/* Message seq from the store into the line buffer: is it there, and can it be read? */
static bool
fetch_read(struct fetch *f, const struct conv *v, uint64_t seq, struct store_rec *rec)
{
    struct chat *c = f->c;
    int got = store_read(c->store, conv_key(v), &v->index, seq, &c->line, rec);

    f->reads++;
    f->away = f->away || got == -EAGAIN;
    return got == 0;
}

/* Is this stored message one the user sent himself? */
static bool
sent_by(const struct store_rec *rec, const struct user *u)
{
    struct request r;
    char text[MAX_ID];
    struct str from;

    return request_parse(&r, rec->json) && request_id(&r, F_FROM, text, &from) &&
           str_eq(from, user_id(u));
}

/* The first message retention has left; behind the last when it has left none. */
static uint64_t
first_stored(const struct conv *v)
{
    uint64_t first = store_index_first(&v->index);

    return first != 0 ? first : v->durable + 1;
}

/* Everything one has missed in one conversation, as `"key":[…]`; nothing in a full answer. */
static void
fetch_missed(struct fetch *f, struct member *m, struct str key)
{
    struct chat *c = f->c;
    uint64_t last = m->cursor, first = first_stored(m->conv);
    bool opened = false;

    for (uint64_t seq = m->cursor; !f->more && (seq = member_next_missing(m, seq)) != 0;) {
        struct store_rec rec;
        c->line.len = 0;
        if (first > seq) { /* retention has taken them */
            last = seq = first - 1;
            continue;
        }
        if (f->vain == MAX_SCAN && !f->peek) { /* who moves no cursor would never get further */
            f->more = true;
            break;
        }
        bool found = fetch_read(f, m->conv, seq, &rec);
        if (f->away)
            break;
        if (found && (m->conv->group || member_peer(m) == m->user || !sent_by(&rec, m->user))) {
            if (!fetch_room(f, rec.json.n))
                break;
            if (!opened) {
                json_put_comma(f->out);
                json_put_string(f->out, key.p, key.n);
                buf_add(f->out, ":[", 2);
                opened = true;
            }
            json_put_comma(f->out);
            buf_str(f->out, rec.json);
            f->taken++;
            f->left--;
        } else {
            f->vain++;
        }
        last = seq;
    }
    if (opened)
        buf_add(f->out, "]", 1);
    if (last > m->cursor && !f->peek)
        fetched_add(&f->marks, m, last);
}

/* --- history ---------------------------------------------------------------------------------- */

struct history {
    struct conv *conv;
    uint64_t lo, hi;        /* numbers to look at */
    bool timed;             /* begin and end count */
    int64_t begin, end;     /* createTime, ms, inclusive */
    int64_t offset, count;
    bool backward;          /* the newest `count` */
};

/* Those of them that were stored between two settings of the clock. */
struct part {
    uint64_t first, last;      /* all of them, and numbers around that nobody has */
    uint64_t lo, hi;           /* which of them to look at */
    uint64_t sure_lo, sure_hi; /* within these no createTime needs to be looked at */
};

/* When the first message that can be read from *seq on was stored, and its number; none up to hi: a
 * time behind all others. */
static int64_t
stored_at(struct fetch *f, const struct conv *v, uint64_t *seq, uint64_t hi)
{
    size_t start = f->c->line.len;
    struct store_rec rec;

    for (; (*seq = store_index_next(&v->index, *seq)) != 0 && *seq <= hi; ++*seq) {
        bool found = fetch_read(f, v, *seq, &rec);
        f->c->line.len = start;
        if (found)
            return rec.time_ms;
        if (f->away || f->reads >= MAX_SCAN)
            break;
    }
    return INT64_MAX;
}

/* The first number in [lo, hi] stored at or after t; hi + 1 when there is none. */
static uint64_t
first_since(struct fetch *f, const struct conv *v, uint64_t lo, uint64_t hi, int64_t t)
{
    while (lo <= hi) {
        uint64_t middle = lo + (hi - lo) / 2, at = middle;
        if (stored_at(f, v, &at, hi) >= t)
            hi = middle - 1;
        else
            lo = at + 1;
    }
    return lo;
}

/*
 * Narrow a part by time. createTime is the client's, but never further than CLOCK_SKEW_MS from the
 * time of storing, and that rises, but for STORE_BACK_MS: so a binary search finds where to look.
 */
static void
part_narrow(struct fetch *f, const struct history *h, struct part *p)
{
    const int64_t skew = CLOCK_SKEW_MS + STORE_BACK_MS;
    int64_t from = h->begin > INT64_MIN + skew ? h->begin - skew : INT64_MIN;
    int64_t to = h->end < INT64_MAX - skew ? h->end + skew : INT64_MAX;

    p->lo = first_since(f, h->conv, p->lo, p->hi, from);
    if (to < INT64_MAX)
        p->hi = first_since(f, h->conv, p->lo, p->hi, to + 1) - 1;
    p->sure_lo = 1;
    p->sure_hi = 0;
    if (h->begin > INT64_MAX - skew || h->end < INT64_MIN + skew)
        return;
    p->sure_lo = first_since(f, h->conv, p->lo, p->hi, h->begin + skew);
    p->sure_hi = first_since(f, h->conv, p->lo, p->hi, h->end - skew + 1) - 1;
}

/* The part that seq is in. */
static struct part
part_at(struct fetch *f, const struct history *h, uint64_t seq)
{
    struct part p = {.last = UINT64_MAX, .lo = h->lo, .hi = h->hi, .sure_lo = h->lo,
                     .sure_hi = h->hi};

    if (!h->timed)
        return p;
    store_index_ordered(&h->conv->index, seq, &p.first, &p.last);
    if (p.lo < p.first)
        p.lo = p.first;
    if (p.hi > p.last)
        p.hi = p.last;
    part_narrow(f, h, &p);
    return p;
}

/*
 * How many of the messages to be skipped need not be read: from seq on, in the direction of the
 * walk, as many as there surely are within the time asked for.
 */
static uint64_t
part_jump(const struct part *p, uint64_t seq, int64_t skip, bool backward)
{
    if (skip <= 0 || seq < p->sure_lo || seq > p->sure_hi)
        return 0;
    uint64_t sure = backward ? seq - p->sure_lo + 1 : p->sure_hi - seq + 1;
    return (uint64_t)skip < sure ? (uint64_t)skip : sure;
}

static bool
in_time(const struct history *h, const struct store_rec *rec)
{
    struct request r;
    int64_t t;

    return !h->timed ||
           (request_parse(&r, rec->json) && request_int(&r, F_CREATE_TIME, 0, &t) > 0 &&
            t >= h->begin && t <= h->end);
}

/* Messages found, in the direction of the walk, behind one another in the chat's line buffer. */
struct found {
    struct span { /* where one stands there */
        size_t at, n;
    } *span; /* owned */
    size_t n, cap;
    size_t bytes;  /* of the answer with them */
    int64_t skip;  /* how many are still to be passed over */
    bool done;     /* no more are wanted */
};

/* Message seq is wanted: is there room for it? */
static bool
found_add(struct fetch *f, struct found *w, const struct store_rec *rec)
{
    w->bytes += rec->json.n + 1;
    if (w->n > 0 && w->bytes > f->room)
        return false;
    GROW(w->span, w->n, w->cap, 64);
    w->span[w->n++] = (struct span){(size_t)(rec->json.p - f->c->line.p), rec->json.n};
    f->left--;
    return true;
}

static void
part_read(struct fetch *f, const struct history *h, const struct part *p, struct found *w)
{
    struct buf *line = &f->c->line;

    for (uint64_t seq = h->backward ? p->hi : p->lo; seq >= p->lo && seq <= p->hi && !f->away;
         seq += h->backward ? UINT64_MAX : 1) {
        struct store_rec rec;
        size_t start = line->len;
        uint64_t jump = part_jump(p, seq, w->skip, h->backward);
        if (jump > 0) { /* one less, for the loop's own step */
            seq = h->backward ? seq - (jump - 1) : seq + (jump - 1);
            w->skip -= (int64_t)jump;
            continue;
        }
        if ((w->done = w->n == (size_t)h->count))
            break;
        if ((w->done = f->more = f->left == 0 || f->reads >= MAX_SCAN))
            break;
        if (!fetch_read(f, h->conv, seq, &rec) || !in_time(h, &rec) || w->skip-- > 0) {
            line->len = start;
            f->vain++;
            continue;
        }
        w->skip = 0;
        if ((w->done = f->more = !found_add(f, w, &rec)))
            break;
    }
}

/* Read the messages asked for. w->span is the caller's to free. */
static void
history_read(struct fetch *f, const struct history *h, struct found *w)
{
    uint64_t seq = h->backward ? h->hi : h->lo;

    f->c->line.len = 0;
    while (seq >= h->lo && seq <= h->hi && !w->done && !f->away) {
        if ((f->more = f->reads >= MAX_SCAN))
            break;
        struct part p = part_at(f, h, seq);
        part_read(f, h, &p, w);
        seq = h->backward ? p.first - 1 : p.last + 1;
    }
}

static void
fetch_history(struct fetch *f, struct history *h, struct str key)
{
    struct found w = {.skip = h->offset, .bytes = f->out->len};

    history_read(f, h, &w);
    if (w.n > 0) {
        json_put_string(f->out, key.p, key.n);
        buf_add(f->out, ":[", 2);
        for (size_t i = 0; i < w.n; i++) {
            const struct span *s = &w.span[h->backward ? w.n - 1 - i : i];
            json_put_comma(f->out);
            buf_add(f->out, f->c->line.p + s->at, s->n);
        }
        buf_add(f->out, "]", 1);
    }
    free(w.span);
}

/* The bounds a request gives. False when one is no number. */
static bool
history_bounds(struct chat *c, const struct request *r, struct conv *v, struct history *h)
{
    int64_t before, after, max = c->opt->fetch_max;
    int got_begin = request_int(r, F_BEGIN_TIME, INT64_MIN, &h->begin);
    int got_end = request_int(r, F_END_TIME, INT64_MAX, &h->end);
    int got_before = request_int(r, F_BEFORE_SEQ, INT64_MAX, &before);
    int got_after = request_int(r, F_AFTER_SEQ, 0, &after);

    if (got_begin < 0 || got_end < 0 || got_before < 0 || got_after < 0 ||
        request_int(r, F_OFFSET, 0, &h->offset) < 0 || request_int(r, F_COUNT, -1, &h->count) < 0)
        return false;
    h->conv = v;
    h->timed = got_begin > 0 || got_end > 0;
    h->backward = got_before > 0 && got_after == 0;
    h->lo = first_stored(v);
    h->hi = v->durable;
    if (after > 0 && (uint64_t)after >= h->lo)
        h->lo = (uint64_t)after + 1;
    if (before <= (int64_t)(h->hi < INT64_MAX ? h->hi : INT64_MAX))
        h->hi = before > 0 ? (uint64_t)before - 1 : 0;
    if (h->offset < 0) /* J-IM: nothing */
        h->count = 0;
    else if (h->count < 0) /* all, and then the limit of an answer counts */
        h->count = max + 1;
    return true;
}

/* --- command 19 ------------------------------------------------------------------------------- */

/* Both maps, "friends" and "groups": offline messages of one conversation or of all. */
static void
put_offline(struct fetch *f, struct member *only)
{
    struct buf *b = f->out;

    json_put_key(b, "friends");
    buf_add(b, "{", 1);
    for (struct member *m = f->user->members; m != NULL; m = m->next_of_user)
        if (!m->conv->group && (only == NULL || m == only))
            fetch_missed(f, m, user_id(member_peer(m)));
    buf_add(b, "}", 1);
    json_put_key(b, "groups");
    buf_add(b, "{", 1);
    for (struct member *m = f->user->members; m != NULL; m = m->next_of_user)
        if (m->conv->group && !m->left && (only == NULL || m == only))
            fetch_missed(f, m, str_of(m->conv->id));
    buf_add(b, "}", 1);
}

/* Where the user stands in his conversations of one kind: how far they go, and how far they have
 * been delivered. Passes over the first *skip. */
static void
put_stands(struct fetch *f, bool groups, int64_t *skip)
{
    struct buf *b = f->out;

    json_put_key(b, groups ? "groups" : "friends");
    buf_add(b, "{", 1);
    for (const struct member *m = f->user->members; m != NULL; m = m->next_of_user) {
        struct str id;
        if (m->conv->group != groups || m->left || m->conv->durable == 0 || (*skip)-- > 0)
            continue;
        id = groups ? str_of(m->conv->id) : user_id(member_peer(m));
        if (!fetch_room(f, id.n * 6 + 80))
            break;
        json_put_comma(b);
        json_put_string(b, id.p, id.n);
        buf_add(b, ":{", 2);
        json_put_key(b, "delivered");
        json_put_int(b, (int64_t)m->cursor);
        json_put_key(b, "seq");
        json_put_int(b, (int64_t)m->conv->durable);
        buf_add(b, "}", 1);
        f->taken++;
        f->left--;
    }
    buf_add(b, "}", 1);
}

static void
put_history(struct fetch *f, struct history *h, struct str key)
{
    struct buf *b = f->out;
    bool group = h->conv != NULL && h->conv->group;

    json_put_key(b, "friends");
    buf_add(b, "{", 1);
    if (h->conv != NULL && !group)
        fetch_history(f, h, key);
    buf_add(b, "}", 1);
    json_put_key(b, "groups");
    buf_add(b, "{", 1);
    if (group)
        fetch_history(f, h, key);
    buf_add(b, "}", 1);
}

/* Whose conversation with whom is asked for. */
struct subject {
    char id_text[MAX_ID], key_text[MAX_ID];
    struct str id;         /* userId; empty: a group's history for the API */
    struct user *user;     /* NULL: nobody has heard of him */
    bool one;              /* groupId or fromUserId is given */
    bool group;
    struct str key;        /* that id */
    struct member *member; /* NULL: not in it, or nothing has been said there */
    struct conv *conv;     /* the same */
};

/* The names a request holds, and what they stand for. Returns 0 or the code to refuse with. */
static int
subject_names(struct chat *c, const struct request *r, struct subject *s)
{
    s->group = r->f[F_GROUP_ID].type != JSON_NONE;
    s->one = s->group || r->f[F_FROM_USER_ID].type != JSON_NONE;
    if (r->f[F_USER_ID].type != JSON_NONE && !request_id(r, F_USER_ID, s->id_text, &s->id))
        return CODE_MESSAGES_FAILED;
    if (s->one && !request_id(r, s->group ? F_GROUP_ID : F_FROM_USER_ID, s->key_text, &s->key))
        return CODE_MESSAGES_FAILED;
    if (s->id.n > 0)
        s->user = user_find(&c->roster, s->id);
    if (s->one && s->user != NULL) {
        s->member = s->group ? member_in_group(&c->roster, s->user, s->key)
                             : member_with(&c->roster, s->user, s->key);
        s->conv = s->member != NULL ? s->member->conv : NULL;
    }
    return 0;
}

/* What a client may ask for: his own, and of groups those he is in. */
static int
subject_of_client(const struct conn *from, const struct subject *s)
{
    if (s->id.n == 0)
        return CODE_MESSAGES_FAILED;
    if (from->user != NULL && !str_eq(s->id, user_id(from->user)))
        return CODE_FORBIDDEN;
    return s->group && s->user != NULL && s->member == NULL ? CODE_FORBIDDEN : 0;
}

/* What the API may: all there is, also of groups that are gone, and without being in them. */
static int
subject_of_api(struct chat *c, struct subject *s, int64_t type)
{
    if (s->id.n == 0 && (type == 0 || !s->group))
        return CODE_MESSAGES_FAILED;
    if (!s->group)
        return 0;
    s->conv = type == 1 ? group_find_any(&c->roster, s->key) : group_find(&c->roster, s->key);
    return s->conv == NULL ? CODE_NO_GROUP : 0;
}

/*
 * The answer 20 in c->out, but for its last brace. from NULL: the API asks, and moves no cursor.
 * Returns its code; when that refuses the request, nothing is written.
 */
static int
messages_answer(struct chat *c, struct conn *from, int64_t type, const struct request *r,
                struct fetched **marks)
{
    struct subject s = {.one = false};
    struct history h = {0};
    struct buf *b = &c->out;
    int code = CODE_MESSAGES_FAILED;
    int64_t skip = 0;

    if (store_keeps(c->store) && type >= 0 && type <= (from != NULL ? 2 : 1))
        code = subject_names(c, r, &s);
    if (code == 0)
        code = from != NULL ? subject_of_client(from, &s) : subject_of_api(c, &s, type);
    if (code == 0 && type == 1 && !s.one)
        code = CODE_MESSAGES_FAILED;
    if (code == 0 && type == 2 && request_int(r, F_OFFSET, 0, &skip) < 0)
        code = CODE_MESSAGES_FAILED;
    if (code == 0 && type == 1 && s.conv != NULL && !history_bounds(c, r, s.conv, &h))
        code = CODE_MESSAGES_FAILED;
    if (code != 0)
        return code;
    struct fetch f = {.c = c, .user = s.user, .out = b, .left = c->opt->fetch_max,
                      .room = (size_t)c->opt->queue_max / 2, .peek = from == NULL};
    code = type == 0 ? CODE_OFFLINE_MESSAGES : CODE_HISTORY;
    answer_begin(c, code, CMD_MESSAGES_RESP);
    json_put_key(b, "data");
    buf_add(b, "{", 1);
    if (type == 2 && s.user != NULL) {
        put_stands(&f, false, &skip);
        put_stands(&f, true, &skip);
    } else if (type == 1)
        put_history(&f, &h, s.key);
    else if (s.user != NULL && (!s.one || s.member != NULL))
        put_offline(&f, s.member);
    else
        json_put_raw(b, "\"friends\":{},\"groups\":{}", 24);
    if (from != NULL)
        chat_rate_take(c, from, f.vain / MAX_VAIN);
    if (f.away) { /* an answer with holes would be taken for all there is */
        free(f.marks);
        return CODE_STORE;
    }
    if (f.more) {
        json_put_key(b, "more");
        json_put_raw(b, "true", 4);
    }
    if (s.id.n > 0)
        put_text(b, "userId", s.id);
    buf_add(b, "}", 1);
    put_msg(b, code);
    *marks = f.marks;
    return code;
}

bool
query_messages(struct chat *c, struct conn *from, uint32_t seq, const struct request *r)
{
    struct fetched *marks;
    int64_t type;
    int code = CODE_MESSAGES_FAILED;

    if (r != NULL && request_int(r, F_TYPE, -1, &type) > 0)
        code = messages_answer(c, from, type, r, &marks);
    if (code != CODE_OFFLINE_MESSAGES && code != CODE_HISTORY) {
        answer_code(c, from, CMD_MESSAGES_RESP, seq, code);
        return true;
    }
    buf_add(&c->out, "}", 1);
    struct msg *m = msg_new(CMD_MESSAGES_RESP, seq, c->out.p, c->out.len);
    m->fetched = marks;
    conn_send(from, m, NULL);
    msg_unref(m);
    return true;
}

int
query_api(struct chat *c, int64_t type, const struct request *r)
{
    struct fetched *marks;
    int code = messages_answer(c, NULL, type, r, &marks);

    if (code == CODE_OFFLINE_MESSAGES || code == CODE_HISTORY)
        buf_add(&c->out, "}", 1);
    return code;
}
