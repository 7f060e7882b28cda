/* SPDX-License-Identifier: MIT */
/*
 * output.c - what is on its way to one connection: the last of a message's eight hops (README).
 * Client sockets are written here alone, by way of tls.c where that has to be.
 *
 *   attending    who has something to be written, or else needs the end of the turn
 *   the queue    a ring of messages; a connection has one only while something is in it
 *   catching up  what a slow reader has missed is read from the store, behind the queue
 *   sending      conn_send() queues; short messages to one connection become one piece
 *   writing      conn_flush(), once a turn: several messages in one call
 */
#include "jim.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAX_FLUSH 262144 /* bytes written to one connection a turn */
#define MAX_CATCH_UP 16384 /* bytes read from the store for one connection at a time */
#define SMALL_CHAT 512   /* chat messages up to this are put behind each other as they come */
#define SMALL_PIECE 2048 /* pieces up to this are copied together rather than listed for writev */

/* --- attending -------------------------------------------------------------------------------- */

void
conn_attend(struct conn *c)
{
    struct jim *j = c->jim;

    if (c->attend)
        return;
    c->attend = true;
    c->next_attend = NULL;
    *j->attend_end = c;
    j->attend_end = &c->next_attend;
}

void
conn_attend_bulk(struct conn *c)
{
    struct jim *j = c->jim;

    if (c->attend || c->bulk)
        return;
    c->bulk = true;
    c->next_bulk = NULL;
    *j->bulk_end = c;
    j->bulk_end = &c->next_bulk;
}

/* --- the queue -------------------------------------------------------------------------------- */

static struct str
head_of(const struct conn *c, struct msg *m)
{
    return msg_head(m, c->proto, &c->jim->stats.encoded);
}

/* The queue's own bytes, counted anew after they may have changed. */
static void
out_count(struct jim *j, struct out *o)
{
    size_t n = sizeof *o + o->cap * sizeof o->entry[0] + o->lags.cap * sizeof *o->lags.place;

    j->bounds.held += n - o->held;
    o->held = n;
}

static ASIDE struct out *
out_new(struct jim *j)
{
    struct out *o = xcalloc(1, sizeof *o);

    o->file = -1;
    o->entry = ring_grow(NULL, sizeof o->entry[0], &o->head, &o->cap, 4);
    out_count(j, o);
    return o;
}

/* Give the connection a queue: it has none. */
static void
out_get(struct conn *c)
{
    struct jim *j = c->jim;

    c->out = j->free_out;
    if (c->out != NULL)
        j->free_out = c->out->next_free;
    else
        c->out = out_new(j);
}

static void
out_free(struct jim *j, struct out *o)
{
    j->bounds.held -= o->held;
    free(o->entry);
    lags_free(&o->lags);
    free(o);
}

void
conn_free_spares(struct jim *j)
{
    while (j->free_out != NULL) {
        struct out *o = j->free_out;
        j->free_out = o->next_free;
        out_free(j, o);
    }
    msg_pool_free(&j->msgs);
}

/* Take the first entry out. */
static struct msg *
out_pop(struct out *o)
{
    struct msg *m = o->entry[o->head].msg;

    o->head = (o->head + 1) & (o->cap - 1);
    o->n--;
    o->sent = 0;
    return m;
}

static void
file_close(struct jim *j, struct out *o)
{
    if (o->file < 0)
        return;
    close(o->file);
    o->file = -1;
    j->files--;
    j->room = true; /* for a connection */
}

/* Give the queue back, which is empty. A slow reader's, which has grown, is not kept. */
static void
out_release(struct conn *c)
{
    struct out *o = c->out;

    c->out = NULL;
    if (o->cap > 64 || o->lags.cap > 0) {
        out_free(c->jim, o);
        return;
    }
    o->head = 0;
    o->next_free = c->jim->free_out;
    c->jim->free_out = o;
}

void
out_drop(struct conn *c)
{
    struct out *o = c->out;

    while (o->n > 0)
        msg_unref(out_pop(o));
    file_close(c->jim, o);
    c->jim->stats.queued -= o->bytes;
    o->bytes = 0;
    out_release(c);
}

/* As his protocol, the embedding program's own, has it. NULL: he is not told. */
static ASIDE struct msg *
out_own(struct conn *c, struct msg *m, struct member *member)
{
    struct msg *his = own_encode(c, m);

    if (his == NULL && (member != NULL || m->fetched != NULL))
        deliver_written(&c->jim->chat, m, member);
    return his;
}

