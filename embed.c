/* SPDX-License-Identifier: MIT */
/*
 * embed.c - what an embedding program calls while the server runs: sending, groups, closing,
 * look-ups, and a way in from other threads. Everything by plain texts and connection numbers, so
 * that nothing handed out can dangle. Connections are only queued for and marked here, as
 * everywhere; so it may all be called from within a hook.
 */
#include "jim.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* --- from other threads ----------------------------------------------------------------------- */

struct posts {
    pthread_mutex_t mutex;
    struct post *first, **end; /* owned */
    atomic_size_t n;           /* read without the mutex: is there any? */
};

void
embed_init(struct jim *j)
{
    j->posts = xcalloc(1, sizeof *j->posts);
    j->posts->end = &j->posts->first;
    int e = pthread_mutex_init(&j->posts->mutex, NULL);
    assert(e == 0);
    (void)e;
}

int
jim_post(struct jim *j, void (*fn)(struct jim *j, void *arg), void *arg)
{
    struct post *p = xmalloc(sizeof *p);
    struct posts *q = j->posts;

    *p = (struct post){fn, arg, NULL};
    pthread_mutex_lock(&q->mutex);
    bool room = q->n < MAX_POSTS;
    if (room) {
        *q->end = p;
        q->end = &p->next;
        q->n++;
    }
    pthread_mutex_unlock(&q->mutex);
    if (!room) {
        free(p);
        return -1;
    }
    if (j->loop != NULL)
        loop_wake(j->loop);
    return 0;
}

static void
run_posted(struct posts *q, struct jim *j)
{
    pthread_mutex_lock(&q->mutex);
    struct post *p = q->first;
    q->first = NULL;
    q->end = &q->first;
    q->n = 0;
    pthread_mutex_unlock(&q->mutex);
    while (p != NULL) {
        struct post one = *p;
        free(p);
        p = one.next;
        one.fn(j, one.arg);
    }
}

void
embed_posted(struct jim *j)
{
    if (j->posts->n > 0) /* what comes just now wakes the loop again */
        run_posted(j->posts, j);
}

void
embed_free(struct jim *j)
{
    run_posted(j->posts, NULL);
    pthread_mutex_destroy(&j->posts->mutex);
    free(j->posts);
}

/* --- sending ---------------------------------------------------------------------------------- */

static struct user *
find_user(const struct jim *j, const char *user, size_t n)
{
    struct roster *r = (struct roster *)(uintptr_t)&j->chat.roster; /* a look-up may tidy its map */

    return j->loop == NULL ? NULL : user_find(r, (struct str){user, n});
}

static struct conv *
find_group(const struct jim *j, const char *group, size_t n)
{
    struct roster *r = (struct roster *)(uintptr_t)&j->chat.roster;

    return j->loop == NULL ? NULL : group_find(r, (struct str){group, n});
}

static size_t
send_to(const struct user *u, struct msg *m)
{
    size_t n = 0;

    for (struct conn *o = u->conns; o != NULL; o = o->next_of_user, n++)
        conn_send(o, m, NULL);
    return n;
}

static struct msg *
message(int command, const char *json, size_t n)
{
    return msg_new((uint8_t)command, 0, json, n);
}

size_t
jim_send_user(struct jim *j, const char *user, size_t user_len, int command, const char *json,
              size_t n)
{
    const struct user *u = find_user(j, user, user_len);

    if (u == NULL || u->nconns == 0)
        return 0;
    struct msg *m = message(command, json, n);
    size_t sent = send_to(u, m);
    msg_unref(m);
    return sent;
}

size_t
jim_send_users(struct jim *j, const char *const *users, size_t count, int command,
               const char *json, size_t n)
{
    struct msg *m = message(command, json, n);
    size_t sent = 0;

    for (size_t i = 0; i < count; i++) {
        const struct user *u = find_user(j, users[i], strlen(users[i]));
        if (u != NULL)
            sent += send_to(u, m);
    }
    msg_unref(m);
    return sent;
}

size_t
jim_send_group(struct jim *j, const char *group, size_t group_len, int command, const char *json,
               size_t n)
{
    const struct conv *v = find_group(j, group, group_len);
    size_t sent = 0;

    if (v == NULL)
        return 0;
    struct msg *m = message(command, json, n);
    bool was = j->fanning;
    j->fanning = v->nonline > DELIVER_DIRECT;
    for (uint32_t i = 0; i < v->nonline; i++)
        sent += send_to(v->member[i]->user, m);
    j->fanning = was;
    msg_unref(m);
    return sent;
}

int
jim_send_all(struct jim *j, int command, const char *json, size_t n)
{
    struct msg *m = message(command, json, n);
    bool begun = broadcast_begin(j, NULL, m, STR(""), STR(""));

    msg_unref(m);
    return begun ? 0 : -1;
}

size_t
jim_send_conn(struct jim *j, uint64_t conn, int command, const char *json, size_t n)
{
    struct conn *c = conn_by_id(j, conn);

    if (c == NULL || c->proto == PROTO_HTTP || c->state == CONN_DEAD)
        return 0;
    struct msg *m = message(command, json, n);
    conn_send(c, m, NULL);
    msg_unref(m);
    return 1;
}

/*
 * The message needs somebody to owe its answer to: a connection that has died meanwhile is what the
 * chat knows how to deal with, so this is one. Freed like all of them, when nothing is owed.
 */
