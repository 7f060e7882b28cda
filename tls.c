/* SPDX-License-Identifier: MIT */
/*
 * tls.c - TLS 1.2 and 1.3 over OpenSSL or LibreSSL: connections, from the handshake to the last
 * byte. Whom a server shows itself as is tls_cert.c's business. Built without (`make` rather than
 * `make TLS=1`) the same functions say so, at the end.
 *
 *   the wire      what OpenSSL reads is a window on bytes already received, what it writes a
 *                 buffer: one read() and one write() serve any number of records
 *   connections   begun, read, written, closed
 *   taking turns  handshakes wait in two queues, so that a storm of them starves nobody
 *   client        outgoing connections, verified
 *
 * OpenSSL never sees a descriptor, so it never waits for one: it takes all there is, or says that
 * it needs more. That leaves one "other direction": bytes the socket had no room for (`rest`),
 * which have to go before anything else does.
 */
#include "jim.h"

#if defined(JIM_TLS) && JIM_TLS

#include "tls.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/x509v3.h>

#define MAX_HANDSHAKING 1024   /* handshakes begun and not finished: each holds some 30 KiB */
#define MAX_PLAIN 16384        /* bytes of data in a record (RFC 8446 section 5.1) */
#define MAX_BATCH 65536        /* bytes encrypted before the socket is asked to take them */
#define MAX_REST 262144        /* bytes a peer may leave unread; he alone is to blame for more */

/* What the connections of one server or client share: one of them at a time is being served. */
struct tls_io {
    BIO_METHOD *method;  /* owned */
    const char *in;      /* received, not yet taken by OpenSSL; borrowed for the call */
    size_t in_n;
    struct buf out;      /* written by OpenSSL, not yet by us; empty between calls */
    char record[MAX_PLAIN];
};

struct queue {
    struct tls *first, *last;
};

struct tls_server {
    struct tls_io io;
    struct certs *certs; /* ref: what new connections get */
    struct stats *stats; /* borrowed */
    struct ticket_keys keys;
    struct queue begun, fresh; /* by whether they have had a turn */
    bool fresh_next;     /* the two take turns */
    size_t handshaking;
};

struct tls_client {
    struct tls_io io;
    SSL_CTX *ctx;        /* owned */
};

struct tls {
    SSL *ssl;            /* owned; NULL: has not had its first turn */
    struct tls_io *io;   /* borrowed, as are the next two */
    struct tls_server *server; /* NULL: a client's */
    void *owner;
    struct certs *certs; /* ref; NULL: a client's */
    struct queue *queue; /* the one it is in, or NULL */
    struct tls *next, *prev;
    /* Ciphertext the socket had no room for; before the first turn, what has been received. */
    struct buf rest;
    size_t ahead;        /* bytes of data that are in `rest` as ciphertext */
    const char *why;     /* static: what went wrong; NULL: nothing */
    int fd;              /* borrowed */
    bool counted;        /* in server->handshaking */
    bool ready;          /* the handshake is over, and well */
    bool ended;          /* nothing more will be read */
    bool truncated;      /* because the peer was cut off, rather than said goodbye */
    bool closed;         /* we have said ours */
};

const char *
tls_version(void)
{
    return OpenSSL_version(OPENSSL_VERSION);
}

/* --- the wire --------------------------------------------------------------------------------- */

static int
wire_read(BIO *b, char *p, int n)
{
    struct tls_io *io = BIO_get_data(b);
    size_t some = io->in_n < (size_t)n ? io->in_n : (size_t)n;

    BIO_clear_retry_flags(b);
    if (some == 0) {
        BIO_set_retry_read(b);
        return -1;
    }
    memcpy(p, io->in, some);
    io->in += some;
    io->in_n -= some;
    return (int)some;
}

static int
wire_write(BIO *b, const char *p, int n)
{
    struct tls_io *io = BIO_get_data(b);

    BIO_clear_retry_flags(b);
    buf_add(&io->out, p, (size_t)n);
    return n;
}

static long
wire_ctrl(BIO *b, int cmd, long n, void *p)
{
    (void)b;
    (void)n;
    (void)p;
    return cmd == BIO_CTRL_FLUSH;
}

static bool
io_init(struct tls_io *io)
{
    io->method = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "jim");
    return io->method != NULL && BIO_meth_set_read(io->method, wire_read) == 1 &&
           BIO_meth_set_write(io->method, wire_write) == 1 &&
           BIO_meth_set_ctrl(io->method, wire_ctrl) == 1;
}

