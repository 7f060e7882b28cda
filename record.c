/* SPDX-License-Identifier: MIT */
/*
 * record.c - what the chat keeps in the log beside messages, and how all of it comes back: users,
 * groups, memberships and cursors are records too. Whoever changes one of them calls this.
 *
 *   waiting    the queue of what is written and not yet known to be on disk
 *   writing    what is so already: lost with its batch, it is written again later
 *   changes    what is so from the moment it is on disk: lost, it never was
 *   reading    the log replayed into the roster at start
 */
#include "jim.h"

#include <stdlib.h>
#include <string.h>

/* --- waiting ---------------------------------------------------------------------------------- */

void
pending_push(struct chat *c, const struct pending *p)
{
    if (c->pending_n == c->pending_cap)
        c->pending = ring_grow(c->pending, sizeof *c->pending, &c->pending_head, &c->pending_cap,
                               64);
    c->pending[(c->pending_head + c->pending_n++) & (c->pending_cap - 1)] = *p;
}

uint64_t
pending_last(const struct chat *c)
{
    size_t last = (c->pending_head + c->pending_n - 1) & (c->pending_cap - 1);

    return c->pending_n > 0 ? c->pending[last].number : 0;
}

/* --- writing ---------------------------------------------------------------------------------- */

static void
record_redo(struct chat *c, const struct pending *p)
{
    GROW(c->redo, c->redo_n, c->redo_cap, 16);
    c->redo[c->redo_n++] = *p;
}

/* Append a state whose JSON stands in c->line, and remember it until it is on disk. Its number goes
 * to *record, and is returned; 0: it is refused, and will be written later. */
static uint64_t
record_append(struct chat *c, struct pending p, uint64_t *record)
{
    struct str key = p.conv != NULL ? conv_key(p.conv) : STR("-");
    struct str json = {c->line.p, c->line.len};

    p.kind = PENDING_STATE;
    p.number = store_append(c->store, p.type, key, p.seq, json, c->now_ms(), NULL);
    *record = p.number;
    if (p.number == 0) {
        if (!store_failed(c->store)) /* failed for good: health says so */
            record_redo(c, &p);
        return 0;
    }
    if (p.number > store_durable(c->store))
        pending_push(c, &p);
    return p.number;
}

static struct buf *
line_begin(struct chat *c)
{
    c->line.len = 0;
    buf_add(&c->line, "{", 1);
    return &c->line;
}

void
record_put_user(struct buf *b, const struct user *u)
{
    buf_add(b, "{", 1);
    profile_put(b, u);
    put_text(b, "userId", user_id(u));
    buf_add(b, "}", 1);
}

void
record_user(struct chat *c, struct user *u)
{
    c->line.len = 0;
    record_put_user(&c->line, u);
    record_append(c, (struct pending){.type = REC_USER, .from = u}, &u->record);
}

static void
put_life(struct buf *b, uint32_t life)
{
    if (life == 0)
        return;
    json_put_key(b, "life");
    json_put_int(b, life);
}

static void
put_group(struct buf *b, const struct conv *v, bool gone, struct str name, uint32_t life)
{
    buf_add(b, "{", 1);
    if (gone) {
        json_put_key(b, "dismissed");
        json_put_raw(b, "true", 4);
    }
    put_text(b, "groupId", str_of(v->id));
    if (name.n > 0)
        put_text(b, "name", name);
    put_life(b, life);
    buf_add(b, "}", 1);
}

void
record_put_group(struct buf *b, const struct conv *v)
{
    put_group(b, v, v->gone, str_of(v->name), 0);
}

void
record_group(struct chat *c, struct conv *v)
{
    c->line.len = 0;
    put_group(&c->line, v, v->gone, str_of(v->name), v->life);
    record_append(c, (struct pending){.type = REC_GROUP, .conv = v}, &v->group_record);
}