int
jim_chat(struct jim *j, const char *json, size_t n)
{
    struct request r;

    if (j->loop == NULL || j->store == NULL || !request_parse(&r, (struct str){json, n}))
        return CODE_SEND_FAILED;
    struct conn *c = xcalloc(1, sizeof *c);
    conn_nobody(c, j);
    int code = send_api(&j->chat, c, &r);
    if (c->deferred == 0)
        conn_attend(c);
    j->called = true;
    return code;
}

int
jim_login_answer(struct jim *j, uint64_t ticket, enum jim_verdict verdict, const char *json,
                 size_t n)
{
    return j->auth == NULL ? -1 : auth_answer(j->auth, ticket, verdict, (struct str){json, n});
}

int
jim_say(struct jim *j, struct jim_text from, struct jim_text to, struct jim_text group,
        struct jim_text content)
{
    struct buf b = {0};

    buf_add(&b, "{", 1);
    json_put_key(&b, "chatType");
    json_put_int(&b, to.p != NULL ? 2 : 1);
    put_text(&b, "content", (struct str){content.p, content.n});
    put_text(&b, "from", (struct str){from.p, from.n});
    put_text(&b, to.p != NULL ? "to" : "groupId",
             to.p != NULL ? (struct str){to.p, to.n} : (struct str){group.p, group.n});
    buf_add(&b, "}", 1);
    int code = jim_chat(j, b.p, b.len);
    buf_free(&b);
    return code;
}

/* --- groups ----------------------------------------------------------------------------------- */

int
jim_group_bind(struct jim *j, const char *user, size_t user_len, const char *group,
               size_t group_len, const char *name)
{
    struct str uid = {user, user_len}, gid = {group, group_len}, title = str_of(name);
    struct chat *c = &j->chat;

    if (j->store == NULL || !id_ok(uid) || !id_ok(gid) || (title.n > 0 && !id_ok(title)))
        return -1;
    struct conv *v = group_create(c, gid, title);
    j->called = true;
    group_add(c, v, user_get(&c->roster, uid));
    return 0;
}

int
jim_group_unbind(struct jim *j, const char *user, size_t user_len, const char *group,
                 size_t group_len)
{
    struct conv *v = find_group(j, group, group_len);
    struct user *u = find_user(j, user, user_len);

    if (j->store == NULL || v == NULL || u == NULL || !group_remove(&j->chat, v, u))
        return -1;
    j->called = true;
    return 0;
}

/* --- closing ---------------------------------------------------------------------------------- */

size_t
jim_close_user(struct jim *j, const char *user, size_t user_len)
{
    struct user *u = find_user(j, user, user_len);

    if (u == NULL)
        return 0;
    size_t n = u->nconns;
    chat_close_user(&j->chat, u, 0, NULL);
    return n;
}

size_t
jim_close_conn(struct jim *j, uint64_t conn)
{
    struct conn *c = conn_by_id(j, conn);

    if (c == NULL)
        return 0;
    conn_finish(c, WS_NORMAL);
    return 1;
}

/* --- look-ups --------------------------------------------------------------------------------- */

size_t
jim_user_conns(const struct jim *j, const char *user, size_t user_len, uint64_t *ids, size_t max)
{
    const struct user *u = find_user(j, user, user_len);
    size_t n = 0;

    for (const struct conn *c = u != NULL ? u->conns : NULL; c != NULL && n < max;
         c = c->next_of_user)
        ids[n++] = conn_public_id(c);
    return u != NULL ? u->nconns : 0;
}

size_t
jim_group_members(const struct jim *j, const char *group, size_t group_len,
                  void (*fn)(void *arg, const char *user, size_t n, int online), void *arg)
{
    const struct conv *v = find_group(j, group, group_len);

    for (uint32_t i = 0; fn != NULL && v != NULL && i < v->nmembers; i++) {
        struct str id = user_id(v->member[i]->user);
        fn(arg, id.p, id.n, i < v->nonline);
    }
    return v != NULL ? v->nmembers : 0;
}

size_t
jim_conn_count(const struct jim *j)
{
    return j->conns;
}

const char *
jim_conn_user(const struct jim *j, uint64_t conn, size_t *n)
{
    const struct conn *c = conn_by_id(j, conn);
    struct str id = c != NULL && c->user != NULL ? user_id(c->user) : (struct str){NULL, 0};

    if (n != NULL)
        *n = id.n;
    return id.p;
}

void
jim_conn_address(const struct jim *j, uint64_t conn, char *text, size_t size)
{
    const struct conn *c = conn_by_id(j, conn);
    char address[ADDRESS_ROOM] = "";

    if (c != NULL)
        address_peer_text(c, address);
    snprintf(text, size, "%s", address);
}

const char *
jim_conn_protocol(const struct jim *j, uint64_t conn)
{
    const struct conn *c = conn_by_id(j, conn);

    return c != NULL ? conn_terminal(c) : NULL;
}

int
jim_conn_set(struct jim *j, uint64_t conn, void *pointer, void (*destroy)(void *own))
{
    struct conn *c = conn_by_id(j, conn);

    if (c == NULL)
        return -1;
    struct own *own = own_get(c), was = *own;
    own->pointer = pointer;
    own->destroy = destroy;
    if (was.destroy != NULL)
        was.destroy(was.pointer);
    return 0;
}

void *
jim_conn_get(const struct jim *j, uint64_t conn)
{
    const struct conn *c = conn_by_id(j, conn);

    return c != NULL && c->own != NULL ? c->own->pointer : NULL;
}