static void
io_free(struct tls_io *io)
{
    BIO_meth_free(io->method);
    buf_free(&io->out);
}

static ssize_t
send_some(int fd, const char *p, size_t n)
{
    ssize_t w;

    do
#ifdef MSG_NOSIGNAL
        w = send(fd, p, n, MSG_NOSIGNAL);
#else
        w = write(fd, p, n);
#endif
    while (w < 0 && errno == EINTR);
    return w < 0 && (errno == EAGAIN || errno == EWOULDBLOCK) ? 0 : w;
}

static int
fail(struct tls *t, const char *why)
{
    if (t->why == NULL)
        t->why = why;
    errno = EPROTO;
    return -1;
}

int
tls_flush(struct tls *t)
{
    if (t->ssl == NULL || t->rest.len == 0)
        return 1;
    ssize_t w = send_some(t->fd, t->rest.p, t->rest.len);
    if (w < 0)
        return fail(t, "cannot be written to");
    buf_drop(&t->rest, (size_t)w);
    if (t->rest.len > 0)
        return 0;
    buf_free(&t->rest);
    return 1;
}

/* What OpenSSL has written goes to the socket, or to `rest`. 0 or -1. */
static int
push(struct tls *t)
{
    struct buf *out = &t->io->out;
    ssize_t w = 0;

    if (t->rest.len == 0 && out->len > 0)
        w = send_some(t->fd, out->p, out->len);
    if (w >= 0 && (size_t)w < out->len)
        buf_add(&t->rest, out->p + w, out->len - (size_t)w);
    out->len = 0;
    if (w < 0)
        return fail(t, "cannot be written to");
    return t->rest.len > MAX_REST ? fail(t, "does not read what TLS has to say") : 0;
}

/* --- connections ------------------------------------------------------------------------------ */

static struct tls *
tls_new(struct tls_io *io, int fd)
{
    struct tls *t = xcalloc(1, sizeof *t);

    t->io = io;
    t->fd = fd;
    return t;
}

/* Give it its OpenSSL half. NULL, or false: memory is short, and the peer is to be closed. */
static bool
begin(struct tls *t, SSL *ssl)
{
    BIO *bio = BIO_new(t->io->method);

    t->ssl = ssl;
    if (bio == NULL || ssl == NULL) {
        BIO_free(bio);
        return false;
    }
    BIO_set_data(bio, t->io);
    BIO_set_init(bio, 1);
    SSL_set_bio(t->ssl, bio, bio);
    if (t->server == NULL) {
        SSL_set_connect_state(t->ssl);
        return true;
    }
    SSL_set_accept_state(t->ssl);
    t->server->handshaking++;
    t->counted = true;
    return true;
}

static void
uncount(struct tls *t)
{
    if (t->counted)
        t->server->handshaking--;
    t->counted = false;
}

/* An operation of OpenSSL returned `result`, no success. Does it merely want more input? */
static bool
wants_more(struct tls *t, int result)
{
    int e = SSL_get_error(t->ssl, result);
    long verified;

    if (e == SSL_ERROR_WANT_READ)
        return true;
    t->ended = true;
    if (e == SSL_ERROR_ZERO_RETURN)
        return false;
    verified = SSL_get_verify_result(t->ssl);
    bool untrusted = !t->ready && verified != X509_V_OK;
    fail(t, untrusted ? X509_verify_cert_error_string(verified) : tls_reason());
    return false;
}

static void
handshake(struct tls *t)
{
    int result = SSL_do_handshake(t->ssl);
    struct tls_server *s = t->server;

    if (result != 1 && wants_more(t, result))
        return;
    t->ready = result == 1;
    if (s == NULL)
        return;
    uncount(t);
    s->stats->tls += result == 1;
    s->stats->tls_failed += result != 1;
    s->stats->tls_resumed += result == 1 && SSL_session_reused(t->ssl);
}

/*
 * Decrypt n bytes at raw to p. They may overlap: OpenSSL has copied a record's bytes before its
 * data comes out, and no record holds more data than it has bytes; so with TLS_ROOM in between,
 * which is what of an earlier record may still come out, writing never catches up with reading.
 */
