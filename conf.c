/* SPDX-License-Identifier: MIT */
/*
 * conf.c - the options as one table. A row says the key, how its value is read, where it goes, the
 * default and a line of help; the command line, the jim.properties file, `-h`, reloading and the
 * tests of the manual page all work from it. To add an option, add a member to struct options and
 * a row.
 *
 *   the table    every key of jim and of J-IM
 *   values       text to number, time, size, choice, port list
 *   setting      conf_set(), conf_check(), conf_copy_live()
 *   properties   the Java properties syntax J-IM's file is written in
 */
#include "jim.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* --- the table -------------------------------------------------------------------------------- */

enum kind {
    K_STRING,
    K_NETS,    /* addresses and CIDR blocks, with commas */
    K_FILES,   /* a text that may be given several times: one a line */
    K_BOOL,    /* on, off */
    K_INT,
    K_SIZE,    /* bytes; k, m, g */
    K_TIME,    /* ms, s, m, h, d; a bare number is seconds */
    K_TIME_MS, /* the same; a bare number is milliseconds, as in J-IM */
    K_CHOICE,  /* a word of `words`; the value is its position */
    K_PROTOS,  /* a list of tcp, ws, http */
    K_PORTS,   /* PORT[/tls][/PROTOCOL], several with commas */
    K_SYNC,    /* group, off, or a time in ms */
    K_IGNORED  /* accepted with a notice: Java's business, or without effect while another is off */
};

struct row {
    const char *key;
    enum kind kind;
    size_t at;            /* offset in struct options */
    int64_t min, max;     /* of a number */
    bool live;            /* a reload changes it */
    const char *value;    /* default */
    const char *words;    /* K_CHOICE; K_INT, K_SIZE: the word for 0 */
    const char *help;
};

#define AT(member) offsetof(struct options, member)
#define ANY INT64_MAX
#define HOUR 3600000
#define MB 1048576