static void
out_push(struct conn *c, struct msg *m, struct member *member)
{
    struct out *o = c->out;

    if (c->proto == PROTO_OWN && (m = out_own(c, m, member)) == NULL)
        return;
    if (o->n == o->cap) {
        o->entry = ring_grow(o->entry, sizeof o->entry[0], &o->head, &o->cap, 4);
        out_count(c->jim, o);
    }
    if (m->held == NULL)
        msg_hold(m, &c->jim->bounds.held);
    uint32_t at = (o->head + o->n++) & (o->cap - 1);
    m->refs++;
    o->entry[at].msg = m;
    o->entry[at].member = member;
    o->bytes += m->len + MAX_PKT_HEAD;
    c->jim->stats.queued += m->len + MAX_PKT_HEAD;
    c->jim->fresh += m->len;
}

/* --- catching up ------------------------------------------------------------------------------ */

/*
 * A reader who fell behind gets what he missed from the store, in order, as fast as he reads. (Of a
 * pair he may get what he has sent himself meanwhile: the store does not know connections.)
 */
static ASIDE void
catch_up(struct conn *c)
{
    struct out *o = c->out;
    size_t room = memory_full(c->jim) ? 1 : MAX_CATCH_UP; /* copies that nobody shares */

    while (o->lags.n > 0 && o->bytes < room) {
        struct lag *l = lags_first(&o->lags);
        const struct conv *v = l->member->conv;
        uint64_t first = store_index_first(&v->index);
        if (l->seq < first)
            l->seq = first; /* retention was faster */
        if (l->member->left || first == 0 || l->seq > deliver_told(l->member)) {
            lags_done(&o->lags);
            continue;
        }
        int error;
        struct msg *m = send_stored(&c->jim->chat, v, l->seq++, &error);
        if (m == NULL && error == -ENOENT)
            continue;
        if (m == NULL) { /* no hole in what he gets: he finds the rest when he comes again */
            conn_close(c, "what he has missed cannot be read");
            return;
        }
        out_push(c, m, l->member);
        msg_unref(m);
    }
}

/* The same in a cluster, where the store has to be asked, which takes a while. */
static void
catch_up_far(struct conn *c)
{
    struct out *o = c->out;
    struct lag *l;

    while ((l = lags_first(&o->lags)) != NULL &&
           (l->member->left || l->seq > deliver_told(l->member)))
        lags_done(&o->lags);
    if (l == NULL)
        conn_attend(c); /* nothing is left to be sent: the queue goes */
    else if (!o->asked && (o->asked = cluster_read(c->jim->cluster, c, l->member, l->seq)))
        c->full = true; /* nothing to do until then */
}

void
conn_caught_up(struct conn *c, struct member *member, struct msg *m, uint64_t next)
{
    struct out *o = c->out;

    if (o == NULL || c->state == CONN_DEAD || c->state == CONN_LINGER)
        return;
    struct lag *l = lags_first(&o->lags);
    if (l == NULL || l->member != member)
        return;
    if (m != NULL) {
        l->seq = m->chat_seq + 1;
        out_push(c, m, member);
    } else {
        o->asked = false;
        if (next > l->seq)
            l->seq = next;
        c->full = false;
        conn_attend(c);
    }
}

/* --- sending ---------------------------------------------------------------------------------- */

/* The entry queued last; NULL: there is none. */
static struct msg *
out_last(const struct conn *c)
{
    const struct out *o = c->out;

    return o != NULL && o->n > 0 ? o->entry[(o->head + o->n - 1) & (o->cap - 1)].msg : NULL;
}

/*
 * A piece of output that several messages to one connection stand in, one behind the other with
 * their heads: one thing to write. Who gets several in a turn is likely to get more: so a piece is
 * as large as what the last one holds, twice that when it is full; and the first, when the last
 * turn brought many, as large as one may be. Not larger: conversations that take turns leave each
 * piece with one message in it, and a queue of these must not take many times what it holds.
 */
static struct msg *
piece_new(struct conn *c, uint8_t command, uint32_t seq, size_t n)
{
    const size_t most = MAX_POOLED - sizeof(struct msg);
    const struct msg *last = out_last(c);
    size_t room = last == NULL && c->many ? most : n;

    if (last != NULL && last->room > 0)
        room = last->len + n > last->room ? 2 * (size_t)last->len : last->len;
    if (room > most)
        room = most;
    struct msg *m = msg_piece(&c->jim->msgs, command, seq, n > room ? n : room);

    if (m->pool != NULL)
        m->room = (uint16_t)(m->bytes - sizeof *m);
    return m;
}