/* A membership's, joined or left. */
static void
put_member(struct chat *c, const struct user *u, uint32_t life)
{
    struct buf *b = line_begin(c);

    put_life(b, life);
    put_text(b, "userId", user_id(u));
    buf_add(b, "}", 1);
}

void
record_member(struct chat *c, struct member *m)
{
    put_member(c, m->user, m->conv->life);
    record_append(c, (struct pending){.type = m->left ? REC_LEAVE : REC_JOIN, .conv = m->conv,
                                      .from = m->user, .seq = m->cursor}, &m->record);
}

uint64_t
record_cursor(struct chat *c, struct member *m)
{
    struct buf *b = line_begin(c);
    uint64_t unused;

    if (m->live_hi != 0)
        buf_printf(b, "\"live\":[%llu,%llu],", (unsigned long long)m->live_lo,
                   (unsigned long long)m->live_hi);
    json_put_raw(b, "\"userId\":", 9); /* no comma: "live" has brought its own */
    json_put_string(b, m->user->id, m->user->idlen);
    buf_add(b, "}", 1);
    return record_append(c, (struct pending){.type = REC_CURSOR, .conv = m->conv, .from = m->user,
                                             .seq = m->cursor},
                         m->conv->group ? &unused : &m->record);
}

void
record_seq(struct chat *c, struct conv *v)
{
    buf_add(line_begin(c), "}", 1);
    record_append(c, (struct pending){.type = REC_SEQ, .conv = v, .seq = v->seq}, &v->seq_record);
}

/* Once more what was lost: as it is now, which may be another state than then; but not behind a
 * change that is on its way. */
static void
record_again(struct chat *c, const struct pending *p)
{
    struct member *m = NULL;

    if (p->type == REC_JOIN || p->type == REC_LEAVE || p->type == REC_CURSOR)
        m = member_of(&c->roster, p->from, p->conv);
    if ((p->type == REC_GROUP && p->conv->changes > 0) || (m != NULL && m->change != 0))
        record_redo(c, p);
    else if (p->type == REC_USER)
        record_user(c, p->from);
    else if (p->type == REC_GROUP)
        record_group(c, p->conv);
    else if (p->type == REC_SEQ)
        record_seq(c, p->conv);
    else if (m != NULL && p->type != REC_CURSOR)
        record_member(c, m);
    else if (m != NULL && !m->left)
        record_cursor(c, m);
}

void
record_lost(struct chat *c, const struct pending *p)
{
    if (p->type == REC_USER)
        p->from->record = 0;
    else if (p->type == REC_GROUP)
        p->conv->group_record = 0;
    else if (p->type == REC_JOIN || p->type == REC_LEAVE)
        member_of(&c->roster, p->from, p->conv)->record = 0;
    record_redo(c, p);
}

bool
record_unsaved(const struct chat *c)
{
    return (c->roster.dirty != NULL || c->redo_n > 0) && store_keeps(c->store) &&
           !store_failed(c->store);
}

uint64_t
record_save(struct chat *c, size_t max)
{
    uint64_t last = 0;
    size_t n = c->redo_n;

    c->redo_n = 0;
    for (size_t i = 0; i < n; i++) { /* what is refused again goes back to the front */
        struct pending p = c->redo[i];
        record_again(c, &p);
    }
    while (c->roster.dirty != NULL && max-- > 0) {
        struct member *m = c->roster.dirty;
        c->roster.dirty = m->next_dirty;
        m->dirty = false;
        if (!m->left && store_keeps(c->store))
            last = record_cursor(c, m);
    }
    return last;
}

bool
record_learn(struct chat *c, struct user *u, struct str json)
{
    bool news = profile_set(u, json) || !u->known;

    user_know(&c->roster, u);
    if (news)
        record_user(c, u);
    return news;
}

/* --- changes ---------------------------------------------------------------------------------- */

