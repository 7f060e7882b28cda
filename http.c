/* SPDX-License-Identifier: MIT */
/*
 * http.c - HTTP beside the API: how a response looks, which origins count as our own, the static
 * files of the page, and where a request goes. Gets whole requests from input.c and answers through
 * conn_reply().
 *
 *   responses   status line, head, body
 *   origins     who may open a WebSocket, and whose pages are this server's
 *   files       built-in page or a directory; no path leaves it
 *   requests    what comes from and goes to input.c
 */
#include "jim.h"

#include <fcntl.h>
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
    c->jim->stats.http_status[status / 100 % 6]++;
    if (c->jim->hooks != NULL)
        extend_http_done(c, status, length);
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

void
http_respond(struct conn *c, int status, const char *type, struct str extra, struct str body)
{
    struct buf b = {0};

    put_head(c, &b, status, type, body.n, extra);
    if (!c->head_only && status != 204 && status != 304)
        buf_str(&b, body);
    conn_reply(c, 0, 0, b.p, b.len);
    buf_free(&b);
    respond_end(c);
}

void
http_error(struct conn *c, int status, struct str extra)
{
    struct buf b = {0};

    buf_printf(&b, "{\"code\":%d,\"msg\":\"%s\"}", status, status_text(status));
    http_respond(c, status, JSON_TYPE, extra, (struct str){b.p, b.len});
    buf_free(&b);
}

/* --- origins ---------------------------------------------------------------------------------- */

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

bool
http_host_is_loopback(struct str host)
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

bool
http_origin_is_own(const struct http_req *r)
{
    struct str origin = r->header[HTTP_ORIGIN];

    return origin.p == NULL || (r->header[HTTP_HOST].n > 0 &&
                                str_ieq(origin_host(origin), r->header[HTTP_HOST]));
}

bool
http_origin_listed(const char *list, struct str origin)
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
http_upgrade_status(const struct conn *c, const struct http_req *r)
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
        return origin.p == NULL || http_origin_listed(o->ws_origins, origin) ? 0 : 403;
    return http_origin_is_own(r) || http_host_is_loopback(origin_host(origin)) ? 0 : 403;
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
        http_respond(c, status, mime_type(i == 0 ? STR(".html") : str_of(files[i].path)),
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
            struct str own = r->path;
            for (; own.n > 1 && own.p[1] == '/'; own.n--)
                own.p++; /* what begins with two names another host (RFC 3986 section 4.2) */
            buf_printf(&to, "location: %.*s/\r\n", (int)own.n, own.p);
            close(fd);
            http_error(c, 301, (struct str){to.p, to.len});
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
    if (c->jim->conns + c->jim->files >= c->jim->conns_max) { /* the store needs some, too */
        close(fd);
        http_error(c, 503, STR("retry-after: 1\r\n"));
        return true;
    }
    send_file(c, r, fd, &st, name);
    return true;
}

int
http_check(const struct options *o, char *err, size_t errsize)
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
        http_error(c, 405, STR("allow: GET, HEAD\r\n"));
        return;
    }
    found = c->jim->opt.http_page[0] == '\0' ? serve_builtin(c, r) : serve_directory(c, r);
    if (!found)
        http_error(c, 404, STR(""));
}

/* --- requests --------------------------------------------------------------------------------- */

void
http_refuse(struct conn *c, int status)
{
    c->jim->stats.drops[DROP_PROTOCOL]++;
    c->keep_alive = false;
    http_error(c, status, status == 426 ? STR("upgrade: websocket\r\n"
                                              "sec-websocket-version: 13\r\n")
                                        : STR(""));
}

void
http_request(struct conn *c, const struct http_req *r, struct str body)
{
    bool hooks = c->jim->hooks != NULL;

    if (!(c->protos & PROTO_BIT(PROTO_HTTP)))
        http_refuse(c, 426); /* this port speaks WebSocket only */
    else if (hooks && extend_http(c, r, body))
        return;
    else if (api_call(c, r, body) || (hooks && extend_route(c, r, body)))
        return;
    else if (r->path.n >= 5 && memcmp(r->path.p, "/api/", 5) == 0)
        http_error(c, 404, STR(""));
    else
        serve_file(c, r);
}