/* Put a message at the end of a piece for this connection: where its n bytes go. */
static char *
piece_put(struct conn *c, struct msg *piece, uint8_t command, uint32_t seq, size_t n)
{
    return msg_put(piece, c->proto, command, seq, n, &c->jim->stats.encoded);
}

/* The same in the piece that is queued last. NULL: it has no room, or its arrival means something
 * else. */
static char *
out_behind(struct conn *c, const struct member *member, uint8_t command, uint32_t seq, size_t n)
{
    struct out *o = c->out;

    if (o == NULL || o->n == 0)
        return NULL;
    uint32_t last = (o->head + o->n - 1) & (o->cap - 1);
    struct msg *m = o->entry[last].msg;
    size_t before = m->len;
    if (before + MAX_PKT_HEAD + n > m->room || o->entry[last].member != member)
        return NULL;
    char *to = piece_put(c, m, command, seq, n);
    size_t all = m->len - before;
    o->bytes += all;
    c->jim->stats.queued += all;
    c->jim->fresh += all;
    return to;
}

/*
 * Queue a chat message. One that only this user gets is copied behind those before it: m is free
 * again at once, and the memory of all of them in the cache. (Hooks see each by itself.)
 */
static void
out_chat(struct conn *c, struct msg *m, struct member *member)
{
    if (!m->alone || m->len > SMALL_CHAT || c->jim->hooks != NULL) {
        out_push(c, m, member);
        return;
    }
    struct msg *last = out_last(c);
    char *to = last != NULL && last->chat_seq + 1 == m->chat_seq
                   ? out_behind(c, member, m->command, 0, m->len) : NULL;
    if (to != NULL) {
        memcpy(to, m->data, m->len);
        last->chat_seq++;
        last->chats++;
        return;
    }
    struct msg *piece = piece_new(c, m->command, 0, MAX_PKT_HEAD + m->len);
    memcpy(piece_put(c, piece, m->command, 0, m->len), m->data, m->len);
    piece->chat_seq = m->chat_seq;
    out_push(c, piece, member);
    msg_unref(piece);
}

/* Queue it behind others, if there is room. */
static ASIDE void
send_behind(struct conn *c, struct msg *m, struct member *member)
{
    size_t limit = (size_t)c->jim->opt.queue_max;
    struct out *o = c->out;

    if (o->bytes + m->len > MAX_PRESSED && limit > MAX_PRESSED && memory_full(c->jim))
        limit = MAX_PRESSED / 2; /* who reads has hardly more; who does not, has had enough */
    bool stored = member != NULL && (store_keeps(c->jim->store) || c->jim->cluster != NULL);
    bool room = o->n == 0 || o->bytes + m->len + MAX_PKT_HEAD <= (stored ? limit : 2 * limit);
    if (stored && lags_has(&o->lags, member))
        return; /* it comes in its turn, behind those he has missed */
    if (room) {
        out_chat(c, m, member);
    } else if (stored) {
        lags_add(&o->lags, member, m->chat_seq - m->chats);
        out_count(c->jim, o);
        c->jim->stats.lags++;
    } else {
        conn_drop(c, DROP_UNREAD, "does not read what is sent to him");
    }
}

void
conn_send(struct conn *c, struct msg *m, struct member *member)
{
    if (c->shut || c->state == CONN_LINGER || c->state == CONN_DEAD)
        return;
    if (c->jim->fanning)
        conn_attend_bulk(c);
    else
        conn_attend(c);
    if (c->out != NULL) {
        send_behind(c, m, member);
        return;
    }
    out_get(c);
    if (c->many)
        out_chat(c, m, member);
    else
        out_push(c, m, member);
}

bool
conn_has_room(const struct conn *c, size_t n)
{
    return c->out == NULL || c->out->bytes + n <= (size_t)c->jim->opt.queue_max;
}

char *
conn_reply_room(struct conn *c, uint8_t command, uint32_t seq, size_t n)
{
    if (c->shut || c->state == CONN_LINGER || c->state == CONN_DEAD)
        return NULL;
    char *to = out_behind(c, NULL, command, seq, n);
    if (to != NULL) {
        conn_attend(c);
        return to;
    }
    struct msg *m = piece_new(c, command, seq, MAX_PKT_HEAD + n);
    to = piece_put(c, m, command, seq, n);
    conn_send(c, m, NULL);
    bool queued = m->refs > 1;
    msg_unref(m);
    return queued ? to : NULL;
}

