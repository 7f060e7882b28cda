/* SPDX-License-Identifier: MIT */
/*
 * tls.c - what TLS adds to the running server; `make check-tls` runs it, in a build with OpenSSL.
 * That everything else works through TLS as it does without, the other tests show there.
 *
 *   certificates  made by the openssl command, in the test's directory
 *   peers         a client straight over OpenSSL, so that tls.c is not tested by itself
 *   detection, certificates, reload, sessions
 *   bad manners   garbage, cuts, renegotiation, crumbs
 *   writing       what tls_write() says has left
 *   outgoing      tls_connect() against `openssl s_server`
 *   login hook    against a service over OpenSSL
 */
#include "client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define ON "-o", "jim.ssl=on", "-o"
#define HEARTBEAT "\x01\x51\x0d\0\0\0\0"
#define ANSWER 44 /* bytes of its answer */
#define HEALTH "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"

/* --- certificates ----------------------------------------------------------------------------- */

static void run(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void
run(const char *format, ...)
{
    char what[2048], command[2100];
    va_list ap;

    va_start(ap, format);
    vsnprintf(what, sizeof what, format, ap);
    va_end(ap);
    snprintf(command, sizeof command, "{ %s; } >>run.log 2>&1", what);
    if (system(command) != 0)
        test_fail(__FILE__, __LINE__, "failed: %s\n%s", what, read_whole("run.log").p);
}

/* NAME.crt, NAME.key and both in NAME.pem, for a host of that name and for 127.0.0.1. */
static void
make_cert(const char *name)
{
    run("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30"
        " -subj /CN=%s -addext subjectAltName=DNS:%s,IP:127.0.0.1 -keyout %s.key -out %s.crt",
        name, name, name, name);
    run("cat %s.crt %s.key > %s.pem", name, name, name);
}

/* The time of NAME.crt is over. */
static void
expire(const char *name)
{
    char cert[64], key[64];

    snprintf(cert, sizeof cert, "%s.crt", name);
    snprintf(key, sizeof key, "%s.key", name);
    FILE *f = fopen(cert, "r"), *k = fopen(key, "r");
    CHECK(f != NULL && k != NULL);
    X509 *x = PEM_read_X509(f, NULL, NULL, NULL);
    EVP_PKEY *pkey = PEM_read_PrivateKey(k, NULL, NULL, NULL);
    CHECK(x != NULL && pkey != NULL);
    fclose(f);
    fclose(k);
    CHECK(X509_gmtime_adj(X509_getm_notBefore(x), -7200) != NULL);
    CHECK(X509_gmtime_adj(X509_getm_notAfter(x), -3600) != NULL);
    CHECK(X509_sign(x, pkey, EVP_sha256()) > 0);
    f = fopen(cert, "w");
    CHECK(f != NULL && PEM_write_X509(f, x) == 1 && fclose(f) == 0);
    X509_free(x);
    EVP_PKEY_free(pkey);
}

/* A server with a certificate for "localhost", plain text and TLS. */
static void
start(struct server *s)
{
    unsetenv("JIM_TEST_TLS"); /* this file's servers and peers choose for themselves */
    make_cert("localhost");
    server_start(s, QUIET, ON, "jim.ssl.cert=localhost.pem", NULL);
}

/* --- peers ------------------------------------------------------------------------------------ */

struct client {
    SSL_CTX *ctx;
    SSL *ssl;
    int fd;
    const char *why; /* what failed first */
    /* What to ask for; zero: nothing in particular. */
    const char *name, *ca, *cert, *ciphers, *alpn;
    int max;
    SSL_SESSION *session;
    bool staple;
};

static int
connect_to(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct timeval patience = {WAIT_MS / 1000, 0};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof a) == 0);
    CHECK(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) == 0);
    return fd;
}

static bool
failed(struct client *c)
{
    unsigned long e = ERR_get_error();

    c->why = e != 0 ? ERR_reason_error_string(e) : "the connection ended";
    ERR_clear_error();
    return false;
}

static void
prepare(struct client *c)
{
    char name[64];

    c->ctx = SSL_CTX_new(TLS_client_method());
    CHECK(c->ctx != NULL);
    SSL_CTX_set_security_level(c->ctx, 0); /* it is the server that has to refuse */
    CHECK(SSL_CTX_load_verify_locations(c->ctx, c->ca != NULL ? c->ca : "localhost.crt", NULL));
    SSL_CTX_set_verify(c->ctx, SSL_VERIFY_PEER, NULL);
    if (c->cert != NULL) {
        CHECK(SSL_CTX_use_certificate_chain_file(c->ctx, c->cert));
        CHECK(SSL_CTX_use_PrivateKey_file(c->ctx, c->cert, SSL_FILETYPE_PEM));
    }
    if (c->max != 0) {
        CHECK(SSL_CTX_set_min_proto_version(c->ctx, TLS1_VERSION));
        CHECK(SSL_CTX_set_max_proto_version(c->ctx, c->max));
    }
    if (c->ciphers != NULL)
        CHECK(SSL_CTX_set_cipher_list(c->ctx, c->ciphers));
    if (c->alpn != NULL)
        CHECK(SSL_CTX_set_alpn_protos(c->ctx, (const unsigned char *)c->alpn,
                                      (unsigned)strlen(c->alpn)) == 0);
    c->ssl = SSL_new(c->ctx);
    CHECK(c->ssl != NULL);
    snprintf(name, sizeof name, "%s", c->name != NULL ? c->name : "localhost");
    CHECK(SSL_set_tlsext_host_name(c->ssl, name));
    if (c->session != NULL)
        CHECK(SSL_set_session(c->ssl, c->session));
    if (c->staple)
        CHECK(SSL_set_tlsext_status_type(c->ssl, TLSEXT_STATUSTYPE_ocsp));
}

/* Does the handshake succeed? */
static bool
shake(struct client *c, int port)
{
    prepare(c);
    c->fd = connect_to(port);
    CHECK(SSL_set_fd(c->ssl, c->fd));
    ERR_clear_error();
    return SSL_connect(c->ssl) == 1 || failed(c);
}

static void
open_client(struct client *c, const struct server *s)
{
    if (!shake(c, s->port[0]))
        test_fail(__FILE__, __LINE__, "no handshake: %s", c->why);
}

static bool
write_all(struct client *c, const char *p, size_t n)
{
    ERR_clear_error();
    return SSL_write(c->ssl, p, (int)n) == (int)n || failed(c);
}

static bool
read_all(struct client *c, char *p, size_t n)
{
    for (size_t got = 0; got < n;) {
        ERR_clear_error();
        int some = SSL_read(c->ssl, p + got, (int)(n - got));
        if (some <= 0)
            return failed(c);
        got += (size_t)some;
    }
    return true;
}

/* Is a heartbeat answered? */
static bool
alive(struct client *c)
{
    char answer[ANSWER];

    return write_all(c, HEARTBEAT, 7) && read_all(c, answer, sizeof answer) &&
           memcmp(answer + 7, "{\"command\":13,", 14) == 0;
}

static void
close_client(struct client *c)
{
    SSL_free(c->ssl);
    SSL_CTX_free(c->ctx);
    close(c->fd);
    *c = (struct client){.fd = -1};
}

/* The name in the certificate a new connection is shown. */
static void
shown(const struct server *s, const char *name, const char *ca, char common[64])
{
    struct client c = {.name = name, .ca = ca};

    open_client(&c, s);
#if OPENSSL_VERSION_NUMBER >= 0x30000000L && !defined(LIBRESSL_VERSION_NUMBER)
    X509 *x = SSL_get1_peer_certificate(c.ssl);
#else
    X509 *x = SSL_get_peer_certificate(c.ssl);
#endif
    CHECK(x != NULL);
    X509_NAME_get_text_by_NID(X509_get_subject_name(x), NID_commonName, common, 64);
    X509_free(x);
    close_client(&c);
}

