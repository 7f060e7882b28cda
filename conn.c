/* SPDX-License-Identifier: MIT */
/*
 * conn.c - the life of one connection, from its first byte to its last. Client sockets are read
 * here alone, by way of tls.c where that has to be; writing is output.c's business, what the bytes
 * mean that of input.c and chat.c.
 *
 *   closing    conn_close() and conn_finish() only mark; the end of the turn releases
 *   reading    conn_take() reads once a turn, the first hop; input.c makes of it what it means
 *   timers     one a connection, meaning what its state says
 *   its beginning, and what the end of a turn does for it
 */
#include "jim.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PING_MS 60000    /* WebSocket: silence after which a PING is sent */
#define MAX_SILENT 2     /* pings without an answer before the peer counts as gone */
#define LINGER_MS 1000   /* how long a peer may take to close after we have */
#define STOP_LINGER_MS 200 /* the same while the server stops: nobody waits for it in vain */
#define FINISH_MS 10000  /* how long a closing peer may take none of what is queued for him */
#define CONN_COST (sizeof(struct conn) + 64) /* with its places in the loop's tables */
#define TLS_COST 15360   /* more, when it speaks TLS: measured, OpenSSL 3.0 */
#define MAX_HELLO 4096   /* bytes read before it is known whether they are TLS: they may have to be
                            kept until the handshake's turn comes */
#define MAX_HANDSHAKES 4 /* steps of handshakes a turn: a signature takes up to a millisecond */

/* --- closing ---------------------------------------------------------------------------------- */

void
conn_close(struct conn *c, const char *why)
{
    if (c->state == CONN_DEAD)
        return;
    log_write(&c->jim->log, LOG_LEVEL_DEBUG, "connection %llu: closed: %s",
              (unsigned long long)c->id, why);
    if (c->reason == REASON_LOST && c->ended)
        c->reason = REASON_PEER;
    c->state = CONN_DEAD;
    conn_attend(c);
}

void
conn_drop(struct conn *c, enum drop reason, const char *why)
{
    if (c->state != CONN_DEAD)
        c->jim->stats.drops[reason]++;
    if (c->reason == REASON_LOST)
        c->reason = (uint8_t)(REASON_DROPS + reason);
    conn_close(c, why);
}

/* No more input: what is owed and queued is still written, within a time that passes without
 * progress. */
static void
conn_last_words(struct conn *c)
{
    c->state = CONN_FINISH;
    conn_deadline(c, FINISH_MS);
    conn_attend(c);
}

void
conn_finish(struct conn *c, enum ws_close code)
{
    if (c->state == CONN_DEAD || c->state == CONN_LINGER || c->shut)
        return;
    if (c->reason == REASON_LOST)
        c->reason = c->ended ? REASON_PEER : REASON_US;
    if (c->deferred > 0) { /* the answers that are owed come first; conn_turn() comes back here */
        c->close_code = (uint16_t)code;
        conn_last_words(c);
        return;
    }
    if (c->proto == PROTO_WS) {
        unsigned char payload[2] = {(unsigned char)(code >> 8), (unsigned char)(code & 0xff)};
        conn_control(c, WS_CLOSE, payload, code == WS_NO_STATUS ? 0 : 2);
    }
    if (c->state == CONN_DEAD)
        return; /* there was no room for the CLOSE */
    c->shut = true;
    conn_last_words(c);
}

void
conn_answered(struct conn *c)
{
    assert(c->deferred > 0);
    if (--c->deferred > 0 && c->deferred != MAX_DEFERRED / 2)
        return;
    c->resume = true;
    conn_attend(c);
}

const char *
conn_terminal(const struct conn *c)
{
    return c->proto == PROTO_OWN ? c->own->proto->p.name : proto_name(c->proto);
}

/* Take a dead connection off the loop; its memory stays until nobody owes it an answer. */
static void
conn_release(struct conn *c)
{
    struct jim *j = c->jim;

    if (c->fd >= 0) {
        chat_closed(&j->chat, c);
        if (c->tls != NULL) {
            if (c->out == NULL)
                tls_close(c->tls); /* a goodbye, unless something is missing before it */
            tls_free(c->tls);
            c->tls = NULL;
            j->bounds.held -= TLS_COST;
        }
        loop_del(j->loop, c->fd);
        close(c->fd);
        c->fd = -1;
        loop_timer_clear(j->loop, &c->timer);
        if (c->out != NULL)
            out_drop(c);
        input_free(c);
        proxy_forget(c);
        j->conns--;
        j->stats.closed++;
        j->stats.open[c->proto]--;
        j->room = true; /* for another */
        own_free(c); /* whose function no longer finds the connection */
    }
    if (c->deferred > 0 || c->bulk || c->attend)
        return;
    j->bounds.held -= CONN_COST;
    free(c);
}