/*
 * The roster does not know of it until it is on disk: so nothing has to be taken back, and nobody
 * is told what a crash undoes. group_changed() then does what record_replay() would do after a
 * crash. What is written of the same thing meanwhile, because it is so at once, stands behind this
 * in the log and wins: it is known by its number.
 */
bool
record_change(struct chat *c, struct pending p)
{
    struct conv *v = p.conv;
    struct member *m = p.type != REC_GROUP ? member_of(&c->roster, p.from, v) : NULL;
    uint64_t cursor = m != NULL && !m->left ? m->cursor : v->durable; /* see member_add() */

    if (p.type != REC_GROUP) {
        put_member(c, p.from, (uint32_t)p.seq);
    } else {
        c->line.len = 0;
        put_group(&c->line, v, p.gone,
                  p.msg != NULL ? (struct str){p.msg->data, p.msg->len} : STR(""), (uint32_t)p.seq);
    }
    p.kind = PENDING_CHANGE;
    p.number = store_append(c->store, p.type, conv_key(v), p.type == REC_GROUP ? 0 : cursor,
                            (struct str){c->line.p, c->line.len}, c->now_ms(), NULL);
    if (p.number == 0) {
        if (p.msg != NULL)
            msg_unref(p.msg);
        return false;
    }
    if (p.type == REC_GROUP)
        v->changes++;
    if (p.type == REC_JOIN)
        p.from->joining++;
    if (m != NULL)
        m->change = p.number;
    if (p.conn != NULL) {
        p.conn->deferred++;
        p.conn->parked = true;
        p.conn->joining = p.type == REC_JOIN;
    }
    if (p.number > store_durable(c->store) || c->pending_n > 0)
        pending_push(c, &p);
    else
        group_changed(c, &p);
    return true;
}

/* --- reading ---------------------------------------------------------------------------------- */

/* Remember a message's id, in case it is sent again. */
void
record_recent(void *chat, const struct store_rec *rec)
{
    struct chat *c = chat;
    char text[6 * MAX_MESSAGE_ID], from_text[MAX_ID];
    struct request r;
    struct str from;
    int64_t create = 0;

    if (rec->time_ms + RETRY_MS < c->now_ms() || !request_parse(&r, rec->json) ||
        r.f[F_ID].type != JSON_STRING || r.f[F_ID].n > sizeof text ||
        !request_id(&r, F_FROM, from_text, &from))
        return;
    struct conv *v = conv_find_key(&c->roster, rec->conv);
    struct str id = {text, json_text(&r.f[F_ID], text)};
    request_int(&r, F_CREATE_TIME, 0, &create);
    if (v != NULL && id.n <= MAX_MESSAGE_ID)
        retry_add(&c->retries,
                  retry_print(&c->retries, user_get(&c->roster, from), v, id), v, rec->seq,
                  create, rec->time_ms);
}

void
record_span(void *chat, const struct store_span *span)
{
    struct conv *v = conv_get_key(&((struct chat *)chat)->roster, span->conv);
    uint64_t last = span->first + span->count - 1;

    if (v == NULL)
        return;
    store_index_add_span(&v->index, span);
    if (last > v->seq)
        v->seq = v->durable = last;
}

static void
replay_cursor(struct chat *c, struct conv *v, struct user *u, const struct store_rec *rec)
{
    struct member *m = member_of(&c->roster, u, v);
    struct json_iter it, live;
    struct json key, value;
    int64_t range[2] = {0, 0};

    if (m == NULL || m->left || json_open(&it, rec->json.p, rec->json.n) != 0)
        return;
    while (json_next(&it, &key, &value) > 0)
        if (value.type == JSON_ARRAY) {
            json_enter(&live, &value);
            for (int i = 0; i < 2 && json_next(&live, NULL, &value) > 0; i++)
                json_int(&value, &range[i]);
        }
    m->cursor = rec->seq;
    m->live_lo = (uint64_t)range[0];
    m->live_hi = (uint64_t)range[1];
    if (!v->group)
        m->record = rec->number;
}