static bool
plain_alive(int port)
{
    struct peer p;

    peer_connect_port(&p, port, false);
    say(&p, 13, "");
    bool ok = hear(&p);
    peer_close(&p);
    return ok;
}

/* Wait until the server's log says so. */
static void
await_log(const char *part)
{
    int64_t deadline = time_mono_ms() + WAIT_MS;

    while (!has(read_whole("log"), part)) {
        CHECK(time_mono_ms() < deadline);
        poll(NULL, 0, 5);
    }
}

/* --- detection -------------------------------------------------------------------------------- */

TEST(tls_all_protocols_on_one_port)
{
    static const char upgrade[] = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
                                  "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                                  "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    struct client tcp = {0}, http = {0}, ws = {0};
    struct server s;
    char status[16];

    start(&s);
    CHECK(plain_alive(s.port[0]));
    open_client(&tcp, &s);
    CHECK(alive(&tcp));
    open_client(&http, &s);
    CHECK(write_all(&http, HEALTH, strlen(HEALTH)) && read_all(&http, status, 12));
    CHECK_BYTES(status, 12, "HTTP/1.1 200");
    open_client(&ws, &s);
    CHECK(write_all(&ws, upgrade, strlen(upgrade)) && read_all(&ws, status, 12));
    CHECK_BYTES(status, 12, "HTTP/1.1 101");
    CHECK_INT(server_stat(&s, "tls"), 3);
}

TEST(tls_not_within_tls)
{
    struct client c = {0};
    struct server s;
    char byte;

    start(&s);
    open_client(&c, &s);
    CHECK(write_all(&c, "\x16\x03\x01", 3));
    CHECK(!read_all(&c, &byte, 1));
    CHECK(plain_alive(s.port[0]));
}

/* A proxy's header in front of the client's first words, in pieces of so many bytes; does the
 * handshake succeed? */
static bool
shake_behind(struct client *c, int port, struct str header, size_t piece)
{
    struct buf b = {0};
    char *bytes;

    prepare(c);
    c->fd = connect_to(port);
    BIO *wire = BIO_new(BIO_s_mem());
    SSL_set_bio(c->ssl, BIO_new(BIO_s_mem()), wire);
    SSL_set_connect_state(c->ssl);
    CHECK(SSL_do_handshake(c->ssl) < 0);
    long n = BIO_get_mem_data(wire, &bytes);
    buf_str(&b, header);
    buf_add(&b, bytes, (size_t)n);
    for (size_t at = 0; at < b.len; at += piece) {
        size_t some = b.len - at < piece ? b.len - at : piece;
        if (send(c->fd, b.p + at, some, MSG_NOSIGNAL) != (ssize_t)some)
            break; /* refused on account of the header */
    }
    buf_free(&b);
    CHECK(SSL_set_fd(c->ssl, c->fd));
    ERR_clear_error();
    return SSL_do_handshake(c->ssl) == 1 || failed(c);
}

/* A header of version 1 or 2 comes before the handshake, in the clear, and tells whose connection
 * it is: here of 192.0.2.7, who may have two, and of 192.0.2.8. */
TEST(tls_behind_proxy_header)
{
    static const char v2[] = "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\x7f\0\0\x01"
                             "\x12\x34\x22\xb8";
    const struct str seven[] = {STR("PROXY TCP4 192.0.2.7 127.0.0.1 56324 8888\r\n"),
                                {v2, sizeof v2 - 1}};
    const struct str eight = STR("PROXY TCP4 192.0.2.8 127.0.0.1 56324 8888\r\n");
    struct client c[2] = {{0}}, other = {0}, more = {0};
    struct server s;
    char byte;

    unsetenv("JIM_TEST_TLS");
    make_cert("localhost");
    server_start(&s, QUIET, ON, "jim.ssl.cert=localhost.pem", "-o", "jim.proxy.protocol=127.0.0.1",
                 "-o", "jim.connections.per.ip=2", NULL);
    for (size_t piece = 1000000; piece > 0; piece = piece == 1 ? 0 : 1) {
        for (int i = 0; i < 2; i++) {
            while (!shake_behind(&c[i], s.port[0], seven[i], piece)) {
                CHECK(piece == 1); /* the first two may not be gone yet */
                close_client(&c[i]);
            }
            CHECK(alive(&c[i]));
        }
        CHECK(!shake_behind(&more, s.port[0], seven[piece == 1], piece));
        close_client(&more);
        CHECK(shake_behind(&other, s.port[0], eight, piece) && alive(&other));
        CHECK(write_all(&other, eight.p, eight.n)); /* inside it is no protocol */
        CHECK(!read_all(&other, &byte, 1));
        close_client(&other);
        for (int i = 0; i < 2; i++) {
            CHECK(alive(&c[i]));
            close_client(&c[i]);
        }
    }
    CHECK(!shake(&more, s.port[0])); /* the proxy must say whose it is */
}

TEST(tls_off_closes)
{
    struct client c = {0};
    struct server s;

    unsetenv("JIM_TEST_TLS");
    make_cert("localhost");
    server_start(&s, QUIET, NULL);
    CHECK(!shake(&c, s.port[0]));
    CHECK(plain_alive(s.port[0]));
}

/* Who has a certificate and not jim.ssl=on is told that it does nothing. */
TEST(tls_off_is_said)
{
    struct server s;

    unsetenv("JIM_TEST_TLS");
    server_start(&s, QUIET, "-o", "jim.ssl.cert=none.crt", "-o", "jim.log.file=log", NULL);
    await_log("warn: jim.ssl is off");
    CHECK(plain_alive(s.port[0]));
}

TEST(tls_only)
{
    struct client c = {0};
    struct server s;

    unsetenv("JIM_TEST_TLS");
    make_cert("localhost");
    server_start(&s, QUIET, ON, "jim.ssl.cert=localhost.pem", "-o", "jim.ssl.only=on", NULL);
    CHECK(!plain_alive(s.port[0]));
    open_client(&c, &s);
    CHECK(alive(&c));
}

TEST(tls_pinned_port)
{
    const char *const args[] = {"-p", "0,0/tls,0/tls/ws", ON, "jim.ssl.cert=localhost.pem", NULL};
    struct client c = {0}, ws = {0}, both = {0};
    struct server s;

    unsetenv("JIM_TEST_TLS");
    make_cert("localhost");
    server_start_with(&s, 0, true, args);
    CHECK(plain_alive(s.port[0]));
    CHECK(!plain_alive(s.port[1]));
    CHECK(!plain_alive(s.port[2]));
    CHECK(shake(&both, s.port[0]) && alive(&both));
    CHECK(shake(&c, s.port[1]) && alive(&c));
    CHECK(shake(&ws, s.port[2]) && !alive(&ws)); /* TCP-IM is not what it is pinned to */
}

/* --- certificates ----------------------------------------------------------------------------- */

TEST(tls_name_chooses_certificate)
{
    struct server s;
    char common[64];

    unsetenv("JIM_TEST_TLS");
    make_cert("a.test");
    make_cert("b.test");
    run("cat a.test.crt b.test.crt > all.crt");
    server_start(&s, QUIET, ON, "jim.ssl.cert=a.test.crt", "-o", "jim.ssl.cert=b.test.crt", "-o",
                 "jim.ssl.key=a.test.key", "-o", "jim.ssl.key=b.test.key", NULL);
    shown(&s, "b.test", "all.crt", common);
    CHECK_STR(str_of(common), "b.test");
    shown(&s, "a.test", "all.crt", common);
    CHECK_STR(str_of(common), "a.test");
    shown(&s, "c.test", "all.crt", common);
    CHECK_STR(str_of(common), "a.test");
}

