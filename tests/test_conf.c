/* SPDX-License-Identifier: MIT */
/*
 * test_conf.c - the option table, the properties file, and whether the documents tell of every key.
 *
 *   keys      each key with its place in struct options, its default, and another value
 *   values    what each kind of value may look like, and what is refused with a sentence
 *   file      the syntax of Java properties; J-IM's own file
 *   whole     command line over file, checks, reloading
 *   documents jim.8 and both READMEs name every key with its default
 */
#include "test.h"

#include <unistd.h>

struct setup { /* options being tried out, and what was said of them */
    struct options o;
    struct buf notices;
    char err[512];
};

static void
begin(struct setup *s)
{
    memset(s, 0, sizeof *s);
    conf_init(&s->o);
}

static void
end(struct setup *s)
{
    conf_free(&s->o);
    buf_free(&s->notices);
}

static int
set(struct setup *s, const char *key, const char *value)
{
    memset(s->err, 'x', sizeof s->err);
    int result = conf_set(&s->o, key, value, false, &s->notices, s->err, sizeof s->err);
    if (result != 0)
        CHECK(memchr(s->err, '\0', sizeof s->err) != NULL);
    else
        s->err[0] = '\0';
    return result;
}

/* Read a file of n bytes called t.properties; nothing is kept back. */
static int
load_n(struct setup *s, const char *text, size_t n)
{
    FILE *f = fopen("t.properties", "w");

    CHECK(f != NULL && fwrite(text, 1, n, f) == n && fclose(f) == 0);
    s->err[0] = '\0';
    return conf_load(&s->o, "t.properties", NULL, &s->notices, s->err, sizeof s->err);
}

static void
load(struct setup *s, const char *text)
{
    if (load_n(s, text, strlen(text)) != 0)
        test_fail(__FILE__, __LINE__, "refused: %s\n%s", s->err, text);
}

/* --- keys ------------------------------------------------------------------------------------ */

/* How many keys are in it. */
static int
set_count(const struct option_set *s)
{
    int n = 0;

    for (size_t i = 0; i < OPTIONS_MAX; i++)
        n += (int)(s->bits[i / 64] >> i % 64 & 1);
    return n;
}

#define INT(member) offsetof(struct options, member), NULL
#define TEXT(member, other) offsetof(struct options, member), other

static const struct key {
    const char *key, *value, *other;
    size_t at;
    const char *text;    /* a string's other value; NULL: a number */
    int64_t number, other_number;
    bool live;
} keys[] = {
    {"jim.bind.ip", "127.0.0.1", "::1", TEXT(bind_ip, "::1"), 0, 0, false},
    {"jim.protocols", "tcp,ws,http", "ws", INT(protocols), 14, 4, false},
    {"jim.heartbeat.timeout", "0", "9000", INT(heartbeat), 0, 9000, true},
    {"jim.auth", "open", "hook", INT(auth), AUTH_OPEN, AUTH_HOOK, false},
    {"jim.auth.delay", "1s", "2", INT(auth_delay), 1000, 2000, true},
    {"jim.users.file", "", "u", TEXT(users_file, "u"), 0, 0, false},
    {"jim.token.secret", "", "s", TEXT(token_secret, "s"), 0, 0, false},
    {"jim.login.hook", "", "h", TEXT(login_hook, "h"), 0, 0, false},
    {"jim.timeout.hook", "5s", "30ms", INT(hook_ms), 5000, 30, true},
    {"jim.login.required", "on", "off", INT(login_required), 1, 0, true},
    {"jim.login.policy", "many", "one", INT(login_policy), 0, 2, true},
    {"jim.login.groups", "100:J-IM朋友圈", "7:x", TEXT(login_groups, "7:x"), 0, 0, false},
    {"jim.group.open", "off", "on", INT(group_open), 0, 1, true},
    {"jim.group.join", "open", "api", INT(group_join), 0, 1, true},
    {"jim.group.notify.max", "200", "3", INT(notify_max), 200, 3, true},
    {"jim.group.list.max", "500", "4", INT(list_max), 500, 4, true},
    {"jim.api.key", "", "k", TEXT(api_key, "k"), 0, 0, true},
    {"jim.http.page", "", "/srv", TEXT(http_page, "/srv"), 0, 0, false},
    {"jim.http.cors", "none", "*", TEXT(http_cors, "*"), 0, 0, true},
    {"jim.ws.origins", "same", "*", TEXT(ws_origins, "*"), 0, 0, true},
    {"jim.message.max", "65536", "1k", INT(message_max), 65536, 1024, true},
    {"jim.frame.max", "2202009", "1m", INT(frame_max), 2202009, 1048576, false},
    {"jim.queue.max", "1048576", "64k", INT(queue_max), 1048576, 65536, true},
    {"jim.fetch.max", "1000", "5", INT(fetch_max), 1000, 5, true},
    {"jim.rate.messages", "200", "0", INT(rate), 200, 0, true},
    {"jim.rate.burst", "400", "6", INT(burst), 400, 6, true},
    {"jim.connections.max", "0", "7", INT(connections_max), 0, 7, false},
    {"jim.connections.per.ip", "none", "9", INT(per_ip), 0, 9, true},
    {"jim.proxy.protocol", "", "::1", TEXT(proxy_protocol, "::1"), 0, 0, true},
    {"jim.proxy.forwarded", "", "10.0.0.0/8", TEXT(proxy_forwarded, "10.0.0.0/8"), 0, 0, true},
    {"jim.memory.max", "none", "64m", INT(memory_max), 0, 67108864, true},
    {"jim.timeout.detect", "10s", "1", INT(detect_ms), 10000, 1000, true},
    {"jim.timeout.login", "30s", "2", INT(login_ms), 30000, 2000, true},
    {"jim.timeout.http", "75s", "3", INT(http_ms), 75000, 3000, true},
    {"jim.drain", "5s", "4", INT(drain_ms), 5000, 4000, true},
    {"jim.store", "on", "off", INT(store), 1, 0, false},
    {"jim.store.dir", "./jim-data", "/d", TEXT(store_dir, "/d"), 0, 0, false},
    {"jim.store.sync", "group", "20", INT(store_sync), STORE_GROUP, 20, false},
    {"jim.store.segment", "67108864", "1m", INT(store_segment), 67108864, 1048576, false},
    {"jim.store.keep.days", "none", "30", INT(keep_days), 0, 30, true},
    {"jim.store.keep.bytes", "none", "10g", INT(keep_bytes), 0, INT64_C(10737418240), true},
    {"jim.user", "", "nobody", TEXT(user, "nobody"), 0, 0, false},
    {"jim.chroot", "", "/c", TEXT(chroot, "/c"), 0, 0, false},
    {"jim.sandbox", "on", "off", INT(sandbox), 1, 0, false},
    {"jim.ssl", "off", "on", INT(ssl), 0, 1, false},
    {"jim.ssl.cert", "", "/c", TEXT(ssl_cert, "/c"), 0, 0, true},
    {"jim.ssl.key", "", "/k", TEXT(ssl_key, "/k"), 0, 0, true},
    {"jim.ssl.only", "off", "on", INT(ssl_only), 0, 1, false},
    {"jim.ssl.client.ca", "", "/a", TEXT(ssl_client_ca, "/a"), 0, 0, true},
    {"jim.ssl.ocsp", "", "/o", TEXT(ssl_ocsp, "/o"), 0, 0, true},
    {"jim.ca", "", "/b", TEXT(ca, "/b"), 0, 0, false},
    {"jim.log.level", "info", "debug", INT(log_level), 2, 3, true},
    {"jim.log.file", "", "/l", TEXT(log_file, "/l"), 0, 0, false},
    {"jim.cluster", "off", "on", INT(cluster), 0, 1, false},
    {"jim.reuseport", "off", "on", INT(reuseport), 0, 1, false},
};
#define KEYS (sizeof keys / sizeof keys[0])