static ssize_t
decrypt(struct tls *t, char *p, size_t room, const char *raw, size_t n)
{
    size_t got = 0;
    int some;

    t->io->in = raw;
    t->io->in_n = n;
    ERR_clear_error();
    if (!t->ready)
        handshake(t);
    while (t->ready && !t->ended) {
        assert(got < room); /* as the caller has left TLS_ROOM beside the bytes received */
        ERR_clear_error();
        some = SSL_read(t->ssl, p + got, (int)(room - got));
        if (some > 0)
            got += (size_t)some;
        else if (wants_more(t, some))
            break;
    }
    t->io->in_n = 0;
    push(t); /* also when it failed: the alert says why */
    if (got > 0)
        return (ssize_t)got;
    if (t->why != NULL)
        return fail(t, t->why);
    if (t->ended)
        return 0;
    errno = EAGAIN;
    return -1;
}

ssize_t
tls_read(struct tls *t, char *p, size_t n)
{
    ssize_t got;

    assert(n >= TLS_MIN_READ);
    if (t->why != NULL)
        return fail(t, t->why);
    if (t->ended)
        return 0;
    if (t->ssl == NULL) { /* its first turn */
        struct buf first = t->rest;
        t->rest = (struct buf){0};
        got = begin(t, certs_ssl(t->certs)) ? decrypt(t, p, n, first.p, first.len)
                                            : fail(t, "out of memory");
        buf_free(&first);
        return got;
    }
    do
        got = read(t->fd, p + TLS_ROOM, n - TLS_ROOM);
    while (got < 0 && errno == EINTR);
    if (got > 0)
        return decrypt(t, p, n, p + TLS_ROOM, (size_t)got);
    if (got == 0) {
        t->ended = t->truncated = true;
        if (!t->ready)
            return fail(t, "closed during the handshake");
    }
    return got;
}

/* Up to a record's worth of data from position `at` on; one piece by address, several copied
 * together. */
static struct str
next_record(struct tls_io *io, const struct iovec *v, int n, size_t at)
{
    size_t copied = 0;

    for (int i = 0; i < n && copied < MAX_PLAIN; i++) {
        if (at >= v[i].iov_len) {
            at -= v[i].iov_len;
            continue;
        }
        const char *p = (const char *)v[i].iov_base + at;
        size_t some = v[i].iov_len - at;
        at = 0;
        if (copied == 0 && (some >= MAX_PLAIN || i == n - 1))
            return (struct str){p, some < MAX_PLAIN ? some : MAX_PLAIN};
        if (some > MAX_PLAIN - copied)
            some = MAX_PLAIN - copied;
        memcpy(io->record + copied, p, some);
        copied += some;
    }
    return (struct str){io->record, copied};
}

static size_t
total(const struct iovec *v, int n)
{
    size_t sum = 0;

    for (int i = 0; i < n; i++)
        sum += v[i].iov_len;
    return sum;
}

/* Encrypt data from `at` on to io->out, at most MAX_BATCH bytes. Returns the bytes, or -1. */
static ssize_t
encrypt(struct tls *t, const struct iovec *v, int n, size_t at)
{
    size_t done = 0;

    while (done < MAX_BATCH) {
        struct str r = next_record(t->io, v, n, at + done);
        if (r.n == 0)
            break;
        ERR_clear_error();
        if (SSL_write(t->ssl, r.p, (int)r.n) != (int)r.n)
            return fail(t, tls_reason());
        done += r.n;
    }
    return (ssize_t)done;
}

ssize_t
tls_write(struct tls *t, const struct iovec *v, int n)
{
    size_t done = 0;
    ssize_t some;

    if (t->ahead > total(v, n))
        fail(t, "what was to be written has changed");
    if (t->why != NULL)
        return fail(t, t->why);
    if (t->ready && (some = tls_flush(t)) != 0) {
        if (some < 0)
            return -1;
        done = t->ahead; /* these have left by now */
        t->ahead = 0;
        do {
            some = encrypt(t, v, n, done);
            if (some < 0 || push(t) != 0)
                return -1;
            if (t->rest.len > 0)
                t->ahead = (size_t)some;
            else
                done += (size_t)some;
        } while (some > 0 && t->rest.len == 0);
    }
    if (done > 0)
        return (ssize_t)done;
    errno = EAGAIN;
    return -1;
}

