/* SPDX-License-Identifier: MIT */
/*
 * tls.c - TLS 1.2 and 1.3 over OpenSSL, 1.1.1 or later, or LibreSSL. The only file that knows one
 * of them; built without (`make` rather than `make TLS=1`) the same functions say so, at the end.
 *
 *   errors        OpenSSL's queue to one sentence
 *   certificates  a set of them, loaded whole or not at all; a connection keeps the set it began
 *                 with
 *   tickets       sessions are resumed by tickets alone; their keys change every hour
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

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/ocsp.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#if OPENSSL_VERSION_NUMBER >= 0x30000000L && !defined(LIBRESSL_VERSION_NUMBER)
#include <openssl/core_names.h>
#define HAVE_EVP_MAC
#else
#include <openssl/hmac.h>
#endif

#define MAX_CERTS 64           /* certificates to choose from by name */
#define MAX_HANDSHAKING 1024   /* handshakes begun and not finished: each holds some 30 KiB */
#define MAX_PLAIN 16384        /* bytes of data in a record (RFC 8446 section 5.1) */
#define MAX_BATCH 65536        /* bytes encrypted before the socket is asked to take them */
#define MAX_REST 262144        /* bytes a peer may leave unread; he alone is to blame for more */
#define MAX_OCSP 65536         /* bytes of a stapled response */
#define TICKET_KEYS 3          /* one in use, two that still open tickets */
#define TICKET_MS 3600000      /* how long one is in use */
#define SESSION_S 7200         /* how long a session may be resumed: less than its key is kept */

/* Of TLS 1.2 what has forward secrecy and authenticated encryption; 1.3 has nothing else. */
#define CIPHERS "ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL"
#define GROUPS "X25519:P-256:P-384"

/* What the connections of one server or client share: one of them at a time is being served. */
struct tls_io {
    BIO_METHOD *method;  /* owned */
    const char *in;      /* received, not yet taken by OpenSSL; borrowed for the call */
    size_t in_n;
    struct buf out;      /* written by OpenSSL, not yet by us; empty between calls */
    char record[MAX_PLAIN];
};

struct cert {
    SSL_CTX *ctx;        /* owned */
    char *ocsp;          /* owned; NULL: nothing is stapled */
    size_t ocsp_n;
    int64_t ocsp_until;  /* wall clock, ms */
};

struct certs {           /* freed with the last reference */
    unsigned refs;
    size_t n;
    struct cert cert[MAX_CERTS];
};

struct ticket_key {
    unsigned char name[16], aes[32], mac[32];
    int64_t born_ms;     /* monotonic; 0: none */
};

struct queue {
    struct tls *first, *last;
};

struct tls_server {
    struct tls_io io;
    struct certs *certs; /* ref: what new connections get */
    struct stats *stats; /* borrowed */
    struct ticket_key key[TICKET_KEYS]; /* newest first */
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

/* --- errors ----------------------------------------------------------------------------------- */

const char *
tls_version(void)
{
    return OpenSSL_version(OPENSSL_VERSION);
}

/* The first thing in OpenSSL's queue is the cause; what follows, who passed it on. */
static const char *
reason(void)
{
    unsigned long e = ERR_get_error();
    const char *text = ERR_GET_LIB(e) == ERR_LIB_SYS ? strerror(ERR_GET_REASON(e))
                                                     : ERR_reason_error_string(e);

    ERR_clear_error();
    return text != NULL ? text : "unknown reason";
}

/*
 * What is wrong with a file: with one that cannot be read, what the system says, else `what`, for
 * OpenSSL says that in terms of its own, and each version in others. NULL: as OpenSSL says.
 */
static int
refuse(char *err, size_t errsize, const char *key, struct str file, const char *what)
{
    if (what == NULL || ERR_GET_LIB(ERR_peek_error()) == ERR_LIB_SYS)
        what = reason();
    ERR_clear_error();
    snprintf(err, errsize, "%s: %.*s: %s", key, (int)file.n, file.p, what);
    return -1;
}

/* --- certificates ----------------------------------------------------------------------------- */

static void
certs_unref(struct certs *s)
{
    if (s == NULL || --s->refs > 0)
        return;
    for (size_t i = 0; i < s->n; i++) {
        SSL_CTX_free(s->cert[i].ctx);
        free(s->cert[i].ocsp);
    }
    free(s);
}

/* A server has no terminal to ask for a password on. */
static int
no_password(char *p, int size, int writing, void *arg)
{
    (void)p, (void)size, (void)writing, (void)arg;
    return -1;
}

/* The first certificate valid for the name the client asks for; else the first of all. */
static int
choose_cert(SSL *ssl, int *alert, void *arg)
{
    const struct tls *t = SSL_get_app_data(ssl);
    const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);