/* Understood, and without effect outside a cluster. */
static const struct key cluster[] = {
    {"jim.redis.host", "127.0.0.1", "r", TEXT(redis_host, "r"), 0, 0, false},
    {"jim.redis.port", "6379", "7000", INT(redis_port), 6379, 7000, false},
    {"jim.redis.nodes", "", "a:1,b:2", TEXT(redis_nodes, "a:1,b:2"), 0, 0, false},
    {"jim.redis.sentinel", "", "m@a:1", TEXT(redis_sentinel, "m@a:1"), 0, 0, false},
    {"jim.redis.auth", "", "p", TEXT(redis_auth, "p"), 0, 0, false},
    {"jim.redis.user", "", "u", TEXT(redis_user, "u"), 0, 0, false},
    {"jim.redis.db", "0", "3", INT(redis_db), 0, 3, false},
    {"jim.redis.tls", "off", "on", INT(redis_tls), 0, 1, false},
    {"jim.redis.timeout", "5s", "2000", INT(redis_ms), 5000, 2000, false},
    {"jim.redis.wait", "0", "2", INT(redis_wait), 0, 2, false},
};

static const char *const ignored[] = {
    "jim.key.store.path", "jim.key.store.pwd", "jim.http.scan.packages", "jim.http.max.live.time",
    "jim.redis.retrynum", "jim.redis.maxactive", "jim.redis.maxidle", "jim.redis.maxwait",
};

static int64_t
number_of(const struct options *o, const struct key *k)
{
    int64_t n;

    memcpy(&n, (const char *)o + k->at, sizeof n);
    return n;
}

static const char *
text_of(const struct options *o, const struct key *k)
{
    char *p;

    memcpy(&p, (const char *)o + k->at, sizeof p);
    return p;
}

static void
check_value(const struct options *o, const struct key *k, bool other)
{
    const char *text = other ? k->text : k->value;

    if (k->text == NULL && number_of(o, k) != (other ? k->other_number : k->number))
        test_fail(__FILE__, __LINE__, "%s is %lld", k->key, (long long)number_of(o, k));
    if (k->text != NULL && strcmp(text_of(o, k), text) != 0)
        test_fail(__FILE__, __LINE__, "%s is '%s', not '%s'", k->key, text_of(o, k), text);
}

TEST(conf_defaults)
{
    struct setup s;

    begin(&s);
    for (size_t i = 0; i < KEYS; i++)
        check_value(&s.o, &keys[i], false);
    CHECK_INT(s.o.ports, 1);
    CHECK_INT(s.o.port[0].port, 8888);
    CHECK_INT(s.o.port[0].protos, 0);
    CHECK_INT(set_count(&s.o.set), 0);
    CHECK(conf_check(&s.o, s.err, sizeof s.err) == 0);
    end(&s);
}

TEST(conf_keys_accept_their_default)
{
    struct setup s;

    begin(&s);
    for (size_t i = 0; i < KEYS; i++) {
        CHECK(!conf_has(&s.o.set, keys[i].key));
        CHECK(set(&s, keys[i].key, keys[i].other) == 0);
        check_value(&s.o, &keys[i], true);
        CHECK(set(&s, keys[i].key, keys[i].value) == 0);
        check_value(&s.o, &keys[i], false);
        CHECK(conf_has(&s.o.set, keys[i].key));
        CHECK_INT(set_count(&s.o.set), i + 1); /* a bit of its own */
    }
    CHECK(set(&s, "jim.port", "8888") == 0);
    CHECK_INT(s.notices.len, 0);
    end(&s);
}

TEST(conf_cluster_keys)
{
    for (size_t i = 0; i < sizeof cluster / sizeof cluster[0]; i++) {
        struct setup s;
        begin(&s);
        check_value(&s.o, &cluster[i], false);
        CHECK(set(&s, cluster[i].key, cluster[i].other) == 0);
        check_value(&s.o, &cluster[i], true);
        buf_add(&s.notices, "", 1);
        CHECK(strstr(s.notices.p, cluster[i].key) != NULL); /* says that it has no effect */
        CHECK(strstr(s.notices.p, "used by the cluster only") != NULL);
        end(&s);
    }
}