int
tls_close(struct tls *t)
{
    if (t->why != NULL)
        return -1;
    if (!t->ready)
        return 1;
    if (!t->closed) {
        t->closed = true;
        ERR_clear_error();
        SSL_shutdown(t->ssl); /* its answer is nothing we wait for */
        ERR_clear_error();
        if (push(t) != 0)
            return -1;
    }
    return tls_flush(t);
}

unsigned
tls_state(const struct tls *t)
{
    return (t->ready ? TLS_READY : 0u) | (t->queue != NULL ? TLS_QUEUED : 0u) |
           (t->ssl == NULL ? TLS_FRESH : 0u) |
           (t->ssl != NULL && t->rest.len > 0 ? TLS_PENDING : 0u) |
           (t->ended || t->why != NULL ? TLS_OVER : 0u) | (t->truncated ? TLS_TRUNCATED : 0u);
}

const char *
tls_why(const struct tls *t)
{
    return t->why != NULL ? t->why : "";
}

/* --- taking turns ----------------------------------------------------------------------------- */

static void
queue_add(struct queue *q, struct tls *t)
{
    t->queue = q;
    t->next = NULL;
    t->prev = q->last;
    *(q->last != NULL ? &q->last->next : &q->first) = t;
    q->last = t;
}

static void
queue_remove(struct tls *t)
{
    struct queue *q = t->queue;

    *(t->prev != NULL ? &t->prev->next : &q->first) = t->next;
    *(t->next != NULL ? &t->next->prev : &q->last) = t->prev;
    t->queue = NULL;
}

struct tls *
tls_accept(struct tls_server *s, int fd, void *owner, const char *p, size_t n)
{
    struct tls *t = tls_new(&s->io, fd);

    t->server = s;
    t->owner = owner;
    t->certs = certs_ref(s->certs);
    buf_add(&t->rest, p, n);
    queue_add(&s->fresh, t);
    return t;
}

bool
tls_wait(struct tls *t)
{
    if (t->ready || t->server == NULL)
        return false;
    if (t->queue == NULL)
        queue_add(t->ssl != NULL ? &t->server->begun : &t->server->fresh, t);
    return true;
}

static struct queue *
next_queue(struct tls_server *s)
{
    bool fresh = s->fresh.first != NULL && s->handshaking < MAX_HANDSHAKING;

    if (fresh && (s->fresh_next || s->begun.first == NULL))
        return &s->fresh;
    return s->begun.first != NULL ? &s->begun : NULL;
}

bool
tls_waiting(struct tls_server *s)
{
    return next_queue(s) != NULL;
}

void *
tls_next(struct tls_server *s)
{
    struct queue *q = next_queue(s);

    if (q == NULL)
        return NULL;
    struct tls *t = q->first;
    s->fresh_next = q == &s->begun;
    queue_remove(t);
    return t->owner;
}

void
tls_free(struct tls *t)
{
    if (t == NULL)
        return;
    if (t->queue != NULL)
        queue_remove(t);
    uncount(t);
    SSL_free(t->ssl);
    ERR_clear_error();
    certs_unref(t->certs);
    buf_free(&t->rest);
    free(t);
}

struct tls_server *
tls_server_new(const struct options *o, struct stats *stats, char *err, size_t errsize)
{
    struct tls_server *s = xcalloc(1, sizeof *s);

    s->stats = stats;
    if (!io_init(&s->io))
        snprintf(err, errsize, "TLS: %s", tls_reason());
    else if (tls_server_load(s, o, err, errsize) == 0)
        return s;
    tls_server_free(s);
    return NULL;
}

int
tls_server_load(struct tls_server *s, const struct options *o, char *err, size_t errsize)
{
    struct certs *fresh = certs_load(o, &s->keys, err, errsize);

    if (fresh == NULL)
        return -1;
    certs_unref(s->certs);
    s->certs = fresh;
    return 0;
}

void
tls_server_free(struct tls_server *s)
{
    if (s == NULL)
        return;
    certs_unref(s->certs);
    io_free(&s->io);
    OPENSSL_cleanse(&s->keys, sizeof s->keys);
    free(s);
}

/* --- client ----------------------------------------------------------------------------------- */