static const struct row rows[] = {
    {"jim.bind.ip", K_STRING, AT(bind_ip), 0, 0, false, "127.0.0.1", NULL,
     "address to listen on; empty: all"},
    {"jim.port", K_PORTS, AT(port), 0, 0, false, "8888", NULL,
     "port, or several: 8888,9000/ws,8443/tls; 0: a free one"},
    {"jim.protocols", K_PROTOS, AT(protocols), 0, 0, false, "tcp,ws,http", NULL,
     "protocols served"},
    {"jim.heartbeat.timeout", K_TIME_MS, AT(heartbeat), 0, 24 * HOUR, true, "0", NULL,
     "close a peer that sent nothing for so long; 0: never (ms)"},
    {"jim.auth", K_CHOICE, AT(auth), 0, 0, false, "open",
     "open,file,token,hook",
     "who may log in: anybody, or by users file, token or web service"},
    {"jim.auth.delay", K_TIME, AT(auth_delay), 0, 30000, true, "1s", NULL,
     "how long a refused login is held back; doubles to 30s; 0: not"},
    {"jim.users.file", K_STRING, AT(users_file), 0, 0, false, "", NULL,
     "jim.auth=file: the users; SIGHUP reads it again"},
    {"jim.token.secret", K_STRING, AT(token_secret), 0, 0, false, "", NULL,
     "jim.auth=token: signs the tokens (HS256), 32 bytes or more"},
    {"jim.login.hook", K_STRING, AT(login_hook), 0, 0, false, "", NULL,
     "jim.auth=hook: http:// or https://host:port/path that is asked"},
    {"jim.timeout.hook", K_TIME, AT(hook_ms), 10, HOUR, true, "5s", NULL,
     "until the login hook must have answered"},
    {"jim.login.required", K_BOOL, AT(login_required), 0, 0, true, "on", NULL,
     "off: commands work without a login, as in J-IM"},
    {"jim.login.policy", K_CHOICE, AT(login_policy), 0, 0, true, "many", "many,terminal,one",
     "connections a user may have: many, one a protocol, one"},
    {"jim.login.groups", K_STRING, AT(login_groups), 0, 0, false, "100:J-IM朋友圈", NULL,
     "groups joined at login: id:name,id:name; none but in open mode"},
    {"jim.group.open", K_BOOL, AT(group_open), 0, 0, true, "off", NULL,
     "on: anyone may send to a group he is not in"},
    {"jim.group.join", K_CHOICE, AT(group_join), 0, 0, true, "open", "open,api",
     "open: commands 7 and 21 join, create and leave"},
    {"jim.group.notify.max", K_INT, AT(notify_max), 0, 1000000, true, "200", NULL,
     "members online above which comings and goings are not announced"},
    {"jim.group.list.max", K_INT, AT(list_max), 0, 100000, true, "500", NULL,
     "members listed of one group in an answer 18"},
    {"jim.api.key", K_STRING, AT(api_key), 0, 0, true, "", NULL,
     "bearer key of the HTTP API; empty: loopback peers only"},
    {"jim.http.page", K_STRING, AT(http_page), 0, 0, false, "", NULL,
     "directory served at /; empty: the built-in page"},
    {"jim.http.cors", K_STRING, AT(http_cors), 0, 0, true, "none", NULL,
     "origins that may call the API: none, *, or a list"},
    {"jim.ws.origins", K_STRING, AT(ws_origins), 0, 0, true, "same", NULL,
     "origins that may open a WebSocket: same, *, or a list"},
    {"jim.message.max", K_SIZE, AT(message_max), 1, 16 * MB / 4, true, "65536", NULL,
     "bytes of a message's content"},
    {"jim.frame.max", K_SIZE, AT(frame_max), 1024, 16 * MB / 2, false, "2202009", NULL,
     "bytes of a TCP-IM body, WebSocket message or HTTP body"},
    {"jim.queue.max", K_SIZE, AT(queue_max), 65536, 1024 * MB, true, "1048576", NULL,
     "bytes queued to one connection"},
    {"jim.fetch.max", K_INT, AT(fetch_max), 1, 100000, true, "1000", NULL,
     "messages in one answer 20"},
    {"jim.rate.messages", K_INT, AT(rate), 0, 1000000, true, "200", NULL,
     "requests a second and connection; 0: no limit"},
    {"jim.rate.burst", K_INT, AT(burst), 1, 1000000, true, "400", NULL,
     "requests at once before the rate counts"},
    {"jim.connections.max", K_INT, AT(connections_max), 0, ANY, false, "0", NULL,
     "connections; 0: what the descriptor limit allows"},
    {"jim.connections.per.ip", K_INT, AT(per_ip), 0, UINT32_MAX, true, "none", "none",
     "connections of one address (IPv6: of a /64); none: no limit"},
    {"jim.proxy.protocol", K_NETS, AT(proxy_protocol), 0, 0, true, "", NULL,
     "proxies that begin every connection with a PROXY header: addresses, CIDR"},
    {"jim.proxy.forwarded", K_NETS, AT(proxy_forwarded), 0, 0, true, "", NULL,
     "HTTP proxies whose X-Forwarded-For is believed: addresses, CIDR"},
    {"jim.memory.max", K_SIZE, AT(memory_max), 8 * MB, ANY, true, "none", "none",
     "memory above which connections and messages are refused; none: no limit"},
    {"jim.timeout.detect", K_TIME, AT(detect_ms), 100, HOUR, true, "10s", NULL,
     "until a connection has shown its protocol, or a whole HTTP head"},
    {"jim.timeout.login", K_TIME, AT(login_ms), 100, 24 * HOUR, true, "30s", NULL,
     "until it has logged in (TCP-IM, WebSocket)"},
    {"jim.timeout.http", K_TIME, AT(http_ms), 100, 24 * HOUR, true, "75s", NULL,
     "idle HTTP keep-alive"},
    {"jim.drain", K_TIME, AT(drain_ms), 0, HOUR, true, "5s", NULL,
     "how long a stop waits for queues to flush"},
    {"jim.store", K_BOOL, AT(store), 0, 0, false, "on", NULL,
     "keep messages, groups and users on disk"},
    {"jim.store.dir", K_STRING, AT(store_dir), 0, 0, false, "./jim-data", NULL,
     "where (also -d)"},
    {"jim.store.sync", K_SYNC, AT(store_sync), 0, HOUR, false, "group", NULL,
     "group: acknowledge after fdatasync; a time in ms: sync that often; off"},
    {"jim.store.segment", K_SIZE, AT(store_segment), 4096, 2048LL * MB, false, "67108864", NULL,
     "bytes of one log file"},
    {"jim.store.keep.days", K_INT, AT(keep_days), 1, 36500, true, "none", "none",
     "days after which old log files are removed"},
    {"jim.store.keep.bytes", K_SIZE, AT(keep_bytes), 8192, ANY, true, "none", "none",
     "bytes of log above which the oldest files are removed"},
    {"jim.user", K_STRING, AT(user), 0, 0, false, "", NULL,
     "user to become when the ports are open, when started by root"},
    {"jim.chroot", K_STRING, AT(chroot), 0, 0, false, "", NULL,
     "directory to be shut into at start; paths are below it. Only root can"},
    {"jim.sandbox", K_BOOL, AT(sandbox), 0, 0, false, "on", NULL,
     "give up what is never needed, as far as the system can take it away"},
    {"jim.ssl", K_BOOL, AT(ssl), 0, 0, false, "off", NULL,
     "on: TLS beside plain text on every port (a jim built by `make TLS=1`)"},
    {"jim.ssl.cert", K_FILES, AT(ssl_cert), 0, 0, true, "", NULL,
     "certificate chain in PEM; several, for several names, by giving it again"},
    {"jim.ssl.key", K_FILES, AT(ssl_key), 0, 0, true, "", NULL,
     "its key, in the same order; none: it stands in the certificate's file"},
    {"jim.ssl.only", K_BOOL, AT(ssl_only), 0, 0, false, "off", NULL,
     "on: plain text is refused"},
    {"jim.ssl.client.ca", K_STRING, AT(ssl_client_ca), 0, 0, true, "", NULL,
     "over TLS a client has to show a certificate signed by these (PEM)"},
    {"jim.ssl.ocsp", K_FILES, AT(ssl_ocsp), 0, 0, true, "", NULL,
     "OCSP response to staple (DER), in the order of the certificates"},
    {"jim.ca", K_STRING, AT(ca), 0, 0, false, "", NULL,
     "authorities trusted in outgoing TLS connections (PEM); empty: the system's"},
    {"jim.log.level", K_CHOICE, AT(log_level), 0, 0, true, "info", "error,warn,info,debug",
     "what is logged"},
    {"jim.log.file", K_STRING, AT(log_file), 0, 0, false, "", NULL, "where; empty: stderr"},

    {"jim.cluster", K_BOOL, AT(cluster), 0, 0, false, "off", NULL,
     "on: one of several nodes that share users and messages through Redis"},
    {"jim.reuseport", K_BOOL, AT(reuseport), 0, 0, false, "off", NULL,
     "on: other processes may listen on the same ports, too"},

    {"jim.redis.host", K_STRING, AT(redis_host), 0, 0, false, "127.0.0.1", NULL,
     "the cluster's Redis: one server"},
    {"jim.redis.port", K_INT, AT(redis_port), 0, 65535, false, "6379", NULL, "its port"},
    {"jim.redis.nodes", K_STRING, AT(redis_nodes), 0, 0, false, "", NULL,
     "or a Redis Cluster: some of its servers, host:port,host:port"},
    {"jim.redis.sentinel", K_STRING, AT(redis_sentinel), 0, 0, false, "", NULL,
     "or the master that Sentinels know: name@host:port,host:port"},
    {"jim.redis.auth", K_STRING, AT(redis_auth), 0, 0, false, "", NULL,
     "its password; empty: none"},
    {"jim.redis.user", K_STRING, AT(redis_user), 0, 0, false, "", NULL,
     "its user; empty: default"},
    {"jim.redis.db", K_INT, AT(redis_db), 0, 1000000, false, "0", NULL,
     "its database; a Redis Cluster has only 0"},
    {"jim.redis.tls", K_BOOL, AT(redis_tls), 0, 0, false, "off", NULL,
     "on: TLS to Redis and Sentinels, which must be trusted by jim.ca"},
    {"jim.redis.timeout", K_TIME_MS, AT(redis_ms), 10, HOUR, false, "5s", NULL,
     "until Redis must have answered (ms)"},
    {"jim.redis.wait", K_INT, AT(redis_wait), 0, 100, false, "0", NULL,
     "replicas that must have a message before it is acknowledged"},

    {"jim.key.store.path", K_IGNORED, 0, 0, 0, false, "", NULL, "J-IM's Java key store"},
    {"jim.key.store.pwd", K_IGNORED, 0, 0, 0, false, "", NULL, "J-IM's Java key store"},
    {"jim.http.scan.packages", K_IGNORED, 0, 0, 0, false, "", NULL, "Java packages"},
    {"jim.http.max.live.time", K_IGNORED, 0, 0, 0, false, "", NULL, "J-IM's page cache"},
    {"jim.redis.retrynum", K_IGNORED, 0, 0, 0, false, "", NULL, "used by the cluster only"},
    {"jim.redis.maxactive", K_IGNORED, 0, 0, 0, false, "", NULL, "used by the cluster only"},
    {"jim.redis.maxidle", K_IGNORED, 0, 0, 0, false, "", NULL, "used by the cluster only"},
    {"jim.redis.maxwait", K_IGNORED, 0, 0, 0, false, "", NULL, "used by the cluster only"},
};
#define ROWS (sizeof rows / sizeof rows[0])