/* The line of `-h` about a key, as it is printed: its default in brackets, or "" for none. */
static bool
help_default(const char *help, const char *key, char value[64], bool *live)
{
    char start[80];

    snprintf(start, sizeof start, "\n  %s ", key);
    const char *line = strstr(help, start);
    if (line == NULL)
        return false;
    size_t n = strcspn(line + 1, "\n") + 1;
    static const char mark[] = " (live)";
    *live = n > sizeof mark && memcmp(line + n - 7, mark, 7) == 0;
    if (*live)
        n -= 7;
    value[0] = '\0';
    if (line[n - 1] != ']')
        return true;
    size_t from = n - 1;
    while (line[from] != '[')
        from--;
    snprintf(value, 64, "%.*s", (int)(n - 2 - from), line + from + 1);
    return true;
}

/* What conf_print() prints, behind a newline. The caller frees it. */
static char *
help_text(void)
{
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);

    fputc('\n', f);
    conf_print(f);
    fclose(f);
    return text;
}

TEST(conf_print)
{
    char *help = help_text(), value[64];
    size_t lines = 0;
    bool live;

    for (const char *p = help; *p != '\0'; p++)
        lines += *p == '\n';
    CHECK_INT(lines, 1 + KEYS + 1 + sizeof cluster / sizeof cluster[0]); /* and jim.port */
    for (size_t i = 0; i < KEYS; i++) {
        if (!help_default(help, keys[i].key, value, &live))
            test_fail(__FILE__, __LINE__, "-h lacks %s", keys[i].key);
        CHECK_BYTES(value, strlen(value), keys[i].value);
        if (live != keys[i].live)
            test_fail(__FILE__, __LINE__, "%s: live %d", keys[i].key, live);
    }
    CHECK(help_default(help, "jim.port", value, &live) && strcmp(value, "8888") == 0 && !live);
    free(help);
}

/* --- values ---------------------------------------------------------------------------------- */

TEST(conf_values)
{
    static const struct {
        const char *key, *value;
        int64_t want;
    } cases[] = {
        {"jim.message.max", "1", 1},
        {"jim.message.max", "64k", 65536},
        {"jim.message.max", "64K", 65536},
        {"jim.message.max", "4m", 4194304},
        {"jim.queue.max", "1g", 1073741824},
        {"jim.queue.max", "1G", 1073741824},
        {"jim.frame.max", "1024", 1024},
        {"jim.store.segment", "2g", 2147483648},
        {"jim.store.segment", "4k", 4096},
        /* a bare number: milliseconds where J-IM's key is, else seconds */
        {"jim.heartbeat.timeout", "3000", 3000},
        {"jim.heartbeat.timeout", "3s", 3000},
        {"jim.heartbeat.timeout", "1d", 86400000},
        {"jim.heartbeat.timeout", "-1", 0},
        {"jim.timeout.detect", "10", 10000},
        {"jim.timeout.detect", "100ms", 100},
        {"jim.timeout.detect", "1m", 60000},
        {"jim.timeout.detect", "1h", 3600000},
        {"jim.timeout.login", "1D", 86400000},
        {"jim.timeout.http", "007", 7000},
        {"jim.drain", "0", 0},
        {"jim.store.sync", "off", STORE_OFF},
        {"jim.store.sync", "group", STORE_GROUP},
        {"jim.store.sync", "1", 1},
        {"jim.store.sync", "10ms", 10},
        {"jim.store.sync", "2s", 2000},
        {"jim.rate.messages", "1000000", 1000000},
        {"jim.connections.max", "1000000000", 1000000000},
        {"jim.connections.per.ip", "none", 0},
        {"jim.connections.per.ip", "0", 0},
        {"jim.memory.max", "0", 0},
        {"jim.memory.max", "8m", 8388608},
        {"jim.login.policy", "terminal", LOGIN_TERMINAL},
        {"jim.group.join", "api", JOIN_API},
        {"jim.log.level", "error", LOG_LEVEL_ERROR},
        {"jim.protocols", "tcp", PROTO_BIT(PROTO_TCP)},
        {"jim.protocols", " http , tcp ", PROTO_BIT(PROTO_TCP) | PROTO_BIT(PROTO_HTTP)},
        {"jim.protocols", "ws,ws", PROTO_BIT(PROTO_WS)},
    };
    struct setup s;

    begin(&s);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (set(&s, cases[i].key, cases[i].value) != 0)
            test_fail(__FILE__, __LINE__, "%s", s.err);
        for (size_t k = 0; k < KEYS; k++)
            if (strcmp(keys[k].key, cases[i].key) == 0 &&
                number_of(&s.o, &keys[k]) != cases[i].want)
                test_fail(__FILE__, __LINE__, "%s=%s is %lld", cases[i].key, cases[i].value,
                          (long long)number_of(&s.o, &keys[k]));
    }
    end(&s);
}

