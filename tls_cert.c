/* SPDX-License-Identifier: MIT */
/*
 * tls_cert.c - what a server shows: certificates with their keys, and what resumes a session.
 *
 *   errors        OpenSSL's queue to one sentence
 *   tickets       sessions are resumed by tickets alone; their keys change every hour
 *   certificates  a set of them, loaded whole or not at all; a connection keeps the set it began
 *                 with
 */
#include "jim.h"

#if defined(JIM_TLS) && JIM_TLS

#include "tls.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/ocsp.h>
#include <openssl/x509v3.h>
#if OPENSSL_VERSION_NUMBER >= 0x30000000L && !defined(LIBRESSL_VERSION_NUMBER)
#include <openssl/core_names.h>
#define HAVE_EVP_MAC
#else
#include <openssl/hmac.h>
#endif

#define MAX_CERTS 64           /* certificates to choose from by name */
#define MAX_OCSP 65536         /* bytes of a stapled response */
#define TICKET_MS 3600000      /* how long a key is in use */
#define SESSION_S 7200         /* how long a session may be resumed: less than its key is kept */

/* Of TLS 1.2 what has forward secrecy and authenticated encryption; 1.3 has nothing else. */
#define CIPHERS "ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL"
#define GROUPS "X25519:P-256:P-384"

struct cert {
    SSL_CTX *ctx;        /* owned */
    char *ocsp;          /* owned; NULL: nothing is stapled */
    size_t ocsp_n;
    int64_t ocsp_until;  /* wall clock, ms */
};

struct certs {
    unsigned refs;
    struct ticket_keys *keys; /* borrowed */
    size_t n;
    struct cert cert[MAX_CERTS];
};

/* --- errors ----------------------------------------------------------------------------------- */

/* The first thing in OpenSSL's queue is the cause; what follows, who passed it on. */
const char *
tls_reason(void)
{
    unsigned long e = ERR_get_error();
    const char *text = ERR_GET_LIB(e) == ERR_LIB_SYS ? strerror(ERR_GET_REASON(e))
                                                     : ERR_reason_error_string(e);

    ERR_clear_error();
    return text != NULL ? text : "unknown reason";
}

int
tls_refuse(char *err, size_t errsize, const char *key, struct str file, const char *what)
{
    if (what == NULL || ERR_GET_LIB(ERR_peek_error()) == ERR_LIB_SYS)
        what = tls_reason();
    ERR_clear_error();
    snprintf(err, errsize, "%s: %.*s: %s", key, (int)file.n, file.p, what);
    return -1;
}

/* --- tickets ---------------------------------------------------------------------------------- */

/* The key new tickets are sealed with. An old one is forgotten for good, and with it every session
 * that it could open: that is what forward secrecy is worth. */
static struct ticket_key *
current_key(struct ticket_keys *s)
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
find_key(struct ticket_keys *s, const unsigned char *name)
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
    struct ticket_keys *keys = ((const struct certs *)SSL_get_app_data(ssl))->keys;
    struct ticket_key *newest = current_key(keys);
    struct ticket_key *k = making ? newest : find_key(keys, name);

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

/* --- certificates ----------------------------------------------------------------------------- */

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
    const struct certs *s = SSL_get_app_data(ssl);
    const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);

    (void)alert, (void)arg;
    for (size_t i = 0; name != NULL && i < s->n; i++) {
        SSL_CTX *ctx = s->cert[i].ctx;
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
        return tls_refuse(err, errsize, "jim.ssl.ocsp", file, strerror(errno));
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
    return tls_refuse(err, errsize, "jim.ssl.ocsp", file,
                      "no OCSP response in DER that is good and still valid");
}

SSL_CTX *
tls_context(const SSL_METHOD *method)
{
    SSL_CTX *ctx = SSL_CTX_new(method);

    if (ctx == NULL)
        return NULL;
    SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
    SSL_CTX_set_cipher_list(ctx, CIPHERS);
    /* An idle connection holds no record buffers; and a write may be repeated from elsewhere. */
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    return ctx;
}