_Static_assert(ROWS <= OPTIONS_MAX, "struct option_set has a bit a row");

static const struct row *
row_find(const char *key)
{
    for (size_t i = 0; i < ROWS; i++)
        if (strcmp(rows[i].key, key) == 0)
            return &rows[i];
    return NULL;
}

/* Without effect in a server that is no node of a cluster? */
static bool
cluster_only(const struct row *r)
{
    return strncmp(r->key, "jim.redis.", 10) == 0;
}

static bool
set_has(const struct option_set *s, const struct row *r)
{
    size_t i = (size_t)(r - rows);

    return s != NULL && s->bits[i / 64] >> i % 64 & 1;
}

static void
set_add(struct option_set *s, const struct row *r)
{
    size_t i = (size_t)(r - rows);

    s->bits[i / 64] |= UINT64_C(1) << i % 64;
}

bool
conf_has(const struct option_set *s, const char *key)
{
    const struct row *r = row_find(key);

    return r != NULL && set_has(s, r);
}

void
conf_note(struct option_set *s, const char *key)
{
    const struct row *r = row_find(key);

    if (r != NULL)
        set_add(s, r);
}

/* --- values ----------------------------------------------------------------------------------- */

struct unit {
    const char *name;
    int64_t factor;
};
static const struct unit sizes[] = {{"k", 1024}, {"m", MB}, {"g", 1024LL * MB}, {NULL, 0}};
static const struct unit times[] = {{"ms", 1},    {"s", 1000},      {"m", 60000},
                                    {"h", HOUR}, {"d", 24 * HOUR}, {NULL, 0}};