struct tls_client *
tls_client_new(const char *ca, char *err, size_t errsize)
{
    struct tls_client *c = xcalloc(1, sizeof *c);

    c->ctx = tls_context(TLS_client_method());
    if (c->ctx == NULL || !io_init(&c->io)) {
        snprintf(err, errsize, "TLS: %s", tls_reason());
    } else if ((ca[0] != '\0' ? SSL_CTX_load_verify_locations(c->ctx, ca, NULL)
                              : SSL_CTX_set_default_verify_paths(c->ctx)) != 1) {
        tls_refuse(err, errsize, "jim.ca", str_of(ca[0] != '\0' ? ca : "the system's"), NULL);
    } else {
        SSL_CTX_set_verify(c->ctx, SSL_VERIFY_PEER, NULL);
        return c;
    }
    tls_client_free(c);
    return NULL;
}

void
tls_client_renew(struct tls_client *c, struct tls_client *fresh)
{
    SSL_CTX_free(c->ctx); /* connections have references of their own */
    c->ctx = fresh->ctx;
    fresh->ctx = NULL;
    tls_client_free(fresh);
}

void
tls_client_free(struct tls_client *c)
{
    if (c == NULL)
        return;
    SSL_CTX_free(c->ctx);
    io_free(&c->io);
    free(c);
}

struct tls *
tls_connect(struct tls_client *c, int fd, const char *host)
{
    struct tls *t = tls_new(&c->io, fd);
    X509_VERIFY_PARAM *check;

    if (!begin(t, SSL_new(c->ctx))) {
        tls_free(t);
        return NULL;
    }
    check = SSL_get0_param(t->ssl);
    X509_VERIFY_PARAM_set_hostflags(check, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    /* An address is compared with addresses and is no server name (RFC 6066 section 3). */
    if (X509_VERIFY_PARAM_set1_ip_asc(check, host) != 1 &&
        (X509_VERIFY_PARAM_set1_host(check, host, 0) != 1 ||
         SSL_set_tlsext_host_name(t->ssl, (uintptr_t)host) != 1)) {
        tls_free(t);
        return NULL;
    }
    ERR_clear_error();
    handshake(t); /* its first words; a failure is found by tls_read() */
    push(t);
    return t;
}

#else /* --- built without ---------------------------------------------------------------------- */

#include <stdlib.h>

const char *
tls_version(void)
{
    return NULL;
}

struct tls_server *
tls_server_new(const struct options *o, struct stats *stats, char *err, size_t errsize)
{
    (void)o, (void)stats;
    snprintf(err, errsize, "built without TLS; `make TLS=1` builds a jim with it");
    return NULL;
}

struct tls_client *
tls_client_new(const char *ca, char *err, size_t errsize)
{
    (void)ca;
    tls_server_new(NULL, NULL, err, errsize);
    return NULL;
}

/* What follows takes what nobody can have made. */

int
tls_server_load(struct tls_server *s, const struct options *o, char *err, size_t errsize)
{
    (void)s;
    tls_server_new(o, NULL, err, errsize);
    return -1;
}

void
tls_server_free(struct tls_server *s)
{
    (void)s;
}

struct tls *
tls_accept(struct tls_server *s, int fd, void *owner, const char *p, size_t n)
{
    (void)s, (void)fd, (void)owner, (void)p, (void)n;
    return NULL;
}

bool
tls_wait(struct tls *t)
{
    (void)t;
    return false;
}

bool
tls_waiting(struct tls_server *s)
{
    (void)s;
    return false;
}

void *
tls_next(struct tls_server *s)
{
    (void)s;
    return NULL;
}

void
tls_client_renew(struct tls_client *c, struct tls_client *fresh)
{
    (void)c, (void)fresh;
}

void
tls_client_free(struct tls_client *c)
{
    (void)c;
}

struct tls *
tls_connect(struct tls_client *c, int fd, const char *host)
{
    (void)c, (void)fd, (void)host;
    return NULL;
}

ssize_t
tls_read(struct tls *t, char *p, size_t n)
{
    (void)t, (void)p, (void)n;
    return -1;
}

ssize_t
tls_write(struct tls *t, const struct iovec *v, int n)
{
    (void)t, (void)v, (void)n;
    return -1;
}

int
tls_flush(struct tls *t)
{
    (void)t;
    return -1;
}

int
tls_close(struct tls *t)
{
    (void)t;
    return -1;
}

unsigned
tls_state(const struct tls *t)
{
    (void)t;
    return 0;
}

const char *
tls_why(const struct tls *t)
{
    (void)t;
    return "";
}

void
tls_free(struct tls *t)
{
    (void)t;
}

#endif