TEST(tls_bad_files)
{
    static const struct {
        const char *cert, *key, *why;
    } cases[] = {
        {"none.crt", "", "none.crt: No such file"},
        {"a.test.crt", "none.key", "jim.ssl.key: none.key: No such file"},
        {"a.test.crt", "b.test.key", "b.test.key: is not the certificate's key"},
        {"a.test.crt", "p384.key", "p384.key: is not the certificate's key"},
        {"a.test.crt", "rsa.key", "rsa.key: is not the certificate's key"},
        {"a.test.crt", "locked.key", "locked.key: no PEM private key without a password"},
        {"a.test.crt", "", "jim.ssl.key: a.test.crt: no PEM private key without a password"},
        {"a.test.key", "", "jim.ssl.cert: a.test.key: no PEM certificate"},
        {"weak.crt", "weak.key", "jim.ssl.cert: weak.crt: ee key too small"},
        {"", "", "jim.ssl.cert"},
    };
    char cert[64], key[64];
    struct output o;

    unsetenv("JIM_TEST_TLS");
    make_cert("a.test");
    make_cert("b.test");
    run("openssl ec -in a.test.key -aes128 -passout pass:x -out locked.key");
    run("openssl ecparam -name secp384r1 -genkey -noout -out p384.key");
    run("openssl genrsa -out rsa.key 2048");
    run("openssl req -x509 -newkey rsa:512 -nodes -subj /CN=weak -keyout weak.key -out weak.crt");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        snprintf(cert, sizeof cert, "jim.ssl.cert=%s", cases[i].cert);
        snprintf(key, sizeof key, "jim.ssl.key=%s", cases[i].key);
        run_jim(&o, "-p", "0", ON, cert, "-o", key, NULL);
        CHECK_INT(o.code, JIM_BAD_CONFIG);
        if (!has(o.err, cases[i].why))
            test_fail(__FILE__, __LINE__, "not '%s'", cases[i].why);
    }
}

TEST(tls_staples_ocsp)
{
    struct client c = {.staple = true}, without = {.staple = true, .max = TLS1_2_VERSION};
    const unsigned char *response;
    struct server s;
    struct buf file;

    unsetenv("JIM_TEST_TLS");
    make_cert("localhost");
    run("printf 'V\\t401231235959Z\\t\\t%%s\\tunknown\\t/CN=localhost\\n'"
        " $(openssl x509 -noout -serial -in localhost.crt | cut -d= -f2) > index.txt");
    run("openssl ocsp -index index.txt -CA localhost.crt -rsigner localhost.crt -rkey localhost.key"
        " -issuer localhost.crt -cert localhost.crt -ndays 1 -respout good.der");
    server_start(&s, QUIET, ON, "jim.ssl.cert=localhost.pem", "-o", "jim.ssl.ocsp=good.der", NULL);
    open_client(&c, &s);
    long n = SSL_get_tlsext_status_ocsp_resp(c.ssl, &response);
    file = read_whole("good.der");
    CHECK_INT(n, file.len);
    CHECK(memcmp(response, file.p, file.len) == 0);
    open_client(&without, &s);
    CHECK_INT(SSL_get_tlsext_status_ocsp_resp(without.ssl, &response), file.len);
}

TEST(tls_bad_ocsp)
{
    struct output o;

    make_cert("localhost");
    run_jim(&o, "-p", "0", ON, "jim.ssl.cert=localhost.pem", "-o", "jim.ssl.ocsp=localhost.crt",
            NULL);
    CHECK_INT(o.code, JIM_BAD_CONFIG);
    CHECK(has(o.err, "no OCSP response"));
}

static void
client_certificate(int max)
{
    struct client none = {.max = max}, right = {.max = max, .cert = "ann.pem"};
    struct client wrong = {.max = max, .cert = "eve.pem"};
    struct server s;

    unsetenv("JIM_TEST_TLS");
    make_cert("localhost");
    make_cert("ann");
    make_cert("eve");
    server_start(&s, QUIET, ON, "jim.ssl.cert=localhost.pem", "-o", "jim.ssl.client.ca=ann.crt",
                 NULL);
    CHECK(!shake(&none, s.port[0]) || !alive(&none)); /* with 1.3 the client learns of it later */
    CHECK(strstr(none.why, "required") != NULL || strstr(none.why, "handshake failure") != NULL);
    CHECK(!shake(&wrong, s.port[0]) || !alive(&wrong));
    open_client(&right, &s);
    CHECK(alive(&right));
    CHECK_INT(server_stat(&s, "tlsFailed"), 2);
}

TEST(tls_client_certificate_12)
{
    client_certificate(TLS1_2_VERSION);
}

TEST(tls_client_certificate_13)
{
    client_certificate(TLS1_3_VERSION);
}

/* --- reload ----------------------------------------------------------------------------------- */

TEST(tls_reload)
{
    struct client before = {.ca = "one.crt"};
    struct server s;
    char common[64];

    unsetenv("JIM_TEST_TLS");
    make_cert("one");
    make_cert("two");
    run("cp one.pem live.pem; cat one.crt two.crt > all.crt");
    server_start(&s, QUIET, ON, "jim.ssl.cert=live.pem", "-o", "jim.log.file=log", NULL);
    open_client(&before, &s);
    CHECK(alive(&before));
    run("cp two.pem live.pem");
    CHECK(kill(s.pid, SIGHUP) == 0);
    await_log("reloaded");
    shown(&s, "x", "all.crt", common);
    CHECK_STR(str_of(common), "two");
    CHECK(alive(&before));
}

TEST(tls_reload_of_a_bad_pair_changes_nothing)
{
    struct server s;
    char common[64];

    unsetenv("JIM_TEST_TLS");
    make_cert("one");
    make_cert("two");
    run("cp one.crt live.crt");
    server_start(&s, QUIET, ON, "jim.ssl.cert=live.crt", "-o", "jim.ssl.key=one.key", "-o",
                 "jim.log.file=log", NULL);
    run("cp two.crt live.crt");
    CHECK(kill(s.pid, SIGHUP) == 0);
    await_log("certificates not reloaded: jim.ssl.key: one.key: is not the certificate's key");
    shown(&s, "x", "one.crt", common);
    CHECK_STR(str_of(common), "one");
    /* What is between a key of one kind and a certificate of another: half a renewal. */
    run("openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=rsa -keyout rsa.key"
        " -out live.crt; : > log");
    CHECK(kill(s.pid, SIGHUP) == 0);
    await_log("certificates not reloaded: jim.ssl.key: one.key: is not the certificate's key");
    shown(&s, "x", "one.crt", common);
    CHECK_STR(str_of(common), "one");
    run("cp one.crt live.crt; cat one.key > live.key");
    CHECK(kill(s.pid, SIGHUP) == 0); /* and the next good one is taken again */
    await_log("info: reloaded");
    shown(&s, "x", "one.crt", common);
}

TEST(tls_expired_certificate_is_said)
{
    struct server s;
    char common[64];

    unsetenv("JIM_TEST_TLS");
    make_cert("old");
    make_cert("new");
    expire("old");
    run("cp old.crt live.crt; cp old.key live.key");
    server_start(&s, QUIET, ON, "jim.ssl.cert=live.crt", "-o", "jim.ssl.key=live.key", "-o",
                 "jim.log.file=log", NULL);
    await_log("warn: jim.ssl.cert: live.crt: has expired");
    run("cp new.crt live.crt; cp new.key live.key; : > log");
    CHECK(kill(s.pid, SIGHUP) == 0);
    await_log("reloaded");
    CHECK(!has(read_whole("log"), "warn: jim.ssl"));
    shown(&s, "x", "new.crt", common);
    run("cp old.crt live.crt; cp old.key live.key");
    CHECK(kill(s.pid, SIGHUP) == 0);
    await_log("warn: jim.ssl.cert: live.crt: has expired");
}