/* digits[unit] as a number of the smallest unit; `bare` is the factor of a number without a
 * unit. */
static bool
parse_number(const char *text, const struct unit *units, int64_t bare, int64_t *out)
{
    char *end;

    if (*text < '0' || *text > '9')
        return false;
    errno = 0;
    long long n = strtoll(text, &end, 10);
    int64_t factor = *end == '\0' ? bare : 0;
    for (const struct unit *u = units; u != NULL && u->name != NULL; u++)
        if (str_ieq(str_of(end), str_of(u->name)))
            factor = u->factor;
    if (errno != 0 || factor == 0 || n > INT64_MAX / factor)
        return false;
    *out = n * factor;
    return true;
}

/* Position of `word` in a comma-separated list, -1 when it is not there. */
static int
word_index(const char *words, struct str word)
{
    struct str rest = str_of(words), part;

    for (int i = 0; str_split(&rest, ',', &part); i++)
        if (str_eq(part, word))
            return i;
    return -1;
}

static bool
parse_protos(const char *text, int64_t *out)
{
    struct str rest = str_of(text), part;

    *out = 0;
    while (str_split(&rest, ',', &part)) {
        int i = word_index("tcp,ws,http", str_trim(part));
        if (i < 0)
            return false;
        *out |= PROTO_BIT(PROTO_TCP + i);
    }
    return *out != 0;
}