    (void)alert, (void)arg;
    for (size_t i = 0; name != NULL && i < t->certs->n; i++) {
        SSL_CTX *ctx = t->certs->cert[i].ctx;
        if (X509_check_host(SSL_CTX_get0_certificate(ctx), name, 0, 0, NULL) == 1) {
            SSL_set_SSL_CTX(ssl, ctx);
            return SSL_TLSEXT_ERR_OK;
        }
    }
    return SSL_TLSEXT_ERR_NOACK;
}

/* RFC 7301: of what the client offers we speak http/1.1; a client of TCP-IM offers nothing. */
static int
choose_protocol(SSL *ssl, const unsigned char **out, unsigned char *outlen, const unsigned char *in,
                unsigned n, void *arg)
{
    static const unsigned char http[] = "\x08http/1.1";
    unsigned char *chosen;

    (void)ssl, (void)arg;
    if (SSL_select_next_proto(&chosen, outlen, http, sizeof http - 1, in, n) !=
        OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

static int
staple(SSL *ssl, void *arg)
{
    const struct cert *c = arg;
    unsigned char *copy;

    if (c->ocsp == NULL || time_wall_ms() >= c->ocsp_until ||
        (copy = OPENSSL_malloc(c->ocsp_n)) == NULL)
        return SSL_TLSEXT_ERR_NOACK;
    memcpy(copy, c->ocsp, c->ocsp_n);
    SSL_set_tlsext_status_ocsp_resp(ssl, copy, (long)c->ocsp_n); /* takes it over */
    return SSL_TLSEXT_ERR_OK;
}

/* When the response stops being true: 0 when it says nothing good, INT64_MAX when it is silent. */
static int64_t
ocsp_until(OCSP_RESPONSE *r)
{
    OCSP_BASICRESP *basic = OCSP_response_get1_basic(r);
    ASN1_GENERALIZEDTIME *until = NULL;
    OCSP_SINGLERESP *one = basic != NULL ? OCSP_resp_get0(basic, 0) : NULL;
    int64_t ms = 0;
    int days, seconds;

    if (one != NULL &&
        OCSP_single_get0_status(one, NULL, NULL, NULL, &until) == V_OCSP_CERTSTATUS_GOOD)
        ms = INT64_MAX;
    if (ms > 0 && until != NULL)
        ms = ASN1_TIME_diff(&days, &seconds, NULL, until)
                 ? time_wall_ms() + days * INT64_C(86400000) + seconds * INT64_C(1000)
                 : 0;
    OCSP_BASICRESP_free(basic);
    return ms;
}

static int
load_ocsp(struct cert *c, struct str file, char *err, size_t errsize)
{
    char *path = xstrndup(file.p, file.n);
    FILE *f = fopen(path, "rb");

    free(path);
    if (f == NULL)
        return refuse(err, errsize, "jim.ssl.ocsp", file, strerror(errno));
    c->ocsp = xmalloc(MAX_OCSP);
    c->ocsp_n = fread(c->ocsp, 1, MAX_OCSP, f);
    fclose(f);
    const unsigned char *p = (const unsigned char *)c->ocsp;
    OCSP_RESPONSE *r = d2i_OCSP_RESPONSE(NULL, &p, (long)c->ocsp_n);
    c->ocsp_until = r != NULL ? ocsp_until(r) : 0;
    OCSP_RESPONSE_free(r);
    ERR_clear_error();
    if (c->ocsp_until > time_wall_ms())
        return 0;
    return refuse(err, errsize, "jim.ssl.ocsp", file,
                  "no OCSP response in DER that is good and still valid");
}

static int ticket_key(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher,
#ifdef HAVE_EVP_MAC
                      EVP_MAC_CTX *mac, int making);
#else
                      HMAC_CTX *mac, int making);
#endif

/* What is the same for every certificate. */
static void
set_rules(SSL_CTX *ctx)
{
    SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
    SSL_CTX_set_cipher_list(ctx, CIPHERS);
    SSL_CTX_set1_groups_list(ctx, GROUPS);
    SSL_CTX_set_options(ctx, SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_NO_COMPRESSION);
#ifdef SSL_OP_PRIORITIZE_CHACHA
    SSL_CTX_set_options(ctx, SSL_OP_PRIORITIZE_CHACHA); /* phones without AES instructions */
#endif
#ifdef SSL_OP_NO_RENEGOTIATION
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION);
#endif
    /* An idle connection holds no record buffers; and a write may be repeated from elsewhere. */
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF); /* tickets only: no memory here */
    SSL_CTX_set_timeout(ctx, SESSION_S);