/* Handshakes that have begun under the old certificates end under them. */
TEST(tls_reload_during_a_handshake)
{
    struct client c = {.ca = "one.crt"};
    struct server s;
    BIO *wire;
    char *bytes;

    unsetenv("JIM_TEST_TLS");
    make_cert("one");
    make_cert("two");
    run("cp one.pem live.pem");
    server_start(&s, QUIET, ON, "jim.ssl.cert=live.pem", "-o", "jim.log.file=log", NULL);
    prepare(&c);
    c.fd = connect_to(s.port[0]);
    wire = BIO_new(BIO_s_mem());
    SSL_set_bio(c.ssl, BIO_new_socket(c.fd, 0), wire);
    SSL_set_connect_state(c.ssl);
    CHECK(fcntl(c.fd, F_SETFL, O_NONBLOCK) == 0);
    CHECK(SSL_do_handshake(c.ssl) < 0); /* its hello is written, nothing has come */
    long n = BIO_get_mem_data(wire, &bytes);
    CHECK(n > 50 && send(c.fd, bytes, 40, 0) == 40);
    while (server_stat(&s, "accepted") < 2) /* one of them is the asking itself */
        ;
    run("cp two.pem live.pem");
    CHECK(kill(s.pid, SIGHUP) == 0);
    await_log("reloaded");
    CHECK(send(c.fd, bytes + 40, (size_t)n - 40, 0) == n - 40);
    CHECK(fcntl(c.fd, F_SETFL, 0) == 0);
    CHECK(SSL_set_fd(c.ssl, c.fd));
    CHECK(SSL_do_handshake(c.ssl) == 1);
    CHECK(alive(&c));
}

/* --- sessions, versions ----------------------------------------------------------------------- */

static void
resumption(int max)
{
    struct client first = {.max = max}, second = {.max = max}, third = {.max = max};
    struct server s;

    unsetenv("JIM_TEST_TLS");
    make_cert("localhost");
    server_start(&s, QUIET, ON, "jim.ssl.cert=localhost.pem", "-o", "jim.log.file=log", NULL);
    open_client(&first, &s);
    CHECK(alive(&first)); /* with 1.3 the ticket comes behind the handshake */
    CHECK(!SSL_session_reused(first.ssl));
    SSL_SESSION *session = SSL_get1_session(first.ssl);
    second.session = third.session = session;
    open_client(&second, &s);
    CHECK(SSL_session_reused(second.ssl));
    CHECK(alive(&second));
    CHECK(kill(s.pid, SIGHUP) == 0);
    await_log("reloaded");
    open_client(&third, &s); /* new certificates are no reason to forget one another */
    CHECK(SSL_session_reused(third.ssl));
    CHECK_INT(server_stat(&s, "tlsResumed"), 2);
    SSL_SESSION_free(session);
}

TEST(tls_resumption_12)
{
    resumption(TLS1_2_VERSION);
}

TEST(tls_resumption_13)
{
    resumption(TLS1_3_VERSION);
}

/* After a reload the authorities may be others: whom the old ones vouched for has to show again. */
TEST(tls_no_resumption_past_other_authorities)
{
    struct client first = {.cert = "ann.pem"}, second = {0};
    struct server s;

    unsetenv("JIM_TEST_TLS");
    make_cert("localhost");
    make_cert("ann");
    make_cert("eve");
    run("cp ann.crt ca.crt");
    server_start(&s, QUIET, ON, "jim.ssl.cert=localhost.pem", "-o", "jim.ssl.client.ca=ca.crt",
                 "-o", "jim.log.file=log", NULL);
    open_client(&first, &s);
    CHECK(alive(&first));
    second.session = SSL_get1_session(first.ssl);
    run("cp eve.crt ca.crt");
    CHECK(kill(s.pid, SIGHUP) == 0);
    await_log("reloaded");
    CHECK(!shake(&second, s.port[0]) || !alive(&second));
    CHECK_INT(server_stat(&s, "tlsResumed"), 0);
    SSL_SESSION_free(second.session);
}

TEST(tls_alpn)
{
    struct client http = {.alpn = "\x02h2\x08http/1.1"}, h2 = {.alpn = "\x02h2"};
    const unsigned char *chosen;
    struct server s;
    unsigned n;

    start(&s);
    open_client(&http, &s);
    SSL_get0_alpn_selected(http.ssl, &chosen, &n);
    CHECK_BYTES((const char *)chosen, n, "http/1.1");
    CHECK(!shake(&h2, s.port[0]));
    CHECK(strstr(h2.why, "no application protocol") != NULL);
}

TEST(tls_old_versions_and_ciphers)
{
    struct client v11 = {.max = TLS1_1_VERSION, .ciphers = "ALL:@SECLEVEL=0"};
    struct client cbc = {.max = TLS1_2_VERSION, .ciphers = "ECDHE-ECDSA-AES128-SHA"};
    struct client rsa = {.max = TLS1_2_VERSION, .ciphers = "AES128-GCM-SHA256"};
    struct client good = {.max = TLS1_2_VERSION, .ciphers = "ECDHE-ECDSA-AES128-GCM-SHA256"};
    struct server s;

    start(&s);
    CHECK(!shake(&v11, s.port[0]));
    CHECK(strstr(v11.why, "protocol version") != NULL);
    CHECK(!shake(&cbc, s.port[0]));
    CHECK(!shake(&rsa, s.port[0]));
    open_client(&good, &s);
    CHECK(alive(&good));
    CHECK_INT(server_stat(&s, "tlsFailed"), 3);
}

TEST(tls_key_update)
{
    struct client c = {.max = TLS1_3_VERSION};
    struct server s;

    start(&s);
    open_client(&c, &s);
    for (int i = 0; i < 5; i++) {
        CHECK(SSL_key_update(c.ssl, SSL_KEY_UPDATE_REQUESTED));
        CHECK(alive(&c));
    }
}

/* --- bad manners ------------------------------------------------------------------------------ */

