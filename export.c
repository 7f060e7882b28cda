/* SPDX-License-Identifier: MIT */
/*
 * export.c - `jim export -a`: all that a server needs to go on elsewhere, as JSON lines. Messages
 * are printed as they are read, exactly as `jim export` prints them. The rest is replayed on the
 * way, as at the start of a server, and what has become of it is printed behind the messages:
 * users, groups, memberships, cursors, each in the order in which they first came up, for that is
 * the order in which clients see them. What the lines look like: docs/export.md.
 */
#include "jim.h"

#include <inttypes.h>
#include <stdlib.h>

enum item_kind { ITEM_USER, ITEM_GROUP, ITEM_MEMBER, ITEM_PAIR };

struct item { /* something there will be a line for */
    enum item_kind kind;
    void *what; /* borrowed from the roster */
};

struct export {
    FILE *out;
    struct chat chat;
    struct item *item; /* owned */
    size_t n, cap;
    struct buf line;
};

/* --- reading ---------------------------------------------------------------------------------- */

static void
item_add(struct export *e, enum item_kind kind, void *what)
{
    GROW(e->item, e->n, e->cap, 64);
    e->item[e->n++] = (struct item){kind, what};
}

/* Who the record is about; NULL when it is about nobody, or he is new. */
static struct user *
record_about(struct export *e, const struct store_rec *rec, char text[MAX_ID], struct str *id)
{
    struct request r;

    *id = (struct str){NULL, 0};
    if (!request_parse(&r, rec->json) || !request_id(&r, F_USER_ID, text, id))
        return NULL;
    return user_find(&e->chat.roster, *id);
}

/* A record of a user, a group or a membership: replayed, and noted when it is the first. */
static void
export_state(struct export *e, const struct store_rec *rec)
{
    struct roster *r = &e->chat.roster;
    struct conv *v = conv_find_key(r, rec->conv);
    char text[MAX_ID];
    struct str id;
    struct user *u = record_about(e, rec, text, &id);
    bool known = u != NULL && u->known;
    bool member = u != NULL && v != NULL && member_of(r, u, v) != NULL;

    record_replay(&e->chat, rec);
    if (id.n > 0)
        u = user_find(r, id);
    v = conv_find_key(r, rec->conv);
    if (rec->type == REC_USER && u != NULL && !known)
        item_add(e, ITEM_USER, u);
    if (rec->type == REC_JOIN && u != NULL && v != NULL && !member && member_of(r, u, v) != NULL)
        item_add(e, ITEM_MEMBER, member_of(r, u, v));
}

static void
export_record(void *arg, const struct store_rec *rec)
{
    struct export *e = arg;
    bool first = conv_find_key(&e->chat.roster, rec->conv) == NULL;

    if (rec->type == REC_MESSAGE) {
        record_replay(&e->chat, rec);
        export_message(e->out, rec);
    } else {
        export_state(e, rec);
    }
    struct conv *v = conv_find_key(&e->chat.roster, rec->conv);
    if (first && v != NULL) /* by whichever record: its messages may be gone */
        item_add(e, v->group ? ITEM_GROUP : ITEM_PAIR, v);
}

/* --- writing ---------------------------------------------------------------------------------- */

/* The rest of a line that tells how far somebody has got. */
static void
put_progress(struct buf *b, const struct member *m, const char *type)
{
    if (m->live_hi != 0) {
        json_put_key(b, "live");
        buf_printf(b, "[%" PRIu64 ",%" PRIu64 "]", m->live_lo, m->live_hi);
    }
    json_put_key(b, "seq");
    json_put_int(b, (int64_t)m->cursor);
    put_text(b, "userId", user_id(m->user));
    put_text(b, "type", str_of(type));
    buf_add(b, "}", 1);
}

static void
export_line(struct export *e)
{
    buf_add(&e->line, "\n", 1);
    fwrite(e->line.p, 1, e->line.len, e->out);
    e->line.len = 0;
}

/* A record's JSON with its type in it. */
static void
export_typed(struct export *e, const char *type)
{
    e->line.len--; /* the brace */
    put_text(&e->line, "type", str_of(type));
    buf_add(&e->line, "}", 1);
    export_line(e);
}

void
export_count(struct buf *b, const struct conv *v, uint64_t seq)
{
    buf_add(b, "{", 1);
    if (v->group)
        put_text(b, "groupId", str_of(v->id));
    else
        put_text(b, "fromUserId", user_id(member_peer(v->member[0])));
    json_put_key(b, "seq");
    json_put_int(b, (int64_t)seq);
    if (!v->group)
        put_text(b, "userId", user_id(v->member[0]->user));
    put_text(b, "type", STR("seq"));
    buf_add(b, "}", 1);
}

static void
export_seq(struct export *e, const struct conv *v)
{
    if (v->index.runs > 0 || v->seq == 0 || (!v->group && v->nmembers == 0))
        return;
    export_count(&e->line, v, v->seq);
    export_line(e);
}

static void
export_pair(struct export *e, const struct conv *v)
{
    export_seq(e, v);
    for (uint32_t i = 0; i < v->nmembers; i++) {
        const struct member *m = v->member[i];
        if (m->cursor == 0 && m->live_hi == 0)
            continue;
        buf_add(&e->line, "{", 1);
        put_text(&e->line, "fromUserId", user_id(member_peer(m)));
        put_progress(&e->line, m, "cursor");
        export_line(e);
    }
}

static void
export_item(struct export *e, const struct item *item)
{
    const struct member *m = item->what;
    const struct conv *v = item->what;

    switch (item->kind) {
    case ITEM_USER:
        record_put_user(&e->line, item->what);
        export_typed(e, "user");
        break;
    case ITEM_GROUP:
        export_seq(e, v); /* before its members, whose cursors are within it */
        if (v->name == NULL && !v->gone) /* there is nothing to say that its members do not */
            break;
        record_put_group(&e->line, v);
        export_typed(e, "group");
        break;
    case ITEM_MEMBER:
        if (m->left)
            break;
        buf_add(&e->line, "{", 1);
        put_text(&e->line, "groupId", str_of(m->conv->id));
        put_progress(&e->line, m, "member");
        export_line(e);
        break;
    case ITEM_PAIR:
        export_pair(e, item->what);
        break;
    }
}

int
export_all(const char *dir, FILE *out)
{
    struct export e = {.out = out};
    struct log log = {stderr, LOG_LEVEL_WARN};
    struct options opt;
    struct stats stats = {0};

    conf_init(&opt);
    chat_init(&e.chat, &opt, &log, &stats);
    int code = store_walk(dir, export_record, &e);
    for (enum item_kind kind = ITEM_USER; kind <= ITEM_PAIR; kind++)
        for (size_t i = 0; i < e.n; i++)
            if (e.item[i].kind == kind)
                export_item(&e, &e.item[i]);
    chat_free(&e.chat);
    conf_free(&opt);
    buf_free(&e.line);
    free(e.item);
    return code;
}