#ifdef HAVE_EVP_MAC
    SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, ticket_key);
#else
    SSL_CTX_set_tlsext_ticket_key_cb(ctx, ticket_key);
#endif
    SSL_CTX_set_tlsext_servername_callback(ctx, choose_cert);
    SSL_CTX_set_alpn_select_cb(ctx, choose_protocol, NULL);
    SSL_CTX_set_default_passwd_cb(ctx, no_password);
}

/*
 * Peers have to show a certificate of these. A session begun under other authorities must not be
 * resumed under these, so each load has a context of its own.
 */
static int
load_client_ca(SSL_CTX *ctx, const char *file, const unsigned char context[16], char *err,
               size_t errsize)
{
    STACK_OF(X509_NAME) *names;

    if (file[0] == '\0') {
        SSL_CTX_set_session_id_context(ctx, (const unsigned char *)"jim", 3);
        return 0;
    }
    if (SSL_CTX_load_verify_locations(ctx, file, NULL) != 1 ||
        (names = SSL_load_client_CA_file(file)) == NULL)
        return refuse(err, errsize, "jim.ssl.client.ca", str_of(file), NULL);
    SSL_CTX_set_client_CA_list(ctx, names); /* takes it over */
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    SSL_CTX_set_session_id_context(ctx, context, 16);
    return 0;
}

/* Peers refuse a certificate out of its time; but if our clock is wrong they do not: a warning. */
static void
check_time(const SSL_CTX *ctx, struct str cert, char *err, size_t errsize)
{
    const X509 *x = SSL_CTX_get0_certificate(ctx);
    bool over = X509_cmp_current_time(X509_get0_notAfter(x)) < 0;

    if (over || X509_cmp_current_time(X509_get0_notBefore(x)) > 0)
        refuse(err, errsize, "jim.ssl.cert", cert, over ? "has expired" : "is not valid yet");
}

static int
load_pair(SSL_CTX *ctx, struct str cert, struct str key, char *err, size_t errsize)
{
    char *file = xstrndup(cert.p, cert.n);
    bool loaded = SSL_CTX_use_certificate_chain_file(ctx, file) == 1;

    free(file);
    if (!loaded)
        return refuse(err, errsize, "jim.ssl.cert", cert, /* else it is too weak, or so */
                      ERR_GET_LIB(ERR_peek_error()) == ERR_LIB_PEM ? "no PEM certificate" : NULL);
    file = xstrndup(key.p, key.n);
    loaded = SSL_CTX_use_PrivateKey_file(ctx, file, SSL_FILETYPE_PEM) == 1;
    free(file);
    /* A key of the certificate's own type is compared with it as it is loaded. One of another type
     * is put beside it, and would leave a certificate without a key and a key without one. */
    if (loaded ? SSL_CTX_check_private_key(ctx) != 1
               : ERR_GET_LIB(ERR_peek_error()) == ERR_LIB_X509)
        return refuse(err, errsize, "jim.ssl.key", key, "is not the certificate's key");
    if (!loaded)
        return refuse(err, errsize, "jim.ssl.key", key, "no PEM private key without a password");
    check_time(ctx, cert, err, errsize);
    return 0;
}