TEST(tls_garbage)
{
    struct client well = {0};
    struct server s;
    struct peer p;
    char noise[600];
    uint64_t key[2] = {1, 2};

    start(&s);
    open_client(&well, &s);
    for (size_t i = 0; i < 60; i++) {
        for (size_t at = 0; at < sizeof noise; at++)
            noise[at] = (char)siphash13(key, &(size_t){i * 1000 + at}, sizeof at);
        memcpy(noise, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", i % 12); /* ever better */
        noise[0] = TLS_FIRST;
        peer_connect(&p, &s);
        put(&p, noise, sizeof noise);
        peer_shut(&p);
        hear_end(&p);
        peer_close(&p);
    }
    CHECK(alive(&well));
    CHECK(plain_alive(s.port[0]));
}

/* The bytes of a good client's first words. */
static struct buf
hello(void)
{
    struct client c = {0};
    struct buf b = {0};
    char *bytes;

    prepare(&c);
    BIO *wire = BIO_new(BIO_s_mem());
    SSL_set_bio(c.ssl, BIO_new(BIO_s_mem()), wire);
    SSL_set_connect_state(c.ssl);
    CHECK(SSL_do_handshake(c.ssl) < 0);
    long n = BIO_get_mem_data(wire, &bytes);
    buf_add(&b, bytes, (size_t)n);
    SSL_free(c.ssl);
    SSL_CTX_free(c.ctx);
    return b;
}

TEST(tls_cut_handshake)
{
    struct client well = {0};
    struct server s;
    struct peer p;

    start(&s);
    struct buf b = hello();
    open_client(&well, &s);
    for (size_t n = 1; n < b.len; n += n < 12 ? 1 : 37) {
        peer_connect(&p, &s);
        put(&p, b.p, n);
        if (n % 2)
            peer_shut(&p);
        if (n % 2)
            hear_end(&p);
        if (n % 3)
            peer_close(&p);
        else
            peer_abort(&p);
    }
    peer_connect(&p, &s);
    put(&p, b.p, b.len);
    CHECK(hear_bytes(&p, 100)); /* cut with the server's answer on the way */
    peer_close(&p);
    CHECK(alive(&well));
    while (server_stat(&s, "connections") != 2) /* the others are all gone */
        ;
}

TEST(tls_silent_handshake_ends)
{
    struct server s;
    struct peer p;

    unsetenv("JIM_TEST_TLS");
    make_cert("localhost");
    server_start(&s, QUIET, ON, "jim.ssl.cert=localhost.pem", "-o", "jim.timeout.detect=2s",
                 NULL);
    struct buf b = hello();
    peer_connect(&p, &s);
    put(&p, b.p, b.len);
    hear_end(&p);
    peer_connect(&p, &s);
    put(&p, b.p, 20);
    hear_end(&p);
    CHECK(plain_alive(s.port[0]));
}

/* More handshakes than may be under way: the next waits until some have ended. */
TEST(tls_handshakes_are_bounded)
{
    enum { SILENT = 1100 };
    static struct peer p[SILENT];
    struct client c = {0};
    struct server s;
    int answered = 0;

    unsetenv("JIM_TEST_TLS");
    make_cert("localhost");
    server_start(&s, QUIET, ON, "jim.ssl.cert=localhost.pem", "-o", "jim.timeout.detect=100s",
                 NULL);
    struct buf b = hello();
    for (int i = 0; i < SILENT; i++) {
        peer_connect(&p[i], &s);
        put(&p[i], b.p, b.len);
    }
    while (answered < 1024) {
        answered = 0;
        for (int i = 0; i < SILENT; i++)
            answered += peer_ready(&p[i], 0);
    }
    CHECK(plain_alive(s.port[0])); /* and a turn later it is no more of them */
    answered = 0;
    for (int i = 0; i < SILENT; i++)
        answered += peer_ready(&p[i], 0);
    CHECK_INT(answered, 1024);
    for (int i = 0; i < 200; i++)
        peer_close(&p[i]);
    open_client(&c, &s);
    CHECK(alive(&c));
}

TEST(tls_renegotiation_is_refused)
{
    struct client c = {.max = TLS1_2_VERSION}, well = {0};
    struct server s;
    char byte;

    start(&s);
    open_client(&well, &s);
    open_client(&c, &s);
    CHECK(alive(&c));
    CHECK(SSL_renegotiate(c.ssl));
    ERR_clear_error();
    if (SSL_do_handshake(c.ssl) == 1)
        CHECK(!read_all(&c, &byte, 1) && strstr(c.why, "no renegotiation") != NULL);
    CHECK(alive(&well));
    CHECK_INT(server_stat(&s, "tls"), 2);
}

TEST(tls_records_of_one_byte)
{
    struct client c = {0};
    struct server s;
    char answer[ANSWER];

    start(&s);
    open_client(&c, &s);
    for (int i = 0; i < 7; i++)
        CHECK(write_all(&c, &HEARTBEAT[i], 1));
    CHECK(read_all(&c, answer, sizeof answer));
}

TEST(tls_bytes_one_by_one)
{
    struct client c = {0};
    struct server s;
    char *bytes, answer[ANSWER];

    start(&s);
    open_client(&c, &s);
    CHECK(alive(&c));
    BIO *wire = BIO_new(BIO_s_mem());
    SSL_set0_wbio(c.ssl, wire);
    CHECK(write_all(&c, HEARTBEAT, 7));
    long n = BIO_get_mem_data(wire, &bytes);
    for (long i = 0; i < n; i++)
        CHECK(send(c.fd, bytes + i, 1, 0) == 1);
    CHECK(read_all(&c, answer, sizeof answer));
}

/* A record that was changed on its way ends the connection, without an answer. */
TEST(tls_changed_record)
{
    struct client c = {0}, well = {0};
    struct server s;
    char *bytes, byte;

    start(&s);
    open_client(&well, &s);
    open_client(&c, &s);
    CHECK(alive(&c));
    BIO *wire = BIO_new(BIO_s_mem());
    SSL_set0_wbio(c.ssl, wire);
    CHECK(write_all(&c, HEARTBEAT, 7));
    long n = BIO_get_mem_data(wire, &bytes);
    bytes[n - 1] ^= 1;
    CHECK(send(c.fd, bytes, (size_t)n, 0) == n);
    CHECK(!read_all(&c, &byte, 1));
    CHECK(strstr(c.why, "bad record mac") != NULL);
    CHECK(alive(&well));
}

/* Questions and goodbye in one go: all are answered, then the server says goodbye as well. */
TEST(tls_half_closed_peer_gets_its_answers)
{
    struct client c = {0};
    struct server s;
    char *bytes, answer[ANSWER];

    start(&s);
    open_client(&c, &s);
    CHECK(alive(&c));
    BIO *wire = BIO_new(BIO_s_mem());
    SSL_set0_wbio(c.ssl, wire);
    for (int i = 0; i < 100; i++)
        CHECK(write_all(&c, HEARTBEAT, 7));
    CHECK(SSL_shutdown(c.ssl) == 0);
    long n = BIO_get_mem_data(wire, &bytes);
    CHECK(send(c.fd, bytes, (size_t)n, 0) == n); /* and the socket stays open */
    for (int i = 0; i < 100; i++)
        CHECK(read_all(&c, answer, sizeof answer));
    CHECK(!read_all(&c, answer, 1));
    CHECK(SSL_get_shutdown(c.ssl) & SSL_RECEIVED_SHUTDOWN);
    CHECK_INT(recv(c.fd, answer, 1, 0), 0);
}

/* A goodbye behind what asks for nothing is an end as well, though nothing more comes. */
TEST(tls_goodbye_behind_half_a_frame)
{
    struct client c = {0};
    struct server s;
    char *bytes, byte;

    start(&s);
    open_client(&c, &s);
    CHECK(alive(&c));
    BIO *wire = BIO_new(BIO_s_mem());
    SSL_set0_wbio(c.ssl, wire);
    CHECK(write_all(&c, HEARTBEAT, 5));
    CHECK(SSL_shutdown(c.ssl) == 0);
    long n = BIO_get_mem_data(wire, &bytes);
    CHECK(send(c.fd, bytes, (size_t)n, 0) == n);
    CHECK(!read_all(&c, &byte, 1));
    CHECK(SSL_get_shutdown(c.ssl) & SSL_RECEIVED_SHUTDOWN);
}

/* An end without a goodbye may be somebody else's doing. What was whole has been answered. */
TEST(tls_truncation)
{
    struct client c = {0};
    struct server s;
    char answer[ANSWER];

    start(&s);
    open_client(&c, &s);
    CHECK(write_all(&c, HEARTBEAT HEARTBEAT, 7 + 5)); /* one and a part of one */
    CHECK(shutdown(c.fd, SHUT_WR) == 0);
    CHECK(read_all(&c, answer, sizeof answer));
    CHECK(!read_all(&c, answer, 1));
    CHECK(plain_alive(s.port[0]));
}

/* --- writing ---------------------------------------------------------------------------------- */

/* Both ends of a connection in this process, over a socket that holds little. */
struct ends {
    struct tls_server *server;
    struct tls_client *client;
    struct tls *here, *there;
    int fd[2];
    struct stats stats;
};

static void
open_ends(struct ends *e)
{
    static char all[65536];
    struct options o;
    char err[256];
    int little = 4096;

    make_cert("localhost");
    conf_init(&o);
    CHECK(conf_set(&o, "jim.ssl.cert", "localhost.pem", false, NULL, err, sizeof err) == 0);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, e->fd) == 0);
    CHECK(setsockopt(e->fd[0], SOL_SOCKET, SO_SNDBUF, &little, sizeof little) == 0);
    for (int i = 0; i < 2; i++)
        CHECK(fcntl(e->fd[i], F_SETFL, O_NONBLOCK) == 0);
    e->server = tls_server_new(&o, &e->stats, err, sizeof err);
    e->client = tls_client_new("localhost.crt", err, sizeof err);
    CHECK(e->server != NULL && e->client != NULL);
    conf_free(&o);
    e->there = tls_connect(e->client, e->fd[1], "localhost");
    ssize_t n = recv(e->fd[0], all, sizeof all, 0);
    CHECK(n > 0);
    e->here = tls_accept(e->server, e->fd[0], e, all, (size_t)n);
    CHECK(tls_next(e->server) == e && tls_next(e->server) == NULL);
    while (!(tls_state(e->here) & tls_state(e->there) & TLS_READY)) {
        CHECK(tls_read(e->here, all, sizeof all) < 0 && errno == EAGAIN);
        CHECK(tls_flush(e->here) >= 0);
        CHECK(tls_read(e->there, all, sizeof all) < 0 && errno == EAGAIN);
    }
}

