/* SPDX-License-Identifier: MIT */
/*
 * tls.h - what tls_cert.c and tls.c share. They alone know OpenSSL (1.1.1 or later) or LibreSSL,
 * and include this only when built with it.
 */
#ifndef TLS_H
#define TLS_H

#include <openssl/ssl.h>

#define TICKET_KEYS 3          /* one in use, two that still open tickets */

struct ticket_keys {           /* zeroed: none has been made */
    struct ticket_key {
        unsigned char name[16], aes[32], mac[32];
        int64_t born_ms;       /* monotonic; 0: none */
    } key[TICKET_KEYS];        /* newest first */
};

struct certs; /* a server's certificates; freed with the last reference */

/* OpenSSL's last failure in a few words (static), and its queue of them emptied. */
const char *tls_reason(void);
/*
 * What is wrong with a file: with one that cannot be read, what the system says, else `what`, for
 * OpenSSL says that in terms of its own, and each version in others. NULL: as OpenSSL says. -1.
 */
int tls_refuse(char *err, size_t errsize, const char *key, struct str file, const char *what);
/* A context with the rules that hold for servers and clients; for the caller. NULL: no memory. */
SSL_CTX *tls_context(const SSL_METHOD *method);

/* Load jim.ssl.*: one reference, for the caller, or NULL with err. Else err is empty, or a warning:
 * a certificate is out of its time. keys: borrowed, until the last reference. */
struct certs *certs_load(const struct options *o, struct ticket_keys *keys, char *err,
                         size_t errsize);
struct certs *certs_ref(struct certs *s); /* one more reference */
void certs_unref(struct certs *s);        /* NULL is allowed */
/* OpenSSL's half of a connection that shows them, to be freed before they are. NULL: no memory. */
SSL *certs_ssl(struct certs *s);

#endif /* TLS_H */