static bool
parse_port(struct str text, struct port_spec *out)
{
    char digits[8];
    struct str number;
    int64_t n;

    if (!str_split(&text, '/', &number) || number.n == 0 || number.n >= sizeof digits)
        return false;
    memcpy(digits, number.p, number.n);
    digits[number.n] = '\0';
    if (!parse_number(digits, NULL, 1, &n) || n > 65535)
        return false;
    *out = (struct port_spec){.port = (uint16_t)n};
    while (text.p != NULL) {
        struct str word;
        str_split(&text, '/', &word);
        int i = word_index("tcp,ws,http", word);
        if (i >= 0 && out->protos == 0)
            out->protos = PROTO_BIT(PROTO_TCP + i);
        else if (str_eq(word, STR("tls")) && !out->tls)
            out->tls = true;
        else
            return false;
    }
    return true;
}

static bool
parse_ports(struct options *o, const char *text, bool more)
{
    struct str rest = str_of(text), part;

    if (!more)
        o->ports = 0;
    while (str_split(&rest, ',', &part))
        if (o->ports == MAX_LISTEN || !parse_port(str_trim(part), &o->port[o->ports++]))
            return false;
    return o->ports > 0;
}

/* --- setting ---------------------------------------------------------------------------------- */

static int64_t *
number_at(struct options *o, const struct row *r)
{
    return (int64_t *)(void *)((char *)o + r->at);
}

static char **
string_at(struct options *o, const struct row *r)
{
    return (char **)(void *)((char *)o + r->at);
}

static void
set_files(char **to, const char *value, bool more)
{
    struct buf b = {0};

    if (more)
        buf_printf(&b, "%s\n", *to);
    buf_add(&b, value, strlen(value) + 1);
    free(*to);
    *to = b.p;
}

/* Is the value a text of its own, which conf_free() releases? */
static bool
is_string(const struct row *r)
{
    return r->kind == K_STRING || r->kind == K_NETS || r->kind == K_FILES;
}

static bool
parse_value(struct options *o, const struct row *r, const char *value, bool more)
{
    int64_t n = -1;

    switch (r->kind) {
    case K_NETS:
        if (!networks_ok(value))
            return false;
        /* FALLTHROUGH */
    case K_STRING:
        free(*string_at(o, r));
        *string_at(o, r) = xstrndup(value, strlen(value));
        return true;
    case K_FILES:
        set_files(string_at(o, r), value, more);
        return true;
    case K_PORTS:
        return parse_ports(o, value, more);
    case K_IGNORED:
        return true;
    case K_PROTOS:
        return parse_protos(value, number_at(o, r));
    case K_BOOL:
        n = word_index("off,on", str_of(value));
        break;
    case K_CHOICE:
        n = word_index(r->words, str_of(value));
        break;
    case K_SYNC:
        if (strcmp(value, "group") == 0 || strcmp(value, "off") == 0) {
            *number_at(o, r) = value[0] == 'g' ? STORE_GROUP : STORE_OFF;
            return true;
        }
        if (!parse_number(value, times, 1, &n) || n == 0)
            return false;
        break;
    case K_TIME_MS:
        if (value[0] == '-') { /* J-IM: anything up to 0 turns it off */
            n = 0;
            break;
        } /* FALLTHROUGH */
    case K_INT:
    case K_SIZE:
    case K_TIME:
        if (r->words != NULL && strcmp(value, r->words) == 0) {
            *number_at(o, r) = 0;
            return true;
        }
        if (!parse_number(value, r->kind == K_INT ? NULL : r->kind == K_SIZE ? sizes : times,
                          r->kind == K_TIME ? 1000 : 1, &n))
            return false;
        break;
    }
    if ((n < r->min && (n != 0 || r->words == NULL)) || (r->max > 0 && n > r->max))
        return false;
    *number_at(o, r) = n;
    return true;
}

static const char *
expected(const struct row *r)
{
    switch (r->kind) {
    case K_BOOL:
        return "on or off";
    case K_CHOICE:
        return r->words;
    case K_PROTOS:
        return "a list of tcp, ws, http";
    case K_PORTS:
        return "a port from 0 to 65535, optionally /tls and /tcp, /ws or /http, or several with "
               "commas";
    case K_SYNC:
        return "group, off, or a time such as 10ms";
    case K_SIZE:
        return r->words == NULL ? "a number of bytes in range, optionally with k, m or g"
                                : "none, or a number of bytes in range, optionally with k, m or g";
    case K_TIME:
    case K_TIME_MS:
        return "a time in range, optionally with ms, s, m, h or d";
    case K_INT:
        return r->words == NULL ? "a number in range" : "none, or a number in range";
    case K_NETS:
        return "addresses or CIDR blocks, with commas";
    case K_STRING:
    case K_FILES:
    case K_IGNORED:
        break;
    }
    return "a text";
}