/* Of what is said to have left, nothing is left in here: a peer that is cut off then has it. And
 * all arrives once and in order, however little fits. */
TEST(tls_write_counts_what_has_left)
{
    enum { TOTAL = 1000000 };
    static char data[TOTAL], all[65536];
    struct ends e = {0};
    size_t sent = 0, heard = 0;
    ssize_t n;
    int partial = 0;

    open_ends(&e);
    for (size_t i = 0; i < TOTAL; i++)
        data[i] = (char)(i * 7 + i / 251);
    while (sent < TOTAL) {
        size_t want = TOTAL - sent < 100000 ? TOTAL - sent : 100000;
        struct iovec v[3] = {{data + sent, want / 7}, {data + sent + want / 7, 11},
                             {data + sent + want / 7 + 11, want - want / 7 - 11}};
        n = want < 100 ? tls_write(e.here, &(struct iovec){data + sent, want}, 1)
                       : tls_write(e.here, v, 3);
        CHECK(n > 0 || errno == EAGAIN);
        sent += n > 0 ? (size_t)n : 0;
        partial += (size_t)n < want;
        while ((n = tls_read(e.there, all, sizeof all)) > 0) {
            CHECK(heard + (size_t)n <= TOTAL && memcmp(all, data + heard, (size_t)n) == 0);
            heard += (size_t)n;
        }
        CHECK(heard >= sent);
    }
    CHECK_INT(heard, TOTAL);
    CHECK(partial > 5);
    CHECK_INT(tls_close(e.here), 1);
    CHECK_INT(tls_read(e.there, all, sizeof all), 0);
    CHECK(!(tls_state(e.there) & TLS_TRUNCATED));
    close(e.fd[0]);
    tls_free(e.here);
    tls_free(e.there);
    tls_server_free(e.server);
    tls_client_free(e.client);
}

/* --- outgoing --------------------------------------------------------------------------------- */

/* `openssl s_server` with a certificate, on a free port, until the test is over. */
static void
s_server(const char *cert, const char *more, int *port)
{
    char command[256], line[256];
    FILE *f;

    snprintf(command, sizeof command,
             "exec openssl s_server -accept 127.0.0.1:0 -cert %s -key %s %s -www 2>&1 </dev/null",
             cert, cert, more);
    f = popen(command, "r");
    CHECK(f != NULL);
    *port = 0;
    while (*port == 0 && fgets(line, sizeof line, f) != NULL)
        if (strncmp(line, "ACCEPT", 6) == 0 && strrchr(line, ':') != NULL)
            *port = atoi(strrchr(line, ':') + 1);
    CHECK(*port > 0);
}

/* GET / as `host`: what came (until the next call), or why nothing did. */
static struct buf
fetch(int port, const char *ca, const char *host, const char **why)
{
    static char all[TLS_MIN_READ];
    static const char get[] = "GET / HTTP/1.0\r\n\r\n";
    static struct buf b;
    char err[256];
    struct tls_client *client = tls_client_new(ca, err, sizeof err);
    int fd = connect_to(port);
    bool asked = false;
    ssize_t n;

    b.len = 0;
    CHECK(client != NULL);
    CHECK(fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
    struct tls *t = tls_connect(client, fd, host);
    CHECK(t != NULL);
    for (;;) {
        struct iovec v = {(void *)(uintptr_t)get, sizeof get - 1};
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (!asked && tls_state(t) & TLS_READY) {
            CHECK_INT(tls_write(t, &v, 1), sizeof get - 1);
            asked = true;
        }
        CHECK(tls_state(t) & TLS_OVER || poll(&p, 1, WAIT_MS) == 1);
        n = tls_read(t, all, sizeof all);
        if (n > 0)
            buf_add(&b, all, (size_t)n);
        else if (n == 0 || errno != EAGAIN)
            break;
    }
    *why = NULL;
    if (n < 0) {
        static char text[128];
        snprintf(text, sizeof text, "%s", tls_why(t));
        *why = text;
    }
    tls_free(t);
    tls_client_free(client);
    close(fd);
    return b;
}

TEST(tls_client_verifies)
{
    const char *why;
    int port;

    make_cert("localhost");
    make_cert("other");
    s_server("localhost.pem", "", &port);
    struct buf b = fetch(port, "localhost.crt", "localhost", &why);
    CHECK(why == NULL && has(b, "200 ok") && has(b, "TLSv1.3"));
    b = fetch(port, "localhost.crt", "127.0.0.1", &why); /* by address */
    CHECK(why == NULL && has(b, "200 ok"));
    b = fetch(port, "localhost.crt", "localhost.example", &why);
    CHECK(why != NULL && b.len == 0 && strstr(why, "hostname mismatch") != NULL);
    b = fetch(port, "localhost.crt", "127.0.0.2", &why);
    CHECK(why != NULL && b.len == 0 && strstr(why, "IP address mismatch") != NULL);
    b = fetch(port, "other.crt", "localhost", &why);
    CHECK(why != NULL && b.len == 0 && strstr(why, "self") != NULL);
    b = fetch(port, "", "localhost", &why); /* the system's authorities do not know it either */
    CHECK(why != NULL && b.len == 0);
}

TEST(tls_client_refuses_old_versions)
{
    const char *why;
    int port;

    make_cert("localhost");
    s_server("localhost.pem", "-tls1_1 -cipher ALL:@SECLEVEL=0", &port);
    struct buf b = fetch(port, "localhost.crt", "localhost", &why);
    CHECK(why != NULL && b.len == 0);
}

TEST(tls_client_without_authorities)
{
    char err[256];

    CHECK(tls_client_new("none.pem", err, sizeof err) == NULL);
    CHECK(strstr(err, "jim.ca: none.pem: No such file") != NULL);
}

/* --- login hook ------------------------------------------------------------------------------- */

#define LATER "{'code':10008,'command':6,'msg':'try later 请稍后再试'}"
#define WELCOME(user)                                                                              \
    "{'code':10007,'command':6,'msg':'ok 登录成功!','user':{'nick':'" user                         \
    "','status':'online','terminal':'<terminal>','userId':'" user "'}}"
#define OK_ANSWER "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
#define CHUNKED "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

struct service { /* the web service that knows the users */
    SSL_CTX *ctx;
    int fd, port;
};

/* It shows NAME.crt. */
static void
service_open(struct service *v, const char *name)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t n = sizeof a;
    char cert[64], key[64];

    unsetenv("JIM_TEST_TLS");
    v->fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(v->fd >= 0 && bind(v->fd, (struct sockaddr *)&a, n) == 0 && listen(v->fd, 16) == 0 &&
          getsockname(v->fd, (struct sockaddr *)&a, &n) == 0);
    v->port = ntohs(a.sin_port);
    snprintf(cert, sizeof cert, "%s.crt", name);
    snprintf(key, sizeof key, "%s.key", name);
    v->ctx = SSL_CTX_new(TLS_server_method());
    CHECK(v->ctx != NULL && SSL_CTX_use_certificate_chain_file(v->ctx, cert) == 1 &&
          SSL_CTX_use_PrivateKey_file(v->ctx, key, SSL_FILETYPE_PEM) == 1);
}