/* All is written: shut our side and wait for the peer's, since closing with unread input would make
 * the kernel reset the connection and throw our last words away. */
static void
conn_linger(struct conn *c)
{
    if (c->tls != NULL && tls_close(c->tls) == 0)
        return; /* its last record has to leave first: conn_turn() comes back here */
    if (c->ended || shutdown(c->fd, SHUT_WR) != 0) {
        c->state = CONN_DEAD;
        return;
    }
    c->state = CONN_LINGER;
    input_free(c);
    conn_deadline(c, c->jim->draining ? STOP_LINGER_MS : LINGER_MS);
}

/* --- reading ---------------------------------------------------------------------------------- */

static ASIDE void
conn_watch(struct conn *c, unsigned want)
{
    c->watched = (uint8_t)want;
    if (loop_set(c->jim->loop, c->fd, want) != 0)
        conn_close(c, "cannot be watched");
}

/* What the loop should watch, after anything that may have changed it. */
static inline void
conn_interest(struct conn *c)
{
    unsigned tls = c->tls != NULL ? tls_state(c->tls) : 0;
    unsigned want = 0;

    if (c->state == CONN_OPEN     ? !input_waits(c) && !c->ended
        : c->state == CONN_DETECT ? !(tls & TLS_QUEUED)
                                  : c->state == CONN_LINGER)
        want |= LOOP_READ;
    /* Who stands in the line of bulk is written to without being asked. */
    if ((c->out != NULL && !c->bulk && !(c->out->asked && c->out->n == 0)) || tls & TLS_PENDING)
        want |= LOOP_WRITE;
    if (want != c->watched)
        conn_watch(c, want);
}

/* The peer has sent its last byte. It still gets the answers it is owed. */
static void
conn_ended(struct conn *c)
{
    c->ended = true;
    if (c->reason == REASON_LOST)
        c->reason = REASON_PEER;
    if (c->state == CONN_OPEN && (c->deferred > 0 || c->out != NULL))
        conn_last_words(c);
    else if (c->state != CONN_FINISH)
        conn_close(c, "closed by the peer");
}

static ssize_t
conn_read(struct conn *c)
{
    struct jim *j = c->jim;
    size_t most = c->state == CONN_DETECT && j->tls != NULL ? MAX_HELLO : MAX_READ;
    ssize_t n;

    if (c->tls != NULL && c->state != CONN_LINGER)
        return tls_read(c->tls, j->input, MAX_READ);
    do
        n = recv(c->fd, j->input, most, 0);
    while (n < 0 && errno == EINTR);
    return n;
}

/* A TLS handshake that has failed: the alert that says so must arrive, so no reset. */
static void
conn_failed(struct conn *c)
{
    if (c->tls == NULL || errno != EPROTO) {
        conn_close(c, strerror(errno));
    } else if (c->state != CONN_DETECT) {
        conn_close(c, tls_why(c->tls));
    } else {
        log_write(&c->jim->log, LOG_LEVEL_DEBUG, "connection %llu: TLS: %s",
                  (unsigned long long)c->id, tls_why(c->tls));
        conn_linger(c);
        conn_attend(c);
    }
}

static void
conn_take(struct conn *c)
{
    struct jim *j = c->jim;
    ssize_t n = conn_read(c);

    j->stats.reads++;
    if (n < 0) {
        if (errno != EAGAIN && errno != EWOULDBLOCK)
            conn_failed(c);
        return;
    }
    if (n == 0) {
        conn_ended(c);
        return;
    }
    j->stats.bytes_in += (uint64_t)n;
    if (j->hooks != NULL)
        extend_traffic(c, JIM_RECEIVED, 0, (size_t)n, 0);
    c->read_ms = loop_now(j->loop);
    c->silent = 0;
    if (c->state == CONN_LINGER)
        return;
    if (c->proxy_due && (n = (ssize_t)input_header(c, j->input, (size_t)n)) == 0)
        return;
    if (c->state == CONN_DETECT && c->pend == NULL && c->tls == NULL && j->tls != NULL &&
        j->input[0] == TLS_FIRST) {
        c->tls = tls_accept(j->tls, c->fd, c, j->input, (size_t)n);
        j->bounds.held += TLS_COST;
        return;
    }
    j->chat.burst_ms = 0;
    input_take(c, j->input, (size_t)n);
    j->chat.burst_ms = -1;
    if (c->tls != NULL && tls_state(c->tls) & TLS_OVER)
        conn_attend(c); /* the end has come along, and no event will say so */
}