void
conn_reply(struct conn *c, uint8_t command, uint32_t seq, const char *json, size_t n)
{
    if (c->proto == PROTO_OWN) { /* it is encoded as it is queued */
        struct msg *m = msg_new(command, seq, json, n);
        conn_send(c, m, NULL);
        msg_unref(m);
        return;
    }
    char *to = conn_reply_room(c, command, seq, n);
    if (to != NULL && n > 0)
        memcpy(to, json, n);
}

void
conn_send_file(struct conn *c, int fd, off_t size)
{
    if (c->state == CONN_LINGER || c->state == CONN_DEAD || size == 0) {
        close(fd);
        return;
    }
    if (c->out == NULL)
        out_get(c);
    struct out *o = c->out;
    c->jim->files++;
    o->file = fd;
    o->file_at = 0;
    o->file_end = size;
    c->busy = true; /* the next answer comes behind the whole file */
    conn_attend(c);
}

/* --- writing ---------------------------------------------------------------------------------- */

/* Pieces of output on their way into one writev: small ones copied together, large ones by
 * address. */
struct pieces {
    struct iovec iov[MAX_IOV];
    int n;
    char *gather;    /* MAX_GATHER bytes */
    size_t gathered;
    size_t total;
};

static bool
piece_add(struct pieces *v, const char *p, size_t n)
{
    struct iovec *last = v->n > 0 ? &v->iov[v->n - 1] : NULL;

    if (n == 0)
        return true;
    if (n <= SMALL_PIECE && v->gathered + n <= MAX_GATHER) {
        char *at = v->gather + v->gathered;
        memcpy(at, p, n);
        v->gathered += n;
        v->total += n;
        if (last != NULL && (char *)last->iov_base + last->iov_len == at) {
            last->iov_len += n;
            return true;
        }
        p = at;
    } else if (v->n == MAX_IOV) {
        return false;
    } else {
        v->total += n;
    }
    if (v->n == MAX_IOV) { /* copied for nothing: take it back */
        v->gathered -= n;
        v->total -= n;
        return false;
    }
    v->iov[v->n].iov_base = (void *)(uintptr_t)p;
    v->iov[v->n++].iov_len = n;
    return true;
}

static void
pieces_fill(struct conn *c, struct pieces *v)
{
    struct out *o = c->out;
    size_t skip = o->sent;

    for (uint32_t i = 0; i < o->n && v->total < MAX_READ; i++) {
        struct msg *m = o->entry[(o->head + i) & (o->cap - 1)].msg;
        struct str head = head_of(c, m);
        size_t in_head = skip < head.n ? skip : head.n;
        size_t in_data = skip - in_head;
        skip = 0;
        if (!piece_add(v, head.p + in_head, head.n - in_head) ||
            !piece_add(v, m->data + in_data, m->len - in_data))
            break;
    }
}

/* All of the first entry has left. */
static void
out_done(struct conn *c)
{
    struct out *o = c->out;
    struct jim *j = c->jim;
    struct member *member = o->entry[o->head].member;
    struct msg *m = out_pop(o);

    o->bytes -= m->len + MAX_PKT_HEAD;
    j->stats.queued -= m->len + MAX_PKT_HEAD;
    if (member != NULL || m->fetched != NULL)
        deliver_written(&j->chat, m, member);
    if (j->hooks != NULL)
        extend_traffic(c, JIM_SENT, m->command > 0 ? m->command : -1, head_of(c, m).n + m->len, 0);
    msg_unref(m);
}

/* `n` more bytes have left: finish the entries they complete. */
static void
out_written(struct conn *c, size_t n)
{
    struct out *o = c->out;

    while (o->n > 0) {
        struct msg *m = o->entry[o->head].msg;
        size_t left = head_of(c, m).n + m->len - o->sent;
        if (n < left) {
            o->sent += (uint32_t)n;
            return;
        }
        n -= left;
        out_done(c);
    }
}

#ifdef MSG_NOSIGNAL /* a peer that has gone is an error, whoever the process belongs to */
#define NO_SIGNAL MSG_NOSIGNAL
#else
#define NO_SIGNAL 0 /* the socket itself says so: conn_new() */
#endif