TEST(conf_bad_values)
{
    static const struct {
        const char *key, *values; /* values between bars */
    } cases[] = {
        {"jim.port", "||x|-1|65536|8888,|,8888|8888/|8888/udp|8888/tls/|8888/tls/tls|8888/ws/tcp|"
                     "/tcp|80 80|1e3|0x50|"
                     "99999999999999999999|8888;9999|1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17"},
        {"jim.protocols", "||,|tcp,|udp|TCP ws|tcp;ws"},
        {"jim.login.required", "||yes|true|1|0|on |onn|o"},
        {"jim.store", "||yes|o"},
        {"jim.auth", "||File|file,token|closed"},
        {"jim.login.policy", "||two|many,one|man"},
        {"jim.group.join", "||off"},
        {"jim.log.level", "||trace|2"},
        {"jim.group.notify.max", "||-1|1.5|1k|0x10| 1|1 |1000001|99999999999999999999|+1"},
        {"jim.fetch.max", "||0|100001|many"},
        {"jim.rate.burst", "0"},
        {"jim.message.max", "||0|-1|4194305|5m|1kb|1 k|k|1t|1s|9223372036854775807k"},
        {"jim.frame.max", "1023|9m|1g"},
        {"jim.queue.max", "65535|2g|1024k k"},
        {"jim.store.segment", "4095|3g"},
        {"jim.timeout.detect", "||99ms|0|2h|1w|1.5s|1 s|s|ms|-1|9223372036854775807s|10k"},
        {"jim.heartbeat.timeout", "||x|25h|2d"},
        {"jim.store.sync", "||0|0ms|on|-1|2h|always|Group"},
        {"jim.cluster", "|yes"},
        {"jim.reuseport", "|yes"},
        {"jim.auth.delay", "||31s|1h|-1|x"},
        {"jim.timeout.hook", "||0|9ms|2h"},
        {"jim.connections.per.ip", "|-1|some"},
        {"jim.proxy.protocol", "|10.0.0.1,|localhost|10.0.0.1/33|none"},
        {"jim.proxy.forwarded", "|[::1]|*|10.0.0.1:80"},
        {"jim.memory.max", "|1m|-1|8x|all"},
        {"jim.sandbox", "|yes"},
        {"jim.store.keep.days", "|-1|36501|30d|never|9223372036854775807"},
        {"jim.store.keep.bytes", "|1|8191|1t|all"},
        {"jim.ssl", "||OFF|yes|1"},
        {"jim.ssl.only", "||yes"},
    };
    struct setup s;
    char value[128];

    begin(&s);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct str rest = str_of(cases[i].values), part;
        if (rest.n > 2 && rest.p[0] == '|') /* an empty one comes first */
            rest = (struct str){rest.p + 1, rest.n - 1};
        while (str_split(&rest, '|', &part)) {
            snprintf(value, sizeof value, "%.*s", (int)part.n, part.p);
            if (set(&s, cases[i].key, value) == 0)
                test_fail(__FILE__, __LINE__, "%s='%s' is accepted", cases[i].key, value);
            /* a sentence: the key, the value, and what would be right */
            CHECK(strstr(s.err, cases[i].key) != NULL && strstr(s.err, value) != NULL);
            CHECK(strlen(s.err) > strlen(cases[i].key) + part.n + 8);
        }
    }
    end(&s);
}

TEST(conf_unknown_key)
{
    static const char *const names[] = {"jim.prot", "port", "", "JIM.PORT", "jim.port ", "jim."};
    struct setup s;

    begin(&s);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        CHECK(set(&s, names[i], "1") != 0);
        CHECK(strstr(s.err, names[i]) != NULL && strstr(s.err, "unknown") != NULL);
    }
    /* A sentence that is too long for its place is cut, not written past it. */
    char tiny[8];
    CHECK(conf_set(&s.o, "jim.nothing.of.the.kind", "1", false, NULL, tiny, sizeof tiny) != 0);
    CHECK(strlen(tiny) == sizeof tiny - 1);
    end(&s);
}

TEST(conf_ports)
{
    struct setup s;

    begin(&s);
    CHECK(set(&s, "jim.port", "0") == 0);
    CHECK(s.o.ports == 1 && s.o.port[0].port == 0);
    CHECK(set(&s, "jim.port", "8888, 8889/tcp ,9000/ws,65535/http") == 0);
    CHECK_INT(s.o.ports, 4);
    CHECK(s.o.port[0].port == 8888 && s.o.port[0].protos == 0);
    CHECK(s.o.port[1].port == 8889 && s.o.port[1].protos == PROTO_BIT(PROTO_TCP));
    CHECK(s.o.port[2].port == 9000 && s.o.port[2].protos == PROTO_BIT(PROTO_WS));
    CHECK(s.o.port[3].port == 65535 && s.o.port[3].protos == PROTO_BIT(PROTO_HTTP));
    CHECK(conf_set(&s.o, "jim.port", "1,2", true, NULL, s.err, sizeof s.err) == 0);
    CHECK(s.o.ports == 6 && s.o.port[0].port == 8888 && s.o.port[5].port == 2);
    CHECK(set(&s, "jim.port", "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16") == 0);
    CHECK_INT(s.o.ports, MAX_LISTEN);
    CHECK(conf_set(&s.o, "jim.port", "17", true, NULL, s.err, sizeof s.err) != 0);
    end(&s);
}

TEST(conf_java_keys_are_noticed)
{
    struct setup s;

    begin(&s);
    for (size_t i = 0; i < sizeof ignored / sizeof ignored[0]; i++) {
        s.notices.len = 0;
        CHECK(set(&s, ignored[i], "anything at all") == 0);
        buf_add(&s.notices, "", 1);
        CHECK(strstr(s.notices.p, ignored[i]) == s.notices.p);
        CHECK(strstr(s.notices.p, "anything") == NULL); /* it may be a password */
        CHECK(strchr(s.notices.p, '\n') == s.notices.p + s.notices.len - 2);
        CHECK(conf_set(&s.o, ignored[i], "", false, NULL, s.err, sizeof s.err) == 0);
    }
    check_value(&s.o, &keys[0], false); /* nothing was written in place of the first member */
    s.notices.len = 0;
    CHECK(set(&s, "jim.http.page", "classpath:page") == 0);
    CHECK(s.o.http_page[0] == '\0' && s.notices.len > 0);
    end(&s);
}

/* --- the file -------------------------------------------------------------------------------- */

TEST(conf_file_separators)
{
    static const char *const lines[] = {
        "jim.http.cors=a b", "jim.http.cors:a b", "jim.http.cors a b", "jim.http.cors = a b",
        "jim.http.cors\t:\ta b", "  jim.http.cors  a b", "\t jim.http.cors=\ta b",
        "jim.http.cors =a b  ", "jim.http.cors= a b\t", "jim\\.http.cors=a b",
        "jim.http.cors=a\\ b", "jim.http.cors=\\a b", "\fjim.http.cors=a b",
    };
    struct setup s;
    char text[100];

    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++)
        for (int form = 0; form < 4; form++) {
            static const char *const after[] = {"", "\n", "\r\n", "\n\n# end\n"};
            begin(&s);
            snprintf(text, sizeof text, "%s%s", lines[i], after[form]);
            load(&s, text);
            if (strcmp(s.o.http_cors, "a b") != 0)
                test_fail(__FILE__, __LINE__, "%s: '%s'", text, s.o.http_cors);
            end(&s);
        }
}