static size_t
lines(struct str text)
{
    struct str line;
    size_t n = 0;

    while (text.n > 0 && str_split(&text, '\n', &line))
        n++;
    return n;
}

/* The n-th key stands in the n-th file of jim.ssl.key or, without any, in the certificate's. */
static struct certs *
load_certs(const struct options *o, char *err, size_t errsize)
{
    struct str certs = str_of(o->ssl_cert), keys = str_of(o->ssl_key);
    struct str staples = str_of(o->ssl_ocsp);
    struct certs *s = xcalloc(1, sizeof *s);
    unsigned char context[16];
    struct str cert, key, ocsp;
    bool ok = false;

    err[0] = '\0';
    s->refs = 1;
    random_bytes(context, sizeof context);
    if (lines(certs) == 0 || lines(certs) > MAX_CERTS)
        snprintf(err, errsize, "jim.ssl=on wants 1 to %d certificates in PEM: jim.ssl.cert",
                 MAX_CERTS);
    else if ((keys.n > 0 && lines(keys) != lines(certs)) || lines(staples) > lines(certs))
        snprintf(err, errsize, "%zu of jim.ssl.cert but %zu of jim.ssl.key, %zu of jim.ssl.ocsp",
                 lines(certs), lines(keys), lines(staples));
    else
        ok = true;
    while (ok && str_split(&certs, '\n', &cert)) {
        struct cert *c = &s->cert[s->n];
        if (keys.n == 0 || !str_split(&keys, '\n', &key))
            key = cert;
        c->ctx = SSL_CTX_new(TLS_server_method());
        if (c->ctx == NULL) {
            ok = refuse(err, errsize, "jim.ssl.cert", cert, NULL) == 0; /* no memory */
            break;
        }
        s->n++;
        set_rules(c->ctx);
        SSL_CTX_set_tlsext_status_cb(c->ctx, staple);
        SSL_CTX_set_tlsext_status_arg(c->ctx, c);
        ok = load_pair(c->ctx, cert, key, err, errsize) == 0 &&
             load_client_ca(c->ctx, o->ssl_client_ca, context, err, errsize) == 0;
        if (ok && staples.n > 0 && str_split(&staples, '\n', &ocsp) && ocsp.n > 0)
            ok = load_ocsp(c, ocsp, err, errsize) == 0;
    }
    if (ok)
        return s;
    certs_unref(s);
    return NULL;
}

/* --- tickets ---------------------------------------------------------------------------------- */

/* The key new tickets are sealed with. An old one is forgotten for good, and with it every session
 * that it could open: that is what forward secrecy is worth. */
static struct ticket_key *
current_key(struct tls_server *s)
{
    int64_t now = time_mono_ms();

    if (s->key[0].born_ms == 0 || now - s->key[0].born_ms >= TICKET_MS) {
        memmove(&s->key[1], &s->key[0], sizeof s->key - sizeof s->key[0]);
        random_bytes(&s->key[0], sizeof s->key[0]);
        s->key[0].born_ms = now > 0 ? now : 1;
    }
    return &s->key[0];
}

/* The key that made a ticket, if it is young enough. */
static struct ticket_key *
find_key(struct tls_server *s, const unsigned char *name)
{
    int64_t now = time_mono_ms();

    for (int i = 0; i < TICKET_KEYS; i++)
        if (s->key[i].born_ms != 0 && now - s->key[i].born_ms < TICKET_KEYS * TICKET_MS &&
            memcmp(s->key[i].name, name, sizeof s->key[i].name) == 0)
            return &s->key[i];
    return NULL;
}

