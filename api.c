/* SPDX-License-Identifier: MIT */
/*
 * api.c - HTTP: the API's routes as a table, who may call them, and the static files of the page.
 * Gets whole requests from jim.c and answers through conn_reply(); the chat behind the routes is
 * chat.c's.
 *
 *   responses   status line, head, body
 *   access      key, loopback, origins
 *   parameters  query, form and JSON body made into one struct request
 *   routes      one function each, and the table
 *   files       built-in page or a directory; no path leaves it
 *   requests    what comes from and goes to jim.c
 */
#include "jim.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "page.inc"

/* --- responses -------------------------------------------------------------------------------- */

static const char *
status_text(int status)
{
    static const struct {
        int status;
        const char *text;
    } texts[] = {{200, "OK"}, {204, "No Content"}, {301, "Moved Permanently"},
                 {304, "Not Modified"}, {400, "Bad Request"}, {401, "Unauthorized"},
                 {403, "Forbidden"}, {404, "Not Found"}, {405, "Method Not Allowed"},
                 {413, "Content Too Large"}, {426, "Upgrade Required"},
                 {429, "Too Many Requests"}, {431, "Request Header Fields Too Large"},
                 {500, "Internal Server Error"}, {501, "Not Implemented"},
                 {503, "Service Unavailable"}, {505, "HTTP Version Not Supported"}};

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        if (texts[i].status == status)
            return texts[i].text;
    return "Error";
}