TEST(conf_file_values)
{
    static const struct {
        const char *line, *want;
    } cases[] = {
        {"jim.http.cors", ""},
        {"jim.http.cors=", ""},
        {"jim.http.cors = ", ""},
        {"jim.http.cors==", "="},
        {"jim.http.cors = :x", ":x"},
        {"jim.http.cors=a=b:c d", "a=b:c d"},
        {"jim.http.cors=#no comment", "#no comment"},
        {"jim.http.cors=a\\tb\\\\c\\=\\:\\#\\!", "a\tb\\c=:#!"},
        {"jim.http.cors=\\u0041\\u00e9\\u4e2D\\u597d", "A\xc3\xa9中好"},
        {"jim.http.cors=中文", "中文"},
        {"jim.http.cors=C:\\\\jim\\\\", "C:\\jim\\"},
        {"jim.http.\\u0063ors=x", "x"},
        {"jim.http.cors=a\\\n   b\\\r\n\t c", "abc"},
        {"jim.http.cors=a\\\\\n# b", "a\\"},
        {"jim.http.cors=a\\\n\n# b", "a"},
        {"jim.http.co\\\n  rs=split key", "split key"},
        {"jim.http.cors=a\\\n# not a comment", "a# not a comment"},
        {"jim.http.cors=one\njim.http.cors=two", "two"},
    };
    struct setup s;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        begin(&s);
        load(&s, cases[i].line);
        if (strcmp(s.o.http_cors, cases[i].want) != 0)
            test_fail(__FILE__, __LINE__, "%s: '%s'", cases[i].line, s.o.http_cors);
        end(&s);
    }
}

/* U+1F600 is written in two halves, as Java's char is; in UTF-8 it is one character. */
TEST(conf_file_surrogates)
{
    struct setup s;
    uint32_t state = 0;

    begin(&s);
    load(&s, "jim.login.groups = 7:\\uD83D\\uDE00!\n");
    CHECK_BYTES(s.o.login_groups, strlen(s.o.login_groups), "7:\xf0\x9f\x98\x80!");
    end(&s);
    begin(&s); /* half of one is no text that may be sent to anybody */
    if (load_n(&s, "jim.login.groups = 7:a\\uD83D!\n", 31) == 0)
        CHECK(utf8_check(&state, s.o.login_groups, strlen(s.o.login_groups)) && state == 0);
    end(&s);
}

TEST(conf_file_comments)
{
    struct setup s;

    begin(&s);
    load(&s, "# one\n! two\n   # three\n\t!four\n\n \t \n#jim.port = 1\n!jim.nope=1\n"
             "jim.fetch.max=7\n");
    CHECK_INT(s.o.fetch_max, 7);
    CHECK_INT(s.o.port[0].port, 8888);
    load(&s, "");
    load(&s, "\n");
    load(&s, "#");
    end(&s);
}

/* Windows' editor writes a byte order mark in front: the first key must not be passed over. */
TEST(conf_file_byte_order_mark)
{
    static const char text[] = "\xef\xbb\xbfjim.fetch.max=8\njim.rate.burst=9\n";
    struct setup s;

    begin(&s);
    if (load_n(&s, text, sizeof text - 1) == 0) {
        CHECK_INT(s.o.fetch_max, 8);
        CHECK_INT(s.o.burst, 9);
    }
    end(&s);
}

/* java.util.Properties: "it is not possible to extend a comment in this manner". */
TEST(conf_file_comment_is_not_continued)
{
    struct setup s;

    begin(&s);
    load(&s, "# data is in C:\\jim\\\njim.fetch.max = 9\n");
    CHECK_INT(s.o.fetch_max, 9);
    end(&s);
}

static void
refused(const char *text, const char *start, const char *part)
{
    struct setup s;

    begin(&s);
    if (load_n(&s, text, strlen(text)) == 0)
        test_fail(__FILE__, __LINE__, "accepted: %s", text);
    if (strncmp(s.err, start, strlen(start)) != 0 || strstr(s.err, part) == NULL)
        test_fail(__FILE__, __LINE__, "'%s' should be '%s...%s'", s.err, start, part);
    end(&s);
}

/* Loading `text` succeeds; checking it says `part`. */
static void
unfit(const char *text, const char *part)
{
    struct setup s;

    begin(&s);
    load(&s, text);
    CHECK_INT(conf_check(&s.o, s.err, sizeof s.err), -1);
    if (strstr(s.err, part) == NULL)
        test_fail(__FILE__, __LINE__, "'%s' does not say '%s'", s.err, part);
    end(&s);
}

TEST(conf_tls_wants_tls)
{
    unfit("jim.ssl.only=on\n", "jim.ssl=on");
    unfit("jim.port=8888,8443/tls\n", "/tls");
}

TEST(conf_tls_not_built)
{
    if (tls_version() == NULL)
        unfit("jim.ssl=on\njim.ssl.cert=c.pem\n", "make TLS=1");
    else
        unfit("jim.ssl=on\njim.key.store.path=k.jks\njim.key.store.pwd=x\n", "keytool");
}

TEST(conf_tls_ports_and_files)
{
    struct setup s;

    begin(&s);
    load(&s, "jim.port=1,2/tls,3/ws/tls,4/tls/http,5/tcp\njim.ssl.cert=a, b.pem\n"
             "jim.ssl.cert=c.pem\n");
    CHECK_INT(s.o.ports, 5);
    CHECK(!s.o.port[0].tls && s.o.port[1].tls && s.o.port[2].tls && s.o.port[3].tls);
    CHECK(!s.o.port[4].tls);
    CHECK_INT(s.o.port[1].protos, 0);
    CHECK_INT(s.o.port[2].protos, PROTO_BIT(PROTO_WS));
    CHECK_INT(s.o.port[3].protos, PROTO_BIT(PROTO_HTTP));
    CHECK_STR(str_of(s.o.ssl_cert), "a, b.pem\nc.pem");
    end(&s);
}