#ifdef HAVE_EVP_MAC
static bool
set_mac(EVP_MAC_CTX *mac, struct ticket_key *k)
{
    char digest[] = "SHA256";
    OSSL_PARAM p[3] = {
        OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, k->mac, sizeof k->mac),
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
        OSSL_PARAM_construct_end()};

    return EVP_MAC_CTX_set_params(mac, p) == 1;
}
#else
static bool
set_mac(HMAC_CTX *mac, struct ticket_key *k)
{
    return HMAC_Init_ex(mac, k->mac, sizeof k->mac, EVP_sha256(), NULL) == 1;
}
#endif

/* OpenSSL's callback. 1: use it, 2: and give the client a new ticket, 0: no such key, -1: failed */
static int
ticket_key(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher,
#ifdef HAVE_EVP_MAC
           EVP_MAC_CTX *mac, int making)
#else
           HMAC_CTX *mac, int making)
#endif
{
    struct tls *t = SSL_get_app_data(ssl);
    struct ticket_key *newest = current_key(t->server);
    struct ticket_key *k = making ? newest : find_key(t->server, name);

    if (k == NULL)
        return 0;
    if (making) {
        memcpy(name, k->name, sizeof k->name);
        random_bytes(iv, 16); /* the block of AES-CBC */
    }
    if (EVP_CipherInit_ex(cipher, EVP_aes_256_cbc(), NULL, k->aes, iv, making) != 1 ||
        !set_mac(mac, k))
        return -1;
    return k == newest ? 1 : 2;
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

/* Give it its OpenSSL half. False when memory is short: the peer is to be closed. */
static bool
begin(struct tls *t, SSL_CTX *ctx)
{
    BIO *bio = BIO_new(t->io->method);

    t->ssl = SSL_new(ctx);
    if (bio == NULL || t->ssl == NULL) {
        BIO_free(bio);
        return false;
    }
    BIO_set_data(bio, t->io);
    BIO_set_init(bio, 1);
    SSL_set_bio(t->ssl, bio, bio);
    SSL_set_app_data(t->ssl, t);
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
    fail(t, untrusted ? X509_verify_cert_error_string(verified) : reason());
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
        got = begin(t, t->certs->cert[0].ctx) ? decrypt(t, p, n, first.p, first.len)
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
            return fail(t, reason());
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
    t->certs = s->certs;
    t->certs->refs++;
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
        snprintf(err, errsize, "TLS: %s", reason());
    else if (tls_server_load(s, o, err, errsize) == 0)
        return s;
    tls_server_free(s);
    return NULL;
}

int
tls_server_load(struct tls_server *s, const struct options *o, char *err, size_t errsize)
{
    struct certs *fresh = load_certs(o, err, errsize);

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
    OPENSSL_cleanse(s->key, sizeof s->key);
    free(s);
}

/* --- client ----------------------------------------------------------------------------------- */

struct tls_client *
tls_client_new(const char *ca, char *err, size_t errsize)
{
    struct tls_client *c = xcalloc(1, sizeof *c);

    c->ctx = SSL_CTX_new(TLS_client_method());
    if (c->ctx == NULL || !io_init(&c->io)) {
        snprintf(err, errsize, "TLS: %s", reason());
    } else if ((ca[0] != '\0' ? SSL_CTX_load_verify_locations(c->ctx, ca, NULL)
                              : SSL_CTX_set_default_verify_paths(c->ctx)) != 1) {
        refuse(err, errsize, "jim.ca", str_of(ca[0] != '\0' ? ca : "the system's"), NULL);
    } else {
        SSL_CTX_set_min_proto_version(c->ctx, TLS1_2_VERSION);
        SSL_CTX_set_cipher_list(c->ctx, CIPHERS);
        SSL_CTX_set_verify(c->ctx, SSL_VERIFY_PEER, NULL);
        SSL_CTX_set_mode(c->ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
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

    if (!begin(t, c->ctx)) {
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