static void
replay_group(struct roster *r, struct conv *v, const struct request *q, int64_t life,
             uint64_t number)
{
    char name[6 * MAX_ID];

    if (life < v->life)
        return;
    group_enter_life(v, (uint32_t)life);
    if (q->f[F_DISMISSED].type == JSON_TRUE)
        group_bury(r, v);
    else
        group_revive(r, v);
    free(v->name);
    v->name = NULL;
    if (q->f[F_NAME].type == JSON_STRING && q->f[F_NAME].n <= sizeof name)
        v->name = xstrndup(name, json_text(&q->f[F_NAME], name));
    v->group_record = number;
}

/* A state that was lost is written again later, perhaps behind what came after it: which life of
 * the group a record speaks of is what decides, not its place in the log. */
static void
replay_join(struct roster *r, struct conv *v, struct user *u, int64_t life,
            const struct store_rec *rec)
{
    if (life < v->life)
        return;
    group_enter_life(v, (uint32_t)life);
    group_revive(r, v);
    struct member *m = member_add(r, u, v);
    m->cursor = rec->seq;
    m->live_lo = m->live_hi = 0; /* written again, it knows of no earlier cursor */
    m->record = rec->number;
}

static void
replay_seq(struct conv *v, const struct store_rec *rec)
{
    if (rec->seq > v->seq)
        v->seq = v->durable = rec->seq;
    v->seq_record = rec->number;
}

/* Only of a log read one by one do messages come here. */
void
record_replay(void *chat, const struct store_rec *rec)
{
    struct chat *c = chat;
    struct roster *r = &c->roster;
    struct conv *v = str_eq(rec->conv, STR("-")) ? NULL : conv_get_key(r, rec->conv);
    struct request q;
    char text[MAX_ID];
    struct str id;
    struct user *u = NULL;
    int64_t life;

    if (rec->type == REC_SEQ && v != NULL)
        replay_seq(v, rec);
    if (rec->type == REC_MESSAGE && v != NULL) {
        v->seq = v->durable = rec->seq;
        store_index_add(&v->index, rec);
    }
    if (rec->type == REC_SEQ || rec->type == REC_MESSAGE || !request_parse(&q, rec->json) ||
        request_int(&q, F_LIFE, 0, &life) < 0 || life < 0 || life > UINT32_MAX)
        return;
    if (request_id(&q, F_USER_ID, text, &id))
        u = user_get(r, id);
    if (rec->type == REC_USER && u != NULL) {
        profile_free(u); /* the latest record says all there is */
        profile_set(u, rec->json);
        user_know(r, u);
        u->record = rec->number;
    } else if (rec->type == REC_GROUP && v != NULL && v->group) {
        replay_group(r, v, &q, life, rec->number);
    } else if (v == NULL || u == NULL) {
        return;
    } else if (rec->type == REC_JOIN && v->group) {
        replay_join(r, v, u, life, rec);
    } else if (rec->type == REC_LEAVE && v->group) {
        if (member_in_group(r, u, str_of(v->id)) != NULL)
            member_leave(member_of(r, u, v));
    } else if (rec->type == REC_CURSOR) {
        replay_cursor(c, v, u, rec);
    }
}

bool
record_import(struct chat *c, struct conv *v, struct str json)
{
    struct buf before = {0}, after = {0};
    struct request q;

    record_put_group(&before, v);
    if (request_parse(&q, json)) /* in the life it has here, whatever it had there */
        replay_group(&c->roster, v, &q,
                     v->life + (q.f[F_DISMISSED].type == JSON_TRUE && !v->gone),
                     v->group_record);
    record_put_group(&after, v);
    bool news = !str_eq((struct str){before.p, before.len}, (struct str){after.p, after.len});
    if (news)
        record_group(c, v);
    buf_free(&before);
    buf_free(&after);
    return news;
}