/* A call was given n bytes and returned w. How many have left, or -1. */
static ssize_t
written(struct conn *c, size_t n, ssize_t w)
{
    c->jim->stats.writes++;
    if (w < 0 && errno != EAGAIN && errno != EWOULDBLOCK)
        return -1;
    size_t left = w < 0 ? 0 : (size_t)w;
    c->jim->stats.bytes_out += left;
    if (left < n)
        c->full = true; /* the write event brings us back */
    return (ssize_t)left;
}

static ssize_t
write_bytes(struct conn *c, const char *p, size_t n)
{
    ssize_t w;

    do
        w = send(c->fd, p, n, NO_SIGNAL);
    while (w < 0 && errno == EINTR);
    return written(c, n, w);
}

static ssize_t
write_pieces(struct conn *c, struct pieces *v)
{
    ssize_t w;

    if (c->tls != NULL)
        return written(c, v->total, tls_write(c->tls, v->iov, v->n));
    if (v->n == 1)
        return write_bytes(c, v->iov[0].iov_base, v->iov[0].iov_len);
    do {
        struct msghdr m = {.msg_iov = v->iov};
        m.msg_iovlen += (unsigned)v->n; /* int or size_t, as the system has it */
        w = sendmsg(c->fd, &m, NO_SIGNAL);
    } while (w < 0 && errno == EINTR);
    return written(c, v->total, w);
}

static ASIDE ssize_t
write_several(struct conn *c)
{
    struct pieces v;

    v.n = 0;
    v.gathered = v.total = 0;
    v.gather = c->jim->gather;
    pieces_fill(c, &v);
    return write_pieces(c, &v);
}

/* The only entry, as it stands or copied behind its head. */
static ssize_t
write_one(struct conn *c, struct msg *m)
{
    const char *p = m->data;
    size_t n = m->len, sent = c->out->sent;

    if (!m->raw) {
        struct str head = head_of(c, m);
        p = c->jim->gather;
        copy_short(c->jim->gather, head.p, head.n & 15);
        memcpy(c->jim->gather + head.n, m->data, n);
        n += head.n;
    }
    return write_bytes(c, p + sent, n - sent);
}

/* Write as much of the entries as one call takes. Returns the bytes that have left, or -1. */
static ssize_t
flush_entries(struct conn *c)
{
    const struct out *o = c->out;
    struct msg *m = o->entry[o->head].msg;
    bool one = o->n == 1 && c->tls == NULL && (m->raw || m->bytes <= SMALL_PIECE);
    ssize_t w = one ? write_one(c, m) : write_several(c);

    if (w > 0 && one && !c->full)
        out_done(c);
    else if (w > 0)
        out_written(c, (size_t)w);
    return w;
}

/* Stream the next part of a file. Returns the bytes written, 0 when the socket is full, -1. */
static ASIDE ssize_t
flush_file(struct conn *c)
{
    struct out *o = c->out;
    struct jim *j = c->jim;
    size_t want = o->file_end - o->file_at < MAX_READ ? (size_t)(o->file_end - o->file_at)
                                                      : MAX_READ;
    ssize_t got = pread(o->file, j->input, want, o->file_at);

    if (got <= 0) {
        /* It shrank while being sent: the length in the head is a promise we cannot keep. */
        conn_close(c, "file ended early");
        return -1;
    }
    struct pieces v = {.iov = {{j->input, (size_t)got}}, .n = 1, .total = (size_t)got};
    ssize_t w = write_pieces(c, &v);
    if (w <= 0)
        return w;
    o->file_at += w;
    if (o->file_at == o->file_end) {
        file_close(j, o);
        c->busy = false;
        c->resume = true;
        conn_attend(c);
    }
    return w;
}

bool
conn_flush(struct conn *c)
{
    struct out *o = c->out;
    size_t written = 0;

    c->many = o->bytes > SMALL_PIECE;
    while (written < MAX_FLUSH) {
        ssize_t w;
        if (o->n == 0 && o->lags.n > 0 && c->jim->cluster != NULL) {
            catch_up_far(c); /* and it will be back here */
            break;
        }
        if (o->n == 0 && o->lags.n > 0)
            catch_up(c);
        if (o->n > 0) {
            w = flush_entries(c);
        } else if (o->file >= 0) {
            w = flush_file(c);
        } else {
            out_release(c);
            break;
        }
        if (w < 0)
            conn_close(c, "write failed");
        if (w <= 0)
            break;
        written += (size_t)w;
        if (c->full)
            break;
    }
    return written > 0;
}