/* RFC 9110 section 5.6.7, without the locale's say. */
static void
put_date(struct buf *b, const char *name, time_t t)
{
    static const char days[7][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static const char months[12][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                       "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    struct tm tm;

    gmtime_r(&t, &tm);
    buf_printf(b, "%s: %s, %02d %s %d %02d:%02d:%02d GMT\r\n", name, days[tm.tm_wday], tm.tm_mday,
               months[tm.tm_mon], tm.tm_year + 1900, tm.tm_hour, tm.tm_min, tm.tm_sec);
}

/* `extra`: more header lines, each with its CRLF. */
static void
put_head(struct conn *c, struct buf *b, int status, const char *type, uint64_t length,
         struct str extra)
{
    buf_printf(b, "HTTP/1.1 %d %s\r\nserver: jim/" JIM_VERSION "\r\n", status, status_text(status));
    put_date(b, "date", (time_t)(c->jim->chat.now_ms() / 1000));
    if (status != 204 && status != 304)
        buf_printf(b, "content-type: %s\r\ncontent-length: %llu\r\n", type,
                   (unsigned long long)length);
    buf_printf(b, "x-content-type-options: nosniff\r\nconnection: %s\r\n",
               c->keep_alive ? "keep-alive" : "close");
    buf_str(b, extra);
    buf_add(b, "\r\n", 2);
}

static void
respond_end(struct conn *c)
{
    c->busy = false;
    if (!c->keep_alive)
        conn_finish(c, WS_NORMAL);
}

static void
respond(struct conn *c, int status, const char *type, struct str extra, struct str body)
{
    struct buf b = {0};

    put_head(c, &b, status, type, body.n, extra);
    if (!c->head_only && status != 204 && status != 304)
        buf_str(&b, body);
    conn_reply(c, 0, 0, b.p, b.len);
    buf_free(&b);
    respond_end(c);
}

#define JSON_TYPE "application/json; charset=utf-8"

/* One API request on its way. */
struct call {
    struct conn *c;
    struct chat *chat;
    const struct http_req *http;
    struct str body;
    struct buf params;  /* JSON made of query and form; owned */
    struct request r;   /* all parameters */
    struct buf extra;   /* header lines for the answer (CORS); owned */
};

static void
answer_json(struct call *k, int status, struct buf *json)
{
    respond(k->c, status, JSON_TYPE, (struct str){k->extra.p, k->extra.len},
            (struct str){json->p, json->len});
    buf_free(json);
}

/* {"code":…,"msg":…} with the status that goes with the code. */
static int
status_of(int code)
{
    switch (code) {
    case CODE_SEND_FAILED:
    case CODE_MESSAGES_FAILED:
    case CODE_INVALID:
        return 400;
    case CODE_USER_FAILED:
    case CODE_NO_GROUP:
        return 404;
    case CODE_NOT_LOGGED_IN:
        return 401;
    case CODE_RATE:
        return 429;
    case CODE_FORBIDDEN:
        return 403;
    case CODE_TOO_LARGE:
        return 413;
    case CODE_STORE:
    case CODE_STOPPING:
        return 503;
    default:
        return 200;
    }
}

/* command: as J-IM has it, 0: none. */
static void
call_code(struct call *k, int code, int command)
{
    struct buf b = {0};

    buf_add(&b, "{", 1);
    json_put_key(&b, "code");
    json_put_int(&b, code);
    if (command != 0) {
        json_put_key(&b, "command");
        json_put_int(&b, command);
    }
    put_msg(&b, code);
    buf_add(&b, "}", 1);
    answer_json(k, status_of(code), &b);
}

/* An error of HTTP rather than of chat: its code is the status. */
static void
answer_status(struct conn *c, int status, struct str extra)
{
    struct buf b = {0};

    buf_printf(&b, "{\"code\":%d,\"msg\":\"%s\"}", status, status_text(status));
    respond(c, status, JSON_TYPE, extra, (struct str){b.p, b.len});
    buf_free(&b);
}

/* --- access ----------------------------------------------------------------------------------- */

/* `scheme://host:port` without the scheme; empty for "null" and what else is none. */
static struct str
origin_host(struct str origin)
{
    for (size_t i = 0; i + 2 < origin.n; i++)
        if (memcmp(origin.p + i, "://", 3) == 0)
            return (struct str){origin.p + i + 3, origin.n - i - 3};
    return (struct str){NULL, 0};
}

static struct str
without_port(struct str host)
{
    size_t n = host.n;

    while (n > 0 && host.p[n - 1] >= '0' && host.p[n - 1] <= '9')
        n--;
    if (n > 0 && n < host.n && host.p[n - 1] == ':')
        host.n = n - 1;
    return host;
}

/* localhost, 127.x.x.x or [::1]: names no foreign DNS can point here. */
static bool
host_is_loopback(struct str host)
{
    host = without_port(host);
    if (str_ieq(host, STR("localhost")) || str_eq(host, STR("[::1]")))
        return true;
    if (host.n < 9 || memcmp(host.p, "127.", 4) != 0)
        return false;
    for (size_t i = 0; i < host.n; i++)
        if (host.p[i] != '.' && (host.p[i] < '0' || host.p[i] > '9'))
            return false;
    return true;
}

static bool
origin_is_own(const struct http_req *r)
{
    struct str origin = r->header[HTTP_ORIGIN];

    return origin.p == NULL || (r->header[HTTP_HOST].n > 0 &&
                                str_ieq(origin_host(origin), r->header[HTTP_HOST]));
}

static bool
origin_listed(const char *list, struct str origin)
{
    struct str rest = str_of(list), part;

    if (str_eq(rest, STR("*")))
        return true;
    while (str_split(&rest, ',', &part))
        if (str_ieq(str_trim(part), origin))
            return true;
    return false;
}

int
api_upgrade_status(const struct conn *c, const struct http_req *r)
{
    const struct options *o = &c->jim->opt;
    struct str origin = r->header[HTTP_ORIGIN];

    if (!(c->protos & PROTO_BIT(PROTO_WS)))
        return 404;
    if (!str_eq(r->header[HTTP_WS_VERSION], STR("13")))
        return 426;
    if (!str_eq(r->method, STR("GET")) || !r->http11)
        return 400;
    if (strcmp(o->ws_origins, "same") != 0)
        return origin.p == NULL || origin_listed(o->ws_origins, origin) ? 0 : 403;
    return origin_is_own(r) || host_is_loopback(origin_host(origin)) ? 0 : 403;
}

/* 0, or the status that refuses the call. */
static int
access_status(const struct call *k)
{
    const char *key = k->c->jim->opt.api_key;
    struct str auth = k->http->header[HTTP_AUTHORIZATION];

    if (key[0] != '\0') {
        if (auth.n < 7 || !str_ieq((struct str){auth.p, 7}, STR("Bearer ")))
            return 401;
        return str_eq_secret(str_trim((struct str){auth.p + 7, auth.n - 7}), str_of(key)) ? 0 : 401;
    }
    /* Without a key the address is the proof, and a web page of this machine's browser has it
     * too: so no foreign Origin, and no foreign name that resolves to this host. */
    if (!k->c->loopback || !origin_is_own(k->http))
        return 403;
    return k->http->header[HTTP_HOST].p == NULL || host_is_loopback(k->http->header[HTTP_HOST])
               ? 0 : 403;
}

static void
put_cors(struct call *k, bool preflight)
{
    const char *list = k->c->jim->opt.http_cors;
    struct str origin = k->http->header[HTTP_ORIGIN];

    if (strcmp(list, "none") == 0 || origin.p == NULL)
        return;
    buf_printf(&k->extra, "vary: origin\r\n");
    if (!origin_listed(list, origin))
        return;
    buf_printf(&k->extra, "access-control-allow-origin: %.*s\r\n", (int)origin.n, origin.p);
    if (preflight)
        buf_printf(&k->extra,
                   "access-control-allow-methods: GET, POST, OPTIONS\r\n"
                   "access-control-allow-headers: authorization, content-type\r\n"
                   "access-control-max-age: 600\r\n");
}

/* --- parameters ------------------------------------------------------------------------------- */

/* Add `a=b&c=d` to a JSON object; false when something is not percent-encoded UTF-8. */
static bool
add_pairs(struct buf *json, struct str pairs)
{
    struct str name, value;
    bool ok = true;

    while (ok && query_next(&pairs, &name, &value)) {
        char *text = xmalloc(name.n + value.n + 1);
        uint32_t state = 0;
        ptrdiff_t n = url_decode(text, name, true);
        ptrdiff_t v = n < 0 ? -1 : url_decode(text + n, value, true);
        ok = v >= 0 && utf8_check(&state, text, (size_t)n) && state == 0 &&
             utf8_check(&state, text + n, (size_t)v) && state == 0;
        if (ok && n > 0) {
            json_put_comma(json);
            json_put_string(json, text, (size_t)n);
            buf_add(json, ":", 1);
            json_put_string(json, text + n, (size_t)v);
        }
        free(text);
    }
    return ok;
}

/* Query, form and JSON body into k->r; what the body says wins. False: it cannot be understood. */
static bool
parse_params(struct call *k)
{
    struct str type = k->http->header[HTTP_CONTENT_TYPE], kind;
    struct request body;
    bool form;

    if (!str_split(&type, ';', &kind))
        kind = STR("");
    /* Clients that name no type (`curl -d`) are said to send a form; a brace says what it is. */
    form = str_ieq(str_trim(kind), STR("application/x-www-form-urlencoded")) &&
           (k->body.n == 0 || str_trim(k->body).p[0] != '{');
    buf_add(&k->params, "{", 1);
    if (!add_pairs(&k->params, k->http->query) || (form && !add_pairs(&k->params, k->body)))
        return false;
    buf_add(&k->params, "}", 1);
    if (!request_parse(&k->r, (struct str){k->params.p, k->params.len}))
        return false;
    if (form || k->body.n == 0)
        return true;
    if (!request_parse(&body, k->body))
        return false;
    for (int f = 0; f < FIELDS; f++)
        if (body.f[f].type != JSON_NONE)
            k->r.f[f] = body.f[f];
    return true;
}

/* --- routes ----------------------------------------------------------------------------------- */

static void
route_send(struct call *k)
{
    int code = CODE_SEND_FAILED;
    struct buf *head = conn_answer_head(k->c);

    buf_add(head, k->extra.p, k->extra.len); /* the answer may come when this call is forgotten */
    if (k->r.f[F_TO].type < JSON_ARRAY && k->r.f[F_GROUP_ID].type < JSON_ARRAY)
        code = send_api(k->chat, k->c, &k->r);
    if (code != 0) {
        buf_free(head);
        call_code(k, code, CMD_CHAT_RESP);
    }
}

void
api_sent(struct conn *c, int code, const char *json, size_t n)
{
    struct buf head = *conn_answer_head(c);

    *conn_answer_head(c) = (struct buf){0};
    respond(c, status_of(code), JSON_TYPE, (struct str){head.p, head.len}, (struct str){json, n});
    buf_free(&head);
}

static void
route_online(struct call *k)
{
    char text[MAX_ID];
    struct str id;
    const struct user *u;

    if (!request_id(&k->r, F_USER_ID, text, &id)) {
        call_code(k, CODE_INVALID, 0);
        return;
    }
    u = user_find(&k->chat->roster, id);
    call_code(k, u != NULL && u->nconns > 0 ? CODE_ONLINE : CODE_OFFLINE, 0);
}

static void
route_close(struct call *k)
{
    char text[MAX_ID];
    struct str id;
    struct user *u;

    if (!request_id(&k->r, F_USER_ID, text, &id)) {
        call_code(k, CODE_INVALID, 0);
        return;
    }
    u = user_find(&k->chat->roster, id);
    if (u != NULL)
        chat_close_user(k->chat, u, 0, NULL);
    call_code(k, CODE_CLOSED, 0);
}

static void
put_number(struct buf *b, const char *key, uint64_t n)
{
    json_put_key(b, key);
    json_put_int(b, (int64_t)n);
}

static const char *
store_state(const struct store *s)
{
    return !store_keeps(s) ? "off" : store_failed(s) ? "failed" : "on";
}

static void
route_stats(struct call *k)
{
    const struct jim *j = k->c->jim;
    const struct stats *s = &j->stats;
    int64_t sync = j->opt.store_sync;
    struct buf b = {0};

    buf_add(&b, "{", 1);
    put_number(&b, "accepted", s->accepted);
    put_text(&b, "backend", str_of(loop_backend()));
    put_number(&b, "bytesIn", s->bytes_in);
    put_number(&b, "bytesOut", s->bytes_out);
    put_number(&b, "closed", s->closed);
    put_number(&b, "connections", j->conns);
    put_number(&b, "conversations", j->chat.roster.convs.count);
    put_number(&b, "delivered", s->delivered);
    put_number(&b, "encoded", s->encoded);
    put_number(&b, "http", s->proto[PROTO_HTTP]);
    put_number(&b, "lags", s->lags);
    put_number(&b, "messages", s->messages);
    put_number(&b, "online", j->chat.roster.nonline);
    put_number(&b, "overflows", s->overflows);
    put_number(&b, "reads", s->reads);
    put_number(&b, "refused", s->refused);
    put_number(&b, "requests", s->requests);
    put_number(&b, "retries", s->retries);
    put_text(&b, "store", str_of(store_state(j->store)));
    put_text(&b, "sync", sync == STORE_GROUP ? STR("group")
                         : sync == STORE_OFF ? STR("off")
                                             : STR("timed"));
    put_number(&b, "tcp", s->proto[PROTO_TCP]);
    put_number(&b, "uptimeMs", (uint64_t)(k->chat->now_ms() - j->start_ms));
    put_number(&b, "users", j->chat.roster.nusers);
    put_text(&b, "version", STR(JIM_VERSION));
    put_number(&b, "writes", s->writes);
    put_number(&b, "ws", s->proto[PROTO_WS]);
    buf_add(&b, "}", 1);
    answer_json(k, 200, &b);
}

static void
route_health(struct call *k)
{
    struct buf b = {0};
    bool ok = !store_failed(k->chat->store) && !k->c->jim->draining;

    buf_printf(&b, "{\"status\":\"%s\"}", ok ? "ok" : "unavailable");
    answer_json(k, ok ? 200 : 503, &b);
}

static const struct route {
    const char *path;
    bool post_only; /* it changes something */
    bool open;      /* for everybody */
    void (*fn)(struct call *);
} routes[] = {
    {"/api/message/send", true, false, route_send},
    {"/api/user/online", false, false, route_online},
    {"/api/user/close", true, false, route_close},
    {"/api/stats", false, false, route_stats},
    {"/healthz", false, true, route_health},
};

static void
call_route(struct call *k, const struct route *route)
{
    struct str method = k->http->method;
    bool post = str_eq(method, STR("POST"));
    bool get = str_eq(method, STR("GET")) || str_eq(method, STR("HEAD"));
    int status;

    if (str_eq(method, STR("OPTIONS"))) {
        put_cors(k, true);
        buf_printf(&k->extra, "allow: %s\r\n",
                   route->post_only ? "POST, OPTIONS" : "GET, HEAD, POST, OPTIONS");
        respond(k->c, 204, JSON_TYPE, (struct str){k->extra.p, k->extra.len}, STR(""));
        return;
    }
    if (!post && (!get || route->post_only)) {
        answer_status(k->c, 405, route->post_only ? STR("allow: POST, OPTIONS\r\n")
                                                  : STR("allow: GET, HEAD, POST, OPTIONS\r\n"));
        return;
    }
    put_cors(k, false);
    status = route->open ? 0 : access_status(k);
    if (status == 401)
        buf_printf(&k->extra, "www-authenticate: Bearer\r\n");
    if (status != 0) {
        call_code(k, status == 401 ? CODE_NOT_LOGGED_IN : CODE_FORBIDDEN, 0);
        return;
    }
    if (!chat_rate_ok(k->chat, k->c)) {
        call_code(k, CODE_RATE, 0);
        return;
    }
    chat_rate_take(k->chat, k->c);
    if (parse_params(k))
        route->fn(k);
    else if (route->fn == route_send)
        call_code(k, CODE_SEND_FAILED, CMD_CHAT_RESP);
    else
        call_code(k, CODE_INVALID, 0);
}

/* --- files ------------------------------------------------------------------------------------ */

static const char *
mime_type(struct str name)
{
    static const struct {
        const char *end, *type;
    } types[] = {{".html", "text/html; charset=utf-8"}, {".htm", "text/html; charset=utf-8"},
                 {".css", "text/css; charset=utf-8"}, {".js", "text/javascript; charset=utf-8"},
                 {".mjs", "text/javascript; charset=utf-8"}, {".json", "application/json"},
                 {".txt", "text/plain; charset=utf-8"}, {".md", "text/plain; charset=utf-8"},
                 {".csv", "text/csv; charset=utf-8"}, {".xml", "application/xml"},
                 {".svg", "image/svg+xml"}, {".png", "image/png"}, {".jpg", "image/jpeg"},
                 {".jpeg", "image/jpeg"}, {".gif", "image/gif"}, {".webp", "image/webp"},
                 {".ico", "image/x-icon"}, {".pdf", "application/pdf"},
                 {".zip", "application/zip"}, {".mp3", "audio/mpeg"}, {".mp4", "video/mp4"},
                 {".wasm", "application/wasm"}, {".woff2", "font/woff2"},
                 {".webmanifest", "application/manifest+json"}};

    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        size_t n = strlen(types[i].end);
        if (name.n >= n && str_ieq((struct str){name.p + name.n - n, n}, str_of(types[i].end)))
            return types[i].type;
    }
    return "application/octet-stream";
}

/* The page runs no script but its own and loads nothing from elsewhere. */
#define PAGE_POLICY                                                                              \
    "content-security-policy: default-src 'self'; connect-src 'self' ws: wss:; "                 \
    "img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'\r\n"      \
    "referrer-policy: no-referrer\r\ncache-control: no-cache\r\n"

/* Has the client this version already (RFC 9110 section 13.1)? A date is compared as text: what we
 * sent is what comes back, and anything else only costs a transfer. */
static bool
not_modified(const struct http_req *r, const char *etag, struct str modified)
{
    struct str tags = r->header[HTTP_IF_NONE_MATCH];

    for (struct str tag; tags.p != NULL && str_split(&tags, ',', &tag);) {
        tag = str_trim(tag);
        if (tag.n > 2 && memcmp(tag.p, "W/", 2) == 0) /* compared weakly: section 8.8.3.2 */
            tag = (struct str){tag.p + 2, tag.n - 2};
        if (str_eq(tag, STR("*")) || str_eq(tag, str_of(etag)))
            return true;
    }
    if (r->header[HTTP_IF_NONE_MATCH].p != NULL)
        return false; /* which makes If-Modified-Since count for nothing */
    return r->header[HTTP_IF_MODIFIED_SINCE].p != NULL &&
           str_eq(r->header[HTTP_IF_MODIFIED_SINCE], modified);
}

/* Head lines of a file; returns the status, 200 or 304. */
static int
put_validators(struct buf *b, const struct http_req *r, const char *etag, time_t modified)
{
    size_t at;

    buf_printf(b, "etag: %s\r\n", etag);
    at = b->len + strlen("last-modified: ");
    put_date(b, "last-modified", modified);
    return not_modified(r, etag, (struct str){b->p + at, b->len - at - 2}) ? 304 : 200;
}

static bool
serve_builtin(struct conn *c, const struct http_req *r)
{
    static const struct {
        const char *path;
        const unsigned char *data;
        size_t n;
    } files[] = {{"/", page_index_html, sizeof page_index_html},
                 {"/index.html", page_index_html, sizeof page_index_html},
                 {"/jim.js", page_jim_js, sizeof page_jim_js},
                 {"/jim.css", page_jim_css, sizeof page_jim_css}};
    static const uint64_t no_secret[2];
    struct buf extra = {0};
    char etag[24];

    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        if (!str_eq(r->path, str_of(files[i].path)))
            continue;
        struct str data = {(const char *)files[i].data, files[i].n};
        snprintf(etag, sizeof etag, "\"%016llx\"",
                 (unsigned long long)siphash13(no_secret, data.p, data.n));
        buf_printf(&extra, PAGE_POLICY);
        int status = put_validators(&extra, r, etag, (time_t)(c->jim->start_ms / 1000));
        respond(c, status, mime_type(i == 0 ? STR(".html") : str_of(files[i].path)),
                (struct str){extra.p, extra.len}, data);
        buf_free(&extra);
        return true;
    }
    return false;
}