static void
service_close(struct service *v)
{
    SSL_CTX_free(v->ctx);
    close(v->fd);
}

/* A server whose logins it decides, reached by that name. */
static void
start_asking(struct server *s, const struct service *v, const char *host, const char *ca)
{
    char url[80], trust[80];

    snprintf(url, sizeof url, "jim.login.hook=https://%s:%d/login", host, v->port);
    snprintf(trust, sizeof trust, "jim.ca=%s", ca);
    server_start(s, QUIET, "-o", "jim.auth=hook", "-o", url, "-o", trust, "-o",
                 "jim.auth.delay=0", "-o", "jim.log.file=log", NULL);
}

static void
knocks(struct peer *p, const struct server *s)
{
    peer_open(p, s, PROTO_TCP);
    say(p, 5, "{'userId':'ann','password':'hunter2'}");
}

static int
service_accept_tcp(const struct service *v)
{
    struct pollfd f = {.fd = v->fd, .events = POLLIN};
    struct timeval patience = {WAIT_MS / 1000, 0};

    CHECK(poll(&f, 1, WAIT_MS) == 1);
    int fd = accept(v->fd, NULL, NULL);
    CHECK(fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) == 0);
    return fd;
}

/* The next connection. Does the handshake succeed? */
static bool
service_shake(const struct service *v, struct client *c)
{
    *c = (struct client){.ctx = v->ctx, .fd = service_accept_tcp(v)};
    SSL_CTX_up_ref(v->ctx); /* close_client() lets go of it */
    c->ssl = SSL_new(v->ctx);
    CHECK(c->ssl != NULL && SSL_set_fd(c->ssl, c->fd));
    ERR_clear_error();
    return SSL_accept(c->ssl) == 1 || failed(c);
}

static void
service_accept(const struct service *v, struct client *c)
{
    if (!service_shake(v, c))
        test_fail(__FILE__, __LINE__, "no handshake: %s", c->why);
}

/* The next request on it, whole. */
static void
service_hears(struct client *c)
{
    static const char want[] =
        "\"password\":\"hunter2\",\"terminal\":\"tcp\",\"userId\":\"ann\"}";
    struct buf b = {0};

    do {
        buf_reserve(&b, 1);
        CHECK(b.len < 1000 && read_all(c, b.p + b.len, 1));
        b.len++;
    } while (!has(b, want));
    CHECK(strncmp(b.p, "POST /login HTTP/1.1\r\nhost: ", 28) == 0);
    buf_free(&b);
}

static void
service_says(struct client *c, const char *text)
{
    CHECK(write_all(c, text, strlen(text)));
}

TEST(tls_hook)
{
    struct service v;
    struct server s;
    struct client c;
    struct peer p;

    make_cert("localhost");
    service_open(&v, "localhost");
    start_asking(&s, &v, "localhost", "localhost.crt");
    knocks(&p, &s);
    service_accept(&v, &c);
    CHECK_STR(str_of(SSL_get_servername(c.ssl, TLSEXT_NAMETYPE_host_name)), "localhost");
    service_hears(&c);
    service_says(&c, OK_ANSWER);
    EXPECT(&p, WELCOME("ann"));
    CHECK(!has(read_whole("log"), "in clear"));
    close_client(&c);
    service_close(&v);
}

TEST(tls_hook_by_address)
{
    struct service v;
    struct server s;
    struct client c;
    struct peer p;

    make_cert("localhost");
    service_open(&v, "localhost");
    start_asking(&s, &v, "127.0.0.1", "localhost.crt");
    knocks(&p, &s);
    service_accept(&v, &c);
    CHECK(SSL_get_servername(c.ssl, TLSEXT_NAMETYPE_host_name) == NULL);
    service_hears(&c);
    service_says(&c, "HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n");
    EXPECT(&p, "{'code':10008,'command':6,'msg':'login failed ! 登录失败!'}");
    close_client(&c);
    service_close(&v);
}

/* One connection for all, until the service says goodbye: that costs nobody his login. */
TEST(tls_hook_keep_alive)
{
    struct service v;
    struct server s;
    struct client c, next;
    struct peer p;

    make_cert("localhost");
    service_open(&v, "localhost");
    start_asking(&s, &v, "127.0.0.1", "localhost.crt");
    knocks(&p, &s);
    service_accept(&v, &c);
    for (int i = 0; i < 3; i++) {
        service_hears(&c);
        service_says(&c, OK_ANSWER);
        EXPECT(&p, WELCOME("ann"));
        peer_close(&p);
        knocks(&p, &s);
    }
    service_hears(&c);
    SSL_shutdown(c.ssl); /* rather than answer */
    service_accept(&v, &next);
    close_client(&c);
    service_hears(&next);
    service_says(&next, OK_ANSWER);
    EXPECT(&p, WELCOME("ann"));
    CHECK(kill(s.pid, SIGTERM) == 0); /* jim says goodbye, too */
    char byte;
    CHECK(!read_all(&next, &byte, 1));
    CHECK(SSL_get_shutdown(next.ssl) & SSL_RECEIVED_SHUTDOWN);
    close_client(&next);
    service_close(&v);
}

/* An answer in crumbs, and one of many records. */
TEST(tls_hook_records)
{
    enum { SPACES = 400000 };
    static char big[SPACES + 200];
    struct service v;
    struct server s;
    struct client c;
    struct peer p;

    make_cert("localhost");
    service_open(&v, "localhost");
    start_asking(&s, &v, "127.0.0.1", "localhost.crt");
    knocks(&p, &s);
    service_accept(&v, &c);
    service_hears(&c);
    for (size_t i = 0; i < strlen(OK_ANSWER); i++)
        CHECK(write_all(&c, &OK_ANSWER[i], 1));
    EXPECT(&p, WELCOME("ann"));
    peer_close(&p);
    knocks(&p, &s);
    service_hears(&c);
    snprintf(big, sizeof big, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n{%*s}", SPACES + 2,
             SPACES, "");
    service_says(&c, big);
    EXPECT(&p, WELCOME("ann"));
    close_client(&c);
    service_close(&v);
}

/* A login that comes to nothing, because the service does not prove who it is. */
static void
unproven(const struct service *v, const char *host, const char *ca, const char *why)
{
    struct server s;
    struct client c;
    struct peer p;

    start_asking(&s, v, host, ca);
    knocks(&p, &s);
    CHECK(!service_shake(v, &c)); /* so nothing was said behind it */
    EXPECT(&p, LATER);
    EXPECT_END(&p);
    close_client(&c);
    if (!has(read_whole("log"), why))
        test_fail(__FILE__, __LINE__, "not '%s' in\n%s", why, read_whole("log").p);
    CHECK_INT(server_stat(&s, "loginsLater"), 1);
}