TEST(conf_file_errors)
{
    refused("jim.prot=1", "t.properties:1: ", "jim.prot");
    refused("# x\n\njim.port=1\njim.nope = 2\n", "t.properties:4: ", "jim.nope");
    refused("jim.http.cors=a\\\n  b\njim.nope=2\r\njim.port=1", "t.properties:3: ", "jim.nope");
    refused("\n\njim.port = http\n", "t.properties:3: ", "'http'");
    refused("jim.ssl=yes\n", "t.properties:1: ", "jim.ssl");
    refused("jim.cluster = yes\n", "t.properties:1: ", "jim.cluster");
    refused("jim.port=1,2,3,4,5,6,7,8,9,10\njim.port=1,2,3,4,5,6,7\n", "t.properties:2: ",
            "jim.port");
    /* the first of several */
    refused("jim.fetch.max=0\njim.nope=1\n", "t.properties:1: ", "jim.fetch.max");

    struct setup s;
    begin(&s);
    CHECK(conf_load(&s.o, "missing.properties", NULL, NULL, s.err, sizeof s.err) != 0);
    CHECK(strstr(s.err, "missing.properties") != NULL);
    CHECK(conf_load(&s.o, ".", NULL, NULL, s.err, sizeof s.err) != 0);
    end(&s);
}

TEST(conf_file_other_keys)
{
    struct setup s;

    begin(&s);
    load(&s, "server.port = 1\ntio.default.read.buffer.size = 2048\nJIM.PORT=1\njimmy=2\n=x\n:\n");
    CHECK_INT(s.o.port[0].port, 8888);
    CHECK_INT(s.notices.len, 0);
    CHECK_INT(set_count(&s.o.set), 0);
    end(&s);
}

TEST(conf_file_lists)
{
    struct setup s;

    begin(&s);
    load(&s, "jim.port = 1000\njim.port=1001/ws, 1002\njim.port:1003\n");
    CHECK_INT(s.o.ports, 4);
    for (size_t i = 0; i < 4; i++)
        CHECK_INT(s.o.port[i].port, 1000 + i);
    load(&s, "jim.port = 5\n"); /* another file begins a new list */
    CHECK(s.o.ports == 1 && s.o.port[0].port == 5);
    end(&s);
}

/* A line longer than any buffer, and bytes that are no text: no crash. */
TEST(conf_file_garbage)
{
    struct setup s;
    struct buf b = {0};
    char random[4000];

    for (int i = 0; i < 200; i++) {
        begin(&s);
        random_bytes(random, sizeof random);
        for (size_t k = 0; k < sizeof random; k += 40)
            memcpy(random + k, i % 2 ? "\njim.http.cors=\\u" : "\n jim.http.\\\n", i % 2 ? 17 : 12);
        load_n(&s, random, sizeof random);
        end(&s);
    }
    begin(&s);
    buf_str(&b, STR("jim.http.cors="));
    for (int i = 0; i < 100000; i++)
        buf_str(&b, STR("0123456789\\"));
    load_n(&s, b.p, b.len);
    CHECK(strncmp(s.o.http_cors, "0123456789", 10) == 0);
    buf_free(&b);
    end(&s);
}

static const char shipped[] =
    "# J-IM\n"
    "jim.bind.ip = 127.0.0.1\n"
    "jim.port = 8888\n"
    "#\xe5\xbf\x83\xe8\xb7\xb3, \xe6\xaf\xab\xe7\xa7\x92\n"
    "jim.heartbeat.timeout = 0\n"
    "jim.store = off\n"
    "jim.cluster = off\n"
    "jim.ssl = off\n"
    "jim.key.store.path = classpath:ssl/keystore.jks\n"
    "jim.key.store.pwd = 214323428310224\n"
    "jim.http.page = %s\n"
    "jim.http.scan.packages = org.jim.server.demo.ImServerDemoStart\n"
    "jim.http.max.live.time = 0\n"
    "jim.redis.retrynum = 100\n"
    "jim.redis.maxactive = -1\n"
    "jim.redis.maxidle = 20\n"
    "jim.redis.maxwait = 5000\n"
    "jim.redis.timeout = 2000\n"
    "jim.redis.host = 127.0.0.1\n"
    "jim.redis.port = 6379\n"
    "jim.redis.auth =\n";

TEST(conf_file_of_jim_java)
{
    static const char *const pages[] = {"pages", "classpath:page"};
    char text[2000];
    struct setup s;

    for (int i = 0; i < 2; i++) {
        begin(&s);
        snprintf(text, sizeof text, shipped, pages[i]);
        load(&s, text);
        CHECK(conf_check(&s.o, s.err, sizeof s.err) == 0);
        CHECK_BYTES(s.o.bind_ip, strlen(s.o.bind_ip), "127.0.0.1");
        CHECK(s.o.ports == 1 && s.o.port[0].port == 8888);
        CHECK_INT(s.o.heartbeat, 0);
        CHECK_INT(s.o.store, 0);
        CHECK_BYTES(s.o.http_page, strlen(s.o.http_page), i == 0 ? "pages" : "");
        /* one notice a key that has no effect, and no secret in it */
        size_t lines = 0;
        for (size_t k = 0; k < s.notices.len; k++)
            lines += s.notices.p[k] == '\n';
        CHECK_INT(lines, sizeof ignored / sizeof ignored[0] + 4 + (size_t)i); /* 4 of Redis */
        buf_add(&s.notices, "", 1);
        CHECK(strstr(s.notices.p, "214323428310224") == NULL);
        end(&s);
    }
}

/* --- the whole ------------------------------------------------------------------------------- */

static void
by_hand(struct jim *j, const char *key, const char *value)
{
    char err[256];

    if (jim_set(j, key, value, err, sizeof err) != 0)
        test_fail(__FILE__, __LINE__, "%s", err);
}

static void
by_file(struct jim *j, const char *text)
{
    char err[256];
    FILE *f = fopen("j.properties", "w");

    CHECK(f != NULL && fputs(text, f) >= 0 && fclose(f) == 0);
    if (jim_load(j, "j.properties", err, sizeof err) != 0)
        test_fail(__FILE__, __LINE__, "%s", err);
}