/*
 * Open root/path, one segment after the other, following no symbolic link: whatever stands in the
 * directory or in the path, nothing outside is reached. Returns a descriptor or -1.
 */
static int
open_below(const char *root, struct str path)
{
    int at = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct str segment;
    char name[256];

    while (at >= 0 && str_split(&path, '/', &segment)) {
        if (segment.n == 0 || str_eq(segment, STR(".")))
            continue;
        int next = -1;
        if (segment.n < sizeof name && segment.p[0] != '.') { /* neither ".." nor hidden files */
            memcpy(name, segment.p, segment.n);
            name[segment.n] = '\0';
            next = openat(at, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        }
        close(at);
        at = next;
    }
    return at;
}

static void
send_file(struct conn *c, const struct http_req *r, int fd, const struct stat *st, struct str name)
{
    struct buf extra = {0}, head = {0};
    char etag[40];

    snprintf(etag, sizeof etag, "\"%llx-%llx\"", (unsigned long long)st->st_mtime,
             (unsigned long long)st->st_size);
    int status = put_validators(&extra, r, etag, st->st_mtime);
    put_head(c, &head, status, mime_type(name), (uint64_t)st->st_size,
             (struct str){extra.p, extra.len});
    conn_reply(c, 0, 0, head.p, head.len);
    buf_free(&extra);
    buf_free(&head);
    c->busy = false;
    if (status == 200 && !c->head_only)
        conn_send_file(c, fd, st->st_size);
    else
        close(fd);
    if (!c->keep_alive)
        conn_finish(c, WS_NORMAL);
}

static bool
serve_directory(struct conn *c, const struct http_req *r)
{
    char path[MAX_LINE];
    struct stat st;
    ptrdiff_t n = r->path.n < sizeof path ? url_decode(path, r->path, false) : -1;

    if (n <= 0 || memchr(path, '\0', (size_t)n) != NULL)
        return false;
    struct str name = {path, (size_t)n};
    int fd = open_below(c->jim->opt.http_page, name);
    if (fd >= 0 && fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
        if (path[n - 1] != '/') {
            struct buf to = {0};
            buf_printf(&to, "location: %.*s/\r\n", (int)r->path.n, r->path.p);
            close(fd);
            answer_status(c, 301, (struct str){to.p, to.len});
            buf_free(&to);
            return true;
        }
        int index = openat(fd, "index.html", O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        close(fd);
        fd = index;
        name = STR("index.html");
    }
    if (fd < 0)
        return false;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return false;
    }
    send_file(c, r, fd, &st, name);
    return true;
}

int
api_check(const struct options *o, char *err, size_t errsize)
{
    struct stat st;

    if (o->http_page[0] == '\0' || (stat(o->http_page, &st) == 0 && S_ISDIR(st.st_mode)))
        return 0;
    snprintf(err, errsize, "jim.http.page: %s is no directory", o->http_page);
    return -1;
}

static void
serve_file(struct conn *c, const struct http_req *r)
{
    bool found;

    if (!str_eq(r->method, STR("GET")) && !str_eq(r->method, STR("HEAD"))) {
        answer_status(c, 405, STR("allow: GET, HEAD\r\n"));
        return;
    }
    found = c->jim->opt.http_page[0] == '\0' ? serve_builtin(c, r) : serve_directory(c, r);
    if (!found)
        answer_status(c, 404, STR(""));
}

/* --- requests --------------------------------------------------------------------------------- */

void
api_refuse(struct conn *c, int status)
{
    c->keep_alive = false;
    answer_status(c, status, status == 426 ? STR("upgrade: websocket\r\n"
                                                 "sec-websocket-version: 13\r\n")
                                           : STR(""));
}

void
api_request(struct conn *c, const struct http_req *r, struct str body)
{
    struct call k = {.c = c, .chat = &c->jim->chat, .http = r, .body = body};
    const struct route *route = NULL;

    if (!(c->protos & PROTO_BIT(PROTO_HTTP))) {
        api_refuse(c, 426); /* this port speaks WebSocket only */
        return;
    }
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++)
        if (str_eq(r->path, str_of(routes[i].path)))
            route = &routes[i];
    if (route != NULL)
        call_route(&k, route);
    else if (r->path.n >= 5 && memcmp(r->path.p, "/api/", 5) == 0)
        answer_status(c, 404, STR(""));
    else
        serve_file(c, r);
    buf_free(&k.params);
    buf_free(&k.extra);
}