int
conf_set(struct options *o, const char *key, const char *value, bool more, struct buf *notices,
         char *err, size_t errsize)
{
    const struct row *r = row_find(key);

    if (r == NULL) {
        snprintf(err, errsize, "unknown option '%s'", key);
        return -1;
    }
    /* J-IM ships its page as a Java resource; ours is inside the binary already. */
    if (r->at == AT(http_page) && strncmp(value, "classpath:", 10) == 0) {
        if (notices != NULL)
            buf_printf(notices, "%s=%s is Java's: serving the built-in page\n", key, value);
        value = "";
    }
    if (!parse_value(o, r, value, more)) {
        snprintf(err, errsize, "%s: '%s' should be %s", key, value, expected(r));
        return -1;
    }
    if ((r->kind == K_IGNORED || cluster_only(r)) && notices != NULL)
        buf_printf(notices, "%s is ignored: %s\n", key,
                   cluster_only(r) ? "used by the cluster only" : r->help);
    set_add(&o->set, r);
    return 0;
}

void
conf_init(struct options *o)
{
    *o = (struct options){0};
    for (size_t i = 0; i < ROWS; i++)
        if (!parse_value(o, &rows[i], rows[i].value, false))
            abort(); /* a wrong default: every start and every test would see it */
}

void
conf_free(struct options *o)
{
    for (size_t i = 0; i < ROWS; i++)
        if (is_string(&rows[i]))
            free(*string_at(o, &rows[i]));
    *o = (struct options){0};
}

const char *
conf_login_groups(const struct options *o)
{
    bool given = conf_has(&o->set, "jim.login.groups");

    return o->auth == AUTH_OPEN || given ? o->login_groups : "";
}

bool
conf_login_group(const char *list, size_t n, struct str *id, struct str *name)
{
    struct str rest = str_of(list), part;

    while (str_split(&rest, ',', &part)) {
        part = str_trim(part);
        if (part.n == 0 || n-- > 0)
            continue;
        str_split(&part, ':', id);
        *name = part.p == NULL ? *id : part;
        return true;
    }
    return false;
}

static bool
loopback_address(const char *ip)
{
    return strncmp(ip, "127.", 4) == 0 || strcmp(ip, "::1") == 0 || strcmp(ip, "localhost") == 0;
}

static int
check_ssl(const struct options *o, char *err, size_t errsize)
{
    bool pinned = false;

    for (size_t i = 0; i < o->ports; i++)
        pinned = pinned || o->port[i].tls;
    if (!o->ssl && (o->ssl_only || pinned)) {
        snprintf(err, errsize, "%s wants jim.ssl=on",
                 pinned ? "a port with /tls" : "jim.ssl.only=on");
        return -1;
    }
    if (o->ssl && tls_version() == NULL) {
        snprintf(err, errsize, "jim.ssl=on: this jim is built without TLS; `make TLS=1` builds one "
                               "with it");
        return -1;
    }
    if (o->ssl && o->ssl_cert[0] == '\0' && conf_has(&o->set, "jim.key.store.path")) {
        snprintf(err, errsize,
                 "jim.key.store.path: TLS wants PEM, not a Java key store. Convert it: keytool "
                 "-importkeystore -srckeystore STORE -destkeystore jim.p12 -deststoretype pkcs12 "
                 "&& openssl pkcs12 -in jim.p12 -nodes -out jim.pem; then jim.ssl.cert=jim.pem");
        return -1;
    }
    return 0;
}

