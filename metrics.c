/* SPDX-License-Identifier: MIT */
/*
 * metrics.c - the server in numbers: /api/stats as JSON, /metrics for Prometheus, /healthz.
 *
 *   numbers     one table: what each is called in JSON and in Prometheus, and where it stands
 *   /api/stats
 *   /metrics    text format 0.0.4
 *   /healthz
 *
 * Numbers are counted where things happen, in struct stats; asking for them costs as much as there
 * are numbers, however many connections there are.
 */
#include "jim.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/* --- numbers ---------------------------------------------------------------------------------- */

#define UNKNOWN UINT64_MAX /* this system does not say */

struct snapshot { /* all there is to tell, at one moment */
    struct stats s;
    struct store_stats store;
    uint64_t connections, online, users, conversations, groups, held, fanouts;
    uint64_t uptime_ms, start_ms, failed;
    uint64_t cpu_us, rss, max_fds;
};

enum kind { COUNTER, GAUGE };
enum unit { ONE, MS, US }; /* times are seconds in Prometheus */

struct metric {
    const char *stat;   /* key in /api/stats; NULL: not there */
    const char *family; /* name in /metrics; NULL: not there; rows of one follow one another */
    const char *label;  /* "" or as it is printed, without braces */
    const char *help;
    uint8_t kind, unit;
    size_t at;          /* of its uint64_t in struct snapshot */
};

#define AT(member) offsetof(struct snapshot, member)

/* The rows of a family share its help and kind. */
#define OPEN "jim_connections", "Connections open now, by the protocol they speak.", GAUGE
#define SEEN "jim_protocol_connections_total", \
             "Connections that came to speak a protocol; a WebSocket was HTTP before.", COUNTER
#define DROP "jim_drops_total", "Connections the server closed, by reason.", COUNTER
#define HTTP "jim_http_responses_total", "HTTP responses, by class of status.", COUNTER

#define ROW(stat, family, help, kind, member) {stat, family, "", help, kind, ONE, AT(member)}
#define FAMILY(stat, label, family, member) FAMILY_(stat, label, member, family)
#define FAMILY_(stat, label, member, name, help, kind) \
    {stat, name, label, help, kind, ONE, AT(member)}
#define REFUSED(code, number) \
    {"refused" #number, "jim_messages_refused_total", "code=\"" #number "\"", \
     "Messages refused, by code.", COUNTER, ONE, AT(s.refused_sends[code - CODE_SENT])}