void
conn_handshakes(struct jim *j)
{
    struct conn *c;

    for (int i = 0; i < MAX_HANDSHAKES && (c = tls_next(j->tls)) != NULL; i++) {
        if (c->state != CONN_DETECT)
            continue; /* closed while it waited */
        if (tls_state(c->tls) & TLS_FRESH)
            conn_deadline(c, j->opt.detect_ms); /* so far it was we who were slow */
        conn_take(c);
        conn_attend(c);
    }
}

static void
conn_event(void *arg, unsigned events)
{
    struct conn *c = arg;

    if (c->state == CONN_DEAD)
        return;
    if (events & LOOP_READ) {
        if (!(c->watched & LOOP_READ))
            conn_close(c, "hung up"); /* not asked for, so this is an error condition */
        else if (c->state == CONN_DETECT ? c->tls == NULL || !tls_wait(c->tls)
                                         : c->state == CONN_LINGER || !input_waits(c))
            conn_take(c); /* else somebody else's command has just put it on hold */
    }
    if (events & LOOP_WRITE) { /* his socket was full: he is the one we have waited for */
        c->full = false;
        conn_attend_bulk(c);
    }
    if (c->state == CONN_DEAD)
        conn_attend(c);
    else if (!c->attend)
        conn_interest(c);
    if (c->jim->fresh > MAX_QUEUED)
        jim_attend_now(c->jim); /* c may be gone after it */
}

/* --- timers ----------------------------------------------------------------------------------- */

static void conn_timer(struct timer *t);

void
conn_deadline(struct conn *c, int64_t ms)
{
    loop_timer(c->jim->loop, &c->timer, loop_now(c->jim->loop) + ms, conn_timer);
}

/* Heartbeat and WebSocket PING. Activity is only noted as it comes; the timer looks at it when
 * due. */
static void
conn_idle(struct conn *c)
{
    struct jim *j = c->jim;
    int64_t now = loop_now(j->loop), heartbeat = j->opt.heartbeat, next = 0;

    if (heartbeat > 0 && now - c->read_ms >= heartbeat && c->jim->hooks != NULL &&
        extend_silent(c))
        c->read_ms = now;
    if (heartbeat > 0 && now - c->read_ms >= heartbeat) {
        conn_drop(c, DROP_SILENT, "heartbeat timeout");
        return;
    }
    if (c->proto == PROTO_WS && now - c->read_ms >= PING_MS) {
        if (c->silent++ >= MAX_SILENT) {
            conn_drop(c, DROP_SILENT, "does not answer pings");
            return;
        }
        conn_control(c, WS_PING, NULL, 0);
        next = now + PING_MS;
    } else if (c->proto == PROTO_WS) {
        next = c->read_ms + PING_MS;
    }
    if (heartbeat > 0 && (next == 0 || next > c->read_ms + heartbeat))
        next = c->read_ms + heartbeat;
    if (next > 0)
        loop_timer(j->loop, &c->timer, next, conn_timer);
}

void
conn_logged_in(struct conn *c)
{
    int64_t first = c->jim->opt.heartbeat;

    if (c->proto == PROTO_WS && (first <= 0 || first > PING_MS))
        first = PING_MS;
    loop_timer_clear(c->jim->loop, &c->timer); /* the login's deadline is met */
    if (first > 0)
        conn_deadline(c, first);
}

static void
conn_timer(struct timer *t)
{
    struct conn *c = container_of(t, struct conn, timer);

    if (c->state == CONN_DETECT && c->tls != NULL && tls_state(c->tls) & TLS_QUEUED)
        conn_deadline(c, c->jim->opt.detect_ms); /* it waits for us, not we for it */
    else if (c->state == CONN_DETECT)
        conn_drop(c, DROP_DETECT, "showed no protocol in time");
    else if (c->state != CONN_OPEN)
        conn_close(c, "did not close in time");
    else if (c->login != NULL && c->user == NULL && c->jim->opt.auth != AUTH_EMBED)
        conn_deadline(c, c->jim->opt.login_ms); /* others' passwords come before his */
    else if (c->proto != PROTO_HTTP && c->user == NULL && c->jim->opt.login_required)
        conn_drop(c, DROP_LOGIN, "did not log in in time");
    else if (c->proto != PROTO_HTTP)
        conn_idle(c);
    else if (c->busy && (c->out == NULL || c->out->file < 0))
        conn_deadline(c, c->jim->opt.http_ms); /* we owe; with a file it is he who does not read */
    else
        conn_drop(c, c->pend != NULL && c->pend->head == 0 ? DROP_DETECT : DROP_IDLE,
                  "idle, or too slow with its request");
}