TEST(tls_hook_unknown_authority)
{
    struct service v;

    make_cert("localhost");
    make_cert("other");
    service_open(&v, "localhost");
    unproven(&v, "localhost", "other.crt", ": TLS: self");
    service_close(&v);
}

TEST(tls_hook_system_authorities)
{
    struct service v;

    make_cert("localhost");
    service_open(&v, "localhost");
    unproven(&v, "localhost", "", ": TLS: self");
    service_close(&v);
}

TEST(tls_hook_wrong_name)
{
    struct service v;

    make_cert("other");
    service_open(&v, "other");
    unproven(&v, "localhost", "other.crt", ": TLS: hostname mismatch");
    service_close(&v);
}

TEST(tls_hook_wrong_address)
{
    struct service v;

    make_cert("localhost");
    service_open(&v, "localhost");
    unproven(&v, "127.1", "localhost.crt", "mismatch"); /* not how it is written there */
    service_close(&v);
}

TEST(tls_hook_expired)
{
    struct service v;

    make_cert("localhost");
    expire("localhost");
    service_open(&v, "localhost");
    unproven(&v, "localhost", "localhost.crt", ": TLS: certificate has expired");
    service_close(&v);
}

TEST(tls_hook_speaks_plain_text)
{
    static const char no[] = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
    struct service v;
    struct server s;
    struct peer p;
    char first[1000];

    make_cert("localhost");
    service_open(&v, "localhost");
    start_asking(&s, &v, "127.0.0.1", "localhost.crt");
    knocks(&p, &s);
    int fd = service_accept_tcp(&v);
    CHECK(read(fd, first, sizeof first) > 0 && first[0] == TLS_FIRST);
    CHECK(write(fd, no, sizeof no - 1) == sizeof no - 1);
    EXPECT(&p, LATER);
    CHECK(has(read_whole("log"), ": TLS: wrong version number"));
    close(fd);
    service_close(&v);
}

TEST(tls_hook_silent_handshake)
{
    struct service v;
    struct server s;
    struct peer p, other;
    char url[80], bytes[1000];
    ssize_t n;

    make_cert("localhost");
    service_open(&v, "localhost");
    snprintf(url, sizeof url, "jim.login.hook=https://127.0.0.1:%d/", v.port);
    server_start(&s, QUIET, "-o", "jim.auth=hook", "-o", url, "-o", "jim.ca=localhost.crt", "-o",
                 "jim.timeout.hook=100ms", "-o", "jim.log.file=log", NULL);
    knocks(&p, &s);
    peer_open(&other, &s, PROTO_TCP);
    EXPECT_QUIET(&other); /* nobody waits for it */
    int fd = service_accept_tcp(&v);
    EXPECT(&p, LATER);
    CHECK(has(read_whole("log"), ": TLS: no handshake in time"));
    while ((n = read(fd, bytes, sizeof bytes)) > 0) /* its first words, and then hung up on */
        ;
    CHECK_INT(n, 0);
    close(fd);
    service_close(&v);
}

TEST(tls_hook_closes_in_the_handshake)
{
    struct service v;
    struct server s;
    struct peer p;
    char bytes[1000];

    make_cert("localhost");
    service_open(&v, "localhost");
    start_asking(&s, &v, "127.0.0.1", "localhost.crt");
    knocks(&p, &s);
    int fd = service_accept_tcp(&v);
    CHECK(read(fd, bytes, sizeof bytes) > 0);
    close(fd);
    EXPECT(&p, LATER);
    CHECK(has(read_whole("log"), ": TLS: closed during the handshake"));
    service_close(&v);
}

/* In one piece: the answer and a goodbye, or the answer and, below TLS, the end. */
static void
service_ends(struct client *c, const char *text, bool goodbye)
{
    BIO *wire = BIO_new(BIO_s_mem());
    char *bytes;

    CHECK(wire != NULL);
    SSL_set0_wbio(c->ssl, wire);
    service_says(c, text);
    if (goodbye)
        SSL_shutdown(c->ssl);
    long n = BIO_get_mem_data(wire, &bytes);
    CHECK(send(c->fd, bytes, (size_t)n, 0) == n);
    if (!goodbye)
        CHECK(shutdown(c->fd, SHUT_WR) == 0);
}

/* What an answer is worth when the connection ends behind it, with a goodbye or without. */
TEST(tls_hook_truncated)
{
    static const struct {
        const char *answer;
        bool goodbye, counts;
    } cases[] = {
        {OK_ANSWER, false, true}, /* whole, as its length says */
        {OK_ANSWER, true, true},
        {"HTTP/1.1 200 OK\r\n\r\n{}", false, false}, /* as long as the connection */
        {"HTTP/1.1 200 OK\r\n\r\n{}", true, true},
        {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}", false, false},
        {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}", true, false},
        {CHUNKED "2\r\n{}\r\n0\r\n", true, false},
        {CHUNKED "2\r\n{}\r\n0\r\n\r\n", false, true},
        {"HTTP/1.1 200 OK\r\n", true, false},
    };
    struct service v;
    struct server s;
    struct client c;
    struct peer p;

    make_cert("localhost");
    service_open(&v, "localhost");
    start_asking(&s, &v, "127.0.0.1", "localhost.crt");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        printf("%zu\n", i);
        knocks(&p, &s);
        service_accept(&v, &c);
        service_hears(&c);
        service_ends(&c, cases[i].answer, cases[i].goodbye);
        EXPECT(&p, cases[i].counts ? WELCOME("ann") : LATER);
        close_client(&c);
        peer_close(&p);
    }
    CHECK(has(read_whole("log"), "closed within its answer"));
    service_close(&v);
}

/* Under other authorities no connection of the old ones goes on; a bad file changes nothing. */
TEST(tls_hook_reload)
{
    struct service v;
    struct server s;
    struct client c;
    struct peer p;
    char byte;

    make_cert("localhost");
    make_cert("other");
    run("cp other.crt live.crt");
    service_open(&v, "localhost");
    start_asking(&s, &v, "127.0.0.1", "live.crt");
    knocks(&p, &s);
    CHECK(!service_shake(&v, &c));
    EXPECT(&p, LATER);
    peer_close(&p);
    close_client(&c);
    run("cp localhost.crt live.crt");
    CHECK(kill(s.pid, SIGHUP) == 0);
    await_log("authorities reloaded");
    knocks(&p, &s);
    service_accept(&v, &c);
    service_hears(&c);
    run("rm live.crt");
    CHECK(kill(s.pid, SIGHUP) == 0);
    await_log("authorities not reloaded: jim.ca: live.crt: No such file");
    service_says(&c, OK_ANSWER);
    EXPECT(&p, WELCOME("ann"));
    peer_close(&p);
    knocks(&p, &s);
    service_hears(&c); /* kept */
    run("cp other.crt live.crt; : > log");
    CHECK(kill(s.pid, SIGHUP) == 0);
    await_log("authorities reloaded");
    service_says(&c, OK_ANSWER);
    EXPECT(&p, WELCOME("ann"));
    CHECK(!read_all(&c, &byte, 1)); /* answered, and not kept */
    CHECK(SSL_get_shutdown(c.ssl) & SSL_RECEIVED_SHUTDOWN);
    close_client(&c);
    peer_close(&p);
    knocks(&p, &s);
    CHECK(!service_shake(&v, &c));
    EXPECT(&p, LATER);
    close_client(&c);
    service_close(&v);
}