/* What is the same for every certificate. */
static void
set_rules(SSL_CTX *ctx)
{
    SSL_CTX_set1_groups_list(ctx, GROUPS);
    SSL_CTX_set_options(ctx, SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_NO_COMPRESSION);
#ifdef SSL_OP_PRIORITIZE_CHACHA
    SSL_CTX_set_options(ctx, SSL_OP_PRIORITIZE_CHACHA); /* phones without AES instructions */
#endif
#ifdef SSL_OP_NO_RENEGOTIATION
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION);
#endif
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
        return tls_refuse(err, errsize, "jim.ssl.client.ca", str_of(file), NULL);
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
        tls_refuse(err, errsize, "jim.ssl.cert", cert, over ? "has expired" : "is not valid yet");
}

static int
load_pair(SSL_CTX *ctx, struct str cert, struct str key, char *err, size_t errsize)
{
    char *file = xstrndup(cert.p, cert.n);
    bool loaded = SSL_CTX_use_certificate_chain_file(ctx, file) == 1;

    free(file);
    if (!loaded)
        return tls_refuse(err, errsize, "jim.ssl.cert", cert, /* NULL: it is too weak, or so */
                          ERR_GET_LIB(ERR_peek_error()) == ERR_LIB_PEM ? "no PEM certificate"
                                                                       : NULL);
    file = xstrndup(key.p, key.n);
    loaded = SSL_CTX_use_PrivateKey_file(ctx, file, SSL_FILETYPE_PEM) == 1;
    free(file);
    /* A key of the certificate's own type is compared with it as it is loaded. One of another type
     * is put beside it, and would leave a certificate without a key and a key without one. */
    if (loaded ? SSL_CTX_check_private_key(ctx) != 1
               : ERR_GET_LIB(ERR_peek_error()) == ERR_LIB_X509)
        return tls_refuse(err, errsize, "jim.ssl.key", key, "is not the certificate's key");
    if (!loaded)
        return tls_refuse(err, errsize, "jim.ssl.key", key,
                          "no PEM private key without a password");
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
struct certs *
certs_load(const struct options *o, struct ticket_keys *keys, char *err, size_t errsize)
{
    struct str certs = str_of(o->ssl_cert), key_files = str_of(o->ssl_key);
    struct str staples = str_of(o->ssl_ocsp);
    struct certs *s = xcalloc(1, sizeof *s);
    unsigned char context[16];
    struct str cert, key, ocsp;
    bool ok = false;

    err[0] = '\0';
    s->refs = 1;
    s->keys = keys;
    random_bytes(context, sizeof context);
    if (lines(certs) == 0 || lines(certs) > MAX_CERTS)
        snprintf(err, errsize, "jim.ssl=on wants 1 to %d certificates in PEM: jim.ssl.cert",
                 MAX_CERTS);
    else if ((key_files.n > 0 && lines(key_files) != lines(certs)) || lines(staples) > lines(certs))
        snprintf(err, errsize, "%zu of jim.ssl.cert but %zu of jim.ssl.key, %zu of jim.ssl.ocsp",
                 lines(certs), lines(key_files), lines(staples));
    else
        ok = true;
    while (ok && str_split(&certs, '\n', &cert)) {
        struct cert *c = &s->cert[s->n];
        if (key_files.n == 0 || !str_split(&key_files, '\n', &key))
            key = cert;
        c->ctx = tls_context(TLS_server_method());
        if (c->ctx == NULL) {
            ok = tls_refuse(err, errsize, "jim.ssl.cert", cert, NULL) == 0; /* no memory */
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

struct certs *
certs_ref(struct certs *s)
{
    s->refs++;
    return s;
}

void
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

SSL *
certs_ssl(struct certs *s)
{
    SSL *ssl = SSL_new(s->cert[0].ctx); /* choose_cert() may put another in its place */

    if (ssl != NULL)
        SSL_set_app_data(ssl, s);
    return ssl;
}

#endif