static const struct metric metrics[] = {
    ROW("connections", NULL, NULL, GAUGE, connections),
    FAMILY("openNone", "protocol=\"none\"", OPEN, s.open[PROTO_NONE]),
    FAMILY("openTcp", "protocol=\"tcp\"", OPEN, s.open[PROTO_TCP]),
    FAMILY("openWs", "protocol=\"ws\"", OPEN, s.open[PROTO_WS]),
    FAMILY("openHttp", "protocol=\"http\"", OPEN, s.open[PROTO_HTTP]),
    FAMILY("tcp", "protocol=\"tcp\"", SEEN, s.proto[PROTO_TCP]),
    FAMILY("ws", "protocol=\"ws\"", SEEN, s.proto[PROTO_WS]),
    FAMILY("http", "protocol=\"http\"", SEEN, s.proto[PROTO_HTTP]),
    ROW("accepted", "jim_connections_accepted_total", "Connections accepted.", COUNTER, s.accepted),
    ROW("refused", "jim_connections_refused_total",
        "Connections refused by a limit on their number.", COUNTER, s.refused),
    ROW("refusedMax", NULL, NULL, COUNTER, s.refused_max),
    ROW("refusedIp", NULL, NULL, COUNTER, s.refused_ip),
    ROW("refusedMemory", NULL, NULL, COUNTER, s.refused_memory),
    ROW("pressed", "jim_memory_refusals_total",
        "Requests refused and connections closed because memory was short.", COUNTER, s.pressed),
    ROW("closed", "jim_connections_closed_total", "Connections that have ended.", COUNTER,
        s.closed),
    FAMILY("overflows", "reason=\"unread\"", DROP, s.drops[DROP_UNREAD]),
    FAMILY("dropsDetect", "reason=\"detect\"", DROP, s.drops[DROP_DETECT]),
    FAMILY("dropsLogin", "reason=\"login\"", DROP, s.drops[DROP_LOGIN]),
    FAMILY("dropsIdle", "reason=\"idle\"", DROP, s.drops[DROP_IDLE]),
    FAMILY("dropsSilent", "reason=\"silent\"", DROP, s.drops[DROP_SILENT]),
    FAMILY("dropsProtocol", "reason=\"protocol\"", DROP, s.drops[DROP_PROTOCOL]),
    FAMILY("dropsDisplaced", "reason=\"displaced\"", DROP, s.drops[DROP_DISPLACED]),
    ROW("tls", "jim_tls_handshakes_total", "TLS handshakes completed.", COUNTER, s.tls),
    ROW("tlsResumed", "jim_tls_resumptions_total",
        "TLS handshakes that went on with an earlier session.", COUNTER, s.tls_resumed),
    ROW("tlsFailed", "jim_tls_failures_total", "TLS handshakes that failed.", COUNTER,
        s.tls_failed),
    ROW("online", "jim_users_online", "Users with a connection.", GAUGE, online),
    ROW("users", "jim_users_known", "Users who have ever logged in.", GAUGE, users),
    ROW("conversations", "jim_conversations",
        "Pairs of users and groups, also groups that are gone.", GAUGE, conversations),
    ROW("groups", "jim_groups", "Groups.", GAUGE, groups),
    ROW("logins", "jim_logins_total", "Logins.", COUNTER, s.logins),
    ROW("loginFailures", "jim_login_failures_total", "Logins refused.", COUNTER, s.login_failures),
    ROW("loginsLater", "jim_logins_undecided_total", "Logins that could not be decided.", COUNTER,
        s.logins_later),
    ROW("requests", "jim_requests_total", "Commands and HTTP requests.", COUNTER, s.requests),
    ROW("messages", "jim_messages_total", "Messages accepted and as safe as jim.store.sync says.",
        COUNTER, s.messages),
    ROW("delivered", "jim_messages_delivered_total",
        "Messages written to a connection of a receiver, whole.", COUNTER, s.delivered),
    REFUSED(CODE_SEND_FAILED, 10002),
    REFUSED(CODE_NOT_LOGGED_IN, 10022),
    REFUSED(CODE_RATE, 10023),
    REFUSED(CODE_FORBIDDEN, 10024),
    REFUSED(CODE_TOO_LARGE, 10025),
    REFUSED(CODE_STORE, 10027),
    REFUSED(CODE_STOPPING, 10028),
    REFUSED(CODE_NO_GROUP, 10030),
    ROW("retries", "jim_message_retries_total", "Messages recognised as sent before.", COUNTER,
        s.retries),
    ROW("broadcasts", "jim_broadcasts_total", "Broadcasts begun.", COUNTER, s.broadcasts),
    ROW("encoded", "jim_frames_encoded_total", "Frames encoded: one a message and wire format.",
        COUNTER, s.encoded),
    ROW("lags", "jim_lags_total",
        "Times a slow reader's messages were left to come from the store.", COUNTER, s.lags),
    ROW("queued", "jim_queued_bytes", "Bytes that wait for sockets.", GAUGE, s.queued),
    ROW("held", "jim_held_bytes", "Bytes of connections, queues and messages.", GAUGE, held),
    ROW("fanouts", "jim_fanouts", "Messages to large groups on their way.", GAUGE, fanouts),
    ROW("bytesIn", "jim_received_bytes_total", "Bytes read from sockets.", COUNTER, s.bytes_in),
    ROW("bytesOut", "jim_sent_bytes_total", "Bytes written to sockets.", COUNTER, s.bytes_out),
    ROW("reads", "jim_socket_reads_total", "Calls of read on sockets.", COUNTER, s.reads),
    ROW("writes", "jim_socket_writes_total", "Calls of write and writev on sockets.", COUNTER,
        s.writes),
    ROW("turns", "jim_loop_turns_total", "Waits of the event loop.", COUNTER, s.turns),
    FAMILY("http1xx", "status=\"1xx\"", HTTP, s.http_status[1]),
    FAMILY("http2xx", "status=\"2xx\"", HTTP, s.http_status[2]),
    FAMILY("http3xx", "status=\"3xx\"", HTTP, s.http_status[3]),
    FAMILY("http4xx", "status=\"4xx\"", HTTP, s.http_status[4]),
    FAMILY("http5xx", "status=\"5xx\"", HTTP, s.http_status[5]),
    ROW("storeFailed", "jim_store_failed", "1: a sync failed, and nothing is kept until a restart.",
        GAUGE, failed),
    ROW("storeAppended", "jim_store_records_appended_total", "Records handed to the store.",
        COUNTER, store.appended),
    ROW("storeDurable", "jim_store_records_durable_total",
        "Records that became as safe as jim.store.sync says.", COUNTER, store.durable),
    ROW("storeBatches", "jim_store_batches_total", "Batches written: one write, at most one sync.",
        COUNTER, store.batches),
    ROW("storeLost", "jim_store_batches_lost_total", "Batches that could not be written.", COUNTER,
        store.lost),
    ROW("storeBytes", "jim_store_written_bytes_total", "Bytes of these batches.", COUNTER,
        store.bytes),
    ROW("storeSegments", "jim_store_segments", "Files of the log.", GAUGE, store.segments),
    ROW("storeSize", "jim_store_size_bytes", "Bytes of these files.", GAUGE, store.size),
    {"uptimeMs", "jim_uptime_seconds", "", "Time since the start.", GAUGE, MS, AT(uptime_ms)},
    {NULL, "process_start_time_seconds", "", "Start, in seconds since 1970.", GAUGE, MS,
     AT(start_ms)},
    {"cpuUs", "process_cpu_seconds_total", "", "CPU time of all threads, user and system.", COUNTER,
     US, AT(cpu_us)},
    ROW("rss", "process_resident_memory_bytes", "Memory resident.", GAUGE, rss),
    ROW(NULL, "process_max_fds", "Descriptors the process may have.", GAUGE, max_fds),
};
#define METRICS (sizeof metrics / sizeof metrics[0])