TEST(conf_command_line_wins)
{
    struct jim *j = jim_new();
    char err[256];

    by_hand(j, "jim.fetch.max", "11");
    by_hand(j, "jim.port", "1111");
    by_hand(j, "jim.http.cors", "*");
    by_file(j, "jim.fetch.max=22\njim.port=2222\njim.port=2223\njim.http.cors=none\n"
               "jim.rate.burst=33\n");
    CHECK_INT(j->opt.fetch_max, 11);
    CHECK(j->opt.ports == 1 && j->opt.port[0].port == 1111);
    CHECK(strcmp(j->opt.http_cors, "*") == 0);
    CHECK_INT(j->opt.burst, 33);
    by_hand(j, "jim.rate.burst", "44"); /* by hand afterwards wins too */
    CHECK_INT(j->opt.burst, 44);
    by_hand(j, "jim.fetch.max", "12"); /* and the last one by hand */
    CHECK_INT(j->opt.fetch_max, 12);
    CHECK(jim_set(j, "jim.nope", "1", err, sizeof err) != 0 && strstr(err, "jim.nope") != NULL);
    /* What the file says is checked even where it does not count. */
    FILE *f = fopen("j.properties", "w");
    CHECK(f != NULL && fputs("jim.fetch.max=none\n", f) >= 0 && fclose(f) == 0);
    CHECK(jim_load(j, "j.properties", err, sizeof err) != 0);
    jim_free(j);
}

TEST(conf_list_by_hand_twice)
{
    struct jim *j = jim_new();

    by_hand(j, "jim.port", "1111");
    by_hand(j, "jim.port", "2222/ws");
    by_hand(j, "jim.port", "3333,4444");
    CHECK_INT(j->opt.ports, 4);
    for (size_t i = 0; i < 4; i++)
        CHECK_INT(j->opt.port[i].port, 1111 * (i + 1));
    jim_free(j);
}

TEST(conf_list_by_hand_after_file)
{
    struct jim *j = jim_new();

    by_file(j, "jim.port=1,2\n");
    by_hand(j, "jim.port", "3");
    CHECK(j->opt.ports == 1 && j->opt.port[0].port == 3);
    jim_free(j);
}

TEST(conf_login_groups)
{
    static const struct {
        const char *list, *want;
    } cases[] = {
        {"100:J-IM朋友圈", "<100|J-IM朋友圈>"},
        {"", ""},
        {" , ,", ""},
        {"a", "<a|a>"},
        {"a:x,b", "<a|x><b|b>"},
        {" a:x , b:y ", "<a|x><b|y>"},
        {",,a:1,,b:2,", "<a|1><b|2>"},
        {"a:b:c", "<a|b:c>"},
        {"a:two words", "<a|two words>"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct buf got = {0};
        struct str id, name;
        size_t n = 0;
        for (; conf_login_group(cases[i].list, n, &id, &name); n++)
            buf_printf(&got, "<%.*s|%.*s>", (int)id.n, id.p, (int)name.n, name.p);
        CHECK_BYTES(got.p, got.len, cases[i].want);
        CHECK(!conf_login_group(cases[i].list, n + 1, &id, &name));
        buf_free(&got);
    }
}

TEST(conf_check_address)
{
    static const struct {
        const char *ip;
        bool inside;
    } cases[] = {
        {"127.0.0.1", true}, {"127.9.8.7", true}, {"::1", true}, {"localhost", true},
        {"0.0.0.0", false}, {"::", false}, {"", false}, {"192.168.1.5", false},
        {"example.org", false}, {"12.0.0.1", false}, {"::2", false},
    };
    struct setup s;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        begin(&s);
        CHECK(set(&s, "jim.bind.ip", cases[i].ip) == 0);
        if ((conf_check(&s.o, s.err, sizeof s.err) == 0) != cases[i].inside)
            test_fail(__FILE__, __LINE__, "'%s'", cases[i].ip);
        if (!cases[i].inside)
            CHECK(strstr(s.err, "jim.auth") != NULL);
        CHECK(set(&s, "jim.auth", "open") == 0); /* somebody has said that he means it */
        CHECK(conf_check(&s.o, s.err, sizeof s.err) == 0);
        end(&s);
    }
    begin(&s);
    load(&s, "jim.bind.ip = 0.0.0.0\njim.auth = open\n");
    CHECK(conf_check(&s.o, s.err, sizeof s.err) == 0);
    end(&s);
}

TEST(conf_check_sizes)
{
    struct setup s;

    begin(&s);
    CHECK(set(&s, "jim.message.max", "2m") == 0 && set(&s, "jim.frame.max", "1m") == 0);
    CHECK(conf_check(&s.o, s.err, sizeof s.err) != 0);
    CHECK(strstr(s.err, "jim.frame.max") != NULL && strstr(s.err, "jim.message.max") != NULL);
    CHECK(set(&s, "jim.frame.max", "4m") == 0);
    CHECK(conf_check(&s.o, s.err, sizeof s.err) == 0);
    end(&s);
}

TEST(conf_check_login_groups)
{
    static const char *const bad[] = {
        ":name", "a:x,:y", "a\tb", "a\x01",
        "01234567890123456789012345678901234567890123456789012345678901234:x", /* 65 bytes */
    };
    struct setup s;

    begin(&s);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK(set(&s, "jim.login.groups", bad[i]) == 0);
        if (conf_check(&s.o, s.err, sizeof s.err) == 0)
            test_fail(__FILE__, __LINE__, "'%s' is accepted", bad[i]);
        CHECK(strstr(s.err, "jim.login.groups") != NULL);
    }
    CHECK(set(&s, "jim.login.groups", "") == 0);
    CHECK(conf_check(&s.o, s.err, sizeof s.err) == 0);
    end(&s);
}

/* A file in GBK: its names would go out in answers that must be UTF-8. */
TEST(conf_names_are_utf8)
{
    struct setup s;
    uint32_t state = 0;

    begin(&s);
    static const char gbk[] = "jim.login.groups = 100:\xc5\xf3\xd3\xd1\xc8\xa6\n";
    if (load_n(&s, gbk, sizeof gbk - 1) == 0 && conf_check(&s.o, s.err, sizeof s.err) == 0)
        CHECK(utf8_check(&state, s.o.login_groups, strlen(s.o.login_groups)) && state == 0);
    end(&s);
}