/* --- its beginning, and the end of a turn ----------------------------------------------------- */

void
conn_new(struct listener *l, int fd, const struct sockaddr_storage *peer)
{
    struct jim *j = l->jim;
    struct address *address = NULL;
    enum proxy_kind proxy = proxy_kind(j, peer);
    unsigned char ip[16];
    int on = 1;

    address_bytes(peer, ip);
    bool welcome = proxy != PROXY_IS_NONE || address_enter(j, ip, &address);
    bool room = welcome && !memory_full(j);
    if (!room) {
        j->stats.refused++;
        j->stats.refused_ip += !welcome;
        j->stats.refused_memory += welcome;
        address_leave(j, address);
        close(fd);
        return;
    }
    struct conn *c = xcalloc(1, sizeof *c);

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
#ifdef SO_NOSIGPIPE
    setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#endif
    c->jim = j;
    c->fd = fd;
    c->id = ++j->next_id;
    c->protos = (uint8_t)l->protos;
    c->tls_only = l->tls;
    c->loopback = proxy == PROXY_IS_NONE && address_is_loopback(peer);
    c->proxy_due = proxy == PROXY_SENDS_HEADER;
    c->forwards = proxy == PROXY_FORWARDS;
    c->address = address;
    c->read_ms = loop_now(j->loop);
    c->watched = LOOP_READ;
    if (loop_add(j->loop, fd, LOOP_READ, conn_event, c) != 0) {
        log_write(&j->log, LOG_LEVEL_ERROR, "cannot watch a connection: %s", strerror(errno));
        close(fd);
        address_leave(j, address);
        free(c);
        return;
    }
    j->bounds.held += CONN_COST;
    loop_timer(j->loop, &c->timer, c->read_ms + j->opt.detect_ms, conn_timer);
    j->conns++;
    j->stats.accepted++;
    j->stats.open[c->proto]++;
}

void
conn_nobody(struct conn *c, struct jim *j)
{
    c->jim = j;
    c->fd = -1;
    c->state = CONN_DEAD;
    c->proto = PROTO_HTTP;
    j->bounds.held += CONN_COST;
}

struct conn *
conn_at(const struct jim *j, int fd)
{
    return loop_arg(j->loop, fd, conn_event);
}

/* His socket has taken something: for the rest he has time again. */
static void
conn_progress(struct conn *c)
{
    if (c->state == CONN_FINISH)
        conn_deadline(c, FINISH_MS);
    else if (c->proto == PROTO_HTTP)
        conn_deadline(c, c->jim->opt.http_ms);
}

/* No more input: is all that was owed answered, and all that was queued written? */
static void
conn_finishing(struct conn *c)
{
    if (c->deferred == 0 && !c->shut && !c->ended)
        conn_finish(c, (enum ws_close)c->close_code); /* now that nothing is owed any more */
    if (c->state == CONN_FINISH && c->out == NULL && (c->deferred == 0 || c->shut))
        conn_linger(c);
}

/* Everything a connection may need at the end of a turn, once. */
void
conn_turn(struct conn *c)
{
    if (c->resume)
        input_resume(c);
    if (c->tls != NULL && !c->ended && !input_waits(c) && tls_state(c->tls) & TLS_OVER)
        conn_take(c); /* the end has come along with the last bytes; they have all been used now */
    if (c->shut) /* nothing reaches him here any more: not when the peer closes, but from now on */
        chat_closed(&c->jim->chat, c);
    if (c->out != NULL && c->state != CONN_DEAD && !c->full) {
        bool waited = c->pend != NULL && input_waits(c);
        if (conn_flush(c))
            conn_progress(c);
        if (waited && !input_waits(c)) { /* there is room for answers again */
            c->resume = true;
            conn_attend(c);
        }
    }
    if (c->tls != NULL && c->out == NULL && c->state != CONN_DEAD && c->state != CONN_LINGER &&
        tls_flush(c->tls) < 0)
        conn_close(c, "write failed");
    if (c->state == CONN_FINISH)
        conn_finishing(c);
    if (c->state != CONN_DEAD)
        conn_interest(c);
    else if (!c->attend) /* else it is in the list again, and must not be freed from there */
        conn_release(c);
}