static void
snapshot_take(const struct jim *j, struct snapshot *t)
{
    struct rusage usage = {0};
    struct rlimit files;

    t->s = j->stats;
    store_stats(j->store, &t->store);
    t->connections = j->conns;
    t->online = j->chat.roster.nonline;
    t->users = j->cluster != NULL ? t->online : j->chat.roster.nusers; /* a node knows its own */
    t->conversations = j->chat.roster.convs.count;
    t->groups = j->chat.roster.ngroups;
    t->uptime_ms = (uint64_t)(loop_now(j->loop) - j->started_ms);
    t->start_ms = (uint64_t)j->start_ms;
    t->failed = store_failed(j->store);
    getrusage(RUSAGE_SELF, &usage);
    t->cpu_us = (uint64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000 +
                (uint64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
    t->rss = memory_resident(j) > 0 ? memory_resident(j) : UNKNOWN;
    t->held = j->bounds.held;
    t->fanouts = j->chat.wave_n;
    t->max_fds = getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur != RLIM_INFINITY
                     ? (uint64_t)files.rlim_cur : UNKNOWN;
}

static uint64_t
value_of(const struct snapshot *t, const struct metric *m)
{
    uint64_t v;

    memcpy(&v, (const char *)t + m->at, sizeof v);
    return v;
}

/* What is a word rather than a number. */
static const char *
store_state(const struct store *s)
{
    return !store_keeps(s) ? "off" : store_failed(s) ? "failed" : "on";
}

static const char *
sync_policy(const struct options *o)
{
    return o->store_sync == STORE_GROUP ? "group" : o->store_sync == STORE_OFF ? "off" : "timed";
}

/* --- /api/stats ------------------------------------------------------------------------------- */

struct member_text {
    const char *key;
    const char *word; /* NULL: the number */
    uint64_t n;
};

static int
by_key(const void *a, const void *b)
{
    return strcmp(((const struct member_text *)a)->key, ((const struct member_text *)b)->key);
}

void
route_stats(struct call *k)
{
    const struct jim *j = k->c->jim;
    struct snapshot t;
    struct member_text out[METRICS + 4] = {{"backend", loop_backend(), 0},
                                           {"store", store_state(j->store), 0},
                                           {"sync", sync_policy(&j->opt), 0},
                                           {"version", JIM_VERSION, 0}};
    size_t n = 4;
    struct buf b = {0};

    snapshot_take(j, &t);
    for (const struct metric *m = metrics; m < metrics + METRICS; m++)
        if (m->stat != NULL && value_of(&t, m) != UNKNOWN)
            out[n++] = (struct member_text){m->stat, NULL, value_of(&t, m)};
    qsort(out, n, sizeof out[0], by_key);
    buf_add(&b, "{", 1);
    for (size_t i = 0; i < n; i++) {
        if (out[i].word != NULL) {
            put_text(&b, out[i].key, str_of(out[i].word));
            continue;
        }
        json_put_key(&b, out[i].key);
        json_put_int(&b, (int64_t)out[i].n);
    }
    buf_add(&b, "}", 1);
    call_json(k, 200, &b);
}

/* --- /metrics --------------------------------------------------------------------------------- */

/* Microseconds as seconds, without zeros at the end. */
static void
put_seconds(struct buf *b, uint64_t us)
{
    char text[40];
    int n = snprintf(text, sizeof text, "%" PRIu64 ".%06" PRIu64, us / 1000000, us % 1000000);

    while (text[n - 1] == '0')
        n--;
    if (text[n - 1] == '.')
        n--;
    buf_add(b, text, (size_t)n);
}

static void
put_head(struct buf *b, const char *family, const char *help, const char *type)
{
    buf_printf(b, "# HELP %s %s\n# TYPE %s %s\n", family, help, family, type);
}

static void
put_metric(struct buf *b, const struct metric *m, uint64_t v)
{
    if (m->label[0] != '\0')
        buf_printf(b, "%s{%s} ", m->family, m->label);
    else
        buf_printf(b, "%s ", m->family);
    if (m->unit == ONE)
        buf_printf(b, "%" PRIu64, v);
    else
        put_seconds(b, m->unit == MS ? v * 1000 : v);
    buf_add(b, "\n", 1);
}

static void
put_histogram(struct buf *b, const struct store_stats *s)
{
    static const char name[] = "jim_store_wait_seconds";
    uint64_t count = 0;

    put_head(b, name, "Time from the append of a batch's oldest record until it was safe.",
             "histogram");
    for (int i = 0; i <= STORE_BOUNDS; i++) {
        count += s->within[i];
        buf_printf(b, "%s_bucket{le=\"", name);
        if (i < STORE_BOUNDS)
            put_seconds(b, (uint64_t)store_bounds_us[i]);
        else
            buf_printf(b, "+Inf");
        buf_printf(b, "\"} %" PRIu64 "\n", count);
    }
    buf_printf(b, "%s_sum ", name);
    put_seconds(b, s->waited_us);
    buf_printf(b, "\n%s_count %" PRIu64 "\n", name, count);
}

void
route_metrics(struct call *k)
{
    const struct jim *j = k->c->jim;
    const char *family = "";
    struct snapshot t;
    struct buf b = {0};

    snapshot_take(j, &t);
    put_head(&b, "jim_info", "What is running.", "gauge");
    buf_printf(&b, "jim_info{backend=\"%s\",store=\"%s\",sync=\"%s\",version=\"%s\"} 1\n",
               loop_backend(), store_state(j->store), sync_policy(&j->opt), JIM_VERSION);
    for (const struct metric *m = metrics; m < metrics + METRICS; m++) {
        if (m->family == NULL || value_of(&t, m) == UNKNOWN)
            continue;
        if (strcmp(m->family, family) != 0)
            put_head(&b, m->family, m->help, m->kind == COUNTER ? "counter" : "gauge");
        family = m->family;
        put_metric(&b, m, value_of(&t, m));
    }
    put_histogram(&b, &t.store);
    if (j->cluster != NULL)
        cluster_metrics(j->cluster, &b);
    http_respond(k->c, 200, "text/plain; version=0.0.4; charset=utf-8",
                 (struct str){k->extra.p, k->extra.len}, (struct str){b.p, b.len});
    buf_free(&b);
}

/* --- /healthz --------------------------------------------------------------------------------- */

void
route_health(struct call *k)
{
    struct buf b = {0};
    bool ok = !store_failed(k->chat->store) && !k->c->jim->draining &&
              (k->chat->cluster == NULL || cluster_up(k->chat->cluster));

    buf_printf(&b, "{\"status\":\"%s\"}", ok ? "ok" : "unavailable");
    call_json(k, ok ? 200 : 503, &b);
}