TEST(conf_copy_live)
{
    struct setup from, to;

    begin(&from);
    for (size_t i = 0; i < KEYS; i++)
        CHECK(set(&from, keys[i].key, keys[i].other) == 0);
    CHECK(set(&from, "jim.port", "1,2,3") == 0);
    begin(&to);
    conf_copy_live(&to.o, &from.o, NULL);
    for (size_t i = 0; i < KEYS; i++)
        check_value(&to.o, &keys[i], keys[i].live);
    CHECK(to.o.ports == 1 && to.o.port[0].port == 8888);
    end(&to);
    for (size_t keep = 0; keep < KEYS; keep++) { /* each key held back in turn */
        struct option_set one = {0};
        begin(&to);
        conf_note(&one, keys[keep].key);
        conf_copy_live(&to.o, &from.o, &one);
        for (size_t i = 0; i < KEYS; i++)
            check_value(&to.o, &keys[i], keys[i].live && i != keep);
        end(&to);
    }
    begin(&to);
    conf_copy_live(&to.o, &from.o, &(struct option_set){{UINT64_MAX, UINT64_MAX}});
    for (size_t i = 0; i < KEYS; i++)
        check_value(&to.o, &keys[i], false);
    conf_copy_live(&to.o, &from.o, NULL);
    end(&from); /* each owns its own strings */
    for (size_t i = 0; i < KEYS; i++)
        check_value(&to.o, &keys[i], keys[i].live);
    end(&to);
}

/* A reload reads the file on top of the defaults: a line taken out of it is a default again. */
TEST(conf_reload)
{
    struct jim *j = jim_new();
    struct setup fresh;

    by_hand(j, "jim.fetch.max", "11");
    by_file(j, "jim.fetch.max=22\njim.rate.burst=33\njim.store.dir=/a\n");
    begin(&fresh);
    load(&fresh, "jim.fetch.max=44\njim.group.list.max=55\njim.store.dir=/b\n");
    conf_copy_live(&j->opt, &fresh.o, &j->by_hand);
    end(&fresh);
    CHECK_INT(j->opt.fetch_max, 11);
    CHECK_INT(j->opt.burst, 400);
    CHECK_INT(j->opt.list_max, 55);
    CHECK(strcmp(j->opt.store_dir, "/a") == 0);
    jim_free(j);
}

/* --- documents ------------------------------------------------------------------------------- */

/* A file of the source tree without the backslashes of roff (`\-`, `\&`). */
static char *
read_document(const char *name)
{
    char path[600];
    struct buf b = {0};
    int c;

    snprintf(path, sizeof path, "%s/%s", test_source(), name);
    FILE *f = fopen(path, "r");
    if (f == NULL)
        test_fail(__FILE__, __LINE__, "%s is missing", path);
    while ((c = getc(f)) != EOF) {
        char byte = (char)c;
        if (byte == '\\') {
            c = getc(f);
            if (c == '&' || c == EOF)
                continue;
            byte = (char)c;
        }
        if (byte != '\0')
            buf_add(&b, &byte, 1);
    }
    fclose(f);
    buf_add(&b, "", 1);
    return b.p;
}

static bool
is_word(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

/* `word` in p[0, n), not as a part of a longer one. */
static const char *
find_word(const char *p, size_t n, const char *word)
{
    size_t len = strlen(word);

    for (size_t i = 0; i + len <= n; i++)
        if (memcmp(p + i, word, len) == 0 && !is_word(p[i + len]) &&
            (i == 0 || (!is_word(p[i - 1]) && (p[i - 1] != '.' || word[0] == '.'))))
            return p + i;
    return NULL;
}

/* Is there a place that names the key, and its default before it names another key? */
static bool
documented(const char *text, const char *key, const char *value)
{
    size_t len = strlen(key);

    for (const char *at = text; (at = strstr(at, key)) != NULL;) {
        at += len;
        if (is_word(*at) || (*at == '.' && is_word(at[1])))
            continue; /* a longer key */
        const char *next = strstr(at, "jim.");
        while (next != NULL && strncmp(next, "jim.8", 5) == 0)
            next = strstr(next + 1, "jim.");
        size_t n = next != NULL ? (size_t)(next - at) : strlen(at);
        if (value[0] == '\0' || find_word(at, n < 800 ? n : 800, value) != NULL)
            return true;
    }
    return false;
}

TEST(conf_documented)
{
    static const char *const documents[] = {"jim.8", "README.md", "README.zh-CN.md"};
    char *help = help_text(), value[64];
    int missing = 0;
    bool live;

    for (size_t d = 0; d < sizeof documents / sizeof documents[0]; d++) {
        char *text = read_document(documents[d]);
        struct str rest = str_of(help), line;
        while (str_split(&rest, '\n', &line)) {
            char key[64];
            if (line.n == 0 || sscanf(line.p, " %63s", key) != 1)
                continue;
            CHECK(help_default(help, key, value, &live));
            if (!documented(text, key, value)) {
                printf("%s lacks %s with its default '%s'\n", documents[d], key, value);
                missing++;
            }
        }
        free(text);
    }
    free(help);
    CHECK_INT(missing, 0);
}

/* contrib/jim.properties, which is installed: every key as a comment at its default. */
TEST(conf_sample_file)
{
    char *help = help_text(), *text = read_document("contrib/jim.properties");
    char key[64], value[64], want[160];
    struct str rest = str_of(help), line;
    int missing = 0;
    bool live;

    while (str_split(&rest, '\n', &line)) {
        if (line.n == 0 || sscanf(line.p, " %63s", key) != 1)
            continue;
        CHECK(help_default(help, key, value, &live));
        snprintf(want, sizeof want, "\n#%s=%s\n", key, value);
        if (strstr(text, want) == NULL) {
            printf("contrib/jim.properties lacks the line #%s=%s\n", key, value);
            missing++;
        }
    }
    free(text);
    free(help);
    CHECK_INT(missing, 0);
}