int
conf_check(const struct options *o, char *err, size_t errsize)
{
    struct str id, name;

    if (!loopback_address(o->bind_ip) && o->auth != AUTH_EMBED && !conf_has(&o->set, "jim.auth")) {
        snprintf(err, errsize,
                 "jim.bind.ip=%s is reachable from outside and anyone could log in as anyone: "
                 "set jim.auth (jim.auth=open if that is meant)", o->bind_ip);
        return -1;
    }
    for (size_t i = 0; conf_login_group(o->login_groups, i, &id, &name); i++) {
        uint32_t utf8 = 0;
        if (!id_ok(id) || !utf8_check(&utf8, name.p, name.n) || utf8 != 0) {
            snprintf(err, errsize, "jim.login.groups: '%.*s' is no group's id and name in UTF-8",
                     (int)(name.p + name.n - id.p), id.p);
            return -1;
        }
    }
    if (o->frame_max < o->message_max) {
        snprintf(err, errsize, "jim.frame.max is smaller than jim.message.max");
        return -1;
    }
    return check_ssl(o, err, errsize);
}

void
conf_copy_live(struct options *to, const struct options *from, const struct option_set *keep)
{
    for (size_t i = 0; i < ROWS; i++) {
        const struct row *r = &rows[i];
        if (!r->live || set_has(keep, r))
            continue;
        if (is_string(r)) {
            const char *text = *(char *const *)(const void *)((const char *)from + r->at);
            free(*string_at(to, r));
            *string_at(to, r) = xstrndup(text, strlen(text));
        } else {
            *number_at(to, r) = *(const int64_t *)(const void *)((const char *)from + r->at);
        }
    }
}

void
conf_print(FILE *out)
{
    for (size_t i = 0; i < ROWS; i++)
        if (rows[i].kind != K_IGNORED)
            fprintf(out, "  %-22s %s%s%s%s%s\n", rows[i].key, rows[i].help,
                    rows[i].value[0] ? " [" : "", rows[i].value, rows[i].value[0] ? "]" : "",
                    rows[i].live ? " (live)" : "");
}

/* --- properties ------------------------------------------------------------------------------- */

static int
hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static size_t
utf8_put(char *p, unsigned c)
{
    if (c < 0x80) {
        p[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        p[0] = (char)(0xc0 | c >> 6);
        p[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        p[0] = (char)(0xe0 | c >> 12);
        p[1] = (char)(0x80 | (c >> 6 & 0x3f));
        p[2] = (char)(0x80 | (c & 0x3f));
        return 3;
    }
    p[0] = (char)(0xf0 | c >> 18);
    p[1] = (char)(0x80 | (c >> 12 & 0x3f));
    p[2] = (char)(0x80 | (c >> 6 & 0x3f));
    p[3] = (char)(0x80 | (c & 0x3f));
    return 4;
}

/* Four hex digits, -1 when they are none. */
static int
hex4(const char *p)
{
    int u = 0;

    for (int i = 0; i < 4; i++) {
        if (hex_value(p[i]) < 0)
            return -1;
        u = u << 4 | hex_value(p[i]);
    }
    return u;
}

/* The digits behind \u, with those of a second \u where the two are a surrogate pair. A surrogate
 * without its half is U+FFFD: what comes out is always UTF-8. 0: no four digits. */
static unsigned
unescape_unicode(const char **p)
{
    int u = hex4(*p), low;

    if (u <= 0)
        return 0;
    *p += 4;
    if (u < 0xd800 || u > 0xdfff)
        return (unsigned)u;
    if (u > 0xdbff || (*p)[0] != '\\' || (*p)[1] != 'u' || (low = hex4(*p + 2)) < 0xdc00 ||
        low > 0xdfff)
        return 0xfffd;
    *p += 6;
    return 0x10000u + (((unsigned)u & 0x3ff) << 10 | ((unsigned)low & 0x3ff));
}

/* One backslash escape at *p (behind the backslash), decoded to `out`; *p moves behind it. */
static size_t
unescape(const char **p, char *out)
{
    char c = *(*p)++;
    unsigned u;

    switch (c) {
    case 't':
        c = '\t';
        break;
    case 'n':
        c = '\n';
        break;
    case 'r':
        c = '\r';
        break;
    case 'f':
        c = '\f';
        break;
    case 'u':
        u = unescape_unicode(p);
        if (u == 0)
            break;
        return utf8_put(out, u);
    default:
        break;
    }
    *out = c;
    return 1;
}

/*
 * Split a logical line into key and value, in place: the key ends at the first unescaped '=', ':'
 * or blank. Decoding only shrinks, so it may write over what it reads.
 */
static void
split_line(char *line, char **key, char **value)
{
    const char *p = line;
    char *out = line;

    *key = out;
    while (*p != '\0' && strchr("=: \t", *p) == NULL) {
        if (*p == '\\' && p[1] != '\0') {
            p++;
            out += unescape(&p, out);
        } else {
            *out++ = *p++;
        }
    }
    const char *rest = p + strspn(p, " \t");
    if (*rest == '=' || *rest == ':')
        rest++;
    rest += strspn(rest, " \t");
    *out++ = '\0';
    /* Without a separator the key reached the end and `out` is just behind `rest`. */
    if (out > rest)
        out = line + (rest - line);
    *value = out;
    while (*rest != '\0') {
        if (*rest == '\\' && rest[1] != '\0') {
            rest++;
            out += unescape(&rest, out);
        } else {
            *out++ = *rest++;
        }
    }
    while (out > *value && (out[-1] == ' ' || out[-1] == '\t'))
        out--;
    *out = '\0';
}

/* A comment ends with its line, whatever it ends with. */
static bool
is_comment(const struct buf *line)
{
    size_t at = 0;

    while (at < line->len && (line->p[at] == ' ' || line->p[at] == '\t' || line->p[at] == '\f'))
        at++;
    return at < line->len && (line->p[at] == '#' || line->p[at] == '!');
}

/* The next logical line (a backslash at the end continues it) without leading blanks; NULL at
 * EOF. */
static char *
read_line(FILE *f, struct buf *line, int *number)
{
    int c;

    line->len = 0;
    while ((c = getc(f)) != EOF) {
        buf_reserve(line, 2);
        if (c == '\n') {
            size_t slashes = 0;
            (*number)++;
            while (slashes < line->len && line->p[line->len - 1 - slashes] == '\\')
                slashes++;
            if (slashes % 2 == 0 || is_comment(line))
                break;
            line->len--;
            while ((c = getc(f)) == ' ' || c == '\t')
                ;
            if (c != EOF)
                ungetc(c, f);
        } else if (c != '\r' && c != '\0' && line->len < 65536) {
            line->p[line->len++] = (char)c;
        }
    }
    if (c == EOF && line->len == 0)
        return NULL;
    if (c == EOF)
        (*number)++;
    buf_reserve(line, 1);
    line->p[line->len] = '\0';
    char *text = line->p;
    if (*number == 1 && strncmp(text, "\xef\xbb\xbf", 3) == 0)
        text += 3; /* the byte order mark that some editors begin a file with */
    return text + strspn(text, " \t\f");
}

int
conf_read(struct options *o, FILE *f, const char *file, const struct option_set *keep,
          struct buf *notices, char *err, size_t errsize)
{
    struct options scratch; /* where keys go that the command line has set: checked, not used */
    struct buf line = {0};
    char *text, *key, *value, why[256];
    struct option_set seen = {0};
    int number = 0, result = 0;

    conf_init(&scratch);
    while (result == 0 && (text = read_line(f, &line, &number)) != NULL) {
        if (*text == '#' || *text == '!' || *text == '\0')
            continue;
        split_line(text, &key, &value);
        if (strncmp(key, "jim.", 4) != 0)
            continue; /* other programs' keys may share the file */
        if (conf_set(conf_has(keep, key) ? &scratch : o, key, value, conf_has(&seen, key), notices,
                     why, sizeof why) != 0) {
            snprintf(err, errsize, "%s:%d: %s", file, number, why);
            result = -1;
        }
        conf_note(&seen, key);
    }
    if (ferror(f)) {
        snprintf(err, errsize, "%s: %s", file, strerror(errno));
        result = -1;
    }
    conf_free(&scratch);
    buf_free(&line);
    return result;
}

int
conf_load(struct options *o, const char *file, const struct option_set *keep, struct buf *notices,
          char *err, size_t errsize)
{
    FILE *f = fopen(file, "r");

    if (f == NULL) {
        snprintf(err, errsize, "%s: %s", file, strerror(errno));
        return -1;
    }
    int result = conf_read(o, f, file, keep, notices, err, errsize);
    fclose(f);
    return result;
}
